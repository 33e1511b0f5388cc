"""NumPy evaluation of erf and erfc, which NumPy itself lacks."""

from __future__ import annotations

import math

import numpy as np

_erf = np.frompyfunc(math.erf, 1, 1)
_erfc = np.frompyfunc(math.erfc, 1, 1)


def evaluate_erf(x: np.ndarray) -> np.ndarray:
    """The error function, correctly rounded to float64 by the C library, element by element."""
    return np.asarray(_erf(x), dtype=np.asarray(x).dtype)


def evaluate_erfc(x: np.ndarray) -> np.ndarray:
    """The complementary error function 1 - erf(x), without cancellation."""
    return np.asarray(_erfc(x), dtype=np.asarray(x).dtype)
