"""The newer face of the profiler, as torch.profiler: activities, schedules, and a callback per
trace.

    with tg.profiler.profile(schedule=tg.profiler.schedule(wait=1, warmup=1, active=3),
                             on_trace_ready=lambda prof: print(prof.key_averages())) as prof:
        for batch in batches:
            train(batch)
            prof.step()

What is recorded, and how it is printed, is the business of `tracegrad.autograd.profiler`.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from tracegrad.autograd import profiler as recording
from tracegrad.autograd.profiler import (
    DeviceType,
    ProfilerActivity,
    record_function,
    refuse_options,
)
from tracegrad.autograd.profiler_events import FunctionEventAvg
from tracegrad.autograd.profiler_report import EventList

__all__ = [
    "DeviceType",
    "ProfilerAction",
    "ProfilerActivity",
    "profile",
    "record_function",
    "schedule",
    "supported_activities",
    "tensorboard_trace_handler",
]


class ProfilerAction(Enum):
    """What the profiler does during one step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


_N, _W, _R, _S = ProfilerAction
# What is done where one action follows another, or the end (None). "report" is the user's callback.
_TRANSITIONS: dict[tuple[ProfilerAction, ProfilerAction | None], tuple[str, ...]] = {
    (_N, _W): ("prepare",),
    (_N, _R): ("prepare", "start"),
    (_N, _S): ("prepare", "start"),
    (_W, _N): ("warn", "start", "stop"),
    (_W, _R): ("start",),
    (_W, _S): ("start",),
    (_W, None): ("start", "stop"),
    (_R, _N): ("warn", "stop"),
    (_R, _W): ("warn", "stop"),
    (_R, None): ("stop", "report"),
    (_S, _N): ("stop", "report"),
    (_S, _W): ("stop", "report", "prepare"),
    (_S, _R): ("stop", "report", "prepare", "start"),
    (_S, _S): ("stop", "report", "prepare", "start"),
    (_S, None): ("stop", "report"),
}

# Options that a trace file tells of.
_IN_METADATA = ("profile_memory", "with_stack", "record_shapes", "with_modules", "with_flops")

_warned_of_clearing = False


def supported_activities() -> set[ProfilerActivity]:
    """The activities that `profile` accepts."""
    return {ProfilerActivity.CPU}


def schedule(
    *,
    wait: int,
    warmup: int,
    active: int,
    repeat: int = 0,
    skip_first: int = 0,
    skip_first_wait: int = 0,
) -> Callable[[int], ProfilerAction]:
    """A function from the number of a step to what the profiler does in it.

    After `skip_first` steps come cycles of `wait` idle steps, `warmup` steps and `active` recorded
    steps, `repeat` of them or, for 0, as many as there are. With `skip_first_wait` the first cycle
    has no idle steps.

    Raises AssertionError for negative numbers, or if `active` is 0; warns if `warmup` is 0.
    """
    if min(wait, warmup, repeat, skip_first) < 0 or active <= 0:
        raise AssertionError(
            f"Invalid profiler schedule arguments. Got wait={wait} (need >= 0), "
            f"warmup={warmup} (need >= 0), active={active} (need > 0), "
            f"repeat={repeat} (need >= 0), skip_first={skip_first} (need >= 0)."
        )
    if warmup == 0:
        warnings.warn(
            "Profiler won't be using warmup, this can skew profiler results", stacklevel=2
        )
    length = wait + warmup + active

    def choose(step: int) -> ProfilerAction:
        if step < 0:
            raise AssertionError(f"Step must be non-negative. Got {step}.")
        if step < skip_first:
            return ProfilerAction.NONE
        step -= skip_first
        if skip_first_wait:
            step += wait
        cycle, position = divmod(step, length)
        if (repeat > 0 and cycle >= repeat) or position < wait:
            return ProfilerAction.NONE
        if position < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD if position < length - 1 else ProfilerAction.RECORD_AND_SAVE

    return choose


def tensorboard_trace_handler(
    dir_name: str,
    worker_name: str | None = None,
    use_gzip: bool = False,
    use_python_export: bool = False,
) -> Callable[[profile], None]:
    """An `on_trace_ready` that writes each trace to a new file in `dir_name`, as TensorBoard
    expects it. The files are named after `worker_name`, by default the host and the process.

    Raises RuntimeError, when it writes, if there is no such folder and it cannot be made.
    """

    def write(prof: profile) -> None:
        import socket  # only needed to name the file

        try:
            os.makedirs(dir_name, exist_ok=True)
        except Exception as error:
            raise RuntimeError("Can't create directory: " + dir_name) from error
        worker = worker_name or f"{socket.gethostname()}_{os.getpid()}"
        name = f"{worker}.{time.time_ns()}.pt.trace.json" + (".gz" if use_gzip else "")
        prof.export_chrome_trace(os.path.join(dir_name, name), use_python_export)

    return write


