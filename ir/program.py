"""What is handed to a back end: a graph, and what its outputs are for."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from .graph import Graph, Node


class Program:
    """A graph whose outputs may be results, updates of inputs, or guards.

    Attributes:
        graph: the computation.
        updates: output number -> input number: the output is written into that input's memory, after
            everything has been read and all guards have passed. Same type as the input.
        guards: output numbers of 0-d ``b1`` values that must all be true. If one is not, nothing is written
            and the program reports that it did not run.

    The remaining outputs, in order, are the results: freshly allocated arrays.
    """

    __slots__ = ("graph", "guards", "updates")

    def __init__(
        self,
        graph: Graph,
        updates: dict[int, int] | None = None,
        guards: frozenset[int] = frozenset(),
    ) -> None:
        self.graph = graph
        self.updates = {} if updates is None else updates
        self.guards = guards

    @property
    def result_numbers(self) -> list[int]:
        """The output numbers of the results."""
        return [
            number
            for number in range(len(self.graph.outputs))
            if number not in self.updates and number not in self.guards
        ]

    def replace_graph(self, graph: Graph) -> Program:
        """The same roles for another graph with as many outputs."""
        return Program(graph, self.updates, self.guards)


class Fallback(NamedTuple):
    """A node that native code does not cover, and why."""

    node: Node
    reason: str


class Executable(Protocol):
    """A program that can be run.

    Attributes:
        program: what it runs.
        fallbacks: nodes that are interpreted.
    """

    program: Program
    fallbacks: list[Fallback]

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray] | None:
        """Run once.

        Args:
            inputs: one array per graph input, of its type; any layout.

        Returns:
            The results, or None where a guard failed; then nothing was written.

        Raises:
            IndexError: an index operand is out of bounds; nothing was written.
        """
        ...
