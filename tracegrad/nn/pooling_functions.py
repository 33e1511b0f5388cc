"""Pooling: the largest element, the mean or a norm of each window.

A largest element is found by the op ``window_argmax`` and then read by its position, so that its gradient goes where
it came from. Means are sums over the op ``windows``. Users reach these functions as ``nn.functional``. Start reading
at :func:`max_pool2d`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tracegrad.dispatch import apply, composite
from tracegrad.ir.op import registered
from tracegrad.ir.ops.windows import span
from tracegrad.ir.types import bool_
from tracegrad.ops import creation
from tracegrad.ops import elementwise as ew
from tracegrad.ops.reduction import sum as sum_
from tracegrad.ops.shaping import reshape, squeeze, unsqueeze
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

_argmax = registered("window_argmax")
_gather = registered("gather")
_pad = registered("pad")
_windows = registered("windows")

Extents = int | Sequence[int]
Shape = tuple[int, ...]

_WORDS = {1: "one int", 2: "two ints", 3: "three ints"}


class Window(NamedTuple):
    """The windows of a pooling, with a number for each spatial dimension.

    Attributes:
        counts: how many windows there are along each.
    """

    size: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    counts: Shape


def _each(function: str, name: str, value: Any, rank: int) -> Shape:
    """A number for each dimension.

    Raises:
        RuntimeError: torch's, where there are more or fewer.
        TypeError: they are no ints.
    """
    values = (value,) if isinstance(value, int) else value
    if not isinstance(values, (tuple, list)) or not all(isinstance(v, int) for v in values):
        kind = type(value).__name__
        raise TypeError(f"{function}(): argument '{name}' must be tuple of ints, not {kind}")
    if len(values) == 1:
        return tuple(values) * rank
    if len(values) != rank:
        either = {
            "stride": "must either be omitted, a single int,",
            "dilation": "must be either a single int,",
        }.get(name, "must either be a single int,")
        raise RuntimeError(f"{function}: {name} {either} or a tuple of {_WORDS[rank]}")
    return tuple(values)


def _window(
    function: str,
    x: Tensor,
    kernel_size: Extents,
    stride: Extents | None,
    padding: Extents,
    dilation: Extents,
    ceil_mode: bool,
) -> Window:
    """The windows of an input whose last dimensions are spatial ones.

    Raises:
        RuntimeError: a number is out of range, or no window fits.
    """
    rank = int(function[-2])
    size = _each(function, "kernel_size", kernel_size, rank)
    given = stride is None or (not isinstance(stride, int) and not len(stride))
    strides = size if given else _each(function, "stride", stride, rank)
    paddings = _each(function, "padding", padding, rank)
    dilations = _each(function, "dilation", dilation, rank)
    if 0 in strides:
        raise RuntimeError("stride should not be zero")
    if min(size) <= 0 or min(strides) < 0:
        raise RuntimeError("kernel size and stride should be greater than zero")
    if min(dilations) <= 0:
        listed = " ".join(
            f"dilation{letter}: {d}" for letter, d in zip("THW"[3 - rank :], dilations, strict=True)
        )
        raise RuntimeError(f"dilation should be greater than zero, but got {listed}")
    for k, p, d in zip(size, paddings, dilations, strict=True):
        if p < 0:
            raise RuntimeError(f"pad must be non-negative, but got pad: {p}")
        if p > span(k, d) // 2:
            raise RuntimeError(
                f"pad should be at most half of effective kernel size, but got pad={p}, kernel_size={k} and "
                f"dilation={d}"
            )
    shape = tuple(x.shape)
    counts = tuple(
        _count(extent, k, s, p, d, ceil_mode)
        for extent, k, s, p, d in zip(
            shape[-rank:], size, strides, paddings, dilations, strict=True
        )
    )
    if min(counts) < 1:
        channels = shape[-rank - 1]
        raise RuntimeError(
            f"Given input size: ({'x'.join(map(str, (channels, *shape[-rank:])))}). Calculated output size: "
            f"({'x'.join(map(str, (channels, *counts)))}). Output size is too small"
        )
    return Window(size, strides, paddings, dilations, counts)


def _count(extent: int, size: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """How many windows there are; the last one must begin inside of the input or before it."""
    room = extent + 2 * padding - span(size, dilation)
    count = (room + (stride - 1 if ceil else 0)) // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= extent + padding else count


def _check_input(x: Tensor, rank: int) -> None:
    ndim, shape = x.dim(), list(x.shape)
    if ndim not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"non-empty {rank + 1}D or {rank + 2}D (batch mode) tensor expected for input"
        )
    if not all(shape[ndim - rank - 1 :]):
        raise RuntimeError(
            f"Expected {rank + 1}D or {rank + 2}D (batch mode) tensor with optional 0 dim batch size for "
            f"input, but got:{shape}"
        )


# The largest element.


def max_pool1d(
    input: Tensor,
    kernel_size: Extents,
    stride: Extents | None = None,
    padding: Extents = 0,
    dilation: Extents = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of a signal [batch, channels, length]; see `max_pool2d`."""
    if input.dim() not in (2, 3):
        raise RuntimeError(
            "max_pool1d: Expected 2D or 3D (batch mode) tensor with optional 0 dim batch size for input, but "
            f"got:{list(input.shape)}"
        )
    size, stride, padding, dilation = (
        _single(name, value)
        for name, value in (
            ("kernel_size", kernel_size),
            ("stride", kernel_size if stride is None else stride),
            ("padding", padding),
            ("dilation", dilation),
        )
    )
    for name, number in (("kernel_size", size), ("stride", stride), ("dilation", dilation)):
        if number <= 0:
            raise RuntimeError(f"max_pool1d() {name} must be greater than zero, but got {number}")
    if padding < 0:
        raise RuntimeError(f"max_pool1d() padding must be non-negative, but got {padding}")
    if padding > size // 2:
        raise RuntimeError(
            "max_pool1d() padding should be at most half of kernel size, but got "
            f"padding={padding} and kernel_size={size}"
        )
    count = _count(input.shape[-1], size, stride, padding, dilation, ceil_mode)
    if count < 1:
        raise RuntimeError(f"max_pool1d() Invalid computed output size: {count}")
    window = Window((1, size), (1, stride), (0, padding), (1, dilation), (1, count))
    return _largest("max_pool1d", input, window, return_indices)


