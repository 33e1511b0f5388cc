"""Guards on plain Python state: what a compiled function could have read besides tensors and arguments.

A traced function reads numbers, flags, strings and containers from globals, closures and attributes: ``lr`` of an
optimizer, ``training`` of a module, a user's own ``self.scale``. They are constants of the trace, so before each
native call we must know that they are what they were. A stale constant is the worst bug a tracer can have.

:class:`Snapshot` walks over this state. Given the code that ran (:mod:`tracegrad.observer`), it knows the names
that the code mentions, and follows globals, closure cells, defaults, containers, attributes and classes as far as
these names lead. Each place where it looked becomes an :class:`Entry`. More is guarded than is read, which costs
time but is never wrong; what cannot be compared makes the function run eagerly.

Two snapshots are taken of each traced run: one before, from what the function's code can reach, and one after,
from the code that ran. :func:`guard_of` compares them: the run must not have changed what it depends on, and all
that it depends on must have been seen before. What is left is a :class:`StateGuard`, which compares all places in
one generated function.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import enum
import functools
import gc
import marshal
import math
import operator
import re
import sys
import threading
import types
from collections.abc import Callable, Collection, Iterable, Iterator
from types import CodeType
from typing import Any, NamedTuple

import numpy as np

from tracegrad import random
from tracegrad.bytecode import facts_of
from tracegrad.device import Device
from tracegrad.ir.types import DType
from tracegrad.observer import (
    FOLLOWED,
    INTERNAL,
    OURS,
    USER,
    exact_numbers,
    kind_of_code,
    kind_of_file,
)
from tracegrad.tensor import Tensor

MAX_ENTRIES = 10_000
"""State with more places than this is not watched; the function runs eagerly."""

_MAX_ARRAY_BYTES = 4096
_LONG = 8
"""Longer lists and dicts of plain values are compared as a whole."""
_PLAIN = (int, float, bool, str, bytes, complex, type(None))


class _Pair(NamedTuple):
    """Any named tuple: the type of its field descriptors is meant below."""

    first: int


_MARSHALLED = frozenset({int, float, bool, str, type(None)})
_MISSING: Any = type("Missing", (), {"__repr__": lambda self: "MISSING"})()
_PLAIN_TYPES = frozenset(_PLAIN)
_IMMUTABLE = (
    DType, Device, range, slice, type(...), type(NotImplemented), types.BuiltinFunctionType,
    types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType, types.GetSetDescriptorType,
    types.MemberDescriptorType, types.ClassMethodDescriptorType, types.CodeType, types.GenericAlias, types.UnionType,
    np.generic, np.dtype, np.ufunc, re.Pattern, datetime.date, datetime.time,
    datetime.timedelta, datetime.tzinfo, enum.Enum, frozenset, type(threading.Lock()), type(threading.RLock()),
    type(_Pair.first),
)  # fmt: skip


def _is_immutable(value: Any) -> bool:
    return isinstance(value, (*_IMMUTABLE, *exact_numbers()))


_C_BASES = (
    object, dict, list, tuple, set, collections.deque, str, int, float, bytes, complex, BaseException, Exception,
    types.SimpleNamespace, types.ModuleType, type, np.ndarray, collections.OrderedDict, collections.defaultdict,
)  # fmt: skip
"""Classes written in C all of whose state we know how to look at."""
_OWN_ATTRIBUTES = frozenset({"_hooks", "_accumulator_ref"})
_PROBING = frozenset({"getattr", "hasattr", "AttributeError"})
_cached_function = type(functools.lru_cache(lambda: None))


class UnguardableError(Exception):
    """State that cannot be compared cheaply. The message says which and why."""


Place = tuple[str, int, Any]
"""Tells places apart: their kind, the id of the container, and the key in it."""


class Entry(NamedTuple):
    """One place and what it held.

    Attributes:
        kind: how to read it: ``item`` (container[key]), ``attribute``, ``cell``, ``absent`` (no such key),
            ``keys``, ``length``, ``items`` (of a sequence), ``members`` (of a set), ``bytes``, ``marshal``.
        container, key: where.
        value: what it held.
        name: how to call the place in messages.
    """

    kind: str
    container: Any
    key: Any
    value: Any
    name: str

    @property
    def place(self) -> Place:
        """What tells it from others, while its container is alive."""
        return self.kind, id(self.container), self.key

    def read(self) -> Any:
        """What the place holds now."""
        try:
            return _READERS[self.kind](self.container, self.key)
        except Exception:  # The user's attributes may raise anything.
            return _MISSING

    def holds(self) -> bool:
        """Whether the place holds what it held."""
        now = self.read()
        if self.kind == "items":
            return now is not _MISSING and same_items(now, self.value)
        if self.kind in ("keys", "members", "bytes", "marshal", "length", "absent"):
            return bool(now == self.value)
        return same(now, self.value)


_READERS: dict[str, Callable[[Any, Any], Any]] = {
    "item": lambda container, key: container[key],
    "attribute": lambda container, key: getattr(container, key),
    "cell": lambda container, key: container.cell_contents,
    "absent": lambda container, key: key not in container,
    "keys": lambda container, key: [*container],
    "length": lambda container, key: len(container),
    "items": lambda container, key: [*container],
    "members": lambda container, key: set(container),
    "bytes": lambda container, key: _bytes_of(container),
    "marshal": lambda container, key: marshal.dumps(container, 2),
}


def _bytes_of(buffer: Any) -> Any:
    if isinstance(buffer, np.ndarray):
        return buffer.shape, buffer.dtype.str, buffer.tobytes()
    return bytes(buffer)


def same(now: Any, then: Any) -> bool:
    """Whether a value is the one seen: the same object, or an equal plain one of the same type."""
    if now is then:
        return True
    if now.__class__ is not then.__class__:
        return False
    if isinstance(then, float):
        return (now == then and math.copysign(1, now) == math.copysign(1, then)) or (
            now != now and then != then
        )
    if isinstance(then, complex):
        return same(now.real, then.real) and same(now.imag, then.imag)
    if isinstance(then, np.generic):
        return now.tobytes() == then.tobytes()
    return type(then) in _PLAIN_TYPES and bool(now == then)


def same_items(now: Iterable[Any], then: list[Any]) -> bool:
    """Whether a sequence has the items that were seen."""
    now = [*now]
    return len(now) == len(then) and all(map(same, now, then))


Ran = dict[int, tuple[CodeType, dict[str, Any], str]]
"""Code that ran: id -> (code, its globals, its kind)."""


class Snapshot:
    """The state that code can reach, as of now.

    Attributes:
        entries: the places and what they held.
        tensors: tensors that can be reached, by id.
        containers: ids of all other objects that can be reached.
        unguardable: the first state that cannot be compared, or None.
        users_codes: the user's code that the walk has met.
        probes: whether the code may ask for attributes that are not there.
    """

    def __init__(self, ran: Ran | None = None) -> None:
        self.entries: dict[Place, Entry] = {}
        self.tensors: dict[int, Tensor] = {}
        self.unguardable: str | None = None
        self._ran = ran
        self._names: set[str] = set()
        self.users_names: set[str] = set()
        self.users_codes: list[CodeType] = []
        self._dynamic = False
        self.probes = False
        self._codes: dict[int, CodeType] = {}
        self._functions: set[int] = set()
        self._objects: dict[int, tuple[Any, str]] = {}
        self._classes: dict[type, str] = {}
        self._pending: list[tuple[Any, str]] = []
        self._revisit = True

    @property
    def containers(self) -> dict[int, tuple[Any, str]]:
        return self._objects

    def take(self, roots: Iterable[tuple[Any, str]]) -> Snapshot:
        """Walk from the given objects (and from the code that ran). Returns itself."""
        self._visit_generator(random.default_generator)
        for value, name in roots:
            self.visit(value, name)
        for code, names, kind in (self._ran or {}).values():
            self._mention(code, names, kind)
        while True:
            while self._pending:
                value, name = self._pending.pop()
                if len(self.entries) > MAX_ENTRIES:
                    self._give_up(
                        f"it can reach more than {MAX_ENTRIES} pieces of Python state, at {name}"
                    )
                    return self
                self._expand(value, name)
            if not self._revisit:
                return self
            # A name learnt late may select attributes of an object seen early.
            self._revisit = False
            self._pending.extend(
                item
                for item in self._objects.values()
                if not isinstance(item[0], (dict, list, tuple, np.ndarray))
            )

    def unseen_functions(self) -> list[CodeType]:
        """Code that ran in functions which the walk has not met, although they may have closures or defaults."""
        assert self._ran is not None
        nested = {id(inner) for code, _, _ in self._ran.values() for inner in facts_of(code).nested}
        return [
            code
            for code, _, kind in self._ran.values()
            if id(code) not in self._functions
            and id(code) not in nested
            and (code.co_freevars or (kind is USER and code.co_argcount + code.co_kwonlyargcount))
            and kind in (USER, FOLLOWED)
        ]

    # What code mentions.

    def _mention(self, code: CodeType, names: dict[str, Any], kind: str) -> None:
        """Take note of the names in some code, and look at its globals."""
        if id(code) in self._codes:
            return
        self._codes[id(code)] = code
        facts = facts_of(code)
        if kind is USER:
            self.users_names |= facts.attributes
            self.users_codes.append(code)
        if not facts.attributes <= self._names:
            self._names |= facts.attributes
            self._revisit = True
        if kind is OURS:
            return
        if kind is USER and not _PROBING.isdisjoint(facts.globals):
            self.probes = True
        if facts.dynamic and kind is USER and not self._dynamic:
            self._dynamic = self._revisit = True
        for name in facts.globals:
            self._look_up(name, names, kind)
        for name in facts.imports:
            self._look_up_import(name, names)
        for variable, attribute in facts.pairs:
            self._check_numpy_random(variable, attribute, names, facts.imports)
        if self._ran is None:
            for inner in facts.nested:
                self._mention(inner, names, kind)

    def _look_up(self, name: str, names: dict[str, Any], kind: str) -> None:
        if name in names:
            value = names[name]
            if _is_numpy_random(value):
                self._give_up(f"it can draw NumPy's random numbers: {name}")
            if kind is USER:
                self.entry("item", names, name, value, name)
            else:
                self.visit(value, name)
        elif kind is USER and hasattr(builtins, name):
            self.entry("absent", names, name, True, name)

    def _look_up_import(self, name: str, names: dict[str, Any]) -> None:
        """The modules that an import statement may mean."""
        package = names.get("__package__") or ""
        parents = (
            [".".join(package.split(".")[:n]) for n in range(1, package.count(".") + 2)]
            if package
            else []
        )
        candidates = [
            name,
            name.partition(".")[0],
            *(f"{p}.{name}" if name else p for p in parents),
        ]
        for candidate in dict.fromkeys(candidates):
            module = sys.modules.get(candidate)
            if module is not None:
                self.entry("item", sys.modules, candidate, module, candidate)

    def _check_numpy_random(
        self, variable: str, attribute: str, names: dict[str, Any], imports: tuple[str, ...]
    ) -> None:
        """NumPy's generators are written so that the observer cannot see their calls."""
        if attribute != "random":
            return
        value = names.get(variable)
        if value is np or (
            value is None and any(name.partition(".")[0] == "numpy" for name in imports)
        ):
            self._give_up(f"it can draw NumPy's random numbers: {variable}.random")

    def _give_up(self, reason: str) -> None:
        if self.unguardable is None:
            self.unguardable = reason

    # Places and values.

    def visit(self, value: Any, name: str) -> None:
        """Note a value; expand it later if there is anything inside."""
        if isinstance(value, Tensor):
            if id(value) not in self.tensors:
                self.tensors[id(value)] = value
                self._objects[id(value)] = value, name
                self._pending.append((value, name))
        elif type(value) in _PLAIN_TYPES:
            return
        elif not _is_immutable(value) and id(value) not in self._objects:
            self._objects[id(value)] = value, name
            self._pending.append((value, name))
        elif isinstance(value, (enum.Enum, frozenset)):
            self._visit_inside(value, name)

    def _visit_inside(self, value: Any, name: str) -> None:
        if isinstance(value, enum.Enum):
            self.visit(type(value), type(value).__name__)
            self.visit(value.value, name)
        else:
            for item in value:
                self.visit(item, f"an element of {name}")

    def entry(self, kind: str, container: Any, key: Any, value: Any, name: str) -> None:
        """Note a place, and what is in it."""
        place = (kind, id(container), key)
        if place not in self.entries:
            self.entries[place] = Entry(kind, container, key, value, name)
            if kind in ("item", "attribute", "cell"):
                self.visit(value, name)

    def _expand(self, value: Any, name: str) -> None:
        match value:
            case Tensor():
                self._expand_attributes(
                    value, name, [k for k in value.__dict__ if k not in _OWN_ATTRIBUTES]
                )
            case types.FunctionType():
                self._expand_function(value, name)
            case types.MethodType():
                self.visit(value.__func__, name)
                self.visit(value.__self__, name)
            case types.ModuleType():
                self._expand_module(value, name)
            case type():
                self._expand_class(value, name)
            case staticmethod() | classmethod():
                self.visit(value.__func__, name)
            case property():
                for accessor in (value.fget, value.fset, value.fdel):
                    self.visit(accessor, name)
            case functools.partial():
                for part in (value.func, value.args, value.keywords):
                    self.visit(part, name)
            case functools.partialmethod():
                for part in (value.func, value.args, value.keywords):
                    self.visit(part, name)
            case operator.attrgetter() | operator.methodcaller() | operator.itemgetter():
                self._expand_getter(value, name)
            case random.Generator():
                self._visit_generator(value)
            case _:
                self._expand_object(value, name)

    def _expand_function(self, function: types.FunctionType, name: str) -> None:
        code = function.__code__
        kind = kind_of_code(code, function.__globals__)
        if self._ran is None:
            if kind in (INTERNAL, FOLLOWED):
                return
            self._mention(code, function.__globals__, kind)
        elif id(code) not in self._ran:
            return
        if id(function) in self._functions or kind in (INTERNAL, OURS):
            return
        self._functions.add(id(function))
        self._functions.add(id(code))
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                content = _MISSING  # Not filled yet.
            self.entry("cell", cell, None, content, variable)
        if kind is not USER:
            return
        self.entry("attribute", function, "__code__", code, f"{name}.__code__")
        if function.__defaults__ is not None:
            self.entry(
                "attribute",
                function,
                "__defaults__",
                function.__defaults__,
                f"the defaults of {name}",
            )
        if function.__kwdefaults__ is not None:
            self.entry(
                "attribute",
                function,
                "__kwdefaults__",
                function.__kwdefaults__,
                f"the defaults of {name}",
            )
        self._expand_attributes(function, name, list(function.__dict__))

    def _expand_attributes(self, value: Any, name: str, own: list[str]) -> None:
        """The attributes of an object that has usually none."""
        for key in own:
            if key == "__wrapped__":
                self.visit(value.__dict__[key], name)
            elif self._dynamic or key in self._names:
                self.entry("item", value.__dict__, key, value.__dict__[key], f"{name}.{key}")

    def _expand_module(self, module: types.ModuleType, name: str) -> None:
        kind = _kind_of_module(module.__name__, getattr(module, "__file__", None))
        space = module.__dict__
        for key in self._mentioned(
            space, kind is USER and module is not sys.modules.get("__main__")
        ):
            value = space[key]
            if kind is USER:
                self.entry("item", space, key, value, f"{name}.{key}")
            elif isinstance(value, types.ModuleType):
                self.visit(value, f"{name}.{key}")
            elif not (type(value) in _PLAIN_TYPES or _is_immutable(value) or callable(value)):
                self.entry("item", space, key, value, f"{name}.{key}")

    def _mentioned(self, space: Any, everything: bool) -> list[str]:
        if self._dynamic and everything:
            return [key for key in list(space) if not key.startswith("__")]
        if len(space) > len(self._names):
            return [key for key in self._names if key in space]
        return [key for key in list(space) if key in self._names]

    def _expand_class(self, cls: type, name: str) -> None:
        if type(cls) is not type and _kind_of_class(type(cls)) is USER:
            self.visit(type(cls), type(cls).__name__)
        if _kind_of_class(cls) is not USER:
            return
        users = [base for base in cls.__mro__ if _kind_of_class(base) is USER]
        seen: set[str] = set()
        for position, base in enumerate(users):
            space = base.__dict__
            for key, member in list(space.items()):
                if self._dynamic or key in self._names or self._ran_in(member):
                    if key in ("__dict__", "__weakref__", "__module__", "__doc__", "__slots__"):
                        continue
                    self.entry("item", _proxy(base), key, member, f"{name}.{key}")
                    if key not in seen:
                        seen.add(key)
                        for before in users[:position]:
                            if key not in before.__dict__:
                                self.entry("absent", _proxy(before), key, True, f"{name}.{key}")
            self.entry("length", _proxy(base), None, len(space), f"the members of {base.__name__}")

    def _ran_in(self, member: Any) -> bool:
        """Whether a member of a class holds code that ran (or could run, where we do not know)."""
        for attribute in ("__func__", "func", "fget", "__wrapped__"):
            if not isinstance(member, types.FunctionType):
                member = getattr(member, attribute, member)
        if not isinstance(member, types.FunctionType):
            return False
        return self._ran is None or id(member.__code__) in self._ran

    def _expand_getter(self, getter: Any, name: str) -> None:
        for part in getter.__reduce__()[1]:
            if isinstance(part, str) and not set(part.split(".")) <= self._names:
                self._names.update(part.split("."))
                self._revisit = True
            else:
                self.visit(part, name)

    def _visit_generator(self, generator: Any) -> None:
        for tensor in (generator._key, generator._counter):
            self.tensors[id(tensor)] = tensor
        if "initial_seed" in self._names or "get_state" in self._names:
            self.entry("attribute", generator, "_seed", generator._seed, "a seed")

    # Objects and containers.

    def _expand_object(self, value: Any, name: str) -> None:
        cls = type(value)
        known = self._expand_container(value, name)
        wrapped = _wrapped_by(value)
        if wrapped is not None:
            # Ours (a compiled function): what it is made of, and what users hung on it.
            self.visit(wrapped, name)
            fixed = type(value).__dict__.get("FIXED", ())
            self._expand_attributes(
                value, name, [key for key in value.__dict__ if key not in fixed]
            )
            return
        if isinstance(value, _cached_function):
            self.visit(value.__wrapped__, name)
            known = True
        kind = _kind_of_class(cls)
        if kind is INTERNAL:
            return
        if not known and (isinstance(value, Iterator) or not _is_transparent(cls)):
            what = "reads from an iterator" if isinstance(value, Iterator) else "can read"
            self._give_up(f"it {what}, {name} ({cls.__name__}), whose state cannot be compared")
            return
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            everything = self._dynamic or (self._ran is None and _has_our_base(cls))
            names = list(attributes) if everything else self._mentioned(attributes, False)
            for key in names:
                self.entry("item", attributes, key, attributes[key], f"{name}.{key}")
            if kind is OURS and not known:
                self.entry("length", attributes, None, len(attributes), f"the attributes of {name}")
            elif attributes or not known:
                self.entry("keys", attributes, None, [*attributes], f"the attributes of {name}")
        if kind is USER:
            self.entry("attribute", value, "__class__", cls, f"the class of {name}")
        self._expand_slots(value, name)
        self.visit(cls, cls.__name__)

    def _expand_slots(self, value: Any, name: str) -> None:
        for base in type(value).__mro__:
            slots = base.__dict__.get("__slots__", ())
            for key in (slots,) if isinstance(slots, str) else slots:
                if key in ("__dict__", "__weakref__") or not (self._dynamic or key in self._names):
                    continue
                mangled = (
                    f"_{base.__name__.lstrip('_')}{key}"
                    if key.startswith("__") and not key.endswith("__")
                    else key
                )
                self.entry(
                    "attribute", value, mangled, getattr(value, mangled, _MISSING), f"{name}.{key}"
                )

    def _expand_container(self, value: Any, name: str) -> bool:
        """Look into a container; False if it is none."""
        match value:
            case dict() | types.MappingProxyType():
                self._expand_mapping(value, name)
                if isinstance(value, collections.defaultdict):
                    self.visit(value.default_factory, name)
            case list():
                if len(value) > _LONG and all(type(item) in _MARSHALLED for item in value):
                    self.entry("marshal", value, None, marshal.dumps(value, 2), name)
                    return True
                self.entry("length", value, None, len(value), f"len({name})")
                for position, item in enumerate(value):
                    self.entry("item", value, position, item, f"{name}[{position}]")
            case tuple():
                for position, item in enumerate(value):
                    self.visit(item, f"{name}[{position}]")
            case collections.deque():
                self.entry("items", value, None, [*value], name)
                for item in value:
                    self.visit(item, f"an item of {name}")
            case set():
                self.entry("members", value, None, set(value), name)
                for item in value:
                    self.visit(item, f"an element of {name}")
            case np.ndarray():
                if value.nbytes > _MAX_ARRAY_BYTES or value.dtype.hasobject:
                    self._give_up(
                        f"it can reach the NumPy array {name}, which is too large to compare at each call "
                        "(make it a tensor)"
                    )
                else:
                    self.entry("bytes", value, None, _bytes_of(value), name)
            case bytearray():
                self.entry("bytes", value, None, bytes(value), name)
            case _:
                return False
        return True

    def _expand_mapping(self, value: Any, name: str) -> None:
        if len(value) > _LONG and type(value) is dict:
            plain = all(type(k) in _MARSHALLED and type(v) in _MARSHALLED for k, v in value.items())
            if plain:
                self.entry("marshal", value, None, marshal.dumps(value, 2), name)
                return
        self.entry("keys", value, None, [*value], f"the keys of {name}")
        for key, item in list(value.items()):
            self.visit(key, f"a key of {name}")
            try:
                self.entry(
                    "item",
                    value,
                    key,
                    item,
                    f"{name}[{key!r}]" if isinstance(key, _PLAIN) else name,
                )
            except TypeError:
                self._give_up(f"it can reach {name}, whose keys cannot be compared")


