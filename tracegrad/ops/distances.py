"""Distances of tensors, of all pairs of rows, and slices brought to a norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad.dispatch import composite
from tracegrad.grad_mode import no_grad
from tracegrad.ops import elementwise as ew
from tracegrad.ops import linalg, reduction
from tracegrad.ops.arguments import canonical_dim, require_tensors, to_dtype
from tracegrad.ops.conversion import promote_types
from tracegrad.ops.indexing import index_select
from tracegrad.ops.shaping import broadcast_tensors, expand, transpose, unsqueeze
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, make_tensor

# As in torch, how the distances of rows are computed, by whether a matrix product does it.
_MODES = {
    "use_mm_for_euclid_dist_if_necessary": None,
    "use_mm_for_euclid_dist": True,
    "donot_use_mm_for_euclid_dist": False,
}
_MANY_ROWS = 25


def _length(x: Tensor, p: float, dim: Any = None) -> Tensor:
    if p == 0:  # Counted so that there is a gradient, of zeros.
        return reduction.sum(ew.abs(ew.sign(x)), dim)
    return reduction.norm(x, p, dim)


@composite("DistBackward0")
def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of ``input - other``, broadcast, as ``torch.dist``.

    Raises:
        RuntimeError: integers.
    """
    require_tensors("dist", input=(1, input), other=(2, other))
    difference = ew.sub(input, other)
    if not difference.is_floating_point():
        raise RuntimeError(
            "norm(): input dtype should be either floating point or complex. Got "
            f"{difference.dtype.legacy_name} instead."
        )
    return _length(difference, p)


def _check_cdist(x1: Tensor, x2: Tensor, p: float) -> None:
    for name, x in (("X1", x1), ("X2", x2)):
        if not x.is_floating_point():
            raise RuntimeError(
                f"cdist only supports floating-point dtypes, {name} got: {x.dtype.legacy_name}"
            )
    for name, x in (("X1", x1), ("X2", x2)):
        if x._data.ndim < 2:
            raise RuntimeError(
                f"cdist only supports at least 2D tensors, {name} got: {x._data.ndim}D"
            )
    if x1._data.shape[-1] != x2._data.shape[-1]:
        raise RuntimeError(
            f"X1 and X2 must have the same number of columns. X1: {x1._data.shape[-1]} X2: "
            f"{x2._data.shape[-1]}"
        )
    if x1.dtype is not x2.dtype:
        raise RuntimeError(
            f"expected scalar type {x1.dtype.legacy_name} but found {x2.dtype.legacy_name}"
        )
    if p < 0:
        raise RuntimeError("cdist only supports non-negative p values")


@composite("CdistBackward0")
def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """The p-norm distances of the rows of two (batches of) matrices: [..., P, M], [..., R, M] -> [..., P, R].

    Args:
        p: 0 counts differing elements, ``math.inf`` takes the largest difference.
        compute_mode: whether Euclidean distances are computed by a matrix product, which is faster and less exact;
            by default where there are more than 25 rows.

    Raises:
        RuntimeError: the operands are no matrices of floats with as many columns, or p is negative.
        ValueError: the mode is unknown.
    """
    require_tensors("cdist", x1=(1, x1), x2=(2, x2))
    if compute_mode not in _MODES:
        raise ValueError(f"{compute_mode} is not a valid value for compute_mode")
    _check_cdist(x1, x2, p)
    rows = max(x1._data.shape[-2], x2._data.shape[-2])
    by_product = _MODES[compute_mode]
    if p == 2 and (rows > _MANY_ROWS if by_product is None else by_product):
        return _euclidean_by_product(x1, x2)
    difference = ew.sub(unsqueeze(x1, -2), unsqueeze(x2, -3))
    if p == math.inf and not x1._data.shape[-1]:
        return reduction.sum(difference, -1)
    return _length(difference, p, -1)


