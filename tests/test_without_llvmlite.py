"""Without llvmlite everything runs: compiled functions are interpreted, and say so once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llvmlite":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""

PROGRAM = """
import json, sys, warnings
import numpy as np
import tracegrad as tg

rng = np.random.default_rng(7)
inputs = tg.tensor(rng.normal(size=(16, 5)))
wanted = tg.tensor(rng.normal(size=(16, 2)))
weights = [tg.tensor(rng.normal(size=shape) / 2) for shape in ((5, 8), (8,), (8, 2), (2,))]
for weight in weights:
    weight.requires_grad_()

def predict(x):
    w, b, v, c = weights
    return tg.tanh(x @ w + b) @ v + c

def step(x, y):
    for weight in weights:
        weight.grad = None
    loss = ((predict(x) - y) ** 2).mean()
    loss.backward()
    with tg.no_grad():
        for weight in weights:
            weight.sub_(weight.grad * 0.1)
    return loss

def differentiated(x):
    return (x.sin() * x).sum()

mode = sys.argv[1]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    if mode != "eager":
        step, differentiated = tg.compile(step), tg.compile(differentiated)
    losses = [step(inputs, wanted).item() for _ in range(20)]
    gradients = []
    for _ in range(3):
        x = tg.tensor(rng.normal(size=4), requires_grad=True)
        differentiated(x).backward()
        gradients.append(x.grad.tolist())
    hessian = []
    x = tg.tensor([0.5, 1.5], requires_grad=True)
    (gradient,) = tg.autograd.grad(differentiated(x), x, create_graph=True)
    gradient.sum().backward()
    hessian = x.grad.tolist()

print(json.dumps({
    "numbers": [losses, gradients, hessian],
    "weights": [weight.tolist() for weight in weights],
    "warnings": [str(warning.message) for warning in caught],
    "stats": None if mode == "eager" else [vars(f.stats) for f in (step, differentiated)],
    "llvmlite": "llvmlite" in sys.modules,
}, default=repr))
"""


def run(mode: str, *, blocked: bool, tmp_path: Path) -> dict[str, Any]:
    code = (BLOCK if blocked else "") + PROGRAM
    done = subprocess.run(
        [sys.executable, "-c", code, mode],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_same_training(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in ("numbers", "weights"):
        for a, c in zip(one[key], other[key], strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(c), rtol=1e-11, atol=1e-13)
    assert one["numbers"][0][-1] < one["numbers"][0][0]  # It has learnt.


def test_interpreted_like_eager(tmp_path: Path) -> None:
    eager = run("eager", blocked=True, tmp_path=tmp_path)
    compiled = run("compiled", blocked=True, tmp_path=tmp_path)
    assert eager["warnings"] == []
    assert not eager["llvmlite"]
    assert not compiled["llvmlite"]
    assert_same_training(eager, compiled)
    assert compiled["warnings"] == [
        "tracegrad.compile: llvmlite is not installed; compiled functions are interpreted"
    ]
    for stats in compiled["stats"]:
        assert stats["native"] == 0
        assert stats["interpreted"] > 0


def test_interpreted_like_native(tmp_path: Path) -> None:
    pytest.importorskip("llvmlite")
    native = run("compiled", blocked=False, tmp_path=tmp_path)
    assert native["warnings"] == []
    assert all(stats["native"] > 0 for stats in native["stats"])
    assert_same_training(native, run("compiled", blocked=True, tmp_path=tmp_path))
