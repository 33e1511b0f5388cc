"""The profiler, as torch.autograd.profiler: `profile`, `record_function`.

    with tg.autograd.profiler.profile(record_shapes=True) as prof:
        loss(x).backward()
    print(prof.key_averages().table(sort_by="self_cpu_time_total"))

While a profile is running, every op, node of the backward sweep, pass, compilation and native call
appends one tuple to its list through the event bus (`tracegrad.ir.events`). Nothing is computed
before the results are asked for; then `profiler_events` makes events of the tuples, and
`profiler_report` prints them.

Unlike torch's, a profile sees all threads, not only its own.
"""

from __future__ import annotations

import threading
import time
from contextlib import ContextDecorator
from typing import Any

from tracegrad.autograd.profiler_events import (
    FunctionEvent,
    FunctionEventAvg,
    Interval,
    build_events,
)
from tracegrad.autograd.profiler_report import EventList
from tracegrad.ir import events as bus

__all__ = [
    "EventList",
    "FunctionEvent",
    "FunctionEventAvg",
    "Interval",
    "profile",
    "record_function",
]

_CPU_ONLY = "tracegrad runs on CPU only"

_lock = threading.Lock()
_running: profile | None = None


class profile:  # noqa: N801  (torch's name)
    """Context manager that records what runs inside it, in all threads.

    `enabled=False` makes it do nothing. `record_shapes` keeps the shapes of the ops' tensor
    operands, `with_stack` the user's lines, and `with_flops` counts the floating point operations
    of products, sums and matrix products (it implies `record_shapes`). `with_modules`, `use_kineto`
    and `acc_events` are accepted and change nothing, as for eager CPU code in torch.

    Raises RuntimeError if another device than the CPU is asked for, and NotImplementedError for
    torch's options that are not supported: `profile_memory`, `use_cpu=False`,
    `experimental_config`, `custom_trace_id_callback`, `post_processing_timeout_s`,
    `activity_filters`. Entering raises RuntimeError if this profile was entered before or another
    one is running.
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
        custom_trace_id_callback: Any = None,
        post_processing_timeout_s: float | None = None,
        activity_filters: Any = None,
    ) -> None:
        self.enabled = enabled
        self.entered = False
        self.record_shapes = record_shapes or with_flops
        self.with_flops = with_flops
        self.with_stack = with_stack
        self._recorded: list[bus.Event] = []
        self._start_ns = 0
        self._start_unix_ns = 0
        self._is_finished = not enabled
        self._function_events: EventList | None = None
        if not enabled:
            return
        if use_cuda:
            raise RuntimeError(f"use_cuda=True is not possible: {_CPU_ONLY}")
        if use_device not in (None, "cpu"):
            raise RuntimeError(f"use_device={use_device!r} is not possible: {_CPU_ONLY}")
        if not use_cpu:
            raise NotImplementedError(f"use_cpu=False is not possible: {_CPU_ONLY}")
        refuse_options(
            profile_memory=profile_memory,
            experimental_config=experimental_config,
            custom_trace_id_callback=custom_trace_id_callback,
            post_processing_timeout_s=post_processing_timeout_s,
            activity_filters=activity_filters,
        )

    def __enter__(self) -> profile:
        global _running
        if not self.enabled:
            return self
        if self.entered:
            raise RuntimeError("Profiler context manager is not reentrant")
        with _lock:
            if _running is not None:
                raise RuntimeError(
                    "Profiler is already enabled\n"
                    "Only one profile can run at a time in a process; use record_function to name "
                    "parts of it."
                )
            _running = self
        self.entered = True
        bus.subscribe(self._recorded.append, shapes=self.record_shapes, stack=self.with_stack)
        self._start_unix_ns = time.time_ns()
        self._start_ns = bus.now()
        return self

    def __exit__(self, *exc_info: object) -> None:
        global _running
        if not self.enabled:
            return
        bus.unsubscribe(self._recorded.append)
        with _lock:
            _running = None
        self._is_finished = True

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
        if self._function_events is None:
            self._function_events = EventList(
                build_events(self._recorded, self._start_ns, with_flops=self.with_flops),
                with_flops=self.with_flops,
                start_unix_ns=self._start_unix_ns,
            )
            self._recorded = []
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

    def export_chrome_trace(self, path: str) -> None:
        """Write a trace for Perfetto or chrome://tracing; see `EventList.export_chrome_trace`."""
        self.function_events.export_chrome_trace(path)

    def export_stacks(self, path: str, metric: str = "self_cpu_time_total") -> None:
        """Write stacks for a flame graph. Raises ValueError unless `with_stack` was set."""
        if not self.with_stack:
            raise ValueError("export_stacks() requires with_stack=True")
        self.function_events.export_stacks(path, metric)


class record_function(ContextDecorator):  # noqa: N801  (torch's name)
    """Name a region, so that it appears in profiles: `with record_function("name"):`, or as
    decorator.

    `args` is any text to keep with the event. Costs less than a microsecond while no profile is
    running.
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


def refuse_options(**options: Any) -> None:
    """Raise NotImplementedError if an option of torch's that is not supported is set."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise NotImplementedError(f"profile({name}={value!r}) is not supported by tracegrad")
