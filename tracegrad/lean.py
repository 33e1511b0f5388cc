"""The shortest way for what programs do most: one op, element by element, on plain tensors of one type.

A tensor is *plain* if it is no view and no inference tensor, and holds an array of floats. Its type is in
``Tensor._plain`` then. Types are shared objects; so where two of them are the same object, nothing has to be
converted or broadcast, and the result has that type too. :func:`binary` makes a function for one op that does exactly
what :func:`tracegrad.dispatch.apply` does, with all that depends on the op worked out beforehand. What is not as
simple, it leaves to a general function that it is given. It is lean by construction, and long for that reason: each
turn in it is paid for by every operation of every eager program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.dispatch import NO_ATTRS, plan_for, type_of_array, types_of
from tracegrad.grad_mode import state
from tracegrad.ir import events
from tracegrad.ir.numpy_errors import quietly
from tracegrad.ir.op import Op, broadcasting, floating
from tracegrad.ir.ops.linalg import addmm
from tracegrad.ir.types import TensorType
from tracegrad.node import UNTRACKED, new_op_node
from tracegrad.reporting import report_op
from tracegrad.tensor import Tensor, new_tensor, version_of
from tracegrad.views import transposed

_frame = sys._getframe
_ndarray = np.ndarray
_new = object.__new__


def plain_type(x: Tensor) -> TensorType | None:
    """The type of a plain tensor, noted for the next time; None for any other tensor."""
    data = x._data
    if (
        x._base is None
        and type(data) is _ndarray
        and data.dtype.kind == "f"
        and x._counter is not UNTRACKED
    ):
        x._plain = type_of_array(data)
    return x._plain


def _plans(op: Op, count: int) -> list[Any]:
    """By which operands require grad: the record's class, whether it keeps the result, and which operands."""
    assert op.kind == "pointwise"
    assert op.type_rule in (broadcasting, floating)
    assert not op.attrs
    plans: list[Any] = [None]
    for needed in range(1, 1 << count):
        cls, reads_out, reads, plain = plan_for(op, needed, count)
        assert cls is not None
        assert plain
        plans.append((cls, reads_out, *(i in reads for i in range(count))))
    return plans


