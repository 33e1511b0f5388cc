"""Factorizations of the matrices in the last two dimensions. LAPACK through NumPy; all are interpreted.

An op has one result, so those that have several factors lay them on top of each other: ``eigh`` the eigenvalues as a
row above the eigenvectors, ``svd`` the rows of U, a row of singular values, and the rows of V, ``qr`` the rows of Q and
those of R transposed. Rules are those of Giles (2008), "An extended collection of matrix derivative results for forward
and reverse mode algorithmic differentiation", and of Walter and Lehmann (2013), "Algorithmic differentiation of linear
algebra functions", for QR; written with the ops themselves, so that they are differentiable again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..batching import shifted
from ..errors import LinAlgError
from ..op import Op, primitive
from ..types import TensorType
from .linalg import matmul
from .matrices import (
    batch_message,
    columns_of,
    diagonal_of,
    first_bad,
    half_lower,
    inverse_differences,
    lower_triangle,
    matrix_samples,
    on_diagonal,
    on_top,
    product_of,
    regular_matrices,
    rows_of,
    same_type,
    square_samples,
    strictly_lower_triangle,
    symmetric_part,
    without_projection,
)
from .reduction import sum_
from .samples import FLOATS, Sample
from .shape import reshape, swap_last
from .solution import solve_triangular


def _tall(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for shape in ((3, 2), (2, 4, 1)):
            yield Sample((np.linalg.qr(regular_matrices(rng, shape, dtype))[0],), {})


def minor_not_positive(matrix: np.ndarray) -> int:
    """The order of the first leading minor that is not positive-definite; 0 if all are."""
    for order in range(1, len(matrix) + 1):
        try:
            factor = np.linalg.cholesky(matrix[:order, :order])
        except np.linalg.LinAlgError:
            return order
        if np.isnan(factor[-1, -1]):  # NumPy does not complain of NaN.
            return order
    return 0


def _evaluate_cholesky(x: np.ndarray) -> np.ndarray:
    try:
        factor = np.linalg.cholesky(x)
        failed = np.isnan(np.diagonal(factor, axis1=-2, axis2=-1)).any()
    except np.linalg.LinAlgError:
        failed = True
    if not failed:
        return factor
    index, order = first_bad(x, minor_not_positive)
    text = (
        "The factorization could not be completed because the input is not positive-definite (the leading minor of "
        f"order {order} is not positive-definite)."
    )
    raise LinAlgError(batch_message("linalg.cholesky", index, text))


def _converged(evaluate: Callable[[np.ndarray], Any], x: np.ndarray, name: str, what: str) -> Any:
    """What an iterative function of LAPACK gives for some matrices.

    Args:
        name, what: of the function and of its values, for messages.

    Raises:
        LinAlgError: it does not converge.
    """

    def fails(matrix: np.ndarray) -> int:
        try:
            evaluate(matrix)
        except np.linalg.LinAlgError:
            return 1
        return 0

    try:
        return evaluate(x)
    except np.linalg.LinAlgError:
        pass
    index, _ = first_bad(x, fails)
    matrix = x.reshape(-1, *x.shape[-2:])[index or 0]
    text = "The algorithm failed to converge because the input matrix "
    if what == "singular values" and not np.isfinite(matrix).all():
        text += "contained non-finite values."
    else:
        text += f"is ill-conditioned or has too many repeated {what} (error code: 1)."
    raise LinAlgError(batch_message(name, index, text))


def _evaluate_eigh(x: np.ndarray) -> np.ndarray:
    values, vectors = _converged(np.linalg.eigh, x, "linalg.eigh", "eigenvalues")
    return np.concatenate([values[..., None, :], vectors], -2)


def _evaluate_eigenvalues(x: np.ndarray) -> Any:
    return _converged(np.linalg.eigvalsh, x, "linalg.eigh", "eigenvalues")


def _evaluate_svd(x: np.ndarray) -> np.ndarray:
    reduced = functools.partial(np.linalg.svd, full_matrices=False)
    u, values, vh = _converged(reduced, x, "linalg.svd", "singular values")
    return np.concatenate([u, values[..., None, :], vh.mT], -2)


def _evaluate_singular_values(x: np.ndarray) -> Any:
    values = functools.partial(np.linalg.svd, compute_uv=False)
    return _converged(values, x, "linalg.svd", "singular values")


def _evaluate_qr(x: np.ndarray) -> np.ndarray:
    q, r = np.linalg.qr(x)
    return np.concatenate([q, r.mT], -2)


cholesky: Op = primitive(
    "cholesky",
    eval=_evaluate_cholesky,
    type_rule=same_type,
    vjps=(lambda ct, out: _cholesky_vjp(ct, out),),
    jvp=lambda tangents, out, operands: matmul(
        out, half_lower(_between(out, symmetric_part(tangents[0])))
    ),
    batch=shifted(),
    samples=square_samples(symmetric=True),
)


def _between(factor: Any, x: Any) -> Any:
    """``L^-1 x L^-T``."""
    left = solve_triangular(factor, x, upper=False, unit=False)
    return swap_last(solve_triangular(factor, swap_last(left), upper=False, unit=False))


def _cholesky_vjp(ct: Any, out: Any) -> Any:
    middle = half_lower(matmul(swap_last(out), ct))
    transposed = swap_last(out)
    left = solve_triangular(transposed, symmetric_part(middle), upper=True, unit=False)
    return swap_last(solve_triangular(transposed, swap_last(left), upper=True, unit=False))


def _packed(rows: Callable[[int, int], int]) -> Callable[[TensorType], TensorType]:
    """The type of factors on top of each other, which have as many columns as there are singular values."""

    def rule(x: TensorType) -> TensorType:
        m, n = x.shape[-2:]
        return TensorType(x.dtype, (*x.shape[:-2], rows(m, n), min(m, n)))

    return rule


def _eigh_parts(packed: Any) -> tuple[Any, Any]:
    n = tuple(packed.shape)[-1]
    return rows_of(packed, 0, 1), rows_of(packed, 1, n + 1)


def _eigh_vjp(ct: Any, out: Any) -> Any:
    values, vectors = _eigh_parts(out)
    ct_values, ct_vectors = _eigh_parts(ct)
    turned = swap_last(vectors)
    middle = inverse_differences(values) * matmul(turned, ct_vectors)
    return symmetric_part(product_of(vectors, middle + on_diagonal(ct_values), turned))


def _eigh_jvp(tangents: Any, out: Any, operands: Any) -> Any:
    values, vectors = _eigh_parts(out)
    middle = product_of(swap_last(vectors), symmetric_part(tangents[0]), vectors)
    change = matmul(vectors, inverse_differences(values) * middle)
    return on_top(swap_last(diagonal_of(middle)), change)


# Of symmetric matrices, of which the lower triangle is read.
eigh: Op = primitive(
    "eigh",
    eval=_evaluate_eigh,
    type_rule=_packed(lambda m, n: n + 1),
    vjps=(_eigh_vjp,),
    jvp=_eigh_jvp,
    batch=shifted(),
    samples=square_samples(symmetric=True),
)


def _vectors_of(x: Any) -> Any:
    return _eigh_parts(eigh(x))[1]


def _weighted(left: Any, ct: Any, right: Any) -> Any:
    """``left diag(ct) right^T``."""
    row = reshape(ct, shape=(*tuple(ct.shape)[:-1], 1, tuple(ct.shape)[-1]))
    return matmul(left * row, swap_last(right))


def _pushed(left: Any, tangent: Any, right: Any) -> Any:
    """The diagonals of ``left^T tangent right``, as vectors."""
    n = len(tuple(left.shape))
    return sum_(left * matmul(tangent, right), axis=(n - 2,), keepdims=False)


def _values_type(x: TensorType) -> TensorType:
    return TensorType(x.dtype, (*x.shape[:-2], min(x.shape[-2:])))


def _eigvalsh_vjp(ct: Any, x: Any) -> Any:
    vectors = _vectors_of(x)
    return _weighted(vectors, ct, vectors)


def _eigvalsh_jvp(tangents: Any, out: Any, operands: Any) -> Any:
    vectors = _vectors_of(operands[0])
    return _pushed(vectors, symmetric_part(tangents[0]), vectors)


eigvalsh: Op = primitive(
    "eigvalsh",
    eval=_evaluate_eigenvalues,
    type_rule=_values_type,
    vjps=(_eigvalsh_vjp,),
    jvp=_eigvalsh_jvp,
    batch=shifted(),
    samples=square_samples(symmetric=True),
)


def _svd_parts(packed: Any, m: int) -> tuple[Any, Any, Any]:
    rows = tuple(packed.shape)[-2]
    return rows_of(packed, 0, m), rows_of(packed, m, m + 1), rows_of(packed, m + 1, rows)


def _svd_vjp(ct: Any, out: Any, x_type: TensorType) -> Any:
    m, n = x_type.shape[-2:]
    k = min(m, n)
    u, s, v = _svd_parts(out, m)
    ct_u, ct_s, ct_v = _svd_parts(ct, m)
    apart = inverse_differences(s * s)

    def skew(factor: Any, change: Any) -> Any:
        product = matmul(swap_last(factor), change)
        return apart * (product - swap_last(product))

    # Of the rows and columns of U S V^T: F * (U^T dU - dU^T U) S, S F * (V^T dV - dV^T V), and dS.
    middle = skew(u, ct_u) * s + swap_last(s) * skew(v, ct_v) + on_diagonal(ct_s)
    found = product_of(u, middle, swap_last(v))
    if m > k:
        found = found + matmul(without_projection(u, ct_u) / s, swap_last(v))
    if n > k:
        found = found + matmul(u, swap_last(without_projection(v, ct_v) / s))
    return found


def _svd_jvp(tangents: Any, out: Any, operands: Any) -> Any:
    (tangent,) = tangents
    m, n = tuple(tangent.shape)[-2:]
    k = min(m, n)
    u, s, v = _svd_parts(out, m)
    middle = product_of(swap_last(u), tangent, v)
    apart = inverse_differences(s * s)
    turned = swap_last(middle)
    du = matmul(u, apart * (middle * s + swap_last(s) * turned))
    dv = matmul(v, apart * (swap_last(s) * middle + turned * s))
    if m > k:
        du = du + without_projection(u, matmul(tangent, v)) / s
    if n > k:
        dv = dv + without_projection(v, matmul(swap_last(tangent), u)) / s
    return on_top(du, swap_last(diagonal_of(middle)), dv)


svd: Op = primitive(
    "svd",
    eval=_evaluate_svd,
    type_rule=_packed(lambda m, n: m + 1 + n),
    vjps=(_svd_vjp,),
    jvp=_svd_jvp,
    batch=shifted(),
    samples=matrix_samples,
)


def _svdvals_vjp(ct: Any, x: Any) -> Any:
    u, _, v = _svd_parts(svd(x), tuple(x.shape)[-2])
    return _weighted(u, ct, v)


def _svdvals_jvp(tangents: Any, out: Any, operands: Any) -> Any:
    u, _, v = _svd_parts(svd(operands[0]), tuple(operands[0].shape)[-2])
    return _pushed(u, tangents[0], v)


svdvals: Op = primitive(
    "svdvals",
    eval=_evaluate_singular_values,
    type_rule=_values_type,
    vjps=(_svdvals_vjp,),
    jvp=_svdvals_jvp,
    batch=shifted(),
    samples=matrix_samples,
)


def _qr_parts(packed: Any, m: int) -> tuple[Any, Any]:
    return rows_of(packed, 0, m), swap_last(rows_of(packed, m, tuple(packed.shape)[-2]))


def _times_inverse(x: Any, r: Any) -> Any:
    """``x R^-T`` of an upper triangle R."""
    return swap_last(solve_triangular(r, swap_last(x), upper=True, unit=False))


def _qr_vjp(ct: Any, out: Any, x_type: TensorType) -> Any:
    m, n = x_type.shape[-2:]
    q, r = _qr_parts(out, m)
    ct_q, ct_r = _qr_parts(ct, m)
    rest = None
    if n > m:  # The further columns are Q times those of R.
        r_rest, ct_rest = columns_of(r, m, n), columns_of(ct_r, m, n)
        rest = matmul(q, ct_rest)
        ct_q = ct_q + product_of(q, r_rest, swap_last(ct_rest))
        r, ct_r = columns_of(r, 0, m), columns_of(ct_r, 0, m)
    middle = matmul(r, swap_last(ct_r)) - matmul(swap_last(ct_q), q)
    lower = strictly_lower_triangle(middle)
    symmetric = lower_triangle(middle) + swap_last(lower)
    found = _times_inverse(ct_q + matmul(q, symmetric), r)
    if rest is None:
        return found
    return swap_last(on_top(swap_last(found), swap_last(rest)))


def _qr_jvp(tangents: Any, out: Any, operands: Any) -> Any:
    (tangent,) = tangents
    m, n = tuple(tangent.shape)[-2:]
    k = min(m, n)
    q, r = _qr_parts(out, m)
    lead = tangent if n == k else columns_of(tangent, 0, k)
    r_lead = r if n == k else columns_of(r, 0, k)
    # lead R^-1
    scaled = swap_last(
        solve_triangular(swap_last(r_lead), swap_last(lead), upper=False, unit=False)
    )
    middle = matmul(swap_last(q), scaled)
    lower = strictly_lower_triangle(middle)
    turning = lower - swap_last(lower)
    dq = without_projection(q, scaled) + matmul(q, turning)
    dr = matmul(middle - turning, r_lead)
    if n > k:
        rest = matmul(swap_last(q), columns_of(tangent, k, n)) - matmul(
            turning, columns_of(r, k, n)
        )
        dr = swap_last(on_top(swap_last(dr), swap_last(rest)))
    return on_top(dq, swap_last(dr))


qr: Op = primitive(
    "qr",
    eval=_evaluate_qr,
    type_rule=_packed(lambda m, n: m + n),
    vjps=(_qr_vjp,),
    jvp=_qr_jvp,
    batch=shifted(),
    samples=matrix_samples,
)


# Further columns that make orthonormal ones a square matrix. Which they are is open, so there is no derivative.
orthogonal_complement: Op = primitive(
    "orthogonal_complement",
    eval=lambda x: np.linalg.qr(x, mode="complete")[0][..., x.shape[-1] :],
    type_rule=lambda x: TensorType(x.dtype, (*x.shape[:-1], x.shape[-2] - x.shape[-1])),
    batch=shifted(),
    samples=_tall,
)
