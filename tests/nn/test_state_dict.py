"""Saving and loading modules."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import nn


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Linear(3, 1)))


def test_round_trip() -> None:
    a, b = net(), net()
    a(tg.randn(5, 2))
    saved = pickle.loads(pickle.dumps(a.state_dict()))
    assert saved._metadata["1"] == {"version": 2}
    result = b.load_state_dict(saved)
    assert str(result) == repr(result) == "<All keys matched successfully>"
    for key, value in a.state_dict().items():
        np.testing.assert_array_equal(b.state_dict()[key].numpy(), value.numpy())


def test_values_share_storage_and_history_stays() -> None:
    a = net()
    state = a.state_dict()
    assert not any(v.requires_grad for v in state.values())
    with tg.no_grad():
        a[0].weight.fill_(7)
    assert state["0.weight"].tolist() == [[7, 7]] * 3
    assert a.state_dict(keep_vars=True)["0.weight"] is a[0].weight
    weight = a[0].weight
    a.load_state_dict(state)
    assert a[0].weight is weight
    assert weight.requires_grad


def test_prefix_and_destination() -> None:
    into: dict[str, Any] = {}
    assert nn.Linear(1, 1).state_dict(destination=into, prefix="x.") is into
    assert list(into) == ["x.weight", "x.bias"]


def test_not_strict() -> None:
    layer = nn.Linear(1, 1)
    keys = layer.load_state_dict(
        {"weight": tg.full((1, 1), 3.0), "other": tg.ones(1)}, strict=False
    )
    assert keys.missing_keys == ["bias"]
    assert keys.unexpected_keys == ["other"]
    assert repr(keys) == "_IncompatibleKeys(missing_keys=['bias'], unexpected_keys=['other'])"
    assert layer.weight.item() == 3


def test_assign() -> None:
    layer = nn.Linear(1, 1)
    weight = tg.ones(1, 1, dtype=tg.float64)
    layer.load_state_dict({"weight": weight, "bias": tg.ones(1)}, assign=True)
    assert layer.weight.dtype is tg.float64
    assert layer.weight.requires_grad
    with tg.no_grad():
        layer.weight.fill_(2)
    assert weight.item() == 2


def test_values_are_converted() -> None:
    layer = nn.Linear(1, 1)
    layer.load_state_dict({"weight": tg.ones(1, 1, dtype=tg.float64), "bias": tg.ones(1)})
    assert layer.weight.dtype is tg.float32
    layer.register_buffer("scalar", tg.tensor(0.0))
    layer.load_state_dict({"scalar": tg.tensor([4.0])}, strict=False)
    assert layer.scalar.item() == 4


def test_hooks_and_extra_state() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = 3

        def get_extra_state(self) -> int:
            return self.count

        def set_extra_state(self, state: int) -> None:
            self.count = state

    a, b = Counter(), Counter()
    log: list[str] = []
    a.register_state_dict_pre_hook(lambda m, prefix, keep: log.append("pre"))
    a.register_state_dict_post_hook(lambda m, values, prefix, meta: log.append("post"))
    b.register_load_state_dict_pre_hook(lambda *args: log.append("load"))
    b.register_load_state_dict_post_hook(lambda m, keys: log.append("loaded"))
    a.count = 5
    b.load_state_dict(a.state_dict())
    assert b.count == 5
    assert log == ["pre", "post", "load", "loaded"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"_extra_state\"\. "):
        b.load_state_dict({})
    with pytest.raises(
        RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"_extra_state\"\. "
    ):
        nn.Module().load_state_dict(a.state_dict())
