"""The tensor that users hold: an array, and where it came from.

:class:`Tensor` here is the data structure with its autograd state: storage, versions, leaf rules, `grad`, and
the ways in which a value escapes to Python. The operations are plain functions in :mod:`tracegrad.ops`;
:mod:`tracegrad.methods` attaches them as methods, so that this module depends on none of them.

Every Tensor is made by :func:`new_tensor` (results of ops) or :func:`make_tensor` (new data from outside, which
a trace has to know about).
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad import formatting
from tracegrad.device import Device, cpu
from tracegrad.grad_mode import state
from tracegrad.ir.memory import row_major
from tracegrad.ir.types import DType, TensorType, from_numpy_dtype
from tracegrad.lifted import Lifted
from tracegrad.node import (
    INFERENCE_SAVED,
    UNTRACKED,
    AccumulateGrad,
    LeafHooks,
    Node,
    RemovableHandle,
    ResultType,
    VersionCounter,
    add_hook,
    as_node,
    late_bound,
)
from tracegrad.size import Size

_NON_LEAF_GRAD = (
    "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its .grad attribute "
    "won't be populated during autograd.backward(). If you indeed want the .grad field to be populated "
    "for a non-leaf Tensor, use .retain_grad() on the non-leaf Tensor. If you access the non-leaf Tensor "
    "by mistake, make sure you access the leaf Tensor instead. See github.com/pytorch/pytorch/pull/30531 "
    "for more informations."
)


class Tensor:
    """An n-dimensional array that remembers how it was computed. Named and behaving as torch's.

    Make one with :func:`tracegrad.tensor`, ``zeros``, ``randn`` and the like.
    """

    # _data: the NumPy array; its memory is the storage.
    # _requires_grad: of a leaf the user's flag; of a result whether any operand required grad.
    # _grad_fn, _output_nr: the record that made it. None for leaves.
    # _counter: version counter, shared with all views; None as long as nobody asked for it; UNTRACKED is what
    # makes an inference tensor.
    # _base: the tensor that this one is a view of; with it come
    # _view: (parent, op, attrs, Creation) that made the view; see tracegrad.views; and
    # _view_version: the version of the storage that its history describes.
    # _plain: the type, if it is known that this is no view and holds an array of floats: what the short ways of
    # tracegrad.lean are for. None where it is not so, or not known.
    # _hooks: of a leaf; those of a result are kept by its record.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_base",
        "_counter",
        "_data",
        "_grad",
        "_grad_fn",
        "_output_nr",
        "_plain",
        "_requires_grad",
        "_view",
        "_view_version",
    )

    _data: np.ndarray
    _requires_grad: bool
    _grad: Tensor | None
    _grad_fn: Node | None
    _base: Tensor | None
    _counter: VersionCounter | None
    _output_nr: int
    _plain: TensorType | None
    _view: Any
    _view_version: int
    __array_priority__ = 1000

    # What few tensors have lives in __dict__ when it is set, so that making a tensor stays cheap.
    _hooks: LeafHooks | None = None
    _accumulator_ref: Any = None
    _tangents: dict[Any, Any] | None = None
    # Whether it was given another shape or place in memory since there may be views of it; see tracegrad.geometry.
    _moved: bool = False
    # Whether it was a result that `detach_` made a leaf.
    _detached: bool = False
    # The number of the innermost level that was going on when it was made; see tracegrad.levels.
    _made_at: int = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> Tensor:
        if not args:
            return new_tensor(np.empty(0, np.float32), cls)
        if all(isinstance(a, int) for a in args):
            data = np.zeros(args, np.float32)
        elif len(args) == 1:
            source = args[0]
            data = np.array(source._data if isinstance(source, Tensor) else source, np.float32)
        else:
            raise TypeError("new(): expected sizes as integers, or one sequence of data")
        return _created(new_tensor(data, cls), args)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    @staticmethod
    def __apply_op__(op: Any, operands: Any, attrs: dict[str, Any]) -> Tensor:
        return late_bound["apply_op"](op, operands, attrs)

    if TYPE_CHECKING:
        # The operations, which tracegrad.methods attaches.
        def __getattr__(self, name: str) -> Any: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __getitem__(self, key: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...

    # What it is.

    @property
    def shape(self) -> Size:
        return Size(self._data.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the extent of one dimension."""
        if dim is None:
            return Size(self._data.shape)
        ndim = self._data.ndim
        if not -max(ndim, 1) <= dim < max(ndim, 1) or ndim == 0:
            low, high = -max(ndim, 1), max(ndim, 1) - 1
            raise IndexError(
                f"Dimension out of range (expected to be in range of [{low}, {high}], but got {dim})"
            )
        return self._data.shape[dim]

    @property
    def ndim(self) -> int:
        return self._data.ndim

    def dim(self) -> int:
        return self._data.ndim

    def numel(self) -> int:
        return self._data.size

    nelement = numel

    @property
    def dtype(self) -> DType:
        return from_numpy_dtype(self._data.dtype)

    @property
    def device(self) -> Device:
        return cpu

    @property
    def is_cuda(self) -> bool:
        return False

    @property
    def itemsize(self) -> int:
        return self._data.itemsize

    def element_size(self) -> int:
        return self._data.itemsize

    @property
    def nbytes(self) -> int:
        return self._data.size * self._data.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """Strides in elements."""
        data = self._data
        # NumPy's are zero where there is no element.
        size = data.itemsize
        strides = tuple(s // size for s in data.strides) if data.size else row_major(data.shape)
        return strides if dim is None else strides[dim]

    def is_contiguous(self) -> bool:
        return self._data.flags.c_contiguous

    def data_ptr(self) -> int:
        """The address of the first element."""
        self._escapes("data_ptr()")
        return self._data.__array_interface__["data"][0]

    def is_floating_point(self) -> bool:
        return self._data.dtype.kind == "f"

    def is_complex(self) -> bool:
        return False

    def type(self, dtype: Any = None) -> Any:
        """The legacy type name, such as ``torch.FloatTensor``; or a conversion to `dtype`."""
        if dtype is not None:
            return self.to(dtype)
        return f"torch.{self.dtype.legacy_name}Tensor"

    # Where it came from.

    def _renew(self) -> None:
        """Bring the history of a view up to date, if the storage was changed in place."""
        if self._base is not None and self._version != self._view_version and state.grad:
            late_bound["refresh_view"](self)

    @property
    def requires_grad(self) -> bool:
        base = self._base
        if base is None:
            return self._requires_grad
        if not self._view[3]:
            self._renew()
        return self._requires_grad or base._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise RuntimeError("requires_grad must be a bool")
        if value and self._grad_fn is not None:
            raise RuntimeError("you can only change requires_grad flags of leaf variables.")
        if value and self._data.dtype.kind != "f":
            raise RuntimeError(
                "only Tensors of floating point and complex dtype can require gradients"
            )
        self._ask_for_grad(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for the gradient with respect to this leaf (or no longer). Returns itself.

        Raises:
            RuntimeError: it is not floating point, or not a leaf; or an inference tensor, outside of the mode; or a
                function is being transformed.
        """
        if state.levels:
            refuse_inside_transforms(
                "requires_grad_", " (or perhaps using torch.autograd.functional.* APIs)"
            )
        if not isinstance(requires_grad, bool):
            raise TypeError(
                "requires_grad_(): argument 'requires_grad' (position 1) must be bool, not "
                f"{type(requires_grad).__name__}"
            )
        return self._ask_for_grad(requires_grad)

    def _ask_for_grad(self, requires_grad: bool = True) -> Tensor:
        """`requires_grad_`, for new tensors and inside of transforms as well."""
        if requires_grad and self._data.dtype.kind != "f":
            raise RuntimeError("only Tensors of floating point dtype can require gradients")
        if requires_grad and self._counter is UNTRACKED and state.inference is None:
            raise RuntimeError(
                "Setting requires_grad=True on inference tensor outside InferenceMode is not allowed."
            )
        if self._grad_fn is not None:
            if not requires_grad:
                raise RuntimeError(
                    "you can only change requires_grad flags of leaf variables. If you want to use a "
                    "computed variable in a subgraph that doesn't require differentiation use "
                    "var_no_grad = var.detach()."
                )
            return self
        changed = self._requires_grad is not requires_grad
        if changed and state.trace is not None and not is_lifted(self):
            state.trace.changed_flags(self)
        self._requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        return self._own_record() is None

    def _own_record(self) -> Any:
        """Where the gradient of this tensor goes; None for leaves. The history of a view is renewed first.

        Raises:
            RuntimeError: it is a view whose history must not be renewed.
        """
        if self._base is not None:
            late_bound["refresh_view"](self)
        return self._grad_fn

    @property
    def grad_fn(self) -> Node | None:
        """The record that made this tensor; None for leaves."""
        node = as_node(self._own_record())
        if node is not None:
            node.note_result(self._output_nr, ResultType(self.shape, self.dtype, self.device))
        return node

    @property
    def output_nr(self) -> int:
        return self._output_nr

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient of a leaf (or after `retain_grad`). Warns on other non-leaves."""
        if self._grad_fn is not None and self._grad is None and not self.retains_grad:
            warnings.warn(_NON_LEAF_GRAD, UserWarning, stacklevel=2)
        if state.trace is not None:
            return state.trace.read_grad(self)
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"assigned grad expected to be a Tensor or None but got grad of type {type(value).__name__}"
                )
            if value is self:
                raise RuntimeError("can't assign Variable as its own grad")
            if value._data.dtype != self._data.dtype:
                raise RuntimeError(
                    "attempting to assign a gradient with dtype "
                    f"'{value.type()[6:]}' to a tensor with dtype '{self.type()[6:]}'. "
                    "Please ensure that the gradient and the tensor have the same dtype"
                )
            if value._data.shape != self._data.shape:
                raise RuntimeError(
                    f"attempting to assign a gradient of size '{list(value.shape)}' to a tensor of size "
                    f"'{list(self.shape)}'. Please ensure that the gradient and the tensor are the same size"
                )
        set_grad(self, value)

    @grad.deleter
    def grad(self) -> None:
        set_grad(self, None)

    @property
    def retains_grad(self) -> bool:
        node = self._grad_fn
        return (
            node is not None and node.hooks is not None and self._output_nr in node.hooks.retained
        )

    def retain_grad(self) -> None:
        """Have `backward` fill `grad` of this non-leaf tensor.

        Raises:
            RuntimeError: it does not require grad; or a function is being transformed.
        """
        if not self.requires_grad:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if state.levels:
            refuse_inside_transforms("retain_grad")
        node = self._own_record()
        if node is not None:
            node.hooks_made().retained[self._output_nr] = weakref.ref(self)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call ``hook(grad)`` whenever this tensor's gradient is computed; it may return a replacement.

        Raises:
            RuntimeError: the tensor does not require grad.
        """
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        node = self._own_record()
        hooks = self._hooks_made() if node is None else node.hooks_made()
        return add_hook(hooks.tensor.setdefault(self._output_nr, {}), hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``hook(self)`` after this leaf's `grad` was accumulated.

        Raises:
            RuntimeError: the tensor does not require grad, or is no leaf.
        """
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if self._own_record() is not None:
            raise RuntimeError(
                "post accumulate grad hooks cannot be registered on non-leaf tensors"
            )
        return add_hook(self._hooks_made().accumulated, hook)

    def _hooks_made(self) -> LeafHooks:
        """The hooks of this leaf, made if there were none."""
        if self._hooks is None:
            self._hooks = LeafHooks()
        return self._hooks

    def _accumulator(self) -> AccumulateGrad:
        """The AccumulateGrad that stands for this leaf in what users see; the same as long as it lives."""
        found = None if self._accumulator_ref is None else self._accumulator_ref()
        if found is None:
            found = AccumulateGrad(self)
            self._accumulator_ref = weakref.ref(found)
        return found

    # Storage and versions.

    @property
    def _version(self) -> int:
        """How often the storage was changed in place. Raises RuntimeError for inference tensors."""
        counter = self._counter
        if counter is UNTRACKED:
            raise RuntimeError("Inference tensors do not track version counter.")
        return 0 if counter is None else counter.value

    def is_inference(self) -> bool:
        """Whether this tensor was made in inference mode; see `inference_mode`."""
        if state.trace is not None:
            state.trace.give_up("is_inference(), which tells how a tensor was made")
        return plainest(self)._counter is UNTRACKED

    def _is_view(self) -> bool:
        """Whether this tensor shares the storage of another, with a history."""
        return self._base is not None

    def _version_counter(self) -> VersionCounter:
        counter = self._counter
        if counter is None:
            counter = self._counter = VersionCounter()
            if self._grad_fn is not None:
                self._grad_fn.watch(self._data, counter)
        return counter

    def detach(self) -> Tensor:
        """The same storage, cut off from the history."""
        out = new_tensor(self._data.view())
        out._counter = self._version_counter()
        if state.levels:
            out._made_at = self._made_at
        if state.trace is not None and not is_lifted(self):
            state.trace.alias(out, self)
        return out

    @property
    def data(self) -> Tensor:
        """Like `detach`, but changes through it are not counted: autograd will not notice them."""
        out = new_tensor(self._data.view())
        if self._counter is UNTRACKED:
            out._counter = UNTRACKED
        if state.levels:
            out._made_at = self._made_at
        if state.trace is not None:
            state.trace.data_alias(out, self)
        return out

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(value).__name__}")
        if self._requires_grad and value._data.dtype.kind != "f":
            raise RuntimeError(
                "data set to a tensor that requires gradients must be floating point or complex dtype"
            )
        if state.trace is not None:
            state.trace.give_up("assignment to Tensor.data")
        self._data = value._data
        self._plain = None

    @data.deleter
    def data(self) -> None:
        raise RuntimeError("Deleting tensor data is not allowed. Delete tensor instead!")

    def is_set_to(self, other: Tensor) -> bool:
        a, b = self._data, other._data
        return a.__array_interface__ == b.__array_interface__

    # Ways out to Python. Under a trace each of them is something the compiled function depends on.

    def _escapes(self, what: str) -> None:
        if state.trace is not None:
            state.trace.escape(self, what)

    def item(self) -> Any:
        """The value of a tensor with one element as a Python number.

        Raises:
            RuntimeError: it has another number of elements.
        """
        if self._data.size != 1:
            raise RuntimeError(
                f"a Tensor with {self._data.size} elements cannot be converted to Scalar"
            )
        value = self._data.item()
        if state.trace is not None and not is_lifted(self):
            state.trace.read_value(self, value)
        return value

    def __bool__(self) -> bool:
        if self._data.size != 1:
            if self._data.size == 0:
                raise RuntimeError("Boolean value of Tensor with no values is ambiguous")
            raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")
        if is_lifted(self):
            return self._data.truth()  # type: ignore[attr-defined]
        value = bool(self._data.item())
        if state.trace is not None:
            state.trace.read_branch(self, value)
        return value

    def _only_element(self) -> Any:
        if self._data.size != 1:
            raise ValueError("only one element tensors can be converted to Python scalars")
        return self.item()

    def __float__(self) -> float:
        return float(self._only_element())

    def __int__(self) -> int:
        return int(self._only_element())

    def __index__(self) -> int:
        if self._data.size != 1 or self._data.dtype.kind not in "iub":
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self._only_element())

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        self._escapes("tolist()")
        return self._data.tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The array that shares this tensor's storage. No copy.

        Raises:
            RuntimeError: the tensor requires grad (and not `force`).
        """
        if state.grad and self.requires_grad and not force:
            raise RuntimeError(
                "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
            )
        if is_lifted(self):
            raise RuntimeError("Cannot access data pointer of Tensor that doesn't have storage")
        self._escapes("numpy()")
        return self._data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError("a conversion to another dtype needs a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self._requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        self._escapes("__dlpack__()")
        return self._data.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self._data.__dlpack_device__()

    def __len__(self) -> int:
        if self._data.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self._data.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if self._data.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind())

    def __contains__(self, element: Any) -> bool:
        return bool((self == element).any())

    # By identity, which __eq__ is not. Gradients are gathered in dictionaries, so this is hot.
    __hash__ = object.__hash__

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        self._escapes("print")
        if is_lifted(self):
            return self._repr_at_level()
        node = self._grad_fn
        text = formatting.format_tensor(
            self._data,
            requires_grad=self._requires_grad,
            grad_fn_name=None if node is None else node.name(),
            default_float=default_float().np,
        )
        tangents = [t.value for t in (self._tangents or {}).values() if t.value is not None]
        return f"{text[:-1]}, tangent={tangents[-1]!r})" if tangents else text

    def _repr_at_level(self) -> str:
        """What a tensor looks like inside of a transform: torch's names for it."""
        data: Any = self._data
        levels = list(state.levels)
        number = levels.index(data.level) + 1 if data.level in levels else -1
        what = "BatchedTensor" if data.batched else "GradTrackingTensor"
        where = f"lvl={number}, bdim=0" if data.batched else f"lvl={number}"
        inner = "\n".join(f"    {line}" for line in repr(data.physical).split("\n"))
        return f"{what}({where}, value=\n{inner}\n)"

    def __format__(self, spec: str) -> str:
        if self._data.ndim == 0 and type(self) is Tensor:
            return self.item().__format__(spec)
        return object.__format__(self, spec)

    def _attributes(self) -> dict[str, Any]:
        """The user's own attributes."""
        internal = ("_hooks", "_accumulator_ref", "_tangents", "_moved", "_detached")
        return {name: value for name, value in self.__dict__.items() if name not in internal}

    def __reduce_ex__(self, protocol: Any) -> Any:
        self._escapes("pickling")
        return _rebuild, (type(self), self._data, self._requires_grad, self._attributes())

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) in memo:
            return memo[id(self)]
        if self._grad_fn is not None:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy "
                "protocol at the moment.  If you were attempting to deepcopy a module, this may be because of a "
                "torch.nn.utils.weight_norm usage, see https://github.com/pytorch/pytorch/pull/103001"
            )
        self._escapes("deepcopy")
        out = _rebuild(type(self), self._data.copy(), self._requires_grad, self._attributes())
        if self._grad is not None:
            out._grad = self._grad.__deepcopy__(memo)
        memo[id(self)] = out
        return out


