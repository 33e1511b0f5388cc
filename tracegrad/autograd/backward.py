"""The public ways to start the reverse sweep: ``backward`` and ``grad``, with torch's arguments and errors."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

import numpy as np

from tracegrad.autograd import engine
from tracegrad.autograd.batched import batched_gradients
from tracegrad.grad_mode import state
from tracegrad.ir.types import from_numpy_dtype
from tracegrad.node import GradientEdge, Node
from tracegrad.reporting import reported
from tracegrad.size import Size
from tracegrad.tensor import Tensor, make_tensor, new_tensor

_UNUSED = (
    "The differentiated Tensor at index {} appears to not have been used in the graph. Set allow_unused=True if this "
    "is the desired behavior."
)
_CYCLE = (
    "Using backward() with create_graph=True will create a reference cycle between the parameter and its gradient "
    "which can cause a memory leak. We recommend using autograd.grad when creating the graph to avoid this. If you "
    "have to use this function, make sure to reset the .grad fields of your parameters to None after use to break "
    "the cycle and avoid the leak."
)
_warned = threading.Event()
"""Set when `_CYCLE` was said, which is said once."""


Root = Tensor | GradientEdge
"""What can be differentiated, and what with respect to."""


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, (Tensor, GradientEdge)) else tuple(value)


def _as_gradients(value: Any, count: int) -> tuple[Any, ...]:
    """The cotangents of `count` outputs; None for all where none were given."""
    return (None,) * count if value is None else _as_tuple(value)


def _as_flags(retain_graph: Any, create_graph: Any) -> tuple[bool, bool]:
    """Both options as bools. Raises TypeError for what is not even a number, as torch does."""
    create = bool(index(create_graph))
    return (create if retain_graph is None else bool(index(retain_graph))), create


def _as_inputs(inputs: Any, function: str) -> tuple[Any, ...]:
    """The inputs as a tuple. Raises what torch raises for those that are none."""
    if type(inputs) is dict:
        chosen = tuple(inputs.values())
    elif isinstance(inputs, Mapping):
        raise TypeError(
            f"`inputs` argument to `{function}()` must be a dict, not {type(inputs).__name__}. Other Mapping types "
            "are not supported."
        )
    else:
        chosen = _as_tuple(inputs)
    if not chosen:
        raise RuntimeError(f"`inputs` argument to `{function}()` cannot be empty.")
    for x in chosen:
        if not isinstance(x, (Tensor, GradientEdge)):
            raise RuntimeError(
                f"all inputs have to be Tensors or GradientEdges, but got {type(x).__name__}"
            )
    return chosen


def _type_of(root: Root) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the gradient with respect to a tensor, or at an edge."""
    if isinstance(root, Tensor):
        return root._data.shape, root._data.dtype
    known = root.node._input_metadata[root.output_nr]
    if known is None:
        raise RuntimeError(
            "The shape of the gradient at this edge is not known.\nMake it with "
            "`tracegrad.autograd.graph.get_gradient_edge(tensor)`."
        )
    return tuple(known.shape), known.dtype.np


