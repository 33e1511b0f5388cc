"""Which line of the user's program a value comes from."""

from __future__ import annotations

import sys
from pathlib import Path

import tracegrad.ir
from tracegrad.ir import SourceLocation
from tracegrad.ir.location import current_location, is_internal


def test_the_line_of_the_caller() -> None:
    location = current_location()
    assert location is not None
    assert location.line == sys._getframe().f_lineno - 2
    assert location.file == __file__
    assert location.function == "test_the_line_of_the_caller"
    assert str(location) == f"test_location.py:{location.line}"


def test_description_shows_the_line() -> None:
    location = current_location()  # A line to be shown.
    assert location is not None
    assert location.describe().endswith("location = current_location()  # A line to be shown.")
    assert f'File "{__file__}", line {location.line}' in location.describe()
    assert SourceLocation("<nowhere>", line=3).describe() == 'File "<nowhere>", line 3'


def test_lines_of_a_statement_over_several_lines() -> None:
    locations = [
        current_location(),
        current_location(),
    ]
    first, second = (location.line for location in locations if location)
    assert second == first + 1


def test_equality() -> None:
    a, b = SourceLocation("demo.py", line=1), SourceLocation("demo.py", line=1)
    assert a == b
    assert hash(a) == hash(b)
    assert a != SourceLocation("demo.py", line=2)
    assert a != "demo.py:1"


def test_own_files_are_internal() -> None:
    folder = Path(tracegrad.ir.__file__).parent
    assert is_internal(str(folder / "op.py"))
    assert not is_internal(__file__)
    assert not is_internal("<stdin>")
