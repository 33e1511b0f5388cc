"""Random programs run plainly and compiled: see :mod:`random_functions`, which is also a command to hunt with."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    full = f"compile_{name}"
    spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


random_functions = _load("random_functions")


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_interpreted(first: int) -> None:
    for seed in range(first, first + 20):
        found, function = random_functions.compare(
            random_functions.make_program(seed), "interpreter"
        )
        assert found is None, f"seed {seed}: {found}\n{function.explain()}"


@pytest.mark.parametrize("first", range(1000, 1040, 8))
def test_native(first: int) -> None:
    pytest.importorskip("llvmlite", reason="runs native code")
    for seed in range(first, first + 8):
        found, function = random_functions.compare(random_functions.make_program(seed), "native")
        assert found is None, f"seed {seed}: {found}\n{function.explain()}"
