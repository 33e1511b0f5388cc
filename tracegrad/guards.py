"""Guards on plain Python state: what a compiled function could have read besides tensors and arguments.

A traced function reads numbers, flags, strings and containers from globals, closures and attributes: ``lr`` of an
optimizer, ``training`` of a module, a user's own ``self.scale``. They are constants of the trace, so before each
native call we must know that they are what they were. A stale constant is the worst bug a tracer can have.

:func:`watch` finds this state without running anything: from the function's code it collects the *names* that the
code mentions, then follows globals, closure cells, containers, objects' attributes and further functions, as far
as a mentioned name leads. Each place where it looked becomes an :class:`Entry`; a generated function compares all
of them in a few microseconds. More is guarded than is read, which costs time but is never wrong; what is too large
or opaque to compare makes the function run eagerly.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tracegrad.ir.location import is_internal
from tracegrad.ir.types import DType
from tracegrad.tensor import Tensor

MAX_ENTRIES = 20_000
"""State with more places than this is not watched; the function runs eagerly."""

_MAX_ARRAY_BYTES = 4096
_PLAIN = (int, float, bool, str, bytes, complex, type(None))
_MISSING = object()
DYNAMIC = frozenset({"__dict__", "vars"})
"""Code with these names may read any attribute."""


class UnguardableError(Exception):
    """State that cannot be compared cheaply. The message says which and why."""


class Entry(NamedTuple):
    """One place and what it held.

    Attributes:
        kind: how to read it: ``item`` (container[key]), ``cell``, ``attribute``, ``length``, ``array``.
        container, key: where.
        value: what it held; for ``array`` the bytes.
        name: how to call the place in messages.
    """

    kind: str
    container: Any
    key: Any
    value: Any
    name: str

    def read(self) -> Any:
        """What the place holds now."""
        try:
            match self.kind:
                case "item":
                    return self.container[self.key]
                case "cell":
                    return self.container.cell_contents
                case "attribute":
                    return getattr(self.container, self.key)
                case "length":
                    return len(self.container)
                case _:
                    return self.container.tobytes()
        except (KeyError, IndexError, AttributeError, ValueError):
            return _MISSING

    def holds(self) -> bool:
        """Whether the place holds what it held."""
        return same(self.read(), self.value)


def same(now: Any, then: Any) -> bool:
    """Whether a value is the one seen: the same object, or an equal plain one of the same type."""
    if now is then:
        return True
    if now.__class__ is not then.__class__ or not isinstance(then, _PLAIN):
        return False
    if isinstance(then, float):
        return (now == then and math.copysign(1, now) == math.copysign(1, then)) or (
            now != now and then != then
        )
    return now == then


class _Names:
    """The names and strings that some code mentions, growing as more code is found."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.codes: set[types.CodeType] = set()
        self.dynamic = False

    def add(self, code: types.CodeType) -> None:
        stack = [code]
        while stack:
            item = stack.pop()
            if item in self.codes:
                continue
            self.codes.add(item)
            self.known.update(item.co_names)
            if not is_internal(item.co_filename) and not DYNAMIC.isdisjoint(item.co_names):
                self.dynamic = True
            for const in item.co_consts:
                if isinstance(const, types.CodeType):
                    stack.append(const)
                elif isinstance(const, str) and const.isidentifier():
                    self.known.add(const)

    def __contains__(self, name: object) -> bool:
        return self.dynamic or name in self.known


def _is_library(module_name: str | None, filename: str | None) -> bool:
    """Whether code or an object belongs to the standard library, NumPy, or tracegrad's own machinery."""
    top = (module_name or "").partition(".")[0]
    if top == "tracegrad":
        return not (module_name or "").startswith(("tracegrad.nn", "tracegrad.optim"))
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    if top in (
        "numpy",
        "llvmlite",
        "networkx",
        "matplotlib",
        "tqdm",
        "sklearn",
        "scipy",
        "pytest",
        "_pytest",
    ):
        return True
    if filename is not None and is_internal(filename):
        return not (module_name or "").startswith(("tracegrad.nn", "tracegrad.optim"))
    return False


