"""Bringing arguments into canonical form: type promotion, dimensions, shapes, dtypes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.dispatch import apply
from tracegrad.ir.ops.selection import cast
from tracegrad.ir.types import DType, bool_, float64, from_numpy_dtype, int64, promote
from tracegrad.tensor import Tensor, default_float, make_tensor
from tracegrad.traced_number import is_traced

Number = (int, float, bool)


def is_number(value: Any) -> bool:
    """Whether a value counts as a Python number in an operation on tensors."""
    return isinstance(value, (int, float, np.generic))


def number_dtype(value: Any) -> DType:
    """The dtype as which a Python number takes part in promotion."""
    if isinstance(value, (bool, np.bool_)):
        return bool_
    if isinstance(value, (int, np.integer)):
        return int64
    return default_float()


def to_dtype(x: Tensor, dtype: DType) -> Tensor:
    """Convert; itself where the dtype is already this one."""
    return x if x.dtype is dtype else apply(cast, (x,), {"dtype": dtype})


def result_dtype(*operands: Any) -> DType:
    """torch's promotion: tensors with dimensions come before 0-d tensors, these before Python numbers.

    An operand of a later class counts only if its category (bool < integer < floating) is higher.
    """
    ranked: list[DType | None] = [None, None, None]
    for operand in operands:
        if isinstance(operand, Tensor):
            rank, dtype = (0 if operand._data.ndim else 1), operand.dtype
        elif is_number(operand):
            rank, dtype = 2, number_dtype(operand)
        else:
            raise TypeError(f"expected a Tensor or a number, but got {type(operand).__name__}")
        known = ranked[rank]
        ranked[rank] = dtype if known is None else promote(known, dtype)
    result: DType | None = None
    for dtype_or_none in ranked:
        if dtype_or_none is None:
            continue
        if result is None or dtype_or_none.category > result.category:
            # A floating number against integers becomes the default dtype.
            result = dtype_or_none
    assert result is not None
    return result


def common_operands(x: Any, y: Any, *, floating: bool = False) -> tuple[Any, Any]:
    """Two operands brought to their common dtype; Python numbers stay numbers where they fit.

    Args:
        floating: integers and bools become the default floating dtype (true division, sin, ...).

    Raises:
        TypeError: an operand is neither a Tensor nor a number.
    """
    x_is_tensor, y_is_tensor = isinstance(x, Tensor), isinstance(y, Tensor)
    if x_is_tensor and y_is_tensor:
        dtype = x._data.dtype
        if dtype is y._data.dtype and (dtype.kind == "f" or not floating):
            return x, y
    elif x_is_tensor or y_is_tensor:
        number, array = (y, x._data) if x_is_tensor else (x, y._data)
        if number.__class__ in (float, int) and array.dtype.kind == "f":
            return x, y
    common = result_dtype(x, y)
    if floating and not common.is_floating:
        common = default_float()
    return _as_operand(x, common), _as_operand(y, common)


def _as_operand(x: Any, dtype: DType) -> Any:
    if isinstance(x, Tensor):
        return to_dtype(x, dtype)
    if dtype.is_floating:
        return x if x.__class__ is float else x * 1.0 if is_traced(x) else float(x)
    followed = x.as_tensor(dtype) if is_traced(x) else None
    if followed is not None:
        return followed
    # Integers wrap, as in torch; a NumPy scalar keeps the dtype.
    return make_tensor(np.asarray(np.asarray(x).astype(dtype.np)), x)


def as_tensor_operand(x: Any, like: Tensor) -> Tensor:
    """A number as a 0-d tensor of the dtype of `like`; a Tensor as it is."""
    if isinstance(x, Tensor):
        return x
    followed = x.as_tensor(like.dtype) if is_traced(x) else None
    return make_tensor(np.asarray(x, like._data.dtype), x) if followed is None else followed


def floating(x: Tensor) -> Tensor:
    """Integers and bools converted to the default floating dtype."""
    return x if x._data.dtype.kind == "f" else to_dtype(x, default_float())


def require_tensors(function: str, **arguments: tuple[int, Any]) -> None:
    """Raise torch's TypeError unless all of these arguments, given as name=(position, value), are tensors."""
    for name, (position, value) in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{function}(): argument '{name}' (position {position}) must be Tensor, not "
                f"{type(value).__name__}"
            )


