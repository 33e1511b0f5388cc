"""Attention, as functions: ``scaled_dot_product_attention`` and what ``MultiheadAttention`` computes.

Both are compositions of products, a softmax and dropout. Start at `scaled_dot_product_attention`.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

from tracegrad.ir.types import bool_, float32
from tracegrad.nn.layer_functions import dropout, linear
from tracegrad.ops import creation, linalg
from tracegrad.ops import elementwise as ew
from tracegrad.ops.reduction import amax, mean, softmax
from tracegrad.ops.shaping import cat, expand, reshape, squeeze, transpose, unsqueeze
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

_NO = float("-inf")
Projections = tuple[Tensor, Tensor, Tensor]


@reported("aten::scaled_dot_product_attention")
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(query @ key.mT * scale + mask) @ value``.

    Args:
        query: [..., L, E].
        key: [..., S, E].
        value: [..., S, Ev].
        attn_mask: broadcast to [..., L, S]; bool (True takes part) or of the dtype of `query` (added). A row
            that may look at nothing gives zeros.
        dropout_p: the probability of dropping a weight; also outside of training, as in torch.
        is_causal: position i looks at positions up to i.
        scale: 1 / sqrt(E) if not given.
        enable_gqa: heads (dimension -3) of `key` and `value` are shared by groups of heads of `query`.

    Returns:
        [..., L, Ev].

    Raises:
        RuntimeError: shapes or dtypes do not fit, or a mask is given and `is_causal` as well.
    """
    _check(query, key, value, attn_mask, is_causal)
    if enable_gqa:
        key, value = (_shared_heads(query, x) for x in (key, value))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = linalg.matmul(ew.mul(query, factor), transpose(key, -2, -1))
    if is_causal:
        scores = ew.where(_lower_triangle(*scores.shape[-2:]), scores, _NO)
    elif attn_mask is not None:
        masked = attn_mask.dtype is bool_
        scores = ew.where(attn_mask, scores, _NO) if masked else ew.add(scores, attn_mask)
    weights = softmax(scores, -1) if attn_mask is None else _safe_softmax(scores)
    if dropout_p > 0.0:
        weights = dropout(weights, dropout_p)
    return linalg.matmul(weights, value)


def _check(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool
) -> None:
    if not query.dtype is key.dtype is value.dtype:
        raise RuntimeError(
            f"Expected query, key, and value to have the same dtype, but got query.dtype: {_word(query)} "
            f"key.dtype: {_word(key)} and value.dtype: {_word(value)} instead."
        )
    if query.dim() < 2 or key.dim() < 2 or value.dim() < 2:
        raise RuntimeError(
            "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: "
            f"{query.dim()} key.dim: {key.dim()} and value.dim: {value.dim()} instead."
        )
    if not query.is_floating_point():
        raise RuntimeError(f"expected scalar type Float but found {query.type()[6:-6]}")
    if attn_mask is None:
        return
    if attn_mask.dtype not in (bool_, float32, query.dtype):
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
            f"attn_mask.dtype: {_word(attn_mask)} and  query.dtype: {_word(query)} instead."
        )
    if is_causal:
        raise RuntimeError(
            "_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True"
        )


def _word(x: Tensor) -> str:
    """C++'s name of the dtype, as torch has it in these messages."""
    name = x.type()[6:-6].lower()
    return "long int" if name == "long" else name


