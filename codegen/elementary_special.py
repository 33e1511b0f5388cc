"""The error function and its complement.

See :mod:`.elementary_exp` about the polynomials.
"""

from __future__ import annotations

import math

from .elementary_exp import EXP2_F32, EXP2_F64, EXPM1_F64, LN2_F64, nearest_integer, powers_of_two
from .lanes import Floats, polynomial, two_product, where

# erf(x) / x - 1 in x**2 for |x| <= 1: relative error of erf 2**-29 and 2**-55; log2(erfc(x)) for
# 1 <= x <= 4, or 6: relative error of erf 2**-29 and 2**-56.
_ERF_SMALL_F32 = (
    0.12837916612625122, -0.3761262595653534, 0.11283578723669052, -0.026853376999497414,
    0.0051873247139155865, -0.0008000509114935994, 7.82029383117333e-05,
)  # fmt: skip
_ERF_SMALL_F64 = (
    0.12837916709551256, -0.37612638903183343, 0.1128379167093695, -0.026866170641958922,
    0.0052239775967325135, -0.000854832548477071, 0.00012055280487405554,
    -1.4924465395789633e-05, 1.6444146147125992e-06, -1.618393932777963e-07,
    1.3616354950672064e-08, -7.606849220601348e-10,
)  # fmt: skip
_LOG2_ERFC_F32 = (
    -0.0004927251720800996, -1.6260459423065186, -0.920648455619812, -0.14875154197216034,
    0.03150563687086105, -0.004252564162015915, 0.00026888729189522564,
)  # fmt: skip
_LOG2_ERFC_F64 = (
    -7.254851660332486e-07, -1.6278997028912183, -0.9184826062866495, -0.1481697393237453,
    0.02739702975127738, 0.0005924213344180953, -0.0027641338242849656, 0.0011118136277740416,
    -0.0001948437983805983, -2.9234610805032544e-05, 3.292419268397719e-05,
    -1.250349915853889e-05, 3.08098247316587e-06, -5.385330794600475e-07, 6.696989705079927e-08,
    -5.675526925561403e-09, 2.9500110030533594e-10, -7.109816114835428e-12,
)  # fmt: skip

# (x + c) exp(x**2) erfc(x) in t = (x - c) / (x + c): with c = 3 for 0 <= x <= 10.2, to 2**-28; with
# c = 2 for 0 <= x <= 27.4, to 2**-57, the first coefficient in two parts.
_ERFC_SHORT = (
    1.0740069077671952, -0.8833944864437561, 0.5902282985298996, -0.3104660085505473,
    0.11952906808050959, -0.026839826066437873, -0.001226429147491619, 0.0030803281111086013,
    -0.000483179456569897, -0.0003253349548485184,
)  # fmt: skip
_ERFC_F64 = (
    -0.6871606844138106, 0.2794720925560535, -0.036442231506869635, -0.021510661889391366,
    0.006479185067316345, 0.003090612056746695, -0.000837296054028787, -0.0006630734735101735,
    3.4371342176438287e-05, 0.00014447049985992174, 3.414953134901442e-05, -2.1694921266359002e-05,
    -1.6123637985477183e-05, -1.1303732141159781e-06, 3.6513217916446887e-06,
    2.0147331224581818e-06, -1.1321521786087904e-08, -5.951829222362774e-07, -3.098670132701212e-07,
    2.6943364268402826e-08, 1.0210484397882125e-07, 3.347630678552625e-08, -9.522589610996347e-09,
    -7.894636904789201e-09, -1.2711228183884346e-09,
)  # fmt: skip
_ERFC_FIRST = (1.021582705242023, -1.7104089160663784e-17)
# (exp(r) - 1 - r) / r**2 as in elementary_exp, in `double`, relative error of exp 2**-33.
_EXP_SHORT = (
    0.5000000069193258, 0.16666663788317318, 0.041666280875657734, 0.00833401520499569,
    0.0013945932694276308, 0.00019493419437803647,
)  # fmt: skip


