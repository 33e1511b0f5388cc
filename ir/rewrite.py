"""Local rewriting: a table of rules, and the driver that applies them.

A rule is a function of a :class:`Rewriter` and a node whose operands are already rewritten; it
returns a value of the same type that replaces the node, or None. Its docstring is its equation.
The driver goes through the graph once, from operands to results; what a rule emits is rewritten at
once, so that one pass reaches the fixed point of nearly all rules. Everything a node carries for
people (line, scope, origin) passes on to what replaces it.

Start reading at :meth:`RuleTable.rewrite`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import IRError
from .graph import Graph, Node
from .op import Op, registered
from .printer import format_attrs
from .types import DType, Shape, TensorType

Rule = Callable[["Rewriter", Node], Node | None]


class RuleTable:
    """Rules by op, declared with ``@table.rule("mul", "div")`` or ``@table.rule(where=...)``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rules: list[Rule] = []
        self._by_name: dict[str, list[Rule]] = {}
        self._general: list[tuple[Callable[[Op], bool], Rule]] = []
        self._by_op: dict[Op, tuple[Rule, ...]] = {}

    def rule(self, *ops: str, where: Callable[[Op], bool] | None = None) -> Callable[[Rule], Rule]:
        """Declare a rule for these ops, or for all that `where` accepts. Earlier rules come first;
        those that name their ops before those that do not.

        Raises:
            ValueError: the rule has no equation as docstring.
        """

        def declare(function: Rule) -> Rule:
            if "=>" not in (function.__doc__ or ""):
                raise ValueError(f"rule {function.__name__} states no equation")
            self.rules.append(function)
            for name in ops:
                self._by_name.setdefault(name, []).append(function)
            if where is not None:
                self._general.append((where, function))
            self._by_op.clear()
            return function

        return declare

    def wrapped(self, wrap: Callable[[Rule], Rule]) -> RuleTable:
        """The same table with every rule replaced by `wrap(rule)`: to watch what fires."""
        table = RuleTable(self.name)
        new = {rule: wrap(rule) for rule in self.rules}
        table.rules = list(new.values())
        table._by_name = {name: [new[r] for r in rules] for name, rules in self._by_name.items()}
        table._general = [(where, new[rule]) for where, rule in self._general]
        return table

    def for_op(self, op: Op) -> tuple[Rule, ...]:
        """The rules that are tried on nodes of this op, in order."""
        found = self._by_op.get(op)
        if found is None:
            general = (rule for where, rule in self._general if where(op))
            found = self._by_op[op] = (*self._by_name.get(op.name, ()), *general)
        return found

    def rewrite(self, graph: Graph) -> Graph:
        """The graph with every rule applied wherever it fits; `graph` itself where none does.

        Nodes that are no longer needed stay, for dead code elimination. Linear in nodes.
        """
        rewriter = Rewriter(self)
        replaced = rewriter.replaced
        for node in graph.nodes:
            rewriter.current = node
            result = rewriter.simplify(transplanted(node, replaced))
            if result is not node:
                replaced[node] = result
        if not replaced:
            return graph
        return graph.replace(
            nodes=rewriter.nodes, outputs=[replaced.get(x, x) for x in graph.outputs]
        )


def transplanted(node: Node, replaced: dict[Node, Node]) -> Node:
    """The node with its operands and its origin replaced; itself where nothing changes."""
    for operand in node.inputs:
        if operand in replaced:
            break
    else:
        if node.origin is None or node.origin not in replaced:
            return node
    origin = None if node.origin is None else replaced.get(node.origin, node.origin)
    inputs = tuple([replaced.get(x, x) for x in node.inputs])
    return Node(
        node.op, inputs, node.attrs, node.type, node.location, node.scope, origin, node.hint
    )


class Rewriter:
    """What rules build with.

    Attributes:
        nodes: the new graph's nodes so far.
        replaced: nodes of the old graph and what stands for them, where that differs.
        current: the node of the old graph that is being rewritten.
        memo: for rules that want to remember something about a node.
    """

    __slots__ = ("_constants", "_table", "current", "memo", "nodes", "replaced")

    def __init__(self, table: RuleTable) -> None:
        self._table = table
        self._constants: dict[tuple[str, DType], Node] = {}
        self.nodes: list[Node] = []
        self.replaced: dict[Node, Node] = {}
        self.current: Node | None = None
        self.memo: dict[Node, Any] = {}

    def simplify(self, node: Node) -> Node:
        """Apply the first rule that fits, or append the node as it is."""
        for rule in self._table.for_op(node.op):
            replacement = rule(self, node)
            if replacement is not None:
                if replacement.type != node.type:
                    raise IRError(
                        f"rule {rule.__name__} ({rule.__doc__}) makes {replacement.type} of "
                        f"{node.op.name}{format_attrs(node)}: {node.type}",
                        node,
                    )
                return replacement
        self.nodes.append(node)
        return node

    def emit(self, op: Op | str, *inputs: Node, **attrs: Any) -> Node:
        """A new value in place of the current node, simplified and typed."""
        if op.__class__ is str:
            op = registered(op)
        assert isinstance(op, Op)
        return self._add(op, inputs, attrs, op.type_rule(*[x.type for x in inputs], **attrs))

    def const(self, value: float | int | bool, dtype: DType) -> Node:
        """A 0-d constant; made once."""
        value = dtype.np.type(value).item()
        key = (repr(value), dtype)
        node = self._constants.get(key)
        if node is None:
            node = self._add(registered("const"), (), {"value": value}, TensorType(dtype, ()))
            self._constants[key] = node
        return node

    def full(self, type: TensorType, value: float | int | bool) -> Node:
        """One value everywhere."""
        return self.expand(self.const(value, type.dtype), type.shape)

    def expand(self, x: Node, shape: Shape) -> Node:
        """`x` broadcast to a shape by NumPy's rule; itself if it has that shape."""
        if x.shape == shape:
            return x
        dims = tuple(range(len(shape) - x.ndim, len(shape)))
        return self.emit("broadcast_in_dim", x, shape=shape, dims=dims)

    def reshape(self, x: Node, shape: Shape) -> Node:
        """`x` in another shape; itself if it has that shape."""
        return x if x.shape == shape else self.emit("reshape", x, shape=shape)

    def _add(
        self, op: Op, inputs: tuple[Node, ...], attrs: dict[str, Any], type: TensorType
    ) -> Node:
        old = self.current
        assert old is not None
        origin = None if old.origin is None else self.replaced.get(old.origin, old.origin)
        return self.simplify(
            Node(op, inputs, attrs, type, old.location, old.scope, origin, old.hint)
        )