def is_lifted(x: Tensor) -> bool:
    """Whether `x` belongs to a transform level rather than holding an array."""
    return x._data.__class__ is Lifted


def plainest(x: Tensor) -> Tensor:
    """The tensor without levels at the bottom of `x`: under ``vmap`` that of all examples."""
    data: Any = x._data
    while data.__class__ is Lifted:
        x = data.physical
        data = x._data
    return x


_new = object.__new__


def new_tensor(data: np.ndarray, cls: type[Tensor] | None = None) -> Tensor:
    """A Tensor around the result of an operation. Hot: does nothing else."""
    t = _new(cls or Tensor)
    t._data = data
    t._requires_grad = False
    t._output_nr = 0
    t._grad_fn = t._grad = t._base = t._view = t._counter = t._plain = None
    return t


def make_tensor(data: np.ndarray, source: Any, cls: type[Tensor] = Tensor) -> Tensor:
    """A leaf around data that no operation made.

    Args:
        data: the array; its memory becomes the storage.
        source: what it was made from, which decides what a trace makes of it: None or Python numbers
            (possibly nested) are a constant, an array is not.
    """
    return _created(new_tensor(data, cls), source)


def _created(t: Tensor, source: Any) -> Tensor:
    if state.watched:
        if state.trace is not None:
            state.trace.created(t, source)
        mark_made(t)
    return t


