"""A walk through automatic differentiation: what is recorded, how gradients flow, when they do not.

    python examples/autograd_tutorial.py

Along the way of PyTorch's tutorial on autograd, in a few small experiments: a damped wave and its slope, the graph
behind a number, a line fitted to noisy points with and without clearing gradients, ways to switch the recording
off, changes in place, where the time goes, and Jacobians. Writes two plots.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import tracegrad as tg
from tracegrad import nn
from tracegrad.autograd import functional, profiler


def chapter(title: str) -> None:
    print(f"\n{title}\n{'-' * len(title)}")


def slope_of_a_wave(out: Path) -> None:
    """`backward` fills in the derivative at every point at once."""
    chapter("A damped wave and its slope")
    t = tg.linspace(0.0, 4 * math.pi, steps=121, requires_grad=True)
    wave = tg.exp(-t / 5) * tg.sin(t)
    # Each element of `wave` depends on one element of `t` only, so the gradient of the sum is every slope.
    wave.sum().backward()
    exact = tg.exp(-t / 5) * (tg.cos(t) - tg.sin(t) / 5)
    print("largest difference from the formula:", f"{(t.grad - exact.detach()).abs().max():.1e}")

    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(t.detach(), wave.detach(), label="exp(-t/5) sin(t)")
    axes.plot(t.detach(), t.grad, "--", label="its slope, by backward()")
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_xlabel("t")
    axes.legend()
    figure.tight_layout()
    figure.savefig(out / "wave_and_slope.png", dpi=110)
    plt.close(figure)


def graph_behind_a_number() -> None:
    """Every result knows the operation that made it, and where its operands came from."""
    chapter("The graph behind a number")
    radius = tg.tensor(2.0, requires_grad=True)
    area = math.pi * radius**2
    cost = area.sqrt() + 3
    print("cost =", cost)
    record, depth = cost.grad_fn, 0
    while record is not None:
        print("  " * depth + record.name())
        nexts = [node for node, _ in record.next_functions if node is not None]
        record, depth = (nexts[0] if nexts else None), depth + 1
    cost.backward()
    print("d cost / d radius =", radius.grad, "= sqrt(pi)")


def fit_a_line(out: Path, steps: int) -> None:
    """Gradients add up in `grad`: whoever forgets to clear them follows the sum of all gradients so far."""
    chapter("Fitting a line, with gradients cleared or not")
    tg.manual_seed(3)
    x = tg.rand(64, 1) * 4 - 2
    y = 1.5 * x - 0.5 + 0.3 * tg.randn(64, 1)
    figure, axes = plt.subplots(figsize=(7, 4))
    for clear in (True, False):
        tg.manual_seed(0)
        model = nn.Linear(1, 1)
        optimizer = tg.optim.SGD(model.parameters(), lr=0.05)
        losses = []
        for _ in range(steps):
            if clear:
                optimizer.zero_grad()
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        label = "zero_grad() in each step" if clear else "gradients never cleared"
        print(
            f"{label}: slope {model.weight.item():.2f}, offset {model.bias.item():.2f}, loss {losses[-1]:.3f}"
        )
        axes.plot(losses, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_yscale("log")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    figure.tight_layout()
    figure.savefig(out / "cleared_or_not.png", dpi=110)
    plt.close(figure)


@tg.no_grad()
def distance(a: tg.Tensor, b: tg.Tensor) -> tg.Tensor:
    """Only the number is wanted here, never its derivative."""
    return (a - b).norm()


def recording_switched_off() -> None:
    """Four ways to compute without a record."""
    chapter("Recording switched off")
    a = tg.tensor([3.0, 4.0], requires_grad=True)
    b = tg.zeros(2)
    print("recorded:    ", (a - b).norm())
    with tg.no_grad():
        print("no_grad():   ", (a - b).norm())
    print("decorated:   ", distance(a, b))
    print("detached:    ", (a.detach() - b).norm())
    a.requires_grad = False
    print("flag removed:", (a - b).norm())


def changes_in_place() -> None:
    """What the backward pass still needs may not be overwritten; the error names both lines."""
    chapter("Changes in place")
    a = tg.tensor([0.5, 1.0], requires_grad=True)
    try:
        tg.sin_(a)
    except RuntimeError as error:
        print("refused:", error)
    b = a * 2
    c = b.exp()
    c.mul_(10)
    try:
        c.sum().backward()
    except RuntimeError as error:
        print("\nrefused:", error)


def where_time_goes(turns: int) -> None:
    """The profiler counts and times every operation, forward and backward."""
    chapter("Where the time goes")
    z = tg.ones(2, 3, requires_grad=True)
    factor = tg.full((2, 3), 1.01)
    with profiler.profile() as profile:
        w = z
        for _ in range(turns):
            w = (w * factor).sin()
        w.sum().backward()
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=6))


def jacobians() -> None:
    """Derivatives of many numbers with respect to many: the whole matrix, or its product with a vector."""
    chapter("Jacobians")

    def to_cartesian(polar: tg.Tensor) -> tg.Tensor:
        radius, angle = polar
        return tg.stack([radius * angle.cos(), radius * angle.sin()])

    polar = tg.tensor([2.0, math.pi / 6])
    matrix = functional.jacobian(to_cartesian, polar)
    print("Jacobian of polar to Cartesian coordinates:")
    print(matrix)
    determinant = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    print(f"determinant {determinant:.4f}, the radius")
    direction = tg.tensor([0.0, 1.0])
    print("velocity on the circle:", functional.jvp(to_cartesian, polar, direction)[1])
    print("Hessian of x^2 y at (1, 2):")
    print(functional.hessian(lambda p: p[0] ** 2 * p[1], tg.tensor([1.0, 2.0])))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "output", help="folder for the plots"
    )
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    slope_of_a_wave(options.out)
    graph_behind_a_number()
    fit_a_line(options.out, steps=20 if options.quick else 60)
    recording_switched_off()
    changes_in_place()
    where_time_goes(turns=50 if options.quick else 500)
    jacobians()
    print(f"\nplots: {options.out / 'wave_and_slope.png'}, {options.out / 'cleared_or_not.png'}")


if __name__ == "__main__":
    main()
