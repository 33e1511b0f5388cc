"""What makes a batch of a list of samples.

`default_collate` stacks tensors, arrays and numbers along a new first dimension, through any nesting of containers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracegrad.ir.types import float64
from tracegrad.ops.creation import as_tensor, tensor
from tracegrad.ops.shaping import stack
from tracegrad.tensor import Tensor


def default_collate(batch: Sequence[Any]) -> Any:
    """One batch of a list of samples of one structure.

    Tensors and arrays are stacked; Python floats become a float64 tensor, ints an int64 one, numbers of NumPy a tensor
    of their dtype; strings stay a list; mappings, named tuples and sequences are collated element by element (a tuple
    becomes a list, as in torch).

    Raises:
        TypeError: a sample holds something else.
        RuntimeError: sequences of different lengths, or tensors of different shapes.
    """
    first = batch[0]
    kind = type(first)
    if isinstance(first, Tensor):
        return stack(list(batch), 0)
    if isinstance(first, np.ndarray):
        if first.dtype.kind in "SUO":
            raise TypeError(_unknown(first.dtype))
        return stack([as_tensor(sample) for sample in batch], 0)
    if isinstance(first, np.generic) and first.dtype.kind in "fiub":
        return as_tensor(np.asarray(batch))
    if isinstance(first, float):
        return tensor(batch, dtype=float64)
    if isinstance(first, int):
        return tensor(batch)
    if isinstance(first, str | bytes):
        return batch
    if isinstance(first, Mapping):
        return _rebuilt(kind, {key: default_collate([d[key] for d in batch]) for key in first})
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return kind(*map(default_collate, zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        if any(len(sample) != len(first) for sample in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        columns = [default_collate(column) for column in zip(*batch, strict=True)]
        return columns if isinstance(first, tuple) else _rebuilt(kind, columns)
    raise TypeError(_unknown(kind))


def default_convert(data: Any) -> Any:
    """Arrays, through any nesting of containers, as tensors; all else as it is.

    What a `DataLoader` with ``batch_size=None`` does to a sample.
    """
    kind = type(data)
    if isinstance(data, np.ndarray | np.generic) and data.dtype.kind in "fiub":
        return as_tensor(data)
    if isinstance(data, Mapping):
        return _rebuilt(kind, {key: default_convert(value) for key, value in data.items()})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return kind(*map(default_convert, data))
    if isinstance(data, tuple):
        return list(map(default_convert, data))
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return _rebuilt(kind, list(map(default_convert, data)))
    return data


def _rebuilt(kind: type, items: Any) -> Any:
    """The items in a container of this type, or in a plain one if the type cannot be made of them."""
    try:
        return kind(items)
    except TypeError:
        return items


def _unknown(found: Any) -> str:
    return (
        "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; "
        f"found {found}"
    )