def _wrapped_by(value: Any) -> Any:
    """What one of our own wrappers (a compiled function) runs; None for anything else."""
    if type(value).__module__.partition(".")[0] != "tracegrad":
        return None
    return getattr(value, "__wrapped__", None) or getattr(value, "__func__", None)


_proxies: dict[type, Any] = {}


def _proxy(cls: type) -> Any:
    """The namespace of a class as one object that stays the same."""
    found = _proxies.get(cls)
    if found is None:
        if len(_proxies) > 10_000:
            _proxies.clear()
        found = _proxies[cls] = cls.__dict__
    return found


def _kind_of_module(name: str, filename: str | None) -> str:
    top = name.partition(".")[0]
    if top in ("tracegrad", "numpy", "llvmlite", "builtins"):
        return INTERNAL
    if top in sys.stdlib_module_names and top != "__main__":
        return FOLLOWED
    return USER if filename is None else kind_of_file(filename)


def _kind_of_class(cls: type) -> str:
    module = cls.__module__
    if not isinstance(module, str):
        return USER
    top, _, rest = module.partition(".")
    if top == "tracegrad":
        return OURS if rest.startswith(("nn", "optim")) else INTERNAL
    if top == "numpy" or module == "builtins":
        return FOLLOWED
    if top in sys.stdlib_module_names and top != "__main__":
        return FOLLOWED
    return USER


