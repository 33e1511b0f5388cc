"""A variant: a compiled function specialised to one kind of call.

It owns the executables made from a :class:`~tracegrad.plan.Plan`, decides whether it applies to a call, and runs
it: gathers the inputs' arrays, enters native code, and connects the results. A result that requires grad gets a
:class:`~tracegrad.derivative.CompiledBackward` as its record. Start reading at :meth:`Variant.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad import pytree
from tracegrad.derivative import CompiledBackward, Derivative, Freed, new_record
from tracegrad.grad_mode import state
from tracegrad.guards import StateGuard
from tracegrad.ir.passes import optimize
from tracegrad.ir.program import Executable
from tracegrad.node import UNTRACKED, hooks_added
from tracegrad.plan import Bump, Plan, layout_of
from tracegrad.tensor import Tensor, default_float, new_tensor, version_of
from tracegrad.traced_number import LARGEST_INPUT


class Variant:
    """One specialisation of a compiled function.

    Attributes:
        plan: what it computes and how it is connected.
        guard: the Python state that it depends on.
        modes: grad mode and default dtype, which it depends on as well.
        derivative: for results that require grad; None where there are none.
        executable: what runs.
        fixed: arguments that the function can also reach by itself, which must be the same objects again.
        attributes: names of attributes that no tensor argument may have, since the code may read them.
        known_hooks: how many hooks had been registered when `accepts` was last asked.
        call: the fast way to call it, see :mod:`tracegrad.fastcall`; None where there is none.
    """

    def __init__(
        self,
        plan: Plan,
        guard: StateGuard,
        arguments: list[Tensor],
        grad_enabled: bool,
        compile_program: Any,
    ) -> None:
        self.plan = plan
        self.guard = guard
        self.modes = grad_enabled, default_float()
        self.derivative: Derivative | None = None
        if plan.joint is not None:
            self.derivative = Derivative(
                plan.joint,
                plan.program,
                plan.root_outputs,
                plan.bumps,
                any(s.requires_grad and not s.is_leaf for s in plan.sources),
                compile_program,
            )
            self.executable: Executable = self.derivative.executable
        else:
            graph = optimize(plan.program.graph)
            self.executable = compile_program(plan.program.replace_graph(graph))
        self._arguments = [
            (t._data.shape, t._data.dtype, t._requires_grad, t._grad_fn is None, type(t))
            for t in arguments
        ]
        # Python may have looked at strides, and whether `view` works depends on them.
        self._layouts = [layout_of(t._data) for t in arguments]
        self._captured_layouts = [
            layout_of(s.tensor._data) if s.kind == "capture" else None for s in plan.sources
        ]
        self.contiguous = not any(
            [*self._layouts, *self._captured_layouts, *(read.layout for read in plan.read_grads)]
        )
        self.pattern = alias_pattern(arguments)
        self.counted = tuple(counter_pattern(arguments)) if plan.bumps else ()
        self.captured = {id(s.tensor) for s in plan.sources if s.kind == "capture"}
        self.fixed = {i: t for i, t in enumerate(arguments) if id(t) in guard.tensors}
        self.attributes = sorted(guard.names - _tensor_names()) if guard.probes else []
        self._freed: dict[Any, Freed] = {}
        self.known_hooks = [hooks_added[0]]
        self.call: Callable[..., Any] | None = None

    def accepts(self, arguments: Sequence[Tensor]) -> bool:
        """Whether the tensors of a call are of this variant's kind. Python state is `guard`'s matter."""
        if self.modes != (state.grad, default_float()) or len(arguments) != len(self._arguments):
            return False
        for number, (tensor, known) in enumerate(zip(arguments, self._arguments, strict=True)):
            shape, dtype, requires_grad, is_leaf, cls = known
            if tensor._base is not None:
                tensor._renew()
            data = tensor._data
            if (
                data.shape != shape
                or data.dtype != dtype
                or tensor._requires_grad is not requires_grad
                or (tensor._grad_fn is None) is not is_leaf
                or type(tensor) is not cls
                or id(tensor) in self.captured
                or tensor._hooks
                or self.fixed.get(number)
                is not (tensor if id(tensor) in self.guard.tensors else None)
                or any(name in tensor.__dict__ for name in self.attributes)
            ):
                return False
        if [layout_of(t._data) for t in arguments] != self._layouts:
            return False
        if alias_pattern(arguments) != self.pattern:
            return False
        if self.counted and tuple(counter_pattern(arguments)) != self.counted:
            return False
        nodes = self.plan.program.graph.inputs
        for source, node, layout in zip(
            self.plan.sources, nodes, self._captured_layouts, strict=True
        ):
            if source.kind == "capture":
                t = source.tensor
                if t._base is not None:
                    t._renew()
                if (
                    t._data.shape != node.shape
                    or t._data.dtype != node.dtype.np
                    or layout_of(t._data) != layout
                    or t._requires_grad is not source.requires_grad
                    or (t._grad_fn is None) is not source.is_leaf
                    or t._hooks
                ):
                    return False
        for owner, number, fixed, layout in self.plan.read_grads:
            gradient = owner.resolve(arguments)._grad
            if number < 0 or gradient is None:
                if number >= 0 or gradient is not None:
                    return False
            elif (
                gradient._requires_grad
                or gradient is not (self._input(number, arguments) if fixed is None else fixed)
                or layout_of(gradient._data) != layout
            ):
                return False
        return all(looked.holds() for looked in self.plan.looked)

    def _input(self, number: int, arguments: Sequence[Tensor]) -> Tensor | None:
        """The tensor that an input is read from."""
        source = self.plan.sources[number]
        tensor = source.tensor if source.number < 0 else arguments[source.number]
        return tensor._grad if source.kind == "grad" else tensor

    def gather(self, arguments: Sequence[Tensor], leaves: Sequence[Any]) -> list[Tensor] | None:
        """The input tensors of this call, in graph order; None if a number is one of another kind now."""
        tensors = []
        for source in self.plan.sources:
            place = source.place
            if place is not None:
                value = leaves[place] if isinstance(place, int) else place.read()
                number = tensor_of_number(value, source.number_type)
                if number is None:
                    return None
                tensors.append(number)
                continue
            tensor = source.tensor if source.number < 0 else arguments[source.number]
            if source.kind == "grad":
                assert tensor._grad is not None
                tensor = tensor._grad
            tensors.append(tensor)
        return tensors

    def freed_record(
        self, freed: tuple[str, tuple[int, ...]], arguments: Sequence[Tensor]
    ) -> Freed:
        """The record of a result whose graph is consumed."""
        name, numbers = freed
        sources = [self.plan.sources[number] for number in numbers]
        if any(source.number >= 0 or source.kind == "grad" for source in sources):
            return Freed(name, [t for n in numbers if (t := self._input(n, arguments)) is not None])
        if freed not in self._freed:
            self._freed[freed] = Freed(name, [source.tensor for source in sources])
        return self._freed[freed]

    def make_record(
        self, tensors: list[Tensor], computed: Sequence[np.ndarray], copies: dict[int, np.ndarray]
    ) -> CompiledBackward:
        """The record of one call, after it: from its input tensors and the residuals that it computed."""
        derivative = self.derivative
        assert derivative is not None
        joint = derivative.joint
        edges = [
            (tensors[number]._grad_fn or tensors[number]) if reached else None
            for number, reached in zip(joint.wrt, joint.reached, strict=True)
        ]
        versions = [version_of(t) for t in tensors]
        for number, bump in self.plan.bumps.items():
            versions[number] -= bump.steps
        residuals = derivative.residuals([t._data for t in tensors], computed, copies)
        return new_record(derivative, tensors, tuple(edges), versions, copies, residuals)

    def run(self, arguments: Sequence[Tensor], leaves: Sequence[Any]) -> tuple[bool, Any]:
        """Run natively.

        Args:
            arguments: those that are tensors.
            leaves: all of them, without the containers.

        Returns:
            (True, the function's result), or (False, None) where a guard on a value failed; then nothing
            was written.

        Raises:
            Whatever the executable raises; nothing was written then.
        """
        plan, derivative = self.plan, self.derivative
        tensors = self.gather(arguments, leaves)
        if tensors is None:
            return False, None
        arrays = [t._data for t in tensors]
        if plan.bumps and not _may_update(arrays, plan.bumps):
            return False, None
        copies = {} if derivative is None else {i: arrays[i].copy() for i in derivative.copied}
        results = self.executable.run(arrays)
        if results is None:
            return False, None
        for number, bump in plan.bumps.items():
            if bump.steps:
                _count(tensors[number], bump)
        new = []
        for array, output in zip(results, plan.outputs, strict=False):
            tensor = new_tensor(output.view(array))
            if output.bump.untracked:
                tensor._counter = UNTRACKED
            elif output.bump.steps:
                _count(tensor, output.bump)
            new.append(tensor)
        record: CompiledBackward | None = None
        if derivative is not None:
            computed = results[len(results) - derivative.computed_count :]
            record = self.make_record(tensors, computed, copies)
            for root in derivative.watched_outputs:
                record.watch_result(root, new[derivative.outputs[root]])
        for owner, position in plan.grads:
            owner.resolve(arguments)._grad = None if position is None else new[position]
        described = []
        for leaf in plan.leaves:
            if leaf.kind == "new":
                tensor = new[leaf.number]
                if leaf.freed is not None:
                    tensor._grad_fn, tensor._requires_grad = (
                        self.freed_record(leaf.freed, arguments),
                        True,
                    )
                elif leaf.root >= 0:
                    tensor._grad_fn, tensor._requires_grad = record, True
                    if leaf.root:
                        tensor._output_nr = leaf.root
                described.append(tensor)
            elif leaf.kind == "owner":
                described.append(leaf.value.resolve(arguments))
            elif leaf.kind == "grad":
                position = plan.grads[leaf.number][1]
                assert position is not None
                described.append(new[position])
            elif leaf.kind == "number":
                described.append(leaf.value(results[leaf.number]))
            else:
                described.append(leaf.value)
        return True, pytree.unflatten(plan.spec, iter(described))


def tensor_of_number(value: Any, number_type: type) -> Tensor | None:
    """A Python number as an input: a 0-d float64 tensor of this call. None if it is not of this type, or too large."""
    if type(value) is not number_type or (
        type(value) is int and not -LARGEST_INPUT <= value <= LARGEST_INPUT
    ):
        return None
    return new_tensor(np.array(value, np.float64))


def _count(tensor: Tensor, bump: Bump) -> None:
    """Count in-place changes."""
    counter = tensor._version_counter()
    counter.value += bump.steps
    counter.location = bump.location


def alias_pattern(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """For each tensor the number of its first occurrence."""
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(t), i) for i, t in enumerate(tensors))


def counter_pattern(tensors: Sequence[Tensor]) -> list[int]:
    """For each tensor the number of the first that counts versions with it."""
    first: dict[int, int] = {}
    return [
        first.setdefault(id(t if t._counter in (None, UNTRACKED) else t._counter), i)
        for i, t in enumerate(tensors)
    ]


def _tensor_names() -> frozenset[str]:
    return frozenset(dir(Tensor))


def _may_update(arrays: Sequence[np.ndarray], updated: dict[int, Bump]) -> bool:
    """Whether the arrays that will be updated are writeable and share no memory with others."""
    return all(arrays[i].flags.writeable for i in updated) and not any(
        np.may_share_memory(arrays[i], other)
        for i in updated
        for j, other in enumerate(arrays)
        if i != j
    )
