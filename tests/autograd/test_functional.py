"""Jacobians, Hessians and their products: against closed forms, against each other, and against torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.autograd import functional as F  # noqa: N812

try:
    import torch
except ImportError:
    torch = None

X = [0.3, -0.7, 1.2]
Y = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def one(x: Any) -> Any:
    return (x.exp() * x).sum()


def two(x: Any, y: Any) -> Any:
    return y @ x, (x * x).sum() * y


def cubic(x: Any, y: Any) -> Any:
    return (y @ x).pow(3).sum()


def linear(x: Any) -> Any:
    return x * 2


def separate(x: Any, y: Any) -> Any:
    return x * 2, y * 3


# Per function of the module: calls as f(module, F, x, y, **options).
CALLS: dict[str, dict[str, Callable[..., Any]]] = {
    "jacobian": {
        "scalar": lambda m, x, y, **o: m.jacobian(one, x, **o),
        "two by two": lambda m, x, y, **o: m.jacobian(two, (x, y), **o),
        "linear": lambda m, x, y, **o: m.jacobian(linear, x, **o),
        "tuple of one": lambda m, x, y, **o: m.jacobian(linear, (x,), **o),
        "independent": lambda m, x, y, **o: m.jacobian(separate, (x, y), **o),
        "vectorized": lambda m, x, y, **o: m.jacobian(two, (x, y), vectorize=True, **o),
        "forward": lambda m, x, y, **o: m.jacobian(
            linear, x, vectorize=True, strategy="forward-mode", **o
        ),
        "forward alone": lambda m, x, y, **o: m.jacobian(linear, x, strategy="forward-mode", **o),
        "no such strategy": lambda m, x, y, **o: m.jacobian(linear, x, strategy="sideways", **o),
        "no tensor": lambda m, x, y, **o: m.jacobian(lambda x: 3, x, **o),
    },
    "hessian": {
        "one input": lambda m, x, y, **o: m.hessian(one, x, **o),
        "two inputs": lambda m, x, y, **o: m.hessian(cubic, (x, y), **o),
        "vectorized": lambda m, x, y, **o: m.hessian(cubic, (x, y), vectorize=True, **o),
        "linear": lambda m, x, y, **o: m.hessian(lambda x: linear(x).sum(), x, **o),
        "not scalar": lambda m, x, y, **o: m.hessian(linear, x, **o),
        "a tuple": lambda m, x, y, **o: m.hessian(lambda x: (one(x),), x, **o),
        "no such strategy": lambda m, x, y, **o: m.hessian(
            one, x, outer_jacobian_strategy="sideways", **o
        ),
    },
    "vjp": {
        "scalar": lambda m, x, y, **o: m.vjp(one, x, **o),
        "two": lambda m, x, y, **o: m.vjp(two, (x, y), (x.new_ones(2), y.new_ones(2, 3)), **o),
        "v too short": lambda m, x, y, **o: m.vjp(two, (x, y), (x.new_ones(2),), **o),
        "v too long": lambda m, x, y, **o: m.vjp(linear, x, (x, x), **o),
        "v of wrong size": lambda m, x, y, **o: m.vjp(linear, x, x.new_ones(2), **o),
        "entry of wrong size": lambda m, x, y, **o: m.vjp(two, (x, y), (x.new_ones(2), x), **o),
        "v missing": lambda m, x, y, **o: m.vjp(linear, x, **o),
        "number as input": lambda m, x, y, **o: m.vjp(linear, 3, **o),
        "number in inputs": lambda m, x, y, **o: m.vjp(linear, (x, 3.0), **o),
        "number as output": lambda m, x, y, **o: m.vjp(lambda x: 3, x, **o),
        "number in outputs": lambda m, x, y, **o: m.vjp(lambda x: (x, 3), x, **o),
        "unused": lambda m, x, y, **o: m.vjp(lambda x, y: one(x), (x, y), **o),
    },
    "jvp": {
        "linear": lambda m, x, y, **o: m.jvp(linear, x, x.new_ones(3), **o),
        "two": lambda m, x, y, **o: m.jvp(two, (x, y), (x.new_ones(3), y.new_ones(2, 3)), **o),
        "exp": lambda m, x, y, **o: m.jvp(lambda x: x.exp(), x, x.new_ones(3), **o),
        "constant": lambda m, x, y, **o: m.jvp(lambda x: x.detach() * 2, x, x.new_ones(3), **o),
        "v missing": lambda m, x, y, **o: m.jvp(linear, x, **o),
        "v of wrong size": lambda m, x, y, **o: m.jvp(linear, x, y, **o),
    },
    "vhp": {
        "one": lambda m, x, y, **o: m.vhp(one, x, x.new_ones(3), **o),
        "two": lambda m, x, y, **o: m.vhp(cubic, (x, y), (x.new_ones(3), y.new_ones(2, 3)), **o),
        "linear": lambda m, x, y, **o: m.vhp(lambda x: linear(x).sum(), x, x.new_ones(3), **o),
        "not scalar": lambda m, x, y, **o: m.vhp(linear, x, x.new_ones(3), **o),
    },
    "hvp": {
        "one": lambda m, x, y, **o: m.hvp(one, x, x.new_ones(3), **o),
        "two": lambda m, x, y, **o: m.hvp(cubic, (x, y), (x.new_ones(3), y.new_ones(2, 3)), **o),
        "linear": lambda m, x, y, **o: m.hvp(lambda x: linear(x).sum(), x, x.new_ones(3), **o),
        "a tuple": lambda m, x, y, **o: m.hvp(lambda x: (one(x),), x, x.new_ones(3), **o),
        "v missing": lambda m, x, y, **o: m.hvp(one, x, **o),
    },
}


def described(value: Any) -> Any:
    """Nesting, dtypes, shapes, requires_grad and values, in plain Python."""
    if isinstance(value, tuple | list):
        return tuple(described(v) for v in value)
    data = value.detach().numpy()
    return str(value.dtype), tuple(value.shape), value.requires_grad, np.round(data, 4).tolist()


def outcome(module: Any, call: Callable[..., Any], requires_grad: bool, **options: bool) -> Any:
    x = module.tensor(X, requires_grad=requires_grad)
    y = module.tensor(Y, requires_grad=requires_grad)
    try:
        return described(call(module.autograd.functional, x, y, **options))
    except Exception as error:
        sentence = str(error).replace("tracegrad.tensor.Tensor", "torch.Tensor")
        return type(error).__name__, sentence


@pytest.mark.peers
@pytest.mark.skipif(torch is None, reason="torch is not installed")
@pytest.mark.parametrize(
    "name", [(f, c) for f, calls in CALLS.items() for c in calls], ids=" ".join
)
@pytest.mark.filterwarnings("ignore")
def test_as_torch(name: tuple[str, str]) -> None:
    """Values, nesting, requires_grad, and error sentences, under all options."""
    call = CALLS[name[0]][name[1]]
    for create_graph, strict, requires_grad in itertools.product((False, True), repeat=3):
        if name[1] == "forward" and requires_grad:
            continue  # torch's result requires grad then, although create_graph=False says otherwise.
        options = {"create_graph": create_graph, "strict": strict}
        ours = outcome(tg, call, requires_grad, **options)
        theirs = outcome(torch, call, requires_grad, **options)
        assert ours == theirs, (options, requires_grad)


def test_jacobian_of_a_linear_map_is_its_matrix() -> None:
    matrix = tg.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 4.0]])
    found = F.jacobian(lambda x: matrix @ x, tg.tensor(X))
    np.testing.assert_array_equal(found.numpy(), matrix.numpy())


def test_hessian_of_a_quadratic_form() -> None:
    matrix = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 5.0]])
    a = tg.tensor(matrix)
    found = F.hessian(lambda x: 0.5 * x @ a @ x, tg.tensor(X, dtype=tg.float64))
    np.testing.assert_allclose(found.numpy(), matrix)


def test_blocks_are_in_memory_of_their_own() -> None:
    """Also where two inputs have one gradient."""
    x, y = tg.tensor(X), tg.tensor(X)
    blocks = [
        *F.jacobian(lambda a, b: a + b, (x, y)),
        *itertools.chain(*F.hessian(lambda a, b: (a + b).square().sum(), (x, y))),
    ]
    before = [block.tolist() for block in blocks]
    for k, block in enumerate(blocks):
        block.fill_(float(k))
    assert [block.tolist() for block in blocks] == [np.full((3, 3), k).tolist() for k in range(6)]
    assert before == [np.eye(3).tolist()] * 2 + [(2 * np.eye(3)).tolist()] * 4


def test_products_agree_with_the_matrices(rng: np.random.Generator) -> None:
    x, y = tg.tensor(rng.normal(size=3)), tg.tensor(rng.normal(size=(2, 3)))
    v = tg.tensor(rng.normal(size=3)), tg.tensor(rng.normal(size=(2, 3)))
    ct = tg.tensor(rng.normal(size=2)), tg.tensor(rng.normal(size=(2, 3)))
    j = F.jacobian(two, (x, y))
    h = F.hessian(cubic, (x, y))

    def times(block: tg.Tensor, vector: tg.Tensor) -> np.ndarray:
        return np.tensordot(block.numpy(), vector.numpy(), vector.ndim)

    _, pushed = F.jvp(two, (x, y), v)
    for i in range(2):
        np.testing.assert_allclose(pushed[i].numpy(), times(j[i][0], v[0]) + times(j[i][1], v[1]))
    _, pulled = F.vjp(two, (x, y), ct)
    for k in range(2):
        expected = sum(np.tensordot(ct[i].numpy(), j[i][k].numpy(), ct[i].ndim) for i in range(2))
        np.testing.assert_allclose(pulled[k].numpy(), expected)
    for product in (F.vhp, F.hvp):
        _, found = product(cubic, (x, y), v)
        for i in range(2):
            np.testing.assert_allclose(
                found[i].numpy(), times(h[i][0], v[0]) + times(h[i][1], v[1])
            )


def test_results_can_be_differentiated_again() -> None:
    x = tg.tensor(X, dtype=tg.float64, requires_grad=True)
    h = F.hessian(lambda x: (x**4).sum(), x, create_graph=True)
    (third,) = tg.autograd.grad(h.sum(), x)
    np.testing.assert_allclose(third.numpy(), 24 * np.array(X))


def test_inputs_are_left_alone() -> None:
    x = tg.tensor(X, requires_grad=True)
    F.jacobian(one, x)
    F.vhp(one, x, tg.ones(3))
    assert x.grad is None
    assert x.grad_fn is None
    y = tg.tensor(X)
    F.jacobian(one, y)
    assert not y.requires_grad


def test_works_under_no_grad() -> None:
    with tg.no_grad():
        found = F.jacobian(lambda x: x**2, tg.tensor([1.0, 2.0]))
        _, product = F.vjp(one, tg.tensor(X))
    np.testing.assert_array_equal(found.numpy(), [[2.0, 0.0], [0.0, 4.0]])
    assert product.shape == (3,)


def test_a_captured_tensor_is_told_apart_from_the_argument() -> None:
    """The function also uses the input by closure: only the argument's share counts."""
    x = tg.tensor([2.0], requires_grad=True)
    found = F.jacobian(lambda y: y * x, x)
    assert found.item() == 2.0


