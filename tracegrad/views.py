"""Views: tensors that share the storage of another, and what becomes of their histories.

A view knows its base, the parent that it was made from and the op that made it (`Tensor._view`), under which
circumstances (a `Creation`), and which version of the storage its history describes. Start with
:func:`apply_view`. :mod:`tracegrad.inplace` changes storages; a view that is used afterwards renews its history
here, by :func:`refresh_view`.
"""

from __future__ import annotations

import enum
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.dispatch import apply, edge_of, record, shown_as, type_of_array
from tracegrad.grad_mode import state
from tracegrad.ir.location import current_location
from tracegrad.ir.memory import address, owner, row_major
from tracegrad.ir.op import Op, registered
from tracegrad.ir.ops.arithmetic import zeros
from tracegrad.ir.ops.strided import place_diagonal, place_windows
from tracegrad.node import (
    NUMBERED,
    UNTRACKED,
    Node,
    OpNode,
    class_named,
    late_bound,
    move_retained,
    new_op_node,
    present,
)
from tracegrad.tensor import Tensor, is_lifted, new_tensor

_slice = registered("slice")
_slice_update = registered("slice_update")
_reshape = registered("reshape")
_permute = registered("permute")
_broadcast = registered("broadcast_in_dim")
_concat = registered("concat")
_as_strided = registered("as_strided")
_strided_update = registered("strided_update")


_TRANSPOSE = {"dims": (1, 0)}


class Creation(enum.IntEnum):
    """Under which circumstances a view was made; all but the first forbid that its history is rewritten."""

    REGULAR = 0
    NO_GRAD = 1
    INFERENCE = 2
    MULTIPLE = 3
    CUSTOM = 4


def apply_view(op: Op, x: Tensor, attrs: dict[str, Any]) -> Tensor:
    """Apply an op whose result shares the operand's storage if NumPy's does."""
    if is_lifted(x):
        out, shared = x._data.level.apply_view(op, x, attrs)  # type: ignore[attr-defined]
        if shared:
            share_storage(out, x, op, attrs)
        return out
    out = apply(op, (x,), attrs)
    made, source = out._data, x._data
    if made is source:
        out._data = made = source.view()
    base = made.base
    if base is not None and (base is source or base is source.base):
        share_storage(out, x, op, attrs)
    return out


def transposed(x: Tensor) -> Tensor:
    """The transpose of a matrix, as a view."""
    data = x._data
    if state.watched or x._base is not None or x._output_nr or x._counter is UNTRACKED:
        return shown_as(apply_view(_permute, x, _TRANSPOSE), "TBackward0", x)
    out = new_tensor(data.T)
    out._base = x
    out._counter = counter = x._version_counter()
    out._view_version = counter.value
    out._view = x, _permute, _TRANSPOSE, Creation.REGULAR if state.grad else Creation.NO_GRAD
    if x._requires_grad and state.grad:
        out._requires_grad = True
        out._grad_fn = new_op_node(
            class_named("TBackward0"), _permute, _TRANSPOSE, (x._grad_fn or x,),
            (), None, None, (type_of_array(data),), sys._getframe(1),
        )  # fmt: skip
    return out


def share_storage(
    view: Tensor,
    x: Tensor,
    op: Op,
    attrs: dict[str, Any],
    creation: Creation = Creation.REGULAR,
) -> None:
    """Make `view` a view of `x`, and of what `x` is a view of: one version counter for all.

    Inference tensors have no views, only other tensors in the same memory.
    """
    if x._counter is UNTRACKED:
        view._counter = UNTRACKED
        return
    base = x._base
    if not state.grad:
        creation = Creation.NO_GRAD if state.inference is None else Creation.INFERENCE
    if base is None:
        base = x
    elif not creation:
        creation = x._view[3]
    view._base = base
    view._plain = None
    view._counter = x._version_counter()
    view._view_version = view._counter.value
    view._view = x, op, attrs, creation
    if state.trace is not None:
        state.trace.shares_storage(view)


def storage_offset(x: Tensor) -> int:
    """Where in its storage the first element stands, in elements."""
    return (address(x._data) - address(owner(x._data))) // x._data.itemsize


