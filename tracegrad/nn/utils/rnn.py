"""Sequences of different lengths: padded in one tensor, or packed without padding.

The data structure is :class:`PackedSequence`: the elements of all sequences, time step by time step. Sequences stand in
the order of decreasing length, so that those that last until a step are the first ones. Start reading at
:func:`pack_padded_sequence`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tracegrad.grad_mode import state
from tracegrad.ir.types import float32, float64, int32, int64
from tracegrad.nn.padding_functions import pad
from tracegrad.ops import creation
from tracegrad.ops.indexing import index_select
from tracegrad.ops.ordering import sort
from tracegrad.ops.shaping import cat, stack, transpose
from tracegrad.tensor import Tensor

_NOT_SORTED = (
    "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
    "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this requirement if you do "
    "not need ONNX exportability."
)


class _Fields(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Fields):
    """Sequences without padding; made by `pack_padded_sequence` and `pack_sequence`, taken by recurrent layers.

    Attributes:
        data: [sum of lengths, ...]: the elements at the first step, those at the second step, and so on.
        batch_sizes: int64 [greatest length]: how many sequences last until each step.
        sorted_indices: where each of the sequences, sorted by length, stood in the batch; None if they were sorted.
        unsorted_indices: the inverse permutation.
    """

    __slots__ = ()

    def __new__(
        cls,
        data: Any,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        if batch_sizes is None:
            if not (isinstance(data, (list, tuple)) and len(data) == 2):
                raise AssertionError("Expected data to be a list or tuple of length 2")
            data, batch_sizes = data
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """With `data` converted as by `Tensor.to`; itself if nothing changes."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        return type(self)(data, self.batch_sizes, self.sorted_indices, self.unsorted_indices)

    def cpu(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """Itself, or converted as by `to`."""
        return self.to(*args, **{"device": "cpu", **kwargs})

    def cuda(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """There is no GPU. Raises what `Tensor.cuda` does."""
        return type(self)(self.data.cuda(*args, **kwargs), *self[1:])

    def double(self) -> PackedSequence:
        """With `data` as float64."""
        return self.to(dtype=float64)

    def float(self) -> PackedSequence:
        """With `data` as float32."""
        return self.to(dtype=float32)

    def long(self) -> PackedSequence:
        """With `data` as int64."""
        return self.to(dtype=int64)

    def int(self) -> PackedSequence:
        """With `data` as int32."""
        return self.to(dtype=int32)

    @property
    def is_cuda(self) -> bool:
        """False: there is no GPU."""
        return self.data.is_cuda

    def is_pinned(self) -> bool:
        """False: there is no GPU to pin memory for."""
        return False


def read_integers(values: Tensor) -> list[int]:
    """The elements of a vector of integers; a compiled function checks that they are the same again."""
    if state.trace is None:
        return values.tolist()
    return [int(value) for value in values]


def runs_of_steps(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(batch size, number of steps) for each run of steps with the same batch size."""
    for size, steps in itertools.groupby(sizes):
        yield size, len(list(steps))


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The inverse of a permutation of 0, 1, ..., n - 1; None for None."""
    if permutation is None:
        return None
    positions = creation.arange(permutation.numel(), dtype=permutation.dtype)
    return creation.empty_like(permutation).scatter_(0, permutation, positions)


def pack_padded_sequence(
    input: Tensor,
    lengths: Tensor | list[int],
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """Drop the padding of sequences.

    Args:
        input: [time, batch, ...], or [batch, time, ...] if `batch_first`.
        lengths: how many elements of each sequence count.
        enforce_sorted: the lengths decrease already; otherwise the sequences are sorted by length.

    Raises:
        RuntimeError: a length is not positive, there is another number of them than of sequences, or they do not
            decrease.
    """
    lengths = creation.as_tensor(lengths, dtype=int64)
    order = None
    if not enforce_sorted:
        lengths, order = sort(lengths, descending=True)
        input = index_select(input, 0 if batch_first else 1, order)
    if batch_first:
        input = transpose(input, 0, 1)
    counts = _checked_lengths(input, lengths)
    pieces: list[Tensor] = []
    sizes: list[int] = []
    for rows in range(len(counts), 0, -1):
        begin, end = len(sizes), counts[rows - 1]
        if end > begin:
            pieces.append(input[begin:end, :rows].reshape(-1, *input.shape[2:]))
            sizes += [rows] * (end - begin)
    return PackedSequence(cat(pieces), creation.tensor(sizes, dtype=int64), order)


def _checked_lengths(input: Tensor, lengths: Tensor) -> list[int]:
    """Lengths as numbers, where they fit [time, batch, ...]."""
    if lengths.dim() != 1:
        raise RuntimeError(
            f"'lengths' argument should be a 1D CPU int64 tensor, but got {lengths.dim()}D cpu Long tensor"
        )
    if not input.numel():
        raise RuntimeError("Cannot pack empty tensors.")
    counts = read_integers(lengths)
    batch = input.size(1)
    if len(counts) != batch:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {len(counts)} (batch_size={batch})"
        )
    if counts[-1] <= 0:
        raise RuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0"
        )
    if any(later > earlier for earlier, later in itertools.pairwise(counts)):
        raise RuntimeError(_NOT_SORTED)
    return counts


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The sequences as one padded tensor, in the order in which they were packed, and their lengths.

    Args:
        sequence: what `pack_padded_sequence` or `pack_sequence` returned, or a layer made of it.
        batch_first: the result is [batch, time, ...] rather than [time, batch, ...].
        total_length: the extent of time; by default the greatest length.

    Raises:
        ValueError: `total_length` is less than the greatest length.
    """
    data, batch_sizes = sequence.data, sequence.batch_sizes
    steps = batch_sizes.size(0)
    if total_length is not None and total_length < steps:
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, but got "
            f"total_length={total_length} and max sequence length being {steps}"
        )
    sizes = read_integers(batch_sizes)
    batch = sizes[0]
    inner = tuple(data.shape[1:])
    blocks: list[Tensor] = []
    start = 0
    for rows, count in runs_of_steps(sizes):
        block = data[start : start + rows * count].reshape(count, rows, *inner)
        start += rows * count
        blocks.append(_lengthen(block, 1, batch - rows, padding_value))
    padded = cat(blocks)
    if total_length is not None:
        padded = _lengthen(padded, 0, total_length - steps, padding_value)
    counts = [sum(size > row for size in sizes) for row in range(batch)]
    lengths = creation.tensor(counts, dtype=int64)
    if batch_first:
        padded = transpose(padded, 0, 1)
    restore = sequence.unsorted_indices
    if restore is None:
        return padded, lengths
    return index_select(padded, 0 if batch_first else 1, restore), index_select(lengths, 0, restore)


def _lengthen(x: Tensor, dim: int, amount: int, value: float, before: bool = False) -> Tensor:
    """`x` with `amount` further slices along a dimension, behind or before it."""
    if not amount:
        return x
    around = (amount, 0) if before else (0, amount)
    return pad(x, (0, 0) * (x.dim() - 1 - dim) + around, value=value)


def pad_sequence(
    sequences: Tensor | Iterable[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Sequences of different lengths as one padded tensor, [time, batch, ...].

    Args:
        sequences: each [length, ...].
        batch_first: the result is [batch, time, ...].
        padding_side: "right" pads behind, "left" before each sequence.

    Raises:
        RuntimeError: no sequences, their other extents differ, or an unknown side.
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            "pad_sequence: Expected iterable for input sequences, but got arg of type: "
            f"{type(sequences)}"
        )
    parts = tuple(sequences)
    if not parts:
        raise RuntimeError("received an empty list of sequences")
    for number, part in enumerate(parts):
        if not isinstance(part, Tensor):
            raise TypeError(
                f"expected Tensor as element {number} in argument 0, but got {type(part).__name__}"
            )
    if padding_side not in ("left", "right"):
        raise RuntimeError(
            f"Expected padding_side to be one of left or right, but got {padding_side}."
        )
    longest = max(part.size(0) for part in parts)
    dtype = parts[0].dtype
    padded = [
        _lengthen(part, 0, longest - part.size(0), padding_value, padding_side == "left").to(dtype)
        for part in parts
    ]
    _check_inner_shapes(parts)
    return stack(padded, 0 if batch_first else 1)


def _check_inner_shapes(parts: Sequence[Tensor]) -> None:
    expected = parts[0].shape[1:]
    for part in parts:
        for dim, (a, b) in enumerate(zip(expected, part.shape[1:], strict=False), 1):
            if a != b:
                raise RuntimeError(
                    f"The size of tensor a ({a}) must match the size of tensor b ({b}) at non-singleton "
                    f"dimension {dim}"
                )


def unpad_sequence(
    padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False
) -> list[Tensor]:
    """The sequences that `pad_sequence` padded behind. `padded_sequences` is not changed.

    Raises:
        ValueError: there is another number of lengths than of sequences.
    """
    rows = padded_sequences if batch_first else transpose(padded_sequences, 0, 1)
    counts = read_integers(lengths)
    return [row[: max(count, 0)].clone() for row, count in zip(rows, counts, strict=True)]


def pack_sequence(sequences: list[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences, each [length, ...].

    Args:
        enforce_sorted: the lengths decrease already; otherwise the sequences are sorted by length.

    Raises:
        RuntimeError: no sequences, an empty one, their other extents differ, or the lengths do not decrease.
    """
    lengths = creation.tensor([sequence.size(0) for sequence in sequences], dtype=int64)
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences that `pack_sequence` packed, in their order."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
