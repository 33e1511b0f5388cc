"""Whose memory a result shows, and whether it is a view: for every public function as in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tracegrad.ir.memory import owner

import tracegrad as tg
from tracegrad import pytree

torch = pytest.importorskip("torch")
from torch_cases import CASES, CREATION, Case, draw, flat_outputs, forms, prepare  # noqa: E402

pytestmark = pytest.mark.peers


def together(m: Any, x: Any, y: Any) -> bool:
    """Whether two tensors share their storage."""
    if not (x.numel() and y.numel()):
        return False
    if m is tg:
        return np.may_share_memory(owner(x._data), owner(y._data))
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


def relations(m: Any, c: Case, arrays: Any, form: int, requires_grad: bool) -> list[Any]:
    """Per result: whether it is a view, of which argument, is an argument itself, and shares memory with some."""
    operands = prepare(m, c, arrays, requires_grad)
    returned = forms(c)[form][1](m, operands)
    given = [x for x in pytree.flatten([operands.args, operands.kwargs])[0] if m.is_tensor(x)]
    return [
        [
            # A view of an inner result is a view to torch in some functions, which nobody can make use of.
            out._is_view() and next((i for i, x in enumerate(given) if x is out._base), False),
            next((i for i, x in enumerate(given) if x is out), None),
            [together(m, out, x) for x in given],
        ]
        for out in flat_outputs(m, returned)
    ]


@pytest.mark.parametrize("c", [*CASES, *CREATION], ids=str)
def test_views_and_memory(c: Case) -> None:
    arrays = draw(c, "float64")
    for form in range(len(list(forms(c)))):
        for requires_grad in (True, False):
            ours = relations(tg, c, arrays, form, requires_grad)
            assert ours == relations(torch, c, arrays, form, requires_grad)


@pytest.mark.parametrize("c", CASES, ids=str)
def test_only_views_of_arguments_are_views(c: Case) -> None:
    arrays = draw(c, "float64")
    for _, run in forms(c):
        operands = prepare(tg, c, arrays)
        for out in flat_outputs(tg, run(tg, operands)):
            given = pytree.flatten([operands.args, operands.kwargs])[0]
            assert out._base is None or any(out._base is x for x in given)


def test_a_result_in_another_shape_is_counted_with_what_was_saved() -> None:
    """The softmax of a number is that of a vector, in another shape: its record keeps the vector."""
    x = tg.tensor(2.0, requires_grad=True)
    y = x.softmax(0)
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_what_is_computed_without_gradients_is_no_view_made_without() -> None:
    matrix, vector = tg.ones(2, 3), tg.ones(3)
    w = tg.ones(2, requires_grad=True)
    with tg.no_grad():
        y = matrix @ vector
    y.mul_(w).sum().backward()
    assert w.grad.tolist() == [3.0, 3.0]
