"""Functions that act element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad import lean
from tracegrad.dispatch import apply, composite, shown_as
from tracegrad.ir.op import registered
from tracegrad.ir.types import DType, bool_
from tracegrad.memory_format import check_format, contiguous_format
from tracegrad.ops.arguments import (
    as_tensor_operand,
    common_operands,
    floating,
    is_number,
    result_dtype,
    to_dtype,
)
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, is_lifted, make_tensor


def refuse_dtype(x: Tensor, kinds: str, name: str) -> None:
    """Raise torch's error for an operation that is not defined for the dtype of `x`.

    Raises:
        NotImplementedError: the kind of the dtype is among `kinds`.
    """
    if x._data.dtype.kind in kinds:
        raise NotImplementedError(f"\"{name}\" not implemented for '{x.dtype.legacy_name}'")


def unary(
    name: str, op_name: str | None = None, *, integers: bool = False
) -> Callable[..., Tensor]:
    """The function for a unary op; `integers` says that it keeps integers (neg, abs)."""
    op = registered(op_name or name)

    def general(input: Tensor) -> Tensor:
        if not isinstance(input, Tensor):
            raise TypeError(
                f"{name}(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}"
            )
        x = input if integers else floating(input)
        return apply(op, (x,))

    function = lean.unary(op, general)
    function.__name__ = function.__qualname__ = name
    function.__doc__ = (
        f"Element by element ``{name}``, as ``torch.{name}``. Shape and dtype are kept."
    )
    return function


def _binary(
    name: str, op_name: str | None = None, *, true_float: bool = False, refused: str = ""
) -> Callable[..., Tensor]:
    """The function for a binary op; `refused` are the kinds of dtype that it is not defined for."""
    op = registered(op_name or name)

    def function(input: Any, other: Any) -> Tensor:
        x, y = common_operands(input, other, floating=true_float)
        if not isinstance(x, Tensor) and not isinstance(y, Tensor):
            raise TypeError(
                f"{name}(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}"
            )
        if refused:
            refuse_dtype(x if isinstance(x, Tensor) else y, refused, name + "_cpu")
        return apply(op, (x, y))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = (
        f"Element by element ``{name}`` with broadcasting and promotion, as ``torch.{name}``."
    )
    return function


_neg = unary("neg", integers=True)
abs = absolute = unary("abs", integers=True)
_sign = unary("sign", integers=True)


def neg(input: Tensor) -> Tensor:
    """``-x``, as ``torch.neg``.

    Raises:
        RuntimeError: a bool tensor.
    """
    if isinstance(input, Tensor) and input._data.dtype.kind == "b":
        raise RuntimeError(
            "Negation, the `-` operator, on a bool tensor is not supported. If you are trying to invert a mask, "
            "use the `~` or `logical_not()` operator instead."
        )
    return _neg(input)


negative = neg


def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1, element by element; bools as they are."""
    if isinstance(input, Tensor) and input._data.dtype.kind == "b":
        return clone(input)
    return _sign(input)


exp = unary("exp")
exp2 = unary("exp2")
expm1 = unary("expm1")
log = unary("log")
log1p = unary("log1p")
log2 = unary("log2")
log10 = unary("log10")
sqrt = unary("sqrt")
rsqrt = unary("rsqrt")
sin = unary("sin")
cos = unary("cos")
tan = unary("tan")
asin = arcsin = unary("asin")
acos = arccos = unary("acos")
atan = arctan = unary("atan")
sinh = unary("sinh")
cosh = unary("cosh")
tanh = unary("tanh")
asinh = arcsinh = unary("asinh")
acosh = arccosh = unary("acosh")
atanh = arctanh = unary("atanh")
sigmoid = unary("sigmoid")
erf = unary("erf")
erfc = unary("erfc")


def _rounding(name: str) -> Callable[..., Tensor]:
    """Rounding functions return integers as they are."""
    op = registered(name)

    def function(input: Tensor) -> Tensor:
        return apply(op, (input,)) if input._data.dtype.kind == "f" else input.clone()

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"``torch.{name}``: element by element; integers are returned unchanged."
    return function


