"""Random tensors of further distributions, made of the uniform and normal numbers of :mod:`tracegrad.random`.

Each is a composition of ops, and so compiled like anything else. Start with :func:`multinomial`.
"""

from __future__ import annotations

import math

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.inplace import check_captured
from tracegrad.ir.types import bool_, float64
from tracegrad.ops import elementwise as ew
from tracegrad.ops import reduction
from tracegrad.ops.arguments import require_tensors, to_dtype
from tracegrad.ops.ordering import searchsorted, topk
from tracegrad.ops.out_argument import C_NAMES
from tracegrad.ops.striding import slice_along
from tracegrad.random import Generator, default_generator, integers, standard_normal, uniform
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, is_lifted, mark_made, new_tensor


def _exponential(x: Tensor, generator: Generator | None) -> Tensor:
    """Exponential with rate 1, and greater than zero, in the shape and dtype of `x`."""
    drawn = ew.neg(ew.log(ew.sub(1.0, uniform(x._data.shape, x.dtype, generator))))
    return ew.clamp_min(drawn, float(np.finfo(x._data.dtype).tiny))


def _check_probabilities(p: Tensor, several_with_replacement: bool) -> None:
    if is_lifted(p) or not p._data.size:
        return
    if not bool(reduction.all(ew.logical_and(ew.ge(p, 0), ew.isfinite(p)))):
        raise RuntimeError(
            "invalid multinomial distribution (encountering probability entry < 0)"
            if several_with_replacement
            else "probability tensor contains either `inf`, `nan` or element < 0"
        )
    if not bool(reduction.all(ew.gt(reduction.amax(p, -1), 0))):
        raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")


@reported("aten::multinomial")
def multinomial(
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Positions in a vector, or in each row of a matrix, drawn with its elements as probabilities; int64.

    Args:
        input: what the probabilities are proportional to.
        replacement: whether a position may be drawn several times.

    Raises:
        RuntimeError: `input` has another rank, is not floating, is negative or not finite somewhere, or all zero in a
            row; or there are too few positions.
    """
    require_tensors("multinomial", input=(1, input))
    if not isinstance(num_samples, (int, np.integer)):
        raise TypeError(
            f"multinomial(): argument 'num_samples' (position 2) must be int, not {type(num_samples).__name__}"
        )
    if input._data.ndim not in (1, 2):
        raise RuntimeError("prob_dist must be 1 or 2 dim")
    if not input.is_floating_point():
        raise RuntimeError(
            "multinomial only supports floating-point dtypes for input, got: "
            f"{input.dtype.legacy_name}"
        )
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    shape = input._data.shape
    if not replacement and num_samples > shape[-1]:
        raise RuntimeError(
            "cannot sample n_sample > prob_dist.size(-1) samples without replacement"
        )
    p = input.detach()
    _check_probabilities(p, replacement and num_samples > 1)
    if not replacement:
        # The one that arrives first, of processes with these rates.
        return topk(ew.div(p, _exponential(p, generator)), int(num_samples)).indices
    sums = reduction.cumsum(to_dtype(p, float64), -1)
    total = slice_along(sums, len(shape) - 1, shape[-1] - 1, shape[-1])
    drawn = uniform((*shape[:-1], int(num_samples)), float64, generator)
    # What is rounded up to the total still belongs to the last one that is not zero.
    return ew.minimum(
        searchsorted(sums, ew.mul(drawn, total), right=True), searchsorted(sums, total)
    )


@reported("aten::poisson")
def poisson(input: Tensor, generator: Generator | None = None) -> Tensor:
    """Numbers of events where `input` are expected, in its dtype. A function that draws them is not compiled.

    Raises:
        RuntimeError: a rate is negative or NaN.
        NotImplementedError: `input` is not floating, or belongs to ``vmap``.
    """
    require_tensors("poisson", input=(1, input))
    ew.refuse_dtype(input, "iub", "poisson_cpu")
    if is_lifted(input):
        raise NotImplementedError("poisson(): not supported inside of function transforms.")
    input._escapes("poisson()")
    rates = input._data
    if not (rates >= 0).all():
        raise RuntimeError("invalid Poisson rate, expected rate to be non-negative")
    seed = (generator or default_generator).bits((2,))._data.view(np.uint64)
    counts = np.random.Generator(np.random.PCG64(seed)).poisson(rates)
    return mark_made(new_tensor(np.asarray(counts, rates.dtype)))


def _require_continuous(self: Tensor, which: str, word: str) -> None:
    if not self.is_floating_point():
        raise RuntimeError(
            f"{which} distribution is a continuous probability distribution. dtype must be a floating point but you "
            f"specified {word}"
        )


@reported("aten::exponential_")
def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill in place with exponential numbers of the rate `lambd`, which are positive.

    Raises:
        RuntimeError: the rate is not positive, or the tensor not floating.
    """
    if state.levels:
        check_captured(self, "exponential_")
    _require_continuous(self, "Exponential", self.dtype.legacy_name)
    if not lambd > 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd:g}")
    return self.copy_(ew.div(_exponential(self, generator), lambd))


