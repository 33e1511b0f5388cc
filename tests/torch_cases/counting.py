"""Counting and covariances.

Where torch has no derivative, operands are integers; floating ones, and tensors given by name, are in
ops/test_counting.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from .calls import Case, X, case
from .operands import INT, A, B, M, P, S, V

COUNTS = X((5,), 0, 4, "int64")
NONE = X((0,), dtype="int64")
TIES = X((7,), 0, 2, "int32")
FEW = X((4, 3), 0, 1, "int64")


def _distinct() -> Iterator[Case]:
    point = X((), 0, 5, "int64")
    for name in ("unique", "unique_consecutive"):
        for x in (INT, TIES, B, FEW, NONE, point):
            yield from (case(name, x), case(name, x, return_inverse=True, return_counts=True))
            yield case(name, x, return_counts=True)
        for dim in (0, 1, -1):
            yield case(name, FEW, dim=dim, return_inverse=True, return_counts=True)
        yield from (case(name, X((2, 1, 3), 0, 1, "int64"), dim=2), case(name, B, dim=0))
        yield case(name, X((0, 3), dtype="int64"), return_inverse=True, dim=0)
    yield from (case("unique", TIES, True, True, True, 0), case("unique", FEW, False, dim=1))
    yield case("unique_consecutive", TIES, True, True, 0)
    yield from (case("argwhere", x) for x in (M, INT, B, S, FEW, X((0, 2))))


def _histograms() -> Iterator[Case]:
    yield from (case("bincount", COUNTS), case("bincount", COUNTS, minlength=9))
    yield from (case("bincount", NONE), case("bincount", NONE, minlength=2))
    yield from (case("bincount", TIES, X((7,), 0, 9, "int64")), case("bincount", COUNTS, None, 3))
    yield case("bincount", X((5,), 0, 4, "uint8"), X((5,), dtype="bool"), 8)
    for x in (M, A, V, S, X((0, 3)), X((40,), 0.3, 0.7)):
        yield from (case("histc", x), case("histc", x, 5), case("histc", x, 4, -1, 1))
        yield from (case("histc", x, bins=3, min=0.5, max=2.5), case("histc", x, 2, 5, 9))
    yield case("histc", X((4,), 2, 2), 4)


def _membership() -> Iterator[Case]:
    many = X((30,), -9, 9, "int64")
    for x, y in ((INT, COUNTS), (INT, many), (many, INT), (COUNTS, TIES), (INT, NONE)):
        yield from (case("isin", x, y), case("isin", x, y, invert=True))
    yield from (case("isin", NONE, many), case("isin", M, many), case("isin", many, M))
    yield from (case("isin", INT, 2), case("isin", INT, 2, invert=True), case("isin", 2, INT))
    yield case("isin", INT, many, assume_unique=True)


def _covariances() -> Iterator[Case]:
    for x in (M, V, INT, X((4, 5)), X((0, 3)), X((1, 5))):
        yield from (case("cov", x), case("cov", x, correction=0), case("corrcoef", x))
    yield from (case("cov", P, correction=-1), case("cov", X((2, 6)), correction=2))


CASES = [*_distinct(), *_histograms(), *_membership(), *_covariances()]
