"""Products, running products and sums, differences, and integrals by the trapezoidal rule."""

from __future__ import annotations

from typing import Any

from tracegrad.dispatch import apply, shown_as
from tracegrad.ir.op import registered
from tracegrad.ir.types import bool_, int64
from tracegrad.ops import elementwise as ew
from tracegrad.ops import reduction
from tracegrad.ops.arguments import (
    canonical_dim,
    is_number,
    require_tensors,
    resolve_dtype,
    to_dtype,
)
from tracegrad.ops.shaping import cat, reshape
from tracegrad.ops.striding import slice_along
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

_prod = registered("prod")


def _accumulated(input: Tensor, dtype: Any) -> Tensor:
    """In the dtype in which its elements are multiplied up: integers and bools in int64."""
    target = resolve_dtype(dtype) or (None if input.is_floating_point() else int64)
    return input if target is None else to_dtype(input, target)


@reported("aten::prod")
def prod(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """The product of all elements, or along `dim`. Its derivatives hold where elements are zero.

    Raises:
        TypeError: `dim` is several dimensions, or `keepdim` is given without it.
    """
    if (dim is None and keepdim) or isinstance(dim, (tuple, list)):
        got = "Tensor, keepdim=bool" if dim is None else f"Tensor, {type(dim).__name__}"
        raise TypeError(
            f"prod() received an invalid combination of arguments - got ({got}), but expected one of:\n"
            " * (Tensor input, *, torch.dtype dtype = None)\n"
            " * (Tensor input, int dim, bool keepdim = False, *, torch.dtype dtype = None, Tensor out = None)\n"
        )
    x = _accumulated(input, dtype)
    if dim is None:
        flat = x if x._data.ndim == 1 else reshape(x, -1 if x._data.size else 0)
        out = apply(_prod, (flat,), {"axis": (0,), "keepdims": False})
        return shown_as(out, "ProdBackward0", input)
    axis = canonical_dim(dim, x._data.ndim)
    axes = (axis,) if x._data.ndim else ()
    out = apply(_prod, (x,), {"axis": axes, "keepdims": bool(keepdim)})
    return shown_as(out, "ProdBackward1", input)


@reported("aten::cumprod")
def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running products along `dim`. The derivatives hold where elements are zero."""
    x = _accumulated(input, dtype)
    axis = canonical_dim(dim, x._data.ndim)
    out = apply(registered("cumprod"), (x,), {"axis": axis}) if x._data.ndim else ew.clone(x)
    return shown_as(out, "CumprodBackward0", input)


@reported("aten::logcumsumexp")
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """The logarithm of running sums of ``exp(x)`` along `dim`, without overflow."""
    axis = canonical_dim(dim, input._data.ndim)
    ew.refuse_dtype(input, "biu", "logcumsumexp_out_cpu")
    if not input._data.ndim:
        return shown_as(ew.clone(input), "LogcumsumexpBackward0", input)
    return apply(registered("logcumsumexp"), (input,), {"axis": axis})


def _check_edge(input: Tensor, edge: Tensor | None, axis: int) -> None:
    if edge is None:
        return
    if edge._data.ndim != input._data.ndim:
        raise RuntimeError("diff expects prepend or append to be the same dimension as input")
    for d, (m, n) in enumerate(zip(input._data.shape, edge._data.shape, strict=True)):
        if d != axis and m != n:
            raise RuntimeError(
                "diff expects the shape of tensor to prepend or append to match that of input except along "
                f"the differencing dimension; input.size({d}) = {m}, but got tensor.size({d}) = {n}"
            )


@reported("aten::diff")
def diff(
    input: Tensor,
    n: int = 1,
    dim: int = -1,
    prepend: Tensor | None = None,
    append: Tensor | None = None,
) -> Tensor:
    """Differences of neighbours along `dim`, `n` times; of bools whether they differ.

    Raises:
        RuntimeError: `input` is 0-d, `n` is negative, or `prepend` or `append` do not fit.
    """
    require_tensors("diff", input=(1, input))
    if not input._data.ndim:
        raise RuntimeError("diff expects input to be at least one-dimensional")
    if n < 0:
        raise RuntimeError(f"order must be non-negative but got {n}")
    axis = canonical_dim(dim, input._data.ndim)
    _check_edge(input, prepend, axis)
    _check_edge(input, append, axis)
    parts = [x for x in (prepend, input, append) if x is not None]
    result = cat(parts, axis) if len(parts) > 1 else input
    if n == 0:
        return ew.clone(result)
    subtract = ew.logical_xor if input.dtype is bool_ else ew.sub
    for _ in range(min(n, result._data.shape[axis])):
        extent = result._data.shape[axis]
        after = slice_along(result, axis, min(1, extent), extent)
        result = subtract(after, slice_along(result, axis, 0, extent - 1))
    return result


def _check_samples(name: str, y: Tensor, dim: int) -> int:
    require_tensors(name, y=(1, y))
    if not y._data.ndim:
        raise IndexError(f"Dimension specified as {dim} but tensor has no dimensions")
    if y.dtype is bool_:
        raise RuntimeError(f"{name}: received a bool input for `y`, but bool is not supported")
    return canonical_dim(dim, y._data.ndim)


def _widths(name: str, y: Tensor, x: Tensor, axis: int) -> Tensor:
    """The distances of the sample points, in a shape that broadcasts with that of the samples' neighbours."""
    if x.dtype is bool_:
        raise RuntimeError(f"{name}: received a bool input for `x`, but bool is not supported")
    if x._data.ndim == 1:
        if x._data.shape[0] != y._data.shape[axis]:
            raise RuntimeError(f"{name}: There must be one `x` value for each sample point")
        shape = [1] * y._data.ndim
        shape[axis] = x._data.shape[0]
        x = reshape(x, shape)
    return diff(x, 1, axis - y._data.ndim)


def _neighbours(y: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    extent = y._data.shape[axis]
    return slice_along(y, axis, 0, max(extent - 1, 0)), slice_along(y, axis, min(1, extent), extent)


def _spacing(name: str, x: Any, dx: Any) -> tuple[Tensor | None, Any]:
    """(sample points, or None; their distance)."""
    if x is not None and dx is not None:
        raise TypeError(
            f"{name}() received an invalid combination of arguments - got (Tensor, Tensor, "
            f"dx={type(dx).__name__}), but expected one of:\n * (Tensor y, Tensor x, *, int dim = -1)\n"
            " * (Tensor y, *, Number dx = 1, int dim = -1)\n"
        )
    if x is not None and not isinstance(x, Tensor):
        raise TypeError(
            f"{name}(): argument 'x' (position 2) must be Tensor, not {type(x).__name__}"
        )
    if dx is not None and not is_number(dx):
        raise TypeError(f"{name}(): argument 'dx' must be Number, not {type(dx).__name__}")
    return x, 1 if dx is None else dx


@reported("aten::trapezoid")
def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1) -> Tensor:
    """The integral of samples `y` along `dim`, taken at the points `x` or at distances `dx` (1 by default).

    Raises:
        RuntimeError: there are as many points as samples not, or an operand is bool.
    """
    axis = _check_samples("trapezoid", y, dim)
    points, distance = _spacing("trapezoid", x, dx)
    if not y._data.shape[axis]:
        return to_dtype(reduction.sum(y.detach(), axis), y.dtype)
    left, right = _neighbours(y, axis)
    if points is not None:
        widths = _widths("trapezoid", y, points, axis)
        total = reduction.sum(ew.mul(widths, ew.add(left, right)), axis)
        return shown_as(ew.div(total, 2.0), "DivBackward1", total)
    extent = y._data.shape[axis]
    ends = ew.add(
        reduction.sum(slice_along(y, axis, 0, 1), axis),
        reduction.sum(slice_along(y, axis, extent - 1, extent), axis),
    )
    inner = ew.sub(reduction.sum(y, axis), ew.mul(ends, 0.5))
    return shown_as(ew.mul(inner, distance), "MulBackward1", inner)


trapz = trapezoid


@reported("aten::cumulative_trapezoid")
def cumulative_trapezoid(
    y: Tensor, x: Tensor | None = None, *, dx: Any = None, dim: int = -1
) -> Tensor:
    """The integrals of samples `y` along `dim` up to each sample but the first; see `trapezoid`."""
    axis = _check_samples("cumulative_trapezoid", y, dim)
    points, distance = _spacing("cumulative_trapezoid", x, dx)
    left, right = _neighbours(y, axis)
    if points is not None:
        widths = _widths("cumulative_trapezoid", y, points, axis)
        total = reduction.cumsum(ew.mul(widths, ew.add(left, right)), axis)
        return shown_as(ew.div(total, 2.0), "DivBackward1", total)
    heights = ew.add(left, right)
    areas = shown_as(ew.mul(heights, distance / 2.0), "MulBackward1", heights)
    return reduction.cumsum(areas, axis)
