"""Losses, as functions. Users reach them as ``nn.functional``.

Each computes one value per element (or per row) and reduces it as `reduction` says: "none", "sum" or "mean".
"""

from __future__ import annotations

import warnings

from tracegrad.dispatch import apply, composite
from tracegrad.ir.op import registered
from tracegrad.ir.types import int64, uint8
from tracegrad.nn.activation_functions import log1p_exp
from tracegrad.ops import elementwise as ew
from tracegrad.ops import reduction as reductions
from tracegrad.ops.arguments import to_dtype
from tracegrad.ops.indexing import index_select
from tracegrad.ops.reduction import sum as sum_
from tracegrad.ops.shaping import broadcast_tensors, reshape
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, plainest

_log_softmax_op = registered("log_softmax")
_nll_op = registered("nll_loss")


def legacy_reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction that torch's old arguments stand for, with its warning.

    Raises:
        ValueError: there is no such reduction.
    """
    if size_average is not None or reduce is not None:
        averaged = "sum" if size_average is False else "mean"
        reduction = "none" if reduce is False else averaged
        warnings.warn(
            "size_average and reduce args will be deprecated, please use "
            f"reduction='{reduction}' instead.",
            stacklevel=3,
        )
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    total = sum_(losses)
    return total if reduction == "sum" else ew.div(total, float(losses.numel()))


def _aligned(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in their common shape, with torch's warning if that takes broadcasting."""
    if target.shape == input.shape:
        return input, target
    warnings.warn(
        f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). This "
        "will likely lead to incorrect results due to broadcasting. Please ensure they have the same size.",
        stacklevel=3,
    )
    return broadcast_tensors(input, target)  # type: ignore[return-value]


def _weighted(losses: Tensor, weight: Tensor, input: Tensor, reduction: str) -> Tensor:
    if weight.shape != input.shape:
        raise ValueError("Weights and input must have the same size.")
    return ew.mul(losses, weight)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """The squared difference; with weights the mean is their weighted one."""
    reduction = legacy_reduction(size_average, reduce, reduction)
    x, y = _aligned(input, target)
    if weight is None:
        return _mse_loss(x, y, reduction)
    losses = _weighted(_mse_loss(x, y, "none"), weight, input, reduction)
    if reduction == "mean":
        return ew.div(sum_(losses), sum_(weight))
    return reduced(losses, reduction)


