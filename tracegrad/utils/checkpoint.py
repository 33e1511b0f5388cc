"""Checkpointing, as ``torch.utils.checkpoint``: compute a part of a program again rather than keep what it saved.

Without ``use_reentrant`` hooks on saved tensors do it, see :mod:`tracegrad.utils.recomputation`; operations can be
excepted, see :mod:`tracegrad.utils.selective_checkpoint`. With ``use_reentrant=True`` it is a ``Function`` whose
backward calls ``backward``, as in torch.

Start with :func:`checkpoint`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tracegrad.autograd.backward import backward
from tracegrad.autograd.function import Function
from tracegrad.grad_mode import enable_grad, no_grad, state
from tracegrad.random import get_rng_state, set_rng_state
from tracegrad.tensor import Tensor
from tracegrad.utils.recomputation import CheckpointError, Frame, OperationLog
from tracegrad.utils.selective_checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    create_selective_checkpoint_contexts,
)

__all__ = [
    "CheckpointError",
    "CheckpointFunction",
    "CheckpointPolicy",
    "SelectiveCheckpointContext",
    "check_backward_validity",
    "checkpoint",
    "checkpoint_sequential",
    "create_selective_checkpoint_contexts",
    "detach_variable",
    "noop_context_fn",
    "set_checkpoint_debug_enabled",
    "set_checkpoint_early_stop",
]

_CHECKS = ("default", "none")
_debug: list[bool | None] = [None]
_early_stop: list[bool | None] = [None]


def noop_context_fn() -> tuple[Any, Any]:
    """Contexts that do nothing: for the function, and for its recomputation."""
    return contextlib.nullcontext(), contextlib.nullcontext()


@contextlib.contextmanager
def set_checkpoint_debug_enabled(enabled: bool | None) -> Iterator[None]:
    """Whether all checkpoints inside say in errors what was computed; None leaves it to each of them."""
    previous = _debug[0]
    _debug[0] = enabled
    try:
        yield
    finally:
        _debug[0] = previous


@contextlib.contextmanager
def set_checkpoint_early_stop(enable: bool) -> Iterator[None]:
    """Whether the functions that are checkpointed inside are left early when they run again; see `checkpoint`."""
    previous = _early_stop[0]
    _early_stop[0] = enable
    try:
        yield
    finally:
        _early_stop[0] = previous


def detach_variable(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The tensors among the inputs without their history; they require grad as before.

    Raises:
        RuntimeError: it is no tuple.
    """
    if not isinstance(inputs, tuple):
        raise RuntimeError(
            f"Only tuple of tensors is supported. Got Unsupported input type: {type(inputs).__name__}"
        )
    out: list[Any] = []
    for x in inputs:
        if isinstance(x, Tensor):
            detached = x.detach()
            detached.requires_grad = x.requires_grad
            x = detached
        out.append(x)
    return tuple(out)


def check_backward_validity(inputs: Sequence[Any]) -> None:
    """Warn where no input requires grad."""
    if not any(x.requires_grad for x in inputs if isinstance(x, Tensor)):
        warnings.warn(
            "None of the inputs have requires_grad=True. Gradients will be None", stacklevel=2
        )


@contextlib.contextmanager
def _random_state(saved: Tensor | None) -> Iterator[None]:
    """Draw the random numbers that follow a state, and go on afterwards as if nothing had been drawn."""
    if saved is None:
        yield
        return
    outside = get_rng_state()
    set_rng_state(saved)
    try:
        yield
    finally:
        set_rng_state(outside)


