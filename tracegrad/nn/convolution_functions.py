"""Convolutions of one, two and three dimensions, and the transposed ones, as functions.

All are the op ``convolution`` (:mod:`tracegrad.ir.ops.convolution`) with their channels in groups; a transposed one
has its input spread out instead of its windows. Users reach these functions as ``nn.functional``. Start reading at
:func:`_convolve`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.dispatch import ABSENT, apply, composite
from tracegrad.ir.op import registered
from tracegrad.ir.ops.windows import span
from tracegrad.ops import elementwise as ew
from tracegrad.ops.shaping import contiguous, permute, reshape, reverse, squeeze, unsqueeze
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

_convolution = registered("convolution")

Extents = int | Sequence[int]


class _Setting:
    """How a convolution is to be done, with a value for each dimension.

    Attributes:
        name: of the function, for messages.
        rank: the number of spatial dimensions.
        stride, padding, dilation, output_padding: one number per dimension; `padding` may be a word.
        groups: into how many parts the channels are divided.
    """

    __slots__ = ("dilation", "groups", "name", "output_padding", "padding", "rank", "stride")

    def __init__(
        self,
        name: str,
        stride: Extents,
        padding: Any,
        dilation: Extents,
        groups: int,
        output_padding: Extents = 0,
    ) -> None:
        self.name = name
        self.rank = rank = int(name[-2])
        self.stride = _each(name, "stride", stride, rank)
        self.padding = (
            padding if isinstance(padding, str) else _each(name, "padding", padding, rank)
        )
        self.dilation = _each(name, "dilation", dilation, rank)
        self.output_padding = _each(name, "output_padding", output_padding, rank)
        self.groups = groups


def _each(function: str, name: str, value: Any, rank: int) -> tuple[int, ...]:
    """A number for each dimension.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, (int, np.integer)):
        return (int(value),) * rank
    if isinstance(value, (tuple, list)):
        for position, extent in enumerate(value):
            if not isinstance(extent, (int, np.integer)):
                raise TypeError(
                    f"{function}(): argument '{name}' must be tuple of ints, but found element of type "
                    f"{type(extent).__name__} at pos {position}"
                )
        return tuple(map(int, value)) * (rank if len(value) == 1 else 1)
    raise TypeError(
        f"{function}(): argument '{name}' must be tuple of ints, not {type(value).__name__}"
    )


@reported("aten::conv1d")
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Any = 0,
    dilation: Extents = 1,
    groups: int = 1,
) -> Tensor:
    """Slide kernels along a signal; see `conv2d`.

    Args:
        input: [batch, channels, length], or without the batch.
        weight: [filters, channels / groups, size].
    """
    setting = _Setting("conv1d", stride, padding, dilation, groups)
    return _forward(input, weight, bias, setting)


@reported("aten::conv2d")
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Any = 0,
    dilation: Extents = 1,
    groups: int = 1,
) -> Tensor:
    """Slide kernels over an image: each element of the result is the sum of products of a kernel and a window.

    Args:
        input: [batch, channels, height, width], or without the batch.
        weight: [filters, channels / groups, rows, columns], of the dtype of `input`.
        bias: [filters].
        stride: the distance of windows.
        padding: how many zeros are set around the input; "valid" for none, "same" for as many as the result needs
            to be as large as the input.
        dilation: the distance of the elements of a window.
        groups: the channels are divided into so many parts, each with kernels of its own.

    Returns:
        [batch, filters, ...], the extents being ``(extent + 2 * padding - dilation * (size - 1) - 1) // stride + 1``.

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    setting = _Setting("conv2d", stride, padding, dilation, groups)
    return _forward(input, weight, bias, setting)


@reported("aten::conv3d")
def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Any = 0,
    dilation: Extents = 1,
    groups: int = 1,
) -> Tensor:
    """Slide kernels through a volume; see `conv2d`.

    Args:
        input: [batch, channels, depth, height, width], or without the batch.
        weight: [filters, channels / groups, layers, rows, columns].
    """
    setting = _Setting("conv3d", stride, padding, dilation, groups)
    return _forward(input, weight, bias, setting)


@reported("aten::conv_transpose1d")
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Extents = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
) -> Tensor:
    """The transpose of `conv1d`; see `conv_transpose2d`.

    Args:
        input: [batch, channels, length], or without the batch.
        weight: [channels, filters / groups, size].
    """
    setting = _Setting("conv_transpose1d", stride, padding, dilation, groups, output_padding)
    return _transposed(input, weight, bias, setting)


@reported("aten::conv_transpose2d")
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Extents = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
) -> Tensor:
    """The transpose of `conv2d`: what the gradient of its input is. Makes larger images of smaller ones.

    Args:
        input: [batch, channels, height, width], or without the batch.
        weight: [channels, filters / groups, rows, columns], of the dtype of `input`.
        bias: [filters].
        stride: the distance at which the elements of the input put their kernels.
        padding: how much is cut off around the result.
        output_padding: how much is added to the result at the end of each dimension.
        groups: the channels are divided into so many parts, each with kernels of its own.
        dilation: the distance of the elements of a kernel.

    Returns:
        [batch, filters, ...], the extents being
        ``(extent - 1) * stride - 2 * padding + dilation * (size - 1) + output_padding + 1``.

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    setting = _Setting("conv_transpose2d", stride, padding, dilation, groups, output_padding)
    return _transposed(input, weight, bias, setting)


