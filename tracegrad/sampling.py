"""Random tensors of further distributions, made of the uniform and normal numbers of :mod:`tracegrad.random`.

Each is a composition of ops, and so compiled like anything else. Start with :func:`multinomial`.
"""

from __future__ import annotations

import numpy as np

from tracegrad.ir.types import float64
from tracegrad.ops import elementwise as ew
from tracegrad.ops import reduction
from tracegrad.ops.arguments import require_tensors, to_dtype
from tracegrad.ops.ordering import searchsorted, topk
from tracegrad.ops.striding import slice_along
from tracegrad.random import Generator, uniform
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, is_lifted


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
