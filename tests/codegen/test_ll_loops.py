"""Loops, vector loads and stores, constants: what small functions made of them compute."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import llvmlite.ir as ll
from tracegrad.codegen.engine import NativeModule, compile_module, host
from tracegrad.codegen.ll_loops import (
    element_pointer,
    for_range,
    load_vector,
    loop_nest,
    splat,
    store_vector,
)
from tracegrad.codegen.ll_types import (
    F32,
    I64,
    POINTER,
    constant,
    lanes_for,
    lanes_of,
    memory_type,
    scalar_type,
    vector_type,
)
from tracegrad.ir.types import DTYPES, DType, bool_, float32, float64, int8, int64, uint8


def new_function(result: ll.Type, *arguments: ll.Type) -> ll.IRBuilder:
    function = ll.Function(ll.Module(), ll.FunctionType(result, arguments), "f")
    return ll.IRBuilder(function.append_basic_block())


def finish(builder: ll.IRBuilder, *arguments: Any, result: Any = None) -> Callable[..., Any]:
    native = compile_module(builder.module)
    function = ctypes.CFUNCTYPE(result, *arguments)(native.address("f"))

    def call(*values: Any, native: NativeModule = native) -> Any:  # keeps the code
        return function(*values)

    return call


@pytest.mark.parametrize("known", [(), ("start",), ("stop",), ("start", "stop")], ids=str)
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (0, 1), (0, 2), (0, 10), (2, 9), (5, 2), (-4, 4)]
)
def test_loop_carries_values(start: int, stop: int, step: int, known: tuple[str, ...]) -> None:
    builder = new_function(I64, I64, I64)
    first, last = builder.function.args
    if "start" in known:
        first = start
    if "stop" in known:
        last = stop
    with for_range(builder, first, last, step, carried=[I64(7), I64(1)]) as loop:
        total, turns = loop.values
        total = builder.add(builder.mul(total, I64(3)), loop.index)
        loop.yield_(total, builder.add(turns, I64(1)))
    total, turns = loop.results
    builder.ret(builder.add(builder.mul(total, I64(1000)), turns))

    expected, count = 7, 1
    for i in range(start, stop, step):
        expected, count = expected * 3 + i, count + 1
    call = finish(builder, ctypes.c_int64, ctypes.c_int64, result=ctypes.c_int64)
    assert call(start, stop) == expected * 1000 + count


def test_loop_that_never_runs_does_nothing() -> None:
    builder = new_function(I64, POINTER)
    with for_range(builder, 3, 3):
        builder.store(I64(1), builder.function.args[0])
    builder.ret(I64(0))
    native = compile_module(builder.module)
    assert "store" not in native.llvm_text


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 4), (2, 0, 3)], ids=str)
def test_loop_nest_visits_all_indices_in_order(shape: tuple[int, ...]) -> None:
    builder = new_function(ll.VoidType(), POINTER)
    count = builder.alloca(ll.ArrayType(I64, 1))
    count.type = POINTER
    builder.store(I64(0), count)
    with loop_nest(builder, shape) as indices:
        assert len(indices) == len(shape)
        code = I64(0)
        for index in indices:
            code = builder.add(builder.mul(code, I64(10)), index)
        at = builder.load(count, typ=I64)
        place = element_pointer(builder, builder.function.args[0], int64, at)
        store_vector(builder, code, place, int64, 1)
        builder.store(builder.add(at, I64(1)), count)
    builder.ret_void()
    result = np.full(30, -1)
    finish(builder, ctypes.c_void_p)(result.ctypes.data)
    expected = [int("".join(map(str, ("0", *index)))) for index in np.ndindex(shape)]
    np.testing.assert_array_equal(result[: len(expected)], expected)
    assert (result[len(expected) :] == -1).all()


def test_wrong_use_of_a_loop_is_an_error() -> None:
    builder = new_function(I64)
    with (
        pytest.raises(ValueError, match="must call yield_"),
        for_range(builder, 0, 4, carried=[I64(0)]),
    ):
        pass
    with (
        pytest.raises(ValueError, match="carries 1 values, not 2"),
        for_range(builder, 0, 4, carried=[I64(0)]) as loop,
    ):
        loop.yield_(I64(0), I64(0))
    with for_range(builder, 0, 4, carried=[I64(0)]) as loop:
        loop.yield_(I64(0))
        with pytest.raises(ValueError, match="called twice"):
            loop.yield_(I64(0))
    with pytest.raises(ValueError, match="positive"), for_range(builder, 0, 4, 0):
        pass


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_copying_by_vectors(dtype: DType, dynamic: bool, rng: np.random.Generator) -> None:
    lanes = lanes_for(dtype, host())
    for count in (1, 2, 3, lanes - 1, lanes, lanes + 1, 3 * lanes + lanes // 2):
        builder = new_function(ll.VoidType(), POINTER, POINTER, I64)
        source, target, length = builder.function.args
        with for_range(builder, 0, length if dynamic else count, lanes, unroll=False) as loop:
            if dynamic:
                active: Any = builder.sub(length, loop.index)
            else:
                active = min(lanes, count) if count <= lanes else None
            value = load_vector(
                builder,
                element_pointer(builder, source, dtype, loop.index),
                dtype,
                lanes,
                active,
            )
            assert value.type == vector_type(dtype, lanes)
            store_vector(
                builder,
                value,
                element_pointer(builder, target, dtype, loop.index),
                dtype,
                lanes,
                active,
            )
        builder.ret_void()
        whole = count if dynamic or count <= lanes else -(-count // lanes) * lanes
        data = rng.integers(0, 2 if dtype is bool_ else 100, whole + lanes).astype(dtype.np)
        copy = np.zeros_like(data)
        arguments = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        finish(builder, *arguments)(data.ctypes.data, copy.ctypes.data, count)
        np.testing.assert_array_equal(copy[:whole], data[:whole])
        assert not copy[whole:].any()


def test_missing_lanes_are_filled() -> None:
    builder = new_function(ll.VoidType(), POINTER, POINTER)
    source, target = builder.function.args
    zeros = load_vector(builder, source, float32, 4, 3)
    ones = load_vector(builder, source, float32, 4, 2, constant(float32, 1, 4))
    store_vector(builder, builder.fadd(zeros, ones), target, float32, 4)
    builder.ret_void()
    data, result = np.full(3, 5, np.float32), np.zeros(4, np.float32)
    finish(builder, ctypes.c_void_p, ctypes.c_void_p)(data.ctypes.data, result.ctypes.data)
    np.testing.assert_array_equal(result, [10, 10, 6, 1])


def test_splat_of_one_lane_is_the_scalar() -> None:
    builder = new_function(F32, F32)
    (x,) = builder.function.args
    assert splat(builder, x, 1) is x
    assert lanes_of(splat(builder, x, 8).type) == 8
    assert lanes_of(x.type) == 1


def test_bool_is_a_bit_in_registers_and_a_byte_in_memory() -> None:
    assert str(scalar_type(bool_)) == "i1"
    assert str(memory_type(bool_)) == "i8"
    for dtype in DTYPES:
        assert vector_type(dtype, 1) is scalar_type(dtype)
        if dtype is not bool_:
            assert memory_type(dtype) is scalar_type(dtype)


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (float32, 0.1, np.float32(0.1)),
        (float32, 1e300, np.inf),
        (float32, -0.0, -0.0),
        (float64, 1e-320, 1e-320),
        (float64, np.nan, np.nan),
        (float64, -np.inf, -np.inf),
        (int64, -(2**63), -(2**63)),
        (int64, 2**64 - 1, -1),
        (int8, 200, -56),
        (uint8, 200, 200),
        (bool_, 7, True),
        (bool_, False, False),
    ],
)
@pytest.mark.parametrize("lanes", [1, 4])
def test_constants(dtype: DType, value: Any, expected: Any, lanes: int) -> None:
    builder = new_function(ll.VoidType(), POINTER)
    store_vector(builder, constant(dtype, value, lanes), builder.function.args[0], dtype, lanes)
    builder.ret_void()
    result = np.zeros(lanes, dtype.np)
    finish(builder, ctypes.c_void_p)(result.ctypes.data)
    np.testing.assert_array_equal(result, np.full(lanes, expected, dtype.np))
    if dtype.is_floating:
        np.testing.assert_array_equal(np.signbit(result), np.signbit(result.dtype.type(expected)))
