"""Factorizations and solutions of linear systems, of the matrices in the last two dimensions. LAPACK through NumPy.

An op has one result, so those that have several factors lay them on top of each other: ``eigh`` the eigenvalues as a
row above the eigenvectors, ``svd`` the rows of U, a row of singular values, and the rows of V, ``qr`` the rows of Q and
those of R transposed. All are interpreted. Rules are those of Giles (2008), "An extended collection of matrix
derivative results for forward and reverse mode algorithmic differentiation", of Walter and Lehmann (2013),
"Algorithmic differentiation of linear algebra functions", for QR, and of Golub and Pereyra (1973) for the
pseudoinverse; written with the ops themselves, so that they are differentiable again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..batching import shifted
from ..errors import LinAlgError
from ..op import Op, primitive, registered
from ..types import TensorType
from .arithmetic import zeros
from .comparison import eq, ge
from .linalg import matmul
from .reduction import sum_
from .samples import FLOATS, Sample, draw
from .selection import where
from .shape import broadcast_in_dim, concat, reshape, slice_, swap_last

# What rules are made of.


def _rows(x: Any, begin: int, end: int) -> Any:
    """Some of the rows of matrices."""
    shape = tuple(x.shape)
    lead = (0,) * (len(shape) - 2)
    return slice_(
        x,
        start=(*lead, begin, 0),
        limit=(*shape[:-2], end, shape[-1]),
        stride=(1,) * len(shape),
    )


def _columns(x: Any, begin: int, end: int) -> Any:
    return swap_last(_rows(swap_last(x), begin, end))


def _below(*parts: Any) -> Any:
    """Matrices on top of each other."""
    return concat(*parts, axis=len(parts[0].shape) - 2)


def _numbered(x: Any, rows: int, columns: int) -> tuple[Any, Any]:
    """The numbers of the rows and of the columns of matrices, as floats like `x`."""
    count = max(rows, columns)
    numbers = registered("cumsum")(zeros(x, shape=(count,)) + 1.0, axis=0)

    def along(axis: int, extent: int) -> Any:
        part = slice_(numbers, start=(0,), limit=(extent,), stride=(1,))
        return broadcast_in_dim(part, shape=(rows, columns), dims=(axis,))

    return along(0, rows), along(1, columns)


def _lower(x: Any) -> Any:
    """The lower triangle, zeros above."""
    row, column = _numbered(x, *tuple(x.shape)[-2:])
    return where(ge(row, column), x, 0.0)


def _strictly_lower(x: Any) -> Any:
    row, column = _numbered(x, *tuple(x.shape)[-2:])
    return where(ge(column, row), 0.0, x)


def _diagonal(x: Any) -> Any:
    """The diagonals of square matrices, as columns of one element."""
    row, column = _numbered(x, *tuple(x.shape)[-2:])
    picked = where(eq(row, column), x, 0.0)
    return sum_(picked, axis=(len(tuple(x.shape)) - 1,), keepdims=True)


def _on_diagonal(row: Any) -> Any:
    """Square matrices with the elements of rows of one row each on their diagonals."""
    n = tuple(row.shape)[-1]
    i, j = _numbered(row, n, n)
    return where(eq(i, j), row, 0.0)


def _symmetric(x: Any) -> Any:
    return (x + swap_last(x)) * 0.5


def _half_lower(x: Any) -> Any:
    """The lower triangle with half of the diagonal."""
    return (_lower(x) + _strictly_lower(x)) * 0.5


def _inverse_differences(values: Any) -> Any:
    """``1 / (v[j] - v[i])`` of the elements of a row of one row, zeros on the diagonal."""
    n = tuple(values.shape)[-1]
    row, column = _numbered(values, n, n)
    same = eq(row, column)
    differences = values - swap_last(values)
    return where(same, 0.0, 1.0 / where(same, 1.0, differences))


def _without_projection(q: Any, x: Any) -> Any:
    """``(I - Q Q^T) x``."""
    return x - matmul(q, matmul(swap_last(q), x))


def _product(*factors: Any) -> Any:
    result = factors[0]
    for factor in factors[1:]:
        result = matmul(result, factor)
    return result


# Samples.


def _matrices(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Matrices of full rank, well away from singular ones."""
    x = draw(rng, shape, dtype)
    m, n = shape[-2:]
    return np.asarray(x + 3 * np.eye(m, n, dtype=x.dtype), x.dtype)


