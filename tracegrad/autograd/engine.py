"""``backward()``: one reverse sweep over the records that operations left behind.

The sweep itself is :func:`tracegrad.ir.autodiff.sweep`, the same that the compiler runs over graphs. Here is what
eager execution adds: which records take part, hooks, `grad` of leaves, freeing what was saved. Cotangents are
plain arrays; with ``create_graph=True``, or while a trace records, they are Tensors, and each rule's operations
are recorded like any others. Start with :func:`run`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tracegrad.autograd.anomaly import check_pulled
from tracegrad.dispatch import apply
from tracegrad.grad_mode import state
from tracegrad.inplace import apply_in_place
from tracegrad.ir import events
from tracegrad.ir.autodiff import sweep
from tracegrad.ir.batching import Batched
from tracegrad.ir.numpy_errors import restore, silence
from tracegrad.ir.op import registered
from tracegrad.node import Edge, Node
from tracegrad.reporting import accumulate_reported, pull_reported, report_record
from tracegrad.tensor import Tensor, new_tensor, set_grad

_ADD = registered("add")
_COPY = registered("copy")


def root_of(tensor: Tensor) -> tuple[Edge, int]:
    """Where the sweep starts for a tensor: its record, or itself if it is a leaf."""
    tensor._renew()
    return (tensor if tensor._grad_fn is None else tensor._grad_fn), tensor._output_nr


def run(
    roots: Sequence[Tensor],
    seeds: Sequence[Tensor],
    *,
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor] | None = None,
    accumulate: bool = True,
) -> list[Any]:
    """Sweep backwards from `roots`.

    Args:
        roots: tensors that require grad.
        seeds: their cotangents, of the same shapes.
        retain_graph: keep what the records saved.
        create_graph: record the sweep's own operations, so that it can be differentiated.
        inputs: compute only what these need; None means all leaves.
        accumulate: add into `grad` of the leaves (or of `inputs`); else return the cotangents of `inputs`.

    Returns:
        With ``accumulate=False`` per input its cotangent as a Tensor, or None where there is none.

    Linear in the number of records; no recursion. Complexity of the order: a sort by sequence number.
    """
    as_tensors = create_graph or state.trace is not None or bool(state.levels)
    check_nan = state.check_nan
    if check_nan and state.trace is not None:
        state.trace.give_up("anomaly detection is on")
    nodes = reachable([root_of(t)[0] for t in roots])
    wanted = None if inputs is None else _needed(nodes, [root_of(t) for t in inputs])
    captures: dict[tuple[Any, int], list[int]] = {}
    results: list[Any] = [None] * len(inputs or ())
    for position, tensor in enumerate(inputs or ()):
        captures.setdefault(root_of(tensor), []).append(position)

    cotangents: dict[Any, Any] = {}
    for tensor, seed in zip(roots, seeds, strict=True):
        edge, number = root_of(tensor)
        key = (edge, number) if isinstance(edge, Node) and edge.outputs != 1 else edge
        ct = seed if as_tensors else seed._data
        known = cotangents.get(key)
        cotangents[key] = ct if known is None else known + ct

    def in_order() -> Iterator[Node]:
        """The records, latest first; the cotangents of several outputs are collected into a list."""
        for node in nodes:
            if node.outputs != 1:
                found = [cotangents.pop((node, k), None) for k in range(node.outputs)]
                if any(ct is not None for ct in found):
                    cotangents[node] = found
            yield node

    def pull(node: Node, ct: Any) -> Iterator[tuple[Any, Any]]:
        begin = events.now() if events.active else 0
        if node.tensor_hooks is not None or node.retained is not None or captures:
            ct = _observe(node, ct, captures, results, as_tensors)
        needed = [
            edge is not None and (wanted is None or _key(edge, node, i) in wanted)
            for i, edge in enumerate(node.edges)
        ]
        if not any(needed):
            return
        if node.pre_hooks is not None:
            ct = _run_pre_hooks(node, ct)
        if state.trace is not None:
            state.trace.begin_adjoint(node)
        pulled = (
            pull_reported(node, ct, needed, as_tensors)
            if begin
            else node.pull(ct, needed, as_tensors)
        )
        if check_nan:
            check_pulled(node, pulled)
        if node.post_hooks is not None:
            pulled = _run_post_hooks(node, pulled, ct)
        if not retain_graph:
            node.release()
        if begin:
            report_record(node, begin)
        for i, contribution in enumerate(pulled):
            if contribution is not None:
                yield _key(node.edges[i], node, i), contribution

    previous = state.grad
    state.grad = create_graph
    token = silence()
    try:
        sweep(in_order(), cotangents, pull)
    finally:
        restore(token)
        state.grad = previous
        if state.trace is not None:
            state.trace.begin_adjoint(None)
    _finish(cotangents, captures, results, inputs, create_graph, accumulate)
    return results


def _key(edge: Edge, node: Node, index: int) -> Any:
    """Where the cotangent for an edge is gathered."""
    if isinstance(edge, Node) and edge.outputs != 1:
        return edge, (0 if node.numbers is None else node.numbers[index])
    return edge


def reachable(roots: Sequence[Edge]) -> list[Node]:
    """All records that lead to the roots, latest first."""
    seen: set[Node] = set()
    stack = [edge for edge in roots if isinstance(edge, Node)]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(e for e in node.edges if isinstance(e, Node) and e not in seen)
    return sorted(seen, key=lambda node: node.sequence, reverse=True)


def _needed(nodes: Sequence[Node], targets: Sequence[tuple[Edge, int]]) -> set[Any]:
    """The keys of edges from which one of the targets can be reached."""
    needed: set[Any] = set()
    for edge, number in targets:
        needed.add((edge, number) if isinstance(edge, Node) and edge.outputs != 1 else edge)
    for node in reversed(nodes):
        if any(
            _key(edge, node, i) in needed for i, edge in enumerate(node.edges) if edge is not None
        ):
            if node.outputs == 1:
                needed.add(node)
            else:
                needed.update((node, k) for k in range(node.outputs))
    return needed


def _to_tensor(ct: Any) -> Tensor:
    if isinstance(ct, Tensor):
        return ct
    data: Any = ct if ct.__class__ is Batched else np.asarray(ct)
    return new_tensor(data)


def _tell_trace() -> None:
    """Hooks are Python code in the middle of the backward pass: a trace cannot contain them."""
    if state.trace is not None:
        state.trace.give_up("a hook runs Python code during the backward pass")


def _run_hooks(hooks: dict[int, Any], ct: Any, as_tensors: bool) -> Any:
    """Run the hooks on one cotangent in the order in which they were registered."""
    _tell_trace()
    gradient = _to_tensor(ct)
    for hook in list(hooks.values()):
        replaced = hook(gradient)
        if replaced is not None:
            gradient = replaced
    return gradient if as_tensors else gradient._data


def _observe(
    node: Node, ct: Any, captures: dict[Any, list[int]], results: list[Any], as_tensors: bool
) -> Any:
    """Hooks, `retain_grad` and requested inputs, for the outputs of one record."""
    per_output = ct if node.outputs != 1 else [ct]
    for number, value in enumerate(per_output):
        if value is None:
            continue
        if node.tensor_hooks is not None and number in node.tensor_hooks:
            value = per_output[number] = _run_hooks(node.tensor_hooks[number], value, as_tensors)
        if node.retained is not None and number in node.retained:
            tensor = node.retained[number]()
            if tensor is not None:
                _accumulate(tensor, _to_tensor(value), state.grad)
        for position in captures.get((node, number), ()):
            results[position] = _to_tensor(value)
    return per_output if node.outputs != 1 else per_output[0]


def _run_pre_hooks(node: Node, ct: Any) -> Any:
    assert node.pre_hooks is not None
    _tell_trace()
    per_output = ct if node.outputs != 1 else [ct]
    as_tensors = any(isinstance(c, Tensor) for c in per_output)
    gradients = tuple(None if c is None else _to_tensor(c) for c in per_output)
    for hook in list(node.pre_hooks.values()):
        replaced = hook(gradients)
        if replaced is not None:
            gradients = replaced if isinstance(replaced, tuple) else (replaced,)
    back = [c if as_tensors or c is None else c._data for c in gradients]
    return back if node.outputs != 1 else back[0]


def _run_post_hooks(node: Node, pulled: list[Any], ct: Any) -> list[Any]:
    assert node.post_hooks is not None
    _tell_trace()
    per_output = ct if node.outputs != 1 else [ct]
    as_tensors = any(isinstance(c, Tensor) for c in per_output)
    outputs = tuple(None if c is None else _to_tensor(c) for c in per_output)
    gradients = tuple(None if c is None else _to_tensor(c) for c in pulled)
    for hook in list(node.post_hooks.values()):
        replaced = hook(gradients, outputs)
        if replaced is not None:
            gradients = replaced if isinstance(replaced, tuple) else (replaced,)
    return [c if as_tensors or c is None else c._data for c in gradients]


def _finish(
    cotangents: dict[Any, Any],
    captures: dict[tuple[Any, int], list[int]],
    results: list[Any],
    inputs: Sequence[Tensor] | None,
    create_graph: bool,
    accumulate: bool,
) -> None:
    """What is left after the sweep belongs to leaves: hooks, then `grad` or the list of results."""
    chosen = None if inputs is None else {id(t) for t in inputs}
    for leaf, ct in cotangents.items():
        if not isinstance(leaf, Tensor):
            continue
        if leaf._hooks:
            ct = _run_hooks(leaf._hooks, ct, isinstance(ct, Tensor))
        if not accumulate:
            for position in captures.get((leaf, 0), ()):
                results[position] = _to_tensor(ct)
        elif chosen is None or id(leaf) in chosen:
            if events.active:
                accumulate_reported(_accumulate, leaf, _to_tensor(ct), create_graph)
            else:
                _accumulate(leaf, _to_tensor(ct), create_graph)
            if leaf._post_hooks:
                _tell_trace()
                for hook in list(leaf._post_hooks.values()):
                    hook(leaf)
    if accumulate and inputs is not None:
        for tensor, ct in zip(inputs, results, strict=True):
            if ct is not None and tensor._grad_fn is not None:
                _accumulate(tensor, ct, create_graph)


def _accumulate(tensor: Tensor, ct: Tensor, create_graph: bool) -> None:
    """Add a cotangent into `grad`: in place, unless the sum is to be differentiated.

    A first gradient gets memory of its own: the cotangent's may be a broadcast view, or be shared with
    another operand's.
    """
    trace = state.trace
    known = tensor._grad if trace is None else trace.read_grad(tensor)
    if known is None:
        if create_graph:
            gradient = apply(_COPY, (ct,))
        else:
            gradient = new_tensor(np.array(ct._data, copy=True, order="C"))
            if trace is not None:
                trace.alias(gradient, ct)
        set_grad(tensor, gradient)
    elif create_graph:
        set_grad(tensor, apply(_ADD, (known, ct)))
    else:
        previous, state.grad = state.grad, False
        try:
            apply_in_place(_ADD, known, (known, ct))
        finally:
            state.grad = previous
