"""Bridges to other packages: `ScipyObjective` for ``scipy.optimize.minimize``.

Arrays need no bridge: ``from_numpy``, ``Tensor.numpy()`` and ``from_dlpack`` share memory in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tracegrad.autograd.backward import grad
from tracegrad.grad_mode import enable_grad
from tracegrad.ir.types import float64
from tracegrad.ops.creation import from_numpy
from tracegrad.tensor import Tensor


class ScipyObjective:
    """A function of tensors as ``scipy.optimize.minimize(objective, objective.x0, jac=True)`` wants it.

    Called with a float64 array, it returns the loss as a float and its gradient as a float64 array. No numbers are
    copied on the way: tensors share the memory of SciPy's array, and the gradient of a single vector is handed out as
    it is. The function may be compiled.

    Args:
        function: without `params`, a function of one vector (and `args`) that returns a scalar tensor. With `params`,
            a function of `args` alone that reads them.
        params: float64 leaves, such as ``model.double().parameters()``. While SciPy searches, their ``data`` are views
            of its array; afterwards call ``objective.assign(result.x)``.
        args: more arguments of the function.

    Attributes:
        x0: the present values of `params` in one row, float64.

    Raises:
        TypeError: a parameter is not float64, or the array is not.
        ValueError: the array has another length than the parameters together.
        RuntimeError: the loss is not a scalar.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        params: Iterable[Tensor] | None = None,
        args: tuple[Any, ...] = (),
    ) -> None:
        self._function = function
        self._args = args
        self._params = None if params is None else list(params)
        for param in self._params or ():
            if param.dtype is not float64:
                raise TypeError(
                    f"SciPy computes in float64, but a parameter is {param.dtype}; use .double()"
                )

    @property
    def x0(self) -> np.ndarray:
        rows = [param.detach().numpy().ravel() for param in self._params or ()]
        return np.concatenate(rows) if rows else np.empty(0)

    def __call__(self, x: np.ndarray, *args: Any) -> tuple[float, np.ndarray]:
        _check(x)
        if self._params is None:
            inputs = [from_numpy(x).requires_grad_()]
            with enable_grad():
                loss = self._function(inputs[0], *self._args, *args)
        else:
            self._attach(x)
            inputs = self._params
            with enable_grad():
                loss = self._function(*self._args, *args)
        gradients = grad(loss, inputs, materialize_grads=True)
        rows = [np.asarray(g.numpy()).ravel() for g in gradients]
        return float(loss), rows[0] if len(rows) == 1 else np.concatenate(rows)

    def hessp(self, x: np.ndarray, p: np.ndarray, *args: Any) -> np.ndarray:
        """The Hessian at `x` times `p`, for ``minimize(..., hessp=objective.hessp)``; of a single vector only."""
        if self._params is not None:
            raise NotImplementedError("hessp is for objectives of one vector, without params")
        _check(x)
        point = from_numpy(x).requires_grad_()
        with enable_grad():
            loss = self._function(point, *self._args, *args)
            (first,) = grad(loss, point, create_graph=True)
            (second,) = grad(first, point, from_numpy(np.asarray(p)), materialize_grads=True)
        return second.numpy()

    def assign(self, x: np.ndarray) -> None:
        """Copy a result into the parameters, which have memory of their own again."""
        self._attach(np.array(x, np.float64))

    def _attach(self, x: np.ndarray) -> None:
        params = self._params or []
        total = sum(param.numel() for param in params)
        if x.shape != (total,):
            raise ValueError(f"expected an array of shape ({total},), but got {x.shape}")
        start = 0
        for param in params:
            part = x[start : start + param.numel()].reshape(tuple(param.shape))
            param.data = from_numpy(part)
            start += param.numel()


def _check(x: Any) -> None:
    if not isinstance(x, np.ndarray) or x.dtype != np.float64:
        raise TypeError(f"expected a float64 array, but got {getattr(x, 'dtype', type(x))}")
