"""What functions of matrices demand of their arguments, and how the results of their ops are taken apart.

A matrix is in the last two dimensions; those before are batch dimensions. Used by :mod:`.solution`,
:mod:`.factorization` and :mod:`.norms`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracegrad.dispatch import apply
from tracegrad.ir.errors import LinAlgError
from tracegrad.ir.op import Op, registered
from tracegrad.ir.types import int32
from tracegrad.ops import elementwise as ew
from tracegrad.ops.creation import eye, zeros
from tracegrad.ops.shaping import expand, transpose
from tracegrad.tensor import Tensor, make_tensor

_slice = registered("slice")
_copy = registered("copy")
_reshape = registered("reshape")


def check_matrix(x: Any, name: str, which: str = "A") -> None:
    """Raise torch's error unless `x` is a tensor of at least two dimensions."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name.replace('.', '_')}(): argument '{which}' (position 1) must be Tensor, not {type(x).__name__}"
        )
    if x._data.ndim < 2:
        raise RuntimeError(f"{name}: The input tensor {which} must have at least 2 dimensions.")


def check_floating(x: Tensor, name: str) -> None:
    """Raise torch's error unless `x` holds floats."""
    if x._data.dtype.kind != "f":
        raise RuntimeError(
            f"{name}: Expected a floating point or complex tensor as input. Got {x.dtype.legacy_name}"
        )


def check_square(x: Any, name: str, which: str = "A") -> None:
    """Raise torch's error unless `x` holds square matrices."""
    check_matrix(x, name, which)
    m, n = x._data.shape[-2:]
    if m != n:
        raise RuntimeError(
            f"{name}: {which} must be batches of square matrices, but they are {m} by {n} matrices"
        )


def check_square_floats(x: Any, name: str) -> None:
    """`check_square` and `check_floating`."""
    check_square(x, name)
    check_floating(x, name)


def check_same_dtype(x: Tensor, y: Tensor, name: str, which: str = "A and B") -> None:
    """Raise torch's error unless two tensors have one dtype."""
    if x._data.dtype != y._data.dtype:
        first, _, second = which.split()
        raise RuntimeError(
            f"{name}: Expected {which} to have the same dtype, but found {first} of type {x.dtype.legacy_name} and "
            f"{second} of type {y.dtype.legacy_name} instead"
        )


def turned(x: Tensor) -> Tensor:
    """The transposed matrices."""
    return transpose(x, -2, -1)


def part_of(
    packed: Tensor, axis: int, begin: int, end: int, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Some rows, columns or elements of what an op has packed together, in memory of their own.

    Args:
        shape: of the result, if it has fewer dimensions.
    """
    extents = packed._data.shape
    axis %= len(extents)
    start = tuple(begin if d == axis else 0 for d in range(len(extents)))
    limit = tuple(end if d == axis else n for d, n in enumerate(extents))
    part = apply(_slice, (packed,), {"start": start, "limit": limit, "stride": (1,) * len(extents)})
    if shape is not None:
        part = apply(_reshape, (part,), {"shape": shape})
    return apply(_copy, (part,))


def _infos(A: Tensor, find: Any) -> np.ndarray:
    """For each matrix of a batch what `find` says of it."""
    data = A._data
    flat = data.reshape(-1, *data.shape[-2:])
    return np.array([find(matrix) for matrix in flat], np.int32).reshape(data.shape[:-2])


def attempt(
    op: Op, operands: tuple[Tensor, ...], find: Any, check: bool, matrices: Tensor
) -> tuple[Tensor, Tensor]:
    """The result of an op and for each of the matrices 0, or where it failed; such results are NaN.

    Args:
        op, operands: the first of the operands holds the matrices, maybe with more batch dimensions.
        find: says of a matrix where it is bad, counted from 1.

    Raises:
        LinAlgError: one failed, and that is to be checked.
    """
    x = operands[0]
    try:
        result = apply(op, operands)
    except LinAlgError as error:
        if check:
            raise LinAlgError(str(error).replace(":", "_ex:", 1)) from None
    else:
        return result, zeros(matrices._data.shape[:-2], dtype=int32)
    info = _infos(matrices, find)
    failed = make_tensor((info != 0)[..., None, None], info)
    harmless = ew.where(failed, eye(x._data.shape[-1], dtype=x.dtype), x)
    result = apply(op, (harmless, *operands[1:]))
    return ew.where(failed, math.nan, result), make_tensor(info, info)


def with_batch(x: Tensor, lead: tuple[int, ...]) -> Tensor:
    """Matrices expanded to these batch dimensions."""
    shape = (*lead, *x._data.shape[-2:])
    return x if x._data.shape == shape else expand(x, shape)
