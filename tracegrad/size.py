"""``Size``: a shape as torch prints it."""

from __future__ import annotations

from typing import Any


class Size(tuple[int, ...]):
    """A tuple of extents."""

    __slots__ = ()

    def numel(self) -> int:
        """The number of elements of a tensor of this size."""
        count = 1
        for extent in self:
            count *= extent
        return count

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"

    __str__ = __repr__

    def __getitem__(self, key: Any) -> Any:
        result = tuple.__getitem__(self, key)
        return Size(result) if isinstance(key, slice) else result

    def __add__(self, other: Any) -> Size:
        return Size(tuple.__add__(self, tuple(other)))
