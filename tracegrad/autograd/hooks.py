"""Running hooks in the middle of the backward pass, and checking what they return.

In one record the order is: hooks of the result tensors, as registered; `retain_grad`; pre-hooks of the record;
its rule; post-hooks of the record. A leaf has the same order, with the accumulation into `grad` as its rule, and
post-accumulate hooks straight after that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.ir.batching import Batched
from tracegrad.tensor import Tensor, mark_made, new_tensor

Hooks = dict[int, Callable[..., Any]]


def to_tensor(ct: Any) -> Tensor:
    """A cotangent as a Tensor."""
    if isinstance(ct, Tensor):
        return ct
    data: Any = ct if ct.__class__ is Batched else np.asarray(ct)
    return mark_made(new_tensor(data))


def tell_trace(reason: str = "a hook runs Python code during the backward pass") -> None:
    """Hooks are Python code in the middle of the backward pass: a trace cannot contain them."""
    if state.trace is not None:
        state.trace.give_up(reason)


def run_tensor_hooks(hooks: Hooks, ct: Any, as_tensors: bool) -> Any:
    """Run the hooks on one cotangent (or None) in the order in which they were registered.

    Raises:
        TypeError, RuntimeError: one returned something that cannot replace the cotangent.
    """
    tell_trace()
    gradient = None if ct is None else to_tensor(ct)
    for hook in list(hooks.values()):
        replaced = hook(gradient)
        if replaced is not None:
            gradient = _checked(hook, replaced, gradient)
    return gradient if as_tensors or gradient is None else gradient._data


def run_pre_hooks(hooks: Hooks, ct: Any, several: bool, as_tensors: bool) -> Any:
    """Run pre-hooks on the cotangents of a record: a list if it has several results."""
    tell_trace()
    gradients = _as_tensors(ct if several else [ct])
    for hook in list(hooks.values()):
        replaced = hook(gradients)
        if replaced is not None:
            gradients = _checked_tuple(hook, replaced, gradients)
    values = _unwrap(gradients, as_tensors)
    return values if several else values[0]


def run_post_hooks(
    hooks: Hooks, pulled: Sequence[Any], ct: Any, several: bool, as_tensors: bool
) -> list[Any]:
    """Run post-hooks on what a record returned."""
    tell_trace()
    outputs = _as_tensors(ct if several else [ct])
    gradients = _as_tensors(pulled)
    for hook in list(hooks.values()):
        replaced = hook(gradients, outputs)
        if replaced is not None:
            gradients = _checked_tuple(hook, replaced, gradients)
    return _unwrap(gradients, as_tensors)


def _as_tensors(cts: Sequence[Any]) -> tuple[Tensor | None, ...]:
    return tuple(None if ct is None else to_tensor(ct) for ct in cts)


def _unwrap(gradients: Sequence[Any], as_tensors: bool) -> list[Any]:
    return [g if as_tensors or g is None else g._data for g in gradients]


def _name(hook: Any) -> str:
    return getattr(hook, "__name__", None) or "<unknown>"


def _checked_tuple(
    hook: Any, replaced: Any, gradients: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    if not isinstance(replaced, tuple):
        raise TypeError(f"expected tuple, but hook returned '{type(replaced).__name__}'")
    if len(replaced) != len(gradients):
        raise RuntimeError(
            f"hook '{_name(hook)}' has returned an incorrect number of values (got {len(replaced)}, but "
            f"expected {len(gradients)})"
        )
    for new, old in zip(replaced, gradients, strict=True):
        if new is not None:
            _checked(hook, new, old)
    return replaced


def _checked(hook: Any, replaced: Any, gradient: Tensor | None) -> Tensor:
    if not isinstance(replaced, Tensor):
        raise TypeError(f"expected Variable, but hook returned '{type(replaced).__name__}'")
    if gradient is None:
        raise RuntimeError("can't replace a None gradient with a non-None value")
    if replaced._data.dtype != gradient._data.dtype:
        raise RuntimeError(
            f"hook '{_name(hook)}' has changed the type of value (was {gradient.type()} got "
            f"{replaced.type()})"
        )
    if replaced._data.shape != gradient._data.shape:
        raise RuntimeError(f"hook '{_name(hook)}' has changed the size of value")
    return replaced