class profile:  # noqa: N801  (torch's name)
    """Context manager that records the steps that `schedule` chooses, everything if there is none.

    `on_trace_ready(prof)` is called after each recorded cycle and at the end; inside it, and
    afterwards, `key_averages`, `events` and `export_chrome_trace` give the last cycle, or with
    `acc_events` all cycles. With a schedule, each step is an event "ProfilerStep*". `warmup` steps
    are not recorded; there is nothing to warm up. Other options are those of
    `tracegrad.autograd.profiler.profile`.

    `activities` may name other devices beside the CPU: they are not there, so that it warns.

    Raises AssertionError or ValueError for activities that are none, without CPU, or named twice;
    NotImplementedError for torch's options that are not supported: `experimental_config`,
    `execution_trace_observer`, and a choice among the events of an activity.
    """

    def __init__(
        self,
        *,
        activities: Iterable[ProfilerActivity] | None = None,
        schedule: Callable[[int], ProfilerAction] | None = None,
        on_trace_ready: Callable[[profile], Any] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        with_modules: bool = False,
        experimental_config: Any = None,
        execution_trace_observer: Any = None,
        acc_events: bool = False,
        use_cuda: bool | None = None,
        custom_trace_id_callback: Callable[[], str] | None = None,
        post_processing_timeout_s: float | None = None,
    ) -> None:
        if use_cuda is not None:
            warnings.warn(
                "`use_cuda` is deprecated, use `activities` argument instead",
                FutureWarning,
                stacklevel=2,
            )
        self.activities = _check_activities(activities)
        refuse_options(
            experimental_config=experimental_config,
            execution_trace_observer=execution_trace_observer,
        )
        self.record_shapes = record_shapes
        self.profile_memory = profile_memory
        self.with_stack = with_stack
        self.with_flops = with_flops
        self.with_modules = with_modules
        self.acc_events = acc_events
        self.custom_trace_id_callback = custom_trace_id_callback
        self.post_processing_timeout_s = post_processing_timeout_s
        self.preset_metadata: dict[str, str] = {}
        self._metadata: dict[str, str] = {}
        self.on_trace_ready = on_trace_ready
        self.record_steps = schedule is not None
        self.schedule = schedule or _record_always
        self.step_num = 0
        self.current_action = self.schedule(0)
        self.step_rec_fn: record_function | None = None
        self.profiler: recording.profile | None = None

    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin with the first step."""
        self._change(ProfilerAction.NONE, self.current_action)
        self._open_step()

    def stop(self) -> None:
        """End the last step, and hand over what was recorded since the last cycle ended."""
        self._close_step()
        self._change(self.current_action, None)

    def step(self) -> None:
        """Say that the next step begins."""
        self._close_step()
        before = self.current_action
        self.current_action = self.schedule(self.step_num + 1)
        self.step_num += 1
        self._change(before, self.current_action)
        self._open_step()

    def prepare_trace(self) -> None:
        """Begin a cycle, without recording yet."""
        global _warned_of_clearing
        if self.profiler is not None and not self.acc_events and not _warned_of_clearing:
            _warned_of_clearing = True
            warnings.warn(
                "Warning: Profiler clears events at the end of each cycle. Only events from the "
                "current cycle will be reported. To keep events across cycles, set acc_events=True.",
                stacklevel=2,
            )
        if self.profiler is None or not self.acc_events:
            self.profiler = recording.profile(
                record_shapes=self.record_shapes,
                profile_memory=self.profile_memory,
                with_stack=self.with_stack,
                with_flops=self.with_flops,
                with_modules=self.with_modules,
                acc_events=self.acc_events,
                post_processing_timeout_s=self.post_processing_timeout_s,
            )
        self.profiler.custom_trace_id_callback = self.custom_trace_id_callback
        self.profiler.prepare_trace()

    def start_trace(self) -> None:
        """Begin to record. Raises RuntimeError if another profile is running."""
        self._recording("starting trace").start_trace()
        for option in _IN_METADATA:
            if getattr(self, option):
                self.add_metadata_json(option, "1")
        self._metadata.update(self.preset_metadata)

    def stop_trace(self) -> None:
        """Cease to record."""
        self._recording("stopping trace").stop_trace()

    def toggle_collection_dynamic(
        self, enable: bool, activities: Iterable[ProfilerActivity]
    ) -> None:
        """Pause the recording, or go on with it, if CPU is among `activities`."""
        if self.profiler is not None:
            self.profiler.toggle_collection_dynamic(enable, activities)

    def events(self) -> EventList:
        """One `FunctionEvent` per call. Raises AssertionError before anything was recorded."""
        return self._recording("accessing events").function_events

    def key_averages(
        self,
        group_by_input_shape: bool = False,
        group_by_stack_n: int = 0,
        group_by_overload_name: bool = False,
    ) -> EventList:
        """Averages per name, and per input shapes or source lines if asked for."""
        return self._recording("getting key averages").key_averages(
            group_by_input_shape, group_by_stack_n, group_by_overload_name
        )

    def total_average(self) -> FunctionEventAvg:
        """The sum over all events, with the key "Total"."""
        return self._recording("getting key averages").total_average()

    def export_chrome_trace(self, path: str, use_python_export: bool = False) -> None:
        """Write the last cycle for Perfetto or chrome://tracing, compressed for a path in ".gz"."""
        metadata = {key: json.loads(value) for key, value in self._metadata.items()}
        self._recording("exporting chrome trace").export_chrome_trace(path, metadata)

    def export_stacks(self, path: str, metric: str = "self_cpu_time_total") -> None:
        """Write the last cycle's stacks for a flame graph; needs `with_stack`."""
        self._recording("exporting stacks").export_stacks(path, metric)

    def export_memory_timeline(self, path: str, device: str | None = None) -> None:
        """torch's, which it has deprecated. Raises NotImplementedError."""
        raise NotImplementedError(
            "export_memory_timeline is not supported by tracegrad (torch deprecates it)\n"
            "With profile_memory=True the table and export_chrome_trace show the bytes of each op."
        )

    def add_metadata(self, key: str, value: str) -> None:
        """Have exported traces hold a string under `key`."""
        self._metadata[key] = json.dumps(value)

    def add_metadata_json(self, key: str, value: str) -> None:
        """Have exported traces hold what the JSON text `value` says under `key`. Raises ValueError
        if it is none."""
        json.loads(value)
        self._metadata[key] = value

    def preset_metadata_json(self, key: str, value: str) -> None:
        """`add_metadata_json`, from the next cycle on."""
        json.loads(value)
        self.preset_metadata[key] = value

    def set_custom_trace_id_callback(self, callback: Callable[[], str] | None) -> None:
        """Have `callback` give the trace ids, from the next cycle on."""
        self.custom_trace_id_callback = callback

    def get_trace_id(self) -> str | None:
        """The id of the last cycle's trace; None before there is one."""
        return None if self.profiler is None else self.profiler.trace_id

    def _recording(self, purpose: str) -> recording.profile:
        if self.profiler is None:
            raise AssertionError(f"Profiler must be initialized before {purpose}")
        return self.profiler

    def _change(self, before: ProfilerAction, after: ProfilerAction | None) -> None:
        for what in _TRANSITIONS.get((before, after), ()):
            if what == "prepare":
                self.prepare_trace()
            elif what == "start":
                self.start_trace()
            elif what == "stop":
                self.stop_trace()
            elif what == "report":
                if self.on_trace_ready is not None:
                    self.on_trace_ready(self)
            elif after is not None:
                message = f"Incorrect schedule: {before.name} followed by {after.name}"
                warnings.warn(message, stacklevel=3)

    def _open_step(self) -> None:
        if self.record_steps:
            self.step_rec_fn = record_function(f"ProfilerStep#{self.step_num}")
            self.step_rec_fn.__enter__()

    def _close_step(self) -> None:
        if self.step_rec_fn is not None:
            self.step_rec_fn.__exit__()
            self.step_rec_fn = None


def _record_always(step: int) -> ProfilerAction:
    return ProfilerAction.RECORD


def _check_activities(activities: Iterable[ProfilerActivity] | None) -> set[ProfilerActivity]:
    """The activities as a set, with torch's errors, and its warning about devices that are not there."""
    if activities is None:
        return supported_activities()
    items = list(activities)
    if not any(isinstance(item, (ProfilerActivity, dict)) for item in items):
        raise AssertionError("No valid profiler activities found")
    chosen: set[ProfilerActivity] = set()
    for item in items:
        if isinstance(item, dict):
            raise NotImplementedError(
                "profile(activities=...) takes whole activities only: tracegrad has no choice of "
                "events within one"
            )
        if not isinstance(item, ProfilerActivity):
            raise TypeError(f"Expected ProfilerActivity or dict, got {type(item)}")
        if item in chosen:
            raise ValueError(f"Activity {item} specified more than once")
        chosen.add(item)
    for item in sorted(chosen - supported_activities(), key=lambda item: item.value):
        warnings.warn(
            f"{item.name} is not available, disabling {item.name} profiling", stacklevel=3
        )
    if ProfilerActivity.CPU not in chosen:
        raise AssertionError("No activities specified for the profiler")
    return chosen
