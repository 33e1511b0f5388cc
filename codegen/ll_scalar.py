"""The scalar builder that makes machine code: LLVM for one element or for a vector of them.

The data structure is :class:`Element`, an LLVM value (a scalar, or one element of each of several
lanes) with its DType. :class:`LLScalarBuilder` implements ``ir.scalar.ScalarBuilder`` over
Elements; where a scalar meets a vector it is spread over the lanes. There are no fast-math flags:
which products and sums are fused is decided per node of the graph (see :mod:`.kernel`), so that a
value computed twice, in two kernels, is the same to the last bit.
"""

from __future__ import annotations

import llvmlite.ir as ll

from ..ir.types import DType, bool_, int32
from .elementary import ELEMENTARY
from .engine import Host
from .ll_loops import intrinsic, splat
from .ll_types import I1, constant, lanes_of, scalar_type, with_lanes


class Element:
    """An LLVM value and the type of its elements."""

    __slots__ = ("dtype", "value")

    def __init__(self, value: ll.Value, dtype: DType) -> None:
        self.value = value
        self.dtype = dtype

    @property
    def lanes(self) -> int:
        return lanes_of(self.value.type)


class LLScalarBuilder:
    """``ir.scalar.ScalarBuilder`` that emits LLVM.

    Attributes:
        b: where to emit.
        host: the CPU; says whether a fused multiply-add is one instruction.
    """

    __slots__ = ("b", "host")

    def __init__(self, b: ll.IRBuilder, host: Host) -> None:
        self.b = b
        self.host = host

    def dtype_of(self, x: Element) -> DType:
        return x.dtype

    def const(self, value: float | int | bool, dtype: DType) -> Element:
        return Element(constant(dtype, value), dtype)

    def like(self, value: float | int | bool, x: Element) -> Element:
        return Element(constant(x.dtype, value), x.dtype)

    def spread(self, x: Element, lanes: int) -> Element:
        """`x` in each of so many lanes."""
        if x.lanes == lanes:
            return x
        if isinstance(x.value, ll.Constant):
            return Element(
                ll.Constant(ll.VectorType(x.value.type, lanes), [x.value] * lanes), x.dtype
            )
        return Element(splat(self.b, x.value, lanes), x.dtype)

    def _pair(self, x: Element, y: Element) -> tuple[ll.Value, ll.Value, int]:
        n, m = x.lanes, y.lanes
        if n != m:
            x, y = self.spread(x, max(n, m)), self.spread(y, max(n, m))
        return x.value, y.value, max(n, m)

    def _intrinsic(self, name: str, *operands: ll.Value) -> ll.Value:
        function = intrinsic(self.b.module, name, operands[0].type, len(operands))
        return self.b.call(function, operands)

    # Conversion.

    def cast(self, x: Element, dtype: DType) -> Element:
        source = x.dtype
        if source is dtype:
            return x
        target = with_lanes(scalar_type(dtype), x.lanes)
        b, value = self.b, x.value
        if dtype is bool_:
            return self.ne(x, self.like(0, x))
        if source.is_floating:
            if dtype.is_floating:
                widen = dtype.itemsize > source.itemsize
                return Element((b.fpext if widen else b.fptrunc)(value, target), dtype)
            return Element(self._float_to_int(value, dtype, x.lanes), dtype)
        if dtype.is_floating:
            convert = b.sitofp if source.is_signed else b.uitofp
            return Element(convert(value, target), dtype)
        width, wanted = scalar_type(source).width, scalar_type(dtype).width
        if wanted < width:
            return Element(b.trunc(value, target), dtype)
        if wanted == width:
            return Element(value, dtype)
        return Element((b.sext if source.is_signed else b.zext)(value, target), dtype)

    def _float_to_int(self, value: ll.Value, dtype: DType, lanes: int) -> ll.Value:
        # What does not fit gives the smallest integer, as the x86 instruction and NumPy have it; in
        # LLVM the result of the bare instruction would be undefined. Narrow types go through i32.
        b = self.b
        via = dtype if dtype.itemsize >= 4 else int32
        via_type = with_lanes(scalar_type(via), lanes)
        bits = 8 * via.itemsize
        element = value.type.element if isinstance(value.type, ll.VectorType) else value.type
        limit = float(2 ** (bits - 1))
        above = b.fcmp_ordered("<", value, constant(element, limit, lanes))
        below = b.fcmp_ordered(">=", value, constant(element, -limit, lanes))
        fits = b.and_(above, below)
        safe = b.select(fits, value, constant(element, -limit, lanes))
        result = b.fptosi(safe, via_type)
        if via is dtype:
            return result
        return b.trunc(result, with_lanes(scalar_type(dtype), lanes))

    # Arithmetic.

    def add(self, x: Element, y: Element) -> Element:
        p, q, _ = self._pair(x, y)
        if x.dtype.is_floating:
            return Element(self.b.fadd(p, q), x.dtype)
        return Element((self.b.or_ if x.dtype is bool_ else self.b.add)(p, q), x.dtype)

    def sub(self, x: Element, y: Element) -> Element:
        p, q, _ = self._pair(x, y)
        return Element((self.b.fsub if x.dtype.is_floating else self.b.sub)(p, q), x.dtype)

    def mul(self, x: Element, y: Element) -> Element:
        p, q, _ = self._pair(x, y)
        if x.dtype.is_floating:
            return Element(self.b.fmul(p, q), x.dtype)
        return Element((self.b.and_ if x.dtype is bool_ else self.b.mul)(p, q), x.dtype)

    def div(self, x: Element, y: Element) -> Element:
        p, q, _ = self._pair(x, y)
        return Element(self.b.fdiv(p, q), x.dtype)

    def fma(self, x: Element, y: Element, z: Element) -> Element:
        lanes = max(x.lanes, y.lanes, z.lanes)
        operands = [self.spread(e, lanes).value for e in (x, y, z)]
        return Element(self._intrinsic("llvm.fma", *operands), x.dtype)

    def _divisible(self, x: Element, y: Element) -> tuple[ll.Value, ll.Value, ll.Value]:
        """Operands that an integer division can take, and where the divisor was zero."""
        b = self.b
        p, q, lanes = self._pair(x, y)
        element = scalar_type(x.dtype)
        one = constant(element, 1, lanes)
        zero = b.icmp_unsigned("==", q, constant(element, 0, lanes))
        unsafe = zero
        if x.dtype.is_signed:
            # The smallest integer by -1 traps; by 1 it gives what wrapping would.
            smallest = constant(element, -(1 << (element.width - 1)), lanes)
            overflow = b.and_(
                b.icmp_signed("==", p, smallest),
                b.icmp_signed("==", q, constant(element, -1, lanes)),
            )
            unsafe = b.or_(zero, overflow)
        return p, b.select(unsafe, one, q), zero

    def _floor_step(self, p: ll.Value, q: ll.Value, remainder: ll.Value) -> ll.Value:
        """Where truncation and flooring of p / q differ."""
        b = self.b
        nothing = ll.Constant(p.type, None)
        differ = b.icmp_signed("<", b.xor(remainder, q), nothing)
        return b.and_(b.icmp_signed("!=", remainder, nothing), differ)

    def floor_div(self, x: Element, y: Element) -> Element:
        b = self.b
        if x.dtype.is_floating:
            return self._float_floor_div(x, y)
        p, q, zero = self._divisible(x, y)
        if not x.dtype.is_signed:
            quotient = b.udiv(p, q)
        else:
            quotient = b.sdiv(p, q)
            step = self._floor_step(p, q, b.srem(p, q))
            quotient = b.sub(quotient, b.zext(step, p.type))
        return Element(b.select(zero, ll.Constant(p.type, None), quotient), x.dtype)

    def remainder(self, x: Element, y: Element) -> Element:
        b = self.b
        if x.dtype.is_floating:
            return self._float_remainder(x, y)
        p, q, zero = self._divisible(x, y)
        nothing = ll.Constant(p.type, None)
        if not x.dtype.is_signed:
            rest = b.urem(p, q)
        else:
            rest = b.srem(p, q)
            rest = b.add(rest, b.select(self._floor_step(p, q, rest), q, nothing))
        return Element(b.select(zero, nothing, rest), x.dtype)

    def fmod(self, x: Element, y: Element) -> Element:
        b = self.b
        if x.dtype.is_floating:
            p, q, _ = self._pair(x, y)
            return Element(b.frem(p, q), x.dtype)
        p, q, zero = self._divisible(x, y)
        rest = b.srem(p, q) if x.dtype.is_signed else b.urem(p, q)
        return Element(b.select(zero, ll.Constant(p.type, None), rest), x.dtype)

    def _float_remainder(self, x: Element, y: Element) -> Element:
        # As NumPy's npy_divmod: fmod, moved to the divisor's sign; a zero takes that sign.
        rest = self.fmod(x, y)
        zero = self.like(0.0, x)
        nonzero = self.ne(rest, zero)
        differ = self.bit_xor(self.lt(y, zero), self.lt(rest, zero))
        moved = self.select(differ, self.add(rest, y), rest)
        return self.select(nonzero, moved, self.copysign(zero, y))

    def _float_floor_div(self, x: Element, y: Element) -> Element:
        # As NumPy's npy_floor_divide.
        zero, one = self.like(0.0, x), self.like(1.0, x)
        rest = self.fmod(x, y)
        quotient = self.div(self.sub(x, rest), y)
        differ = self.bit_xor(self.lt(y, zero), self.lt(rest, zero))
        differ = self.bit_and(differ, self.ne(rest, zero))
        quotient = self.select(differ, self.sub(quotient, one), quotient)
        floored = self.floor(quotient)
        up = self.gt(self.sub(quotient, floored), self.like(0.5, x))
        floored = self.select(up, self.add(floored, one), floored)
        true = self.div(x, y)
        result = self.select(self.ne(quotient, zero), floored, self.copysign(zero, true))
        return self.select(self.eq(y, zero), true, result)

    def copysign(self, x: Element, y: Element) -> Element:
        p, q, _ = self._pair(x, y)
        return Element(self._intrinsic("llvm.copysign", p, q), x.dtype)

    def neg(self, x: Element) -> Element:
        return Element((self.b.fneg if x.dtype.is_floating else self.b.neg)(x.value), x.dtype)

    def abs(self, x: Element) -> Element:
        if x.dtype.is_floating:
            return Element(self._intrinsic("llvm.fabs", x.value), x.dtype)
        if not x.dtype.is_signed:
            return x
        return self.select(self.lt(x, self.like(0, x)), self.neg(x), x)

    def sign(self, x: Element) -> Element:
        zero = self.like(0, x)
        positive = self.select(self.gt(x, zero), self.like(1, x), zero)
        if not x.dtype.is_signed:
            return positive
        return self.select(self.lt(x, zero), self.like(-1, x), positive)

    def minimum(self, x: Element, y: Element) -> Element:
        return self._extremum("<", x, y)

    def maximum(self, x: Element, y: Element) -> Element:
        return self._extremum(">", x, y)

    def _extremum(self, sign: str, x: Element, y: Element) -> Element:
        if x.dtype is bool_:
            return self.bit_and(x, y) if sign == "<" else self.bit_or(x, y)
        # A NaN in y fails the comparison and so is chosen; a NaN in x is put back.
        chosen = self.select(self._compare(sign, x, y), x, y)
        return self.select(self.ne(x, x), x, chosen) if x.dtype.is_floating else chosen

    # Rounding.

    def floor(self, x: Element) -> Element:
        return Element(self._intrinsic("llvm.floor", x.value), x.dtype)

    def ceil(self, x: Element) -> Element:
        return Element(self._intrinsic("llvm.ceil", x.value), x.dtype)

    def trunc(self, x: Element) -> Element:
        return Element(self._intrinsic("llvm.trunc", x.value), x.dtype)

    def rint(self, x: Element) -> Element:
        return Element(self._intrinsic("llvm.rint", x.value), x.dtype)

    def sqrt(self, x: Element) -> Element:
        return Element(self._intrinsic("llvm.sqrt", x.value), x.dtype)

    def call(self, function: str, *operands: Element) -> Element:
        lanes = max(x.lanes for x in operands)
        values = [self.spread(x, lanes).value for x in operands]
        return Element(ELEMENTARY[function](self.b, *values), operands[0].dtype)

    # Comparison, choice, bits.

    def _compare(self, sign: str, x: Element, y: Element) -> Element:
        p, q, _ = self._pair(x, y)
        if x.dtype.is_floating:
            compare = self.b.fcmp_unordered if sign == "!=" else self.b.fcmp_ordered
        else:
            compare = self.b.icmp_signed if x.dtype.is_signed else self.b.icmp_unsigned
        return Element(compare(sign, p, q), bool_)

    def lt(self, x: Element, y: Element) -> Element:
        return self._compare("<", x, y)

    def le(self, x: Element, y: Element) -> Element:
        return self._compare("<=", x, y)

    def gt(self, x: Element, y: Element) -> Element:
        return self._compare(">", x, y)

    def ge(self, x: Element, y: Element) -> Element:
        return self._compare(">=", x, y)

    def eq(self, x: Element, y: Element) -> Element:
        return self._compare("==", x, y)

    def ne(self, x: Element, y: Element) -> Element:
        return self._compare("!=", x, y)

    def select(self, condition: Element, x: Element, y: Element) -> Element:
        lanes = max(condition.lanes, x.lanes, y.lanes)
        p, q = self.spread(x, lanes).value, self.spread(y, lanes).value
        chooser = condition.value if condition.lanes == 1 else self.spread(condition, lanes).value
        return Element(self.b.select(chooser, p, q), x.dtype)

    def bit_and(self, x: Element, y: Element) -> Element:
        p, q, _ = self._pair(x, y)
        return Element(self.b.and_(p, q), x.dtype)

    def bit_or(self, x: Element, y: Element) -> Element:
        p, q, _ = self._pair(x, y)
        return Element(self.b.or_(p, q), x.dtype)

    def bit_xor(self, x: Element, y: Element) -> Element:
        p, q, _ = self._pair(x, y)
        return Element(self.b.xor(p, q), x.dtype)

    def bit_not(self, x: Element) -> Element:
        ones = constant(I1 if x.dtype is bool_ else scalar_type(x.dtype), -1, x.lanes)
        return Element(self.b.xor(x.value, ones), x.dtype)

    def shift_left(self, x: Element, y: Element) -> Element:
        return self._shift(x, y, "shl")

    def shift_right(self, x: Element, y: Element) -> Element:
        return self._shift(x, y, "ashr" if x.dtype.is_signed else "lshr")

    def shift_right_logical(self, x: Element, y: Element) -> Element:
        return self._shift(x, y, "lshr")

    def _shift(self, x: Element, y: Element, kind: str) -> Element:
        # A count that is not less than the width gives zeros or sign bits, as NumPy has it.
        b = self.b
        p, q, lanes = self._pair(x, y)
        element = scalar_type(x.dtype)
        last = constant(element, element.width - 1, lanes)
        fits = b.icmp_unsigned("<=", q, last)
        shifted = getattr(b, kind)(p, b.select(fits, q, last))
        if kind == "ashr":
            return Element(shifted, x.dtype)
        return Element(b.select(fits, shifted, ll.Constant(p.type, None)), x.dtype)
