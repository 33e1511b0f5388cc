"""Functions that make new tensors."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from tracegrad.device import Device
from tracegrad.dispatch import apply
from tracegrad.ir.op import registered
from tracegrad.ir.types import DType, float32, from_numpy_dtype, int64
from tracegrad.layout import check_placement
from tracegrad.memory_format import check_format, preserve_format
from tracegrad.ops.arguments import new_shape, number_dtype, resolve_dtype
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, default_float, is_lifted, make_tensor, mark_made


def finished(data: np.ndarray, source: Any, device: Any, requires_grad: bool) -> Tensor:
    """Wrap new data, refusing devices that are not there."""
    if device is not None:
        Device(device)
    out = make_tensor(data, source)
    return check_ready_for_grad(out) if requires_grad else out


def check_ready_for_grad(out: Tensor) -> Tensor:
    """A new tensor, which from now on requires grad. Raises RuntimeError unless it is floating."""
    if not out.dtype.is_floating:
        raise RuntimeError("Only Tensors of floating point and complex dtype can require gradients")
    return out._ask_for_grad()


T = TypeVar("T", bound=Callable[..., Any])


def placed(function: T) -> T:
    """Have a function that makes a tensor take ``layout`` and ``pin_memory``, and its shape as ``size=`` as well."""
    name = function.__name__
    has_sizes = bool(function.__code__.co_flags & inspect.CO_VARARGS)

    @functools.wraps(function)
    def wrapped(*args: Any, layout: Any = None, pin_memory: Any = False, **kwargs: Any) -> Any:
        if layout is not None or pin_memory:
            check_placement(name, layout, pin_memory)
        if has_sizes and "size" in kwargs:
            args = (*args, kwargs.pop("size"))
        return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def refuse_complex(function: str, value: Any) -> None:
    if isinstance(value, (complex, np.complexfloating)):
        raise NotImplementedError(
            f"{function}(): complex tensors are not supported.\n"
            "Keep the real and the imaginary parts in two tensors."
        )


def _plain_data(data: Any) -> Any:
    """Nested sequences with tensors inside, as plain numbers and arrays."""
    if isinstance(data, Tensor):
        return data.detach().numpy()
    if isinstance(data, (list, tuple)):
        return [_plain_data(item) for item in data]
    return data


def tensor(
    data: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """A tensor with a copy of `data`: a number, nested sequences, an array, or a tensor.

    Python floats take the default dtype (float32), integers int64, bools bool; arrays keep theirs.

    Raises:
        ValueError: ragged sequences.
        TypeError: the data is not numeric.
    """
    target = resolve_dtype(dtype)
    check_placement("tensor", None, pin_memory)
    source = data
    if isinstance(data, (list, tuple)):
        data = _plain_data(data)
    if isinstance(data, Tensor):
        data = data.detach().numpy()
    try:
        array = np.array(data, dtype=None if target is None else target.np)
    except OverflowError:
        raise RuntimeError(_overflow(target)) from None
    except (ValueError, TypeError) as error:
        if "inhomogeneous" in str(error):
            raise ValueError(_ragged(data)) from None
        raise TypeError(f"new(): invalid data type '{type(data).__name__}'") from None
    if array.dtype.kind not in "fiub":
        if array.dtype.kind == "c" and not isinstance(data, np.ndarray):
            refuse_complex("tensor", 1j)
        if array.dtype.kind in "OUS":
            leaf = _first_leaf(data)
            name = type(leaf).__name__
            if isinstance(leaf, int):
                raise ValueError("Overflow when unpacking long long")
            if not isinstance(leaf, str):
                raise RuntimeError(f"Could not infer dtype of {name}")
            if isinstance(data, (list, tuple)):
                raise ValueError(f"too many dimensions '{name}'")
            raise TypeError(f"new(): invalid data type '{name}'")
        from_numpy_dtype(array.dtype)
    if target is None and not isinstance(data, (np.ndarray, np.generic)):
        has_arrays = isinstance(data, list) and _holds_arrays(data)
        if (array.dtype == np.float64 and not has_arrays) or (array.size == 0 and not has_arrays):
            array = array.astype(default_float().np)
    else:
        array = array.astype(from_numpy_dtype(array.dtype).np, copy=False)
    return finished(array, source, device, requires_grad)


def _first_leaf(data: Any) -> Any:
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return data


def _overflow(dtype: DType | None) -> str:
    name = "i64" if dtype is None else dtype.name
    word = {"i64": "int64_t", "i32": "int"}.get(name, str(dtype)[6:])
    return f"value cannot be converted to type {word} without overflow"


def _holds_arrays(data: Any) -> bool:
    return isinstance(_first_leaf(data), (np.ndarray, np.generic))


def _ragged(data: Any) -> str:
    """torch's sentence for sequences of unequal lengths."""
    depth = 0
    while isinstance(data, (list, tuple)) and data:
        lengths = [len(item) if isinstance(item, (list, tuple)) else None for item in data]
        depth += 1
        for got in lengths:
            if got != lengths[0]:
                return f"expected sequence of length {lengths[0]} at dim {depth} (got {got})"
        data = data[0]
    return "expected sequences of equal lengths"


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Like `tensor`, but shares memory with an array or tensor of the right dtype."""
    target = resolve_dtype(dtype)
    if isinstance(data, Tensor):
        return data if target is None else data.to(target)
    if isinstance(data, np.ndarray) and (target is None or data.dtype == target.np):
        return from_numpy(data)
    return tensor(data, dtype=dtype, device=device)


asarray = as_tensor


def from_numpy(ndarray: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory.

    Raises:
        TypeError: not an array, or of a dtype that tracegrad does not have.
    """
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(ndarray).__name__})")
    dtype = from_numpy_dtype(ndarray.dtype)
    if ndarray.dtype != dtype.np or not ndarray.dtype.isnative:
        ndarray = ndarray.astype(dtype.np)
    return make_tensor(np.asarray(ndarray), ndarray)


