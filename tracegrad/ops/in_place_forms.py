"""In-place forms of functions: methods that compute a result and overwrite their tensor with it.

Start with :func:`in_place`; :func:`in_place_binary` is the shorter way of arithmetic.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.dispatch import apply
from tracegrad.grad_mode import state
from tracegrad.inplace import (
    apply_in_place,
    check_captured,
    check_in_place,
    check_stored,
    former,
    store,
)
from tracegrad.ir.op import Op
from tracegrad.ops.arguments import common_operands, result_dtype
from tracegrad.ops.elementwise import check_sub, scaled, sub
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor


def in_place(function: Callable[..., Tensor], *, fill: bool = False) -> Callable[..., Tensor]:
    """The in-place form of a function: computes, then overwrites the first argument.

    Args:
        fill: torch has it on tensors that show one element several times, too.
    """

    name = function.__name__ + "_"

    @reported(f"aten::{name}")
    @functools.wraps(function)
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        given = (self, *args, *kwargs.values())
        if state.levels:
            check_captured(self, name, given)
        check_in_place(self, given, fill=fill)
        operands = former(self, given)
        count = len(args) + 1
        try:
            named = dict(zip(kwargs, operands[count:], strict=True))
            value = function(*operands[:count], **named)
        except NotImplementedError:
            _check_fit(self, args)
            raise
        return store(self, value)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"In-place form of ``{function.__name__}``. Returns the tensor itself."
    return method


def _check_fit(x: Tensor, others: Sequence[Any]) -> None:
    """Raise torch's error if what is computed from x and others fits into x neither by shape nor by dtype.

    torch looks at that before it looks for a kernel.
    """
    shapes = [y._data.shape for y in others if isinstance(y, Tensor)]
    shape = np.broadcast_shapes(x._data.shape, *shapes)
    check_stored(x, shape, result_dtype(x, *others))


def in_place_binary(op: Op, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The in-place form of a binary arithmetic op; writes straight into the storage where it can."""

    name = function.__name__ + "_"

    @functools.wraps(function)
    def method(self: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
        if state.levels:
            check_captured(self, name)
        if function is sub:
            check_sub(self, other)
        if alpha != 1:
            other = scaled(other, alpha)
        x, y = common_operands(self, other)
        if x is not self:
            check_in_place(self, (other,))
            return store(self, apply(op, former(self, (x, y))))
        return apply_in_place(op, self, (x, y))

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"In-place form of ``{function.__name__}``. Returns the tensor itself."
    return method