def _square(symmetric: bool = False) -> Callable[[np.random.Generator], Iterator[Sample]]:
    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for dtype in FLOATS:
            for shape in ((3, 3), (2, 4, 4), (1, 1), (0, 0), (0, 2, 2)):
                x = _matrices(rng, shape, dtype)
                if symmetric:
                    x = (x @ x.mT + np.eye(shape[-1], dtype=x.dtype)).astype(x.dtype)
                yield Sample((x,), {})

    return samples


def _any_matrix(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for shape in ((3, 3), (4, 2), (2, 4), (2, 4, 3)):
            yield Sample((_matrices(rng, shape, dtype),), {})


def _tall(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for shape in ((3, 2), (2, 4, 1)):
            yield Sample((np.linalg.qr(_matrices(rng, shape, dtype))[0],), {})


def _systems(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for a, b in (((3, 3), (3, 2)), ((2, 2, 2), (2, 2, 1)), ((0, 0), (0, 2))):
            yield Sample((_matrices(rng, a, dtype), draw(rng, b, dtype)), {})


def _triangular_systems(rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _systems(rng):
        for upper in (False, True):
            for unit in (False, True):
                yield Sample(sample.operands, {"upper": upper, "unit": unit})


def _same(x: TensorType) -> TensorType:
    return x


# Evaluation, with torch's errors.


def _message(name: str, index: int | None, text: str) -> str:
    batch = "" if index is None else f"(Batch element {index}): "
    return f"{name}: {batch}{text}"


def _first_bad(x: np.ndarray, is_bad: Callable[[np.ndarray], int]) -> tuple[int | None, int]:
    """The first matrix of a batch with something bad in it (None: there is no batch), and where that is, from 1."""
    flat = x.reshape(-1, *x.shape[-2:])
    for index, matrix in enumerate(flat):
        place = is_bad(matrix)
        if place:
            return (None if x.ndim == 2 else index), place
    return (None if x.ndim == 2 else 0), x.shape[-1]


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


def minor_not_positive(matrix: np.ndarray) -> int:
    """The order of the first leading minor that is not positive-definite; 0 if all are."""
    for order in range(1, len(matrix) + 1):
        try:
            np.linalg.cholesky(matrix[:order, :order])
        except np.linalg.LinAlgError:
            return order
    return 0


def _singular(name: str, x: np.ndarray, what: str) -> LinAlgError:
    index, place = _first_bad(x, zero_pivot)
    return LinAlgError(
        _message(
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
        index, _ = _first_bad(x, zero_pivot)
        text = "The solver failed because the input matrix is singular."
        raise LinAlgError(_message("torch.linalg.solve", index, text)) from None


def _evaluate_cholesky(x: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(x)
    except np.linalg.LinAlgError:
        index, order = _first_bad(x, minor_not_positive)
        text = (
            "The factorization could not be completed because the input is not positive-definite (the leading "
            f"minor of order {order} is not positive-definite)."
        )
        raise LinAlgError(_message("linalg.cholesky", index, text)) from None


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


def _not_converged(name: str) -> LinAlgError:
    return LinAlgError(
        f"{name}: The algorithm failed to converge because the input matrix is ill-conditioned or has too many "
        "repeated singular values (error code: 1)."
    )


def _evaluate_eigh(x: np.ndarray) -> np.ndarray:
    try:
        values, vectors = np.linalg.eigh(x)
    except np.linalg.LinAlgError:
        raise _not_converged("linalg.eigh") from None
    return np.concatenate([values[..., None, :], vectors], -2)


def _evaluate_svd(x: np.ndarray) -> np.ndarray:
    try:
        u, values, vh = np.linalg.svd(x, full_matrices=False)
    except np.linalg.LinAlgError:
        raise _not_converged("linalg.svd") from None
    return np.concatenate([u, values[..., None, :], vh.mT], -2)


def _evaluate_singular_values(x: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.svd(x, compute_uv=False)
    except np.linalg.LinAlgError:
        raise _not_converged("linalg.svd") from None


def _evaluate_qr(x: np.ndarray) -> np.ndarray:
    q, r = np.linalg.qr(x)
    return np.concatenate([q, r.mT], -2)


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


# Degrees of the Pade approximants of exp, and the norms up to which each is exact in double precision
# (Higham, 2005, "The scaling and squaring method for the matrix exponential revisited").
_PADE = (
    (3, 1.495585217958292e-2, (120, 60, 12, 1)),
    (5, 2.539398330063230e-1, (30240, 15120, 3360, 420, 30, 1)),
    (7, 9.504178996162932e-1, (17297280, 8648640, 1995840, 277200, 25200, 1512, 56, 1)),
    (
        9, 2.097847961257068, (
            17643225600, 8821612800, 2075673600, 302702400, 30270240, 2162160, 110880, 3960, 90, 1,
        ),
    ),
    (
        13, 5.371920351148152, (
            64764752532480000, 32382376266240000, 7771770303897600, 1187353796428800, 129060195264000,
            10559470521600, 670442572800, 33522128640, 1323241920, 40840800, 960960, 16380, 182, 1,
        ),
    ),
)  # fmt: skip


def _evaluate_exponential(x: np.ndarray) -> np.ndarray:
    if not x.size:
        return x.copy()
    wide = x.astype(np.float64)
    norm = float(np.max(np.sum(np.abs(wide), -2)))
    if not np.isfinite(norm):
        return np.full_like(x, np.nan)
    _, limit, coefficients = next((p for p in _PADE if norm <= p[1]), _PADE[-1])
    squarings = max(0, int(np.ceil(np.log2(norm / limit)))) if norm > limit else 0
    wide = wide / 2.0**squarings
    power = np.broadcast_to(np.eye(x.shape[-1]), wide.shape)
    square = wide @ wide
    even = odd = np.zeros_like(wide)
    for k in range(0, len(coefficients), 2):
        even = even + coefficients[k] * power
        odd = odd + coefficients[k + 1] * power
        power = power @ square
    odd = wide @ odd
    result = np.linalg.solve(even - odd, even + odd)
    for _ in range(squarings):
        result = result @ result
    return np.asarray(result, x.dtype)


# The ops.

cholesky: Op = primitive(
    "cholesky",
    eval=_evaluate_cholesky,
    type_rule=_same,
    vjps=(lambda ct, out: _cholesky_vjp(ct, out),),
    jvp=lambda tangents, out, operands: matmul(
        out, _half_lower(_between(out, _symmetric(tangents[0])))
    ),
    batch=shifted(),
    samples=_square(symmetric=True),
)


def _between(factor: Any, x: Any) -> Any:
    """``L^-1 x L^-T``."""
    left = solve_triangular(factor, x, upper=False, unit=False)
    return swap_last(solve_triangular(factor, swap_last(left), upper=False, unit=False))


def _cholesky_vjp(ct: Any, out: Any) -> Any:
    middle = _half_lower(matmul(swap_last(out), ct))
    transposed = swap_last(out)
    left = solve_triangular(transposed, _symmetric(middle), upper=True, unit=False)
    return swap_last(solve_triangular(transposed, swap_last(left), upper=True, unit=False))


inverse: Op = primitive(
    "inverse",
    eval=_evaluate_inverse,
    type_rule=_same,
    vjps=(lambda ct, out: -_product(swap_last(out), ct, swap_last(out)),),
    jvp=lambda tangents, out, operands: -_product(out, tangents[0], out),
    batch=shifted(),
    samples=_square(),
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
    return _strictly_lower(x) if unit else _lower(x)


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


def _as_matrix(x: Any) -> Any:
    """Numbers as matrices of one element."""
    return reshape(x, shape=(*tuple(x.shape), 1, 1))


def _total(x: Any) -> Any:
    """The sums of the elements of matrices."""
    n = len(tuple(x.shape))
    return sum_(x, axis=(n - 2, n - 1), keepdims=False)


def _cofactors_vjp(ct: Any, x: Any, out: Any) -> Any:
    turned = swap_last(inverse(x))
    trace = _as_matrix(_total(ct * turned))
    return trace * out - _product(out, swap_last(ct), turned)


cofactors: Op = primitive(
    "cofactors",
    eval=_evaluate_cofactors,
    type_rule=_same,
    vjps=(_cofactors_vjp,),
    jvp=lambda tangents, out, operands: _cofactors_vjp(tangents[0], operands[0], out),
    batch=shifted(),
    samples=_square(),
)
det: Op = primitive(
    "det",
    eval=lambda x: np.asarray(np.linalg.det(x), x.dtype),
    type_rule=_number_type,
    vjps=(lambda ct, x: _as_matrix(ct) * cofactors(x),),
    jvp=lambda tangents, out, operands: _total(tangents[0] * cofactors(operands[0])),
    batch=shifted(),
    samples=_square(),
)


def _last(x: Any, index: int) -> Any:
    """One element along the last axis, which is kept."""
    n = len(tuple(x.shape))
    start = (0,) * (n - 1)
    limit = tuple(x.shape)[:-1]
    return slice_(x, start=(*start, index), limit=(*limit, index + 1), stride=(1,) * n)


def _slogdet_jvp(tangents: Any, out: Any, operands: Any) -> Any:
    change = _total(tangents[0] * swap_last(inverse(operands[0])))
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
    samples=_square(),
)


def _packed(rows: Callable[[int, int], int]) -> Callable[[TensorType], TensorType]:
    """The type of factors on top of each other, which have as many columns as there are singular values."""

    def rule(x: TensorType) -> TensorType:
        m, n = x.shape[-2:]
        return TensorType(x.dtype, (*x.shape[:-2], rows(m, n), min(m, n)))

    return rule


def _eigh_parts(packed: Any) -> tuple[Any, Any]:
    n = tuple(packed.shape)[-1]
    return _rows(packed, 0, 1), _rows(packed, 1, n + 1)


def _eigh_vjp(ct: Any, out: Any) -> Any:
    values, vectors = _eigh_parts(out)
    ct_values, ct_vectors = _eigh_parts(ct)
    turned = swap_last(vectors)
    middle = _inverse_differences(values) * matmul(turned, ct_vectors)
    return _symmetric(_product(vectors, middle + _on_diagonal(ct_values), turned))


def _eigh_jvp(tangents: Any, out: Any, operands: Any) -> Any:
    values, vectors = _eigh_parts(out)
    middle = _product(swap_last(vectors), _symmetric(tangents[0]), vectors)
    change = matmul(vectors, _inverse_differences(values) * middle)
    return _below(swap_last(_diagonal(middle)), change)


# Of symmetric matrices, of which the lower triangle is read.
eigh: Op = primitive(
    "eigh",
    eval=_evaluate_eigh,
    type_rule=_packed(lambda m, n: n + 1),
    vjps=(_eigh_vjp,),
    jvp=_eigh_jvp,
    batch=shifted(),
    samples=_square(symmetric=True),
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
    return _pushed(vectors, _symmetric(tangents[0]), vectors)


eigvalsh: Op = primitive(
    "eigvalsh",
    eval=np.linalg.eigvalsh,
    type_rule=_values_type,
    vjps=(_eigvalsh_vjp,),
    jvp=_eigvalsh_jvp,
    batch=shifted(),
    samples=_square(symmetric=True),
)


def _svd_parts(packed: Any, m: int) -> tuple[Any, Any, Any]:
    rows = tuple(packed.shape)[-2]
    return _rows(packed, 0, m), _rows(packed, m, m + 1), _rows(packed, m + 1, rows)


def _svd_vjp(ct: Any, out: Any, x_type: TensorType) -> Any:
    m, n = x_type.shape[-2:]
    k = min(m, n)
    u, s, v = _svd_parts(out, m)
    ct_u, ct_s, ct_v = _svd_parts(ct, m)
    apart = _inverse_differences(s * s)

    def skew(factor: Any, change: Any) -> Any:
        product = matmul(swap_last(factor), change)
        return apart * (product - swap_last(product))

    # Of the rows and columns of U S V^T: F * (U^T dU - dU^T U) S, S F * (V^T dV - dV^T V), and dS.
    middle = skew(u, ct_u) * s + swap_last(s) * skew(v, ct_v) + _on_diagonal(ct_s)
    found = _product(u, middle, swap_last(v))
    if m > k:
        found = found + matmul(_without_projection(u, ct_u) / s, swap_last(v))
    if n > k:
        found = found + matmul(u, swap_last(_without_projection(v, ct_v) / s))
    return found


def _svd_jvp(tangents: Any, out: Any, operands: Any) -> Any:
    (tangent,) = tangents
    m, n = tuple(tangent.shape)[-2:]
    k = min(m, n)
    u, s, v = _svd_parts(out, m)
    middle = _product(swap_last(u), tangent, v)
    apart = _inverse_differences(s * s)
    turned = swap_last(middle)
    du = matmul(u, apart * (middle * s + swap_last(s) * turned))
    dv = matmul(v, apart * (swap_last(s) * middle + turned * s))
    if m > k:
        du = du + _without_projection(u, matmul(tangent, v)) / s
    if n > k:
        dv = dv + _without_projection(v, matmul(swap_last(tangent), u)) / s
    return _below(du, swap_last(_diagonal(middle)), dv)


svd: Op = primitive(
    "svd",
    eval=_evaluate_svd,
    type_rule=_packed(lambda m, n: m + 1 + n),
    vjps=(_svd_vjp,),
    jvp=_svd_jvp,
    batch=shifted(),
    samples=_any_matrix,
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
    samples=_any_matrix,
)


def _qr_parts(packed: Any, m: int) -> tuple[Any, Any]:
    return _rows(packed, 0, m), swap_last(_rows(packed, m, tuple(packed.shape)[-2]))


def _times_inverse(x: Any, r: Any) -> Any:
    """``x R^-T`` of an upper triangle R."""
    return swap_last(solve_triangular(r, swap_last(x), upper=True, unit=False))


def _qr_vjp(ct: Any, out: Any, x_type: TensorType) -> Any:
    m, n = x_type.shape[-2:]
    q, r = _qr_parts(out, m)
    ct_q, ct_r = _qr_parts(ct, m)
    rest = None
    if n > m:  # The further columns are Q times those of R.
        r_rest, ct_rest = _columns(r, m, n), _columns(ct_r, m, n)
        rest = matmul(q, ct_rest)
        ct_q = ct_q + _product(q, r_rest, swap_last(ct_rest))
        r, ct_r = _columns(r, 0, m), _columns(ct_r, 0, m)
    middle = matmul(r, swap_last(ct_r)) - matmul(swap_last(ct_q), q)
    lower = _strictly_lower(middle)
    symmetric = _lower(middle) + swap_last(lower)
    found = _times_inverse(ct_q + matmul(q, symmetric), r)
    if rest is None:
        return found
    return swap_last(_below(swap_last(found), swap_last(rest)))


def _qr_jvp(tangents: Any, out: Any, operands: Any) -> Any:
    (tangent,) = tangents
    m, n = tuple(tangent.shape)[-2:]
    k = min(m, n)
    q, r = _qr_parts(out, m)
    lead = tangent if n == k else _columns(tangent, 0, k)
    r_lead = r if n == k else _columns(r, 0, k)
    # lead R^-1
    scaled = swap_last(
        solve_triangular(swap_last(r_lead), swap_last(lead), upper=False, unit=False)
    )
    middle = matmul(swap_last(q), scaled)
    lower = _strictly_lower(middle)
    turning = lower - swap_last(lower)
    dq = _without_projection(q, scaled) + matmul(q, turning)
    dr = matmul(middle - turning, r_lead)
    if n > k:
        rest = matmul(swap_last(q), _columns(tangent, k, n)) - matmul(turning, _columns(r, k, n))
        dr = swap_last(_below(swap_last(dr), swap_last(rest)))
    return _below(dq, swap_last(dr))


qr: Op = primitive(
    "qr",
    eval=_evaluate_qr,
    type_rule=_packed(lambda m, n: m + n),
    vjps=(_qr_vjp,),
    jvp=_qr_jvp,
    batch=shifted(),
    samples=_any_matrix,
)


# Further columns that make orthonormal ones a square matrix. Which they are is open, so there is no derivative.
orthogonal_complement: Op = primitive(
    "orthogonal_complement",
    eval=lambda x: np.linalg.qr(x, mode="complete")[0][..., x.shape[-1] :],
    type_rule=lambda x: TensorType(x.dtype, (*x.shape[:-1], x.shape[-2] - x.shape[-1])),
    batch=shifted(),
    samples=_tall,
)


def _evaluate_pseudoinverse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, values, vh = np.linalg.svd(x, full_matrices=False)
    inverted = np.where(values > y, 1 / np.where(values > y, values, 1), 0)
    return np.asarray((vh.mT * inverted[..., None, :]) @ u.mT, x.dtype)


def _pinv_vjp(ct: Any, x: Any, out: Any) -> Any:
    turned, flipped = swap_last(out), swap_last(ct)
    beside = flipped - _product(x, out, flipped)
    above = flipped - _product(flipped, out, x)
    return (
        _product(beside, out, turned) + _product(turned, out, above) - _product(turned, ct, turned)
    )


def _pinv_jvp(tangents: Any, out: Any, operands: Any) -> Any:
    x, tangent = operands[0], tangents[0]
    if tangent is None:
        return None
    turned, flipped = swap_last(out), swap_last(tangent)
    beside = flipped - _product(flipped, x, out)
    above = flipped - _product(out, x, flipped)
    return (
        _product(out, turned, beside) + _product(above, turned, out) - _product(out, tangent, out)
    )


def _cutoffs(rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _any_matrix(rng):
        (x,) = sample.operands
        yield Sample((x, np.full((*x.shape[:-2], 1), 1e-3, x.dtype)), {})


# Singular values up to y count as zero.
pinv: Op = primitive(
    "pinv",
    operands=("x", "y"),
    eval=_evaluate_pseudoinverse,
    type_rule=lambda x, y: TensorType(x.dtype, (*x.shape[:-2], x.shape[-1], x.shape[-2])),
    vjps=(_pinv_vjp, None),
    jvp=_pinv_jvp,
    batch=shifted(),
    samples=_cutoffs,
)


def _exponential_derivative(x: Any, change: Any) -> Any:
    """The derivative of the exponential in a direction: a corner of the exponential of a block matrix."""
    n = tuple(x.shape)[-1]
    nothing = zeros(x, shape=tuple(x.shape))
    top = swap_last(_below(swap_last(x), swap_last(change)))
    bottom = swap_last(_below(nothing, swap_last(x)))
    return _columns(_rows(matrix_exp(_below(top, bottom)), 0, n), n, 2 * n)


matrix_exp: Op = primitive(
    "matrix_exp",
    eval=_evaluate_exponential,
    type_rule=_same,
    vjps=(lambda ct, x: _exponential_derivative(swap_last(x), ct),),
    jvp=lambda tangents, out, operands: _exponential_derivative(operands[0], tangents[0]),
    batch=shifted(),
    samples=_square(),
)
