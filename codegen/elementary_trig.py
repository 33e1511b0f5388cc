"""Sine, cosine, tangent and their inverses.

Arguments are reduced to ``|r| <= pi/4`` and a count of quarter turns: by two or three fused
multiply-subtracts up to a limit, see :func:`_reduce`, and beyond it by Payne and Hanek's method in
integer arithmetic, see :func:`_reduce_huge`, one lane at a time in a function that is called only if
some lane needs it. sin, cos and tan of one argument reduce it by the same instructions, so LLVM
computes them once. The polynomials are minimax fits, see :mod:`.elementary_exp`.
"""

from __future__ import annotations

import math

import llvmlite.ir as ll

from .lanes import Floats, Ints, Mask, fast_two_sum, polynomial, two_product, where
from .ll_loops import for_range, intrinsic
from .ll_types import F64, I1, I64

# pi/2 as a sum, for each type.
_HALF_PI_F32 = (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15)
_HALF_PI_F64 = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591833e-33)
# Above these the fast reduction is not used: some error bounds are proportional to the quotient.
_FAST_LIMIT_F32 = 1.0e5
_FAST_LIMIT_F64 = 2.0**30

# (sin(r) - r) / r**3 and (cos(r) - 1 + r**2 / 2) / r**4 in r**2 for |r| <= pi/4, relative error of the
# sine 2**-28 and 2**-58, of the cosine 2**-33 and 2**-63; (tan(r) - r) / r**3, 2**-29.
_SIN_F32 = (-0.16666653752326965, 0.008332106284797192, -0.00019507882825564593)
_COS_F32 = (0.04166664555668831, -0.00138873013202101, 2.44307448156178e-05)
_SIN_F64 = (
    -0.16666666666666627, 0.008333333333321208, -0.00019841269828867666, 2.7557313368731363e-06,
    -2.505070752246682e-08, 1.589385022607794e-10,
)  # fmt: skip
_COS_F64 = (
    0.04166666666666659, -0.0013888888888871757, 2.4801587287849342e-05, -2.7557313849777185e-07,
    2.087565192424046e-09, -1.1355835840995012e-11,
)  # fmt: skip
_TAN_F32 = (
    0.3333335220813751, 0.13332577049732208, 0.054069869220256805, 0.021230025216937065,
    0.010972803458571434, -8.626293856650591e-05, 0.004464026540517807,
)  # fmt: skip

# (atan(q) - q) / q**3 in q**2 for |q| <= 1: relative error 2**-26 and 2**-57.
_ATAN_F32 = (
    -0.33333152532577515, 0.19993767142295837, -0.14211006462574005, 0.10665818303823471,
    -0.07551851123571396, 0.04320809617638588, -0.016365958377718925, 0.002920285565778613,
)  # fmt: skip
_ATAN_F64 = (
    -0.3333333333333307, 0.19999999999951748, -0.1428571428258696, 0.1111111100726815,
    -0.09090907005803525, 0.07692279858649712, -0.06666404128094768, 0.058805278116646265,
    -0.0525351698516599, 0.047223124446953924, -0.042191433295049194, 0.03664100726556431,
    -0.02990217642362837, 0.021982512343841066, -0.013898121191982879, 0.007194625150196863,
    -0.002883880155359768, 0.0008309318106041087, -0.0001520716853329091, 1.3215706141924888e-05,
)  # fmt: skip

# (asin(z) - z) / z**3 in z**2 for |z| <= 1/2: relative error 2**-27 and 2**-55.
_ASIN_F32 = (
    0.16666752099990845, 0.074953094124794, 0.04546915367245674, 0.02418474107980728,
    0.042158398777246475,
)  # fmt: skip
_ASIN_F64 = (
    0.16666666666665408, 0.0750000000033715, 0.044642856828207685, 0.030381959140810644,
    0.022371758024429162, 0.017359704004049355, 0.01388524952111409, 0.012169137876309358,
    0.006527888805176858, 0.01953051830322957, -0.01623226632317433, 0.031921614032118455,
)  # fmt: skip

