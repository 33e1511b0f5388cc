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
import importlib
import sys
import threading
import time
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any, overload

from tracegrad import lifting, pytree, tracing
from tracegrad.back_end import make_executable
from tracegrad.call_key import PLAIN, leaf_key
from tracegrad.compile_options import CompileOptions
from tracegrad.fastcall import MISS, generate
from tracegrad.grad_mode import state
from tracegrad.guards import (
    Entry,
    Ran,
    Snapshot,
    UnguardableError,
    UnknownStateError,
    guard_of,
)
from tracegrad.ir import config, events
from tracegrad.ir.errors import MismatchError
from tracegrad.ir.location import SourceLocation
from tracegrad.ir.program import Executable, Program
from tracegrad.leaks import check_arguments, check_attributes, refuse_leaks
from tracegrad.lifting import Lifting, plain_result, recover
from tracegrad.nn.module_hooks import of_all_modules
from tracegrad.node import UNTRACKED, hooks_added
from tracegrad.plan import RefusedError, plan
from tracegrad.reporting import report_native
from tracegrad.stats import Stats
from tracegrad.tensor import Tensor
from tracegrad.tracing import Trace
from tracegrad.variant import Variant

MAX_VARIANTS = 64
"""The least recently used variant is dropped beyond this many."""
MAX_PATHS = 8
"""Variants of one signature that differ only in values that Python looked at."""
MAX_FAST_CALLS = 4
"""So many variants are tried before the arguments are looked at."""
MAX_MISSES = 16
"""After so many calls in a row whose guards fail in every variant the function runs eagerly, with one warning."""
MAX_REFUSALS = 3
"""After so many failed traces in a row the function runs eagerly for good, with one warning."""
MAX_NEW = 256
"""After so many traces in a row, none of which served a later call, the function runs eagerly for good."""
MAX_SURPRISES = 5
"""So many traces in a row may find state that nobody looked at before them."""


