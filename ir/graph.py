"""The SSA graph: nodes, and graphs of nodes.

A :class:`Node` *is* its single value: immutable, born typed. A :class:`Graph` is a list of nodes in an order
that is also a topological order; passes map graphs to graphs and never mutate a node. Start with Node.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .location import SourceLocation
from .op import Op, registered
from .types import DType, Shape, TensorType

if TYPE_CHECKING:
    from .builder import GraphBuilder

Attrs = dict[str, Any]
NO_ATTRS: Attrs = {}


class Node:
    """One value of a graph, and the operation that makes it.

    Attributes:
        op: what is computed.
        inputs: the operand nodes.
        attrs: static parameters in canonical, hashable form. Never mutated.
        type: element type and shape.
        location: the user's line (that of the primal, for an adjoint node).
        scope: module path such as ``layers.0``, or the empty string.
        origin: the primal node that an adjoint or tangent node differentiates; None for primal nodes.
        hint: the user's name for the value, used by the printer for graph inputs.
    """

    __slots__ = ("attrs", "hint", "inputs", "location", "op", "origin", "scope", "type")

    def __init__(
        self,
        op: Op,
        inputs: tuple[Node, ...],
        attrs: Attrs,
        type: TensorType,
        location: SourceLocation | None = None,
        scope: str = "",
        origin: Node | None = None,
        hint: str | None = None,
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.attrs = attrs
        self.type = type
        self.location = location
        self.scope = scope
        self.origin = origin
        self.hint = hint

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    def attrs_key(self) -> tuple[tuple[str, Any], ...]:
        """The attributes as a hashable key that ignores their order."""
        return tuple(sorted(self.attrs.items())) if self.attrs else ()

    @staticmethod
    def __apply_op__(op: Op, operands: Sequence[Any], attrs: Attrs) -> Node:
        return current_builder().apply(op, operands, attrs)

    # Derivative rules are written with operators; they find the op by name, so that this module
    # needs to import none.
    def __neg__(self) -> Node:
        return registered("neg")(self)

    def __add__(self, other: Any) -> Node:
        return registered("add")(self, other)

    def __radd__(self, other: Any) -> Node:
        return registered("add")(other, self)

    def __sub__(self, other: Any) -> Node:
        return registered("sub")(self, other)

    def __rsub__(self, other: Any) -> Node:
        return registered("sub")(other, self)

    def __mul__(self, other: Any) -> Node:
        return registered("mul")(self, other)

    def __rmul__(self, other: Any) -> Node:
        return registered("mul")(other, self)

    def __truediv__(self, other: Any) -> Node:
        return registered("div")(self, other)

    def __rtruediv__(self, other: Any) -> Node:
        return registered("div")(other, self)

    def __matmul__(self, other: Any) -> Node:
        return registered("matmul")(self, other)

    def __repr__(self) -> str:
        name = self.hint or self.op.name
        return f"<Node {name}: {self.type}>"


class Graph:
    """A program: inputs, nodes in topological order, outputs.

    `inputs` are nodes of the op ``input``; they do not stand in `nodes`. An output may be an input.
    """

    __slots__ = ("inputs", "name", "nodes", "outputs")

    def __init__(
        self,
        name: str,
        inputs: Iterable[Node] = (),
        nodes: Iterable[Node] = (),
        outputs: Iterable[Node] = (),
    ) -> None:
        self.name = name
        self.inputs: list[Node] = list(inputs)
        self.nodes: list[Node] = list(nodes)
        self.outputs: list[Node] = list(outputs)

    def replace(
        self,
        *,
        nodes: Iterable[Node] | None = None,
        outputs: Iterable[Node] | None = None,
        inputs: Iterable[Node] | None = None,
        name: str | None = None,
    ) -> Graph:
        """A graph that differs in the named parts."""
        return Graph(
            self.name if name is None else name,
            self.inputs if inputs is None else inputs,
            self.nodes if nodes is None else nodes,
            self.outputs if outputs is None else outputs,
        )

    def reachable_from(self, roots: Iterable[Node]) -> set[Node]:
        """The roots and everything they are computed from. Linear; no recursion."""
        seen: set[Node] = set()
        stack = list(roots)
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                stack.extend(node.inputs)
        return seen

    def users(self) -> dict[Node, list[Node]]:
        """For every input and node the nodes that read it, in graph order. Linear."""
        users: dict[Node, list[Node]] = {node: [] for node in self.inputs}
        for node in self.nodes:
            users[node] = []
            for operand in dict.fromkeys(node.inputs):
                users[operand].append(node)
        return users

    def filtered(self, keep: Callable[[Node], bool]) -> Graph:
        """The graph with only the nodes that `keep` accepts; itself where that is all of them."""
        nodes = [node for node in self.nodes if keep(node)]
        return self if len(nodes) == len(self.nodes) else self.replace(nodes=nodes)

    def __repr__(self) -> str:
        return f"<Graph @{self.name}: {len(self.inputs)} inputs, {len(self.nodes)} nodes>"


class _BuilderStack(threading.local):
    """The builders that are active in this thread, innermost last."""

    def __init__(self) -> None:
        self.builders: list[GraphBuilder] = []


builder_stack = _BuilderStack()


def current_builder() -> GraphBuilder:
    """The innermost active builder of this thread. Raises RuntimeError where there is none."""
    builders = builder_stack.builders
    if not builders:
        raise RuntimeError("an op was applied to IR nodes outside of a GraphBuilder")
    return builders[-1]