def refuse_inside_transforms(method: str, instead_of: str = "") -> None:
    """Raise torch's error if a function is being transformed, where gradients are not asked for in this way."""
    if any(not level.by_user for level in state.levels):
        raise RuntimeError(
            f"You are attempting to call Tensor.{method}(){instead_of} inside of a function being transformed by a "
            "functorch transform. This is unsupported, please attempt to use the functorch transforms (e.g. grad, vjp, "
            f"jacrev, jacfwd, hessian) or call {method}() outside of a function being transformed instead."
        )


def mark_made(t: Tensor) -> Tensor:
    """Note the modes in which a new tensor is made: inference mode, transforms. Returns `t`."""
    if state.inference is not None:
        t._counter = UNTRACKED
    if state.levels:
        t._made_at = state.levels[-1].number
    return t


def version_of(x: Tensor) -> int:
    """``x._version``; of inference tensors, whose changes are not counted, always the same."""
    counter = x._counter
    return 0 if counter is None else counter.value


def version_saved(x: Any) -> int:
    """The version at which a record saves `x`; 0 for what is no Tensor.

    Raises:
        RuntimeError: it is an inference tensor.
    """
    counter = getattr(x, "_counter", None)
    if counter is UNTRACKED:
        raise RuntimeError(INFERENCE_SAVED)
    return 0 if counter is None else counter.value


