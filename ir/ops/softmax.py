"""softmax, log_softmax and the choice of one class per row: what a classifier's loss is in eager code.

Each is one op, so that one record is made, and has a derivative that reads its result. Native code has what they
consist of (`Expansion`), which the compiler fuses with its neighbours. ``nll_loss`` and ``nll_loss_transpose`` are
linear in the scores and each other's transposes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..batching import Batched, BatchRule, all_batched, one_axis, shifted
from ..lowering import Expansion
from ..op import Op, dtype_of, primitive
from ..types import Shape, TensorType, int64
from .arithmetic import neg
from .comparison import eq, ne
from .indexing import check_bounds, gather
from .reduction import max_, sum_
from .samples import FLOATS, Sample, draw, with_attrs
from .selection import cast, where
from .shape import broadcast_in_dim, reshape
from .source import iota
from .transcendental import exp, log

_largest: Any = np.maximum.reduce
_add_up: Any = np.add.reduce

_FEW = 64
"""So few classes are looked at faster one by one."""
_MANY = 4096
"""Row numbers up to this are kept."""


def _shifted_array(x: np.ndarray, axis: int) -> np.ndarray:
    """`x` minus its maximum, so that exp does not overflow."""
    if axis == x.ndim - 1 and x.size:
        # Half the time of what follows, which can do without elements.
        return x - _largest(x, axis)[..., None]
    return x - _largest(x, axis, None, None, True, -np.inf)


def _evaluate_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(_shifted_array(x, axis))
    return powers / _add_up(powers, axis, None, None, True)


def _evaluate_log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    shifted_x = _shifted_array(x, axis)
    return shifted_x - np.log(_add_up(np.exp(shifted_x), axis, None, None, True))


def _total(x: Any, axis: int) -> Any:
    return sum_(x, axis=(axis,), keepdims=True)


def _expanded_softmax(x: Any, axis: int) -> Any:
    powers = exp(x - max_(x, axis=(axis,), keepdims=True))
    return powers / _total(powers, axis)


def _expanded_log_softmax(x: Any, axis: int) -> Any:
    shifted_x = x - max_(x, axis=(axis,), keepdims=True)
    return shifted_x - log(_total(exp(shifted_x), axis))


def _softmax_rule(t: Any, out: Any, axis: int) -> Any:
    """The derivative is symmetric: the rule of cotangents and of tangents alike."""
    return out * (t - _total(out * t, axis))


_CASES: Any = [
    ([(4,)], {"axis": 0}),
    ([(3, 5)], {"axis": 1}),
    ([(3, 5)], {"axis": 0}),
    ([(2, 3, 4)], {"axis": 1}),
    ([(0, 3)], {"axis": 1}),
]

softmax: Op = primitive(
    "softmax",
    eval=_evaluate_softmax,
    type_rule=lambda x, *, axis: x,
    vjps=(lambda ct, out, axis: _softmax_rule(ct, out, axis),),
    jvp=lambda tangents, out, operands, *, axis: _softmax_rule(tangents[0], out, axis),
    attrs=("axis",),
    batch=shifted(axis=one_axis),
    lower=Expansion(_expanded_softmax),
    samples=with_attrs(_CASES),
)
log_softmax: Op = primitive(
    "log_softmax",
    eval=_evaluate_log_softmax,
    type_rule=lambda x, *, axis: x,
    vjps=(lambda ct, out, axis: ct - exp(out) * _total(ct, axis),),
    jvp=lambda tangents, out, operands, *, axis: tangents[0] - _total(exp(out) * tangents[0], axis),
    attrs=("axis",),
    batch=shifted(axis=one_axis),
    lower=Expansion(_expanded_log_softmax),
    samples=with_attrs(_CASES),
)


def _all_below(classes: np.ndarray, count: int) -> bool:
    """Whether there are classes and all are from 0 to `count` - 1."""
    if classes.size > _FEW or classes.ndim != 1:
        # As unsigned numbers negative ones are out of bounds as well: one look for all.
        return classes.size > 0 and bool(_largest(classes.view(np.uint64), None) < count)
    listed = classes.tolist()
    return bool(listed) and min(listed) >= 0 and max(listed) < count


def _chosen(classes: np.ndarray, count: int, ignore: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Which rows count (None: all), and a class for each row that may be looked up."""
    if not 0 <= ignore < count and _all_below(classes, count):
        return None, classes
    kept = classes != ignore
    if kept.all():
        check_bounds(classes, count, 1)
        return None, classes
    classes = np.where(kept, classes, 0)
    check_bounds(classes, count, 1)
    return kept, classes


@functools.lru_cache(64)
def _first(count: int) -> np.ndarray:
    return np.arange(count)


def _rows(classes: np.ndarray) -> np.ndarray:
    count = len(classes)
    return _first(count) if count <= _MANY else np.arange(count)


def _number_of(kept: np.ndarray | None, classes: np.ndarray, dtype: Any) -> Any:
    return dtype.type(classes.size if kept is None else np.count_nonzero(kept))


def _evaluate_nll(x: np.ndarray, classes: np.ndarray, ignore: int, reduction: str) -> Any:
    kept, safe = _chosen(classes, x.shape[1], ignore)
    picked = np.take_along_axis(x, safe[:, None], 1)[:, 0] if x.ndim > 2 else x[_rows(safe), safe]
    losses = -picked
    if kept is not None:
        losses[~kept] = 0
    if reduction == "none":
        return losses
    total = _add_up(losses, None)
    return np.asarray(
        total if reduction == "sum" else total / _number_of(kept, classes, x.dtype), x.dtype
    )


