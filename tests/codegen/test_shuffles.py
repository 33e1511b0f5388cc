"""Shuffles: transposing and summing matrices held in registers, of all sizes."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import llvmlite.ir as ll
from tracegrad.codegen.engine import compile_module
from tracegrad.codegen.ll_loops import element_pointer, load_vector, store_vector
from tracegrad.codegen.ll_types import POINTER
from tracegrad.codegen.shuffles import sum_across, transpose
from tracegrad.ir.types import DType, float32, float64, int8, int32

POWERS = (1, 2, 4, 8, 16)


def new_function(module: ll.Module, name: str) -> ll.IRBuilder:
    type_ = ll.FunctionType(ll.VoidType(), [POINTER, POINTER])
    return ll.IRBuilder(ll.Function(module, type_, name).append_basic_block())


def load_rows(builder: ll.IRBuilder, dtype: DType, count: int, lanes: int) -> list[ll.Value]:
    source = builder.function.args[0]
    return [
        load_vector(builder, element_pointer(builder, source, dtype, row * lanes), dtype, lanes)
        for row in range(count)
    ]


@pytest.mark.parametrize("dtype", [float32, float64, int8], ids=lambda dtype: dtype.name)
def test_transpose(dtype: DType) -> None:
    module = ll.Module()
    shapes = list(itertools.product(POWERS, POWERS))
    for height, width in shapes:
        builder = new_function(module, f"f{height}x{width}")
        rows = load_rows(builder, dtype, height, width)
        turned = transpose(builder, rows, 16 // dtype.itemsize)
        assert len(turned) == width
        for i, row in enumerate(turned):
            place = element_pointer(builder, builder.function.args[1], dtype, i * height)
            store_vector(builder, row, place, dtype, height)
        builder.ret_void()
    native = compile_module(module, optimize=0)
    for height, width in shapes:
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2)(
            native.address(f"f{height}x{width}")
        )
        matrix = (np.arange(height * width) % 127).astype(dtype.np).reshape(height, width)
        result = np.zeros((width, height), dtype.np)
        function(matrix.ctypes.data, result.ctypes.data)
        np.testing.assert_array_equal(result, matrix.T)


@pytest.mark.parametrize("dtype", [float32, float64, int32], ids=lambda dtype: dtype.name)
def test_sum_across(dtype: DType) -> None:
    module = ll.Module()
    shapes = [(count, lanes) for lanes in POWERS[1:] for count in POWERS if count <= lanes]
    for count, lanes in shapes:
        builder = new_function(module, f"f{count}x{lanes}")
        add = builder.fadd if dtype.is_floating else builder.add
        rows = load_rows(builder, dtype, count, lanes)
        sums = sum_across(builder, rows, 16 // dtype.itemsize, add)
        store_vector(builder, sums, builder.function.args[1], dtype, count)
        builder.ret_void()
    native = compile_module(module, optimize=0)
    for count, lanes in shapes:
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2)(
            native.address(f"f{count}x{lanes}")
        )
        matrix = np.arange(count * lanes).astype(dtype.np).reshape(count, lanes)
        result = np.zeros(count, dtype.np)
        function(matrix.ctypes.data, result.ctypes.data)
        np.testing.assert_array_equal(result, matrix.sum(axis=1))
