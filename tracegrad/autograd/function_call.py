"""What ``Function.apply`` does: plainly, and inside transforms.

A :class:`Definition` is an operation with a derivative of its own: the user's subclass of ``Function``, or such a
one for a whole stack of examples (:class:`Stacked`). Start with :func:`apply_plain`; :func:`apply_at_levels` is the
same while there are levels: the definition is applied at the levels outside, and leaves a record at each.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tracegrad import pytree
from tracegrad.autograd.function_node import FunctionCtx, FunctionNode
from tracegrad.grad_mode import no_grad, state
from tracegrad.inplace import bump_version, set_history
from tracegrad.ir import events
from tracegrad.ir.op import unbroadcast
from tracegrad.levels import (
    BatchLevel,
    Below,
    DualLevel,
    LiftingLevel,
    check_entered,
    check_tangent,
)
from tracegrad.lifted import Lifted
from tracegrad.ops.creation import zeros_like
from tracegrad.ops.shaping import movedim
from tracegrad.reporting import report_call
from tracegrad.tensor import Tensor, is_lifted, new_tensor, plainest
from tracegrad.views import Creation

_MORE = "For more details, please see https://pytorch.org/docs/main/notes/extending.func.html"


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


_VARIADIC = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def apply_plain(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the operation; the result has a record that leads to the Tensors among `args`."""
    begin = events.now() if events.active else 0
    node = function.node_class(function, args)
    with no_grad():
        returned = _run(function, node, args, kwargs)
    results = _attach(node, args, returned)
    node.keep(results)
    if begin:
        recorded = any(isinstance(x, Tensor) and x._grad_fn is node for x in results)
        report_call(function.__name__, args, begin, node.sequence if recorded else None)
    return results if isinstance(returned, tuple) else results[0]


