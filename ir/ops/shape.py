"""Rearranging elements: reshape, permute, broadcast, slice, pad, concat, flip. All linear.

Attrs are canonical: axes non-negative, shapes and bounds tuples of ints, slice steps positive.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..batching import (
    axes,
    axes_after_batch,
    extents,
    one_axis,
    ones_in_front,
    shifted,
    zeros_in_front,
)
from ..lowering import Movement, Placement
from ..op import Op, linear, primitive, registered
from ..types import Shape, TensorType
from .arithmetic import zeros
from .samples import NUMBERS, with_attrs


def _reshaped(x: TensorType, *, shape: Shape) -> TensorType:
    result = TensorType(x.dtype, shape)
    if result.size != x.size:
        raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {x.size}")
    return result


def _reshape_index(index: tuple[Any, ...], x: TensorType, out: TensorType, shape: Shape) -> Any:
    """Affine where dimensions are only merged into the result's, inserted or removed."""
    result: list[Any] = []
    inner = iter(zip(reversed(index), reversed(out.shape), strict=True))
    for extent in reversed(x.shape):
        coordinate: Any = 0
        covered = 1
        while covered < extent:
            i, n = next(inner)
            coordinate, covered = coordinate + i * covered if covered > 1 else i, covered * n
        if covered != extent:
            return None
        result.append(coordinate)
    return tuple(reversed(result))


reshape: Op = linear(
    "reshape",
    eval=lambda x, shape: x.reshape(shape),
    type_rule=_reshaped,
    transpose=lambda ct, x_type: reshape(ct, shape=x_type.shape),
    attrs=("shape",),
    batch=shifted(shape=extents),
    lower=Movement(_reshape_index),
    samples=with_attrs(
        [
            ([(6,)], {"shape": (2, 3)}),
            ([(2, 3)], {"shape": (6,)}),
            ([(2, 3)], {"shape": (3, 2)}),
            ([()], {"shape": (1, 1)}),
            ([(2, 1, 3)], {"shape": (2, 3)}),
            ([(0, 3)], {"shape": (3, 0, 2)}),
        ],
        NUMBERS,
    ),
)


def _inverse(dims: tuple[int, ...]) -> tuple[int, ...]:
    inverse = [0] * len(dims)
    for position, dim in enumerate(dims):
        inverse[dim] = position
    return tuple(inverse)


def _permuted(x: TensorType, *, dims: tuple[int, ...]) -> TensorType:
    if sorted(dims) != list(range(x.ndim)):
        raise RuntimeError(f"{dims} is no permutation of the axes of {x}")
    return TensorType(x.dtype, tuple(x.shape[d] for d in dims))


# Axis i of the result is axis dims[i] of the operand.
permute: Op = linear(
    "permute",
    eval=lambda x, dims: x.transpose(dims),
    type_rule=_permuted,
    transpose=lambda ct, dims: permute(ct, dims=_inverse(dims)),
    attrs=("dims",),
    batch=shifted(dims=axes_after_batch),
    lower=Movement(lambda index, x, out, dims: tuple(index[i] for i in _inverse(dims))),
    samples=with_attrs(
        [([(2, 3)], {"dims": (1, 0)}), ([(2, 3, 4)], {"dims": (2, 0, 1)}), ([()], {"dims": ()})],
        NUMBERS,
    ),
)


def swap_last(x: Any) -> Any:
    """Exchange the last two axes."""
    if x.__class__ is np.ndarray:
        return x.mT
    n = x.ndim
    return permute(x, dims=(*range(n - 2), n - 1, n - 2))


def _broadcast(x: np.ndarray, shape: Shape, dims: tuple[int, ...]) -> np.ndarray:
    expanded = [1] * len(shape)
    for dim, extent in zip(dims, np.shape(x), strict=True):
        expanded[dim] = extent
    if tuple(expanded) == shape:
        return np.reshape(x, shape)  # Unlike an expanded array it can be written to.
    if x.__class__ is np.ndarray and x.size == 1:
        # What the backward of every loss begins with. `broadcast_to` takes ten times as long.
        result = np.ndarray(shape, x.dtype, x, 0, (0,) * len(shape))
        result.flags.writeable = False
        return result
    return np.broadcast_to(np.reshape(x, expanded), shape)


def _broadcast_type(x: TensorType, *, shape: Shape, dims: tuple[int, ...]) -> TensorType:
    if len(dims) != x.ndim or list(dims) != sorted(set(dims)):
        raise RuntimeError(f"dims {dims} do not say where the axes of {x} go in {list(shape)}")
    for axis, dim in enumerate(dims):
        if x.shape[axis] not in (1, shape[dim]):
            raise RuntimeError(
                f"The expanded size of the tensor ({shape[dim]}) must match the existing size "
                f"({x.shape[axis]}) at non-singleton dimension {dim}.  Target sizes: {list(shape)}.  "
                f"Tensor sizes: {list(x.shape)}"
            )
    return TensorType(x.dtype, shape)


