"""Transform levels: what ``vmap``, ``func.grad`` and forward mode make of each operation.

A function transform enters a :class:`Level`; levels nest, and ``state.levels`` lists those of this thread, outermost
first. While there is one, ``dispatch.apply`` leaves operations to :func:`apply_at_levels`:

- A *lifting* level (:class:`GradLevel`, :class:`BatchLevel`) gives the function Tensors that hold Lifted values. An
  operation on them is an operation on the tensors below, at the levels below, as a batching rule has it where a
  value is a stack; and it leaves a record at its own level, if gradients are asked for there. So each level has a
  tape of its own, and the derivative of a derivative does not mistake one variable for another.
- A :class:`DualLevel` lets tensors carry a tangent, and adds to each operation its ``push`` (forward mode).

Everything ends in plain operations on plain tensors, which ordinary autograd records, a trace follows and the
compiler compiles. The idea of one interpreter per level is functorch's (He, Zou: functorch, 2021).
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from tracegrad.dispatch import apply_plain, check_types, record
from tracegrad.grad_mode import state
from tracegrad.inplace import check_in_place, store
from tracegrad.ir.op import Op, registered
from tracegrad.lifted import Lifted
from tracegrad.node import UNTRACKED, OpNode, VersionCounter, keep_traceback
from tracegrad.tensor import (
    Tensor,
    is_lifted,
    mark_made,
    new_tensor,
    plainest,
    version_of,
)
from tracegrad.views import apply_view

_HISTORY = "_grad_fn _requires_grad _output_nr _base _view _view_version _counter _tangents".split()
"""What a tensor knows of where it came from."""

_TOO_LARGE = (
    "vmap: inplace arithmetic(self, *extra_args) is not possible because there exists a Tensor `other` in extra_args "
    "that has more elements than `self`. This happened due to `other` being vmapped over but `self` not being vmapped "
    "over in a vmap. Please try to use out-of-place operators instead of inplace arithmetic."
)

_numbers = itertools.count(1)
_copy = registered("copy")


class Level:
    """One transform that is going on. A context manager; may be entered again after it was left.

    Attributes:
        number: levels entered later have larger ones.
        grad: the grad mode outside.
        inference: whether inference mode was on when it was entered.
        entered: whether it is going on.
    """

    variables: Sequence[Tensor] = ()
    """The arguments of the function that is transformed, where they are not told by what they hold."""
    by_user = False
    """Whether ``autograd.forward_ad.enter_dual_level`` began it, rather than a transform of a function."""

    def __init__(self) -> None:
        self.number = 0
        self.grad = True
        self.inference = False
        self.entered = False

    def __enter__(self) -> Any:
        self.number = next(_numbers)
        self.grad = state.grad
        self.inference = state.inference is not None
        self.entered = True
        state.levels = (*state.levels, self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.entered = False
        state.levels = tuple(level for level in state.levels if level is not self)

    def meet(self, x: Tensor, value: Tensor) -> Tensor:
        """`value`, which `x` is about to be overwritten with, as a tensor of the level of `x`.

        Where `value` comes from further inside, `x` is adopted there: it came from outside of the transform, or was
        made inside without knowing of it.

        Raises:
            RuntimeError: `value` is a stack, and `x` has room for one example only.
        """
        own: Any = x._data.level if is_lifted(x) else None  # type: ignore[attr-defined]
        other: Any = value._data.level if is_lifted(value) else None  # type: ignore[attr-defined]
        if other is None or other is own or (own is not None and own.number > other.number):
            return value if own is None else own.lift(value)
        if value._data.batched:  # type: ignore[attr-defined]
            raise RuntimeError(_TOO_LARGE)
        other.adopt(x)
        return value

    def owns(self, x: Tensor) -> bool:
        """Whether `x`, or what it is a view of, was made inside of this level, and not captured from outside."""
        while True:
            if is_lifted(x) and x._data.level.number >= self.number:  # type: ignore[attr-defined]
                return True
            if x._base is None or any(x is other for other in self.variables):
                return x._made_at >= self.number
            x = x._view[0]

    def draws_anew(self) -> bool:
        """Whether random numbers differ between the examples of a stack at this level."""
        return False

    def refuse_captured(self, x: Tensor, method: str) -> None:
        """`refuse_captured`, for in-place operations, which know nothing of levels."""
        refuse_captured(x, method)

    def apply(self, op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Tensor:
        """`apply_at_levels`, for dispatch, which knows nothing of levels."""
        return apply_at_levels(op, operands, attrs)


class LiftingLevel(Level):
    """A level with a tape of its own, whose tensors hold Lifted values."""

    size = 1
    """The number of examples in a stack."""
    quiet = False
    """Whether nothing is recorded at this level: its own tape is being swept."""

    def __init__(self) -> None:
        super().__init__()
        self.adopted: list[Tensor] = []

    def __exit__(self, *exc_info: Any) -> None:
        super().__exit__(*exc_info)
        for x in self.adopted:
            inner, _ = self.lower(x)
            x._data = inner._data
            for name in _HISTORY:
                setattr(x, name, getattr(inner, name, None))
        self.adopted.clear()

    def lift(self, x: Tensor) -> Tensor:
        """`x` as a constant of this level; itself if it belongs to this level."""
        data: Any = x._data
        if data.__class__ is Lifted and data.level is self:
            return x
        out = self.wrap(x, batched=False)
        if x._counter is not UNTRACKED:
            out._counter = x._counter
        return out

    def wrap(self, physical: Tensor, *, batched: bool) -> Tensor:
        """The tensor of this level that stands for `physical`."""
        data: Any = Lifted(physical, batched, self)
        return new_tensor(data)

    def apply_view(self, op: Op, x: Tensor, attrs: dict[str, Any]) -> tuple[Tensor, bool]:
        """Apply an op to a tensor of this level so that the result shares memory, and whether it does."""

        def view(physical: Tensor, **attrs: Any) -> Tensor:
            return apply_view(op, physical, attrs)

        out = apply_at_levels(op, (x,), attrs, through=view)
        data: Any = out._data
        return out, data.physical._base is not None

    def store(self, x: Tensor, value: Tensor) -> None:
        """Overwrite the memory that a tensor of this level stands for."""
        target, target_batched = self.lower(x)
        new, new_batched = self.lower(value)
        if new_batched and not target_batched:
            raise RuntimeError(_TOO_LARGE)
        with Below(self):
            if target_batched and not new_batched:
                new = new.expand(target._data.shape)
            check_in_place(target)
            store(target, new)

    def adopt(self, x: Tensor) -> None:
        """Have a tensor of a level outside, which is about to be overwritten, belong to this level while it goes on."""
        if x._base is not None:
            self.adopt(x._base)
            self.adopt(x._view[0])
        if is_lifted(x) and x._data.level is self:  # type: ignore[attr-defined]
            return
        inner = new_tensor(x._data)
        for name in _HISTORY:
            setattr(inner, name, getattr(x, name, None))
        if state.trace is not None and not is_lifted(x):
            state.trace.alias(inner, x)
        data: Any = Lifted(inner, False, self)
        x._data = data
        x._grad_fn, x._requires_grad, x._output_nr, x._tangents = None, False, 0, None
        if x._base is None:
            # Counts on from here: a record made inside may look at it when what came from outside is back.
            x._counter = counter = VersionCounter()
            counter.value = version_of(inner)
        else:
            x._counter = x._base._version_counter()
        x._view_version = x._version
        self.adopted.append(x)

    def kept(self, x: Tensor) -> Tensor:
        """`x` as it is at this level, for after the level was left: one that was adopted is given back then."""
        if not any(x is other for other in self.adopted):
            return x
        out = new_tensor(x._data)
        for name in _HISTORY:
            setattr(out, name, getattr(x, name, None))
        return out

    def copied(self, physical: Tensor) -> Tensor:
        """A copy of a tensor of the level below."""
        with Below(self):
            return _copy(physical)

    def lower(self, x: Tensor) -> tuple[Tensor, bool]:
        """The tensor of the level below that `x` stands for, and whether it is a stack."""
        data: Any = x._data
        if data.__class__ is Lifted and data.level is self:
            return data.physical, data.batched
        return x, False


class GradLevel(LiftingLevel):
    """Reverse mode: ``func.grad``, ``vjp``, ``jacrev``. Inference mode is off inside, as in torch."""

    def __enter__(self) -> Any:
        super().__enter__()
        self._inference, state.inference = state.inference, None
        return self

    def __exit__(self, *exc_info: Any) -> None:
        state.inference = self._inference
        super().__exit__(*exc_info)


class BatchLevel(LiftingLevel):
    """``vmap``.

    Args:
        size: the number of examples.
        randomness: ``"error"``, ``"same"`` or ``"different"``: what random numbers are to the examples.
    """

    def __init__(self, size: int, randomness: str = "error") -> None:
        super().__init__()
        self.size = size
        self.randomness = randomness

    def draws_anew(self) -> bool:
        if self.randomness == "error":
            raise RuntimeError(
                "vmap: called random operation while in randomness error mode. Please either use the 'same' or "
                "'different' randomness flags on vmap or perform the randomness operation out of vmap"
            )
        return self.randomness == "different"

    def repeated(self, x: Tensor) -> Tensor:
        """A stack of copies of a tensor of the level below, one for each example."""
        with Below(self):
            stack = _copy(x.expand(self.size, *x._data.shape))
        return self.wrap(stack, batched=True)

    def stacked(self, x: Tensor) -> Tensor:
        """The stack that `x` stands for, with the axis of the examples in front; repeated if all are the same."""
        physical, batched = self.lower(x)
        return physical if batched else physical.expand(self.size, *physical.shape)


class Tangent:
    """A tangent, for as long as its level goes on: records keep tensors that carried one for longer."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Tensor) -> None:
        self.value: Tensor | None = value