def canonical_dim(dim: int, ndim: int) -> int:
    """A dimension counted from the front.

    Raises:
        IndexError: it is out of range; 0-d tensors have dimensions -1 and 0, as in torch.
    """
    limit = max(ndim, 1)
    dim = operator.index(dim)
    if not -limit <= dim < limit:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-limit}, {limit - 1}], but got {dim})"
        )
    return dim + limit if dim < 0 else dim


def canonical_dims(dim: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Sorted dimensions to reduce over; all of them for None or an empty sequence."""
    if dim is None:
        return tuple(range(ndim))
    if dim.__class__ is int and -ndim <= dim < ndim:
        return (dim + ndim if dim < 0 else dim,)
    dims = (dim,) if isinstance(dim, (int, np.integer)) else tuple(dim)
    if not dims:
        return tuple(range(ndim))
    canonical = [canonical_dim(d, ndim) for d in dims]
    if len(set(canonical)) != len(canonical):
        raise RuntimeError(f"dim {canonical[0]} appears multiple times in the list of dims")
    return tuple(sorted(canonical)) if ndim else ()


def shape_from(args: tuple[Any, ...]) -> tuple[int, ...]:
    """A shape given as ``f(2, 3)`` or ``f((2, 3))``."""
    if len(args) == 1 and not isinstance(args[0], (int, np.integer, Tensor)):
        args = tuple(args[0])
    return tuple(operator.index(a) for a in args)


def shape_argument(
    function: str, name: str, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[int, ...]:
    """`shape_from` for a function that takes the shape by name as well.

    Raises:
        TypeError: in torch's words: it is missing, not made of integers, or there is another keyword.
    """
    unknown = next((key for key in named if key != name), None)
    if unknown is not None:
        raise TypeError(f"{function}() got an unexpected keyword argument '{unknown}'")
    if named and args:
        raise TypeError(f"{function}() got multiple values for argument '{name}'")
    if not args and not named:
        raise TypeError(f'{function}() missing 1 required positional arguments: "{name}"')
    given = (named[name],) if named else args
    if len(given) == 1 and not isinstance(given[0], (int, np.integer, Tensor)):
        if isinstance(given[0], (float, str)):
            raise TypeError(
                f"{function}(): argument '{name}' (position 1) must be tuple of ints, not "
                f"{type(given[0]).__name__}"
            )
        given = tuple(given[0])
    for position, extent in enumerate(given):
        if isinstance(extent, (float, str)):
            raise TypeError(
                f"{function}(): argument '{name}' (position 1) must be tuple of ints, but found element of "
                f"type {type(extent).__name__} at pos {position}"
            )
    return tuple(operator.index(n) for n in given)


def distinct_dims(dim: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """One dimension or several, counted from the front.

    Raises:
        RuntimeError: one of them appears twice.
    """
    dims = (dim,) if isinstance(dim, (int, np.integer)) else tuple(dim)
    canonical = tuple(canonical_dim(d, ndim) for d in dims)
    for d in canonical:
        if canonical.count(d) > 1:
            raise RuntimeError(f"dim {d} appears multiple times in the list of dims")
    return canonical


def new_shape(args: tuple[Any, ...]) -> tuple[int, ...]:
    """`shape_from` for a tensor that is to be made: no extent is negative."""
    shape = shape_from(args)
    if any(n < 0 for n in shape):
        raise RuntimeError(
            f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}"
        )
    return shape


def resolve_dtype(dtype: Any) -> DType | None:
    """A dtype argument: ours, Python's ``float``/``int``/``bool``, or None."""
    if dtype is None or isinstance(dtype, DType):
        return dtype
    builtin = {float: float64, int: int64, bool: bool_}.get(dtype)
    if builtin is not None:
        return builtin
    try:
        if isinstance(dtype, str):
            raise TypeError
        return from_numpy_dtype(np.dtype(dtype))
    except TypeError:
        raise TypeError(f"dtype must be a tracegrad dtype, but got {dtype!r}") from None
