"""What ``Function.apply`` does: :func:`apply_plain`. Inside transforms it is :mod:`.function_levels` instead.

A :class:`Definition` is an operation with a derivative of its own: the user's subclass of ``Function``, or such a
one for a whole stack of examples.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tracegrad.autograd.function_node import FunctionNode
from tracegrad.grad_mode import no_grad, state
from tracegrad.inplace import bump_version, set_history
from tracegrad.ir import events
from tracegrad.reporting import report_call
from tracegrad.tensor import Tensor, new_tensor, plainest
from tracegrad.views import Creation, check_rebase


class VmapInfo(NamedTuple):
    """What the ``vmap`` static method is told of the stack."""

    batch_size: int
    randomness: str


class Definition:
    """The static methods that users override, and what they do otherwise; see ``Function`` for the attributes."""

    node_class: type[FunctionNode]
    generate_vmap_rule = False
    clear_saved_tensors_on_access = False
    boxed_grads_call = False

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """The operation: ``forward(ctx, *args)``, or ``forward(*args)`` beside a ``setup_context``."""
        raise NotImplementedError(
            "You must implement the forward function for custom autograd.Function."
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> Any:
        """Save what ``backward`` needs, where ``forward`` takes no ctx."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """From the gradients of the outputs those of the arguments, None for those that have none."""
        raise NotImplementedError(
            "You must implement either the backward or vjp method for your custom autograd.Function to use it "
            "with backward mode AD."
        )

    vjp = backward

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        """From the tangents of the arguments those of the outputs, None for those that have none."""
        raise NotImplementedError(
            "You must implement the jvp function for custom autograd.Function to use it with forward mode AD."
        )

    @staticmethod
    def vmap(info: VmapInfo, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        """For stacks of examples: from the arguments, and where their examples are, ``(output, out_dims)``."""
        raise NotImplementedError(
            "To use autograd.Function with vmap, you must either override the vmap staticmethod or set "
            "generate_vmap_rule=True."
        )

    @classmethod
    def overrides(cls, name: str) -> bool:
        """Whether the user wrote the method of this name."""
        return getattr(cls, name) is not getattr(Definition, name)

    @classmethod
    def pullback(cls) -> Callable[..., Any]:
        """``backward`` or ``vjp``, whichever there is.

        Raises:
            RuntimeError: there are both.
        """
        if not cls.overrides("vjp"):
            return cls.backward
        if cls.overrides("backward"):
            raise RuntimeError(
                "Implementing both 'backward' and 'vjp' for a custom Function is not allowed. You should only "
                "implement one of them."
            )
        return cls.vjp


def bound(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a ``forward`` without ctx, all by position, with defaults filled in.

    Raises:
        TypeError: they do not fit.
    """
    code = getattr(function.forward, "__code__", None)
    if (
        code is not None
        and not (kwargs or code.co_kwonlyargcount or code.co_flags & _VARIADIC)
        and len(args) == code.co_argcount
    ):
        return args
    given = inspect.signature(function.forward).bind(*args, **kwargs)
    given.apply_defaults()
    if given.kwargs:
        raise TypeError(
            f"forward() got an unexpected keyword argument '{next(iter(given.kwargs))}'"
        )
    return given.args