@reported("aten::conv_transpose3d")
def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extents = 1,
    padding: Extents = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
) -> Tensor:
    """The transpose of `conv3d`; see `conv_transpose2d`.

    Args:
        input: [batch, channels, depth, height, width], or without the batch.
        weight: [channels, filters / groups, layers, rows, columns].
    """
    setting = _Setting("conv_transpose3d", stride, padding, dilation, groups, output_padding)
    return _transposed(input, weight, bias, setting)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, setting: _Setting) -> Tensor:
    unbatched = _check_dimensions(x, setting)
    if unbatched:
        x = unsqueeze(x, 0)
    low, high = _padding(weight, setting)
    _check_setting(weight, setting, low)
    _check_channels(x, weight, bias, setting, transposed=False)
    padded = [n + a + b for n, a, b in zip(x.shape[2:], low, high, strict=True)]
    reach = [span(k, d) for k, d in zip(weight.shape[2:], setting.dilation, strict=True)]
    if any(n < k for n, k in zip(padded, reach, strict=True)):
        raise RuntimeError(
            f"Calculated padded input size per channel: {_product(padded)}. Kernel size: {_product(reach)}. "
            "Kernel size can't be greater than actual input size"
        )
    _check_not_empty(x)
    _check_dtypes(x, weight, bias)
    out = _convolve(x, weight, ABSENT if bias is None else bias, setting, low, high)
    return squeeze(out, 0) if unbatched else out


def _transposed(x: Tensor, weight: Tensor, bias: Tensor | None, setting: _Setting) -> Tensor:
    if isinstance(setting.padding, str):
        raise TypeError(f"{setting.name}(): argument 'padding' must be tuple of ints, not str")
    unbatched = _check_dimensions(x, setting)
    if unbatched:
        x = unsqueeze(x, 0)
    _check_setting(weight, setting, setting.padding)
    _check_channels(x, weight, bias, setting, transposed=True)
    _check_not_empty(x)
    _check_output_padding(setting)
    _check_dtypes(x, weight, bias)
    reach = [span(k, d) - 1 for k, d in zip(weight.shape[2:], setting.dilation, strict=True)]
    low = tuple(r - p for r, p in zip(reach, setting.padding, strict=True))
    high = tuple(a + more for a, more in zip(low, setting.output_padding, strict=True))
    extents = [
        span(n, s) + a + b - r
        for n, s, a, b, r in zip(x.shape[2:], setting.stride, low, high, reach, strict=True)
    ]
    if min(extents) < 1:
        raise RuntimeError(
            f"Given input size per channel: {_product(x.shape[2:])}. Calculated output size per channel: "
            f"{_product(extents)}. Output size is too small"
        )
    out = _convolve_transposed(x, weight, ABSENT if bias is None else bias, setting, low, high)
    return squeeze(out, 0) if unbatched else out


