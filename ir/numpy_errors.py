"""Evaluating with NumPy without its floating-point warnings: as in torch, 1/0 is inf and says nothing.

``np.errstate`` costs more than a small ufunc. Setting the context variable behind it is ten times cheaper, and a
call in a context where it is set already costs next to nothing: that is `quietly`, for one short call of NumPy.
Where a NumPy has no such variable, errstate is used.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np


def _quietly_by_errstate(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with np.errstate(all="ignore"):
        return function(*args, **kwargs)


def _by_errstate() -> tuple[Callable[..., Any], Callable[[], Any], Callable[[Any], object]]:
    """The documented way."""
    return (
        _quietly_by_errstate,
        lambda: np.seterr(all="ignore"),
        lambda token: np.seterr(**token),
    )


def _by_context_variable() -> tuple[Callable[..., Any], Callable[[], Any], Callable[[Any], object]]:
    """The fast way. Raises ImportError or AttributeError where this NumPy has no such variable."""
    variable: Any = getattr(importlib.import_module("numpy._core.umath"), "_extobj_contextvar")  # noqa: B009
    with np.errstate(all="ignore"):
        ignoring = variable.get()
    context = contextvars.Context()
    context.run(variable.set, ignoring)
    return context.run, functools.partial(variable.set, ignoring), variable.reset


try:
    quietly, silence, restore = _by_context_variable()
except (ImportError, AttributeError):
    quietly, silence, restore = _by_errstate()
# ``quietly(function, *args)`` calls with floating-point errors ignored. There is one such context for all threads,
# and a context lets in one at a time: where RuntimeError says that it is entered, call as follows instead.
# ``token = silence()`` ignores floating-point errors in the current context; ``restore(token)`` undoes it.


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
