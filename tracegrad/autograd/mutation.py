"""What ``graph.allow_mutation_on_saved_tensors`` does: a saved tensor is copied before it is changed in place.

Saved tensors are packed into handles (:mod:`tracegrad.saved`). In-place operations announce themselves
(``state.keeper``, in :mod:`tracegrad.inplace`), and whatever was saved of the storage is copied then. Start with
:meth:`SavedCopies.before_change`.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from tracegrad.node import VersionCounter
from tracegrad.tensor import Tensor, new_tensor, version_of

_OUTSIDE = (
    "Trying to backward outside of the 'allow_mutation_on_saved_tensors' contextin which the graph was originally "
    "recorded."
)


class _Handle:
    """Stands for a saved tensor in records, and keeps it alive in the tables."""

    __slots__ = ("__weakref__",)


class SavedCopies:
    """What has been saved inside of the context. Given to users for debugging.

    Attributes:
        original: the tensors that were saved and have not been changed since.
        cloned: copies of the others, made before they were changed.
    """

    def __init__(self) -> None:
        self.original: WeakKeyDictionary[_Handle, Tensor] = WeakKeyDictionary()
        self.cloned: WeakKeyDictionary[_Handle, Tensor] = WeakKeyDictionary()
        self._known: WeakValueDictionary[tuple[int, int], _Handle] = WeakValueDictionary()
        self._sharing: dict[VersionCounter, WeakSet[_Handle]] = {}

    def pack(self, tensor: Tensor) -> _Handle:
        """The handle for a tensor; the same one as long as the tensor is not changed."""
        key = id(tensor), version_of(tensor)
        handle = self._known.get(key)
        if handle is None:
            handle = self._known[key] = _Handle()
            self.original[handle] = tensor
            self._sharing.setdefault(tensor._version_counter(), WeakSet()).add(handle)
        return handle

    def unpack(self, handle: _Handle) -> Tensor:
        """The tensor as it was saved.

        Raises:
            AssertionError: the context is over.
        """
        found = self.cloned.get(handle)
        if found is None:
            found = self.original.get(handle)
        if found is None:
            raise AssertionError(_OUTSIDE)
        return found

    def before_change(self, tensor: Tensor) -> None:
        """The storage of a tensor is about to be changed: copy what was saved of it."""
        for handle in self._sharing.pop(tensor._version_counter(), ()):
            original = self.original.pop(handle, None)
            if original is not None:
                self._known.pop((id(original), version_of(original)), None)
                self.cloned[handle] = new_tensor(original._data.copy())

    def clear(self) -> None:
        """Forget everything."""
        self.cloned.clear()
        self.original.clear()
        self._known.clear()
        self._sharing.clear()
