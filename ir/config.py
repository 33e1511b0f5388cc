"""Options: each declared once, with its environment variable, type, default and help.

Read one with ``config.verify.get()``; set it for a block with ``with
config.override(verify=True):``, or for a process with the environment variable. A block counts for
the thread (and the asynchronous task) that runs it. Start reading at the declarations at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

T = TypeVar("T")

OPTIONS: dict[str, Option[Any]] = {}
"""Every option by name."""

LOG_NAMES = (
    "trace", "passes", "adjoint", "kernels", "llvm", "asm", "cache", "fallback", "recompile",
)  # fmt: skip
"""What ``log`` can name."""


class Option(Generic[T]):
    """One option.

    Attributes:
        name: for ``override``.
        variable: the environment variable.
        default: the value where nobody sets one.
        help: one sentence.
    """

    __slots__ = (
        "_check",
        "_from_environment",
        "_overridden",
        "default",
        "help",
        "name",
        "variable",
    )

    def __init__(self, name: str, default: T, check: Callable[[Any], T], help: str) -> None:
        self.name = name
        self.variable = f"TRACEGRAD_{name.upper()}"
        self.default = default
        self.help = help
        self._check = check
        self._overridden: ContextVar[T] = ContextVar(self.variable)
        self._from_environment: tuple[str | None, T] = (None, default)
        OPTIONS[name] = self

    def get(self) -> T:
        """The current value.

        Raises:
            ValueError: the environment variable holds something that is no such value.
        """
        try:
            return self._overridden.get()
        except LookupError:
            pass
        text = os.environ.get(self.variable)
        known, value = self._from_environment
        if text != known:
            value = self.default if text is None else self.checked(text, self.variable)
            self._from_environment = (text, value)
        return value

    def checked(self, value: Any, name: str | None = None) -> T:
        """The value in the form in which `get` returns it; text is converted.

        Raises:
            ValueError: names the option, the value and what is allowed.
        """
        try:
            return self._check(value)
        except ValueError as error:
            raise ValueError(f"{name or self.name}={value!r}: {error}\n{self.help}") from None


@contextmanager
def override(**values: Any) -> Iterator[None]:
    """Set options inside a ``with`` block.

    Raises:
        ValueError: an option does not exist, or does not take this value.
    """
    for name in values:
        if name not in OPTIONS:
            raise ValueError(f"there is no option {name!r}; there are {', '.join(sorted(OPTIONS))}")
    checked = [(OPTIONS[name], OPTIONS[name].checked(value)) for name, value in values.items()]
    tokens = [(option, option._overridden.set(value)) for option, value in checked]
    try:
        yield
    finally:
        for option, token in reversed(tokens):
            option._overridden.reset(token)


def describe() -> str:
    """All options, their current values and what they do, as text."""
    lines = []
    for option in OPTIONS.values():
        lines.append(f"{option.variable} = {option.get()!r} (default {option.default!r})")
        lines.append(f"    {option.help}")
    return "\n".join(lines)


def _flag(value: Any) -> bool:
    """Checks a switch: a bool, or such a text as ``1`` and ``off``."""
    if isinstance(value, str):
        known = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}
        value = known.get(value.strip().lower(), known.get("0") if not value.strip() else value)
    if not isinstance(value, bool):
        raise ValueError("expected 0 or 1")
    return value


def _names(value: Any) -> frozenset[str]:
    names = value.split(",") if isinstance(value, str) else value
    try:
        found = frozenset(name.strip() for name in names) - {""}
    except (TypeError, AttributeError):
        raise ValueError("expected names separated by commas") from None
    unknown = sorted(found.difference(LOG_NAMES))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(LOG_NAMES)}")
    return found


def _path(value: Any) -> str:
    """Checks the name of a file or folder."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError("expected a path")
    return os.fspath(value)


def _count(value: Any) -> int:
    """Checks a whole number that is not negative."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or isinstance(value, bool | float):
        raise ValueError("expected a whole number from 0 on")
    return number


verify = Option(
    "verify", False, _flag,
    "Whether every graph is verified after every pass.",
)  # fmt: skip
log: Option[frozenset[str]] = Option(
    "log", frozenset(), _names,
    f"What to report on the error stream, names separated by commas: {', '.join(LOG_NAMES)}.",
)  # fmt: skip
dump_to = Option(
    "dump_to", "", _path,
    "A folder for the text of every graph at every stage, in numbered files; none where empty.",
)  # fmt: skip
disable_jit = Option(
    "disable_jit", False, _flag,
    "Whether compiled functions run as plain Python.",
)  # fmt: skip
cache = Option(
    "cache", True, _flag,
    "Whether object code is kept on disk, for the next process.",
)  # fmt: skip
cache_dir = Option(
    "cache_dir", "", _path,
    "Where object code is kept; where empty, tracegrad in $XDG_CACHE_HOME or in ~/.cache.",
)  # fmt: skip
cache_limit = Option(
    "cache_limit", 512, _count,
    "How many megabytes of object code are kept; what was not used for longest goes.",
)  # fmt: skip
