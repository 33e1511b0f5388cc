"""Rules for pointwise ops and reductions; ``c`` is a constant, ``n`` an integer."""

from __future__ import annotations

import math

from ..graph import Node
from ..op import Op
from ..rewrite import Rewriter
from ..types import DType
from .canonicalize import RULES, is_constant, uniform_value

rule = RULES.rule


def _is(node: Node, value: float) -> bool:
    """Whether a node is this number everywhere; tells 0.0 from -0.0."""
    found = uniform_value(node)
    if found is None or found != value:
        return False
    return math.copysign(1, found) == math.copysign(1, value)


def _is_op(node: Node, name: str) -> bool:
    return node.op.name == name


@rule("zeros")
def make_zeros_constant(b: Rewriter, node: Node) -> Node | None:
    """zeros x => broadcast 0"""
    return b.full(node.type, 0)


@rule("copy")
def drop_copy(b: Rewriter, node: Node) -> Node | None:
    """copy x => x"""
    return node.inputs[0]


@rule("const")
def make_uniform_constant_scalar(b: Rewriter, node: Node) -> Node | None:
    """(c, c, ..., c) => broadcast c"""
    if not node.shape:
        return None
    value = node.attrs["value"]
    first = value[0] if value else 0
    text = repr(first)
    if any(repr(element) != text for element in value):
        return None
    return b.full(node.type, first)


@rule("add")
def drop_added_zero(b: Rewriter, node: Node) -> Node | None:
    """x + -0.0 => x; x + 0 => x for integers"""
    x, y = node.inputs
    if _is(y, -0.0 if node.dtype.is_floating else 0):
        return b.expand(x, node.shape)
    return None


@rule("add")
def subtract_negated(b: Rewriter, node: Node) -> Node | None:
    """x + -y => x - y; -x + y => y - x"""
    x, y = node.inputs
    if _is_op(y, "neg"):
        return b.emit("sub", x, y.inputs[0])
    if _is_op(x, "neg"):
        return b.emit("sub", y, x.inputs[0])
    return None


@rule("sub")
def drop_subtracted_zero(b: Rewriter, node: Node) -> Node | None:
    """x - 0 => x"""
    x, y = node.inputs
    return b.expand(x, node.shape) if _is(y, 0) else None


@rule("sub")
def add_negated(b: Rewriter, node: Node) -> Node | None:
    """x - -y => x + y"""
    x, y = node.inputs
    return b.emit("add", x, y.inputs[0]) if _is_op(y, "neg") else None


@rule("sub", "bit_xor")
def cancel_equal(b: Rewriter, node: Node) -> Node | None:
    """x - x => 0 for integers; x ^ x => 0"""
    x, y = node.inputs
    return b.full(node.type, 0) if x is y and not node.dtype.is_floating else None


@rule("mul")
def drop_factor_one(b: Rewriter, node: Node) -> Node | None:
    """x * 1 => x; x * -1 => -x; x * 0 => 0 for integers"""
    x, y = node.inputs
    value = uniform_value(y)
    if value is None:
        return None
    if value == 1:
        return b.expand(x, node.shape)
    if value == -1:
        return b.expand(b.emit("neg", x), node.shape)
    return b.full(node.type, 0) if value == 0 and not node.dtype.is_floating else None


@rule("mul", "div")
def cancel_signs(b: Rewriter, node: Node) -> Node | None:
    """-x * -y => x * y; -x / -y => x / y"""
    x, y = node.inputs
    if _is_op(x, "neg") and _is_op(y, "neg"):
        return b.emit(node.op, x.inputs[0], y.inputs[0])
    return None


@rule("div")
def drop_divisor_one(b: Rewriter, node: Node) -> Node | None:
    """x / 1 => x; x / -1 => -x"""
    x, y = node.inputs
    value = uniform_value(y)
    if value == 1:
        return b.expand(x, node.shape)
    return b.expand(b.emit("neg", x), node.shape) if value == -1 else None


@rule("div")
def multiply_by_reciprocal(b: Rewriter, node: Node) -> Node | None:
    """x / 2**n => x * 2**-n"""
    x, y = node.inputs
    divisor = uniform_value(y)
    # Within these bounds neither the divisor nor its reciprocal is subnormal, in f32 as in f64.
    if divisor is None or not 2.0**-100 <= abs(divisor) <= 2.0**100:
        return None
    if abs(math.frexp(divisor)[0]) != 0.5:
        return None
    return b.expand(b.emit("mul", x, b.const(1 / divisor, node.dtype)), node.shape)


