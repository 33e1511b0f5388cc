"""What a finished trace amounts to: a program, and how its inputs and outputs are connected to tensors.

:func:`plan` looks at a trace, at what the function returned and at the state of the leaves, and decides the role
of every output: a new result, a new ``grad``, an update in place, a guard. What it cannot represent it refuses
with :class:`RefusedError`; the function then runs eagerly. The data structure is :class:`Plan`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from tracegrad import pytree
from tracegrad.derivative import (
    CannotDifferentiateError,
    Joint,
    differentiate,
    inner_records,
    reached_inputs,
)
from tracegrad.device import Device
from tracegrad.guards import StateGuard
from tracegrad.ir.graph import Graph
from tracegrad.ir.graph import Node as Value
from tracegrad.ir.location import SourceLocation
from tracegrad.ir.op import registered
from tracegrad.ir.program import Program
from tracegrad.ir.types import DType
from tracegrad.node import UNTRACKED, OpNode
from tracegrad.node import Node as Record
from tracegrad.random import default_generator
from tracegrad.size import Size
from tracegrad.tensor import Tensor, version_of
from tracegrad.traced_number import is_traced
from tracegrad.tracing import Guard, Source, Trace

_PROPERTIES = frozenset(
    "requires_grad is_leaf grad_fn shape size dtype ndim dim numel nelement is_floating_point stride is_contiguous "
    "contiguous itemsize element_size nbytes type is_cuda".split()
)
"""What code may read of a tensor without computing with it."""
_HISTORY = frozenset({"grad_fn", "next_functions", "output_nr", "retains_grad"})
_COUNTERS = frozenset({"_version", "_base", "_data", "_counter"})
_CONSTANT_RESULTS = (
    int,
    float,
    bool,
    str,
    bytes,
    complex,
    range,
    slice,
    type(...),
    DType,
    Device,
    np.generic,
)


class RefusedError(Exception):
    """A run cannot be compiled: why, and where."""

    def __init__(self, reason: str, location: SourceLocation | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.location = location


class Owner(NamedTuple):
    """A tensor from outside whose ``grad`` is assigned: argument number `number`, or `tensor` itself."""

    number: int
    tensor: Tensor

    def resolve(self, arguments: Any) -> Tensor:
        return self.tensor if self.number < 0 else arguments[self.number]


class ReadGrad(NamedTuple):
    """A leaf whose ``grad`` at the start of a call matters.

    Attributes:
        owner: the leaf.
        number: the input that the grad was; -1 if there was none.
        fixed: the grad, where the function can also reach it in another way; else None.
        layout: of the grad.
    """

    owner: Owner
    number: int
    fixed: Tensor | None
    layout: tuple[int, ...] | None


class Looked(NamedTuple):
    """A tensor that the function can reach, but only looked at: shape, dtype and flags are as they were."""

    tensor: Tensor
    shape: tuple[int, ...]
    dtype: np.dtype
    layout: tuple[int, ...] | None
    requires_grad: bool
    is_leaf: bool

    def holds(self) -> bool:
        """Whether it looks the same now."""
        tensor = self.tensor
        if tensor._base is not None:
            tensor._renew()
        data = tensor._data
        return (
            data.shape == self.shape
            and data.dtype == self.dtype
            and tensor._requires_grad is self.requires_grad
            and (tensor._grad_fn is None) is self.is_leaf
            and layout_of(data) == self.layout
        )


class Bump(NamedTuple):
    """In-place changes of a tensor: how many, and the user's line of the last one."""

    steps: int
    location: SourceLocation | None

    @property
    def untracked(self) -> bool:
        """Whether it is an inference tensor, whose changes are not counted."""
        return self.steps < 0


class Output(NamedTuple):
    """A new tensor.

    Attributes:
        order: the dimensions in the order in which they lie in memory; None for the usual one.
        expanded: its shape, where it repeats a smaller array without copies; else None.
        bump: how it was changed in place, after it was made.
    """

    order: tuple[int, ...] | None
    expanded: tuple[int, ...] | None
    bump: Bump

    def view(self, array: np.ndarray) -> np.ndarray:
        """What the tensor shows of the array that the program returns."""
        if self.order is not None:
            array = array.transpose(np.argsort(self.order))
        return array if self.expanded is None else np.broadcast_to(array, self.expanded)