def layout(x: Tensor) -> tuple[tuple[int, ...], int]:
    """Strides and offset in the storage; of a stack of examples those that each would have by itself."""
    if is_lifted(x):
        return row_major(x._data.shape), 0
    return x.stride(), storage_offset(x)


def reattach(view: Tensor) -> None:
    """Make `view` a view of its base by where both stand in the storage, however it was made.

    For when a tensor between them was given another shape in place: what was made of its elements then is not made
    of them now.

    Raises:
        NotImplementedError: they belong to a transform, where there is no storage.
    """
    base = view._base
    assert base is not None
    if is_lifted(view):
        raise NotImplementedError(
            "a view of a tensor that was given another shape in place, inside of a transform"
        )
    attrs = {
        "source": (base._data.shape, *layout(base)),
        "target": (view._data.shape, *layout(view)),
    }
    view._view = base, _as_strided, attrs, view._view[3]


def _reattach_covered(view: Tensor) -> None:
    """`reattach` for a history, in which each element of the view has to come from one of the base.

    Raises:
        RuntimeError: the base shows less than the view by now.
    """
    base = view._base
    assert base is not None
    reattach(view)
    first, last = np.lib.array_utils.byte_bounds(base._data)
    begin, end = np.lib.array_utils.byte_bounds(view._data)
    if begin < first or end > last:
        raise RuntimeError(
            "a view shows elements of its base that the base does not show any more: its shape was changed in "
            "place.\nChange the shape before the view is made, or work on a copy: `y = x.clone()`."
        )


def refresh_view(view: Tensor) -> None:
    """Renew the history of a view whose storage was changed in place since the view was recorded.

    What it shows now came about through its base, so it is recorded as a view of the base as it is now.

    Raises:
        RuntimeError: the view was made in a way that forbids it; see `Creation`.
    """
    stale = []
    while view._base is not None:
        if view._version == view._view_version:
            break
        base = view._base
        if view._grad_fn is None and not base._requires_grad and not _carries(base):
            break
        if view._view[0]._moved:
            _reattach_covered(view)
        if view._view[3]:
            raise _rebase_error(view, "its base or another view of its base has been")
        stale.append(view)
        view = view._view[0]
    for view in reversed(stale):
        parent, op, attrs, _ = view._view
        view._view_version = view._version
        if _carries(parent):
            view._tangents = {
                level: level.tangent(op(t.value, **attrs))
                for level, t in parent._tangents.items()
                if t.value is not None
            }
        whole = view._base
        if parent._requires_grad and whole is not None and whole._requires_grad:
            old, number = view._grad_fn, view._output_nr
            record(op, (parent,), attrs, view)
            view._output_nr = 0
            move_retained(old, number, view._grad_fn, 0)
            shown_as(view, "AsStridedBackward0", whole)
        elif view._grad_fn is not None:
            _end_history(view, op, attrs)


def _end_history(view: Tensor, op: Op, attrs: dict[str, Any]) -> None:
    """`view` had a record, but its base came not to require grad, and was changed: what it shows depends on nothing.

    It requires grad all the same, as in torch.
    """
    constant = new_tensor(view._view[0]._data)
    constant._requires_grad = True
    record(op, (constant,), attrs, view)
    constant._requires_grad = False
    view._output_nr = 0
    if isinstance(view._grad_fn, OpNode):
        present(view._grad_fn, "AsStridedBackward0", ((None, 0),))


def _carries(x: Tensor) -> bool:
    """Whether `x` carries a tangent of a level that is going on."""
    return x._tangents is not None and any(t.value is not None for t in x._tangents.values())


def renew_for_writing(view: Tensor) -> None:
    """Have a view that is about to be changed come from what `put_back` will put it into.

    Only `as_strided` of a view does not: reading it depends on what that view shows, writing changes the base.
    """
    if view._base is not None and view._view[1] is _as_strided and view._view[0] is view._base:
        view._view_version = -1
        refresh_view(view)


