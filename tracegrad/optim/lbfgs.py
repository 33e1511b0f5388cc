"""L-BFGS: a quasi-Newton method that calls its closure several times per step.

Each step is up to `max_iter` iterations; their vectors are NumPy arrays of all parameters in one row. Start reading at
`LBFGS._minimize`. The line search is that of Nocedal and Wright, *Numerical Optimization*, algorithms 3.5 and 3.6, with
the safeguards of Schmidt's minFunc, which torch has as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tracegrad.grad_mode import enable_grad, no_grad, state
from tracegrad.ops.creation import from_numpy
from tracegrad.optim.optimizer import Optimizer, check_options
from tracegrad.tensor import Tensor

Vector = np.ndarray


class Trial(NamedTuple):
    """The objective at some distance along the direction of search."""

    step: float
    value: float
    gradient: Vector
    slope: float


class LBFGS(Optimizer):
    """Limited-memory BFGS (Liu and Nocedal, 1989), with torch's options and, step by step, its results.

    `step` needs a closure that clears the gradients, computes the loss, calls ``backward`` and returns the loss. A
    compiled function that calls `step` runs eagerly; the closure may be compiled.

    Args:
        params: tensors; a single group.
        lr: the first step along each direction (in the first iteration over the 1-norm of the gradient, if that is
            less).
        max_iter: iterations per step.
        max_eval: calls of the closure per step; ``max_iter * 5 // 4`` if left out.
        tolerance_grad: stop when no element of the gradient is larger.
        tolerance_change: stop when neither the parameters nor the loss change by more.
        history_size: how many pairs of differences are kept; memory is `history_size` times the parameters, twice.
        line_search_fn: None or "strong_wolfe".

    Raises:
        ValueError: `lr` is negative, or there are several groups.
        RuntimeError: in `step`: there is no such line search.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        check_options(lr)
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Do up to `max_iter` iterations.

        Returns:
            What the closure returned the first time.
        """
        return super().step(closure)

    def _advance(self, closure: Callable[[], Any] | None) -> Any:
        if state.trace is not None:
            state.trace.give_up("LBFGS decides by the loss how often it calls its closure")
        if closure is None:
            raise TypeError("LBFGS.step() missing 1 required positional argument: 'closure'")
        with enable_grad():
            first = closure()
        with no_grad():
            self._minimize(float(first), _Objective(closure, self.param_groups[0]["params"]))
        return first

    def _minimize(self, loss: float, objective: _Objective) -> None:
        """The iterations of one step, beginning at a loss whose gradients are there already."""
        group = self.param_groups[0]
        limit, max_eval = group["max_iter"], group["max_eval"]
        largest_change = group["tolerance_change"]
        own = self.state[group["params"][0]]
        own.setdefault("func_evals", 0)
        own.setdefault("n_iter", 0)
        own["func_evals"] += 1
        evaluations = 1
        gradient = objective.gradient()
        if abs(gradient).max(initial=0) <= group["tolerance_grad"]:
            return
        direction, step = _array(own.get("d")), own.get("t")
        history = _History.load(own, group["history_size"])
        previous, previous_loss = _array(own.get("prev_flat_grad")), own.get("prev_loss")
        for iteration in range(1, limit + 1):
            own["n_iter"] += 1
            if own["n_iter"] == 1:
                direction = -gradient
                history = _History(group["history_size"])
            else:
                history.append(gradient - previous, direction * step)
                direction = history.direction(gradient)
            previous, previous_loss = gradient, loss
            step = float(group["lr"])
            if own["n_iter"] == 1:
                step *= min(1.0, 1.0 / float(abs(gradient).sum()))
            slope = float(gradient @ direction)
            if slope > -largest_change:
                break
            used = 0
            if group["line_search_fn"] is not None:
                if group["line_search_fn"] != "strong_wolfe":
                    raise RuntimeError("only 'strong_wolfe' is supported")
                found, used = strong_wolfe(
                    objective.along(direction),
                    direction,
                    Trial(0.0, loss, gradient, slope),
                    step,
                    largest_change,
                )
                step, loss, gradient, _ = found
                objective.move(direction, step)
            else:
                objective.move(direction, step)
                if iteration != limit:
                    loss, gradient = objective.evaluate()
                    used = 1
            evaluations += used
            own["func_evals"] += used
            if (
                evaluations >= max_eval
                or abs(gradient).max(initial=0) <= group["tolerance_grad"]
                or abs(direction * step).max(initial=0) <= largest_change
                or abs(loss - previous_loss) < largest_change
            ):
                break
        own["d"], own["t"] = _tensor(direction), step
        history.save(own)
        own["prev_flat_grad"], own["prev_loss"] = _tensor(previous), previous_loss


def _array(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def _tensor(value: Any) -> Any:
    return from_numpy(value) if isinstance(value, np.ndarray) else value


class _Objective:
    """The closure as a function of all parameters in one row."""

    def __init__(self, closure: Callable[[], Any], params: list[Tensor]) -> None:
        self._closure = closure
        self._params = params

    def gradient(self) -> Vector:
        """The gradients that the last call of the closure left, in a new row."""
        rows = [
            np.zeros(p.numel(), p.dtype.np) if p.grad is None else p.grad.numpy().ravel()
            for p in self._params
        ]
        return np.concatenate(rows)

    def evaluate(self) -> tuple[float, Vector]:
        with enable_grad():
            loss = float(self._closure())
        return loss, self.gradient()

    def move(self, direction: Vector, step: float) -> None:
        """Add a multiple of a direction to the parameters, in place."""
        start = 0
        for param in self._params:
            part = direction[start : start + param.numel()].reshape(tuple(param.shape))
            param.add_(from_numpy(part.astype(param.dtype.np, copy=False)), alpha=step)
            start += param.numel()

    def along(self, direction: Vector) -> Callable[[float], Trial]:
        """The objective at a distance from here; the parameters are put back after each call."""
        here = [param.clone() for param in self._params]

        def at(step: float) -> Trial:
            self.move(direction, step)
            value, gradient = self.evaluate()
            for param, old in zip(self._params, here, strict=True):
                param.copy_(old)
            return Trial(step, value, gradient, float(gradient @ direction))

        return at


class _History:
    """The last differences of gradients (y) and of parameters (s), and what is made of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.y: list[Vector] = []
        self.s: list[Vector] = []
        self.rho: list[float] = []
        self.scale = 1.0

    def append(self, y: Vector, s: Vector) -> None:
        """Take in a pair, unless the curvature along it is not positive; the oldest one makes room."""
        curvature = float(y @ s)
        if curvature <= 1e-10:
            return
        for values in (self.y, self.s, self.rho):
            if len(values) == self.size:
                values.pop(0)
        self.y.append(y)
        self.s.append(s)
        self.rho.append(1.0 / curvature)
        self.scale = curvature / float(y @ y)

    def direction(self, gradient: Vector) -> Vector:
        """Minus the approximate inverse Hessian times the gradient (the two-loop recursion)."""
        q = -gradient
        weights = [0.0] * len(self.y)
        for i in range(len(self.y) - 1, -1, -1):
            weights[i] = float(self.s[i] @ q) * self.rho[i]
            q = q - self.y[i] * weights[i]
        r = q * self.scale
        for i in range(len(self.y)):
            r = r + self.s[i] * (weights[i] - float(self.y[i] @ r) * self.rho[i])
        return np.asarray(r, gradient.dtype)

    @classmethod
    def load(cls, own: dict[str, Any], size: int) -> _History:
        history = cls(size)
        history.y = [_array(y) for y in own.get("old_dirs", ())]
        history.s = [_array(s) for s in own.get("old_stps", ())]
        history.rho = [float(r) for r in own.get("ro", ())]
        history.scale = float(own.get("H_diag", 1.0))
        return history

    def save(self, own: dict[str, Any]) -> None:
        own["old_dirs"] = [_tensor(y) for y in self.y]
        own["old_stps"] = [_tensor(s) for s in self.s]
        own["ro"] = list(self.rho)
        own["H_diag"] = self.scale


