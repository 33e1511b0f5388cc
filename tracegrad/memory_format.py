"""Memory formats: the orders in which torch can keep a tensor's elements, as the ``memory_format`` argument names them.

``resize_`` and ``resize_as_`` lay memory out in each of them. Everything else here works on whatever strides a tensor
has, and makes row-major ones: it takes the argument where that is what is asked for, and refuses it otherwise. Start
with :func:`check_format`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tracegrad.ir.memory import row_major


class memory_format:  # noqa: N801 - torch's name
    """A memory format. There are four, which are attributes of the package; no others can be made."""

    __slots__ = ("_name",)
    _name: str

    def __new__(cls, *args: Any, **kwargs: Any) -> memory_format:
        raise TypeError("cannot create 'torch.memory_format' instances")

    def __repr__(self) -> str:
        return f"torch.{self._name}"

    def __reduce__(self) -> str:
        return self._name


def _made(name: str) -> memory_format:
    made: memory_format = object.__new__(memory_format)
    made._name = name
    return made


preserve_format = _made("preserve_format")
contiguous_format = _made("contiguous_format")
channels_last = _made("channels_last")
channels_last_3d = _made("channels_last_3d")

# From the dimension whose elements are next to each other to the outermost one.
_ORDERS = {channels_last: (1, 3, 2, 0), channels_last_3d: (1, 4, 3, 2, 0)}


def check_format(function: str, format: Any) -> None:
    """Raise the error for a format that `function` cannot make: it makes row-major memory or keeps what it finds.

    Raises:
        TypeError: it is no memory format.
        NotImplementedError: it is one of those with the channels last.
    """
    check_is_format(function, format)
    if format in _ORDERS:
        raise NotImplementedError(
            f"{function}(): the memory format {format!r} is not supported.\n"
            "Leave the argument out; for memory in that order, permute the dimensions: x.permute(0, 2, 3, 1)."
        )


def check_is_format(function: str, format: Any) -> None:
    """Raise torch's error for an argument `memory_format` that is none; None is what it is by default."""
    if format is not None and not isinstance(format, memory_format):
        raise TypeError(
            f"{function}(): argument 'memory_format' must be torch.memory_format, not {type(format).__name__}"
        )


def format_strides(format: memory_format | None, shape: Sequence[int]) -> tuple[int, ...]:
    """The strides, in elements, of a tensor in a format.

    Raises:
        RuntimeError: the format is not one for this rank, or says nothing without another tensor.
    """
    if format is preserve_format:
        raise RuntimeError("Unsupported memory formatPreserve")
    if format is None or format is contiguous_format:
        return row_major(tuple(shape))
    order = _ORDERS[format]
    if len(shape) != len(order):
        raise RuntimeError(f"required rank {len(order)} tensor to use {format._name} format")
    strides = [1] * len(shape)
    for inner, outer in itertools.pairwise(order):
        strides[outer] = strides[inner] * shape[inner]
    return tuple(strides)


def suggested_format(shape: Sequence[int], strides: Sequence[int]) -> memory_format:
    """The format that strides (in elements) are of, as torch guesses it: contiguous unless the channels are last."""
    for format, order in _ORDERS.items():
        if len(shape) == len(order) and _is_ordered(shape, strides, order):
            return format
    return contiguous_format


def _is_ordered(shape: Sequence[int], strides: Sequence[int], order: Sequence[int]) -> bool:
    if strides[1] == 0 or 0 in shape:
        return False
    least = 0
    for dim in order:
        # The second condition: with one channel and one pixel nothing tells the formats apart.
        if strides[dim] < least or (dim == 0 and least == strides[1]):
            return False
        least = strides[dim] * shape[dim]
    return True
