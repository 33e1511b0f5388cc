"""Solve the heat equation with a physics-informed network: its second derivatives are inside the training step.

    python examples/heat_pinn.py

A rod of length 1 is held at temperature 0 at both ends and starts with two waves; then u_t = k u_xx. No solution is
shown to the network. Its loss is how far it is from satisfying the equation at random points (Raissi, Perdikaris and
Karniadakis, 2019). The derivatives of the network with respect to its inputs come from `tg.autograd.grad(...,
create_graph=True)`, so that the loss, which contains u_t and u_xx, can be differentiated with respect to the
parameters: three derivatives deep. What is traced is plain operations, so all of that becomes one native function.

Start and ends are built in: u = start(x) + t x (1 - x) network(x, t) satisfies them whatever the network says.

It prints the error against the exact solution, compilation statistics and timings, and repeats the first steps eagerly,
from the same seed, to compare the parameters. Exits with an error above 1 %. Takes about 12 s.
"""

from __future__ import annotations

import argparse
import math
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

CONDUCTIVITY, POINTS, RATE, GOAL = 0.1, 256, 5e-3, 0.01
WAVES = ((1, 1.0), (3, 0.5))  # half-waves on the rod, amplitude at the start


def exact(x: tg.Tensor, t: tg.Tensor) -> tg.Tensor:
    """Each wave decays by itself."""
    u = tg.zeros_like(x)
    for count, amplitude in WAVES:
        number = count * math.pi
        u = u + amplitude * (-CONDUCTIVITY * number**2 * t).exp() * (number * x).sin()
    return u


class Rod(nn.Module):
    """Temperatures u(x, t); start and ends are right whatever the parameters are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 32),
            nn.Tanh(),
            nn.Linear(32, 32),
            nn.Tanh(),
            nn.Linear(32, 1),
            nn.Flatten(0),
        )

    def forward(self, x: tg.Tensor, t: tg.Tensor) -> tg.Tensor:
        inputs = tg.stack([2 * x - 1, 2 * t - 1], 1)
        return exact(x, tg.zeros_like(t)) + t * x * (1 - x) * self.layers(inputs)


def slope(u: tg.Tensor, x: tg.Tensor) -> tg.Tensor:
    """du/dx at each point: every u depends on its own x alone, so the gradient of the sum has them all."""
    (found,) = tg.autograd.grad(u.sum(), x, create_graph=True)
    return found


def residual(rod: nn.Module, x: tg.Tensor, t: tg.Tensor) -> tg.Tensor:
    """u_t - k u_xx, which is 0 for a solution."""
    u = rod(x, t)
    return slope(u, t) - CONDUCTIVITY * slope(slope(u, x), x)


@tg.compile
def step(rod: nn.Module, optimizer: optim.Optimizer) -> tg.Tensor:
    """One update on new random points; returns the mean squared residual before it."""
    x = tg.rand(POINTS, requires_grad=True)
    t = tg.rand(POINTS, requires_grad=True)
    optimizer.zero_grad()
    loss = (residual(rod, x, t) ** 2).mean()
    loss.backward()
    optimizer.step()
    return loss


def train(
    step: Callable[..., tg.Tensor], steps: int, planned: int
) -> tuple[nn.Module, optim.Optimizer, list[float]]:
    """From the same start always; the learning rate falls to zero over the planned number of steps."""
    tg.manual_seed(0)
    rod = Rod()
    optimizer = optim.Adam(rod.parameters(), lr=tg.tensor(RATE))
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, planned)
    losses = []
    for _ in range(steps):
        losses.append(step(rod, optimizer).item())
        schedule.step()
    return rod, optimizer, losses


def milliseconds(function: Callable[..., object], *arguments: object) -> float:
    turns, seconds = Timer(lambda: function(*arguments)).autorange()
    return seconds / turns * 1e3


def draw(found: tg.Tensor, wanted: tg.Tensor, losses: list[float], path: Path) -> None:
    """The solution, its error, profiles at some times (grids are of x and t), and the loss."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    place = {"origin": "lower", "extent": (0, 1, 0, 1), "aspect": "auto"}
    shown = axes[0].imshow(found.numpy(), cmap="inferno", **place)
    figure.colorbar(shown)
    axes[0].set(xlabel="t", ylabel="x", title="temperature u(x, t)")
    error = (found - wanted).numpy()
    reach = abs(error).max()
    shown = axes[1].imshow(error, cmap="RdBu_r", vmin=-reach, vmax=reach, **place)
    figure.colorbar(shown)
    axes[1].set(xlabel="t", ylabel="x", title="error")
    x = np.linspace(0, 1, len(found))
    for moment in (0.0, 0.1, 0.3, 1.0):
        column = round(moment * (found.shape[1] - 1))
        axes[2].plot(x, found[:, column], color=plt.cm.viridis(moment * 0.9), label=f"t = {moment}")
        axes[2].plot(x, wanted[:, column], "k:")
    axes[2].plot([], [], "k:", label="exact")
    axes[2].set(xlabel="x", ylabel="u", ylim=(0, 1.15), title="profiles")
    axes[2].legend(ncols=2, fontsize=8)
    axes[3].loglog(range(1, len(losses) + 1), losses, linewidth=0.8)
    axes[3].set(xlabel="step", ylabel="mean squared residual", title="training loss")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps, whatever the error")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    steps = 500 if options.quick else 8000
    begin = time.perf_counter()
    rod, optimizer, losses = train(step, steps, steps)
    seconds = time.perf_counter() - begin
    print(f"{steps} steps in {seconds:.1f} s, {step.stats.compile_seconds:.1f} s of it compilation")
    print(f"step: {step.stats}")

    x, t = tg.meshgrid(tg.linspace(0, 1, 101), tg.linspace(0, 1, 101), indexing="ij")
    wanted = exact(x, t)
    with tg.no_grad():
        found = rod(x.flatten(), t.flatten()).reshape(x.shape)
    error = ((found - wanted).norm() / wanted.norm()).item()
    largest = (found - wanted).abs().max().item()
    print(
        f"against the exact solution: relative error {error:.2e}, nowhere more than {largest:.2e}"
    )
    draw(found, wanted, losses, options.out / "heat_pinn.png")
    print("picture:", options.out / "heat_pinn.png")

    compiled = milliseconds(step, rod, optimizer)
    eager = milliseconds(step.__wrapped__, rod, optimizer)
    print(f"a step takes {compiled:.2f} ms compiled, {eager:.2f} ms eagerly (one thread each)")
    ends = [
        list(train(function, 5, steps)[0].parameters()) for function in (step, step.__wrapped__)
    ]
    apart = max((p - q).abs().max().item() for p, q in zip(*ends, strict=True))
    print(
        f"after five steps, compiled and eager parameters are {apart:.1e} apart, steps of Adam are {RATE}"
    )
    if error > GOAL and not options.quick:
        print(f"above the goal of {GOAL:.0%}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with threadpool_limits(limits=1):  # As many as compiled code uses.
        sys.exit(main())
