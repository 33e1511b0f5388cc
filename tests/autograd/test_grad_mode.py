"""Turning the recording off and on: context managers, decorators, generators, threads."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

import tracegrad as tg

X = tg.ones(2, requires_grad=True)


def test_no_grad_as_context() -> None:
    with tg.no_grad():
        y = X * 2
        assert not tg.is_grad_enabled()
        with tg.enable_grad():
            z = X * 2
    assert not y.requires_grad
    assert y.grad_fn is None
    assert z.requires_grad
    assert tg.is_grad_enabled()


def test_instances_can_be_reused_and_nested() -> None:
    off = tg.no_grad()
    with off:
        with off:
            pass
        assert not tg.is_grad_enabled()
    assert tg.is_grad_enabled()


@pytest.mark.parametrize("decorator", [tg.no_grad(), tg.no_grad])
def test_no_grad_as_decorator(decorator: object) -> None:
    @decorator  # type: ignore[operator]
    def add(a: tg.Tensor, b: tg.Tensor) -> tg.Tensor:
        """Adds."""
        return a + b

    assert not add(X, X).requires_grad
    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    assert (X + X).requires_grad


def test_enable_grad_as_decorator() -> None:
    @tg.enable_grad()
    def double(a: tg.Tensor) -> tg.Tensor:
        return a * 2

    with tg.no_grad():
        assert double(X).requires_grad
        assert not (X * 2).requires_grad


def test_set_grad_enabled() -> None:
    with tg.set_grad_enabled(False):
        assert not (X * 2).requires_grad
    assert (X * 2).requires_grad
    try:
        tg.set_grad_enabled(False)
        assert not (X * 2).requires_grad
    finally:
        tg.set_grad_enabled(True)

    @tg.set_grad_enabled(False)
    def double(a: tg.Tensor) -> tg.Tensor:
        return a * 2

    assert tg.is_grad_enabled()
    assert not double(X).requires_grad


def test_exceptions_restore_the_mode() -> None:
    with pytest.raises(KeyError), tg.no_grad():
        raise KeyError
    assert tg.is_grad_enabled()

    @tg.no_grad()
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert tg.is_grad_enabled()


def test_generators_keep_the_mode_inside_only() -> None:
    @tg.no_grad()
    def produce() -> Generator[bool, str, str]:
        log = []
        for _ in range(2):
            try:
                got = yield tg.is_grad_enabled()
                log.append(got)
            except ValueError:
                log.append("error")
        return ",".join(map(str, log))

    generator = produce()
    assert next(generator) is False
    assert tg.is_grad_enabled()
    assert generator.send("sent") is False
    assert tg.is_grad_enabled()
    with pytest.raises(StopIteration) as stop:
        generator.throw(ValueError)
    assert stop.value.value == "sent,error"
    closed = produce()
    next(closed)
    closed.close()
    assert tg.is_grad_enabled()


def test_the_mode_belongs_to_the_thread() -> None:
    seen = []
    with tg.no_grad():
        thread = threading.Thread(target=lambda: seen.append(tg.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_results_without_history_are_leaves() -> None:
    with tg.no_grad():
        y = X * 2
    assert y.is_leaf
    y.requires_grad_()
    (y * X).sum().backward()
    assert y.grad is not None
    X.grad = None


def test_backward_runs_without_recording() -> None:
    x = tg.ones(2, requires_grad=True)
    with tg.no_grad():
        pass
    (x * x).sum().backward()
    assert not x.grad.requires_grad
    y = (x * x).sum()
    with tg.no_grad():
        y.backward()
    assert x.grad.sum().item() == 8.0
