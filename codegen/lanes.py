"""A notation for arithmetic on lanes: LLVM code for scalars and vectors alike, written as formulas.

The data structures are :class:`Floats`, :class:`Ints` and :class:`Mask`: an LLVM value together with
the builder that its users are emitted to, with Python's operators. Numbers written next to them
become constants of their type, the same in every lane. :func:`where` chooses, :func:`polynomial`
evaluates. Nothing here carries fast-math flags: what is written is what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import llvmlite.ir as ll
import numpy as np

from .ll_loops import intrinsic
from .ll_types import F32, F64, I1, I32, I64, lanes_of, with_lanes

_Value = TypeVar("_Value", "Floats", "Ints")


class Floats:
    """Lanes of `float` or of `double`.

    Attributes:
        b: the builder.
        value: the LLVM value, a scalar or a vector.
    """

    __slots__ = ("b", "value")

    def __init__(self, b: ll.IRBuilder, value: ll.Value) -> None:
        self.b = b
        self.value = value

    @property
    def lanes(self) -> int:
        return lanes_of(self.value.type)

    @property
    def is_f32(self) -> bool:
        type_ = self.value.type
        return bool((type_.element if isinstance(type_, ll.VectorType) else type_) == F32)

    @property
    def type_name(self) -> str:
        """`f32` for a scalar, `f32x8` for a vector."""
        element = "f32" if self.is_f32 else "f64"
        return element if self.lanes == 1 else f"{element}x{self.lanes}"

    @property
    def mantissa_bits(self) -> int:
        """Bits of the significand that are stored."""
        return 23 if self.is_f32 else 52

    @property
    def exponent_bias(self) -> int:
        return 127 if self.is_f32 else 1023

    def const(self, number: float) -> Floats:
        """`number` in every lane, rounded to this type."""
        element = F32 if self.is_f32 else F64
        if element is F32:
            with np.errstate(over="ignore"):
                number = float(np.float32(number))
        return Floats(self.b, _splat(element, number, self.lanes))

    def _operand(self, other: Floats | float) -> ll.Value:
        return other.value if isinstance(other, Floats) else self.const(other).value

    def __add__(self, other: Floats | float) -> Floats:
        return Floats(self.b, self.b.fadd(self.value, self._operand(other)))

    def __radd__(self, other: float) -> Floats:
        return self.const(other) + self

    def __sub__(self, other: Floats | float) -> Floats:
        return Floats(self.b, self.b.fsub(self.value, self._operand(other)))

    def __rsub__(self, other: float) -> Floats:
        return self.const(other) - self

    def __mul__(self, other: Floats | float) -> Floats:
        return Floats(self.b, self.b.fmul(self.value, self._operand(other)))

    def __truediv__(self, other: Floats | float) -> Floats:
        return Floats(self.b, self.b.fdiv(self.value, self._operand(other)))

    def __rtruediv__(self, other: float) -> Floats:
        return self.const(other) / self

    def __neg__(self) -> Floats:
        return Floats(self.b, self.b.fneg(self.value))

    def fma(self, factor: Floats | float, addend: Floats | float) -> Floats:
        """``self * factor + addend``, rounded once."""
        return self._call("llvm.fma", self._operand(factor), self._operand(addend))

    def abs(self) -> Floats:
        return self._call("llvm.fabs")

    def sqrt(self) -> Floats:
        return self._call("llvm.sqrt")

    def rint(self) -> Floats:
        """The nearest integer, ties to even."""
        return self._call("llvm.rint")

    def _call(self, name: str, *others: ll.Value) -> Floats:
        function = intrinsic(self.b.module, name, self.value.type, 1 + len(others))
        return Floats(self.b, self.b.call(function, [self.value, *others]))

    def at_most(self, bound: Floats | float) -> Floats:
        """The smaller one; a NaN in `self` stays."""
        return where(self > bound, self._lift(bound), self)

    def at_least(self, bound: Floats | float) -> Floats:
        """The larger one; a NaN in `self` stays."""
        return where(self < bound, self._lift(bound), self)

    def _lift(self, other: Floats | float) -> Floats:
        return other if isinstance(other, Floats) else self.const(other)

    def __lt__(self, other: Floats | float) -> Mask:
        return self._compare("<", other)

    def __le__(self, other: Floats | float) -> Mask:
        return self._compare("<=", other)

    def __gt__(self, other: Floats | float) -> Mask:
        return self._compare(">", other)

    def __ge__(self, other: Floats | float) -> Mask:
        return self._compare(">=", other)

    def equals(self, other: Floats | float) -> Mask:
        return self._compare("==", other)

    def _compare(self, sign: str, other: Floats | float) -> Mask:
        return Mask(self.b, self.b.fcmp_ordered(sign, self.value, self._operand(other)))

    def bits(self) -> Ints:
        """The representation, as integers of the same width."""
        return Ints(self.b, self.b.bitcast(self.value, self._int_type()))

    def sign_bits(self) -> Ints:
        """The representation with all but the sign bit cleared."""
        return self.bits() & (1 << (31 if self.is_f32 else 63))

    def flip_sign(self, sign_bits: Ints) -> Floats:
        """Negated where the sign bit is set; the other bits of `sign_bits` must be zero."""
        return (self.bits() ^ sign_bits).as_floats()

    def widen(self) -> Floats:
        """As `double`; exact."""
        return Floats(self.b, self.b.fpext(self.value, with_lanes(F64, self.lanes)))

    def narrow(self) -> Floats:
        """Rounded to `float`."""
        return Floats(self.b, self.b.fptrunc(self.value, with_lanes(F32, self.lanes)))

    def _int_type(self) -> ll.Type:
        return with_lanes(I32 if self.is_f32 else I64, self.lanes)


class Ints:
    """Lanes of `i32` or of `i64`: two's complement that wraps, as wide as the floats beside them."""

    __slots__ = ("b", "value")

    def __init__(self, b: ll.IRBuilder, value: ll.Value) -> None:
        self.b = b
        self.value = value

    def _operand(self, other: Ints | int) -> ll.Value:
        if isinstance(other, Ints):
            return other.value
        type_ = self.value.type
        element = type_.element if isinstance(type_, ll.VectorType) else type_
        number = other & ((1 << element.width) - 1)
        number -= (number >> (element.width - 1)) << element.width
        return _splat(element, number, lanes_of(type_))

    def _binary(self, emit: Callable[..., ll.Value], other: Ints | int) -> Ints:
        return Ints(self.b, emit(self.value, self._operand(other)))

    def __add__(self, other: Ints | int) -> Ints:
        return self._binary(self.b.add, other)

    def __sub__(self, other: Ints | int) -> Ints:
        return self._binary(self.b.sub, other)

    def __rsub__(self, other: int) -> Ints:
        return Ints(self.b, self.b.sub(self._operand(other), self.value))

    def __and__(self, other: Ints | int) -> Ints:
        return self._binary(self.b.and_, other)

    def __or__(self, other: Ints | int) -> Ints:
        return self._binary(self.b.or_, other)

    def __xor__(self, other: Ints | int) -> Ints:
        return self._binary(self.b.xor, other)

    def __lshift__(self, count: Ints | int) -> Ints:
        return self._binary(self.b.shl, count)

    def __rshift__(self, count: Ints | int) -> Ints:
        """Zeros move in: there is no arithmetic shift of 64 bits before AVX-512."""
        return self._binary(self.b.lshr, count)

    @property
    def width(self) -> int:
        """Bits of one lane."""
        type_ = self.value.type
        return int((type_.element if isinstance(type_, ll.VectorType) else type_).width)

    def is_negative(self) -> Mask:
        return Mask(self.b, self.b.icmp_signed("<", self.value, self._operand(0)))

    def equals(self, other: Ints | int) -> Mask:
        return Mask(self.b, self.b.icmp_signed("==", self.value, self._operand(other)))

    def as_floats(self) -> Floats:
        """The floats with this representation."""
        type_ = self.value.type
        element = type_.element if isinstance(type_, ll.VectorType) else type_
        target = with_lanes(F32 if element == I32 else F64, lanes_of(type_))
        return Floats(self.b, self.b.bitcast(self.value, target))


