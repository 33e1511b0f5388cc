"""Sample inputs of ops, for the sweeps of the test suite: they live with the ops that they sample.

An op's ``samples`` is a function ``(rng) -> Iterator[Sample]``. The makers here cover the usual families; each
yields every element type that the family has, 0-d, zero-size, broadcast and non-contiguous operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

FLOATS = ("f4", "f8")
INTEGERS = ("i4", "i8")
NUMBERS = (*FLOATS, *INTEGERS)
BOOL = ("?",)

SHAPES: tuple[tuple[int, ...], ...] = ((), (7,), (3, 5), (0, 4), (1,))
PAIRS = (((), ()), ((4,), ()), ((3, 1), (1, 4)), ((2, 3), (2, 3)), ((0, 3), (1, 3)), ((5,), (2, 5)))


class Sample(NamedTuple):
    """One way of calling an op."""

    operands: tuple[np.ndarray, ...]
    attrs: dict[str, Any]


Sampler = Callable[["np.random.Generator"], Iterator[Sample]]


def draw(
    rng: np.random.Generator,
    shape: Sequence[int],
    dtype: str = "f8",
    low: float = -2.0,
    high: float = 2.0,
) -> np.ndarray:
    """An array of this type with elements in [low, high); every other one of rank 2 is transposed."""
    shape = tuple(shape)
    layout = shape[::-1] if len(shape) == 2 and shape[0] > 1 else shape
    if dtype == "?":
        values = rng.integers(0, 2, layout).astype(bool)
    elif dtype[0] in "iu":
        values = rng.integers(int(low), int(high) + 1, layout).astype(dtype)
    else:
        values = rng.uniform(low, high, layout).astype(dtype)
    return np.asarray(values.T if layout != shape else values)


def unary(
    low: float = -2.0, high: float = 2.0, dtypes: Sequence[str] = FLOATS, **attrs: Any
) -> Sampler:
    """Operands of every sampled shape with elements in [low, high)."""

    def sample(rng: np.random.Generator) -> Iterator[Sample]:
        for dtype in dtypes:
            for shape in SHAPES:
                yield Sample((draw(rng, shape, dtype, low, high),), dict(attrs))

    return sample


def binary(
    low: float = -2.0,
    high: float = 2.0,
    dtypes: Sequence[str] = FLOATS,
    right: tuple[float, float] | None = None,
) -> Sampler:
    """Pairs of operands that broadcast; the right one's range may differ."""
    right_low, right_high = right or (low, high)

    def sample(rng: np.random.Generator) -> Iterator[Sample]:
        for dtype in dtypes:
            for a, b in PAIRS:
                yield Sample(
                    (draw(rng, a, dtype, low, high), draw(rng, b, dtype, right_low, right_high)), {}
                )

    return sample


Case = tuple[Sequence[Sequence[int]], dict[str, Any]]
"""Operand shapes and attrs."""


def with_attrs(
    cases: Sequence[Case],
    dtypes: Sequence[str] = FLOATS,
) -> Sampler:
    """The cross product of element types and (operand shapes, attrs)."""

    def sample(rng: np.random.Generator) -> Iterator[Sample]:
        for dtype in dtypes:
            for shapes, attrs in cases:
                yield Sample(tuple(draw(rng, shape, dtype) for shape in shapes), dict(attrs))

    return sample
