"""A variant: a compiled function specialised to one kind of call.

It owns the executables made from a :class:`~tracegrad.plan.Plan`, decides whether it applies to a call, and runs
it: gathers the inputs' arrays, enters native code, and connects the results. A result that requires grad gets a
:class:`CompiledBackward` as its record, so that a compiled function can be differentiated from outside, any number
of times. Start reading at :meth:`Variant.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad import pytree
from tracegrad.dispatch import apply
from tracegrad.grad_mode import state
from tracegrad.guards import StateGuard
from tracegrad.ir.autodiff import append_adjoint
from tracegrad.ir.builder import GraphBuilder
from tracegrad.ir.graph import Graph
from tracegrad.ir.graph import Node as Value
from tracegrad.ir.op import registered
from tracegrad.ir.ops.source import constant_array
from tracegrad.ir.passes import optimize, partition
from tracegrad.ir.program import Executable, Program
from tracegrad.node import FREED_MESSAGE, Node, modified_error
from tracegrad.plan import Plan
from tracegrad.tensor import Tensor, new_tensor

_CONST = registered("const")


class Freed(Node):
    """The record of a result whose graph was consumed by a backward inside the compiled function."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        # An edge to nowhere in particular, so that the sweep asks for a cotangent and hears the error.
        super().__init__((new_tensor(np.zeros(())),), None)
        self._name = name

    def name(self) -> str:
        return self._name

    @property
    def next_functions(self) -> tuple[tuple[Node | None, int], ...]:
        return ()

    def pull(self, ct: Any, needed: Sequence[bool], differentiable: bool) -> list[Any]:
        raise RuntimeError(FREED_MESSAGE)