def erf(x: Floats) -> Floats:
    """An odd polynomial up to 1, and ``1 - 2**p(x)`` above, where the power matters less and less."""
    magnitude = x.abs()
    square = magnitude * magnitude
    series = polynomial(square, _ERF_SMALL_F32 if x.is_f32 else _ERF_SMALL_F64, square * square)
    small = magnitude.fma(series, magnitude)
    bounded = magnitude.at_most(4.0 if x.is_f32 else 6.0)
    exponent = polynomial(
        bounded, _LOG2_ERFC_F32 if x.is_f32 else _LOG2_ERFC_F64, bounded * bounded
    )
    k, biased = nearest_integer(exponent, 1.0, x.exponent_bias)
    r = exponent - k
    power = (biased << x.mantissa_bits).as_floats()
    u = r * polynomial(r, EXP2_F32 if x.is_f32 else EXP2_F64, r * r)
    large = (-u).fma(power, 1.0 - power)
    return where(magnitude < 1.0, small, large).flip_sign(x.sign_bits())


def erfc(x: Floats) -> Floats:
    """``exp(-x**2)`` times a function of ``(|x| - c) / (|x| + c)``; 2 minus that for negative `x`."""
    magnitude = x.abs()
    tail = _erfc_short(magnitude.widen()).narrow() if x.is_f32 else _erfc_long(magnitude)
    return where(x < 0.0, 2.0 - tail, tail)


def _erfc_short(x: Floats) -> Floats:
    x = x.at_most(10.2)
    reciprocal = 1.0 / (x + 3.0)
    t = (x - 3.0) * reciprocal
    factor = polynomial(t, _ERFC_SHORT, t * t) * reciprocal
    square = x * x
    k, biased = nearest_integer(square, -math.log2(math.e), x.exponent_bias)
    r = k.fma(-LN2_F64[0], -square)
    power = (biased << x.mantissa_bits).as_floats() * factor
    return (r * r).fma(polynomial(r, _EXP_SHORT), r).fma(power, power)


def _erfc_long(x: Floats) -> Floats:
    """Each rounding error that would show is carried along."""
    x = x.at_most(27.4)
    # x + 2 and its reciprocal.
    total = x + 2.0
    lost = where(x > 2.0, (x - total) + 2.0, (2.0 - total) + x)
    reciprocal = 1.0 / total
    reciprocal_low = (-reciprocal).fma(lost, (-reciprocal).fma(total, 1.0)) * reciprocal
    above = x - 2.0
    t = above * reciprocal
    t_low = above.fma(reciprocal_low, above.fma(reciprocal, -t))
    # (x + 2) exp(x**2) erfc(x), and its product with that.
    rest = polynomial(t, _ERFC_F64, t * t)
    first, first_low = _ERFC_FIRST
    series = t.fma(rest, first)
    # The slope of the series is about the rest + 0.28 t.
    series_low = t_low.fma(t.fma(0.28, rest), t.fma(rest, first - series) + first_low)
    factor, factor_low = two_product(series, reciprocal)
    factor_low = factor_low + series_low.fma(reciprocal, series * reciprocal_low)
    # exp(-x**2), the square to twice the precision.
    square, square_low = two_product(x, x)
    k, biased = nearest_integer(square, -math.log2(math.e), 2 * x.exponent_bias)
    high, low = LN2_F64
    exact = k.fma(-high, -square)
    shift = k.fma(low, square_low)
    r = exact - shift
    error = (exact - r) - shift
    growth = (r * r).fma(polynomial(r, EXPM1_F64, r * r), error)
    # The product, the second part of each factor last.
    inner = factor.fma(growth, factor_low.fma(r, factor_low))
    product = factor + factor.fma(r, inner)
    half, other = powers_of_two(biased, x)
    return (product * half) * other
