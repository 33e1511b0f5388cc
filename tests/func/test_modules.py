"""Layers and losses inside transforms: the same lines run under tracegrad and torch give the same numbers."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]

# Expressions in t (the library), F (its func module), N (its nn.functional), X, P: [4, 6, 5], W: [3, 5], I: [4, 6].
VALUES = """
F.vmap(lambda x, i: N.cross_entropy(x, i))(X, I)
F.vmap(F.grad(lambda x, i: N.cross_entropy(x, i)))(X, I)
F.vmap(lambda x, i: N.nll_loss(N.log_softmax(x, -1), i))(X, I)
F.vmap(lambda x, p: N.binary_cross_entropy_with_logits(x, p))(X, P)
F.vmap(lambda p: N.binary_cross_entropy(p, P[0]))(P)
F.vmap(lambda x: N.linear(x, W))(X)
F.vmap(lambda w, x: N.linear(x, w), in_dims=(None, 0))(W, X)
F.vmap(lambda x: N.layer_norm(x, (5,)))(X)
F.vmap(lambda x: N.gelu(x) + N.silu(x) + N.softplus(x) + N.leaky_relu(x) + N.elu(x))(X)
F.vmap(lambda i: N.embedding(i, W.t()))(I)
F.vmap(lambda w: N.embedding(I[0], w))(t.stack([W.t(), W.t() * 2]))
F.vmap(lambda i, w: N.embedding(i, w))(I[:2], t.stack([W.t(), W.t() * 2]))
F.vmap(lambda x: N.mse_loss(x, x * 2) + N.l1_loss(x, x * 2) + N.smooth_l1_loss(x, x * 2))(X)
F.vmap(lambda x: x.std() + x.var(0) + x.norm() + x.logsumexp(-1).sum())(X)
F.vmap(lambda i: N.one_hot(i, 5))(I)
F.vmap(lambda x: N.dropout(x, 0.5, training=False))(X)
F.vmap(lambda x, i: x[i[0], i[1] % 5])(X, I)
F.vmap(lambda x: x[..., None, ::2])(X)
F.vmap(lambda x: sum(row.sum() for row in x))(X)
F.vmap(lambda x: t.zeros_like(x) + t.ones(5, dtype=t.float64) + t.arange(5))(X)
F.vmap(lambda x: x.T.contiguous().view(-1))(X)
F.jacrev(lambda x: N.layer_norm(x, (5,)).softmax(-1))(X[0])
F.jacfwd(lambda x: N.layer_norm(x, (5,)).softmax(-1))(X[0])
F.hessian(lambda w: N.cross_entropy(X[0] @ w.t(), I[0] % 3))(W)
""".strip().splitlines()


def run(library: Any, text: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    space = {
        "t": library,
        "F": importlib.import_module(library.__name__ + ".func"),
        "N": library.nn.functional,
        "X": library.tensor(rng.normal(size=(4, 6, 5))),
        "W": library.tensor(rng.normal(size=(3, 5))),
        "I": library.tensor(rng.integers(0, 5, (4, 6))),
        "P": library.tensor(rng.uniform(size=(4, 6, 5))),
    }
    return eval(text, space).detach().numpy()


@pytest.mark.parametrize("text", VALUES)
def test_value(text: str) -> None:
    torch = pytest.importorskip("torch")
    np.testing.assert_allclose(run(tg, text), run(torch, text), rtol=1e-9, atol=1e-9)
