"""Emission: vectors, remainders, loop orders and runs of sums, for awkward extents and strides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from tracegrad.codegen import NativeExecutable, compile_program
from tracegrad.ir import GraphBuilder, Node, Program, TensorType, registered
from tracegrad.ir.graph import current_builder
from tracegrad.ir.interpreter import evaluate
from tracegrad.ir.types import DTYPES, DType, bool_, float32, float64, int8, int64

EXTENTS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 257)


def op(name: str, *operands: Node, **attrs: object) -> Node:
    return registered(name)(*operands, **attrs)


def check(
    body: Callable[..., Sequence[Node]], inputs: Sequence[np.ndarray], tolerance: float = 0.0
) -> NativeExecutable:
    builder = GraphBuilder("test")
    dtypes = {dtype.np: dtype for dtype in DTYPES}
    with builder:
        nodes = [builder.input(TensorType(dtypes[x.dtype], x.shape)) for x in inputs]
        builder.graph.outputs = list(body(*nodes))
    executable = compile_program(Program(builder.graph))
    found = executable.run(list(inputs))
    assert found is not None
    for got, want in zip(found, evaluate(builder.graph, inputs), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, tolerance, tolerance)
    return executable


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    if dtype.is_floating:
        return rng.uniform(-2, 2, shape).astype(dtype.np)
    return rng.integers(0, 2 if dtype is bool_ else 50, shape).astype(dtype.np)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_remainder_of_every_width(dtype: DType, rng: np.random.Generator) -> None:
    inputs = [draw(rng, (n,), dtype) for n in EXTENTS]

    def body(*xs: Node) -> Sequence[Node]:
        name = "bit_xor" if dtype is bool_ else "add"
        return [op(name, x, x) for x in xs]

    check(body, inputs)


@pytest.mark.parametrize("dtype", [float32, int8, int64], ids=str)
def test_every_remainder_of_reductions(dtype: DType, rng: np.random.Generator) -> None:
    inputs = [draw(rng, (n,), dtype) for n in EXTENTS]

    def body(*xs: Node) -> Sequence[Node]:
        names = ("sum", "max", "min")
        return [op(name, x, axis=(0,), keepdims=False) for x in xs for name in names]

    check(body, inputs, 1e-5 if dtype.is_floating else 0.0)


@pytest.mark.parametrize("rows", [1, 3, 8, 70])
@pytest.mark.parametrize("columns", [1, 2, 9, 64, 130])
def test_reductions_along_each_axis(rows: int, columns: int, rng: np.random.Generator) -> None:
    def body(x: Node, row: Node) -> Sequence[Node]:
        y = op("mul", x, row)
        axes = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
        return [op("sum", y, axis=axis, keepdims=False) for axis in axes] + [y]

    inputs = [draw(rng, (rows, 5, columns), float64), draw(rng, (columns,), float64)]
    check(body, inputs, 1e-11)


@pytest.mark.parametrize("shape", [(3, 5), (17, 33), (64, 8)])
def test_transposed_and_strided_reads(shape: tuple[int, int], rng: np.random.Generator) -> None:
    def body(x: Node, y: Node) -> Sequence[Node]:
        m, n = shape
        turned = op("permute", x, dims=(1, 0))
        even = op("slice", y, start=(0, 0), limit=(n, m), stride=(1, 2))
        back = op("flip", y, axes=(1,))
        return [turned + y, even * 2.0, back - turned, op("sum", back, axis=(1,), keepdims=False)]

    check(body, [draw(rng, shape, float64), draw(rng, shape[::-1], float64)], 1e-13)


def test_types_of_different_width_in_one_kernel(rng: np.random.Generator) -> None:
    def body(x: Node, n: Node, flag: Node, small: Node) -> Sequence[Node]:
        wide = op("cast", x, dtype=float64)
        chosen = op("where", flag, wide, op("cast", n, dtype=float64))
        total = op("add", op("cast", small, dtype=int64), n)
        return [chosen, total, op("bit_not", flag), op("sum", total, axis=(0,), keepdims=False)]

    kinds = (float32, int64, bool_, int8)
    check(body, [draw(rng, (45,), dtype) for dtype in kinds])


def test_rows_that_share_a_value(rng: np.random.Generator) -> None:
    def body(x: Node) -> Sequence[Node]:
        top = op("max", x, axis=(1,), keepdims=True)
        e = op("exp", x - top)
        return [op("div", e, op("sum", e, axis=(1,), keepdims=True))]

    for shape in ((1, 1), (3, 10), (33, 65)):
        check(body, [draw(rng, shape, float64)], 1e-13)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 9), (5, 1, 3), (4, 6, 1), (16, 33, 10)])
def test_products_with_what_follows(
    batch: tuple[int, ...], shape: tuple[int, int, int], rng: np.random.Generator
) -> None:
    m, n, k = shape

    def body(x: Node, y: Node, bias: Node) -> Sequence[Node]:
        product = op("matmul", x, y)
        turned = op("matmul", x, y) * 1.0
        swap = (*range(len(batch)), len(batch) + 1, len(batch))
        return [
            op("tanh", product + bias),
            op("permute", op("matmul", x, y), dims=swap) - op("permute", turned, dims=swap),
        ]

    inputs = [draw(rng, (*batch, m, k), float64), draw(rng, (k, n), float64)]
    check(body, [*inputs, draw(rng, (n,), float64)], 1e-12)


def test_embedding_rows(rng: np.random.Generator) -> None:
    def body(table: Node, index: Node) -> Sequence[Node]:
        rows = op("take", table, index, axis=0)
        return [rows, op("index_add", table, index, rows * 0.5, axis=0)]

    check(body, [draw(rng, (20, 37), float64), rng.integers(0, 20, (6, 2))], 1e-14)


def test_a_scan_along_each_axis(rng: np.random.Generator) -> None:
    def body(x: Node) -> Sequence[Node]:
        scans = [op("cumsum", x, axis=axis) for axis in range(3)]
        names = ("argmax", "argmin")
        return scans + [op(name, x, axis=a, keepdims=False) for name in names for a in range(3)]

    check(body, [rng.integers(0, 9, (4, 6, 19))])


def test_many_kernels_are_split_into_functions(rng: np.random.Generator) -> None:
    def body(x: Node) -> Sequence[Node]:
        for _ in range(60):
            scale = op("max", op("abs", x), axis=(1,), keepdims=True)
            x = op("add", op("flip", x, axes=(0,)), x / scale)
        return [x]

    executable = check(body, [draw(rng, (4, 5), float64)], 1e-11)
    assert executable.llvm_text().count("@part") >= 2


def test_constants_larger_than_a_number() -> None:
    values = np.arange(60, dtype=np.float64).reshape(5, 12) ** 2

    def body(x: Node) -> Sequence[Node]:
        table = current_builder().const_array(values)
        return [table * x, table, op("matmul", table, op("permute", table, dims=(1, 0)))]

    check(body, [np.array(2.0)])


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_any_level_of_optimisation(level: int, rng: np.random.Generator) -> None:
    builder = GraphBuilder("test")
    with builder:
        x = builder.input(TensorType(float32, (70,)))
        y = op("sin", x) * x
        builder.graph.outputs = [y, op("sum", y, axis=(0,), keepdims=False)]
    array = draw(rng, (70,), float32)
    found = compile_program(Program(builder.graph), optimize=level).run([array])
    assert found is not None
    for got, want in zip(found, evaluate(builder.graph, [array]), strict=True):
        np.testing.assert_allclose(got, want, 1e-5, 1e-6)
