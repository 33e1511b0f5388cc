"""From kernels to an LLVM module.

Each kernel becomes a function of its own, whose pointers are declared not to alias, which LLVM then
inlines or not; the *body* calls them in order. Where Python has to do a step there are several
bodies, *segments*, one between each two steps. Start reading at :func:`emit_program`; the data
structure is :class:`Segments`.

A body's signature is ``i32 body([ptr arena,] ptr input0, ..., ptr result0, ...)``; it returns 0, or
the status of the first decision that failed, in which case no input has been written to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import llvmlite.ir as ll

from .emit_body import Body, Point, Values
from .emit_loops import emit_loops
from .engine import Host
from .entry import ArraySpec, emit_entry
from .index import row_major_strides
from .kernel import Buffer, DecisionKernel, Kernel, Load, LoopKernel, MatmulKernel, PythonStep
from .ll_loops import element_pointer, loop_nest, prefetch, store_vector
from .ll_scalar import Element
from .ll_types import I8, I32, I64, POINTER, memory_type
from .loop_order import LoopOrder, body_weight, choose_order
from .matmul import emit_matmul
from .matmul_tiles import Expect
from .memory import ALIGNMENT, MemoryPlan
from .schedule import Schedule, product_spec

# A kernel whose body is not larger than this is always inlined.
_INLINED_WEIGHT = 40

# A product is inlined up to this many multiplications.
_INLINED_PRODUCT = 512

# Products that store more than this into the second level cache or beyond prefetch what they store.
_NEAR_BYTES = 128 * 1024
_CACHE_LINE = 64

# From about this many operations on other threads may run meanwhile (about 20 us).
_LONG = 200_000

# Kernels of one function, at most.
_PART = 40

# What follows a product is emitted in few places if its body is larger than this.
_COMPACT_WEIGHT = 20


ENTRY = "entry"
"""The name of the native Python entry."""

NativeKernel: TypeAlias = "LoopKernel | MatmulKernel | DecisionKernel"


@dataclass(frozen=True, slots=True)
class Segments:
    """A module, and what is in it.

    Attributes:
        module: the module.
        packed: per segment the name of a function ``i32 (ptr table)``, whose argument is the table
            of the body's arguments.
        entry: the name of the native Python entry, None where there is none.
        arguments: what arrays the bodies take, in their order.
        has_arena: whether the first of them is the arena.
    """

    module: ll.Module
    packed: list[str]
    entry: str | None
    arguments: list[ArraySpec]
    has_arena: bool


def emit_program(
    schedule: Schedule, plan: MemoryPlan, host: Host, arguments: list[ArraySpec], with_entry: bool
) -> Segments:
    """Emit all kernels of a schedule.

    Args:
        schedule: the kernels.
        plan: where temporaries live.
        host: the CPU.
        arguments: the arrays that the caller passes.
        with_entry: whether to emit a native Python entry; only where no step is left to Python.
    """
    emitter = _ProgramEmitter(schedule, plan, host, arguments)
    packed, bodies = [], []
    for number, kernels in enumerate(split_at_python(schedule.kernels)):
        bodies.append(emitter.emit_segment(number, kernels))
        packed.append(emitter.emit_packed(number, bodies[-1]))
    entry = None
    if with_entry:
        entry = ENTRY
        emit_entry(emitter.module, entry, bodies[0], arguments, release_gil=_work(schedule) > _LONG)
    return Segments(emitter.module, packed, entry, arguments, not plan.on_stack)


def split_at_python(kernels: list[Kernel]) -> list[list[NativeKernel]]:
    """The native kernels before, between and after the steps that Python does."""
    segments: list[list[NativeKernel]] = [[]]
    for kernel in kernels:
        if isinstance(kernel, PythonStep):
            segments.append([])
        else:
            segments[-1].append(kernel)
    return segments


def _work(schedule: Schedule) -> int:
    total = 0
    for kernel in schedule.kernels:
        if isinstance(kernel, LoopKernel):
            points = 1
            for extent in kernel.extents:
                points *= extent
            total += points * len(kernel.instructions)
        elif isinstance(kernel, MatmulKernel):
            total += kernel.node.type.size * kernel.a.shape[-1] // 4
    return total


class _ProgramEmitter:
    def __init__(
        self, schedule: Schedule, plan: MemoryPlan, host: Host, arguments: list[ArraySpec]
    ) -> None:
        self.schedule = schedule
        self.plan = plan
        self.host = host
        self.arguments = arguments
        self.module = ll.Module("program")
        self.constants: dict[Buffer, ll.GlobalVariable] = {}
        self.kernels = self.parts = 0
        self.external = [*schedule.inputs, *schedule.results]

    def emit_segment(self, number: int, kernels: list[NativeKernel]) -> ll.Function:
        name = "body" if number == 0 else f"body{number}"
        pointers = [POINTER] * len(self.arguments)
        function = ll.Function(self.module, ll.FunctionType(I32, pointers), name)
        builder = ll.IRBuilder(function.append_basic_block("entry"))
        places = self._places(builder, function)
        if len(kernels) <= _PART:
            self._emit_kernels(builder, kernels, places)
        else:
            for first in range(0, len(kernels), _PART):
                self._emit_part(builder, kernels[first : first + _PART], places)
        builder.ret(I32(0))
        return function

    def _emit_kernels(
        self,
        builder: ll.IRBuilder,
        kernels: list[NativeKernel],
        places: Callable[[Buffer], ll.Value],
    ) -> None:
        for kernel in kernels:
            if isinstance(kernel, DecisionKernel):
                flag = builder.load(places(kernel.buffer.real), typ=I8)
                good = builder.icmp_unsigned("!=" if kernel.wanted else "==", flag, I8(0))
                _leave_unless(builder, good, I32(kernel.status))
            else:
                self._emit_call(builder, kernel, places)

    def _emit_part(
        self,
        builder: ll.IRBuilder,
        kernels: list[NativeKernel],
        places: Callable[[Buffer], ll.Value],
    ) -> None:
        """Put some kernels into a function of their own, for LLVM's time is not linear in it."""
        passed = _memory_of(kernels)
        type_ = ll.FunctionType(I32, [POINTER] * len(passed))
        function = ll.Function(self.module, type_, f"part{self.parts}")
        self.parts += 1
        function.linkage = "internal"
        function.attributes.add("noinline")
        inner = ll.IRBuilder(function.append_basic_block("entry"))
        self._emit_kernels(inner, kernels, self._places_of_arguments(passed, function))
        inner.ret(I32(0))
        status = builder.call(function, [places(buffer) for buffer in passed])
        _leave_unless(builder, builder.icmp_signed("==", status, I32(0)), status)

    def _places(self, builder: ll.IRBuilder, function: ll.Function) -> Callable[[Buffer], ll.Value]:
        known: dict[Buffer, ll.Value] = {}
        arguments = list(function.args)
        arena = None
        if self.plan.on_stack:
            if self.plan.arena_bytes:
                arena = builder.alloca(ll.ArrayType(I8, self.plan.arena_bytes), name="arena")
                arena.align = ALIGNMENT
                for buffer, offset in self.plan.offsets.items():
                    start = builder.gep(arena, [I64(offset)], inbounds=True, source_etype=I8)
                    _touch(builder, start, buffer)
        else:
            arena = arguments.pop(0)
        for buffer in self.plan.separate:
            type_ = ll.ArrayType(memory_type(buffer.type.dtype), max(1, buffer.type.size))
            slot = builder.alloca(type_, name=buffer.name)
            slot.align = min(ALIGNMENT, 32)
            _touch(builder, slot, buffer)
            known[buffer] = builder.bitcast(slot, POINTER)
        known.update(zip(self.external, arguments, strict=True))

        def place(buffer: Buffer) -> ll.Value:
            found = known.get(buffer)
            if found is None:
                if buffer.role == "constant":
                    found = self._constant(buffer)
                else:
                    offset = self.plan.offsets[buffer]
                    found = builder.gep(arena, [I64(offset)], inbounds=True, source_etype=I8)
                known[buffer] = found
            return found

        return place

    def _places_of_arguments(
        self, passed: list[Buffer], function: ll.Function
    ) -> Callable[[Buffer], ll.Value]:
        """Where buffers are inside of a function that is given all of its own but constants."""
        arguments = dict(zip(passed, function.args, strict=True))

        def place(buffer: Buffer) -> ll.Value:
            found = arguments.get(buffer)
            return self._constant(buffer) if found is None else found

        return place

    def _constant(self, buffer: Buffer) -> ll.Value:
        found = self.constants.get(buffer)
        if found is None:
            type_ = ll.ArrayType(I8, len(buffer.data))
            found = ll.GlobalVariable(self.module, type_, f"constant{len(self.constants)}")
            found.global_constant = True
            found.linkage = "internal"
            found.align = ALIGNMENT
            found.initializer = ll.Constant(type_, bytearray(buffer.data))
            self.constants[buffer] = found
        return found

    def _emit_call(
        self,
        builder: ll.IRBuilder,
        kernel: LoopKernel | MatmulKernel,
        places: Callable[[Buffer], ll.Value],
    ) -> None:
        passed = _memory_of([kernel])
        type_ = ll.FunctionType(ll.VoidType(), [POINTER] * len(passed))
        function = ll.Function(self.module, type_, f"kernel{self.kernels}")
        self.kernels += 1
        function.linkage = "internal"
        for argument in function.args:
            argument.add_attribute("noalias")
        pointers = self._places_of_arguments(passed, function)
        inner = ll.IRBuilder(function.append_basic_block("entry"))
        if isinstance(kernel, LoopKernel):
            emit_loops(inner, self.host, kernel, pointers)
            light = choose_order(kernel, self.host).weight <= _INLINED_WEIGHT
        else:
            _emit_product(inner, self.host, kernel, pointers)
            light = kernel.node.type.size * kernel.a.shape[-1] <= _INLINED_PRODUCT
        inner.ret_void()
        function.attributes.add("alwaysinline" if light else "noinline")
        builder.call(function, [places(buffer) for buffer in passed])

    def emit_packed(self, number: int, body: ll.Function) -> str:
        name = f"packed{number}"
        function = ll.Function(self.module, ll.FunctionType(I32, [POINTER]), name)
        builder = ll.IRBuilder(function.append_basic_block("entry"))
        table = function.args[0]
        arguments = [
            builder.load(
                builder.gep(table, [I64(i)], inbounds=True, source_etype=POINTER), typ=POINTER
            )
            for i in range(len(self.arguments))
        ]
        builder.ret(builder.call(body, arguments))
        return name