@reported("aten::ones_like")
def _ones(shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
    return new_tensor(np.ones(shape, dtype))


def _seeds(outputs: Sequence[Root], gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """The cotangents to start with; ones for scalar outputs."""
    seeds = []
    for position, (output, gradient) in enumerate(zip(outputs, gradients, strict=False)):
        if not isinstance(output, (Tensor, GradientEdge)):
            raise AssertionError("Expected output to be a torch.Tensor")
        if gradient is None:
            shape, dtype = _type_of(output)
            if math.prod(shape) != 1 and (not isinstance(output, Tensor) or output.requires_grad):
                raise RuntimeError("grad can be implicitly created only for scalar outputs")
            gradient = _ones(shape, dtype)
            if state.trace is not None:
                edge, _ = engine.root_of(output)
                state.trace.begin_adjoint(edge if isinstance(edge, Node) else None)
                state.trace.created(gradient, 1.0)
                state.trace.begin_adjoint(None)
        elif not isinstance(gradient, Tensor):
            raise TypeError(
                f"gradients can be either Tensors or None, but got {type(gradient).__name__}"
            )
        else:
            shape, dtype = _type_of(output)
            if gradient._data.shape != shape:
                raise RuntimeError(
                    f"Mismatch in shape: grad_output[{position}] has a shape of {gradient.shape} and "
                    f"output[{position}] has a shape of {Size(shape)}."
                )
            if gradient._data.dtype != dtype:
                gradient = gradient.to(from_numpy_dtype(dtype))
        seeds.append(gradient)
    return seeds


def _check_outputs(outputs: Sequence[Root], gradients: Sequence[Any]) -> None:
    if len(gradients) < len(outputs):
        raise RuntimeError(f"got {len(outputs)} tensors and {len(gradients)} gradients")
    for position, output in enumerate(outputs):
        if isinstance(output, Tensor) and not output._requires_grad and output.grad_fn is None:
            raise RuntimeError(
                f"element {position} of tensors does not require grad and does not have a grad_fn"
            )


def backward(
    tensors: Root | Sequence[Root],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: Any = None,
    inputs: Root | Sequence[Root] | dict[str, Tensor] | None = None,
) -> None:
    """Accumulate into the leaves' ``grad`` the gradient of the given tensors, as ``torch.autograd.backward``.

    Args:
        tensors: what to differentiate: tensors, or gradient edges.
        grad_tensors: their cotangents; may be left out for scalars.
        retain_graph: keep the graph for another backward; defaults to `create_graph`.
        create_graph: make the gradients differentiable themselves.
        inputs: accumulate only into these: tensors (leaves or not), gradient edges, or a dict of tensors.

    Raises:
        RuntimeError: a tensor does not require grad, is not a scalar and has no cotangent, the graph was
            already freed, or a saved value was changed in place.
    """
    if grad_variables is not None:
        if grad_tensors is not None:
            raise RuntimeError(
                "`grad_tensors` and `grad_variables` (deprecated) arguments both passed to backward(). "
                "Please only use `grad_tensors`."
            )
        warnings.warn(
            "`grad_variables` is deprecated. Use `grad_tensors` instead.",
            FutureWarning,
            stacklevel=2,
        )
        grad_tensors = grad_variables
    if any(not level.by_user for level in state.levels):
        raise RuntimeError(
            "backward() called inside a functorch transform. This is not supported, please use functorch.grad or "
            "functorch.vjp instead or call backward() outside of functorch transforms."
        )
    chosen = None if inputs is None else _as_inputs(inputs, "backward")
    outputs = _as_tuple(tensors)
    seeds = _seeds(outputs, _as_gradients(grad_tensors, len(outputs)))
    retain, create = _as_flags(retain_graph, create_graph)
    _check_outputs(outputs, seeds)
    if create and not _warned.is_set():
        _warned.set()
        warnings.warn(_CYCLE, UserWarning, stacklevel=2)
    engine.run(outputs, seeds, retain_graph=retain, create_graph=create, inputs=chosen)


def grad(
    outputs: Root | Sequence[Root],
    inputs: Root | Sequence[Root] | dict[str, Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> Any:
    """The gradients of `outputs` with respect to `inputs`, as ``torch.autograd.grad``. Fills no ``grad``.

    Returns:
        One Tensor per input; None for unused ones where `allow_unused`, zeros where `materialize_grads`. A dict if
        `inputs` is one.

    Raises:
        RuntimeError: as `backward`; or an input is not part of the graph.
    """
    if not only_inputs:
        warnings.warn(
            "only_inputs argument is deprecated and is ignored now (defaults to True). To accumulate "
            "gradient for other parts of the graph, please use torch.autograd.backward.",
            FutureWarning,
            stacklevel=2,
        )
    if materialize_grads and allow_unused is False:
        raise ValueError(
            "Expected allow_unused to be True or not passed when materialize_grads=True, but got: "
            "allow_unused=False."
        )
    results = _as_tuple(outputs)
    wrt = _as_inputs(inputs, "grad")
    if is_grads_batched:
        gradients = _batched_grad(
            results, wrt, grad_outputs, retain_graph, create_graph, allow_unused, materialize_grads
        )
    else:
        gradients = _grad(
            results, wrt, grad_outputs, retain_graph, create_graph, allow_unused, materialize_grads
        )
    return dict(zip(inputs, gradients, strict=True)) if isinstance(inputs, dict) else gradients


def _grad(
    results: Sequence[Root],
    wrt: Sequence[Root],
    grad_outputs: Any,
    retain_graph: bool | None,
    create_graph: bool,
    allow_unused: bool | None,
    materialize_grads: bool,
) -> tuple[Any, ...]:
    seeds = _seeds(results, _as_gradients(grad_outputs, len(results)))
    retain, create = _as_flags(retain_graph, create_graph)
    unused_allowed, zeros_wanted = _as_choices(allow_unused, materialize_grads)
    _check_outputs(results, seeds)
    if not all(isinstance(t, GradientEdge) or t.requires_grad for t in wrt):
        raise RuntimeError("One of the differentiated Tensors does not require grad")
    found = engine.run(
        results,
        seeds,
        retain_graph=retain,
        create_graph=create,
        inputs=wrt,
        accumulate=False,
    )
    for position, (tensor, gradient) in enumerate(zip(wrt, found, strict=True)):
        if gradient is None:
            if zeros_wanted:
                found[position] = make_tensor(np.zeros(*_type_of(tensor)), 0.0)
            elif not unused_allowed:
                raise RuntimeError(_UNUSED.format(position))
    return tuple(found)


def _as_choices(allow_unused: Any, materialize_grads: Any) -> tuple[bool, bool]:
    """Whether unused inputs are allowed, and whether they get zeros. Raises TypeError, as `_as_flags`."""
    allowed = materialize_grads if allow_unused is None else allow_unused
    return bool(index(allowed)), bool(materialize_grads)


def _batched_grad(
    outputs: Sequence[Root],
    inputs: Sequence[Root],
    grad_outputs: Any,
    retain_graph: bool | None,
    create_graph: bool,
    allow_unused: bool | None,
    materialize_grads: bool,
) -> tuple[Any, ...]:
    """One sweep for a stack of cotangents."""
    batches = _as_gradients(grad_outputs, len(outputs))
    stacks = []
    for position, (output, batch) in enumerate(zip(outputs, batches, strict=False)):
        if isinstance(batch, Tensor):
            shape, dtype = _type_of(output)
            if batch[0].shape != shape:
                raise RuntimeError(
                    "If `is_grads_batched=True`, we interpret the first dimension of each grad_output as the batch "
                    "dimension. The sizes of the remaining dimensions are expected to match the shape of corresponding "
                    f"output, but a mismatch was detected: grad_output[{position}] has a shape of {batch.shape} and "
                    f"output[{position}] has a shape of {Size(shape)}. If you only want some tensors in `grad_output` "
                    "to be considered batched, consider using vmap."
                )
            stacks.append(batch.to(from_numpy_dtype(dtype)))
        else:
            _seeds((output,), (batch,))  # Raises an error for what cannot be a gradient at all.
            raise ValueError(
                "vmap(vjp, in_dims=0, ...)(<inputs>): Got in_dim=0 for some input, but that input is a Tensor of "
                "dimensionality 0 so expected in_dim to satisfy 0 <= in_dim < 0."
            )
    _check_outputs(outputs, stacks)
    sizes = [stack.shape[0] for stack in stacks]
    if len(set(sizes)) > 1:
        raise ValueError(
            "vmap: Expected all tensors to have the same size in the mapped dimension, got sizes "
            f"{sizes} for the mapped dimension"
        )
    retain, create = _as_flags(retain_graph, create_graph)
    unused_allowed, zeros_wanted = _as_choices(allow_unused, materialize_grads)
    found = batched_gradients(outputs, inputs, stacks, retain_graph=retain, create_graph=create)
    for position, (tensor, gradient) in enumerate(zip(inputs, found, strict=True)):
        if gradient is None:
            if zeros_wanted:
                found[position] = make_tensor(np.zeros(*_type_of(tensor)), 0.0)
            elif not unused_allowed:
                raise RuntimeError(_UNUSED.format(position))
    return tuple(found)
