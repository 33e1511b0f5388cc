"""Saved tensors that are changed, and hooks on single ones: programs run with torch as well, which must agree."""

from __future__ import annotations

import warnings
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
        result = type(error).__name__, str(error).partition("\n")[0]
    return result, plain(log)


def attempt(log: list[Any], call: Callable[[], Any]) -> None:
    try:
        log.append(call())
    except Exception as error:
        log.append((type(error).__name__, str(error).partition("\n")[0]))


# Changing what was saved.


def allowed(m: Any) -> Any:
    return m.autograd.graph.allow_mutation_on_saved_tensors()


CHANGES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "an operand": lambda m, y, z: y.sin_(),
    "a result": lambda m, y, z: z.mul_(3),
    "twice": lambda m, y, z: y.mul_(2).add_(1),
    "a part": lambda m, y, z: y[0].zero_(),
    "an item": lambda m, y, z: y.__setitem__(0, 5.0),
    "a mask": lambda m, y, z: y.__setitem__(y > 1, 5.0),
    "through a view": lambda m, y, z: y.view(2, 1).exp_(),
    "without grad": lambda m, y, z: m.no_grad()(y.zero_)(),
    "a copy": lambda m, y, z: y.copy_(m.ones(2)),
    "filled": lambda m, y, z: y.fill_(3),
    "as out": lambda m, y, z: m.no_grad()(lambda: m.add(m.ones(2), 1, out=y.detach()))(),
    "through a detached one": lambda m, y, z: y.detach().mul_(2),
    "relu": lambda m, y, z: m.nn.functional.relu(y, inplace=True),
}


def _changing(change: Callable[[Any, Any, Any], Any]) -> Program:
    def run(m: Any, log: list[Any]) -> Any:
        for first in (True, False):
            x = leaf(m)
            with allowed(m) as copies:
                y = x.clone()
                z = (y * y).exp()
                change(m, y, z)
                log.append((len(copies.cloned), len(copies.original)))
                w = (z * z).sum() + (y * y).sum()
                if first:
                    w.backward()
                else:
                    z.sum().backward(retain_graph=True)
                    w.backward()
                log.append(x.grad)
        return y, z

    return run


PROGRAMS.update({f"change: {name}": _changing(change) for name, change in CHANGES.items()})


@program
def the_copies_are_forgotten(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    with allowed(m) as copies:
        y = x.clone()
        z = (y**2).sum()
        log.append((len(copies.original), len(copies.cloned)))
        y.sin_()
        log.append((len(copies.original), len(copies.cloned)))
        z.backward()
        log.append((len(copies.original), len(copies.cloned)))
        w = (y**2).sum()
    log.append((len(copies.original), len(copies.cloned)))
    w.backward()


@program
def it_cannot_be_nested(m: Any, log: list[Any]) -> Any:
    with allowed(m), allowed(m):
        pass


@program
def it_can_be_used_again(m: Any, log: list[Any]) -> Any:
    for _ in range(2):
        attempt(log, lambda: it_cannot_be_nested(m, log))
        x = leaf(m)
        with allowed(m):
            y = x * 1
            z = y * y
            y.zero_()
            z.sum().backward()
        log.append(x.grad)


@program
def second_derivatives(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    with allowed(m):
        y = x * 1
        z = y**3
        y.zero_()
        (first,) = m.autograd.grad(z.sum(), x, create_graph=True)
        first_before = first.clone()
        first.mul_(0)
        return first_before, m.autograd.grad(first_before.sum(), x)


@program
def custom_functions(m: Any, log: list[Any]) -> Any:
    class Square(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, ct: Any) -> Any:
            return 2 * ctx.saved_tensors[0] * ct

    x = leaf(m)
    with allowed(m):
        y = x * 1
        z = Square.apply(y)
        y.zero_()
        z.sum().backward()
    return x.grad


@program
def parameters_stepped_before_backward(m: Any, log: list[Any]) -> Any:
    w = m.nn.Parameter(m.tensor([1.0, 2.0], dtype=m.float64))
    optimizer = m.optim.SGD([w], lr=0.5)
    w.grad = m.ones(2, dtype=m.float64)
    x = leaf(m)
    with allowed(m):
        z = (w * x).sum()
        optimizer.step()
        z.backward()
    return w, x.grad, w.grad


# Hooks on single saved tensors of a custom function.


def exponential(m: Any, log: list[Any], x: Any = None) -> Any:
    class Exponential(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            out = x.exp()
            ctx.save_for_backward(x, out, None)
            return out

        @staticmethod
        def backward(ctx: Any, ct: Any) -> Any:
            log.append(len(ctx._raw_saved_tensors))
            _, out, nothing = ctx.saved_tensors
            log.append((out.requires_grad, nothing))
            return ct * out

    return Exponential.apply(leaf(m) if x is None else x)


@program
def hooks_on_saved_tensors_of_custom_functions(m: Any, log: list[Any]) -> Any:
    out = exponential(m, log)
    first, second, nothing = out.grad_fn._raw_saved_tensors

    def pack(name: str) -> Any:
        return lambda x: log.append(("pack", name, x)) or x * 2

    def unpack(name: str) -> Any:
        return lambda x: log.append(("unpack", name)) or x / 2

    attempt(log, lambda: first.register_hooks(pack("a"), unpack("a")))
    attempt(log, lambda: first.register_hooks(pack("b"), unpack("b")))
    attempt(log, lambda: second.register_hooks(pack("c"), unpack("c")))
    attempt(log, lambda: nothing.register_hooks(pack("d"), unpack("d")))
    attempt(log, lambda: second.register_hooks(3, 3))
    attempt(log, lambda: out.grad_fn.saved_tensors)
    out.sum().backward()
    attempt(log, lambda: out.grad_fn._raw_saved_tensors)
    attempt(log, lambda: first.register_hooks(pack("e"), unpack("e")))


@program
def hooks_twice_by_another_object(m: Any, log: list[Any]) -> Any:
    out = exponential(m, log)
    for _ in range(2):
        attempt(log, lambda: out.grad_fn._raw_saved_tensors[0].register_hooks(id, id))


@program
def an_unpack_hook_that_returns_something_else(m: Any, log: list[Any]) -> Any:
    out = exponential(m, log)
    out.grad_fn._raw_saved_tensors[1].register_hooks(lambda x: 1, lambda x: x)
    out.sum().backward()


@program
def higher_derivatives_through_hooks(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    out = exponential(m, log, x)
    for raw in out.grad_fn._raw_saved_tensors[:2]:
        raw.register_hooks(lambda x: x * 2, lambda x: x / 2)
    (first,) = m.autograd.grad(out.sum(), x, create_graph=True)
    return first, m.autograd.grad(first.sum(), x)


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_torch(name: str) -> None:
    assert outcome(tg, PROGRAMS[name]) == outcome(torch, PROGRAMS[name])


def test_compiled_functions_copy_as_well() -> None:
    compiled = tg.compile(lambda y: y * y)
    for _ in range(4):
        x = leaf(tg)
        with tg.autograd.graph.allow_mutation_on_saved_tensors():
            y = x * 1
            z = compiled(y)
            y.zero_()
            z.sum().backward()
        assert x.grad.tolist() == [2.0, 4.0]


def test_inside_a_compiled_function() -> None:
    @tg.compile
    def run(x: Any) -> Any:
        with tg.autograd.graph.allow_mutation_on_saved_tensors():
            y = x * 1
            z = (y * y).sum()
            y.zero_()
            (found,) = tg.autograd.grad(z, x)
        return found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(5):
            assert run(leaf(tg)).tolist() == [2.0, 4.0]
