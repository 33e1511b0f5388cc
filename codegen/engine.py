"""The native engine: LLVM text in, callable machine code out.

The data structures are :class:`Host` (the CPU that code is generated for), :class:`ObjectCode` (a
compiled, relocatable object; bytes that may be kept on disk) and :class:`NativeModule` (an object
loaded into this process). Start reading at :func:`compile_module`.

Compiling and loading are two steps, because the LLVM module is needed only in the first: each
module is parsed in an LLVM context of its own, and both are freed as soon as the object is emitted.
Loading goes through MCJIT, which frees everything; ORC links as fast, but keeps about 8 KB for each
library it ever linked. On x86-64 Linux code is emitted for the small code model, where constants
are addressed relative to the program counter, and loaded with llvmlite's memory manager, which puts
an object into one mapping, so that they are near. Elsewhere llvmlite's defaults hold.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass, replace
from functools import lru_cache

import llvmlite.binding as llvm
import llvmlite.ir as ll
from llvmlite.binding.ffi import ObjectRef
from llvmlite.binding.newpassmanagers import NewPassManager

from ..ir import events

# LLVM is only ever entered with this lock held. llvmlite releases the GIL while LLVM works.
_lock = threading.RLock()

# Engines whose owner is gone, waiting to be freed by whoever gets the lock next.
_unloaded: deque[llvm.ExecutionEngine] = deque()

if hasattr(os, "register_at_fork"):  # a child must not inherit a half-finished compilation
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


class NativeCodeError(RuntimeError):
    """LLVM refused a module: a bug in the code generator, with LLVM's own explanation."""


@dataclass(frozen=True, slots=True)
class Host:
    """A CPU to generate code for.

    Attributes:
        triple: LLVM's target triple.
        cpu: LLVM's name of the CPU.
        features: LLVM's feature string, such as ``+avx2,-avx512f,+fma``.
        vector_bytes: width of the vector registers to use, in bytes.
    """

    triple: str
    cpu: str
    features: str
    vector_bytes: int

    @property
    def has_fma(self) -> bool:
        """Whether a fused multiply-add is one instruction (where it is not, it is a slow call)."""
        return self.is_arm or "+fma" in self.features.split(",")

    @property
    def is_arm(self) -> bool:
        return self.triple.startswith(("aarch64", "arm64"))

    @property
    def vector_registers(self) -> int:
        """Number of architectural vector registers."""
        return 32 if self.is_arm or self.vector_bytes == 64 else 16


@dataclass(frozen=True, slots=True)
class ObjectCode:
    """A compiled module, not yet loaded.

    Attributes:
        data: the relocatable object, in the format of the host's linker.
        bitcode: the optimised LLVM module, for looking at; empty if it was not kept.
        target: the CPU it was compiled for; None stands for this one.
        optimize: the optimisation level.
        parse_s, optimize_s, codegen_s: seconds spent on parsing and verifying, in the pass
            pipeline, and in instruction selection and emission.
    """

    data: bytes
    bitcode: bytes = b""
    target: Host | None = None
    optimize: int = 2
    parse_s: float = 0.0
    optimize_s: float = 0.0
    codegen_s: float = 0.0

    @property
    def llvm_text(self) -> str:
        """The optimised LLVM module; empty if the bitcode was not kept."""
        if not self.bitcode:
            return ""
        with (
            _lock,
            llvm.create_context() as context,
            llvm.parse_bitcode(self.bitcode, context) as module,
        ):
            return str(module)

    def assembly(self) -> str:
        """The machine code as assembly, emitted anew from the optimised module."""
        if not self.bitcode:
            return ""
        with (
            _lock,
            llvm.create_context() as context,
            llvm.parse_bitcode(self.bitcode, context) as module,
        ):
            machine = _target_machine(self.target or host(), self.optimize)
            return str(machine.emit_assembly(module))


@lru_cache(maxsize=1)
def host() -> Host:
    """The CPU this process runs on."""
    with _lock:
        _initialize()
        features = llvm.get_host_cpu_features()
        if features.get("avx512f") and features.get("avx512vl"):
            vector_bytes = 64
        elif features.get("avx2") and features.get("fma"):
            vector_bytes = 32
        else:
            vector_bytes = 16
        return Host(
            llvm.get_process_triple(), llvm.get_host_cpu_name(), features.flatten(), vector_bytes
        )


