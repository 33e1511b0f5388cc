"""What becomes of a gradient that arrives: a leaf's ``grad``, and that of results with `retain_grad`.

A first gradient gets memory of its own, since the cotangent's may be a broadcast view or be shared with another
operand, and the leaf's memory layout where the leaf is dense. Later ones are added in place, unless the sum is to
be differentiated. Start with :func:`accumulate_hooked`.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any

import numpy as np

from tracegrad.autograd.hooks import run_post_hooks, run_pre_hooks, tell_trace
from tracegrad.dispatch import apply
from tracegrad.grad_mode import state
from tracegrad.inplace import apply_in_place
from tracegrad.ir import events
from tracegrad.ir.op import registered
from tracegrad.reporting import accumulate_reported
from tracegrad.tensor import Tensor, mark_made, new_tensor, set_grad

_ADD = registered("add")
_COPY = registered("copy")


def _references_of_a_local() -> int:
    array = np.empty(1)
    return getrefcount(array)


_ALONE = _references_of_a_local()
"""What `getrefcount` says of an array that one local variable holds and nobody else."""


def is_unshared(ct: np.ndarray, references: int) -> bool:
    """Whether a cotangent and its memory belong to one local variable of the caller alone.

    Args:
        references: what `getrefcount` says of it in the caller.
    """
    if references != _ALONE:
        return False
    owner = ct.base
    if owner is None:
        return ct.flags.owndata
    # A view, as of a transposed product: it holds the other reference.
    return (
        owner.__class__ is np.ndarray and owner.flags.owndata and getrefcount(owner) == _ALONE + 1
    )


def hand_over(leaf: Tensor, ct: Any, references: int) -> bool:
    """Make an array that is nobody else's the first gradient of a plain leaf: what mostly happens, in one step.

    Args:
        references: what `getrefcount` says of `ct` in the caller.

    Returns:
        Whether that was so; else nothing was done.
    """
    if (
        leaf._grad is not None
        or leaf._base is not None
        or state.watched
        or ct.__class__ is not np.ndarray
        or not leaf._requires_grad
        or not is_unshared(ct, references)
    ):
        return False
    model = leaf._data
    if not _is_laid_out_like(model, ct):
        return False
    leaf._grad = gradient = new_tensor(ct)
    if ct.dtype is model.dtype:
        gradient._plain = leaf._plain
    return True


def accumulate_leaf(leaf: Tensor, ct: Tensor, create_graph: bool) -> None:
    """Add a cotangent into the `grad` of a leaf without hooks."""
    if events.active:
        accumulate_reported(add_to_grad, leaf, ct, create_graph)
    else:
        add_to_grad(leaf, ct, create_graph)


def accumulate_hooked(leaf: Tensor, ct: Tensor | None, create_graph: bool) -> None:
    """Add a cotangent, if there is one, with the hooks of the leaf's AccumulateGrad and those after it.

    Raises:
        TypeError, RuntimeError: a hook returned what it must not.
    """
    hooks = leaf._hooks
    assert hooks is not None
    if hooks.before:
        ct = run_pre_hooks(hooks.before, ct, several=False, as_tensors=True)
    if ct is not None:
        accumulate_leaf(leaf, ct, create_graph)
    if hooks.accumulated and leaf._requires_grad:
        tell_trace()
        for hook in list(hooks.accumulated.values()):
            returned = hook(leaf)
            if returned is not None:
                raise TypeError(
                    f"expected Variable, but hook returned '{type(returned).__name__}'"
                    if not isinstance(returned, Tensor)
                    else "Tensor post accumulate grad hooks should return None."
                )
    if hooks.after:
        run_post_hooks(hooks.after, (), ct, several=False, as_tensors=True)


def accumulate_retained(tensor: Tensor, ct: Tensor) -> None:
    """Add a cotangent into the `grad` of a result: never in place, as in torch."""
    trace = state.trace
    known = tensor._grad if trace is None else trace.read_grad(tensor)
    set_grad(tensor, _own(ct, tensor, state.grad) if known is None else apply(_ADD, (known, ct)))


def add_to_grad(tensor: Tensor, ct: Tensor, create_graph: bool) -> None:
    """Add a cotangent into `grad`: in place, unless the sum is to be differentiated.

    A leaf that came not to require grad after the graph was made gets nothing.

    Raises:
        RuntimeError: it is no leaf any more: a view of a tensor that was changed in place.
    """
    if not tensor._requires_grad:
        return
    if tensor._base is not None and tensor._own_record() is not None:
        raise RuntimeError("leaf variable has been moved into the graph interior")
    trace = state.trace
    known = tensor._grad if trace is None else trace.read_grad(tensor)
    if known is None:
        set_grad(tensor, _own(ct, tensor, create_graph))
    elif create_graph:
        set_grad(tensor, apply(_ADD, (known, ct)))
    else:
        before, state.grad = state.grad, False
        try:
            apply_in_place(_ADD, known, (known, ct))
        finally:
            state.grad = before


def _own(ct: Tensor, tensor: Tensor, create_graph: bool) -> Tensor:
    """The cotangent in memory of its own."""
    if create_graph:
        return apply(_COPY, (ct,))
    trace = state.trace
    if trace is not None:
        gradient = new_tensor(np.array(ct._data, copy=True, order="C"))
        trace.alias(gradient, ct)
        return mark_made(gradient)
    if not isinstance(ct._data, np.ndarray):
        return apply(_COPY, (ct,))
    gradient = mark_made(new_tensor(_copy_laid_out_like(tensor._data, ct._data)))
    if gradient._counter is None and ct._data.dtype is tensor._data.dtype:
        gradient._plain = tensor._plain
    return gradient


def _is_laid_out_like(model: np.ndarray, data: np.ndarray) -> bool:
    """Whether both are row-major, or dense with the same strides; and `data` may be written to."""
    flags = data.flags
    if model.flags.c_contiguous:
        return flags.c_contiguous and flags.writeable
    return flags.forc and flags.writeable and data.strides == model.strides


def _copy_laid_out_like(model: np.ndarray, data: np.ndarray) -> np.ndarray:
    """A copy of `data` with the strides of `model` if its elements fill its memory, else row-major."""
    if model.flags.c_contiguous:
        return np.array(data, copy=True, order="C")
    axes = sorted(range(model.ndim), key=lambda axis: -model.strides[axis])
    if not model.transpose(axes).flags.c_contiguous:
        return np.array(data, copy=True, order="C")
    copy = np.array(data.transpose(axes), copy=True, order="C")
    return copy.transpose(np.argsort(axes))
