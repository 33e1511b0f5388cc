"""Every op, every sample, every way of running: the result is that of the op's NumPy evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    EXACT_WAYS,
    WAYS_OF_RUNNING,
    assert_close,
    assert_same,
    describe,
    optimize_verified,
    sample_graph,
)
from tracegrad.ir import Op, all_ops, evaluate
from tracegrad.ir.numpy_errors import quiet
from tracegrad.ir.types import type_of

SAMPLED = [op for op in all_ops() if op.samples is not None]

# Native elementary functions are within a few units in the last place; these add up more terms.
ULPS = {
    **dict.fromkeys(
        "matmul convolution sum cumsum cumprod prod logcumsumexp pow power".split(), 256
    ),
    "overlap_add": 64,
}


@pytest.mark.parametrize("op", SAMPLED, ids=lambda op: op.name)
def test_type_rule(op: Op, rng: np.random.Generator) -> None:
    """The type rule gives the type of what NumPy computes."""
    for sample in op.samples(rng):
        with quiet():
            value = np.asarray(op.eval(*sample.operands, **sample.attrs))
        types = [type_of(operand) for operand in sample.operands]
        assert op.type_rule(*types, **sample.attrs) == type_of(value), describe(op, sample)


@pytest.mark.parametrize("way", WAYS_OF_RUNNING)
@pytest.mark.parametrize("op", SAMPLED, ids=lambda op: op.name)
def test_result(op: Op, way: str, rng: np.random.Generator) -> None:
    samples = list(op.samples(rng))
    graph = sample_graph(op, samples)
    inputs = [array for sample in samples for array in sample.operands]
    outputs = WAYS_OF_RUNNING[way](graph, inputs)
    for sample, output in zip(samples, outputs, strict=True):
        with quiet():
            expected = op.eval(*sample.operands, **sample.attrs)
        if way in EXACT_WAYS:
            assert_same(output, expected, describe(op, sample))
        else:
            assert_close(output, expected, describe(op, sample), ulps=ULPS.get(op.name, 16))


@pytest.mark.parametrize("op", SAMPLED, ids=lambda op: op.name)
def test_constant_operands(op: Op, rng: np.random.Generator) -> None:
    """What is folded at compile time is what would be computed at run time."""
    samples = [s for s in op.samples(rng) if all(array.size <= 64 for array in s.operands)]
    graph = optimize_verified(sample_graph(op, samples, as_constants=True))
    simple = {"const", "broadcast_in_dim", "iota", "reshape"}
    assert {node.op.name for node in graph.outputs if node.type.size <= 64} <= simple
    for sample, output in zip(samples, evaluate(graph, []), strict=True):
        with quiet():
            assert_same(output, op.eval(*sample.operands, **sample.attrs), describe(op, sample))