def binary(op: Op, general: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A function that applies a pointwise op to a Tensor, and another one or a Python number.

    Args:
        op: takes floats to floats; its rules read no types.
        general: does the same for operands of all kinds.
    """
    plans = _plans(op, 2)
    alone = _binary(op, plans, _Unwatched, _leave, _leave)

    def watched(x: Tensor, y: Any) -> Any:
        """While somebody listens, and nothing else is special: the same, and a report of it."""
        if state.rare():
            return general(x, y)
        begin = events.now()
        out = alone(x, y)
        if out is NotImplemented:
            return general(x, y)
        report_op(op, (x._data, y._data if y.__class__ is Tensor else y), begin, out)
        return out

    return _binary(op, plans, state, general, watched)


def unary(op: Op, general: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function that applies a pointwise op to a Tensor.

    Args:
        op: takes floats to floats of the same type.
        general: does the same for all that is not plain.
    """
    if not op.differentiable:
        return general
    evaluate = op.eval
    _, (cls, reads_out, reads) = _plans(op, 1)

    def function(input: Any) -> Any:
        if state.watched or not isinstance(input, Tensor):
            return general(input)
        plain = input._plain or plain_type(input)
        if plain is None or input._output_nr:
            return general(input)
        try:
            data = quietly(evaluate, input._data)
        except Exception:
            return general(input)
        if data.__class__ is not _ndarray:
            data = np.asarray(data)
        result = new_tensor(data)
        result._plain = plain
        if input._requires_grad and state.grad:
            versions = None
            if reads:
                counter = input._counter
                if counter is not None and counter.value:
                    versions = (counter.value,)
            result._grad_fn = new_op_node(
                cls,
                op,
                NO_ATTRS,
                (input._grad_fn or input,),
                (input,) if reads else (),
                data if reads_out else None,
                versions,
                None,
                _frame(1),
            )
            result._requires_grad = True
        return result

    return function


class _Unwatched:
    """Modes of which none is asked for."""

    watched = False


def _leave(x: Any, y: Any) -> Any:
    return NotImplemented


def _binary(
    op: Op,
    plans: list[Any],
    modes: Any,
    general: Callable[[Any, Any], Any],
    watched: Callable[[Any, Any], Any],
) -> Callable[[Any, Any], Any]:
    """The function that `binary` makes; `watched` takes over where ``modes.watched`` holds."""
    evaluate = op.eval

    def operator(x: Tensor, y: Any) -> Any:
        if modes.watched:
            return watched(x, y)
        other: Any
        plain = x._plain or plain_type(x)
        if y.__class__ is Tensor:
            if plain is None or plain is not (y._plain or plain_type(y)):
                return general(x, y)
            other = y._data
            needed = 1 if x._requires_grad else 0
            if y._requires_grad:
                needed += 2
        elif y.__class__ is float or y.__class__ is int:
            if plain is None:
                return general(x, y)
            other = y
            needed = 1 if x._requires_grad else 0
        else:
            return general(x, y)
        try:
            data = quietly(evaluate, x._data, other)
        except Exception:
            return general(x, y)
        if data.__class__ is not _ndarray:
            data = np.asarray(data)
        # As `new_tensor` does it: the call alone would cost a twentieth of the operation.
        out = _new(Tensor)
        out._data = data
        out._requires_grad = False
        out._output_nr = 0
        out._grad_fn = out._grad = out._base = out._view = out._counter = None
        out._plain = plain
        if needed and state.grad:
            cls, reads_out, reads_x, reads_y = plans[needed]
            versions = None
            x_edge = y_edge = x_saved = y_saved = None
            if needed & 1:
                x_edge = x._grad_fn or x
                if x._output_nr:
                    return general(x, y)
            if needed & 2:
                y_edge = y._grad_fn or y
                if y._output_nr:
                    return general(x, y)
            if reads_x:
                x_saved = x
                counter = x._counter
                if counter is not None and counter.value:
                    versions = counter.value, 0
            if reads_y:
                y_saved = y
                if other is not y:
                    counter = y._counter
                    if counter is not None and counter.value:
                        versions = 0 if versions is None else versions[0], counter.value
            out._grad_fn = new_op_node(
                cls,
                op,
                NO_ATTRS,
                (x_edge, y_edge),
                (x_saved, y_saved) if reads_x or reads_y else (),
                data if reads_out else None,
                versions,
                None,
                _frame(1),
            )
            out._requires_grad = True
        return out

    operator.__name__ = operator.__qualname__ = op.name
    return operator


def linear(input: Any, weight: Tensor, bias: Tensor) -> Tensor | None:
    """``input @ weight.T + bias`` for plain matrices and a plain row that fit together; else None.

    Its records are those of a transpose and of ``addmm``, and the user's line is looked for once.
    """
    if state.watched or not isinstance(input, Tensor):
        return None
    x, w, b = input._data, weight._data, bias._data
    plain = input._plain or plain_type(input)
    if (
        plain is None
        or (weight._plain or plain_type(weight)) is None
        or (bias._plain or plain_type(bias)) is None
        or not (x.ndim == w.ndim == 2)
        or x.shape[1] != w.shape[1]
        or b.shape != w.shape[:1]
        or not (x.dtype is w.dtype is b.dtype)
        or input._output_nr
        or bias._output_nr
    ):
        return None
    try:
        data = quietly(addmm.eval, b, x, w.T)
    except Exception:
        return None
    out = new_tensor(data)
    columns = transposed(weight)
    if not state.grad:
        return out
    needed = 0
    bias_edge = edge = None
    if bias._requires_grad:
        needed = 1
        bias_edge = bias._grad_fn or bias
    if input._requires_grad:
        needed += 2
        edge = input._grad_fn or input
    if columns._requires_grad:
        needed += 4
    if not needed:
        return out
    cls, _, reads, _ = plan_for(addmm, needed, 3)
    assert cls is not None
    before = columns._grad_fn
    saved: tuple[Any, ...] = ()
    versions = None
    if reads:
        saved = None, input if 1 in reads else None, columns if 2 in reads else None
        changed = [0 if t is None else version_of(t) for t in saved]
        if any(changed):
            versions = tuple(changed)
    out._grad_fn = node = new_op_node(
        cls,
        addmm,
        NO_ATTRS,
        (bias_edge, edge, before),
        saved,
        None,
        versions,
        types_of((bias, input, columns)),
        _frame(1) if before is None else None,
    )
    if before is not None:
        node.code, node.instruction = before.code, before.instruction
    out._requires_grad = True
    return out
