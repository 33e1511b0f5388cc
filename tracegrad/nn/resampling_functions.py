"""Images of other sizes: interpolation, and channels exchanged for pixels.

`interpolate` works along one dimension after the other: each element of the result is a weighted sum of a few elements
of the input (`_Taps`). Users reach these functions as ``nn.functional``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tracegrad.dispatch import apply, composite
from tracegrad.ir.op import registered
from tracegrad.ir.types import float32, int64
from tracegrad.nn.adaptive_pooling_functions import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
)
from tracegrad.ops import creation
from tracegrad.ops import elementwise as ew
from tracegrad.ops.shaping import expand, permute, reshape, unsqueeze
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

_take = registered("take")

_MODES = "nearest | linear | bilinear | bicubic | trilinear | lanczos | area | nearest-exact"
_RANKS = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}


class _Taps(NamedTuple):
    """How the elements along one dimension of a result are made.

    Attributes:
        positions: for each tap the positions of the elements that are read, one for each element of the result.
        weights: for each tap what they are multiplied by; empty where each element is just one of the input.
    """

    positions: list[list[int]]
    weights: list[list[float]]


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Bring a signal, image or volume to another size.

    Args:
        input: [batch, channels, ...] with one to three further dimensions.
        size: the new extents, or `scale_factor` by which they change.
        mode: "nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic", or "area" for means of parts.
        align_corners: whether the centres of the first and last elements stay where they are, not the edges.
        recompute_scale_factor: take the factor between the extents, not the given one, for the positions.

    Raises:
        ValueError: the options do not fit together.
        NotImplementedError: the mode is unknown, does not fit the input, or `antialias` is given.
        RuntimeError: an extent is zero.
    """
    if align_corners is None:
        aligned = False
    elif mode in ("nearest", "area", "nearest-exact"):
        raise ValueError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic | "
            "trilinear"
        )
    else:
        aligned = align_corners
    extents = tuple(input.shape[2:])
    sizes, scales = _sizes(extents, size, scale_factor)
    if recompute_scale_factor and size is not None:
        raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
    if antialias:
        if mode not in ("bilinear", "bicubic", "lanczos") or input.dim() != 4:
            raise ValueError(
                "Anti-alias option is restricted to bilinear, bicubic, and lanczos modes and requires a 4-D "
                "tensor as input"
            )
        raise NotImplementedError("interpolate: antialias=True is not supported by tracegrad")
    if recompute_scale_factor or mode == "area":
        scales = (None,) * len(extents)
    _check_mode(input, mode)
    rank = len(extents)
    if mode == "area":
        pools: tuple[Callable[..., Tensor], ...] = (
            adaptive_avg_pool1d,
            adaptive_avg_pool2d,
            adaptive_avg_pool3d,
        )
        return pools[rank - 1](input, sizes)
    _check_extents(input, sizes)
    return _INTERPOLATIONS[mode, rank](input, sizes, scales, aligned)


