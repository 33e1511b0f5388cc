"""Writing elements at positions along one axis, and folding them into what is there.

As in :mod:`.indexing`, positions are ``i64`` and non-negative, one out of bounds is an IndexError; attr ``axis`` is
one axis. The index may be smaller than ``x`` along the other axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..batching import one_axis, shifted
from ..graph import current_builder
from ..lowering import Expansion
from ..op import Op, primitive, registered
from ..types import TensorType, int64
from .arithmetic import zeros
from .comparison import eq, ge, lt
from .indexing import along, check_bounds, gather, index_copy, scatter_add
from .samples import FLOATS, INTEGERS, Sample, draw
from .selection import where
from .shape import broadcast_in_dim, reshape


def _shape_of_x(x: TensorType, index: TensorType, src: TensorType, **attrs: Any) -> TensorType:
    return x


def _scatter(x: np.ndarray, index: np.ndarray, src: np.ndarray, axis: int) -> np.ndarray:
    check_bounds(index, x.shape[axis], axis)
    result = np.array(x, order="C")
    if index.size:
        places = np.broadcast_arrays(*along(index, axis))
        # One after the other, so that the last one wins, as in native code.
        np.put(result, np.ravel_multi_index(places, x.shape), src)
    return result


def _expanded_scatter(x: Any, index: Any, src: Any, axis: int) -> Any:
    """In one row of all elements. A position out of bounds stays out of bounds."""
    shape, extents = tuple(x.shape), tuple(index.shape)
    steps = [int(np.prod(shape[d + 1 :])) for d in range(len(shape))]
    place = index * steps[axis]
    for d, count in enumerate(extents):
        if d != axis:
            row = current_builder().emit(registered("iota"), (), {"size": count, "dtype": int64})
            place = place + broadcast_in_dim(row * steps[d], shape=extents, dims=(d,))
    inside = registered("bit_and")(ge(index, 0), lt(index, shape[axis]))
    place = where(inside, place, -1)
    flat, source = ((int(np.prod(n)),) for n in (shape, extents))
    written = index_copy(
        reshape(x, shape=flat), reshape(place, shape=source), reshape(src, shape=source), axis=0
    )
    return reshape(written, shape=shape)


def _scatter_jvp(tangents: Any, out: Any, operands: Any, *, axis: int) -> Any:
    x, index, src = operands
    tx = zeros(x, shape=tuple(x.shape)) if tangents[0] is None else tangents[0]
    tsrc = zeros(src, shape=tuple(src.shape)) if tangents[2] is None else tangents[2]
    return scatter(tx, index, tsrc, axis=axis)


def _samples(rng: np.random.Generator, distinct: bool, dtypes: Any) -> Iterator[Sample]:
    for dtype in dtypes:
        for shape, extents, axis in (
            ((5,), (3,), 0),
            ((3, 5), (3, 2), 1),
            ((4, 5), (3, 5), 0),
            ((4, 3), (2, 2), 0),
            ((3, 2), (0, 2), 0),
        ):
            if distinct:
                keys = rng.random([*extents[:axis], shape[axis], *extents[axis + 1 :]])
                index = np.argsort(keys, axis=axis).take(range(extents[axis]), axis)
            else:
                index = rng.integers(0, shape[axis], extents)
            yield Sample(
                (draw(rng, shape, dtype), index, draw(rng, extents, dtype)), {"axis": axis}
            )


# x with src[i, j] at [index[i, j], j] (axis 0). Where positions repeat the last one wins; the derivative is torch's:
# each of them gets the cotangent.
scatter: Op = primitive(
    "scatter",
    operands=("x", "index", "src"),
    eval=_scatter,
    type_rule=_shape_of_x,
    vjps=(
        lambda ct, index, src_type, axis: scatter(
            ct, index, zeros(ct, shape=src_type.shape), axis=axis
        ),
        None,
        lambda ct, index, axis: gather(ct, index, axis=axis),
    ),
    jvp=_scatter_jvp,
    attrs=("axis",),
    batch=shifted(axis=one_axis),
    lower=Expansion(_expanded_scatter),
    samples=lambda rng: _samples(rng, True, FLOATS),
)

_FOLDS = {"mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _fold(x: np.ndarray, index: np.ndarray, src: np.ndarray, axis: int, reduce: str) -> np.ndarray:
    check_bounds(index, x.shape[axis], axis)
    result = np.array(x)
    _FOLDS[reduce].at(result, along(index, axis), src)
    return result


def _ones_where(hit: Any, like: Any) -> Any:
    return where(hit, zeros(like, shape=tuple(hit.shape)) + 1.0, 0.0)


def _shares(x: Any, index: Any, src: Any, out: Any, axis: int) -> tuple[Any, Any, Any]:
    """Which elements of x and src reach the extremum, and how many do so at each place."""
    kept, came = eq(x, out), eq(src, gather(out, index, axis=axis))
    count = scatter_add(_ones_where(kept, x), index, _ones_where(came, x), axis=axis)
    return kept, came, count


def _others_of_x(x: Any, index: Any, src: Any, axis: int) -> Any:
    ones = zeros(x, shape=tuple(x.shape)) + 1.0
    return scatter_fold(ones, index, src, axis=axis, reduce="mul")


def _others_of_src(x: Any, index: Any, src: Any, out: Any, axis: int) -> Any:
    """For each element of src the product of what else was multiplied, without a division by zero.

    Its own derivatives hold where zeros meet, too (the third one where no more than two do).
    """

    def at_place(value: Any) -> Any:
        return gather(value, index, axis=axis)

    zero, nothing = eq(src, 0.0), zeros(x, shape=tuple(x.shape))
    number = at_place(scatter_add(nothing, index, _ones_where(zero, x), axis=axis))
    rest = at_place(scatter_fold(x, index, where(zero, 1.0, src), axis=axis, reduce="mul"))
    # Of two zeros, the other one.
    other = at_place(scatter_add(nothing, index, where(zero, src, 0.0), axis=axis)) - src
    factor = where(eq(number, 1.0), 1.0, where(eq(number, 2.0), other, 0.0))
    return where(zero, rest * factor, at_place(out) / where(zero, 1.0, src))


def _x_vjp(ct: Any, x: Any, index: Any, src: Any, out: Any, axis: int, reduce: str) -> Any:
    if reduce == "mul":
        return ct * _others_of_x(x, index, src, axis)
    kept, _, count = _shares(x, index, src, out, axis)
    return where(kept, ct / count, 0.0)


def _src_vjp(ct: Any, x: Any, index: Any, src: Any, out: Any, axis: int, reduce: str) -> Any:
    if reduce == "mul":
        return gather(ct, index, axis=axis) * _others_of_src(x, index, src, out, axis)
    _, came, count = _shares(x, index, src, out, axis)
    return where(came, gather(ct / count, index, axis=axis), 0.0)


def _fold_jvp(tangents: Any, out: Any, operands: Any, *, axis: int, reduce: str) -> Any:
    x, index, src = operands
    tx, tsrc = tangents[0], tangents[2]
    total = zeros(x, shape=tuple(x.shape))
    if reduce == "mul":
        if tx is not None:
            total = tx * _others_of_x(x, index, src, axis)
        if tsrc is None:
            return total
        return scatter_add(total, index, tsrc * _others_of_src(x, index, src, out, axis), axis=axis)
    kept, came, count = _shares(x, index, src, out, axis)
    if tx is not None:
        total = where(kept, tx, 0.0)
    if tsrc is not None:
        total = scatter_add(total, index, where(came, tsrc, 0.0), axis=axis)
    return total / count


def _fold_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for reduce in _FOLDS:
        for sample in _samples(rng, False, (*FLOATS, *INTEGERS)):
            yield sample._replace(attrs={**sample.attrs, "reduce": reduce})


# x with src[i, j] folded into [index[i, j], j] (axis 0): the product, or an extremum, where equal ones share the
# cotangent.
scatter_fold: Op = primitive(
    "scatter_fold",
    operands=("x", "index", "src"),
    eval=_fold,
    type_rule=_shape_of_x,
    vjps=(_x_vjp, None, _src_vjp),
    jvp=_fold_jvp,
    attrs=("axis", "reduce"),
    batch=shifted(axis=one_axis),
    samples=_fold_samples,
)
