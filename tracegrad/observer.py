"""What Python runs while a function is traced: which code, and which functions written in C.

A trace sees tensors only. What else a function does is seen here, with a profile function: the code that ran is
what guards have to cover (:mod:`tracegrad.guards`); a call of a C function that reads or changes the world outside
of the guarded state (a clock, a random number, a file, ``print``) means that the run must not be replayed. Which C
functions are harmless is listed; all others are not. Start reading at :meth:`Observer.__enter__`.
"""

from __future__ import annotations

import collections
import datetime
import gc
import os
import re
import sys
import types
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import numpy as np

from tracegrad import dispatch
from tracegrad.ir.location import SourceLocation, is_internal

# Kinds of code, by the file that it comes from.
USER = "user"
"""The user's, or that of a package that we know nothing of."""
FOLLOWED = "followed"
"""Of the standard library, harmless: seen like the user's."""
OURS = "ours"
"""tracegrad.nn and tracegrad.optim: what it reads of objects is guarded, its globals are constant."""
INTERNAL = "internal"
"""The rest of tracegrad, NumPy, the import machinery: reads nothing but its arguments."""
DENIED = "denied"
"""Of the standard library; may read or change the world."""

_FOLLOWED_MODULES = frozenset(
    "contextlib functools collections _collections_abc abc _py_abc enum dataclasses typing types operator copy "
    "copyreg numbers fractions decimal _pydecimal statistics string textwrap re sre_compile sre_parse reprlib "
    "heapq bisect graphlib weakref _weakrefset json keyword colorsys posixpath ntpath genericpath argparse".split()
)
_PURE_BUILTINS = frozenset(
    "abs all any ascii bin callable chr divmod format getattr hasattr hash hex id isinstance issubclass iter len max "
    "min next oct ord pow repr round sorted sum setattr delattr __build_class__".split()
)
_PURE_MODULES = frozenset(
    "math cmath _operator _functools itertools _collections _bisect _heapq _struct _abc _json _string _sre "
    "binascii _statistics unicodedata _decimal".split()
)
_READING_NUMPY = frozenset(
    "load fromfile loadtxt genfromtxt memmap save savez savetxt tofile dump".split()
)
_PURE_INSTANCES: tuple[Any, ...] = (
    list, dict, tuple, set, frozenset, str, bytes, bytearray, int, float, complex, range, slice, property,
    types.MappingProxyType, types.GeneratorType, types.SimpleNamespace, collections.deque, np.ndarray, np.generic,
    np.ufunc, np.dtype, re.Pattern, re.Match, datetime.date, datetime.time, datetime.timedelta,
    BaseException, type({}.keys()), type({}.values()), type({}.items()), memoryview, type(iter([])),
)  # fmt: skip
_PURE_CLASS_METHODS = frozenset(
    "__new__ fromkeys fromhex from_bytes maketrans mro __subclasses__ __init_subclass__ __subclasshook__ "
    "__prepare__ __instancecheck__ __subclasscheck__".split()
)
_ONE_PROFILER = sys.version_info < (3, 12)
"""Whether switching the profile function off and on is cheap."""

_kinds: dict[str, str] = {}
_stdlib = os.path.dirname(os.path.realpath(os.__file__)) + os.sep
_judged: dict[int, tuple[Any, str | None]] = {}


def exact_numbers() -> tuple[type, ...]:
    """Decimal and Fraction, if somebody has imported them: importing them ourselves would take milliseconds."""
    names = (("decimal", "Decimal"), ("fractions", "Fraction"))
    return tuple(
        getattr(sys.modules[module], name) for module, name in names if module in sys.modules
    )


def kind_of_file(filename: str) -> str:
    """The kind of the code in a file."""
    kind = _kinds.get(filename)
    if kind is None:
        kind = _kinds[filename] = _find_kind(filename)
    return kind


def kind_of_code(code: CodeType, names: dict[str, Any]) -> str:
    """The kind of some code, given its globals."""
    filename = code.co_filename
    kind = kind_of_file(filename)
    if kind is USER and filename.startswith("<"):
        # Generated code: of whom?
        module = str(names.get("__name__", ""))
        if module.startswith(("namedtuple_", "tracegrad.", "numpy.")):
            return INTERNAL
    return kind


def _find_kind(filename: str) -> str:
    if is_internal(filename):
        parts = filename.replace("\\", "/").split("/")
        # Of the two packages themselves, or of a package inside of them.
        return INTERNAL if {"nn", "optim"}.isdisjoint(parts[-3:-1]) else OURS
    module = stdlib_module(filename)
    if module is None:
        return INTERNAL if "/numpy/" in filename.replace("\\", "/") else USER
    if module.startswith("importlib"):
        return INTERNAL
    return FOLLOWED if module in _FOLLOWED_MODULES else DENIED


