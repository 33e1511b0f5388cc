"""Order: where sorted elements stand, running extrema, places in a sorted sequence.

All of them make positions, or values without a derivative: functions that have one gather elements at the positions.
NaN counts as greater than every number, equal elements keep their order. Attr ``axis`` is one axis.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..batching import one_axis, shifted
from ..lowering import Scan
from ..op import Op, primitive
from ..types import TensorType, int64
from .reduction import highest, lowest
from .samples import NUMBERS, Case, Sample, draw, with_attrs


def _argsort(x: np.ndarray, axis: int, descending: bool) -> np.ndarray:
    if not descending:
        return np.argsort(x, axis=axis, kind="stable")
    # From the back, so that equal elements keep their order.
    order = np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    return x.shape[axis] - 1 - order


_ORDERS: list[Case] = [
    ([shape], {"axis": axis, "descending": descending})
    for shape, axis in (((7,), 0), ((3, 5), 1), ((3, 5), 0), ((2, 3, 4), 1), ((0, 3), 0))
    for descending in (False, True)
]

argsort: Op = primitive(
    "argsort",
    eval=_argsort,
    type_rule=lambda x, *, axis, descending: TensorType(int64, x.shape),
    attrs=("axis", "descending"),
    batch=shifted(axis=one_axis),
    samples=with_attrs(_ORDERS, NUMBERS),
)

_SCANS: list[Case] = [
    ([shape], {"axis": axis}) for shape, axis in (((4,), 0), ((2, 3, 2), 1), ((3, 0), 0))
]

running_max: Op = primitive(
    "running_max",
    eval=lambda x, axis: np.maximum.accumulate(x, axis=axis),
    type_rule=lambda x, *, axis: x,
    attrs=("axis",),
    batch=shifted(axis=one_axis),
    lower=Scan(lambda s, acc, x: s.maximum(acc, x), lowest),
    samples=with_attrs(_SCANS, NUMBERS),
)
running_min: Op = primitive(
    "running_min",
    eval=lambda x, axis: np.minimum.accumulate(x, axis=axis),
    type_rule=lambda x, *, axis: x,
    attrs=("axis",),
    batch=shifted(axis=one_axis),
    lower=Scan(lambda s, acc, x: s.minimum(acc, x), highest),
    samples=with_attrs(_SCANS, NUMBERS),
)


def _searchsorted(x: np.ndarray, y: np.ndarray, right: bool) -> np.ndarray:
    if x.ndim == 1 and not (x != x).any():
        return np.searchsorted(x, y, "right" if right else "left")
    # Bisection in all rows at once, which finds its way among unsorted elements as torch's does.
    low = np.zeros(y.shape, np.int64)
    high = np.full(y.shape, x.shape[-1], np.int64)
    while (open_ := low < high).any():
        middle = (low + high) // 2
        seen = np.take_along_axis(x, np.minimum(middle, x.shape[-1] - 1), -1)
        before = ~(seen > y if right else seen >= y)
        low, high = (
            np.where(open_ & before, middle + 1, low),
            np.where(open_ & ~before, middle, high),
        )
    return low


def _search_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in NUMBERS:
        for x, y in (((5,), (4,)), ((2, 6), (2, 3)), ((2, 1, 3), (2, 1, 2)), ((0,), (2,))):
            for right in (False, True):
                rows = np.sort(draw(rng, x, dtype), axis=-1)
                yield Sample((rows, draw(rng, y, dtype)), {"right": right})


# How many elements of the sorted rows of x are smaller than each element of y (or not greater, with `right`).
# Both have the same axes in front of the last.
searchsorted: Op = primitive(
    "searchsorted",
    operands=("x", "y"),
    eval=_searchsorted,
    type_rule=lambda x, y, *, right: TensorType(int64, y.shape),
    attrs=("right",),
    batch=shifted(),
    samples=_search_samples,
)
