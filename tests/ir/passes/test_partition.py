"""Forward and backward halves. That they compute the same: tests/fuzz, on random graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers import build, call, optimize_verified
from tracegrad.ir import Graph, GraphBuilder, IRError, Node, append_adjoint, show, verify
from tracegrad.ir.passes import Partition, partition


def split(function: Callable[..., Any], *types: str) -> tuple[Graph, Partition]:
    primal = build(function, *types)
    builder = GraphBuilder(primal.replace())
    seeds: list[Node | None] = [builder.input(x.type, "ct") for x in primal.outputs]
    joint, cotangents = append_adjoint(builder.graph, primal.outputs, primal.inputs, seeds)
    outputs = [*primal.outputs, *(ct for ct in cotangents if ct is not None)]
    joint = optimize_verified(joint.replace(outputs=outputs))
    result = partition(joint, len(primal.outputs), [x for x in seeds if x is not None])
    verify(result.forward)
    verify(result.backward)
    return joint, result


def names(nodes: list[Node]) -> list[str]:
    return [node.hint or node.op.name for node in nodes]


def test_residuals() -> None:
    _, (forward, backward, residuals) = split(lambda x: call("exp", call("sin", x)), "f64[4]")
    assert names(residuals) == ["x", "exp"]
    assert names(forward.inputs) == ["x"]
    assert forward.outputs[1:] == residuals
    assert show(backward, locations=False) == (
        "graph @f_backward(%x: f64[4], %residual0: f64[4], %ct: f64[4]) -> (f64[4]) {\n"
        "  %0: f64[4] = mul %ct, %residual0\n"
        "  %1: f64[4] = cos %x\n"
        "  %2: f64[4] = mul %0, %1\n"
        "  return %2\n"
        "}\n"
    )


def test_what_only_the_backward_half_needs_is_computed_there() -> None:
    _, (forward, backward, _) = split(lambda x: call("sin", x), "f64[4]")
    assert [node.op.name for node in forward.nodes] == ["sin"]
    assert "cos" in [node.op.name for node in backward.nodes]


def test_cheap_values_are_made_again() -> None:
    def function(x: Any, y: Any) -> Any:
        wide = call("broadcast_in_dim", call("exp", x), shape=(4, 3), dims=(1,))
        product = call("matmul", wide, call("permute", y, dims=(1, 0)))
        return call("where", call("gt", product, 0.0), product, product * 0.1)

    _, (forward, backward, residuals) = split(function, "f64[3]", "f64[5,3]")
    # The comparison needs the product, which is not needed otherwise: the bools are kept instead.
    assert names(residuals) == ["y", "exp", "gt"]
    made_again = {node.op.name for node in backward.nodes} & {
        "const",
        "broadcast_in_dim",
        "permute",
    }
    assert "broadcast_in_dim" in made_again
    assert names(forward.outputs[1:]) == names(residuals)


def test_comparisons_of_residuals_are_made_again() -> None:
    def function(x: Any) -> Any:
        y = call("sin", x)
        return call("where", call("gt", x, 0.0), y * y, y)

    _, (_, backward, residuals) = split(function, "f64[4]")
    assert names(residuals) == ["x", "sin"]
    assert "gt" in {node.op.name for node in backward.nodes}


def test_without_cotangents() -> None:
    """The seed is a constant of the joint graph."""
    primal = build(lambda x: call("sum", call("sin", x), axis=(0,), keepdims=False), "f64[4]")
    joint, (ct,) = append_adjoint(primal, primal.outputs, primal.inputs)
    assert ct is not None
    forward, backward, residuals = partition(joint.replace(outputs=[*primal.outputs, ct]), 1)
    verify(forward)
    verify(backward)
    assert names(residuals) == ["x"]
    assert names(backward.inputs) == ["x"]


def test_outputs_that_need_nothing() -> None:
    """A gradient that is an input, a constant, or the cotangent itself."""
    _, (_, backward, residuals) = split(lambda x, y: x + y * 2.0, "f64[4]", "f64[4]")
    assert residuals == []
    assert backward.outputs[0] is backward.inputs[0]
    _, (_, backward, residuals) = split(lambda x, y: x * y, "f64[]", "f64[]")
    assert names(residuals) == ["x", "y"]


def test_origins_lines_and_hints_survive() -> None:
    joint, (_, backward, _) = split(lambda x: call("exp", call("sin", x)), "f64[4]")
    origins = {node.origin.op.name for node in backward.nodes if node.origin is not None}
    assert origins == {"sin", "exp"}
    assert {node.origin for node in backward.nodes} <= set(joint.nodes)


def test_a_cotangent_in_the_forward_half() -> None:
    graph = build(lambda x, y: (x * y, x), "f64[4]", "f64[4]")
    with pytest.raises(IRError, match="an output of the forward half depends on the cotangent"):
        partition(graph, 1, [graph.inputs[1]])
