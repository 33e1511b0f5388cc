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
from ..ir.lowering import Generated, Movement, Reduce
from ..ir.types import DType, Shape, TensorType, bool_, int64
from .index import Affine, Coordinates, linearize, row_major_strides


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
    """Whether an index is negative or not less than ``extent``; for extent None whether it is
    zero.
    """

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


class RunningSum(NamedTuple):
    """Store at each point the sum of the elements up to there along an axis."""

    value: int
    buffer: Buffer
    offset: Affine


class LoopKernel:
    """Instructions executed at each point of an iteration space; see the module docstring.

    Attributes:
        extents: of the iteration space; none is 0 or 1.
        instructions: the body.
        stores: what is written at each point.
        folds: what is reduced along `reduced`.
        scan: an argmax, an argmin or a cumsum along the one axis in `reduced`.
        reduced: numbers of the axes that the folds or the scan run along.
        ordered: whether points must be visited one at a time, in row-major order.
        nodes: the roots, for people.
    """

    __slots__ = (
        "extents",
        "folds",
        "instructions",
        "nodes",
        "ordered",
        "reduced",
        "scan",
        "stores",
    )

    def __init__(self, extents: Shape, reduced: frozenset[int] = frozenset()) -> None:
        self.extents = extents
        self.instructions: list[Instruction] = []
        self.stores: list[Store] = []
        self.folds: list[Fold] = []
        self.scan: Extremum | RunningSum | None = None
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

    def sinks(self) -> Iterable[Store | Fold | Extremum | RunningSum]:
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


