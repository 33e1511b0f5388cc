"""What a call of a compiled function has in common with those that the same variants may answer, per argument.

Start reading at :func:`leaf_key`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.size import Size
from tracegrad.tensor import Tensor

PLAIN = (int, float, bool, str, bytes, type(None))
"""Types of arguments whose values are compared."""


def leaf_key(leaf: Any) -> Any:
    """What of an argument a variant is specialised on; of tensors the variant compares more by itself."""
    if isinstance(leaf, Tensor):
        return Tensor, leaf._data.shape, leaf._data.dtype
    if type(leaf) is float:
        return float, leaf.hex()
    if type(leaf) in PLAIN:
        return type(leaf), leaf
    if isinstance(leaf, np.generic):
        return type(leaf), leaf.tobytes()
    if type(leaf) is Size:
        return Size, tuple(leaf)
    return _Identity(leaf)


class _Identity:
    """Compares an object by identity and keeps it alive, so that its id is not used again."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