class CompiledFunction:
    """A function that compiles itself. Make one with :func:`compile`.

    Attributes:
        stats: counts of calls, traces and guard failures.
        variants: newest first.
        refusals: reasons for which a run could not be compiled, with the user's line, newest last.
    """

    FIXED = frozenset(
        "_function _name _options _lock _variants _calls _failed_in_a_row _missed_in_a_row "
        "_traced_in_a_row _native_before _surprises _ran _searched _lifting _eager_because refusals stats "
        "__wrapped__ __name__ __doc__ __qualname__ __module__ __annotations__ __type_params__".split()
    )
    """Attributes that are ours; the user may hang others on the function."""

    def __init__(self, function: Callable[..., Any], options: CompileOptions) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._name: str = options.name or str(getattr(function, "__name__", "function"))
        self._options = options
        self._lock = threading.RLock()
        self._variants: dict[Any, list[Variant]] = {}
        self._calls: tuple[Callable[..., Any], ...] = ()
        self._failed_in_a_row = 0
        self._missed_in_a_row = 0
        self._traced_in_a_row = 0
        self._native_before = 0
        self._surprises = 0
        self._ran: Ran = {}
        self._searched: dict[int, FunctionType] = {}
        self._lifting = Lifting()
        self._eager_because: tuple[str, SourceLocation | None] | None = None
        self.refusals: list[tuple[str, SourceLocation | None]] = []
        self.stats = Stats()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: bound like a plain function."""
        if instance is None:
            return self
        return _BoundCompiled(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if state.watched:
            return self._call_watched(args, kwargs)
        for call in self._calls:
            result = call(args, kwargs)
            if result is not MISS:
                self.stats.native += 1
                return result
        return self._call_generally(args, kwargs)

    def _call_watched(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """While somebody listens, a native call is one event: its ops are fused. Rare modes go the general way."""
        if state.rare():
            return self._call_generally(args, kwargs)
        begin = events.now()
        for call in self._calls:
            result = call(args, kwargs)
            if result is not MISS:
                self.stats.native += 1
                report_native(f"compiled {self._name}", begin, result)
                return result
        return self._call_generally(args, kwargs)

    def _call_generally(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look through all variants, and make a new one if none applies."""
        stats = self.stats
        if state.trace is not None or state.levels:
            return self._function(*args, **kwargs)  # Part of a larger trace, or of a transform.
        if state.saved_hooks is not None:
            stats.eager += 1
            return self._function(*args, **kwargs)  # The hooks want each tensor that is saved.
        if state.anomaly or state.finder is not None:
            stats.eager += 1
            return self._function(*args, **kwargs)  # Every operation is to be looked at.
        if of_all_modules():
            stats.eager += 1
            return self._function(*args, **kwargs)  # Every module is to be looked at.
        if self._eager_because is not None or config.disable_jit.get():
            stats.eager += 1
            return self._function(*args, **kwargs)
        try:
            leaves, spec = pytree.flatten((args, kwargs))
        except RecursionError:
            stats.eager += 1
            return self._function(*args, **kwargs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if state.inference is None and any(t._counter is UNTRACKED for t in tensors):
            stats.eager += 1
            return self._function(*args, **kwargs)  # Each operation looks whether it may take them.
        modes = state.exact, state.inference
        key = self._key(spec, leaves, modes)
        missed = False
        varied: list[list[Entry]] = []
        if stats.native != self._native_before:  # Calls by the fast way reset the counts as well.
            self._missed_in_a_row = self._traced_in_a_row = 0
            self._native_before = stats.native
        for variant in tuple(self._variants.get(key, ())):
            if not variant.accepts(tensors):
                continue
            if not variant.guard.check():
                changed = variant.guard.changed()
                for entry in changed[:1]:
                    stats.guard_failures[f"Python state: {entry.name}"] += 1
                varied.append(changed)
            else:
                try:
                    done, result = self._run(variant, tensors, leaves, spec)
                except MismatchError:
                    raise
                except Exception:
                    # Nothing was written. Python will raise this, or handle it, as it sees fit.
                    stats.eager += 1
                    return self._function(*args, **kwargs)
                if done:
                    self._prefer(variant)
                    self._missed_in_a_row = self._traced_in_a_row = 0
                    return result
                stats.guard_failures["a value that Python looked at"] += 1
            missed = True
        stats.eager += 1
        if lifting.under_way[0]:
            return self._function(*args, **kwargs)  # Another thread traces, with numbers replaced.
        if missed:
            self._missed_in_a_row += 1
        self._traced_in_a_row += 1
        if self._missed_in_a_row > MAX_MISSES:
            reason = stats.guard_failures.most_common(1)[0][0]
            self._refuse(f"what it depends on is new at every call ({reason})", None, final=True)
            return self._function(*args, **kwargs)
        if self._traced_in_a_row > MAX_NEW:
            self._refuse("its arguments are of a new kind at every call", None, final=True)
            return self._function(*args, **kwargs)
        if missed:
            for changed in varied:
                self._lifting.lift_places(changed)
        elif self._lifting.lift_leaves(
            spec, key[1], [k for s, k, m in self._variants if s == spec and m == modes]
        ):
            key = self._key(spec, leaves, modes)
        return self._trace(key, leaves, tensors, args, kwargs)

    def _key(self, spec: Any, leaves: list[Any], modes: Any) -> Any:
        """What a call has in common with those that the same variants may answer."""
        return spec, self._lifting.keys(spec, leaves, [leaf_key(leaf) for leaf in leaves]), modes

    def _run(
        self, variant: Variant, tensors: list[Tensor], leaves: list[Any], spec: Any
    ) -> tuple[bool, Any]:
        begin = events.now() if events.active else 0
        done, result = variant.run(tensors, leaves)
        if done and begin:
            report_native(f"compiled {self._name}", begin, result)
        if done:
            if variant.executable.fallbacks:
                self.stats.interpreted += 1
            else:
                self.stats.native += 1
            executable: Any = variant.executable
            if getattr(executable, "settled", False):  # Checked, and not to be checked again.
                variant.executable = executable.native
                variant.call = generate(variant, leaves, spec)
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
        with events.span(f"tg.compile: {self._name}", events.COMPILE):
            return self._trace_and_compile(key, leaves, tensors, args, kwargs)

    def _trace_and_compile(
        self,
        key: Any,
        leaves: list[Any],
        tensors: list[Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        roots: list[tuple[Any, str]] = [(self._function, self._name)]
        for position, leaf in enumerate(leaves):
            if not isinstance(leaf, (Tensor, *PLAIN)):
                roots.append((leaf, f"argument {position}"))
        before = self._look_around(roots)
        trace = Trace(self._name)
        for number, tensor in enumerate(tensors):
            tensor._renew()
            trace.argument(tensor, number)
        grad_enabled, modes = state.grad, (state.exact, state.inference)
        self.stats.traces += 1
        begin = time.perf_counter()
        state.trace = trace
        tracing.active[0] += 1
        try:
            with (
                self._lifting.put(trace, key[0], leaves, (args, kwargs), before) as call,
                events.span("trace", events.COMPILE),
                trace.observer,
            ):
                seen = self._function(*call[0], **call[1])
        except BaseException as error:
            error.args = plain_result(error.args)
            recover(trace.numbers)
            raise
        finally:
            tracing.active[0] -= 1
            state.trace = None
        self._lifting.learn(trace, key[0])
        key = self._key(key[0], leaves, key[2])  # What is pinned has a value again.
        returned = plain_result(seen)
        try:
            if state.grad is not grad_enabled or (state.exact, state.inference) != modes:
                raise RefusedError("it changes the grad mode")
            check_arguments(args, kwargs, key[0], leaves)
            containers = list(pytree.containers((args, kwargs)))
            kept = {*map(id, containers), *map(id, leaves)}
            variant = self._make_variant(trace, seen, tensors, before, roots, grad_enabled, kept)
        except UnknownStateError as surprise:
            self._surprises += 1
            if self._surprises > MAX_SURPRISES:
                self._refuse(
                    f"it depends on state that cannot be foreseen: {surprise}", None, final=True
                )
        except (RefusedError, UnguardableError) as refusal:
            self._refuse(str(refusal), getattr(refusal, "location", None), final=False)
        except Exception as error:
            self._refuse(f"internal error: {type(error).__name__}: {error}", None, final=False)
        else:
            self._failed_in_a_row = self._surprises = 0
            variant.call = generate(variant, leaves, key[0])
            self._add(key, variant)
            self._prefer(variant)
        del call, seen
        recover(trace.numbers)
        self.stats.compile_seconds += time.perf_counter() - begin
        return returned

    def _look_around(self, roots: list[tuple[Any, str]]) -> Snapshot | None:
        """The state that the function can reach, as far as we can tell before it runs."""
        functions = [(function, function.__name__) for function in self._searched.values()]
        try:
            before = Snapshot().take([*roots, *functions])
            if self._ran:
                # Code that ran in earlier calls leads to places that we would not find otherwise.
                before.entries.update(Snapshot(self._ran).take([*roots, *functions]).entries)
        except Exception:  # The user's own descriptors and attributes may do anything.
            return None
        return before

    def _make_variant(
        self,
        trace: Trace,
        returned: Any,
        tensors: list[Tensor],
        before: Snapshot | None,
        roots: list[tuple[Any, str]],
        grad_enabled: bool,
        kept: set[int],
    ) -> Variant:
        """A variant of a traced run.

        Args:
            kept: ids of containers and other objects among the arguments.

        Raises:
            RefusedError, UnguardableError: the run cannot be described.
            UnknownStateError: it may be possible at the next call.
        """
        if trace.failure is not None:
            raise RefusedError(*trace.failure)
        observer = trace.observer
        if observer.refusal is not None:
            raise RefusedError(*observer.refusal)
        if before is None:
            raise RefusedError("the Python state that it can reach cannot be looked at")
        known = set(self._ran)
        self._ran.update(observer.codes)
        try:
            lifted = {s.place.place for s in trace.sources if isinstance(s.place, Entry)}
            guard = guard_of(before, roots, observer.codes, self._searched, lifted)
        except UnknownStateError:
            if known.issuperset(observer.codes) and self._surprises:
                raise UnguardableError(
                    "it depends on state that only exists while it runs"
                ) from None
            raise
        check_attributes(tensors, guard)
        with events.span("plan", events.COMPILE):
            made = plan(trace, returned, tensors, guard, kept | before.containers.keys())
        refuse_leaks(trace, returned, made)
        return Variant(made, guard, tensors, grad_enabled, self._compile)

    def _prefer(self, variant: Variant) -> None:
        """Try this variant first at the next call, by its fast call, and the latest others after it."""
        call = variant.call
        if call is not None and not state.rare():  # Fast calls do not ask for rare modes.
            variant.known_hooks[0] = hooks_added[0]
            others = [other for other in self._calls if other is not call]
            self._calls = (call, *others[: MAX_FAST_CALLS - 1])

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
        with events.span("native code", events.COMPILE):
            return make_executable(program, self._options.backend, self._options.check)

    def _refuse(self, reason: str, location: SourceLocation | None, *, final: bool) -> None:
        """Note why a run could not be compiled; give up after several in a row."""
        self.refusals.append((reason, location))
        del self.refusals[:-20]
        if self._options.fullgraph:
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
        return _explanation().show_stage(known[variant], stage, format)

    def explain(self) -> str:
        """What was compiled, what is guarded, what fell back and why, as text."""
        return _explanation().explain_function(self)

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
            self._calls = ()
            self._eager_because = None
            self._failed_in_a_row = self._missed_in_a_row = self._traced_in_a_row = (
                self._surprises
            ) = 0
            self._ran.clear()
            self._searched.clear()
            self._lifting = Lifting()
            self.refusals.clear()
            self.stats = Stats()

    def __repr__(self) -> str:
        return f"<compiled {self._name}: {len(self.variants)} variants>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By name where this object is what the function's name stands for (a decorated function)."""
        found: Any = sys.modules.get(self._function.__module__)
        for part in self._function.__qualname__.split("."):
            found = getattr(found, part, None)
        if found is self:
            return self._function.__qualname__
        return CompiledFunction, (self._function, self._options)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledFunction:
        return CompiledFunction(self._function, self._options)


class _BoundCompiled:
    """A compiled function as a method of an object; the object is its first argument."""

    def __init__(self, compiled: CompiledFunction, instance: Any) -> None:
        self.__func__ = compiled
        self.__self__ = instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)


@overload
def compile(
    model: Callable[..., Any],
    *,
    fullgraph: bool = ...,
    backend: str = ...,
    name: str | None = ...,
    check: bool | str = ...,
) -> CompiledFunction: ...
@overload
def compile(
    *, fullgraph: bool = ..., backend: str = ..., name: str | None = ..., check: bool | str = ...
) -> Callable[[Callable[..., Any]], CompiledFunction]: ...
def compile(
    model: Any = None,
    *,
    fullgraph: bool = False,
    backend: str = "native",
    name: str | None = None,
    check: bool | str = False,
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
        check: compare native code with the interpreter, at each call, or with ``"first"`` at the first native call
            of each variant (and of each derivative). Results may differ by rounding, as far as the program passes
            it on. Otherwise the call raises :class:`tracegrad.MismatchError`, which names the first operation that
            differs and its line; tensors are then as they were before the call.

    Returns:
        A callable with ``stats``, ``explain()`` and ``ir(stage=...)``.

    Raises:
        TypeError: `model` is not callable, or an option is of a wrong type.
        ValueError: an option has a value that does not exist.
    """
    options = CompileOptions(fullgraph, backend, name, check).checked()
    if model is None:
        return functools.partial(compile, **options._asdict())
    if not callable(model):
        raise TypeError(f"compile() expects a callable, but got {type(model).__name__}")
    if isinstance(model, CompiledFunction):
        return model
    return CompiledFunction(model, options)


def _explanation() -> Any:
    """:mod:`tracegrad.explanation`, imported when somebody asks."""
    return importlib.import_module("tracegrad.explanation")
