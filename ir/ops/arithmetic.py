"""Arithmetic and rounding, element by element."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..batching import extents, shifted
from ..op import Op, floating, pointwise, primitive
from ..types import TensorType
from .comparison import eq, gt, le, lt
from .samples import NUMBERS, binary, unary
from .selection import where

# The operand gives dtype and value domain (array, Tensor or node); its elements are not looked at.
# So there is no derivative, not even a zero one.
zeros: Op = primitive(
    "zeros",
    eval=lambda x, shape: np.zeros(shape, np.asarray(x).dtype),
    type_rule=lambda x, *, shape: TensorType(x.dtype, shape),
    vjps=(None,),
    jvp=lambda tangents, out, operands, *, shape: None,
    attrs=("shape",),
    batch=shifted(shape=extents),
    samples=unary(shape=(2, 3)),
)


neg: Op = pointwise(
    "neg",
    eval=np.negative,
    partials=(lambda: -1,),
    lower=lambda s, x: s.neg(x),
    samples=unary(dtypes=NUMBERS),
)
add: Op = pointwise(
    "add",
    eval=np.add,
    partials=(lambda: 1, lambda: 1),
    lower=lambda s, x, y: s.add(x, y),
    samples=binary(dtypes=NUMBERS),
    commutative=True,
)
sub: Op = pointwise(
    "sub",
    eval=np.subtract,
    partials=(lambda: 1, lambda: -1),
    lower=lambda s, x, y: s.sub(x, y),
    samples=binary(dtypes=NUMBERS),
)
mul: Op = pointwise(
    "mul",
    eval=np.multiply,
    partials=(lambda y: y, lambda x: x),
    lower=lambda s, x, y: s.mul(x, y),
    samples=binary(dtypes=NUMBERS),
    commutative=True,
)
div: Op = pointwise(
    "div",
    eval=np.true_divide,
    # Reading the result would be cheaper, but the result may be changed in place: `z = x / y; z += 1`.
    # By the op: the operator of a Tensor makes a product with the reciprocal of ``number / y``.
    partials=(lambda ct, y: ct / y, lambda ct, x, y: -ct * (div(x, y) / y)),
    type_rule=floating,
    lower=lambda s, x, y: s.div(x, y),
    samples=binary(right=(0.5, 2.0)),
)


def _integer_division(ufunc: Any) -> Any:
    """The ufunc, but integer division by zero raises what torch raises."""

    def evaluate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        integers = np.asarray(x).dtype.kind in "iu" and np.asarray(y).dtype.kind in "iu"
        if integers and not np.all(y):
            raise RuntimeError("ZeroDivisionError")
        return ufunc(x, y)

    return evaluate


floor_div: Op = pointwise(
    "floor_div",
    eval=_integer_division(np.floor_divide),
    partials=(lambda: 0, lambda: 0),
    lower=lambda s, x, y: s.floor_div(x, y),
    samples=binary(dtypes=NUMBERS, right=(1, 3)),
)
remainder: Op = pointwise(
    "remainder",
    eval=_integer_division(np.remainder),
    partials=(lambda: 1, lambda ct, x, y: -ct * floor_div(x, y)),
    lower=lambda s, x, y: s.remainder(x, y),
    samples=binary(dtypes=NUMBERS, right=(1, 3)),
)
fmod: Op = pointwise(
    "fmod",
    eval=_integer_division(np.fmod),
    partials=(lambda: 1, lambda ct, x, y: -ct * trunc(x / y)),
    lower=lambda s, x, y: s.fmod(x, y),
    samples=binary(dtypes=NUMBERS, right=(1, 3)),
)

# Steps have derivative zero wherever they have one; torch returns zeros, not None.
floor: Op = pointwise(
    "floor", eval=np.floor, partials=(lambda: 0,), lower=lambda s, x: s.floor(x), samples=unary()
)
ceil: Op = pointwise(
    "ceil", eval=np.ceil, partials=(lambda: 0,), lower=lambda s, x: s.ceil(x), samples=unary()
)
trunc: Op = pointwise(
    "trunc", eval=np.trunc, partials=(lambda: 0,), lower=lambda s, x: s.trunc(x), samples=unary()
)
round_: Op = pointwise(
    "round", eval=np.rint, partials=(lambda: 0,), lower=lambda s, x: s.rint(x), samples=unary()
)


def _sign(x: np.ndarray) -> np.ndarray:
    """NumPy's sign, but 0 for NaN as torch has it."""
    result = np.sign(x)
    return np.where(np.isnan(x), x.dtype.type(0), result) if x.dtype.kind == "f" else result


sign: Op = pointwise(
    "sign",
    eval=_sign,
    partials=(lambda: 0,),
    lower=lambda s, x: s.sign(x),
    samples=unary(dtypes=NUMBERS),
)
abs_: Op = pointwise(
    "abs",
    eval=np.absolute,
    partials=(lambda x: sign(x),),
    lower=lambda s, x: s.abs(x),
    samples=unary(dtypes=NUMBERS),
)

# At a tie both operands get half of the cotangent, as in torch.
maximum: Op = pointwise(
    "maximum",
    eval=np.maximum,
    partials=(
        lambda ct, x, y: where(eq(x, y), ct * 0.5, where(gt(x, y), ct, 0.0)),
        lambda ct, x, y: where(eq(x, y), ct * 0.5, where(lt(x, y), ct, 0.0)),
    ),
    lower=lambda s, x, y: s.maximum(x, y),
    samples=binary(dtypes=NUMBERS),
)
minimum: Op = pointwise(
    "minimum",
    eval=np.minimum,
    partials=(
        lambda ct, x, y: where(eq(x, y), ct * 0.5, where(lt(x, y), ct, 0.0)),
        lambda ct, x, y: where(eq(x, y), ct * 0.5, where(gt(x, y), ct, 0.0)),
    ),
    lower=lambda s, x, y: s.minimum(x, y),
    samples=binary(dtypes=NUMBERS),
)
# At 0 the derivative is 0, as in torch; NaN stays, and so does its cotangent. -0.0 stays as well.
relu: Op = pointwise(
    "relu",
    eval=lambda x: np.maximum(0, x),
    partials=(lambda ct, out: where(le(out, 0), 0.0, ct),),
    lower=lambda s, x: s.select(s.lt(x, s.like(0, x)), s.like(0, x), x),
    samples=unary(dtypes=NUMBERS),
)