def _sizes(
    extents: tuple[int, ...], size: Any, scale_factor: Any
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """The new extents and the given factors."""
    rank = len(extents)
    if size is not None and scale_factor is not None:
        raise ValueError("only one of size or scale_factor should be defined")
    if size is not None:
        if isinstance(size, (list, tuple)):
            if len(size) != rank:
                raise ValueError(
                    "Input and output must have the same number of spatial dimensions, but got input with "
                    f"spatial dimensions of {list(extents)} and output size of {size}. Please provide input "
                    "tensor in (N, C, d1, d2, ...,dK) format and output size in (o1, o2, ...,oK) format."
                )
            return tuple(map(int, size)), (None,) * rank
        return (int(size),) * rank, (None,) * rank
    if scale_factor is None:
        raise ValueError("either size or scale_factor should be defined")
    if isinstance(scale_factor, (list, tuple)):
        if len(scale_factor) != rank:
            raise ValueError(
                "Input and scale_factor must have the same number of spatial dimensions, but got input with "
                f"spatial dimensions of {list(extents)} and scale_factor of shape {scale_factor}. Please "
                "provide input tensor in (N, C, d1, d2, ...,dK) format and scale_factor in (s1, s2, ...,sK) "
                "format."
            )
        factors = tuple(map(float, scale_factor))
    else:
        factors = (float(scale_factor),) * rank
    sizes = tuple(math.floor(n * factor) for n, factor in zip(extents, factors, strict=True))
    return sizes, factors


def _check_mode(x: Tensor, mode: Any) -> None:
    ndim = x.dim()
    known = mode in ("nearest", "nearest-exact", "area") or mode in _RANKS
    if ndim not in (3, 4, 5) or not known:
        raise NotImplementedError(
            f"Input Error: Only 3D, 4D and 5D input Tensors supported (got {ndim}D) for the modes: {_MODES} "
            f"(got {mode})"
        )
    wanted = _RANKS.get(mode, ndim - 2) + 2
    if wanted != ndim:
        raise NotImplementedError(f"Got {ndim}D input, but {mode} mode needs {wanted}D input")


def _check_extents(x: Tensor, sizes: tuple[int, ...]) -> None:
    extents = tuple(x.shape[2:])
    if min((*extents, *sizes)) <= 0:
        names = "DHW"[3 - len(sizes) :]
        listed = [
            ", ".join(f"{name}: {n}" for name, n in zip(names, values, strict=True))
            for values in (extents, sizes)
        ]
        raise RuntimeError(
            f"Input and output sizes should be greater than 0, but got input ({listed[0]}) output "
            f"({listed[1]})"
        )
    if not x.shape[1]:
        raise RuntimeError(
            f"Non-empty {x.dim()}D data tensor expected but got a tensor with sizes {list(x.shape)}"
        )
    if not x.is_floating_point():
        name = x.type().split(".")[-1][:-6]
        raise NotImplementedError(f"\"interpolate\" not implemented for '{name}'")


# Along one dimension.


def _factor(extent: int, size: int, scale: float | None) -> float:
    """By how much to go on in the input for one step in the result."""
    return 1.0 / scale if scale is not None and scale > 0 else extent / size


def _nearest(
    extent: int, size: int, scale: float | None, aligned: bool, real: Callable[[float], Any]
) -> _Taps:
    factor = real(_factor(extent, size, scale))
    return _Taps([[min(int(real(i) * factor), extent - 1) for i in range(size)]], [])


def _nearest_exact(
    extent: int, size: int, scale: float | None, aligned: bool, real: Callable[[float], Any]
) -> _Taps:
    factor = real(_factor(extent, size, scale))
    return _Taps([[min(int((real(i) + real(0.5)) * factor), extent - 1) for i in range(size)]], [])


def _sources(
    extent: int, size: int, scale: float | None, aligned: bool, real: Callable[[float], Any]
) -> list[Any]:
    """Where in the input each element of the result lies."""
    if aligned:
        step = real((extent - 1) / (size - 1)) if size > 1 else real(0.0)
        return [real(i) * step for i in range(size)]
    step = real(_factor(extent, size, scale))
    return [step * (real(i) + real(0.5)) - real(0.5) for i in range(size)]


def _linear(
    extent: int, size: int, scale: float | None, aligned: bool, real: Callable[[float], Any]
) -> _Taps:
    lower, upper, weights = [], [], []
    for source in _sources(extent, size, scale, aligned, real):
        source = max(source, real(0.0))
        first = min(int(source), extent - 1)
        lower.append(first)
        upper.append(min(first + 1, extent - 1))
        weights.append(float(min(max(source - real(first), real(0.0)), real(1.0))))
    return _Taps([lower, upper], [[1 - w for w in weights], weights])


_CUBIC = -0.75
"""Keys' parameter, as torch has it."""


def _cubic(
    extent: int, size: int, scale: float | None, aligned: bool, real: Callable[[float], Any]
) -> _Taps:
    positions: list[list[int]] = [[], [], [], []]
    weights: list[list[float]] = [[], [], [], []]
    for source in _sources(extent, size, scale, aligned, real):
        first = math.floor(source)
        t = float(source - real(first))
        for tap, distance in enumerate((t + 1, t, 1 - t, 2 - t)):
            positions[tap].append(min(max(first - 1 + tap, 0), extent - 1))
            weights[tap].append(_cubic_weight(distance))
    return _Taps(positions, weights)


def _cubic_weight(x: float) -> float:
    a = _CUBIC
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a


def _along(x: Tensor, axis: int, taps: _Taps) -> Tensor:
    """The elements of the result along one dimension."""
    total = None
    for number, positions in enumerate(taps.positions):
        part = _picked(x, axis, positions)
        if taps.weights:
            shape = (-1, *(1,) * (x.dim() - axis - 1))
            weights = creation.tensor(taps.weights[number], dtype=x.dtype)
            part = ew.mul(part, reshape(weights, shape))
        total = part if total is None else ew.add(total, part)
    assert total is not None
    return total


def _picked(x: Tensor, axis: int, positions: list[int]) -> Tensor:
    """The elements at these positions; where each is read equally often they are repeated, not looked up."""
    extent, count = x.shape[axis], len(positions)
    times = count // extent
    if positions == [i // times for i in range(extent * times)] if times else False:
        if times == 1:
            return x
        shape = list(x.shape)
        repeated = expand(unsqueeze(x, axis + 1), (*shape[: axis + 1], times, *shape[axis + 1 :]))
        return reshape(repeated, (*shape[:axis], count, *shape[axis + 1 :]))
    index = creation.tensor(positions, dtype=int64)
    return apply(_take, (x, index), {"axis": axis})


def _interpolation(record: str, taps: Callable[..., _Taps]) -> Callable[..., Tensor]:
    """The function that does it, under torch's name."""

    @composite(record)
    def interpolated(
        x: Tensor, sizes: tuple[int, ...], scales: tuple[float | None, ...], aligned: bool
    ) -> Tensor:
        # torch computes positions in the precision of the input, and so it rounds.
        real: Callable[[float], Any] = np.float32 if x.dtype is float32 else float
        given = x
        for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True), 2):
            if size == x.shape[axis] and scale in (None, 1.0):
                continue
            x = _along(x, axis, taps(x.shape[axis], size, scale, aligned, real))
        return x.clone() if x is given else x

    return interpolated


