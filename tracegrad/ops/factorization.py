"""Factorizations, inverses, determinants and solutions, of matrices in the last two dimensions.

:mod:`tracegrad.linalg` shows them under the names of ``torch.linalg``. The ops are in
:mod:`tracegrad.ir.ops.factorization`; here arguments are checked, and results that an op packs into one taken apart.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad import return_types
from tracegrad.dispatch import apply, composite, shown_as
from tracegrad.grad_mode import no_grad
from tracegrad.ir.errors import LinAlgError
from tracegrad.ir.op import Op, registered
from tracegrad.ir.ops.factorization import minor_not_positive, zero_pivot
from tracegrad.ir.types import int32, int64
from tracegrad.ops import elementwise as ew
from tracegrad.ops import linalg
from tracegrad.ops.arguments import to_dtype
from tracegrad.ops.creation import empty, eye, zeros
from tracegrad.ops.reduction import amax
from tracegrad.ops.reduction import sum as _sum
from tracegrad.ops.shaping import cat, expand, reshape, squeeze, transpose, unsqueeze
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, make_tensor

_cholesky = registered("cholesky")
_inverse = registered("inverse")
_solve = registered("solve")
_solve_triangular = registered("solve_triangular")
_det = registered("det")
_slogdet = registered("slogdet")
_eigh = registered("eigh")
_eigvalsh = registered("eigvalsh")
_svd = registered("svd")
_svdvals = registered("svdvals")
_qr = registered("qr")
_complement = registered("orthogonal_complement")
_pinv = registered("pinv")
_matrix_exp = registered("matrix_exp")
_slice = registered("slice")
_copy = registered("copy")
_reshape = registered("reshape")


def check_matrix(x: Any, name: str, which: str = "A") -> None:
    """Raise torch's error unless `x` is a tensor of at least two dimensions."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name.replace('.', '_')}(): argument '{which}' (position 1) must be Tensor, not {type(x).__name__}"
        )
    if x._data.ndim < 2:
        raise RuntimeError(f"{name}: The input tensor {which} must have at least 2 dimensions.")


def check_floating(x: Tensor, name: str) -> None:
    """Raise torch's error unless `x` holds floats."""
    if x._data.dtype.kind != "f":
        raise RuntimeError(
            f"{name}: Expected a floating point or complex tensor as input. Got {x.dtype.legacy_name}"
        )


def check_square(x: Any, name: str, which: str = "A") -> None:
    """Raise torch's error unless `x` holds square matrices."""
    check_matrix(x, name, which)
    m, n = x._data.shape[-2:]
    if m != n:
        raise RuntimeError(
            f"{name}: {which} must be batches of square matrices, but they are {m} by {n} matrices"
        )


def _check_square_floats(x: Any, name: str) -> None:
    check_square(x, name)
    check_floating(x, name)


def _turned(x: Tensor) -> Tensor:
    return transpose(x, -2, -1)


