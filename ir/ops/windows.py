"""Windows over the last axes, and their transpose: what convolutions and pooling are made of.

`windows` shows each window of an array as axes of its own, without copying; native code reads it in place.
`overlap_add` puts windows back and adds up where they overlap. `window_argmax` finds the largest element of each
window. Start with :data:`windows`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..batching import shifted
from ..graph import current_builder
from ..lowering import Expansion, Movement
from ..memory import restrided
from ..op import Op, linear, primitive, registered
from ..types import DType, Shape, TensorType, from_numpy_dtype, int64
from .arithmetic import zeros
from .samples import FLOATS, NUMBERS, with_attrs
from .shape import box, broadcast_in_dim, concat, pad, permute, reshape, slice_


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


def lowest(dtype: DType) -> float | int:
    """The smallest value of a dtype: minus infinity, if it has one."""
    return -np.inf if dtype.is_floating else int(np.iinfo(dtype.np).min)


def _padded_for(
    x: Any, size: Shape, stride: Shape, dilation: Shape, low: Shape, counts: Shape, dtype: DType
) -> Any:
    """The array with so much of the smallest value around it that all windows fit."""
    extents = tuple(x.shape)[x.ndim - len(size) :]
    high = tuple(
        max((count - 1) * s + span(k, d) - extent - a, 0)
        for count, s, k, d, extent, a in zip(
            counts, stride, size, dilation, extents, low, strict=True
        )
    )
    if not any((*low, *high)):
        return x
    lead = (0,) * (x.ndim - len(size))
    return pad(x, low=(*lead, *low), high=(*lead, *high), value=lowest(dtype))


def _steps(extents: Shape) -> Shape:
    """How far apart in one row of all elements the neighbours along each axis are."""
    return tuple(int(np.prod(extents[axis + 1 :])) for axis in range(len(extents)))


def _window_argmax(
    x: np.ndarray, size: Shape, stride: Shape, dilation: Shape, low: Shape, counts: Shape
) -> np.ndarray:
    n = len(size)
    lead, steps, dtype = x.shape[:-n], _steps(x.shape[-n:]), from_numpy_dtype(x.dtype)
    corner, first = np.zeros(counts, np.int64), np.zeros(counts, np.int64)
    for axis, count in enumerate(counts):
        begin = np.arange(count) * stride[axis] - low[axis]
        inside = np.where(begin < 0, begin % dilation[axis], begin)
        around = (-1, *(1,) * (n - axis - 1))
        corner += begin.reshape(around) * steps[axis]
        first += inside.reshape(around) * steps[axis]
    x = _padded_for(x, size, stride, dilation, low, counts, dtype)
    best = np.full((*lead, *counts), lowest(dtype), x.dtype)
    position = np.broadcast_to(first, best.shape).copy()
    for start, offset in _places(size, dilation, steps):
        target: Any = (..., *box(start, counts, stride))
        seen = x[target]
        greater = (seen > best) | (seen != seen)
        np.copyto(best, seen, where=greater)
        np.copyto(position, corner + offset, where=greater)
    return position


def _places(size: Shape, dilation: Shape, steps: Shape) -> Iterator[tuple[Shape, int]]:
    """For each place in a window how far it is from the first, along each axis and in the row of all elements."""
    for place in itertools.product(*map(range, size)):
        start = tuple(j * d for j, d in zip(place, dilation, strict=True))
        yield start, sum(a * step for a, step in zip(start, steps, strict=True))


def _expanded_window_argmax(
    x: Any, size: Shape, stride: Shape, dilation: Shape, low: Shape, counts: Shape
) -> Any:
    """The same as a chain of choices, which native code makes in registers."""
    n, dtype = len(size), x.dtype
    shape, steps = tuple(x.shape), _steps(tuple(x.shape)[x.ndim - len(size) :])
    lead = shape[: len(shape) - n]
    where, greater_than = registered("where"), registered("gt")
    corner, position = _corners(lead, stride, dilation, low, counts, steps)
    x = _padded_for(x, size, stride, dilation, low, counts, dtype)
    best: Any = lowest(dtype)
    for start, offset in _places(size, dilation, steps):
        seen = slice_(
            x,
            start=(*(0,) * len(lead), *start),
            limit=(*lead, *(edge.stop for edge in box(start, counts, stride))),
            stride=(*(1,) * len(lead), *stride),
        )
        greater = registered("bit_or")(greater_than(seen, best), registered("ne")(seen, seen))
        best = where(greater, seen, best)
        position = where(greater, corner + offset, position)
    return position


def _corners(
    lead: Shape, stride: Shape, dilation: Shape, low: Shape, counts: Shape, steps: Shape
) -> tuple[Any, Any]:
    """Nodes: where windows begin in the row of all elements, and their first elements that are there."""
    corner = first = None
    for axis, count in enumerate(counts):
        row = current_builder().emit(registered("iota"), (), {"size": count, "dtype": int64})
        begin = row * stride[axis] - low[axis]
        behind = registered("remainder")(begin, dilation[axis])
        inside = registered("where")(registered("lt")(begin, 0), behind, begin)
        spread = {"shape": (*lead, *counts), "dims": (len(lead) + axis,)}
        along = broadcast_in_dim(begin * steps[axis], **spread)
        corner = along if corner is None else corner + along
        along = broadcast_in_dim(inside * steps[axis], **spread)
        first = along if first is None else first + along
    return corner, first


def _options(
    size: Shape, stride: Shape, dilation: Shape, low: Shape, counts: Shape
) -> dict[str, Any]:
    return {"size": size, "stride": stride, "dilation": dilation, "low": low, "counts": counts}


# For each window over the last axes the position of its largest element, in a row of all elements of these axes. The
# first of equal ones, but the last NaN. Windows begin `low` places before the array; what is outside does not count.
window_argmax: Op = primitive(
    "window_argmax",
    eval=_window_argmax,
    type_rule=lambda x, *, size, stride, dilation, low, counts: TensorType(
        int64, (*x.shape[: x.ndim - len(size)], *counts)
    ),
    attrs=("size", "stride", "dilation", "low", "counts"),
    batch=shifted(),
    lower=Expansion(_expanded_window_argmax),
    samples=with_attrs(
        [
            ([(2, 7)], _options((3,), (2,), (1,), (0,), (3,))),
            ([(2, 6, 5)], _options((2, 3), (1, 2), (2, 1), (1, 1), (6, 3))),
            ([(2, 4, 4)], _options((2, 2), (2, 2), (1, 1), (0, 0), (2, 2))),
            ([(5,)], _options((2,), (2,), (3,), (1,), (3,))),
            ([(0, 4)], _options((2,), (1,), (1,), (0,), (3,))),
        ],
        NUMBERS,
    ),
)
