"""Windows of images as columns, and columns put back: ``unfold`` and ``fold``.

Users reach these functions as ``nn.functional``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tracegrad.dispatch import apply, composite
from tracegrad.ir.op import registered
from tracegrad.ir.ops.windows import span
from tracegrad.ops.shaping import permute, reshape
from tracegrad.tensor import Tensor

_pad = registered("pad")
_slice = registered("slice")
_windows = registered("windows")
_overlap_add = registered("overlap_add")

Extents = int | Sequence[int]
Pair = tuple[int, int]


def _pair(value: Any) -> Pair:
    """A number for height and width."""
    first, second = (value, value) if isinstance(value, int) else tuple(value)
    return first, second


def _check(size: Pair, dilation: Pair, padding: Pair, stride: Pair) -> None:
    for what, name, value, lowest in (
        ("kernel size", "kernel", size, 1),
        ("dilation", "dilation", dilation, 1),
        ("padding", "pad", padding, 0),
        ("stride", "stride", stride, 1),
    ):
        if min(value) < lowest:
            bound = "greater than zero" if lowest else "non-negative"
            raise RuntimeError(
                f"{what} should be {bound}, but got {name}_height: {value[0]} {name}_width: {value[1]}"
            )


def _counts(extents: Pair, size: Pair, dilation: Pair, padding: Pair, stride: Pair) -> Pair:
    """How many windows there are."""
    first, second = (
        (n + 2 * p - span(k, d)) // s + 1
        for n, k, d, p, s in zip(extents, size, dilation, padding, stride, strict=True)
    )
    return first, second


def unfold(
    input: Tensor,
    kernel_size: Extents,
    dilation: Extents = 1,
    padding: Extents = 0,
    stride: Extents = 1,
) -> Tensor:
    """The windows of an image as columns.

    Args:
        input: [batch, channels, height, width], or without the batch.
        kernel_size, dilation, stride: of the windows, as for `conv2d`.
        padding: how many zeros are set around the input.

    Returns:
        [batch, channels * elements of a window, windows].

    Raises:
        RuntimeError: the shape or a number does not fit.
    """
    size, spread, around, step = map(_pair, (kernel_size, dilation, padding, stride))
    _check(size, spread, around, step)
    shape = list(input.shape)
    if input.dim() not in (3, 4) or not all(shape[-3:]):
        raise RuntimeError(
            "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero dimensions "
            f"for input, but got: {shape}"
        )
    extents = (shape[-2], shape[-1])
    counts = _counts(extents, size, spread, around, step)
    if min(counts) < 1:
        raise RuntimeError(
            f"Given input with spatial size {extents}, kernel_size={size}, dilation={spread}, "
            f"padding={around}, calculated shape of the array of sliding blocks as {counts}, but its "
            "components must be at least one."
        )
    return _columns(input, size, spread, around, step)


@composite("Im2ColBackward0")
def _columns(x: Tensor, size: Pair, dilation: Pair, padding: Pair, stride: Pair) -> Tensor:
    lead = x.dim() - 2
    if any(padding):
        around = (*(0,) * lead, *padding)
        x = apply(_pad, (x,), {"low": around, "high": around, "value": 0})
    seen = apply(_windows, (x,), {"size": size, "stride": stride, "dilation": dilation})
    order = (*range(lead), lead + 2, lead + 3, lead, lead + 1)
    count = math.prod(seen.shape[lead : lead + 2])
    rows = x.shape[lead - 1] * math.prod(size)
    return reshape(permute(seen, order), (*x.shape[: lead - 1], rows, count))


def fold(
    input: Tensor,
    output_size: Extents,
    kernel_size: Extents,
    dilation: Extents = 1,
    padding: Extents = 0,
    stride: Extents = 1,
) -> Tensor:
    """Columns, as `unfold` makes them, put back into an image; where windows overlap their elements are added up.

    Args:
        input: [batch, channels * elements of a window, windows], or without the batch.
        output_size: height and width of the image.
        kernel_size, dilation, padding, stride: as for `unfold`.

    Returns:
        [batch, channels, height, width].

    Raises:
        RuntimeError: the shape or a number does not fit.
    """
    extents, size, spread, around, step = map(
        _pair, (output_size, kernel_size, dilation, padding, stride)
    )
    _check(size, spread, around, step)
    shape, ndim = list(input.shape), input.dim()
    if ndim not in (2, 3) or not all(shape[-2:]):
        raise RuntimeError(
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and non-zero "
            f"dimensions for input, but got: {shape}"
        )
    if shape[-2] % math.prod(size):
        raise RuntimeError(
            f"Expected size of input's dimension {ndim - 2} to be divisible by the product of kernel_size, "
            f"but got input.size({ndim - 2})={shape[-2]} and kernel_size={size}."
        )
    counts = _counts(extents, size, spread, around, step)
    if math.prod(counts) != shape[-1] or min(counts) < 1:
        raise RuntimeError(
            f"Given output_size={extents}, kernel_size={size}, dilation={spread}, padding={around}, "
            f"stride={step}, expected size of input's dimension {ndim - 1} to match the calculated number of "
            f"sliding blocks {counts[0]} * {counts[1]} = {math.prod(counts)}, but got "
            f"input.size({ndim - 1})={shape[-1]}."
        )
    return _put_back(input, extents, size, spread, around, step, counts)


@composite("Col2ImBackward0")
def _put_back(
    x: Tensor,
    extents: Pair,
    size: Pair,
    dilation: Pair,
    padding: Pair,
    stride: Pair,
    counts: Pair,
) -> Tensor:
    lead = tuple(x.shape[:-2])
    n = len(lead) + 1
    x = reshape(x, (*lead, x.shape[-2] // math.prod(size), *size, *counts))
    x = permute(x, (*range(n), n + 2, n + 3, n, n + 1))
    whole = tuple(extent + 2 * p for extent, p in zip(extents, padding, strict=True))
    total = apply(_overlap_add, (x,), {"extents": whole, "stride": stride, "dilation": dilation})
    if not any(padding):
        return total
    ends = (p + extent for p, extent in zip(padding, extents, strict=True))
    return apply(
        _slice,
        (total,),
        {
            "start": (*(0,) * n, *padding),
            "limit": (*tuple(total.shape)[:n], *ends),
            "stride": (1,) * (n + 2),
        },
    )
