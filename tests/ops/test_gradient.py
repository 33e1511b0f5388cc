"""Every differentiable op: derivatives against finite differences, and against each other.

In float64, along one random direction per sample, so that the cost does not depend on sizes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from helpers import describe
from tracegrad.ir import (
    Graph,
    GraphBuilder,
    Op,
    all_ops,
    append_adjoint,
    append_tangent,
    evaluate,
    registered,
    verify,
)
from tracegrad.ir.ops.samples import Sample
from tracegrad.ir.types import type_of

DIFFERENTIABLE = [op for op in all_ops() if op.differentiable and op.samples is not None]
STEP = 1e-6
SYMMETRIC = frozenset({"cholesky", "eigh", "eigvalsh"})
"""Ops that are defined for symmetric matrices only."""


def float64_samples(op: Op, rng: np.random.Generator) -> Iterator[Sample]:
    """The samples whose result and operands are float64, apart from indices and conditions."""
    for sample in op.samples(rng):
        types = [type_of(operand) for operand in sample.operands]
        floats = [t.dtype.name for t in types if t.dtype.is_floating]
        result = op.type_rule(*types, **sample.attrs).dtype.name
        if floats and set(floats) == {"f64"} and result == "f64":
            yield sample


class Case:
    """One sample with random tangents and cotangent, as a graph with all of them as inputs.

    Attributes:
        primal: the graph; inputs are the operands, the tangents of the floating point ones, ct.
        active: numbers of the operands that a derivative exists for.
    """

    def __init__(self, op: Op, sample: Sample, rng: np.random.Generator) -> None:
        self.sample = sample
        self.message = describe(op, sample)
        builder = GraphBuilder(op.name)
        self.primal = builder.graph
        with builder:
            self.operands = tuple(builder.input(type_of(x)) for x in sample.operands)
            self.out = builder.emit(op, self.operands, dict(sample.attrs))
            self.active = [
                i
                for i, x in enumerate(self.operands)
                if x.dtype.is_floating and (op.variadic or op.rules[i] is not None)
            ]
            self.tangents = {
                self.operands[i]: builder.input(self.operands[i].type) for i in self.active
            }
            self.ct = builder.input(self.out.type)
        self.primal.outputs = [self.out]
        self.wrt = [self.operands[i] for i in self.active]
        self.directions = [rng.uniform(-1, 1, x.shape) for x in self.wrt]
        if op.name in SYMMETRIC:
            self.directions = [x + x.mT for x in self.directions]
        self.ct_value = rng.uniform(-1, 1, self.out.shape)

    def inputs(self, step: float = 0.0, ct: np.ndarray | None = None) -> list[np.ndarray]:
        """Values of all inputs, the operands moved along the directions by `step`."""
        operands = [np.array(x) for x in self.sample.operands]
        for i, direction in zip(self.active, self.directions, strict=True):
            operands[i] = operands[i] + step * direction
        return [*operands, *self.directions, self.ct_value if ct is None else ct]

    def along(self, graph: Graph, output: int = 0) -> np.ndarray:
        """Central difference of an output along the directions."""
        upper = evaluate(graph, self.inputs(STEP))[output]
        lower = evaluate(graph, self.inputs(-STEP))[output]
        return (upper - lower) / (2 * STEP)

    def with_adjoint(self) -> Graph:
        graph, cotangents = append_adjoint(self.primal, [self.out], self.wrt, [self.ct])
        assert None not in cotangents, self.message
        return checked(graph.replace(outputs=[c for c in cotangents if c is not None]))

    def with_tangent(self) -> Graph:
        graph, tangents = append_tangent(self.primal, [self.out], self.tangents)
        assert tangents[0] is not None, self.message
        return checked(graph.replace(outputs=[tangents[0]]))


def checked(graph: Graph) -> Graph:
    verify(graph)
    return graph


def assert_near(actual: np.ndarray | float, expected: np.ndarray | float, message: str) -> None:
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-7, err_msg=message)


def inner(xs: list[np.ndarray], ys: list[np.ndarray]) -> float:
    return float(sum(np.sum(x * y) for x, y in zip(xs, ys, strict=True)))


@pytest.fixture(params=DIFFERENTIABLE, ids=lambda op: op.name)
def cases(request: pytest.FixtureRequest, rng: np.random.Generator) -> list[Case]:
    op = request.param
    found = [Case(op, sample, rng) for sample in float64_samples(op, rng)]
    assert found, f"{op.name} has no float64 samples"
    return found


def test_types(cases: list[Case]) -> None:
    """A cotangent has the type of what it belongs to."""
    for case in cases:
        types = [x.type for x in case.with_adjoint().outputs]
        assert types == [x.type for x in case.wrt], case.message
        assert case.with_tangent().outputs[0].type == case.out.type, case.message


def test_first_order(cases: list[Case]) -> None:
    """JVP = finite difference, and <ct, J v> = <J^T ct, v>."""
    for case in cases:
        (tangent,) = evaluate(case.with_tangent(), case.inputs())
        assert_near(tangent, case.along(case.primal), case.message)
        cotangents = evaluate(case.with_adjoint(), case.inputs())
        expected = inner([case.ct_value], [tangent])
        assert_near(inner(cotangents, case.directions), expected, case.message)


def test_second_order(cases: list[Case]) -> None:
    """Reverse over reverse and forward over reverse = finite difference of the VJP."""
    for case in cases:
        graph = case.with_adjoint()
        builder = GraphBuilder(graph)
        with builder:
            total = builder.const(0, case.out.dtype)
            for cotangent, x in zip(graph.outputs, case.wrt, strict=True):
                product = cotangent * case.tangents[x]
                total = total + registered("sum")(
                    product, axis=tuple(range(product.ndim)), keepdims=False
                )
        scalar = checked(graph.replace(outputs=[total]))
        expected = case.along(scalar)
        # The product of cotangent and direction, differentiated along the same direction.
        reverse, cotangents = append_adjoint(scalar, [total], case.wrt)
        outputs = [c for c in cotangents if c is not None]
        directions = [d for d, c in zip(case.directions, cotangents, strict=True) if c is not None]
        values = evaluate(checked(reverse.replace(outputs=outputs)), case.inputs())
        assert_near(inner(values, directions), expected, f"reverse over reverse: {case.message}")
        forward, tangents = append_tangent(scalar, [total], case.tangents)
        value = np.zeros(())
        if tangents[0] is not None:
            (value,) = evaluate(checked(forward.replace(outputs=[tangents[0]])), case.inputs())
        assert_near(value, expected, f"forward over reverse: {case.message}")


def test_cotangent_linearity(cases: list[Case]) -> None:
    """The VJP is linear in the cotangent: differentiating it there gives the JVP."""
    for case in cases:
        graph = case.with_adjoint()
        tangents = {case.ct: case.ct}
        forward, found = append_tangent(graph, graph.outputs, tangents)
        outputs = [node if node is not None else graph.outputs[0] for node in found]
        values = evaluate(forward.replace(outputs=outputs), case.inputs())
        expected = evaluate(graph, case.inputs())
        for node, value, want in zip(found, values, expected, strict=True):
            if node is None:  # A partial of exactly zero.
                assert not np.any(want), case.message
            else:
                assert_near(value, want, case.message)
