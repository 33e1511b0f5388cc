"""Losses that are negative log-likelihoods of distributions of numbers: the normal and the Poisson distribution.

Users reach them as ``nn.functional``.
"""

from __future__ import annotations

import math

from tracegrad.grad_mode import no_grad
from tracegrad.nn.loss_functions import legacy_reduction, reduced
from tracegrad.ops import elementwise as ew
from tracegrad.ops import reduction as reductions
from tracegrad.ops.creation import full_like
from tracegrad.ops.shaping import unsqueeze
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

_NEGATIVE = "var has negative entry/entries"


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """``(log(var) + (input - target)**2 / var) / 2``, the normal distribution's.

    Args:
        input: the means.
        var: the variances: a number, of the shape of `input`, or that without its last dimension, or with one
            dimension of size 1. Those below `eps` count as `eps`; their gradient is that of the formula.
        full: add ``log(2 * pi) / 2``.

    Raises:
        ValueError: `var` is negative somewhere or of another shape, or there is no such reduction.
    """
    if isinstance(var, float):
        if var < 0:
            raise ValueError(_NEGATIVE)
        var = full_like(input, var)
    elif bool(reductions.any(ew.lt(var, 0))):
        raise ValueError(_NEGATIVE)
    if var.shape != input.shape:
        if var.shape == input.shape[:-1]:
            var = unsqueeze(var, -1)
        else:
            sizes = zip(input.shape, var.shape, strict=False)
            if input.dim() != var.dim() or sum(w for v, w in sizes if v != w) != 1:
                raise ValueError("var is of incorrect size")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")
    bounded = var.clone()
    with no_grad():
        bounded.clamp_(min=eps)
    losses = ew.mul(ew.add(ew.log(bounded), ew.div(ew.square(ew.sub(input, target)), bounded)), 0.5)
    if full:
        losses = ew.add(losses, 0.5 * math.log(2 * math.pi))
    return reductions.mean(losses) if reduction == "mean" else reduced(losses, reduction)


@reported("aten::poisson_nll_loss")
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``rate - target * log(rate)``, the Poisson distribution's without ``log(target!)``.

    Args:
        input: the logarithm of the rate; the rate itself if not `log_input`, to which `eps` is added in the logarithm.
        full: add Stirling's approximation of ``log(target!)`` where `target` is above 1.
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if log_input:
        losses = ew.sub(ew.exp(input), ew.mul(target, input))
    else:
        losses = ew.sub(input, ew.mul(target, ew.log(ew.add(input, eps))))
    if full:
        entropy = ew.sub(ew.mul(target, ew.log(target)), target)
        stirling = ew.add(entropy, ew.mul(ew.log(ew.mul(target, 2 * math.pi)), 0.5))
        losses = ew.add(losses, ew.where(ew.le(target, 1), 0, stirling))
    return reductions.mean(losses) if reduction == "mean" else reduced(losses, reduction)
