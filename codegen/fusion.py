"""Which nodes are stored, and at which level: the decisions that fusion consists of.

The data structure is :class:`Analysis`. Every node is either *stored* (its elements get memory:
results of reductions, of matrix products, of the program, and whatever is better computed once) or
*inlined* into the kernels that need it. Each stored node has a *level*, and kernels are formed of
the stored nodes of one level and one iteration space: a node reads nodes of its own level in
registers, at its own point of the iteration space, and everything else from memory, written at a
lower level. So there can be no cycle between kernels, and no search for one.

Placements (``slice_update``, ``pad``, ``concat``) are inlined as well where they can be: the iteration
space is cut along their faces, see :mod:`.cutting`, and what is cut elsewhere is another space.

Nothing here is more than linear in the number of nodes and edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..ir.graph import Node
from ..ir.program import Program
from ..ir.types import Shape
from .body_builder import canonical, moved_index
from .cutting import cut
from .elementary import ELEMENTARY
from .engine import Host
from .index import Affine, identity_index, linearize, squeezed
from .kernel import Constant
from .node_kinds import (
    ALIAS,
    CONSTANT,
    DIVISIONS,
    GENERATED,
    INDEXED,
    LEAF,
    MATMUL,
    MOVEMENT,
    PLACEMENT,
    POINTWISE,
    PYTHON,
    REDUCE,
    SCAN,
    SCATTER,
    classify,
)
from .placement import Cuts, boxes, count_regions

# Nodes of one kernel, at most: LLVM's time grows faster than the size of a basic block.
_BODY_LIMIT = 400

# A node that several kernels need is stored if computing it anew costs more than this many
# additions.
_RECOMPUTED_COST = 8

# The cost of a chain of nodes that is not moved from one kernel into a later one.
_LONG_CHAIN = 200

_COSTS = {
    "div": 5, "sqrt": 5, "rsqrt": 10, "floor_div": 20, "remainder": 20, "fmod": 20,
    "gather": 4, "take": 4, "power": 4, "random_bits": 12,
}  # fmt: skip
_CALL_COST = 20
_FREE = frozenset(["neg", "cast", "eq", "ne", "lt", "le", "gt", "ge", "where", "bit_not"])


class Analysis:
    """What is stored, and at which level; see the module docstring.

    Attributes:
        order: the nodes that the outputs depend on, in graph order.
        kinds: what becomes of each node and input.
        stored: the nodes that get memory.
        cuts: per node whose iteration space is cut where. A placement that is not among them is
            stored box by box, over its background.
        level: per stored node the level of the kernel that completes it.
        same, other: per inlined node the lowest level of a kernel that can compute it, in the
            node's own iteration space and in another one.
        reasons: per node that Python evaluates why it does.
    """

    def __init__(self, program: Program, host: Host) -> None:
        self.program = program
        graph = program.graph
        reachable = graph.reachable_from(graph.outputs)
        self.order = [node for node in graph.nodes if node in reachable]
        self.users = _users(self.order)
        self.reasons: dict[Node, str] = {}
        self.kinds: dict[Node, int] = dict.fromkeys(graph.inputs, LEAF)
        for node in self.order:
            self.kinds[node] = classify(node, self.reasons)
        self.transposed = self._turn_products()
        self.contracted = self._contract() if host.has_fma else {}
        self.fused_products = {node.inputs[number] for node, (_, number) in self.contracted.items()}
        self.products: dict[Node, tuple[Factor, Factor]] = {}
        self.level: dict[Node, int] = {}
        self.same: dict[Node, int] = {}
        self.other: dict[Node, int] = {}
        self.check_level: dict[Node, int] = {}
        self.box_levels: dict[Node, list[int]] = {}
        self._cost: dict[Node, int] = {}
        self.stored: set[Node] = set()
        self.cuts: dict[Node, Cuts] = {}
        self._store_what_must_be()
        self.cuts = self._cut()
        self._assign_levels()
        if self._store_what_pays():
            self.cuts = self._cut()
            self._assign_levels()

    def constant(self, node: Node) -> Constant | None:
        """The one value that all elements of a node have, if it is known."""
        kind = self.kinds[node]
        if kind == CONSTANT:
            return Constant(node.dtype, node.attrs.get("value", 0))
        if kind == REDUCE and node.inputs[0].type.size == 0:
            return Constant(node.dtype, node.op.lower.start(node.dtype))
        if kind == MATMUL and self.factors(node)[0].shape[-1] == 0:
            return Constant(node.dtype, 0)
        return None

    def factors(self, node: Node) -> tuple[Node, ...]:
        """The factors of the product that a node is, or is the transpose of."""
        return self.transposed.get(node, node).inputs

    def _turn_products(self) -> dict[Node, Node]:
        """Transposed products that nothing else reads: ``(x @ y).T`` is computed as ``y.T @ x.T``.

        The transpose takes the product's place; the product itself is dropped.
        """
        outputs = set(self.program.graph.outputs)
        turned = {}
        for node in self.order:
            if node.op.name != "permute":
                continue
            x, n = node.inputs[0], node.ndim
            if (
                self.kinds[x] == MATMUL
                and node.attrs["dims"] == (*range(n - 2), n - 1, n - 2)
                and len(self.users[x]) == 1
                and x not in outputs
            ):
                turned[node] = x
                self.kinds[node] = MATMUL
        dropped = set(turned.values())
        self.order = [node for node in self.order if node not in dropped]
        return turned

    def _contract(self) -> dict[Node, tuple[Node, int]]:
        """Sums of floats with a product that nothing else reads: they become one multiply-add.

        This is decided per node, and for all kernels alike: a value must be the same to the last
        bit wherever it is computed, or the maximum of an expression would not be found among its
        elements.
        """
        outputs = set(self.program.graph.outputs)
        contracted = {}
        for node in self.order:
            if node.op.name not in ("add", "sub") or not node.dtype.is_floating:
                continue
            for number, x in enumerate(node.inputs):
                if (
                    x.op.name == "mul"
                    and x.shape == node.shape
                    and node.inputs[0] is not node.inputs[1]
                    and len(self.users[x]) == 1
                    and x not in outputs
                ):
                    contracted[node] = (x, number)
                    break
        return contracted

    def operands(self, node: Node) -> tuple[Node, ...]:
        """What the code of a node reads: its inputs, or in place of a fused product its factors."""
        if node in self.transposed:
            return self.transposed[node].inputs
        fused = self.contracted.get(node)
        if fused is None:
            return node.inputs
        product, number = fused
        return (*product.inputs, node.inputs[1 - number])

    # What is stored.

    def _store_what_must_be(self) -> None:
        for output in self.program.graph.outputs:
            if self.kinds[output] > CONSTANT:
                self.stored.add(output)
        for node in self.order:
            kind = self.kinds[node]
            if kind >= REDUCE and kind != PLACEMENT and self.constant(node) is None:
                self.stored.add(node)
        self.cuts = self._cut()
        flat = self._flat_nodes()
        for node in self.order:
            kind = self.kinds[node]
            if kind in (INDEXED, PYTHON):
                for x in node.inputs[: 1 if kind == INDEXED else None]:
                    if self.kinds[x] != LEAF:
                        self.stored.add(x)
            elif kind == MOVEMENT:
                x = node.inputs[0]
                if x not in flat and moved_index(node) is None:
                    self.stored.add(x)
            elif kind == MATMUL and node in self.stored:
                self._store_factors(node)

    def _flat_nodes(self) -> set[Node]:
        """The nodes whose elements can be computed one after the other from a running offset."""
        flat = set(self.program.graph.inputs)
        for node in self.order:
            kind = self.kinds[node]
            if (
                kind in (CONSTANT, LEAF, GENERATED)
                or node in self.stored
                or self.constant(node) is not None
            ):
                flat.add(node)
            elif kind == POINTWISE:
                if all(
                    x.type.size == 1 or (squeezed(x.shape) == squeezed(node.shape) and x in flat)
                    for x in self.operands(node)
                ):
                    flat.add(node)
            elif kind in (MOVEMENT, ALIAS):
                x = node.inputs[0]
                rigid = kind == ALIAS or node.op.name == "reshape"
                if x.type.size == 1 or (rigid and x in flat):
                    flat.add(node)
        return flat

    def _store_factors(self, node: Node) -> None:
        if node.type.size == 0:
            return
        x, y = self.factors(node)
        if node in self.transposed:
            x, y = y, x
        self.products[node] = (self._as_view(node, x), self._as_view(node, y))

    def _as_view(self, node: Node, x: Node) -> Factor:
        """A factor as a strided view of a stored node, through as many movements as possible."""
        rank = node.ndim
        # Loop variables are the axes of the factor, aligned with those of the result.
        unit = [Affine(tuple([int(i == number) for i in range(rank)])) for number in range(rank)]
        if node in self.transposed:
            unit[-2:] = unit[-1], unit[-2]
        lead = rank - x.ndim
        index: Any = tuple([0 if n == 1 else unit[lead + i] for i, n in enumerate(x.shape)])
        at: Node = x
        found: tuple[Node, Affine] = at, linearize(index, at.shape, rank)
        while at not in self.stored and self.kinds[at] in (MOVEMENT, ALIAS):
            inner = at.inputs[0]
            if isinstance(index, Affine):
                if self.kinds[at] == MOVEMENT and at.op.name != "reshape" and inner.type.size != 1:
                    break
                moved: Any = index if inner.type.size != 1 else Affine((0,) * rank)
            else:
                moved = None
                if self.kinds[at] == MOVEMENT:
                    moved = at.op.lower.index(index, inner.type, at.type, **at.attrs)
                flat = linearize(index, at.shape, rank)
                moved = flat if moved is None else canonical(moved, inner.shape)
            at, index = inner, moved
            if self.constant(at) is not None:
                break
            offset = index if isinstance(index, Affine) else linearize(index, at.shape, rank)
            found = at, offset
            if self.kinds[at] == LEAF:
                break
        base, offset = found
        if self.kinds[base] != LEAF:
            self.stored.add(base)
        return Factor(base, offset)

    def _cut(self) -> dict[Node, Cuts]:
        return cut(self.order, self.kinds, self.operands, self.stored)

    def space_of(self, node: Node) -> tuple[Shape, Cuts]:
        """The iteration space of a node: axes of extent 1 do not count."""
        shape = squeezed(node.shape)
        cuts = self.cuts.get(node)
        if cuts is None:
            return shape, ()
        return shape, tuple([c for c, n in zip(cuts, node.shape, strict=True) if n != 1])

    # Levels.

    def _assign_levels(self) -> None:
        counts: dict[Any, int] = {}
        folding: dict[tuple[Shape, int], frozenset[int]] = {}
        for node in self.order:
            kind = self.kinds[node]
            if kind in (LEAF, CONSTANT) or self.constant(node) is not None:
                if node in self.stored:
                    self.level[node] = 0
                continue
            if kind == REDUCE:
                self.level[node] = self._level_of_reduction(node, folding)
            elif kind == SCAN:
                self.level[node] = self._whole(node.inputs[0])
            elif kind == PLACEMENT and node not in self.cuts:
                self._place(node)
            elif kind == SCATTER:
                self._scatter(node)
            elif kind == PYTHON:
                self.level[node] = max([self.reach(x, False)[1] for x in node.inputs], default=0)
            elif kind == MATMUL:
                factors = self.products.get(node, ())
                self.level[node] = max([self.reach(x.node, False)[1] for x in factors], default=0)
            else:
                self._inline(node, kind, counts)

    def _level_of_reduction(
        self, node: Node, folding: dict[tuple[Shape, int], frozenset[int]]
    ) -> int:
        """The level of a reduction; those of one kernel run along the same axes.

        Args:
            folding: per iteration space and level the axes that are reduced there.
        """
        x = node.inputs[0]
        space, axes = squeezed(x.shape), reduced_axes(node)
        level = self._whole(x)
        while folding.setdefault((space, level), axes) != axes:
            level += 1
        return level

    def _inline(self, node: Node, kind: int, counts: dict[Any, int]) -> None:
        space = self.space_of(node)
        same = other = cost = 0
        for number, x in enumerate(self.operands(node)):
            if kind in (MOVEMENT, ALIAS):
                identity = self.space_of(x) == space and (
                    kind == ALIAS or self._is_identity(node, x)
                )
            elif _reads_elsewhere(node, kind, number):
                identity = False
            else:
                identity = self.space_of(x) == space
            reach = self.reach(x, identity)
            same, other = max(same, reach[0]), max(other, reach[1])
            if x not in self.stored:
                cost += self._cost.get(x, 0)
        if kind == INDEXED or node.op.name in DIVISIONS:
            level = self._check(node)
            if kind == INDEXED:
                same, other = max(same, level + 1), max(other, level + 1)
        if kind not in (MOVEMENT, ALIAS, PLACEMENT):
            key = (space, same)
            while counts.get(key, 0) >= _BODY_LIMIT:
                key = (space, key[1] + 1)
                cost = 0
            counts[key] = counts.get(key, 0) + count_regions(space[1])
            same = key[1]
            cost += _own_cost(node)
        self._cost[node] = min(cost, 10_000)
        self.same[node], self.other[node] = same, max(same, other)
        if node in self.stored:
            self.level[node] = same

    def _whole(self, x: Node) -> int:
        """The lowest level that can read a node at its own point of a space without cuts."""
        return self.reach(x, x not in self.cuts)[0]

    def reach(self, x: Node, identity: bool) -> tuple[int, int]:
        """The lowest levels that can read a node: in its own iteration space, and in another."""
        if x in self.level:
            level = self.level[x]
            if self.kinds[x] >= REDUCE or not identity:
                return level + 1, level + 1
            return level, level + 1
        if x not in self.same:
            return 0, 0
        return (self.same[x] if identity else self.other[x]), self.other[x]

    def _is_identity(self, node: Node, x: Node) -> bool:
        if node.type.size == 0:
            return True
        moved = moved_index(node)
        return moved is not None and canonical(moved, x.shape) == identity_index(x.shape)

    def _check(self, node: Node) -> int:
        """The level at which the indices of a node, or its divisors, are checked."""
        operand = node.inputs[1]
        level = self._whole(operand)
        self.check_level[node] = level
        return level

    def _place(self, node: Node) -> None:
        lower = node.op.lower
        levels = []
        lowest = 0
        if lower.background == "operand":
            lowest = self._whole(node.inputs[0])
        if lower.background != "none":
            levels.append(lowest)
            lowest += 1
        for number, _, _ in boxes(node):
            level = max(lowest, self._whole(node.inputs[number]))
            levels.append(level)
            if node.op.name != "concat":  # Whose boxes do not overlap.
                lowest = level + 1
        self.box_levels[node] = levels
        self.level[node] = max(levels, default=0)

    def _scatter(self, node: Node) -> None:
        x, index, src = node.inputs
        start = self._whole(x)
        check = self._check(node)
        # The index and the source are read at one point of the source's space.
        read = max(
            self.reach(index, self.space_of(index) == (squeezed(src.shape), ()))[0],
            self._whole(src),
        )
        self.box_levels[node] = [start]
        self.level[node] = max(start + 1, check + 1, read)

    # What is better stored.

    def _store_what_pays(self) -> bool:
        """Find nodes that several kernels would compute, at a price. Returns whether there are
        any.
        """
        keys: dict[Node, set[Any]] = {}
        moves: dict[Node, int] = {}
        added = False

        def note(x: Node, used_by: set[Any], moved: bool, size: int) -> None:
            if self.kinds[x] in (LEAF, CONSTANT) or x in self.level:
                return
            known = keys.setdefault(x, set())
            if len(known) < 4:
                known |= used_by
            if moved:
                moves[x] = moves.get(x, 0) + 1
            if 1 < x.type.size < size:
                moves[x] = moves.get(x, 0) + 2

        for node in reversed(self.order):
            kind = self.kinds[node]
            if node in self.fused_products or (self.constant(node) is not None):
                continue
            if kind >= REDUCE and node not in self.cuts:
                own = {self._key_of(node)}
            elif node in self.stored:
                own = {(self.space_of(node), self.level[node])}
            else:
                own = keys.get(node, set())
                if not own:
                    continue
                times = len(own) + max(0, moves.get(node, 0) - 1)
                # Where a chain goes on at a higher level only, it would move there as a whole.
                late = all(level > self.same[node] for _, level in own)
                if kind in (POINTWISE, GENERATED, INDEXED) and (
                    self._cost[node] * (times - 1) > _RECOMPUTED_COST
                    or (late and self._cost[node] > _LONG_CHAIN)
                ):
                    self.stored.add(node)
                    added = True
                    own = {(self.space_of(node), self.same[node])}
            if node in self.check_level:
                note(node.inputs[1], {("check", self.check_level[node])}, False, 0)
            for x in self.operands(node):
                elsewhere = kind == MOVEMENT and squeezed(x.shape) != squeezed(node.shape)
                elsewhere = elsewhere or (
                    kind == MOVEMENT and node.op.name not in ("reshape", "broadcast_in_dim")
                )
                elsewhere = elsewhere or (node in self.cuts and kind == PLACEMENT)
                repeated = 0 if kind == PLACEMENT else node.type.size
                note(x, own, elsewhere and len(self.users[x]) > 1, repeated)
        return added

    def _key_of(self, node: Node) -> Any:
        if self.kinds[node] == REDUCE:
            return ((squeezed(node.inputs[0].shape), ()), self.level[node])
        return (id(node), self.level[node])


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor of a product: where element (axes of the result) lies in a stored node."""

    node: Node
    offset: Affine


def reduced_axes(node: Node) -> frozenset[int]:
    """The axes of the iteration space that a reduction runs along."""
    wide = [axis for axis, n in enumerate(node.inputs[0].shape) if n != 1]
    return frozenset(i for i, axis in enumerate(wide) if axis in node.attrs["axis"])


def _reads_elsewhere(node: Node, kind: int, number: int) -> bool:
    """Whether the elements of an operand do not belong to the node's elements at the same place."""
    if kind == PLACEMENT:
        return bool(number > 0 or node.op.lower.background != "operand")
    return kind == INDEXED and number == 0


def _users(order: list[Node]) -> dict[Node, list[Node]]:
    users: dict[Node, list[Node]] = {}
    for node in order:
        for x in dict.fromkeys(node.inputs):
            users.setdefault(x, []).append(node)
        users.setdefault(node, [])
    return users


def _own_cost(node: Node) -> int:
    name = node.op.name
    if name in _FREE:
        return 1
    found = _COSTS.get(name)
    if found is not None:
        return found
    return _CALL_COST if name in ELEMENTARY else 1
