"""Functions that lay out elements anew."""

from __future__ import annotations

from collections.abc import Iterator

from .calls import Case, X, case
from .operands import INT, ROW, A, B, M, S, V


def _cases() -> Iterator[Case]:
    for x in (M, V, INT, B, X((2, 0))):
        yield from (
            case("diag_embed", x),
            case("diag_embed", x, 1),
            case("diag_embed", x, offset=-2),
        )
    yield from (case("diag_embed", A, 1, 0, 2), case("diag_embed", A, -1, -1, 0))
    yield from (case("diagflat", M), case("diagflat", V, 2), case("diagflat", S, -1))
    yield from (case("rot90", M, k) for k in (-1, 0, 1, 2, 3, 5))
    yield from (case("rot90", A, 1, (2, 0)), case("rot90", INT), case("rot90", A, dims=(1, -1)))
    yield from (case("fliplr", A), case("flipud", V), case("flipud", INT))
    for x in (A, S, INT):
        yield case("repeat_interleave", x, 2)
    yield from (case("repeat_interleave", A, 3, 1), case("repeat_interleave", A, 0, dim=-1))
    yield from (
        case("repeat_interleave", A, 2, 0, output_size=4),
        case("take", M, X((2, 2), -6, 5, "int64")),
    )
    yield from (case("take", INT, X((), 0, 5, "int64")), case("take", S, X((3,), 0, 0, "int64")))
    yield from (
        case("put", M, X((1,), -6, 5, "int64"), X((1,))),
        case("put", M, X((2, 2), 0, 5, "int64"), X((4,)), True),
    )
    yield from (case("block_diag", M, V, S), case("block_diag", INT, M), case("block_diag", M))
    yield from (
        case("cartesian_prod", V, ROW),
        case("cartesian_prod", V),
        case("cartesian_prod", V, ROW, X((2,))),
    )
    yield from (
        case("combinations", V),
        case("combinations", V, 3, True),
        case("combinations", ROW, r=1),
    )
    for name in ("atleast_1d", "atleast_2d", "atleast_3d"):
        yield from (case(name, x) for x in (S, V, M, A))
        yield from (case(name, S, M), case(name, [V, A]))
    for name in ("column_stack", "row_stack", "dstack"):
        yield from (case(name, [V, V]), case(name, [M, M]), case(name, [S, S]))
    yield case("vander", X((3,), -3, 3, "int64"))


CASES = list(_cases())
