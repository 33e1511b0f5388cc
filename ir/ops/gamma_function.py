"""NumPy evaluation of lgamma and digamma, which NumPy itself lacks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def _lgamma(x: float) -> float:
    try:
        return math.lgamma(x)
    except ValueError:  # A pole.
        return math.inf


_each = np.frompyfunc(_lgamma, 1, 1)

# B(2k) / (2k) of the asymptotic series in 1 / x**2.
_SERIES = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
_LARGE = 10


def evaluate_lgamma(x: np.ndarray) -> np.ndarray:
    """log(abs(gamma(x))) by the C library, element by element; infinite at 0, -1, -2, ..."""
    return np.asarray(_each(x), dtype=np.asarray(x).dtype)


def evaluate_digamma(x: np.ndarray) -> Any:
    """The derivative of lgamma: NaN at -1, -2, ..., and an infinity of the opposite sign at 0."""
    x = np.asarray(x)
    wide = x.astype(np.float64)
    negative = wide < 0
    # digamma(x) = digamma(1 - x) - pi / tan(pi x)
    y = np.where(negative, 1 - wide, wide)
    total = np.zeros_like(y)
    for _ in range(_LARGE):
        small = y < _LARGE
        total -= np.where(small, 1 / y, 0)
        y = np.where(small, y + 1, y)
    square = 1 / (y * y)
    series = np.polynomial.polynomial.polyval(square, _SERIES) * square
    total += np.log(y) - 0.5 / y - series
    angle = np.pi * (wide - np.rint(wide))
    total = np.where(negative, total - np.pi / np.tan(angle), total)
    total = np.where(negative & (angle == 0), np.nan, total)
    return np.where(wide == 0, np.copysign(np.inf, -wide), total).astype(x.dtype)
