"""The events of a profile: `FunctionEvent` is one call, `FunctionEventAvg` all calls of one name.

Names and attributes are those of torch.autograd.profiler_util. `profiler_tree` makes events of what
was recorded.
"""

from __future__ import annotations

import warnings
from enum import Enum
from typing import Any, ClassVar

from tracegrad.ir import events as bus

# torch's numbers for at::RecordScope.
_SCOPES = {bus.BACKWARD: 1, bus.USER: 7}

# torch's names of the categories of events; other kinds keep their own name.
CATEGORIES = {
    bus.OP: "cpu_op",
    bus.ENGINE: "cpu_op",
    bus.BACKWARD: "cpu_op",
    bus.USER: "user_annotation",
    bus.MODULE: "python_function",
    bus.MEMORY: "cpu_instant_event",
}


class DeviceType(Enum):
    """Where an event took place: always on the CPU."""

    CPU = 0


class Interval:
    """A stretch of time, in microseconds since the profile began."""

    __slots__ = ("end_ns", "start_ns")

    def __init__(self, start_ns: int, end_ns: int) -> None:
        self.start_ns = start_ns
        self.end_ns = end_ns

    @property
    def start(self) -> float:
        return self.start_ns / 1000

    @property
    def end(self) -> float:
        return self.end_ns / 1000

    def elapsed_ns(self) -> int:
        return self.end_ns - self.start_ns

    def elapsed_us(self) -> float:
        return (self.end_ns - self.start_ns) / 1000


def _deprecated(name: str, replacement: str, advice: str = ". Use") -> Any:
    """torch's former name of an attribute, with its warning."""
    message = f"`{name}` is deprecated{advice} `{replacement}` instead."

    def get(self: _Timed) -> Any:
        warnings.warn(message, FutureWarning, stacklevel=2)
        return getattr(self, replacement)

    return property(get)


class _Timed:
    """What one call and an average of calls have in common."""

    __slots__ = ()

    # torch has these for other devices, remote workers and overloads; here they are always so.
    node_id = -1
    is_remote = False
    is_legacy = False
    use_device = None
    device_type = DeviceType.CPU
    overload_name = ""
    device_time = 0.0
    device_time_total = 0.0
    self_device_time_total = 0.0
    device_memory_usage = 0
    self_device_memory_usage = 0

    cpu_memory_usage: int
    self_cpu_memory_usage: int
    count: int
    cpu_time_total: float
    self_cpu_time_total: float

    @property
    def cpu_time(self) -> float:
        """Time per call with everything called inside, in microseconds."""
        return self.cpu_time_total / self.count if self.count else 0.0

    @property
    def self_cpu_time(self) -> float:
        """Time per call without the events inside, in microseconds."""
        return self.self_cpu_time_total / self.count if self.count else 0.0

    @property
    def cpu_time_str(self) -> str:
        return format_time(self.cpu_time)

    @property
    def cpu_time_total_str(self) -> str:
        return format_time(self.cpu_time_total)

    @property
    def self_cpu_time_total_str(self) -> str:
        return format_time(self.self_cpu_time_total)

    device_time_str = device_time_total_str = self_device_time_total_str = "0.000us"
    cuda_time = _deprecated("cuda_time", "device_time", ", please use")


