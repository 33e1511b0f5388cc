"""Functions that lay out elements anew: diagonals, turns, repetitions, blocks, combinations, powers of a vector."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.device import Device
from tracegrad.dispatch import apply, composite
from tracegrad.ir.op import registered
from tracegrad.ir.types import bool_, int64
from tracegrad.ops import elementwise as ew
from tracegrad.ops import indexing, scanning
from tracegrad.ops.arguments import canonical_dim, resolve_dtype, result_dtype, to_dtype
from tracegrad.ops.creation import meshgrid, placed
from tracegrad.ops.shaping import (
    cat,
    expand,
    flip,
    permute,
    ravel,
    reshape,
    stack,
    transpose,
    unsqueeze,
    vstack,
)
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, default_float, make_tensor

_pad = registered("pad")


def _padded(x: Tensor, axis: int, low: int, high: int) -> Tensor:
    """With so many zeros in front and behind along an axis."""
    n = x._data.ndim
    attrs = {"low": [0] * n, "high": [0] * n}
    attrs["low"][axis], attrs["high"][axis] = low, high
    return apply(_pad, (x,), {**{k: tuple(v) for k, v in attrs.items()}, "value": 0})


@composite("DiagEmbedBackward0")
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices in dimensions `dim1` and `dim2`, with the vectors of the last dimension on a diagonal.

    Raises:
        RuntimeError: the dimensions are the same.
        IndexError: there is no such dimension.
    """
    n = input._data.ndim + 1
    a, b = canonical_dim(dim1, n), canonical_dim(dim2, n)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    rows = _padded(input, n - 2, max(-offset, 0), max(offset, 0))
    extent = rows._data.shape[-1]
    band = make_tensor(np.eye(extent, k=offset, dtype=bool), None)
    matrices = ew.where(band, unsqueeze(rows, -1), False if input.dtype is bool_ else 0)
    order = list(range(n - 2))
    for place, axis in sorted(((a, n - 2), (b, n - 1))):
        order.insert(place, axis)
    return permute(matrices, order)


@reported("aten::diagflat")
def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """A matrix with all elements on a diagonal."""
    return diag_embed(reshape(input, input._data.size), offset)