class DualLevel(Level):
    """Forward mode: ``func.jvp``, ``autograd.forward_ad``.

    Args:
        by_user: ``autograd.forward_ad.enter_dual_level`` began it.
    """

    def __init__(self, *, by_user: bool = False) -> None:
        super().__init__()
        self.by_user = by_user
        self.variables: list[Tensor] = []
        self._given: weakref.WeakSet[Tangent] = weakref.WeakSet()

    def __exit__(self, *exc_info: Any) -> None:
        super().__exit__(*exc_info)
        for tangent in self._given:
            tangent.value = None
        self._given.clear()
        self.variables.clear()

    def tangent(self, value: Tensor) -> Tangent:
        """What a tensor carries, to be put into its ``_tangents``."""
        made = Tangent(value)
        self._given.add(made)
        return made

    def attach(self, primal: Tensor, tangent: Tensor) -> Tensor:
        """A view of `primal` that carries a tangent."""
        if not primal.is_floating_point():
            raise ValueError(
                f"Expected primal to be floating point or complex, but got: {primal.dtype}"
            )
        check_tangent(primal, tangent)
        dual = primal.view_as(primal)
        dual._tangents = {**(primal._tangents or {}), self: self.tangent(tangent)}
        self.variables.append(dual)
        return dual

    def tangent_of(self, x: Tensor) -> Tensor | None:
        """The tangent that `x` carries at this level."""
        x._renew()
        carried = None if x._tangents is None else x._tangents.get(self)
        return None if carried is None else carried.value

    def without_tangent(self, x: Tensor) -> Tensor:
        """`x` as it is outside of this level; itself if it carries no tangent."""
        if self.tangent_of(x) is None:
            return x
        out = new_tensor(x._data)
        out._grad_fn, out._output_nr = x._grad_fn, x._output_nr
        out._requires_grad, out._counter = x._requires_grad, x._counter
        if x._base is not None:
            out._base, out._view, out._view_version = x._base, x._view, x._view_version
        if state.trace is not None and not is_lifted(x):
            state.trace.alias(out, x)
        rest = {level: t for level, t in (x._tangents or {}).items() if level is not self}
        out._tangents = rest or None
        return out

    def push(self, op: Op, operands: Sequence[Any], attrs: dict[str, Any], out: Tensor) -> None:
        """Give the result of an operation its tangent; in inference mode inside of the level it gets none."""
        if state.inference is not None and not self.inference:
            return
        tangents = [self.tangent_of(x) if isinstance(x, Tensor) else None for x in operands]
        if out._data.dtype.kind != "f" or all(t is None for t in tangents):
            return
        # Tangents are values of the levels outside: an inner level's perturbation is not seen there.
        previous = state.levels
        state.levels = _outside(self)
        try:
            tangent = op.push(tangents, out, operands, attrs)
        finally:
            state.levels = previous
        if tangent is not None:
            if out._tangents is None:
                out._tangents = {}
            out._tangents[self] = self.tangent(tangent)
            node = out._grad_fn
            if isinstance(node, OpNode) and node.saved_out is not None:
                node.out_tangents = out._tangents


