"""A variational autoencoder of handwritten digits: a plane in which every point is a digit.

    python examples/vae_digits.py

An encoder maps a picture to a normal distribution on the plane, a decoder maps points of the plane to pictures. Both
are trained to maximise a lower bound of the likelihood of the data (Kingma and Welling, 2014): how well a picture is
restored from a point that is drawn from its distribution, minus how far that distribution is from the standard normal
one, in closed form. Drawing is written as mean + deviation * noise, so that gradients pass through it.

The random numbers are drawn within the compiled step, by a generator whose state is updated in place like a parameter:
compiled and plain code draw the same ones from the same seed. The picture shows where the digits are on the plane, the
decoded plane itself (points at equal probabilities), held-out digits and what is left of them after passing through
two numbers, and a walk through the plane from one digit to another.

It prints the bound on held-out digits, compilation statistics and timings, and repeats the first steps eagerly, from
the same seed, to compare the parameters. Exits with an error if the bound is poor. Takes about 10 s.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from timeit import Timer

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import tracegrad as tg
import tracegrad.nn.functional as F  # noqa: N812
from tracegrad import nn, optim

BATCH, EPOCHS, RATE, GOAL = 128, 300, 2e-3, 26.0


def load() -> tuple[tg.Tensor, tg.Tensor, tg.Tensor, tg.Tensor]:
    """Pixels (n, 64) in [0, 1] and classes, for training and held out; each class is split evenly."""
    digits = load_digits()
    x, x_test, y, y_test = train_test_split(
        (digits.data / 16).astype("float32"),
        digits.target,
        test_size=0.2,
        random_state=0,
        stratify=digits.target,
    )
    return tg.tensor(x), tg.tensor(y), tg.tensor(x_test), tg.tensor(y_test)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(64, 128), nn.ELU(), nn.Linear(128, 64), nn.ELU(), nn.Linear(64, 4)
        )
        self.decoder = nn.Sequential(
            nn.Linear(2, 64), nn.ELU(), nn.Linear(64, 128), nn.ELU(), nn.Linear(128, 64)
        )

    def encode(self, x: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        """Mean and logarithm of the variance, (n, 2) each."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: tg.Tensor) -> tg.Tensor:
        """How dark the pixels are: the probabilities that they are black."""
        return self.decoder(z).sigmoid()

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        """The negative lower bound, in nats for one picture, for one draw of each point."""
        mean, log_variance = self.encode(x)
        z = mean + (log_variance / 2).exp() * tg.randn_like(mean)
        restored = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 2
        return (restored + divergence) / len(x)


@tg.compile
def step(model: nn.Module, optimizer: optim.Optimizer, x: tg.Tensor) -> tg.Tensor:
    """One step of training; returns the negative bound before it."""
    optimizer.zero_grad()
    loss = model(x)
    loss.backward()
    optimizer.step()
    return loss


def train(
    step: Callable[..., tg.Tensor], x: tg.Tensor, epochs: int, planned: int
) -> tuple[Autoencoder, optim.Optimizer, list[float]]:
    """From the same start always, in shuffled batches of equal size; the learning rate falls to zero as planned."""
    tg.manual_seed(0)
    model = Autoencoder()
    optimizer = optim.Adam(model.parameters(), lr=tg.tensor(RATE))
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, planned)
    losses: list[float] = []
    steps = len(x) // BATCH
    with tqdm(
        range(epochs), desc="training", unit="epoch", file=sys.stdout, disable=epochs == 1
    ) as bar:
        for _ in bar:
            for rows in tg.randperm(len(x))[: steps * BATCH].split(BATCH):
                losses.append(step(model, optimizer, x[rows]).item())
            schedule.step()
            bar.set_postfix(bound=f"{-losses[-1]:.2f}")
    return model, optimizer, losses


def microseconds(function: Callable[..., object], *arguments: object) -> float:
    turns, seconds = Timer(lambda: function(*arguments)).autorange()
    return seconds / turns * 1e6


