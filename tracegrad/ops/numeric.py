"""Functions of single numbers and pairs of them: signs, neighbours, divisors, exceptional values, steps, angles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad.dispatch import apply, composite, shown_as
from tracegrad.ir.op import registered
from tracegrad.ir.types import bool_, float64
from tracegrad.ops import elementwise as ew
from tracegrad.ops.arguments import (
    as_tensor_operand,
    common_operands,
    floating,
    require_tensors,
    to_dtype,
)
from tracegrad.ops.elementwise import refuse_dtype
from tracegrad.ops.in_place_forms import in_place
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, make_tensor

_signbit = registered("signbit")
_copysign = registered("copysign")
_hypot = registered("hypot")
_nextafter = registered("nextafter")


@reported("aten::positive")
def positive(input: Tensor) -> Tensor:
    """Itself, as ``+x``.

    Raises:
        RuntimeError: a bool tensor.
    """
    if input.dtype is bool_:
        raise RuntimeError("The `+` operator, on a bool tensor is not supported.")
    return input


@composite("SgnBackward0")
def sgn(input: Tensor) -> Tensor:
    """-1, 0 or 1, element by element: the sign, as there are no complex numbers."""
    return ew.sign(input)


@reported("aten::signbit")
def signbit(input: Tensor) -> Tensor:
    """True where the element is negative, or a negative zero."""
    require_tensors("signbit", input=(1, input))
    return apply(_signbit, (input,)) if input.is_floating_point() else ew.lt(input, 0)


def fix(input: Tensor) -> Tensor:
    """`trunc` under another name."""
    return ew.trunc(input)


def _exceptional(name: str, value: float) -> Any:
    @reported(f"aten::{name}")
    def function(input: Tensor) -> Tensor:
        require_tensors(name, input=(1, input))
        if not input.is_floating_point():
            return make_tensor(np.zeros(input.shape, bool), None)
        return ew.eq(input, value)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"True where the element is {value}."
    return function


isposinf = _exceptional("isposinf", math.inf)
isneginf = _exceptional("isneginf", -math.inf)


@reported("aten::isreal")
def isreal(input: Tensor) -> Tensor:
    """True everywhere: there are no complex numbers."""
    require_tensors("isreal", input=(1, input))
    return make_tensor(np.ones(input.shape, bool), None)


@composite("NanToNumBackward0")
def nan_to_num(
    input: Tensor,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
) -> Tensor:
    """NaN and infinities replaced: by 0 and the largest and lowest finite number, unless told otherwise."""
    require_tensors("nan_to_num", input=(1, input))
    if not input.is_floating_point():
        return ew.clone(input)
    limits = np.finfo(input._data.dtype)
    high = float(limits.max) if posinf is None else posinf
    low = float(limits.min) if neginf is None else neginf
    kept = ew.where(ew.isnan(input), 0.0 if nan is None else nan, input)
    kept = ew.where(ew.eq(input, math.inf), high, kept)
    return ew.where(ew.eq(input, -math.inf), low, kept)


@reported("aten::fill")
def fill(input: Tensor, value: Any) -> Tensor:
    """A tensor like `input` with every element `value`, a number or a 0-d tensor, as ``torch.fill``."""
    require_tensors("fill", input=(1, input))
    if isinstance(value, Tensor):
        if value._data.ndim:
            raise RuntimeError(
                "fill_ only supports 0-dimension value tensor but got tensor with "
                f"{value._data.ndim} dimensions."
            )
        name = "FillBackward1"
    else:
        name = "FillBackward0"
    everywhere = make_tensor(np.ones(input.shape, bool), None)
    filled = to_dtype(as_tensor_operand(value, input), input.dtype)
    return shown_as(ew.where(everywhere, filled, input), name, input, value)


def _pair(name: str, op_name: str, refused: str) -> Any:
    """The function of two tensors that is an op; `refused` are kinds of dtype that it is not defined for."""
    op = registered(op_name)

    def function(input: Tensor, other: Tensor) -> Tensor:
        require_tensors(name, input=(1, input), other=(2, other))
        x, y = common_operands(input, other)
        refuse_dtype(x, refused, name + "_cpu")
        return apply(op, (x, y))

    function.__name__ = function.__qualname__ = name
    return function


hypot = _pair("hypot", "hypot", "biu")
hypot.__doc__ = "``sqrt(input ** 2 + other ** 2)``, without overflow in between."
nextafter = _pair("nextafter", "nextafter", "biu")
nextafter.__doc__ = "The next floating point number after `input` in the direction of `other`."
gcd = _pair("gcd", "gcd", "fb")
gcd.__doc__ = "The greatest common divisor of integers."
lcm = _pair("lcm", "lcm", "fb")
lcm.__doc__ = "The least common multiple of integers."


def copysign(input: Tensor, other: Any) -> Tensor:
    """The magnitude of `input` with the sign of `other`, a tensor or a number; integers become floats."""
    require_tensors("copysign", input=(1, input))
    out = apply(_copysign, common_operands(input, other, floating=True))
    return out if isinstance(other, Tensor) else shown_as(out, "CopysignBackward1", input)


def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """``input * 2 ** other``."""
    require_tensors("ldexp", input=(1, input), other=(2, other))
    return _ldexp(input, floating(other))


@composite("LdexpBackward0")
def _ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    return ew.mul(x, ew.exp2(exponent))


@reported("aten::float_power")
def float_power(input: Any, exponent: Any) -> Tensor:
    """`pow` in double precision."""
    if isinstance(input, Tensor):
        input = to_dtype(input, float64)
    if isinstance(exponent, Tensor):
        exponent = to_dtype(exponent, float64)
    return ew.pow(input, exponent)


def float_power_(self: Tensor, exponent: Any) -> Tensor:
    """In-place form of `float_power`.

    Raises:
        RuntimeError: the tensor is not double.
    """
    if self.dtype is not float64:
        raise RuntimeError(
            f"the base given to float_power_ has dtype {self.dtype.legacy_name} but the operation's result "
            "requires dtype Double"
        )
    return _pow_(self, exponent)


_pow_ = in_place(ew.pow)


def _extremum_of_numbers(name: str, chosen: Any) -> Any:
    """The extremum of two tensors, ignoring NaN if only one is; at ties the gradient is the first operand's."""

    @composite(name.capitalize() + "Backward0")
    def larger(x: Tensor, y: Tensor) -> Tensor:
        if not x.is_floating_point():
            return ew.where(chosen(x, y), x, y)
        return ew.where(ew.bitwise_or(chosen(x, y), ew.isnan(y)), x, y)

    def function(input: Tensor, other: Tensor) -> Tensor:
        require_tensors(name, input=(1, input), other=(2, other))
        return larger(*common_operands(input, other))

    function.__name__ = function.__qualname__ = name
    return function


