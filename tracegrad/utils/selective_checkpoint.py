"""Selective checkpoints: which operations of a checkpointed function are computed again, and which are kept.

Operations go by their names, those that ``f.ir()`` prints: ``"matmul"``, ``"exp"``, ``"sum"``. While the function
runs, :class:`Keeping` asks the user's policy about each of them (``state.selective``, in
:mod:`tracegrad.dispatch`); while it runs again, :class:`Recalling` gives back what was kept. Start with
:func:`create_selective_checkpoint_contexts`.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.ir.op import Op, all_ops
from tracegrad.node import VersionCounter
from tracegrad.tensor import Tensor

_MISMATCH = (
    "This can happen if the operations in the checkpointed region are nondeterministic or depend on global state that "
    "changed between forward and backward."
)


class CheckpointPolicy(enum.Enum):
    """What is to become of the result of an operation.

    ``PREFER`` and ``MUST`` are the same here, and to offload to the CPU is to save.
    """

    MUST_SAVE = 0
    PREFER_SAVE = 1
    MUST_RECOMPUTE = 2
    PREFER_RECOMPUTE = 3
    MUST_CPU_OFFLOAD = 4
    PREFER_CPU_OFFLOAD = 5


_RECOMPUTING = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)


class SelectiveCheckpointContext:
    """What a policy is told of an operation beside its arguments.

    Attributes:
        is_recompute: False: policies are asked in the forward pass only.
        op_output: the result.
    """

    def __init__(self, *, is_recompute: bool, op_output: Any = None) -> None:
        self.is_recompute = is_recompute
        self.op_output = op_output


class _Kept(NamedTuple):
    """A result that was kept: its memory, and how to see whether it was changed in place since."""

    array: np.ndarray
    counter: VersionCounter
    version: int


_RECOMPUTE = object()
_CONSUMED = object()


class _Mode:
    """A context in which operations are counted by name.

    Attributes:
        storage: for each operation, by name and number: a :class:`_Kept`, or one of the two marks.
    """

    def __init__(self, storage: dict[tuple[str, int], Any]) -> None:
        self.storage = storage
        self._counts: Counter[str] = Counter()
        self._outer: list[Any] = []

    def __enter__(self) -> None:
        self._counts.clear()
        self._outer.append(state.selective)
        state.selective = self

    def __exit__(self, *exc_info: object) -> None:
        state.selective = self._outer.pop()

    def _next(self, op: Op) -> int:
        number = self._counts[op.name]
        self._counts[op.name] += 1
        return number

    def recall(self, op: Op) -> np.ndarray | None:
        """The result of the operation that is about to be evaluated, if it is known."""
        return None

    def evaluated(
        self, op: Op, operands: Sequence[Any], attrs: dict[str, Any], out: Tensor
    ) -> None:
        """An operation has this result."""


class Keeping(_Mode):
    """The context of the forward pass: asks the policy, and keeps results."""

    def __init__(self, policy: Callable[..., Any], storage: dict[tuple[str, int], Any]) -> None:
        super().__init__(storage)
        self._policy = policy

    def evaluated(
        self, op: Op, operands: Sequence[Any], attrs: dict[str, Any], out: Tensor
    ) -> None:
        context = SelectiveCheckpointContext(is_recompute=False, op_output=out)
        state.selective = None
        try:
            policy = self._policy(context, op.name, *operands, **attrs)
        finally:
            state.selective = self
        entry: Any = _RECOMPUTE
        wanted = policy if isinstance(policy, bool) else policy not in _RECOMPUTING
        if wanted and not _is_view(out, operands):
            counter = out._version_counter()
            entry = _Kept(out._data, counter, counter.value)
        self.storage[op.name, self._next(op)] = entry


def _is_view(out: Tensor, operands: Sequence[Any]) -> bool:
    """Whether a result shows the memory of an operand: nothing is computed then."""
    return any(isinstance(x, Tensor) and np.may_share_memory(out._data, x._data) for x in operands)


class Recalling(_Mode):
    """The context of the recomputation: gives back what was kept, once."""

    def __init__(self, storage: dict[tuple[str, int], Any], allow_mutation: bool) -> None:
        super().__init__(storage)
        self._allow_mutation = allow_mutation

    def recall(self, op: Op) -> np.ndarray | None:
        """What was kept of the operation; None if it is to be computed again.

        Raises:
            RuntimeError: the function did something else in the forward pass, this is the second backward pass, or
                what was kept was changed in place.
        """
        key = op.name, self._next(op)
        entry = self.storage.get(key)
        if entry is None:
            which = (
                op.name
                if (op.name, 0) not in self.storage
                else f"{op.name} invocation index {key[1]}"
            )
            raise RuntimeError(
                f"{which} encountered during backward but not found in storage. {_MISMATCH}"
            )
        if entry is _RECOMPUTE:
            return None
        if entry is _CONSUMED:
            raise RuntimeError(
                "Trying to backward an extra time. You are only allowed to backward once on any region computed under "
                "selective activation checkpoint."
            )
        self.storage[key] = _CONSUMED
        if entry.counter.value != entry.version and not self._allow_mutation:
            raise RuntimeError(
                "Tensor cached during selective activation checkpoint has been mutated"
            )
        return entry.array


def create_selective_checkpoint_contexts(
    policy_fn_or_list: Any, allow_cache_entry_mutation: bool = False
) -> tuple[Any, Any]:
    """Contexts for ``checkpoint(..., context_fn=...)`` that keep the results of some operations.

    Args:
        policy_fn_or_list: names of operations whose results are kept; or ``policy(ctx, op, *args, **kwargs)``, which
            returns a `CheckpointPolicy`, or whether to keep the result. `op` is the operation's name, in place of
            torch's overload; `ctx` a `SelectiveCheckpointContext`. Views are always made again.
        allow_cache_entry_mutation: do not mind that a kept result was changed in place.

    Raises:
        ValueError: no operation has such a name.
        TypeError: neither a function nor a list.
    """
    policy = policy_fn_or_list
    if isinstance(policy_fn_or_list, list):
        names = {op.name for op in all_ops()}
        for name in policy_fn_or_list:
            if not (isinstance(name, str) and name in names):
                raise ValueError(
                    f"Expected op in `op_list` to be the name of an operation but got: {name} of type {type(name)}."
                )
        kept = frozenset(policy_fn_or_list)

        def policy(ctx: Any, op: str, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            return CheckpointPolicy.MUST_SAVE if op in kept else CheckpointPolicy.PREFER_RECOMPUTE

    elif not callable(policy_fn_or_list):
        raise TypeError("policy_fn_or_list must be either a function or a list of ops.")
    storage: dict[tuple[str, int], Any] = {}
    return Keeping(policy, storage), Recalling(storage, allow_cache_entry_mutation)
