"""What layers compute: products with a bias, dropout, look-ups.

Users reach these functions as ``nn.functional``.
"""

from __future__ import annotations

import math

from tracegrad import lean, random
from tracegrad.dispatch import composite
from tracegrad.grad_mode import no_grad
from tracegrad.inplace import check_in_place, store
from tracegrad.ir.types import int32, int64
from tracegrad.ops import creation, linalg
from tracegrad.ops import elementwise as ew
from tracegrad.ops.arguments import to_dtype
from tracegrad.ops.indexing import index_select
from tracegrad.ops.out_argument import OUT, with_out
from tracegrad.ops.reduction import norm
from tracegrad.ops.shaping import reshape, unsqueeze
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor, plainest


@reported("aten::linear")
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input @ weight.T + bias``.

    Args:
        input: [..., in_features].
        weight: [out_features, in_features], or [in_features].
        bias: [out_features].

    Raises:
        RuntimeError: shapes or dtypes do not fit.
    """
    if bias is not None:
        out = lean.linear(input, weight, bias)
        if out is not None:
            return out
    x, w = input._data, weight._data
    ndim = x.ndim
    if not ndim or not w.ndim:
        raise RuntimeError(
            f"both arguments to linear need to be at least 1D, but they are {ndim}D and {w.ndim}D"
        )
    if bias is not None and x.dtype != w.dtype:
        names = [t.type()[6:-6] for t in (input, weight)]
        raise RuntimeError(
            f"mat1 and mat2 must have the same dtype, but got {names[0]} and {names[1]}"
        )
    if w.ndim != 2:
        product = linalg.matmul(input, weight.t())
        return product if bias is None else ew.add(product, bias)
    transposed = weight.t()
    if ndim == 2:
        if bias is None:
            return linalg.mm(input, transposed)
        return linalg.addmm(bias, input, transposed)
    rows = reshape(input, math.prod(input.shape[:-1]), input.shape[-1])
    product = linalg.mm(rows, transposed) if bias is None else linalg.addmm(bias, rows, transposed)
    return reshape(product, (*input.shape[:-1], weight.shape[0]))


@reported("aten::dropout")
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set elements to zero with probability `p` and scale the others by 1 / (1 - p); itself in evaluation.

    Raises:
        ValueError: `p` is no probability.
    """
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0:
        return input
    if inplace:
        check_in_place(input)
    if p == 1:
        noise = creation.zeros_like(input)
    else:
        kept = ew.lt(random.rand(input.shape, dtype=input.dtype), 1.0 - p)
        noise = ew.mul(to_dtype(kept, input.dtype), 1.0 / (1.0 - p))
    result = ew.mul(input, noise)
    return store(input, result) if inplace else result


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of `weight` at the positions in `input`.

    Args:
        input: int64 or int32, any shape.
        weight: [rows, features].
        padding_idx: a row that gets no gradient.
        max_norm: rows with a larger norm are scaled down in place first.

    Raises:
        IndexError: a position is out of range.
        NotImplementedError: `scale_grad_by_freq` or `sparse`.
    """
    if scale_grad_by_freq or sparse:
        option = "scale_grad_by_freq" if scale_grad_by_freq else "sparse"
        raise NotImplementedError(f"embedding: {option}=True is not supported by tracegrad")
    if input.dtype not in (int64, int32):
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, "
            f"Int; but got {input.type()} instead (while checking arguments for embedding)"
        )
    rows = weight.shape[0]
    if padding_idx is not None:
        if not -rows <= padding_idx < rows:
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx %= rows
    positions = to_dtype(input, int64)
    try:
        if max_norm is not None:
            with no_grad():
                _limit_rows(weight, positions, max_norm, norm_type)
        return _embedding(weight, positions, padding_idx)
    except IndexError:
        raise IndexError("index out of range in self") from None


@composite("EmbeddingBackward0")
def _embedding(weight: Tensor, positions: Tensor, padding_idx: int | None) -> Tensor:
    found = index_select(weight, 0, reshape(positions, -1) if positions.dim() != 1 else positions)
    if positions.dim() != 1:
        found = reshape(found, (*positions.shape, weight.shape[1]))
    if padding_idx is not None:
        padding = unsqueeze(ew.eq(positions, padding_idx), -1)
        found = ew.where(padding, found.detach(), found)
    return found


def _limit_rows(weight: Tensor, positions: Tensor, max_norm: float, norm_type: float) -> None:
    """Scale the rows at these positions down to a norm of at most `max_norm`."""
    flat = reshape(positions, -1)
    rows = index_select(weight, 0, flat)
    norms = norm(rows, norm_type, 1, True)
    scale = ew.where(ew.gt(norms, max_norm), ew.div(max_norm, ew.add(norms, 1e-7)), 1)
    weight[flat] = ew.mul(rows, scale)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """int64 rows with a single one at the position given by each element.

    Raises:
        RuntimeError: an element is negative or not below `num_classes`.
    """
    if tensor.dtype is not int64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    every = plainest(tensor)
    if not tensor.numel():
        if num_classes <= 0:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
    elif bool(ew.lt(every, 0).any()):
        raise RuntimeError("Class values must be non-negative.")
    elif num_classes != -1 and bool(ew.ge(every, num_classes).any()):
        raise RuntimeError("Class values must be smaller than num_classes.")
    return creation.one_hot(tensor, num_classes)


_div = with_out(ew.div, OUT["div"])


def normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """Divide by the p-norm along `dim`, or by `eps` where that is larger."""
    lengths = norm(input, p, dim, True).clamp_min(eps).expand_as(input)
    return _div(input, lengths, out=out)
