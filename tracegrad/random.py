"""Random tensors from a counter-based generator, whose state is two tensors.

Each draw applies the op ``random_bits`` to (key, counter) and moves the counter on. Being plain tensor
operations, draws are traced, compiled and replayed like anything else: eager and compiled code give the same
numbers. The streams differ from PyTorch's. Start with :class:`Generator`.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from tracegrad.device import Device, cpu
from tracegrad.dispatch import apply
from tracegrad.grad_mode import no_grad, state
from tracegrad.inplace import apply_in_place, check_captured
from tracegrad.ir.op import registered
from tracegrad.ir.types import DType, bool_, float64, int64, uint8
from tracegrad.memory_format import check_format
from tracegrad.ops import elementwise as ew
from tracegrad.ops.arguments import as_tensor_operand, new_shape, resolve_dtype, to_dtype
from tracegrad.ops.conversion import fill_
from tracegrad.ops.creation import check_ready_for_grad, placed
from tracegrad.ops.out_argument import C_NAMES
from tracegrad.ops.shaping import expand
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, default_float, is_lifted, mark_made, new_tensor

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

    @property
    def device(self) -> Device:
        """The CPU."""
        return cpu

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
    _require_floating(dtype, "check_uniform_bounds")
    bits = (generator or default_generator).bits(shape)
    digits = 53 if dtype is float64 else 24
    shifted = ew.bitwise_and(
        apply(_shift, (bits, as_tensor_operand(64 - digits, bits))), (1 << digits) - 1
    )
    return ew.mul(to_dtype(shifted, dtype), 2.0**-digits)


def standard_normal(shape: tuple[int, ...], dtype: DType, generator: Generator | None) -> Tensor:
    """Standard normal by the method of Box and Muller (1958), one pair of uniforms per element."""
    _require_floating(dtype, "normal_kernel_cpu")
    radius = ew.sqrt(ew.mul(ew.log(ew.sub(1.0, uniform(shape, dtype, generator))), -2.0))
    return ew.mul(radius, ew.cos(ew.mul(uniform(shape, dtype, generator), 2 * math.pi)))


def integers(
    shape: tuple[int, ...], low: int, high: int, dtype: DType, generator: Generator | None
) -> Tensor:
    """Integers in [low, high), as int64.

    Args:
        dtype: which has to have them all.

    Raises:
        RuntimeError: the range is empty, or larger than the dtype.
    """
    if high <= low:
        raise RuntimeError(
            f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}"
        )
    if not dtype.is_floating:
        least, most = (0, 1) if dtype is bool_ else _limits(dtype)
        for name, value in (("from", low), ("to - 1", high - 1)):
            if not least <= value <= most:
                word = "bool" if dtype is bool_ else C_NAMES[dtype.name]
                word = "signed char" if dtype.name == "i8" else word
                raise RuntimeError(f"{name} is out of bounds for {word}")
    extent = high - low
    bits = (generator or default_generator).bits(shape)
    if extent > 2**63:
        raise NotImplementedError(
            f"random integers from {low} to {high}: ranges of more than 2**63 numbers are not supported."
        )
    if extent == 2**63:
        return ew.add(ew.bitwise_and(bits, 2**63 - 1), low)
    positive = ew.bitwise_and(bits, 2**62 - 1 if extent <= 2**62 else 2**63 - 1)
    return ew.add(ew.remainder(positive, extent), low)


def _limits(dtype: DType) -> tuple[int, int]:
    info = np.iinfo(dtype.np)
    return int(info.min), int(info.max)


def _require_floating(dtype: DType, name: str) -> None:
    if not dtype.is_floating:
        raise NotImplementedError(f"\"{name}\" not implemented for '{dtype.legacy_name}'")


def _finish(out: Tensor, device: Any, requires_grad: bool) -> Tensor:
    if device is not None:
        Device(device)
    return check_ready_for_grad(out) if requires_grad else out


@reported("aten::rand")
@placed
def rand(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Uniform in [0, 1)."""
    dtype = resolve_dtype(dtype) or default_float()
    return _finish(uniform(new_shape(size), dtype, generator), device, requires_grad)


