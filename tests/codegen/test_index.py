"""Affine expressions: their arithmetic is that of their values, and they find array elements."""

from __future__ import annotations

import itertools
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracegrad.codegen.index import (
    Affine,
    identity_index,
    linearize,
    row_major_strides,
    squeezed,
)

small = st.integers(-9, 9)
affine = st.builds(Affine, st.tuples(small, small, small), small)
position = st.tuples(small, small, small)


@given(affine, affine, small, position)
def test_arithmetic_is_that_of_the_values(
    x: Affine, y: Affine, n: int, at: tuple[int, ...]
) -> None:
    assert (x + y).at(at) == x.at(at) + y.at(at)
    assert (x - y).at(at) == x.at(at) - y.at(at)
    assert (x * n).at(at) == x.at(at) * n
    assert (n * x).at(at) == x.at(at) * n
    assert (x + n).at(at) == x.at(at) + n
    assert (n - x).at(at) == n - x.at(at)
    assert (-x).at(at) == -x.at(at)


@given(affine, affine)
def test_equality_is_by_value(x: Affine, y: Affine) -> None:
    same = x.coefficients == y.coefficients and x.constant == y.constant
    assert (x == y) == same
    assert not same or hash(x) == hash(y)
    assert x != 3


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 3), (1, 1), (3, 1, 2, 4)])
def test_identity_visits_elements_in_memory_order(shape: tuple[int, ...]) -> None:
    space = squeezed(shape)
    offset = linearize(identity_index(shape), shape, len(space))
    visited = [offset.at(at) for at in itertools.product(*map(range, space))]
    assert visited == list(range(prod(shape)))
    strides = np.empty(shape, np.int8).strides
    if prod(shape):
        assert [s for s, n in zip(row_major_strides(shape), shape, strict=True) if n > 1] == [
            s for s, n in zip(strides, shape, strict=True) if n > 1
        ]


def test_text() -> None:
    assert str(Affine((3, 0, 1), -2)) == "3*i0 + i2 - 2"
    assert str(Affine((0, 0))) == "0"
