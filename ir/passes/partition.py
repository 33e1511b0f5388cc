"""Splitting a joint graph into forward and backward, for when the two are called separately."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import IRError
from ..graph import NO_ATTRS, Graph, Node
from ..op import registered

# Made again from their operand, not kept: they cost no arithmetic, and the operand is no larger.
_FREE = frozenset({"const", "iota", "broadcast_in_dim", "reshape", "permute", "flip"})
# Made again if their operands are there anyway.
_CHEAP = frozenset(
    {"lt", "le", "gt", "ge", "eq", "ne", "bit_and", "bit_or", "bit_xor", "bit_not", "neg", "cast"}
)


class Partition(NamedTuple):
    """A joint graph in two halves.

    Attributes:
        forward: takes the joint graph's inputs but the cotangents; returns the primal outputs and
            the residuals.
        backward: takes the residuals and the cotangents; returns the joint graph's other outputs.
        residuals: the values of `forward` that `backward` needs, in order.
    """

    forward: Graph
    backward: Graph
    residuals: list[Node]


def partition(graph: Graph, forward_outputs: int, cotangents: Sequence[Node] = ()) -> Partition:
    """Split a joint graph. What only the backward half needs is computed there.

    Args:
        graph: primal and adjoint nodes.
        forward_outputs: how many of the outputs, counted from the first, belong to the primal.
        cotangents: the inputs that are only known when the backward half runs.

    Raises:
        IRError: a primal output depends on a cotangent.

    Linear in nodes.
    """
    primal_outputs = graph.outputs[:forward_outputs]
    gradients = graph.outputs[forward_outputs:]
    forward_nodes = graph.reachable_from(primal_outputs)
    for ct in cotangents:
        if ct in forward_nodes:
            raise IRError(f"an output of the forward half depends on the cotangent {ct!r}", ct)
    late = set(cotangents)
    early = forward_nodes | {x for x in graph.inputs if x not in late}
    needed = graph.reachable_from(gradients)
    moved = [node for node in graph.nodes if node in needed and node not in early]
    wanted = {x for node in moved for x in node.inputs if x in early}
    wanted.update(x for x in gradients if x in early)
    remade = _choose_remade(graph, wanted)
    residuals = [x for x in (*graph.inputs, *graph.nodes) if x in wanted and x not in remade]
    forward = graph.replace(
        name=f"{graph.name}_forward",
        inputs=[x for x in graph.inputs if x not in late],
        nodes=[x for x in graph.nodes if x in forward_nodes],
        outputs=[*primal_outputs, *residuals],
    )
    return Partition(forward, _backward(graph, residuals, cotangents, gradients), residuals)


def _choose_remade(graph: Graph, wanted: set[Node]) -> set[Node]:
    """Which of the wanted values are made again; what these need is added to `wanted`."""
    remade: set[Node] = set()
    for node in reversed(graph.nodes):
        if node in wanted and node.op.name in _FREE:
            remade.add(node)
            wanted.update(node.inputs)
    for node in graph.nodes:
        if node in wanted and node.op.name in _CHEAP and wanted.issuperset(node.inputs):
            remade.add(node)
    return remade


def _backward(
    graph: Graph,
    residuals: list[Node],
    cotangents: Sequence[Node],
    gradients: list[Node],
) -> Graph:
    replaced: dict[Node, Node] = {}
    for node in residuals:
        if node.op.name != "input":
            replaced[node] = Node(
                registered("input"), (), NO_ATTRS, node.type, node.location, node.scope,
                hint=node.hint or f"residual{len(replaced)}",
            )  # fmt: skip
    inputs = [replaced.get(x, x) for x in (*residuals, *cotangents)]
    available = {*residuals, *cotangents, *inputs}
    required = _required(gradients, available)
    nodes = []
    for node in graph.nodes:
        if node in required:
            new = Node(
                node.op, tuple(replaced.get(x, x) for x in node.inputs), node.attrs, node.type,
                node.location, node.scope, node.origin, node.hint,
            )  # fmt: skip
            replaced[node] = new
            nodes.append(new)
    outputs = [replaced.get(x, x) for x in gradients]
    return graph.replace(name=f"{graph.name}_backward", inputs=inputs, nodes=nodes, outputs=outputs)


def _required(roots: list[Node], available: set[Node]) -> set[Node]:
    """What must be computed for the roots when some values are available."""
    seen: set[Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in seen and node not in available:
            seen.add(node)
            stack.extend(node.inputs)
    return seen
