"""What ``gradcheck`` checks: derivatives against differences, and rules that every derivative has to keep.

Start with :func:`check`; the Jacobians that are compared come from :mod:`tracegrad.autograd.jacobians`. Fast mode
compares one number per pair of input and output, ``v J u`` for random directions u and v, in place of all of J.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tracegrad.autograd import forward_ad
from tracegrad.autograd.backward import grad
from tracegrad.autograd.function import Function
from tracegrad.autograd.gradcheck import GradcheckError, as_tuple, differentiable
from tracegrad.autograd.jacobians import Matrices, Problem
from tracegrad.func.vectorize import vmap
from tracegrad.ops.creation import tensor, zeros_like
from tracegrad.ops.shaping import stack
from tracegrad.random import Generator, rand, randn
from tracegrad.tensor import Tensor, new_tensor

_NONDETERMINISTIC = (
    "\n\nNOTE: If your op relies on non-deterministic operations this failure might be expected: call "
    "gradcheck/gradgradcheck with `nondet_tol=<tol>` as a keyword argument."
)
_BATCHED = (
    "gradcheck or gradgradcheck failed while testing batched gradient computation.\n"
    "It can be left out with `check_batched_grad=False` as a keyword argument."
)
_BATCHED_FORWARD = (
    "gradcheck failed while testing batched gradient computation with forward-mode AD.\n"
    "It can be left out with `check_batched_forward_grad=False` as a keyword argument."
)
_SLOW_MODE_AGREES = (
    "Fast gradcheck failed but element-wise differences are small. This means that the\n"
    "test might've passed in slow_mode!\n"
    "Call gradcheck/gradgradcheck with `fast_mode=False` as a keyword argument."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What `gradcheck` was asked to check, under shorter names."""

    atol: float
    rtol: float
    nondet_tol: float
    undefined: bool
    dtypes: bool
    batched: bool
    batched_forward: bool
    forward: bool
    backward: bool
    fast: bool
    masked: bool


def check(func: Callable[..., Any], inputs: tuple[Any, ...], eps: float, options: Options) -> None:
    """Run all checks, in torch's order.

    Raises:
        GradcheckError: one of them has failed.
    """
    problem = Problem(func, inputs, eps)
    compare = _compare_projections if options.fast else _compare_jacobians
    if options.backward:
        compare(problem, False, options)
    if options.forward:
        compare(problem, True, options)
        if options.undefined:
            _check_undefined_tangents(problem)
    if options.batched_forward:
        _check_batched_forward(problem)
    if not options.backward:
        return
    if options.batched:
        _check_batched(problem)
    if problem.outputs:
        _check_zero_cotangents(problem, options.masked)
        if options.undefined:
            _check_undefined_cotangents(problem)


def _mismatch(i: int, j: int, numerical: Any, analytical: Any, forward: bool) -> str:
    mode = "computed with forward mode " if forward else ""
    return (
        f"Jacobian {mode}mismatch for output {i} with respect to input {j},\n"
        f"numerical:{tensor(numerical)}\nanalytical:{tensor(analytical)}\n"
    )


def _compare_jacobians(problem: Problem, forward: bool, options: Options) -> None:
    """All of every Jacobian."""
    numerical = problem.numerical()
    if not problem.outputs:
        _check_all_zero(numerical, 0.0)
        return
    analytical = problem.forward() if forward else []
    for i, out in enumerate(problem.outputs):
        column = (
            [per_output[i] for per_output in analytical]
            if forward
            else _twice(functools.partial(problem.reverse, out), problem, options)
        )
        for j, found in enumerate(column):
            if not np.allclose(found, numerical[j][i], options.rtol, options.atol):
                raise GradcheckError(_mismatch(i, j, numerical[j][i], found, forward))


