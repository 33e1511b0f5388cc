"""What a profile shows: `EventList`, a list of events that can be averaged, printed and written.

Start reading at `EventList.table` and `EventList.export_chrome_trace`. The table looks as that of
torch.autograd.profiler does on a CPU.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

from tracegrad.autograd.profiler_events import (
    FunctionEvent,
    FunctionEventAvg,
    format_memory,
    format_time,
)
from tracegrad.autograd.profiler_tree import find_forward
from tracegrad.ir import events as bus

_DEVICE_WORDS = ("cuda", "xpu", "privateuse1")
_STACK_METRICS = tuple(f"self_{device}_time_total" for device in ("cpu", *_DEVICE_WORDS))

_COLUMN_WIDTH = 12
_FLOP_UNITS = ("FLOPs", "KFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs")


class EventList(list[Any]):
    """A list of `FunctionEvent` or `FunctionEventAvg` that can be averaged, printed and written to
    a file."""

    def __init__(
        self,
        events: Iterable[Any] = (),
        *,
        profile_memory: bool = False,
        with_flops: bool = False,
        start_unix_ns: int = 0,
        thread_names: dict[int, str] | None = None,
    ) -> None:
        super().__init__(events)
        self._profile_memory = profile_memory
        self._with_flops = with_flops
        self._start_unix_ns = start_unix_ns
        self._thread_names = thread_names or {}

    def __str__(self) -> str:
        return self.table()

    @property
    def self_cpu_time_total(self) -> float:
        """Sum of the self times of all events, in microseconds: the time covered by any of them."""
        return float(sum(event.self_cpu_time_total for event in self))

    def key_averages(
        self,
        group_by_input_shapes: bool = False,
        group_by_stack_n: int = 0,
        group_by_overload_name: bool = False,
    ) -> EventList:
        """One `FunctionEventAvg` per name, in the order of first appearance.

        The name may be refined by the input shapes and by the `group_by_stack_n` innermost lines of
        the stack. Our ops have no overloads, so that `group_by_overload_name` changes nothing. A
        user's region is never averaged with an op.
        """
        averages: dict[tuple[Any, ...], FunctionEventAvg] = {}
        for event in self:
            group = [event.key, event.is_user_annotation]
            if group_by_input_shapes:
                group.append(str(event.input_shapes))
            group += event.stack[:group_by_stack_n]
            average = averages.get(tuple(group))
            if average is None:
                average = averages[tuple(group)] = FunctionEventAvg()
            average.add(event)
        for average in averages.values():
            average.stack = average.stack[:group_by_stack_n]
            if not group_by_input_shapes:
                average.input_shapes = ""
        return EventList(
            averages.values(), profile_memory=self._profile_memory, with_flops=self._with_flops
        )

    def total_average(self) -> FunctionEventAvg:
        """The sum over all events, with the key "Total"."""
        total = FunctionEventAvg()
        for event in self:
            total.add(event)
            total.key = None
        total.key = "Total"
        return total

    def table(
        self,
        sort_by: str | None = None,
        row_limit: int = 100,
        max_src_column_width: int | None = 75,
        max_name_column_width: int | None = 55,
        max_shapes_column_width: int | None = 80,
        header: str | None = None,
        top_level_events_only: bool = False,
        time_unit: str | None = None,
    ) -> str:
        """The events as a table, one row each; "" if there are none.

        `sort_by` is an attribute of the events (`cpu_time_total`, `self_cpu_time_total`,
        `cpu_time`, `cpu_memory_usage`, `self_cpu_memory_usage`, `count`, `flops`, `key`, ...),
        largest first; None keeps the order. Those of other devices are known, and always 0.
        `row_limit` may be -1 for all rows. `top_level_events_only` leaves out what ran inside
        another event. `time_unit` is None (chosen for each value), "s", "ms" or "us". Columns
        appear when there is something to show: CPU Mem, Input Shapes, FLOPs, Source Location.

        Raises AttributeError for an unknown `sort_by`, ValueError for an unknown `time_unit`.
        """
        if not self:
            return ""
        if time_unit not in (None, "s", "ms", "us"):
            raise ValueError(f"time_unit must be None, 's', 'ms' or 'us', not {time_unit!r}")
        rows = list(self)
        if sort_by is not None:
            attribute = _attribute_of(sort_by)
            rows.sort(key=lambda event: getattr(event, attribute), reverse=True)
        total_us = self.self_cpu_time_total
        shown = [row for row in rows if not (top_level_events_only and row.cpu_parent is not None)]
        if row_limit >= 0:
            shown = shown[:row_limit]

        name_width = _limit(max(len(row.key) for row in rows) + 4, max_name_column_width)
        columns = [_Column("Name", name_width)]
        columns += [_Column(title) for title in ("Self CPU %", "Self CPU", "CPU total %")]
        columns += [_Column(title) for title in ("CPU total", "CPU time avg")]
        if self._profile_memory:
            columns += [_Column("CPU Mem"), _Column("Self CPU Mem")]
        columns.append(_Column("# of Calls"))
        shapes_width = stack_width = None
        if any(row.input_shapes for row in rows):
            widest = max(len(str(row.input_shapes)) for row in rows)
            shapes_width = _limit(widest + 4, max_shapes_column_width)
            columns.append(_Column("Input Shapes", shapes_width))
        flops_scale = 0.0
        if self._with_flops and any(row.flops for row in rows):
            unit = _choose_flop_unit(min(row.flops for row in rows if row.flops))
            flops_scale = 1000.0**-unit
            columns.append(_Column(f"Total {_FLOP_UNITS[unit]}"))
        if any(row.stack for row in rows):
            widest = max(len(line) for row in rows for line in row.stack)
            stack_width = _limit(widest + 4, max_src_column_width)
            columns.append(_Column("Source Location", stack_width, align="<"))

        rule = "".join("-" * column.width + "  " for column in columns)
        lines = []
        if header is not None:
            lines += ["=" * (len(rule) - 2), header]
        if top_level_events_only:
            lines += ["=" * (len(rule) - 2), "This report only display top-level ops statistics"]
        lines += [rule, _join_cells(columns, [column.title for column in columns]), rule]
        for row in shown:
            cells = [
                _shorten_name(row.key, max_name_column_width),
                _format_share(row.self_cpu_time_total, total_us),
                format_time(row.self_cpu_time_total, time_unit),
                "0" if row.is_async else _format_share(row.cpu_time_total, total_us),
                format_time(row.cpu_time_total, time_unit),
                format_time(row.cpu_time, time_unit),
            ]
            if self._profile_memory:
                cells.append(format_memory(row.cpu_memory_usage))
                cells.append(format_memory(row.self_cpu_memory_usage))
            cells.append(str(row.count))
            if shapes_width is not None:
                cells.append(str(row.input_shapes)[:shapes_width])
            if flops_scale:
                cells.append(f"{row.flops * flops_scale:8.3f}" if row.flops else "--")
            if stack_width is None:
                lines.append(_join_cells(columns, cells))
                continue
            for line in [*(row.stack or [""]), ""]:
                lines.append(_join_cells(columns, [*cells, _trim_path(line, stack_width)]))
                cells = [""] * len(cells)
        lines += [rule, f"Self CPU time total: {format_time(total_us, time_unit)}"]
        return "\n".join(lines) + "\n"

    def supported_export_stacks_metrics(self) -> list[str]:
        """What `export_stacks` can write; only the first is not always 0 here."""
        return list(_STACK_METRICS)

    def export_stacks(self, path: str, metric: str) -> None:
        """Write one line "outermost;...;innermost value" per event with a stack, as flame graph
        tools read them. Raises ValueError for an unknown metric."""
        if metric not in _STACK_METRICS:
            raise ValueError(f"metric should be one of: {list(_STACK_METRICS)}")
        separators = str.maketrans(" ;\t\n", "____")
        with open(path, "w", encoding="utf-8") as file:
            for event in self:
                value = int(getattr(event, _attribute_of(metric)))
                if event.stack and value > 0:
                    frames = ";".join(line.translate(separators) for line in reversed(event.stack))
                    file.write(f"{frames} {value}\n")

    def export_chrome_trace(self, path: str, metadata: dict[str, Any] | None = None) -> None:
        """Write the events as JSON for Perfetto or chrome://tracing, compressed if `path` ends in
        ".gz". `metadata` is added at the top of the file.

        Events of one thread are properly nested slices ("X"), those that overlap others only partly
        are asynchronous ones ("b" and "e"). An arrow leads from each forward op to each run of its
        backward. Allocated and freed bytes are instants ("i").
        """
        import gzip  # this and json: slow to import, and rarely needed
        import json

        trace = {
            "schemaVersion": 1,
            "displayTimeUnit": "ms",
            "baseTimeNanoseconds": self._start_unix_ns,
            **(metadata or {}),
            "traceName": os.fspath(path),
            "traceEvents": list(_trace_events(self, self._thread_names)),
        }
        text = json.dumps(trace, separators=(",", ":"), default=str, allow_nan=False)
        if os.fspath(path).endswith(".gz"):
            with gzip.open(path, "wt", encoding="utf-8") as compressed:
                compressed.write(text)
        else:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)


class _Column:
    """A column of the table; cells that are too long push the rest of their row to the right."""

    __slots__ = ("align", "title", "width")

    def __init__(self, title: str, width: int = _COLUMN_WIDTH, align: str = ">") -> None:
        self.title = title
        self.width = width
        self.align = align


def _join_cells(columns: list[_Column], cells: list[str]) -> str:
    return "".join(
        f"{cell:{column.align}{column.width}}  "
        for column, cell in zip(columns, cells, strict=True)
    )


def _attribute_of(key: str) -> str:
    """The attribute for one of torch's sort keys: those of all other devices are one."""
    for word in _DEVICE_WORDS:
        key = key.replace(word, "device")
    return key