def tiles(pictures: tg.Tensor, rows: int) -> np.ndarray:
    """Pictures (n, 64) side by side, row after row, with a white line around each."""
    framed = F.pad(pictures.reshape(rows, -1, 8, 8), (1, 1, 1, 1))
    return framed.transpose(1, 2).flatten(2).flatten(0, 1).numpy()


def centre(means: tg.Tensor, y: tg.Tensor, digit: int) -> tg.Tensor:
    return means[y == digit].median(0).values


@tg.no_grad()
def draw(
    model: Autoencoder, x: tg.Tensor, y: tg.Tensor, x_test: tg.Tensor, y_test: tg.Tensor, path: Path
) -> None:
    means, _ = model.encode(x)
    figure, axes = plt.subplots(
        1, 3, figsize=(13, 4.6), layout="constrained", width_ratios=[1.15, 1, 0.95]
    )
    dots = axes[0].scatter(*means.numpy().T, c=y.numpy(), cmap="tab10", vmin=-0.5, vmax=9.5, s=5)
    figure.colorbar(dots, ticks=range(10))
    stops = tg.stack([centre(means, y, digit) for digit in (7, 4, 0, 3, 2)])
    axes[0].plot(*stops.numpy().T, "k.-", linewidth=0.8)
    axes[0].set(
        title="where the digits are, and the walk", xlabel="first number", ylabel="second number"
    )

    count = 12
    quantiles = tg.special.ndtri((tg.arange(count) + 0.5) / count)
    z = tg.cartesian_prod(-quantiles, quantiles).flip(1)
    axes[1].imshow(tiles(model.decode(z), count), cmap="gray_r")
    axes[1].set_title("the plane, decoded")

    shown = tg.stack([x_test[y_test == digit][0] for digit in range(10)])
    restored = model.decode(model.encode(shown)[0])
    part = tg.linspace(0, 1, 10).unsqueeze(1)
    walk = [tg.lerp(a, b, part) for a, b in pairwise(stops)]
    rows = tg.cat([shown, restored, *(model.decode(z) for z in walk)])
    image = tiles(rows, 2 + len(walk))
    image = np.insert(image, 20, np.zeros((4, image.shape[1])), axis=0)
    axes[2].imshow(image, cmap="gray_r")
    axes[2].set_title("held out; restored; the walk, row by row")
    for panel in axes[1:]:
        panel.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few epochs, whatever the result")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    x, y, x_test, y_test = load()
    epochs = 20 if options.quick else EPOCHS
    begin = time.perf_counter()
    model, optimizer, losses = train(step, x, epochs, epochs)
    seconds = time.perf_counter() - begin
    with tg.no_grad():
        cost = statistics.fmean(model(x_test).item() for _ in range(100))
    print(
        f"{len(losses)} steps in {seconds:.1f} s, {step.stats.compile_seconds:.1f} s of it compilation"
    )
    print(f"step: {step.stats}")
    print(
        f"lower bound of the log likelihood: {-statistics.fmean(losses[-20:]):.2f} nats, held out {-cost:.2f}"
    )
    draw(model, x, y, x_test, y_test, options.out / "vae_digits.png")
    print("picture:", options.out / "vae_digits.png")

    compiled = microseconds(step, model, optimizer, x[:BATCH])
    eager = microseconds(step.__wrapped__, model, optimizer, x[:BATCH])
    print(f"a step takes {compiled:.0f} us compiled, {eager:.0f} us eagerly (one thread each)")
    ends = [
        list(train(function, x, 1, epochs)[0].parameters()) for function in (step, step.__wrapped__)
    ]
    apart = max((p - q).abs().max().item() for p, q in zip(*ends, strict=True))
    print(
        f"after an epoch, compiled and eager parameters are {apart:.1e} apart, steps of Adam are {RATE}"
    )
    if cost > GOAL and not options.quick:
        print(f"the bound is below {-GOAL}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with threadpool_limits(limits=1):  # As many as compiled code uses.
        sys.exit(main())
