"""Placements that are computed where they are read: ``pad``, ``concat``, ``slice_update`` without memory of their own.

Such a node's elements come from one operand inside of a box and from another one outside. A loop cannot
tell cheaply where it stands, so the iteration space is *cut* along the faces of the boxes, and each
*region* between the cuts becomes a kernel of its own, in which every placement is just one of its
operands, at shifted coordinates. That is how the gradients of slices, zeros around what came back,
are added up in one go.

The data structure is :data:`Cuts`: per axis of an array the positions where it is cut, ascending. The
cuts of a node follow from those of its operands, through broadcasts (:func:`broadcast`), movements
(:func:`moved`) and placements (:func:`placed`). Start reading at :func:`regions`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from ..ir.graph import Node
from ..ir.types import Shape
from .index import Affine, Coordinate, Coordinates

Cuts: TypeAlias = tuple[tuple[int, ...], ...]


class Region(NamedTuple):
    """A box of an iteration space.

    Attributes:
        start: per axis of the array its first coordinate.
        extents: per axis how many there are.
    """

    start: Shape
    extents: Shape

    def coordinates(self) -> Coordinates:
        """The coordinates of the element at which loops over the region stand."""
        variables = sum(extent != 1 for extent in self.extents)
        index: list[Coordinate] = []
        number = 0
        for first, extent in zip(self.start, self.extents, strict=True):
            if extent == 1:
                index.append(first)
            else:
                unit = tuple([int(i == number) for i in range(variables)])
                index.append(Affine(unit, first))
                number += 1
        return tuple(index)


def regions(shape: Shape, cuts: Cuts) -> Iterator[Region]:
    """The regions of an array, in row-major order."""
    spans = []
    for extent, positions in zip(shape, cuts, strict=True):
        ends = (0, *positions, extent)
        spans.append([(a, b - a) for a, b in itertools.pairwise(ends)])
    for choice in itertools.product(*spans):
        yield Region(tuple([a for a, _ in choice]), tuple([n for _, n in choice]))


def count_regions(cuts: Cuts) -> int:
    """How many regions there are."""
    total = 1
    for positions in cuts:
        total *= len(positions) + 1
    return total


def united(parts: Iterable[Cuts]) -> Cuts:
    """All cuts of arrays of one rank."""
    return tuple([tuple(sorted(set().union(*axis))) for axis in zip(*parts, strict=True)])


def broadcast(cuts: Cuts, rank: int) -> Cuts:
    """The cuts of an array seen with more axes in front."""
    return ((),) * (rank - len(cuts)) + cuts


def moved(cuts: Cuts, index: Coordinates, shape: Shape) -> Cuts | None:
    """The cuts of a movement's result.

    Args:
        cuts: those of the operand.
        index: the operand's coordinates where loops over the result stand.
        shape: of the result.

    Returns:
        None if a cut does not go straight through one axis of the result.
    """
    wide = [axis for axis, extent in enumerate(shape) if extent != 1]
    found: list[set[int]] = [set() for _ in shape]
    for coordinate, positions in zip(index, cuts, strict=True):
        if not positions or isinstance(coordinate, int):
            continue
        varying = [number for number, a in enumerate(coordinate.coefficients) if a]
        if len(varying) > 1:
            return None
        for number in varying:
            a, axis = coordinate.coefficients[number], wide[number]
            for position in positions:
                # The first i on the other side: a*i + constant >= position, or < where a < 0.
                beyond = position - coordinate.constant - (0 if a > 0 else 1)
                first = -(-beyond // a) if a > 0 else -(beyond // -a)
                if 0 < first < shape[axis]:
                    found[axis].add(first)
    return tuple([tuple(sorted(positions)) for positions in found])


def boxes(node: Node) -> list[tuple[int, Shape, Shape]]:
    """Where the operands of a placement go: (operand number, start, step), without empty ones."""
    types = [x.type for x in node.inputs]
    found = node.op.lower.boxes(types, node.type, **node.attrs)
    return [box for box in found if types[box[0]].size]


def is_dense(node: Node) -> bool:
    """Whether a placement has elements, and what it places stays together."""
    return node.type.size > 0 and all(
        step == 1 or extent == 1
        for number, _, steps in boxes(node)
        for step, extent in zip(steps, node.inputs[number].shape, strict=True)
    )


def faces(node: Node) -> Cuts:
    """The cuts along the faces of the boxes of a dense placement."""
    found: list[set[int]] = [set() for _ in node.shape]
    for number, start, _ in boxes(node):
        for axis, (a, n) in enumerate(zip(start, node.inputs[number].shape, strict=True)):
            found[axis].update(p for p in (a, a + n) if 0 < p < node.shape[axis])
    return tuple([tuple(sorted(positions)) for positions in found])


def placed(node: Node, number: int, cuts: Cuts) -> Cuts:
    """The cuts of an operand of a dense placement, in the coordinates of the result."""
    for operand, start, _ in boxes(node):
        if operand == number:
            return tuple(
                [
                    tuple([a + p for p in positions])
                    for a, positions in zip(start, cuts, strict=True)
                ]
            )
    return cuts


def find_source(node: Node, index: Coordinates, extents: Shape) -> tuple[Node, Any] | None:
    """Which element of which operand is an element of a dense placement; None for the attr ``value``.

    Args:
        node: the placement.
        index: the coordinates of the element.
        extents: of the loops, all of which must take it to the same side of each face.
    """
    bounds = [_bounds(coordinate, extents) for coordinate in index]
    # Later boxes overwrite.
    for number, start, _ in reversed(boxes(node)):
        x = node.inputs[number]
        sides = [
            _side(low, high, a, a + n)
            for (low, high), a, n in zip(bounds, start, x.shape, strict=True)
        ]
        if all(side > 0 for side in sides):
            return x, tuple([i - a for i, a in zip(index, start, strict=True)])
        if all(side >= 0 for side in sides):
            raise AssertionError(f"loops over {extents} cross a face of {node!r} at {index}")
    return (node.inputs[0], index) if node.op.lower.background == "operand" else None


def _bounds(coordinate: Coordinate, extents: Shape) -> tuple[int, int]:
    """The lowest and the highest value."""
    if isinstance(coordinate, int):
        return coordinate, coordinate
    ways = [a * (n - 1) for a, n in zip(coordinate.coefficients, extents, strict=True)]
    low = coordinate.constant + sum([way for way in ways if way < 0])
    return low, coordinate.constant + sum([way for way in ways if way > 0])


def _side(low: int, high: int, start: int, stop: int) -> int:
    """1 if all of [low, high] lies in [start, stop), -1 if nothing does, else 0."""
    if start <= low and high < stop:
        return 1
    return -1 if high < start or low >= stop else 0
