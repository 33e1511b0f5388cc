"""The benchmarks themselves: every system computes the same, and the report says what was run."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .catalogue import BENCHMARKS
from .measurement import Benchmark, Outcome, Program, System, differences, measure
from .report import (
    describe_machine,
    format_group,
    format_json,
    format_markdown,
    format_seconds,
    groups,
)

PEERS = ("torch", "jax")
ROOT = Path(__file__).parents[2]


@pytest.mark.peers
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_systems_agree(name: str, peer: str) -> None:
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed")
    benchmark = BENCHMARKS[name]
    if peer not in [system.name for system in benchmark.systems]:
        pytest.skip(f"it is not compared with {peer}")
    outcomes = {o.system: o for o in measure(benchmark, "tiny", benchmark.tiny, rounds=1)}
    for system in ("tracegrad", peer):
        assert outcomes[system].problem == ""
        assert system == peer or outcomes[system].notes == [], "not all was compiled"
        assert len(outcomes[system].samples_s) == 1
        assert outcomes[system].median_s > 0
        assert outcomes[system].warm_up_s > 0


def constant(value: float) -> Any:
    def prepare(library: Any, inputs: Any) -> Program:
        return Program(lambda: None, lambda: {"value": np.array(value)})

    return prepare


def warning(library: Any, inputs: Any) -> Program:
    warnings.warn("slow today\nbecause", stacklevel=1)
    return Program(lambda: None, lambda: {"value": np.array(1.0)})


def failing(library: Any, inputs: Any) -> Program:
    raise NotImplementedError("no such thing\nand more lines")


def example(*systems: System) -> Benchmark:
    return Benchmark("scalar_call", "nothing", {"size": ()}, (), dict, systems)


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    benchmark = example(
        System("tracegrad", "math", constant(1.0)),
        System("close", "math", constant(1.000001)),
        System("warning", "math", warning),
        System("wrong", "math", constant(1.1)),
        System("failing", "math", failing),
        System("absent", "no_such_library", constant(1.0)),
    )
    return measure(benchmark, "size", (), rounds=3)


def test_what_differs_fails_or_is_absent_has_no_times(outcomes: list[Outcome]) -> None:
    problems = [outcome.problem for outcome in outcomes]
    assert problems[:3] == ["", "", ""]
    assert problems[3].startswith("results differ: value by 0.1")
    assert problems[4:] == ["not supported: NotImplementedError: no such thing", "not installed"]
    assert [len(outcome.samples_s) for outcome in outcomes] == [3, 3, 3, 0, 0, 0]


def test_table_shows_every_system(outcomes: list[Outcome]) -> None:
    lines = format_group(outcomes).splitlines()
    assert lines.pop(5).strip() == "warned: slow today"
    assert [line.split()[0] for line in lines[2:]] == [o.system for o in outcomes]
    assert lines[3].split()[-3].endswith("x")
    assert "not installed" in lines[7]


def test_markdown_has_a_column_per_system_that_is_there(outcomes: list[Outcome]) -> None:
    header, rule, row = (
        line.strip("|").split("|") for line in format_markdown(outcomes).splitlines()
    )
    assert [cell.strip() for cell in header[1:6]] == [o.system for o in outcomes[:5]]
    assert len(header) == len(rule) == len(row)
    assert row[4].strip() == "results differ"


def test_json_can_be_read_back(outcomes: list[Outcome]) -> None:
    read = json.loads(format_json(outcomes, describe_machine(load=0.1)))
    assert read["machine"]["cpus"] >= 1
    assert [row["problem"] for row in read["outcomes"]][:2] == [None, None]
    assert read["outcomes"][0]["samples_s"] == outcomes[0].samples_s
    assert read["outcomes"][2]["notes"] == ["slow today"]
    assert read["outcomes"][5]["median_s"] is None


def test_groups_keep_the_order() -> None:
    outcomes = [Outcome(b, s, "x") for b, s in [("a", "1"), ("a", "1"), ("a", "2"), ("b", "2")]]
    assert [len(group) for group in groups(outcomes)] == [2, 1, 1]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"x": np.zeros(2)}, {"y": np.zeros(2)}),
        ({"x": np.zeros(2)}, {"x": np.zeros(3)}),
        ({"x": np.array(math.nan)}, {"x": np.array(0.0)}),
        ({"x": np.array([1.0, 1.2])}, {"x": np.ones(2)}),
    ],
)
def test_differences_are_found(found: Any, expected: Any) -> None:
    assert differences(found, expected, rtol=0.1, atol=0.05).startswith("results differ")
    assert differences(expected, expected, rtol=0.0, atol=0.0) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (31.2e-9, "31.2 ns"),
        (999.6e-9, "1.00 us"),
        (15.24e-6, "15.2 us"),
        (0.1, "100 ms"),
        (58.7, "58.7 s"),
        (math.nan, "-"),
    ],
)
def test_seconds_are_readable(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_command_lists_the_benchmarks() -> None:
    lines = run_command("--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(BENCHMARKS)


def test_command_refuses_unknown_names() -> None:
    run = run_command("no_such_benchmark")
    assert run.returncode == 2
    assert "no_such_benchmark" in run.stderr


def test_command_writes_what_it_measured(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.json"
    run = run_command("scalar_call", "--tiny", "--rounds=1", "--threads=1", f"--json={file}")
    assert run.returncode == 0, run.stderr
    written = json.loads(file.read_text(encoding="utf-8"))
    assert {row["benchmark"] for row in written["outcomes"]} == {"scalar_call"}
    assert "threads:" in run.stdout
