"""Where temporaries live: one arena, planned by the order of the kernels; small ones on the stack.

The data structure is :class:`MemoryPlan`. A temporary is alive from the first kernel that writes to
it to the last one that reads it; two that are never alive at once may have the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .kernel import Buffer, Kernel

ALIGNMENT = 64

# Temporaries up to this size become stack variables of their own, which LLVM can keep in registers;
# as long as they are not too many.
_SCALAR_BYTES = 256
_SCALARS_BYTES = 8 * 1024

# An arena up to this size lies on the stack as well.
_STACK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Places of temporaries.

    Attributes:
        offsets: in the arena, in bytes, multiples of 64.
        separate: temporaries that are stack variables of their own.
        arena_bytes: size of the arena.
        on_stack: whether the arena is on the stack as well, and not passed in.
    """

    offsets: dict[Buffer, int]
    separate: list[Buffer]
    arena_bytes: int
    on_stack: bool


def plan_memory(kernels: Sequence[Kernel], *, shared: bool) -> MemoryPlan:
    """Give every temporary that the kernels use a place.

    Args:
        kernels: in the order of execution.
        shared: whether the kernels run in several functions, so that nothing can lie on a stack.

    Takes time proportional to the number of temporaries, times that of the gaps between those
    alive.
    """
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for position, kernel in enumerate(kernels):
        for buffers in (kernel.writes(), kernel.reads()):
            for buffer in buffers:
                if buffer.role == "temporary":
                    first.setdefault(buffer, position)
                    last[buffer] = position
    separate: list[Buffer] = []
    if not shared:
        small = [buffer for buffer in first if buffer.type.nbytes <= _SCALAR_BYTES]
        if sum(buffer.type.nbytes for buffer in small) <= _SCALARS_BYTES:
            separate = small
    alone = set(separate)
    ending: dict[int, list[Buffer]] = {}
    for buffer, position in last.items():
        ending.setdefault(position, []).append(buffer)

    gaps = _Gaps()
    offsets: dict[Buffer, int] = {}
    starting: dict[int, list[Buffer]] = {}
    for buffer, position in first.items():
        if buffer not in alone:
            starting.setdefault(position, []).append(buffer)
    for position in range(len(kernels)):
        for buffer in starting.get(position, ()):
            offsets[buffer] = gaps.take(_padded(buffer.type.nbytes))
        for buffer in ending.get(position, ()):
            if buffer in offsets:
                gaps.give_back(offsets[buffer], _padded(buffer.type.nbytes))
    return MemoryPlan(offsets, separate, gaps.end, not shared and gaps.end <= _STACK_BYTES)


def _padded(size: int) -> int:
    return max(ALIGNMENT, -(-size // ALIGNMENT) * ALIGNMENT)


class _Gaps:
    """The free parts of the arena, by offset; behind `end` all is free."""

    def __init__(self) -> None:
        self.free: list[tuple[int, int]] = []
        self.end = 0

    def take(self, size: int) -> int:
        """The offset of the smallest gap that is large enough."""
        best = -1
        for number, (_, extent) in enumerate(self.free):
            if extent >= size and (best < 0 or extent < self.free[best][1]):
                best = number
        if best < 0:
            offset = self.end
            if self.free and sum(self.free[-1]) == self.end:
                offset = self.free.pop()[0]
            self.end = offset + size
            return offset
        offset, extent = self.free.pop(best)
        if extent > size:
            self.free.insert(best, (offset + size, extent - size))
        return offset

    def give_back(self, offset: int, size: int) -> None:
        merged = []
        for start, extent in self.free:
            if start + extent == offset:
                offset, size = start, size + extent
            elif offset + size == start:
                size += extent
            else:
                merged.append((start, extent))
        merged.append((offset, size))
        merged.sort()
        self.free = merged
