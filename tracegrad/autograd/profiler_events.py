"""The events of a profile: `FunctionEvent` is one call, `FunctionEventAvg` all calls of one name.

`build_events` makes the former from the tuples of the event bus (`tracegrad.ir.events`) and finds
out which ran inside which; start reading there. Names and attributes are those of
torch.autograd.profiler_util.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, ClassVar

import numpy as np

from tracegrad.ir import events as bus
from tracegrad.ir.location import SourceLocation

log = logging.getLogger(__name__)

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


def build_events(
    recorded: Iterable[bus.Event],
    start_ns: int,
    *,
    with_flops: bool = False,
    timeout_s: float | None = None,
) -> list[FunctionEvent]:
    """Events from what the bus reported since `start_ns`, nested, in the order of starting.

    Memory that was allocated or freed outside of all others is an event "[memory]". After
    `timeout_s` seconds the rest is left out. Time O(n log n). Events that had begun before
    `start_ns` are left out.
    """
    deadline = math.inf if timeout_s is None else bus.now() + timeout_s * 1e9
    numbered = [(event, order) for order, event in enumerate(recorded) if event[2] >= start_ns]
    # What starts together and ends together was reported inside out.
    numbered.sort(key=lambda entry: (entry[0][2], -entry[0][3], -entry[1]))
    threads: dict[int, int] = {}
    modules: dict[tuple[str, int], int] = {}
    events: list[FunctionEvent] = []
    orders: list[int] = []
    for (kind, name, start, end, ident, shapes, location, sequence, info), order in numbered:
        if timeout_s is not None and bus.now() >= deadline:
            log.warning(
                "Profiler timed out after %.3f seconds, returning partial results with %d events",
                timeout_s,
                len(events),
            )
            break
        event = FunctionEvent(
            len(events) + 1,
            name if kind != bus.MODULE else _number_module(name, info["Module"], modules),
            threads.setdefault(ident, len(threads) + 1),
            Interval(start - start_ns, end - start_ns),
            kind=kind,
            ident=ident,
            input_shapes=None if shapes is None else [list(shape) for shape in shapes],
            stack=_format_stack(location),
            sequence_nr=-1 if sequence is None else sequence,
            info=info,
        )
        if with_flops and shapes is not None:
            event.flops = count_flops(name, event.input_shapes)
        events.append(event)
        orders.append(order)
    _nest(events, orders)
    events = _merge_repeated(_count_memory(events))
    _link_backward(events)
    return events


def _number_module(name: str, module: int, known: dict[tuple[str, int], int]) -> str:
    """torch's label of a module: its class, and a number that tells it from others of the class."""
    number = known.get((name, module))
    if number is None:
        number = known[name, module] = sum(other == name for other, _ in known)
    return f"{name}_{number}"


def _count_memory(events: list[FunctionEvent]) -> list[FunctionEvent]:
    """Count what was allocated and freed into the events around it; what remains is at the top."""
    kept = []
    for event in events:
        if event.category != bus.MEMORY or event.cpu_parent is None:
            kept.append(event)
            continue
        around: FunctionEvent | None = event.cpu_parent
        while around is not None:
            around.cpu_memory_usage += event.cpu_memory_usage
            around = around.cpu_parent
    return kept


def _nest(events: list[FunctionEvent], orders: list[int]) -> None:
    """Give each event its parent and children: the innermost event of its thread that spans it.

    `events` must be in the order of starting; `orders` tells in which order they were reported,
    which alone is reliable where a coarse clock stood still. An event that overlaps another only
    partly is not inside it.
    """
    by_end = sorted(range(len(events)), key=lambda i: (events[i].time_range.end_ns, orders[i]))
    ended: dict[int, list[FunctionEvent]] = {}  # by thread, without those whose parent is known
    for index in by_end:
        event = events[index]
        if event.is_async:
            continue
        stack = ended.setdefault(event.thread, [])
        while (
            stack
            and stack[-1].time_range.start_ns >= event.time_range.start_ns
            and event.category != bus.MEMORY
        ):
            stack.pop().cpu_parent = event
        stack.append(event)
    for event in events:
        if event.cpu_parent is not None and event.category != bus.MEMORY:
            event.cpu_parent.cpu_children.append(event)


def _merge_repeated(events: list[FunctionEvent]) -> list[FunctionEvent]:
    """Drop each event that is all there is inside an event of the same name, as torch does."""
    kept = []
    for event in events:
        parent = event.cpu_parent
        if parent is None or parent.name != event.name or len(parent.cpu_children) > 1:
            kept.append(event)
            continue
        parent.cpu_children = event.cpu_children
        for child in event.cpu_children:
            child.cpu_parent = parent
    return kept


def _link_backward(events: list[FunctionEvent]) -> None:
    """Tell backward events the thread of their forward op; give them, and what ran in them, its
    stack.

    `events` must be in the order of starting, so that parents come before their children.
    """
    forward = find_forward(events)
    linked: set[int] = set()
    for event in events:
        parent = event.cpu_parent
        if event.category in (bus.BACKWARD, bus.ENGINE):
            origin = forward.get(event.sequence_nr)
            if origin is not None:
                event.fwd_thread = origin.thread
                event.stack = origin.stack
                linked.add(event.id)
        elif parent is not None and parent.id in linked:
            event.stack = parent.stack
            linked.add(event.id)


def find_forward(events: Iterable[FunctionEvent]) -> dict[int, FunctionEvent]:
    """The forward op of each sequence number: of several, one inside the other, the innermost."""
    return {
        event.sequence_nr: event
        for event in events
        if event.category in (bus.OP, bus.NATIVE) and event.sequence_nr >= 0
    }


def count_flops(name: str, shapes: Sequence[Sequence[int]]) -> int:
    """Floating point operations of an op, 0 where unknown: products, sums and matrix products.

    torch counts the same ops (and convolutions), but takes the size of the first operand only for
    products and sums, where this takes the size of the result.
    """
    op = name.removeprefix("aten::")
    if op in ("add", "mul"):
        return math.prod(np.broadcast_shapes(*map(tuple, shapes))) if shapes else 0
    if op in ("addmm", "baddbmm"):
        shapes = shapes[1:]
    elif op not in ("mm", "bmm", "matmul"):
        return 0
    if len(shapes) < 2 or not shapes[0] or not shapes[1]:
        return 0
    left, right = shapes[0], shapes[1]
    columns = right[-1] if len(right) > 1 else 1
    batch = np.broadcast_shapes(tuple(left[:-2]), tuple(right[:-2]))
    rows = left[-2] if len(left) > 1 else 1
    return 2 * math.prod(batch) * rows * left[-1] * columns


def _format_stack(location: Any) -> list[str]:
    """The lines of a stack, innermost first: "file(line): function"."""
    if location is None:
        return []
    frames = location if isinstance(location, tuple) else (location,)
    return [
        f"{frame.file}({frame.line}): {frame.function}"
        if isinstance(frame, SourceLocation)
        else str(frame)
        for frame in frames
    ]


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