def _rebuild(
    cls: type[Tensor], data: np.ndarray, requires_grad: bool, attributes: dict[str, Any]
) -> Tensor:
    out = make_tensor(data, data, cls)
    out._requires_grad = requires_grad
    out.__dict__.update(attributes)
    return out


def set_grad(leaf: Tensor, value: Tensor | None) -> None:
    """Replace the gradient of a leaf; a trace takes note."""
    if state.trace is not None:
        state.trace.write_grad(leaf, value)
    leaf._grad = value


def _rebuild_output(array: np.ndarray, node: Node) -> Tensor:
    out = new_tensor(array)
    out._grad_fn = node
    out._requires_grad = True
    # Without it, forward mode over reverse mode would take the saved value for a constant.
    out._tangents = getattr(node, "out_tangents", None)
    if state.trace is not None and not is_lifted(out):
        state.trace.recall(out, node)
    return out


late_bound["rebuild_output"] = _rebuild_output

_default_float: DType = from_numpy_dtype(np.dtype(np.float32))


def default_float() -> DType:
    """The element type of new floating point tensors."""
    return _default_float


def set_default_float(dtype: DType) -> None:
    """See `default_float`."""
    global _default_float
    if not dtype.is_floating:
        raise TypeError("only floating-point types are supported as the default type")
    _default_float = dtype
