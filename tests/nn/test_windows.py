"""Pooling, folding, padding and interpolation: errors, special values, and compiled as eager, natively.

Numbers, gradients and records are compared with torch by the table of calls in torch_cases/windows.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.nn.functional as F  # noqa: N812

X = np.ones((2, 3, 6, 6), "f4")

# Expressions of nn.functional, F, and an image x of (2, 3, 6, 6).
ERRORS = """
F.max_pool2d(x, 2, padding=2)
F.max_pool2d(x, 2, padding=-1)
F.max_pool2d(x, 2, stride=0)
F.max_pool2d(x, 0)
F.max_pool2d(x, 2, dilation=0)
F.max_pool2d(x, (1, 2, 3))
F.max_pool2d(x, 2, stride=(1, 2, 3))
F.max_pool2d(x, 2, padding=(1, 2, 3))
F.max_pool2d(x, 2, dilation=(1, 2, 3))
F.max_pool2d(x, 9)
F.max_pool2d(x[0, 0], 2)
F.max_pool2d(x[:, :0], 2)
F.max_pool2d(x[:, :, :0], 2)
F.max_pool2d(x.bool(), 2)
F.max_pool1d(x, 2)
F.max_pool1d(x[0], 2, padding=2)
F.max_pool1d(x[0], 2, stride=0)
F.max_pool1d(x[0], (2, 3))
F.max_pool1d(x[0], 9)
F.max_pool3d(x[0], 2)
F.max_pool3d(x, (1, 2))
F.avg_pool2d(x, 2, padding=2)
F.avg_pool2d(x, 2, divisor_override=0)
F.avg_pool2d(x, 2, stride=0)
F.avg_pool2d(x, (1, 2, 3))
F.avg_pool2d(x, 9)
F.avg_pool2d(x[:, :, :0], 2)
F.avg_pool1d(x[0, 0, 0], 2)
F.avg_pool1d(x[0], 9)
F.adaptive_avg_pool2d(x, (1, 2, 3))
F.adaptive_avg_pool2d(x, -1)
F.adaptive_avg_pool2d(x[0, 0], 2)
F.adaptive_avg_pool2d(x[:, :, :0], 2)
F.adaptive_avg_pool2d(x.long(), 2)
F.adaptive_avg_pool1d(x[0, 0, 0], 2)
F.adaptive_max_pool2d(x, -1)
F.adaptive_max_pool2d(x[0, 0], 2)
F.unfold(x, 9)
F.unfold(x, 0)
F.unfold(x, 2, stride=0)
F.unfold(x, 2, dilation=0)
F.unfold(x, 2, padding=-1)
F.fold(x[0], (7, 6), 2)
F.fold(x[0, :, :4], (7, 6), 2)
F.fold(x[0, 0, 0], 6, 2)
F.fold(x[0], (6, 6), 2, stride=0)
F.pad(x, (1, 1), 'reflect')
F.pad(x, (1, 1, 1), 'reflect')
F.pad(x, (6, 1, 1, 1), 'reflect')
F.pad(x[0], (1, 1, 9, 1), 'reflect')
F.pad(x, (7, 1, 1, 1), 'circular')
F.pad(x, (1, 1, 1, 1), 'reflect', value=1)
F.pad(x[0, 0, 0], (1, 1), 'reflect')
F.pad(x[:, :, :0], (1, 1, 1, 1), 'replicate')
F.interpolate(x)
F.interpolate(x, size=(2, 3), scale_factor=2)
F.interpolate(x, size=(2, 3, 4))
F.interpolate(x, scale_factor=(2, 3, 4))
F.interpolate(x, scale_factor=2, align_corners=True)
F.interpolate(x, size=3, recompute_scale_factor=True)
F.interpolate(x, scale_factor=2, mode='linear')
F.interpolate(x[0], scale_factor=2, mode='bilinear')
F.interpolate(x, scale_factor=2, mode='foo')
F.interpolate(x, scale_factor=2, antialias=True)
F.interpolate(x[0, 0], scale_factor=2)
F.interpolate(x, scale_factor=0.1)
F.interpolate(x[:, :0], size=2)
F.pixel_shuffle(x, 2)
F.pixel_shuffle(x, 0)
F.pixel_shuffle(x[0, 0], 2)
F.pixel_unshuffle(x, 4)
F.pixel_unshuffle(x, 0)
F.pixel_unshuffle(x[0, 0], 2)
F.channel_shuffle(x, 2)
""".strip().splitlines()


@pytest.mark.peers
@pytest.mark.parametrize("text", ERRORS)
def test_errors_are_torchs(text: str, both_raise: Any) -> None:
    both_raise(lambda lib, x: eval(text, {"F": lib.nn.functional, "x": x}), X)


@pytest.mark.peers
@pytest.mark.parametrize("dilation", [1, 2])
def test_max_pool_of_special_values(torch: Any, dilation: int, rng: np.random.Generator) -> None:
    """Ties, NaN, and windows of nothing but minus infinity: torch's value, position and gradient."""
    choices = np.array([-np.inf, np.nan, 0.0, -0.0, 1.0])
    for _ in range(20):
        x = rng.choice(choices, (1, 2, 7, 6), p=[0.6, 0.05, 0.15, 0.1, 0.1])
        found = []
        for lib in (tg, torch):
            leaf = lib.tensor(x, requires_grad=True)
            values, positions = lib.nn.functional.max_pool2d(leaf, 3, 2, 1, dilation, True, True)
            values.sum().backward()
            found.append([values.detach().numpy(), positions.numpy(), leaf.grad.numpy()])
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_array_equal(ours, theirs)


COMPILED: dict[str, Any] = {
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d with padding": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max_pool2d with positions": lambda x: F.max_pool2d(x, 3, 1, return_indices=True)[0],
    "max_pool1d": lambda x: F.max_pool1d(x[0], 3, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "avg_pool2d with padding": lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive_avg_pool2d to one": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (3, 4)),
    "lp_pool2d": lambda x: F.lp_pool2d(x * x, 2, 2),
    "unfold": lambda x: F.unfold(x, 3, padding=1, stride=2),
    "fold": lambda x: F.fold(F.unfold(x, 2, stride=1), (5, 6), 2, stride=1),
    "reflect": lambda x: F.pad(x, (1, 2, 2, 0), "reflect"),
    "replicate": lambda x: F.pad(x, (1, 2, 2, 0), "replicate"),
    "circular": lambda x: F.pad(x, (1, 2, 2, 0), "circular"),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest at other places": lambda x: F.interpolate(x, size=(7, 4)),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, size=(7, 4), mode="bicubic", align_corners=True),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
}


@pytest.mark.parametrize("what", COMPILED)
def test_compiled_as_eager(what: str, rng: np.random.Generator) -> None:
    """Value and gradient, natively."""
    function = COMPILED[what]

    def value_and_gradient(x: tg.Tensor) -> Any:
        out = function(x)
        return out, *tg.autograd.grad((out * out).sum(), (x,))

    compiled = tg.compile(value_and_gradient)
    for _ in range(2):
        x = tg.tensor(rng.normal(size=(2, 4, 5, 6)), requires_grad=True)
        for a, b in zip(compiled(x), value_and_gradient(x), strict=True):
            np.testing.assert_allclose(
                a.detach().numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-12
            )
    assert (compiled.stats.native, compiled.stats.interpreted) == (1, 0), compiled.explain()
