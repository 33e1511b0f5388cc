"""Makers of tensors that are asked for less often: powers, given strides, and complex ones, which are refused.

The usual ones are in :mod:`tracegrad.ops.creation`, and so is what all of them have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.ops.arguments import new_shape, resolve_dtype
from tracegrad.ops.creation import (
    finished,
    full,
    list_source,
    number_ends,
    placed,
    refuse_complex,
)
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, default_float


@reported("aten::empty_strided")
@placed
def empty_strided(
    size: Sequence[int],
    stride: Sequence[int],
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Zeros with given strides, in elements; see `empty`.

    Raises:
        RuntimeError: there are not as many strides as extents, or one is negative.
    """
    shape, steps = new_shape((size,)), tuple(stride)
    if len(shape) != len(steps):
        raise RuntimeError(
            f"dimensionality of sizes ({len(shape)}) must match dimensionality of strides ({len(steps)})"
        )
    if any(step < 0 for step in steps):
        raise RuntimeError(
            f"Storage size calculation overflowed with sizes={list(shape)} and strides={list(steps)}"
        )
    if state.trace is not None:
        state.trace.give_up("a tensor with given strides is made")
    last = (
        sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) if 0 not in shape else -1
    )
    memory = np.zeros(last + 1, (resolve_dtype(dtype) or default_float()).np)
    strides = tuple(step * memory.itemsize for step in steps)
    data = np.lib.stride_tricks.as_strided(memory, shape, strides)
    return finished(data, 0, device, requires_grad)


@reported("aten::empty_permuted")
@placed
def empty_permuted(
    size: Sequence[int],
    physical_layout: Sequence[int],
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Zeros whose dimensions are in memory in the given order, the outermost first; see `empty`.

    Raises:
        RuntimeError: the order does not name each dimension once, counted from the front.
    """
    shape, order = new_shape((size,)), tuple(physical_layout)
    if len(shape) != len(order):
        raise RuntimeError(
            "Number of dimensions in size does not match the length of the physical_layout; i.e. len(size) = "
            f"{len(shape)} is not equal to len(physical_layout) = {len(order)}"
        )
    for position, dim in enumerate(order):
        if not 0 <= dim < len(shape):
            raise RuntimeError(
                f"Dimension out of range (expected to be between 0 and {len(shape) - 1}, but got {dim} at index "
                f"{position}).  NB: negative dims not currently supported; file an issue if you want it."
            )
        if dim in order[:position]:
            raise RuntimeError("Duplicate dim not allowed")
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = step
        step *= max(shape[dim], 1)
    return empty_strided(shape, strides, dtype=dtype, device=device, requires_grad=requires_grad)


@placed
def new_empty_strided(
    input: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`empty_strided` in the dtype of `input`."""
    dtype = resolve_dtype(dtype) or input.dtype
    return empty_strided(size, stride, dtype=dtype, device=device, requires_grad=requires_grad)


@reported("aten::logspace")
@placed
def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` powers of `base`, whose exponents are evenly spaced from start to end, both included."""
    target = resolve_dtype(dtype) or default_float()
    start, end = number_ends("logspace", start, end)
    if steps < 0:
        raise RuntimeError("number of steps must be non-negative")
    values = np.asarray(np.power(float(base), np.linspace(start, end, steps))).astype(target.np)
    return finished(values, list_source(values), device, requires_grad)


@placed
def scalar_tensor(
    s: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A number as a 0-d tensor, in the default dtype unless told otherwise."""
    refuse_complex("scalar_tensor", s)
    return full(
        (),
        s,
        dtype=resolve_dtype(dtype) or default_float(),
        device=device,
        requires_grad=requires_grad,
    )


def _complex(name: str) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        refuse_complex(name, 1j)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = "There are no complex tensors. Raises NotImplementedError."
    return function


complex_ = _complex("complex")
polar = _complex("polar")
view_as_complex = _complex("view_as_complex")
view_as_real = _complex("view_as_real")
