"""Every function of nn.functional: against finite differences, against torch, and compiled against eager.

A case is written once, with ``tg`` standing for tracegrad or for torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.nn.functional as F  # noqa: N812

CLASSES = np.array([2, 0, 1, 2, 1])
WITH_IGNORED = np.array([2, -100, 1, 2, -100])
PIXELS = np.array([[0, 1, 2, 1], [2, 2, 0, 1]])
LABELS = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.3]])
ROWS = np.array([[1, 0, 3], [3, 3, 2]])
PROBABILITIES = np.array(
    [[0.2, 0.5, 0.3], [0.0, 0.0, 1.0], [0.1, 0.6, 0.3], [1, 0, 0], [0.3, 0.3, 0.4]]
)


class Case(NamedTuple):
    """A call, and the shapes of the tensors that it is differentiated by (drawn from [low, high)).

    Attributes:
        grad_fn: whether the name of the record is torch's.
    """

    name: str
    call: Callable[..., Any]
    shapes: Sequence[tuple[int, ...]]
    low: float = -2.0
    high: float = 2.0
    grad_fn: bool = True

    def draw(self, rng: np.random.Generator, dtype: str) -> list[np.ndarray]:
        return [rng.uniform(self.low, self.high, shape).astype(dtype) for shape in self.shapes]


_made: dict[Any, Any] = {}


def index(lib: ModuleType, values: np.ndarray) -> Any:
    """The values as a tensor, always the same one: inside a compiled function it comes from outside."""
    if lib is not tg:
        return lib.tensor(values)
    if id(values) not in _made:
        _made[id(values)] = tg.tensor(values)
    return _made[id(values)]


def like(lib: ModuleType, x: Any, values: np.ndarray) -> Any:
    """The values as a tensor of the dtype of `x`, always the same one."""
    if lib is not tg:
        return lib.tensor(values, dtype=x.dtype)
    key = id(values), x.dtype.name
    if key not in _made:
        _made[key] = tg.tensor(values, dtype=x.dtype)
    return _made[key]


def activation(name: str, *args: Any, **options: Any) -> Case:
    def call(lib: ModuleType, x: Any) -> Any:
        return getattr(lib.nn.functional, name)(x, *args, **options)

    text = ", ".join([*map(str, args), *(f"{k}={v}" for k, v in options.items())])
    return Case(f"{name}({text})", call, [(3, 4)], low=-4, high=4)


def in_place(name: str) -> Case:
    def call(lib: ModuleType, x: Any) -> Any:
        return getattr(lib.nn.functional, name)(x * 1, inplace=True)

    return Case(f"{name}(inplace)", call, [(3, 4)], low=-4, high=4, grad_fn=False)


def losses(name: str, *, probabilities: bool = False, **options: Any) -> list[Case]:
    def make(reduction: str) -> Case:
        def call(lib: ModuleType, x: Any, y: Any) -> Any:
            return getattr(lib.nn.functional, name)(x, y, reduction=reduction, **options)

        low = 0.05 if probabilities else -2.0
        high = 0.95 if probabilities else 2.0
        text = ", ".join(f"{k}={v}" for k, v in options.items())
        return Case(f"{name}({reduction} {text})", call, [(4, 3), (4, 3)], low, high)

    return [make(reduction) for reduction in ("none", "mean", "sum")]


def classified(name: str, target: np.ndarray, shape: tuple[int, ...], **options: Any) -> list[Case]:
    def make(reduction: str) -> Case:
        def call(lib: ModuleType, x: Any) -> Any:
            given = {k: like(lib, x, v) if k == "weight" else v for k, v in options.items()}
            y = like(lib, x, target) if target.dtype.kind == "f" else index(lib, target)
            return getattr(lib.nn.functional, name)(x, y, reduction=reduction, **given)

        text = ", ".join(options)
        plain = target.dtype.kind != "f" and "label_smoothing" not in options and len(shape) != 3
        return Case(
            f"{name}({target.dtype} {list(target.shape)} {reduction} {text})",
            call,
            [shape],
            grad_fn=plain,
        )

    return [make(reduction) for reduction in ("none", "mean", "sum")]


WEIGHT = np.array([0.5, 2.0, 1.5])
CASES = [
    *map(
        activation,
        [
            "relu",
            "relu6",
            "leaky_relu",
            "elu",
            "selu",
            "gelu",
            "silu",
            "mish",
            "sigmoid",
            "tanh",
            "softplus",
            "hardtanh",
            "hardsigmoid",
            "logsigmoid",
            "softsign",
            "tanhshrink",
        ],
    ),
    *map(
        in_place,
        [
            *(
                "relu",
                "relu6",
                "leaky_relu",
                "elu",
                "selu",
                "silu",
                "mish",
                "hardtanh",
                "hardsigmoid",
            ),
            *("celu", "hardswish"),
        ],
    ),
    activation("gelu", approximate="tanh"),
    activation("leaky_relu", 0.3),
    activation("elu", 0.5),
    activation("hardtanh", -0.5, 1.5),
    activation("softplus", 2.0, 3.0),
    activation("softmax", 1),
    activation("softmin", 0),
    activation("log_softmax", -1),
    Case("linear", lambda lib, x, w, b: lib.nn.functional.linear(x, w, b), [(5, 3), (4, 3), (4,)]),
    Case("linear without bias", lambda lib, x, w: lib.nn.functional.linear(x, w), [(5, 3), (4, 3)]),
    Case(
        "linear 3-d",
        lambda lib, x, w, b: lib.nn.functional.linear(x, w, b),
        [(2, 5, 3), (4, 3), (4,)],
    ),
    Case(
        "linear 3-d without bias",
        lambda lib, x, w: lib.nn.functional.linear(x, w),
        [(2, 5, 3), (4, 3)],
        grad_fn=False,
    ),
    Case(
        "linear 1-d", lambda lib, x, w, b: lib.nn.functional.linear(x, w, b), [(3,), (4, 3), (4,)]
    ),
    Case("linear vector", lambda lib, x, w: lib.nn.functional.linear(x, w), [(5, 3), (3,)]),
    Case(
        "layer_norm",
        lambda lib, x, w, b: lib.nn.functional.layer_norm(x, (4,), w, b),
        [(3, 4), (4,), (4,)],
    ),
    Case(
        "layer_norm 2-d",
        lambda lib, x, w: lib.nn.functional.layer_norm(x, (3, 4), w, eps=1e-3),
        [(2, 3, 4), (3, 4)],
    ),
    Case("layer_norm plain", lambda lib, x: lib.nn.functional.layer_norm(x, (4,)), [(3, 4)]),
    Case(
        "batch_norm in training",
        lambda lib, x, w, b: lib.nn.functional.batch_norm(x, None, None, w, b, training=True),
        [(6, 3), (3,), (3,)],
    ),
    Case(
        "batch_norm 3-d",
        lambda lib, x, w: lib.nn.functional.batch_norm(x, None, None, w, training=True),
        [(4, 3, 5), (3,)],
    ),
    Case(
        "batch_norm in evaluation",
        lambda lib, x, m, v, w, b: lib.nn.functional.batch_norm(
            x, m.detach(), v.detach() ** 2, w, b
        ),
        [(6, 3), (3,), (3,), (3,), (3,)],
    ),
    Case(
        "embedding",
        lambda lib, w: lib.nn.functional.embedding(index(lib, ROWS), w),
        [(4, 3)],
    ),
    Case(
        "embedding with padding",
        lambda lib, w: lib.nn.functional.embedding(index(lib, ROWS), w, padding_idx=-1),
        [(4, 3)],
    ),
    Case("normalize", lambda lib, x: lib.nn.functional.normalize(x), [(3, 4)]),
    Case("normalize p=1", lambda lib, x: lib.nn.functional.normalize(x, 1.0, 0), [(3, 4)]),
    Case("pad", lambda lib, x: lib.nn.functional.pad(x, (1, 2)), [(3, 4)]),
    Case(
        "pad and cut",
        lambda lib, x: lib.nn.functional.pad(x, (-1, 2, 1, -1), value=0.5),
        [(3, 4)],
    ),
    *losses("mse_loss"),
    *losses("l1_loss"),
    *losses("smooth_l1_loss"),
    *losses("smooth_l1_loss", beta=0.5),
    *losses("huber_loss"),
    *losses("huber_loss", delta=0.5),
    *losses("kl_div", log_target=True),
    *losses("binary_cross_entropy", probabilities=True),
    *losses("binary_cross_entropy_with_logits"),
    *classified("nll_loss", CLASSES, (5, 3)),
    *classified("nll_loss", WITH_IGNORED, (5, 3), weight=WEIGHT),
    *classified("nll_loss", np.array(1), (3,)),
    *classified("nll_loss", PIXELS, (2, 3, 4)),
    *classified("cross_entropy", CLASSES, (5, 3)),
    *classified("cross_entropy", CLASSES.astype(np.uint8), (5, 3)),
    *classified("cross_entropy", WITH_IGNORED, (5, 3)),
    *classified("cross_entropy", CLASSES, (5, 3), ignore_index=2),
    *classified("cross_entropy", WITH_IGNORED, (5, 3), weight=WEIGHT),
    *classified("cross_entropy", WITH_IGNORED, (5, 3), label_smoothing=0.1),
    *classified("cross_entropy", WITH_IGNORED, (5, 3), label_smoothing=0.1, weight=WEIGHT),
    *classified("cross_entropy", PIXELS, (2, 3, 4), label_smoothing=0.1, weight=WEIGHT),
    *classified("cross_entropy", np.array(1), (3,), label_smoothing=0.1),
    *classified("cross_entropy", PROBABILITIES, (5, 3)),
    *classified("cross_entropy", PROBABILITIES, (5, 3), label_smoothing=0.1, weight=WEIGHT),
    *classified("kl_div", PROBABILITIES, (5, 3)),
    Case(
        "kl_div batchmean",
        lambda lib, x: lib.nn.functional.kl_div(
            x, like(lib, x, PROBABILITIES), reduction="batchmean"
        ),
        [(5, 3)],
    ),
    Case(
        "mse_loss weighted",
        lambda lib, x, y, w: lib.nn.functional.mse_loss(x, y, weight=w),
        [(2, 3)] * 3,
        low=0.1,
        grad_fn=False,
    ),
    Case(
        "l1_loss weighted",
        lambda lib, x, y, w: lib.nn.functional.l1_loss(x, y, weight=w),
        [(2, 3)] * 3,
        low=0.1,
        grad_fn=False,
    ),
    Case(
        "binary_cross_entropy_with_logits weighted",
        lambda lib, x, w, p: lib.nn.functional.binary_cross_entropy_with_logits(
            x, like(lib, x, LABELS), w.detach(), pos_weight=p.detach()
        ),
        [(2, 3), (3,), (3,)],
        low=0.1,
    ),
]
DETACHED = "batch_norm in evaluation", "binary_cross_entropy_with_logits weighted"
IDS = [case.name for case in CASES]

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")


def run(
    lib: ModuleType, case: Case, arrays: Sequence[np.ndarray], ct: np.ndarray | None = None
) -> tuple[Any, list[np.ndarray]]:
    """The result, and the gradients of sum(result * ct)."""
    inputs = [lib.tensor(array, requires_grad=True) for array in arrays]
    result = case.call(lib, *inputs)
    (result if ct is None else (result * lib.tensor(ct)).sum()).backward()
    grads = [
        np.zeros_like(a) if x.grad is None else x.grad.numpy()
        for x, a in zip(inputs, arrays, strict=True)
    ]
    return result, grads


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_against_finite_differences(case: Case, rng: np.random.Generator) -> None:
    """Along one random direction, in float64."""
    arrays = case.draw(rng, "f8")
    with tg.no_grad():
        value = case.call(tg, *map(tg.tensor, arrays)).numpy()
    ct = rng.uniform(-1, 1, value.shape)
    _, grads = run(tg, case, arrays, ct)
    directions = [rng.uniform(-1, 1, a.shape) for a in arrays]
    step = 1e-6

    def along(t: float) -> float:
        with tg.no_grad():
            moved = [tg.tensor(a + t * d) for a, d in zip(arrays, directions, strict=True)]
            return float((case.call(tg, *moved).numpy() * ct).sum())

    if case.name == "embedding with padding":
        directions[0][-1] = 0
    elif case.name in DETACHED:
        directions[1][:] = directions[2][:] = 0
    expected = (along(step) - along(-step)) / (2 * step)
    actual = sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True))
    assert actual == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_against_torch(case: Case, dtype: str, torch: ModuleType, rng: np.random.Generator) -> None:
    arrays = case.draw(rng, dtype)
    with tg.no_grad():
        shape = case.call(tg, *map(tg.tensor, arrays)).shape
    ct = rng.uniform(-1, 1, shape).astype(dtype)
    ours, our_grads = run(tg, case, arrays, ct)
    theirs, their_grads = run(torch, case, arrays, ct)
    tolerance = {"rtol": 3e-5, "atol": 3e-6} if dtype == "f4" else {"rtol": 1e-10, "atol": 1e-12}
    if case.name.startswith("hardsigmoid"):
        tolerance["rtol"] = 1e-6  # torch multiplies by the float32 1/6, also in float64.
    assert tuple(ours.shape) == tuple(theirs.shape)
    assert str(ours.dtype) == str(theirs.dtype)
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), **tolerance)
    for a, b in zip(our_grads, their_grads, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)
    if case.grad_fn:
        assert ours.grad_fn.name() == theirs.grad_fn.name()


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_compiled_as_eager(case: Case, rng: np.random.Generator) -> None:
    """Value and gradients of a compiled call are those of an eager one, for data it was not traced with."""

    def value_and_grads(*inputs: Any) -> Any:
        result = case.call(tg, *inputs)
        return result, tg.autograd.grad((result * result).sum(), inputs, allow_unused=True)

    compiled = tg.compile(value_and_grads)
    for _ in range(3):
        inputs = [tg.tensor(a, requires_grad=True) for a in case.draw(rng, "f8")]
        expected, expected_grads = value_and_grads(*inputs)
        result, grads = compiled(*inputs)
        np.testing.assert_allclose(
            result.detach().numpy(), expected.detach().numpy(), rtol=1e-12, atol=1e-13
        )
        for a, b in zip(grads, expected_grads, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-11, atol=1e-12)
    assert compiled.stats.eager == 1, compiled.explain()


EXTREMES = np.array([-np.inf, -1e4, -100.0, -3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0, 20.0, 1e4])


@pytest.mark.peers
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    "name",
    [
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "gelu",
        "sigmoid",
        "tanh",
        "softplus",
        "hardtanh",
        "logsigmoid",
    ],
)
def test_activations_at_extremes(name: str, dtype: str, torch: ModuleType) -> None:
    """At the kinks, where branches overflow, and at infinity: torch's value and derivative."""
    x = EXTREMES[1:].astype(dtype) if name in ("gelu", "tanh") else EXTREMES.astype(dtype)
    case = Case(name, lambda lib, v: getattr(lib.nn.functional, name)(v), [x.shape])
    ours, our_grads = run(tg, case, [x], np.ones_like(x))
    theirs, their_grads = run(torch, case, [x], np.ones_like(x))
    tolerance = {"rtol": 5e-6, "atol": 3e-7} if dtype == "f4" else {"rtol": 1e-12, "atol": 1e-15}
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), **tolerance)
    np.testing.assert_allclose(our_grads[0], their_grads[0], **tolerance)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["hardshrink", "softshrink", "hardswish", "celu", "relu6"])
