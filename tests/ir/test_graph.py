"""Nodes, graphs, and building them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import build, call
from tracegrad.ir import Graph, GraphBuilder, SourceLocation, TensorType, evaluate, registered
from tracegrad.ir.graph import current_builder
from tracegrad.ir.types import bool_, float32, float64, int64

F4 = TensorType(float64, (4,))


def test_operators_on_nodes() -> None:
    graph = build(lambda x, y: -(2.0 * x + y - 1.0) / (3.0 / x) - (1.0 - y) * (x + 1.0), F4, F4)
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, -1.0, 2.0, 0.0])
    expected = -(2.0 * x + y - 1.0) / (3.0 / x) - (1.0 - y) * (x + 1.0)
    np.testing.assert_allclose(evaluate(graph, [x, y])[0], expected, rtol=1e-15)


def test_matmul_operator() -> None:
    graph = build(lambda x, y: x @ y, "f64[2,3]", "f64[3,4]")
    assert graph.outputs[0].type == TensorType(float64, (2, 4))


def test_constants_are_made_once() -> None:
    builder = GraphBuilder("f")
    zero = builder.const(0, float64)
    assert builder.const(0.0, float64) is zero
    assert builder.const(-0.0, float64) is not zero
    assert builder.const(0, int64) is not zero
    assert builder.const(False, bool_) is not builder.const(0, int64)
    assert builder.const(math.nan, float64) is builder.const(math.nan, float64)
    assert builder.const(0.1, float32).attrs["value"] == float(np.float32(0.1))


def test_constant_arrays() -> None:
    builder = GraphBuilder("f")
    array = np.arange(6.0).reshape(2, 3).T
    node = builder.const_array(array)
    np.testing.assert_array_equal(evaluate(builder.graph.replace(outputs=[node]), [])[0], array)
    assert builder.const_array(np.array(2.0)).attrs["value"] == 2.0


def test_numbers_become_constants_of_the_other_operand() -> None:
    graph = build(lambda x: call("where", call("lt", x, 1.0), x, 0.0), "f32[3]")
    assert {node.dtype.name for node in graph.nodes if node.op.name == "const"} == {"f32"}


def test_nodes_carry_what_the_builder_says() -> None:
    builder = GraphBuilder("f")
    with builder:
        x = builder.input(F4, "x")
        builder.location, builder.scope = SourceLocation("demo.py", line=7), "layers.0"
        first = call("sin", x)
        builder.origin = first
        second = call("cos", x)
    assert (first.location, first.scope, first.origin) == (builder.location, "layers.0", None)
    assert second.origin is first
    assert repr(x) == "<Node x: f64[4]>"
    assert repr(first) == "<Node sin: f64[4]>"


def test_builders_nest() -> None:
    with GraphBuilder("outer") as outer:
        with GraphBuilder("inner") as inner:
            assert current_builder() is inner
        assert current_builder() is outer
    with pytest.raises(RuntimeError, match="outside of a GraphBuilder"):
        current_builder()


def test_type_errors_are_those_of_the_type_rule() -> None:
    with pytest.raises(RuntimeError, match=r"The size of tensor a \(4\) must match"):
        build(lambda x, y: x + y, "f64[4]", "f64[3]")
    with pytest.raises(RuntimeError, match="expected operands of one dtype"):
        build(lambda x, y: x + y, "f64[4]", "f32[4]")


def test_attrs_key_ignores_order() -> None:
    x = GraphBuilder("f").input(F4)
    make = GraphBuilder("g").emit
    a = make(registered("sum"), (x,), {"axis": (0,), "keepdims": False})
    b = make(registered("sum"), (x,), {"keepdims": False, "axis": (0,)})
    assert a.attrs_key() == b.attrs_key() == (("axis", (0,)), ("keepdims", False))
    assert x.attrs_key() == ()


def test_queries() -> None:
    graph = build(lambda x, y: call("sin", x) * x, F4, F4)
    x, y = graph.inputs
    sin, product = graph.nodes
    assert graph.users() == {x: [sin, product], y: [], sin: [product], product: []}
    assert graph.reachable_from([sin]) == {x, sin}
    assert graph.filtered(lambda node: True) is graph
    assert graph.filtered(lambda node: node is sin).nodes == [sin]
    renamed = graph.replace(name="g")
    assert (renamed.name, renamed.nodes) == ("g", graph.nodes)
    assert renamed.nodes is not graph.nodes
    assert repr(graph) == "<Graph @f: 2 inputs, 2 nodes>"


def test_deep_graphs_need_no_recursion() -> None:
    builder = GraphBuilder("deep")
    with builder:
        x = y = builder.input(F4)
        for _ in range(20_000):
            y = y + x
    graph: Graph = builder.graph.replace(outputs=[y])
    assert len(graph.reachable_from(graph.outputs)) == 20_001
    np.testing.assert_array_equal(evaluate(graph, [np.ones(4)])[0], np.full(4, 20_001.0))
