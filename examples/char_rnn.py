"""A recurrent network that learns to write, letter by letter, from one page of text.

    python examples/char_rnn.py

A GRU reads a letter at a time and says how probable each next letter is (Karpathy, "The unreasonable effectiveness of
recurrent neural networks", 2015). Its text is `TALE`, some 1,200 letters that stand in this file. Training cuts it into
windows of 10 letters; the loss is the mean cross entropy of the next letter at all 10 places, so gradients flow back
through time. On a page there is nothing to generalise to: what it learns is to recite, and the printed samples show
how it gets there, from noise over words to whole sentences.

Two functions are compiled. `step` is a training step, in which the recurrence is unrolled: each of the 10 turns is
compiled by itself, and longer windows take longer to compile. `write` is a single turn that also draws the next letter;
state and letter stay tensors, so that a text of any length is the same small native function, called again and again.

It prints samples, the loss in bits a letter beside what counting letters would reach, compilation statistics and
timings, and repeats the first steps eagerly, from the same seed, to compare the parameters. Takes about 15 s.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from timeit import Timer

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

import tracegrad as tg
import tracegrad.nn.functional as F  # noqa: N812
from tracegrad import nn, optim

TALE = """
A ferryman kept a rope across a slow brown river. By day he pulled his boat along the rope, and by night he slept beside
it. One spring the water rose and took the rope away. The ferryman went to the smith. Make me a chain, he said, that no
river can take. The smith made the chain, and it was strong, and it was heavy, and it sank to the bottom of the river.
The ferryman went to the weaver. Make me a ribbon, he said, so light that it can never sink. The weaver made the ribbon,
and it was light, and it was blue, and the first wind carried it over the hills. Then the ferryman sat down by the water
and did not know what to do. An old woman came along the bank with a goat. What are you looking for, she asked him. For
something that is stronger than the river and lighter than the wind, he said. The old woman laughed. She threw a stone
into the water, and the rings ran out until they touched both sides. Learn where the river is slow, she said, and you
will need no rope. So the ferryman watched the river for a year. He learned where it was deep and where it was slow. And
from that day he crossed without a rope, and the goat crossed with him, and he never asked the river for anything that
it did not want to give.
"""
TEXT = " ".join(TALE.split())
LETTERS = sorted(set(TEXT))
WINDOW, BATCH, WIDTH, RATE = 10, 32, 96, 5e-3


class Writer(nn.Module):
    """From letters (batch, time) and a state to the scores of the next letters (batch, time, letters) and a state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), 24)
        self.recurrence = nn.GRU(24, WIDTH, batch_first=True)
        self.scores = nn.Linear(WIDTH, len(LETTERS))

    def forward(self, letters: tg.Tensor, state: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        hidden, state = self.recurrence(self.embedding(letters), state)
        return self.scores(hidden), state


@tg.compile
def step(writer: Writer, optimizer: optim.Optimizer, windows: tg.Tensor) -> tg.Tensor:
    """One update on windows i64[batch, 1 + time]; returns the loss before it, in nats a letter."""
    optimizer.zero_grad()
    scores, _ = writer(windows[:, :-1], tg.zeros(1, len(windows), WIDTH))
    loss = F.cross_entropy(scores.flatten(0, 1), windows[:, 1:].flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(writer.parameters(), 1.0)
    optimizer.step()
    return loss


@tg.compile
def write(writer: Writer, letter: tg.Tensor, state: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
    """The next letter i64[1, 1], drawn by its probability, and the state after the last one."""
    with tg.no_grad():
        scores, state = writer(letter, state)
        noise = -(
            -tg.rand(len(LETTERS)).log()
        ).log()  # The largest sum is a draw by the softmax (Gumbel).
        return (scores[0, 0] + noise).argmax().reshape(1, 1), state


def sample(writer: Writer, count: int) -> str:
    letter, state = tg.tensor([[LETTERS.index("A")]]), tg.zeros(1, 1, WIDTH)
    found = [letter]
    for _ in range(count):
        letter, state = write(writer, letter, state)
        found.append(letter)
    return "".join(LETTERS[index] for index in tg.cat(found).flatten().tolist())


def train(
    step: Callable[..., tg.Tensor], steps: int, planned: int, samples: tuple[int, ...] = ()
) -> tuple[Writer, optim.Optimizer, list[float]]:
    """From the same start always; the learning rate falls to zero as planned. Prints samples before some steps."""
    tg.manual_seed(0)
    writer = Writer()
    optimizer = optim.Adam(writer.parameters(), lr=tg.tensor(RATE))
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, planned)
    text = tg.tensor([LETTERS.index(letter) for letter in TEXT])
    within = tg.arange(WINDOW + 1)
    losses = []
    for count in range(steps):
        if count in samples:
            show(writer, count)
        starts = tg.randint(len(text) - WINDOW, (BATCH, 1))
        losses.append(step(writer, optimizer, text[starts + within]).item())
        schedule.step()
    return writer, optimizer, losses


def show(writer: Writer, count: int) -> None:
    print(f"after {count} steps:")
    print(textwrap.indent(textwrap.fill(sample(writer, 200), 100), "  | "))


def microseconds(function: Callable[..., object], *arguments: object) -> float:
    turns, seconds = Timer(lambda: function(*arguments)).autorange()
    return seconds / turns * 1e6


def entropies() -> tuple[float, float]:
    """Bits a letter by the frequencies of letters, and of letters when the one before is known."""
    single, pairs = Counter(TEXT[:-1]), Counter(pairwise(TEXT))
    total = len(TEXT) - 1
    alone = -sum(n / total * math.log2(n / total) for n in single.values())
    return alone, -sum(n / total * math.log2(n / single[first]) for (first, _), n in pairs.items())


@tg.no_grad()
def draw(writer: Writer, losses: list[float], path: Path) -> None:
    """The loss, and how probable the network finds each letter of a passage."""
    figure, (curve, passage) = plt.subplots(
        1, 2, figsize=(13, 4), layout="constrained", width_ratios=[1, 1.6]
    )
    curve.loglog(range(1, len(losses) + 1), np.array(losses) / math.log(2), linewidth=0.8)
    for bits, name, style in zip(
        entropies(), ("frequencies of letters", "... of pairs"), ("--", ":"), strict=True
    ):
        curve.axhline(bits, color="black", linewidth=0.8, linestyle=style, label=name)
    curve.set(xlabel="step", ylabel="bits a letter", title="training loss")
    curve.legend()

    columns, rows = 56, 8
    text = TEXT[: columns * rows]
    letters = tg.tensor([[LETTERS.index(letter) for letter in text]])
    scores, _ = writer(letters[:, :-1], tg.zeros(1, 1, WIDTH))
    chances = scores[0].softmax(1).gather(1, letters[0, 1:, None]).flatten()
    image = np.concatenate([[np.nan], chances.numpy()]).reshape(rows, columns)
    shown = passage.imshow(image, cmap="RdYlGn", alpha=0.6, vmin=0, vmax=1, aspect="auto")
    for place, letter in enumerate(text):
        row, column = divmod(place, columns)
        passage.text(column, row, letter, ha="center", va="center", fontsize=9, family="monospace")
    figure.colorbar(shown, label="probability of the letter, given those before")
    passage.set_title("what it expects when it reads")
    passage.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps, whatever the result")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    steps = 100 if options.quick else 2000
    begin = time.perf_counter()
    writer, optimizer, losses = train(step, steps, steps, samples=(0, 100, 400))
    show(writer, steps)
    seconds = time.perf_counter() - begin
    bits = sum(losses[-50:]) / 50 / math.log(2)
    alone, paired = entropies()
    print(
        f"{len(TEXT)} letters, {len(LETTERS)} different ones, {steps} steps in {seconds:.1f} s, samples included"
    )
    print(
        f"{bits:.2f} bits a letter; by the frequencies of letters {alone:.2f}, of pairs of letters {paired:.2f}"
    )
    print(f"step: {step.stats}")
    print(f"write: {write.stats}")
    draw(writer, losses, options.out / "char_rnn.png")
    print("picture:", options.out / "char_rnn.png")

    letter, state = tg.zeros(1, 1, dtype=tg.int64), tg.zeros(1, 1, WIDTH)
    windows = tg.randint(len(LETTERS), (BATCH, WINDOW + 1))
    for function, arguments in (
        (write, (writer, letter, state)),
        (step, (writer, optimizer, windows)),
    ):
        compiled = microseconds(function, *arguments)
        eager = microseconds(function.__wrapped__, *arguments)
        name = function.__name__
        print(f"{name} takes {compiled:.0f} us compiled, {eager:.0f} us eagerly (one thread each)")
    ends = [
        list(train(function, 5, steps)[0].parameters()) for function in (step, step.__wrapped__)
    ]
    apart = max((p - q).abs().max().item() for p, q in zip(*ends, strict=True))
    print(
        f"after five steps, compiled and eager parameters are {apart:.1e} apart, steps of Adam are {RATE}"
    )
    if bits > paired and not options.quick:
        print("it has learned less than the frequencies of pairs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with threadpool_limits(limits=1):  # As many as compiled code uses.
        sys.exit(main())
