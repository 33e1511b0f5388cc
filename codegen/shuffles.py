"""Rearranging lanes: transposing a matrix held in registers, summing across lanes.

There is no data structure here but lists of vectors, one per row. Shuffles are chosen such that
each is one instruction: inside 128 bits where possible, whole 128 bits otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.ir as ll

from .ll_types import I32


def transpose(builder: ll.IRBuilder, rows: list[ll.Value], local: int) -> list[ll.Value]:
    """Transpose a matrix held in registers; extents must be powers of two.

    Args:
        builder: where to emit.
        rows: the rows, all vectors of one width (or scalars).
        local: elements in 128 bits, inside which shuffles are cheapest.
    """
    height = len(rows)
    width = rows[0].type.count if isinstance(rows[0].type, ll.VectorType) else 1
    size = max(height, width)
    if size == 1:
        return rows
    rows = [_resize(builder, row, width, size) for row in rows]
    rows += [ll.Constant(rows[0].type, ll.Undefined)] * (size - height)
    local = min(local, size)
    # First the squares inside 128 bits: each round interleaves rows that are half a square apart.
    for base in range(0, size, local):
        square = rows[base : base + local]
        for _ in range(local.bit_length() - 1):
            zipped = []
            for i in range(local // 2):
                for side in (0, local // 2):
                    mask = [
                        part + side + j + other
                        for part in range(0, size, local)
                        for j in range(local // 2)
                        for other in (0, size)
                    ]
                    zipped.append(_shuffle(builder, square[i], square[i + local // 2], mask))
            square = zipped
        rows[base : base + local] = square
    # Then the squares themselves: exchange halves, quarters, and so on.
    span = size // 2
    while span >= local:
        for i in range(size):
            if not i & span:
                x, y = rows[i], rows[i + span]
                low = [j if not j & span else size + j - span for j in range(size)]
                high = [j + span if not j & span else size + j for j in range(size)]
                rows[i] = _shuffle(builder, x, y, low)
                rows[i + span] = _shuffle(builder, x, y, high)
        span //= 2
    return [_resize(builder, row, size, height) for row in rows[:width]]


def sum_across(
    builder: ll.IRBuilder,
    vectors: list[ll.Value],
    local: int,
    add: Callable[[ll.Value, ll.Value], ll.Value],
) -> ll.Value:
    """The sums of each vector's lanes, as one vector of as many lanes as there are vectors.

    Neighbouring lanes are added first, inside 128 bits, where shuffles are cheapest.

    Args:
        builder: where to emit.
        vectors: a power of two of them, no more than each has lanes.
        local: lanes in 128 bits.
        add: adds two vectors.
    """
    count, lanes = len(vectors), vectors[0].type.count
    local = min(local, lanes)
    # Beside each vector: which of the sums each of its lanes is a part of.
    parts = [(vector, [i] * lanes) for i, vector in enumerate(vectors)]

    def combine(
        x: tuple[ll.Value, list[int]],
        y: tuple[ll.Value, list[int]],
        first: list[int],
        second: list[int],
    ) -> tuple[ll.Value, list[int]]:
        labels = x[1] + y[1]
        value = add(_shuffle(builder, x[0], y[0], first), _shuffle(builder, x[0], y[0], second))
        return value, [labels[i] for i in first]

    while len(parts) > 1:
        group = parts[0][1][:local]
        if len(set(group)) < len(group):  # neighbours in 128 bits belong together
            half = local // 2
            first = [
                base + side + 2 * i
                for base in range(0, lanes, local)
                for side in (0, lanes)
                for i in range(half)
            ]
            second = [i + 1 for i in first]
        else:
            halves = [_halves(labels) for _, labels in parts[:2]]
            first = halves[0][0] + [lanes + lane for lane in halves[1][0]]
            second = halves[0][1] + [lanes + lane for lane in halves[1][1]]
        parts = [combine(parts[i], parts[i + 1], first, second) for i in range(0, len(parts), 2)]
    value, labels = parts[0]
    while len(labels) > count:
        value, labels = combine((value, labels), (value, labels), *_halves(labels))
    if count == 1:
        return value
    return _shuffle(builder, value, value, [labels.index(i) for i in range(count)])


def _shuffle(builder: ll.IRBuilder, x: ll.Value, y: ll.Value, lanes: list[int]) -> ll.Value:
    if len(lanes) == 1:
        width = x.type.count
        return builder.extract_element(x if lanes[0] < width else y, I32(lanes[0] % width))
    mask = ll.Constant(ll.VectorType(I32, len(lanes)), [I32(lane) for lane in lanes])
    return builder.shuffle_vector(x, y, mask)


def _resize(builder: ll.IRBuilder, value: ll.Value, width: int, size: int) -> ll.Value:
    # Widen with undefined lanes, or keep the first ones.
    if width == size:
        return value
    if width == 1:
        undefined = ll.Constant(ll.VectorType(value.type, size), ll.Undefined)
        return builder.insert_element(undefined, value, I32(0))
    return _shuffle(builder, value, value, [min(lane, width) for lane in range(size)])


def _halves(labels: list[int]) -> tuple[list[int], list[int]]:
    """Split lanes in two such that both halves have the same labels in the same order."""
    places: dict[int, list[int]] = {}
    for lane, label in enumerate(labels):
        places.setdefault(label, []).append(lane)
    partner: dict[int, int] = {}
    for lanes in places.values():
        half = len(lanes) // 2
        partner.update(zip(lanes[:half], lanes[half:], strict=True))
    first = sorted(partner)
    return first, [partner[lane] for lane in first]