def test_gradients_at_kinks(name: str, torch: ModuleType) -> None:
    """Where there is no derivative, torch's choice."""
    outcomes = []
    for lib in (tg, torch):
        x = lib.tensor([-6.0, -3.0, -0.5, 0.0, 0.5, 3.0, 6.0], requires_grad=True)
        y = getattr(lib.nn.functional, name)(x)
        y.sum().backward()
        outcomes.append((y.tolist(), x.grad.tolist()))
    np.testing.assert_allclose(outcomes[0][1], outcomes[1][1], atol=1e-7)
    np.testing.assert_allclose(outcomes[0][0], outcomes[1][0], atol=1e-6)


@pytest.mark.peers
def test_lower_bounds_let_gradients_pass(torch: ModuleType) -> None:
    """A variance or length below the bound counts as the bound, and yet has a gradient, as in torch."""
    outcomes = []
    for lib in (tg, torch):
        functions = lib.nn.functional
        x = lib.tensor([[0.5, -1.0], [2.0, 0.1]], dtype=lib.float64, requires_grad=True)
        small = lib.tensor([[1e-9, 1e-3], [0.5, 2.0]], dtype=lib.float64, requires_grad=True)
        total = (
            functions.gaussian_nll_loss(x, 2 * x, small, eps=1e-2)
            + functions.cosine_similarity(x, small, eps=1.0).sum()
        )
        outcomes.append(
            [g.numpy() for g in (total.detach(), *lib.autograd.grad(total, [x, small]))]
        )
    for ours, theirs in zip(*outcomes, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.peers
def test_losses_at_extremes(torch: ModuleType) -> None:
    """Saturated probabilities and large logits: finite, and torch's."""
    probabilities = np.array([0.0, 1.0, 0.0, 1.0, 1e-8, 1 - 1e-7, 0.5], np.float32)
    logits = np.array([-1e4, 1e4, -100.0, 100.0, 0.0, -0.0, 30.0], np.float32)
    y = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.25, 0.5], np.float32)
    for name, x in (
        ("binary_cross_entropy", probabilities),
        ("binary_cross_entropy_with_logits", logits),
    ):
        case = Case(
            name, lambda lib, x, n=name: getattr(lib.nn.functional, n)(x, lib.tensor(y)), []
        )
        ours, our_grads = run(tg, case, [x])
        theirs, their_grads = run(torch, case, [x])
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-6)
        np.testing.assert_allclose(our_grads[0], their_grads[0], rtol=1e-5, atol=1e-40)


