"""Ready-made parametrizations: weight normalization and spectral normalization.

How a tensor is parametrized is in :mod:`tracegrad.nn.utils.parametrize`.
"""

from __future__ import annotations

from typing import Any

from tracegrad.grad_mode import no_grad
from tracegrad.nn.convolution import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from tracegrad.nn.layer_functions import normalize
from tracegrad.nn.module import Module
from tracegrad.nn.utils.parametrize import register_parametrization
from tracegrad.nn.utils.weight_norm import norm_except_dim, scaled_weight
from tracegrad.ops import elementwise as ew
from tracegrad.ops.linalg import dot, mv
from tracegrad.random import randn
from tracegrad.tensor import Tensor

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]


def _weight_of(module: Module, name: str) -> Tensor:
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    return weight


def orthogonal(
    module: Module,
    name: str = "weight",
    orthogonal_map: str | None = None,
    *,
    use_trivialization: bool = True,
) -> Module:
    """Not supported. Raises NotImplementedError, or ValueError where torch does."""
    weight = _weight_of(module, name)
    if weight.dim() < 2:
        raise ValueError(
            f"Expected a matrix or batch of matrices. Got a tensor of {weight.dim()} dimensions."
        )
    if orthogonal_map not in (None, "matrix_exp", "cayley", "householder"):
        raise ValueError(
            'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". '
            f"Got: {orthogonal_map}"
        )
    raise NotImplementedError(
        "parametrizations.orthogonal is not supported: it needs the matrix exponential or Householder products.\n"
        "nn.init.orthogonal_ begins with an orthogonal matrix."
    )


class _WeightNorm(Module):
    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return scaled_weight(weight_v, weight_g, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return norm_except_dim(weight, 2, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int = 0) -> Module:
    """Have a weight computed as magnitude times direction, ``g * v / |v|``.

    The magnitude is ``module.parametrizations.<name>.original0``, the direction ``original1``.

    Args:
        dim: along which each position has a magnitude of its own; None for one magnitude.

    Raises:
        ValueError: there is no such tensor.
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)

    def rename(owner: Module, state_dict: Any, prefix: str, *others: Any) -> None:
        """Take what the older `nn.utils.weight_norm` saved."""
        keys = [f"{prefix}{name}_{part}" for part in "gv"]
        if all(key in state_dict for key in keys):
            for number, key in enumerate(keys):
                state_dict[f"{prefix}parametrizations.{name}.original{number}"] = state_dict.pop(
                    key
                )

    module.register_load_state_dict_pre_hook(rename)
    return module


class _SpectralNorm(Module):
    _u: Tensor
    _v: Tensor

    def __init__(
        self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12
    ) -> None:
        super().__init__()
        ndim = weight.dim()
        if not -ndim <= dim < ndim:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [-{ndim}, {ndim - 1}] but got {dim})"
            )
        if n_power_iterations <= 0:
            raise ValueError(
                "Expected n_power_iterations to be positive, but got "
                f"n_power_iterations={n_power_iterations}"
            )
        self.dim = dim if dim >= 0 else dim + ndim
        self.eps = eps
        if ndim > 1:
            self.n_power_iterations = n_power_iterations
            matrix = self._as_matrix(weight)
            for name, extent in zip(("_u", "_v"), matrix.shape, strict=True):
                begin = randn(extent, dtype=weight.dtype)
                self.register_buffer(name, normalize(begin, dim=0, eps=eps))
            self._iterate(matrix, 15)

    def _as_matrix(self, weight: Tensor) -> Tensor:
        if self.dim != 0:
            others = (axis for axis in range(weight.dim()) if axis != self.dim)
            weight = weight.permute(self.dim, *others)
        return weight.flatten(1)

    def _iterate(self, matrix: Tensor, times: int) -> None:
        """Bring the two vectors nearer to the singular vectors of the greatest singular value."""
        with no_grad():
            for _ in range(times):
                self._u.copy_(normalize(mv(matrix, self._v), dim=0, eps=self.eps))
                self._v.copy_(normalize(mv(matrix.t(), self._u), dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            return normalize(weight, dim=0, eps=self.eps)
        matrix = self._as_matrix(weight)
        if self.training:
            self._iterate(matrix, self.n_power_iterations)
        # Copies: the next call changes the vectors, before this one's gradient perhaps.
        u, v = self._u.clone(), self._v.clone()
        return ew.div(weight, dot(u, mv(matrix, v)))

    def right_inverse(self, value: Tensor) -> Tensor:
        # What is assigned is normalized when it is read.
        return value


def spectral_norm(
    module: Module,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> Module:
    """Have a weight divided by its greatest singular value, which each reading in training mode estimates anew.

    Args:
        n_power_iterations: steps of the power method for each estimate.
        eps: the least norm to divide by.
        dim: which dimension of the weight counts the outputs; by default 0, but 1 for transposed convolutions.

    Raises:
        ValueError: there is no such tensor, or no iterations.
        IndexError: there is no such dimension.
    """
    weight = _weight_of(module, name)
    if dim is None:
        transposed = (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
        dim = 1 if isinstance(module, transposed) else 0
    parametrization = _SpectralNorm(weight, n_power_iterations, dim, eps)
    return register_parametrization(module, name, parametrization)
