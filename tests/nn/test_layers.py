"""Layers, activations and losses as modules: representation, state, numbers and training against torch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from window_layers import WINDOW_LAYERS

import tracegrad as tg
from tracegrad import nn

# Python expressions, with ``nn`` standing for tracegrad.nn or torch.nn, and the shape of an input.
LAYERS: dict[str, tuple[int, ...]] = {
    "Identity(1, a=2)": (2, 3),
    "Linear(3, 4)": (5, 3),
    "Linear(3, 4, bias=False)": (2, 5, 3),
    "Flatten()": (2, 3, 4),
    "Flatten(0, 1)": (2, 3, 4),
    "Unflatten(1, (2, 3))": (4, 6),
    "ReLU()": (2, 3),
    "ReLU(inplace=True)": (2, 3),
    "ReLU6()": (2, 3),
    "LeakyReLU()": (2, 3),
    "LeakyReLU(0.2, True)": (2, 3),
    "ELU()": (2, 3),
    "ELU(0.5, True)": (2, 3),
    "SELU()": (2, 3),
    "GELU()": (2, 3),
    "GELU('tanh')": (2, 3),
    "SiLU()": (2, 3),
    "Mish()": (2, 3),
    "Sigmoid()": (2, 3),
    "LogSigmoid()": (2, 3),
    "Tanh()": (2, 3),
    "Tanhshrink()": (2, 3),
    "Softsign()": (2, 3),
    "Softplus()": (2, 3),
    "Softplus(2, 3)": (2, 3),
    "Softmax(dim=1)": (2, 3),
    "Softmin(dim=0)": (2, 3),
    "LogSoftmax(dim=-1)": (2, 3),
    "Hardtanh()": (2, 3),
    "Hardtanh(-0.5, 0.5, True)": (2, 3),
    "Hardsigmoid()": (2, 3),
    "Hardswish()": (2, 3),
    "Hardswish(True)": (2, 3),
    "GLU()": (2, 6),
    "GLU(0)": (4, 3),
    "CELU()": (2, 3),
    "CELU(0.5, True)": (2, 3),
    "Threshold(0.1, 20)": (2, 3),
    "Threshold(0.1, 20, True)": (2, 3),
    "Hardshrink()": (2, 3),
    "Softshrink(0.3)": (2, 3),
    "PReLU()": (2, 3),
    "PReLU(3, init=-0.5)": (5, 3, 2),
    "Softmax2d()": (2, 3, 4, 2),
    "Dropout(0.0)": (2, 3),
    "Dropout(0.3, True).eval()": (2, 3),
    "LayerNorm(3)": (5, 3),
    "LayerNorm((2, 3), bias=False)": (5, 2, 3),
    "LayerNorm(3, elementwise_affine=False)": (5, 3),
    "BatchNorm1d(3)": (5, 3),
    "BatchNorm1d(3).eval()": (5, 3, 2),
    "BatchNorm1d(3, momentum=None)": (5, 3, 2),
    "BatchNorm1d(3, affine=False, track_running_stats=False)": (5, 3),
    "BatchNorm1d(3, bias=False)": (5, 3),
    "Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Sequential(nn.Linear(4, 2)))": (
        6,
        3,
    ),
}
LAYERS |= WINDOW_LAYERS
TABLES = [
    "Embedding(4, 3)",
    "Embedding(4, 3, padding_idx=-1)",
    "Embedding(4, 3, max_norm=1.0, norm_type=1.0)",
]
LOSSES = [
    "MSELoss()",
    "L1Loss(reduction='sum')",
    "SmoothL1Loss(beta=0.5)",
    "HuberLoss(delta=0.5)",
    "BCEWithLogitsLoss()",
    "KLDivLoss(reduction='batchmean', log_target=True)",
    "SoftMarginLoss()",
    "HingeEmbeddingLoss(0.5)",
    "PoissonNLLLoss()",
    "PoissonNLLLoss(full=True, reduction='sum')",
    "MultiLabelSoftMarginLoss()",
    "PairwiseDistance()",
    "PairwiseDistance(1, keepdim=True)",
    "CosineSimilarity(0)",
]
CLASS_LOSSES = [
    "CrossEntropyLoss()",
    "CrossEntropyLoss(label_smoothing=0.1, reduction='sum')",
    "CrossEntropyLoss(ignore_index=0)",
    "MultiMarginLoss(2, 0.5)",
]
OF_SEVERAL = {
    "MarginRankingLoss(0.3)": [(4,), (4,), "signs"],
    "CosineEmbeddingLoss(-0.2)": [(4, 3), (4, 3), "signs"],
    "TripletMarginLoss(2.0, 1.0, swap=True)": [(4, 3)] * 3,
    "TripletMarginWithDistanceLoss(margin=2.0)": [(4, 3)] * 3,
    "GaussianNLLLoss(full=True)": [(4, 3), (4, 3), "variances"],
}


def make(library: Any, text: str) -> Any:
    """The module that an expression describes."""
    return eval("nn." + text, {"nn": library})


@pytest.mark.peers
@pytest.mark.parametrize(
    "text", [*LAYERS, *TABLES, *LOSSES, *CLASS_LOSSES, "NLLLoss()", "BCELoss()"]
)
def test_representation_and_state(text: str, torch: ModuleType) -> None:
    ours, theirs = make(nn, text), make(torch.nn, text)
    assert repr(ours) == repr(theirs)
    assert [(k, tuple(v.shape), str(v.dtype)) for k, v in ours.state_dict().items()] == [
        (k, tuple(v.shape), str(v.dtype)) for k, v in theirs.state_dict().items()
    ]
    assert ours.training == theirs.training
    assert [name for name, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]


@pytest.mark.peers
@pytest.mark.parametrize("text", LAYERS)
def test_numbers(text: str, torch: ModuleType, same_module: Any, rng: np.random.Generator) -> None:
    """Three rounds: outputs, gradients, and the running statistics that are left."""
    ours, theirs = make(nn, text), make(torch.nn, text)
    same_module(ours, theirs)
    for _ in range(3):
        x = rng.normal(size=LAYERS[text]).astype("f4")
        a, b = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, z = ours(a * 1), theirs(b * 1)
        np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-5, atol=1e-6)
        (y * y).sum().backward()
        (z * z).sum().backward()
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-4, atol=3e-5)
    for s, t in zip(ours.buffers(), theirs.buffers(), strict=True):
        np.testing.assert_allclose(s.numpy(), t.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.peers
@pytest.mark.parametrize("text", TABLES)
def test_embedding_numbers(text: str, torch: ModuleType, same_module: Any) -> None:
    ours, theirs = make(nn, text), make(torch.nn, text)
    same_module(ours, theirs)
    rows = [[0, 1, 3], [3, 3, 1]]
    y, z = ours(tg.tensor(rows)), theirs(torch.tensor(rows))
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-6)
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_array_equal(ours.weight.grad.numpy(), theirs.weight.grad.numpy())
    np.testing.assert_allclose(
        ours.weight.detach().numpy(), theirs.weight.detach().numpy(), rtol=1e-6
    )


@pytest.mark.peers
@pytest.mark.parametrize("text", [*LOSSES, *CLASS_LOSSES])
def test_loss_numbers(text: str, torch: ModuleType, rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 3)).astype("f4")
    y = rng.integers(0, 3, 5) if text in CLASS_LOSSES else rng.normal(size=(5, 3)).astype("f4")
    ours = make(nn, text)(tg.tensor(x), tg.tensor(y))
    theirs = make(torch.nn, text)(torch.tensor(x), torch.tensor(y))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5)


@pytest.mark.peers
@pytest.mark.parametrize("text", OF_SEVERAL)
def test_numbers_of_losses_of_several_tensors(
    text: str, torch: ModuleType, rng: np.random.Generator
) -> None:
    made = {
        "signs": np.array([1, -1, -1, 1]),
        "variances": rng.uniform(0.5, 2, (4, 3)).astype("f4"),
    }
    arrays = [
        made[form] if isinstance(form, str) else rng.normal(size=form).astype("f4")
        for form in OF_SEVERAL[text]
    ]
    ours, theirs = make(nn, text), make(torch.nn, text)
    assert repr(ours) == repr(theirs)
    np.testing.assert_allclose(
        ours(*map(tg.tensor, arrays)).numpy(), theirs(*map(torch.tensor, arrays)).numpy(), rtol=1e-5
    )


@pytest.mark.peers
def test_weights_of_classes_with_margins(torch: ModuleType, rng: np.random.Generator) -> None:
    x, y, w = rng.normal(size=(5, 3)).astype("f4"), rng.integers(0, 3, 5), rng.uniform(1, 2, 3)
    for reduction in ("none", "mean", "sum"):
        ours, theirs = (
            lib.nn.MultiMarginLoss(weight=lib.tensor(w.astype("f4")), reduction=reduction)(
                lib.tensor(x), lib.tensor(y)
            ).numpy()
            for lib in (tg, torch)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_loss_weights_are_buffers() -> None:
    loss = nn.CrossEntropyLoss(weight=tg.ones(3))
    assert list(loss.state_dict()) == ["weight"]
    assert loss.double().weight.dtype is tg.float64
    assert nn.BCELoss(tg.ones(2))(tg.full((2,), 0.5), tg.ones(2)).item() == pytest.approx(np.log(2))
    assert nn.NLLLoss()(tg.zeros(2, 3), tg.tensor([0, 1])).item() == 0


def test_dropout_depends_on_training() -> None:
    tg.manual_seed(1)
    layer, x = nn.Dropout(0.5), tg.ones(1000)
    assert 300 < int((layer(x) == 0).sum()) < 700
    assert layer.eval()(x) is x
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        nn.Dropout(1.5)


def test_linear_begins_as_torchs() -> None:
    """Uniform in +-1/sqrt(in_features), weight and bias."""
    tg.manual_seed(3)
    layer = nn.Linear(100, 500)
    for p in layer.parameters():
        values = p.detach().numpy()
        assert abs(values).max() <= 0.1
        assert abs(values).max() > 0.099
        assert values.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.05)
    assert nn.Linear(3, 2, dtype=tg.float64).weight.dtype is tg.float64


def test_embedding_from_pretrained() -> None:
    table = nn.Embedding.from_pretrained(tg.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert not table.weight.requires_grad
    assert table(tg.tensor(1)).tolist() == [3, 4]
    assert nn.Embedding(4, 2, padding_idx=2).weight[2].tolist() == [0, 0]
    with pytest.raises(AssertionError, match="Padding_idx must be within num_embeddings"):
        nn.Embedding(3, 2, padding_idx=3)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"expected 2D or 3D input \(got 1D input\)"):
        nn.BatchNorm1d(3)(tg.ones(3))
    with pytest.raises(
        TypeError, match="unflattened_size must be a tuple of ints, but found type int"
    ):
        nn.Unflatten(1, 3)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match=r"max_val \(0\) must be greater than min_val \(1\)"):
        nn.Hardtanh(1, 0)
    with pytest.raises(TypeError, match="delta must be a float or int"):
        nn.HuberLoss(delta="1")  # type: ignore[arg-type]


def test_modules_compile() -> None:
    """A network with state, in training and in evaluation, native from the second call on."""
    tg.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 2)
    )
    twin = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 2)
    )
    twin.load_state_dict(net.state_dict())
    compiled = tg.compile(net)
    for mode in (True, False, True):
        net.train(mode)
        twin.train(mode)
        for _ in range(3):
            x = tg.randn(16, 3)
            tg.manual_seed(5)
            y = compiled(x)
            tg.manual_seed(5)
            z = twin(x)
            np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-5, atol=1e-6)
    for a, b in zip(net.buffers(), twin.buffers(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)
    assert compiled.stats.native >= 6
