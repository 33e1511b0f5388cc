"""What a reduction carries from turn to turn, and how it is combined in the end.

The data structure is :class:`Accumulator`. Everything here happens in a fixed order, so that the
same code gives the same bits. A sum of floats is added up in short runs, and the runs are added up
more precisely: in float64 for float32, with the rounding errors kept (Knuth's TwoSum) for float64.
So the error does not grow with the number of runs, and is below that of pairwise summation.
"""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ll

from ..ir.types import DType, float64, int64
from .kernel import Extremum, Fold, Running
from .lanes import Floats, two_sum
from .ll_scalar import Element, LLScalarBuilder
from .ll_types import F32, F64, I1, I32, constant, lanes_of, with_lanes


class Accumulator:
    """The state of one fold.

    Attributes:
        fold: what is folded.
        count: how many states run side by side.
        lanes: elements of each.
        across: whether the lanes (and the states) are combined in the end, or stand for different
            results.
        slow: whether runs are added up apart.
    """

    def __init__(
        self,
        s: LLScalarBuilder,
        fold: Fold,
        dtype: DType,
        count: int,
        lanes: int,
        *,
        across: bool,
        slow: bool,
    ) -> None:
        self.s = s
        self.fold = fold
        self.dtype = dtype
        self.count = count
        self.lanes = lanes
        self.across = across
        self.slow = slow and fold.compensated

    def start(self) -> list[ll.Value]:
        """The state of a new run."""
        return [constant(self.dtype, self.fold.start, self.lanes)] * self.count

    def step(
        self, state: Sequence[ll.Value], values: Sequence[Element], active: int
    ) -> list[ll.Value]:
        """The state with one value combined into each of the first states.

        Args:
            state: the state.
            values: one Element per state that takes one, or a single one for all.
            active: how many lanes of the last value exist; matters where lanes are combined.
        """
        s, result = self.s, list(state)
        for u, value in enumerate(values):
            spread = s.spread(value, self.lanes)
            if self.across and u == len(values) - 1 and active < self.lanes:
                flags = ll.Constant(
                    ll.VectorType(I1, self.lanes), [I1(lane < active) for lane in range(self.lanes)]
                )
                neutral = constant(self.dtype, self.fold.start, self.lanes)
                spread = Element(s.b.select(flags, spread.value, neutral), self.dtype)
            result[u] = self._combine(result[u], spread.value)
        return result

    def _combine(self, x: ll.Value, y: ll.Value) -> ll.Value:
        combined: Element = self.fold.combine(
            self.s, Element(x, self.dtype), Element(y, self.dtype)
        )
        return combined.value

    def merged(self, state: Sequence[ll.Value]) -> list[ll.Value]:
        """The states combined pairwise into one, where they all belong to one result."""
        values = list(state)
        while self.across and len(values) > 1:
            half = len(values) // 2
            pairs = [
                self._combine(x, y) for x, y in zip(values[:half], values[half:], strict=False)
            ]
            values = pairs + values[2 * half :]
        return values

    # The sum of runs.

    def slow_start(self) -> list[ll.Value]:
        """The state of the sum of runs."""
        if not self.slow:
            return self.start()
        totals = 1 if self.across else self.count
        per_total = 2 if self.dtype is float64 else 1
        return [constant(float64, 0.0, self.lanes)] * (totals * per_total)

    def flush(self, slow: Sequence[ll.Value], state: Sequence[ll.Value]) -> list[ll.Value]:
        """Add the run in `state` to the sum of runs."""
        b = self.s.b
        result: list[ll.Value] = []
        for number, value in enumerate(self.merged(state)):
            if self.dtype is float64:
                total, error = slow[2 * number], slow[2 * number + 1]
                added, lost = two_sum(Floats(b, total), Floats(b, value))
                result += [added.value, b.fadd(error, lost.value)]
            else:
                wide = b.fpext(value, with_lanes(F64, self.lanes))
                result.append(b.fadd(slow[number], wide))
        return result

    def finish(self, state: Sequence[ll.Value]) -> list[Element]:
        """The results: one scalar if lanes are combined, else one Element per state.

        Args:
            state: the sum of runs if they are summed apart, else the state.
        """
        b = self.s.b
        if not self.slow:
            values = self.merged(state)
            if self.across:
                values = [self._across(values[0])]
        elif self.dtype is float64:
            totals, errors = list(state[0::2]), list(state[1::2])
            if self.across:
                totals, errors = [totals[0]], [errors[0]]
                while lanes_of(totals[0].type) > 1:
                    low, high = self._halves(totals[0])
                    added, lost = two_sum(Floats(b, low), Floats(b, high))
                    left, right = self._halves(errors[0])
                    totals, errors = [added.value], [b.fadd(b.fadd(left, right), lost.value)]
            # An infinite total makes the error NaN.
            values = []
            for total, error in zip(totals, errors, strict=True):
                finite = b.fcmp_ordered("==", b.fsub(total, total), ll.Constant(total.type, None))
                values.append(b.select(finite, b.fadd(total, error), total))
        else:
            values = list(state)
            if self.across:
                value = values[0]
                while lanes_of(value.type) > 1:
                    value = b.fadd(*self._halves(value))
                values = [value]
            values = [b.fptrunc(value, with_lanes(F32, lanes_of(value.type))) for value in values]
        return [Element(value, self.dtype) for value in values]

    def _halves(self, value: ll.Value) -> tuple[ll.Value, ll.Value]:
        half = lanes_of(value.type) // 2
        if half == 1:
            return self.s.b.extract_element(value, I32(0)), self.s.b.extract_element(value, I32(1))
        low, high = (
            ll.Constant(ll.VectorType(I32, half), [I32(first + i) for i in range(half)])
            for first in (0, half)
        )
        return self.s.b.shuffle_vector(value, value, low), self.s.b.shuffle_vector(
            value, value, high
        )

    def _across(self, value: ll.Value) -> ll.Value:
        while lanes_of(value.type) > 1:
            value = self._combine(*self._halves(value))
        return value


def scan_start(scan: Extremum | Running, dtype: DType, lanes: int, count: int) -> list[ll.Value]:
    """What a scan carries at first: per vector what it has come to, or the extremum and its position."""
    if isinstance(scan, Running):
        return [constant(dtype, scan.start, lanes)] * count
    if dtype.is_floating:
        worst: float | int = float("-inf") if scan.greatest else float("inf")
    else:
        bits = 8 * dtype.itemsize
        lowest, highest = (
            (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype.is_signed else (0, (1 << bits) - 1)
        )
        worst = lowest if scan.greatest else highest
    return [constant(dtype, worst, lanes), constant(int64, 0, lanes)] * count


def scan_step(
    s: LLScalarBuilder,
    scan: Extremum | Running,
    state: Sequence[ll.Value],
    value: Element,
    position: Element,
) -> list[ll.Value]:
    """The state of one vector of a scan after one more element."""
    known = Element(state[0], value.dtype)
    if isinstance(scan, Running):
        return [scan.combine(s, known, value).value]
    better = s.gt(value, known) if scan.greatest else s.lt(value, known)
    if value.dtype.is_floating:
        better = s.bit_or(better, s.bit_and(s.ne(value, value), s.eq(known, known)))
    at = s.select(better, position, Element(state[1], int64))
    return [s.select(better, value, known).value, at.value]