def by_position(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a ``forward`` that takes a ctx, those given by name in their places.

    Unlike in a plain call, no default is filled in between them, and what has no place is refused.

    Raises:
        TypeError: an argument has no place, is missing before another one, or is given twice.
    """
    names = list(inspect.signature(function.forward).parameters.values())[1:]
    places = [p.name for p in names if p.kind is p.POSITIONAL_OR_KEYWORD]
    for name in kwargs:
        if name not in places:
            raise TypeError(f"forward() got an unexpected keyword argument '{name}'")
        if name in places[: len(args)]:
            raise TypeError(f"forward() got multiple values for argument '{name}'")
    last = max(map(places.index, kwargs), default=-1)
    for number in range(len(args), last + 1):
        if places[number] not in kwargs:
            raise TypeError(
                f"forward() missing required argument: '{places[number]}' (position {number})"
            )
    return (*args, *[kwargs[name] for name in places[len(args) : last + 1]])


_VARIADIC = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def apply_plain(function: Any, args: tuple[Any, ...]) -> Any:
    """Run the operation; the result has a record that leads to the Tensors among `args`."""
    begin = events.now() if events.active else 0
    node = function.node_class(function, args)
    with no_grad():
        returned = run_forward(function, node, args)
    results = attach(node, args, returned)
    node.keep(results)
    if begin:
        recorded = any(isinstance(x, Tensor) and x._grad_fn is node for x in results)
        report_call(function.__name__, args, begin, node.sequence if recorded else None)
    return results if isinstance(returned, tuple) else results[0]


def run_forward(function: Any, node: FunctionNode, args: tuple[Any, ...]) -> Any:
    """What ``forward`` returns, with the context set up."""
    if not function.overrides("setup_context"):
        return function.forward(node.ctx, *args)
    returned = function.forward(*args)
    function.setup_context(node.ctx, args, returned)
    return returned


# Outputs.


def attach(node: FunctionNode, args: Sequence[Any], returned: Any) -> tuple[Any, ...]:
    """The outputs that users get: with the record, if they can have a derivative."""
    outputs = returned if isinstance(returned, tuple) else (returned,)
    dirty = _marked(
        node.ctx.dirty_tensors, "mark_dirty can only accept variables, but argument is of type"
    )
    constant = _marked(
        node.ctx.non_differentiable,
        "mark_non_differentiable only accepts variable arguments, but got",
    )
    for x in dirty:
        if not among(x, outputs):
            raise RuntimeError(
                "Some elements marked as dirty during the forward method were not returned as output. The inputs "
                "that are modified inplace must all be outputs of the Function."
            )
        if not among(x, args):
            warnings.warn(
                "ctx.mark_dirty() received a tensor that was not an input. Only input Tensors that have been "
                "mutated should be passed to ctx.mark_dirty().",
                stacklevel=4,
            )
        elif x._base is None:
            bump_version(x)  # Its memory may have been changed by somebody who does not count.
    recorded = state.grad and any(node.ctx.needs_input_grad)
    node.outputs = len(outputs)
    results = []
    for number, x in enumerate(outputs):
        if not isinstance(x, Tensor):
            node.output_types.append(None)
            results.append(x)
            continue
        node.output_types.append((x.shape, x.dtype))
        given, changed = among(x, args), among(x, dirty)
        if not recorded:
            results.append(_as_view(x) if given and not changed else x)
        elif not x.is_floating_point() or among(x, constant):
            results.append(x.detach() if given and not changed else x)
        elif given and changed:
            results.append(_rewritten(node, number, x, len(outputs)))
        else:
            out = _as_view(x) if given else x
            if out._base is not None:
                made = Creation.MULTIPLE if len(outputs) > 1 else Creation.CUSTOM
                out._view = (*out._view[:3], made)
            results.append(_with_record(node, number, out))
    return tuple(results)


def _marked(given: Sequence[Any] | None, message: str) -> Sequence[Tensor]:
    """What the user marked. Raises RuntimeError where something is no Tensor."""
    for x in given or ():
        if not isinstance(x, Tensor):
            raise RuntimeError(f"{message} {type(x).__name__}")
    return given or ()


def among(x: Any, tensors: Sequence[Any]) -> bool:
    """Whether it is one of these very objects."""
    return any(x is y for y in tensors)


def _as_view(x: Tensor) -> Tensor:
    """An input that is returned as it is: the same storage, another tensor."""
    with no_grad():
        return x.view_as(x)


def _with_record(node: FunctionNode, number: int, x: Tensor) -> Tensor:
    x._grad_fn, x._output_nr, x._requires_grad = node, number, True
    if state.trace is not None:
        state.trace.follow(node, plainest(x))
    return x


def _rewritten(node: FunctionNode, number: int, x: Tensor, count: int) -> Tensor:
    """An input that was changed in place, with the record as its new history."""
    base = x._base
    check_rebase(x)
    if base is not None and base._grad_fn is None and base._requires_grad:
        raise RuntimeError(
            "a view of a leaf Variable that requires grad is being used in an in-place operation."
        )
    if x._grad_fn is None and x._requires_grad:
        raise RuntimeError(
            "a leaf Variable that requires grad has been used in an in-place operation."
        )
    if base is None:
        return _with_record(node, number, x)
    if count > 1:
        raise RuntimeError(
            "If your Function modifies inplace an input that is a view of another Tensor, your Function cannot "
            "return more than one Tensor. This is not supported by the current autograd engine. You should either "
            "make sure the input is not a view (using .clone() for example) or make your Function only return one "
            "Tensor (potentially splitting it into two Functions: one doing the inplace that returns a single "
            "Tensor and a second one that does the other operations)."
        )
    if state.trace is not None:
        state.trace.give_up("a custom Function changes a view in place")
    value = new_tensor(x._data)
    value._grad_fn, value._requires_grad = node, True
    set_history(x, value)
    return x
