"""Writing into copies at positions along one dimension: scatter, scatter_reduce, index_reduce."""

from __future__ import annotations

import warnings
from typing import Any

from tracegrad.dispatch import apply, composite, shown_as
from tracegrad.ir.op import registered
from tracegrad.ir.ops.reduction import highest, lowest
from tracegrad.ir.types import DType, int32, int64
from tracegrad.ops import elementwise as ew
from tracegrad.ops.arguments import (
    as_tensor_operand,
    canonical_dim,
    is_number,
    require_tensors,
    to_dtype,
)
from tracegrad.ops.creation import ones_like
from tracegrad.ops.shaping import expand, reshape
from tracegrad.ops.striding import slice_along
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

_scatter = registered("scatter")
_scatter_add = registered("scatter_add")
_scatter_fold = registered("scatter_fold")

_FOLDS = {"prod": "mul", "amax": "max", "amin": "min"}


def _checked(name: str, x: Tensor, axis: int, index: Tensor, src: Any) -> Tensor:
    """The positions as int64, once they fit."""
    if index._data.size and index.dtype not in (int32, int64):
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index")
    if isinstance(src, Tensor) and src.dtype is not x.dtype:
        raise RuntimeError(f"{name}(): Expected self.dtype to be equal to src.dtype")
    if not index._data.size:
        return to_dtype(index, int64)
    for word, other in (("self", x), ("src", src)):
        if isinstance(other, Tensor) and max(index._data.ndim, 1) != max(other._data.ndim, 1):
            raise RuntimeError(
                f"Index tensor must have the same number of dimensions as {word} tensor"
            )
    wide = any(
        d != axis and m > n
        for d, (m, n) in enumerate(zip(index._data.shape, x._data.shape, strict=False))
    )
    beyond = isinstance(src, Tensor) and any(
        m > n for m, n in zip(index._data.shape, src._data.shape, strict=False)
    )
    if wide or beyond:
        rest = (
            f" and to be no larger size than src {list(src.shape)}"
            if isinstance(src, Tensor)
            else ""
        )
        raise RuntimeError(
            f"Expected index {list(index.shape)} to be no larger than self {list(x.shape)} apart from dimension "
            f"{axis}{rest}"
        )
    return to_dtype(index, int64)


def _cut(src: Tensor, index: Tensor) -> Tensor:
    """The part of `src` that there are positions for."""
    for d, n in enumerate(index._data.shape):
        if src._data.shape[d] != n:
            src = slice_along(src, d, 0, n)
    return src


def _written(
    op: Any, x: Tensor, axis: int, index: Tensor, src: Any, attrs: dict[str, Any] | None = None
) -> Tensor:
    """An op that writes at positions, applied to tensors of any rank and to numbers."""
    if not index._data.size and index._data.ndim != x._data.ndim:
        return ew.clone(x)
    if is_number(src):
        src = expand(as_tensor_operand(src, x), index._data.shape)
    shape = x._data.shape
    if not shape:
        x = reshape(x, 1)
    if not index._data.ndim:
        index = reshape(index, 1)
    if not src._data.ndim:
        src = reshape(src, 1)
    out = apply(op, (x, index, _cut(src, index)), {"axis": axis, **(attrs or {})})
    return out if shape else reshape(out, ())


@reported("aten::scatter")
def scatter(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Any = None,
    *,
    value: Any = None,
    reduce: Any = None,
) -> Tensor:
    """`input` with ``src[i][j]``, or one number, at ``[index[i][j]][j]`` (dim 0), and so on.

    Where positions repeat the last one wins; the gradient then is torch's, each of them gets it.

    Args:
        index: positions; not larger than `src`, nor than `input` in the other dimensions.
        src, value: a tensor, or a number.
        reduce: "add" or "multiply" with what is there, rather than replace it.

    Raises:
        RuntimeError: dtypes or shapes do not fit together.
        IndexError: a position is out of bounds.
    """
    require_tensors("scatter", input=(1, input), index=(3, index))
    given = value if src is None else src
    if given is None or not (isinstance(given, Tensor) or is_number(given)):
        kind = "" if given is None else f", {type(given).__name__}"
        raise TypeError(
            f"scatter() received an invalid combination of arguments - got (Tensor, int, Tensor{kind}), but expected "
            "one of:\n * (Tensor input, int dim, Tensor index, Tensor src)\n * (Tensor input, int dim, Tensor index, "
            "Number value)"
        )
    axis = canonical_dim(dim, input._data.ndim)
    positions = _checked("scatter", input, axis, index, given)
    if reduce is None:
        record = "ScatterBackward0" if isinstance(given, Tensor) else "ScatterBackward1"
        out = _written(_scatter, input, axis, positions, given)
        return shown_as(out, record, input, given)
    if reduce not in ("add", "multiply"):
        raise RuntimeError("reduce argument must be either add or multiply.")
    if isinstance(given, Tensor):
        warnings.warn(
            "The reduce argument of torch.scatter with Tensor src is deprecated and will be removed in a future "
            "PyTorch release. Use torch.scatter_reduce instead for more reduction options.",
            stacklevel=2,
        )
    if reduce == "add":
        return _written(_scatter_add, input, axis, positions, given)
    return _written(_scatter_fold, input, axis, positions, given, {"reduce": "mul"})


