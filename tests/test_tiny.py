"""A smoke test of a few seconds, run before each commit: one of everything that the README promises."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tracegrad as tg

DTYPES = [tg.float32, tg.float64]


def energy(x: tg.Tensor) -> tg.Tensor:
    y = x.sin() * x
    if y.sum() > 100:
        y = y / 2
    return (y * y + x.exp()).mean()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["eager", "interpreter", "native"])
def test_gradient(dtype: tg.dtype, backend: str) -> None:
    if backend == "native":
        pytest.importorskip("llvmlite")
    function = energy if backend == "eager" else tg.compile(energy, backend=backend)
    tolerance = 1e-5 if dtype is tg.float32 else 1e-12
    for start in (0.0, 1.0):  # The second call is the compiled one.
        x = tg.linspace(start, start + 2, 9, dtype=dtype).requires_grad_()
        y = function(x)
        y.backward()
        a = x.detach().numpy().astype(np.float64)
        value = np.sin(a) * a
        slope = np.cos(a) * a + np.sin(a)
        assert y.item() == pytest.approx((value**2 + np.exp(a)).mean(), rel=tolerance)
        expected = (2 * value * slope + np.exp(a)) / a.size
        np.testing.assert_allclose(x.grad.numpy(), expected, rtol=20 * tolerance, atol=tolerance)


def test_branches_and_python_state_are_followed() -> None:
    scale = [1.0]

    @tg.compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * scale[0] if x.sum() > 0 else -x

    for value, factor in ((1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (-2.0, 1.0), (3.0, 5.0), (4.0, 5.0)):
        scale[0] = factor
        assert f(tg.tensor([value])).item() == (value * factor if value > 0 else -value)


def test_training_step_learns_and_is_compiled_once() -> None:
    pytest.importorskip("llvmlite")
    tg.manual_seed(0)
    x = tg.rand(32, 3, dtype=tg.float64)
    wanted = x @ tg.tensor([[1.0], [-2.0], [0.5]], dtype=tg.float64)
    weight = tg.zeros(3, 1, dtype=tg.float64, requires_grad=True)

    @tg.compile(fullgraph=True)
    def step(rate: tg.Tensor) -> tg.Tensor:
        weight.grad = None
        loss = ((x @ weight - wanted) ** 2).sum()
        loss.backward()
        with tg.no_grad():
            weight.sub_(weight.grad * rate)
        return loss

    rate = tg.tensor(0.02, dtype=tg.float64)
    losses = [step(rate).item() for _ in range(300)]
    assert losses[-1] < 1e-3 * losses[0]
    assert step.stats.compilations == 1
    assert step.stats.native == 299


def test_higher_derivatives() -> None:
    x = tg.tensor(0.7, dtype=tg.float64, requires_grad=True)
    first = tg.autograd.grad(x.sin(), x, create_graph=True)[0]
    second = tg.autograd.grad(first, x, create_graph=True)[0]
    (third,) = tg.autograd.grad(second, x)
    found = [value.item() for value in (first, second, third)]
    assert found == pytest.approx([math.cos(0.7), -math.sin(0.7), -math.cos(0.7)], rel=1e-15)


def test_the_ir_can_be_looked_at() -> None:
    f = tg.compile(energy)
    f(tg.ones(4))
    text = f.ir(stage="optimized")
    assert text.startswith("graph @energy(")
    assert "sin" in text
    assert "test_tiny.py:" in text
    assert "guard" in f.explain()
