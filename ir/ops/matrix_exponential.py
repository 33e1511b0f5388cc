"""The exponential of matrices in the last two dimensions, by scaling and squaring."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..batching import shifted
from ..op import Op, primitive
from .arithmetic import zeros
from .matrices import (
    columns_of,
    on_top,
    rows_of,
    same_type,
    square_samples,
)
from .shape import swap_last

# The Pade approximant of exp of degree 13, and the norm up to which it is exact in double precision (Higham, 2005,
# "The scaling and squaring method for the matrix exponential revisited").
_COEFFICIENTS = (
    64764752532480000, 32382376266240000, 7771770303897600, 1187353796428800, 129060195264000,
    10559470521600, 670442572800, 33522128640, 1323241920, 40840800, 960960, 16380, 182, 1,
)  # fmt: skip
_LARGEST_NORM = 5.371920351148152


def _evaluate_exponential(x: np.ndarray) -> np.ndarray:
    """Each matrix is scaled by itself: what it gives does not depend on the others of its batch."""
    if not x.size:
        return x.copy()
    wide = x.astype(np.float64)
    norms = np.abs(wide).sum(-2).max(-1)
    finite = np.isfinite(norms)
    wide = np.where(finite[..., None, None], wide, 0)
    excess = np.log2(
        np.maximum(norms, _LARGEST_NORM) / _LARGEST_NORM, where=finite, out=np.zeros_like(norms)
    )
    squarings = np.ceil(excess)[..., None, None]
    wide = wide / 2.0**squarings
    power = np.broadcast_to(np.eye(x.shape[-1]), wide.shape)
    square = wide @ wide
    even = odd = np.zeros_like(wide)
    for k in range(0, len(_COEFFICIENTS), 2):
        even = even + _COEFFICIENTS[k] * power
        odd = odd + _COEFFICIENTS[k + 1] * power
        power = power @ square
    odd = wide @ odd
    result = np.linalg.solve(even - odd, even + odd)
    for turn in range(int(squarings.max())):
        result = np.where(turn < squarings, result @ result, result)
    return np.asarray(np.where(finite[..., None, None], result, np.nan), x.dtype)


def _exponential_derivative(x: Any, change: Any) -> Any:
    """The derivative of the exponential in a direction: a corner of the exponential of a block matrix."""
    n = tuple(x.shape)[-1]
    nothing = zeros(x, shape=tuple(x.shape))
    top = swap_last(on_top(swap_last(x), swap_last(change)))
    bottom = swap_last(on_top(nothing, swap_last(x)))
    return columns_of(rows_of(matrix_exp(on_top(top, bottom)), 0, n), n, 2 * n)


matrix_exp: Op = primitive(
    "matrix_exp",
    eval=_evaluate_exponential,
    type_rule=same_type,
    vjps=(lambda ct, x: _exponential_derivative(swap_last(x), ct),),
    jvp=lambda tangents, out, operands: _exponential_derivative(operands[0], tangents[0]),
    batch=shifted(),
    samples=square_samples(),
)
