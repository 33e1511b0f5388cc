"""Random graphs: ways of running agree, text round-trips, gradients are finite differences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from helpers import (
    WAYS_OF_RUNNING,
    assert_same,
    draw_input,
    evaluate_contiguous,
    examples,
    optimize_verified,
    run_native,
)
from hypothesis import given
from hypothesis import strategies as st
from random_graphs import graphs
from tracegrad.codegen import cutting
from tracegrad.ir import (
    Graph,
    GraphBuilder,
    Node,
    append_adjoint,
    evaluate,
    parse,
    registered,
    show,
    structural_key,
    verify,
)
from tracegrad.ir.passes import partition
from tracegrad.ir.types import bool_, float32, float64, int32, int64, uint8

SEEDS = st.integers(0, 2**32 - 1)


def arrays_for(graph: Graph, seed: int, *, special: bool = False) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [draw_input(node.type, rng, special=special) for node in graph.inputs]


@examples(1000)
@given(graphs(), SEEDS, st.booleans())
def test_optimized(graph: Graph, seed: int, special: bool) -> None:
    """The passes change no bit of any result; a second time they add no computation."""
    arrays = arrays_for(graph, seed, special=special)
    optimized = optimize_verified(graph)
    expected = evaluate_contiguous(graph, arrays)
    for a, c in zip(evaluate_contiguous(optimized, arrays), expected, strict=True):
        assert_same(a, c, f"{graph}\n{optimized}")
    assert count_computations(optimize_verified(optimized)) <= count_computations(optimized)
    assert count_computations(optimized) <= count_computations(graph)


def count_computations(graph: Graph) -> int:
    free = {"const", "broadcast_in_dim", "reshape"}
    return sum(node.op.name not in free for node in graph.nodes)


@examples(300)
@given(graphs())
def test_text(graph: Graph) -> None:
    """Text and structure survive printing and parsing."""
    text = show(graph)
    parsed = parse(text)
    verify(parsed)
    assert show(parsed, locations=False) == show(graph, locations=False)
    assert structural_key(parsed) == structural_key(graph)


OTHER_WAYS = [way for way in WAYS_OF_RUNNING if way != "interpreted"]


def assert_near(graph: Graph, actual: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Floats agree as far as a few operations in the worst precision of the graph allow."""
    single = any(node.dtype is float32 for node in (*graph.inputs, *graph.nodes))
    rtol = 2e-3 if single else 1e-9
    for a, c in zip(actual, expected, strict=True):
        finite = c[np.isfinite(c)]
        scale = float(np.max(np.abs(finite), initial=0)) if c.dtype.kind == "f" else 0
        np.testing.assert_allclose(a, c, rtol=rtol, atol=rtol * scale, err_msg=str(graph))


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_ways_agree(way: str) -> None:
    """Smooth graphs, so that a last digit that differs cannot decide a comparison."""

    @examples(40)
    @given(graphs(smooth=True), SEEDS)
    def check(graph: Graph, seed: int) -> None:
        arrays = arrays_for(graph, seed)
        assert_near(graph, WAYS_OF_RUNNING[way](graph, arrays), evaluate(graph, arrays))

    check()


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_ways_agree_on_special_values(way: str) -> None:
    """Zeros of both signs, infinities and NaN, through every op."""

    @examples(40)
    @given(graphs(dtypes=(float64,)), SEEDS)
    def check(graph: Graph, seed: int) -> None:
        arrays = arrays_for(graph, seed, special=True)
        assert_near(graph, WAYS_OF_RUNNING[way](graph, arrays), evaluate(graph, arrays))

    check()


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_ways_agree_exactly(way: str) -> None:
    """Integers and bools, with every op that takes them."""

    @examples(40)
    @given(graphs(dtypes=(int64, int32, uint8, bool_)), SEEDS)
    def check(graph: Graph, seed: int) -> None:
        arrays = arrays_for(graph, seed)
        with_way = WAYS_OF_RUNNING[way](graph, arrays)
        for a, c in zip(with_way, evaluate(graph, arrays), strict=True):
            assert_same(a, c, str(graph))

    check()


