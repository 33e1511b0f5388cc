"""Convolution: one op, whose derivatives are convolutions again.

An input ``[n, groups, channels, *extents]`` and a kernel ``[groups, filters, channels, *size]`` give
``[n, groups, filters, *counts]``. Between the elements of the input stand ``spread - 1`` zeros, around them `low` and
`high` more (fewer, where negative); the elements of the kernel are `dilation` apart; a window begins at every
`stride`-th place. The derivative by the input exchanges `stride` with `spread`, that by the kernel exchanges
`stride` with `dilation` and the batch with the channels.

It is evaluated as a matrix product, of which one factor holds the windows: by NumPy and natively in the same way.
Start reading at :func:`convolve`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..lowering import Expansion
from ..op import Op, bilinear
from ..types import Shape, TensorType
from .linalg import matmul
from .samples import with_attrs
from .shape import flip, pad, permute, reshape, slice_, swap_last
from .windows import overlap_add, span, windows


def _spread_extent(extent: int, spread: int) -> int:
    """The extent of an axis with zeros between its elements."""
    return span(extent, spread) if extent else 0


def _type(
    x: TensorType, y: TensorType, *,
    stride: Shape, low: Shape, high: Shape, spread: Shape, dilation: Shape,
) -> TensorType:  # fmt: skip
    if x.dtype is not y.dtype:
        raise RuntimeError(
            f"expected scalar type of input and weight to be equal, but got {x.dtype} and {y.dtype}"
        )
    n = len(stride)
    if x.ndim != n + 3 or y.ndim != n + 3 or x.shape[1:3] != (y.shape[0], y.shape[2]):
        raise RuntimeError(f"a kernel {y} does not fit an input {x}")
    counts = tuple(
        (_spread_extent(extent, p) + a + b - span(k, d)) // s + 1
        for extent, k, s, a, b, p, d in zip(
            x.shape[3:], y.shape[3:], stride, low, high, spread, dilation, strict=True
        )
    )
    if counts and min(counts) < 0:
        raise RuntimeError(f"a kernel {y} is larger than the input {x}")
    return TensorType(x.dtype, (x.shape[0], x.shape[1], y.shape[1], *counts))


def convolve(
    x: Any, y: Any, stride: Shape, low: Shape, high: Shape, spread: Shape, dilation: Shape
) -> Any:
    """The convolution as an expression of other ops, on arrays or nodes."""
    size = tuple(y.shape[3:])
    if max(spread, default=1) == 1:
        return _gathered(x, y, stride, low, high, dilation)
    if max((*stride, *dilation)) == 1 and math.prod(size) > math.prod(x.shape[3:]):
        return _exchanged(x, y, low, high, spread)
    return _scattered(x, y, stride, low, high, spread, dilation)


def _gathered(x: Any, y: Any, stride: Shape, low: Shape, high: Shape, dilation: Shape) -> Any:
    """A product of the kernel as a matrix with the windows as columns: one for all, or one for each example.

    The latter gives the result in its own order; the former is for few windows, as in the derivative by a kernel.
    """
    x = _padded(x, low, high)
    n, groups, channels = x.shape[:3]
    filters, size = y.shape[1], tuple(y.shape[3:])
    rank = len(size)
    depth = channels * math.prod(size)
    rows = reshape(y, shape=(groups, filters, depth))
    seen = windows(x, size=size, stride=stride, dilation=dilation)
    counts = tuple(seen.shape[3 : 3 + rank])
    count = math.prod(counts)
    spatial, places = tuple(range(3, 3 + rank)), tuple(range(3 + rank, 3 + 2 * rank))
    if math.prod(size) <= count:
        columns = permute(seen, dims=(0, 1, 2, *places, *spatial))
        columns = reshape(columns, shape=(n, groups, depth, count))
        return reshape(matmul(rows, columns), shape=(n, groups, filters, *counts))
    # The windows as rows: what is larger varies fastest.
    found = reshape(
        permute(seen, dims=(1, 0, *spatial, 2, *places)), shape=(groups, n * count, depth)
    )
    product = reshape(matmul(rows, swap_last(found)), shape=(groups, filters, n, *counts))
    return permute(product, dims=(2, 0, 1, *spatial))


def _exchanged(x: Any, y: Any, low: Shape, high: Shape, spread: Shape) -> Any:
    """Input and kernel in each other's place, which turns the result round: for a kernel that is the larger one.

    The zeros between the elements of the input need not be made then.
    """
    spatial = tuple(range(3, 3 + len(spread)))
    counts = tuple(
        span(extent, p) + a + b - k + 1
        for extent, k, a, b, p in zip(x.shape[3:], y.shape[3:], low, high, spread, strict=True)
    )
    before = tuple(count - 1 - a for count, a in zip(counts, low, strict=True))
    ones = (1,) * len(spread)
    after = _fitting(
        y.shape[3:], counts, x.shape[3:], stride=ones, low=before, spread=ones, dilation=spread
    )
    turned = _gathered(
        permute(y, dims=(1, 0, 2, *spatial)),
        permute(x, dims=(1, 0, 2, *spatial)),
        ones, before, after, spread,
    )  # fmt: skip
    return permute(flip(turned, axes=spatial), dims=(2, 1, 0, *spatial))


def _padded(x: Any, low: Shape, high: Shape) -> Any:
    """Zeros around the extents, or less of them."""
    shape = tuple(x.shape)
    lead = (0,) * (len(shape) - len(low))
    if min((*low, *high), default=0) < 0:
        start = (*lead, *(max(-a, 0) for a in low))
        limit = tuple(extent - max(-b, 0) for extent, b in zip(shape, (*lead, *high), strict=True))
        x = slice_(x, start=start, limit=limit, stride=(1,) * len(shape))
        low, high = tuple(max(a, 0) for a in low), tuple(max(b, 0) for b in high)
    if not any((*low, *high)):
        return x
    return pad(x, low=(*lead, *low), high=(*lead, *high), value=0)


def _scattered(
    x: Any, y: Any, stride: Shape, low: Shape, high: Shape, spread: Shape, dilation: Shape
) -> Any:
    """The convolution of an input that is spread out: what each element gives is added up where it goes."""
    n, groups, channels, *extents = x.shape
    filters, size = y.shape[1], tuple(y.shape[3:])
    rank = len(size)
    places = tuple(range(3, 3 + rank))
    turned = permute(flip(y, axes=places), dims=(0, 1, *places, 2))
    rows = reshape(turned, shape=(groups, filters * math.prod(size), channels))
    columns = reshape(x, shape=(n, groups, channels, math.prod(extents)))
    product = reshape(matmul(rows, columns), shape=(n, groups, filters, *size, *extents))
    product = permute(product, dims=(0, 1, 2, *range(3 + rank, 3 + 2 * rank), *places))
    reach = tuple((k - 1) * d for k, d in zip(size, dilation, strict=True))
    whole = tuple(span(extent, p) + a for extent, p, a in zip(extents, spread, reach, strict=True))
    total = overlap_add(product, extents=whole, stride=spread, dilation=dilation)
    total = _padded(
        total,
        tuple(a - r for a, r in zip(low, reach, strict=True)),
        tuple(b - r for b, r in zip(high, reach, strict=True)),
    )
    if max(stride) == 1:
        return total
    shape = tuple(total.shape)
    return slice_(total, start=(0,) * len(shape), limit=shape, stride=(1, 1, 1, *stride))


def _fitting(
    x: Sequence[int], counts: Sequence[int], size: Sequence[int],
    *, stride: Shape, low: Shape, spread: Shape, dilation: Shape,
) -> Shape:  # fmt: skip
    """How much must follow the input, for so many windows."""
    return tuple(
        (count - 1) * s + span(k, d) - _spread_extent(extent, p) - a
        for extent, count, k, s, a, p, d in zip(
            x, counts, size, stride, low, spread, dilation, strict=True
        )
    )


def _by_input(
    ct: Any, y: Any, x_type: TensorType, stride: Shape, low: Shape, spread: Shape, dilation: Shape
) -> Any:
    rank = len(stride)
    axes = tuple(range(3, 3 + rank))
    size = tuple(y.shape)[3:]
    turned = permute(flip(y, axes=axes), dims=(0, 2, 1, *axes))
    low = tuple((k - 1) * d - a for k, d, a in zip(size, dilation, low, strict=True))
    high = _fitting(
        ct.shape[3:], x_type.shape[3:], size,
        stride=spread, low=low, spread=stride, dilation=dilation,
    )  # fmt: skip
    return convolution(
        ct, turned, stride=spread, low=low, high=high, spread=stride, dilation=dilation
    )


def _by_kernel(
    ct: Any, x: Any, y_type: TensorType, stride: Shape, low: Shape, spread: Shape, dilation: Shape
) -> Any:
    axes = tuple(range(3, 3 + len(stride)))
    high = _fitting(
        x.shape[3:], y_type.shape[3:], ct.shape[3:],
        stride=dilation, low=low, spread=spread, dilation=stride,
    )  # fmt: skip
    found = convolution(
        permute(x, dims=(2, 1, 0, *axes)),
        permute(ct, dims=(1, 2, 0, *axes)),
        stride=dilation, low=low, high=high, spread=spread, dilation=stride,
    )  # fmt: skip
    return permute(found, dims=(1, 2, 0, *axes))


def _batch(
    op: Op, size: int, operands: Sequence[Any], batched: Sequence[bool], attrs: dict[str, Any]
) -> Any:
    """The batching rule: examples become more of the batch, more filters, or more groups."""
    x, y = operands
    rank = x.ndim - 3 - batched[0]
    spatial = tuple(range(4, 4 + rank))
    if not batched[1]:
        shape = tuple(x.shape)
        out = op(reshape(x, shape=(size * shape[1], *shape[2:])), y, **attrs)
        return reshape(out, shape=(size, shape[1], *tuple(out.shape)[1:]))
    groups, filters = y.shape[1:3]
    rest = tuple(y.shape)[3:]
    if not batched[0]:
        y = permute(y, dims=(1, 0, *range(2, 4 + rank)))
        out = op(x, reshape(y, shape=(groups, size * filters, *rest)), **attrs)
        out = reshape(out, shape=(*out.shape[:2], size, filters, *out.shape[3:]))
        return permute(out, dims=(2, 0, 1, *range(3, 4 + rank)))
    n = x.shape[1]
    x = permute(x, dims=(1, 0, *range(2, 4 + rank)))
    x = reshape(x, shape=(n, size * groups, *x.shape[3:]))
    out = op(x, reshape(y, shape=(size * groups, filters, *rest)), **attrs)
    out = reshape(out, shape=(n, size, groups, *out.shape[2:]))
    return permute(out, dims=(1, 0, 2, 3, *spatial))


def _case(
    x: Shape,
    y: Shape,
    stride: Any = 1,
    low: Any = 0,
    high: Any = 0,
    spread: Any = 1,
    dilation: Any = 1,
) -> Any:
    """A sample; a number stands for the same along each axis."""
    values = {"stride": stride, "low": low, "high": high, "spread": spread, "dilation": dilation}
    rank = len(x) - 3
    return [x, y], {k: v if isinstance(v, tuple) else (v,) * rank for k, v in values.items()}


# See the module docstring.
convolution: Op = bilinear(
    "convolution",
    eval=convolve,
    type_rule=_type,
    lhs=_by_input,
    rhs=_by_kernel,
    attrs=("stride", "low", "high", "spread", "dilation"),
    batch=_batch,
    lower=Expansion(convolve),
    samples=with_attrs(
        [
            _case((2, 1, 3, 6), (1, 2, 3, 3), low=1, high=1),
            _case((2, 2, 2, 7), (2, 2, 2, 2), stride=2, high=1),
            _case((1, 1, 2, 4, 5), (1, 3, 2, 2, 3), low=(1, 0), high=(0, 2)),
            _case((2, 1, 2, 5, 5), (1, 2, 2, 2, 2), stride=(2, 1), dilation=(1, 2)),
            _case((2, 1, 2, 3, 3), (1, 2, 2, 3, 2), low=(2, 1), high=(2, 0), spread=(2, 3)),
            _case((2, 1, 2, 2, 2), (1, 3, 2, 4, 3), low=1, high=(2, 0), spread=2),
            _case((1, 2, 1, 4, 3), (2, 1, 1, 2, 2), stride=2, low=1, high=2, spread=(2, 1)),
            _case((2, 3, 1, 4, 4), (3, 1, 1, 3, 3), low=1, high=(1, -1)),
            _case((2, 1, 3, 4, 4), (1, 2, 3, 1, 1)),
            _case((0, 1, 2, 4), (1, 2, 2, 3)),
            _case((2, 1, 0, 4), (1, 2, 0, 3)),
            _case((1, 1, 2, 2, 3, 3), (1, 2, 2, 1, 2, 2), stride=(1, 2, 1), high=1),
        ]
    ),
)
