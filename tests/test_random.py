"""Random tensors: distributions, seeds and state, and the same numbers eagerly and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

import tracegrad as tg

COUNT = 20_000


def moments(x: tg.Tensor) -> tuple[float, float]:
    return float(x.double().mean()), float(x.double().std())


@pytest.mark.parametrize(
    ("draw", "mean", "deviation"),
    [
        (lambda g: tg.rand(COUNT, generator=g), 0.5, math.sqrt(1 / 12)),
        (lambda g: tg.rand(COUNT, dtype=tg.float64, generator=g), 0.5, math.sqrt(1 / 12)),
        (lambda g: tg.randn(COUNT, generator=g), 0.0, 1.0),
        (lambda g: tg.normal(3.0, 2.0, (COUNT,), generator=g), 3.0, 2.0),
        (lambda g: tg.randint(0, 10, (COUNT,), generator=g), 4.5, math.sqrt(99 / 12)),
        (lambda g: tg.bernoulli(tg.full((COUNT,), 0.3), generator=g), 0.3, math.sqrt(0.21)),
        (lambda g: tg.zeros(COUNT).uniform_(-1, 3, generator=g), 1.0, 4 / math.sqrt(12)),
        (lambda g: tg.zeros(COUNT).normal_(1, 0.5, generator=g), 1.0, 0.5),
    ],
)
def test_moments(draw: Callable[[tg.Generator], tg.Tensor], mean: float, deviation: float) -> None:
    for seed in range(3):
        got_mean, got_deviation = moments(draw(tg.Generator().manual_seed(seed)))
        # Five standard errors of the mean.
        assert abs(got_mean - mean) < 5 * deviation / math.sqrt(COUNT)
        assert abs(got_deviation - deviation) < 0.03 * deviation


def test_uniform_histogram_and_range() -> None:
    x = tg.rand(COUNT, generator=tg.Generator().manual_seed(1)).numpy()
    assert x.min() >= 0
    assert x.max() < 1
    counts, _ = np.histogram(x, bins=20, range=(0, 1))
    chi_square = float(((counts - COUNT / 20) ** 2 / (COUNT / 20)).sum())
    assert chi_square < 50  # 19 degrees of freedom: 1e-4 quantile is 49.6


def test_streams_of_neighbouring_seeds_are_uncorrelated() -> None:
    a, b = (tg.randn(COUNT, generator=tg.Generator().manual_seed(s)).numpy() for s in (7, 8))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(COUNT)
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 5 / math.sqrt(COUNT)


def test_seed_repeats_and_draws_move_on() -> None:
    tg.manual_seed(5)
    first, second = tg.rand(4), tg.rand(4)
    assert not tg.equal(first, second)
    tg.manual_seed(5)
    assert tg.equal(tg.rand(4), first)
    assert tg.initial_seed() == 5


def test_state_can_be_saved() -> None:
    tg.manual_seed(9)
    tg.rand(3)
    state = tg.get_rng_state()
    expected = tg.randn(5)
    tg.set_rng_state(state)
    assert tg.equal(tg.randn(5), expected)


def test_integers_stay_in_range_and_permutations_are_complete() -> None:
    values = tg.randint(-3, 4, (1000,), generator=tg.Generator().manual_seed(0)).numpy()
    assert set(values) == set(range(-3, 4))
    assert sorted(tg.randperm(50).tolist()) == list(range(50))


def test_empty_range_is_refused() -> None:
    with pytest.raises(RuntimeError, match="random_ expects 'from' to be less than 'to'"):
        tg.randint(3, 3, (2,))


@pytest.mark.parametrize("backend", ["native", "interpreter"])
def test_eager_and_compiled_draw_the_same_numbers(backend: str) -> None:
    generator = tg.Generator()

    def noise() -> tuple[tg.Tensor, tg.Tensor, tg.Tensor]:
        return (
            tg.rand(5, generator=generator),
            tg.randn(7, dtype=tg.float64, generator=generator),
            tg.randint(0, 100, (4,), generator=generator),
        )

    compiled = tg.compile(backend=backend)(noise)
    generator.manual_seed(3)
    plain = [noise() for _ in range(4)]
    generator.manual_seed(3)
    for expected in plain:
        for a, b in zip(compiled(), expected, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
    assert compiled.stats.native + compiled.stats.interpreted == 3
