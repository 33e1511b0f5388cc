"""Distributions beyond the uniform and the normal: moments, ranges, torch's errors, and the same numbers compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

COUNT = 20_000


@pytest.mark.parametrize(
    ("draw", "mean", "deviation"),
    [
        (lambda x, g: x.exponential_(2, generator=g), 0.5, 0.5),
        (lambda x, g: x.double().exponential_(generator=g), 1, 1),
        (lambda x, g: x.geometric_(0.3, generator=g), 1 / 0.3, math.sqrt(0.7) / 0.3),
        (lambda x, g: x.long().geometric_(0.7, generator=g), 1 / 0.7, math.sqrt(0.3) / 0.7),
        (lambda x, g: x.log_normal_(1, 0.5, generator=g).log(), 1, 0.5),
        # The arctangent of a Cauchy number is uniform.
        (lambda x, g: ((x.cauchy_(2, 3, generator=g) - 2) / 3).atan(), 0, math.pi / math.sqrt(12)),
        (lambda x, g: x.random_(10, generator=g), 4.5, math.sqrt(99 / 12)),
        (lambda x, g: x.byte().random_(generator=g), 127.5, math.sqrt((256**2 - 1) / 12)),
        (lambda x, g: x.bool().random_(generator=g), 0.5, 0.5),
        (lambda x, g: x.long().random_(generator=g) / 2**63, 0.5, math.sqrt(1 / 12)),
        (lambda x, g: x.random_(generator=g) / 2**24, 0.5, math.sqrt(1 / 12)),
        (lambda x, g: x.random_(-3, to=3, generator=g), -0.5, math.sqrt(35 / 12)),
        (lambda x, g: tg.randint_like(x, -3, 3, generator=g), -0.5, math.sqrt(35 / 12)),
        (lambda x, g: tg.poisson(x + 0.7, generator=g), 0.7, math.sqrt(0.7)),
        (lambda x, g: tg.poisson(x + 50, generator=g), 50, math.sqrt(50)),
        (lambda x, g: tg.normal(x + 3, 2.0, generator=g), 3, 2),
        (lambda x, g: tg.normal(3, x + 2, generator=g), 3, 2),
        (lambda x, g: tg.normal(x + 3, x + 2, generator=g), 3, 2),
        (lambda x, g: x.bernoulli_(tg.tensor(0.2), generator=g), 0.2, 0.4),
        (lambda x, g: x.long().bernoulli_(x + 0.2, generator=g), 0.2, 0.4),
        (lambda x, g: tg.bernoulli(x, p=0.2, generator=g), 0.2, 0.4),
        (lambda x, g: x.uniform_(-1, to=3, generator=g), 1, 4 / math.sqrt(12)),
        (lambda x, g: tg.randperm(COUNT, generator=g), (COUNT - 1) / 2, COUNT / math.sqrt(12)),
    ],
)
def test_moments(draw: Callable[[Any, Any], tg.Tensor], mean: float, deviation: float) -> None:
    for seed in range(3):
        values = draw(tg.zeros(COUNT), tg.Generator().manual_seed(seed)).double()
        # Five standard errors of the mean.
        assert abs(float(values.mean()) - mean) < 5 * deviation / math.sqrt(COUNT)
        assert abs(float(values.std()) - deviation) < 0.06 * deviation


def test_ranges() -> None:
    g = tg.Generator().manual_seed(3)
    x = tg.zeros(COUNT)
    assert (x.exponential_(generator=g) > 0).all()
    assert x.geometric_(0.5, generator=g).min() == 1
    assert set(x.byte().random_(3, 7, generator=g).tolist()) == {3, 4, 5, 6}
    assert (x.char().random_(generator=g) >= 0).all()
    assert (x.int().random_(-5, None, generator=g) >= -5).all()
    assert sorted(tg.randperm(50, dtype=tg.float32, generator=g).tolist()) == list(range(50))


NAN = math.nan
ERRORS: dict[str, Callable[[Any], Any]] = {
    "poisson sign": lambda t: t.poisson(-t.ones(2)),
    "poisson NaN": lambda t: t.poisson(t.tensor([NAN])),
    "poisson dtype": lambda t: t.poisson(t.tensor([1])),
    "exponential zero": lambda t: t.ones(2).exponential_(0),
    "exponential NaN": lambda t: t.ones(2).exponential_(lambd=NAN),
    "exponential dtype": lambda t: t.tensor([1]).exponential_(),
    "geometric one": lambda t: t.ones(2).geometric_(1),
    "geometric zero": lambda t: t.ones(2).geometric_(0),
    "geometric dtype": lambda t: t.tensor([True]).geometric_(0.5),
    "log_normal": lambda t: t.ones(2).log_normal_(1, 0),
    "log_normal dtype": lambda t: t.tensor([1]).log_normal_(),
    "cauchy": lambda t: t.ones(2).cauchy_(1, -2),
    "cauchy dtype": lambda t: t.tensor([1]).cauchy_(),
    "random order": lambda t: t.ones(2).random_(5, 2),
    "random none": lambda t: t.ones(2).random_(0),
    "random end": lambda t: t.ones(2).byte().random_(300),
    "random start": lambda t: t.ones(2).byte().random_(-1, 3),
    "random bools": lambda t: t.ones(2).bool().random_(3),
    "random chars": lambda t: t.ones(2).char().random_(200),
    "randint_like": lambda t: t.randint_like(t.ones(2), 5, 2),
    "randint_like end": lambda t: t.randint_like(t.ones(2).byte(), 300),
    "randint_like grad": lambda t: t.randint_like(t.tensor([1]), 5, requires_grad=True),
    "randint end": lambda t: t.randint(300, (2,), dtype=t.uint8),
    "randint bools": lambda t: t.randint(5, (2,), dtype=t.bool),
    "randint size": lambda t: t.randint(5, 2),
    "randint grad": lambda t: t.randint(5, (2,), requires_grad=True),
    "rand dtype": lambda t: t.rand(2, dtype=t.int64),
    "rand_like dtype": lambda t: t.rand_like(t.tensor([1])),
    "randn dtype": lambda t: t.randn(2, dtype=t.int64),
    "randperm negative": lambda t: t.randperm(-1),
    "randperm dtype": lambda t: t.randperm(300, dtype=t.uint8),
    "normal sign": lambda t: t.normal(t.ones(2), -t.ones(2)),
    "normal number": lambda t: t.normal(2.0, -3.0, (2,)),
    "normal dtype": lambda t: t.normal(t.tensor([1]), 2.0),
    "normal shapes": lambda t: t.normal(t.ones(3), t.ones(2)),
    "normal in place": lambda t: t.ones(2).normal_(0, -1),
    "normal in place dtype": lambda t: t.tensor([1]).normal_(),
    "uniform order": lambda t: t.ones(2).uniform_(1, 0),
    "uniform end": lambda t: t.ones(2).uniform_(0, math.inf),
    "uniform dtype": lambda t: t.tensor([1]).uniform_(),
    "uniform keyword": lambda t: t.ones(2).uniform_(start=1),
    "bernoulli number": lambda t: t.ones(2).bernoulli_(2),
    "bernoulli p": lambda t: t.ones(2).bernoulli(p=2),
    "bernoulli dtype": lambda t: t.ones(2).bernoulli_(t.tensor([1, 1])),
    "bernoulli shape": lambda t: t.ones(3).bernoulli_(t.ones(2)),
    "leaf": lambda t: t.ones(2, requires_grad=True).exponential_(),
}


@pytest.mark.peers
@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    torch = pytest.importorskip("torch")
    caught = []
    for t in (tg, torch):
        with pytest.raises(Exception) as info:  # noqa: PT011
            ERRORS[name](t)
        caught.append((type(info.value), str(info.value).split("\n")[0]))
    assert caught[0] == caught[1]


DRAWS: dict[str, tuple[bool, Callable[[Any, Any], Any]]] = {
    "exponential": (True, lambda x, g: x.clone().exponential_(generator=g)),
    "geometric": (True, lambda x, g: x.clone().geometric_(0.3, generator=g)),
    "log_normal": (True, lambda x, g: x.clone().log_normal_(generator=g)),
    "cauchy": (True, lambda x, g: x.clone().cauchy_(generator=g)),
    "random": (True, lambda x, g: x.long().random_(7, generator=g)),
    "random whole": (True, lambda x, g: x.long().random_(generator=g)),
    "randint_like": (True, lambda x, g: tg.randint_like(x, 3, 9, generator=g)),
    "randperm": (True, lambda x, g: x[tg.randperm(6, generator=g)]),
    "normal": (True, lambda x, g: tg.normal(x, x.abs(), generator=g)),
    "bernoulli": (True, lambda x, g: tg.bernoulli(x.sigmoid(), generator=g)),
    "bernoulli in place": (True, lambda x, g: x.clone().bernoulli_(x.sigmoid(), generator=g)),
    "uniform": (True, lambda x, g: x.clone().uniform_(2, 3, generator=g)),
    "poisson": (False, lambda x, g: tg.poisson(x.abs(), generator=g)),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", DRAWS)
def test_compiled_draws_the_same(name: str) -> None:
    native, draw = DRAWS[name]
    g = tg.Generator()
    compiled = tg.compile(lambda x: draw(x, g))
    x = tg.tensor(np.random.default_rng(0).normal(size=6).astype(np.float32))
    g.manual_seed(1)
    plain = [draw(x, g) for _ in range(4)]
    assert not tg.equal(plain[0], plain[1])
    g.manual_seed(1)
    for expected in plain:
        np.testing.assert_allclose(compiled(x).numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
    assert compiled.stats.native + compiled.stats.interpreted == (3 if native else 0)
