"""Comparisons, and logic on bools and integers. None is differentiable."""

from __future__ import annotations

import numpy as np

from ..op import Op, broadcasting, pointwise
from ..types import TensorType, bool_
from .samples import BOOL, INTEGERS, NUMBERS, binary, unary


def _compared(x: TensorType, y: TensorType) -> TensorType:
    return TensorType(bool_, broadcasting(x, y).shape)


def _no_floats(*types: TensorType) -> TensorType:
    result = broadcasting(*types)
    if result.dtype.is_floating:
        raise TypeError(f"bitwise operations are not defined for {result.dtype}")
    return result


lt: Op = pointwise(
    "lt", operands=("x", "y"), eval=np.less, type_rule=_compared,
    lower=lambda s, x, y: s.lt(x, y), samples=binary(dtypes=NUMBERS),
)  # fmt: skip
le: Op = pointwise(
    "le", operands=("x", "y"), eval=np.less_equal, type_rule=_compared,
    lower=lambda s, x, y: s.le(x, y), samples=binary(dtypes=NUMBERS),
)  # fmt: skip
gt: Op = pointwise(
    "gt", operands=("x", "y"), eval=np.greater, type_rule=_compared,
    lower=lambda s, x, y: s.gt(x, y), samples=binary(dtypes=NUMBERS),
)  # fmt: skip
ge: Op = pointwise(
    "ge", operands=("x", "y"), eval=np.greater_equal, type_rule=_compared,
    lower=lambda s, x, y: s.ge(x, y), samples=binary(dtypes=NUMBERS),
)  # fmt: skip
eq: Op = pointwise(
    "eq", operands=("x", "y"), eval=np.equal, type_rule=_compared,
    lower=lambda s, x, y: s.eq(x, y), samples=binary(dtypes=(*NUMBERS, *BOOL)), commutative=True,
)  # fmt: skip
ne: Op = pointwise(
    "ne", operands=("x", "y"), eval=np.not_equal, type_rule=_compared,
    lower=lambda s, x, y: s.ne(x, y), samples=binary(dtypes=(*NUMBERS, *BOOL)), commutative=True,
)  # fmt: skip

bit_and: Op = pointwise(
    "bit_and", operands=("x", "y"), eval=np.bitwise_and, type_rule=_no_floats,
    lower=lambda s, x, y: s.bit_and(x, y), samples=binary(dtypes=(*INTEGERS, *BOOL)),
    commutative=True,
)  # fmt: skip
bit_or: Op = pointwise(
    "bit_or", operands=("x", "y"), eval=np.bitwise_or, type_rule=_no_floats,
    lower=lambda s, x, y: s.bit_or(x, y), samples=binary(dtypes=(*INTEGERS, *BOOL)),
    commutative=True,
)  # fmt: skip
bit_xor: Op = pointwise(
    "bit_xor", operands=("x", "y"), eval=np.bitwise_xor, type_rule=_no_floats,
    lower=lambda s, x, y: s.bit_xor(x, y), samples=binary(dtypes=(*INTEGERS, *BOOL)),
    commutative=True,
)  # fmt: skip
bit_not: Op = pointwise(
    "bit_not", operands=("x",), eval=np.invert, type_rule=_no_floats,
    lower=lambda s, x: s.bit_not(x), samples=unary(dtypes=(*INTEGERS, *BOOL)),
)  # fmt: skip
shift_left: Op = pointwise(
    "shift_left", operands=("x", "y"), eval=np.left_shift, type_rule=_no_floats,
    lower=lambda s, x, y: s.shift_left(x, y), samples=binary(0, 9, INTEGERS, right=(0, 5)),
)  # fmt: skip
shift_right: Op = pointwise(
    "shift_right", operands=("x", "y"), eval=np.right_shift, type_rule=_no_floats,
    lower=lambda s, x, y: s.shift_right(x, y), samples=binary(-99, 99, INTEGERS, right=(0, 5)),
)  # fmt: skip
