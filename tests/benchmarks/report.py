"""Showing outcomes: a table for the terminal, one for a Markdown file, and JSON."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from .catalogue import BENCHMARKS
from .measurement import Outcome


def format_seconds(seconds: float) -> str:
    """Three significant digits with a unit: ``15.2 us``."""
    if math.isnan(seconds):
        return "-"
    for unit, scale in (("ns", 1e9), ("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{three_digits(seconds * scale)} {unit}"
    return f"{three_digits(seconds)} s"


def three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"


def format_ratio(outcome: Outcome, first: Outcome) -> str:
    """How many times as long this system takes as the first one; empty where one has no time."""
    ratio = outcome.median_s / first.median_s
    return "" if outcome is first or math.isnan(ratio) else f"{three_digits(ratio)}x"


def groups(outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    """The outcomes of each benchmark and size."""
    by_work = groupby(outcomes, key=lambda outcome: (outcome.benchmark, outcome.size))
    return [list(group) for _, group in by_work]


HEADER = ("system", "median", "quartiles", "ratio", "first 3 runs")


def format_group(group: Sequence[Outcome]) -> str:
    """The lines for one benchmark at one size."""
    first = group[0]
    lines = [
        f"{first.benchmark} ({first.size}): {BENCHMARKS[first.benchmark].title}",
        "  {:<14}{:>10}  {:>22}{:>9}{:>14}".format(*HEADER),
    ]
    for outcome in group:
        if outcome.problem:
            lines.append(f"  {outcome.system:<14}{outcome.problem}")
            continue
        low, high = (format_seconds(value) for value in outcome.quartiles_s)
        ratio = format_ratio(outcome, first)
        lines.append(
            f"  {outcome.system:<14}{format_seconds(outcome.median_s):>10}"
            f"  {f'{low} - {high}':>22}{ratio:>9}{format_seconds(outcome.warm_up_s):>14}"
        )
        lines += [f"    warned: {note}" for note in outcome.notes]
    return "\n".join(lines)


def format_markdown(outcomes: Sequence[Outcome]) -> str:
    """One row per benchmark and size; each peer with its ratio to tracegrad."""
    systems = list(dict.fromkeys(o.system for o in outcomes if not o.absent))
    header = ["work", *systems, "first 3 runs: " + " / ".join(systems)]
    lines = [" | ".join(["", *header, ""]).strip(), "|---" * len(header) + "|"]
    for group in groups(outcomes):
        first = group[0]
        by_system = {outcome.system: outcome for outcome in group}
        cells = [f"{BENCHMARKS[first.benchmark].title}, {first.size}"]
        for system in systems:
            cells.append(_markdown_cell(by_system.get(system), first))
        cells.append(
            " / ".join(
                format_seconds(by_system[system].warm_up_s) if system in by_system else "-"
                for system in systems
            )
        )
        lines.append(" | ".join(["", *cells, ""]).strip())
    return "\n".join(lines)


def _markdown_cell(outcome: Outcome | None, first: Outcome) -> str:
    if outcome is None:
        return "-"
    if outcome.problem:
        return outcome.problem.partition(":")[0]
    time = format_seconds(outcome.median_s)
    ratio = format_ratio(outcome, first)
    return f"{time} ({ratio})" if ratio else time


def load_average() -> float:
    """Processes that wanted to run during the last minute; NaN where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def describe_machine(load: float) -> dict[str, Any]:
    """What the numbers depend on: CPU, its load before the run, threads, versions."""
    versions = {}
    for name in ("tracegrad", "numpy", "llvmlite", "torch", "jax"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cpu": _cpu_name(),
        "cpus": _usable_cpus(),
        "load": _number(load),
        "threads": _thread_counts(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def format_machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    threads = ", ".join(f"{name} {count}" for name, count in machine["threads"].items())
    lines = [
        f"{machine['cpu']}, {machine['cpus']} of its CPUs; threads: {threads}",
        f"Python {machine['python']}, {versions}",
    ]
    if (machine["load"] or 0) > 0.3:
        lines.append(
            f"Others were using the machine (load {machine['load']:.1f}). Systems with several "
            "threads suffer most; --threads 1 is fairer then."
        )
    return "\n".join(lines)


def format_json(outcomes: Iterable[Outcome], machine: dict[str, Any]) -> str:
    rows = [
        {
            "benchmark": outcome.benchmark,
            "size": outcome.size,
            "system": outcome.system,
            "problem": outcome.problem or None,
            "notes": outcome.notes,
            "median_s": _number(outcome.median_s),
            "quartiles_s": [_number(value) for value in outcome.quartiles_s],
            "warm_up_s": _number(outcome.warm_up_s),
            "samples_s": outcome.samples_s,
        }
        for outcome in outcomes
    ]
    return json.dumps({"machine": machine, "outcomes": rows}, indent=1) + "\n"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _thread_counts() -> dict[str, int]:
    """Threads of each library that is loaded. JAX has no say: one per usable CPU."""
    counts = {}
    for name in ("tracegrad", "torch"):
        get = getattr(sys.modules.get(name), "get_num_threads", None)
        if get is not None:
            counts[name] = get()
    if "jax" in sys.modules:
        counts["jax"] = _usable_cpus()
    return counts
