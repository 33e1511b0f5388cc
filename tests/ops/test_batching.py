"""Batching rules: an op on a stack of examples gives the stack of what it gives on each."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import assert_close
from tracegrad.ir import GraphBuilder, Op, all_ops, evaluate
from tracegrad.ir.numpy_errors import quiet
from tracegrad.ir.ops.samples import Sample
from tracegrad.ir.types import type_of

SIZE = 3
WITH_OPERANDS = [op for op in all_ops() if op.samples is not None and (op.operands or op.variadic)]
# Their operands are the state of a random generator, which no example has to itself.
UNBATCHED = {"random_bits"}
SAMPLED = [op for op in WITH_OPERANDS if op.name not in UNBATCHED]


def stacks(op: Op) -> list[tuple[list[Sample], tuple[bool, ...]]]:
    """For each sample SIZE variants of it, and each choice of operands that are to differ between them."""
    drawn = [list(op.samples(np.random.default_rng(seed))) for seed in range(SIZE)]
    found = []
    for variants in zip(*drawn, strict=True):
        for chosen in itertools.product((True, False), repeat=len(variants[0].operands)):
            if any(chosen):
                found.append((list(variants), chosen))
    return found


def stacked(variants: list[Sample], chosen: tuple[bool, ...]) -> list[np.ndarray]:
    return [
        np.stack([np.asarray(sample.operands[i]) for sample in variants])
        if there
        else np.asarray(variants[0].operands[i])
        for i, there in enumerate(chosen)
    ]


def expected(op: Op, variants: list[Sample], chosen: tuple[bool, ...]) -> np.ndarray:
    rows = []
    for sample in variants:
        operands = [
            sample.operands[i] if there else variants[0].operands[i]
            for i, there in enumerate(chosen)
        ]
        with quiet():
            rows.append(op.eval(*operands, **sample.attrs))
    return np.stack(rows)


def test_every_op_has_a_rule() -> None:
    missing = {op.name for op in WITH_OPERANDS if op.batch_rule is None}
    assert missing == UNBATCHED


@pytest.mark.parametrize("op", SAMPLED, ids=lambda op: op.name)
def test_on_arrays(op: Op) -> None:
    for variants, chosen in stacks(op):
        attrs = variants[0].attrs
        with quiet():
            result = op.batch(SIZE, stacked(variants, chosen), chosen, attrs)
        what = f"{op.name} {attrs} batched {chosen}"
        assert_close(np.asarray(result), expected(op, variants, chosen), what, ulps=64)


@pytest.mark.parametrize("op", SAMPLED, ids=lambda op: op.name)
def test_on_nodes(op: Op) -> None:
    """The same rules, applied to the nodes of a graph, which is then interpreted."""
    for variants, chosen in stacks(op):
        attrs = variants[0].attrs
        arrays = stacked(variants, chosen)
        builder = GraphBuilder("batched")
        with builder:
            inputs = [builder.input(type_of(array)) for array in arrays]
            out = op.batch(SIZE, inputs, chosen, attrs)
        (result,) = evaluate(builder.graph.replace(outputs=[out]), arrays)
        what = f"{op.name} {attrs} batched {chosen}"
        assert_close(result, expected(op, variants, chosen), what, ulps=64)


@pytest.mark.parametrize("name", ["take", "index_add", "index_copy", "gather"])
@pytest.mark.parametrize("wrong", [4, -1])
def test_positions_stay_in_their_example(name: str, wrong: int) -> None:
    """A position out of bounds is an error, not an element of the next example."""
    op = next(op for op in all_ops() if op.name == name)
    x = np.zeros((SIZE, 4), np.float32)
    index = np.array([[0, 1], [wrong, 2], [0, 3]])
    operands = [x, index, np.ones((SIZE, 2), np.float32)][: len(op.operands)]
    with pytest.raises(IndexError):
        op.batch(SIZE, operands, (True,) * len(operands), {"axis": 0})
