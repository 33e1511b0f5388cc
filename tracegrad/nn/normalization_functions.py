"""Normalizations of layers, batches, instances, groups and responses nearby. Users reach them as ``nn.functional``.

Each is one composition of ops; instances are a batch whose channels are those of all its elements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.dispatch import ABSENT, composite, shown_as
from tracegrad.grad_mode import no_grad
from tracegrad.inplace import check_in_place, store
from tracegrad.nn.padding_functions import pad
from tracegrad.nn.pooling_functions import avg_pool2d, avg_pool3d
from tracegrad.ops import elementwise as ew
from tracegrad.ops.reduction import sum as sum_
from tracegrad.ops.shaping import reshape
from tracegrad.reporting import reported
from tracegrad.size import Size
from tracegrad.tensor import Tensor


@reported("aten::layer_norm")
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Shift and scale each slice over the last dimensions to mean 0 and variance 1 (Ba et al., 2016).

    Args:
        normalized_shape: the extents of the dimensions to normalize over.
        weight, bias: of this shape; applied afterwards.

    Raises:
        RuntimeError: shapes do not fit.
    """
    count = _check_normalized_shape(input, normalized_shape, weight=weight, bias=bias)
    return _layer_norm(input, weight, bias, count, eps)


def _check_normalized_shape(
    input: Tensor, normalized_shape: Sequence[int], **given: Tensor | None
) -> int:
    """How many dimensions are normalized over."""
    shape = tuple(normalized_shape)
    count = len(shape)
    if not count:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, but "
            "got normalized_shape = []"
        )
    for name, x in given.items():
        if x is not None and tuple(x.shape) != shape:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape "
                f"{list(x.shape)} and normalized_shape = {list(shape)}"
            )
    if tuple(input.shape[-count:]) != shape:
        wanted = ", ".join(map(str, ("*", *shape)))
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [{wanted}], but got input of "
            f"size{list(input.shape)}"
        )
    return count


@composite("NativeLayerNormBackward0")
def _layer_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, count: int, eps: float
) -> Tensor:
    axes = tuple(range(input.dim() - count, input.dim()))
    size = float(math.prod(input.shape[-count:]))
    centered = ew.sub(input, ew.div(sum_(input, axes, True), size))
    variance = ew.div(sum_(ew.mul(centered, centered), axes, True), size)
    return _scale(ew.mul(centered, ew.rsqrt(ew.add(variance, eps))), weight, bias)


