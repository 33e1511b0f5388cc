"""``tracegrad.compile``: run a function once, trace it, and replay it as native code.

The contract: **a compiled function never gives another result, another effect on a tensor, or another exception
than the plain function. It may only be faster.** A call goes through these steps, each of which may hand over to
plain eager execution:

1. find a variant whose guards hold (shapes, dtypes, flags, plain Python state) and run it;
2. native code decides the guards on values before it writes anything; if one fails, try the next variant;
3. otherwise run the function eagerly under a :class:`~tracegrad.tracing.Trace` and make a variant of what it did;
4. what a trace cannot describe is remembered with its reason, and the function runs eagerly.

Start reading at :meth:`CompiledFunction.__call__`.
"""

from __future__ import annotations

import functools
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, overload

from tracegrad import pytree
from tracegrad.explanation import explain_function, show_stage
from tracegrad.fastcall import GUARD_FAILED, MISS, generate
from tracegrad.grad_mode import state
from tracegrad.guards import UnguardableError, watch
from tracegrad.ir import config, events
from tracegrad.ir.interpreter import InterpretedExecutable
from tracegrad.ir.location import SourceLocation
from tracegrad.ir.program import Executable, Program
from tracegrad.plan import RefusedError, plan
from tracegrad.tensor import Tensor
from tracegrad.tracing import Trace
from tracegrad.variant import Variant

MAX_VARIANTS = 64
"""The least recently used variant is dropped beyond this many."""
MAX_PATHS = 8
"""Variants of one signature that differ only in values that Python looked at."""
MAX_MISSES = 16
"""After so many calls in a row whose guards fail in every variant the function runs eagerly, with one warning."""
MAX_REFUSALS = 3
"""After so many failed traces in a row the function runs eagerly for good, with one warning."""

_Plain = (int, float, bool, str, bytes, type(None))


