"""Learning rate schedules: equal to torch's, saved and loaded, and seen by a compiled step."""

from __future__ import annotations

import pickle
from types import ModuleType
from typing import Any

import pytest

import tracegrad as tg
from tracegrad import optim

SCHEDULES: dict[str, Any] = {
    "StepLR": lambda s, o: s.StepLR(o, 3, gamma=0.5),
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda epoch: 0.9**epoch),
    "LambdaLR of two": lambda s, o: s.LambdaLR(o, [lambda e: 1 / (1 + e), lambda e: 0.5**e]),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 4, eta_min=0.01),
}


def optimizer(lib: Any) -> Any:
    params = [lib.ones(1, requires_grad=True) for _ in range(2)]
    return lib.optim.SGD([{"params": params[0], "lr": 0.3}, {"params": params[1]}], lr=0.1)


@pytest.mark.peers
@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_torchs(name: str, torch: ModuleType) -> None:
    """To the last bit, over more than one period."""
    rates = []
    for lib in (tg, torch):
        o = optimizer(lib)
        schedule = SCHEDULES[name](lib.optim.lr_scheduler, o)
        rates.append([])
        for _ in range(12):
            rates[-1].append([group["lr"] for group in o.param_groups])
            assert schedule.get_last_lr() == rates[-1][-1]
            o.step()
            schedule.step()
    assert rates[0] == rates[1]


@pytest.mark.parametrize("name", SCHEDULES)
def test_save_and_load(name: str) -> None:
    whole, half = optimizer(tg), optimizer(tg)
    a, b = (SCHEDULES[name](optim.lr_scheduler, o) for o in (whole, half))
    for o, schedule in ((whole, a), (half, b)):
        for _ in range(3):
            o.step()
            schedule.step()
    other = optimizer(tg)
    c = SCHEDULES[name](optim.lr_scheduler, other)
    c.load_state_dict(pickle.loads(pickle.dumps(b.state_dict())))
    other.load_state_dict(half.state_dict())
    for _ in range(4):
        for o, schedule in ((whole, a), (other, c)):
            o.step()
            schedule.step()
    assert c.get_last_lr() == a.get_last_lr()


def test_resume_at_an_epoch() -> None:
    o = optimizer(tg)
    o.step()
    optim.lr_scheduler.StepLR(o, 3)
    schedule = optim.lr_scheduler.StepLR(o, 3, last_epoch=1)
    assert schedule.last_epoch == 2
    schedule.step(6)
    assert schedule.get_last_lr() == pytest.approx([0.003, 0.001])
    with pytest.raises(KeyError, match="param 'initial_lr' is not specified in param_groups"):
        optim.lr_scheduler.StepLR(optimizer(tg), 3, last_epoch=1)


def test_order_and_types() -> None:
    o = optimizer(tg)
    schedule = optim.lr_scheduler.ExponentialLR(o, 0.5)
    with pytest.warns(UserWarning, match=r"Detected call of `lr_scheduler.step\(\)` before"):
        schedule.step()
    with pytest.raises(TypeError, match="int is not an Optimizer"):
        optim.lr_scheduler.StepLR(3, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected 2 lr_lambdas, but got 1"):
        optim.lr_scheduler.LambdaLR(o, [lambda epoch: 1.0])


def test_compiled_step_follows_the_schedule() -> None:
    p = tg.zeros(1, requires_grad=True)
    o = optim.SGD([p], lr=1.0)
    schedule = optim.lr_scheduler.StepLR(o, 1, gamma=0.5)

    @tg.compile
    def train() -> None:
        o.zero_grad()
        p.sum().backward()
        o.step()

    expected = 0.0
    for epoch in range(6):
        for _ in range(3):
            train()
            expected -= 0.5**epoch
        assert p.item() == expected
        schedule.step()


def test_tensor_rates_change_in_place() -> None:
    lr = tg.tensor(1.0)
    o = optim.SGD([tg.ones(1, requires_grad=True)], lr=lr)
    schedule = optim.lr_scheduler.ExponentialLR(o, 0.5)
    o.step()
    schedule.step()
    assert lr.item() == 0.5
    assert o.param_groups[0]["lr"] is lr
