"""Passes: named pure functions from graph to graph. Start reading at :func:`optimize`."""

from __future__ import annotations

from ..graph import Graph

# The rules of canonicalization register themselves.
from . import algebra, movement
from .canonicalize import canonicalize
from .constant_fold import fold_constants
from .cse import eliminate_common_subexpressions
from .dce import eliminate_dead_code
from .expand import expand
from .observe import dump, observer
from .partition import Partition, partition
from .pipeline import PASSES, AfterEach, GraphPass, PassPipeline, graph_pass

DEFAULT: tuple[GraphPass, ...] = (
    eliminate_dead_code,
    canonicalize,
    fold_constants,
    expand,
    eliminate_common_subexpressions,
    canonicalize,  # Operands that have become the same node enable more rules.
    eliminate_dead_code,
)


def optimize(graph: Graph) -> Graph:
    """Run the default passes, observed as the options say. No result changes in any bit."""
    return PassPipeline(DEFAULT, observer())(graph)


__all__ = [
    "DEFAULT", "PASSES", "AfterEach", "GraphPass", "Partition", "PassPipeline", "algebra",
    "canonicalize", "dump", "eliminate_common_subexpressions", "eliminate_dead_code",
    "expand", "fold_constants", "graph_pass", "movement", "observer", "optimize", "partition",
]  # fmt: skip
