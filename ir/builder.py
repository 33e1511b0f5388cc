"""Appending typed nodes to a graph.

A :class:`GraphBuilder` owns a growing Graph. While it is active (``with builder:``), applying an op to nodes
appends to it, tagged with the builder's current location, scope and origin. Equal scalar constants are made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from .graph import Attrs, Graph, Node, builder_stack
from .location import SourceLocation
from .op import Op, registered
from .types import DType, Shape, TensorType, bool_, from_numpy_dtype


class GraphBuilder:
    """Builds one graph; see the module docstring.

    Attributes:
        graph: what has been built so far.
        location: given to nodes whose caller names none.
        scope: module path given to new nodes.
        origin: the primal node that new nodes differentiate, while an autodiff pass runs.
    """

    __slots__ = ("_constants", "graph", "location", "origin", "scope")

    def __init__(self, graph: Graph | str) -> None:
        self.graph = Graph(graph) if isinstance(graph, str) else graph
        self.location: SourceLocation | None = None
        self.scope = ""
        self.origin: Node | None = None
        self._constants: dict[tuple[Any, ...], Node] = {}

    def __enter__(self) -> GraphBuilder:
        builder_stack.builders.append(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        builder_stack.builders.pop()

    def input(self, type: TensorType, hint: str | None = None) -> Node:
        """Append a graph input."""
        node = Node(registered("input"), (), {}, type, self.location, self.scope, hint=hint)
        self.graph.inputs.append(node)
        return node

    def const(self, value: float | int | bool, dtype: DType) -> Node:
        """A 0-d constant; the same node for the same value and dtype."""
        value = dtype.np.type(value).item()
        # repr keeps 0.0 and -0.0 and all NaNs apart from numbers, and True apart from 1.
        key = (repr(value), dtype)
        node = self._constants.get(key)
        if node is None:
            node = self.append("const", (), {"value": value}, TensorType(dtype, ()))
            self._constants[key] = node
        return node

    def const_array(self, array: np.ndarray) -> Node:
        """A constant array; its elements stand in the node, so keep it small."""
        type = TensorType(from_numpy_dtype(array.dtype), array.shape)
        if array.ndim == 0:
            return self.const(array.item(), type.dtype)
        return self.append("const", (), {"value": tuple(array.ravel().tolist())}, type)

    def full(self, shape: Shape, value: float | int | bool, dtype: DType) -> Node:
        """A constant of one value everywhere."""
        node = self.const(value, dtype)
        if not shape:
            return node
        return self.emit(registered("broadcast_in_dim"), (node,), {"shape": shape, "dims": ()})

    def apply(self, op: Op, operands: Sequence[Any], attrs: Attrs) -> Node:
        """Like `emit`, but Python numbers among the operands become constants."""
        nodes = [x for x in operands if x.__class__ is Node]
        dtype = next(
            (x.type.dtype for x in nodes if x.type.dtype is not bool_), nodes[0].type.dtype
        )
        return self.emit(
            op,
            tuple(x if x.__class__ is Node else self._as_node(x, dtype) for x in operands),
            attrs,
        )

    def _as_node(self, value: Any, dtype: DType) -> Node:
        if isinstance(value, np.ndarray):
            return self.const_array(value)
        return self.const(value, dtype)

    def emit(
        self,
        op: Op,
        inputs: tuple[Node, ...],
        attrs: Attrs,
        location: SourceLocation | None = None,
    ) -> Node:
        """Append a node; its type comes from the op's type rule, which raises the user's error."""
        type = op.type_rule(*(x.type for x in inputs), **attrs)
        node = Node(op, inputs, attrs, type, location or self.location, self.scope, self.origin)
        self.graph.nodes.append(node)
        return node

    def append(
        self,
        op_name: str,
        inputs: tuple[Node, ...],
        attrs: Attrs,
        type: TensorType,
    ) -> Node:
        """Append a node of known type without asking the type rule."""
        node = Node(
            registered(op_name), inputs, attrs, type, self.location, self.scope, self.origin
        )
        self.graph.nodes.append(node)
        return node