def _limit(width: int, maximum: int | None) -> int:
    return width if maximum is None else min(width, maximum)


def _shorten_name(name: str, maximum: int | None) -> str:
    if maximum is not None and len(name) >= maximum - 3:
        return name[: maximum - 3] + "..."
    return name


def _trim_path(path: str, width: int) -> str:
    """The end of a path that is too long."""
    if len(path) <= width:
        return path
    end = path[len(path) - width :]
    return "..." + end[3:] if len(end) > 3 else end


def _format_share(part: float, whole: float) -> str:
    return f"{part * 100.0 / whole:.2f}%" if whole else "NaN"


def _choose_flop_unit(flops: int) -> int:
    """Index of the largest unit in which `flops` is at least 1."""
    return min(int(math.log10(flops) / 3), len(_FLOP_UNITS) - 1)


def _trace_events(events: EventList, thread_names: dict[int, str]) -> Iterator[dict[str, Any]]:
    """The entries of a trace file, in an order in which outer slices come before inner ones."""
    process = os.getpid()
    yield _metadata("process_name", process, 0, {"name": "python"})
    yield _metadata("process_labels", process, 0, {"labels": "CPU"})
    yield _metadata("process_sort_index", process, 0, {"sort_index": process})
    for thread in sorted({event.thread for event in events}):
        name = thread_names.get(thread)
        label = f"thread {thread} ({name})" if name else f"thread {thread}"
        yield _metadata("thread_name", process, thread, {"name": label})
        yield _metadata("thread_sort_index", process, thread, {"sort_index": thread})
    forward = find_forward(events)
    slices: set[int] = set()  # ids of the events that became slices
    open_ends: dict[int, list[int]] = {}  # ends of the slices around the current one, by thread
    arrows = 0
    for event in events:
        entry: dict[str, Any] = {
            "ph": "X",
            "cat": event.activity_type,
            "name": event.trace_name,
            "pid": process,
            "tid": event.thread,
            "ts": event.time_range.start,
        }
        arguments = _trace_arguments(event)
        if event.category == bus.MEMORY:
            yield {**entry, "ph": "i", "s": "t", "args": arguments}
            continue
        ends = open_ends.setdefault(event.thread, [])
        while ends and ends[-1] <= event.time_range.start_ns:
            ends.pop()
        if event.is_async or (ends and ends[-1] < event.time_range.end_ns):
            yield {**entry, "ph": "b", "id": event.id, "args": arguments}
            yield {**entry, "ph": "e", "id": event.id, "ts": event.time_range.end}
            continue
        ends.append(event.time_range.end_ns)
        slices.add(event.id)
        yield {**entry, "dur": event.time_range.elapsed_us(), "args": arguments}
        origin = forward.get(event.sequence_nr) if event.category == bus.BACKWARD else None
        if origin is not None and origin.id in slices:
            arrows += 1
            arrow = {"cat": "fwdbwd", "name": "fwdbwd", "id": arrows, "pid": process}
            yield {**arrow, "ph": "s", "tid": origin.thread, "ts": origin.time_range.start}
            yield {**arrow, "ph": "f", "bp": "e", "tid": event.thread, "ts": entry["ts"]}


def _metadata(name: str, process: int, thread: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": name, "ts": 0, "pid": process, "tid": thread, "args": arguments}


def _trace_arguments(event: FunctionEvent) -> dict[str, Any]:
    arguments: dict[str, Any] = {"External id": event.id}
    if event.sequence_nr >= 0:
        arguments["Sequence number"] = event.sequence_nr
    if event.fwd_thread:
        arguments["Fwd thread id"] = event.fwd_thread
    if event.input_shapes:
        arguments["Input Dims"] = event.input_shapes
    if event.cpu_memory_usage:
        arguments["Bytes"] = event.cpu_memory_usage
    if event.flops:
        arguments["FLOPs"] = event.flops
    if event.stack:
        arguments["Call stack"] = ";".join(reversed(event.stack))
    return {**arguments, **event.info}