def compile_module(
    module: ll.Module | str, *, optimize: int = 2, target: Host | None = None
) -> NativeModule:
    """Compile a module and load it: :func:`compile_object`, then :func:`load_object`."""
    with events.span("LLVM: compile", events.COMPILE):
        code = compile_object(module, optimize=optimize, target=target)
    with events.span("LLVM: load", events.COMPILE):
        return load_object(code)


def compile_object(
    module: ll.Module | str, *, optimize: int = 2, target: Host | None = None
) -> ObjectCode:
    """Parse, verify and optimise a module, and emit it as object code.

    Args:
        module: an llvmlite module, or LLVM text.
        optimize: 1 to 3 run LLVM's passes, as ``-O2`` does; 0 runs none of them. Instruction
            selection and register allocation always do their best, so that 0 halves the time to
            compile, and costs nothing, for code that is already as vectors, without dead ends.
        target: the CPU to generate code for; by default this one.

    Raises:
        NativeCodeError: LLVM cannot parse, verify or resolve the module.
    """
    text = str(module)
    if _is_linux_on_x86():
        text += _WRITABLE_DATA
    with _lock:
        _free_unloaded()
        machine = _target_machine(host() if target is None else target, optimize)
        context = llvm.create_context()
        try:
            started = time.perf_counter()
            parsed = _parse(text, context)
            try:
                parsed.triple = machine.triple
                parsed.data_layout = str(machine.target_data)
                _check_declarations(parsed)
                parsed_at = time.perf_counter()
                if optimize:
                    _run_passes(parsed, machine, optimize)
                optimized_at = time.perf_counter()
                data = machine.emit_object(parsed)
                emitted_at = time.perf_counter()
                bitcode = parsed.as_bitcode()
            finally:
                parsed.close()
        finally:
            context.close()
    return ObjectCode(
        data,
        bitcode,
        target,
        optimize,
        parsed_at - started,
        optimized_at - parsed_at,
        emitted_at - optimized_at,
    )


def load_object(code: ObjectCode) -> NativeModule:
    """Load object code into this process.

    The code must come from :func:`compile_object`, for a CPU with no more features than this one:
    it is executed as it is.
    """
    started = time.perf_counter()
    with _lock:
        _free_unloaded()
        with llvm.create_context() as context:
            # MCJIT wants a module to begin with; ours is in the object, so it gets an empty one.
            # It must go before anything is compiled: even for no code at all, llvmlite's memory
            # manager may find that the object has left it no room, and end the process.
            empty = llvm.parse_assembly("", context)
            engine = llvm.create_mcjit_compiler(empty, _loading_machine(), use_lmm=_one_mapping())
            engine.remove_module(empty)
            empty.close()
        image = llvm.ObjectFileRef.from_data(code.data)
        engine.add_object_file(image)
        image.close()
        engine.finalize_object()
    return NativeModule(engine, code, time.perf_counter() - started)


class NativeModule:
    """Machine code in this process, freed when this object is garbage collected.

    Whoever keeps an address must keep the module as well.

    Attributes:
        code: where it came from, without the object's bytes, which are in place now.
        load_s: seconds spent on loading; ``code`` has those of the stages before.
    """

    __slots__ = ("__weakref__", "_engine", "code", "load_s")

    def __init__(self, engine: llvm.ExecutionEngine, code: ObjectCode, load_s: float) -> None:
        self._engine = engine
        self.code = replace(code, data=b"")
        self.load_s = load_s
        weakref.finalize(self, _unload, engine).atexit = False

    def address(self, name: str) -> int:
        """The address of a function or global of the module.

        Raises:
            KeyError: the module defines no such symbol.
        """
        with _lock:
            found = self._engine.get_function_address(name)
        if not found:
            raise KeyError(name)
        return int(found)

    @property
    def parse_s(self) -> float:
        return self.code.parse_s

    @property
    def optimize_s(self) -> float:
        return self.code.optimize_s

    @property
    def codegen_s(self) -> float:
        return self.code.codegen_s

    @property
    def llvm_text(self) -> str:
        """The optimised LLVM module; empty if the bitcode was not kept."""
        return self.code.llvm_text

    def assembly(self) -> str:
        """The machine code as assembly, emitted anew from the optimised module."""
        return self.code.assembly()


