"""Reading and writing elements at positions that are data: gather, scatter, take, index_add, index_copy.

Index operands are ``i64`` and non-negative (negative positions are resolved before). A position out of bounds
is an IndexError in NumPy and a reported failure in native code, never a wild read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..batching import batch_index_add, batch_index_copy, batch_take, one_axis, shifted
from ..lowering import Special
from ..op import Op, primitive
from ..types import Shape, TensorType
from .arithmetic import zeros
from .samples import FLOATS, Sample, draw


def check_bounds(index: np.ndarray, extent: int, axis: int) -> None:
    """Raise IndexError for a position that is out of bounds."""
    if index.size and (index.min() < 0 or index.max() >= extent):
        wrong = int(index.min() if index.min() < 0 else index.max())
        raise IndexError(f"index {wrong} is out of bounds for dimension {axis} with size {extent}")


def _evaluate_gather(x: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    check_bounds(index, x.shape[axis], axis)
    return x[along(index, axis)]


def along(index: np.ndarray, axis: int) -> tuple[Any, ...]:
    """The index tuple that replaces the coordinate along `axis` by `index`."""
    grid: list[Any] = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    grid[axis] = index
    return tuple(grid)


def _evaluate_scatter_add(
    x: np.ndarray, index: np.ndarray, src: np.ndarray, axis: int
) -> np.ndarray:
    check_bounds(index, x.shape[axis], axis)
    result = np.array(x)
    np.add.at(result, along(index, axis), src)
    return result


def _gather_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for shape, index_shape, axis in (((4,), (6,), 0), ((3, 5), (3, 2), 1), ((3, 5), (2, 5), 0)):
            index = rng.integers(0, shape[axis], index_shape)
            yield Sample((draw(rng, shape, dtype), index), {"axis": axis})


def _scatter_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for (x, index), attrs in _gather_samples(rng):
        yield Sample((x, index, draw(rng, index.shape, x.dtype.str[1:])), attrs)


def _scatter_type(x: TensorType, index: TensorType, src: TensorType, *, axis: int) -> TensorType:
    return x


# out[i, j] = x[index[i, j], j] for axis 0, and so on: torch.gather.
gather: Op = primitive(
    "gather",
    operands=("x", "index"),
    eval=_evaluate_gather,
    type_rule=lambda x, index, *, axis: TensorType(x.dtype, index.shape),
    vjps=(
        lambda ct, index, x_type, axis: scatter_add(
            zeros(ct, shape=x_type.shape), index, ct, axis=axis
        ),
        None,
    ),
    jvp=lambda tangents, out, operands, *, axis: gather(tangents[0], operands[1], axis=axis),
    attrs=("axis",),
    batch=shifted(axis=one_axis),
    lower=Special("gather"),
    samples=_gather_samples,
)


def _scatter_add_jvp(tangents: Any, out: Any, operands: Any, *, axis: int) -> Any:
    x, index, _ = operands
    tx = zeros(x, shape=tuple(x.shape)) if tangents[0] is None else tangents[0]
    return tx if tangents[2] is None else scatter_add(tx, index, tangents[2], axis=axis)


# x with src[i, j] added at [index[i, j], j]; duplicates add up, in row-major order.
scatter_add: Op = primitive(
    "scatter_add",
    operands=("x", "index", "src"),
    eval=_evaluate_scatter_add,
    type_rule=_scatter_type,
    vjps=(lambda ct: ct, None, lambda ct, index, axis: gather(ct, index, axis=axis)),
    jvp=_scatter_add_jvp,
    attrs=("axis",),
    batch=shifted(axis=one_axis),
    lower=Special("scatter_add"),
    samples=_scatter_samples,
)


def taken_shape(x: Shape, index: Shape, axis: int) -> Shape:
    """The shape of ``take``: the axis is replaced by the axes of the index."""
    return (*x[:axis], *index, *x[axis + 1 :])


def _evaluate_take(x: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    check_bounds(index, x.shape[axis], axis)
    return np.take(x, index, axis=axis)


def _lead(axis: int) -> Any:
    """Full slices for the axes in front."""
    return (slice(None),) * axis


def _evaluate_index_add(x: np.ndarray, index: np.ndarray, src: np.ndarray, axis: int) -> np.ndarray:
    check_bounds(index, x.shape[axis], axis)
    result = np.array(x)
    np.add.at(result, (*_lead(axis), index), src)
    return result


def _evaluate_index_copy(
    x: np.ndarray, index: np.ndarray, src: np.ndarray, axis: int
) -> np.ndarray:
    check_bounds(index, x.shape[axis], axis)
    result = np.array(x)
    flat = index.ravel()
    values = src.reshape(*src.shape[:axis], flat.size, *src.shape[axis + index.ndim :])
    # Of positions that repeat the last one counts, as in native code.
    last = flat.size - 1 - np.unique(flat[::-1], return_index=True)[1]
    result[(*_lead(axis), flat[last])] = values.take(last, axis)
    return result


_TAKES: tuple[tuple[Shape, Shape, int], ...] = (
    ((4,), (6,), 0),
    ((4,), (), 0),
    ((3, 5), (2, 2), 1),
    ((3, 5), (4,), 0),
    ((3, 2), (0,), 0),
)


def _take_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for shape, index_shape, axis in _TAKES:
            index = np.asarray(rng.integers(0, shape[axis], index_shape))
            yield Sample((draw(rng, shape, dtype), index), {"axis": axis})


def _update_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for (x, index), attrs in _take_samples(rng):
        src = draw(rng, taken_shape(x.shape, index.shape, attrs["axis"]), x.dtype.str[1:])
        yield Sample((x, index, src), attrs)


def _copy_samples(rng: np.random.Generator) -> Iterator[Sample]:
    """Like `_update_samples` with distinct positions, where the derivative is defined."""
    for (x, index, src), attrs in _update_samples(rng):
        extent = x.shape[attrs["axis"]]
        if index.size <= extent:
            distinct = np.asarray(rng.permutation(extent)[: index.size].reshape(index.shape))
            yield Sample((x, distinct, src), attrs)


# x[..., index, ...] along one axis, with an index of any rank.
take: Op = primitive(
    "take",
    operands=("x", "index"),
    eval=_evaluate_take,
    type_rule=lambda x, index, *, axis: TensorType(
        x.dtype, taken_shape(x.shape, index.shape, axis)
    ),
    vjps=(
        lambda ct, index, x_type, axis: index_add(
            zeros(ct, shape=x_type.shape), index, ct, axis=axis
        ),
        None,
    ),
    jvp=lambda tangents, out, operands, *, axis: take(tangents[0], operands[1], axis=axis),
    attrs=("axis",),
    batch=batch_take,
    lower=Special("take"),
    samples=_take_samples,
)


def _index_add_jvp(tangents: Any, out: Any, operands: Any, *, axis: int) -> Any:
    x, index, _ = operands
    tx = zeros(x, shape=tuple(x.shape)) if tangents[0] is None else tangents[0]
    return tx if tangents[2] is None else index_add(tx, index, tangents[2], axis=axis)


index_add: Op = primitive(
    "index_add",
    operands=("x", "index", "src"),
    eval=_evaluate_index_add,
    type_rule=_scatter_type,
    vjps=(lambda ct: ct, None, lambda ct, index, axis: take(ct, index, axis=axis)),
    jvp=_index_add_jvp,
    attrs=("axis",),
    batch=batch_index_add,
    lower=Special("index_add"),
    samples=_update_samples,
)


def _index_copy_jvp(tangents: Any, out: Any, operands: Any, *, axis: int) -> Any:
    x, index, src = operands
    tx = zeros(x, shape=tuple(x.shape)) if tangents[0] is None else tangents[0]
    tsrc = zeros(src, shape=tuple(src.shape)) if tangents[2] is None else tangents[2]
    return index_copy(tx, index, tsrc, axis=axis)


# Where positions repeat the last one wins; the derivative then is that of torch: undefined.
index_copy: Op = primitive(
    "index_copy",
    operands=("x", "index", "src"),
    eval=_evaluate_index_copy,
    type_rule=_scatter_type,
    vjps=(
        lambda ct, index, src_type, axis: index_copy(
            ct, index, zeros(ct, shape=src_type.shape), axis=axis
        ),
        None,
        lambda ct, index, axis: take(ct, index, axis=axis),
    ),
    jvp=_index_copy_jvp,
    attrs=("axis",),
    batch=batch_index_copy,
    lower=Special("index_copy"),
    samples=_copy_samples,
)
