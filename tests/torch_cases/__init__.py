"""The calls with which the public functions are compared with torch, and how to carry them out.

One module per family of functions holds a table, one line per call; a new family is a new module, added to `CASES`
here. `CREATION` are makers of tensors and Python's syntax, which are compared with torch but not transformed, `RANDOM`
calls of which only the kind of result can be compared. How a call is made is in calls.py, which functions people call
most in tiers.py. Used by test_ops_torch.py, autograd/, func/ and coverage_report.py.
"""

from __future__ import annotations

from . import (
    activations,
    arrangement,
    contraction,
    convolutions,
    counting,
    creation,
    factorizations,
    functions,
    losses,
    normalizations,
    ordering,
    scanning,
    special,
    windows,
)
from .calls import Call, Case, X, draw, flat_outputs, forms, operands_of, prepare
from .creation import RANDOM

CASES = [
    *functions.CASES,
    *special.CASES,
    *scanning.CASES,
    *contraction.CASES,
    *factorizations.CASES,
    *arrangement.CASES,
    *convolutions.CASES,
    *windows.CASES,
    *ordering.CASES,
    *counting.CASES,
    *losses.CASES,
    *activations.CASES,
    *normalizations.CASES,
]
CREATION = [*creation.CASES]

__all__ = [
    "CASES",
    "CREATION",
    "RANDOM",
    "Call",
    "Case",
    "X",
    "draw",
    "flat_outputs",
    "forms",
    "operands_of",
    "prepare",
]
