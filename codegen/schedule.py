"""From a program to a list of kernels, in the order of execution, and the buffers between them.

The data structure is :class:`Schedule`. What is stored and at which level is decided in
:mod:`.fusion`; here the stored nodes of one level and one iteration space become one loop kernel,
the other nodes kernels of their own. Start reading at :func:`make_schedule`. Nothing here is more
than linear in the size of the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.graph import Node
from ..ir.lowering import Scan
from ..ir.ops.source import constant_array
from ..ir.program import Program
from ..ir.types import Shape, TensorType, bool_
from .body_builder import BodyBuilder, indexed_offset, indexing_position
from .engine import Host
from .fusion import Analysis, reduced_axes
from .index import (
    Affine,
    Coordinates,
    identity_index,
    linearize,
    row_major_strides,
    squeezed,
)
from .kernel import (
    Buffer,
    Constant,
    DecisionKernel,
    Extremum,
    Fold,
    Kernel,
    Load,
    LoopKernel,
    MatmulKernel,
    OutOfBounds,
    PythonStep,
    Running,
    Store,
    View,
    flag_type,
)
from .matmul import MatmulSpec, prefers_blas
from .node_kinds import DIVISIONS, LEAF, MATMUL, PLACEMENT, REDUCE, SCAN, SCATTER
from .placement import Region, boxes, regions

GUARD_FAILED = 1
OUT_OF_BOUNDS = 3
DIVIDED_BY_ZERO = 4


@dataclass(slots=True)
class Schedule:
    """The kernels of a program in the order of execution.

    Attributes:
        program: what is computed.
        kernels: what to emit.
        inputs: the buffer of each graph input.
        results: the buffer of each result.
        reasons: the nodes that Python evaluates because there is no native code for them, and why.
    """

    program: Program
    kernels: list[Kernel]
    inputs: list[Buffer]
    results: list[Buffer]
    reasons: list[tuple[Node, str]]


def make_schedule(program: Program, host: Host) -> Schedule:
    """Decide how a program is computed.

    Args:
        program: any program; its graph need not be optimised.
        host: the CPU; whether products and sums are fused depends on it.
    """
    analysis = Analysis(program, host)
    return _Assembly(analysis).assemble()


class _Assembly:
    """Makes buffers and kernels from an analysis."""

    def __init__(self, analysis: Analysis) -> None:
        self.a = analysis
        program = analysis.program
        graph = program.graph
        self.names = {node: f"%{number}" for number, node in enumerate(graph.nodes)}
        self.buffers: dict[Node, Buffer] = {}
        self.inputs = []
        for number, node in enumerate(graph.inputs):
            buffer = Buffer(node.hint or f"in{number}", node.type, "input", number)
            self.buffers[node] = buffer
            self.inputs.append(buffer)
        # Where else a node goes: results and updates beyond its own buffer.
        self.copies: list[tuple[Node, Buffer]] = []
        self.pending_updates: list[tuple[Buffer, Buffer]] = []
        self.results = self._make_results()
        self._make_updates()
        # Loop kernels under construction: (space, level, reduced axes) -> builder, and its level.
        self.loops: dict[tuple[Any, ...], BodyBuilder] = {}
        self.joined: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self.leveled: list[tuple[int, Kernel]] = []

    def _make_results(self) -> list[Buffer]:
        results = []
        for number, output in enumerate(self.a.program.result_numbers):
            node = self.a.program.graph.outputs[output]
            buffer = Buffer(f"out{number}", node.type, "result", number)
            results.append(buffer)
            self._give(node, buffer)
        return results

    def _give(self, node: Node, buffer: Buffer) -> None:
        if node in self.a.stored and node not in self.buffers:
            self.buffers[node] = buffer
        else:
            self.copies.append((node, buffer))

    def _make_updates(self) -> None:
        graph = self.a.program.graph
        # Of several updates of one input the last counts.
        last = {number: output for output, number in self.a.program.updates.items()}
        for number, output in last.items():
            node = graph.outputs[output]
            target = self.inputs[number]
            if node is graph.inputs[number] or not node.type.size:
                continue
            buffer = Buffer(f"new_{target.name}", node.type, "temporary")
            self.pending_updates.append((buffer, target))
            self._give(node, buffer)

    def buffer_of(self, node: Node) -> Buffer:
        """The memory of a leaf or a stored node."""
        buffer = self.buffers.get(node)
        if buffer is None:
            constant = self.a.constant(node)
            if node.op.name == "const" or (constant is not None and node not in self.a.stored):
                if constant is None:
                    array = constant_array(node.attrs["value"], node.type)
                else:
                    array = np.full(node.shape, constant.value, node.dtype.np)
                name = f"c{self.names[node][1:]}"
                buffer = Buffer(name, node.type, "constant", data=array.tobytes())
            else:
                buffer = Buffer(f"t{self.names[node][1:]}", node.type, "temporary")
            self.buffers[node] = buffer
        return buffer

    # Loop kernels.

    def _body(
        self, space: Shape, level: int, reduced: frozenset[int] = frozenset(), own: object = None
    ) -> BodyBuilder:
        """The builder of the kernel for this space and level; with `own` a kernel of its own."""
        if own is not None:
            return self._new_body(space, level, reduced)
        base = (space, level)
        key = (space, level, reduced)
        if not reduced:
            key = self.joined.setdefault(base, key)
        elif base not in self.joined:
            self.joined[base] = key
        elif self.joined[base] == (space, level, frozenset()):
            # So far the kernel has stores only: it takes on the reduction.
            body = self.loops.pop(self.joined[base])
            body.kernel.reduced = reduced
            self.joined[base] = key
            self.loops[key] = body
        if key not in self.loops:
            self.loops[key] = self._new_body(space, level, reduced)
        return self.loops[key]

    def _body_of_region(self, node: Node, level: int, region: Region) -> BodyBuilder:
        """The builder of the kernel for a part of a node's iteration space."""
        key = (self.a.space_of(node), level, region.start)
        if key not in self.loops:
            self.loops[key] = self._new_body(squeezed(region.extents), level, frozenset(), region)
        return self.loops[key]

    def _new_body(
        self, space: Shape, level: int, reduced: frozenset[int], region: Region | None = None
    ) -> BodyBuilder:
        kernel = LoopKernel(space, reduced, region)
        self.leveled.append((level, kernel))
        return BodyBuilder(kernel, self._source_at(level), self.a.contracted)

    def _source_at(self, level: int) -> Callable[[Node], Buffer | Constant | None]:
        """Where a kernel of this level finds a node's elements."""
        a = self.a

        def source(node: Node) -> Buffer | Constant | None:
            constant = a.constant(node)
            if constant is not None:
                return constant
            if a.kinds[node] == LEAF:
                return self.buffer_of(node)
            done = a.level.get(node)
            if done is not None and done < level:
                return self.buffer_of(node)
            return None

        return source

    def _store(self, node: Node, level: int, buffer: Buffer) -> None:
        """Store the elements of a node, computed or copied, in row-major order."""
        if not node.type.size:
            return
        cuts = self.a.cuts.get(node)
        if cuts is None or self.a.level[node] < level:
            body = self._body(squeezed(node.shape), level)
            self._store_at(body, node, identity_index(node.shape), buffer)
            return
        for region in regions(node.shape, cuts):
            body = self._body_of_region(node, level, region)
            self._store_at(body, node, region.coordinates(), buffer)

    @staticmethod
    def _store_at(body: BodyBuilder, node: Node, index: Coordinates, buffer: Buffer) -> None:
        value = body.value(node, index)
        offset = linearize(index, node.shape, len(body.kernel.extents))
        body.kernel.stores.append(Store(value, buffer, offset))
        body.kernel.nodes.append(node)

    def assemble(self) -> Schedule:
        a = self.a
        for node in a.order:
            kind = a.kinds[node]
            if node in a.check_level and node.type.size:
                self._check(node)
            if node not in a.stored or not node.type.size:
                continue
            if a.constant(node) is not None or kind < REDUCE or node in a.cuts:
                self._store(node, a.level[node], self.buffer_of(node))
            elif kind == REDUCE:
                self._reduce(node)
            elif kind == PLACEMENT:
                self._place(node)
            elif kind == SCATTER:
                self._scatter(node)
            elif kind == SCAN:
                self._scan(node)
            elif kind == MATMUL:
                self._multiply(node)
            else:
                self._leave_to_python(node)
        for node, buffer in self.copies:
            self._store(node, a.reach(node, True)[0], buffer)
        for output in sorted(a.program.guards):
            node = a.program.graph.outputs[output]
            buffer = self.buffer_of(node)
            level = a.level.get(node, -1) + 1
            self.leveled.append((level, DecisionKernel(node, buffer, True, GUARD_FAILED)))
        kernels = _with_epilogues(self._ordered())
        remaining = self._not_in_place(kernels)
        kernels = [kernel for kernel in kernels if not _does_nothing(kernel)]
        kernels += [_copy(buffer, target) for buffer, target in remaining]
        return Schedule(a.program, kernels, self.inputs, self.results, list(a.reasons.items()))

    def _check(self, node: Node) -> None:
        """Have the indices of a node (or the divisors of integers) checked."""
        operand = node.inputs[1]
        extent = None
        if node.op.name not in DIVISIONS:
            extent = node.inputs[0].shape[node.attrs["axis"]]
        if (extent is None and operand.dtype.is_floating) or not operand.type.size:
            return
        if operand.op.name == "const":
            values = constant_array(operand.attrs["value"], operand.type)
            if np.all((values >= 0) & (values < extent) if extent is not None else values != 0):
                return
        level = self.a.check_level[node]
        space = squeezed(operand.shape)
        reduced = frozenset(range(len(space)))
        body = self._body(space, level, reduced)
        value = body.value(operand, identity_index(operand.shape))
        wrong = body.add(OutOfBounds(bool_, (value,), extent))
        flag = Buffer(f"bad{self.names[node][1:]}", flag_type(), "temporary")
        zero = Affine((0,) * len(space))
        body.kernel.nodes.append(node)
        if space:
            body.kernel.folds.append(
                Fold(wrong, flag, zero, lambda s, x, y: s.bit_or(x, y), False, False)
            )
        else:
            body.kernel.stores.append(Store(wrong, flag, zero))
        status = DIVIDED_BY_ZERO if extent is None else OUT_OF_BOUNDS
        self.leveled.append((level, DecisionKernel(node, flag, False, status)))

    def _reduce(self, node: Node) -> None:
        x = node.inputs[0]
        space = squeezed(x.shape)
        body = self._body(space, self.a.level[node], reduced_axes(node))
        index = identity_index(x.shape)
        value = body.value(x, index)
        kept = [i for axis, i in enumerate(index) if axis not in node.attrs["axis"]]
        shape = tuple([n for axis, n in enumerate(x.shape) if axis not in node.attrs["axis"]])
        lower = node.op.lower
        body.kernel.folds.append(
            Fold(
                value,
                self.buffer_of(node),
                linearize(tuple(kept), shape, len(space)),
                lower.combine,
                lower.start(node.dtype),
                node.op.name == "sum" and node.dtype.is_floating,
            )
        )
        body.kernel.nodes.append(node)

    def _place(self, node: Node) -> None:
        lower, target = node.op.lower, self.buffer_of(node)
        levels = list(self.a.box_levels[node])
        if lower.background == "operand":
            self._store(node.inputs[0], levels.pop(0), target)
        elif lower.background == "value":
            self._fill(node, levels.pop(0), target, node.attrs["value"])
        for (number, start, step), level in zip(boxes(node), levels, strict=True):
            x = node.inputs[number]
            body = self._body(squeezed(x.shape), level)
            index = identity_index(x.shape)
            placed = [i * s + b for i, s, b in zip(index, step, start, strict=True)]
            value = body.value(x, index)
            offset = linearize(tuple(placed), node.shape, len(body.kernel.extents))
            body.kernel.stores.append(Store(value, target, offset))
            body.kernel.nodes.append(node)

    def _fill(self, node: Node, level: int, target: Buffer, value: Any) -> None:
        body = self._body(squeezed(node.shape), level)
        number = body.add(Constant(node.dtype, value))
        offset = linearize(identity_index(node.shape), node.shape, len(body.kernel.extents))
        body.kernel.stores.append(Store(number, target, offset))
        body.kernel.nodes.append(node)

    def _scatter(self, node: Node) -> None:
        x, position, src = node.inputs
        target = self.buffer_of(node)
        self._store(x, self.a.box_levels[node][0], target)
        if not src.type.size:
            return
        space = squeezed(src.shape)
        body = self._body(space, self.a.level[node], own=node)
        index = identity_index(src.shape)
        where = body.value(position, indexing_position(node, index))
        value = body.value(src, index)
        offset, stride = indexed_offset(node, index, node.shape, len(space))
        accumulate = node.op.name != "index_copy"
        body.kernel.stores.append(Store(value, target, offset, ((where, stride),), accumulate))
        body.kernel.nodes.append(node)
        body.kernel.ordered = True

    def _scan(self, node: Node) -> None:
        x = node.inputs[0]
        axis = node.attrs["axis"]
        if x.shape[axis] == 1:
            self._scan_nothing(node)
            return
        wide = [i for i, n in enumerate(x.shape) if n != 1]
        body = self._body(
            squeezed(x.shape), self.a.level[node], frozenset([wide.index(axis)]), own=node
        )
        index = identity_index(x.shape)
        value = body.value(x, index)
        body.kernel.nodes.append(node)
        target, variables = self.buffer_of(node), len(wide)
        lower = node.op.lower
        if isinstance(lower, Scan):
            offset = linearize(index, x.shape, variables)
            start = lower.start(x.dtype)
            body.kernel.scan = Running(value, target, offset, lower.combine, start)
        else:
            kept = tuple([i for number, i in enumerate(index) if number != axis])
            shape = tuple([n for number, n in enumerate(x.shape) if number != axis])
            offset = linearize(kept, shape, variables)
            body.kernel.scan = Extremum(value, target, offset, node.op.name == "argmax")

    def _scan_nothing(self, node: Node) -> None:
        if isinstance(node.op.lower, Scan):
            self._store(node.inputs[0], self.a.level[node], self.buffer_of(node))
        else:
            self._fill(node, self.a.level[node], self.buffer_of(node), 0)

    def _multiply(self, node: Node) -> None:
        shape = node.shape
        a, b = self.a.products[node]
        depth = self.a.factors(node)[0].shape[-1]
        views = []
        for operand, extents in ((a, (*shape[:-1], depth)), (b, (*shape[:-2], depth, shape[-1]))):
            views.append(
                View(
                    self.buffer_of(operand.node),
                    operand.offset.constant,
                    extents,
                    operand.offset.coefficients,
                )
            )
        level, out = self.a.level[node], self.buffer_of(node)
        if prefers_blas(product_spec(views[0], views[1], node.type)):
            self.leveled.append((level, PythonStep(node, (views[0], views[1]), out, None)))
        else:
            self.leveled.append((level, MatmulKernel(node, views[0], views[1], out)))

    def _leave_to_python(self, node: Node) -> None:
        views = tuple(
            View(self.buffer_of(x), 0, x.shape, row_major_strides(x.shape)) for x in node.inputs
        )
        step = PythonStep(node, views, self.buffer_of(node), self.a.reasons[node])
        self.leveled.append((self.a.level[node], step))

    # Order.

    def _ordered(self) -> list[Kernel]:
        """By level; what no decision depends on comes after all decisions."""
        ranked = [
            (level, isinstance(kernel, DecisionKernel), number, kernel)
            for number, (level, kernel) in enumerate(self.leveled)
        ]
        ranked.sort(key=lambda entry: entry[:3])
        kernels = [entry[3] for entry in ranked]
        # Walk backwards from decisions (and Python, which may raise) to what they need.
        wanted: set[Buffer] = set()
        early = [False] * len(kernels)
        for number in range(len(kernels) - 1, -1, -1):
            kernel = kernels[number]
            decides = isinstance(kernel, DecisionKernel) or (
                isinstance(kernel, PythonStep) and kernel.reason is not None
            )
            if decides or any(buffer in wanted for buffer in kernel.writes()):
                early[number] = True
                wanted.update(kernel.reads())
                wanted.update(kernel.writes())  # Whatever was there before, comes before.
        first = [k for k, is_early in zip(kernels, early, strict=True) if is_early]
        return first + [k for k, is_early in zip(kernels, early, strict=True) if not is_early]

    def _not_in_place(self, kernels: list[Kernel]) -> list[tuple[Buffer, Buffer]]:
        """Let updates be written straight into the inputs where that overtakes no reader.

        Returns the others.
        """
        last_decision = -1
        writers: dict[Buffer, list[int]] = {}
        readers: dict[Buffer, list[int]] = {}
        for position, kernel in enumerate(kernels):
            if isinstance(kernel, DecisionKernel) or (
                isinstance(kernel, PythonStep) and kernel.reason is not None
            ):
                last_decision = position
            for buffer in dict.fromkeys(kernel.writes()):
                writers.setdefault(buffer, []).append(position)
            for buffer in dict.fromkeys(kernel.reads()):
                readers.setdefault(buffer, []).append(position)
        remaining = []
        for buffer, target in self.pending_updates:
            first, *others = writers.get(buffer, [-1])
            # The regions of an array do not overlap: each may read what it writes.
            whole = any(getattr(kernels[i], "region", None) is None for i in (first, *others))
            writing = {first} if whole else {first, *others}
            if (
                first > last_decision
                and all(i <= first or i in writing for i in readers.get(target, ()))
                and all(kernels[i].writes_in_place(buffer, target) for i in writing)
            ):
                buffer.alias = target
            else:
                remaining.append((buffer, target))
        return remaining


