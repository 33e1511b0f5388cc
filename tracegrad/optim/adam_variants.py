"""Relatives of Adam: Adamax, NAdam, RAdam."""

from __future__ import annotations

from typing import Any

from tracegrad.ops import elementwise as ew
from tracegrad.optim.adam import count_step, tensor_steps
from tracegrad.optim.optimizer import Group, Optimizer, check_at_least_zero, check_options
from tracegrad.tensor import Tensor


class _Moments(Optimizer):
    """What the three have in common: options with two decay rates, and a mean of the gradients."""

    def _check(self, defaults: Group) -> Group:
        check_options(defaults["lr"], differentiable=defaults["differentiable"])
        if not defaults["eps"] >= 0.0:
            raise ValueError(f"Invalid epsilon value: {defaults['eps']}")
        for index, beta in enumerate(defaults["betas"]):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        check_at_least_zero(weight_decay=defaults["weight_decay"])
        return defaults

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        tensor_steps(self)

    def _update_group(self, group: Group) -> None:
        for param in group["params"]:
            if param.grad is not None:
                self._update(group, param, param.grad)

    def _update(self, group: Group, param: Tensor, grad: Tensor) -> None:
        raise NotImplementedError


def _decayed(group: Group, param: Tensor, grad: Tensor) -> Tensor:
    """The gradient with its sign and the weight decay; a decoupled decay is applied to the parameter."""
    if group["maximize"]:
        grad = ew.neg(grad)
    if group["weight_decay"] == 0:
        return grad
    if group.get("decoupled_weight_decay", False):
        param.mul_(1 - group["lr"] * group["weight_decay"])
        return grad
    return ew.add(grad, ew.mul(param, group["weight_decay"]))


def _average(mean: Tensor, value: Tensor, beta: float) -> Tensor:
    """``mean = beta * mean + (1 - beta) * value``, in place."""
    return mean.add_(ew.mul(ew.sub(value, mean), 1 - beta))


class Adamax(_Moments):
    """Adam with the maximum norm (Kingma and Ba, 2015, section 7.1).

    Per step t, with gradient g, mean m, norm u and parameter p::

        m = beta1 * m + (1 - beta1) * g
        u = max(beta2 * u, abs(g) + eps)
        p -= lr / (1 - beta1**t) * m / u
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, self._check(defaults))

    def _update(self, group: Group, param: Tensor, grad: Tensor) -> None:
        beta1, beta2 = group["betas"]
        own = self._start(param, ("exp_avg", "exp_inf"))
        count = count_step(own)
        grad = _decayed(group, param, grad)
        mean = _average(own["exp_avg"], grad, beta1)
        norm = own["exp_inf"]
        norm.copy_(ew.maximum(ew.mul(norm, beta2), ew.add(ew.abs(grad), group["eps"])))
        rate = ew.div(group["lr"], ew.sub(1.0, ew.pow(beta1, count)))
        param.sub_(ew.mul(ew.div(mean, norm), rate))


class NAdam(_Moments):
    """Adam with Nesterov's momentum (Dozat, 2016).

    Per step t, with gradient g, moments m and v, momentum schedule mu and parameter p::

        mu(t) = beta1 * (1 - 0.96**(t * momentum_decay) / 2)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        n = mu(t + 1) * m / (1 - product of mu(1) ... mu(t + 1)) + (1 - mu(t)) * g / (1 - product of mu(1) ... mu(t))
        p -= lr * n / (sqrt(v / (1 - beta2**t)) + eps)
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        self._check(defaults)
        check_at_least_zero(momentum_decay=momentum_decay)
        super().__init__(params, defaults)

    def _update(self, group: Group, param: Tensor, grad: Tensor) -> None:
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["momentum_decay"]
        own = self._start(param, ("exp_avg", "exp_avg_sq"), ones=("mu_product",))
        count = count_step(own)
        grad = _decayed(group, param, grad)

        def momentum(steps: Tensor) -> Tensor:
            return ew.mul(ew.sub(1.0, ew.mul(ew.pow(0.96, ew.mul(steps, decay)), 0.5)), beta1)

        now, following = momentum(count), momentum(ew.add(count, 1.0))
        product = own["mu_product"].mul_(now)
        mean = _average(own["exp_avg"], grad, beta1)
        square = own["exp_avg_sq"].mul_(beta2).add_(ew.mul(ew.mul(grad, grad), 1 - beta2))
        root = ew.sqrt(ew.div(square, ew.sub(1.0, ew.pow(beta2, count))))
        root = ew.add(root, group["eps"])
        of_grad = ew.div(ew.mul(ew.sub(1.0, now), lr), ew.sub(1.0, product))
        of_mean = ew.div(ew.mul(following, lr), ew.sub(1.0, ew.mul(product, following)))
        param.sub_(ew.div(ew.mul(grad, of_grad), root))
        param.sub_(ew.div(ew.mul(mean, of_mean), root))


class RAdam(_Moments):
    """Rectified Adam (Liu et al., 2020).

    Per step t, with gradient g, moments m and v, and parameter p::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        rho = 2 / (1 - beta2) - 1 - 2 * t * beta2**t / (1 - beta2**t)
        p -= lr * m / (1 - beta1**t) * (rectification(rho) * sqrt(1 - beta2**t) / (sqrt(v) + eps) if rho > 5 else 1)
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }
        super().__init__(params, self._check(defaults))

    def _update(self, group: Group, param: Tensor, grad: Tensor) -> None:
        beta1, beta2 = group["betas"]
        own = self._start(param, ("exp_avg", "exp_avg_sq"))
        count = count_step(own)
        grad = _decayed(group, param, grad)
        mean = _average(own["exp_avg"], grad, beta1)
        square = own["exp_avg_sq"].mul_(beta2).add_(ew.mul(ew.mul(grad, grad), 1 - beta2))

        power = ew.pow(beta2, count)
        left = ew.sub(1.0, power)
        longest = 2 / (1 - beta2) - 1
        length = ew.sub(longest, ew.div(ew.mul(ew.mul(count, power), 2.0), left))
        # Both branches are computed, so that no step has to look at the count; below 5 the root is of no meaning.
        numerator = ew.mul(ew.mul(ew.sub(length, 4.0), ew.sub(length, 2.0)), longest)
        rectification = ew.sqrt(ew.div(numerator, ew.mul(length, (longest - 4) * (longest - 2))))
        adapted = ew.div(
            ew.mul(ew.sqrt(left), rectification), ew.add(ew.sqrt(square), group["eps"])
        )
        factor = ew.where(ew.gt(length, 5.0), adapted, 1.0)
        rate = ew.div(group["lr"], ew.sub(1.0, ew.pow(beta1, count)))
        param.sub_(ew.mul(ew.mul(mean, rate), factor))
