"""In-place operations: what they refuse, and how they rewrite histories.

Every one of them ends in :func:`store` (or, where a part was written already, in :func:`set_history`): the
tensor's storage gets new values, its version goes up, and the history of the tensor, or of the base that it is
a view of, becomes that of the new values. Start with :func:`apply_in_place`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.dispatch import NO_ATTRS, apply, edge_of, record, shown_as
from tracegrad.grad_mode import by_value, state
from tracegrad.ir import events
from tracegrad.ir.location import SourceLocation, current_location
from tracegrad.ir.memory import address, restrided
from tracegrad.ir.numpy_errors import restore, silence
from tracegrad.ir.op import Op, registered
from tracegrad.ir.ops.arithmetic import zeros
from tracegrad.ir.ops.selection import cast
from tracegrad.ir.types import DType, from_numpy_dtype
from tracegrad.node import (
    INFERENCE_IN_PLACE,
    UNTRACKED,
    Edge,
    OpNode,
    VersionCounter,
    keep_traceback,
    move_retained,
    present,
)
from tracegrad.reporting import report_in_place
from tracegrad.tensor import Tensor, is_lifted, new_tensor
from tracegrad.views import check_rebase, put_back, renew_for_writing, without_hooks

_slice_update = registered("slice_update")


def apply_in_place(
    op: Op, x: Tensor, operands: Sequence[Any], attrs: dict[str, Any] = NO_ATTRS
) -> Tensor:
    """Apply an op and store its result in `x`, with torch's rules for leaves, views and history.

    Raises:
        RuntimeError: `x` is a leaf that requires grad, or a view of one; or the result does not fit.
    """
    check_in_place(x, operands)
    begin = events.now() if events.active else 0
    nothing_to_record = not by_value() and not (state.grad and _any_requires_grad(operands))
    if nothing_to_record and op.eval.__class__ is np.ufunc:
        # Let the ufunc write into x, if the result is of its shape and dtype.
        token = silence()
        try:
            op.eval(*[getattr(y, "_data", y) for y in operands], out=x._data, casting="no")
        except (TypeError, ValueError):
            pass
        else:
            bump_version(x)
            if begin:
                report_in_place(op, operands, begin)
            return x
        finally:
            restore(token)
    store(x, apply(op, former(x, operands), attrs))
    if begin:
        report_in_place(op, operands, begin)
    return x


def former(x: Tensor, operands: Sequence[Any]) -> Sequence[Any]:
    """The operands of an in-place operation, with `x` replaced by a copy where the operation is recorded.

    The record keeps the value that `x` had; `x` itself is about to be overwritten.
    """
    if not is_lifted(x) and not (state.grad and _any_requires_grad(operands)):
        return operands
    renew_for_writing(x)
    source = before_writing(x)
    old = new_tensor(x._data.copy())
    old._grad_fn = source._grad_fn
    old._output_nr = source._output_nr
    old._requires_grad = source._requires_grad
    old._tangents = x._tangents
    if state.trace is not None and not is_lifted(x):
        state.trace.alias(old, x)
    return [old if y is x else y for y in operands]


def before_writing(x: Tensor) -> Tensor:
    """A tensor with the history of `x` that an in-place operation on `x` goes on from; see `without_hooks`."""
    source = without_hooks(x)
    if source is not x and x._grad_fn is not None:
        x._grad_fn.hooks_made().stand_in = source._grad_fn
    return source


def _any_requires_grad(operands: Sequence[Any]) -> bool:
    return any(isinstance(x, Tensor) and x.requires_grad for x in operands)


_REPEATED = (
    "unsupported operation: more than one element of the written-to tensor refers to a single "
    "memory location. Please clone() the tensor before performing the operation."
)


def check_in_place(
    x: Tensor, operands: Sequence[Any] = (), *, part: bool = False, fill: bool = False
) -> None:
    """Raise torch's error if `x` may not be changed in place.

    Args:
        operands: what the new values are computed from.
        part: only a part of x is to be changed, as if through a view.
        fill: every element gets the same value, so that x may show one element several times.
    """
    if state.grad and x.requires_grad:
        check_rebase(x)
        x._renew()
        base = x._base
        if x._grad_fn is None or (base is not None and base._grad_fn is None):
            which = "a view of a leaf" if part or base is not None else "a leaf"
            raise RuntimeError(
                f"{which} Variable that requires grad is being used in an in-place operation.\n"
                "Update it inside `with tracegrad.no_grad():`, or work on a copy: `y = x.clone()`."
            )
    if is_lifted(x):
        return
    data = x._data
    if fill and state.grad and x.requires_grad:
        fill = False  # torch changes the view apart from its base then.
    if not fill and 0 in data.strides and data.size and _repeats(data):
        raise RuntimeError(_REPEATED)
    if not data.flags.writeable:
        make_writeable(x)
    if state.watched and state.keeper is not None:
        state.keeper.before_change(x)
    counter = x._counter
    if counter is not None:
        if counter is UNTRACKED:
            _check_inference()
        for y in operands:
            if isinstance(y, Tensor) and y is not x and y._counter is counter:
                _check_overlap(data, y._data)


def check_captured(x: Tensor, method: str, operands: Sequence[Any] = ()) -> None:
    """Raise torch's error if a function that is being transformed changes a tensor that it captured.

    Args:
        method: its name; `operands` tell which of torch's overloads it is.
    """
    if method in _ARITHMETIC or (method in _BY_OPERAND and isinstance(operands[-1], Tensor)):
        method += ".Tensor"
    elif method in _BY_OPERAND:
        method += ".Scalar"
    state.levels[-1].refuse_captured(x, method)


_ARITHMETIC = {"add_", "sub_", "mul_", "div_"}
_BY_OPERAND = {
    f"{name}_" for name in "pow fill lerp masked_fill remainder fmod eq ne lt le gt ge".split()
}


def _check_inference() -> None:
    """An inference tensor may be changed in inference mode only, and a trace cannot follow who shares its memory."""
    if state.inference is None:
        raise RuntimeError(INFERENCE_IN_PLACE)
    if state.trace is not None:
        state.trace.give_up("an inference tensor is changed in place")


def make_writeable(x: Tensor) -> None:
    """NumPy's expanded arrays are read-only; the memory that they show need not be.

    Raises:
        RuntimeError: it is: it came from a read-only NumPy array.
    """
    data = x._data
    x._data = restrided(data, data.shape, data.strides)
    if not x._data.flags.writeable:
        raise RuntimeError(
            "the memory of this tensor is read-only: it was made from a read-only array.\n"
            "Work on a copy: `y = x.clone()`."
        )


def _repeats(data: np.ndarray) -> bool:
    """Whether elements are repeated along an axis of stride 0."""
    return any(n > 1 and stride == 0 for n, stride in zip(data.shape, data.strides, strict=True))


def check_part(part: np.ndarray, x: Tensor, source: Tensor) -> None:
    """Raise torch's error if a part of `x` may not be overwritten with `source`."""
    if 0 in part.strides and part.size and _repeats(part):
        raise RuntimeError(_REPEATED)
    if source._counter is not None and source._counter is x._counter:
        _check_overlap(part, source._data)


