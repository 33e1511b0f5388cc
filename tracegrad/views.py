"""Views: tensors that share the storage of another, and what becomes of their histories.

A view knows its base, the parent that it was made from and the op that made it (`Tensor._view`), and which
version of the storage its history describes. Start with :func:`apply_view`. :mod:`tracegrad.inplace` changes
storages; a view that is used afterwards renews its history here, by :func:`refresh_view`.
"""

from __future__ import annotations

from typing import Any

from tracegrad.dispatch import apply, record, shown_as
from tracegrad.grad_mode import state
from tracegrad.ir.op import Op, registered
from tracegrad.node import late_bound
from tracegrad.tensor import Tensor, new_tensor

_slice = registered("slice")
_slice_update = registered("slice_update")
_reshape = registered("reshape")
_permute = registered("permute")


def apply_view(op: Op, x: Tensor, attrs: dict[str, Any]) -> Tensor:
    """Apply an op whose result shares the operand's storage if NumPy's does."""
    out = apply(op, (x,), attrs)
    made, source = out._data, x._data
    if made is source:
        out._data = made = source.view()
    if made.base is not None and (made.base is source or made.base is source.base):
        share_storage(out, x)
        out._view = x, op, attrs, state.grad
    return out


def share_storage(view: Tensor, x: Tensor) -> None:
    """Make `view` a view of `x` (or of what `x` is a view of): one version counter for all."""
    base = x._base
    view._base = x if base is None else base
    view._counter = x._version_counter()
    view._view_version = view._counter.value
    if state.trace is not None:
        state.trace.shares_storage(view)


def refresh_view(view: Tensor) -> None:
    """Renew the history of a view whose storage was changed in place since the view was recorded.

    What it shows now came about through its base, so it is recorded as a view of the base as it is now. Views
    made under `no_grad` have no history to renew.
    """
    stale = []
    while view._base is not None and view._view[3]:
        if view._version == view._view_version:
            break
        stale.append(view)
        view = view._view[0]
    for view in reversed(stale):
        parent, op, attrs, _ = view._view
        view._view_version = view._version
        if parent._requires_grad:
            record(op, (parent,), attrs, view)
            view._output_nr = 0
            shown_as(view, "AsStridedBackward0", parent)


_NO_GRAD_VIEW = (
    "A view was created in no_grad mode and is being modified inplace with grad mode enabled. Given that this "
    "use case is ambiguous and error-prone, it is forbidden. You can clarify your code by moving both the view "
    "and the inplace either both inside the no_grad block (if you don't want the inplace to be tracked) or both "
    "outside (if you want the inplace to be tracked)."
)


def check_rebase(view: Tensor) -> None:
    """Raise torch's error if a tensor is a view whose base cannot be given a new history."""
    while view._base is not None:
        if not view._view[3]:
            raise RuntimeError(_NO_GRAD_VIEW)
        view = view._view[0]


def put_back(view: Tensor, value: Tensor) -> Tensor:
    """The base of `view` as it is when `view` is overwritten with `value`: torch's CopySlices.

    Step by step from the view to its base, the changed part is put back into the whole. Memory is shared, so
    there is nothing to compute, only to record; a trace, however, wants each value.
    """
    part = value
    while view._base is not None:
        parent, op, attrs, _ = view._view
        if op is _slice:
            attrs = {"start": attrs["start"], "sizes": view._data.shape, "stride": attrs["stride"]}
            step: Any = _slice_update, (parent, part), attrs
        elif op is _permute:
            dims = attrs["dims"]
            step = op, (part,), {"dims": tuple(sorted(range(len(dims)), key=dims.__getitem__))}
        else:
            step = _reshape, (part,), {"shape": parent._data.shape}
        if state.trace is not None:
            part = apply(*step)
        else:
            part = new_tensor(parent._data)
            record(step[0], step[1], step[2], part)
        view = parent
    return part


late_bound["refresh_view"] = refresh_view
