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
from types import CodeType, FrameType
from typing import Any, TypeVar

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.ir import events
from tracegrad.ir.location import SourceLocation, current_location, is_internal
from tracegrad.ir.numpy_errors import restore, silence
from tracegrad.ir.op import Op, registered
from tracegrad.ir.ops.selection import cast
from tracegrad.ir.types import TensorType, from_numpy_dtype
from tracegrad.node import (
    Edge,
    Node,
    OpNode,
    VersionCounter,
    late_bound,
    new_op_node,
    node_class,
    present,
)
from tracegrad.tensor import Tensor, new_tensor

NO_ATTRS: dict[str, Any] = {}
_ndarray = np.ndarray
_files: dict[str, bool] = {}
_types: dict[tuple[np.dtype, tuple[int, ...]], TensorType] = {}
_MAX_TYPES = 4096


def user_location() -> SourceLocation | None:
    """The user's line that is running."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _is_internal(frame.f_code):
        frame = frame.f_back
    return None if frame is None else SourceLocation(frame.f_code, frame.f_lasti)


def _is_internal(code: CodeType) -> bool:
    internal = _files.get(code.co_filename)
    if internal is None:
        internal = _files[code.co_filename] = is_internal(code.co_filename)
    return internal


def _type_of_array(array: np.ndarray) -> TensorType:
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
    token = silence()
    try:
        data = op.eval(*arrays, **attrs) if attrs else op.eval(*arrays)
    except Exception:
        check_types(op, operands, attrs)
        raise
    finally:
        restore(token)
    if data.__class__ is not _ndarray:
        data = np.asarray(data)
    out = new_tensor(data)
    if needs_grad and state.grad and data.dtype.kind == "f":
        record(op, operands, attrs, out)
    return out


def apply_watched(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Tensor:
    """`apply` while a rare mode is on (see :mod:`tracegrad.grad_mode`): each of them is asked for here, in turn.

    The data of a Tensor need not be an array here: whatever has ``dtype``, ``shape`` and ``__apply_op__`` will do.
    """
    needs_grad = False
    values = []
    for x in operands:
        if isinstance(x, Tensor):
            x._renew()
            needs_grad = needs_grad or x._requires_grad
            values.append(x._data)
        else:
            values.append(x)
    trace = state.trace
    listening = events.active
    begin = events.now() if listening else 0
    token = silence()
    try:
        data = op(*values, **attrs)
    except Exception:
        if trace is not None:
            trace.operation_failed()
        check_types(op, operands, attrs)
        raise
    finally:
        restore(token)
    if data.__class__ is not _ndarray and not hasattr(data, "__apply_op__"):
        data = np.asarray(data)
    out = new_tensor(data)
    if needs_grad and state.grad and data.dtype.kind == "f":
        record(op, operands, attrs, out)
    if trace is not None:
        trace.record(op, operands, attrs, out)
    if listening:
        _profile(op, values, begin, out)
    return out


def record(op: Op, operands: Sequence[Any], attrs: dict[str, Any], out: Tensor) -> None:
    """Give `out` the record of how it was made, keeping exactly what the derivative rule reads."""
    data = out._data
    shape = data.shape
    edges: list[Any] = []
    numbers = None
    needed = 0
    broadcast = changed = False
    for x in operands:
        edge: Edge = None
        if isinstance(x, Tensor):
            if x._data.shape != shape:
                broadcast = True
            if x._counter is not None and x._counter.value:
                changed = True
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
    plan = _plans.get((op, needed))
    if plan is None:
        plan = _make_plan(op, needed, len(edges))
    cls, reads_out, reads, plain = plan
    if cls is None:
        return
    # Where no operand was broadcast, pointwise rules need no types.
    types = None if plain and not broadcast else _types_of(operands)
    node = new_op_node(cls, op, attrs, tuple(edges), types)
    if numbers is not None:
        node.numbers = tuple(numbers)
    if len(reads) == len(edges):
        node.saved = tuple(operands)
    elif reads:
        node.saved = tuple([x if i in reads else None for i, x in enumerate(operands)])
    if changed:
        node.versions = tuple([getattr(x, "_version", 0) for x in node.saved or ()])
    if reads_out:
        node.saved_out = data
    # The user's line: two frames up is the function that applied the op.
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        internal = _files.get(code.co_filename)
        if internal is None:
            internal = _is_internal(code)
        if not internal:
            node.code = code
            node.instruction = frame.f_lasti
            break
        frame = frame.f_back
    out._grad_fn = node
    out._requires_grad = True


_Plan = tuple[type[OpNode] | None, bool, tuple[int, ...], bool]
_plans: dict[tuple[Op, int], _Plan] = {}


def _make_plan(op: Op, needed: int, count: int) -> _Plan:
    """How to record `op`, where bit i of `needed` says that operand i requires grad.

    Returns:
        The class of the record (None: there is no derivative), whether the rule reads the result, which operands
        it reads, and whether it is pointwise and reads no types.
    """
    plan: _Plan = None, False, (), False
    if op.differentiable:
        reads_out, reads = op.reads([bool(needed >> i & 1) for i in range(count)])
        plain = op.kind == "pointwise" and not any(
            rule.types for rule in op.rules if rule is not None
        )
        plan = (
            node_class(op),
            reads_out,
            tuple(i for i, wanted in enumerate(reads) if wanted),
            plain,
        )
    _plans[op, needed] = plan
    return plan


def _types_of(operands: Sequence[Any]) -> tuple[TensorType | None, ...]:
    return tuple([_type_of_array(x._data) if isinstance(x, Tensor) else None for x in operands])


def check_types(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> None:
    """Ask the op's type rule, which raises torch's error where the operands do not fit together."""
    types = [
        TensorType(from_numpy_dtype(x._data.dtype), x._data.shape)
        for x in operands
        if isinstance(x, Tensor)
    ]
    if len(types) == len(operands) or op.kind == "pointwise":
        op.type_rule(*types, **attrs)


def apply_view(op: Op, x: Tensor, attrs: dict[str, Any]) -> Tensor:
    """Apply an op whose result shares the operand's storage if NumPy's does."""
    out = apply(op, (x,), attrs)
    made, source = out._data, x._data
    if made is source:
        out._data = made = source.view()
    if made.base is not None and (made.base is source or made.base is source.base):
        share_storage(out, x)
        out._view = x, op, attrs, state.grad
    return out


def share_storage(view: Tensor, x: Tensor) -> None:
    """Make `view` a view of `x` (or of what `x` is a view of): one version counter for all."""
    base = x._base
    view._base = x if base is None else base
    view._counter = x._version_counter()
    view._view_version = view._counter.value
    if state.trace is not None:
        state.trace.shares_storage(view)


def refresh_view(view: Tensor) -> None:
    """Renew the history of a view whose storage was changed in place since the view was recorded.

    What it shows now came about through its base, so it is recorded as a view of the base as it is now. Views
    made under `no_grad` have no history to renew.
    """
    stale = []
    while view._base is not None and view._view[3]:
        if view._version == view._view_version:
            break
        stale.append(view)
        view = view._view[0]
    for view in reversed(stale):
        parent, op, attrs, _ = view._view
        view._view_version = view._version
        if parent._requires_grad:
            record(op, (parent,), attrs, view)
            view._output_nr = 0
            shown_as(view, "AsStridedBackward0", parent)


def _edge_of(x: Tensor) -> Edge:
    """Where gradients with respect to `x` go."""
    if not x._requires_grad:
        return None
    return x if x._grad_fn is None else x._grad_fn


def apply_in_place(
    op: Op, x: Tensor, operands: Sequence[Any], attrs: dict[str, Any] = NO_ATTRS
) -> Tensor:
    """Apply an op and store its result in `x`, with torch's rules for leaves, views and history.

    Raises:
        RuntimeError: `x` is a leaf that requires grad, or a view of one; or the result does not fit.
    """
    check_in_place(x)
    nothing_to_record = state.trace is None and not (state.grad and _any_requires_grad(operands))
    if nothing_to_record and op.eval.__class__ is np.ufunc and not events.active:
        # Let the ufunc write into x, if the result is of its shape and dtype.
        token = silence()
        try:
            op.eval(*[getattr(y, "_data", y) for y in operands], out=x._data, casting="no")
        except (TypeError, ValueError):
            pass
        else:
            bump_version(x)
            return x
        finally:
            restore(token)
    return store(x, apply(op, former(x, operands), attrs))


def former(x: Tensor, operands: Sequence[Any]) -> Sequence[Any]:
    """The operands of an in-place operation, with `x` replaced by a copy where the operation is recorded.

    The record keeps the value that `x` had; `x` itself is about to be overwritten.
    """
    if not (state.grad and _any_requires_grad(operands)):
        return operands
    old = new_tensor(x._data.copy())
    old._grad_fn = x._grad_fn
    old._output_nr = x._output_nr
    old._requires_grad = x._requires_grad
    if state.trace is not None:
        state.trace.alias(old, x)
    return [old if y is x else y for y in operands]


_NO_GRAD_VIEW = (
    "A view was created in no_grad mode and is being modified inplace with grad mode enabled. Given that this "
    "use case is ambiguous and error-prone, it is forbidden. You can clarify your code by moving both the view "
    "and the inplace either both inside the no_grad block (if you don't want the inplace to be tracked) or both "
    "outside (if you want the inplace to be tracked)."
)


def _any_requires_grad(operands: Sequence[Any]) -> bool:
    return any(isinstance(x, Tensor) and x.requires_grad for x in operands)


def check_in_place(x: Tensor, *, part: bool = False) -> None:
    """Raise torch's error if `x` may not be changed in place.

    Args:
        part: only a part of x is to be changed, as if through a view.
    """
    if state.grad and x.requires_grad:
        base = x._base
        if x._grad_fn is None or (
            base is not None and base._grad_fn is None and base._requires_grad
        ):
            which = "a view of a leaf" if part or base is not None else "a leaf"
            raise RuntimeError(
                f"{which} Variable that requires grad is being used in an in-place operation.\n"
                "Update it inside `with tracegrad.no_grad():`, or work on a copy: `y = x.clone()`."
            )
    if state.grad and x._base is not None and x._base._requires_grad:
        check_rebase(x)
    if not x._data.flags.writeable:
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single "
            "memory location. Please clone() the tensor before performing the operation."
        )


def check_rebase(view: Tensor) -> None:
    """Raise torch's error if a tensor is a view whose base cannot be given a new history."""
    while view._base is not None:
        if not view._view[3]:
            raise RuntimeError(_NO_GRAD_VIEW)
        view = view._view[0]


