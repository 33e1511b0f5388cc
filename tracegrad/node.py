"""The records that operations leave behind, which users see as ``grad_fn``.

A :class:`Node` stands for one application of an op: the op, the edges to where its operands came from, and the
values that the derivative rule reads. Edges lead to Nodes, or to leaf tensors. Records are ordered by a
sequence number, which is a topological order. Start with :class:`OpNode`; :mod:`tracegrad.autograd.engine` runs
them backwards.
"""

from __future__ import annotations

import functools
import itertools
import re
import weakref
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.ir.location import SourceLocation, internal_files, is_internal
from tracegrad.ir.op import Op
from tracegrad.ir.types import DType, TensorType, from_numpy_dtype

if TYPE_CHECKING:
    from tracegrad.tensor import Tensor

Edge = Any
"""A Node, a leaf Tensor, or None where nothing requires grad."""

Composite = tuple[str, tuple[tuple[Edge, int], ...], "dict[str, Any] | None"]
"""What users see of the record of a composition: see :func:`present`."""

next_sequence = itertools.count().__next__

NUMBERED = re.compile(r"Backward\d*$")
"""The end of a record's name that torch leaves out in messages."""

FREED_MESSAGE = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they "
    "have already been freed). Saved intermediate values of the graph are freed when you call "
    ".backward() or autograd.grad(). Specify retain_graph=True if you need to backward through the "
    "graph a second time or if you need to access saved tensors after calling backward."
)


DETACHED_MESSAGE = (
    "Trying to use a saved tensor that has been detached in-place, i.e. with .detach_().This is not supported, "
    "please use out-of-place `.detach()` instead"
)


def is_set(node: Node, name: str) -> bool:
    """Whether an attribute that is made on demand is there."""
    try:
        object.__getattribute__(node, name)
    except AttributeError:
        return False
    return True


class VersionCounter:
    """Counts the in-place changes of one storage; shared by all tensors that view it.

    Attributes:
        value: how many changes there were.
        location: the user's line of the latest one.
    """

    __slots__ = ("location", "value")

    def __init__(self) -> None:
        self.value = 0
        self.location: SourceLocation | None = None


class _NoVersions(VersionCounter):
    """The counter of all inference tensors: it marks them, and counts nothing."""

    __slots__ = ()

    def __init__(self) -> None:
        self.location = None

    @property
    def value(self) -> int:
        """Less than that of any storage whose changes are counted."""
        return -1

    @value.setter
    def value(self, value: int) -> None:
        if state.inference is None:
            raise RuntimeError(INFERENCE_IN_PLACE)


UNTRACKED = _NoVersions()
"""What an inference tensor has as its version counter."""

INFERENCE_IN_PLACE = (
    "Inplace update to inference tensor outside InferenceMode is not allowed.You can make a clone to get a normal "
    "tensor before doing inplace update.See https://github.com/pytorch/rfcs/pull/17 for more details."
)
INFERENCE_SAVED = (
    "Inference tensors cannot be saved for backward. Please do not use Tensors created in inference mode in "
    "computation tracked by autograd. To work around this, you can make a clone to get a normal tensor and use it in "
    "autograd, or use `torch.no_grad()` instead of `torch.inference_mode()`."
)


