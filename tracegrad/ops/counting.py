"""Functions that count: distinct elements, histograms, membership; and covariances, which weigh and count observations.

How many distinct elements there are is data, and so is the length of what :func:`bincount` returns: a function that
asks for them is not compiled. Start with :func:`unique` and :func:`histc`.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

import tracegrad
from tracegrad.dispatch import apply, shown_as
from tracegrad.ir.op import registered
from tracegrad.ir.types import bool_, float32, float64, int64
from tracegrad.ops import elementwise as ew
from tracegrad.ops import reduction
from tracegrad.ops.arguments import (
    canonical_dim,
    is_number,
    require_tensors,
    result_dtype,
    to_dtype,
)
from tracegrad.ops.creation import linspace, ones, zeros
from tracegrad.ops.indexing import gather, index_select, nonzero
from tracegrad.ops.linalg import mm
from tracegrad.ops.ordering import searchsorted, sort
from tracegrad.ops.out_argument import C_NAMES
from tracegrad.ops.shaping import ravel, reshape, squeeze, t, unsqueeze
from tracegrad.ops.striding import diagonal, select, slice_along
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, is_lifted, make_tensor

_index_add = registered("index_add")


def _positions(array: np.ndarray) -> Tensor:
    return make_tensor(np.asarray(array, np.int64), array)


def _rows(name: str, input: Tensor, dim: int | None) -> tuple[Tensor, int, np.ndarray]:
    """The tensor whose slices along an axis are compared, the axis, and the slices as rows of a matrix."""
    input._escapes(f"{name}()")
    if dim is None:
        flat = reshape(input, input._data.size)
        return flat, 0, flat._data.reshape(-1, 1)
    axis, shape = canonical_dim(dim, input._data.ndim), input._data.shape
    if not shape:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    if shape.count(0) > 1 and not shape[axis]:
        raise RuntimeError(
            "Number of zero sized dimensions is more than one, so unique cannot be applied "
        )
    if 0 in shape and shape[axis]:
        raise RuntimeError(
            "There are 0 sized dimensions, and they aren't selected, so unique cannot be applied"
        )
    columns = math.prod(n for d, n in enumerate(shape) if d != axis)
    return input, axis, np.moveaxis(input._data, axis, 0).reshape(shape[axis], columns)


def _distinct(
    input: Tensor,
    dim: int | None,
    x: Tensor,
    axis: int,
    rows: np.ndarray,
    order: np.ndarray,
    record: str,
    wanted: tuple[bool, bool],
) -> Any:
    """The first of each run of equal rows in that order; if wanted, the run of each row, and their lengths."""
    ordered, count = rows[order], len(rows)
    first = np.ones(count, bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    starts = np.flatnonzero(first)
    values = shown_as(index_select(x, axis, _positions(order[starts])), record, input)
    inverse = np.empty(count, np.int64)
    inverse[order] = np.cumsum(first) - 1
    shape = input._data.shape if dim is None else (count,)
    further = (inverse.reshape(shape), np.diff(starts, append=count))
    found = [_positions(part) for part, want in zip(further, wanted, strict=True) if want]
    return (values, *found) if found else values


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements in order, or the distinct slices along `dim`; each NaN is distinct from all others.

    Args:
        sorted: accepted; the result is always in order.
        return_inverse: also where in the result each element (slice) of `input` is, int64.
        return_counts: also how often each occurs, int64.

    Returns:
        The tensor, or a tuple with the further results behind it.

    Raises:
        IndexError: there is no such dimension.
        RuntimeError: slices without elements.
    """
    require_tensors("_unique2" if dim is None else "unique_dim", input=(1, input))
    return (_unique if dim is None else _unique_slices)(input, dim, (return_inverse, return_counts))


def _in_order(record: str, input: Tensor, dim: int | None, wanted: tuple[bool, bool]) -> Any:
    x, axis, rows = _rows("unique", input, dim)
    # The first column counts most.
    order = np.lexsort(rows.T[::-1]) if rows.size else np.arange(len(rows))
    return _distinct(input, dim, x, axis, rows, order, record, wanted)


_unique = reported("aten::_unique2")(functools.partial(_in_order, "Unique2Backward0"))
_unique_slices = reported("aten::unique_dim")(functools.partial(_in_order, "UniqueDimBackward0"))


