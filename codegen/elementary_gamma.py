"""The logarithm of the gamma function, and its derivative.

Both go through `double` for `float`. Positive arguments are brought to an interval where a minimax
polynomial holds, by the recurrence, or have Stirling's series; negative ones are reflected. The
poles and zeros on the negative side are found, but close to a zero there the relative error grows,
as in other libraries.
"""

from __future__ import annotations

import math

from .elementary_exp import log_pair
from .elementary_trig import sine_and_cosine
from .lanes import Floats, Mask, polynomial, two_product, two_sum, where

# lgamma(2 + d) / d for -1/2 <= d <= 1, relative error 2**-56.
_LGAMMA = (
    0.42278433509846713, 0.3224670334241132, -0.0673523010531978, 0.02058080842778573,
    -0.007385551028697859, 0.0028905103306964015, -0.0011927539109291363, 0.0005096695254139446,
    -0.00022315477082202474, 9.945751147590955e-05, -4.492612356581659e-05,
    2.050714437145907e-05, -9.440087269346746e-06, 4.375671904855627e-06,
    -2.037654326500766e-06, 9.512617129533451e-07, -4.494653167039642e-07,
    2.2003947837049204e-07, -1.0806569513869482e-07, 4.556714576810006e-08,
    -1.3064128134918452e-08, 1.7813280468550054e-09,
)  # fmt: skip
# x (lgamma(x) - (x - 1/2) (log x - 1) - _HALF_LOG) in 1 / x**2 for x >= 8: error of lgamma 2**-63.
_STIRLING = (
    0.08333333333333245, -0.0027777777768045295, 0.0007936504188009142, -0.0005951698740152632,
    0.0008353214463743987, -0.0016090481671071231,
)  # fmt: skip
_HALF_LOG = 0.4189385332046727  # (log(2 pi) - 1) / 2
_LOG_PI = 1.1447298858494002

# digamma(3/2 + t) / (3/2 + t - root) for -1/2 <= t <= 1, relative error 2**-54.
_DIGAMMA = (
    0.9510558760318328, -0.42362742128146014, 0.24054248424079333, -0.14840492305399763,
    0.09498872445226285, -0.06192213326576099, 0.04076083396163944, -0.02697579704693189,
    0.01790724813869666, -0.011908211474401268, 0.0079270183384891, -0.005280055011866706,
    0.0035182043949032226, -0.0023444620039839046, 0.001562315401954836,
    -0.0010423988969943522, 0.0006972508505785857, -0.00046371334395192373,
    0.0003015495450453246, -0.0001966940723873982, 0.00014153369220981443,
    -0.0001104291372969807, 7.547762297598266e-05, -3.6700779289710545e-05,
    1.0710667843324236e-05, -1.395433595461267e-06,
)  # fmt: skip
_DIGAMMA_ROOT = (1.4616321449683622, 9.549995429965697e-17)
# x**2 (log x - 1 / (2 x) - digamma(x)) in 1 / x**2 for x >= 5.5: error of digamma 2**-66.
_DIGAMMA_SERIES = (
    0.08333333333333322, -0.008333333333210817, 0.003968253919213132, -0.0041666567373076615,
    0.007574599265553802, -0.02100953678158373, 0.0795270003915586, -0.3316222876161991,
    0.9532236097149578,
)  # fmt: skip


def lgamma(x: Floats) -> Floats:
    """``log(|gamma(x)|)``; infinite at the poles 0, -1, -2, ..."""
    wide = x.widen() if x.is_f32 else x
    magnitude = wide.abs()
    positive = _lgamma_of_positive(magnitude)
    # gamma(x) gamma(-x) = -pi / (x sin(pi x)); near zero gamma(x) is close to 1 / x.
    sine, _ = _sine_and_cosine_of_turn(magnitude)
    high, low = log_pair((magnitude * sine).abs())
    reflected = (_LOG_PI - high) - low - positive
    result = where(wide < -1e-30, reflected, positive)
    infinite = (sine.equals(0.0) & (wide < 0.0)) | magnitude.equals(0.0)
    result = where(infinite | magnitude.equals(math.inf), wide.const(math.inf), result)
    return result.narrow() if x.is_f32 else result


