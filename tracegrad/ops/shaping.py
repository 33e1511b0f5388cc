"""Functions that rearrange elements. Those that torch makes views of share the storage here as well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.dispatch import apply, composite, shown_as
from tracegrad.ir.op import registered
from tracegrad.ops.arguments import canonical_dim, result_dtype, shape_from, to_dtype
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, is_lifted
from tracegrad.views import apply_view

_reshape = registered("reshape")
_permute = registered("permute")
_broadcast = registered("broadcast_in_dim")
_slice = registered("slice")
_flip = registered("flip")
_copy = registered("copy")
_concat = registered("concat")


def _complete_shape(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Replace a -1 in a shape by the extent that fits."""
    for position, n in enumerate(shape):
        if n < -1:
            raise RuntimeError(
                f"invalid shape dimension {n} at index {position} of shape {list(shape)}"
            )
    if shape.count(-1) > 1:
        raise RuntimeError("only one dimension can be inferred")
    if -1 in shape:
        known = math.prod(n for n in shape if n != -1)
        if known == 0 and size == 0:
            raise RuntimeError(
                f"cannot reshape tensor of 0 elements into shape {list(shape)} because the unspecified "
                "dimension size -1 can be any value and is ambiguous"
            )
        if known and size % known == 0:
            return tuple(size // known if n == -1 else n for n in shape)
        raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {size}")
    if math.prod(shape) != size:
        raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {size}")
    return shape


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The elements in row-major order in another shape; one extent may be -1. A view where that is possible."""
    target = _complete_shape(shape_from(shape), input._data.size)
    return apply_view(_reshape, input, {"shape": target})


def view(input: Tensor, *shape: Any) -> Tensor:
    """Like `reshape`, but never copies (``view(dtype)`` converts nothing and is refused).

    Raises:
        RuntimeError: the layout does not allow a view.
    """
    target = _complete_shape(shape_from(shape), input._data.size)
    try:
        if not is_lifted(input):
            input._data.view().shape = target
    except AttributeError:
        raise RuntimeError(
            "view size is not compatible with input tensor's size and stride (at least one dimension "
            "spans across two contiguous subspaces). Use .reshape(...) instead."
        ) from None
    return apply_view(_reshape, input, {"shape": target})


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """`view` with the shape of another tensor."""
    return view(input, other.shape)


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """`reshape` to the shape of another tensor."""
    return reshape(input, other.shape)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Merge dimensions `start_dim` to `end_dim`."""
    n = input._data.ndim
    start, end = canonical_dim(start_dim, n), canonical_dim(end_dim, n)
    if n == 0:
        return reshape(input, 1)
    if start > end:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    shape = input._data.shape
    return reshape(input, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension."""
    return reshape(input, -1) if input._data.size else reshape(input, 0)


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Split one dimension into several."""
    axis = canonical_dim(dim, input._data.ndim)
    shape = input._data.shape
    inner = _complete_shape(tuple(sizes), shape[axis])
    return reshape(input, (*shape[:axis], *inner, *shape[axis + 1 :]))


def permute(input: Tensor, *dims: Any) -> Tensor:
    """Reorder the dimensions."""
    given = shape_from(dims)
    n = input._data.ndim
    if len(given) != n:
        raise RuntimeError(
            "permute(sparse_coo): number of dimensions in the tensor input does not match the length of "
            f"the desired ordering of dimensions i.e. input.dim() = {n} is not equal to len(dims) = "
            f"{len(given)}"
        )
    axes = tuple(canonical_dim(d, n) for d in given)
    if len(set(axes)) != len(axes):
        raise RuntimeError("permute(): duplicate dims are not allowed.")
    return apply_view(_permute, input, {"dims": axes})


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Exchange two dimensions."""
    n = input._data.ndim
    a, b = canonical_dim(dim0, n), canonical_dim(dim1, n)
    axes = list(range(n))
    if n:
        axes[a], axes[b] = axes[b], axes[a]
    return shown_as(apply_view(_permute, input, {"dims": tuple(axes)}), "TransposeBackward0", input)


swapaxes = swapdims = transpose


def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; tensors of rank 0 and 1 as they are.

    Raises:
        RuntimeError: rank above 2.
    """
    if input._data.ndim > 2:
        raise RuntimeError(
            f"t() expects a tensor with <= 2 dimensions, but self is {input._data.ndim}D"
        )
    dims = (1, 0) if input._data.ndim == 2 else tuple(range(input._data.ndim))
    return shown_as(apply_view(_permute, input, {"dims": dims}), "TBackward0", input)


def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Move dimensions to other places, the rest in order."""
    n = input._data.ndim
    sources = [canonical_dim(d, n) for d in ((source,) if isinstance(source, int) else source)]
    targets = [
        canonical_dim(d, n)
        for d in ((destination,) if isinstance(destination, int) else destination)
    ]
    order = [d for d in range(n) if d not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    return permute(input, order)


moveaxis = movedim


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Insert a dimension of extent 1."""
    axis = canonical_dim(dim, input._data.ndim + 1)
    shape = input._data.shape
    result = apply_view(_reshape, input, {"shape": (*shape[:axis], 1, *shape[axis:])})
    return shown_as(result, "UnsqueezeBackward0", input)


def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Remove dimensions of extent 1 (of those named, or all)."""
    shape = input._data.shape
    n = len(shape)
    if dim is None:
        axes = set(range(n))
    else:
        dims = (dim,) if isinstance(dim, int) else dim
        axes = {canonical_dim(d, n) for d in dims}
    kept = tuple(extent for i, extent in enumerate(shape) if extent != 1 or i not in axes)
    version = 0 if dim is None else 1 if isinstance(dim, int) else 2
    return shown_as(
        apply_view(_reshape, input, {"shape": kept}), f"SqueezeBackward{version}", input
    )


def broadcast_to(input: Tensor, shape: Sequence[int]) -> Tensor:
    """A read-only view with dimensions of extent 1 repeated."""
    return expand(input, *shape)


def expand(input: Tensor, *sizes: Any) -> Tensor:
    """A view with dimensions of extent 1 repeated; -1 keeps an extent."""
    target = list(shape_from(sizes))
    shape = input._data.shape
    lead = len(target) - len(shape)
    if lead < 0:
        raise RuntimeError(
            f"expand(torch.FloatTensor{{{list(shape)}}}, size={target}): the number of sizes provided "
            f"({len(target)}) must be greater or equal to the number of dimensions in the tensor "
            f"({len(shape)})"
        )
    for i, extent in enumerate(target):
        if extent == -1:
            if i < lead:
                raise RuntimeError(
                    f"The expanded size of the tensor (-1) isn't allowed in a leading, non-existing "
                    f"dimension {i}"
                )
            target[i] = shape[i - lead]
    dims = tuple(range(lead, len(target)))
    attrs = {"shape": tuple(target), "dims": dims}
    for axis, dim in enumerate(dims):
        if shape[axis] not in (1, target[dim]):
            raise RuntimeError(
                f"The expanded size of the tensor ({target[dim]}) must match the existing size "
                f"({shape[axis]}) at non-singleton dimension {dim}.  Target sizes: {target}.  "
                f"Tensor sizes: {list(shape)}"
            )
    return apply_view(_broadcast, input, attrs)


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """`expand` to the shape of another tensor."""
    return expand(input, other.shape)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All tensors expanded to their common shape."""
    shape = np.broadcast_shapes(*(x._data.shape for x in tensors))
    return tuple(expand(x, shape) for x in tensors)


def contiguous(input: Tensor, memory_format: Any = None) -> Tensor:
    """Itself if its elements are in row-major order without gaps, else a copy that is."""
    if input._data.flags.c_contiguous:
        return input
    out = apply(_copy, (input,))
    if not is_lifted(out):
        out._data = np.ascontiguousarray(out._data)
    return out


def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """The view of `length` elements from `start` on along `dim`."""
    axis = canonical_dim(dim, input._data.ndim)
    extent = input._data.shape[axis]
    begin = int(start)
    begin = begin + extent if begin < 0 else begin
    if not 0 <= begin <= extent or begin + length > extent or length < 0:
        raise RuntimeError(
            f"start ({begin}) + length ({length}) exceeds dimension size ({extent})."
        )
    return slice_along(input, axis, begin, begin + length)


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
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """The view at one position of a dimension, which disappears."""
    axis = canonical_dim(dim, input._data.ndim)
    extent = input._data.shape[axis]
    position = int(index)
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
    """All slices along a dimension."""
    axis = canonical_dim(dim, input._data.ndim)
    return tuple(
        shown_as(select(input, axis, i), "UnbindBackward0", input)
        for i in range(input._data.shape[axis])
    )


@reported("aten::split")
def split(input: Tensor, split_size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Consecutive pieces of the given size (the last may be smaller), or of the given sizes."""
    axis = canonical_dim(dim, input._data.ndim)
    extent = input._data.shape[axis]
    if isinstance(split_size, int):
        if split_size <= 0:
            raise RuntimeError(
                f"split expects split_size be non-negative, but got split_size={split_size}"
            )
        sizes = [split_size] * (extent // split_size)
        if extent % split_size or not sizes:
            sizes.append(extent % split_size)
    else:
        sizes = list(split_size)
        if sum(sizes) != extent:
            raise RuntimeError(
                f"split_with_sizes expects split_sizes to sum exactly to {extent} (input tensor's size at "
                f"dimension {axis}), but got split_sizes={sizes}"
            )
    name = "SplitBackward0" if isinstance(split_size, int) else "SplitWithSizesBackward0"
    pieces, start = [], 0
    for size in sizes:
        pieces.append(shown_as(slice_along(input, axis, start, start + size), name, input))
        start += size
    return tuple(pieces)


@reported("aten::chunk")
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` pieces of equal size."""
    axis = canonical_dim(dim, input._data.ndim)
    if chunks <= 0:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    return split(input, max(1, -(-input._data.shape[axis] // chunks)), axis)


def flip(input: Tensor, *dims: Any) -> Tensor:
    """Reverse the order along dimensions. A copy."""
    axes = tuple(sorted(canonical_dim(d, input._data.ndim) for d in shape_from(dims)))
    return reverse(input, axes)


def reverse(input: Tensor, axes: tuple[int, ...]) -> Tensor:
    """`flip` with canonical axes."""
    out = apply(_flip, (input,), {"axes": axes})
    out._data = out._data.copy()  # NumPy's is a view; nobody would notice changes through it.
    return out


@composite("RollBackward0")
def roll(input: Tensor, shifts: int | Sequence[int], dims: Any = None) -> Tensor:
    """Shift elements along dimensions; those that leave come in at the other end."""
    if dims is None:
        if not isinstance(shifts, int):
            raise TypeError(
                f"roll(): shifts must be an int where dims is None, not {type(shifts).__name__}"
            )
        return reshape(roll(ravel(input), shifts, 0), input.shape)
    pairs = zip(
        (shifts,) if isinstance(shifts, int) else shifts,
        (dims,) if isinstance(dims, int) else dims,
        strict=True,
    )
    result = apply(_copy, (input,))
    for shift, dim in pairs:
        axis = canonical_dim(dim, result._data.ndim)
        extent = result._data.shape[axis]
        if extent and shift % extent:
            cut = extent - shift % extent
            result = cat(
                [slice_along(result, axis, cut, extent), slice_along(result, axis, 0, cut)], axis
            )
    return result


def cat(tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor | None = None) -> Tensor:
    """Join tensors along a dimension that they have.

    Raises:
        RuntimeError: sizes do not match.
        ValueError: the list is empty.
    """
    parts = list(tensors)
    if not parts:
        raise ValueError("torch.cat(): expected a non-empty list of Tensors")
    for position, part in enumerate(parts):
        if not isinstance(part, Tensor):
            raise TypeError(
                f"expected Tensor as element {position} in argument 0, but got {type(part).__name__}"
            )
        if part._data.ndim == 0:
            raise RuntimeError("zero-dimensional tensor (at position 0) cannot be concatenated")
    # torch lets empty one-dimensional tensors be joined with anything.
    full = [p for p in parts if p._data.shape != (0,)] or parts[:1]
    axis = canonical_dim(dim, full[0]._data.ndim)
    first = full[0]._data.shape
    for position, part in enumerate(full):
        shape = part._data.shape
        if len(shape) != len(first):
            raise RuntimeError(
                f"Tensors must have same number of dimensions: got {len(first)} and {len(shape)}"
            )
        for i, (m, n) in enumerate(zip(first, shape, strict=True)):
            if i != axis and m != n:
                raise RuntimeError(
                    f"Sizes of tensors must match except in dimension {axis}. Expected size {m} but got "
                    f"size {n} for tensor number {position} in the list."
                )
    dtype = result_dtype(*parts)
    result = apply(_concat, tuple(to_dtype(p, dtype) for p in full), {"axis": axis})
    return result if out is None else out.copy_(result)


concat = concatenate = cat


@composite("StackBackward0")
def _stack(*tensors: Tensor, axis: int) -> Tensor:
    return cat([unsqueeze(x, axis) for x in tensors], axis)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors of one shape along a new dimension."""
    parts = list(tensors)
    if not parts:
        raise RuntimeError("stack expects a non-empty TensorList")
    for position, part in enumerate(parts):
        if part._data.shape != parts[0]._data.shape:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(parts[0].shape)} at entry 0 "
                f"and {list(part.shape)} at entry {position}"
            )
    return _stack(*parts, axis=canonical_dim(dim, parts[0]._data.ndim + 1))


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the second dimension (the first for rank 1)."""
    parts = [x if x._data.ndim else unsqueeze(x, 0) for x in tensors]
    return cat(parts, 0 if parts[0]._data.ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the first dimension, rows."""
    rows = [reshape(x, 1, 1) if x._data.ndim == 0 else x for x in tensors]
    return cat([unsqueeze(x, 0) if x._data.ndim == 1 else x for x in rows], 0)


@composite("RepeatBackward0")
def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """Copies of the tensor side by side, as many as `repeats` says along each dimension."""
    counts = shape_from(repeats)
    lead = len(counts) - input._data.ndim
    if lead < 0:
        raise RuntimeError(
            "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor"
        )
    shape = (1,) * lead + input._data.shape
    interleaved = [n for pair in zip((1,) * len(shape), shape, strict=True) for n in pair]
    spread = [n for pair in zip(counts, shape, strict=True) for n in pair]
    wide = expand(reshape(input, interleaved), spread)
    result = reshape(wide, tuple(a * b for a, b in zip(counts, shape, strict=True)))
    return result if result._base is None else apply(_copy, (result,))


def tile(input: Tensor, dims: Sequence[int]) -> Tensor:
    """`repeat`, with missing leading counts taken as 1."""
    counts = (1,) * (input._data.ndim - len(dims)) + tuple(dims)
    return repeat(input, counts)


def mT(input: Tensor) -> Tensor:  # noqa: N802 (torch's name)
    """The last two dimensions exchanged."""
    if input._data.ndim < 2:
        raise RuntimeError(
            f"tensor.mT is only supported on matrices or batches of matrices. Got {input._data.ndim}-D tensor."
        )
    return transpose(input, -2, -1)


def T(input: Tensor) -> Tensor:  # noqa: N802 (torch's name)
    """All dimensions in reverse order."""
    return permute(input, tuple(range(input._data.ndim))[::-1])
