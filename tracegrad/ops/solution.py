"""Inverses, linear systems, determinants, pseudoinverses, least squares and powers of matrices.

:mod:`tracegrad.linalg` shows them under the names of ``torch.linalg``. The ops are in :mod:`tracegrad.ir.ops.solution`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import tracegrad
from tracegrad.dispatch import apply, composite, shown_as
from tracegrad.grad_mode import no_grad
from tracegrad.ir.errors import LinAlgError
from tracegrad.ir.op import Op, registered
from tracegrad.ir.ops.solution import zero_pivot
from tracegrad.ir.types import broadcast_shapes, int64
from tracegrad.ops import elementwise as ew
from tracegrad.ops import linalg
from tracegrad.ops.arguments import to_dtype
from tracegrad.ops.creation import empty, eye, zeros
from tracegrad.ops.factorization import eigvalsh, svdvals
from tracegrad.ops.matrix_arguments import (
    attempt,
    check_floating,
    check_matrix,
    check_same_dtype,
    check_square,
    check_square_floats,
    part_of,
    turned,
    with_batch,
)
from tracegrad.ops.reduction import amax
from tracegrad.ops.reduction import sum as _sum
from tracegrad.ops.shaping import reshape, squeeze, unsqueeze
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, make_tensor

_inverse = registered("inverse")
_solve = registered("solve")
_solve_triangular = registered("solve_triangular")
_det = registered("det")
_slogdet = registered("slogdet")
_pinv = registered("pinv")
_matrix_exp = registered("matrix_exp")


@reported("aten::linalg_inv")
def inv(A: Tensor) -> Tensor:
    """The inverse of square matrices [..., n, n].

    Raises:
        LinAlgError: a matrix is singular.
        RuntimeError: they are not square, or hold no floats.
    """
    check_square_floats(A, "linalg.inv")
    return shown_as(apply(_inverse, (A,)), "LinalgInvExBackward0", A)


@reported("aten::inverse")
def inverse(input: Tensor) -> Tensor:
    """`inv`, as ``torch.inverse``."""
    return inv(input)


@reported("aten::linalg_inv_ex")
def inv_ex(A: Tensor, *, check_errors: bool = False) -> tracegrad.return_types.linalg_inv_ex:
    """The inverse, and for each matrix 0, or which of its pivots is zero; NaN instead of an error."""
    check_square_floats(A, "linalg.inv")
    result, info = attempt(_inverse, (A,), zero_pivot, check_errors, A)
    return tracegrad.return_types.linalg_inv_ex(shown_as(result, "LinalgInvExBackward0", A), info)


def _sides(
    A: Tensor, B: Tensor, name: str, left: bool, vectors: bool
) -> tuple[Tensor, Tensor, bool]:
    """The two sides of a linear system with the same batch dimensions, and whether B held vectors."""
    check_square(A, name)
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
    return *_same_batch(A, B), is_vector


def _same_batch(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    lead = broadcast_shapes(B._data.shape[:-2], A._data.shape[:-2])
    return with_batch(A, lead), with_batch(B, lead)


def _system(A: Tensor, B: Tensor, left: bool) -> tuple[Tensor, Tensor, bool]:
    """The sides of a system for `solve`."""
    check_matrix(A, "linalg.solve")
    check_floating(A, "linalg.solve")
    check_same_dtype(A, B, "linalg.solve")
    return _sides(A, B, "linalg.solve", left, True)


def _solution(op: Op, x: Tensor, y: Tensor, left: bool, attrs: dict[str, Any]) -> Tensor:
    return apply(op, (x, y), attrs) if left else turned(apply(op, (turned(x), turned(y)), attrs))


@reported("aten::linalg_solve")
def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """The X with ``A X = B`` (or ``X A = B``) for square matrices A; B may be a vector, or a batch of them.

    Raises:
        LinAlgError: a matrix is singular.
        RuntimeError: shapes or dtypes do not fit.
    """
    x, y, is_vector = _system(A, B, left)
    try:
        result = _solution(_solve, x, y, left or is_vector, {})
    except LinAlgError as error:
        if A._data.ndim > 2:
            raise
        # The one matrix was solved with for each of a batch.
        raise LinAlgError(str(error).replace("(Batch element 0): ", "")) from None
    return shown_as(squeeze(result, -1) if is_vector else result, "LinalgSolveExBackward0", A, B)


@reported("aten::linalg_solve_ex")
def solve_ex(
    A: Tensor,
    B: Tensor,
    *,
    left: bool = True,
    check_errors: bool = False,
) -> tracegrad.return_types.linalg_solve_ex:
    """The solution, and for each matrix 0, or which of its pivots is zero; NaN instead of an error."""
    x, y, is_vector = _system(A, B, left)
    turn = not (left or is_vector)
    operands = (turned(x), turned(y)) if turn else (x, y)
    result, info = attempt(_solve, operands, zero_pivot, check_errors, A)
    result = turned(result) if turn else result
    result = squeeze(result, -1) if is_vector else result
    return tracegrad.return_types.linalg_solve_ex(
        shown_as(result, "LinalgSolveExBackward0", A, B), info
    )


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
    x, y, _ = _sides(A, B, "linalg.solve_triangular", left, False)
    check_same_dtype(A, B, "linalg.solve_triangular")
    ew.refuse_dtype(A, "iub", "triangular_solve_cpu")
    attrs = {"upper": bool(upper) == bool(left), "unit": bool(unitriangular)}
    result = _solution(_solve_triangular, x, y, left, attrs)
    return shown_as(result, "LinalgSolveTriangularBackward0", A, B)


@reported("aten::linalg_tensorinv")
def tensorinv(A: Tensor, ind: int = 2) -> Tensor:
    """The inverse of the linear map that ``tensordot(A, x, ind)`` is."""
    shape = A._data.shape
    if ind <= 0:
        raise RuntimeError(f"Expected a strictly positive integer for 'ind', but got {ind}")
    rows, columns = math.prod(shape[:ind]), math.prod(shape[ind:])
    if rows != columns:
        raise RuntimeError(
            "Expected self to satisfy the requirement prod(self.shape[ind:]) == prod(self.shape[:ind]), but got "
            f"{columns} != {rows}"
        )
    try:
        inverse = inv(reshape(A, rows, columns))
    except LinAlgError as error:
        raise LinAlgError(str(error).removeprefix("linalg.")) from None
    return reshape(inverse, (*shape[ind:], *shape[:ind]))


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


@reported("aten::det")
def det(A: Tensor) -> Tensor:
    """The determinants of square matrices [..., n, n]: [...]. Differentiable at singular matrices, once."""
    check_square_floats(A, "linalg.det")
    return shown_as(apply(_det, (A,)), "LinalgDetBackward0", A)


def _sign_and_logarithm(A: Tensor) -> tuple[Tensor, Tensor]:
    check_square_floats(A, "linalg.slogdet")
    packed = apply(_slogdet, (A,))
    shape = A._data.shape[:-2]
    sign, logarithm = (part_of(packed, -1, k, k + 1, shape) for k in range(2))
    name = "LinalgSlogdetBackward0"
    return shown_as(sign, name, A), shown_as(logarithm, name, A)


@reported("aten::linalg_slogdet")
def linalg_slogdet(A: Tensor) -> tracegrad.return_types.linalg_slogdet:
    """Sign and logarithm of the magnitude of the determinant; 0 and -inf for a singular matrix."""
    return tracegrad.return_types.linalg_slogdet(*_sign_and_logarithm(A))


@reported("aten::slogdet")
def slogdet(input: Tensor) -> tracegrad.return_types.slogdet:
    """`linalg_slogdet`, as ``torch.slogdet``."""
    return tracegrad.return_types.slogdet(*_sign_and_logarithm(input))


@reported("aten::logdet")
def logdet(input: Tensor) -> Tensor:
    """The logarithm of the determinant; NaN where that is negative."""
    sign, logarithm = _sign_and_logarithm(input)
    return ew.where(ew.lt(sign, 0), math.nan, logarithm)


@composite("CholeskyInverseBackward0")
def cholesky_inverse(input: Tensor, upper: bool = False) -> Tensor:
    """The inverse of ``L L^T``, given L (or ``U^T U``, given U)."""
    check_square(input, "cholesky_inverse")
    ew.refuse_dtype(input, "iub", "cholesky_inverse_out_cpu")
    n = input._data.shape[-1]
    ones = with_batch(eye(n, dtype=input.dtype), input._data.shape[:-2])
    factor = turned(input) if upper else input
    half = apply(_solve_triangular, (factor, ones), {"upper": False, "unit": False})
    return linalg.matmul(turned(half), half)


@composite("CholeskySolveBackward0")
def cholesky_solve(input: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """The X with ``L L^T X = input`` (or ``U^T U X = input``)."""
    for which, matrix in (("b", input), ("u", L)):
        if matrix._data.ndim < 2:
            raise RuntimeError(
                f"{which} should have at least 2 dimensions, but has {matrix._data.ndim} dimensions instead"
            )
    m, n = L._data.shape[-2:]
    rows, columns = input._data.shape[-2:]
    if L._data.dtype != input._data.dtype:
        raise RuntimeError(
            f"Expected b and A to have the same dtype, but found b of type {input.dtype.legacy_name} and A of type "
            f"{L.dtype.legacy_name} instead."
        )
    if m != n:
        raise RuntimeError(
            f"A must be batches of square matrices, but they are {m} by {n} matrices"
        )
    if n != rows:
        raise RuntimeError(
            f"Incompatible matrix sizes for cholesky_solve: each A matrix is {m} by {n} but each b matrix is {rows} "
            f"by {columns}"
        )
    x, y = _same_batch(L, input)
    factor = turned(x) if upper else x
    half = apply(_solve_triangular, (factor, y), {"upper": False, "unit": False})
    return apply(_solve_triangular, (turned(factor), half), {"upper": True, "unit": False})


def _magnitudes(A: Tensor, hermitian: bool) -> Tensor:
    """Of singular values, or of the eigenvalues of symmetric matrices; without derivative."""
    values = A.detach()
    return ew.abs(eigvalsh(values)) if hermitian else svdvals(values)


def _cutoff(A: Tensor, magnitudes: Tensor, atol: Any, rtol: Any) -> Tensor:
    """Magnitudes up to this count as zero: [..., 1]."""
    if rtol is None:
        extent = max(A._data.shape[-2:])
        rtol = 0.0 if atol is not None else extent * float(np.finfo(A._data.dtype).eps)
    with no_grad():
        cutoff = ew.mul(amax(magnitudes, -1, keepdim=True), _column(rtol))
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
        hermitian: the matrices are symmetric, and their lower triangles are read.
    """
    if not isinstance(A, Tensor) or A._data.ndim < 2 or A._data.dtype.kind != "f":
        kind = A.dtype.legacy_name if isinstance(A, Tensor) else type(A).__name__
        raise RuntimeError(
            f"linalg.pinv({kind}{{{list(getattr(A, 'shape', ()))}}}): expected a tensor with 2 or more dimensions of "
            "float, double, cfloat or cdouble types"
        )
    if hermitian:
        check_square(A, "linalg.eigh")
    if not A._data.size:
        lead, (m, n) = A._data.shape[:-2], A._data.shape[-2:]
        return zeros((*lead, n, m), dtype=A.dtype)
    cutoff = _cutoff(A, _magnitudes(A, hermitian), atol, rcond if rtol is None else rtol)
    result = apply(_pinv, (A, cutoff), {"symmetric": bool(hermitian)})
    return shown_as(result, "LinalgPinvBackward0", A)


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
        check_square(A, "linalg.eigh")
    shape = A._data.shape[:-2]
    if not A._data.size:
        return zeros(shape, dtype=int64)
    magnitudes = _magnitudes(A, hermitian)
    greater = ew.gt(magnitudes, _cutoff(A, magnitudes, tol if atol is None else atol, rtol))
    return _sum(to_dtype(greater, int64), -1)


