"""nn.Module: registration, traversal, hooks, conversion, copies."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.rest = nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])
        self.scale = nn.Parameter(tg.ones(()))
        self.register_buffer("offset", tg.zeros(4))
        self.register_buffer("scratch", tg.zeros(1), persistent=False)
        self.note = "plain"

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        for layer in self.rest:
            x = layer(x)
        return x * self.scale + self.offset


def test_registration_and_traversal() -> None:
    net = Net()
    assert [n for n, _ in net.named_parameters()] == [
        "scale", "first.weight", "first.bias", "rest.0.weight", "rest.0.bias",
    ]  # fmt: skip
    assert [n for n, _ in net.named_parameters(prefix="net", recurse=False)] == ["net.scale"]
    assert [n for n, _ in net.named_buffers()] == ["offset", "scratch"]
    assert [n for n, _ in net.named_modules()] == ["", "first", "rest", "rest.0", "rest.1"]
    assert [n for n, _ in net.named_children()] == ["first", "rest"]
    assert list(net.state_dict()) == [
        "scale", "offset", "first.weight", "first.bias", "rest.0.weight", "rest.0.bias",
    ]  # fmt: skip
    assert net.get_submodule("rest.0") is net.rest[0]
    assert net.get_submodule("") is net
    assert net.get_parameter("rest.0.weight") is net.rest[0].weight
    assert net.get_buffer("offset") is net.offset
    assert {"first", "scale", "offset", "note", "forward"} <= set(dir(net))
    assert len(list(net.modules())) == 5
    assert len(list(net.children())) == 2
    assert len(list(net.buffers())) == 2


def test_shared_members_are_listed_once() -> None:
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer, nn.Tanh(), layer)
    assert len(list(net.parameters())) == 2
    assert len(list(net.named_parameters(remove_duplicate=False))) == 4
    assert [n for n, _ in net.named_modules()] == ["", "0", "1"]
    assert len(net.state_dict()) == 4


def test_attributes_change_their_kind() -> None:
    net = nn.Module()
    net.x = 1
    net.x = nn.Parameter(tg.ones(2))
    assert "x" not in net.__dict__
    assert net.x is net._parameters["x"]
    net.x = None
    assert net.x is None
    assert list(net.parameters()) == []
    del net.x
    net.x = 1
    net.x = nn.Linear(1, 1)
    assert "x" in net._modules
    assert "x" not in net._parameters
    del net.x
    assert not hasattr(net, "x")
    net.register_buffer("b", tg.zeros(1))
    net.b = tg.ones(1)
    assert net.get_buffer("b").item() == 1
    del net.b
    assert list(net.buffers()) == []
    net.c = nn.Buffer(tg.zeros(1), persistent=False)
    assert list(net.named_buffers()) == [("c", net.c)]
    assert not net.state_dict()
    net.d = 3
    del net.d
    with pytest.raises(AttributeError):
        del net.d


def no_init(nn_: Any) -> Any:
    class Bare(nn_.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            pass

    return Bare()


def filled(nn_: Any) -> Any:
    net = nn_.Module()
    net.p = nn_.Linear(1, 1).weight
    net.m = nn_.Linear(1, 1)
    net.a = 1
    return net


ERRORS = [
    lambda lib: filled(lib.nn).missing,
    lambda lib: filled(lib.nn)(1),
    lambda lib: setattr(filled(lib.nn), "p", lib.ones(1)),
    lambda lib: setattr(filled(lib.nn), "p", 3),
    lambda lib: setattr(filled(lib.nn), "m", 3),
    lambda lib: setattr(no_init(lib.nn), "p", lib.nn.Linear(1, 1).weight),
    lambda lib: setattr(no_init(lib.nn), "m", lib.nn.Linear(1, 1)),
    lambda lib: no_init(lib.nn).register_buffer("b", None),
    lambda lib: no_init(lib.nn).register_parameter("b", None),
    lambda lib: filled(lib.nn).register_parameter("a.b", None),
    lambda lib: filled(lib.nn).register_parameter("", None),
    lambda lib: filled(lib.nn).register_parameter("a", None),
    lambda lib: filled(lib.nn).register_parameter(1, None),
    lambda lib: filled(lib.nn).register_parameter("q", 3),
    lambda lib: filled(lib.nn).register_parameter("q", lib.ones(1)),
    lambda lib: filled(lib.nn).register_buffer("a.b", None),
    lambda lib: filled(lib.nn).register_buffer("", None),
    lambda lib: filled(lib.nn).register_buffer("a", None),
    lambda lib: filled(lib.nn).register_buffer("b", 3),
    lambda lib: filled(lib.nn).add_module("a.b", None),
    lambda lib: filled(lib.nn).add_module("", None),
    lambda lib: filled(lib.nn).add_module("a", None),
    lambda lib: filled(lib.nn).add_module("q", 3),
    lambda lib: filled(lib.nn).get_submodule("q"),
    lambda lib: filled(lib.nn).get_submodule("a"),
    lambda lib: filled(lib.nn).get_parameter("m.q"),
    lambda lib: filled(lib.nn).get_parameter("m.in_features"),
    lambda lib: filled(lib.nn).get_buffer("m.weight"),
    lambda lib: filled(lib.nn).train("yes"),
    lambda lib: lib.nn.Module(1),
    lambda lib: lib.nn.Module(x=1),
    lambda lib: lib.nn.Linear(1, 1).load_state_dict(3),
    lambda lib: lib.nn.Linear(1, 1).load_state_dict({}),
    lambda lib: lib.nn.Linear(1, 1).load_state_dict({"weight": lib.ones(2, 1), "bias": 3, "x": 1}),
    lambda lib: lib.nn.Sequential(lib.nn.Linear(1, 1)).load_state_dict(
        {"0.weight": lib.ones(1, 1), "1.x": 1}
    ),
    lambda lib: lib.nn.Parameter(lib.tensor([1])),
    lambda lib: lib.nn.Linear(1, 1).to(lib.int64),
    lambda lib: lib.nn.Sequential(lib.nn.ReLU())[1],
    lambda lib: lib.nn.Sequential(lib.nn.ReLU()).insert(3, lib.nn.ReLU()),
    lambda lib: lib.nn.ModuleList([lib.nn.ReLU()])[-2],
    lambda lib: lib.nn.ModuleList().extend(3),
    lambda lib: lib.nn.ModuleDict(3),
    lambda lib: lib.nn.ModuleDict([3]),
    lambda lib: lib.nn.ModuleDict([(1, 2, 3)]),
    lambda lib: lib.nn.ParameterList().extend(lib.ones(2)),
    lambda lib: lib.nn.ParameterList([lib.ones(2)])(1),
]


@pytest.mark.peers
@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_errors_are_torchs(number: int, torch: ModuleType) -> None:
    """The same type and text, where torch's text does not name torch's own classes."""
    with pytest.raises(Exception) as theirs:  # noqa: PT011 (its type is what is compared)
        ERRORS[number](torch)
    with pytest.raises(Exception) as ours:  # noqa: PT011
        ERRORS[number](tg)
    assert type(ours.value) is type(theirs.value)
    assert str(ours.value) == str(theirs.value).replace("'torch.nn.", "'tracegrad.nn.")


def test_non_leaf_parameters_are_refused() -> None:
    p = nn.Parameter(tg.ones(1))
    p._grad_fn = (p * 2).grad_fn
    with pytest.raises(ValueError, match="Cannot assign non-leaf Tensor to parameter 'q'"):
        nn.Module().register_parameter("q", p)


def test_forward_hooks() -> None:
    layer, x, log = nn.Linear(2, 2), tg.ones(1, 2), []
    plain = layer(x)

    def before(module: Any, args: Any) -> Any:
        log.append("before")
        return args[0] * 2

    def after(module: Any, args: Any, output: Any) -> Any:
        log.append("after")
        assert args[0].tolist() == [[2, 2]]
        return output + 1

    first = layer.register_forward_pre_hook(before)
    second = layer.register_forward_hook(after)
    expected = plain + (x @ layer.weight.T) + 1
    np.testing.assert_allclose(layer(x).detach().numpy(), expected.detach().numpy(), rtol=1e-6)
    assert log == ["before", "after"]
    first.remove()
    second.remove()
    assert tg.equal(layer(x), plain)


def test_hooks_in_order_with_kwargs_and_on_errors() -> None:
    log: list[str] = []

    class Picky(nn.Module):
        def forward(self, x: Any, *, fail: bool = False) -> Any:
            if fail:
                raise ValueError("no")
            return x

    module = Picky()
    module.register_forward_hook(lambda m, a, y: log.append("second"))
    module.register_forward_hook(lambda m, a, y: log.append("first"), prepend=True)
    module.register_forward_hook(
        lambda m, a, k, y: log.append(f"kwargs {k}"), with_kwargs=True, always_call=True
    )
    handle = module.register_forward_pre_hook(
        lambda m, a, k: (a, {"fail": False}), with_kwargs=True
    )
    assert module(1, fail=True) == 1
    assert log == ["first", "second", "kwargs {'fail': False}"]
    handle.remove()
    log.clear()
    with pytest.raises(ValueError, match="no"):
        module(1, fail=True)
    assert log == ["kwargs {'fail': True}"]
    module.register_forward_pre_hook(lambda m, a, k: 3, with_kwargs=True)
    with pytest.raises(RuntimeError, match="forward pre-hook must return None or a tuple"):
        module(1)


def test_modes() -> None:
    net = Net()
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net.train()
    assert all(m.training for m in net.modules())
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    seen: list[Any] = []
    assert net.apply(seen.append) is net
    assert seen[-1] is net
    assert seen[0] is net.first


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool) -> None:
    net = Net()
    net(tg.ones(2, 3)).sum().backward()
    grads = [p.grad for p in net.parameters()]
    net.zero_grad(set_to_none)
    for p, grad in zip(net.parameters(), grads, strict=True):
        if set_to_none:
            assert p.grad is None
        else:
            assert p.grad is grad
            assert not grad.any()


def test_conversion() -> None:
    net = Net()
    net.register_buffer("count", tg.tensor(0))
    net(tg.ones(2, 3)).sum().backward()
    weight = net.first.weight
    assert net.double() is net
    assert net.first.weight is weight
    assert weight.dtype is tg.float64
    assert weight.grad.dtype is tg.float64
    assert net.offset.dtype is tg.float64
    assert net.count.dtype is tg.int64
    net(tg.ones(2, 3, dtype=tg.float64)).sum().backward()
    assert net.to(tg.float32).first.weight.dtype is tg.float32
    assert net.to(tg.ones(1, dtype=tg.float64)).first.weight.dtype is tg.float64
    assert net.float().to("cpu").cpu().first.weight.dtype is tg.float32
    with pytest.raises(RuntimeError, match="CPU only"):
        net.to("cuda")
    with pytest.raises(RuntimeError, match="CPU only"):
        net.cuda()


def test_copies() -> None:
    net = Net()
    x = tg.ones(2, 3)
    net(x).sum().backward()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert tg.equal(twin(x), net(x))
        assert [n for n, _ in twin.named_parameters()] == [n for n, _ in net.named_parameters()]
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            assert type(q) is nn.Parameter
            assert q.requires_grad
            assert not np.shares_memory(p.detach().numpy(), q.detach().numpy())
        with tg.no_grad():
            twin.first.weight.fill_(0)
        assert not tg.equal(twin(x), net(x))
    layer = nn.Linear(2, 2)
    tied = copy.deepcopy(nn.Sequential(layer, layer))
    assert tied[0] is tied[1]


def test_parameter() -> None:
    data = tg.ones(2)
    p = nn.Parameter(data)
    assert isinstance(p, tg.Tensor)
    assert p.is_leaf
    assert p.requires_grad
    assert repr(p) == "Parameter containing:\ntensor([1., 1.], requires_grad=True)"
    with tg.no_grad():
        p.add_(1)
        assert nn.Parameter(data).requires_grad
    assert data.tolist() == [2, 2]
    assert repr(nn.Parameter(data, False)) == "Parameter containing:\ntensor([2., 2.])"
    assert type(p + 1) is tg.Tensor
    assert nn.Parameter().shape == (0,)
    (p * p).sum().backward()
    assert copy.deepcopy(p).grad is None
    with pytest.raises(AttributeError, match="takes a tensor"):
        nn.Parameter([1.0])  # type: ignore[arg-type]


def test_scopes_in_a_trace() -> None:
    """Nodes carry the path of the module that made them."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Tanh(), nn.Linear(3, 1)))
    compiled = tg.compile(net)
    compiled(tg.ones(4, 2))
    text = compiled.ir("trace")
    assert "1.0" in text
    assert "1.1" in text