def _shared_heads(query: Tensor, x: Tensor) -> Tensor:
    """Each head of `x` as often, one after the other, as heads of the query share it."""
    heads, wanted = x.shape[-3], query.shape[-3]
    if heads == 0 or wanted % heads:
        raise RuntimeError(
            "Number of heads in key and value must divide the number of heads in query: "
            f"{heads} and {wanted}"
        )
    before, (length, width) = x.shape[:-3], x.shape[-2:]
    grouped = expand(unsqueeze(x, -3), (*before, heads, wanted // heads, length, width))
    return reshape(grouped, (*before, wanted, length, width))


def _lower_triangle(rows: int, columns: int) -> Tensor:
    return ew.ge(unsqueeze(creation.arange(rows), 1), creation.arange(columns))


def _safe_softmax(scores: Tensor) -> Tensor:
    """The softmax of each row; zeros, also as derivatives, where a row is -inf throughout."""
    nothing = ew.eq(amax(scores.detach(), -1, True), _NO)
    return ew.where(nothing, 0.0, softmax(ew.where(nothing, 0.0, scores), -1))


def canonical_mask(
    mask: Tensor | None, name: str, dtype: Any, other: Tensor | None = None, other_name: str = ""
) -> Tensor | None:
    """A mask as numbers to add: -inf where a bool mask is True.

    Args:
        other: another mask, which should be of the same dtype; a warning says if it is not.

    Raises:
        AssertionError: neither bool nor floating.
    """
    if mask is None:
        return None
    floating = mask.is_floating_point()
    if not floating and mask.dtype is not bool_:
        raise AssertionError(f"only bool and floating types of {name} are supported")
    if other is not None and mask.dtype is not other.dtype:
        warnings.warn(
            f"Support for mismatched {name} and {other_name} is deprecated. Use same type for both instead.",
            stacklevel=2,
        )
    if floating:
        return mask
    return ew.where(mask, creation.full((), _NO, dtype=dtype), 0.0)


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What `tracegrad.nn.MultiheadAttention` computes; sequences come first, [L, N, E] or [L, E].

    Args:
        embed_dim_to_check: the extent E that `query` must have.
        static_k, static_v: [N * num_heads, S, E / num_heads]: used in place of projected keys and values.
        others: see `tracegrad.nn.MultiheadAttention`.

    Raises:
        AssertionError, RuntimeError: shapes, dtypes or options do not fit.
    """
    batched = _is_batched(query, key, value, key_padding_mask, attn_mask, num_heads)
    if not batched:
        query, key, value = (unsqueeze(x, 1) for x in (query, key, value))
        if key_padding_mask is not None:
            key_padding_mask = unsqueeze(key_padding_mask, 0)
    length, batch, width = query.shape
    padding = canonical_mask(
        key_padding_mask, "key_padding_mask", query.dtype, attn_mask, "attn_mask"
    )
    if is_causal and attn_mask is None:
        raise RuntimeError(
            "Need attn_mask if specifying the is_causal hint. You may use the Transformer module method "
            "`generate_square_subsequent_mask` to create this mask."
        )
    is_causal = is_causal and padding is None and not need_weights
    mask = None if is_causal else canonical_mask(attn_mask, "attn_mask", query.dtype)
    if width != embed_dim_to_check:
        raise AssertionError(
            f"was expecting embedding dimension of {embed_dim_to_check}, but got {width}"
        )
    if width % num_heads:
        raise AssertionError(f"embed_dim {width} not divisible by num_heads {num_heads}")
    if use_separate_proj_weight:
        if key.shape[:2] != value.shape[:2]:
            raise AssertionError(
                f"key's sequence and batch dims {key.shape[:2]} do not match value's {value.shape[:2]}"
            )
        weights = {"q": q_proj_weight, "k": k_proj_weight, "v": v_proj_weight}
        for name, weight in weights.items():
            if weight is None:
                raise AssertionError(
                    f"use_separate_proj_weight is True but {name}_proj_weight is None"
                )
        q, k, v = _projected(query, key, value, tuple(weights.values()), in_proj_bias)
    else:
        if key.shape != value.shape:
            raise AssertionError(f"key shape {key.shape} does not match value shape {value.shape}")
        if in_proj_weight is None:
            raise AssertionError("use_separate_proj_weight is False but in_proj_weight is None")
        q, k, v = _projected_by_one(query, key, value, in_proj_weight, in_proj_bias)
    mask = _mask_of_heads(mask, batch * num_heads, length, key.shape[0])
    added = 0
    if bias_k is not None and bias_v is not None:
        for name, static in (("key", static_k), ("value", static_v)):
            if static is not None:
                raise AssertionError(f"bias cannot be added to static {name}.")
        k = cat([k, expand(bias_k, (1, batch, width))])
        v = cat([v, expand(bias_v, (1, batch, width))])
        added += 1
    elif bias_k is not None or bias_v is not None:
        given, other = ("k", "v") if bias_k is not None else ("v", "k")
        raise AssertionError(f"bias_{given} is set but bias_{other} is None")
    q = _heads(q, num_heads)
    k = _heads(k, num_heads) if static_k is None else _checked_static("k", static_k, q)
    v = _heads(v, num_heads) if static_v is None else _checked_static("v", static_v, q)
    if add_zero_attn:
        zero = creation.zeros((batch * num_heads, 1, width // num_heads), dtype=k.dtype)
        k, v = cat([k, zero], 1), cat([v, zero], 1)
        added += 1
    mask = _merged(_widened(mask, added), _widened(padding, added), batch, num_heads, k.shape[1])
    result, attention = _attend(
        q, k, v, mask, dropout_p if training else 0.0, is_causal, need_weights
    )
    rows = reshape(transpose(result, 0, 1), length * batch, width)
    output = linear(rows, out_proj_weight, out_proj_bias)
    output = reshape(output, length, batch, output.shape[1])
    if attention is not None:
        attention = reshape(attention, batch, num_heads, length, k.shape[1])
        if average_attn_weights:
            attention = mean(attention, 1)
    if batched:
        return output, attention
    return squeeze(output, 1), None if attention is None else squeeze(attention, 0)


def _is_batched(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
    num_heads: int,
) -> bool:
    ndim = query.dim()
    if ndim not in (2, 3):
        raise AssertionError(
            f"query should be unbatched 2D or batched 3D tensor but received {ndim}-D query tensor"
        )
    kind = f"{'batched' if ndim == 3 else 'unbatched'} ({ndim}-D)"
    if key.dim() != ndim or value.dim() != ndim:
        raise AssertionError(
            f"For {kind} `query`, expected `key` and `value` to be {ndim}-D but found {key.dim()}-D and "
            f"{value.dim()}-D tensors respectively"
        )
    if key_padding_mask is not None and key_padding_mask.dim() != ndim - 1:
        raise AssertionError(
            f"For {kind} `query`, expected `key_padding_mask` to be `None` or {ndim - 1}-D but found "
            f"{key_padding_mask.dim()}-D tensor instead"
        )
    if attn_mask is not None:
        if attn_mask.dim() not in (2, 3):
            raise AssertionError(
                f"For {kind} `query`, expected `attn_mask` to be `None`, 2-D or 3-D but found "
                f"{attn_mask.dim()}-D tensor instead"
            )
        expected = (num_heads, query.shape[0], key.shape[0])
        if ndim == 2 and attn_mask.dim() == 3 and attn_mask.shape != expected:
            raise AssertionError(
                f"Expected `attn_mask` shape to be {expected} but got {attn_mask.shape}"
            )
    return ndim == 3


def _thirds(x: Tensor | None) -> tuple[Any, Any, Any]:
    if x is None:
        return None, None, None
    size = x.shape[0] // 3
    return x[:size], x[size : 2 * size], x[2 * size :]


def _projected(
    query: Tensor, key: Tensor, value: Tensor, weights: tuple[Any, ...], bias: Tensor | None
) -> Projections:
    q, k, v = (
        linear(x, w, b) for x, w, b in zip((query, key, value), weights, _thirds(bias), strict=True)
    )
    return q, k, v


def _projected_by_one(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor, bias: Tensor | None
) -> Projections:
    """All three by the parts of one weight: one product if the three are one tensor."""
    if query is not key or key is not value:
        return _projected(query, key, value, _thirds(weight), bias)
    width = query.shape[-1]
    packed = linear(query, weight, bias)
    return packed[..., :width], packed[..., width : 2 * width], packed[..., 2 * width :]


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """[L, N, E] as [N * num_heads, L, E / num_heads]."""
    length, batch, width = x.shape
    return transpose(reshape(x, length, batch * num_heads, width // num_heads), 0, 1)


def _checked_static(name: str, x: Tensor, query: Tensor) -> Tensor:
    for dim in (0, 2):
        if x.shape[dim] != query.shape[dim]:
            raise AssertionError(
                f"expecting static_{name}.size({dim}) of {query.shape[dim]}, but got {x.shape[dim]}"
            )
    return x


def _mask_of_heads(mask: Tensor | None, heads: int, length: int, source: int) -> Tensor | None:
    if mask is None:
        return None
    expected = (length, source) if mask.dim() == 2 else (heads, length, source)
    if mask.shape != expected:
        raise RuntimeError(
            f"The shape of the {mask.dim()}D attn_mask is {mask.shape}, but should be {expected}."
        )
    return unsqueeze(mask, 0) if mask.dim() == 2 else mask


def _widened(mask: Tensor | None, added: int) -> Tensor | None:
    """The mask with columns for keys that were added: they may be looked at."""
    if mask is None or not added:
        return mask
    return cat([mask, creation.zeros((*mask.shape[:-1], added), dtype=mask.dtype)], -1)


def _merged(
    mask: Tensor | None, padding: Tensor | None, batch: int, num_heads: int, source: int
) -> Tensor | None:
    """Both masks in one that can be added to scores [N * num_heads, L, S]."""
    if padding is None:
        return mask
    for dim, extent in enumerate((batch, source)):
        if padding.shape[dim] != extent:
            raise AssertionError(
                f"Expected key_padded_mask.shape[{dim}] to be {extent}, but got {padding.shape[dim]}"
            )
    spread = expand(reshape(padding, batch, 1, 1, source), (batch, num_heads, 1, source))
    spread = reshape(spread, batch * num_heads, 1, source)
    return spread if mask is None else ew.add(mask, spread)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    if not need_weights:
        return scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal), None
    scores = linalg.bmm(ew.mul(q, math.sqrt(1.0 / q.shape[-1])), transpose(k, -2, -1))
    weights = softmax(scores if mask is None else ew.add(scores, mask), -1)
    if dropout_p > 0.0:
        weights = dropout(weights, dropout_p)
    return linalg.bmm(weights, v), weights
