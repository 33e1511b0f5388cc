"""Events and tables made from what the bus reports, compared with torch's own event classes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracegrad.ir import events as bus

from tracegrad.autograd.profiler_events import FunctionEvent, Interval
from tracegrad.autograd.profiler_report import EventList
from tracegrad.autograd.profiler_tree import build_events, count_flops


def event(
    kind: str,
    name: str,
    start_us: int,
    end_us: int,
    *,
    thread: int = 1,
    shapes: Any = None,
    location: Any = None,
    sequence: int | None = None,
    **info: Any,
) -> bus.Event:
    return (kind, name, start_us * 1000, end_us * 1000, thread, shapes, location, sequence, info)


class TestNesting:
    def test_coarse_clock(self) -> None:
        """Where the clock did not move on, the order of ending tells what was inside."""
        recorded = [
            event("op", "inside at the end", 5, 5),
            event("op", "first", 0, 5),
            event("op", "equal", 5, 9),
            event("op", "second", 5, 9),
            event("op", "after", 9, 9),
        ]
        parents = {
            e.name: e.cpu_parent.name if e.cpu_parent else None for e in build_events(recorded, 0)
        }
        assert parents == {
            "first": None,
            "inside at the end": "first",
            "second": None,
            "equal": "second",
            "after": None,
        }

    def test_partial_overlap_is_not_nesting(self) -> None:
        recorded = [event("user", "a", 0, 6), event("op", "c", 7, 8), event("user", "b", 4, 9)]
        a, b, c = build_events(recorded, 0)
        assert (a.cpu_parent, b.cpu_parent, c.cpu_parent) == (None, None, b)

    def test_threads_are_apart(self) -> None:
        recorded = [event("op", "x", 1, 2, thread=8), event("op", "y", 0, 9, thread=7)]
        y, x = build_events(recorded, 0)
        assert (y.thread, x.thread) == (1, 2)
        assert x.cpu_parent is None

    def test_async_events_have_no_self_time(self) -> None:
        recorded = [event("op", "x", 1, 2), event("user", "y", 0, 9, end_thread=3)]
        y, x = build_events(recorded, 0)
        assert y.is_async
        assert (y.cpu_time_total, y.self_cpu_time_total, x.cpu_parent) == (9.0, 0.0, None)
        assert "0.00%       0.000us             0       9.000us" in EventList([y, x]).table()

    def test_an_event_that_is_all_of_another_of_its_name_is_dropped(self) -> None:
        recorded = [
            event("op", "leaf", 3, 4),
            event("op", "sum", 2, 5),
            event("op", "sum", 1, 6),
            event("op", "sum", 0, 7),
        ]
        outer, leaf = build_events(recorded, 0)
        assert (outer.name, outer.cpu_children, leaf.cpu_parent) == ("sum", [leaf], outer)
        assert outer.self_cpu_time_total == 6.0

    def test_what_began_before_the_profile_is_left_out(self) -> None:
        recorded = [event("op", "old", 1, 9), event("op", "new", 5, 6)]
        assert [e.name for e in build_events(recorded, 5000)] == ["new"]


def test_stack_of_plain_text() -> None:
    (only,) = build_events([event("op", "x", 0, 1, location="demo.py:3")], 0)
    assert only.stack == ["demo.py:3"]


@pytest.mark.parametrize(
    ("name", "shapes", "flops"),
    [
        ("aten::mm", [(3, 4), (4, 5)], 120),
        ("aten::addmm", [(3, 5), (3, 4), (4, 5)], 120),
        ("aten::bmm", [(2, 3, 4), (2, 4, 5)], 240),
        ("aten::baddbmm", [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 240),
        ("aten::matmul", [(6, 1, 3, 4), (2, 4, 5)], 1440),
        ("aten::matmul", [(3, 4), (4,)], 24),
        ("aten::matmul", [(4,), (4,)], 8),
        ("aten::matmul", [(4,), (4, 5)], 40),
        ("aten::mul", [(3, 4), (2, 3, 4)], 24),
        ("aten::add", [(3, 4)], 12),
        ("aten::mul", [(), ()], 1),
        ("aten::sub", [(3, 4), (3, 4)], 0),
        ("aten::mm", [], 0),
        ("aten::add", [], 0),
    ],
)
def test_flops(name: str, shapes: list[tuple[int, ...]], flops: int) -> None:
    assert count_flops(name, shapes) == flops


def test_long_names_and_unlimited_rows() -> None:
    recorded = [event("op", f"{'long' * 20}{i}", i, i + 1) for i in range(150)]
    averages = EventList(build_events(recorded, 0)).key_averages()
    rows = averages.table().splitlines()
    assert len(rows) == 100 + 5
    assert rows[3].startswith("long" * 13 + "...")
    assert len(averages.table(row_limit=-1).splitlines()) == 150 + 5
    assert len(averages.table(row_limit=0).splitlines()) == 5


def assert_slices_nest(entries: list[dict[str, Any]]) -> None:
    """Slices of one thread are either apart or one inside the other, outer ones first."""
    open_ends: dict[int, list[float]] = {}
    for entry in entries:
        if entry["ph"] != "X":
            continue
        ends = open_ends.setdefault(entry["tid"], [])
        while ends and ends[-1] <= entry["ts"]:
            ends.pop()
        end = entry["ts"] + entry["dur"]
        assert not ends or end <= ends[-1] + 1e-6
        ends.append(end)


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 15), st.integers(0, 2)),
        min_size=1,
        max_size=25,
    )
)
def test_slices_nest_whatever_was_recorded(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, int, int]]
) -> None:
    recorded = [event("op", "x", s, s + d, thread=t, sequence=s) for s, d, t in spans]
    events = build_events(recorded, 0)
    path = tmp_path_factory.mktemp("traces") / "trace.json"
    EventList(events).export_chrome_trace(str(path))
    entries = json.loads(path.read_text())["traceEvents"]
    assert_slices_nest(entries)
    assert sum(e["ph"] in "Xb" for e in entries) == len(events)


# Against torch: its own event classes, given the same events.


@st.composite
def forests(draw: st.DrawFn) -> list[bus.Event]:
    """Properly nested events of two threads, in the order in which they end; whole microseconds."""
    recorded: list[bus.Event] = []
    names = st.sampled_from(["aten::sin", "aten::mm", "step", "x" * 60, "autograd::Sum"])
    shapes = st.none() | st.lists(st.lists(st.integers(0, 20), max_size=9), max_size=3)
    scale = draw(st.sampled_from([1, 50, 2000, 100_000]))

    def pause() -> int:
        return scale * draw(st.integers(0, 2))

    def add(thread: int, start: int, depth: int) -> int:
        end = start + pause()
        for _ in range(draw(st.integers(0, 3)) if depth < 3 else 0):
            end = add(thread, end, depth + 1) + pause()
        end = max(end, start + scale)
        kind = draw(st.sampled_from([bus.OP, bus.OP, bus.USER]))
        recorded.append(event(kind, draw(names), start, end, thread=thread, shapes=draw(shapes)))
        return end

    for thread in range(draw(st.integers(1, 2))):
        time = 0
        for _ in range(draw(st.integers(1, 4))):
            time = add(thread, time, 0) + pause()
    return recorded


def torch_events(util: Any, ours: list[FunctionEvent], with_flops: bool) -> Any:
    """The same calls, before nesting, as torch's profiler would have made them."""
    theirs = util.EventList(
        [
            util.FunctionEvent(
                id=e.id,
                name=e.name,
                trace_name=e.trace_name,
                overload_name="",
                thread=e.thread,
                start_us=e.time_range.start,
                end_us=e.time_range.end,
                input_shapes=e.input_shapes,
                stack=e.stack,
                flops=e.flops,
                is_user_annotation=e.is_user_annotation,
            )
            for e in ours
        ],
        with_flops=with_flops,
    )
    theirs._build_tree()
    return theirs