class Derivative:
    """The joint graph of a plan with respect to its inputs that require grad, and its two halves, compiled.

    Attributes:
        joint: inputs are those of the program, then the cotangents; outputs the gradients.
        wrt: input numbers.
        forward: the program with residuals as further results.
        backward: residuals and cotangents -> gradients; compiled when first needed.
    """

    def __init__(self, plan: Plan, compile_program: Any) -> None:
        program = plan.program
        graph = program.graph
        self.wrt = [
            number
            for number, source in enumerate(plan.sources)
            if source.requires_grad and graph.inputs[number].dtype.is_floating
        ]
        self.roots = plan.differentiable
        extended = graph.replace()
        builder = GraphBuilder(extended)
        cotangents = [
            builder.input(graph.outputs[number].type, f"ct{k}")
            for k, number in enumerate(self.roots)
        ]
        extended, gradients = append_adjoint(
            extended,
            [graph.outputs[number] for number in self.roots],
            [graph.inputs[number] for number in self.wrt],
            cotangents,
            plan.stopped,
        )
        builder = GraphBuilder(extended)
        self.reached = [gradient is not None for gradient in gradients]
        filled = [
            builder.full(graph.inputs[n].shape, 0, graph.inputs[n].dtype) if g is None else g
            for n, g in zip(self.wrt, gradients, strict=True)
        ]
        self.joint = extended.replace(name=graph.name + "_vjp", outputs=filled)
        self.stopped = plan.stopped
        both = optimize(extended.replace(outputs=[*graph.outputs, *filled]))
        cts = both.inputs[len(graph.inputs) :]
        halves = partition(both, len(graph.outputs), cts)
        self.residual_count = len(halves.residuals)
        # Residuals that are inputs are read from the inputs; only computed ones are further results.
        self._inputs_kept: list[int] = []
        self._order: list[tuple[bool, int]] = []
        positions = {node: i for i, node in enumerate(halves.forward.inputs)}
        computed: list[Value] = []
        for node in halves.residuals:
            if node in positions:
                self._order.append((True, positions[node]))
            else:
                self._order.append((False, len(computed)))
                computed.append(node)
        self.computed_count = len(computed)
        outputs = [*halves.forward.outputs[: len(graph.outputs)], *computed]
        self.forward_program = Program(
            halves.forward.replace(outputs=outputs), program.updates, program.guards
        )
        self.backward_graph = halves.backward
        self.forward: Executable = compile_program(self.forward_program)
        self._backward: Executable | None = None
        self._compile = compile_program

    def residuals(
        self, inputs: Sequence[np.ndarray], computed: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The arrays that `backward` takes, in order."""
        return [inputs[i] if is_input else computed[i] for is_input, i in self._order]

    @property
    def inputs_kept(self) -> list[int]:
        """Input numbers that the backward half reads again."""
        return [i for is_input, i in self._order if is_input]

    def run_backward(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The gradients from residuals and cotangents."""
        if self._backward is None:
            self._backward = self._compile(Program(self.backward_graph))
        results = self._backward.run(arrays)
        assert results is not None
        return results


class CompiledBackward(Node):
    """The record of a compiled call: its adjoint is native code as well.

    Attributes:
        derivative: what to run.
        tensors: the input tensors, for gradients that are to be differentiated themselves.
        residuals: arrays kept for the backward half; None after release.
        versions: of the inputs that the backward half reads.
    """

    __slots__ = ("derivative", "outputs", "residuals", "tensors", "versions")

    def __init__(
        self,
        derivative: Derivative,
        tensors: list[Tensor],
        residuals: list[np.ndarray],
    ) -> None:
        edges: list[Any] = []
        numbers: list[int] = []
        for number, reached in zip(derivative.wrt, derivative.reached, strict=True):
            tensor = tensors[number]
            edges.append((tensor._grad_fn or tensor) if reached else None)
            numbers.append(tensor._output_nr)
        super().__init__(tuple(edges), None)
        self.numbers = tuple(numbers)
        self.derivative = derivative
        self.outputs = len(derivative.roots)
        self.tensors: list[Tensor] | None = tensors
        self.residuals: list[np.ndarray] | None = residuals
        self.versions = [(tensors[i], tensors[i]._version) for i in derivative.inputs_kept]

    def pull(self, ct: Any, needed: Sequence[bool], differentiable: bool) -> list[Any]:
        if self.residuals is None or self.tensors is None:
            raise RuntimeError(FREED_MESSAGE)
        for tensor, version in self.versions:
            if tensor._version != version:
                assert tensor._counter is not None
                raise modified_error(tensor._data, tensor._grad_fn, tensor._counter, version, self)
        cts = ct if self.outputs != 1 else [ct]
        derivative = self.derivative
        types = [derivative.joint.inputs[len(self.tensors) + k].type for k in range(self.outputs)]
        if differentiable:
            seeds = [
                new_tensor(np.zeros(t.shape, t.dtype.np)) if c is None else c
                for c, t in zip(cts, types, strict=True)
            ]
            gradients: list[Any] = replay(
                derivative.joint, [*self.tensors, *seeds], derivative.stopped
            )
        else:
            arrays = [
                np.zeros(t.shape, t.dtype.np) if c is None else np.asarray(c)
                for c, t in zip(cts, types, strict=True)
            ]
            gradients = derivative.run_backward([*self.residuals, *arrays])
        return [g if wanted else None for g, wanted in zip(gradients, needed, strict=True)]

    def release(self) -> None:
        self.residuals = None
        self.tensors = None


def replay(graph: Graph, tensors: Sequence[Tensor], stopped: set[Value]) -> list[Tensor]:
    """Run a graph op by op on Tensors, so that autograd (or a trace) records it."""
    values: dict[Value, Tensor] = dict(zip(graph.inputs, tensors, strict=True))
    for node in graph.nodes:
        if node.op is _CONST:
            out = new_tensor(constant_array(node.attrs["value"], node.type))
        else:
            out = apply(node.op, tuple(values[x] for x in node.inputs), node.attrs)
        values[node] = out.detach() if node in stopped else out
    return [values[node] for node in graph.outputs]


class Variant:
    """One specialisation of a compiled function.

    Attributes:
        plan: what it computes and how it is connected.
        guard: the Python state that it depends on.
        executable: made by `compile_program`.
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
        self.grad_enabled = grad_enabled
        self.compile_program = compile_program
        self.optimized = optimize(plan.program.graph)
        self.derivative: Derivative | None = None
        if plan.differentiable and grad_enabled:
            self.derivative = Derivative(plan, compile_program)
            self.executable: Executable = self.derivative.forward
        else:
            self.executable = compile_program(plan.program.replace_graph(self.optimized))
        self._arguments = [
            (t._data.shape, t._data.dtype, t._requires_grad, t._grad_fn is None, type(t))
            for t in arguments
        ]
        self.pattern = alias_pattern(arguments)
        self._captured = {id(s.tensor) for s in plan.sources if s.kind == "capture"}
        # Arguments that the function can also reach by itself must be the same objects again.
        self.fixed = {i: t for i, t in enumerate(arguments) if id(t) in guard.tensors}
        self._freed: dict[str, Freed] = {}
        self.call: Callable[[tuple[Any, ...]], Any] | None = None

    def accepts(self, arguments: Sequence[Tensor]) -> bool:
        """Whether the tensors of a call are of this variant's kind. Python state is `guard`'s matter."""
        if state.grad is not self.grad_enabled or len(arguments) != len(self._arguments):
            return False
        for number, (tensor, known) in enumerate(zip(arguments, self._arguments, strict=True)):
            shape, dtype, requires_grad, is_leaf, cls = known
            data = tensor._data
            if (
                data.shape != shape
                or data.dtype != dtype
                or tensor._requires_grad is not requires_grad
                or (tensor._grad_fn is None) is not is_leaf
                or type(tensor) is not cls
                or id(tensor) in self._captured
                or tensor._hooks
                or tensor._post_hooks
                or self.fixed.get(number)
                is not (tensor if id(tensor) in self.guard.tensors else None)
            ):
                return False
        if alias_pattern(arguments) != self.pattern:
            return False
        for source, node in zip(self.plan.sources, self.plan.program.graph.inputs, strict=True):
            if source.kind == "capture":
                t = source.tensor
                if (
                    t._data.shape != node.shape
                    or t._data.dtype != node.dtype.np
                    or t._requires_grad is not source.requires_grad
                    or (t._grad_fn is None) is not source.is_leaf
                    or t._hooks
                    or t._post_hooks
                ):
                    return False
        return all(
            (owner.resolve(arguments)._grad is not None) is had
            for owner, had in self.plan.read_grads
        )

    def gather(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """The input tensors of this call, in graph order."""
        tensors = []
        for source in self.plan.sources:
            tensor = source.tensor if source.number < 0 else arguments[source.number]
            if source.kind == "grad":
                owner = arguments[source.number] if source.number >= 0 else source.tensor
                assert owner._grad is not None
                tensor = owner._grad
            tensors.append(tensor)
        return tensors

    def freed_record(self, name: str) -> Freed:
        """The record of a result whose graph is consumed; the same for all calls."""
        if name not in self._freed:
            self._freed[name] = Freed(name)
        return self._freed[name]

    def make_record(self, tensors: list[Tensor], computed: list[np.ndarray]) -> CompiledBackward:
        """The record of one call, from its input tensors and the residuals that it computed."""
        assert self.derivative is not None
        arrays = [t._data for t in tensors]
        return CompiledBackward(
            self.derivative, tensors, self.derivative.residuals(arrays, computed)
        )

    def run(self, arguments: Sequence[Tensor]) -> tuple[bool, Any]:
        """Run natively.

        Returns:
            (True, the function's result), or (False, None) where a guard on a value failed; then nothing
            was written.
        """
        plan = self.plan
        tensors = self.gather(arguments)
        arrays = [t._data for t in tensors]
        if plan.bumps and _overlaps(arrays, plan.bumps):
            return False, None
        kept = arrays
        if self.derivative is not None and plan.bumps:
            # The backward half reads what the inputs held before the update.
            kept = [a.copy() if i in plan.bumps else a for i, a in enumerate(arrays)]
        results = self.executable.run(arrays)
        if results is None:
            return False, None
        for number, steps in plan.bumps.items():
            tensors[number]._version_counter().value += steps
        new = [new_tensor(array) for array in results]
        record: CompiledBackward | None = None
        if self.derivative is not None:
            computed = results[len(results) - self.derivative.computed_count :]
            residuals = self.derivative.residuals(kept, computed)
            record = CompiledBackward(self.derivative, tensors, residuals)
        for owner, position in plan.grads:
            owner.resolve(arguments)._grad = None if position is None else new[position]
        leaves = []
        for leaf in plan.leaves:
            if leaf.kind == "new":
                tensor = new[leaf.number]
                if leaf.freed is not None:
                    tensor._grad_fn, tensor._requires_grad = self.freed_record(leaf.freed), True
                elif leaf.differentiable and record is not None:
                    assert self.derivative is not None
                    tensor._grad_fn, tensor._requires_grad = record, True
                    tensor._output_nr = self.derivative.roots.index(leaf.number)
                leaves.append(tensor)
            elif leaf.kind == "owner":
                leaves.append(leaf.value.resolve(arguments))
            elif leaf.kind == "grad":
                position = plan.grads[leaf.number][1]
                assert position is not None
                leaves.append(new[position])
            else:
                leaves.append(leaf.value)
        return True, pytree.unflatten(plan.spec, iter(leaves))


def alias_pattern(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """For each tensor the number of its first occurrence."""
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(t), i) for i, t in enumerate(tensors))


def _overlaps(arrays: Sequence[np.ndarray], updated: dict[int, int]) -> bool:
    """Whether an array that will be updated may share memory with another one."""
    return any(
        np.may_share_memory(arrays[i], other)
        for i in updated
        for j, other in enumerate(arrays)
        if i != j
    )