def _broadcast_transpose(ct: Any, x_type: TensorType, shape: Shape, dims: tuple[int, ...]) -> Any:
    summed = tuple(
        axis
        for axis in range(len(shape))
        if axis not in dims or (x_type.shape[dims.index(axis)] == 1 and shape[axis] != 1)
    )
    if summed:
        ct = registered("sum")(ct, axis=summed, keepdims=False)
    return ct if tuple(ct.shape) == x_type.shape else reshape(ct, shape=x_type.shape)


# Axis i of the operand becomes axis dims[i] of the result; dims increase.
broadcast_in_dim: Op = linear(
    "broadcast_in_dim",
    eval=_broadcast,
    type_rule=_broadcast_type,
    transpose=_broadcast_transpose,
    attrs=("shape", "dims"),
    batch=shifted(shape=extents, dims=axes_after_batch),
    lower=Movement(
        lambda index, x, out, shape, dims: tuple(
            0 if x.shape[axis] == 1 and shape[dim] != 1 else index[dim]
            for axis, dim in enumerate(dims)
        )
    ),
    samples=with_attrs(
        [
            ([()], {"shape": (2, 3), "dims": ()}),
            ([(3,)], {"shape": (2, 3), "dims": (1,)}),
            ([(2,)], {"shape": (2, 3), "dims": (0,)}),
            ([(2, 1)], {"shape": (2, 3), "dims": (0, 1)}),
            ([(1,)], {"shape": (0,), "dims": (0,)}),
        ],
        NUMBERS,
    ),
)


def _slice(x: np.ndarray, start: Shape, limit: Shape, stride: Shape) -> np.ndarray:
    return x[tuple(map(slice, start, limit, stride))]


