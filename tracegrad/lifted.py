"""What a Tensor holds at a transform level: another Tensor, seen as one example of a stack or as itself.

Outside of transforms ``Tensor._data`` is an array. Inside ``vmap`` or ``func.grad`` it is a :class:`Lifted` value
around the tensor of the level below, which has a history of its own; see :mod:`tracegrad.levels`. A Lifted value
answers what is asked of arrays (shape, dtype, ...) for one example; its elements cannot be had under ``vmap``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_ELEMENTS = (
    "vmap: It looks like you're calling .{}() on a Tensor. We don't support vmap over calling .{}() on a Tensor, "
    "please try to rewrite what you're doing with other operations."
)
_CONTROL_FLOW = (
    "vmap: It looks like you're attempting to use a Tensor in some data-dependent control flow. We don't support "
    "that yet, please use `tracegrad.where` instead, or call the function once for each example."
)


class Lifted:
    """A value at a level.

    Attributes:
        physical: the Tensor of the level below.
        batched: whether it is a stack, with an axis for the examples in front.
        level: the :class:`tracegrad.levels.Level` that it belongs to.
    """

    __slots__ = ("_shape", "batched", "level", "physical")
    __array_ufunc__ = None
    base = None

    def __init__(self, physical: Any, batched: bool, level: Any) -> None:
        self.physical = physical
        self.batched = batched
        self.level = level
        shape = physical._data.shape
        self._shape: tuple[int, ...] = shape[1:] if batched else shape

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> np.dtype:
        return self.physical._data.dtype

    @property
    def ndim(self) -> int:
        return len(self._shape)

    @property
    def size(self) -> int:
        size = 1
        for extent in self._shape:
            size *= extent
        return size

    @property
    def itemsize(self) -> int:
        return self.physical._data.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        strides = self.physical._data.strides
        return strides[1:] if self.batched else strides

    @property
    def flags(self) -> Any:
        return self.physical._data.flags

    def view(self) -> Lifted:
        """The same memory, without a history at any level."""
        return Lifted(self.physical.detach(), self.batched, self.level)

    def copy(self) -> Lifted:
        """The same value in memory of its own."""
        return Lifted(self.level.copied(self.physical), self.batched, self.level)

    def item(self) -> Any:
        """The element of a value that is the same for all examples."""
        self._refuse_batched("item")
        return self.physical.item()

    def tolist(self) -> Any:
        self._refuse_batched("tolist")
        return self.physical.tolist()

    def truth(self) -> bool:
        """What Python's ``if`` sees."""
        if self.batched:
            raise RuntimeError(_CONTROL_FLOW)
        return bool(self.physical)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._refuse_batched("numpy")
        return self.physical.detach().__array__(dtype, copy)

    def _refuse_batched(self, name: str) -> None:
        if self.batched:
            raise RuntimeError(_ELEMENTS.format(name, name))

    def __repr__(self) -> str:
        return f"Lifted({self.physical!r}, batched={self.batched}, level={self.level.number})"