def test_empty_outputs_and_inputs() -> None:
    assert F.jacobian(lambda x: x[:0] * 2, tg.ones(3)).shape == (0, 3)
    assert F.jacobian(lambda x: x.sum() * 2, tg.ones(0)).shape == (0,)


# Every combination of options, for functions with several outputs, and with ones that depend on nothing.
OPTION_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "one output": (1, lambda x: x.sin() * x.sum()),
    "three outputs": (2, lambda x, y: (x * y.sum(), x.exp() * y, y.sum())),
    "scalar": (2, lambda x, y: (x * y).sin().sum()),
    "linear": (1, lambda x: x.sum()),
    "one input unused": (2, lambda x, y: x * 2),
    "detached": (1, lambda x: x.detach() * 1),
}


def option_outcome(library: Any, name: str, function: str, options: dict[str, Any]) -> Any:
    """Shapes, flags and values; or the exception, without the library's name."""
    count, call = OPTION_FUNCTIONS[function]
    inputs = [library.tensor(v, dtype=library.float64) for v in (X, [0.5, 1.5, -0.2])[:count]]
    if options.pop("requires_grad"):
        inputs = [x.requires_grad_() for x in inputs]
    try:
        result = getattr(library.autograd.functional, name)(
            call, tuple(inputs) if count > 1 else inputs[0], **options
        )
    except Exception as error:
        return type(error), str(error).replace("torch.", "").replace("tracegrad.", "")
    # In forward mode torch's results require grad even where nothing depends on the inputs.
    flags = "forward-mode" not in options.values()
    return outcome_of(result, flags)


def outcome_of(result: Any, flags: bool) -> Any:
    if isinstance(result, (tuple, list)):  # torch 2.13 has lists in forward mode.
        return tuple(outcome_of(part, flags) for part in result)
    return (
        tuple(result.shape),
        flags and result.requires_grad,
        result.detach().numpy().round(9).tolist(),
    )


@pytest.mark.peers
@pytest.mark.skipif(torch is None, reason="torch is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::UserWarning:torch")
@pytest.mark.parametrize("function", OPTION_FUNCTIONS)
@pytest.mark.parametrize("name", ["jacobian", "hessian"])
def test_every_option(name: str, function: str) -> None:
    strategy = "strategy" if name == "jacobian" else "outer_jacobian_strategy"
    for create_graph, strict, vectorize, forward, requires_grad in itertools.product(
        (False, True), repeat=5
    ):
        options = {
            "create_graph": create_graph,
            "strict": strict,
            "vectorize": vectorize,
            strategy: "forward-mode" if forward else "reverse-mode",
            "requires_grad": requires_grad,
        }
        ours, theirs = (option_outcome(m, name, function, dict(options)) for m in (tg, torch))
        assert ours == theirs, (options, ours, theirs)
