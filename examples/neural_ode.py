"""Learn a differential equation from a trajectory: a neural ODE, differentiated through its Runge-Kutta steps.

    python examples/neural_ode.py

A point spirals inwards by y' = A y^3 (elementwise cube). All that is given are 200 positions with a little noise, not
the equation. A small network f takes its place: y' = f(y), integrated by the classical Runge-Kutta method with one step
from each position to the next, is fitted to pieces of the trajectory (Chen et al., 2018). Gradients go backwards
through the solver: "discretize, then optimize", exact for the numbers that were computed.

The training step is one compiled function. Its loop over time is unrolled: with 4 steps of 4 evaluations, the network
stands in it 16 times, and so does its adjoint. So the pieces are short on purpose; compile time grows with them.
Each piece starts at a measured position, noise and all: with five times the noise, the learned point falls behind.
The picture compares the learned flow, followed for the entire time from the first position, with the true one.

It prints the error of both trajectory and vector field, compilation statistics and timings, and repeats the first steps
eagerly, from the same seed, to compare the parameters. Exits with an error if the trajectory is far off. Takes about
20 s.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from timeit import Timer

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

import tracegrad as tg
from tracegrad import nn, optim

POSITIONS, INTERVAL, NOISE = 200, 0.05, 0.002
PIECES, LENGTH, RATE = 32, 4, 5e-3
START, TURN = (1.5, 0.0), ((-0.1, 2.0), (-2.0, -0.1))


def true_flow(y: tg.Tensor) -> tg.Tensor:
    return y**3 @ tg.tensor(TURN)


class Flow(nn.Module):
    """f(y), from positions (..., 2) to velocities."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 2))

    def forward(self, y: tg.Tensor) -> tg.Tensor:
        return self.layers(y**3)


def advance(flow: Callable[[tg.Tensor], tg.Tensor], y: tg.Tensor, h: float) -> tg.Tensor:
    """One step of the classical Runge-Kutta method, with an error of order h^5."""
    k1 = flow(y)
    k2 = flow(y + h / 2 * k1)
    k3 = flow(y + h / 2 * k2)
    k4 = flow(y + h * k3)
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@tg.no_grad()
def follow(flow: Callable[[tg.Tensor], tg.Tensor], count: int, steps: int = 1) -> tg.Tensor:
    """The first positions (count, 2) of a trajectory; so many steps from one to the next."""
    y = tg.tensor(START)
    path = [y]
    for _ in range(count - 1):
        for _ in range(steps):
            y = advance(flow, y, INTERVAL / steps)
        path.append(y)
    return tg.stack(path)


@tg.compile
def step(flow: nn.Module, optimizer: optim.Optimizer, pieces: tg.Tensor) -> tg.Tensor:
    """One update on pieces (pieces, 1 + length, 2) of the trajectory; returns the mean absolute error before it."""
    optimizer.zero_grad()
    y = pieces[:, 0]
    path = []
    for _ in range(LENGTH):
        y = advance(flow, y, INTERVAL)
        path.append(y)
    loss = (tg.stack(path, 1) - pieces[:, 1:]).abs().mean()
    loss.backward()
    optimizer.step()
    return loss


def train(
    step: Callable[..., tg.Tensor], path: tg.Tensor, steps: int, planned: int
) -> tuple[nn.Module, optim.Optimizer, list[float]]:
    """From the same start always; the learning rate falls to zero over the planned number of steps."""
    tg.manual_seed(1)
    flow = Flow()
    optimizer = optim.Adam(flow.parameters(), lr=tg.tensor(RATE))
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, planned)
    within = tg.arange(LENGTH + 1)
    losses = []
    for _ in range(steps):
        starts = tg.randint(len(path) - LENGTH, (PIECES, 1))
        losses.append(step(flow, optimizer, path[starts + within]).item())
        schedule.step()
    return flow, optimizer, losses


def milliseconds(function: Callable[..., object], *arguments: object) -> float:
    turns, seconds = Timer(lambda: function(*arguments)).autorange()
    return seconds / turns * 1e3