def store(x: Tensor, value: Tensor) -> Tensor:
    """Overwrite `x` with `value`, which becomes its history: the end of every in-place operation."""
    target, data = x._data, value._data
    if data.shape != target.shape:
        raise RuntimeError(
            f"output with shape {list(target.shape)} doesn't match the broadcast shape {list(data.shape)}"
        )
    if data.dtype is not target.dtype and data.dtype != target.dtype:
        result, own = from_numpy_dtype(data.dtype), from_numpy_dtype(target.dtype)
        if result.category > own.category:
            raise RuntimeError(
                f"result type {type_word(result)} can't be cast to the desired output type {type_word(own)}"
            )
        value = apply(cast, (value,), {"dtype": own})
        data = value._data
    if state.grad and (x._requires_grad or value._requires_grad) and value._grad_fn is None:
        value = overwritten(x, value)
    if state.grad and value._requires_grad:
        check_rebase(x)
    target[...] = data
    set_history(x, value)
    return x


def set_history(x: Tensor, value: Tensor) -> None:
    """`x` was overwritten, wholly or in part, and holds `value` now: count it, and take over how `value` was made.

    Without grad mode x keeps the history that it had, as in torch. Where x is a view, what has a new history is
    its base; other views, and in eager execution x itself, renew theirs when they are used next.
    """
    recorded = value._requires_grad and state.grad
    trace = state.trace
    base = x._base
    if base is None:
        target, whole = x, value
    else:
        edges = _edges_of_part(base, x, value)
        # A trace that has never seen the base need not know what becomes of it.
        followed = trace is not None and trace.knows(base)
        target, whole = base, _put_back(x, value) if recorded or followed else value
        if recorded and isinstance(whole._grad_fn, OpNode):
            present(whole._grad_fn, "CopySlices", edges)
    bump_version(x)
    if recorded:
        target._grad_fn = whole._grad_fn
        target._output_nr = whole._output_nr
        target._requires_grad = True
    if trace is not None:
        trace.store(x, value)
        if base is not None:
            if recorded:
                x._grad_fn, x._output_nr, x._requires_grad = value._grad_fn, value._output_nr, True
                x._view_version = x._version
            if recorded or followed:
                trace.store(base, whole)


