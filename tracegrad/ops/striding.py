"""Views of parts of a tensor: slices, pieces, diagonals, windows, any strides, and the same memory as another dtype.

All of them share the storage. Those that return several views, such as `split`, end in
:func:`tracegrad.views.apply_pieces`.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.dispatch import apply, shown_as
from tracegrad.grad_mode import state
from tracegrad.ir.memory import address, owner
from tracegrad.ir.op import registered
from tracegrad.ir.ops.strided import place_diagonal
from tracegrad.ir.types import DType, int64
from tracegrad.ops.arguments import canonical_dim, shape_from, to_dtype
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, is_lifted, new_tensor
from tracegrad.views import (
    Creation,
    apply_pieces,
    apply_view,
    layout,
    share_storage,
    storage_offset,
)

_slice = registered("slice")
_reshape = registered("reshape")
_diagonal = registered("diagonal")
_unfold = registered("unfold")
_as_strided = registered("as_strided")
_copy = registered("copy")
_slice_update = registered("slice_update")
_strided_update = registered("strided_update")


def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """The view of `length` elements from `start` (a number or a 0-d integer tensor) on along `dim`.

    Raises:
        RuntimeError: the range leaves the tensor.
        IndexError: `start` is out of range.
    """
    if input._data.ndim == 0:
        raise RuntimeError("narrow() cannot be applied to a 0-dim tensor.")
    if isinstance(start, Tensor) and (start._data.ndim or start._data.dtype.kind not in "iu"):
        raise RuntimeError("start must be an 0-dim integral Tensor.")
    if length < 0:
        raise RuntimeError("narrow(): length must be non-negative.")
    axis = canonical_dim(dim, input._data.ndim)
    extent = input._data.shape[axis]
    begin = int(start)
    if not -extent <= begin <= extent:
        raise IndexError(
            f"start out of range (expected to be in range of [{-extent}, {extent}], but got {begin})"
        )
    begin = begin + extent if begin < 0 else begin
    if begin + length > extent:
        raise RuntimeError(
            f"start ({begin}) + length ({length}) exceeds dimension size ({extent})."
        )
    return shown_as(slice_along(input, axis, begin, begin + length), "SliceBackward0", input)


def slice_along(input: Tensor, axis: int, start: int, limit: int, step: int = 1) -> Tensor:
    """The view of positions start, start + step, ... below limit along one dimension."""
    shape = input._data.shape
    n = len(shape)
    attrs = {
        "start": tuple(start if i == axis else 0 for i in range(n)),
        "limit": tuple(limit if i == axis else shape[i] for i in range(n)),
        "stride": tuple(step if i == axis else 1 for i in range(n)),
    }
    return apply_view(_slice, input, attrs)


@reported("aten::select")
def select(input: Tensor, dim: int, index: Any) -> Tensor:
    """The view at one position of a dimension, which disappears.

    Raises:
        IndexError: there is no such position or dimension.
    """
    if input._data.ndim == 0:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    axis = canonical_dim(dim, input._data.ndim)
    extent = input._data.shape[axis]
    position = operator.index(index)
    if not -extent <= position < extent:
        raise IndexError(
            f"select(): index {position} out of range for tensor of size {list(input.shape)} at "
            f"dimension {axis}"
        )
    return at_position(input, axis, position)


def at_position(input: Tensor, axis: int, position: int) -> Tensor:
    """`select` with arguments that are known to be right. Hot: `x[i]` ends here."""
    shape = input._data.shape
    before, after = shape[:axis], shape[axis + 1 :]
    position %= shape[axis]
    start = (0,) * axis + (position,) + (0,) * len(after)
    attrs = {"start": start, "limit": (*before, position + 1, *after), "stride": (1,) * len(shape)}
    part = apply_view(_slice, input, attrs)
    part = apply_view(_reshape, part, {"shape": before + after})
    return shown_as(part, "SelectBackward0", input) if part._requires_grad else part


@reported("aten::unbind")
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """All slices along a dimension.

    Raises:
        IndexError: there is no such dimension.
    """
    if input._data.ndim == 0:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    axis = canonical_dim(dim, input._data.ndim)
    sizes = (1,) * input._data.shape[axis]
    return apply_pieces("UnbindBackward0", input, axis, sizes, drop=True)


@reported("aten::split")
def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Consecutive pieces of the given size (the last may be smaller), or of the given sizes.

    Raises:
        RuntimeError: the sizes are negative or do not add up to the extent.
    """
    size = split_size_or_sections
    if not isinstance(size, (int, np.integer)):
        return split_with_sizes(tensor, size, dim)
    if tensor._data.ndim == 0:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    axis = canonical_dim(dim, tensor._data.ndim)
    extent = tensor._data.shape[axis]
    if size < 0:
        raise RuntimeError(f"split expects split_size be non-negative, but got split_size={size}")
    if size == 0 and extent:
        raise RuntimeError(
            f"split_size can only be 0 if dimension size is 0, but got dimension size of {extent}"
        )
    sizes = [int(size)] * (extent // size if size else 1)
    if size and (extent % size or not sizes):
        sizes.append(extent % size)
    return apply_pieces("SplitBackward0", tensor, axis, sizes)


@reported("aten::split_with_sizes")
def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Consecutive pieces of the given sizes.

    Raises:
        RuntimeError: the sizes are negative or do not add up to the extent.
    """
    if isinstance(split_sizes, str):
        raise TypeError(
            "split_with_sizes(): argument 'split_sizes' (position 2) must be tuple of ints, not str"
        )
    if input._data.ndim == 0:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    axis = canonical_dim(dim, input._data.ndim)
    extent = input._data.shape[axis]
    sizes = [operator.index(n) for n in split_sizes]
    if any(n < 0 for n in sizes):
        raise RuntimeError(
            "split_with_sizes expects split_sizes have only non-negative entries, but got "
            f"split_sizes={sizes}"
        )
    if sum(sizes) != extent:
        raise RuntimeError(
            f"split_with_sizes expects split_sizes to sum exactly to {extent} (input tensor's size at "
            f"dimension {axis}), but got split_sizes={sizes}"
        )
    return apply_pieces("SplitWithSizesBackward0", input, axis, sizes)


@reported("aten::chunk")
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` pieces of equal size."""
    if input._data.ndim == 0:
        raise RuntimeError("chunk expects at least a 1-dimensional tensor")
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    extent = input._data.shape[canonical_dim(dim, input._data.ndim)]
    if extent == 0:
        return split_with_sizes(input, (0,) * chunks, dim)
    return split(input, max(1, -(-extent // chunks)), dim)


def _either_name(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """Have a function take ``indices`` or ``sections``, as torch's overloads call them, for `indices_or_sections`."""

    @functools.wraps(function)
    def wrapped(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        for name in ("indices", "sections", "tensor_indices_or_sections"):
            if name in kwargs and not args:
                kwargs["indices_or_sections"] = kwargs.pop(name)
                break
        return function(input, *args, **kwargs)

    return wrapped


@reported("aten::tensor_split")
@_either_name
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces between the given positions, or so many of nearly equal size: each a slice of its own.

    Raises:
        RuntimeError: the tensor has no dimensions, or the number of sections is not positive.
    """
    if input._data.ndim == 0:
        raise RuntimeError(
            "tensor_split expected at least a 1-dimensional tensor, but got a tensor with 0 dims"
        )
    axis = canonical_dim(dim, input._data.ndim)
    extent = input._data.shape[axis]
    given = indices_or_sections
    if isinstance(given, Tensor):
        if given.dtype is not int64:
            raise RuntimeError(
                "tensor_split expected tensor_indices_or_sections to have dtype of long, but got "
                f"{given.dtype.legacy_name}"
            )
        given = given.tolist()
    if isinstance(given, (int, np.integer)):
        if given <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {given}")
        size, larger = divmod(extent, given)
        bounds = [i * size + min(i, larger) for i in range(given + 1)]
        pairs = list(itertools.pairwise(bounds))
    else:
        cuts = [operator.index(i) for i in given]
        pairs = list(zip([0, *cuts], [*cuts, extent], strict=True))
    pieces = []
    for begin, end in pairs:
        start, stop, _ = slice(begin, end).indices(extent)
        piece = slice_along(input, axis, start, max(start, stop))
        pieces.append(shown_as(piece, "SliceBackward0", input))
    return tuple(pieces)


def _split_evenly(
    input: Tensor, sections: Any, name: str, rank: int, axis: int
) -> tuple[Tensor, ...]:
    n = input._data.ndim
    if n < rank:
        raise RuntimeError(
            f"torch.{name} requires a tensor with at least {rank} dimension, but got a tensor with {n} "
            "dimensions!"
        )
    extent = input._data.shape[axis]
    if isinstance(sections, (int, np.integer)) and (not sections or extent % sections):
        raise RuntimeError(
            f"torch.{name} attempted to split along dimension {axis}, but the size of the dimension "
            f"{extent} is not divisible by the split_size {sections}!"
        )
    return tensor_split(input, sections, axis)


@reported("aten::hsplit")
@_either_name
def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """`tensor_split` along the second dimension (the first for rank 1), without remainder."""
    return _split_evenly(input, indices_or_sections, "hsplit", 1, 0 if input._data.ndim < 2 else 1)


@reported("aten::vsplit")
@_either_name
def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """`tensor_split` along the first dimension, without remainder."""
    return _split_evenly(input, indices_or_sections, "vsplit", 2, 0)


@reported("aten::dsplit")
@_either_name
def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """`tensor_split` along the third dimension, without remainder."""
    return _split_evenly(input, indices_or_sections, "dsplit", 3, 2)


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The view of the diagonal of two dimensions, as the last one.

    Raises:
        RuntimeError: the dimensions are the same.
        IndexError: there is no such dimension.
    """
    n = input._data.ndim
    a, b = canonical_dim(dim1, n), canonical_dim(dim2, n)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    return _strided_view(_diagonal, input, {"offset": offset, "dim1": a, "dim2": b})


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """The view of windows of `size` elements along a dimension, every `step` elements; a dimension more.

    Raises:
        RuntimeError: size or step are out of range.
    """
    axis = canonical_dim(dimension, input._data.ndim)
    extent = input._data.shape[axis] if input._data.ndim else 1
    if size < 0:
        raise RuntimeError(f"size is {size} but must be >= 0")
    if size > extent:
        raise RuntimeError(
            f"maximum size for tensor at dimension {axis} is {extent} but size is {size}"
        )
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    if not input._data.ndim:
        window = slice_along(apply_view(_reshape, input, {"shape": (1,)}), 0, 0, size)
        return shown_as(window, "UnfoldBackward0", input)
    return _strided_view(_unfold, input, {"dim": axis, "size": size, "step": step})


def _strided_view(op: Any, x: Tensor, attrs: dict[str, Any]) -> Tensor:
    """Apply an op whose result always shares the storage."""
    if is_lifted(x):
        return apply_view(op, x, attrs)
    out = apply(op, (x,), attrs)
    share_storage(out, x, op, attrs)
    return out


def as_strided(
    input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """The view of the storage with any shape, strides and offset, in elements.

    Raises:
        RuntimeError: it would leave the storage, or strides are negative.
        NotImplementedError: a gradient is asked for and `input` shows one element several times.
    """
    shape, strides = shape_from((size,)), shape_from((stride,))
    own = layout(input)
    lifted = is_lifted(input)
    offset = own[1] if storage_offset is None else operator.index(storage_offset)
    check_geometry(input, shape, strides, offset)
    if state.trace is not None and not lifted:
        state.trace.give_up("as_strided, which depends on where a tensor stands in memory")
    repeated = any(n > 1 and s == 0 for n, s in zip(input._data.shape, own[0], strict=True))
    if repeated and input.requires_grad and state.grad:
        raise NotImplementedError(
            "as_strided: the gradient with respect to an expanded tensor is not supported.\n"
            "Call contiguous() first."
        )
    target = shape, strides, offset
    out = apply(_as_strided, (input,), {"source": (input._data.shape, *own), "target": target})
    if lifted:
        return out
    # What is written through the view may lie outside of `input`: it is a view of the base.
    base = input if input._base is None else input._base
    attrs = {"source": (base._data.shape, *layout(base)), "target": target}
    creation = Creation.REGULAR if input._base is None else input._view[3]
    share_storage(out, base, _as_strided, attrs, creation)
    return out


def _storage_size(x: Tensor) -> int:
    """In bytes."""
    if is_lifted(x):
        return math.prod(x._data.shape) * x._data.dtype.itemsize
    return owner(x._data).nbytes


def check_geometry(
    x: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    """Raise torch's error if the storage of `x` has no such elements."""
    if len(shape) != len(strides):
        raise RuntimeError("mismatch in length of strides and shape")
    if any(s < 0 for s in strides):
        raise RuntimeError(
            "as_strided: Negative strides are not supported at the moment, got strides: "
            f"{list(strides)}"
        )
    if any(n < 0 for n in shape):
        raise RuntimeError(
            f"Storage size calculation overflowed with sizes={list(shape)} and strides={list(strides)}"
        )
    if offset < 0:
        raise RuntimeError(f"Tensor: invalid storage offset {offset}")
    last = sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    itemsize, available = x._data.dtype.itemsize, _storage_size(x)
    required = (offset + last + 1) * itemsize if 0 not in shape else 0
    if required > available:
        raise RuntimeError(
            f"setStorage: sizes {list(shape)}, strides {list(strides)}, storage offset {offset}, and itemsize "
            f"{itemsize} requiring a storage size of {required} are out of bounds for storage of size {available}"
        )


@reported("aten::narrow_copy")
def narrow_copy(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """`narrow`, copied."""
    return shown_as(
        apply(_copy, (narrow(input, dim, start, length),)), "NarrowCopyBackward0", input
    )


def _source(src: Tensor, like: Tensor, shape: Sequence[int]) -> Tensor:
    """What is to replace a part of this shape.

    Raises:
        RuntimeError: it is of another shape.
    """
    if src._data.shape != tuple(shape):
        raise RuntimeError(
            "expected src to have a size equal to the slice of self. src size = "
            f"{list(src.shape)}, slice size = {list(shape)}"
        )
    return to_dtype(src, like.dtype)


def _replaced(
    input: Tensor, src: Tensor, axis: int, start: int, count: int, step: int, *, drop: bool
) -> Tensor:
    """A copy of `input` with `count` positions of a dimension taken from `src`."""
    shape = input._data.shape
    box = (*shape[:axis], count, *shape[axis + 1 :])
    part = _source(src, input, (*shape[:axis], *shape[axis + 1 :]) if drop else box)
    if drop:
        part = apply(_reshape, (part,), {"shape": box})
    n = len(shape)
    attrs = {
        "start": tuple(start if i == axis else 0 for i in range(n)),
        "sizes": box,
        "stride": tuple(step if i == axis else 1 for i in range(n)),
    }
    return apply(_slice_update, (input, part), attrs)


@reported("aten::select_scatter")
def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy of `input` in which ``select(dim, index)`` is `src`.

    Raises:
        RuntimeError: `src` is not of that shape.
        IndexError: there is no such position or dimension.
    """
    axis = canonical_dim(dim, input._data.ndim)
    select(input, dim, index)  # For its errors.
    position = operator.index(index) % input._data.shape[axis]
    out = _replaced(input, src, axis, position, 1, 1, drop=True)
    return shown_as(out, "SelectScatterBackward0", input, src)


@reported("aten::slice_scatter")
def slice_scatter(
    input: Tensor,
    src: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Tensor:
    """A copy of `input` in which the slice ``start:end:step`` of a dimension is `src`.

    Raises:
        RuntimeError: `src` is not of that shape, or the step is not positive.
    """
    axis = canonical_dim(dim, input._data.ndim)
    if step <= 0:
        raise RuntimeError("slice step must be positive")
    chosen = range(input._data.shape[axis])[start:end:step]
    out = _replaced(input, src, axis, chosen.start, len(chosen), step, drop=False)
    return shown_as(out, "SliceScatterBackward0", input, src)


@reported("aten::diagonal_scatter")
def diagonal_scatter(
    input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Tensor:
    """A copy of `input` in which ``diagonal(offset, dim1, dim2)`` is `src`.

    Raises:
        RuntimeError: `src` is not of that shape.
    """
    shape = diagonal(input, offset, dim1, dim2).shape
    part = _source(src, input, shape)
    n = input._data.ndim
    a, b = canonical_dim(dim1, n), canonical_dim(dim2, n)
    whole = apply(_copy, (input,))
    out = place_diagonal(whole, part, offset=offset, dim1=a, dim2=b)
    return shown_as(out, "DiagonalScatterBackward0", input, src)


@reported("aten::as_strided_scatter")
def as_strided_scatter(
    input: Tensor,
    src: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Tensor:
    """A copy of `input` in which ``as_strided(size, stride, storage_offset)`` is `src`.

    Raises:
        RuntimeError: `src` is not of that shape, or the storage is too small.
    """
    shape, strides = shape_from((size,)), shape_from((stride,))
    own = layout(input)
    offset = own[1] if storage_offset is None else operator.index(storage_offset)
    check_geometry(input, shape, strides, offset)
    part = _source(src, input, shape)
    if state.trace is not None and not is_lifted(input):
        state.trace.give_up("as_strided_scatter, which depends on where a tensor stands in memory")
    attrs = {"source": (input._data.shape, *own), "target": (shape, strides, offset)}
    out = apply(_strided_update, (input, part), attrs)
    return shown_as(out, "AsStridedScatterBackward0", input, src)


def view_as_dtype(input: Tensor, dtype: DType) -> Tensor:
    """The same memory, read as elements of another dtype. There is no derivative.

    Raises:
        RuntimeError: the sizes of the dtypes differ, and the layout does not allow it.
    """
    data, old, new = input._data, input.dtype.itemsize, dtype.itemsize
    words = f"to view {input.dtype.legacy_name} as {dtype.legacy_name} (different element sizes)"
    if old != new:
        if data.ndim == 0:
            raise RuntimeError(f"self.dim() cannot be 0 {words}")
        if data.strides[-1] != old:
            got = data.strides[-1] // old
            raise RuntimeError(f"self.stride(-1) must be 1 {words}, but got {got}")
        ratio = new // old
        if ratio > 1:
            if data.shape[-1] % ratio:
                got = data.shape[-1]
                raise RuntimeError(
                    f"self.size(-1) must be divisible by {ratio} {words}, but got {got}"
                )
            if storage_offset(input) % ratio:
                got = storage_offset(input)
                raise RuntimeError(
                    f"self.storage_offset() must be divisible by {ratio} {words}, but got {got}"
                )
            for axis, stride in enumerate(data.strides[:-1]):
                if stride // old % ratio:
                    raise RuntimeError(
                        f"self.stride({axis}) must be divisible by {ratio} {words}, but got {stride // old}"
                    )
    if state.trace is not None:
        state.trace.give_up("view(dtype), which shows the bits of a tensor's elements")
    out = new_tensor(data.view(dtype.np))
    out._counter = input._version_counter()
    return out


class UntypedStorage:
    """The memory that a tensor and its views share, as ``Tensor.untyped_storage()`` shows it."""

    def __init__(self, memory: np.ndarray) -> None:
        self._memory = memory

    def data_ptr(self) -> int:
        """The address of the first byte."""
        return address(self._memory)

    def nbytes(self) -> int:
        """How many bytes there are."""
        return self._memory.nbytes

    size = __len__ = nbytes

    def __repr__(self) -> str:
        return f"<UntypedStorage of {self.nbytes()} bytes>"


def untyped_storage(input: Tensor) -> UntypedStorage:
    """The memory that this tensor shares with its views."""
    input._escapes("untyped_storage()")
    return UntypedStorage(owner(input._data))
