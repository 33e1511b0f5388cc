"""The profiler, as torch.autograd.profiler: `profile`, `record_function`.

    with tg.autograd.profiler.profile(record_shapes=True) as prof:
        loss(x).backward()
    print(prof.key_averages().table(sort_by="self_cpu_time_total"))

While a profile is running, every op, node of the backward sweep, pass, compilation and native call
appends one tuple to its list through the event bus (`tracegrad.ir.events`). Nothing is computed
before the results are asked for; then `profiler_tree` makes events of the tuples, and
`profiler_report` prints them.

A call of a compiled function is one event, "compiled NAME", since its ops are fused in native code;
when it is traced and compiled there are events "tg.compile: NAME" and one for each stage.

Unlike torch's, a profile sees all threads, not only its own.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import ContextDecorator
from enum import Enum
from typing import Any

from tracegrad.autograd.profiler_events import (
    DeviceType,
    FunctionEvent,
    FunctionEventAvg,
    Interval,
)
from tracegrad.autograd.profiler_report import EventList
from tracegrad.autograd.profiler_tree import build_events
from tracegrad.grad_mode import state
from tracegrad.ir import events as bus

__all__ = [
    "DeviceType",
    "EventList",
    "FunctionEvent",
    "FunctionEventAvg",
    "Interval",
    "ProfilerActivity",
    "emit_itt",
    "emit_nvtx",
    "profile",
    "record_function",
]


class ProfilerActivity(Enum):
    """What can be asked for; only `CPU` is there to be recorded."""

    CPU = 0
    XPU = 1
    MTIA = 2
    CUDA = 3
    HPU = 4
    PrivateUse1 = 5


_DEVICES = ("cuda", "xpu", "mtia", "hpu")

_lock = threading.Lock()
_running: profile | None = None


class profile:  # noqa: N801  (torch's name)
    """Context manager that records what runs inside it, in all threads.

    `enabled=False` makes it do nothing. `record_shapes` keeps the shapes of the ops' operands,
    `profile_memory` counts the bytes of arrays that ops allocate and that are freed, `with_stack`
    keeps the user's lines, `with_modules` (and `with_stack`) labels the calls of modules,
    "nn.Module: Linear_0", and `with_flops` counts the floating point operations of products, sums
    and matrix products (it implies `record_shapes`). `acc_events` keeps the events of earlier
    cycles, for `tracegrad.profiler.profile`. `post_processing_timeout_s` bounds the time for making
    events of what was recorded; what is left then is dropped, with a warning in the log.
    `custom_trace_id_callback` gives the trace's id, by default a random one. `use_kineto` changes
    nothing: there is one way to record.

    A device other than the CPU is not there to be profiled: asking for one warns, as in torch.

    Raises AssertionError for `use_cpu=False`, ValueError for a negative timeout, and
    NotImplementedError for torch's options that are not supported: `experimental_config`,
    `activity_filters`. Entering raises RuntimeError if this profile was entered before, or another
    one is running: one can run at a time in a process.
    """

    def __init__(
        self,
        enabled: bool = True,
        *,
        use_cuda: bool = False,
        use_device: str | None = None,
        record_shapes: bool = False,
        with_flops: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_modules: bool = False,
        use_kineto: bool = False,
        use_cpu: bool = True,
        experimental_config: Any = None,
        acc_events: bool = False,
        custom_trace_id_callback: Callable[[], str] | None = None,
        post_processing_timeout_s: float | None = None,
        activity_filters: Any = None,
    ) -> None:
        self.enabled = enabled
        self.entered = False
        self.record_shapes = record_shapes or with_flops
        self.with_flops = with_flops
        self.profile_memory = profile_memory
        self.with_stack = with_stack
        self.with_modules = with_modules
        self.use_cpu = use_cpu
        self.use_device = None
        self.acc_events = acc_events
        self.custom_trace_id_callback = custom_trace_id_callback
        self.post_processing_timeout_s = post_processing_timeout_s
        self.trace_id = ""
        self._recorded: list[bus.Event] = []
        self._is_listening = False
        self._start_ns = 0
        self._start_unix_ns = 0
        self._threads: dict[int, str] = {}
        self._is_finished = not enabled
        self._function_events: EventList | None = None
        self._earlier: EventList | None = None
        if not enabled:
            return
        if use_cuda:
            warnings.warn(
                "The attribute `use_cuda` will be deprecated soon, "
                "please use ``use_device = 'cuda'`` instead.",
                FutureWarning,
                stacklevel=2,
            )
            use_device = "cuda"
        if not use_cpu and not use_kineto:
            raise AssertionError("Device-only events supported only with Kineto (use_kineto=True)")
        if use_device in _DEVICES:
            name = use_device.upper()
            warnings.warn(f"{name} is not available, disabling {name} profiling", stacklevel=2)
        elif use_device is not None:
            warnings.warn(f"The {use_device} is not a valid device option.", stacklevel=2)
        if not use_cpu:
            raise AssertionError("No activities specified for the profiler")
        if post_processing_timeout_s is not None and post_processing_timeout_s < 0:
            raise ValueError("post_processing_timeout_s must be non-negative")
        refuse_options(experimental_config=experimental_config, activity_filters=activity_filters)

    def __enter__(self) -> profile:
        if not self.enabled:
            return self
        if self.entered:
            raise RuntimeError("Profiler context manager is not reentrant")
        self.prepare_trace()
        self.start_trace()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.enabled:
            self.stop_trace()

    def prepare_trace(self) -> None:
        """Begin a cycle: what is recorded next has a trace id of its own."""
        self.entered = True
        make = self.custom_trace_id_callback
        self.trace_id = os.urandom(16).hex().upper() if make is None else make()

    def start_trace(self) -> None:
        """Begin to record. Raises RuntimeError if another profile is running."""
        global _running
        if state.trace is not None:
            state.trace.give_up("a profile begins inside of it")
        with _lock:
            if _running is not None:
                raise RuntimeError(
                    "Profiler is already enabled\n"
                    "Only one profile can run at a time in a process; use record_function to name "
                    "parts of it."
                )
            _running = self
        self._recorded = []
        self._threads = {}
        self._is_finished = False
        self._start_unix_ns = time.time_ns()
        self._start_ns = bus.now()
        self._listen()

    def stop_trace(self) -> None:
        """Cease to record. Does nothing if this profile is not running."""
        global _running
        if _running is not self:
            return
        self._cease()
        self._threads = {t.ident: t.name for t in threading.enumerate() if t.ident is not None}
        with _lock:
            _running = None
        self._earlier = self._function_events if self.acc_events else None
        self._function_events = None
        self._is_finished = True
        if self.acc_events:
            self._process()

    def toggle_collection_dynamic(
        self, enabled: bool, activities: Iterable[ProfilerActivity]
    ) -> None:
        """Pause the recording, or go on with it, if CPU is among `activities`."""
        if _running is self and ProfilerActivity.CPU in set(activities):
            if enabled:
                self._listen()
            else:
                self._cease()

    def _listen(self) -> None:
        if not self._is_listening:
            self._is_listening = True
            bus.subscribe(
                self._recorded.append,
                shapes=self.record_shapes,
                stack=self.with_stack,
                memory=self.profile_memory,
                modules=self.with_modules or self.with_stack,
            )

    def _cease(self) -> None:
        if self._is_listening:
            self._is_listening = False
            bus.unsubscribe(self._recorded.append)

    def __repr__(self) -> str:
        if not self._is_finished:
            return "<unfinished tracegrad.autograd.profile>"
        return repr(self.function_events)

    def __str__(self) -> str:
        if not self._is_finished:
            return "<unfinished tracegrad.autograd.profile>"
        return str(self.function_events)

    @property
    def function_events(self) -> EventList:
        """One `FunctionEvent` per call, in the order of starting. Raises RuntimeError before the
        end."""
        if not self._is_finished:
            raise RuntimeError(
                "Profiler didn't finish running\nResults exist once the `with` block has been left."
            )
        return self._process() if self._function_events is None else self._function_events

    def _process(self) -> EventList:
        """Make events of what was recorded, in front of those of earlier cycles if they are kept."""
        events = build_events(
            self._recorded,
            self._start_ns,
            with_flops=self.with_flops,
            timeout_s=self.post_processing_timeout_s,
        )
        names: dict[int, str] = {}
        for event in events:
            if event.ident in self._threads:
                names.setdefault(event.thread, self._threads[event.ident])
        self._recorded = []
        self._function_events = EventList(
            [*events, *(self._earlier or ())],
            profile_memory=self.profile_memory,
            with_flops=self.with_flops,
            start_unix_ns=self._start_unix_ns,
            thread_names=names,
        )
        self._earlier = None
        return self._function_events

    @property
    def self_cpu_time_total(self) -> float:
        """The time covered by any event, in microseconds: the sum of all self times."""
        return self.function_events.self_cpu_time_total

    def key_averages(
        self,
        group_by_input_shape: bool = False,
        group_by_stack_n: int = 0,
        group_by_overload_name: bool = False,
    ) -> EventList:
        """Averages per name, and per input shapes or source lines if asked for."""
        return self.function_events.key_averages(
            group_by_input_shape, group_by_stack_n, group_by_overload_name
        )

    def total_average(self) -> FunctionEventAvg:
        """The sum over all events, with the key "Total"."""
        return self.function_events.total_average()

    def table(
        self,
        sort_by: str | None = None,
        row_limit: int = 100,
        max_src_column_width: int | None = 75,
        max_name_column_width: int | None = 55,
        max_shapes_column_width: int | None = 80,
        header: str | None = None,
        top_level_events_only: bool = False,
    ) -> str:
        """One row per event; arguments and errors are those of `EventList.table`."""
        return self.function_events.table(
            sort_by=sort_by,
            row_limit=row_limit,
            max_src_column_width=max_src_column_width,
            max_name_column_width=max_name_column_width,
            max_shapes_column_width=max_shapes_column_width,
            header=header,
            top_level_events_only=top_level_events_only,
        )

    def export_chrome_trace(
        self, path: str, metadata: dict[str, Any] | None = None, use_python_export: bool = False
    ) -> None:
        """Write a trace for Perfetto or chrome://tracing; see `EventList.export_chrome_trace`.

        `use_python_export` changes nothing: there is one way to write it.
        """
        known = {"trace_id": self.trace_id, **(metadata or {})}
        self.function_events.export_chrome_trace(path, known)

    def export_stacks(self, path: str, metric: str = "self_cpu_time_total") -> None:
        """Write stacks for a flame graph. Raises AssertionError unless `with_stack` was set."""
        if not self.with_stack:
            raise AssertionError("export_stacks() requires with_stack=True")
        self.function_events.export_stacks(path, metric)


class record_function(ContextDecorator):  # noqa: N801  (torch's name)
    """Name a region, so that it appears in profiles: `with record_function("name"):`, or as
    decorator.

    `args` is any text to keep with the event. Costs less than a microsecond while no profile is
    running. Inside a compiled function it names a part of the run that is traced; native calls are
    one event, "compiled NAME".
    """

    def __init__(self, name: str, args: str | None = None) -> None:
        self.name = name
        self.args = args
        self._tokens: list[bus.Token | None] = []

    def __enter__(self) -> record_function:
        info = None if self.args is None else {"args": self.args}
        self._tokens.append(bus.begin(self.name, bus.USER, info))
        return self

    def __exit__(self, *exc_info: object) -> None:
        bus.end(self._tokens.pop())

    def _recreate_cm(self) -> record_function:
        """What a decorated function enters: a region of its own for each call, in any thread."""
        return record_function(self.name, self.args)


class _Emit:
    """A context manager that would mark ranges for a tool that is not there."""

    _tool = ""

    def __init__(self, enabled: bool = True, record_shapes: bool = False) -> None:
        self.enabled = enabled
        self.record_shapes = record_shapes

    def __enter__(self) -> _Emit:
        if self.enabled:
            raise NotImplementedError(
                f"{type(self).__name__} is not supported by tracegrad: there are no {self._tool}\n"
                "Use tracegrad.profiler.profile, and export_chrome_trace to look at the result."
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


class emit_nvtx(_Emit):  # noqa: N801  (torch's name)
    """torch's marks for NVIDIA's tools. Entering raises NotImplementedError unless disabled."""

    _tool = "NVTX ranges on a CPU."


class emit_itt(_Emit):  # noqa: N801  (torch's name)
    """torch's marks for VTune. Entering raises NotImplementedError unless disabled."""

    _tool = "ITT ranges."


def refuse_options(**options: Any) -> None:
    """Raise NotImplementedError if an option of torch's that is not supported is set."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise NotImplementedError(f"profile({name}={value!r}) is not supported by tracegrad")
