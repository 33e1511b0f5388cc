"""A ScalarBuilder whose scalars are NumPy arrays: it evaluates a lowering instead of making code of it.

Functions that NumPy lacks are written once, in the words of :mod:`.scalar`; :func:`on_arrays` makes their NumPy
evaluation of that. Only the words that such formulas use are here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .types import DType, from_numpy_dtype


class ArrayBuilder:
    """Evaluates the words of a ScalarBuilder on arrays; ``call`` knows the functions that NumPy has."""

    add = staticmethod(np.add)
    sub = staticmethod(np.subtract)
    mul = staticmethod(np.multiply)
    div = staticmethod(np.true_divide)
    neg = staticmethod(np.negative)
    abs = staticmethod(np.absolute)
    copysign = staticmethod(np.copysign)
    minimum = staticmethod(np.minimum)
    maximum = staticmethod(np.maximum)
    floor = staticmethod(np.floor)
    rint = staticmethod(np.rint)
    sqrt = staticmethod(np.sqrt)
    lt = staticmethod(np.less)
    le = staticmethod(np.less_equal)
    gt = staticmethod(np.greater)
    ge = staticmethod(np.greater_equal)
    eq = staticmethod(np.equal)
    ne = staticmethod(np.not_equal)
    select = staticmethod(np.where)
    bit_and = staticmethod(np.logical_and)
    bit_or = staticmethod(np.logical_or)

    @staticmethod
    def dtype_of(x: Any) -> DType:
        return from_numpy_dtype(x.dtype)

    @staticmethod
    def like(value: float, x: Any) -> Any:
        return x.dtype.type(value)

    @staticmethod
    def cast(x: Any, dtype: DType) -> Any:
        return x.astype(dtype.np, copy=False)

    @staticmethod
    def fma(x: Any, y: Any, z: Any) -> Any:
        return x * y + z

    @staticmethod
    def call(function: str, *operands: Any) -> Any:
        return _FUNCTIONS[function](*operands)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "sin": np.sin,
    "cos": np.cos,
    "pow": np.power,
}


def on_arrays(lower: Callable[..., Any]) -> Callable[..., Any]:
    """The NumPy evaluation of a pointwise op of floats, by its lowering."""

    def evaluate(*operands: Any, **attrs: Any) -> Any:
        dtype = next(x.dtype for x in operands if hasattr(x, "dtype"))
        return lower(ArrayBuilder, *(np.asarray(x, dtype) for x in operands), **attrs)

    return evaluate
