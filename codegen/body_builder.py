"""The instructions of a loop kernel, built on demand from the nodes that its sinks need.

Start reading at :meth:`BodyBuilder.value`. Pointwise nodes are inlined, movement nodes become index
arithmetic, placements the operand that they are made of at this place; everything that is stored
already becomes a load. Equal instructions are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..ir.graph import Node
from ..ir.lowering import Generated, Movement, Placement, Reduce
from ..ir.types import Shape, int64
from .index import Affine, Coordinates, identity_index, linearize, row_major_strides
from .kernel import (
    Apply,
    Buffer,
    Constant,
    Instruction,
    Load,
    LoopKernel,
    MultiplyAdd,
    Position,
)
from .placement import find_source


class BodyBuilder:
    """Builds the instructions of one LoopKernel from the nodes that its sinks need.

    Attributes:
        kernel: what is built.
    """

    __slots__ = ("_contracted", "_known", "_memo", "_source", "kernel")

    def __init__(
        self,
        kernel: LoopKernel,
        source: Callable[[Node], Buffer | Constant | None],
        contracted: dict[Node, tuple[Node, int]],
    ) -> None:
        """
        Args:
            kernel: with its extents.
            source: for a node the buffer to load it from or the constant that it is everywhere;
                None if it has to be computed here.
            contracted: sums with the product among their operands that they are fused with, and its
                number.
        """
        self.kernel = kernel
        self._source = source
        self._contracted = contracted
        self._memo: dict[tuple[Node, Any], int] = {}
        self._known: dict[Any, int] = {}

    def add(self, instruction: Instruction) -> int:
        """The number of an instruction; equal ones are one."""
        # repr keeps 0.0 and -0.0 apart, which are equal.
        key: Any = instruction
        if isinstance(instruction, Constant):
            key = (instruction.dtype, repr(instruction.value))
        number = self._known.get(key)
        if number is None:
            number = len(self.kernel.instructions)
            self.kernel.instructions.append(instruction)
            self._known[key] = number
        return number

    def value(self, node: Node, index: Coordinates | Affine) -> int:
        """The number of the value of one element of a node.

        Args:
            node: the node.
            index: coordinates of the element, or its offset in row-major order.
        """
        memo = self._memo
        stack: list[tuple[Node, Any]] = [(node, index)]
        while stack:
            key = stack[-1]
            if key in memo:
                stack.pop()
                continue
            number = self._leaf(*key)
            if number is None:
                needed = self._needed(*key)
                missing = [entry for entry in needed if entry not in memo]
                if missing:
                    stack.extend(missing)
                    continue
                number = self._made(key[0], key[1], tuple([memo[entry] for entry in needed]))
            stack.pop()
            memo[key] = number
        return memo[node, index]

    def _offset(self, index: Coordinates | Affine, shape: Shape) -> Affine:
        if isinstance(index, Affine):
            return index
        return linearize(index, shape, len(self.kernel.extents))

    def _leaf(self, node: Node, index: Any) -> int | None:
        source = self._source(node)
        if source is None:
            return None
        if isinstance(source, Constant):
            return self.add(source)
        return self.add(Load(node.dtype, source, self._offset(index, node.shape)))

    def _needed(self, node: Node, index: Any) -> list[tuple[Node, Any]]:
        """The operands of an inlined node, with the index of the element that it reads."""
        lower = node.op.lower
        if isinstance(lower, Movement):
            x = node.inputs[0]
            if not isinstance(index, Affine):
                moved = lower.index(index, x.type, node.type, **node.attrs)
                if moved is not None:
                    return [(x, canonical(moved, x.shape))]
            return [(x, self._flat(node, x, index))]
        if isinstance(lower, Reduce):  # Along axes of extent 1 only.
            return [(node.inputs[0], self._unreduced(node, index))]
        if isinstance(lower, Placement):
            found = find_source(node, index, self.kernel.extents)
            return [] if found is None else [(found[0], canonical(found[1], found[0].shape))]
        if isinstance(lower, Generated):
            return [(x, (0,) * x.ndim) for x in node.inputs]
        if node.op.name in ("gather", "take"):
            return [(node.inputs[1], indexing_position(node, index))]
        product = self._contracted.get(node)
        if product is None:
            return [(x, self._broadcast(node, x, index)) for x in node.inputs]
        factors, number = product
        addend = node.inputs[1 - number]
        inner = self._broadcast(node, factors, index)
        return [
            *((x, self._broadcast(factors, x, inner)) for x in factors.inputs),
            (addend, self._broadcast(node, addend, index)),
        ]

    def _flat(self, node: Node, x: Node, index: Any) -> Any:
        """The index of the operand of a movement whose elements stay in row-major order."""
        if x.type.size == 1:
            return (0,) * x.ndim
        return self._offset(index, node.shape)

    def _unreduced(self, node: Node, index: Any) -> Any:
        x = node.inputs[0]
        if isinstance(index, Affine):
            return index
        if node.attrs["keepdims"]:
            return index
        kept = iter(index)
        return tuple([0 if i in node.attrs["axis"] else next(kept) for i in range(x.ndim)])

    @staticmethod
    def _broadcast(node: Node, x: Node, index: Any) -> Any:
        if x.type.size == 1:
            return (0,) * x.ndim
        if isinstance(index, Affine) or x.shape == node.shape:
            return index
        tail = index[len(index) - x.ndim :]
        return tuple([0 if n == 1 else i for i, n in zip(tail, x.shape, strict=True)])

    def _made(self, node: Node, index: Any, operands: tuple[int, ...]) -> int:
        lower = node.op.lower
        if isinstance(lower, (Movement, Reduce)):
            return operands[0]
        if isinstance(lower, Placement):
            background = Constant(node.dtype, node.attrs.get("value", 0))
            return operands[0] if operands else self.add(background)
        if isinstance(lower, Generated):
            position = self.add(Position(int64, self._offset(index, node.shape)))
            return self.add(Apply(node.dtype, node, (position, *operands)))
        if node.op.name in ("gather", "take"):
            return self.indexed_load(node, index, operands[0])
        product = self._contracted.get(node)
        if product is None:
            return self.add(Apply(node.dtype, node, operands))
        number = product[1]
        subtract = node.op.name == "sub"
        return self.add(
            MultiplyAdd(
                node.dtype, node, operands, subtract and number == 1, subtract and number == 0
            )
        )

    def indexed_load(self, node: Node, index: Any, position: int) -> int:
        """The element of a gather's or take's operand at the position that a value gives."""
        x = node.inputs[0]
        source = self._source(x)
        if isinstance(source, Constant):
            return self.add(source)
        assert source is not None
        offset, stride = indexed_offset(node, index, x.shape, len(self.kernel.extents))
        return self.add(Load(node.dtype, source, offset, ((position, stride),)))


def canonical(index: Iterable[Any], shape: Shape) -> Coordinates:
    """The coordinates, with a plain 0 along axes of extent 1."""
    return tuple([0 if n == 1 else i for i, n in zip(index, shape, strict=True)])


def moved_index(node: Node) -> Any:
    """The coordinates of a movement's operand where loops over the result stand; None if not affine."""
    if node.type.size == 0:
        return ()
    x = node.inputs[0]
    return node.op.lower.index(identity_index(node.shape), x.type, node.type, **node.attrs)


def indexing_position(node: Node, index: Coordinates) -> Coordinates:
    """Which element of the index operand belongs to an element of a result (or of ``src``)."""
    position = node.inputs[1]
    if node.op.name in ("gather", "scatter_add"):
        return canonical(index, position.shape)
    axis = node.attrs["axis"]
    return canonical(index[axis : axis + position.ndim], position.shape)


def indexed_offset(
    node: Node, index: Coordinates, shape: Shape, variables: int
) -> tuple[Affine, int]:
    """Where an element of an indexed array lies at position 0 of that axis; and its stride."""
    axis = node.attrs["axis"]
    if node.op.name in ("gather", "scatter_add"):
        coordinates = (*index[:axis], 0, *index[axis + 1 :])
    else:
        coordinates = (*index[:axis], 0, *index[axis + node.inputs[1].ndim :])
    return linearize(coordinates, shape, variables), row_major_strides(shape)[axis]
