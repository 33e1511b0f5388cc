"""Helpers of the tests of IR and passes: ways of running a graph, building one, and comparing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from tracegrad.ir import (
    DEFAULT,
    Graph,
    GraphBuilder,
    GraphPass,
    Node,
    Op,
    PassPipeline,
    Program,
    TensorType,
    evaluate,
    registered,
    show,
    verify,
)
from tracegrad.ir.graph import current_builder
from tracegrad.ir.interpreter import evaluate_node
from tracegrad.ir.numpy_errors import quiet
from tracegrad.ir.ops.samples import Sample
from tracegrad.ir.types import dtype_named, type_of

try:
    from tracegrad.codegen import compile_program
except ImportError:  # Everything runs, interpreted, where llvmlite is not installed.
    compile_program = None

Arrays = Sequence[np.ndarray]


def examples(count: int) -> settings:
    """On how many examples to try a property; TRACEGRAD_FUZZ_FACTOR times as many to search."""
    return settings(max_examples=count * int(os.environ.get("TRACEGRAD_FUZZ_FACTOR", "1")))


def verify_after_each(before: Graph, pass_: GraphPass, after: Graph) -> None:
    """The hook that checks every graph that a pass makes."""
    verify(after, after=pass_.name)


def optimize_verified(graph: Graph) -> Graph:
    """The default passes, verified after each."""
    verify(graph)
    return PassPipeline(DEFAULT, verify_after_each)(graph)


def run_optimized(graph: Graph, arrays: Arrays) -> list[np.ndarray]:
    return evaluate(optimize_verified(graph), arrays)


def run_native(graph: Graph, arrays: Arrays) -> list[np.ndarray]:
    if compile_program is None:
        pytest.skip("there is no native back end here: llvmlite is not installed")
    outputs = compile_program(Program(optimize_verified(graph))).run(list(arrays))
    assert outputs is not None
    return outputs


WAYS_OF_RUNNING: dict[str, Callable[[Graph, Arrays], list[np.ndarray]]] = {
    "interpreted": evaluate,
    "optimized": run_optimized,
    "native": run_native,
}
"""Every way of running a graph. Each must give what the op's NumPy evaluation gives."""

EXACT_WAYS = frozenset({"interpreted", "optimized"})
"""The ways that must agree in every bit."""


def build(
    function: Callable[..., Any], *types: TensorType | str, name: str = "f", hints: str = "xyzuvw"
) -> Graph:
    """The graph of a function of nodes; types may be written as text, ``"f64[2,3]"``."""
    builder = GraphBuilder(name)
    with builder:
        inputs = [
            builder.input(as_type(type), hint) for type, hint in zip(types, hints, strict=False)
        ]
        result = function(*inputs)
    builder.graph.outputs = list(result) if isinstance(result, tuple | list) else [result]
    verify(builder.graph)
    return builder.graph


def as_type(text: TensorType | str) -> TensorType:
    """``"f64[2,3]"`` as a TensorType."""
    if isinstance(text, TensorType):
        return text
    dtype, _, extents = text.rstrip("]").partition("[")
    return TensorType(dtype_named(dtype), tuple(map(int, filter(None, extents.split(",")))))


def call(op: str, *operands: Any, **attrs: Any) -> Any:
    """Apply the op of this name."""
    return registered(op)(*operands, **attrs)


def emit(op: str, *operands: Node, **attrs: Any) -> Node:
    """Append a node of this op to the active builder; also for ops without operands."""
    return current_builder().emit(registered(op), operands, attrs)


def sample_graph(op: Op, samples: Sequence[Sample], *, as_constants: bool = False) -> Graph:
    """One graph that applies an op to many samples, one output each.

    Args:
        as_constants: operands are constants rather than inputs.
    """
    builder = GraphBuilder(op.name)
    outputs = []
    with builder:
        for sample in samples:
            operands = tuple(
                builder.const_array(array) if as_constants else builder.input(type_of(array))
                for array in sample.operands
            )
            outputs.append(builder.emit(op, operands, dict(sample.attrs)))
    builder.graph.outputs = outputs
    return builder.graph


def describe(op: Op, sample: Sample) -> str:
    """``mul(f64[2,3], f64[])`` for messages."""
    parts = [str(type_of(array)) for array in sample.operands]
    parts += [f"{name}={value}" for name, value in sample.attrs.items()]
    return f"{op.name}({', '.join(parts)})"


def evaluate_contiguous(graph: Graph, arrays: Arrays) -> list[np.ndarray]:
    """Like ``evaluate``, but every value is contiguous.

    The last digits of NumPy's sums and products depend on strides, which a pass may change.
    """
    values: dict[Node, np.ndarray] = dict(zip(graph.inputs, arrays, strict=True))
    with quiet():
        for node in graph.nodes:
            value = evaluate_node(node, [values[x] for x in node.inputs])
            values[node] = np.array(value, order="C")
    return [values[node] for node in graph.outputs]


def assert_same(actual: np.ndarray, expected: np.ndarray, message: str = "") -> None:
    """Equal type, and equal in every bit except for those of NaNs."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert type_of(actual) == type_of(expected), message
    np.testing.assert_array_equal(actual, expected, err_msg=message)
    if actual.dtype.kind == "f":
        signs = np.signbit(actual) == np.signbit(expected)
        assert np.all(signs | np.isnan(actual)), f"{message}: signs of zero differ"


def assert_close(
    actual: np.ndarray, expected: np.ndarray, message: str = "", *, ulps: float = 64
) -> None:
    """Equal type; floats within some units in the last place of the largest element."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert type_of(actual) == type_of(expected), message
    if actual.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected, err_msg=message)
        return
    finite = expected[np.isfinite(expected)]
    scale = float(np.max(np.abs(finite), initial=0))
    tolerance = ulps * float(np.finfo(actual.dtype).eps)
    np.testing.assert_allclose(
        actual, expected, rtol=tolerance, atol=tolerance * scale, err_msg=message
    )


def check_rewrite(before: Graph, after: str, *passes: GraphPass, rng: np.random.Generator) -> None:
    """The passes turn one graph into another, as text, and results stay equal in every bit.

    Args:
        after: the text of the expected graph, without the ``graph`` line and comments.
    """
    result = PassPipeline(passes, verify_after_each)(before)
    body = show(result, locations=False).splitlines()[1:-1]
    wanted = [line.strip() for line in after.strip().splitlines()]
    assert [line.strip() for line in body] == wanted, show(result)
    for special in (False, True):
        arrays = [draw_input(node.type, rng, special=special) for node in before.inputs]
        expected = evaluate_contiguous(before, arrays)
        for a, c in zip(evaluate_contiguous(result, arrays), expected, strict=True):
            assert_same(a, c)


_SPECIAL = (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, -2.5)


def draw_input(
    type: TensorType, rng: np.random.Generator, *, special: bool = False, low: float = -2.0
) -> np.ndarray:
    """A random array of this type; `special` has zeros of both signs, infinities and NaN."""
    if type.dtype.category == 0:
        return np.asarray(rng.integers(0, 2, type.shape).astype(bool))
    if not type.dtype.is_floating:
        return np.asarray(rng.integers(0 if low >= 0 else -3, 4, type.shape).astype(type.dtype.np))
    if special:
        return np.asarray(rng.choice(_SPECIAL, type.shape).astype(type.dtype.np))
    return np.asarray(rng.uniform(low, 2.0, type.shape).astype(type.dtype.np))
