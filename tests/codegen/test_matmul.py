"""Matrix products: every way to compute them, against NumPy in double precision."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import llvmlite.ir as ll
from tracegrad.codegen import matmul
from tracegrad.codegen.engine import Host, NativeModule, compile_module, compile_object, host
from tracegrad.codegen.ll_loops import element_pointer, load_vector, store_vector
from tracegrad.codegen.ll_types import I64, POINTER
from tracegrad.codegen.matmul import MatmulSpec, choose_plan, emit_matmul, prefers_blas
from tracegrad.codegen.matmul_dot import DotPlan
from tracegrad.codegen.matmul_outer import OuterPlan
from tracegrad.codegen.matmul_tiles import Operand, Store
from tracegrad.ir.types import DType, bool_, float32, float64, int8, int32, int64, uint8

Array = np.ndarray[Any, Any]

ON_X86 = host().triple.startswith("x86_64")
TARGETS = {"host": host()}
if ON_X86:
    TARGETS["narrow"] = Host(host().triple, "x86-64", "", 16)
    TARGETS["wide"] = replace(host(), vector_bytes=64)

# Strides of a matrix of so many rows and columns.
LAYOUTS: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "rows": lambda rows, columns: (columns, 1),
    "columns": lambda rows, columns: (1, rows),
    "padded": lambda rows, columns: (columns + 5, 1),
    "sliced": lambda rows, columns: (2 * columns + 3, 2),
    "one row": lambda rows, columns: (0, 1),
    "one column": lambda rows, columns: (1, 0),
}
STORED_LAYOUTS = ("rows", "columns", "padded", "sliced")

SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 25, 31, 33, 40, 50, 64, 65, 100, 130)


class Guarded:
    """Memory that ends where the process may not read: what a load reads too far is a crash."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def array(self, count: int, dtype: DType) -> Array:
        size = max(count, 1) * dtype.itemsize
        if not sys.platform.startswith("linux"):
            return np.zeros(max(count, 1), dtype.np)
        page = mmap.PAGESIZE
        pages = -(-size // page)
        memory = mmap.mmap(-1, (pages + 1) * page)
        whole = np.frombuffer(memory, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        last = ctypes.c_void_p(whole.ctypes.data + pages * page)
        assert libc.mprotect(last, ctypes.c_size_t(page), 0) == 0
        self.kept.append((memory, whole))
        return whole[pages * page - size : pages * page].view(dtype.np)


def extent_of(strides: tuple[int, int], rows: int, columns: int) -> int:
    return (rows - 1) * strides[0] + (columns - 1) * strides[1] + 1 if rows and columns else 0


def matrix(memory: Array, strides: tuple[int, int], rows: int, columns: int) -> Array:
    in_bytes = [stride * memory.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(memory, (rows, columns), in_bytes)


def make_spec(
    dtype: DType, m: int, n: int, k: int, a: str = "rows", b: str = "rows", c: str = "rows"
) -> MatmulSpec:
    return MatmulSpec(dtype, m, n, k, LAYOUTS[a](m, k), LAYOUTS[b](k, n), LAYOUTS[c](m, n))


def plan_of(spec: MatmulSpec, target: Host | None = None) -> OuterPlan | DotPlan:
    a = Operand(None, *spec.a_strides)
    b = Operand(None, spec.b_strides[1], spec.b_strides[0])
    return choose_plan(spec.dtype, (spec.m, spec.n, spec.k), a, b, target or host())


def emit_module(
    specs: list[MatmulSpec],
    target: Host,
    store: Callable[[MatmulSpec, ll.Value], Store] | None = None,
    compact: bool = False,
) -> ll.Module:
    """One function ``f0``, ``f1``, ... for each spec."""
    module = ll.Module()
    for i, spec in enumerate(specs):
        function = ll.Function(module, ll.FunctionType(ll.VoidType(), [POINTER] * 3), f"f{i}")
        builder = ll.IRBuilder(function.append_basic_block())
        own = None if store is None else store(spec, function.args[2])
        emit_matmul(builder, spec, *function.args, store=own, compact=compact, target=target)
        builder.ret_void()
    return module


def call(module: NativeModule, name: str, *arrays: Array) -> None:
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(module.address(name))
    function(*[array.ctypes.data for array in arrays])


def random_array(memory: Array, dtype: DType, rng: np.random.Generator) -> Array:
    if dtype.is_floating:
        memory[:] = rng.standard_normal(memory.size)
    else:
        memory[:] = rng.integers(0, 100, memory.size)
    return memory


def check(
    spec: MatmulSpec, module: NativeModule, name: str, rng: np.random.Generator, start: int = 0
) -> None:
    """Run a compiled product, and compare each element of C's memory with what it should be."""
    guarded = Guarded()
    m, n, k = spec.m, spec.n, spec.k
    a, b, c = (
        random_array(guarded.array(extent_of(strides, *shape), spec.dtype), spec.dtype, rng)
        for strides, shape in (
            (spec.a_strides, (m, k)),
            (spec.b_strides, (k, n)),
            (spec.c_strides, (m, n)),
        )
    )
    expected_memory = c.copy()
    call(module, name, a, b, c)

    left, right = matrix(a, spec.a_strides, m, k), matrix(b, spec.b_strides, k, n)
    result = matrix(c, spec.c_strides, m, n)
    if spec.dtype.is_floating:
        left, right = left.astype(np.float64), right.astype(np.float64)
        error = np.abs(result - (left @ right + start))
        # The classical bound for sums in any order, plus the rounding of the reference itself.
        bound = (k + 2) * np.finfo(spec.dtype.np).eps * (np.abs(left) @ np.abs(right) + start)
        assert (error <= bound).all(), (spec, plan_of(spec), error.max())
    else:
        expected = (left @ right + np.array(start, spec.dtype.np)).astype(spec.dtype.np)
        np.testing.assert_array_equal(result, expected, err_msg=str(spec))
    matrix(expected_memory, spec.c_strides, m, n)[...] = result
    np.testing.assert_array_equal(c, expected_memory, err_msg=f"wrote outside of C: {spec}")


def random_specs(dtype: DType, count: int, seed: int) -> Iterator[MatmulSpec]:
    choose = random.Random(seed)
    pairs = itertools.cycle(itertools.product(LAYOUTS, LAYOUTS))
    for (a, b), _ in zip(pairs, range(count), strict=False):
        m, n, k = (choose.choice(SIZES) for _ in range(3))
        if choose.random() < 0.15:
            m = 1
        if choose.random() < 0.15:
            n = 1
        if choose.random() < 0.2:
            k = choose.choice((257, 300, 500, 1000))
        yield make_spec(dtype, m, n, k, a, b, choose.choice(STORED_LAYOUTS))


# Products of each kind that a network's step has, and those with blocks along k and in C.
TYPICAL = [
    make_spec(float32, 16, 100, 1000, "rows", "columns"),
    make_spec(float32, 16, 100, 1000),
    make_spec(float32, 100, 1000, 16, "columns"),
    make_spec(float32, 16, 10, 100, "rows", "columns"),
    make_spec(float32, 16, 100, 10),
    make_spec(float32, 64, 64, 64),
    make_spec(float32, 128, 128, 128),
    make_spec(float32, 97, 112, 403, "rows", "columns"),
    make_spec(float32, 150, 30, 700, "columns", "sliced"),
    make_spec(float32, 1000, 4, 64, "rows", "columns"),
    make_spec(float32, 1, 300, 500, "rows", "columns"),
    make_spec(float32, 300, 1, 500),
    make_spec(float32, 1, 300, 500),
    make_spec(float32, 1, 1, 1000),
    make_spec(float64, 16, 100, 1000, "rows", "columns"),
    make_spec(float64, 70, 60, 500),
    make_spec(float64, 3, 3, 3),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("dtype", "count"),
    [(float32, 72), (float64, 36), (int64, 18), (int32, 18), (int8, 9), (uint8, 9)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_products_are_right(
    dtype: DType, count: int, target: str, rng: np.random.Generator
) -> None:
    if target != "host":
        count //= 2
    specs = list(random_specs(dtype, count, seed=list(TARGETS).index(target)))
    module = emit_module(specs, TARGETS[target])
    native = compile_module(module, optimize=0, target=TARGETS[target])
    for i, spec in enumerate(specs):
        check(spec, native, f"f{i}", rng)


@pytest.mark.parametrize("optimize", [0, 2])
def test_typical_products_are_right(optimize: int, rng: np.random.Generator) -> None:
    native = compile_module(emit_module(TYPICAL, host()), optimize=optimize)
    for i, spec in enumerate(TYPICAL):
        check(spec, native, f"f{i}", rng)


def test_typical_products_cover_all_ways() -> None:
    plans = [plan_of(spec) for spec in TYPICAL]
    outer = [plan for plan in plans if isinstance(plan, OuterPlan)]
    dots = [plan for plan in plans if isinstance(plan, DotPlan)]
    for attribute in ("transposed", "pack", "buffered"):
        assert {getattr(plan, attribute) for plan in outer} == {False, True}, attribute
    assert {plan.transposed for plan in dots} == {False, True}
    assert any(
        plan.depth < spec.k
        for plan, spec in zip(plans, TYPICAL, strict=True)
        if isinstance(plan, OuterPlan)
    )


@pytest.mark.parametrize("dtype", [float32, int64], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize(
    "shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (20, 30, 0)], ids=str
)
def test_empty_products(
    shape: tuple[int, int, int], dtype: DType, rng: np.random.Generator
) -> None:
    for a, b, c in itertools.product(("rows", "columns"), ("rows", "columns"), STORED_LAYOUTS):
        spec = make_spec(dtype, *shape, a, b, c)
        check(spec, compile_module(emit_module([spec], host()), optimize=0), "f0", rng)


def add_to_c(spec: MatmulSpec, pointer: ll.Value) -> Store:
    """A callback that adds to C, so that an element that comes twice, or never, is noticed."""

    def store(
        builder: ll.IRBuilder,
        value: ll.Value,
        row: ll.Value,
        column: ll.Value,
        lanes: int,
        active: int,
    ) -> None:
        assert 1 <= active <= lanes
        assert getattr(value.type, "count", 1) == lanes
        offset = builder.add(
            builder.mul(row, I64(spec.c_strides[0])), builder.mul(column, I64(spec.c_strides[1]))
        )
        for lane in range(active if spec.c_strides[1] != 1 else 1):
            at = element_pointer(builder, pointer, spec.dtype, offset)
            place = element_pointer(builder, at, spec.dtype, lane * spec.c_strides[1])
            width, here, piece = lanes, active, value
            if spec.c_strides[1] != 1:
                width, here = 1, 1
                piece = builder.extract_element(value, I64(lane)) if lanes > 1 else value
            old = load_vector(builder, place, spec.dtype, width, here)
            floating = spec.dtype.is_floating
            new = builder.fadd(old, piece) if floating else builder.add(old, piece)
            store_vector(builder, new, place, spec.dtype, width, here)

    return store


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("dtype", [float32, float64, int32], ids=lambda dtype: dtype.name)
def test_store_gets_each_element_once(
    dtype: DType, compact: bool, rng: np.random.Generator
) -> None:
    specs = list(random_specs(dtype, 36, seed=5))
    specs += [spec for spec in TYPICAL if spec.dtype is dtype]
    native = compile_module(emit_module(specs, host(), add_to_c, compact), optimize=0)
    for i, spec in enumerate(specs):
        a, b = (
            random_array(np.zeros(extent_of(strides, *shape), dtype.np), dtype, rng)
            for strides, shape in (
                (spec.a_strides, (spec.m, spec.k)),
                (spec.b_strides, (spec.k, spec.n)),
            )
        )
        c = np.ones(extent_of(spec.c_strides, spec.m, spec.n), dtype.np)
        call(native, f"f{i}", a, b, c)
        left = matrix(a, spec.a_strides, spec.m, spec.k)
        right = matrix(b, spec.b_strides, spec.k, spec.n)
        expected = np.ones_like(c)
        if dtype.is_floating:
            left, right = left.astype(np.float64), right.astype(np.float64)
        matrix(expected, spec.c_strides, spec.m, spec.n)[...] = left @ right + 1
        np.testing.assert_allclose(
            c, expected, rtol=2e-5 if dtype is float32 else 1e-12, atol=1e-3, err_msg=str(spec)
        )


def test_compact_store_is_emitted_in_few_places() -> None:
    places = 0

    def counting(spec: MatmulSpec, pointer: ll.Value) -> Store:
        def store(builder: ll.IRBuilder, *piece: Any) -> None:
            nonlocal places
            places += 1

        return store

    for spec in TYPICAL:
        places = 0
        emit_module([spec], host(), counting, compact=True)
        assert places <= 8, (spec, places)


def test_same_bits_every_time(rng: np.random.Generator) -> None:
    native = compile_module(emit_module(TYPICAL, host()), optimize=0)
    again = compile_module(emit_module(TYPICAL, host()), optimize=0)
    for i, spec in enumerate(TYPICAL):
        a = random_array(np.zeros(spec.m * spec.k * 3, spec.dtype.np), spec.dtype, rng)
        b = random_array(np.zeros(spec.n * spec.k * 3, spec.dtype.np), spec.dtype, rng)
        first, second = np.zeros((2, spec.m, spec.n), spec.dtype.np)
        call(native, f"f{i}", a, b, first)
        call(again, f"f{i}", a.copy(), b.copy(), second)
        np.testing.assert_array_equal(first, second)


def test_nothing_leaks_between_elements(rng: np.random.Generator) -> None:
    # A NaN, or an infinity, belongs to its own row and column, however the lanes are padded.
    specs = [make_spec(float32, 13, 11, 37, a, b) for a in LAYOUTS for b in ("rows", "columns")]
    specs += [make_spec(float32, 5, 1, 19), make_spec(float32, 1, 13, 9, "rows", "columns")]
    native = compile_module(emit_module(specs, host()), optimize=0)
    for i, spec in enumerate(specs):
        a = random_array(
            np.zeros(extent_of(spec.a_strides, spec.m, spec.k), np.float32), float32, rng
        )
        b = random_array(
            np.zeros(extent_of(spec.b_strides, spec.k, spec.n), np.float32), float32, rng
        )
        matrix(a, spec.a_strides, spec.m, spec.k)[-1, -1] = np.nan
        matrix(b, spec.b_strides, spec.k, spec.n)[0, 0] = np.inf
        c = np.zeros((spec.m, spec.n), np.float32)
        call(native, f"f{i}", a, b, c)
        left = matrix(a, spec.a_strides, spec.m, spec.k)
        right = matrix(b, spec.b_strides, spec.k, spec.n)
        with np.errstate(invalid="ignore"):
            expected = (left[:, :, None].astype(np.float64) * right[None]).sum(axis=1)
        np.testing.assert_array_equal(np.isnan(c), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(c), np.isinf(expected))


def test_products_in_one_function_share_their_buffers() -> None:
    module = ll.Module()
    function = ll.Function(module, ll.FunctionType(ll.VoidType(), [POINTER] * 3), "f")
    builder = ll.IRBuilder(function.append_basic_block())
    for size in (300, 1000, 500):
        emit_matmul(builder, make_spec(float32, 16, 100, size, "rows", "columns"), *function.args)
    builder.ret_void()
    buffers = re.findall(r"alloca i8, i64 (\d+)", str(module))
    assert 1 <= len(buffers) <= 3
    assert sum(map(int, buffers)) <= 64 * 1024


def test_stack_use_is_bounded() -> None:
    for dtype in (float32, float64):
        for spec in random_specs(dtype, 36, seed=9):
            big = replace(spec, m=spec.m * 9, n=spec.n * 7, k=spec.k * 5)
            text = str(emit_module([big], host()))
            assert sum(map(int, re.findall(r"alloca i8, i64 (\d+)", text))) <= 64 * 1024


@pytest.mark.skipif(not (ON_X86 and host().has_fma), reason="looks at x86 assembly")
@pytest.mark.parametrize("dtype", [float32, float64], ids=lambda dtype: dtype.name)
def test_assembly_is_packed_and_keeps_tiles_in_registers(dtype: DType) -> None:
    register = {32: "ymm", 64: "zmm"}[host().vector_bytes]
    suffix = "ps" if dtype is float32 else "pd"
    for spec in TYPICAL:
        if spec.dtype is not dtype or min(spec.m * spec.n, spec.k) < 16:
            continue
        module = emit_module([spec], host())
        assembly = compile_object(module, optimize=0).assembly()
        packed = re.findall(rf"vfmadd\w+{suffix}\b.*%{register}", assembly)
        assert len(packed) >= 8, spec
        if "alloca" not in str(module):  # else the stack holds packed panels, too
            assert not re.search(rf"%{register}\d+, -?\d*\(%rsp\)", assembly), f"spilled: {spec}"


def test_bools_have_no_product() -> None:
    with pytest.raises(TypeError, match="bools"):
        emit_module([make_spec(bool_, 2, 2, 2)], host())


@pytest.mark.parametrize("cpus", [1, 2, 64])
def test_blas_is_preferred_for_large_products_only(
    cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "_available_cpus", lambda: cpus)

    def prefers(dtype: DType, m: int, n: int, k: int, a: str = "rows", b: str = "rows") -> bool:
        return prefers_blas(make_spec(dtype, m, n, k, a, b))

    for dtype in (float32, float64):
        for b in ("rows", "columns"):
            assert not prefers(dtype, 64, 64, 64, b=b)
            assert not prefers(dtype, 16, 100, 1000, b=b)
            assert prefers(dtype, 1024, 1024, 1024, b=b)
            sizes = [prefers(dtype, size, size, size, b=b) for size in range(16, 1024, 16)]
            assert sizes == sorted(sizes)
        assert not prefers(dtype, 1024, 1024, 1024, "sliced")
        assert not prefers(dtype, 1024, 1024, 1024, "one row")
        assert not prefers(dtype, 1024, 0, 1024)
    assert prefers(float32, 256, 256, 256) == (cpus > 1)
    assert prefers(float32, 1, 2048, 2048)
    assert not prefers(float32, 1, 2048, 2048, b="columns")
    assert not prefers(int64, 1024, 1024, 1024)
