"""The record and the context of a custom Function.

A :class:`FunctionNode` is the record that ``apply`` leaves; what it keeps for the user's ``backward`` stands in a
:class:`FunctionCtx` of its own, so that no attribute that users set can meet one that the engine reads.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.dispatch import edge_of
from tracegrad.grad_mode import state
from tracegrad.ir.location import current_location
from tracegrad.ir.op import unbroadcast
from tracegrad.node import FREED_MESSAGE, Node, modified_error
from tracegrad.ops.arguments import to_dtype
from tracegrad.ops.creation import zeros
from tracegrad.saved import PackedTensor, SavedTensor, pack_tensor, packed_by
from tracegrad.tensor import Tensor, is_lifted, new_tensor, version_of, version_saved

_OF_THE_RECORD = frozenset(
    (
        "_raw_saved_tensors",
        "metadata",
        "name",
        "next_functions",
        "register_hook",
        "register_prehook",
    )
)

_READ_ONCE = (
    "saved_tensors can only be accessed once when clear_saved_tensors_on_access=True is set on the autograd.Function. "
    "Either access saved_tensors only once, or set clear_saved_tensors_on_access=False."
)


class FunctionCtx:
    """What ``forward``, ``setup_context``, ``backward`` and ``jvp`` get as `ctx`. Users may set attributes.

    Attributes:
        needs_input_grad: for each argument of ``apply`` whether its gradient is wanted.
        materialize_grads: whether ``backward`` and ``jvp`` get zeros rather than None.
        to_save, saved_for_forward, dirty_tensors, non_differentiable: what the methods of these names were given;
            None once ``apply`` is over.
    """

    needs_input_grad: tuple[bool, ...]
    materialize_grads = True
    to_save: tuple[Any, ...] | None = None
    saved_for_forward: tuple[Any, ...] | None = None
    dirty_tensors: tuple[Any, ...] | None = None
    non_differentiable: tuple[Any, ...] | None = None

    def __init__(self, node: FunctionNode) -> None:
        self._node = weakref.ref(node)

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors (or None) for ``backward``, where ``saved_tensors`` has them."""
        self.to_save = tensors

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        """Keep tensors (or None) for ``jvp``, where ``saved_tensors`` has them."""
        for x in tensors:
            if not (x is None or isinstance(x, Tensor)):
                raise AssertionError(
                    "save_for_forward expects all arguments to be tensors; you should save non-tensors as "
                    "attributes on ctx."
                )
        self.saved_for_forward = tensors

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What was saved, checked for changes in place.

        Raises:
            RuntimeError: it was freed by an earlier backward pass, or changed in place since.
        """
        if self.saved_for_forward is not None:
            return self.saved_for_forward
        if self.to_save is not None:
            return self.to_save
        node = self._node()
        return () if node is None else node.recalled()

    @property
    def saved_variables(self) -> tuple[Tensor | None, ...]:
        """An older name of `saved_tensors`."""
        warnings.warn(
            "'saved_variables' is deprecated; use 'saved_tensors'", DeprecationWarning, stacklevel=2
        )
        return self.saved_tensors

    def mark_dirty(self, *args: Tensor) -> None:
        """These inputs were changed in place and are returned."""
        self.dirty_tensors = args

    def mark_non_differentiable(self, *args: Tensor) -> None:
        """These outputs have no derivative."""
        self.non_differentiable = args

    def set_materialize_grads(self, value: bool) -> None:
        """Whether ``backward`` and ``jvp`` get zeros (the default) or None where there is no gradient."""
        self.materialize_grads = value

    def __getattr__(self, name: str) -> Any:
        if name in _OF_THE_RECORD:
            return getattr(self._node(), name)
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")


class FunctionNode(Node):
    """The record of one application.

    Attributes:
        function: what was applied: a :class:`tracegrad.autograd.function_call.Definition`.
        ctx: what its methods get.
        output_types: (shape, dtype) of each output, None for those that are no tensors.
        input_types: likewise of the arguments.
        saved: tensors kept for ``backward`` (or what hooks made of them), each with its version then and the number of
            the output that it is (None where it is none); None after release.
    """

    # Slots, for hooks and edges are the engine's business; users' attributes are those of ctx.
    __slots__ = ("ctx", "function", "input_types", "output_types", "outputs", "saved")
    pulls_nothing = True

    def __init__(self, function: Any, args: Sequence[Any]) -> None:
        super().__init__(
            tuple([edge_of(x) if _renewed(x) else None for x in args]), current_location()
        )
        self.numbers = tuple([x._output_nr if isinstance(x, Tensor) else 0 for x in args])
        self.function = function
        self.outputs = 1
        self.output_types: list[Any] = []
        self.input_types = [_type_of(x) for x in args]
        self.saved: tuple[tuple[Tensor | PackedTensor | None, int, int | None], ...] | None = ()
        self.ctx = FunctionCtx(self)
        self.ctx.needs_input_grad = tuple([edge is not None for edge in self.edges])

    def name(self) -> str:
        return type(self).__name__

    def shown_edges(self) -> Sequence[tuple[Any, int]]:
        assert self.numbers is not None
        edges = zip(self.edges, self.numbers, self.input_types, strict=True)
        return tuple([(edge, number) for edge, number, type in edges if type is not None])

    def __getattr__(self, name: str) -> Any:
        """What the user's forward left on ctx, as torch shows it on ``grad_fn``."""
        if name in FunctionNode.__slots__ or name.startswith("__"):
            raise AttributeError(name)
        try:
            return getattr(self.ctx, name)
        except AttributeError:
            raise AttributeError(
                f"'{type(self).__name__}' object has no attribute '{name}'"
            ) from None

    # Saved tensors.

    def keep(self, outputs: Sequence[Any]) -> None:
        """Take over what the context was told to save.

        Saved outputs lead back to this record: their memory is kept instead, or neither would ever be freed.

        Raises:
            TypeError: something is no Tensor.
            RuntimeError: an inference tensor would be needed for the backward pass.
        """
        recorded = any(isinstance(x, Tensor) and x._grad_fn is self for x in outputs)
        saved: list[tuple[Tensor | PackedTensor | None, int, int | None]] = []
        for position, x in enumerate(self.ctx.to_save or ()):
            if x is None:
                saved.append((None, 0, None))
                continue
            if not isinstance(x, Tensor):
                raise TypeError(
                    f"save_for_backward can only save variables, but argument {position} is of type "
                    f"{type(x).__name__}"
                )
            version = version_saved(x) if recorded else version_of(x)
            number = next((k for k, output in enumerate(outputs) if output is x), None)
            if x._grad_fn is not self:
                number = None
            if state.saved_hooks is not None:
                packed = pack_tensor(x, edge_of(x) if number is None else None)
                saved.append((packed, 0, number))
                continue
            if number is not None:
                x = _alias(x)
            saved.append((x, version, number))
        self.saved = tuple(saved)
        ctx = self.ctx
        ctx.to_save = ctx.saved_for_forward = ctx.dirty_tensors = ctx.non_differentiable = None

    def recalled(self) -> tuple[Tensor | None, ...]:
        """The saved tensors. Raises RuntimeError where they were freed, or changed in place."""
        once = self.function.clear_saved_tensors_on_access
        if self.saved is None:
            raise RuntimeError(_READ_ONCE if once else FREED_MESSAGE)
        tensors = tuple([self._recall(*entry) for entry in self.saved])
        if once:
            self.release()
        return tensors

    def _recall(
        self, tensor: Tensor | PackedTensor | None, version: int, number: int | None
    ) -> Tensor | None:
        if tensor is None:
            return None
        if isinstance(tensor, PackedTensor):
            return tensor.restore(None if number is None else self)
        if version_of(tensor) != version:
            source = tensor._grad_fn if number is None else self
            raise modified_error(
                tensor._data, source, tensor._version_counter(), version, self, number or 0
            )
        if number is None:
            return tensor
        out = _alias(tensor)
        out._grad_fn, out._output_nr, out._requires_grad = self, number, True
        return out

    @property
    def _raw_saved_tensors(self) -> tuple[SavedTensor, ...]:
        """What was saved, as objects on which hooks can be set."""
        if self.saved is None:
            raise RuntimeError(FREED_MESSAGE)
        return tuple([SavedTensor(self, k, _repack) for k in range(len(self.saved))])

    def release(self) -> None:
        if self.saved:
            self.saved = None

    # What the engine calls.

    def pull(self, ct: Any, needed: Sequence[bool], differentiable: bool) -> list[Any]:
        per_output = ct if self.outputs != 1 else [ct]
        gradients = [self._gradient(k, c) for k, c in enumerate(per_output)]
        backward = self.function.pullback()
        returned = (
            backward(self.ctx, gradients)
            if self.function.boxed_grads_call
            else backward(self.ctx, *gradients)
        )
        values = list(returned) if isinstance(returned, tuple) else [returned]
        expected = len(self.edges)
        if len(values) > expected and all(v is None for v in values[expected:]):
            del values[expected:]
        if len(values) != expected:
            raise RuntimeError(
                f"function {self.name()} returned an incorrect number of gradients (expected {expected}, got "
                f"{len(values)})"
            )
        for number, (value, type_) in enumerate(zip(values, self.input_types, strict=True)):
            if type_ is None and value is not None:
                raise RuntimeError(
                    f"function {self.name()} returned a gradient different than None at position {number + 1}, "
                    "but the corresponding forward input was not a Variable"
                )
            if value is not None and not isinstance(value, Tensor):
                raise RuntimeError(f"expected Variable or None (got {type(value).__name__})")
        # As in torch, hooks see whatever was returned.
        seen = self.hooks is not None and bool(self.hooks.after)
        return [
            self._fitted(k, value, differentiable)
            if value is not None and (wanted or seen)
            else None
            for k, (value, wanted) in enumerate(zip(values, needed, strict=True))
        ]

    def _gradient(self, number: int, ct: Any) -> Tensor | None:
        if ct is None:
            type_ = self.output_types[number]
            if type_ is None or not self.ctx.materialize_grads:
                return None
            return zeros(type_[0], dtype=type_[1])
        return ct if isinstance(ct, Tensor) else new_tensor(np.asarray(ct))

    def _fitted(self, number: int, value: Tensor, differentiable: bool) -> Any:
        """A gradient in the shape and dtype of its input, if that requires grad; else as it was returned."""
        shape, dtype = self.input_types[number]
        if self.edges[number] is None:
            return value if differentiable else value._data
        if value.shape != shape:
            if not _broadcasts(shape, value.shape):
                raise RuntimeError(
                    f"Function {self.name()} returned an invalid gradient at index {number} - got "
                    f"{list(value.shape)} but expected shape compatible with {list(shape)}"
                )
            value = unbroadcast(value, tuple(shape))
        value = to_dtype(value, dtype)
        return value if differentiable else value._data


