"""Fit a polynomial to noisy points twice: by gradient descent, and by SciPy's BFGS with compiled gradients.

    python examples/polynomial_fit.py

The points lie on a sine. Gradient descent is one compiled function with `backward()` and the update inside.
`tg.interop.ScipyObjective` hands the same loss to `scipy.optimize.minimize`, as a function that returns value and
gradient. Both are compared with the least squares solution, which is known for a polynomial: it prints the three
losses and the calls that ran natively, and exits with an error where they differ. Takes about 5 s.
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
from scipy.optimize import minimize

import tracegrad as tg

DEGREE = 5


def polynomial(coefficients: tg.Tensor, x: tg.Tensor) -> tg.Tensor:
    """c[0] + c[1] x + c[2] x^2 + ..., by Horner's rule."""
    value = tg.zeros_like(x)
    for coefficient in coefficients.flip(0):
        value = value * x + coefficient
    return value


def loss_of(coefficients: tg.Tensor, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    return ((polynomial(coefficients, x) - y) ** 2).mean()


compiled_loss = tg.compile(loss_of)


@tg.compile
def descend(
    coefficients: tg.Tensor, optimizer: tg.optim.Optimizer, x: tg.Tensor, y: tg.Tensor
) -> tg.Tensor:
    """One step of gradient descent; returns the loss before it."""
    optimizer.zero_grad()
    loss = loss_of(coefficients, x, y)
    loss.backward()
    optimizer.step()
    return loss


def microseconds(function: Callable[[], object]) -> float:
    turns, seconds = Timer(function).autorange()
    return seconds / turns * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps of gradient descent")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    tg.manual_seed(0)
    x = tg.linspace(-1, 1, 200, dtype=tg.float64)
    y = tg.sin(3 * x) + 0.15 * tg.randn(200, dtype=tg.float64)
    exact = np.polynomial.polynomial.polyfit(x.numpy(), y.numpy(), DEGREE)
    least = loss_of(tg.from_numpy(exact), x, y).item()

    coefficients = tg.zeros(DEGREE + 1, dtype=tg.float64, requires_grad=True)
    optimizer = tg.optim.SGD([coefficients], lr=0.1, momentum=0.9)
    steps = 500 if options.quick else 3000
    descent = [descend(coefficients, optimizer, x, y).item() for _ in range(steps)]

    objective = tg.interop.ScipyObjective(compiled_loss, args=(x, y))
    start = np.zeros(DEGREE + 1)
    bfgs = [objective(start)[0]]
    found = minimize(
        objective, start, jac=True, method="BFGS", callback=lambda c: bfgs.append(objective(c)[0])
    )

    print(f"least squares: loss {least:.6f}, coefficients {exact.round(3)}")
    print(
        f"gradient descent: loss {descent[-1]:.6f} after {steps} steps, {descend.stats.native} of them native"
    )
    print(
        f"BFGS: loss {found.fun:.6f} after {found.nit} iterations, coefficients {found.x.round(3)}"
    )
    for name, function in (("descend", descend), ("loss_of", compiled_loss)):
        print(f"{name}: {function.stats}")
    arguments = (coefficients, optimizer, x, y)
    compiled = microseconds(lambda: descend(*arguments))
    eager = microseconds(lambda: descend.__wrapped__(*arguments))
    print(f"a step takes {compiled:.0f} us compiled, {eager:.0f} us eagerly")

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(x, y, ".", color="0.7", label="points")
    left.plot(x, tg.sin(3 * x), "k:", label="sin 3x, without the noise")
    left.plot(x, polynomial(coefficients.detach(), x), label="gradient descent")
    left.plot(x, polynomial(tg.from_numpy(found.x), x), "--", label="BFGS")
    left.set(xlabel="x", ylabel="y", ylim=(-1.4, 2), title=f"polynomial of degree {DEGREE}")
    left.legend(loc="upper center", ncols=2)
    right.loglog(range(1, steps + 1), descent, label="gradient descent")
    right.loglog(range(1, len(bfgs) + 1), bfgs, "o--", markersize=4, label="BFGS")
    right.axhline(least, color="black", linewidth=0.8, linestyle=":", label="least squares")
    right.set(xlabel="step", ylabel="mean squared error", title="loss")
    right.legend()
    figure.savefig(options.out / "polynomial_fit.png", dpi=110)
    print("picture:", options.out / "polynomial_fit.png")
    slack = 0.5 if options.quick else 1e-3
    if not (found.fun < least * (1 + 1e-8) and descent[-1] < least * (1 + slack)):
        print("a fit is worse than least squares", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