def _part(
    packed: Tensor, axis: int, begin: int, end: int, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Some rows, columns or elements of what an op has packed together, in memory of their own.

    Args:
        shape: of the result, if it has fewer dimensions.
    """
    extents = packed._data.shape
    axis %= len(extents)
    start = tuple(begin if d == axis else 0 for d in range(len(extents)))
    limit = tuple(end if d == axis else n for d, n in enumerate(extents))
    part = apply(_slice, (packed,), {"start": start, "limit": limit, "stride": (1,) * len(extents)})
    if shape is not None:
        part = apply(_reshape, (part,), {"shape": shape})
    return apply(_copy, (part,))


# Inverses and solutions.


@reported("aten::linalg_inv")
def inv(A: Tensor) -> Tensor:
    """The inverse of square matrices [..., n, n].

    Raises:
        LinAlgError: a matrix is singular.
        RuntimeError: they are not square, or hold no floats.
    """
    _check_square_floats(A, "linalg.inv")
    return shown_as(apply(_inverse, (A,)), "LinalgInvExBackward0", A)


@reported("aten::inverse")
def inverse(input: Tensor) -> Tensor:
    """`inv`, as ``torch.inverse``."""
    return inv(input)


def _infos(A: Tensor, find: Any) -> np.ndarray:
    """For each matrix of a batch what `find` says of it."""
    data = A._data
    flat = data.reshape(-1, *data.shape[-2:])
    return np.array([find(matrix) for matrix in flat], np.int32).reshape(data.shape[:-2])


def _attempt(
    op: Op, operands: tuple[Tensor, ...], find: Any, check: bool, matrices: Tensor
) -> tuple[Tensor, Tensor]:
    """The result of an op and for each of the matrices 0, or where it failed; such results are NaN.

    Args:
        op, operands: the first of the operands holds the matrices, maybe with more batch dimensions.
        find: says of a matrix where it is bad, counted from 1.

    Raises:
        LinAlgError: one failed, and that is to be checked.
    """
    x = operands[0]
    try:
        result = apply(op, operands)
    except LinAlgError as error:
        if check:
            raise LinAlgError(str(error).replace(":", "_ex:", 1)) from None
    else:
        return result, zeros(matrices._data.shape[:-2], dtype=int32)
    info = _infos(matrices, find)
    failed = make_tensor((info != 0)[..., None, None], info)
    harmless = ew.where(failed, eye(x._data.shape[-1], dtype=x.dtype), x)
    result = apply(op, (harmless, *operands[1:]))
    return ew.where(failed, math.nan, result), make_tensor(info, info)


@reported("aten::linalg_inv_ex")
def inv_ex(A: Tensor, *, check_errors: bool = False) -> return_types.linalg_inv_ex:
    """The inverse, and for each matrix 0, or which of its pivots is zero; NaN instead of an error."""
    _check_square_floats(A, "linalg.inv_ex" if check_errors else "linalg.inv")
    result, info = _attempt(_inverse, (A,), zero_pivot, check_errors, A)
    return return_types.linalg_inv_ex(shown_as(result, "LinalgInvExBackward0", A), info)


def _system(
    A: Tensor, B: Tensor, name: str, left: bool, vectors: bool
) -> tuple[Tensor, Tensor, bool]:
    """The two sides of a linear system with the same batch dimensions, and whether B held vectors."""
    _check_square_floats(A, name)
    if A._data.dtype != B._data.dtype:
        raise RuntimeError(
            f"{name}: Expected A and B to have the same dtype, but found A of type {A.dtype.legacy_name} and B of "
            f"type {B.dtype.legacy_name} instead"
        )
    a, b = A._data.shape, B._data.shape
    is_vector = vectors and (len(b) == 1 or (len(a) - 1 == len(b) and a[:-1] == b))
    if is_vector:
        B = unsqueeze(B, -1)
        b = B._data.shape
    check_matrix(B, name, "B")
    if a[-1] != b[-2 if left else -1]:
        equation = "AX = B" if left else "XA = B"
        raise RuntimeError(
            f"{name}: Incompatible shapes of A and B for the equation {equation} ({a[-2]}x{a[-1]} and "
            f"{b[-2]}x{b[-1]})"
        )
    lead = np.broadcast_shapes(a[:-2], b[:-2])
    return _with_batch(A, lead), _with_batch(B, lead), is_vector


def _with_batch(x: Tensor, lead: tuple[int, ...]) -> Tensor:
    shape = (*lead, *x._data.shape[-2:])
    return x if x._data.shape == shape else expand(x, shape)


def _solution(op: Op, x: Tensor, y: Tensor, left: bool, attrs: dict[str, Any]) -> Tensor:
    return apply(op, (x, y), attrs) if left else _turned(apply(op, (_turned(x), _turned(y)), attrs))


@reported("aten::linalg_solve")
def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """The X with ``A X = B`` (or ``X A = B``) for square matrices A; B may be a vector, or a batch of them.

    Raises:
        LinAlgError: a matrix is singular.
        RuntimeError: shapes or dtypes do not fit.
    """
    x, y, is_vector = _system(A, B, "linalg.solve", left, True)
    result = _solution(_solve, x, y, left or is_vector, {})
    return shown_as(squeeze(result, -1) if is_vector else result, "LinalgSolveExBackward0", A, B)


@reported("aten::linalg_solve_ex")
def solve_ex(
    A: Tensor,
    B: Tensor,
    *,
    left: bool = True,
    check_errors: bool = False,
) -> return_types.linalg_solve_ex:
    """The solution, and for each matrix 0, or which of its pivots is zero; NaN instead of an error."""
    x, y, is_vector = _system(A, B, "linalg.solve", left, True)
    turn = not (left or is_vector)
    operands = (_turned(x), _turned(y)) if turn else (x, y)
    result, info = _attempt(_solve, operands, zero_pivot, check_errors, A)
    result = _turned(result) if turn else result
    result = squeeze(result, -1) if is_vector else result
    return return_types.linalg_solve_ex(shown_as(result, "LinalgSolveExBackward0", A, B), info)


@reported("aten::linalg_solve_triangular")
def solve_triangular(
    A: Tensor,
    B: Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Tensor:
    """`solve` for matrices of which one triangle is read. A zero on the diagonal gives infinities."""
    x, y, _ = _system(A, B, "linalg.solve_triangular", left, False)
    attrs = {"upper": bool(upper) == bool(left), "unit": bool(unitriangular)}
    result = _solution(_solve_triangular, x, y, left, attrs)
    return shown_as(result, "LinalgSolveTriangularBackward0", A, B)


@reported("aten::linalg_tensorinv")
def tensorinv(A: Tensor, ind: int = 2) -> Tensor:
    """The inverse of the linear map that ``tensordot(A, x, ind)`` is."""
    shape = A._data.shape
    if ind <= 0:
        raise RuntimeError("Expected a strictly positive integer for 'ind'")
    rows, columns = math.prod(shape[:ind]), math.prod(shape[ind:])
    if rows != columns:
        raise RuntimeError(
            "Expected self to satisfy the requirement prod(self.shape[ind:]) == prod(self.shape[:ind]), but got "
            f"{columns} != {rows}"
        )
    return reshape(inv(reshape(A, rows, columns)), (*shape[ind:], *shape[:ind]))


@reported("aten::linalg_tensorsolve")
def tensorsolve(A: Tensor, B: Tensor, dims: Any = None) -> Tensor:
    """The X with ``tensordot(A, X, X.ndim) = B``."""
    if dims is not None:
        n = A._data.ndim
        last = [d % n for d in dims]
        A = A.permute([d for d in range(n) if d not in last] + last)
    shape, count = A._data.shape, B._data.ndim
    unknown = shape[count:]
    rows, columns = math.prod(shape[:count]), math.prod(unknown)
    if rows != columns:
        raise RuntimeError(
            "Expected self to satisfy the requirement prod(self.shape[other.ndim:]) == "
            f"prod(self.shape[:other.ndim]), but got {columns} != {rows}"
        )
    return reshape(solve(reshape(A, rows, columns), reshape(B, -1)), unknown)


# Determinants.


@reported("aten::det")
def det(A: Tensor) -> Tensor:
    """The determinants of square matrices [..., n, n]: [...]. Differentiable at singular matrices, once."""
    _check_square_floats(A, "linalg.det")
    return shown_as(apply(_det, (A,)), "LinalgDetBackward0", A)


def _sign_and_logarithm(A: Tensor) -> tuple[Tensor, Tensor]:
    _check_square_floats(A, "linalg.slogdet")
    packed = apply(_slogdet, (A,))
    shape = A._data.shape[:-2]
    sign, logarithm = (_part(packed, -1, k, k + 1, shape) for k in range(2))
    name = "LinalgSlogdetBackward0"
    return shown_as(sign, name, A), shown_as(logarithm, name, A)


@reported("aten::linalg_slogdet")
def linalg_slogdet(A: Tensor) -> return_types.linalg_slogdet:
    """Sign and logarithm of the magnitude of the determinant; 0 and -inf for a singular matrix."""
    return return_types.linalg_slogdet(*_sign_and_logarithm(A))


@reported("aten::slogdet")
def slogdet(input: Tensor) -> return_types.slogdet:
    """`linalg_slogdet`, as ``torch.slogdet``."""
    return return_types.slogdet(*_sign_and_logarithm(input))


@reported("aten::logdet")
def logdet(input: Tensor) -> Tensor:
    """The logarithm of the determinant; NaN where that is negative."""
    sign, logarithm = _sign_and_logarithm(input)
    return ew.where(ew.lt(sign, 0), math.nan, logarithm)


# Cholesky.


@reported("aten::linalg_cholesky")
def linalg_cholesky(A: Tensor, *, upper: bool = False) -> Tensor:
    """The triangular L with ``L L^T = A`` of symmetric positive-definite matrices, whose lower triangle is read.

    Args:
        upper: give the transposed, and read the upper triangle.

    Raises:
        LinAlgError: a matrix is not positive-definite.
    """
    _check_square_floats(A, "linalg.cholesky")
    return _factor(A, upper, "LinalgCholeskyExBackward0")


def _factor(A: Tensor, upper: bool, name: str) -> Tensor:
    result = apply(_cholesky, (_turned(A) if upper else A,))
    return shown_as(_turned(result) if upper else result, name, A)


@reported("aten::cholesky")
def cholesky(input: Tensor, upper: bool = False) -> Tensor:
    """`linalg_cholesky`, as ``torch.cholesky``."""
    _check_square_floats(input, "cholesky")
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
) -> return_types.linalg_cholesky_ex:
    """`linalg_cholesky`, and for each matrix 0, or its first leading minor that is not positive."""
    _check_square_floats(A, "linalg.cholesky")
    x = _turned(A) if upper else A
    result, info = _attempt(_cholesky, (x,), minor_not_positive, check_errors, x)
    result = _turned(result) if upper else result
    return return_types.linalg_cholesky_ex(shown_as(result, "LinalgCholeskyExBackward0", A), info)


@composite("CholeskyInverseBackward0")
def cholesky_inverse(input: Tensor, upper: bool = False) -> Tensor:
    """The inverse of ``L L^T``, given L (or ``U^T U``, given U)."""
    _check_square_floats(input, "cholesky_inverse")
    n = input._data.shape[-1]
    ones = _with_batch(eye(n, dtype=input.dtype), input._data.shape[:-2])
    factor = _turned(input) if upper else input
    half = apply(_solve_triangular, (factor, ones), {"upper": False, "unit": False})
    return linalg.matmul(_turned(half), half)


@composite("CholeskySolveBackward0")
def cholesky_solve(input: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """The X with ``L L^T X = input`` (or ``U^T U X = input``)."""
    x, y, _ = _system(L, input, "cholesky_solve", True, False)
    factor = _turned(x) if upper else x
    half = apply(_solve_triangular, (factor, y), {"upper": False, "unit": False})
    return apply(_solve_triangular, (_turned(factor), half), {"upper": True, "unit": False})


# Orthogonal factors.


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
    q, r = _part(packed, -2, 0, m), _turned(_part(packed, -2, m, m + n))
    if mode == "complete" and m > n:
        q = _completed(q)
        r = cat([r, zeros((*A._data.shape[:-2], m - n, n), dtype=A.dtype)], -2)
    if mode == "r":
        q = empty((0,), dtype=A.dtype)
    return shown_as(q, "LinalgQrBackward0", A), shown_as(r, "LinalgQrBackward0", A)


@reported("aten::linalg_qr")
def linalg_qr(A: Tensor, mode: str = "reduced") -> return_types.linalg_qr:
    """Orthonormal Q and upper triangular R with ``A = Q R``.

    Args:
        A: [..., m, n].
        mode: ``reduced`` (Q is [..., m, k] with k = min(m, n)), ``complete`` ([..., m, m]), ``r`` (no Q).
    """
    return return_types.linalg_qr(*_factors_qr(A, mode, "linalg.qr"))


@reported("aten::qr")
def qr(input: Tensor, some: bool = True) -> return_types.qr:
    """`linalg_qr`, as ``torch.qr``."""
    return return_types.qr(*_factors_qr(input, "reduced" if some else "complete", "linalg.qr"))


def _check_symmetric(A: Tensor, UPLO: str) -> Tensor:
    """The matrices with what is to be read in the lower triangle."""
    check_square(A, "linalg.eigh")
    if UPLO.upper() not in ("L", "U"):
        raise RuntimeError(f"Expected UPLO argument to be 'L' or 'U', but got {UPLO}")
    if A._data.dtype.kind != "f":
        raise NotImplementedError(
            f"\"linalg_eigh_cpu\" not implemented for '{A.dtype.legacy_name}'"
        )
    return A if UPLO.upper() == "L" else _turned(A)


@reported("aten::linalg_eigh")
def eigh(A: Tensor, UPLO: str = "L") -> return_types.linalg_eigh:
    """Eigenvalues [..., n], growing, and eigenvectors [..., n, n], as columns, of symmetric matrices.

    The derivative of the vectors is finite where no eigenvalue is repeated.
    """
    packed = apply(_eigh, (_check_symmetric(A, UPLO),))
    n = A._data.shape[-1]
    values = _part(packed, -2, 0, 1, (*A._data.shape[:-2], n))
    vectors = _part(packed, -2, 1, n + 1)
    name = "LinalgEighBackward0"
    return return_types.linalg_eigh(shown_as(values, name, A), shown_as(vectors, name, A))


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
    u, v = _part(packed, -2, 0, m), _part(packed, -2, m + 1, m + 1 + n)
    values = _part(packed, -2, m, m + 1, (*A._data.shape[:-2], min(m, n)))
    if full:
        u, v = _completed(u), _completed(v)
    return u, values, v


@reported("aten::linalg_svd")
def linalg_svd(
    A: Tensor,
    full_matrices: bool = True,
    *,
    driver: str | None = None,
) -> return_types.linalg_svd:
    """U, S and V^T with ``A = U diag(S) V^T``; S falls.

    Args:
        A: [..., m, n].
        full_matrices: whether U and V are square; their further columns have no derivative.
        driver: must be None: it chooses among cuSOLVER's.
    """
    _refuse_driver(driver)
    u, s, v = _factors_svd(A, full_matrices)
    name = "LinalgSvdBackward0"
    vh = shown_as(_turned(v), name, A)
    return return_types.linalg_svd(shown_as(u, name, A), shown_as(s, name, A), vh)


@reported("aten::svd")
def svd(input: Tensor, some: bool = True, compute_uv: bool = True) -> return_types.svd:
    """U, S and V (not transposed), as ``torch.svd``; zeros for U and V without `compute_uv`."""
    u, s, v = _factors_svd(input, not some)
    if not compute_uv:
        u, v = (zeros((*x._data.shape[:-1], x._data.shape[-2]), dtype=x.dtype) for x in (u, v))
    name = "LinalgSvdBackward0"
    return return_types.svd(
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


# Pseudoinverses and least squares.


def _cutoff(A: Tensor, atol: Any, rtol: Any) -> Tensor:
    """Singular values up to this count as zero: [..., 1]."""
    m, n = A._data.shape[-2:]
    if rtol is None:
        rtol = 0.0 if atol is not None else max(m, n) * float(np.finfo(A._data.dtype).eps)
    with no_grad():
        largest = apply(_svdvals, (A.detach(),))
        if min(m, n):
            largest = amax(largest, -1, keepdim=True)
        cutoff = ew.mul(largest, _column(rtol))
        return cutoff if atol is None else ew.clamp(cutoff, min=_column(atol))


def _column(tolerance: Any) -> Any:
    """A tolerance for each matrix of a batch, or for all."""
    return (
        unsqueeze(tolerance, -1)
        if isinstance(tolerance, Tensor) and tolerance._data.ndim
        else tolerance
    )


@reported("aten::linalg_pinv")
def pinv(
    A: Tensor,
    rcond: Any = None,
    hermitian: bool = False,
    *,
    atol: Any = None,
    rtol: Any = None,
) -> Tensor:
    """The pseudoinverse [..., n, m] of matrices [..., m, n] (Moore and Penrose).

    Args:
        atol, rtol: singular values up to ``max(atol, rtol * largest)`` count as zero; `rtol` is by default the
            rounding error times ``max(m, n)``, or 0 where `atol` is given. `rcond` is another name for it.
        hermitian: the matrices are symmetric.
    """
    if not isinstance(A, Tensor) or A._data.ndim < 2 or A._data.dtype.kind != "f":
        kind = A.dtype.legacy_name if isinstance(A, Tensor) else type(A).__name__
        raise RuntimeError(
            f"linalg.pinv({kind}{{{list(getattr(A, 'shape', ()))}}}): expected a tensor with 2 or more dimensions of "
            "float, double, cfloat or cdouble types"
        )
    if hermitian:
        check_square(A, "linalg.pinv")
    if not A._data.size:
        lead, (m, n) = A._data.shape[:-2], A._data.shape[-2:]
        return zeros((*lead, n, m), dtype=A.dtype)
    cutoff = _cutoff(A, atol, rcond if rtol is None else rtol)
    return shown_as(apply(_pinv, (A, cutoff)), "LinalgPinvBackward0", A)


@reported("aten::pinverse")
def pinverse(input: Tensor, rcond: float = 1e-15) -> Tensor:
    """`pinv`, as ``torch.pinverse``."""
    return pinv(input, rcond)


@reported("aten::linalg_matrix_rank")
def matrix_rank(
    A: Tensor,
    tol: Any = None,
    hermitian: bool = False,
    *,
    atol: Any = None,
    rtol: Any = None,
) -> Tensor:
    """How many singular values are greater than ``max(atol, rtol * largest)``: an int64 tensor [...]."""
    check_matrix(A, "torch.linalg.matrix_rank", "input")
    check_floating(A, "linalg.matrix_rank")
    if hermitian:
        check_square(A, "linalg.matrix_rank")
    shape = A._data.shape[:-2]
    if not A._data.size:
        return zeros(shape, dtype=int64)
    cutoff = _cutoff(A, tol if atol is None else atol, rtol)
    greater = ew.gt(apply(_svdvals, (A.detach(),)), cutoff)
    return _sum(to_dtype(greater, int64), -1)


_DRIVERS = ("gels", "gelsy", "gelsd", "gelss")


@reported("aten::linalg_lstsq")
def lstsq(
    A: Tensor,
    B: Tensor,
    rcond: Any = None,
    *,
    driver: str | None = None,
) -> return_types.linalg_lstsq:
    """The X of the smallest norm among those that minimize the norm of ``A X - B``.

    Args:
        A: [..., m, n].
        B: [..., m, k], or [..., m].
        rcond: singular values up to this part of the largest count as zero.
        driver: decides, as in torch, which of the results are empty: ``gels`` gives no rank, only ``gelsd`` and
            ``gelss`` give singular values, ``gelsy`` (the default) gives no residuals. X is the same.

    Returns:
        solution, residuals [..., k], rank [...], singular_values.
    """
    check_matrix(A, "torch.linalg.lstsq", "input")
    check_floating(A, "linalg.lstsq")
    driver = "gelsy" if driver is None else driver
    if driver not in _DRIVERS:
        raise RuntimeError(
            f"torch.linalg.lstsq: parameter `driver` should be one of ({', '.join(_DRIVERS)})"
        )
    is_vector = B._data.ndim == A._data.ndim - 1 and B._data.shape == A._data.shape[:-1]
    right = unsqueeze(B, -1) if is_vector else B
    if right._data.ndim < 2 or A._data.shape[-2] != right._data.shape[-2]:
        raise RuntimeError("torch.linalg.lstsq: input.size(-2) should match other.size(-2)")
    if A._data.dtype != B._data.dtype:
        raise RuntimeError(
            "torch.linalg.lstsq: Expected input and other to have the same dtype, but got input's dtype "
            f"{A.dtype.legacy_name} and other's dtype {B.dtype.legacy_name}"
        )
    solution = linalg.matmul(pinv(A, rcond), right)
    m, n = A._data.shape[-2:]
    nothing = empty((0,), dtype=A.dtype)
    rank = empty((0,), dtype=int64) if driver == "gels" else matrix_rank(A, rtol=rcond)
    residuals = nothing
    if driver != "gelsy" and m > n and bool(ew.eq(matrix_rank(A, rtol=rcond), n).all()):
        residuals = _sum(ew.square(ew.sub(linalg.matmul(A, solution), right)), -2)
    values = svdvals(A).detach() if driver in ("gelsd", "gelss") else nothing
    solution = squeeze(solution, -1) if is_vector else solution
    return return_types.linalg_lstsq(
        shown_as(solution, "LinalgLstsqBackward0", A, B), residuals, rank, values
    )


# Powers.


def _everywhere(x: Tensor) -> Tensor:
    return make_tensor(np.ones(x._data.shape, bool), None)


@reported("aten::matrix_power")
def matrix_power(input: Tensor, n: int) -> Tensor:
    """The n-th power of square matrices, by repeated squaring; that of the inverse for a negative n.

    Raises:
        LinAlgError: n is negative and a matrix is singular.
    """
    check_square(input, "linalg.matrix_power")
    if not isinstance(n, int):
        raise TypeError(
            f"linalg_matrix_power(): argument 'n' (position 2) must be int, not {type(n).__name__}"
        )
    if n == 0:
        ones = _with_batch(eye(input._data.shape[-1], dtype=input.dtype), input._data.shape[:-2])
        return shown_as(ew.where(_everywhere(input), ones, input), "CopyBackwards", input)
    square = inv(input) if n < 0 else input
    remaining, result = abs(n), None
    while remaining:
        if remaining & 1:
            result = square if result is None else linalg.matmul(square, result)
        remaining >>= 1
        if remaining:
            square = linalg.matmul(square, square)
    assert result is not None
    return result.clone() if n == 1 else result


@reported("aten::matrix_exp")
def matrix_exp(A: Tensor) -> Tensor:
    """The exponential of square matrices, by scaling and squaring."""
    _check_square_floats(A, "linalg.matrix_exp")
    return shown_as(apply(_matrix_exp, (A,)), "LinalgMatrixExpBackward0", A)


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
