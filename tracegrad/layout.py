"""Layouts: how torch can hold a tensor's elements. All tensors are strided; the others have names, to be refused."""

from __future__ import annotations

from typing import Any


class layout:  # noqa: N801 - torch's name
    """A layout. Those that there are, are attributes of the package; no others can be made."""

    __slots__ = ("_name",)
    _name: str

    def __new__(cls, *args: Any, **kwargs: Any) -> layout:
        raise TypeError("cannot create 'torch.layout' instances")

    def __repr__(self) -> str:
        return f"torch.{self._name}"

    def __reduce__(self) -> str:
        return self._name


def _made(name: str) -> layout:
    made: layout = object.__new__(layout)
    made._name = name
    return made


strided = _made("strided")
sparse_coo = _made("sparse_coo")
sparse_csr = _made("sparse_csr")


def check_placement(function: str, wanted: Any, pin_memory: Any) -> None:
    """Raise the error for arguments `layout` and `pin_memory` that ask for what there is not.

    Raises:
        TypeError: no layout.
        NotImplementedError: another layout than ``strided``.
        RuntimeError: pinned memory.
    """
    if wanted is not None and not isinstance(wanted, layout):
        raise TypeError(
            f"{function}(): argument 'layout' must be torch.layout, not {type(wanted).__name__}"
        )
    if wanted not in (None, strided):
        raise NotImplementedError(f"{function}(): the layout {wanted!r} is not supported.")
    if pin_memory:
        raise RuntimeError(
            "pin_memory=True requires a CUDA or other accelerator backend; no pinned memory allocator is available "
            "on this system."
        )
