"""LLVM types and constants for the element types of the IR.

There is no data structure here, only mappings from :class:`~tracegrad.ir.types.DType`. One
convention runs through the code generator: *one lane is the scalar itself*, never ``<1 x
float>``; so the same emitter serves scalars and vectors. A bool is an ``i1`` in registers (what
comparisons give and selects take) and an ``i8``, 0 or 1, in memory (NumPy's representation).
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ll
import numpy as np

from ..ir.types import DType
from .engine import Host

I1 = ll.IntType(1)
I8 = ll.IntType(8)
I32 = ll.IntType(32)
I64 = ll.IntType(64)
F32 = ll.FloatType()
F64 = ll.DoubleType()
POINTER = ll.PointerType()

_REGISTER_TYPES: dict[str, ll.Type] = {
    "b1": I1,
    "u8": I8,
    "i8": I8,
    "i16": ll.IntType(16),
    "i32": I32,
    "i64": I64,
    "f32": F32,
    "f64": F64,
}


def scalar_type(dtype: DType) -> ll.Type:
    """The type of one element in a register; ``i1`` for a bool."""
    return _REGISTER_TYPES[dtype.name]


def memory_type(dtype: DType) -> ll.Type:
    """The type of one element in memory; ``i8`` for a bool, else that of the register."""
    return I8 if dtype.name == "b1" else _REGISTER_TYPES[dtype.name]


def with_lanes(type_: ll.Type, lanes: int) -> ll.Type:
    """``type_`` itself for one lane, else the vector of so many."""
    return type_ if lanes == 1 else ll.VectorType(type_, lanes)


def vector_type(dtype: DType, lanes: int) -> ll.Type:
    """The register type of ``lanes`` elements; the scalar type for one."""
    return with_lanes(scalar_type(dtype), lanes)


def lanes_of(type_: ll.Type) -> int:
    """The number of lanes of a register type; 1 for a scalar."""
    return int(type_.count) if isinstance(type_, ll.VectorType) else 1


def lanes_for(dtype: DType, host: Host) -> int:
    """How many elements one vector register of ``host`` holds."""
    return max(1, host.vector_bytes // dtype.itemsize)


def constant(type_: DType | ll.Type, value: Any, lanes: int = 1) -> ll.Constant:
    """A constant, the same in every lane.

    A float is rounded to the type, so that ``1e300`` is infinity as an ``f32``; an integer wraps.

    Args:
        type_: a DType, or the LLVM type of one lane.
        value: a Python or NumPy number or bool.
        lanes: number of lanes; 1 gives a scalar.
    """
    element = scalar_type(type_) if isinstance(type_, DType) else type_
    lane = ll.Constant(element, _as_literal(element, value))
    return lane if lanes == 1 else ll.Constant(ll.VectorType(element, lanes), [lane] * lanes)


def _as_literal(element: ll.Type, value: Any) -> float | int:
    if isinstance(element, ll.FloatType):
        with np.errstate(over="ignore"):
            return float(np.float32(value))
    if isinstance(element, ll.DoubleType):
        return float(value)
    if element.width == 1:
        return int(bool(value))
    number = int(value) & ((1 << element.width) - 1)
    return number - (1 << element.width) if number >> (element.width - 1) else number
