"""Fixtures of the tests of nn: torch, where it is installed, and ways to compare with it."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tracegrad as tg


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """torch itself; tests that ask for it are skipped where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "torch", reason="torch is not installed: nothing to compare with"
        )


@pytest.fixture
def same_module(torch: ModuleType) -> Any:
    """``same_module(ours, theirs)``: give our module the parameters and buffers of torch's."""

    def copy(ours: tg.nn.Module, theirs: Any) -> None:
        values = {key: tg.tensor(value.numpy()) for key, value in theirs.state_dict().items()}
        assert str(ours.load_state_dict(values)) == "<All keys matched successfully>"

    return copy


@pytest.fixture
def both_raise(torch: ModuleType) -> Any:
    """``both_raise(call)``: the same exception type; our text begins with torch's, or with `start` of it."""

    def check(call: Any, *arguments: np.ndarray, start: int | None = None) -> None:
        with pytest.raises(Exception) as theirs:  # noqa: PT011 (its type is what is compared)
            call(torch, *(torch.tensor(a) for a in arguments))
        with pytest.raises(Exception) as ours:  # noqa: PT011
            call(tg, *(tg.tensor(a) for a in arguments))
        assert type(ours.value) is type(theirs.value)
        expected = str(theirs.value)[:start]
        assert str(ours.value).startswith(expected), f"{ours.value}\n  instead of\n{expected}"

    return check
