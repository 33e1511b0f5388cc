"""Exponentials, logarithms, powers, and the hyperbolic functions made of them.

All are straight-line formulas on :class:`~.lanes.Floats`. Each exponential is ``2**k * (1 + u)``, see
:func:`_reduce_exponent`; each logarithm ``e * ln 2 + log(1 + f)``, see :func:`_split_exponent` and
:func:`_log_of_parts`. The polynomials are minimax fits to relative error (Remez exchange in 160 bits,
coefficients rounded one after another, the rest fitted again).

The rarer functions go through `double` for `float`, which is shorter than carrying error terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .lanes import Floats, Ints, fast_two_sum, polynomial, two_product, two_sum, where

# ln 2, 1 / ln 2, log10 2 and 1 / ln 10 in two parts, for each type; the first is the nearest number.
LN2_F32 = (0.6931471824645996, -1.904654323148236e-09)
LN2_F64 = (0.6931471805599453, 2.3190468138462996e-17)
_LOG2E_F32 = (1.4426950216293335, 1.925963033500911e-08)
_LOG2E_F64 = (1.4426950408889634, 2.0355273740931033e-17)
_LOG10E_F64 = (0.4342944819032518, 1.098319650216765e-17)
_LOG10_2_F64 = (0.30102999566398120, -2.8037281277851704e-18)

# (exp(r) - 1 - r) / r**2 for |r| <= ln 2 / 2. Relative error of exp 2**-28, and of expm1 2**-31 and
# 2**-61.
_EXP_F32 = (
    0.4999999403953552, 0.16666513681411743, 0.04166806489229202, 0.00836950819939375,
    0.0013842005282640457,
)  # fmt: skip
EXPM1_F32 = (
    0.5, 0.1666666567325592, 0.04166648909449577, 0.008333546109497547, 0.0013932784786447883,
    0.0001976156054297462,
)  # fmt: skip
EXPM1_F64 = (
    0.5, 0.1666666666666668, 0.04166666666666672, 0.008333333333318933, 0.001388888888884226,
    0.0001984126989372669, 2.480158743656587e-05, 2.7557235855982124e-06, 2.755715660447559e-07,
    2.5112157641783772e-08, 2.0956865646848505e-09,
)  # fmt: skip

# (2**r - 1) / r for |r| <= 1/2: relative error of 2**r 2**-28, 2**-59, and 2**-34 in `double`.
EXP2_F32 = (
    0.6931471824645996, 0.24022647738456726, 0.05550359934568405, 0.009618506766855717,
    0.001339081209152937, 0.00015325628919526935,
)  # fmt: skip
EXP2_F64 = (
    0.6931471805599453, 0.2402265069591007, 0.055504108664823505, 0.009618129107629868,
    0.0013333558145980366, 0.00015403530390328463, 1.5252734234571733e-05,
    1.3215489548052487e-06, 1.0177898913051093e-07, 7.053815278222503e-09,
    4.4789245264010295e-10, 2.728556380623534e-11,
)  # fmt: skip
_EXP2_SHORT = (
    0.6931471807047939, 0.2402265106710238, 0.05550410365320969, 0.009618038043216499,
    0.0013333935379614339, 0.00015466787236745802, 1.5196137897038865e-05,
)  # fmt: skip

# (log(1 + f) - f + f**2 / 2) / f**3 for sqrt(1/2) <= 1 + f <= sqrt(2), relative error of the
# logarithm 2**-27; and (log2(1 + f) - f / ln 2) / f**2, 2**-27.
_LOG_F32 = (
    0.3333333134651184, -0.2500082552433014, 0.20001231133937836, -0.1662318855524063,
    0.14201907813549042, -0.13162343204021454, 0.12759922444820404, -0.07624812424182892,
)  # fmt: skip
_LOG2_F32 = (
    -0.7213473320007324, 0.4808982014656067, -0.3606986701488495, 0.2885717749595642,
    -0.23957152664661407, 0.20448070764541626, -0.1912970095872879, 0.1870691031217575,
    -0.11057855933904648,
)  # fmt: skip
# (log((1 + s) / (1 - s)) - 2 s) / s**3 in s**2, on the same interval, where s = f / (2 + f):
# relative error of the logarithm 2**-59, and 2**-37 for results in `float`.
_LOG_F64 = (
    0.6666666666666735, 0.3999999999941293, 0.2857142874232918, 0.22222198605017132,
    0.18183561959792585, 0.153141199037732, 0.1479522318005828,
)  # fmt: skip
_LOG_SHORT = (0.6666666564342619, 0.4000033569244269, 0.2853727428814591, 0.23582843022314565)
# _LOG_F64 behind a first term of exactly 2/3: relative error of the logarithm 2**-66.
_LOG_EXTENDED = (
    0.4000000000000226, 0.28571428570096674, 0.22222222520479543, 0.18181784315519683,
    0.15386759825573892, 0.13256757212819853, 0.1319691126891012,
)  # fmt: skip
_TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)

# sinh(x) / x = 1 + x**2 * (...) for |x| <= 1; the same, and cosh(r) = 1 + r**2 / 2 + r**4 * (...), for
# |r| <= ln 2 / 2.
_SINH_F32 = (
    0.1666666716337204,
    0.00833331048488617,
    0.00019842895762760532,
    2.7822131869470468e-06,
)
_SINH_F64 = (
    0.16666666666666669, 0.008333333333332912, 0.0001984126984159341, 2.7557319106710255e-06,
    2.505213102401202e-08, 1.60566551722395e-10, 7.776794773809133e-13,
)  # fmt: skip
_SINH_CORE_F32 = (0.1666666716337204, 0.008333176374435425, 0.00019972930022049695)
_SINH_CORE_F64 = (
    0.16666666666666677, 0.008333333333321355, 0.00019841269886957728, 2.755724325509059e-06,
    2.5109406144284327e-08,
)  # fmt: skip
_COSH_CORE_F32 = (0.041666459292173386, 0.0013935489114373922)
_COSH_CORE_F64 = (
    0.041666666666666685, 0.0013888888888873238, 2.480158734938081e-05, 2.7557251597901396e-07,
    2.0921857916877918e-09,
)  # fmt: skip


def exp(x: Floats) -> Floats:
    low, high = (-104.0, 89.0) if x.is_f32 else (-746.0, 710.0)
    _, biased, r, _ = _reduce_exponent(x.at_most(high).at_least(low), 2 * x.exponent_bias)
    return _scale(exp_of_remainder(r), biased)


def exp_of_remainder(r: Floats) -> Floats:
    """``exp(r) - 1`` for ``|r| <= ln 2 / 2``, to the relative precision of ``exp(r)``."""
    square = r * r
    return square.fma(polynomial(r, _EXP_F32 if r.is_f32 else EXPM1_F64, square), r)


def exp2(x: Floats) -> Floats:
    low, high = (-150.0, 128.0) if x.is_f32 else (-1075.0, 1024.0)
    x = x.at_most(high).at_least(low)
    k, biased = nearest_integer(x, 1.0, 2 * x.exponent_bias)
    r = x - k
    return _scale(r * polynomial(r, EXP2_F32 if x.is_f32 else EXP2_F64), biased)


def expm1(x: Floats) -> Floats:
    low, high = (-18.0, 89.0) if x.is_f32 else (-38.0, 710.0)
    bounded = x.at_most(high).at_least(low)
    result = _expm1_times(bounded, 0.5) * 2.0
    # Of tiny arguments the half would be rounded, and a zero would lose its sign.
    return where(x.abs() < (1e-30 if x.is_f32 else 1e-290), x, result)


def _expm1_times(x: Floats, factor: float) -> Floats:
    """``factor * expm1(x)``, `factor` a power of two that keeps the result finite."""
    # Where exp(x) - 1 cancels, the rounding error of r would show.
    _, biased, r, error = _reduce_exponent(x, x.exponent_bias + int(math.log2(factor)))
    square = r * r
    rest = square.fma(polynomial(r, EXPM1_F32 if x.is_f32 else EXPM1_F64, square), error)
    power = (biased << x.mantissa_bits).as_floats()
    known = power - factor
    most = r.fma(power, known)
    if x.is_f32:
        return rest.fma(power, most)
    return most + rest.fma(power, r.fma(power, known - most))


def sigmoid(x: Floats) -> Floats:
    """``1 / (1 + exp(-x))``, both sides scaled, so that results may be subnormal."""
    low, high, shift = (-20.0, 104.0, 64) if x.is_f32 else (-40.0, 746.0, 512)
    exponent = (-x).at_most(high).at_least(low)
    _, biased, r, _ = _reduce_exponent(exponent, x.exponent_bias - shift)
    power = (biased << x.mantissa_bits).as_floats()
    one = 2.0**-shift
    known = power + one
    # Where that was rounded the larger one is the power.
    lost = (power - known) + one
    return one / (known + exp_of_remainder(r).fma(power, lost))


def tanh(x: Floats) -> Floats:
    """``q = t / (t + 2)`` of ``t = expm1(2 |x|)``, with the sign of `x`.

    For ``t < 1`` as ``t / 2 * (1 - q)``, where the two roundings in `q` matter less.
    """
    magnitude = x.abs()
    t = _expm1_times((magnitude + magnitude).at_most(20.0 if x.is_f32 else 40.0), 1.0)
    quotient = t / (t + 2.0)
    half = t * 0.5
    small = (-half).fma(quotient, half)
    return where(t < 1.0, small, quotient).flip_sign(x.sign_bits())


def sinh(x: Floats) -> Floats:
    magnitude = x.abs()
    grow, shrink, c, r, rest = _hyperbolic_parts(magnitude)
    total = grow + shrink
    difference, lost = fast_two_sum(grow, -shrink)
    large = (difference + r.fma(total, rest.fma(total, c.fma(difference, lost)))) * 2.0
    square = magnitude * magnitude
    small = (square * magnitude).fma(
        polynomial(square, _SINH_F32 if x.is_f32 else _SINH_F64), magnitude
    )
    return where(magnitude < 1.0, small, large).flip_sign(x.sign_bits())


def cosh(x: Floats) -> Floats:
    grow, shrink, c, r, rest = _hyperbolic_parts(x.abs())
    difference = grow - shrink
    total, lost = fast_two_sum(grow, shrink)
    return (total + r.fma(difference, rest.fma(difference, c.fma(total, lost)))) * 2.0


def _hyperbolic_parts(x: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Of ``x = k ln 2 + r >= 0``: ``2**k / 4, 2**-k / 4, cosh(r) - 1, r, sinh(r) - r``."""
    x = x.at_most(89.5 if x.is_f32 else 710.6)
    bits, bias = x.mantissa_bits, x.exponent_bias
    k, biased, r, error = _reduce_exponent(x, bias - 2)
    grow = (biased << bits).as_floats()
    # Beyond 2**64 the other power adds nothing, and its exponent must not underflow.
    _, bounded = nearest_integer(k.at_most(64.0), 1.0, 0)
    shrink = ((bias - 2 - bounded) << bits).as_floats()
    square = r * r
    c = square.fma(
        square * polynomial(square, _COSH_CORE_F32 if x.is_f32 else _COSH_CORE_F64), square * 0.5
    )
    rest = (square * r).fma(
        polynomial(square, _SINH_CORE_F32 if x.is_f32 else _SINH_CORE_F64), error
    )
    return grow, shrink, c, r, rest


