"""A Python number that a trace follows, so that one compiled variant serves all its values.

When a number that a compiled function reads (an argument, a learning rate in a parameter group) has changed, the
next trace does not see the number itself but a :class:`TracedNumber` in its place. It takes part in arithmetic like
the number and notes in the trace what becomes of it, as nodes on 0-d float64 values. A comparison is a guard on its
outcome. Whatever else Python asks for (an integer, a string, a hash, any function written in C) *pins* the number: it
gets the plain value, a guard says that the value is this one, and the number is not lifted again.

It answers to ``isinstance(x, float)`` as a float, but is none for C code, which therefore has to ask it. After the
trace it behaves as its value. Start reading at :class:`TracedNumber`; :mod:`tracegrad.lifting` decides when to use it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.ir.op import Op, registered
from tracegrad.ir.types import DType, float64
from tracegrad.tensor import Tensor, new_tensor

_EXACT = 2**53
"""Integers up to this size are float64 numbers."""


class TracedNumber:
    """Stands for a float while a trace runs.

    Attributes:
        _data: the value. The name is that of a Tensor's array: an operation evaluates with it.
        tensor: a 0-d float64 Tensor that the trace knows; None when the trace is over.
        places: numbers of the inputs that it was computed from.
    """

    __slots__ = ("_data", "_trace", "places", "tensor")

    # What an operation asks its operands for: it is no view, and has no history.
    _base = None
    _counter = None
    _requires_grad = False

    def __init__(self, value: float, trace: Any, tensor: Tensor, places: frozenset[int]) -> None:
        self._data = value
        self._trace = trace
        self.tensor: Tensor | None = tensor
        self.places = places
        trace.numbers.append(self)

    @property
    def __class__(self) -> Any:
        return float

    def is_followed(self) -> bool:
        """Whether its trace is the one that runs in this thread."""
        return self.tensor is not None and state.trace is self._trace

    def pinned(self) -> float:
        """The plain value. From here on the trace holds for this value only."""
        if self.is_followed():
            self._trace.pin(self)
        return self._data

    def as_tensor(self, dtype: DType) -> Tensor | None:
        """A 0-d Tensor of the value, known to the trace; None if that is over."""
        if not self.is_followed():
            return None
        assert self.tensor is not None
        if dtype is float64:
            return self.tensor
        value = np.asarray(self._data, dtype.np)
        return _noted(self._trace, _CAST, (self.tensor,), value, {"dtype": dtype})

    # Asked for by Python or by C code: the value itself.

    def __getattr__(self, name: str) -> Any:
        """Methods and attributes of floats."""
        if not hasattr(float, name):
            raise AttributeError(f"'float' object has no attribute '{name}'")
        return getattr(self.pinned(), name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.pinned(), dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [x.pinned() if type(x) is TracedNumber else x for x in inputs]
        return getattr(ufunc, method)(*plain, **options)

    def __copy__(self) -> TracedNumber:
        return self

    def __deepcopy__(self, memo: object) -> TracedNumber:
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return float, (self.pinned(),)


_CAST = registered("cast")


def _asked(compute: Callable[..., Any]) -> Callable[..., Any]:
    """A method that pins the number and computes with plain values."""

    def method(self: TracedNumber, *others: Any) -> Any:
        plain = [x.pinned() if type(x) is TracedNumber else x for x in others]
        return compute(self.pinned(), *plain)

    return method


for _name, _compute in {
    "__float__": float,
    "__int__": int,
    "__trunc__": math.trunc,
    "__floor__": math.floor,
    "__ceil__": math.ceil,
    "__round__": round,
    "__hash__": hash,
    "__str__": str,
    "__repr__": repr,
    "__format__": format,
    "__pow__": pow,
    "__rpow__": lambda x, y: pow(y, x),
    "__floordiv__": operator.floordiv,
    "__rfloordiv__": lambda x, y: y // x,
    "__mod__": operator.mod,
    "__rmod__": lambda x, y: y % x,
    "__divmod__": divmod,
    "__rdivmod__": lambda x, y: divmod(y, x),
}.items():
    setattr(TracedNumber, _name, _asked(_compute))


# Computed with: followed by the trace.


def _noted(
    trace: Any, op: Op, operands: tuple[Any, ...], value: Any, attrs: dict[str, Any] | None = None
) -> Tensor:
    """A 0-d Tensor of a value that an operation has, as the trace is told."""
    tensor = new_tensor(np.asarray(value))
    trace.record(op, operands, attrs or {}, tensor)
    return tensor


def _plain(x: Any) -> Any:
    return x._data if type(x) is TracedNumber else x


def _operand(x: Any) -> Any:
    return x.tensor if type(x) is TracedNumber else float(x)


def _can_follow(x: TracedNumber, y: Any) -> bool:
    """Whether an operation of `x` with `y` is one of float64 numbers that the trace can note."""
    if type(y) is TracedNumber:
        return x.is_followed() and y.is_followed()
    return x.is_followed() and (
        type(y) is float or type(y) is bool or (type(y) is int and -_EXACT <= y <= _EXACT)
    )


def _combine(op: Op, compute: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    """``x op y``, where one is a TracedNumber."""
    number, other = (x, y) if type(x) is TracedNumber else (y, x)
    if isinstance(other, Tensor):
        return NotImplemented  # It takes numbers as operands.
    if not _can_follow(number, other):
        number.pinned()
        if type(other) is TracedNumber:
            other.pinned()
        return compute(_plain(x), _plain(y))
    if op is _DIV and type(y) is TracedNumber:
        bool(y)  # Python does not divide by zero: a guard that it is none.
    value = compute(_plain(x), _plain(y))
    tensor = _noted(number._trace, op, (_operand(x), _operand(y)), value)
    places = number.places | (other.places if type(other) is TracedNumber else frozenset())
    return TracedNumber(value, number._trace, tensor, places)


def _compare(op: Op, compute: Callable[[Any, Any], Any], x: TracedNumber, y: Any) -> Any:
    """The outcome of a comparison, which becomes a guard."""
    if isinstance(y, Tensor):
        return NotImplemented
    if not _can_follow(x, y):
        return compute(x.pinned(), y.pinned() if type(y) is TracedNumber else y)
    outcome = bool(compute(x._data, _plain(y)))
    condition = _noted(x._trace, op, (x.tensor, _operand(y)), outcome)
    x._trace.read_branch(condition, outcome)
    return outcome


def _apply_unary(op: Op, compute: Callable[[float], float], x: TracedNumber) -> Any:
    if not x.is_followed():
        return compute(x._data)
    value = compute(x._data)
    return TracedNumber(value, x._trace, _noted(x._trace, op, (x.tensor,), value), x.places)


_DIV = registered("div")


def _define() -> None:
    """Give the class its operators."""

    def forward(op: Op, compute: Any) -> Any:
        return lambda self, other: _combine(op, compute, self, other)

    def reflected(op: Op, compute: Any) -> Any:
        return lambda self, other: _combine(op, compute, other, self)

    def comparison(op: Op, compute: Any) -> Any:
        return lambda self, other: _compare(op, compute, self, other)

    def unary(op: Op, compute: Any) -> Any:
        return lambda self: _apply_unary(op, compute, self)

    for name, compute in (
        ("add", operator.add),
        ("sub", operator.sub),
        ("mul", operator.mul),
        ("div", operator.truediv),
    ):
        method = "truediv" if name == "div" else name
        setattr(TracedNumber, f"__{method}__", forward(registered(name), compute))
        setattr(TracedNumber, f"__r{method}__", reflected(registered(name), compute))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(TracedNumber, f"__{name}__", comparison(registered(name), getattr(operator, name)))
    for name in ("neg", "abs"):
        setattr(TracedNumber, f"__{name}__", unary(registered(name), getattr(operator, name)))
    setattr(TracedNumber, "__pos__", lambda self: self)  # noqa: B010
    setattr(TracedNumber, "__bool__", lambda self: _compare(registered("ne"), operator.ne, self, 0))  # noqa: B010


_define()
# Error messages name the type of what they do not accept.
TracedNumber.__name__ = TracedNumber.__qualname__ = "float"
