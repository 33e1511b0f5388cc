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
    with pytest.warns(UserWarning, match="zero-element tensors is a no-op"):
        nn.init.kaiming_uniform_(tg.zeros(0, 3))
