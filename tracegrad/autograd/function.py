"""``Function``: an operation with a derivative that the user writes, as ``torch.autograd.Function``.

A subclass has static methods: ``forward(ctx, *args)``, or ``forward(*args)`` and ``setup_context(ctx, inputs,
output)``; and ``backward(ctx, *gradients)``. ``apply`` runs them (:mod:`.function_call`) and leaves a record
(:mod:`.function_node`). Inside transforms (:mod:`.function_levels`), ``vmap`` and ``jvp`` are used as well.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.autograd.function_call import (
    Definition,
    VmapInfo,
    apply_plain,
    bound,
    by_position,
)
from tracegrad.autograd.function_levels import apply_at_levels
from tracegrad.autograd.function_node import FunctionCtx, FunctionNode
from tracegrad.dispatch import edge_of
from tracegrad.grad_mode import no_grad, state
from tracegrad.ir.location import current_location
from tracegrad.lifted import Lifted
from tracegrad.node import Node
from tracegrad.tensor import Tensor

__all__ = ["Function", "FunctionCtx", "VmapInfo", "once_differentiable"]


class FunctionMeta(type):
    """Gives each Function a record class of its own, so that ``type(y.grad_fn).__name__`` is torch's."""

    node_class: type[FunctionNode]

    def __init__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> None:
        super().__init__(name, bases, members)
        cls.node_class = type(
            name + "Backward", (FunctionNode,), {"__module__": cls.__module__, "__slots__": ()}
        )


class Function(Definition, metaclass=FunctionMeta):
    """The base class of operations with a derivative of their own. Never instantiated: all is static.

    ``forward`` gets what ``apply`` is given, Tensors and anything else, and returns a Tensor or a tuple that may
    hold anything. ``backward`` gets a gradient per output and returns one per argument.

    Attributes:
        generate_vmap_rule: whether ``vmap`` may run the other methods on stacks of examples as they are.
        clear_saved_tensors_on_access: whether ``ctx.saved_tensors`` can be read once, and frees what was saved.
        boxed_grads_call: whether ``backward`` gets the gradients as one list, which it may empty.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn(
            f"{self.__class__} should not be instantiated. Methods on autograd functions are all static, so you "
            "should invoke them on the class itself. Instantiating an autograd function will raise an error in a "
            "future version of PyTorch.",
            DeprecationWarning,
            stacklevel=2,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            "Legacy autograd function with non-static forward method is deprecated. Please use new-style autograd "
            "function with static forward method. (Example: "
            "https://pytorch.org/docs/stable/autograd.html#torch.autograd.Function)"
        )

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run the operation; results have a record that leads to the Tensors among the arguments.

        Args:
            kwargs: arguments of ``forward`` by name, which count by position.

        Raises:
            NotImplementedError: ``forward`` is missing; or later ``backward`` or ``jvp``, when one is needed.
            RuntimeError: what was marked as changed in place is no output, or is a leaf that requires grad.
            TypeError: arguments that do not fit, or something saved is no Tensor.
        """
        if cls.overrides("setup_context"):
            args = bound(cls, args, kwargs)
        elif kwargs:
            args = by_position(cls, args, kwargs)
        return (apply_at_levels if state.levels else apply_plain)(cls, args)


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a ``backward`` that computes with something else than Tensors: no second derivatives.

    Raises:
        RuntimeError: when the result is differentiated again.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, *gradients: Any) -> Any:
        with no_grad():
            returned = backward(ctx, *gradients)
        if not state.grad:
            return returned
        levels = _recording(gradients)
        if not levels:
            return returned
        values = returned if isinstance(returned, tuple) else (returned,)
        marked = tuple([_marked(v, levels) if isinstance(v, Tensor) else v for v in values])
        return marked if isinstance(returned, tuple) else marked[0]

    return wrapped


def _recording(tensors: Sequence[Any]) -> dict[Any, list[Tensor]]:
    """The levels (None: outside of all) at which some of the tensors require grad, and these."""
    found: dict[Any, list[Tensor]] = {}
    for x in tensors:
        while isinstance(x, Tensor):
            data: Any = x._data
            lifted = data.__class__ is Lifted
            if x.requires_grad:
                found.setdefault(data.level if lifted else None, []).append(x)
            x = data.physical if lifted else None
    return found


def _marked(x: Tensor, levels: dict[Any, list[Tensor]]) -> Tensor:
    """`x` with a record that refuses to be differentiated, at each of the levels."""
    data: Any = x._data
    level = None
    if data.__class__ is Lifted:
        level = data.level
        out = level.wrap(_marked(data.physical, levels), batched=data.batched)
    else:
        out = x.detach()
    if level in levels:
        out._grad_fn, out._requires_grad = Error(levels[level]), True
    return out


class Error(Node):
    """The record of a gradient that has no derivative itself; torch's name."""

    __slots__ = ()

    def __init__(self, sources: Sequence[Tensor]) -> None:
        super().__init__(tuple([edge_of(x) for x in sources]), current_location())
        self.numbers = tuple([x._output_nr for x in sources])

    def pull(self, ct: Any, needed: Sequence[bool], differentiable: bool) -> list[Any]:
        raise RuntimeError(
            "trying to differentiate twice a function that was marked with @once_differentiable"
        )
