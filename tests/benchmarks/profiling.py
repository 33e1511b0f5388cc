"""What the profiler costs per operation, on and off: ``python -m tests.benchmarks.profiling``.

Each row is one piece of work, timed in turns without and with a profile; shown are medians over all turns, in
microseconds per operation, and how much more it is with a profile. Off, an operation asks one flag, and a
function with a label of its own is called through a wrapper that asks another: the last two rows.
"""

from __future__ import annotations

import argparse
import statistics
import timeit
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import tracegrad as tg
from tracegrad.autograd.profiler import profile
from tracegrad.grad_mode import state
from tracegrad.reporting import reported

OPTIONS: dict[str, dict[str, bool]] = {
    "on": {},
    "shapes": {"record_shapes": True},
    "memory": {"profile_memory": True},
    "stack": {"with_stack": True},
}


class Work(NamedTuple):
    """Something to profile: `run` does `operations` of them."""

    name: str
    operations: int
    run: Callable[[], Any]


def work(count: int) -> list[Work]:
    """Operations on 2x3 tensors, where the overhead is the largest part; `count` in a row."""
    x, y = tg.full((2, 3), 1.0001), tg.ones(2, 3)
    leaf = tg.ones(2, 3, requires_grad=True)

    def plain() -> None:
        for _ in range(count):
            x * y

    def recording() -> None:
        for _ in range(count):
            leaf * y

    def unary() -> None:
        for _ in range(count):
            x.sin()

    def step() -> None:
        z = leaf
        for _ in range(count // 2):
            z = z * y
        z.sum().backward()

    return [
        Work("x * y", count, plain),
        Work("x * y, recorded", count, recording),
        Work("x.sin()", count, unary),
        Work("x * y and its derivative", count, step),
    ]


def measure(piece: Work, rounds: int) -> dict[str, float]:
    """Median microseconds per operation without a profile ("off") and with each of `OPTIONS`, measured in turns."""
    samples: dict[str, list[float]] = {"off": [], **{name: [] for name in OPTIONS}}
    piece.run()
    for _ in range(rounds):
        for name, times in samples.items():
            context: AbstractContextManager[Any] = (
                nullcontext() if name == "off" else profile(**OPTIONS[name])  # type: ignore[arg-type]
            )
            with context:
                times.append(timeit.timeit(piece.run, number=1) / piece.operations * 1e6)
    return {name: statistics.median(times) for name, times in samples.items()}


def measure_off(rounds: int) -> dict[str, float]:
    """Microseconds that everybody pays: reading the flag, and the wrapper of a function with a label."""

    def function(x: int) -> int:
        return x

    wrapped = reported("aten::function")(function)
    calls = {
        "reading the flag": (lambda: state.watched, lambda: state),
        "a label": (lambda: wrapped(1), lambda: function(1)),
    }
    found = {}
    for name, pair in calls.items():
        with_it, without = (
            statistics.median(timeit.repeat(call, number=2000, repeat=rounds)) for call in pair
        )
        found[name] = (with_it - without) / 2000 * 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.profiling")
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--count", type=int, default=500, help="operations in a row")
    options = parser.parse_args()
    print(f"{'us per operation':<26}{'off':>8}" + "".join(f"{'+ ' + n:>10}" for n in OPTIONS))
    for piece in work(options.count):
        found = measure(piece, options.rounds)
        more = "".join(f"{found[name] - found['off']:>10.2f}" for name in OPTIONS)
        print(f"{piece.name:<26}{found['off']:>8.2f}{more}")
    for name, cost in measure_off(options.rounds).items():
        print(f"{name:<26}{cost:>8.3f}")


if __name__ == "__main__":
    main()