@reported("aten::randn")
@placed
def randn(
    *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Standard normal."""
    dtype = resolve_dtype(dtype) or default_float()
    return _finish(standard_normal(new_shape(size), dtype, generator), device, requires_grad)


@reported("aten::rand_like")
@placed
def rand_like(
    input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    memory_format: Any = None, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Uniform in [0, 1), in the shape and dtype of `input`."""
    check_format("rand_like", memory_format)
    dtype = resolve_dtype(dtype) or input.dtype
    return _finish(uniform(input._data.shape, dtype, generator), device, requires_grad)


@reported("aten::randn_like")
@placed
def randn_like(
    input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    memory_format: Any = None, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Standard normal, in the shape and dtype of `input`."""
    check_format("randn_like", memory_format)
    dtype = resolve_dtype(dtype) or input.dtype
    return _finish(standard_normal(input._data.shape, dtype, generator), device, requires_grad)


@reported("aten::randint")
@placed
def randint(
    low: Any = None, high: Any = None, size: Any = None, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Integers in [low, high), int64 by default; ``randint(high, size)`` starts at 0.

    Raises:
        RuntimeError: the range is empty, or larger than the dtype.
        TypeError: no size.
    """
    if size is None and low is not None:
        low, high, size = 0, low, high
    if not isinstance(size, (tuple, list)):
        position = 3 if low else 2
        raise TypeError(
            f"randint(): argument 'size' (position {position}) must be tuple of ints, not {type(size).__name__}"
        )
    target = resolve_dtype(dtype) or int64
    values = integers(new_shape((size,)), low or 0, high, target, generator)
    return _finish(to_dtype(values, target), device, requires_grad)


@reported("aten::randint_like")
@placed
def randint_like(
    input: Tensor, low: Any = None, high: Any = None, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False, memory_format: Any = None, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """Integers in [low, high), in the shape and dtype of `input`; ``randint_like(x, high)`` starts at 0."""
    check_format("randint_like", memory_format)
    if high is None:
        low, high = 0, low
    target = resolve_dtype(dtype) or input.dtype
    values = integers(input._data.shape, low or 0, high, target, generator)
    return _finish(to_dtype(values, target), device, requires_grad)


@reported("aten::randperm")
@placed
def randperm(
    n: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """A random permutation of 0 ... n - 1.

    Raises:
        RuntimeError: `n` is negative, or there are more numbers than the dtype has.
    """
    target = resolve_dtype(dtype) or int64
    if not target.is_floating and target is not bool_ and n - 1 > _limits(target)[1]:
        word = "uint8_t" if target is uint8 else f"int{target.np.itemsize * 8}_t"
        raise RuntimeError(f"value cannot be converted to type {word} without overflow")
    order = (generator or default_generator).bits(new_shape((n,))).argsort()
    return _finish(to_dtype(order, target), device, requires_grad)


def _check_deviations(std: Any) -> None:
    if not isinstance(std, Tensor):
        if not std >= 0:
            raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
    elif std._data.size and not is_lifted(std) and not bool(ew.ge(std.detach(), 0).all()):
        raise RuntimeError("normal expects all elements of std >= 0.0")


@reported("aten::normal")
@placed
def normal(
    mean: Any,
    std: Any = 1.0,
    size: Any = None,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """Normal with the given means and standard deviations.

    Args:
        mean: a number or a tensor, whose dtype is the result's.
        std: likewise; the two broadcast.
        size: the shape, if both are numbers.

    Raises:
        RuntimeError: a deviation is negative.
        NotImplementedError: a dtype that is not floating.
        TypeError: two numbers and no shape.
    """
    tensors = [x for x in (mean, std) if isinstance(x, Tensor)]
    if not tensors and not isinstance(size, (tuple, list)):
        names = ", ".join(type(x).__name__ for x in (mean, std, size) if x is not None)
        raise TypeError(
            f"normal() received an invalid combination of arguments - got ({names}), but expected one of: "
            "(Tensor, Tensor), (Tensor, float), (float, Tensor), (float, float, tuple of ints)"
        )
    target = tensors[0].dtype if tensors else resolve_dtype(dtype) or default_float()
    _require_floating(target, "normal_kernel_cpu")
    _check_deviations(std)
    if len(tensors) == 2:
        shape = ew.add(mean.detach(), std.detach())._data.shape
    else:
        shape = tensors[0]._data.shape if tensors else new_shape((size,))
    drawn = standard_normal(shape, target, generator)
    out = ew.add(ew.mul(drawn, std), mean)
    return _finish(to_dtype(out, target), device, requires_grad)


@reported("aten::bernoulli")
def bernoulli(input: Tensor, p: Any = None, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that each element names (or `p`, for all), else 0; in the dtype of `input`.

    Raises:
        RuntimeError: a probability is not in [0, 1].
        NotImplementedError: the probabilities are integers.
    """
    if p is not None:
        return bernoulli_(ew.clone(input.detach()), p, generator=generator)
    probabilities = input.detach()
    return to_dtype(_is_hit(input._data.shape, probabilities, generator), input.dtype)


def _is_hit(shape: tuple[int, ...], p: Any, generator: Generator | None) -> Tensor:
    """True with probability `p`, a number or a tensor that broadcasts to the shape."""
    if not isinstance(p, Tensor):
        if not 0 <= p <= 1:
            raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p:g}")
        return ew.lt(uniform(shape, default_float(), generator), p)
    ew.refuse_dtype(p, "iub", "bernoulli_tensor_cpu_p_")
    p = expand(p.detach(), shape)
    if not is_lifted(p) and not bool(ew.logical_and(ew.ge(p, 0), ew.le(p, 1)).all()):
        raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true, but got false.")
    return ew.lt(uniform(shape, p.dtype, generator), p)


@reported("aten::uniform_")
def uniform_(
    self: Tensor, *bounds: float, generator: Generator | None = None, **named: float
) -> Tensor:
    """Fill in place with numbers uniform in [from, to), two numbers, by default 0 and 1.

    Raises:
        RuntimeError: they are in the wrong order, or infinite.
    """
    if state.levels:
        check_captured(self, "uniform_")
    given = dict(zip(("from", "to"), bounds, strict=False))
    unknown = [name for name in named if name not in ("from", "to") or name in given]
    if unknown:
        raise TypeError(f"uniform_() got an unexpected keyword argument '{unknown[0]}'")
    if len(bounds) > 2:
        raise TypeError(f"uniform_() takes 2 positional arguments but {len(bounds)} were given")
    low, high = ({"from": 0.0, "to": 1.0} | given | named).values()
    _require_floating(self.dtype, "check_uniform_bounds")
    for name, value in (("from", low), ("to", high)):
        if not math.isfinite(value):
            raise RuntimeError(f"{name} is out of bounds for {C_NAMES[self.dtype.name]}")
    if low > high:
        raise RuntimeError(
            f"uniform_ expects to return a [from, to) range, but found from={low:g} > to={high:g}"
        )
    drawn = uniform(self._data.shape, self.dtype, generator)
    return self.copy_(ew.add(ew.mul(drawn, high - low), low))


@reported("aten::normal_")
def normal_(
    self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Fill in place with normal numbers. Raises RuntimeError for a negative deviation."""
    if state.levels:
        check_captured(self, "normal_")
    _require_floating(self.dtype, "normal_kernel_cpu")
    _check_deviations(std)
    drawn = standard_normal(self._data.shape, self.dtype, generator)
    return self.copy_(ew.add(ew.mul(drawn, std), mean))


@reported("aten::bernoulli_")
def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Fill in place with 1 with probability `p`, a number or a tensor that broadcasts, else 0."""
    if state.levels:
        check_captured(self, "bernoulli_.float")
    return self.copy_(to_dtype(_is_hit(self._data.shape, p, generator), self.dtype))
