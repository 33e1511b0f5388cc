"""The options of ``tg.compile``, and what they may be. The data structure is :class:`CompileOptions`."""

from __future__ import annotations

from typing import Any, NamedTuple

BACKENDS = ("native", "interpreter")


class CompileOptions(NamedTuple):
    """The options of one compiled function, as for :func:`tracegrad.compiler.compile`."""

    fullgraph: bool = False
    backend: str = "native"
    name: str | None = None
    check: bool | str = False

    def checked(self) -> CompileOptions:
        """The options, if they are such.

        Raises:
            TypeError: an option is of a wrong type.
            ValueError: it is none of the values that there are.
        """
        if not isinstance(self.fullgraph, bool):
            raise _wrong_type("fullgraph", "a bool", self.fullgraph)
        if self.name is not None and not isinstance(self.name, str):
            raise _wrong_type("name", "a str", self.name)
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be 'native' or 'interpreter', but got {self.backend!r}")
        if not isinstance(self.check, bool) and self.check != "first":
            raise ValueError(f"check must be False, True or 'first', but got {self.check!r}")
        return self


def _wrong_type(option: str, expected: str, value: Any) -> TypeError:
    return TypeError(f"{option} must be {expected}, but got {type(value).__name__}")
