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


def _of_tensors(name: str, *fields: str) -> Any:
    """A named tuple of tensors."""
    members = {"__slots__": (), "__repr__": _shown, "__module__": __name__}
    return type(name, (NamedTuple(name, [(field, Tensor) for field in fields]),), members)  # type: ignore[misc]


linalg_cholesky_ex = _of_tensors("linalg_cholesky_ex", "L", "info")
linalg_eigh = _of_tensors("linalg_eigh", "eigenvalues", "eigenvectors")
linalg_inv_ex = _of_tensors("linalg_inv_ex", "inverse", "info")
linalg_lstsq = _of_tensors("linalg_lstsq", "solution", "residuals", "rank", "singular_values")
linalg_qr = _of_tensors("linalg_qr", "Q", "R")
linalg_slogdet = _of_tensors("linalg_slogdet", "sign", "logabsdet")
linalg_solve_ex = _of_tensors("linalg_solve_ex", "result", "info")
linalg_svd = _of_tensors("linalg_svd", "U", "S", "Vh")
qr = _of_tensors("qr", "Q", "R")
slogdet = _of_tensors("slogdet", "sign", "logabsdet")
svd = _of_tensors("svd", "U", "S", "V")