def nearest_integer(x: Floats, factor: float, bias: int) -> tuple[Floats, Ints]:
    """``k`` next to ``factor * x``, and integers whose low bits are ``k + bias``.

    Adding 1.5 times the power of two whose last place is one rounds to an integer, and leaves it in
    the low bits: cheaper than rounding and converting, and there is no instruction for `i64` vectors.
    """
    shifter = 1.5 * 2.0**x.mantissa_bits + bias
    shifted = x + shifter if factor == 1.0 else x.fma(factor, shifter)
    return shifted - shifter, shifted.bits()


def _reduce_exponent(x: Floats, bias: int) -> tuple[Floats, Ints, Floats, Floats]:
    """``x = k ln 2 + r`` with ``|r| <= ln 2 / 2``: `k`, integers whose low bits are ``k + bias``, `r`, its error."""
    k, biased = nearest_integer(x, math.log2(math.e), bias)
    high, low = LN2_F32 if x.is_f32 else LN2_F64
    first = k.fma(-high, x)
    r = k.fma(-low, first)
    return k, biased, r, k.fma(-low, first - r)


def powers_of_two(biased: Ints, like: Floats) -> tuple[Floats, Floats]:
    """Two factors of ``2**k``; the low bits of `biased` are `k` plus twice the exponent's bias.

    The powers of ``k // 2`` and of the rest: applied one after the other, results may be subnormal
    or infinite.
    """
    bits, ones = like.mantissa_bits, 2 * like.exponent_bias + 1
    half = (biased << (bits - 1)) & (ones << bits)
    rest = (biased << bits) - half
    return half.as_floats(), rest.as_floats()