def _has_our_base(cls: type) -> bool:
    return any(_kind_of_class(base) is OURS for base in cls.__mro__)


_transparent: dict[type, bool] = {}


def _is_transparent(cls: type) -> bool:
    """Whether all state of the instances of a class is in attributes, slots and containers that we look at."""
    found = _transparent.get(cls)
    if found is None:
        found = _transparent[cls] = all(
            base in _C_BASES or not _is_written_in_c(base)
            for base in cls.__mro__
            if base is not object
        )
    return found or cls is object


def _is_written_in_c(cls: type) -> bool:
    if cls.__flags__ >> 8 & 1:  # Py_TPFLAGS_IMMUTABLETYPE: static types.
        return True
    base = cls.__base__
    slots = cls.__dict__.get("__slots__", ())
    count = 1 if isinstance(slots, str) else len(tuple(slots))
    return base is not None and cls.__basicsize__ - base.__basicsize__ > 16 + 8 * count


def _is_numpy_random(value: Any) -> bool:
    if value is np.random:
        return True
    owner = getattr(value, "__self__", None)
    module = getattr(value, "__module__", None) if callable(value) else None
    return any(
        isinstance(name, str) and name.startswith("numpy.random")
        for name in (module, type(owner).__module__, type(value).__module__)
    )


