"""Train a small network on real handwritten digits, with the whole training step compiled.

    python examples/train_digits.py

The data are the 1,797 scanned digits of 8 x 8 pixels that come with scikit-learn; every fifth is held out. One
function does a step: clear gradients, forward with dropout, loss, backward, Adam. With ``@tg.compile`` it becomes
one native function; at the end the same step is timed both ways. Exits with an error below 97 % on the held-out
digits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import tracegrad as tg
import tracegrad.nn.functional as F  # noqa: N812
from tracegrad import nn, optim

GOAL = 0.97


@tg.compile
def step(model: nn.Module, optimizer: optim.Optimizer, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    """One step of training; returns the loss before it."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def load() -> tuple[tg.Tensor, tg.Tensor, tg.Tensor, tg.Tensor]:
    """Pixels in [0, 1] and classes, for training and held out; each class is split evenly."""
    digits = load_digits()
    x, x_test, y, y_test = train_test_split(
        (digits.data / 16).astype("float32"),
        digits.target,
        test_size=0.2,
        random_state=0,
        stratify=digits.target,
    )
    return tg.tensor(x), tg.tensor(y), tg.tensor(x_test), tg.tensor(y_test)


def make_model() -> nn.Module:
    """Three layers; dropout against overfitting on 1,437 examples."""
    return nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, 10),
    )


def train(
    model: nn.Module,
    optimizer: optim.Optimizer,
    x: tg.Tensor,
    y: tg.Tensor,
    epochs: int,
    batch: int,
) -> list[float]:
    """Train in shuffled batches of equal size; returns the loss of every step."""
    losses: list[float] = []
    with tqdm(range(epochs), desc="training", unit="epoch", file=sys.stdout) as bar:
        for _ in bar:
            order = tg.randperm(len(x))
            for start in range(0, len(x) - batch + 1, batch):
                rows = order[start : start + batch]
                losses.append(step(model, optimizer, x[rows], y[rows]).item())
            bar.set_postfix(loss=f"{losses[-1]:.4f}")
    return losses


def predict(model: nn.Module, x: tg.Tensor) -> tg.Tensor:
    """The most probable classes."""
    model.eval()
    with tg.no_grad():
        return model(x).argmax(1)


def compare_speed(x: tg.Tensor, y: tg.Tensor, batch: int, repeats: int) -> tuple[float, float]:
    """Median seconds per step, compiled and eager, on two new models and in turns.

    NumPy's BLAS, which eager products call, is held to one thread: as many as compiled code uses.
    """
    sides = []
    for function in (step, step.__wrapped__):
        model = make_model()
        sides.append((function, model, optim.Adam(model.parameters())))
    times: list[list[float]] = [[], []]
    with threadpool_limits(limits=1):
        for turn in range(repeats + 5):
            start = turn * batch % (len(x) - batch)
            pixels, classes = x[start : start + batch], y[start : start + batch]
            for (function, model, optimizer), taken in zip(sides, times, strict=True):
                begin = time.perf_counter()
                function(model, optimizer, pixels, classes)
                if turn >= 5:  # The first turns trace and compile.
                    taken.append(time.perf_counter() - begin)
    return statistics.median(times[0]), statistics.median(times[1])


def draw(losses: list[float], x: tg.Tensor, y: tg.Tensor, found: tg.Tensor, path: Path) -> None:
    """The loss curve, and held-out digits with what was predicted; mistakes in red."""
    wrong = (found != y).nonzero().reshape(-1).tolist()
    right_ones = (found == y).nonzero().reshape(-1).tolist()
    shown = (wrong[:4] + right_ones)[:12]
    figure = plt.figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2)
    axes = left.subplots()
    axes.plot(losses, color="0.8", linewidth=0.8, label="step")
    width = max(1, len(losses) // 30)
    chunks = [losses[i : i + width] for i in range(0, len(losses), width)]
    middles = [width * i + len(chunk) / 2 for i, chunk in enumerate(chunks)]
    if width > 1:
        means = [statistics.fmean(chunk) for chunk in chunks]
        axes.plot(middles, means, color="C0", label=f"mean of {width}")
    axes.set(xlabel="step", ylabel="cross entropy", yscale="log", title="training loss")
    axes.legend()
    for axes, index in zip(right.subplots(3, 4).flat, shown, strict=False):
        axes.imshow(x[index].reshape(8, 8).numpy(), cmap="gray_r")
        true, guess = y[index].item(), found[index].item()
        text = f"{guess}" if true == guess else f"{guess}, is {true}"
        axes.set_title(text, color="black" if true == guess else "red", fontsize=9, pad=2)
        axes.axis("off")
    right.suptitle("predicted, held out")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train a network on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    parser.add_argument("--quick", action="store_true", help="two epochs, whatever the accuracy")
    options = parser.parse_args(arguments)
    if not 1 <= options.batch_size <= 512:
        parser.error("--batch-size must be between 1 and 512")
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {error}")
    epochs = 2 if options.quick else options.epochs

    tg.manual_seed(0)
    x, y, x_test, y_test = load()
    model = make_model()
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    begin = time.perf_counter()
    losses = train(model, optimizer, x, y, epochs, options.batch_size)
    seconds = time.perf_counter() - begin
    found = predict(model, x_test)
    accuracy = (found == y_test).float().mean().item()
    picture = options.out / "train_digits.png"
    draw(losses, x_test, y_test, found, picture)

    repeats = 20 if options.quick else 200
    compiled, eager = compare_speed(x, y, options.batch_size, repeats)
    stats = step.stats
    print(f"{len(losses)} steps in {seconds:.2f} s, compilation included")
    print(f"held out: {accuracy:.2%} of {len(y_test)} digits right")
    print(
        f"a step takes {compiled * 1e6:.0f} us compiled, {eager * 1e6:.0f} us eagerly: "
        f"{eager / compiled:.1f} times as fast (one thread each)"
    )
    print(f"of {stats.calls} calls {stats.native} ran natively, {stats.eager} eagerly")
    print(f"picture: {picture}")
    if accuracy < GOAL and not options.quick:
        print(f"below the goal of {GOAL:.0%}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