@reported("aten::unique_consecutive")
def unique_consecutive(
    input: Tensor,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """Without elements (slices along `dim`) that equal the one before; see `unique`."""
    require_tensors("unique_consecutive", input=(1, input))
    x, axis, rows = _rows("unique_consecutive", input, dim)
    record, order = "UniqueConsecutiveBackward0", np.arange(len(rows))
    return _distinct(input, dim, x, axis, rows, order, record, (return_inverse, return_counts))


@reported("aten::argwhere")
def argwhere(input: Tensor) -> Tensor:
    """The coordinates of elements that are not zero, one row each."""
    require_tensors("argwhere", input=(1, input))
    return nonzero(input)


def _counted(positions: Tensor, amounts: Tensor, size: int) -> Tensor:
    """Amounts added up by position, in the dtype of the amounts."""
    start = zeros(size, dtype=amounts.dtype)
    return apply(_index_add, (start, positions, amounts), {"axis": 0})


@reported("aten::bincount")
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each integer from 0 to the largest occurs in a vector, or the sums of the weights there.

    Args:
        weights: of the same shape. The result is float32 where they are, else float64; int64 without.
        minlength: of the result.

    Raises:
        RuntimeError: another number of dimensions than one, negative elements, or weights of another shape.
        NotImplementedError: `input` is not made of integers.
    """
    require_tensors("bincount", input=(1, input))
    if not input.dtype.is_floating and input.dtype is not bool_:
        input._escapes("bincount()")
    else:
        ew.refuse_dtype(input, "fb", "bincount_cpu")
    if minlength < 0:
        raise RuntimeError("minlength should be >= 0")
    data = input._data
    if data.ndim == 1 and not data.size:
        return zeros(minlength, dtype=int64)
    if data.ndim != 1 or data.min() < 0:
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if weights is None:
        return _positions(np.bincount(data, minlength=minlength))
    if weights._data.shape != data.shape:
        raise RuntimeError("weights should be 1-d and have the same length as input")
    amounts = weights if weights.dtype is float32 else to_dtype(weights, float64)
    return _counted(to_dtype(input, int64), amounts, max(int(data.max()) + 1, minlength))


def _require_finite(function: str, low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise RuntimeError(f"{function} [{low:g}, {high:g}] is not finite")


def _require_bins(bins: int) -> None:
    if bins <= 0:
        raise RuntimeError(f"torch.histogram(): bins must be > 0, but got {bins} for dimension 0")


@reported("aten::histc")
def histc(input: Tensor, bins: int = 100, min: Any = 0, max: Any = 0) -> Tensor:
    """How many elements are in each of so many intervals of equal width, in the dtype of `input`.

    Args:
        min: lower end; elements outside, and NaN, are not counted. Where it equals `max`, both are taken from the data.
        max: upper end, which belongs to the last interval.

    Raises:
        RuntimeError: `bins` is not positive, or the ends are not finite or in the wrong order.
        NotImplementedError: `input` is not floating.
    """
    require_tensors("histc", input=(1, input))
    ew.refuse_dtype(input, "b", "linspace_cpu")
    ew.refuse_dtype(input, "iu", "histogram_cpu")
    low, high = min, max
    if low > high:
        raise RuntimeError("torch.histc: max must be larger than min")
    x = reshape(input.detach(), input._data.size)
    if low == high and x._data.size:
        low, high = reduction.amin(x), reduction.amax(x)
        if not is_lifted(x) and not bool(ew.isfinite(ew.sub(high, low))):
            _require_finite("torch.histc: range of", low.item(), high.item())
        margin = to_dtype(ew.eq(low, high), input.dtype)
        low, high = ew.sub(low, margin), ew.add(high, margin)
    else:
        _require_finite("torch.histc: range of", low, high)
        # As the dtype of the elements has them.
        low, high = (
            make_tensor(np.asarray(end, input._data.dtype), end)
            for end in ((low - 1, high + 1) if low == high else (low, high))
        )
    _require_bins(bins)
    inside = ew.logical_and(ew.ge(x, low), ew.le(x, high))
    place = ew.div(ew.mul(ew.sub(x, low), bins), ew.sub(high, low))
    positions = ew.clamp(to_dtype(ew.where(inside, place, 0.0), int64), 0, bins - 1)
    return _counted(positions, to_dtype(inside, input.dtype), bins)


@reported("aten::histogram")
def histogram(
    input: Tensor,
    bins: Any,
    *,
    range: Sequence[float] | None = None,
    weight: Tensor | None = None,
    density: bool = False,
) -> tracegrad.return_types.histogram:
    """How many elements are in each of some intervals, and the edges of those.

    Args:
        bins: how many intervals of equal width; or their edges, in order.
        range: from where to where, if `bins` is a number; the extrema of the data if not given.
        weight: what each element counts.
        density: divide by the sum and the widths, so that the integral is 1.

    Raises:
        RuntimeError: a dtype or shape that does not fit, no intervals, or a range that is not finite or in wrong order.
        NotImplementedError: `input` is not floating.
        TypeError: edges and a range.
    """
    require_tensors("histogram", input=(1, input))
    ew.refuse_dtype(input, "iub", "histogramdd")
    x = reshape(input.detach(), input._data.size)
    if isinstance(bins, Tensor):
        if range is not None:
            raise TypeError(
                "histogram() received an invalid combination of arguments: edges as bins, and a range"
            )
        edges = _given_edges(input, bins)
    else:
        edges = _even_edges(input, x, bins, range)
    count = edges._data.shape[0] - 1
    _require_bins(count)
    amounts = ones(x._data.shape, dtype=x.dtype) if weight is None else _amounts(input, weight)
    place = ew.sub(searchsorted(edges, x, right=True), 1)
    inside = ew.logical_and(ew.ge(x, select(edges, 0, 0)), ew.le(x, select(edges, 0, -1)))
    hist = _counted(ew.clamp(place, 0, count - 1), ew.where(inside, amounts, 0), count)
    if density:
        widths = ew.sub(slice_along(edges, 0, 1, count + 1), slice_along(edges, 0, 0, count))
        hist = ew.div(ew.div(hist, reduction.sum(hist)), widths)
    return tracegrad.return_types.histogram(hist, edges)


def _amounts(input: Tensor, weight: Tensor) -> Tensor:
    if weight.dtype is not input.dtype:
        raise RuntimeError(
            "torch.histogramdd: if weight tensor is provided, input tensor and weight tensor should have the same "
            f"dtype, but got input({C_NAMES[input.dtype.name]}), and weight({C_NAMES[weight.dtype.name]})"
        )
    if weight._data.shape != input._data.shape:
        raise RuntimeError(
            "torch.histogramdd: if weight tensor is provided it should have the same shape as the input tensor "
            f"excluding its innermost dimension, but got input with shape {[input._data.size, 1]} and weight with "
            f"shape {[weight._data.size]}"
        )
    return ravel(weight)


def _given_edges(input: Tensor, edges: Tensor) -> Tensor:
    if edges._data.ndim != 1:
        raise RuntimeError(
            f"torch.histogramdd: bins tensor should have one dimension, but got {edges._data.ndim} dimensions in "
            "the bins tensor for dimension 0"
        )
    if edges.dtype is not input.dtype:
        raise RuntimeError(
            "torch.histogramdd: input tensor and bins tensors should have the same dtype, but got input with dtype "
            f"{C_NAMES[input.dtype.name]} and bins for dimension 0 with dtype {C_NAMES[edges.dtype.name]}"
        )
    return ew.clone(edges.detach())


def _even_edges(input: Tensor, x: Tensor, bins: int, ends: Sequence[float] | None) -> Tensor:
    _require_bins(bins)
    if ends is None:
        x._escapes("histogram() without a range")
        data = x._data
        low, high = (data.min().item(), data.max().item()) if data.size else (0.0, 1.0)
    else:
        if len(ends) != 2:
            raise RuntimeError(
                "torch.histogramdd: for a 1-dimensional histogram range should have 2 elements, but got "
                f"{len(ends)}"
            )
        low, high = ends
    _require_finite("torch.histogramdd: dimension 0's range", low, high)
    if low > high:
        raise RuntimeError(
            f"torch.histogramdd: min should not exceed max, but got min {low:g} max {high:g} for dimension 0"
        )
    if low == high:
        low, high = low - 0.5, high + 0.5
    return linspace(low, high, bins + 1, dtype=input.dtype)


@reported("aten::isin")
def isin(
    elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False
) -> Tensor:
    """Which elements are among the others. One of the two may be a number.

    Args:
        assume_unique: accepted; changes nothing.
        invert: which are not.

    Raises:
        RuntimeError: bools.
        TypeError: neither is a tensor.
    """
    given = (elements, test_elements)
    if not all(isinstance(x, Tensor) or is_number(x) for x in given) or all(map(is_number, given)):
        names = ", ".join(type(x).__name__ for x in given)
        raise TypeError(
            f"isin() received an invalid combination of arguments - got ({names}), but expected one of: "
            "(Tensor, Tensor), (Tensor, Number), (Number, Tensor)"
        )
    for x in given:
        if isinstance(x, Tensor) and x.dtype is bool_:
            raise RuntimeError("Unsupported input type encountered for isin(): Bool")
    if is_number(test_elements):
        found = ew.eq(elements, test_elements)
    elif is_number(elements):
        found = reduction.any(ew.eq(test_elements, elements))
    else:
        found = _among(elements, reshape(test_elements, test_elements._data.size))
    return ew.logical_not(found) if invert else found


def _among(elements: Tensor, others: Tensor) -> Tensor:
    count = others._data.size
    # Few are compared one by one; torch draws the line here, too.
    if count < 10 * elements._data.size**0.145:
        return reduction.any(ew.eq(unsqueeze(elements, -1), others), -1)
    if not elements._data.size:
        return zeros(elements._data.shape, dtype=bool_)
    common = result_dtype(elements, others)
    x, row = to_dtype(elements.detach(), common), sort(to_dtype(others.detach(), common)).values
    place = ew.clamp(searchsorted(row, ravel(x)), max=count - 1)
    return ew.eq(reshape(gather(row, 0, place), x._data.shape), x)


def _weights(name: str, weights: Tensor, floating: bool, observations: int) -> Tensor:
    if weights._data.ndim > 1:
        raise RuntimeError(
            f"cov(): expected {name} to have one or fewer dimensions but got {name} with {weights._data.ndim} "
            "dimensions"
        )
    if weights.dtype.is_floating != floating or weights.dtype is bool_:
        kind = "floating point" if floating else "integral"
        raise RuntimeError(
            f"cov(): expected {name} to have {kind} dtype but got {name} with {weights.dtype.legacy_name} dtype"
        )
    if weights._data.size != observations:
        raise RuntimeError(
            f"cov(): expected {name} to have the same numel as there are observations in the input but got "
            f"{weights._data.size} != {observations}"
        )
    if weights._data.size and not is_lifted(weights) and bool(ew.lt(reduction.min(weights), 0)):
        raise RuntimeError(f"cov(): {name} cannot be negative")
    return weights


@reported("aten::cov")
def cov(
    input: Tensor,
    *,
    correction: int = 1,
    fweights: Tensor | None = None,
    aweights: Tensor | None = None,
) -> Tensor:
    """The covariances of variables, which are the rows of `input`; a vector is one variable, the result a number.

    Args:
        correction: what is subtracted from the number of observations before the division.
        fweights: how often each observation counts, integers.
        aweights: how much each observation counts.

    Raises:
        RuntimeError: more than two dimensions, bools, or weights that do not fit, are negative, or add up to zero.
    """
    require_tensors("cov", input=(1, input))
    if not isinstance(correction, (int, np.integer)):
        raise TypeError(
            f"cov(): argument 'correction' must be int, not {type(correction).__name__}"
        )
    if input._data.ndim > 2:
        raise RuntimeError(
            f"cov(): expected input to have two or fewer dimensions but got an input with {input._data.ndim} dimensions"
        )
    if input.dtype is bool_:
        raise RuntimeError("cov(): bool dtype is not supported for input")
    x = reshape(input, 1, -1) if input._data.ndim < 2 else input
    observations = x._data.shape[1]
    weights: Tensor | None = None
    total: Any = observations
    if fweights is not None:
        weights = _weights("fweights", fweights, False, observations)
    if aweights is not None:
        each = _weights("aweights", aweights, True, observations)
        weights = each if weights is None else ew.mul(weights, each)
    if weights is not None:
        total = reduction.sum(weights)
        if not is_lifted(total) and bool(ew.eq(total, 0)):
            raise RuntimeError("cov(): weights sum to zero, can't be normalized")
    mean = ew.true_divide(reduction.sum(x if weights is None else ew.mul(x, weights), 1), total)
    norm = total - correction
    if weights is not None and aweights is not None and correction != 0:
        norm = total - correction * reduction.sum(ew.mul(weights, aweights)) / total
    if not (isinstance(norm, Tensor) and is_lifted(norm)) and bool(norm <= 0):
        warnings.warn(
            "cov(): degrees of freedom is <= 0. Correction should be strictly less than the number of observations.",
            UserWarning,
            stacklevel=2,
        )
        norm = 0
    apart = ew.sub(x, unsqueeze(mean, 1))
    weighed = apart if weights is None else ew.mul(apart, weights)
    return squeeze(ew.true_divide(mm(apart, t(weighed)), norm))


@reported("aten::corrcoef")
def corrcoef(input: Tensor) -> Tensor:
    """The correlations of variables, which are the rows of `input`; see `cov`.

    Raises:
        RuntimeError: more than two dimensions, or bools.
    """
    require_tensors("corrcoef", input=(1, input))
    if input._data.ndim > 2:
        raise RuntimeError(
            "corrcoef(): expected input to have two or fewer dimensions but got an input with "
            f"{input._data.ndim} dimensions"
        )
    c = cov(input)
    if not c._data.ndim:
        return ew.true_divide(c, c)
    deviations = ew.sqrt(diagonal(c))
    rows = ew.true_divide(c, reshape(deviations, -1, 1))
    return ew.clamp(ew.true_divide(rows, reshape(deviations, 1, -1)), -1, 1)
