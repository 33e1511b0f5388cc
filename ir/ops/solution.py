"""Inverses, solutions of linear systems, determinants and pseudoinverses, of matrices in the last two dimensions.

LAPACK through NumPy; all are interpreted. Rules are those of Giles (2008), "An extended collection of matrix derivative
results for forward and reverse mode algorithmic differentiation", and of Golub and Pereyra (1973) for the
pseudoinverse; written with the ops themselves, so that they are differentiable again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..batching import shifted
from ..errors import LinAlgError
from ..op import Op, primitive
from ..types import TensorType
from .linalg import matmul
from .matrices import (
    as_matrix,
    batch_message,
    first_bad,
    lower_triangle,
    matrix_samples,
    product_of,
    regular_matrices,
    same_type,
    square_samples,
    strictly_lower_triangle,
    total,
)
from .samples import FLOATS, Sample, draw
from .shape import concat, reshape, slice_, swap_last


def _systems(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for a, b in (((3, 3), (3, 2)), ((2, 2, 2), (2, 2, 1)), ((0, 0), (0, 2))):
            yield Sample((regular_matrices(rng, a, dtype), draw(rng, b, dtype)), {})


def _triangular_systems(rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _systems(rng):
        for upper in (False, True):
            for unit in (False, True):
                yield Sample(sample.operands, {"upper": upper, "unit": unit})


def zero_pivot(matrix: np.ndarray) -> int:
    """Which diagonal element of U is zero in the factorization of a square matrix, from 1; 0 if none is."""
    u = matrix.copy()
    for k in range(len(u)):
        pivot = k + int(np.argmax(np.abs(u[k:, k])))
        if u[pivot, k] == 0:
            return k + 1
        u[[k, pivot]] = u[[pivot, k]]
        u[k + 1 :, k:] -= np.outer(u[k + 1 :, k] / u[k, k], u[k, k:])
    return 0


def _singular(name: str, x: np.ndarray, what: str) -> LinAlgError:
    index, place = first_bad(x, zero_pivot)
    return LinAlgError(
        batch_message(
            name,
            index,
            f"The diagonal element {place} is zero, the {what} could not be completed because the input matrix "
            "is singular.",
        )
    )


def _evaluate_inverse(x: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.inv(x)
    except np.linalg.LinAlgError:
        raise _singular("linalg.inv", x, "inversion") from None


def _evaluate_solve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(x, y)
    except np.linalg.LinAlgError:
        index, _ = first_bad(x, zero_pivot)
        text = "The solver failed because the input matrix is singular."
        raise LinAlgError(batch_message("torch.linalg.solve", index, text)) from None


def _evaluate_triangular(x: np.ndarray, y: np.ndarray, upper: bool, unit: bool) -> np.ndarray:
    """Substitution row by row; a zero on the diagonal gives infinities, as LAPACK's does."""
    n = x.shape[-1]
    found = np.array(np.broadcast_to(y, (*x.shape[:-2], *y.shape[-2:])))
    order = range(n - 1, -1, -1) if upper else range(n)
    with np.errstate(all="ignore"):
        for i in order:
            known = slice(i + 1, None) if upper else slice(0, i)
            row = found[..., i, :] - (x[..., None, i, known] @ found[..., known, :])[..., 0, :]
            found[..., i, :] = row if unit else row / x[..., i, i, None]
    return found


def _evaluate_slogdet(x: np.ndarray) -> np.ndarray:
    sign, magnitude = np.linalg.slogdet(x)
    return np.stack([sign, magnitude], -1).astype(x.dtype, copy=False)


def _evaluate_cofactors(x: np.ndarray) -> np.ndarray:
    """The derivative of the determinant: products of all singular values but one, so that none is divided by."""
    u, values, vh = np.linalg.svd(x)
    n = x.shape[-1]
    others = np.ones_like(values)
    for i in range(n):
        others[..., i] = np.prod(np.delete(values, i, -1), -1)
    sign = np.linalg.det(u) * np.linalg.det(vh)
    return np.asarray(sign[..., None, None] * ((u * others[..., None, :]) @ vh), x.dtype)


inverse: Op = primitive(
    "inverse",
    eval=_evaluate_inverse,
    type_rule=same_type,
    vjps=(lambda ct, out: -product_of(swap_last(out), ct, swap_last(out)),),
    jvp=lambda tangents, out, operands: -product_of(out, tangents[0], out),
    batch=shifted(),
    samples=square_samples(),
)


def _solve_jvp(tangents: Any, out: Any, operands: Any) -> Any:
    x, _ = operands
    left, right = tangents
    change = None if left is None else -matmul(left, out)
    if right is not None:
        change = right if change is None else right + change
    return solve(x, change)


# The solution X of x X = y.
solve: Op = primitive(
    "solve",
    operands=("x", "y"),
    eval=_evaluate_solve,
    type_rule=lambda x, y: y,
    vjps=(
        lambda ct, x, out: -matmul(solve(swap_last(x), ct), swap_last(out)),
        lambda ct, x: solve(swap_last(x), ct),
    ),
    jvp=_solve_jvp,
    batch=shifted(),
    samples=_systems,
)


def _triangle(x: Any, upper: bool, unit: bool) -> Any:
    """The part of a matrix that a triangular solution reads."""
    if upper:
        return swap_last(_triangle(swap_last(x), False, unit))
    return strictly_lower_triangle(x) if unit else lower_triangle(x)


