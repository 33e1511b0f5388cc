"""Activations and softmax, as functions. Users reach them as ``nn.functional``.

Each is one composition of ops. Where a branch that is not taken would overflow, its operand is replaced by a
harmless one first, so that its derivative is 0 and not 0 * inf.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.dispatch import composite
from tracegrad.grad_mode import state
from tracegrad.inplace import check_captured, check_in_place, store
from tracegrad.ops import elementwise as ew
from tracegrad.ops import reduction
from tracegrad.ops.arguments import canonical_dim
from tracegrad.ops.shaping import reshape
from tracegrad.ops.striding import narrow
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor


def _run(function: Callable[..., Tensor], inplace: bool, input: Tensor, *args: Any) -> Tensor:
    """Apply `function`, and store the result in `input` if that is asked for."""
    if not inplace:
        return function(input, *args)
    if state.levels:
        check_captured(input, f"{function.__name__.strip('_')}_")
    check_in_place(input)
    # What the derivative reads must survive the change: work on a copy.
    return store(input, function(input.clone(), *args))


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    return _run(ew.relu, inplace, input)


@composite("LeakyReluBackward0")
def _leaky_relu(x: Tensor, negative_slope: float) -> Tensor:
    return ew.where(ew.gt(x, 0), x, ew.mul(x, negative_slope))


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, else x times a small slope."""
    return _run(_leaky_relu, inplace, input, negative_slope)


@composite("EluBackward0")
def _elu(x: Tensor, alpha: float, scale: float) -> Tensor:
    positive = ew.gt(x, 0)
    below = ew.mul(ew.expm1(ew.where(positive, 0, x)), alpha)
    result = ew.where(positive, x, below)
    return result if scale == 1 else ew.mul(result, scale)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha * (exp(x) - 1)."""
    return _run(_elu, inplace, input, alpha, 1)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """The scaled ELU of self-normalizing networks (Klambauer et al., 2017)."""
    return _run(_elu, inplace, input, 1.6732632423543772, 1.0507009873554805)


@composite("GeluBackward0")
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function, exact or by tanh (Hendrycks and Gimpel, 2016).

    Raises:
        RuntimeError: `approximate` is neither "none" nor "tanh".
    """
    if approximate == "none":
        return ew.mul(ew.mul(input, 0.5), ew.add(ew.erf(ew.mul(input, math.sqrt(0.5))), 1.0))
    if approximate != "tanh":
        raise RuntimeError("approximate argument must be either none or tanh.")
    cubic = ew.add(input, ew.mul(ew.mul(ew.mul(input, input), input), 0.044715))
    inner = ew.tanh(ew.mul(cubic, math.sqrt(2 / math.pi)))
    return ew.mul(ew.mul(input, 0.5), ew.add(inner, 1.0))


@composite("SiluBackward0")
def _silu(x: Tensor) -> Tensor:
    return ew.mul(x, ew.sigmoid(x))


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x * sigmoid(x)."""
    return _run(_silu, inplace, input)


@composite("MishBackward0")
def _mish(x: Tensor) -> Tensor:
    return ew.mul(x, ew.tanh(log1p_exp(x)))


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * tanh(softplus(x))."""
    return _run(_mish, inplace, input)


def log1p_exp(x: Tensor, threshold: float = 40.0) -> Tensor:
    """log(1 + exp(x)) without overflow: x itself above the threshold.

    Above 40 the difference is below the rounding of float64.
    """
    large = ew.gt(x, threshold)
    return ew.where(large, x, ew.log1p(ew.exp(ew.where(large, 0, x))))


@composite("SoftplusBackward0")
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta; x itself where beta * x exceeds the threshold."""
    if beta == 1:
        return log1p_exp(input, threshold)
    scaled = ew.mul(input, beta)
    large = ew.gt(scaled, threshold)
    below = ew.log1p(ew.exp(ew.where(large, 0, scaled)))
    return ew.where(large, input, ew.div(below, beta))


@composite("LogSigmoidBackward0")
def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)) without overflow."""
    return ew.neg(log1p_exp(ew.neg(input)))


@composite("HardtanhBackward0")
def _hardtanh(x: Tensor, low: float, high: float) -> Tensor:
    # Not clamp: at the limits themselves the derivative is 0, as torch has it.
    return ew.where(ew.le(x, low), low, ew.where(ew.ge(x, high), high, x))


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """x limited to [min_val, max_val].

    Raises:
        ValueError: the limits are in the wrong order.
    """
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    return _run(_hardtanh, inplace, input, min_val, max_val)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x limited to [0, 6]."""
    return hardtanh(input, 0.0, 6.0, inplace)


@composite("HardsigmoidBackward0")
def _hardsigmoid(x: Tensor) -> Tensor:
    return ew.div(_hardtanh(ew.add(x, 3.0), 0.0, 6.0), 6.0)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """(x + 3) / 6 limited to [0, 1]."""
    return _run(_hardsigmoid, inplace, input)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return ew.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return ew.tanh(input)


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return ew.div(input, ew.add(ew.abs(input), 1.0))


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    return ew.sub(input, ew.tanh(input))


def _implicit_dim(name: str, ndim: int, stacklevel: int) -> int:
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an "
        "argument.",
        stacklevel=stacklevel + 1,
    )
    return 0 if ndim in (0, 1, 3) else 1


def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`."""
    if dim is None:
        dim = _implicit_dim("softmax", input.dim(), _stacklevel)
    return reduction.softmax(input, dim, dtype)