def _repack(
    node: FunctionNode, index: int, pack: Callable[..., Any], unpack: Callable[..., Any]
) -> None:
    """Pack one of the saved tensors by hooks of its own."""
    assert node.saved is not None
    known, _, number = node.saved[index]
    edge = edge_of(known) if isinstance(known, Tensor) and number is None else None
    entry = packed_by(known, pack, unpack, edge), 0, number
    node.saved = (*node.saved[:index], entry, *node.saved[index + 1 :])


def _renewed(x: Any) -> bool:
    """Whether it is a tensor that requires grad; a view's history is brought up to date."""
    if not isinstance(x, Tensor):
        return False
    x._renew()
    return x.requires_grad


def _alias(x: Tensor) -> Tensor:
    """The same value, with the same tangents and the same history at the levels outside, but none at its own."""
    out = new_tensor(x._data)
    out._counter = x._version_counter()
    out._tangents = None if x._tangents is None else dict(x._tangents)
    if state.trace is not None and not is_lifted(x):
        state.trace.alias(out, x)
    return out


def _type_of(x: Any) -> Any:
    return (x.shape, x.dtype) if isinstance(x, Tensor) else None


def _broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a tensor of this shape can be expanded to the target."""
    trailing = target[len(target) - len(shape) :]
    return len(shape) <= len(target) and all(
        n in (1, m) for n, m in zip(shape, trailing, strict=True)
    )
