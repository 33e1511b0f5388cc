"""``apply``: where every operation on tensors passes. Evaluates with NumPy, records for autograd, feeds a trace.

This is the hot path of eager execution. It is lean by construction: one thread-local lookup, one loop over the
operands, one NumPy call, one object. Whatever is rare (a trace, the profiler, an error) is behind one test.

Operands are Tensors of one dtype, or Python numbers that do not change that dtype; attrs are canonical. The
public functions of :mod:`tracegrad.ops` bring arguments into this form.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from tracegrad.node import Node, OpNode, VersionCounter, node_class
from tracegrad.grad_mode import state
from tracegrad.ir import events
from tracegrad.ir.location import SourceLocation, current_location, is_internal
from tracegrad.ir.numpy_errors import restore, silence
from tracegrad.ir.op import Op
from tracegrad.ir.ops.selection import cast
from tracegrad.ir.types import TensorType, from_numpy_dtype
from tracegrad.tensor import Tensor, new_tensor

NO_ATTRS: dict[str, Any] = {}
_ndarray = np.ndarray
_files: dict[str, bool] = {}


def user_location() -> SourceLocation | None:
    """The user's line that is running. About 0.2 us: nothing is decoded before it is printed."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        internal = _files.get(code.co_filename)
        if internal is None:
            internal = _files[code.co_filename] = is_internal(code.co_filename)
        if not internal:
            return SourceLocation(code, frame.f_lasti)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def apply(op: Op, operands: Sequence[Any], attrs: dict[str, Any] = NO_ATTRS) -> Tensor:
    """Apply an op to Tensors (and Python numbers) and return a new Tensor.

    Raises:
        Whatever the op's type rule raises for these operands: torch's errors.
    """
    needs_grad = False
    arrays = []
    for x in operands:
        data = getattr(x, "_data", x)
        arrays.append(data)
        if data is not x and x._requires_grad:
            needs_grad = True
    listening = events.active
    if listening:
        begin = events.now()
    token = silence()
    try:
        data = op.eval(*arrays, **attrs)
    except Exception:
        check_types(op, operands, attrs)
        raise
    finally:
        restore(token)
    if data.__class__ is not _ndarray:
        data = np.asarray(data)
    out = new_tensor(data)
    if needs_grad and state.grad and data.dtype.kind == "f" and op.differentiable:
        record(op, operands, attrs, out)
    if state.trace is not None:
        state.trace.record(op, operands, attrs, out)
    if listening:
        _profile(op, arrays, begin, out)
    return out


def record(op: Op, operands: Sequence[Any], attrs: dict[str, Any], out: Tensor) -> None:
    """Give `out` the record of how it was made, keeping exactly what the derivative rule reads."""
    data = out._data
    edges: list[Any] = []
    numbers = None
    needed = []
    types: list[TensorType | None] = []
    for x in operands:
        if not isinstance(x, Tensor):
            edges.append(None)
            needed.append(False)
            types.append(None)
            continue
        array = x._data
        types.append(TensorType(from_numpy_dtype(array.dtype), array.shape))
        if x._requires_grad:
            edge = x._grad_fn
            if edge is None:
                edge = x
            elif x._output_nr:
                if numbers is None:
                    numbers = [0] * len(operands)
                numbers[len(edges)] = x._output_nr
            edges.append(edge)
            needed.append(True)
        else:
            edges.append(None)
            needed.append(False)
    node = node_class(op)(op, attrs, tuple(edges), tuple(types), user_location())
    if numbers is not None:
        node.numbers = tuple(numbers)
    reads_out, reads = op_reads(op, tuple(needed))
    if any(reads):
        node.saved = tuple(x if wanted else None for x, wanted in zip(operands, reads, strict=True))
        node.versions = tuple(x._version if isinstance(x, Tensor) else 0 for x in node.saved)
    else:
        node.saved = ()
    if reads_out:
        node.saved_out = data
        node.out_counter = out._version_counter()
        node.out_version = 0
    out._grad_fn = node
    out._requires_grad = True


@functools.lru_cache(maxsize=4096)
def op_reads(op: Op, needed: tuple[bool, ...]) -> tuple[bool, tuple[bool, ...]]:
    """`Op.reads`, remembered: (whether the rule reads the result, for each operand whether it does)."""
    return op.reads(needed)


