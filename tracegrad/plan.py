"""What a finished trace amounts to: a program, and how its inputs and outputs are connected to tensors.

:func:`plan` looks at a trace, at what the function returned and at the state of the leaves, and decides the role
of every output: a new result, a new ``grad``, an update in place, a guard. What it cannot represent it refuses
with :class:`RefusedError`; the function then runs eagerly. The data structure is :class:`Plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tracegrad import pytree
from tracegrad.ir.graph import Graph
from tracegrad.ir.graph import Node as Value
from tracegrad.ir.location import SourceLocation
from tracegrad.ir.program import Program
from tracegrad.node import Node as Record
from tracegrad.node import OpNode
from tracegrad.tensor import Tensor
from tracegrad.tracing import Guard, Source, Trace


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


class Leaf(NamedTuple):
    """One leaf of the returned value.

    Attributes:
        kind: ``"new"`` (output `number`), ``"owner"`` (a tensor from outside), ``"grad"`` (the tensor that
            became grads[number]), ``"python"`` (`value`).
        freed: name of the record whose graph a backward inside the function has consumed, or None.
        differentiable: whether a backward from outside leads into the program.
    """

    kind: str
    number: int
    value: Any = None
    freed: str | None = None
    differentiable: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A program and its connections.

    Attributes:
        program: outputs are, in this order, new results and grads, then updates, then guards.
        sources: one per graph input.
        spec, leaves: the structure of the returned value.
        grads: (owner, output number or None for "no grad").
        bumps: per update (input number, how often its version goes up).
        guards: what Python looked at.
        read_grads: (owner, whether it had a grad at the start).
        stopped: values that count as constants in derivatives.
    """

    program: Program
    sources: list[Source]
    spec: Any
    leaves: list[Leaf]
    grads: list[tuple[Owner, int | None]]
    bumps: dict[int, int]
    guards: list[Guard]
    read_grads: list[tuple[Owner, bool]]
    stopped: set[Value]

    @property
    def differentiable(self) -> list[int]:
        """Output numbers through which a backward from outside may come."""
        return [leaf.number for leaf in self.leaves if leaf.differentiable]


def plan(trace: Trace, returned: Any, arguments: list[Tensor], versions: dict[int, int]) -> Plan:
    """Make a plan of a finished trace.

    Args:
        trace: not active any more.
        returned: what the function returned.
        arguments: the tensor arguments.
        versions: versions of inputs at the start, by id of the tensor; 0 where missing.

    Raises:
        RefusedError: the run cannot be represented.
    """
    _check(trace)
    numbers = {id(tensor): i for i, tensor in reversed(list(enumerate(arguments)))}
    outside = {
        id(source.tensor) for source in trace.sources if source.kind in ("argument", "capture")
    }
    outside.update(numbers)
    outputs: list[Value] = []
    placed: dict[int, int] = {}

    def place(tensor: Tensor) -> int:
        if id(tensor) not in placed:
            placed[id(tensor)] = len(outputs)
            outputs.append(trace.value_of(tensor))
        return placed[id(tensor)]

    def owner_of(tensor: Tensor) -> Owner:
        return Owner(numbers.get(id(tensor), -1), tensor)

    grads: list[tuple[Owner, int | None]] = []
    grad_position: dict[int, int] = {}
    for tensor in trace.written_grads.values():
        if id(tensor) not in outside and trace.knows(tensor):
            continue  # Made inside; nobody outside can look at its grad but through the result.
        gradient = tensor._grad
        if gradient is None:
            grads.append((owner_of(tensor), None))
            continue
        if gradient._requires_grad:
            raise RefusedError("a grad that itself requires grad is left behind")
        if any(
            source.kind == "grad" and _entry_grad(trace, source) is gradient
            for source in trace.sources
        ):
            continue  # The same tensor as before, at most updated in place.
        if id(gradient) in outside:
            raise RefusedError("grad is set to a tensor from outside")
        grad_position[id(gradient)] = len(grads)
        grads.append((owner_of(tensor), place(gradient)))

    leaves, spec = pytree.flatten(returned)
    described = [_leaf(trace, leaf, outside, owner_of, grad_position, place) for leaf in leaves]
    _refuse_shared_storage([x for x in leaves if isinstance(x, Tensor)], outside)

    updates, bumps = _updates(trace, outputs, versions)
    guard_numbers = []
    for guard in trace.guards:
        guard_numbers.append(len(outputs))
        outputs.append(guard.value)
    _check(trace)
    graph: Graph = trace.builder.graph.replace(outputs=outputs)
    read_grads = [
        (owner_of(_tensor_of(trace, key)), entry is not None)
        for key, entry in trace.entry_grads.items()
    ]
    return Plan(
        Program(graph, updates, frozenset(guard_numbers)),
        trace.sources, spec, described, grads, bumps, trace.guards, read_grads, trace.stopped,
    )  # fmt: skip