def stdlib_module(filename: str) -> str | None:
    """The top-level module of the standard library that a file belongs to, or None."""
    if filename.startswith("<frozen "):
        return filename[8:-1].partition(".")[0]
    path = os.path.realpath(filename) if os.path.isabs(filename) else filename
    if not path.startswith(_stdlib):
        return None
    relative = path[len(_stdlib) :].replace("\\", "/")
    if relative.startswith(("site-packages/", "dist-packages/")):
        return None
    return relative.partition("/")[0].removesuffix(".py")


class Observer:
    """Watches one run of a function in this thread; a context manager.

    Attributes:
        codes: the code that ran and that guards have to cover: id -> (code, its globals, its kind).
        refusal: why the run must not be replayed, with the user's line; None as long as nothing was seen.
    """

    def __init__(self) -> None:
        self.codes: dict[int, tuple[CodeType, dict[str, Any], str]] = {}
        self.refusal: tuple[str, SourceLocation | None] | None = None
        self._kinds: dict[int, str] = {}
        self._keep: list[CodeType] = []
        self._watching = False
        self._suspended = False
        self._collecting = False
        self._restore: Callable[[], None] | None = None

    def __enter__(self) -> Observer:
        former = sys.getprofile()
        if former is not None and hasattr(former, "disable") and hasattr(former, "enable"):
            former.disable()  # A profiler written in C.
            self._restore = former.enable
        else:
            self._restore = lambda: sys.setprofile(former)
        # Callbacks of the garbage collector are no part of the function.
        self._collecting = gc.isenabled()
        gc.disable()
        self._watching = True
        sys.setprofile(self._event)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._watching = False
        sys.setprofile(None)
        if self._collecting:
            gc.enable()
        assert self._restore is not None
        self._restore()

    def resume(self) -> None:
        """Look again, after an operation on tensors was done."""
        if self._suspended and self._watching:
            self._suspended = False
            sys.setprofile(self._event)

    def suspend(self) -> None:
        """Look away until `resume`: only our own code runs now."""
        if _ONE_PROFILER and self._watching and not self._suspended:
            self._suspended = True
            sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, function: Any) -> None:
        code = frame.f_code
        if event == "call":
            if code is _APPLY:
                # The operation itself is ours, and by far the most of what happens in a trace.
                self.suspend()
            elif id(code) not in self._kinds:
                self._first_call(frame, code)
        elif event == "c_call":
            kind = self._kinds.get(id(code))
            if kind is USER or kind is FOLLOWED:
                reason = _judge(function)
                if reason is not None and not (kind is FOLLOWED and _is_harmless_inside(function)):
                    self._refuse(reason, frame)

    def _first_call(self, frame: FrameType, code: CodeType) -> None:
        kind = kind_of_code(code, frame.f_globals)
        if kind in (FOLLOWED, DENIED) and _is_called_by_us(frame):
            return
        self._kinds[id(code)] = kind
        self._keep.append(code)
        if kind == DENIED:
            self._refuse(f"it runs {stdlib_module(code.co_filename)}.{code.co_qualname}", frame)
        elif kind != INTERNAL:
            self.codes[id(code)] = code, frame.f_globals, kind

    def _refuse(self, reason: str, frame: FrameType) -> None:
        if self.refusal is None:
            found: FrameType | None = frame
            while found is not None and kind_of_code(found.f_code, found.f_globals) != USER:
                found = found.f_back
            place = None if found is None else SourceLocation(found.f_code, found.f_lasti)
            self.refusal = reason, place


def _is_called_by_us(frame: FrameType) -> bool:
    """Whether the standard library runs on behalf of tracegrad itself."""
    caller = frame.f_back
    while caller is not None:
        kind = kind_of_code(caller.f_code, caller.f_globals)
        if kind in (INTERNAL, OURS, USER):
            return kind is not USER
        caller = caller.f_back
    return False


_APPLY = dispatch.apply.__code__


def _is_harmless_inside(function: Any) -> bool:
    """Whether the standard library may call a C function that users may not: what it gives does not come out."""
    return getattr(function, "__module__", None) == "sys"


def _judge(function: Any) -> str | None:
    """Why a call of a C function must not be replayed; None where it may."""
    owner = getattr(function, "__self__", None)
    if owner is None or isinstance(owner, types.ModuleType):
        known = _judged.get(id(function))
        if known is None:
            known = _judged[id(function)] = function, _judge_function(function)
        return known[1]
    name = function.__name__
    if isinstance(owner, type):
        pure = name in _PURE_CLASS_METHODS
    else:
        pure = isinstance(owner, _PURE_INSTANCES + exact_numbers()) and name not in _READING_NUMPY
        pure = pure or name in object.__dict__
    return None if pure else f"it calls {function.__qualname__}()"


def _judge_function(function: Any) -> str | None:
    module = getattr(function, "__module__", None) or ""
    name = function.__name__
    if module == "builtins":
        pure = name in _PURE_BUILTINS
    elif module.partition(".")[0] == "numpy":
        pure = not module.startswith("numpy.random") and name not in _READING_NUMPY
    else:
        pure = module in _PURE_MODULES
    return (
        None
        if pure
        else f"it calls {name}()"
        if module == "builtins"
        else f"it calls {module}.{name}()"
    )
