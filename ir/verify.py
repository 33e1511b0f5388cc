"""The verifier: what must hold of every graph, before and after each pass.

One function per invariant; each yields what is wrong as pairs (node, message). :data:`INVARIANTS`
lists them, cheapest and most basic first. Start reading at :func:`verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .errors import IRError, VerificationError
from .graph import Graph, Node
from .printer import Names, describe_origin, format_node, format_value, value_names
from .types import TensorType

Problem = tuple[Node, str]
_CONTEXT = 2
"""Nodes that are shown before and after the wrong one."""


def verify(graph: Graph, *, after: str | None = None) -> None:
    """Check every invariant of the IR; all types are computed anew. Linear in nodes and edges.

    Args:
        after: the pass that made the graph, for the message.

    Raises:
        VerificationError: with the pass, the nodes around the wrong one, and the user's line.
    """
    for invariant in INVARIANTS:
        for node, message in invariant(graph):
            raise VerificationError(_report(graph, node, message, after), node)


def _report(graph: Graph, node: Node, message: str, after: str | None) -> str:
    names = value_names(graph)
    title = f"@{graph.name} is not a valid graph"
    if after is not None:
        title += f" after pass {after}"
    lines = [f"{title}: {_label(node, names)} {message}"]
    at = next((i for i, other in enumerate(graph.nodes) if other is node), None)
    if at is None:
        lines.append(f"  > {_show(node, names)}")
    else:
        for i in range(max(0, at - _CONTEXT), min(len(graph.nodes), at + _CONTEXT + 1)):
            mark = ">" if i == at else " "
            lines.append(f"  {mark} {_show(graph.nodes[i], names)}")
    return "\n".join(lines)


def _show(node: Node, names: Names) -> str:
    try:
        return format_node(node, names)
    except IRError:
        return f"%{names.get(node, '?')}: {node.type} = {node.op.name}{node.attrs}"


def _label(node: Node, names: Names) -> str:
    return f"%{names[node]}" if node in names else f"{node.op.name} (not in the graph)"


def check_inputs(graph: Graph) -> Iterator[Problem]:
    """Inputs are nodes of the op ``input``, and stand only among the inputs."""
    for node in graph.inputs:
        if node.op.name != "input":
            yield node, f"is a graph input, but its op is {node.op.name}"
    for node in graph.nodes:
        if node.op.name == "input":
            yield node, "is an input, but stands among the nodes"


def check_listed_once(graph: Graph) -> Iterator[Problem]:
    """No node stands twice in a graph."""
    seen: set[Node] = set()
    for node in (*graph.inputs, *graph.nodes):
        if node in seen:
            yield node, "stands in the graph twice"
        seen.add(node)


def check_order(graph: Graph) -> Iterator[Problem]:
    """Operands belong to the graph and are computed before they are used."""
    defined = set(graph.inputs)
    everything: set[Node] | None = None
    for node in graph.nodes:
        for number, operand in enumerate(node.inputs):
            if operand not in defined:
                if everything is None:
                    everything = {*graph.inputs, *graph.nodes}
                if operand in everything:
                    yield node, f"uses operand {number} before it is computed"
                else:
                    yield node, f"uses operand {number}, {operand!r}, which is not in the graph"
        defined.add(node)


def check_outputs(graph: Graph) -> Iterator[Problem]:
    """Outputs belong to the graph."""
    everything = {*graph.inputs, *graph.nodes}
    for number, node in enumerate(graph.outputs):
        if node not in everything:
            yield node, f"is output {number}, but is not in the graph"


def check_arity(graph: Graph) -> Iterator[Problem]:
    """As many operands as the op has."""
    for node in graph.nodes:
        op = node.op
        if op.variadic:
            if not node.inputs:
                yield node, f"has no operands, but {op.name} takes at least one"
        elif len(node.inputs) != len(op.operands):
            yield node, f"has {len(node.inputs)} operands, but {op.name} takes {len(op.operands)}"


def check_attrs(graph: Graph) -> Iterator[Problem]:
    """Exactly the attributes of the op, with values that have a text form."""
    for node in graph.nodes:
        if node.attrs.keys() != set(node.op.attrs):
            given, declared = sorted(node.attrs), sorted(node.op.attrs)
            yield node, f"has the attributes {given}, but {node.op.name} takes {declared}"
        for name, value in node.attrs.items():
            try:
                format_value(value)
            except IRError as error:
                yield node, f"has a wrong {name}: {error}"


def check_constants(graph: Graph) -> Iterator[Problem]:
    """The value of a constant fits its type: number of elements, their class, and their range."""
    for node in graph.nodes:
        if node.op.name == "const":
            problem = _describe_misfit(node.attrs["value"], node.type)
            if problem:
                yield node, problem


def _describe_misfit(value: Any, type: TensorType) -> str | None:
    if type.ndim == 0:
        elements = (value,)
    elif value.__class__ is tuple:
        elements = value
    else:
        return f"is a constant of {type}, but its value is not a tuple"
    if len(elements) != type.size:
        return f"is a constant of {type}, but has {len(elements)} elements"
    dtype = type.dtype
    expected = (bool, int, float)[dtype.category]
    for element in elements:
        if element.__class__ is not expected:
            return f"is a constant of {type}, but holds {element!r}"
        if expected is int:
            limits = np.iinfo(dtype.np)
            if not limits.min <= element <= limits.max:
                return f"is a constant of {type}, but {element} is out of range"
    return None


def check_types(graph: Graph) -> Iterator[Problem]:
    """The type of each node is what the op's type rule makes of its operands."""
    for node in graph.nodes:
        if node.op.name == "const":
            continue
        try:
            expected = node.op.type_rule(*[x.type for x in node.inputs], **node.attrs)
        except Exception as error:
            yield node, f"has operands that {node.op.name} does not take: {error}"
        else:
            if expected != node.type:
                yield node, f"has type {node.type}, but {node.op.name} makes {expected}"


def check_origins(graph: Graph) -> Iterator[Problem]:
    """An adjoint node comes after the node that it differentiates, if that is in the graph."""
    pending = {node for node in graph.nodes if node.origin is not None}
    if not pending:
        return
    positions = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.origin is not None and positions.get(node.origin, -1) >= positions[node]:
            names = value_names(graph)
            yield node, f"comes before its origin, {describe_origin(node.origin, names)}"


INVARIANTS: tuple[Callable[[Graph], Iterator[Problem]], ...] = (
    check_inputs,
    check_listed_once,
    check_order,
    check_outputs,
    check_arity,
    check_attrs,
    check_constants,
    check_types,
    check_origins,
)
