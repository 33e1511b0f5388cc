"""Special functions in the words of a ScalarBuilder: one formula for native code and for NumPy's arrays.

All compute in double precision. Tables are Chebyshev coefficients, or those of Wichura's rational functions
(algorithm AS 241, relative error 1e-16).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .types import float64

# exp(-x) I0(x) in x / 4 - 1 for 0 <= x <= 8, and sqrt(x) exp(-x) I0(x) in 16 / x - 1 above; for I1 the same, divided
# by x below 8.
_I0_NEAR = (
    0.33839763720473803, -0.3046826723431984, 0.17162090152220877, -0.09490109704804764,
    0.04930528423967071, -0.02373741480589947, 0.010546460394594998, -0.004324309995050576,
    0.0016394756169413357, -0.0005763755745385824, 0.00018850288509584165,
    -5.754195010082104e-05, 1.6448448070728896e-05, -4.4167383584587505e-06,
    1.1173875391201037e-06, -2.670793853940612e-07, 6.046995022541919e-08,
    -1.300025009986248e-08, 2.6598237246823866e-09, -5.189795601635263e-10,
    9.675809035373237e-11, -1.726826291441556e-11, 2.95505266312964e-12,
    -4.856446783111929e-13, 7.676185498604936e-14, -1.1685332877993451e-14,
    1.715391285555133e-15, -2.431279846547955e-16, 3.3307945188222384e-17,
    -4.4153416464793395e-18,
)  # fmt: skip
_I0_FAR = (
    0.4022452055070544, 0.0033691164782556943, 6.889758346916825e-05, 2.8913705208347567e-06,
    2.0489185894690638e-07, 2.266668990498178e-08, 3.3962320257083865e-09,
    4.94060238822497e-10, 1.1889147107846439e-11, -3.1499165279632416e-11,
    -1.3215811840447713e-11, -1.7941785315068062e-12, 7.180124451383666e-13,
    3.8527783827421426e-13, 1.54008621752141e-14, -4.150569347287222e-14,
    -9.554846698828307e-15, 3.8116806693526224e-15, 1.7725601330565263e-15,
    -3.425485619677219e-16, -2.8276239805165836e-16, 3.461222867697461e-17,
    4.46562142029676e-17, -4.830504485944182e-18, -7.233180487874754e-18,
)  # fmt: skip
_I1_NEAR = (
    0.12629359322181682, -0.17641651835783406, 0.1026436586898471, -0.05294598120809499,
    0.024726449030626516, -0.010564084894626197, 0.004156422944312888, -0.0015135724506312532,
    0.0005122859561685758, -0.00016176081582589674, 4.781565107550054e-05,
    -1.3273163656039436e-05, 3.4702513081376785e-06, -8.568720264695455e-07,
    2.0032947535521353e-07, -4.445059128796328e-08, 9.381537386495773e-09,
    -1.8872497517228294e-09, 3.625590281552117e-10, -6.663489723502027e-11,
    1.1736186298890901e-11, -1.9839743977649436e-12, 3.223793365945575e-13,
    -5.042185504727912e-14, 7.600684294735408e-15, -1.1055969477353862e-15,
    1.5536319577362005e-16, -2.111421214358166e-17, 2.7779141127610464e-18,
)  # fmt: skip
_I1_FAR = (
    0.38928811750914005, -0.009761097491361469, -0.00011058893876262371,
    -3.882564808877691e-06, -2.512236237870209e-07, -2.6314688468895196e-08,
    -3.835380385964237e-09, -5.589743462196584e-10, -1.8974958123505413e-11,
    3.2526035830154884e-11, 1.4125807436613782e-11, 2.0356285441470896e-12,
    -7.198551776245908e-13, -4.0835511110921974e-13, -2.1015418427726643e-14,
    4.272440016711951e-14, 1.0420276984128802e-14, -3.8144030724370075e-15,
    -1.8803547755107825e-15, 3.3082023109209285e-16, 2.96262899764595e-16,
    -3.209525921993424e-17, -4.6503053684893586e-17, 4.414348323071708e-18,
    7.517296310842105e-18,
)  # fmt: skip

# (x + 2) exp(x**2) erfc(x) in (x - 2) / (x + 2) for x >= 0.
_ERFCX = (
    1.1540674772329393, -0.710873842540997, 0.13019031765757305, -0.007342284791673278,
    -0.002225689486705265, 0.0003215165983075616, 6.556063148346275e-05,
    -1.0884883291010032e-05, -3.0309331106342965e-06, 2.859521636233973e-07,
    1.6469217654838986e-07, 2.5925693704613126e-09, -8.309443262030397e-09,
    -1.2694116556725622e-09, 2.864164542451245e-10, 1.232078021040917e-10,
    4.1224277109443396e-12, -7.1429862976954085e-12, -1.7172845686503592e-12,
    1.229120042758126e-13, 1.4837451497193233e-13, 2.579008551006465e-14,
    -4.717452771421264e-15, -3.1458698763371823e-15, -4.556593247909293e-16,
    1.262466090151286e-16, 7.183352706362985e-17, 1.0099618299695458e-17,
)  # fmt: skip

# The quantile function of the normal distribution, numerators and denominators: q times a function of
# 0.180625 - q**2 for q = p - 1/2 up to 0.425; beyond, with r = sqrt(-log(p)), functions of r - 1.6 and of r - 5.
_CENTER = (
    (
        3.3871328727963665, 133.14166789178438, 1971.5909503065513, 13731.69376550946,
        45921.95393154987, 67265.7709270087, 33430.57558358813, 2509.0809287301227,
    ),
    (
        1.0, 42.31333070160091, 687.1870074920579, 5394.196021424751, 21213.794301586597,
        39307.89580009271, 28729.085735721943, 5226.495278852854,
    ),
)  # fmt: skip
_MIDDLE = (
    (
        1.4234371107496835, 4.630337846156546, 5.769497221460691, 3.6478483247632045,
        1.2704582524523684, 0.2417807251774506, 0.022723844989269184, 0.0007745450142783414,
    ),
    (
        1.0, 2.053191626637759, 1.6763848301838038, 0.6897673349851, 0.14810397642748008,
        0.015198666563616457, 0.0005475938084995345, 1.0507500716444169e-09,
    ),
)  # fmt: skip
_TAIL = (
    (
        6.657904643501103, 5.463784911164114, 1.7848265399172913, 0.29656057182850487,
        0.026532189526576124, 0.0012426609473880784, 2.7115555687434876e-05,
        2.0103343992922881e-07,
    ),
    (
        1.0, 0.599832206555888, 0.1369298809227358, 0.014875361290850615,
        0.0007868691311456133, 1.8463183175100548e-05, 1.421511758316446e-07,
        2.0442631033899397e-15,
    ),
)  # fmt: skip


def in_double(formula: Callable[..., Any]) -> Callable[..., Any]:
    """The formula computed in ``f64``, its result rounded to the type of the operands."""

    def lower(s: Any, *operands: Any, **attrs: Any) -> Any:
        wide = [s.cast(x, float64) for x in operands]
        return s.cast(formula(s, *wide, **attrs), s.dtype_of(operands[0]))

    return lower


def chebyshev(s: Any, t: Any, coefficients: Sequence[float]) -> Any:
    """The sum of the Chebyshev polynomials of `t` in [-1, 1] (Clenshaw)."""
    twice = s.add(t, t)
    before = s.like(0, t)
    total = s.like(coefficients[-1], t)
    for coefficient in coefficients[-2:0:-1]:
        before, total = total, s.sub(s.fma(twice, total, s.like(coefficient, t)), before)
    return s.sub(s.fma(t, total, s.like(coefficients[0], t)), before)


def polynomial(s: Any, x: Any, coefficients: Sequence[float]) -> Any:
    """``c[0] + c[1] x + c[2] x**2 + ...`` (Horner)."""
    total = s.like(coefficients[-1], x)
    for coefficient in coefficients[-2::-1]:
        total = s.fma(total, x, s.like(coefficient, x))
    return total


def whole_power(s: Any, x: Any, exponent: int) -> Any:
    """``x ** exponent`` by repeated squaring."""
    remaining, square, result = abs(exponent), x, None
    while remaining:
        if remaining & 1:
            result = square if result is None else s.mul(result, square)
        remaining >>= 1
        if remaining:
            square = s.mul(square, square)
    if result is None:
        return s.like(1, x)
    return s.div(s.like(1, x), result) if exponent < 0 else result


def _scaled_bessel(s: Any, x: Any, near: Sequence[float], far: Sequence[float]) -> tuple[Any, Any]:
    """The two tables at ``|x|``, each where it holds."""
    magnitude = s.abs(x)
    one, eight = s.like(1, x), s.like(8, x)
    t = s.sub(s.mul(s.minimum(magnitude, eight), s.like(0.25, x)), one)
    above = s.maximum(magnitude, eight)
    u = s.sub(s.div(s.like(16, x), above), one)
    return chebyshev(s, t, near), s.div(chebyshev(s, u, far), s.sqrt(above))


def i0e(s: Any, x: Any) -> Any:
    """``exp(-|x|) I0(x)``."""
    near, far = _scaled_bessel(s, x, _I0_NEAR, _I0_FAR)
    return s.select(s.gt(s.abs(x), s.like(8, x)), far, near)


def i1e(s: Any, x: Any) -> Any:
    """``exp(-|x|) I1(x)``."""
    near, far = _scaled_bessel(s, x, _I1_NEAR, _I1_FAR)
    odd = s.copysign(far, x)
    return s.select(s.gt(s.abs(x), s.like(8, x)), odd, s.mul(x, near))


def i0(s: Any, x: Any) -> Any:
    """The modified Bessel function of the first kind, order 0."""
    return s.mul(s.call("exp", s.abs(x)), i0e(s, x))


def i1(s: Any, x: Any) -> Any:
    """The modified Bessel function of the first kind, order 1."""
    return s.mul(s.call("exp", s.abs(x)), i1e(s, x))


def erfcx(s: Any, x: Any) -> Any:
    """``exp(x**2) erfc(x)``; for negative `x` ``2 exp(x**2) - erfcx(-x)``."""
    magnitude, two = s.abs(x), s.like(2, x)
    above = s.add(magnitude, two)
    t = s.sub(s.like(1, x), s.div(s.like(4, x), above))
    positive = s.div(chebyshev(s, t, _ERFCX), above)
    # The square to twice the precision: its error counts as a relative one.
    square = s.mul(x, x)
    power = s.call("exp", square)
    low = s.fma(x, x, s.neg(square))
    power = s.select(s.lt(power, s.like(math.inf, x)), s.fma(power, low, power), power)
    return s.select(s.lt(x, s.like(0, x)), s.sub(s.mul(two, power), positive), positive)


def _quantile(s: Any, q: Any, tail: Any) -> Any:
    """Where the normal distribution reaches ``1/2 + q``; `tail` is the smaller of that and the rest to 1."""
    half = s.like(0.425, q)
    inner = s.minimum(s.abs(q), half)
    ratio = _ratio(s, s.sub(s.like(0.180625, q), s.mul(inner, inner)), _CENTER)
    center = s.mul(q, ratio)
    r = s.sqrt(s.neg(s.call("log", tail)))
    middle = _ratio(s, s.sub(r, s.like(1.6, q)), _MIDDLE)
    far = s.sub(r, s.like(5, q))
    # At infinity the quotient has no value.
    finite = s.minimum(far, s.like(100, q))
    outer = s.select(s.lt(r, s.like(math.inf, q)), _ratio(s, finite, _TAIL), r)
    beyond = s.copysign(s.select(s.gt(far, s.like(0, q)), outer, middle), q)
    return s.select(s.le(s.abs(q), half), center, beyond)


def _ratio(s: Any, x: Any, table: tuple[Sequence[float], Sequence[float]]) -> Any:
    return s.div(polynomial(s, x, table[0]), polynomial(s, x, table[1]))


def erfinv(s: Any, x: Any) -> Any:
    """The inverse of the error function; infinite at -1 and 1, NaN beyond."""
    half = s.like(0.5, x)
    tail = s.mul(s.sub(s.like(1, x), s.abs(x)), half)
    return s.mul(_quantile(s, s.mul(x, half), tail), s.like(math.sqrt(0.5), x))


def ndtri(s: Any, x: Any) -> Any:
    """The quantile function of the standard normal distribution."""
    return _quantile(s, s.sub(x, s.like(0.5, x)), s.minimum(x, s.sub(s.like(1, x), x)))


# B(2k) / (2k)!, of Euler's and Maclaurin's summation.
_SUMMATION = (
    1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000,
    1 / 74724249600, -3617 / 10670622842880000, 43867 / 5109094217170944000,
)  # fmt: skip
_TERMS = 10


def _zeta(s: Any, order: int, x: Any) -> Any:
    """The sum of ``(x + k) ** -order`` over all k >= 0, for ``x >= 0``: ten terms and the integral of the rest."""
    total = None
    for k in range(_TERMS):
        term = whole_power(s, s.add(x, s.like(k, x)), -order)
        total = term if total is None else s.add(total, term)
    end = s.add(x, s.like(_TERMS, x))
    inverse = s.div(s.like(1, x), end)
    series, factor = [], float(order)
    for k, coefficient in enumerate(_SUMMATION):
        series.append(coefficient * factor)
        factor *= (order + 2 * k + 1) * (order + 2 * k + 2)
    rest = s.mul(inverse, polynomial(s, s.mul(inverse, inverse), series))
    rest = s.fma(inverse, s.add(rest, s.like(0.5, x)), s.like(1 / (order - 1), x))
    return s.add(total, s.mul(whole_power(s, end, 1 - order), rest))


def _cotangent_derivative(order: int) -> list[int]:
    """Coefficients of the polynomial in the cotangent which is its derivative of this order."""
    found = [0, 1]
    for _ in range(order):
        slope = [k * c for k, c in enumerate(found)][1:]
        found = [0] * (len(slope) + 2)
        for k, c in enumerate(slope):
            found[k] -= c
            found[k + 2] -= c
    return found


def polygamma(s: Any, x: Any, n: int) -> Any:
    """The n-th derivative of digamma for n >= 1; negative arguments are reflected."""
    zero, one = s.like(0, x), s.like(1, x)
    negative = s.lt(x, zero)
    positive = _zeta(s, n + 1, s.select(negative, s.sub(one, x), x))
    positive = s.mul(positive, s.like((-1.0) ** (n + 1) * _factorial(n), x))
    # polygamma(x) = (-1)**n polygamma(1 - x) - pi * (the derivative of cot(pi x))
    angle = s.mul(s.sub(x, s.rint(x)), s.like(math.pi, x))
    cotangent = s.div(s.call("cos", angle), s.call("sin", angle))
    table = [float(c) for c in _cotangent_derivative(n)]
    # Only every other power occurs.
    slope = polynomial(s, s.mul(cotangent, cotangent), table[(n + 1) % 2 :: 2])
    slope = s.mul(slope, cotangent) if n % 2 == 0 else slope
    slope = s.mul(slope, s.like(math.pi ** (n + 1), x))
    mirrored = positive if n % 2 == 0 else s.neg(positive)
    return s.select(negative, s.sub(mirrored, slope), positive)


def _factorial(n: int) -> float:
    return math.gamma(n + 1) if n < 171 else math.inf


def hypot(s: Any, x: Any, y: Any) -> Any:
    """``sqrt(x**2 + y**2)``, without overflow in between."""
    x, y = s.abs(x), s.abs(y)
    larger, smaller = s.maximum(x, y), s.minimum(x, y)
    zero, infinity = s.like(0, x), s.like(math.inf, x)
    ratio = s.div(smaller, s.select(s.gt(larger, zero), larger, s.like(1, x)))
    root = s.mul(larger, s.sqrt(s.fma(ratio, ratio, s.like(1, x))))
    infinite = s.bit_or(s.eq(x, infinity), s.eq(y, infinity))
    return s.select(infinite, infinity, root)


def logaddexp(s: Any, x: Any, y: Any) -> Any:
    """``log(exp(x) + exp(y))``."""
    distance = s.select(s.eq(x, y), s.like(0, x), s.abs(s.sub(x, y)))
    return s.add(s.maximum(x, y), s.call("log1p", s.call("exp", s.neg(distance))))


def logaddexp2(s: Any, x: Any, y: Any) -> Any:
    """``log2(exp2(x) + exp2(y))``."""
    distance = s.select(s.eq(x, y), s.like(0, x), s.abs(s.sub(x, y)))
    small = s.call("log1p", s.call("exp2", s.neg(distance)))
    return s.fma(small, s.like(1 / math.log(2), x), s.maximum(x, y))


def times_log(function: str) -> Callable[..., Any]:
    """``x * log(y)``, or log1p: 0 where `x` is, unless `y` is NaN."""

    def lower(s: Any, x: Any, y: Any) -> Any:
        product = s.mul(x, s.call(function, y))
        plain = s.bit_or(s.ne(x, s.like(0, x)), s.ne(y, y))
        return s.select(plain, product, s.like(0, x))

    return lower


def sinc(s: Any, x: Any) -> Any:
    """``sin(pi x) / (pi x)``."""
    angle = s.mul(x, s.like(math.pi, x))
    return s.select(s.eq(x, s.like(0, x)), s.like(1, x), s.div(s.call("sin", angle), angle))
