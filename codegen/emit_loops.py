"""Emitting a LoopKernel: its loops, with vectors along one axis and reductions innermost.

Start reading at :func:`emit_loops`. The loops that are kept stand outside, those that are reduced
inside. Along the axis of the vectors there are up to three pieces of code: a loop over several
vectors at once, the whole vectors that are left, and the last, partial vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import llvmlite.ir as ll

from ..ir.types import int64
from .accumulators import Accumulator, scan_start, scan_step
from .emit_body import Body, Point, Values
from .engine import Host
from .kernel import Buffer, LoopKernel, Running, Store
from .ll_loops import Loop, for_range
from .ll_scalar import Element
from .ll_types import I64
from .loop_order import choose_order

# A run of a sum: so many additions, at most, to each accumulator before it is added up more
# precisely.
_RUN = 64

# Vectors side by side: enough independent work for a light body, little code for a heavy one.
_SIDE_BY_SIDE = ((8, 4), (20, 2))
_STRAIGHT_WEIGHT = 60


class _Stretch(NamedTuple):
    """A part of the vectors' axis that one piece of code does."""

    start: int
    stop: int
    vectors: int
    active: int


def emit_loops(
    builder: ll.IRBuilder, host: Host, kernel: LoopKernel, pointers: Callable[[Buffer], ll.Value]
) -> None:
    """Emit a kernel.

    Args:
        builder: where to emit.
        host: the CPU.
        kernel: what to emit.
        pointers: the memory of a buffer.
    """
    _Loops(builder, host, kernel, pointers).emit()


