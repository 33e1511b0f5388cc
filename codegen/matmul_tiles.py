"""The loops of a matrix product: register tiles, packed panels, partial sums.

The data structures are the plans, :class:`OuterPlan` and :class:`DotPlan`, which :mod:`.matmul`
makes and the emitters here follow. Start reading at :func:`emit_outer`.

An outer product keeps a tile of C in registers, some broadcast elements by some vectors, and walks
along k. Around it, k is cut into blocks, such that the panel of the vector operand stays in the
first level cache while all tiles use it; the sums of the blocks are added up in a buffer on the
stack. A dot product tile has vectors along k, and sums across lanes at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import llvmlite.ir as ll

from ..ir.types import DType
from .engine import Host
from .ll_loops import Index, element_pointer, for_range, intrinsic, load_vector, splat, store_vector
from .ll_types import I8, I32, I64, POINTER, constant

Store = Callable[[ll.IRBuilder, ll.Value, ll.Value, ll.Value, int, int], None]

# Fused multiply-adds in flight that keep two units of latency four busy.
_CHAINS = 8

# Multiply-adds per turn of an innermost loop: enough to hide the loop, little to compile.
_UNROLLED = 12


class Operand(NamedTuple):
    """One factor: its memory, and its strides, in elements, along its own extent and along k."""

    pointer: ll.Value
    along: int
    depth: int


class Piece(NamedTuple):
    """A vector's place in a row: ``active`` elements from ``offset`` on, in ``lanes`` lanes."""

    offset: int
    lanes: int
    active: int


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


def cut_into_pieces(extent: int, lanes: int) -> tuple[Piece, ...]:
    """Vectors that cover ``extent`` elements: full ones, then one just wide enough."""
    full = extent - extent % lanes
    pieces = [Piece(offset, lanes, lanes) for offset in range(0, full, lanes)]
    if full < extent:
        rest = extent - full
        pieces.append(Piece(full, 1 << (rest - 1).bit_length(), rest))
    return tuple(pieces)