@reported("aten::geometric_")
def geometric_(self: Tensor, p: float, *, generator: Generator | None = None) -> Tensor:
    """Fill in place with how many trials it takes until the first success, each of probability `p`.

    Raises:
        RuntimeError: `p` is not in (0, 1).
        NotImplementedError: bools.
    """
    if state.levels:
        check_captured(self, "geometric_")
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p:g}")
    ew.refuse_dtype(self, "b", "geometric_cpu")
    drawn = ew.log(ew.sub(1.0, uniform(self._data.shape, float64, generator)))
    trials = ew.clamp_min(ew.ceil(ew.div(drawn, math.log1p(-p))), 1.0)
    return self.copy_(to_dtype(trials, self.dtype))


@reported("aten::log_normal_")
def log_normal_(
    self: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Generator | None = None
) -> Tensor:
    """Fill in place with numbers whose logarithms are normal, with this mean and deviation.

    Raises:
        RuntimeError: the deviation is not positive.
        NotImplementedError: the tensor is not floating.
    """
    if state.levels:
        check_captured(self, "log_normal_")
    if not std > 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std:g}")
    ew.refuse_dtype(self, "iub", "log_normal_cpu")
    drawn = standard_normal(self._data.shape, self.dtype, generator)
    return self.copy_(ew.exp(ew.add(ew.mul(drawn, std), mean)))


@reported("aten::cauchy_")
def cauchy_(
    self: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Fill in place with numbers of the Cauchy distribution.

    Raises:
        RuntimeError: `sigma` is not positive, or the tensor not floating.
    """
    if state.levels:
        check_captured(self, "cauchy_")
    if not sigma > 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma:g}")
    _require_continuous(self, "Cauchy", C_NAMES[self.dtype.name])
    angles = ew.mul(ew.sub(uniform(self._data.shape, float64, generator), 0.5), math.pi)
    drawn = ew.add(ew.mul(ew.tan(angles), sigma), median)
    return self.copy_(to_dtype(drawn, self.dtype))


@reported("aten::random_")
def random_(
    self: Tensor, *bounds: int | None, generator: Generator | None = None, **named: int | None
) -> Tensor:
    """Fill in place with integers in [from, to), both of which may be left out; ``random_(to)`` starts at 0.

    Without an end they go up to the largest that the dtype has, or has exactly (2**24 for float32).

    Raises:
        RuntimeError: the range is empty, or larger than the dtype.
    """
    if state.levels:
        check_captured(self, "random_")
    names = ("to",) if len(bounds) == 1 and "to" not in named else ("from", "to")
    given = dict(zip(names, bounds, strict=False))
    unknown = [name for name in named if name not in ("from", "to") or name in given]
    if unknown:
        raise TypeError(f"random_() got an unexpected keyword argument '{unknown[0]}'")
    if len(bounds) > 2:
        raise TypeError(f"random_() takes 2 positional arguments but {len(bounds)} were given")
    given |= named
    low, high = given.get("from") or 0, given.get("to")
    if high is None:
        high = _end(self)
    drawn = integers(self._data.shape, low, high, self.dtype, generator)
    return self.copy_(to_dtype(drawn, self.dtype))


def _end(x: Tensor) -> int:
    """One more than the largest integer that a tensor's dtype has, or counts up to exactly."""
    if x.dtype is bool_:
        return 2
    if x.is_floating_point():
        return (1 << (np.finfo(x._data.dtype).nmant + 1)) + 1
    return int(np.iinfo(x._data.dtype).max) + 1
