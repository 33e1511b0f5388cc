"""Methods that give a tensor another shape, or another storage, in place: ``t_``, ``squeeze_``, ``resize_``, ``set_``.

Those that are views out of place take the tensor over into the view of itself, see :func:`in_place_view`; its base,
if it is a view, keeps the history that it had. The others end in :mod:`tracegrad.geometry`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.dispatch import shown_as
from tracegrad.geometry import place, resize
from tracegrad.grad_mode import state
from tracegrad.inplace import bump_version, check_captured, check_in_place
from tracegrad.ir.memory import restrided, row_major
from tracegrad.memory_format import (
    check_is_format,
    format_strides,
    preserve_format,
    suggested_format,
)
from tracegrad.node import move_retained
from tracegrad.ops import shaping, striding
from tracegrad.ops.arguments import shape_argument, shape_from
from tracegrad.ops.out_argument import C_NAMES
from tracegrad.tensor import Tensor, is_lifted, new_tensor


def _follow(x: Tensor, what: str) -> None:
    if state.trace is not None:
        state.trace.give_up(f"{what} gives a tensor another shape in place")


def in_place_view(function: Callable[..., Tensor], *, overloads: int = 1) -> Callable[..., Tensor]:
    """The in-place form of a function that returns a view.

    Args:
        function: the view.
        overloads: how many torch has; it numbers the records of those in place after them.
    """
    name = function.__name__ + "_"

    @functools.wraps(function)
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if state.levels:
            check_captured(self, name)
        check_in_place(self, fill=True)
        _follow(self, name)
        base = self._base
        former = new_tensor(self._data)
        former._grad_fn, former._output_nr = self._grad_fn, self._output_nr
        former._requires_grad, former._tangents = self._requires_grad, self._tangents
        former._counter = self._version_counter()
        former._base, former._view = base, self._view
        former._view_version = former._version
        out = function(former, *args, **kwargs)
        bump_version(self)
        if is_lifted(self):
            self._data, self._plain = out._data, None
        else:
            if base is not None:
                self._view_version = self._version
            place(self, out._data)
        if out._grad_fn is not None and state.grad:
            made = out._grad_fn.name()
            shown_as(out, f"{made[:-1]}{int(made[-1]) + overloads}", former)
            move_retained(self._grad_fn, self._output_nr, out._grad_fn, out._output_nr)
            self._grad_fn, self._output_nr = out._grad_fn, out._output_nr
        self._tangents = out._tangents
        return self

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"In-place form of ``{function.__name__}``: only the shape changes. Returns the tensor itself."
    return method


squeeze_ = in_place_view(shaping.squeeze, overloads=3)
unsqueeze_ = in_place_view(shaping.unsqueeze)
t_ = in_place_view(shaping.t)
transpose_ = in_place_view(shaping.transpose)
swapaxes_ = in_place_view(shaping.swapaxes)
swapdims_ = in_place_view(shaping.swapdims)
as_strided_ = in_place_view(striding.as_strided)


def resize_(self: Tensor, *size: Any, memory_format: Any = None, **named: Any) -> Tensor:
    """Give the tensor another shape in its storage, which grows where needed; new elements are zero.

    Views of the tensor keep their memory: they share it no more if it had to grow.

    Args:
        memory_format: in which order the elements stand; row-major by default, unless the shape is what it was.

    Raises:
        RuntimeError: the tensor requires grad, an extent is negative, or the format is none for the shape.
        NotImplementedError: it is a view that would leave the memory of its base.
    """
    if state.levels:
        check_captured(self, "resize_")
    shape = shape_argument("resize_", "size", size, named)
    if any(n < 0 for n in shape):
        raise RuntimeError(
            f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}"
        )
    if self.requires_grad:
        raise RuntimeError("cannot resize variables that require grad")
    check_is_format("resize_", memory_format)
    strides = format_strides(memory_format, shape)
    if shape != self._data.shape or (memory_format is not None and strides != self.stride()):
        _follow(self, "resize_()")
        resize(self, shape, strides)
        bump_version(self)
    return self


def resize_as_(self: Tensor, the_template: Tensor, *, memory_format: Any = None) -> Tensor:
    """`resize_` to the shape of another tensor.

    Args:
        memory_format: as for `resize_`; ``preserve_format`` is that of `the_template`.

    Raises:
        TypeError: `the_template` is no tensor.
    """
    if not isinstance(the_template, Tensor):
        raise TypeError(
            "resize_as_(): argument 'the_template' (position 1) must be Tensor, not "
            f"{type(the_template).__name__}"
        )
    check_is_format("resize_as_", memory_format)
    shape = tuple(the_template.shape)
    if memory_format is preserve_format:
        memory_format = suggested_format(shape, the_template.stride())
    return resize_(self, shape, memory_format=memory_format)


def set_(
    self: Tensor,
    source: Tensor | None = None,
    storage_offset: int = 0,
    size: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
) -> Tensor:
    """Have the tensor show the memory of another: all that `source` shows, or what the other arguments say.

    Without a source it becomes empty. Each of both tensors goes on to count its own in-place changes.

    Raises:
        RuntimeError: the tensor requires grad, dtypes differ, or the memory is too small.
        TypeError: `source` is no tensor.
    """
    if source is not None and not isinstance(source, Tensor):
        raise TypeError(
            f"set_() received an invalid combination of arguments - got ({type(source).__name__}), but expected "
            "one of:\n * ()\n * (Tensor source)\n"
            " * (Tensor source, int storage_offset, tuple of ints size, tuple of ints stride = ())\n"
        )
    given = new_tensor(np.empty(0, self._data.dtype)) if source is None else source
    if given._data.dtype != self._data.dtype:
        raise RuntimeError(
            f"Could not set tensor of type {C_NAMES[given.dtype.name]} to a tensor of type "
            f"{C_NAMES[self.dtype.name]}"
        )
    if state.levels:
        check_captured(self, "set_" if source is None else "set_.source_Tensor")
    check_in_place(self, fill=True)
    if state.grad and self.requires_grad:
        raise RuntimeError("derivative for set_ is not implemented")
    if is_lifted(self) or is_lifted(given):
        raise NotImplementedError("set_ inside of a transform, where tensors have no storage")
    _follow(self, "set_()")
    data = given._data.view()
    if size is not None:
        shape = shape_from((size,))
        strides = row_major(shape) if stride is None else shape_from((stride,))
        striding.check_geometry(given, shape, strides, operator.index(storage_offset))
        start = (storage_offset - striding.storage_offset(given)) * data.itemsize
        data = restrided(data, shape, tuple(s * data.itemsize for s in strides), start)
    bump_version(self)
    self._base = self._view = None
    place(self, data)
    return self


def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Fill the main diagonal in place; with `wrap`, that of a tall matrix goes on below, after a row left out.

    Raises:
        RuntimeError: there are not two dimensions at least, or more than two of unequal extents.
    """
    shape = self._data.shape
    if len(shape) < 2:
        raise RuntimeError("dimensions must larger than 1")
    if len(shape) > 2 and len(set(shape)) > 1:
        raise RuntimeError("all dimensions of input must be of equal length")
    diagonal = self
    while diagonal._data.ndim > 1:
        diagonal = striding.diagonal(diagonal)
    diagonal.fill_(fill_value)
    if wrap and len(shape) == 2:
        rows, columns = shape
        for start in range(columns + 1, rows, columns + 1):
            block = striding.narrow(self, 0, start, min(columns, rows - start))
            striding.diagonal(block).fill_(fill_value)
    return self
