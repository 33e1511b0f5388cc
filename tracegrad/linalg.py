"""``torch.linalg``: linear algebra under its names.

Norms are in :mod:`tracegrad.ops.norms`, factorizations in :mod:`tracegrad.ops.factorization`, inverses and solutions in
:mod:`tracegrad.ops.solution`, products in :mod:`tracegrad.ops.linalg`. ``eig`` and ``eigvals`` are not supported, since
they give complex numbers. What torch has beyond these (``lu``, ``ldl_factor``, ``householder_product``, ...) is not
there.
"""

from __future__ import annotations

from tracegrad.ir.errors import LinAlgError
from tracegrad.ops import linalg as _products
from tracegrad.ops import solution as _solution
from tracegrad.ops.arrangement import linalg_vander as vander
from tracegrad.ops.contraction import multi_dot
from tracegrad.ops.factorization import cholesky_ex, eig, eigh, eigvals, eigvalsh, svdvals
from tracegrad.ops.factorization import linalg_cholesky as cholesky
from tracegrad.ops.factorization import linalg_qr as qr
from tracegrad.ops.factorization import linalg_svd as svd
from tracegrad.ops.linalg import linalg_cross as cross
from tracegrad.ops.linalg import vecdot
from tracegrad.ops.norms import cond, matrix_norm, norm, vector_norm
from tracegrad.ops.out_argument import give_out
from tracegrad.ops.solution import (
    inv,
    inv_ex,
    lstsq,
    matrix_rank,
    pinv,
    solve,
    solve_ex,
    solve_triangular,
    tensorinv,
    tensorsolve,
)
from tracegrad.ops.solution import linalg_slogdet as slogdet
from tracegrad.ops.striding import diagonal as _diagonal
from tracegrad.reporting import reported as _reported
from tracegrad.tensor import Tensor

# In a profile they have the names of torch.linalg.
det = _reported("aten::linalg_det")(_solution.det)
matrix_exp = _reported("aten::linalg_matrix_exp")(_solution.matrix_exp)
matrix_power = _reported("aten::linalg_matrix_power")(_solution.matrix_power)
matmul = _reported("aten::linalg_matmul")(_products.matmul)


@_reported("aten::linalg_diagonal")
def diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """A view of the diagonals of matrices."""
    return _diagonal(A, offset, dim1, dim2)


give_out(globals(), list(globals()))

__all__ = [
    "LinAlgError", "cholesky", "cholesky_ex", "cond", "cross", "det", "diagonal", "eig", "eigh", "eigvals", "eigvalsh",
    "inv", "inv_ex", "lstsq", "matmul", "matrix_exp", "matrix_norm", "matrix_power", "matrix_rank", "multi_dot", "norm",
    "pinv", "qr", "slogdet", "solve", "solve_ex", "solve_triangular", "svd", "svdvals", "tensorinv", "tensorsolve",
    "vander", "vecdot", "vector_norm",
]  # fmt: skip