def _compare_projections(problem: Problem, forward: bool, options: Options) -> None:
    """One random projection of every Jacobian; of forward mode, one random combination of its columns."""
    generator = Generator()
    us = [_direction(x, generator) for x in problem.wrt]
    vs = [_direction(out, generator) for out in problem.outputs]
    numerical = problem.numerical_along(us)
    if not problem.outputs:
        _check_all_zero(numerical, options.nondet_tol)
        return
    if forward:
        pushed = problem.forward_along(us)
    for i, (out, v) in enumerate(zip(problem.outputs, vs, strict=True)):
        if not forward:
            pulled = _twice(functools.partial(problem.reverse_along, out, v), problem, options)
        for j, u in enumerate(us):
            expected: Any = numerical[j][i] if forward else v.dot(numerical[j][i])
            found: Any = pushed[j][i] if forward else pulled[j].dot(u)
            # The sum of many small errors may be as large as that of the projected tolerances.
            allowed = options.atol * float(u.sum()) * (1.0 if forward else float(v.sum()))
            if not np.allclose(found, expected, options.rtol, allowed):
                raise GradcheckError(
                    _mismatch(i, j, expected, found, forward)
                    + _explain_in_slow_mode(problem, i, j, forward, options)
                )


def _direction(x: Tensor, generator: Generator) -> np.ndarray:
    """A random vector of length 1 with elements that are not negative."""
    vector = rand(x.numel(), generator=generator)._data.astype(x._data.dtype)
    return np.asarray(vector / np.linalg.norm(vector) if vector.size else vector)


def _explain_in_slow_mode(problem: Problem, i: int, j: int, forward: bool, options: Options) -> str:
    numerical = problem.numerical()[j][i]
    analytical = problem.forward()[j][i] if forward else problem.reverse(problem.outputs[i])[j]
    message = (
        "\nThe above quantities relating the numerical and analytical jacobians are computed \n"
        "in fast mode. See: https://github.com/pytorch/pytorch/issues/53876 for more background \n"
        "about fast mode. Below, we recompute numerical and analytical jacobians in slow mode:\n\n"
        f"Numerical:\n {tensor(numerical)}\nAnalytical:\n{tensor(analytical)}\n\n"
        f"The max per-element difference (slow mode) is: {np.abs(numerical - analytical).max()}.\n"
    )
    return (
        message + _SLOW_MODE_AGREES
        if np.allclose(analytical, numerical, options.rtol, options.atol)
        else message
    )


def _check_all_zero(numerical: Matrices, tolerance: float) -> None:
    for per_output in numerical:
        if any(matrix.size and not np.abs(matrix).max() <= tolerance for matrix in per_output):
            raise GradcheckError("Numerical gradient for function expected to be zero")


def _twice(
    sweep: Callable[[], list[np.ndarray]], problem: Problem, options: Options
) -> list[np.ndarray]:
    """Run a sweep twice and compare the results."""
    first, second = sweep(), sweep()
    if options.dtypes and any(
        a.dtype != x._data.dtype for a, x in zip(first, problem.wrt, strict=True)
    ):
        raise GradcheckError("Gradient has dtype mismatch")
    if any(
        a.size and np.abs(a - b).max() > options.nondet_tol
        for a, b in zip(first, second, strict=True)
    ):
        raise GradcheckError(
            "Backward is not reentrant, i.e., running backward with same input and grad_output multiple times gives "
            "different values, although analytical gradient matches numerical gradient."
            f"The tolerance for nondeterminism was {options.nondet_tol}." + _NONDETERMINISTIC
        )
    return first


def _check_zero_cotangents(problem: Problem, masked: bool) -> None:
    """A gradient of zero gives gradients of zero."""
    zeros = [zeros_like(out) for out in problem.outputs]
    for ct in grad(problem.outputs, problem.wrt, zeros, retain_graph=True, allow_unused=True):
        if ct is not None and not np.allclose(
            ct._data, 0, rtol=0, atol=1e-8 if masked else 0, equal_nan=False
        ):
            raise GradcheckError("backward not multiplied by grad_output")


