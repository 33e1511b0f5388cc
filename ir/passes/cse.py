"""Common subexpression elimination by value numbering."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node
from ..rewrite import transplanted
from .pipeline import graph_pass


@graph_pass("cse")
def eliminate_common_subexpressions(graph: Graph) -> Graph:
    """Compute equal values once: same op, operands (in any order if it is commutative), attributes
    and type. Linear.

    The first of equal nodes stays, so an adjoint node that repeats a primal one gives way to it.
    """
    known: dict[tuple[Any, ...], Node] = {}
    replaced: dict[Node, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        new = transplanted(node, replaced)
        operands: Any = new.inputs
        if new.op.commutative and id(operands[0]) > id(operands[1]):
            operands = operands[::-1]
        first = known.setdefault((new.op, operands, _attrs_key(new), new.type), new)
        if first is new:
            nodes.append(new)
        if first is not node:
            replaced[node] = first
    if not replaced:
        return graph
    return graph.replace(nodes=nodes, outputs=[replaced.get(x, x) for x in graph.outputs])


def _attrs_key(node: Node) -> Any:
    """The attributes as a hashable key that takes no two values for one.

    In Python 1, 1.0 and True are equal, and so are 0.0 and -0.0, while NaN differs from itself.
    """
    attrs = node.attrs
    if not attrs:
        return None
    if node.op.name == "const":
        return repr(attrs["value"])
    values = [attrs[name] for name in node.op.attrs]
    return tuple([(v.__class__, repr(v) if v.__class__ is float else v) for v in values])
