"""Functions that rearrange elements. Those that torch makes views of share the storage here as well."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.dispatch import apply, composite, shown_as
from tracegrad.ir.op import registered
from tracegrad.ir.types import DType
from tracegrad.memory_format import check_format, contiguous_format, preserve_format
from tracegrad.ops.arguments import (
    canonical_dim,
    distinct_dims,
    new_shape,
    result_dtype,
    shape_argument,
    shape_from,
    to_dtype,
)
from tracegrad.ops.striding import slice_along, view_as_dtype
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, is_lifted
from tracegrad.views import apply_view, transposed

_reshape = registered("reshape")
_permute = registered("permute")
_broadcast = registered("broadcast_in_dim")
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


def reshape(input: Tensor, *shape: Any, **named: Any) -> Tensor:
    """The elements in row-major order in another shape; one extent may be -1. A view where that is possible.

    Raises:
        RuntimeError: the number of elements is another.
        TypeError: the shape is missing, or not made of integers.
    """
    target = _complete_shape(shape_argument("reshape", "shape", shape, named), input._data.size)
    out = apply_view(_reshape, input, {"shape": target})
    if out._base is None:
        return shown_as(out, "UnsafeViewBackward0", input)
    if out._requires_grad and not input.is_contiguous():
        return shown_as(out, "ReshapeAliasBackward0", input)
    return out


def view(input: Tensor, *size: Any, **named: Any) -> Tensor:
    """Like `reshape`, but never copies; or, given a dtype, the same memory read as elements of this dtype.

    Raises:
        RuntimeError: the layout does not allow a view.
    """
    dtype = size[0] if len(size) == 1 and not named else named.get("dtype")
    if isinstance(dtype, DType) and len(size) + len(named) == 1:
        return view_as_dtype(input, dtype)
    if not size and "size" not in named:
        raise TypeError(
            "view() received an invalid combination of arguments - got (), but expected one of:\n"
            " * (torch.dtype dtype)\n * (tuple of ints size)\n"
        )
    target = _complete_shape(shape_argument("view", "size", size, named), input._data.size)
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
    """Merge dimensions `start_dim` to `end_dim`; itself where that is one dimension."""
    n = input._data.ndim
    start, end = canonical_dim(start_dim, n), canonical_dim(end_dim, n)
    if n == 0:
        return reshape(input, 1)
    if start > end:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if start == end:
        return input
    shape = input._data.shape
    return reshape(input, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension."""
    return reshape(contiguous(input), input._data.size)


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Split one dimension into several; one extent may be -1.

    Raises:
        RuntimeError: the sizes do not multiply up to the extent.
    """
    if isinstance(dim, str):
        raise TypeError("unflatten(): argument 'dim' (position 1) must be int, not str")
    axis = canonical_dim(dim, input._data.ndim)
    shape = input._data.shape
    inner = tuple(sizes)
    if not inner:
        raise RuntimeError("unflatten: sizes must be non-empty")
    known = math.prod(n for n in inner if n != -1)
    if inner.count(-1) < 2 and (
        known != shape[axis] if -1 not in inner else not known or shape[axis] % known
    ):
        raise RuntimeError(
            f"unflatten: Provided sizes {list(inner)} don't multiply up to the size of dim {axis} "
            f"({shape[axis]}) in the input tensor"
        )
    inner = _complete_shape(inner, shape[axis])
    return reshape(input, (*shape[:axis], *inner, *shape[axis + 1 :]))


def permute(input: Tensor, *dims: Any, **named: Any) -> Tensor:
    """Reorder the dimensions."""
    given = shape_argument("permute", "dims", dims, named)
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
    out = apply_view(_permute, input, {"dims": tuple(axes)})
    return shown_as(out, "TransposeBackward0", input, dim0=a, dim1=b)


def swapaxes(input: Tensor, axis0: int, axis1: int) -> Tensor:
    """`transpose`, as NumPy calls it."""
    return transpose(input, axis0, axis1)


def swapdims(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """`transpose` under another name."""
    return transpose(input, dim0, dim1)


def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; tensors of rank 0 and 1 as they are.

    Raises:
        RuntimeError: rank above 2.
    """
    if input._data.ndim > 2:
        raise RuntimeError(
            f"t() expects a tensor with <= 2 dimensions, but self is {input._data.ndim}D"
        )
    if input._data.ndim == 2:
        return transposed(input)
    dims = tuple(range(input._data.ndim))
    return shown_as(apply_view(_permute, input, {"dims": dims}), "TBackward0", input)


def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Move dimensions to other places, the rest in order."""
    n = input._data.ndim
    if isinstance(source, int) != isinstance(destination, int):
        raise TypeError(
            f"movedim() received an invalid combination of arguments - got ({type(source).__name__}, "
            f"{type(destination).__name__}), but expected one of:\n * (int source, int destination)\n"
            " * (tuple of ints source, tuple of ints destination)\n"
        )
    given = [(d,) if isinstance(d, int) else tuple(d) for d in (source, destination)]
    if len(given[0]) != len(given[1]):
        raise RuntimeError(
            f"movedim: Invalid source or destination dims: source ({list(given[0])} dims) should contain the "
            f"same number of dims as destination ({list(given[1])} dims)"
        )
    sources, targets = ([canonical_dim(d, n) for d in dims] for dims in given)
    for name, dims, canonical in zip(
        ("source", "destination"), given, (sources, targets), strict=True
    ):
        if len(set(canonical)) != len(canonical):
            raise RuntimeError(f"movedim: repeated dim in `{name}` ({list(dims)})")
    order = [d for d in range(n) if d not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    out = permute(input, order[:n])
    return out if n else shown_as(out, "AliasBackward0", input)


moveaxis = movedim


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Insert a dimension of extent 1."""
    axis = canonical_dim(dim, input._data.ndim + 1)
    shape = input._data.shape
    result = apply_view(_reshape, input, {"shape": (*shape[:axis], 1, *shape[axis:])})
    return shown_as(result, "UnsqueezeBackward0", input, dim=axis)