@composite("Rot90Backward0")
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Turned by `k` right angles in the plane of two dimensions, from the first toward the second.

    Raises:
        RuntimeError: there are not two dimensions, different ones.
    """
    n = input._data.ndim
    if len(dims) != 2:
        raise RuntimeError(f"expected total rotation dims == 2, but got dims = {len(dims)}")
    if n < 2:
        raise RuntimeError(f"expected total dims >= 2, but got total dims = {n}")
    a, b = (canonical_dim(d, n) for d in dims)
    if a == b:
        raise RuntimeError(
            f"expected rotation dims to be different, but got dim0 = {dims[0]} and dim1 = {dims[1]}"
        )
    turns = k % 4
    if turns == 0:
        return ew.clone(input)
    if turns == 2:
        return flip(input, a, b)
    return ew.clone(transpose(flip(input, b if turns == 1 else a), a, b))


@reported("aten::fliplr")
def fliplr(input: Tensor) -> Tensor:
    """Columns in reverse order."""
    if input._data.ndim < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return flip(input, 1)


@reported("aten::flipud")
def flipud(input: Tensor) -> Tensor:
    """Rows in reverse order."""
    if input._data.ndim < 1:
        raise RuntimeError("Input must be >= 1-d.")
    return flip(input, 0)


def _positions(repeats: Tensor, output_size: int | None, extent: int | None = None) -> Tensor:
    """0, 1, ..., each as often as `repeats` says; what it says is looked at."""
    if repeats._data.ndim > 1:
        raise RuntimeError("repeats must be 0-dim or 1-dim tensor")
    if repeats._data.dtype.kind not in "i" or repeats._data.itemsize < 4:
        raise NotImplementedError(
            f"\"repeat_interleave_cpu\" not implemented for '{repeats.dtype.legacy_name}'"
        )
    counts = np.atleast_1d(np.asarray(repeats.tolist(), np.int64))
    if (counts < 0).any():
        raise RuntimeError("repeats can not be negative")
    if extent is not None and counts.size == 1:
        counts = np.repeat(counts, extent)
    positions = np.repeat(np.arange(counts.size), counts)
    if output_size is not None and output_size != positions.size:
        raise RuntimeError("allocated size does not match required size")
    return make_tensor(positions, repeats)


@reported("aten::repeat_interleave")
def repeat_interleave(
    input: Tensor,
    repeats: Any = None,
    dim: int | None = None,
    *,
    output_size: int | None = None,
) -> Tensor:
    """Each slice along `dim` several times in a row; of the flattened tensor, where no `dim` is given.

    Args:
        repeats: how often: a number, or a tensor of one number for each slice, whose values decide the shape. Left
            out, `input` itself holds the counts, and the result is the positions.
        output_size: the extent of the result, if it is known; checked.

    Raises:
        RuntimeError: a count is negative, or their number does not fit.
    """
    if repeats is None:
        return _positions(input, output_size)
    x, axis = (ravel(input), 0) if dim is None else (input, canonical_dim(dim, input._data.ndim))
    if not x._data.ndim:
        x = reshape(x, 1)
    extent = x._data.shape[axis]
    if isinstance(repeats, (list, tuple)):
        repeats = make_tensor(np.asarray(repeats, np.int64), None)
    if isinstance(repeats, Tensor):
        if repeats._data.ndim == 1 and repeats._data.shape[0] not in (1, extent):
            raise RuntimeError(
                "repeats must have the same size as input along dim, but got repeats.size(0) = "
                f"{repeats._data.shape[0]} and input.size({axis}) = {extent}"
            )
        return indexing.index_select(x, axis, _positions(repeats, output_size, extent))
    count = operator.index(repeats)
    if count < 0:
        raise RuntimeError("Repeats must be non-negative")
    if output_size is not None and output_size != extent * count:
        raise RuntimeError(
            f"repeat_interleave: Invalid output_size, expected {extent * count} but got {output_size}"
        )
    shape = x._data.shape
    wide = expand(unsqueeze(x, axis + 1), (*shape[: axis + 1], count, *shape[axis + 1 :]))
    return reshape(ew.clone(wide), (*shape[:axis], extent * count, *shape[axis + 1 :]))


@composite("TakeBackward0")
def take(input: Tensor, index: Tensor) -> Tensor:
    """The elements at positions in the flattened tensor.

    Raises:
        RuntimeError: `index` is not int64.
        IndexError: a position is out of range.
    """
    if index.dtype is not int64:
        raise RuntimeError(
            f"take(): Expected a long tensor for index, but got {index.dtype.legacy_name}"
        )
    if not input._data.size and index._data.size:
        raise IndexError("take(): tried to take from an empty tensor")
    # A 0-d index by itself would select: a view.
    picked = indexing.getitem(reshape(input, input._data.size), reshape(index, -1))
    return reshape(picked, index._data.shape)


@composite("PutBackward0")
def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """`input` with elements of `source` at positions of the flattened tensor, written or added.

    Raises:
        RuntimeError: the dtypes differ, or `index` is not int64.
        IndexError: there are as many positions as elements not, or one is out of range.
    """
    if index.dtype is not int64:
        raise RuntimeError(
            f"put_(): Expected a long tensor for index, but got {index.dtype.legacy_name}"
        )
    if input.dtype is not source.dtype:
        raise RuntimeError(
            "put_(): self and source expected to have the same dtype, but got self.dtype = "
            f"{input.dtype.legacy_name} and source.dtype = {source.dtype.legacy_name}"
        )
    if index._data.size != source._data.size:
        raise IndexError(
            "put_(): Expected source and index to have the same number of elements, but got "
            f"source.numel() = {source._data.size}, index.numel() = {index._data.size}"
        )
    count = index._data.size
    flat = reshape(input, input._data.size)
    placed = indexing.index_put(
        flat, (reshape(index, count),), reshape(source, count), bool(accumulate)
    )
    return reshape(placed, input._data.shape)


def _triangle(name: str, find: Callable[..., Any]) -> Callable[..., Tensor]:
    def function(
        row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None
    ) -> Tensor:
        for word, count in (("row", row), ("col", col)):
            if count < 0:
                raise RuntimeError(f"{word} must be non-negative, got{count}")
        if device is not None:
            Device(device)
        target = resolve_dtype(dtype) or int64
        if target.category != 1:
            raise NotImplementedError(f"\"{name}\" not implemented for '{target.legacy_name}'")
        return make_tensor(np.stack(find(row, offset, col)).astype(target.np), None)

    function.__name__ = function.__qualname__ = name
    return placed(function)


tril_indices = _triangle("tril_indices", np.tril_indices)
tril_indices.__doc__ = "Rows and columns of the elements on and below a diagonal: a tensor [2, n]."
triu_indices = _triangle("triu_indices", np.triu_indices)
triu_indices.__doc__ = "Rows and columns of the elements on and above a diagonal: a tensor [2, n]."


@composite("BlockDiagBackward0")
def block_diag(*tensors: Tensor) -> Tensor:
    """A matrix with the given matrices (vectors as rows) along the diagonal, and zeros elsewhere.

    Raises:
        RuntimeError: a tensor has more than 2 dimensions.
    """
    if not tensors:
        return make_tensor(np.zeros((1, 0), default_float().np), None)
    for number, x in enumerate(tensors):
        if x._data.ndim > 2:
            raise RuntimeError(
                "torch.block_diag: Input tensors must have 2 or fewer dimensions. Input "
                f"{number} has {x._data.ndim} dimensions"
            )
    dtype = result_dtype(*tensors)
    blocks = [to_dtype(atleast_2d(x), dtype) for x in tensors]
    width, before, rows = sum(x._data.shape[1] for x in blocks), 0, []
    for block in blocks:
        columns = block._data.shape[1]
        rows.append(_padded(block, 1, before, width - before - columns))
        before += columns
    return cat(rows, 0)


def _check_vector(x: Tensor) -> None:
    if x._data.ndim != 1:
        raise RuntimeError(f"Expect a 1D vector, but got shape {list(x.shape)}")


@reported("aten::cartesian_prod")
def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All ways to choose one element of each vector, as rows; a single vector as it is."""
    for x in tensors:
        _check_vector(x)
    if len(tensors) == 1:
        return tensors[0]
    return stack([ravel(x) for x in meshgrid(*tensors, indexing="ij")], 1)


