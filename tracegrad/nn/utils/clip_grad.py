"""Limiting gradients: all of them by their norm as one vector, or each element by its value."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from tracegrad.grad_mode import no_grad
from tracegrad.ops import elementwise as ew
from tracegrad.ops.creation import tensor as new_tensor
from tracegrad.ops.reduction import norm
from tracegrad.ops.shaping import stack
from tracegrad.tensor import Tensor


def _as_list(parameters: Any) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        return [parameters]
    found = list(parameters)
    if not found and isinstance(parameters, Iterator):
        warnings.warn(
            "`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=3
        )
    return found


def _grads(parameters: list[Tensor]) -> list[Tensor]:
    grads = [parameter.grad for parameter in parameters]
    return [grad for grad in grads if grad is not None]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of all tensors seen as one vector.

    Raises:
        RuntimeError: it is not finite, and `error_if_nonfinite`.
    """
    parts = _as_list(tensors)
    if not parts:
        return new_tensor(0.0)
    order = float(norm_type)
    with no_grad():
        norms = [norm(part, order) for part in parts]
        total = norm(stack(norms), order)
    if error_if_nonfinite and not bool(ew.isfinite(total)):
        raise RuntimeError(
            f"The total norm of order {order} for gradients from `parameters` is non-finite, so it cannot "
            "be clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return total


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    total_norm: Tensor,
    foreach: bool | None = None,
) -> None:
    """Scale gradients in place by ``max_norm / total_norm`` where that is below 1."""
    grads = _grads(_as_list(parameters))
    if not grads:
        return
    with no_grad():
        factor = ew.clamp(ew.div(float(max_norm), ew.add(total_norm, 1e-6)), max=1.0)
        for grad in grads:
            grad.mul_(factor)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale gradients in place so that their norm, as one vector, is at most `max_norm`.

    Returns:
        The norm before.
    """
    owners = _as_list(parameters)
    total = get_total_norm(_grads(owners), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(owners, max_norm, total)
    return total


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Limit each element of the gradients to [-clip_value, clip_value], in place."""
    limit = float(clip_value)
    with no_grad():
        for grad in _grads(_as_list(parameters)):
            grad.clamp_(min=-limit, max=limit)