class Leaf(NamedTuple):
    """One leaf of the returned value.

    Attributes:
        kind: ``"new"`` (output `number`), ``"owner"`` (a tensor from outside), ``"grad"`` (the tensor that
            became grads[number]), ``"python"`` (`value`), ``"number"`` (output `number`, as a Python number of
            the type `value`).
        freed: where a backward inside the function has consumed its graph, the name of its record and the
            inputs that this led to; else None.
        root: number of the result among those that a backward from outside may start at; -1 if it is none.
    """

    kind: str
    number: int
    value: Any = None
    freed: tuple[str, tuple[int, ...]] | None = None
    root: int = -1


class Plan(NamedTuple):
    """A program and its connections.

    Attributes:
        program: outputs are, in this order, new results and grads, then updates, then guards.
        sources: one per graph input.
        spec, leaves: the structure of the returned value.
        outputs: how the new results and grads look.
        grads: (owner, output number or None for "no grad").
        bumps: input number -> how its version changes; all inputs that are updated are among them.
        guards: what Python looked at.
        read_grads: leaves whose grad at the start the run depends on.
        looked: further tensors that the run may depend on.
        joint: the adjoint of results that require grad; None where there are none.
    """

    program: Program
    sources: list[Source]
    spec: Any
    leaves: list[Leaf]
    outputs: list[Output]
    grads: list[tuple[Owner, int | None]]
    bumps: dict[int, Bump]
    guards: list[Guard]
    read_grads: list[ReadGrad]
    looked: list[Looked]
    joint: Joint | None

    @property
    def root_outputs(self) -> list[int]:
        """Output numbers at which a backward from outside may start."""
        roots: dict[int, int] = {leaf.root: leaf.number for leaf in self.leaves if leaf.root >= 0}
        return [roots[k] for k in range(len(roots))]


