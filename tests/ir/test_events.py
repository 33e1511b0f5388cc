"""The event bus: silent without listeners, complete with them, cheap in both cases."""

from __future__ import annotations

import threading
import timeit
from collections.abc import Iterator
from typing import Any

import pytest
from tracegrad.ir import events


@pytest.fixture
def heard() -> Iterator[list[events.Event]]:
    received: list[events.Event] = []
    events.subscribe(received.append)
    yield received
    events.unsubscribe(received.append)


def test_silence() -> None:
    assert not events.active
    assert events.begin("nothing") is None
    events.end(None)
    events.record(events.OP, "nothing", 0, 1)
    with events.span("nothing", events.PASS):
        pass


def test_fields(heard: list[events.Event]) -> None:
    assert events.active
    events.record(events.OP, "aten::sin", 5, 9, [(2, 3)], None, 7, {"note": "x"})
    me = threading.get_ident()
    assert heard == [("op", "aten::sin", 5, 9, me, [(2, 3)], None, 7, {"note": "x"})]


def test_inner_events_come_first(heard: list[events.Event]) -> None:
    outer = events.begin("outer", events.COMPILE, {"nodes": 3})
    with events.span("inner", events.PASS, changed=True):
        pass
    events.end(outer)
    inner, outer_event = heard
    assert inner[:2] == ("pass", "inner")
    assert inner[8] == {"changed": True}
    assert outer_event[:2] == ("compile", "outer")
    assert outer_event[8] == {"nodes": 3}
    assert outer_event[2] <= inner[2] <= inner[3] <= outer_event[3]


def test_a_span_reports_when_its_body_raises(heard: list[events.Event]) -> None:
    with pytest.raises(KeyError), events.span("failing", events.PASS):
        raise KeyError
    assert [event[1] for event in heard] == ["failing"]


def test_what_began_before_a_listener_is_not_reported() -> None:
    token = events.begin("early")
    received: list[Any] = []
    events.subscribe(received.append)
    events.end(token)
    events.unsubscribe(received.append)
    assert received == []


def test_what_ends_after_the_listener_left_is_not_reported() -> None:
    received: list[Any] = []
    events.subscribe(received.append)
    token = events.begin("late")
    events.unsubscribe(received.append)
    events.end(token)
    assert received == []


def test_an_event_may_end_in_another_thread(heard: list[events.Event]) -> None:
    token = events.begin("handed over")
    thread = threading.Thread(target=events.end, args=(token,))
    thread.start()
    thread.join()
    (event,) = heard
    assert event[4] == threading.get_ident()
    assert event[8]["end_thread"] not in (None, threading.get_ident())


def test_several_listeners(heard: list[events.Event]) -> None:
    more: list[events.Event] = []
    events.subscribe(more.append, shapes=True)
    assert events.wants_shapes
    events.record(events.OP, "both", 0, 1)
    events.unsubscribe(more.append)
    assert not events.wants_shapes
    assert events.active
    events.record(events.OP, "one", 0, 1)
    assert [event[1] for event in heard] == ["both", "one"]
    assert [event[1] for event in more] == ["both"]


def test_unsubscribing_a_stranger() -> None:
    with pytest.raises(ValueError, match="not subscribed"):
        events.unsubscribe(print)


def test_stack_has_the_users_frames_only() -> None:
    received: list[events.Event] = []
    events.subscribe(received.append, stack=True)
    try:
        events.record(events.OP, "here", 0, 1)
        with events.span("there", events.PASS):
            pass
        events.record(events.OP, "elsewhere", 0, 1, None, "given")
    finally:
        events.unsubscribe(received.append)
    for event in received[:2]:
        assert event[6][0].function == "test_stack_has_the_users_frames_only"
        assert event[6][0].file == __file__
    assert received[0][6][0].line < received[1][6][0].line
    assert received[2][6] == "given"


def test_cost() -> None:
    """An event must cost less than 2 us, and next to nothing while nobody listens."""

    def op() -> None:
        if events.active:
            start = events.now()
            events.record(events.OP, "aten::sin", start, events.now(), None, None, 3)

    def best(number: int = 5000) -> float:
        return min(timeit.repeat(op, number=number, repeat=9)) / number

    assert best() < 0.4e-6
    received: list[events.Event] = []
    events.subscribe(received.append)
    try:
        assert best() < 2e-6
    finally:
        events.unsubscribe(received.append)
    assert len(received) == 9 * 5000
