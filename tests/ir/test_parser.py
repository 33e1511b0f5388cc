"""Text that becomes a graph, and the messages for text that does not."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracegrad.ir import Graph, GraphBuilder, ParseError, TensorType, parse, show, verify
from tracegrad.ir.op import registered
from tracegrad.ir.printer import format_value
from tracegrad.ir.types import DTYPES, float64

GOOD = """
# A comment before, and one behind each line.
graph @f(%x: f64[4], %w.0: f32[2,3]) -> (f64[4], f64[]) {  # here
  %0: f64[4] = sin %x   # demo.py:2
  %1: f64[] = const[value=-0.0]
  %2: f64[4] = mul %0,
      %1
  %3: i64[5] = iota[dtype=i64, size=5]
  %4: f64[5] = cast[dtype=f64] %3
  %5: f64[] = sum[ axis = (0,) , keepdims=False ] %4
  return %2, %5
}
# The end.
"""


def test_parse() -> None:
    graph = parse(GOOD)
    verify(graph)
    assert graph.name == "f"
    assert [x.hint for x in graph.inputs] == ["x", "w.0"]
    assert [node.op.name for node in graph.nodes] == ["sin", "const", "mul", "iota", "cast", "sum"]
    assert math.copysign(1, graph.nodes[1].attrs["value"]) == -1
    assert graph.nodes[2].inputs == (graph.nodes[0], graph.nodes[1])
    assert graph.nodes[4].attrs == {"dtype": float64}
    assert graph.outputs == [graph.nodes[2], graph.nodes[5]]
    assert show(parse(show(graph))) == show(graph)


VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats()
    | st.none()
    | st.sampled_from(DTYPES)
    | st.text(st.characters(codec="utf-8")),
    lambda values: st.lists(values, max_size=4).map(tuple),
    max_leaves=12,
)


@given(VALUES)
def test_values_survive_exactly(value: Any) -> None:
    builder = GraphBuilder("f")
    node = builder.append("const", (), {"value": value}, TensorType(float64, ()))
    text = show(builder.graph.replace(outputs=[node]))
    parsed = parse(text).nodes[0].attrs["value"]
    # As text, because NaN is not equal to itself and 1 is equal to True.
    assert format_value(parsed) == format_value(value)


@given(st.text(st.characters(codec="utf-8")))
def test_names_survive(name: str) -> None:
    builder = GraphBuilder(name)
    builder.input(TensorType(float64, ()), name)
    graph = parse(show(builder.graph))
    assert graph.name == name
    assert show(graph) == show(builder.graph)


@pytest.mark.parametrize(
    ("before", "after", "line", "column", "message"),
    [
        ("graph @f", "grph @f", 3, 1, "expected 'graph'"),
        ("@f(", "f(", 3, 7, "expected a graph name such as @f"),
        ("f64[4],", "f65[4],", 3, 14, "unknown dtype 'f65'"),
        ("f64[4],", "f64[4 4],", 3, 14, r"expected a shape such as \[3,4\]"),
        ("f64[4],", "f64,", 3, 14, r"expected a type such as f64\[3,4\]"),
        ("%w.0:", "%x:", 3, 22, "%x is defined twice"),
        ("(f64[4], f64[])", "(f64[4], f32[])", 3, 42, r"other result types than it returns"),
        ("= sin", "= sinus", 4, 16, "unknown op 'sinus'"),
        ("= sin", "sin", 4, 14, "expected '='"),
        ("= sin", "= %x", 4, 16, "expected the name of an op"),
        ("sin %x", "sin %y", 4, 20, "%y is used before it is defined"),
        ("%1: f64", "%0: f64", 5, 3, "%0 is defined twice"),
        ("value=-0.0", "value=-", 5, 27, "expected a value"),
        ("value=-0.0", "value=f65", 5, 27, "'f65' is no value"),
        ("value=-0.0", "value=(1, 2", 5, 32, r"expected '\)'"),
        ("value=-0.0]", "value=0.0, value=1.0]", 5, 32, "attribute 'value' is given twice"),
        ("keepdims=False ]", "keepdims=False", 10, 49, "expected ','"),
        ("return %2, %5", "return %2, %6", 11, 14, "%6 is used before it is defined"),
        ("return %2, %5\n}", "return %2, %5\n", 14, 1, "expected '}'"),
        ("# The end.", "the end", 13, 1, "expected the end of the text"),
        ("  return", "  retrun", 11, 3, "expected a value such as %0, or 'return'"),
    ],
)  # fmt: skip
def test_errors(before: str, after: str, line: int, column: int, message: str) -> None:
    text = GOOD.replace(before, after, 1)
    assert text != GOOD
    with pytest.raises(ParseError, match=message) as caught:
        parse(text)
    assert str(caught.value).startswith(f"line {line}, column {column}: ")
    if column > 1:
        shown, caret = str(caught.value).splitlines()[1:3]
        assert shown.strip() == text.splitlines()[line - 1].strip()
        assert caret.index("^") == 4 + column - 1


@given(st.data())
def test_garbage_is_never_more_than_a_parse_error(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(len(GOOD), start + 6)))
    inserted = data.draw(st.text("%()[]{}=:,.-> \n01xf'\"#", max_size=4))
    with contextlib.suppress(ParseError):
        parse(GOOD[:start] + inserted + GOOD[end:])


def chain(length: int) -> Graph:
    builder = GraphBuilder("chain")
    value = builder.input(TensorType(float64, (4,)), "x")
    sine = registered("sin")
    for _ in range(length):
        value = builder.emit(sine, (value,), {})
    return builder.graph.replace(outputs=[value])


def test_long_and_deep_graphs() -> None:
    graph = chain(100_000)
    started = time.perf_counter()
    text = show(graph)
    parsed = parse(text)
    assert time.perf_counter() - started < 30  # Quadratic would be an hour.
    assert len(parsed.nodes) == 100_000
    assert show(parsed) == text


def test_deeply_nested_values_need_no_recursion() -> None:
    text = "(" * 5000 + ",)" * 5000
    text = text.replace("(,)", "()")
    source = f"graph @f() -> () {{\n  %0: f64[] = const[value={text}]\n  return\n}}\n"
    value = parse(source).nodes[0].attrs["value"]
    depth = 0
    while value:
        (value,) = value
        depth += 1
    assert depth == 4999
