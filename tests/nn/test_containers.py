"""Sequential, ModuleList, ModuleDict, ParameterList."""

from __future__ import annotations

from collections import OrderedDict
from types import ModuleType
from typing import Any

import pytest

import tracegrad as tg
from tracegrad import nn

BUILDS = {
    "empty": lambda n: n.Sequential(),
    "named": lambda n: n.Sequential(OrderedDict(a=n.ReLU(), b=n.Linear(2, 3))),
    "nested": lambda n: n.Sequential(n.Linear(2, 3), n.Sequential(n.Tanh(), n.Flatten())),
    "append": lambda n: n.Sequential(n.ReLU()).append(n.Tanh()).extend([n.ELU(), n.GELU()]),
    "insert": lambda n: n.Sequential(n.ReLU(), n.Tanh()).insert(1, n.ELU()).insert(-1, n.GELU()),
    "sum": lambda n: n.Sequential(n.ReLU()) + n.Sequential(n.Tanh(), n.ELU()),
    "product": lambda n: 2 * n.Sequential(n.ReLU(), n.Tanh()),
    "slice": lambda n: n.Sequential(n.ReLU(), n.Tanh(), n.ELU())[1:],
    "list": lambda n: n.ModuleList([n.Linear(2, 2), n.Linear(2, 2), n.ReLU()]),
    "empty list": lambda n: n.ModuleList(),
    "nested lists": lambda n: n.ModuleList([n.ModuleList([n.Linear(2, 2)]) for _ in range(3)]),
    "list sum": lambda n: n.ModuleList([n.ReLU()]) + n.ModuleList([n.Tanh()]),
    "list slice": lambda n: n.ModuleList([n.ReLU(), n.Tanh(), n.ELU()])[::2],
    "dict": lambda n: n.ModuleDict({"x": n.ReLU(), "y": n.Linear(1, 2)}),
    "dict of pairs": lambda n: n.ModuleDict([["x", n.ReLU()], ["y", n.Tanh()]]),
}


@pytest.mark.peers
@pytest.mark.parametrize("name", BUILDS)
def test_representation_is_torchs(name: str, torch: ModuleType) -> None:
    ours, theirs = BUILDS[name](nn), BUILDS[name](torch.nn)
    assert repr(ours) == repr(theirs)
    assert len(ours) == len(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_sequential() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    x = tg.ones(4, 2)
    assert tg.equal(net(x), net[2](net[1](net[0](x))))
    assert net[-1] is net[2]
    net[1] = nn.Tanh()
    assert isinstance(net[1], nn.Tanh)
    assert isinstance(net.pop(1), nn.Tanh)
    assert list(net._modules) == ["0", "1"]
    del net[:1]
    assert len(net) == 1
    net += nn.Sequential(nn.ReLU())
    net *= 2
    assert len(net) == 4
    with pytest.raises(ValueError, match="add operator supports only objects of Sequential class"):
        net + 3
    with pytest.raises(TypeError, match="unsupported operand"):
        net * 1.5
    with pytest.raises(ValueError, match="Non-positive multiplication factor 0 for <class"):
        net * 0


def test_module_list() -> None:
    layers = nn.ModuleList([nn.ReLU(), nn.Tanh()])
    layers.insert(1, nn.ELU())
    assert [type(m).__name__ for m in layers] == ["ReLU", "ELU", "Tanh"]
    layers += [nn.GELU()]
    layers[0] = nn.SiLU()
    del layers[1]
    assert [type(m).__name__ for m in layers] == ["SiLU", "Tanh", "GELU"]
    assert list(layers._modules) == ["0", "1", "2"]
    with pytest.raises(NotImplementedError, match='missing the required "forward" function'):
        layers(1)


def test_module_dict() -> None:
    table = nn.ModuleDict({"a": nn.Linear(1, 1)})
    table["b"] = nn.ReLU()
    table.update(nn.ModuleDict({"c": nn.Tanh()}))
    assert list(table) == list(table.keys()) == ["a", "b", "c"]
    assert "b" in table
    assert isinstance(table.pop("b"), nn.ReLU)
    assert len(table.items()) == len(table.values()) == 2
    assert list(table.state_dict()) == ["a.weight", "a.bias"]
    del table["a"]
    table.clear()
    assert len(table) == 0


@pytest.mark.peers
def test_parameter_list(torch: ModuleType) -> None:
    def build(lib: Any) -> Any:
        values = lib.nn.ParameterList([lib.nn.Parameter(lib.ones(2, 3)), lib.zeros(2)])
        values.append(lib.ones(()))
        values += [5]
        return values

    ours, theirs = build(tg), build(torch)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert len(ours) == 4
    assert len(list(ours.parameters())) == 3
    assert isinstance(ours[1], nn.Parameter)
    assert [type(v).__name__ for v in ours[2:]] == ["Parameter", "int"]
    ours[0] = tg.zeros(1)
    assert ours[0].shape == (1,)