def _scale(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        x = ew.mul(x, weight)
    return x if bias is None else ew.add(x, bias)


@reported("aten::batch_norm")
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel (dimension 1) over all others (Ioffe and Szegedy, 2015).

    Args:
        running_mean, running_var: used in evaluation; updated in place in training.
        training: use the statistics of this batch.
        momentum: the part of the new statistics in the running ones.

    Raises:
        ValueError: training with one value per channel.
        RuntimeError: extents do not fit, or there are no statistics to evaluate with.
    """
    shape = input.shape
    channels = shape[1]
    if training and math.prod(shape) == channels:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {Size(shape)}"
        )
    given = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    for name, x in given.items():
        if x is not None and x.numel() != channels:
            raise RuntimeError(f"{name} should contain {channels} elements not {x.numel()}")
    if not training:
        for name in ("running_mean", "running_var"):
            if given[name] is None:
                raise RuntimeError(f"{name} must be defined in evaluation mode")
    return _batch_norm(input, weight, bias, (running_mean, running_var), training, momentum, eps)


@composite("NativeBatchNormBackward0")
def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: tuple[Tensor | None, Tensor | None],
    training: bool,
    momentum: Any,
    eps: float,
) -> Tensor:
    broadcast = (1, -1, *(1,) * (input.dim() - 2))

    def per_channel(x: Tensor) -> Tensor:
        return reshape(x, broadcast) if input.dim() > 2 else x

    if training:
        axes = tuple(d for d in range(input.dim()) if d != 1)
        count = math.prod(input.shape[d] for d in axes)
        mean = ew.div(sum_(input, axes), float(count))
        centered = ew.sub(input, per_channel(mean))
        squares = sum_(ew.mul(centered, centered), axes)
        variance = ew.div(squares, float(count))
        with no_grad():
            _follow(running[0], mean, momentum)
            _follow(running[1], ew.div(squares, float(count - 1)), momentum)
    else:
        running_mean, variance = running  # type: ignore[assignment]
        assert running_mean is not None
        centered = ew.sub(input, per_channel(running_mean))
    result = ew.mul(centered, per_channel(ew.rsqrt(ew.add(variance, eps))))
    return _scale(
        result,
        None if weight is None else per_channel(weight),
        None if bias is None else per_channel(bias),
    )


def _follow(running: Tensor | None, new: Tensor, momentum: Any) -> None:
    """Move a running statistic towards the new one, which a function that is transformed may do as well."""
    if running is not None:
        check_in_place(running)
        kept = ew.sub(1.0, momentum) if isinstance(momentum, Tensor) else 1.0 - momentum
        store(running, ew.add(ew.mul(running, kept), ew.mul(new.detach(), momentum)))


@reported("aten::rms_norm")
def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide each slice over the last dimensions by the root of its mean square (Zhang and Sennrich, 2019).

    Args:
        normalized_shape: the extents of the dimensions to normalize over.
        weight: of this shape; applied afterwards.
        eps: added to the mean square; None takes the distance from 1 to the next number of the dtype.

    Raises:
        RuntimeError: shapes do not fit.
        NotImplementedError: the input is not floating point.
    """
    count = _check_normalized_shape(input, normalized_shape, weight=weight)
    if not input.is_floating_point():
        raise NotImplementedError(f"\"rms_norm\" not implemented for '{input.type()[6:-6]}'")
    if eps is None:
        eps = float(np.finfo(input._data.dtype).eps)
    axes = tuple(range(input.dim() - count, input.dim()))
    size = float(math.prod(input.shape[-count:]))
    mean_square = ew.div(sum_(ew.mul(input, input), axes, True), size)
    return _scale(ew.mul(input, ew.rsqrt(ew.add(mean_square, eps))), weight, None)


@reported("aten::group_norm")
def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize groups of channels (dimension 1) of each element of the batch (Wu and He, 2018).

    Args:
        input: [N, C, ...].
        num_groups: divides C.
        weight, bias: [C]; applied afterwards.

    Raises:
        RuntimeError: shapes do not fit.
        ValueError: there is one value per group.
    """
    if input.dim() < 2:
        raise RuntimeError(
            f"Expected at least 2 dimensions for input tensor but received {input.dim()}"
        )
    shape = list(input.shape)
    batch, channels = shape[:2]
    per_group = [batch * channels // num_groups, num_groups, *shape[2:]]
    if per_group[0] * math.prod(shape[2:]) == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {per_group}"
        )
    if channels % num_groups:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{shape} and num_groups={num_groups}"
        )
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and tuple(x.shape) != (channels,):
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, but got "
                f"{name} of shape {list(x.shape)} and input of shape {shape}"
            )
    out = _group_norm(input, weight, bias, num_groups, eps)
    given = [ABSENT if x is None else x for x in (weight, bias)]
    return shown_as(out, "NativeGroupNormBackward0", input, *given)


@composite("NativeGroupNormBackward0")
def _group_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
) -> Tensor:
    shape = tuple(input.shape)
    size = shape[1] // groups * math.prod(shape[2:])
    rows = reshape(input, (shape[0], groups, size))
    normal = reshape(_layer_norm(rows, None, None, 1, eps), shape)
    broadcast = (1, -1, *(1,) * (len(shape) - 2))
    return _scale(
        normal,
        None if weight is None else reshape(weight, broadcast),
        None if bias is None else reshape(bias, broadcast),
    )


@reported("aten::instance_norm")
def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each channel of each element of the batch (Ulyanov et al., 2017).

    Args:
        input: [N, C, ...].
        running_mean, running_var: [C]; used without `use_input_stats`, else updated in place.
        weight, bias: [C]; applied afterwards.
        momentum: the part of the new statistics in the running ones.

    Raises:
        ValueError: one value per channel, or only one of the running statistics.
        RuntimeError: extents do not fit, or there are no statistics to use.
    """
    shape = tuple(input.shape)
    if use_input_stats and math.prod(shape[2:]) == 1:
        raise ValueError(
            f"Expected more than 1 spatial element when training, got input size {Size(shape)}"
        )
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    if not use_input_stats and running_mean is None:
        raise RuntimeError(
            "Expected running_mean and running_var to be defined when use_input_stats is false"
        )
    batch, channels = shape[:2]

    def for_all(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.repeat(batch)

    mean, var = (for_all(x) for x in (running_mean, running_var))
    result = batch_norm(
        reshape(input, (1, batch * channels, *shape[2:])),
        mean,
        var,
        for_all(weight),
        for_all(bias),
        use_input_stats,
        momentum,
        eps,
    )
    if use_input_stats:
        with no_grad():
            for running, new in ((running_mean, mean), (running_var, var)):
                if running is not None and new is not None:
                    total = sum_(reshape(new, (batch, channels)), (0,))
                    check_in_place(running)
                    store(running, ew.div(total, float(batch)))
    return reshape(result, shape)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """``x / (k + alpha * mean of the squares of `size` channels nearby) ** beta`` (Krizhevsky et al., 2012).

    Args:
        input: [N, C, ...], three dimensions or more.

    Raises:
        ValueError: there are fewer dimensions.
    """
    ndim = input.dim()
    if ndim < 3:
        # torch's text has the indentation of its source.
        raise ValueError(
            f"Expected 3D or higher dimensionality {' ' * 24} input (got {ndim} dimensions)"
        )
    if input.numel() == 0:
        return input
    shape = tuple(input.shape)
    before, after = size // 2, (size - 1) // 2
    squares = ew.mul(input, input)
    if ndim == 3:
        padded = pad(reshape(squares, (shape[0], 1, *shape[1:])), (0, 0, before, after))
        means = avg_pool2d(padded, (size, 1), stride=1)
    else:
        planes = reshape(squares, (shape[0], 1, shape[1], shape[2], math.prod(shape[3:])))
        padded = pad(planes, (0, 0, 0, 0, before, after))
        means = avg_pool3d(padded, (size, 1, 1), stride=1)
    divisor = ew.pow(ew.add(ew.mul(reshape(means, shape), alpha), k), beta)
    return ew.div(input, divisor)
