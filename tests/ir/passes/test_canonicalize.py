"""Each rule: a graph before, its text after, and equal results in every bit, special values too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import build, call, check_rewrite, emit
from tracegrad.ir import Graph, GraphBuilder, IRError, Node, registered, show
from tracegrad.ir.graph import current_builder
from tracegrad.ir.passes import canonicalize, eliminate_dead_code
from tracegrad.ir.passes.canonicalize import RULES
from tracegrad.ir.passes.movement import match_axes
from tracegrad.ir.rewrite import Rewriter, Rule, RuleTable
from tracegrad.ir.types import bool_, float32, float64, int8, int32, int64, uint8

Case = tuple[Callable[..., Any], tuple[str, ...], str]
INF = float("inf")


def neg(x: Node) -> Any:
    return call("neg", x)


def bcast(x: Node, shape: tuple[int, ...], dims: tuple[int, ...]) -> Any:
    return call("broadcast_in_dim", x, shape=shape, dims=dims)


def cut(x: Node, start: tuple[int, ...], limit: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    return call("slice", x, start=start, limit=limit, stride=stride)


def put(x: Node, v: Node, start: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    return call("slice_update", x, v, start=start, sizes=v.shape, stride=stride)


def reshaped(x: Node, *shape: int) -> Any:
    return call("reshape", x, shape=shape)


REWRITTEN: dict[str, Case] = {
    "copy": (lambda x: call("copy", x), ("f64[4]",), "return %x"),
    # Constants.
    "zeros": (
        lambda x: call("zeros", x, shape=(2, 3)), ("f64[4]",),
        """%0: f64[] = const[value=0.0]
        %1: f64[2,3] = broadcast_in_dim[dims=(), shape=(2, 3)] %0
        return %1""",
    ),
    "uniform constant array": (
        lambda x: emit("add", x, _const((2.0, 2.0), float64)), ("f64[2]",),
        "%0: f64[] = const[value=2.0]\n%1: f64[2] = add %x, %0\nreturn %1",
    ),
    "constant to the right": (
        lambda x: 2.0 * x, ("f64[2]",),
        "%0: f64[] = const[value=2.0]\n%1: f64[2] = mul %x, %0\nreturn %1",
    ),
    # Sums.
    "x + -0.0": (lambda x: x + -0.0, ("f64[4]",), "return %x"),
    "x + 0 of integers": (lambda x: x + 0, ("i64[4]",), "return %x"),
    "0 + x of integers": (lambda x: 0 + x, ("i64[4]",), "return %x"),
    "x - 0": (lambda x: x - 0.0, ("f64[4]",), "return %x"),
    "x - 0 broadcast": (
        lambda x: x - bcast(_scalar(0.0), (3, 4), ()), ("f64[4]",),
        "%0: f64[3,4] = broadcast_in_dim[dims=(1,), shape=(3, 4)] %x\nreturn %0",
    ),
    "x + -y": (lambda x, y: x + -y, ("f64[4]", "f64[4]"), "%0: f64[4] = sub %x, %y\nreturn %0"),
    "-x + y": (lambda x, y: -x + y, ("f64[4]", "f64[]"), "%0: f64[4] = sub %y, %x\nreturn %0"),
    "x - -y": (lambda x, y: x - -y, ("f64[4]", "f64[4]"), "%0: f64[4] = add %x, %y\nreturn %0"),
    "x - x of integers": (
        lambda x: x - x, ("i32[2]",),
        """%0: i32[] = const[value=0]
        %1: i32[2] = broadcast_in_dim[dims=(), shape=(2,)] %0
        return %1""",
    ),
    # Products.
    "x * 1": (lambda x: x * 1.0, ("f64[4]",), "return %x"),
    "1 * x": (lambda x: 1.0 * x, ("f64[4]",), "return %x"),
    "x * -1": (lambda x: x * -1.0, ("f64[4]",), "%0: f64[4] = neg %x\nreturn %0"),
    "x * 0 of integers": (lambda x: x * 0, ("i64[]",), "%0: i64[] = const[value=0]\nreturn %0"),
    "-x * -y": (lambda x, y: -x * -y, ("f64[4]", "f64[4]"), "%0: f64[4] = mul %x, %y\nreturn %0"),
    "-x / -y": (lambda x, y: -x / -y, ("f64[4]", "f64[4]"), "%0: f64[4] = div %x, %y\nreturn %0"),
    "x / 1": (lambda x: x / 1.0, ("f64[4]",), "return %x"),
    "x / -1": (lambda x: x / -1.0, ("f64[4]",), "%0: f64[4] = neg %x\nreturn %0"),
    "x / 4": (
        lambda x: x / 4.0, ("f32[4]",),
        "%0: f32[] = const[value=0.25]\n%1: f32[4] = mul %x, %0\nreturn %1",
    ),
    "x / -0.5": (
        lambda x: x / -0.5, ("f32[4]",),
        "%0: f32[] = const[value=-2.0]\n%1: f32[4] = mul %x, %0\nreturn %1",
    ),
    "-(x * 3)": (
        lambda x: -(x * 3.0), ("f64[4]",),
        "%0: f64[] = const[value=-3.0]\n%1: f64[4] = mul %x, %0\nreturn %1",
    ),
    "--x": (lambda x: neg(-x), ("f64[4]",), "return %x"),
    "---x": (lambda x: neg(neg(-x)), ("f64[4]",), "%0: f64[4] = neg %x\nreturn %0"),
    "x ** 1": (lambda x: call("power", x, exponent=1), ("f64[4]",), "return %x"),
    "x ** 0": (
        lambda x: call("power", x, exponent=0.0), ("f64[]",), "%0: f64[] = const[value=1.0]\nreturn %0",
    ),
    # Projections.
    "abs abs": (
        lambda x: call("abs", call("abs", x)), ("f64[4]",), "%0: f64[4] = abs %x\nreturn %0",
    ),
    "abs neg": (lambda x: call("abs", -x), ("f64[4]",), "%0: f64[4] = abs %x\nreturn %0"),
    "floor ceil": (
        lambda x: call("floor", call("ceil", x)), ("f64[4]",), "%0: f64[4] = ceil %x\nreturn %0",
    ),
    "max(x, x)": (lambda x: call("maximum", x, x), ("f64[4]",), "return %x"),
    # Bits and bools.
    "x & x": (lambda x: call("bit_and", x, x), ("b1[4]",), "return %x"),
    "x & True": (lambda x: call("bit_and", x, _scalar(True, bool_)), ("b1[4]",), "return %x"),
    "x & ~0": (lambda x: call("bit_and", x, -1), ("i8[4]",), "return %x"),
    "x & 255": (lambda x: call("bit_and", x, 255), ("u8[4]",), "return %x"),
    "x & 0": (lambda x: call("bit_and", x, 0), ("u8[]",), "%0: u8[] = const[value=0]\nreturn %0"),
    "x | 0": (lambda x: call("bit_or", x, 0), ("i64[4]",), "return %x"),
    "x | ~0": (lambda x: call("bit_or", x, -1), ("i64[]",), "%0: i64[] = const[value=-1]\nreturn %0"),
    "x ^ x": (lambda x: call("bit_xor", x, x), ("b1[]",), "%0: b1[] = const[value=False]\nreturn %0"),
    "~~x": (lambda x: call("bit_not", call("bit_not", x)), ("b1[4]",), "return %x"),
    # Comparisons.
    "x < x": (lambda x: call("lt", x, x), ("f64[]",), "%0: b1[] = const[value=False]\nreturn %0"),
    "x <= x of integers": (
        lambda x: call("le", x, x), ("i64[]",), "%0: b1[] = const[value=True]\nreturn %0",
    ),
    "x != x of integers": (
        lambda x: call("ne", x, x), ("i64[]",), "%0: b1[] = const[value=False]\nreturn %0",
    ),
    "x == True": (lambda x: call("eq", x, _scalar(True, bool_)), ("b1[4]",), "return %x"),
    "x == False": (
        lambda x: call("eq", x, _scalar(False, bool_)), ("b1[4]",), "%0: b1[4] = bit_not %x\nreturn %0",
    ),
    "x != False": (lambda x: call("ne", x, _scalar(False, bool_)), ("b1[4]",), "return %x"),
    # Choices.
    "where(True, x, y)": (
        lambda x, y: call("where", _scalar(True, bool_), x, y), ("f64[4]", "f64[2,4]"),
        "%0: f64[2,4] = broadcast_in_dim[dims=(1,), shape=(2, 4)] %x\nreturn %0",
    ),
    "where(False, x, y)": (
        lambda x, y: call("where", _scalar(False, bool_), x, y), ("f64[4]", "f64[4]"), "return %y",
    ),
    "where(p, x, x)": (lambda x, p: call("where", p, x, x), ("f64[4]", "b1[4]"), "return %x"),
    "where(~p, x, y)": (
        lambda x, y, z: call("where", call("bit_not", z), x, y), ("f64[4]", "f64[4]", "b1[4]"),
        "%0: f64[4] = where %z, %y, %x\nreturn %0",
    ),
    "where(p, where(p, x, y), z)": (
        lambda x, y, z: call("where", z, call("where", z, x, y), 0.0), ("f64[4]", "f64[4]", "b1[4]"),
        "%0: f64[] = const[value=0.0]\n%1: f64[4] = where %z, %x, %0\nreturn %1",
    ),
    "where(p, x, where(p, y, z))": (
        lambda x, y, z: call("where", z, x, call("where", z, 0.0, y)), ("f64[4]", "f64[4]", "b1[4]"),
        "%0: f64[4] = where %z, %x, %y\nreturn %0",
    ),
    # Casts.
    "cast to itself": (lambda x: call("cast", x, dtype=float32), ("f32[4]",), "return %x"),
    "widen and narrow": (
        lambda x: call("cast", call("cast", x, dtype=float64), dtype=float32), ("f32[4]",), "return %x",
    ),
    "widen twice": (
        lambda x: call("cast", call("cast", x, dtype=int32), dtype=float32), ("i8[4]",),
        "%0: f32[4] = cast[dtype=f32] %x\nreturn %0",
    ),
    "integer by float": (
        lambda x: call("cast", call("cast", x, dtype=float64), dtype=int64), ("i32[4]",),
        "%0: i64[4] = cast[dtype=i64] %x\nreturn %0",
    ),
    "bool by anything": (
        lambda x: call("cast", call("cast", x, dtype=float32), dtype=int8), ("b1[4]",),
        "%0: i8[4] = cast[dtype=i8] %x\nreturn %0",
    ),
    # Reductions.
    "sum over no axes": (
        lambda x: call("sum", x, axis=(), keepdims=False), ("f64[4]",),
        "%0: f64[] = const[value=0.0]\n%1: f64[4] = add %x, %0\nreturn %1",
    ),
    "sum over one element of integers": (
        lambda x: call("sum", x, axis=(1,), keepdims=False), ("i64[4,1]",),
        "%0: i64[4] = reshape[shape=(4,)] %x\nreturn %0",
    ),
    "max over one element": (
        lambda x: call("max", x, axis=(1,), keepdims=False), ("f64[4,1]",),
        "%0: f64[4] = reshape[shape=(4,)] %x\nreturn %0",
    ),
    "sum of nothing": (
        lambda x: call("sum", x, axis=(0, 1), keepdims=False), ("f64[0,3]",),
        "%0: f64[] = const[value=0.0]\nreturn %0",
    ),
    "sum of zeros": (
        lambda x: call("sum", call("zeros", x, shape=(3, 3)), axis=(0, 1), keepdims=False), ("f64[2]",),
        "%0: f64[] = const[value=0.0]\nreturn %0",
    ),
    "max of a constant": (
        lambda x: call("max", bcast(_scalar(2.0), (3,), ()), axis=(0,), keepdims=False), ("f64[2]",),
        "%0: f64[] = const[value=2.0]\nreturn %0",
    ),
    # Broadcasts sink below pointwise ops.
    "implicit broadcast": (
        lambda x, y: x + bcast(y, (3, 4), (1,)), ("f64[3,4]", "f64[4]"),
        "%0: f64[3,4] = add %x, %y\nreturn %0",
    ),
    "implicit broadcast of an axis of extent 1": (
        lambda x, y: x + bcast(y, (3, 4), (0, 1)), ("f64[3,4]", "f64[3,1]"),
        "%0: f64[3,4] = add %x, %y\nreturn %0",
    ),
    "both operands broadcast": (
        lambda x, y: bcast(x, (3, 4), (1,)) * bcast(y, (3, 4), (1,)), ("f64[4]", "f64[4]"),
        """%0: f64[4] = mul %x, %y
        %1: f64[3,4] = broadcast_in_dim[dims=(1,), shape=(3, 4)] %0
        return %1""",
    ),
    "outer product": (
        lambda x, y: bcast(x, (3, 4), (0, 1)) * bcast(y, (3, 4), (1,)), ("f64[3,1]", "f64[4]"),
        "%0: f64[3,4] = mul %x, %y\nreturn %0",
    ),
    "the only operand, whatever its axes": (
        lambda x: call("exp", bcast(x, (3, 4), (0,))) * 2.0, ("f64[3]",),
        """%0: f64[3] = exp %x
        %1: f64[] = const[value=2.0]
        %2: f64[3] = mul %0, %1
        %3: f64[3,4] = broadcast_in_dim[dims=(0,), shape=(3, 4)] %2
        return %3""",
    ),
    "cast": (
        lambda x: call("cast", bcast(x, (3, 4), (1,)), dtype=float32), ("f64[4]",),
        """%0: f32[4] = cast[dtype=f32] %x
        %1: f32[3,4] = broadcast_in_dim[dims=(1,), shape=(3, 4)] %0
        return %1""",
    ),
    # Permutations, reshapes, broadcasts.
    "permute identity": (lambda x: call("permute", x, dims=(0, 1)), ("f64[2,3]",), "return %x"),
    "permute permute": (
        lambda x: call("permute", call("permute", x, dims=(1, 2, 0)), dims=(2, 1, 0)), ("f64[2,3,4]",),
        "%0: f64[2,4,3] = permute[dims=(0, 2, 1)] %x\nreturn %0",
    ),
    "transpose twice": (
        lambda x: call("permute", call("permute", x, dims=(1, 0)), dims=(1, 0)), ("f64[2,3]",),
        "return %x",
    ),
    "permute broadcast": (
        lambda x: call("permute", bcast(x, (2, 3, 4), (2,)), dims=(2, 0, 1)), ("f64[4]",),
        "%0: f64[4,2,3] = broadcast_in_dim[dims=(0,), shape=(4, 2, 3)] %x\nreturn %0",
    ),
    "reshape to itself": (lambda x: reshaped(x, 2, 3), ("f64[2,3]",), "return %x"),
    "reshape reshape": (
        lambda x: reshaped(reshaped(x, 6), 3, 2), ("f64[2,3]",),
        "%0: f64[3,2] = reshape[shape=(3, 2)] %x\nreturn %0",
    ),
    "reshape there and back": (
        lambda x: reshaped(reshaped(x, 6), 2, 3), ("f64[2,3]",), "return %x",
    ),
    "reshape broadcast adds axes": (
        lambda x: reshaped(bcast(x, (2, 3), (1,)), 2, 1, 3), ("f64[3]",),
        "%0: f64[2,1,3] = broadcast_in_dim[dims=(2,), shape=(2, 1, 3)] %x\nreturn %0",
    ),
    "reshape broadcast drops axes": (
        lambda x: reshaped(bcast(x, (2, 1, 3), (2,)), 2, 3), ("f64[3]",),
        "%0: f64[2,3] = broadcast_in_dim[dims=(1,), shape=(2, 3)] %x\nreturn %0",
    ),
    "reshape broadcast scalar": (
        lambda x: reshaped(bcast(x, (2, 3), ()), 6), ("f64[]",),
        "%0: f64[6] = broadcast_in_dim[dims=(), shape=(6,)] %x\nreturn %0",
    ),
    "broadcast to itself": (lambda x: bcast(x, (2, 3), (0, 1)), ("f64[2,3]",), "return %x"),
    "broadcast that only adds axes of extent 1": (
        lambda x: bcast(x, (2, 1, 3), (0, 2)), ("f64[2,3]",),
        "%0: f64[2,1,3] = reshape[shape=(2, 1, 3)] %x\nreturn %0",
    ),
    "broadcast broadcast": (
        lambda x: bcast(bcast(x, (3, 4), (1,)), (3, 2, 4), (0, 2)), ("f64[4]",),
        "%0: f64[3,2,4] = broadcast_in_dim[dims=(2,), shape=(3, 2, 4)] %x\nreturn %0",
    ),
    "broadcast reshape": (
        lambda x: bcast(reshaped(x, 3, 1), (3, 4), (0, 1)), ("f64[3]",),
        "%0: f64[3,4] = broadcast_in_dim[dims=(0,), shape=(3, 4)] %x\nreturn %0",
    ),
    # Slices.
    "slice of everything": (lambda x: cut(x, (0,), (4,), (1,)), ("f64[4]",), "return %x"),
    "slice slice": (
        lambda x: cut(cut(x, (1, 0), (9, 4), (2, 1)), (1, 2), (4, 4), (2, 1)), ("f64[10,4]",),
        "%0: f64[2,2] = slice[limit=(8, 4), start=(3, 2), stride=(4, 1)] %x\nreturn %0",
    ),
    "slice broadcast": (
        lambda x: cut(bcast(x, (5, 4), (1,)), (1, 0), (4, 4), (2, 1)), ("f64[4]",),
        "%0: f64[2,4] = broadcast_in_dim[dims=(1,), shape=(2, 4)] %x\nreturn %0",
    ),
    "slice what was updated": (
        lambda x, y: cut(put(x, y, (1,), (2,)), (1,), (4,), (2,)), ("f64[5]", "f64[2]"), "return %y",
    ),
    "slice concat": (
        lambda x, y: cut(call("concat", x, y, axis=0), (3,), (5,), (1,)), ("f64[2]", "f64[4]"),
        "%0: f64[2] = slice[limit=(3,), start=(1,), stride=(1,)] %y\nreturn %0",
    ),
    "slice concat whole": (
        lambda x, y: cut(call("concat", x, y, axis=0), (0,), (2,), (1,)), ("f64[2]", "f64[4]"),
        "return %x",
    ),
    "slice pad": (
        lambda x: cut(call("pad", x, low=(2,), high=(1,), value=0.0), (3,), (5,), (1,)), ("f64[4]",),
        "%0: f64[2] = slice[limit=(3,), start=(1,), stride=(1,)] %x\nreturn %0",
    ),
    # Updates and the rest.
    "update everything": (
        lambda x, y: put(x, y, (0,), (1,)), ("f64[4]", "f64[4]"), "return %y",
    ),
    "update nothing": (
        lambda x, y: put(x, y, (1,), (1,)), ("f64[4]", "f64[0]"), "return %x",
    ),
    "update twice": (
        lambda x, y, z: put(put(x, y, (1,), (1,)), z, (1,), (1,)), ("f64[4]", "f64[2]", "f64[2]"),
        "%0: f64[4] = slice_update[sizes=(2,), start=(1,), stride=(1,)] %x, %z\nreturn %0",
    ),
    "write back": (
        lambda x: put(x, cut(x, (1,), (3,), (1,)), (1,), (1,)), ("f64[4]",), "return %x",
    ),
    "pad by nothing": (
        lambda x: call("pad", x, low=(0,), high=(0,), value=1.0), ("f64[4]",), "return %x",
    ),
    "concat of one": (lambda x: call("concat", x, axis=0), ("f64[4]",), "return %x"),
    "concat with nothing": (
        lambda x, y: call("concat", x, y, x, axis=0), ("f64[4]", "f64[0]"),
        "%0: f64[8] = concat[axis=0] %x, %x\nreturn %0",
    ),
    "flip nothing": (lambda x: call("flip", x, axes=(1,)), ("f64[4,1]",), "return %x"),
    "flip flip": (
        lambda x: call("flip", call("flip", x, axes=(0, 1)), axes=(1,)), ("f64[4,3]",),
        "%0: f64[4,3] = flip[axes=(0,)] %x\nreturn %0",
    ),
    "flip twice": (
        lambda x: call("flip", call("flip", x, axes=(0,)), axes=(0,)), ("f64[4]",), "return %x",
    ),
}  # fmt: skip

KEPT: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "x + 0.0, which turns -0.0 into 0.0": (lambda x: x + 0.0, ("f64[4]",)),
    "x - -0.0": (lambda x: x - -0.0, ("f64[4]",)),
    "x * 0.0, which keeps NaN": (lambda x: x * 0.0, ("f64[4]",)),
    "x - x, which keeps NaN": (lambda x: x - x, ("f64[4]",)),
    "x / x": (lambda x: x / x, ("f64[4]",)),
    "x / 3, whose reciprocal is rounded": (lambda x: x / 3.0, ("f64[4]",)),
    "x / inf": (lambda x: x / INF, ("f64[4]",)),
    "x / 2**1023, whose reciprocal is subnormal": (lambda x: x / 2.0**1023, ("f64[4]",)),
    "x == x, which finds NaN": (lambda x: call("eq", x, x), ("f64[4]",)),
    "x != x": (lambda x: call("ne", x, x), ("f64[4]",)),
    "x <= x": (lambda x: call("le", x, x), ("f64[4]",)),
    "(x + 1) - 1": (lambda x: (x + 1.0) - 1.0, ("f64[4]",)),
    "(x * 2) * 3": (lambda x: (x * 2.0) * 3.0, ("f64[4]",)),
    "narrow and widen": (
        lambda x: call("cast", call("cast", x, dtype=float32), dtype=float64), ("f64[4]",),
    ),
    "large integers by float": (
        lambda x: call("cast", call("cast", x, dtype=float64), dtype=int64), ("i64[4]",),
    ),
    "signed by unsigned": (
        lambda x: call("cast", call("cast", x, dtype=uint8), dtype=int64), ("i8[4]",),
    ),
    "broadcast of a leading axis": (lambda x, y: x + bcast(y, (3, 4), (0,)), ("f64[3,4]", "f64[3]")),
    "permute broadcast that turns axes": (
        lambda x: call("permute", bcast(x, (3, 4, 5), (0, 1)), dims=(1, 0, 2)), ("f64[3,4]",),
    ),
    "reshape broadcast that merges axes": (
        lambda x: reshaped(bcast(x, (2, 3), (1,)), 6), ("f64[3]",),
    ),
    "slice over two parts": (
        lambda x, y: cut(call("concat", x, y, axis=0), (1,), (4,), (1,)), ("f64[2]", "f64[4]"),
    ),
    "slice into the padding": (
        lambda x: cut(call("pad", x, low=(2,), high=(1,), value=0.0), (1,), (5,), (1,)), ("f64[4]",),
    ),
    "slice another box": (
        lambda x, y: cut(put(x, y, (1,), (2,)), (1,), (3,), (1,)), ("f64[5]", "f64[2]"),
    ),
    "update another box": (
        lambda x, y, z: put(put(x, y, (1,), (1,)), z, (2,), (1,)), ("f64[4]", "f64[2]", "f64[2]"),
    ),
    "write elsewhere": (
        lambda x: put(x, cut(x, (1,), (3,), (1,)), (2,), (1,)), ("f64[4]",),
    ),
    "sum of a broadcast": (
        lambda x: call("sum", bcast(x, (3, 4), (1,)), axis=(0,), keepdims=False), ("f64[4]",),
    ),
    "division that would raise, broadcast to nothing": (
        lambda x, y: call("floor_div", bcast(x, (0,), ()), bcast(y, (0,), ())), ("i64[]", "i64[]"),
    ),
}  # fmt: skip


def _scalar(value: float | bool, dtype: Any = float64) -> Node:
    return current_builder().const(value, dtype)


def _const(value: tuple[float, ...], dtype: Any) -> Node:
    return current_builder().const_array(np.array(value, dtype.np))


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten(name: str, rng: np.random.Generator) -> None:
    function, types, after = REWRITTEN[name]
    check_rewrite(build(function, *types), after, canonicalize, eliminate_dead_code, rng=rng)


@pytest.mark.parametrize("name", KEPT)
def test_kept(name: str) -> None:
    """No rule applies: the very same graph comes back."""
    function, types = KEPT[name]
    graph = build(function, *types)
    assert canonicalize(graph) is graph


@pytest.mark.parametrize("name", REWRITTEN)
def test_one_pass_is_enough(name: str) -> None:
    function, types, _ = REWRITTEN[name]
    graph = eliminate_dead_code(canonicalize(build(function, *types)))
    assert canonicalize(graph) is graph, show(graph)


def test_every_rule_is_tested() -> None:
    """The graphs above make every rule fire."""
    fired = set()

    def watch(rule: Rule) -> Rule:
        def watched(b: Rewriter, node: Node) -> Node | None:
            result = rule(b, node)
            if result is not None:
                fired.add(rule)
            return result

        return watched

    table = RULES.wrapped(watch)
    for function, types, _ in REWRITTEN.values():
        table.rewrite(build(function, *types))
    assert fired == set(RULES.rules)


def test_lines_scopes_and_origins_survive() -> None:
    builder = GraphBuilder("f")
    with builder:
        x = builder.input(build(lambda x: x, "f64[4]").inputs[0].type, "x")
        primal = call("sin", x) * 1.0
        removed = primal + -0.0
        builder.scope, builder.origin = "layers.0", removed
        adjoint = neg(-(call("cos", x) / 2.0)) * 1.0
        builder.origin = None
    graph = canonicalize(builder.graph.replace(outputs=[removed, adjoint]))
    sine, product = graph.outputs
    assert sine.op.name == "sin"
    assert product.op.name == "mul"  # By the reciprocal.
    assert product.scope == "layers.0"
    # The origin is what stands for the node that was differentiated.
    assert product.origin is sine


def test_wrong_rules_are_noticed() -> None:
    table = RuleTable("wrong")

    @table.rule("sin")
    def shrink(b: Rewriter, node: Node) -> Node | None:
        """sin x => sum x"""
        return b.emit("sum", node.inputs[0], axis=(0,), keepdims=False)

    with pytest.raises(
        IRError, match=r"rule shrink \(sin x => sum x\) makes f64\[\] of sin: f64\[4\]"
    ):
        table.rewrite(build(lambda x: call("sin", x), "f64[4]"))
    shrink.__doc__ = ""
    with pytest.raises(ValueError, match="rule shrink states no equation"):
        table.rule("cos")(shrink)


def test_rules_that_name_their_op_come_first() -> None:
    table = RuleTable("order")
    calls = []

    def make(name: str) -> Any:
        def rule(b: Rewriter, node: Node) -> None:
            calls.append(name)

        rule.__doc__ = "x => x"
        return rule

    table.rule(where=lambda op: op.commutative)(make("general"))
    table.rule("add")(make("first"))
    table.rule("add", "mul")(make("second"))
    table.rewrite(build(lambda x: x + x, "f64[4]"))
    assert calls == ["first", "second", "general"]
    assert len(table.for_op(registered("sin"))) == 0


@pytest.mark.parametrize(
    ("inner", "outer", "axes"),
    [
        ((), (), ()),
        ((), (1, 1), ()),
        ((3,), (1, 3, 1), (1,)),
        ((2, 3), (2, 1, 3), (0, 2)),
        ((1, 3), (1, 1, 3), (0, 2)),
        ((3,), (2, 3), None),
        ((3,), (3, 2), None),
        ((3, 1), (3,), None),
        ((2, 3), (3, 2), None),
    ],
)
def test_match_axes(
    inner: tuple[int, ...], outer: tuple[int, ...], axes: tuple[int, ...] | None
) -> None:
    assert match_axes(inner, outer) == axes


def long_chain(length: int) -> Graph:
    builder = GraphBuilder("chain")
    with builder:
        x = y = builder.input(build(lambda x: x, "f64[4]").inputs[0].type)
        for _ in range(length):
            y = neg(-y) * 1.0 + x
    return builder.graph.replace(outputs=[y])


def test_long_graphs_need_no_recursion() -> None:
    graph = eliminate_dead_code(canonicalize(long_chain(10_000)))
    assert [node.op.name for node in graph.nodes] == ["add"] * 10_000