def _triangular_jvp(tangents: Any, out: Any, operands: Any, *, upper: bool, unit: bool) -> Any:
    x, _ = operands
    left, right = tangents
    change = None if left is None else -matmul(_triangle(left, upper, unit), out)
    if right is not None:
        change = right if change is None else right + change
    return solve_triangular(x, change, upper=upper, unit=unit)


def _transposed_solution(x: Any, ct: Any, upper: bool, unit: bool) -> Any:
    return solve_triangular(swap_last(x), ct, upper=not upper, unit=unit)


# The solution of x X = y, of which only one triangle of x is read (without its diagonal, if that is `unit`).
solve_triangular: Op = primitive(
    "solve_triangular",
    operands=("x", "y"),
    eval=_evaluate_triangular,
    type_rule=lambda x, y, *, upper, unit: y,
    vjps=(
        lambda ct, x, out, upper, unit: (
            -_triangle(
                matmul(_transposed_solution(x, ct, upper, unit), swap_last(out)), upper, unit
            )
        ),
        lambda ct, x, upper, unit: _transposed_solution(x, ct, upper, unit),
    ),
    jvp=_triangular_jvp,
    attrs=("upper", "unit"),
    batch=shifted(),
    samples=_triangular_systems,
)


def _number_type(x: TensorType) -> TensorType:
    return TensorType(x.dtype, x.shape[:-2])


def _cofactors_vjp(ct: Any, x: Any, out: Any) -> Any:
    turned = swap_last(inverse(x))
    trace = as_matrix(total(ct * turned))
    return trace * out - product_of(out, swap_last(ct), turned)


cofactors: Op = primitive(
    "cofactors",
    eval=_evaluate_cofactors,
    type_rule=same_type,
    vjps=(_cofactors_vjp,),
    jvp=lambda tangents, out, operands: _cofactors_vjp(tangents[0], operands[0], out),
    batch=shifted(),
    samples=square_samples(),
)


det: Op = primitive(
    "det",
    eval=lambda x: np.asarray(np.linalg.det(x), x.dtype),
    type_rule=_number_type,
    vjps=(lambda ct, x: as_matrix(ct) * cofactors(x),),
    jvp=lambda tangents, out, operands: total(tangents[0] * cofactors(operands[0])),
    batch=shifted(),
    samples=square_samples(),
)


def _last(x: Any, index: int) -> Any:
    """One element along the last axis, which is kept."""
    n = len(tuple(x.shape))
    start = (0,) * (n - 1)
    limit = tuple(x.shape)[:-1]
    return slice_(x, start=(*start, index), limit=(*limit, index + 1), stride=(1,) * n)


def _slogdet_jvp(tangents: Any, out: Any, operands: Any) -> Any:
    change = total(tangents[0] * swap_last(inverse(operands[0])))
    shape = tuple(change.shape)
    change = reshape(change, shape=(*shape, 1))
    return concat(change * 0.0, change, axis=len(shape))


# Sign and logarithm of the magnitude of the determinant, along a last axis.
slogdet: Op = primitive(
    "slogdet",
    eval=_evaluate_slogdet,
    type_rule=lambda x: TensorType(x.dtype, (*x.shape[:-2], 2)),
    vjps=(
        lambda ct, x: (
            reshape(_last(ct, 1), shape=(*tuple(ct.shape)[:-1], 1, 1)) * swap_last(inverse(x))
        ),
    ),
    jvp=_slogdet_jvp,
    batch=shifted(),
    samples=square_samples(),
)


def _evaluate_pseudoinverse(x: np.ndarray, y: np.ndarray, symmetric: bool) -> np.ndarray:
    if symmetric:
        x = np.tril(x) + np.tril(x, -1).mT
    u, values, vh = np.linalg.svd(x, full_matrices=False)
    inverted = np.where(values > y, 1 / np.where(values > y, values, 1), 0)
    return np.asarray((vh.mT * inverted[..., None, :]) @ u.mT, x.dtype)


def _pinv_vjp(ct: Any, x: Any, out: Any) -> Any:
    turned, flipped = swap_last(out), swap_last(ct)
    beside = flipped - product_of(x, out, flipped)
    above = flipped - product_of(flipped, out, x)
    return (
        product_of(beside, out, turned)
        + product_of(turned, out, above)
        - product_of(turned, ct, turned)
    )


def _pinv_jvp(tangents: Any, out: Any, operands: Any, *, symmetric: bool) -> Any:
    x, tangent = operands[0], tangents[0]
    if tangent is None:
        return None
    turned, flipped = swap_last(out), swap_last(tangent)
    beside = flipped - product_of(flipped, x, out)
    above = flipped - product_of(out, x, flipped)
    return (
        product_of(out, turned, beside)
        + product_of(above, turned, out)
        - product_of(out, tangent, out)
    )


def _cutoffs(rng: np.random.Generator) -> Iterator[Sample]:
    for sample in matrix_samples(rng):
        (x,) = sample.operands
        yield Sample((x, np.full((*x.shape[:-2], 1), 1e-3, x.dtype)), {"symmetric": False})


# Singular values up to y count as zero. Of `symmetric` matrices the lower triangle is read.
pinv: Op = primitive(
    "pinv",
    operands=("x", "y"),
    eval=_evaluate_pseudoinverse,
    type_rule=lambda x, y, *, symmetric: TensorType(
        x.dtype, (*x.shape[:-2], x.shape[-1], x.shape[-2])
    ),
    vjps=(_pinv_vjp, None),
    jvp=_pinv_jvp,
    attrs=("symmetric",),
    batch=shifted(),
    samples=_cutoffs,
)
