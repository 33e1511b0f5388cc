"""Reading and writing parts: ``x[...]`` with everything NumPy accepts, gather, index_select, index_add.

An index is taken apart once, by :func:`parse_index`: a *basic* part (integers, slices, None, ellipsis), which
makes a view, and at most one *advanced* part (index tensors, bool masks), which gathers.
"""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np

from tracegrad.dispatch import apply, composite, record, shown_as
from tracegrad.grad_mode import by_value, state
from tracegrad.inplace import (
    before_writing,
    bump_version,
    check_captured,
    check_in_place,
    check_part,
    set_history,
    store,
)
from tracegrad.ir.op import Op, registered
from tracegrad.ir.types import bool_, int64
from tracegrad.node import keep_traceback
from tracegrad.ops import elementwise as ew
from tracegrad.ops.arguments import as_tensor_operand, canonical_dim, is_number, to_dtype
from tracegrad.ops.conversion import copy_, fill_
from tracegrad.ops.shaping import expand, permute, reshape
from tracegrad.ops.striding import at_position
from tracegrad.ops.striding import diagonal as _diagonal
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, is_lifted, make_tensor, new_tensor
from tracegrad.views import apply_view, check_rebase

_slice = registered("slice")
_reshape = registered("reshape")
_take = registered("take")
_copy = registered("copy")
_index_copy = registered("index_copy")
_index_add = registered("index_add")
_update = registered("slice_update")