class StateGuard:
    """The state that a traced run depends on.

    Attributes:
        entries: the places and what they held.
        tensors: tensors that can be reached, by id.
        names: the attribute names that the code mentions.
        users_names: those that the user's own code mentions.
        probes: whether the code may ask for attributes that are not there.
        check: ``check() -> bool``: whether all places hold what they held.
    """

    def __init__(self, snapshot: Snapshot, lifted: Collection[Place] = ()) -> None:
        self.entries = [e for place, e in snapshot.entries.items() if place not in lifted]
        self.tensors = snapshot.tensors
        self.names = frozenset(snapshot._names)
        self.users_names = frozenset(snapshot.users_names)
        self.probes = snapshot.probes
        self.check = _generate_check(self.entries)

    def changed(self) -> list[Entry]:
        """The places that hold something else now."""
        return [entry for entry in self.entries if not entry.holds()]


class UnknownStateError(Exception):
    """A run depends on state that nobody looked at before it. Next time one can."""


def guard_of(
    before: Snapshot,
    roots: list[tuple[Any, str]],
    ran: Ran,
    found: dict[int, types.FunctionType],
    lifted: Collection[Place] = (),
) -> StateGuard:
    """The guard of a run.

    Args:
        before: the snapshot taken before it.
        roots: the function and those of its arguments that are neither tensors nor plain.
        ran: the code that ran.
        found: functions that had to be searched for; more are added.
        lifted: places whose values the run may be repeated with others.

    Raises:
        UnguardableError: some state cannot be compared, or the run changed it.
        UnknownStateError: the snapshot before did not look everywhere.
    """
    roots = [*roots, *((function, function.__name__) for function in found.values())]
    after = Snapshot(ran).take(roots)
    if after.unguardable is not None:
        raise UnguardableError(after.unguardable)
    missing = after.unseen_functions()
    if missing:
        wanted = {id(code) for code in missing}
        for function in gc.get_referrers(*missing):
            if isinstance(function, types.FunctionType) and id(function.__code__) in wanted:
                found[id(function)] = function
        raise UnknownStateError(missing[0].co_qualname)
    unknown = None
    for place, entry in after.entries.items():
        former = before.entries.get(place)
        if former is None:
            unknown = unknown or entry.name
        elif not former.holds():
            raise UnguardableError(f"it changes Python state: {former.name}")
    if unknown is not None:
        raise UnknownStateError(unknown)
    return StateGuard(after, lifted)


