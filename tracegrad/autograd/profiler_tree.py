"""From what the event bus recorded to the events of a profile, each with what ran inside of it.

Start reading at `build_events`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tracegrad.autograd.profiler_events import FunctionEvent, Interval
from tracegrad.ir import events as bus
from tracegrad.ir.location import SourceLocation


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
            import logging  # slow to import, and rarely needed

            logging.getLogger(__name__).warning(
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
