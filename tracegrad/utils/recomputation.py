"""Checkpoints without reentrance: saved tensors are computed again when the backward pass reads them.

While the function runs, hooks on saved tensors (:mod:`tracegrad.saved`) keep a :class:`_Holder` in the place of each
tensor. The first one that is read in a backward pass has the function run again, with hooks that catch the same
tensors in the same order, until the last of them is there. Start with :class:`Frame`.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from tracegrad.autograd.graph import saved_tensors_hooks
from tracegrad.dispatch import edge_of
from tracegrad.grad_mode import enable_grad, state
from tracegrad.ir.location import current_location
from tracegrad.node import modified_error
from tracegrad.saved import PackedTensor, pack_tensor
from tracegrad.tensor import Tensor, version_of

_TIP = (
    "\nTip: To see a more detailed error message, either pass `debug=True` to `checkpoint(...)` or wrap the code block "
    "with `with set_checkpoint_debug_enabled(True):` to enable checkpoint-debug mode globally."
)
_numbers = itertools.count(-1, -1)
"""Of looks at saved tensors outside of any backward pass; those of backward passes are positive."""


class CheckpointError(RuntimeError):
    """The function did something else when it was computed again."""


class _StopRecomputation(Exception):  # noqa: N818 (nothing went wrong)
    """All that was saved has been computed again."""


class _Handle:
    """Keeps one tensor that was computed again alive, for one backward pass."""

    __slots__ = ("__weakref__",)


class _Holder:
    """Stands in a record for a tensor.

    Attributes:
        handles: by the number of the backward pass; None once the tensor was read.
    """

    __slots__ = ("__weakref__", "handles")

    def __init__(self) -> None:
        self.handles: dict[int, _Handle | None] = {}


class OperationLog:
    """A context that notes all operations, for messages. Takes the place of a selective checkpoint's mode."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __enter__(self) -> None:
        self.lines.clear()
        self._outer, state.selective = state.selective, self

    def __exit__(self, *exc_info: object) -> None:
        state.selective = self._outer

    def recall(self, op: Any) -> None:
        """Nothing is known."""

    def evaluated(
        self, op: Any, operands: Sequence[Any], attrs: dict[str, Any], out: Tensor
    ) -> None:
        """Note an operation, with the user's line."""
        given = ", ".join(_in_words(x) for x in operands)
        location = current_location()
        where = "" if location is None else f"  at {location.describe()}"
        self.lines.append(f"{op.name}({given}) -> {_in_words(out)}{where}")

    def text(self) -> str:
        """One line or more for each operation."""
        return "\n".join(self.lines)


