"""Random programs of views and in-place operations: the gradient is that of what the program computes.

A program is a list of small integers, so that Hypothesis can shrink it; `run` carries it out with either
library. Two oracles: torch, wherever it accepts the program, and differences of the program's own values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracegrad as tg

try:
    import torch
except ImportError:
    torch = None

Program = list[tuple[int, int, int, int]]

POINT = np.array([[0.5, -1.25, 0.75], [1.5, 0.25, -0.5]])


def run(module: Any, program: Program, values: np.ndarray) -> tuple[Any, Any]:
    """Carry out a program. Returns the leaf and a number that depends on every tensor at the end."""
    leaf = module.tensor(values, requires_grad=True)
    tensors = [leaf * 1.0, leaf.clone(), module.ones(2, 3, dtype=module.float64)]
    for what, first, second, number in program:
        x = tensors[first % len(tensors)]
        y = tensors[second % len(tensors)]
        match what % 18:
            case 0:
                tensors.append(x * 0.5)
            case 1:
                tensors.append(x * x)
            case 2:
                tensors.append(x[number % x.shape[0]] if x.ndim else x.clone())
            case 3:
                tensors.append(x[number % 2 :] if x.ndim else x.view(1))
            case 4:
                tensors.append(x.t() if x.ndim == 2 else x.view(-1))
            case 5:
                tensors.append(x.view(x.shape) if x.is_contiguous() else x.clone())
            case 6:
                tensors.append(x.detach())
            case 7:
                x.mul_(0.5 + number % 3)
            case 8:
                x.add_(y if y.shape == x.shape else y.sum())
            case 9:
                x.mul_(y if y.shape == x.shape else y.sum() * 0.1)
            case 10:
                x.zero_()
            case 11:
                x.copy_(y if y.shape == x.shape else y.sum())
            case 12:
                if x.ndim:
                    x[number % x.shape[0]] = y.sum() * 0.25
            case 13:
                if x.ndim:
                    x[number % 2 :] = 1.5
            case 14:
                tensors.append(
                    module.stack([x, y]).sum(0) if x.shape == y.shape else x.sum() + y.sum()
                )
            case 15:
                with module.no_grad():
                    x.add_(1.0)
            case 16:
                x.sin_()
            case _:
                if x.ndim and x.shape[0]:
                    x[module.tensor([number % x.shape[0]])] = y.sum() * 0.5
    return leaf, sum((k + 1) * t.sum() for k, t in enumerate(tensors))


REFUSALS = (
    "modified by an inplace operation",
    "no_grad mode",
    "leaf Variable",
    "single memory location",
)


def gradient(module: Any, program: Program) -> np.ndarray | str:
    """The gradient, or the sentence with which the program was refused."""
    try:
        leaf, total = run(module, program, POINT)
        total.backward()
    except RuntimeError as error:
        sentence = str(error)
        assert any(refusal in sentence for refusal in REFUSALS), sentence
        return sentence
    return np.zeros_like(POINT) if leaf.grad is None else leaf.grad.numpy()


def differences(program: Program) -> np.ndarray:
    """The gradient by central differences."""
    result = np.zeros_like(POINT)
    for position in np.ndindex(POINT.shape):
        step = np.zeros_like(POINT)
        step[position] = 1e-5
        high, low = (run(tg, program, POINT + sign * step)[1].item() for sign in (1, -1))
        result[position] = (high - low) / 2e-5
    return result


def detached_parts(program: Program) -> bool:
    """Whether values reach the result past autograd, so that differences see more than it does."""
    return any(what % 18 in (6, 15) for what, *_ in program)


programs = st.lists(
    st.tuples(st.integers(0, 17), st.integers(0, 7), st.integers(0, 7), st.integers(0, 2)),
    max_size=9,
)


@given(programs)
@settings(max_examples=1000)
def test_gradient_is_that_of_the_values(program: Program) -> None:
    found = gradient(tg, program)
    if isinstance(found, str) or detached_parts(program):
        return
    np.testing.assert_allclose(found, differences(program), rtol=1e-5, atol=1e-4)


@pytest.mark.peers
@pytest.mark.skipif(torch is None, reason="torch is not installed")
@given(programs)
@settings(max_examples=1500)
def test_where_torch_has_a_gradient_it_is_the_same(program: Program) -> None:
    expected = gradient(torch, program)
    if not isinstance(expected, str):
        found = gradient(tg, program)
        assert not isinstance(found, str), found
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