def _scale(u: Floats, biased: Ints) -> Floats:
    """``2**k * (1 + u)``, `biased` as for :func:`powers_of_two`."""
    half, rest = powers_of_two(biased, u)
    return u.fma(half, half) * rest


def log(x: Floats) -> Floats:
    e, m = _split_exponent(x)
    return _with_log_limits(x, _log_of_parts(e, m - 1.0))


def log1p(x: Floats) -> Floats:
    total = 1.0 + x
    # What rounding took from 1 + x; either operand may be the larger one.
    rest = where(x > 1.0, 1.0 - (total - x), x - (total - 1.0))
    result = _with_log_limits(total, _log_of_sum(total, rest))
    # Of tiny arguments the half in _split_sum would be rounded, and a zero would lose its sign.
    return where(x.abs() < (1e-30 if x.is_f32 else 1e-290), x, result)


def log2(x: Floats) -> Floats:
    e, m = _split_exponent(x)
    f = m - 1.0
    if x.is_f32:
        high, low = _LOG2E_F32
        rest = (f * f).fma(polynomial(f, _LOG2_F32, f * f), f * low)
        return _with_log_limits(x, f.fma(high, rest) + e)
    return _with_log_limits(x, _log_in_base(e, e.const(0.0), f, _LOG2E_F64))


