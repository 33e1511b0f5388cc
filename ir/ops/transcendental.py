"""Roots, powers, exponentials, logarithms, trigonometric, hyperbolic and error functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..formulas import whole_power
from ..op import Op, floating, pointwise
from .comparison import bit_and, eq, ge
from .error_function import evaluate_erf, evaluate_erfc
from .samples import FLOATS, binary, unary
from .selection import where

sqrt: Op = pointwise(
    "sqrt",
    eval=np.sqrt,
    partials=(lambda ct, out: ct / (out * 2.0),),
    lower=lambda s, x: s.sqrt(x),
    samples=unary(0.1, 4.0),
)
rsqrt: Op = pointwise(
    "rsqrt",
    eval=lambda x: 1 / np.sqrt(x),
    partials=(lambda out: out * out * out * -0.5,),
    lower=lambda s, x: s.div(s.like(1, x), s.sqrt(x)),
    samples=unary(0.1, 4.0),
)


def _evaluate_power(x: np.ndarray, exponent: float) -> np.ndarray:
    x = np.asarray(x)
    if exponent == 2:  # What `power` gives, in half the time.
        return np.square(x)
    return np.power(x, x.dtype.type(exponent))


def _power_partial(x: Any, exponent: float) -> Any:
    """n * x**(n - 1); exactly zero for n = 0, also at x = 0 (as torch's pow)."""
    if exponent == 0:
        return 0
    if exponent == 1:
        return 1
    if exponent == 2:
        return x * 2.0
    return power(x, exponent=exponent - 1) * float(exponent)


def _lower_power(s: Any, x: Any, exponent: float) -> Any:
    """Small integer exponents by repeated squaring, the others by ``pow``."""
    if exponent != int(exponent) or abs(exponent) > 64:
        return s.sqrt(x) if exponent == 0.5 else s.call("pow", x, s.like(exponent, x))
    return whole_power(s, x, int(exponent))


# A power with a constant exponent: by far the most common, and its own derivative needs no logarithm.
power: Op = pointwise(
    "power",
    eval=_evaluate_power,
    partials=(_power_partial,),
    lower=_lower_power,
    attrs=("exponent",),
    type_rule=lambda x, *, exponent: x,
    samples=lambda rng: (
        sample
        for exponent in (0, 1, 2, 3, -1, -2, 0.5, 2.5)
        for sample in unary(0.2, 2.0, FLOATS, exponent=exponent)(rng)
    ),
)


def _pow_exponent_partial(x: Any, y: Any, out: Any) -> Any:
    """out * log(x), but 0 where zero has a power that is not negative, as torch."""
    constant = bit_and(eq(x, 0.0), ge(y, 0.0))
    return out * log(where(constant, 1.0, x))


pow_: Op = pointwise(
    "pow",
    eval=np.power,
    type_rule=floating,
    partials=(
        lambda ct, x, y: where(eq(y, 0.0), 0.0, ct * (y * pow_(x, y - 1.0))),
        _pow_exponent_partial,
    ),
    lower=lambda s, x, y: s.call("pow", x, y),
    samples=binary(0.2, 2.0, right=(-2.0, 2.0)),
)
integer_pow: Op = pointwise(
    "integer_pow",
    eval=np.power,
    operands=("x", "y"),
    samples=binary(0, 3, ("i4", "i8"), right=(0, 4)),
)

exp: Op = pointwise(
    "exp",
    eval=np.exp,
    partials=(lambda out: out,),
    lower=lambda s, x: s.call("exp", x),
    samples=unary(),
)
expm1: Op = pointwise(
    "expm1",
    eval=np.expm1,
    partials=(lambda out: out + 1.0,),
    lower=lambda s, x: s.call("expm1", x),
    samples=unary(),
)
exp2: Op = pointwise(
    "exp2",
    eval=np.exp2,
    partials=(lambda out: out * math.log(2),),
    lower=lambda s, x: s.call("exp2", x),
    samples=unary(),
)
log: Op = pointwise(
    "log",
    eval=np.log,
    partials=(lambda ct, x: ct / x,),
    lower=lambda s, x: s.call("log", x),
    samples=unary(0.1, 4.0),
)
log1p: Op = pointwise(
    "log1p",
    eval=np.log1p,
    partials=(lambda ct, x: ct / (x + 1.0),),
    lower=lambda s, x: s.call("log1p", x),
    samples=unary(-0.8, 4.0),
)
log2: Op = pointwise(
    "log2",
    eval=np.log2,
    partials=(lambda ct, x: ct / (x * math.log(2)),),
    lower=lambda s, x: s.call("log2", x),
    samples=unary(0.1, 4.0),
)
log10: Op = pointwise(
    "log10",
    eval=np.log10,
    partials=(lambda ct, x: ct / (x * math.log(10)),),
    lower=lambda s, x: s.call("log10", x),
    samples=unary(0.1, 4.0),
)

sin: Op = pointwise(
    "sin",
    eval=np.sin,
    partials=(lambda x: cos(x),),
    lower=lambda s, x: s.call("sin", x),
    samples=unary(-6.0, 6.0),
)
cos: Op = pointwise(
    "cos",
    eval=np.cos,
    partials=(lambda x: -sin(x),),
    lower=lambda s, x: s.call("cos", x),
    samples=unary(-6.0, 6.0),
)
tan: Op = pointwise(
    "tan",
    eval=np.tan,
    partials=(lambda out: out * out + 1.0,),
    lower=lambda s, x: s.call("tan", x),
    samples=unary(-1.2, 1.2),
)
asin: Op = pointwise(
    "asin",
    eval=np.arcsin,
    partials=(lambda x: rsqrt(1.0 - x * x),),
    lower=lambda s, x: s.call("asin", x),
    samples=unary(-0.9, 0.9),
)
acos: Op = pointwise(
    "acos",
    eval=np.arccos,
    partials=(lambda x: -rsqrt(1.0 - x * x),),
    lower=lambda s, x: s.call("acos", x),
    samples=unary(-0.9, 0.9),
)
atan: Op = pointwise(
    "atan",
    eval=np.arctan,
    partials=(lambda ct, x: ct / (x * x + 1.0),),
    lower=lambda s, x: s.call("atan", x),
    samples=unary(),
)
atan2: Op = pointwise(
    "atan2",
    eval=np.arctan2,
    partials=(
        lambda ct, x, y: ct * (y / (x * x + y * y)),
        lambda ct, x, y: -ct * (x / (x * x + y * y)),
    ),
    lower=lambda s, x, y: s.call("atan2", x, y),
    samples=binary(right=(0.5, 2.0)),
)
sinh: Op = pointwise(
    "sinh",
    eval=np.sinh,
    partials=(lambda x: cosh(x),),
    lower=lambda s, x: s.call("sinh", x),
    samples=unary(),
)
cosh: Op = pointwise(
    "cosh",
    eval=np.cosh,
    partials=(lambda x: sinh(x),),
    lower=lambda s, x: s.call("cosh", x),
    samples=unary(),
)
tanh: Op = pointwise(
    "tanh",
    eval=np.tanh,
    partials=(lambda out: 1.0 - out * out,),
    lower=lambda s, x: s.call("tanh", x),
    samples=unary(),
)
asinh: Op = pointwise(
    "asinh",
    eval=np.arcsinh,
    partials=(lambda x: rsqrt(x * x + 1.0),),
    lower=lambda s, x: s.call("asinh", x),
    samples=unary(),
)
acosh: Op = pointwise(
    "acosh",
    eval=np.arccosh,
    partials=(lambda x: rsqrt((x - 1.0) * (x + 1.0)),),
    lower=lambda s, x: s.call("acosh", x),
    samples=unary(1.2, 4.0),
)
atanh: Op = pointwise(
    "atanh",
    eval=np.arctanh,
    partials=(lambda ct, x: ct / (1.0 - x * x),),
    lower=lambda s, x: s.call("atanh", x),
    samples=unary(-0.9, 0.9),
)


def _evaluate_sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow on either side."""
    e = np.exp(-np.abs(x))
    return np.where(np.signbit(x), e, x.dtype.type(1)) / (1 + e)


sigmoid: Op = pointwise(
    "sigmoid",
    eval=_evaluate_sigmoid,
    partials=(lambda out: out * (1.0 - out),),
    lower=lambda s, x: s.call("sigmoid", x),
    samples=unary(-6.0, 6.0),
)
erf: Op = pointwise(
    "erf",
    eval=evaluate_erf,
    partials=(lambda x: exp(-(x * x)) * (2 / math.sqrt(math.pi)),),
    lower=lambda s, x: s.call("erf", x),
    samples=unary(-3.0, 3.0),
)
erfc: Op = pointwise(
    "erfc",
    eval=evaluate_erfc,
    partials=(lambda x: exp(-(x * x)) * (-2 / math.sqrt(math.pi)),),
    lower=lambda s, x: s.call("erfc", x),
    samples=unary(-3.0, 3.0),
)
