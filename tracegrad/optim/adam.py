"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

from tracegrad.inplace import bump_version
from tracegrad.ir.ops.arithmetic import maximum
from tracegrad.ir.ops.transcendental import sqrt
from tracegrad.ir.types import float64
from tracegrad.lean import plain_type
from tracegrad.ops.arguments import to_dtype
from tracegrad.ops.creation import tensor
from tracegrad.optim.optimizer import (
    Group,
    Optimizer,
    check_at_least_zero,
    check_options,
    operands,
)
from tracegrad.tensor import Tensor


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), with decoupled weight decay as an option (Loshchilov and Hutter, 2019).

    Per step t, with gradient g, moments m and v, and parameter p::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p -= lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps)

    The corrections are computed in float64 from the step count, a float32 tensor that is counted up in place.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        check_options(lr, differentiable=differentiable, fused=fused, foreach=foreach)
        if not eps >= 0.0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        check_at_least_zero(weight_decay=weight_decay)
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        tensor_steps(self)

    def _update_group(self, group: Group) -> None:
        lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
        weight_decay, amsgrad = group["weight_decay"], group["amsgrad"]
        names = ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if amsgrad else ()))
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            own = self._start(param, names)
            changed = [param, *(own[name] for name in names)]
            decays = weight_decay != 0 and group["decoupled_weight_decay"]
            p, *moments, g = operands(
                group, changed, [grad], (2 if decays else 1, 1, 2, 1)[: len(changed)]
            )
            count = count_step(own, as_number=p is not param)
            if group["maximize"]:
                g = -g
            if decays:
                p *= 1 - lr * weight_decay
            elif weight_decay != 0:
                g = g + p * weight_decay
            mean, square = moments[:2]
            mean += (g - mean) * (1 - beta1)
            square *= beta2
            square += g * g * (1 - beta2)
            if amsgrad:
                largest = moments[2]
                largest[...] = square = maximum(largest, square)
            step_size = lr / (1.0 - beta1**count)
            correction = (1.0 - beta2**count) ** 0.5
            p -= mean / (sqrt(square) / correction + eps) * step_size


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): ``p *= 1 - lr * weight_decay``."""

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True


def count_step(own: dict[str, Any], *, as_number: bool = False) -> Any:
    """Count a step up in place; the new count as float64, so that ``beta**count`` is exact enough.

    Args:
        as_number: nobody watches, and the count is wanted as a Python number.
    """
    step = own["step"]
    if as_number and (step._plain or plain_type(step)) and step._data.flags.writeable:
        step._data += 1
        bump_version(step)
        return step._data.item()
    count = step.add_(1)
    return count.item() if as_number else to_dtype(count, float64)


def tensor_steps(optimizer: Optimizer) -> None:
    """Step counts that were saved as Python numbers become tensors."""
    for own in optimizer.state.values():
        if "step" in own and not isinstance(own["step"], Tensor):
            own["step"] = tensor(float(own["step"]))
