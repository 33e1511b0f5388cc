"""Where arrays stand in memory: the storage of an array, addresses in it, and other views of it."""

from __future__ import annotations

import numpy as np

from .types import Shape


def owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory this one shows: its storage."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def address(array: np.ndarray) -> int:
    """Of the first element."""
    return array.__array_interface__["data"][0]


def row_major(shape: Shape) -> Shape:
    """The strides of an array without gaps, in elements, as torch counts them where an extent is 0."""
    strides = [1]
    for n in shape[:0:-1]:
        strides.append(strides[-1] * max(n, 1))
    return tuple(reversed(strides[: len(shape)]))


def restrided(array: np.ndarray, shape: Shape, strides: Shape, start: int = 0) -> np.ndarray:
    """A writeable view of the memory of `array`.

    Args:
        strides: in bytes.
        start: of the first element, in bytes from that of `array`.

    Raises:
        ValueError: it would leave the memory.
    """
    root = owner(array)
    if not root.flags.c_contiguous:
        order = sorted(range(root.ndim), key=lambda d: -root.strides[d])
        root = root.transpose(order)
    if not root.flags.c_contiguous:  # Memory from elsewhere, with gaps.
        whole = np.lib.stride_tricks.as_strided(array, shape, strides)
        return whole if start == 0 else np.lib.stride_tricks.as_strided(array[..., :0], shape)
    offset = address(array) - address(root) + start
    return np.ndarray(shape, array.dtype, root, offset, strides)