# The first 1280 bits of 2/pi behind the binary point.
_TWO_OVER_PI = int(
    "a2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561"
    "b7246e3a424dd2e006492eea09d1921cfe1deb1cb129a73ee88235f52ebb4484"
    "e99c7026b45f7e413991d639835339f49c845f8bbdf9283b1ff897ffde05980f"
    "ef2f118b5a0a6d1f6d367ecf27cb09b74f463f669e5fea2d7527bac7ebe5f17b"
    "3d0739f78a5292ea6bfb5fb11f8d5d0856033046fc7b6babf0cfbc209af4361d",
    16,
)


def sin(x: Floats) -> Floats:
    return _with_huge_arguments("sin", x, _sin_of_parts(x, *_reduce(x.abs(), not x.is_f32)))


def cos(x: Floats) -> Floats:
    return _with_huge_arguments("cos", x, _cos_of_parts(x, *_reduce(x.abs(), not x.is_f32)))


def tan(x: Floats) -> Floats:
    return _with_huge_arguments("tan", x, _tan_of_parts(x, *_reduce(x.abs(), True)))


def _sin_of_parts(x: Floats, quarters: Ints, r: Floats, tail: Floats | None) -> Floats:
    sine, cosine = sine_and_cosine(r, tail)
    sign = _top_bit(quarters >> 1) ^ x.sign_bits()
    return where(_is_odd(quarters), cosine, sine).flip_sign(sign)


def _cos_of_parts(x: Floats, quarters: Ints, r: Floats, tail: Floats | None) -> Floats:
    sine, cosine = sine_and_cosine(r, tail)
    return where(_is_odd(quarters), sine, cosine).flip_sign(_top_bit((quarters + 1) >> 1))


def _tan_of_parts(x: Floats, quarters: Ints, r: Floats, tail: Floats | None) -> Floats:
    assert tail is not None
    odd = _is_odd(quarters)
    square = r * r
    if x.is_f32:
        series = polynomial(square, _TAN_F32, square * square)
        tangent, low = fast_two_sum(r, (r * square).fma(series, square.fma(tail, tail)))
        # The cotangent makes up for what rounding the tangent took.
        cotangent = 1.0 / tangent
        cotangent = (cotangent * cotangent).fma(-low, cotangent)
        result = where(odd, cotangent, tangent)
    else:
        # The quotient of sine and cosine, both with their rounding errors.
        sine_parts, cosine_parts = _sine_and_cosine_parts(r, tail)
        sine, sine_low = fast_two_sum(*sine_parts)
        cosine, cosine_low = fast_two_sum(*cosine_parts)
        numerator, denominator = where(odd, cosine, sine), where(odd, sine, cosine)
        low, denominator_low = where(odd, cosine_low, sine_low), where(odd, sine_low, cosine_low)
        reciprocal = 1.0 / denominator
        quotient = numerator * reciprocal
        rest = (-quotient).fma(denominator_low, (-quotient).fma(denominator, numerator) + low)
        result = rest.fma(reciprocal, quotient)
    return result.flip_sign(_top_bit(quarters) ^ x.sign_bits())


def _is_odd(quarters: Ints) -> Mask:
    return _top_bit(quarters).is_negative()


def _top_bit(number: Ints) -> Ints:
    """The lowest bit, moved to the place of a float's sign, and no other."""
    return number << (number.width - 1)


def sine_and_cosine(r: Floats, tail: Floats | None) -> tuple[Floats, Floats]:
    """Of ``r + tail``, for ``|r| <= pi/4`` and a `tail` less than an ULP of it."""
    if tail is None:
        square = r * r
        sine = (r * square).fma(polynomial(square, _SIN_F32), r)
        cosine = square.fma(square.fma(polynomial(square, _COS_F32), -0.5), 1.0)
        return sine, cosine
    (sine, sine_low), (cosine, cosine_low) = _sine_and_cosine_parts(r, tail)
    return sine + sine_low, cosine + cosine_low


