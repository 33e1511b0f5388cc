"""Checkpointing against torch's: outputs, gradients, random numbers, and how often the function runs."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import product
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.utils import checkpoint as tg_checkpoint

try:
    import torch
    from torch.utils import checkpoint as torch_checkpoint
except ImportError:
    torch = None


Program = Callable[[Any, Any], Any]
PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


def plain(value: Any) -> Any:
    if hasattr(value, "detach"):
        return np.asarray(value.detach().tolist())
    if isinstance(value, (tuple, list)):
        return [plain(x) for x in value]
    return value


def attempt(call: Callable[[], Any]) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = plain(call())
        except Exception as error:
            result = type(error).__name__, str(error).splitlines()[0]
    return [result, [str(w.message) for w in caught]]


def same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, np.ndarray):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), (ours, theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    else:
        assert ours == theirs


def leaf(m: Any, *values: float) -> Any:
    return m.tensor([float(v) for v in values], dtype=m.float64, requires_grad=True)


@program
def gradients_and_counts(m: Any, c: Any) -> Any:
    found = []
    for reentrant in (True, False):
        x, y, w = leaf(m, 1, 2), leaf(m, 3, 4), leaf(m, 0.5, 0.25)
        runs: list[int] = []

        def f(x: Any, y: Any, runs: list[int] = runs, w: Any = w) -> Any:
            runs.append(1)
            return (x * y).sin() * w, x.exp() * w

        a, b = c.checkpoint(f, x * 1, y, use_reentrant=reentrant)
        before = len(runs)
        (a * b + x).sum().backward()
        found.append([a, b, x.grad, y.grad, w.grad, before, len(runs)])
    return found


@program
def an_edge_that_leads_through_another(m: Any, c: Any) -> Any:
    x = leaf(m, 1, 2)
    y = x.sin()
    z = c.checkpoint(lambda x, y: x * y + y.exp(), x, y, use_reentrant=False)
    return m.autograd.grad((z * y).sum(), (x, y))


@program
def higher_derivatives(m: Any, c: Any) -> Any:
    x, w = leaf(m, 1, 2), leaf(m, 3, 0.5)
    z = c.checkpoint(lambda x: (x * w).sin() * x, x, use_reentrant=False)
    first = m.autograd.grad(z.sum(), (x, w), create_graph=True)
    second = m.autograd.grad((first[0] * first[1]).sum(), (x, w), create_graph=True)
    return first, second, m.autograd.grad(second[0].sum(), (x, w))


@program
def nested(m: Any, c: Any) -> Any:
    found = []
    for reentrant in (True, False):
        x = leaf(m, 1, 2)
        runs: list[str] = []

        def inner(x: Any, runs: list[str] = runs) -> Any:
            runs.append("inner")
            return x.sin() * x

        def outer(x: Any, runs: list[str] = runs, reentrant: bool = reentrant) -> Any:
            runs.append("outer")
            y = c.checkpoint(inner, x.exp(), use_reentrant=reentrant)
            return y * x

        z = c.checkpoint(outer, x, use_reentrant=reentrant)
        z.sum().backward()
        found.append([z, x.grad, runs])
    return found


@program
def twice_backward(m: Any, c: Any) -> Any:
    x = leaf(m, 1, 2)
    runs: list[int] = []

    def f(x: Any) -> Any:
        runs.append(1)
        return (x.sin() * x).sum()

    y = c.checkpoint(f, x, use_reentrant=False)
    y.backward(retain_graph=True)
    y.backward()
    again = attempt(lambda: y.backward())[0]
    return x.grad, len(runs), again[0]


@program
def keywords_and_containers(m: Any, c: Any) -> Any:
    x = leaf(m, 1, 2)

    def f(pair: Any, *, scale: float, other: Any = None) -> Any:
        return {"a": pair[0] * scale, "rest": [pair[1] * other, 3, None]}

    out = c.checkpoint(f, (x, x.exp()), scale=2.0, other=x, use_reentrant=False)
    (out["a"] + out["rest"][0]).sum().backward()
    return out["a"], out["rest"], x.grad


@program
def inputs_that_need_nothing(m: Any, c: Any) -> Any:
    w, x = leaf(m, 1, 2), m.tensor([3.0, 4.0], dtype=m.float64)
    y = c.checkpoint(lambda x: x * w, x, use_reentrant=False)
    y.sum().backward()
    return (
        w.grad,
        attempt(lambda: c.checkpoint(lambda x: x * w, x, use_reentrant=True)),
        c.checkpoint(lambda x: x * 2, x, use_reentrant=False).requires_grad,
    )


@program
def outputs_as_they_are(m: Any, c: Any) -> Any:
    x = leaf(m, 1, 2)
    y = x * 1
    a, b, n = c.checkpoint(lambda y: (y, y.view(2, 1), 5), y, use_reentrant=False)
    (a * b.view(2) * n).sum().backward()
    with m.no_grad():
        quiet = c.checkpoint(lambda y: y * 2, y, use_reentrant=False)
    return x.grad, quiet.requires_grad


@program
def contexts(m: Any, c: Any) -> Any:
    seen: list[str] = []

    @contextmanager
    def told(name: str) -> Iterator[None]:
        seen.append(name)
        yield
        seen.append("end of " + name)

    x = leaf(m, 1, 2)
    y = c.checkpoint(
        lambda x: seen.append("f") or x.sin(),
        x,
        use_reentrant=False,
        early_stop=False,
        context_fn=lambda: (told("forward"), told("recomputation")),
    )
    y.sum().backward()
    return seen, x.grad


@program
def choices(m: Any, c: Any) -> Any:
    x = leaf(m, 1, 2)

    def f(x: Any, **kwargs: Any) -> Any:
        return x.sin()

    y = c.checkpoint(f, x * 1, use_reentrant=True).sum()
    z = c.checkpoint(f, x * 1, use_reentrant=True).sum()
    return [
        attempt(lambda: c.checkpoint(f, x)),
        attempt(lambda: c.checkpoint_sequential([f, f], 2, x)),
        attempt(lambda: c.checkpoint(f, x, use_reentrant=True, a=1, b=2)),
        attempt(lambda: c.checkpoint(f, x, use_reentrant=True, debug=True)),
        attempt(lambda: c.checkpoint_sequential([f], 1, x, use_reentrant=False, a=1)),
        attempt(lambda: m.autograd.grad(y, x)),
        attempt(lambda: z.backward(inputs=[x])),
    ]


@program
def mismatches(m: Any, c: Any) -> Any:
    found = []
    cases = (
        lambda x: x.sin().exp(),
        lambda x: x[:1].sin(),
        lambda x: x.float().sin(),
        lambda x: x.sin(),
        lambda x: x.cos(),
        lambda x: 3,
        lambda x: [][0],
    )
    for check, later, early in product(("default", "none"), cases, (True, False)):
        turns: list[int] = []

        def f(x: Any, turns: list[int] = turns, later: Any = later) -> Any:
            turns.append(1)
            return x.sin() if len(turns) == 1 else later(x)

        x = leaf(m, 0, 0)  # Where float32 and float64 agree.
        options = {"use_reentrant": False, "determinism_check": check, "early_stop": early}
        y = c.checkpoint(f, x, **options)
        found.append([attempt(lambda y=y: y.sum().backward()), x.grad])
    return found


@program
def how_far_it_runs_again(m: Any, c: Any) -> Any:
    def runs(**options: Any) -> str:
        seen: list[str] = []

        def f(x: Any) -> Any:
            y = x.sin()
            seen.append("a")
            z = y.exp()
            seen.append("b")
            return z * 3 + 1

        x = leaf(m, 1, 2)
        c.checkpoint(f, x, use_reentrant=False, **options).sum().backward()
        return "".join(seen)

    found = [runs(), runs(early_stop=True), runs(early_stop=False)]
    for enable in (True, False):
        with c.set_checkpoint_early_stop(enable):
            found += [runs(), runs(early_stop=not enable)]
    return found


@program
def records(m: Any, c: Any) -> Any:
    found = []
    for reentrant in (True, False):
        y = c.checkpoint(lambda x: x.sin(), leaf(m, 1, 2) * 2, use_reentrant=reentrant)
        found += [y.grad_fn.name(), type(y.grad_fn).__name__, y.grad_fn.next_functions[0][0].name()]
    return found


@program
def saved_tensors_that_are_read_twice(m: Any, c: Any) -> Any:
    class Sine(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, ct: Any) -> Any:
            return ct * ctx.saved_tensors[0].cos() + 0 * ctx.saved_tensors[0]

    y = c.checkpoint(Sine.apply, leaf(m, 1, 2), use_reentrant=False)
    return attempt(lambda: y.sum().backward())[0][0]


@program
def saved_values_that_users_look_at(m: Any, c: Any) -> Any:
    runs: list[int] = []
    x = leaf(m, 1, 2)
    y = c.checkpoint(lambda x: runs.append(1) or (x * 2).exp(), x, use_reentrant=False)
    return y.grad_fn._saved_result, y.grad_fn._saved_result, runs


@program
def differentiated_inside(m: Any, c: Any) -> Any:
    def f(x: Any) -> Any:
        y = (x.sin() * x).sum()
        (found,) = m.autograd.grad(y, x, create_graph=True)
        return found * x

    x = leaf(m, 1, 2)
    y = c.checkpoint(f, x, use_reentrant=False)
    y.sum().backward()
    return y, x.grad


@program
def in_place_inside(m: Any, c: Any) -> Any:
    def f(x: Any) -> Any:
        y = x.sin()
        y.mul_(x)
        y[0] = y[1] * 2
        return y.exp()

    x = leaf(m, 1, 2)
    y = c.checkpoint(f, x, use_reentrant=False)
    y.sum().backward()
    return y, x.grad


@program
def hooks_of_the_user_inside(m: Any, c: Any) -> Any:
    log: list[str] = []

    def f(x: Any) -> Any:
        hooks = m.autograd.graph.saved_tensors_hooks(
            lambda x: log.append("pack") or x, lambda x: log.append("unpack") or x
        )
        with hooks:
            y = x.sin()
        return y.exp()

    x = leaf(m, 1, 2)
    c.checkpoint(f, x, use_reentrant=False).sum().backward()
    return x.grad, log


@program
def a_part_of_the_backward_pass(m: Any, c: Any) -> Any:
    runs: list[int] = []
    x, w = leaf(m, 1, 2), leaf(m, 3, 4)
    a, b = c.checkpoint(
        lambda x, w: runs.append(1) or (x.sin(), w.exp() * x), x, w, use_reentrant=False
    )
    first = m.autograd.grad(a.sum(), x, retain_graph=True)
    return first, m.autograd.grad(b.sum(), (x, w)), runs


@program
def contexts_that_suppress(m: Any, c: Any) -> Any:
    class Suppressing:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *exc_info: object) -> bool:
            return True

    options = {"use_reentrant": False, "context_fn": lambda: (Suppressing(), nullcontext())}
    return [
        attempt(lambda: c.checkpoint(lambda x: [][0], leaf(m, 1), **options)),
        attempt(lambda: c.checkpoint(lambda x: x.sin(), leaf(m, 1), debug=True, **options)),
    ]


@program
def sequential(m: Any, c: Any) -> Any:
    found = []
    for segments in (1, 2, 3):
        for reentrant in (True, False):
            runs: list[int] = []
            steps: list[Any] = [
                lambda x, k=k, runs=runs: runs.append(k) or (x * (k + 1)).sin() for k in range(5)
            ]
            x = leaf(m, 1, 2)
            y = c.checkpoint_sequential(steps, segments, x * 1, use_reentrant=reentrant)
            y.sum().backward()
            found.append([y, x.grad, runs])
    return found


@pytest.mark.peers
@pytest.mark.skipif(torch is None, reason="torch is not installed")
@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:None of the inputs")
@pytest.mark.parametrize("name", PROGRAMS)
def test_as_torch(name: str) -> None:
    ours = plain(PROGRAMS[name](tg, tg_checkpoint))
    theirs = plain(PROGRAMS[name](torch, torch_checkpoint))
    same(ours, theirs)


@pytest.mark.parametrize("reentrant", [True, False])
def test_random_numbers_are_drawn_again(reentrant: bool) -> None:
    drawn: list[Any] = []

    def f(x: tg.Tensor) -> tg.Tensor:
        drawn.append(tg.rand(3, dtype=tg.float64))
        return x * drawn[-1]

    tg.manual_seed(3)
    x = leaf(tg, 1, 2, 3)
    y = tg_checkpoint.checkpoint(f, x, use_reentrant=reentrant)
    following = tg.get_rng_state().tolist()
    y.sum().backward()
    assert tg.get_rng_state().tolist() == following
    np.testing.assert_array_equal(drawn[0].numpy(), drawn[1].numpy())
    np.testing.assert_array_equal(x.grad.numpy(), drawn[0].numpy())
    y = tg_checkpoint.checkpoint(f, x, use_reentrant=reentrant, preserve_rng_state=False)
    y.sum().backward()
    assert not np.array_equal(drawn[2].numpy(), drawn[3].numpy())


def test_a_module_with_dropout() -> None:
    tg.manual_seed(0)
    model = tg.nn.Sequential(
        tg.nn.Linear(4, 8), tg.nn.Dropout(0.5), tg.nn.Tanh(), tg.nn.Linear(8, 2), tg.nn.Dropout(0.5)
    )
    x = tg.randn(3, 4, requires_grad=True)
    found = []
    for checkpointed in (False, True):
        model.zero_grad()
        x.grad = None
        tg.manual_seed(5)
        y = (
            tg_checkpoint.checkpoint_sequential(model, 2, x, use_reentrant=False)
            if checkpointed
            else model(x)
        )
        (y * y).sum().backward()
        found.append([y, x.grad, *[p.grad for p in model.parameters()]])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


def test_values_of_the_first_run_are_freed() -> None:
    alive: list[Any] = []

    def f(x: tg.Tensor) -> tg.Tensor:
        y = x.sin()
        alive.append(weakref.ref(y))
        return y.exp().exp()

    y = tg_checkpoint.checkpoint(f, leaf(tg, 1, 2), use_reentrant=False)
    assert alive[0]() is None
    y.sum().backward()
    assert alive[1]() is None


def test_a_changed_argument_is_an_error() -> None:
    x = leaf(tg, 1, 2)
    y = x * 1
    z = tg_checkpoint.checkpoint(lambda y: y.sin(), y, use_reentrant=False)
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_debug_tells_the_operations() -> None:
    turns: list[int] = []

    def f(x: tg.Tensor) -> tg.Tensor:
        turns.append(1)
        return x.sin().exp().cos() if len(turns) == 1 else x.sin().exp()

    y = tg_checkpoint.checkpoint(f, leaf(tg, 1.0), use_reentrant=False, debug=True)
    with pytest.raises(tg_checkpoint.CheckpointError, match=r"cos\(torch.float64"):
        y.backward()
    with pytest.raises(ValueError, match="determinism_check"):
        tg_checkpoint.checkpoint(f, leaf(tg, 1.0), use_reentrant=False, determinism_check="all")


def test_inside_transforms() -> None:
    def f(x: tg.Tensor) -> tg.Tensor:
        return tg_checkpoint.checkpoint(lambda x: x.sin() * x, x, use_reentrant=False)

    x = leaf(tg, 1, 2).detach()
    wanted = x.cos() * x + x.sin()
    for found in (
        tg.func.grad(lambda x: f(x).sum())(x),
        tg.func.vmap(tg.func.grad(f))(x),
        tg.func.jvp(f, (x,), (tg.ones_like(x),))[1],
        tg.func.jacrev(f)(x).diagonal(),
    ):
        np.testing.assert_allclose(found.numpy(), wanted.numpy())


@pytest.mark.filterwarnings("ignore:.*runs eagerly from now on")
@pytest.mark.parametrize("reentrant", [True, False])
def test_in_compiled_functions(reentrant: bool) -> None:
    w = leaf(tg, 0.5, 2)

    def f(x: tg.Tensor) -> tg.Tensor:
        y = tg_checkpoint.checkpoint(
            lambda x: (x * w).sin() * tg.rand(2, dtype=tg.float64), x * w, use_reentrant=reentrant
        )
        w.grad = None
        y.sum().backward(retain_graph=True)
        return y

    found = []
    for function in (f, tg.compile(f)):
        tg.manual_seed(0)
        for turn in range(4):
            y = function(leaf(tg, 1, turn).detach())
            found.append((y.tolist(), w.grad.tolist()))
            y.sum().backward()
            found.append(w.grad.tolist())
    np.testing.assert_allclose(found[0][0], found[8][0])
    for a, b in zip(found[:8], found[8:], strict=True):
        np.testing.assert_allclose(a, b)
