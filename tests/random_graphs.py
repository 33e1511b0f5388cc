"""Random graphs: well-typed by construction, small, with awkward shapes and constants.

Drawn from a seed rather than choice by choice, which gives larger graphs; a failing one shrinks to the fewest steps.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st
from tracegrad.ir import Graph, GraphBuilder, Node, TensorType, registered, verify
from tracegrad.ir.types import (
    DType,
    Shape,
    bool_,
    broadcast_shapes,
    float32,
    float64,
    int32,
    int64,
    uint8,
)

T = TypeVar("T")

SMOOTH_UNARY = ("sin", "cos", "tanh", "sigmoid", "atan", "neg", "asinh", "erf")
ROUGH_UNARY = ("abs", "sign", "floor", "ceil", "trunc", "round", "sqrt", "exp", "log", "rsqrt")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")

FLOAT_CONSTANTS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -4.0, 3.0, math.inf, -math.inf, math.nan)
SMOOTH_CONSTANTS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -0.25, 0.75)


class _Grower:
    """A graph that grows by random steps. `smooth` keeps to ops with derivatives everywhere."""

    def __init__(self, seed: int, dtypes: tuple[DType, ...], smooth: bool) -> None:
        self.random = random.Random(seed)
        self.dtypes = dtypes
        self.smooth = smooth
        self.builder = GraphBuilder("random")
        self.values: list[Node] = []
        self.extents = (1, 2, 3) if smooth else (1, 1, 2, 3, 3, 4) * 4 + (0,)

    def choose(self, options: Sequence[T]) -> T:
        return self.random.choice(options)

    def flip_coin(self) -> bool:
        return self.random.random() < 0.5

    def between(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def shape(self) -> Shape:
        return tuple(self.choose(self.extents) for _ in range(self.between(0, 3)))

    def extent(self) -> int:
        return self.choose((1, 1, 2, 3, 4))

    def pick(self, accept: Callable[[Node], bool] = lambda node: True) -> Node | None:
        """A random value that is accepted, rather a recent one."""
        candidates = [node for node in self.values if accept(node)]
        if not candidates:
            return None
        return self.choose(candidates[-3:] if self.flip_coin() else candidates)

    def emit(self, op: str, *inputs: Node, **attrs: object) -> None:
        self.values.append(self.builder.emit(registered(op), inputs, attrs))

    def add_input(self) -> None:
        dtype = self.choose(self.dtypes)
        self.values.append(self.builder.input(TensorType(dtype, self.shape())))

    def step(self) -> None:
        steps = [
            self.unary, self.unary, self.unary, self.binary, self.binary, self.binary,
            self.constant, self.constant, self.broadcast,
            self.reshape, self.permute, self.slice, self.update, self.reduce, self.concat,
            self.flip, self.pad, self.matmul, self.take, self.zeros,
        ]  # fmt: skip
        if not self.smooth:
            steps += [self.compare, self.select, self.select, self.cast, self.logic]
        self.choose(steps)()

    def constant(self) -> None:
        dtype = self.choose(self.dtypes)
        if dtype.is_floating:
            values: tuple[float, ...] = SMOOTH_CONSTANTS if self.smooth else FLOAT_CONSTANTS
        else:
            values = (0, 1, 2, 7)
        shape = self.shape()
        if self.flip_coin():
            self.values.append(self.builder.full(shape, self.choose(values), dtype))
            return
        type = TensorType(dtype, shape)
        elements = [self.choose(values) for _ in range(type.size)]
        value = tuple(dtype.np.type(element).item() for element in elements)
        if shape:
            self.values.append(self.builder.append("const", (), {"value": value}, type))
        else:
            self.values.append(self.builder.const(value[0], dtype))

    def unary(self) -> None:
        x = self.pick(lambda node: node.dtype.is_floating)
        if x is None:
            x = self.pick(lambda node: node.dtype is not bool_)
            if x is not None:
                self.emit("neg", x)
            return
        names = (*SMOOTH_UNARY, "neg", "neg")
        if not self.smooth:
            names = (*names, *ROUGH_UNARY)
        name = self.choose((*names, "power"))
        if name == "power":
            exponents = (1, 2, 3) if self.smooth else (0, 1, 2, -1, 0.5)
            self.emit("power", x, exponent=self.choose(exponents))
        else:
            self.emit(name, x)

    def pair(self, accept: Callable[[Node], bool]) -> tuple[Node, Node] | None:
        x = self.pick(accept)
        if x is None:
            return None
        y = self.pick(lambda node: node.dtype is x.dtype and _broadcastable(x.shape, node.shape))
        return None if y is None else (x, y)

    def binary(self) -> None:
        pair = self.pair(lambda node: node.dtype is not bool_)
        if pair is None:
            return
        names = ["add", "sub", "mul"]
        if not self.smooth:
            names += ["maximum", "minimum"]
            if pair[0].dtype.is_floating:
                names.append("div")
        self.emit(self.choose(names), *pair)

    def compare(self) -> None:
        pair = self.pair(lambda node: node.dtype is not bool_)
        if pair is not None:
            self.emit(self.choose(COMPARISONS), *pair)

    def logic(self) -> None:
        pair = self.pair(lambda node: not node.dtype.is_floating)
        if pair is None:
            return
        names = ["bit_and", "bit_or", "bit_xor", "bit_not"]
        if pair[0].dtype is bool_:
            names += ["eq", "ne"]
        name = self.choose(names)
        self.emit(name, *(pair[:1] if name == "bit_not" else pair))

    def select(self) -> None:
        pair = self.pair(lambda node: True)
        if pair is None:
            return
        shape = broadcast_shapes(pair[0].shape, pair[1].shape)
        condition = self.pick(
            lambda node: node.dtype is bool_ and _broadcastable(node.shape, shape)
        )
        if condition is not None:
            self.emit("where", condition, *pair)

    def cast(self) -> None:
        x = self.pick()
        assert x is not None
        targets = [bool_]
        if any(dtype.is_floating for dtype in self.dtypes):
            targets += [float32, float64]
        if not x.dtype.is_floating:  # What a float out of range becomes as an integer is undefined.
            targets += [uint8, int32, int64]
        self.emit("cast", x, dtype=self.choose(targets))

    def broadcast(self) -> None:
        x = self.pick(lambda node: node.ndim <= 3)
        if x is None:
            return
        shape: list[int] = []
        dims = []
        for extent in x.shape:
            shape += [self.extent()] * self.flip_coin()
            dims.append(len(shape))
            shape.append(self.extent() if extent == 1 else extent)
        shape += [self.extent()] * self.flip_coin()
        if math.prod(shape) <= 200:
            self.emit("broadcast_in_dim", x, shape=tuple(shape), dims=tuple(dims))

    def reshape(self) -> None:
        x = self.pick()
        assert x is not None
        size, shape = x.type.size, []
        if size == 0:
            shape = [0]
        for factor in (3, 2, 2, 4, 5):
            if size and size % factor == 0 and self.flip_coin():
                shape.append(factor)
                size //= factor
        if size > 1:
            shape.append(size)
        shape += [1] * self.between(0, 2)
        self.random.shuffle(shape)
        self.emit("reshape", x, shape=tuple(shape))

    def permute(self) -> None:
        x = self.pick()
        assert x is not None
        self.emit("permute", x, dims=tuple(self.random.sample(range(x.ndim), x.ndim)))

    def box(self, shape: Shape) -> tuple[Shape, Shape, Shape, Shape]:
        """Random start, limit, stride and sizes inside a shape."""
        starts, limits, strides, sizes = [], [], [], []
        for extent in shape:
            start = self.between(0, extent - 1) if extent else 0
            smallest = start + (1 if self.smooth else 0)
            limit = self.between(smallest, extent) if extent else 0
            stride = self.choose((1, 1, 2))
            starts.append(start)
            limits.append(limit)
            strides.append(stride)
            sizes.append(-(-(limit - start) // stride))
        return tuple(starts), tuple(limits), tuple(strides), tuple(sizes)

    def slice(self) -> None:
        x = self.pick()
        assert x is not None
        start, limit, stride, _ = self.box(x.shape)
        self.emit("slice", x, start=start, limit=limit, stride=stride)

    def update(self) -> None:
        x = self.pick()
        assert x is not None
        start, limit, stride, sizes = self.box(x.shape)
        v = self.pick(lambda node: node.type == TensorType(x.dtype, sizes))
        if v is None:
            self.emit("slice", x, start=start, limit=limit, stride=stride)
            v = self.values[-1]
        self.emit("slice_update", x, v, start=start, sizes=sizes, stride=stride)

    def reduce(self) -> None:
        x = self.pick(lambda node: node.dtype is not bool_)
        if x is None:
            return
        axis = tuple(i for i in range(x.ndim) if self.flip_coin())
        names = ["sum"]
        if not self.smooth and x.type.size:
            names += ["max", "min"]
        keepdims = self.flip_coin()
        self.emit(self.choose(names), x, axis=axis, keepdims=keepdims)

    def concat(self) -> None:
        x = self.pick(lambda node: node.ndim > 0)
        if x is None:
            return
        axis = self.between(0, x.ndim - 1)

        def fits(node: Node) -> bool:
            return (
                node.dtype is x.dtype
                and node.ndim == x.ndim
                and all(
                    i == axis or a == c
                    for i, (a, c) in enumerate(zip(node.shape, x.shape, strict=True))
                )
            )

        others = [self.pick(fits) for _ in range(self.between(0, 2))]
        self.emit("concat", x, *(node for node in others if node is not None), axis=axis)

    def flip(self) -> None:
        x = self.pick()
        assert x is not None
        self.emit("flip", x, axes=tuple(i for i in range(x.ndim) if self.flip_coin()))

    def pad(self) -> None:
        x = self.pick(lambda node: node.dtype is not bool_ and node.ndim > 0)
        if x is None:
            return
        low, high = (tuple(self.between(0, 2) for _ in range(x.ndim)) for _ in range(2))
        value = 1.5 if x.dtype.is_floating and self.flip_coin() else 0
        self.emit("pad", x, low=low, high=high, value=value)

    def matmul(self) -> None:
        x = self.pick(lambda node: node.ndim == 2 and node.dtype.is_floating)
        if x is None:
            return
        y = self.pick(
            lambda node: node.ndim >= 2 and node.dtype is x.dtype and node.shape[-2] == x.shape[-1]
        )
        if y is not None:
            self.emit("matmul", x, y)

    def take(self) -> None:
        x = self.pick(lambda node: node.ndim > 0 and node.type.size > 0)
        if x is None:
            return
        axis = self.between(0, x.ndim - 1)
        index = [self.between(0, x.shape[axis] - 1) for _ in range(self.between(1, 3))]
        type = TensorType(int64, (len(index),))
        self.emit(
            "take", x, self.builder.append("const", (), {"value": tuple(index)}, type), axis=axis
        )

    def zeros(self) -> None:
        x = self.pick(lambda node: node.dtype is not bool_)
        if x is not None:
            self.emit("zeros", x, shape=self.shape())


def _broadcastable(a: Shape, b: Shape) -> bool:
    try:
        broadcast_shapes(a, b)
    except RuntimeError:
        return False
    return True


def grow_graph(seed: int, steps: int, smooth: bool, dtypes: tuple[DType, ...]) -> Graph:
    """A random graph with 1 to 3 inputs and 1 to 10 outputs. A step adds a few nodes at most."""
    grower = _Grower(seed, dtypes, smooth)
    for _ in range(1 + seed % 3):
        grower.add_input()
    for _ in range(steps):
        grower.step()
        if grower.values[-1].type.size > 400:  # Rather a small value and a short test.
            grower.values.pop()
    graph = grower.builder.graph
    used = {x for node in graph.nodes for x in node.inputs}
    unused = [node for node in grower.values if node not in used]
    # Nearly everything matters; something is dead.
    graph = graph.replace(outputs=unused[-10:])
    verify(graph)
    return graph


def graphs(
    *,
    smooth: bool = False,
    dtypes: tuple[DType, ...] = (float64, float64, float32, int64),
    steps: int = 50,
) -> st.SearchStrategy[Graph]:
    """Random graphs.

    Args:
        smooth: only ops with derivatives of every order everywhere, finite constants, no empty arrays.
        dtypes: element types of inputs and constants. Without floats there are none anywhere.
        steps: the most steps to grow.
    """
    return st.builds(
        grow_graph,
        st.integers(0, 2**32 - 1),
        st.integers(1, steps),
        st.just(smooth),
        st.just(dtypes),
    )