class _Planner:
    """The state of :func:`plan`."""

    def __init__(
        self, trace: Trace, arguments: list[Tensor], guard: StateGuard, kept: set[int]
    ) -> None:
        self.trace = trace
        self.guard = guard
        self.kept = kept
        self.numbers = {id(tensor): i for i, tensor in reversed(list(enumerate(arguments)))}
        self.outside = {
            id(source.tensor) for source in trace.sources if source.kind in ("argument", "capture")
        }
        self.outside.update(self.numbers)
        self.values: list[Value] = []
        self.placed: dict[int, int] = {}
        self.tensors: list[Tensor] = []
        self.outputs: list[Output] = []
        self.roots: dict[int, int] = {}
        self.root_tensors: list[Tensor] = []

    def place(self, tensor: Tensor) -> int:
        """Make a new tensor an output; its number."""
        number = self.placed.get(id(tensor))
        if number is None:
            number = self.placed[id(tensor)] = len(self.values)
            value = self.trace.value_of(tensor)
            array, expanded = tensor._data, None
            if array.size and any(
                n > 1 and stride == 0 for n, stride in zip(array.shape, array.strides, strict=True)
            ):
                expanded = array.shape
                value, array = self.core(value, array)
            order = _memory_order(array)
            if order is not None:
                value = self.trace.builder.emit(registered("permute"), (value,), {"dims": order})
            self.values.append(value)
            self.tensors.append(tensor)
            bump = Bump(version_of(tensor), _last_change(tensor))
            self.outputs.append(Output(order, expanded, bump))
        return number

    def place_number(self, tensor: Tensor) -> int:
        """Make a Python number, of which the trace has this tensor, an output; the number of the output."""
        value = self.trace.value_of(tensor)
        self.values.append(self.trace.builder.emit(registered("copy"), (value,), {}))
        self.outputs.append(Output(None, None, Bump(0, None)))
        return len(self.values) - 1

    def core(self, value: Value, array: np.ndarray) -> tuple[Value, np.ndarray]:
        """Of an array that repeats itself, the part that is repeated."""
        limit = tuple(
            1 if n and stride == 0 else n
            for n, stride in zip(array.shape, array.strides, strict=True)
        )
        box = {"start": (0,) * array.ndim, "limit": limit, "stride": (1,) * array.ndim}
        part = array[tuple(slice(n) for n in limit)]
        return self.trace.builder.emit(registered("slice"), (value,), box), part

    def owner_of(self, tensor: Tensor) -> Owner:
        number = self.numbers.get(id(tensor), -1)
        if number < 0 and id(tensor) not in self.guard.tensors:
            raise RefusedError("it uses a tensor that it finds in a place that cannot be watched")
        return Owner(number, tensor)

    def entry_grad(self, source: Source) -> Tensor | None:
        return self.trace.entry_grads.get(id(source.tensor))

    def is_entry_grad(self, tensor: Tensor) -> bool:
        return any(s.kind == "grad" and self.entry_grad(s) is tensor for s in self.trace.sources)

    def grads(self) -> list[tuple[Owner, int | None]]:
        """What becomes of the grads that were assigned."""
        grads: list[tuple[Owner, int | None]] = []
        for tensor in self.trace.written_grads.values():
            if id(tensor) not in self.outside and self.trace.knows(tensor):
                continue  # Made inside; nobody outside can look at its grad but through the result.
            gradient = tensor._grad
            if gradient is None:
                grads.append((self.owner_of(tensor), None))
                continue
            if gradient._requires_grad:
                raise RefusedError("a grad that itself requires grad is left behind")
            entry = self.trace.entry_grads.get(id(tensor))
            if entry is gradient:
                continue  # The same tensor as before, at most updated in place.
            if (
                id(gradient) in self.outside
                or self.is_entry_grad(gradient)
                or not self.trace.knows(gradient)
            ):
                raise RefusedError("grad is set to a tensor from outside")
            if type(gradient) is not Tensor or gradient._attributes() or gradient._grad is not None:
                raise RefusedError("grad is set to a tensor with attributes")
            grads.append((self.owner_of(tensor), self.place(gradient)))
        return grads

    def leaf(self, leaf: Any, grad_position: dict[int, int]) -> Leaf:
        if is_traced(leaf):
            return Leaf("number", self.place_number(leaf.tensor), leaf.plain_type)
        if not isinstance(leaf, Tensor):
            if leaf is None or isinstance(leaf, _CONSTANT_RESULTS):
                return Leaf("python", -1, leaf)
            if type(leaf) is Size or isinstance(leaf, type) or id(leaf) in self.kept:
                return Leaf("python", -1, leaf)
            raise RefusedError(f"it returns a {type(leaf).__name__}")
        if id(leaf) in self.outside or not self.trace.knows(leaf):
            return Leaf("owner", -1, self.owner_of(leaf))
        if type(leaf) is not Tensor:
            raise RefusedError(f"it returns a new {type(leaf).__name__}")
        if id(leaf) in grad_position:
            return Leaf("grad", grad_position[id(leaf)])
        if self.is_entry_grad(leaf):
            raise RefusedError("it returns a grad from outside")
        leaf._renew()
        if leaf._grad_fn is None and leaf._requires_grad:
            raise RefusedError("it returns a new leaf that requires grad")
        if leaf._grad is not None or leaf._attributes():
            raise RefusedError("it returns a tensor with a grad, or with attributes")
        number = self.place(leaf)
        if leaf._grad_fn is None:
            return Leaf("new", number)
        if self.is_freed(leaf._grad_fn):
            reached = reached_inputs(self.trace, leaf._grad_fn)
            return Leaf("new", number, freed=(leaf._grad_fn.name(), reached))
        if id(leaf) not in self.roots:
            self.roots[id(leaf)] = len(self.root_tensors)
            self.root_tensors.append(leaf)
        return Leaf("new", number, root=self.roots[id(leaf)])

    def is_freed(self, record: Record) -> bool:
        """Whether a backward has consumed the graph below."""
        freed = alive = False
        for node in inner_records(self.trace, [record]):
            if isinstance(node, OpNode):
                freed = freed or node.saved is None
                alive = alive or bool(node.saved) or node.saved_out is not None
        if freed and alive:
            raise RefusedError("a part of the graph of a result was consumed by a backward")
        return freed

    def updates(self) -> tuple[dict[int, int], dict[int, Bump]]:
        """The inputs whose contents changed: output number -> input number; and how versions go up."""
        trace = self.trace
        updates: dict[int, int] = {}
        bumps: dict[int, Bump] = {}
        for number, source in enumerate(trace.sources):
            if source.kind in ("constant", "number"):
                continue
            tensor = source.tensor
            if source.kind == "grad":
                entry = self.entry_grad(source)
                assert entry is not None
                tensor = entry
            same_history = tensor._grad_fn is trace.entry_records.get(id(tensor))
            if not same_history or tensor._requires_grad != source.requires_grad:
                raise RefusedError("a tensor from outside is changed in place and gets a history")
            if tensor._hooks:
                raise RefusedError("a tensor from outside has hooks")
            value = trace.value_of(tensor)
            steps = version_of(tensor) - trace.entry_versions.get(id(tensor), 0)
            changed = value is not trace.builder.graph.inputs[number]
            if changed or steps:
                bumps[number] = Bump(steps, _last_change(tensor))
            if changed:
                if source.requires_grad and self.root_tensors:
                    raise RefusedError(
                        "a parameter is changed in place, and a result is differentiable"
                    )
                updates[len(self.values)] = number
                self.values.append(value)
        return updates, bumps

    def read_grads(self) -> list[ReadGrad]:
        """What the run assumes about the grads that were there before."""
        inputs: dict[int, int] = {}
        for number, source in enumerate(self.trace.sources):
            tensor = self.entry_grad(source) if source.kind == "grad" else source.tensor
            inputs.setdefault(id(tensor), number)
        found = []
        for key, entry in self.trace.entry_grads.items():
            owner = self.trace.tensor_of(key)
            if entry is None:
                if key in self.outside:
                    found.append(ReadGrad(self.owner_of(owner), -1, None, None))
                continue
            if entry._requires_grad:
                raise RefusedError("a grad requires grad itself")
            number = inputs[id(entry)]
            is_fixed = id(entry) in self.guard.tensors
            fixed = entry if is_fixed else None
            found.append(ReadGrad(self.owner_of(owner), number, fixed, layout_of(entry._data)))
        return found

    def looked(self) -> list[Looked]:
        """Tensors that are no inputs, but whose properties the code may have read."""
        if self.guard.names.isdisjoint(_PROPERTIES):
            return []
        found = []
        numbers = default_generator._key, default_generator._counter
        for tensor in self.guard.tensors.values():
            if id(tensor) not in self.outside and not any(tensor is t for t in numbers):
                tensor._renew()
                data, leaf = tensor._data, tensor._grad_fn is None
                layout = layout_of(data)
                found.append(
                    Looked(tensor, data.shape, data.dtype, layout, tensor._requires_grad, leaf)
                )
        return found

    def check_names(self) -> None:
        """Refuse code that reads what cannot be compared at each call."""
        if not self.guard.users_names.isdisjoint(_HISTORY):
            tensors = [*self.guard.tensors.values(), *(s.tensor for s in self.trace.sources)]
            if any(t._grad_fn is not None for t in tensors):
                raise RefusedError("it can read the history of a tensor from outside")
        if not self.guard.users_names.isdisjoint(_COUNTERS):
            raise RefusedError("it can read how often a tensor was changed")

    def outside_tensors(self) -> list[Tensor]:
        """The tensors that are inputs."""
        found = []
        for source in self.trace.sources:
            tensor = self.entry_grad(source) if source.kind == "grad" else source.tensor
            assert tensor is not None
            found.append(tensor)
        return found

    def outside_arrays(self) -> list[np.ndarray]:
        return [tensor._data for tensor in self.outside_tensors()]