def _generate_check(entries: list[Entry]) -> Callable[[], bool]:
    """Compile the comparison of all entries into one Python function: about 20 ns per place."""
    space = dict(CHECK_NAMES)
    tests = tests_of(entries, space)
    lines = ["def check():", "    try:", "        return ("]
    lines += [f"            {test} and" for test in tests]
    lines += ["            True)", "    except Exception:", "        return False"]
    exec(compile("\n".join(lines), "<guards>", "exec"), space)
    return space["check"]


def tests_of(entries: Iterable[Entry], space: dict[str, Any]) -> list[str]:
    """Python expressions that are true while the places hold what they held.

    They raise an exception where a place is not there any more.

    Args:
        space: the namespace in which they will be evaluated; what they need is added to `CHECK_NAMES`.
    """
    tests = []
    for number, entry in enumerate(entries):
        c, k, v = f"gc{number}", f"gk{number}", f"gv{number}"
        space[c], space[k], space[v] = entry.container, entry.key, entry.value
        if type(entry.key) in (str, int):
            k = repr(entry.key)
        template = _TESTS.get(entry.kind)
        if entry.kind == "keys" and not entry.value:
            template = "not {c}"  # Most tables of hooks and buffers are empty.
        elif entry.value is _MISSING:
            template = "is_empty({c})" if entry.kind == "cell" else "is_missing({c}, {k})"
        if template is None:
            read = reading(entry, c, k)
            if entry.value is None or isinstance(entry.value, bool):
                template = f"{read} is {entry.value}"
            elif type(entry.value) in _PLAIN_TYPES or isinstance(entry.value, np.generic):
                template = f"((x := {read}) is {v} or same(x, {v}))"
            else:
                template = f"{read} is {v}"
        tests.append(template.format(c=c, k=k, v=v))
    return tests


def reading(entry: Entry, container: str, key: str) -> str:
    """The Python expression that reads a place, given the names of its container and its key."""
    if entry.kind == "item":
        return f"{container}[{key}]"
    return f"{container}.cell_contents" if entry.kind == "cell" else f"{container}.{entry.key}"


_TESTS = {
    "absent": "{k} not in {c}",
    "keys": "[*{c}] == {v}",
    "length": "length({c}) == {v}",
    "items": "same_items({c}, {v})",
    "members": "{c} == {v}",
    "bytes": "bytes_of({c}) == {v}",
    "marshal": "dumps({c}, 2) == {v}",
}


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def _is_missing(container: Any, key: str) -> bool:
    return getattr(container, key, _MISSING) is _MISSING


CHECK_NAMES: dict[str, Any] = {
    "same": same, "same_items": same_items, "bytes_of": _bytes_of, "dumps": marshal.dumps, "length": len,
    "is_empty": _is_empty, "is_missing": _is_missing,
}  # fmt: skip
"""What the expressions of `tests_of` refer to."""
