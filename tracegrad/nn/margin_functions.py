"""Losses that ask for a margin: between pairs, triplets and rankings, and between the right class and the others.

Users reach them as ``nn.functional``. The arguments ``size_average`` and ``reduce`` are torch's old words for
`reduction`, which is "none", "sum" or "mean".
"""

from __future__ import annotations

from collections.abc import Callable

from tracegrad.dispatch import composite
from tracegrad.ir.types import int64
from tracegrad.nn.activation_functions import logsigmoid
from tracegrad.nn.loss_functions import legacy_reduction, reduced
from tracegrad.ops import elementwise as ew
from tracegrad.ops import reduction as reductions
from tracegrad.ops.creation import arange
from tracegrad.ops.distances import pairwise_distance
from tracegrad.ops.indexing import gather, index_select
from tracegrad.ops.reduction import sum as sum_
from tracegrad.ops.shaping import reshape, unsqueeze
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

_EPSILON = 1e-12


def _averaged(losses: Tensor, reduction: str) -> Tensor:
    """`losses` reduced, with the record of a mean for "mean"."""
    return reductions.mean(losses) if reduction == "mean" else reduced(losses, reduction)


@reported("aten::hinge_embedding_loss")
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """`input` where `target` is 1, and what it lacks of `margin` where that is -1; else both."""
    reduction = legacy_reduction(size_average, reduce, reduction)
    missing = ew.where(ew.ne(target, 1), ew.clamp_min(ew.rsub(input, margin), 0), 0)
    return _averaged(ew.add(missing, ew.where(ew.ne(target, -1), input, 0)), reduction)


@reported("aten::margin_ranking_loss")
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``max(0, -target * (input1 - input2) + margin)``.

    Raises:
        RuntimeError: the numbers of dimensions differ.
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if not input1.dim() == input2.dim() == target.dim():
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.size()}, input2: {input2.size()}, target: {target.size()} "
        )
    losses = ew.add(ew.mul(ew.neg(target), ew.sub(input1, input2)), margin)
    return _averaged(ew.clamp_min(losses, 0), reduction)


@reported("aten::cosine_embedding_loss")
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """1 minus the cosine where `target` is 1, what the cosine exceeds `margin` by where it is -1.

    Args:
        input1, input2: [N, D] or [D].
        target: [N] or [].

    Raises:
        RuntimeError: shapes do not fit.
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    dim = target.dim()
    if dim > 1:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if input1.dim() != dim + 1:
        raise RuntimeError(
            f"{dim}D target tensor expects {dim + 1}D input tensors, but found inputs with sizes "
            f"{list(input1.shape)} and {list(input2.shape)}."
        )
    squares = [ew.add(sum_(ew.mul(x, x), dim), _EPSILON) for x in (input1, input2)]
    cosine = ew.div(sum_(ew.mul(input1, input2), dim), ew.sqrt(ew.mul(*squares)))
    alike = ew.where(ew.eq(target, 1), ew.rsub(cosine, 1), 0)
    unlike = ew.where(ew.eq(target, -1), ew.clamp_min(ew.sub(cosine, margin), 0), 0)
    return _averaged(ew.add(alike, unlike), reduction)


def require_positive(margin: float, message: str) -> None:
    """Raises ValueError with `message` unless `margin` is positive."""
    if margin <= 0:
        raise ValueError(message)


def _triplet(
    distance: Callable[[Tensor, Tensor], Tensor],
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float,
    swap: bool,
    reduction: str,
) -> Tensor:
    dims = anchor.dim(), positive.dim(), negative.dim()
    if len(set(dims)) > 1:
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of dimensions, but "
            f"got: anchor {dims[0]}D, positive {dims[1]}D, and negative {dims[2]}D inputs"
        )
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = ew.minimum(far, distance(positive, negative))
    return _averaged(ew.clamp_min(ew.sub(ew.add(near, margin), far), 0), reduction)


@reported("aten::triplet_margin_loss")
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """What the p-norm distance of `anchor` to `negative` lacks, to exceed that to `positive` by `margin`.

    Args:
        anchor, positive, negative: [N, D] or [D].
        swap: take the distance of `positive` to `negative` where that is less.

    Raises:
        ValueError: `margin` is not positive.
        RuntimeError: the numbers of dimensions differ.
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    require_positive(margin, f"margin must be greater than 0, got {margin}")

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return pairwise_distance(x, y, p, eps)

    return _triplet(distance, anchor, positive, negative, margin, swap, reduction)


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """`triplet_margin_loss` with a distance of your own; the Euclidean one if it is None.

    Raises:
        ValueError: `margin` is not positive, or there is no such reduction.
        RuntimeError: the numbers of dimensions differ.
    """
    reduction = legacy_reduction(None, None, reduction)
    require_positive(margin, f"margin must be greater than 0, got {margin}")
    distance = pairwise_distance if distance_function is None else distance_function
    return _triplet(distance, anchor, positive, negative, margin, swap, reduction)


