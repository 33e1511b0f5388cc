"""Which iteration spaces are cut along the faces of placements, so that these need no memory.

What a cut is, :mod:`.placement` says. Here the cuts of each node are found from those of its operands;
what would have to be cut and cannot be, because a reduction or a product reads it, or because there
would be too many regions, is stored. So are placements where cuts do not pay: the more of them are
read in one go, the more regions are worth it. Start reading at :func:`cut`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from ..ir.graph import Node
from ..ir.types import Shape
from .body_builder import moved_index
from .node_kinds import ALIAS, DIVISIONS, MOVEMENT, PLACEMENT, POINTWISE
from .placement import (
    Cuts,
    broadcast,
    count_regions,
    faces,
    is_dense,
    moved,
    placed,
    regions,
    united,
)

# Regions that an iteration space is cut into, at most: each is a kernel to be compiled.
REGION_LIMIT = 9


def cut(
    order: Sequence[Node],
    kinds: dict[Node, int],
    operands: Callable[[Node], tuple[Node, ...]],
    stored: set[Node],
) -> dict[Node, Cuts]:
    """The cuts of all nodes that have any.

    Args:
        order: the nodes, in graph order.
        kinds: per node its kind.
        operands: what the code of a pointwise node reads.
        stored: the nodes that get memory. Those that have to be stored because of cuts are added. Done
            again with more nodes stored, there are fewer cuts and nothing more to add.
    """
    if PLACEMENT not in kinds.values():
        return {}
    trial = _Cutter(kinds, operands, set(stored))
    trial.run(order)
    stored |= trial.find_dear(order)
    return _Cutter(kinds, operands, stored).run(order)


def compiling_cost(shape: Shape, cuts: Cuts) -> float:
    """How many kernels the regions of an array are; straight code for one element counts half."""
    return sum(0.5 if prod(region.extents) == 1 else 1.0 for region in regions(shape, cuts))


class _Cutter:
    def __init__(
        self,
        kinds: dict[Node, int],
        operands: Callable[[Node], tuple[Node, ...]],
        stored: set[Node],
    ) -> None:
        self.kinds = kinds
        self.operands = operands
        self.stored = stored
        self.cuts: dict[Node, Cuts] = {}

    def run(self, order: Sequence[Node]) -> dict[Node, Cuts]:
        for node in order:
            kind = self.kinds[node]
            found = None
            if kind == PLACEMENT:
                found = self._place(node)
            elif kind == POINTWISE:
                found = self._apply(node)
            elif kind in (MOVEMENT, ALIAS):
                found = self._move(node)
            else:
                for x in node.inputs:
                    self._keep_whole(x)
            if found is not None and any(found):
                self.cuts[node] = found
        return self.cuts

    def find_dear(self, order: Sequence[Node]) -> set[Node]:
        """The placements that are read by kernels whose regions are too many for what they save."""
        dear: set[Node] = set()
        for root in order:
            if root in self.stored and root in self.cuts:
                read = self._placements_of(root)
                if compiling_cost(root.shape, self.cuts[root]) > 2 * len(read) - 1:
                    dear.update(read)
        return dear

    def _placements_of(self, root: Node) -> list[Node]:
        """The placements that the kernels of a stored node compute in place."""
        found, stack, seen = [], [root], {root}
        while stack:
            node = stack.pop()
            if self.kinds[node] == PLACEMENT:
                found.append(node)
            for x in node.inputs:
                if x not in seen and self._is_cut(x):
                    seen.add(x)
                    stack.append(x)
        return found

    def _is_cut(self, x: Node) -> bool:
        """Whether the elements of an operand are computed in place, by different loops."""
        return x in self.cuts and x not in self.stored

    def _apply(self, node: Node) -> Cuts | None:
        if node.op.name in DIVISIONS:  # The divisor is checked in a kernel of its own.
            self._keep_whole(node.inputs[1])
        parts = [
            (x, broadcast(self.cuts[x], node.ndim))
            for x in dict.fromkeys(self.operands(node))
            if self._is_cut(x)
        ]
        return self._together(parts, None) if parts else None

    def _place(self, node: Node) -> Cuts | None:
        """The cuts of a placement; None if it is stored box by box."""
        parts = [
            (x, placed(node, number, self.cuts[x]))
            for number, x in enumerate(node.inputs)
            if self._is_cut(x)
        ]
        found = None
        if (parts or node not in self.stored) and is_dense(node):
            found = self._together(parts, faces(node))
        if found is None or not any(found):
            self.stored.add(node)
            for x, _ in parts:
                self._keep_whole(x)
        return found

    def _move(self, node: Node) -> Cuts | None:
        x = node.inputs[0]
        if not self._is_cut(x):
            return None
        if self.kinds[node] == ALIAS:
            dropped = () if node.attrs["keepdims"] else node.attrs["axis"]
            return tuple([c for axis, c in enumerate(self.cuts[x]) if axis not in dropped])
        index = moved_index(node) if node.type.size else None
        found = None if index is None else moved(self.cuts[x], index, node.shape)
        if found is None:
            self._keep_whole(x)
        return found

    def _together(self, parts: list[tuple[Node, Cuts]], own: Cuts | None) -> Cuts | None:
        """All cuts of a node; of its operands those with the most are stored until there are few enough.

        Args:
            parts: the operands that are cut, with their cuts as the node sees them.
            own: cuts of the node itself. None is returned if these alone are too many.
        """
        if own is not None and count_regions(own) > REGION_LIMIT:
            return None
        parts = sorted(parts, key=lambda part: count_regions(part[1]))
        while parts:
            every = [cuts for _, cuts in parts]
            found = united(every if own is None else [*every, own])
            if count_regions(found) <= REGION_LIMIT:
                return found
            self._keep_whole(parts.pop()[0])
        return own

    def _keep_whole(self, x: Node) -> None:
        """Store a node whose reader cannot be cut."""
        if not self._is_cut(x):
            return
        self.stored.add(x)
        if self.kinds[x] == PLACEMENT and not any(self._is_cut(y) for y in x.inputs):
            del self.cuts[x]
