"""A trace: what one run of a function did to tensors, as a graph.

While a :class:`Trace` is active the function runs for real; values are concrete, so Python may look at them.
Every operation is evaluated *and* appended to the trace's graph. Everything else that connects tensors with the
world is told to the trace by small hooks in :mod:`tracegrad.tensor` and :mod:`tracegrad.dispatch`:

* a tensor that the trace has not seen comes from outside and becomes an input *by reference* (`Source`);
* an in-place operation gives the tensor a new SSA value; what it holds at the end is an *update*;
* reading a value into Python (``if``, ``item()``) becomes a *guard* that the value is the same;
* ``grad`` of a leaf is a slot that the trace follows.

What cannot be followed makes the trace give up, with a reason and the user's line; the function then runs
eagerly. Since the run itself was eager, its results are right in any case. Start reading at :meth:`Trace.record`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.ir.builder import GraphBuilder
from tracegrad.ir.graph import Node as Value
from tracegrad.ir.location import SourceLocation, current_location
from tracegrad.ir.op import Op, registered
from tracegrad.ir.types import DType, TensorType, from_numpy_dtype
from tracegrad.node import UNTRACKED, OpNode, next_sequence
from tracegrad.node import Node as Record
from tracegrad.observer import Observer
from tracegrad.tensor import Tensor, new_tensor, version_of
from tracegrad.traced_number import TracedNumber, is_traced, traced_input

if TYPE_CHECKING:
    from tracegrad.guards import Entry

active = [0]
"""How many traces are under way, in all threads."""

_SMALL_CONSTANT = 256
"""Constant arrays up to this many elements stand in the graph; larger ones become inputs."""


class Source(NamedTuple):
    """Where an input of the graph is read from at each call.

    Attributes:
        kind: ``"argument"`` (`number` counts tensor arguments), ``"capture"`` (`tensor` itself), ``"grad"``
            (the ``grad`` of `tensor`, which is an argument or a capture), ``"constant"`` (`tensor`, which
            nobody else can reach), or ``"number"`` (a Python number, read at `place`; `tensor` holds the first one).
        tensor: the tensor at the time of tracing.
        number: argument number; -1 if it is none.
        requires_grad, is_leaf: what they were at the start of the trace.
        place: of a number: the position among the leaves of the arguments, or a place in Python's state.
        number_type: float or int, of a number.
    """

    kind: str
    tensor: Tensor
    number: int
    requires_grad: bool
    is_leaf: bool
    place: int | Entry | None = None
    number_type: type = float


class Guard(NamedTuple):
    """A condition on a value that Python looked at."""

    value: Value
    location: SourceLocation | None
    what: str


class _Known(NamedTuple):
    """What the trace knows of a tensor: kept alive, with its value as of so many writes to its storage."""

    tensor: Tensor
    value: Value
    writes: int


class _Write(NamedTuple):
    """The last in-place change of a storage: how many there were, which region, and its new value."""

    writes: int
    geometry: tuple[Any, ...]
    value: Value


def _geometry(tensor: Tensor) -> tuple[Any, ...]:
    array = tensor._data
    return array.__array_interface__["data"][0], array.shape, array.strides


def _holds_array(source: Any) -> bool:
    """Whether data came from somewhere else than Python numbers."""
    if isinstance(source, (list, tuple, range)):
        return any(_holds_array(item) for item in source)
    return not (source is None or isinstance(source, (int, float, bool, str)))


class Trace:
    """Records one run of a function. Activate it by setting ``grad_mode.state.trace``.

    Attributes:
        builder: appends to the graph.
        sources: one per graph input.
        guards: what Python looked at, in order.
        failure: why the trace gave up, with the user's line; None while it has not.
        written_grads: leaves whose ``grad`` was assigned.
        records: autograd records made during the trace, with the value of their result.
        stopped: values through which no derivative flows: detached, or computed without recording.
        observer: watches the Python around the tensors.
        begin: records with smaller sequence numbers were there before.
        numbers: the Python numbers that it follows.
        pins: numbers of the inputs, Python numbers, on whose value it depends otherwise than by arithmetic.
    """

    def __init__(self, name: str) -> None:
        self.builder = GraphBuilder(name)
        self.observer = Observer()
        self.begin = next_sequence()
        self.sources: list[Source] = []
        self.guards: list[Guard] = []
        self.failure: tuple[str, SourceLocation | None] | None = None
        self.written_grads: dict[int, Tensor] = {}
        self.entry_grads: dict[int, Tensor | None] = {}
        self.records: dict[Record, Value] = {}
        self.stopped: set[Value] = set()
        self.entry_versions: dict[int, int] = {}
        self.entry_records: dict[int, Record] = {}
        self.numbers: list[TracedNumber] = []
        self.pins: set[int] = set()
        self._known: dict[int, _Known] = {}
        self._writes: dict[int, _Write] = {}
        self._storages: dict[int, int] = {}
        self._keep: list[Any] = []
        self._scope = ""
        self._sweeping = False

    # Inputs.

    def argument(self, tensor: Tensor, index: int) -> None:
        """Make a tensor argument an input. The same tensor twice is one input."""
        if id(tensor) not in self._known:
            self._input(tensor, "argument", index, f"arg{index}")

    def _input(self, tensor: Tensor, kind: str, index: int, hint: str | None) -> Value:
        type = TensorType(from_numpy_dtype(tensor._data.dtype), tensor._data.shape)
        value = self.builder.input(type, hint)
        self.sources.append(
            Source(kind, tensor, index, tensor._requires_grad, tensor._grad_fn is None)
        )
        self._set(tensor, value)
        self.entry_versions[id(tensor)] = version_of(tensor)
        if tensor._counter is UNTRACKED and state.inference is None:
            self.give_up("an inference tensor is used outside of inference mode")
        if tensor._grad_fn is not None:
            self.entry_records[id(tensor)] = tensor._grad_fn
        return value

    def number(self, value: float, place: int | Entry) -> TracedNumber:
        """Make a Python number an input; what is to stand in its place while the function runs."""
        index = len(self.sources)
        tensor = new_tensor(np.asarray(value, np.float64))
        self._input(tensor, "number", -1, f"number{index}")
        source = self.sources[index]
        self.sources[index] = source._replace(place=place, number_type=type(value))
        return traced_input(value, self, tensor, index)

    def pin(self, number: TracedNumber) -> None:
        """The value of a Python number was asked for."""
        if number.tensor is not None:
            self.read_value(number.tensor, number._data)
        self.pins |= number.places

    def settled(self, value: Any) -> Any:
        """An attribute of an op, with plain numbers only."""
        if is_traced(value):
            return value.pinned()
        return tuple(map(self.settled, value)) if type(value) is tuple else value

    def seed(self, tensor: Tensor, hint: str) -> Value:
        """Make `tensor` an input that is no source: a cotangent that comes from outside."""
        type = TensorType(from_numpy_dtype(tensor._data.dtype), tensor._data.shape)
        value = self.builder.input(type, hint)
        self._set(tensor, value)
        return value

    def _set(self, tensor: Tensor, value: Value) -> None:
        self._known[id(tensor)] = _Known(tensor, value, self._count_writes(tensor))

    def knows(self, tensor: Tensor) -> bool:
        """Whether the tensor has a value in this trace."""
        return id(tensor) in self._known

    def tensor_of(self, key: int) -> Tensor:
        """The tensor with this id."""
        return self._known[key].tensor

    def known_tensors(self) -> list[Tensor]:
        """All tensors that have a value in this trace."""
        return [known.tensor for known in self._known.values()]

    def _storage(self, tensor: Tensor) -> int | None:
        """A key for the memory that a tensor shares with others; None if it shares none that changes."""
        counter = tensor._counter
        return (
            None
            if counter is None or counter is UNTRACKED
            else self._storages.get(id(counter), id(counter))
        )

    def _count_writes(self, tensor: Tensor) -> int:
        storage = self._storage(tensor)
        write = None if storage is None else self._writes.get(storage)
        return 0 if write is None else write.writes

    def value_of(self, tensor: Tensor) -> Value:
        """The current SSA value of a tensor; unknown tensors become captured inputs."""
        known = self._known.get(id(tensor))
        writes = self._count_writes(tensor)
        if known is None:
            if writes:
                self.give_up(
                    "a tensor and a view of it are used, and one of them is changed in place"
                )
                return self._placeholder(tensor)
            return self._input(tensor, "capture", -1, f"captured{len(self.sources)}")
        return known.value if known.writes == writes else self._through_storage(tensor)

    def _through_storage(self, tensor: Tensor) -> Value:
        """The value after the storage was changed through another tensor."""
        storage = self._storage(tensor)
        assert storage is not None
        write = self._writes[storage]
        if write.geometry == _geometry(tensor):
            self._set(tensor, write.value)
            return write.value
        # A view is computed anew from what it views.
        chain: list[Tensor] = []
        source = tensor
        while source._base is not None and source._view is not None:
            chain.append(source)
            source = source._view[0]
            known = self._known.get(id(source))
            if known is not None and known.writes == write.writes:
                break
        if not chain or not (source._base is None or self.knows(source)):
            self.give_up(
                "a tensor was changed in place through a view that covers another part of it"
            )
            return self._placeholder(tensor)
        value = (
            self._known[id(source)].value
            if self._is_current(source)
            else self._written_base(source)
        )
        for view in reversed(chain):
            value = self.builder.emit(view._view[1], (value,), view._view[2])
            if value.type != (from_numpy_dtype(view._data.dtype), view._data.shape):
                self.give_up("a view of a tensor that was changed in place cannot be followed")
                return self._placeholder(tensor)
            self._set(view, value)
        return value

    def _is_current(self, tensor: Tensor) -> bool:
        known = self._known.get(id(tensor))
        return known is not None and known.writes == self._count_writes(tensor)

    def _written_base(self, tensor: Tensor) -> Value:
        storage = self._storage(tensor)
        assert storage is not None
        write = self._writes[storage]
        if write.geometry == _geometry(tensor):
            return write.value
        self.give_up("a tensor was changed in place through a view that covers another part of it")
        return self._placeholder(tensor)

    def _placeholder(self, tensor: Tensor) -> Value:
        """Some value of the right type; the trace has failed and its graph will not be used."""
        type = TensorType(from_numpy_dtype(tensor._data.dtype), tensor._data.shape)
        return self.builder.full(type.shape, 0, type.dtype)

    # What dispatch and tensors report.

    def record(self, op: Op, operands: Sequence[Any], attrs: dict[str, Any], out: Tensor) -> None:
        """An op was applied: append it to the graph."""
        if self.failure is not None:
            return
        if not self._sweeping:
            self.observer.resume()
        record = out._grad_fn
        builder = self.builder
        if builder.origin is None:
            builder.location = current_location(2) if record is None else record.location
        out_dtype = from_numpy_dtype(out._data.dtype)
        dtype = out_dtype
        for x in operands:
            if isinstance(x, Tensor) and (x._data.dtype.kind != "b" or dtype is out_dtype):
                dtype = from_numpy_dtype(x._data.dtype)
                if x._data.dtype.kind != "b":
                    break
        inputs = tuple(
            self.value_of(x) if isinstance(x, Tensor) else self._number_value(x, dtype)
            for x in operands
        )
        if self.failure is not None:
            return
        value = builder.emit(op, inputs, attrs)
        if value.type != (out_dtype, out._data.shape):
            self.give_up(
                f"internal error: {op} gave {out.dtype}{list(out.shape)}, but its type rule says {value.type}"
            )
            return
        self._set(out, value)
        if record is not None:
            self.records[record] = value
        elif not out._requires_grad:
            self.stopped.add(value)

    def _number_value(self, x: Any, dtype: DType) -> Value:
        """A Python number as an operand."""
        if not is_traced(x):
            return self.builder.const(x, dtype)
        if x.tensor is None:
            return self.builder.const(x._data, dtype)
        value = self.value_of(x.tensor)
        if dtype is value.dtype:
            return value
        return self.builder.emit(registered("cast"), (value,), {"dtype": dtype})

    def operation_failed(self) -> None:
        """An operation raised an exception, which the function may handle."""
        self.give_up("an operation raises an exception")
        self._sweeping = False
        self.observer.resume()

    def store(self, tensor: Tensor, value: Tensor) -> None:
        """`tensor` was overwritten with `value`."""
        if self.failure is not None:
            return
        if id(tensor) not in self._known and not self._count_writes(tensor):
            # Never read, only written: still an input, whose memory the update goes to.
            self._input(tensor, "capture", -1, f"captured{len(self.sources)}")
            self.entry_versions[id(tensor)] -= 1
        self._write(tensor, self.value_of(value))

    def _write(self, tensor: Tensor, value: Value) -> None:
        counter = tensor._version_counter()
        self._keep.append(counter)
        storage = self._storages.get(id(counter), id(counter))
        self._writes[storage] = _Write(self._count_writes(tensor) + 1, _geometry(tensor), value)
        self._set(tensor, value)

    def alias(self, out: Tensor, tensor: Tensor) -> None:
        """`out` is `tensor` under another name: the same value; cut off from derivatives by detach."""
        if self.failure is not None:
            return
        value = self.value_of(tensor)
        if tensor._requires_grad and not out._requires_grad:
            value = self.builder.emit(registered("copy"), (value,), {}, current_location(2))
            self.stopped.add(value)
        self._set(out, value)

    def follow(self, record: Record, tensor: Tensor) -> None:
        """The record of a transform level made this tensor: its adjoint is that of the tensor's node."""
        if self.failure is None:
            self.records[record] = self.value_of(tensor)

    def data_alias(self, out: Tensor, tensor: Tensor) -> None:
        """`out` is `tensor.data`: it shares memory, but each counts its own in-place changes."""
        if self.failure is not None:
            return
        if tensor._grad_fn is not None:
            self.give_up("Tensor.data of a tensor that has a history")
            return
        counter, own = tensor._version_counter(), out._version_counter()
        self._keep += [counter, own]
        self._storages[id(own)] = self._storages.get(id(counter), id(counter))
        self.alias(out, tensor)

    def shares_storage(self, view: Tensor) -> None:
        """`view`, just made, counts changes with the tensor that it views from now on."""
        known = self._known.get(id(view))
        if known is not None:
            self._set(view, known.value)

    def created(self, tensor: Tensor, source: Any) -> None:
        """A tensor was made of Python data, which is constant as far as the trace can tell.

        The numbers that it was made of were computed by Python from what is guarded.
        """
        if self.failure is not None:
            return
        if _holds_array(source):
            self.give_up(f"a tensor is made from a {type(source).__name__} inside the function")
            return
        if self.builder.origin is None:
            self.builder.location = current_location(2)
        self._set(tensor, self._constant(tensor, tensor._data))

    def _constant(self, tensor: Tensor, data: np.ndarray) -> Value:
        if data.size and (data.size == 1 or bool(np.all(data == data.flat[0]))):
            first = data.flat[0].item()
            if not (first == 0 and isinstance(first, float) and bool(np.signbit(data).any())):
                return self.builder.full(data.shape, first, from_numpy_dtype(data.dtype))
        if data.size <= _SMALL_CONSTANT:
            return self.builder.const_array(data)
        # The user may change the new tensor in place; the constant stays as it is now.
        private = new_tensor(data.copy())
        self._keep.append(private)
        return self._input(private, "constant", -1, f"constant{len(self.sources)}")

    def recall(self, out: Tensor, record: Record) -> None:
        """`out` is the saved result of a record, brought back for its derivative rule."""
        if self.failure is not None:
            return
        value = self.records.get(record)
        if value is None:
            self.give_up(
                "the backward pass leaves the function: a graph from outside is differentiated"
            )
        else:
            self._set(out, value)

    def begin_adjoint(self, record: Record | None) -> None:
        """The backward sweep has reached a record (None: it is over)."""
        if record is None or not isinstance(record, OpNode):
            self._sweeping = False
            self.observer.resume()
        else:
            self._sweeping = True
            self.observer.suspend()
        if self.failure is not None:
            return
        if self.builder.origin is None:
            self._scope = self.builder.scope
        self.builder.origin = None
        self.builder.scope = self._scope
        if record is None:
            return
        if record.sequence < self.begin:
            self.give_up(
                "the backward pass leaves the function: a graph from outside is differentiated"
            )
            return
        origin = self.records.get(record)
        if origin is not None:
            self.builder.origin = origin
            self.builder.location = origin.location
            self.builder.scope = origin.scope

    # What Python sees.

    def read_branch(self, tensor: Tensor, taken: bool) -> None:
        """`bool(tensor)` was asked for."""
        if self.failure is not None:
            return
        value = self.value_of(tensor)
        zero = self.builder.const(0, value.dtype)
        self.builder.location = current_location(2)
        name = "ne" if taken else "eq"
        condition = self.builder.emit(registered(name), (value, zero), {})
        self._guard(condition, f"bool() is {taken}")

    def read_value(self, tensor: Tensor, seen: Any) -> None:
        """The number that a tensor holds was asked for."""
        if self.failure is not None:
            return
        value = self.value_of(tensor)
        builder = self.builder
        builder.location = current_location(2)
        if isinstance(seen, float) and math.isnan(seen):
            condition = builder.emit(registered("ne"), (value, value), {})
        else:
            condition = builder.emit(
                registered("eq"), (value, builder.const(seen, value.dtype)), {}
            )
            if seen == 0 and isinstance(seen, float):
                # 0.0 and -0.0 compare equal, but Python can tell them apart.
                inverse = builder.emit(
                    registered("div"), (builder.const(1, value.dtype), value), {}
                )
                side = builder.const(math.copysign(math.inf, seen), value.dtype)
                condition = builder.emit(registered("eq"), (inverse, side), {})
        self._guard(condition, f"the value is {seen!r}")

    def _guard(self, condition: Value, what: str) -> None:
        if condition.shape:
            condition = self.builder.emit(registered("reshape"), (condition,), {"shape": ()})
        self.guards.append(Guard(condition, self.builder.location, what))

    def escape(self, tensor: Tensor, what: str) -> None:
        """All elements of a tensor were given to Python: no guard can cover that."""
        self.give_up(f"{what} gives a tensor's elements to Python")

    def changed_flags(self, tensor: Tensor) -> None:
        """`requires_grad` or the history of a tensor is changed."""
        if id(tensor) in self._known and not self._is_input(tensor):
            return
        self.give_up("requires_grad of a tensor from outside is changed")

    def _is_input(self, tensor: Tensor) -> bool:
        return any(source.tensor is tensor for source in self.sources)

    # grad of leaves.

    def read_grad(self, tensor: Tensor) -> Tensor | None:
        """`grad` is read: what it was at the start is part of what the trace depends on."""
        current = tensor._grad
        if (
            self.failure is None
            and id(tensor) not in self.written_grads
            and id(tensor) not in self.entry_grads
        ):
            self.entry_grads[id(tensor)] = current
            self._keep.append(tensor)
            if not self.knows(tensor):
                self.value_of(tensor)
            if current is not None and not self.knows(current):
                self._input(current, "grad", -1, f"grad{len(self.sources)}")
                owner = next((s.number for s in self.sources if s.tensor is tensor), -1)
                self.sources[-1] = self.sources[-1]._replace(tensor=tensor, number=owner)
                self._keep.append(current)
        return current

    def write_grad(self, tensor: Tensor, value: Tensor | None) -> None:
        """`grad` is assigned."""
        if self.failure is None:
            self.written_grads[id(tensor)] = tensor

    # The end.

    def forget(self) -> None:
        """Let go of all tensors that the run made."""
        for number in self.numbers:
            number.tensor = None
        self._known.clear()
        self.records.clear()
        self.entry_records.clear()
        self._keep.clear()
        self.written_grads.clear()

    def give_up(self, reason: str) -> None:
        """The run cannot be described by a graph; keep the first reason."""
        if self.failure is None:
            self.failure = reason, current_location(2)
