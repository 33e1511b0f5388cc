"""Saved tensors under hooks of the user's own: packed when an operation is recorded, unpacked when a rule reads them.

Without hooks a record simply keeps what its rule reads. With hooks, :class:`PackedValues` stands in the place of
these values, in :attr:`tracegrad.node.OpNode.saved`; the record asks it to unpack. Whether there are hooks is
``state.saved_hooks``, a rare mode. Start with :func:`pack_record`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from tracegrad.grad_mode import state
from tracegrad.ir.op import registered
from tracegrad.node import Edge, Node, OpNode, late_bound, new_op_node, node_class
from tracegrad.tensor import Tensor, new_tensor

_COPY = registered("copy")
_TWICE = (
    "Calling register_hooks on a saved tensor whose hooks have already been set. Hint: only one pair of hooks is "
    "allowed at a time."
)
_FREED = (
    "Calling register_hooks on a saved tensor after it has been freed. Saved intermediate values of the graph are "
    "freed when you call .backward() or autograd.grad(). Specify retain_graph=True if you need to backward through "
    "the graph a second time or if you need to access saved variables after calling backward."
)


class PackedTensor:
    """One saved tensor, as the user's pack hook gave it.

    Attributes:
        packed: what the hook returned.
        unpack_hook: makes a Tensor of it again.
        edge, number: where the tensor came from; None where it does not require grad.
    """

    __slots__ = ("edge", "number", "packed", "unpack_hook")

    def __init__(
        self, tensor: Tensor, pack: Callable[..., Any], unpack: Callable[..., Any], edge: Edge
    ) -> None:
        counter = tensor._counter
        before = 0 if counter is None else counter.value
        self.unpack_hook = unpack
        self.edge = edge
        self.number = tensor._output_nr
        grad, state.grad = state.grad, False
        try:
            self.packed = pack(tensor)
        finally:
            state.grad = grad
        if tensor._counter is not None and tensor._counter.value != before:
            raise RuntimeError(
                "A saved tensor pack hook is modifying its input in place. Tensors provided as input to pack hook "
                "cannot be modified by in-place operations as this can lead to unexpected side-effects. Please open "
                "an issue if you need to perform in-place operations on the input to a pack hook."
            )

    def restore(self, owner: Node | None = None) -> Tensor:
        """The tensor again, with its history; `owner` is the record where the tensor is its result.

        Raises:
            TypeError: the unpack hook returned no Tensor.
        """
        if state.trace is not None:
            state.trace.give_up("a hook unpacks a saved tensor")
        found = self.unpack_hook(self.packed)
        if not isinstance(found, Tensor):
            raise TypeError(
                "Output of saved tensor unpack_hook expected to be a Tensor but got result of type "
                f"{type(found).__name__}"
            )
        edge = self.edge if owner is None else owner
        if edge is None:
            return found.detach() if found.requires_grad else found
        if isinstance(edge, Tensor):
            if edge.is_set_to(found):
                return edge
            edge = new_op_node(node_class(_COPY), _COPY, {}, (edge,), (), None, None, None, None)
        out = new_tensor(found._data)
        out._grad_fn, out._output_nr, out._requires_grad = edge, self.number, True
        return out


class PackedValues:
    """What an :class:`OpNode` saved, some or all of it packed.

    Attributes:
        operands: as ``OpNode.saved``, with a PackedTensor where a tensor was packed.
        out: the result: packed, an array, or None where the rule does not read it.
    """

    __slots__ = ("operands", "out")

    def __init__(self, operands: tuple[Any, ...], out: Any) -> None:
        self.operands = operands
        self.out = out

    def unpack(self, node: OpNode) -> tuple[tuple[Any, ...], Any]:
        """The operands that the rule reads, and the result as an array (or None)."""
        operands = tuple([x.restore() if isinstance(x, PackedTensor) else x for x in self.operands])
        out = self.out
        return operands, out.restore(node)._data if isinstance(out, PackedTensor) else out

    def operand(self, index: int) -> Any:
        """One of the operands, for users who look at a record."""
        x = self.operands[index]
        return x.restore() if isinstance(x, PackedTensor) else x


def pack_tensor(tensor: Tensor, edge: Edge) -> PackedTensor:
    """A tensor as the hooks that are on pack it; `edge` is where it came from."""
    pack, unpack = state.saved_hooks
    return PackedTensor(tensor, pack, unpack, edge)


def pack_record(node: OpNode, out: Tensor) -> None:
    """Hand what a new record saved to the hooks that are on; `out` is its result."""
    saved = node.saved
    assert isinstance(saved, tuple)
    if not any(isinstance(x, Tensor) for x in saved) and node.saved_out is None:
        return
    operands = tuple(
        [pack_tensor(x, node.edges[i]) if isinstance(x, Tensor) else x for i, x in enumerate(saved)]
    )
    packed_out = None if node.saved_out is None else pack_tensor(out, None)
    node.saved = PackedValues(operands, packed_out)
    node.saved_out = node.versions = node.out_counter = None


class SavedTensor:
    """One tensor that a record keeps: ``node._raw_saved_self``. Its hooks can be set once.

    Args:
        node: the record.
        index: which of its saved tensors; None for the result.
        repack: ``repack(node, index, pack_hook, unpack_hook)`` packs it.
    """

    __slots__ = ("_hooked", "_index", "_node", "_repack")

    def __init__(
        self, node: Any, index: int | None, repack: Callable[..., None] | None = None
    ) -> None:
        self._node = weakref.ref(node)
        self._index = index
        self._repack = repack or _repack
        self._hooked = False

    def register_hooks(
        self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]
    ) -> None:
        """Pack the tensor at once, and unpack it whenever it is read.

        Raises:
            RuntimeError: it has hooks, or it was freed, or None was saved.
            TypeError: the hooks cannot be called.
        """
        if not (callable(pack_hook) and callable(unpack_hook)):
            raise TypeError(
                "register_hooks(): incompatible function arguments. The following argument types are supported:\n"
                "    1. (self: SavedTensor, arg0: function, arg1: function) -> None"
            )
        if self._hooked:
            raise RuntimeError(_TWICE)
        node = self._node()
        if node is None or node.saved is None:
            raise RuntimeError(_FREED)
        self._repack(node, self._index, pack_hook, unpack_hook)
        self._hooked = True


def packed_by(known: Any, pack: Callable[..., Any], unpack: Callable[..., Any], edge: Edge) -> Any:
    """A saved tensor, packed by hooks that the user sets for it alone.

    Raises:
        RuntimeError: it is packed already, or None.
    """
    if known is None:
        raise RuntimeError("Calling register_hooks on a saved tensor with value None is forbidden")
    if isinstance(known, PackedTensor):
        raise RuntimeError(_TWICE)
    return PackedTensor(known, pack, unpack, edge)


def _repack(
    node: OpNode, index: int | None, pack: Callable[..., Any], unpack: Callable[..., Any]
) -> None:
    values = node.saved
    if isinstance(values, tuple):
        values = PackedValues(values, node.saved_out)
    assert isinstance(values, PackedValues)
    if index is None:
        known = values.out
        if not isinstance(known, PackedTensor):
            known = late_bound["rebuild_output"](known, node)
        values.out = packed_by(known, pack, unpack, None)
        node.out_counter = None
    else:
        packed = packed_by(values.operands[index], pack, unpack, node.edges[index])
        values.operands = (*values.operands[:index], packed, *values.operands[index + 1 :])
    node.saved, node.saved_out = values, None


late_bound["saved_tensor"] = SavedTensor
