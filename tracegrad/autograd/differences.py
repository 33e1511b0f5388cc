"""Derivatives checked against differences: ``gradcheck`` and ``gradgradcheck``, with torch's arguments and errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.autograd.backward import grad
from tracegrad.grad_mode import enable_grad, no_grad
from tracegrad.ir.types import float64
from tracegrad.ops.creation import tensor, zeros_like
from tracegrad.tensor import Tensor, new_tensor


class GradcheckError(RuntimeError):
    """The derivative is not that of the values."""


def _outputs_of(func: Callable[..., Any], inputs: Sequence[Any]) -> list[Tensor]:
    """The floating outputs of a function."""
    returned = func(*inputs)
    found = [
        x
        for x in (returned if isinstance(returned, (tuple, list)) else (returned,))
        if isinstance(x, Tensor) and x.is_floating_point()
    ]
    if not found:
        raise ValueError("Expected at least one of the outputs to require gradient")
    return found


def _numerical(
    func: Callable[..., Any], inputs: Sequence[Any], x: Tensor, eps: float
) -> list[np.ndarray]:
    """Per output the Jacobian with respect to `x`, (x.numel(), output.numel()), by central differences."""
    rows: list[list[np.ndarray]] = []
    values = x._data
    with no_grad():
        for position in np.ndindex(values.shape):
            before = values[position].copy()
            sides = []
            for step in (eps, -eps):
                values[position] = before + step
                sides.append(
                    [out._data.astype(np.float64).ravel() for out in _outputs_of(func, inputs)]
                )
            values[position] = before
            rows.append([(high - low) / (2 * eps) for high, low in zip(*sides, strict=True)])
        counts = [out.numel() for out in _outputs_of(func, inputs)]
    return [
        np.array([row[k] for row in rows]).reshape(values.size, n) for k, n in enumerate(counts)
    ]


def _analytical(out: Tensor, x: Tensor) -> np.ndarray:
    """The same by one backward sweep per element of the output."""
    result = np.zeros((x.numel(), out.numel()))
    for k in range(out.numel()):
        seed = np.zeros(out.numel(), out._data.dtype)
        seed[k] = 1
        ct = new_tensor(seed.reshape(out._data.shape))
        (found,) = grad(out, x, ct, retain_graph=True, allow_unused=True)
        if found is not None:
            result[:, k] = found._data.ravel()
    return result


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    **ignored: Any,
) -> bool:
    """Compare the gradients of `func` with central differences, as ``torch.autograd.gradcheck``.

    Args:
        func: takes the inputs and returns a Tensor or several; it must give the same for the same inputs.
        inputs: a Tensor or a sequence; those that require grad are checked, and should be float64.
        eps: the step of the differences.
        atol, rtol: how far the derivatives may be apart.
        raise_exception: raise an error rather than return False.

    Raises:
        GradcheckError: they are further apart.
        ValueError: nothing requires grad.
    """
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    checked = [(k, x) for k, x in enumerate(args) if isinstance(x, Tensor) and x.requires_grad]
    if not checked:
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of the them have "
            "requires_grad=True."
        )
    with enable_grad():
        outputs = _outputs_of(func, args)
    for number, x in checked:
        for k, numerical in enumerate(_numerical(func, args, x, eps)):
            out = outputs[k]
            analytical = _analytical(out, x) if out.requires_grad else np.zeros_like(numerical)
            if not np.allclose(analytical, numerical, rtol, atol):
                if not raise_exception:
                    return False
                raise GradcheckError(
                    f"Jacobian mismatch for output {k} with respect to input {number},\n"
                    f"numerical:{tensor(numerical)}\nanalytical:{tensor(analytical)}\n"
                )
    return True


def gradgradcheck(
    func: Callable[..., Any], inputs: Any, grad_outputs: Any = None, **options: Any
) -> bool:
    """Compare second derivatives with differences of first ones, as ``torch.autograd.gradgradcheck``.

    Args:
        func, inputs: as for `gradcheck`.
        grad_outputs: cotangents of the outputs; by default fixed random ones.
        options: those of `gradcheck`.

    Raises:
        GradcheckError, ValueError: as `gradcheck`.
    """
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    with enable_grad():
        outputs = _outputs_of(func, args)
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        cts = [
            tensor(rng.normal(size=out._data.shape), dtype=float64).to(out.dtype) for out in outputs
        ]
    else:
        cts = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)
    cts = [ct.detach().requires_grad_() for ct in cts]
    count = len(args)

    def first(*values: Any) -> tuple[Tensor, ...]:
        xs = values[:count]
        with enable_grad():
            wanted = [x for x in xs if isinstance(x, Tensor) and x.requires_grad]
            found = grad(
                _outputs_of(func, xs),
                wanted,
                list(values[count:]),
                create_graph=True,
                allow_unused=True,
            )
        return tuple(zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True))

    return gradcheck(first, (*args, *cts), **options)