@reported("aten::combinations")
def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All ways to choose `r` elements of a vector, as rows.

    Raises:
        RuntimeError: `input` is no vector, or `r` is negative.
    """
    _check_vector(input)
    if r < 0:
        raise RuntimeError(f"Expect a non-negative number, but got {r}")
    if r == 0:
        return make_tensor(np.zeros(0, input._data.dtype), None)
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = list(choose(range(input._data.shape[0]), r))
    positions = np.asarray(rows, np.int64).reshape(len(rows), r)
    return indexing.getitem(input, make_tensor(positions, None))


def _at_least(name: str, raised: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    @reported(f"aten::{name}")
    def function(*tensors: Any) -> Any:
        if len(tensors) == 1 and isinstance(tensors[0], Tensor):
            return raised(tensors[0])
        given = tensors[0] if len(tensors) == 1 else tensors
        return tuple(raised(x) for x in given)

    function.__name__ = function.__qualname__ = name
    return function


def _in_space(x: Tensor) -> Tensor:
    n = x._data.ndim
    if n == 0:
        return reshape(x, 1, 1, 1)
    return unsqueeze(unsqueeze(x, 0), -1) if n == 1 else unsqueeze(x, -1) if n == 2 else x


atleast_1d = _at_least("atleast_1d", lambda x: x if x._data.ndim else reshape(x, 1))
atleast_1d.__doc__ = "Tensors with one dimension at least; several give a tuple."
atleast_2d = _at_least(
    "atleast_2d",
    lambda x: reshape(x, 1, 1) if not x._data.ndim else unsqueeze(x, 0) if x._data.ndim == 1 else x,
)
atleast_2d.__doc__ = "Tensors with two dimensions at least, vectors as rows; several give a tuple."
atleast_3d = _at_least("atleast_3d", _in_space)
atleast_3d.__doc__ = "Tensors with three dimensions at least; several give a tuple."


@reported("aten::column_stack")
def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the second dimension, vectors as columns."""
    if not len(tensors):
        raise RuntimeError("column_stack expects a non-empty TensorList")
    return cat([reshape(x, x._data.size, 1) if x._data.ndim < 2 else x for x in tensors], 1)


