"""Convolution layers: Conv1d to Conv3d, and the transposed ones.

What they compute is in :mod:`tracegrad.nn.convolution_functions`. Start reading at :class:`Convolution`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from tracegrad.nn import convolution_functions as F  # noqa: N812 (as everybody calls it)
from tracegrad.nn import init
from tracegrad.nn.module import Module
from tracegrad.nn.padding_functions import pad
from tracegrad.nn.parameter import Parameter
from tracegrad.ops.creation import empty
from tracegrad.tensor import Tensor

Extents = int | Sequence[int]

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def each(value: Any, rank: int) -> tuple[Any, ...]:
    """A value for each dimension."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank


class Convolution(Module):
    """What all convolution layers have in common: weight and bias, and their beginning.

    Weight and bias begin uniform in (-k, k), k being ``1 / sqrt(in_channels / groups * elements of a kernel)``.

    Attributes:
        rank: the number of spatial dimensions.
        transposed: whether the weight is [in_channels, out_channels / groups, ...], not the other way round.
    """

    rank: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Extents,
        stride: Extents,
        padding: Any,
        dilation: Extents,
        output_padding: Extents,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        _check_channels(in_channels, out_channels, groups)
        rank = self.rank
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = each(kernel_size, rank)
        self.stride = each(stride, rank)
        self.padding = padding if isinstance(padding, str) else each(padding, rank)
        self.dilation = each(dilation, rank)
        self.output_padding = each(output_padding, rank)
        self.groups = groups
        self.padding_mode = padding_mode
        self._check_padding()
        first, second = (
            (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        )
        shape = (first, second // groups, *self.kernel_size)
        self.weight = Parameter(empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _check_padding(self) -> None:
        if isinstance(self.padding, str):
            if self.padding not in ("same", "valid"):
                raise ValueError(
                    f"Invalid padding string {self.padding!r}, should be one of {{'same', 'valid'}}"
                )
            if self.padding == "same" and any(step != 1 for step in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")
        if self.padding_mode not in _PADDING_MODES:
            raise ValueError(
                f"padding_mode must be one of {set(_PADDING_MODES)}, but got "
                f"padding_mode='{self.padding_mode}'"
            )

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = math.prod(self.weight.shape[1:])
            if fan_in:
                bound = 1 / math.sqrt(fan_in)
                init.uniform_(self.bias, -bound, bound)

    def _border(self) -> tuple[int, ...]:
        """How much is set around the input, as `pad` takes it."""
        if self.padding == "valid":
            return (0,) * (2 * self.rank)
        border: list[int] = []
        for axis in reversed(range(self.rank)):
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                border += (total // 2, total - total // 2)
            else:
                around: Any = self.padding[axis]
                border += (around, around)
        return tuple(border)

    def _convolve(self, convolve: Callable[..., Tensor], input: Tensor) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input = pad(input, self._border(), self.padding_mode)
            padding = 0
        return convolve(
            input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )

    def extra_repr(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        ]
        plain = (0,) * self.rank
        if self.padding != plain:
            parts.append(f"padding={self.padding}")
        if self.dilation != (1,) * self.rank:
            parts.append(f"dilation={self.dilation}")
        if self.output_padding != plain:
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


def _check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    if groups <= 0:
        raise ValueError("groups must be a positive integer")
    if in_channels % groups:
        raise ValueError("in_channels must be divisible by groups")
    if out_channels % groups:
        raise ValueError("out_channels must be divisible by groups")


class _Forward(Convolution):
    """A convolution with torch's arguments."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Extents,
        stride: Extents = 1,
        padding: Any = 0,
        dilation: Extents = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, 0, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip


class Conv1d(_Forward):
    """A convolution over [batch, in_channels, length]; see `tracegrad.nn.functional.conv1d`.

    Args:
        padding_mode: what stands around the input: "zeros", or as for `pad` "reflect", "replicate" or "circular".

    Raises:
        ValueError: the options do not fit together.
    """

    rank = 1

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(F.conv1d, input)


class Conv2d(_Forward):
    """A convolution over [batch, in_channels, height, width]; see `tracegrad.nn.functional.conv2d`.

    Args:
        padding_mode: what stands around the input: "zeros", or as for `pad` "reflect", "replicate" or "circular".

    Raises:
        ValueError: the options do not fit together.
    """

    rank = 2

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(F.conv2d, input)


class Conv3d(_Forward):
    """A convolution over [batch, in_channels, depth, height, width]; see `tracegrad.nn.functional.conv3d`.

    Args:
        padding_mode: what stands around the input: "zeros", or as for `pad` "reflect", "replicate" or "circular".

    Raises:
        ValueError: the options do not fit together.
    """

    rank = 3

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(F.conv3d, input)


class _Transposed(Convolution):
    """A transposed convolution with torch's arguments."""

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Extents,
        stride: Extents = 1,
        padding: Extents = 0,
        output_padding: Extents = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Extents = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding, groups,
            bias, padding_mode, device, dtype,
        )  # fmt: skip

    def _check_padding(self) -> None:
        if self.padding_mode != "zeros":
            raise ValueError(
                f'Only "zeros" padding mode is supported for {self.__class__.__name__}'
            )

    def _convolve_back(
        self, convolve: Callable[..., Tensor], input: Tensor, output_size: Sequence[int] | None
    ) -> Tensor:
        more = self.output_padding
        if output_size is not None:
            more = self._output_padding(input, list(output_size))
        return convolve(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            more,
            self.groups,
            self.dilation,
        )

    def _output_padding(self, input: Tensor, wanted: list[int]) -> tuple[int, ...]:
        """What must be added for the result to have the wanted extents."""
        rank = self.rank
        lead = input.dim() - rank
        if len(wanted) == lead + rank:
            wanted = wanted[lead:]
        if len(wanted) != rank:
            raise ValueError(
                f"ConvTranspose{rank}D: for {input.dim()}D input, output_size must have {rank} or "
                f"{lead + rank} elements (got {len(wanted)})"
            )
        least = [
            (extent - 1) * s - 2 * p + d * (k - 1) + 1
            for extent, s, p, d, k in zip(
                input.shape[lead:], self.stride, self.padding, self.dilation, self.kernel_size,
                strict=True,
            )
        ]  # fmt: skip
        most = [a + s - 1 for a, s in zip(least, self.stride, strict=True)]
        if any(not a <= n <= b for a, n, b in zip(least, wanted, most, strict=True)):
            raise ValueError(
                f"requested an output size of {tuple(wanted)}, but valid sizes range from {least} to {most} "
                f"(for an input of {input.size()[lead:]})"
            )
        return tuple(n - a for n, a in zip(wanted, least, strict=True))


class ConvTranspose1d(_Transposed):
    """The transpose of a convolution, for [batch, in_channels, length]; see `ConvTranspose2d`."""

    rank = 1

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return self._convolve_back(F.conv_transpose1d, input, output_size)


class ConvTranspose2d(_Transposed):
    """The transpose of a convolution, for [batch, in_channels, height, width].

    See `tracegrad.nn.functional.conv_transpose2d`. Where a stride makes several sizes of the result possible, a call
    may ask for one by `output_size`.

    Raises:
        ValueError: the options do not fit together, or the size is not possible.
    """

    rank = 2

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return self._convolve_back(F.conv_transpose2d, input, output_size)


class ConvTranspose3d(_Transposed):
    """The transpose of a convolution, for [batch, in_channels, depth, height, width]; see `ConvTranspose2d`."""

    rank = 3

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return self._convolve_back(F.conv_transpose3d, input, output_size)