class _Undefined(Function):
    """The identity, which lets no gradient through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *cts: Any) -> Any:
        return None


def _check_undefined_cotangents(problem: Problem) -> None:
    """Outputs without a gradient: all of them, then each alone."""
    count = len(problem.outputs)
    cases: list[set[int]] = [set(range(count))]
    if count > 1:
        cases += [{k} for k in range(count)]
    for case in cases:
        outputs = [
            _Undefined.apply(out) if k in case else out
            for k, out in enumerate(differentiable(problem.func(*problem.inputs)))
        ]
        zeros = [zeros_like(out) for out in outputs]
        try:
            found = grad(outputs, problem.wrt, zeros, allow_unused=True)
        except RuntimeError as error:
            _warn_of_undefined()
            raise GradcheckError(
                'Expected backward function to handle undefined output grads. Please look at "Notes about undefined '
                'output gradients" in "tools/autograd/derivatives.yaml"'
            ) from error
        if any(ct is not None and not (ct._data == 0).all() for ct in found):
            _warn_of_undefined()
            raise GradcheckError(
                "Expected all input grads to be undefined or zero when all output grads are undefined or zero. Please "
                'look at "Notes about undefined output gradients" in "tools/autograd/derivatives.yaml"'
            )


def _warn_of_undefined() -> None:
    warnings.warn(
        "Backwards compatibility: New undefined gradient support checking feature is enabled by default, but it may "
        "break existing callers of this function. If this is true for you, you can call this function with "
        '"check_undefined_grad=False" to disable the feature',
        stacklevel=4,
    )


def _check_undefined_tangents(problem: Problem) -> None:
    """An input without a tangent is as good as one with tangent zero."""
    generator = Generator()
    directions = {
        k: new_tensor(_direction(x, generator).reshape(x._data.shape))
        for k, x in enumerate(problem.wrt)
    }
    for number, x in enumerate(problem.wrt):
        with_zero = problem.tangents({**directions, number: zeros_like(x.detach())})
        without = problem.tangents(directions, undefined=number)
        for i, ((one, _, _), (other, _, _)) in enumerate(zip(with_zero, without, strict=True)):
            if one is not None and other is not None and not np.allclose(one._data, other._data):
                raise GradcheckError(
                    f"Mismatch in tangent values for output with index: {i} when input: {x} has an undefined tangent "
                    f"value.  Got: {one} but expected: {other}"
                )


def _batch_mismatch(i: int, j: int, note: str, found: Any, expected: Any) -> GradcheckError:
    return GradcheckError(
        f"For output {i} and input {j}:\n\n{note}\n\nGot:\n{found}\n\nExpected:\n{expected}"
    )


def _check_batched(problem: Problem) -> None:
    """A stack of two cotangents gives the stack of what they give alone."""
    generator = Generator()
    for i, out in enumerate(problem.outputs):
        cts = [randn(*out.shape, dtype=out.dtype, generator=generator) for _ in range(2)]
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        alone = [grad(out, problem.wrt, ct, **options) for ct in cts]
        try:
            together = grad(out, problem.wrt, stack(cts), is_grads_batched=True, **options)
        except RuntimeError as error:
            raise GradcheckError(
                f"While computing batched gradients, got: {error}\n\n{_BATCHED}"
            ) from error
        for j, found in enumerate(together):
            expected = stack([gradients[j] for gradients in alone])
            if not np.allclose(found._data, expected._data):
                raise _batch_mismatch(i, j, _BATCHED, found, expected)


def _check_batched_forward(problem: Problem) -> None:
    """The same for stacks of tangents, under ``vmap``."""
    generator = Generator()
    for position, x in enumerate(problem.inputs):
        if not (isinstance(x, Tensor) and x.requires_grad):
            continue

        def push(tangent: Tensor, position: int = position) -> tuple[Tensor, ...]:
            with forward_ad.dual_level():
                args = [a.detach() if isinstance(a, Tensor) else a for a in problem.inputs]
                args[position] = forward_ad.make_dual(args[position], tangent)
                found = [
                    forward_ad.unpack_dual(out)
                    for out in as_tuple(problem.func(*args))
                    if out is not None
                ]
                return tuple(zeros_like(p) if t is None else t for p, t in found)

        tangents = [randn(*x.shape, dtype=x.dtype, generator=generator) for _ in range(2)]
        alone = [push(t) for t in tangents]
        try:
            together = vmap(push)(stack(tangents))
        except RuntimeError as error:
            raise GradcheckError(
                f"While computing batched gradients, got: {error}\n\n{_BATCHED_FORWARD}"
            ) from error
        for i, found in enumerate(together):
            expected = stack([pushed[i] for pushed in alone])
            if not np.allclose(found._data, expected._data):
                raise _batch_mismatch(i, i, _BATCHED_FORWARD, found, expected)
