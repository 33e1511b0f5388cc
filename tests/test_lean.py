"""The short way for arithmetic does exactly what `dispatch.apply` does, and is left where tensors are not plain."""

from __future__ import annotations

import itertools
import operator
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tracegrad.ir.numpy_errors import quietly
from tracegrad.ir.op import registered

import tracegrad as tg
from tracegrad import dispatch
from tracegrad.node import Node, OpNode

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
}


def slots(node: Any) -> dict[str, Any]:
    """What a record holds, but for what is its own: the place in the order and in the program."""
    names = {*Node.__slots__, *OpNode.__slots__} - {"__weakref__", "sequence", "instruction"}
    found = {}
    for name in names:
        try:
            found[name] = object.__getattribute__(node, name)
        except AttributeError:  # Made on demand.
            continue
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, tuple):
        return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
    return a is b


@pytest.mark.parametrize("shape", [(2, 3), (), (0,)])
@pytest.mark.parametrize("name", OPERATORS)
def test_records_are_those_of_apply(name: str, shape: tuple[int, ...]) -> None:
    op = registered(name)
    rng = np.random.default_rng(0)
    for x_grad, y_grad, history, number in itertools.product((False, True), repeat=4):
        x, y = (
            tg.tensor(rng.uniform(1, 2, shape).astype(np.float32), requires_grad=grad)
            for grad in (x_grad, y_grad)
        )
        if history:  # With a history, and changed in place.
            x, y = x * 1.0, y * 1.0
            x += 1.0
        other = 3.0 if number else y
        found, expected = OPERATORS[name](x, other), dispatch.apply(op, (x, other))
        assert same(found._data, expected._data)
        assert type(found._data) is np.ndarray
        assert found.requires_grad == expected.requires_grad
        assert (found._grad_fn is None) == (expected._grad_fn is None)
        if found._grad_fn is not None:
            own, wanted = slots(found._grad_fn), slots(expected._grad_fn)
            assert own.keys() == wanted.keys()
            for slot, value in wanted.items():
                if slot == "versions":  # None says that all of them are 0.
                    assert (own[slot] or (0, 0)) == (value or (0, 0))
                else:
                    assert same(own[slot], value), slot


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_records_of_a_layer_are_those_of_a_transpose_and_a_sum(layout: str) -> None:
    rng = np.random.default_rng(0)
    for grads in itertools.product((False, True), repeat=3):
        for history in (False, True):
            leaves = [
                tg.tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=grad)
                for shape, grad in zip([(4,), (2, 3), (4, 3)], grads, strict=True)
            ]
            if layout == "columns":
                leaves[1] = tg.from_numpy(np.asfortranarray(leaves[1].detach().numpy()))
                leaves[1].requires_grad_(grads[1])
            bias, x, weight = leaves
            if history:  # With a history, and changed in place.
                bias, x, weight = bias * 1.0, x * 1.0, weight * 1.0
                x += 1.0
                weight += 1.0
            found = tg.nn.functional.linear(x, weight, bias)
            expected = dispatch.apply(registered("addmm"), (bias, x, weight.t()))
            assert same(found._data, expected._data)
            assert found.requires_grad == expected.requires_grad == any(grads)
            if not any(grads):
                continue
            own, wanted = slots(found._grad_fn), slots(expected._grad_fn)
            for both in (own, wanted):  # Each has a transpose of its own.
                edge = both.pop("edges")
                kept = both.pop("saved")
                if grads[1] or grads[2]:
                    assert kept[1] is (x if grads[2] else None)
                    assert kept[2]._base is weight if grads[1] else kept[2] is None
                else:
                    assert kept == ()
                assert edge[:2] == tuple(
                    t._grad_fn or t if t.requires_grad else None for t in (bias, x)
                )
                assert (edge[2] is not None) == grads[2]
                assert edge[2] is None or edge[2].edges == (weight._grad_fn or weight,)
            assert own.pop("types") == wanted.pop("types")
            assert (own.pop("versions") or (0,) * 3) == (wanted.pop("versions") or (0,) * 3)
            assert own.keys() == wanted.keys()
            assert all(same(own[slot], wanted[slot]) for slot in wanted)


def test_types_are_forgotten_with_the_data() -> None:
    x = tg.ones(2, 3)
    x * x
    x.data = tg.ones(4)
    assert (x * tg.ones(4)).shape == (4,)
    with pytest.raises(RuntimeError, match="must match the size"):
        x * tg.ones(2, 3)
    out = tg.ones(2)
    out * out
    with pytest.warns(UserWarning, match="was resized"):
        tg.add(tg.ones(3), 1.0, out=out)
    assert (out * tg.ones(3)).tolist() == [2.0, 2.0, 2.0]


def test_floating_point_errors_are_silent_and_numpy_keeps_its_own_setting() -> None:
    zero = tg.zeros(2)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        assert (tg.ones(2) / zero).tolist() == [np.inf, np.inf]
        assert np.isnan((zero / zero).tolist()).all()
        with pytest.raises(FloatingPointError):
            np.ones(2) / np.zeros(2)


def test_an_entered_context_is_no_obstacle() -> None:
    """Another thread may be inside of the quiet context at any time."""
    x, y = tg.ones(2, 3), tg.zeros(2, 3)
    with np.errstate(all="raise"):
        inside = quietly(lambda: ((x / y).tolist(), tg.exp(x * 1000.0).tolist()))
    assert inside == ([[np.inf] * 3] * 2, [[np.inf] * 3] * 2)
