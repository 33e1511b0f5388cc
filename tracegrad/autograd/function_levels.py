"""``Function.apply`` inside transforms: the definition is applied at the levels outside, with a record at each.

Start with :func:`apply_at_levels`. :class:`Stacked` is a definition for all examples of a stack at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad import pytree
from tracegrad.autograd.function_call import (
    Definition,
    VmapInfo,
    among,
    apply_plain,
    attach,
    run_forward,
)
from tracegrad.autograd.function_node import FunctionNode
from tracegrad.grad_mode import no_grad, state
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
from tracegrad.tensor import Tensor, is_lifted, mark_made, version_of

_MORE = "For more details, please see https://pytorch.org/docs/main/notes/extending.func.html"


def apply_at_levels(function: Any, args: tuple[Any, ...]) -> Any:
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
    if any(isinstance(level, BatchLevel) for level in state.levels):
        _check_vmap(function)
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
                returned = run_forward(function, node, args)
            else:
                function.setup_context(node.ctx, args, returned)
        constant = node.ctx.non_differentiable or ()
        results = attach(node, args, returned)
        for dual in duals:
            state.levels = tuple([outer for outer in previous if outer.number < dual.number])
            _push(dual, node, args, results, constant)
    finally:
        state.levels = previous
    node.keep(results)
    for result in results:
        if isinstance(result, Tensor):
            mark_made(result)
    return results if isinstance(returned, tuple) else results[0]


def _check_vmap(function: Any) -> None:
    """Raise torch's error for a definition that ``vmap`` cannot use, be there stacks among the arguments or not."""
    name = function.__name__
    generated, written = function.generate_vmap_rule, function.overrides("vmap")
    if generated and written:
        raise RuntimeError(
            f"You tried to vmap over {name}, but it has both generate_vmap_rule=True and an overridden vmap "
            "staticmethod. Please set generate_vmap_rule=False or delete the overridden vmap staticmethod to avoid "
            f"ambiguity. {_MORE}"
        )
    if not (generated or written):
        raise RuntimeError(
            f"You tried to vmap over {name}, but it does not have vmap support. Please override and implement the "
            f"vmap staticmethod or set generate_vmap_rule=True. {_MORE}"
        )


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
    versions = [0 if t is None else version_of(t) for t in tangents]
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
            isinstance(out, Tensor) and out.is_floating_point() and not among(out, constant)
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
                known[level] = level.tangent(tangent)
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
        if x is out and version_of(own) == version:
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
        return (apply_at_levels if state.levels else apply_plain)(self, args)

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
