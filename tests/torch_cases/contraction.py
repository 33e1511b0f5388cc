"""Sums of products over dimensions: einsum and its special cases."""

from __future__ import annotations

from collections.abc import Iterator

from .calls import Case, X, case
from .operands import INT, ROW, A, M, S, V

SQUARE = X((3, 3))
BATCH = X((5, 2, 3))
OTHER = X((5, 3, 4))


def _einsum() -> Iterator[Case]:
    for equation in "ij->ji ij-> ij->i ji i...->...i ...->... ij...->...".split():
        yield case("einsum", equation, M)
    for equation in "ii ii->i ii-> ij->".split():
        yield case("einsum", equation, SQUARE)
    yield from (case("einsum", "iji->j", X((2, 3, 2))), case("einsum", "", S))
    yield from (case("einsum", "iij->j", X((2, 2, 3))), case("einsum", "iii->i", X((2, 2, 2))))
    yield from (case("einsum", "i,i", V, V), case("einsum", "i,j->ij", V, ROW))
    yield from (case("einsum", "ij,jk", M, SQUARE), case("einsum", "ij,jk->ki", M, SQUARE))
    yield from (case("einsum", "ij,kj->ik", M, SQUARE), case("einsum", "ij,ij->ij", M, M))
    yield from (case("einsum", "ij,ij->", M, M), case("einsum", "ij,ij->j", M, M))
    yield from (
        case("einsum", "bij,bjk->bik", BATCH, OTHER),
        case("einsum", "bij,bjk", BATCH, OTHER),
    )
    yield from (
        case("einsum", "bij,bjk->ki", BATCH, OTHER),
        case("einsum", "b...,bjk->j...", BATCH, OTHER),
    )
    yield from (
        case("einsum", "...ij,...jk->...ik", BATCH, OTHER),
        case("einsum", "...ij,jk", BATCH, SQUARE),
    )
    yield from (
        case("einsum", "...ij,...jk", X((4, 1, 2, 3)), OTHER),
        case("einsum", "i...,i...->...", M, M),
    )
    yield from (
        case("einsum", ",ij", S, M),
        case("einsum", "ij,", M, S),
        case("einsum", " i j , j k ", M, SQUARE),
    )
    yield from (
        case("einsum", "ij,jk", X((2, 1)), SQUARE),
        case("einsum", "ij,ij->ij", X((2, 1)), M),
    )
    yield from (
        case("einsum", "ij,ij->i", X((1, 3)), M),
        case("einsum", "ij,jk->ik", X((2, 0)), X((0, 3))),
    )
    yield from (
        case("einsum", "ij,jk->ik", X((0, 2)), X((2, 3))),
        case("einsum", "i,i,i->i", ROW, ROW, ROW),
    )
    yield case("einsum", "ij,jk,kl->il", M, SQUARE, X((3, 2)))
    yield case("einsum", "ijk,jl,km->ilm", A, X((3, 2)), X((4, 5)))
    yield case("einsum", "ij,ik,jk->", M, M, SQUARE)
    yield case("einsum", "aB,Bc", M, SQUARE)
    yield case("einsum", "ij,jk", [M, SQUARE])
    yield from (
        case("einsum", M, [0, 1], SQUARE, [1, 2]),
        case("einsum", M, [0, 1], SQUARE, [1, 2], [2, 0]),
    )
    yield from (
        case("einsum", BATCH, [..., 0, 1], SQUARE, [1, 2], [..., 2]),
        case("einsum", SQUARE, [1, 1]),
    )
    yield case("einsum", "ij,kj->ik", INT, X((4, 3), -3, 3, "int64"))


def _products() -> Iterator[Case]:
    yield from (case("tensordot", A, X((3, 4, 2)), 2), case("tensordot", M, SQUARE, 1))
    yield from (case("tensordot", A, X((4, 3)), ([1, 2], [1, 0])), case("tensordot", M, V, 0))
    yield from (case("tensordot", A, X((3, 2)), dims=((-2,), (0,))), case("tensordot", M, M))
    yield case("tensordot", X((2, 1)), SQUARE, 1)
    for other in (SQUARE, V, S, A):
        yield from (case("kron", M, other), case("kron", other, M))
    yield case("kron", INT, M)
    yield from (case("cross", X((2, 3)), X((2, 3)), -1), case("cross", X((3, 2)), X((3, 2)), 0))
    yield from (case("cross", X((4, 3, 2)), X((1, 3, 2)), dim=-2), case("cross", ROW, ROW, 0))
    yield case("cross", INT, INT, 1)


def _plus_products() -> Iterator[Case]:
    for options in ({}, {"beta": 2, "alpha": -0.5}, {"beta": 0, "alpha": 3}):
        yield from (case("addbmm", x, BATCH, OTHER, **options) for x in (X((2, 4)), V, S))
        yield from (
            case("baddbmm", x, BATCH, OTHER, **options) for x in (X((5, 2, 4)), X((2, 4)), S)
        )
        yield from (case("addmv", x, M, ROW, **options) for x in (X((2,)), S))
        yield from (case("addr", x, X((2,)), ROW, **options) for x in (M, ROW, S))
        yield case("addmm", X((2, 3)), M, SQUARE, **options)
    yield case("addr", INT, X((2,), -3, 3, "int64"), X((3,), -3, 3, "int64"))
    yield case("addmm", X((3, 3), -3, 3, "int64"), X((3, 2), -3, 3, "int64"), INT)


CASES = [*_einsum(), *_products(), *_plus_products()]
