"""A matrix product by outer products: one factor broadcast, the other read in vectors.

The data structure is :class:`OuterPlan`, which :mod:`.matmul` makes. Start reading at
:func:`emit_outer`. A tile of C is kept in registers, some broadcast elements by some vectors,
while it walks along k. Around it, k is cut into blocks, such that the panel of the vector operand
stays in the first level cache while all tiles use it; the sums of the blocks are added up in a
buffer on the stack. Where the vectors run along the columns of C, the buffer is transposed before
it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import llvmlite.ir as ll

from ..ir.types import DType
from .engine import Host
from .ll_loops import for_range, splat
from .ll_types import I64
from .matmul_tiles import (
    Expect,
    Operand,
    Piece,
    Store,
    Tiles,
    cut_into_pieces,
    round_up,
    scratch,
    width_of,
)
from .shuffles import transpose


@dataclass(frozen=True, slots=True)
class OuterPlan:
    """How to compute a product by outer products.

    Attributes:
        lanes: elements of a full vector.
        vectors: vectors across a panel.
        rows: broadcast elements of a tile, in full panels.
        rest_rows: the same, in the last, narrower panel.
        depth: extent along k of a block.
        block: how many broadcast elements the buffer has room for.
        pack: whether the vector operand is copied, panel by panel.
        transposed: whether vectors run along the columns of C rather than along its rows.
        buffered: whether C is gathered in the buffer first.
    """

    lanes: int
    vectors: int
    rows: int
    rest_rows: int
    depth: int
    block: int
    pack: bool
    transposed: bool
    buffered: bool


def emit_outer(
    builder: ll.IRBuilder,
    dtype: DType,
    target: Host,
    plan: OuterPlan,
    broadcast: Operand,
    vector: Operand,
    extents: tuple[int, int, int],
    store: Store,
    expect: Expect | None = None,
) -> None:
    """Emit a product by outer products.

    Args:
        builder: where to emit.
        dtype: element type of all three matrices.
        target: the CPU.
        plan: the tiles.
        broadcast, vector: the factor that is broadcast, and the one read in vectors.
        extents: extent of the broadcast factor, of the vector factor, and k.
        store: takes the finished pieces of C.
        expect: is told which piece of C a tile will store, before it is computed.
    """
    _Outer(builder, dtype, target, plan, broadcast, vector, extents, store, expect).emit()


class _Panel(NamedTuple):
    """Where the tiles of one panel read their vectors."""

    pointer: ll.Value
    depth: int
    packed: bool


class _Outer(Tiles):
    def __init__(
        self,
        builder: ll.IRBuilder,
        dtype: DType,
        target: Host,
        plan: OuterPlan,
        broadcast: Operand,
        vector: Operand,
        extents: tuple[int, int, int],
        store: Store,
        expect: Expect | None,
    ) -> None:
        super().__init__(builder, dtype, target, store)
        self.expect = expect
        self.plan = plan
        self.broadcast = broadcast
        self.vector = vector
        self.extent, self.width, self.k = extents
        panel = min(plan.vectors * plan.lanes, round_up(self.width, plan.lanes))
        if plan.pack:
            self.packed = scratch(builder, "packed", panel * plan.depth * dtype.itemsize)
        if plan.buffered:
            size = panel * round_up(plan.block, plan.lanes) * dtype.itemsize
            self.sums = scratch(builder, "sums", size)
            if plan.transposed:
                self.turned = scratch(builder, "turned", size)

    def emit(self) -> None:
        plan = self.plan
        panel = plan.vectors * plan.lanes
        whole = self.width - self.width % panel
        if whole:
            with for_range(self.builder, 0, whole, panel, name="panel", unroll=False) as loop:
                self._panel(loop.index, cut_into_pieces(panel, plan.lanes), plan.rows)
        if whole < self.width:
            rest = cut_into_pieces(self.width - whole, plan.lanes)
            self._panel(I64(whole), rest, plan.rest_rows)

    def _panel(self, start: ll.Value, pieces: tuple[Piece, ...], rows: int) -> None:
        if self.plan.buffered:
            self.each_tile(
                self.extent,
                self.plan.block,
                lambda first, size: self._buffered_block(start, pieces, rows, first, size),
            )
            return
        panel = self._open_panel(start, pieces, I64(0), self.k)

        def tile(first: ll.Value, size: int) -> None:
            b = self.builder
            if self.expect is not None:
                for row in range(size):
                    self.expect(b, self.plus(first, row), start, width_of(pieces))
            sums = iter(self._tile(panel, pieces, first, size, I64(0), self.k))
            for row in range(size):
                for piece in pieces:
                    column = self.plus(start, piece.offset)
                    self.store(
                        b, next(sums), self.plus(first, row), column, piece.lanes, piece.active
                    )

        self.each_tile(self.extent, rows, tile)

    def _buffered_block(
        self,
        start: ll.Value,
        pieces: tuple[Piece, ...],
        rows: int,
        first: ll.Value,
        size: int,
    ) -> None:
        stride = width_of(pieces)
        several = self.k > self.plan.depth
        if several:
            with for_range(self.builder, 0, size, name="clear", unroll=False) as loop:
                row = self.at(self.sums, (loop.index, stride))
                for piece in pieces:
                    self.put(self.zero(piece.lanes), row, piece.offset, piece.lanes)

        def block(k: ll.Value, depth: int) -> None:
            panel = self._open_panel(start, pieces, k, depth)

            def tile(inner: ll.Value, tile_rows: int) -> None:
                place = self.builder.add(first, inner)
                sums = iter(self._tile(panel, pieces, place, tile_rows, k, depth))
                for row in range(tile_rows):
                    into = self.at(self.sums, (inner, stride))
                    for piece in pieces:
                        offset = row * stride + piece.offset
                        value = next(sums)
                        if several:
                            value = self.add(self.load(into, offset, piece.lanes), value)
                        self.put(value, into, offset, piece.lanes)

            self.each_tile(size, rows, tile)

        if several:
            self.each_tile(self.k, self.plan.depth, block)
        else:
            block(I64(0), self.k)
        active = sum(piece.active for piece in pieces)
        if self.plan.transposed:
            columns = cut_into_pieces(size, self.plan.lanes)
            self._turn(pieces, columns)
            self.drain(self.turned, width_of(columns), start, active, first, columns)
        else:
            self.drain(self.sums, stride, first, size, start, pieces)

    def _turn(self, pieces: tuple[Piece, ...], columns: tuple[Piece, ...]) -> None:
        """Transpose the buffer of sums."""
        from_stride, to_stride = width_of(pieces), width_of(columns)

        def turn(offset: ll.Value, lanes: int, active: int) -> None:
            def square(column: ll.Value, width: int, filled: int) -> None:
                source = self.at(self.sums, (column, from_stride), (offset, 1))
                rows = [
                    self.load(source, row * from_stride, lanes)
                    if row < filled
                    else self.zero(lanes)
                    for row in range(width)
                ]
                into = self.at(self.turned, (offset, to_stride), (column, 1))
                turned = transpose(self.builder, rows, 16 // self.dtype.itemsize)
                for row in range(active):
                    self.put(turned[row], into, row * to_stride, width)

            self.each_piece(columns, square)

        self.each_piece(pieces, turn)

    def _open_panel(
        self, start: ll.Value, pieces: tuple[Piece, ...], k: ll.Value, depth: int
    ) -> _Panel:
        """Say where the vectors of a block are, after packing them if that is planned."""
        vector = self.vector
        source = self.at(vector.pointer, (start, vector.along), (k, vector.depth))
        if not self.plan.pack:
            return _Panel(source, vector.depth, packed=False)
        stride = width_of(pieces)
        if vector.along == 1:
            self._pack_rows(source, pieces, depth, stride)
        elif vector.depth == 1 and self.plan.lanes > 1:
            self._pack_transposed(source, pieces, depth, stride)
        else:
            self._pack_elements(source, pieces, depth, stride)
        return _Panel(self.packed, stride, packed=True)

    def _pack_rows(
        self, source: ll.Value, pieces: tuple[Piece, ...], depth: int, stride: int
    ) -> None:
        with for_range(self.builder, 0, depth, name="pack", unroll=False) as loop:
            row = self.at(source, (loop.index, self.vector.depth))
            into = self.at(self.packed, (loop.index, stride))
            for piece in pieces:
                value = self.load(row, piece.offset, piece.lanes, piece.active)
                self.put(value, into, piece.offset, piece.lanes)

    def _pack_transposed(
        self, source: ll.Value, pieces: tuple[Piece, ...], depth: int, stride: int
    ) -> None:
        def pack(offset: ll.Value, lanes: int, active: int) -> None:
            def square(k: ll.Value, width: int, filled: int) -> None:
                corner = self.at(source, (offset, self.vector.along), (k, 1))
                rows = [
                    self.load(corner, row * self.vector.along, width, filled)
                    if row < active
                    else self.zero(width)
                    for row in range(lanes)
                ]
                into = self.at(self.packed, (k, stride), (offset, 1))
                turned = transpose(self.builder, rows, 16 // self.dtype.itemsize)
                for row in range(filled):
                    self.put(turned[row], into, row * stride, lanes)

            self.each_piece(cut_into_pieces(depth, self.plan.lanes), square)

        self.each_piece(pieces, pack)

    def _pack_elements(
        self, source: ll.Value, pieces: tuple[Piece, ...], depth: int, stride: int
    ) -> None:
        last = pieces[-1]
        active = last.offset + last.active
        with for_range(self.builder, 0, depth, name="pack", unroll=False) as loop:
            row = self.at(source, (loop.index, self.vector.depth))
            into = self.at(self.packed, (loop.index, stride))
            if last.active < last.lanes:
                self.put(self.zero(last.lanes), into, last.offset, last.lanes)
            with for_range(self.builder, 0, active, name="element", unroll=False) as element:
                value = self.load(self.at(row, (element.index, self.vector.along)), 0, 1)
                self.put(value, self.at(into, (element.index, 1)), 0, 1)

    def _tile(
        self,
        panel: _Panel,
        pieces: tuple[Piece, ...],
        first: ll.Value,
        rows: int,
        k: ll.Value,
        depth: int,
    ) -> list[ll.Value]:
        """The sums over one block of a tile, row by row."""
        b = self.builder
        broadcast = self.broadcast
        corner = self.at(broadcast.pointer, (first, broadcast.along), (k, broadcast.depth))

        def step(sums: list[ll.Value], index: ll.Value, ahead: int) -> list[ll.Value]:
            column = self.at(corner, (index, broadcast.depth))
            row = self.at(panel.pointer, (index, panel.depth))

            def vector_of(piece: Piece) -> ll.Value:
                active = None if panel.packed else piece.active
                return self.load(row, ahead * panel.depth + piece.offset, piece.lanes, active)

            def element_of(at: int) -> ll.Value:
                offset = ahead * broadcast.depth + at * broadcast.along
                return self.load(column, offset, 1)

            # The order that needs the fewest registers: hold the shorter side of the tile.
            if len(pieces) <= rows:
                vectors = [vector_of(piece) for piece in pieces]
                for at in range(rows):
                    element = element_of(at)
                    for i, piece in enumerate(pieces):
                        j = at * len(pieces) + i
                        factor = splat(b, element, piece.lanes)
                        sums[j] = self.multiply_add(factor, vectors[i], sums[j])
            else:
                elements = [element_of(at) for at in range(rows)]
                for i, piece in enumerate(pieces):
                    vector = vector_of(piece)
                    for at, element in enumerate(elements):
                        j = at * len(pieces) + i
                        factor = splat(b, element, piece.lanes)
                        sums[j] = self.multiply_add(factor, vector, sums[j])
            return sums

        zeros = [self.zero(piece.lanes) for _ in range(rows) for piece in pieces]
        return self.walk(depth, zeros, step)
