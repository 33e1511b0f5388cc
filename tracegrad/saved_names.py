"""What users see of what a record saved: ``grad_fn._saved_self``, ``_saved_dim``, by torch's names.

A record shows the operands and the result that its derivative rule reads, and arguments of the operation: those of
an op are listed here by op; those of a composition are handed to :func:`tracegrad.dispatch.shown_as` by whoever
calls it. Start with :func:`shown`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tracegrad.node import FREED_MESSAGE, OpNode, late_bound
from tracegrad.tensor import new_tensor


class Saved(NamedTuple):
    """A value that was saved for the derivative rule.

    Attributes:
        operand: which one; None for the result.
    """

    operand: int | None


# What torch calls the operands of an op.
_USUAL = {"self": 0, "other": 1}
_OPERANDS = {
    "addmm": {"mat1": 1, "mat2": 2},
    "gather": {"index": 1},
    "nll_loss": {"target": 1},
    "where": {"condition": 0},
    "matmul": {"self": 0, "mat2": 1},
    "pow": {"self": 0, "exponent": 1},
}
# Ops of which torch shows None for an operand that need not be saved.
_OPTIONAL = frozenset({"div", "matmul", "mul"})
# Ops whose numbers torch shows as tensors.
_NUMBERS_AS_TENSORS = frozenset({"mul", "div"})


def _shape(node: OpNode) -> Any:
    assert node.types is not None
    return tuple(node.types[0].shape)


# Which arguments of an op torch shows, by the record: its name of them, the op's attribute or a function of the record.
_ARGUMENTS: dict[str, dict[str, str | Callable[[OpNode], Any]]] = {
    "AddBackward0": {"alpha": lambda node: 1},
    "AmaxBackward0": {"dim": "axis", "keepdim": "keepdims"},
    "AminBackward0": {"dim": "axis", "keepdim": "keepdims"},
    "CatBackward0": {"dim": "axis"},
    "CumprodBackward0": {"dim": "axis"},
    "CumsumBackward0": {"dim": "axis"},
    "DiagonalBackward0": {"offset": "offset", "dim1": "dim1", "dim2": "dim2"},
    "ExpandBackward0": {"self_sym_sizes": _shape},
    "FlipBackward0": {"dims": "axes"},
    "LogSoftmaxBackward0": {"dim": "axis"},
    "LogcumsumexpBackward0": {"dim": "axis"},
    "PermuteBackward0": {"dims": "dims"},
    "PowBackward0": {"exponent": "exponent"},
    "SoftmaxBackward0": {"dim": "axis"},
    "SubBackward0": {"alpha": lambda node: 1},
    "SumBackward0": {"self_sym_sizes": _shape},
    "UnfoldBackward0": {"dimension": "dim", "size": "size", "step": "step"},
    "ViewBackward0": {"self_sym_sizes": _shape},
}


def shown(node: OpNode) -> dict[str, Any]:
    """All that a record shows, by torch's names without ``_saved_``: arguments as they are, and what was `Saved`.

    Of a composition the record is that of its last step. It shows an operand of that step only where it is the
    same operand of the composition.
    """
    found: dict[str, Any] = {}
    composite = node.composite
    if composite is None:
        for name, argument in _ARGUMENTS.get(type(node).__name__, {}).items():
            found[name] = node.attrs[argument] if isinstance(argument, str) else argument(node)
    elif composite[2]:
        found.update(composite[2])
    values = node.saved
    if values is None:
        return found
    packed = values.__class__ is not tuple
    operands = values.operands if packed else values
    for name, index in _OPERANDS.get(node.op.name, _USUAL).items():
        if index < len(operands) and _is_operand(node, name, index):
            if operands[index] is not None:
                found[name] = Saved(index)
            elif composite is None and node.op.name in _OPTIONAL:
                found[name] = None
    if (values.out if packed else node.saved_out) is not None:
        found["result"] = Saved(None)
    return found


def _is_operand(node: OpNode, name: str, index: int) -> bool:
    """Whether an operand of an op is one of the operation that users see; self and other are its first two."""
    if node.composite is None:
        return True
    edge = node.edges[index]
    place = _USUAL.get(name)
    sources = node.composite[1] if place is None else node.composite[1][place : place + 1]
    return edge is not None and any(edge is source for source, _ in sources)


def saved_value(node: OpNode, attribute: str) -> Any:
    """The value of ``_saved_...`` or ``_raw_saved_...``.

    Raises:
        AttributeError: the record shows nothing by this name.
        RuntimeError: it may have, but was freed.
    """
    raw = attribute.startswith("_raw")
    name = attribute.removeprefix("_raw").removeprefix("_saved_")
    found = shown(node)
    value = found.get(name)
    if name not in found or (raw and not isinstance(value, Saved)):
        if node.saved is None:
            raise RuntimeError(FREED_MESSAGE)
        raise AttributeError(f"'{type(node).__name__}' object has no attribute '{attribute}'")
    if not isinstance(value, Saved):
        return value
    if raw:
        return late_bound["saved_tensor"](node, value.operand)
    packed = node.saved.__class__ is not tuple
    if value.operand is None:
        out = node.saved.unpack(node)[1] if packed else node.saved_out
        return late_bound["rebuild_output"](out, node)
    operand = node.saved.operand(value.operand) if packed else node.saved[value.operand]
    if isinstance(operand, (int, float)) and node.op.name in _NUMBERS_AS_TENSORS:
        return new_tensor(np.asarray(operand))
    return operand


def saved_names(node: OpNode) -> list[str]:
    """The attributes that `saved_value` has a value for."""
    return ["_saved_" + name for name in shown(node)]