_DRIVERS = ("gels", "gelsy", "gelsd", "gelss")


def _right_sides(A: Tensor, B: Tensor, driver: str) -> Tensor:
    """The right-hand sides of a least-squares problem as matrices, after all arguments have been checked."""
    name = "torch.linalg.lstsq"
    m, n = A._data.ndim, B._data.ndim
    if m < 2:
        raise RuntimeError(f"{name}: input must have at least 2 dimensions.")
    if n < 1:
        raise RuntimeError(f"{name}: other must have at least 1 dimension.")
    if A._data.dtype != B._data.dtype:
        raise RuntimeError(
            f"{name}: Expected input and other to have the same dtype, but got input's dtype "
            f"{A.dtype.legacy_name} and other's dtype {B.dtype.legacy_name}"
        )
    if not 0 <= m - n <= 1:
        raise RuntimeError(
            f"{name}: input.dim() must be greater or equal to other.dim() and (input.dim() - other.dim()) <= 1"
        )
    vectors = m - n == 1
    if A._data.shape[-2] != B._data.shape[-1 if vectors else -2]:
        place = -1 if vectors else -2
        raise RuntimeError(f"{name}: input.size(-2) should match other.size({place})")
    if A._data.dtype.kind != "f":
        raise RuntimeError("This function doesn't handle types other than float and double")
    if driver not in _DRIVERS:
        raise RuntimeError(f"{name}: parameter `driver` should be one of ({', '.join(_DRIVERS)})")
    return unsqueeze(B, -1) if vectors else B


