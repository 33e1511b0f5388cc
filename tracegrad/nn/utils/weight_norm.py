"""Weight normalization by a hook: the older way, which `parametrizations.weight_norm` replaces.

A weight becomes ``weight_g * weight_v / |weight_v|``, computed before each call of its module.
"""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

from tracegrad.nn.module import Module
from tracegrad.nn.parameter import Parameter
from tracegrad.ops import elementwise as ew
from tracegrad.ops.reduction import norm
from tracegrad.tensor import Tensor

M = TypeVar("M", bound=Module)


def norm_except_dim(v: Tensor, pow: int = 2, dim: int = 0) -> Tensor:
    """The norms of all slices at the positions along `dim`; of the whole tensor, if `dim` is -1."""
    if dim == -1:
        return norm(v, pow)
    others = [axis for axis in range(v.dim()) if axis != dim]
    return norm(v, pow, dim=others, keepdim=True) if others else v.abs()


def scaled_weight(v: Tensor, g: Tensor, dim: int) -> Tensor:
    """``g * v / norm_except_dim(v, 2, dim)``."""
    return ew.mul(v, ew.div(g, norm_except_dim(v, 2, dim)))


class WeightNorm:
    """The hook."""

    def __init__(self, name: str, dim: int | None) -> None:
        self.name = name
        self.dim = -1 if dim is None else dim

    def compute_weight(self, module: Module) -> Tensor:
        """The weight, of its two parts."""
        g, v = getattr(module, self.name + "_g"), getattr(module, self.name + "_v")
        return scaled_weight(v, g, self.dim)

    def remove(self, module: Module) -> None:
        """Make the weight a parameter again."""
        weight = self.compute_weight(module)
        delattr(module, self.name)
        del module._parameters[self.name + "_g"]
        del module._parameters[self.name + "_v"]
        setattr(module, self.name, Parameter(weight.detach()))

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module))


def weight_norm(module: M, name: str = "weight", dim: int = 0) -> M:
    """Deprecated in favour of `parametrizations.weight_norm`: have a weight computed before each call.

    Args:
        dim: along which each position has a norm of its own; None for one norm.

    Raises:
        RuntimeError: this is done already.
    """
    warnings.warn(
        "`torch.nn.utils.weight_norm` is deprecated in favor of "
        "`torch.nn.utils.parametrizations.weight_norm`.",
        FutureWarning,
        stacklevel=2,
    )
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == name:
            raise RuntimeError(
                f"Cannot register two weight_norm hooks on the same parameter {name}"
            )
    hook = WeightNorm(name, dim)
    weight = getattr(module, name)
    del module._parameters[name]
    norms = norm_except_dim(weight, 2, hook.dim).detach()
    module.register_parameter(name + "_g", Parameter(norms))
    module.register_parameter(name + "_v", Parameter(weight.detach()))
    setattr(module, name, hook.compute_weight(module))
    module.register_forward_pre_hook(hook)
    return module


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Make a weight a parameter again.

    Raises:
        ValueError: `weight_norm` was not called for it.
    """
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, WeightNorm) and hook.name == name:
            hook.remove(module)
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"weight_norm of '{name}' not found in {module}")
