"""Function transforms and their compositions: the same lines run under tracegrad and torch give the same numbers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

# torch warns of parts of itself, when it builds its transforms.
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]

DATA = {
    "x": np.random.default_rng(0).normal(size=5),
    "y": np.random.default_rng(1).normal(size=5),
    "X": np.random.default_rng(2).normal(size=(4, 5)),
    "W": np.random.default_rng(3).normal(size=(5, 3)),
}

# Expressions in t (the library), F (its func module), and tensors x, y: [5], X: [4, 5], W: [5, 3].
VALUES = """
F.vmap(lambda x: (x @ W).tanh().sum())(X)
F.vmap(lambda x, w: (x @ w).tanh(), in_dims=(0, None))(X, W)
F.vmap(lambda x, w: x.outer(w), in_dims=(1, 0), out_dims=1)(X, W)
F.vmap(lambda x, w: x.outer(w), in_dims=(-1, 0), out_dims=-1)(X, W)
F.vmap(lambda d: d['a'] * d['b'], in_dims=({'a': 0, 'b': None},))({'a': X, 'b': x})
F.vmap(lambda p, s: p[0] * p[1] + s, in_dims=((0, None), None))((X, x), 2.0)
F.vmap(lambda x: {'s': x.sum(), 'p': (x, x * 2)})(X)
F.vmap(lambda x: (x, y), out_dims=(0, None))(X)
F.vmap(lambda x, *, k: x * k)(X, k=X)
F.vmap(lambda x: F.vmap(lambda w: x * w.sum())(W))(X)
F.vmap(lambda x: F.vmap(lambda w: x * w)(X), in_dims=1)(X.t()[:, :5])
F.vmap(lambda x: x.exp().sum() ** 2, chunk_size=3)(X)
F.vmap(lambda x: x.max(0))(X)
F.vmap(lambda x: x.argmax())(X)
F.vmap(lambda x: x.reshape(5, 1).expand(5, 2)[1:, ::2])(X)
F.vmap(lambda x: t.where(x > 0, x, y).cumsum(0).flip(0))(X)
F.vmap(lambda x: t.stack([x, y]).softmax(0))(X)
F.vmap(lambda x: x.gather(0, x.argmax().reshape(1)))(X)
F.vmap(lambda i: x[i])(t.tensor([0, 3, 3]))
F.vmap(lambda i, x: x[i])(t.tensor([0, 3, 3, 1]), X)
F.vmap(lambda x: t.nn.functional.layer_norm(x, (5,)))(X)
F.grad(lambda x: x.sin().sum())(x)
F.grad(lambda x, y: (x * y).sin().sum(), argnums=1)(x, y)
F.grad(lambda x, y: (x * y).sin().sum(), argnums=(0, 1))(x, y)
F.grad(lambda x, y: (x * y).sin().sum(), argnums=(-1, 0))(x, y)
F.grad(lambda d: (d['a'] * d['b']).sin().sum())({'a': x, 'b': y})
F.grad(lambda x: (x.sin().sum(), x * 2), has_aux=True)(x)
F.grad(lambda x: y.sum())(x)
F.grad(lambda x: F.grad(lambda x: (x.sin() * x).sum())(x).sum())(x)
F.grad(lambda x: F.grad(lambda y: (x * y ** 3).sum())(x).sum())(x)
F.grad(lambda x: (x * F.grad(lambda y: (x + y).sum())(x * 0 + 1)).sum())(x)
F.grad(lambda x: x.sum() if x.sum() > 0 else -x.sum())(x)
F.grad(lambda x: x.sum() * x.sum().item())(x)
F.grad_and_value(lambda x: x.sin().sum())(x)
F.grad_and_value(lambda x: (x.sin().sum(), x * 2), has_aux=True)(x)
F.vmap(F.grad(lambda w, x: (x @ w).tanh().sum()), in_dims=(None, 0))(W, X)
F.vmap(F.grad(lambda x: (x.sin() * x.sum()).sum()))(X)
F.grad(lambda X: F.vmap(lambda x: x.exp().sum() ** 2)(X).sum())(X)
F.grad(lambda W: F.vmap(F.grad(lambda x: (x @ W).tanh().sum()))(X).pow(2).sum())(W)
F.vmap(F.vmap(F.grad(lambda a: a.sin())))(X)
F.vjp(lambda x: (x.sin(), x * 2), x)[0]
F.vjp(lambda x: (x.sin(), x * 2), x)[1]((x, y))
F.vjp(lambda d: d['a'] * d['b'], {'a': x, 'b': y})[1](x)
F.vjp(lambda x: (x.sin(), x * 2), x, has_aux=True)[2]
F.vmap(F.vjp(lambda x: x.sin() * x.sum(), x)[1])(t.eye(5, dtype=t.float64))
F.jvp(lambda x: x.sin() * x.sum(), (x,), (y,))
F.jvp(lambda x, y: (x * y, x.sum()), (x, y), (y, x))
F.jvp(lambda x: (x.sin(), x * 2), (x,), (y,), has_aux=True)
F.jvp(lambda x: y, (x,), (y,))
F.jvp(lambda y: F.jvp(lambda x: x.sin() * x.sum() * y, (x,), (y,))[1], (x,), (x * 2,))
F.jvp(lambda x: x * F.jvp(lambda y: x + y, (x,), (x * 0 + 1,))[1], (x,), (x * 0 + 1,))
F.jvp(F.grad(lambda x: (x.sin() * x.sum()).sum()), (x,), (y,))
F.jvp(lambda X: F.vmap(lambda x: x.sin() * x.sum())(X), (X,), (X,))
F.vmap(lambda x: F.jvp(lambda y: y.sin() * x, (x,), (y,))[1])(X)
F.grad(lambda x: F.jvp(lambda x: x.sin() * x.sum(), (x,), (y,))[1].sum())(x)
F.jacrev(lambda x: x.sin() * x.sum())(x)
F.jacrev(lambda x, y: (x * y.sum(), y * x), argnums=(0, 1))(x, y)
F.jacrev(lambda d: {'o': d['a'] * d['b']})({'a': x, 'b': y})
F.jacrev(lambda x: (x.sin() * x.sum(), x), has_aux=True)(x)
F.jacrev(lambda x: x.sin() * x.sum(), chunk_size=2)(x)
F.jacrev(lambda x: x @ W)(X)
F.jacfwd(lambda x: x.sin() * x.sum())(x)
F.jacfwd(lambda x, y: (x * y.sum(), y * x), argnums=(0, 1))(x, y)
F.jacfwd(lambda x: (x.sin() * x.sum(), x), has_aux=True)(x)
F.jacfwd(lambda x: x @ W)(X)
F.hessian(lambda x: (x.sin() * x.sum()).exp().sum())(x)
F.hessian(lambda x, y: (x * y).sin().sum(), argnums=(0, 1))(x, y)
F.jacrev(F.jacrev(lambda x: (x.sin() * x.sum()).exp().sum()))(x)
F.jacfwd(F.jacfwd(lambda x: (x.sin() * x.sum()).exp().sum()))(x)
F.jacrev(F.jacfwd(lambda x: (x.sin() * x.sum()).exp().sum()))(x)
F.vmap(F.hessian(lambda x: (x.sin() * x.sum()).exp().sum()))(X)
F.jacfwd(F.jacrev(F.jacfwd(lambda x: (x ** 4).sum())))(x)
F.linearize(lambda x: x.sin() * x.sum(), x)[0]
F.linearize(lambda x: x.sin() * x.sum(), x)[1](y)
F.linearize(lambda x, y: (x * y, x.sum()), x, y)[1](y, x)
t.vmap(lambda x: x.sum())(X)
""".strip().splitlines()

# The same, of code that does not return what is asked for, or is used outside of its transform.
ERRORS = """
F.vmap(lambda x: x)(2.0)
F.vmap(lambda x: x)()
F.vmap(lambda x: x, in_dims='a')(X)
F.vmap(lambda x: x, in_dims=(0, 0))(X)
F.vmap(lambda x: x, in_dims=(0.5,))(X)
F.vmap(lambda x: x, in_dims=2)(X)
F.vmap(lambda x: x, in_dims=(None,))(X)
F.vmap(lambda x, y: x)(X, W)
F.vmap(lambda x, y: x, in_dims=(0, 0))(X, 2.0)
F.vmap(lambda x: 2.0)(X)
F.vmap(lambda x: None)(X)
F.vmap(lambda x: x, out_dims=None)(X)
F.vmap(lambda x: x, out_dims='a')(X)
F.vmap(lambda x: (x, x), out_dims=(0, 0, 0))(X)
F.vmap(lambda x: x, randomness='some')(X)
F.vmap(lambda x: x, chunk_size=0)(X)
F.vmap(lambda x: x.sum().item())(X)
F.vmap(lambda x: x if x.sum() > 0 else -x)(X)
F.vmap(lambda x: x + t.rand(5))(X)
F.vmap(lambda x: x.sum().backward())(X)
F.grad(lambda x: x.sum())(t.tensor([1, 2]))
F.grad(lambda x: x)(x)
F.grad(lambda x: 2.0)(x)
F.grad(lambda x: x.sum())(2.0)
F.grad(lambda x: x.sum(), argnums=1)(x)
F.grad(lambda x: x.sum(), argnums='a')(x)
F.grad(lambda x: x.sum(), argnums=())(x)
F.grad(lambda x, y: x.sum(), argnums=(0, 0))(x, y)
F.grad(lambda x: x.sum(), has_aux=True)(x)
F.grad(lambda x: x.sum().backward())(x)
F.vjp(lambda x: x.argmax(), x)
F.vjp(lambda x: 2.0, x)
F.vjp(lambda x: x.sin(), x)[1]((x,))
F.vjp(lambda x: x.sin(), x)[1](X)
F.jvp(lambda x: x, x, x)
F.jvp(lambda x: x, (x,), (x, x))
F.jvp(lambda x: x, (), ())
F.jvp(lambda x: x, (2.0,), (2.0,))
F.jvp(lambda x: x, (x,), (X,))
F.jvp(lambda x: x, (t.tensor(1),), (t.tensor(1),))
F.jvp(lambda x: y, (x,), (x,), strict=True)
F.jacrev(lambda x: x, chunk_size=0)
F.jacrev(lambda x: 2.0)(x)
""".strip().splitlines()


def run(library: Any, text: str) -> Any:
    name = library.__name__
    space: dict[str, Any] = {"t": library, "F": importlib.import_module(name + ".func")}
    for key, array in DATA.items():
        space[key] = library.tensor(array.tolist(), dtype=library.float64)
    return eval(text, space)


def assert_equal(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_equal(ours[key], theirs[key])
    elif isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_equal(a, b)
    else:
        assert str(ours.dtype).split(".")[1] == str(theirs.dtype).split(".")[1]
        assert tuple(ours.shape) == tuple(theirs.shape)
        assert ours.requires_grad == theirs.requires_grad
        np.testing.assert_allclose(
            ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("text", VALUES)
def test_value(text: str) -> None:
    torch = pytest.importorskip("torch")
    assert_equal(run(tg, text), run(torch, text))


def first_sentence(error: Exception) -> str:
    return str(error).splitlines()[0].split(". ")[0].rstrip(".")


@pytest.mark.parametrize("text", ERRORS)
def test_error(text: str) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as theirs:  # noqa: PT011 (it is torch that says which)
        run(torch, text)
    with pytest.raises(type(theirs.value)) as ours:
        run(tg, text)
    # Structures are written in another notation.
    ours_said, theirs_said = (
        first_sentence(e.value).split("has structure")[0].split("at 0x")[0] for e in (ours, theirs)
    )
    assert ours_said == theirs_said


OUTSIDE: dict[str, Callable[[Any, Any, dict[str, Any]], Any]] = {}


def outside(function: Callable[[Any, Any, dict[str, Any]], Any]) -> Any:
    OUTSIDE[function.__name__] = function
    return function


@outside
def captured_variable(t: Any, F: Any, d: dict[str, Any]) -> Any:  # noqa: N803
    x = d["x"].requires_grad_()
    return F.grad(lambda y: (y * x).sin().sum())(d["y"])


@outside
def backward_through_vmap(t: Any, F: Any, d: dict[str, Any]) -> Any:  # noqa: N803
    w = d["W"].requires_grad_()
    F.vmap(lambda x: (x @ w).tanh().sum())(d["X"]).sum().backward()
    return w.grad


@outside
def backward_through_per_example_gradients(t: Any, F: Any, d: dict[str, Any]) -> Any:  # noqa: N803
    w = d["W"].requires_grad_()
    per_example = F.vmap(F.grad(lambda w, x: (x @ w).tanh().sum()), in_dims=(None, 0))
    (per_example(w, d["X"]) ** 2).sum().backward()
    return w.grad


@outside
def vjp_under_no_grad(t: Any, F: Any, d: dict[str, Any]) -> Any:  # noqa: N803
    x = d["x"].requires_grad_()
    with t.no_grad():
        return F.grad(lambda x: x.sin().sum())(x)


@outside
def no_grad_inside(t: Any, F: Any, d: dict[str, Any]) -> Any:  # noqa: N803
    def f(x: Any) -> Any:
        with t.no_grad():
            y = x.sin()
        return (x * y).sum()

    return F.grad(f)(d["x"]), F.grad(lambda x: F.grad(f)(x).sum())(d["x"])


@outside
def modules(t: Any, F: Any, d: dict[str, Any]) -> Any:  # noqa: N803
    net = t.nn.Sequential(t.nn.Linear(5, 4), t.nn.Tanh(), t.nn.Linear(4, 1)).double()
    with t.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(t.arange(p.numel(), dtype=t.float64).reshape(p.shape).sin() * (k + 1) / 3)
    values = {name: p.detach() for name, p in net.named_parameters()}

    def loss(values: Any, x: Any) -> Any:
        return F.functional_call(net, values, (x,)).sum()

    return F.vmap(F.grad(loss), in_dims=(None, 0))(values, d["X"])


@outside
def ensembles(t: Any, F: Any, d: dict[str, Any]) -> Any:  # noqa: N803
    nets = [t.nn.Linear(5, 3).double() for _ in range(3)]
    with t.no_grad():
        for k, net in enumerate(nets):
            net.weight.copy_(d["W"].t() * (k + 1))
            net.bias.fill_(k)
    stacked, buffers = F.stack_module_state(nets)

    def call(values: Any, buffers: Any, x: Any) -> Any:
        return F.functional_call(nets[0], (values, buffers), (x,))

    return F.vmap(call, in_dims=(0, 0, None))(stacked, buffers, d["X"])


@outside
def forward_over_reverse(t: Any, F: Any, d: dict[str, Any]) -> Any:  # noqa: N803
    x = d["x"].requires_grad_()
    forward_ad = importlib.import_module(t.__name__ + ".autograd.forward_ad")
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, d["y"])
        loss = (dual.sin() * dual.sum()).sum()
        (gradient,) = t.autograd.grad(loss, dual, create_graph=True)
        primal, tangent = forward_ad.unpack_dual(gradient)
        value = forward_ad.unpack_dual(loss)
    return primal, tangent, value.primal, value.tangent, t.autograd.grad(value.tangent, x)


@pytest.mark.parametrize("name", OUTSIDE)
def test_with_what_is_outside(name: str) -> None:
    torch = pytest.importorskip("torch")
    found = []
    for library in (tg, torch):
        module = importlib.import_module(library.__name__ + ".func")
        data = {k: library.tensor(v.tolist(), dtype=library.float64) for k, v in DATA.items()}
        found.append(OUTSIDE[name](library, module, data))
    assert_equal(*found)


def test_vmap_moves_nothing_where_nothing_moves() -> None:
    x = tg.ones(2, 3, requires_grad=True)
    assert tg.vmap(lambda v: v)(x) is x
    assert tg.vmap(lambda v: v * 2)(x).grad_fn.name() == "MulBackward0"
    assert tg.vmap(lambda v: v * 2, in_dims=-2)(x).grad_fn.next_functions[0][0].variable is x
    assert tg.vmap(lambda v: v * 2, out_dims=1)(x).grad_fn.name() == "PermuteBackward0"
