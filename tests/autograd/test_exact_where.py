"""Gradients through branches that ``where`` did not take: exact zeros on request, torch's NaN otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import func
from tracegrad.autograd import exact_where, forward_ad

try:
    import torch
except ImportError:
    torch = None

Case = tuple[Callable[[Any, Any], Any], list[float], list[float], list[float]]

INF = float("inf")

CASES: dict[str, Case] = {
    # The function, where, its gradient there, and its second derivative.
    "sqrt": (lambda m, x: m.where(x > 0, x.sqrt(), 0.0), [0, 4], [0, 0.25], [0, -1 / 32]),
    "sqrt of negative": (lambda m, x: m.where(x > 0, x.sqrt(), x), [-1, 4], [1, 0.25], [0, -1 / 32]),
    "rsqrt": (lambda m, x: m.where(x > 0, x.rsqrt(), 0.0), [0, 4], [0, -1 / 16], [0, 3 / 128]),
    "reciprocal": (lambda m, x: m.where(x != 0, 1 / x, 0.0), [0, 2], [0, -0.25], [0, 0.25]),
    "division": (lambda m, x: m.where(x != 0, (x * x) / x, 0.0), [0, 2], [0, 1], [0, 0]),
    "sinc": (
        lambda m, x: m.where(x == 0, 1.0, x.sin() / x),
        [0, 2],
        [0, (2 * np.cos(2) - np.sin(2)) / 4],
        [0, -np.sin(2) / 2 - np.cos(2) / 2 + np.sin(2) / 4],
    ),
    "log": (lambda m, x: m.where(x > 0, x.log(), 0.0), [0, 2], [0, 0.5], [0, -0.25]),
    "entropy": (lambda m, x: m.where(x > 0, x * x.log(), 0.0), [0, 1], [0, 1], [0, 1]),
    "log1p": (lambda m, x: m.where(x > -1, x.log1p(), 0.0), [-1, 1], [0, 0.5], [0, -0.25]),
    "pow": (lambda m, x: m.where(x > 0, x**0.5, 0.0), [0, 4], [0, 0.25], [0, -1 / 32]),
    "negative pow": (lambda m, x: m.where(x > 0, x**-2.0, 0.0), [0, 1], [0, -2], [0, 6]),
    "pow of tensors": (lambda m, x: m.where(x > 0, x ** (x * 0 + 0.5), 0.0), [0, 4], [0, 0.25], None),
    "norm": (lambda m, x: m.where(x > 0, (x * x + 0 * x).sqrt(), 0.0), [0, 4], [0, 1], [0, 0]),
    "acos": (lambda m, x: m.where(x < 1, x.acos(), 0.0), [1, 0], [0, -1], [0, 0]),
    "exp too large": (lambda m, x: m.where(x < 100, x.exp(), x), [1000, 0], [1, 1], [0, 1]),
    "deep": (
        lambda m, x: m.where(x > 0, (x.sqrt().sqrt() + 1).log().sqrt(), 0.0), [0, 0], [0, 0], [0, 0]
    ),
    "branch on both sides": (
        lambda m, x: m.where(x > 0, x.sqrt(), (-x).sqrt() * 0 + x), [0, 4], [1, 0.25], None
    ),
}  # fmt: skip


def values(numbers: list[float]) -> tg.Tensor:
    return tg.tensor([float(v) for v in numbers], dtype=tg.float64)


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found.detach().numpy()), wanted, rtol=1e-9, atol=1e-12)


def backward(f: Any, x: tg.Tensor) -> tg.Tensor:
    x = x.detach().requires_grad_()
    f(x).sum().backward()
    assert x.grad is not None
    return x.grad


def backward_inside(f: Any, x: tg.Tensor) -> tg.Tensor:
    """A compiled function that differentiates."""
    compiled = tg.compile(lambda x: func.grad(lambda x: f(x).sum())(x))
    for _ in range(2):
        compiled(x)
    return compiled(x)


def backward_outside(f: Any, x: tg.Tensor) -> tg.Tensor:
    """A compiled function that is differentiated, the mode being on all the time."""
    compiled = tg.compile(f)
    for _ in range(2):
        backward(compiled, x)
    return backward(compiled, x)


def pushed(f: Any, x: tg.Tensor) -> tg.Tensor:
    with forward_ad.dual_level():
        y = f(forward_ad.make_dual(x, tg.ones_like(x)))
        return forward_ad.unpack_dual(y).tangent


WAYS: dict[str, Callable[[Any, tg.Tensor], tg.Tensor]] = {
    "backward": backward,
    "create_graph": lambda f, x: tg.autograd.grad(
        f(y := x.detach().requires_grad_()).sum(), y, create_graph=True
    )[0],
    "func.grad": lambda f, x: func.grad(lambda x: f(x).sum())(x),
    "vmap": lambda f, x: func.vmap(func.grad(f))(x),
    "jvp": lambda f, x: func.jvp(f, (x,), (tg.ones_like(x),))[1],
    "forward_ad": pushed,
    "jacrev": lambda f, x: func.jacrev(f)(x).diagonal(),
    "jacfwd": lambda f, x: func.jacfwd(f)(x).diagonal(),
    "jacobian": lambda f, x: tg.autograd.functional.jacobian(f, x).diagonal(),
    "compiled, inside": backward_inside,
    "compiled, outside": backward_outside,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_first_derivative(name: str, way: str) -> None:
    f, x, gradient, _ = CASES[name]
    with exact_where():
        same(WAYS[way](lambda x: f(tg, x), values(x)), gradient)


SECOND: dict[str, Callable[[Any, tg.Tensor], tg.Tensor]] = {
    "create_graph": lambda f, x: twice(f, x),
    "reverse over reverse": lambda f, x: func.jacrev(func.jacrev(f))(x).sum((1, 2)),
    "forward over reverse": lambda f, x: func.hessian(lambda x: f(x).sum())(x).diagonal(),
    "reverse over forward": lambda f, x: func.grad(lambda x: WAYS["jvp"](f, x).sum())(x),
    "compiled": lambda f, x: tg.compile(lambda x: func.hessian(lambda x: f(x).sum())(x))(
        x
    ).diagonal(),
}


def twice(f: Any, x: tg.Tensor) -> tg.Tensor:
    x = x.detach().requires_grad_()
    (first,) = tg.autograd.grad(f(x).sum(), x, create_graph=True)
    return tg.autograd.grad(first.sum(), x)[0]


@pytest.mark.parametrize("way", SECOND)
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][3] is not None])
def test_second_derivative(name: str, way: str) -> None:
    f, x, _, second = CASES[name]
    with exact_where():
        same(SECOND[way](lambda x: f(tg, x), values(x)), second)


def test_a_cotangent_that_happens_to_be_zero_is_differentiated() -> None:
    """At 0, the gradient of ``sin(x)**2 / 2`` is zero, but its derivative is one."""
    with exact_where():
        same(twice(lambda x: x.sin() ** 2 / 2, values([0.0])), [1.0])
        same(func.hessian(lambda x: (x.sin() ** 2).sum() / 2)(values([0.0])), [[1.0]])
        same(func.grad(lambda x: (x * x.detach() * 0 + x * 3).sum())(values([0.0])), [3.0])


@pytest.mark.parametrize("name", [name for name in CASES if name != "branch on both sides"])
def test_other_gradients_are_untouched(name: str) -> None:
    """Away from where a partial is infinite the mode changes no bit."""
    f, x, _, _ = CASES[name]
    point = values(x)[1:] + 0.125
    plain = [way(lambda x: f(tg, x), point).numpy() for way in (backward, twice)]
    with exact_where():
        exact = [way(lambda x: f(tg, x), point).numpy() for way in (backward, twice)]
    for a, b in zip(plain, exact, strict=True):
        np.testing.assert_array_equal(a, b)


def test_truly_infinite_gradients_stay_infinite() -> None:
    with exact_where():
        assert backward(lambda x: x.sqrt(), values([0.0])).item() == INF
        assert np.isnan(backward(lambda x: (x - 1).log() * 2, values([float("nan")])).item())


@pytest.mark.peers
@pytest.mark.skipif(torch is None, reason="torch is not installed")
@pytest.mark.parametrize("name", CASES)
def test_default_is_torch(name: str) -> None:
    f, x, _, _ = CASES[name]
    theirs = torch.tensor([float(v) for v in x], dtype=torch.float64, requires_grad=True)
    f(torch, theirs).sum().backward()
    ours = backward(lambda x: f(tg, x), values(x))
    np.testing.assert_allclose(ours.numpy(), theirs.grad.numpy(), rtol=1e-12)
    outside = backward_outside(lambda x: f(tg, x), values(x))
    np.testing.assert_allclose(outside.numpy(), theirs.grad.numpy(), rtol=1e-9)


def bad(x: tg.Tensor) -> tg.Tensor:
    return tg.where(x > 0, x.sqrt(), 0.0)


@pytest.mark.parametrize("backend", ["native", "interpreter"])
def test_what_counts_is_where_derivatives_are_computed(backend: str) -> None:
    """Compiled functions follow the mode of each backward, whatever it was when they were compiled and called."""
    compiled = tg.compile(bad) if backend == "native" else tg.compile(bad, backend=backend)
    for turn in range(3):
        for called in (False, True):
            for differentiated in (False, True):
                for function in (bad, compiled):
                    x = values([0.0, 4.0]).requires_grad_()
                    with exact_where(called):
                        y = function(x).sum()
                    with exact_where(differentiated):
                        y.backward()
                    first = 0.0 if differentiated else np.nan
                    np.testing.assert_array_equal(x.grad.numpy(), [first, 0.25], err_msg=f"{turn}")


def test_inside_of_a_compiled_function() -> None:
    @tg.compile
    def f(x: tg.Tensor) -> Any:
        with exact_where():
            exact = func.grad(lambda x: bad(x).sum())(x)
        return exact, func.grad(lambda x: bad(x).sum())(x)

    for _ in range(3):
        exact, plain = f(values([0.0, 4.0]))
        np.testing.assert_array_equal(exact.numpy(), [0.0, 0.25])
        np.testing.assert_array_equal(plain.numpy(), [np.nan, 0.25])
    assert f.stats.native == 2


def test_native_code_follows_the_mode() -> None:
    @tg.compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return func.grad(lambda x: bad(x).sum())(x)

    for turn in range(6):
        with exact_where(turn % 2 == 1):
            first = f(values([0.0, 4.0]))[0].item()
        assert first == 0.0 if turn % 2 else np.isnan(first)
    assert f.stats.native == 4


def test_nesting_decorating_and_threads() -> None:
    x = values([0.0])

    @exact_where()
    def gradient() -> float:
        return backward(bad, x).item()

    found: list[float] = []
    with exact_where():
        with exact_where(False):
            assert np.isnan(backward(bad, x).item())
        assert backward(bad, x).item() == 0.0
        thread = threading.Thread(target=lambda: found.append(backward(bad, x).item()))
        thread.start()
        thread.join()
    assert np.isnan(found[0])
    assert gradient() == 0.0
    with pytest.raises(ZeroDivisionError), exact_where():
        raise ZeroDivisionError
    assert np.isnan(backward(bad, x).item())


def test_products_with_zero() -> None:
    """``x * sqrt(x)``: in reverse mode the square root gets a cotangent of zero."""
    with exact_where():
        same(backward(lambda x: x * x.sqrt(), values([0.0, 4.0])), [0.0, 3.0])
        same(func.jacrev(lambda x: x * x.sqrt())(values([0.0, 4.0])).diagonal(), [0.0, 3.0])


def test_norms() -> None:
    x = values([0.0, 0.0]).requires_grad_()
    with exact_where():
        norm = (x * x).sum().sqrt()
        tg.where(norm > 0, norm, 0.0).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0.0, 0.0])