@composite("ConvolutionBackward0")
def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Any,
    setting: _Setting,
    low: tuple[int, ...],
    high: tuple[int, ...],
) -> Tensor:
    groups, (n, channels, *extents) = setting.groups, x.shape
    filters, part, *size = weight.shape
    out = apply(
        _convolution,
        (
            reshape(x, (n, groups, channels // groups, *extents)),
            reshape(weight, (groups, filters // groups, part, *size)),
        ),
        {
            "stride": setting.stride,
            "low": low,
            "high": high,
            "spread": (1,) * setting.rank,
            "dilation": setting.dilation,
        },
    )
    return _finished(out, bias)


@composite("ConvolutionBackward0")
def _convolve_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Any,
    setting: _Setting,
    low: tuple[int, ...],
    high: tuple[int, ...],
) -> Tensor:
    groups, (n, channels, *extents) = setting.groups, x.shape
    part, size = weight.shape[1], weight.shape[2:]
    spatial = tuple(range(3, 3 + setting.rank))
    kernel = reshape(weight, (groups, channels // groups, part, *size))
    kernel = permute(reverse(kernel, spatial), (0, 2, 1, *spatial))
    out = apply(
        _convolution,
        (reshape(x, (n, groups, channels // groups, *extents)), kernel),
        {
            "stride": (1,) * setting.rank,
            "low": low,
            "high": high,
            "spread": setting.stride,
            "dilation": setting.dilation,
        },
    )
    return _finished(out, bias)


def _finished(out: Tensor, bias: Any) -> Tensor:
    """Without the axis of the groups, and with the bias unless it is ABSENT."""
    n, groups, filters, *extents = out.shape
    out = contiguous(reshape(out, (n, groups * filters, *extents)))
    if bias is ABSENT:
        return out
    return ew.add(out, reshape(bias, (-1, *(1,) * len(extents))))


# Checks, in torch's order and words.


def _product(extents: Sequence[int]) -> str:
    return f"({' x '.join(map(str, extents))})"


def _check_dimensions(x: Tensor, setting: _Setting) -> bool:
    """Whether the input has no batch."""
    rank = setting.rank
    if x.dim() not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to {setting.name}, but got "
            f"input of size: {list(x.shape)}"
        )
    return x.dim() == rank + 1


def _padding(weight: Tensor, setting: _Setting) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many zeros stand before and behind the input."""
    padding = setting.padding
    if not isinstance(padding, str):
        return padding, padding
    if padding == "valid":
        return (0,) * setting.rank, (0,) * setting.rank
    if padding != "same":
        raise RuntimeError(f"Invalid padding string: '{padding}'")
    if max(setting.stride) > 1:
        raise RuntimeError("padding='same' is not supported for strided convolutions")
    total = [span(k, d) - 1 for k, d in zip(weight.shape[2:], setting.dilation, strict=False)]
    if any(n % 2 for n in total):
        warnings.warn(
            "Using padding='same' with even kernel lengths and odd dilation may require a zero-padded copy of "
            "the input be created",
            stacklevel=4,
        )
    return tuple(n // 2 for n in total), tuple(n - n // 2 for n in total)


def _check_setting(weight: Tensor, setting: _Setting, padding: tuple[int, ...]) -> None:
    if setting.groups <= 0:
        raise RuntimeError("non-positive groups is not supported")
    rank = weight.dim() - 2
    if rank <= 0:
        raise RuntimeError("weight should have at least three dimensions")
    values = {
        "stride": setting.stride,
        "padding": padding,
        "dilation": setting.dilation,
        "output_padding": setting.output_padding,
    }
    for name, value in values.items():
        if len(value) != rank:
            raise RuntimeError(
                f"expected {name} to be a single integer value or a list of {rank} values to match the "
                f"convolution dimensions, but got {name}={list(value)}"
            )
    for name in ("padding", "output_padding"):
        if min(values[name]) < 0:
            raise RuntimeError(f"negative {name} is not supported")
    for name in ("stride", "dilation"):
        if min(values[name]) <= 0:
            raise RuntimeError(f"non-positive {name} is not supported")


def _check_channels(
    x: Tensor, weight: Tensor, bias: Tensor | None, setting: _Setting, *, transposed: bool
) -> None:
    groups, shape = setting.groups, list(weight.shape)
    given = f"Given {f'transposed={int(transposed)}' if transposed else f'groups={groups}'}"
    if shape[0] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, but got weight "
            f"of size {shape} instead"
        )
    if shape[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but got "
            f"weight of size [{shape}] instead"
        )
    channels = shape[0] if transposed else shape[1] * groups
    if x.shape[1] != channels:
        raise RuntimeError(
            f"{given}, weight of size {shape}, expected input{list(x.shape)} to have {channels} channels, "
            f"but got {x.shape[1]} channels instead"
        )
    filters = shape[1] * groups if transposed else shape[0]
    if bias is not None and tuple(bias.shape) != (filters,):
        given = f"{given}, weight" if transposed else "Given weight"
        raise RuntimeError(
            f"{given} of size {shape}, expected bias to be 1-dimensional with {filters} elements, but got "
            f"bias of size {list(bias.shape)} instead"
        )


def _check_not_empty(x: Tensor) -> None:
    if not all(x.shape[2:]):
        raise RuntimeError(
            "Only zero batch or zero channel inputs are supported, but got input shape: "
            f"{list(x.shape)}"
        )


_DIMENSIONS = ("depth", "height", "width")


def _check_output_padding(setting: _Setting) -> None:
    values = (setting.output_padding, setting.stride, setting.dilation)
    if any(n >= s and n >= d for n, s, d in zip(*values, strict=True)):
        names = _DIMENSIONS[3 - setting.rank :]
        listed = " ".join(
            f"{what}_{name}: {value}"
            for what, given in zip(("output_padding", "stride", "dilation"), values, strict=True)
            for name, value in zip(names, given, strict=True)
        )
        raise RuntimeError(
            f"output padding must be smaller than either stride or dilation, but got {listed}"
        )


def _check_dtypes(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if x.dtype is not weight.dtype:
        raise RuntimeError(
            f"Input type ({x.type()}) and weight type ({weight.type()}) should be the same"
        )
    if bias is not None and bias.dtype is not x.dtype:
        names = [
            {"Long": "long int"}.get(v.type()[6:-6], v.type()[6:-6].lower()) for v in (x, bias)
        ]
        raise RuntimeError(f"Input type ({names[0]}) and bias type ({names[1]}) should be the same")