def _put_back(view: Tensor, value: Tensor) -> Tensor:
    """The base of `view` as it is when `view` is overwritten with `value`: torch's CopySlices.

    Step by step from the view to its base, the changed part is put back into the whole. Memory is shared, so
    there is nothing to compute, only to record; a trace, however, wants each value.
    """
    part = value
    while view._base is not None:
        parent, op, attrs, _ = view._view
        if op is _slice:
            attrs = {"start": attrs["start"], "sizes": view._data.shape, "stride": attrs["stride"]}
            step: Any = _slice_update, (parent, part), attrs
        elif op is _permute:
            dims = attrs["dims"]
            step = op, (part,), {"dims": tuple(sorted(range(len(dims)), key=dims.__getitem__))}
        else:
            step = _reshape, (part,), {"shape": parent._data.shape}
        if state.trace is not None:
            part = apply(*step)
        else:
            part = new_tensor(parent._data)
            record(step[0], step[1], step[2], part)
        view = parent
    return part


def overwritten(x: Tensor, value: Tensor) -> Tensor:
    """`value` with a history in which it replaces `x`: gradients to `x` are zero, to `value` they are handed on."""
    value._renew()
    shape = value._data.shape
    attrs = {"start": (0,) * len(shape), "sizes": shape, "stride": (1,) * len(shape)}
    if state.trace is not None:
        out = apply(_slice_update, (x, value), attrs)
    else:
        out = new_tensor(value._data)
        record(_slice_update, (x, value), attrs, out)
    shown_as(out, "CopyBackwards", x, value)
    return out