def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor that shares the memory of any object with ``__dlpack__``.

    Args:
        device: accepted if it is the CPU.
        copy: True for memory of its own; False raises where that is not possible without.

    Raises:
        BufferError: the memory cannot be shared.
    """
    if device is not None:
        Device(device)
    array = np.from_dlpack(ext_tensor)
    if copy or not array.flags.writeable:
        if copy is False:
            raise BufferError("the exported memory is read-only: it cannot be a tensor's")
        array = array.copy()
    return from_numpy(array)


def _filled(
    size: tuple[Any, ...], value: Any, dtype: Any, device: Any, requires_grad: bool
) -> Tensor:
    target = resolve_dtype(dtype) or default_float()
    shape = new_shape(size)
    try:
        array = np.full(shape, value, target.np)
    except OverflowError:
        raise RuntimeError(_overflow(target)) from None
    return finished(array, value, device, requires_grad)


@reported("aten::zeros")
@placed
def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros, in the default dtype unless told otherwise."""
    return _filled(size, 0, dtype, device, requires_grad)


@reported("aten::ones")
@placed
def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones, in the default dtype unless told otherwise."""
    return _filled(size, 1, dtype, device, requires_grad)


@reported("aten::empty")
@placed
def empty(
    *size: Any,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Like `zeros`: what torch leaves uninitialised is zero here, so that results can be repeated."""
    check_format("empty", memory_format)
    if memory_format is preserve_format:
        raise RuntimeError("unsupported memory format Preserve")
    return _filled(size, 0, dtype, device, requires_grad)


