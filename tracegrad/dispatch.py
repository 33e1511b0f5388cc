"""``apply``: where every operation on tensors passes. Evaluates with NumPy, records for autograd, feeds a trace.

This is the hot path of eager execution. `apply` is lean by construction: one loop over the operands, one NumPy
call, one object, and one test behind which everything rare stands, ``state.watched``. If it holds,
`apply_watched` does the same in general: it asks for each of the rare modes, and takes values that are no arrays.

Operands are Tensors of one dtype, or Python numbers that do not change that dtype; attrs are canonical. The
public functions of :mod:`tracegrad.ops` bring arguments into this form.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.ir import events
from tracegrad.ir.numpy_errors import quietly, restore, silence
from tracegrad.ir.op import Op
from tracegrad.ir.types import ByColumns, TensorType, from_numpy_dtype
from tracegrad.node import (
    UNTRACKED,
    Edge,
    OpNode,
    keep_traceback,
    new_op_node,
    node_class,
    present,
)
from tracegrad.ownership import own_results
from tracegrad.reporting import call_reported, name_of_composite, report_op
from tracegrad.saved import pack_record
from tracegrad.tensor import Tensor, new_tensor, version_saved

NO_ATTRS: dict[str, Any] = {}
_ndarray = np.ndarray
_types: dict[tuple[np.dtype, tuple[int, ...]], TensorType] = {}
_MAX_TYPES = 4096


def type_of_array(array: np.ndarray) -> TensorType:
    """The type of an array; the same object for the same type, mostly."""
    key = array.dtype, array.shape
    found = _types.get(key)
    if found is None:
        if len(_types) >= _MAX_TYPES:
            _types.clear()
        found = _types[key] = TensorType(from_numpy_dtype(array.dtype), array.shape)
    return found


def apply(op: Op, operands: Sequence[Any], attrs: dict[str, Any] = NO_ATTRS) -> Tensor:
    """Apply an op to Tensors (and Python numbers) and return a new Tensor.

    Raises:
        Whatever the op's type rule raises for these operands: torch's errors.
    """
    if state.watched:
        return apply_watched(op, operands, attrs)
    needs_grad = False
    arrays = []
    for x in operands:
        data = getattr(x, "_data", x)
        arrays.append(data)
        if data is not x:
            if x._base is not None:
                x._renew()
            if x._requires_grad:
                needs_grad = True
    try:
        data = quietly(op.eval, *arrays, **attrs)
    except Exception:
        data = _evaluate_again(op, arrays, operands, attrs)
    if data.__class__ is not _ndarray:
        data = np.asarray(data)
    out = new_tensor(data)
    if needs_grad and state.grad and data.dtype.kind == "f":
        record(op, operands, attrs, out)
    return out


def _evaluate_again(
    op: Op, arrays: Sequence[Any], operands: Sequence[Any], attrs: dict[str, Any]
) -> Any:
    """The value of an op that could not be evaluated `quietly`.

    Another thread may have been doing just that. Else the operands are wrong, which the type rule says in torch's
    words.
    """
    token = silence()
    try:
        return op.eval(*arrays, **attrs)
    except Exception:
        check_types(op, operands, attrs)
        raise
    finally:
        restore(token)


def apply_watched(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Tensor:
    """`apply` while a rare mode is on (see :mod:`tracegrad.grad_mode`): each of them is asked for, in turn."""
    levels = state.levels
    return levels[-1].apply(op, operands, attrs) if levels else apply_plain(op, operands, attrs)


def apply_plain(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Tensor:
    """`apply` to tensors that hold arrays, with the trace and the profiler looking on."""
    needs_grad = False
    values = []
    for x in operands:
        data = getattr(x, "_data", x)
        values.append(data)
        if data is not x:
            if x._base is not None:
                x._renew()
            if x._requires_grad:
                needs_grad = True
    trace = state.trace
    if attrs and trace is not None and trace.numbers:
        attrs = {name: trace.settled(value) for name, value in attrs.items()}
    selective = state.selective
    listening = events.active
    begin = events.now() if listening else 0
    token = silence()
    try:
        data = None if selective is None else selective.recall(op)
        if data is None:
            data = op.eval(*values, **attrs) if attrs else op.eval(*values)
    except Exception:
        if trace is not None:
            trace.operation_failed()
        check_types(op, operands, attrs)
        raise
    finally:
        restore(token)
    if data.__class__ is not _ndarray:
        data = np.asarray(data)
    out = new_tensor(data)
    if needs_grad and state.grad and data.dtype.kind == "f":
        record(op, operands, attrs, out)
        if state.anomaly and out._grad_fn is not None:
            keep_traceback(out._grad_fn)
        if state.saved_hooks is not None and isinstance(out._grad_fn, OpNode):
            pack_record(out._grad_fn, out)
    if state.inference is not None:
        out._counter = UNTRACKED
    if selective is not None:
        selective.evaluated(op, operands, attrs, out)
    if state.finder is not None:
        state.finder.look(op, operands, out)
    if trace is not None:
        trace.record(op, operands, attrs, out)
    if listening:
        report_op(op, values, begin, out)
    return out


def record(op: Op, operands: Sequence[Any], attrs: dict[str, Any], out: Tensor) -> None:
    """Give `out` the record of how it was made, keeping exactly what the derivative rule reads."""
    data = out._data
    shape = data.shape
    edges: list[Any] = []
    numbers = None
    needed = changed = 0
    broadcast = False
    for x in operands:
        edge: Edge = None
        if isinstance(x, Tensor):
            if x._data.shape != shape:
                broadcast = True
            if x._counter is not None:
                changed |= x._counter.value
            if x._requires_grad:
                edge = x._grad_fn
                if edge is None:  # A leaf.
                    edge = x
                elif x._output_nr:
                    if numbers is None:
                        numbers = [0] * len(operands)
                    numbers[len(edges)] = x._output_nr
                needed |= 1 << len(edges)
        edges.append(edge)
    cls, reads_out, reads, plain = plan_for(op, needed, len(edges))
    if cls is None or (changed < 0 and not _is_tracked(op, operands)):
        return
    if len(reads) == len(edges):
        saved = tuple(operands)
    elif reads:
        saved = tuple([x if i in reads else None for i, x in enumerate(operands)])
    else:
        saved = ()
    node = new_op_node(
        cls,
        op,
        attrs,
        tuple(edges),
        saved,
        data if reads_out else None,
        tuple([version_saved(x) for x in saved]) if changed else None,
        # Where no operand was broadcast, pointwise rules need no types.
        None if plain and not broadcast else types_of(operands),
        sys._getframe(2),
    )
    if numbers is not None:
        node.numbers = tuple(numbers)
    out._grad_fn = node
    out._requires_grad = True


def _is_tracked(op: Op, operands: Sequence[Any]) -> bool:
    """Whether an operation that inference tensors take part in is recorded: as in torch, if others do as well.

    Of a number torch makes another tensor in arithmetic, and a copy is written into one.
    """
    if op.name == "copy" or any(
        isinstance(x, Tensor) and x._counter is not UNTRACKED for x in operands
    ):
        return True
    if op.name == "div":
        return not isinstance(operands[1], Tensor)
    return op.name in _ARITHMETIC and not all(isinstance(x, Tensor) for x in operands)


_ARITHMETIC = frozenset({"add", "sub", "mul"})


Plan = tuple[type[OpNode] | None, bool, tuple[int, ...], bool]
_plans: dict[tuple[Op, int], Plan] = {}


def plan_for(op: Op, needed: int, count: int) -> Plan:
    """How to record `op` with `count` operands, where bit i of `needed` says that operand i requires grad.

    Returns:
        The class of the record (None: there is no derivative), whether the rule reads the result, which operands
        it reads, and whether it is pointwise and reads no types.
    """
    plan = _plans.get((op, needed))
    if plan is None:
        plan = None, False, (), False
        if op.differentiable:
            reads_out, reads = op.reads([bool(needed >> i & 1) for i in range(count)])
            plain = op.kind == "pointwise" and not any(
                rule.types for rule in op.rules if rule is not None
            )
            kept = tuple(i for i, wanted in enumerate(reads) if wanted)
            plan = node_class(op), reads_out, kept, plain
        _plans[op, needed] = plan
    return plan


def types_of(operands: Sequence[Any]) -> tuple[TensorType | None, ...]:
    """What rules may know of the operands. How an array is laid out counts where it is computed with at once."""
    if state.watched:
        return tuple([type_of_array(x._data) if isinstance(x, Tensor) else None for x in operands])
    types: list[TensorType | None] = []
    for x in operands:
        found = None
        if isinstance(x, Tensor):
            data = x._data
            found = x._plain or type_of_array(data)
            if data.ndim == 2:
                rows, columns = data.strides
                if rows == data.itemsize != columns:
                    found = _by_columns(found)
        types.append(found)
    return tuple(types)


@functools.cache
def _by_columns(found: TensorType) -> ByColumns:
    return ByColumns(*found)


def check_types(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> None:
    """Ask the op's type rule, which raises torch's error where the operands do not fit together."""
    types = [
        TensorType(from_numpy_dtype(x._data.dtype), x._data.shape)
        for x in operands
        if isinstance(x, Tensor)
    ]
    if len(types) == len(operands) or op.kind == "pointwise":
        op.type_rule(*types, **attrs)


def edge_of(x: Tensor) -> Edge:
    """Where gradients with respect to `x` go."""
    if not x._requires_grad:
        return None
    return x if x._grad_fn is None else x._grad_fn


ABSENT: Any = object()


def shown_as(out: Tensor, name: str, *operands: Any, **kept: Any) -> Tensor:
    """Have the record of `out` shown to users as that of one operation on `operands`. Returns `out`.

    Args:
        name: of the record, as ``SinBackward0``.
        operands: arguments of the operation; those that are no floating tensors are left out. `ABSENT` stands for
            a tensor that was not given, which torch shows as an edge to nowhere.
        kept: arguments of the operation that torch shows as ``_saved_...`` of the record.
    """
    node = out._grad_fn
    if isinstance(node, OpNode):
        edges: list[tuple[Edge, int]] = []
        for x in operands:
            if isinstance(x, Tensor) and x._data.dtype.kind == "f":
                edge = edge_of(x)
                if edge is node:  # The operation did nothing.
                    return out
                edges.append((edge, x._output_nr))
            elif x is ABSENT:
                edges.append((None, 0))
        present(node, name, tuple(edges), kept)
    return out


T = TypeVar("T", bound=Callable[..., Any])


def composite(name: str) -> Callable[[T], T]:
    """Mark a function that is a composition of ops but one operation to torch's users.

    Its result's ``grad_fn`` is called `name`, and ``next_functions`` leads to the records of the tensors
    that were passed in, not to the inner ones. In a profile it is an operation around the ops.
    """
    label = name_of_composite(name)

    def decorate(function: T) -> T:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            out = (
                call_reported(label, function, args, kwargs)
                if events.active
                else function(*args, **kwargs)
            )
            if out._base is not None:
                own_results(out, args, kwargs)
            return shown_as(out, name, *args, *kwargs.values()) if out._requires_grad else out

        return wrapped  # type: ignore[return-value]

    return decorate
