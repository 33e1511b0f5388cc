"""Hooks of modules on gradients, compared with torch: what they see, replace and warn about."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

import tracegrad as tg
import tracegrad.nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

Hook = Callable[[Any, list[Any]], None]


def leaf(m: Any) -> Any:
    return m.tensor([1.0, 2.0], dtype=m.float64, requires_grad=True)


def constant(m: Any) -> Any:
    return m.ones(2, dtype=m.float64)


def module(m: Any, function: Callable[..., Any]) -> Any:
    class Calling(m.nn.Module):
        def forward(self, *args: Any) -> Any:
            return function(*args)

    return Calling()


def values(gradients: Any) -> Any:
    return [None if x is None else x.tolist() for x in gradients]


def full(reply: Callable[[Any], Any]) -> Hook:
    def register(mod: Any, log: list[Any]) -> None:
        def hook(_: Any, inputs: Any, outputs: Any) -> Any:
            log.append(("full", values(inputs), values(outputs)))
            return reply(inputs)

        mod.register_full_backward_hook(hook)

    return register


def pre(reply: Callable[[Any], Any]) -> Hook:
    def register(mod: Any, log: list[Any]) -> None:
        def hook(_: Any, outputs: Any) -> Any:
            log.append(("pre", values(outputs)))
            return reply(outputs)

        mod.register_full_backward_pre_hook(hook)

    return register


def legacy(reply: Callable[[Any], Any]) -> Hook:
    def register(mod: Any, log: list[Any]) -> None:
        def hook(_: Any, inputs: Any, outputs: Any) -> Any:
            log.append(("legacy", values(inputs), values(outputs)))
            return reply(inputs)

        mod.register_backward_hook(hook)

    return register


def doubled(gradients: Any) -> Any:
    return tuple(None if x is None else x * 2 for x in gradients)


HOOKS: dict[str, Hook] = {
    f"{kind.__name__}, {name}": kind(reply)
    for kind in (full, pre, legacy)
    for name, reply in {
        "looking": lambda gradients: None,
        "doubling": doubled,
        "too many": lambda gradients: gradients + gradients,
    }.items()
}
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[Any], tuple[Any, ...]]]] = {
    "one": (lambda a: a * 3, lambda m: (leaf(m),)),
    "two": (lambda a, b: a * b, lambda m: (leaf(m), leaf(m))),
    "no input requires grad": (lambda a: a, lambda m: (constant(m),)),
    "several outputs": (lambda a, b: (a * b, a + b, 3), lambda m: (leaf(m), leaf(m))),
    "a number": (lambda a, b: a * b, lambda m: (leaf(m), 5)),
    "several operations": (lambda a: (a * 2) * (a + 1), lambda m: (leaf(m),)),
    "a list": (lambda a: [a * 2], lambda m: (leaf(m),)),
}


def outcome(m: Any, run: Callable[[Any, list[Any]], Any]) -> Any:
    log: list[Any] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = run(m, log)
        except Exception as error:
            result = type(error).__name__, str(error)
    return result, log, [(w.category.__name__, str(w.message)) for w in caught]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("hook", HOOKS)
def test_gradients_at_the_boundary(hook: str, function: str) -> None:
    compute, arguments = FUNCTIONS[function]

    def run(m: Any, log: list[Any]) -> Any:
        mod = module(m, compute)
        HOOKS[hook](mod, log)
        args = arguments(m)
        out = mod(*args)
        found = out if isinstance(out, (tuple, list)) else (out,)
        for t in found:
            if isinstance(t, m.Tensor) and t.requires_grad:
                t.sum().backward(retain_graph=True)
        return [t.grad.tolist() for t in args if isinstance(t, m.Tensor) and t.requires_grad]

    if hook == "legacy, too many" and function in ("one", "a list", "several outputs"):
        pytest.skip("torch counts the number in x * 3 as an input of the operation")
    assert outcome(tg, run) == outcome(torch, run)


def test_parameters_only() -> None:
    def run(m: Any, log: list[Any]) -> Any:
        weight = leaf(m)
        mod = module(m, lambda a: a * weight)
        full(lambda gradients: None)(mod, log)
        mod(constant(m)).sum().backward()
        return weight.grad.tolist()

    assert outcome(tg, run) == outcome(torch, run)


def test_order() -> None:
    def run(m: Any, log: list[Any]) -> None:
        mod = module(m, lambda a: a * 3)
        for name in "ab":
            mod.register_full_backward_hook(lambda *_, name=name: log.append(name))
            mod.register_full_backward_pre_hook(lambda *_, name=name: log.append("pre " + name))
        mod.register_full_backward_hook(lambda *_: log.append("first"), prepend=True)
        mod.register_full_backward_pre_hook(lambda *_: log.append("pre first"), prepend=True)
        handle = mod.register_full_backward_hook(lambda *_: log.append("never"))
        handle.remove()
        mod(leaf(m)).sum().backward()

    assert outcome(tg, run) == outcome(torch, run)


@pytest.mark.parametrize("first", [True, False])
def test_both_kinds(first: bool) -> None:
    def run(m: Any, log: list[Any]) -> None:
        mod = module(m, lambda a: a)
        registered = [mod.register_full_backward_hook, mod.register_backward_hook]
        for register in registered if first else reversed(registered):
            register(print)

    assert outcome(tg, run) == outcome(torch, run)


def test_second_backward() -> None:
    def run(m: Any, log: list[Any]) -> Any:
        mod = module(m, lambda a: a * a * a)
        full(lambda gradients: None)(mod, log)
        x = leaf(m)
        (first,) = m.autograd.grad(mod(x).sum(), x, create_graph=True)
        return m.autograd.grad(first.sum(), x)[0].tolist()

    assert outcome(tg, run) == outcome(torch, run)


def test_forward_hooks_that_are_always_called() -> None:
    def run(m: Any, log: list[Any]) -> None:
        def fail(*_: Any) -> None:
            raise ValueError("in the hook")

        mod = module(m, lambda a: [][0])
        mod.register_forward_hook(lambda mod, args, out: log.append(out), always_call=True)
        mod.register_forward_hook(fail, always_call=True)
        mod.register_forward_hook(lambda *_: log.append("never"))
        mod(leaf(m))

    assert outcome(tg, run) == outcome(torch, run)


def test_a_compiled_module_with_hooks() -> None:
    mod = module(tg, lambda a: a * a)
    compiled = tg.compile(lambda a: mod(a))
    seen: list[Any] = []
    for turn in range(6):
        if turn == 3:
            mod.register_full_backward_hook(lambda _, inputs, outputs: seen.append(values(inputs)))
        x = leaf(tg)
        with warnings.catch_warnings():
            # Three refusals, since the hooks are Python code, and the function is left alone.
            warnings.simplefilter("ignore", RuntimeWarning)
            compiled(x).sum().backward()
        assert x.grad.tolist() == [2.0, 4.0]
    assert seen == [[[2.0, 4.0]]] * 3
