"""Anomaly detection: the same programs in both libraries, with the same errors, warnings and stacks."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers


def root(x: Any) -> Any:
    return x.sqrt()


def leaf(t: Any) -> Any:
    return t.tensor([0.0, 4.0], dtype=t.float64, requires_grad=True)


def functions(t: Any) -> tuple[Any, Any]:
    class Fails(t.autograd.Function):  # type: ignore[name-defined]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 1

        @staticmethod
        def backward(ctx: Any, ct: Any) -> Any:
            raise RuntimeError("Some error in backward")

    class Rooted(t.autograd.Function):  # type: ignore[name-defined]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 1

        @staticmethod
        def backward(ctx: Any, ct: Any) -> Any:
            return root(ct * t.zeros_like(ct))

    return Fails, Rooted


def nan_in_backward(t: Any) -> Any:
    with t.autograd.detect_anomaly():
        (root(leaf(t)) * 0).sum().backward()


def nan_unchecked(t: Any) -> Any:
    x = leaf(t)
    with t.autograd.detect_anomaly(check_nan=False):
        (root(x) * 0).sum().backward()
    return x.grad.tolist()


def error_in_backward(t: Any) -> Any:
    with t.autograd.set_detect_anomaly(True):
        functions(t)[0].apply(leaf(t)).sum().backward()


def error_unchecked(t: Any) -> Any:
    with t.autograd.set_detect_anomaly(True, check_nan=False):
        functions(t)[0].apply(leaf(t)).sum().backward()


def forward_outside(t: Any) -> Any:
    y = (root(leaf(t)) * 0).sum()
    with t.autograd.detect_anomaly():
        y.backward()


def backward_outside(t: Any) -> Any:
    x = leaf(t)
    with t.autograd.detect_anomaly():
        y = (root(x) * 0).sum()
    y.backward()
    return x.grad.tolist(), "traceback_" in y.grad_fn.metadata


def in_place(t: Any) -> Any:
    with t.autograd.detect_anomaly():
        x = leaf(t) * 1
        x[0:1] *= 2
        x.sqrt_()
        (x * 0).sum().backward()


def written_into_a_view(t: Any) -> Any:
    with t.autograd.detect_anomaly():
        whole = t.zeros(2, dtype=t.float64)
        whole[0] = functions(t)[0].apply(leaf(t)).sum()
        whole.sum().backward()


def in_second_derivative(t: Any) -> Any:
    with t.autograd.detect_anomaly():
        x = leaf(t)
        y = functions(t)[1].apply(x) ** 2
        (g,) = t.autograd.grad(y.sum(), x, create_graph=True)
        g.sum().backward()


def modes(t: Any) -> Any:
    def now() -> tuple[bool, bool]:
        return t.is_anomaly_enabled(), t.is_anomaly_check_nan_enabled()

    seen = [now()]
    with t.autograd.set_detect_anomaly(True, check_nan=False):
        seen.append(now())
        with t.autograd.set_detect_anomaly(False):
            seen.append(now())
            with t.autograd.detect_anomaly():
                seen.append(now())
            seen.append(now())
        seen.append(now())
    try:
        with t.autograd.detect_anomaly():
            raise KeyError
    except KeyError:
        seen.append(now())
    t.autograd.set_detect_anomaly(True)
    seen.append(now())
    t.autograd.set_detect_anomaly(False)
    return [*seen, now()]


PROGRAMS = [
    nan_in_backward, nan_unchecked, error_in_backward, error_unchecked, forward_outside, backward_outside, in_place,
    written_into_a_view, in_second_derivative, modes,
]  # fmt: skip


def outcome(program: Any, t: Any) -> list[Any]:
    """The result or error, and the warnings with those frames that are of this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = repr(program(t))
        except Exception as error:
            result = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    shown = []
    for warning in caught:
        text = str(warning.message).split(" (Triggered internally")[0]
        frames = re.findall(r'File "(.*)", line (\d+), in (.*)\n', text)
        first = text.split("\n  File")[0]
        shown.append((warning.category, first, [f for f in frames if f[0] == __file__]))
    return [result, shown]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_as_in_torch(program: Any) -> None:
    ours, theirs = outcome(program, tg), outcome(program, torch)
    assert ours == theirs
    assert not tg.is_anomaly_enabled()


def test_second_derivatives_name_the_call_that_induced_them() -> None:
    _, shown = outcome(in_second_derivative, tg)
    assert any("induced the previous calculation" in first for _, first, _ in shown)


def test_a_compiled_function_is_checked() -> None:
    @tg.compile
    def step(x: tg.Tensor) -> tg.Tensor:
        y = (root(x) * 0).sum()
        y.backward()
        return y

    for _ in range(3):
        step(leaf(tg))
    with (
        tg.autograd.set_detect_anomaly(True),
        pytest.warns(UserWarning, match="Traceback of forward call"),
        pytest.raises(RuntimeError, match="Function 'SqrtBackward0' returned nan values"),
    ):
        step(leaf(tg))
    assert step(leaf(tg)).item() == 0
