"""Functions that reduce or scan along dimensions."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import tracegrad
from tracegrad.dispatch import apply, composite, shown_as
from tracegrad.ir.op import Op, registered
from tracegrad.ir.types import DType, bool_, int64
from tracegrad.ops import elementwise as ew
from tracegrad.ops.arguments import (
    canonical_dim,
    canonical_dims,
    floating,
    resolve_dtype,
    shape_from,
    to_dtype,
)
from tracegrad.ops.shaping import reshape
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

Dims = int | Sequence[int] | None

_sum = registered("sum")
_div = registered("div")
_max = registered("max")
_min = registered("min")
_gather = registered("gather")
_reshape = registered("reshape")
_softmax = registered("softmax")
_log_softmax = registered("log_softmax")


def sum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum over `dim` (all dimensions by default). Integers and bools add up as int64."""
    target = resolve_dtype(dtype)
    if target is None and input._data.dtype.kind != "f":
        target = int64
    x = input if target is None else to_dtype(input, target)
    axes = canonical_dims(dim, x._data.ndim)
    result = apply(_sum, (x,), {"axis": axes, "keepdims": bool(keepdim)})
    if dim is not None and result._requires_grad:
        shown_as(
            result, "SumBackward1", input,
            dim=axes, keepdim=bool(keepdim), self_sym_sizes=tuple(input._data.shape),
        )  # fmt: skip
    return result


def _count(input: Tensor, axes: tuple[int, ...]) -> int:
    return math.prod(input._data.shape[a] for a in axes)


@reported("aten::mean")
def mean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The arithmetic mean over `dim`.

    Raises:
        RuntimeError: integers without a floating `dtype`.
    """
    target = resolve_dtype(dtype)
    x = input if target is None else to_dtype(input, target)
    if not x.is_floating_point():
        word = x.dtype.legacy_name
        raise RuntimeError(
            "mean(): could not infer output dtype. Input dtype must be either a floating point or "
            f"complex dtype. Got: {word}"
        )
    axes = canonical_dims(dim, x._data.ndim)
    count = _count(x, axes)
    total = apply(_sum, (x,), {"axis": axes, "keepdims": bool(keepdim)})
    result = apply(_div, (total, float(count))) if count else ew.mul(total, math.nan)
    if not result._requires_grad:
        return result
    shape = tuple(input._data.shape)
    kept = {"self_sym_sizes": shape, "self_sym_numel": math.prod(shape)}
    if dim is None:
        return shown_as(result, "MeanBackward0", input, **kept)
    return shown_as(result, "MeanBackward1", input, dim=axes, keepdim=bool(keepdim), **kept)


@composite("NansumBackward0")
def nansum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum with NaN counted as zero."""
    return sum(ew.where(ew.isnan(input), 0, input), dim, keepdim, dtype=dtype)


@reported("aten::nanmean")
def nanmean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean of the elements that are not NaN.

    Raises:
        RuntimeError: integers.
    """
    if not input.is_floating_point():
        raise RuntimeError(
            "nanmean(): expected input to have floating point or complex dtype but got "
            f"{input.dtype.legacy_name}"
        )
    count = sum(ew.logical_not(ew.isnan(input)), dim, keepdim)
    return ew.div(nansum(input, dim, keepdim, dtype=dtype), count)


@reported("aten::sum_to_size")
def sum_to_size(input: Tensor, *size: Any) -> Tensor:
    """The sum over dimensions such that the result has this size, which must be expandable to that of `input`.

    Raises:
        RuntimeError: it is not.
    """
    target, shape = shape_from(size), input._data.shape
    lead = len(shape) - len(target)
    fits = lead >= 0 and builtins.all(
        m in (1, n) for m, n in zip(target, shape[lead:], strict=True)
    )
    if not fits:
        raise RuntimeError(f"size {{{list(target)}}} is not expandable to size {{{list(shape)}}}.")
    axes = [d for d, n in enumerate(shape) if d < lead or (target[d - lead] == 1 and n != 1)]
    if not axes:
        return input
    if not target:
        return sum(input)
    total = sum(input, axes, True)
    return reshape(total, target) if lead else total


def _nonempty(input: Tensor, axes: tuple[int, ...], name: str) -> None:
    for axis in axes:
        if input._data.ndim and input._data.shape[axis] == 0:
            raise IndexError(
                f"{name}(): Expected reduction dim {axis} to have non-zero size."
                if input._data.size or len(axes) == 1
                else f"{name}(): Expected reduction dim to be specified for input.numel() == 0. "
                "Specify the reduction dim with the 'dim' argument."
            )


def amax(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The maximum over `dim`; equal maxima share the gradient evenly."""
    axes = canonical_dims(dim, input._data.ndim)
    _nonempty(input, axes, "amax")
    return apply(_max, (input,), {"axis": axes, "keepdims": bool(keepdim)})


