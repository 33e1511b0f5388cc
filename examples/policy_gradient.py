"""Learn to balance a pole by policy gradients (REINFORCE), with simulation and learning compiled.

    python examples/policy_gradient.py

A pole stands on a cart, which is pushed to the left or to the right fifty times a second. An episode ends when the pole
leans by more than 12 degrees, when the cart is 2.4 m away, or after 500 pushes; its reward is its length. A network of
193 parameters sees position, velocity, angle and angular velocity, and says how probable a push to the right is.

The gradient of the expected reward needs no derivative of the simulation. With p(action | state) the policy and
A the advantage (what was earned from here on, compared with the average), it is the mean of A * grad log p (Williams,
1992). So the loss is the cross entropy of the actions that were taken, weighted with their advantages.

Two functions are compiled. `move` is one push for all carts: it runs the network, draws actions and integrates the
equations of motion (Barto, Sutton and Anderson, 1983; Florian, 2007). `improve` takes whole episodes: discounted
rewards, advantages, loss, `backward()`, Adam. Between them, Python moves a few arrays about.

It prints how long the trained policy balances from 100 new starts, compilation statistics and timings, and repeats the
first updates eagerly, from the same seed, to compare the parameters. Exits with an error below a mean of 475, where
Gymnasium calls the task solved. Takes about 15 s.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from timeit import Timer
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

import tracegrad as tg
import tracegrad.nn.functional as F  # noqa: N812
from tracegrad import nn, optim

CARTS, HORIZON, DISCOUNT, RATE, GOAL = 16, 500, 0.99, 1e-2, 475
GRAVITY, CART_MASS, POLE_MASS, HALF_LENGTH, FORCE, INTERVAL = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
FARTHEST, STEEPEST = 2.4, math.radians(12)


class Episodes(NamedTuple):
    """One episode of each cart, filled up to the same length.

    Attributes:
        states: f32[pushes, carts, 4].
        actions: f32[pushes, carts], 1 where the push was to the right.
        alive: f32[pushes, carts], 1 until the episode has ended.
    """

    states: tg.Tensor
    actions: tg.Tensor
    alive: tg.Tensor


def make_policy() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))


def motion(state: tg.Tensor, action: tg.Tensor) -> tg.Tensor:
    """The states (carts, 4) after an interval, by Euler's method."""
    _, speed, angle, spin = state.unbind(1)
    sine, cosine = angle.sin(), angle.cos()
    mass = CART_MASS + POLE_MASS
    push = (FORCE * (2 * action - 1) + POLE_MASS * HALF_LENGTH * spin**2 * sine) / mass
    angular = (GRAVITY * sine - cosine * push) / (
        HALF_LENGTH * (4 / 3 - POLE_MASS * cosine**2 / mass)
    )
    linear = push - POLE_MASS * HALF_LENGTH * angular * cosine / mass
    return state + INTERVAL * tg.stack([speed, linear, spin, angular], 1)


@tg.compile
def move(
    policy: nn.Module, state: tg.Tensor, alive: tg.Tensor
) -> tuple[tg.Tensor, tg.Tensor, tg.Tensor]:
    """One push: the actions drawn, the states after it, and who is still alive then."""
    with tg.no_grad():
        action = (tg.rand_like(alive) < policy(state).sigmoid()).float()
        state = motion(state, action)
        fine = (state[:, 0].abs() < FARTHEST) & (state[:, 2].abs() < STEEPEST)
        return action, state, alive * fine


@tg.compile
def improve(policy: nn.Module, optimizer: optim.Optimizer, episodes: Episodes) -> tg.Tensor:
    """One update of the policy; returns the length of each episode."""
    states, actions, alive = episodes
    weight = DISCOUNT ** tg.arange(len(alive)).unsqueeze(1)
    to_go = (alive * weight).flip(0).cumsum(0).flip(0) / weight
    count = alive.sum()
    advantage = to_go - (to_go * alive).sum() / count
    advantage = advantage / ((advantage**2 * alive).sum() / count).sqrt()
    optimizer.zero_grad()
    surprise = F.binary_cross_entropy_with_logits(
        policy(states.flatten(0, 1)), actions.flatten(), reduction="none"
    )
    loss = (surprise * (advantage * alive).flatten()).sum() / count
    loss.backward()
    optimizer.step()
    return alive.sum(0)


def play(
    policy: nn.Module, move: Callable[..., tuple[tg.Tensor, ...]], carts: int = CARTS
) -> Episodes:
    """An episode each, from states close to rest, until all have ended."""
    state = 0.1 * tg.rand(carts, 4) - 0.05
    alive = tg.ones(carts)
    states, actions, lives = (
        tg.zeros(HORIZON, carts, 4),
        tg.zeros(HORIZON, carts),
        tg.zeros(HORIZON, carts),
    )
    for push in range(HORIZON):
        states[push], lives[push] = state, alive
        actions[push], state, alive = move(policy, state, alive)
        if not alive.any():
            break
    return Episodes(states, actions, lives)


