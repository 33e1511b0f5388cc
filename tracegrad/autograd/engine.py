"""``backward()``: one reverse sweep over the records that operations left behind.

The sweep itself is :func:`tracegrad.ir.autodiff.sweep`, the same that the compiler runs over graphs. Here is what
eager execution adds: which records take part, when a leaf is due, requested gradients, freeing what was saved.
Hooks are in :mod:`tracegrad.autograd.hooks`, what becomes of a leaf's `grad` in
:mod:`tracegrad.autograd.accumulation`. Cotangents are plain arrays; with ``create_graph=True``, or while a trace
records, they are Tensors, and each rule's operations are recorded like any others. Start with :func:`run`.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from sys import getrefcount
from typing import Any

from tracegrad.autograd.accumulation import (
    accumulate_hooked,
    accumulate_leaf,
    accumulate_retained,
    hand_over,
)
from tracegrad.autograd.anomaly import check_pulled, evaluating
from tracegrad.autograd.hooks import (
    run_post_hooks,
    run_pre_hooks,
    run_tensor_hooks,
    tell_trace,
    to_tensor,
)
from tracegrad.grad_mode import state
from tracegrad.ir import events
from tracegrad.ir.autodiff import sweep
from tracegrad.ir.numpy_errors import restore, silence
from tracegrad.node import AccumulateGrad, Edge, GradientEdge, Node
from tracegrad.reporting import pull_reported, report_record
from tracegrad.tensor import Tensor

MAX_NESTED = 40
"""So many backward passes may be nested in one thread; the next one gets a thread, hence a stack, of its own."""

_task_numbers = itertools.count()
_by_sequence = attrgetter("sequence")


class GraphTask:
    """A backward pass that is running, for those who ask from inside.

    Attributes:
        number: different for each backward pass.
        depth: in how many others it is nested, in this thread.
        nodes: the records that take part, latest first.
        leaves: for each leaf the last record that leads to it (None: it is a root).
        wanted: the keys of edges along which requested gradients are reached; None if all leaves are wanted.
    """

    __slots__ = ("depth", "leaves", "nodes", "number", "wanted")

    def __init__(self, roots: Sequence[Edge]) -> None:
        self.number = next(_task_numbers)
        self.depth = 0 if state.task is None else state.task.depth + 1
        self.nodes, self.leaves = reachable(roots)
        self.wanted: set[Any] | None = None

    def will_execute(self, node: Node) -> bool:
        """Whether a record (or the AccumulateGrad of a leaf) takes part."""
        edge = node.variable if isinstance(node, AccumulateGrad) else node
        if self.wanted is None:
            return edge in self.leaves or edge in self.nodes
        return edge in self.wanted


def root_of(root: Tensor | GradientEdge) -> tuple[Edge, int]:
    """Where the sweep starts for a tensor or edge: its record, or the leaf itself."""
    if isinstance(root, Tensor):
        root._renew()
        return (root if root._grad_fn is None else root._grad_fn), root._output_nr
    node = root.node
    return (node.variable, 0) if isinstance(node, AccumulateGrad) else (node, root.output_nr)


def run(
    roots: Sequence[Tensor | GradientEdge],
    seeds: Sequence[Tensor],
    *,
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor | GradientEdge] | None = None,
    accumulate: bool = True,
) -> list[Any]:
    """Sweep backwards from `roots`.

    Args:
        roots: tensors that require grad, or edges.
        seeds: their cotangents, of the same shapes.
        retain_graph: keep what the records saved.
        create_graph: record the sweep's own operations, so that it can be differentiated.
        inputs: compute only what these need; None means all leaves.
        accumulate: add into `grad` of the leaves (or of `inputs`); else return the cotangents of `inputs`.

    Returns:
        With ``accumulate=False`` per input its cotangent as a Tensor, or None where there is none.

    Linear in the number of records, but for their sort by sequence number; no recursion.
    """
    if state.task is not None and state.task.depth % MAX_NESTED == MAX_NESTED - 1:
        return _in_new_thread(
            lambda: _run(roots, seeds, retain_graph, create_graph, inputs, accumulate)
        )
    return _run(roots, seeds, retain_graph, create_graph, inputs, accumulate)


def _run(
    roots: Sequence[Tensor | GradientEdge],
    seeds: Sequence[Tensor],
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor | GradientEdge] | None,
    accumulate: bool,
) -> list[Any]:
    finder = state.finder
    as_tensors = create_graph or state.trace is not None or bool(state.levels) or finder is not None
    anomaly = state.anomaly
    if anomaly and state.trace is not None:
        state.trace.give_up("anomaly detection is on")
    edges = [root_of(t) for t in roots]
    task = GraphTask([edge for edge, _ in edges])
    captures: dict[tuple[Any, int], list[int]] = {}
    results: list[Any] = [None] * len(inputs or ())
    if inputs is not None:
        targets = [root_of(t) for t in inputs]
        task.wanted = _needed(task.nodes, targets)
        if accumulate:
            for tensor in inputs:
                if isinstance(tensor, Tensor):
                    tensor.retain_grad()
        else:
            for position, target in enumerate(targets):
                captures.setdefault(target, []).append(position)
    wanted = task.wanted

    cotangents: dict[Any, Any] = {}
    for (edge, number), seed in zip(edges, seeds, strict=True):
        key = _key(edge, number)
        ct = seed if as_tensors else seed._data
        known = cotangents.get(key)
        cotangents[key] = ct if known is None else known + ct

    def in_order() -> Iterator[Node]:
        """The records, latest first. Each leaf has its turn as soon as its cotangent is complete."""
        due: dict[Node | None, list[Tensor]] = {}
        for leaf, last in task.leaves.items():
            if wanted is None or leaf in wanted:
                due.setdefault(last, []).append(leaf)
        for last, leaves in due.items():
            if last is not None and len(leaves) > 1:
                rest = {id(leaf): leaf for leaf in leaves}
                due[last] = [rest.pop(id(edge)) for edge in last.edges if id(edge) in rest]
        for leaf in due.get(None, ()):
            end_at_leaf(leaf)
        for node in task.nodes:
            if node.outputs != 1:
                found = [cotangents.pop(_key(node, k), None) for k in range(node.outputs)]
                if any(ct is not None for ct in found):
                    cotangents[node] = found
            yield node
            if node in due:
                for leaf in due[node]:
                    end_at_leaf(leaf)

    def end_at_leaf(leaf: Tensor) -> None:
        ct = cotangents.pop(leaf, None)
        if leaf._hooks:
            tensor_hooks = leaf._hooks.tensor.get(0)
            if tensor_hooks:
                ct = run_tensor_hooks(tensor_hooks, ct, as_tensors)
            if accumulate:
                accumulate_hooked(leaf, None if ct is None else to_tensor(ct), create_graph)
                return
        if ct is None:
            return
        if accumulate:
            references = getrefcount(ct)
            if create_graph or not hand_over(leaf, ct, references):
                accumulate_leaf(leaf, to_tensor(ct), create_graph)
        else:
            for position in captures.get((leaf, 0), ()):
                results[position] = to_tensor(ct)

    def observe(node: Node, ct: Any) -> Any:
        """Hooks of tensors, `retain_grad` and requested gradients, for the outputs of one record."""
        per_output = ct if node.outputs != 1 else [ct]
        hooks = node.hooks
        for number in range(len(per_output)):
            if hooks is not None:
                if hooks.tensor.get(number):
                    per_output[number] = run_tensor_hooks(
                        hooks.tensor[number], per_output[number], as_tensors
                    )
                if number in hooks.retained and per_output[number] is not None:
                    tensor = hooks.retained[number]()
                    if tensor is not None:
                        accumulate_retained(tensor, to_tensor(per_output[number]))
            for position in captures.get((node, number), ()):
                if per_output[number] is not None:
                    results[position] = to_tensor(per_output[number])
        return per_output if node.outputs != 1 else per_output[0]

    special = bool(anomaly or finder is not None or state.trace is not None)
    captured = {edge for edge, _ in captures if isinstance(edge, Node)}

    def pull(node: Node, ct: Any) -> Iterable[tuple[Any, Any]]:
        edges = node.edges
        if wanted is None:
            needed = [edge is not None for edge in edges]
        else:
            needed = [
                edge is not None
                and (edge if node.numbers is None else _edge_key(node, i)) in wanted
                for i, edge in enumerate(edges)
            ]
        watched = special or ct is None or events.active
        if watched or node.hooks is not None or node in captured:
            pulled = pull_watched(node, ct, needed)
        elif True in needed:
            pulled = node.pull(ct, needed, as_tensors)
            if not retain_graph:
                node.release()
        else:
            return ()
        if node.numbers is None:
            return zip(edges, pulled, strict=False)
        return [(_edge_key(node, i), contribution) for i, contribution in enumerate(pulled)]

    def pull_watched(node: Node, ct: Any, needed: Sequence[bool]) -> Sequence[Any]:
        """The step for a record that has hooks, or while somebody looks on."""
        begin = events.now() if events.active else 0
        if ct is None and node.outputs != 1:
            ct = [None] * node.outputs
        hooks = node.hooks
        if hooks is not None or node in captured:
            ct = observe(node, ct)
        if True not in needed:
            return ()
        if hooks is not None and hooks.before:
            ct = run_pre_hooks(hooks.before, ct, node.outputs != 1, as_tensors)
        if state.trace is not None:
            state.trace.begin_adjoint(node)
        run_rule = functools.partial(pull_reported, node) if begin else node.pull
        if not node.pulls_nothing and _is_nothing(node, ct):
            pulled = [None] * len(node.edges)
        elif anomaly:
            with evaluating(node):
                pulled = run_rule(ct, needed, as_tensors)
                check_pulled(node, pulled)
        elif finder is not None:
            with evaluating(node):
                pulled = run_rule(ct, needed, as_tensors)
                finder.look_at_rule(node, ct if node.outputs != 1 else [ct], pulled)
        else:
            pulled = run_rule(ct, needed, as_tensors)
        if hooks is not None and hooks.after:
            seen = run_post_hooks(hooks.after, pulled, ct, node.outputs != 1, as_tensors)
            pulled = [x if want else None for x, want in zip(seen, needed, strict=True)]
        if not retain_graph:
            node.release()
        if begin:
            report_record(node, begin)
        return pulled

    def pulls_nothing(node: Node) -> bool:
        """Whether a record to which no cotangent came has something to do all the same, as in torch."""
        if not (node.pulls_nothing or node.hooks):
            return False
        return wanted is None or node in wanted

    outer, before = state.task, state.grad
    state.task = task
    state.grad = create_graph and state.inference is None
    token = silence()
    try:
        sweep(in_order(), cotangents, pull, pulls_nothing)
    finally:
        restore(token)
        state.grad = before
        state.task = outer
        if state.trace is not None:
            state.trace.begin_adjoint(None)
    return results


def _in_new_thread(function: Any) -> Any:
    """Run a function in another thread, in the same modes, and wait for it: its stack is empty.

    Custom functions may call `backward` in their own backward, to any depth; Python's stack is finite.
    """
    if state.trace is not None:
        tell_trace("deeply nested backward passes run in threads of their own")
    modes = dict(state.__dict__)
    outcome: list[Any] = []

    def work() -> None:
        state.adopt(modes)
        try:
            outcome.extend((function(), None))
        except BaseException as error:
            outcome.extend((None, error))

    thread = threading.Thread(target=work, name="nested backward")
    thread.start()
    thread.join()
    returned, error = outcome
    if error is not None:
        raise error
    return returned


def _is_nothing(node: Node, ct: Any) -> bool:
    return ct is None if node.outputs == 1 else all(c is None for c in ct)


def _key(edge: Edge, number: int) -> Any:
    """Where the cotangent of output `number` of an edge is gathered."""
    return (edge, number) if number else edge


def _edge_key(node: Node, index: int) -> Any:
    """Where the cotangent of operand `index` of a record is gathered; None if there is none."""
    return _key(node.edges[index], 0 if node.numbers is None else node.numbers[index])


def reachable(roots: Sequence[Edge]) -> tuple[list[Node], dict[Tensor, Node | None]]:
    """All records that lead to the roots, latest first; and for each leaf the earliest that leads to it."""
    seen: set[Node] = set()
    leaves: dict[Tensor, Node | None] = {}
    stack = []
    for edge in roots:
        if isinstance(edge, Node):
            stack.append(edge)
        else:
            leaves[edge] = None
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        for edge in node.edges:
            if edge is None:
                continue
            if isinstance(edge, Node):
                if edge not in seen:
                    stack.append(edge)
            else:
                last = leaves.get(edge)
                if last is None or node.sequence < last.sequence:
                    leaves[edge] = node
    return sorted(seen, key=_by_sequence, reverse=True), leaves


def _needed(nodes: Sequence[Node], targets: Sequence[tuple[Edge, int]]) -> set[Any]:
    """The keys of edges from which one of the targets can be reached."""
    needed = {_key(edge, number) for edge, number in targets}
    for node in reversed(nodes):
        for i, edge in enumerate(node.edges):
            if (edge if node.numbers is None else _edge_key(node, i)) in needed:
                needed.update([_key(node, k) for k in range(node.outputs)])
                break
    return needed
