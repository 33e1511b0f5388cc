"""Many backward sweeps at once: cotangents in stacks, one sweep for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.autograd import engine
from tracegrad.grad_mode import state
from tracegrad.ir.batching import Batched
from tracegrad.levels import BatchLevel
from tracegrad.node import GradientEdge, OpNode
from tracegrad.ops.creation import eye
from tracegrad.ops.shaping import cat
from tracegrad.tensor import Tensor, new_tensor


def only_ops(outputs: Sequence[Tensor | GradientEdge]) -> bool:
    """Whether nothing but ops led to these tensors: no hooks, and no functions of the user's own."""
    nodes, leaves = engine.reachable([engine.root_of(out)[0] for out in outputs])
    return all(isinstance(node, OpNode) and not node.hooks for node in nodes) and not any(
        leaf._hooks for leaf in leaves
    )


def batched_gradients(
    outputs: Sequence[Tensor | GradientEdge],
    inputs: Sequence[Tensor | GradientEdge],
    cotangents: Sequence[Tensor],
    *,
    retain_graph: bool,
    create_graph: bool,
    plain: bool | None = None,
) -> list[Tensor | None]:
    """The gradients for each of a stack of cotangents.

    Args:
        outputs: tensors that require grad, or edges.
        inputs: differentiate with respect to these.
        cotangents: for each output a stack of cotangents, along an axis in front.
        retain_graph, create_graph: as for ``autograd.grad``.
        plain: what `only_ops` says of the outputs, where it was asked.

    Returns:
        For each input the stack of its gradients, None where no output depends on it.
    """
    if plain is None:
        plain = not create_graph and not state.watched and only_ops(outputs)
    if plain and not create_graph and not state.watched:
        # Nobody looks on: the sweep is over arrays.
        seeds: list[Any] = [new_tensor(_stack(ct._data)) for ct in cotangents]
        found = engine.run(
            outputs,
            seeds,
            retain_graph=retain_graph,
            create_graph=False,
            inputs=inputs,
            accumulate=False,
        )
        several = len(inputs) > 1  # They may have one gradient between them, or parts of it.
        return [None if ct is None else _unstacked(ct._data, own=several) for ct in found]
    with BatchLevel(cotangents[0].shape[0]) as level:
        seeds = [level.wrap(ct, batched=True) for ct in cotangents]
        found = engine.run(
            outputs,
            seeds,
            retain_graph=retain_graph,
            create_graph=create_graph,
            inputs=inputs,
            accumulate=False,
        )
        return [None if ct is None else level.stacked(ct) for ct in found]


def basis(tensors: Sequence[Tensor]) -> list[Tensor]:
    """For each tensor the stack of its parts of the standard basis vectors of all tensors together."""
    total = sum(x.numel() for x in tensors)
    found = []
    start = 0
    for x in tensors:
        count = x.numel()
        rows = eye(count, dtype=x.dtype)
        if total != count:
            after = total - start - count
            rows = cat([rows.new_zeros((start, count)), rows, rows.new_zeros((after, count))], 0)
        found.append(rows.reshape(total, *x.shape))
        start += count
    return found


def _stack(array: np.ndarray) -> Any:
    return Batched(array)


def _unstacked(value: Any, *, own: bool) -> Tensor:
    """The stack as a Tensor that can be written to; in memory of its `own` if that is asked for."""
    assert value.__class__ is Batched
    array = np.asarray(value.value)
    return new_tensor(array.copy() if own or not array.flags.writeable else array)