@composite("MseLossBackward0")
def _mse_loss(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    return reduced(ew.square(ew.sub(input, target)), reduction)


@reported("aten::l1_loss")
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """The absolute difference; with weights the mean is their weighted one."""
    reduction = legacy_reduction(size_average, reduce, reduction)
    x, y = _aligned(input, target)
    losses = ew.abs(ew.sub(x, y))
    if weight is not None:
        losses = _weighted(losses, weight, input, reduction)
        if reduction == "mean":
            return ew.div(sum_(losses), sum_(weight))
    return reductions.mean(losses) if reduction == "mean" else reduced(losses, reduction)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """Half the squared difference over beta where it is below beta, else |difference| - beta / 2.

    Raises:
        RuntimeError: beta is negative.
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    x, y = _aligned(input, target)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    if beta == 0:
        return l1_loss(x, y, reduction=reduction)
    return _smooth_l1_loss(x, y, reduction, beta)


@composite("SmoothL1LossBackward0")
def _smooth_l1_loss(input: Tensor, target: Tensor, reduction: str, beta: float) -> Tensor:
    distance = ew.abs(ew.sub(input, target))
    near = ew.mul(ew.square(distance), 0.5 / beta)
    return reduced(ew.where(ew.lt(distance, beta), near, ew.sub(distance, 0.5 * beta)), reduction)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Half the squared difference where it is below delta, else delta * (|difference| - delta / 2).

    Raises:
        RuntimeError: delta is not positive.
    """
    reduction = legacy_reduction(None, None, reduction)
    x, y = _aligned(input, target)
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    if weight is None:
        return _huber_loss(x, y, reduction, delta)
    return reduced(_weighted(_huber_loss(x, y, "none", delta), weight, input, reduction), reduction)


@composite("HuberLossBackward0")
def _huber_loss(input: Tensor, target: Tensor, reduction: str, delta: float) -> Tensor:
    distance = ew.abs(ew.sub(input, target))
    near = ew.mul(ew.square(distance), 0.5)
    far = ew.mul(ew.sub(distance, 0.5 * delta), delta)
    return reduced(ew.where(ew.lt(distance, delta), near, far), reduction)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """target * (log(target) - input): the Kullback-Leibler divergence, `input` being log-probabilities.

    Args:
        reduction: also "batchmean": the sum over the extent of the first dimension.
        log_target: the target is given as log-probabilities as well.
    """
    batch_mean = reduction == "batchmean" and size_average is None and reduce is None
    if not batch_mean:
        if reduction == "mean" and size_average is None and reduce is None:
            warnings.warn(
                "reduction: 'mean' divides the total loss by both the batch size and the support size."
                "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
                "'mean' will be changed to behave the same as 'batchmean' in the next major release.",
                stacklevel=2,
            )
        reduction = legacy_reduction(size_average, reduce, reduction)
    if log_target:
        losses = ew.mul(ew.exp(target), ew.sub(target, input))
    else:
        # 0 * log(0) is 0.
        zero = ew.eq(target, 0)
        entropy = ew.where(zero, 0, ew.mul(target, ew.log(ew.where(zero, 1, target))))
        losses = ew.sub(entropy, ew.mul(target, input))
    if batch_mean:
        total = sum_(losses)
        return ew.div(total, float(input.shape[0])) if input.dim() else total
    return reductions.mean(losses) if reduction == "mean" else reduced(losses, reduction)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-(y log(x) + (1 - y) log(1 - x)) for probabilities x; logarithms are cut at -100, as in torch.

    Raises:
        ValueError: the shapes differ.
        RuntimeError: the dtypes differ, or an element of `input` is no probability.
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if target.shape != input.shape:
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is "
            "deprecated. Please ensure they have the same size."
        )
    if target.dtype is not input.dtype:
        names = [x.type()[6:-6] for x in (target, input)]
        raise RuntimeError(f"Found dtype {names[0]} but expected {names[1]}")
    plain = plainest(input).detach()
    if not bool(ew.bitwise_and(ew.ge(plain, 0), ew.le(plain, 1)).all()):
        raise RuntimeError("all elements of input should be between 0 and 1")
    return _binary_cross_entropy(input, target, weight, reduction)


@composite("BinaryCrossEntropyBackward0")
def _binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str
) -> Tensor:
    # Inside, the plain formula. At the ends its derivative is infinite; torch divides by 1e-12 there, which
    # the linear term reproduces.
    plain = input.detach()
    inside = ew.ge(ew.mul(plain, ew.sub(1.0, plain)), 1e-12)
    safe = ew.where(inside, input, 0.5)
    rest = ew.sub(1.0, target)
    between = ew.add(ew.mul(target, ew.log(safe)), ew.mul(rest, ew.log1p(ew.neg(safe))))
    ends = ew.add(
        ew.mul(target, _at_least(ew.log(plain), -100.0)),
        ew.mul(rest, _at_least(ew.log1p(ew.neg(plain)), -100.0)),
    )
    slope = ew.mul(ew.sub(target.detach(), plain), 1e12)
    ends = ew.add(ends, ew.mul(slope, ew.sub(input, plain)))
    losses = ew.neg(ew.where(inside, between, ends))
    return reduced(losses if weight is None else ew.mul(losses, weight), reduction)


def _at_least(x: Tensor, low: float) -> Tensor:
    return ew.where(ew.lt(x, low), low, x)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross entropy of sigmoid(x), computed stably.

    Args:
        weight: multiplies each loss; broadcast.
        pos_weight: multiplies the part of positive examples; broadcast.

    Raises:
        ValueError: the shapes differ.
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if target.shape != input.shape:
        raise ValueError(
            f"Target size ({target.size()}) must be the same as input size ({input.size()})"
        )
    return _with_logits(input, target, weight, pos_weight, reduction)


