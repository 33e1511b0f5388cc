"""What functions with several results return: named tuples, called as in ``torch.return_types``."""

from __future__ import annotations

from typing import Any, NamedTuple

from tracegrad.tensor import Tensor


def _shown(result: Any) -> str:
    fields = ",\n".join(f"{name}={getattr(result, name)!r}" for name in result._fields)
    return f"torch.return_types.{type(result).__name__}(\n{fields})"


class ValuesIndices(NamedTuple):
    """Elements, and where they stand."""

    values: Tensor
    indices: Tensor


def _values_indices(name: str) -> type[ValuesIndices]:
    members = {"__slots__": (), "__repr__": _shown, "__module__": __name__}
    return type(name, (ValuesIndices,), members)


max = _values_indices("max")
min = _values_indices("min")
sort = _values_indices("sort")
topk = _values_indices("topk")
kthvalue = _values_indices("kthvalue")
median = _values_indices("median")
nanmedian = _values_indices("nanmedian")
mode = _values_indices("mode")
cummax = _values_indices("cummax")
cummin = _values_indices("cummin")


class _MinMax(NamedTuple):
    min: Tensor
    max: Tensor


class aminmax(_MinMax):  # noqa: N801
    """Both extrema."""

    __slots__ = ()
    __repr__ = _shown


class _Histogram(NamedTuple):
    hist: Tensor
    bin_edges: Tensor


class histogram(_Histogram):  # noqa: N801
    """Counts, and the edges of the intervals that were counted in."""

    __slots__ = ()
    __repr__ = _shown


class _LinalgCholeskyEx(NamedTuple):
    L: Tensor
    info: Tensor


class linalg_cholesky_ex(_LinalgCholeskyEx):  # noqa: N801
    """A triangular factor, and 0 or the first leading minor that is not positive."""

    __slots__ = ()
    __repr__ = _shown


class _LinalgEigh(NamedTuple):
    eigenvalues: Tensor
    eigenvectors: Tensor


class linalg_eigh(_LinalgEigh):  # noqa: N801
    """Of symmetric matrices."""

    __slots__ = ()
    __repr__ = _shown


class _LinalgInvEx(NamedTuple):
    inverse: Tensor
    info: Tensor


class linalg_inv_ex(_LinalgInvEx):  # noqa: N801
    """An inverse, and 0 or which pivot is zero."""

    __slots__ = ()
    __repr__ = _shown


class _LinalgLstsq(NamedTuple):
    solution: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


class linalg_lstsq(_LinalgLstsq):  # noqa: N801
    """A least-squares solution, and what else is known of the system."""

    __slots__ = ()
    __repr__ = _shown


class _LinalgQr(NamedTuple):
    Q: Tensor
    R: Tensor


class linalg_qr(_LinalgQr):  # noqa: N801
    """An orthonormal and an upper triangular factor."""

    __slots__ = ()
    __repr__ = _shown


class _LinalgSlogdet(NamedTuple):
    sign: Tensor
    logabsdet: Tensor


class linalg_slogdet(_LinalgSlogdet):  # noqa: N801
    """Of a determinant."""

    __slots__ = ()
    __repr__ = _shown


class _LinalgSolveEx(NamedTuple):
    result: Tensor
    info: Tensor


class linalg_solve_ex(_LinalgSolveEx):  # noqa: N801
    """A solution, and 0 or which pivot is zero."""

    __slots__ = ()
    __repr__ = _shown


class _LinalgSvd(NamedTuple):
    U: Tensor
    S: Tensor
    Vh: Tensor


class linalg_svd(_LinalgSvd):  # noqa: N801
    """The singular value decomposition, its last factor transposed."""

    __slots__ = ()
    __repr__ = _shown


class _Qr(NamedTuple):
    Q: Tensor
    R: Tensor


class qr(_Qr):  # noqa: N801
    """An orthonormal and an upper triangular factor."""

    __slots__ = ()
    __repr__ = _shown


class _Slogdet(NamedTuple):
    sign: Tensor
    logabsdet: Tensor


class slogdet(_Slogdet):  # noqa: N801
    """Of a determinant."""

    __slots__ = ()
    __repr__ = _shown


class _Svd(NamedTuple):
    U: Tensor
    S: Tensor
    V: Tensor


class svd(_Svd):  # noqa: N801
    """The singular value decomposition."""

    __slots__ = ()
    __repr__ = _shown
