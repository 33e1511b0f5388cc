"""Graph -> text, and graph -> plain data for JSON.

The text is an interface: :func:`tracegrad.ir.parser.parse` reads it back. Values are numbered by
position, attributes sorted, types stand everywhere; the comment behind a node (the user's line,
and for an adjoint node what it differentiates) is for people and is ignored by the parser. Start
reading at :func:`show`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from .errors import IRError
from .graph import Graph, Node
from .types import DType

Names = dict[Node, str]

_NOT_IN_NAMES = re.compile(r"[^\w.]")
_PLAIN_NAME = re.compile(r"[\w.<>-]+")
# A line that is longer than this (a constant array) does not push all comments to the right.
_WIDEST_ALIGNED = 100


def show(graph: Graph, *, locations: bool = True) -> str:
    """The graph as text that ``parse`` reads back. Linear in nodes.

    Args:
        locations: whether to append the user's lines and the origins of adjoint nodes as comments.
    """
    names = value_names(graph)
    inputs = ", ".join(f"%{names[x]}: {x.type}" for x in graph.inputs)
    types = ", ".join(str(x.type) for x in graph.outputs)
    lines = [f"  {format_node(node, names)}" for node in graph.nodes]
    if locations:
        lines = _aligned(lines, _comments(graph, names))
    outputs = ", ".join(f"%{names[x]}" for x in graph.outputs)
    name = graph.name if _PLAIN_NAME.fullmatch(graph.name) else repr(graph.name)
    lines.insert(0, f"graph @{name}({inputs}) -> ({types}) {{")
    lines += [f"  return {outputs}".rstrip(), "}", ""]
    return "\n".join(lines)


def value_names(graph: Graph) -> Names:
    """Names that tell all values apart: inputs by their hints, nodes by their position."""
    names: Names = {}
    taken: set[str] = set()
    repeated: dict[str, int] = {}
    for position, node in enumerate(graph.inputs):
        base = _NOT_IN_NAMES.sub("_", node.hint) if node.hint else f"arg{position}"
        if not base[:1].isalpha():  # Numbers are for nodes.
            base = f"_{base.lstrip('_')}"
        name = base
        while name in taken:
            repeated[base] = repeated.get(base, 0) + 1
            name = f"{base}_{repeated[base]}"
        taken.add(name)
        names[node] = name
    for position, node in enumerate(graph.nodes):
        names[node] = str(position)
    return names


def format_node(node: Node, names: Names) -> str:
    """One line such as ``%2: f64[4] = mul %0, %1``; a value without a name is ``%?``."""
    operands = ", ".join([f"%{names.get(x, '?')}" for x in node.inputs])
    attrs = format_attrs(node)
    text = f"%{names.get(node, '?')}: {node.type} = {node.op.name}{attrs}"
    return f"{text} {operands}" if operands else text


def format_attrs(node: Node) -> str:
    """``[axis=(0,), keepdims=False]``, or the empty string."""
    if not node.attrs:
        return ""
    items = ", ".join([f"{name}={format_value(node.attrs[name])}" for name in sorted(node.attrs)])
    return f"[{items}]"


def format_value(value: Any) -> str:
    """The text of an attribute's value. Floats are exact; a dtype is written by its short name.

    Raises:
        IRError: a value of this class has no text form.
    """
    kind = value.__class__
    if kind is float or kind is int or kind is bool or kind is str or value is None:
        return repr(value)
    if kind is tuple:
        items = ", ".join([format_value(item) for item in value])
        return f"({items},)" if len(value) == 1 else f"({items})"
    if kind is DType:
        return value.name
    if isinstance(value, np.generic):
        return format_value(value.item())
    raise IRError(f"an attribute of {kind.__name__} has no text form: {value!r}")


def describe_origin(node: Node, names: Names) -> str:
    """``sum %3``, or just ``sum`` if the node is not in the graph."""
    name = names.get(node)
    if node.op.name == "input":
        return f"%{name}" if name else node.hint or "input"
    return f"{node.op.name} %{name}" if name else node.op.name


def _comments(graph: Graph, names: Names) -> Iterable[str]:
    seeds = _find_seeds(graph)
    for node in graph.nodes:
        place = "" if node.location is None else str(node.location)
        if node.scope:
            place = f"{place} in {node.scope}" if place else f"in {node.scope}"
        if node.origin is None:
            yield place
        elif node in seeds:
            yield f"adjoint: seed of %{names.get(node.origin, node.origin.op.name)}"
        else:
            origin = f"adjoint of {describe_origin(node.origin, names)}"
            yield f"{origin}, {place}" if place else origin


def _find_seeds(graph: Graph) -> set[Node]:
    """The ones with which the adjoint part begins, broadcast to the type of the output."""
    seeds: set[Node] = set()
    for node in graph.nodes:
        if node.origin is None:
            continue
        is_one = node.op.name == "const" and node.attrs["value"] == 1
        is_spread = node.op.name == "broadcast_in_dim" and node.inputs[0] in seeds
        if not is_one and not (is_spread and node.type == node.origin.type):
            break
        seeds.add(node)
    return seeds


def _aligned(lines: list[str], comments: Iterable[str]) -> list[str]:
    pairs = list(zip(lines, comments, strict=True))
    lengths = [len(line) for line, comment in pairs if comment]
    width = max((n for n in lengths if n <= _WIDEST_ALIGNED), default=_WIDEST_ALIGNED)
    return [f"{line:<{width}}   # {comment}" if comment else line for line, comment in pairs]


def to_json(graph: Graph) -> dict[str, Any]:
    """The graph as plain data for ``json.dumps``: names as in the text, attributes as text."""
    names = value_names(graph)

    def describe(node: Node) -> dict[str, Any]:
        location = node.location
        return {
            "id": names[node],
            "op": node.op.name,
            "inputs": [names[x] for x in node.inputs],
            "attrs": {name: format_value(node.attrs[name]) for name in sorted(node.attrs)},
            "type": {"dtype": node.dtype.name, "shape": list(node.shape)},
            "location": location and {"file": location.file, "line": location.line},
            "scope": node.scope,
            "origin": node.origin and names.get(node.origin),
            "adjoint": node.origin is not None,
            "hint": node.hint,
        }

    return {
        "name": graph.name,
        "inputs": [describe(node) for node in graph.inputs],
        "nodes": [describe(node) for node in graph.nodes],
        "outputs": [names[node] for node in graph.outputs],
    }


# Here and not in `graph`, which would have to import the printer that imports it.
Graph.__str__ = show  # type: ignore[method-assign, assignment]