def train(
    updates: int, move: Callable[..., tuple[tg.Tensor, ...]], improve: Callable[..., tg.Tensor]
) -> tuple[nn.Module, optim.Optimizer, list[np.ndarray]]:
    """From the same start always; returns also the lengths of all episodes, per update."""
    tg.manual_seed(0)
    policy = make_policy()
    optimizer = optim.Adam(policy.parameters(), lr=RATE)
    lengths = [improve(policy, optimizer, play(policy, move)).numpy() for _ in range(updates)]
    return policy, optimizer, lengths


def microseconds(function: Callable[..., object], *arguments: object) -> float:
    turns, seconds = Timer(lambda: function(*arguments)).autorange()
    return seconds / turns * 1e6


def draw(
    policy: nn.Module, lengths: list[np.ndarray], before: Episodes, after: Episodes, path: Path
) -> None:
    """Lengths of the episodes, angles of the poles before and after training, and the policy near the middle."""
    figure, (curve, angles, plane) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    updates = np.arange(len(lengths))
    curve.plot(
        np.repeat(updates, CARTS),
        np.concatenate(lengths),
        ".",
        color="0.8",
        markersize=2,
        label="episode",
    )
    curve.plot(updates, np.mean(lengths, 1), color="C0", label=f"mean of {CARTS}")
    curve.set(
        xlabel="update", ylabel="pushes", ylim=(0, HORIZON * 1.03), title="length of an episode"
    )
    curve.legend(loc="lower right")

    seconds = INTERVAL * np.arange(HORIZON)
    for episodes, color, label in ((after, "C0", "trained"), (before, "C3", "untrained")):
        angle = np.degrees(tg.where(episodes.alive > 0, episodes.states[..., 2], tg.nan).numpy())
        angles.plot(seconds, angle[:, :CARTS], color=color, linewidth=0.7)
        angles.plot([], [], color=color, label=label)
    for side in (-12, 12):
        angles.axhline(side, color="black", linewidth=0.8, linestyle=":")
    angles.set(xlabel="seconds", ylabel="degrees", ylim=(-18, 14), title="angle of the pole")
    angles.legend(loc="lower right", ncols=2)

    angle, spin = np.meshgrid(np.radians(np.linspace(-12, 12, 121)), np.linspace(-1.5, 1.5, 121))
    rest = np.zeros_like(angle)
    states = tg.tensor(np.stack([rest, rest, angle, spin], -1), dtype=tg.float32)
    with tg.no_grad():
        right = policy(states.flatten(0, 1)).sigmoid().reshape(angle.shape).numpy()
    mesh = plane.pcolormesh(np.degrees(angle), spin, right, cmap="RdBu_r", vmin=0, vmax=1)
    figure.colorbar(mesh, label="probability")
    plane.set(
        xlabel="angle, degrees",
        ylabel="angular velocity, 1/s",
        title="push to the right (cart at rest)",
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few updates, whatever the result")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    begin = time.perf_counter()
    policy, optimizer, lengths = train(15 if options.quick else 200, move, improve)
    seconds = time.perf_counter() - begin
    pushes = int(np.sum(lengths))
    print(f"{len(lengths)} updates, {pushes} pushes in {seconds:.1f} s, compilation included")
    print(f"move: {move.stats}")
    print(f"improve: {improve.stats}")
    before, after = play(make_policy(), move), play(policy, move, 100)
    score = after.alive.sum(0)
    print(
        f"from 100 new starts: {score.mean().item():.0f} pushes on average, {score.min().item():.0f} at least"
    )
    draw(policy, lengths, before, after, options.out / "policy_gradient.png")
    print("picture:", options.out / "policy_gradient.png")

    episodes = play(policy, move)
    for name, function, arguments in (
        ("move", move, (policy, episodes.states[0], episodes.alive[0])),
        ("improve", improve, (policy, optimizer, episodes)),
    ):
        compiled = microseconds(function, *arguments)
        eager = microseconds(function.__wrapped__, *arguments)
        print(f"{name} takes {compiled:.0f} us compiled, {eager:.0f} us eagerly (one thread each)")
    again, *_ = train(3, move, improve)
    eagerly, *_ = train(3, move.__wrapped__, improve.__wrapped__)
    apart = max(
        (p - q).abs().max().item()
        for p, q in zip(again.parameters(), eagerly.parameters(), strict=True)
    )
    print(
        f"after three updates, compiled and eager parameters are {apart:.1e} apart, steps of Adam are {RATE}"
    )
    if score.mean().item() < GOAL and not options.quick:
        print(f"below the goal of {GOAL}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with threadpool_limits(limits=1):  # As many as compiled code uses.
        sys.exit(main())
