"""Expansion: ops that have no code of their own become what they consist of."""

from __future__ import annotations

from ..builder import GraphBuilder
from ..graph import Graph, Node
from ..lowering import Expansion
from ..rewrite import transplanted
from .pipeline import graph_pass


@graph_pass("expand")
def expand(graph: Graph) -> Graph:
    """Put the expansion of each op that is declared with one in its place. Linear.

    Until here derivatives, batching and people see one node.
    """
    while any(isinstance(node.op.lower, Expansion) for node in graph.nodes):
        graph = _expand_once(graph)
    return graph


def _expand_once(graph: Graph) -> Graph:
    replaced: dict[Node, Node] = {}
    builder = GraphBuilder(Graph(graph.name, graph.inputs))
    with builder:
        for node in graph.nodes:
            new = transplanted(node, replaced)
            lower = new.op.lower
            if isinstance(lower, Expansion):
                builder.location, builder.scope = new.location, new.scope
                builder.origin = new.origin
                new = lower.expand(*new.inputs, **new.attrs)
            else:
                builder.graph.nodes.append(new)
            if new is not node:
                replaced[node] = new
    return builder.graph.replace(outputs=[replaced.get(x, x) for x in graph.outputs])
