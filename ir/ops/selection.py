"""Choice and conversion, element by element: where, cast."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..batching import shifted
from ..op import Op, broadcasting, linear, pointwise
from ..types import DTYPES, DType, TensorType, bool_, broadcast_shapes
from .samples import NUMBERS, Sample, draw


def _where_type(condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    if condition.dtype is not bool_:
        raise RuntimeError(f"expected condition to be a boolean tensor, but got {condition.dtype}")
    chosen = broadcasting(x, y)
    return TensorType(chosen.dtype, broadcast_shapes(condition.shape, chosen.shape))


def _where_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in NUMBERS:
        for c, x, y in (
            ((), (), ()),
            ((4,), (4,), (4,)),
            ((3, 1), (1, 4), ()),
            ((2,), (0, 1), (2,)),
        ):
            yield Sample((draw(rng, c, "?"), draw(rng, x, dtype), draw(rng, y, dtype)), {})


# The branch that is not taken gets a cotangent of exactly zero here; a zero times an infinite partial further
# up is NaN all the same, as in torch, unless tracegrad.ir.exactness is on.
where: Op = pointwise(
    "where",
    operands=("condition", "x", "y"),
    eval=np.where,
    type_rule=_where_type,
    partials=(
        None,
        lambda ct, condition: where(condition, ct, 0.0),
        lambda ct, condition: where(condition, 0.0, ct),
    ),
    lower=lambda s, condition, x, y: s.select(condition, x, y),
    samples=_where_samples,
)


def _cast(x: np.ndarray, dtype: DType) -> np.ndarray:
    return np.asarray(x).astype(dtype.np)


def _cast_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for source in DTYPES:
        for target in DTYPES:
            yield Sample(
                (draw(rng, (2, 3), source.np.str.lstrip("|<>="), 0, 2),), {"dtype": target}
            )


cast: Op = linear(
    "cast",
    eval=_cast,
    type_rule=lambda x, *, dtype: TensorType(dtype, x.shape),
    transpose=lambda ct, x_type: cast(ct, dtype=x_type.dtype),
    attrs=("dtype",),
    batch=shifted(),
    lower=lambda s, x, dtype: s.cast(x, dtype),
    samples=_cast_samples,
)

# The value itself; a copy in memory where somebody could tell the difference.
copy: Op = linear(
    "copy",
    eval=lambda x: np.array(x),
    type_rule=lambda x: x,
    transpose=lambda ct: ct,
    batch=shifted(),
    lower=lambda s, x: x,
    samples=lambda rng: iter([Sample((draw(rng, (2, 3)),), {})]),
)
