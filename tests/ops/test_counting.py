"""Counting and covariances where the table of calls cannot hold them: no gradients in torch, errors, tg.compile."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.peers

NAN = math.nan


def x(t: Any) -> Any:
    return t.tensor([3.0, 1, NAN, 3, 3, NAN, -1])


def m(t: Any) -> Any:
    return t.tensor([[1.0, 2, 4], [3, -1, 0.5]])


EDGES = [-2.0, 0, 1, 5]
VALUES: dict[str, Callable[[Any], Any]] = {
    "unique": lambda t: t.unique(x(t), return_inverse=True, return_counts=True),
    "unique 0-d": lambda t: t.unique(t.tensor(3.0), return_inverse=True, return_counts=True),
    "unique columns": lambda t: t.unique(t.tensor([[NAN, 2, 2], [1, 0, 0]]), dim=1),
    "unique rows": lambda t: m(t)[[1, 0, 1]].unique(True, True, True, 0),
    "unique of none": lambda t: t.unique(t.zeros(2, 0), dim=1),
    "runs": lambda t: t.unique_consecutive(x(t), True, True),
    "runs of rows": lambda t: t.unique_consecutive(m(t)[[1, 1, 0, 1]], True, True, 0),
    "runs 0-d": lambda t: t.unique_consecutive(t.tensor(3.0), True, True),
    "bincount": lambda t: t.bincount(t.tensor([0, 3, 3]), t.tensor([0.5, 1, 2])),
    "bincount double": lambda t: t.bincount(t.tensor([0, 3, 3]), t.tensor([0.5, 1, 2]).double(), 6),
    "bincount of none": lambda t: t.bincount(t.tensor([]).long(), t.tensor([]), 2),
    "histc NaN": lambda t: t.histc(x(t), 4, -2, 3),
    "histc double": lambda t: t.histc(x(t).double(), 4, -1.5, 3),
    "histogram": lambda t: t.histogram(m(t), 4),
    "histogram double": lambda t: m(t).double().histogram(5, density=True),
    "histogram of a range": lambda t: t.histogram(x(t), 7, range=(-1, 3)),
    "histogram of a point": lambda t: t.histogram(x(t), 4, range=(3, 3)),
    "histogram of one": lambda t: t.histogram(t.tensor([2.0, 2]), 3),
    "histogram of none": lambda t: t.histogram(t.tensor([]), 3),
    "histogram by edges": lambda t: t.histogram(x(t), t.tensor(EDGES)),
    "weighted": lambda t: t.histogram(m(t), 4, weight=m(t) + 2),
    "density": lambda t: t.histogram(m(t), t.tensor(EDGES), weight=m(t) + 2, density=True),
    "isin NaN": lambda t: t.isin(x(t), x(t)),
    "isin many NaN": lambda t: t.isin(x(t), x(t).repeat(9)),
    "isin a fraction": lambda t: t.isin(t.arange(3), 2.5),
    "cov fweights": lambda t: t.cov(m(t), fweights=t.tensor([1, 0, 3])),
    "cov aweights": lambda t: t.cov(m(t), aweights=t.tensor([1, 0.3, 3]).double()),
    "cov both": lambda t: m(t).cov(
        correction=2, fweights=t.tensor([1, 1, 3]), aweights=t.tensor([1, 0.3, 3])
    ),
    "cov biased": lambda t: t.cov(m(t), correction=0, aweights=t.tensor([1, 0.3, 3])),
    "out": lambda t: t.histogram(m(t), 3, out=(t.zeros(3), t.zeros(4))),
}


def flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    ours, theirs = (VALUES[name](t) for t in (tg, torch))
    assert isinstance(ours, tuple) == isinstance(theirs, tuple)
    assert len(flat(ours)) == len(flat(theirs))
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert str(a.dtype) == str(b.dtype)
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


ERRORS: dict[str, Callable[[Any], Any]] = {
    "unique of a list": lambda t: t.unique([1]),
    "no dim": lambda t: t.unique(m(t), dim=2),
    "0-d has none": lambda t: t.unique(t.tensor(1.0), dim=0),
    "empty slices": lambda t: t.unique(t.zeros(2, 0), dim=0),
    "empty twice": lambda t: t.unique(t.zeros(0, 0), dim=0),
    "empty runs": lambda t: t.unique_consecutive(t.zeros(2, 0), dim=0),
    "bincount of floats": lambda t: t.bincount(x(t)),
    "bincount of bools": lambda t: t.bincount(t.tensor([True])),
    "bincount of a matrix": lambda t: t.bincount(t.tensor([[1]])),
    "bincount below zero": lambda t: t.bincount(t.tensor([1, -1])),
    "bincount minlength": lambda t: t.bincount(t.tensor([1]), minlength=-1),
    "bincount weights": lambda t: t.bincount(t.tensor([1, 1]), t.tensor([1.0])),
    "histc order": lambda t: t.histc(m(t), 3, 2, 1),
    "histc bins": lambda t: t.histc(m(t), 0),
    "histc integers": lambda t: t.histc(t.tensor([1, 2]), 2),
    "histc bools": lambda t: t.histc(t.tensor([True]), 2),
    "histc infinite data": lambda t: t.histc(t.tensor([1, math.inf]), 2),
    "histc infinite end": lambda t: t.histc(m(t), 2, 0, math.inf),
    "histc NaN end": lambda t: t.histc(m(t), 2, NAN),
    "histogram order": lambda t: t.histogram(m(t), 3, range=(2, 0)),
    "histogram range": lambda t: t.histogram(m(t), 3, range=(2,)),
    "histogram bins": lambda t: t.histogram(m(t), 0),
    "histogram edges": lambda t: t.histogram(m(t), t.tensor([0.0])),
    "histogram matrix": lambda t: t.histogram(m(t), t.tensor([[0.0]])),
    "histogram edge dtype": lambda t: t.histogram(m(t), t.tensor([0.0, 1]).double()),
    "histogram weight dtype": lambda t: t.histogram(m(t), 3, weight=m(t).double()),
    "histogram weight shape": lambda t: t.histogram(x(t), 3, range=(0, 1), weight=x(t)[:2]),
    "histogram integers": lambda t: t.histogram(t.tensor([1]), 3),
    "histogram NaN": lambda t: t.histogram(x(t), 3),
    "isin bools": lambda t: t.isin(t.tensor([True]), t.tensor([True])),
    "cov rank": lambda t: t.cov(t.zeros(2, 2, 2)),
    "cov bools": lambda t: t.cov(t.tensor([True, False])),
    "fweights dtype": lambda t: t.cov(m(t), fweights=t.ones(3)),
    "fweights rank": lambda t: t.cov(m(t), fweights=t.tensor([[1, 2, 3]])),
    "fweights number": lambda t: t.cov(m(t), fweights=t.tensor([1, 2])),
    "fweights sign": lambda t: t.cov(m(t), fweights=t.tensor([1, -2, 1])),
    "aweights dtype": lambda t: t.cov(m(t), aweights=t.tensor([1, 2, 3])),
    "aweights sign": lambda t: t.cov(m(t), aweights=-t.ones(3)),
    "aweights zero": lambda t: t.cov(m(t), aweights=t.zeros(3)),
    "cov correction": lambda t: t.cov(m(t), correction=0.5),
    "corrcoef rank": lambda t: t.corrcoef(t.zeros(2, 2, 2)),
    "multinomial too few": lambda t: t.multinomial(t.ones(3), 4),
    "multinomial none": lambda t: t.multinomial(t.ones(3), 0),
    "multinomial rank": lambda t: t.multinomial(t.ones(()), 1),
    "multinomial dtype": lambda t: t.multinomial(t.tensor([1, 2]), 1),
    "multinomial sign": lambda t: t.multinomial(-t.ones(3), 1),
    "multinomial sign again": lambda t: t.multinomial(-t.ones(3), 2, True),
    "multinomial zero": lambda t: t.multinomial(t.tensor([[1.0, 2], [0, 0]]), 1),
    "multinomial NaN": lambda t: t.multinomial(x(t), 1),
    "multinomial count": lambda t: t.multinomial(t.ones(3), 2.5),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    caught = []
    for t in (tg, torch):
        with pytest.raises(Exception) as info:  # noqa: PT011
            ERRORS[name](t)
        caught.append((type(info.value), str(info.value).split("\n")[0]))
    assert caught[0] == caught[1]


def test_degrees_of_freedom_are_warned_of() -> None:
    found = []
    for t in (tg, torch):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = t.cov(m(t), correction=3).numpy()
        found.append((value, [(w.category, str(w.message).split(" (Trig")[0]) for w in caught]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert len(found[0][1]) == 1


def test_gradients_that_torch_lacks() -> None:
    """Of elements that stay what they are, and of weights, which are added up."""
    x = tg.tensor([3.0, 1, 3, 2], requires_grad=True)
    (tg.unique(x) * tg.tensor([1.0, 10, 100])).sum().backward()
    assert x.grad.tolist() == [100, 1, 0, 10]
    w = tg.ones(4, requires_grad=True)
    (tg.bincount(tg.tensor([1, 0, 1, 2]), w) * tg.tensor([1.0, 10, 100])).sum().backward()
    assert w.grad.tolist() == [10, 1, 10, 100]
    v = tg.ones(4, requires_grad=True)
    hist = tg.histogram(x, tg.tensor([0.0, 1.5, 5]), weight=v).hist
    (hist * tg.tensor([1.0, 10])).sum().backward()
    assert v.grad.tolist() == [10, 1, 10, 10]


COMPILED: dict[str, tuple[bool, Callable[[Any, Any], Any]]] = {
    "histc": (True, lambda t, a: t.histc(a, 4)),
    "histc of a range": (True, lambda t, a: t.histc(a, 4, -1, 1)),
    "histogram of a range": (True, lambda t, a: t.histogram(a, 4, range=(-1, 1))),
    "histogram": (False, lambda t, a: t.histogram(a, 4)),
    "isin": (True, lambda t, a: t.isin(a, t.tensor([0.0, 1]))),
    "isin many": (True, lambda t, a: t.isin(a, t.floor(a).repeat(5, 5))),
    "cov": (True, lambda t, a: t.cov(a) + t.corrcoef(a)),
    "cov weighted": (True, lambda t, a: t.cov(a, aweights=a[0].abs())),
    "unique": (False, lambda t, a: t.unique(t.floor(a), return_counts=True)),
    "bincount": (False, lambda t, a: t.bincount(a[0].abs().long(), a[1])),
    "argwhere": (False, lambda t, a: t.argwhere(a > 0)),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled(name: str) -> None:
    """Equal to torch on each turn; results whose length is data are left to Python."""
    native, function = COMPILED[name]
    compiled = tg.compile(lambda a: function(tg, a))
    rng = np.random.default_rng(0)
    for _ in range(4):
        data = np.round(rng.normal(size=(3, 6)) * 2).astype("float32")
        if not native:
            warnings.simplefilter("ignore")
        ours = flat(compiled(tg.tensor(data)))
        theirs = flat(function(torch, torch.tensor(data)))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)
    assert (compiled.stats.native + compiled.stats.interpreted > 0) == native


@pytest.mark.parametrize("replacement", [False, True])
def test_multinomial_frequencies(replacement: bool) -> None:
    p = tg.tensor([0.1, 0.0, 0.4, 0.2, 0.3])
    rows, count = 4000, 2
    g = tg.Generator().manual_seed(4)
    drawn = tg.multinomial(p.expand(rows, 5), count, replacement, generator=g).numpy()
    assert drawn.shape == (rows, count)
    first = np.bincount(drawn[:, 0], minlength=5) / rows
    # Five standard errors.
    assert np.abs(first - p.numpy()).max() < 5 * math.sqrt(0.25 / rows)
    assert first[1] == 0
    assert (drawn != 1).all()
    same = (drawn[:, 0] == drawn[:, 1]).mean()
    expected = float((p * p).sum()) if replacement else 0
    assert abs(same - expected) <= 5 * math.sqrt(expected / rows)


def test_multinomial_compiled_draws_the_same() -> None:
    g = tg.Generator()
    draw = lambda p: (tg.multinomial(p, 2, generator=g), tg.multinomial(p, 9, True, generator=g))  # noqa: E731
    compiled = tg.compile(draw)
    p = tg.tensor([[0.1, 0.5, 0.4], [3.0, 1, 0.5]])
    g.manual_seed(1)
    plain = [draw(p) for _ in range(4)]
    g.manual_seed(1)
    for expected in plain:
        for a, b in zip(compiled(p), expected, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert compiled.stats.native + compiled.stats.interpreted == 3
