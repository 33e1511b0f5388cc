"""Rates that rise and fall, with a momentum that does the opposite."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from tracegrad.optim.lr_scheduler.base import LRScheduler, check_optimizer, per_group, set_rate
from tracegrad.optim.optimizer import Group, Optimizer


class _WithMomentum(LRScheduler):
    """A scheduler that may set the momentum too: the option `momentum`, or the first of `betas`."""

    cycle_momentum: bool
    use_beta1: bool

    def _find_momentum(self, optimizer: Optimizer) -> None:
        """Raise torch's ValueError if the optimizer has no momentum."""
        if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
            raise ValueError(
                "optimizer must support momentum or beta1 with `cycle_momentum` option enabled"
            )
        self.use_beta1 = "betas" in optimizer.defaults

    def _set_momentum(self, group: Group, value: float) -> None:
        if self.use_beta1:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value

    def _begin_momentum(self, optimizer: Optimizer, low: list[float], high: list[float]) -> None:
        for group, base, largest in zip(optimizer.param_groups, low, high, strict=True):
            self._set_momentum(group, largest)
            group["max_momentum"] = largest
            group["base_momentum"] = base


class CyclicLR(_WithMomentum):
    """Between two learning rates and back, again and again (Smith, 2017); made to be stepped after each batch.

    Args:
        base_lr, max_lr: the bounds; one, or one per group.
        step_size_up, step_size_down: the number of steps of a rise and of a fall (as many, if left out).
        mode: "triangular", or "triangular2" (each cycle half as high), or "exp_range" (times ``gamma**step``).
        scale_fn: instead of a mode: what a height is multiplied with, of the number of the cycle (from 1) or of the
            step, as `scale_mode` says: "cycle" or "iterations".
        cycle_momentum: move the momentum between `max_momentum` and `base_momentum` in the opposite direction.

    Raises:
        ValueError: there is no such mode; a list has not one value per group; the optimizer has no momentum.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float = 0.8,
        max_momentum: float = 0.9,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        base_lrs = per_group("base_lr", optimizer, base_lr)
        if last_epoch == -1:
            for lr, group in zip(base_lrs, optimizer.param_groups, strict=True):
                set_rate(group, lr)
        self.max_lrs = per_group("max_lr", optimizer, max_lr)
        up = float(step_size_up)
        self.total_size = up + (up if step_size_down is None else float(step_size_down))
        self.step_ratio = up / self.total_size
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        self.mode = mode
        self.gamma = gamma
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode
        if scale_fn is None:
            self.scale_mode = "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._find_momentum(optimizer)
            self.base_momentums = per_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = per_group("max_momentum", optimizer, max_momentum)
            if last_epoch == -1:
                self._begin_momentum(optimizer, self.base_momentums, self.max_momentums)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: float) -> float:
        """What the height of cycle (or step) `x` is multiplied with."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular2":
            return 1 / (2.0 ** (x - 1))
        return 1.0 if self.mode == "triangular" else self.gamma**x

    def _rates(self) -> list[Any]:
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        share = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        scale = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            bounds = zip(self.base_momentums, self.max_momentums, strict=True)
            for group, (low, high) in zip(self.optimizer.param_groups, bounds, strict=True):
                self._set_momentum(group, high - (high - low) * share * scale)
        return [
            low + (high - low) * share * scale
            for low, high in zip(self.base_lrs, self.max_lrs, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer; a function of the user's is left out, a callable object is saved."""
        saved = super().state_dict()
        function = saved["_scale_fn_custom"]
        as_object = function is not None and not isinstance(function, types.FunctionType)
        saved["_scale_fn_custom"] = dict(function.__dict__) if as_object else None
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        values = dict(state_dict)
        saved = values.pop("_scale_fn_custom")
        if saved is not None and self._scale_fn_custom is not None:
            self._scale_fn_custom.__dict__.update(saved)
        super().load_state_dict(values)


class _Phase(NamedTuple):
    """A part of the schedule: where it ends, and between which options of a group it goes."""

    end: float
    rates: tuple[str, str]
    momentums: tuple[str, str]


class OneCycleLR(_WithMomentum):
    """One rise and one long fall (Smith and Topin, 2019); made to be stepped after each batch.

    Args:
        max_lr: the highest rate; one, or one per group.
        total_steps: the number of steps; or `epochs` times `steps_per_epoch`.
        pct_start: the share of the steps in which the rate rises.
        anneal_strategy: "cos" or "linear".
        cycle_momentum: move the momentum from `max_momentum` to `base_momentum` and back.
        div_factor: the rate begins at ``max_lr / div_factor``.
        final_div_factor: and ends at that over this.
        three_phase: fall to the initial rate as fast as it rose, then to the final one.

    Raises:
        ValueError: no number of steps, or an option out of its range; in `step`: more steps than there are.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self.total_steps = _count_steps(total_steps, epochs, steps_per_epoch)
        if not isinstance(pct_start, float) or pct_start < 0 or pct_start > 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        self._phases = _phases(self.total_steps, pct_start, three_phase)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self._strategy = anneal_strategy
        max_lrs = per_group("max_lr", optimizer, max_lr)
        if last_epoch == -1:
            for group, highest in zip(optimizer.param_groups, max_lrs, strict=True):
                group["initial_lr"] = highest / div_factor
                group["max_lr"] = highest
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._find_momentum(optimizer)
            low = per_group("base_momentum", optimizer, base_momentum)
            high = per_group("max_momentum", optimizer, max_momentum)
            if last_epoch == -1:
                self._begin_momentum(optimizer, low, high)
        super().__init__(optimizer, last_epoch)

    def _between(self, start: float, end: float, share: float) -> float:
        if self._strategy == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    def _rates(self) -> list[Any]:
        step = self.last_epoch
        if step > self.total_steps:
            raise ValueError(
                f"Tried to step {step} times. The specified number of total steps is {self.total_steps}"
            )
        begin = 0.0
        for phase in self._phases:
            if step <= phase.end or phase is self._phases[-1]:
                break
            begin = phase.end
        share = (step - begin) / (phase.end - begin)
        rates = []
        for group in self.optimizer.param_groups:
            start, end = (group[name] for name in phase.rates)
            rates.append(self._between(start, end, share))
            if self.cycle_momentum:
                start, end = (group[name] for name in phase.momentums)
                self._set_momentum(group, self._between(start, end, share))
        return rates


def _count_steps(total: int | None, epochs: int | None, per_epoch: int | None) -> int:
    if total is not None:
        _check_positive("total_steps", total)
        return total
    if epochs is None or per_epoch is None:
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    _check_positive("epochs", epochs)
    _check_positive("steps_per_epoch", per_epoch)
    return epochs * per_epoch


def _check_positive(name: str, value: Any) -> None:
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"Expected positive integer {name}, but got {value}")


def _phases(total: int, share: float, three: bool) -> list[_Phase]:
    rising = float(share * total) - 1
    down, up = ("max_momentum", "base_momentum"), ("base_momentum", "max_momentum")
    first = _Phase(rising, ("initial_lr", "max_lr"), down)
    if not three:
        return [first, _Phase(total - 1, ("max_lr", "min_lr"), up)]
    falling = float(2 * share * total) - 2
    return [
        first,
        _Phase(falling, ("max_lr", "initial_lr"), up),
        _Phase(total - 1, ("initial_lr", "min_lr"), ("max_momentum", "max_momentum")),
    ]
