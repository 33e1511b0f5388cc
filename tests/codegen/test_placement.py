"""Cuts, regions, and where the elements of a placement come from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import build
from tracegrad.codegen.body_builder import moved_index
from tracegrad.codegen.placement import (
    count_regions,
    faces,
    find_source,
    is_dense,
    moved,
    placed,
    regions,
    united,
)
from tracegrad.ir import Node, registered

SLICED = {"start": (1, 0), "limit": (7, 5), "stride": (2, 1)}
MOVEMENTS: list[tuple[str, dict[str, object]]] = [
    ("slice", SLICED),
    ("flip", {"axes": (0, 1)}),
    ("permute", {"dims": (1, 0)}),
    ("broadcast_in_dim", {"shape": (8, 3, 5), "dims": (0, 2)}),
    ("reshape", {"shape": (8, 1, 5)}),
    ("diagonal", {"offset": 1, "dim1": 0, "dim2": 1}),
]


def test_regions_cover_an_array_once() -> None:
    cuts = ((2, 5), (), (1,))
    seen = np.zeros((6, 3, 4), int)
    found = list(regions(seen.shape, cuts))
    for region in found:
        ends = [a + n for a, n in zip(region.start, region.extents, strict=True)]
        seen[tuple(slice(a, b) for a, b in zip(region.start, ends, strict=True))] += 1
    assert len(found) == count_regions(cuts) == 6
    assert (seen == 1).all()


def test_the_index_of_a_region_names_its_elements() -> None:
    (*_, last) = regions((4, 1, 5), ((3,), (), (2,)))
    assert (last.start, last.extents) == ((3, 0, 2), (1, 1, 3))
    row, middle, column = last.coordinates()
    assert (row, middle) == (3, 0)
    assert [column.at([i]) for i in range(3)] == [2, 3, 4]  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "attrs"), MOVEMENTS, ids=[name for name, _ in MOVEMENTS])
def test_cuts_move_with_the_elements(name: str, attrs: dict[str, object]) -> None:
    """Neighbours lie on different sides of a cut after a movement if they did so before."""
    shape, cuts = (8, 5), ((3, 4), (2,))
    node = build(lambda x: registered(name)(x, **attrs), "f64[8,5]").outputs[0]
    found = moved(cuts, moved_index(node), node.shape)
    assert found is not None
    # Each element holds the number of the region that it comes from.
    number = np.zeros(shape)
    for position, region in enumerate(regions(shape, cuts)):
        ends = [a + n for a, n in zip(region.start, region.extents, strict=True)]
        number[tuple(slice(a, b) for a, b in zip(region.start, ends, strict=True))] = position
    result = node.op.eval(number, **node.attrs)
    for region in regions(node.shape, found):
        ends = [a + n for a, n in zip(region.start, region.extents, strict=True)]
        inside = result[tuple(slice(a, b) for a, b in zip(region.start, ends, strict=True))]
        assert len(np.unique(inside)) == 1
    for axis, positions in enumerate(found):
        changes = np.any(
            np.diff(result, axis=axis) != 0,
            axis=tuple(i for i in range(result.ndim) if i != axis),
        )
        assert positions == tuple(np.flatnonzero(changes) + 1)


def test_what_mixes_axes_cannot_be_cut() -> None:
    node = build(lambda x: registered("unfold")(x, dim=0, size=3, step=1), "f64[8]").outputs[0]
    assert moved(((4,),), moved_index(node), node.shape) is None


def update(x: Node, v: Node) -> Node:
    return registered("slice_update")(x, v, start=(1, 2), sizes=v.shape, stride=(1, 1))


def pad(x: Node, v: Node) -> Node:
    return registered("pad")(v, low=(1, 2), high=(3, 0), value=7)


def concat(x: Node, v: Node) -> Node:
    return registered("concat")(v, x, v, axis=1)


@pytest.mark.parametrize(
    ("function", "types"),
    [
        (update, ("f64[5,6]", "f64[3,4]")),
        (pad, ("f64[5,6]", "f64[3,4]")),
        (concat, ("f64[3,6]", "f64[3,4]")),
    ],
)
def test_each_region_of_a_placement_is_one_operand(
    function: object, types: tuple[str, ...]
) -> None:
    graph = build(function, *types)  # type: ignore[arg-type]
    (node,) = graph.outputs
    assert is_dense(node)
    arrays = {
        x: np.arange(x.type.size).reshape(x.shape) + 100.0 * (i + 1)
        for i, x in enumerate(graph.inputs)
    }
    expected = node.op.eval(*(arrays[x] for x in node.inputs), **node.attrs)
    for region in regions(node.shape, faces(node)):
        extents = tuple(n for n in region.extents if n != 1)
        found = find_source(node, region.coordinates(), extents)
        for position in itertools.product(*map(range, extents)):
            at = tuple(i if isinstance(i, int) else i.at(position) for i in region.coordinates())
            if found is None:
                assert expected[at] == 7
                continue
            source, index = found
            there = tuple(i if isinstance(i, int) else i.at(position) for i in index)
            assert expected[at] == arrays[source][there]


def test_loops_that_cross_a_face_are_refused() -> None:
    (node,) = build(update, "f64[5,6]", "f64[3,4]").outputs
    (whole,) = regions(node.shape, ((), ()))
    with pytest.raises(AssertionError, match="cross a face"):
        find_source(node, whole.coordinates(), whole.extents)


def test_cuts_of_operands_are_shifted_into_the_box() -> None:
    (node,) = build(update, "f64[5,6]", "f64[3,4]").outputs
    assert placed(node, 1, ((1,), (3,))) == ((2,), (5,))
    assert placed(node, 0, ((1,), (3,))) == ((1,), (3,))
    assert united([((1,), ()), ((4, 2), (3,))]) == ((1, 2, 4), (3,))


def test_what_lies_apart_is_not_dense() -> None:
    def spread(x: Node, v: Node) -> Node:
        return registered("slice_update")(x, v, start=(0,), sizes=v.shape, stride=(2,))

    assert not is_dense(build(spread, "f64[8]", "f64[4]").outputs[0])
    assert is_dense(build(spread, "f64[8]", "f64[1]").outputs[0])
