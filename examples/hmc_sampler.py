"""Hamiltonian Monte Carlo: many chains at once, each transition one compiled function.

    python examples/hmc_sampler.py

The density is a curved ridge ("banana") whose marginals are known by quadrature. A transition draws momenta,
follows the Hamiltonian flow by leapfrog steps, with the gradient of the log density in each of them, and accepts or
rejects; random numbers, gradients and the decision are all inside the compiled function. It prints mean and
deviation of both coordinates beside the exact ones, and exits with an error where they differ. Takes about 6 s.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from timeit import Timer

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import tracegrad as tg

LEAPS, STEP = 12, 0.18


def log_density(q: tg.Tensor) -> tg.Tensor:
    """Of points (..., 2), up to a constant."""
    x, y = q[..., 0], q[..., 1]
    return -(x**2) / 2 - 2 * (y - x**2 / 2) ** 2


slope = tg.func.grad(lambda q: log_density(q).sum())


@tg.compile
def transition(q: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
    """From the positions of all chains to their next ones, and which of them have moved."""
    p = tg.randn_like(q)
    energy = (p**2).sum(-1) / 2 - log_density(q)
    proposal = q
    p = p + STEP / 2 * slope(proposal)
    for leap in range(LEAPS):
        proposal = proposal + STEP * p
        p = p + (STEP if leap < LEAPS - 1 else STEP / 2) * slope(proposal)
    gain = energy - ((p**2).sum(-1) / 2 - log_density(proposal))
    accepted = tg.rand_like(gain).log() < gain
    return tg.where(accepted.unsqueeze(-1), proposal, q), accepted


def marginals(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalised density on the grid in both directions, and its two marginals."""
    x, y = np.meshgrid(grid, grid, indexing="ij")
    density = np.exp(log_density(tg.from_numpy(np.stack([x, y], -1))).numpy())
    width = grid[1] - grid[0]
    density /= density.sum() * width**2
    return density, density.sum(1) * width, density.sum(0) * width


def microseconds(function: Callable[[], object]) -> float:
    turns, seconds = Timer(function).autorange()
    return seconds / turns * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer transitions")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    tg.manual_seed(0)
    q = tg.zeros(100, 2, dtype=tg.float64)
    turns = 300 if options.quick else 3000
    samples, moved = [], 0.0
    for turn in range(turns + 100):
        q, accepted = transition(q)
        if turn >= 100:  # The first ones lead from the start into the ridge.
            samples.append(q.numpy())
            moved += accepted.double().mean().item() / turns
    points = np.concatenate(samples)

    grid = np.linspace(-8, 16, 801)
    density, *exact = marginals(grid)
    print(f"{len(points)} samples from {len(q)} chains, {moved:.1%} of the proposals accepted")
    worst = 0.0
    for name, column, of_grid in zip("xy", points.T, exact, strict=True):
        mean = np.trapezoid(grid * of_grid, grid)
        spread = np.sqrt(np.trapezoid((grid - mean) ** 2 * of_grid, grid))
        print(
            f"{name}: mean {column.mean():.3f} (exact {mean:.3f}), "
            f"deviation {column.std():.3f} (exact {spread:.3f})"
        )
        worst = max(worst, abs(column.mean() - mean), abs(column.std() - spread))
    print("transition:", transition.stats)
    compiled = microseconds(lambda: transition(q))
    eager = microseconds(lambda: transition.__wrapped__(q))
    print(f"a transition takes {compiled:.0f} us compiled, {eager:.0f} us eagerly")

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    axes[0].plot(*points[:: max(1, len(points) // 4000)].T, ".", markersize=2, label="samples")
    axes[0].contour(grid, grid, density.T, levels=6, colors="black", linewidths=0.7)
    axes[0].plot([], [], color="black", linewidth=0.7, label="density")
    axes[0].set(xlabel="x", ylabel="y", xlim=(-3.5, 3.5), ylim=(-2, 6), title="samples")
    axes[0].legend(loc="upper center")
    for panel, name, column, of_grid in zip(axes[1:], "xy", points.T, exact, strict=True):
        panel.hist(column, bins=60, density=True, color="C0", alpha=0.5, label="samples")
        panel.plot(grid, of_grid, color="black", label="exact")
        panel.set(
            xlabel=name,
            ylabel="density",
            xlim=(column.min(), column.max()),
            title=f"marginal of {name}",
        )
        panel.legend()
    figure.savefig(options.out / "hmc_sampler.png", dpi=110)
    print("picture:", options.out / "hmc_sampler.png")
    if worst > (0.06 if options.quick else 0.02):
        print(f"a moment is wrong by {worst:.3f}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
