"""The native entry point: from a Python call into machine code in well under 0.1 us.

:func:`emit_entry` adds to a module a function with CPython's ``METH_FASTCALL`` signature, which
calls the body with the data pointers of its arguments; :func:`bind_entry` makes a Python callable
of it, once the module is loaded. The data structure is :class:`ArraySpec`, what one argument has
to be. Start reading at :func:`emit_entry`.

The arguments are checked by one function that all entries share. It is compiled once and goes by a
constant table that each entry has: a header, a row per argument, then all extents. An entry holds
no address of this process: the few it needs (that table, the checker, the array type, the dtypes,
functions of CPython) it finds through its ``self``, a :class:`_Binding`. So object code can be kept
on disk and loaded anywhere.

Fields are read at fixed offsets, which are NumPy's public C interface (``PyArrayObject_fields``);
:func:`entry_supported` compares them with what Python says about known arrays. Where it finds
another layout, arguments have to be passed through ctypes.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import llvmlite.ir as ll
import numpy as np

from ..ir.types import DTYPES, DType
from . import disk_cache
from .engine import NativeModule, ObjectCode, compile_object, host, load_object
from .ll_loops import for_range, splat
from .ll_types import I1, I8, I32, I64, POINTER

OK = 0
GUARD_FAILED = 1
REFUSED = 2
OUT_OF_BOUNDS = 3

# Offsets in PyObject and PyArrayObject_fields, in bytes.
_OB_TYPE = 8
_DATA = 16
_NDIM = 24
_DIMENSIONS = 32
_STRIDES = 40
_DESCR = 56
_FLAGS = 64
_FIELDS_END = 72

_C_CONTIGUOUS = 0x0001
_ALIGNED = 0x0100
_WRITEABLE = 0x0400

_METH_FASTCALL = 0x0080

# The order of the pointers in a binding; the dtypes follow.
_TABLE, _CHECK, _NDARRAY, _NEW_INT, _SAVE_THREAD, _RESTORE_THREAD, _FIRST_DTYPE = range(7)
_POINTERS = _FIRST_DTYPE + len(DTYPES)

_DTYPE_SLOTS = {dtype: _FIRST_DTYPE + i for i, dtype in enumerate(DTYPES)}

# The header of an entry's table, and the columns of its rows.
_COUNT, _WRITTEN_RANGES, _RANGES, _HEADER = range(4)
_ROW_NDIM, _ROW_EXTENTS, _ROW_FLAGS, _ROW_DTYPE, _ROW_BYTES, _ROW_RANGE, _COLUMNS = range(7)

# How many ranges are compared at once.
_LANES = 4


class ArraySpec(NamedTuple):
    """What one argument of an entry has to be: a C-contiguous array of this type.

    Attributes:
        dtype: element type.
        shape: the exact shape.
        written: the body writes to it, so it must be writeable and overlap no other argument.
    """

    dtype: DType
    shape: tuple[int, ...]
    written: bool = False

    @property
    def nbytes(self) -> int:
        size = self.dtype.itemsize
        for extent in self.shape:
            size *= extent
        return size


def emit_entry(
    module: ll.Module,
    name: str,
    body: ll.Function,
    arrays: Sequence[ArraySpec],
    *,
    release_gil: bool = False,
) -> ll.Function:
    """Emit a function that Python can call directly, see :func:`bind_entry`.

    It takes one NumPy array per item of ``arrays``, positionally, and returns an int: what the body
    returned, or :data:`REFUSED` without calling it. Refused are another number of arguments, any
    type but ``numpy.ndarray`` itself, another element type (only NumPy's own dtype object is
    accepted, not an equal one), byte order, shape, or memory that is not C-contiguous, not aligned
    or, where it is written, read-only or shared with another argument. It raises nothing.

    The time for the checks is linear in the number of arguments, plus a comparison for each written
    one with each other one.

    Args:
        module: where to emit; the module that holds ``body``.
        name: symbol of the entry; ``name.arguments`` is used as well.
        body: ``i32 body(ptr, ptr, ...)``, one data pointer for each of ``arrays``. It may rely on
            the pointers that are written not to alias any other.
        arrays: what the arguments have to be.
        release_gil: let other Python threads run during the body.

    Raises:
        ValueError: ``body`` does not take one pointer per array.
    """
    if len(body.args) != len(arrays):
        raise ValueError(
            f"the body of the entry {name!r} takes {len(body.args)} pointers for "
            f"{len(arrays)} arrays"
        )
    values = [I64(value) for value in _table(arrays)]
    table = ll.GlobalVariable(module, ll.ArrayType(I64, len(values)), f"{name}.arguments")
    table.global_constant = True
    table.initializer = ll.Constant(table.value_type, values)

    entry = ll.Function(module, ll.FunctionType(POINTER, [POINTER, POINTER, I64]), name)
    owner, arguments, count = entry.args
    builder = ll.IRBuilder(entry.append_basic_block("entry"))
    accepted = entry.append_basic_block("accepted")
    refused = entry.append_basic_block("refused")
    binding = _field(builder, owner, _DATA)
    data = builder.alloca(POINTER, I64(len(arrays)), "data")
    fits = _call_bound(builder, binding, _CHECK, I1, [binding, arguments, count, data])
    builder.cbranch(fits, accepted, refused)

    builder.position_at_end(accepted)
    pointers = [_load_pointer(builder, data, I64(i)) for i in range(len(arrays))]
    if release_gil:
        thread = _call_bound(builder, binding, _SAVE_THREAD, POINTER, [])
        status = builder.call(body, pointers)
        _call_bound(builder, binding, _RESTORE_THREAD, ll.VoidType(), [thread])
    else:
        status = builder.call(body, pointers)
    code = builder.sext(status, I64)
    builder.ret(_call_bound(builder, binding, _NEW_INT, POINTER, [code]))

    builder.position_at_end(refused)
    builder.ret(_call_bound(builder, binding, _NEW_INT, POINTER, [I64(REFUSED)]))
    return entry


def _table(arrays: Sequence[ArraySpec]) -> list[int]:
    # The ranges to compare: first those that are written. Nothing overlaps an empty array.
    occupied = [i for i, spec in enumerate(arrays) if spec.nbytes]
    occupied.sort(key=lambda i: not arrays[i].written)
    place = {index: place for place, index in enumerate(occupied)}
    header = [0] * _HEADER
    header[_COUNT] = len(arrays)
    header[_RANGES] = len(occupied)
    header[_WRITTEN_RANGES] = sum(arrays[i].written for i in occupied)

    rows: list[int] = []
    extents: list[int] = []
    for index, spec in enumerate(arrays):
        row = [0] * _COLUMNS
        row[_ROW_NDIM] = len(spec.shape)
        row[_ROW_EXTENTS] = _HEADER + _COLUMNS * len(arrays) + len(extents)
        row[_ROW_FLAGS] = _C_CONTIGUOUS | _ALIGNED | (_WRITEABLE if spec.written else 0)
        row[_ROW_DTYPE] = _DTYPE_SLOTS[spec.dtype]
        row[_ROW_BYTES] = spec.nbytes
        row[_ROW_RANGE] = place.get(index, len(occupied))  # the place after the last is not read
        rows += row
        extents += spec.shape
    return header + rows + extents


@lru_cache(maxsize=1)
def _compile_checker() -> NativeModule:
    module = ll.Module("entry")
    _CheckerEmitter(module).emit()
    text = str(module)
    key = disk_cache.key_of([text, repr(host())])
    stored = disk_cache.load(key)
    if stored is None:
        code = compile_object(text, optimize=1)
        disk_cache.store(key, disk_cache.Stored([], code.data))
    else:
        code = ObjectCode(stored.data, optimize=1)
    return load_object(code)


class _CheckerEmitter:
    """Emits ``i1 check(ptr binding, ptr arguments, i64 count, ptr data)``.

    The function tells whether the arguments are what the binding's table wants, and stores their
    data pointers. ``refused`` is the block where failed checks go.
    """

    def __init__(self, module: ll.Module) -> None:
        type_ = ll.FunctionType(I1, [POINTER, POINTER, I64, POINTER])
        self.function = ll.Function(module, type_, "check")
        self.binding, self.arguments, self.count, self.data = self.function.args
        self.builder = ll.IRBuilder(self.function.append_basic_block("entry"))
        self.refused = self.function.append_basic_block("refused")
        self.table = self._bound(I64(_TABLE))

    def emit(self) -> None:
        builder = self.builder
        self._require(builder.icmp_signed("==", self.count, self._wanted(I64(_COUNT))))
        # The start and the end of each range.
        places = builder.add(self.count, I64(_LANES))
        self.starts = builder.alloca(POINTER, places, "starts")
        self.ends = builder.alloca(POINTER, places, "ends")
        with for_range(builder, I64(0), self.count, name="argument", unroll=False) as loop:
            self._check_argument(loop.index)
        self._check_overlaps()
        builder.ret(I1(True))
        builder.position_at_end(self.refused)
        builder.ret(I1(False))

    def _check_argument(self, index: ll.Value) -> None:
        builder = self.builder
        array = _load_pointer(builder, self.arguments, index)
        ndarray = self._bound(I64(_NDARRAY))
        self._require(builder.icmp_unsigned("==", _field(builder, array, _OB_TYPE), ndarray))
        # From here on it is an array, and its fields can be read.
        first = builder.add(builder.mul(index, I64(_COLUMNS)), I64(_HEADER))
        row = [self._wanted(builder.add(first, I64(column))) for column in range(_COLUMNS)]
        ndim = builder.sext(_field(builder, array, _NDIM, I32), I64)
        flags = builder.sext(_field(builder, array, _FLAGS, I32), I64)
        same_dtype = builder.icmp_unsigned(
            "==", _field(builder, array, _DESCR), self._bound(row[_ROW_DTYPE])
        )
        same_ndim = builder.icmp_signed("==", ndim, row[_ROW_NDIM])
        has_flags = builder.icmp_signed("==", builder.and_(flags, row[_ROW_FLAGS]), row[_ROW_FLAGS])
        self._require(builder.and_(builder.and_(same_dtype, same_ndim), has_flags))

        dimensions = _field(builder, array, _DIMENSIONS)
        with for_range(builder, I64(0), ndim, name="axis", unroll=False) as axis:
            found = builder.load(_element(builder, dimensions, axis.index, I64), typ=I64)
            wanted = self._wanted(builder.add(row[_ROW_EXTENTS], axis.index))
            self._require(builder.icmp_signed("==", found, wanted))

        data = _field(builder, array, _DATA)
        end = builder.gep(data, [row[_ROW_BYTES]], source_etype=I8)
        builder.store(data, _element(builder, self.data, index))
        builder.store(data, _element(builder, self.starts, row[_ROW_RANGE]))
        builder.store(end, _element(builder, self.ends, row[_ROW_RANGE]))

    def _check_overlaps(self) -> None:
        builder = self.builder
        ranges = self._wanted(I64(_RANGES))
        # Several at once: beyond the last there are some that begin nowhere and overlap nothing.
        vector = ll.VectorType(POINTER, _LANES)
        nowhere = ll.Constant(vector, None)
        for table in (self.starts, self.ends):
            builder.store(nowhere, _element(builder, table, ranges), align=8)
        with for_range(
            builder, I64(0), self._wanted(I64(_WRITTEN_RANGES)), name="written", unroll=False
        ) as written:
            start, end = (
                splat(builder, _load_pointer(builder, table, written.index), _LANES)
                for table in (self.starts, self.ends)
            )
            following = builder.add(written.index, I64(1))
            nothing = ll.Constant(ll.VectorType(I1, _LANES), None)
            with for_range(
                builder, following, ranges, _LANES, "other", carried=[nothing], unroll=False
            ) as other:
                other_start, other_end = (
                    builder.load(_element(builder, table, other.index), align=8, typ=vector)
                    for table in (self.starts, self.ends)
                )
                both = builder.and_(
                    builder.icmp_unsigned("<", start, other_end),
                    builder.icmp_unsigned("<", other_start, end),
                )
                other.yield_(builder.or_(other.values[0], both))
            bits = ll.IntType(_LANES)
            found = builder.bitcast(other.results[0], bits)
            self._require(builder.icmp_unsigned("==", found, bits(0)))

    def _require(self, condition: ll.Value) -> None:
        fits = self.function.append_basic_block("fits")
        self.builder.cbranch(condition, fits, self.refused)
        self.builder.position_at_end(fits)

    def _bound(self, slot: ll.Value) -> ll.Value:
        return _load_pointer(self.builder, self.binding, slot)

    def _wanted(self, index: ll.Value) -> ll.Value:
        return self.builder.load(_element(self.builder, self.table, index, I64), typ=I64)


def _element(
    builder: ll.IRBuilder, table: ll.Value, index: ll.Value, type_: ll.Type = POINTER
) -> ll.Value:
    return builder.gep(table, [index], inbounds=True, source_etype=type_)


def _load_pointer(builder: ll.IRBuilder, table: ll.Value, index: ll.Value) -> ll.Value:
    return builder.load(_element(builder, table, index), typ=POINTER)


def _field(
    builder: ll.IRBuilder, instance: ll.Value, offset: int, type_: ll.Type = POINTER
) -> ll.Value:
    place = builder.gep(instance, [I64(offset)], inbounds=True, source_etype=I8)
    return builder.load(place, typ=type_)


def _call_bound(
    builder: ll.IRBuilder,
    binding: ll.Value,
    slot: int,
    result: ll.Type,
    arguments: list[ll.Value],
) -> ll.Value:
    type_ = ll.FunctionType(result, [value.type for value in arguments])
    place = _element(builder, binding, I64(slot))
    return builder.call(builder.load(place, typ=type_.as_pointer()), arguments)


class _PyMethodDef(ctypes.Structure):
    _fields_ = (
        ("ml_name", ctypes.c_char_p),
        ("ml_meth", ctypes.c_void_p),
        ("ml_flags", ctypes.c_int),
        ("ml_doc", ctypes.c_char_p),
    )


class _Binding(ctypes.Structure):
    """What a callable owns: the pointers that its code uses, and the machine code itself."""

    _fields_ = (("pointers", ctypes.c_void_p * _POINTERS), ("method", _PyMethodDef))
    code: tuple[NativeModule, ...]


def bind_entry(native: NativeModule, name: str) -> Callable[..., int]:
    """The Python callable of an entry that :func:`emit_entry` put into this module.

    The callable keeps the machine code alive, and nothing else has to.

    Raises:
        KeyError: the module has no such entry.
        RuntimeError: this Python has other object layouts, see :func:`entry_supported`.
    """
    if not entry_supported():
        raise RuntimeError("native entry points need 64-bit CPython with a GIL")
    checker = _compile_checker()
    binding = _Binding(
        (native.address(f"{name}.arguments"), checker.address("check"), *_addresses()),
        _PyMethodDef(name.encode(), native.address(name), _METH_FASTCALL, None),
    )
    binding.code = (native, checker)
    # A builtin function owns its ``self``, and frees it last. An array in that place keeps the
    # binding where the garbage collector cannot see it: in a dead reference cycle it would
    # otherwise free the machine code before it runs the ``__del__`` methods, which may yet call it.
    owner = np.frombuffer(memoryview(binding).cast("B"), dtype=np.uint8)
    owner.flags.writeable = False
    return _new_function()(ctypes.byref(binding, _Binding.method.offset), owner, None)


@lru_cache(maxsize=1)
def _new_function() -> Callable[..., Callable[..., int]]:
    # A prototype of our own: setting argtypes on ``ctypes.pythonapi`` would change everybody's.
    prototype = ctypes.PYFUNCTYPE(
        ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p
    )
    return prototype(("PyCFunction_NewEx", ctypes.pythonapi))


@lru_cache(maxsize=1)
def _addresses() -> tuple[int, ...]:
    """The pointers of a binding from ``_NDARRAY`` on. What they point to is never freed."""
    functions = ("PyLong_FromSsize_t", "PyEval_SaveThread", "PyEval_RestoreThread")
    prototype = ctypes.PYFUNCTYPE(None)
    return (
        id(np.ndarray),
        *(
            ctypes.cast(prototype((function, ctypes.pythonapi)), ctypes.c_void_p).value or 0
            for function in functions
        ),
        *(id(dtype.np) for dtype in DTYPES),
    )


@lru_cache(maxsize=1)
def entry_supported() -> bool:
    """Whether objects of this Python and this NumPy look as compiled entries expect them to.

    True on 64-bit CPython with a GIL. A free-threaded build has a larger object header, and its
    arrays may change while they are checked.
    """
    if sys.implementation.name != "cpython" or struct.calcsize("P") != 8:
        return False
    if object.__basicsize__ != _DATA or np.ndarray.__basicsize__ < _FIELDS_END:
        return False
    base = np.zeros((3, 4, 5), dtype=np.float32)
    readonly = np.zeros(2)
    readonly.flags.writeable = False
    samples: list[np.ndarray[Any, Any]] = [base, base.T, base[1:, ::2], base[0, 0, 0:0], readonly]
    samples += [np.zeros((), dtype.np) for dtype in DTYPES]
    return all(_has_known_layout(sample) for sample in samples)


def _has_known_layout(array: np.ndarray[Any, Any]) -> bool:
    def read(offset: int, type_: Any = ctypes.c_ssize_t) -> int:
        return int(type_.from_address(id(array) + offset).value)

    fields = (
        read(_OB_TYPE) == id(np.ndarray)
        and read(_DATA) == array.__array_interface__["data"][0]
        and read(_NDIM, ctypes.c_int) == array.ndim
        and read(_DESCR) == id(array.dtype)
        and read(_FLAGS, ctypes.c_int) == array.flags.num
    )
    if not fields or array.ndim == 0:
        return fields
    vector = ctypes.c_ssize_t * array.ndim
    dimensions, strides = read(_DIMENSIONS), read(_STRIDES)
    # The two lie in one block, so a wrong pointer is noticed before it is followed.
    return strides == dimensions + ctypes.sizeof(vector) and (
        (*vector.from_address(dimensions),) == array.shape
        and (*vector.from_address(strides),) == array.strides
    )
