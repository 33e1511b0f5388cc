"""The interpreter, and programs with updates and guards."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from helpers import build, call
from tracegrad.ir import GraphBuilder, Program, TensorType, evaluate
from tracegrad.ir.interpreter import InterpretedExecutable
from tracegrad.ir.types import float64


def test_inputs_may_be_outputs() -> None:
    graph = build(lambda x: (x, x + 1.0, x), "f64[2]")
    x = np.array([1.0, 2.0])
    first, second, third = evaluate(graph, [x])
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(second, x + 1)
    np.testing.assert_array_equal(third, x)


def test_wrong_inputs() -> None:
    graph = build(lambda x: x, "f64[2]", name="g")
    with pytest.raises(TypeError, match="@g takes 1 inputs, but got 2"):
        evaluate(graph, [np.zeros(2), np.zeros(2)])
    with pytest.raises(TypeError, match=r"input x of @g is f64\[2\], but got float32\[2\]"):
        evaluate(graph, [np.zeros(2, np.float32)])
    with pytest.raises(TypeError, match=r"is f64\[2\], but got float64\[3\]"):
        evaluate(graph, [np.zeros(3)])


def test_floating_point_errors_are_silent() -> None:
    graph = build(lambda x: (1.0 / x, call("log", x), call("exp", x * 1e4)), "f64[3]")
    quotient, logarithm, power = evaluate(graph, [np.array([0.0, -1.0, 1.0])])
    assert np.isinf(quotient[0])
    assert np.isnan(logarithm[1])
    assert np.isinf(power[2])


def test_errors_of_ops_are_raised() -> None:
    graph = build(lambda x, i: call("take", x, i, axis=0), "f64[3]", "i64[1]")
    with pytest.raises(IndexError, match="index 3 is out of bounds for dimension 0 with size 3"):
        evaluate(graph, [np.zeros(3), np.array([3])])


def test_values_are_dropped_after_their_last_use() -> None:
    builder = GraphBuilder("f")
    size = 100_000
    with builder:
        x = y = builder.input(TensorType(float64, (size,)))
        for _ in range(50):
            y = y + x
    graph = builder.graph.replace(outputs=[y])
    array = np.ones(size)
    tracemalloc.start()
    evaluate(graph, [array])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * array.nbytes


def test_program() -> None:
    graph = build(lambda x, y: (x + y, y * 2.0, x, call("lt", y, 10.0)), "f64[]", "f64[]")
    program = Program(graph, updates={1: 1, 2: 0}, guards=frozenset({3}))
    assert program.result_numbers == [0]
    executable = InterpretedExecutable(program, "for a test")
    assert {fallback.reason for fallback in executable.fallbacks} == {"for a test"}
    x, y = np.array(1.0), np.array(3.0)
    results = executable.run([x, y])
    assert results == [4.0]
    assert (x, y) == (1.0, 6.0)
    assert executable.run([x, y]) == [7.0]
    before = y.copy()
    assert before == 12.0
    assert executable.run([x, y]) is None  # The guard fails: nothing is written.
    assert y == before


def test_results_are_fresh_arrays() -> None:
    graph = build(lambda x: (x, call("reshape", x, shape=(2, 1))), "f64[2]")
    x = np.zeros(2)
    results = InterpretedExecutable(Program(graph), "").run([x])
    assert results is not None
    for result in results:
        assert not np.shares_memory(result, x)
        result[...] = 1.0
    assert not x.any()


def test_updates_may_swap() -> None:
    graph = build(lambda x, y: (y, x), "f64[2]", "f64[2]")
    x, y = np.zeros(2), np.ones(2)
    InterpretedExecutable(Program(graph, updates={0: 0, 1: 1}), "").run([x, y])
    assert x.all()
    assert not y.any()
