"""Trace files of real programs, read strictly: training, compiled functions, threads, exceptions, generators."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chrome_trace import check_trace, load_trace

import tracegrad as tg
from tracegrad.autograd.profiler import profile, record_function


def train() -> None:
    model = tg.nn.Sequential(tg.nn.Linear(4, 8), tg.nn.ReLU(), tg.nn.Linear(8, 2))
    optimizer = tg.optim.Adam(model.parameters())
    for _ in range(2):
        with record_function("step"):
            optimizer.zero_grad()
            tg.nn.functional.mse_loss(model(tg.ones(5, 4)), tg.zeros(5, 2)).backward()
            optimizer.step()


def compiled() -> None:
    @tg.compile
    def wave(x: Any) -> Any:
        return (x.sin() * x).sum()

    x = tg.ones(5, requires_grad=True)
    for _ in range(3):
        wave(x).backward()


def second_derivatives() -> None:
    x = tg.ones(3, requires_grad=True)
    (first,) = tg.autograd.grad((x.exp() * x).sum(), x, create_graph=True)
    first.sum().backward()


def threads() -> None:
    def work() -> None:
        for _ in range(5):
            x = tg.ones(4, requires_grad=True)
            with record_function("work"):
                x.tanh().sum().backward()

    workers = [threading.Thread(target=work, name=f"worker {i}") for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def backward_in_another_thread() -> None:
    loss = tg.ones(4, requires_grad=True).exp().sum()
    worker = threading.Thread(target=loss.backward)
    worker.start()
    worker.join()


def exceptions() -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError), record_function("outer"), record_function("inner"):
            tg.ones(2) @ tg.ones(3)
    with pytest.raises(RuntimeError):
        tg.ones(2, requires_grad=True).backward()


def generators() -> None:
    """A region that is left in the middle overlaps others only partly."""

    def numbers() -> Iterator[Any]:
        for i in range(3):
            with record_function(f"yielded {i}"):
                yield tg.ones(2).exp()

    first, second = numbers(), numbers()
    for _ in range(2):
        next(first)
        next(second)
    first.close()
    with record_function("after"):
        second.close()


PROGRAMS: list[Callable[[], None]] = [
    train,
    compiled,
    second_derivatives,
    threads,
    backward_in_another_thread,
    exceptions,
    generators,
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"record_shapes": True, "with_flops": True},
        {"profile_memory": True},
        {"with_stack": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("program", PROGRAMS)
def test_traces_are_well_formed(
    program: Callable[[], None], options: dict[str, bool], tmp_path: Path
) -> None:
    with profile(**options) as prof:  # type: ignore[arg-type]
        program()
    for name in ("trace.json", "trace.json.gz"):
        prof.export_chrome_trace(str(tmp_path / name))
    entries = check_trace(tmp_path / "trace.json")
    packed = check_trace(tmp_path / "trace.json.gz")
    assert entries == packed
    with gzip.open(tmp_path / "trace.json.gz", "rb") as file:
        assert file.read(1) == b"{"
    slices = sum(e["ph"] in "Xbi" for e in entries)
    assert slices == len(prof.function_events)
    assert prof.self_cpu_time_total > 0
    for event in prof.function_events:
        assert all(child.cpu_parent is event for child in event.cpu_children)
        assert event.self_cpu_time_total >= 0


def test_arrows_lead_from_operations_to_their_derivatives(tmp_path: Path) -> None:
    with profile() as prof:
        x = tg.ones(3, requires_grad=True)
        (x.sin() * x).sum().backward()
    path = tmp_path / "trace.json"
    prof.export_chrome_trace(str(path))
    entries = check_trace(path)
    starts = {
        e["ts"]: e["name"]
        for e in entries
        if e["ph"] == "X" and not e["name"].startswith("autograd")
    }
    begins = {e["id"]: starts[e["ts"]] for e in entries if e["ph"] == "s"}
    ends = {e["id"]: starts[e["ts"]] for e in entries if e["ph"] == "f"}
    assert sorted((begins[i], ends[i]) for i in begins) == [
        ("aten::mul", "MulBackward0"),
        ("aten::sin", "SinBackward0"),
        ("aten::sum", "SumBackward0"),
    ]


def test_arrows_lead_to_another_thread(tmp_path: Path) -> None:
    with profile() as prof:
        backward_in_another_thread()
    path = tmp_path / "trace.json"
    prof.export_chrome_trace(str(path))
    arrows = [e for e in check_trace(path) if e["ph"] in "sf"]
    assert len(arrows) == 4
    assert {e["tid"] for e in arrows if e["ph"] == "s"} == {1}
    assert {e["tid"] for e in arrows if e["ph"] == "f"} == {2}
    backward = next(e for e in prof.function_events if e.name == "ExpBackward0")
    assert (backward.thread, backward.fwd_thread) == (2, 1)


def test_threads_are_named(tmp_path: Path) -> None:
    with profile() as prof:
        tg.ones(2)
    path = tmp_path / "trace.json"
    prof.export_chrome_trace(str(path))
    labels = [
        e["args"]["name"] for e in load_trace(path)["traceEvents"] if e["name"] == "thread_name"
    ]
    assert labels == [f"thread 1 ({threading.current_thread().name})"]


def test_compilation_is_labelled() -> None:
    """Its stages when it happens, and then one event per call: ops are fused in native code."""
    with profile() as prof:
        compiled()
    events = prof.function_events
    (whole,) = [e for e in events if e.name == "tg.compile: wave"]
    stages = [e.name for e in whole.cpu_children]
    assert stages[:2] == ["trace", "plan"]
    assert {"dce", "canonicalize", "cse", "native code"} <= set(stages)
    trace = whole.cpu_children[0]
    assert [e.name for e in trace.cpu_children] == ["aten::sin", "aten::mul", "aten::sum"]
    native = next(e for e in whole.cpu_children if e.name == "native code")
    if native.cpu_children:  # llvmlite is installed
        names = [e.name for e in native.cpu_children]
        assert names[:2] == ["schedule", "emit LLVM IR"]
        assert {"LLVM: compile", "LLVM: load"} <= set(names)
        assert native.cpu_children[0].info["Kernels"]
    calls = [e for e in events if e.name == "compiled wave"]
    assert len(calls) == 2
    assert not any(e.cpu_children for e in calls)
    derivatives = {e.sequence_nr for e in events if e.scope == 1}
    assert {e.sequence_nr for e in calls} <= derivatives


def test_modules_are_labelled() -> None:
    model = tg.nn.Sequential(tg.nn.Linear(2, 2), tg.nn.Linear(2, 2))
    for options in ({"with_modules": True}, {"with_stack": True}):
        with profile(**options) as prof:  # type: ignore[arg-type]
            model(tg.ones(1, 2))
            model(tg.ones(1, 2))
        modules = [e for e in prof.function_events if e.is_python_function]
        once = ["nn.Module: Sequential_0", "nn.Module: Linear_0", "nn.Module: Linear_1"]
        assert [e.name for e in modules] == once * 2
        assert [e.cpu_parent and e.cpu_parent.name for e in modules[:3]] == [None, once[0], once[0]]
        assert modules[1].cpu_children[0].name == "aten::linear"
    with profile() as prof:
        model(tg.ones(1, 2))
    assert not any(e.is_python_function for e in prof.function_events)


def test_bytes_add_up() -> None:
    """What was allocated and not freed is what is left in the end."""
    with profile(profile_memory=True) as prof:
        kept = [tg.ones(10, 10) for _ in range(3)]
        x = tg.ones(50, requires_grad=True)
        for _ in range(2):
            (x.exp() * x).sum().backward()
        train()
        kept.append(x.grad)
    total = sum(e.cpu_memory_usage for e in prof.function_events if e.cpu_parent is None)
    assert total == sum(t._data.nbytes for t in kept) + x._data.nbytes
    assert total == sum(e.self_cpu_memory_usage for e in prof.function_events)
    assert any(e.name == "[memory]" for e in prof.function_events)