def _sine_and_cosine_parts(
    r: Floats, tail: Floats
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Sine and cosine of ``r + tail`` as sums, in `double`.

    To first order, sin(r + t) = sin r + t cos r and cos(r + t) = cos r - r t.
    """
    square = r * r
    fourth, half = square * square, square * 0.5
    cubic = (r * square).fma(polynomial(square, _SIN_F64, fourth), (-half).fma(tail, tail))
    rest = fourth.fma(polynomial(square, _COS_F64, fourth), -(r * tail))
    cosine, lost = fast_two_sum(r.const(1.0), -half)
    return (r, cubic), (cosine, lost + rest)


def _reduce(x: Floats, with_tail: bool) -> tuple[Ints, Floats, Floats | None]:
    """``q, r, t``: ``x = q' pi/2 + r + t``, `q` equal to the integer ``q'`` in its low bits.

    Without tail `t` is None, and `r` is wrong by up to an ULP. For ``0 <= x <=`` the limit. The first
    step (Cody and Waite) is exact.
    """
    shifter = 1.5 * 2.0**x.mantissa_bits
    shifted = x.fma(2.0 / math.pi, shifter)
    k = shifted - shifter
    first, second, third = _HALF_PI_F32 if x.is_f32 else _HALF_PI_F64
    r = k.fma(-first, x)
    if not with_tail:
        return shifted.bits(), k.fma(-third, k.fma(-second, r)), None
    product, error = two_product(k, k.const(second))
    reduced = r - product
    tail = k.fma(-third, ((r - reduced) - product) - error)
    return shifted.bits(), reduced, tail


def _with_huge_arguments(name: str, x: Floats, fast: Floats) -> Floats:
    """`fast`, or if any lane of `x` is above the limit, what an out-of-line function makes of both."""
    b = x.b
    limit = _FAST_LIMIT_F32 if x.is_f32 else _FAST_LIMIT_F64
    any_huge = (x.abs() > limit).any()
    before = b.block
    huge, after = b.append_basic_block("huge"), b.append_basic_block("reduced")
    b.cbranch(any_huge, huge, after).set_weights([1, 1 << 20])
    b.position_at_end(huge)
    replaced = b.call(_define_replacement(b.module, name, x, limit), [x.value, fast.value])
    b.branch(after)
    b.position_at_end(after)
    result = b.phi(x.value.type)
    result.add_incoming(fast.value, before)
    result.add_incoming(replaced, huge)
    return Floats(b, result)


def _define_replacement(module: ll.Module, name: str, like: Floats, limit: float) -> ll.Function:
    """A function ``(x, fast)``: `fast`, with the lanes where ``|x| > limit`` computed anew."""
    type_ = like.value.type
    symbol = f"tracegrad.{name}.huge.{like.type_name}"
    function, b = _define_rare(module, symbol, type_, [type_, type_])
    if b is None:
        return function
    arguments, fast = function.args
    with for_range(b, 0, like.lanes, name="lane", carried=[fast], unroll=False) as loop:
        (result,) = loop.values
        x = Floats(b, _extract(b, arguments, loop.index))
        wide = x.widen() if x.is_f32 else x
        three = b.call(_define_one_lane(module), [wide.value])
        lane = Floats(b, b.extract_value(three, ("sin", "cos", "tan").index(name)))
        old = Floats(b, _extract(b, result, loop.index))
        new = where(x.abs() > limit, lane.narrow() if x.is_f32 else lane, old)
        loop.yield_(_insert(b, result, new.value, loop.index))
    b.ret(loop.results[0])
    return function


def _extract(b: ll.IRBuilder, vector: ll.Value, index: ll.Value) -> ll.Value:
    is_vector = isinstance(vector.type, ll.VectorType)
    return b.extract_element(vector, index) if is_vector else vector


def _insert(b: ll.IRBuilder, vector: ll.Value, lane: ll.Value, index: ll.Value) -> ll.Value:
    is_vector = isinstance(vector.type, ll.VectorType)
    return b.insert_element(vector, lane, index) if is_vector else lane


def _define_one_lane(module: ll.Module) -> ll.Function:
    """A function that gives ``{sin, cos, tan}`` of one `double` from 2**15 on; NaN of infinity."""
    type_ = ll.LiteralStructType([F64, F64, F64])
    function, b = _define_rare(module, "tracegrad.sin_cos_tan.huge", type_, [F64])
    if b is not None:
        x = Floats(b, function.args[0])
        parts = _reduce_huge(x.abs())
        result = ll.Constant(type_, ll.Undefined)
        for place, finish in enumerate((_sin_of_parts, _cos_of_parts, _tan_of_parts)):
            result = b.insert_value(result, finish(x, *parts).value, place)
        b.ret(result)
    return function


def _define_rare(
    module: ll.Module, name: str, result: ll.Type, arguments: list[ll.Type]
) -> tuple[ll.Function, ll.IRBuilder | None]:
    """An internal function that is never inlined; no builder if the module has it already.

    It is not optimised, because it hardly ever runs, and each module with a sine has it.
    """
    found = module.globals.get(name)
    if found is not None:
        return found, None
    function = ll.Function(module, ll.FunctionType(result, arguments), name)
    function.linkage = "internal"
    for attribute in ("noinline", "cold", "nounwind", "optnone"):
        function.attributes.add(attribute)
    return function, ll.IRBuilder(function.append_basic_block("entry"))


def _reduce_huge(x: Floats) -> tuple[Ints, Floats, Floats]:
    """As :func:`_reduce`, for one `double` ``x >= 2**15``; NaN for infinity.

    Payne and Hanek's method. With ``x = m * 2**e``, `m` an integer of 53 bits, and 2/pi as a string of
    bits, those bits that contribute multiples of 4 to the product ``x * 2/pi`` are skipped, and the
    next 192 suffice: no `double` comes closer to a multiple of pi/2 than 2**-62, and what is cut
    off is less than 2**-137.
    """
    b = x.b
    wide = ll.IntType(128)
    bits = x.bits()
    significand = ((bits & ((1 << 52) - 1)) | (1 << 52)).value
    # The biased exponent is e + 1075; 64 zeros stand before the bits of 2/pi, and the window begins
    # at bit e + 62. That of infinity must not lie behind the table.
    start = b.sub((bits >> 52).value, I64(1075 - 62))
    start = b.select(b.icmp_unsigned("<", start, I64(1034)), start, I64(0))
    table = _lay_out_table(b)
    word = b.lshr(start, I64(6))
    words = [b.load(b.gep(table, [b.add(word, I64(offset))])) for offset in range(4)]
    shift = b.and_(start, I64(63))
    funnel = intrinsic(b.module, "llvm.fshl", I64, 3)
    window = [b.call(funnel, [words[place], words[place + 1], shift]) for place in range(3)]
    # The product modulo 4, as an integer of 128 bits with 2 of them before the binary point.
    high, middle, low = (b.mul(b.zext(significand, wide), b.zext(part, wide)) for part in window)
    product = b.add(b.shl(high, wide(64)), b.add(middle, b.lshr(low, wide(64))))
    quarters = b.lshr(b.add(product, wide(1 << 125)), wide(126))
    fraction = b.sub(product, b.shl(quarters, wide(126)))
    negative = b.icmp_signed("<", fraction, wide(0))
    fraction = b.select(negative, b.neg(fraction), fraction)
    # Normalised, as two integers of 53 bits.
    name = "llvm.ctlz.i128"
    count_zeros = b.module.globals.get(name) or ll.Function(
        b.module, ll.FunctionType(wide, [wide, I1]), name
    )
    zeros = b.call(count_zeros, [fraction, I1(0)])
    fraction = b.shl(fraction, zeros)
    first = b.trunc(b.lshr(fraction, wide(75)), I64)
    second = b.and_(b.trunc(b.lshr(fraction, wide(22)), I64), I64((1 << 53) - 1))
    turn, turn_low = Floats(b, b.sitofp(first, F64)), Floats(b, b.sitofp(second, F64)) * 2.0**-53
    # Times pi/2.
    r, error = two_product(turn, turn.const(_HALF_PI_F64[0]))
    error = turn.fma(_HALF_PI_F64[1], turn_low.fma(_HALF_PI_F64[0], error))
    r, tail = fast_two_sum(r, error)
    scale = ((1023 - 51 - Ints(b, b.trunc(zeros, I64))) << 52).as_floats()
    scale = where(x < math.inf, scale, scale.const(math.nan))
    scale = scale.flip_sign(Ints(b, b.select(negative, I64(-(1 << 63)), I64(0))))
    return Ints(b, b.trunc(quarters, I64)), r * scale, tail * scale


def _lay_out_table(b: ll.IRBuilder) -> ll.Value:
    """A pointer to 64 zero bits and those of 2/pi, as `i64`, the most significant first.

    On the stack: to index a constant, small code may need the absolute address in 32 bits.
    """
    table = b.alloca(I64, I64(21))
    for place in range(21):
        word = (_TWO_OVER_PI >> (64 * (20 - place))) & ((1 << 64) - 1)
        b.store(I64(word - ((word >> 63) << 64)), b.gep(table, [I64(place)]))
    return table


def atan(x: Floats) -> Floats:
    magnitude = x.abs()
    large = magnitude > 1.0
    ratio = where(large, 1.0 / magnitude, magnitude)
    cubic = _atan_cubic(ratio)
    high, low, _ = _HALF_PI_F32 if x.is_f32 else _HALF_PI_F64
    # pi/2 minus the arc tangent of the reciprocal.
    result = where(large, (high - ratio) + (low - cubic), ratio + cubic)
    return result.flip_sign(x.sign_bits())


def atan2(y: Floats, x: Floats) -> Floats:
    """The angle of the point (x, y); zeros and infinities as C's ``atan2``."""
    across, along = x.abs(), y.abs()
    steep = along > across
    small, large = where(steep, across, along), where(steep, along, across)
    ratio = small / large
    # 0 / 0 is 0 here, and infinity / infinity is 1.
    diagonal = where(large.equals(0.0), large, 1.0)
    ratio = where(small.equals(large), diagonal, ratio)
    cubic = _atan_cubic(ratio)
    left = x.sign_bits()
    high, low, _ = _HALF_PI_F32 if x.is_f32 else _HALF_PI_F64
    # The angle is a multiple of pi/2 plus or minus the arc tangent of the ratio.
    zero = x.const(0.0)
    behind = left.is_negative()
    base = where(steep, x.const(high), where(behind, x.const(2.0 * high), zero))
    base_low = where(steep, x.const(low), where(behind, x.const(2.0 * low), zero))
    sign = left ^ where(steep, zero.const(-0.0).bits(), 0)
    total, lost = fast_two_sum(base, ratio.flip_sign(sign))
    return (total + (lost + (base_low + cubic.flip_sign(sign)))).flip_sign(y.sign_bits())


def _atan_cubic(q: Floats) -> Floats:
    """``atan(q) - q`` for ``0 <= q <= 1``."""
    square = q * q
    return (q * square) * polynomial(square, _ATAN_F32 if q.is_f32 else _ATAN_F64, square * square)


def asin(x: Floats) -> Floats:
    large, z, cubic = _asin_parts(x.abs())
    high, low, _ = _HALF_PI_F32 if x.is_f32 else _HALF_PI_F64
    # pi/2 - 2 asin(sqrt((1 - |x|) / 2))
    complement = z.fma(-2.0, high)
    lost = z.fma(-2.0, high - complement)
    complement = complement + (lost + cubic.fma(-2.0, low))
    return where(large, complement, z + cubic).flip_sign(x.sign_bits())


def acos(x: Floats) -> Floats:
    large, z, cubic = _asin_parts(x.abs())
    high, low, _ = _HALF_PI_F32 if x.is_f32 else _HALF_PI_F64
    zero = x.const(0.0).bits()
    # For |x| <= 1/2 pi/2 - asin x; above it 2 asin(sqrt((1 - |x|) / 2)), or pi minus that.
    sign = where(large, zero, x.sign_bits())
    near = high - (z.flip_sign(sign) + (cubic.flip_sign(sign) - low))
    result = where(x > 0.5, z + cubic, near)
    return where(large, result + result, result)


def _asin_parts(x: Floats) -> tuple[Mask, Floats, Floats]:
    """``x > 1/2``; then `z`, `x` or ``sqrt((1 - x) / 2)``; and ``asin(z) - z``. NaN above 1."""
    large = x > 0.5
    square = where(large, (1.0 - x) * 0.5, x * x)
    z = where(large, square.sqrt(), x)
    series = polynomial(square, _ASIN_F32 if x.is_f32 else _ASIN_F64, square * square)
    return large, z, (z * square) * series
