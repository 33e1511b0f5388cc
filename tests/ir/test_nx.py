"""Graphs for networkx and Graphviz."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from helpers import build, call
from tracegrad.ir import Graph, GraphBuilder, TensorType, differentiate
from tracegrad.ir.nx import critical_path, to_dot, to_networkx
from tracegrad.ir.types import float64


def demo() -> Graph:
    builder = GraphBuilder("f")
    with builder:
        x = builder.input(TensorType(float64, (4,)), "x")
        builder.scope = "layers.0"
        y = call("sin", x) * x
        builder.scope = ""
        y = call("sum", y, axis=(0,), keepdims=False)
    return differentiate(builder.graph.replace(outputs=[y]))


def test_networkx() -> None:
    networkx = pytest.importorskip("networkx")
    graph = demo()
    result = to_networkx(graph)
    assert networkx.is_directed_acyclic_graph(result)
    assert result.number_of_nodes() == 1 + len(graph.nodes)
    assert result.number_of_edges() == sum(len(node.inputs) for node in graph.nodes)
    assert result.nodes["0"]["op"] == "sin"
    assert result.nodes["0"]["node"] is graph.nodes[0]
    assert {result.nodes[name]["adjoint"] for name in ("x", "0", "1", "2")} == {False}
    assert all(result.nodes[str(i)]["adjoint"] for i in range(3, len(graph.nodes)))
    # Both operands of x * x are edges.
    square = to_networkx(build(lambda x: x * x, "f64[]"))
    assert [d["operand"] for _, _, d in square.edges(data=True)] == [0, 1]


def test_critical_path() -> None:
    pytest.importorskip("networkx")
    graph = build(lambda x, y: call("sin", call("cos", x)) + call("exp", y), "f64[]", "f64[]")
    assert [n.op.name for n in critical_path(graph)] == ["input", "cos", "sin", "add"]
    dear = critical_path(graph, lambda node: 10 if node.op.name == "exp" else 1)
    assert [n.op.name for n in dear] == ["input", "exp", "add"]


def test_dot() -> None:
    graph = demo()
    text = to_dot(graph)
    assert text.count("{") == text.count("}")
    assert re.search(r'subgraph cluster_\d+ \{\n    label="layers.0"', text)
    nodes = re.findall(r'^ *"(\w+)" \[label="%', text, re.MULTILINE)
    assert sorted(nodes) == sorted(["x", *(str(i) for i in range(len(graph.nodes)))])
    adjoint = sum(node.origin is not None for node in graph.nodes)
    assert text.count("#fde3cf") == adjoint
    assert text.count("style=dashed") == adjoint
    edges = re.findall(r'^  "(\w+)" -> "(\w+)"$', text, re.MULTILINE)
    assert len(edges) == sum(len(node.inputs) for node in graph.nodes)
    assert text.count('-> "output') == 2


def test_dot_quotes_names() -> None:
    builder = GraphBuilder('a "quoted" name')
    builder.scope = 'with "quotes"'
    builder.input(TensorType(float64, ()), "x")
    text = to_dot(builder.graph)
    assert r'digraph "a \"quoted\" name"' in text
    assert r'label="with \"quotes\""' in text


def test_networkx_is_imported_only_when_used() -> None:
    script = "import sys, tracegrad.ir.nx, tracegrad.ir.passes; sys.exit('networkx' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
