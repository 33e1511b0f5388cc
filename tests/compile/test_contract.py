"""The contract of ``tg.compile``: no other result, no other effect on a tensor, no other exception.

Every program of the tables :mod:`programs`, :mod:`profiled_programs`, :mod:`state_programs`, :mod:`tensor_programs`,
:mod:`transform_programs`, :mod:`function_programs`, :mod:`mode_programs`, :mod:`recurrent_programs` and
:mod:`number_programs` runs in two worlds that differ in nothing but ``tg.compile``, and after each call everything that
can be seen is compared.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import pytree


def _load(name: str) -> ModuleType:
    """Test files are imported by path, and so are the tables beside this one."""
    full = f"compile_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[full]


programs = _load("programs")
_load("profiled_programs")
_load("state_programs")
_load("tensor_programs")
_load("transform_programs")
_load("function_programs")
_load("mode_programs")
_load("recurrent_programs")
_load("number_programs")

TURNS = programs.TURNS
BACKENDS = ["native", "interpreter"]


def outcome(call: Callable[[int], Any], turn: int) -> Any:
    """The result of a call, or type and message of what it raised."""
    try:
        return call(turn)
    except Exception as error:
        return type(error), str(error)


def assert_same(got: Any, wanted: Any, where: str) -> None:
    """Results of the two worlds: same structure, dtypes, flags, and values up to rounding."""
    got_leaves, got_spec = pytree.flatten(got)
    wanted_leaves, wanted_spec = pytree.flatten(wanted)
    assert got_spec == wanted_spec, f"{where}: {got} instead of {wanted}"
    for a, b in zip(got_leaves, wanted_leaves, strict=True):
        assert type(a) is type(b), f"{where}: {a!r} instead of {b!r}"
        if isinstance(b, tg.Tensor):
            assert a.dtype is b.dtype, where
            assert a.shape == b.shape, where
            assert a.requires_grad == b.requires_grad, where
            assert a.is_leaf == b.is_leaf, where
            np.testing.assert_allclose(
                a.detach().numpy(), b.detach().numpy(), rtol=2e-5, atol=1e-6, err_msg=where
            )
        elif isinstance(b, float):
            np.testing.assert_allclose(a, b, rtol=2e-5, err_msg=where)
        elif isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=where)
        else:
            assert a == b, f"{where}: {a!r} instead of {b!r}"


def state_of(tensors: list[tg.Tensor]) -> list[Any]:
    """What can be seen of tensors that the programs share with the outside."""
    return [
        (
            t.detach(),
            t.requires_grad,
            t._version,
            t.grad,
            None if t.grad is None else t.grad._version,
        )
        for t in tensors
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_compiled_equals_plain(name: str, backend: str) -> None:
    program = programs.PROGRAMS[name]
    plain_outcomes = _run(program, lambda function: function)
    compiled_functions: list[Any] = []

    def compile(function: Any) -> Any:
        compiled_functions.append(tg.compile(function, backend=backend))
        return compiled_functions[-1]

    compiled_outcomes = _run(program, compile)
    report = "\n".join(f.explain() for f in compiled_functions)
    for turn in range(TURNS):
        for what, a, b in zip(
            ("result", "state"), compiled_outcomes[turn], plain_outcomes[turn], strict=True
        ):
            assert_same(a, b, f"{name}, {what} of turn {turn}\n{report}")
    stats = [f.stats for f in compiled_functions]
    assert not any(
        "internal error" in reason for f in compiled_functions for reason, _ in f.refusals
    )
    fast = max(s.native + s.interpreted for s in stats)
    if program.native:
        assert fast >= 2, report
    elif program.native is False:
        assert fast == 0, report
        assert any(f.refusals for f in compiled_functions)
        assert any(
            "runs eagerly" in f.explain() or "not compiled" in f.explain()
            for f in compiled_functions
        )


def _run(program: Any, compile: Any) -> list[tuple[Any, Any]]:
    """Results and states of all turns, copied so that later turns do not change them."""
    tg.manual_seed(1234)
    world = program.make(compile)
    found = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*runs eagerly from now on.*", RuntimeWarning)
        for turn in range(TURNS):
            result = outcome(world.call, turn)
            found.append((_snapshot(result), _snapshot(state_of(world.tensors))))
    return found


def _snapshot(value: Any) -> Any:
    def copied(leaf: Any) -> Any:
        if not isinstance(leaf, tg.Tensor):
            return leaf
        twin = tg.tensor(leaf.detach().numpy())
        if leaf.requires_grad:
            twin.requires_grad_()
        return twin if leaf.is_leaf else twin * 1

    return pytree.map_leaves(copied, value)
