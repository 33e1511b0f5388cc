"""Evaluating with NumPy without its floating-point warnings: as in torch, 1/0 is inf and says nothing.

``np.errstate`` costs more than a small ufunc. Setting the context variable behind it is ten times cheaper;
where a NumPy has no such variable, errstate is used.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np

try:
    from numpy._core.umath import _extobj_contextvar
except ImportError:
    _extobj_contextvar = None

if _extobj_contextvar is not None:
    with np.errstate(all="ignore"):
        _quiet = _extobj_contextvar.get()

    def silence() -> Any:
        """Ignore floating-point errors in this context from now on; give the result to `restore`."""
        return _extobj_contextvar.set(_quiet)

    restore = _extobj_contextvar.reset
    """Undo `silence`."""
else:

    def silence() -> Any:
        """Ignore floating-point errors in this thread from now on; give the result to `restore`."""
        return np.seterr(all="ignore")

    def restore(token: Any) -> None:
        """Undo `silence`."""
        np.seterr(**token)


class quiet:  # noqa: N801 (used like a function)
    """Context manager: no floating-point warnings from NumPy inside."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = silence()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        restore(self._token)