def _memory_of(kernels: list[NativeKernel]) -> list[Buffer]:
    """The buffers that kernels need to be given; constants are known everywhere."""
    found: dict[Buffer, None] = {}
    for kernel in kernels:
        found.update(dict.fromkeys(kernel.writes()))
        found.update(dict.fromkeys(kernel.reads()))
    return [buffer for buffer in found if buffer.role != "constant"]


def _touch(builder: ll.IRBuilder, start: ll.Value, buffer: Buffer) -> None:
    """Store one element of a stack array, which costs nothing: it is removed as a dead store.

    LLVM 22's SROA miscompiles arrays that are filled by vector stores of their parts, not in the order of
    addresses, and read as one vector. It leaves arrays alone that a scalar store touches.
    """
    if buffer.type.size > 1:
        type_ = memory_type(buffer.type.dtype)
        first = builder.gep(start, [I64(0)], source_etype=type_)
        first.type = POINTER  # llvmlite calls the address of a stack array a typed pointer.
        builder.store(ll.Constant(type_, 0), first, align=buffer.type.dtype.itemsize)


def _leave_unless(builder: ll.IRBuilder, good: ll.Value, status: ll.Value) -> None:
    leave = builder.append_basic_block("leave")
    go_on = builder.append_basic_block("go_on")
    builder.cbranch(good, go_on, leave)
    builder.position_at_end(leave)
    builder.ret(status)
    builder.position_at_end(go_on)


