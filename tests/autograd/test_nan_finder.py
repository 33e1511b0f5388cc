"""`find_nan` names the operation, the line and what it was given: forward, backward, compiled, in transforms."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.autograd import find_nan


def leaf(*values: float) -> tg.Tensor:
    return tg.tensor(values, requires_grad=True)


def line_of(finding: Any) -> str:
    """The source line that a finding names."""
    assert finding.location is not None
    return finding.location.describe()


def test_nothing_to_find() -> None:
    with find_nan() as found:
        x = leaf(1.0, 2.0)
        (x.log() * x).sum().backward()
    assert not found.nan
    assert str(found) == "no NaN and no infinity"


def test_forward() -> None:
    with find_nan() as found:
        x = leaf(-1.0, 2.0)
        y = x * 2
        z = y.log()
        (z + 1).sum()
    assert found.nan
    assert found.forward is not None
    assert found.forward.op == "log"
    assert found.forward.node is z.grad_fn
    assert not found.forward.adjoint
    assert "z = y.log()" in line_of(found.forward)
    assert "from -2 to 4" in str(found)
    assert "1 of 2 NaN" in str(found)
    assert found.backward is None


def test_an_infinity_before_the_nan() -> None:
    with find_nan() as found:
        x = leaf(0.0, 2.0)
        y = 1 / x
        (y * 0).sum()
    assert found.forward_infinite is not None
    assert "y = 1 / x" in line_of(found.forward_infinite)
    assert found.forward is not None
    assert found.forward.op == "mul"


def test_backward() -> None:
    """sqrt has an infinite slope at 0, and where() sends a zero there."""
    with find_nan() as found:
        x = leaf(0.0, 4.0)
        root = x.sqrt()
        tg.where(x > 0, root, 0 * x).sum().backward()
    assert found.forward is None
    assert found.backward is not None
    assert found.backward.adjoint
    assert found.backward.node is root.grad_fn
    assert "root = x.sqrt()" in line_of(found.backward)
    assert "in the derivative of SqrtBackward0" in str(found)
    assert np.isnan(x.grad.numpy()[0])


def test_double_backward() -> None:
    with find_nan() as found:
        x = leaf(0.0, 4.0)
        (first,) = tg.autograd.grad((x**1.5).sum(), x, create_graph=True)
        assert not found.nan
        (first * 0).sum().backward()
    assert found.backward is not None


def test_functions_of_the_users_own() -> None:
    class Bad(tg.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor) -> tg.Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: tg.Tensor) -> tg.Tensor:
            return tg.tensor(np.full(g.shape, np.nan, np.float32))

    with find_nan() as found:
        Bad.apply(leaf(1.0, 2.0)).sum().backward()
    assert found.backward is not None
    assert found.backward.op == "BadBackward"


def in_a_module(x: tg.Tensor) -> tg.Tensor:
    net = tg.nn.Linear(2, 2)
    with tg.no_grad():
        net.weight.fill_(-1.0)
        net.bias.fill_(0.0)
    return net(x).log()


def compiled(x: tg.Tensor) -> tg.Tensor:
    f = tg.compile(lambda x: (x - 5).log())
    f(x)
    before = f.stats.eager
    result = f(x)
    assert f.stats.eager == before + 1
    return result


def under_vmap(x: tg.Tensor) -> tg.Tensor:
    return tg.vmap(lambda v: (v - 5).log())(x)


@pytest.mark.parametrize("function", [in_a_module, compiled, under_vmap])
def test_anywhere(function: Callable[[tg.Tensor], tg.Tensor]) -> None:
    with find_nan() as found:
        function(tg.tensor([[1.0, 2.0]]))
    assert found.forward is not None
    assert found.forward.op == "log"
    assert inspect.getsourcefile(function) is not None
    assert ".log()" in line_of(found.forward)


def test_it_can_be_entered_inside_a_compiled_function() -> None:
    @tg.compile
    def f(x: tg.Tensor) -> Any:
        with find_nan() as found:
            y = x.log()
        return y, found.nan

    with pytest.warns(RuntimeWarning, match="find_nan looks at every operation"):
        found = [f(tg.tensor([value]))[1] for value in (1.0, -1.0, 1.0)]
    assert found == [False, True, False]


def test_modes_nest() -> None:
    with find_nan() as outer:
        with find_nan() as inner:
            tg.tensor([-1.0]).log()
        tg.tensor([-1.0]).sqrt()
    assert inner.forward is not None
    assert inner.forward.op == "log"
    assert outer.forward is not None
    assert outer.forward.op == "sqrt"
