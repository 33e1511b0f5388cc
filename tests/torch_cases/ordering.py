"""Order, search, scatter: sort and what is made of it, running extrema, reductions at positions."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .calls import Case, X, case
from .operands import INT, A, B, M, S, V

ALL_NAN = X((2, 3), math.nan, math.nan)
EMPTY = X((0, 3))
# Equal elements, of which the order counts.
TIES = X((3, 7), 0, 2, "int64")


def _sorting() -> Iterator[Case]:
    for x in (A, S, V, TIES, B, EMPTY, ALL_NAN, X((3, 0))):
        yield from (case("sort", x), case("sort", x, 0), case("sort", x, 0, True))
        yield from (case("sort", x, dim=-1, descending=True), case("sort", x, stable=True))
        yield from (case("argsort", x), case("argsort", x, 0, True), case("msort", x))
        yield case("argsort", x, dim=-1, descending=True, stable=True)
    yield from (case("sort", A, stable=False, dim=1, descending=True), case("sort", A, -2))
    for x in (A, V, INT, ALL_NAN, EMPTY):
        # Which of equal elements comes first is not defined for those below.
        last = x.shape[-1]
        for k in (0, 1, last):
            yield from (case("topk", x, k), case("topk", x, k, -1, False))
        yield case("topk", x, 1, largest=False, sorted=True)
    yield from (
        case("topk", S, 1),
        case("topk", S, 0),
        case("topk", A, 2, 1),
        case("topk", A, k=2, dim=0),
    )
    for x in (A, V, S, X((2, 0)), X((2, 5), 0, 99, "int32")):
        yield from (case("kthvalue", x, 1, 0), case("kthvalue", x, 1, 0, True))
        yield from (case("median", x), case("nanmedian", x))
        for name in ("median", "nanmedian", "mode"):
            yield from (case(name, x, 0), case(name, x, dim=0, keepdim=True))
    yield from (
        case("kthvalue", A, 3),
        case("kthvalue", A, 2, -2, True),
        case("kthvalue", A, k=2, dim=1),
    )
    for name in ("median", "nanmedian", "mode"):
        yield from (case(name, A, 1), case(name, A, -1), case(name, ALL_NAN, 1))
    yield from (case("median", ALL_NAN), case("nanmedian", ALL_NAN), case("median", X((6,), 1, 1)))
    yield from (case("median", EMPTY), case("median", X((0,), dtype="int64")))
    yield from (
        case("mode", A),
        case("mode", TIES),
        case("mode", TIES, 0),
        case("mode", B, 0, True),
    )


def _quantiles() -> Iterator[Case]:
    q = X((3,), 0, 0.8)
    for name in ("quantile", "nanquantile"):
        for interpolation in ("linear", "lower", "higher", "nearest", "midpoint"):
            yield case(name, A, 0.37, 1, interpolation=interpolation)
            yield case(name, A, q, -1, True, interpolation=interpolation)
        yield from (case(name, A, 0.5), case(name, A, q), case(name, A, q, keepdim=True))
        yield from (
            case(name, A, X((), 0, 0.8), dim=0),
            case(name, A, 1, 0, True),
            case(name, A, 0),
        )
        yield from (case(name, S, 0.3), case(name, S, q, 0, True), case(name, ALL_NAN, 0.5, 1))
        yield from (case(name, ALL_NAN, 0.3, keepdim=True), case(name, M, q, 0))


def _running() -> Iterator[Case]:
    for name in ("cummax", "cummin"):
        for x in (A, S, TIES, B, EMPTY, ALL_NAN, X((3, 0))):
            yield from (case(name, x, 0), case(name, x, dim=-1))
        yield case(name, A, 1)


def _searching() -> Iterator[Case]:
    row, rows = X((5,), 1, 1), X((2, 4), 1, 1)
    for sequence, values in (
        (row, M),
        (row, S),
        (rows, X((2, 3), 0, 2)),
        (X((5,), 2, 2, "int64"), INT),
        (row, INT),
        (X((5,), 2, 2, "int64"), M),
        (X((0,)), V),
        (row, EMPTY),
        (X((5,), math.nan, math.nan), V),
    ):
        for options in (
            {},
            {"right": True},
            {"side": "right"},
            {"side": "left", "out_int32": True},
        ):
            yield case("searchsorted", sequence, values, **options)
    yield from (case("searchsorted", row, 1), case("searchsorted", row, 1.5, right=True))
    yield from (case("bucketize", M, row), case("bucketize", 1, row, right=True))
    yield from (case("bucketize", INT, row, out_int32=True), case("bucketize", S, row, right=True))


def _scattering() -> Iterator[Case]:
    """Where `src` is larger than the index torch has no gradient; that is tested in ops/test_ordering.py."""
    for x in (M, INT, B):

        def at(shape: tuple[int, ...], high: int, x: X = x) -> tuple[X, X]:
            return X(shape, 0, high, "int64"), x._replace(shape=shape)

        for axis, (index, source) in (
            (1, at((2, 1), 2)),
            (0, at((1, 2), 1)),
            (-1, at((2, 5), 2)),
            (-2, at((2, 0), 0)),
        ):
            yield case("scatter", x, axis, index, 1)
            # Where positions repeat the gradient, torch's, is none: see ops/test_ordering.py.
            if index.shape != (2, 5):
                yield case("scatter", x, axis, index, source)
            yield case("scatter_add", x, axis, index, source)
            for reduce in ("sum", "prod", "mean", "amax", "amin"):
                if reduce != "mean" or x is not B:
                    yield case("scatter_reduce", x, axis, index, source, reduce)
                    yield case("scatter_reduce", x, axis, index, source, reduce, include_self=False)
    point, index = X((), 0, 0, "int64"), X((2, 3), 0, 1, "int64")
    yield from (case("scatter", S, 0, point, S), case("scatter", S, 0, point, 2.5))
    yield from (case("scatter", INT, 0, index, 2.7), case("scatter", B, 0, index, value=True))
    yield case("scatter", M, 0, X((1, 3), 0, 1, "int32"), X((1, 3)))
    yield case("scatter", EMPTY, 0, X((0, 3), dtype="int64"), 1)
    yield from (case("scatter_reduce", S, 0, point, S, r) for r in ("sum", "prod", "mean", "amax"))
    zeros = X((2, 3), 0, 0)
    yield case("scatter_reduce", zeros, 0, index, M, "prod")
    for x, y in ((zeros, M), (M, zeros), (zeros, zeros)):
        yield case("scatter_reduce", x, 0, index, y, "amax")
    yield case("scatter_add", S, 0, point, S)


def _reducing_slices() -> Iterator[Case]:
    index = X((4,), 0, 1, "int64")
    for reduce in ("prod", "mean", "amax", "amin"):
        for include in (True, False):
            for x, source in ((M, X((4, 3))), (INT, X((4, 3), -3, 3, "int64"))):
                yield case("index_reduce", x, 0, index, source, reduce, include_self=include)
            yield case("index_reduce", A, -1, X((2,), 0, 3, "int32"), X((2, 3, 2)), reduce)
        yield case("index_reduce", S, 0, X((), 0, 0, "int64"), S, reduce)
        yield case("index_reduce", M, 1, X((0,), dtype="int64"), X((2, 0)), reduce)


CASES = [
    *_reducing_slices(),
    *_sorting(),
    *_quantiles(),
    *_running(),
    *_searching(),
    *_scattering(),
]
