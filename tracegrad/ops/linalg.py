"""Products of vectors, matrices and batches of matrices."""

from __future__ import annotations

from typing import Any

from tracegrad.dispatch import apply, composite, shown_as
from tracegrad.grad_mode import state
from tracegrad.ir.op import registered
from tracegrad.ops import elementwise as ew
from tracegrad.ops.reduction import sum as _sum
from tracegrad.ops.shaping import permute, reshape, unsqueeze
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

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
            result = reshape(product, (*a._data.shape[:-1], b._data.shape[1]))
            shown_as(result, "UnsafeViewBackward0", product)
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
        result = shown_as(reshape(result, shape), "UnsafeViewBackward0", result)
    return result


def _vector_matrix(x: Tensor, y: Tensor) -> Tensor:
    n = y._data.shape[1]
    _check_dtypes(x, y)
    product = apply(_matmul, (unsqueeze(x, 0), y))
    return shown_as(reshape(product, n), "SqueezeBackward4", product)


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
    product = mm(mat1, mat2)
    scaled = product if alpha == 1 else ew.mul(product, alpha)
    return ew.add(input if beta == 1 else ew.mul(input, beta), scaled)


@reported("aten::outer")
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of elements of two vectors."""
    if input._data.ndim != 1 or vec2._data.ndim != 1:
        raise RuntimeError("outer: Expected 1-D argument")
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
    return reshape(product, (*input._data.shape[:-1], *other._data.shape[: n - 1]))
