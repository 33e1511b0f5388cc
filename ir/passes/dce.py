"""Dead code elimination."""

from __future__ import annotations

from ..graph import Graph
from .pipeline import graph_pass


@graph_pass("dce")
def eliminate_dead_code(graph: Graph) -> Graph:
    """Keep only nodes that an output depends on; inputs always stay. Linear."""
    live = graph.reachable_from(graph.outputs)
    return graph.filtered(live.__contains__)
