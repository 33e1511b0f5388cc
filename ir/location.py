"""Source locations: which line of the user's program made a node.

A location is kept as a code object and an instruction offset, which is cheap to take; file and line are
decoded only when somebody prints them. Frames of tracegrad itself are skipped.
"""

from __future__ import annotations

import linecache
import os
import sys
from types import CodeType


def _find_internal_roots() -> tuple[str, ...]:
    """The folders of tracegrad: one where it is installed, three siblings in a source checkout."""
    ir_folder = os.path.dirname(os.path.abspath(__file__))
    parent = os.path.dirname(ir_folder)
    if os.path.exists(os.path.join(parent, "__init__.py")):
        return (parent + os.sep,)
    return tuple(os.path.join(parent, name) + os.sep for name in ("tracegrad", "ir", "codegen"))


_INTERNAL_ROOTS = _find_internal_roots()
internal_files: dict[str, bool] = {}
"""What `is_internal` has found out."""


class SourceLocation:
    """A place in the user's program."""

    __slots__ = ("_code", "_lasti", "_line")

    def __init__(self, code: CodeType | str, lasti: int = -1, line: int | None = None) -> None:
        self._code = code
        self._lasti = lasti
        self._line = line

    @property
    def file(self) -> str:
        return self._code if isinstance(self._code, str) else self._code.co_filename

    @property
    def function(self) -> str:
        return "" if isinstance(self._code, str) else self._code.co_qualname

    @property
    def line(self) -> int:
        if self._line is None:
            assert not isinstance(self._code, str)
            self._line = _line_at(self._code, self._lasti)
        return self._line

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"

    def __repr__(self) -> str:
        return f"SourceLocation({self.file!r}, line={self.line})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SourceLocation):
            return NotImplemented
        return self.file == other.file and self.line == other.line

    def __hash__(self) -> int:
        return hash((self.file, self.line))

    def describe(self) -> str:
        """``File "demo.py", line 3`` with the text of the line, where it can be read."""
        text = linecache.getline(self.file, self.line).strip()
        place = f'File "{self.file}", line {self.line}'
        return f"{place}\n    {text}" if text else place


def _line_at(code: CodeType, lasti: int) -> int:
    for start, end, line in code.co_lines():
        if start <= lasti < end and line is not None:
            return line
    return code.co_firstlineno


def is_internal(filename: str) -> bool:
    """Whether a source file belongs to tracegrad itself. Hot paths look into `internal_files` first."""
    known = internal_files.get(filename)
    if known is None:
        known = os.path.abspath(filename).startswith(_INTERNAL_ROOTS)
        internal_files[filename] = known
    return known


def current_location(depth: int = 1) -> SourceLocation | None:
    """The nearest frame outside tracegrad, `depth` frames up at least; None where there is none."""
    frame = sys._getframe(depth)
    internal = internal_files
    while frame is not None:
        code = frame.f_code
        known = internal.get(code.co_filename)
        if known is None:
            known = is_internal(code.co_filename)
        if not known:
            return SourceLocation(code, frame.f_lasti)
        frame = frame.f_back  # type: ignore[assignment]
    return None
