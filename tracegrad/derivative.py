"""Differentiating a compiled function from outside: its adjoint, compiled, and the record that stands for a call.

When a trace ends, :func:`differentiate` sweeps once over the records below the results, while the trace still
listens; so the adjoint nodes are appended to the same graph, by the same rules as in eager execution. A
:class:`Derivative` splits this joint graph into a forward half, which returns residuals, and a backward half.
Each call leaves one :class:`CompiledBackward`, which behaves as the records behave that eager execution would have
left (:class:`Step`): it frees what they would free, and refuses what they would refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import not_, or_
from typing import Any, NamedTuple

import numpy as np

from tracegrad.dispatch import apply
from tracegrad.grad_mode import state
from tracegrad.ir.autodiff import append_adjoint, sweep
from tracegrad.ir.builder import GraphBuilder
from tracegrad.ir.graph import Graph
from tracegrad.ir.graph import Node as Value
from tracegrad.ir.location import SourceLocation
from tracegrad.ir.numpy_errors import restore, silence
from tracegrad.ir.op import registered
from tracegrad.ir.ops.source import constant_array
from tracegrad.ir.passes import optimize, partition
from tracegrad.ir.program import Executable, Program
from tracegrad.ir.types import TensorType
from tracegrad.node import FREED_MESSAGE, Node, OpNode, modified_error, next_sequence
from tracegrad.tensor import Tensor, new_tensor, version_of
from tracegrad.tracing import Trace

_CONST = registered("const")
_ADD = registered("add")
_SUB = registered("sub")
_NEG = registered("neg")
_BROADCAST = registered("broadcast_in_dim")


class Saved(NamedTuple):
    """A value that a record saved and that others can change in place.

    Attributes:
        kind: ``"input"``, or ``"output"`` for a root; and its number.
        version: of an input when it was saved, counted from the start of the call.
        shape: of what was saved, which may be a view.
        origin: the name of the record that this view came from; None if it is the input or output itself.
    """

    kind: str
    number: int
    version: int
    shape: tuple[int, ...]
    origin: Named | None


class Named(NamedTuple):
    """Stands for a record in messages."""

    record_name: str

    def name(self) -> str:
        return self.record_name


class Step(NamedTuple):
    """What one of the records below the results would do in a backward from outside.

    Attributes:
        edges: where it leads: numbers of other steps, or ``-1 - k`` for input `k` of those differentiated.
        keeps: whether it saved anything, so that it can be run only once.
        saved: what of that others can change.
        name, location: as in error messages.
    """

    edges: tuple[int, ...]
    keeps: bool
    saved: tuple[Saved, ...]
    record_name: str
    location: SourceLocation | None

    def name(self) -> str:
        return self.record_name


class Joint(NamedTuple):
    """The outcome of :func:`differentiate`.

    Attributes:
        graph: inputs are those of the trace, then a cotangent per root; outputs are the gradients.
        wrt: numbers of the inputs that require grad.
        reached: for each of these whether any root depends on it.
        steps: latest first.
        roots: per root the step at which a sweep starts.
        stopped: primal values through which no derivative flows.
        name: of the record of the first root.
        exact: whether `exact_where` was on.
    """

    graph: Graph
    wrt: list[int]
    reached: list[bool]
    steps: list[Step]
    roots: list[int]
    stopped: frozenset[Value]
    name: str
    exact: bool


class CannotDifferentiateError(Exception):
    """The results have a history that cannot be compiled. The message says why."""


def inner_records(trace: Trace, roots: Iterable[Node]) -> list[Node]:
    """The records that the traced run made below some roots, latest first."""
    seen: set[Node] = set()
    stack = [node for node in roots if node.sequence >= trace.begin]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(e for e in node.edges if isinstance(e, Node) and e.sequence >= trace.begin)
    return sorted(seen, key=lambda node: node.sequence, reverse=True)


def differentiate(trace: Trace, roots: Sequence[Tensor]) -> Joint:
    """Append the adjoint of some results of a finished trace.

    Args:
        trace: will be extended by a cotangent input per root, and by adjoint nodes.
        roots: results that have records.

    Raises:
        CannotDifferentiateError: a record cannot be swept by a compiled function.
    """
    records = inner_records(trace, [root._grad_fn for root in roots if root._grad_fn is not None])
    for record in records:
        if not isinstance(record, OpNode):
            raise CannotDifferentiateError(
                f"a result comes from {record.name()}, which is Python code"
            )
        if record.hooks:
            raise CannotDifferentiateError("a result depends on a tensor with hooks")
    wrt = [
        number
        for number, source in enumerate(trace.sources)
        if source.kind != "constant"
        and source.requires_grad
        and source.tensor._data.dtype.kind == "f"
    ]
    stopped = frozenset(trace.stopped)
    count = len(trace.sources)
    seeds = []
    for number, root in enumerate(roots):
        seed = new_tensor(np.ones_like(root._data))
        trace.seed(seed, f"ct{number}")
        seeds.append(seed)
    targets = [_key_of(trace.sources[number].tensor) for number in wrt]
    found = _sweep(trace, records, roots, seeds, set(targets))
    if trace.failure is not None:
        raise CannotDifferentiateError(trace.failure[0])
    if len(trace.sources) != count:
        raise CannotDifferentiateError("its backward pass reads tensors that the function does not")
    builder = trace.builder
    gradients = []
    for number, target in zip(wrt, targets, strict=True):
        gradient = found.get(target)
        node = builder.graph.inputs[number]
        gradients.append(
            builder.full(node.shape, 0, node.dtype)
            if gradient is None
            else trace.value_of(gradient)
        )
    graph = builder.graph
    inputs = graph.inputs
    # Seeds are the last inputs already: no source was added.
    name = roots[0]._grad_fn.name() if roots[0]._grad_fn is not None else ""
    return Joint(
        graph.replace(name=graph.name + "_vjp", inputs=inputs, outputs=gradients),
        wrt,
        [target in found for target in targets],
        *_steps(trace, records, roots, {target: k for k, target in enumerate(targets)}),
        stopped,
        name,
        state.exact,
    )


def reached_inputs(trace: Trace, record: Node) -> tuple[int, ...]:
    """The inputs to which a record made by the run leads."""
    keys = {
        _edge_key(node, i)
        for node in inner_records(trace, [record])
        for i in range(len(node.edges))
    }
    return tuple(
        number
        for number, source in enumerate(trace.sources)
        if source.requires_grad and source.kind != "constant" and _key_of(source.tensor) in keys
    )


def _key_of(tensor: Tensor) -> Any:
    """Where the cotangent of a tensor from outside is gathered."""
    record = tensor._grad_fn
    if record is None:
        return tensor
    return record if record.outputs == 1 else (record, tensor._output_nr)


def _edge_key(record: Node, index: int) -> Any:
    edge = record.edges[index]
    if isinstance(edge, Node) and edge.outputs != 1:
        return edge, (0 if record.numbers is None else record.numbers[index])
    return edge


def _sweep(
    trace: Trace,
    records: list[Node],
    roots: Sequence[Tensor],
    seeds: Sequence[Tensor],
    targets: set[Any],
) -> dict[Any, Tensor]:
    """The reverse sweep over the records of the run; stops where the outside begins."""
    inner = set(records)
    cotangents: dict[Any, Any] = {}
    for root, seed in zip(roots, seeds, strict=True):
        known = cotangents.get(root._grad_fn)
        cotangents[root._grad_fn] = seed if known is None else known + seed

    def pull(record: Node, ct: Any) -> Iterable[tuple[Any, Any]]:
        keys = [
            None if edge is None else _edge_key(record, i) for i, edge in enumerate(record.edges)
        ]
        needed = [key is not None and (key in inner or key in targets) for key in keys]
        if any(needed):
            trace.begin_adjoint(record)
            for key, contribution in zip(keys, record.pull(ct, needed, True), strict=True):
                if contribution is not None:
                    yield key, contribution

    previous, state.grad = state.grad, False
    former, state.trace = state.trace, trace
    token = silence()
    try:
        sweep(iter(records), cotangents, pull)
    except RuntimeError as error:
        raise CannotDifferentiateError(str(error).partition("\n")[0]) from None
    finally:
        restore(token)
        trace.begin_adjoint(None)
        state.grad, state.trace = previous, former
    return cotangents


def _steps(
    trace: Trace, records: list[Node], roots: Sequence[Tensor], targets: dict[Any, int]
) -> tuple[list[Step], list[int]]:
    numbers = {record: number for number, record in enumerate(records)}
    visible = _visible(trace)
    for number, root in enumerate(roots):
        place = "output", number, 0
        visible[id(root)] = place
        if root._counter is not None:
            visible.setdefault(id(root._counter), place)
    outputs = {id(root._data): number for number, root in enumerate(roots)}
    steps = []
    for record in records:
        assert isinstance(record, OpNode)
        edges = []
        for i in range(len(record.edges)):
            key = _edge_key(record, i)
            if key in numbers:
                edges.append(numbers[key])
            elif key is not None and key in targets:
                edges.append(-1 - targets[key])
        saved = []
        versions = record.versions or (0,) * len(record.saved or ())
        for x, version in zip(record.saved or (), versions, strict=True):
            if isinstance(x, Tensor):
                found = visible.get(id(x)) or visible.get(id(x._counter))
                if found is not None:
                    kind, number, begin = found
                    made_by: Node | None = x._grad_fn
                    inner = made_by is not None and made_by.sequence >= trace.begin
                    known = id(x) in visible
                    origin = Named(made_by.name()) if made_by and inner and not known else None
                    saved.append(Saved(kind, number, version - begin, x._data.shape, origin))
        out = record.saved_out
        if out is not None and id(out) in outputs:
            saved.append(Saved("output", outputs[id(out)], 0, out.shape, None))
        keeps = bool(record.saved) or out is not None
        steps.append(Step(tuple(edges), keeps, tuple(saved), record.name(), record.location))
    return steps, [numbers[root._grad_fn] for root in roots if root._grad_fn is not None]


def _visible(trace: Trace) -> dict[int, tuple[str, int, int]]:
    """Tensors from outside, and their version counters: id -> ("input", number, version at the start)."""
    found: dict[int, tuple[str, int, int]] = {}
    for number, source in enumerate(trace.sources):
        tensor: Tensor | None = source.tensor
        if source.kind == "grad":
            tensor = trace.entry_grads.get(id(source.tensor))
        if tensor is None or source.kind in ("constant", "number"):
            continue
        place = "input", number, trace.entry_versions.get(id(tensor), 0)
        found[id(tensor)] = place
        if tensor._counter is not None:
            found.setdefault(id(tensor._counter), place)
    return found


class Derivative:
    """The adjoint of a program, in two halves, compiled.

    Attributes:
        joint: where it comes from.
        outputs: per root the number of the program's output.
        order: per residual whether it is an input, and its number among the inputs or the computed ones.
        root_count: how many roots there are.
        has_non_leaves: whether an input that requires grad has a history.
        program: the forward half: the program with residuals as further results.
        executable: the forward half, compiled.
        computed_count: how many residuals the forward half returns.
        copied: inputs of which a copy is taken before the call, since they may hold something else later.
        watched: (input number, version counted from the start of the call) of what must not be changed
            before a backward.
        watched_outputs: numbers of the roots for which the same is true.
        read: inputs that a replay reads.
    """

    def __init__(
        self,
        joint: Joint,
        program: Program,
        outputs: list[int],
        bumps: Iterable[int],
        has_non_leaves: bool,
        compile_program: Callable[[Program], Executable],
    ) -> None:
        self.joint = joint
        self.root_count = len(joint.roots)
        self.has_non_leaves = has_non_leaves
        self.outputs = outputs
        self._compile = compile_program
        primal = program.graph.outputs
        self._roots = [primal[number] for number in outputs]
        self._otherwise: Graph | None = None
        both = optimize(
            joint.graph.replace(name=program.graph.name, outputs=[*primal, *joint.graph.outputs])
        )
        inputs = both.inputs[: len(program.graph.inputs)]
        halves = partition(both, len(primal), both.inputs[len(inputs) :])
        positions = {node: i for i, node in enumerate(inputs)}
        computed = [node for node in halves.residuals if node not in positions]
        self.order: list[tuple[bool, int]] = []
        for node in halves.residuals:
            is_input = node in positions
            self.order.append((is_input, positions[node] if is_input else computed.index(node)))
        self.computed_count = len(computed)
        forward = halves.forward.replace(
            outputs=[*halves.forward.outputs[: len(primal)], *computed]
        )
        self.program = Program(forward, program.updates, program.guards)
        self.executable = compile_program(self.program)
        self._backward_graph = halves.backward
        self._backward: dict[frozenset[int], _Half] = {}
        self._replayed: dict[Any, tuple[Graph, list[bool]]] = {}
        saved = {s for step in joint.steps for s in step.saved}
        self.watched = sorted({(s.number, s.version) for s in saved if s.kind == "input"})
        self.watched_outputs = sorted({s.number for s in saved if s.kind == "output"})
        kept = {i for is_input, i in self.order if is_input}
        read = _inputs_read(joint.graph)
        watched = {number for number, _ in self.watched}
        self.copied = sorted((kept - watched) | ({*bumps} & (kept | read)))
        self.read = sorted(read & {*range(len(inputs))})

    def residuals(
        self,
        inputs: Sequence[np.ndarray],
        computed: Sequence[np.ndarray],
        copies: dict[int, np.ndarray],
    ) -> list[np.ndarray]:
        """The arrays that the backward half takes, in order."""
        return [
            (copies.get(i, inputs[i]) if copies else inputs[i]) if is_input else computed[i]
            for is_input, i in self.order
        ]

    def run_backward(
        self, residuals: list[np.ndarray], cotangents: Sequence[np.ndarray | None]
    ) -> list[np.ndarray | None]:
        """The gradients. Cotangents that are None do not come in at all, as in eager execution."""
        absent = frozenset([k for k, ct in enumerate(cotangents) if ct is None])
        half = self._backward.get(absent)
        if half is None:
            graph, there = self._with(self._backward_graph, absent)
            executable = self._compile(Program(optimize(graph) if absent else graph))
            half = self._backward[absent] = _Half(executable, there)
        given = [self._zeros(k) if ct is None else ct for k, ct in enumerate(cotangents)]
        return half.run([*residuals, *given])

    def _with(self, graph: Graph, absent: frozenset[int]) -> tuple[Graph, list[bool]]:
        if not absent:
            return graph, [True] * len(graph.outputs)
        cotangents = graph.inputs[len(graph.inputs) - len(self.joint.roots) :]
        return without(graph, cotangents, {cotangents[k] for k in absent})

    def _joint_graph(self) -> Graph:
        """The joint graph with the zeros of the present mode; see `exact_where`."""
        joint = self.joint
        graph = joint.graph
        if state.exact is joint.exact:
            return graph
        if self._otherwise is None:
            seeds = graph.inputs[len(graph.inputs) - len(joint.roots) :]
            wrt = [graph.inputs[number] for number in joint.wrt]
            extended, found = append_adjoint(graph, self._roots, wrt, seeds, joint.stopped)
            builder = GraphBuilder(extended)
            gradients = [
                builder.full(x.shape, 0, x.dtype) if ct is None else ct
                for x, ct in zip(wrt, found, strict=True)
            ]
            self._otherwise = extended.replace(outputs=gradients)
        return self._otherwise

    def _zeros(self, root: int) -> np.ndarray:
        type = self.type_of_root(root)
        return np.zeros(type.shape, type.dtype.np)

    def type_of_root(self, root: int) -> TensorType:
        """The type of a root and its cotangent."""
        inputs = self.joint.graph.inputs
        return inputs[len(inputs) - len(self.joint.roots) + root].type

    def replay(
        self, inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None], needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """The gradients as Tensors that can be differentiated again."""
        absent = frozenset(k for k, ct in enumerate(cotangents) if ct is None)
        key = absent, tuple(needed), state.exact
        prepared = self._replayed.get(key)
        if prepared is None:
            graph, there = self._with(self._joint_graph(), absent)
            wanted = [known and asked for known, asked in zip(there, needed, strict=True)]
            outputs = [node for node, used in zip(graph.outputs, wanted, strict=True) if used]
            reachable = graph.reachable_from(outputs)
            graph = graph.replace(outputs=outputs).filtered(lambda node: node in reachable)
            prepared = self._replayed[key] = graph, wanted
        graph, wanted = prepared
        filled = [
            new_tensor(self._zeros(k)) if ct is None else ct for k, ct in enumerate(cotangents)
        ]
        found = iter(_replay(graph, [*inputs, *filled], self.joint.stopped))
        return [next(found) if used else None for used in wanted]

    def reads(self, present: Sequence[bool], needed: Sequence[bool]) -> set[int]:
        """The inputs that the backward half reads for the gradients that are needed."""
        absent = frozenset(k for k, there in enumerate(present) if not there)
        graph, _ = self._with(self._backward_graph, absent)
        outputs = [node for node, used in zip(graph.outputs, needed, strict=True) if used]
        reachable = graph.reachable_from(outputs)
        residuals = zip(graph.inputs, self.order, strict=False)
        return {number for node, (is_input, number) in residuals if is_input and node in reachable}

    def visited(self, present: Sequence[bool], needed: Sequence[bool]) -> list[int]:
        """The steps that a backward would run, latest first."""
        steps, roots = self.joint.steps, self.joint.roots
        leads = [False] * len(steps)
        for number in reversed(range(len(steps))):
            leads[number] = any(needed[-1 - e] if e < 0 else leads[e] for e in steps[number].edges)
        reached = [False] * len(steps)
        for root, there in zip(roots, present, strict=True):
            reached[root] = reached[root] or there
        found = []
        for number, step in enumerate(steps):
            if reached[number] and leads[number]:
                found.append(number)
                for e in step.edges:
                    if e >= 0:
                        reached[e] = True
        return found


class _Half:
    """A compiled backward half.

    Attributes:
        there: for each gradient whether anything reaches it.
    """

    def __init__(self, executable: Executable, there: list[bool]) -> None:
        self.there = there
        self._executable = executable
        outputs = executable.program.graph.outputs
        self._types = [(node.shape, node.dtype.np) for node in outputs]
        self._entry = None
        if not getattr(executable, "arena_bytes", 1):
            self._entry = getattr(executable, "entry", None)

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray | None]:
        """The gradients."""
        results: list[np.ndarray] | None = None
        if self._entry is not None:
            results = [np.empty(shape, dtype) for shape, dtype in self._types]
            if self._entry(*arrays, *results):
                results = None  # It takes contiguous arrays only.
        if results is None:
            results = self._executable.run(arrays)
        assert results is not None
        return [array if known else None for array, known in zip(results, self.there, strict=True)]


def _inputs_read(graph: Graph) -> set[int]:
    reachable = graph.reachable_from(graph.outputs)
    return {number for number, node in enumerate(graph.inputs) if node in reachable}


def without(
    graph: Graph, cotangents: Sequence[Value], absent: set[Value]
) -> tuple[Graph, list[bool]]:
    """A backward graph in which some cotangents do not come in at all.

    What depends on none but absent cotangents is absent itself, whatever it is multiplied with, since eager
    execution never computes it: zero times infinity would be NaN.

    Args:
        graph: linear in its cotangents.
        cotangents: inputs of the graph.
        absent: some of these.

    Returns:
        The graph with the same inputs, and for each output whether it is there.
    """
    result = graph.replace(nodes=[], outputs=[])
    builder = GraphBuilder(result)
    carrying: set[Value] = set(cotangents)
    zeros: set[Value] = set(absent)
    replaced: dict[Value, Value] = {}

    def made(node: Value) -> Value:
        if node in zeros:
            return builder.full(node.shape, 0, node.dtype)
        return replaced.get(node, node)

    def spread(value: Value, node: Value) -> Value:
        """Pointwise ops broadcast their operands."""
        if value.shape == node.shape:
            return value
        dims = tuple(range(node.ndim - value.ndim, node.ndim))
        attrs = {"shape": node.shape, "dims": dims}
        return builder.emit(_BROADCAST, (value,), attrs, node.location)

    for node in graph.nodes:
        linear = [x for x in node.inputs if x in carrying]
        if not linear:
            result.nodes.append(node)
            continue
        carrying.add(node)
        inputs = node.inputs
        if all(x in zeros for x in linear):
            zeros.add(node)
        elif node.op is _ADD and inputs[0] in zeros:
            replaced[node] = spread(made(inputs[1]), node)
        elif node.op in (_ADD, _SUB) and inputs[1] in zeros:
            replaced[node] = spread(made(inputs[0]), node)
        elif node.op is _SUB and inputs[0] in zeros:
            negative = builder.emit(_NEG, (made(inputs[1]),), {}, node.location)
            replaced[node] = spread(negative, node)
        else:
            new = Value(
                node.op, tuple([made(x) for x in inputs]), node.attrs, node.type, node.location, node.scope,
                node.origin, node.hint,
            )  # fmt: skip
            result.nodes.append(new)
            replaced[node] = new
    there = [node not in zeros for node in graph.outputs]
    return result.replace(outputs=[made(node) for node in graph.outputs]), there


def _replay(graph: Graph, tensors: Sequence[Tensor], stopped: frozenset[Value]) -> list[Tensor]:
    """Run a graph op by op on Tensors, so that autograd (or a trace) records it."""
    values: dict[Value, Tensor] = dict(zip(graph.inputs, tensors, strict=True))
    for node in graph.nodes:
        if node.op is _CONST:
            out = new_tensor(constant_array(node.attrs["value"], node.type))
        else:
            out = apply(node.op, tuple(values[x] for x in node.inputs), node.attrs)
        values[node] = out.detach() if node in stopped else out
    return [values[node] for node in graph.outputs]


class CompiledBackward(Node):
    """The record of a compiled call: its adjoint is native code as well.

    Attributes:
        derivative: what to run.
        tensors: the input tensors; None after everything was released.
        residuals: arrays kept for the backward half.
        copies: what copied inputs held, by number.
        versions: of all input tensors when the call began.
        counters: by root, version counters of results that must not be changed, and their versions.
        freed: numbers of the steps that were released.
    """

    __slots__ = (
        "_last",
        "copies",
        "counters",
        "derivative",
        "freed",
        "outputs",
        "residuals",
        "tensors",
        "versions",
    )

    derivative: Derivative
    tensors: list[Tensor] | None
    residuals: list[np.ndarray] | None
    versions: Sequence[int]
    copies: dict[int, np.ndarray]
    counters: dict[int, tuple[Any, int]]
    freed: set[int] | None
    _last: tuple[list[bool], Sequence[bool]]

    def name(self) -> str:
        """That of the record of the result in eager execution, where there is one."""
        return self.derivative.joint.name if self.outputs == 1 else "CompiledBackward"

    def watch_result(self, root: int, tensor: Tensor) -> None:
        """A result that steps read again: it must not be changed in place before."""
        counter = tensor._version_counter()
        self.counters[root] = counter, counter.value

    def pull(self, ct: Any, needed: Sequence[bool], differentiable: bool) -> list[Any]:
        if self.tensors is None or self.residuals is None:
            raise RuntimeError(FREED_MESSAGE)
        cts = list(ct) if self.outputs != 1 else [ct]
        present = [c is not None for c in cts]
        self._last = present, needed
        if self.freed is not None or self._is_changed():
            self._check(present, needed)
        derivative = self.derivative
        if differentiable:
            return list(derivative.replay(self._inputs(), cts, needed))
        if state.exact is not derivative.joint.exact:
            seeds = [None if c is None else new_tensor(np.asarray(c)) for c in cts]
            found = derivative.replay(self._inputs(), seeds, needed)
            return [None if g is None else g._data for g in found]
        arrays = [None if c is None else np.asarray(c) for c in cts]
        gradients = derivative.run_backward(self.residuals, arrays)
        return [g if wanted else None for g, wanted in zip(gradients, needed, strict=True)]

    def _is_changed(self) -> bool:
        tensors, versions = self.tensors, self.versions
        assert tensors is not None
        for number, version in self.derivative.watched:
            if version_of(tensors[number]) - versions[number] != version:
                return True
        return any(counter.value != version for counter, version in self.counters.values())

    def _check(self, present: Sequence[bool], needed: Sequence[bool]) -> None:
        """Raise what the records of eager execution would raise."""
        tensors, versions = self.tensors, self.versions
        assert tensors is not None
        steps = self.derivative.joint.steps
        for number in self.derivative.visited(present, needed):
            step = steps[number]
            if self.freed is not None and number in self.freed and step.keeps:
                raise RuntimeError(FREED_MESSAGE)
            for saved in step.saved:
                self._check_saved(saved, step)
        read = self.derivative.reads(present, needed)
        for number, version in self.derivative.watched:
            # Eager execution would not read it here, but our code does.
            changed = version_of(tensors[number]) - versions[number] != version
            if changed and number in read and number not in self.copies:
                reader: Any = steps[0]
                raise modified_error(
                    tensors[number]._data,
                    None,
                    tensors[number]._version_counter(),
                    versions[number] + version,
                    reader,
                )

    def _check_saved(self, saved: Saved, step: Step) -> None:
        assert self.tensors is not None
        reader: Any = step
        origin: Any = saved.origin
        if saved.kind == "input":
            tensor = self.tensors[saved.number]
            expected = self.versions[saved.number] + saved.version
            if version_of(tensor) == expected:
                return
            if origin is None and saved.shape == tensor._data.shape:
                origin = tensor._grad_fn
            dtype, counter = tensor._data.dtype, tensor._version_counter()
        else:
            counter, expected = self.counters[saved.number]
            if counter.value == expected:
                return
            origin = origin or self
            dtype = self.derivative.type_of_root(saved.number).dtype.np
        shown = np.broadcast_to(np.zeros((), dtype), saved.shape)
        raise modified_error(shown, origin, counter, expected, reader)

    def _inputs(self) -> list[Tensor]:
        """The inputs as the call saw them."""
        assert self.tensors is not None
        inputs = list(self.tensors)
        for number in self.derivative.read:
            tensor = inputs[number]
            if number in self.copies and not tensor._requires_grad:
                inputs[number] = new_tensor(self.copies[number])
            elif version_of(tensor) != self.versions[number]:
                reader: Any = self.derivative.joint.steps[0]
                raise modified_error(
                    tensor._data,
                    tensor._grad_fn,
                    tensor._version_counter(),
                    self.versions[number],
                    reader,
                )
        return inputs

    def release(self) -> None:
        present, needed = self._last
        joint = self.derivative.joint
        keeping = [number for number, step in enumerate(joint.steps) if step.keeps]
        if not keeping:
            return
        if not (all(present) and all(map(or_, needed, map(not_, joint.reached)))):
            if self.freed is None:
                self.freed = set()
            self.freed.update(self.derivative.visited(present, needed))
            if not self.freed.issuperset(keeping):
                return
        self.residuals = None
        self.tensors = None


def new_record(
    derivative: Derivative,
    tensors: list[Tensor],
    edges: tuple[Any, ...],
    versions: Sequence[int],
    copies: dict[int, np.ndarray],
    residuals: list[np.ndarray],
) -> CompiledBackward:
    """The record of one call. Hot: does nothing but assign.

    Args:
        tensors: the inputs.
        edges: for each input that requires grad its record, or the leaf itself; None where not reached.
        versions: of the inputs when the call began; those that nobody asks for may be 0.
        copies: what copied inputs held, by number.
        residuals: in the order of the backward half.
    """
    node = _new(CompiledBackward)
    node.edges = edges
    node.numbers = None
    node.code = None
    node.instruction = -1
    node.sequence = next_sequence()
    node.composite = node.hooks = None
    node.derivative = derivative
    node.outputs = derivative.root_count
    node.tensors = tensors
    node.residuals = residuals
    node.versions = versions
    node.copies = copies
    node.counters = {}
    node.freed = None
    node._last = _NOTHING
    if derivative.has_non_leaves:
        node.numbers = tuple([tensors[number]._output_nr for number in derivative.joint.wrt])
    return node


_new: Any = object.__new__
_NOTHING: tuple[list[bool], Sequence[bool]] = [], ()


class Freed(Node):
    """The record of a result whose graph was consumed by a backward inside the compiled function.

    One is made per call where arguments are involved, so making it is lean: a new object gets its `_name`, its
    `inputs` and a `sequence`; whatever else a record has is filled in when somebody looks.
    """

    __slots__ = ("_name", "inputs")

    def __init__(self, name: str, inputs: Sequence[Tensor]) -> None:
        self._name = name
        self.inputs = inputs
        self.sequence = next_sequence()

    def __getattr__(self, name: str) -> Any:
        if name not in Node.__slots__:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        sequence = self.sequence
        edges = tuple([t if t._grad_fn is None else t._grad_fn for t in self.inputs])
        super().__init__(edges, None)
        self.numbers = tuple([t._output_nr for t in self.inputs])
        self.sequence = sequence
        return object.__getattribute__(self, name)

    def name(self) -> str:
        return self._name

    @property
    def next_functions(self) -> tuple[tuple[Node | None, int], ...]:
        return ()

    def pull(self, ct: Any, needed: Sequence[bool], differentiable: bool) -> list[Any]:
        raise RuntimeError(FREED_MESSAGE)