def amin(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The minimum over `dim`; equal minima share the gradient evenly."""
    axes = canonical_dims(dim, input._data.ndim)
    _nonempty(input, axes, "amin")
    return apply(_min, (input,), {"axis": axes, "keepdims": bool(keepdim)})


def _arg(
    input: Tensor, dim: int | None, keepdim: bool, name: str, caller: str | None = None
) -> Tensor:
    if input._data.dtype.kind == "b" and caller is None:
        raise RuntimeError(f"{name}(): does not support bool input")
    if dim is None:
        flat = apply(_reshape, (input,), {"shape": (input._data.size,)})
        if not input._data.size:
            raise IndexError(
                f"{name}(): Expected reduction dim to be specified for input.numel() == 0."
            )
        result = apply(registered(name), (flat,), {"axis": 0, "keepdims": False})
        return apply(_reshape, (result,), {"shape": (1,) * input._data.ndim}) if keepdim else result
    axis = canonical_dim(dim, input._data.ndim)
    if input._data.ndim == 0:
        return ew.mul(to_dtype(input.detach(), int64), 0)
    _nonempty(input, (axis,), caller or name)
    return apply(registered(name), (input,), {"axis": axis, "keepdims": bool(keepdim)})


@reported("aten::argmax")
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the maximum stands, as int64; the first of equal ones."""
    return _arg(input, dim, keepdim, "argmax")


@reported("aten::argmin")
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the minimum stands, as int64; the first of equal ones."""
    return _arg(input, dim, keepdim, "argmin")


def _extremum(input: Tensor, dim: Any, keepdim: bool, other: Tensor | None, name: str) -> Any:
    if isinstance(dim, Tensor) or other is not None:
        return (ew.maximum if name == "max" else ew.minimum)(input, dim if other is None else other)
    if dim is None:
        if not input._data.size:
            raise RuntimeError(
                f"{name}(): Expected reduction dim to be specified for input.numel() == 0. "
                "Specify the reduction dim with the 'dim' argument."
            )
        return shown_as(
            (amax if name == "max" else amin)(input), name.capitalize() + "Backward1", input
        )
    result = getattr(tracegrad.return_types, name)
    if input._data.ndim == 0:
        return result(input.clone(), _arg(input, dim, keepdim, "arg" + name))
    axis = canonical_dim(dim, input._data.ndim)
    indices = _arg(input, axis, True, "arg" + name, name)
    values = apply(_gather, (input, indices), {"axis": axis})
    if not keepdim:
        shape = tuple(n for i, n in enumerate(input._data.shape) if i != axis)
        values = apply(_reshape, (values,), {"shape": shape})
        indices = apply(_reshape, (indices,), {"shape": shape})
    return result(shown_as(values, name.capitalize() + "Backward0", input), indices)


@reported("aten::max")
def max(
    input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None
) -> Any:
    """The maximum of all elements; along `dim` (values, indices); or element by element of two tensors."""
    return _extremum(input, dim, keepdim, other, "max")


@reported("aten::min")
def min(
    input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None
) -> Any:
    """The minimum of all elements; along `dim` (values, indices); or element by element of two tensors."""
    return _extremum(input, dim, keepdim, other, "min")


@reported("aten::aminmax")
def aminmax(
    input: Tensor, *, dim: int | None = None, keepdim: bool = False
) -> tracegrad.return_types.aminmax:
    """The minimum and the maximum of all elements, or along `dim`.

    Raises:
        RuntimeError: there is no element.
        IndexError: the dimension is empty.
    """
    if dim is None:
        if not input._data.size:
            raise RuntimeError(
                "aminmax(): cannot compute aminmax over an empty dimension as the operation has no identity."
            )
    else:
        axis = canonical_dim(dim, input._data.ndim)
        if input._data.ndim and not input._data.shape[axis]:
            raise IndexError(f"aminmax: Expected reduction dim {axis} to have non-zero size.")
    low, high = (
        shown_as(extremum(input, dim, keepdim), "AminmaxBackward0", input)
        for extremum in (amin, amax)
    )
    return tracegrad.return_types.aminmax(low, high)


@reported("aten::any")
def any(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether any element is not zero."""
    truth = input if input.dtype is bool_ else ew.ne(input, 0)
    return ew.ne(sum(truth, dim, keepdim), 0)


@reported("aten::all")
def all(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are not zero."""
    truth = input if input.dtype is bool_ else ew.ne(input, 0)
    return ew.eq(sum(ew.logical_not(truth), dim, keepdim), 0)


@reported("aten::count_nonzero")
def count_nonzero(input: Tensor, dim: Dims = None) -> Tensor:
    """How many elements are not zero."""
    return sum(ew.ne(input, 0), dim)


@reported("aten::cumsum")
def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running sums along `dim`."""
    target = resolve_dtype(dtype) or (None if input.is_floating_point() else int64)
    x = input if target is None else to_dtype(input, target)
    axis = canonical_dim(dim, x._data.ndim)
    if x._data.ndim == 0:
        return shown_as(x.clone(), "CumsumBackward0", input)
    return apply(registered("cumsum"), (x,), {"axis": axis})


def _moments(input: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The mean (dimensions kept), and the sum of squared deviations from it (kept as well)."""
    center = mean(input, axes or None, True) if axes else input
    return center, sum(ew.square(ew.sub(input, center)), axes or None, True) if axes else ew.mul(
        input, 0
    )


def _dropped(input: Tensor, x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    if keepdim:
        return x
    shape = tuple(n for i, n in enumerate(input._data.shape) if i not in axes)
    return apply(_reshape, (x,), {"shape": shape})


def _correction(unbiased: Any, correction: Any) -> float:
    if correction is not None:
        return correction
    return 1 if unbiased is None or unbiased else 0


@composite("VarBackward0")
def var(
    input: Tensor,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Tensor:
    """The variance over `dim`, with Bessel's correction unless told otherwise. Two passes, no cancellation."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if input._data.dtype.kind != "f":
        raise RuntimeError("std and var only support floating point and complex dtypes")
    axes = canonical_dims(dim, input._data.ndim)
    _, squares = _moments(input, axes)
    count = _count(input, axes) - _correction(unbiased, correction)
    result = ew.div(squares, float(count)) if count > 0 else ew.mul(squares, math.nan)
    return _dropped(input, result, axes, keepdim)


@composite("StdBackward0")
def std(
    input: Tensor,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Tensor:
    """The standard deviation: the root of `var`."""
    return ew.sqrt(var(input, dim, unbiased, keepdim, correction=correction))


def _spread_and_mean(
    name: str,
    input: Tensor,
    dim: Any,
    unbiased: Any,
    keepdim: bool,
    correction: Any,
) -> tuple[Tensor, Tensor]:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if not input.is_floating_point():
        raise RuntimeError(f"{name}_mean only support floating point and complex dtypes")
    spread = (var if name == "var" else std)(input, dim, unbiased, keepdim, correction=correction)
    center = mean(input, dim, keepdim)
    record = f"{name.capitalize()}MeanBackward0"
    return shown_as(spread, record, input), shown_as(center, record, input)


@reported("aten::var_mean")
def var_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> tuple[Tensor, Tensor]:
    """The variance and the mean over `dim`; see `var`."""
    return _spread_and_mean("var", input, dim, unbiased, keepdim, correction)


@reported("aten::std_mean")
def std_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> tuple[Tensor, Tensor]:
    """The standard deviation and the mean over `dim`; see `var`."""
    return _spread_and_mean("std", input, dim, unbiased, keepdim, correction)


@composite("LogsumexpBackward0")
def logsumexp(input: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) over `dim`, without overflow; -inf where all elements are."""
    x = floating(input)
    axes = canonical_dims(dim, x._data.ndim)
    high = amax(x, axes or None, True).detach()
    high = ew.where(ew.isfinite(high), high, 0)
    total = ew.add(ew.log(sum(ew.exp(ew.sub(x, high)), axes or None, True)), high)
    return _dropped(x, total, axes, keepdim)


def softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`, without overflow."""
    return _along(_softmax, "SoftmaxBackward0", input, dim, dtype)


def log_softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """log(softmax(x)) along `dim`, computed stably."""
    return _along(_log_softmax, "LogSoftmaxBackward0", input, dim, dtype)


def _of_number(x: Tensor, op: Op) -> Tensor:
    return reshape(apply(op, (reshape(x, (1,)),), {"axis": 0}), ())


def _along(op: Op, name: str, input: Tensor, dim: int, dtype: Any) -> Tensor:
    target: DType | None = resolve_dtype(dtype)
    x = floating(input) if target is None else to_dtype(input, target)
    axis = canonical_dim(dim, x._data.ndim)
    if x._data.ndim == 0:
        return composite(name)(_of_number)(x, op)
    return apply(op, (x,), {"axis": axis})


def _norm_of_number(p: Any) -> float:
    if p == "fro" or p is None:
        return 2.0
    if isinstance(p, str):
        raise RuntimeError(f"linalg.vector_norm: order {p!r} is not supported")
    return float(p)


@composite("LinalgVectorNormBackward0")
def norm(
    input: Tensor, p: Any = "fro", dim: Dims = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """The p-norm of the elements over `dim`; the Frobenius norm by default. Its gradient at zero is zero."""
    target = resolve_dtype(dtype)
    x = floating(input) if target is None else to_dtype(input, target)
    order = _norm_of_number(p)
    axes = dim if dim is None else canonical_dims(dim, x._data.ndim)
    if order == math.inf:
        return amax(ew.abs(x), axes, keepdim)
    if order == -math.inf:
        return amin(ew.abs(x), axes, keepdim)
    if order == 0:
        # It is a constant, but one that depends on x, as in torch.
        nowhere = ew.lt(ew.abs(x), 0)
        return sum(ew.where(nowhere, x, to_dtype(ew.ne(x, 0), x.dtype)), axes, keepdim)
    if order == 1:
        return sum(ew.abs(x), axes, keepdim)
    powers = ew.square(x) if order == 2 else ew.pow(ew.abs(x), order)
    total = sum(powers, axes, keepdim)
    # The root has no derivative at zero; torch takes 0 there.
    safe = ew.where(ew.eq(total, 0), 1, total)
    root = ew.sqrt(safe) if order == 2 else ew.pow(safe, 1 / order)
    return ew.where(ew.eq(total, 0), 0, root)


@reported("aten::allclose")
def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Whether all elements are close; see `isclose`."""
    return bool(all(ew.isclose(input, other, rtol, atol, equal_nan)))


@reported("aten::equal")
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape and elements."""
    return input._data.shape == other._data.shape and bool(all(ew.eq(input, other)))