class BodyBuilder:
    """Builds the instructions of one LoopKernel from the nodes that its sinks need.

    Attributes:
        kernel: what is built.
    """

    __slots__ = ("_contracted", "_known", "_memo", "_source", "kernel")

    def __init__(
        self,
        kernel: LoopKernel,
        source: Callable[[Node], Buffer | Constant | None],
        contracted: dict[Node, tuple[Node, int]],
    ) -> None:
        """
        Args:
            kernel: with its extents.
            source: for a node the buffer to load it from or the constant that it is everywhere;
                None if it has to be computed here.
            contracted: sums with the product among their operands that they are fused with, and its
                number.
        """
        self.kernel = kernel
        self._source = source
        self._contracted = contracted
        self._memo: dict[tuple[Node, Any], int] = {}
        self._known: dict[Any, int] = {}

    def add(self, instruction: Instruction) -> int:
        """The number of an instruction; equal ones are one."""
        # repr keeps 0.0 and -0.0 apart, which are equal.
        is_constant = isinstance(instruction, Constant)
        key = (instruction.dtype, repr(instruction.value)) if is_constant else instruction
        number = self._known.get(key)
        if number is None:
            number = len(self.kernel.instructions)
            self.kernel.instructions.append(instruction)
            self._known[key] = number
        return number

    def value(self, node: Node, index: Coordinates | Affine) -> int:
        """The number of the value of one element of a node.

        Args:
            node: the node.
            index: coordinates of the element, or its offset in row-major order.
        """
        memo = self._memo
        stack: list[tuple[Node, Any]] = [(node, index)]
        while stack:
            key = stack[-1]
            if key in memo:
                stack.pop()
                continue
            number = self._leaf(*key)
            if number is None:
                needed = self._needed(*key)
                missing = [entry for entry in needed if entry not in memo]
                if missing:
                    stack.extend(missing)
                    continue
                number = self._made(key[0], key[1], tuple([memo[entry] for entry in needed]))
            stack.pop()
            memo[key] = number
        return memo[node, index]

    def _offset(self, index: Coordinates | Affine, shape: Shape) -> Affine:
        if isinstance(index, Affine):
            return index
        return linearize(index, shape, len(self.kernel.extents))

    def _leaf(self, node: Node, index: Any) -> int | None:
        source = self._source(node)
        if source is None:
            return None
        if isinstance(source, Constant):
            return self.add(source)
        return self.add(Load(node.dtype, source, self._offset(index, node.shape)))

    def _needed(self, node: Node, index: Any) -> list[tuple[Node, Any]]:
        """The operands of an inlined node, with the index of the element that it reads."""
        lower = node.op.lower
        if isinstance(lower, Movement):
            x = node.inputs[0]
            if not isinstance(index, Affine):
                moved = lower.index(index, x.type, node.type, **node.attrs)
                if moved is not None:
                    return [(x, canonical(moved, x.shape))]
            return [(x, self._flat(node, x, index))]
        if isinstance(lower, Reduce):  # Along axes of extent 1 only.
            return [(node.inputs[0], self._unreduced(node, index))]
        if isinstance(lower, Generated):
            return [(x, (0,) * x.ndim) for x in node.inputs]
        if node.op.name in ("gather", "take"):
            return [(node.inputs[1], indexing_position(node, index))]
        product = self._contracted.get(node)
        if product is None:
            return [(x, self._broadcast(node, x, index)) for x in node.inputs]
        factors, number = product
        addend = node.inputs[1 - number]
        inner = self._broadcast(node, factors, index)
        return [
            *((x, self._broadcast(factors, x, inner)) for x in factors.inputs),
            (addend, self._broadcast(node, addend, index)),
        ]

    def _flat(self, node: Node, x: Node, index: Any) -> Any:
        """The index of the operand of a movement whose elements stay in row-major order."""
        if x.type.size == 1:
            return (0,) * x.ndim
        return self._offset(index, node.shape)

    def _unreduced(self, node: Node, index: Any) -> Any:
        x = node.inputs[0]
        if isinstance(index, Affine):
            return index
        if node.attrs["keepdims"]:
            return index
        kept = iter(index)
        return tuple([0 if i in node.attrs["axis"] else next(kept) for i in range(x.ndim)])

    @staticmethod
    def _broadcast(node: Node, x: Node, index: Any) -> Any:
        if x.type.size == 1:
            return (0,) * x.ndim
        if isinstance(index, Affine) or x.shape == node.shape:
            return index
        tail = index[len(index) - x.ndim :]
        return tuple([0 if n == 1 else i for i, n in zip(tail, x.shape, strict=True)])

    def _made(self, node: Node, index: Any, operands: tuple[int, ...]) -> int:
        lower = node.op.lower
        if isinstance(lower, (Movement, Reduce)):
            return operands[0]
        if isinstance(lower, Generated):
            position = self.add(Position(int64, self._offset(index, node.shape)))
            return self.add(Apply(node.dtype, node, (position, *operands)))
        if node.op.name in ("gather", "take"):
            return self.indexed_load(node, index, operands[0])
        product = self._contracted.get(node)
        if product is None:
            return self.add(Apply(node.dtype, node, operands))
        number = product[1]
        subtract = node.op.name == "sub"
        return self.add(
            MultiplyAdd(
                node.dtype, node, operands, subtract and number == 1, subtract and number == 0
            )
        )

    def indexed_load(self, node: Node, index: Any, position: int) -> int:
        """The element of a gather's or take's operand at the position that a value gives."""
        x = node.inputs[0]
        source = self._source(x)
        if isinstance(source, Constant):
            return self.add(source)
        assert source is not None
        offset, stride = indexed_offset(node, index, x.shape, len(self.kernel.extents))
        return self.add(Load(node.dtype, source, offset, ((position, stride),)))


def canonical(index: Iterable[Any], shape: Shape) -> Coordinates:
    """The coordinates, with a plain 0 along axes of extent 1."""
    return tuple([0 if n == 1 else i for i, n in zip(index, shape, strict=True)])


def indexing_position(node: Node, index: Coordinates) -> Coordinates:
    """Which element of the index operand belongs to an element of a result (or of ``src``)."""
    position = node.inputs[1]
    if node.op.name in ("gather", "scatter_add"):
        return canonical(index, position.shape)
    axis = node.attrs["axis"]
    return canonical(index[axis : axis + position.ndim], position.shape)


