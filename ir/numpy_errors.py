"""Evaluating with NumPy without its floating-point warnings: as in torch, 1/0 is inf and says nothing.

``np.errstate`` costs more than a small ufunc. Setting the context variable behind it is ten times cheaper;
where a NumPy has no such variable, errstate is used.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np


def _by_errstate() -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """The documented way."""
    return lambda: np.seterr(all="ignore"), lambda token: np.seterr(**token)


def _by_context_variable() -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """The fast way. Raises ImportError or AttributeError where this NumPy has no such variable."""
    variable: Any = getattr(importlib.import_module("numpy._core.umath"), "_extobj_contextvar")  # noqa: B009
    with np.errstate(all="ignore"):
        ignoring = variable.get()
    return functools.partial(variable.set, ignoring), variable.reset


try:
    silence, restore = _by_context_variable()
except (ImportError, AttributeError):
    silence, restore = _by_errstate()
# ``token = silence()`` ignores floating-point errors in this context; ``restore(token)`` undoes it.


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