def check_types(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> None:
    """Ask the op's type rule, which raises torch's error where the operands do not fit together."""
    types = [
        TensorType(from_numpy_dtype(x._data.dtype), x._data.shape) for x in operands if isinstance(x, Tensor)
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
    return out


def share_storage(view: Tensor, x: Tensor) -> None:
    """Make `view` a view of `x` (or of what `x` is a view of): one version counter for all."""
    base = x._base
    view._base = x if base is None else base
    view._counter = x._version_counter()
    view._view_version = view._counter.value


def apply_in_place(op: Op, x: Tensor, operands: Sequence[Any], attrs: dict[str, Any] = NO_ATTRS) -> Tensor:
    """Apply an op and store its result in `x`, with torch's rules for leaves, views and history.

    Raises:
        RuntimeError: `x` is a leaf that requires grad, or a view of one; or the result does not fit.
    """
    if not x._requires_grad and state.trace is None and x._base is None and not events.active:
        # Nothing to record about x: let the ufunc write into it, if it is one of this dtype.
        others_need = state.grad and any(isinstance(y, Tensor) and y._requires_grad for y in operands)
        if not others_need and op.eval.__class__ is np.ufunc:
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
    check_in_place(x)
    return store(x, apply(op, operands, attrs))


def check_in_place(x: Tensor) -> None:
    """Raise torch's error if `x` may not be changed in place."""
    if state.grad and x._requires_grad:
        if x._grad_fn is None:
            raise RuntimeError(
                "a leaf Variable that requires grad is being used in an in-place operation.\n"
                "Update it inside `with tracegrad.no_grad():`, or work on a copy: `y = x.clone()`."
            )
        base = x._base
        if base is not None and base._grad_fn is None and base._requires_grad:
            raise RuntimeError(
                "a view of a leaf Variable that requires grad is being used in an in-place operation.\n"
                "Update it inside `with tracegrad.no_grad():`, or work on a copy: `y = x.clone()`."
            )
    if not x._data.flags.writeable:
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single "
            "memory location. Please clone() the tensor before performing the operation."
        )


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
                f"result type {_type_word(result)} can't be cast to the desired output type {_type_word(own)}"
            )
        value = apply(cast, (value,), {"dtype": own})
        data = value._data
    if value._requires_grad and x._base is not None:
        raise RuntimeError(
            "in-place operations that are recorded for autograd on a view are not supported by tracegrad "
            "yet.\nChange the whole tensor instead (x[...] = y on the base), or build a new one with "
            "where/cat/stack."
        )
    target[...] = data
    bump_version(x)
    if value._requires_grad:
        x._grad_fn = value._grad_fn
        x._output_nr = value._output_nr
        x._requires_grad = True
    elif not (x._grad_fn is None and x._requires_grad):
        # Under grad mode the new value has no history; without it x keeps what it had, as in torch.
        if state.grad:
            x._grad_fn = None
            x._requires_grad = False
    if state.trace is not None:
        state.trace.store(x, value)
    return x


def _type_word(dtype: Any) -> str:
    return {"f32": "Float", "f64": "Double", "i64": "Long", "i32": "Int", "b1": "Bool"}.get(
        dtype.name, dtype.name
    )


def bump_version(x: Tensor) -> None:
    """Count an in-place change of x's storage."""
    counter: VersionCounter = x._version_counter()
    counter.value += 1
    counter.location = current_location(2)


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
            if out._requires_grad:
                node = out._grad_fn
                if node is not None and node.composite is None:
                    edges = []
                    for x in (*args, *kwargs.values()):
                        if isinstance(x, Tensor):
                            edge = (x._grad_fn or x) if x._requires_grad else None
                            edges.append((edge, x._output_nr))
                    if not any(edge is node for edge, _ in edges):
                        node.composite = (name, tuple(edges))
            return out

        return wrapped  # type: ignore[return-value]

    return decorate


def _profile(op: Op, arrays: Sequence[Any], begin: int, out: Tensor) -> None:
    """Report one operation to the profiler."""
    node: Node | None = out._grad_fn
    end = events.now()
    shapes = [getattr(a, "shape", ()) for a in arrays] if events.wants_shapes else None
    sequence = node.sequence if isinstance(node, OpNode) else None
    events.record(events.OP, "aten::" + op.name, begin, end, shapes, None, sequence)