def log10(x: Floats) -> Floats:
    if x.is_f32:
        e, m = _split_exponent(x.widen(), subnormals=False)
        natural = _log_of_parts(e, m - 1.0, _LOG_SHORT)
        return _with_log_limits(x, (natural * _LOG10E_F64[0]).narrow())
    e, m = _split_exponent(x)
    high, low = _LOG10_2_F64
    product, error = two_product(e, e.const(high))
    return _with_log_limits(x, _log_in_base(product, e.fma(low, error), m - 1.0, _LOG10E_F64))


def asinh(x: Floats) -> Floats:
    """``log1p(|x| + x**2 / (1 + sqrt(1 + x**2)))``, with the sign of `x`."""
    magnitude = x.abs()
    wide = magnitude.widen() if x.is_f32 else magnitude
    square = wide * wide
    added = square / (square.fma(1.0, 1.0).sqrt() + 1.0)
    result = _log1p_of_sum_or_log_of_double(wide, *two_sum(wide, added))
    return (result.narrow() if x.is_f32 else result).flip_sign(x.sign_bits())


def acosh(x: Floats) -> Floats:
    """``log1p(t + sqrt(2 t + t**2))`` of ``t = x - 1``."""
    wide = x.widen() if x.is_f32 else x
    t = wide - 1.0
    square = t.fma(t, t + t)
    root = square.sqrt()
    # What rounding the square and the root took; t**2 alone matters little where t is large.
    lost = (-root).fma(root, square) + t.fma(t, (t + t) - square)
    total, error = two_sum(root, t)
    error = (lost * 0.5).fma(1.0 / root.at_least(1e-300), error)
    result = _log1p_of_sum_or_log_of_double(wide, total, error)
    result = where(wide < 1.0, wide.const(math.nan), result)
    return result.narrow() if x.is_f32 else result


def _log1p_of_sum_or_log_of_double(x: Floats, z: Floats, error: Floats) -> Floats:
    """``log(1 + z + error)``, or ``log(2 x)`` from 2**28 on, where the two have become one."""
    large = x > 2.0**28
    total, rest = two_sum(z.const(1.0), z)
    total, rest = where(large, x, total), where(large, x.const(0.0), rest + error)
    e, f = _split_sum(total, rest)
    return _with_log_limits(total, _log_of_parts(where(large, e + 1.0, e), f))


