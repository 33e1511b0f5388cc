"""The profiler, driven through the event bus: nesting, averages, torch's tables, traces."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracegrad.ir import events as bus

from tracegrad.autograd.profiler import emit_itt, emit_nvtx, profile, record_function


class Clock:
    """A clock that stands still until told to move on."""

    def __init__(self) -> None:
        self.ns = 10**9

    def __call__(self) -> int:
        return self.ns

    def advance(self, us: float) -> int:
        self.ns += int(us * 1000)
        return self.ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(bus, "now", clock)
    monkeypatch.setattr(bus, "perf_counter_ns", clock)
    return clock


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    assert not bus.active


def run_op(clock: Clock, name: str, us: float, **options: Any) -> None:
    """What dispatch does for an op."""
    start = bus.now()
    clock.advance(us)
    bus.record(options.pop("kind", bus.OP), name, start, bus.now(), **options)


def run_backward(clock: Clock, name: str, sequence: int, us: float) -> None:
    """What the engine does for a node of the graph."""
    start = bus.now()
    clock.advance(1)
    rule = bus.now()
    run_op(clock, "aten::mul", us)
    bus.record(bus.BACKWARD, name, rule, bus.now(), sequence=sequence)
    clock.advance(1)
    label = f"autograd::engine::evaluate_function: {name}"
    bus.record(bus.ENGINE, label, start, bus.now(), sequence=sequence)


def profile_a_step(clock: Clock, **options: Any) -> profile:
    with profile(**options) as prof:
        clock.advance(5)
        with record_function("model"):
            clock.advance(1)
            run_op(clock, "aten::mm", 20, shapes=[(3, 4), (4, 2)], sequence=0)
            run_op(clock, "aten::sin", 10, shapes=[(3, 2)], sequence=1)
        run_op(clock, "aten::sin", 30, shapes=[(5,)], sequence=2)
        run_backward(clock, "SinBackward0", 1, 4)
        run_backward(clock, "MmBackward0", 0, 6)
    return prof


def test_events_of_a_step(clock: Clock) -> None:
    prof = profile_a_step(clock, record_shapes=True)
    rows = [
        (e.name, e.cpu_time_total, e.self_cpu_time_total, e.sequence_nr, e.scope)
        for e in prof.function_events
    ]
    engine = "autograd::engine::evaluate_function: "
    assert rows == [
        ("model", 31.0, 1.0, -1, 7),
        ("aten::mm", 20.0, 20.0, 0, 0),
        ("aten::sin", 10.0, 10.0, 1, 0),
        ("aten::sin", 30.0, 30.0, 2, 0),
        (engine + "SinBackward0", 6.0, 2.0, 1, 0),
        ("SinBackward0", 4.0, 0.0, 1, 1),
        ("aten::mul", 4.0, 4.0, -1, 0),
        (engine + "MmBackward0", 8.0, 2.0, 0, 0),
        ("MmBackward0", 6.0, 0.0, 0, 1),
        ("aten::mul", 6.0, 6.0, -1, 0),
    ]
    first = prof.function_events[0]
    assert [e.id for e in prof.function_events] == list(range(1, 11))
    assert [child.name for child in first.cpu_children] == ["aten::mm", "aten::sin"]
    assert first.cpu_children[0].cpu_parent is first
    assert (first.time_range.start, first.time_range.end) == (5.0, 36.0)
    assert first.thread == 1
    assert prof.function_events[1].input_shapes == [[3, 4], [4, 2]]
    assert prof.function_events[5].fwd_thread == 1
    assert prof.self_cpu_time_total == 75.0


def test_table(clock: Clock) -> None:
    with profile() as prof:
        run_op(clock, "aten::mm", 1250)
        run_op(clock, "aten::sin", 500)
        run_op(clock, "aten::sin", 750)
    widths = [len("aten::sin") + 4] + [12] * 6
    headers = "Name|Self CPU %|Self CPU|CPU total %|CPU total|CPU time avg|# of Calls"
    rows = [
        "aten::mm|50.00%|1.250ms|50.00%|1.250ms|1.250ms|1",
        "aten::sin|50.00%|1.250ms|50.00%|1.250ms|625.000us|2",
    ]
    rule = "  ".join("-" * width for width in widths) + "  "
    header, *body = (
        "  ".join(cell.rjust(width) for cell, width in zip(row.split("|"), widths, strict=True))
        + "  "
        for row in [headers, *rows]
    )
    expected = [rule, header, rule, *body, rule, "Self CPU time total: 2.500ms", ""]
    assert prof.key_averages().table() == "\n".join(expected)
    titled = prof.key_averages().table(header="Ops", row_limit=1, top_level_events_only=True)
    double_rule = "=" * (len(rule) - 2)
    top = [double_rule, "Ops", double_rule, "This report only display top-level ops statistics"]
    assert titled == "\n".join([*top, rule, header, rule, body[0], *expected[-3:]])


def test_averages(clock: Clock) -> None:
    prof = profile_a_step(clock, record_shapes=True)
    sin = next(row for row in prof.key_averages() if row.key == "aten::sin")
    assert (sin.count, sin.cpu_time_total, sin.cpu_time, sin.input_shapes) == (2, 40.0, 20.0, "")
    by_shape = [
        (row.key, row.input_shapes, row.count)
        for row in prof.key_averages(group_by_input_shape=True)
        if row.key == "aten::sin"
    ]
    assert by_shape == [("aten::sin", [[3, 2]], 1), ("aten::sin", [[5]], 1)]
    total = prof.total_average()
    assert (total.key, total.count, total.self_cpu_time_total) == ("Total", 10, 75.0)
    assert prof.key_averages().self_cpu_time_total == 75.0


def test_a_users_region_is_not_averaged_with_an_op(clock: Clock) -> None:
    with profile() as prof:
        run_op(clock, "aten::sin", 1)
        with record_function("aten::sin"):
            clock.advance(1)
    assert [row.count for row in prof.key_averages()] == [1, 1]


@pytest.mark.parametrize("key", ["cpu_time_total", "cpu_time", "self_cpu_time", "count", "flops"])
def test_sort_keys(clock: Clock, key: str) -> None:
    averages = profile_a_step(clock).key_averages()
    values = [getattr(row, key) for row in averages]
    table = averages.table(sort_by=key, row_limit=1).splitlines()
    largest = max(averages, key=lambda row: getattr(row, key))
    assert len(set(values)) == 1 or largest.key in table[3]


def test_wrong_sort_keys(clock: Clock) -> None:
    averages = profile_a_step(clock).key_averages()
    with pytest.raises(AttributeError, match="'FunctionEventAvg' object has no attribute 'speed'"):
        averages.table(sort_by="speed")
    with pytest.raises(ValueError, match="time_unit must be"):
        averages.table(time_unit="h")


@pytest.mark.parametrize("device", ["cuda", "xpu", "privateuse1"])
def test_sort_keys_of_other_devices(clock: Clock, device: str) -> None:
    averages = profile_a_step(clock).key_averages()
    for key in ("time_total", "memory_usage"):
        assert averages.table(sort_by=f"self_{device}_{key}") == averages.table()


class TestStates:
    def test_disabled(self, clock: Clock) -> None:
        with profile(enabled=False, use_cpu=False) as prof:
            assert not bus.active
        assert prof.key_averages().table() == ""
        assert prof.self_cpu_time_total == 0
        assert str(prof) == ""

    def test_nothing_happened(self) -> None:
        with profile() as prof:
            pass
        assert (str(prof), repr(prof), list(prof.key_averages())) == ("", "[]", [])
        assert prof.total_average().count == 0

    def test_unfinished(self) -> None:
        with profile() as prof:
            assert str(prof) == repr(prof) == "<unfinished tracegrad.autograd.profile>"
            with pytest.raises(RuntimeError, match="Profiler didn't finish running"):
                prof.key_averages()

    def test_nested(self) -> None:
        with profile() as outer:
            with pytest.raises(RuntimeError, match="Profiler is already enabled"), profile():
                pass
            with record_function("still recorded"):
                pass
        assert [e.name for e in outer.function_events] == ["still recorded"]

    def test_entered_twice(self) -> None:
        prof = profile()
        with prof:
            pass
        with pytest.raises(RuntimeError, match="Profiler context manager is not reentrant"), prof:
            pass

    def test_an_error_ends_the_profile(self, clock: Clock) -> None:
        prof = profile()
        with pytest.raises(KeyError), prof:  # noqa: PT012
            run_op(clock, "aten::sin", 1)
            raise KeyError
        assert len(prof.function_events) == 1

    def test_other_devices(self) -> None:
        profile(use_cuda=False, use_kineto=True, with_modules=True, acc_events=True)
        message = "XPU is not available, disabling XPU profiling"
        with pytest.warns(UserWarning, match=message):
            profile(use_device="xpu")
        with pytest.warns(UserWarning, match="The tpu is not a valid device option."):
            profile(use_device="tpu")
        with (
            pytest.warns(FutureWarning, match="`use_cuda` will be deprecated soon"),
            pytest.warns(UserWarning, match="CUDA is not available, disabling CUDA profiling"),
        ):
            profile(use_cuda=True)
        for options, message in (
            ({"use_cpu": False}, "Device-only events supported only with Kineto"),
            ({"use_cpu": False, "use_kineto": True}, "No activities specified for the profiler"),
        ):
            with pytest.raises(AssertionError, match=message):
                profile(**options)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "options", [{"experimental_config": object()}, {"activity_filters": {1: set()}}]
    )
    def test_unsupported_options(self, options: dict[str, Any]) -> None:
        with pytest.raises(NotImplementedError, match=next(iter(options))):
            profile(**options)
        with pytest.raises(TypeError, match="unexpected keyword argument 'with_speed'"):
            profile(with_speed=True)  # type: ignore[call-arg]

    @pytest.mark.parametrize("tool", [emit_nvtx, emit_itt])
    def test_marks_for_other_tools(self, tool: Any) -> None:
        with tool(enabled=False):
            pass
        with pytest.raises(NotImplementedError, match=f"{tool.__name__} is not supported"):
            tool(record_shapes=True).__enter__()

    def test_timeout(self, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(ValueError, match="post_processing_timeout_s must be non-negative"):
            profile(post_processing_timeout_s=-1)
        for timeout, count in ((0, 0), (1000, 1)):
            with profile(post_processing_timeout_s=timeout) as prof, record_function("x"):
                pass
            assert len(prof.function_events) == count
        assert "Profiler timed out after 0.000 seconds" in caplog.text

    def test_shapes_are_asked_for_only_if_wanted(self) -> None:
        with profile():
            assert not bus.wants_shapes
        with profile(record_shapes=True):
            assert bus.wants_shapes
        with profile(with_flops=True):
            assert bus.wants_shapes


class TestRecordFunction:
    def test_decorator_with_recursion(self, clock: Clock) -> None:
        @record_function("countdown", "some text")
        def countdown(n: int) -> int:
            clock.advance(1)
            run_op(clock, "aten::sub", 1)
            return n if n == 0 else countdown(n - 1)

        assert countdown(1) == 0
        with profile() as prof:
            assert countdown(3) == 0
        (row,) = [row for row in prof.key_averages() if row.key == "countdown"]
        assert (row.count, row.self_cpu_time_total) == (4, 4.0)
        assert prof.function_events[0].info == {"args": "some text"}

    def test_reentrant(self, clock: Clock) -> None:
        region = record_function("region")
        with profile() as prof, region:
            clock.advance(1)
            run_op(clock, "aten::sin", 1)
            with region:
                clock.advance(2)
        outer, _, inner = prof.function_events
        assert (outer.cpu_time_total, inner.cpu_time_total) == (4.0, 2.0)

    def test_begun_before_the_profile(self, clock: Clock) -> None:
        with record_function("around"), profile() as prof:
            run_op(clock, "aten::sin", 1)
        assert [e.name for e in prof.function_events] == ["aten::sin"]

    def test_threads(self) -> None:
        def work() -> None:
            with record_function("work"):
                both.wait()

        both = threading.Barrier(2)
        with profile() as prof:
            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(e.thread for e in prof.function_events) == [1, 2]
        assert all(e.cpu_parent is None for e in prof.function_events)


def test_stack(clock: Clock, tmp_path: Path) -> None:
    def model() -> None:
        run_op(clock, "aten::sin", 3, sequence=4)

    with profile(with_stack=True) as prof:
        model()
        run_backward(clock, "SinBackward0", 4, 2)
    forward, _, backward, inner = prof.function_events
    lines = [line.rsplit(": ", 1)[1] for line in forward.stack]
    assert [line.rsplit(".", 1)[-1] for line in lines[:3]] == ["run_op", "model", "test_stack"]
    assert backward.stack == inner.stack == forward.stack
    table = prof.key_averages(group_by_stack_n=3).table(max_src_column_width=30)
    assert "Source Location" in table.splitlines()[1]
    assert sum("test_stack.<locals>.model" in line for line in table.splitlines()) == 4
    path = tmp_path / "stacks"
    prof.export_stacks(str(path))
    assert path.read_text().splitlines()[0].endswith(":_run_op 3")
    with pytest.raises(ValueError, match="metric should be one of"):
        prof.export_stacks(str(path), "speed")
    with profile() as without:
        pass
    with pytest.raises(AssertionError, match="requires with_stack=True"):
        without.export_stacks(str(path))


class TestTrace:
    def load(self, prof: profile, path: Path) -> list[dict[str, Any]]:
        prof.export_chrome_trace(str(path))
        trace = json.loads(path.read_text())
        assert trace["traceName"] == str(path)
        entries: list[dict[str, Any]] = trace["traceEvents"]
        return entries

    def test_step(self, clock: Clock, tmp_path: Path) -> None:
        entries = self.load(profile_a_step(clock, record_shapes=True), tmp_path / "trace.json")
        slices = {e["name"]: e for e in entries if e["ph"] == "X"}
        assert sum(e["ph"] == "X" for e in entries) == 10
        assert (slices["model"]["ts"], slices["model"]["dur"]) == (5.0, 31.0)
        assert slices["model"]["cat"] == "user_annotation"
        assert slices["aten::mm"]["cat"] == "cpu_op"
        assert slices["aten::mm"]["args"]["Input Dims"] == [[3, 4], [4, 2]]
        assert slices["SinBackward0"]["args"]["Sequence number"] == 1

    def test_arrows(self, clock: Clock, tmp_path: Path) -> None:
        with profile() as prof:
            run_op(clock, "aten::sin", 1, sequence=3)
            run_op(clock, "aten::cos", 1, sequence=4)
            run_backward(clock, "SinBackward0", 3, 2)
            run_backward(clock, "SinBackward0", 3, 2)
            run_backward(clock, "ExpBackward0", 9, 2)
        entries = self.load(prof, tmp_path / "trace.json")
        starts = {e["id"]: e["ts"] for e in entries if e["ph"] == "s"}
        ends = {e["id"]: e["ts"] for e in entries if e["ph"] == "f"}
        assert starts == {1: 0.0, 2: 0.0}
        assert ends == {1: 3.0, 2: 7.0}

    def test_partial_overlap(self, clock: Clock, tmp_path: Path) -> None:
        with profile() as prof:
            first, second = record_function("first"), record_function("second")
            first.__enter__()
            clock.advance(1)
            second.__enter__()
            run_op(clock, "aten::sin", 1)
            clock.advance(1)
            first.__exit__()
            run_op(clock, "aten::cos", 1)
            second.__exit__()
        entries = self.load(prof, tmp_path / "trace.json")
        assert [(e["ph"], e["name"], e["ts"]) for e in entries if e["ph"] != "M"] == [
            ("X", "first", 0.0),
            ("b", "second", 1.0),
            ("e", "second", 4.0),
            ("X", "aten::sin", 1.0),
            ("X", "aten::cos", 3.0),
        ]

    def test_odd_names_and_compression(self, tmp_path: Path) -> None:
        name = 'a "quoted" \\ name\nof two lines, \u00fc'
        with profile() as prof, record_function(name, args="x"):
            pass
        self.load(prof, tmp_path / "plain.json")
        prof.export_chrome_trace(str(tmp_path / "trace.json.gz"))
        with gzip.open(tmp_path / "trace.json.gz", "rt", encoding="utf-8") as file:
            entries = json.load(file)["traceEvents"]
        assert entries[-1]["name"] == name
        assert entries[-1]["args"]["args"] == "x"

    def test_size(self, clock: Clock, tmp_path: Path) -> None:
        with profile() as prof:
            for i in range(1000):
                run_op(clock, "aten::sin", 1.25, sequence=i)
        path = tmp_path / "trace.json"
        self.load(prof, path)
        assert path.stat().st_size < 200 * 1000
