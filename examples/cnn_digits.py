"""A small convolutional network for handwritten digits, trained by one native function to about 99 %.

    python examples/cnn_digits.py

The data are the 1,797 scans of 8 x 8 pixels that come with scikit-learn; every fifth is held out. Three convolutions to
16, 32 and 64 channels, each followed by batch normalisation; the picture is halved twice. What to look at:

- `step` is ordinary code: clear, forward, loss, `backward()`, Adam. Compiled, all of it is one call, with the running
  statistics of the normalisation, the random numbers of the dropout and the moments of Adam updated in place.
- The learning rate changes at *every* step (a one-cycle schedule), and nothing is compiled anew for it, since it is a
  tensor, `lr=tg.tensor(...)`: the schedule fills it, the native code reads it. The schedule leaves the momentum alone,
  `cycle_momentum=False`: that would be a number in a tuple, and a constant of the program.
- `model.eval()` and `no_grad()` change what the network does; the test accuracy is computed eagerly.
- Gradients are good for more than training: the picture shows, for the digits of which the network is least certain,
  the gradient of the winning score with respect to the pixels.

Curves go to a TensorBoard event file if tensorboardX is installed. It prints what it has learned, how long a step takes
compiled and eagerly, and how far the results of the two are apart; it exits with an error below 98 %. Takes about 15 s.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from timeit import Timer
from typing import Any

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

try:
    from tensorboardX import SummaryWriter
except ImportError:
    SummaryWriter = None

BATCH, EPOCHS, RATE, GOAL = 64, 20, 3e-3, 0.98


def load() -> tuple[tg.Tensor, tg.Tensor, tg.Tensor, tg.Tensor]:
    """Pictures (n, 1, 8, 8) in [0, 1] and classes, for training and held out; each class is split evenly."""
    digits = load_digits()
    x, x_test, y, y_test = train_test_split(
        (digits.images[:, None] / 16).astype("float32"),
        digits.target,
        test_size=0.2,
        random_state=0,
        stratify=digits.target,
    )
    return tg.tensor(x), tg.tensor(y), tg.tensor(x_test), tg.tensor(y_test)


def block(channels_in: int, channels_out: int) -> list[nn.Module]:
    """The normalisation subtracts means, and with them any bias that the convolution would add."""
    return [
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]


def make_model() -> nn.Module:
    return nn.Sequential(
        *block(1, 16),
        *block(16, 32),
        nn.MaxPool2d(2),  # 4 x 4
        *block(32, 64),
        nn.MaxPool2d(2),  # 2 x 2
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 2 * 2, 10),
    )


@tg.compile
def step(model: nn.Module, optimizer: optim.Optimizer, x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
    """One step of training; returns the loss before it."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def accuracy_of(model: nn.Module, x: tg.Tensor, y: tg.Tensor) -> float:
    model.eval()
    with tg.no_grad():
        found = model(x).argmax(1)
    model.train()
    return (found == y).double().mean().item()


def train(
    model: nn.Module,
    optimizer: optim.Optimizer,
    data: tuple[tg.Tensor, tg.Tensor, tg.Tensor, tg.Tensor],
    epochs: int,
    writer: Any,
) -> tuple[list[float], list[float]]:
    """Train in shuffled batches of equal size; returns the loss of every step and the accuracy after every epoch."""
    x, y, x_test, y_test = data
    steps = len(x) // BATCH
    schedule = optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=RATE, total_steps=epochs * steps, cycle_momentum=False
    )
    losses: list[float] = []
    accuracies: list[float] = []
    with tqdm(range(1, epochs + 1), desc="training", unit="epoch", file=sys.stdout) as bar:
        for epoch in bar:
            for rows in tg.randperm(len(x))[: steps * BATCH].split(BATCH):
                losses.append(step(model, optimizer, x[rows], y[rows]).item())
                schedule.step()
            accuracies.append(accuracy_of(model, x_test, y_test))
            bar.set_postfix(loss=f"{losses[-1]:.4f}", held_out=f"{accuracies[-1]:.1%}")
            if writer is not None:
                writer.add_scalar("loss", np.mean(losses[-steps:]), epoch)
                writer.add_scalar("held out accuracy", accuracies[-1], epoch)
                writer.add_scalar("learning rate", optimizer.param_groups[0]["lr"].item(), epoch)
                for name, weight in model.named_parameters():
                    writer.add_histogram(name, weight.detach().numpy(), epoch)
    return losses, accuracies


def difference(
    model: nn.Module, optimizer: optim.Optimizer, x: tg.Tensor, y: tg.Tensor
) -> tuple[float, float]:
    """The largest distance of any parameter or statistic after the same step compiled and eagerly; how far it went."""
    start = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    ends = []
    for function in (step, step.__wrapped__):
        model.load_state_dict(start[0])
        if (
            ends
        ):  # It puts new tensors in place; the compiled step was made for those that are there.
            optimizer.load_state_dict(start[1])
        tg.manual_seed(1)  # for the dropout
        function(model, optimizer, x, y)
        ends.append(copy.deepcopy(model.state_dict()))
    compiled, eager = ends
    apart = max((compiled[name] - eager[name]).abs().max().item() for name in eager)
    moved = max(
        (start[0][name] - eager[name]).abs().max().item() for name, _ in model.named_parameters()
    )
    return apart, moved


