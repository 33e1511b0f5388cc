"""Scans: what a fold along an axis has come to after each element; and products, whose derivatives are scans.

Attr ``axis`` is one axis. Derivatives of products divide by nothing, so they hold where elements are zero: they are
made of ``recurrence``, whose derivative is a recurrence again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import formulas
from ..batching import axes, one_axis, shifted
from ..lowering import Reduce, Scan, normalized_reduction
from ..op import Op, broadcasting, linear, primitive
from ..types import TensorType
from .comparison import eq
from .reduction import spread, sum_
from .samples import FLOATS, NUMBERS, Case, with_attrs
from .selection import where
from .shape import flip, pad, slice_
from .transcendental import exp

_CASES: list[Case] = [
    ([(4,)], {"axis": 0}),
    ([(2, 3)], {"axis": 1}),
    ([(2, 3, 2)], {"axis": 1}),
    ([(0, 3)], {"axis": 0}),
]


def _same_type(x: TensorType, *, axis: int) -> TensorType:
    return x


def _backward(x: Any, axis: int) -> Any:
    return flip(x, axes=(axis,))


def moved(x: Any, axis: int, first: float, *, back: bool = False) -> Any:
    """Each element in the place of the next one along an axis (or of the one before, with `back`).

    `first` stands where no element has moved to.
    """
    shape = tuple(x.shape)
    if not shape[axis]:
        return x
    start, limit = [0] * len(shape), list(shape)
    low, high = [0] * len(shape), [0] * len(shape)
    if back:
        start[axis] = high[axis] = 1
    else:
        limit[axis] -= 1
        low[axis] = 1
    kept = slice_(x, start=tuple(start), limit=tuple(limit), stride=(1,) * len(shape))
    return pad(kept, low=tuple(low), high=tuple(high), value=first)


cumsum: Op = linear(
    "cumsum",
    eval=lambda x, axis: np.cumsum(x, axis=axis, dtype=x.dtype),
    type_rule=_same_type,
    transpose=lambda ct, axis: _backward(cumsum(_backward(ct, axis), axis=axis), axis),
    attrs=("axis",),
    batch=shifted(axis=one_axis),
    lower=Scan(lambda s, acc, x: s.add(acc, x), lambda dtype: -0.0 if dtype.is_floating else 0),
    samples=with_attrs(_CASES, NUMBERS),
)


def _recurrence(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    result = np.array(y)
    factors, states = np.moveaxis(x, axis, 0), np.moveaxis(result, axis, 0)
    for k in range(1, len(states)):
        states[k] += factors[k] * states[k - 1]
    return result


def _recurrence_x_vjp(ct: Any, x: Any, out: Any, axis: int) -> Any:
    return _recurrence_y_vjp(ct, x, axis) * moved(out, axis, 0)


def _recurrence_y_vjp(ct: Any, x: Any, axis: int) -> Any:
    factors = moved(x, axis, 0, back=True)
    return _backward(recurrence(_backward(factors, axis), _backward(ct, axis), axis=axis), axis)


def _recurrence_jvp(tangents: Any, out: Any, operands: Any, *, axis: int) -> Any:
    (x, _), (x_tangent, y_tangent) = operands, tangents
    total = None if x_tangent is None else x_tangent * moved(out, axis, 0)
    if y_tangent is not None:
        total = y_tangent if total is None else total + y_tangent
    return recurrence(x, total, axis=axis)


# out[k] = x[k] * out[k - 1] + y[k]; what x[0] is does not matter.
recurrence: Op = primitive(
    "recurrence",
    operands=("x", "y"),
    eval=_recurrence,
    type_rule=lambda x, y, *, axis: broadcasting(x, y),
    vjps=(_recurrence_x_vjp, _recurrence_y_vjp),
    jvp=_recurrence_jvp,
    attrs=("axis",),
    batch=shifted(axis=one_axis),
    samples=with_attrs(
        [
            ([(4,), (4,)], {"axis": 0}),
            ([(2, 3), (2, 3)], {"axis": 1}),
            ([(0, 3), (0, 3)], {"axis": 0}),
        ],
        FLOATS,
    ),
)


def _cumprod_jvp(tangents: Any, out: Any, operands: Any, *, axis: int) -> Any:
    return recurrence(operands[0], tangents[0] * moved(out, axis, 1), axis=axis)


cumprod: Op = primitive(
    "cumprod",
    eval=lambda x, axis: np.cumprod(x, axis=axis, dtype=x.dtype),
    type_rule=_same_type,
    vjps=(lambda ct, x, out, axis: _recurrence_y_vjp(ct, x, axis) * moved(out, axis, 1),),
    jvp=_cumprod_jvp,
    attrs=("axis",),
    batch=shifted(axis=one_axis),
    lower=Scan(lambda s, acc, x: s.mul(acc, x), lambda dtype: 1),
    samples=with_attrs(_CASES, NUMBERS),
)


def _others(x: Any, axis: int) -> Any:
    """For each element the product of all others along an axis."""
    before = moved(cumprod(x, axis=axis), axis, 1)
    after = _backward(moved(cumprod(_backward(x, axis), axis=axis), axis, 1), axis)
    return before * after


def _prod_vjp(ct: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    if not axis:
        return ct
    return spread(ct, tuple(x.shape), axis, keepdims) * _others(x, axis[0])


def _prod_jvp(
    tangents: Any, out: Any, operands: Any, *, axis: tuple[int, ...], keepdims: bool
) -> Any:
    if not axis:
        return tangents[0]
    return sum_(tangents[0] * _others(operands[0], axis[0]), axis=axis, keepdims=keepdims)


# Attr axis is a tuple, as of every reduction, but of one axis at most.
prod: Op = primitive(
    "prod",
    eval=lambda x, axis, keepdims: np.prod(x, axis=axis, keepdims=keepdims, dtype=x.dtype),
    type_rule=lambda x, *, axis, keepdims: normalized_reduction(x, axis, keepdims),
    vjps=(_prod_vjp,),
    jvp=_prod_jvp,
    attrs=("axis", "keepdims"),
    batch=shifted(axis=axes),
    lower=Reduce(lambda s, acc, x: s.mul(acc, x), lambda dtype: 1, exact=False),
    samples=with_attrs(
        [
            ([(4,)], {"axis": (0,), "keepdims": False}),
            ([(3, 5)], {"axis": (1,), "keepdims": True}),
            ([(2, 3, 4)], {"axis": (1,), "keepdims": False}),
            ([()], {"axis": (), "keepdims": False}),
            ([(0, 4)], {"axis": (0,), "keepdims": False}),
        ],
        NUMBERS,
    ),
)


def _quotient_of_exp(x: Any, y: Any) -> Any:
    """``exp(x - y)``; 1 where both are the same, infinite ones too."""
    return exp(where(eq(x, y), 0.0, x - y))


def _logcumsumexp_vjp(ct: Any, x: Any, out: Any, axis: int) -> Any:
    # Each factor is exp(out[k - 1] - out[k]), at most 1.
    factors = _quotient_of_exp(moved(out, axis, -math.inf), out)
    return _recurrence_y_vjp(ct, factors, axis) * _quotient_of_exp(x, out)


def _logcumsumexp_jvp(tangents: Any, out: Any, operands: Any, *, axis: int) -> Any:
    factors = _quotient_of_exp(moved(out, axis, -math.inf), out)
    return recurrence(factors, tangents[0] * _quotient_of_exp(operands[0], out), axis=axis)


logcumsumexp: Op = primitive(
    "logcumsumexp",
    eval=lambda x, axis: np.logaddexp.accumulate(x, axis=axis),
    type_rule=_same_type,
    vjps=(_logcumsumexp_vjp,),
    jvp=_logcumsumexp_jvp,
    attrs=("axis",),
    batch=shifted(axis=one_axis),
    lower=Scan(formulas.logaddexp, lambda dtype: -math.inf),
    samples=with_attrs(_CASES, FLOATS),
)