def _run(function: Any, node: FunctionNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What ``forward`` returns, with the context set up."""
    if not function.overrides("setup_context"):
        return function.forward(node.ctx, *args, **kwargs)
    returned = function.forward(*args)
    function.setup_context(node.ctx, args, returned)
    return returned


# Outputs.


def _attach(node: FunctionNode, args: Sequence[Any], returned: Any) -> tuple[Any, ...]:
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
        if not _among(x, outputs):
            raise RuntimeError(
                "Some elements marked as dirty during the forward method were not returned as output. The inputs "
                "that are modified inplace must all be outputs of the Function."
            )
        if not _among(x, args):
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
        given, changed = _among(x, args), _among(x, dirty)
        if not recorded:
            results.append(_as_view(x) if given and not changed else x)
        elif not x.is_floating_point() or _among(x, constant):
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


def _among(x: Any, tensors: Sequence[Any]) -> bool:
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
    leaf = x if base is None else base
    if leaf._grad_fn is None and leaf._requires_grad:
        raise RuntimeError(
            "a leaf Variable that requires grad has been used in an in-place operation."
            if base is None
            else "a view of a leaf Variable that requires grad is being used in an in-place operation."
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


# Inside transforms.


def apply_at_levels(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`apply_plain` while there are levels.

    At the innermost level that an argument belongs to, the operation is that of the tensors below, at the levels
    outside; the record that it leaves here runs the user's ``backward`` on tensors of this level. Tangents are
    the user's ``jvp``.

    Raises:
        RuntimeError: the operation lacks what the transform needs.
    """
    if not function.overrides("setup_context") and any(
        not (isinstance(level, DualLevel) and level.by_user) for level in state.levels
    ):
        raise RuntimeError(
            "In order to use an autograd.Function with functorch transforms (vmap, grad, jvp, jacrev, ...), it "
            f"must override the setup_context staticmethod. {_MORE}"
        )
    level = _innermost(args)
    number = 0 if level is None else level.number
    previous = state.levels
    duals = [outer for outer in previous if outer.number > number and isinstance(outer, DualLevel)]
    state.levels = tuple([outer for outer in previous if outer.number <= number])
    try:
        node = function.node_class(function, args)
        if isinstance(level, BatchLevel):
            check_entered(level)
            returned = _of_examples(level, function, args)
            if not duals and not any(node.ctx.needs_input_grad):
                return returned
        elif level is not None:
            check_entered(level)
            returned = _of_below(level, function, args)
        with no_grad():
            if level is None:
                returned = _run(function, node, args, kwargs)
            else:
                function.setup_context(node.ctx, args, returned)
        constant = node.ctx.non_differentiable or ()
        results = _attach(node, args, returned)
        for dual in duals:
            state.levels = tuple([outer for outer in previous if outer.number < dual.number])
            _push(dual, node, args, results, constant)
    finally:
        state.levels = previous
    node.keep(results)
    return results if isinstance(returned, tuple) else results[0]


def _innermost(args: Sequence[Any]) -> LiftingLevel | None:
    """The innermost level that one of the arguments belongs to."""
    found: LiftingLevel | None = None
    for x in args:
        if isinstance(x, Tensor):
            data: Any = x._data
            if data.__class__ is Lifted and (found is None or data.level.number > found.number):
                found = data.level
    return found


def _lowered(level: LiftingLevel, args: Sequence[Any]) -> tuple[list[Any], list[bool | None]]:
    """What the arguments stand for below, and which of them are stacks; None where one is no tensor."""
    physical: list[Any] = []
    batched: list[bool | None] = []
    for x in args:
        value, stack = level.lower(x) if isinstance(x, Tensor) else (x, None)
        physical.append(value)
        batched.append(stack)
    return physical, batched


def _of_below(level: LiftingLevel, function: Any, args: Sequence[Any]) -> Any:
    """The outputs, computed below, as tensors of the level."""
    physical, _ = _lowered(level, args)
    with Below(level):
        returned = function.apply(*physical)

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        argument = _same(x, physical, args)
        return level.wrap(x, batched=False) if argument is None else argument

    return tuple(map(wrapped, returned)) if isinstance(returned, tuple) else wrapped(returned)


def _same(x: Tensor, physical: Sequence[Any], args: Sequence[Any]) -> Tensor | None:
    """The argument that stands for this very tensor: one that was changed in place and returned."""
    return next((arg for arg, below in zip(args, physical, strict=True) if below is x), None)


def _of_examples(level: BatchLevel, function: Any, args: Sequence[Any]) -> Any:
    """The outputs for all examples of a stack, by the user's ``vmap`` or by a generated one."""
    name = function.__name__
    if function.generate_vmap_rule and function.overrides("vmap"):
        raise RuntimeError(
            f"You tried to vmap over {name}, but it has both generate_vmap_rule=True and an overridden vmap "
            "staticmethod. Please set generate_vmap_rule=False or delete the overridden vmap staticmethod to avoid "
            f"ambiguity. {_MORE}"
        )
    physical, batched = _lowered(level, args)
    if True not in batched:
        return _of_below(level, function, args)
    if function.generate_vmap_rule:
        stacked = Stacked(function, level.size, level.randomness, batched)
        with Below(level):
            returned = stacked.apply(*physical)
        flags: Any = stacked.out_batched
        dims: Any = [0 if flag else None for flag in flags]
        outputs, spec = pytree.flatten(returned)
    elif not function.overrides("vmap"):
        raise RuntimeError(
            f"You tried to vmap over {name}, but it does not have vmap support. Please override and implement the "
            f"vmap staticmethod or set generate_vmap_rule=True. {_MORE}"
        )
    else:
        info = VmapInfo(level.size, level.randomness)
        with Below(level):
            pair = function.vmap(info, tuple([0 if flag else None for flag in batched]), *physical)
        outputs, spec, dims = _checked_pair(pair)
    wrapped = []
    for x, dim in zip(outputs, dims, strict=True):
        if isinstance(x, Tensor):
            argument = _same(x, physical, args)
            if argument is not None:
                x = argument
            elif dim is None:
                x = level.wrap(x, batched=False)
            else:
                with Below(level):
                    x = movedim(x, dim, 0) if dim else x
                x = level.wrap(x, batched=True)
        wrapped.append(x)
    return pytree.unflatten(spec, iter(wrapped))


def _checked_pair(pair: Any) -> tuple[list[Any], Any, list[Any]]:
    """What a ``vmap`` static method returned: outputs, the containers around them, the dimension of each."""
    expected = (
        "Expected the vmap staticmethod to have two returns, an output and out_dims with pytree structure "
        "compatible with the output. "
    )
    if not isinstance(pair, tuple):
        raise RuntimeError(f"{expected}Got a {type(pair)} instead")
    if len(pair) != 2:
        raise RuntimeError(f"{expected}Got {len(pair)} returns instead")
    output, out_dims = pair
    outputs, spec = pytree.flatten(output)
    dims = pytree.broadcast(out_dims, spec)
    if dims is None:
        raise RuntimeError(
            "The autograd.Function's vmap staticmethod returned an incompatible (output, out_dims) tuple. Expected "
            f"out_dims={out_dims} to be compatible with the structure of `output`. out_dims has structure "
            f"{pytree.describe(pytree.flatten(out_dims)[1])} but output has structure {pytree.describe(spec)}. {_MORE}"
        )
    return outputs, spec, dims


def _push(
    level: DualLevel,
    node: FunctionNode,
    args: Sequence[Any],
    results: Sequence[Any],
    constant: Sequence[Any],
) -> None:
    """Give the results their tangents at a level, by the user's ``jvp``; ``state.levels`` are those outside."""
    tangents = [level.tangent_of(x) if isinstance(x, Tensor) else None for x in args]
    if all(t is None for t in tangents):
        return
    if node.ctx.materialize_grads:
        tangents = [
            zeros_like(x) if t is None and isinstance(x, Tensor) and x.is_floating_point() else t
            for t, x in zip(tangents, args, strict=True)
        ]
    versions = [0 if t is None else t._version for t in tangents]
    returned = node.function.jvp(node.ctx, *tangents)
    pushed = returned if isinstance(returned, tuple) else (returned,)
    if len(pushed) != len(results):
        raise RuntimeError(
            f"Function's jvp returned an invalid number of forward gradients (expected {len(results)} but got "
            f"{len(pushed)})"
        )
    for number, (out, tangent) in enumerate(zip(results, pushed, strict=True)):
        if tangent is not None and not isinstance(tangent, Tensor):
            raise RuntimeError(
                f"expected Variable or None (got {type(tangent).__name__}) for grad output {number}."
            )
        differentiable = (
            isinstance(out, Tensor) and out.is_floating_point() and not _among(out, constant)
        )
        if tangent is not None and not differentiable:
            raise RuntimeError(
                f"Function's jvp returned a gradient at position {number}, but  the corresponding forward output "
                "is not a differentiable Tensor.You should return None at that position instead."
            )
        if isinstance(out, Tensor):
            known = {key: t for key, t in (out._tangents or {}).items() if key is not level}
            if tangent is not None:
                check_tangent(out, tangent)
                _check_sharing(out, tangent, args, tangents, versions)
                known[level] = tangent
            out._tangents = known or None


def _check_sharing(
    out: Tensor,
    tangent: Tensor,
    args: Sequence[Any],
    tangents: Sequence[Any],
    versions: Sequence[int],
) -> None:
    """Raise torch's error if an output shares memory with an input, but their tangents do not."""
    for x, own, version in zip(args, tangents, versions, strict=True):
        if x is out and own._version == version:
            raise RuntimeError(
                "An inplace custom Function is not modifying the forward mode gradients inplace. If the forward is "
                "modifying an input inplace, then the jvp function must modify the corresponding gradient inplace."
            )
        if x is out and tangent is not own:
            raise RuntimeError(
                "An inplace custom Function is not returning the forward mode gradients as-is. If the forward is "
                "modifying an input inplace, then the jvp function must modify the gradient inplace and return it "
                "as-is."
            )
        if x is out or own is None or out._base is None or is_lifted(out) or is_lifted(tangent):
            continue
        if x is out._base or x._base is out._base:
            if tangent._base is None:
                raise RuntimeError(
                    "A custom Function's forward is returning a view (or an input as-is) but the jvp is not "
                    "returning a view."
                )
            if tangent._base is not own and tangent._base is not own._base:
                raise RuntimeError(
                    "A custom Function is returning a view but the jvp is not returning a view of the given grad "
                    "input."
                )


class Stacked(Definition):
    """A definition for all examples of a stack at once: what ``generate_vmap_rule=True`` means.

    The user's methods run on tensors of a :class:`BatchLevel`; outside of it there are stacks.

    Attributes:
        function: the definition for one example.
        level: where its methods run; entered anew for each of them.
        batched: for each argument whether it is a stack; None where it is no tensor.
        out_batched: likewise for each output, once ``forward`` has run.
        shapes: of the arguments, for one example.
    """

    generate_vmap_rule = True

    def __init__(
        self, function: Any, size: int, randomness: str, batched: Sequence[bool | None]
    ) -> None:
        self.function = function
        self.level = BatchLevel(size, randomness)
        self.batched = batched
        self.out_batched: list[bool | None] = []
        self.shapes: list[Any] = []
        self.node_class = function.node_class
        self.__name__ = f"Vmapped{function.__name__}"

    def apply(self, *args: Any) -> Any:
        """As ``Function.apply``, of stacks."""
        return (apply_at_levels if state.levels else apply_plain)(self, args, {})

    def pullback(self) -> Callable[..., Any]:  # type: ignore[override]
        return self.backward

    def forward(self, *args: Any) -> Any:  # type: ignore[override]
        inside = self._inside(args, self.batched)
        with self.level:
            returned = self.function.forward(*inside)
        self.shapes = [x.shape if isinstance(x, Tensor) else None for x in inside]
        outputs, self.out_batched = _lowered(
            self.level, returned if isinstance(returned, tuple) else (returned,)
        )
        return tuple(outputs) if isinstance(returned, tuple) else outputs[0]

    def setup_context(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # type: ignore[override]
        inside = self._inside(inputs, self.batched)
        several = isinstance(output, tuple)
        physical = output if several else (output,)
        outputs = self._inside(physical, self.out_batched)
        for number, x in enumerate(physical):
            argument = _same(x, inputs, inside) if isinstance(x, Tensor) else None
            if argument is not None:
                outputs[number] = argument
        with self.level:
            self.function.setup_context(
                StackedCtx(ctx, self), tuple(inside), tuple(outputs) if several else outputs[0]
            )

    def backward(self, ctx: Any, *grad_outputs: Any) -> Any:  # type: ignore[override]
        inside = self._inside(grad_outputs, self.out_batched)
        with self.level:
            own = StackedCtx(ctx, self)
            backward = self.function.pullback()
            returned = (
                backward(own, inside) if self.function.boxed_grads_call else backward(own, *inside)
            )
            values = returned if isinstance(returned, tuple) else (returned,)
            fitted = [
                unbroadcast(value, shape)
                if isinstance(value, Tensor) and shape is not None and value.ndim >= len(shape)
                else value
                for value, shape in zip(values, self.shapes, strict=False)
            ]
        gradients, stacks = _lowered(self.level, fitted)
        for number, (value, stack) in enumerate(zip(gradients, stacks, strict=True)):
            if isinstance(value, Tensor) and self.batched[number] is not None:
                if stack and not self.batched[number]:
                    gradients[number] = value.sum(0)
                elif self.batched[number] and not stack:
                    gradients[number] = value.expand(self.level.size, *value.shape)
        return (*gradients, *values[len(fitted) :])

    def jvp(self, ctx: Any, *grad_inputs: Any) -> Any:  # type: ignore[override]
        inside = self._inside(grad_inputs, self.batched)
        with self.level:
            returned = self.function.jvp(StackedCtx(ctx, self), *inside)
        values = returned if isinstance(returned, tuple) else (returned,)
        tangents, stacks = _lowered(self.level, values)
        for number, (value, stack) in enumerate(zip(tangents, stacks, strict=True)):
            if isinstance(value, Tensor) and self.out_batched[number] and not stack:
                tangents[number] = value.expand(self.level.size, *value.shape)
        return tuple(tangents) if isinstance(returned, tuple) else tangents[0]

    def _inside(self, values: Sequence[Any], batched: Sequence[bool | None]) -> list[Any]:
        """Stacks as tensors of the level; the rest as it is."""
        return [
            self.level.wrap(x, batched=True) if isinstance(x, Tensor) and stack else x
            for x, stack in zip(values, batched, strict=False)
        ]


class StackedCtx:
    """The ctx of one example: that of the stack, which saves stacks."""

    __slots__ = ("_ctx", "_stacked")

    def __init__(self, ctx: Any, stacked: Stacked) -> None:
        object.__setattr__(self, "_ctx", ctx)
        object.__setattr__(self, "_stacked", stacked)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._ctx, name, value)

    def _lower(self, tensors: Sequence[Any]) -> list[Any]:
        return _lowered(self._stacked.level, tensors)[0]

    def _remember(self, what: str, tensors: Sequence[Any]) -> None:
        known = getattr(self._ctx, "_stacks_saved", {})
        flags = _lowered(self._stacked.level, tensors)[1]
        self._ctx._stacks_saved = {**known, (self._stacked, what): flags}

    def save_for_backward(self, *tensors: Any) -> None:
        self._remember("backward", tensors)
        self._ctx.save_for_backward(*self._lower(tensors))

    def save_for_forward(self, *tensors: Any) -> None:
        self._remember("forward", tensors)
        self._ctx.save_for_forward(*self._lower(tensors))

    def mark_dirty(self, *tensors: Any) -> None:
        self._ctx.mark_dirty(*self._lower(tensors))

    def mark_non_differentiable(self, *tensors: Any) -> None:
        self._ctx.mark_non_differentiable(*self._lower(tensors))

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        what = "backward" if self._ctx.saved_for_forward is None else "forward"
        batched = getattr(self._ctx, "_stacks_saved", {}).get((self._stacked, what), ())
        return tuple(self._stacked._inside(self._ctx.saved_tensors, batched))


__all__ = ["Definition", "FunctionCtx", "apply_at_levels", "apply_plain", "bound"]
