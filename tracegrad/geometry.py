"""Where a tensor's elements stand in its storage, and tensors that get another place there.

A *layout* is a pair (strides, offset) in elements of the storage. Start with :func:`resize`, which is behind
``resize_`` and ``out=``. What is a view of a tensor that was given another shape was made of elements that this
tensor need not show any more: see :func:`tracegrad.views.reattach`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tracegrad.ir.memory import address, owner, restrided, row_major
from tracegrad.tensor import Tensor, is_lifted
from tracegrad.views import reattach

Shape = tuple[int, ...]


def resize(x: Tensor, shape: Shape, strides: Sequence[int] | None = None) -> None:
    """Give `x` another shape. Its storage stays; where that is too small, it is replaced by a larger copy.

    What torch leaves uninitialised is zero. Views of `x` keep the memory that they have: where the storage has to
    grow, they no longer share it.

    Args:
        strides: in elements; row-major by default.

    Raises:
        RuntimeError: `x` requires grad.
        NotImplementedError: `x` is a view and would leave the memory of its base, or belongs to a transform.
    """
    if x.requires_grad:
        raise RuntimeError("cannot resize variables that require grad")
    if is_lifted(x):
        raise NotImplementedError("a tensor cannot be resized inside of the transform that made it")
    data = x._data
    size = data.itemsize
    places = [s * size for s in (row_major(shape) if strides is None else strides)]
    last = sum((n - 1) * s for n, s in zip(shape, places, strict=True))
    needed = last + size if math.prod(shape) else 0
    room = _room(data)
    if needed > room:
        if x._base is not None:
            raise NotImplementedError(
                "a view cannot be resized beyond the memory of its base.\n"
                "Work on a copy: `y = x.clone()`."
            )
        larger = np.zeros(needed // size, data.dtype)
        kept = room // size
        larger[:kept] = restrided(data, (kept,), (size,))
        data = larger
    place(x, restrided(data, shape, tuple(places)))


def _room(data: np.ndarray) -> int:
    """How many bytes of its storage an array may extend over, from its first element on."""
    memory = owner(data)
    if not (memory.flags.forc or memory.flags.contiguous):
        return data.nbytes if data.flags.c_contiguous else 0
    return memory.nbytes - (address(data) - address(memory))


def place(x: Tensor, data: np.ndarray) -> None:
    """Have `x` show another part of its storage, or another storage."""
    if x._counter is not None:
        x._moved = True
    x._data = data
    x._plain = None
    if x._base is not None:
        reattach(x)
