"""How an op that is not pointwise says what native code for it looks like.

A pointwise op's ``lower`` is a plain function of a ScalarBuilder. The others describe themselves with one of
the small classes below; the kernel emitter knows these classes, not the ops. An op whose ``lower`` is None is
interpreted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from .types import TensorType


class Index(Protocol):
    """One coordinate of an element, as an affine expression of loop variables."""

    def __add__(self, other: Any) -> Index: ...
    def __sub__(self, other: Any) -> Index: ...
    def __rsub__(self, other: Any) -> Index: ...
    def __mul__(self, other: int) -> Index: ...


class Movement:
    """The result is the operand's elements in other places: no arithmetic, no copy if it can be helped.

    Attributes:
        index: ``index(out_index, x, out, **attrs)`` maps the coordinates of an element of the result
            (a tuple of Index) to those of the operand; `x` and `out` are types. None if it is not affine.
    """

    __slots__ = ("index",)

    def __init__(self, index: Callable[..., tuple[Any, ...] | None]) -> None:
        self.index = index


class Placement:
    """The result is made of boxes, each filled from one operand, over a background.

    Attributes:
        boxes: ``boxes(types, out, **attrs)`` yields per operand that is placed
            ``(operand number, start, step)``: element ``i`` of the operand goes to ``start + step * i``.
            Placed in order; later boxes overwrite.
        background: ``"none"`` (boxes cover everything), ``"value"`` (the attr ``value``), or ``"operand"``
            (operand 0, which has the shape of the result).
    """

    __slots__ = ("background", "boxes")

    def __init__(
        self,
        boxes: Callable[..., Any],
        background: Literal["none", "value", "operand"] = "none",
    ) -> None:
        self.boxes = boxes
        self.background = background


class Reduce:
    """Fold along the attr ``axis`` (a tuple of axes; attr ``keepdims``).

    Attributes:
        combine: ``combine(s, accumulator, element)``.
        start: ``start(dtype)``: the neutral element, a Python number.
        exact: whether the order of combination cannot be seen in the result (max, but not float sum).
    """

    __slots__ = ("combine", "exact", "start")

    def __init__(
        self, combine: Callable[..., Any], start: Callable[..., float | int | bool], exact: bool
    ) -> None:
        self.combine = combine
        self.start = start
        self.exact = exact


class Scan:
    """Fold along the attr ``axis`` (one axis), and keep what there was after each element.

    Attributes:
        combine: ``combine(s, accumulator, element)``.
        start: ``start(dtype)``: the neutral element, a Python number.
    """

    __slots__ = ("combine", "start")

    def __init__(
        self, combine: Callable[..., Any], start: Callable[..., float | int | bool]
    ) -> None:
        self.combine = combine
        self.start = start


class Generated:
    """Each element is computed from its position: ``lower(s, position, *operands, **attrs)``.

    `position` is the linear index of the element as an ``i64`` scalar. The operands are 0-d values.
    """

    __slots__ = ("lower",)

    def __init__(self, lower: Callable[..., Any]) -> None:
        self.lower = lower


class Special:
    """A kernel of its own that the emitter knows by name: matmul, gather, scatter_add, argmax, ..."""

    __slots__ = ("kernel",)

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel


class Expansion:
    """No code of its own: before code is made, the pass ``expand`` puts other ops in its place.

    Attributes:
        expand: ``expand(*operands, **attrs)``: the value, as an expression of ops.
    """

    __slots__ = ("expand",)

    def __init__(self, expand: Callable[..., Any]) -> None:
        self.expand = expand


def normalized_reduction(type: TensorType, axis: tuple[int, ...], keepdims: bool) -> TensorType:
    """The type of a reduction of `type` over `axis`."""
    if keepdims:
        shape = tuple(1 if i in axis else d for i, d in enumerate(type.shape))
    else:
        shape = tuple(d for i, d in enumerate(type.shape) if i not in axis)
    return TensorType(type.dtype, shape)
