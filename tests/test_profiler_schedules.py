"""tracegrad.profiler: schedules and cycles; autograd/test_profiler.py tests what is recorded."""

from __future__ import annotations

import gzip
import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from tracegrad.ir import events as bus

from tracegrad import profiler
from tracegrad.profiler import ProfilerAction, ProfilerActivity, profile, schedule


@pytest.fixture(autouse=True)
def warned_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a cycle clears the one before is said once in a process."""
    monkeypatch.setattr(profiler, "_warned_of_clearing", True)


def test_a_cycle_clears_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "_warned_of_clearing", False)
    prof = profile(schedule=schedule(wait=0, warmup=1, active=1))
    prof.start()
    with pytest.warns(UserWarning, match="clears events at the end of each cycle") as seen:
        run_steps(prof, 6)
    prof.stop()
    assert len(seen) == 1


def run_steps(prof: profile, count: int) -> None:
    for i in range(count):
        now = bus.now()
        if bus.active:
            bus.record(bus.OP, f"op{i}", now, bus.now())
        prof.step()


def op_names(prof: profile) -> list[str]:
    return [e.name for e in prof.events() if e.name.startswith("op")]


def test_without_schedule(tmp_path: Path) -> None:
    ready: list[profile] = []
    with profile(activities=[ProfilerActivity.CPU], on_trace_ready=ready.append) as prof:
        run_steps(prof, 3)
    assert ready == [prof]
    assert [e.name for e in prof.events()] == ["op0", "op1", "op2"]
    assert [row.key for row in prof.key_averages()] == ["op0", "op1", "op2"]
    prof.export_chrome_trace(str(tmp_path / "trace.json"))
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert not bus.active


def test_cycles() -> None:
    cycles: list[list[str]] = []
    plan = schedule(wait=1, warmup=1, active=2, repeat=2, skip_first=1)
    with profile(schedule=plan, on_trace_ready=lambda p: cycles.append(op_names(p))) as prof:
        run_steps(prof, 12)
    assert cycles == [["op3", "op4"], ["op7", "op8"]]
    steps = [e for e in prof.events() if e.name == "ProfilerStep*"]
    assert [e.trace_name for e in steps] == ["ProfilerStep#7", "ProfilerStep#8"]
    assert [child.name for child in steps[0].cpu_children] == ["op7"]
    assert not bus.active


def test_cycles_without_a_gap_and_a_last_one_cut_short() -> None:
    cycles: list[list[str]] = []
    with pytest.warns(UserWarning, match="won't be using warmup"):
        plan = schedule(wait=0, warmup=0, active=2)
    with profile(schedule=plan, on_trace_ready=lambda p: cycles.append(op_names(p))) as prof:
        run_steps(prof, 4)
        bus.record(bus.OP, "op4", bus.now(), bus.now())
    assert cycles == [["op0", "op1"], ["op2", "op3"], ["op4"]]


def test_accumulated_cycles() -> None:
    plan = schedule(wait=1, warmup=1, active=1)
    with profile(schedule=plan, acc_events=True) as prof:
        run_steps(prof, 6)
    assert op_names(prof) == ["op5", "op2"]


def test_incorrect_schedule() -> None:
    actions = [ProfilerAction.RECORD, ProfilerAction.NONE, ProfilerAction.NONE]
    with profile(schedule=lambda step: actions[step]) as prof:
        with pytest.warns(UserWarning, match="Incorrect schedule: RECORD followed by NONE"):
            prof.step()
        assert not bus.active


def test_before_anything_was_recorded() -> None:
    prof = profile()
    with pytest.raises(AssertionError, match="Profiler must be initialized"):
        prof.events()
    with pytest.raises(AssertionError, match="Profiler must be initialized"):
        prof.export_chrome_trace("nowhere")


def test_activities() -> None:
    with pytest.warns(UserWarning, match="CUDA is not available, disabling CUDA profiling"):
        profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
    with pytest.warns(FutureWarning, match="`use_cuda` is deprecated, use `activities`"):
        profile(use_cuda=False)
    with pytest.raises(AssertionError, match="No valid profiler activities found"):
        profile(activities=[])
    with pytest.raises(ValueError, match="CPU specified more than once"):
        profile(activities=[ProfilerActivity.CPU] * 2)
    with (
        pytest.warns(UserWarning, match="XPU is not available"),
        pytest.raises(AssertionError, match="No activities specified for the profiler"),
    ):
        profile(activities=[ProfilerActivity.XPU])
    options: Any
    for options in ({"experimental_config": 1}, {"execution_trace_observer": 1}):
        with pytest.raises(NotImplementedError, match=next(iter(options))):
            profile(**options)


def test_metadata_and_trace_ids(tmp_path: Path) -> None:
    ids = iter("abc")
    with profile(record_shapes=True, custom_trace_id_callback=lambda: next(ids)) as prof:
        prof.add_metadata("note", 'a "quoted" \\ text')
        prof.add_metadata_json("numbers", "[1, 2]")
        prof.preset_metadata_json("later", "true")
    with pytest.raises(ValueError):  # noqa: PT011  (the json module's own message)
        prof.add_metadata_json("bad", "{")
    path = tmp_path / "trace.json"
    prof.export_chrome_trace(str(path))
    trace = json.loads(path.read_text())
    assert prof.get_trace_id() == trace["trace_id"] == "a"
    assert (trace["note"], trace["numbers"]) == ('a "quoted" \\ text', [1, 2])
    assert trace["record_shapes"] == 1
    assert "later" not in trace
    assert profile().get_trace_id() is None


def test_collection_can_be_paused() -> None:
    with profile() as prof:
        for enable in (False, True):
            prof.toggle_collection_dynamic(enable, [ProfilerActivity.CPU])
            with profiler.record_function(f"recorded: {enable}"):
                pass
    assert [e.name for e in prof.events()] == ["recorded: True"]


def test_memory_timeline() -> None:
    with pytest.raises(NotImplementedError, match="export_memory_timeline is not supported"):
        profile().export_memory_timeline("nowhere")


def test_tensorboard_handler(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    for use_gzip in (False, True):
        handler = profiler.tensorboard_trace_handler(str(folder), "worker", use_gzip)
        with profile(on_trace_ready=handler), profiler.record_function("x"):
            pass
    plain, packed = sorted(folder.iterdir(), key=lambda path: path.suffix == ".gz")
    assert plain.name.startswith("worker.")
    assert plain.name.endswith(".pt.trace.json")
    for text in (plain.read_text(), gzip.decompress(packed.read_bytes()).decode()):
        assert json.loads(text)["traceEvents"]


@pytest.mark.parametrize(
    "wrong", [{"wait": -1}, {"warmup": -1}, {"active": 0}, {"repeat": -1}, {"skip_first": -1}]
)
def test_invalid_schedules(wrong: dict[str, int]) -> None:
    with pytest.raises(AssertionError, match="Invalid profiler schedule arguments"):
        schedule(**{"wait": 1, "warmup": 1, "active": 1, **wrong})
    with pytest.raises(AssertionError, match="Step must be non-negative"):
        schedule(wait=1, warmup=1, active=1)(-1)


@pytest.mark.peers
def test_schedules_are_torchs() -> None:
    theirs: Any = pytest.importorskip("torch.profiler", reason="torch is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for wait, warmup, active, repeat, first, shift in itertools.product(
            (0, 2), (0, 1), (1, 3), (0, 1, 2), (0, 3), (0, 1)
        ):
            options = {
                "wait": wait,
                "warmup": warmup,
                "active": active,
                "repeat": repeat,
                "skip_first": first,
                "skip_first_wait": shift,
            }
            mine, peer = schedule(**options), theirs.schedule(**options)
            for step in range(25):
                assert mine(step).name == peer(step).name
