"""Functions that order, or search for what stands where: sort, topk, median, quantile, mode, cummax, searchsorted.

Each finds positions, by the ops of :mod:`tracegrad.ir.ops.ordering`, and gathers the elements there; so derivatives of
any order are those of ``gather``. NaN counts as greater than every number. Start with :func:`sort`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import tracegrad
from tracegrad.dispatch import ABSENT, apply, shown_as
from tracegrad.ir.op import registered
from tracegrad.ir.types import bool_, int32, int64
from tracegrad.ops import elementwise as ew
from tracegrad.ops import reduction
from tracegrad.ops.arguments import (
    as_tensor_operand,
    canonical_dim,
    is_number,
    require_tensors,
    result_dtype,
    to_dtype,
)
from tracegrad.ops.creation import full
from tracegrad.ops.shaping import movedim, reshape, unsqueeze
from tracegrad.ops.striding import select, slice_along
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, is_lifted

_argsort = registered("argsort")
_gather = registered("gather")
_iota = registered("iota")
_running_max = registered("running_max")


def _in_line(input: Tensor, dim: int) -> tuple[Tensor, int]:
    """The tensor with a dimension at least, and `dim` counted from the front."""
    axis = canonical_dim(dim, input._data.ndim)
    return (input if input._data.ndim else reshape(input, 1)), axis


def _order(x: Tensor, axis: int, descending: bool = False) -> Tensor:
    return apply(_argsort, (x,), {"axis": axis, "descending": bool(descending)})


def _at(x: Tensor, positions: Tensor, axis: int) -> Tensor:
    return apply(_gather, (x, positions), {"axis": axis})


def _result(name: str, record: str, input: Tensor, x: Tensor, axis: int, positions: Tensor) -> Any:
    """The named tuple of the elements of `x`, which is `input` with a dimension at least, at positions along `axis`."""
    values = _at(x, positions, axis)
    if not input._data.ndim:
        values, positions = reshape(values, ()), reshape(positions, ())
    return getattr(tracegrad.return_types, name)(shown_as(values, record, input), positions)


def _one(
    name: str, record: str, input: Tensor, x: Tensor, axis: int, positions: Tensor, keepdim: bool
) -> Any:
    """`_result` for one position along the axis, which is dropped unless `keepdim`."""
    found = _result(name, record, input, x, axis, positions)
    if keepdim or not input._data.ndim:
        return found
    shape = tuple(n for d, n in enumerate(x._data.shape) if d != axis)
    values, indices = (reshape(part, shape) for part in found)
    return type(found)(shown_as(values, record, input), indices)


@reported("aten::sort")
def sort(
    input: Tensor, dim: int = -1, descending: bool = False, *, stable: Any = ABSENT
) -> tracegrad.return_types.ValuesIndices:
    """The elements along `dim` in order, and where they stood. Equal ones keep their order, `stable` or not."""
    require_tensors("sort", input=(1, input))
    x, axis = _in_line(input, dim)
    record = "SortBackward0" if stable is ABSENT else "SortBackward1"
    return _result("sort", record, input, x, axis, _order(x, axis, descending))


@reported("aten::argsort")
def argsort(
    input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False
) -> Tensor:
    """Where the elements along `dim` stand, in their order; see `sort`."""
    require_tensors("argsort", input=(1, input))
    x, axis = _in_line(input, dim)
    order = _order(x, axis, descending)
    # Only a number was brought into another shape; else reshape would make a view of the result.
    return order if input._data.ndim else reshape(order, ())


@reported("aten::msort")
def msort(input: Tensor) -> Tensor:
    """The elements in order along the first dimension."""
    return sort(input, 0).values


@reported("aten::topk")
def topk(
    input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tracegrad.return_types.ValuesIndices:
    """The `k` largest (or smallest) elements along `dim`, in order, and where they stand.

    Raises:
        RuntimeError: there are not so many, or they are bools.
    """
    require_tensors("topk", input=(1, input))
    if not isinstance(k, (int, np.integer)):
        raise TypeError(f"topk(): argument 'k' (position 2) must be int, not {type(k).__name__}")
    x, axis = _in_line(input, dim)
    if not 0 <= k <= x._data.shape[axis]:
        raise RuntimeError("selected index k out of range")
    if input.dtype is bool_:
        raise RuntimeError("topk does not support bool dtypes on CPU")
    # A number is what it is, whatever k.
    first = slice_along(_order(x, axis, largest), axis, 0, int(k) if input._data.ndim else 1)
    return _result("topk", "TopkBackward0", input, x, axis, first)


def _require_extent(name: str, x: Tensor, axis: int) -> None:
    if not x._data.shape[axis]:
        raise IndexError(f"{name}(): Expected reduction dim {axis} to have non-zero size.")


@reported("aten::kthvalue")
def kthvalue(
    input: Tensor, k: int, dim: int = -1, keepdim: bool = False
) -> tracegrad.return_types.ValuesIndices:
    """The `k`-th smallest element along `dim` (the first is number 1), and where it stands.

    Raises:
        RuntimeError: there are not so many.
        IndexError: the dimension is empty.
    """
    require_tensors("kthvalue", input=(1, input))
    x, axis = _in_line(input, dim)
    _require_extent("kthvalue", x, axis)
    if not 1 <= k <= x._data.shape[axis]:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {axis}")
    ew.refuse_dtype(input, "b", "kthvalue_cpu")
    place = slice_along(_order(x, axis), axis, k - 1, k)
    return _one("kthvalue", "KthvalueBackward0", input, x, axis, place, keepdim)


def _middle(x: Tensor, axis: int, ignore_nan: bool) -> Tensor:
    """Where the lower of the middle elements stands (the dimension is kept); the first NaN, if there is one.

    Args:
        ignore_nan: NaN are not counted, unless there is nothing else.
    """
    order, n = _order(x, axis), x._data.shape[axis]
    if not x.is_floating_point():
        return slice_along(order, axis, (n - 1) // 2, (n - 1) // 2 + 1)
    numbers = reduction.sum(ew.eq(x, x), axis, True)
    if ignore_nan:
        half = ew.bitwise_right_shift(ew.sub(numbers, 1), 1)
        place = ew.where(ew.eq(numbers, 0), 0, half)
    else:
        place = ew.where(ew.eq(numbers, n), (n - 1) // 2, numbers)
    return _at(order, place, axis)


def _median(name: str, ignore_nan: bool) -> Callable[..., Any]:
    def function(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
        require_tensors(name, input=(1, input))
        record = name.capitalize() + "Backward"
        if dim is None:
            ew.refuse_dtype(input, "b", "median_cpu")
            return shown_as(_median_of_all(input, ignore_nan), record + "0", input)
        x, axis = _in_line(input, dim)
        _require_extent("median", x, axis)
        ew.refuse_dtype(input, "b", "median_out_impl")
        place = _middle(x, axis, ignore_nan)
        return _one(name, record + "1", input, x, axis, place, keepdim)

    function.__name__ = function.__qualname__ = name
    which = "the median of those that are not NaN" if ignore_nan else "the median; NaN, if any is"
    function.__doc__ = f"""Of all elements, or along `dim` with the positions: {which}.

    Of an even number the lower one of the two in the middle. The median of all shares its gradient among the
    elements that are equal to it.

    Raises:
        IndexError: the dimension is empty.
        NotImplementedError: bools.
    """
    return reported(f"aten::{name}")(function)


median = _median("median", False)
nanmedian = _median("nanmedian", True)


def _median_of_all(input: Tensor, ignore_nan: bool) -> Tensor:
    x = reshape(input, input._data.size)
    if not x._data.size:
        if input.is_floating_point():
            return ew.add(reduction.sum(x), math.nan)
        return full((), np.iinfo(input._data.dtype).min, dtype=input.dtype)
    found = reshape(_at(x, _middle(x, 0, ignore_nan), 0), ())
    if not input.is_floating_point():
        return found
    value = found.detach()
    same = ew.logical_or(ew.eq(x, value), ew.logical_and(ew.ne(x, x), ew.ne(value, value)))
    count = reduction.sum(same)
    # The value and, which adds nothing, all elements that are equal to it; or their mean, where nothing is rounded.
    apart = reduction.sum(ew.where(same, ew.sub(x, value), 0))
    total = reduction.sum(ew.where(same, x, 0))
    return ew.where(ew.isfinite(value), ew.add(value, ew.div(apart, count)), ew.div(total, count))


_ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "lower": ew.floor,
    "higher": ew.ceil,
    "nearest": ew.round,
}


def _quantile(name: str, ignore_nan: bool) -> Callable[..., Tensor]:
    def function(
        input: Tensor,
        q: Any,
        dim: int | None = None,
        keepdim: bool = False,
        *,
        interpolation: str = "linear",
    ) -> Tensor:
        require_tensors(name, input=(1, input))
        fractions = _fractions(name, input, q)
        axis = 0 if dim is None else canonical_dim(dim, input._data.ndim)
        if interpolation not in ("linear", "midpoint", *_ROUNDED):
            raise RuntimeError(
                f"{name}() interpolation must be one of linear, lower, higher, midpoint or nearest, but got "
                f"{interpolation}"
            )
        if not input._data.size:
            raise RuntimeError(f"{name}() input tensor must be non-empty")
        # The elements in order along the last dimension.
        rows = (
            reshape(input, -1) if dim is None or not input._data.ndim else movedim(input, axis, -1)
        )
        rows = _at(rows, _order(rows, rows._data.ndim - 1), rows._data.ndim - 1)
        found = _between(rows, reshape(fractions, -1), ignore_nan, interpolation)
        rank = input._data.ndim
        if not keepdim or not rank:
            front = found if found._data.ndim == 1 else movedim(found, -1, 0)
        elif dim is None:
            front = reshape(found, (found._data.shape[-1], *(1,) * rank))
        else:
            front = movedim(unsqueeze(found, axis), -1, 0)
        return front if fractions._data.ndim else select(front, 0, 0)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"""The elements below which the fractions `q` of {"the numbers" if ignore_nan else "all"} lie.

    Args:
        q: a number, or a tensor with one dimension at most, which becomes the first one of the result.
        interpolation: between two elements: "linear", "lower", "higher", "nearest" or "midpoint".

    Raises:
        RuntimeError: `input` is empty or not floating, or `q` is not in [0, 1] or of another dtype.
    """
    return reported(f"aten::{name}")(function)


def _fractions(name: str, input: Tensor, q: Any) -> Tensor:
    if not is_number(q):
        if not isinstance(q, Tensor):
            raise TypeError(
                f"{name}(): argument 'q' (position 2) must be Tensor, not {type(q).__name__}"
            )
    elif not 0 <= q <= 1:
        raise RuntimeError(f"{name}() q must be in the range [0, 1] but got {q:g}")
    if not input.is_floating_point():
        raise RuntimeError(f"{name}() input tensor must be either float or double dtype")
    if is_number(q):
        return as_tensor_operand(q, input)
    if q._data.ndim > 1:
        raise RuntimeError(f"{name}() q must be a scalar or 1D tensor")
    if q.dtype is not input.dtype:
        raise RuntimeError(f"{name}() q tensor must be same dtype as the input tensor")
    # Under vmap each example has its own, and one out of range is a position out of bounds.
    if not is_lifted(q) and not bool(reduction.all(ew.logical_and(ew.ge(q, 0), ew.le(q, 1)))):
        raise RuntimeError(f"{name}() q values must be in the range [0, 1]")
    return q


def _between(rows: Tensor, q: Tensor, ignore_nan: bool, interpolation: str) -> Tensor:
    """Elements of ordered rows at fractions of their length, which are not whole positions."""
    axis, last = rows._data.ndim - 1, rows._data.shape[-1] - 1
    numbers = reduction.sum(ew.eq(rows, rows), axis, True)
    if ignore_nan:
        place = ew.clamp_min(ew.mul(q, to_dtype(ew.sub(numbers, 1), q.dtype)), 0)
    else:
        # NaN stand at the end.
        place = ew.where(ew.eq(numbers, last + 1), ew.mul(q, last), float(last))
    if interpolation in _ROUNDED:
        return _at(rows, to_dtype(_ROUNDED[interpolation](place.detach()), int64), axis)
    floor, ceil = ew.floor(place.detach()), ew.ceil(place.detach())
    below, above = (_at(rows, to_dtype(edge, int64), axis) for edge in (floor, ceil))
    weight = 0.5 if interpolation == "midpoint" else ew.sub(place, floor)
    return ew.lerp(below, above, weight)


quantile = _quantile("quantile", False)
nanquantile = _quantile("nanquantile", True)


@reported("aten::mode")
def mode(
    input: Tensor, dim: int = -1, keepdim: bool = False
) -> tracegrad.return_types.ValuesIndices:
    """The most frequent element along `dim`, and where it stands last; the smallest of several.

    Raises:
        IndexError: the dimension is empty.
    """
    require_tensors("mode", input=(1, input))
    x, axis = _in_line(input, dim)
    _require_extent("mode", x, axis)
    order = _order(x, axis)
    rows = _at(x.detach(), order, axis)
    n = x._data.shape[axis]
    # How many elements like it each element in order has before itself.
    here = _along(apply(_iota, (), {"size": n, "dtype": int64}), x, axis)
    new = ew.ne(slice_along(rows, axis, 1, n), slice_along(rows, axis, 0, n - 1))
    pads = {"low": [0] * x._data.ndim, "high": [0] * x._data.ndim}
    pads["low"][axis] = 1
    starts = ew.where(new, slice_along(here, 0, 1, n), 0)
    attrs = {"low": tuple(pads["low"]), "high": tuple(pads["high"]), "value": 0}
    starts = apply(registered("pad"), (starts,), attrs)
    before = ew.sub(here, apply(_running_max, (starts,), {"axis": axis}))
    place = apply(registered("argmax"), (before,), {"axis": axis, "keepdims": True})
    return _one("mode", "ModeBackward0", input, x, axis, _at(order, place, axis), keepdim)


def _along(row: Tensor, x: Tensor, axis: int) -> Tensor:
    """A vector laid along one axis, for broadcasting with `x`."""
    return reshape(row, (-1, *(1,) * (x._data.ndim - axis - 1)))


def _running(name: str, op: Any) -> Callable[..., Any]:
    def function(input: Tensor, dim: int) -> Any:
        require_tensors(name, input=(1, input))
        x, axis = _in_line(input, dim)
        seen = to_dtype(x.detach(), int64) if input.dtype is bool_ else x.detach()
        best = apply(op, (seen,), {"axis": axis})
        reached = ew.logical_or(ew.eq(seen, best), ew.ne(seen, seen))
        size = {"size": x._data.shape[axis], "dtype": int64}
        here = ew.where(reached, _along(apply(_iota, (), size), x, axis), 0)
        place = apply(_running_max, (here,), {"axis": axis})
        return _result(name, name.capitalize() + "Backward0", input, x, axis, place)

    function.__name__ = function.__qualname__ = name
    word = "largest" if name == "cummax" else "smallest"
    function.__doc__ = (
        f"""The {word} element so far along `dim`, and where it stands; the last of equal ones."""
    )
    return reported(f"aten::{name}")(function)


cummax = _running("cummax", _running_max)
cummin = _running("cummin", registered("running_min"))


@reported("aten::searchsorted")
def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Where each value would have to be inserted into the last dimension of a sorted tensor.

    Args:
        sorted_sequence: one row for all values, or one for each row of them.
        out_int32: return int32 rather than int64.
        right, side: before (``"left"``) or behind elements that are equal to the value.
        sorter: what `argsort` gives of the sequence, if it is not sorted itself.

    Raises:
        RuntimeError: shapes or arguments do not fit together.
        NotImplementedError: bools.
    """
    require_tensors("searchsorted", sorted_sequence=(1, sorted_sequence))
    name = "torch.searchsorted(): "
    x = sorted_sequence
    if side not in (None, "left", "right"):
        raise RuntimeError(f"{name}side can only be 'left' or 'right' but got {side}")
    if side == "left" and right:
        raise RuntimeError(
            f"{name}side and right can't be set to opposites, got side of left while right was True"
        )
    if not x._data.ndim:
        raise RuntimeError(
            f"{name}boundaries tensor should have positive dimension, but got 0 dimension"
        )
    dtype = result_dtype(x, input)
    ew.refuse_dtype(x, "b", "searchsorted_out_cpu")
    values = to_dtype(as_tensor_operand(input, x), dtype) if is_number(input) else input
    one_row = x._data.ndim == 1
    if not one_row and x._data.shape[:-1] != values._data.shape[:-1]:
        raise RuntimeError(
            f"{name}boundaries tensor should be 1 dimension or the first N-1 dimensions of boundaries tensor and "
            f"input value tensor must match, but we got boundaries tensor {list(x.shape)} and input value tensor "
            f"{list(values.shape)}"
        )
    if sorter is not None:
        x = _sorted_by(x, sorter, name)
    wanted = to_dtype(values, dtype)
    if one_row:
        wanted = reshape(wanted, wanted._data.size)
    operands = to_dtype(x, dtype).detach(), wanted.detach()
    found = apply(registered("searchsorted"), operands, {"right": bool(right) or side == "right"})
    return to_dtype(reshape(found, values._data.shape), int32 if out_int32 else int64)


def _sorted_by(x: Tensor, sorter: Tensor, name: str) -> Tensor:
    if sorter._data.shape != x._data.shape:
        raise RuntimeError(
            f"{name}boundary and sorter must have the same size, but got boundary tensor {list(x.shape)}and got "
            f"sorter tensor {list(sorter.shape)}"
        )
    if sorter.dtype is not int64:
        raise RuntimeError(
            f"{name}sorter must be a tensor of long dtype but got dtype {sorter.dtype.legacy_name}"
        )
    inside = ew.logical_and(ew.ge(sorter, 0), ew.lt(sorter, x._data.shape[-1]))
    if not bool(reduction.all(inside)):
        raise RuntimeError(f"{name}sorter index out of range")
    return _at(x, sorter, x._data.ndim - 1)


@reported("aten::bucketize")
def bucketize(
    input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False
) -> Tensor:
    """In which of the intervals between sorted boundaries each value is; see `searchsorted`.

    Raises:
        RuntimeError: the boundaries are no vector.
    """
    require_tensors("bucketize", boundaries=(2, boundaries))
    if boundaries._data.ndim != 1:
        raise RuntimeError(
            f"boundaries tensor must be 1 dimension, but got dim({boundaries._data.ndim})"
        )
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)
