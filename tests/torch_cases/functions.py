"""Functions of tensors: elementwise, reductions, shapes, products, indices."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .calls import Case, X, case
from .operands import IDX, INT, IV, ROW, A, B, G, M, P, S, U, V


def _cases() -> Iterator[Case]:
    for name in (
        "neg negative abs absolute sign exp exp2 expm1 sin cos tan atan arctan sinh cosh tanh asinh arcsinh "
        "sigmoid erf erfc floor ceil trunc round frac square relu"
    ).split():
        for x in (M, S, X((0, 3))):
            yield case(name, x)
        if name not in ("frac", "relu"):
            yield case(name, INT)
    for name in "log log1p log2 log10 sqrt rsqrt reciprocal".split():
        yield from (
            case(name, P),
            case(name, X((), 0.5, 2.0)),
            case(name, X((2, 3), 1, 5, "int64")),
        )
    for name in "asin arcsin acos arccos atanh arctanh".split():
        yield case(name, U)
    for name in "acosh arccosh".split():
        yield case(name, G)
    for name in "add sub subtract mul multiply maximum minimum atan2 arctan2".split():
        yield from (
            case(name, M, M),
            case(name, M, ROW),
            case(name, X((2, 1)), ROW),
            case(name, S, M),
        )
        yield case(name, INT, INT)
    for name in "true_divide div divide".split():
        yield from (
            case(name, M, P),
            case(name, M, X((3,), 0.5, 2)),
            case(name, M, 2),
            case(name, INT, 3),
        )
        yield case(name, INT, X((2, 3), 1, 4, "int64"))
    for name in "add sub subtract mul multiply".split():
        yield from (case(name, M, 2), case(name, M, 2.5), case(name, INT, 2), case(name, INT, 2.5))
    yield from (case("add", M, M, alpha=3), case("sub", M, ROW, alpha=-0.5), case("rsub", M, 1))
    yield from (case("rsub", M, M), case("add", INT, INT, alpha=2))
    yield from (case("div", G, 0.7, rounding_mode=m) for m in ("floor", "trunc", None))
    yield from (case("div", INT, 2, rounding_mode=m) for m in ("floor", "trunc", None))
    for name in "floor_divide remainder fmod".split():
        yield from (
            case(name, X((2, 3), -5, 5), X((3,), 0.7, 2)),
            case(name, INT, 3),
            case(name, M, 0.7),
        )
        yield case(name, INT, X((2, 3), 1, 3, "int64"))
    for name in "lt less le less_equal gt greater ge greater_equal eq ne not_equal".split():
        yield from (
            case(name, M, M),
            case(name, M, 0.5),
            case(name, IDX, X((3,), 0, 2, "int64")),
            case(name, INT, 0.5),
        )
    for name in "bitwise_and bitwise_or bitwise_xor".split():
        yield from (case(name, B, B), case(name, INT, INT), case(name, INT, 5))
    for name in ("bitwise_left_shift", "bitwise_right_shift"):
        yield from (case(name, INT, X((3,), 0, 4, "int64")), case(name, INT, 2))
    yield from (
        case("bitwise_not", B),
        case("bitwise_not", INT),
        case("logical_not", M),
        case("logical_not", B),
    )
    for name in "logical_and logical_or logical_xor".split():
        yield from (case(name, B, B), case(name, IDX, INT), case(name, M, B))
    for name in "isnan isinf isfinite".split():
        yield from (case(name, M), case(name, INT))
    yield from (case("pow", P, e) for e in (0, 1, 2, 3, -1, 0.5, 2.5, -2))
    yield from (
        case("pow", M, 3),
        case("pow", M, 2),
        case("pow", P, P),
        case("pow", P, X((3,))),
        case("pow", INT, 2),
    )
    yield from (
        case("pow", INT, 2.5),
        case("pow", 2.0, M),
        case("pow", X((2, 3), 0, 3, "int64"), X((3,), 0, 2, "int64")),
    )
    for name in "clamp clip".split():
        yield from (
            case(name, M, -0.5, 0.5),
            case(name, M, min=0),
            case(name, M, max=0.3),
            case(name, INT, 0, 2),
        )
    yield from (case("clamp", M, X((2, 3), -2, -1), X((3,), 0, 1)), case("clamp", INT, 0.5))
    yield from (case("clamp_min", M, 0.1), case("clamp_max", M, 0.1))
    yield from (case("lerp", M, M, 0.3), case("lerp", M, M, M))
    yield from (case("addcmul", M, M, ROW), case("addcmul", M, M, M, value=2.5))
    yield from (case("addcdiv", M, M, P), case("addcdiv", M, M, P, value=-2))
    yield from (
        case("masked_fill", M, B, 7.0),
        case("masked_fill", M, B, S),
        case("masked_fill", INT, B, 3),
    )
    yield from (
        case("isclose", M, M),
        case("isclose", INT, INT),
        case("clone", M),
        case("clone", INT),
    )
    yield from (
        case("where", B, M, M),
        case("where", B, M, 0.0),
        case("where", B, 1.0, ROW),
        case("where", B, 1, 0),
    )
    yield case("round", M, decimals=1)

    for name in "sum mean amax amin nansum".split():
        yield from (
            case(name, A),
            case(name, A, 1),
            case(name, A, (0, 2)),
            case(name, A, -1, True),
            case(name, S),
        )
    for name in "sum any all count_nonzero".split():
        yield from (case(name, INT), case(name, B), case(name, IDX, 0))
    yield from (
        case("sum", INT, dtype=("dtype", "float64")),
        case("mean", INT, dtype=("dtype", "float64")),
    )
    yield from (
        case("sum", X((0, 3)), 0),
        case("sum", X((0, 3))),
        case("any", M),
        case("all", M, 1, True),
    )
    for name in "max min".split():
        yield from (
            case(name, A),
            case(name, A, 1),
            case(name, A, -1, True),
            case(name, M, ROW),
            case(name, INT, 0),
        )
    for name in "argmax argmin".split():
        yield from (case(name, A), case(name, A, 1), case(name, A, 2, True), case(name, INT))
    yield from (case("cumsum", A, 1), case("cumsum", INT, 0), case("cumsum", S, 0))
    for name in "var std".split():
        yield from (
            case(name, A),
            case(name, A, 1),
            case(name, A, (0, 2), keepdim=True),
            case(name, A, False),
        )
        yield from (case(name, A, 1, correction=0), case(name, A, 1, False))
    yield from (case("logsumexp", A, 1), case("logsumexp", A, (0, 1), True))
    for name in "softmax log_softmax".split():
        yield from (case(name, A, 1), case(name, A, -1), case(name, S, 0), case(name, M, 0))
    yield from (
        case("norm", M),
        case("norm", A, dim=1),
        case("norm", A, 1),
        case("norm", A, 3, -1, True),
    )
    yield from (case("norm", M, math.inf), case("norm", A, 2, (0, 1)), case("norm", M, "fro"))
    yield from (case("allclose", M, M), case("equal", INT, INT))

    for name in "reshape view".split():
        yield from (
            case(name, A, (6, 4)),
            case(name, A, (-1,)),
            case(name, A, (2, -1, 2)),
            case(name, S, (1, 1)),
        )
    yield from (
        case("view_as", A, X((6, 4))),
        case("reshape_as", A, X((4, 6))),
        case("flatten", A),
        case("flatten", A, 1),
    )
    yield from (
        case("ravel", A),
        case("unflatten", A, 2, (2, 2)),
        case("permute", A, (2, 0, 1)),
        case("flatten", S),
    )
    for name in "transpose swapaxes swapdims".split():
        yield from (case(name, A, 0, 2), case(name, A, -1, 1))
    for name in "movedim moveaxis".split():
        yield from (case(name, A, 0, 2), case(name, A, (0, 1), (2, 0)))
    yield from (case("t", M), case("t", V), case("unsqueeze", M, 0), case("unsqueeze", M, -1))
    yield from (
        case("squeeze", X((1, 3, 1))),
        case("squeeze", X((1, 3, 1)), 0),
        case("squeeze", M, 0),
    )
    yield from (
        case("broadcast_to", ROW, (2, 3)),
        case("expand", X((2, 1)), (4, 2, 3)),
        case("expand", M, (-1, 3)),
    )
    yield from (
        case("expand_as", ROW, M),
        case("contiguous", M),
        case("narrow", A, 2, 1, 2),
        case("select", A, 1, -1),
    )
    yield from (
        case("unbind", M),
        case("adjoint", M),
        case("split_with_sizes", A, (1, 0, 2), 1),
        case("tensor_split", A, 3, 2),
        case("tensor_split", A, (1, 7, -1), -1),
        case("hsplit", M, 3),
        case("hsplit", V, (1, 3)),
        case("vsplit", A, 2),
        case("dsplit", A, (1, 2)),
        case("unfold", V, 0, 2, 1),
        case("unfold", A, 2, 2, 2),
        case("unfold", A, -2, 3, 1),
        case("as_strided", A, (2, 3), (5, 2), 1),
        case("as_strided", M, (2, 2), (1, 1)),
        case("narrow_copy", A, 2, 1, 2),
        case("select_scatter", A, X((2, 4)), 1, -1),
        case("select_scatter", M, ROW, 0, 1),
        case("slice_scatter", A, X((2, 3, 2)), 2, 0, 4, 2),
        case("slice_scatter", M, X((1, 3)), start=1),
        case("slice_scatter", M, INT),
        case("diagonal_scatter", M, X((2,)), 1),
        case("diagonal_scatter", A, X((3, 2)), 0, 2, 0),
        case("as_strided_scatter", INT, X((2, 2), -4, 4, "int64"), (2, 2), (3, 1), 1),
        case("tile", M, (2, 1, 2)),
        case("tensor_split", A, sections=2, dim=2),
        case("hsplit", M, indices=(1,)),
        case("unbind", A, 1),
        case("split", A, 2, 2),
        case("split", A, (1, 2), 1),
    )
    yield from (
        case("chunk", A, 2, 1),
        case("flip", A, (0, 2)),
        case("roll", A, 1, 2),
        case("roll", M, 2),
    )
    yield from (
        case("repeat", M, (2, 1, 2)),
        case("tile", M, (2,)),
        case("roll", A, (1, 2), (0, 2)),
    )
    for name in "cat concat concatenate".split():
        yield from (case(name, [M, M]), case(name, [M, X((2, 1))], 1))
    yield from (
        case("cat", [M, INT]),
        case("stack", [M, M]),
        case("stack", [M, M, M], -1),
        case("stack", [M], 1),
    )
    yield from (
        case("hstack", [M, M]),
        case("vstack", [ROW, ROW]),
        case("hstack", [ROW, V]),
        case("vstack", [M, ROW]),
    )

    yield from (
        case("matmul", M, X((3, 4))),
        case("matmul", A, X((4, 5))),
        case("matmul", A, X((2, 4, 2))),
    )
    yield from (
        case("matmul", ROW, ROW),
        case("matmul", M, ROW),
        case("matmul", X((2,)), M),
        case("matmul", A, V),
    )
    yield from (
        case("matmul", ROW, A),
        case("matmul", X((5, 1, 2, 3)), A),
        case("mm", M, X((3, 2))),
    )
    yield from (
        case("bmm", A, X((2, 4, 3))),
        case("mv", M, ROW),
        case("dot", V, V),
        case("vdot", V, V),
    )
    yield from (
        case("addmm", X((2, 2)), M, X((3, 2))),
        case("addmm", X((2,)), M, X((3, 2)), beta=0.5, alpha=2),
        case("addmm", X((2,)), M, X((3, 2))),
    )
    yield from (
        case("outer", V, ROW),
        case("ger", V, ROW),
        case("inner", V, V),
        case("inner", M, A.__class__((5, 3))),
    )

    yield from (
        case("gather", M, 1, IDX),
        case("gather", X((3, 3)), 0, IDX),
        case("take_along_dim", M, IDX, 1),
    )
    yield from (case("scatter_add", M, 1, IDX, M), case("scatter_add", X((3, 3)), 0, IDX, M))
    yield from (
        case("index_select", M, 1, IV),
        case("index_select", X((3, 2)), 0, X((), 0, 2, "int64")),
    )
    yield from (
        case("index_add", X((3, 2)), 0, IV, X((4, 2))),
        case("index_add", X((3, 2)), 0, IV, X((4, 2)), alpha=2),
    )
    yield from (
        case("index_put", X((3, 2)), [X((2,), 0, 2, "int64")], X((2, 2)), True),
        case("index_put", X((3, 2)), [X((), 0, 2, "int64")], X((2,))),
        case("index_fill", X((3, 2)), 1, X((), 0, 1, "int64"), 0.5),
        case("index_fill", X((3, 2)), 1, X((2,), 1, 1, "int64"), X(())),
        case("index_copy", X((3, 2)), 0, X((1,), 0, 2, "int64"), X((1, 2))),
        case("masked_scatter", M, B, X((7,))),
    )
    yield from (
        case("nonzero", B),
        case("nonzero", INT, as_tuple=True),
        case("masked_select", M, B),
    )
    yield from (case(name, X((3, 4)), k) for name in ("tril", "triu") for k in (-1, 0, 2))
    yield from (
        case("diagonal", X((3, 4))),
        case("diagonal", X((3, 4)), -1),
        case("diagonal", A, -2, 2, 0),
        case("diagonal", A, 1, 1, 2),
        case("diag", X((3, 4)), 1),
        case("diag", V),
    )
    yield from (case("diag", ROW, -1), case("trace", X((3, 4))))


CASES = list(_cases())