def _check(trace: Trace) -> None:
    if trace.failure is not None:
        raise RefusedError(*trace.failure)


def _tensor_of(trace: Trace, key: int) -> Tensor:
    return trace._known[key].tensor


def _entry_grad(trace: Trace, source: Source) -> Tensor | None:
    return trace.entry_grads.get(id(source.tensor))


def _leaf(
    trace: Trace,
    leaf: Any,
    outside: set[int],
    owner_of: Any,
    grad_position: dict[int, int],
    place: Any,
) -> Leaf:
    if not isinstance(leaf, Tensor):
        if leaf is None or isinstance(leaf, (int, float, bool, str)):
            return Leaf("python", -1, leaf)
        raise RefusedError(f"it returns a {type(leaf).__name__}")
    if type(leaf) is not Tensor and id(leaf) not in outside:
        raise RefusedError(f"it returns a new {type(leaf).__name__}")
    if id(leaf) in outside or not trace.knows(leaf):
        return Leaf("owner", -1, owner_of(leaf))
    if id(leaf) in grad_position:
        return Leaf("grad", grad_position[id(leaf)])
    if any(
        source.kind == "grad" and _entry_grad(trace, source) is leaf for source in trace.sources
    ):
        raise RefusedError("it returns a grad from outside")
    if leaf._grad_fn is None and leaf._requires_grad:
        raise RefusedError("it returns a new leaf that requires grad")
    if leaf._grad is not None:
        raise RefusedError("it returns a tensor with a grad")
    number = place(leaf)
    if not leaf._requires_grad:
        return Leaf("new", number)
    assert leaf._grad_fn is not None
    if leaf._grad_fn.tensor_hooks or leaf._grad_fn.retained:
        raise RefusedError("it returns a tensor with hooks")
    if _is_freed(leaf._grad_fn):
        return Leaf("new", number, freed=leaf._grad_fn.name())
    return Leaf("new", number, differentiable=True)


def _is_freed(record: Record) -> bool:
    """Whether a backward has consumed part of the graph below."""
    seen: set[Record] = set()
    stack = [record]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, OpNode) and node.saved is None:
            return True
        stack.extend(edge for edge in node.edges if isinstance(edge, Record))
    return False


def _refuse_shared_storage(tensors: list[Tensor], outside: set[int]) -> None:
    """Results that share storage with something that the caller can see are more than values."""
    bases: dict[int, Tensor] = {}
    for tensor in tensors:
        if id(tensor) in outside:
            continue
        if tensor._base is not None and id(tensor._base) in outside:
            raise RefusedError("it returns a view of a tensor from outside")
        array = tensor._data
        key = id(array if array.base is None else array.base)
        known = bases.setdefault(key, tensor)
        if known is not tensor and np.shares_memory(known._data, array):
            raise RefusedError("two of the returned tensors share storage")


def _updates(
    trace: Trace, outputs: list[Value], versions: dict[int, int]
) -> tuple[dict[int, int], dict[int, int]]:
    """The inputs whose contents changed: output number -> input number, and version steps."""
    updates: dict[int, int] = {}
    bumps: dict[int, int] = {}
    for number, source in enumerate(trace.sources):
        if source.kind == "constant":
            continue
        tensor = source.tensor
        if source.kind == "grad":
            entry = _entry_grad(trace, source)
            assert entry is not None
            tensor = entry
        if (
            tensor._grad_fn is None
        ) != source.is_leaf or tensor._requires_grad != source.requires_grad:
            raise RefusedError("a tensor from outside is changed in place and gets a history")
        value = trace.value_of(tensor)
        _check(trace)
        if value is not trace.builder.graph.inputs[number]:
            updates[len(outputs)] = number
            outputs.append(value)
            bumps[number] = tensor._version - versions.get(id(tensor), 0)
    if updates:
        _refuse_overlap(trace, set(updates.values()))
    return updates, bumps


def _refuse_overlap(trace: Trace, updated: set[int]) -> None:
    """An updated input must not share memory with another one."""
    arrays = []
    for source in trace.sources:
        tensor = _entry_grad(trace, source) if source.kind == "grad" else source.tensor
        assert tensor is not None
        arrays.append(tensor._data)
    for i in updated:
        for j, other in enumerate(arrays):
            if i != j and np.may_share_memory(arrays[i], other):
                raise RefusedError(
                    "a tensor that is changed in place shares memory with another one"
                )
