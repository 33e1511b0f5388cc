"""The contract of ``tg.compile``: no other result, no other effect on a tensor, no other exception."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import pytree

_spec = importlib.util.spec_from_file_location(
    "compile_programs", Path(__file__).with_name("programs.py")
)
assert _spec is not None
assert _spec.loader is not None
programs = importlib.util.module_from_spec(_spec)
sys.modules["compile_programs"] = programs
_spec.loader.exec_module(programs)

TURNS = 9
BACKENDS = ["native", "interpreter"]


def assert_same(got: Any, wanted: Any, where: str) -> None:
    """Results of the two worlds: same structure, dtypes, flags, and values up to rounding."""
    got_leaves, got_spec = pytree.flatten(got)
    wanted_leaves, wanted_spec = pytree.flatten(wanted)
    assert got_spec == wanted_spec, where
    for a, b in zip(got_leaves, wanted_leaves, strict=True):
        if isinstance(b, tg.Tensor):
            assert isinstance(a, tg.Tensor), where
            assert a.dtype is b.dtype, where
            assert a.shape == b.shape, where
            assert a.requires_grad == b.requires_grad, where
            np.testing.assert_allclose(
                a.detach().numpy(), b.detach().numpy(), rtol=2e-5, atol=1e-6, err_msg=where
            )
        else:
            assert type(a) is type(b), where
            assert a == b, where


def state_of(tensors: list[tg.Tensor]) -> list[Any]:
    return [(t.detach(), t.grad, t._version) for t in tensors]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_compiled_equals_plain(name: str, backend: str) -> None:
    make = programs.PROGRAMS[name]
    compiled_functions = []

    def compile(function: Any) -> Any:
        compiled_functions.append(tg.compile(function, backend=backend))
        return compiled_functions[-1]

    plain = make(lambda function: function)
    compiled = make(compile)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*runs eagerly from now on.*", RuntimeWarning)
        for turn in range(TURNS):
            wanted = plain.call(turn)
            got = compiled.call(turn)
            assert_same(got, wanted, f"{name}, result of turn {turn}")
            assert_same(
                state_of(compiled.tensors),
                state_of(plain.tensors),
                f"{name}, state after turn {turn}",
            )
    assert all(f.stats.calls == TURNS for f in compiled_functions)


NEVER_NATIVE = {
    "counter",
    "growing_list",
    "printing",
    "from_numpy_inside",
    "returns_argument_and_view",
    "in_place_through_a_view",
}
"""Programs that a trace cannot describe; they run eagerly and say so."""


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_runs_natively_where_it_can(name: str) -> None:
    found = []

    def compile(function: Any) -> Any:
        found.append(tg.compile(function, backend="interpreter"))
        return found[-1]

    world = programs.PROGRAMS[name](compile)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*runs eagerly from now on.*", RuntimeWarning)
        for turn in range(TURNS):
            world.call(turn)
    stats = found[0].stats
    if name in NEVER_NATIVE:
        assert stats.native + stats.interpreted == 0
        assert found[0].eager_reason is not None
        assert "runs eagerly" in found[0].explain()
    else:
        assert stats.native + stats.interpreted >= 2, found[0].explain()
