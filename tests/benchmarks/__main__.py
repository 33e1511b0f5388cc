"""The command ``python -m tests.benchmarks``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# These slow NumPy's own BLAS on some hosts.
UNWANTED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")

THREAD_COUNTS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Compare tracegrad with PyTorch and JAX. Ratios are the time of a system "
        "divided by the time of tracegrad in the same run.",
    )
    parser.add_argument("names", nargs="*", help="benchmarks to run; all by default")
    parser.add_argument("--list", action="store_true", help="print the names of all benchmarks")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="default: 15")
    parser.add_argument("--threads", type=int, metavar="N", help="let everybody use N CPUs only")
    parser.add_argument("--tiny", action="store_true", help="sizes for trying the benchmarks out")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table at the end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to a file")
    return parser.parse_args(arguments)


def prepare_environment(threads: int | None) -> None:
    """Start again with another environment where this one is not as wanted.

    Libraries read it when they are loaded, so this comes before NumPy is imported.
    """
    wanted = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    # First calls are to be those of a first process.
    wanted["TRACEGRAD_CACHE"] = "0"
    if threads is not None:
        wanted |= dict.fromkeys(THREAD_COUNTS, str(threads))
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def main() -> int:
    options = parse_arguments()
    prepare_environment(options.threads)

    from .catalogue import BENCHMARKS
    from .measurement import Outcome, measure
    from .report import (
        describe_machine,
        format_group,
        format_json,
        format_machine,
        format_markdown,
        load_average,
    )

    if options.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:<20} {benchmark.title}")
        return 0
    unknown = set(options.names) - BENCHMARKS.keys()
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; see --list", file=sys.stderr)
        return 2

    load = load_average()
    outcomes: list[Outcome] = []
    for name in options.names or BENCHMARKS:
        benchmark = BENCHMARKS[name]
        sizes = {"tiny": benchmark.tiny} if options.tiny else benchmark.sizes
        for size, values in sizes.items():
            group = measure(benchmark, size, values, options.rounds)
            outcomes += group
            print(format_group(group) + "\n", flush=True)
    machine = describe_machine(load)
    print(format_machine(machine))
    if options.markdown:
        print("\n" + format_markdown(outcomes))
    if options.json:
        options.json.write_text(format_json(outcomes, machine), encoding="utf-8")
    return int(any("results differ" in outcome.problem for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
