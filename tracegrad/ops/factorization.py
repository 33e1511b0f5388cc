"""Factorizations of matrices in the last two dimensions: Cholesky's, QR, eigenvalues, singular values.

:mod:`tracegrad.linalg` shows them under the names of ``torch.linalg``. The ops are in
:mod:`tracegrad.ir.ops.factorization`.
"""

from __future__ import annotations

from typing import Any

import tracegrad
from tracegrad.dispatch import apply, shown_as
from tracegrad.ir.errors import LinAlgError
from tracegrad.ir.op import registered
from tracegrad.ir.ops.factorization import minor_not_positive
from tracegrad.ops.creation import empty, zeros
from tracegrad.ops.matrix_arguments import (
    attempt,
    check_floating,
    check_matrix,
    check_square,
    check_square_floats,
    part_of,
    turned,
)
from tracegrad.ops.shaping import cat
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

_cholesky = registered("cholesky")
_eigh = registered("eigh")
_eigvalsh = registered("eigvalsh")
_svd = registered("svd")
_svdvals = registered("svdvals")
_qr = registered("qr")
_complement = registered("orthogonal_complement")


@reported("aten::linalg_cholesky")
def linalg_cholesky(A: Tensor, *, upper: bool = False) -> Tensor:
    """The triangular L with ``L L^T = A`` of symmetric positive-definite matrices, whose lower triangle is read.

    Args:
        upper: give the transposed, and read the upper triangle.

    Raises:
        LinAlgError: a matrix is not positive-definite.
    """
    check_square_floats(A, "linalg.cholesky")
    return _factor(A, upper, "LinalgCholeskyExBackward0")


def _factor(A: Tensor, upper: bool, name: str) -> Tensor:
    result = apply(_cholesky, (turned(A) if upper else A,))
    return shown_as(turned(result) if upper else result, name, A)


@reported("aten::cholesky")
def cholesky(input: Tensor, upper: bool = False) -> Tensor:
    """`linalg_cholesky`, as ``torch.cholesky``."""
    check_square_floats(input, "cholesky")
    try:
        return _factor(input, upper, "CholeskyBackward0")
    except LinAlgError as error:
        raise LinAlgError(str(error).removeprefix("linalg.")) from None


@reported("aten::linalg_cholesky_ex")
def cholesky_ex(
    A: Tensor,
    *,
    upper: bool = False,
    check_errors: bool = False,
) -> tracegrad.return_types.linalg_cholesky_ex:
    """`linalg_cholesky`, and for each matrix 0, or its first leading minor that is not positive."""
    check_square_floats(A, "linalg.cholesky")
    x = turned(A) if upper else A
    result, info = attempt(_cholesky, (x,), minor_not_positive, check_errors, x)
    result = turned(result) if upper else result
    return tracegrad.return_types.linalg_cholesky_ex(
        shown_as(result, "LinalgCholeskyExBackward0", A), info
    )


def _completed(q: Tensor) -> Tensor:
    """Orthonormal columns and further ones, which make a square matrix. The further ones have no derivative."""
    m, k = q._data.shape[-2:]
    return q if m == k else cat([q, apply(_complement, (q,))], -1)


def _factors_qr(A: Tensor, mode: str, name: str) -> tuple[Tensor, Tensor]:
    check_matrix(A, name)
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(
            f"qr received unrecognized mode '{mode}' but expected one of 'reduced' (default), 'r', or 'complete'"
        )
    check_floating(A, name)
    m, n = A._data.shape[-2:]
    packed = apply(_qr, (A,))
    q, r = part_of(packed, -2, 0, m), turned(part_of(packed, -2, m, m + n))
    if mode == "complete" and m > n:
        q = _completed(q)
        r = cat([r, zeros((*A._data.shape[:-2], m - n, n), dtype=A.dtype)], -2)
    if mode == "r":
        q = empty((0,), dtype=A.dtype)
    return shown_as(q, "LinalgQrBackward0", A), shown_as(r, "LinalgQrBackward0", A)


@reported("aten::linalg_qr")
def linalg_qr(A: Tensor, mode: str = "reduced") -> tracegrad.return_types.linalg_qr:
    """Orthonormal Q and upper triangular R with ``A = Q R``.

    Args:
        A: [..., m, n].
        mode: ``reduced`` (Q is [..., m, k] with k = min(m, n)), ``complete`` ([..., m, m]), ``r`` (no Q).
    """
    return tracegrad.return_types.linalg_qr(*_factors_qr(A, mode, "linalg.qr"))