def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Remove dimensions of extent 1 (of those named, or all)."""
    shape = input._data.shape
    n = len(shape)
    axes = set(range(n)) if dim is None else set(distinct_dims(dim, n))
    kept = tuple(extent for i, extent in enumerate(shape) if extent != 1 or i not in axes)
    version = 0 if dim is None else 1 if isinstance(dim, int) else 2
    given = (
        {}
        if dim is None
        else {"dim": min(axes, default=0) if version == 1 else tuple(sorted(axes))}
    )
    return shown_as(
        apply_view(_reshape, input, {"shape": kept}), f"SqueezeBackward{version}", input,
        self_sym_sizes=tuple(shape), **given,
    )  # fmt: skip


def broadcast_to(input: Tensor, shape: Sequence[int]) -> Tensor:
    """A view with dimensions of extent 1 repeated."""
    return expand(input, *shape)


def expand(input: Tensor, *size: Any, implicit: bool = False, **named: Any) -> Tensor:
    """A view with dimensions of extent 1 repeated; -1 keeps an extent. `implicit` changes nothing, as in torch."""
    target = list(shape_argument("expand", "size", size, named))
    shape = input._data.shape
    lead = len(target) - len(shape)
    if lead < 0:
        raise RuntimeError(
            f"expand({input.type()}{{{list(shape)}}}, size={target}): the number of sizes provided "
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
    return tuple(x if x._data.shape == shape else expand(x, shape) for x in tensors)


def contiguous(input: Tensor, memory_format: Any = contiguous_format) -> Tensor:
    """Itself if its elements are in row-major order without gaps, else a copy that is.

    Raises:
        RuntimeError: the format is ``preserve_format``.
        NotImplementedError: a memory format with the channels last.
    """
    if memory_format is not contiguous_format:
        if memory_format is None:
            raise TypeError(
                "contiguous(): argument 'memory_format' must be torch.memory_format, not NoneType"
            )
        check_format("contiguous", memory_format)
    if input._data.flags.c_contiguous:
        return input
    if memory_format is preserve_format:
        raise RuntimeError("preserve memory format is unsupported by the contiguous operator")
    out = apply(_copy, (input,))
    if not is_lifted(out):
        out._data = np.ascontiguousarray(out._data)
    return out


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


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
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
    return apply(_concat, tuple(to_dtype(p, dtype) for p in full), {"axis": axis})


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
    total = new_shape(tuple(a * b for a, b in zip(counts, shape, strict=True)))
    result = reshape(expand(reshape(input, interleaved), spread), total)
    return result if result._base is None else apply(_copy, (result,))


def tile(input: Tensor, *dims: Any, **named: Any) -> Tensor:
    """`repeat`, with missing leading counts taken as 1."""
    given = shape_argument("tile", "dims", dims, named)
    return repeat(input, (1,) * (input._data.ndim - len(given)) + given)


def mT(input: Tensor) -> Tensor:  # noqa: N802 (torch's name)
    """The last two dimensions exchanged."""
    return _matrix_transpose(input, "mT", "This function is the identity in these cases.")


def mH(input: Tensor) -> Tensor:  # noqa: N802 (torch's name)
    """`mT`: there are no complex numbers."""
    return _matrix_transpose(input, "mH", "Consider using x.conj().")


def _matrix_transpose(input: Tensor, name: str, advice: str) -> Tensor:
    n = input._data.ndim
    if n == 0:
        warnings.warn(
            f"Tensor.{name} is deprecated on 0-D tensors. {advice}", UserWarning, stacklevel=3
        )
        return permute(input, ())
    if n < 2:
        raise RuntimeError(
            f"tensor.{name} is only supported on matrices or batches of matrices. Got {n}-D tensor."
        )
    return transpose(input, -2, -1)


@reported("aten::adjoint")
def adjoint(input: Tensor) -> Tensor:
    """The last two dimensions exchanged: there are no complex numbers."""
    if input._data.ndim < 2:
        raise RuntimeError(
            "tensor.adjoint() is only supported on matrices or batches of matrices. Got "
            f"{input._data.ndim}-D tensor."
        )
    return transpose(input, -2, -1)


def H(input: Tensor) -> Tensor:  # noqa: N802 (torch's name)
    """The transpose of a matrix: there are no complex numbers."""
    n = input._data.ndim
    if n == 0:
        warnings.warn(
            "Tensor.H is deprecated on 0-D tensors. Consider using x.conj().",
            UserWarning,
            stacklevel=2,
        )
        return permute(input, ())
    if n != 2:
        batches = " For batches of matrices, consider using tensor.mH" if n > 2 else ""
        raise RuntimeError(
            f"tensor.H is only supported on matrices (2-D tensors). Got {n}-D tensor.{batches}"
        )
    return transpose(input, 0, 1)


def T(input: Tensor) -> Tensor:  # noqa: N802 (torch's name)
    """All dimensions in reverse order; torch warns where there are not two."""
    n = input._data.ndim
    if n != 2:
        warnings.warn(
            "The use of `x.T` on tensors of dimension other than 2 to reverse their shape is deprecated and it "
            "will throw an error in a future release. Consider `x.mT` to transpose batches of matrices or "
            "`x.permute(*torch.arange(x.ndim - 1, -1, -1))` to reverse the dimensions of a tensor.",
            UserWarning,
            stacklevel=2,
        )
    return permute(input, tuple(range(n))[::-1])
