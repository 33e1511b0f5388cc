"""Linear algebra: norms, inverses and solutions, determinants, factorizations."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .calls import Case, X, case
from .operands import A, V

# Random matrices are far from singular ones, with these numbers.
SQUARE = X((3, 3))
BATCH = X((2, 3, 3))
WIDE = X((2, 4))
TALL = X((4, 3))
TALLS = X((2, 4, 2))
EMPTY = X((0, 0))
NONE = X((0, 2, 2))
ROWS = X((3, 2))


def _norms() -> Iterator[Case]:
    for x in (V, A, BATCH):
        yield from (case("linalg.vector_norm", x), case("linalg.norm", x))
        for order in (2, 1, 3, 0.5, -2, math.inf, -math.inf):
            yield case("linalg.vector_norm", x, order)
            yield case("linalg.vector_norm", x, ord=order, dim=-1, keepdim=True)
    yield case("linalg.vector_norm", A, 3, (0, 1), dtype=("dtype", "float64"))
    yield from (case("linalg.norm", A, dim=0), case("linalg.norm", A, 1, 1, True))
    yield from (case("linalg.norm", V, math.inf), case("linalg.norm", TALL, "fro"))
    yield case("linalg.norm", BATCH, 2, (0, 2))
    for order in ("fro", "nuc", 2, -2, 1, -1, math.inf, -math.inf):
        yield from (case("linalg.matrix_norm", A, order), case("linalg.matrix_norm", BATCH, order))
        yield case("linalg.matrix_norm", TALLS, order, (2, 0), True)
    for p in (None, 2, -2):
        yield case("linalg.cond", SQUARE, p)
    yield from (case("linalg.cond", BATCH), case("linalg.cond", TALL, 2))
    yield from (case("norm", WIDE, "nuc"), case("norm", A, "nuc", (0, 2), True))


def _products() -> Iterator[Case]:
    yield from (case("linalg.vecdot", V, V), case("linalg.vecdot", A, A, dim=0))
    yield case("linalg.vecdot", X((2, 1, 3)), X((4, 3)))
    yield from (case("linalg.cross", X((2, 3)), X((2, 3))), case("linalg.matmul", SQUARE, ROWS))
    yield case("linalg.multi_dot", [X((2, 3)), X((3, 4)), X((4, 1))])
    for n in (0, 1, 2, 5, -1, -3):
        for name in ("matrix_power", "linalg.matrix_power"):
            yield from (case(name, SQUARE, n), case(name, BATCH, n))
    yield from (case("linalg.vander", V), case("linalg.vander", A, N=4))
    yield case("linalg.vander", X((3,), 0, 4, "int64"))
    yield case("linalg.diagonal", BATCH, offset=1)
    for x in (SQUARE, BATCH, NONE):
        yield from (case("matrix_exp", x), case("linalg.matrix_exp", x))


def _systems() -> Iterator[Case]:
    for x in (SQUARE, BATCH, EMPTY, NONE):
        for name in ("inverse", "linalg.inv", "linalg.inv_ex", "det", "linalg.det"):
            yield case(name, x)
        yield from (case("slogdet", x), case("linalg.slogdet", x))
    yield from (case("logdet", X((2, 1, 1), 0.5, 0.9)), case("linalg.inv", X((2, 1, 2, 2))))
    for name in ("linalg.solve", "linalg.solve_ex"):
        yield from (case(name, SQUARE, ROWS), case(name, SQUARE, X((3,))))
        yield from (case(name, BATCH, X((2, 3))), case(name, BATCH, X((3, 2))))
        yield from (case(name, SQUARE, X((2, 3, 1))), case(name, SQUARE, X((2, 3)), left=False))
    for upper in (False, True):
        yield case("linalg.solve_triangular", SQUARE, ROWS, upper=upper)
        yield case("linalg.solve_triangular", BATCH, X((3, 1)), upper=upper, unitriangular=True)
        yield case("linalg.solve_triangular", SQUARE, X((2, 3)), upper=upper, left=False)
    yield case("linalg.tensorinv", X((4, 2, 2)), ind=1)
    yield case("linalg.tensorsolve", X((2, 3, 6)), X((2, 3)))
    for x in (TALL, WIDE, SQUARE, TALLS):
        yield from (case("linalg.pinv", x), case("pinverse", x), case("linalg.matrix_rank", x))
        yield case("linalg.svdvals", x)
    yield from (case("linalg.pinv", TALL, atol=0.1), case("linalg.pinv", TALL, rtol=1e-3))
    yield from (case("linalg.matrix_rank", TALL, atol=1.0), case("linalg.matrix_rank", EMPTY))


CASES = [*_norms(), *_products(), *_systems()]
