"""Padding: elements of one value, mirrored, repeated or from the other end, around the last dimensions.

Users reach `pad` as ``nn.functional.pad``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracegrad.dispatch import apply, composite, shown_as
from tracegrad.ir.op import registered
from tracegrad.ops.shaping import cat, expand, reverse
from tracegrad.ops.striding import narrow
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

_pad = registered("pad")

Amounts = tuple[tuple[int, int], ...]
"""Before and behind, for the last dimension, the one before it, and so on."""


@reported("aten::pad")
def pad(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Tensor:
    """Add elements around the last dimensions; negative amounts cut off.

    Args:
        pad: (before, after) for the last dimension, then for the one before it, and so on.
        mode: what the elements are: "constant" `value`, by default zero; "reflect": the input mirrored at its first
            and last elements; "replicate": these elements; "circular": those from the other end.

    Raises:
        RuntimeError: the amounts do not fit.
        NotImplementedError: the mode is unknown, or does not pad so many dimensions.
    """
    amounts = list(pad)
    if len(amounts) % 2:
        raise RuntimeError("Padding length must be divisible by 2")
    ndim = input.dim()
    if len(amounts) > 2 * ndim:
        raise RuntimeError(
            "Padding length should be less than or equal to two times the input dimension but got padding "
            f"length {len(amounts)} and input of dimension {ndim}"
        )
    pairs = tuple(zip(amounts[::2], amounts[1::2], strict=True))
    if mode == "constant":
        return _constant(input, pairs, 0 if value is None else value)
    if value is not None and value != 0:
        raise RuntimeError(f'Padding mode "{mode}" doesn\'t take in value argument')
    known = {"reflect": _REFLECTED, "replicate": _REPLICATED, "circular": _CIRCULAR}.get(mode)
    if known is None:
        raise NotImplementedError(f"Unrecognised padding mode {mode}")
    if ndim not in (len(pairs) + 1, len(pairs) + 2) or len(pairs) > 3:
        raise NotImplementedError(
            f"Padding size {len(amounts)} is not supported for {ndim}D input tensor.\n"
            "Supported combinations for non-constant padding:\n"
            "  - 2D or 3D input: padding size = 2 (pads last dimension)\n"
            "  - 3D or 4D input: padding size = 4 (pads last 2 dimensions)\n"
            "  - 4D or 5D input: padding size = 6 (pads last 3 dimensions)"
        )
    shape = list(input.shape)
    if not all(shape[ndim - len(pairs) - 1 :]):
        raise RuntimeError(
            f"Expected {len(pairs) + 1}D or {len(pairs) + 2}D (batch mode) tensor with possibly 0 batch size "
            f"and other non-zero dimensions for input, but got: {shape}"
        )
    _check_amounts(input, pairs, mode)
    return known[len(pairs) - 1](input, pairs)


def _check_amounts(x: Tensor, pairs: Amounts, mode: str) -> None:
    shape = list(x.shape)
    for number, (before, behind) in enumerate(pairs):
        axis = len(shape) - 1 - number
        extent = shape[axis]
        if mode == "reflect" and max(before, behind) >= extent:
            raise RuntimeError(
                f"Argument #{4 + 2 * number}: Padding size should be less than the corresponding input "
                f"dimension, but got: padding ({before}, {behind}) at dimension {axis} of input {shape}"
            )
        if mode == "circular" and max(before, behind) > extent:
            raise RuntimeError("Padding value causes wrapping around more than once.")
        if extent + before + behind < 1:
            raise RuntimeError(
                "Negative padding value is resulting in an empty dimension"
                if mode == "circular"
                else f"input (size {extent}) is too small for padding ({before}, {behind})"
            )


def _constant(x: Tensor, pairs: Amounts, value: float) -> Tensor:
    given, x = x, _cut(x, pairs)
    low, high = [0] * x.dim(), [0] * x.dim()
    for number, (before, behind) in enumerate(pairs, 1):
        low[-number], high[-number] = max(before, 0), max(behind, 0)
    if not any(low) and not any(high):
        return x.clone()
    fill = float(value) if x.is_floating_point() else int(value)
    out = apply(_pad, (x,), {"low": tuple(low), "high": tuple(high), "value": fill})
    return out if x is given else shown_as(out, "ConstantPadNdBackward0", given)


def _cut(x: Tensor, pairs: Amounts) -> Tensor:
    """Without the elements that negative amounts cut off."""
    for axis in range(x.dim()):
        number = x.dim() - 1 - axis
        before, behind = pairs[number] if number < len(pairs) else (0, 0)
        if before < 0 or behind < 0:
            start = max(-before, 0)
            length = x.shape[axis] - start - max(-behind, 0)
            if length < 0:
                raise RuntimeError("narrow(): length must be non-negative.")
            x = narrow(x, axis, start, length)
    return x


def _around(
    x: Tensor, pairs: Amounts, border: Callable[[Tensor, int, int, bool], Tensor]
) -> Tensor:
    """`x` between the borders that ``border(x, axis, amount, whether it comes first)`` makes, one axis at a time."""
    last = x.dim() - 1
    for number, (before, behind) in enumerate(pairs):
        axis = last - number
        parts = [x]
        if before > 0:
            parts.insert(0, border(x, axis, before, True))
        if behind > 0:
            parts.append(border(x, axis, behind, False))
        if len(parts) > 1:
            x = cat(parts, axis)
    return x


def _mirror(x: Tensor, axis: int, amount: int, first: bool) -> Tensor:
    start = 1 if first else x.shape[axis] - 1 - amount
    return reverse(narrow(x, axis, start, amount), (axis,))


def _repeat(x: Tensor, axis: int, amount: int, first: bool) -> Tensor:
    shape = list(x.shape)
    shape[axis] = amount
    return expand(narrow(x, axis, 0 if first else x.shape[axis] - 1, 1), shape)


def _other_end(x: Tensor, axis: int, amount: int, first: bool) -> Tensor:
    return narrow(x, axis, x.shape[axis] - amount if first else 0, amount)


def _padder(
    record: str, border: Callable[[Tensor, int, int, bool], Tensor], cut_first: bool = False
) -> tuple[Callable[[Tensor, Amounts], Tensor], ...]:
    """The functions that pad one, two and three dimensions, under torch's names.

    Args:
        cut_first: whether borders are made of what negative amounts leave, not of the whole.
    """

    def named(rank: int) -> Callable[[Tensor, Amounts], Tensor]:
        @composite(record.format(rank))
        def padded(x: Tensor, pairs: Amounts) -> Tensor:
            result = _around(_cut(x, pairs) if cut_first else x, pairs, border)
            result = result if cut_first else _cut(result, pairs)
            return x.clone() if result is x else result

        return padded

    return named(1), named(2), named(3)


_REFLECTED = _padder("ReflectionPad{}DBackward0", _mirror)
_REPLICATED = _padder("ReplicationPad{}DBackward0", _repeat)
_CIRCULAR = _padder("CopySlices", _other_end, cut_first=True)
