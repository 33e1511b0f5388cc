"""The profiler's overhead: bounded when on; when off, none of its code runs."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from tracegrad.ir import events

import tracegrad as tg
from tracegrad import reporting
from tracegrad.autograd.profiler import profile

from .profiling import measure, measure_off, work

# It is about 1 us on an idle machine; this leaves room for busy ones.
LIMIT_US = 4.0


def test_overhead_of_an_operation() -> None:
    for piece in work(200)[:3]:
        more = []
        for _ in range(5):
            found = measure(piece, rounds=5)
            more.append(found["on"] - found["off"])
        assert min(more) < LIMIT_US, piece.name


def test_overhead_when_off() -> None:
    for name in ("reading the flag", "a label"):
        assert min(measure_off(rounds=5)[name] for _ in range(5)) < 1, name


def test_nothing_runs_when_off() -> None:
    """Of the modules that report; but for the wrapper of functions that have a label."""
    model = tg.nn.Sequential(tg.nn.Linear(2, 3), tg.nn.ReLU())
    optimizer = tg.optim.SGD(model.parameters(), lr=0.1)
    x = tg.ones(4, 2, requires_grad=True)
    step = tg.compile(lambda x: (x * x).sum())

    def run() -> None:
        optimizer.zero_grad()
        (model(x).sin().sum() + step(x)).backward()
        optimizer.step()

    for _ in range(3):
        run()
    seen: set[tuple[str, str]] = set()

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        seen.add((frame.f_code.co_filename, frame.f_code.co_name))

    def watched() -> set[str]:
        seen.clear()
        sys.setprofile(watch)
        try:
            run()
        finally:
            sys.setprofile(None)
        return {name for file, name in seen if file in (reporting.__file__, events.__file__)}

    # Regions that are named by the optimizer ask once each.
    assert watched() <= {"wrapped", "begin", "end"}
    with profile():
        assert {"report_op", "pull_reported", "call_reported", "report_native"} <= watched()
    assert watched() <= {"wrapped", "begin", "end"}