floor = _rounding("floor")
ceil = _rounding("ceil")
trunc = _rounding("trunc")
_round = _rounding("round")


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Round to the nearest integer (or to `decimals` places), ties to even."""
    if decimals == 0:
        return _round(input)
    scale = 10.0**decimals
    return shown_as(div(_round(mul(input, scale)), scale), "RoundBackward1", input)


@composite("FracBackward0")
def frac(input: Tensor) -> Tensor:
    """The fractional part: ``x - trunc(x)``."""
    return sub(input, trunc(input))


mul = multiply = _binary("mul")
maximum = _binary("maximum")
minimum = _binary("minimum")
atan2 = arctan2 = _binary("atan2", true_float=True)
_floor_divide = _binary("div_floor", "floor_div", refused="b")
_remainder = _binary("remainder", refused="b")
_fmod = _binary("fmod", refused="b")
lt = less = _binary("lt")
le = less_equal = _binary("le")
gt = greater = _binary("gt")
ge = greater_equal = _binary("ge")
bitwise_and = _binary("bitwise_and", "bit_and", refused="f")
bitwise_or = _binary("bitwise_or", "bit_or", refused="f")
bitwise_xor = _binary("bitwise_xor", "bit_xor", refused="f")
bitwise_left_shift = _binary("bitwise_left_shift", "shift_left", refused="fb")
bitwise_right_shift = _binary("bitwise_right_shift", "shift_right", refused="fb")


def floor_divide(input: Any, other: Any) -> Tensor:
    """The quotient rounded down, as ``torch.floor_divide``."""
    return _floor_divide(input, other)


def remainder(input: Any, other: Any) -> Tensor:
    """The remainder with the sign of the divisor, as ``torch.remainder``."""
    result = _remainder(input, other)
    return result if isinstance(other, Tensor) else shown_as(result, "RemainderBackward0", input)


def fmod(input: Any, other: Any) -> Tensor:
    """The remainder with the sign of the dividend, as ``torch.fmod``."""
    result = _fmod(input, other)
    return result if isinstance(other, Tensor) else shown_as(result, "FmodBackward0", input)


_eq = _binary("eq")
_ne = _binary("ne")
_add = _binary("add")
_sub = _binary("sub")
_true_divide = _binary("true_divide", "div", true_float=True)

true_divide = _true_divide


def scaled(other: Any, alpha: Any) -> Any:
    """``other * alpha``."""
    return other if alpha == 1 else (other * alpha)


def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input + alpha * other``, as ``torch.add``."""
    if alpha == 1:
        return _add(input, other)
    return shown_as(_add(input, scaled(other, alpha)), "AddBackward0", input, other)


def check_sub(input: Any, other: Any) -> None:
    """Raise torch's error for a subtraction with a bool operand."""
    bools = [
        x._data.dtype.kind == "b" if isinstance(x, Tensor) else isinstance(x, bool)
        for x in (input, other)
    ]
    if all(bools):
        raise RuntimeError(
            "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or "
            "`logical_xor()` operator instead."
        )
    if any(bools):
        raise RuntimeError(
            "Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying to invert a "
            "mask, use the `~` or `logical_not()` operator instead."
        )


def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """``input - alpha * other``, as ``torch.sub``.

    Raises:
        RuntimeError: an operand is bool.
    """
    check_sub(input, other)
    if alpha == 1:
        return _sub(input, other)
    return shown_as(_sub(input, scaled(other, alpha)), "SubBackward0", input, other)


subtract = sub


def rsub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """``other - alpha * input``."""
    name = "RsubBackward0" if isinstance(other, Tensor) else "RsubBackward1"
    return shown_as(sub(other, scaled(input, alpha)), name, input, other)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """Division: true, or rounded toward zero (``"trunc"``) or down (``"floor"``), as ``torch.div``."""
    if rounding_mode is None:
        return _true_divide(input, other)
    if rounding_mode == "floor":
        return shown_as(floor_divide(input, other), "DivBackward2", input, other)
    if rounding_mode != "trunc":
        raise RuntimeError(
            "div expected rounding_mode to be one of None, 'trunc', or 'floor' but found "
            f"'{rounding_mode}'"
        )
    kept = result_dtype(input, other)
    result = to_dtype(trunc(_true_divide(input, other)), kept)
    return shown_as(result, "DivBackward2", input, other)


