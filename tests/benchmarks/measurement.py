"""Measuring: one computation in several systems, compared first and then timed in turn.

The data structures are :class:`Benchmark` (what to compute, and how each system computes it),
:class:`Program` (one system's version, ready to run) and :class:`Outcome` (what came out). Start
reading at :func:`measure`.
"""

from __future__ import annotations

import importlib
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

# Seconds of work between two looks at the clock.
SAMPLE_S = 0.004


class Program(NamedTuple):
    """A computation in one system, ready to run.

    Attributes:
        run: does it once, and returns when the results are there.
        results: the results of the last run, and all state that it changed.
    """

    run: Callable[[], Any]
    results: Callable[[], Arrays]


class System(NamedTuple):
    """How one system does a computation.

    Attributes:
        name: as it is printed.
        library: the module to import.
        prepare: the program, from the library and the input arrays.
    """

    name: str
    library: str
    prepare: Callable[[Any, Arrays], Program]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A computation and the systems that do it.

    Attributes:
        name: to be given on the command line.
        title: what is computed, in a few words.
        sizes: the sizes to run, by the label they are printed with.
        tiny: a size for testing the benchmark itself.
        inputs: the input arrays for a size; every system gets the same.
        systems: the first is the one that the others are compared with.
        rtol, atol: what results may differ by, ``atol + rtol * abs(expected)``.
    """

    name: str
    title: str
    sizes: Mapping[str, tuple[int, ...]]
    tiny: tuple[int, ...]
    inputs: Callable[..., Arrays]
    systems: Sequence[System]
    rtol: float = 1e-5
    atol: float = 1e-6


@dataclass(slots=True)
class Outcome:
    """What one system made of one benchmark.

    Attributes:
        benchmark, size, system: what was run.
        problem: why there are no times; empty if there are.
        notes: what the system warned of, such as not having compiled the function.
        warm_up_s: seconds of the first three runs together, with all compilation: an optimizer that
            makes its state in the first step is compiled in the second.
        samples_s: seconds per run, one mean for each round.
    """

    benchmark: str
    size: str
    system: str
    problem: str = ""
    notes: list[str] = field(default_factory=list)
    warm_up_s: float = math.nan
    samples_s: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        return statistics.median(self.samples_s) if self.samples_s else math.nan

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """First and third quartile."""
        if not self.samples_s:
            return math.nan, math.nan
        low, high = np.quantile(self.samples_s, [0.25, 0.75])
        return float(low), float(high)

    @property
    def absent(self) -> bool:
        return self.problem == "not installed"


def measure(benchmark: Benchmark, size: str, values: tuple[int, ...], rounds: int) -> list[Outcome]:
    """Run one benchmark at one size in all its systems.

    Every system runs a few times, and the results are compared. Then come the rounds; in each one
    every system has its turn, so that they all see the same weather.
    """
    inputs = benchmark.inputs(*values)
    outcomes: list[Outcome] = []
    running: list[tuple[Outcome, Program]] = []
    expected: Arrays | None = None
    for system in benchmark.systems:
        outcome = Outcome(benchmark.name, size, system.name)
        outcomes.append(outcome)
        try:
            library = importlib.import_module(system.library)
        except ModuleNotFoundError as error:
            outcome.problem = "not installed" if error.name == system.library else _said(error)
            continue
        try:
            program, results = try_out(system, library, inputs, outcome)
        except Exception as error:  # whatever a system cannot do, the others can be measured
            outcome.problem = _said(error)
            continue
        if expected is None:
            expected = results
        outcome.problem = differences(results, expected, benchmark.rtol, benchmark.atol)
        if not outcome.problem:
            running.append((outcome, program))
    time_in_turn(running, rounds)
    return outcomes


def try_out(
    system: System, library: Any, inputs: Arrays, outcome: Outcome
) -> tuple[Program, Arrays]:
    """Run a system's program three times; returns it with its results."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program = system.prepare(library, inputs)
        started = time.perf_counter()
        for _ in range(3):
            program.run()
        outcome.warm_up_s = time.perf_counter() - started
        results = program.results()
    outcome.notes += dict.fromkeys(_first_line(warning.message) for warning in caught)
    return program, results


def differences(results: Arrays, expected: Arrays, rtol: float, atol: float) -> str:
    """What is wrong with the results, in a sentence; empty if they agree."""
    if results.keys() != expected.keys():
        return f"results differ: {sorted(results)} instead of {sorted(expected)}"
    for name, wanted in expected.items():
        found = results[name]
        if found.shape != wanted.shape:
            return f"results differ: {name} has shape {found.shape} instead of {wanted.shape}"
        with np.errstate(invalid="ignore"):
            error = np.abs(found.astype(np.float64) - wanted) - rtol * np.abs(wanted)
        if not np.all(error <= atol):
            return f"results differ: {name} by {np.max(error):.2g} more than allowed"
    return ""


def time_in_turn(running: Sequence[tuple[Outcome, Program]], rounds: int) -> None:
    """Add one sample per round to each outcome."""
    repetitions = [repetitions_for(program.run) for _, program in running]
    for _ in range(rounds):
        for (outcome, program), count in zip(running, repetitions, strict=True):
            # The threads of the system before may spin for some time after their work.
            time.sleep(0.002)
            time_runs(program.run, max(1, count // 10))
            outcome.samples_s.append(time_runs(program.run, count) / count)


def repetitions_for(run: Callable[[], Any]) -> int:
    """How many runs make one sample."""
    count = 1
    while True:
        seconds = time_runs(run, count)
        if seconds >= SAMPLE_S / 2:
            return max(1, round(count * SAMPLE_S / seconds))
        count *= 2


def time_runs(run: Callable[[], Any], count: int) -> float:
    """Seconds that ``count`` runs take."""
    started = time.perf_counter()
    for _ in range(count):
        run()
    return time.perf_counter() - started


def _said(error: Exception) -> str:
    return f"not supported: {type(error).__name__}: {_first_line(error)}"


def _first_line(message: Warning | Exception | str) -> str:
    return (str(message).strip().splitlines() or [""])[0]