def _euclidean_by_product(x1: Tensor, x2: Tensor) -> Tensor:
    lead = np.broadcast_shapes(x1._data.shape[:-2], x2._data.shape[:-2])
    a = expand(x1, *lead, *x1._data.shape[-2:])
    b = expand(x2, *lead, *x2._data.shape[-2:])
    squares = ew.add(
        reduction.sum(ew.square(a), -1, True),
        transpose(reduction.sum(ew.square(b), -1, True), -1, -2),
    )
    total = ew.sub(squares, ew.mul(linalg.matmul(a, transpose(b, -1, -2)), 2))
    # The root has no derivative at zero; torch takes 0 there.
    positive = ew.gt(total, 0)
    return ew.where(positive, ew.sqrt(ew.where(positive, total, 1)), 0)


@composite("RenormBackward0")
def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """`input` with the slices along `dim` whose p-norm is above `maxnorm` scaled down to it.

    Raises:
        RuntimeError: a vector, a norm that is not positive, a negative `maxnorm`, or integers.
    """
    require_tensors("renorm", input=(1, input))
    if p <= 0:
        raise RuntimeError("renorm: non-positive-norm not supported")
    if maxnorm < 0:
        raise RuntimeError(f"renorm: expected maxnorm to be >= 0 but got {maxnorm:g}")
    n = input._data.ndim
    if n < 2:
        raise RuntimeError(f"renorm: input needs at least 2 dimensions, got {n} dimensions")
    axis = canonical_dim(dim, n)
    if not input.is_floating_point():
        raise RuntimeError(
            "linalg.vector_norm: Expected a floating point or complex tensor as input. Got "
            f"{input.dtype.legacy_name}"
        )
    norms = reduction.norm(input, p, tuple(d for d in range(n) if d != axis), True)
    scale = ew.where(ew.gt(norms, maxnorm), ew.div(maxnorm, ew.add(norms, 1e-7)), 1)
    return ew.mul(input, scale)


@reported("aten::pairwise_distance")
def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of ``x1 - x2 + eps`` over the last dimension, broadcast: [..., D] -> [...]."""
    require_tensors("pairwise_distance", x1=(1, x1), x2=(2, x2))
    difference = ew.add(ew.sub(x1, x2), eps)
    if p == 0:
        length = _length(difference, p, -1)
        return unsqueeze(length, -1) if keepdim else length
    return reduction.norm(difference, p, -1, keepdim)


@reported("aten::cosine_similarity")
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """``x1 . x2 / (max(|x1|, eps) * max(|x2|, eps))`` over `dim`, broadcast.

    Raises:
        RuntimeError: both hold integers.
        IndexError: there is no such dimension.
    """
    require_tensors("cosine_similarity", x1=(1, x1), x2=(2, x2))
    common = promote_types(x1.dtype, x2.dtype)
    if not common.is_floating:
        raise RuntimeError(
            f"expected common dtype to be floating point, yet common dtype is {common.legacy_name}"
        )
    x, y = (to_dtype(t, common) for t in broadcast_tensors(x1, x2))
    unit = []
    for t in (x, y):
        length = reduction.norm(t, 2, dim, keepdim=True)
        # As in torch, the lower bound does not stop the gradient.
        bounded = length.clone()
        with no_grad():
            bounded.clamp_(min=eps)
        unit.append(ew.div(t, bounded))
    return reduction.sum(ew.mul(*unit), dim)


@composite("PdistBackward0")
def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm distances of all pairs of rows i < j: [N, M] -> [N * (N - 1) / 2]. Takes N * N * M memory.

    Raises:
        RuntimeError: `input` is no floating matrix, or `p` is negative.
    """
    require_tensors("pdist", input=(1, input))
    if input.dim() != 2:
        raise RuntimeError(f"pdist only supports 2D tensors, got: {input.dim()}D")
    if not input.is_floating_point():
        raise RuntimeError("pdist only supports floating-point dtypes")
    if p < 0:
        raise RuntimeError("pdist only supports non-negative p values")
    first, second = (make_tensor(i, None) for i in np.triu_indices(input._data.shape[0], 1))
    difference = ew.sub(index_select(input, 0, first), index_select(input, 0, second))
    return _length(difference, p, -1)