def check_tangent(primal: Tensor, tangent: Tensor) -> None:
    """Raise torch's error for a tangent of another shape or dtype."""
    if tangent.shape != primal.shape:
        raise RuntimeError(
            f"Trying to set a forward gradient that has a different size than that of the original Tensor, this is "
            f"not supported. Tensor is of size {list(primal.shape)} while the given forward gradient is of size "
            f"{list(tangent.shape)}."
        )
    if not tangent.is_floating_point():
        raise ValueError(
            f"Expected tangent to be floating point or complex, but got: {tangent.dtype}"
        )


def _outside(level: Level) -> tuple[Any, ...]:
    """The levels that `level` was entered in."""
    return tuple(other for other in state.levels if other.number < level.number)


def apply_at_levels(
    op: Op,
    operands: Sequence[Any],
    attrs: dict[str, Any],
    through: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Apply an op while there are levels: at the innermost one that an operand belongs to, then push tangents.

    Args:
        through: what does it on the level below, if not the op itself.
    """
    innermost: LiftingLevel | None = None
    for x in operands:
        if isinstance(x, Tensor):
            if x._base is not None:
                _follow_base(x)
            data: Any = x._data
            if data.__class__ is Lifted and (
                innermost is None or data.level.number > innermost.number
            ):
                innermost = data.level
    if innermost is None:
        number = 0
        out = apply_plain(op, operands, attrs)
    else:
        number = innermost.number
        out = _apply_lifted(innermost, op, operands, attrs, through or op)
    for level in state.levels:
        if level.number > number and level.__class__ is DualLevel:
            level.push(op, operands, attrs, out)
    return mark_made(out)


def refuse_captured(x: Tensor, method: str) -> None:
    """Raise torch's error for an in-place change, inside of a transform, of a tensor from outside of it.

    ``vmap`` allows it, but for transforms around it.

    Args:
        method: torch's name of the operation, with its overload.
    """
    for level in reversed(state.levels):
        if isinstance(level, BatchLevel):
            x, _ = level.lower(x)
        elif not level.by_user:
            if level.owns(x):
                return
            raise RuntimeError(
                "During a grad (vjp, jvp, grad, etc) transform, the function provided attempted to call in-place "
                f"operation (aten::{method}) that would mutate a captured Tensor. This is not supported; please "
                "rewrite the function being transformed to explicitly accept the mutated Tensor(s) as inputs."
            )


def _follow_base(view: Tensor) -> None:
    """Bring a view up to date: its history, and the level to which its base was adopted."""
    base: Any = view._base
    if is_lifted(base) and base._data.level.entered:
        base._data.level.adopt(view)
    view._renew()


def _apply_lifted(
    level: LiftingLevel,
    op: Op,
    operands: Sequence[Any],
    attrs: dict[str, Any],
    through: Callable[..., Tensor],
) -> Tensor:
    """Apply an op to tensors of a level: to what they stand for, at the levels outside; and record it here."""
    check_entered(level)
    lifted = [level.lift(x) if isinstance(x, Tensor) else x for x in operands]
    physical, batched = [], []
    needs_grad = False
    for x in lifted:
        if isinstance(x, Tensor):
            data: Any = x._data
            physical.append(data.physical)
            batched.append(data.batched)
            needs_grad = needs_grad or x._requires_grad
        else:
            physical.append(x)
            batched.append(False)
    any_batched = True in batched
    with Below(level):
        try:
            value = (
                op.batch(level.size, physical, batched, attrs, through)
                if any_batched
                else through(*physical, **attrs)
            )
        except Exception:
            check_types(op, lifted, attrs)  # Says it of one example.
            raise
    out = level.wrap(value, batched=any_batched)
    if needs_grad and state.grad and not level.quiet and value._data.dtype.kind == "f":
        record(op, lifted, attrs, out)
        if state.anomaly and out._grad_fn is not None:
            keep_traceback(out._grad_fn)
        trace = state.trace
        if trace is not None and isinstance(out._grad_fn, OpNode):
            trace.follow(out._grad_fn, plainest(value))
    return out


def check_entered(level: Level) -> None:
    """Raise an error for a tensor that outlived the transform that it was made in."""
    if not level.entered:
        raise RuntimeError(
            "a tensor that was made inside a transform (vmap, grad, ...) is used after it; return it from the "
            "function that is transformed instead of storing it somewhere else"
        )


class Below:
    """Inside this context only the levels outside of `level` are going on, and record only if they did before."""

    __slots__ = ("_grad", "_levels", "level")

    def __init__(self, level: Level) -> None:
        self.level = level

    def __enter__(self) -> None:
        self._levels, self._grad = state.levels, state.grad
        state.levels = _outside(self.level)
        state.grad = state.grad and self.level.grad

    def __exit__(self, *exc_info: object) -> None:
        state.levels, state.grad = self._levels, self._grad
