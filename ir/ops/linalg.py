"""Matrix products."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..batching import batch_product
from ..lowering import Expansion, Special
from ..op import Op, bilinear, broadcasting, primitive
from ..types import TensorType, broadcast_shapes
from .arithmetic import add
from .samples import with_attrs
from .shape import broadcast_in_dim, swap_last


def _product(x: TensorType, y: TensorType) -> TensorType:
    if x.dtype is not y.dtype:
        raise RuntimeError(
            f"expected m1 and m2 to have the same dtype, but got: {x.dtype} != {y.dtype}"
        )
    (m, k), (rows, n) = x.shape[-2:], y.shape[-2:]
    if k != rows:
        if x.ndim == y.ndim == 2:
            raise RuntimeError(
                f"mat1 and mat2 shapes cannot be multiplied ({m}x{k} and {rows}x{n})"
            )
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [{x.shape[0]}, {k}] "
            f"but got: [{y.shape[0]}, {rows}]."
        )
    return TensorType(x.dtype, (*broadcast_shapes(x.shape[:-2], y.shape[:-2]), m, n))


def _left_cotangent(ct: Any, y: Any, x_type: TensorType) -> Any:
    """The cotangent of x in ``x @ y``, laid out as x is."""
    if x_type.by_columns:
        return swap_last(matmul(y, swap_last(ct)))
    return matmul(ct, swap_last(y))


def _right_cotangent(ct: Any, x: Any, y_type: TensorType) -> Any:
    """The cotangent of y in ``x @ y``, laid out as y is."""
    if y_type.by_columns:
        return swap_last(matmul(swap_last(ct), x))
    return matmul(swap_last(x), ct)


# Operands have rank 2 at least; leading axes are batch axes and broadcast.
matmul: Op = bilinear(
    "matmul",
    eval=np.matmul,
    type_rule=_product,
    lhs=_left_cotangent,
    rhs=_right_cotangent,
    batch=batch_product,
    lower=Special("matmul"),
    samples=with_attrs(
        [
            ([(2, 3), (3, 4)], {}),
            ([(1, 5), (5, 1)], {}),
            ([(2, 0), (0, 3)], {}),
            ([(0, 2), (2, 3)], {}),
            ([(5, 2, 3), (5, 3, 4)], {}),
            ([(5, 2, 3), (3, 4)], {}),
            ([(2, 1, 2, 3), (3, 3, 2)], {}),
            ([(17, 33), (33, 9)], {}),
        ],
    ),
)


def _sum_with_product(input: TensorType, x: TensorType, y: TensorType) -> TensorType:
    product = _product(x, y)
    result = broadcasting(input, product)
    if result != product:
        raise RuntimeError(
            f"The expanded size of the tensor ({product.shape}) must match the existing size ({input.shape})"
        )
    return result


def _evaluate_sum(input: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    total = np.matmul(x, y)
    total += input
    return total


def _push_sum(tangents: Any, out: Any, operands: Any) -> Any:
    (_, x, y), (first, left, right) = operands, tangents
    terms = [] if left is None else [matmul(left, y)]
    if right is not None:
        terms.append(matmul(x, right))
    if not terms:
        dims = tuple(range(out.ndim - first.ndim, out.ndim))
        return broadcast_in_dim(first, shape=tuple(out.shape), dims=dims)
    if first is not None:
        terms.append(first)
    return functools.reduce(add, terms)


def _batch_sum(op: Op, size: int, operands: Any, batched: Any, attrs: dict[str, Any]) -> Any:
    input, x, y = operands
    stacked = batched[1] or batched[2]
    product = matmul.batch(size, (x, y), batched[1:], {}) if stacked else matmul(x, y)
    return add.batch(size, (input, product), (batched[0], stacked), {})


# input + x @ y as one record: what a layer is in eager code. Native code has the product and the sum.
addmm: Op = primitive(
    "addmm",
    operands=("input", "x", "y"),
    eval=_evaluate_sum,
    type_rule=_sum_with_product,
    vjps=(lambda ct: ct, _left_cotangent, _right_cotangent),
    jvp=_push_sum,
    batch=_batch_sum,
    lower=Expansion(lambda input, x, y: add(input, matmul(x, y))),
    samples=with_attrs(
        [
            ([(3,), (4, 2), (2, 3)], {}),
            ([(4, 3), (4, 2), (2, 3)], {}),
            ([(1, 3), (4, 2), (2, 3)], {}),
            ([(), (4, 0), (0, 3)], {}),
        ],
    ),
)
