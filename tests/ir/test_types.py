"""Element types, promotion (against torch where it is installed), broadcasting."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracegrad.ir.types import (
    DTYPES,
    DType,
    TensorType,
    broadcast_shapes,
    dtype_named,
    dtype_of,
    float32,
    from_numpy_dtype,
    promote,
    type_of,
)

SHAPES = st.lists(st.sampled_from([0, 1, 2, 3]), max_size=4).map(tuple)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_dtypes_are_interned(dtype: DType) -> None:
    assert dtype_named(dtype.name) is dtype
    assert from_numpy_dtype(dtype.np) is dtype
    assert from_numpy_dtype(dtype.np.newbyteorder(">")) is dtype
    assert dtype_of(np.zeros(2, dtype.np)) is dtype
    assert pickle.loads(pickle.dumps(dtype)) is dtype
    assert copy.deepcopy([dtype])[0] is dtype
    assert copy.copy(dtype) is dtype
    assert dtype.itemsize == dtype.np.itemsize
    assert repr(dtype) == str(dtype) == f"torch.{dtype.np.name}"


def test_unknown_dtypes() -> None:
    with pytest.raises(TypeError, match=r"can't convert np.ndarray of type complex128"):
        from_numpy_dtype(np.dtype(complex))
    with pytest.raises(KeyError):
        dtype_named("f16")


def test_promotion_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    for a in DTYPES:
        for b in DTYPES:
            expected = torch.promote_types(getattr(torch, a.np.name), getattr(torch, b.np.name))
            assert repr(promote(a, b)) == str(expected), (a, b)


def test_promotion_is_commutative_and_idempotent() -> None:
    for a in DTYPES:
        assert promote(a, a) is a
        for b in DTYPES:
            assert promote(a, b) is promote(b, a)


def test_tensor_type() -> None:
    type = TensorType(float32, (3, 4))
    assert str(type) == repr(type) == "f32[3,4]"
    assert str(TensorType(float32, ())) == "f32[]"
    assert (type.ndim, type.size, type.nbytes) == (2, 12, 48)
    assert TensorType(float32, (0, 4)).size == 0
    assert type_of(np.zeros((3, 4), np.float32)) == type


@given(SHAPES, SHAPES)
def test_broadcasting_is_that_of_numpy(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    try:
        expected = np.broadcast_shapes(a, b)
    except ValueError:
        with pytest.raises(RuntimeError, match="must match the size of tensor b"):
            broadcast_shapes(a, b)
    else:
        assert broadcast_shapes(a, b) == expected


@pytest.mark.parametrize(
    ("a", "b", "sizes"),
    [((2,), (3,), (2, 3, 0)), ((4, 2, 3), (5, 3), (2, 5, 1)), ((2, 3), (3, 2), (3, 2, 1))],
)
def test_broadcast_error_is_that_of_torch(
    a: tuple[int, ...], b: tuple[int, ...], sizes: tuple[int, int, int]
) -> None:
    m, n, axis = sizes
    sentence = (
        f"The size of tensor a ({m}) must match the size of tensor b ({n}) at non-singleton "
        f"dimension {axis}"
    )
    with pytest.raises(RuntimeError) as caught:
        broadcast_shapes(a, b)
    assert str(caught.value) == sentence