def check_apart(x: Tensor, operands: Sequence[Tensor]) -> None:
    """Raise torch's error if `x` shows memory of an operand, be it the same."""
    for y in operands:
        if not is_lifted(x) and not is_lifted(y):
            _check_overlap(x._data, y._data, whole=False)


def _check_overlap(written: np.ndarray, read: np.ndarray, *, whole: bool = True) -> None:
    """Raise torch's error if one of the arrays shows part of the other: which values are read is not clear then.

    Like torch, only looks at arrays without gaps.

    Args:
        whole: both may be the same, element by element.
    """
    if not (_dense(written) and _dense(read)) or not np.may_share_memory(written, read):
        return
    same_place = address(written) == address(read) and written.size == read.size
    if whole and same_place and written.strides == read.strides:
        return
    raise RuntimeError(
        "unsupported operation: some elements of the input tensor and the written-to tensor refer to a single "
        "memory location. Please clone() the tensor before performing the operation."
    )


def _dense(data: np.ndarray) -> bool:
    expected = data.itemsize
    for stride, n in sorted(zip(data.strides, data.shape, strict=True)):
        if n != 1:
            if stride != expected:
                return False
            expected *= n
    return True


def store(x: Tensor, value: Tensor) -> Tensor:
    """Overwrite `x` with `value`, which becomes its history: the end of every in-place operation."""
    if state.levels:
        value = state.levels[-1].meet(x, value)
    target, data = x._data, value._data
    if data.shape != target.shape or data.dtype != target.dtype:
        check_stored(x, data.shape, from_numpy_dtype(data.dtype))
        value = apply(cast, (value,), {"dtype": from_numpy_dtype(target.dtype)})
        data = value._data
    if state.grad and (x._requires_grad or value._requires_grad) and value._grad_fn is None:
        value = overwritten(x, value)
    if state.grad and value._requires_grad:
        check_rebase(x)
    if is_lifted(x):
        x._data.level.store(x, value)  # type: ignore[attr-defined]
    else:
        if state.watched and state.keeper is not None:
            state.keeper.before_change(x)
        target[...] = data
    set_history(x, value)
    return x


