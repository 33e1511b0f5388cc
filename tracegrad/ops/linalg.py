"""Products of vectors, matrices and batches of matrices."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from tracegrad.dispatch import apply, composite, shown_as
from tracegrad.grad_mode import state
from tracegrad.ir.op import registered
from tracegrad.ops import elementwise as ew
from tracegrad.ops.arguments import canonical_dim
from tracegrad.ops.reduction import sum as _sum
from tracegrad.ops.shaping import expand, permute, reshape, roll, unsqueeze
from tracegrad.ownership import disowned
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, make_tensor

_matmul = registered("matmul")
_addmm = registered("addmm")


def _check_dtypes(x: Tensor, y: Tensor) -> None:
    if x._data.dtype != y._data.dtype:
        names = {"f32": "float", "f64": "double", "i64": "long int", "i32": "int"}
        a, b = (names.get(v.dtype.name, v.dtype.name) for v in (x, y))
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {a} != {b}")


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product with torch's rules for vectors (inner, vector-matrix) and batches (broadcast).

    Raises:
        RuntimeError: the inner extents differ, the dtypes differ, or an operand is 0-d.
    """
    for position, x in enumerate((input, other), 1):
        if not isinstance(x, Tensor):
            raise TypeError(
                f"matmul(): argument '{('input', 'other')[position - 1]}' (position {position}) must be "
                f"Tensor, not {type(x).__name__}"
            )
    return _product(input, other)


def _product(x: Tensor, y: Tensor) -> Tensor:
    m, n = x._data.ndim, y._data.ndim
    if not m or not n:
        raise RuntimeError(
            f"both arguments to matmul need to be at least 1D, but they are {m}D and {n}D"
        )
    if m == n == 2:
        _check_dtypes(x, y)
        return apply(_matmul, (x, y))
    if m == n == 1:
        return dot(x, y)
    if m == 1 and n == 2:
        return _vector_matrix(x, y)
    if m == 2 and n == 1:
        return mv(x, y)
    return _batched(x, y)


def _batched(x: Tensor, y: Tensor) -> Tensor:
    _check_dtypes(x, y)
    a = unsqueeze(x, 0) if x._data.ndim == 1 else x
    b = unsqueeze(y, 1) if y._data.ndim == 1 else y
    if a._data.ndim > 2 and b._data.ndim == 2 and a._data.shape[-1] == b._data.shape[0]:
        # One large product instead of many small ones.
        flat = reshape(a, -1, a._data.shape[-1]) if a._data.size else None
        if flat is not None:
            product = apply(_matmul, (flat, b))
            result = _unsafe_view(product, (*a._data.shape[:-1], b._data.shape[1]))
        else:
            result = apply(_matmul, (a, b))
    else:
        result = apply(_matmul, (a, b))
    shape = result._data.shape
    if x._data.ndim == 1:
        shape = (*shape[:-2], shape[-1])
    if y._data.ndim == 1:
        shape = shape[:-1]
    if shape != result._data.shape:
        result = _unsafe_view(result, shape)
    return result


