"""``Function``: an operation with a derivative that the user writes.

A subclass has two static methods, ``forward(ctx, *args)`` and ``backward(ctx, *gradients)``; ``apply`` runs the
first and leaves a :class:`FunctionNode` that runs the second. `ctx` is that record itself, as in torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.grad_mode import no_grad, state
from tracegrad.ir import events
from tracegrad.ir.op import unbroadcast
from tracegrad.node import FREED_MESSAGE, Edge, Node, modified_error
from tracegrad.ops.arguments import to_dtype
from tracegrad.ops.creation import zeros
from tracegrad.reporting import report_call
from tracegrad.tensor import Tensor, new_tensor


class FunctionNode(Node):
    """The record of one application, and the `ctx` of the user's methods, who may set attributes.

    Attributes:
        function: the subclass of Function.
        needs_input_grad: for each argument of ``apply`` whether its gradient is wanted.
        output_types: (shape, dtype) of each output.
    """

    # No __slots__: users set attributes.

    def __init__(self, function: type[Function], args: Sequence[Any]) -> None:
        edges: list[Edge] = []
        for x in args:
            wanted = isinstance(x, Tensor) and x.requires_grad
            edges.append((x if x._grad_fn is None else x._grad_fn) if wanted else None)
        super().__init__(tuple(edges), None)
        self.numbers = tuple(x._output_nr if isinstance(x, Tensor) else 0 for x in args)
        self.function = function
        self.needs_input_grad = tuple(edge is not None for edge in edges)
        self.output_types: list[Any] = []
        self.is_output: dict[int, int] = {}
        self.not_differentiable: tuple[Tensor, ...] = ()
        self.dirty: tuple[Tensor, ...] = ()
        self.materialize_grads = True
        self._saved: tuple[Any, ...] | None = ()
        self._input_types = tuple(
            (x.shape, x.dtype) if isinstance(x, Tensor) else None for x in args
        )

    def name(self) -> str:
        return self.function.__name__ + "Backward"

    def shown_edges(self) -> Sequence[tuple[Edge, int]]:
        assert self.numbers is not None
        edges = zip(self.edges, self.numbers, self._input_types, strict=True)
        return tuple((edge, number) for edge, number, type in edges if type is not None)

    # What users call on ctx.

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs or outputs for ``backward``, where ``saved_tensors`` has them."""
        for x in tensors:
            if x is not None and not isinstance(x, Tensor):
                raise TypeError(
                    f"save_for_backward can only save variables, but argument is of type {type(x).__name__}"
                )
        self._saved = tuple((x, 0 if x is None else x._version) for x in tensors)

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What was saved, checked for changes in place."""
        if self._saved is None:
            raise RuntimeError(FREED_MESSAGE)
        return tuple(self._recalled(position) for position in range(len(self._saved)))

    def _recalled(self, position: int) -> Tensor | None:
        assert self._saved is not None
        tensor, version = self._saved[position]
        if tensor is None:
            return None
        if tensor._version != version:
            raise modified_error(
                tensor._data, tensor._grad_fn, tensor._version_counter(), version, self
            )
        if position not in self.is_output:
            return tensor
        out = tensor.detach()
        out._grad_fn, out._output_nr, out._requires_grad = self, self.is_output[position], True
        return out

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        """These outputs have no derivative."""
        self.not_differentiable = outputs

    def mark_dirty(self, *inputs: Tensor) -> None:
        """These inputs were changed in place and are returned."""
        self.dirty = inputs

    def set_materialize_grads(self, value: bool) -> None:
        """Whether ``backward`` gets zeros (the default) or None for outputs that nothing depends on."""
        self.materialize_grads = value

    # What the engine calls.

    def pull(self, ct: Any, needed: Sequence[bool], differentiable: bool) -> list[Any]:
        per_output = ct if self.outputs != 1 else [ct]
        gradients = [self._gradient(k, c) for k, c in enumerate(per_output)]
        self.needs_input_grad = tuple(needed)
        returned = self.function.backward(self, *gradients)
        values = list(returned) if isinstance(returned, tuple) else [returned]
        expected = len(self.edges)
        if len(values) > expected and all(v is None for v in values[expected:]):
            del values[expected:]
        if len(values) != expected:
            raise RuntimeError(
                f"function {self.name()} returned an incorrect number of gradients (expected {expected}, got "
                f"{len(values)})"
            )
        return [
            self._checked(k, value, differentiable) if wanted and value is not None else None
            for k, (value, wanted) in enumerate(zip(values, needed, strict=True))
        ]

    def _gradient(self, number: int, ct: Any) -> Tensor | None:
        if ct is None:
            if not self.materialize_grads:
                return None
            shape, dtype = self.output_types[number]
            return zeros(shape, dtype=dtype)
        return ct if isinstance(ct, Tensor) else new_tensor(np.asarray(ct))

    def _checked(self, number: int, value: Any, differentiable: bool) -> Any:
        input_type = self._input_types[number]
        assert input_type is not None
        shape, dtype = input_type
        if not isinstance(value, Tensor):
            raise TypeError(
                f"expected Variable or None (got {type(value).__name__}) as gradient {number} of {self.name()}"
            )
        if value.shape != shape:
            if not _broadcasts(shape, value.shape):
                raise RuntimeError(
                    f"Function {self.name()} returned an invalid gradient at index {number} - got "
                    f"{list(value.shape)} but expected shape compatible with {list(shape)}"
                )
            value = unbroadcast(value, tuple(shape))
        value = to_dtype(value, dtype)
        return value if differentiable else value._data

    def release(self) -> None:
        if self._saved:
            self._saved = None


def _broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a tensor of this shape can be expanded to the target."""
    trailing = target[len(target) - len(shape) :]
    return len(shape) <= len(target) and all(
        n in (1, m) for n, m in zip(shape, trailing, strict=True)
    )


