"""A compiled program: native code, and what is needed to call it safely with any arrays.

The data structure is :class:`NativeExecutable`. Start reading at :func:`compile_program`.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir import config, events
from ..ir.graph import Node
from ..ir.interpreter import evaluate_node
from ..ir.numpy_errors import quiet
from ..ir.program import Fallback, Program
from ..ir.structural import structural_key
from ..ir.types import DType, uint8
from . import disk_cache
from .emit import ENTRY, Segments, emit_program
from .engine import Host, NativeModule, ObjectCode, compile_object, host, load_object
from .entry import ArraySpec, bind_entry, entry_supported
from .kernel import Buffer, PythonStep, View
from .kernel_text import describe
from .memory import ALIGNMENT, MemoryPlan, plan_memory
from .schedule import GUARD_FAILED, Schedule, make_schedule

Array = np.ndarray[Any, Any]


def compile_program(program: Program, *, optimize: int = 2) -> NativeExecutable:
    """Compile a program to native code.

    Args:
        program: any program; its graph need not be optimised.
        optimize: the level, 0 to 3, as for :func:`~tracegrad.codegen.engine.compile_object`.

    Raises:
        NativeCodeError: LLVM refused the code: a bug of the code generator.
    """
    started = time.perf_counter()
    cpu = host()
    kernels: list[str] = []
    with events.span("schedule", events.COMPILE, Kernels=kernels):
        schedule = make_schedule(program, cpu)
        split = any(isinstance(kernel, PythonStep) for kernel in schedule.kernels)
        plan = plan_memory(schedule.kernels, shared=split)
        kernels += [type(kernel).__name__ for kernel in schedule.kernels]
    source = _Source(schedule, plan, cpu, optimize, not split and entry_supported())
    scheduled = time.perf_counter()
    key = source.key() if config.cache.get() else None
    stored = None if key is None else disk_cache.load(key)
    if stored is None:
        with events.span("emit LLVM IR", events.COMPILE):
            segments, text = source.emit()
        emitted = time.perf_counter()
        with events.span("LLVM: compile", events.COMPILE):
            code = compile_object(text, optimize=optimize)
        stored = disk_cache.Stored(segments.packed, code.data)
        if key is not None:
            disk_cache.store(key, stored)
    else:
        emitted = time.perf_counter()
        code = ObjectCode(stored.data, optimize=optimize)
    with events.span("LLVM: load", events.COMPILE):
        native = load_object(code)
    finished = time.perf_counter()
    executable = NativeExecutable(source, native, stored.names)
    executable.schedule_ms = (scheduled - started) * 1e3
    executable.emit_ms = (emitted - scheduled) * 1e3
    executable.llvm_ms = (finished - emitted) * 1e3
    if source.with_entry:
        executable.entry = bind_entry(native, ENTRY)
    return executable


@dataclass(frozen=True)
class _Source:
    """What the code of a program is generated from."""

    schedule: Schedule
    plan: MemoryPlan
    host: Host
    optimize: int
    with_entry: bool

    @property
    def arguments(self) -> list[ArraySpec]:
        """What arrays the code takes."""
        return _arguments(self.schedule, self.plan)

    def emit(self) -> tuple[Segments, str]:
        """The code as LLVM's text, and what is in it."""
        segments = emit_program(
            self.schedule, self.plan, self.host, self.arguments, self.with_entry
        )
        return segments, str(segments.module)

    def key(self) -> str:
        """The key of the object code: of the program, of this CPU, and of what Python has to do with the code."""
        program, plan = self.schedule.program, self.plan
        graph = program.graph
        numbers = {node: number for number, node in enumerate(graph.nodes)}
        steps = [
            f"{type(kernel).__name__} {numbers.get(kernel.node) if isinstance(kernel, PythonStep) else ''}"
            for kernel in self.schedule.kernels
        ]
        return disk_cache.key_of(
            [
                structural_key(graph),
                repr(sorted(program.updates.items())),
                repr(sorted(program.guards)),
                repr((self.host, self.optimize, self.with_entry)),
                repr(self.arguments),
                repr((plan.arena_bytes, plan.on_stack, [*plan.offsets.values()], steps)),
            ]
        )