def draw(
    flow: nn.Module,
    data: tg.Tensor,
    exact: tg.Tensor,
    found: tg.Tensor,
    losses: list[float],
    path: Path,
) -> None:
    """Trajectories in the plane and over time, with the learned flow, and the loss."""
    figure, (plane, times, curve) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    grid = np.linspace(-1.7, 1.7, 40, dtype="float32")
    y = np.stack(np.meshgrid(grid, grid), -1)
    with tg.no_grad():
        arrows = flow(tg.from_numpy(y)).numpy()
    plane.streamplot(
        grid,
        grid,
        arrows[..., 0],
        arrows[..., 1],
        color="0.8",
        linewidth=0.6,
        arrowsize=0.6,
        density=1.3,
    )
    plane.plot(*data.numpy().T, ".", color="0.4", markersize=3, label="data")
    plane.plot(*exact.numpy().T, "k:", linewidth=1.2, label="true")
    plane.plot(*found.numpy().T, color="C3", linewidth=1, label="learned")
    plane.set(
        xlabel="y1",
        ylabel="y2",
        xlim=(-1.7, 1.7),
        ylim=(-1.7, 1.7),
        aspect="equal",
        title="learned flow",
    )
    plane.legend(loc="upper right", framealpha=1)
    seconds = INTERVAL * np.arange(POSITIONS)
    for column, color, name in ((0, "C0", "y1"), (1, "C1", "y2")):
        times.plot(seconds, exact[:, column], "k:", linewidth=1.5)
        times.plot(seconds, found[:, column], color=color, label=name)
    times.plot([], [], "k:", label="true")
    times.set(xlabel="time", title="the whole time from the first position")
    times.legend(loc="upper right", ncols=3)
    width = max(1, len(losses) // 60)
    means = np.reshape(losses[: len(losses) // width * width], (-1, width)).mean(1)
    curve.semilogy(losses, color="0.8", linewidth=0.7)
    curve.semilogy(width * (np.arange(len(means)) + 0.5), means, label=f"mean of {width}")
    curve.axhline(
        NOISE * np.sqrt(4 / np.pi),
        color="black",
        linewidth=0.8,
        linestyle=":",
        label="noise of both ends",
    )
    curve.set(xlabel="step", ylabel="mean absolute error", title="training loss")
    curve.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps, whatever the error")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    tg.manual_seed(0)
    exact = follow(true_flow, POSITIONS, steps=8)
    data = exact + NOISE * tg.randn_like(exact)
    steps = 200 if options.quick else 10000
    begin = time.perf_counter()
    flow, optimizer, losses = train(step, data, steps, steps)
    seconds = time.perf_counter() - begin
    print(f"{steps} steps in {seconds:.1f} s, {step.stats.compile_seconds:.1f} s of it compilation")
    print(f"step: {step.stats}")

    found = follow(flow, POSITIONS)
    error = (found - exact).norm(dim=1).mean().item()
    with tg.no_grad():
        speed = true_flow(exact)
        of_flow = ((flow(exact) - speed).norm() / speed.norm()).item()
    print(
        f"followed for {POSITIONS * INTERVAL:.0f} s: {error:.4f} from the true trajectory on average"
    )
    print(f"velocity on the true trajectory: relative error {of_flow:.4f}")
    draw(flow, data, exact, found, losses, options.out / "neural_ode.png")
    print("picture:", options.out / "neural_ode.png")

    pieces = data.unfold(0, LENGTH + 1, 1)[:PIECES].transpose(1, 2).contiguous()
    compiled = milliseconds(step, flow, optimizer, pieces)
    eager = milliseconds(step.__wrapped__, flow, optimizer, pieces)
    print(f"a step takes {compiled:.2f} ms compiled, {eager:.2f} ms eagerly (one thread each)")
    ends = [
        list(train(function, data, 5, steps)[0].parameters())
        for function in (step, step.__wrapped__)
    ]
    apart = max((p - q).abs().max().item() for p, q in zip(*ends, strict=True))
    print(
        f"after five steps, compiled and eager parameters are {apart:.1e} apart, steps of Adam are {RATE}"
    )
    if error > 0.1 and not options.quick:
        print("the trajectory is far off", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with threadpool_limits(limits=1):  # As many as compiled code uses.
        sys.exit(main())
