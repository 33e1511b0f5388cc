"""In-place operations and views inside of transforms: as torch, and as the same function without them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]

Function = Callable[[Any, Any], Any]
FUNCTIONS: dict[str, Function] = {}


def program(function: Function) -> Function:
    """A function of the library and a tensor [2, 3], which returns a tensor."""
    FUNCTIONS[function.__name__] = function
    return function


@program
def accumulator_made_inside(t: Any, x: Any) -> Any:
    total = x.sum() * 0
    for row in x:
        total += (row * row).sum()
    return total


@program
def element_assigned(t: Any, x: Any) -> Any:
    y = x.clone()
    y[0] = x[1] * 2
    y[:, 1] *= x[:, 0]
    return (y * y).sum()


@program
def chain_of_views(t: Any, x: Any) -> Any:
    y = x.sin()
    y.t()[1:].mul_(x.t()[:2])
    return (y * x).sum()


@program
def through_view(t: Any, x: Any) -> Any:
    y = x * 1
    z = y.view(-1)
    z[2:4].add_(x.reshape(-1)[:2])
    z.sin_()
    return (y * y).sum()


@program
def view_used_after_base_changed(t: Any, x: Any) -> Any:
    y = x * 2
    row = y[0]
    y.mul_(x)
    return (row * row).sum() + y.sum()


@program
def two_views(t: Any, x: Any) -> Any:
    y = x * 2
    a, b = y[0], y[1]
    a.mul_(b)
    b.add_(a)
    return (y * y).sum()


@program
def zeroed(t: Any, x: Any) -> Any:
    y = x.exp()
    y[0].zero_()
    y[1].fill_(2.0)
    return (y * x).sum()


@program
def copied_into(t: Any, x: Any) -> Any:
    y = x.exp()
    y[0].copy_(x[1] ** 2)
    return (y * x).sum()


@program
def masked(t: Any, x: Any) -> Any:
    y = x.clone()
    y.masked_fill_(x > 0, 0.5)
    return (y * y).sum()


@program
def detached_shares(t: Any, x: Any) -> Any:
    y = x * 2
    z = y.detach()
    y = y.mul(x)
    return (y * z).sum()


@program
def in_no_grad(t: Any, x: Any) -> Any:
    y = x * 2
    with t.no_grad():
        y.mul_(3)
    return (y * x).sum()


def library(name: str) -> tuple[Any, Any]:
    module = importlib.import_module(name)
    return module, importlib.import_module(name + ".func")


# For a function f of one example and tensors x: [2, 3], X: [4, 2, 3].
TRANSFORMS = """
f(x)
F.grad(f)(x)
F.vmap(f)(X)
F.vmap(F.grad(f))(X)
F.grad(lambda X: F.vmap(f)(X).sum())(X)
F.jvp(f, (x,), (X[1],))[1]
F.vmap(lambda v: F.jvp(f, (x,), (v,))[1])(X)
F.jacrev(f)(x)
F.jacfwd(f)(x)
F.grad(lambda x: F.grad(f)(x).sin().sum())(x)
F.jvp(F.grad(f), (x,), (X[1],))[1]
F.vmap(F.hessian(f))(X)
""".strip().splitlines()


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_as_torch(name: str, transform: str) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    arrays = {"x": rng.normal(size=(2, 3)), "X": rng.normal(size=(4, 2, 3))}
    found = []
    for module, func in (library("torch"), library("tracegrad")):
        space = {k: module.tensor(v) for k, v in arrays.items()}
        space |= {"F": func, "f": lambda x, module=module: FUNCTIONS[name](module, x)}
        try:
            found.append(eval(transform, space).detach().numpy())
        except (RuntimeError, NotImplementedError):
            if module is tg:
                raise
            pytest.skip("torch does not support it")
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9, atol=1e-9)


def test_a_stack_does_not_fit_into_one_example() -> None:
    def f(x: tg.Tensor) -> tg.Tensor:
        total = tg.zeros(3)
        total += x
        return total

    with pytest.raises(RuntimeError, match="inplace arithmetic"):
        tg.vmap(f)(tg.ones(2, 3))


def test_what_came_from_outside_keeps_its_changes() -> None:
    """Stacks are changed where they are, and running statistics that follow under `grad` are what they were."""
    stack = tg.ones(2, 3)
    tg.vmap(lambda x: x.mul_(2))(stack)
    assert stack.tolist() == [[2.0] * 3] * 2
    assert stack._version == 1
    mean, variance = tg.zeros(2), tg.ones(2)
    x = tg.tensor([[1.0, 2.0], [3.0, 6.0]])

    def f(x: tg.Tensor) -> tg.Tensor:
        return tg.nn.functional.batch_norm(x, mean, variance, training=True, momentum=0.5).sum()

    tg.func.grad(f)(x)
    assert mean.tolist() == [1.0, 2.0]
    assert variance.tolist() == [1.5, 4.5]
    assert not mean.requires_grad
    assert mean.is_leaf


def test_version_counters_are_looked_at() -> None:
    def f(x: tg.Tensor) -> tg.Tensor:
        y = x * 2
        z = y.exp()
        z.mul_(2)
        return (z * y).sum()

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        tg.func.grad(f)(tg.ones(3))


MADE = (
    "x.new_zeros(3)",
    "x.new_ones(3)",
    "x.new_full((3,), 2.0)",
    "x.new_empty((3,)).zero_()",
    "t.zeros_like(x)",
    "t.ones_like(x)",
    "t.full_like(x, 2.0)",
    "t.empty_like(x).fill_(1.0)",
    "t.zeros_like(x * 2)",
)
MAPS = """
F.vmap(f)(X)
F.vmap(F.grad(lambda x: f(x).sum()))(X)
F.grad(lambda X: F.vmap(f)(X).sum())(X)
F.vmap(F.vmap(f))(X.expand(2, 4, 3))
F.vmap(f, in_dims=1)(X[:3].T)
F.vmap(lambda v: F.jvp(f, (v,), (v,))[1])(X)
F.vmap(F.jacrev(f))(X)
F.hessian(lambda X: F.vmap(f)(X).sum())(X)
""".strip().splitlines()


@pytest.mark.parametrize("transform", MAPS)
@pytest.mark.parametrize("made", MADE)
def test_what_is_made_for_an_example_is_there_for_each(made: str, transform: str) -> None:
    """Results may be accumulated in it, as torch's documentation of vmap advises."""
    pytest.importorskip("torch")
    array = np.random.default_rng(3).normal(size=(4, 3))
    found = []
    for module, func in (library("torch"), library("tracegrad")):

        def f(x: Any, module: Any = module) -> Any:
            total = eval(made, {"t": module, "x": x})
            total += x * x
            total[0] = x[1]
            return total * x

        space = {"X": module.tensor(array), "F": func, "f": f}
        found.append(eval(transform, space).detach().numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9, atol=1e-9)
