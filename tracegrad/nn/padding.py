"""Padding layers. What they compute is in :mod:`tracegrad.nn.padding_functions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tracegrad.nn.module import Module
from tracegrad.nn.padding_functions import pad
from tracegrad.tensor import Tensor

Amounts = int | Sequence[int]


class _Padding(Module):
    """Elements around the last `rank` dimensions.

    Args:
        padding: how many: a number, or (before, behind) for the last dimension, then for the one before it, and so on.
    """

    rank: ClassVar[int]
    mode: ClassVar[str]

    def __init__(self, padding: Amounts) -> None:
        super().__init__()
        every = (padding,) * (2 * self.rank) if isinstance(padding, int) else tuple(padding)
        self.padding = every

    def forward(self, input: Tensor) -> Tensor:
        return pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _Constant(_Padding):
    mode = "constant"

    def __init__(self, padding: Amounts, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_Constant):
    """Elements of one value around a signal."""

    rank = 1


class ConstantPad2d(_Constant):
    """Elements of one value around an image."""

    rank = 2


class ConstantPad3d(_Constant):
    """Elements of one value around a volume."""

    rank = 3


class _Zero(_Padding):
    mode = "constant"


class ZeroPad1d(_Zero):
    """Zeros around a signal."""

    rank = 1


class ZeroPad2d(_Zero):
    """Zeros around an image."""

    rank = 2


class ZeroPad3d(_Zero):
    """Zeros around a volume."""

    rank = 3


class _Reflection(_Padding):
    mode = "reflect"


class ReflectionPad1d(_Reflection):
    """A signal mirrored at its ends."""

    rank = 1


class ReflectionPad2d(_Reflection):
    """An image mirrored at its borders."""

    rank = 2


class ReflectionPad3d(_Reflection):
    """A volume mirrored at its borders."""

    rank = 3


class _Replication(_Padding):
    mode = "replicate"


class ReplicationPad1d(_Replication):
    """A signal whose ends are repeated."""

    rank = 1


class ReplicationPad2d(_Replication):
    """An image whose borders are repeated."""

    rank = 2


class ReplicationPad3d(_Replication):
    """A volume whose borders are repeated."""

    rank = 3


class _Circular(_Padding):
    mode = "circular"


class CircularPad1d(_Circular):
    """A signal that goes on at its other end."""

    rank = 1


class CircularPad2d(_Circular):
    """An image that goes on at its other side."""

    rank = 2


class CircularPad3d(_Circular):
    """A volume that goes on at its other side."""

    rank = 3