class RemovableHandle:
    """Returned when a hook is registered; ``remove()`` takes the hook back. A context manager as well."""

    def __init__(self, hooks: dict[int, Callable[..., Any]], key: int) -> None:
        self._hooks = hooks
        self._key = key

    @property
    def id(self) -> int:
        """The hook's number; later ones are larger."""
        return self._key

    def remove(self) -> None:
        self._hooks.pop(self._key, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()


_hook_numbers = itertools.count()
hooks_added = [0]
"""How many hooks were ever registered. While it stays the same, no tensor has got one."""


def add_hook(hooks: dict[int, Callable[..., Any]], hook: Callable[..., Any]) -> RemovableHandle:
    """Add to a table of hooks and return the handle that removes it."""
    hooks_added[0] += 1
    key = next(_hook_numbers)
    hooks[key] = hook
    return RemovableHandle(hooks, key)


class Hooks:
    """The hooks of one record, in the order in which the backward pass runs them.

    Attributes:
        tensor: hooks on the cotangent of output ``number``: {number: {key: hook}}.
        retained: results that want their cotangent as ``grad``: {number: weak reference}.
        before: hooks on all cotangents of the record, before it runs.
        after: hooks on what it returned.
        stand_in: of a view, the record without hooks that in-place operations on the view go on from.
    """

    __slots__ = ("after", "before", "retained", "stand_in", "tensor")

    def __init__(self) -> None:
        self.tensor: dict[int, dict[int, Callable[..., Any]]] = {}
        self.retained: dict[int, weakref.ref[Tensor]] = {}
        self.before: dict[int, Callable[..., Any]] = {}
        self.after: dict[int, Callable[..., Any]] = {}
        self.stand_in: Node | None = None

    def __bool__(self) -> bool:
        return bool(self.retained or self.before or self.after or any(self.tensor.values()))


class LeafHooks(Hooks):
    """The hooks of a leaf; `before` and `after` are those of its AccumulateGrad.

    Attributes:
        accumulated: hooks on the leaf itself, when its ``grad`` was added to.
    """

    __slots__ = ("accumulated",)

    def __init__(self) -> None:
        super().__init__()
        self.accumulated: dict[int, Callable[..., Any]] = {}

    def __bool__(self) -> bool:
        return bool(self.accumulated) or super().__bool__()


class ResultType(NamedTuple):
    """What ``_input_metadata`` says of one result of a record."""

    shape: tuple[int, ...]
    dtype: DType
    device: Any
    is_nested_tensor: bool = False
    is_cpp_nested_tensor: bool = False


class GradientEdge(NamedTuple):
    """A place in the graph where a gradient is computed: output `output_nr` of `node`.

    ``grad`` and ``backward`` take it wherever they take a Tensor. Make one with
    :func:`tracegrad.autograd.graph.get_gradient_edge`.
    """

    node: Node
    output_nr: int
    ownership_token: Node | None = None


class Node:
    """The base of all records.

    Attributes:
        edges: for each operand where it came from.
        numbers: which output of that Node, where it is not 0 for all; else None.
        sequence: later records have larger ones.
        composite: the name and the edges that users see, where they are not those of the op; see `present`.
        code, instruction: where the user's program was; or `code` is a SourceLocation.
        outputs: how many results there are; cotangents of a Node with several come as a list.
        pulls_nothing: whether `pull` is to be called when there are no cotangents at all.
        hooks: None until the first one is registered.
    """

    # Those with an underscore are set when somebody asks for them first.
    __slots__ = (
        "__weakref__",
        "_metadata",
        "_result_types",
        "code",
        "composite",
        "edges",
        "hooks",
        "instruction",
        "numbers",
        "sequence",
    )
    outputs = 1
    pulls_nothing = False

    def __init__(self, edges: tuple[Edge, ...], location: SourceLocation | None) -> None:
        self.edges = edges
        self.numbers: tuple[int, ...] | None = None
        self.code: CodeType | SourceLocation | None = location
        self.instruction = -1
        self.sequence = next_sequence()
        self.composite: Composite | None = None
        self.hooks: Hooks | None = None
        if state.anomaly:
            keep_traceback(self)

    def name(self) -> str:
        """torch's name of the record, such as ``SinBackward0``."""
        return type(self).__name__ if self.composite is None else self.composite[0]

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"

    @property
    def location(self) -> SourceLocation | None:
        """The user's line."""
        if isinstance(self.code, CodeType):
            return SourceLocation(self.code, self.instruction)
        return self.code

    @property
    def metadata(self) -> dict[Any, Any]:
        """A dictionary for the user's own notes."""
        if not is_set(self, "_metadata"):
            self._metadata: dict[Any, Any] = {}
        return self._metadata

    def note_result(self, number: int, type: ResultType) -> None:
        """Remember for `_input_metadata` what a result is like: done when users get hold of the record."""
        if not is_set(self, "_result_types"):
            self._result_types: dict[int, ResultType] = {}
        self._result_types[number] = type

    @property
    def _input_metadata(self) -> list[ResultType | None]:
        """For each result its shape and dtype (None for results that nobody has looked at)."""
        known = self._result_types if is_set(self, "_result_types") else {}
        return [known.get(number) for number in range(self.outputs)]

    def _sequence_nr(self) -> int:
        return self.sequence

    @property
    def next_functions(self) -> tuple[tuple[Node | None, int], ...]:
        """The records of the operands, as torch shows them: (record, output number) or (None, 0)."""
        return tuple((as_node(edge), number) for edge, number in self.shown_edges())

    def shown_edges(self) -> Sequence[tuple[Edge, int]]:
        """The edges that users see: those of the whole composition where this is its last record."""
        return tuple(zip(self.edges, self.numbers or (0,) * len(self.edges), strict=True))

    def register_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(grad_inputs, grad_outputs)`` after this record ran; it may replace grad_inputs."""
        return add_hook(self.hooks_made().after, hook)

    def register_prehook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(grad_outputs)`` before this record runs; it may replace grad_outputs."""
        return add_hook(self.hooks_made().before, hook)

    def hooks_made(self) -> Hooks:
        """`hooks`, made if there were none."""
        if self.hooks is None:
            self.hooks = Hooks()
        return self.hooks

    def pull(self, ct: Any, needed: Sequence[bool], differentiable: bool) -> list[Any]:
        """The cotangents of the operands (None where not needed or not there).

        Args:
            ct: that of the result; a list where there are several results.
            needed: for each edge whether it is wanted.
            differentiable: whether cotangents are Tensors (to be differentiated again, or traced)
                rather than arrays.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Forget the saved values."""

    def watch(self, array: np.ndarray, counter: VersionCounter) -> None:
        """The result, whose memory is `array`, has got a version counter."""


def name_of_op(op: Op) -> str:
    """``SinBackward0`` for the op ``sin``, ``Log1PBackward0`` for ``log1p``."""
    return re.sub(r"(?:^|_|(?<=\d))([a-z])", lambda m: m[1].upper(), op.name) + "Backward0"


_classes: dict[Op, type[OpNode]] = {}

# Where torch's name is not our op's.
_TORCH_NAMES = {
    "power": "PowBackward0",
    "pow": "PowBackward1",
    "max": "AmaxBackward0",
    "remainder": "RemainderBackward1",
    "fmod": "FmodBackward1",
    "cast": "ToCopyBackward0",
    "matmul": "MmBackward0",
    "reshape": "ViewBackward0",
    "broadcast_in_dim": "ExpandBackward0",
    "concat": "CatBackward0",
    "take": "IndexBackward0",
    "min": "AminBackward0",
    "slice_update": "CopySlices",
    "copy": "CloneBackward0",
    "index_copy": "IndexPutBackward0",
    "pad": "ConstantPadNdBackward0",
}


def node_class(op: Op) -> type[OpNode]:
    """The class of the records of `op`: one per op, so that ``type(x.grad_fn).__name__`` is torch's."""
    found = _classes.get(op)
    if found is None:
        found = _classes[op] = class_named(_TORCH_NAMES.get(op.name) or name_of_op(op))
    return found


@functools.cache
def class_named(name: str) -> type[OpNode]:
    """The class of records that users see under this name."""
    return type(name, (OpNode,), {"__slots__": (), "__module__": OpNode.__module__})


def present(
    node: OpNode,
    name: str,
    edges: tuple[tuple[Edge, int], ...],
    kept: dict[str, Any] | None = None,
) -> None:
    """Have a record shown to users under another name, with other edges: those of a composition of ops.

    Only what users see changes; the sweep follows the true edges.

    Args:
        kept: arguments of the operation that users see as ``_saved_...``.
    """
    node.composite = name, edges, kept


class OpNode(Node):
    """The record of one primitive op.

    Attributes:
        op, attrs: what was applied.
        types: types of the operands (None for numbers); None if the rules do not need them.
        saved: the operands that the rule reads, as Tensors or numbers; None after release. With hooks on saved
            tensors, a :class:`tracegrad.saved.PackedValues`, for the result as well.
        versions: the version of each saved Tensor when it was saved; None if all were 0.
        saved_out: the result's array, if the rule reads it.
        out_counter: the version counter of `saved_out`; None as long as nobody could have changed it.
        out_tangents: what forward mode knows of `saved_out`; not set if it knows nothing.
    """

    __slots__ = (
        "attrs",
        "op",
        "out_counter",
        "out_tangents",
        "saved",
        "saved_out",
        "types",
        "versions",
    )

    op: Op
    attrs: dict[str, Any]
    types: tuple[Any, ...] | None
    saved: Any
    versions: tuple[int, ...] | None
    saved_out: np.ndarray | None
    out_counter: VersionCounter | None
    out_tangents: dict[Any, Tensor] | None

    def shown_edges(self) -> Sequence[tuple[Edge, int]]:
        if self.composite is not None:
            return self.composite[1]
        edges = Node.shown_edges(self)
        rules = self.op.rules
        if len(rules) != len(edges):
            return edges
        return tuple([edge for edge, rule in zip(edges, rules, strict=True) if rule is not None])

    def watch(self, array: np.ndarray, counter: VersionCounter) -> None:
        if self.saved_out is array:
            self.out_counter = counter

    def pull(self, ct: Any, needed: Sequence[bool], differentiable: bool) -> list[Any]:
        saved = self.saved
        out: Any = self.saved_out
        if saved.__class__ is not tuple:
            if saved is None:
                raise RuntimeError(FREED_MESSAGE)
            saved, out = saved.unpack(self)
        versions = self.versions
        operands: Any = saved
        if saved:
            operands = []
            for x in saved:
                if x is None:
                    operands.append(None)
                    continue
                counter = getattr(x, "_counter", None)
                if counter is not None:
                    expected = 0 if versions is None else versions[len(operands)]
                    if (
                        x._detached
                        and x._grad_fn is None
                        and isinstance(self.edges[len(operands)], Node)
                    ):
                        raise RuntimeError(DETACHED_MESSAGE)
                    if counter.value != expected:
                        view = x._view is not None
                        origin = x.grad_fn if view else x._grad_fn
                        raise modified_error(x._data, origin, counter, expected, self, x._output_nr)
                operands.append(x if differentiable else getattr(x, "_data", x))
        if out is not None:
            if self.out_counter is not None and self.out_counter.value:
                raise modified_error(out, self, self.out_counter, 0, self)
            if differentiable:
                out = late_bound["rebuild_output"](out, self)
        return self.op.pull_each(needed, ct, out, operands, self.types, self.attrs)

    def release(self) -> None:
        if self.saved or self.saved_out is not None:
            self.saved = None
            self.saved_out = None

    def __getattr__(self, name: str) -> Any:
        """``_saved_self``, ``_saved_other``, ``_saved_result``, as torch names what a record keeps.

        ``_raw_saved_self`` and so on are the same as objects on which hooks can be set. See
        :mod:`tracegrad.saved_names`.
        """
        if name.startswith(("_saved_", "_raw_saved_")):
            return late_bound["saved_value"](self, name)
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *late_bound["saved_names"](self)]


