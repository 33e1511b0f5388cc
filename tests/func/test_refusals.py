"""What functions that are being transformed may not do, and what they may do instead: as in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch_programs import outcome

import tracegrad as tg

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]

Function = Callable[[Any, Any], Any]

TRANSFORMS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "grad": lambda t, f: t.func.grad(lambda x: f(x).sum())(t.ones(3)),
    "grad of grad": lambda t, f: t.func.grad(
        lambda x: t.func.grad(lambda y: (f(y) * y).sum())(x).sum()
    )(t.ones(3)),
    "vjp": lambda t, f: t.func.vjp(f, t.ones(3))[1](t.ones(3))[0],
    "jvp": lambda t, f: list(t.func.jvp(f, (t.ones(3),), (t.ones(3),))),
    "jacrev": lambda t, f: t.func.jacrev(f)(t.ones(3)),
    "jacfwd": lambda t, f: t.func.jacfwd(f)(t.ones(3)),
    "vmap": lambda t, f: t.func.vmap(f)(t.ones(2, 3)),
    "vmap of grad": lambda t, f: t.func.vmap(t.func.grad(lambda x: f(x).sum()))(t.ones(2, 3)),
    "grad of vmap": lambda t, f: t.func.grad(lambda x: t.func.vmap(f)(x).sum())(t.ones(2, 3)),
}

FLAGS = (
    "(x * 2).requires_grad_()",
    "(x * 2).requires_grad_(False)",
    "x.requires_grad_()",
    "t.ones(3).requires_grad_()",
    "(x * 2).retain_grad()",
    "(x * 2).sum().backward()",
)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("text", FLAGS)
def test_asking_for_gradients(transform: str, text: str) -> None:
    """Where torch refuses it, with its words."""

    def run(t: Any, log: list[Any]) -> Any:
        def f(x: Any) -> Any:
            eval(text, {"t": t, "x": x})
            return x * 2

        return TRANSFORMS[transform](t, f)

    theirs = outcome(torch, run)
    assert isinstance(theirs[0], tuple), "torch raises an error"
    assert outcome(tg, run) == theirs


@pytest.mark.parametrize("transform", [name for name in TRANSFORMS if "vmap" not in name])
def test_what_was_made_inside_and_is_returned(transform: str) -> None:
    """A tensor that is changed in place inside and returned is differentiated, whatever was left when."""

    def run(t: Any, log: list[Any]) -> Any:
        def f(x: Any) -> Any:
            total = t.zeros(3)
            total.add_(x * x)
            total[0] *= x[1]
            return total

        return TRANSFORMS[transform](t, f)

    assert outcome(tg, run) == outcome(torch, run)


@pytest.mark.parametrize("value", ["True", "False", "1", "'a'", "None"])
@pytest.mark.parametrize(
    "target", ["t.ones(3)", "t.ones(3, requires_grad=True) * 2", "t.arange(3)"]
)
def test_flags(target: str, value: str) -> None:
    def run(t: Any, log: list[Any]) -> Any:
        x = eval(target, {"t": t})
        for change in ("x.requires_grad_({})", "setattr(x, 'requires_grad', {})"):
            try:
                eval(change.format(value), {"x": x})
            except (RuntimeError, TypeError) as error:
                log.append((type(error).__name__, str(error)))
        return x

    assert outcome(tg, run) == outcome(torch, run)
