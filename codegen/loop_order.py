"""Which loops a kernel becomes: axes merged, ordered, and one of them chosen for vectors.

The data structure is :class:`LoopOrder`. Start reading at :func:`choose_order`. The choice is by a
count of what the accesses cost along each axis: a vector load or store where the stride is 1,
nothing where it is 0, one access per lane otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from .elementary import ELEMENTARY
from .engine import Host
from .index import Affine
from .kernel import Apply, Load, LoopKernel, MultiplyAdd, Position

# Costs per vector, in units of a vector load.
_REVERSED = 2.0
_STORED = 1.5

_HEAVY = frozenset([*ELEMENTARY, "floor_div", "remainder", "fmod"])


@dataclass(frozen=True, slots=True)
class LoopOrder:
    """The loops of a kernel.

    Attributes:
        sources: per loop axis, outermost first, the axis of the kernel's iteration space whose
            coefficient counts: the innermost of those that were merged.
        extents: per loop axis its extent.
        first_reduced: position of the first reduced axis; all from there on are reduced.
        vector: position of the axis that vectors run along; -1 if there is none.
        lanes: elements of a vector.
        weight: roughly the number of instructions of the body.
    """

    sources: tuple[int, ...]
    extents: tuple[int, ...]
    first_reduced: int
    vector: int
    lanes: int
    weight: int

    def project(self, offset: Affine) -> tuple[int, ...]:
        """The coefficients of an offset along the loop axes."""
        return tuple([offset.coefficients[source] for source in self.sources])


def accesses(kernel: LoopKernel) -> list[tuple[Affine, int, float]]:
    """Every offset of the kernel, with its element size (0: not a memory access) and its cost."""
    found: list[tuple[Affine, int, float]] = []
    for instruction in kernel.instructions:
        if isinstance(instruction, Load):
            found.append((instruction.offset, instruction.dtype.itemsize, 1.0))
        elif isinstance(instruction, Position):
            found.append((instruction.offset, 0, 0.0))
    for sink in kernel.sinks():
        found.append((sink.offset, sink.buffer.type.dtype.itemsize, _STORED))
    return found


def body_weight(kernel: LoopKernel) -> int:
    """Roughly the number of machine instructions of a body."""
    return sum(
        12 if x.node.op.name in _HEAVY else 1
        for x in kernel.instructions
        if isinstance(x, (Apply, MultiplyAdd))
    )


def choose_order(kernel: LoopKernel, host: Host) -> LoopOrder:
    """The loops for a kernel. Quadratic in the number of axes, linear in the body."""
    offsets = accesses(kernel)
    axes = _merged(kernel, offsets)
    lanes = _lanes(kernel, host)
    weight = body_weight(kernel)
    reduced = [i for i, _ in axes if i in kernel.reduced]
    kept = [i for i, _ in axes if i not in kernel.reduced]
    extents = dict(axes)
    if kernel.ordered:
        order = [i for i, _ in axes]
        vector = _ordered_vector(kernel, order)
    else:
        candidates = kept if kernel.scan is not None else kept + reduced
        vector = _best_axis(candidates, extents, offsets, lanes)
        if kernel.scan is not None and any(o.coefficients[vector] > 1 for o, _, _ in offsets):
            vector = -1
        if vector in reduced:
            reduced.remove(vector)
            reduced.append(vector)
        elif vector >= 0:
            kept.remove(vector)
            kept.append(vector)
        order = kept + reduced
    first = len(kept) if kernel.reduced else len(order)
    lanes = min(lanes, 1 << (extents[vector] - 1).bit_length()) if vector >= 0 else 1
    return LoopOrder(
        tuple(order),
        tuple(extents[i] for i in order),
        first,
        order.index(vector) if vector >= 0 else -1,
        lanes,
        weight,
    )


def _merged(kernel: LoopKernel, offsets: list[tuple[Affine, int, float]]) -> list[tuple[int, int]]:
    """The axes as (source, extent), with neighbours merged that all accesses walk as one."""
    axes = list(enumerate(kernel.extents))
    position = len(axes) - 1
    while position > 0:
        (outer, rows), (inner, columns) = axes[position - 1], axes[position]
        if (outer in kernel.reduced) == (inner in kernel.reduced) and all(
            offset.coefficients[outer] == offset.coefficients[inner] * columns
            for offset, _, _ in offsets
        ):
            axes[position - 1 : position + 1] = [(inner, rows * columns)]
        position -= 1
    return axes


def _lanes(kernel: LoopKernel, host: Host) -> int:
    """Lanes such that the narrowest numbers computed with fill a vector; bytes do not count."""
    sizes = [i.dtype.itemsize for i in kernel.instructions if i.dtype.itemsize >= 4]
    return host.vector_bytes // min(sizes, default=4)


def _best_axis(
    candidates: list[int],
    extents: dict[int, int],
    offsets: list[tuple[Affine, int, float]],
    lanes: int,
) -> int:
    best, lowest = -1, float("inf")
    for axis in candidates:
        extent = extents[axis]
        width = min(lanes, 1 << (extent - 1).bit_length())
        cost = 0.5  # The arithmetic, which every vector costs.
        for offset, _, price in offsets:
            stride = offset.coefficients[axis]
            if stride == 1:
                cost += price
            elif stride == -1:
                cost += price * _REVERSED
            elif stride:
                cost += price * width
        vectors = -(-extent // width)
        per_element = cost * vectors / extent
        # Of equal ones the last, which is the innermost in memory more often than not.
        if per_element <= lowest:
            best, lowest = axis, per_element
    return best


def _ordered_vector(kernel: LoopKernel, order: list[int]) -> int:
    """The last axis if different lanes write to different, neighbouring elements; else -1."""
    if not order:
        return -1
    last = order[-1]
    varies = varying(kernel, last)
    for store in kernel.stores:
        if store.offset.coefficients[last] != 1 or any(varies[v] for v, _ in store.dynamic):
            return -1
    return last


def varying(kernel: LoopKernel, axis: int) -> list[bool]:
    """Per instruction whether its value varies along an axis."""
    varies: list[bool] = []
    for instruction in kernel.instructions:
        if isinstance(instruction, Load):
            moved = instruction.offset.coefficients[axis] != 0
            varies.append(moved or any(varies[v] for v, _ in instruction.dynamic))
        elif isinstance(instruction, Position):
            varies.append(instruction.offset.coefficients[axis] != 0)
        else:
            varies.append(any(varies[v] for v in getattr(instruction, "operands", ())))
    return varies