fmax = _extremum_of_numbers("fmax", ew.ge)
fmax.__doc__ = "The maximum of two tensors; of a number and NaN the number."
fmin = _extremum_of_numbers("fmin", ew.le)
fmin.__doc__ = "The minimum of two tensors; of a number and NaN the number."


@reported("aten::heaviside")
def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """1 where `input` is positive, `values` where it is 0, else 0. It has no derivative, as in torch.

    Raises:
        RuntimeError: the dtypes differ.
    """
    require_tensors("heaviside", input=(1, input), values=(2, values))
    if input.dtype is not values.dtype:
        raise RuntimeError("heaviside is not yet implemented for tensors with different dtypes.")
    step = to_dtype(ew.gt(input, 0), input.dtype)
    return ew.where(ew.eq(input, 0), values, step).detach()


@reported("aten::deg2rad")
def deg2rad(input: Tensor) -> Tensor:
    """Degrees as radians."""
    require_tensors("deg2rad", input=(1, input))
    return shown_as(ew.mul(floating(input), math.pi / 180), "Deg2RadBackward0", input)


@reported("aten::rad2deg")
def rad2deg(input: Tensor) -> Tensor:
    """Radians as degrees."""
    require_tensors("rad2deg", input=(1, input))
    return shown_as(ew.mul(floating(input), 180 / math.pi), "Rad2DegBackward0", input)