@composite("ScatterAddBackward0")
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """`input` with ``src[i][j]`` added at ``[index[i][j]][j]`` (dim 0), and so on; duplicates add up.

    Raises:
        RuntimeError: dtypes or shapes do not fit together.
        IndexError: a position is out of bounds.
    """
    require_tensors("scatter_add", input=(1, input), index=(3, index), src=(4, src))
    axis = canonical_dim(dim, input._data.ndim)
    return _written(_scatter_add, input, axis, _checked("scatter", input, axis, index, src), src)


def _reduced(
    x: Tensor, axis: int, index: Tensor, src: Tensor, reduce: str, include_self: bool
) -> Tensor:
    """`x` with `src` folded in; where there is a position, only with it unless `include_self`."""
    if not include_self:
        x = _written(_scatter, x, axis, index, _neutral(reduce, x.dtype))
    if reduce in _FOLDS:
        return _written(_scatter_fold, x, axis, index, src, {"reduce": _FOLDS[reduce]})
    total = _written(_scatter_add, x, axis, index, src)
    if reduce == "sum":
        return total
    count = ones_like(x)
    if not include_self:
        count = _written(_scatter, count, axis, index, 0)
    count = ew.clamp_min(_written(_scatter_add, count, axis, index, 1), 1)
    return ew.div(total, count) if x.is_floating_point() else ew.floor_divide(total, count)


def _neutral(reduce: str, dtype: DType) -> float | int | bool:
    if reduce == "amax":
        return lowest(dtype)
    if reduce == "amin":
        return highest(dtype)
    return 1 if reduce == "prod" else 0


@composite("ScatterReduceBackward0")
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """`input` with the elements of `src` that have the same position in `index` along `dim` folded into one.

    Args:
        reduce: "sum", "prod", "mean", "amax" or "amin". Equal extrema share the gradient evenly.
        include_self: whether the element of `input` at the position is one of them.

    Raises:
        RuntimeError: dtypes or shapes do not fit together, or there is no such `reduce`.
        IndexError: a position is out of bounds.
        NotImplementedError: the mean of bools.
    """
    require_tensors("scatter_reduce", input=(1, input), index=(3, index), src=(4, src))
    if reduce not in ("sum", "mean", *_FOLDS):
        raise RuntimeError(
            f"reduce argument must be either sum, prod, mean, amax or amin, got {reduce}"
        )
    axis = canonical_dim(dim, input._data.ndim)
    positions = _checked("scatter", input, axis, index, src)
    if reduce == "mean":
        ew.refuse_dtype(input, "b", "scatter_gather_tensor_cpu_reduce_mean")
    return _reduced(input, axis, positions, src, reduce, bool(include_self))


@composite("IndexReduceBackward0")
def index_reduce(
    input: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Tensor:
    """`input` with the slices of `source` that have the same position in `index` folded into one.

    Args:
        reduce: "prod", "mean", "amax" or "amin"; see `scatter_reduce`.

    Raises:
        RuntimeError: dtypes or shapes do not fit together, or there is no such `reduce`.
        IndexError: a position is out of bounds, or `index` is no vector.
    """
    require_tensors("index_reduce", input=(1, input), index=(3, index), source=(4, source))
    if reduce not in ("mean", *_FOLDS):
        raise RuntimeError(
            f"index_reduce(): Expected reduce to be one of prod, mean, amax or amin but got {reduce}."
        )
    axis = canonical_dim(dim, input._data.ndim)
    _check_slices(input, axis, index, source)
    positions = to_dtype(reshape(index, -1), int64)
    if source._data.ndim:
        positions = reshape(positions, (-1, *(1,) * (source._data.ndim - axis - 1)))
        positions = expand(positions, source._data.shape)
    return _reduced(input, axis, positions, source, reduce, bool(include_self))


def _check_slices(x: Tensor, axis: int, index: Tensor, source: Tensor) -> None:
    name = "index_reduce_()"
    if index._data.ndim > 1:
        raise IndexError(
            f"{name}: Index is supposed to be a vector, but got dim: {index._data.ndim} with type: "
            f"{index.dtype.legacy_name} and size: {list(index.shape)}"
        )
    if index.dtype not in (int32, int64):
        raise RuntimeError(
            f"{name}: Expected dtype int32/int64 for index but got: {index.dtype.legacy_name}"
        )
    if source.dtype is not x.dtype:
        raise RuntimeError(
            f"{name}: self ({x.dtype.legacy_name}) and source ({source.dtype.legacy_name}) must have the same "
            "scalar type"
        )
    extent = source._data.shape[axis] if axis < source._data.ndim else 1
    if index._data.size != extent:
        raise RuntimeError(
            f"{name}: Number of indices ({index._data.size}) should be equal to source.size(dim): ({extent}), "
            f"for dim: {axis}"
        )
    rest = [tuple(n for d, n in enumerate(t._data.shape) if d != axis) for t in (x, source)]
    if rest[0] != rest[1]:
        raise RuntimeError(
            "source tensor shape must match self tensor shape, excluding the specified dimension. Got self.shape = "
            f"{list(x.shape)} source.shape = {list(source.shape)}"
        )
