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
    assert op_names(prof) == ["op2", "op5"]


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


def test_refused_options() -> None:
    with pytest.raises(RuntimeError, match="CPU only"):
        profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
    with pytest.raises(RuntimeError, match="CPU only"):
        profile(use_cuda=True)
    with pytest.raises(AssertionError, match="No valid profiler activities found"):
        profile(activities=[])
    with pytest.raises(NotImplementedError, match="profile_memory"):
        profile(profile_memory=True)


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
