"""The text of graphs, in the format that the documentation shows."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers import build, call
from tracegrad.ir import (
    Graph,
    GraphBuilder,
    IRError,
    SourceLocation,
    TensorType,
    append_adjoint,
    differentiate,
    show,
    to_json,
)
from tracegrad.ir.printer import format_value, value_names
from tracegrad.ir.types import DTYPES, float32, float64

F4 = TensorType(float64, (4,))

DEMO = """\
graph @f(%x: f64[4]) -> (f64[], f64[4]) {
  %0: f64[4] = sin %x                                     # demo.py:2
  %1: f64[] = const[value=2.0]                            # demo.py:3
  %2: f64[4] = mul %0, %1                                 # demo.py:3
  %3: f64[] = sum[axis=(0,), keepdims=False] %2           # demo.py:4
  %4: f64[] = const[value=1.0]                            # adjoint: seed of %3
  %5: f64[4] = broadcast_in_dim[dims=(), shape=(4,)] %4   # adjoint of sum %3, demo.py:4
  %6: f64[4] = mul %5, %1                                 # adjoint of mul %2, demo.py:3
  %7: f64[4] = cos %x                                     # adjoint of sin %0, demo.py:2
  %8: f64[4] = mul %6, %7                                 # adjoint of sin %0, demo.py:2
  return %3, %8
}
"""


def demo() -> Graph:
    builder = GraphBuilder("f")
    with builder:
        x = builder.input(F4, "x")
        builder.location = SourceLocation("/home/me/demo.py", line=2)
        y = call("sin", x)
        builder.location = SourceLocation("/home/me/demo.py", line=3)
        y = y * 2.0
        builder.location = SourceLocation("/home/me/demo.py", line=4)
        y = call("sum", y, axis=(0,), keepdims=False)
    return builder.graph.replace(outputs=[y])


def test_demo() -> None:
    assert show(differentiate(demo())) == DEMO
    assert str(differentiate(demo())) == DEMO


def test_without_locations() -> None:
    expected = "\n".join(line.split("#")[0].rstrip() for line in DEMO.split("\n"))
    assert show(differentiate(demo()), locations=False) == expected


def test_seeds_of_outputs_that_are_no_scalars() -> None:
    graph = build(lambda x: call("tanh", x), F4)
    extended, _ = append_adjoint(graph, graph.outputs, graph.inputs)
    lines = show(extended).splitlines()
    assert lines[2].endswith("# adjoint: seed of %0")
    assert lines[3].endswith("# adjoint: seed of %0")
    # The one in 1 - tanh(x)**2 is the seed's, because equal constants are made once.
    assert [line.split("# ")[1] for line in lines[4:-2]] == ["adjoint of tanh %0"] * 3


def test_origin_that_is_gone() -> None:
    graph = differentiate(demo())
    kept = graph.replace(nodes=[n for n in graph.nodes if n.op.name == "cos"], outputs=[])
    assert "# adjoint of sin, demo.py:2" in show(kept)


def test_scopes_stand_behind_the_line() -> None:
    builder = GraphBuilder("f")
    with builder:
        builder.scope = "layers.0"
        y = call("sin", builder.input(F4))
        builder.location = SourceLocation("demo.py", line=2)
        y = call("cos", y)
    comments = [line.split("#")[1] for line in show(builder.graph).splitlines() if "#" in line]
    assert comments == [" in layers.0", " demo.py:2 in layers.0"]


def test_empty_graph() -> None:
    assert show(Graph("f")) == "graph @f() -> () {\n  return\n}\n"


def test_names_of_inputs() -> None:
    builder = GraphBuilder("f")
    hints = ["x", "x", "x_1", None, "a b", "0", "_y", "layers.0.weight", "größe", ""]
    for hint in hints:
        builder.input(F4, hint)
    names = list(value_names(builder.graph).values())
    assert len(set(names)) == len(hints)
    assert names == [
        "x", "x_1", "x_1_1", "arg3", "a_b", "_0", "_y", "layers.0.weight", "größe", "arg9",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "True"),
        (0, "0"),
        (-0.0, "-0.0"),
        (0.1, "0.1"),
        (1e-300, "1e-300"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ((), "()"),
        ((4,), "(4,)"),
        (((1, 2.0), (), (True,)), "((1, 2.0), (), (True,))"),
        (None, "None"),
        ("wrap", "'wrap'"),
        (float32, "f32"),
        (np.float64(2.5), "2.5"),
        (np.int64(3), "3"),
        (np.bool_(True), "True"),
        *((dtype, dtype.name) for dtype in DTYPES),
    ],
)
def test_values(value: object, text: str) -> None:
    assert format_value(value) == text


def test_values_without_text() -> None:
    with pytest.raises(IRError, match="an attribute of list has no text form"):
        format_value([1, 2])


def test_a_long_line_leaves_the_comments_where_they_are() -> None:
    builder = GraphBuilder("f")
    with builder:
        builder.location = SourceLocation("demo.py", line=1)
        constant = builder.const_array(np.arange(64.0))
        y = call("sin", constant)
    lines = show(builder.graph.replace(outputs=[y])).splitlines()
    assert len(lines[1]) > 300
    assert lines[2] == "  %1: f64[64] = sin %0   # demo.py:1"


def test_json() -> None:
    data = json.loads(json.dumps(to_json(differentiate(demo()))))
    assert data["outputs"] == ["3", "8"]
    assert [node["op"] for node in data["inputs"]] == ["input"]
    last = data["nodes"][-1]
    assert last == {
        "id": "8",
        "op": "mul",
        "inputs": ["6", "7"],
        "attrs": {},
        "type": {"dtype": "f64", "shape": [4]},
        "location": {"file": "/home/me/demo.py", "line": 2},
        "scope": "",
        "origin": "0",
        "adjoint": True,
        "hint": None,
    }
    assert data["nodes"][3]["attrs"] == {"axis": "(0,)", "keepdims": "False"}
