"""What a pass is, and running one after the other.

A pass is a named pure function from graph to graph that returns its argument where nothing
changes. Start reading at :class:`PassPipeline`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .. import events
from ..graph import Graph

AfterEach = Callable[[Graph, "GraphPass", Graph], None]
"""Called as ``after_each(graph_before, pass_, graph_after)``."""

PASSES: dict[str, GraphPass] = {}
"""Every declared pass by name."""


class GraphPass:
    """A pass with its name; call it with a graph."""

    __slots__ = ("function", "name")

    def __init__(self, name: str, function: Callable[..., Graph]) -> None:
        self.name = name
        self.function = function

    def __call__(self, graph: Graph) -> Graph:
        return self.function(graph)

    def bind(self, **options: Any) -> GraphPass:
        """The same pass with options."""
        return GraphPass(self.name, functools.partial(self.function, **options))

    def __repr__(self) -> str:
        return f"<pass {self.name}>"


def graph_pass(name: str) -> Callable[[Callable[..., Graph]], GraphPass]:
    """Declare a pass. Raises ValueError where the name is taken."""

    def declare(function: Callable[..., Graph]) -> GraphPass:
        if name in PASSES:
            raise ValueError(f"pass {name!r} is declared twice")
        PASSES[name] = GraphPass(name, function)
        return PASSES[name]

    return declare


class PassPipeline:
    """Passes in order.

    Attributes:
        passes: what is run.
        after_each: the one hook, called after each pass: for verifying, dumping and timing.
    """

    __slots__ = ("after_each", "passes")

    def __init__(self, passes: Sequence[GraphPass], after_each: AfterEach | None = None) -> None:
        self.passes = tuple(passes)
        self.after_each = after_each

    def __call__(self, graph: Graph) -> Graph:
        """Run the passes. An error gets a note that says in which pass it arose, after which."""
        for number, pass_ in enumerate(self.passes):
            token = events.begin(pass_.name, events.PASS)
            try:
                result = pass_(graph)
                if self.after_each is not None:
                    self.after_each(graph, pass_, result)
            except Exception as error:
                done = ", ".join(earlier.name for earlier in self.passes[:number])
                error.add_note(f"in pass {pass_.name}" + (f", after {done}" if done else ""))
                raise
            finally:
                events.end(token)
            graph = result
        return graph
