"""Parameters and buffers: tensors that a module registers when they are assigned to it."""

from __future__ import annotations

from typing import Any

from tracegrad import formatting
from tracegrad.grad_mode import no_grad
from tracegrad.ops.creation import empty
from tracegrad.tensor import Tensor, _rebuild, default_float


def _adopt(cls: type[Tensor], data: Any) -> Tensor:
    """A tensor of class `cls` that shares the storage of `data`, without its history."""
    if data is None:
        data = empty(0)
    if not isinstance(data, Tensor):
        raise AttributeError(
            f"'{type(data).__name__}' object has no attribute 'detach'\n"
            f"{cls.__name__} takes a tensor: {cls.__name__}(tracegrad.tensor(...))."
        )
    out = data.detach()
    out.__class__ = cls
    return out


class Parameter(Tensor):
    """A tensor that a module counts among its parameters when it is assigned as an attribute.

    Args:
        data: the tensor whose storage is shared.
        requires_grad: whether its gradient is asked for; `no_grad` makes no difference.

    Raises:
        RuntimeError: the data is not floating point and `requires_grad` is true.
    """

    __slots__ = ()

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Parameter:
        out = _adopt(cls, data)
        if requires_grad and not out.is_floating_point():
            raise RuntimeError(
                "Only Tensors of floating point and complex dtype can require gradients"
            )
        out._ask_for_grad(requires_grad)
        return out  # type: ignore[return-value]

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        self._escapes("print")
        return formatting.format_parameter(
            self._data, requires_grad=self._requires_grad, default_float=default_float().np
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        found = memo.get(id(self))
        if found is None:
            # As in torch the copy has no grad.
            with no_grad():
                found = memo[id(self)] = type(self)(self.clone(), self._requires_grad)
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        self._escapes("pickling")
        return _rebuild, (type(self), self._data, self._requires_grad, dict(self.__dict__))


class Buffer(Tensor):
    """A tensor that a module counts among its buffers when it is assigned as an attribute.

    Args:
        data: the tensor whose storage is shared.
        persistent: whether it is part of the module's ``state_dict``.
    """

    __slots__ = ()

    persistent: bool

    def __new__(cls, data: Tensor | None = None, *, persistent: bool = True) -> Buffer:
        out = _adopt(cls, data)
        out.persistent = persistent  # type: ignore[attr-defined]
        return out  # type: ignore[return-value]