@rule("neg", "bit_not")
def undo_involution(b: Rewriter, node: Node) -> Node | None:
    """-(-x) => x; ~~x => x"""
    (x,) = node.inputs
    return x.inputs[0] if x.op is node.op else None


@rule("neg")
def negate_constant(b: Rewriter, node: Node) -> Node | None:
    """-(x * c) => x * -c; -(x / c) => x / -c"""
    (x,) = node.inputs
    if x.op.name not in ("mul", "div") or not node.dtype.is_floating:
        return None
    value = uniform_value(x.inputs[1])
    if value is None:
        return None
    result = b.emit(x.op, x.inputs[0], b.const(-value, node.dtype))
    return b.expand(result, node.shape)


@rule("abs", "sign", "floor", "ceil", "trunc", "round")
def drop_repetition(b: Rewriter, node: Node) -> Node | None:
    """f(f(x)) => f(x) for projections; floor(ceil(x)) => ceil(x)"""
    (x,) = node.inputs
    rounding = ("floor", "ceil", "trunc", "round")
    return x if x.op is node.op or (node.op.name in rounding and x.op.name in rounding) else None


@rule("abs")
def drop_sign(b: Rewriter, node: Node) -> Node | None:
    """abs(-x) => abs(x)"""
    (x,) = node.inputs
    return b.emit("abs", x.inputs[0]) if _is_op(x, "neg") else None


@rule("power")
def simplify_power(b: Rewriter, node: Node) -> Node | None:
    """x ** 1 => x; x ** 0 => 1"""
    exponent = node.attrs["exponent"]
    if exponent == 1:
        return node.inputs[0]
    return b.full(node.type, 1) if exponent == 0 else None


@rule("maximum", "minimum", "bit_and", "bit_or")
def drop_equal(b: Rewriter, node: Node) -> Node | None:
    """max(x, x) => x; x & x => x; x | x => x"""
    x, y = node.inputs
    return x if x is y else None


@rule("bit_and", "bit_or")
def simplify_bits(b: Rewriter, node: Node) -> Node | None:
    """x & ~0 => x; x & 0 => 0; x | 0 => x; x | ~0 => ~0"""
    x, y = node.inputs
    value = uniform_value(y)
    neutral, absorbing = 0, _all_ones(node.dtype)
    if _is_op(node, "bit_and"):
        neutral, absorbing = absorbing, neutral
    if value == neutral:
        return b.expand(x, node.shape)
    return b.full(node.type, absorbing) if value == absorbing else None


def _all_ones(dtype: DType) -> int:
    if dtype.category == 0:
        return 1
    return -1 if dtype.is_signed else (1 << 8 * dtype.itemsize) - 1


@rule("lt", "gt", "ne", "le", "ge", "eq")
def compare_with_itself(b: Rewriter, node: Node) -> Node | None:
    """x < x => False; x == x => True for integers"""
    x, y = node.inputs
    if x is not y:
        return None
    if node.op.name in ("lt", "gt"):
        return b.full(node.type, False)
    if x.dtype.is_floating:  # NaN differs from itself.
        return None
    return b.full(node.type, node.op.name != "ne")


@rule("eq", "ne")
def compare_bool(b: Rewriter, node: Node) -> Node | None:
    """x == True => x; x == False => ~x; x != False => x; x != True => ~x for bools"""
    x, y = node.inputs
    value = uniform_value(y) if x.dtype.category == 0 else None
    if value is None:
        return None
    keeps = value == (node.op.name == "eq")
    return b.expand(x if keeps else b.emit("bit_not", x), node.shape)


@rule("where")
def decide_choice(b: Rewriter, node: Node) -> Node | None:
    """where(True, x, y) => x; where(False, x, y) => y; where(p, x, x) => x"""
    condition, x, y = node.inputs
    value = uniform_value(condition)
    if value is not None:
        return b.expand(x if value else y, node.shape)
    return b.expand(x, node.shape) if x is y else None


