"""RMSprop."""

from __future__ import annotations

from typing import Any

from tracegrad.ops import elementwise as ew
from tracegrad.optim.adam import tensor_steps
from tracegrad.optim.optimizer import Group, Optimizer, check_at_least_zero, check_options


class RMSprop(Optimizer):
    """RMSprop (Hinton's lecture notes); centered as Graves, 2013.

    Per step, with gradient g, mean square v, (centered) mean m, (momentum) velocity b and parameter p::

        v = alpha * v + (1 - alpha) * g * g
        d = g / (sqrt(v) + eps)                     (centered: sqrt(v - m * m))
        p -= lr * d                                 (momentum: b = momentum * b + d; p -= lr * b)
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_options(lr, differentiable=differentiable)
        if not eps >= 0.0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        check_at_least_zero(momentum=momentum, weight_decay=weight_decay, alpha=alpha)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        tensor_steps(self)

    def _update_group(self, group: Group) -> None:
        lr, alpha, eps = group["lr"], group["alpha"], group["eps"]
        weight_decay, momentum, centered = (
            group["weight_decay"],
            group["momentum"],
            group["centered"],
        )
        names = ["square_avg"]
        if momentum > 0:
            names.append("momentum_buffer")
        if centered:
            names.append("grad_avg")
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            own = self._start(param, names)
            own["step"].add_(1)
            if group["maximize"]:
                grad = ew.neg(grad)
            if weight_decay != 0:
                grad = ew.add(grad, ew.mul(param, weight_decay))
            variance = own["square_avg"]
            variance.mul_(alpha).add_(ew.mul(ew.mul(grad, grad), 1 - alpha))
            if centered:
                mean = own["grad_avg"]
                mean.add_(ew.mul(ew.sub(grad, mean), 1 - alpha))
                variance = ew.sub(variance, ew.mul(mean, mean))
            change = ew.div(grad, ew.add(ew.sqrt(variance), eps))
            if momentum > 0:
                change = own["momentum_buffer"].mul_(momentum).add_(change)
            param.sub_(ew.mul(change, lr))