_INTERPOLATIONS = {
    **{
        ("nearest", n): _interpolation(f"UpsampleNearest{n}DBackward0", _nearest) for n in (1, 2, 3)
    },
    **{
        ("nearest-exact", n): _interpolation(f"UpsampleNearestExact{n}DBackward0", _nearest_exact)
        for n in (1, 2, 3)
    },
    ("linear", 1): _interpolation("UpsampleLinear1DBackward0", _linear),
    ("bilinear", 2): _interpolation("UpsampleBilinear2DBackward0", _linear),
    ("trilinear", 3): _interpolation("UpsampleTrilinear3DBackward0", _linear),
    ("bicubic", 2): _interpolation("UpsampleBicubic2DBackward0", _cubic),
}


def upsample(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """`interpolate` under its old name."""
    warnings.warn(
        "`nn.functional.upsample` is deprecated. Use `nn.functional.interpolate` instead.",
        stacklevel=2,
    )
    return interpolate(input, size, scale_factor, mode, align_corners)


# Channels and pixels.


@reported("aten::pixel_shuffle")
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """Make squares of pixels of channels.

    Args:
        input: [..., channels * upscale_factor**2, height, width].

    Returns:
        [..., channels, height * upscale_factor, width * upscale_factor].

    Raises:
        RuntimeError: the shape does not fit.
    """
    r = upscale_factor
    if input.dim() < 3:
        raise RuntimeError(
            "pixel_shuffle expects input to have at least 3 dimensions, but got input with "
            f"{input.dim()} dimension(s)"
        )
    if r <= 0:
        raise RuntimeError(f"pixel_shuffle expects a positive upscale_factor, but got {r}")
    if input.shape[-3] % (r * r):
        raise RuntimeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of "
            f"upscale_factor, but input.size(-3)={input.shape[-3]} is not divisible by {r * r}"
        )
    return _shuffled(input, r)


@composite("PixelShuffleBackward0")
def _shuffled(x: Tensor, r: int) -> Tensor:
    *lead, channels, height, width = x.shape
    n = len(lead)
    x = reshape(x, (*lead, channels // (r * r), r, r, height, width))
    x = permute(x, (*range(n + 1), n + 3, n + 1, n + 4, n + 2))
    return reshape(x, (*lead, channels // (r * r), height * r, width * r))


@reported("aten::pixel_unshuffle")
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """Make channels of squares of pixels: the inverse of `pixel_shuffle`.

    Raises:
        RuntimeError: the shape does not fit.
    """
    r = downscale_factor
    if input.dim() < 3:
        raise RuntimeError(
            "pixel_unshuffle expects input to have at least 3 dimensions, but got input with "
            f"{input.dim()} dimension(s)"
        )
    if r <= 0:
        raise RuntimeError(f"pixel_unshuffle expects a positive downscale_factor, but got {r}")
    for name, axis in (("height", -2), ("width", -1)):
        if input.shape[axis] % r:
            raise RuntimeError(
                f"pixel_unshuffle expects {name} to be divisible by downscale_factor, but "
                f"input.size({axis})={input.shape[axis]} is not divisible by {r}"
            )
    return _unshuffled(input, r)


@composite("PixelUnshuffleBackward0")
def _unshuffled(x: Tensor, r: int) -> Tensor:
    *lead, channels, height, width = x.shape
    n = len(lead)
    x = reshape(x, (*lead, channels, height // r, r, width // r, r))
    x = permute(x, (*range(n + 1), n + 2, n + 4, n + 1, n + 3))
    return reshape(x, (*lead, channels * r * r, height // r, width // r))


@reported("aten::channel_shuffle")
def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Take the channels in turn from each of `groups` parts of them.

    Raises:
        RuntimeError: the number of channels is no multiple.
    """
    if input.dim() <= 2:
        raise RuntimeError(
            f"channel_shuffle expects input with > 2 dims, but got input with sizes {list(input.shape)}"
        )
    if groups <= 0:
        raise RuntimeError(
            f"Number of groups to divide channels in must be positive. Value of groups:{groups}"
        )
    if input.shape[1] % groups:
        raise RuntimeError(
            f"Number of channels must be divisible by groups. Got {input.shape[1]} channels and "
            f"{groups} groups."
        )
    return _mixed(input, groups)


@composite("ChannelShuffleBackward0")
def _mixed(x: Tensor, groups: int) -> Tensor:
    n, channels, *extents = x.shape
    x = reshape(x, (n, groups, channels // groups, *extents))
    x = permute(x, (0, 2, 1, *range(3, x.dim())))
    return reshape(x, (n, channels, *extents))
