"""The base of all optimizers: parameter groups, per-parameter state, saving and loading.

A subclass defines :meth:`Optimizer._update_group`, in tensor operations only, so that a whole training step can be
traced and compiled: step counts are tensors that are updated in place, never Python numbers. Where nobody watches,
operators and ops need not be applied to the tensors, but may be applied to their arrays: see :func:`operands`.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakSet

from tracegrad.autograd.profiler import record_function
from tracegrad.grad_mode import enable_grad, no_grad, state
from tracegrad.inplace import bump_version
from tracegrad.ir.location import current_location
from tracegrad.ir.numpy_errors import quiet
from tracegrad.lean import plain_type
from tracegrad.nn.module import clear_grads
from tracegrad.nn.module_tree import type_name
from tracegrad.node import RemovableHandle, add_hook
from tracegrad.ops.creation import ones as new_ones
from tracegrad.ops.creation import zeros, zeros_like
from tracegrad.tensor import Tensor

Hook = Callable[..., Any]
Group = dict[str, Any]

stepped: WeakSet[Optimizer] = WeakSet()
"""Optimizers whose `step` was called. Not an attribute: that would be state that a step changes."""


def operands(
    group: Group, changed: Sequence[Tensor], read: Sequence[Tensor], writes: Sequence[int]
) -> list[Any]:
    """What an update rule computes with: the tensors; or their arrays, which is much faster.

    A rule that is written with Python's operators and with ops takes either, as derivative rules do. Arrays are given
    out where nobody watches, all tensors are plain and of one type, and the options are numbers.

    Args:
        group: the options.
        changed: the parameter and its state. The rule changes all of them in place.
        read: what the rule reads only.
        writes: how often the rule changes each of `changed`, which tensors count by themselves.
    """
    every = [*changed, *read]
    if state.watched:
        return every
    plain = every[0]._plain or plain_type(every[0])
    if plain is None:
        return every
    for x in every:
        if (x._plain or plain_type(x)) is not plain:
            return every
    for option in (group["lr"], *group.get("betas", ())):
        if isinstance(option, Tensor):
            return every
    for x in changed:
        if not x._data.flags.writeable:
            return every
    location = current_location()
    for x, steps in zip(changed, writes, strict=True):
        bump_version(x, location, steps)
    return [x._data for x in every]


class Optimizer:
    """Base of all optimizers, as ``torch.optim.Optimizer``.

    Args:
        params: tensors, pairs of name and tensor, or dictionaries ``{"params": ..., option: value}``.
        defaults: the options of groups that do not give them.

    Attributes:
        param_groups: dictionaries with the parameters and the options; options may be changed at any time.
        state: per parameter what the method remembers.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but "
                "got " + type_name(params)
            )
        self.defaults = defaults
        self.state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self._make_hook_tables()
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def _make_hook_tables(self) -> None:
        self._step_pre_hooks: dict[int, Hook] = {}
        self._step_post_hooks: dict[int, Hook] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {
            "defaults": self.defaults,
            "state": self.state,
            "param_groups": self.param_groups,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_step_pre_hooks" not in self.__dict__:
            self._make_hook_tables()

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join(lines) + "\n)"

    # Parameter groups.

    def add_param_group(self, param_group: Group) -> None:
        """Optimize more parameters, with options of their own.

        Raises:
            TypeError: a parameter is no tensor, or they have no order.
            ValueError: a parameter is no leaf, or is there already.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        given = param_group["params"]
        if isinstance(given, set):
            raise TypeError(
                "optimizer parameters need to be organized in ordered collections, but the ordering of "
                "tensors in sets will change between runs. Please use a list instead."
            )
        items = [given] if isinstance(given, Tensor) else list(given)
        names = [item[0] for item in items if isinstance(item, tuple)]
        if names and len(names) != len(items):
            raise ValueError(
                "all optimizer params should be with/without names. Some param names are missing"
            )
        params = [item[1] for item in items] if names else items
        for param in params:
            if not isinstance(param, Tensor):
                raise TypeError(
                    "optimizer can only optimize Tensors, but one of the params is "
                    + type_name(param)
                )
            if not (param.is_leaf or param.retains_grad):
                raise ValueError("can't optimize a non-leaf Tensor")
        param_group["params"] = params
        if names:
            param_group["param_names"] = names
        for option, default in self.defaults.items():
            param_group.setdefault(option, default)
        if len({id(param) for param in params}) != len(params):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters; in future, this will "
                "cause an error; see github.com/pytorch/pytorch/issues/40967 for more information",
                stacklevel=3,
            )
        known: set[int] = set()
        for group in self.param_groups:
            known.update(id(param) for param in group["params"])
            if ("param_names" in group) != bool(names):
                raise ValueError(
                    "all optimizer param groups should be with/without names. cannot add param group "
                    f"{'with' if names else 'without'} names to the optimizer"
                )
        if any(id(param) in known for param in params):
            raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append(param_group)

    def _region(self, method: str) -> Any:
        """What a profile calls a part of the work, as in torch: ``Optimizer.step#SGD.step``."""
        return record_function(f"Optimizer.{method}#{type(self).__name__}.{method}")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        with self._region("zero_grad"):
            for group in self.param_groups:
                clear_grads(group["params"], set_to_none)

    # Stepping.

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient.

        Args:
            closure: computes the loss and the gradients anew; called first.

        Returns:
            What the closure returned.
        """
        stepped.add(self)
        with self._region("step"):
            for hook in list(self._step_pre_hooks.values()):
                replaced = hook(self, (closure,), {})
                if replaced is not None:
                    (closure,) = replaced[0]
            loss = self._advance(closure)
            for hook in list(self._step_post_hooks.values()):
                hook(self, (closure,), {})
        return loss

    def _advance(self, closure: Callable[[], Any] | None) -> Any:
        """What a step does between its hooks; returns what the closure returned."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with no_grad(), quiet():
            for group in self.param_groups:
                self._update_group(group)
        return loss

    def _update_group(self, group: Group) -> None:
        """Update the parameters of one group. Runs without recording gradients."""
        raise NotImplementedError

    def _start(
        self, param: Tensor, names: Iterable[str], counts: bool = True, ones: Iterable[str] = ()
    ) -> dict[str, Any]:
        """The state of a parameter; zeros under the given names (and a step count, and scalars 1) at the first step.

        Not part of a trace: the new tensors are the optimizer's, and the step changes them in place.
        """
        own = self.state[param]
        if not own:
            trace, state.trace = state.trace, None
            try:
                if counts:
                    own["step"] = zeros(())
                for name in ones:
                    own[name] = new_ones(())
                for name in names:
                    own[name] = zeros_like(param)
            finally:
                state.trace = trace
        return own

    def register_step_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step."""
        return add_hook(self._step_pre_hooks, hook)

    def register_step_post_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step."""
        return add_hook(self._step_post_hooks, hook)

    # Saving and loading.

    def state_dict(self) -> dict[str, Any]:
        """The state and the options, with parameters replaced by their numbers."""
        numbers: dict[int, int] = {}
        groups = []
        start = 0
        for group in self.param_groups:
            params = group["params"]
            for position, param in enumerate(params, start):
                numbers.setdefault(id(param), position)
            start += len(params)
            packed = {key: value for key, value in group.items() if key != "params"}
            packed["params"] = [numbers[id(param)] for param in params]
            groups.append(packed)
        values = {
            numbers[id(key)] if isinstance(key, Tensor) else key: value
            for key, value in self.state.items()
        }
        return {"state": values, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over state and options that `state_dict` returned; tensors are copied.

        Raises:
            ValueError: the groups do not fit.
        """
        saved = copy.deepcopy(state_dict["param_groups"])
        groups = self.param_groups
        if len(groups) != len(saved):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(a["params"]) != len(b["params"]) for a, b in zip(groups, saved, strict=True)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of "
                "optimizer's group"
            )
        owners: dict[Any, Tensor] = {}
        for new, group in zip(saved, groups, strict=True):
            owners.update(zip(new["params"], group["params"], strict=True))
            new["params"] = group["params"]
            if "param_names" in group:
                new.setdefault("param_names", group["param_names"])
        loaded: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for key, value in state_dict["state"].items():
            if key in owners:
                loaded[owners[key]] = _adapt(owners[key], value, None)
            else:
                loaded[key] = value
        self.__setstate__({"state": loaded, "param_groups": saved})


def _adapt(param: Tensor, value: Any, key: Any) -> Any:
    """A copy of saved state; tensors but step counts take the dtype of the parameter."""
    if isinstance(value, Tensor):
        dtype = param.dtype if key != "step" and param.is_floating_point() else value.dtype
        return value.detach().to(dtype, copy=True)
    if isinstance(value, dict):
        return {k: _adapt(param, v, k) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return type(value)(_adapt(param, v, None) for v in value)
    return value


def check_options(
    lr: Any, *, differentiable: bool = False, fused: bool | None = None, foreach: bool | None = None
) -> None:
    """What all methods check of their options.

    Raises:
        ValueError, RuntimeError: as torch.
        NotImplementedError: `differentiable`.
    """
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not lr >= 0.0:
        raise ValueError(f"Invalid learning rate: {lr}")
    if fused and differentiable:
        raise RuntimeError("`fused` does not support `differentiable`")
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    if differentiable:
        raise NotImplementedError(
            "differentiable=True is not supported by tracegrad.\n"
            "Write the update in tensor operations and differentiate through it."
        )


def check_at_least_zero(**options: float) -> None:
    """Raise torch's ValueError for the first option that is negative (or NaN)."""
    for name, value in options.items():
        if not value >= 0.0:
            raise ValueError(f"Invalid {name} value: {value}")
