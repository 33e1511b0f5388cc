"""Emitting a kernel's instructions at one point of its iteration space, for a scalar or for
vectors.

The data structures are :class:`Point`, where the loops stand and how many vectors of how many lanes
are computed there at once, and :class:`Body`, which emits instructions and stores. A value that
does not vary along the vectors' axis is a scalar, and is computed once, outside of the loops that
it does not vary with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import llvmlite.ir as ll

from ..ir.lowering import Generated
from ..ir.types import DType, int64
from .engine import Host
from .index import Affine
from .kernel import (
    Apply,
    Buffer,
    Constant,
    Load,
    LoopKernel,
    MultiplyAdd,
    OutOfBounds,
    Position,
    Store,
)
from .ll_loops import element_pointer, load_vector, store_vector
from .ll_scalar import Element, LLScalarBuilder
from .ll_types import I32, I64, constant
from .loop_order import LoopOrder

Values = list[Element]
"""A value of the body: one Element where it is the same for all vectors, else one per vector."""


@dataclass(frozen=True, slots=True)
class Point:
    """Where the loops stand.

    Attributes:
        variables: per loop axis its variable, an ``i64`` value or an int; None for axes not entered
            yet.
        lanes: elements of a vector.
        count: vectors that are computed side by side.
        active: how many lanes of the last vector exist.
    """

    variables: tuple[ll.Value | int | None, ...]
    lanes: int = 1
    count: int = 1
    active: int = 1

    def entered(self, position: int, variable: ll.Value | int) -> Point:
        """The point with one more variable known."""
        variables = list(self.variables)
        variables[position] = variable
        return Point(tuple(variables), self.lanes, self.count, self.active)

    def vectors(self, lanes: int, count: int, active: int) -> Point:
        """The point with other vectors."""
        return Point(self.variables, lanes, count, active)

    def active_in(self, number: int) -> int:
        """How many lanes of one of the vectors exist."""
        return self.active if number == self.count - 1 else self.lanes


class Body:
    """Emits the instructions of one kernel.

    Attributes:
        b: where to emit.
        s: the same as a scalar builder.
        depth: per instruction the number of loops that it stands in.
        is_vector: per instruction whether its value differs between lanes.
    """

    def __init__(
        self,
        builder: ll.IRBuilder,
        host: Host,
        kernel: LoopKernel,
        order: LoopOrder,
        pointers: Callable[[Buffer], ll.Value],
        given: dict[int, Element] | None = None,
    ) -> None:
        """
        Args:
            builder: where to emit.
            host: the CPU.
            kernel: what to emit.
            order: its loops.
            pointers: the memory of a buffer.
            given: values of instructions that are known already.
        """
        self.b = builder
        self.s = LLScalarBuilder(builder, host)
        self.host = host
        self.kernel = kernel
        self.order = order
        self.pointers = pointers
        self.given = given or {}
        self.depth, self.is_vector = self._place_instructions()
        self._needed = self._find_needed()

    def _place_instructions(self) -> tuple[list[int], list[bool]]:
        depth: list[int] = []
        is_vector: list[bool] = []
        vector = self.order.vector
        for number, instruction in enumerate(self.kernel.instructions):
            inner, across = 0, False
            if number in self.given:
                inner, across = len(self.order.extents), True
            elif isinstance(instruction, (Load, Position)):
                for position, a in enumerate(self.order.project(instruction.offset)):
                    if a:
                        inner = position + 1
                        across = across or position == vector
            operands: Sequence[int] = getattr(instruction, "operands", ())
            if isinstance(instruction, Load):
                operands = [value for value, _ in instruction.dynamic]
            for operand in operands:
                inner = max(inner, depth[operand])
                across = across or is_vector[operand]
            depth.append(inner)
            is_vector.append(across)
        return depth, is_vector

    def _find_needed(self) -> list[bool]:
        needed = [False] * len(self.kernel.instructions)
        for sink in self.kernel.sinks():
            needed[sink.value] = True
            if isinstance(sink, Store):
                for value, _ in sink.dynamic:
                    needed[value] = True
        for number in range(len(needed) - 1, -1, -1):
            if needed[number] and number not in self.given:
                instruction = self.kernel.instructions[number]
                for operand in getattr(instruction, "operands", ()):
                    needed[operand] = True
                if isinstance(instruction, Load):
                    for value, _ in instruction.dynamic:
                        needed[value] = True
        return needed

    def emit_depth(self, depth: int, point: Point, values: dict[int, Values]) -> None:
        """Emit the instructions that stand in so many loops; `values` receives their values."""
        for number, found in enumerate(self.depth):
            if found == depth and self._needed[number]:
                values[number] = self._emit(number, point, values)

    def _emit(self, number: int, point: Point, values: dict[int, Values]) -> Values:
        known = self.given.get(number)
        if known is not None:
            return [known]
        instruction = self.kernel.instructions[number]
        count = point.count if self.is_vector[number] else 1
        match instruction:
            case Constant():
                return [self.s.const(instruction.value, instruction.dtype)]
            case Load():
                return self._emit_load(instruction, self.is_vector[number], point, values)
            case Position():
                return self._emit_position(instruction, self.is_vector[number], point)
        found = [values[operand] for operand in instruction.operands]
        return [
            self._emit_operation(instruction, [v[u] if len(v) > 1 else v[0] for v in found])
            for u in range(count)
        ]

    def _emit_operation(
        self, instruction: Apply | MultiplyAdd | OutOfBounds, x: list[Element]
    ) -> Element:
        s = self.s
        match instruction:
            case Apply():
                lower = instruction.node.op.lower
                emit = lower.lower if isinstance(lower, Generated) else lower
                result: Element = emit(s, *x, **instruction.node.attrs)
                return result
            case MultiplyAdd():
                factor = s.neg(x[0]) if instruction.negate_product else x[0]
                addend = s.neg(x[2]) if instruction.negate_addend else x[2]
                return s.fma(factor, x[1], addend)
            case OutOfBounds():
                if instruction.extent is None:
                    return s.eq(x[0], s.like(0, x[0]))
                return s.bit_or(
                    s.lt(x[0], s.like(0, x[0])), s.ge(x[0], s.like(instruction.extent, x[0]))
                )

    # Addresses.

    def offset(self, offset: Affine, point: Point) -> ll.Value | int:
        """The value of an offset at the first lane of the first vector."""
        b = self.b
        total: ll.Value | int = offset.constant
        for a, variable in zip(self.order.project(offset), point.variables, strict=True):
            if not a or variable is None:
                continue
            if isinstance(variable, int):
                term: ll.Value | int = a * variable
            else:
                term = variable if a == 1 else b.mul(variable, I64(a), flags=("nsw",))
            total = self._sum(total, term)
        return total

    def _sum(self, x: ll.Value | int, y: ll.Value | int) -> ll.Value | int:
        if isinstance(x, int) and isinstance(y, int):
            return x + y
        if isinstance(x, int):
            x, y = y, x
        if isinstance(y, int):
            return x if y == 0 else self.b.add(x, I64(y), flags=("nsw",))
        return self.b.add(x, y, flags=("nsw",))

    def stride(self, offset: Affine) -> int:
        """How far an offset moves from lane to lane."""
        return self.order.project(offset)[self.order.vector] if self.order.vector >= 0 else 0

    def _emit_position(self, position: Position, is_vector: bool, point: Point) -> Values:
        base = self.offset(position.offset, point)
        first = Element(I64(base) if isinstance(base, int) else base, int64)
        if not is_vector:
            return [first]
        stride = self.stride(position.offset)
        results = []
        for u in range(point.count):
            steps = [I64((u * point.lanes + lane) * stride) for lane in range(point.lanes)]
            step = (
                ll.Constant(ll.VectorType(I64, point.lanes), steps) if point.lanes > 1 else steps[0]
            )
            results.append(self.s.add(first, Element(step, int64)))
        return results

    # Memory.

    def _emit_load(
        self, load: Load, is_vector: bool, point: Point, values: dict[int, Values]
    ) -> Values:
        base = self.offset(load.offset, point)
        pointer = self.pointers(load.buffer.real)
        stride = self.stride(load.offset)
        if not is_vector:
            for value, scale in load.dynamic:
                base = self._sum(base, self._scaled(values[value][0].value, scale))
            return [self._load_one(pointer, load.dtype, base)]
        results = []
        for u in range(point.count):
            at = self._sum(base, u * point.lanes * stride)
            moving = self._moving(load.dynamic, values, u)
            if moving is not None:
                lanes = [
                    self._sum(self._sum(at, lane * stride), moving(lane))
                    for lane in range(point.active_in(u))
                ]
                results.append(self._load_scattered(pointer, load.dtype, lanes, point.lanes))
                continue
            for value, scale in load.dynamic:
                at = self._sum(at, self._scaled(values[value][0].value, scale))
            results.append(self._load_lanes(pointer, load.dtype, at, stride, point, u))
        return results

    def _scaled(self, value: ll.Value, scale: int) -> ll.Value:
        return value if scale == 1 else self.b.mul(value, I64(scale), flags=("nsw",))

    def _moving(
        self, dynamic: tuple[tuple[int, int], ...], values: dict[int, Values], u: int
    ) -> Callable[[int], ll.Value | int] | None:
        """The sum of the dynamic parts of an offset as a function of the lane, if it varies."""
        if not any(self.is_vector[value] for value, _ in dynamic):
            return None

        def part(lane: int) -> ll.Value | int:
            total: ll.Value | int = 0
            for value, scale in dynamic:
                found = values[value]
                element = (found[u] if len(found) > 1 else found[0]).value
                if self.is_vector[value] and isinstance(element.type, ll.VectorType):
                    element = self.b.extract_element(element, I32(lane))
                total = self._sum(total, self._scaled(element, scale))
            return total

        return part

    def _load_one(self, pointer: ll.Value, dtype: DType, at: ll.Value | int) -> Element:
        place = element_pointer(self.b, pointer, dtype, at)
        return Element(load_vector(self.b, place, dtype, 1), dtype)

    def _load_lanes(
        self, pointer: ll.Value, dtype: DType, at: ll.Value | int, stride: int, point: Point, u: int
    ) -> Element:
        lanes, active = point.lanes, point.active_in(u)
        if lanes == 1:
            return self._load_one(pointer, dtype, at)
        if stride == 1:
            place = element_pointer(self.b, pointer, dtype, at)
            return Element(load_vector(self.b, place, dtype, lanes, active), dtype)
        if stride == -1 and active == lanes:
            place = element_pointer(self.b, pointer, dtype, self._sum(at, 1 - lanes))
            found = load_vector(self.b, place, dtype, lanes)
            backwards = [I32(lane) for lane in range(lanes - 1, -1, -1)]
            mask = ll.Constant(ll.VectorType(I32, lanes), backwards)
            return Element(self.b.shuffle_vector(found, found, mask), dtype)
        places = [self._sum(at, lane * stride) for lane in range(active)]
        return self._load_scattered(pointer, dtype, places, lanes)

    def _load_scattered(
        self, pointer: ll.Value, dtype: DType, places: list[ll.Value | int], lanes: int
    ) -> Element:
        if lanes == 1:
            return self._load_one(pointer, dtype, places[0])
        vector = constant(dtype, 0, lanes)
        for lane, at in enumerate(places):
            element = self._load_one(pointer, dtype, at).value
            vector = self.b.insert_element(vector, element, I32(lane))
        return Element(vector, dtype)

    def emit_stores(self, point: Point, values: dict[int, Values]) -> None:
        """Emit the kernel's stores, in their order."""
        for store in self.kernel.stores:
            self.emit_store(store, values[store.value], point, values)

    def emit_store(
        self, store: Store, value: Values, point: Point, values: dict[int, Values]
    ) -> None:
        """Store a value (which may be a scalar, for all lanes) at a point."""
        base = self.offset(store.offset, point)
        pointer = self.pointers(store.buffer.real)
        stride = self.stride(store.offset)
        for u in range(point.count):
            element = self.s.spread(value[u] if len(value) > 1 else value[0], point.lanes)
            at = self._sum(base, u * point.lanes * stride)
            moving = self._moving(store.dynamic, values, u)
            if moving is None:
                for dynamic, scale in store.dynamic:
                    at = self._sum(at, self._scaled(values[dynamic][0].value, scale))
                if stride == 1 or point.lanes == 1:
                    self._store_lanes(store, pointer, element, at, point.lanes, point.active_in(u))
                    continue
            for lane in range(point.active_in(u)):
                to = self._sum(at, lane * stride)
                if moving is not None:
                    to = self._sum(to, moving(lane))
                single = element.value
                if point.lanes > 1:
                    single = self.b.extract_element(single, I32(lane))
                self._store_lanes(store, pointer, Element(single, element.dtype), to, 1, 1)

    def _store_lanes(
        self,
        store: Store,
        pointer: ll.Value,
        element: Element,
        at: ll.Value | int,
        lanes: int,
        active: int,
    ) -> None:
        dtype = store.buffer.type.dtype
        place = element_pointer(self.b, pointer, dtype, at)
        if store.accumulate:
            before = Element(load_vector(self.b, place, dtype, lanes, active), dtype)
            element = self.s.add(before, element)
        store_vector(self.b, element.value, place, dtype, lanes, active)
