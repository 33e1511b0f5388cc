"""Makers of tensors, conversions, and the methods behind Python's syntax.

`RANDOM` is apart: of those calls only dtype and shape can be compared (their distribution is tested in test_random.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .calls import Case, X, case
from .operands import IDX, INT, IV, ROW, A, B, M, P, S, V

DTYPES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


def dtype(name: str) -> Any:
    """A dtype among arguments: each library's own."""
    return ("dtype", name)


def _conversions() -> Iterator[Case]:
    for name in "double float long int short bool".split():
        yield from (case(name, x) for x in (M, INT, B, S, X((0, 3))))
    for name in DTYPES:
        yield from (case("to", x, dtype(name)) for x in (M, IDX, B))
    yield from (
        case("to", M, "cpu"),
        case("to", M, "cpu", dtype("float64")),
        case("to", M, INT),
        case("to", INT, dtype=dtype("float32")),
        case("item", S),
        case("item", X((1, 1), 3, 9, "int64")),
        case("item", X((1,), dtype="bool")),
        case("tolist", INT),
        case("tolist", S),
        case("T", M),
        case("mT", A),
        case("zero_", INT),
        case("zero_", B),
    )


def _syntax() -> Iterator[Case]:
    for name in "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__".split():
        yield from (case(name, x, y) for x in (M, INT) for y in (2, 2.5))
    yield from (case(name, M, ROW) for name in ("__add__", "__sub__", "__mul__", "__matmul__"))
    yield from (
        case("__truediv__", M, 2),
        case("__truediv__", INT, 2),
        case("__rtruediv__", P, 2),
        case("__rdiv__", P, 2),
        case("__floordiv__", INT, 2),
        case("__mod__", M, 0.7),
        case("__pow__", M, 2),
        case("__rpow__", M, 2),
        case("__rpow__", M, 2.5),
        case("__rmatmul__", X((3, 2)), M),
        case("__neg__", M),
        case("__abs__", M),
        case("__invert__", B),
        case("__and__", B, B),
        case("__or__", INT, INT),
        case("__xor__", INT, 5),
        case("__lt__", M, 0.5),
        case("__eq__", INT, 0),
        case("__bool__", S),
        case("__float__", X((), 1, 5, "int64")),
        case("__int__", S),
        case("__index__", X((), 1, 5, "int64")),
        case("__len__", M),
        case("__contains__", INT, 2),
    )


def _indices() -> Iterator[Case]:
    for index in (
        0,
        -1,
        slice(1, None),
        slice(None, None, 2),
        (..., 1),
        (slice(None), None, 1),
        (1, slice(0, 2), -1),
        None,
        True,
        (0, ..., None),
        ([1, 0, 1],),
        (slice(None), [0, 2, 2]),
        (0, [0, 2], [1, 3]),
        (slice(None), [[0, 1], [2, 0]], 1),
        ([0, 1], slice(None), [3, 0]),
    ):
        yield case("__getitem__", A, index)
    yield from (
        case("__getitem__", M, B),
        case("__getitem__", M, X((2,), dtype="bool")),
        case("__getitem__", V, IV),
        case("__getitem__", V, X((), 0, 3, "int64")),
        case("__getitem__", INT, (slice(None), [0, 0])),
    )


def _makers() -> Iterator[Case]:
    for name in "ones zeros".split():
        yield from (case(name, (2, 3)), case(name, 2, 3), case(name, ()), case(name, (0, 2)))
        yield from (case(name, (2,), dtype=dtype(d)) for d in DTYPES)
        yield from (case(name + "_like", x) for x in (M, INT, B, S))
        yield case(name + "_like", M, dtype=dtype("int32"))
        yield from (case("new_" + name, x, (2, 2)) for x in (M, INT, B))
        yield case("new_" + name, M, 3, dtype=dtype("int64"))
    yield from (
        case("full", (2, 3), 1.5),
        case("full", (2,), 3),
        case("full", (), True),
        case("full", (2,), 3, dtype=dtype("float64")),
        case("full_like", M, 2),
        case("full_like", INT, 2.0),
        case("full_like", M, 1, dtype=dtype("bool")),
        case("new_full", M, (2,), 7),
        case("eye", 3),
        case("eye", 2, 4),
        case("eye", 3, dtype=dtype("int64")),
        case("arange", 5),
        case("arange", 5.0),
        case("arange", 1, 7, 2),
        case("arange", 1, 0, -0.25),
        case("arange", 0, 1, 0.1, dtype=dtype("float64")),
        case("arange", 3, dtype=dtype("uint8")),
        case("linspace", 0, 1, 5),
        case("linspace", 3, -2, 4, dtype=dtype("float64")),
        case("linspace", 2, 3, 1),
        case("linspace", 0, 10, 4, dtype=dtype("int64")),
        case("logspace", 0, 2, 5),
        case("logspace", -1, 1, 4, 2, dtype=dtype("float64")),
        case("logspace", 0, 3, 4, dtype=dtype("int64")),
        case("scalar_tensor", 3),
        case("scalar_tensor", 3, dtype=dtype("int64")),
        case("meshgrid", [ROW, V], indexing="ij"),
        case("meshgrid", [ROW, V], indexing="xy"),
        case("meshgrid", ROW, V, indexing="ij"),
        case("broadcast_tensors", ROW, X((2, 1)), S),
        case("broadcast_tensors", M),
    )


CASES = [*_conversions(), *_syntax(), *_indices(), *_makers()]

RANDOM = [
    case("empty", (2, 3)),
    case("empty", 2, 3, dtype=dtype("int64")),
    case("empty_like", INT),
    case("new_empty", M, (4,)),
    case("randn", (2, 3)),
    case("randn", 2, 3, dtype=dtype("float64")),
    case("rand", (2, 0)),
    case("randn_like", M),
    case("rand_like", M),
    case("randint", 5, (2, 3)),
    case("randint", -2, 5, (2,), dtype=dtype("int32")),
    case("randperm", 5),
    case("normal", 0.0, 1.0, (2, 3)),
    case("normal", M, 1.0),
    case("normal", 0.0, P),
    case("normal", M, P),
    case("bernoulli", X((2, 3), 0, 1)),
    case("bernoulli", M, 0.3),
    case("multinomial", X((5,), 0, 1), 3),
    case("multinomial", X((2, 3), 0, 1), 7, True),
    case("multinomial", X((0, 3)), 2, replacement=True),
    case("randint_like", M, 5),
    case("randint_like", INT, -2, 5),
    case("randint_like", B, 2),
    case("randint_like", INT, 3, dtype=dtype("float64")),
    case("poisson", P),
    case("poisson", X((), 0, 9)),
    case("exponential_", S, 0.5),
    case("geometric_", INT, 0.5),
    case("log_normal_", X((3,)), 1, 0.5),
    case("cauchy_", X((0, 2))),
    case("random_", B),
    case("random_", INT, 5),
    case("bernoulli_", INT, X((3,), 0, 1)),
    case("normal", X((2, 1)), X((3,), 0, 1)),
    case("normal", 0, 1, (2,), dtype=dtype("float64")),
    case("empty_strided", (2, 3), (1, 2)),
    case("new_empty_strided", INT, (2, 3), (3, 1)),
    case("empty_permuted", (2, 3, 4), (2, 0, 1)),
    case("nn.functional.dropout", M, 0.5),
    case("nn.functional.dropout", M, 0.5, False),
]
