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

import os
import time
import warnings
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from tracegrad.autograd.profiler import profile as _recording
from tracegrad.autograd.profiler import record_function, refuse_options
from tracegrad.autograd.profiler_report import EventList

__all__ = [
    "ProfilerAction",
    "ProfilerActivity",
    "profile",
    "record_function",
    "schedule",
    "supported_activities",
    "tensorboard_trace_handler",
]


class ProfilerActivity(Enum):
    """What can be recorded; only `CPU` is supported."""

    CPU = 0
    CUDA = 2


class ProfilerAction(Enum):
    """What the profiler does during one step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


_RECORDING = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)


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
    dir_name: str, worker_name: str | None = None, use_gzip: bool = False
) -> Callable[[profile], None]:
    """An `on_trace_ready` that writes each trace to a new file in `dir_name`, as TensorBoard
    expects it."""

    def write(prof: profile) -> None:
        import socket  # only needed to name the file

        worker = worker_name or f"{socket.gethostname()}_{os.getpid()}"
        os.makedirs(dir_name, exist_ok=True)
        name = f"{worker}.{time.time_ns()}.pt.trace.json" + (".gz" if use_gzip else "")
        prof.export_chrome_trace(os.path.join(dir_name, name))

    return write


class profile:  # noqa: N801  (torch's name)
    """Context manager that records the steps that `schedule` chooses, everything if there is none.

    `on_trace_ready(prof)` is called after each recorded cycle and at the end; inside it, and
    afterwards, `key_averages`, `events` and `export_chrome_trace` give the last cycle, or with
    `acc_events` the first two give all cycles. With a schedule, each step is an event
    "ProfilerStep*". Other options are those of `tracegrad.autograd.profiler.profile`.

    Raises RuntimeError for other activities than CPU and NotImplementedError for `profile_memory`
    and the options of torch's that are not supported. `warmup` steps are not recorded; there is
    nothing to warm up.
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
        custom_trace_id_callback: Any = None,
        post_processing_timeout_s: float | None = None,
    ) -> None:
        chosen = supported_activities() if activities is None else set(activities)
        if not chosen:
            raise AssertionError("No valid profiler activities found")
        if use_cuda or chosen != supported_activities():
            raise RuntimeError(
                "tracegrad runs on CPU only: activities may hold nothing but ProfilerActivity.CPU"
            )
        refuse_options(
            profile_memory=profile_memory,
            experimental_config=experimental_config,
            execution_trace_observer=execution_trace_observer,
            custom_trace_id_callback=custom_trace_id_callback,
            post_processing_timeout_s=post_processing_timeout_s,
        )
        self.schedule = schedule
        self.on_trace_ready = on_trace_ready
        self.acc_events = acc_events
        self.step_num = 0
        self.current_action = self._choose_action()
        self._options: dict[str, Any] = {
            "record_shapes": record_shapes,
            "with_stack": with_stack,
            "with_flops": with_flops,
            "with_modules": with_modules,
        }
        self._step_region: record_function | None = None
        self.profiler: _recording | None = None
        self._is_recording = False
        self._earlier: list[Any] = []

    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin with the first step."""
        if self.current_action in _RECORDING:
            self._start_recording()
        self._open_step()

    def stop(self) -> None:
        """End the last step, and hand over what was recorded since the last cycle ended."""
        self._close_step()
        if self._is_recording:
            self._stop_recording()
            self._hand_over()

    def step(self) -> None:
        """Say that the next step begins."""
        self._close_step()
        before = self.current_action
        self.step_num += 1
        self.current_action = self._choose_action()
        if before is ProfilerAction.RECORD_AND_SAVE:
            self._stop_recording()
            self._hand_over()
        elif before is not ProfilerAction.NONE and self.current_action.value < before.value:
            warnings.warn(
                f"Incorrect schedule: {before.name} followed by {self.current_action.name}",
                stacklevel=2,
            )
            if self._is_recording:
                self._stop_recording()
        if self.current_action in _RECORDING and not self._is_recording:
            self._start_recording()
        self._open_step()

    def events(self) -> EventList:
        """One `FunctionEvent` per call. Raises AssertionError before anything was recorded."""
        if self.profiler is None:
            raise AssertionError("Profiler must be initialized before accessing events")
        events = self.profiler.function_events
        if self._earlier:
            return EventList([*self._earlier, *events], with_flops=self._options["with_flops"])
        return events

    def key_averages(
        self,
        group_by_input_shape: bool = False,
        group_by_stack_n: int = 0,
        group_by_overload_name: bool = False,
    ) -> EventList:
        """Averages per name, and per input shapes or source lines if asked for."""
        return self.events().key_averages(
            group_by_input_shape, group_by_stack_n, group_by_overload_name
        )

    def export_chrome_trace(self, path: str) -> None:
        """Write the last cycle for Perfetto or chrome://tracing, compressed for a path in ".gz"."""
        self._last().export_chrome_trace(path)

    def export_stacks(self, path: str, metric: str = "self_cpu_time_total") -> None:
        """Write the last cycle's stacks for a flame graph; needs `with_stack`."""
        self._last().export_stacks(path, metric)

    def _choose_action(self) -> ProfilerAction:
        return ProfilerAction.RECORD if self.schedule is None else self.schedule(self.step_num)

    def _last(self) -> _recording:
        if self.profiler is None:
            raise AssertionError("Profiler must be initialized before exporting")
        return self.profiler

    def _start_recording(self) -> None:
        if self.acc_events and self.profiler is not None:
            self._earlier += self.profiler.function_events
        recording = _recording(**self._options)
        recording.__enter__()
        self.profiler = recording
        self._is_recording = True

    def _stop_recording(self) -> None:
        self._last().__exit__()
        self._is_recording = False

    def _hand_over(self) -> None:
        if self.on_trace_ready is not None:
            self.on_trace_ready(self)

    def _open_step(self) -> None:
        if self.schedule is not None:
            self._step_region = record_function(f"ProfilerStep#{self.step_num}")
            self._step_region.__enter__()

    def _close_step(self) -> None:
        if self._step_region is not None:
            self._step_region.__exit__()
            self._step_region = None