def _single(name: str, value: Any) -> int:
    """A number that may stand in a tuple alone."""
    if isinstance(value, int):
        return value
    if len(value) != 1:
        raise RuntimeError(
            f"max_pool1d() {name} must be an int, list of ints or tuple of ints of size 1 but got size "
            f"{len(value)}"
        )
    return value[0]


def max_pool2d(
    input: Tensor,
    kernel_size: Extents,
    stride: Extents | None = None,
    padding: Extents = 0,
    dilation: Extents = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of an image. Of equal ones the first has the gradient.

    Args:
        input: [batch, channels, height, width], or without the batch.
        kernel_size: of the windows; a number, or one for each dimension.
        stride: the distance of windows, by default their size.
        padding: how far windows may begin outside, where nothing counts; at most half of the size.
        dilation: the distance of the elements of a window.
        ceil_mode: also windows that end outside, if they begin inside.
        return_indices: a pair: the values, and the int64 position of each in its image, in one row.

    Raises:
        RuntimeError: the shape or a number does not fit.
    """
    _check_input(input, 2)
    window = _window("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode)
    return _largest("max_pool2d", input, window, return_indices)


def max_pool3d(
    input: Tensor,
    kernel_size: Extents,
    stride: Extents | None = None,
    padding: Extents = 0,
    dilation: Extents = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of a volume [batch, channels, depth, height, width]; see `max_pool2d`."""
    _check_input(input, 3)
    window = _window("max_pool3d", input, kernel_size, stride, padding, dilation, ceil_mode)
    return _largest("max_pool3d", input, window, return_indices)


def find_largest(x: Tensor, window: Window, function: str) -> Tensor:
    if x.dtype is bool_:
        raise NotImplementedError(f"\"{function}\" not implemented for 'Bool'")
    return apply(
        _argmax,
        (x.detach(),),
        {
            "size": window.size,
            "stride": window.stride,
            "dilation": window.dilation,
            "low": window.padding,
            "counts": window.counts,
        },
    )


def read_positions(x: Tensor, positions: Tensor, rank: int) -> Tensor:
    """The elements at these positions, in the row of all elements of the last `rank` dimensions."""
    lead, counts = tuple(x.shape[: x.dim() - rank]), tuple(positions.shape[x.dim() - rank :])
    rows = reshape(x, (*lead, math.prod(x.shape[x.dim() - rank :])))
    flat = reshape(positions, (*lead, math.prod(counts)))
    return reshape(apply(_gather, (rows, flat), {"axis": len(lead)}), (*lead, *counts))


@composite("MaxPool2DWithIndicesBackward0")
def _read2d(x: Tensor, positions: Tensor) -> Tensor:
    return read_positions(x, positions, 2)


@composite("MaxPool3DWithIndicesBackward0")
def _read3d(x: Tensor, positions: Tensor) -> Tensor:
    return read_positions(x, positions, 3)


def _largest1d(x: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    values, positions = _largest2d(unsqueeze(x, -2), window)
    return squeeze(values, -2), squeeze(positions, -2)


def _largest2d(x: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    positions = find_largest(x, window, "max_pool2d")
    return _read2d(x, positions), positions


def _largest3d(x: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    positions = find_largest(x, window, "max_pool3d")
    return _read3d(x, positions), positions


_LARGEST: dict[str, Callable[[Tensor, Window], tuple[Tensor, Tensor]]] = {
    name + suffix: reported(f"aten::{name}{suffix}")(function)
    for name, function in (
        ("max_pool1d", _largest1d),
        ("max_pool2d", _largest2d),
        ("max_pool3d", _largest3d),
    )
    for suffix in ("", "_with_indices")
}


def _largest(function: str, x: Tensor, window: Window, return_indices: bool) -> Any:
    """The values, or a pair with their positions: operations of different names in profiles."""
    if return_indices:
        return _LARGEST[function + "_with_indices"](x, window)
    return _LARGEST[function](x, window)[0]


# The mean.


@reported("aten::avg_pool1d")
def avg_pool1d(
    input: Tensor,
    kernel_size: Extents,
    stride: Extents | None = None,
    padding: Extents = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window of a signal [batch, channels, length]; see `avg_pool2d`."""
    check_signal(input, "avg_pool1d")
    size, step, before = (
        _each("avg_pool1d", name, value, 1)[0]
        for name, value in (
            ("kernel_size", kernel_size),
            ("stride", kernel_size if stride is None else stride),
            ("padding", padding),
        )
    )
    pooled = avg_pool2d(
        unsqueeze(input, -2), (1, size), (1, step), (0, before), ceil_mode, count_include_pad
    )
    return squeeze(pooled, -2)


def check_signal(x: Tensor, function: str) -> None:
    if x.dim() not in (2, 3):
        raise RuntimeError(
            f"Expected 2 to 3 dimensions, but got {x.dim()}-dimensional tensor for argument #1 'self' (while "
            f"checking arguments for {function})"
        )


@reported("aten::avg_pool2d")
def avg_pool2d(
    input: Tensor,
    kernel_size: Extents,
    stride: Extents | None = None,
    padding: Extents = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window of an image.

    Args:
        input: [batch, channels, height, width], or without the batch.
        kernel_size, stride, padding, ceil_mode: as for `max_pool2d`; around the input stand zeros.
        count_include_pad: divide by the number of elements with these zeros, not without.
        divisor_override: divide by this number.

    Raises:
        RuntimeError: the shape or a number does not fit.
    """
    _check_input(input, 2)
    window = _window("avg_pool2d", input, kernel_size, stride, padding, 1, ceil_mode)
    return _average2d(input, window, _divisor(input, window, count_include_pad, divisor_override))


@reported("aten::avg_pool3d")
def avg_pool3d(
    input: Tensor,
    kernel_size: Extents,
    stride: Extents | None = None,
    padding: Extents = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window of a volume [batch, channels, depth, height, width]; see `avg_pool2d`."""
    _check_input(input, 3)
    window = _window("avg_pool3d", input, kernel_size, stride, padding, 1, ceil_mode)
    return _average3d(input, window, _divisor(input, window, count_include_pad, divisor_override))


def _divisor(x: Tensor, window: Window, with_padding: bool, override: int | None) -> Any:
    """What the sums are divided by: a number, or nested lists of one for each window."""
    if override is not None:
        if override == 0:
            raise RuntimeError("divisor must be not zero")
        return float(override)
    along = []
    for axis, extent in enumerate(x.shape[x.dim() - len(window.size) :]):
        numbers = []
        for i in range(window.counts[axis]):
            begin = i * window.stride[axis] - window.padding[axis]
            end = min(begin + window.size[axis], extent + window.padding[axis])
            if not with_padding:
                begin, end = max(begin, 0), min(end, extent)
            numbers.append(end - begin)
        along.append(numbers)
    if all(len(set(numbers)) == 1 for numbers in along):
        return float(math.prod(numbers[0] for numbers in along))
    return along


@composite("AvgPool2DBackward0")
def _average2d(x: Tensor, window: Window, divisor: Any) -> Tensor:
    return _average(x, window, divisor)


@composite("AvgPool3DBackward0")
def _average3d(x: Tensor, window: Window, divisor: Any) -> Tensor:
    return _average(x, window, divisor)


def _average(x: Tensor, window: Window, divisor: Any) -> Tensor:
    rank = len(window.size)
    lead = (0,) * (x.dim() - rank)
    high = tuple(
        max((count - 1) * s + k - extent - p, 0)
        for count, s, k, extent, p in zip(
            window.counts,
            window.stride,
            window.size,
            x.shape[x.dim() - rank :],
            window.padding,
            strict=True,
        )
    )
    if any((*window.padding, *high)):
        low = (*lead, *window.padding)
        x = apply(_pad, (x,), {"low": low, "high": (*lead, *high), "value": 0})
    seen = apply(
        _windows,
        (x,),
        {"size": window.size, "stride": window.stride, "dilation": window.dilation},
    )
    total = sum_(seen, tuple(range(-rank, 0)))
    if not isinstance(divisor, float):
        numbers = creation.ones((), dtype=x.dtype)
        for axis, along in enumerate(divisor):
            shape = (-1, *(1,) * (rank - axis - 1))
            numbers = ew.mul(numbers, reshape(creation.tensor(along, dtype=x.dtype), shape))
        return ew.div(total, numbers)
    if x.is_floating_point():
        return ew.div(total, divisor)
    return ew.div(total, int(divisor), rounding_mode="trunc")


# Norms.


def lp_pool1d(
    input: Tensor,
    norm_type: float,
    kernel_size: int,
    stride: Extents | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The `norm_type`-norm of each window of a signal, without taking absolute values; see `avg_pool1d`."""
    powers = ew.pow(input, norm_type)
    return _root(avg_pool1d(powers, kernel_size, stride, 0, ceil_mode), kernel_size, norm_type)


def lp_pool2d(
    input: Tensor,
    norm_type: float,
    kernel_size: Extents,
    stride: Extents | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The `norm_type`-norm of each window of an image, without taking absolute values; see `avg_pool2d`."""
    powers = ew.pow(input, norm_type)
    count = math.prod(_each("lp_pool2d", "kernel_size", kernel_size, 2))
    return _root(avg_pool2d(powers, kernel_size, stride, 0, ceil_mode), count, norm_type)


def lp_pool3d(
    input: Tensor,
    norm_type: float,
    kernel_size: Extents,
    stride: Extents | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The `norm_type`-norm of each window of a volume, without taking absolute values; see `avg_pool3d`."""
    powers = ew.pow(input, norm_type)
    count = math.prod(_each("lp_pool3d", "kernel_size", kernel_size, 3))
    return _root(avg_pool3d(powers, kernel_size, stride, 0, ceil_mode), count, norm_type)


def _root(means: Tensor, count: int, norm_type: float) -> Tensor:
    total = ew.mul(ew.mul(ew.sign(means), ew.relu(ew.abs(means))), count)
    return ew.pow(total, 1.0 / norm_type)
