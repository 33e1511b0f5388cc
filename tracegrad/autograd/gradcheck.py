"""Derivatives checked against differences: ``gradcheck`` and ``gradgradcheck``, with torch's arguments and errors.

This is the public part. The checks themselves are in :mod:`tracegrad.autograd.derivative_checks`.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.autograd.backward import grad
from tracegrad.grad_mode import state
from tracegrad.random import Generator, rand
from tracegrad.tensor import Tensor, new_tensor


class GradcheckError(RuntimeError):
    """The derivative is not that of the values."""


def as_tuple(value: Any) -> tuple[Any, ...]:
    """What a function takes or returns, as a tuple."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def differentiable(returned: Any) -> tuple[Tensor, ...]:
    """Those outputs of a function that require grad."""
    return tuple(out for out in as_tuple(returned) if out.requires_grad)


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Compare the derivatives of `func` with central differences, as ``torch.autograd.gradcheck``.

    Args:
        func: takes the inputs and returns a Tensor or several; it must give the same for the same inputs.
        inputs: a Tensor or a sequence; those that require grad are checked, and should be float64.
        eps: the step of the differences.
        atol, rtol: how far the derivatives may be apart.
        raise_exception: raise an error rather than return False.
        nondet_tol: how far two backward sweeps may be apart.
        check_undefined_grad: whether outputs without a gradient must be as good as ones with gradient zero.
        check_grad_dtypes: whether gradients must have the dtypes of the inputs.
        check_batched_grad: compare a sweep with a stack of cotangents with single sweeps.
        check_batched_forward_grad: the same for forward mode, under ``vmap``.
        check_forward_ad, check_backward_ad: which modes to check.
        fast_mode: compare one random projection of each Jacobian, which takes one sweep.
        masked: accept gradients that are only close to zero where a gradient of zero flows in.

    Raises:
        GradcheckError: something is not as it should be.
        ValueError: nothing requires grad.
        RuntimeError: elements of an input that requires grad share memory.
        AssertionError: options contradict each other, or outputs change their shape.
    """
    for wanted, message in (
        (
            check_forward_ad or check_backward_ad,
            "Expected at least one of check_forward_ad or check_backward_ad to be True",
        ),
        (
            check_backward_ad or not check_batched_grad,
            "Setting check_batched_grad=True requires check_backward_ad to be True",
        ),
        (
            check_forward_ad or not check_batched_forward_grad,
            "Setting check_batched_forward_grad=True requires check_forward_ad to be True",
        ),
    ):
        if not wanted:
            raise AssertionError(message)
    if state.trace is not None:
        state.trace.give_up("gradcheck changes its inputs, and looks at all values")
    args = as_tuple(inputs)
    try:
        _check_inputs(args)
        # Not needed by most programs, and not imported with the package.
        checks = importlib.import_module("tracegrad.autograd.derivative_checks")
        options = checks.Options(
            atol,
            rtol,
            nondet_tol,
            undefined=check_undefined_grad,
            dtypes=check_grad_dtypes,
            batched=check_batched_grad,
            batched_forward=check_batched_forward_grad,
            forward=check_forward_ad,
            backward=check_backward_ad,
            fast=fast_mode,
            masked=bool(masked),
        )
        checks.check(func, args, eps, options)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def _check_inputs(inputs: Sequence[Any]) -> None:
    found = False
    for number, x in enumerate(inputs):
        if not isinstance(x, Tensor) or not x.requires_grad:
            continue
        found = True
        if x._data.dtype != np.float64:
            warnings.warn(
                f"Input #{number} requires gradient and is not a double precision floating point or complex. "
                "This check will likely fail if all the inputs are not of double precision floating point or complex. ",
                stacklevel=3,
            )
        steps = zip(x.stride(), x.shape, strict=True)
        if x.numel() and any(step == 0 and size > 1 for step, size in steps):
            raise RuntimeError(
                f"The {number}th input has a dimension with stride 0. gradcheck only supports inputs that are "
                "non-overlapping to be able to compute the numerical gradients correctly. You should call "
                ".contiguous on the input before passing it to gradcheck."
            )
    if not found:
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of them have "
            "requires_grad=True."
        )


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """Compare second derivatives with differences of first ones, as ``torch.autograd.gradgradcheck``.

    Args:
        func, inputs: as for `gradcheck`, and so are all options that are not named here.
        grad_outputs: cotangents of the outputs; by default random ones.
        gen_non_contig_grad_outputs: make those random ones not contiguous.
        check_fwd_over_rev, check_rev_over_rev: which modes to check on top of reverse mode.

    Raises:
        GradcheckError, ValueError, RuntimeError, AssertionError: as `gradcheck`.
    """
    for wanted, message in (
        (
            check_fwd_over_rev or check_rev_over_rev,
            "Expected at least one of check_fwd_over_rev or check_rev_over_rev to be True",
        ),
        (
            check_rev_over_rev or not check_undefined_grad,
            "Setting check_undefined_grad=True requires check_rev_over_rev to be True",
        ),
        (
            check_rev_over_rev or not check_batched_grad,
            "Setting check_batched_grad=True requires check_rev_over_rev to be True",
        ),
    ):
        if not wanted:
            raise AssertionError(message)
    args = as_tuple(inputs)
    if grad_outputs is None:
        generator = Generator()
        cts = tuple(
            _random_cotangent(out, generator, gen_non_contig_grad_outputs)
            for out in differentiable(func(*args))
        )
    else:
        cts = as_tuple(grad_outputs)
    # Forward mode passes values without requires_grad.
    wanted_inputs = {k for k, x in enumerate(args) if isinstance(x, Tensor) and x.requires_grad}
    wanted_cts = {k for k, ct in enumerate(cts) if ct.requires_grad}

    def first(*values: Any) -> tuple[Tensor, ...]:
        xs, seeds = values[: len(args)], values[len(args) :]
        xs = tuple(x.requires_grad_() if k in wanted_inputs else x for k, x in enumerate(xs))
        outputs = differentiable(func(*xs))
        seeds = tuple(ct.requires_grad_() if k in wanted_cts else ct for k, ct in enumerate(seeds))
        wrt = tuple(x for k, x in enumerate(xs) if k in wanted_inputs)
        found = grad(outputs, wrt, seeds, create_graph=True, allow_unused=True)
        return tuple(ct for ct in found if ct is not None)

    return gradcheck(
        first,
        args + cts,
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        check_undefined_grad=check_undefined_grad,
        check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad,
        fast_mode=fast_mode,
        check_forward_ad=check_fwd_over_rev,
        check_backward_ad=check_rev_over_rev,
        masked=masked,
    )


def _random_cotangent(out: Tensor, generator: Generator, gaps: bool) -> Tensor:
    """Uniform in [-1, 1), requiring grad; with gaps in memory between the elements if so asked."""
    values = 2 * rand(*out.shape, dtype=out.dtype, generator=generator)._data - 1
    if gaps and values.ndim:
        values = np.repeat(values, 2, axis=-1)[..., ::2]
    return new_tensor(np.asarray(values)).requires_grad_()