def atanh(x: Floats) -> Floats:
    """``log1p(2 |x| / (1 - |x|)) / 2``, with the sign of `x`."""
    magnitude = x.abs()
    wide = magnitude.widen() if x.is_f32 else magnitude
    numerator = wide + wide
    denominator, missing = fast_two_sum(wide.const(1.0), -wide)
    reciprocal = 1.0 / denominator
    quotient = numerator * reciprocal
    error = (-quotient).fma(missing, (-quotient).fma(denominator, numerator)) * reciprocal
    total, rest = two_sum(wide.const(1.0), quotient)
    result = _with_log_limits(total, _log_of_sum(total, rest + error)) * 0.5
    return (result.narrow() if x.is_f32 else result).flip_sign(x.sign_bits())


def _split_exponent(x: Floats, subnormals: bool = True) -> tuple[Floats, Floats]:
    """``e, m`` with ``x = 2**e * m`` and ``sqrt(1/2) <= m < sqrt(2)``, for positive finite `x`."""
    bits, bias = x.mantissa_bits, x.exponent_bias
    # An exponent field in the low bits of 2**bits is 2**bits plus its value.
    shifter, taken = 2.0**bits, x.const(2.0**bits + bias)
    if subnormals:
        tiny = x < 2.0 ** (1 - bias)
        x = where(tiny, x * shifter, x)
        taken = where(tiny, x.const(shifter + bias + bits), taken)
    one = bias << bits
    root_half = 0x3F3504F3 if x.is_f32 else 0x3FE6A09E667F3BCD
    moved = x.bits() + (one - root_half)
    e = ((moved >> bits) | ((bias + bits) << bits)).as_floats() - taken
    m = ((moved & ((1 << bits) - 1)) + root_half).as_floats()
    return e, m


def _split_sum(total: Floats, rest: Floats) -> tuple[Floats, Floats]:
    """``e, f`` with ``total + rest = 2**e * (1 + f)``, for a normal `total` and a small `rest`."""
    e, m = _split_exponent(total, subnormals=False)
    # Twice 2**-e, which would be negative for the largest numbers.
    two = (total.exponent_bias + 1) << total.mantissa_bits
    scale = ((m.bits() - total.bits()) + two).as_floats()
    return e, (rest * 0.5).fma(scale, m - 1.0)


def _log_of_sum(total: Floats, rest: Floats) -> Floats:
    return _log_of_parts(*_split_sum(total, rest))


def _log_of_parts(e: Floats, f: Floats, series: Sequence[float] = _LOG_F64) -> Floats:
    """``e ln 2 + log(1 + f)``; for `double` by the formula of fdlibm's ``e_log.c``."""
    if f.is_f32:
        square = f * f
        tail = square.fma(-0.5, (square * f) * polynomial(f, _LOG_F32, square))
        return e.fma(LN2_F32[0], f + tail)
    half_square, s_part = _log1p_tail(f, series)
    high, low = LN2_F64
    return e.fma(high, f - (half_square - e.fma(low, s_part)))


def _log1p_tail(f: Floats, series: Sequence[float]) -> tuple[Floats, Floats]:
    """``h, t`` with ``log(1 + f) = f - h + t``: half the square of `f`, and a smaller term."""
    s = f / (f + 2.0)
    z = s * s
    half_square = (f * 0.5) * f
    return half_square, s * z.fma(polynomial(z, series, z * z), half_square)


def log_pair(x: Floats) -> tuple[Floats, Floats]:
    """log of a positive finite `double` as a sum, wrong by a few units of 2**-57."""
    e, m = _split_exponent(x)
    f = m - 1.0
    half_square, s_part = _log1p_tail(f, _LOG_F64)
    high, low = LN2_F64
    total = e.fma(high, f)
    lost = e.fma(high, -total) + f
    return fast_two_sum(total, lost - (half_square - e.fma(low, s_part)))


def _log_in_base(whole: Floats, rest: Floats, f: Floats, unit: tuple[float, float]) -> Floats:
    """``whole + rest + unit * log(1 + f)``, the products to twice the precision."""
    half_square, tail = _log1p_tail(f, _LOG_F64)
    high, error = fast_two_sum(f, -half_square)
    low = error + tail
    product, error = two_product(high, f.const(unit[0]))
    error = high.fma(unit[1], low.fma(unit[0], error))
    total, lost = fast_two_sum(whole, product)
    return total + (lost + (error + rest))


