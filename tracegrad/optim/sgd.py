"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from tracegrad.grad_mode import state as mode
from tracegrad.optim.optimizer import (
    Group,
    Optimizer,
    check_at_least_zero,
    check_options,
    operands,
)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak, or Nesterov as Sutskever et al., 2013).

    Per step, with gradient g, velocity b and parameter p::

        g += weight_decay * p
        b = momentum * b + (1 - dampening) * g      (b = g at the first step)
        p -= lr * b                                 (nesterov: p -= lr * (g + momentum * b))
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_options(lr, differentiable=differentiable, fused=fused, foreach=foreach)
        check_at_least_zero(momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _update_group(self, group: Group) -> None:
        lr, momentum, dampening = group["lr"], group["momentum"], group["dampening"]
        weight_decay, nesterov, maximize = (
            group["weight_decay"],
            group["nesterov"],
            group["maximize"],
        )
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            own = self.state[param] if momentum != 0 else {}
            velocity = own.get("momentum_buffer")
            first = momentum != 0 and velocity is None
            if first:
                velocity = self._start(param, ("momentum_buffer",), counts=False)["momentum_buffer"]
            changed = [param] if velocity is None else [param, velocity]
            writes = (1, 1 if first and dampening != 0 else 2)[: len(changed)]
            p, *buffers, g = operands(group, changed, [grad], writes)
            if maximize:
                g = -g
            if weight_decay != 0:
                g = g + p * weight_decay
            if momentum != 0:
                (buffer,) = buffers
                if first and dampening != 0:
                    # Only here the first step differs from the others.
                    if mode.trace is not None:
                        mode.trace.give_up(
                            "the first step of SGD with dampening differs from the others"
                        )
                    buffer[...] = g
                else:
                    buffer *= momentum
                    buffer += g if dampening == 0 else g * (1 - dampening)
                g = g + buffer * momentum if nesterov else buffer
            p -= g * lr
