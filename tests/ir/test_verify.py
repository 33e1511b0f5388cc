"""Each invariant, broken once."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import build, call
from tracegrad.ir import (
    Graph,
    Node,
    SourceLocation,
    TensorType,
    VerificationError,
    registered,
    verify,
)
from tracegrad.ir.types import bool_, float32, float64, int64, uint8

F4 = TensorType(float64, (4,))
F0 = TensorType(float64, ())


def node(op: str, *inputs: Node, type: TensorType = F4, **attrs: Any) -> Node:
    return Node(registered(op), inputs, attrs, type, SourceLocation("demo.py", line=3))


def value() -> Node:
    return node("input")


def graph_of(*nodes: Node, inputs: tuple[Node, ...] = (), outputs: tuple[Node, ...] = ()) -> Graph:
    return Graph("f", inputs, nodes, outputs or nodes[-1:])


def rejected(graph: Graph, after: str | None = None) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(graph, after=after)
    return str(caught.value)


def test_valid() -> None:
    verify(build(lambda x: call("sum", call("sin", x), axis=(0,), keepdims=False), F4))
    verify(Graph("empty"))


def test_inputs_are_of_the_op_input() -> None:
    x = value()
    assert "is a graph input, but its op is sin" in rejected(graph_of(inputs=(x, node("sin", x))))
    assert "is an input, but stands among the nodes" in rejected(graph_of(x))


def test_listed_once() -> None:
    x = value()
    y = node("sin", x)
    assert "%1 stands in the graph twice" in rejected(graph_of(y, y, inputs=(x,)))
    assert "stands in the graph twice" in rejected(Graph("f", [x, x]))


def test_order() -> None:
    x = value()
    y = node("sin", x)
    z = node("cos", y)
    assert "%0 uses operand 0 before it is computed" in rejected(graph_of(z, y, inputs=(x,)))
    message = rejected(graph_of(z, inputs=(x,)))
    assert "%0 uses operand 0, <Node sin: f64[4]>, which is not in the graph" in message
    assert "> %0: f64[4] = cos %?" in message


def test_outputs() -> None:
    x = value()
    message = rejected(Graph("f", [x], [], [node("sin", x)]))
    assert "sin (not in the graph) is output 0, but is not in the graph" in message


def test_arity() -> None:
    x = value()
    assert "has 2 operands, but sin takes 1" in rejected(graph_of(node("sin", x, x), inputs=(x,)))
    assert "has 1 operands, but add takes 2" in rejected(graph_of(node("add", x), inputs=(x,)))
    assert "has no operands, but concat takes" in rejected(graph_of(node("concat", axis=0)))


def test_attrs() -> None:
    x = value()
    message = rejected(graph_of(node("sum", x, axis=(0,)), inputs=(x,)))
    assert "has the attributes ['axis'], but sum takes ['axis', 'keepdims']" in message
    message = rejected(graph_of(node("sin", x, axis=(0,)), inputs=(x,)))
    assert "has the attributes ['axis'], but sin takes []" in message
    message = rejected(graph_of(node("sum", x, axis=[0], keepdims=False), inputs=(x,)))
    assert "has a wrong axis: an attribute of list has no text form: [0]" in message


@pytest.mark.parametrize(
    ("content", "type", "message"),
    [
        (1, F0, "holds 1"),
        (1.0, TensorType(int64, ()), "holds 1.0"),
        (1, TensorType(bool_, ()), "holds 1"),
        (True, TensorType(int64, ()), "holds True"),
        (256, TensorType(uint8, ()), "256 is out of range"),
        ((1.0, 2.0), F4, "has 2 elements"),
        (1.0, F4, "its value is not a tuple"),
        ((1.0,), F0, "holds (1.0,)"),
    ],
)
def test_constants(content: Any, type: TensorType, message: str) -> None:
    assert message in rejected(graph_of(node("const", type=type, value=content)))


def test_types_are_computed_anew() -> None:
    x = value()
    wrong = node("sum", x, axis=(0,), keepdims=False)
    assert "%0 has type f64[4], but sum makes f64[]" in rejected(graph_of(wrong, inputs=(x,)))
    y = Node(registered("input"), (), {}, TensorType(float32, (4,)))
    message = rejected(graph_of(node("add", x, y), inputs=(x, y)))
    assert "has operands that add does not take: expected operands of one dtype" in message


def test_origins() -> None:
    x = value()
    late = node("sin", x)
    early = Node(registered("cos"), (x,), {}, F4, origin=late)
    message = rejected(graph_of(early, late, inputs=(x,)))
    assert "%0 comes before its origin, sin %1" in message
    verify(graph_of(late, early, inputs=(x,)))
    verify(graph_of(early, inputs=(x,)))  # The origin need not be in the graph.


def test_message() -> None:
    x = value()
    nodes = [node("sin", x) for _ in range(6)]
    nodes[3] = node("sin", x, type=F0)
    message = rejected(graph_of(*nodes, inputs=(x,)), after="cse")
    assert message.splitlines() == [
        "@f is not a valid graph after pass cse: %3 has type f64[], but sin makes f64[4]",
        "    %1: f64[4] = sin %arg0",
        "    %2: f64[4] = sin %arg0",
        "  > %3: f64[] = sin %arg0",
        "    %4: f64[4] = sin %arg0",
        "    %5: f64[4] = sin %arg0",
        '  from File "demo.py", line 3',
    ]
