"""Forward mode on ordinary tensors, as ``torch.autograd.forward_ad``: dual tensors inside a dual level.

with forward_ad.dual_level():
    dual = forward_ad.make_dual(x, direction)
    derivative = forward_ad.unpack_dual(f(dual)).tangent
"""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple

from tracegrad.grad_mode import state
from tracegrad.levels import DualLevel
from tracegrad.tensor import Tensor

_NO_LEVEL = "Trying to create a dual Tensor for forward AD but no level exists, make sure to enter_dual_level() first."


class UnpackedDualTensor(NamedTuple):
    """What `unpack_dual` returns: the value, and the derivative in the direction, None if it is zero."""

    primal: Tensor
    tangent: Tensor | None


def _current() -> DualLevel | None:
    """The level that `enter_dual_level` began, if it is not over."""
    for level in reversed(state.levels):
        if isinstance(level, DualLevel) and level.by_user:
            return level
    return None


def enter_dual_level() -> int:
    """Begin to follow tangents. Returns the number of the level, 0.

    Raises:
        RuntimeError: there is one already: they do not nest (`func.jvp` does).
    """
    if _current() is not None:
        raise RuntimeError("Nested forward mode AD is not supported at the moment")
    DualLevel(by_user=True).__enter__()
    return 0


def exit_dual_level(*, level: int | None = None) -> None:
    """Forget all tangents of the level.

    Raises:
        RuntimeError: there is no such level.
    """
    current = _current()
    if current is None or level not in (None, 0):
        raise RuntimeError(
            "Trying to exit a forward AD level that was not the last one that was created. This is not supported."
        )
    current.__exit__(None, None, None)


def make_dual(tensor: Tensor, tangent: Tensor, *, level: int | None = None) -> Tensor:
    """A view of `tensor` that carries a tangent.

    Args:
        tensor: floating point.
        tangent: the direction, of the same shape and dtype.
        level: the number that `enter_dual_level` returned.

    Raises:
        RuntimeError: there is no level, or the tangent does not fit.
        ValueError: one of them is not floating point.
    """
    current = _current()
    if current is None:
        raise RuntimeError(_NO_LEVEL)
    return current.attach(tensor, tangent)


def unpack_dual(tensor: Tensor, *, level: int | None = None) -> UnpackedDualTensor:
    """The value and the tangent of a tensor; the tangent is None where there is none, or no level."""
    current = _current()
    if current is None:
        return UnpackedDualTensor(tensor, None)
    return UnpackedDualTensor(current.without_tangent(tensor), current.tangent_of(tensor))


class dual_level:  # noqa: N801 (torch's name)
    """A context in which tensors can carry tangents."""

    def __enter__(self) -> int:
        return enter_dual_level()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        exit_dual_level()