class CheckpointFunction(Function):
    """The reentrant variant."""

    @staticmethod
    def forward(
        ctx: Any, run_function: Callable[..., Any], preserve_rng_state: bool, *args: Any
    ) -> Any:
        check_backward_validity(args)
        ctx.run_function = run_function
        ctx.random = get_rng_state() if preserve_rng_state else None
        ctx.inputs = [None if isinstance(x, Tensor) else x for x in args]
        ctx.places = [place for place, x in enumerate(args) if isinstance(x, Tensor)]
        ctx.save_for_backward(*[args[place] for place in ctx.places])
        with no_grad():
            return run_function(*args)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if state.task is not None and state.task.wanted is not None:
            raise RuntimeError(
                "When use_reentrant=True, torch.utils.checkpoint is incompatible with .grad() or passing an "
                "`inputs` parameter to .backward(). To resolve this error, you can either set "
                "use_reentrant=False, or call .backward() without passing the `inputs` argument."
            )
        inputs = list(ctx.inputs)
        for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            inputs[place] = tensor
        detached = detach_variable(tuple(inputs))
        with _random_state(ctx.random), enable_grad():
            returned = ctx.run_function(*detached)
        outputs = returned if isinstance(returned, tuple) else (returned,)
        pairs = [
            (out, ct)
            for out, ct in zip(outputs, gradients, strict=True)
            if isinstance(out, Tensor) and out.requires_grad
        ]
        if not pairs:
            raise RuntimeError(
                "none of output has requires_grad=True, this checkpoint() is not necessary"
            )
        backward([out for out, _ in pairs], [ct for _, ct in pairs])
        return (None, None, *[x.grad if isinstance(x, Tensor) else None for x in detached])


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable[[], tuple[Any, Any]] = noop_context_fn,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    **kwargs: Any,
) -> Any:
    """Run ``function(*args, **kwargs)``, and again in the backward pass, instead of keeping what it saved.

    As ``torch.utils.checkpoint.checkpoint``. Inside transforms and compiled functions nothing is saved or computed
    again: the function just runs. Compiled functions inside of a checkpoint run eagerly.

    Args:
        function: takes and returns (containers of) Tensors and anything else.
        use_reentrant: True needs arguments that require grad, takes no keyword arguments and works with
            ``backward()`` alone, without `inputs`. False is better; not to choose gives a warning, and True.
        preserve_rng_state: (keyword) draw the same random numbers again. Default True.
        context_fn: returns two context managers: around the function, and around its recomputation.
        determinism_check: ``"default"`` compares shapes and dtypes of what was saved, ``"none"`` does not.
        debug: errors tell what was computed, in both runs.
        early_stop: leave the recomputation when the last saved tensor is there, by an exception.

    Raises:
        ValueError: arguments that do not go together.
        CheckpointError: in the backward pass: the function did something else this time.
    """
    if use_reentrant is None:
        warnings.warn(_CHOOSE.format(name="", since="Starting in PyTorch 2.9, calling checkpoint "
                      "without use_reentrant will raise an exception."), stacklevel=2)  # fmt: skip
        use_reentrant = True
    preserve = kwargs.pop("preserve_rng_state", True)
    if use_reentrant:
        if kwargs:
            raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
        if context_fn is not noop_context_fn or debug is not False:
            raise ValueError(
                "Passing `context_fn` or `debug` is only supported when use_reentrant=False."
            )
        if state.trace is not None:
            state.trace.give_up("a checkpoint runs its function again during the backward pass")
        return CheckpointFunction.apply(function, preserve, *args)
    logs = None
    if debug if _debug[0] is None else _debug[0]:
        if context_fn is not noop_context_fn:
            raise ValueError("debug=True is incompatible with non-default context_fn")
        logs = OperationLog(), OperationLog()
    if determinism_check not in _CHECKS:
        raise ValueError(
            f"determinism_check should be one of {[*_CHECKS]}, but got {determinism_check}"
        )
    contexts: tuple[Any, Any] = context_fn() if logs is None else logs
    if state.trace is not None and not (preserve and context_fn is noop_context_fn):
        state.trace.give_up("a checkpoint runs its function again during the backward pass")
    if not state.grad or state.levels or (state.trace is not None and state.trace.failure is None):
        with contexts[0] if state.grad else contextlib.nullcontext():
            return function(*args, **kwargs)
    random = get_rng_state() if preserve else None

    def recompute(*args: Any) -> None:
        with _random_state(random), contexts[1]:
            function(*args, **kwargs)

    frame = Frame(
        recompute,
        args,
        early_stop=early_stop if _early_stop[0] is None else _early_stop[0],
        checked=determinism_check != "none",
        logs=logs,
    )
    with frame.hooks(), contexts[0]:
        output = function(*args, **kwargs)
        frame.complete()
    if not frame.completed:
        raise RuntimeError(
            "torch.utils.checkpoint: the forward context provided by context_fn suppressed an exception raised during "
            "the checkpointed forward. This is not supported because checkpoint cannot return a value for a failed "
            "forward."
        )
    return output


_CHOOSE = (
    "torch.utils.checkpoint{name}: the use_reentrant parameter should be passed explicitly. {since} "
    "use_reentrant=False is recommended, but if you need to preserve the current default behavior, you can pass "
    "use_reentrant=True. Refer to docs for more details on the differences between the two variants."
)


def checkpoint_sequential(
    functions: Any,
    segments: int,
    input: Any,
    use_reentrant: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Run functions one after the other in checkpointed segments, all but the last.

    As ``torch.utils.checkpoint.checkpoint_sequential``.

    Args:
        functions: an ``nn.Sequential``, or a list of modules or functions.
        segments: how many.
        input: of the first function.
        use_reentrant, preserve_rng_state: as for `checkpoint`.

    Raises:
        ValueError: another keyword argument.
    """
    if use_reentrant is None:
        warnings.warn(_CHOOSE.format(name=".checkpoint_sequential", since="In version 2.9 we will raise an exception "
                      "if use_reentrant is not passed."), stacklevel=2)  # fmt: skip
        use_reentrant = True
    preserve = kwargs.pop("preserve_rng_state", True)
    if kwargs:
        raise ValueError("Unexpected keyword arguments: " + ",".join(kwargs))
    steps = list(functions.children()) if hasattr(functions, "children") else functions

    def between(start: int, end: int) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            for step in steps[start:end]:
                x = step(x)
            return x

        return run

    size = len(steps) // segments
    end = 0
    for start in range(0, size * (segments - 1), size):
        end = start + size
        input = checkpoint(
            between(start, end), input, use_reentrant=use_reentrant, preserve_rng_state=preserve
        )
    return between(end, len(steps))(input)
