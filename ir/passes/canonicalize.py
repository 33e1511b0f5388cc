"""Canonicalization: rewrite rules that make graphs smaller and alike, and never change a result,
not even -0.0.

The table is :data:`RULES`; the rules stand in :mod:`.algebra` and :mod:`.movement`, which fill it
when this package is imported. What changes floating point results (``x * 0 => 0``, reassociation)
is not here. Signs of NaNs are not preserved.
"""

from __future__ import annotations

from ..graph import Graph, Node
from ..rewrite import RuleTable
from .pipeline import graph_pass

RULES = RuleTable("canonicalize")


@graph_pass("canonicalize")
def canonicalize(graph: Graph) -> Graph:
    """Apply the algebraic rules. Nodes that are no longer needed stay, for ``dce``. Linear."""
    return RULES.rewrite(graph)


def uniform_value(node: Node) -> float | int | bool | None:
    """The number that a constant holds everywhere; None if it is no constant, or has several."""
    if node.op.name == "broadcast_in_dim":
        node = node.inputs[0]
    if node.op.name == "const" and not node.shape:
        value: float | int | bool = node.attrs["value"]
        return value
    return None


def is_constant(node: Node) -> bool:
    """Whether the node is a constant, or one that is broadcast."""
    if node.op.name == "broadcast_in_dim":
        node = node.inputs[0]
    return node.op.name == "const"