class _Loops:
    def __init__(
        self,
        builder: ll.IRBuilder,
        host: Host,
        kernel: LoopKernel,
        pointers: Callable[[Buffer], ll.Value],
    ) -> None:
        self.b = builder
        self.kernel = kernel
        self.order = choose_order(kernel, host)
        self.body = Body(builder, host, kernel, self.order, pointers)
        self.depth = len(self.order.extents)
        self.stretches = self._cut()
        self.folding = bool(kernel.folds) or kernel.scan is not None
        self.across = self.order.vector >= self.order.first_reduced
        self.split, self.chunk = self._choose_runs()

    def _cut(self) -> list[_Stretch]:
        """The stretches of the vectors' axis."""
        order = self.order
        if order.vector < 0:
            return []
        extent, lanes = order.extents[order.vector], order.lanes
        whole, rest = divmod(extent, lanes)
        count = next((n for limit, n in _SIDE_BY_SIDE if order.weight <= limit), 1)
        if self.kernel.ordered:
            count = 1
        if whole <= 4 and whole * order.weight <= _STRAIGHT_WEIGHT:
            count = max(whole, 1)
        while count > max(whole, 1):
            count //= 2
        stretches = []
        done = whole // count * count * lanes
        if done:
            stretches.append(_Stretch(0, done, count, lanes))
        left = whole % count
        if left:
            stretches.append(_Stretch(done, whole * lanes, left, lanes))
        if rest:
            stretches.append(_Stretch(whole * lanes, extent, 1, rest))
        return stretches

    def _choose_runs(self) -> tuple[int, int]:
        """Which reduced loop is cut into runs, and into how many turns; -1 if all is one run."""
        if not any(fold.compensated for fold in self.kernel.folds):
            return -1, 0
        product = 1
        for position in range(self.depth - 1, self.order.first_reduced - 1, -1):
            turns = self.order.extents[position]
            if position == self.order.vector:
                turns = -(-turns // (self.order.lanes * self.stretches[0].vectors))
            if product * turns > _RUN:
                return position, max(1, _RUN // product)
            product *= turns
        return -1, 0

    def emit(self) -> None:
        point = Point((None,) * self.depth)
        self._enter(0, point, {})

    def _enter(self, position: int, point: Point, values: dict[int, Values]) -> None:
        """Emit what stands inside of the first `position` loops."""
        self.body.emit_depth(position, point, values)
        if self.folding and position == self.order.first_reduced:
            self._emit_reduction(position, point, values)
        elif position == self.depth:
            self.body.emit_stores(point, values)
        elif position == self.order.vector:
            for stretch in self.stretches:
                step = stretch.vectors * self.order.lanes
                inner = point.vectors(self.order.lanes, stretch.vectors, stretch.active)
                with self._loop(stretch.start, stretch.stop, step) as loop:
                    self._enter(position + 1, inner.entered(position, loop.index), values)
        else:
            with for_range(self.b, 0, self.order.extents[position]) as loop:
                self._enter(position + 1, point.entered(position, loop.index), values)

    def _loop(
        self,
        start: int | ll.Value,
        stop: int | ll.Value,
        step: int,
        carried: Sequence[ll.Value] = (),
    ) -> AbstractContextManager[Loop]:
        few = isinstance(start, int) and isinstance(stop, int) and (stop - start) <= 4 * step
        return for_range(self.b, start, stop, step, carried=carried, unroll=None if few else False)

    # Reductions and scans.

    def _emit_reduction(self, position: int, point: Point, values: dict[int, Values]) -> None:
        if self.kernel.scan is not None:
            self._emit_scan(position, point, values)
            return
        count, lanes = point.count, point.lanes
        if self.across:
            count, lanes = max(stretch.vectors for stretch in self.stretches), self.order.lanes
        accumulators = []
        for fold in self.kernel.folds:
            dtype = self.kernel.instructions[fold.value].dtype
            accumulators.append(
                Accumulator(
                    self.body.s, fold, dtype, count, lanes, across=self.across, slow=self.split >= 0
                )
            )
        self.accumulators = accumulators
        slow = self.split >= 0
        states = [a.slow_start() if slow else a.start() for a in accumulators]
        states = self._reduce(position, point, values, states)
        for accumulator, state in zip(accumulators, states, strict=True):
            fold = accumulator.fold
            results = accumulator.finish(state)
            at = Point(point.variables) if self.across else point
            self.body.emit_store(Store(fold.value, fold.buffer, fold.offset), results, at, values)

    def _reduce(
        self,
        position: int,
        point: Point,
        values: dict[int, Values],
        states: list[list[ll.Value]],
    ) -> list[list[ll.Value]]:
        """The states after the loops from `position` on; the instructions before it are emitted."""
        if position == self.depth:
            self.body.emit_stores(point, values)
            return [
                a.step(state, self._folded(values[a.fold.value], point.count), point.active)
                for a, state in zip(self.accumulators, states, strict=True)
            ]
        if position == self.order.vector:
            for stretch in self.stretches:
                inner = point.vectors(self.order.lanes, stretch.vectors, stretch.active)
                step = stretch.vectors * self.order.lanes
                if position == self.split and stretch.stop - stretch.start > step:
                    states = self._reduce_in_runs(
                        position, inner, values, states, stretch.start, stretch.stop, step
                    )
                elif position == self.split:
                    fast = self._turn(
                        position,
                        inner,
                        values,
                        self._fresh(states),
                        stretch.start,
                        stretch.stop,
                        step,
                    )
                    states = self._flushed(states, fast)
                else:
                    states = self._turn(
                        position, inner, values, states, stretch.start, stretch.stop, step
                    )
            return states
        extent = self.order.extents[position]
        if position == self.split:
            return self._reduce_in_runs(position, point, values, states, 0, extent, 1)
        return self._turn(position, point, values, states, 0, extent, 1)

    def _folded(self, value: Values, count: int) -> Values:
        return value if len(value) == count else value * count

    def _turn(
        self,
        position: int,
        point: Point,
        values: dict[int, Values],
        states: list[list[ll.Value]],
        start: int | ll.Value,
        stop: int | ll.Value,
        step: int,
    ) -> list[list[ll.Value]]:
        """The states after a loop at `position`."""
        flat = [value for state in states for value in state]
        with self._loop(start, stop, step, flat) as loop:
            inner = point.entered(position, loop.index)
            found = self._unflatten(loop.values, states)
            self.body.emit_depth(position + 1, inner, values)
            found = self._reduce(position + 1, inner, values, found)
            loop.yield_(*[value for state in found for value in state])
        return self._unflatten(loop.results, states)

    @staticmethod
    def _unflatten(values: Sequence[ll.Value], like: list[list[ll.Value]]) -> list[list[ll.Value]]:
        remaining = iter(values)
        return [[next(remaining) for _ in state] for state in like]

    def _reduce_in_runs(
        self,
        position: int,
        point: Point,
        values: dict[int, Values],
        states: list[list[ll.Value]],
        start: int,
        stop: int,
        step: int,
    ) -> list[list[ll.Value]]:
        """A reduced loop in runs of `chunk` turns; `states` are sums of runs."""
        run = self.chunk * step
        flat = [value for state in states for value in state]
        with for_range(self.b, start, stop, run, carried=flat, unroll=False) as outer:
            found = self._unflatten(outer.values, states)
            end = self.b.add(outer.index, I64(run), flags=("nsw",))
            if (stop - start) % run:
                below = self.b.icmp_signed("<", end, I64(stop))
                end = self.b.select(below, end, I64(stop))
            fast = self._turn(position, point, values, self._fresh(found), outer.index, end, step)
            found = self._flushed(found, fast)
            outer.yield_(*[value for state in found for value in state])
        return self._unflatten(outer.results, states)

    def _fresh(self, states: list[list[ll.Value]]) -> list[list[ll.Value]]:
        """The states at the start of a run: sums start anew, other folds just go on."""
        return [
            a.start() if a.slow else state
            for a, state in zip(self.accumulators, states, strict=True)
        ]

    def _flushed(
        self, states: list[list[ll.Value]], fast: list[list[ll.Value]]
    ) -> list[list[ll.Value]]:
        """The states after a run that ended with `fast`."""
        return [
            a.flush(state, new) if a.slow else new
            for a, state, new in zip(self.accumulators, states, fast, strict=True)
        ]

    def _emit_scan(self, position: int, point: Point, values: dict[int, Values]) -> None:
        scan = self.kernel.scan
        assert scan is not None
        dtype = self.kernel.instructions[scan.value].dtype
        start = scan_start(scan, dtype, point.lanes, point.count)
        width = len(start) // point.count
        with for_range(self.b, 0, self.order.extents[position], carried=start) as loop:
            inner = point.entered(position, loop.index)
            self.body.emit_depth(position + 1, inner, values)
            found = self._folded(values[scan.value], point.count)
            after: list[ll.Value] = []
            for u, element in enumerate(found):
                state = loop.values[u * width : (u + 1) * width]
                wide = self.body.s.spread(element, point.lanes)
                after += scan_step(self.body.s, scan, state, wide, Element(loop.index, int64))
            if isinstance(scan, Running):
                states = [Element(value, dtype) for value in after]
                store = Store(scan.value, scan.buffer, scan.offset)
                self.body.emit_store(store, states, inner, values)
            loop.yield_(*after)
        if not isinstance(scan, Running):
            store = Store(scan.value, scan.buffer, scan.offset)
            positions = [Element(value, int64) for value in loop.results[1::2]]
            self.body.emit_store(store, positions, point, values)
