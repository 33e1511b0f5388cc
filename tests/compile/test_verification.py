"""``tg.compile(check=True)``: faults that are put into the code generator are found, and nothing else is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tracegrad.ir.op import registered

import tracegrad as tg

pytest.importorskip("llvmlite", reason="native code is what is checked")

Break = Callable[[str], None]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Makes native code of an op of one operand give one more than it should."""

    def break_op(name: str) -> None:
        op = registered(name)
        lower: Any = op.lower
        monkeypatch.setattr(op, "lower", lambda s, x: s.add(lower(s, x), s.like(1, x)))

    return break_op


def line_of(function: Any, text: str) -> int:
    """The line of a function's source that contains a text."""
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


def chain(x: tg.Tensor) -> tg.Tensor:
    y = x * 2
    z = y.sin()
    w = z.exp()
    return w.sum()


def test_names_the_first_wrong_node_its_line_and_both_values(broken: Break) -> None:
    broken("sin")
    f = tg.compile(chain, check=True)
    x = tg.tensor([0.0, 1.0, 2.0])
    wanted = f(x)  # Eager, and traced.
    with pytest.raises(tg.MismatchError, match="sin") as caught:
        f(x)
    error = caught.value
    assert error.node.op.name == "sin"
    assert error.line == line_of(chain, "y.sin()")
    assert "z = y.sin()" in str(error)
    np.testing.assert_allclose(error.interpreted, np.sin([0, 2, 4]), rtol=1e-6)
    np.testing.assert_allclose(error.native, np.sin([0, 2, 4]) + 1, rtol=1e-6)
    assert chain(x).item() == wanted.item()


def test_nothing_is_written_before_it_raises(broken: Break) -> None:
    broken("cos")
    weights = tg.ones(3)
    parameter = tg.ones(3, requires_grad=True)

    @tg.compile(check=True)
    def f(x: tg.Tensor) -> tg.Tensor:
        weights.mul_(2)
        noise = tg.rand(3)
        loss = (parameter * x.cos() * weights + noise).sum()
        parameter.grad = None
        loss.backward()
        return loss.detach()

    x = tg.ones(3)
    f(x)
    assert parameter.grad is not None
    before = weights.tolist(), parameter.grad.tolist(), weights._version
    random = tg.get_rng_state()
    with pytest.raises(tg.MismatchError):
        f(x)
    assert (weights.tolist(), parameter.grad.tolist(), weights._version) == before
    assert tg.equal(tg.get_rng_state(), random)


def test_updates_are_written_when_all_is_well() -> None:
    total = tg.zeros(3)

    @tg.compile(check=True)
    def f(x: tg.Tensor) -> tg.Tensor:
        total.add_(x)
        return total.sum()

    for turn in range(1, 5):
        assert f(tg.ones(3)).item() == 3 * turn
    assert total.tolist() == [4, 4, 4]
    assert f.stats.native == 3


def test_the_derivative_is_checked_as_well(broken: Break) -> None:
    broken("cos")
    f = tg.compile(lambda x: x.sin().sum(), check=True)
    x = tg.ones(3, requires_grad=True)
    f(x)
    result = f(x)
    with pytest.raises(tg.MismatchError, match="cos"):
        result.backward()
    assert x.grad is None


def test_a_guard_that_native_code_decides_wrongly(broken: Break) -> None:
    broken("neg")

    @tg.compile(check=True)
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * 2 if (-x).sum() < 0 else x

    x = tg.ones(3) / 4
    f(x)
    with pytest.raises(tg.MismatchError, match="neg"):
        f(x)


def test_check_first_compares_once_per_variant(broken: Break) -> None:
    f = tg.compile(chain, check="first")
    for n in (2, 3):
        for _ in range(3):
            f(tg.ones(n))
    assert all(variant.call is not None for variant in f.variants)  # By the fast way from now on.
    assert f.stats.native == 4
    broken("sin")
    f(tg.ones(2))  # What was compiled before is right, and is not looked at again.
    f(tg.ones(4))
    with pytest.raises(tg.MismatchError):
        f(tg.ones(4))


def test_rounding_is_no_fault() -> None:
    """Sums that cancel, and functions of their results: as wrong as any other order of adding would be."""

    @tg.compile(check=True)
    def f(x: tg.Tensor, w: tg.Tensor) -> Any:
        small = (x - x.mean()).sum()
        logits = (x @ w) * 1e3
        return small, small.sign(), (small * 1e6).sin(), logits.softmax(-1), logits.argmax(-1)

    tg.manual_seed(0)
    for _ in range(3):
        f(tg.randn(64, 100), tg.randn(100, 8))
    assert f.stats.native == 2


@pytest.mark.parametrize("check", ["always", None, 1])
def test_unknown_kinds_of_check(check: Any) -> None:
    with pytest.raises(ValueError, match="check must be False, True or 'first'"):
        tg.compile(chain, check=check)
