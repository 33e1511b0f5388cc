"""What runs where no gradient comes: custom functions and hooks, as in torch. A function `drop` has no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

Program = Callable[[Any, list[Any]], Any]
PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


def leaf(m: Any) -> Any:
    return m.tensor([1.0, 2.0], dtype=m.float64, requires_grad=True)


def plain(value: Any) -> Any:
    if isinstance(value, (tg.Tensor, torch.Tensor)):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def outcome(m: Any, run: Program) -> Any:
    log: list[Any] = []
    try:
        result = plain(run(m, log))
    except Exception as error:
        result = type(error).__name__, str(error)
    return result, log


def drop(m: Any) -> Any:
    class Drop(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, ct: Any) -> Any:
            return None

    return Drop.apply


def double(m: Any, log: list[Any], *, materialize: bool = True, several: bool = False) -> Any:
    class Double(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.set_materialize_grads(materialize)
            return (x * 2, x * 3) if several else x * 2

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            log.append(plain(gradients))
            return gradients[0]

    return Double.apply


@program
def one_output(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    drop(m)(double(m, log)(x)).sum().backward()
    return x.grad


@program
def not_materialized(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    drop(m)(double(m, log, materialize=False)(x)).sum().backward()
    return x.grad


@program
def several_outputs(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    drop(m)(double(m, log, several=True)(x)[1]).sum().backward()
    return x.grad


@program
def with_operations_between(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    a, b = (double(m, log)(x * 5) * 3).unbind()
    drop(m)(a * b).backward()
    return x.grad


@program
def with_another_path(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    y = double(m, log)(x)
    (drop(m)(y) + y).sum().backward()
    return x.grad


def watched(m: Any, log: list[Any]) -> tuple[Any, Any]:
    x = leaf(m)
    x.register_hook(lambda g: log.append(("leaf", plain(g))))
    x.register_post_accumulate_grad_hook(lambda x: log.append("accumulated"))
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: log.append(("result", plain(g))))
    y.grad_fn.register_prehook(lambda gs: log.append(("before", plain(gs))))
    y.grad_fn.register_hook(lambda gs, cts: log.append(("after", plain(gs), plain(cts))))
    accumulate = y.grad_fn.next_functions[0][0]
    accumulate.register_prehook(lambda gs: log.append(("before accumulation", plain(gs))))
    accumulate.register_hook(lambda gs, cts: log.append(("after it", plain(gs), plain(cts))))
    return x, y


@program
def hooks(m: Any, log: list[Any]) -> Any:
    x, y = watched(m, log)
    drop(m)(y).sum().backward()
    return x.grad, y.grad


@program
def hooks_when_gradients_are_asked_for(m: Any, log: list[Any]) -> Any:
    found = []
    for which in range(3):
        x, y = watched(m, log)
        w = leaf(m)
        z = (drop(m)(y) * w).sum()
        found.append(m.autograd.grad(z, [[x], [y], [w]][which], allow_unused=True))
        log.append("next")
    return found


@program
def a_hook_that_replaces(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    y = x.sin()
    y.register_hook(lambda g: m.ones(2, dtype=m.float64))
    drop(m)(y).sum().backward()


@program
def a_pre_hook_that_drops(m: Any, log: list[Any]) -> Any:
    x, y = watched(m, log)
    y.grad_fn.register_prehook(lambda gs: (None,))
    y.sum().backward()
    return x.grad, y.grad


@program
def a_pre_hook_of_a_custom_function_that_drops(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    y = double(m, log)(x)
    y.grad_fn.register_prehook(lambda gs: (None,))
    y.sum().backward()
    return x.grad


@program
def multi_grad_hooks(m: Any, log: list[Any]) -> Any:
    for mode in ("all", "any"):
        x = leaf(m)
        y = double(m, log)(x * 3)
        m.autograd.graph.register_multi_grad_hook(
            [x, y], lambda gs: log.append(plain(gs)), mode=mode
        )
        drop(m)(y).sum().backward()


@program
def in_place(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    y = x.clone()
    y.mul_(2)
    y[0].mul_(3)
    y.register_hook(lambda g: log.append(plain(g)))
    drop(m)(y).sum().backward()
    return x.grad


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_torch(name: str) -> None:
    assert outcome(tg, PROGRAMS[name]) == outcome(torch, PROGRAMS[name])