class Index(NamedTuple):
    """An index taken apart.

    Attributes:
        start, limit, stride: bounds of the basic part, for each dimension of the tensor.
        shape: the shape after the basic part, with integers dropped and None inserted.
        advanced: (dimension in `shape`, index) of the advanced part: int64 tensors or bool masks.
    """

    start: tuple[int, ...]
    limit: tuple[int, ...]
    stride: tuple[int, ...]
    shape: tuple[int, ...]
    advanced: tuple[tuple[int, Tensor], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The extents of the box, before integers are dropped."""
        bounds = zip(self.start, self.limit, self.stride, strict=True)
        return tuple(max(0, -(-(b - a) // step)) for a, b, step in bounds)

    def covers(self, x: Tensor) -> bool:
        """Whether the index is that of all of `x`, in its own shape."""
        shape = x._data.shape
        plain = not self.advanced and self.shape == shape
        return plain and self.sizes == shape


def _consumed(item: Any) -> int:
    """How many dimensions of the tensor an index item uses."""
    if item is None or isinstance(item, (bool, np.bool_)):
        return 0
    if isinstance(item, (Tensor, np.ndarray)):
        dtype = item._data.dtype if isinstance(item, Tensor) else item.dtype
        return item.ndim if dtype.kind == "b" else 1
    return 1


def parse_index(x: Tensor, key: Any) -> Index:
    """Take an index apart.

    Raises:
        IndexError: too many indices, an integer out of range, or a type that is no index.
    """
    items = list(key) if isinstance(key, tuple) else [key]
    shape = x._data.shape
    n = len(shape)
    if n == 0 and len(items) == 1:
        if isinstance(items[0], slice):
            raise IndexError("slice() cannot be applied to a 0-dim tensor.")
        if isinstance(items[0], (int, np.integer)) and not isinstance(items[0], (bool, np.bool_)):
            raise IndexError(
                "invalid index of a 0-dim tensor. Use `tensor.item()` in Python or `tensor.item<T>()` in C++ to "
                "convert a 0-dim tensor to a number"
                if items[0] == 0
                else f"index {items[0]} is out of bounds for dimension 0 with size 0"
            )
    consumed = sum(_consumed(item) for item in items if item is not Ellipsis)
    if consumed > n:
        raise IndexError(f"too many indices for tensor of dimension {n}")
    if sum(1 for item in items if item is Ellipsis) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    if not any(item is Ellipsis for item in items):
        items.append(Ellipsis)
    start, limit, stride, out_shape = [], [], [], []
    advanced: list[tuple[int, Tensor]] = []
    axis = 0

    def keep(extent: int, a: int = 0, b: int | None = None, step: int = 1) -> None:
        start.append(a)
        limit.append(extent if b is None else b)
        stride.append(step)

    for item in items:
        if item is Ellipsis:
            for _ in range(n - consumed):
                keep(shape[axis])
                out_shape.append(shape[axis])
                axis += 1
        elif item is None:
            out_shape.append(1)
        elif isinstance(item, (bool, np.bool_)):
            out_shape.append(1)
            advanced.append((len(out_shape) - 1, make_tensor(np.asarray([bool(item)]), item)))
        elif isinstance(item, slice):
            a, b, step = item.indices(shape[axis])
            count = len(range(a, b, step))
            if step < 0:
                raise ValueError(
                    "step must be greater than zero\nUse `flip` for elements in reverse order."
                )
            keep(shape[axis], a, max(a, b), step)
            out_shape.append(count)
            axis += 1
        elif isinstance(item, (Tensor, np.ndarray, list, range)):
            index = item if isinstance(item, Tensor) else make_tensor(np.asarray(item), item)
            if index.dtype is bool_ and not index._data.ndim:
                out_shape.append(1)
                advanced.append((len(out_shape) - 1, reshape(index, (1,))))
            elif index.dtype is bool_:
                for k in range(index._data.ndim):
                    if index._data.shape[k] != shape[axis + k]:
                        raise IndexError(
                            f"The shape of the mask {list(index.shape)} at index {k} does not match the "
                            f"shape of the indexed tensor {list(shape)} at index {axis + k}"
                        )
                advanced.append((len(out_shape), index))
                for _ in range(index._data.ndim):
                    keep(shape[axis])
                    out_shape.append(shape[axis])
                    axis += 1
            else:
                if index._data.dtype.kind not in "iu":
                    raise IndexError(
                        "tensors used as indices must be long, int, byte or bool tensors"
                    )
                advanced.append((len(out_shape), to_dtype(index, int64)))
                keep(shape[axis])
                out_shape.append(shape[axis])
                axis += 1
        else:
            try:
                position = operator.index(item)
            except TypeError:
                raise IndexError(
                    "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are "
                    f"valid indices (got {type(item).__name__})"
                ) from None
            extent = shape[axis]
            if not -extent <= position < extent:
                raise IndexError(
                    f"index {position} is out of bounds for dimension {axis} with size {extent}"
                )
            position %= extent
            keep(extent, position, position + 1)
            axis += 1
    return Index(tuple(start), tuple(limit), tuple(stride), tuple(out_shape), tuple(advanced))


def getitem(input: Tensor, key: Any) -> Tensor:
    """``input[key]``: a view for integers, slices, None and ellipsis; a copy for index tensors and masks."""
    if key.__class__ is int and input._data.ndim:
        extent = input._data.shape[0]
        if not -extent <= key < extent:
            raise IndexError(f"index {key} is out of bounds for dimension 0 with size {extent}")
        return at_position(input, 0, key)
    try:
        key = _plain_key(key)
        index = parse_index(input, key)
        part = _basic(input, index)
        if index.advanced:
            if part is not input and part._requires_grad:
                shown_as(part, _name_of(key), input)
            return shown_as(_gather_advanced(part, index), "IndexBackward0", part)
        return shown_as(part, _name_of(key), input) if part._requires_grad else part
    except Exception:
        if state.trace is None:
            raise
        return _without_trace(getitem, input, key)


def _without_trace(function: Any, *args: Any) -> Any:
    """What failed under a trace is done again without, so that the error is that of eager execution."""
    trace, state.trace = state.trace, None
    trace.give_up("an operation raises an exception")
    try:
        return function(*args)
    finally:
        state.trace = trace


def _name_of(key: Any) -> str:
    """What torch calls the record of a basic index: by its last part, for it makes one record per part."""
    items = key if isinstance(key, tuple) else (key,)
    for item in reversed(items):
        if isinstance(item, slice):
            if item != slice(None) or len(items) == 1:
                return "SliceBackward0"
        elif item is None or isinstance(item, (bool, np.bool_)):
            return "UnsqueezeBackward0"
        elif item is not Ellipsis and not isinstance(item, (Tensor, np.ndarray, list, range)):
            return "SelectBackward0"
    return "AliasBackward0"


def _basic(x: Tensor, index: Index) -> Tensor:
    part = x
    if index.limit != x._data.shape or any(index.start) or any(s != 1 for s in index.stride):
        attrs = {"start": index.start, "limit": index.limit, "stride": index.stride}
        part = apply_view(_slice, x, attrs)
    if part._data.shape != index.shape or (part is x and not index.advanced):
        part = apply_view(_reshape, part, {"shape": index.shape})
    return part


def _positions(mask: Tensor) -> list[Tensor]:
    """The coordinates of the true elements of a mask. Their number is data."""
    mask._escapes("a boolean mask as index")
    return [make_tensor(axis, axis) for axis in np.nonzero(mask._data)]


def _resolve(part: Tensor, index: Index) -> tuple[list[int], Tensor, tuple[int, ...]]:
    """The advanced part as one index into flattened dimensions: (dimensions, linear index, its shape)."""
    dims: list[int] = []
    indices: list[Tensor] = []
    for dim, item in index.advanced:
        if item.dtype is bool_:
            for k, positions in enumerate(_positions(item)):
                dims.append(dim + k)
                indices.append(positions)
        else:
            dims.append(dim)
            indices.append(item)
    shape = part._data.shape
    try:
        broadcast = np.broadcast_shapes(*(i._data.shape for i in indices))
    except ValueError:
        given = ", ".join(str(list(i.shape)) for i in indices)
        raise IndexError(
            f"shape mismatch: indexing tensors could not be broadcast together with shapes {given}"
        ) from None
    linear: Any = None
    for dim, item in zip(dims, indices, strict=True):
        extent = shape[dim]
        wrapped = ew.where(ew.lt(item, 0), ew.add(item, extent), item)
        if state.trace is None and item._data.size and not is_lifted(item):
            low, high = int(item._data.min()), int(item._data.max())
            if low < -extent or high >= extent:
                wrong = low if low < -extent else high
                raise IndexError(
                    f"index {wrong} is out of bounds for dimension {dim} with size {extent}"
                )
        elif len(dims) > 1:
            # Out of bounds in one dimension may be inside the flattened ones: check each by itself.
            wrapped = _checked(wrapped, extent)
        linear = wrapped if linear is None else ew.add(ew.mul(linear, extent), wrapped)
    return dims, linear, broadcast


def _checked(positions: Tensor, extent: int) -> Tensor:
    """The positions, taken from a range of this extent so that a position outside is an error."""
    every = apply(registered("iota"), (), {"size": extent, "dtype": int64})
    return apply(_take, (every, positions), {"axis": 0})


def _flattened(part: Tensor, dims: list[int]) -> tuple[Tensor, int]:
    """Bring the indexed dimensions together and merge them; where the merged dimension stands."""
    n = part._data.ndim
    adjacent = dims == list(range(dims[0], dims[0] + len(dims)))
    place = dims[0] if adjacent else 0
    rest = [d for d in range(n) if d not in dims]
    order = rest[:place] + dims + rest[place:]
    moved = part if order == list(range(n)) else permute(part, order)
    if len(dims) > 1:
        shape = moved._data.shape
        merged = math.prod(shape[place : place + len(dims)])
        moved = reshape(moved, (*shape[:place], merged, *shape[place + len(dims) :]))
    return moved, place


def _gather_advanced(part: Tensor, index: Index) -> Tensor:
    dims, linear, _ = _resolve(part, index)
    flat, place = _flattened(part, dims)
    return apply(_take, (flat, linear), {"axis": place})


def setitem(input: Tensor, key: Any, value: Any) -> None:
    """``input[key] = value``, in place, with gradients to both.

    Where nothing has to be recorded NumPy writes into the storage.

    Raises:
        RuntimeError: the value does not broadcast to the part, or `input` may not be changed in place.
    """
    if not isinstance(value, (Tensor, np.ndarray)) and not is_number(value):
        raise TypeError(f"can't assign a {type(value).__name__} to a {input.type()}")
    try:
        _setitem(input, key, value)
    except Exception:
        if state.trace is None:
            raise
        _without_trace(_setitem, input, key, value)


def _plain_key(key: Any) -> Any:
    """The key with integers for 0-d integer tensors: they select, as in torch."""
    if isinstance(key, tuple):
        return tuple([_plain_key(item) if isinstance(item, Tensor) else item for item in key])
    if isinstance(key, Tensor) and not key._data.ndim and key._data.dtype.kind in "iu":
        return key if is_lifted(key) else int(key)
    return key


def _setitem(input: Tensor, key: Any, value: Any) -> None:
    key = _plain_key(key)
    if state.levels:
        check_captured(input, "index_put_" if parse_index(input, key).advanced else "copy_")
    source = to_dtype(as_tensor_operand(value, input), input.dtype)
    recorded = state.grad and (input.requires_grad or source.requires_grad)
    if not by_value() and not recorded:
        check_in_place(input, fill=True)
        index = parse_index(input, key)
        _check_value(input, index, value)
        _write(input, key, index, source)
        bump_version(input)
        return
    if (
        isinstance(key, Tensor)
        and key.dtype is bool_
        and key._data.shape == input._data.shape
        and source._data.size == 1
    ):
        # A mask over everything with one value needs no positions.
        check_in_place(input)
        filled = ew.where(key, reshape(source, ()), before_writing(input))
        store(input, shown_as(filled, "IndexPutBackward0", input, source))
        return
    index = parse_index(input, key)
    if index.covers(input):
        if source._data.ndim or not input._data.ndim:
            copy_(input, _fit(source, input._data.shape))
        else:
            fill_(input, source)
        return
    if input._view is not None and input._view[3]:
        part = _basic(input, index)
        if part is not input:
            check_in_place(shown_as(part, _name_of(key), input))  # The error names the part.
    check_in_place(input, part=not index.advanced)
    before = before_writing(input)
    if index.advanced:
        _check_value(input, index, value)
        replaced = _with_elements(before, index, source)
        store(input, shown_as(replaced, "IndexPutBackward0", input, source))
        return
    part = _fit(source, index.shape)
    if not by_value():
        check_rebase(input)
        whole = new_tensor(input._data)
        boxed = part if part._data.shape == index.sizes else reshape(part, index.sizes)
        record(_update, (before, boxed), _box(index), whole)
        if state.anomaly and whole._grad_fn is not None:
            keep_traceback(whole._grad_fn)
        _write(input, key, index, source)
        set_history(input, shown_as(whole, "CopySlices", input, source))
    else:
        store(input, shown_as(_place(before, index, part), "CopySlices", input, source))


def _check_value(x: Tensor, index: Index, value: Any) -> None:
    """Raise torch's error if the value of an advanced assignment is a tensor of another dtype.

    One value for a mask is exempt: torch fills then.
    """
    if not index.advanced or not isinstance(value, Tensor) or value.dtype is x.dtype:
        return
    if value._data.size == 1 and all(item.dtype is bool_ for _, item in index.advanced):
        return
    raise RuntimeError(
        "Index put requires the source and destination dtypes match, got "
        f"{x.dtype.legacy_name} for the destination and {value.dtype.legacy_name} for the source."
    )


def _write(x: Tensor, key: Any, index: Index, source: Tensor) -> None:
    """Let NumPy assign a part. Repeated positions: the last one wins."""
    items = key if isinstance(key, tuple) else (key,)
    place = tuple([item._data if isinstance(item, Tensor) else item for item in items])
    data = source._data
    try:
        if not index.advanced:
            check_part(x._data[place], x, source)
        x._data[place] = data
    except IndexError as error:
        raise IndexError(str(error).replace("for axis", "for dimension")) from None
    except ValueError:
        _fit(source, x._data[place].shape, advanced=bool(index.advanced))
        raise


def _with_elements(x: Tensor, index: Index, source: Tensor, op: Op = _index_copy) -> Tensor:
    """`x` with the elements of an advanced index replaced (or added to, where `op` is index_add)."""
    part = _basic(x, index)
    dims, linear, broadcast = _resolve(part, index)
    flat, place = _flattened(part, dims)
    rest = [n for d, n in enumerate(part._data.shape) if d not in dims]
    target = (*rest[:place], *broadcast, *rest[place:])
    operands = flat, _spread(linear, broadcast), _fit(source, target, advanced=True)
    updated = apply(op, operands, {"axis": place})
    restored = _restore(updated, part, dims, place)
    whole = part._data.shape == x._data.shape and index.shape == x._data.shape
    return restored if whole else _place(x, index, restored)


def _spread(linear: Tensor, shape: tuple[int, ...]) -> Tensor:
    return linear if linear._data.shape == shape else expand(linear, shape)


def _fit(source: Tensor, shape: tuple[int, ...], *, advanced: bool = False) -> Tensor:
    """Broadcast a value to the part that it is assigned to."""
    given = source._data.shape
    lead = len(given) - len(shape)
    if lead > 0 and all(n == 1 for n in given[:lead]):
        source = reshape(source, given[lead:])
    if source._data.shape == shape:
        return source
    try:
        return expand(source, shape)
    except RuntimeError:
        if not advanced:
            raise
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(given)} cannot be broadcast to indexing result "
            f"of shape {list(shape)}"
        ) from None


def _place(x: Tensor, index: Index, value: Tensor) -> Tensor:
    """`x` with the basic part replaced."""
    boxed = value if value._data.shape == index.sizes else reshape(value, index.sizes)
    return apply(_update, (x, boxed), _box(index))


def _box(index: Index) -> dict[str, Any]:
    return {"start": index.start, "sizes": index.sizes, "stride": index.stride}


def _restore(flat: Tensor, part: Tensor, dims: list[int], place: int) -> Tensor:
    """Undo `_flattened`."""
    shape = part._data.shape
    rest = [d for d in range(len(shape)) if d not in dims]
    order = rest[:place] + dims + rest[place:]
    moved = flat if len(dims) == 1 else reshape(flat, tuple(shape[d] for d in order))
    if order == list(range(len(shape))):
        return moved
    inverse = [order.index(d) for d in range(len(shape))]
    return permute(moved, inverse)


@composite("IndexPutBackward0")
def index_put(input: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """`input` with the elements at ``input[indices]`` replaced by `values`, or with these added to them.

    Where positions repeat the last one wins; added values add up.

    Raises:
        RuntimeError: `values` has another dtype, or does not broadcast to the elements.
        IndexError: a position is out of bounds.
    """
    index = parse_index(input, tuple(indices))
    _check_value(input, index, values)
    source = to_dtype(values, input.dtype)
    return _with_elements(input, index, source, _index_add if accumulate else _index_copy)


@reported("aten::index_fill")
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """`input` with `value` at the positions in `index` along `dim`.

    Raises:
        RuntimeError: `value` is a tensor with dimensions.
    """
    if isinstance(value, Tensor) and value._data.ndim:
        raise RuntimeError(
            "index_fill_ only supports a 0-dimensional value tensor, but got tensor with "
            f"{value._data.ndim} dimension(s)."
        )
    axis = canonical_dim(dim, input._data.ndim)
    n = input._data.shape[axis] if input._data.ndim else 1
    positions = reshape(to_dtype(index, int64), (-1, 1))
    positions = _checked(ew.where(ew.lt(positions, 0), ew.add(positions, n), positions), n)
    every = apply(registered("iota"), (), {"size": n, "dtype": int64})
    hit = ew.eq(positions, every).any(0)
    hit = reshape(hit, (n, *(1,) * (input._data.ndim - axis - 1)) if input._data.ndim else ())
    name = "IndexFillBackward1" if isinstance(value, Tensor) else "IndexFillBackward0"
    return shown_as(ew.masked_fill(input, hit, value), name, input, value)


@composite("IndexCopyBackward0")
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """`input` with the slices of `source` at the positions in `index` along `dim`.

    Raises:
        RuntimeError: `source` has another dtype or shape.
    """
    axis = canonical_dim(dim, input._data.ndim)
    if source.dtype is not input.dtype:
        raise RuntimeError(
            "index_copy_(): self and source expected to have the same dtype, but got (self) "
            f"{input.dtype.legacy_name} and (source) {source.dtype.legacy_name}"
        )
    return apply(_index_copy, (input, to_dtype(index, int64), source), {"axis": axis})


@composite("MaskedScatterBackward0")
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """`input` with elements of `source`, in order, where `mask` is true.

    Raises:
        RuntimeError: `source` has another dtype, or too few elements.
    """
    if source.dtype is not input.dtype:
        raise RuntimeError(
            "masked_scatter: expected self and source to have same dtypes but got "
            f"{input.dtype.legacy_name} and {source.dtype.legacy_name}"
        )
    shape = np.broadcast_shapes(input._data.shape, mask._data.shape)
    whole, where = expand(input, shape), expand(mask, shape)
    count = int(where.sum())
    if count > source._data.size:
        raise RuntimeError(
            "masked_scatter: expected self and source to have same number of elements"
        )
    taken = getitem(reshape(source, (-1,)), slice(count))
    return _with_elements(whole, parse_index(whole, where), taken)


def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """``out[i][j] = input[index[i][j]][j]`` for dim 0, and so on.

    Raises:
        RuntimeError: index is not int64, or its shape does not fit.
        IndexError: a position is out of bounds.
    """
    axis = canonical_dim(dim, input._data.ndim)
    _check_index(input, index, axis)
    if input._data.ndim == 0:
        return reshape(gather(reshape(input, 1), 0, reshape(index, 1)), index.shape)
    return apply(registered("gather"), (_trimmed(input, index, axis), index), {"axis": axis})


def _check_index(x: Tensor, index: Tensor, axis: int) -> None:
    if index.dtype is not int64:
        raise RuntimeError("gather(): Expected dtype int32/int64 for index")
    if max(index._data.ndim, 1) != max(x._data.ndim, 1):
        raise RuntimeError("Index tensor must have the same number of dimensions as input tensor")
    for i, (a, b) in enumerate(zip(index._data.shape, x._data.shape, strict=False)):
        if i != axis and a > b:
            raise RuntimeError(
                f"Size does not match at dimension {i} expected index {list(index.shape)} to be no larger "
                f"than self {list(x.shape)} apart from dimension {axis}"
            )


def _trimmed(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """`x` cut to the extents of `index` in the other dimensions."""
    limit = tuple(
        n if i == axis else m
        for i, (n, m) in enumerate(zip(x._data.shape, index._data.shape, strict=True))
    )
    if limit == x._data.shape:
        return x
    n = x._data.ndim
    return apply_view(_slice, x, {"start": (0,) * n, "limit": limit, "stride": (1,) * n})


@composite("IndexSelectBackward0")
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of `input` along `dim` at the positions in `index` (rank 0 or 1)."""
    axis = canonical_dim(dim, input._data.ndim)
    if index._data.ndim > 1:
        raise IndexError("index_select(): Index is supposed to be a vector")
    flat = reshape(index, -1) if index._data.ndim == 0 else index
    return apply(_take, (input, to_dtype(flat, int64)), {"axis": axis})


def take_along_dim(input: Tensor, indices: Tensor, dim: int) -> Tensor:
    """`gather`, as NumPy calls it."""
    return gather(input, dim, indices)


@composite("IndexAddBackward0")
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """`input` with the slices of `source` added at the positions in `index` along `dim`."""
    axis = canonical_dim(dim, input._data.ndim)
    scaled = source if alpha == 1 else ew.mul(source, alpha)
    return apply(registered("index_add"), (input, to_dtype(index, int64), scaled), {"axis": axis})


@reported("aten::nonzero")
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The coordinates of elements that are not zero: a matrix, or a tuple with one tensor per dimension."""
    input._escapes("nonzero()")
    axes = np.nonzero(np.atleast_1d(input._data))[: max(input._data.ndim, 0) or None]
    if as_tuple:
        return tuple(make_tensor(axis, axis) for axis in axes)
    columns = (
        np.stack(axes, axis=1)
        if input._data.ndim
        else np.zeros((int(bool(input._data)), 0), np.int64)
    )
    return make_tensor(columns.astype(np.int64), columns)


@composite("MaskedSelectBackward0")
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where `mask` is true, in one dimension."""
    shape = np.broadcast_shapes(input._data.shape, mask._data.shape)
    return getitem(expand(input, shape), expand(mask, shape))


@composite("TrilBackward0")
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle; zero elsewhere."""
    return ew.where(_band(input, diagonal, lower=True), input, 0)


@composite("TriuBackward0")
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle; zero elsewhere."""
    return ew.where(_band(input, diagonal, lower=False), input, 0)


def _band(x: Tensor, diagonal: int, *, lower: bool) -> Tensor:
    rows, columns = (
        apply(registered("iota"), (), {"size": n, "dtype": int64}) for n in x._data.shape[-2:]
    )
    shifted = ew.add(reshape(rows, -1, 1), diagonal)
    return ew.le(columns, shifted) if lower else ew.ge(columns, shifted)


@reported("aten::diag")
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """A matrix's diagonal; or the matrix with this diagonal, of a vector."""
    if input._data.ndim == 2:
        return shown_as(
            apply(_copy, (_diagonal(input, diagonal),)), "DiagonalBackward0_copy", input
        )
    if input._data.ndim != 1:
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {input._data.ndim}D")
    n = input._data.shape[0] + abs(diagonal)
    rows = apply(registered("iota"), (), {"size": n, "dtype": int64})
    hit = ew.eq(ew.add(reshape(rows, -1, 1), diagonal), rows)
    lead, tail = max(diagonal, 0), max(-diagonal, 0)
    padded = apply(registered("pad"), (input,), {"low": (lead,), "high": (tail,), "value": 0})
    return shown_as(ew.where(hit, padded, 0), "DiagEmbedBackward0", input)


@composite("TraceBackward0")
def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    if input._data.ndim != 2:
        raise RuntimeError(f"trace: expected a matrix, but got tensor with dim {input._data.ndim}")
    return _diagonal(input).sum()
