"""Products, running products, differences, integrals, distances, and statistics of which torch returns two."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .calls import Case, X, case
from .operands import INT, ROW, A, B, M, S, V

ZEROS = X((2, 3), 0, 0)


def _scanning() -> Iterator[Case]:
    for x in (A, S, V, ZEROS, INT, B, X((0, 3))):
        yield case("prod", x)
    for x in (A, ZEROS, INT, B, X((3, 0))):
        yield from (case("prod", x, 1), case("prod", x, -2, True), case("prod", x, dim=0))
    yield from (case("prod", S, 0), case("prod", INT, dtype=("dtype", "float64")))
    yield from (case("prod", X((1, 3)), 0), case("prod", X((5,), 0, 0)))
    for name in ("cumprod", "logcumsumexp"):
        yield from (case(name, A, 1), case(name, A, -1), case(name, S, 0), case(name, ZEROS, 1))
        yield from (case(name, X((0, 3)), 0), case(name, X((0, 3)), 1), case(name, X((1, 3)), 0))
    yield from (case("cumprod", INT, 0), case("cumprod", B, 1))
    yield case("cumprod", INT, 0, dtype=("dtype", "float64"))
    yield case("logcumsumexp", X((2, 5), -800, 800), 1)
    for x in (A, INT, B, V):
        yield from (case("diff", x), case("diff", x, 2, 0), case("diff", x, 9))
    yield case("diff", A, 1, 1, X((2, 2, 4)), X((2, 1, 4)))
    yield case("diff", M, 0)
    for name in "trapezoid trapz cumulative_trapezoid".split():
        yield from (case(name, A), case(name, A, dim=1), case(name, A, dx=0.5, dim=0))
        yield from (case(name, M, M), case(name, M, ROW), case(name, A, V), case(name, INT))
        yield from (case(name, A, X((3,)), dim=1), case(name, X((3, 1))), case(name, INT, INT))
        yield from (case(name, X((2, 0))), case(name, INT, dx=2))


def _distances() -> Iterator[Case]:
    for p in (2, 1, 3, 0.5, math.inf):
        yield from (case("dist", M, M, p), case("dist", M, ROW, p=p))
        yield case("renorm", A, p, 1, 0.7)
    yield from (case("dist", M, M), case("renorm", M, 2, -1, 100))
    yield from (case("cdist", M, X((4, 3))), case("cdist", X((4, 1, 2, 3)), X((5, 7, 3))))
    yield from (case("cdist", X((0, 3)), M), case("cdist", X((2, 0)), X((3, 0))))
    yield from (case("cdist", X((30, 3)), M), case("cdist", X((2, 4, 3)), X((30, 3))))
    yield case("cdist", M, M, compute_mode="use_mm_for_euclid_dist")


def _statistics() -> Iterator[Case]:
    for name in ("var_mean", "std_mean"):
        yield from (case(name, A), case(name, A, 1), case(name, A, (0, 2), keepdim=True))
        yield from (case(name, A, False), case(name, A, 1, False, True))
        yield case(name, A, 1, correction=0)
    for x in (A, S):
        yield from (case("nanmean", x), case("nanmean", x, -1, True))
    yield from (case("nansum", A, 1, dtype=("dtype", "float64")), case("aminmax", A))
    yield from (case("aminmax", INT), case("aminmax", A, dim=1), case("aminmax", S, dim=0))
    yield from (case("aminmax", A, dim=-1, keepdim=True), case("aminmax", M, keepdim=True))
    for shape in ((1, 3), (3,), (2, 3), (2, 1), ()):
        yield case("sum_to_size", M, shape)
    yield case("sum_to_size", A, 1, 4)


CASES = [*_scanning(), *_distances(), *_statistics()]
