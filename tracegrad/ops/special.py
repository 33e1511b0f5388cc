"""Special functions: gamma, Bessel, the normal distribution, logarithms of sums and products.

:mod:`tracegrad.special` shows them, and others, under the names of ``torch.special``.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from tracegrad.dispatch import apply, composite, shown_as
from tracegrad.ir.op import registered
from tracegrad.node import name_of_op
from tracegrad.ops import elementwise as ew
from tracegrad.ops.arguments import common_operands, floating, is_number, require_tensors
from tracegrad.ops.elementwise import refuse_dtype, unary
from tracegrad.ops.in_place_forms import in_place
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

lgamma = unary("lgamma")
digamma = unary("digamma")
erfinv = unary("erfinv")
sinc = unary("sinc")
i0 = unary("i0")
i0e = unary("special_i0e")
i1 = unary("special_i1")
i1e = unary("special_i1e")
entr = unary("special_entr")
erfcx = unary("special_erfcx")
ndtri = unary("special_ndtri")

_polygamma = registered("polygamma")
_logit = registered("logit")


@reported("aten::polygamma")
def polygamma(n: int, input: Tensor) -> Tensor:
    """The n-th derivative of the digamma function, as ``torch.polygamma``.

    Raises:
        RuntimeError: n is negative.
    """
    require_tensors("polygamma", input=(2, input))
    order = operator.index(n)
    if order < 0:
        raise RuntimeError("polygamma(n, x) does not support negative n.")
    if order == 0:
        return shown_as(digamma(input), "PolygammaBackward0", input)
    return apply(_polygamma, (floating(input),), {"n": order})


def polygamma_of(self: Tensor, n: int) -> Tensor:
    """``polygamma(n, x)`` as a method of `x`."""
    return polygamma(n, self)


def polygamma_(self: Tensor, n: int) -> Tensor:
    """In-place form of `polygamma`."""
    return _polygamma_in_place(self, n)


_polygamma_in_place = in_place(polygamma_of)


@composite("MvlgammaBackward0")
def mvlgamma(input: Tensor, p: int) -> Tensor:
    """The logarithm of the multivariate gamma function of dimension `p`, as ``torch.mvlgamma``.

    Raises:
        RuntimeError: p is below 1.
    """
    if p < 1:
        raise RuntimeError("p has to be greater than or equal to 1")
    x = floating(input)
    total = ew.add(lgamma(x), p * (p - 1) / 4 * math.log(math.pi))
    for k in range(1, p):
        total = ew.add(total, lgamma(ew.sub(x, k / 2)))
    return total


@composite("LogitBackward0")
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """``log(x / (1 - x))``, where `x` is first limited to [eps, 1 - eps], if `eps` is given."""
    require_tensors("logit", input=(1, input))
    x = floating(input)
    return apply(_logit, (x if eps is None else ew.clamp(x, eps, 1 - eps),))


def _times_log(name: str) -> Any:
    """The function for ``input * log(other)`` and its like: one of the operands may be a number."""
    op = registered(name)
    record = name_of_op(op)[:-1]

    def function(input: Any, other: Any) -> Tensor:
        if not isinstance(input, Tensor) and not isinstance(other, Tensor):
            raise TypeError(
                f"{name}() received an invalid combination of arguments - got ({type(input).__name__}, "
                f"{type(other).__name__}), but expected one of:\n * (Tensor input, Tensor other)\n"
                " * (Number self, Tensor other)\n * (Tensor input, Number other)\n"
            )
        out = apply(op, common_operands(input, other, floating=True))
        if is_number(input):
            return shown_as(out, record + "1", other)
        return shown_as(out, record + "2", input) if is_number(other) else out

    function.__name__ = function.__qualname__ = name
    return function


xlogy = _times_log("xlogy")
xlogy.__doc__ = "``input * log(other)``; 0 where `input` is, unless `other` is NaN."
xlog1py = _times_log("special_xlog1py")
xlog1py.__doc__ = "``input * log1p(other)``; 0 where `input` is, unless `other` is NaN."


def _log_of_sum(name: str) -> Any:
    op = registered(name)

    def function(input: Tensor, other: Tensor) -> Tensor:
        require_tensors(name, input=(1, input), other=(2, other))
        x, y = common_operands(input, other)
        refuse_dtype(x, "biu", name + "_cpu")
        return apply(op, (x, y))

    function.__name__ = function.__qualname__ = name
    return function


logaddexp = _log_of_sum("logaddexp")
logaddexp.__doc__ = "``log(exp(input) + exp(other))`` without overflow."
logaddexp2 = _log_of_sum("logaddexp2")
logaddexp2.__doc__ = "``log2(2 ** input + 2 ** other)`` without overflow."


@reported("aten::special_ndtr")
def ndtr(input: Tensor) -> Tensor:
    """The distribution function of the standard normal distribution."""
    require_tensors("special_ndtr", input=(1, input))
    x = ew.mul(floating(input), -math.sqrt(0.5))
    return shown_as(ew.mul(ew.erfc(x), 0.5), "MulBackward1", input)


@composite("SpecialLogNdtrBackward0")
def log_ndtr(input: Tensor) -> Tensor:
    """The logarithm of `ndtr`, also where that is too small for a float."""
    require_tensors("special_log_ndtr", input=(1, input))
    x = floating(input)
    low = ew.lt(x, -1.0)
    t = ew.mul(x, -math.sqrt(0.5))
    # Each branch sees arguments that it has a finite derivative for.
    below = ew.where(low, t, 1.0)
    above = ew.where(low, 0.0, ew.neg(t))
    tail = ew.sub(ew.log(ew.mul(erfcx(below), 0.5)), ew.square(below))
    return ew.where(low, tail, ew.log1p(ew.mul(ew.erfc(above), -0.5)))
