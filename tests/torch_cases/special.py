"""Special functions, and functions of single numbers and pairs of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .calls import Case, X, case
from .operands import INT, ROW, A, B, M, P, S

POSITIVE = X((2, 3), 1, 6, "int64")
UNIT = X((2, 3), 0.1, 0.9)
ONES = X((2, 3), 1, 1)


def _special() -> Iterator[Case]:
    for name in "lgamma digamma special.gammaln special.psi special.digamma".split():
        yield from (case(name, X((2, 3), 0.3, 9)), case(name, X((2, 3), -2.9, -2.1)))
        yield from (case(name, X((), 3, 9)), case(name, X((0, 2))), case(name, POSITIVE))
    for name in ("polygamma", "special.polygamma"):
        for n in (0, 1, 2, 5):
            yield from (case(name, n, P), case(name, n, X((2,), -1.9, -1.1)))
        yield from (case(name, 1, POSITIVE), case(name, 2, X((), 1, 2)), case(name, 1, X((0,))))
    for name in ("mvlgamma", "special.multigammaln"):
        yield from (case(name, X((2, 3), 2, 9), p) for p in (1, 3))
        yield case(name, X((3,), 2, 9, "int64"), 2)
    for name in ("erfinv", "special.erfinv"):
        yield from (case(name, X((2, 3), -0.99, 0.99)), case(name, X((0,))), case(name, B))
    for name in ("logit", "special.logit"):
        yield from (case(name, UNIT), case(name, M, 0.1), case(name, UNIT, eps=0.3))
        yield case(name, X((), 0.2, 0.8))
    for name in ("xlogy", "special.xlogy", "special.xlog1py"):
        yield from (case(name, M, P), case(name, M, X((3,), 0.2, 2)), case(name, M, 2))
        yield from (case(name, 3, P), case(name, X((2, 1)), P), case(name, POSITIVE, POSITIVE))
        yield case(name, X((2, 3), 0, 0), P)
    for name in ("sinc", "special.sinc"):
        yield from (case(name, P), case(name, S), case(name, INT))
    for name in "i0 special.i0 special.i0e special.i1 special.i1e".split():
        yield from (case(name, M), case(name, X((3,), 7, 20)), case(name, X((3,), -20, -7)))
        yield case(name, POSITIVE)
    for name in ("special.entr", "special.erfcx", "special.ndtr", "special.log_ndtr"):
        yield from (case(name, P), case(name, X((), 0.5, 2)), case(name, POSITIVE))
    for name in ("special.erfcx", "special.ndtr", "special.log_ndtr"):
        yield from (case(name, X((7,), -9, 9)), case(name, INT))
    yield from (case("special.ndtri", X((7,), 0.001, 0.999)), case("special.ndtri", B))
    for name in "expit erf erfc exp2 expm1 round".split():
        yield case("special." + name, M)
    yield case("special.log1p", P)
    for name in "softmax log_softmax logsumexp".split():
        yield case("special." + name, A, 1)
    for name in ("logaddexp", "logaddexp2"):
        yield from (case(name, M, M), case(name, M, ROW), case(name, S, M), case(name, ONES, ONES))
        yield case(name, X((0, 3)), ROW)


def _numeric() -> Iterator[Case]:
    for name in "positive sgn fix nan_to_num deg2rad rad2deg".split():
        yield from (case(name, M), case(name, S), case(name, X((0, 3))), case(name, INT))
    yield from (case("sgn", B), case("nan_to_num", B), case("nan_to_num", M, 1.0, 2.0, neginf=-3))
    yield from (case("nan_to_num", X((3,), v, v), 7.0, 8.0, 9.0) for v in (math.inf, -math.inf))
    for name in "signbit isposinf isneginf isreal".split():
        yield from (case(name, M), case(name, INT), case(name, B), case(name, X((2,), -0.0, -0.0)))
        yield case(name, X((2,), -math.inf, -math.inf))
    yield from (case("fill", M, 3.5), case("fill", M, S), case("fill", INT, 2), case("fill", B, 1))
    for name in ("hypot", "copysign", "fmax", "fmin", "nextafter", "ldexp"):
        yield from (case(name, M, M), case(name, M, ROW), case(name, X((2, 1)), ROW))
        yield from (case(name, S, M), case(name, X((0, 3)), ROW))
    yield from (case("copysign", M, v) for v in (2.0, -1, -0.0))
    yield from (case("copysign", INT, INT), case("ldexp", M, POSITIVE), case("ldexp", INT, INT))
    for name in ("fmax", "fmin"):
        yield from (case(name, INT, INT), case(name, B, B), case(name, ONES, ONES))
        yield from (case(name, M, INT), case(name, M, X((3,), math.nan, math.nan)))
        yield case(name, X((2, 3), math.nan, math.nan), M)
    for name in ("gcd", "lcm"):
        yield from (case(name, INT, POSITIVE), case(name, INT, X((3,), -9, 9, "int64")))
        yield case(name, X((2, 3), 0, 9, "int32"), X((), 4, 6, "int64"))
    yield from (case("float_power", P, P), case("float_power", P, 2), case("float_power", P, -0.5))
    yield from (case("float_power", 2, M), case("float_power", POSITIVE, POSITIVE))
    yield from (case("heaviside", INT, X((3,), 5, 9, "int64")), case("hypot", M, S))


CASES = [*_special(), *_numeric()]
