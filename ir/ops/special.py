"""Special functions: gamma, Bessel, inverses of the error function, and logarithms of sums and products.

Those that NumPy lacks are written once, in :mod:`..formulas`, for native code and for NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import formulas
from ..array_builder import on_arrays
from ..op import Op, broadcasting, floating, pointwise
from ..types import TensorType, bool_
from .arithmetic import sign
from .comparison import bit_and, eq, le, lt, ne
from .gamma_function import evaluate_digamma, evaluate_lgamma
from .samples import FLOATS, INTEGERS, Sample, Sampler, binary, draw, unary
from .selection import where
from .transcendental import cos, exp, log, sigmoid

_LN2 = math.log(2)


def _by_formula(
    name: str, formula: Callable[..., Any], partial: Callable[..., Any], samples: Sampler
) -> Op:
    """A function of one operand, computed in double precision."""
    lower = formulas.in_double(formula)
    return pointwise(
        name,
        eval=on_arrays(lower),
        partials=(partial,),
        lower=lambda s, x: lower(s, x),
        samples=samples,
    )


_polygamma = formulas.in_double(formulas.polygamma)


def _polygamma_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for n in (1, 2, 5):
            yield Sample((draw(rng, (7,), dtype, 0.3, 20.0),), {"n": n})
            yield Sample((draw(rng, (2, 3), dtype, -2.8, -2.2),), {"n": n})


lgamma: Op = pointwise(
    "lgamma",
    eval=evaluate_lgamma,
    partials=(lambda x: digamma(x),),
    lower=lambda s, x: s.call("lgamma", x),
    samples=unary(2.5, 9.0),
)
digamma: Op = pointwise(
    "digamma",
    eval=evaluate_digamma,
    partials=(lambda x: polygamma(x, n=1),),
    lower=lambda s, x: s.call("digamma", x),
    samples=unary(2.5, 9.0),
)
# The derivative of digamma of order n >= 1.
polygamma: Op = pointwise(
    "polygamma",
    eval=on_arrays(_polygamma),
    partials=(lambda x, n: polygamma(x, n=n + 1),),
    lower=lambda s, x, n: _polygamma(s, x, n=n),
    attrs=("n",),
    type_rule=lambda x, *, n: x,
    samples=_polygamma_samples,
)

erfinv: Op = _by_formula(
    "erfinv",
    formulas.erfinv,
    lambda out: exp(out * out) * (math.sqrt(math.pi) / 2),
    unary(-0.95, 0.95),
)
ndtri: Op = _by_formula(
    "special_ndtri",
    formulas.ndtri,
    lambda out: exp(out * out * 0.5) * math.sqrt(2 * math.pi),
    unary(0.01, 0.99),
)
erfcx: Op = _by_formula(
    "special_erfcx", formulas.erfcx, lambda x, out: x * out * 2.0 - 2 / math.sqrt(math.pi), unary()
)

i0: Op = _by_formula("i0", formulas.i0, lambda x: i1(x), unary(-12.0, 12.0))
i0e: Op = _by_formula(
    "special_i0e", formulas.i0e, lambda x, out: i1e(x) - sign(x) * out, unary(-12.0, 12.0)
)


def _i1_over_x(x: Any, out: Any) -> Any:
    """``out / x``, and its limit at 0."""
    zero = eq(x, 0.0)
    return where(zero, 0.5, out / where(zero, 1.0, x))


i1: Op = _by_formula(
    "special_i1", formulas.i1, lambda x, out: i0(x) - _i1_over_x(x, out), unary(0.5, 12.0)
)
i1e: Op = _by_formula(
    "special_i1e",
    formulas.i1e,
    lambda x, out: i0e(x) - sign(x) * out - _i1_over_x(x, out),
    unary(0.5, 12.0),
)


def _logit(x: np.ndarray) -> Any:
    return np.log(x / (1 - x))


logit: Op = pointwise(
    "logit",
    eval=_logit,
    partials=(lambda ct, x: _logit_vjp(ct, x),),
    lower=lambda s, x: s.call("log", s.div(x, s.sub(s.like(1, x), x))),
    samples=unary(0.1, 0.9),
)


def _logit_vjp(ct: Any, x: Any) -> Any:
    outside = ne(lt(x, 0.0), le(x, 1.0))
    return where(outside, ct / (x * (1.0 - x)), math.nan)


xlogy: Op = pointwise(
    "xlogy",
    eval=on_arrays(formulas.times_log("log")),
    partials=(
        lambda ct, x, y: where(bit_and(eq(x, 0.0), le(y, 0.0)), 0.0, xlogy(ct, y)),
        lambda ct, x, y: ct * x / y,
    ),
    type_rule=floating,
    lower=lambda s, x, y: formulas.times_log("log")(s, x, y),
    samples=binary(right=(0.2, 3.0)),
)
xlog1py: Op = pointwise(
    "special_xlog1py",
    eval=on_arrays(formulas.times_log("log1p")),
    partials=(
        lambda ct, x, y: where(bit_and(eq(x, 0.0), le(y, -1.0)), 0.0, xlog1py(ct, y)),
        lambda ct, x, y: ct * x / (y + 1.0),
    ),
    type_rule=floating,
    lower=lambda s, x, y: formulas.times_log("log1p")(s, x, y),
    samples=binary(right=(-0.8, 3.0)),
)


def _entropy(s: Any, x: Any) -> Any:
    zero = s.like(0, x)
    inside = s.neg(s.mul(x, s.call("log", x)))
    inside = s.select(s.eq(x, zero), zero, inside)
    return s.select(s.lt(x, zero), s.like(-math.inf, x), inside)


entr: Op = pointwise(
    "special_entr",
    eval=on_arrays(_entropy),
    partials=(lambda ct, x: where(lt(x, 0.0), math.nan, ct * (-log(x) - 1.0)),),
    lower=_entropy,
    samples=unary(0.1, 3.0),
)

logaddexp: Op = pointwise(
    "logaddexp",
    eval=np.logaddexp,
    partials=(lambda ct, x, y: ct * sigmoid(x - y), lambda ct, x, y: ct * sigmoid(y - x)),
    type_rule=floating,
    lower=formulas.logaddexp,
    samples=binary(),
    commutative=True,
)
logaddexp2: Op = pointwise(
    "logaddexp2",
    eval=np.logaddexp2,
    partials=(
        lambda ct, x, y: ct * sigmoid((x - y) * _LN2),
        lambda ct, x, y: ct * sigmoid((y - x) * _LN2),
    ),
    type_rule=floating,
    lower=formulas.logaddexp2,
    samples=binary(),
    commutative=True,
)
hypot: Op = pointwise(
    "hypot",
    eval=np.hypot,
    partials=(lambda ct, x, out: ct * (x / out), lambda ct, y, out: ct * (y / out)),
    type_rule=floating,
    lower=formulas.hypot,
    samples=binary(0.1, 2.0),
    commutative=True,
)
sinc: Op = pointwise(
    "sinc",
    eval=lambda x: np.sinc(x).astype(np.asarray(x).dtype),
    partials=(lambda ct, x, out: _sinc_vjp(ct, x, out),),
    lower=formulas.sinc,
    samples=unary(0.2, 3.0),
)


def _sinc_vjp(ct: Any, x: Any, out: Any) -> Any:
    zero = eq(x, 0.0)
    return where(zero, 0.0, ct * (cos(x * math.pi) - out) / where(zero, 1.0, x))


def _copysign_partial(ct: Any, x: Any, out: Any) -> Any:
    zero = eq(x, 0.0)
    return where(zero, 0.0, ct * (out / where(zero, 1.0, x)))


# The magnitude of `x` with the sign of `y`; of a zero, too.
copysign: Op = pointwise(
    "copysign",
    eval=np.copysign,
    partials=(_copysign_partial, lambda: 0),
    type_rule=floating,
    lower=lambda s, x, y: s.copysign(x, y),
    samples=binary(),
)
signbit: Op = pointwise(
    "signbit",
    operands=("x",),
    eval=np.signbit,
    type_rule=lambda x: TensorType(bool_, x.shape),
    lower=lambda s, x: s.lt(s.copysign(s.like(1, x), x), s.like(0, x)),
    samples=unary(),
)
# torch takes the derivative of a number next to x as that of x, unless it is x itself.
nextafter: Op = pointwise(
    "nextafter",
    eval=np.nextafter,
    partials=(lambda ct, x, y: where(eq(x, y), 0.0, ct), lambda: 0),
    type_rule=floating,
    samples=binary(),
)
gcd: Op = pointwise(
    "gcd",
    operands=("x", "y"),
    eval=np.gcd,
    type_rule=broadcasting,
    samples=binary(-20, 20, INTEGERS),
    commutative=True,
)
lcm: Op = pointwise(
    "lcm",
    operands=("x", "y"),
    eval=np.lcm,
    type_rule=broadcasting,
    samples=binary(-20, 20, INTEGERS),
    commutative=True,
)