divide = div


@composite("ReciprocalBackward0")
def reciprocal(input: Tensor) -> Tensor:
    """``1 / x``."""
    return _true_divide(1.0, input)


def square(input: Tensor) -> Tensor:
    """``x * x``."""
    return pow(input, 2)


_power = registered("power")
_pow = registered("pow")
_integer_pow = registered("integer_pow")


def pow(input: Any, exponent: Any) -> Tensor:
    """``input ** exponent`` with promotion, as ``torch.pow``.

    Raises:
        RuntimeError: an integer base with a negative integer exponent.
    """
    if isinstance(input, Tensor) and is_number(exponent):
        if exponent.__class__ is int and input._data.dtype.kind == "f":
            return apply(_power, (input,), {"exponent": exponent})
        dtype = result_dtype(input, exponent)
        if dtype.is_floating:
            return apply(_power, (to_dtype(input, dtype),), {"exponent": _plain(exponent)})
        if exponent < 0:
            raise RuntimeError("Integers to negative integer powers are not allowed.")
    x, y = common_operands(input, exponent)
    refuse_dtype(x if isinstance(x, Tensor) else y, "b", "pow")
    x = x if isinstance(x, Tensor) else as_tensor_operand(x, y)
    y = as_tensor_operand(y, x)
    result = apply(_pow if x.dtype.is_floating else _integer_pow, (x, y))
    return result if isinstance(input, Tensor) else shown_as(result, "PowBackward2", y)


def _plain(exponent: Any) -> int | float:
    """2.0 and 2 are the same exponent."""
    value = float(exponent)
    return int(value) if value.is_integer() else value


def eq(input: Any, other: Any) -> Any:
    """Element by element equality."""
    if not isinstance(other, Tensor) and not is_number(other):
        return NotImplemented
    return _eq(input, other)


def ne(input: Any, other: Any) -> Any:
    """Element by element inequality."""
    if not isinstance(other, Tensor) and not is_number(other):
        return NotImplemented
    return _ne(input, other)


not_equal = ne


def bitwise_not(input: Tensor) -> Tensor:
    """``~x`` of integers and bools."""
    if input._data.dtype.kind == "f":
        raise TypeError(
            "~ (operator.invert) is only implemented on integer and Boolean-type tensors"
        )
    return apply(registered("bit_not"), (input,))


def _truth(x: Any) -> Any:
    return ne(x, 0) if isinstance(x, Tensor) and x.dtype is not bool_ else x


@reported("aten::logical_not")
def logical_not(input: Tensor) -> Tensor:
    """True where the element is zero."""
    return bitwise_not(_truth(input))


@reported("aten::logical_and")
def logical_and(input: Tensor, other: Tensor) -> Tensor:
    """True where both elements are not zero."""
    return bitwise_and(_truth(input), _truth(other))


@reported("aten::logical_or")
def logical_or(input: Tensor, other: Tensor) -> Tensor:
    """True where at least one element is not zero."""
    return bitwise_or(_truth(input), _truth(other))


@reported("aten::logical_xor")
def logical_xor(input: Tensor, other: Tensor) -> Tensor:
    """True where exactly one element is not zero."""
    return bitwise_xor(_truth(input), _truth(other))


@reported("aten::isnan")
def isnan(input: Tensor) -> Tensor:
    """True where the element is NaN."""
    return _ne(input, input)


@reported("aten::isinf")
def isinf(input: Tensor) -> Tensor:
    """True where the element is infinite."""
    return eq(abs(input), math.inf)


@reported("aten::isfinite")
def isfinite(input: Tensor) -> Tensor:
    """True where the element is neither infinite nor NaN."""
    return lt(abs(input), math.inf)


