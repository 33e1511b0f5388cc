"""A hash of what a graph means, for caches: the same in every process."""

from __future__ import annotations

import hashlib

from .graph import Graph, Node
from .printer import format_value


def structural_key(graph: Graph) -> str:
    """SHA-256 (hex) of ops, operands, attributes, types, inputs and outputs. Linear in nodes.

    Independent of names, hints, locations, scopes and origins. Every node counts, in its order:
    run ``dce`` before if dead nodes should not matter.
    """
    numbers: dict[Node, int] = {}
    lines = []
    for node in graph.inputs:
        numbers[node] = len(numbers)
        lines.append(f"input {node.type}")
    for node in graph.nodes:
        numbers[node] = len(numbers)
        operands = ",".join([str(numbers[x]) for x in node.inputs])
        attrs = ";".join([f"{k}={format_value(node.attrs[k])}" for k in sorted(node.attrs)])
        lines.append(f"{node.op.name}({operands})[{attrs}]{node.type}")
    lines.append(f"return {','.join(str(numbers[x]) for x in graph.outputs)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