def test_second_derivatives() -> None:
    """Of a small network with a loss: Hessian-vector products against differences of gradients."""
    rng = np.random.default_rng(5)
    x, w = rng.normal(size=(6, 3)), rng.normal(size=(2, 3))
    v = rng.normal(size=w.shape)
    target = tg.tensor([0, 1, 1, 0, 1, 0])

    def gradient(values: np.ndarray) -> np.ndarray:
        weight = tg.tensor(values, requires_grad=True)
        F.cross_entropy(F.gelu(F.linear(tg.tensor(x), weight)), target).backward()
        return weight.grad.numpy()

    weight = tg.tensor(w, requires_grad=True)
    loss = F.cross_entropy(F.gelu(F.linear(tg.tensor(x), weight)), target)
    (g,) = tg.autograd.grad(loss, weight, create_graph=True)
    (hv,) = tg.autograd.grad((g * tg.tensor(v)).sum(), weight)
    expected = (gradient(w + 1e-5 * v) - gradient(w - 1e-5 * v)) / 2e-5
    np.testing.assert_allclose(hv.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_dropout() -> None:
    tg.manual_seed(0)
    x = tg.ones(10_000, requires_grad=True)
    y = F.dropout(x, 0.3)
    values = np.unique(y.detach().numpy())
    np.testing.assert_allclose(values, [0, 1 / 0.7], rtol=1e-6)
    assert abs(float(y.mean()) - 1) < 0.03
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    assert F.dropout(x, 0.3, training=False) is x
    assert not F.dropout(x, 1.0).any()
    tg.manual_seed(0)
    assert tg.equal(F.dropout(x, 0.3), y)
    z = tg.ones(100)
    assert F.dropout(z, 0.5, inplace=True) is z
    assert set(z.tolist()) == {0.0, 2.0}


def test_one_hot() -> None:
    assert F.one_hot(tg.tensor([[0, 2]])).tolist() == [[[1, 0, 0], [0, 0, 1]]]
    assert F.one_hot(tg.tensor([1]), 3).tolist() == [[0, 1, 0]]
    assert F.one_hot(tg.tensor([1]), 3).dtype is tg.int64


def test_embedding_max_norm() -> None:
    weight = tg.tensor([[3.0, 4.0], [0.3, 0.4], [6.0, 8.0]])
    F.embedding(tg.tensor([0, 1, 0]), weight, max_norm=1.0)
    np.testing.assert_allclose(weight.numpy(), [[0.6, 0.8], [0.3, 0.4], [6.0, 8.0]], rtol=1e-6)


def test_batch_norm_follows_statistics(rng: np.random.Generator) -> None:
    x = rng.normal(2.0, 3.0, (50, 4)).astype("f4")
    mean, var = tg.zeros(4), tg.ones(4)
    F.batch_norm(tg.tensor(x), mean, var, training=True, momentum=0.25)
    np.testing.assert_allclose(mean.numpy(), 0.25 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var.numpy(), 0.75 + 0.25 * x.var(0, ddof=1), rtol=1e-5)


X, Y = np.ones((4, 3), "f4"), np.array([0, 1, 2, 0])
ERRORS = [
    (lambda lib, x, y: lib.nn.functional.cross_entropy(x, y[:3]), (X, Y)),
    (lambda lib, x: lib.nn.functional.glu(x), (X,)),
    (lambda lib, x: lib.nn.functional.glu(x[0, 0]), (X,)),
    (lambda lib, x: lib.nn.functional.glu(x, 5), (X,)),
    (lambda lib, x, y: lib.nn.functional.glu(y), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.hardswish(y), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.hardshrink(y), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.softshrink(y), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.celu(y), (X, Y)),
    (lambda lib, x: lib.nn.functional.celu(x, 0.0), (X,)),
    (lambda lib, x: lib.nn.functional.softshrink(x, -1.0), (X,)),
    (lambda lib, x: lib.nn.functional.prelu(x, x), (X,)),
    (lambda lib, x: lib.nn.functional.prelu(x, x[0, :2]), (X,)),
    (lambda lib, x: lib.nn.functional.prelu(x[0, 0], x[0]), (X,)),
    (lambda lib, x: lib.nn.functional.prelu(x, x[0].double()), (X,)),
    (lambda lib, x: lib.nn.functional.prelu(x, x[:1, :1]), (X,)),
    (lambda lib, x: lib.nn.Softmax2d()(x), (X,)),
    (lambda lib, x, y: lib.nn.functional.multi_margin_loss(x, y + 7), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.multi_margin_loss(x, y.int()), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.multi_margin_loss(x, y[:1]), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.multi_margin_loss(x, y, p=3), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.multi_margin_loss(x, y, weight=x), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.multi_margin_loss(x, y, weight=x[:, 0]), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.multilabel_margin_loss(x, y), (X, Y)),
    (lambda lib, x: lib.nn.functional.multilabel_margin_loss(x, x), (X,)),
    (lambda lib, x: lib.nn.functional.margin_ranking_loss(x, x, x[0]), (X,)),
    (lambda lib, x: lib.nn.functional.cosine_embedding_loss(x, x, x), (X,)),
    (lambda lib, x: lib.nn.functional.cosine_embedding_loss(x[0], x[0], x[:, 0]), (X,)),
    (lambda lib, x: lib.nn.functional.triplet_margin_loss(x, x, x[0]), (X,)),
    (lambda lib, x: lib.nn.functional.triplet_margin_loss(x, x, x, margin=-1.0), (X,)),
    (lambda lib, x: lib.nn.TripletMarginLoss(0.0), (X,)),
    (lambda lib, x: lib.nn.MultiMarginLoss(weight=x), (X,)),
    (lambda lib, x: lib.nn.functional.soft_margin_loss(x, x[0, :2]), (X,)),
    (lambda lib, x: lib.nn.functional.gaussian_nll_loss(x, x, -x * x), (X,)),
    (lambda lib, x: lib.nn.functional.gaussian_nll_loss(x, x, -1.0), (X,)),
    (lambda lib, x: lib.nn.functional.gaussian_nll_loss(x, x, x[:1, :1] ** 2), (X,)),
    (lambda lib, x: lib.nn.functional.gaussian_nll_loss(x, x, x * x, reduction="bad"), (X,)),
    (lambda lib, x: lib.nn.functional.poisson_nll_loss(x, x, reduction="bad"), (X,)),
    (lambda lib, x: lib.cosine_similarity(x, x, 5), (X,)),
    (lambda lib, y: lib.cosine_similarity(y, y), (Y,)),
    (lambda lib, x: lib.pdist(x[0]), (X,)),
    (lambda lib, x: lib.pdist(x, -1.0), (X,)),
    (lambda lib, x: lib.nn.functional.pairwise_distance(x, x[0, :2]), (X,)),
    (lambda lib, x, y: lib.nn.functional.cross_entropy(x, y * 0 + 7), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.cross_entropy(x, y - 1), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.cross_entropy(x, y.int()), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.cross_entropy(x, y.float()), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.cross_entropy(x, y.reshape(4, 1)), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.cross_entropy(x, y, weight=x[:, 0]), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.cross_entropy(x, y, reduction="bad"), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.cross_entropy(x, y, label_smoothing=2.0), (X, Y)),
    (lambda lib, x: lib.nn.functional.cross_entropy(x, x, ignore_index=1), (X,)),
    (
        lambda lib, x, y: lib.nn.functional.nll_loss(x.reshape(2, 3, 2), y.reshape(2, 2)[:, :1]),
        (X, Y),
    ),
    (lambda lib, x, y: lib.nn.functional.nll_loss(x[0, 0], y), (X, Y)),
    (lambda lib, x: lib.nn.functional.binary_cross_entropy(x + 1, x), (X,)),
    (lambda lib, x: lib.nn.functional.binary_cross_entropy(x, x[:1]), (X,)),
    (lambda lib, x: lib.nn.functional.binary_cross_entropy(x, x.double()), (X,)),
    (lambda lib, x: lib.nn.functional.binary_cross_entropy_with_logits(x, x[:1]), (X,)),
    (lambda lib, x: lib.nn.functional.smooth_l1_loss(x, x, beta=-1.0), (X,)),
    (lambda lib, x: lib.nn.functional.huber_loss(x, x, delta=0.0), (X,)),
    (lambda lib, x: lib.nn.functional.mse_loss(x, x, weight=x[0]), (X,)),
    (lambda lib, x: lib.nn.functional.linear(x, x.reshape(3, 4)), (X,)),
    (lambda lib, x: lib.nn.functional.linear(x[0], x.reshape(3, 4)), (X,)),
    (lambda lib, x: lib.nn.functional.linear(x.double(), x), (X,)),
    (lambda lib, x: lib.nn.functional.linear(x[0, 0], x), (X,)),
    (lambda lib, x: lib.nn.functional.layer_norm(x, (4,)), (X,)),
    (lambda lib, x: lib.nn.functional.layer_norm(x, (3,), weight=x[:, 0]), (X,)),
    (lambda lib, x: lib.nn.functional.batch_norm(x[:1], None, None, training=True), (X,)),
    (lambda lib, x: lib.nn.functional.batch_norm(x, x[:, 0], x[0]), (X,)),
    (lambda lib, x: lib.nn.functional.batch_norm(x, None, None), (X,)),
    (lambda lib, x, y: lib.nn.functional.embedding(y + 2, x), (X, Y)),
    (lambda lib, x, y: lib.nn.functional.embedding(y - 1, x), (X, Y)),
    (lambda lib, x: lib.nn.functional.embedding(x, x), (X,)),
    (lambda lib, x, y: lib.nn.functional.embedding(y, x, padding_idx=9), (X, Y)),
    (lambda lib, y: lib.nn.functional.one_hot(y, 2), (Y,)),
    (lambda lib, y: lib.nn.functional.one_hot(y - 1, 3), (Y,)),
    (lambda lib, x: lib.nn.functional.one_hot(x), (X,)),
    (lambda lib, y: lib.nn.functional.one_hot(y[:0]), (Y,)),
    (lambda lib, x: lib.nn.functional.pad(x, (1,)), (X,)),
    (lambda lib, x: lib.nn.functional.pad(x, (1,) * 6), (X,)),
    (lambda lib, x: lib.nn.functional.pad(x, (-2, -2)), (X,)),
    (lambda lib, x: lib.nn.functional.pad(x, (1, 1), mode="foo"), (X,)),
    (lambda lib, x: lib.nn.functional.gelu(x, approximate="foo"), (X,)),
    (lambda lib, x: lib.nn.functional.hardtanh(x, 1.0, -1.0), (X,)),
    (lambda lib, x: lib.nn.functional.dropout(x, 2.0), (X,)),
]


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_errors_are_torchs(number: int, both_raise: Any) -> None:
    call, arguments = ERRORS[number]
    both_raise(call, *arguments)


def test_unsupported_options_are_refused() -> None:
    x = tg.ones(4, 3)
    with pytest.raises(NotImplementedError, match="antialias=True is not supported"):
        F.interpolate(tg.ones(1, 1, 2, 2), 4, mode="bilinear", antialias=True)
    with pytest.raises(NotImplementedError, match="sparse=True is not supported"):
        F.embedding(tg.tensor([0]), x, sparse=True)


def test_warnings_are_torchs() -> None:
    x = tg.ones(4, 3)
    with pytest.warns(UserWarning, match="Using a target size .* that is different to the input"):
        F.mse_loss(x, x[:1])
    with pytest.warns(UserWarning, match="Implicit dimension choice for softmax"):
        F.softmax(x)
    with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
        assert F.mse_loss(x, x * 3, size_average=False).item() == 48