_new = object.__new__


def new_op_node(
    cls: type[OpNode],
    op: Op,
    attrs: dict[str, Any],
    edges: tuple[Edge, ...],
    saved: tuple[Any, ...],
    saved_out: np.ndarray | None,
    versions: tuple[int, ...] | None,
    types: tuple[TensorType | None, ...] | None,
    frame: FrameType | None,
) -> OpNode:
    """A record of class `cls`; see `OpNode`. The user's line is in `frame` or outside of it. Hot."""
    node = _new(cls)
    node.op = op
    node.attrs = attrs
    node.edges = edges
    node.saved = saved
    node.saved_out = saved_out
    node.versions = versions
    node.types = types
    node.sequence = next_sequence()
    node.out_counter = node.numbers = node.composite = node.hooks = None
    while frame is not None:
        code = frame.f_code
        internal = internal_files.get(code.co_filename)
        if internal is False or (internal is None and not is_internal(code.co_filename)):
            node.code = code
            node.instruction = frame.f_lasti
            return node
        frame = frame.f_back
    node.code = None
    node.instruction = -1
    return node


late_bound: dict[str, Callable[..., Any]] = {}
"""``rebuild_output(array, node)`` makes a Tensor of a saved result, with its record as grad_fn. Filled in by
:mod:`tracegrad.tensor`, which stands above this module; ``saved_tensor`` by :mod:`tracegrad.saved`; what users see
as ``_saved_...`` by :mod:`tracegrad.methods`."""


