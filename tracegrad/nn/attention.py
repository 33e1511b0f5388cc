"""``MultiheadAttention`` as a module."""

from __future__ import annotations

from typing import Any

from tracegrad.nn import init
from tracegrad.nn.attention_functions import canonical_mask, multi_head_attention_forward
from tracegrad.nn.layers import Linear
from tracegrad.nn.module import Module
from tracegrad.nn.parameter import Parameter
from tracegrad.ops.creation import empty
from tracegrad.ops.shaping import transpose
from tracegrad.tensor import Tensor


class NonDynamicallyQuantizableLinear(Linear):
    """A Linear under the name that torch shows for the output projection."""


class MultiheadAttention(Module):
    """Attention by several heads, each of which sees a projection of queries, keys and values.

    Args:
        embed_dim: the extent E of queries and outputs; a multiple of `num_heads`.
        dropout: the probability with which weights are dropped in training.
        bias: whether the projections have biases.
        add_bias_kv: append a learned key and value to each sequence.
        add_zero_attn: append a key and value of zeros.
        kdim, vdim: extents of keys and values, if not E.
        batch_first: sequences are [N, L, E] rather than [L, N, E].

    Raises:
        ValueError: an extent is not positive.
        AssertionError: E is no multiple of `num_heads`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and "
                f"num_heads={num_heads} instead"
            )
        super().__init__()
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == embed_dim == self.vdim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError("embed_dim must be divisible by num_heads")

        def parameter(*shape: int) -> Parameter:
            return Parameter(empty(*shape, device=device, dtype=dtype))

        together = self._qkv_same_embed_dim
        if together:
            self.in_proj_weight = parameter(3 * embed_dim, embed_dim)
        else:
            self.register_parameter("in_proj_weight", None)
        for name, extent in (("q", embed_dim), ("k", self.kdim), ("v", self.vdim)):
            weight = None if together else parameter(embed_dim, extent)
            self.register_parameter(f"{name}_proj_weight", weight)
        self.register_parameter("in_proj_bias", parameter(3 * embed_dim) if bias else None)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, device, dtype)
        for name in ("bias_k", "bias_v"):
            self.register_parameter(name, parameter(1, 1, embed_dim) if add_bias_kv else None)
        self.add_zero_attn = add_zero_attn
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for weight in (
            self.in_proj_weight,
            self.q_proj_weight,
            self.k_proj_weight,
            self.v_proj_weight,
        ):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            query: [L, E], [L, N, E], or [N, L, E] if `batch_first`.
            key, value: as `query`, of length S.
            key_padding_mask: [N, S] or [S]: bool (True is ignored) or floating (added to scores).
            need_weights: return the weights, too; without them the computation is cheaper.
            attn_mask: [L, S] or [N * num_heads, L, S]: bool (True may not be looked at) or floating.
            average_attn_weights: weights are averaged over heads.
            is_causal: a hint that `attn_mask` is the causal one.

        Returns:
            The output, as `query`, and weights [N, L, S], or [N, num_heads, L, S], or None.

        Raises:
            AssertionError, RuntimeError: shapes, dtypes or options do not fit.
        """
        key_padding_mask = canonical_mask(
            key_padding_mask, "key_padding_mask", query.dtype, attn_mask, "attn_mask"
        )
        attn_mask = canonical_mask(attn_mask, "attn_mask", query.dtype)
        turned = self.batch_first and query.dim() == 3
        if turned:
            # One tensor stays one: it is projected at once.
            turns: dict[int, Tensor] = {}
            query, key, value = (
                turns.setdefault(id(x), transpose(x, 1, 0)) if x.dim() > 1 else x
                for x in (query, key, value)
            )
        output, weights = multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=not self._qkv_same_embed_dim,
            q_proj_weight=self.q_proj_weight,
            k_proj_weight=self.k_proj_weight,
            v_proj_weight=self.v_proj_weight,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return (transpose(output, 1, 0) if turned else output), weights
