"""What "Extending PyTorch" says of custom Functions, beyond test_function_torch.py: the same programs in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
from torch_programs import Program, outcome  # noqa: E402

pytestmark = pytest.mark.peers

PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


def leaf(m: Any) -> Any:
    """A leaf that is a view of a plain tensor."""
    return (m.arange(6, dtype=m.float64) + 1).reshape(2, 3).requires_grad_()


def attempt(log: list[Any], *calls: Callable[[], Any]) -> None:
    """Log what each call returns, or type and first sentence of what it raises."""
    for call in calls:
        try:
            log.append(call())
        except Exception as error:
            log.append((type(error).__name__, str(error).partition("\n")[0].partition(". ")[0]))


def define(m: Any, forward: Any, backward: Any, **more: Any) -> Any:
    members = {"forward": forward, "backward": backward, **more}
    static = {k: staticmethod(v) if callable(v) else v for k, v in members.items()}
    return type("F", (m.autograd.Function,), static)


@program
def changes_what_must_not_be_changed(m: Any, log: list[Any]) -> None:
    def forward(ctx: Any, x: Any) -> Any:
        ctx.mark_dirty(x)
        return x.mul_(2)

    def two(ctx: Any, x: Any) -> Any:
        ctx.mark_dirty(x)
        return x.mul_(2), x * 2

    one = define(m, forward, lambda ctx, g: g * 2)
    pair = define(m, two, lambda ctx, g, h: g * 2)
    x = leaf(m)
    y = x * 1
    with m.no_grad():
        made_without = y[0]
    attempt(
        log,
        lambda: one.apply(x),
        lambda: one.apply(x.detach().requires_grad_()),
        lambda: one.apply(y.unbind()[0]),
        lambda: one.apply(made_without),
        lambda: pair.apply(y[0]),
        lambda: pair.apply(y),
    )


@program
def arguments_by_name(m: Any, log: list[Any]) -> Any:
    def forward(ctx: Any, x: Any, k: Any = 2, n: Any = 1) -> Any:
        log.append([k, n, list(ctx.needs_input_grad)])
        return x * k * n

    f = define(m, forward, lambda ctx, g: g * 2)
    pair = define(m, forward, lambda ctx, g: (g * 2, None))
    with_names = define(m, lambda ctx, x, **names: x * 2, lambda ctx, g: g)
    only_by_name = define(m, lambda ctx, x, *, k=2: x * k, lambda ctx, g: g)
    x = leaf(m)
    attempt(
        log,
        lambda: f.apply(x, k=3).sum().backward(),
        lambda: pair.apply(x, k=3).sum().backward(),
        lambda: pair.apply(k=3, x=x).sum().backward(),
        lambda: f.apply(x=x).sum().backward(),
        lambda: f.apply(x, n=3),
        lambda: f.apply(k=3),
        lambda: f.apply(x, x=3),
        lambda: f.apply(x, z=3),
        lambda: f.apply(x, ctx=3),
        lambda: with_names.apply(x, k=3),
        lambda: only_by_name.apply(x, k=3),
    )
    return x.grad


@program
def vmap_needs_a_rule_whatever_is_mapped(m: Any, log: list[Any]) -> None:
    f = define(
        m,
        lambda x: x**3,
        lambda ctx, g: g * 3 * ctx.saved_tensors[0] ** 2,
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    x = leaf(m).detach()[0]
    attempt(
        log,
        lambda: m.func.vmap(f.apply)(x),
        lambda: m.func.vmap(lambda _: f.apply(m.ones(3)))(x),
        lambda: m.func.jacfwd(f.apply)(x),
        lambda: m.func.jacrev(f.apply)(x),
    )


@program
def a_saved_result_that_was_changed(m: Any, log: list[Any]) -> None:
    def forward(ctx: Any, x: Any) -> Any:
        y, z = x * 2, x * 3
        ctx.save_for_backward(x, z)
        return y, z

    f = define(m, forward, lambda ctx, g, h: [*ctx.saved_tensors] and g)
    _, z = f.apply(leaf(m) * 1)
    z.add_(1)
    attempt(log, lambda: z.sum().backward())


@program
def an_older_name(m: Any, log: list[Any]) -> Any:
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * 2

    x = leaf(m)
    define(m, forward, lambda ctx, g: g * ctx.saved_variables[0]).apply(x).sum().backward()
    return x.grad


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str) -> None:
    assert outcome(tg, PROGRAMS[name]) == outcome(torch, PROGRAMS[name])
