"""Checkpointing, as ``torch.utils.checkpoint``: compute a part of a program again rather than keep what it saved.

Without ``use_reentrant`` the function runs once, recorded as ever. Then its records are dropped, and a
:class:`CheckpointNode` stands for all of them: from the results to where the records led out of the function. In
the backward pass the function runs again, and the new records are swept from the results to stand-ins for the
outside. With ``use_reentrant=True`` it is a ``Function`` whose backward calls ``backward``, as in torch.

Start with :func:`checkpoint`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tracegrad import pytree
from tracegrad.autograd.backward import backward, grad
from tracegrad.autograd.function import Function
from tracegrad.derivative import CompiledBackward
from tracegrad.grad_mode import enable_grad, no_grad, state
from tracegrad.ir.location import current_location
from tracegrad.node import FREED_MESSAGE, Node, OpNode, modified_error, next_sequence
from tracegrad.ops.creation import zeros
from tracegrad.random import get_rng_state, set_rng_state
from tracegrad.tensor import Tensor, new_tensor, version_of
from tracegrad.utils.selective_checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    create_selective_checkpoint_contexts,
)
from tracegrad.views import Creation

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
]

_DEFAULT_CHECK = "default"
_debug: list[bool | None] = [None]


class CheckpointError(RuntimeError):
    """The function did something else when it was computed again."""


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


class _Run:
    """The records of one run of the function.

    Attributes:
        results: the outputs that have one of them as history.
        nodes: those below the results.
        exits: for each edge out of the function its key: a leaf, or a record and the number of its output.
        saved: shape and dtype of the tensors that they keep; None where native code keeps what it likes.
    """

    def __init__(self, begin: int, output: Any) -> None:
        leaves, _ = pytree.flatten(output)
        self.results: list[Tensor] = []
        for x in leaves:
            if isinstance(x, Tensor):
                x._renew()
                inside = x._grad_fn is not None and x._grad_fn.sequence >= begin
                if inside and not any(x is y for y in self.results):
                    self.results.append(x)
        self.nodes: list[Node] = []
        self.exits: dict[Any, list[tuple[Node, int]]] = {}
        seen: set[Node] = set()
        stack: list[Any] = [x._grad_fn for x in self.results]
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            self.nodes.append(node)
            for position, edge in enumerate(node.edges):
                if isinstance(edge, Node) and edge.sequence >= begin:
                    stack.append(edge)
                elif edge is not None:
                    number = node.numbers[position] if node.numbers is not None else 0
                    self.exits.setdefault((edge, number), []).append((node, position))
        self.nodes.sort(key=lambda node: node.sequence)
        self.saved: list[tuple[Any, str]] | None = None
        if any(isinstance(node, CompiledBackward) for node in self.nodes):
            return
        self.saved = [
            (x.shape, x.dtype.name)
            for node in self.nodes
            if isinstance(node, OpNode)
            for x in (*[getattr(x, "_data", None) for x in node.saved or ()], node.saved_out)
            if x is not None
        ]

    def describe(self) -> str:
        """The operations, for messages."""
        return "".join(
            f"  {node.name()}"
            + ("\n" if node.location is None else f" at {node.location.describe()}\n")
            for node in self.nodes
        )


class CheckpointNode(Node):
    """The record of a checkpointed function.

    Attributes:
        recompute: runs the function again; None after release.
        saved: what the records of the first run had saved; None if that is not to be compared.
        story: what the first run computed, for messages; None unless asked for.
        keys: where the edges lead.
        arguments: tensors that the function was given, and their versions then.
        outputs: how many results there are.
    """

    __slots__ = ("arguments", "keys", "outputs", "recompute", "saved", "story")

    def __init__(
        self,
        run: _Run,
        recompute: Callable[[], Any],
        arguments: list[tuple[Tensor, int]],
        *,
        checked: bool,
        told: bool,
    ) -> None:
        super().__init__(tuple([edge for edge, _ in run.exits]), current_location())
        self.numbers = tuple([number for _, number in run.exits])
        self.keys = list(run.exits)
        self.recompute: Callable[[], Any] | None = recompute
        self.arguments = arguments
        self.saved = run.saved if checked else None
        self.story = run.describe() if told else None
        self.outputs = len(run.results)

    def name(self) -> str:
        return "CheckpointBackward"

    def pull(self, ct: Any, needed: Sequence[bool], differentiable: bool) -> list[Any]:
        if self.recompute is None:
            raise RuntimeError(FREED_MESSAGE)
        for x, version in self.arguments:
            if version_of(x) != version:
                raise modified_error(x._data, x._grad_fn, x._version_counter(), version, self)
        cts = list(ct) if self.outputs != 1 else [ct]
        begin = next_sequence()
        with enable_grad():
            run = _Run(begin, self.recompute())
        self._compare(run)
        standins = [zeros((), requires_grad=True) for _ in self.keys]
        asked = [x for x, wanted in zip(standins, needed, strict=True) if wanted]
        pairs = [(x, c) for x, c in zip(run.results, cts, strict=True) if c is not None]
        # Saved values have the true history, for higher derivatives: the edges are put back after the sweep.
        edges = [(node, node.edges) for node in run.nodes]
        for key, standin in zip(self.keys, standins, strict=True):
            for node, position in run.exits.get(key, ()):
                node.edges = (*node.edges[:position], standin, *node.edges[position + 1 :])
        try:
            found = iter(
                grad(
                    [x for x, _ in pairs],
                    asked,
                    [c if isinstance(c, Tensor) else new_tensor(c) for _, c in pairs],
                    create_graph=state.grad,
                    allow_unused=True,
                )
            )
        finally:
            for node, own in edges:
                node.edges = own
        gradients: list[Any] = [next(found) if wanted else None for wanted in needed]
        return [g if differentiable or g is None else g._data for g in gradients]

    def _compare(self, run: _Run) -> None:
        """Raise torch's errors where the function did something else."""
        story = ""
        if self.story is not None:
            story = f"\nOperations during forward:\n{self.story}Operations during recomputation:\n{run.describe()}"
        if len(run.results) != self.outputs:
            raise CheckpointError(
                "torch.utils.checkpoint: A different number of results requires grad after recomputation.\n"
                f"During forward: {self.outputs}\nDuring recomputation: {len(run.results)}{story}"
            )
        if self.saved is None or run.saved is None:
            return
        if len(run.saved) > len(self.saved):
            raise CheckpointError(
                "torch.utils.checkpoint: trying to save more tensors during recomputation than during the original "
                f"forward pass.\nNumber of tensors saved during forward: {len(self.saved)}\nNumber of tensors "
                f"saved during recomputation: {len(run.saved)}.{story}"
            )
        if len(run.saved) < len(self.saved):
            raise CheckpointError(
                "torch.utils.checkpoint: A different number of tensors was saved during the original forward and "
                f"recomputation.\nNumber of tensors saved during forward: {len(self.saved)}\nNumber of tensors "
                f"saved during recomputation: {len(run.saved)}.{story}"
            )
        different = "".join(
            f"tensor at position {place}:\nsaved metadata: {{'shape': {a[0]}, 'dtype': {a[1]}}}\n"
            f"recomputed metadata: {{'shape': {b[0]}, 'dtype': {b[1]}}}\n"
            for place, (a, b) in enumerate(zip(self.saved, run.saved, strict=True))
            if a != b
        )
        if different:
            raise CheckpointError(
                "torch.utils.checkpoint: Recomputed values for the following tensors have different metadata than "
                f"during the forward pass.\n{different}{story}"
            )

    def release(self) -> None:
        self.recompute = None
        self.arguments = []


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable[[], tuple[Any, Any]] = noop_context_fn,
    determinism_check: str = _DEFAULT_CHECK,
    debug: bool = False,
    early_stop: bool = True,
    **kwargs: Any,
) -> Any:
    """Run ``function(*args, **kwargs)``, and again in the backward pass, instead of keeping what it saved.

    As ``torch.utils.checkpoint.checkpoint``. Inside transforms and compiled functions nothing is saved or computed
    again: the function just runs.

    Args:
        function: takes and returns (containers of) Tensors and anything else.
        use_reentrant: True needs arguments that require grad, takes no keyword arguments and works with
            ``backward()`` alone, without `inputs`. False is better; not to choose gives a warning, and True.
        preserve_rng_state: (keyword) draw the same random numbers again. Default True.
        context_fn: returns two context managers: around the function, and around its recomputation.
        determinism_check: ``"default"`` compares shapes and dtypes of what was saved, ``"none"`` does not.
        debug: errors tell what was computed, in both runs.
        early_stop: torch may leave the recomputation when it has what it needs; here it always runs to its end.

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
    if determinism_check not in (_DEFAULT_CHECK, "none"):
        raise ValueError(
            f"determinism_check should be one of ['none', 'default'], but got {determinism_check}"
        )
    forward_context, recompute_context = context_fn()
    if state.trace is not None and not (preserve and context_fn is noop_context_fn):
        state.trace.give_up("a checkpoint runs its function again during the backward pass")
    if not state.grad or state.levels or (state.trace is not None and state.trace.failure is None):
        with forward_context if state.grad else contextlib.nullcontext():
            return function(*args, **kwargs)
    random = get_rng_state() if preserve else None

    def recompute() -> Any:
        with _random_state(random), recompute_context:
            return function(*args, **kwargs)

    versions = [
        (x, version_of(x)) for x in pytree.flatten((args, kwargs))[0] if isinstance(x, Tensor)
    ]
    begin = next_sequence()
    with forward_context:
        output = function(*args, **kwargs)
    run = _Run(begin, output)
    if not run.results:
        return output
    node = CheckpointNode(
        run,
        recompute,
        versions,
        checked=determinism_check != "none",
        told=debug if _debug[0] is None else bool(_debug[0]),
    )
    for number, x in enumerate(run.results):
        x._grad_fn, x._output_nr = node, number
        if x._base is not None:
            x._view = (*x._view[:3], Creation.CUSTOM)
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