class _Watcher:
    """Walks over reachable state. Objects are visited again when new names have become known."""

    def __init__(self) -> None:
        self.names = _Names()
        self.entries: dict[tuple[str, int, Any], Entry] = {}
        self.objects: dict[int, tuple[Any, str]] = {}
        self.tensors: dict[int, Tensor] = {}
        self.pending: list[tuple[Any, str]] = []

    def run(self, function: Callable[..., Any], arguments: list[Any]) -> None:
        self.visit(function, getattr(function, "__name__", "function"))
        for position, argument in enumerate(arguments):
            self.visit(argument, f"argument {position}")
        while True:
            while self.pending:
                value, name = self.pending.pop()
                self._expand(value, name)
            before = len(self.names.known)
            # A name learnt late may select attributes of an object seen early.
            for value, name in list(self.objects.values()):
                self._expand(value, name)
            if not self.pending and len(self.names.known) == before:
                return

    def visit(self, value: Any, name: str) -> None:
        """Note a value; expand it later if there is anything inside."""
        if isinstance(value, Tensor):
            self.tensors[id(value)] = value
            return
        if isinstance(value, (*_PLAIN, DType)) or id(value) in self.objects:
            return
        self.objects[id(value)] = (value, name)
        self.pending.append((value, name))

    def entry(self, kind: str, container: Any, key: Any, value: Any, name: str) -> None:
        place = (kind, id(container), key)
        if place not in self.entries:
            if len(self.entries) >= MAX_ENTRIES:
                raise UnguardableError(
                    f"it can reach more than {MAX_ENTRIES} pieces of Python state, at {name}"
                )
            self.entries[place] = Entry(kind, container, key, value, name)
            self.visit(value, name)

    def _expand(self, value: Any, name: str) -> None:
        match value:
            case types.FunctionType():
                self._expand_function(value, name)
            case types.MethodType():
                self.visit(value.__func__, name)
                self.visit(value.__self__, name)
            case types.ModuleType():
                if not _is_library(value.__name__, getattr(value, "__file__", None)):
                    self._expand_mapping_by_names(value.__dict__, name)
            case type():
                if not _is_library(value.__module__, None):
                    self._expand_class(value, name)
            case dict():
                self.entry("length", value, None, len(value), f"len({name})")
                for key, item in list(value.items()):
                    self.visit(key, f"a key of {name}")
                    self.entry("item", value, key, item, f"{name}[{key!r}]")
            case list() | tuple():
                if isinstance(value, list):
                    self.entry("length", value, None, len(value), f"len({name})")
                for position, item in enumerate(value):
                    if isinstance(value, list):
                        self.entry("item", value, position, item, f"{name}[{position}]")
                    else:
                        self.visit(item, f"{name}[{position}]")
            case set() | frozenset():
                self.entry("length", value, None, len(value), f"len({name})")
            case np.ndarray():
                self._expand_array(value, name)
            case Iterator():
                raise UnguardableError(f"it reads from an iterator, {name}")
            case _:
                self._expand_object(value, name)

    def _expand_function(self, function: types.FunctionType, name: str) -> None:
        code = function.__code__
        if _is_library(function.__module__, code.co_filename):
            return
        self.names.add(code)
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                self.entry("cell", cell, None, cell.cell_contents, variable)
            except ValueError:
                continue  # A cell that is not filled yet.
        self._expand_mapping_by_names(function.__globals__, "", code)
        for position, default in enumerate(function.__defaults__ or ()):
            self.visit(default, f"default {position} of {name}")
        for key, default in (function.__kwdefaults__ or {}).items():
            self.visit(default, f"default {key} of {name}")

    def _expand_mapping_by_names(
        self, mapping: dict[str, Any], prefix: str, code: types.CodeType | None = None
    ) -> None:
        names: Any = self.names.known
        if code is not None:
            names = _names_of(code)
        ours = str(mapping.get("__name__", "")).startswith("tracegrad.")
        for key in names:
            if key in mapping and ours:
                self.visit(mapping[key], key)  # Our own modules' globals do not change.
            elif key in mapping:
                self.entry("item", mapping, key, mapping[key], f"{prefix}.{key}" if prefix else key)

    def _expand_class(self, cls: type, name: str) -> None:
        for base in cls.__mro__:
            if base is object or _is_library(base.__module__, None):
                continue
            for key in list(base.__dict__):
                if key in ("forward", "__call__", "__getattr__") or (
                    key in self.names and not key.startswith("__")
                ):
                    member = base.__dict__[key]
                    if isinstance(member, (staticmethod, classmethod)):
                        member = member.__func__
                    elif isinstance(member, property):
                        for accessor in (member.fget, member.fset):
                            self.visit(accessor, f"{name}.{key}")
                        continue
                    if isinstance(member, (*_PLAIN, Tensor)) or not callable(member):
                        self.entry(
                            "attribute", base, key, getattr(base, key, _MISSING), f"{name}.{key}"
                        )
                    else:
                        self.visit(member, f"{name}.{key}")

    def _expand_array(self, array: np.ndarray, name: str) -> None:
        if array.nbytes > _MAX_ARRAY_BYTES:
            raise UnguardableError(
                f"it can reach the NumPy array {name}, which is too large to compare at each call "
                "(make it a tensor)"
            )
        self.entry("array", array, None, array.tobytes(), name)

    def _expand_object(self, value: Any, name: str) -> None:
        cls = type(value)
        if _is_library(cls.__module__, None) and not hasattr(value, "__dict__"):
            return
        if hasattr(value, "__wrapped__"):
            self.visit(value.__wrapped__, name)
        if isinstance(value, (types.BuiltinFunctionType, types.MethodDescriptorType)):
            return
        if cls.__module__ == "functools":
            for part in (
                (value.func, *value.args, *value.keywords.values())
                if hasattr(value, "func")
                else ()
            ):
                self.visit(part, name)
            return
        if _is_library(cls.__module__, None):
            return
        self.visit(cls, cls.__name__)
        attributes = getattr(value, "__dict__", None)
        if attributes is not None:
            for key in list(attributes):
                if key in self.names:
                    self.entry("item", attributes, key, attributes[key], f"{name}.{key}")
        for base in cls.__mro__:
            slots = base.__dict__.get("__slots__", ())
            for key in (slots,) if isinstance(slots, str) else slots:
                if key in self.names and hasattr(value, key):
                    self.entry("attribute", value, key, getattr(value, key), f"{name}.{key}")


