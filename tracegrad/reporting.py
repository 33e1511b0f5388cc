"""How operations report themselves to the event bus (`tracegrad.ir.events`), for the profiler.

All of this runs only while somebody listens: whoever is on the hot path asks `events.active` and calls in here.
Names are torch's: ``aten::sin`` for an operation, ``SinBackward0`` for its derivative. An operation that is a
composition of ours, but one to torch's users (``aten::linear``), is an event around theirs.

Start reading at `report_op`; `pull_reported` is the same for the backward sweep.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from threading import get_ident
from typing import Any, TypeVar

import numpy as np

from tracegrad import pytree
from tracegrad.ir import events
from tracegrad.ir.op import Op
from tracegrad.node import Node, OpNode
from tracegrad.ownership import own_results
from tracegrad.tensor import Tensor, new_tensor

T = TypeVar("T", bound=Callable[..., Any])

# torch's names, where our op has another.
_TORCH_NAMES = {
    "bit_and": "bitwise_and",
    "bit_not": "bitwise_not",
    "bit_or": "bitwise_or",
    "bit_xor": "bitwise_xor",
    "broadcast_in_dim": "expand",
    "cast": "_to_copy",
    "concat": "cat",
    "copy": "clone",
    "floor_div": "floor_divide",
    "index_copy": "index_put_",
    "integer_pow": "pow",
    "max": "amax",
    "min": "amin",
    "pad": "constant_pad_nd",
    "power": "pow",
    "reshape": "view",
    "shift_left": "bitwise_left_shift",
    "shift_right": "bitwise_right_shift",
    "slice_update": "copy_",
    "take": "index",
}
_ACCUMULATE = "torch::autograd::AccumulateGrad"
_NO_INFO: dict[str, Any] = {}


class _Names(dict[Op, str]):
    """What ops are called in a profile."""

    def __missing__(self, op: Op) -> str:
        name = self[op] = "aten::" + _TORCH_NAMES.get(op.name, op.name)
        return name


class _EngineNames(dict[str, str]):
    """What the engine's work on records of a name is called in a profile."""

    def __missing__(self, name: str) -> str:
        label = self[name] = "autograd::engine::evaluate_function: " + name
        return label


_names = _Names()
_engine_names = _EngineNames()


# Names that do not follow from that of the record.
_NAMES_OF_COMPOSITES = {
    "Im2Col": "im2col",
    "Col2Im": "col2im",
    **{f"UpsampleNearestExact{rank}D": f"_upsample_nearest_exact{rank}d" for rank in (1, 2, 3)},
}


def name_of_composite(record_name: str) -> str:
    """``aten::mse_loss`` for the operation whose record is called ``MseLossBackward0``."""
    camel = re.sub(r"Backward\d*$", "", record_name)
    if camel in _NAMES_OF_COMPOSITES:
        return "aten::" + _NAMES_OF_COMPOSITES[camel]
    return "aten::" + re.sub(r"(?<=.)(?=[A-Z][a-z0-9])", "_", camel).lower()


def report_op(op: Op, values: Sequence[Any], begin: int, out: Tensor) -> None:
    """Report one operation that has just ended, given the data of its operands."""
    end = events.now()
    node = out._grad_fn
    shapes = [getattr(x, "shape", ()) for x in values] if events.wants_shapes else None
    location = events.user_stack() if events.wants_stack else None
    if events.wants_memory and isinstance(out._data, np.ndarray):
        events.allocated(out._data, *values)
        end = events.now()
    sequence = None if node is None else node.sequence
    events.emit(
        (events.OP, _names[op], begin, end, get_ident(), shapes, location, sequence, _NO_INFO)
    )


def report_in_place(op: Op, operands: Iterable[Any], begin: int) -> None:
    """Report an operation that has just overwritten one of its operands: ``aten::add_``."""
    shapes = shapes_of(operands) if events.wants_shapes else None
    events.record(events.OP, _names[op] + "_", begin, events.now(), shapes)


