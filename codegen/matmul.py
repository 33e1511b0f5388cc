"""Matrix products specialised on shape and strides: which loops to emit.

The data structure is :class:`MatmulSpec`, one product ``C[m, n] = A[m, k] @ B[k, n]`` with static
extents and strides. Start reading at :func:`emit_matmul`. There are three ways to compute C, and
:func:`choose_plan` takes the one that costs the fewest cycles by a count of multiply-adds, loads
and shuffles:

- rows: vectors along n (B is read in vectors), elements of A broadcast;
- columns: vectors along m (A is read in vectors), elements of B broadcast, C transposed at the end;
- dot: vectors along k of both, summed across lanes at the end.

The first two want one factor contiguous along the vectors; if it is not, it is packed, panel by
panel, into a buffer on the stack. The loops are in :mod:`.matmul_outer` and :mod:`.matmul_dot`.

Each element of C is summed over k in an order that only the spec, the CPU's vectors and the chosen
plan determine: the same code gives the same bits, on any number of threads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import llvmlite.ir as ll

from ..ir.types import DType
from .engine import Host, host
from .ll_loops import element_pointer, store_vector
from .ll_types import I32, I64, lanes_for
from .matmul_dot import DotPlan, emit_dot
from .matmul_outer import OuterPlan, emit_outer
from .matmul_tiles import Expect, Operand, Store

# What of the first level cache (32 KB and up) a panel and a buffer of sums may take, in bytes.
_PANEL_BYTES = 16 * 1024
_SUMS_BYTES = 16 * 1024
_CACHE_LINE = 64

# The first level cache has 64 sets of 8 lines: addresses 4 KB apart share a set.
_WAYS = 8
_SET_PERIOD = 4096

# Cycles, as measured; only their ratios to a multiply-add (half a cycle per vector) matter.
_TILE_OVERHEAD = 12.0
_PACK_ROWS = 1.0  # per vector
_PACK_TRANSPOSED = 0.35  # per element
_PACK_ELEMENTS = 1.5  # per element
_DRAIN = 1.5  # per vector
_TURN = 0.35  # per element
_SUM_ACROSS = 1.6  # per accumulator
_SECOND_LEVEL = 0.4  # more, per vector that a dot product takes from the second level cache
_PER_BYTE = 0.02  # for bytes that an outer product takes from there, mostly ahead of time
_NO_SLACK = 1.04  # tiles with just enough accumulators to keep the units busy

# Code takes time to compile: a plan must gain so much for each more tile that it needs, and for
# transposing, to be worth it.
_WORTH = 0.01

_TILE_ROWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14)
_TILE_VECTORS = (1, 2, 3, 4, 6, 8, 12)

# Multiply-adds of 32-bit numbers from which BLAS pays; those of 64-bit numbers count twice.
_BLAS_THREADS_WORK = 6.0e6  # divided by the number of threads, of which four count
_BLAS_ONE_THREAD_WORK = 64.0e6
_BLAS_VECTOR_WORK = 0.5e6
_BLAS_THIN = 32  # below this extent threads do not help


@dataclass(frozen=True, slots=True)
class MatmulSpec:
    """One product ``C = A @ B``.

    Attributes:
        dtype: element type of all three; floating point or integer.
        m, n, k: C is ``[m, n]``, A ``[m, k]``, B ``[k, n]``. Any may be 0.
        a_strides, b_strides, c_strides: distance between rows and between columns, in elements.
            Those of A and B may be anything, 0 included; elements of C must not overlap.
    """

    dtype: DType
    m: int
    n: int
    k: int
    a_strides: tuple[int, int]
    b_strides: tuple[int, int]
    c_strides: tuple[int, int]


Plan = OuterPlan | DotPlan


def prefers_blas(spec: MatmulSpec) -> bool:
    """Whether ``np.matmul(a, b, out=c)`` is likely faster than :func:`emit_matmul`'s code.

    Measured on two cores with AVX2, against OpenBLAS. One thread of it is never ahead by more than
    a tenth where a cache holds the factors. Its second thread begins to pay at 128 x 128 x 128 (1.0
    times as fast in single, 1.4 times in double precision; 1.7 times at 256), and does not for thin
    products (16 x 512 x 512: 0.8 times). Leaving native code, and what could have been fused, cost
    some microseconds more. That more cores move the point down is an assumption; another BLAS
    (Apple's) may be ahead much earlier. Where a matrix comes from memory, OpenBLAS's product of a
    vector with its rows is twice as fast as ours.
    """
    if not spec.dtype.is_floating or min(spec.m, spec.n, spec.k) == 0:
        return False
    factors = ((spec.a_strides, spec.m, spec.k), (spec.b_strides, spec.k, spec.n))
    if not all(_blas_can_read(*factor) for factor in factors):
        return False  # NumPy falls back to plain loops
    wide = spec.dtype.itemsize // 4
    work = spec.m * spec.n * spec.k * wide
    if 1 in (spec.m, spec.n):
        # A vector times rows; their dot products with a vector are no slower here.
        rows = spec.b_strides[1] if spec.m == 1 else spec.a_strides[0]
        return max(spec.m, spec.n) > 1 and rows == 1 and work > _BLAS_VECTOR_WORK
    threads = _available_cpus()
    if threads == 1 or min(spec.m, spec.n) < _BLAS_THIN:
        return work > _BLAS_ONE_THREAD_WORK
    return work > _BLAS_THREADS_WORK / min(threads, 4)


def _blas_can_read(strides: tuple[int, int], rows: int, columns: int) -> bool:
    by_rows = (strides[1] == 1 or columns == 1) and (strides[0] >= columns or rows == 1)
    by_columns = (strides[0] == 1 or rows == 1) and (strides[1] >= rows or columns == 1)
    return by_rows or by_columns


@lru_cache(maxsize=1)
def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def emit_matmul(
    builder: ll.IRBuilder,
    spec: MatmulSpec,
    a_ptr: ll.Value,
    b_ptr: ll.Value,
    c_ptr: ll.Value | None,
    store: Store | None = None,
    *,
    compact: bool = False,
    expect: Expect | None = None,
    target: Host | None = None,
) -> None:
    """Emit a matrix product.

    Args:
        builder: where to emit; the product may take up to 64 KB of the function's stack.
        spec: shapes and strides.
        a_ptr, b_ptr: the first elements of the factors.
        c_ptr: the first element of C, which must not overlap the factors; not used with ``store``.
        store: called for each finished piece of C instead of storing it, as
            ``store(builder, value, row, column, lanes, active)``: ``value`` has ``lanes`` elements
            of one row, from ``column`` on, of which the first ``active`` exist (a scalar if
            ``lanes`` is 1); ``row`` and ``column`` are ``i64`` values. Each element of C comes
            once. The callback emits code, and is called for several places in the loops.
        compact: emit ``store``'s code in few places, at the price of a detour through a buffer.
            For callbacks that emit much.
        expect: called as ``expect(builder, row, column, width)`` before the product's part from there on
            is computed, where that helps: the place to prefetch what ``store`` will touch.
        target: the CPU to emit for; by default this one.

    Raises:
        TypeError: products of bools are not defined.
    """
    if spec.dtype.name == "b1":
        raise TypeError("a matrix product of bools is not defined")
    if spec.m == 0 or spec.n == 0:
        return
    if target is None:
        target = host()
    m, n, k = spec.m, spec.n, spec.k
    a = Operand(a_ptr, *spec.a_strides)
    b = Operand(b_ptr, spec.b_strides[1], spec.b_strides[0])
    if store is None:
        rows_of_c, columns_of_c = spec.c_strides
        if rows_of_c == 1 and (columns_of_c != 1 or n == 1):
            # C is stored by columns: compute its transpose.
            a, b, m, n = b, a, n, m
            rows_of_c, columns_of_c = columns_of_c, rows_of_c
        store = _store_into(spec.dtype, c_ptr, rows_of_c, columns_of_c)
    plan = choose_plan(spec.dtype, (m, n, k), a, b, target, buffered=compact)
    factors = (b, a) if plan.transposed else (a, b)
    extents = (n, m, k) if plan.transposed else (m, n, k)
    if isinstance(plan, DotPlan):
        emit_dot(builder, spec.dtype, target, plan, *factors, extents, store)
    else:
        emit_outer(builder, spec.dtype, target, plan, *factors, extents, store, expect)


def _store_into(dtype: DType, pointer: ll.Value, row_stride: int, column_stride: int) -> Store:
    def store(
        builder: ll.IRBuilder,
        value: ll.Value,
        row: ll.Value,
        column: ll.Value,
        lanes: int,
        active: int,
    ) -> None:
        at = builder.mul(row, I64(row_stride))
        at = builder.add(at, builder.mul(column, I64(column_stride)))
        place = element_pointer(builder, pointer, dtype, at)
        if column_stride == 1 or lanes == 1:
            store_vector(builder, value, place, dtype, lanes, active)
            return
        for lane in range(active):
            element = builder.extract_element(value, I32(lane))
            into = element_pointer(builder, place, dtype, lane * column_stride)
            store_vector(builder, element, into, dtype, 1)

    return store


def choose_plan(
    dtype: DType,
    extents: tuple[int, int, int],
    a: Operand,
    b: Operand,
    target: Host,
    *,
    buffered: bool = False,
) -> Plan:
    """The cheapest plan for ``C[m, n] = A @ B``.

    Args:
        dtype: the element type.
        extents: m, n and k.
        a, b: the factors, each with its stride along its own extent and along k.
        target: the CPU.
        buffered: gather C in a buffer whatever the plan.
    """
    m, n, k = extents
    candidates = [
        *_outer_plans(dtype, m, n, k, a, b, target, transposed=False, buffered=buffered),
        *_outer_plans(dtype, n, m, k, b, a, target, transposed=True, buffered=buffered),
    ]
    if a.depth == b.depth == 1 and k >= lanes_for(dtype, target) > 1:
        for transposed, rows, columns in ((False, m, n), (True, n, m)):
            candidates += _dot_plans(dtype, rows, columns, k, target, transposed, buffered)
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _outer_plans(
    dtype: DType,
    extent: int,
    width: int,
    k: int,
    broadcast: Operand,
    vector: Operand,
    target: Host,
    *,
    transposed: bool,
    buffered: bool,
) -> Iterator[tuple[float, Plan]]:
    """Plans with their costs; ``extent`` is that of the broadcast factor, ``width`` the other's."""
    lanes = min(lanes_for(dtype, target), 1 << (width - 1).bit_length())
    contiguous = vector.along == 1 or width == 1
    row_bytes = abs(vector.depth) * dtype.itemsize
    vectors_in_all = -(-width // lanes)
    for vectors in _TILE_VECTORS:
        if vectors > vectors_in_all and vectors > 1:
            break
        rows, _ = _best_rows(extent, vectors, k, target)
        rest = vectors_in_all % vectors
        rest_rows, rest_cycles = _best_rows(extent, rest, k, target) if rest else (rows, 0.0)
        panels = vectors_in_all // vectors
        tiles = -(-extent // rows)
        panel_bytes = vectors * lanes * dtype.itemsize

        # Bytes of cache per step along k, and how many steps until addresses collide.
        footprint = panel_bytes
        if contiguous and row_bytes > panel_bytes:
            footprint = _CACHE_LINE * (panel_bytes // _CACHE_LINE + 1)
        collision = _WAYS * _SET_PERIOD // math.gcd(_SET_PERIOD, max(row_bytes, 1))
        crowded = k * footprint > _PANEL_BYTES or k > collision
        pack = k > 0 and (not contiguous or (crowded and tiles >= 8))
        depth = k
        if tiles > 1 and (crowded or (pack and k * panel_bytes > _PANEL_BYTES)):
            steps = _PANEL_BYTES // (panel_bytes if pack else footprint)
            depth = _depth_of_blocks(k, steps if pack else min(steps, collision))
        elif pack and k * panel_bytes > _PANEL_BYTES:
            depth = _depth_of_blocks(k, _PANEL_BYTES // panel_bytes)
        through_buffer = buffered or transposed or depth < k
        block = extent
        if through_buffer:
            granule = math.lcm(rows, lanes) if transposed else rows
            block = _rows_in_buffer(extent, _SUMS_BYTES // panel_bytes, rows, granule)

        cycles = panels * _tile_cycles(extent, rows, vectors, k) + rest_cycles
        # What comes from the second level cache: each panel once, the other factor for each panel.
        if k * width * dtype.itemsize > _PANEL_BYTES:
            cycles += _PER_BYTE * k * footprint * -(-vectors_in_all // vectors)
        if k * extent * dtype.itemsize > _PANEL_BYTES:
            cycles += _PER_BYTE * k * extent * dtype.itemsize * -(-vectors_in_all // vectors)
        if pack:
            copies = -(-extent // block) if depth < k else 1
            per_step = width / lanes * _PACK_ROWS
            if not contiguous:
                per_step = width * (_PACK_TRANSPOSED if vector.depth == 1 else _PACK_ELEMENTS)
            cycles += copies * k * per_step
        if through_buffer:
            cycles += extent * vectors_in_all * _DRAIN * (1 if depth == k else -(-k // depth))
        if transposed:
            cycles += extent * width * _TURN
        kernels = _kernels(extent, rows) * (panels > 0) + _kernels(extent, rest_rows) * (rest > 0)
        if depth < k and k % depth:
            kernels *= 2
        yield (
            cycles * (1 + _WORTH * (kernels + 2 * transposed + (pack and not contiguous))),
            OuterPlan(
                lanes, vectors, rows, rest_rows, depth, block, pack, transposed, through_buffer
            ),
        )


def _kernels(extent: int, rows: int) -> int:
    """How many different tiles cover ``extent``."""
    return (extent >= rows) + (extent % rows > 0)


def _best_rows(extent: int, vectors: int, k: int, target: Host) -> tuple[int, float]:
    """The rows of a tile of so many vectors that cost the fewest cycles, and these."""
    choices = []
    for rows in _TILE_ROWS:
        needed = rows * vectors + min(rows, vectors) + 1
        if rows == 1 or (rows <= extent and needed <= target.vector_registers):
            cycles = _tile_cycles(extent, rows, vectors, k)
            choices.append((cycles * (1 + _WORTH * _kernels(extent, rows)), cycles, rows))
    _, cycles, rows = min(choices)
    return rows, cycles


def _tile_cycles(extent: int, rows: int, vectors: int, k: int) -> float:
    whole, rest = divmod(extent, rows)
    return whole * _one_tile(rows, vectors, k) + (_one_tile(rest, vectors, k) if rest else 0.0)


def _one_tile(rows: int, vectors: int, k: int) -> float:
    # Two multiply-adds and two loads per cycle; each accumulator is stored once.
    step = max(rows * vectors, rows + vectors, 2) / 2
    if rows * vectors <= 8:
        step *= _NO_SLACK
    return k * step + rows * vectors + _TILE_OVERHEAD


def _depth_of_blocks(k: int, limit: int) -> int:
    """The extent of blocks along k: at most ``limit``, a divisor of k if there is a good one."""
    limit = max(limit, 8)
    if k <= limit:
        return k
    for depth in range(limit, limit // 2, -1):
        if k % depth == 0 and depth % 4 == 0:
            return depth
    blocks = -(-k // limit)
    return min(-(-k // (8 * blocks)) * 8, limit)


def _rows_in_buffer(extent: int, limit: int, rows: int, granule: int) -> int:
    if extent <= limit:
        return extent
    if granule > limit:
        granule = rows
    blocks = -(-extent // limit)
    block = -(-extent // (blocks * granule)) * granule
    return max(rows, min(block, limit - limit % granule))


def _dot_plans(
    dtype: DType,
    extent: int,
    width: int,
    k: int,
    target: Host,
    transposed: bool,
    buffered: bool,
) -> Iterator[tuple[float, Plan]]:
    lanes = lanes_for(dtype, target)
    steps = -(-k // lanes)
    for rows, columns in ((1, 8), (1, 4), (2, 4), (3, 4), (1, 2), (2, 2), (4, 2), (6, 2), (1, 1)):
        needed = rows * columns + rows + 1
        if rows > extent or columns > lanes or needed > target.vector_registers:
            continue
        if columns // 2 >= width:
            continue
        far = 0.0
        if extent * k * dtype.itemsize > _PANEL_BYTES:
            far += _SECOND_LEVEL * rows
        if (rows + columns) * k * dtype.itemsize > 2 * _PANEL_BYTES:
            far += _SECOND_LEVEL * columns
        cycles, kernels = 0.0, 0
        for tall, count in ((rows, extent // rows), (extent % rows, 1)):
            for wide, times in ((columns, width // columns), (width % columns, 1)):
                if tall and wide and count and times:
                    step = max(tall * wide, tall + wide) / 2 + far
                    one = steps * step + _SUM_ACROSS * tall * wide + _TILE_OVERHEAD
                    cycles += count * times * one
                    kernels += 1
        if transposed:
            cycles += extent * width
        if buffered:
            cycles += extent * width / columns * _DRAIN
        cycles *= 1 + _WORTH * kernels
        yield cycles, DotPlan(lanes, rows, columns, transposed, buffered)
