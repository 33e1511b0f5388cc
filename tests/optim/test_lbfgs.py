"""LBFGS against torch's, step by step, and on functions whose minimum is known."""

from __future__ import annotations

import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

OPTIONS = [
    {},
    {"line_search_fn": "strong_wolfe"},
    {"lr": 0.1, "max_iter": 3},
    {"lr": 0.5, "history_size": 2, "line_search_fn": "strong_wolfe"},
    {"max_iter": 7, "max_eval": 4, "line_search_fn": "strong_wolfe"},
    {"tolerance_grad": 1e-2, "line_search_fn": "strong_wolfe"},
    {"tolerance_change": 1e-2},
]


def rosenbrock(x: Any) -> Any:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def bowl(x: Any) -> Any:
    """Steep in one direction, with a quartic wall."""
    return (x**2).sum() + 10 * x[0] ** 2 + 0.1 * ((x - 1) ** 4).sum()


def run(lib: ModuleType, function: Any, options: dict[str, Any], steps: int = 3) -> Any:
    x = lib.tensor(np.array([0.8, 0.5, 0.3, -0.2]), requires_grad=True)
    bias = lib.zeros(2, 2, dtype=lib.float64, requires_grad=True)
    optimizer = lib.optim.LBFGS([x, bias], **options)
    calls = []

    def closure() -> Any:
        optimizer.zero_grad()
        loss = function(x) + ((bias - 0.3) ** 2).sum()
        loss.backward()
        calls.append(loss.item())
        return loss

    losses = [optimizer.step(closure).item() for _ in range(steps)]
    saved = optimizer.state_dict()
    return losses, calls, x.detach().numpy(), bias.detach().numpy(), saved


@pytest.mark.peers
@pytest.mark.parametrize("function", [bowl, rosenbrock], ids=lambda f: f.__name__)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_are_torchs(options: dict[str, Any], function: Any, torch: ModuleType) -> None:
    if function is rosenbrock and options.get("line_search_fn") is None and "lr" not in options:
        options = {**options, "lr": 0.01}  # Full steps leave the valley.
    ours, theirs = (run(lib, function, options) for lib in (tg, torch))
    assert len(ours[1]) == len(theirs[1])
    for a, b in zip(ours[:4], theirs[:4], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    a, b = (saved["state"][0] for *_, saved in (ours, theirs))
    assert set(b) - set(a) <= {"al"}  # A buffer of torch's.
    assert (a["n_iter"], a["func_evals"]) == (b["n_iter"], b["func_evals"])
    assert len(a["old_dirs"]) == len(b["old_dirs"])
    assert ours[-1]["param_groups"] == theirs[-1]["param_groups"]


def test_finds_the_minimum() -> None:
    losses, calls, x, bias, _ = run(tg, rosenbrock, {"line_search_fn": "strong_wolfe"}, 10)
    # It stops when the loss changes by less than 1e-9, which is the square of a distance.
    np.testing.assert_allclose(x, 1, atol=3e-5)
    np.testing.assert_allclose(bias, 0.3, atol=3e-5)
    assert losses[-1] < 1e-9
    assert len(calls) < 100


def test_goes_on_from_saved_state() -> None:
    x = tg.tensor([-1.0, 0.4, 0.9], dtype=tg.float64, requires_grad=True)
    twin = x.detach().clone().requires_grad_()

    def stepped(param: tg.Tensor, optimizer: tg.optim.LBFGS) -> None:
        def closure() -> tg.Tensor:
            optimizer.zero_grad()
            loss = rosenbrock(param)
            loss.backward()
            return loss

        optimizer.step(closure)

    options = {"max_iter": 3, "line_search_fn": "strong_wolfe"}
    first, second = tg.optim.LBFGS([x], **options), tg.optim.LBFGS([twin], **options)
    for optimizer, param in ((first, x), (second, twin)):
        stepped(param, optimizer)
    third = tg.optim.LBFGS([twin])
    third.load_state_dict(pickle.loads(pickle.dumps(second.state_dict())))
    stepped(x, first)
    stepped(twin, third)
    assert tg.equal(x, twin)


def test_compiled_closure_and_compiled_step() -> None:
    """A compiled closure is native; a compiled function that steps runs eagerly and says so."""
    x = tg.tensor([-1.0, 0.4], requires_grad=True)
    optimizer = tg.optim.LBFGS([x], line_search_fn="strong_wolfe")

    @tg.compile
    def closure() -> tg.Tensor:
        optimizer.zero_grad()
        loss = rosenbrock(x)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    np.testing.assert_allclose(x.detach().numpy(), 1, atol=1e-3)
    assert closure.stats.native > 5, closure.explain()

    @tg.compile
    def step() -> tg.Tensor:
        return optimizer.step(closure)

    step()
    step()
    assert step.stats.native == 0
    assert "LBFGS decides by the loss" in str(step.explain())


@pytest.mark.peers
def test_errors_are_torchs(torch: ModuleType) -> None:
    texts = []
    for lib in (tg, torch):
        x = lib.ones(2, requires_grad=True)
        found = []
        for call in (
            lambda lib=lib, x=x: lib.optim.LBFGS([x]).step(),
            lambda lib=lib, x=x: lib.optim.LBFGS([x], line_search_fn="weak").step(
                lambda: (x.sum().backward(), x.sum())[1]
            ),
        ):
            with pytest.raises((TypeError, RuntimeError)) as caught:
                call()
            found.append((type(caught.value), str(caught.value)))
        texts.append(found)
    assert texts[0] == texts[1]