def report_call(name: str, args: Iterable[Any], begin: int, sequence: int | None) -> None:
    """Report a call of the user's own operation, which has just ended."""
    shapes = shapes_of(args) if events.wants_shapes else None
    events.record(events.OP, name, begin, events.now(), shapes, None, sequence)


def shapes_of(operands: Iterable[Any]) -> list[tuple[int, ...]]:
    """As torch lists them: () for whatever is no tensor."""
    return [x._data.shape if isinstance(x, Tensor) else () for x in operands]


def call_reported(
    name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call a function and report the call as an operation, also if it raises."""
    shapes = shapes_of([*args, *kwargs.values()]) if events.wants_shapes else None
    sequence = None
    begin = events.now()
    try:
        out = function(*args, **kwargs)
        if isinstance(out, Tensor):
            if events.wants_memory and isinstance(out._data, np.ndarray):
                events.allocated(out._data, *[getattr(x, "_data", None) for x in args])
            if out._grad_fn is not None:
                sequence = out._grad_fn.sequence
        return out
    finally:
        events.record(events.OP, name, begin, events.now(), shapes, None, sequence)


def reported(name: str) -> Callable[[T], T]:
    """Have calls of a function appear in profiles as the operation `name`. Its results are views of arguments only."""

    def decorate(function: T) -> T:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            out = (
                call_reported(name, function, args, kwargs)
                if events.active
                else function(*args, **kwargs)
            )
            if out.__class__ is Tensor and out._base is None:
                return out
            return own_results(out, args, kwargs)

        return wrapped  # type: ignore[return-value]

    return decorate


def pull_reported(node: Node, ct: Any, needed: Sequence[bool], as_tensors: bool) -> list[Any]:
    """`Node.pull`, reported under the record's name.

    The rule of an op is run on Tensors, so that the ops that it is made of are reported as well; they evaluate
    what they would on arrays. A batch of cotangents is passed through as it is.
    """
    shapes = None
    if events.wants_shapes:
        cts = ct if isinstance(ct, list) else [ct]
        shapes = [() if x is None else tuple(x.shape) for x in cts]
    begin = events.now()
    try:
        plain = isinstance(ct, np.ndarray | np.generic) and isinstance(node, OpNode)
        if as_tensors or not plain:
            return node.pull(ct, needed, as_tensors)
        pulled = node.pull(new_tensor(np.asarray(ct)), needed, True)
        return [getattr(x, "_data", x) for x in pulled]
    finally:
        end = events.now()
        events.record(events.BACKWARD, node.name(), begin, end, shapes, None, node.sequence)


def report_record(node: Node, begin: int) -> None:
    """Report the engine's work on one record, of which `pull_reported` was a part."""
    name = _engine_names[node.name()]
    events.record(events.ENGINE, name, begin, events.now(), None, None, node.sequence)


def accumulate_reported(
    accumulate: Callable[..., None], tensor: Tensor, ct: Tensor, create_graph: bool
) -> None:
    """Add a gradient to a leaf's, reported as torch reports its AccumulateGrad."""
    shapes = [ct._data.shape] if events.wants_shapes else None
    begin = events.now()
    try:
        accumulate(tensor, ct, create_graph)
        grad = tensor._grad
        if events.wants_memory and grad is not None and isinstance(grad._data, np.ndarray):
            events.allocated(grad._data)
    finally:
        end = events.now()
        events.record(events.BACKWARD, _ACCUMULATE, begin, end, shapes)
        events.record(events.ENGINE, _engine_names[_ACCUMULATE], begin, events.now())


def report_native(name: str, begin: int, result: Any) -> None:
    """Report a call of a compiled function that has just returned `result`."""
    sequence = None
    for leaf in pytree.flatten(result)[0]:
        if isinstance(leaf, Tensor):
            if sequence is None and leaf._grad_fn is not None:
                sequence = leaf._grad_fn.sequence
            if events.wants_memory:
                events.allocated(leaf._data)
    events.record(events.NATIVE, name, begin, events.now(), None, None, sequence)
