"""Jacobians three ways: by differences, by reverse mode, by forward mode. What `gradcheck` compares.

A :class:`Problem` is a function at a point. All its methods speak of the inputs that require grad and the outputs
that do, numbered among themselves, and give one matrix (or one product with a direction) per such pair, indexed
``[input][output]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracegrad.autograd import forward_ad
from tracegrad.autograd.backward import grad
from tracegrad.autograd.gradcheck import as_tuple, differentiable
from tracegrad.tensor import Tensor, new_tensor

Matrices = list[list[np.ndarray]]


class Problem:
    """A function at a point.

    Args:
        func: takes `inputs`, returns Tensors.
        inputs: the point. The memory of those that require grad is written to, and restored, to take differences.
        eps: the step of the differences.

    Attributes:
        wrt: the inputs that require grad.
        outputs: the outputs that require grad.
    """

    def __init__(self, func: Callable[..., Any], inputs: tuple[Any, ...], eps: float) -> None:
        self.func = func
        self.inputs = inputs
        self.eps = eps
        self._numbers = [
            k for k, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad
        ]
        self.wrt: list[Tensor] = [inputs[k] for k in self._numbers]
        returned = as_tuple(func(*inputs))
        self.outputs = differentiable(returned)
        # Without an output that requires grad, all floating ones are compared with zero.
        self._compared = [
            k
            for k, out in enumerate(returned)
            if out.is_floating_point() and (out.requires_grad or not self.outputs)
        ]

    def numerical(self) -> Matrices:
        """By central differences, one element of the input after the other: (input.numel(), output.numel())."""
        found = []
        for x in self.wrt:
            values = x._data
            rows = []
            for position in np.ndindex(values.shape):
                step = np.zeros_like(values)
                step[position] = self.eps
                rows.append(self._difference(x, step, position))
            found.append(self._stacked(rows))
        return found

    def numerical_along(self, directions: Sequence[np.ndarray]) -> Matrices:
        """By central differences along one direction for each input: (output.numel(),)."""
        return [
            self._difference(x, self.eps * u.reshape(x._data.shape))
            for x, u in zip(self.wrt, directions, strict=True)
        ]

    def _difference(
        self, x: Tensor, step: np.ndarray, position: tuple[int, ...] | None = None
    ) -> list[np.ndarray]:
        values = x._data
        before = values.copy()
        sides = []
        try:
            for moved in (before - step, before + step):
                values[...] = moved
                returned = as_tuple(self.func(*self.inputs))
                sides.append([returned[k]._data.copy() for k in self._compared])
        finally:
            values[...] = before
        where = "" if position is None else f"on index {position} "
        for low, high in zip(*sides, strict=True):
            for what, one, other in (
                ("shape", low.shape, high.shape),
                ("dtype", low.dtype, high.dtype),
            ):
                if one != other:
                    raise AssertionError(
                        f"Expected `func` to return outputs with the same {what} when inputs are perturbed {where}"
                        f"by {self.eps}, but got: {what}s {one} and {other}."
                    )
        return [
            ((high - low) / (2 * self.eps)).reshape(-1).astype(high.dtype)
            for low, high in zip(*sides, strict=True)
        ]

    def _stacked(self, rows: list[list[np.ndarray]]) -> list[np.ndarray]:
        """Rows of Jacobians as matrices, one per output; also where there are no rows."""
        if not rows:
            return [np.zeros((0, out.numel()), out._data.dtype) for out in self.outputs]
        return [np.stack(column) for column in zip(*rows, strict=True)]

    def reverse(self, output: Tensor) -> list[np.ndarray]:
        """By one backward sweep per element of the output: per input (input.numel(), output.numel())."""
        count = output.numel()
        found = [np.zeros((x.numel(), count), x._data.dtype) for x in self.wrt]
        for column in range(count):
            seed = np.zeros(count, output._data.dtype)
            seed[column] = 1
            for matrix, ct in zip(found, self._pull(output, seed), strict=True):
                if ct is not None:
                    matrix[:, column] = ct._data.ravel()
        return found

    def reverse_along(self, output: Tensor, direction: np.ndarray) -> list[np.ndarray]:
        """By one backward sweep from a cotangent of the output: per input (input.numel(),)."""
        return [
            np.zeros(x.numel(), x._data.dtype) if ct is None else ct._data.ravel()
            for x, ct in zip(self.wrt, self._pull(output, direction), strict=True)
        ]

    def _pull(self, output: Tensor, seed: np.ndarray) -> tuple[Tensor | None, ...]:
        ct = new_tensor(seed.reshape(output._data.shape))
        return grad(output, self.wrt, ct, retain_graph=True, allow_unused=True)

    def forward(self) -> Matrices:
        """By forward mode, one element of the input after the other: (input.numel(), output.numel())."""
        found = []
        for number, x in enumerate(self.wrt):
            rows = []
            for position in range(x.numel()):
                direction = np.zeros(x.numel(), x._data.dtype)
                direction[position] = 1
                rows.append(self._push(number, direction))
            found.append(self._stacked(rows))
        return found

    def forward_along(self, directions: Sequence[np.ndarray]) -> Matrices:
        """By forward mode along one direction for each input: (output.numel(),)."""
        return [self._push(number, u) for number, u in enumerate(directions)]

    def _push(self, number: int, direction: np.ndarray) -> list[np.ndarray]:
        tangents = {
            k: new_tensor(
                direction.reshape(x._data.shape) if k == number else np.zeros_like(x._data)
            )
            for k, x in enumerate(self.wrt)
        }
        return [
            np.zeros(size_of(shape), dtype) if tangent is None else tangent._data.ravel()
            for tangent, shape, dtype in self.tangents(tangents)
        ]

    def tangents(
        self, tangents: dict[int, Tensor], undefined: int | None = None
    ) -> list[tuple[Tensor | None, tuple[int, ...], Any]]:
        """The tangents of the outputs, with their shapes and dtypes; None for zero.

        Args:
            tangents: by number of the input.
            undefined: an input that is to carry no tangent at all.
        """
        args = list(self.inputs)
        with forward_ad.dual_level():
            for k, position in enumerate(self._numbers):
                primal = args[position].detach()
                args[position] = (
                    primal if k == undefined else forward_ad.make_dual(primal, tangents[k])
                )
            returned = as_tuple(self.func(*args))
            found = []
            for k in self._compared:
                primal, tangent = forward_ad.unpack_dual(returned[k])
                found.append((tangent, tuple(primal.shape), primal.detach().numpy().dtype))
            return found


def size_of(shape: tuple[int, ...]) -> int:
    """The number of elements."""
    return int(np.prod(shape, dtype=np.int64))
