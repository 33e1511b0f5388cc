"""Differentiation of whole graphs. Single ops: tests/ops; random graphs: tests/fuzz."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import build, call
from tracegrad.ir import (
    GraphBuilder,
    IRError,
    TensorType,
    append_adjoint,
    append_tangent,
    differentiate,
    evaluate,
    verify,
)
from tracegrad.ir.types import float64, int64


def total(x: object) -> object:
    return call("sum", x, axis=tuple(range(x.ndim)), keepdims=False)  # type: ignore[attr-defined]


def test_gradient_of_several_inputs() -> None:
    graph = differentiate(build(lambda x, y: total(x * x * y), "f64[3]", "f64[]"))
    x, y = np.array([1.0, 2.0, 3.0]), np.array(2.0)
    value, dx, dy = evaluate(graph, [x, y])
    assert value == 28
    np.testing.assert_array_equal(dx, 2 * x * y)
    assert dy == 14


def test_inputs_that_do_not_matter() -> None:
    graph = differentiate(build(lambda x, y, n: total(x), "f64[3]", "f64[2]", "i64[2]"))
    assert [x.type for x in graph.outputs[1:]] == [
        TensorType(float64, (3,)),
        TensorType(float64, (2,)),
    ]
    inputs = [np.ones(3), np.ones(2), np.ones(2, np.int64)]
    assert not evaluate(graph, inputs)[2].any()
    _, cotangents = append_adjoint(graph, graph.outputs[:1], graph.inputs)
    assert cotangents[1] is None
    assert cotangents[2] is None


def test_only_what_is_asked_for_is_differentiated() -> None:
    graph = build(lambda x, y: total(call("exp", x) * call("log", y)), "f64[3]", "f64[3]")
    extended, _ = append_adjoint(graph, graph.outputs, graph.inputs[:1])
    added = {node.op.name for node in extended.nodes[len(graph.nodes) :]}
    assert "div" not in added  # The partial of the logarithm.
    assert extended.nodes[: len(graph.nodes)] == graph.nodes


def test_an_input_may_be_an_output() -> None:
    graph = build(lambda x: x, "f64[]")
    extended, (ct,) = append_adjoint(graph, graph.outputs, graph.inputs)
    assert ct is not None
    assert evaluate(extended.replace(outputs=[ct]), [np.array(3.0)]) == [1.0]


def test_cotangents_of_inner_nodes() -> None:
    graph = build(lambda x: total(call("sin", x) * 2.0), "f64[3]")
    sine = graph.nodes[0]
    extended, cotangents = append_adjoint(graph, graph.outputs, [sine, graph.inputs[0]])
    x = np.array([0.1, 0.2, 0.3])
    values = evaluate(extended.replace(outputs=[c for c in cotangents if c]), [x])
    np.testing.assert_array_equal(values[0], np.full(3, 2.0))
    np.testing.assert_allclose(values[1], 2 * np.cos(x), rtol=1e-15)


def test_the_same_output_twice_counts_twice() -> None:
    graph = build(lambda x: (x * 3.0, x * 1.0), "f64[]")
    first = graph.outputs[0]
    extended, (ct,) = append_adjoint(graph, [first, first], graph.inputs)
    assert ct is not None
    assert evaluate(extended.replace(outputs=[ct]), [np.array(1.0)]) == [6.0]


def test_adjoint_nodes_know_their_origin() -> None:
    graph = differentiate(build(lambda x: total(call("sin", x) * x), "f64[3]"))
    primal = [node for node in graph.nodes if node.origin is None]
    assert [node.op.name for node in primal] == ["sin", "mul", "sum"]
    assert {node.origin for node in graph.nodes} - {None} == set(primal)


def test_integers_carry_no_derivative() -> None:
    graph = build(
        lambda x: total(call("cast", call("cast", x, dtype=int64), dtype=float64) * x), "f64[2]"
    )
    (_, gradient) = evaluate(differentiate(graph), [np.array([1.5, 2.5])])
    np.testing.assert_array_equal(gradient, [1.0, 2.0])


def test_zero_times_infinity_is_nan_as_in_torch() -> None:
    """where(x > 0, sqrt(x), 0): at 0 the branch that is not taken has an infinite partial."""
    graph = build(
        lambda x: total(call("where", call("gt", x, 0.0), call("sqrt", x), 0.0)), "f64[2]"
    )
    (_, gradient) = evaluate(differentiate(graph), [np.array([0.0, 4.0])])
    assert np.isnan(gradient[0])
    assert gradient[1] == 0.25


def test_stopped_nodes_are_constants() -> None:
    graph = build(lambda x: total(call("sin", x) * call("cos", x)), "f64[3]")
    extended, (ct,) = append_adjoint(graph, graph.outputs, graph.inputs, stopped={graph.nodes[0]})
    assert ct is not None
    x = np.array([0.1, 0.2, 0.3])
    np.testing.assert_allclose(
        evaluate(extended.replace(outputs=[ct]), [x])[0], -np.sin(x) * np.sin(x), rtol=1e-15
    )
    _, (ct,) = append_adjoint(graph, graph.outputs, graph.inputs, stopped=set(graph.nodes))
    assert ct is None


def test_differentiate_needs_one_scalar() -> None:
    for function in (lambda x: x, lambda x: (total(x), total(x))):
        graph = build(function, "f64[3]")
        with pytest.raises(IRError, match="grad can be implicitly created only for scalar outputs"):
            differentiate(graph)


def test_tangents() -> None:
    graph = build(lambda x, y: (x * y, call("sin", y), x), "f64[]", "f64[]")
    builder = GraphBuilder(graph)
    tangent = builder.const(1, float64)
    extended, tangents = append_tangent(graph, graph.outputs, {graph.inputs[0]: tangent})
    assert tangents[1] is None
    outputs = [t for t in tangents if t is not None]
    assert evaluate(extended.replace(outputs=outputs), [np.array(2.0), np.array(5.0)]) == [5.0, 1.0]


def test_deep_graphs() -> None:
    builder = GraphBuilder("deep")
    with builder:
        x = y = builder.input(TensorType(float64, ()))
        for _ in range(5_000):
            y = y * 1.0001
    graph = differentiate(builder.graph.replace(outputs=[y]))
    verify(graph)
    value, gradient = evaluate(graph, [np.array(2.0)])
    np.testing.assert_allclose(gradient, value / 2, rtol=1e-12)
    assert x in graph.inputs