def _with_epilogues(kernels: list[Kernel]) -> list[Kernel]:
    """Let matrix products do what follows them, element by element: add a bias, update a weight.

    A loop kernel that is the first to read a product, each element at its own place, becomes part
    of it; the product moves to the place of that kernel.
    """
    readers: dict[Buffer, list[int]] = {}
    for position, kernel in enumerate(kernels):
        for buffer in dict.fromkeys(kernel.reads()):
            readers.setdefault(buffer, []).append(position)
    result: list[Kernel | None] = list(kernels)
    for position, product in enumerate(kernels):
        if not isinstance(product, MatmulKernel) or not readers.get(product.product):
            continue
        first = readers[product.product][0]
        follower = result[first]
        if not isinstance(follower, LoopKernel) or not _may_follow(follower, product):
            continue
        product.epilogue = follower
        if product.product.role == "temporary" and len(readers[product.product]) == 1:
            product.out = None
        result[first], result[position] = product, None
    return [kernel for kernel in result if kernel is not None]


def _may_follow(kernel: LoopKernel, product: MatmulKernel) -> bool:
    """Whether a kernel does nothing but store, and reads the product at its own point only."""
    shape = product.node.shape
    if kernel.extents != squeezed(shape) or kernel.reduced or kernel.ordered or not kernel.stores:
        return False
    own = linearize(identity_index(shape), shape, len(kernel.extents))
    return all(
        instruction.offset == own and not instruction.dynamic
        for instruction in kernel.instructions
        if isinstance(instruction, Load) and instruction.buffer is product.product
    )


def _does_nothing(kernel: Kernel) -> bool:
    """Whether a kernel only stores elements where they are already, once updates are in place."""
    if not isinstance(kernel, LoopKernel):
        return False
    for sink in kernel.sinks():
        source = kernel.instructions[sink.value]
        same = (
            isinstance(sink, Store)
            and isinstance(source, Load)
            and source.buffer.real is sink.buffer.real
            and (source.offset, source.dynamic) == (sink.offset, sink.dynamic)
        )
        if not same:
            return False
    return True


def _copy(buffer: Buffer, target: Buffer) -> LoopKernel:
    """The kernel that copies an array."""
    size = target.type.size
    kernel = LoopKernel((size,) if size > 1 else ())
    at = Affine((1,) if size > 1 else ())
    kernel.instructions.append(Load(buffer.type.dtype, buffer, at))
    kernel.stores.append(Store(0, target, at))
    return kernel


def product_spec(a: View, b: View, out: TensorType) -> MatmulSpec:
    """One product of a batch."""
    m, n, k = out.shape[-2], out.shape[-1], a.shape[-1]
    return MatmulSpec(
        out.dtype, m, n, k, (a.strides[-2], a.strides[-1]), (b.strides[-2], b.strides[-1]), (n, 1)
    )
