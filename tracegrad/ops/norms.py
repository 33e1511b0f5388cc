"""Norms of vectors and matrices, as in ``torch.linalg``."""

from __future__ import annotations

import math
from typing import Any

from tracegrad.ir.types import DType
from tracegrad.ops import elementwise as ew
from tracegrad.ops import reduction
from tracegrad.ops.arguments import canonical_dim, canonical_dims, resolve_dtype, to_dtype
from tracegrad.ops.creation import zeros
from tracegrad.ops.factorization import svdvals
from tracegrad.ops.matrix_arguments import check_floating, check_matrix, check_square
from tracegrad.ops.shaping import movedim, unsqueeze
from tracegrad.ops.solution import inv_ex
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor


def _in_dtype(x: Tensor, dtype: Any, name: str) -> Tensor:
    target: DType | None = resolve_dtype(dtype)
    check_floating(x, name)
    if target is None:
        return x
    if not target.is_floating:
        raise RuntimeError(
            f"{name}: dtype should be floating point or complex, but got {target.legacy_name}"
        )
    return to_dtype(x, target)


@reported("aten::linalg_vector_norm")
def vector_norm(
    x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """The norm of order `ord` of the elements over `dim` (of all by default), which may be any number.

    Raises:
        RuntimeError: no floats, or no elements where the norm needs one.
    """
    if not isinstance(ord, (int, float)):
        raise TypeError(
            f"linalg_vector_norm(): argument 'ord' must be Number, not {type(ord).__name__}"
        )
    values = _in_dtype(x, dtype, "linalg.vector_norm")
    dims = canonical_dims(dim, values._data.ndim)
    if abs(ord) == math.inf or ord < 0:
        shape = values._data.shape
        if any(shape[d] == 0 for d in dims):
            order = "inf" if ord == math.inf else "-inf" if ord == -math.inf else f"{ord:g}"
            where = "tensor" if dim is None else f"dimension {dims[0]}"
            raise RuntimeError(
                f"linalg.vector_norm cannot compute the {order} norm on an empty {where} because the operation does "
                "not have an identity"
            )
    return reduction.norm(values, ord, None if dim is None else dims, keepdim)


def _matrix_dims(x: Tensor, dim: Any) -> tuple[int, int]:
    dim = (dim,) if isinstance(dim, int) else dim
    if len(dim) != 2:
        raise RuntimeError(
            f"linalg.matrix_norm: dim must be a 2-tuple. Got {' '.join(map(str, dim))}"
        )
    rows, columns = (canonical_dim(d, x._data.ndim) for d in dim)
    if rows == columns:
        raise RuntimeError(f"linalg.matrix_norm: dims must be different. Got ({dim[0]}, {dim[1]})")
    return rows, columns


@reported("aten::linalg_matrix_norm")
def matrix_norm(
    A: Tensor,
    ord: Any = "fro",
    dim: Any = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Tensor:
    """A norm of matrices.

    Args:
        A: [..., m, n].
        ord: ``fro`` (Frobenius), ``nuc`` (the sum of the singular values), 2 and -2 (their largest and smallest), 1
            and -1 (of the sums of magnitudes of columns), inf and -inf (of rows).
        dim: the two dimensions of the matrices.
    """
    check_matrix(A, "linalg.matrix_norm")
    rows, columns = _matrix_dims(A, dim)
    values = _in_dtype(A, dtype, "linalg.matrix_norm")
    if ord == "fro":
        return reduction.norm(values, 2, (rows, columns), keepdim)
    if ord in ("nuc", 2, -2):
        singular = svdvals(movedim(values, (rows, columns), (-2, -1)))
        result = reduction.sum(singular, -1) if ord == "nuc" else _extremum(singular, -1, ord)
        if not keepdim:
            return result
        for d in sorted((rows, columns)):
            result = unsqueeze(result, d)
        return result
    if isinstance(ord, str) or abs(ord) not in (1, math.inf):
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    along, other = (rows, columns) if abs(ord) == 1 else (columns, rows)
    sums = reduction.norm(values, 1, along, keepdim)
    return _extremum(sums, other - (not keepdim and along < other), ord, keepdim)


def _extremum(x: Tensor, dim: int, ord: float, keepdim: bool = False) -> Tensor:
    """The maximum along a dimension, or the minimum for a negative order; the maximum of nothing is 0."""
    if ord < 0:
        return reduction.amin(x, dim, keepdim)
    if not x._data.shape[dim]:
        return reduction.sum(x, dim, keepdim)
    return reduction.amax(x, dim, keepdim)


@reported("aten::linalg_norm")
def norm(
    A: Tensor,
    ord: Any = None,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Tensor:
    """`vector_norm` or `matrix_norm`, as ``torch.linalg.norm`` decides: by the number of dimensions.

    Without `ord` and `dim` it is the 2-norm of all elements.
    """
    if dim is not None:
        dims = (dim,) if isinstance(dim, int) else tuple(dim)
        if len(dims) not in (1, 2):
            raise RuntimeError(
                f"linalg.norm: If dim is specified, it must be of length 1 or 2. Got {list(dims)}"
            )
    elif ord is not None and A._data.ndim not in (1, 2):
        raise RuntimeError(
            "linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D. Got "
            f"{A._data.ndim}D."
        )
    if ord is None:
        return vector_norm(A, 2, dim, keepdim, dtype=dtype)
    count = A._data.ndim if dim is None else len(dims)
    if count == 2:
        return matrix_norm(A, ord, (0, 1) if dim is None else dims, keepdim, dtype=dtype)
    if isinstance(ord, str):
        raise RuntimeError(f"linalg.norm: Order {ord} not supported for vectors.")
    return vector_norm(A, ord, dim, keepdim, dtype=dtype)


@reported("aten::linalg_cond")
def cond(A: Tensor, p: Any = None) -> Tensor:
    """The condition numbers of matrices with respect to a norm of `matrix_norm`; of singular ones infinity."""
    if A._data.ndim < 2:
        raise RuntimeError("linalg.cond: The input tensor must have at least 2 dimensions.")
    if not A._data.size and p not in ("fro", "nuc"):
        return zeros(A._data.shape[:-2], dtype=A.dtype)
    if p is None or p in (2, -2):
        singular = svdvals(A)
        largest, smallest = singular[..., 0], singular[..., -1]
        return ew.div(smallest, largest) if p == -2 else ew.div(largest, smallest)
    if p not in ("fro", "nuc", 1, -1, math.inf, -math.inf):
        raise RuntimeError(f"linalg.cond got an invalid norm type: {p}")
    check_square(A, f"linalg.cond(ord={p})")
    inverse, info = inv_ex(A)
    regular = ew.eq(info, 0)
    inverse = ew.where(unsqueeze(unsqueeze(regular, -1), -1), inverse, 0)
    return ew.where(regular, ew.mul(matrix_norm(A, p), matrix_norm(inverse, p)), math.inf)


def norm_of(
    input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Tensor:
    """The norm of order `p` of the elements over `dim`, as ``torch.norm``.

    Args:
        p: a number; ``fro`` for 2; or ``nuc`` for the nuclear norm of the matrix in two dimensions.
    """
    if isinstance(p, str) and p != "fro":
        dims = tuple(range(input._data.ndim)) if dim is None else dim
        return matrix_norm(input, p, dims, keepdim, dtype=dtype)
    return reduction.norm(input, p, dim, keepdim, dtype=dtype)


norm_of.__name__ = norm_of.__qualname__ = "norm"