@composite("BinaryCrossEntropyWithLogitsBackward0")
def _with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, reduction: str
) -> Tensor:
    """(1 - y) x + log(1 + exp(-x)); positive examples count `pos_weight` times."""
    soft = log1p_exp(ew.neg(input))
    if pos_weight is not None:
        soft = ew.mul(soft, ew.add(ew.mul(ew.sub(pos_weight, 1.0), target), 1.0))
    losses = ew.add(ew.mul(ew.sub(1.0, target), input), soft)
    return reduced(losses if weight is None else ew.mul(losses, weight), reduction)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The negative log-probability of the class that `target` names.

    Args:
        input: [N, C], [C], or [N, C, ...]: log-probabilities.
        target: class numbers, without the dimension C.
        weight: [C]: how much each class counts, also in the mean.
        ignore_index: a class number that counts nothing.

    Raises:
        ValueError, RuntimeError: shapes or dtypes do not fit.
        IndexError: a class number is out of range.
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    _check_classes(input, target, weight)
    return _pick_class(input, target, weight, ignore_index, reduction)


def _is_plain_choice(input: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    """Whether these are floating scores [N, C] and int64 classes [N]: the frequent case, with nothing to check."""
    x, classes = input._data, target._data
    return (
        weight is None
        and x.ndim == 2
        and x.dtype.kind == "f"
        and classes.shape == x.shape[:1]
        and target.dtype is int64
    )


def _check_classes(input: Tensor, target: Tensor, weight: Tensor | None) -> None:
    ndim = input.dim()
    if not ndim:
        raise ValueError("Expected 1 or more dimensions (got 0)")
    if ndim > 1 and (not target.dim() or input.shape[0] != target.shape[0]):
        size = target.shape[0] if target.dim() else 1
        raise ValueError(
            f"Expected input batch_size ({input.shape[0]}) to match target batch_size ({size})."
        )
    if target.dtype not in (int64, uint8):
        raise RuntimeError(
            f"expected target dtype to be Long or Byte, but got {target.type()[6:-6]}"
        )
    if ndim <= 2 and target.dim() > 1:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    expected = (*input.shape[:1], *input.shape[2:]) if ndim > 1 else ()
    if ndim > 2 and tuple(target.shape) != expected:
        raise RuntimeError(f"Expected target size {list(expected)}, got {list(target.shape)}")
    if ndim == 1 and target.numel() != 1:
        raise ValueError(
            f"For 1D input, 1D target must have size 1, but got target size: {target.numel()}"
        )
    classes = input.shape[_class_axis(input)]
    if weight is not None and tuple(weight.shape) != (classes,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {classes} classes or no classes but got "
            f"weight tensor of shape: {list(weight.shape)}"
        )


def _class_axis(input: Tensor) -> int:
    return 1 if input.dim() > 1 else 0


def _pick_class(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
    # For two dimensions the record of the op is torch's already.
    plain = weight is None and input._data.ndim == 2
    pick = _nll if plain else _nll_loss if input.dim() <= 2 else _nll_loss_2d
    try:
        return pick(input, target, weight, ignore_index, reduction)
    except IndexError as error:
        # "index 7 is out of bounds for ..."
        raise IndexError(f"Target {str(error).split()[1]} is out of bounds.") from None


def _nll(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
    classes = target if target.dtype is int64 else to_dtype(target, int64)
    if input._data.ndim == 1:
        losses = _nll(
            reshape(input, (1, -1)), reshape(classes, (1,)), weight, ignore_index, reduction
        )
        return reshape(losses, target.shape) if reduction == "none" else losses
    attrs = {"ignore": ignore_index, "reduction": reduction if weight is None else "none"}
    losses = apply(_nll_op, (input, classes), attrs)
    if weight is None:
        return losses
    ignored = ew.eq(classes, ignore_index)
    safe = ew.where(ignored, 0, classes)
    weights = reshape(index_select(weight, 0, reshape(safe, -1)), classes.shape)
    losses = ew.mul(losses, weights)
    if reduction == "none":
        return losses
    total = sum_(losses)
    if reduction == "sum":
        return total
    return ew.div(total, sum_(ew.where(ignored, 0, weights)))


_nll_loss = composite("NllLossBackward0")(_nll)
_nll_loss_2d = composite("NllLoss2DBackward0")(_nll)


@reported("aten::cross_entropy_loss")
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross entropy of softmax(input) with class numbers or class probabilities.

    Args:
        input: [N, C], [C], or [N, C, ...]: logits.
        target: class numbers without the dimension C (int64), or probabilities in the shape of `input`.
        weight: [C]: how much each class counts.
        ignore_index: a class number that counts nothing.
        label_smoothing: the part of the target that is spread over all classes.

    Raises:
        ValueError, RuntimeError: shapes, dtypes or options do not fit.
        IndexError: a class number is out of range.
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if label_smoothing == 0 and _is_plain_choice(input, target, weight):
        logs = apply(_log_softmax_op, (input,), {"axis": 1})
        return _pick_class(logs, target, None, ignore_index, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing:g}")
    if (
        input.dim()
        and target.shape == input.shape
        and not (input.dim() == 1 and target.dtype is int64)
    ):
        return _with_probabilities(input, target, weight, ignore_index, reduction, label_smoothing)
    _check_classes(input, target, weight)
    axis = _class_axis(input)
    logs = reductions.log_softmax(input, axis)
    loss = _pick_class(logs, target, weight, ignore_index, reduction)
    if not label_smoothing:
        return loss
    spread = _spread_loss(logs, target, weight, ignore_index, reduction)
    part = label_smoothing / input.shape[axis]
    return ew.add(ew.mul(loss, 1 - label_smoothing), ew.mul(spread, part))


def _class_weights(weight: Tensor, input: Tensor) -> Tensor:
    """[C] brought into the position of the class dimension."""
    return reshape(weight, (-1, *(1,) * (input.dim() - 2))) if input.dim() > 2 else weight


def _spread_loss(
    logs: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
    """The loss of a target that is equal for all classes, except for the factor 1 / C."""
    axis = _class_axis(logs)
    weighted = logs if weight is None else ew.mul(logs, _class_weights(weight, logs))
    losses = ew.neg(sum_(weighted, axis))
    classes = to_dtype(target, int64)
    if logs.dim() == 1:
        classes = reshape(classes, ())
    ignored = ew.eq(classes, ignore_index)
    losses = ew.where(ignored, 0, losses)
    if reduction != "mean":
        return reduced(losses, reduction)
    if weight is None:
        counted = to_dtype(ew.logical_not(ignored), logs.dtype)
    else:
        safe = ew.where(ignored, 0, classes)
        weights = reshape(index_select(weight, 0, reshape(safe, -1)), classes.shape)
        counted = ew.where(ignored, 0, weights)
    return ew.div(sum_(losses), sum_(counted))


def _with_probabilities(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    if not target.is_floating_point():
        if input.dim() <= 2:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        raise RuntimeError(
            "Expected floating point type for target with class probabilities, got "
            f"{target.type()[6:-6]}"
        )
    if ignore_index >= 0:
        raise RuntimeError("ignore_index is not supported for floating point target")
    axis = _class_axis(input)
    classes = input.shape[axis]
    if weight is not None and tuple(weight.shape) != (classes,):
        raise RuntimeError(
            f"cross_entropy: weight tensor should be defined either for all {classes} classes or no "
            f"classes but got weight tensor of shape: {list(weight.shape)}"
        )
    if label_smoothing:
        target = ew.add(ew.mul(target, 1 - label_smoothing), label_smoothing / classes)
    products = ew.mul(reductions.log_softmax(input, axis), target)
    if weight is not None:
        products = ew.mul(products, _class_weights(weight, input))
    losses = ew.neg(sum_(products, axis))
    return reduced(losses, reduction)