def _arguments(schedule: Schedule, plan: MemoryPlan) -> list[ArraySpec]:
    written = set(schedule.program.updates.values())
    arguments = []
    if not plan.on_stack:
        arguments.append(ArraySpec(uint8, (plan.arena_bytes,)))
    for buffer in schedule.inputs:
        arguments.append(ArraySpec(buffer.type.dtype, buffer.type.shape, buffer.number in written))
    arguments += [ArraySpec(*buffer.type) for buffer in schedule.results]
    return arguments


class NativeExecutable:
    """A program as native code; implements ``ir.program.Executable``. Can be run by several threads
    at once.

    Attributes:
        program: what it runs.
        fallbacks: nodes that are interpreted, and why.
        entry: a native callable, or None. It takes the arrays of `arguments`, positionally, which
            must be as described there, and returns 0; 1 where a guard failed; 2 where it refuses an
            argument (then call `run`); 3 or 4 where `run` would raise. Except for 0 nothing has
            been written to an input. The result arrays must be distinct new memory.
        arguments: what `entry` takes: the arena, if it needs one, the inputs, the results.
        arena_bytes: size of the arena, 0 if there is none; it should be aligned to 64 bytes, and
            not be used by two calls at once.
        schedule_ms, emit_ms, llvm_ms: how long compilation took: fusion, making LLVM's input, LLVM.
    """

    def __init__(
        self,
        source: _Source,
        native: NativeModule,
        packed: list[str],
    ) -> None:
        schedule, plan = source.schedule, source.plan
        self.program = schedule.program
        self.fallbacks = [Fallback(node, reason) for node, reason in schedule.reasons]
        self.entry: Callable[..., int] | None = None
        self.arguments = source.arguments
        self.arena_bytes = 0 if plan.on_stack else plan.arena_bytes
        self.schedule_ms = self.emit_ms = self.llvm_ms = 0.0
        self._source = source
        self._schedule = schedule
        self._plan = plan
        self._native = native
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)
        self._segments = [prototype(native.address(name)) for name in packed]
        self._steps = [kernel for kernel in schedule.kernels if isinstance(kernel, PythonStep)]
        self._arenas: deque[Array] = deque()

    def run(self, inputs: list[Array]) -> list[Array] | None:
        """Run once; see :class:`tracegrad.ir.program.Executable`.

        Raises:
            TypeError: an input is not of the declared type.
            ValueError: an input that is to be updated is read-only.
            IndexError, RuntimeError: what evaluating the graph raises. Nothing was written then.
        """
        arrays, copied = self._prepared(inputs)
        results = [np.empty(b.type.shape, b.type.dtype.np) for b in self._schedule.results]
        arena = None
        passed = [*arrays, *results]
        if not self._plan.on_stack:
            arena = self._take_arena()
            passed.insert(0, arena)
        try:
            status = self._execute(arrays, results, arena, passed)
        finally:
            if arena is not None:
                self._arenas.append(arena)
        if status == 0:
            for target, array in copied:
                target[...] = array
            return results
        if status != GUARD_FAILED:
            self._raise(arrays)
        return None

    def _prepared(self, inputs: Sequence[Any]) -> tuple[list[Array], list[tuple[Array, Array]]]:
        """The inputs as native code takes them, and the updated ones among them that are copies."""
        graph = self.program.graph
        if len(inputs) != len(graph.inputs):
            raise TypeError(
                f"@{graph.name} takes {len(graph.inputs)} inputs, but got {len(inputs)}"
            )
        written = set(self.program.updates.values())
        arrays: list[Array] = []
        for number, (node, value) in enumerate(zip(graph.inputs, inputs, strict=True)):
            array = np.asarray(value)
            if array.dtype != node.dtype.np or array.shape != node.shape:
                native = array.dtype.newbyteorder("=")
                if native != node.dtype.np or array.shape != node.shape:
                    raise TypeError(
                        f"input {node.hint or ''} of @{graph.name} is {node.type}, "
                        f"but got {array.dtype}{list(array.shape)}"
                    )
            flags = array.flags
            usable = flags.c_contiguous and flags.aligned and array.dtype == node.dtype.np
            if number in written:
                if not isinstance(value, np.ndarray):
                    raise TypeError(f"input {number} of @{graph.name} is updated: pass an array")
                usable = usable and flags.writeable and not self._overlaps(number, inputs)
            if not usable:
                array = np.array(array, dtype=node.dtype.np, order="C")
            arrays.append(array)
        copied = [
            (inputs[number], arrays[number])
            for number in self.program.updates.values()
            if arrays[number] is not inputs[number]
        ]
        # A view of the same array is no copy.
        copied = [(x, array) for x, array in copied if not np.shares_memory(x, array)]
        return arrays, copied

    @staticmethod
    def _overlaps(number: int, inputs: Sequence[Any]) -> bool:
        mine = inputs[number]
        return any(
            other is mine or np.may_share_memory(mine, other)
            for position, other in enumerate(inputs)
            if position != number and mine.size
        )

    def _take_arena(self) -> Array:
        try:
            return self._arenas.pop()
        except IndexError:
            raw = np.empty(self._plan.arena_bytes + ALIGNMENT, np.uint8)
            start = -_address(raw) % ALIGNMENT
            return raw[start : start + self._plan.arena_bytes]

    def _execute(
        self, arrays: list[Array], results: list[Array], arena: Array | None, passed: list[Array]
    ) -> int:
        table = (ctypes.c_void_p * len(passed))(*[_address(array) for array in passed])
        for number, segment in enumerate(self._segments):
            status = segment(table)
            if status:
                return int(status)
            if number < len(self._steps):
                self._do_step(self._steps[number], arrays, results, arena)
        return 0

    def _do_step(
        self, step: PythonStep, arrays: list[Array], results: list[Array], arena: Array | None
    ) -> None:
        def memory(buffer: Buffer) -> Array:
            real = buffer.real
            if real.role == "input":
                return arrays[real.number]
            if real.role == "result":
                return results[real.number]
            dtype: DType = real.type.dtype
            if real.role == "constant":
                found = np.frombuffer(real.data, dtype.np)
            else:
                assert arena is not None
                start = self._plan.offsets[real]
                found = arena[start : start + real.type.nbytes].view(dtype.np)
            return found.reshape(real.type.shape)

        def seen(view: View) -> Array:
            base = memory(view.buffer)
            size = base.itemsize
            if not base.size:
                return base.reshape(view.shape)
            return np.lib.stride_tricks.as_strided(
                base.reshape(-1)[view.offset :], view.shape, [n * size for n in view.strides]
            )

        operands = [seen(view) for view in step.operands]
        out = memory(step.out)
        with quiet():
            if step.reason is None:
                np.matmul(operands[0], operands[1], out=out)
            else:
                out[...] = evaluate_node(step.node, operands)

    def _raise(self, arrays: list[Array]) -> None:
        """Raise what the interpreter raises. Returns if a guard fails before that."""
        graph = self.program.graph
        guards = {graph.outputs[number] for number in self.program.guards}
        values: dict[Node, Array] = dict(zip(graph.inputs, arrays, strict=True))
        with quiet():
            for node in graph.nodes:
                values[node] = evaluate_node(node, [values[x] for x in node.inputs])
                if node in guards and not values[node]:
                    return
        raise IndexError("an index is out of bounds")

    # For people.

    def kernels_text(self) -> str:
        """The kernels in the order of execution: loops, body, stores, reductions."""
        names = {node: f"%{n}" for n, node in enumerate(self.program.graph.nodes)}
        names.update(
            (node, f"%{node.hint or f'in{n}'}") for n, node in enumerate(self.program.graph.inputs)
        )
        return "\n".join(
            f"kernel {number}: {describe(kernel, names)}"
            for number, kernel in enumerate(self._schedule.kernels)
        )

    def llvm_text(self) -> str:
        """The LLVM code, optimised."""
        return self._code().llvm_text

    def assembly(self) -> str:
        """The machine code as assembly."""
        return self._code().assembly()

    def _code(self) -> ObjectCode:
        """The code in a form that can be shown. The cache on disk keeps none: it is generated anew then."""
        if self._native.code.bitcode:
            return self._native.code
        _, text = self._source.emit()
        return compile_object(text, optimize=self._source.optimize)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
