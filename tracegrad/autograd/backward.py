"""The public ways to start the reverse sweep: ``backward`` and ``grad``, with torch's arguments and errors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.autograd import engine
from tracegrad.autograd.batched import batched_gradients
from tracegrad.grad_mode import state
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, new_tensor

_UNUSED = (
    "One of the differentiated Tensors appears to not have been used in the graph. Set allow_unused=True if this is "
    "the desired behavior."
)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, Tensor) or value is None else tuple(value)


@reported("aten::ones_like")
def _ones_like(output: Tensor) -> Tensor:
    return new_tensor(np.ones(output._data.shape, output._data.dtype))


def _seeds(outputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """The cotangents to start with; ones for scalar outputs."""
    seeds = []
    for output, gradient in zip(outputs, gradients, strict=True):
        if gradient is None:
            if output.requires_grad and output.numel() != 1:
                raise RuntimeError("grad can be implicitly created only for scalar outputs")
            gradient = _ones_like(output)
            if state.trace is not None:
                state.trace.begin_adjoint(output._grad_fn)
                state.trace.created(gradient, 1.0)
                state.trace.begin_adjoint(None)
        elif not isinstance(gradient, Tensor):
            raise TypeError(
                f"gradients can be either Tensors or None, but got {type(gradient).__name__}"
            )
        elif gradient.shape != output.shape:
            raise RuntimeError(
                f"Mismatch in shape: grad_output[0] has a shape of {gradient.shape} and output[0] has "
                f"a shape of {output.shape}."
            )
        elif gradient._data.dtype != output._data.dtype:
            gradient = gradient.to(output.dtype)
        seeds.append(gradient)
    return seeds


def _check_outputs(outputs: Sequence[Tensor]) -> None:
    for position, output in enumerate(outputs):
        if not output.requires_grad:
            raise RuntimeError(
                f"element {position} of tensors does not require grad and does not have a grad_fn"
            )


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: Any = None,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Accumulate into the leaves' ``grad`` the gradient of the given tensors, as ``torch.autograd.backward``.

    Args:
        tensors: what to differentiate.
        grad_tensors: their cotangents; may be left out for scalars.
        retain_graph: keep the graph for another backward; defaults to `create_graph`.
        create_graph: make the gradients differentiable themselves.
        inputs: accumulate only into these.

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
    if any(level.tapes for level in state.levels):
        raise RuntimeError(
            "backward() called inside a functorch transform. This is not supported, please use functorch.grad or "
            "functorch.vjp instead or call backward() outside of functorch transforms."
        )
    chosen = None if inputs is None else _as_tuple(inputs)
    if chosen is not None and not chosen:
        raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
    outputs = _as_tuple(tensors)
    gradients = (None,) * len(outputs) if grad_tensors is None else _as_tuple(grad_tensors)
    seeds = _seeds(outputs, gradients)
    _check_outputs(outputs)
    engine.run(
        outputs,
        seeds,
        retain_graph=create_graph if retain_graph is None else retain_graph,
        create_graph=create_graph,
        inputs=chosen,
    )


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """The gradients of `outputs` with respect to `inputs`, as ``torch.autograd.grad``. Fills no ``grad``.

    Returns:
        One Tensor per input; None for unused ones where `allow_unused`, zeros where `materialize_grads`.

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
    wrt = _as_tuple(inputs)
    if is_grads_batched:
        return _batched_grad(
            results, wrt, grad_outputs, create_graph, allow_unused, materialize_grads
        )
    gradients = (None,) * len(results) if grad_outputs is None else _as_tuple(grad_outputs)
    seeds = _seeds(results, gradients)
    _check_outputs(results)
    if not (allow_unused or materialize_grads) and not all(t.requires_grad for t in wrt):
        raise RuntimeError("One of the differentiated Tensors does not require grad")
    found = engine.run(
        results,
        seeds,
        retain_graph=create_graph if retain_graph is None else retain_graph,
        create_graph=create_graph,
        inputs=wrt,
        accumulate=False,
    )
    for position, (tensor, gradient) in enumerate(zip(wrt, found, strict=True)):
        if gradient is None:
            if materialize_grads:
                zero = new_tensor(np.zeros_like(tensor._data))
                if state.trace is not None:
                    state.trace.created(zero, 0.0)
                found[position] = zero
            elif not allow_unused:
                raise RuntimeError(_UNUSED + f"\nIt is the one at index {position}.")
    return tuple(found)


def _batched_grad(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    grad_outputs: Any,
    create_graph: bool,
    allow_unused: bool | None,
    materialize_grads: bool,
) -> tuple[Any, ...]:
    """One sweep for a stack of cotangents."""
    batches = _as_tuple(grad_outputs)
    _check_outputs(outputs)
    pairs = [(out, ct) for out, ct in zip(outputs, batches, strict=True) if ct is not None]
    found = batched_gradients(
        [out for out, _ in pairs],
        inputs,
        [ct for _, ct in pairs],
        retain_graph=True,
        create_graph=create_graph,
    )
    size = pairs[0][1].shape[0]
    for position, (tensor, gradient) in enumerate(zip(inputs, found, strict=True)):
        if gradient is None:
            if materialize_grads:
                found[position] = tensor.new_zeros((size, *tensor.shape))
            elif not allow_unused:
                raise RuntimeError(_UNUSED + f"\nIt is the one at index {position}.")
    return tuple(found)
