"""The after-each hook that the options ask for: verify, dump, log."""

from __future__ import annotations

import itertools
import os
import re
import sys
from time import perf_counter

from .. import config
from ..graph import Graph
from ..printer import show
from ..verify import verify
from .pipeline import AfterEach, GraphPass

_numbers = itertools.count()


def observer() -> AfterEach | None:
    """What ``verify``, ``dump_to`` and ``log`` ask for after each pass; None if nothing."""
    verifying, folder = config.verify.get(), config.dump_to.get()
    logging = "passes" in config.log.get()
    if not (verifying or folder or logging):
        return None
    started = perf_counter()

    def after_each(before: Graph, pass_: GraphPass, after: Graph) -> None:
        nonlocal started
        if logging:
            elapsed = (perf_counter() - started) * 1e3
            print(
                f"{pass_.name} @{after.name}: {len(before.nodes)} -> {len(after.nodes)} nodes, "
                f"{elapsed:.1f} ms",
                file=sys.stderr,
            )
        if folder:
            dump(after, pass_.name, folder)
        if verifying:
            verify(after, after=pass_.name)
        started = perf_counter()

    return after_each


def dump(graph: Graph, stage: str, folder: str) -> str:
    """Write the text of a graph to the next numbered file of a folder, and return its path."""
    os.makedirs(folder, exist_ok=True)
    name = re.sub(r"[^\w.-]", "_", f"{next(_numbers):04d}_{graph.name}_{stage}.ir")
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(show(graph))
    return path
