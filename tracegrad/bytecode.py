"""What a piece of Python code mentions: globals, attributes, imports, nested code. Read off its instructions.

Guards on Python state start here: code can only read what it names. The data structure is :class:`Facts`; start
reading at :func:`facts_of`. Works on the bytecode of Python 3.11 to 3.13.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple

_LOADS_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_LOADS_VARIABLE = _LOADS_GLOBAL | {"LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF"}
_LOADS_ATTRIBUTE = frozenset({"LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"})
_LOADS_SIMPLY = frozenset({"LOAD_FAST", "LOAD_CONST", "LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME"})
_BY_NAME = frozenset({"getattr", "hasattr", "setattr", "delattr"})
_DYNAMIC = frozenset({"__dict__", "__setattr__", "__getattribute__", "__delattr__", "vars", "dir"})
_NEW = sys.version_info >= (3, 12)


class Facts(NamedTuple):
    """What some code mentions, without the code nested in it.

    Attributes:
        globals: names that are read as globals (or builtins).
        attributes: all other names, and strings that could be names.
        imports: names of modules that are imported.
        pairs: (variable, attribute) where the attribute of a variable is read at once.
        nested: code of inner functions, comprehensions and classes.
        dynamic: attributes may be read or set by names that are computed.
    """

    globals: frozenset[str]
    attributes: frozenset[str]
    imports: tuple[str, ...]
    pairs: frozenset[tuple[str, str]]
    nested: tuple[CodeType, ...]
    dynamic: bool


_known: dict[int, tuple[CodeType, Facts]] = {}


def facts_of(code: CodeType) -> Facts:
    """The facts about some code; read once per code object."""
    found = _known.get(id(code))
    if found is None:
        found = _known[id(code)] = code, _read(code)
    return found[1]


def _read(code: CodeType) -> Facts:
    names = code.co_names
    global_names: set[str] = set()
    attributes: set[str] = set()
    imports: list[str] = []
    pairs: set[tuple[str, str]] = set()
    dynamic = not _DYNAMIC.isdisjoint(names)
    variable: str | None = None
    instructions = list(_instructions(code))
    for position, (operation, arg) in enumerate(instructions):
        before, variable = variable, None
        if operation in _LOADS_VARIABLE:
            variable = _variable(code, operation, arg)
            if operation in _LOADS_GLOBAL:
                global_names.add(variable)
                if variable in _BY_NAME and not _names_a_constant(instructions[position + 1 :]):
                    dynamic = True
        elif operation == "IMPORT_NAME":
            imports.append(names[arg])
        elif operation in _LOADS_ATTRIBUTE:
            attribute = names[arg >> 1 if _NEW and operation == "LOAD_ATTR" else arg]
            if before is not None:
                pairs.add((before, attribute))
    attributes.update(name for name in names if name not in global_names)
    # A name may be both; whatever is an attribute somewhere stands in a pair or follows an expression.
    attributes.update(_attributes_among(code, instructions))
    for const in code.co_consts:
        if isinstance(const, str) and const.isidentifier():
            attributes.add(const)
        elif isinstance(const, tuple):
            attributes.update(c for c in const if isinstance(c, str) and c.isidentifier())
    nested = tuple(const for const in code.co_consts if isinstance(const, CodeType))
    return Facts(
        frozenset(global_names), frozenset(attributes), tuple(imports), frozenset(pairs), nested, dynamic
    )  # fmt: skip


def _attributes_among(code: CodeType, instructions: list[tuple[str, int]]) -> Iterator[str]:
    for operation, arg in instructions:
        if operation in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR", "IMPORT_FROM"):
            yield code.co_names[arg >> 1 if _NEW and operation == "LOAD_ATTR" else arg]
        elif operation == "LOAD_SUPER_ATTR":
            yield code.co_names[arg >> 2]


def _variable(code: CodeType, operation: str, arg: int) -> str:
    if operation == "LOAD_GLOBAL":
        return code.co_names[arg >> 1]
    if operation in _LOADS_GLOBAL:
        return code.co_names[arg]
    slots = code.co_varnames
    if operation == "LOAD_FAST" and arg < len(slots):
        return slots[arg]
    cells = [name for name in code.co_cellvars if name not in slots] + list(code.co_freevars)
    return cells[arg - len(slots)] if 0 <= arg - len(slots) < len(cells) else ""


def _names_a_constant(following: list[tuple[str, int]]) -> bool:
    """Whether ``getattr``, just loaded, is called with a simple object, a constant name, and a simple default."""
    seen: list[str] = []
    for operation, _ in following:
        if operation in ("PRECALL", "CALL", "KW_NAMES"):
            break
        if operation in ("PUSH_NULL", "CACHE"):
            continue
        if operation in _LOADS_ATTRIBUTE and len(seen) == 1:
            continue  # The object is an attribute of something.
        if operation not in _LOADS_SIMPLY or len(seen) == 4:
            return False
        seen.append(operation)
    return len(seen) >= 2 and seen[1] == "LOAD_CONST"


def _instructions(code: CodeType) -> Iterator[tuple[str, int]]:
    """Names and arguments of the instructions, without their caches."""
    raw = code.co_code
    extended = 0
    names = dis.opname
    for i in range(0, len(raw), 2):
        operation = raw[i]
        if operation == 0:
            continue
        arg = raw[i + 1] | extended
        if operation == dis.EXTENDED_ARG:
            extended = arg << 8
            continue
        extended = 0
        yield names[operation], arg