def check_stored(x: Tensor, shape: tuple[int, ...], dtype: DType) -> None:
    """Raise torch's error if a result of this type cannot be stored in `x`."""
    own = from_numpy_dtype(x._data.dtype)
    if shape != x._data.shape:
        raise RuntimeError(
            f"output with shape {list(x._data.shape)} doesn't match the broadcast shape {list(shape)}"
        )
    if dtype.category > own.category:
        raise RuntimeError(
            f"result type {dtype.legacy_name} can't be cast to the desired output type {own.legacy_name}"
        )


def set_history(x: Tensor, value: Tensor) -> None:
    """`x` was overwritten, wholly or in part, and holds `value` now: count it, and take over how `value` was made.

    Without grad mode x keeps the history that it had, as in torch. Where x is a view, what has a new history is
    its base; other views, and in eager execution x itself, renew theirs when they are used next.
    """
    recorded = value._requires_grad and state.grad
    trace = None if is_lifted(x) else state.trace
    base = x._base
    if base is None:
        target, whole = x, value
    else:
        edges = _edges_of_part(base, x, value)
        # A trace that has never seen the base need not know what becomes of it.
        followed = trace is not None and trace.knows(base)
        carried = bool(state.levels and (value._tangents or base._tangents))
        target, whole = base, put_back(x, value) if recorded or followed or carried else value
        if recorded and isinstance(whole._grad_fn, OpNode):
            present(whole._grad_fn, "CopySlices", edges)
    bump_version(x)
    if recorded:
        move_retained(target._grad_fn, target._output_nr, whole._grad_fn, whole._output_nr)
        target._grad_fn = whole._grad_fn
        target._output_nr = whole._output_nr
        target._requires_grad = True
    if state.levels:
        target._tangents = _tangents_after(target, whole)
    if base is not None and recorded and trace is None and x.retains_grad:
        x._renew()  # The request goes over to the new record, as in torch at once.
    if trace is not None:
        trace.store(x, value)
        if base is not None:
            if recorded:
                if x.retains_grad:
                    trace.give_up("a view that retains its gradient is changed in place")
                x._grad_fn, x._output_nr, x._requires_grad = value._grad_fn, value._output_nr, True
                x._view_version = x._version
            if recorded or followed:
                trace.store(base, whole)


def _tangents_after(x: Tensor, value: Tensor) -> dict[Any, Any] | None:
    """The tangents of `x` when it was overwritten with `value`: zeros where `value` has none."""
    before, after = x._tangents, value._tangents
    if not before:
        return after
    none = {
        level: level.tangent(zeros(t.value, shape=tuple(t.value.shape)))
        for level, t in before.items()
        if t.value is not None
    }
    return none | (after or {})


def overwritten(x: Tensor, value: Tensor) -> Tensor:
    """`value` with a history in which it replaces `x`: gradients to `x` are zero, to `value` they are handed on."""
    value._renew()
    source = before_writing(x)
    shape = value._data.shape
    attrs = {"start": (0,) * len(shape), "sizes": shape, "stride": (1,) * len(shape)}
    if state.trace is not None and not is_lifted(x):
        out = apply(_slice_update, (source, value), attrs)
    else:
        out = new_tensor(value._data)
        out._tangents = value._tangents
        record(_slice_update, (source, value), attrs, out)
        if state.anomaly and out._grad_fn is not None:
            keep_traceback(out._grad_fn)
    shown_as(out, "CopyBackwards", x, value)
    return out


def _edges_of_part(base: Tensor, view: Tensor, value: Tensor) -> tuple[tuple[Edge, int], ...]:
    """What users see where a part was overwritten: the base, and what else than the part `value` came from."""
    edges = [(edge_of(base), base._output_nr)]
    if value._grad_fn is not None:
        record = view._grad_fn
        own: list[Any] = [] if record is None else [record]
        if record is not None and record.hooks is not None:
            own.append(record.hooks.stand_in)
        for edge in value._grad_fn.shown_edges():
            if edge[0] is not None and edge[0] in own:
                own = []
            else:
                edges.append(edge)
    return tuple(edges)


def bump_version(x: Tensor, location: SourceLocation | None = None, steps: int = 1) -> None:
    """Count in-place changes of x's storage, by the user's line that is running or is given."""
    counter: VersionCounter = x._version_counter()
    counter.value += steps
    counter.location = location or current_location(2)
