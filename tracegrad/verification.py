"""``tg.compile(check=True)``: each native run is compared with an interpreted one.

:class:`CheckedExecutable` stands in the place of native code. It lets that work on copies, evaluates the same graph
with the interpreter, and compares all that would become visible: results, updates, and whether the guards hold. Only
then anything is written. Where they differ by more than rounding, the first node is looked for at which they do:
the graph is compiled once more with every node as a result, so that each can be computed from the values that native
code has found for its operands. Start reading at :meth:`CheckedExecutable.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tracegrad.ir.errors import MismatchError
from tracegrad.ir.graph import Node
from tracegrad.ir.interpreter import evaluate_node
from tracegrad.ir.numpy_errors import quiet
from tracegrad.ir.printer import format_node, value_names
from tracegrad.ir.program import Executable, Program
from tracegrad.rounding import differing, moved_operands, moved_values

_FUSED = "\nEach operation alone is right: what differs is what they are made into together."


class _Interpreted(NamedTuple):
    """A run of the interpreter.

    Attributes:
        values: of all nodes, up to where it stopped.
        stopped: the node of a guard that does not hold, or that raised `error`; None if all ran.
        error: what the node raised.
    """

    values: dict[Node, np.ndarray]
    stopped: Node | None
    error: Exception | None


class CheckedExecutable:
    """Native code that is compared with the interpreter; see :class:`tracegrad.ir.program.Executable`.

    Attributes:
        program, fallbacks: of the native code.
        native: the native code itself.
        once: whether the first run alone is compared.
        passed: how many runs have been compared.
    """

    def __init__(
        self, native: Executable, compile_program: Callable[[Program], Executable], *, once: bool
    ) -> None:
        self.program = native.program
        self.fallbacks = native.fallbacks
        self.native = native
        self.once = once
        self.passed = 0
        self._compile = compile_program

    def __getattr__(self, name: str) -> Any:
        """What native code can show of itself: ``llvm_text``, ``assembly``, ``kernels_text``."""
        if name in ("llvm_text", "assembly", "kernels_text"):
            return getattr(self.native, name)
        raise AttributeError(name)

    @property
    def settled(self) -> bool:
        """Whether nothing more will be compared."""
        return self.once and self.passed > 0

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray] | None:
        """Run natively, and compare before anything is written.

        Raises:
            MismatchError: native code is wrong. Nothing was written.
            IndexError: as the program does.
        """
        if self.settled:
            return self.native.run(inputs)
        updates = self.program.updates
        copies = list(inputs)
        for number in updates.values():
            copies[number] = inputs[number].copy()
        interpreted = self._interpret(inputs)
        error: Exception | None = None
        try:
            results = self.native.run(copies)
        except Exception as raised:
            results, error = None, raised
        if results is None or interpreted.stopped is not None:
            self._compare_ways_out(inputs, interpreted, results is not None)
            if error is not None:
                raise error
            return None
        outputs = [*zip(self.program.result_numbers, results, strict=True)]
        outputs += [(output, copies[number]) for output, number in updates.items()]
        self._compare(inputs, interpreted, outputs)
        for number in updates.values():
            inputs[number][...] = copies[number]
        self.passed += 1
        return results

    def _interpret(self, inputs: Sequence[np.ndarray]) -> _Interpreted:
        graph = self.program.graph
        guards = {graph.outputs[number] for number in self.program.guards}
        values = dict(zip(graph.inputs, inputs, strict=True))
        with quiet():
            for node in graph.nodes:
                try:
                    values[node] = evaluate_node(node, [values[x] for x in node.inputs])
                except Exception as error:
                    return _Interpreted(values, node, error)
                if node in guards and not values[node]:
                    return _Interpreted(values, node, None)
        stopped = next((node for node in guards if not values[node]), None)
        return _Interpreted(values, stopped, None)

    def _compare_ways_out(
        self, inputs: Sequence[np.ndarray], interpreted: _Interpreted, native_ran: bool
    ) -> None:
        """One of the two did not run to the end: did both not, or may rounding have decided it?"""
        if not native_ran and interpreted.stopped is not None:
            return
        guards = [self.program.graph.outputs[number] for number in self.program.guards]
        outcomes = self._moved(inputs, lambda values: all(values[node] for node in guards))
        if any(passed is native_ran for passed in outcomes) or (native_ran and not outcomes):
            return
        node = interpreted.stopped
        if node is None:
            culprit = self._culprit(inputs)
            node = culprit[0] if culprit else guards[0] if guards else self.program.graph.nodes[-1]
        ends = "runs to the end", f"stops ({interpreted.error or 'a guard does not hold'})"
        if not native_ran:
            ends = "stops (a guard does not hold, or an index is out of bounds)", "runs to the end"
        raise self._mismatch(node, *ends, "")

    def _moved(
        self,
        inputs: Sequence[np.ndarray],
        keep: Callable[[dict[Node, np.ndarray]], Any],
    ) -> list[Any]:
        graph = self.program.graph
        given = dict(zip(graph.inputs, inputs, strict=True))
        with quiet():
            return moved_values(graph.nodes, given, keep)

    def _compare(
        self,
        inputs: Sequence[np.ndarray],
        interpreted: _Interpreted,
        outputs: Sequence[tuple[int, np.ndarray]],
    ) -> None:
        """Compare results and updates, given with the numbers of the program's outputs."""
        nodes = self.program.graph.outputs
        suspects = [
            (nodes[number], array)
            for number, array in outputs
            if differing(array, interpreted.values[nodes[number]]).any()
        ]
        if not suspects:
            return
        moved = self._moved(inputs, lambda values: [values[node] for node, _ in suspects])
        for position, (node, array) in enumerate(suspects):
            wanted = interpreted.values[node]
            if not differing(array, wanted, [values[position] for values in moved]).any():
                continue
            culprit = self._culprit(inputs)
            if culprit is None:
                raise self._mismatch(node, array, wanted, _FUSED)
            raise self._mismatch(*culprit, "")

    def _culprit(self, inputs: Sequence[np.ndarray]) -> tuple[Node, np.ndarray, np.ndarray] | None:
        """The first node that native code computes wrongly from its operands; None if none is found.

        Returns:
            The node, its native value, and what it should be, given the native values of its operands.
        """
        graph = self.program.graph
        native = self._compile(Program(graph.replace(outputs=graph.nodes)))
        try:
            results = native.run(list(inputs))
        except Exception:  # An index is out of bounds, which has its own message.
            return None
        assert results is not None
        values = dict(zip(graph.inputs, inputs, strict=True))
        with quiet():
            for node, got in zip(graph.nodes, results, strict=True):
                operands = [values[x] for x in node.inputs]
                wanted = evaluate_node(node, operands)
                values[node] = got
                if differing(got, wanted).any():
                    moved = [evaluate_node(node, other) for other in moved_operands(operands)]
                    if differing(got, wanted, moved).any():
                        return node, got, wanted
        return None

    def _mismatch(self, node: Node, native: Any, interpreted: Any, why: str) -> MismatchError:
        names = value_names(self.program.graph)
        text = format_node(node, names) if node.op.name != "input" else f"%{names[node]}"
        return MismatchError(
            f"native code of @{self.program.graph.name} differs from the interpreter at\n  {text}\n"
            f"  {_described(native, interpreted)}{why}",
            node, native, interpreted,
        )  # fmt: skip


def _described(native: Any, interpreted: Any) -> str:
    """Both values, at the first element that differs."""
    if isinstance(native, str):
        return f"native: {native}\n  interpreted: {interpreted}"
    wrong = differing(native, interpreted)
    where = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    element = f" at [{', '.join(map(str, where))}]" if where else ""
    count = int(wrong.sum())
    others = f" ({count} of {wrong.size} elements differ)" if wrong.size > 1 else ""
    return (
        f"native: {native[where].item()!r}{element}{others}\n"
        f"  interpreted: {interpreted[where].item()!r}"
    )