def keep_traceback(node: Node) -> None:
    """Under anomaly detection: note the stack of the user's program, and the record whose derivative it is in."""
    import traceback  # Takes a millisecond, and few programs come here.

    frames = [f for f in traceback.extract_stack() if not is_internal(f.filename)]
    node.metadata["traceback_"] = traceback.format_list(frames)
    node.metadata["parent_"] = state.evaluated


def move_retained(old: Node | None, number: int, new: Node | None, new_number: int) -> None:
    """A tensor that was output `number` of `old` got another record: what `retain_grad` asked for goes with it.

    Args:
        new: its record; None if the request ends here.
    """
    if old is None or old is new or old.hooks is None:
        return
    tensor = old.hooks.retained.pop(number, None)
    if tensor is not None and new is not None:
        new.hooks_made().retained[new_number] = tensor


def modified_error(
    array: Any,
    grad_fn: Node | None,
    counter: VersionCounter,
    expected: int,
    reader: Node | None,
    number: int = 0,
) -> RuntimeError:
    """torch's error for a saved value that was changed in place, with both of the user's lines.

    Args:
        array: the value.
        grad_fn, number: which output of which record it is.
        reader: the record that saved it, if one did.
    """
    dtype = from_numpy_dtype(array.dtype).legacy_name + "Tensor"
    shape = ", ".join(map(str, array.shape))
    which = ""
    if grad_fn is not None:
        which = f", which is output {number} of {NUMBERED.sub('', grad_fn.name())},"
    message = (
        "one of the variables needed for gradient computation has been modified by an inplace "
        f"operation: [torch.{dtype} [{shape}]]{which} is at version {counter.value}; expected version "
        f"{expected} instead. Hint: enable anomaly detection to find the operation that failed to "
        "compute its gradient, with torch.autograd.set_detect_anomaly(True, check_nan=False)."
    )
    if reader is not None and reader.location is not None:
        message += f"\nThe value was saved for the backward pass of {reader.name()} here:\n  "
        message += reader.location.describe()
    if counter.location is not None:
        message += f"\nIt was last changed in place here:\n  {counter.location.describe()}"
    return RuntimeError(message)


class AccumulateGrad(Node):
    """What torch shows as the record of a leaf. The engine itself goes to the leaf, which has the hooks as well.

    Attributes:
        variable: the leaf.
    """

    __slots__ = ("variable",)

    def __init__(self, variable: Tensor) -> None:
        self.variable = variable
        super().__init__((), None)
        self.note_result(0, ResultType(variable.shape, variable.dtype, variable.device))

    @property  # type: ignore[override]
    def hooks(self) -> LeafHooks | None:
        return self.variable._hooks

    @hooks.setter
    def hooks(self, value: LeafHooks | None) -> None:
        """Hooks belong to the leaf: there may be several records of it, one after the other."""

    def hooks_made(self) -> LeafHooks:
        return self.variable._hooks_made()


def as_node(edge: Edge) -> Node | None:
    """The record that stands for an edge in what users see."""
    if edge is None:
        return None
    if isinstance(edge, Node):
        # Python takes microseconds to change a class, so it is changed when somebody looks.
        if edge.composite is not None and isinstance(edge, OpNode):
            edge.__class__ = class_named(edge.composite[0])
        return edge
    return edge._accumulator()
