"""What a record shows of what it saved, ``_saved_...``, against torch: names and values.

Not shown, though torch does: tensors and numbers that our rules do not read (``_saved_alpha``, ``_saved_self`` of a
composition such as ``clamp``), and strides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
from torch_programs import plain  # noqa: E402

pytestmark = pytest.mark.peers

SAVED: dict[str, tuple[str, Callable[[Any, Any, Any], Any]]] = {
    "mul": ("self other", lambda m, x, y: x * y),
    "div": ("other", lambda m, x, y: x / y),
    "sin": ("self", lambda m, x, y: x.sin()),
    "sqrt": ("result", lambda m, x, y: x.sqrt()),
    "where": ("condition", lambda m, x, y: m.where(x > 2, x, y)),
    "mm": ("self mat2", lambda m, x, y: x @ y),
    "bmm": ("self mat2", lambda m, x, y: m.bmm(x.expand(3, 2, 2), y.expand(3, 2, 2))),
    "power of tensors": ("self exponent result", lambda m, x, y: x**y),
    "power of a number": ("self exponent", lambda m, x, y: x**3),
    "cumsum": ("dim", lambda m, x, y: x.cumsum(1)),
    "permute": ("dims", lambda m, x, y: x.permute(1, 0)),
    "sum": ("self_sym_sizes", lambda m, x, y: x.sum()),
    "view": ("self_sym_sizes", lambda m, x, y: x.view(4)),
    "expand": ("self_sym_sizes", lambda m, x, y: x.expand(3, 2, 2)),
}


@pytest.mark.parametrize("name", SAVED)
def test_saved_attributes(name: str) -> None:
    attributes, run = SAVED[name]
    found = []
    for m in (tg, torch):
        x = m.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        y = m.tensor([[2.0, 1.0], [2.0, 0.5]], requires_grad=True)
        record = run(m, x, y).grad_fn
        values = [plain(getattr(record, f"_saved_{a}")) for a in attributes.split()]
        found.append((record.name(), values))
    assert found[0] == found[1]


def test_what_a_record_does_not_have() -> None:
    x = tg.ones(2, requires_grad=True)
    with pytest.raises(AttributeError, match="_saved_nothing"):
        _ = (x * x).grad_fn._saved_nothing
