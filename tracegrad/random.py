"""Random tensors from a counter-based generator, whose state is two tensors.

Each draw applies the op ``random_bits`` to (key, counter) and moves the counter on. Being plain tensor
operations, draws are traced, compiled and replayed like anything else: eager and compiled code give the same
numbers. The streams differ from PyTorch's. Start with :class:`Generator`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracegrad.dispatch import apply
from tracegrad.grad_mode import no_grad, state
from tracegrad.inplace import apply_in_place, check_captured
from tracegrad.ir.op import registered
from tracegrad.ir.types import DType, float64, int64
from tracegrad.ops import elementwise as ew
from tracegrad.ops.arguments import as_tensor_operand, new_shape, resolve_dtype, to_dtype
from tracegrad.ops.conversion import fill_
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, default_float, mark_made, new_tensor

_random_bits = registered("random_bits")
_shift = registered("shift_right")
_and = registered("bit_and")
_add = registered("add")
_GOLDEN = 0x9E3779B97F4A7C15


class Generator:
    """A stream of random numbers.

    Args:
        device: accepted for torch's sake; the CPU.
    """

    def __init__(self, device: Any = "cpu") -> None:
        self._key = new_tensor(np.zeros((), np.int64))
        self._counter = new_tensor(np.zeros((), np.int64))
        self.manual_seed(67280421310721)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream that belongs to this seed. Returns itself."""
        if state.trace is not None:
            state.trace.give_up("a random generator is seeded inside the function")
        self._seed = int(seed)
        mixed = ((self._seed + 1) * _GOLDEN) & (2**64 - 1)
        mixed ^= mixed >> 32
        with no_grad():
            fill_(self._key, mixed - 2**64 if mixed >= 2**63 else mixed)
            fill_(self._counter, 0)
        return self

    def seed(self) -> int:
        """Start a stream that nobody can foresee; returns its seed."""
        value = int.from_bytes(os.urandom(7), "little")
        self.manual_seed(value)
        return value

    def initial_seed(self) -> int:
        """The seed that the stream was started with."""
        return self._seed

    def get_state(self) -> Tensor:
        """The state as an int64 tensor of seed, key and counter."""
        values = [self._seed, self._key.item(), self._counter.item()]
        return mark_made(new_tensor(np.asarray(values, np.int64)))

    def set_state(self, new_state: Tensor) -> None:
        """Go back to a state that `get_state` returned."""
        self._seed, key, counter = (int(v) for v in new_state.tolist())
        with no_grad():
            fill_(self._key, key)
            fill_(self._counter, counter)

    def bits(self, shape: tuple[int, ...]) -> Tensor:
        """64 random bits per element, as int64; under ``vmap`` as its `randomness` has it."""
        stacks = [level for level in state.levels if level.draws_anew()]
        if stacks:
            drawn = self._draw((*(level.size for level in stacks), *shape))
            for level in stacks:
                drawn = level.wrap(drawn, batched=True)
            return drawn
        return self._draw(shape)

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        out = apply(_random_bits, (self._key, self._counter), {"shape": shape})
        step = as_tensor_operand(count, self._counter)
        apply_in_place(_add, self._counter, (self._counter, step))
        return out


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Seed the default generator and return it."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Seed the default generator with a number that nobody can foresee."""
    return default_generator.seed()


def initial_seed() -> int:
    """The default generator's seed."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The default generator's state."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Set the default generator's state."""
    default_generator.set_state(new_state)


def uniform(shape: tuple[int, ...], dtype: DType, generator: Generator | None) -> Tensor:
    """Uniform in [0, 1): the upper 24 bits (53 for float64) as a fraction."""
    if not dtype.is_floating:
        word = dtype.legacy_name
        raise RuntimeError(f"\"check_uniform_bounds\" not implemented for '{word}'")
    bits = (generator or default_generator).bits(shape)
    digits = 53 if dtype is float64 else 24
    shifted = ew.bitwise_and(
        apply(_shift, (bits, as_tensor_operand(64 - digits, bits))), (1 << digits) - 1
    )
    return ew.mul(to_dtype(shifted, dtype), 2.0**-digits)


def _normal(shape: tuple[int, ...], dtype: DType, generator: Generator | None) -> Tensor:
    """Standard normal by the method of Box and Muller (1958), one pair of uniforms per element."""
    radius = ew.sqrt(ew.mul(ew.log(ew.sub(1.0, uniform(shape, dtype, generator))), -2.0))
    return ew.mul(radius, ew.cos(ew.mul(uniform(shape, dtype, generator), 2 * math.pi)))


