"""Batching rules: what an op becomes when some of its operands are stacks of examples.

An op is declared together with its batching rule (``batch=`` of the declarators in :mod:`.op`). A rule is called as
``rule(op, size, operands, batched, attrs)``: operands that are ``batched`` carry an axis of extent ``size`` in front,
the others are the same for all examples; the result carries the axis in front. Rules are written with the ops
themselves, so they work on arrays, Tensors and graph nodes, are differentiated and compiled like anything else, and
nest. Pointwise ops need none (see :meth:`Op.batch`). Most others are one of the makers below: start with
:func:`shifted`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .op import Op, registered
from .types import Shape


class Batched:
    """A stack of values (arrays or nodes) that takes part in operations as if it were one of them.

    A derivative rule that is given a Batched cotangent computes for all examples at once, and does not notice.

    Hot: a Jacobian is a sweep over these.

    Attributes:
        value: the stack, with the axis of the examples in front.
    """

    __slots__ = ("value",)
    __array_ufunc__ = None

    def __init__(self, value: Any) -> None:
        self.value = value

    @property
    def shape(self) -> Shape:
        """Of one example."""
        return self.value.shape[1:]

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    @property
    def ndim(self) -> int:
        return self.value.ndim - 1

    @staticmethod
    def __apply_op__(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Batched:
        values, batched = [], []
        size = 0
        for x in operands:
            there = x.__class__ is Batched
            batched.append(there)
            if there:
                x = x.value
                size = x.shape[0]
            values.append(x)
        return Batched(op.batch(size, values, batched, attrs))

    def __neg__(self) -> Batched:
        return registered("neg")(self)

    def __add__(self, other: Any) -> Batched:
        return registered("add")(self, other)

    def __radd__(self, other: Any) -> Batched:
        return registered("add")(other, self)

    def __sub__(self, other: Any) -> Batched:
        return registered("sub")(self, other)

    def __rsub__(self, other: Any) -> Batched:
        return registered("sub")(other, self)

    def __mul__(self, other: Any) -> Batched:
        return registered("mul")(self, other)

    def __rmul__(self, other: Any) -> Batched:
        return registered("mul")(other, self)

    def __truediv__(self, other: Any) -> Batched:
        return registered("div")(self, other)

    def __rtruediv__(self, other: Any) -> Batched:
        return registered("div")(other, self)


BatchRule = Callable[[Op, int, Sequence[Any], Sequence[bool], dict[str, Any]], Any]


def spread_out(x: Any, size: int) -> Any:
    """`x` once for each example: an axis of extent `size` in front."""
    shape = tuple(x.shape)
    return registered("broadcast_in_dim")(
        x, shape=(size, *shape), dims=tuple(range(1, len(shape) + 1))
    )


def all_batched(size: int, operands: Sequence[Any], batched: Sequence[bool]) -> list[Any]:
    """The operands with the batch axis in front of each."""
    return [x if there else spread_out(x, size) for x, there in zip(operands, batched, strict=True)]


def shifted(**attrs_of: Callable[[Any, int], Any]) -> BatchRule:
    """A rule for ops whose attributes name axes or extents: the operands, all batched, and adapted attributes.

    Args:
        attrs_of: for each attribute that changes a function of (its value, the batch size): `axes`, `one_axis`,
            `extents`, `zeros_in_front`, `ones_in_front`.
    """

    def rule(
        op: Op, size: int, operands: Sequence[Any], batched: Sequence[bool], attrs: dict[str, Any]
    ) -> Any:
        adapted = dict(attrs)
        for name, adapt in attrs_of.items():
            adapted[name] = adapt(attrs[name], size)
        if False in batched:
            operands = all_batched(size, operands, batched)
        return op(*operands, **adapted)

    return rule


def axes(value: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Numbers of axes, all one further back."""
    return tuple(axis + 1 for axis in value)


def one_axis(value: int, size: int) -> int:
    """The number of an axis, one further back."""
    return value + 1


def axes_after_batch(value: tuple[int, ...], size: int) -> tuple[int, ...]:
    """A map of axes that leaves the batch axis where it is."""
    return (0, *axes(value, size))


def extents(value: Shape, size: int) -> Shape:
    """A shape, with the batch axis."""
    return (size, *value)


def zeros_in_front(value: Shape, size: int) -> Shape:
    """Offsets: none along the batch axis."""
    return (0, *value)


def ones_in_front(value: Shape, size: int) -> Shape:
    """Steps: one along the batch axis."""
    return (1, *value)


def batch_product(
    op: Op, size: int, operands: Sequence[Any], batched: Sequence[bool], attrs: dict[str, Any]
) -> Any:
    """The rule of ``matmul``: leading axes are aligned; where one matrix serves all examples one large product does."""
    x, y = operands
    if batched[0] and not batched[1] and x.ndim > 2 and y.ndim == 2:
        *lead, m, k = x.shape
        rows = m
        for extent in lead:
            rows *= extent
        flat = registered("reshape")(x, shape=(rows, k))
        return registered("reshape")(op(flat, y), shape=(*lead, m, y.shape[1]))
    rank = max(v.ndim - there for v, there in zip(operands, batched, strict=True))
    return op(*[aligned(v, there, rank) for v, there in zip(operands, batched, strict=True)])


