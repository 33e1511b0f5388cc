"""Adadelta."""

from __future__ import annotations

from typing import Any

from tracegrad.ops import elementwise as ew
from tracegrad.optim.adam import tensor_steps
from tracegrad.optim.optimizer import Group, Optimizer, check_at_least_zero, check_options


class Adadelta(Optimizer):
    """Adadelta (Zeiler, 2012).

    Per step, with gradient g, mean square v, mean squared change u and parameter p::

        v = rho * v + (1 - rho) * g * g
        d = sqrt(u + eps) / sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d * d
        p -= lr * d
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_options(lr, differentiable=differentiable)
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        if not eps >= 0.0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        check_at_least_zero(weight_decay=weight_decay)
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        tensor_steps(self)

    def _update_group(self, group: Group) -> None:
        lr, rho, eps, weight_decay = (group[k] for k in ("lr", "rho", "eps", "weight_decay"))
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            own = self._start(param, ("square_avg", "acc_delta"))
            own["step"].add_(1)
            if group["maximize"]:
                grad = ew.neg(grad)
            if weight_decay != 0:
                grad = ew.add(grad, ew.mul(param, weight_decay))
            squares, changes = own["square_avg"], own["acc_delta"]
            squares.mul_(rho).add_(ew.mul(ew.mul(grad, grad), 1 - rho))
            ratio = ew.div(ew.sqrt(ew.add(changes, eps)), ew.sqrt(ew.add(squares, eps)))
            change = ew.mul(ratio, grad)
            changes.mul_(rho).add_(ew.mul(ew.mul(change, change), 1 - rho))
            param.sub_(ew.mul(change, lr))
