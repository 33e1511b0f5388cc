"""What all tests share: the option for golden files, fixed seeds, Hypothesis profiles."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Tests try the code generator, and not what an earlier one has left on disk.
os.environ["TRACEGRAD_CACHE"] = "0"

# Test modules are imported by path; this makes tests/helpers.py importable for them.
sys.path.insert(0, str(Path(__file__).parent))

_LENIENT = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.differing_executors]
settings.register_profile(
    "tracegrad",
    deadline=None,
    # The same examples in every run, unless one searches for new ones.
    derandomize="TRACEGRAD_FUZZ_FACTOR" not in os.environ,
    database=None,
    suppress_health_check=_LENIENT,
)
settings.load_profile("tracegrad")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the files in tests/golden anew"
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written rather than compared."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20240607)