_where = registered("where")


def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """Elements of `input` where `condition` holds, of `other` elsewhere, as ``torch.where``.

    With `condition` alone: the indices of its true elements, as a tuple of tensors.
    """
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    if not isinstance(condition, Tensor) or condition.dtype is not bool_:
        got = condition.type()[6:-6] if isinstance(condition, Tensor) else type(condition).__name__
        raise RuntimeError(
            f"where expected condition to be a boolean tensor, but got a tensor with dtype {got}"
        )
    x, y = common_operands(input, other)
    like = x if isinstance(x, Tensor) else y if isinstance(y, Tensor) else None
    if like is None:
        like = x = make_tensor(np.asarray(x, result_dtype(input, other).np), x)
    return apply(_where, (condition, as_tensor_operand(x, like), as_tensor_operand(y, like)))


@reported("aten::clamp")
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Elements limited to [min, max]; at the limits the gradient passes, as in torch.

    Raises:
        RuntimeError: neither limit is given.
    """
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    dtype = result_dtype(*(v for v in (input, min, max) if v is not None))
    result = to_dtype(input, dtype)
    if min is not None:
        result = where(lt(result, min), min, result)
    if max is not None:
        result = where(gt(result, max), max, result)
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        return shown_as(result, "ClampBackward0", input, min, max)
    return shown_as(result, "ClampBackward1", input)


clip = clamp


@composite("ClampMinBackward0")
def clamp_min(input: Tensor, min: Any) -> Tensor:
    """``clamp(input, min=min)``."""
    return clamp(input, min=min)


@composite("ClampMaxBackward0")
def clamp_max(input: Tensor, max: Any) -> Tensor:
    """``clamp(input, max=max)``."""
    return clamp(input, max=max)


_relu = unary("relu", integers=True)


def relu(input: Tensor) -> Tensor:
    """max(x, 0), with derivative 0 at 0 and NaN kept, as torch.

    Raises:
        RuntimeError: a bool tensor.
    """
    if isinstance(input, Tensor) and input._data.dtype.kind == "b":
        raise RuntimeError("Boolean inputs not supported for relu")
    return _relu(input)


@reported("aten::lerp")
def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """``input + weight * (end - input)``."""
    name = "LerpBackward1" if isinstance(weight, Tensor) else "LerpBackward0"
    return shown_as(add(input, mul(weight, sub(end, input))), name, input, end, weight)


@composite("AddcmulBackward0")
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """``input + value * tensor1 * tensor2``."""
    return add(input, scaled(mul(tensor1, tensor2), value))


@composite("AddcdivBackward0")
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """``input + value * tensor1 / tensor2``."""
    return add(input, scaled(div(tensor1, tensor2), value))


@reported("aten::masked_fill")
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`input` with `value` where `mask` is true."""
    name = "MaskedFillBackward1" if isinstance(value, Tensor) else "MaskedFillBackward0"
    filled = as_tensor_operand(value, input)
    return shown_as(where(mask, to_dtype(filled, input.dtype), input), name, input, value)


@reported("aten::isclose")
def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Tensor:
    """True where ``|a - b| <= atol + rtol * |b|``, or both are equal."""
    close = logical_or(
        _eq(input, other), le(abs(sub(input, other)), add(mul(abs(other), rtol), atol))
    )
    close = logical_and(close, logical_or(isfinite(other), _eq(input, other)))
    return logical_or(close, logical_and(isnan(input), isnan(other))) if equal_nan else close


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy with memory of its own; gradients flow through.

    Raises:
        NotImplementedError: a memory format with the channels last.
    """
    out = apply(_clone, (input,))
    if memory_format is not None:
        check_format("clone", memory_format)
        if memory_format is contiguous_format and not is_lifted(out) and out._data.ndim:
            out._data = np.ascontiguousarray(out._data)
    return out


_clone = registered("copy")


def result_type(a: Any, b: Any) -> DType:
    """The dtype of an operation on both, as ``torch.result_type``."""
    return result_dtype(a, b)
