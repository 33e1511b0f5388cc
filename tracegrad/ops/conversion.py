"""Conversions, and filling and copying in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracegrad.device import Device
from tracegrad.dispatch import shown_as
from tracegrad.grad_mode import state
from tracegrad.inplace import check_captured, check_in_place, overwritten, store
from tracegrad.ir.types import (
    DType,
    bool_,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    promote,
    uint8,
)
from tracegrad.memory_format import check_format, contiguous_format, suggested_format
from tracegrad.node import Node
from tracegrad.ops.arguments import as_tensor_operand, resolve_dtype, to_dtype
from tracegrad.ops.elementwise import clone
from tracegrad.ops.shaping import contiguous, expand
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, default_float, make_tensor, set_default_float


def to(
    input: Tensor,
    *args: Any,
    dtype: Any = None,
    device: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Convert to a dtype (or to that of another tensor); a device argument may name the CPU only.

    Args:
        args: what to convert to, then `non_blocking` and `copy`.
        memory_format: of a result that is a copy.

    Returns itself where nothing changes and no copy is asked for.

    Raises:
        RuntimeError: another device.
        NotImplementedError: a memory format with the channels last.
    """
    check_format("to", memory_format)
    flags = []
    for argument in args:
        if isinstance(argument, Tensor):
            dtype = argument.dtype
        elif isinstance(argument, DType) or argument in (float, int, bool):
            dtype = argument
        elif isinstance(argument, (str, Device)):
            device = argument
        elif isinstance(argument, bool):
            flags.append(argument)
        elif argument is not None:
            raise TypeError(f"to() received an invalid argument: {argument!r}")
    if device is not None:
        Device(device)
    if len(flags) > 1:
        copy = flags[1]
    target = resolve_dtype(dtype) or input.dtype
    if target is input.dtype and not copy:
        return input if memory_format is None else _in_format("to", input, memory_format)
    if memory_format is None:
        return clone(input) if target is input.dtype else to_dtype(input, target)
    return clone(to_dtype(input, target), memory_format=memory_format)


def _in_format(function: str, input: Tensor, memory_format: Any) -> Tensor:
    """Itself; a copy, if its channels are last and ``contiguous_format`` is asked for."""
    check_format(function, memory_format)
    if memory_format is contiguous_format:
        found = suggested_format(input._data.shape, input.stride())
        return input if found is contiguous_format else contiguous(input)
    return input


def _converter(name: str, dtype: DType) -> Any:
    def function(input: Tensor, memory_format: Any = None) -> Tensor:
        if memory_format is not None:
            check_format(name, memory_format)
            return to(input, dtype, memory_format=memory_format)
        return to_dtype(input, dtype)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Convert to {dtype!r}."
    return function


float_ = _converter("float", float32)
double = _converter("double", float64)
int_ = _converter("int", int32)
long = _converter("long", int64)
short = _converter("short", int16)
char = _converter("char", int8)
byte = _converter("byte", uint8)


def _refused(name: str, dtype: str) -> Any:
    def function(input: Tensor, memory_format: Any = None) -> Tensor:
        raise NotImplementedError(
            f"Tensor.{name}(): the dtype {dtype} is not supported.\nUse float32 or float64."
        )

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"There is no dtype {dtype}. Raises NotImplementedError."
    return function


half = _refused("half", "torch.float16")
bfloat16 = _refused("bfloat16", "torch.bfloat16")
bool_method = _converter("bool", bool_)


def type_as(input: Tensor, other: Tensor) -> Tensor:
    """Convert to the dtype of another tensor."""
    return to_dtype(input, other.dtype)


def cpu(input: Tensor, memory_format: Any = None) -> Tensor:
    """Itself: everything is on the CPU. A copy, if its channels are last and ``contiguous_format`` is asked for."""
    return _in_format("cpu", input, memory_format)


def cuda(input: Tensor, device: Any = None) -> Tensor:
    """There is no GPU. Raises RuntimeError."""
    raise RuntimeError(
        "tracegrad runs on the CPU only.\nGuard the call with `if tracegrad.cuda.is_available():`."
    )


@reported("aten::copy_")
def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Overwrite with the elements of `src`, broadcast and converted."""
    if state.levels:
        check_captured(self, "copy_")
    check_in_place(self, (src,))
    source = to_dtype(as_tensor_operand(src, self), self.dtype)
    if source._data.shape != self._data.shape:
        source = expand(source, self._data.shape)
    if state.grad and (self._requires_grad or source.requires_grad):
        source = shown_as(
            overwritten(self, source), "CopyBackwards", self, as_tensor_operand(src, self)
        )
    return store(self, source)


@reported("aten::fill_")
def fill_(self: Tensor, value: Any) -> Tensor:
    """Overwrite every element with one value."""
    if state.levels:
        check_captured(self, "fill_", (value,))
    check_in_place(self, fill=True)
    if isinstance(value, Tensor):
        if value._data.ndim:
            raise RuntimeError(
                "fill_ only supports 0-dimension value tensor but got tensor with "
                f"{value._data.ndim} dimensions."
            )
        filled = expand(to_dtype(value, self.dtype), self._data.shape)
        if state.grad and (self._requires_grad or filled.requires_grad):
            filled = shown_as(overwritten(self, filled), "FillBackward3", self, value)
        return store(self, filled)
    filled = make_tensor(np.full(self._data.shape, value, self._data.dtype), value)
    if state.grad and self._requires_grad:
        filled = shown_as(overwritten(self, filled), "FillBackward2", self)
    return store(self, filled)


@reported("aten::zero_")
def zero_(self: Tensor) -> Tensor:
    """Overwrite every element with zero."""
    if state.levels:
        check_captured(self, "zero_")
    check_in_place(self, fill=True)
    zeros = make_tensor(np.zeros(self._data.shape, self._data.dtype), 0)
    if state.grad and self._requires_grad:
        zeros = shown_as(overwritten(self, zeros), "ZeroBackward0", self)
    return store(self, zeros)


def detach_(self: Tensor) -> Tensor:
    """Cut this tensor itself off from its history."""
    if state.levels:
        check_captured(self, "detach_")
    if self._base is not None:
        raise RuntimeError(
            "Can't detach views in-place. Use detach() instead. If you are using DistributedDataParallel "
            "(DDP) for training, and gradient_as_bucket_view is set as True, gradients are views of DDP "
            "buckets, and hence detach_() cannot be called on these gradients. To fix this error, please "
            "refer to the Optimizer.zero_grad() function in torch/optim/optimizer.py as the solution."
        )
    if state.trace is not None:
        state.trace.changed_flags(self)
    if self._grad_fn is not None:
        _keep_hooks(self, self._grad_fn)
    self._grad_fn = None
    self._requires_grad = False
    self._tangents = None
    return self


def _keep_hooks(x: Tensor, node: Node) -> None:
    """A result is about to become a leaf: it keeps the hooks on its gradient, and records that saved it notice."""
    x._version_counter()
    x._detached = True
    hooks = None if node.hooks is None else node.hooks.tensor.get(x._output_nr)
    if hooks:
        x._hooks_made().tensor[0] = hooks


def set_default_dtype(d: DType) -> None:
    """The element type of new floating point tensors from now on."""
    set_default_float(d)


def get_default_dtype() -> DType:
    """The element type of new floating point tensors."""
    return default_float()


def promote_types(type1: DType, type2: DType) -> DType:
    """The smallest dtype that both convert to safely, by torch's table."""
    return promote(type1, type2)


def can_cast(from_: DType, to: DType) -> bool:
    """Whether an in-place result of one dtype may be stored in the other."""
    return from_.category <= to.category
