"""The calls with which the public functions are compared with torch, and how to carry them out.

One module per family of functions holds a table, one line per call; a new family is a new module, added to `CASES`
here. How a call is made is in calls.py. Used by test_ops_torch.py, autograd/ and func/.
"""

from __future__ import annotations

from . import functions
from .calls import Call, Case, X, draw, flat_outputs, forms, operands_of, prepare

CASES = [*functions.CASES]

__all__ = [
    "CASES",
    "Call",
    "Case",
    "X",
    "draw",
    "flat_outputs",
    "forms",
    "operands_of",
    "prepare",
]