@composite("SoftMarginLossBackward0")
def _soft_margin(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    return reduced(ew.log1p(ew.exp(ew.mul(input, ew.neg(target)))), reduction)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``log(1 + exp(-target * input))``."""
    return _soft_margin(input, target, legacy_reduction(size_average, reduce, reduction))


def _rows_of_classes(input: Tensor) -> tuple[Tensor, int, int]:
    """`input` as [N, C], N, and C."""
    dim = input.dim()
    classes = input.shape[-1] if dim else 1
    rows = input.shape[0] if dim > 1 else 1
    return reshape(input, (rows, classes)), rows, classes


@composite("MultiMarginLossBackward0")
def _multi_margin(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    p: float,
    margin: float,
    reduction: str,
) -> Tensor:
    x, rows, classes = _rows_of_classes(input)
    right = reshape(target, (rows, 1))
    missing = ew.clamp_min(ew.rsub(ew.sub(gather(x, 1, right), x), margin), 0)
    if p == 2:
        missing = ew.square(missing)
    if weight is not None:
        missing = ew.mul(missing, reshape(index_select(weight, 0, reshape(right, -1)), (rows, 1)))
    others = ew.ne(arange(classes), right)
    losses = ew.div(sum_(ew.where(others, missing, 0), 1), float(classes))
    if reduction == "none":
        return reshape(losses, tuple(target.shape))
    return reduced(losses, reduction)


@reported("aten::multi_margin_loss")
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """What the score of the right class lacks, to exceed each other score by `margin`; to the power p, over C.

    Args:
        input: [N, C] or [C]: scores.
        target: [N] or []: numbers of classes (int64).
        p: 1 or 2.
        weight: [C]: how much each right class counts.

    Raises:
        ValueError: no such `p`, or `weight` is no vector.
        RuntimeError: shapes or dtypes do not fit, or a class number is out of range.
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    dim = input.dim()
    if dim > 2 or not input.numel():
        raise RuntimeError(
            "Expected non-empty vector or matrix with optional 0-dim batch size, but got: "
            f"{list(input.shape)}"
        )
    _, rows, classes = _rows_of_classes(input)
    if target.dim() > 1 or target.numel() != rows:
        raise RuntimeError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of input samples (batch "
            f"size). Expected target size [{rows}], but got {list(target.shape)}. Input has shape "
            f"{list(input.shape)}."
        )
    if target.dtype is not int64:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype.legacy_name}")
    if weight is not None and weight.numel() != classes:
        raise RuntimeError(
            f"inconsistent weight size, expected {classes} but got {list(weight.shape)}"
        )
    try:
        return _multi_margin(input, target, weight, p, margin, reduction)
    except (IndexError, RuntimeError) as error:
        if "out of bounds" in str(error):
            raise RuntimeError("target out of range") from None
        raise


@composite("MultilabelMarginLossBackward0")
def _multilabel_margin(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    x, rows, classes = _rows_of_classes(input)
    labels = reshape(target, (rows, classes))
    # The first negative number ends the list of labels.
    listed = ew.eq(reductions.cumsum(ew.lt(labels, 0).to(int64), 1), 0)
    safe = ew.where(listed, labels, 0)
    numbers = arange(classes)
    hits = ew.logical_and(ew.eq(unsqueeze(safe, 2), numbers), unsqueeze(listed, 2))
    wrong = ew.logical_not(reductions.any(hits, 1))
    differences = ew.sub(unsqueeze(gather(x, 1, safe), 2), unsqueeze(x, 1))
    missing = ew.clamp_min(ew.rsub(differences, 1), 0)
    counted = ew.logical_and(unsqueeze(listed, 2), unsqueeze(wrong, 1))
    losses = ew.div(sum_(ew.where(counted, missing, 0), (1, 2)), float(classes))
    if reduction == "none":
        return reshape(losses, tuple(input.shape[:-1]))
    return reduced(losses, reduction)


@reported("aten::multilabel_margin_loss")
def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """What each right score lacks, to exceed each wrong one by 1, over the number of classes.

    Args:
        input: [N, C] or [C]: scores.
        target: likewise: numbers of the right classes (int64), ended by -1. Takes N * C * C memory.

    Raises:
        RuntimeError: shapes or dtypes do not fit, or a class number is out of range.
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if input.dim() > 2 or not input.numel():
        raise RuntimeError(
            "Expected non-empty vector or matrix with optional 0-dim batch size, but got: "
            f"{list(input.shape)}"
        )
    if target.shape != input.shape:
        raise RuntimeError(
            f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}"
        )
    if target.dtype is not int64:
        raise RuntimeError(f"expected scalar type Long but found {target.dtype.legacy_name}")
    try:
        return _multilabel_margin(input, target, reduction)
    except (IndexError, RuntimeError) as error:
        if "out of bounds" in str(error):
            raise RuntimeError("argument #2 'target' is out of range") from None
        raise


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The binary cross entropy of each class of its own, averaged over the last dimension."""
    reduction = legacy_reduction(size_average, reduce, reduction)
    hit = ew.mul(target, logsigmoid(input))
    losses = ew.neg(ew.add(hit, ew.mul(ew.rsub(target, 1), logsigmoid(ew.neg(input)))))
    if weight is not None:
        losses = ew.mul(losses, weight)
    dim = input.dim() - 1
    losses = ew.div(sum_(losses, dim), input.size(dim))
    return _averaged(losses, reduction)