def _finish(out: Tensor, requires_grad: bool) -> Tensor:
    return out._ask_for_grad() if requires_grad else out


@reported("aten::rand")
def rand(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Uniform in [0, 1)."""
    return _finish(
        uniform(new_shape(size), resolve_dtype(dtype) or default_float(), generator),
        requires_grad,
    )


@reported("aten::randn")
def randn(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Standard normal."""
    return _finish(
        _normal(new_shape(size), resolve_dtype(dtype) or default_float(), generator), requires_grad
    )


@reported("aten::rand_like")
def rand_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Uniform in [0, 1), in the shape and dtype of `input`."""
    return rand(input.shape, dtype=dtype or input.dtype, requires_grad=requires_grad)


@reported("aten::randn_like")
def randn_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Standard normal, in the shape and dtype of `input`."""
    return randn(input.shape, dtype=dtype or input.dtype, requires_grad=requires_grad)


@reported("aten::randint")
def randint(
    low: int, high: Any = None, size: Sequence[int] | None = None, *, dtype: Any = None,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Integers in [low, high), int64 by default; ``randint(high, size)`` starts at 0.

    Raises:
        RuntimeError: the range is empty.
    """
    if size is None:
        low, high, size = 0, low, high
    if high <= low:
        raise RuntimeError(
            f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}"
        )
    bits = (generator or default_generator).bits(new_shape((size,)))
    positive = ew.bitwise_and(bits, 2**62 - 1)
    values = ew.add(ew.remainder(positive, high - low), low)
    return to_dtype(values, resolve_dtype(dtype) or int64)


@reported("aten::randperm")
def randperm(n: int, *, dtype: Any = None, generator: Generator | None = None) -> Tensor:
    """A random permutation of 0 ... n - 1."""
    keys = (generator or default_generator).bits((n,))
    keys._escapes("randperm()")
    order = np.argsort(keys._data, kind="stable")
    return mark_made(new_tensor(order.astype((resolve_dtype(dtype) or int64).np)))


@reported("aten::normal")
def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Sequence[int] | None = None,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Normal with the given means and standard deviations, which broadcast."""
    if size is None:
        like = mean if isinstance(mean, Tensor) else std
        size = ew.add(ew.mul(like, 0.0), mean if isinstance(mean, Tensor) else 0.0).shape
    return ew.add(ew.mul(_normal(tuple(size), default_float(), generator), std), mean)


@reported("aten::bernoulli")
def bernoulli(
    input: Tensor, p: float | None = None, *, generator: Generator | None = None
) -> Tensor:
    """1 with the probability that each element names (or `p`, for all), else 0; in the dtype of `input`.

    Raises:
        RuntimeError: a probability is not in [0, 1].
        NotImplementedError: the probabilities are integers.
    """
    if p is not None:
        return bernoulli_(ew.clone(input.detach()), p, generator=generator)
    if not input.is_floating_point():
        raise NotImplementedError(
            f"\"bernoulli_tensor_cpu_p_\" not implemented for '{input.dtype.legacy_name}'"
        )
    probabilities = input.detach()
    if not bool(ew.logical_and(ew.ge(probabilities, 0), ew.le(probabilities, 1)).all()):
        raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true, but got false.")
    return to_dtype(
        ew.lt(uniform(input._data.shape, input.dtype, generator), probabilities), input.dtype
    )


@reported("aten::uniform_")
def uniform_(
    self: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Fill in place with numbers uniform in [a, b)."""
    if state.levels:
        check_captured(self, "uniform_")
    return self.copy_(ew.add(ew.mul(uniform(self._data.shape, self.dtype, generator), b - a), a))


@reported("aten::normal_")
def normal_(
    self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Fill in place with normal numbers."""
    if state.levels:
        check_captured(self, "normal_")
    return self.copy_(ew.add(ew.mul(_normal(self._data.shape, self.dtype, generator), std), mean))


@reported("aten::bernoulli_")
def bernoulli_(self: Tensor, p: float = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Fill in place with 1 with probability `p`, else 0."""
    if state.levels:
        check_captured(self, "bernoulli_.float")
    drawn = ew.lt(uniform(self._data.shape, default_float(), generator), p)
    return self.copy_(to_dtype(drawn, self.dtype))
