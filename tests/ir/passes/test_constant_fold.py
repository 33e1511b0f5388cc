"""Constants are computed once, by the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import build, call, check_rewrite, emit
from tracegrad.ir import GraphBuilder, IRError, Node, SourceLocation, evaluate, show
from tracegrad.ir.graph import current_builder
from tracegrad.ir.op import pointwise
from tracegrad.ir.passes import eliminate_dead_code, fold_constants
from tracegrad.ir.types import DType, TensorType, float32, float64, int64

FOLD = (fold_constants, eliminate_dead_code)


def test_scalars(rng: np.random.Generator) -> None:
    graph = build(
        lambda x: x * call("sqrt", _const(2.0)) + call("exp", _const(2.0) * 0.5), "f64[4]"
    )
    check_rewrite(
        graph,
        f"""%0: f64[] = const[value={np.sqrt(2.0)}]
        %1: f64[4] = mul %x, %0
        %2: f64[] = const[value={np.exp(1.0)}]
        %3: f64[4] = add %1, %2
        return %3""",
        *FOLD, rng=rng,
    )  # fmt: skip


def _const(value: float, dtype: DType = float64) -> Node:
    return current_builder().const(value, dtype)


def test_values_are_those_of_the_dtype(rng: np.random.Generator) -> None:
    graph = build(lambda x: x + call("sqrt", _const(2.0, float32)), "f32[4]")
    check_rewrite(
        graph,
        f"""%0: f32[] = const[value={float(np.sqrt(np.float32(2)))}]
        %1: f32[4] = add %x, %0
        return %1""",
        *FOLD, rng=rng,
    )  # fmt: skip


def test_arrays(rng: np.random.Generator) -> None:
    graph = build(
        lambda x: x + call("cast", emit("iota", size=3, dtype=int64) * 2, dtype=float64), "f64[3]"
    )
    check_rewrite(
        graph,
        "%0: f64[3] = const[value=(0.0, 2.0, 4.0)]\n%1: f64[3] = add %x, %0\nreturn %1",
        *FOLD, rng=rng,
    )  # fmt: skip


def test_uniform_arrays_are_broadcast_scalars(rng: np.random.Generator) -> None:
    graph = build(lambda x: x + call("sin", call("zeros", _const(1.0), shape=(2, 3))), "f64[2,3]")
    check_rewrite(
        graph,
        """%0: f64[] = const[value=0.0]
        %1: f64[2,3] = broadcast_in_dim[dims=(), shape=(2, 3)] %0
        %2: f64[2,3] = add %x, %1
        return %2""",
        *FOLD, rng=rng,
    )  # fmt: skip


def test_zeros_of_both_signs_are_not_uniform() -> None:
    builder = GraphBuilder("f")
    with builder:
        node = -builder.const_array(np.array([0.0, -0.0]))
    (folded,) = fold_constants(builder.graph.replace(outputs=[node])).outputs
    assert folded.op.name == "const"
    assert str(folded.attrs["value"]) == "(-0.0, 0.0)"


def test_what_is_simple_stays() -> None:
    graph = build(lambda: (emit("iota", size=3, dtype=int64), _broadcast(_const(2.0), 4)), name="f")
    assert fold_constants(graph) is graph


def _broadcast(x: Node, size: int) -> Node:
    return call("broadcast_in_dim", x, shape=(size,), dims=())


def test_large_results_stay_computations() -> None:
    for size, folded in ((64, True), (65, False)):
        graph = build(lambda size=size: call("sin", _broadcast(_const(2.0), size)))
        result = fold_constants(graph)
        assert (result is not graph) == folded
    assert fold_constants.bind(largest=65)(graph) is not graph


def test_reductions_of_constants(rng: np.random.Generator) -> None:
    graph = build(lambda: call("sum", _broadcast(_const(0.1), 10), axis=(0,), keepdims=False))
    check_rewrite(
        graph, f"%0: f64[] = const[value={np.sum(np.full(10, 0.1))}]\nreturn %0", *FOLD, rng=rng
    )


def test_what_raises_is_left_to_raise() -> None:
    graph = build(lambda: call("floor_div", _const(1, int64), _const(0, int64)))
    result = fold_constants(graph)
    assert result is graph
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        evaluate(result, [])


def test_floating_point_errors_are_silent() -> None:
    graph = build(lambda: call("div", _const(1.0), _const(0.0)))
    (node,) = fold_constants(graph).outputs
    assert node.attrs["value"] == np.inf


def test_locations_survive() -> None:
    builder = GraphBuilder("f")
    with builder:
        builder.location, builder.scope = SourceLocation("demo.py", line=5), "layers.0"
        node = call("sin", builder.const(2.0, float64))
    graph = eliminate_dead_code(fold_constants(builder.graph.replace(outputs=[node])))
    assert show(graph).splitlines()[1].endswith("# demo.py:5 in layers.0")


def test_wrong_type_rules_are_noticed() -> None:
    liar = pointwise(
        "liar_of_test_constant_fold",
        eval=lambda x: x.astype(np.float32),
        operands=("x",),
        type_rule=lambda x: TensorType(float64, x.shape),
    )
    builder = GraphBuilder("f")
    node = builder.emit(liar, (builder.const(2.0, float64),), {})
    with pytest.raises(IRError, match=r"has type f64\[\], but evaluates to"):
        fold_constants(builder.graph.replace(outputs=[node]))