def _evaluate_nll_transpose(
    ct: np.ndarray, classes: np.ndarray, count: int, ignore: int, reduction: str
) -> np.ndarray:
    kept, safe = _chosen(classes, count, ignore)
    value = -ct
    if reduction == "mean":
        value = value / _number_of(kept, classes, ct.dtype)
    if kept is not None:
        value = np.where(kept, value, 0)
    out = np.zeros((safe.shape[0], count, *safe.shape[1:]), ct.dtype)
    if out.ndim == 2:
        out[_rows(safe), safe] = value
    else:
        np.put_along_axis(out, safe[:, None], np.broadcast_to(value, safe.shape)[:, None], 1)
    return out


def _counted(classes: Any, ignore: int, dtype: Any) -> Any:
    axes = tuple(range(len(classes.shape)))
    return sum_(cast(ne(classes, ignore), dtype=dtype), axis=axes, keepdims=False)


def _expanded_nll(x: Any, classes: Any, ignore: int, reduction: str) -> Any:
    shape = tuple(classes.shape)
    ignored = eq(classes, ignore)
    safe = reshape(where(ignored, 0, classes), shape=(shape[0], 1, *shape[1:]))
    losses = where(ignored, 0.0, neg(reshape(gather(x, safe, axis=1), shape=shape)))
    if reduction == "none":
        return losses
    total = sum_(losses, axis=tuple(range(len(shape))), keepdims=False)
    return total if reduction == "sum" else total / _counted(classes, ignore, dtype_of(x))


def _expanded_nll_transpose(ct: Any, classes: Any, count: int, ignore: int, reduction: str) -> Any:
    shape = tuple(classes.shape)
    full = (shape[0], count, *shape[1:])
    value = neg(ct)
    if reduction == "mean":
        value = value / _counted(classes, ignore, dtype_of(ct))
    if reduction == "none":
        value = reshape(value, shape=(shape[0], 1, *shape[1:]))
    column = reshape(classes, shape=(shape[0], 1, *shape[1:]))
    numbers = broadcast_in_dim(iota(size=count, dtype=int64), shape=full, dims=(1,))
    hit = where(eq(column, ignore), False, eq(column, numbers))
    return where(hit, value, 0.0)


def _by_expansion(expand: Callable[..., Any]) -> BatchRule:
    """A batching rule: that of each op of the expansion."""

    def rule(op: Op, size: int, operands: Any, batched: Any, attrs: dict[str, Any]) -> Any:
        stacks = all_batched(size, operands, batched)
        return expand(*map(Batched, stacks), **attrs).value

    return rule


def _nll_type(x: TensorType, classes: TensorType, *, ignore: int, reduction: str) -> TensorType:
    return TensorType(x.dtype, classes.shape if reduction == "none" else ())


def _nll_transpose_type(
    ct: TensorType, classes: TensorType, *, count: int, ignore: int, reduction: str
) -> TensorType:
    return TensorType(ct.dtype, (classes.shape[0], count, *classes.shape[1:]))


_SHAPES: list[Shape] = [(4, 3), (2, 3, 5), (1, 1), (3, 2, 2, 2)]


def _nll_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for shape in _SHAPES:
            for reduction in ("none", "sum", "mean"):
                classes = rng.integers(0, shape[1], (shape[0], *shape[2:]))
                if classes.size > 1:
                    classes.flat[0] = -100
                attrs = {"ignore": -100, "reduction": reduction}
                yield Sample((draw(rng, shape, dtype), classes), attrs)


def _nll_transpose_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for (x, classes), attrs in _nll_samples(rng):
        shape = classes.shape if attrs["reduction"] == "none" else ()
        ct = draw(rng, shape, x.dtype.str[1:])
        yield Sample((ct, classes), {**attrs, "count": x.shape[1]})


# -x[i, classes[i], ...], or the sum or mean of these; rows whose class is `ignore` count nothing.
nll_loss: Op = primitive(
    "nll_loss",
    operands=("x", "classes"),
    eval=_evaluate_nll,
    type_rule=_nll_type,
    vjps=(
        lambda ct, classes, x_type, ignore, reduction: nll_loss_transpose(
            ct, classes, count=x_type.shape[1], ignore=ignore, reduction=reduction
        ),
        None,
    ),
    jvp=lambda tangents, out, operands, **attrs: nll_loss(tangents[0], operands[1], **attrs),
    attrs=("ignore", "reduction"),
    batch=_by_expansion(_expanded_nll),
    lower=Expansion(_expanded_nll),
    samples=_nll_samples,
)
nll_loss_transpose: Op = primitive(
    "nll_loss_transpose",
    operands=("ct", "classes"),
    eval=_evaluate_nll_transpose,
    type_rule=_nll_transpose_type,
    vjps=(
        lambda ct, classes, ignore, reduction: nll_loss(
            ct, classes, ignore=ignore, reduction=reduction
        ),
        None,
    ),
    jvp=lambda tangents, out, operands, **attrs: nll_loss_transpose(
        tangents[0], operands[1], **attrs
    ),
    attrs=("count", "ignore", "reduction"),
    batch=_by_expansion(_expanded_nll_transpose),
    lower=Expansion(_expanded_nll_transpose),
    samples=_nll_transpose_samples,
)
