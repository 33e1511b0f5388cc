"""Attention and transformers: values, gradients, representation, state and errors against torch; compiled."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from module_cases import Case, check_against_torch, check_compiled

import tracegrad as tg

PADDING = np.array([[False, False, True], [False, False, False]])
BLOCKED = np.array([[False, True, False], [True, False, False], [False, False, False]])
FLOATS = np.array([[0.0, -1.0, 2.0], [0.5, 0.0, 0.0], [0.0, 1.0, -np.inf]])
HEADS = np.arange(4 * 9).reshape(4, 3, 3) % 5 == 1
CAUSAL = np.triu(np.full((3, 3), -np.inf), 1)


def attention(shapes: Any, mask: Any = None, **options: Any) -> Case:
    def call(lib: ModuleType, module: Any, *tensors: Any) -> Any:
        return lib.nn.functional.scaled_dot_product_attention(*tensors, **options)

    return Case("nn.Identity()", shapes, call, [] if mask is None else [mask])


def attend(text: str, shapes: Any, masks: Any = (), **options: Any) -> Case:
    def call(lib: ModuleType, module: Any, *tensors: Any) -> Any:
        given = dict(zip(masks, tensors[len(shapes) :], strict=True))
        x = tensors[: len(shapes)]
        query, key, value = x if len(x) == 3 else (x[0], x[-1], x[-1])
        return module(query, key, value, **given, **options)

    return Case(f"nn.MultiheadAttention({text})", shapes, call, list(dict(masks).values()))


def layer(text: str, shapes: Any, masks: Any = (), **options: Any) -> Case:
    def call(lib: ModuleType, module: Any, *tensors: Any) -> Any:
        given = dict(zip(masks, tensors[len(shapes) :], strict=True))
        return module(*tensors[: len(shapes)], **given, **options)

    return Case(f"nn.{text}", shapes, call, list(dict(masks).values()))


Q, K, V = (2, 3, 4), (2, 3, 4), (2, 3, 5)
BATCH = [(3, 2, 4), (3, 2, 4), (3, 2, 4)]
ENCODER = "TransformerEncoderLayer(4, 2, 6, dropout=0.0"
DECODER = "TransformerDecoderLayer(4, 2, 6, dropout=0.0"
CASES = {
    "plain": attention([Q, K, V]),
    "matrices": attention([(3, 4), (2, 4), (2, 5)]),
    "heads": attention([(2, 4, 3, 4), (2, 4, 5, 4), (2, 4, 5, 4)]),
    "bool mask": attention([Q, K, V], ~BLOCKED),
    "row without keys": attention([Q, K, V], np.array([[True] * 3, [False] * 3, [True] * 3])),
    "float mask": attention([Q, K, V], FLOATS),
    "mask of -inf": attention([Q, K, V], np.full((3, 3), -np.inf)),
    "causal": attention([(2, 4, 4), K, V], is_causal=True),
    "causal, more keys": attention([(2, 2, 4), K, V], is_causal=True),
    "scale": attention([Q, K, V], scale=0.3),
    "grouped": attention([(2, 4, 3, 4), (2, 2, 3, 4), (2, 2, 3, 4)], enable_gqa=True),
    "broadcast": attention([(2, 4, 3, 4), (2, 1, 3, 4), (1, 4, 3, 4)]),
    "self": attend("4, 2", [(3, 2, 4)]),
    "three": attend("4, 2, bias=False", [(2, 2, 4), (3, 2, 4), (3, 2, 4)]),
    "two": attend("4, 2", [(2, 2, 4), (3, 2, 4)]),
    "unbatched": attend("4, 2, batch_first=True", [(2, 4), (3, 4), (3, 4)]),
    "unbatched masks": attend(
        "4, 2", [(3, 4)], {"attn_mask": BLOCKED, "key_padding_mask": PADDING[0]}
    ),
    "unbatched, mask per head": attend("4, 4", [(3, 4)], {"attn_mask": HEADS}),
    "batch first": attend("4, 2, batch_first=True", [(2, 3, 4), (2, 5, 4)]),
    "batch first self": attend("4, 2, batch_first=True", [(2, 3, 4)], need_weights=False),
    "other extents": attend("4, 2, kdim=3, vdim=5", [(2, 2, 4), (3, 2, 3), (3, 2, 5)]),
    "added keys": attend(
        "4, 2, add_bias_kv=True, add_zero_attn=True",
        [(3, 2, 4)],
        {"attn_mask": BLOCKED, "key_padding_mask": PADDING},
    ),
    "added bias": attend("4, 2, add_bias_kv=True", BATCH, need_weights=False),
    "added zero": attend("4, 2, add_zero_attn=True", BATCH, {"attn_mask": FLOATS}),
    "weights of heads": attend("4, 2", BATCH, average_attn_weights=False),
    "mask": attend("4, 2", BATCH, {"attn_mask": BLOCKED}),
    "mask per head": attend("4, 2", BATCH, {"attn_mask": HEADS}),
    "padding": attend("4, 2", BATCH, {"key_padding_mask": PADDING}, need_weights=False),
    "causal hint": attend(
        "4, 2", [(3, 2, 4)], {"attn_mask": CAUSAL}, need_weights=False, is_causal=True
    ),
    "causal hint with weights": attend("4, 2", [(3, 2, 4)], {"attn_mask": CAUSAL}, is_causal=True),
    "encoder layer": layer(f"{ENCODER})", [(3, 2, 4)]),
    "encoder layer, unbatched": layer(f"{ENCODER})", [(3, 4)]),
    "encoder layer, options": layer(
        f"{ENCODER}, activation='gelu', norm_first=True, batch_first=True, bias=False)",
        [(2, 3, 4)],
        {"src_mask": BLOCKED, "src_key_padding_mask": PADDING},
    ),
    "encoder layer in evaluation": layer(
        f"{ENCODER}, layer_norm_eps=0.1).eval()",
        [(3, 2, 4)],
        {"src_mask": CAUSAL},
        is_causal=True,
    ),
    "decoder layer": layer(f"{DECODER})", [(3, 2, 4), (5, 2, 4)], {"tgt_mask": CAUSAL}),
    "decoder layer, options": layer(
        f"{DECODER}, activation=nn.functional.silu, norm_first=True, batch_first=True)",
        [(2, 3, 4), (2, 3, 4)],
        {"memory_mask": BLOCKED, "memory_key_padding_mask": PADDING},
    ),
    "encoder": layer(
        f"TransformerEncoder(nn.{ENCODER}), 2, enable_nested_tensor=False)",
        [(3, 2, 4)],
        {"src_key_padding_mask": PADDING},
    ),
    "encoder with norm": layer(
        f"TransformerEncoder(nn.{ENCODER}), 1, nn.LayerNorm(4), enable_nested_tensor=False)",
        [(3, 2, 4)],
        {"mask": CAUSAL},
    ),
    "decoder": layer(
        f"TransformerDecoder(nn.{DECODER}), 2, nn.LayerNorm(4))",
        [(3, 2, 4), (2, 2, 4)],
        {"tgt_mask": CAUSAL},
    ),
    "transformer": layer(
        "Transformer(4, 2, 1, 2, 6, 0.0, norm_first=True, batch_first=True)",
        [(2, 3, 4), (2, 3, 4)],
        {"tgt_mask": CAUSAL, "memory_key_padding_mask": PADDING},
    ),
}


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str, torch: ModuleType, same_module: Any) -> None:
    check_against_torch(CASES[name], torch, same_module)


@pytest.mark.parametrize("name", CASES)
def test_compiled_as_eager(name: str) -> None:
    check_compiled(CASES[name])


X = np.ones((2, 3, 4), "f4")
ERRORS = [
    lambda lib, x: lib.nn.functional.scaled_dot_product_attention(x, x.double(), x),
    lambda lib, x: lib.nn.functional.scaled_dot_product_attention(x[0, 0], x, x),
    lambda lib, x: lib.nn.functional.scaled_dot_product_attention(
        x, x, x, x[0, :, :3] > 0, is_causal=True
    ),
    lambda lib, x: lib.nn.functional.scaled_dot_product_attention(x, x, x, x[0, :, :3].long()),
    lambda lib, x: lib.nn.functional.scaled_dot_product_attention(x, x, x, x[0, :, :3].double()),
    lambda lib, x: lib.nn.functional.scaled_dot_product_attention(
        x[None], x[None, :1].expand(1, 3, 3, 4), x[None, :1].expand(1, 3, 3, 4), enable_gqa=True
    ),
    lambda lib, x: lib.nn.MultiheadAttention(0, 1),
    lambda lib, x: lib.nn.MultiheadAttention(4, 3),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x[0, 0], x, x),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x, x[0], x),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x[0], x, x),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x, x, x, x > 0),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x[0], x[0], x[0], x > 0),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x, x, x, x[0].long()),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x, x, x, x[0] > 0),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x, x, x, x[:, 0] > 0),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x, x, x, attn_mask=x[0, 0] > 0),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x, x, x, attn_mask=x[0] > 0),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x, x, x, attn_mask=x > 0),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x[0], x[0], x[0], attn_mask=x > 0),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x, x, x, is_causal=True),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2)(x, x, x[:1]),
    lambda lib, x: lib.nn.MultiheadAttention(8, 2)(x, x, x),
    lambda lib, x: lib.nn.MultiheadAttention(4, 2, kdim=3)(x, x[..., :3], x[:1]),
    lambda lib, x: lib.nn.TransformerEncoderLayer(4, 2, activation="tanh"),
    lambda lib, x: lib.nn.Transformer(4, 2, 1, 1, 4)(x, x[:, :1]),
    lambda lib, x: lib.nn.Transformer(4, 2, 1, 1, 4)(x[..., :2], x),
]


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_errors_are_torchs(number: int, both_raise: Any) -> None:
    start = {5: 60}.get(number)  # torch's own text breaks off in the middle of the sentence.
    both_raise(ERRORS[number], X, start=start)


def test_warnings() -> None:
    x = tg.ones(3, 2, 4)
    with pytest.warns(UserWarning, match="Support for mismatched key_padding_mask and attn_mask"):
        tg.nn.MultiheadAttention(4, 2)(
            x, x, x, key_padding_mask=tg.tensor(PADDING), attn_mask=tg.zeros(3, 3)
        )


def test_weights_begin_as_torchs() -> None:
    tg.manual_seed(0)
    attention = tg.nn.MultiheadAttention(64, 2, add_bias_kv=True)
    weight = attention.in_proj_weight.detach().numpy()
    bound = np.sqrt(6 / (4 * 64))
    assert 0.99 * bound < abs(weight).max() <= bound
    assert not attention.in_proj_bias.any()
    assert not attention.out_proj.bias.any()
    # The weights of [1, 1, E] are normal with fans of 1 and E.
    assert attention.bias_k.detach().numpy().std() == pytest.approx(np.sqrt(2 / 128), rel=0.3)
    mask = tg.nn.Transformer.generate_square_subsequent_mask(3)
    np.testing.assert_array_equal(mask.numpy(), CAUSAL.astype("f4"))


def test_dropout_of_weights() -> None:
    """Weights are dropped in training only, and the same in a compiled call."""
    tg.manual_seed(1)
    module = tg.nn.MultiheadAttention(4, 2, dropout=0.5)
    x = tg.randn(6, 3, 4)
    tg.manual_seed(7)
    expected, weights = module(x, x, x)
    assert (weights == 0).any()
    compiled = tg.compile(lambda x: module(x, x, x)[0])
    for _ in range(2):
        tg.manual_seed(7)
        np.testing.assert_allclose(
            compiled(x).detach().numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-6
        )
    module.eval()
    assert not (module(x, x, x)[1] == 0).any()


def test_second_derivatives() -> None:
    rng = np.random.default_rng(2)
    q, k, v = (tg.tensor(rng.normal(size=(2, 3, 4)), requires_grad=True) for _ in range(3))
    mask = tg.tensor(BLOCKED)

    def attend(q: tg.Tensor, k: tg.Tensor, v: tg.Tensor) -> tg.Tensor:
        return tg.nn.functional.scaled_dot_product_attention(q, k, v, mask)

    assert tg.autograd.gradgradcheck(attend, (q, k, v))


def test_per_example_gradients() -> None:
    """vmap of grad of a module's loss is the gradient of each example alone."""
    module = tg.nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0).double()
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def loss(parameters: Any, x: Any) -> Any:
        return (tg.func.functional_call(module, parameters, (x,)) ** 2).sum()

    x = tg.tensor(np.random.default_rng(0).normal(size=(5, 3, 4)))
    together = tg.func.vmap(tg.func.grad(loss), (None, 0))(parameters, x)
    for i in range(5):
        alone = tg.func.grad(loss)(parameters, x[i])
        for name, g in alone.items():
            np.testing.assert_allclose(together[name][i].numpy(), g.numpy(), rtol=1e-9, atol=1e-11)
