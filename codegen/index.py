"""Affine expressions of loop variables: where an element lies, as a kernel's loops run.

The data structure is :class:`Affine`, ``constant + sum(coefficient * variable)`` over the loop
variables of one iteration space, which are numbered from 0. A tuple of coordinates, each an Affine
or an int, names an element of an array; :func:`linearize` turns it into one Affine, the offset of
the element in memory. The lowerings of movement ops compute with these through the operators of
``ir.lowering.Index``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..ir.types import Shape


class Affine:
    """``constant + sum(coefficients[i] * variable i)``. Immutable, hashable, compared by value."""

    __slots__ = ("_hash", "coefficients", "constant")

    def __init__(self, coefficients: tuple[int, ...], constant: int = 0) -> None:
        self.coefficients = coefficients
        self.constant = constant
        self._hash = hash((coefficients, constant))

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            return self if other == 0 else Affine(self.coefficients, self.constant + other)
        return Affine(
            tuple([a + b for a, b in zip(self.coefficients, other.coefficients, strict=True)]),
            self.constant + other.constant,
        )

    __radd__ = __add__

    def __neg__(self) -> Affine:
        return self * -1

    def __sub__(self, other: Affine | int) -> Affine:
        return self + (-other)

    def __rsub__(self, other: int) -> Affine:
        return -self + other

    def __mul__(self, factor: int) -> Affine:
        if factor == 1:
            return self
        return Affine(tuple([a * factor for a in self.coefficients]), self.constant * factor)

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Affine)
            and self.coefficients == other.coefficients
            and self.constant == other.constant
        )

    def __hash__(self) -> int:
        return self._hash

    def at(self, position: Sequence[int]) -> int:
        """The value for these values of the variables."""
        terms = zip(self.coefficients, position, strict=True)
        return self.constant + sum(a * x for a, x in terms)

    def __str__(self) -> str:
        terms = [
            f"i{number}" if a == 1 else f"{a}*i{number}"
            for number, a in enumerate(self.coefficients)
            if a
        ]
        if self.constant or not terms:
            terms.append(str(self.constant))
        return " + ".join(terms).replace("+ -", "- ")

    __repr__ = __str__


Coordinate: TypeAlias = "Affine | int"
Coordinates: TypeAlias = "tuple[Coordinate, ...]"


def row_major_strides(shape: Shape) -> tuple[int, ...]:
    """The distance, in elements, between neighbours along each axis of a C-contiguous array."""
    strides = []
    stride = 1
    for extent in reversed(shape):
        strides.append(stride)
        stride *= extent
    return tuple(reversed(strides))


def linearize(index: Coordinates, shape: Shape, variables: int) -> Affine:
    """The offset, in elements, of an element of a C-contiguous array.

    Args:
        index: coordinates, one per axis.
        shape: the array's.
        variables: how many loop variables there are.
    """
    coefficients = [0] * variables
    constant = 0
    stride = 1
    for coordinate, extent in zip(reversed(index), reversed(shape), strict=True):
        if isinstance(coordinate, int):
            constant += coordinate * stride
        else:
            constant += coordinate.constant * stride
            for number, a in enumerate(coordinate.coefficients):
                coefficients[number] += a * stride
        stride *= extent
    return Affine(tuple(coefficients), constant)


def squeezed(shape: Shape) -> Shape:
    """The extents of an array's iteration space: its shape without axes of extent 1."""
    return tuple([extent for extent in shape if extent != 1])


def identity_index(shape: Shape) -> Coordinates:
    """The coordinates of the element at which the loops over ``squeezed(shape)`` stand."""
    variables = sum(extent != 1 for extent in shape)
    index: list[Coordinate] = []
    number = 0
    for extent in shape:
        if extent == 1:
            index.append(0)
        else:
            unit = tuple([int(i == number) for i in range(variables)])
            index.append(Affine(unit))
            number += 1
    return tuple(index)