def _slice_type(x: TensorType, *, start: Shape, limit: Shape, stride: Shape) -> TensorType:
    bounds = list(zip(start, limit, stride, x.shape, strict=True))
    if not all(0 <= a <= b <= extent and step > 0 for a, b, step, extent in bounds):
        raise RuntimeError(f"slice [{start}, {limit}) with steps {stride} does not fit {x}")
    return TensorType(x.dtype, tuple(-(-(b - a) // step) for a, b, step, _ in bounds))


def _slice_transpose(ct: Any, x_type: TensorType, start: Shape, stride: Shape) -> Any:
    background = zeros(ct, shape=x_type.shape)
    return slice_update(background, ct, start=start, sizes=tuple(ct.shape), stride=stride)


slice_: Op = linear(
    "slice",
    eval=_slice,
    type_rule=_slice_type,
    transpose=_slice_transpose,
    attrs=("start", "limit", "stride"),
    batch=shifted(start=zeros_in_front, limit=extents, stride=ones_in_front),
    lower=Movement(
        lambda index, x, out, start, limit, stride: tuple(
            i * step + a for i, a, step in zip(index, start, stride, strict=True)
        )
    ),
    samples=with_attrs(
        [
            ([(5,)], {"start": (1,), "limit": (4,), "stride": (1,)}),
            ([(5, 4)], {"start": (0, 1), "limit": (5, 4), "stride": (2, 3)}),
            ([(5,)], {"start": (2,), "limit": (2,), "stride": (1,)}),
        ],
        NUMBERS,
    ),
)


def _update_slice(
    x: np.ndarray, v: np.ndarray, start: Shape, sizes: Shape, stride: Shape
) -> np.ndarray:
    result = np.array(x)
    result[box(start, sizes, stride)] = v
    return result


def box(start: Shape, sizes: Shape, stride: Shape) -> tuple[slice, ...]:
    """The slices that select `sizes` elements from `start` on with this stride."""
    return tuple(
        slice(a, a + (n - 1) * step + 1 if n else a, step)
        for a, n, step in zip(start, sizes, stride, strict=True)
    )


def _update_type(
    x: TensorType, v: TensorType, *, start: Shape, sizes: Shape, stride: Shape
) -> TensorType:
    if v.shape != sizes or v.dtype is not x.dtype:
        raise RuntimeError(f"cannot place {v} into a box of sizes {list(sizes)} of {x}")
    return x


def _limit(start: Shape, sizes: Shape, stride: Shape) -> Shape:
    return tuple(s.stop for s in box(start, sizes, stride))


def _update_jvp(
    tangents: Any, out: Any, operands: Any, *, start: Shape, sizes: Shape, stride: Shape
) -> Any:
    x, v = (
        zeros(operand, shape=tuple(operand.shape)) if tangent is None else tangent
        for tangent, operand in zip(tangents, operands, strict=True)
    )
    return slice_update(x, v, start=start, sizes=sizes, stride=stride)


# x with the box replaced by v.
slice_update: Op = primitive(
    "slice_update",
    operands=("x", "v"),
    eval=_update_slice,
    type_rule=_update_type,
    vjps=(
        lambda ct, start, sizes, stride: slice_update(
            ct, zeros(ct, shape=sizes), start=start, sizes=sizes, stride=stride
        ),
        lambda ct, start, sizes, stride: slice_(
            ct, start=start, limit=_limit(start, sizes, stride), stride=stride
        ),
    ),
    jvp=_update_jvp,
    attrs=("start", "sizes", "stride"),
    batch=shifted(start=zeros_in_front, sizes=extents, stride=ones_in_front),
    lower=Placement(
        lambda types, out, start, sizes, stride: [(1, start, stride)], background="operand"
    ),
    samples=with_attrs(
        [
            ([(5,), (2,)], {"start": (1,), "sizes": (2,), "stride": (2,)}),
            ([(4, 3), (2, 3)], {"start": (1, 0), "sizes": (2, 3), "stride": (1, 1)}),
            ([(3,), (0,)], {"start": (0,), "sizes": (0,), "stride": (1,)}),
        ],
        NUMBERS,
    ),
)


def _pad(x: np.ndarray, low: Shape, high: Shape, value: float) -> np.ndarray:
    extents = zip(low, np.shape(x), high, strict=True)
    result = np.full(tuple(a + n + b for a, n, b in extents), value, x.dtype)
    result[box(low, x.shape, (1,) * x.ndim)] = x
    return result


def _pad_type(x: TensorType, *, low: Shape, high: Shape, value: float) -> TensorType:
    extents = zip(low, x.shape, high, strict=True)
    return TensorType(x.dtype, tuple(a + n + b for a, n, b in extents))


pad: Op = primitive(
    "pad",
    eval=_pad,
    type_rule=_pad_type,
    vjps=(
        lambda ct, x_type, low: slice_(
            ct,
            start=low,
            limit=tuple(a + n for a, n in zip(low, x_type.shape, strict=True)),
            stride=(1,) * len(low),
        ),
    ),
    jvp=lambda tangents, out, operands, *, low, high, value: pad(
        tangents[0], low=low, high=high, value=0
    ),
    attrs=("low", "high", "value"),
    batch=shifted(low=zeros_in_front, high=zeros_in_front),
    lower=Placement(
        lambda types, out, low, high, value: [(0, low, (1,) * len(low))], background="value"
    ),
    samples=with_attrs(
        [
            ([(3,)], {"low": (1,), "high": (2,), "value": 0}),
            ([(2, 3)], {"low": (0, 1), "high": (2, 0), "value": 1}),
        ],
        NUMBERS,
    ),
)


def _concat_type(*types: TensorType, axis: int) -> TensorType:
    first = types[0]
    for other in types[1:]:
        if other.dtype is not first.dtype:
            raise RuntimeError(
                f"expected operands of one dtype, but got {first.dtype} and {other.dtype}"
            )
        rest = [t.shape[:axis] + t.shape[axis + 1 :] for t in (first, other)]
        if first.ndim != other.ndim or rest[0] != rest[1]:
            raise RuntimeError(
                f"Sizes of tensors must match except in dimension {axis}. Got {first} and {other}"
            )
    extent = sum(t.shape[axis] for t in types)
    return TensorType(first.dtype, (*first.shape[:axis], extent, *first.shape[axis + 1 :]))


def _parts(types: Any, axis: int) -> Iterator[tuple[int, Shape, Shape]]:
    """Where each operand stands in the result: (number, start, step)."""
    offset = 0
    for number, type in enumerate(types):
        start = tuple(offset if i == axis else 0 for i in range(type.ndim))
        yield number, start, (1,) * type.ndim
        offset += type.shape[axis]


def _concat_vjp(ct: Any, index: int, types: Any, *, axis: int) -> Any:
    start = sum(t.shape[axis] for t in types[:index])
    bounds = [(0, n) for n in ct.shape]
    bounds[axis] = (start, start + types[index].shape[axis])
    return slice_(
        ct,
        start=tuple(a for a, _ in bounds),
        limit=tuple(b for _, b in bounds),
        stride=(1,) * len(bounds),
    )


def _concat_jvp(tangents: Any, out: Any, operands: Any, *, axis: int) -> Any:
    filled = (
        zeros(operand, shape=tuple(operand.shape)) if tangent is None else tangent
        for tangent, operand in zip(tangents, operands, strict=True)
    )
    return concat(*filled, axis=axis)


concat: Op = primitive(
    "concat",
    variadic=True,
    eval=lambda *xs, axis: np.concatenate(xs, axis=axis),
    type_rule=_concat_type,
    vjp=_concat_vjp,
    jvp=_concat_jvp,
    attrs=("axis",),
    batch=shifted(axis=one_axis),
    lower=Placement(lambda types, out, axis: _parts(types, axis)),
    samples=with_attrs(
        [
            ([(2,), (3,)], {"axis": 0}),
            ([(2, 3), (2, 1), (2, 0)], {"axis": 1}),
            ([(2, 3)], {"axis": 0}),
        ],
        NUMBERS,
    ),
)

flip: Op = linear(
    "flip",
    eval=lambda x, axes: np.flip(x, axes),
    type_rule=lambda x, *, axes: x,
    transpose=lambda ct, axes: flip(ct, axes=axes),
    attrs=("axes",),
    batch=shifted(axes=axes),
    lower=Movement(
        lambda index, x, out, axes: tuple(
            (x.shape[axis] - 1) - i if axis in axes else i for axis, i in enumerate(index)
        )
    ),
    samples=with_attrs([([(4,)], {"axes": (0,)}), ([(2, 3)], {"axes": (0, 1)})], NUMBERS),
)