def _in_words(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if isinstance(x, Tensor) else str(x)


def _metadata(x: Tensor) -> dict[str, Any]:
    return {"shape": x.shape, "dtype": x.dtype, "device": x.device}


class Frame:
    """One call of a checkpointed function.

    Args:
        function: takes the positional arguments; what runs again.
        args: the positional arguments. Those that are tensors must not be changed in place.
        early_stop: whether to leave the function when the last saved tensor has been computed again.
        checked: whether shapes and dtypes are compared.
        logs: the operations of both runs, for messages; or None.

    Attributes:
        completed: whether the first run is over.
        holders: weak references to the holders, in order.
        recomputed: by the number of the backward pass, the tensors that were computed again.
        counts: likewise how many there were.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        *,
        early_stop: bool,
        checked: bool,
        logs: tuple[OperationLog, OperationLog] | None,
    ) -> None:
        self._function = function
        self._args = [_kept(x) for x in args]
        self._early_stop = early_stop
        self._checked = checked
        self._logs = logs
        self._before: list[Any] = []
        self.completed = self._loose = False
        self.holders: list[weakref.ref[_Holder]] = []
        self.recomputed: dict[int, WeakKeyDictionary[_Handle, Tensor]] = {}
        self.counts: Counter[int] = Counter()

    def hooks(self) -> saved_tensors_hooks:
        """The context of the function's first run."""
        return saved_tensors_hooks(self._pack, self._unpack)

    def complete(self) -> None:
        """The first run is over."""
        self.completed = True

    def _pack(self, x: Tensor) -> _Holder:
        holder = _Holder()
        self.holders.append(weakref.ref(holder))
        self._before.append(_metadata(x))
        return holder

    def _unpack(self, holder: _Holder) -> Tensor:
        number = next(_numbers) if state.task is None else state.task.number
        try:
            if number not in self.recomputed:
                self._recompute(number)
            if holder.handles[number] is None:
                raise CheckpointError(
                    "torch.utils.checkpoint: Unpack is being triggered for a tensor that was already unpacked once. "
                    "If you are calling ctx.saved_tensors in backward, make sure to do so only once."
                )
        except CheckpointError as error:
            if self._logs is None:
                raise
            raise CheckpointError(_DEBUGGED.format(*[log.text() for log in self._logs])) from error
        handle = holder.handles[number]
        assert handle is not None
        holder.handles[number] = None
        return self.recomputed[number][handle]

    def _recompute(self, number: int) -> None:
        """Run the function again, and keep what is saved now.

        Raises:
            CheckpointError: it saved something else.
            RuntimeError: an argument was changed in place.
        """
        args = [_given(x) for x in self._args]
        self.recomputed[number] = WeakKeyDictionary()
        try:
            hooks = saved_tensors_hooks(lambda x: self._catch(number, x), lambda x: x)
            with hooks, enable_grad():
                self._function(*args)
        except _StopRecomputation:
            pass
        except BaseException:
            del self.recomputed[number]
            raise
        if not self._loose:
            self._compare(number)

    def _catch(self, number: int, x: Tensor) -> Tensor:
        """The hook on what is saved in the second run."""
        x = x.detach()
        index = self.counts[number]
        self.counts[number] += 1
        if index >= len(self.holders):
            if not self.completed:  # A backward pass inside of the function.
                self._loose = True
                return x
            raise CheckpointError(
                "torch.utils.checkpoint: trying to save more tensors during recomputation than during the original "
                f"forward pass.\n{_TIP}"
            )
        holder = self.holders[index]()
        if holder is not None:
            handle = holder.handles[number] = _Handle()
            self.recomputed[number][handle] = x
        if self._early_stop and index + 1 == len(self.holders):
            raise _StopRecomputation
        return x

    def _compare(self, number: int) -> None:
        """Raise torch's errors where the function did something else."""
        if self.counts[number] != len(self.holders):
            raise CheckpointError(
                "torch.utils.checkpoint: A different number of tensors was saved during the original forward and "
                f"recomputation.\nNumber of tensors saved during forward: {len(self.holders)}\nNumber of tensors "
                f"saved during recomputation: {self.counts[number]}.\n{_TIP}"
            )
        if not self._checked:
            return
        different = ""
        for index, reference in enumerate(self.holders):
            holder = reference()
            handle = None if holder is None else holder.handles[number]
            if handle is None:
                continue
            now = _metadata(self.recomputed[number][handle])
            if now != self._before[index]:
                different += (
                    f"tensor at position {index}:\nsaved metadata: {self._before[index]}\n"
                    f"recomputed metadata: {now}\n"
                )
        if different:
            raise CheckpointError(
                "torch.utils.checkpoint: Recomputed values for the following tensors have different metadata than "
                f"during the forward pass.\n{different}.\n{_TIP}"
            )


_DEBUGGED = """ An error happened while unpacking tensors; dumping logs of latest computation
because you passed `debug=True` to `torch.utils.checkpoint.checkpoint()`.

Operations executed during the original forward:

{}

Operations executed during recomputation:

{}

 ERROR: Detected non-determinism while running activation checkpointing
"""


class _Argument(NamedTuple):
    tensor: Tensor
    version: int


def _kept(x: Any) -> Any:
    """An argument as it is kept: packed for an outer checkpoint, or with its version."""
    if not isinstance(x, Tensor):
        return x
    if state.saved_hooks is None:
        return _Argument(x, version_of(x))
    return pack_tensor(x, edge_of(x))


def _given(kept: Any) -> Any:
    """The argument again. Raises RuntimeError where it was changed in place."""
    if isinstance(kept, PackedTensor):
        return kept.restore()
    if not isinstance(kept, _Argument):
        return kept
    x, version = kept
    if version_of(x) != version:
        raise modified_error(x._data, x._grad_fn, x._version_counter(), version, None)
    return x
