"""A Python number that a trace follows, so that one compiled variant serves all its values.

When a number that a compiled function reads (an argument, a learning rate in a parameter group) has changed, the
next trace does not see the number itself but a :class:`TracedFloat` or :class:`TracedInt` in its place. It takes part
in arithmetic like the number and notes in the trace what becomes of it, as nodes on 0-d float64 values. A comparison
is a guard on its outcome. Whatever else Python asks for (an index, a string, a hash, any function written in C)
*pins* the number: it gets the plain value, a guard says that the value is this one, and the number is not lifted again.

It answers to ``isinstance`` as the number, but is none for C code, which therefore has to ask it. After the trace it
behaves as its value. Integers are exact: they are followed as long as they cannot exceed 2**53. Start reading at
:class:`TracedNumber`; :mod:`tracegrad.lifting` decides when to use it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.ir.op import Op, registered
from tracegrad.ir.types import DType, float64
from tracegrad.tensor import Tensor, new_tensor

LARGEST_INPUT = 2**31
"""Integers up to this size are lifted."""
_EXACT = 2**53
"""Integers up to this size are float64 numbers."""


class TracedNumber:
    """Stands for a number while a trace runs.

    Attributes:
        _data: the value. The name is that of a Tensor's array: an operation evaluates with it.
        tensor: a 0-d float64 Tensor that the trace knows; None when the trace is over.
        places: numbers of the inputs that it was computed from.
        bound: of an integer the size that it can have when the trace is repeated.
    """

    __slots__ = ("_data", "_trace", "bound", "places", "tensor")

    # What an operation asks its operands for: it is no view, and has no history.
    _base = None
    _counter = None
    _requires_grad = False

    plain_type: ClassVar[type]

    def __init__(
        self, value: Any, trace: Any, tensor: Tensor, places: frozenset[int], bound: float
    ) -> None:
        self._data = value
        self._trace = trace
        self.tensor: Tensor | None = tensor
        self.places = places
        self.bound = bound
        trace.numbers.append(self)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self.plain_type

    def is_followed(self) -> bool:
        """Whether its trace is the one that runs in this thread."""
        return self.tensor is not None and state.trace is self._trace

    def pinned(self) -> Any:
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
        value = np.asarray(self._data).astype(dtype.np)
        return _noted(self._trace, _CAST, (self.tensor,), value, {"dtype": dtype})

    # Asked for by Python or by C code: the value itself.

    def __getattr__(self, name: str) -> Any:
        """Methods and attributes of numbers."""
        if not hasattr(self.plain_type, name):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return getattr(self.pinned(), name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.pinned(), dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [x.pinned() if is_traced(x) else x for x in inputs]
        return getattr(ufunc, method)(*plain, **options)

    def __copy__(self) -> TracedNumber:
        return self

    def __deepcopy__(self, memo: object) -> TracedNumber:
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.plain_type, (self.pinned(),)


class TracedFloat(TracedNumber):
    """Stands for a float."""

    __slots__ = ()
    plain_type = float


class TracedInt(TracedNumber):
    """Stands for an int."""

    __slots__ = ()
    plain_type = int


def is_traced(x: Any) -> bool:
    """Whether a number is one that a trace follows; ``isinstance`` takes it for the number."""
    return type(x) is TracedFloat or type(x) is TracedInt


def traced_input(value: float, trace: Any, tensor: Tensor, index: int) -> TracedNumber:
    """What stands for a number that is input `index` of a trace."""
    cls = TracedFloat if type(value) is float else TracedInt
    return cls(value, trace, tensor, frozenset({index}), LARGEST_INPUT)


_ADD = registered("add")
_CAST = registered("cast")


def _plain(x: Any) -> Any:
    return x._data if is_traced(x) else x


def _pin(*numbers: Any) -> list[Any]:
    """The plain values of some numbers, traced or not."""
    return [x.pinned() if is_traced(x) else x for x in numbers]


def _noted(
    trace: Any, op: Op, operands: tuple[Any, ...], value: Any, attrs: dict[str, Any] | None = None
) -> Tensor:
    """A 0-d Tensor of a value that an operation has, as the trace is told."""
    tensor = new_tensor(np.asarray(value))
    trace.record(op, operands, attrs or {}, tensor)
    return tensor


def _operand(x: Any) -> Any:
    return x.tensor if is_traced(x) else float(x)


def _can_follow(x: TracedNumber, y: Any) -> bool:
    """Whether an operation of `x` with `y` is one of float64 numbers that the trace can note."""
    if is_traced(y):
        return x.is_followed() and bool(y.is_followed())
    return x.is_followed() and (
        type(y) is float or type(y) is bool or (type(y) is int and -_EXACT <= y <= _EXACT)
    )


def _bound_of(x: Any) -> float:
    return x.bound if is_traced(x) else abs(float(x))


def _combine(
    op: Op, compute: Callable[[Any, Any], Any], bound: Callable[[Any, Any], Any], x: Any, y: Any
) -> Any:
    """``x op y``, where one is a TracedNumber; `bound` is the size of an integer result."""
    number, other = (x, y) if is_traced(x) else (y, x)
    if isinstance(other, Tensor):
        return NotImplemented  # It takes numbers as operands.
    if not _can_follow(number, other):
        return compute(*_pin(x, y))
    size = bound(_bound_of(x), _bound_of(y))
    divides = compute in _DIVISIONS
    if divides and is_traced(y):
        bool(y)  # Python does not divide by zero: a guard that it is none.
    value = compute(_plain(x), _plain(y))
    if type(value) is int and size > _EXACT:
        return compute(*_pin(x, y))
    tensor = _noted(number._trace, op, (_operand(x), _operand(y)), float(value))
    if type(value) is int and compute in _MAY_GIVE_MINUS_ZERO:
        tensor = _noted(number._trace, _ADD, (tensor, 0.0), float(value))
    places = number.places | (other.places if is_traced(other) else frozenset())
    cls = TracedFloat if type(value) is float else TracedInt
    return cls(value, number._trace, tensor, places, size)


_DIVISIONS = (operator.truediv, operator.floordiv, operator.mod)
_MAY_GIVE_MINUS_ZERO = (operator.mul, operator.floordiv, operator.mod)
"""Of float64 numbers; an integer has none."""


def _raise_to(x: Any, y: Any) -> Any:
    """``x ** y``: followed for positive bases, as long as Python does not raise OverflowError."""
    number, other = (x, y) if is_traced(x) else (y, x)
    if isinstance(other, Tensor):
        return NotImplemented
    whole = isinstance(x, int) and isinstance(y, int)
    if type(y) is int and y == 2:
        return x * x
    if whole or not _can_follow(number, other) or not x > 0:
        return pow(*_pin(x, y))
    value = pow(_plain(x), _plain(y))
    tensor = _noted(number._trace, registered("pow"), (_operand(x), _operand(y)), value)
    places = number.places | (other.places if is_traced(other) else frozenset())
    result: Any = TracedFloat(value, number._trace, tensor, places, math.inf)
    return result if result < math.inf else pow(*_pin(x, y))


def _compare(op: Op, compute: Callable[[Any, Any], Any], x: TracedNumber, y: Any) -> Any:
    """The outcome of a comparison, which becomes a guard."""
    if isinstance(y, Tensor):
        return NotImplemented
    if not _can_follow(x, y):
        return compute(*_pin(x, y))
    outcome = bool(compute(x._data, _plain(y)))
    condition = _noted(x._trace, op, (x.tensor, _operand(y)), outcome)
    x._trace.read_branch(condition, outcome)
    return outcome


def _apply_unary(op: Op, compute: Callable[[Any], Any], x: Any) -> Any:
    if not x.is_followed():
        return compute(x._data)
    if type(x) is TracedInt and compute is operator.neg:
        zero: Any = 0
        return zero - x
    value = compute(x._data)
    tensor = _noted(x._trace, op, (x.tensor,), float(value))
    return type(x)(value, x._trace, tensor, x.places, x.bound)


def _asked(compute: Callable[..., Any]) -> Callable[..., Any]:
    """A method that pins its numbers and computes with plain values."""
    return lambda *numbers: compute(*_pin(*numbers))


def _reflected(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other: method(other, self)


def _define() -> None:
    """Give the classes their operators."""
    arithmetic: dict[str, tuple[str, Any, Any]] = {
        "add": ("add", operator.add, operator.add),
        "sub": ("sub", operator.sub, operator.add),
        "mul": ("mul", operator.mul, operator.mul),
        "truediv": ("div", operator.truediv, lambda x, y: math.inf),
        "floordiv": ("floor_div", operator.floordiv, lambda x, y: x),
        "mod": ("remainder", operator.mod, lambda x, y: y),
    }
    methods: dict[str, Any] = {}

    def operation(op_name: str, compute: Any, bound: Any) -> Callable[[Any, Any], Any]:
        op = registered(op_name)
        return lambda x, y: _combine(op, compute, bound, x, y)

    def comparison(name: str) -> Callable[[Any, Any], Any]:
        op, compute = registered(name), getattr(operator, name)
        return lambda x, y: _compare(op, compute, x, y)

    def unary(name: str) -> Callable[[Any], Any]:
        op, compute = registered(name), getattr(operator, name)
        return lambda x: _apply_unary(op, compute, x)

    for name, definition in arithmetic.items():
        methods[name] = operation(*definition)
        methods[f"r{name}"] = _reflected(methods[name])
    methods["pow"] = lambda x, y, modulus=None: (
        _raise_to(x, y) if modulus is None else pow(*_pin(x, y, modulus))
    )
    methods["rpow"] = _reflected(_raise_to)
    methods |= {name: comparison(name) for name in ("lt", "le", "gt", "ge", "eq", "ne")}
    methods |= {name: unary(name) for name in ("neg", "abs")}
    methods["pos"] = lambda self: self
    methods["bool"] = lambda self: _compare(registered("ne"), operator.ne, self, 0)
    asked: tuple[Callable[..., Any], ...] = (
        float, int, math.trunc, math.floor, math.ceil, round, hash, str, repr, format, divmod
    )  # fmt: skip
    methods |= {compute.__name__: _asked(compute) for compute in asked}
    methods["rdivmod"] = _reflected(divmod)
    for name, method in methods.items():
        setattr(TracedNumber, f"__{name}__", method)
    # What floats do not have.
    for name in ("and", "or", "xor", "lshift", "rshift"):
        method = _asked(getattr(operator, f"__{name}__"))
        setattr(TracedInt, f"__{name}__", method)
        setattr(TracedInt, f"__r{name}__", _reflected(method))
    for name in ("invert", "index"):
        setattr(TracedInt, f"__{name}__", _asked(getattr(operator, name)))
    # Error messages name the type of what they do not accept.
    for cls in (TracedFloat, TracedInt):
        cls.__name__ = cls.__qualname__ = cls.plain_type.__name__


_define()
