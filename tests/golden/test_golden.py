"""The text of a few whole programs, with their gradients, before and after the passes.

A change to a derivative rule or a pass shows here as a difference to read. Write the files anew with
``pytest tests/golden --update-golden``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_same, build, call, draw_input, evaluate_contiguous, optimize_verified
from tracegrad.ir import Graph, append_adjoint, differentiate, evaluate, parse, show, verify
from tracegrad.ir.graph import Node

FOLDER = Path(__file__).parent


def total(x: Node) -> Any:
    return call("sum", x, axis=tuple(range(x.ndim)), keepdims=False)


def along(op: str, x: Node, axis: int) -> Any:
    return call(op, x, axis=(axis,), keepdims=True)


def pointwise_chain(x: Any) -> Any:
    """sum(2 sin(x) + 1)"""
    return total(2.0 * call("sin", x) + 1.0)


def two_layers(x: Any, w: Any, b: Any, v: Any, y: Any) -> Any:
    """Mean squared error of a network with one hidden layer."""
    hidden = call("tanh", x @ call("permute", w, dims=(1, 0)) + b)
    error = call("reshape", hidden @ v, shape=(4,)) - y
    return total(error * error) / 4.0


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Mean of -log softmax(logits)[label]."""
    shifted = logits - along("max", logits, 1)
    log_sum = call("log", along("sum", call("exp", shifted), 1))
    index = call("reshape", labels, shape=(4, 1))
    return -total(call("gather", shifted - log_sum, index, axis=1)) / 4.0


def layer_norm(x: Any, weight: Any) -> Any:
    """Weighted layer norm, squared and summed."""
    mean = along("sum", x, 1) * (1 / 8)
    centred = x - mean
    variance = along("sum", centred * centred, 1) * (1 / 8)
    out = centred * call("rsqrt", variance + 1e-5) * weight
    return total(out * out)


def recurrence(x: Any, w: Any) -> Any:
    """Three steps h = tanh(w @ h + x[t])."""
    h = call("zeros", x, shape=(3, 1))
    for t in range(3):
        row = call("slice", x, start=(t, 0), limit=(t + 1, 3), stride=(1, 1))
        h = call("tanh", w @ h + call("permute", row, dims=(1, 0)))
    return total(h)


def update_in_place(x: Any, v: Any) -> Any:
    """x[1:3] = relu(v); sum(x * x)"""
    zero = call("zeros", v, shape=v.shape)
    relu = call("where", call("gt", v, 0.0), v, zero)
    x = call("slice_update", x, relu, start=(1,), sizes=(2,), stride=(1,))
    return total(x * x)


def embedding(table: Any, index: Any) -> Any:
    """Rows that are taken twice, joined with themselves reversed."""
    rows = call("take", table, index, axis=0)
    return total(
        call("power", call("concat", rows, call("flip", rows, axes=(0,)), axis=1), exponent=3)
    )


def rosenbrock(x: Any) -> Any:
    """The function of Rosenbrock in four dimensions."""
    head = call("slice", x, start=(0,), limit=(3,), stride=(1,))
    tail = call("slice", x, start=(1,), limit=(4,), stride=(1,))
    return total(
        100.0 * call("power", tail - head * head, exponent=2)
        + call("power", 1.0 - head, exponent=2)
    )


PROGRAMS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "pointwise_chain": (pointwise_chain, ("f64[4]",)),
    "two_layers": (two_layers, ("f32[4,3]", "f32[5,3]", "f32[5]", "f32[5,1]", "f32[4]")),
    "cross_entropy": (cross_entropy, ("f32[4,3]", "i64[4]")),
    "layer_norm": (layer_norm, ("f32[4,8]", "f32[8]")),
    "recurrence": (recurrence, ("f64[3,3]", "f64[3,3]")),
    "update_in_place": (update_in_place, ("f64[5]", "f64[2]")),
    "embedding": (embedding, ("f32[4,2]", "i64[3]")),
    "rosenbrock": (rosenbrock, ("f64[4]",)),
}


def gradient_of(name: str) -> Graph:
    function, types = PROGRAMS[name]
    graph = differentiate(build(function, *types, name=name))
    verify(graph)
    return graph


def hessian_vector_product() -> Graph:
    """Reverse over reverse: the gradient of <gradient, v>."""
    graph = gradient_of("rosenbrock")
    gradient = graph.outputs[1]
    # The gradient as the function to differentiate, with x itself as the vector.
    with_seed, (product,) = append_adjoint(graph, [gradient], graph.inputs, [graph.inputs[0]])
    assert product is not None
    return with_seed.replace(name="hessian_vector_product", outputs=[product])


def dumps() -> dict[str, Graph]:
    found = {}
    for name, graph in [(name, gradient_of(name)) for name in PROGRAMS] + [
        ("hessian_vector_product", hessian_vector_product())
    ]:
        found[f"{name}.joint"] = graph
        found[f"{name}.optimized"] = optimize_verified(graph)
    return found


DUMPS = dumps()


@pytest.mark.parametrize("name", DUMPS)
def test_text(name: str, update_golden: bool) -> None:
    path = FOLDER / f"{name}.ir"
    text = show(DUMPS[name])
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"pytest {Path(__file__).name} --update-golden"


@pytest.mark.parametrize("name", DUMPS)
def test_parsed_text_computes_the_same(name: str, rng: np.random.Generator) -> None:
    graph = DUMPS[name]
    parsed = parse((FOLDER / f"{name}.ir").read_text(encoding="utf-8"))
    verify(parsed)
    arrays = [abs(draw_input(node.type, rng, low=0)) % 3 for node in graph.inputs]
    for a, c in zip(evaluate(parsed, arrays), evaluate(graph, arrays), strict=True):
        assert_same(a, c)


@pytest.mark.parametrize("name", [name for name in DUMPS if name.endswith(".joint")])
def test_optimized_computes_the_same(name: str, rng: np.random.Generator) -> None:
    graph, optimized = DUMPS[name], DUMPS[name.replace(".joint", ".optimized")]
    assert len(optimized.nodes) < len(graph.nodes)
    arrays = [abs(draw_input(node.type, rng, low=0)) % 3 for node in graph.inputs]
    expected = evaluate_contiguous(graph, arrays)
    for a, c in zip(evaluate_contiguous(optimized, arrays), expected, strict=True):
        assert_same(a, c)


def test_no_file_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.ir")} == set(DUMPS)