def emit_outer(
    builder: ll.IRBuilder,
    dtype: DType,
    target: Host,
    plan: OuterPlan,
    broadcast: Operand,
    vector: Operand,
    extents: tuple[int, int, int],
    store: Store,
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
    """
    _Outer(builder, dtype, target, plan, broadcast, vector, extents, store).emit()


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


class _Tiles:
    """What both kinds of product have in common: arithmetic, and loops over tiles."""

    def __init__(self, builder: ll.IRBuilder, dtype: DType, target: Host, store: Store) -> None:
        self.builder = builder
        self.dtype = dtype
        self.fused = dtype.is_floating and target.has_fma
        self.store = store

    def zero(self, lanes: int) -> ll.Value:
        return constant(self.dtype, 0, lanes)

    def add(self, x: ll.Value, y: ll.Value) -> ll.Value:
        b = self.builder
        return b.fadd(x, y) if self.dtype.is_floating else b.add(x, y)

    def multiply_add(self, x: ll.Value, y: ll.Value, z: ll.Value) -> ll.Value:
        b = self.builder
        if self.fused:
            return b.call(intrinsic(b.module, "llvm.fma", x.type, 3), [x, y, z])
        if self.dtype.is_floating:
            return b.fadd(b.fmul(x, y), z)
        return b.add(b.mul(x, y), z)

    def at(self, pointer: ll.Value, *terms: tuple[ll.Value, int]) -> ll.Value:
        """``pointer`` moved by the sum of index times stride."""
        b = self.builder
        known = 0
        for index, stride in terms:
            if isinstance(index, ll.Constant):
                known += index.constant * stride
            elif stride:
                offset = index if stride == 1 else b.mul(index, I64(stride))
                pointer = element_pointer(b, pointer, self.dtype, offset)
        return element_pointer(b, pointer, self.dtype, known)

    def plus(self, index: ll.Value, more: int) -> ll.Value:
        return self.builder.add(index, I64(more)) if more else index

    def load(
        self, pointer: ll.Value, offset: int, lanes: int, active: Index | None = None
    ) -> ll.Value:
        b = self.builder
        return load_vector(
            b, element_pointer(b, pointer, self.dtype, offset), self.dtype, lanes, active
        )

    def put(self, value: ll.Value, pointer: ll.Value, offset: int, lanes: int) -> None:
        b = self.builder
        store_vector(b, value, element_pointer(b, pointer, self.dtype, offset), self.dtype, lanes)

    def each_tile(self, extent: int, size: int, body: Callable[[ll.Value, int], None]) -> None:
        """Call ``body(start, size)`` in a loop over full tiles, and once more for the rest."""
        full = extent - extent % size
        if full:
            with for_range(self.builder, 0, full, size, name="tile", unroll=False) as loop:
                body(loop.index, size)
        if full < extent:
            body(I64(full), extent - full)

    def each_piece(
        self, pieces: Sequence[Piece], body: Callable[[ll.Value, int, int], None]
    ) -> None:
        """Call ``body(offset, lanes, active)`` in a loop over full vectors, and for the last."""
        lanes = pieces[0].lanes
        full = sum(piece.active == lanes for piece in pieces)
        if full:
            with for_range(self.builder, 0, full * lanes, lanes, "piece", unroll=False) as loop:
                body(loop.index, lanes, lanes)
        for piece in pieces[full:]:
            body(I64(piece.offset), piece.lanes, piece.active)

    def drain(
        self,
        buffer: ll.Value,
        stride: int,
        row: ll.Value,
        rows: int,
        column: ll.Value,
        pieces: Sequence[Piece],
    ) -> None:
        """Hand a finished block of C to ``store``, row by row."""
        b = self.builder
        with for_range(b, 0, rows, name="drain", unroll=False) as loop:

            def hand_over(offset: ll.Value, lanes: int, active: int) -> None:
                source = self.at(buffer, (loop.index, stride), (offset, 1))
                value = self.load(source, 0, lanes)
                self.store(b, value, b.add(row, loop.index), b.add(column, offset), lanes, active)

            self.each_piece(pieces, hand_over)

    def chains(self, accumulators: int, turns: int) -> int:
        """How many sets of accumulators it takes to keep the units busy."""
        sets = 1
        while accumulators * sets < _CHAINS and turns >= 4 * sets:
            sets *= 2
        return sets

    def sum_sets(self, sets: list[list[ll.Value]]) -> list[ll.Value]:
        while len(sets) > 1:
            sets = [
                [self.add(x, y) for x, y in zip(first, second, strict=True)]
                for first, second in zip(sets[::2], sets[1::2], strict=True)
            ]
        return sets[0]

    def walk(
        self,
        turns: int,
        accumulators: Sequence[ll.Value],
        step: Callable[[list[ll.Value], ll.Value, int], list[ll.Value]],
    ) -> list[ll.Value]:
        """Emit ``turns`` steps along k.

        ``step(accumulators, index, ahead)`` does turn ``index + ahead``.
        """
        count = len(accumulators)
        sets = self.chains(count, turns)
        unroll = sets * max(1, _UNROLLED // (count * sets))
        if turns * count <= 2 * _UNROLLED:
            unroll = max(turns, 1)
        while unroll > sets and turns % unroll > turns // 4:
            unroll -= sets
        whole = turns - turns % unroll

        def take_steps(flat: list[ll.Value], index: ll.Value, steps: int) -> list[ll.Value]:
            for ahead in range(steps):
                at = ahead % sets * count
                flat[at : at + count] = step(flat[at : at + count], index, ahead)
            return flat

        flat = [*accumulators] * sets
        if whole:
            with for_range(self.builder, 0, whole, unroll, "k", flat, unroll=False) as loop:
                loop.yield_(*take_steps(list(loop.values), loop.index, unroll))
            flat = list(loop.results)
        flat = take_steps(flat, I64(whole), turns - whole)
        return self.sum_sets([flat[at : at + count] for at in range(0, len(flat), count)])


class _Panel(NamedTuple):
    """Where the tiles of one panel read their vectors."""

    pointer: ll.Value
    depth: int
    packed: bool


class _Outer(_Tiles):
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
    ) -> None:
        super().__init__(builder, dtype, target, store)
        self.plan = plan
        self.broadcast = broadcast
        self.vector = vector
        self.extent, self.width, self.k = extents
        panel = min(plan.vectors * plan.lanes, _round_up(self.width, plan.lanes))
        if plan.pack:
            self.packed = scratch(builder, "packed", panel * plan.depth * dtype.itemsize)
        if plan.buffered:
            size = panel * _round_up(plan.block, plan.lanes) * dtype.itemsize
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
        stride = _width_of(pieces)
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
            self.drain(self.turned, _width_of(columns), start, active, first, columns)
        else:
            self.drain(self.sums, stride, first, size, start, pieces)

    def _turn(self, pieces: tuple[Piece, ...], columns: tuple[Piece, ...]) -> None:
        """Transpose the buffer of sums."""
        from_stride, to_stride = _width_of(pieces), _width_of(columns)

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
        stride = _width_of(pieces)
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


class _Dot(_Tiles):
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
            finished.append(self._sum_across(across))
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

    def _sum_across(self, vectors: list[ll.Value]) -> ll.Value:
        """The sums of each vector's lanes, as one vector of as many lanes as there are vectors.

        Neighbouring lanes are added first, inside 128 bits, where shuffles are cheapest.
        """
        b = self.builder
        count, lanes = len(vectors), self.plan.lanes
        local = min(16 // self.dtype.itemsize, lanes)
        # Beside each vector: which of the sums each of its lanes is a part of.
        parts = [(vector, [i] * lanes) for i, vector in enumerate(vectors)]

        def combine(
            x: tuple[ll.Value, list[int]],
            y: tuple[ll.Value, list[int]],
            first: list[int],
            second: list[int],
        ) -> tuple[ll.Value, list[int]]:
            labels = x[1] + y[1]
            value = self.add(_shuffle(b, x[0], y[0], first), _shuffle(b, x[0], y[0], second))
            return value, [labels[i] for i in first]

        while len(parts) > 1:
            group = parts[0][1][:local]
            if len(set(group)) < len(group):  # neighbours in 128 bits belong together
                half = local // 2
                first = [
                    base + side + 2 * i
                    for base in range(0, lanes, local)
                    for side in (0, lanes)
                    for i in range(half)
                ]
                second = [i + 1 for i in first]
            else:
                halves = [_halves(labels) for _, labels in parts[:2]]
                first = halves[0][0] + [lanes + lane for lane in halves[1][0]]
                second = halves[0][1] + [lanes + lane for lane in halves[1][1]]
            parts = [
                combine(parts[i], parts[i + 1], first, second) for i in range(0, len(parts), 2)
            ]
        value, labels = parts[0]
        while len(labels) > count:
            value, labels = combine((value, labels), (value, labels), *_halves(labels))
        if count == 1:
            return value
        return _shuffle(b, value, value, [labels.index(i) for i in range(count)])


def transpose(builder: ll.IRBuilder, rows: list[ll.Value], local: int) -> list[ll.Value]:
    """Transpose a matrix held in registers; extents must be powers of two.

    Args:
        builder: where to emit.
        rows: the rows, all vectors of one width (or scalars).
        local: elements in 128 bits, inside which shuffles are cheapest.
    """
    height = len(rows)
    width = rows[0].type.count if isinstance(rows[0].type, ll.VectorType) else 1
    size = max(height, width)
    if size == 1:
        return rows
    rows = [_resize(builder, row, width, size) for row in rows]
    rows += [ll.Constant(rows[0].type, ll.Undefined)] * (size - height)
    local = min(local, size)
    # First the squares inside 128 bits: each round interleaves rows that are half a square apart.
    for base in range(0, size, local):
        square = rows[base : base + local]
        for _ in range(local.bit_length() - 1):
            zipped = []
            for i in range(local // 2):
                for side in (0, local // 2):
                    mask = [
                        part + side + j + other
                        for part in range(0, size, local)
                        for j in range(local // 2)
                        for other in (0, size)
                    ]
                    zipped.append(_shuffle(builder, square[i], square[i + local // 2], mask))
            square = zipped
        rows[base : base + local] = square
    # Then the squares themselves: exchange halves, quarters, and so on.
    span = size // 2
    while span >= local:
        for i in range(size):
            if not i & span:
                x, y = rows[i], rows[i + span]
                low = [j if not j & span else size + j - span for j in range(size)]
                high = [j + span if not j & span else size + j for j in range(size)]
                rows[i] = _shuffle(builder, x, y, low)
                rows[i + span] = _shuffle(builder, x, y, high)
        span //= 2
    return [_resize(builder, row, size, height) for row in rows[:width]]


def scratch(builder: ll.IRBuilder, name: str, size: int) -> ll.Value:
    """A buffer of at least ``size`` bytes on the stack, the same for all products in a function."""
    name = f"matmul.{name}"
    for instruction in builder.function.entry_basic_block.instructions:
        if isinstance(instruction, ll.AllocaInstr) and instruction.name == name:
            if instruction.operands[0].constant < size:
                instruction.operands[0] = I64(size)
            return instruction
    with builder.goto_entry_block():
        buffer = builder.alloca(I8, I64(size), name=name)
        buffer.align = 64
        buffer.type = POINTER  # llvmlite would make it a pointer to i8, and check stores against it
    return buffer


def _shuffle(builder: ll.IRBuilder, x: ll.Value, y: ll.Value, lanes: list[int]) -> ll.Value:
    if len(lanes) == 1:
        width = x.type.count
        return builder.extract_element(x if lanes[0] < width else y, I32(lanes[0] % width))
    mask = ll.Constant(ll.VectorType(I32, len(lanes)), [I32(lane) for lane in lanes])
    return builder.shuffle_vector(x, y, mask)


def _resize(builder: ll.IRBuilder, value: ll.Value, width: int, size: int) -> ll.Value:
    # Widen with undefined lanes, or keep the first ones.
    if width == size:
        return value
    if width == 1:
        undefined = ll.Constant(ll.VectorType(value.type, size), ll.Undefined)
        return builder.insert_element(undefined, value, I32(0))
    return _shuffle(builder, value, value, [min(lane, width) for lane in range(size)])


def _halves(labels: list[int]) -> tuple[list[int], list[int]]:
    """Split lanes in two such that both halves have the same labels in the same order."""
    places: dict[int, list[int]] = {}
    for lane, label in enumerate(labels):
        places.setdefault(label, []).append(lane)
    partner = {}
    for lanes in places.values():
        half = len(lanes) // 2
        partner.update(zip(lanes[:half], lanes[half:], strict=True))
    first = sorted(partner)
    return first, [partner[lane] for lane in first]


def _width_of(pieces: Sequence[Piece]) -> int:
    return pieces[-1].offset + pieces[-1].lanes


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
