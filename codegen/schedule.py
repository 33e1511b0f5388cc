"""From a program to a list of kernels: what is fused with what, what is stored, and in which order.

The data structure is :class:`Schedule`. Every node is either *stored* (its elements get memory: results of
reductions, of matrix products, of the program, and whatever is better computed once) or *inlined* into the
kernels that need it. Each stored node has a *level*, and kernels are formed of the stored nodes of one
level and one iteration space: a node reads nodes of its own level in registers, at its own point of the
iteration space, and everything else from memory, written at a lower level. So there can be no cycle
between kernels, and no search for one.

Start reading at :func:`make_schedule`. Nothing here is more than linear in the number of nodes and edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir.graph import Node
from ..ir.lowering import Generated, Movement, Placement, Reduce, Special
from ..ir.ops.source import constant_array
from ..ir.program import Program
from ..ir.types import Shape, TensorType, bool_
from .engine import Host
from .index import Affine, identity_index, linearize, row_major_strides, squeezed
from .kernel import (
    BodyBuilder,
    Buffer,
    Constant,
    DecisionKernel,
    Extremum,
    Fold,
    Kernel,
    LoopKernel,
    MatmulKernel,
    OutOfBounds,
    PythonStep,
    RunningSum,
    Store,
    View,
    canonical,
    flag_type,
    indexed_offset,
    indexing_position,
)
from .matmul import MatmulSpec, prefers_blas

GUARD_FAILED = 1
OUT_OF_BOUNDS = 3
DIVIDED_BY_ZERO = 4

# Nodes of one kernel, at most: LLVM's time grows faster than the size of a basic block.
_BODY_LIMIT = 400

# A node that several kernels need is stored if computing it anew costs more than this many additions.
_RECOMPUTED_COST = 8

_COSTS = {
    "div": 5, "sqrt": 5, "rsqrt": 10, "floor_div": 20, "remainder": 20, "fmod": 20, "gather": 4, "take": 4,
    "power": 4, "random_bits": 12,
}  # fmt: skip
_CALL_COST = 20
_FREE = frozenset(["neg", "cast", "eq", "ne", "lt", "le", "gt", "ge", "where", "bit_not"])

_SCATTERS = frozenset(["scatter_add", "index_add", "index_copy"])
_SCANS = frozenset(["argmax", "argmin", "cumsum"])
_DIVISIONS = frozenset(["floor_div", "remainder", "fmod"])

# What becomes of a node. The first two have no kernel, the next five can be inlined.
_LEAF, _CONSTANT, _POINTWISE, _MOVEMENT, _ALIAS, _GENERATED, _INDEXED = range(7)
_REDUCE, _PLACEMENT, _MATMUL, _SCATTER, _SCAN, _PYTHON = range(7, 13)


@dataclass(slots=True)
class Schedule:
    """The kernels of a program in the order of execution.

    Attributes:
        program: what is computed.
        kernels: what to emit.
        inputs: the buffer of each graph input.
        results: the buffer of each result.
        updates: update buffers that are not written in place, with the input they are copied to at the end.
        reasons: the nodes that Python evaluates because there is no native code for them, and why.
    """

    program: Program
    kernels: list[Kernel]
    inputs: list[Buffer]
    results: list[Buffer]
    updates: list[tuple[Buffer, Buffer]] = field(default_factory=list)
    reasons: list[tuple[Node, str]] = field(default_factory=list)


def make_schedule(program: Program, host: Host) -> Schedule:
    """Decide how a program is computed.

    Args:
        program: any program; its graph need not be optimised.
        host: the CPU; whether products and sums are fused depends on it.
    """
    analysis = _Analysis(program, host)
    return _Assembly(analysis).assemble()


class _Analysis:
    """What is stored, and at which level; see the module docstring.

    Attributes:
        order: the nodes that the outputs depend on, in graph order.
        kinds: what becomes of each node and input.
        stored: the nodes that get memory.
        level: per stored node the level of the kernel that completes it.
        same, other: per inlined node the lowest level of a kernel that can compute it, in the node's own
            iteration space and in another one.
        reasons: per node that Python evaluates why it does.
    """

    def __init__(self, program: Program, host: Host) -> None:
        self.program = program
        graph = program.graph
        reachable = graph.reachable_from(graph.outputs)
        self.order = [node for node in graph.nodes if node in reachable]
        self.users = _users(self.order)
        self.reasons: dict[Node, str] = {}
        self.kinds: dict[Node, int] = {node: _LEAF for node in graph.inputs}
        for node in self.order:
            self.kinds[node] = self._classify(node)
        self.contracted = self._contract() if host.has_fma else {}
        self.fused_products = {
            node.inputs[number] for node, (_, number) in self.contracted.items()
        }
        self.products: dict[Node, tuple[_Operand, _Operand]] = {}
        self.level: dict[Node, int] = {}
        self.same: dict[Node, int] = {}
        self.other: dict[Node, int] = {}
        self.check_level: dict[Node, int] = {}
        self.box_levels: dict[Node, list[int]] = {}
        self._cost: dict[Node, int] = {}
        self.stored: set[Node] = set()
        self._store_what_must_be()
        self._assign_levels()
        if self._store_what_pays():
            self._assign_levels()

    # What each node is.

    def _classify(self, node: Node) -> int:
        op, lower = node.op, node.op.lower
        if op.name == "const":
            return _LEAF if isinstance(node.attrs["value"], tuple) else _CONSTANT
        if op.name == "zeros":
            return _CONSTANT
        if isinstance(lower, Movement):
            return _MOVEMENT
        if isinstance(lower, Generated):
            return _GENERATED
        if isinstance(lower, Placement):
            return _PLACEMENT
        if isinstance(lower, Reduce):
            return self._classify_reduction(node)
        if isinstance(lower, Special):
            return self._classify_special(node)
        if callable(lower):
            return _POINTWISE
        self.reasons[node] = f"there is no native code for {op.name}"
        return _PYTHON

    def _classify_reduction(self, node: Node) -> int:
        x = node.inputs[0]
        axes = [axis for axis in node.attrs["axis"] if x.shape[axis] != 1]
        if not axes:
            return _ALIAS
        if x.type.size == 0 and node.type.size and node.op.name not in ("sum", "prod"):
            self.reasons[node] = "a reduction of nothing"
            return _PYTHON
        return _REDUCE

    def _classify_special(self, node: Node) -> int:
        name = node.op.lower.kernel
        x = node.inputs[0]
        if name == "matmul" and x.dtype is not bool_:
            return _MATMUL
        if name in ("gather", "take"):
            return _INDEXED
        if name in _SCATTERS and not (x.dtype is bool_ and name != "index_copy"):
            return _SCATTER
        if name in _SCANS and x.type.size and x.dtype is not bool_:
            return _SCAN
        if name == "cumsum" and x.dtype is not bool_:
            return _SCAN
        self.reasons[node] = f"there is no native code for {node.op.name} of {x.type}"
        return _PYTHON

    def constant(self, node: Node) -> Constant | None:
        """The one value that all elements of a node have, if it is known."""
        kind = self.kinds[node]
        if kind == _CONSTANT:
            return Constant(node.dtype, node.attrs.get("value", 0))
        if kind == _REDUCE and node.inputs[0].type.size == 0:
            return Constant(node.dtype, node.op.lower.start(node.dtype))
        if kind == _MATMUL and node.inputs[0].shape[-1] == 0:
            return Constant(node.dtype, 0)
        return None

    def _contract(self) -> dict[Node, tuple[Node, int]]:
        """Sums of floats with a product that nothing else reads: they become one multiply-add.

        This is decided per node, and for all kernels alike: a value must be the same to the last bit
        wherever it is computed, or the maximum of an expression would not be found among its elements.
        """
        outputs = set(self.program.graph.outputs)
        contracted = {}
        for node in self.order:
            if node.op.name not in ("add", "sub") or not node.dtype.is_floating:
                continue
            for number, x in enumerate(node.inputs):
                if (
                    x.op.name == "mul"
                    and x.shape == node.shape
                    and node.inputs[0] is not node.inputs[1]
                    and len(self.users[x]) == 1
                    and x not in outputs
                ):
                    contracted[node] = (x, number)
                    break
        return contracted

    def operands(self, node: Node) -> tuple[Node, ...]:
        """What the code of a node reads: its inputs, or in place of a fused product its factors."""
        fused = self.contracted.get(node)
        if fused is None:
            return node.inputs
        product, number = fused
        return (*product.inputs, node.inputs[1 - number])

    # What is stored.

    def _store_what_must_be(self) -> None:
        for output in self.program.graph.outputs:
            if self.kinds[output] > _CONSTANT:
                self.stored.add(output)
        flat = self._flat_nodes()
        for node in self.order:
            kind = self.kinds[node]
            if kind >= _REDUCE and self.constant(node) is None:
                self.stored.add(node)
            if kind == _INDEXED or kind == _PYTHON:
                for x in node.inputs[: 1 if kind == _INDEXED else None]:
                    if self.kinds[x] != _LEAF:
                        self.stored.add(x)
            elif kind == _MOVEMENT:
                x = node.inputs[0]
                if x not in flat and self._moved_index(node) is None:
                    self.stored.add(x)
            elif kind == _MATMUL and node in self.stored:
                self._store_factors(node)

    def _moved_index(self, node: Node) -> Any:
        x = node.inputs[0]
        if node.type.size == 0:
            return ()
        return node.op.lower.index(identity_index(node.shape), x.type, node.type, **node.attrs)

    def _flat_nodes(self) -> set[Node]:
        """The nodes whose elements can be computed one after the other from a running offset."""
        flat = set(self.program.graph.inputs)
        for node in self.order:
            kind = self.kinds[node]
            if kind in (_CONSTANT, _LEAF, _GENERATED) or kind >= _REDUCE or node in self.stored:
                flat.add(node)
            elif kind == _POINTWISE:
                if all(
                    x.type.size == 1 or (squeezed(x.shape) == squeezed(node.shape) and x in flat)
                    for x in self.operands(node)
                ):
                    flat.add(node)
            elif kind in (_MOVEMENT, _ALIAS):
                x = node.inputs[0]
                rigid = kind == _ALIAS or node.op.name == "reshape"
                if x.type.size == 1 or (rigid and x in flat):
                    flat.add(node)
        return flat

    def _store_factors(self, node: Node) -> None:
        if node.type.size == 0:
            return
        factors = []
        for x, axes in zip(node.inputs, ((-2, -1), (-2, -1)), strict=True):
            factors.append(self._as_view(node, x, axes))
        self.products[node] = (factors[0], factors[1])

    def _as_view(self, node: Node, x: Node, axes: tuple[int, int]) -> _Operand:
        """A factor as a strided view of a stored node, through as many movements as possible."""
        rank = node.ndim
        # Loop variables are the axes of the factor, aligned with those of the result.
        unit = [
            Affine(tuple([int(i == number) for i in range(rank)])) for number in range(rank)
        ]
        lead = rank - x.ndim
        index: Any = tuple([0 if n == 1 else unit[lead + i] for i, n in enumerate(x.shape)])
        at: Node = x
        found = at, linearize(index, at.shape, rank)
        while at not in self.stored and self.kinds[at] in (_MOVEMENT, _ALIAS):
            inner = at.inputs[0]
            if isinstance(index, Affine):
                if self.kinds[at] == _MOVEMENT and at.op.name != "reshape" and inner.type.size != 1:
                    break
                moved = index if inner.type.size != 1 else Affine((0,) * rank)
            elif self.kinds[at] == _ALIAS:
                moved = linearize(index, at.shape, rank)
            else:
                moved = at.op.lower.index(index, inner.type, at.type, **at.attrs)
                if moved is None:
                    moved = linearize(index, at.shape, rank)
                else:
                    moved = canonical(moved, inner.shape)
            at, index = inner, moved
            if self.constant(at) is not None:
                break
            offset = index if isinstance(index, Affine) else linearize(index, at.shape, rank)
            found = at, offset
            if self.kinds[at] == _LEAF:
                break
        base, offset = found
        if self.kinds[base] != _LEAF:
            self.stored.add(base)
        return _Operand(base, offset)

    # Levels.

    def _assign_levels(self) -> None:
        counts: dict[tuple[Shape, int], int] = {}
        for node in self.order:
            kind = self.kinds[node]
            if kind in (_LEAF, _CONSTANT) or self.constant(node) is not None:
                if node in self.stored:
                    self.level[node] = 0
                continue
            if kind in (_REDUCE, _SCAN):
                self.level[node] = self._reach(node.inputs[0], True)[0]
            elif kind == _PLACEMENT:
                self._place(node)
            elif kind == _SCATTER:
                self._scatter(node)
            elif kind == _PYTHON:
                self.level[node] = max([self._reach(x, False)[1] for x in node.inputs], default=0)
            elif kind == _MATMUL:
                factors = self.products.get(node, ())
                self.level[node] = max([self._reach(x.node, False)[1] for x in factors], default=0)
            else:
                self._inline(node, kind, counts)

    def _inline(self, node: Node, kind: int, counts: dict[tuple[Shape, int], int]) -> None:
        space = squeezed(node.shape)
        same = other = cost = 0
        for number, x in enumerate(self.operands(node)):
            if kind == _MOVEMENT or kind == _ALIAS:
                identity = squeezed(x.shape) == space and (
                    kind == _ALIAS or self._is_identity(node, x)
                )
            elif kind == _INDEXED and number == 0:
                identity = False
            else:
                identity = squeezed(x.shape) == space
            reach = self._reach(x, identity)
            same, other = max(same, reach[0]), max(other, reach[1])
            if x not in self.stored:
                cost += self._cost.get(x, 0)
        if kind == _INDEXED or node.op.name in _DIVISIONS:
            level = self._check(node)
            if kind == _INDEXED:
                same, other = max(same, level + 1), max(other, level + 1)
        if kind not in (_MOVEMENT, _ALIAS):
            cost += _own_cost(node)
            key = (space, same)
            while counts.get(key, 0) >= _BODY_LIMIT:
                key = (space, key[1] + 1)
            counts[key] = counts.get(key, 0) + 1
            same = key[1]
        self._cost[node] = min(cost, 10_000)
        self.same[node], self.other[node] = same, max(same, other)
        if node in self.stored:
            self.level[node] = same

    def _reach(self, x: Node, identity: bool) -> tuple[int, int]:
        """The lowest level at which a node can be read: in its own iteration space, and in another."""
        if x in self.level:
            level = self.level[x]
            if self.kinds[x] >= _REDUCE or not identity:
                return level + 1, level + 1
            return level, level + 1
        if x not in self.same:
            return 0, 0
        return (self.same[x] if identity else self.other[x]), self.other[x]

    def _is_identity(self, node: Node, x: Node) -> bool:
        if node.type.size == 0:
            return True
        moved = self._moved_index(node)
        return moved is not None and canonical(moved, x.shape) == identity_index(x.shape)

    def _check(self, node: Node) -> int:
        """The level at which the indices of a node, or its divisors, are checked."""
        operand = node.inputs[1]
        level = self._reach(operand, True)[0]
        self.check_level[node] = level
        return level

    def _place(self, node: Node) -> None:
        lower = node.op.lower
        levels = []
        lowest = 0
        if lower.background == "operand":
            lowest = self._reach(node.inputs[0], True)[0]
        if lower.background != "none":
            levels.append(lowest)
            lowest += 1
        for number, _, _ in self.boxes(node):
            level = max(lowest, self._reach(node.inputs[number], True)[0])
            levels.append(level)
            if node.op.name != "concat":  # Whose boxes do not overlap.
                lowest = level + 1
        self.box_levels[node] = levels
        self.level[node] = max(levels, default=0)

    def boxes(self, node: Node) -> list[tuple[int, Shape, Shape]]:
        """Where the operands of a placement go: (operand number, start, step), without empty ones."""
        types = [x.type for x in node.inputs]
        found = node.op.lower.boxes(types, node.type, **node.attrs)
        return [box for box in found if types[box[0]].size]

    def _scatter(self, node: Node) -> None:
        x, index, src = node.inputs
        start = self._reach(x, True)[0]
        check = self._check(node)
        # The index and the source are read at one point of the source's space.
        read = max(self._reach(index, squeezed(index.shape) == squeezed(src.shape))[0], self._reach(src, True)[0])
        self.box_levels[node] = [start]
        self.level[node] = max(start + 1, check + 1, read)

    # What is better stored.

    def _store_what_pays(self) -> bool:
        """Find nodes that several kernels would compute, at a price. Returns whether there are any."""
        keys: dict[Node, set[Any]] = {}
        moves: dict[Node, int] = {}
        added = False

        def note(x: Node, used_by: set[Any], moved: bool, size: int) -> None:
            if self.kinds[x] in (_LEAF, _CONSTANT) or x in self.level:
                return
            known = keys.setdefault(x, set())
            if len(known) < 4:
                known |= used_by
            if moved:
                moves[x] = moves.get(x, 0) + 1
            if 1 < x.type.size < size:
                moves[x] = moves.get(x, 0) + 2

        for node in reversed(self.order):
            kind = self.kinds[node]
            if node in self.fused_products or (self.constant(node) is not None):
                continue
            if kind >= _REDUCE:
                own = {self._key_of(node)}
            elif node in self.stored:
                own = {(squeezed(node.shape), self.level[node])}
            else:
                own = keys.get(node, set())
                if not own:
                    continue
                times = len(own) + max(0, moves.get(node, 0) - 1)
                if (
                    kind in (_POINTWISE, _GENERATED, _INDEXED)
                    and times > 1
                    and self._cost[node] * (times - 1) > _RECOMPUTED_COST
                ):
                    self.stored.add(node)
                    added = True
                    own = {(squeezed(node.shape), self.same[node])}
            if node in self.check_level:
                note(node.inputs[1], {("check", self.check_level[node])}, False, 0)
            for x in self.operands(node):
                moved = kind == _MOVEMENT and squeezed(x.shape) != squeezed(node.shape)
                moved = moved or (kind == _MOVEMENT and node.op.name not in ("reshape", "broadcast_in_dim"))
                note(x, own, moved and len(self.users[x]) > 1, node.type.size)
        return added

    def _key_of(self, node: Node) -> Any:
        if self.kinds[node] == _REDUCE:
            return (squeezed(node.inputs[0].shape), self.level[node])
        return (id(node), self.level[node])


@dataclass(frozen=True, slots=True)
class _Operand:
    """A factor of a product: where element (axes of the result) lies in a stored node."""

    node: Node
    offset: Affine


def _users(order: list[Node]) -> dict[Node, list[Node]]:
    users: dict[Node, list[Node]] = {}
    for node in order:
        for x in dict.fromkeys(node.inputs):
            users.setdefault(x, []).append(node)
        users.setdefault(node, [])
    return users


def _own_cost(node: Node) -> int:
    name = node.op.name
    if name in _FREE:
        return 1
    found = _COSTS.get(name)
    if found is not None:
        return found
    return _CALL_COST if name in _ELEMENTARY_NAMES else 1


_ELEMENTARY_NAMES = frozenset(
    "pow exp expm1 exp2 log log1p log2 log10 sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh "
    "atanh sigmoid erf erfc".split()
)


class _Assembly:
    """Makes buffers and kernels from an analysis."""

    def __init__(self, analysis: _Analysis) -> None:
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
        for output, number in self.a.program.updates.items():
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
            if node.op.name == "const":
                data = np.ascontiguousarray(constant_array(node.attrs["value"], node.type)).tobytes()
                buffer = Buffer(f"c{self.names[node]}", node.type, "constant", data=data)
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
        body = self.loops.get(key)
        if body is None:
            body = self.loops[key] = self._new_body(space, level, reduced)
        return body

    def _new_body(self, space: Shape, level: int, reduced: frozenset[int]) -> BodyBuilder:
        kernel = LoopKernel(space, reduced)
        self.leveled.append((level, kernel))
        return BodyBuilder(kernel, self._source_at(level), self.a.contracted)

    def _source_at(self, level: int) -> Callable[[Node], Buffer | Constant | None]:
        """Where a kernel of this level finds a node's elements."""
        a = self.a

        def source(node: Node) -> Buffer | Constant | None:
            constant = a.constant(node)
            if constant is not None:
                return constant
            if a.kinds[node] == _LEAF:
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
        body = self._body(squeezed(node.shape), level)
        index = identity_index(node.shape)
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
            if a.constant(node) is not None or kind < _REDUCE:
                self._store(node, a.level[node], self.buffer_of(node))
            elif kind == _REDUCE:
                self._reduce(node)
            elif kind == _PLACEMENT:
                self._place(node)
            elif kind == _SCATTER:
                self._scatter(node)
            elif kind == _SCAN:
                self._scan(node)
            elif kind == _MATMUL:
                self._multiply(node)
            else:
                self._leave_to_python(node)
        for node, buffer in self.copies:
            self._store(node, a._reach(node, True)[0], buffer)
        for output in sorted(a.program.guards):
            node = a.program.graph.outputs[output]
            buffer = self.buffer_of(node)
            level = a.level.get(node, -1) + 1
            self.leveled.append((level, DecisionKernel(node, buffer, True, GUARD_FAILED)))
        kernels = self._ordered()
        updates = self._place_updates(kernels)
        return Schedule(
            a.program, kernels, self.inputs, self.results, updates, list(a.reasons.items())
        )

    def _check(self, node: Node) -> None:
        """Have the indices of a node (or the divisors of integers) checked."""
        operand = node.inputs[1]
        extent = None
        if node.op.name not in _DIVISIONS:
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
        wide = [axis for axis, n in enumerate(x.shape) if n != 1]
        reduced = frozenset(i for i, axis in enumerate(wide) if axis in node.attrs["axis"])
        body = self._body(space, self.a.level[node], reduced)
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
        for (number, start, step), level in zip(self.a.boxes(node), levels, strict=True):
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
        if node.op.name == "cumsum":
            offset = linearize(index, x.shape, variables)
            body.kernel.scan = RunningSum(value, target, offset)
        else:
            kept = tuple([i for number, i in enumerate(index) if number != axis])
            shape = tuple([n for number, n in enumerate(x.shape) if number != axis])
            offset = linearize(kept, shape, variables)
            body.kernel.scan = Extremum(value, target, offset, node.op.name == "argmax")

    def _scan_nothing(self, node: Node) -> None:
        if node.op.name == "cumsum":
            self._store(node.inputs[0], self.a.level[node], self.buffer_of(node))
        else:
            self._fill(node, self.a.level[node], self.buffer_of(node), 0)

    def _multiply(self, node: Node) -> None:
        shape = node.shape
        a, b = self.a.products[node]
        depth = node.inputs[0].shape[-1]
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
        """By level; within a level decisions last. What no decision depends on comes after all of them."""
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
        first = [k for k, is_early in zip(kernels, early, strict=True) if is_early]
        return first + [k for k, is_early in zip(kernels, early, strict=True) if not is_early]

    def _place_updates(self, kernels: list[Kernel]) -> list[tuple[Buffer, Buffer]]:
        """Let updates be written straight into the inputs where that overtakes no reader."""
        last_decision = -1
        first_write: dict[Buffer, int] = {}
        last_read: dict[Buffer, int] = {}
        for position, kernel in enumerate(kernels):
            if isinstance(kernel, DecisionKernel) or (
                isinstance(kernel, PythonStep) and kernel.reason is not None
            ):
                last_decision = position
            for buffer in kernel.writes():
                first_write.setdefault(buffer, position)
            for buffer in kernel.reads():
                last_read[buffer] = position
        remaining = []
        for buffer, target in self.pending_updates:
            position = first_write.get(buffer, -1)
            if (
                position > last_decision
                and last_read.get(target, -1) <= position
                and kernels[position].writes_in_place(buffer, target)
            ):
                buffer.alias = target
            else:
                remaining.append((buffer, target))
        return remaining


def product_spec(a: View, b: View, out: TensorType) -> MatmulSpec:
    """One product of a batch."""
    m, n, k = out.shape[-2], out.shape[-1], a.shape[-1]
    return MatmulSpec(
        out.dtype, m, n, k, (a.strides[-2], a.strides[-1]), (b.strides[-2], b.strides[-1]), (n, 1)
    )
