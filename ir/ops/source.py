"""Values that come from nowhere: graph inputs, constants, ranges, random bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..lowering import Generated
from ..op import Op, primitive
from ..types import DType, Shape, TensorType, int64
from .samples import Sample


def _no_eval(*operands: Any, **attrs: Any) -> Any:
    raise RuntimeError("inputs and constants are values; they are not evaluated")


def _no_type(*types: Any, **attrs: Any) -> Any:
    raise RuntimeError("the type of an input or a constant is given, not computed")


input_: Op = primitive("input", operands=(), eval=_no_eval, type_rule=_no_type)

# Attr value: a Python number (0-d), or a flat tuple of them in row-major order.
const: Op = primitive("const", operands=(), eval=_no_eval, type_rule=_no_type, attrs=("value",))


def constant_array(value: Any, type: TensorType) -> np.ndarray:
    """The array that a ``const`` node stands for."""
    return np.asarray(value, dtype=type.dtype.np).reshape(type.shape)


def _lower_iota(s: Any, position: Any, size: int, dtype: DType) -> Any:
    return s.cast(position, dtype)


# 0, 1, ..., size - 1
iota: Op = primitive(
    "iota",
    operands=(),
    eval=lambda size, dtype: np.arange(size, dtype=dtype.np),
    type_rule=lambda *, size, dtype: TensorType(dtype, (size,)),
    attrs=("size", "dtype"),
    lower=Generated(_lower_iota),
    samples=lambda rng: iter([Sample((), {"size": 5, "dtype": int64})]),
)

# SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014): the output
# function applied to key + (counter + position) * gamma. Passes BigCrush as a sequence in the counter.
_GAMMA = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _evaluate_random_bits(key: np.ndarray, counter: np.ndarray, shape: Shape) -> np.ndarray:
    position = np.arange(int(np.prod(shape)), dtype=np.uint64)
    z = (position + counter.astype(np.uint64) + np.uint64(1)) * np.uint64(_GAMMA) + key.astype(
        np.uint64
    )
    for shift, factor in _MIX:
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return (z ^ (z >> np.uint64(31))).view(np.int64).reshape(shape)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _lower_random_bits(s: Any, position: Any, key: Any, counter: Any, shape: Shape) -> Any:
    number = s.add(s.add(position, counter), s.const(1, int64))
    z = s.add(s.mul(number, s.const(_signed(_GAMMA), int64)), key)
    for shift, factor in _MIX:
        z = s.bit_xor(z, s.shift_right_logical(z, s.const(shift, int64)))
        z = s.mul(z, s.const(_signed(factor), int64))
    return s.bit_xor(z, s.shift_right_logical(z, s.const(31, int64)))


def _random_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((), (5,), (3, 4), (0,)):
        yield Sample((np.asarray(rng.integers(1 << 62)), np.asarray(7)), {"shape": shape})


# 64 random bits per element, as i64, from an i64 key and an i64 counter.
random_bits: Op = primitive(
    "random_bits",
    operands=("key", "counter"),
    eval=_evaluate_random_bits,
    type_rule=lambda key, counter, *, shape: TensorType(int64, shape),
    attrs=("shape",),
    lower=Generated(_lower_random_bits),
    samples=_random_samples,
)