def _emit_product(
    builder: ll.IRBuilder,
    host: Host,
    kernel: MatmulKernel,
    pointers: Callable[[Buffer], ll.Value],
) -> None:
    type_ = kernel.node.type
    dtype, batch = type_.dtype, type_.shape[:-2]
    spec = product_spec(kernel.a, kernel.b, type_)
    strides = row_major_strides(type_.shape)
    with loop_nest(builder, batch, "batch") as indices:
        a_ptr, b_ptr = (
            element_pointer(
                builder,
                pointers(view.buffer.real),
                dtype,
                _dot(builder, indices, view.strides, view.offset),
            )
            for view in (kernel.a, kernel.b)
        )
        c_ptr = None
        if kernel.out is not None:
            at = _dot(builder, indices, strides, 0)
            c_ptr = element_pointer(builder, pointers(kernel.out.real), dtype, at)
        store, compact = None, False
        if kernel.epilogue is not None:
            epilogue = _Epilogue(host, kernel, kernel.epilogue, pointers, indices, c_ptr)
            store, compact = epilogue.store, epilogue.order.weight > _COMPACT_WEIGHT
        expect = None if batch else _prefetcher(kernel, pointers)
        emit_matmul(
            builder, spec, a_ptr, b_ptr, c_ptr, store, compact=compact, expect=expect, target=host
        )