def _with_log_limits(x: Floats, result: Floats) -> Floats:
    """`result`, but infinity and NaN for themselves, -infinity for zero, NaN below."""
    below = where(x.equals(0.0), x.const(-math.inf), x.const(math.nan))
    return where(x <= 0.0, below, where(x < math.inf, result, x))


def pow_(x: Floats, y: Floats) -> Floats:
    """``x ** y`` with the special cases of C's ``pow`` (IEEE 754-2019, 9.2.1)."""
    magnitude = x.abs()
    power = _pow_of_floats(magnitude, y) if x.is_f32 else _pow_of_doubles(magnitude, y)
    half = y * 0.5
    whole = y.rint().equals(y)
    odd = whole & ~half.rint().equals(half)
    power = power.flip_sign(where(odd, x.sign_bits(), 0))
    undefined = (x < 0.0) & (magnitude < math.inf) & ~whole
    power = where(undefined, x.const(math.nan), power)
    return where(x.equals(1.0) | y.equals(0.0), x.const(1.0), power)


def _pow_of_floats(x: Floats, y: Floats) -> Floats:
    """``x ** y`` for positive `x`, through `double`: its logarithm to some 36 bits."""
    x, y = x.widen(), y.widen()
    e, m = _split_exponent(x, subnormals=False)
    f = m - 1.0
    s = f / (f + 2.0)
    z = s * s
    natural = s.fma(z * polynomial(z, _LOG_SHORT), s + s)
    logarithm = _of_zero_and_infinity(x, natural.fma(_LOG2E_F64[0], e))
    # A bounded exponent keeps infinity times log2(1) from being NaN, and overflows where it must.
    scaled = (y.at_most(2.0**40).at_least(-(2.0**40)) * logarithm).at_most(400.0).at_least(-400.0)
    k, biased = nearest_integer(scaled, 1.0, x.exponent_bias)
    r = scaled - k
    power = (biased << x.mantissa_bits).as_floats()
    return (r * polynomial(r, _EXP2_SHORT)).fma(power, power).narrow()


def _pow_of_doubles(x: Floats, y: Floats) -> Floats:
    """``x ** y`` for positive `x`: its logarithm to some 65 bits, as a sum of two numbers."""
    e, m = _split_exponent(x)
    f = m - 1.0
    # s = f / (2 + f) and its square and cube; the first terms of log(1 + f) = 2 s + 2/3 s**3 + ...
    denominator, missing = fast_two_sum(f.const(2.0), f)
    reciprocal = 1.0 / denominator
    s = f * reciprocal
    s_low = (-s).fma(missing, (-s).fma(denominator, f)) * reciprocal
    square, square_low = two_product(s, s)
    square_low = (s + s).fma(s_low, square_low)
    cube, cube_low = two_product(square, s)
    cube_low = square.fma(s_low, square_low.fma(s, cube_low))
    factor, factor_low = fast_two_sum(
        s.const(_TWO_THIRDS[0]), square * polynomial(square, _LOG_EXTENDED, square * square)
    )
    factor_low = factor_low + _TWO_THIRDS[1]
    term, term_low = two_product(factor, cube)
    term_low = factor.fma(cube_low, factor_low.fma(cube, term_low))
    part, part_low = fast_two_sum(s + s, term)
    part_low = part_low + (term_low + (s_low + s_low))
    high, low = LN2_F64
    whole, whole_low = two_product(e, e.const(high))
    logarithm, lost = fast_two_sum(whole, part)
    logarithm_low = lost + (e.fma(low, whole_low) + part_low)

    logarithm = _of_zero_and_infinity(x, logarithm)
    y = y.at_most(2.0**70).at_least(-(2.0**70))
    product = y * logarithm
    error = y.fma(logarithm, -product) + y * logarithm_low
    usable = product.abs() < 1000.0
    product = product.at_most(710.0).at_least(-746.0)
    k, biased = nearest_integer(product, math.log2(math.e), 2 * x.exponent_bias)
    r = k.fma(-high, product) + k.fma(-low, where(usable, error, 0.0))
    return _scale(exp_of_remainder(r), biased)


def _of_zero_and_infinity(x: Floats, logarithm: Floats) -> Floats:
    result = where(x < math.inf, logarithm, x)
    return where(x.equals(0.0), x.const(-math.inf), result)