def _edges_of_part(base: Tensor, view: Tensor, value: Tensor) -> tuple[tuple[Edge, int], ...]:
    """What users see where a part was overwritten: the base, and what else than the part `value` came from."""
    edges = [(_edge_of(base), base._output_nr)]
    if value._grad_fn is not None:
        own = view._grad_fn
        for edge in value._grad_fn.shown_edges():
            if own is not None and edge[0] is own:
                own = None
            else:
                edges.append(edge)
    return tuple(edges)


def type_word(dtype: Any) -> str:
    """What torch calls a dtype in its messages: Float, Long, ..."""
    return {"f32": "Float", "f64": "Double", "i64": "Long", "i32": "Int", "b1": "Bool"}.get(
        dtype.name, dtype.name
    )


def bump_version(x: Tensor) -> None:
    """Count an in-place change of x's storage."""
    counter: VersionCounter = x._version_counter()
    counter.value += 1
    counter.location = current_location(2)


_slice = registered("slice")
_slice_update = registered("slice_update")
_reshape = registered("reshape")
_permute = registered("permute")
late_bound["refresh_view"] = refresh_view


def shown_as(out: Tensor, name: str, *operands: Any) -> Tensor:
    """Have the record of `out` shown to users as that of one operation on `operands`. Returns `out`.

    Args:
        name: of the record, as ``SinBackward0``.
        operands: arguments of the operation; those that are no floating tensors are left out.
    """
    node = out._grad_fn
    if isinstance(node, OpNode):
        edges: list[tuple[Edge, int]] = []
        for x in operands:
            if isinstance(x, Tensor) and x._data.dtype.kind == "f":
                edge = _edge_of(x)
                if edge is node:  # The operation did nothing.
                    return out
                edges.append((edge, x._output_nr))
        present(node, name, tuple(edges))
    return out


T = TypeVar("T", bound=Callable[..., Any])


def composite(name: str) -> Callable[[T], T]:
    """Mark a function that is a composition of ops but one operation to torch's users.

    Its result's ``grad_fn`` is called `name`, and ``next_functions`` leads to the records of the tensors
    that were passed in, not to the inner ones.
    """

    def decorate(function: T) -> T:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            out = function(*args, **kwargs)
            return shown_as(out, name, *args, *kwargs.values()) if out._requires_grad else out

        return wrapped  # type: ignore[return-value]

    return decorate


def _profile(op: Op, arrays: Sequence[Any], begin: int, out: Tensor) -> None:
    """Report one operation to the profiler."""
    node: Node | None = out._grad_fn
    end = events.now()
    shapes = [getattr(a, "shape", ()) for a in arrays] if events.wants_shapes else None
    sequence = node.sequence if isinstance(node, OpNode) else None
    events.record(events.OP, "aten::" + op.name, begin, end, shapes, None, sequence)