@rule("where")
def merge_choices(b: Rewriter, node: Node) -> Node | None:
    """where(~p, x, y) => where(p, y, x); where(p, where(p, x, y), z) => where(p, x, z)"""
    condition, x, y = node.inputs
    if _is_op(condition, "bit_not"):
        return b.emit("where", condition.inputs[0], y, x)
    if _is_op(x, "where") and x.inputs[0] is condition:
        return b.expand(b.emit("where", condition, x.inputs[1], y), node.shape)
    if _is_op(y, "where") and y.inputs[0] is condition:
        return b.expand(b.emit("where", condition, x, y.inputs[2]), node.shape)
    return None


@rule("cast")
def simplify_cast(b: Rewriter, node: Node) -> Node | None:
    """cast[t] x => x if x is a t; cast[t] cast[s] x => cast[t] x if s holds every x exactly"""
    (x,) = node.inputs
    if x.dtype is node.dtype:
        return x
    if _is_op(x, "cast"):
        source = x.inputs[0]
        # A float out of an integer's range converts differently from f32 and from f64.
        from_float = source.dtype.is_floating and not node.dtype.is_floating
        if _holds(x.dtype, source.dtype) and (not from_float or node.dtype.category == 0):
            return b.emit("cast", source, dtype=node.dtype)
    return None


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is one of `wide`."""
    if narrow.category == 0:
        return True
    if narrow.is_floating:
        return wide.is_floating and wide.itemsize >= narrow.itemsize
    if wide.is_floating:  # An integer of n bits needs a significand of n bits.
        return narrow.itemsize * 2 <= wide.itemsize
    if wide.category != narrow.category:
        return False
    if narrow.is_signed == wide.is_signed:
        return wide.itemsize >= narrow.itemsize
    return wide.is_signed and wide.itemsize > narrow.itemsize


@rule("sum", "max", "min")
def reduce_single_elements(b: Rewriter, node: Node) -> Node | None:
    """sum over one element x => x + 0 (-0.0 becomes 0.0); max over one element x => x"""
    (x,) = node.inputs
    if x.type.size != node.type.size or not x.type.size:
        return None
    result = b.reshape(x, node.shape)
    if _is_op(node, "sum") and node.dtype.is_floating:
        return b.emit("add", result, b.const(0, node.dtype))
    return result


@rule("sum")
def sum_nothing(b: Rewriter, node: Node) -> Node | None:
    """sum of no elements => 0; sum of zeros => 0"""
    (x,) = node.inputs
    return b.full(node.type, 0) if not x.type.size or _is(x, 0) else None


@rule("max", "min")
def reduce_uniform(b: Rewriter, node: Node) -> Node | None:
    """max(broadcast c) => broadcast c"""
    (x,) = node.inputs
    value = uniform_value(x)
    return b.full(node.type, value) if value is not None and x.type.size else None


def _is_pointwise(op: Op) -> bool:
    return op.kind == "pointwise" or op.name == "cast"


@rule(where=lambda op: op.commutative)
def put_constant_right(b: Rewriter, node: Node) -> Node | None:
    """c * x => x * c"""
    x, y = node.inputs
    if is_constant(x) and not is_constant(y):
        return b.emit(node.op, y, x, **node.attrs)
    return None


@rule(where=_is_pointwise)
def sink_broadcasts(b: Rewriter, node: Node) -> Node | None:
    """f(broadcast x, y) => f(x, y) if NumPy does the same; f(broadcast x) => broadcast f(x)"""
    for x in node.inputs:
        if x.op.name == "broadcast_in_dim":
            break
    else:
        return None
    if not node.type.size:  # An op may raise for an element that is broadcast to none at all.
        return None
    wide = [x for x in node.inputs if x.shape]
    if all(x is wide[0] for x in wide) and _is_op(wide[0], "broadcast_in_dim"):
        inputs = [x.inputs[0] if x.shape else x for x in node.inputs]
        result = b.emit(node.op, *inputs, **node.attrs)
        dims = wide[0].attrs["dims"]
        return b.emit("broadcast_in_dim", result, shape=node.shape, dims=dims)
    inputs = [x.inputs[0] if _is_trailing_broadcast(x) else x for x in node.inputs]
    if all(x is y for x, y in zip(inputs, node.inputs, strict=True)):
        return None
    return b.expand(b.emit(node.op, *inputs, **node.attrs), node.shape)


def _is_trailing_broadcast(node: Node) -> bool:
    """Whether the node is a broadcast that NumPy's rule would do by itself."""
    if node.op.name != "broadcast_in_dim":
        return False
    trailing = range(node.ndim - node.inputs[0].ndim, node.ndim)
    return bool(node.attrs["dims"] == tuple(trailing))
