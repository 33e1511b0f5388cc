"""Random programs for the back end: movements, reductions, products, indexing, updates and guards mixed.

Values stay tame: integers are masked, floats squashed, so that native and interpreted results can be
compared exactly for integers, and with a small tolerance for floats. Positions depend on data only in
index inputs, so that rounding cannot move them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod

import numpy as np
from tracegrad.ir import GraphBuilder, Node, Program, TensorType, registered
from tracegrad.ir.types import DType, Shape, int64

_EXTENTS = (1, 2, 3, 5, 8, 9, 17)
_LARGEST = 5000


class _Grower:
    """A program that grows by random steps."""

    def __init__(self, seed: int, dtype: DType) -> None:
        self.random = random.Random(seed)
        self.numpy = np.random.default_rng(seed)
        self.dtype = dtype
        self.builder = GraphBuilder(f"random{seed}")
        self.extents = self.random.choices(_EXTENTS, k=4) + [0] * (self.random.random() < 0.2)
        self.arrays: list[np.ndarray] = []
        self.values: list[Node] = []

    def op(self, name: str, *operands: Node, **attrs: object) -> Node:
        return self.builder.emit(registered(name), operands, attrs)

    def input(self, shape: Shape, dtype: DType, low: int = -4, high: int = 5) -> Node:
        floats = dtype.is_floating
        draw = self.numpy.uniform if floats else self.numpy.integers
        array = draw(-1, 1, shape) if floats else draw(low, high, shape)
        self.arrays.append(np.asarray(array, dtype.np))
        return self.builder.input(TensorType(dtype, shape))

    def shape(self, most: int = 3) -> Shape:
        return tuple(self.random.choices(self.extents, k=self.random.randint(0, most)))

    def pick(self) -> Node:
        """A value; recent ones more often."""
        if self.random.random() < 0.5:
            return self.random.choice(self.values)
        return self.values[-min(len(self.values), 1 + int(self.random.expovariate(0.7)))]

    def tame(self, x: Node) -> Node:
        if self.dtype.is_floating:
            return self.op("tanh", x)
        if self.random.random() < 0.5:
            return self.op("remainder", x, self.builder.const(7, self.dtype))
        return self.op("bit_and", x, self.builder.const(15, self.dtype))

    def fit(self, x: Node, shape: Shape) -> Node:
        """Something of this shape made from `x`."""
        if x.shape == shape:
            return x
        if x.ndim:
            x = self.op("sum", x, axis=tuple(range(x.ndim)), keepdims=False)
        return self.op("broadcast_in_dim", self.tame(x), shape=shape, dims=())

    def axis(self, x: Node) -> int:
        return self.random.randrange(x.ndim)

    def box(self, shape: Shape) -> tuple[Shape, Shape, Shape]:
        """Starts, sizes and strides of a box that lies in `shape`."""
        start = tuple(self.random.randrange(n) if n else 0 for n in shape)
        stride = tuple(self.random.randint(1, 2) for _ in shape)
        sizes = tuple(
            self.random.randint(0, (n - a - 1) // step + 1) if n else 0
            for n, a, step in zip(shape, start, stride, strict=True)
        )
        return start, sizes, stride

    # Steps. Each returns a value, or None if it cannot be taken from `x`.

    def combine(self, x: Node) -> Node | None:
        name = self.random.choice(["add", "sub", "mul", "maximum", "minimum"])
        try:
            return self.op(name, x, self.pick())
        except RuntimeError:  # They do not broadcast.
            return None

    def squash(self, x: Node) -> Node | None:
        return self.tame(x)

    def choose(self, x: Node) -> Node | None:
        threshold = self.builder.const(0.12345 if self.dtype.is_floating else 0, self.dtype)
        try:
            return self.op("where", self.op("gt", x, threshold), x, self.pick())
        except RuntimeError:
            return None

    def reduce(self, x: Node) -> Node | None:
        axes = tuple(sorted(self.random.sample(range(x.ndim), self.random.randint(0, x.ndim))))
        name = self.random.choice(["sum", "sum", "max", "min"])
        if not x.type.size:
            name = "sum"
        value = self.op(name, x, axis=axes, keepdims=self.random.random() < 0.5)
        return self.tame(value) if self.random.random() < 0.5 else value

    def permute(self, x: Node) -> Node | None:
        return self.op("permute", x, dims=tuple(self.random.sample(range(x.ndim), x.ndim)))

    def reshape(self, x: Node) -> Node | None:
        left, shape = x.type.size, []
        while left > 1 and len(shape) < 3:
            shape.append(self.random.choice([d for d in range(1, left + 1) if left % d == 0]))
            left //= shape[-1]
        return self.op("reshape", x, shape=(*shape, left))

    def broadcast(self, x: Node) -> Node | None:
        shape = (*self.shape(2), *x.shape)
        dims = tuple(range(len(shape) - x.ndim, len(shape)))
        return self.op("broadcast_in_dim", x, shape=shape, dims=dims)

    def slice(self, x: Node) -> Node | None:
        start, sizes, stride = self.box(x.shape)
        limit = tuple(
            a + (n - 1) * step + 1 if n else a
            for a, n, step in zip(start, sizes, stride, strict=True)
        )
        return self.op("slice", x, start=start, limit=limit, stride=stride)

    def flip(self, x: Node) -> Node | None:
        return self.op("flip", x, axes=(self.axis(x),)) if x.ndim else None

    def pad(self, x: Node) -> Node | None:
        low, high = (tuple(self.random.randint(0, 2) for _ in x.shape) for _ in range(2))
        return self.op("pad", x, low=low, high=high, value=1) if x.ndim else None

    def concat(self, x: Node) -> Node | None:
        if not x.ndim:
            return None
        axis = self.axis(x)

        def rest(y: Node) -> Shape:
            return (*y.shape[:axis], *y.shape[axis + 1 :])

        fitting = [y for y in self.values if y.ndim == x.ndim and rest(y) == rest(x)]
        return self.op("concat", x, self.random.choice(fitting), x, axis=axis)

    def update(self, x: Node) -> Node | None:
        start, sizes, stride = self.box(x.shape)
        v = self.fit(self.pick(), sizes)
        return self.op("slice_update", x, v, start=start, sizes=sizes, stride=stride)

    def multiply(self, x: Node) -> Node | None:
        if x.ndim < 2:
            return None
        dims = (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
        fitting = [self.op("permute", x, dims=dims)] + [
            y
            for y in self.values
            if y.ndim > 1 and y.shape[-2] == x.shape[-1] and 2 in (x.ndim, y.ndim)
        ]
        product = self.op("matmul", x, self.random.choice(fitting))
        if self.random.random() < 0.3:
            dims = (*range(product.ndim - 2), product.ndim - 1, product.ndim - 2)
            product = self.op("permute", product, dims=dims)
        return self.tame(product)

    def cumsum(self, x: Node) -> Node | None:
        return self.tame(self.op("cumsum", x, axis=self.axis(x))) if x.ndim else None

    def argmax(self, x: Node) -> Node | None:
        if not x.ndim or not x.type.size or self.dtype.is_floating:
            return None
        name = self.random.choice(["argmax", "argmin"])
        found = self.op(name, x, axis=self.axis(x), keepdims=self.random.random() < 0.5)
        return self.op("cast", found, dtype=self.dtype)

    def take(self, x: Node) -> Node | None:
        if not x.ndim or not x.type.size:
            return None
        axis = self.axis(x)
        index = self.input(self.shape(2), int64, 0, x.shape[axis])
        name = self.random.choice(["take", "index_add", "index_copy"])
        if name == "take":
            return self.op(name, x, index, axis=axis)
        shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
        return self.op(name, x, index, self.fit(self.pick(), shape), axis=axis)

    def gather(self, x: Node) -> Node | None:
        if not x.ndim or not x.type.size:
            return None
        axis = self.axis(x)
        shape = tuple(
            self.random.choice(self.extents) if i == axis else self.random.randint(1, n)
            for i, n in enumerate(x.shape)
        )
        index = self.input(shape, int64, 0, x.shape[axis])
        if self.random.random() < 0.5:
            return self.op("gather", x, index, axis=axis)
        return self.op("scatter_add", x, index, self.fit(self.pick(), shape), axis=axis)

    def constant(self, x: Node) -> Node | None:
        return self.builder.full(self.shape(), self.random.randint(-2, 2), self.dtype)

    def counted(self, x: Node) -> Node | None:
        shape = self.shape()
        count = self.op("iota", size=prod(shape), dtype=self.dtype)
        return self.tame(self.op("reshape", count, shape=shape))

    def grow(self, steps: int) -> None:
        choices: list[Callable[[Node], Node | None]] = [
            *[self.combine] * 4, self.squash, self.choose, self.reduce, self.reduce, self.permute,
            self.reshape, self.reshape, self.broadcast, self.slice, self.flip, self.pad, self.concat,
            self.update, self.multiply, self.cumsum, self.argmax, self.take, self.gather,
            self.constant, self.counted,
        ]  # fmt: skip
        for _ in range(self.random.randint(2, 4)):
            self.values.append(self.input(self.shape(), self.dtype))
        for _ in range(steps):
            value = self.random.choice(choices)(self.pick())
            if value is not None and value.type.size <= _LARGEST:
                keep = self.dtype.is_floating and self.random.random() < 0.8
                self.values.append(value if keep else self.tame(value))

    def finish(self) -> Program:
        outputs = [self.random.choice(self.values) for _ in range(self.random.randint(0, 5))]
        outputs.append(self.values[-1])
        updates, guards = {}, set()
        for number, node in enumerate(self.builder.graph.inputs):
            fitting = [x for x in self.values if x.type == node.type]
            if fitting and self.random.random() < 0.4:
                updates[len(outputs)] = number
                outputs.append(self.random.choice(fitting))
        if self.random.random() < 0.5:
            total = self.fit(self.pick(), ())
            bound = self.builder.const(-0.777 if self.dtype.is_floating else 1, self.dtype)
            guards.add(len(outputs))
            outputs.append(self.op("ge", total, bound))
        self.builder.graph.outputs = outputs
        return Program(self.builder.graph, updates, frozenset(guards))


def random_program(seed: int, steps: int, dtype: DType) -> tuple[Program, list[np.ndarray]]:
    """A program and inputs for it.

    Args:
        seed: the same seed gives the same program.
        steps: how many random steps it grows by.
        dtype: the type of its numbers.
    """
    grower = _Grower(seed, dtype)
    grower.grow(steps)
    return grower.finish(), grower.arrays
