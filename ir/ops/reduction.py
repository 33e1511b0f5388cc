"""Reductions along axes. Attrs: ``axis`` a sorted tuple of non-negative axes, ``keepdims``."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..batching import axes, one_axis, shifted
from ..lowering import Reduce, Special, normalized_reduction
from ..op import Op, linear, primitive
from ..types import DType, TensorType, int64
from .arithmetic import zeros
from .comparison import eq
from .samples import NUMBERS, Case, with_attrs
from .selection import where
from .shape import broadcast_in_dim

_CASES: list[Case] = [
    ([(4,)], {"axis": (0,), "keepdims": False}),
    ([(3, 5)], {"axis": (1,), "keepdims": True}),
    ([(3, 5)], {"axis": (0,), "keepdims": False}),
    ([(2, 3, 4)], {"axis": (0, 2), "keepdims": False}),
    ([(2, 3, 4)], {"axis": (0, 1, 2), "keepdims": False}),
    ([()], {"axis": (), "keepdims": False}),
]
_EMPTY: list[Case] = [([(0, 4)], {"axis": (0,), "keepdims": False})]


def _reduced(x: TensorType, *, axis: tuple[int, ...], keepdims: bool) -> TensorType:
    return normalized_reduction(x, axis, keepdims)


def spread(reduced: Any, shape: tuple[int, ...], axis: tuple[int, ...], keepdims: bool) -> Any:
    """Broadcast the result of a reduction back over the axes that it removed."""
    kept = range(len(shape)) if keepdims else (i for i in range(len(shape)) if i not in axis)
    return broadcast_in_dim(reduced, shape=shape, dims=tuple(kept))


# np.sum goes through two more Python functions.
_add_up: Any = np.add.reduce

sum_: Op = linear(
    "sum",
    eval=lambda x, axis, keepdims: _add_up(x, axis, x.dtype, None, keepdims),
    type_rule=_reduced,
    transpose=lambda ct, x_type, axis, keepdims: spread(ct, x_type.shape, axis, keepdims),
    attrs=("axis", "keepdims"),
    batch=shifted(axis=axes),
    lower=Reduce(lambda s, acc, x: s.add(acc, x), lambda dtype: 0, exact=False),
    samples=with_attrs(_CASES + _EMPTY, dtypes=NUMBERS),
)


def _extremum_vjp(ct: Any, x: Any, out: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    """All elements that reach the extremum share the cotangent evenly, as torch's amax and amin."""
    shape = tuple(x.shape)
    hit = eq(x, spread(out, shape, axis, keepdims))
    count = sum_(where(hit, zeros(x, shape=shape) + 1.0, 0.0), axis=axis, keepdims=keepdims)
    return where(hit, spread(ct / count, shape, axis, keepdims), 0.0)


def _extremum_jvp(
    tangents: Any, out: Any, operands: Any, *, axis: tuple[int, ...], keepdims: bool
) -> Any:
    (x,), (tangent,) = operands, tangents
    shape = tuple(x.shape)
    hit = eq(x, spread(out, shape, axis, keepdims))
    count = sum_(where(hit, zeros(x, shape=shape) + 1.0, 0.0), axis=axis, keepdims=keepdims)
    return sum_(where(hit, tangent, 0.0), axis=axis, keepdims=keepdims) / count


def lowest(dtype: DType) -> float | int | bool:
    """The smallest number of a dtype."""
    if dtype.is_floating:
        return -np.inf
    return False if dtype.category == 0 else int(np.iinfo(dtype.np).min)


def highest(dtype: DType) -> float | int | bool:
    """The greatest number of a dtype."""
    if dtype.is_floating:
        return np.inf
    return True if dtype.category == 0 else int(np.iinfo(dtype.np).max)


max_: Op = primitive(
    "max",
    eval=lambda x, axis, keepdims: np.max(x, axis=axis, keepdims=keepdims),
    type_rule=_reduced,
    vjps=(_extremum_vjp,),
    jvp=_extremum_jvp,
    attrs=("axis", "keepdims"),
    batch=shifted(axis=axes),
    lower=Reduce(lambda s, acc, x: s.maximum(acc, x), lowest, exact=True),
    samples=with_attrs(_CASES, dtypes=NUMBERS),
)
min_: Op = primitive(
    "min",
    eval=lambda x, axis, keepdims: np.min(x, axis=axis, keepdims=keepdims),
    type_rule=_reduced,
    vjps=(_extremum_vjp,),
    jvp=_extremum_jvp,
    attrs=("axis", "keepdims"),
    batch=shifted(axis=axes),
    lower=Reduce(lambda s, acc, x: s.minimum(acc, x), highest, exact=True),
    samples=with_attrs(_CASES, dtypes=NUMBERS),
)

_ARG_CASES: list[Case] = [
    ([(4,)], {"axis": 0, "keepdims": False}),
    ([(3, 5)], {"axis": 1, "keepdims": True}),
    ([(2, 3, 4)], {"axis": 1, "keepdims": False}),
]


def _arg_type(x: TensorType, *, axis: int, keepdims: bool) -> TensorType:
    return TensorType(int64, normalized_reduction(x, (axis,), keepdims).shape)


# The first of equal elements; a NaN counts as the extremum. Attr axis is one axis.
argmax: Op = primitive(
    "argmax",
    eval=lambda x, axis, keepdims: np.argmax(x, axis=axis, keepdims=keepdims),
    type_rule=_arg_type,
    attrs=("axis", "keepdims"),
    batch=shifted(axis=one_axis),
    lower=Special("argmax"),
    samples=with_attrs(_ARG_CASES, dtypes=NUMBERS),
)
argmin: Op = primitive(
    "argmin",
    eval=lambda x, axis, keepdims: np.argmin(x, axis=axis, keepdims=keepdims),
    type_rule=_arg_type,
    attrs=("axis", "keepdims"),
    batch=shifted(axis=one_axis),
    lower=Special("argmin"),
    samples=with_attrs(_ARG_CASES, dtypes=NUMBERS),
)
