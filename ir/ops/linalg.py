"""Matrix products."""

from __future__ import annotations

import numpy as np

from ..batching import batch_product
from ..lowering import Special
from ..op import Op, bilinear
from ..types import TensorType, broadcast_shapes
from .samples import with_attrs
from .shape import swap_last


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


# Operands have rank 2 at least; leading axes are batch axes and broadcast.
matmul: Op = bilinear(
    "matmul",
    eval=np.matmul,
    type_rule=_product,
    lhs=lambda ct, y: matmul(ct, swap_last(y)),
    rhs=lambda ct, x: matmul(swap_last(x), ct),
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