def softmin(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    """The softmax of -x."""
    if dim is None:
        dim = _implicit_dim("softmin", input.dim(), _stacklevel)
    return reduction.softmax(ew.neg(input), dim, dtype)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    """log(softmax(x)) along `dim`, computed stably."""
    if dim is None:
        dim = _implicit_dim("log_softmax", input.dim(), _stacklevel)
    return reduction.log_softmax(input, dim, dtype)


@composite("GluBackward0")
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half along `dim` times the sigmoid of the second (Dauphin et al., 2017).

    Raises:
        RuntimeError: there are no two halves.
        IndexError: there is no such dimension.
    """
    if not input.dim():
        raise RuntimeError("glu does not support scalars because halving size must be even")
    dim = canonical_dim(dim, input.dim())
    size = input.shape[dim]
    if size % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {dim} is size {size}")
    ew.refuse_dtype(input, "iub", "glu_cpu")
    value, gate = (narrow(input, dim, start, size // 2) for start in (0, size // 2))
    return ew.mul(value, ew.sigmoid(gate))


@composite("HardswishBackward0")
def _hardswish(x: Tensor) -> Tensor:
    ew.refuse_dtype(x, "iub", "hardswish_cpu")
    return ew.div(ew.mul(x, _hardtanh(ew.add(x, 3.0), 0.0, 6.0)), 6.0)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * relu6(x + 3) / 6 (Howard et al., 2019)."""
    return _run(_hardswish, inplace, input)


@composite("HardshrinkBackward0")
def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x, but 0 in [-lambd, lambd]."""
    ew.refuse_dtype(input, "iub", "hardshrink_cpu")
    inside = ew.logical_and(ew.ge(input, -lambd), ew.le(input, lambd))
    return ew.where(inside, 0, input)


@composite("SoftshrinkBackward0")
def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved by `lambd` towards 0, and not beyond.

    Raises:
        RuntimeError: `lambd` is negative.
    """
    ew.refuse_dtype(input, "iub", "softshrink_check")
    if not lambd >= 0:
        limit = f"{np.finfo(input._data.dtype).max:g}"
        raise RuntimeError(
            f"lambda must be in range [0, {limit}] for input dtype {input.dtype.legacy_name}, but found {lambd:g}"
        )
    below = ew.where(ew.lt(input, -lambd), ew.add(input, lambd), ew.mul(input, 0))
    return ew.where(ew.gt(input, lambd), ew.sub(input, lambd), below)


@composite("CeluBackward0")
def _celu(x: Tensor, alpha: float) -> Tensor:
    positive = ew.gt(x, 0)
    return ew.where(positive, x, ew.mul(ew.expm1(ew.div(ew.where(positive, 0, x), alpha)), alpha))


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha * (exp(x / alpha) - 1) (Barron, 2017).

    Raises:
        RuntimeError: `alpha` is 0.
    """
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    ew.refuse_dtype(input, "iub", "elu_cpu")
    return _run(_celu, inplace, input, alpha)


@composite("ThresholdBackward0")
def _threshold(x: Tensor, threshold: float, value: float) -> Tensor:
    return ew.where(ew.le(x, threshold), value, x)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where above `threshold`, else `value`."""
    return _run(_threshold, inplace, input, threshold, value)


@composite("PreluKernelBackward0")
def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return ew.where(ew.gt(x, 0), x, ew.mul(x, slope))


@reported("aten::prelu")
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where positive, else x times `weight` (He et al., 2015).

    Args:
        weight: a number as [] or [1], or one for each channel, [C]; channels are dimension 1 of `input`.

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    if input.dtype is not weight.dtype:
        raise RuntimeError(
            f"prelu: Type promoting not supported. Got {input.dtype.legacy_name} and {weight.dtype.legacy_name}"
        )
    count = weight.numel()
    if count != 1:
        if not input.dim():
            raise RuntimeError("Not allow zero-dim input tensor.")
        channels = input.shape[1] if input.dim() > 1 else 1
        if channels != count:
            raise RuntimeError(
                "Mismatch of parameter numbers and input channel size. Found parameter numbers = "
                f"{count} and channel size = {channels}."
            )
    if weight.dim() > 1:
        raise RuntimeError(
            f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {weight.dim()}"
        )
    if input.dim() < 2:
        return _prelu(input, reshape(weight, tuple(weight.shape)[: input.dim()]))
    return _prelu(input, reshape(weight, (count, *[1] * (input.dim() - 2))))


def relu_(input: Tensor) -> Tensor:
    """`relu` in place."""
    return relu(input, inplace=True)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`leaky_relu` in place."""
    return leaky_relu(input, negative_slope, inplace=True)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`elu` in place."""
    return elu(input, alpha, inplace=True)


def selu_(input: Tensor) -> Tensor:
    """`selu` in place."""
    return selu(input, inplace=True)


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`celu` in place."""
    return celu(input, alpha, inplace=True)


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """`hardtanh` in place."""
    return hardtanh(input, min_val, max_val, inplace=True)


def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """`threshold` in place."""
    return _run(_threshold, True, input, threshold, value)