def indexed_offset(
    node: Node, index: Coordinates, shape: Shape, variables: int
) -> tuple[Affine, int]:
    """Where in the array that is indexed an element lies, without the indexed axis; and its
    stride.
    """
    axis = node.attrs["axis"]
    if node.op.name in ("gather", "scatter_add"):
        coordinates = (*index[:axis], 0, *index[axis + 1 :])
    else:
        coordinates = (*index[:axis], 0, *index[axis + node.inputs[1].ndim :])
    return linearize(coordinates, shape, variables), row_major_strides(shape)[axis]


def describe(kernel: Kernel, names: dict[Node, str]) -> str:
    """A kernel in words, for people."""
    match kernel:
        case LoopKernel():
            return _describe_loops(kernel, names)
        case MatmulKernel():
            lines = [
                f"matmul {names[kernel.node]}: {kernel.node.type} = "
                f"{_view_text(kernel.a)} @ {_view_text(kernel.b)}"
                + (f" -> {kernel.out.real.name}" if kernel.out is not None else "")
            ]
            if kernel.epilogue is not None:
                lines.append("  for each element of the product:")
                lines += ["  " + line for line in _body_lines(kernel.epilogue, names)]
            return "\n".join(lines)
        case DecisionKernel():
            what = "guard" if kernel.status == 1 else "check"
            return f"{what} {kernel.buffer.real.name}, else leave with status {kernel.status}"
        case PythonStep():
            reason = kernel.reason or "a large product, left to BLAS"
            node = kernel.node
            return f"python {names[node]}: {node.type} = {node.op.name}  # {reason}"


def _view_text(view: View) -> str:
    return f"{view.buffer.real.name}{list(view.shape)}:{list(view.strides)}"


def _describe_loops(kernel: LoopKernel, names: dict[Node, str]) -> str:
    head = f"loops over {list(kernel.extents)}" if kernel.extents else "straight code"
    if kernel.reduced:
        head += f", reducing {sorted(kernel.reduced)}"
    roots = ", ".join(dict.fromkeys(names[node] for node in kernel.nodes))
    return "\n".join([f"{head}: {roots}", *_body_lines(kernel, names)])


def _body_lines(kernel: LoopKernel, names: dict[Node, str]) -> list[str]:
    lines = []

    def place(buffer: Buffer, offset: Affine, dynamic: tuple[tuple[int, int], ...]) -> str:
        parts = [str(offset), *(f"{stride}*v{value}" for value, stride in dynamic)]
        return f"{buffer.real.name}[{' + '.join(parts)}]"

    for number, instruction in enumerate(kernel.instructions):
        match instruction:
            case Load():
                text = f"load {place(instruction.buffer, instruction.offset, instruction.dynamic)}"
            case Constant():
                text = f"const {instruction.value}"
            case Position():
                text = f"position {instruction.offset}"
            case Apply():
                operands = ", ".join(f"v{x}" for x in instruction.operands)
                node = instruction.node
                text = f"{node.op.name} {operands}  # {names[node]}"
            case MultiplyAdd():
                x, y, z = (f"v{x}" for x in instruction.operands)
                product = "-" if instruction.negate_product else ""
                sign = "-" if instruction.negate_addend else "+"
                text = f"fma {product}{x} * {y} {sign} {z}  # {names[instruction.node]}"
            case OutOfBounds():
                limit = (
                    "zero" if instruction.extent is None else f"outside [0, {instruction.extent})"
                )
                text = f"is v{instruction.operands[0]} {limit}"
        lines.append(f"  v{number}: {instruction.dtype.name} = {text}")
    for store in kernel.stores:
        verb = "add" if store.accumulate else "store"
        lines.append(
            f"  {verb} {place(store.buffer, store.offset, store.dynamic)} <- v{store.value}"
        )
    for fold in kernel.folds:
        lines.append(f"  fold {place(fold.buffer, fold.offset, ())} <- v{fold.value}")
    if kernel.scan is not None:
        lines.append(
            f"  scan {place(kernel.scan.buffer, kernel.scan.offset, ())} <- v{kernel.scan.value}"
        )
    return lines


def flag_type() -> TensorType:
    """The type of the result of a check."""
    return TensorType(bool_, ())
