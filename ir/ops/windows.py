"""Windows over the last axes, and their transpose: what convolutions and pooling are made of.

`windows` shows each window of an array as axes of its own, without copying; native code reads it in place.
`overlap_add` puts windows back and adds up where they overlap. Start with :data:`windows`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..batching import shifted
from ..lowering import Expansion, Movement
from ..memory import restrided
from ..op import Op, linear
from ..types import Shape, TensorType
from .arithmetic import zeros
from .samples import FLOATS, with_attrs
from .shape import box, concat, pad, permute, reshape, slice_


def span(size: int, dilation: int) -> int:
    """How far a window of `size` elements, every `dilation`-th, reaches."""
    return (size - 1) * dilation + 1


def _windows(x: np.ndarray, size: Shape, stride: Shape, dilation: Shape) -> np.ndarray:
    n = len(size)
    lead, inner = x.shape[:-n], x.strides[-n:]
    counts = _counts(x.shape[-n:], size, stride, dilation)
    return restrided(
        x,
        (*lead, *counts, *size),
        (
            *x.strides[:-n],
            *(step * unit for step, unit in zip(stride, inner, strict=True)),
            *(step * unit for step, unit in zip(dilation, inner, strict=True)),
        ),
    )


def _counts(extents: Shape, size: Shape, stride: Shape, dilation: Shape) -> Shape:
    """How many windows there are along each axis."""
    return tuple(
        (extent - span(k, d)) // s + 1
        for extent, k, s, d in zip(extents, size, stride, dilation, strict=True)
    )


def _windows_type(x: TensorType, *, size: Shape, stride: Shape, dilation: Shape) -> TensorType:
    n = len(size)
    counts = _counts(x.shape[-n:], size, stride, dilation)
    if min(counts) < 1:
        raise RuntimeError(f"windows of {list(size)} elements do not fit into {x}")
    return TensorType(x.dtype, (*x.shape[:-n], *counts, *size))


def _windows_index(
    index: tuple[Any, ...],
    x: TensorType,
    out: TensorType,
    size: Shape,
    stride: Shape,
    dilation: Shape,
) -> tuple[Any, ...]:
    n = len(size)
    window, place = index[-2 * n : -n], index[-n:]
    return (
        *index[: -2 * n],
        *(i * s + j * d for i, s, j, d in zip(window, stride, place, dilation, strict=True)),
    )


# Windows over the last len(size) axes: of `size` elements, every `dilation`-th, beginning at every `stride`-th. An
# axis of windows stands in place of each axis; the places in the window are axes at the end.
windows: Op = linear(
    "windows",
    eval=_windows,
    type_rule=_windows_type,
    transpose=lambda ct, x_type, size, stride, dilation: overlap_add(
        ct, extents=x_type.shape[x_type.ndim - len(size) :], stride=stride, dilation=dilation
    ),
    attrs=("size", "stride", "dilation"),
    batch=shifted(),
    lower=Movement(_windows_index),
    samples=with_attrs(
        [
            ([(7,)], {"size": (3,), "stride": (2,), "dilation": (1,)}),
            ([(2, 6, 7)], {"size": (2, 3), "stride": (1, 2), "dilation": (2, 1)}),
            ([(3, 4, 4)], {"size": (2, 2), "stride": (2, 2), "dilation": (1, 1)}),
            ([(0, 4)], {"size": (3,), "stride": (1,), "dilation": (1,)}),
        ],
        FLOATS,
    ),
)


def _overlap_add(x: np.ndarray, extents: Shape, stride: Shape, dilation: Shape) -> np.ndarray:
    n = len(extents)
    lead, counts, size = x.shape[: x.ndim - 2 * n], x.shape[-2 * n : -n], x.shape[-n:]
    total = np.zeros((*lead, *extents), x.dtype)
    for place in itertools.product(*map(range, size)):
        start = tuple(j * d for j, d in zip(place, dilation, strict=True))
        target: Any = (..., *box(start, counts, stride))
        source: Any = (..., *place)
        total[target] += x[source]
    return total


def _overlap_type(x: TensorType, *, extents: Shape, stride: Shape, dilation: Shape) -> TensorType:
    n = len(extents)
    size = x.shape[-n:]
    if _counts(extents, size, stride, dilation) != x.shape[-2 * n : -n]:
        raise RuntimeError(f"the windows {x} are not those of {list(extents)} elements")
    return TensorType(x.dtype, (*x.shape[: x.ndim - 2 * n], *extents))


def _expanded_overlap_add(x: Any, extents: Shape, stride: Shape, dilation: Shape) -> Any:
    """The same by sums of slices: one for each phase of the strides, laid beside each other and then interleaved."""
    n = len(extents)
    shape = tuple(x.shape)
    lead, counts, size = shape[: -2 * n], shape[-2 * n : -n], shape[-n:]
    axes = list(zip(extents, counts, size, stride, dilation, strict=True))
    lengths = tuple(-(-extent // s) for extent, _, _, s, _ in axes)
    low = tuple((k - 1) * d // s for _, _, k, s, d in axes)
    high = tuple(max(length - count, 0) for length, count in zip(lengths, counts, strict=True))
    around = (0,) * len(lead)
    x = pad(x, low=(*around, *low, *(0,) * n), high=(*around, *high, *(0,) * n), value=0)
    phases = []
    for phase in itertools.product(*map(range, stride)):
        total = None
        for place in itertools.product(*map(range, size)):
            shifts = [j * d - r for j, r, d in zip(place, phase, dilation, strict=True)]
            if any(shift % s for shift, s in zip(shifts, stride, strict=True)):
                continue
            first = tuple(a - shift // s for a, shift, s in zip(low, shifts, stride, strict=True))
            part = _part(x, first, lengths, place)
            total = part if total is None else total + part
        if total is None:
            total = zeros(x, shape=(*lead, *lengths))
        phases.append(total)
    if len(phases) == 1:
        return phases[0]
    return _interleaved(phases, lead, lengths, stride, extents)


def _part(x: Any, first: Shape, lengths: Shape, place: Shape) -> Any:
    """The elements of all windows at one place in them, for `lengths` windows from `first` on."""
    n = len(place)
    shape = tuple(x.shape)
    lead = shape[: -2 * n]
    start = (*(0,) * len(lead), *first, *place)
    limit = (
        *lead,
        *(a + length for a, length in zip(first, lengths, strict=True)),
        *(j + 1 for j in place),
    )
    part = slice_(x, start=start, limit=limit, stride=(1,) * len(shape))
    return reshape(part, shape=(*lead, *lengths))


def _interleaved(
    phases: list[Any], lead: Shape, lengths: Shape, stride: Shape, extents: Shape
) -> Any:
    """Element i of phase r becomes element ``i * stride + r``."""
    m, n = len(lead), len(stride)
    parts = [reshape(phase, shape=(*lead, 1, *lengths)) for phase in phases]
    together = reshape(concat(*parts, axis=m), shape=(*lead, *stride, *lengths))
    order = itertools.chain.from_iterable((m + n + i, m + i) for i in range(n))
    mixed = permute(together, dims=(*range(m), *order))
    whole = tuple(length * s for length, s in zip(lengths, stride, strict=True))
    return slice_(
        reshape(mixed, shape=(*lead, *whole)),
        start=(0,) * (m + n),
        limit=(*lead, *extents),
        stride=(1,) * (m + n),
    )


# Windows as `windows` makes them of an array whose last axes have these extents, put back and added up.
overlap_add: Op = linear(
    "overlap_add",
    eval=_overlap_add,
    type_rule=_overlap_type,
    transpose=lambda ct, x_type, extents, stride, dilation: windows(
        ct, size=x_type.shape[x_type.ndim - len(extents) :], stride=stride, dilation=dilation
    ),
    attrs=("extents", "stride", "dilation"),
    batch=shifted(),
    lower=Expansion(_expanded_overlap_add),
    samples=with_attrs(
        [
            ([(3, 3)], {"extents": (7,), "stride": (2,), "dilation": (1,)}),
            ([(2, 3, 2)], {"extents": (6,), "stride": (1,), "dilation": (3,)}),
            ([(4, 3, 2, 3)], {"extents": (6, 8), "stride": (1, 2), "dilation": (2, 1)}),
            ([(3, 2, 2, 2, 2)], {"extents": (4, 5), "stride": (2, 2), "dilation": (1, 1)}),
            ([(2, 2)], {"extents": (6,), "stride": (3,), "dilation": (1,)}),
            ([(0, 2, 3)], {"extents": (4,), "stride": (1,), "dilation": (1,)}),
        ],
        FLOATS,
    ),
)
