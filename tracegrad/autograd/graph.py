"""``tracegrad.autograd.graph``: the records as users may inspect them, and hooks on what they save.

`saved_tensors_hooks` is the mechanism (see :mod:`tracegrad.saved`). `GradientEdge` names a place in the graph.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tracegrad.autograd.mutation import SavedCopies
from tracegrad.grad_mode import state
from tracegrad.node import UNTRACKED, GradientEdge, Node, RemovableHandle
from tracegrad.tensor import Tensor

__all__ = [
    "GradientEdge",
    "Node",
    "allow_mutation_on_saved_tensors",
    "disable_saved_tensors_hooks",
    "get_gradient_edge",
    "increment_version",
    "register_multi_grad_hook",
    "save_on_cpu",
    "saved_tensors_hooks",
]


class saved_tensors_hooks:  # noqa: N801 (torch's name)
    """While on, ``pack_hook(tensor)`` is kept instead of each tensor that an operation saves for backward.

    ``unpack_hook(packed)`` gives the tensor back whenever it is read. The innermost pair counts. To be used in a
    ``with`` block. Compiled functions run eagerly inside.

    Raises:
        TypeError: on entry: one of them cannot be called.
        RuntimeError: on entry: hooks are disabled.
    """

    def __init__(
        self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]
    ) -> None:
        self.pack_hook = pack_hook
        self.unpack_hook = unpack_hook
        self._outer: list[Any] = []

    def __enter__(self) -> None:
        if not (callable(self.pack_hook) and callable(self.unpack_hook)):
            raise TypeError(
                "_push_saved_tensors_default_hooks(): incompatible function arguments. The following argument types "
                "are supported:\n    1. (arg0: collections.abc.Callable, arg1: collections.abc.Callable) -> None"
            )
        if state.saved_hooks_disabled is not None:
            raise RuntimeError(state.saved_hooks_disabled)
        if state.trace is not None:
            state.trace.give_up("hooks pack what is saved for backward")
        self._outer.append(state.saved_hooks)
        state.saved_hooks = self.pack_hook, self.unpack_hook

    def __exit__(self, *exc_info: object) -> None:
        state.saved_hooks = self._outer.pop()


class save_on_cpu(saved_tensors_hooks):  # noqa: N801
    """Keeps saved tensors in the CPU's memory, where all tensors are: changes nothing."""

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda") -> None:
        super().__init__(lambda tensor: tensor.detach(), lambda tensor: tensor)


@contextmanager
def disable_saved_tensors_hooks(error_message: str) -> Iterator[None]:
    """Inside, to use `saved_tensors_hooks` raises a RuntimeError with this message."""
    if state.saved_hooks is not None:
        raise RuntimeError(error_message)
    before = state.saved_hooks_disabled
    state.saved_hooks_disabled = error_message
    try:
        yield
    finally:
        state.saved_hooks_disabled = before


@contextmanager
def allow_mutation_on_saved_tensors() -> Iterator[SavedCopies]:
    """Inside, tensors that are saved for backward may be changed in place: they are copied before.

    Both the forward and the backward pass must be inside. Compiled functions run eagerly.

    Returns:
        A context manager; what it gives has ``original`` and ``cloned``, what was saved as it is, and the copies.

    Raises:
        RuntimeError: it is on already.
        AssertionError: in a backward pass after the context's end.
    """
    if state.keeper is not None:
        raise RuntimeError("allow_mutation_on_saved_tensors contexts cannot be nested")
    copies = SavedCopies()
    with saved_tensors_hooks(copies.pack, copies.unpack):
        state.keeper = copies
        try:
            yield copies
        finally:
            state.keeper = None
            copies.clear()


def get_gradient_edge(tensor: Tensor) -> GradientEdge:
    """The edge at which the gradient of `tensor` is computed.

    Raises:
        RuntimeError: it does not require grad.
    """
    if not tensor.requires_grad:
        raise RuntimeError(
            "It is not possible to get the gradient edge for a Tensor that does not require gradients"
        )
    return GradientEdge(_record_of(tensor), tensor.output_nr)


def _record_of(tensor: Tensor | GradientEdge) -> Node:
    if isinstance(tensor, GradientEdge):
        return tensor.node
    node = tensor.grad_fn
    if node is None:
        if not tensor.requires_grad:
            raise AssertionError("Expected gradient function to be set")
        node = tensor._accumulator()
    return node


def increment_version(tensor: Tensor | Iterable[Tensor]) -> None:
    """Count a change of a tensor's (or several tensors') storage that autograd cannot know about.

    Raises:
        RuntimeError: something else than tensors was given.
    """
    if isinstance(tensor, Tensor):
        tensor = (tensor,)
    try:
        tensors = list(tensor)
    except TypeError:
        raise RuntimeError("increment_version expect a Iterable[Tensor] as input") from None
    if not all(isinstance(t, Tensor) for t in tensors):
        raise RuntimeError("increment_version expects each element of the iterable to be a tensor")
    if state.trace is not None:
        state.trace.give_up("increment_version")
    for t in tensors:
        counter = t._version_counter()
        if counter is not UNTRACKED:
            counter.value += 1


class _MultiHandle(RemovableHandle):
    """Removes the hooks of several tensors."""

    def __init__(self, handles: Sequence[RemovableHandle]) -> None:
        self._handles = handles

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def register_multi_grad_hook(
    tensors: Sequence[Tensor], fn: Callable[..., None], *, mode: str = "all"
) -> RemovableHandle:
    """Call `fn` once per backward pass when the gradients of several tensors have been computed.

    Args:
        tensors: those that take no part in a backward pass are not waited for.
        fn: is given the list of gradients (None for those that took no part); with mode "any", the first one.
        mode: "all" or "any".

    Raises:
        ValueError: there is no such mode.
    """
    if mode not in ("all", "any"):
        raise ValueError(f"Expects mode to be one of {('all', 'any')} but got {mode}")
    if mode == "any":
        return _call_once(tensors, fn)
    records = [_record_of(t) for t in tensors]
    lock = threading.Lock()
    found: dict[int, dict[int, Any]] = {}

    def hook_of(position: int) -> Callable[[Any], None]:
        def hook(gradient: Any) -> None:
            task = state.task
            with lock:
                gradients = found.setdefault(task.number, {})
                gradients[position] = gradient
                complete = len(gradients) == sum(map(task.will_execute, records))
            if complete:
                del found[task.number]
                fn([gradients.get(k) for k in range(len(records))])

        return hook

    return _MultiHandle([t.register_hook(hook_of(k)) for k, t in enumerate(tensors)])


def _call_once(tensors: Sequence[Tensor], fn: Callable[..., None]) -> RemovableHandle:
    """Call `fn` with the first gradient of each backward pass."""
    lock = threading.Lock()
    done: set[int] = set()

    def hook(gradient: Any) -> None:
        number = state.task.number
        with lock:
            if number in done:
                return
            done.add(number)
        fn(gradient)

    return _MultiHandle([t.register_hook(hook) for t in tensors if t.requires_grad])
