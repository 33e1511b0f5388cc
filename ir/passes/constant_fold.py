"""Constant folding."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import IRError
from ..graph import Graph, Node
from ..interpreter import evaluate_node
from ..numpy_errors import quiet
from ..op import registered
from ..rewrite import transplanted
from ..types import TensorType, from_numpy_dtype
from .pipeline import graph_pass

_LARGEST = 64
"""Results with more elements stay computations."""

# What is computed from them is folded, but they are as simple as a constant already.
_SIMPLE = frozenset({"iota", "broadcast_in_dim"})
_CONST = registered("const")


@graph_pass("constant-fold")
def fold_constants(graph: Graph, largest: int = _LARGEST) -> Graph:
    """Replace what is computed from constants alone by its value, if that has at most `largest`
    elements.

    Evaluation is that of the interpreter. What would raise there is left to raise when it is run.
    Linear.
    """
    constants: set[Node] = set()
    values: dict[Node, np.ndarray] = {}
    replaced: dict[Node, Node] = {}
    nodes: list[Node] = []
    with quiet():
        for node in graph.nodes:
            new = transplanted(node, replaced)
            if new.op is _CONST:
                constants.add(new)
            else:
                value = _evaluate(new, values, constants, largest)
                if value is not None:
                    if new.op.name not in _SIMPLE:
                        *before, new = _as_constant(new, value)
                        nodes += before
                    values[new] = value
            nodes.append(new)
            if new is not node:
                replaced[node] = new
    if not replaced:
        return graph
    return graph.replace(nodes=nodes, outputs=[replaced.get(x, x) for x in graph.outputs])


def _evaluate(
    node: Node, values: dict[Node, np.ndarray], constants: set[Node], largest: int
) -> np.ndarray | None:
    """The value of a node; None if an operand is unknown, or the value too large, or it raises."""
    for x in node.inputs:
        if x not in constants and x not in values:
            return None
    if node.type.size > largest:
        return None
    for x in node.inputs:
        if x not in values:
            values[x] = evaluate_node(x, ())
    try:
        value = evaluate_node(node, [values[x] for x in node.inputs])
    except Exception:
        return None
    if TensorType(from_numpy_dtype(value.dtype), value.shape) != node.type:
        raise IRError(f"{node.op.name} has type {node.type}, but evaluates to {value!r}", node)
    return value


def _as_constant(node: Node, value: np.ndarray) -> list[Node]:
    """The nodes that stand for a value; one that is the same everywhere is a broadcast scalar."""

    def make(op: str, inputs: tuple[Node, ...], attrs: dict[str, Any], type: TensorType) -> Node:
        return Node(
            registered(op), inputs, attrs, type, node.location, node.scope, node.origin, node.hint
        )

    elements = value.ravel().tolist()
    if value.ndim and elements and len(set(map(repr, elements))) > 1:
        return [make("const", (), {"value": tuple(elements)}, node.type)]
    first = elements[0] if elements else node.dtype.np.type(0).item()
    scalar = make("const", (), {"value": first}, TensorType(node.dtype, ()))
    if not value.ndim:
        return [scalar]
    attrs = {"shape": node.shape, "dims": ()}
    return [scalar, make("broadcast_in_dim", (scalar,), attrs, node.type)]
