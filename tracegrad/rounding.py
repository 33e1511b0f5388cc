"""How far rounding alone can take the values of a graph: what a comparison of two back ends has to allow.

Sums have another order in native code, and a product and a sum may be rounded once. How much that changes a result
depends on the program: nothing for a copy, everything for the difference of two large sums. So it is measured. The
graph is evaluated a few times with each rounded value off by a few units in the last place, and how far the outputs
move says what to allow. Start reading at :func:`differing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.ir.graph import Node
from tracegrad.ir.interpreter import evaluate_node
from tracegrad.ir.lowering import Generated, Movement, Placement

ULPS = 64.0
"""So many units in the last place of the value itself are always allowed."""
_RUNS = 4
_NOISE = 4.0
_MARGIN = 16.0
_BLOCKS = 4

_EXACT = frozenset(
    "abs argmax argmin cast ceil concat const copy eq floor gather ge gt index_copy input le lt max maximum min "
    "minimum ne neg random_bits relu round sign slice_update take trunc where zeros".split()
)
"""Ops whose result is one of their operands' elements, or otherwise exact."""


def differing(got: np.ndarray, wanted: np.ndarray, moved: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Where two arrays of one type differ by more than rounding.

    Args:
        got, wanted: arrays of the same shape and dtype.
        moved: `wanted` again, computed with rounding errors added.

    Returns:
        A bool array of their shape. NaN equals NaN. Integers and bools may differ where they do in `moved`.
    """
    with np.errstate(all="ignore"):
        same = got == wanted
        if wanted.dtype.kind != "f":
            for other in moved:
                same = same | (other != wanted)
            return ~same
        same = same | (np.isnan(got) & np.isnan(wanted))
        allowed = ULPS * np.finfo(wanted.dtype).eps * np.abs(wanted.astype(np.float64))
        for other in moved:
            distance = np.abs(other.astype(np.float64) - wanted)
            # Where rounding decides between a number and NaN or infinity, anything is allowed.
            distance = np.where(np.isfinite(other) == np.isfinite(wanted), distance, np.inf)
            allowed = np.fmax(allowed, _MARGIN * distance)
        distance = np.abs(got.astype(np.float64) - wanted)
        return ~(same | (distance <= allowed))


def moved_values(
    nodes: Sequence[Node],
    given: dict[Node, np.ndarray],
    keep: Callable[[dict[Node, np.ndarray]], Any],
) -> list[Any]:
    """What `keep` makes of the values of all nodes, for several evaluations with rounding errors added.

    Args:
        nodes: in topological order.
        given: the values that they start with, which are exact.
        keep: called with the values of each evaluation. One in which an op raises an exception is left out.
    """
    random = np.random.default_rng(0)
    found = []
    for _ in range(_RUNS):
        values = dict(given)
        try:
            for node in nodes:
                value = evaluate_node(node, [values[x] for x in node.inputs])
                values[node] = _off(value, random) if rounds(node) else value
        except Exception:  # An index that rounding has put out of bounds.
            continue
        found.append(keep(values))
    return found


def rounds(node: Node) -> bool:
    """Whether the values of a node are rounded."""
    return (
        node.dtype.np.kind == "f"
        and node.op.name not in _EXACT
        and not isinstance(node.op.lower, Movement | Generated | Placement)
    )


def _off(value: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The value with errors of a few units in the last place: of each element, and of whole blocks in common.

    Errors in common are those of partial sums, which do not average out.
    """
    noise = random.uniform(-1, 1, value.shape)
    blocks = np.ones(value.shape)
    for axis, extent in enumerate(value.shape):
        signs = random.choice([-1.0, 1.0], size=_BLOCKS)
        shape = [1] * value.ndim
        shape[axis] = extent
        blocks *= signs[np.arange(extent) * _BLOCKS // max(1, extent)].reshape(shape)
    eps = np.finfo(value.dtype).eps
    return np.asarray(value * (1 + _NOISE * eps * (noise + blocks)), value.dtype)


def moved_operands(operands: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """The operands of one op with rounding errors added, several times."""
    random = np.random.default_rng(0)
    return [[_off(x, random) if x.dtype.kind == "f" else x for x in operands] for _ in range(_RUNS)]