class FunctionEvent(_Timed):
    """One call: of an op, of a node of the backward sweep, of a pass, or of a region that the user
    named.

    `id` counts from 1 in the order of starting, `thread` from 1 in the order of appearing; `ident`
    is Python's number of the thread.
    `input_shapes` has the shapes of the operands if shapes were recorded, () for those that are no
    tensors. `sequence_nr` links a forward op with its backward (-1: neither), whose `fwd_thread` is
    the thread of the forward op. `cpu_memory_usage` is what was allocated meanwhile in its thread,
    less what was freed, in bytes. `is_async` marks an event that began in one thread and ended in
    another; such events have no children and no self time. `info` has whatever else was reported.
    """

    __slots__ = (
        "category",
        "cpu_children",
        "cpu_memory_usage",
        "cpu_parent",
        "flops",
        "fwd_thread",
        "id",
        "ident",
        "info",
        "input_shapes",
        "is_async",
        "is_user_annotation",
        "name",
        "scope",
        "sequence_nr",
        "stack",
        "thread",
        "time_range",
        "trace_name",
    )

    count = 1
    # What torch has for kernels of other devices, and for arguments that are no tensors.
    kernels: ClassVar[tuple[Any, ...]] = ()
    concrete_inputs: ClassVar[tuple[Any, ...]] = ()
    kwinputs: ClassVar[dict[str, Any]] = {}
    device_index = 0
    flow_id = flow_type = linked_correlation_id = 0
    flow_start = False
    event_metadata = None
    cuda_time_total = _deprecated("cuda_time_total", "device_time_total")
    self_cuda_time_total = _deprecated("self_cuda_time_total", "self_device_time_total")
    self_cuda_memory_usage = _deprecated("self_cuda_memory_usage", "self_device_memory_usage")

    def __init__(
        self,
        id: int,
        name: str,
        thread: int,
        time_range: Interval,
        *,
        kind: str = bus.OP,
        ident: int = 0,
        input_shapes: list[list[int]] | None = None,
        stack: list[str] | None = None,
        sequence_nr: int = -1,
        flops: int = 0,
        info: dict[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.trace_name = name
        self.name = "ProfilerStep*" if name.startswith("ProfilerStep#") else name
        self.thread = thread
        self.ident = ident
        self.fwd_thread = 0
        self.time_range = time_range
        self.category = kind
        self.scope = _SCOPES.get(kind, 0)
        self.is_user_annotation = kind == bus.USER
        self.input_shapes = [] if input_shapes is None else input_shapes
        self.stack = [] if stack is None else stack
        self.sequence_nr = sequence_nr
        self.flops = flops
        self.info = info or {}
        self.is_async = "end_thread" in self.info
        self.cpu_memory_usage = self.info["Bytes"] if kind == bus.MEMORY else 0
        self.cpu_children: list[FunctionEvent] = []
        self.cpu_parent: FunctionEvent | None = None

    @property
    def key(self) -> str:
        return self.name

    @property
    def activity_type(self) -> str:
        """torch's name of the category, as in a trace file."""
        return CATEGORIES.get(self.category, self.category)

    @property
    def is_python_function(self) -> bool:
        return self.category == bus.MODULE

    @property
    def external_id(self) -> int:
        return self.id

    @property
    def device_resource_id(self) -> int:
        return self.thread

    @property
    def structured_input_shapes(self) -> list[list[int]]:
        return self.input_shapes

    @property
    def self_cpu_memory_usage(self) -> int:  # type: ignore[override]
        if self.is_async:
            return 0
        return self.cpu_memory_usage - sum(e.cpu_memory_usage for e in self.cpu_children)

    @property
    def cpu_time_total(self) -> float:  # type: ignore[override]
        return self.time_range.elapsed_us()

    @property
    def self_cpu_time_total(self) -> float:  # type: ignore[override]
        if self.is_async:
            return 0.0
        inside = sum(child.time_range.elapsed_ns() for child in self.cpu_children)
        return (self.time_range.elapsed_ns() - inside) / 1000

    def __repr__(self) -> str:
        return (
            f"<FunctionEvent id={self.id} name={self.name} cpu_time={self.cpu_time_str} "
            f"start_us={self.time_range.start} end_us={self.time_range.end} "
            f"cpu_children={[child.id for child in self.cpu_children]} thread={self.thread} "
            f"input_shapes={self.input_shapes} cpu_memory_usage={self.cpu_memory_usage} "
            f"is_async={self.is_async} seq_nr={self.sequence_nr}>"
        )


class FunctionEventAvg(_Timed):
    """All calls under one key: their number and the sums of their times, in microseconds.

    What cannot be summed (`input_shapes`, `stack`, `cpu_parent`, ...) is that of the first call.
    """

    __slots__ = (
        "count",
        "cpu_children",
        "cpu_memory_usage",
        "cpu_parent",
        "cpu_time_total",
        "flops",
        "input_shapes",
        "is_async",
        "is_user_annotation",
        "key",
        "scope",
        "self_cpu_memory_usage",
        "self_cpu_time_total",
        "stack",
    )

    def __init__(self) -> None:
        self.key: str | None = None
        self.count = 0
        self.cpu_time_total = 0.0
        self.self_cpu_time_total = 0.0
        self.cpu_memory_usage = 0
        self.self_cpu_memory_usage = 0
        self.flops = 0
        self.input_shapes: list[list[int]] | str = []
        self.stack: list[str] = []
        self.scope = 0
        self.is_async = False
        self.is_user_annotation = False
        self.cpu_parent: FunctionEvent | None = None
        self.cpu_children: list[FunctionEvent] = []

    def add(self, other: FunctionEvent | FunctionEventAvg) -> FunctionEventAvg:
        """Count `other` in. Its key must be this one's, if this one has a key yet."""
        if self.key is None:
            self.key = other.key
            self.input_shapes = other.input_shapes
            self.stack = other.stack
            self.scope = other.scope
            self.is_async = other.is_async
            self.is_user_annotation = other.is_user_annotation
            self.cpu_parent = other.cpu_parent
            self.cpu_children = other.cpu_children
        elif self.key != other.key:
            raise AssertionError(f"Expected keys to match, but got {other.key} vs {self.key}")
        self.count += other.count
        self.cpu_time_total += other.cpu_time_total
        self.self_cpu_time_total += other.self_cpu_time_total
        self.cpu_memory_usage += other.cpu_memory_usage
        self.self_cpu_memory_usage += other.self_cpu_memory_usage
        self.flops += other.flops
        return self

    __iadd__ = add

    def __repr__(self) -> str:
        return (
            f"<FunctionEventAvg key={self.key} self_cpu_time={self.self_cpu_time_total_str} "
            f"cpu_time={self.cpu_time_str} count={self.count} input_shapes={self.input_shapes} "
            f"cpu_memory_usage={self.cpu_memory_usage}>"
        )


def format_memory(count: int) -> str:
    """A number of bytes in the largest unit in which it is at least 1."""
    for unit, name in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")):
        if abs(count) >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count} B"


def format_time(time_us: float, unit: str | None = None) -> str:
    """A time in `unit` ("s", "ms", "us"), or in the largest of them in which it is at least 1."""
    if unit == "s" or (unit is None and time_us >= 1e6):
        return f"{time_us / 1e6:.3f}s"
    if unit == "ms" or (unit is None and time_us >= 1e3):
        return f"{time_us / 1e3:.3f}ms"
    return f"{time_us:.3f}us"