@reported("aten::full")
@placed
def full(
    size: Sequence[int],
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of one value; its dtype follows the value unless told otherwise."""
    value = fill_value.item() if isinstance(fill_value, Tensor) else fill_value
    refuse_complex("full", value)
    target = resolve_dtype(dtype) or number_dtype(value)
    return _filled((tuple(size),), value, target, device, requires_grad)


def constant_like(x: Tensor, value: Any) -> Tensor:
    """A number in the shape and dtype of `x`; for a stack of examples, that of one."""
    return _filled((x._data.shape,), value, x.dtype, None, False)


def _new(
    input: Tensor, size: tuple[Any, ...], value: Any, dtype: Any, device: Any, requires_grad: bool
) -> Tensor:
    """A tensor made for `input`: where that is a stack of examples (of ``vmap``) there is one for each."""
    out = _filled(size, value, resolve_dtype(dtype) or input.dtype, device, requires_grad)
    if not is_lifted(input):
        return out
    stack = mark_made(_for_examples(out, input))
    return stack._ask_for_grad() if requires_grad else stack


def _for_examples(x: Tensor, like: Tensor) -> Tensor:
    if not is_lifted(like):
        return x
    data: Any = like._data
    below = _for_examples(x, data.physical)
    return data.level.repeated(below) if data.batched else below


def _like(input: Tensor, value: Any, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    return _new(input, (input._data.shape,), value, dtype, device, requires_grad)


@reported("aten::zeros_like")
@placed
def zeros_like(
    input: Tensor,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Zeros of the shape and dtype of `input`."""
    check_format("zeros_like", memory_format)
    return _like(input, 0, dtype, device, requires_grad)


@reported("aten::ones_like")
@placed
def ones_like(
    input: Tensor,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Ones of the shape and dtype of `input`."""
    check_format("ones_like", memory_format)
    return _like(input, 1, dtype, device, requires_grad)


@reported("aten::empty_like")
@placed
def empty_like(
    input: Tensor,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Like `zeros_like`; see `empty`."""
    check_format("empty_like", memory_format)
    return _like(input, 0, dtype, device, requires_grad)


@reported("aten::full_like")
@placed
def full_like(
    input: Tensor,
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """One value in the shape and dtype of `input`."""
    check_format("full_like", memory_format)
    refuse_complex("full_like", fill_value)
    return _like(input, fill_value, dtype, device, requires_grad)


@reported("aten::new_empty")
@placed
def new_empty(
    input: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Like `new_zeros`; see `empty`."""
    return _new(input, size, 0, dtype, device, requires_grad)


@reported("aten::new_zeros")
@placed
def new_zeros(
    input: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Zeros of a given shape in the dtype of `input`."""
    return _new(input, size, 0, dtype, device, requires_grad)


@reported("aten::new_ones")
@placed
def new_ones(
    input: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Ones of a given shape in the dtype of `input`."""
    return _new(input, size, 1, dtype, device, requires_grad)


@reported("aten::new_full")
@placed
def new_full(
    input: Tensor,
    size: Sequence[int],
    fill_value: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """One value in a given shape, in the dtype of `input`."""
    refuse_complex("new_full", fill_value)
    return _new(input, (tuple(size),), fill_value, dtype, device, requires_grad)


def new_tensor(
    input: Tensor, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """`tensor(data)` in the dtype of `input`."""
    dtype = resolve_dtype(dtype) or input.dtype
    return tensor(data, dtype=dtype, device=device, requires_grad=requires_grad)


@reported("aten::arange")
@placed
def arange(
    start: Any = None,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """start, start + step, ... below end.

    Raises:
        RuntimeError: the step is zero or leads away from the end.
    """
    if end is None:
        start, end = 0, start
        if end is None:
            raise TypeError("arange() missing 1 required positional argument: 'end'")
    start = 0 if start is None else start
    start, end, step = (v.item() if isinstance(v, Tensor) else v for v in (start, end, step))
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if (end - start) * step < 0:
        raise RuntimeError("upper bound and lower bound inconsistent with step sign")
    integers = all(isinstance(v, (int, np.integer)) for v in (start, end, step))
    target = resolve_dtype(dtype) or (int64 if integers else default_float())
    count = math.ceil((end - start) / step)
    values = np.asarray(start + step * np.arange(count)).astype(target.np)
    return finished(values, list_source(values), device, requires_grad)


def list_source(values: np.ndarray) -> Any:
    """What tells a trace that an array depends on nothing but Python numbers."""
    return values.tolist()


@reported("aten::linspace")
@placed
def linspace(
    start: Any,
    end: Any,
    steps: int,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` evenly spaced values from start to end, both included."""
    target = resolve_dtype(dtype) or default_float()
    start, end = number_ends("linspace", start, end)
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    one = target.np.type
    if target.is_floating and steps > 1:
        # As torch, to the last bit: counted from both ends, with fused multiply and add.
        wide = np.float64 if target is float32 else np.longdouble
        width = wide((one(end) - one(start)) / one(steps - 1))
        up = wide(one(start)) + width * np.arange(steps)
        down = wide(one(end)) - width * np.arange(steps - 1, -1, -1)
        values = np.where(np.arange(steps) < steps // 2, up, down)
    else:
        values = np.linspace(start, end, steps)
    values = np.asarray(values).astype(target.np)
    return finished(values, list_source(values), device, requires_grad)


def number_ends(function: str, start: Any, end: Any) -> list[Any]:
    """Both as numbers."""
    for name, value in (("start", start), ("end", end)):
        if isinstance(value, Tensor) and value._data.ndim:
            raise RuntimeError(
                f"{function} only supports 0-dimensional start and end tensors, but got {name} with "
                f"{value._data.ndim} dimension(s)."
            )
    return [v.item() if isinstance(v, Tensor) else v for v in (start, end)]


@reported("aten::eye")
@placed
def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """The identity matrix: made where it is used, if it is compiled."""
    if device is not None:
        Device(device)
    for name, extent in (("n", n), ("m", m)):
        if extent is not None and extent < 0:
            raise RuntimeError(f"{name} must be greater or equal to 0, got {extent}")
    ones = iota(n).unsqueeze(-1) == iota(n if m is None else m)
    out = ones.to(resolve_dtype(dtype) or default_float())
    return check_ready_for_grad(out) if requires_grad else out


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinate grids of vectors."""
    vectors = (
        list(tensors[0])
        if len(tensors) == 1 and not isinstance(tensors[0], Tensor)
        else list(tensors)
    )
    if indexing not in ("ij", "xy"):
        raise RuntimeError(
            f'torch.meshgrid: indexing must be one of "xy" or "ij", but received: {indexing}'
        )
    swap = indexing == "xy" and len(vectors) > 1
    if swap:
        vectors[0], vectors[1] = vectors[1], vectors[0]
    shape = tuple(v.numel() for v in vectors)
    grids = [
        v.reshape((1,) * i + (-1,) + (1,) * (len(vectors) - i - 1)).expand(shape)
        for i, v in enumerate(vectors)
    ]
    if swap:
        grids[0], grids[1] = grids[1], grids[0]
    return tuple(grids)


def iota(size: int, dtype: DType = int64) -> Tensor:
    """0, 1, ..., size - 1, made where it is used."""
    return apply(registered("iota"), (), {"size": size, "dtype": dtype})


def is_tensor(value: Any) -> bool:
    """Whether a value is a Tensor."""
    return isinstance(value, Tensor)


def is_inference(input: Tensor) -> bool:
    """Whether a tensor was made in inference mode. Raises TypeError for what is no Tensor."""
    if not isinstance(input, Tensor):
        raise TypeError(
            f"is_inference(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}"
        )
    return input.is_inference()


def one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    """int64 rows with a single one at the position given by each element."""
    count = int(input.max().item()) + 1 if num_classes == -1 else num_classes
    return (input.unsqueeze(-1) == iota(count)).to(int64)
