"""``state.watched`` is true exactly while an operation has to ask for a rare mode."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tracegrad.ir import events

import tracegrad as tg
from tracegrad import dispatch
from tracegrad.grad_mode import Rare, state


def in_a_thread(function: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("mode", Rare.names)
def test_each_rare_mode_is_watched_in_its_thread(mode: str) -> None:
    assert not state.watched
    previous = getattr(state, mode)
    setattr(state, mode, "on")
    try:
        assert state.watched
        assert not in_a_thread(lambda: state.watched)
        assert in_a_thread(lambda: getattr(state, mode)) == previous
    finally:
        setattr(state, mode, previous)
    assert not state.watched


def test_listeners_are_watched_in_all_threads() -> None:
    received: list[Any] = []
    listener = received.append
    events.subscribe(listener)
    try:
        assert state.watched
        assert in_a_thread(lambda: state.watched)
        state.trace = None
        assert state.watched
    finally:
        events.unsubscribe(listener)
    assert not state.watched
    assert not in_a_thread(lambda: state.watched)


def test_the_lean_path_is_taken_exactly_while_nobody_watches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    general: list[str] = []
    apply_watched = dispatch.apply_watched

    def counted(op: Any, operands: Any, attrs: Any) -> tg.Tensor:
        general.append(op.name)
        return apply_watched(op, operands, attrs)

    monkeypatch.setattr(dispatch, "apply_watched", counted)
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    assert (x * x).tolist() == [1.0, 4.0]
    assert general == []
    received: list[Any] = []
    listener = received.append
    events.subscribe(listener)
    try:
        y = x * x  # Arithmetic on plain tensors has a short way that reports as well.
        x.exp()
    finally:
        events.unsubscribe(listener)
    assert general == ["exp"]
    assert [event[1] for event in received] == ["aten::mul", "aten::exp"]
    assert y.tolist() == [1.0, 4.0]
    assert y.grad_fn.name() == "MulBackward0"