def _unsafe_view(product: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A result in another shape, and no view of it: nobody else has it."""
    return disowned(shown_as(reshape(product, shape), "UnsafeViewBackward0", product))


def _vector_matrix(x: Tensor, y: Tensor) -> Tensor:
    n = y._data.shape[1]
    _check_dtypes(x, y)
    product = apply(_matmul, (unsqueeze(x, 0), y))
    return disowned(shown_as(reshape(product, n), "SqueezeBackward4", product))


@composite("MvBackward0")
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """Matrix times vector."""
    if input._data.ndim != 2 or vec._data.ndim != 1:
        raise RuntimeError(
            f"vector + matrix @ vector expected, got {vec._data.ndim}, {input._data.ndim}, {vec._data.ndim}"
        )
    m, k = input._data.shape
    if k != vec._data.shape[0]:
        raise RuntimeError(
            f"size mismatch, got input ({m}), mat ({m}x{k}), vec ({vec._data.shape[0]})"
        )
    _check_dtypes(input, vec)
    return reshape(apply(_matmul, (input, unsqueeze(vec, 1))), m)


@composite("DotBackward0")
def dot(input: Tensor, other: Tensor) -> Tensor:
    """The inner product of two vectors."""
    if input._data.ndim != 1 or other._data.ndim != 1:
        raise RuntimeError(
            f"1D tensors expected, but got {input._data.ndim}D and {other._data.ndim}D tensors"
        )
    if input._data.shape != other._data.shape:
        raise RuntimeError(
            "inconsistent tensor size, expected tensor "
            f"{list(input.shape)} and src {list(other.shape)} to have the same number of elements, but got "
            f"{input._data.size} and {other._data.size} elements respectively"
        )
    if input._data.dtype != other._data.dtype:
        raise RuntimeError(
            f"dot : expected both vectors to have same dtype, but found {input.type()[6:-6]} and "
            f"{other.type()[6:-6]}"
        )
    return _sum(ew.mul(input, other), dtype=input.dtype)


@composite("VdotBackward0")
def vdot(input: Tensor, other: Tensor) -> Tensor:
    """The inner product of two vectors."""
    return dot(input, other)


@reported("aten::mm")
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices.

    Raises:
        RuntimeError: an operand is not a matrix, or the inner extents differ.
    """
    if input._data.ndim != 2:
        raise RuntimeError("self must be a matrix")
    if mat2._data.ndim != 2:
        raise RuntimeError("mat2 must be a matrix")
    return matmul(input, mat2)


@reported("aten::bmm")
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two batches of matrices."""
    if input._data.ndim != 3:
        raise RuntimeError("batch1 must be a 3D tensor")
    if mat2._data.ndim != 3:
        raise RuntimeError("batch2 must be a 3D tensor")
    if input._data.shape[0] != mat2._data.shape[0] or input._data.shape[2] != mat2._data.shape[1]:
        b, _, k = input._data.shape
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [{b}, {k}] but got: "
            f"[{mat2._data.shape[0]}, {mat2._data.shape[1]}]."
        )
    return shown_as(apply(_matmul, (input, mat2)), "BmmBackward0", input, mat2)


def _plus_product(input: Tensor, product: Tensor, beta: Any, alpha: Any) -> Tensor:
    """``beta * input + alpha * product``, where for ``beta = 0`` infinities and NaN of `input` do not count.

    Raises:
        RuntimeError: `input` does not broadcast to the shape of the product.
    """
    shape = product._data.shape
    start = input if input._data.shape == shape else expand(input, shape)
    if beta == 0:
        start = ew.where(make_tensor(np.zeros(shape, bool), None), start, 0)
    elif beta != 1:
        start = ew.mul(start, beta)
    return ew.add(start, product if alpha == 1 else ew.mul(product, alpha))


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * (mat1 @ mat2)``."""
    if not state.watched and beta == 1 and alpha == 1 and _is_plain_sum(input, mat1, mat2):
        return apply(_addmm, (input, mat1, mat2))
    return _addmm_in_steps(input, mat1, mat2, beta=beta, alpha=alpha)


def _is_plain_sum(input: Tensor, mat1: Tensor, mat2: Tensor) -> bool:
    """Whether these are a row, or a matrix of the result's shape, and two floating matrices that fit together."""
    c, x, y = input._data, mat1._data, mat2._data
    dtype = x.dtype
    return (
        x.ndim == y.ndim == 2
        and dtype.kind == "f"
        and dtype is y.dtype is c.dtype
        and x.shape[1] == y.shape[0]
        and (c.shape == y.shape[1:] or c.shape == (x.shape[0], y.shape[1]))
    )


@composite("AddmmBackward0")
def _addmm_in_steps(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any, alpha: Any) -> Tensor:
    return _plus_product(input, mm(mat1, mat2), beta, alpha)


@composite("AddbmmBackward0")
def addbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Tensor:
    """``beta * input + alpha * (batch1 @ batch2).sum(0)``."""
    for number, x in enumerate((batch1, batch2), 1):
        if x._data.ndim != 3:
            raise RuntimeError(f"batch{number} must be a 3D tensor")
    m, n = batch1._data.shape[0], batch2._data.shape[0]
    if m != n:
        raise RuntimeError(f"batch1 and batch2 must have same number of batches, got {m} and {n}")
    # One product, whose inner dimension holds the batches.
    b, rows, inner = batch1._data.shape
    wide = reshape(permute(batch1, 1, 0, 2), (rows, b * inner))
    if batch2._data.shape[1] != inner:
        raise RuntimeError(
            f"Incompatible matrix sizes for bmm ({rows}x{inner} and {batch2._data.shape[1]}x"
            f"{batch2._data.shape[2]})"
        )
    tall = reshape(batch2, (b * inner, batch2._data.shape[2]))
    return _plus_product(input, mm(wide, tall), beta, alpha)


@composite("BaddbmmBackward0")
def baddbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Tensor:
    """``beta * input + alpha * (batch1 @ batch2)``, for each matrix of the batches."""
    return _plus_product(input, bmm(batch1, batch2), beta, alpha)


@composite("AddmvBackward0")
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * (mat @ vec)``."""
    if mat._data.ndim != 2 or vec._data.ndim != 1 or input._data.ndim > 1:
        raise RuntimeError(
            f"vector + matrix @ vector expected, got {input._data.ndim}, {mat._data.ndim}, {vec._data.ndim}"
        )
    m, k = mat._data.shape
    if vec._data.shape[0] != k or (input._data.size != 1 and input._data.size != m):
        raise RuntimeError(
            f"size mismatch, got input ({input._data.size}), mat ({m}x{k}), vec ({vec._data.shape[0]})"
        )
    return _plus_product(input, mv(mat, vec), beta, alpha)


@composite("AddrBackward0")
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * outer(vec1, vec2)``."""
    for number, x in enumerate((vec1, vec2), 1):
        if x._data.ndim != 1:
            raise RuntimeError(f"addr: Expected 1-D argument vec{number}, but got {x._data.ndim}-D")
    return _plus_product(input, outer(vec1, vec2), beta, alpha)


@reported("aten::linalg_cross")
def linalg_cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """The cross products of vectors of three elements along `dim`, as ``torch.linalg.cross``.

    Raises:
        RuntimeError: the ranks differ, or the extent of `dim` is not 3.
    """
    if input._data.ndim != other._data.ndim:
        raise RuntimeError("linalg.cross: inputs must have the same number of dimensions.")
    axis = canonical_dim(dim, input._data.ndim)
    m, n = input._data.shape[axis], other._data.shape[axis]
    if m != 3 or n != 3:
        raise RuntimeError(
            f"linalg.cross: inputs dimension {dim} must have length 3. Got {m} and {n}"
        )
    if input._data.dtype != other._data.dtype:
        raise RuntimeError(
            f"expected scalar type {input.dtype.legacy_name} but found {other.dtype.legacy_name}"
        )
    return _cross(input, other, axis)


@composite("LinalgCrossBackward0")
def _cross(x: Tensor, y: Tensor, axis: int) -> Tensor:
    # (x1 y2 - x2 y1, x2 y0 - x0 y2, x0 y1 - x1 y0)
    once, twice = (-1, -2)
    left = ew.mul(roll(x, once, axis), roll(y, twice, axis))
    return ew.sub(left, ew.mul(roll(x, twice, axis), roll(y, once, axis)))


@reported("aten::cross")
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """`linalg_cross`, by default along the first dimension of extent 3."""
    if dim is None:
        found = [d for d, n in enumerate(input._data.shape) if n == 3]
        if not found:
            raise RuntimeError("no dimension of size 3 in input")
        warnings.warn(
            "Using torch.cross without specifying the dim arg is deprecated.\nPlease either pass the dim "
            "explicitly or simply use torch.linalg.cross.\nThe default value of dim will change to agree with "
            "that of linalg.cross in a future release.",
            UserWarning,
            stacklevel=3,
        )
        dim = found[0]
    return linalg_cross(input, other, dim=dim)


@reported("aten::linalg_vecdot")
def vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """The inner products of vectors along `dim`, as ``torch.linalg.vecdot``."""
    if x._data.dtype.kind != "f":
        raise RuntimeError(
            f"linalg.vecdot: Expected a floating point or complex tensor as input. Got {x.dtype.legacy_name}"
        )
    if x._data.dtype != y._data.dtype:
        raise RuntimeError(
            "linalg.vecdot: Expected x and y to have the same dtype, but found x of type "
            f"{x.dtype.legacy_name} and y of type {y.dtype.legacy_name} instead"
        )
    return dot(x, y) if x._data.ndim == y._data.ndim == 1 else _sum(ew.mul(x, y), dim)


@reported("aten::outer")
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of elements of two vectors."""
    for name, x in (("self", input), ("vec2", vec2)):
        if x._data.ndim != 1:
            raise RuntimeError(f"outer: Expected 1-D argument {name}, but got {x._data.ndim}-D")
    return ew.mul(reshape(input, -1, 1) if input._data.size else unsqueeze(input, 1), vec2)


ger = outer


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last dimension of both."""
    if not input._data.ndim or not other._data.ndim:
        return ew.mul(input, other)
    if input._data.ndim == other._data.ndim == 1:
        return dot(input, other)
    n = other._data.ndim
    flat = reshape(other, -1, other._data.shape[-1])
    product = matmul(input, permute(flat, 1, 0))
    return disowned(reshape(product, (*input._data.shape[:-1], *other._data.shape[: n - 1])))
