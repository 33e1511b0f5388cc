"""Random compositions of transforms on random functions: the same numbers as torch, also compiled.

``python tests/func/test_compositions.py FIRST LAST`` runs more of them and prints those that differ.
"""

from __future__ import annotations

import importlib
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]

Function = Callable[[Any], Any]

# Functions of a tensor [3], in t (the library).
FUNCTIONS: list[Callable[[Any], Function]] = [
    lambda t: lambda x: x.sin() * x.sum(),
    lambda t: lambda x: (x * x).cumsum(0).exp().tanh(),
    lambda t: lambda x: x.reshape(-1, 1) @ x.reshape(1, -1),
    lambda t: lambda x: t.where(x > 0, x * x, -x).softmax(0),
    lambda t: lambda x: t.cat([x, x[:1] * 2]).flip(0)[1:] ** 3,
]

# From a function of a tensor to another one, in f (the func module) and t (the library).
TRANSFORMS: dict[str, Callable[[Any, Any, Function], Function]] = {
    "grad": lambda f, t, g: f.grad(lambda x: (g(x) ** 2).sum() * 0.1),
    "vjp": lambda f, t, g: lambda x: f.vjp(g, x)[1](g(x).cos())[0],
    "jvp": lambda f, t, g: lambda x: f.jvp(g, (x,), (x.cos(),))[1],
    "jacrev": lambda f, t, g: lambda x: f.jacrev(g)(x).sin(),
    "jacfwd": lambda f, t, g: lambda x: f.jacfwd(g)(x).sin(),
    "vmap": lambda f, t, g: lambda x: f.vmap(g)(t.stack([x, x * 2])).sum(0),
    "vmap of a factor": lambda f, t, g: (
        lambda x: f.vmap(lambda s: g(x * s))(t.arange(1, 3, dtype=t.float64)).sum(0)
    ),
}


def composition(seed: int) -> tuple[int, list[str]]:
    rng = random.Random(seed)
    names = list(TRANSFORMS)
    chosen = [rng.choice(names) for _ in range(rng.randint(1, 3))]
    return rng.randrange(len(FUNCTIONS)), chosen


def outcome(library: Any, seed: int, *, compiled: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The value of the composition at a point, and the gradient of its sum."""
    number, names = composition(seed)
    function = FUNCTIONS[number](library)
    func = importlib.import_module(library.__name__ + ".func")
    for name in names:
        function = TRANSFORMS[name](func, library, function)
    if compiled:
        function = tg.compile(function)
    point = np.random.default_rng(seed).normal(size=3)
    for _ in range(3 if compiled else 1):
        x = library.tensor(point).requires_grad_()
        value = function(x)
        value.sum().backward()
    return value.detach().numpy(), x.grad.numpy()


def difference(seed: int, *, compiled: bool) -> str:
    """Empty where ours is theirs."""
    import torch

    expected = outcome(torch, seed)
    ways = [("plainly", outcome(tg, seed))]
    if compiled:
        ways.append(("compiled", outcome(tg, seed, compiled=True)))
    for way, found in ways:
        for a, b in zip(found, expected, strict=True):
            if a.shape != b.shape or not np.allclose(a, b, rtol=1e-8, atol=1e-8):
                return f"seed {seed}, {composition(seed)}, {way}: {a} instead of {b}"
    return ""


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_as_torch(first: int) -> None:
    pytest.importorskip("torch")
    for seed in range(first, first + 10):
        assert not difference(seed, compiled=seed % 6 == 0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        print(difference(seed, compiled=True) or f"seed {seed}: the same")