def plan(
    trace: Trace,
    returned: Any,
    arguments: list[Tensor],
    guard: StateGuard,
    kept: Iterable[int],
) -> Plan:
    """Make a plan of a finished trace.

    Args:
        trace: not active any more.
        returned: what the function returned.
        arguments: the tensor arguments.
        guard: knows which tensors can be reached.
        kept: ids of objects that were there before the run.

    Raises:
        RefusedError: the run cannot be represented.
    """
    _check(trace)
    planner = _Planner(trace, arguments, guard, set(kept))
    for source in trace.sources:
        if source.kind == "capture" and id(source.tensor) not in guard.tensors:
            raise RefusedError("it uses a tensor that it finds in a place that cannot be watched")
    planner.check_names()
    grads = planner.grads()
    grad_position = {
        id(owner.resolve(arguments)._grad): i
        for i, (owner, number) in enumerate(grads)
        if number is not None
    }
    _refuse_shared_containers(returned, planner.kept)
    leaves, spec = pytree.flatten(returned)
    described = [planner.leaf(leaf, grad_position) for leaf in leaves]
    _refuse_shared_memory(planner)
    updates, bumps = planner.updates()
    guard_numbers = []
    for condition in trace.guards:
        guard_numbers.append(len(planner.values))
        planner.values.append(condition.value)
    _check(trace)
    graph: Graph = trace.builder.graph.replace(outputs=planner.values)
    if updates:
        _refuse_overlap(planner, set(updates.values()))
    read_grads = planner.read_grads()
    joint = None
    if planner.root_tensors:
        try:
            joint = differentiate(trace, planner.root_tensors)
        except CannotDifferentiateError as error:
            raise RefusedError(str(error)) from None
        graph = graph.replace(inputs=graph.inputs[: len(trace.sources)])
    return Plan(
        Program(graph, updates, frozenset(guard_numbers)),
        trace.sources, spec, described, planner.outputs, grads, bumps, trace.guards, read_grads,
        planner.looked(), joint,
    )  # fmt: skip


