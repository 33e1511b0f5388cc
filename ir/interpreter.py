"""The interpreter: NumPy, node by node. It defines what every op and every graph means.

All other ways of running are tested against it, and it runs what cannot be compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .graph import Graph, Node
from .numpy_errors import quiet
from .op import registered
from .ops.source import constant_array
from .program import Fallback, Program

_CONST = registered("const")


def evaluate_node(node: Node, operands: Sequence[np.ndarray]) -> np.ndarray:
    """The value of one node from those of its operands."""
    if node.op is _CONST:
        return constant_array(node.attrs["value"], node.type)
    value = node.op.eval(*operands, **node.attrs)
    return value if value.__class__ is np.ndarray else np.asarray(value)


def evaluate(graph: Graph, inputs: Sequence[Any]) -> list[np.ndarray]:
    """The outputs of a graph. Values are dropped after their last use.

    Args:
        inputs: one array per graph input, of its type.

    Raises:
        TypeError: an input is not of the declared type.
    """
    if len(inputs) != len(graph.inputs):
        raise TypeError(f"@{graph.name} takes {len(graph.inputs)} inputs, but got {len(inputs)}")
    values: dict[Node, np.ndarray] = {}
    for node, value in zip(graph.inputs, inputs, strict=True):
        array = np.asarray(value)
        if array.dtype != node.dtype.np or array.shape != node.shape:
            raise TypeError(
                f"input {node.hint or ''} of @{graph.name} is {node.type}, "
                f"but got {array.dtype}{list(array.shape)}"
            )
        values[node] = array
    last_use: dict[Node, Node] = {}
    for node in graph.nodes:
        for operand in node.inputs:
            last_use[operand] = node
    for output in graph.outputs:
        last_use.pop(output, None)
    with quiet():
        for node in graph.nodes:
            values[node] = evaluate_node(node, [values[x] for x in node.inputs])
            for operand in node.inputs:
                if last_use.get(operand) is node:
                    values.pop(operand, None)
    return [values[output] for output in graph.outputs]


class InterpretedExecutable:
    """Runs a program with the interpreter: the back end where there is no native one."""

    def __init__(self, program: Program, reason: str) -> None:
        self.program = program
        self.fallbacks = [Fallback(node, reason) for node in program.graph.nodes]

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray] | None:
        """See :class:`tracegrad.ir.program.Executable`."""
        outputs = evaluate(self.program.graph, inputs)
        if not all(outputs[number] for number in self.program.guards):
            return None
        # Results and updates must not alias what is about to be overwritten, nor one another.
        results = [np.array(outputs[n], order="C") for n in self.program.result_numbers]
        updates = [(inputs[i], np.array(outputs[o])) for o, i in self.program.updates.items()]
        for target, value in updates:
            target[...] = value
        return results
