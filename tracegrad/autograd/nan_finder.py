"""``find_nan``: which operation was the first to make NaN or infinity out of finite numbers, forward and backward.

    with tg.autograd.find_nan() as found:
        loss = model(x)
        loss.backward()
    print(found)

While it is on, every operation is looked at, those of derivative rules included; compiled functions run plainly.
The data structure is :class:`Finding`; start with :meth:`find_nan.look`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.ir.location import SourceLocation, current_location
from tracegrad.ir.op import Op
from tracegrad.node import Node
from tracegrad.tensor import Tensor


class Finding(NamedTuple):
    """An operation whose result is not finite where its operands still were.

    Attributes:
        op: the name of the op, or of the record whose derivative is the user's own.
        result: what it gave, in words.
        operands: what it was given, in words.
        node: the record of the operation, if there is one; in the backward pass that whose derivative it is part of.
        location: the user's line: that of the operation, or of the one whose derivative it is part of.
        adjoint: whether it is part of a backward pass.
    """

    op: str
    result: str
    operands: tuple[str, ...]
    node: Node | None
    location: SourceLocation | None
    adjoint: bool

    def __str__(self) -> str:
        name = "" if self.node is None else self.node.name()
        what = f"`{self.op}` in the derivative of {name}" if self.adjoint else f"`{self.op}`"
        lines = [f"{what} gave {self.result}"]
        lines += [f"  operand {k}: {text}" for k, text in enumerate(self.operands)]
        if self.location is not None:
            lines.append(f"  {self.location.describe()}")
        return "\n".join(lines)


class find_nan:  # noqa: N801 (beside torch's detect_anomaly)
    """A context in which the first bad operations are noted. Thread-local; slow, for debugging.

    Attributes:
        forward, backward: the first operation of each pass that gave NaN and was given none; None if there was none.
        forward_infinite, backward_infinite: the first that gave an infinity and was given finite numbers only. Often
            it is where the NaN that comes later begins (``1 / 0``, then ``0 * inf``).
    """

    def __init__(self) -> None:
        self.forward: Finding | None = None
        self.backward: Finding | None = None
        self.forward_infinite: Finding | None = None
        self.backward_infinite: Finding | None = None
        self._outer: Any = None

    def __enter__(self) -> find_nan:
        if state.trace is not None:
            state.trace.give_up("find_nan looks at every operation")
        self._outer, state.finder = state.finder, self
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        state.finder = self._outer

    def look(self, op: Op, operands: Sequence[Any], out: Tensor) -> None:
        """An op was applied to Tensors and numbers."""
        values = [x._data if isinstance(x, Tensor) else x for x in operands]
        node = state.evaluated or out._grad_fn
        self._note(op.name, values, out._data, node)

    def look_at_rule(self, node: Node, cotangents: Sequence[Any], pulled: Sequence[Any]) -> None:
        """The derivative of a record was computed, by ops that were looked at or by code of the user's own."""
        given = [getattr(ct, "_data", ct) for ct in cotangents if ct is not None]
        for ct in pulled:
            if ct is not None:
                self._note(node.name(), given, getattr(ct, "_data", ct), node)

    def _note(
        self, name: str, values: Sequence[Any], result: np.ndarray, node: Node | None
    ) -> None:
        if result.dtype.kind != "f" or np.isfinite(result).all():
            return
        adjoint = state.evaluated is not None
        kinds = []
        if np.isnan(result).any() and not any(_has(np.isnan, v) for v in values):
            kinds.append("backward" if adjoint else "forward")
        if np.isinf(result).any() and all(_has(np.isfinite, v, every=True) for v in values):
            kinds.append("backward_infinite" if adjoint else "forward_infinite")
        for kind in kinds:
            if getattr(self, kind) is None:
                location = node.location if adjoint and node is not None else current_location()
                words = tuple(_in_words(v) for v in values)
                found = Finding(name, _in_words(result), words, node, location, adjoint)
                setattr(self, kind, found)

    @property
    def nan(self) -> bool:
        """Whether a NaN was found."""
        return self.forward is not None or self.backward is not None

    def __str__(self) -> str:
        parts = []
        for kind, words in (
            ("forward_infinite", "first infinity"),
            ("forward", "first NaN"),
            ("backward_infinite", "first infinity in the backward pass"),
            ("backward", "first NaN in the backward pass"),
        ):
            found = getattr(self, kind)
            if found is not None:
                parts.append(f"{words}: {found}")
        return "\n".join(parts) or "no NaN and no infinity"


def _has(test: Any, value: Any, *, every: bool = False) -> bool:
    """Whether a test holds for some element (or every one); integers are finite."""
    array = np.asarray(value)
    if array.dtype.kind != "f":
        return every
    return bool(test(array).all() if every else test(array).any())


def _in_words(value: Any) -> str:
    """A number as it is; of an array type, range, and how many elements are not finite."""
    array = np.asarray(value)
    if array.ndim == 0:
        return (
            f"{value!r}" if isinstance(value, (int, float)) else f"{array.dtype}[] {array.item()!r}"
        )
    shape = ",".join(map(str, array.shape))
    text = f"{array.dtype}[{shape}]"
    if array.dtype.kind != "f":
        return text
    finite = array[np.isfinite(array)]
    if finite.size:
        text += f" from {finite.min():.6g} to {finite.max():.6g}"
    for name, count in (("NaN", np.isnan(array).sum()), ("infinite", np.isinf(array).sum())):
        if count:
            text += f", {count} of {array.size} {name}"
    return text