@examples(40)
@given(graphs(dtypes=(float64, int64)), SEEDS, st.booleans())
def test_cuts_change_nothing(graph: Graph, seed: int, special: bool) -> None:
    """Elements are the same, to the last bit, whether placements are stored or read where they lie.

    Sums are left out: their order depends on the loops.
    """
    unordered = {"sum", "matmul", "mean", "prod", "cumsum", "scatter_add", "index_add"}
    after: set[Node] = set()
    for node in graph.nodes:
        if node.op.name in unordered or not after.isdisjoint(node.inputs):
            after.add(node)
    arrays = arrays_for(graph, seed, special=special)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "compiling_cost", lambda shape, cuts: 0.0)
        found = run_native(graph, arrays)
        patch.setattr(cutting, "REGION_LIMIT", 0)
        expected = run_native(graph, arrays)
    for output, a, c in zip(graph.outputs, found, expected, strict=True):
        if output not in after or output.dtype is int64:
            assert_same(a, c, str(graph))


def weighted_sum(graph: Graph) -> Graph:
    """The graph with one 0-d output that depends on all outputs, each element with its weight."""
    extended = graph.replace()
    builder = GraphBuilder(extended)
    with builder:
        total = builder.const(0, float64)
        for output in graph.outputs:
            weights = np.cos(np.arange(output.type.size, dtype=float)).reshape(output.shape)
            product = output * builder.const_array(weights)
            axes = tuple(range(product.ndim))
            total = total + registered("sum")(product, axis=axes, keepdims=False)
    return extended.replace(outputs=[total])


def smooth_graphs() -> st.SearchStrategy[Graph]:
    return graphs(smooth=True, dtypes=(float64,), steps=15)


def gradients(graph: Graph) -> Iterator[tuple[str, Graph]]:
    """The gradient of a graph with one 0-d output, before and after the passes."""
    joint, cotangents = append_adjoint(graph, graph.outputs, graph.inputs)
    builder = GraphBuilder(joint)
    outputs = [
        builder.full(x.shape, 0, x.dtype) if ct is None else ct
        for x, ct in zip(graph.inputs, cotangents, strict=True)
    ]
    joint = joint.replace(outputs=outputs)
    verify(joint)
    yield "as appended", joint
    yield "optimized", optimize_verified(joint)


@examples(400)
@given(smooth_graphs(), SEEDS)
def test_gradient(graph: Graph, seed: int) -> None:
    """The gradient along a random direction is the central difference."""
    scalar = weighted_sum(graph)
    arrays = arrays_for(scalar, seed)
    directions = arrays_for(scalar, seed + 1)
    step = 1e-5

    def at(offset: float) -> float:
        moved = [x + offset * d for x, d in zip(arrays, directions, strict=True)]
        return float(evaluate(scalar, moved)[0])

    # Richardson: the error is of the fourth order.
    coarse = (at(2 * step) - at(-2 * step)) / (4 * step)
    fine = (at(step) - at(-step)) / (2 * step)
    expected = (4 * fine - coarse) / 3
    size = max(1.0, abs(at(0)))
    for name, graph_of_gradient in gradients(scalar):
        values = evaluate(graph_of_gradient, arrays)
        pairs = list(zip(values, directions, strict=True))
        actual = sum(float(np.sum(g * d)) for g, d in pairs)
        scale = sum(float(np.sum(np.abs(g * d))) for g, d in pairs)
        assert abs(actual - expected) <= 1e-5 * scale + 1e-8 * size, f"{name}\n{scalar}"


@examples(300)
@given(smooth_graphs(), SEEDS)
def test_partition(graph: Graph, seed: int) -> None:
    """Forward and backward halves together compute what the joint graph does."""
    joint = graph.replace()
    builder = GraphBuilder(joint)
    seeds = [builder.input(output.type, "ct") for output in graph.outputs]
    joint, cotangents = append_adjoint(joint, graph.outputs, graph.inputs, seeds)
    joint = joint.replace(outputs=[*graph.outputs, *(ct for ct in cotangents if ct is not None)])
    joint = optimize_verified(joint)
    arrays = arrays_for(joint, seed)
    forward, backward, residuals = partition(joint, len(graph.outputs), seeds)
    verify(forward, after="partition")
    verify(backward, after="partition")
    count = len(graph.outputs)
    outputs = evaluate_contiguous(forward, arrays[: len(forward.inputs)])
    assert len(outputs) == count + len(residuals)
    late = [*outputs[count:], *arrays[len(graph.inputs) :]]
    results = [*outputs[:count], *evaluate_contiguous(backward, late)]
    for a, c in zip(results, evaluate_contiguous(joint, arrays), strict=True):
        assert_same(a, c, f"{joint}\n{forward}\n{backward}")