row_stack = vstack


@reported("aten::dstack")
def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along the third dimension."""
    if not len(tensors):
        raise RuntimeError("dstack expects a non-empty TensorList")
    return cat([_in_space(x) for x in tensors], 2)


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Positions in a flattened tensor of this shape as one tensor of coordinates for each dimension.

    Raises:
        TypeError: the positions are no integers.
        ValueError: an extent is negative.
    """
    if indices._data.dtype.kind not in "iu":
        raise TypeError(f"expected 'indices' to be integer dtype, but got {indices.dtype}")
    extents = (
        (operator.index(shape),) if isinstance(shape, (int, np.integer)) else tuple(map(int, shape))
    )
    if any(n < 0 for n in extents):
        raise ValueError(f"'shape' cannot have negative values, but got {extents}")
    coordinates = []
    rest = indices
    for extent in reversed(extents):
        coordinates.append(ew.remainder(rest, extent))
        rest = ew.floor_divide(rest, extent)
    return tuple(reversed(coordinates))


@reported("aten::linalg_vander")
def linalg_vander(x: Tensor, N: int | None = None) -> Tensor:  # noqa: N803 (torch's name)
    """The powers 0 to N - 1 of the elements, along a new last dimension, as ``torch.linalg.vander``.

    Raises:
        RuntimeError: N is less than 2.
    """
    if x._data.dtype.kind == "b":
        raise RuntimeError(
            "linalg.vander supports floating point, complex, and integer tensors, but got Bool"
        )
    shape = x._data.shape
    count = (shape[-1] if shape else 0) if N is None else N
    if count <= 1:
        raise RuntimeError("N must be greater than 1.")
    dtype = x.dtype if x.is_floating_point() else int64
    values = expand(unsqueeze(to_dtype(x, dtype), -1), (*shape, count - 1))
    ones = make_tensor(np.ones((*shape, 1), dtype.np), None)
    return cat([ones, scanning.cumprod(values, -1)], -1)


@reported("aten::vander")
def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:  # noqa: N803 (torch's name)
    """The Vandermonde matrix of a vector: its powers as columns, falling unless they are to be `increasing`.

    Raises:
        RuntimeError: `x` is no vector, or `N` is negative.
    """
    if x._data.ndim != 1:
        raise RuntimeError("x must be a one-dimensional tensor.")
    count = x._data.shape[0] if N is None else N
    if count < 0:
        raise RuntimeError("N must be non-negative.")
    dtype = x.dtype if x.is_floating_point() else int64
    ones = make_tensor(np.ones((x._data.shape[0], min(count, 1)), dtype.np), x)
    if count < 2:
        return ones
    powers = scanning.cumprod(expand(unsqueeze(x, 1), (x._data.shape[0], count - 1)), 1)
    columns = cat([ones, powers], 1)
    return columns if increasing else flip(columns, 1)
