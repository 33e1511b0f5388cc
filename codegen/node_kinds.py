"""What becomes of a node in native code: one kind for each way that the back end treats nodes.

Start reading at :func:`classify`.
"""

from __future__ import annotations

from ..ir.graph import Node
from ..ir.lowering import Generated, Movement, Placement, Reduce, Scan, Special
from ..ir.types import bool_

# The first two have no kernel, the next five can be inlined, and so can placements.
LEAF, CONSTANT, POINTWISE, MOVEMENT, ALIAS, GENERATED, INDEXED = range(7)
REDUCE, PLACEMENT, MATMUL, SCATTER, SCAN, PYTHON = range(7, 13)

DIVISIONS = frozenset(["floor_div", "remainder", "fmod"])

_SCATTERS = frozenset(["scatter_add", "index_add", "index_copy"])
_EXTREMA = frozenset(["argmax", "argmin"])


def classify(node: Node, reasons: dict[Node, str]) -> int:
    """The kind of a node. Where it is ``PYTHON``, `reasons` is told why."""
    op, lower = node.op, node.op.lower
    if op.name == "const":
        return LEAF if isinstance(node.attrs["value"], tuple) else CONSTANT
    if op.name == "zeros":
        return CONSTANT
    if isinstance(lower, Movement):
        return MOVEMENT
    if isinstance(lower, Generated):
        return GENERATED
    if isinstance(lower, Placement):
        return PLACEMENT
    if isinstance(lower, Reduce):
        return _classify_reduction(node, reasons)
    if isinstance(lower, Scan) and node.dtype is not bool_:
        return SCAN
    if isinstance(lower, Special):
        return _classify_special(node, reasons)
    if callable(lower):
        return POINTWISE
    reasons[node] = f"there is no native code for {op.name}"
    return PYTHON


def _classify_reduction(node: Node, reasons: dict[Node, str]) -> int:
    x = node.inputs[0]
    axes = [axis for axis in node.attrs["axis"] if x.shape[axis] != 1]
    if not axes:
        return ALIAS
    if x.type.size == 0 and node.type.size and node.op.name not in ("sum", "prod"):
        reasons[node] = "a reduction of nothing"
        return PYTHON
    return REDUCE


def _classify_special(node: Node, reasons: dict[Node, str]) -> int:
    name = node.op.lower.kernel
    x = node.inputs[0]
    if name == "matmul" and x.dtype is not bool_:
        return MATMUL
    if name in ("gather", "take"):
        return INDEXED
    if name in _SCATTERS and not (x.dtype is bool_ and name != "index_copy"):
        return SCATTER
    if name in _EXTREMA and x.type.size and x.dtype is not bool_:
        return SCAN
    reasons[node] = f"there is no native code for {node.op.name} of {x.type}"
    return PYTHON
