"""Limiting gradients, and parameters as one vector."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import nn
from tracegrad.nn import utils


def with_grads(rng: np.random.Generator, lib: ModuleType = tg) -> list:
    params = [
        lib.tensor(rng.normal(size=s).astype("f4"), requires_grad=True) for s in ((2, 3), (4,))
    ]
    for p in params:
        p.grad = lib.tensor(rng.normal(size=tuple(p.shape)).astype("f4"))
    return [*params, lib.ones(2, requires_grad=True)]


@pytest.mark.peers
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clip_grad_norm(norm_type: float, max_norm: float, torch: ModuleType) -> None:
    ours, theirs = (with_grads(np.random.default_rng(1), lib) for lib in (tg, torch))
    a = utils.clip_grad_norm_(ours, max_norm, norm_type)
    b = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    assert a.item() == pytest.approx(b.item(), rel=1e-6)
    for p, q in zip(ours[:2], theirs[:2], strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-6)


def test_clip_in_special_cases(rng: np.random.Generator) -> None:
    p = tg.ones(2, requires_grad=True)
    assert utils.clip_grad_norm_(p, 1.0).item() == 0
    p.grad = tg.tensor([math.inf, 1.0])
    with pytest.raises(
        RuntimeError, match=r"The total norm of order 2.0 for gradients from `parameters`"
    ):
        utils.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    p.grad = tg.tensor([3.0, -4.0])
    utils.clip_grad_value_(p, 3.5)
    assert p.grad.tolist() == [3.0, -3.5]
    with pytest.warns(UserWarning, match="empty generator"):
        utils.clip_grad_norm_((x for x in ()), 1.0)


def test_vectors() -> None:
    net = nn.Linear(2, 3)
    vector = utils.parameters_to_vector(net.parameters())
    assert vector.shape == (9,)
    vector.sum().backward()
    assert net.weight.grad.tolist() == [[1, 1]] * 3
    utils.vector_to_parameters(tg.arange(9).float(), net.parameters())
    assert net.weight.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert net.bias.tolist() == [6, 7, 8]
    assert net.bias.requires_grad
    with pytest.raises(TypeError, match=r"expected torch.Tensor, but got"):
        utils.vector_to_parameters([1.0], net.parameters())  # type: ignore[arg-type]


def test_clipping_compiles() -> None:
    """A step with clipping inside gives the same as eagerly."""
    tg.manual_seed(0)
    nets = [nn.Linear(3, 2), nn.Linear(3, 2)]
    nets[1].load_state_dict(nets[0].state_dict())

    def step(net: nn.Linear, x: tg.Tensor) -> tg.Tensor:
        net.zero_grad()
        (net(x) ** 2).sum().backward()
        total = utils.clip_grad_norm_(net.parameters(), 0.5)
        with tg.no_grad():
            for p in net.parameters():
                p.sub_(p.grad * 0.1)
        return total

    compiled = tg.compile(step)
    for _ in range(4):
        x = tg.randn(5, 3)
        a, b = compiled(nets[0], x), step(nets[1], x)
        assert a.item() == pytest.approx(b.item(), rel=1e-5)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert compiled.stats.native >= 2, compiled.explain()