class Stats:
    """What has happened to a compiled function.

    Attributes:
        calls: all of them.
        native: answered by compiled code.
        interpreted: answered by a variant with interpreted ops, or without native back end.
        eager: the plain Python function ran (tracing included).
        traces, compilations: how often it was traced, and executables were made.
        variants: how many are kept.
        guard_failures: by reason, why a kept variant did not apply or was left.
        compile_seconds: spent in tracing, optimizing and code generation.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.native = 0
        self.interpreted = 0
        self.eager = 0
        self.traces = 0
        self.compilations = 0
        self.variants = 0
        self.guard_failures: Counter[str] = Counter()
        self.compile_seconds = 0.0

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"Stats({fields})"


class CompiledFunction:
    """A function that compiles itself. Make one with :func:`compile`.

    Attributes:
        stats: counts of calls, traces and guard failures.
        variants: newest first.
        refusals: reasons for which a run could not be compiled, with the user's line, newest last.
    """

    def __init__(
        self, function: Callable[..., Any], *, fullgraph: bool, backend: str, name: str | None
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._name: str = name or str(getattr(function, "__name__", "function"))
        self._fullgraph = fullgraph
        self._backend = backend
        self._lock = threading.RLock()
        self._variants: dict[Any, list[Variant]] = {}
        self._call: Callable[[tuple[Any, ...]], Any] | None = None
        self._failed_in_a_row = 0
        self._missed_in_a_row = 0
        self._eager_because: tuple[str, SourceLocation | None] | None = None
        self.refusals: list[tuple[str, SourceLocation | None]] = []
        self.stats = Stats()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: bound like a plain function."""
        if instance is None:
            return self
        return _BoundCompiled(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        stats = self.stats
        call = self._call
        failed = None
        if call is not None and not kwargs and not events.active:
            result = call(args)
            if result is not MISS:
                if result is not GUARD_FAILED:
                    stats.calls += 1
                    stats.native += 1
                    return result
                failed = call
        if state.trace is not None:
            return self._function(*args, **kwargs)  # Part of a larger trace.
        stats.calls += 1
        if self._eager_because is not None or config.disable_jit.get():
            stats.eager += 1
            return self._function(*args, **kwargs)
        leaves, spec = pytree.flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        key = spec, tuple([_leaf_key(leaf) for leaf in leaves])
        missed = False
        for variant in tuple(self._variants.get(key, ())):
            if not variant.accepts(tensors):
                continue
            if not variant.guard.check():
                for entry in variant.guard.changed()[:1]:
                    stats.guard_failures[f"Python state: {entry.name}"] += 1
            else:
                if failed is None or variant.call is not failed:
                    done, result = self._run(variant, tensors)
                    if done:
                        self._call = variant.call
                        self._missed_in_a_row = 0
                        return result
                stats.guard_failures["a value that Python looked at"] += 1
            missed = True
        if missed:
            self._missed_in_a_row += 1
            if self._missed_in_a_row > MAX_MISSES:
                reason = stats.guard_failures.most_common(1)[0][0]
                self._refuse(
                    f"what it depends on is new at every call ({reason})", None, final=True
                )
                stats.eager += 1
                return self._function(*args, **kwargs)
        return self._trace(key, leaves, tensors, args, kwargs)

    def _run(self, variant: Variant, tensors: list[Tensor]) -> tuple[bool, Any]:
        if events.active:
            with events.span(f"compiled {self._name}", events.NATIVE):
                done, result = variant.run(tensors)
        else:
            done, result = variant.run(tensors)
        if done:
            if variant.executable.fallbacks:
                self.stats.interpreted += 1
            else:
                self.stats.native += 1
        return done, result

    # Making variants.

    def _trace(
        self,
        key: Any,
        leaves: list[Any],
        tensors: list[Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run eagerly under a trace, and make a variant of what happened."""
        self.stats.eager += 1
        others = [leaf for leaf in leaves if not isinstance(leaf, (Tensor, *_Plain))]
        try:
            guard = watch(self._function, others)
        except UnguardableError as error:
            self._refuse(str(error), None, final=True)
            return self._function(*args, **kwargs)
        trace = Trace(self._name)
        for number, tensor in enumerate(tensors):
            trace.argument(tensor, number)
        grad_enabled = state.grad
        self.stats.traces += 1
        begin = time.perf_counter()
        state.trace = trace
        try:
            returned = self._function(*args, **kwargs)
        finally:
            state.trace = None
        try:
            changed = guard.changed()
            if changed:
                raise RefusedError(f"it changes Python state: {changed[0].name}")
            made = plan(trace, returned, tensors, trace.entry_versions)
            variant = Variant(made, guard, tensors, grad_enabled, self._compile)
        except RefusedError as refusal:
            self._refuse(refusal.reason, refusal.location, final=False)
        else:
            self._failed_in_a_row = 0
            if not kwargs and spec_is_flat(key[0]):
                variant.call = generate(variant, leaves)
            self._add(key, variant)
            self._call = variant.call
        self.stats.compile_seconds += time.perf_counter() - begin
        return returned

    def _add(self, key: Any, variant: Variant) -> None:
        with self._lock:
            paths = self._variants.setdefault(key, [])
            paths.insert(0, variant)
            del paths[MAX_PATHS:]
            self._variants[key] = self._variants.pop(key)
            while sum(map(len, self._variants.values())) > MAX_VARIANTS:
                self._variants.pop(next(iter(self._variants)))
            self.stats.variants = sum(map(len, self._variants.values()))

    def _compile(self, program: Program) -> Executable:
        """Native code where llvmlite is installed, else the interpreter."""
        self.stats.compilations += 1
        with events.span(f"compile {self._name}", events.COMPILE):
            return make_executable(program, self._backend)

    def _refuse(self, reason: str, location: SourceLocation | None, *, final: bool) -> None:
        """Note why a run could not be compiled; give up after several in a row."""
        self.refusals.append((reason, location))
        del self.refusals[:-20]
        if self._fullgraph:
            place = f"\n  {location.describe()}" if location else ""
            raise RuntimeError(
                f"{self._name} cannot be compiled as a whole (fullgraph=True): {reason}{place}"
            )
        self._failed_in_a_row += 1
        if final or self._failed_in_a_row >= MAX_REFUSALS:
            self._eager_because = reason, location
            place = f" ({location})" if location else ""
            warnings.warn(
                f"tracegrad.compile: {self._name} runs eagerly from now on: {reason}{place}",
                RuntimeWarning,
                stacklevel=4,
            )

    # Looking inside.

    @property
    def variants(self) -> list[Variant]:
        """All variants, the newest first."""
        return [variant for paths in reversed(list(self._variants.values())) for variant in paths]

    def ir(self, stage: str = "optimized", *, variant: int = 0, format: str = "text") -> str:
        """The latest variant's program at one stage of the compilation.

        Args:
            stage: ``trace``, ``joint``, ``optimized``, ``kernels``, ``llvm``, ``asm`` or ``all``.
            variant: 0 is the newest.
            format: ``text``, ``dot`` or ``json`` (the last two for the graph stages).

        Raises:
            ValueError: there is no such stage or format.
            RuntimeError: the function has not been compiled yet.
        """
        known = self.variants
        if not known:
            raise RuntimeError(
                f"{self._name} has no compiled variant yet; call it first"
                + (f" (it runs eagerly: {self.refusals[-1][0]})" if self.refusals else "")
            )
        return show_stage(known[variant], stage, format)

    def explain(self) -> str:
        """What was compiled, what is guarded, what fell back and why, as text."""
        return explain_function(self)

    @property
    def eager_reason(self) -> tuple[str, SourceLocation | None] | None:
        """Why the function runs eagerly for good, with the line; None if it does not."""
        return self._eager_because

    @property
    def name(self) -> str:
        return self._name

    def reset(self) -> None:
        """Forget all variants and the decision to run eagerly."""
        with self._lock:
            self._variants.clear()
            self._call = None
            self._eager_because = None
            self._failed_in_a_row = 0
            self.refusals.clear()
            self.stats = Stats()

    def __repr__(self) -> str:
        return f"<compiled {self._name}: {len(self.variants)} variants>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _recompile, (self._function, self._fullgraph, self._backend, self._name)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledFunction:
        return CompiledFunction(
            self._function, fullgraph=self._fullgraph, backend=self._backend, name=self._name
        )


def spec_is_flat(spec: Any) -> bool:
    """Whether the arguments are positional and none is a container."""
    _, _, (positional, _) = spec
    return all(child is None for child in positional[2])


class _BoundCompiled:
    """A compiled function as a method of an object; the object is its first argument."""

    def __init__(self, compiled: CompiledFunction, instance: Any) -> None:
        self.__func__ = compiled
        self.__self__ = instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)


def _recompile(function: Any, fullgraph: bool, backend: str, name: str) -> CompiledFunction:
    return CompiledFunction(function, fullgraph=fullgraph, backend=backend, name=name)


def _leaf_key(leaf: Any) -> Any:
    """What of an argument a variant is specialised on; tensors are compared by the variant itself."""
    if isinstance(leaf, Tensor):
        return Tensor
    if isinstance(leaf, float):
        return float, leaf.hex()
    if isinstance(leaf, _Plain):
        return type(leaf), leaf
    return _Identity(leaf)


class _Identity:
    """Compares an object by identity and keeps it alive, so that its id is not used again."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def make_executable(program: Program, backend: str = "native") -> Executable:
    """The executable of a program: native code, or the interpreter where that is asked for or all there is."""
    if backend == "interpreter":
        return InterpretedExecutable(program, "the interpreter was asked for")
    compile_program = _native_back_end()
    if compile_program is None:
        return InterpretedExecutable(program, "llvmlite is not installed")
    return compile_program(program)


@functools.cache
def _native_back_end() -> Callable[[Program], Executable] | None:
    """The code generator, imported at the first compilation; None without llvmlite."""
    try:
        from tracegrad.codegen import compile_program
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "llvmlite":
            raise
        warnings.warn(
            "tracegrad.compile: llvmlite is not installed; compiled functions are interpreted",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return compile_program


@overload
def compile(
    model: Callable[..., Any], *, fullgraph: bool = ..., backend: str = ..., name: str | None = ...
) -> CompiledFunction: ...
@overload
def compile(
    *, fullgraph: bool = ..., backend: str = ..., name: str | None = ...
) -> Callable[[Callable[..., Any]], CompiledFunction]: ...
def compile(
    model: Any = None, *, fullgraph: bool = False, backend: str = "native", name: str | None = None
) -> Any:
    """Compile a function, as a decorator (bare or with options) or by a call.

    The function may be pure, may be differentiated from outside, or may be a whole training step with
    ``optimizer.zero_grad()``, ``loss.backward()`` and ``optimizer.step()`` inside. The first call of each kind
    (shapes, dtypes, flags, Python values) runs eagerly and is traced; later ones run native code. A call whose
    guards fail runs eagerly: results never differ from the plain function's.

    Args:
        model: the function or module.
        fullgraph: raise RuntimeError instead of falling back to eager execution.
        backend: ``"native"``, or ``"interpreter"``.
        name: used in dumps and messages; by default the function's.

    Returns:
        A callable with ``stats``, ``explain()`` and ``ir(stage=...)``.

    Raises:
        TypeError: `model` is not callable.
        ValueError: there is no such backend.
    """
    if backend not in ("native", "interpreter"):
        raise ValueError(f"backend must be 'native' or 'interpreter', but got {backend!r}")
    if model is None:
        return functools.partial(compile, fullgraph=fullgraph, backend=backend, name=name)
    if not callable(model):
        raise TypeError(f"compile() expects a callable, but got {type(model).__name__}")
    if isinstance(model, CompiledFunction):
        return model
    return CompiledFunction(model, fullgraph=fullgraph, backend=backend, name=name)