def _names_of(code: types.CodeType) -> Iterator[str]:
    stack = [code]
    while stack:
        item = stack.pop()
        yield from item.co_names
        stack.extend(c for c in item.co_consts if isinstance(c, types.CodeType))


class StateGuard:
    """A snapshot of the plain state that a function can reach.

    Attributes:
        entries: the places and what they held.
        tensors: tensors that can be reached, by id.
        check: ``check() -> bool``: whether all places hold what they held.
        codes: the code that was looked at.
    """

    def __init__(self, watcher: _Watcher) -> None:
        self.entries = list(watcher.entries.values())
        self.tensors = watcher.tensors
        self.codes = watcher.names.codes
        self.check = _generate_check(self.entries)

    def changed(self) -> list[Entry]:
        """The places that hold something else now."""
        return [entry for entry in self.entries if not entry.holds()]


def watch(function: Callable[..., Any], arguments: list[Any]) -> StateGuard:
    """Take a snapshot of the state that `function` can reach when called with these arguments.

    Raises:
        UnguardableError: some of it cannot be compared.
    """
    watcher = _Watcher()
    watcher.run(function, arguments)
    return StateGuard(watcher)


def _generate_check(entries: list[Entry]) -> Callable[[], bool]:
    """Compile the comparison of all entries into one Python function: about 30 ns per place."""
    namespace: dict[str, Any] = {"same": same}
    lines = ["def check():", "    try:", "        return ("]
    for number, entry in enumerate(entries):
        namespace[f"c{number}"], namespace[f"k{number}"] = entry.container, entry.key
        namespace[f"v{number}"] = entry.value
        match entry.kind:
            case "item":
                read = f"c{number}[k{number}]"
            case "cell":
                read = f"c{number}.cell_contents"
            case "attribute":
                read = f"c{number}.{entry.key}"
            case "length":
                lines.append(f"            len(c{number}) == v{number} and")
                continue
            case _:
                lines.append(f"            c{number}.tobytes() == v{number} and")
                continue
        if (
            isinstance(entry.value, _PLAIN)
            and entry.value is not None
            and not isinstance(entry.value, bool)
        ):
            lines.append(f"            ((x := {read}) is v{number} or same(x, v{number})) and")
        else:
            lines.append(f"            {read} is v{number} and")
    lines += ["            True)", "    except (KeyError, IndexError, AttributeError, ValueError):"]
    lines += ["        return False"]
    exec(compile("\n".join(lines), "<guards>", "exec"), namespace)
    return namespace["check"]