def _prefetcher(kernel: MatmulKernel, pointers: Callable[[Buffer], ll.Value]) -> Expect | None:
    """Fetches the rows of all buffers of the product's shape, if together they outgrow the nearest cache.

    A tile ends with a burst of loads and stores, too long to overlap with the next tile by itself.
    """
    shape = kernel.node.shape
    written = {buffer.real for buffer in kernel.writes()}
    touched = written | {
        buffer.real for buffer in (kernel.epilogue.reads() if kernel.epilogue else ())
    }
    touched = {b for b in touched if b.type.shape == shape and b.role != "constant"}
    if sum(buffer.type.nbytes for buffer in touched) < _NEAR_BYTES:
        return None

    def expect(builder: ll.IRBuilder, row: ll.Value, column: ll.Value, width: int) -> None:
        at = builder.add(builder.mul(row, I64(shape[-1])), column)
        for buffer in touched:
            dtype = buffer.type.dtype
            place = element_pointer(builder, pointers(buffer), dtype, at)
            # Rows need not begin on a cache line: the last element may lie on one more.
            for offset in (*range(0, width, _CACHE_LINE // dtype.itemsize), width - 1):
                line = element_pointer(builder, place, dtype, offset)
                prefetch(builder, line, write=buffer in written)

    return expect


class _Epilogue:
    """What is done with each piece of a product when it is finished."""

    def __init__(
        self,
        host: Host,
        product: MatmulKernel,
        kernel: LoopKernel,
        pointers: Callable[[Buffer], ll.Value],
        batch: list[ll.Value],
        c_ptr: ll.Value | None,
    ) -> None:
        self.host = host
        self.product = product
        self.kernel = kernel
        self.pointers = pointers
        self.batch = batch
        self.c_ptr = c_ptr
        self.order = self._order_for(1)

    def _order_for(self, lanes: int) -> LoopOrder:
        extents = self.kernel.extents
        wide = self.product.node.shape[-1] != 1
        depth = len(extents)
        return LoopOrder(
            tuple(range(depth)),
            extents,
            depth,
            depth - 1 if wide else -1,
            lanes,
            body_weight(self.kernel),
        )

    def store(
        self,
        builder: ll.IRBuilder,
        value: ll.Value,
        row: ll.Value,
        column: ll.Value,
        lanes: int,
        active: int,
    ) -> None:
        """The callback of ``emit_matmul``."""
        shape = self.product.node.shape
        dtype = self.product.node.dtype
        if self.c_ptr is not None:
            at = builder.add(builder.mul(row, I64(shape[-1])), column)
            place = element_pointer(builder, self.c_ptr, dtype, at)
            store_vector(builder, value, place, dtype, lanes, active)
        given = {
            number: Element(value, dtype)
            for number, instruction in enumerate(self.kernel.instructions)
            if isinstance(instruction, Load) and instruction.buffer is self.product.product
        }
        position = [*self.batch, row, column]
        variables = [i for i, n in zip(position, shape, strict=True) if n != 1]
        order = self._order_for(lanes)
        body = Body(builder, self.host, self.kernel, order, self.pointers, given)
        point = Point(tuple(variables), lanes, 1, active)
        values: dict[int, Values] = {}
        for depth in range(len(variables) + 1):
            body.emit_depth(depth, point, values)
        body.emit_stores(point, values)


def _dot(
    builder: ll.IRBuilder, indices: list[ll.Value], strides: tuple[int, ...], constant: int
) -> ll.Value:
    total: ll.Value = I64(constant)
    for index, stride in zip(indices, strides, strict=False):
        if stride:
            total = builder.add(total, builder.mul(index, I64(stride)))
    return total