@reported("aten::linalg_lstsq")
def lstsq(
    A: Tensor,
    B: Tensor,
    rcond: Any = None,
    *,
    driver: str | None = None,
) -> tracegrad.return_types.linalg_lstsq:
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
    driver = "gelsy" if driver is None else driver
    right = _right_sides(A, B, driver)
    is_vector = right is not B
    solution = linalg.matmul(pinv(A, rcond), right)
    m, n = A._data.shape[-2:]
    nothing = empty((0,), dtype=A.dtype)
    rank = empty((0,), dtype=int64) if driver == "gels" else matrix_rank(A, rtol=rcond)
    residuals = nothing
    if driver != "gelsy" and m > n and bool(ew.eq(matrix_rank(A, rtol=rcond), n).all()):
        residuals = _sum(ew.square(ew.sub(linalg.matmul(A, solution), right)), -2)
    values = svdvals(A).detach() if driver in ("gelsd", "gelss") else nothing
    solution = squeeze(solution, -1) if is_vector else solution
    return tracegrad.return_types.linalg_lstsq(
        shown_as(solution, "LinalgLstsqBackward0", A, B), residuals, rank, values
    )


def _everywhere(x: Tensor) -> Tensor:
    """A condition that holds for all elements."""
    return make_tensor(np.ones(x._data.shape, bool), None)


@reported("aten::matrix_power")
def matrix_power(input: Tensor, n: int) -> Tensor:
    """The n-th power of square matrices, by repeated squaring; that of the inverse for a negative n.

    Raises:
        LinAlgError: n is negative and a matrix is singular.
    """
    check_square(input, "linalg.matrix_power")
    if not isinstance(n, int) or isinstance(n, bool):
        raise TypeError(
            f"linalg_matrix_power(): argument 'n' (position 2) must be int, not {type(n).__name__}"
        )
    if n == 0:
        ones = with_batch(eye(input._data.shape[-1], dtype=input.dtype), input._data.shape[:-2])
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
    check_square_floats(A, "linalg.matrix_exp")
    return shown_as(apply(_matrix_exp, (A,)), "LinalgMatrixExpBackward0", A)
