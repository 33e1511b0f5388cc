"""Where the time and memory of a training step go: a table, a trace to look at, and what compiling changes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import tracegrad as tg
from tracegrad.profiler import profile, record_function, schedule


def make_step(width: int, batch: int) -> Callable[[], tg.Tensor]:
    """One step of training a small network on random data."""
    model = tg.nn.Sequential(tg.nn.Linear(64, width), tg.nn.ReLU(), tg.nn.Linear(width, 10))
    optimizer = tg.optim.Adam(model.parameters(), lr=1e-3)
    x, labels = tg.randn(batch, 64), tg.randint(0, 10, (batch,))

    def step() -> tg.Tensor:
        optimizer.zero_grad()
        with record_function("forward"):
            loss = tg.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller network")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tg.manual_seed(0)
    step = make_step(width=32 if options.quick else 512, batch=16 if options.quick else 128)

    # The first two steps are left out; the next three are recorded, then the callback is called.
    plan = schedule(wait=1, warmup=1, active=3, repeat=1)
    trace = options.out / "training.json.gz"
    with profile(
        schedule=plan,
        on_trace_ready=lambda prof: prof.export_chrome_trace(str(trace)),
        record_shapes=True,
        profile_memory=True,
        with_modules=True,
    ) as prof:
        for _ in range(6):
            step()
            prof.step()
    print(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))
    print("Matrix products by shape:")
    rows = prof.key_averages(group_by_input_shape=True)
    for row in sorted(rows, key=lambda row: -row.cpu_time_total):
        if row.key == "aten::matmul":
            print(f"  {row.input_shapes}: {row.count} times {row.cpu_time:.1f} us")
    print(
        f"\nOpen {trace.name} in https://ui.perfetto.dev: arrows lead from operations to their derivatives."
    )

    # Compiled, a step is one event: its operations are fused in native code. Compiling has events for its stages.
    compiled = tg.compile(make_step(width=32, batch=16), name="step")
    with profile() as prof:
        for _ in range(10):
            compiled()
    stages = ("tg.compile: step", "trace", "plan", "LLVM: compile", "compiled step")
    print("\nCompiled:")
    for row in prof.key_averages():
        if row.key in stages:
            print(f"  {row.key:<18} {row.count:>3} times {row.cpu_time_str:>10}")


if __name__ == "__main__":
    main()