def strong_wolfe(
    at: Callable[[float], Trial],
    direction: Vector,
    start: Trial,
    step: float,
    smallest_change: float,
    decrease: float = 1e-4,
    curvature: float = 0.9,
    limit: int = 25,
) -> tuple[Trial, int]:
    """A step along a direction of descent that fulfils the strong Wolfe conditions, or the best one found.

    Args:
        at: evaluates the objective at a step.
        direction: of the search.
        start: the objective at step 0.
        step: to try first.
        smallest_change: an interval that moves no parameter by more is not divided further.
        decrease: the value has to fall by this share of what the slope promises.
        curvature: the slope has to flatten to this share.
        limit: of evaluations, but for the first.

    Returns:
        The chosen trial, and how often the objective was evaluated.
    """
    length = float(abs(direction).max())

    def decreased(trial: Trial) -> bool:
        return trial.value <= start.value + decrease * trial.step * start.slope

    def flat(trial: Trial) -> bool:
        return abs(trial.slope) <= -curvature * start.slope

    # First an interval that holds such a step: go on until the objective rises.
    previous, trial = start, at(step)
    rounds = 0
    bracket: list[Trial] = []
    while rounds < limit:
        if not decreased(trial) or (rounds > 1 and trial.value >= previous.value):
            bracket = [previous, trial]
            break
        if flat(trial):
            return trial, rounds + 1
        if trial.slope >= 0:
            bracket = [previous, trial]
            break
        bounds = trial.step + 0.01 * (trial.step - previous.step), trial.step * 10
        step = _cubic_minimum(previous, trial, bounds)
        previous, trial = trial, at(step)
        rounds += 1
    bracket = bracket or [start, trial]

    # Then divide it.
    stuck = False
    low, high = (0, 1) if bracket[0].value <= bracket[1].value else (1, 0)
    while rounds < limit:
        first, last = sorted(t.step for t in bracket)
        if (last - first) * length < smallest_change:
            break
        step = _cubic_minimum(bracket[0], bracket[1], (first, last))
        margin = 0.1 * (last - first)
        if min(last - step, step - first) < margin:
            # Close to an end twice, or at it: keep away from it.
            if stuck or step >= last or step <= first:
                step = last - margin if abs(step - last) < abs(step - first) else first + margin
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        trial = at(step)
        rounds += 1
        if not decreased(trial) or trial.value >= bracket[low].value:
            bracket[high] = trial
            low, high = (0, 1) if bracket[0].value <= bracket[1].value else (1, 0)
            continue
        done = flat(trial)
        if not done and trial.slope * (bracket[high].step - bracket[low].step) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = trial
        if done:
            break
    return bracket[low], rounds + 1


def _cubic_minimum(a: Trial, b: Trial, bounds: tuple[float, float]) -> float:
    """The minimum between bounds of the cubic with these values and slopes (Nocedal and Wright, 3.59)."""
    lowest, highest = bounds
    if a.step > b.step:
        a, b = b, a
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step)
    square = d1**2 - a.slope * b.slope
    if not square >= 0:
        return (lowest + highest) / 2.0
    d2 = square**0.5
    step = b.step - (b.step - a.step) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    return min(max(step, lowest), highest)
