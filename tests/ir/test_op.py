"""Declaring ops: what rules may read, and what is refused."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from helpers import call
from tracegrad.ir import (
    GraphBuilder,
    NoDerivativeError,
    SourceLocation,
    TensorType,
    all_ops,
    append_adjoint,
    append_tangent,
    registered,
)
from tracegrad.ir.op import OUT, Rule, pointwise, unbroadcast
from tracegrad.ir.types import float64


def test_rules_name_what_they_read() -> None:
    rule = Rule(lambda ct, x, out, y_type, axis: ct, ("x", "y"), ("axis", "keepdims"))
    assert rule.takes_ct
    assert rule.reads == (0, OUT)
    assert rule.types == (("y_type", 1),)
    assert rule.attrs == ("axis",)
    assert not Rule(lambda y: y, ("x", "y"), ()).takes_ct
    with pytest.raises(TypeError, match="a derivative rule reads 'z', which is neither"):
        Rule(lambda z: z, ("x", "y"), ())


@pytest.mark.parametrize(
    ("op", "needed", "expected"),
    [
        ("mul", (True, True), (False, (True, True))),
        ("mul", (True, False), (False, (False, True))),
        ("add", (True, True), (False, (False, False))),
        ("exp", (True,), (True, (False,))),
        ("sin", (True,), (False, (True,))),
        ("div", (False, True), (False, (True, True))),
        ("sum", (True,), (False, (False,))),
        ("matmul", (True, False), (False, (False, True))),
        ("concat", (True, True), (False, (False, False))),
        ("where", (False, True, True), (False, (True, False, False))),
    ],
)
def test_what_the_adjoint_keeps(
    op: str, needed: tuple[bool, ...], expected: tuple[bool, tuple[bool, ...]]
) -> None:
    assert registered(op).reads(needed) == expected


def test_ops_are_unique() -> None:
    with pytest.raises(ValueError, match="op 'sin' is declared twice"):
        pointwise("sin", eval=np.sin)
    with pytest.raises(KeyError):
        registered("sinus")
    for op in all_ops():
        assert registered(op.name) is op
        assert pickle.loads(pickle.dumps(op)) is op
        assert copy.copy(op) is op
        assert copy.deepcopy(op) is op
    assert repr(registered("sin")) == "<op sin>"


def test_ops_evaluate_arrays() -> None:
    np.testing.assert_array_equal(call("add", np.ones(2), np.ones(2)), [2.0, 2.0])


def test_missing_derivatives_name_op_and_line() -> None:
    step = pointwise("step_of_test_op", eval=np.heaviside, operands=("x", "y"))
    builder = GraphBuilder("f")
    with builder:
        x = builder.input(TensorType(float64, (3,)))
        builder.location = SourceLocation("demo.py", line=7)
        out = step(x, x)
    graph = builder.graph.replace(outputs=[out])
    message = (
        'derivative for aten::step_of_test_op is not implemented\n  from File "demo.py", line 7'
    )
    with pytest.raises(NoDerivativeError, match=f"^{message}"):
        append_adjoint(graph, [out], [x])
    with pytest.raises(NoDerivativeError, match=f"^forward {message}"):
        append_tangent(graph, [out], {x: x})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [((2, 3), (3,)), ((2, 3), (1, 3)), ((2, 3), (2, 1)), ((2, 3), ()), ((2, 3), (2, 3)), ((2, 3), (1, 1)),
     ((4, 2, 3), (2, 1)), ((0, 3), (1, 3)), ((2, 1), (1, 1))],
)  # fmt: skip
def test_unbroadcast(given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """It is the transpose of broadcasting."""
    rng = np.random.default_rng(0)
    ct, x = rng.random(given), rng.random(wanted)
    result = unbroadcast(ct, wanted)
    assert result.shape == wanted
    np.testing.assert_allclose(np.sum(result * x), np.sum(ct * np.broadcast_to(x, given)))
