"""Adagrad."""

from __future__ import annotations

from typing import Any

from tracegrad.ops import elementwise as ew
from tracegrad.ops.creation import full_like
from tracegrad.optim.adam import count_step, tensor_steps
from tracegrad.optim.optimizer import Group, Optimizer, check_at_least_zero, check_options


class Adagrad(Optimizer):
    """Adagrad (Duchi et al., 2011).

    Per step t, with gradient g, sum of squares v and parameter p::

        v += g * g
        p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(v) + eps)
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_options(lr, differentiable=differentiable, fused=fused, foreach=foreach)
        check_at_least_zero(
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
        )
        if not eps >= 0.0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        tensor_steps(self)

    def add_param_group(self, param_group: Group) -> None:
        """As `Optimizer.add_param_group`; the state begins at once."""
        super().add_param_group(param_group)
        for param in param_group["params"]:
            own = self._start(param, ())
            own["sum"] = full_like(
                param, param_group["initial_accumulator_value"], dtype=param.dtype
            )

    def _update_group(self, group: Group) -> None:
        lr, lr_decay, eps = group["lr"], group["lr_decay"], group["eps"]
        weight_decay = group["weight_decay"]
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            own = self.state[param]
            count = count_step(own)
            if group["maximize"]:
                grad = ew.neg(grad)
            if weight_decay != 0:
                grad = ew.add(grad, ew.mul(param, weight_decay))
            rate = lr
            if lr_decay != 0:
                rate = ew.div(lr, ew.add(ew.mul(ew.sub(count, 1.0), lr_decay), 1.0))
            squares = own["sum"].add_(ew.mul(grad, grad))
            change = ew.div(grad, ew.add(ew.sqrt(squares), eps))
            param.sub_(ew.mul(change, rate))
