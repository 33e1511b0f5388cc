"""Kernels: what the back end emits, one after another.

A :class:`LoopKernel` is one iteration space (static extents), a list of instructions that are
executed at each point of it, and sinks: stores, and folds (reductions) along some of its axes. Its
instructions are built on demand from what its sinks need by a :class:`BodyBuilder`, which inlines
pointwise nodes and turns movement nodes into index arithmetic. The other kernels are matrix
products, scans along an axis, decisions (guards, bounds) and steps that Python has to do.

Values of a body are numbered by the position of their instruction; operands come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

from ..ir.graph import Node
from ..ir.types import DType, Shape, TensorType, bool_
from .index import Affine
from .placement import Region


class Buffer:
    """Memory for one array, C-contiguous.

    Attributes:
        name: for people.
        type: of the array.
        role: who owns the memory: ``input`` and ``result`` are the caller's, ``constant`` lies in
            the code's read-only data, ``temporary`` in the arena or on the stack.
        number: of the input or result.
        data: the bytes of a constant.
        alias: the buffer that this one turned out to be: an update that is written in place.
    """

    __slots__ = ("alias", "data", "name", "number", "role", "type")

    def __init__(
        self,
        name: str,
        type: TensorType,
        role: Literal["input", "result", "constant", "temporary"],
        number: int = 0,
        data: bytes = b"",
    ) -> None:
        self.name = name
        self.type = type
        self.role = role
        self.number = number
        self.data = data
        self.alias: Buffer | None = None

    @property
    def real(self) -> Buffer:
        """Itself, or the buffer that it is an alias of."""
        return self if self.alias is None else self.alias

    def __repr__(self) -> str:
        return f"<Buffer {self.name}: {self.type}>"


class Load(NamedTuple):
    """An element of a buffer, at ``offset`` plus, per dynamic part, a value times a stride."""

    dtype: DType
    buffer: Buffer
    offset: Affine
    dynamic: tuple[tuple[int, int], ...] = ()


class Constant(NamedTuple):
    """A constant."""

    dtype: DType
    value: float | int | bool


class Position(NamedTuple):
    """An affine expression of the loop variables itself, as an ``i64``."""

    dtype: DType
    offset: Affine


class Apply(NamedTuple):
    """An op on values of the body."""

    dtype: DType
    node: Node
    operands: tuple[int, ...]


class MultiplyAdd(NamedTuple):
    """``x * y + z`` rounded once, with the product or the addend negated."""

    dtype: DType
    node: Node
    operands: tuple[int, ...]
    negate_product: bool
    negate_addend: bool


class OutOfBounds(NamedTuple):
    """Whether an index lies outside of ``[0, extent)``; for None whether a divisor is zero."""

    dtype: DType
    operands: tuple[int, ...]
    extent: int | None


Instruction: TypeAlias = "Load | Constant | Position | Apply | MultiplyAdd | OutOfBounds"


class Store(NamedTuple):
    """Write a value at an offset; with ``accumulate`` add it to what is there."""

    value: int
    buffer: Buffer
    offset: Affine
    dynamic: tuple[tuple[int, int], ...] = ()
    accumulate: bool = False


class Fold(NamedTuple):
    """Combine a value over the kernel's reduced axes, and store the result.

    Attributes:
        value: what is folded.
        buffer, offset: where the result goes; the offset does not vary along reduced axes.
        combine: ``combine(s, accumulator, element)``.
        start: the neutral element.
        compensated: whether it is a sum of floats, to be added with care for rounding.
    """

    value: int
    buffer: Buffer
    offset: Affine
    combine: Callable[..., Any]
    start: float | int | bool
    compensated: bool


class Extremum(NamedTuple):
    """Store the position along an axis of the first largest or smallest element (a NaN is both)."""

    value: int
    buffer: Buffer
    offset: Affine
    greatest: bool


class Running(NamedTuple):
    """Store at each point what the elements up to there along an axis are combined to.

    Attributes:
        combine: ``combine(s, accumulator, element)``.
        start: the neutral element.
    """

    value: int
    buffer: Buffer
    offset: Affine
    combine: Callable[..., Any]
    start: float | int | bool


class LoopKernel:
    """Instructions executed at each point of an iteration space; see the module docstring.

    Attributes:
        extents: of the iteration space; none is 0 or 1.
        instructions: the body.
        stores: what is written at each point.
        folds: what is reduced along `reduced`.
        scan: an argmax, an argmin or a running sum (product, ...) along the one axis in `reduced`.
        reduced: numbers of the axes that the folds or the scan run along.
        ordered: whether points must be visited one at a time, in row-major order.
        nodes: the roots, for people.
        region: the part of an array that the loops run over, where it is cut into several, each with a
            kernel of its own.
    """

    __slots__ = (
        "extents",
        "folds",
        "instructions",
        "nodes",
        "ordered",
        "reduced",
        "region",
        "scan",
        "stores",
    )

    def __init__(
        self,
        extents: Shape,
        reduced: frozenset[int] = frozenset(),
        region: Region | None = None,
    ) -> None:
        self.extents = extents
        self.region = region
        self.instructions: list[Instruction] = []
        self.stores: list[Store] = []
        self.folds: list[Fold] = []
        self.scan: Extremum | Running | None = None
        self.reduced = reduced
        self.ordered = False
        self.nodes: list[Node] = []

    def reads(self) -> Iterable[Buffer]:
        for instruction in self.instructions:
            if isinstance(instruction, Load):
                yield instruction.buffer.real
        for store in self.stores:
            if store.accumulate:
                yield store.buffer.real

    def writes(self) -> Iterable[Buffer]:
        for sink in self.sinks():
            yield sink.buffer.real

    def sinks(self) -> Iterable[Store | Fold | Extremum | Running]:
        yield from self.stores
        yield from self.folds
        if self.scan is not None:
            yield self.scan

    def writes_in_place(self, buffer: Buffer, target: Buffer) -> bool:
        """Whether `buffer`, written here, may be the memory of `target`, which may be read here
        too.

        So it is if each element of `target` is read only at the very point that writes it.
        """
        loads = [
            i for i in self.instructions if isinstance(i, Load) and i.buffer.real is target.real
        ]
        if not loads:
            return True
        offsets = set()
        for sink in self.sinks():
            if sink.buffer is buffer:
                if not isinstance(sink, Store) or sink.dynamic or sink.accumulate:
                    return False
                offsets.add(sink.offset)
        return len(offsets) == 1 and all(
            not load.dynamic and load.offset in offsets for load in loads
        )


class View(NamedTuple):
    """An array in a buffer, seen with strides, in elements."""

    buffer: Buffer
    offset: int
    shape: Shape
    strides: tuple[int, ...]


class MatmulKernel:
    """A batched matrix product of two views.

    Attributes:
        a, b: the factors, of the result's rank; stride 0 along axes that they are broadcast along.
        out: the result's buffer, row-major; None where the epilogue needs only the element.
        epilogue: a kernel over the result's iteration space that is executed for each finished
            element; its loads of `product` are that element.
        product: the buffer that stands for the result in the epilogue.
    """

    __slots__ = ("a", "b", "epilogue", "node", "out", "product")

    def __init__(self, node: Node, a: View, b: View, out: Buffer) -> None:
        self.node = node
        self.a = a
        self.b = b
        self.out: Buffer | None = out
        self.product = out
        self.epilogue: LoopKernel | None = None

    def reads(self) -> Iterable[Buffer]:
        yield self.a.buffer.real
        yield self.b.buffer.real
        if self.epilogue is not None:
            for buffer in self.epilogue.reads():
                if buffer is not self.product:
                    yield buffer

    def writes(self) -> Iterable[Buffer]:
        if self.out is not None:
            yield self.out.real
        if self.epilogue is not None:
            yield from self.epilogue.writes()

    def writes_in_place(self, buffer: Buffer, target: Buffer) -> bool:
        """See :meth:`LoopKernel.writes_in_place`."""
        if target.real in (self.a.buffer.real, self.b.buffer.real):
            return False
        if self.epilogue is None:
            return True
        if self.out is not None and buffer is self.out:
            return all(b is not target.real for b in self.epilogue.reads())
        return self.epilogue.writes_in_place(buffer, target)


class DecisionKernel:
    """Leave with a status unless a stored bool has the wanted value."""

    __slots__ = ("buffer", "node", "status", "wanted")

    def __init__(self, node: Node, buffer: Buffer, wanted: bool, status: int) -> None:
        self.node = node
        self.buffer = buffer
        self.wanted = wanted
        self.status = status

    def reads(self) -> Iterable[Buffer]:
        yield self.buffer.real

    def writes(self) -> Iterable[Buffer]:
        return ()

    def writes_in_place(self, buffer: Buffer, target: Buffer) -> bool:
        return True


class PythonStep:
    """A node that NumPy evaluates between two pieces of native code.

    Attributes:
        node: the node.
        operands: views of its operands.
        out: where the result goes.
        reason: why it is not native; None for a large matrix product, which BLAS does better.
    """

    __slots__ = ("node", "operands", "out", "reason")

    def __init__(
        self, node: Node, operands: tuple[View, ...], out: Buffer, reason: str | None
    ) -> None:
        self.node = node
        self.operands = operands
        self.out = out
        self.reason = reason

    def reads(self) -> Iterable[Buffer]:
        for view in self.operands:
            yield view.buffer.real

    def writes(self) -> Iterable[Buffer]:
        yield self.out.real

    def writes_in_place(self, buffer: Buffer, target: Buffer) -> bool:
        return all(view.buffer.real is not target.real for view in self.operands)


Kernel: TypeAlias = "LoopKernel | MatmulKernel | DecisionKernel | PythonStep"


def flag_type() -> TensorType:
    """The type of the result of a check."""
    return TensorType(bool_, ())