@reported("aten::qr")
def qr(input: Tensor, some: bool = True) -> tracegrad.return_types.qr:
    """`linalg_qr`, as ``torch.qr``."""
    return tracegrad.return_types.qr(
        *_factors_qr(input, "reduced" if some else "complete", "linalg.qr")
    )


def _check_symmetric(A: Tensor, UPLO: str) -> Tensor:
    """The matrices with what is to be read in the lower triangle."""
    check_square(A, "linalg.eigh")
    if UPLO.upper() not in ("L", "U"):
        raise RuntimeError(f"Expected UPLO argument to be 'L' or 'U', but got {UPLO}")
    if A._data.dtype.kind != "f":
        raise NotImplementedError(
            f"\"linalg_eigh_cpu\" not implemented for '{A.dtype.legacy_name}'"
        )
    return A if UPLO.upper() == "L" else turned(A)


@reported("aten::linalg_eigh")
def eigh(A: Tensor, UPLO: str = "L") -> tracegrad.return_types.linalg_eigh:
    """Eigenvalues [..., n], growing, and eigenvectors [..., n, n], as columns, of symmetric matrices.

    The derivative of the vectors is finite where no eigenvalue is repeated.
    """
    packed = apply(_eigh, (_check_symmetric(A, UPLO),))
    n = A._data.shape[-1]
    values = part_of(packed, -2, 0, 1, (*A._data.shape[:-2], n))
    vectors = part_of(packed, -2, 1, n + 1)
    name = "LinalgEighBackward0"
    return tracegrad.return_types.linalg_eigh(shown_as(values, name, A), shown_as(vectors, name, A))


@reported("aten::linalg_eigvalsh")
def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """The eigenvalues of symmetric matrices; their derivative is finite everywhere."""
    return shown_as(apply(_eigvalsh, (_check_symmetric(A, UPLO),)), "LinalgEighBackward0", A)


def _check_svd(A: Tensor) -> None:
    check_matrix(A, "linalg.svd")
    check_floating(A, "linalg.svd")


def _factors_svd(A: Tensor, full: bool) -> tuple[Tensor, Tensor, Tensor]:
    """U, S and V."""
    _check_svd(A)
    m, n = A._data.shape[-2:]
    packed = apply(_svd, (A,))
    u, v = part_of(packed, -2, 0, m), part_of(packed, -2, m + 1, m + 1 + n)
    values = part_of(packed, -2, m, m + 1, (*A._data.shape[:-2], min(m, n)))
    if full:
        u, v = _completed(u), _completed(v)
    return u, values, v


@reported("aten::linalg_svd")
def linalg_svd(
    A: Tensor,
    full_matrices: bool = True,
    *,
    driver: str | None = None,
) -> tracegrad.return_types.linalg_svd:
    """U, S and V^T with ``A = U diag(S) V^T``; S falls.

    Args:
        A: [..., m, n].
        full_matrices: whether U and V are square; their further columns have no derivative.
        driver: must be None: it chooses among cuSOLVER's.
    """
    _refuse_driver(driver)
    u, s, v = _factors_svd(A, full_matrices)
    name = "LinalgSvdBackward0"
    vh = shown_as(turned(v), name, A)
    return tracegrad.return_types.linalg_svd(shown_as(u, name, A), shown_as(s, name, A), vh)


@reported("aten::svd")
def svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> tracegrad.return_types.svd:
    """U, S and V (not transposed), as ``torch.svd``; zeros for U and V without `compute_uv`."""
    u, s, v = _factors_svd(input, not some)
    if not compute_uv:
        u, v = (zeros((*x._data.shape[:-1], x._data.shape[-2]), dtype=x.dtype) for x in (u, v))
    name = "LinalgSvdBackward0"
    return tracegrad.return_types.svd(
        shown_as(u, name, input), shown_as(s, name, input), shown_as(v, name, input)
    )


@reported("aten::linalg_svdvals")
def svdvals(A: Tensor, *, driver: str | None = None) -> Tensor:
    """The singular values, falling; their derivative is finite also where they are repeated."""
    _refuse_driver(driver)
    _check_svd(A)
    return shown_as(apply(_svdvals, (A,)), "LinalgSvdBackward0", A)


def _refuse_driver(driver: str | None) -> None:
    if driver is not None:
        raise RuntimeError(
            "torch.linalg.svd: keyword argument `driver=` is only supported on CUDA inputs with cuSOLVER backend."
        )


@reported("aten::linalg_eig")
def eig(A: Tensor) -> Any:
    """Not supported: eigenvalues of general matrices are complex.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(
        "linalg.eig gives complex numbers, which tracegrad does not have; linalg.eigh is for symmetric matrices"
    )


eigvals = eig
