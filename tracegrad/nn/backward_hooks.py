"""Backward hooks of modules: gradients at the boundary of a module, handed to the user.

The inputs of a module are passed through one record, and its outputs through another; both are made by
:class:`BackwardHookFunction`. Hooks of these two records see the gradients as they leave the module and as they come
in. Start with :class:`ModuleBoundary`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.autograd.function import Function
from tracegrad.grad_mode import state
from tracegrad.node import Node
from tracegrad.tensor import Tensor

Hook = Callable[..., Any]

_NO_INPUT = (
    "Full backward hook is firing when gradients are computed with respect to module outputs since no inputs require "
    "gradients. See "
    "https://docs.pytorch.org/docs/main/generated/torch.nn.Module.html#torch.nn.Module.register_full_backward_hook "
    "for more details."
)
_DEPRECATED = (
    " is deprecated and will be removed in future versions. This hook will be missing some "
)
_INSTEAD = " Please use register_full_backward_hook to get the documented behavior."


class BackwardHookFunction(Function):
    """Hands its arguments on."""

    @staticmethod
    def forward(ctx: Any, *args: Tensor) -> tuple[Tensor, ...]:
        ctx.mark_non_differentiable(*[x for x in args if not x.requires_grad])
        return args

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        return gradients


class ModuleBoundary:
    """The hooks of one call of a module.

    Args:
        module: for the hooks.
        hooks: ``hook(module, grad_input, grad_output)``, may replace grad_input.
        pre_hooks: ``hook(module, grad_output)``, may replace grad_output.
    """

    def __init__(self, module: Any, hooks: Sequence[Hook], pre_hooks: Sequence[Hook]) -> None:
        self._module = module
        self._hooks = hooks
        self._pre_hooks = pre_hooks
        self._grad_outputs: tuple[Any, ...] | None = None
        self._inputs: list[int] | None = None
        self._outputs: list[int] | None = None
        self._input_count = self._output_count = 0

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of the module, passed through the boundary."""
        self._input_count = len(args)
        args, self._inputs = _pass(args, self._leaving)
        return args

    def leave(self, result: Any) -> Any:
        """The result of the module, passed through the boundary. Warns if there is no tensor in sight."""
        if not isinstance(result, (Tensor, tuple)):
            warnings.warn(
                "For backward hooks to be called, module output should be a Tensor or a tuple of Tensors but received "
                f"{type(result)}",
                stacklevel=6,
            )
        outputs = result if isinstance(result, tuple) else (result,)
        self._output_count = len(outputs)
        outputs, self._outputs = _pass(outputs, self._coming_in)
        return outputs if isinstance(result, tuple) else outputs[0]

    def _coming_in(self, _: Any, gradients: tuple[Any, ...]) -> Any:
        """The hook of the outputs' record: run the pre-hooks, and the hooks if no input requires grad."""
        assert self._outputs is not None
        found = _spread(self._outputs, gradients, self._output_count)
        for hook in self._pre_hooks:
            replaced = hook(self._module, found)
            if replaced is not None:
                if len(replaced) != len(found):
                    raise RuntimeError(
                        "Backward pre hook returned an invalid number of grad_output, "
                        f"got {len(replaced)}, but expected {len(found)}"
                    )
                found = replaced
        if self._inputs is None:
            warnings.warn(_NO_INPUT, stacklevel=5)
            for hook in self._hooks:
                replaced = hook(self._module, (None,) * self._input_count, found)
                if replaced is not None and not (
                    isinstance(replaced, tuple) and all(x is None for x in replaced)
                ):
                    raise RuntimeError(
                        "Backward hook for Modules where no input requires gradient should always return None or "
                        "None for all gradients."
                    )
        else:
            self._grad_outputs = found
        return tuple([found[i] for i in self._outputs])

    def _leaving(self, gradients: tuple[Any, ...], _: Any) -> Any:
        """The hook of the inputs' record: run the hooks."""
        if self._grad_outputs is None:
            return None  # The gradient did not come through the outputs, as in a second backward.
        assert self._inputs is not None
        found = _spread(self._inputs, gradients, self._input_count)
        for hook in self._hooks:
            replaced = hook(self._module, found, self._grad_outputs)
            if replaced is not None:
                if len(replaced) != len(found):
                    raise RuntimeError(
                        "Backward hook returned an invalid number of grad_input, "
                        f"got {len(replaced)}, but expected {len(found)}"
                    )
                found = replaced
        self._grad_outputs = None
        return tuple([found[i] for i in self._inputs])


