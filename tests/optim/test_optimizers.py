"""Optimizers: trajectories against torch and against the formulas, compiled against eager, state and errors."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import nn, optim

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"weight_decay": 0.1, "maximize": True}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("Adam", {}),
    ("Adam", {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"amsgrad": True, "maximize": True}),
    ("Adam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, "weight_decay": 0.3}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.5, "weight_decay": 0.1}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "maximize": True}),
    ("Adagrad", {}),
    ("Adadelta", {}),
    ("Adadelta", {"rho": 0.7, "weight_decay": 0.1, "maximize": True}),
    ("Adamax", {}),
    ("Adamax", {"betas": (0.8, 0.9), "weight_decay": 0.1, "maximize": True}),
    ("NAdam", {}),
    ("NAdam", {"momentum_decay": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("NAdam", {"betas": (0.8, 0.9), "weight_decay": 0.1, "maximize": True}),
    ("RAdam", {}),
    ("RAdam", {"betas": (0.8, 0.9), "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"weight_decay": 0.1, "maximize": True}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5, "weight_decay": 0.1}),
]
IDS = [f"{name}({', '.join(f'{k}={v}' for k, v in kw.items())})" for name, kw in OPTIONS]
each = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=IDS)


def network(lib: Any) -> Any:
    """A network with the same parameters in every library and every call."""
    net = lib.nn.Sequential(lib.nn.Linear(3, 5), lib.nn.Tanh(), lib.nn.Linear(5, 2))
    rng = np.random.default_rng(7)
    values = {
        k: rng.normal(0, 0.5, tuple(v.shape)).astype("f4") for k, v in net.state_dict().items()
    }
    net.load_state_dict({k: lib.tensor(v) for k, v in values.items()})
    return net


def batches(lib: Any, count: int = 10) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(8)
    return [
        (lib.tensor(rng.normal(size=(8, 3)).astype("f4")), lib.tensor(rng.integers(0, 2, 8)))
        for _ in range(count)
    ]


def step(lib: Any, net: Any, optimizer: Any, x: Any, y: Any) -> Any:
    optimizer.zero_grad()
    loss = lib.nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss


def flat(values: Any) -> np.ndarray:
    return np.concatenate([v.detach().numpy().ravel() for v in values])


def states(optimizer: Any) -> dict[Any, np.ndarray]:
    """All state tensors by parameter number and name."""
    saved = optimizer.state_dict()["state"]
    return {(n, k): v.numpy() for n, own in saved.items() for k, v in own.items()}


@pytest.mark.peers
@each
def test_trajectory_is_torchs(name: str, options: dict[str, Any], torch: ModuleType) -> None:
    """Losses, parameters and state over ten steps, from the same parameters."""
    runs = []
    for lib in (tg, torch):
        net = network(lib)
        optimizer = getattr(lib.optim, name)(net.parameters(), lr=0.05, **options)
        assert lib is tg or repr(optimizer) == repr(runs[0][2])
        losses = [step(lib, net, optimizer, x, y).item() for x, y in batches(lib)]
        runs.append((losses, flat(net.parameters()), optimizer))
    (our_losses, ours, our_optimizer), (their_losses, theirs, their_optimizer) = runs
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-5)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)
    a, b = states(our_optimizer), states(their_optimizer)
    assert list(a) == list(b)
    for key, value in a.items():
        atol = 1e-5 * abs(b[key]).max()
        np.testing.assert_allclose(value, b[key], rtol=1e-4, atol=atol, err_msg=str(key))
    ours_saved, theirs_saved = our_optimizer.state_dict(), their_optimizer.state_dict()
    assert ours_saved["param_groups"] == theirs_saved["param_groups"]


@each
def test_compiled_step(name: str, options: dict[str, Any]) -> None:
    """A whole training step, compiled, follows the eager one; the state goes on counting."""
    runs = []
    for compiled in (False, True):
        net = network(tg)
        optimizer = getattr(optim, name)(net.parameters(), lr=0.05, **options)

        def train(x: Any, y: Any, net: Any = net, optimizer: Any = optimizer) -> Any:
            return step(tg, net, optimizer, x, y)

        function = tg.compile(train) if compiled else train
        losses = [function(x, y).item() for x, y in batches(tg)]
        runs.append((losses, flat(net.parameters()), optimizer))
        if compiled:
            assert function.stats.native >= 6, function.explain()
    np.testing.assert_allclose(runs[1][0], runs[0][0], rtol=1e-5)
    np.testing.assert_allclose(runs[1][1], runs[0][1], rtol=1e-5, atol=1e-6)
    a, b = states(runs[1][2]), states(runs[0][2])
    assert list(a) == list(b)
    for key, value in a.items():
        atol = 1e-5 * abs(b[key]).max()
        np.testing.assert_allclose(value, b[key], rtol=1e-4, atol=atol, err_msg=str(key))


def test_compiled_step_notices_changes() -> None:
    """A changed learning rate, loaded state and a new group take effect in the next compiled step."""
    nets = [network(tg), network(tg)]
    optimizers = [optim.Adam(net.parameters(), lr=0.05) for net in nets]

    def first(x: Any, y: Any) -> Any:
        return step(tg, nets[0], optimizers[0], x, y)

    compiled = tg.compile(first)
    extra = [tg.ones(2, requires_grad=True) for _ in nets]
    saved = None
    for number, (x, y) in enumerate(batches(tg, 12)):
        if number == 4:
            saved = copy.deepcopy(optimizers[0].state_dict())
        for net, optimizer in zip(nets, optimizers, strict=True):
            if number == 3:
                optimizer.param_groups[0]["lr"] = 0.2
            if number == 6:
                optimizer.load_state_dict(saved)
            if number == 9:
                optimizer.add_param_group({"params": extra[nets.index(net)]})
        compiled(x, y)
        step(tg, nets[1], optimizers[1], x, y)
        np.testing.assert_allclose(
            flat(nets[0].parameters()), flat(nets[1].parameters()), rtol=1e-5, atol=1e-6
        )
    assert compiled.stats.native > 0, compiled.explain()


def test_adam_formula() -> None:
    """Against the published formula in float64, for many steps."""
    rng = np.random.default_rng(3)
    p = tg.tensor(rng.normal(size=4), requires_grad=True)
    optimizer = optim.Adam([p], lr=0.01)
    value, m, v = p.detach().numpy().copy(), np.zeros(4), np.zeros(4)
    for t in range(1, 101):
        g = rng.normal(size=4)
        p.grad = tg.tensor(g)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        value -= 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(p.detach().numpy(), value, rtol=1e-9)
    assert optimizer.state[p]["step"].item() == 100
    assert optimizer.state[p]["step"].dtype is tg.float32


@each
def test_save_and_load(name: str, options: dict[str, Any]) -> None:
    """Pickled halfway and loaded into a new optimizer, training goes on as if nothing had happened."""
    whole, half = network(tg), network(tg)
    make = getattr(optim, name)
    a, b = make(whole.parameters(), lr=0.05, **options), make(half.parameters(), lr=0.05, **options)
    data = batches(tg)
    for x, y in data[:5]:
        step(tg, whole, a, x, y)
        step(tg, half, b, x, y)
    saved = pickle.loads(pickle.dumps(b.state_dict()))
    c = make(half.parameters(), lr=1.0)
    c.load_state_dict(saved)
    for x, y in data[5:]:
        step(tg, whole, a, x, y)
        step(tg, half, c, x, y)
    np.testing.assert_array_equal(flat(whole.parameters()), flat(half.parameters()))


@each
def test_parameters_without_gradient_stay(name: str, options: dict[str, Any]) -> None:
    used, unused = tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)
    optimizer = getattr(optim, name)([used, unused], lr=0.1, **options)
    used.grad = tg.tensor([1.0, -1.0])
    optimizer.step()
    assert unused.tolist() == [1, 1]
    assert used.tolist() != [1, 1]
    assert used.requires_grad
    assert used.is_leaf


def test_groups_have_their_own_options() -> None:
    a, b = tg.ones(1, requires_grad=True), tg.ones(1, requires_grad=True)
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 1.0}], lr=0.1)
    for p in (a, b):
        p.grad = tg.ones(1)
    optimizer.step()
    assert a.item() == pytest.approx(0.9)
    assert b.item() == 0
    c = tg.ones(1, requires_grad=True)
    optimizer.add_param_group({"params": c, "lr": 2.0})
    assert optimizer.param_groups[2]["momentum"] == 0


def test_named_parameters() -> None:
    net = nn.Linear(1, 1)
    optimizer = optim.SGD(net.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.state_dict()["param_groups"][0]["params"] == [0, 1]


def test_tensor_learning_rate() -> None:
    """May be changed in place, also while compiled."""
    p, lr = tg.ones(2, requires_grad=True), tg.tensor(0.5)
    optimizer = optim.SGD([p], lr=lr)

    @tg.compile
    def train() -> None:
        optimizer.zero_grad()
        p.sum().backward()
        optimizer.step()

    train()
    train()
    assert p.tolist() == [0, 0]
    lr.fill_(0.25)
    train()
    assert p.tolist() == [-0.25, -0.25]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool) -> None:
    p = tg.ones(2, requires_grad=True)
    optimizer = optim.SGD([p])
    (p * 3).sum().backward()
    grad = p.grad
    optimizer.zero_grad(set_to_none)
    assert p.grad is (None if set_to_none else grad)
    assert set_to_none or grad.tolist() == [0, 0]


def test_closure_and_hooks() -> None:
    p = tg.full((1,), 3.0, requires_grad=True)
    optimizer = optim.SGD([p], lr=0.5)
    log: list[str] = []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: log.append("before"))
    handle = optimizer.register_step_post_hook(lambda o, args, kwargs: log.append("after"))

    def closure() -> tg.Tensor:
        log.append("closure")
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with tg.no_grad():
        assert optimizer.step(closure).item() == 9
    assert p.item() == 0
    assert log == ["before", "closure", "after"]
    handle.remove()
    optimizer.step()
    assert log[-1] == "before"


def test_profile_names_the_work() -> None:
    p = tg.ones(2, requires_grad=True)
    optimizer = optim.Adam([p])
    with tg.autograd.profiler.profile() as profile:
        optimizer.zero_grad()
        p.sum().backward()
        optimizer.step()
    names = {event.key for event in profile.key_averages()}
    assert {"Optimizer.zero_grad#Adam.zero_grad", "Optimizer.step#Adam.step"} <= names


def test_copies() -> None:
    p = tg.ones(2, requires_grad=True)
    optimizer = optim.Adam([p])
    p.grad = tg.ones(2)
    optimizer.step()
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (q,) = twin.param_groups[0]["params"]
        assert q is not p
        assert twin.state[q]["step"].item() == 1
        q.grad = tg.ones(2)
        twin.step()
        assert twin.state[q]["step"].item() == 2
    assert optimizer.state[p]["step"].item() == 1


def test_loaded_state_is_a_copy() -> None:
    p, q = tg.ones(2, requires_grad=True), tg.ones(2, dtype=tg.float64, requires_grad=True)
    a, b = optim.Adam([p]), optim.Adam([q])
    p.grad = tg.ones(2)
    a.step()
    b.load_state_dict(a.state_dict())
    assert b.state[q]["exp_avg"].dtype is tg.float64
    assert b.state[q]["step"].dtype is tg.float32
    q.grad = tg.ones(2, dtype=tg.float64)
    b.step()
    assert a.state[p]["step"].item() == 1
    numbers = a.state_dict()
    numbers["state"][0]["step"] = 5
    b.load_state_dict(numbers)
    assert b.state[q]["step"].item() == 5


def test_own_optimizer() -> None:
    """A subclass that overrides `step`, as users write it for torch."""

    class Signed(optim.Optimizer):
        def __init__(self, params: Any, lr: float = 0.1) -> None:
            super().__init__(params, {"lr": lr})

        @tg.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.add_(p.grad.sign(), alpha=-group["lr"])

    p = tg.zeros(2, requires_grad=True)
    p.grad = tg.tensor([5.0, -2.0])
    Signed([p]).step()
    np.testing.assert_allclose(p.detach().numpy(), [-0.1, 0.1], rtol=1e-6)
    with pytest.raises(NotImplementedError):
        optim.Optimizer([p], {}).step()


def leaf(lib: Any) -> Any:
    return lib.ones(2, requires_grad=True)


ERRORS = [
    lambda lib: lib.optim.SGD([], lr=0.1),
    lambda lib: lib.optim.SGD(leaf(lib)),
    lambda lib: lib.optim.SGD([3]),
    lambda lib: lib.optim.SGD([{"params": {leaf(lib)}}]),
    lambda lib: lib.optim.SGD([leaf(lib) * 2]),
    lambda lib: lib.optim.SGD([("a", leaf(lib)), leaf(lib)]),
    lambda lib: lib.optim.SGD([leaf(lib)], lr=-1),
    lambda lib: lib.optim.SGD([leaf(lib)], lr=lib.ones(2)),
    lambda lib: lib.optim.SGD([leaf(lib)], momentum=-1),
    lambda lib: lib.optim.SGD([leaf(lib)], weight_decay=-1),
    lambda lib: lib.optim.SGD([leaf(lib)], nesterov=True),
    lambda lib: lib.optim.Adam([leaf(lib)], lr=-1.0),
    lambda lib: lib.optim.Adam([leaf(lib)], eps=-1.0),
    lambda lib: lib.optim.Adam([leaf(lib)], betas=(1.0, 0.9)),
    lambda lib: lib.optim.Adam([leaf(lib)], betas=(0.9, -0.1)),
    lambda lib: lib.optim.Adam([leaf(lib)], weight_decay=-0.1),
    lambda lib: lib.optim.Adam([leaf(lib)], fused=True, differentiable=True),
    lambda lib: lib.optim.Adam([leaf(lib)], fused=True, foreach=True),
    lambda lib: lib.optim.RMSprop([leaf(lib)], alpha=-0.1),
    lambda lib: lib.optim.RMSprop([leaf(lib)], eps=-0.1),
    lambda lib: lib.optim.RMSprop([leaf(lib)], momentum=-0.1),
    lambda lib: lib.optim.Adadelta([leaf(lib)], rho=1.1),
    lambda lib: lib.optim.Adadelta([leaf(lib)], eps=-1.0),
    lambda lib: lib.optim.Adamax([leaf(lib)], betas=(0.9, 1.0)),
    lambda lib: lib.optim.Adamax([leaf(lib)], lr=-1.0),
    lambda lib: lib.optim.NAdam([leaf(lib)], momentum_decay=-1.0),
    lambda lib: lib.optim.RAdam([leaf(lib)], weight_decay=-1.0),
    lambda lib: lib.optim.LBFGS([leaf(lib)], lr=-1.0),
    lambda lib: lib.optim.LBFGS([{"params": [leaf(lib)]}, {"params": [leaf(lib)]}]),
    lambda lib: lib.optim.Adagrad([leaf(lib)], lr_decay=-0.1),
    lambda lib: lib.optim.Adagrad([leaf(lib)], initial_accumulator_value=-0.1),
    lambda lib: lib.optim.SGD([leaf(lib)]).add_param_group(3),
    lambda lib: lib.optim.SGD([leaf(lib)]).load_state_dict({"param_groups": [], "state": {}}),
    lambda lib: lib.optim.SGD([leaf(lib)]).load_state_dict(
        {"param_groups": [{"params": [0, 1]}], "state": {}}
    ),
    lambda lib: (lambda p: lib.optim.SGD([{"params": [p]}, {"params": [p]}]))(leaf(lib)),
    lambda lib: lib.optim.SGD([("a", leaf(lib))]).add_param_group({"params": leaf(lib)}),
]


@pytest.mark.peers
@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_errors_are_torchs(number: int, torch: ModuleType) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011 (its type is what is compared)
        ERRORS[number](torch)
    with pytest.raises(Exception) as ours:  # noqa: PT011
        ERRORS[number](tg)
    assert type(ours.value) is type(theirs.value)
    assert str(ours.value) == str(theirs.value)


def test_other_warnings_and_errors() -> None:
    p = leaf(tg)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optim.SGD([p, p])
    with pytest.raises(NotImplementedError, match="differentiable=True is not supported"):
        optim.SGD([p], differentiable=True)
