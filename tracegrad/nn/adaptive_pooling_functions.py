"""Adaptive pooling: the largest element or the mean of each of a given number of parts.

Users reach these functions as ``nn.functional``. Start reading at :func:`adaptive_avg_pool2d`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracegrad.dispatch import apply, composite
from tracegrad.ir.op import registered
from tracegrad.ir.types import int64
from tracegrad.nn.pooling_functions import (
    Extents,
    Shape,
    Window,
    check_signal,
    find_largest,
    read_positions,
)
from tracegrad.ops import creation
from tracegrad.ops.reduction import mean
from tracegrad.ops.shaping import cat, reshape, squeeze, unsqueeze
from tracegrad.ops.striding import narrow
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

_take = registered("take")


def _parts(extent: int, count: int) -> list[tuple[int, int]]:
    """Where each of `count` parts of an extent begins and ends; they overlap where it is no multiple."""
    return [(i * extent // count, -(-(i + 1) * extent // count)) for i in range(count)]


def _output_size(function: str, x: Tensor, output_size: Any, rank: int) -> Shape:
    values = (output_size,) * rank if isinstance(output_size, int) else tuple(output_size)
    if len(values) == 1:
        values *= rank
    if len(values) != rank:
        raise RuntimeError(f"{function}: output_size must be {rank}")
    return tuple(
        extent if value is None else value
        for value, extent in zip(values, x.shape[x.dim() - rank :], strict=True)
    )


def _check_adaptive(function: str, x: Tensor, rank: int, colon: str) -> None:
    ndim, shape = x.dim(), list(x.shape)
    if ndim not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"{function}(): Expected {rank + 1}D or {rank + 2}D tensor, but got{colon} {shape}"
        )
    for axis in range(ndim - rank, ndim):
        if not shape[axis]:
            raise RuntimeError(
                f"{function}(): Expected input to have non-zero size for non-batch dimensions, but input has "
                f"sizes {shape} with dimension {axis} being empty"
            )


@reported("aten::adaptive_avg_pool1d")
def adaptive_avg_pool1d(input: Tensor, output_size: Extents) -> Tensor:
    """The means of `output_size` parts of a signal [batch, channels, length]; see `adaptive_avg_pool2d`."""
    check_signal(input, "adaptive_avg_pool1d")
    (count,) = _output_size("adaptive_avg_pool1d", input, output_size, 1)
    return squeeze(adaptive_avg_pool2d(unsqueeze(input, -2), (1, count)), -2)


@reported("aten::adaptive_avg_pool2d")
def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """The means of the parts of an image that is divided into `output_size` parts along each dimension.

    Args:
        input: [batch, channels, height, width], or without the batch.
        output_size: a number, or one for each dimension; None leaves a dimension as it is.

    Raises:
        RuntimeError: the shape or a number does not fit.
    """
    return _adaptive_average("adaptive_avg_pool2d", input, output_size, 2, _average_parts2d)


@reported("aten::adaptive_avg_pool3d")
def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """The means of the parts of a volume [batch, channels, depth, height, width]; see `adaptive_avg_pool2d`."""
    return _adaptive_average("adaptive_avg_pool3d", input, output_size, 3, _average_parts3d)


def _adaptive_average(
    function: str, x: Tensor, output_size: Any, rank: int, average: Callable[..., Tensor]
) -> Tensor:
    counts = _output_size(function, x, output_size, rank)
    if min(counts) < 0:
        raise RuntimeError(
            f"{function}: elements of output_size must be greater than or equal to 0 but received "
            f"{{{', '.join(map(str, counts))}}}"
        )
    _check_adaptive(function, x, rank, "")
    if not x.is_floating_point():
        name = x.type().split(".")[-1][:-6]
        raise NotImplementedError(f"\"{function}\" not implemented for '{name}'")
    if set(counts) == {1}:
        return mean(x, tuple(range(-rank, 0)), True)
    return average(x, counts)


@composite("AdaptiveAvgPool2DBackward0")
def _average_parts2d(x: Tensor, counts: Shape) -> Tensor:
    return _average_parts(x, counts)


@composite("AdaptiveAvgPool3DBackward0")
def _average_parts3d(x: Tensor, counts: Shape) -> Tensor:
    return _average_parts(x, counts)


def _average_parts(x: Tensor, counts: Shape) -> Tensor:
    """The mean along one dimension after the other: parts are boxes."""
    rank = len(counts)
    for axis, count in enumerate(counts, x.dim() - rank):
        extent = x.shape[axis]
        if count == extent:
            continue
        if count and extent % count == 0:
            shape = tuple(x.shape)
            x = reshape(x, (*shape[:axis], count, extent // count, *shape[axis + 1 :]))
            x = mean(x, axis + 1)
        elif count:
            parts = [mean(narrow(x, axis, a, b - a), axis, True) for a, b in _parts(extent, count)]
            x = cat(parts, axis)
        else:
            x = narrow(x, axis, 0, 0)
    return x


@reported("aten::adaptive_max_pool1d")
def adaptive_max_pool1d(input: Tensor, output_size: Extents, return_indices: bool = False) -> Any:
    """The largest elements of `output_size` parts of a signal; see `adaptive_max_pool2d`."""
    check_signal(input, "adaptive_max_pool1d")
    (count,) = _output_size("adaptive_max_pool1d", input, output_size, 1)
    values, positions = adaptive_max_pool2d(unsqueeze(input, -2), (1, count), True)
    values = squeeze(values, -2)
    return (values, squeeze(positions, -2)) if return_indices else values


@reported("aten::adaptive_max_pool2d")
def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest elements of the parts of an image that is divided into `output_size` parts along each dimension.

    Args:
        input: [batch, channels, height, width], or without the batch.
        output_size: a number, or one for each dimension; None leaves a dimension as it is.
        return_indices: a pair: the values, and the int64 position of each in its image, in one row.

    Raises:
        RuntimeError: the shape or a number does not fit.
    """
    return _adaptive_largest("adaptive_max_pool2d", input, output_size, return_indices)