def aligned(x: Any, there: bool, rank: int) -> Any:
    """A batched operand with so many axes behind the batch axis that broadcasting finds its place."""
    missing = rank + 1 - x.ndim
    if not there or missing <= 0:
        return x
    shape = tuple(x.shape)
    return registered("reshape")(x, shape=(shape[0], *(1,) * missing, *shape[1:]))


def _flat_index(index: Any, size: int, lead: int, rest: Shape, before: Shape) -> Any:
    """A batched index of any rank as one of shape (size, *before, count, *rest): one position for each element."""
    count = 1
    for extent in tuple(index.shape)[1:]:
        count *= extent
    flat = registered("reshape")(index, shape=(size, count))
    return registered("broadcast_in_dim")(
        flat, shape=(size, *before, count, *rest), dims=(0, 1 + lead)
    )


def batch_take(
    op: Op, size: int, operands: Sequence[Any], batched: Sequence[bool], attrs: dict[str, Any]
) -> Any:
    """The rule of ``take``: its own where all examples read the same positions, ``gather`` elsewhere."""
    (x, index), axis = operands, attrs["axis"]
    if not batched[1]:
        return op(x, index, axis=axis + 1)
    if not batched[0]:
        taken = op(x, index, axis=axis)
        order = (axis, *(d for d in range(taken.ndim) if d != axis))
        return registered("permute")(taken, dims=order)
    shape = tuple(x.shape)
    before, rest = shape[1 : axis + 1], shape[axis + 2 :]
    flat = _flat_index(index, size, axis, rest, before)
    found = registered("gather")(x, flat, axis=axis + 1)
    return registered("reshape")(found, shape=(size, *before, *tuple(index.shape)[1:], *rest))


def _indexed_update(differing: Callable[[Op, int, Any, Any, Any, int], Any]) -> BatchRule:
    """The rule of an op that changes elements: its own where all examples change the same positions.

    Args:
        differing: ``differing(op, size, x, index, src, axis)``, with all operands batched, does it elsewhere.
    """

    def rule(
        op: Op, size: int, operands: Sequence[Any], batched: Sequence[bool], attrs: dict[str, Any]
    ) -> Any:
        index, axis = operands[1], attrs["axis"]
        x, _, src = all_batched(size, operands, (batched[0], True, batched[2]))
        if batched[1]:
            return differing(op, size, x, index, src, axis)
        return op(x, index, src, axis=axis + 1)

    return rule


def _index_add(op: Op, size: int, x: Any, index: Any, src: Any, axis: int) -> Any:
    shape = tuple(x.shape)
    before, rest = shape[1 : axis + 1], shape[axis + 2 :]
    flat = _flat_index(index, size, axis, rest, before)
    source = registered("reshape")(src, shape=(size, *before, flat.shape[axis + 1], *rest))
    return registered("scatter_add")(x, flat, source, axis=axis + 1)


batch_index_add = _indexed_update(_index_add)


def _index_copy(op: Op, size: int, x: Any, index: Any, src: Any, axis: int) -> Any:
    """The examples are laid side by side along the indexed axis."""
    reshape, permute = registered("reshape"), registered("permute")
    shape = tuple(x.shape)
    extent, before, rest = shape[axis + 1], shape[1 : axis + 1], shape[axis + 2 :]
    front = (0, axis + 1, *(d for d in range(1, x.ndim) if d != axis + 1))
    side_by_side = reshape(permute(x, dims=front), shape=(size * extent, *before, *rest))
    rank = index.ndim - 1
    moved = (0, *range(axis + 1, axis + 1 + rank))
    moved += tuple(d for d in range(1, src.ndim) if d not in moved)
    positions = _in_example(index, size, extent)
    (count,) = positions.shape
    values = reshape(permute(src, dims=moved), shape=(count, *before, *rest))
    copied = op(side_by_side, positions, values, axis=0)
    back = tuple(front.index(d) for d in range(x.ndim))
    return permute(reshape(copied, shape=tuple(shape[d] for d in front)), dims=back)


batch_index_copy = _indexed_update(_index_copy)


def _in_example(index: Any, size: int, extent: int) -> Any:
    """Positions in examples of this extent as positions in all of them side by side; -1 for one that is in none."""
    shape = tuple(index.shape)
    ones = registered("zeros")(index, shape=shape[:1]) + 1
    first = (registered("cumsum")(ones, axis=0) - 1) * extent
    first = registered("broadcast_in_dim")(first, shape=shape, dims=(0,))
    inside = registered("bit_and")(registered("ge")(index, 0), registered("lt")(index, extent))
    placed = registered("where")(inside, index + first, -1)
    count = 1
    for n in shape:
        count *= n
    return registered("reshape")(placed, shape=(count,))