def milliseconds(function: Callable[[], object]) -> float:
    turns, seconds = Timer(function).autorange()
    return seconds / turns * 1e3


def draw(
    model: nn.Module,
    x: tg.Tensor,
    y: tg.Tensor,
    losses: list[float],
    accuracies: list[float],
    path: Path,
) -> None:
    """The curves of training; the least certain of the held-out digits, and which of their pixels decide."""
    model.eval()
    pixels = x.clone().requires_grad_()
    scores = model(pixels)
    scores.max(1).values.sum().backward()
    chances, found = scores.detach().softmax(1).max(1)
    right = found == y
    hardest = tg.where(right, chances, chances - 1).argsort()[:6]  # Mistakes come first.

    figure = plt.figure(figsize=(12, 3.6), layout="constrained")
    curves, digits = figure.subfigures(1, 2, width_ratios=[2, 3])
    axes = curves.subplots()
    steps = len(losses) // len(accuracies)
    epochs = np.arange(1, len(accuracies) + 1)
    axes.semilogy(np.arange(1, len(losses) + 1) / steps, losses, color="0.75", linewidth=0.8)
    means = np.reshape(losses, (-1, steps)).mean(1)
    axes.semilogy(epochs, means, color="C0", label="training loss, mean of the epoch")
    axes.semilogy(
        epochs,
        1 - np.array(accuracies),
        "o-",
        color="C3",
        markersize=3,
        label="held out: share of mistakes",
    )
    axes.set(
        xlabel="epoch",
        xticks=epochs[:: max(1, len(epochs) // 5)],
        title=f"held out: {accuracies[-1]:.1%} right",
    )
    axes.legend()
    panels = digits.subplots(2, len(hardest), gridspec_kw={"hspace": 0})
    for (upper, lower), index in zip(panels.T, hardest.tolist(), strict=True):
        upper.imshow(x[index, 0].numpy(), cmap="gray_r")
        text = f"{found[index].item()} ({chances[index].item():.0%})"
        mistake = not right[index].item()
        upper.set_title(
            text + (f"\nis {y[index].item()}" if mistake else "\n"),
            fontsize=9,
            color="red" if mistake else "black",
        )
        slope = pixels.grad[index, 0].numpy()
        reach = abs(slope).max()
        lower.imshow(slope, cmap="RdBu_r", vmin=-reach, vmax=reach)
    for axes in panels.flat:
        axes.axis("off")
    digits.suptitle(
        "the least certain ones; red pixels speak for the answer, blue ones against it", fontsize=10
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two epochs, whatever the accuracy")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    tg.manual_seed(0)
    data = x, y, x_test, y_test = load()
    model = make_model()
    optimizer = optim.Adam(model.parameters(), lr=tg.tensor(RATE))
    events = options.out / "runs" / time.strftime("cnn_digits-%Y%m%d-%H%M%S")
    writer = None if SummaryWriter is None else SummaryWriter(str(events))
    begin = time.perf_counter()
    losses, accuracies = train(model, optimizer, data, 2 if options.quick else EPOCHS, writer)
    seconds = time.perf_counter() - begin
    if writer is not None:
        writer.close()

    count = sum(p.numel() for p in model.parameters())
    print(f"{count} parameters, {len(losses)} steps in {seconds:.1f} s, compilation included")
    print(f"held out: {accuracies[-1]:.2%} of {len(y_test)} digits right")
    print(f"step: {step.stats}")
    draw(model, x_test, y_test, losses, accuracies, options.out / "cnn_digits.png")

    model.train()
    batch = (x[:BATCH], y[:BATCH])
    compiled = milliseconds(lambda: step(model, optimizer, *batch))
    optimizer.param_groups[0]["lr"].fill_(RATE)  # The schedule has ended near zero.
    apart, moved = difference(model, optimizer, *batch)
    eager = milliseconds(lambda: step.__wrapped__(model, optimizer, *batch))
    print(f"a step takes {compiled:.1f} ms compiled, {eager:.1f} ms eagerly (one thread each)")
    print(
        f"the same step twice: parameters move by up to {moved:.1e}, the two ways are {apart:.1e} apart"
    )
    print("picture:", options.out / "cnn_digits.png")
    print(
        "curves:",
        "tensorboardX is not installed"
        if writer is None
        else f"tensorboard --logdir {events.parent}",
    )
    if accuracies[-1] < GOAL and not options.quick:
        print(f"below the goal of {GOAL:.0%}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with threadpool_limits(limits=1):  # As many as compiled code uses.
        sys.exit(main())
