"""Differentiation as a pass that appends to the same graph: reverse mode, and forward mode.

There is one reverse sweep in tracegrad, :func:`sweep`. The pass here runs it over the nodes of a graph; the
eager ``backward()`` runs it over the records that eager ops left behind. Both ask the op for one step
(:meth:`Op.pull`), so a derivative rule is written once.

Zero times infinity is NaN, as in PyTorch: a branch that `where` did not take receives a cotangent of exactly
zero, which an infinite partial further up turns into NaN; unless :mod:`.exactness` is on.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, MutableMapping, Sequence
from typing import Any, TypeVar

from .builder import GraphBuilder
from .errors import IRError, NoDerivativeError
from .graph import Graph, Node

N = TypeVar("N")


def sweep(
    nodes: Iterable[N],
    cotangents: MutableMapping[Any, Any],
    pull: Callable[[N, Any], Iterable[tuple[Any, Any]]],
    pulls_nothing: Callable[[N], Any] = lambda node: False,
) -> None:
    """One reverse sweep: push cotangents from results to operands, adding where paths meet.

    Args:
        nodes: what was computed, latest first, so that each node's cotangent is complete when it is reached.
        cotangents: of the outputs at the start; those of everything that was not swept at the end.
        pull: ``pull(node, ct)`` gives pairs (operand, its cotangent, None where there is none).
        pulls_nothing: whether to call it with None for a node to which no cotangent came.

    Linear in nodes and edges.
    """
    for node in nodes:
        ct = cotangents.pop(node, None)
        if ct is None and not pulls_nothing(node):
            continue
        for operand, contribution in pull(node, ct):
            if contribution is not None:
                known = cotangents.get(operand)
                cotangents[operand] = contribution if known is None else known + contribution
        # Between two turns `cotangents` alone holds them: whoever takes one out can tell that it is nobody else's.
        ct = contribution = known = None


def depending_on(graph: Graph, wrt: Iterable[Node], stopped: Container[Node] = ()) -> set[Node]:
    """The nodes through which a derivative with respect to `wrt` can flow; none of those `stopped`."""
    active = set(wrt)
    for node in graph.nodes:
        if node.dtype.is_floating and any(x in active for x in node.inputs) and node not in stopped:
            active.add(node)
    return active


def append_adjoint(
    graph: Graph,
    outputs: Sequence[Node],
    wrt: Sequence[Node],
    seeds: Sequence[Node | None] | None = None,
    stopped: Container[Node] = (),
) -> tuple[Graph, list[Node | None]]:
    """Append to `graph` the adjoint nodes that compute the cotangents of `wrt`.

    Args:
        graph: the primal; a new graph with the same nodes in front is returned.
        outputs: the nodes to differentiate.
        wrt: inputs or nodes.
        seeds: the outputs' cotangents, nodes of `graph`; None stands for one everywhere.
        stopped: nodes that count as constants (detached, or computed without recording).

    Returns:
        The extended graph (with the primal's outputs), and for each of `wrt` its cotangent, None where no
        output depends on it.

    Raises:
        NoDerivativeError: an op on the way has no derivative rule. Names the op and the user's line.
    """
    extended = graph.replace()
    builder = GraphBuilder(extended)
    active = depending_on(graph, wrt, stopped)
    wanted = set(wrt)
    found: dict[Node, Any] = {}
    cotangents: dict[Node, Any] = {}

    def pull(node: Node, ct: Node) -> Iterable[tuple[Node, Node]]:
        if node in wanted:
            found[node] = ct
        builder.origin = node
        builder.location = node.location
        builder.scope = node.scope
        types = [x.type for x in node.inputs]
        for index, operand in enumerate(node.inputs):
            if operand in active:
                try:
                    contribution = node.op.pull(index, ct, node, node.inputs, types, node.attrs)
                except NoDerivativeError as error:
                    raise NoDerivativeError(str(error), node) from None
                yield operand, contribution

    with builder:
        for output, seed in zip(outputs, seeds or [None] * len(outputs), strict=True):
            builder.origin = output
            builder.location = output.location
            ct = builder.full(output.shape, 1, output.dtype) if seed is None else seed
            known = cotangents.get(output)
            cotangents[output] = ct if known is None else known + ct
        sweep((n for n in reversed(graph.nodes) if n in active), cotangents, pull)
    found.update((node, cotangents[node]) for node in wanted if node in cotangents)
    return extended, [found.get(node) for node in wrt]


def append_tangent(
    graph: Graph,
    outputs: Sequence[Node],
    tangents: dict[Node, Node],
) -> tuple[Graph, list[Node | None]]:
    """Append to `graph` the nodes that compute the tangents of `outputs`: forward mode.

    Args:
        graph: the primal; a new graph with the same nodes in front is returned.
        outputs: the nodes whose tangents are wanted.
        tangents: the tangents of some inputs or nodes, as nodes of `graph`.

    Returns:
        The extended graph, and per output its tangent, None where it is zero.
    """
    extended = graph.replace()
    builder = GraphBuilder(extended)
    known: dict[Node, Any] = dict(tangents)
    with builder:
        for node in graph.nodes:
            if node in known or not node.dtype.is_floating:
                continue
            operand_tangents = [known.get(x) for x in node.inputs]
            if all(t is None for t in operand_tangents):
                continue
            builder.origin = node
            builder.location = node.location
            builder.scope = node.scope
            try:
                tangent = node.op.push(operand_tangents, node, node.inputs, node.attrs)
            except NoDerivativeError as error:
                raise NoDerivativeError(str(error), node) from None
            if tangent is not None:
                known[node] = tangent
    return extended, [known.get(output) for output in outputs]


def differentiate(graph: Graph, wrt: Sequence[int] | None = None) -> Graph:
    """The graph that returns the outputs and, for the one scalar output, its gradient.

    Args:
        graph: has one 0-d floating point output.
        wrt: input numbers; by default every floating point input.

    Raises:
        IRError: the graph has another number of outputs, or the output is not a scalar.
    """
    if len(graph.outputs) != 1 or graph.outputs[0].shape != ():
        raise IRError("grad can be implicitly created only for scalar outputs")
    numbers = (
        [i for i, x in enumerate(graph.inputs) if x.dtype.is_floating] if wrt is None else list(wrt)
    )
    inputs = [graph.inputs[i] for i in numbers]
    extended, cotangents = append_adjoint(graph, graph.outputs, inputs)
    builder = GraphBuilder(extended)
    gradients = [
        builder.full(x.shape, 0, x.dtype) if ct is None else ct
        for x, ct in zip(inputs, cotangents, strict=True)
    ]
    return extended.replace(outputs=[*graph.outputs, *gradients])