def _spread(positions: Sequence[int], values: Sequence[Any], count: int) -> tuple[Any, ...]:
    """The values at their positions, None elsewhere."""
    found = dict(zip(positions, values, strict=True))
    return tuple([found.get(i) for i in range(count)])


def _pass(values: tuple[Any, ...], run: Hook) -> tuple[tuple[Any, ...], list[int] | None]:
    """Pass the tensors among `values` through a record with a hook. Also where they are; None without a record."""
    positions = [i for i, x in enumerate(values) if isinstance(x, Tensor)]
    if not (state.grad and any(values[i].requires_grad for i in positions)):
        return values, None
    passed = BackwardHookFunction.apply(*[values[i] for i in positions])
    record = next(x.grad_fn for x in passed if x.grad_fn is not None)

    def hook(inputs: Any, outputs: Any) -> Any:  # The name stands in messages.
        return run(inputs, outputs)

    record.register_hook(hook)
    found = list(values)
    for i, x in zip(positions, passed, strict=True):
        found[i] = x
    kind = type(values)
    return (tuple(found) if kind is tuple else kind(*found)), positions


def register_legacy(module: Any, hooks: Sequence[Hook], args: Any, result: Any) -> None:
    """Have legacy backward hooks run with the record that made the result of a module, and warn what they miss."""
    first = result
    while not isinstance(first, Tensor):
        values = first.values() if isinstance(first, dict) else first[:1]
        first = next(x for x in values if not isinstance(first, dict) or isinstance(x, Tensor))
    record = first.grad_fn
    if record is None:
        return
    for hook in hooks:
        record.register_hook(_bound(hook, module))
    missing = _what_is_missing(args, result, record)
    if missing is not None:
        warnings.warn(missing, FutureWarning, stacklevel=6)


def _bound(hook: Hook, module: Any) -> Hook:
    @functools.wraps(hook)
    def bound(inputs: Any, outputs: Any) -> Any:
        return hook(module, inputs, outputs)

    return bound


def _what_is_missing(args: Any, result: Any, record: Node) -> str | None:
    """Why a legacy backward hook will not see all gradients; None if it will."""
    outputs = (result,) if isinstance(result, Tensor) else result
    if not (isinstance(outputs, tuple) and all(isinstance(x, Tensor) for x in outputs)):
        return (
            "Using non-full backward hooks on a Module that does not return a single Tensor or a tuple of Tensors"
            + _DEPRECATED
            + "of the grad_output."
            + _INSTEAD
        )
    if not all(isinstance(x, Tensor) for x in args):
        return (
            "Using non-full backward hooks on a Module that does not take as input a single Tensor or a tuple of "
            "Tensors" + _DEPRECATED + "of the grad_input." + _INSTEAD
        )
    records = {x.grad_fn for x in outputs if x.grad_fn is not None}
    if not records or (len(records) == 1 and record not in records):
        return (
            "Using a non-full backward hook when outputs are nested in python data structure"
            + _DEPRECATED
            + "grad_output."
        )
    if len(records) > 1:
        return (
            "Using a non-full backward hook when outputs are generated by different autograd Nodes"
            + _DEPRECATED
            + "grad_output."
            + _INSTEAD
        )
    before = {x.grad_fn for x in args if x.grad_fn is not None}
    if before != {node for node, _ in record.next_functions}:
        return (
            "Using a non-full backward hook when the forward contains multiple autograd Nodes"
            + _DEPRECATED
            + "grad_input."
            + _INSTEAD
        )
    return None
