"""Rules for ops that only move elements."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, pairwise

from ..graph import Node
from ..rewrite import Rewriter
from ..types import Shape
from .canonicalize import RULES

rule = RULES.rule


def match_axes(inner: Shape, outer: Shape) -> tuple[int, ...] | None:
    """The axes of `outer` that are those of `inner`, None if others than extent 1 are left over."""
    matched = []
    axis = 0
    for extent in inner:
        while axis < len(outer) and outer[axis] != extent:
            if outer[axis] != 1:
                return None
            axis += 1
        if axis == len(outer):
            return None
        matched.append(axis)
        axis += 1
    return tuple(matched) if all(extent == 1 for extent in outer[axis:]) else None


@rule("permute")
def merge_permutations(b: Rewriter, node: Node) -> Node | None:
    """permute[identity] x => x; permute permute x => permute x"""
    (x,) = node.inputs
    dims = node.attrs["dims"]
    if dims == tuple(range(len(dims))):
        return x
    if x.op.name != "permute":
        return None
    inner = x.attrs["dims"]
    return b.emit("permute", x.inputs[0], dims=tuple(inner[d] for d in dims))


@rule("permute")
def permute_broadcast(b: Rewriter, node: Node) -> Node | None:
    """permute broadcast x => broadcast x, if the axes of x keep their order"""
    (x,) = node.inputs
    if x.op.name != "broadcast_in_dim":
        return None
    position = {dim: i for i, dim in enumerate(node.attrs["dims"])}
    dims = tuple(position[dim] for dim in x.attrs["dims"])
    if any(a > c for a, c in pairwise(dims)):
        return None
    return b.emit("broadcast_in_dim", x.inputs[0], shape=node.shape, dims=dims)


@rule("reshape")
def merge_reshapes(b: Rewriter, node: Node) -> Node | None:
    """reshape x => x if it has that shape; reshape reshape x => reshape x"""
    (x,) = node.inputs
    if x.shape == node.shape:
        return x
    return b.reshape(x.inputs[0], node.shape) if x.op.name == "reshape" else None


@rule("reshape")
def reshape_broadcast(b: Rewriter, node: Node) -> Node | None:
    """reshape broadcast x => broadcast x, if only axes of extent 1 come or go"""
    (x,) = node.inputs
    if x.op.name != "broadcast_in_dim":
        return None
    dims: tuple[int, ...] = x.attrs["dims"]
    if dims:
        added = match_axes(x.shape, node.shape)
        if added is not None:
            dims = tuple(added[dim] for dim in dims)
        else:
            kept = match_axes(node.shape, x.shape)
            if kept is None or not set(dims) <= set(kept):
                return None
            dims = tuple(kept.index(dim) for dim in dims)
    return b.emit("broadcast_in_dim", x.inputs[0], shape=node.shape, dims=dims)


@rule("broadcast_in_dim")
def merge_broadcasts(b: Rewriter, node: Node) -> Node | None:
    """broadcast x => reshape x if nothing is repeated; broadcast broadcast x => broadcast x"""
    (x,) = node.inputs
    if x.type.size == node.type.size:
        return b.reshape(x, node.shape)
    if x.op.name != "broadcast_in_dim":
        return None
    dims = tuple(node.attrs["dims"][dim] for dim in x.attrs["dims"])
    return b.emit("broadcast_in_dim", x.inputs[0], shape=node.shape, dims=dims)


@rule("broadcast_in_dim")
def broadcast_reshaped(b: Rewriter, node: Node) -> Node | None:
    """broadcast reshape x => broadcast x, if the reshape only adds axes of extent 1"""
    (x,) = node.inputs
    if x.op.name != "reshape":
        return None
    (source,) = x.inputs
    matched = match_axes(source.shape, x.shape)
    if matched is None:
        return None
    dims = tuple(node.attrs["dims"][axis] for axis in matched)
    return b.emit("broadcast_in_dim", source, shape=node.shape, dims=dims)


@rule("slice")
def merge_slices(b: Rewriter, node: Node) -> Node | None:
    """slice of everything x => x; slice slice x => slice x"""
    (x,) = node.inputs
    if x.shape == node.shape:
        return x
    if x.op.name != "slice":
        return None
    starts, limits, strides = [], [], []
    inner, outer = x.attrs, node.attrs
    for axis, extent in enumerate(node.shape):
        stride = inner["stride"][axis] * outer["stride"][axis]
        start = inner["start"][axis] + inner["stride"][axis] * outer["start"][axis]
        if not extent:
            start = 0
        starts.append(start)
        limits.append(start + (extent - 1) * stride + 1 if extent else 0)
        strides.append(stride)
    return b.emit(
        "slice", x.inputs[0], start=tuple(starts), limit=tuple(limits), stride=tuple(strides)
    )


@rule("slice")
def slice_broadcast(b: Rewriter, node: Node) -> Node | None:
    """slice broadcast x => broadcast x, if x is not cut"""
    (x,) = node.inputs
    if x.op.name != "broadcast_in_dim":
        return None
    (source,) = x.inputs
    for axis, dim in enumerate(x.attrs["dims"]):
        if source.shape[axis] != 1 and node.shape[dim] != x.shape[dim]:
            return None
    return b.emit("broadcast_in_dim", source, shape=node.shape, dims=x.attrs["dims"])


@rule("slice")
def read_updated_box(b: Rewriter, node: Node) -> Node | None:
    """slice slice_update(x, v) => v, if it is the same box"""
    (x,) = node.inputs
    if x.op.name != "slice_update" or node.shape != x.attrs["sizes"]:
        return None
    return x.inputs[1] if _same_box(node, x) else None


def _same_box(slice_: Node, update: Node) -> bool:
    """Whether a slice of as many elements reads just what an update writes."""
    return bool(slice_.attrs["start"] == update.attrs["start"]) and all(
        n <= 1 or a == c
        for n, a, c in zip(
            slice_.shape, slice_.attrs["stride"], update.attrs["stride"], strict=True
        )
    )


@rule("slice")
def slice_concat(b: Rewriter, node: Node) -> Node | None:
    """slice concat(x, y, ...) => slice x, if it reads nothing else"""
    (x,) = node.inputs
    if x.op.name != "concat" or not node.type.size:
        return None
    axis = x.attrs["axis"]
    ends = b.memo.get(x)
    if ends is None:
        ends = b.memo[x] = list(accumulate(part.shape[axis] for part in x.inputs))
    first = node.attrs["start"][axis]
    last = first + (node.shape[axis] - 1) * node.attrs["stride"][axis]
    number = bisect_right(ends, first)
    if last >= ends[number]:
        return None
    offset = ends[number - 1] if number else 0
    return _shifted_slice(b, node, x.inputs[number], {axis: offset})


@rule("slice")
def slice_padded(b: Rewriter, node: Node) -> Node | None:
    """slice pad x => slice x, if it reads nothing else"""
    (x,) = node.inputs
    if x.op.name != "pad" or not node.type.size:
        return None
    (source,) = x.inputs
    for axis, low in enumerate(x.attrs["low"]):
        first = node.attrs["start"][axis]
        last = first + (node.shape[axis] - 1) * node.attrs["stride"][axis]
        if first < low or last >= low + source.shape[axis]:
            return None
    return _shifted_slice(b, node, source, dict(enumerate(x.attrs["low"])))


def _shifted_slice(b: Rewriter, node: Node, source: Node, offsets: dict[int, int]) -> Node:
    start = tuple(a - offsets.get(i, 0) for i, a in enumerate(node.attrs["start"]))
    stride = node.attrs["stride"]
    limit = tuple(
        a + (n - 1) * step + 1 for a, n, step in zip(start, node.shape, stride, strict=True)
    )
    return b.emit("slice", source, start=start, limit=limit, stride=stride)


@rule("slice_update")
def simplify_update(b: Rewriter, node: Node) -> Node | None:
    """slice_update(x, v) => v, if v covers x; => x, if v has no elements"""
    x, v = node.inputs
    if v.shape == x.shape:
        return v
    return None if v.type.size else x


@rule("slice_update")
def overwrite_update(b: Rewriter, node: Node) -> Node | None:
    """slice_update(slice_update(x, u), v) => slice_update(x, v), if it is the same box"""
    x, v = node.inputs
    if x.op.name != "slice_update" or x.attrs != node.attrs:
        return None
    return b.emit("slice_update", x.inputs[0], v, **node.attrs)


@rule("slice_update")
def write_back(b: Rewriter, node: Node) -> Node | None:
    """slice_update(x, slice x) => x, if it is the same box"""
    x, v = node.inputs
    return x if v.op.name == "slice" and v.inputs[0] is x and _same_box(v, node) else None


@rule("pad")
def drop_padding(b: Rewriter, node: Node) -> Node | None:
    """pad x => x, if nothing is added"""
    (x,) = node.inputs
    return x if x.shape == node.shape else None


@rule("concat")
def drop_empty_parts(b: Rewriter, node: Node) -> Node | None:
    """concat(x) => x; concat(x, y) => concat(x) if y has no elements"""
    axis = node.attrs["axis"]
    parts = [x for x in node.inputs if x.shape[axis]] or [node.inputs[0]]
    if len(parts) == 1:
        return parts[0]
    return None if len(parts) == len(node.inputs) else b.emit("concat", *parts, axis=axis)


@rule("flip")
def merge_flips(b: Rewriter, node: Node) -> Node | None:
    """flip x => x, if there is nothing to turn; flip flip x => flip x"""
    (x,) = node.inputs
    axes = {axis for axis in node.attrs["axes"] if x.shape[axis] > 1}
    source = x
    if x.op.name == "flip":
        axes ^= {axis for axis in x.attrs["axes"] if x.shape[axis] > 1}
        source = x.inputs[0]
    if not axes:
        return source
    if source is x and len(axes) == len(node.attrs["axes"]):
        return None
    return b.emit("flip", source, axes=tuple(sorted(axes)))