@pytest.fixture(scope="module")
def util() -> Any:
    return pytest.importorskip("torch.autograd.profiler_util", reason="torch is not installed")


@pytest.mark.peers
@settings(deadline=None, max_examples=60)
@given(recorded=forests(), extra=st.sampled_from(["nothing", "stack", "flops"]))
def test_tables_are_torchs(util: Any, recorded: list[bus.Event], extra: str) -> None:
    flat = [
        FunctionEvent(
            index,
            name,
            thread,
            Interval(start, end),
            kind=kind,
            input_shapes=shapes,
            stack=[f"file.py({len(name)}): f", "main.py(1): g"][: index % 3]
            if extra == "stack"
            else None,
            flops=index * 700 if extra == "flops" else 0,
        )
        for index, (kind, name, start, end, thread, shapes, *_) in enumerate(
            sorted(recorded[::-1], key=lambda e: (e[2], -e[3]))  # noqa: C415  (decides ties)
        )
    ]
    theirs = torch_events(util, flat, extra == "flops")
    built = {e.id - 1: e for e in build_events(recorded, 0)}
    for index, e in built.items():
        e.stack, e.flops = flat[index].stack, flat[index].flops
    ours = EventList(built.values(), with_flops=extra == "flops")
    assert [e.name for e in ours] == [e.name for e in theirs]
    assert ours.self_cpu_time_total == pytest.approx(theirs.self_cpu_time_total)
    for options in (
        {},
        {"sort_by": "cpu_time_total", "row_limit": 3},
        {"sort_by": "self_cpu_time_total", "header": "A header", "row_limit": -1},
        {"sort_by": "count", "top_level_events_only": True},
        {"max_name_column_width": 20, "max_shapes_column_width": 15, "max_src_column_width": 9},
        {"max_name_column_width": None, "max_shapes_column_width": None},
        {"time_unit": "ms"},
    ):
        assert ours.table(**options) == theirs.table(**options)
        for by_shape, by_stack in ((False, 0), (True, 0), (False, 2)):
            mine = ours.key_averages(by_shape, by_stack)
            assert mine.table(**options) == theirs.key_averages(by_shape, by_stack).table(**options)
    total, their_total = ours.total_average(), theirs.total_average()
    assert (total.key, total.count) == (their_total.key, their_total.count)
    assert total.cpu_time_total == pytest.approx(their_total.cpu_time_total)