def _parse(text: str, context: llvm.ContextRef) -> llvm.ModuleRef:
    try:
        parsed = llvm.parse_assembly(text, context)
    except RuntimeError as error:
        raise NativeCodeError(str(error)) from None
    try:
        parsed.verify()
    except RuntimeError as error:
        parsed.close()
        raise NativeCodeError(str(error)) from None
    return parsed


def _check_declarations(module: llvm.ModuleRef) -> None:
    # At load time LLVM would end the process for an unknown symbol.
    for function in module.functions:
        name = function.name
        known = not function.is_declaration or name.startswith("llvm.")
        if not known and llvm.address_of_symbol(name) is None:
            raise NativeCodeError(f"the function {name!r} is declared, but does not exist")


def _run_passes(module: llvm.ModuleRef, machine: llvm.TargetMachine, level: int) -> None:
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization = options.slp_vectorization = level >= 2
    options.loop_unrolling = options.loop_interleaving = True
    builder = llvm.create_pass_builder(machine, options)
    # The standard pipeline. A shorter one of our own takes less than half the time, but needs NewGVN, the
    # only redundancy elimination that llvmlite offers by name, and that miscompiles integer code (LLVM 22).
    passes = builder.getModulePassManager()
    # Builder and passes serve once: running a second module through them crashes LLVM.
    try:
        passes.run(module, builder)
    finally:
        if llvm.ModulePassManager._dispose is ObjectRef._dispose:
            # In llvmlite 0.50 the order of base classes makes close() do nothing: 70 KB each.
            NewPassManager._dispose(passes)
        passes.close()
        builder.close()
        options.close()


@lru_cache(maxsize=16)
def _target_machine(target: Host, optimize: int) -> llvm.TargetMachine:
    _initialize()
    features = target.features
    if target.vector_bytes == 64:
        # LLVM tunes some AVX-512 CPUs for 256 bits, from the days when 512 cost clock rate.
        features += ",-prefer-256-bit"
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu,
        features=features,
        opt=max(optimize, 2),
        reloc=_RELOCATION,
        codemodel=_code_model(),
        jit=True,
    )


def _loading_machine() -> llvm.TargetMachine:
    # MCJIT takes possession of it. It generates no code, so it needs no features.
    return llvm.Target.from_triple(host().triple).create_target_machine(
        opt=0, reloc=_RELOCATION, codemodel=_code_model(), jit=True
    )


# Code is loaded anywhere in memory: the default, static relocation, cannot index a table of constants there.
_RELOCATION = "pic"


def _is_linux_on_x86() -> bool:
    return host().triple.startswith("x86_64") and "linux" in host().triple


def _code_model() -> str:
    return "small" if _is_linux_on_x86() else "jitdefault"


def _one_mapping() -> bool | None:
    return True if _is_linux_on_x86() else None


# In the small code model external functions (memset) are called through a table of addresses, which
# llvmlite's memory manager does not foresee: without writable data in the object, there is no room.
_WRITABLE_DATA = """
@tracegrad.writable = internal global i64 1
@llvm.compiler.used = appending global [1 x ptr] [ptr @tracegrad.writable], section "llvm.metadata"
"""


@lru_cache(maxsize=1)
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # The first engine opens the process's own symbols, which _check_declarations looks up.
    triple = llvm.get_process_triple()
    with llvm.create_context() as context:
        machine = llvm.Target.from_triple(triple).create_target_machine(jit=True)
        llvm.create_mcjit_compiler(llvm.parse_assembly("", context), machine).close()


def _unload(engine: llvm.ExecutionEngine) -> None:
    # May run at any point where Python collects garbage, so it must not wait for the lock.
    _unloaded.append(engine)
    if _lock.acquire(blocking=False):
        try:
            _free_unloaded()
        finally:
            _lock.release()


def _free_unloaded() -> None:
    while _unloaded:
        _unloaded.popleft().close()
