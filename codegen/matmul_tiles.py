"""What all loops of a matrix product share: operands, pieces of rows, tiles, walks along k.

The data structures are :class:`Operand`, one factor in memory, and :class:`Piece`, a vector's
place in a row. Start reading at :class:`Tiles`, which the emitters of outer products and of dot
products extend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import llvmlite.ir as ll

from ..ir.types import DType
from .engine import Host
from .ll_loops import Index, element_pointer, for_range, intrinsic, load_vector, store_vector
from .ll_types import I8, I64, POINTER, constant

Store = Callable[[ll.IRBuilder, ll.Value, ll.Value, ll.Value, int, int], None]
Expect = Callable[[ll.IRBuilder, ll.Value, ll.Value, int], None]
"""Called as ``expect(builder, row, column, width)`` before a tile's row is computed: fetch what storing needs."""

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


def cut_into_pieces(extent: int, lanes: int) -> tuple[Piece, ...]:
    """Vectors that cover ``extent`` elements: full ones, then one just wide enough."""
    full = extent - extent % lanes
    pieces = [Piece(offset, lanes, lanes) for offset in range(0, full, lanes)]
    if full < extent:
        rest = extent - full
        pieces.append(Piece(full, 1 << (rest - 1).bit_length(), rest))
    return tuple(pieces)


class Tiles:
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


def width_of(pieces: Sequence[Piece]) -> int:
    return pieces[-1].offset + pieces[-1].lanes


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