@reported("aten::adaptive_max_pool3d")
def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The largest elements of the parts of a volume; see `adaptive_max_pool2d`."""
    return _adaptive_largest("adaptive_max_pool3d", input, output_size, return_indices)


def _adaptive_largest(function: str, x: Tensor, output_size: Any, with_positions: bool) -> Any:
    rank = int(function[-2])
    _check_adaptive(function, x, rank, ":")
    counts = _output_size(function, x, output_size, rank)
    if min(counts) < 0:
        shape = [*x.shape[: x.dim() - rank], *counts]
        raise RuntimeError(
            f"Trying to create tensor with negative dimension {min(counts)}: {shape}"
        )
    positions = _find_largest_part(x, counts, function)
    values = (_read_parts2d if rank == 2 else _read_parts3d)(x, positions)
    return (values, positions) if with_positions else values


@composite("AdaptiveMaxPool2DBackward0")
def _read_parts2d(x: Tensor, positions: Tensor) -> Tensor:
    return read_positions(x, positions, 2)


@composite("AdaptiveMaxPool3DBackward0")
def _read_parts3d(x: Tensor, positions: Tensor) -> Tensor:
    return read_positions(x, positions, 3)


def _find_largest_part(x: Tensor, counts: Shape, function: str) -> Tensor:
    """The position of the largest element of each part.

    Parts of different size are first made equal: their last element is repeated, which is not the first largest.
    """
    lead = x.dim() - len(counts)
    x = x.detach()
    extents = tuple(x.shape[lead:])
    sources, size = [], []
    for axis, (extent, count) in enumerate(zip(extents, counts, strict=True), lead):
        parts = _parts(extent, count)
        longest = max((b - a for a, b in parts), default=1)
        size.append(longest)
        source = [min(a + i, b - 1) for a, b in parts for i in range(longest)]
        sources.append(source)
        if source != list(range(extent)):
            index = creation.tensor(source, dtype=int64)
            x = apply(_take, (x, index), {"axis": axis})
    window = Window(tuple(size), tuple(size), (0,) * len(size), (1,) * len(size), tuple(counts))
    found = find_largest(x, window, function)
    if all(source == list(range(extent)) for source, extent in zip(sources, extents, strict=True)):
        return found
    original = [0]
    for source, extent in zip(sources, extents, strict=True):
        original = [position * extent + i for position in original for i in source]
    table = creation.tensor(original, dtype=int64)
    return apply(_take, (table, found), {"axis": 0})
