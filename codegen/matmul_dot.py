"""A matrix product by dot products: vectors along k of both factors, their lanes summed at the end.

The data structure is :class:`DotPlan`, which :mod:`.matmul` makes. Start reading at
:func:`emit_dot`. Good where both factors are contiguous along k and C is small or thin, as in a
matrix times a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ll

from ..ir.types import DType
from .engine import Host
from .ll_loops import for_range
from .ll_types import I32, I64
from .matmul_tiles import Operand, Piece, Store, Tiles, scratch
from .shuffles import sum_across


@dataclass(frozen=True, slots=True)
class DotPlan:
    """How to compute a product by dot products.

    Attributes:
        lanes: elements of a vector along k.
        rows, columns: the tile's extents; ``columns`` is a power of two, at most ``lanes``.
        transposed: whether the tile's rows are the columns of C.
        buffered: whether a tile is gathered in the buffer first.
    """

    lanes: int
    rows: int
    columns: int
    transposed: bool
    buffered: bool


def emit_dot(
    builder: ll.IRBuilder,
    dtype: DType,
    target: Host,
    plan: DotPlan,
    a: Operand,
    b: Operand,
    extents: tuple[int, int, int],
    store: Store,
) -> None:
    """Emit a product by dot products; both factors must be contiguous along k.

    Arguments as for :func:`emit_outer`; the extents are those of ``a``, ``b`` and k.
    """
    _Dot(builder, dtype, target, plan, a, b, extents, store).emit()


class _Dot(Tiles):
    def __init__(
        self,
        builder: ll.IRBuilder,
        dtype: DType,
        target: Host,
        plan: DotPlan,
        a: Operand,
        b: Operand,
        extents: tuple[int, int, int],
        store: Store,
    ) -> None:
        super().__init__(builder, dtype, target, store)
        self.plan = plan
        self.a = a
        self.b = b
        self.rows, self.columns, self.k = extents
        if plan.buffered:
            size = plan.rows * plan.columns * dtype.itemsize
            self.sums = scratch(builder, "sums", size)

    def emit(self) -> None:
        self.each_tile(
            self.columns,
            self.plan.columns,
            lambda column, columns: self.each_tile(
                self.rows,
                self.plan.rows,
                lambda row, rows: self._tile(row, rows, column, columns),
            ),
        )

    def _tile(self, row: ll.Value, rows: int, column: ll.Value, columns: int) -> None:
        b = self.builder
        width = 1 << (columns - 1).bit_length()
        sums = self._sums(row, rows, column, columns)
        finished = []
        for at in range(rows):
            across = sums[at * columns : (at + 1) * columns]
            across += [self.zero(self.plan.lanes)] * (width - columns)
            finished.append(sum_across(b, across, 16 // self.dtype.itemsize, self.add))
        if self.plan.buffered:
            for at, value in enumerate(finished):
                self.put(value, self.sums, at * width, width)
            if self.plan.transposed:
                with (
                    for_range(b, 0, rows, name="drain", unroll=False) as outer,
                    for_range(b, 0, columns, name="drain", unroll=False) as inner,
                ):
                    place = self.at(self.sums, (outer.index, width), (inner.index, 1))
                    c_row, c_column = b.add(column, inner.index), b.add(row, outer.index)
                    self.store(b, self.load(place, 0, 1), c_row, c_column, 1, 1)
            else:
                piece = Piece(0, width, columns)
                self.drain(self.sums, width, row, rows, column, [piece])
            return
        for at, value in enumerate(finished):
            place = self.plus(row, at)
            if not self.plan.transposed:
                self.store(b, value, place, column, width, columns)
                continue
            for lane in range(columns):
                element = b.extract_element(value, I32(lane)) if width > 1 else value
                self.store(b, element, self.plus(column, lane), place, 1, 1)

    def _sums(self, row: ll.Value, rows: int, column: ll.Value, columns: int) -> list[ll.Value]:
        """The tile's sums, row by row, still spread over the lanes."""
        lanes = self.plan.lanes
        a = self.at(self.a.pointer, (row, self.a.along))
        b = self.at(self.b.pointer, (column, self.b.along))

        def step(
            sums: list[ll.Value], index: ll.Value, ahead: int, active: int | None = None
        ) -> list[ll.Value]:
            a_at, b_at = self.at(a, (index, lanes)), self.at(b, (index, lanes))
            held = [
                self.load(a_at, ahead * lanes + at * self.a.along, lanes, active)
                for at in range(rows)
            ]
            for i in range(columns):
                vector = self.load(b_at, ahead * lanes + i * self.b.along, lanes, active)
                for at in range(rows):
                    j = at * columns + i
                    sums[j] = self.multiply_add(held[at], vector, sums[j])
            return sums

        turns, rest = divmod(self.k, lanes)
        sums = self.walk(turns, [self.zero(lanes)] * (rows * columns), step)
        if rest:
            sums = step(sums, I64(turns), 0, rest)
        return sums