def without_hooks(view: Tensor) -> Tensor:
    """A tensor with the history of `view`, in which no view on the way to its base has hooks or retains its gradient.

    An in-place operation on a view goes on from its base: as in torch, hooks on the views that there were before
    see no gradient of what comes after.
    """
    if is_lifted(view) or state.trace is not None:
        return view
    way = []
    x = view
    while x._base is not None:
        way.append(x)
        x = x._view[0]
    if not any(v._grad_fn is not None and v._grad_fn.hooks for v in way):
        return view
    for v in reversed(way):
        _, op, attrs, _ = v._view
        out = new_tensor(v._data)
        out._tangents = v._tangents
        record(op, (x,), attrs, out)
        x = shown_as(out, "AsStridedBackward0", view._base)
    return x


def check_rebase(view: Tensor) -> None:
    """Raise torch's error if a tensor is a view whose base cannot be given a new history by changing the view."""
    if view._base is not None and view._view[3]:
        raise _rebase_error(view, "is being")


_AMBIGUOUS = (
    " Given that this use case is ambiguous and error-prone, it is forbidden. You can clarify your code by moving "
    "both the view and the inplace either both inside the {block} block (if you don't want the inplace to be "
    "tracked) or both outside (if you want the inplace to be tracked)."
)
_ADVICE = {
    Creation.NO_GRAD: _AMBIGUOUS.format(block="no_grad"),
    Creation.INFERENCE: _AMBIGUOUS.format(block="inference_mode"),
    Creation.MULTIPLE: (
        " This view is the output of a function that returns multiple views. Such functions do not allow the "
        "output views to be modified inplace. You should replace the inplace operation by an out-of-place one."
    ),
    Creation.CUSTOM: (
        " This view was created inside a custom Function (or because an input was returned as-is) and the autograd "
        "logic to handle view+inplace would override the custom backward associated with the custom Function, "
        "leading to incorrect gradients. This behavior is forbidden. You can fix this by cloning the output of the "
        "custom Function."
    ),
}


def _rebase_error(view: Tensor, changed: str) -> RuntimeError:
    """torch's words for a view that may not be changed, or whose storage may not; `changed` says which."""
    node, creation = view._grad_fn, view._view[3]
    output = ""
    if node is not None:
        name = NUMBERED.sub("", node.name())
        output = f"Output {view._output_nr} of {name} is a view "
    if creation is Creation.INFERENCE:
        made = "of a view which was created in" if output else "A view was created in"
        text = f"{output}{made} inference mode and {changed} modified inplace in normal mode."
    elif creation is Creation.NO_GRAD or node is None:
        made = "of a view which was created in" if output else "A view was created in"
        text = f"{output}{made} no_grad mode and {changed} modified inplace with grad mode enabled."
    else:
        text = f"{output}and {changed} modified inplace."
    return RuntimeError(text + _ADVICE[creation])


# Changing the base through a view.


def put_back(view: Tensor, value: Tensor) -> Tensor:
    """The base of `view` as it is when `view` is overwritten with `value`: torch's CopySlices.

    Step by step from the view to its base, the changed part is put back into the whole. Memory is shared, so
    there is mostly nothing to compute, only to record; a trace, however, wants each value.
    """
    part = value
    while view._base is not None:
        if view._view[0]._moved:
            _reattach_covered(view)
        parent, op, attrs, _ = view._view
        step = _STEPS.get(op)
        parent = without_hooks(parent)
        part = _as_shape(parent, part) if step is None else step(parent, part, attrs)
        view = view._view[0]
    return part


def _note(op: Op, operands: tuple[Tensor, ...], attrs: dict[str, Any], memory: Tensor) -> Tensor:
    """The result of an op, which stands in the memory of another tensor already."""
    if state.watched:
        return apply(op, operands, attrs)
    out = new_tensor(memory._data)
    record(op, operands, attrs, out)
    return out


def _as_shape(parent: Tensor, part: Tensor) -> Tensor:
    return _note(_reshape, (part,), {"shape": parent._data.shape}, parent)


def _into_box(parent: Tensor, part: Tensor, attrs: dict[str, Any]) -> Tensor:
    box = {"start": attrs["start"], "sizes": part._data.shape, "stride": attrs["stride"]}
    return _note(_slice_update, (parent, part), box, parent)


def _permuted_back(parent: Tensor, part: Tensor, attrs: dict[str, Any]) -> Tensor:
    dims = attrs["dims"]
    inverse = tuple(sorted(range(len(dims)), key=dims.__getitem__))
    return _note(_permute, (part,), {"dims": inverse}, parent)


