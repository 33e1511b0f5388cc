"""What layers compute: products with a bias, dropout, normalizations, look-ups.

Users reach these functions as ``nn.functional``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tracegrad import lean, random
from tracegrad.dispatch import composite
from tracegrad.grad_mode import no_grad
from tracegrad.inplace import check_in_place, store
from tracegrad.ir.types import int32, int64
from tracegrad.ops import creation, linalg
from tracegrad.ops import elementwise as ew
from tracegrad.ops.arguments import to_dtype
from tracegrad.ops.indexing import index_select
from tracegrad.ops.out_argument import OUT, with_out
from tracegrad.ops.reduction import norm
from tracegrad.ops.reduction import sum as sum_
from tracegrad.ops.shaping import reshape, unsqueeze
from tracegrad.reporting import reported
from tracegrad.size import Size
from tracegrad.tensor import Tensor, plainest


@reported("aten::linear")
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input @ weight.T + bias``.

    Args:
        input: [..., in_features].
        weight: [out_features, in_features], or [in_features].
        bias: [out_features].

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    if bias is not None:
        out = lean.linear(input, weight, bias)
        if out is not None:
            return out
    x, w = input._data, weight._data
    ndim = x.ndim
    if not ndim or not w.ndim:
        raise RuntimeError(
            f"both arguments to linear need to be at least 1D, but they are {ndim}D and {w.ndim}D"
        )
    if bias is not None and x.dtype != w.dtype:
        names = [t.type()[6:-6] for t in (input, weight)]
        raise RuntimeError(
            f"mat1 and mat2 must have the same dtype, but got {names[0]} and {names[1]}"
        )
    if w.ndim != 2:
        product = linalg.matmul(input, weight.t())
        return product if bias is None else ew.add(product, bias)
    transposed = weight.t()
    if ndim == 2:
        if bias is None:
            return linalg.mm(input, transposed)
        return linalg.addmm(bias, input, transposed)
    rows = reshape(input, math.prod(input.shape[:-1]), input.shape[-1])
    product = linalg.mm(rows, transposed) if bias is None else linalg.addmm(bias, rows, transposed)
    return reshape(product, (*input.shape[:-1], weight.shape[0]))


@reported("aten::dropout")
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set elements to zero with probability `p` and scale the others by 1 / (1 - p); itself in evaluation.

    Raises:
        ValueError: `p` is no probability.
    """
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0:
        return input
    if inplace:
        check_in_place(input)
    if p == 1:
        noise = creation.zeros_like(input)
    else:
        kept = ew.lt(random.rand(input.shape, dtype=input.dtype), 1.0 - p)
        noise = ew.mul(to_dtype(kept, input.dtype), 1.0 / (1.0 - p))
    result = ew.mul(input, noise)
    return store(input, result) if inplace else result


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
    shape = tuple(normalized_shape)
    count = len(shape)
    if not count or tuple(input.shape[-count:]) != shape:
        wanted = ", ".join(map(str, ("*", *shape)))
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [{wanted}], but got input of "
            f"size{list(input.shape)}"
        )
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and tuple(x.shape) != shape:
            raise RuntimeError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape "
                f"{list(x.shape)} and normalized_shape = {list(shape)}"
            )
    return _layer_norm(input, weight, bias, count, eps)


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


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of `weight` at the positions in `input`.

    Args:
        input: int64 or int32, any shape.
        weight: [rows, features].
        padding_idx: a row that gets no gradient.
        max_norm: rows with a larger norm are scaled down in place first.

    Raises:
        IndexError: a position is out of range.
        NotImplementedError: `scale_grad_by_freq` or `sparse`.
    """
    if scale_grad_by_freq or sparse:
        option = "scale_grad_by_freq" if scale_grad_by_freq else "sparse"
        raise NotImplementedError(f"embedding: {option}=True is not supported by tracegrad")
    if input.dtype not in (int64, int32):
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, "
            f"Int; but got {input.type()} instead (while checking arguments for embedding)"
        )
    rows = weight.shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx %= rows
    positions = to_dtype(input, int64)
    try:
        if max_norm is not None:
            with no_grad():
                _limit_rows(weight, positions, max_norm, norm_type)
        return _embedding(weight, positions, padding_idx)
    except IndexError:
        raise IndexError("index out of range in self") from None


@composite("EmbeddingBackward0")
def _embedding(weight: Tensor, positions: Tensor, padding_idx: int | None) -> Tensor:
    found = index_select(weight, 0, reshape(positions, -1) if positions.dim() != 1 else positions)
    if positions.dim() != 1:
        found = reshape(found, (*positions.shape, weight.shape[1]))
    if padding_idx is not None:
        padding = unsqueeze(ew.eq(positions, padding_idx), -1)
        found = ew.where(padding, found.detach(), found)
    return found


def _limit_rows(weight: Tensor, positions: Tensor, max_norm: float, norm_type: float) -> None:
    """Scale the rows at these positions down to a norm of at most `max_norm`."""
    flat = reshape(positions, -1)
    rows = index_select(weight, 0, flat)
    norms = norm(rows, norm_type, 1, True)
    scale = ew.where(ew.gt(norms, max_norm), ew.div(max_norm, ew.add(norms, 1e-7)), 1)
    weight[flat] = ew.mul(rows, scale)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """int64 rows with a single one at the position given by each element.

    Raises:
        RuntimeError: an element is negative or not below `num_classes`.
    """
    if tensor.dtype is not int64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    every = plainest(tensor)
    if not tensor.numel():
        if num_classes <= 0:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
    elif bool(ew.lt(every, 0).any()):
        raise RuntimeError("Class values must be non-negative.")
    elif num_classes != -1 and bool(ew.ge(every, num_classes).any()):
        raise RuntimeError("Class values must be smaller than num_classes.")
    return creation.one_hot(tensor, num_classes)


_div = with_out(ew.div, OUT["div"])


def normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """Divide by the p-norm along `dim`, or by `eps` where that is larger."""
    lengths = norm(input, p, dim, True).clamp_min(eps).expand_as(input)
    return _div(input, lengths, out=out)