def _lgamma_of_positive(x: Floats) -> Floats:
    """Below 3 ``d p(d) - log(..)`` with `d` the distance from 1 or 2; up to 8 plus a logarithm."""
    large = x >= 8.0
    below_half, below_one_and_half, below_three = x < 0.5, x < 1.5, x < 3.0
    # By how many steps of the recurrence the argument goes down to [2, 3), and their product.
    d = x - 2.0
    steps = x.const(1.0)
    for _ in range(5):
        again = d >= 1.0
        steps = where(again, steps * (d + 1.0), steps)
        d = where(again, d - 1.0, d)
    d = where(below_one_and_half, x - 1.0, d)
    d = where(below_half, x, d)
    above = x + 1.0
    quadratic = above * x
    quadratic_low = above.fma(x, -quadratic) + (x - (above - 1.0)) * x
    argument = where(below_half, quadratic, where(below_one_and_half | large, x, steps))
    reciprocal = 1.0 / argument
    high, low = log_pair(argument)
    low = where(below_half, quadratic_low.fma(reciprocal.at_most(1e300), low), low)
    # The logarithm is subtracted below 1.5, absent up to 3, added above.
    sign = where(below_one_and_half, x.const(-0.0).bits(), 0)
    rest = polynomial(d, _LGAMMA[1:], d * d)
    series = d.fma(rest, _LGAMMA[0])
    series_low = d.fma(rest, _LGAMMA[0] - series)
    small = d.fma(series, high.flip_sign(sign)) + d.fma(series_low, low.flip_sign(sign))
    small = where(below_three & ~below_one_and_half, d * series, small)
    # (x - 1/2) (log x - 1), the product to twice the precision.
    shifted = high - 1.0
    factor = x - 0.5
    product, error = two_product(shifted, factor)
    error = low.fma(factor, error)
    square = reciprocal * reciprocal
    rest = reciprocal.fma(polynomial(square, _STIRLING), _HALF_LOG)
    stirling = product + (error + rest)
    # Where the error of the product is not finite any more.
    stirling = where(product < 1e300, stirling, product)
    return where(large, stirling, small)


def digamma(x: Floats) -> Floats:
    """The derivative of lgamma; NaN at -1, -2, ..., and an infinity of the opposite sign at 0."""
    wide = x.widen() if x.is_f32 else x
    magnitude, negative = wide.abs(), wide < 0.0
    # digamma(-a) = digamma(a + 1) + pi / tan(pi a)
    positive = _digamma_of_this_or_next(magnitude, negative)
    sine, cosine = _sine_and_cosine_of_turn(magnitude)
    reflected = positive + (cosine * math.pi) / sine
    reflected = where(sine.equals(0.0), wide.const(math.nan), reflected)
    result = where(negative, reflected, positive)
    infinite = wide.const(-math.inf).flip_sign(wide.sign_bits())
    result = where(magnitude.equals(0.0), infinite, result)
    return result.narrow() if x.is_f32 else result


def _digamma_of_this_or_next(x: Floats, of_next: Mask) -> Floats:
    """digamma of ``x >= 0``, or of ``x + 1``."""
    large, below_one = x >= 5.5, x < 1.0
    # Steps of the recurrence down to [1.5, 2.5), the sum of the reciprocals as a fraction; below 1
    # one step up.
    y = where(large, x.const(2.0), x)
    numerator, denominator = x.const(0.0), x.const(1.0)
    for _ in range(3):
        again = y >= 2.5
        below = y - 1.0
        numerator = where(again, numerator.fma(below, denominator), numerator)
        denominator = where(again, denominator * below, denominator)
        y = where(again, below, y)
    numerator = where(below_one, where(of_next, x.const(0.0), -1.0), numerator)
    denominator = where(below_one, x, denominator)
    steps = numerator / denominator
    reciprocal = (1.0 / x).at_most(1e300)
    steps_low = where(below_one, (-steps).fma(denominator, numerator) * reciprocal, 0.0)
    # The distance from the root is exact where it matters: below 1 it is that of x + 1.
    root, root_low = _DIGAMMA_ROOT
    distance = where(below_one, x - (root - 1.0), y - root)
    t = where(below_one, x - 0.5, y - 1.5)
    rest = polynomial(t, _DIGAMMA[1:], t * t)
    series = t.fma(rest, _DIGAMMA[0])
    series_low = t.fma(rest, _DIGAMMA[0] - series)
    near, near_low = two_product(distance, series)
    near_low = distance.fma(series_low, series.fma(-root_low, near_low))
    total, lost = two_sum(steps, near)
    # Close to zero the errors are not finite.
    small = total + (lost + (steps_low + near_low))
    small = where((x < 1e-30) & ~of_next, steps, small)
    high, low = log_pair(where(large, x, 8.0))
    square = reciprocal * reciprocal
    asymptotic = square.fma(polynomial(square, _DIGAMMA_SERIES), reciprocal * 0.5)
    series = high + (low - asymptotic)
    series = where(of_next, series + reciprocal, series)
    small = where(of_next & ~below_one, small + reciprocal, small)
    return where(large, where(x < math.inf, series, x), small)


def _sine_and_cosine_of_turn(x: Floats) -> tuple[Floats, Floats]:
    """``sin(pi x)`` and ``cos(pi x)`` up to a common sign, for ``x >= 0``; the sine of integers is 0."""
    r = x - x.rint()
    magnitude = r.abs()
    # Beyond a quarter the two change places.
    outer: Mask = magnitude > 0.25
    angle = where(outer, 0.5 - magnitude, magnitude)
    product, error = two_product(angle, angle.const(math.pi))
    sine, cosine = sine_and_cosine(product, angle.fma(1.2246467991473532e-16, error))
    sign = r.sign_bits()
    return where(outer, cosine, sine).flip_sign(sign), where(outer, sine, cosine)