class Mask:
    """A truth value in each lane."""

    __slots__ = ("b", "value")

    def __init__(self, b: ll.IRBuilder, value: ll.Value) -> None:
        self.b = b
        self.value = value

    def __and__(self, other: Mask) -> Mask:
        return Mask(self.b, self.b.and_(self.value, other.value))

    def __or__(self, other: Mask) -> Mask:
        return Mask(self.b, self.b.or_(self.value, other.value))

    def __invert__(self) -> Mask:
        return Mask(self.b, self.b.xor(self.value, _splat(I1, 1, lanes_of(self.value.type))))

    def any(self) -> ll.Value:
        """One `i1`: whether any lane is true."""
        lanes = lanes_of(self.value.type)
        if lanes == 1:
            return self.value
        name = f"llvm.vector.reduce.or.v{lanes}i1"
        reduce = self.b.module.globals.get(name) or ll.Function(
            self.b.module, ll.FunctionType(I1, [self.value.type]), name
        )
        return self.b.call(reduce, [self.value])


def where(mask: Mask, x: _Value, y: _Value | float) -> _Value:
    """`x` where the mask holds, `y` elsewhere."""
    return type(x)(x.b, x.b.select(mask.value, x.value, x._operand(y)))  # type: ignore[arg-type]


def polynomial(x: Floats, coefficients: Sequence[float], square: Floats | None = None) -> Floats:
    """``c[0] + c[1] x + c[2] x**2 + ...`` by fused multiply-adds.

    Horner's scheme. With the square of `x` given, even and odd powers from the third on are summed
    apart, which halves the length of the dependency chain for one more operation; the first ones are
    not, since there rounding errors would show.
    """
    if square is not None and len(coefficients) > 5:
        fourth = square * square if len(coefficients) > 12 else None
        even = polynomial(square, coefficients[2::2], fourth)
        odd = polynomial(square, coefficients[3::2], fourth)
        return x.fma(x.fma(x.fma(odd, even), coefficients[1]), coefficients[0])
    total = x.const(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total.fma(x, coefficient)
    return total


def fast_two_sum(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The rounded sum and its error, for ``|x| >= |y|`` or ``x == 0`` (Dekker)."""
    total = x + y
    return total, (x - total) + y


def two_sum(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The rounded sum and its error, for all finite operands (Knuth)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def two_product(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The rounded product and its error."""
    product = x * y
    return product, x.fma(y, -product)


class _Splat(ll.Constant):
    """A vector constant in LLVM's short form, which is also much faster to parse."""

    def __init__(self, element: ll.Type, number: float, lanes: int) -> None:
        self.type = ll.VectorType(element, lanes)
        self.constant = f"splat ({element} {ll.Constant(element, number).get_reference()})"

    def _get_reference(self) -> str:
        return self.constant


def _splat(element: ll.Type, number: float, lanes: int) -> ll.Constant:
    return ll.Constant(element, number) if lanes == 1 else _Splat(element, number, lanes)