def _unexpanded(parent: Tensor, part: Tensor, attrs: dict[str, Any]) -> Tensor:
    """Every element that an expanded view shows several times was given the same value."""
    shape, dims = parent._data.shape, attrs["dims"]
    limit = [1] * part._data.ndim
    for axis, dim in enumerate(dims):
        limit[dim] = shape[axis]
    whole = {"start": (0,) * len(limit), "limit": tuple(limit), "stride": (1,) * len(limit)}
    return _as_shape(parent, apply(_slice, (part,), whole))


_STEPS: dict[Op, Callable[[Tensor, Tensor, dict[str, Any]], Tensor]] = {
    _slice: _into_box,
    _permute: _permuted_back,
    _broadcast: _unexpanded,
    registered("diagonal"): lambda parent, part, attrs: place_diagonal(parent, part, **attrs),
    registered("unfold"): lambda parent, part, attrs: place_windows(parent, part, **attrs),
    _as_strided: lambda parent, part, attrs: apply(_strided_update, (parent, part), attrs),
}


# Functions that return several views.


class PiecesNode(Node):
    """The record of a function that takes a tensor apart along an axis, into several views.

    Attributes:
        axis: along which.
        shapes: of the results.
        boxes: of the results before `unbind` drops the axis.
    """

    __slots__ = ("axis", "boxes", "outputs", "shapes")

    def __init__(
        self, x: Tensor, axis: int, boxes: list[tuple[int, ...]], shapes: list[tuple[int, ...]]
    ) -> None:
        super().__init__((edge_of(x),), current_location(2))
        if x._output_nr:
            self.numbers = (x._output_nr,)
        self.axis = axis
        self.boxes = boxes
        self.shapes = shapes
        self.outputs = len(shapes)

    def pull(self, ct: Any, needed: Sequence[bool], differentiable: bool) -> list[Any]:
        cts = ct if self.outputs != 1 else [ct]
        like = next(c for c in cts if c is not None)
        parts = [
            zeros(like, shape=box) if c is None else c if c.shape == box else _reshape(c, shape=box)
            for c, box in zip(cts, self.boxes, strict=True)
        ]
        return [_concat(*parts, axis=self.axis)]


@functools.cache
def _pieces_class(name: str) -> type[PiecesNode]:
    return type(name, (PiecesNode,), {"__slots__": (), "__module__": OpNode.__module__})


def apply_pieces(
    name: str, x: Tensor, axis: int, sizes: Sequence[int], *, drop: bool = False
) -> tuple[Tensor, ...]:
    """Take a tensor apart along an axis: views that share one record.

    Args:
        name: of the record.
        sizes: of the pieces; they add up to the extent.
        drop: whether the pieces lose the axis, which is 1 long then.
    """
    shape = x._data.shape
    x._renew()
    pieces, start = [], 0
    for size in sizes:
        attrs = {
            "start": tuple(start if i == axis else 0 for i in range(len(shape))),
            "limit": tuple(start + size if i == axis else n for i, n in enumerate(shape)),
            "stride": (1,) * len(shape),
        }
        piece = _unrecorded_view(x, _slice, attrs)
        if drop:
            piece = _unrecorded_view(
                piece, _reshape, {"shape": (*shape[:axis], *shape[axis + 1 :])}
            )
        if piece._view is not None:
            piece._view = (*piece._view[:3], piece._view[3] or Creation.MULTIPLE)
        pieces.append(shown_as(piece, name, x) if state.watched else piece)
        start += size
    if pieces and not state.watched and x._requires_grad and state.grad:
        boxes = [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
        node = _pieces_class(name)(x, axis, boxes, [piece._data.shape for piece in pieces])
        for number, piece in enumerate(pieces):
            piece._grad_fn, piece._requires_grad = node, True
            if number:
                piece._output_nr = number
    return tuple(pieces)


def _unrecorded_view(x: Tensor, op: Op, attrs: dict[str, Any]) -> Tensor:
    """A view whose record the caller will make; while somebody watches, one with a record of its own."""
    if state.watched:
        return apply_view(op, x, attrs)
    out = new_tensor(op.eval(x._data, **attrs))
    share_storage(out, x, op, attrs)
    return out


late_bound["refresh_view"] = refresh_view
