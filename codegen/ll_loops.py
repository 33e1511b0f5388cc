"""Loops, and vector loads and stores, on an llvmlite builder.

The data structure is :class:`Loop`, what ``with for_range(...) as loop`` gives: the index, the
values carried from turn to turn, and their results afterwards. Loops whose bounds are Python ints
cost nothing that is not needed: no guard, no loop at all for one turn, no code for none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import llvmlite.ir as ll

from ..ir.types import DType
from .ll_types import I1, I8, I32, I64, POINTER, constant, memory_type, with_lanes

Index: TypeAlias = "int | ll.Value"


class Loop:
    """A loop under construction.

    Attributes:
        index: the ``i64`` index of this turn (a constant where there is only one turn).
        values: the carried values as this turn finds them.
        results: after the ``with`` block, the values as the last turn left them (the initial ones
            if there was no turn).
    """

    __slots__ = ("_yielded", "index", "results", "values")

    def __init__(self, index: ll.Value, values: list[ll.Value]) -> None:
        self.index = index
        self.values = values
        self.results: list[ll.Value] = []
        self._yielded: list[ll.Value] | None = None if values else []

    def yield_(self, *values: ll.Value) -> None:
        """Set what the next turn finds in ``values``. Call it once, at the end of the body."""
        if self._yielded is not None and self.values:
            raise ValueError("yield_ was called twice in one loop body")
        if len(values) != len(self.values):
            raise ValueError(f"the loop carries {len(self.values)} values, not {len(values)}")
        self._yielded = list(values)

    def _take_yielded(self) -> list[ll.Value]:
        if self._yielded is None:
            raise ValueError("a loop body with carried values must call yield_")
        return self._yielded


@contextmanager
def for_range(
    builder: ll.IRBuilder,
    start: Index,
    stop: Index,
    step: int = 1,
    name: str = "i",
    carried: Sequence[ll.Value] = (),
    unroll: bool | None = None,
) -> Iterator[Loop]:
    """Emit ``for index in range(start, stop, step)`` around the body of the ``with`` block.

    Args:
        builder: where to emit; positioned after the loop when the block ends.
        start, stop: bounds, Python ints or ``i64`` values.
        step: a positive Python int.
        name: prefix for the names of blocks and the index.
        carried: initial values of what the loop carries.
        unroll: False forbids LLVM to unroll or vectorise the loop, for bodies that are vector code
            already; None leaves it to LLVM.

    Raises:
        ValueError: ``step`` is not positive, or the body did not call ``yield_`` as it must.
    """
    if step <= 0:
        raise ValueError(f"a loop's step must be positive, not {step}")
    initial = list(carried)
    turns = None
    if isinstance(start, int) and isinstance(stop, int):
        turns = len(range(start, stop, step))
    if turns == 1:
        loop = Loop(_as_i64(start), initial)
        yield loop
        loop.results = loop._take_yielded()
    elif turns == 0:
        yield from _never(builder, initial, name)
    else:
        yield from _turning(builder, start, stop, step, turns, name, initial, unroll)


def _never(builder: ll.IRBuilder, initial: list[ll.Value], name: str) -> Iterator[Loop]:
    # The body is emitted all the same, where nothing leads to it; LLVM drops it.
    before = builder.block
    builder.position_at_end(builder.append_basic_block(f"{name}.never"))
    loop = Loop(I64(0), initial)
    yield loop
    loop._take_yielded()
    builder.unreachable()
    builder.position_at_end(before)
    loop.results = initial


def _turning(
    builder: ll.IRBuilder,
    start: Index,
    stop: Index,
    step: int,
    turns: int | None,
    name: str,
    initial: list[ll.Value],
    unroll: bool | None,
) -> Iterator[Loop]:
    first, last = _as_i64(start), _as_i64(stop)
    before = builder.block
    body = builder.append_basic_block(f"{name}.body")
    after = builder.append_basic_block(f"{name}.after")
    if turns is None:
        builder.cbranch(builder.icmp_signed("<", first, last), body, after)
    else:
        builder.branch(body)

    builder.position_at_end(body)
    index = builder.phi(I64, name)
    index.add_incoming(first, before)
    phis = []
    for value in initial:
        phi = builder.phi(value.type, f"{name}.carried")
        phi.add_incoming(value, before)
        phis.append(phi)
    loop = Loop(index, list(phis))
    yield loop

    yielded = loop._take_yielded()
    following = builder.add(index, I64(step), name=f"{name}.next", flags=("nsw",))
    index.add_incoming(following, builder.block)
    for phi, value in zip(phis, yielded, strict=True):
        phi.add_incoming(value, builder.block)
    end = builder.block
    branch = builder.cbranch(builder.icmp_signed("<", following, last), body, after)
    if unroll is False:
        branch.set_metadata("llvm.loop", _keep_as_is(builder.module))

    builder.position_at_end(after)
    if turns is None:
        for value, new in zip(initial, yielded, strict=True):
            result = builder.phi(value.type, f"{name}.result")
            result.add_incoming(value, before)
            result.add_incoming(new, end)
            loop.results.append(result)
    else:
        loop.results = yielded


def _keep_as_is(module: ll.Module) -> ll.MDValue:
    # A loop's metadata names itself first, which keeps that of different loops apart.
    hints = (
        module.add_metadata(["llvm.loop.unroll.disable"]),
        module.add_metadata(["llvm.loop.vectorize.enable", I1(0)]),
    )
    node = ll.MDValue(module, hints, name=str(len(module.metadata)))
    node.operands = (node, *hints)
    return node


@contextmanager
def loop_nest(
    builder: ll.IRBuilder, shape: Sequence[Index], name: str = "i"
) -> Iterator[list[ll.Value]]:
    """Emit one loop per extent of ``shape``, the last innermost, around the ``with`` block.

    Yields the indices. A shape of no extents runs the body once, an extent of 0 never.
    """
    with ExitStack() as stack:
        yield [
            stack.enter_context(for_range(builder, 0, extent, name=f"{name}{axis}")).index
            for axis, extent in enumerate(shape)
        ]


def element_pointer(
    builder: ll.IRBuilder, pointer: ll.Value, dtype: DType, offset: Index
) -> ll.Value:
    """``pointer`` moved on by ``offset`` elements."""
    if isinstance(offset, int) and offset == 0:
        return pointer
    return builder.gep(pointer, [_as_i64(offset)], inbounds=True, source_etype=memory_type(dtype))


def load_vector(
    builder: ll.IRBuilder,
    pointer: ll.Value,
    dtype: DType,
    lanes: int,
    active: Index | None = None,
    fill: ll.Value | None = None,
) -> ll.Value:
    """Load ``lanes`` consecutive elements, aligned as elements are.

    Args:
        builder: where to emit.
        pointer: the first element.
        dtype: the element type; a bool comes as ``i1``.
        lanes: lanes of the result; 1 gives a scalar.
        active: how many elements there are, a Python int or an ``i64``; memory from there on is not
            touched. None means all.
        fill: what the lanes without element hold, a vector of the memory type; zeros by default.
    """
    element = memory_type(dtype)
    type_ = with_lanes(element, lanes)
    if active is None or (isinstance(active, int) and active >= lanes):
        value = builder.load(pointer, align=dtype.itemsize, typ=type_)
    elif lanes == 1 or (isinstance(active, int) and active <= 0):
        raise ValueError(f"a load of {lanes} lanes cannot have {active} active ones")
    else:
        if fill is None:
            fill = ll.Constant(type_, None)
        value = builder.call(
            _masked_intrinsic(builder.module, "load", type_),
            [pointer, I32(dtype.itemsize), first_lanes(builder, active, lanes), fill],
        )
    if dtype.name == "b1":
        return builder.icmp_unsigned("!=", value, constant(I8, 0, lanes))
    return value


def store_vector(
    builder: ll.IRBuilder,
    value: ll.Value,
    pointer: ll.Value,
    dtype: DType,
    lanes: int,
    active: Index | None = None,
) -> None:
    """Store the first ``active`` lanes of ``value`` at consecutive elements.

    The rest of memory is not touched. Arguments as for :func:`load_vector`.
    """
    element = memory_type(dtype)
    type_ = with_lanes(element, lanes)
    if dtype.name == "b1":
        value = builder.zext(value, type_)
    if active is None or (isinstance(active, int) and active >= lanes):
        builder.store(value, pointer, align=dtype.itemsize)
    elif isinstance(active, int):
        _store_in_pieces(builder, value, pointer, dtype, lanes, active)
    else:
        builder.call(
            _masked_intrinsic(builder.module, "store", type_),
            [value, pointer, I32(dtype.itemsize), first_lanes(builder, active, lanes)],
        )


def _store_in_pieces(
    builder: ll.IRBuilder,
    value: ll.Value,
    pointer: ll.Value,
    dtype: DType,
    lanes: int,
    active: int,
) -> None:
    # One store per power of two: a masked store costs some 20 micro-operations on AMD's AVX2.
    done = 0
    while done < active:
        width = 1 << ((active - done).bit_length() - 1)
        if width == 1:
            piece = builder.extract_element(value, I32(done)) if lanes > 1 else value
        else:
            piece = builder.shuffle_vector(
                value, value, ll.Constant(ll.VectorType(I32, width), range_of(done, width))
            )
        builder.store(piece, element_pointer(builder, pointer, dtype, done), align=dtype.itemsize)
        done += width


def range_of(start: int, count: int) -> list[ll.Constant]:
    """The ``i32`` constants ``start, start + 1, ...``, as a shuffle takes them."""
    return [I32(start + lane) for lane in range(count)]


def first_lanes(builder: ll.IRBuilder, active: Index, lanes: int) -> ll.Value:
    """The mask whose first ``active`` of ``lanes`` lanes are set."""
    if isinstance(active, int):
        flags = [I1(lane < active) for lane in range(lanes)]
        return ll.Constant(ll.VectorType(I1, lanes), flags)
    positions = ll.Constant(ll.VectorType(I64, lanes), [I64(lane) for lane in range(lanes)])
    return builder.icmp_signed("<", positions, splat(builder, active, lanes))


def splat(builder: ll.IRBuilder, value: ll.Value, lanes: int) -> ll.Value:
    """A scalar in every lane."""
    if lanes == 1:
        return value
    type_ = ll.VectorType(value.type, lanes)
    undefined = ll.Constant(type_, ll.Undefined)
    first = builder.insert_element(undefined, value, I32(0))
    zeros = ll.Constant(ll.VectorType(I32, lanes), None)
    return builder.shuffle_vector(first, undefined, zeros)


def intrinsic(module: ll.Module, name: str, type_: ll.Type, arguments: int = 1) -> ll.Function:
    """Declare an intrinsic whose result and arguments have one type, such as ``llvm.sqrt``."""
    return _declare(module, f"{name}.{_suffix(type_)}", type_, [type_] * arguments)


def prefetch(builder: ll.IRBuilder, pointer: ll.Value, *, write: bool) -> None:
    """Ask for the cache line at ``pointer``, which need not be valid memory."""
    name, flag = "llvm.prefetch.p0", I32(1 if write else 0)
    function = _declare(builder.module, name, ll.VoidType(), [POINTER, I32, I32, I32])
    builder.call(function, [pointer, flag, I32(3), I32(1)])


def _masked_intrinsic(module: ll.Module, kind: str, type_: ll.Type) -> ll.Function:
    # Up to LLVM 21 the alignment is an argument; later versions read this form, too.
    mask = ll.VectorType(I1, type_.count)
    name = f"llvm.masked.{kind}.{_suffix(type_)}.p0"
    if kind == "load":
        return _declare(module, name, type_, [POINTER, I32, mask, type_])
    return _declare(module, name, ll.VoidType(), [type_, POINTER, I32, mask])


def _declare(
    module: ll.Module, name: str, result: ll.Type, arguments: list[ll.Type]
) -> ll.Function:
    found = module.globals.get(name)
    if found is None:
        found = ll.Function(module, ll.FunctionType(result, arguments), name)
    return found


def _suffix(type_: ll.Type) -> str:
    # How LLVM spells a type in the name of an overloaded intrinsic: f32, i64, v8f32.
    if isinstance(type_, ll.VectorType):
        return f"v{type_.count}{_suffix(type_.element)}"
    if isinstance(type_, ll.FloatType):
        return "f32"
    if isinstance(type_, ll.DoubleType):
        return "f64"
    return f"i{type_.width}"


def _as_i64(index: Index) -> ll.Value:
    return I64(index) if isinstance(index, int) else index