def _check(trace: Trace) -> None:
    if trace.failure is not None:
        raise RefusedError(*trace.failure)


def layout_of(array: np.ndarray) -> tuple[int, ...] | None:
    """The strides of an array; None where it is contiguous."""
    return None if array.flags.c_contiguous else array.strides


def _last_change(tensor: Tensor) -> SourceLocation | None:
    return None if tensor._counter is None else tensor._counter.location


def _memory_order(array: np.ndarray) -> tuple[int, ...] | None:
    """The order of dimensions in which a dense array lies in memory; None for C order or a sparse one."""
    if array.flags.c_contiguous or array.size < 2:
        return None
    order = tuple(sorted(range(array.ndim), key=lambda d: (-array.strides[d], d)))
    return order if array.transpose(order).flags.c_contiguous else None


def _refuse_shared_containers(returned: Any, kept: set[int]) -> None:
    """A returned container must be a new one, and stand in one place: its identity can be seen."""
    seen: set[int] = set()
    for container in pytree.containers(returned):
        if id(container) in kept:
            raise RefusedError("it returns a container from outside")
        if id(container) in seen:
            raise RefusedError("it returns one container twice")
        seen.add(id(container))


def _extent(array: np.ndarray) -> tuple[int, int]:
    """The first address of an array and the one after its last."""
    start = end = array.__array_interface__["data"][0]
    for extent, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            start += (extent - 1) * stride
        else:
            end += (extent - 1) * stride
    return start, end + array.itemsize


def _refuse_shared_memory(planner: _Planner) -> None:
    """New tensors that share memory with something that the caller can see are more than values."""
    counters = {id(t._counter) for t in planner.outside_tensors() if t._counter is not None}
    for tensor in planner.tensors:
        if tensor._counter is not None and tensor._counter is not UNTRACKED:
            if id(tensor._counter) in counters:
                raise RefusedError(
                    "a new tensor shares memory with another one that is seen outside"
                )
            counters.add(id(tensor._counter))
    extents = [(*_extent(t._data), True) for t in planner.tensors if t._data.size]
    extents += [(*_extent(array), False) for array in planner.outside_arrays() if array.size]
    extents.sort()
    last_new = last_old = 0
    for start, end, new in extents:
        if start < last_new or (new and start < last_old):
            raise RefusedError("a new tensor shares memory with another one that is seen outside")
        if new:
            last_new = max(last_new, end)
        else:
            last_old = max(last_old, end)


def _refuse_overlap(planner: _Planner, updated: set[int]) -> None:
    """An updated input must not share memory with another one."""
    arrays = planner.outside_arrays()
    for i in updated:
        for j, other in enumerate(arrays):
            if i != j and np.may_share_memory(arrays[i], other):
                raise RefusedError(
                    "a tensor that is changed in place shares memory with another one"
                )
