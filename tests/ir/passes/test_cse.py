"""Equal values are computed once; values that only look equal are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import build, call, check_rewrite, emit
from tracegrad.ir import GraphBuilder, differentiate
from tracegrad.ir.graph import current_builder
from tracegrad.ir.passes import eliminate_common_subexpressions as cse
from tracegrad.ir.types import TensorType, bool_, float32, float64, int64


def test_chains(rng: np.random.Generator) -> None:
    graph = build(lambda x: call("exp", call("sin", x)) - call("exp", call("sin", x)), "f64[4]")
    check_rewrite(
        graph,
        """%0: f64[4] = sin %x
        %1: f64[4] = exp %0
        %2: f64[4] = sub %1, %1
        return %2""",
        cse, rng=rng,
    )  # fmt: skip


def test_commutative_operands(rng: np.random.Generator) -> None:
    graph = build(lambda x, y: (x * y, y * x, x - y, y - x), "f64[4]", "f64[4]")
    check_rewrite(
        graph,
        """%0: f64[4] = mul %x, %y
        %1: f64[4] = sub %x, %y
        %2: f64[4] = sub %y, %x
        return %0, %0, %1, %2""",
        cse, rng=rng,
    )  # fmt: skip


def constants(*pairs: tuple[Any, Any]) -> Callable[[], list[Any]]:
    def function() -> list[Any]:
        builders = [GraphBuilder("other") for _ in pairs]  # Each makes its constants anew.
        nodes = [b.const(value, dtype) for b, (value, dtype) in zip(builders, pairs, strict=True)]
        current_builder().graph.nodes.extend(nodes)
        return nodes

    return function


def test_equal_constants() -> None:
    nan = float("nan")
    graph = build(constants((2.0, float64), (2.0, float64), (nan, float64), (nan, float64)))
    assert len(cse(graph).nodes) == 2


@pytest.mark.parametrize(
    "pairs",
    [
        ((0.0, float64), (-0.0, float64)),
        ((1.0, float64), (1.0, float32)),
        ((1, int64), (True, bool_)),
        ((1, int64), (1.0, float64)),
    ],
)
def test_constants_that_differ(pairs: tuple[Any, ...]) -> None:
    graph = build(constants(*pairs))
    assert cse(graph) is graph


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (call("pad", x, low=(1,), high=(0,), value=0.0),
                   call("pad", x, low=(1,), high=(0,), value=-0.0)),
        lambda x: (call("sum", x, axis=(0,), keepdims=False), call("sum", x, axis=(0,), keepdims=True)),
        lambda x: (call("sin", x), call("cos", x)),
        lambda x: (call("cast", x, dtype=float32), call("cast", x, dtype=int64)),
        lambda x: (emit("iota", size=3, dtype=int64), emit("iota", size=4, dtype=int64)),
    ],
)  # fmt: skip
def test_values_that_differ(function: Callable[..., Any]) -> None:
    graph = build(function, "f64[4]")
    assert cse(graph) is graph


def test_the_adjoint_uses_what_the_primal_computed() -> None:
    def function(x: Any) -> Any:
        return call("sum", call("sin", x) * call("cos", x), axis=(0,), keepdims=False)

    graph = cse(differentiate(build(function, "f64[4]")))
    sines = [node for node in graph.nodes if node.op.name == "sin"]
    assert len(sines) == 1
    assert sines[0].origin is None


def test_origins_follow() -> None:
    builder = GraphBuilder("f")
    with builder:
        x = builder.input(TensorType(float64, (4,)))
        first, second = call("sin", x), call("sin", x)
        builder.origin = second
        adjoint = call("cos", x)
        builder.origin = None
    graph = cse(builder.graph.replace(outputs=[first, second, adjoint]))
    assert graph.outputs[0] is graph.outputs[1] is first
    assert graph.outputs[2].origin is first


def test_long_graphs() -> None:
    builder = GraphBuilder("f")
    with builder:
        x = builder.input(TensorType(float64, ()))
        y = z = x
        for _ in range(10_000):
            y, z = call("sin", y), call("sin", z)
    graph = cse(builder.graph.replace(outputs=[y, z]))
    assert len(graph.nodes) == 10_000