class _FunctionMeta(type):
    """Gives each Function a record class of its own, so that ``type(y.grad_fn).__name__`` is torch's."""

    node_class: type[FunctionNode]

    def __init__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> None:
        super().__init__(name, bases, members)
        cls.node_class = type(name + "Backward", (FunctionNode,), {"__module__": cls.__module__})


class Function(metaclass=_FunctionMeta):
    """The base of operations with a derivative of the user's own. Named and behaving as torch's."""

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Compute the result: ``forward(ctx, *args)``, or ``forward(*args)`` where there is a ``setup_context``."""
        raise NotImplementedError(
            "You must implement the forward function for custom autograd.Function."
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save what ``backward`` needs, where ``forward`` takes no ctx."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """From the gradients of the outputs those of the arguments, None for those that have none."""
        raise NotImplementedError(
            "You must implement either the backward or vjp method for your custom autograd.Function to use it "
            "with backward mode AD."
        )

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run the operation; the result has a record that leads to the Tensors among `args`."""
        begin = events.now() if events.active else 0
        node = cls.node_class(cls, args)
        with no_grad():
            if cls.setup_context is Function.setup_context:
                returned = cls.forward(node, *args)
            else:
                returned = cls.forward(*args)
                cls.setup_context(node, args, returned)
        outputs = returned if isinstance(returned, tuple) else (returned,)
        recorded = state.grad and any(node.needs_input_grad)
        if recorded:
            results = tuple(_with_record(node, k, x, args) for k, x in enumerate(outputs))
            node.outputs = len(outputs)
            _own_outputs(node, outputs)
        else:
            results = tuple(
                x.view_as(x)
                if isinstance(x, Tensor) and _among(x, args) and not _among(x, node.dirty)
                else x
                for x in outputs
            )
        if begin:
            report_call(cls.__name__, args, begin, node.sequence if recorded else None)
        return results if isinstance(returned, tuple) else results[0]


def _among(x: Any, tensors: Sequence[Any]) -> bool:
    """Whether it is one of these very objects."""
    return any(x is y for y in tensors)


def _with_record(node: FunctionNode, number: int, x: Any, args: Sequence[Any]) -> Any:
    """The output that users get: with the record, if it can have a derivative."""
    node.output_types.append((x.shape, x.dtype) if isinstance(x, Tensor) else None)
    if not isinstance(x, Tensor) or not x.is_floating_point() or _among(x, node.not_differentiable):
        return x
    out = x
    if _among(x, args) and not _among(x, node.dirty):
        out = x.detach()
    out._grad_fn, out._output_nr, out._requires_grad = node, number, True
    if state.trace is not None and state.trace.failure is None:
        state.trace.records[node] = state.trace.value_of(out)
    return out


def _own_outputs(node: FunctionNode, outputs: Sequence[Any]) -> None:
    """Saved outputs lead back to the record: keep their memory instead, or neither would ever be freed."""
    saved = list(node._saved or ())
    for position, (tensor, version) in enumerate(saved):
        for number, output in enumerate(outputs):
            if tensor is output and tensor is not None and tensor._grad_fn is node:
                saved[position] = tensor.detach(), version
                node.is_output[position] = number
    node._saved = tuple(saved)


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a ``backward`` that computes with something else than Tensors: no second derivatives.

    Raises:
        RuntimeError: when the result is differentiated again.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, *gradients: Any) -> Any:
        with no_grad():
            returned = backward(ctx, *gradients)
        if not state.grad or not any(isinstance(g, Tensor) and g.requires_grad for g in gradients):
            return returned
        values = returned if isinstance(returned, tuple) else (returned,)
        marked = tuple(
            _NotTwice.apply(v, *gradients) if isinstance(v, Tensor) else v for v in values
        )
        return marked if isinstance(returned, tuple) else marked[0]

    return wrapped


class _NotTwice(Function):
    """Hands a value on, and refuses to be differentiated."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *gradients: Any) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(
            "trying to differentiate twice a function that was marked with @once_differentiable"
        )
