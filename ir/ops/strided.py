"""Views that are neither boxes nor permutations: diagonals, sliding windows, and any strides over a storage.

`diagonal` and `unfold` are affine in the coordinates, so that native code reads them in place. `as_strided` depends
on where its operand stands in memory, which a graph does not know: it is for eager execution only. A *geometry* is
a tuple (shape, strides, offset) in elements of a storage. Start with :data:`diagonal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..batching import all_batched, one_axis, shifted
from ..lowering import Movement
from ..memory import restrided
from ..op import Op, linear, primitive, registered
from ..types import Shape, TensorType
from .arithmetic import zeros
from .samples import FLOATS, with_attrs
from .shape import permute, reshape, slice_, slice_update

Geometry = tuple[Shape, Shape, int]


# Diagonals.


def _rest(ndim: int, dim1: int, dim2: int) -> tuple[int, ...]:
    return tuple(d for d in range(ndim) if d not in (dim1, dim2))


def _count(rows: int, columns: int, offset: int) -> int:
    return max(0, min(rows + min(offset, 0), columns - max(offset, 0)))


def _diagonal(x: np.ndarray, offset: int, dim1: int, dim2: int) -> np.ndarray:
    rest = _rest(x.ndim, dim1, dim2)
    count = _count(x.shape[dim1], x.shape[dim2], offset)
    step = x.strides[dim1] + x.strides[dim2]
    start = max(-offset, 0) * x.strides[dim1] + max(offset, 0) * x.strides[dim2]
    shape = (*(x.shape[d] for d in rest), count)
    return restrided(x, shape, (*(x.strides[d] for d in rest), step), start if count else 0)


def _diagonal_type(x: TensorType, *, offset: int, dim1: int, dim2: int) -> TensorType:
    lead = tuple(x.shape[d] for d in _rest(x.ndim, dim1, dim2))
    return TensorType(x.dtype, (*lead, _count(x.shape[dim1], x.shape[dim2], offset)))


def _diagonal_index(
    index: tuple[Any, ...], x: TensorType, out: TensorType, offset: int, dim1: int, dim2: int
) -> tuple[Any, ...]:
    result: list[Any] = [None] * x.ndim
    for position, d in enumerate(_rest(x.ndim, dim1, dim2)):
        result[d] = index[position]
    result[dim1] = index[-1] + max(-offset, 0)
    result[dim2] = index[-1] + max(offset, 0)
    return tuple(result)


def place_diagonal(x: Any, v: Any, *, offset: int, dim1: int, dim2: int) -> Any:
    """`x` with its diagonal replaced by `v`: every (columns + 1)-th element of the matrix laid out in one row."""
    if not v.shape[-1]:
        return x
    order = (*_rest(x.ndim, dim1, dim2), dim1, dim2)
    moved = permute(x, dims=order)
    shape = tuple(moved.shape)
    *lead, rows, columns = shape
    flat = reshape(moved, shape=(*lead, rows * columns))
    first = max(-offset, 0) * columns + max(offset, 0)
    flat = slice_update(
        flat,
        v,
        start=(0,) * len(lead) + (first,),
        sizes=tuple(v.shape),
        stride=(1,) * len(lead) + (columns + 1,),
    )
    back = tuple(order.index(d) for d in range(len(order)))
    return permute(reshape(flat, shape=shape), dims=back)


# The diagonal of two axes, as the last axis.
diagonal: Op = linear(
    "diagonal",
    eval=_diagonal,
    type_rule=_diagonal_type,
    transpose=lambda ct, x_type, offset, dim1, dim2: place_diagonal(
        zeros(ct, shape=x_type.shape), ct, offset=offset, dim1=dim1, dim2=dim2
    ),
    attrs=("offset", "dim1", "dim2"),
    batch=shifted(dim1=one_axis, dim2=one_axis),
    lower=Movement(_diagonal_index),
    samples=with_attrs(
        [
            ([(3, 4)], {"offset": 0, "dim1": 0, "dim2": 1}),
            ([(3, 4)], {"offset": -1, "dim1": 0, "dim2": 1}),
            ([(2, 3, 4)], {"offset": 1, "dim1": 2, "dim2": 0}),
            ([(2, 3)], {"offset": 5, "dim1": 0, "dim2": 1}),
        ],
        FLOATS,
    ),
)


# Sliding windows.


def _windows(extent: int, size: int, step: int) -> int:
    return (extent - size) // step + 1


def _unfold(x: np.ndarray, dim: int, size: int, step: int) -> np.ndarray:
    shape, strides = list(x.shape), list(x.strides)
    inner = strides[dim]
    shape[dim] = _windows(shape[dim], size, step)
    strides[dim] = inner * step
    return restrided(x, (*shape, size), (*strides, inner))


def _unfold_type(x: TensorType, *, dim: int, size: int, step: int) -> TensorType:
    count = _windows(x.shape[dim], size, step)
    return TensorType(x.dtype, (*x.shape[:dim], count, *x.shape[dim + 1 :], size))


def place_windows(x: Any, v: Any, *, dim: int, size: int, step: int) -> Any:
    """`x` with its windows replaced by `v`; where windows overlap the last one wins."""
    for part, box in _pieces(tuple(x.shape), v, dim, size, step):
        x = slice_update(x, part, **box)
    return x


def _add_windows(ct: Any, x_type: TensorType, dim: int, size: int, step: int) -> Any:
    total = zeros(ct, shape=x_type.shape)
    if step >= size:
        return place_windows(total, ct, dim=dim, size=size, step=step)
    for part, box in _pieces(x_type.shape, ct, dim, size, step):
        placed = slice_update(zeros(ct, shape=x_type.shape), part, **box)
        total = registered("add")(total, placed)
    return total


def _pieces(
    shape: Shape, v: Any, dim: int, size: int, step: int
) -> list[tuple[Any, dict[str, Any]]]:
    """The windows one by one, or the elements of equal place in all windows: whichever are fewer."""
    count, n = v.shape[dim], len(shape)
    one_by_one = count <= size
    axis = dim if one_by_one else n
    # Without the axis that is taken apart, the other one stands where `dim` was.
    order = [d for d in range(n) if d != dim]
    order.insert(dim, n if one_by_one else dim)
    pieces = []
    for i in range(count if one_by_one else size):
        start = tuple(i if d == axis else 0 for d in range(n + 1))
        limit = tuple(i + 1 if d == axis else extent for d, extent in enumerate(v.shape))
        part = slice_(v, start=start, limit=limit, stride=(1,) * (n + 1))
        part = permute(part, dims=(*order, axis))
        sizes = tuple(part.shape)[:-1]
        box = {
            "start": tuple((i * step if one_by_one else i) if d == dim else 0 for d in range(n)),
            "sizes": sizes,
            "stride": tuple(step if d == dim and not one_by_one else 1 for d in range(n)),
        }
        pieces.append((reshape(part, shape=sizes), box))
    return pieces


# Windows of `size` elements along an axis, every `step` elements; the place in the window is the last axis.
unfold: Op = linear(
    "unfold",
    eval=_unfold,
    type_rule=_unfold_type,
    transpose=_add_windows,
    attrs=("dim", "size", "step"),
    batch=shifted(dim=one_axis),
    lower=Movement(
        lambda index, x, out, dim, size, step: tuple(
            i * step + index[-1] if d == dim else i for d, i in enumerate(index[:-1])
        )
    ),
    samples=with_attrs(
        [
            ([(7,)], {"dim": 0, "size": 3, "step": 1}),
            ([(7, 2)], {"dim": 0, "size": 2, "step": 3}),
            ([(2, 6)], {"dim": 1, "size": 5, "step": 1}),
            ([(2, 4)], {"dim": 1, "size": 4, "step": 1}),
        ],
        FLOATS,
    ),
)


# Any strides.


def _positions(geometry: Geometry) -> np.ndarray:
    """Where in the storage each element stands."""
    shape, strides, offset = geometry
    positions = np.full(shape, offset)
    for axis, (n, stride) in enumerate(zip(shape, strides, strict=True)):
        positions += (np.arange(n) * stride).reshape(n, *(1,) * (len(shape) - axis - 1))
    return positions


def _storage(dtype: Any, *positions: np.ndarray) -> np.ndarray:
    return np.zeros(max((int(p.max()) + 1 for p in positions if p.size), default=0), dtype)


def _restride(x: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    origin, wanted = _positions(source), _positions(target)
    storage = _storage(x.dtype, origin, wanted)
    np.add.at(storage, origin, x)
    return storage[wanted]


def _stacked(
    op: Op, size: int, operands: Sequence[Any], batched: Sequence[bool], attrs: dict[str, Any]
) -> Any:
    """The batching rule: the examples stand in one storage, one behind the other."""
    geometries = (attrs["source"], attrs["target"])
    extent = 1 + max(
        offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True) if n)
        for shape, strides, offset in geometries
    )
    source, target = (
        ((size, *shape), (extent, *strides), offset) for shape, strides, offset in geometries
    )
    op = restride if op is as_strided else op
    return op(*all_batched(size, operands, batched), source=source, target=target)


# The elements of x, which stand in a storage of zeros as `source` says, read as `target` says.
restride: Op = linear(
    "restride",
    eval=_restride,
    type_rule=lambda x, *, source, target: TensorType(x.dtype, target[0]),
    transpose=lambda ct, source, target: restride(ct, source=target, target=source),
    attrs=("source", "target"),
    batch=_stacked,
    samples=with_attrs(
        [
            ([(4,)], {"source": ((4,), (1,), 0), "target": ((2, 2), (1, 1), 1)}),
            ([(2, 2)], {"source": ((2, 2), (1, 1), 1), "target": ((4,), (1,), 0)}),
        ],
        FLOATS,
    ),
)


def _as_strided(x: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    shape, strides, offset = target
    _, own, start = source
    itemsize = x.itemsize
    if x.strides != tuple(s * itemsize for s in own):
        return _restride(x, source, target)
    in_bytes = tuple(s * itemsize for s in strides)
    return restrided(x, shape, in_bytes, (offset - start) * itemsize)


# The storage of x, which stands there as `source` says, read as `target` says.
as_strided: Op = primitive(
    "as_strided",
    eval=_as_strided,
    type_rule=lambda x, *, source, target: TensorType(x.dtype, target[0]),
    vjps=(lambda ct, source, target: restride(ct, source=target, target=source),),
    jvp=lambda tangents, out, operands, *, source, target: restride(
        tangents[0], source=source, target=target
    ),
    attrs=("source", "target"),
    batch=_stacked,
    samples=with_attrs(
        [([(2, 3)], {"source": ((2, 3), (3, 1), 0), "target": ((2, 2), (1, 1), 1)})], FLOATS
    ),
)


def _update_strided(x: np.ndarray, v: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    origin, written = _positions(source), _positions(target)
    storage = _storage(x.dtype, origin, written)
    storage[origin] = x
    storage[written] = v
    return storage[origin]


def _update_strided_jvp(
    tangents: Any, out: Any, operands: Any, *, source: Geometry, target: Geometry
) -> Any:
    x, v = (
        zeros(operand, shape=tuple(operand.shape)) if tangent is None else tangent
        for tangent, operand in zip(tangents, operands, strict=True)
    )
    return strided_update(x, v, source=source, target=target)


# x after `target` of its storage was overwritten with v.
strided_update: Op = primitive(
    "strided_update",
    operands=("x", "v"),
    eval=_update_strided,
    type_rule=lambda x, v, *, source, target: x,
    vjps=(
        lambda ct, source, target: strided_update(
            ct, zeros(ct, shape=target[0]), source=source, target=target
        ),
        lambda ct, source, target: restride(ct, source=source, target=target),
    ),
    jvp=_update_strided_jvp,
    attrs=("source", "target"),
    batch=_stacked,
    samples=with_attrs(
        [([(5,), (2,)], {"source": ((5,), (1,), 0), "target": ((2,), (2,), 1)})], FLOATS
    ),
)
