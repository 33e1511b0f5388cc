"""Graphs for networkx and Graphviz. The only module that needs networkx, and only when it is used.

Start reading at :func:`to_dot`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from .graph import Graph, Node
from .printer import format_attrs, value_names

if TYPE_CHECKING:
    import networkx

_PRIMAL, _ADJOINT, _INPUT = "#dbe9f6", "#fde3cf", "#eeeeee"


def to_networkx(graph: Graph) -> networkx.MultiDiGraph:
    """The graph with a networkx node per value and an edge per operand.

    Nodes are named as in the text and carry ``node`` (the IR node), ``op``, ``type``, ``location``
    and ``adjoint``; edges carry the number of the ``operand``.
    """
    import networkx as nx

    names = value_names(graph)
    result = nx.MultiDiGraph(name=graph.name)
    for node in (*graph.inputs, *graph.nodes):
        result.add_node(
            names[node],
            node=node,
            op=node.op.name,
            type=str(node.type),
            location=None if node.location is None else str(node.location),
            adjoint=node.origin is not None,
        )
        for number, operand in enumerate(node.inputs):
            result.add_edge(names[operand], names[node], operand=number)
    return result


def critical_path(graph: Graph, cost: Callable[[Node], float] | None = None) -> list[Node]:
    """The chain of nodes, each an operand of the next, that costs most: no schedule can be shorter.

    Args:
        cost: of one node; by default the number of elements of its result, 0 for constants.
    """
    import networkx as nx

    def elements(node: Node) -> float:
        return 0 if node.op.name == "const" else node.type.size

    cost = cost or elements
    weighted = nx.DiGraph()
    weighted.add_nodes_from((*graph.inputs, *graph.nodes))
    for node in graph.nodes:
        weighted.add_edges_from((x, node, {"weight": cost(node)}) for x in node.inputs)
    path: list[Node] = nx.dag_longest_path(weighted)
    return path


def to_dot(graph: Graph) -> str:
    """Graphviz source: one cluster per scope, primal and adjoint nodes in two colours, and a
    dashed line from each primal node to the nodes that differentiate it."""
    names = value_names(graph)
    lines = [
        f"digraph {json.dumps(graph.name)} {{",
        '  node [shape=box, style="filled,rounded", fontname="monospace", fontsize=10]',
    ]
    by_scope: dict[str, list[Node]] = {}
    for node in (*graph.inputs, *graph.nodes):
        by_scope.setdefault(node.scope, []).append(node)
    for number, (scope, nodes) in enumerate(by_scope.items()):
        statements = [_dot_node(node, names[node]) for node in nodes]
        if scope:
            statements = [f"label={json.dumps(scope)}", "color=gray", *statements]
            lines.append(f"  subgraph cluster_{number} {{")
            lines += [f"    {statement}" for statement in statements]
            lines.append("  }")
        else:
            lines += [f"  {statement}" for statement in statements]
    for node in graph.nodes:
        lines += [f'  "{names[x]}" -> "{names[node]}"' for x in node.inputs]
        if node.origin in names:
            lines.append(
                f'  "{names[node.origin]}" -> "{names[node]}" '
                '[style=dashed, color="#d9822b", arrowhead=none, constraint=false]'
            )
    for number, node in enumerate(graph.outputs):
        lines.append(f'  "output {number}" [shape=plaintext, style=""]')
        lines.append(f'  "{names[node]}" -> "output {number}"')
    return "\n".join([*lines, "}", ""])


def _dot_node(node: Node, name: str) -> str:
    if node.op.name == "input":
        title, color = f"%{name}", _INPUT
    else:
        attrs = format_attrs(node)
        attrs = attrs if len(attrs) <= 60 else f"{attrs[:57]}..."
        title = f"%{name} = {node.op.name}{attrs}"
        color = _PRIMAL if node.origin is None else _ADJOINT
    label = "\n".join(filter(None, (title, str(node.type), str(node.location or ""))))
    return f'"{name}" [label={json.dumps(label)}, fillcolor="{color}"]'
