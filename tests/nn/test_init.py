"""nn.init: distributions, gains and errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import nn

# Function, and the standard deviation that it gives a 200 x 100 matrix.
SPREADS: list[tuple[Callable[[Any], Any], float]] = [
    (lambda w: nn.init.uniform_(w, -1, 2), 3 / math.sqrt(12)),
    (lambda w: nn.init.normal_(w, 1.0, 0.5), 0.5),
    (lambda w: nn.init.xavier_uniform_(w, gain=2.0), 2 * math.sqrt(2 / 300)),
    (lambda w: nn.init.xavier_normal_(w), math.sqrt(2 / 300)),
    (lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"), math.sqrt(2 / 100)),
    (lambda w: nn.init.kaiming_normal_(w, a=1, mode="fan_out"), math.sqrt(1 / 200)),
    (lambda w: nn.init.trunc_normal_(w, std=1.0, a=-1.0, b=1.0), 0.5396),
]


@pytest.mark.parametrize("number", range(len(SPREADS)))
def test_spread(number: int) -> None:
    fill, expected = SPREADS[number]
    tg.manual_seed(number)
    weight = nn.Parameter(tg.zeros(200, 100))
    assert fill(weight) is weight
    assert weight.requires_grad
    assert weight.is_leaf
    values = weight.detach().numpy()
    assert values.std() == pytest.approx(expected, rel=0.03)
    mean = {0: 0.5, 1: 1.0}.get(number, 0.0)
    assert values.mean() == pytest.approx(mean, abs=0.03)
    assert np.unique(values).size > 10_000


def test_constants() -> None:
    w = nn.Parameter(tg.zeros(2, 3))
    assert nn.init.ones_(w).tolist() == [[1] * 3] * 2
    assert nn.init.constant_(w, 4).tolist() == [[4] * 3] * 2
    assert nn.init.zeros_(w).tolist() == [[0] * 3] * 2
    assert nn.init.eye_(w).tolist() == [[1, 0, 0], [0, 1, 0]]
    a = nn.init.normal_(tg.zeros(3), generator=tg.Generator().manual_seed(4))
    b = nn.init.normal_(tg.zeros(3), generator=tg.Generator().manual_seed(4))
    assert tg.equal(a, b)


DIRAC = [((4, 3, 3), 1), ((6, 2, 3, 2), 2), ((2, 3, 1, 2, 3), 1), ((3, 3, 5), 3)]


@pytest.mark.peers
@pytest.mark.parametrize(("shape", "groups"), DIRAC)
def test_dirac(shape: tuple[int, ...], groups: int, torch: ModuleType) -> None:
    ours, theirs = (lib.nn.init.dirac_(lib.ones(shape), groups) for lib in (tg, torch))
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 2, 2), (2, 3, 2), (3, 3), (0, 2)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    """Rows or columns are orthogonal, of the given length; and uniformly distributed, so no sign is preferred."""
    weight = nn.Parameter(tg.empty(*shape, dtype=tg.float64))
    assert nn.init.orthogonal_(weight, gain=2.0) is weight
    assert weight.is_leaf
    if not weight.numel():
        return
    w = weight.detach().numpy().reshape(shape[0], -1)
    product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)
    signs = [nn.init.orthogonal_(weight).flatten()[0].item() > 0 for _ in range(40)]
    assert 5 < sum(signs) < 35
    a, b = (nn.init.orthogonal_(tg.empty(3, 3), generator=tg.Generator()) for _ in range(2))
    assert tg.equal(a, b)


def test_sparse() -> None:
    """As many zeros in each column, at other places."""
    weight = nn.init.sparse_(nn.Parameter(tg.ones(50, 20)), 0.25, std=2.0).detach().numpy()
    zeros = weight == 0
    assert zeros.sum(0).tolist() == [13] * 20
    assert len({tuple(column) for column in zeros.T}) == 20
    assert weight[~zeros].std() == pytest.approx(2, rel=0.1)


def test_inside_of_a_compiled_function() -> None:
    """A layer that is made inside: the numbers that follow in the stream, eagerly where a factorization is needed."""

    def run(x: tg.Tensor) -> tg.Tensor:
        weight = nn.init.orthogonal_(tg.empty(3, 3))
        return x @ nn.init.dirac_(weight.unsqueeze(2)).squeeze(2) + weight

    compiled, x = tg.compile(run), tg.ones(2, 3)[:1].expand(3, 3)
    for seed in (1, 2):
        tg.manual_seed(seed)
        expected = run(x)
        tg.manual_seed(seed)
        assert tg.equal(compiled(x), expected)


OLD = "uniform normal constant eye dirac xavier_uniform xavier_normal kaiming_uniform kaiming_normal orthogonal sparse"


@pytest.mark.peers
@pytest.mark.parametrize("name", OLD.split())
def test_older_names(name: str, torch: ModuleType) -> None:
    more = {"constant": (3.0,), "sparse": (0.5,)}.get(name, ())
    shape = (3, 3, 3) if name == "dirac" else (3, 3)
    texts = []
    for lib in (tg, torch):
        with pytest.warns(FutureWarning, match=f"nn.init.{name}`") as caught:
            assert tuple(getattr(lib.nn.init, name)(lib.zeros(shape), *more).shape) == shape
        texts.append(str(caught[0].message))
    assert texts[0] == texts[1]


@pytest.mark.peers
def test_gains(torch: ModuleType) -> None:
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    gain = torch.nn.init.calculate_gain("leaky_relu", 0.3)
    assert nn.init.calculate_gain("leaky_relu", 0.3) == gain


def test_errors() -> None:
    with pytest.raises(ValueError, match="Unsupported nonlinearity foo"):
        nn.init.calculate_gain("foo")
    with pytest.raises(ValueError, match="negative_slope True not a valid number"):
        nn.init.calculate_gain("leaky_relu", True)
    with pytest.raises(ValueError, match="Fan in and fan out can not be computed"):
        nn.init.xavier_uniform_(tg.zeros(3))
    with pytest.raises(ValueError, match="Mode x not supported"):
        nn.init.kaiming_uniform_(tg.zeros(3, 3), mode="x")
    with pytest.raises(ValueError, match="Only tensors with 2 dimensions"):
        nn.init.eye_(tg.zeros(3))
    with pytest.raises(ValueError, match="Only tensors with 3, 4, or 5 dimensions are supported"):
        nn.init.dirac_(tg.zeros(3, 3))
    with pytest.raises(ValueError, match="dim 0 must be divisible by groups"):
        nn.init.dirac_(tg.zeros(4, 3, 3), 3)
    with pytest.raises(ValueError, match="Only tensors with 2 or more dimensions are supported"):
        nn.init.orthogonal_(tg.zeros(3))
    with pytest.raises(ValueError, match="Only tensors with 2 dimensions are supported"):
        nn.init.sparse_(tg.zeros(3), 0.1)
    with pytest.warns(UserWarning, match="zero-element tensors is a no-op"):
        nn.init.kaiming_uniform_(tg.zeros(0, 3))
