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
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, lambda epoch: 0.9 + epoch / 100),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [2, 5, 5, 9], gamma=0.5),
    "ConstantLR": lambda s, o: s.ConstantLR(o, 0.25, total_iters=4),
    "LinearLR": lambda s, o: s.LinearLR(o, 0.3, 0.9, total_iters=6),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, 7, power=1.5),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 2, 0.01),
    "CosineAnnealingWarmRestarts(5)": lambda s, o: s.CosineAnnealingWarmRestarts(o, 5),
    "CyclicLR": lambda s, o: s.CyclicLR(o, 0.1, [0.5, 0.9], 3, 2, base_momentum=0.2),
    "CyclicLR triangular2": lambda s, o: s.CyclicLR(o, 0.1, 0.5, 2, mode="triangular2"),
    "CyclicLR exp_range": lambda s, o: s.CyclicLR(
        o, 0.1, 0.5, 2, mode="exp_range", gamma=0.9, cycle_momentum=False
    ),
    "CyclicLR scale_fn": lambda s, o: s.CyclicLR(
        o, 0.1, 0.5, 2, scale_fn=lambda x: 1 / (1 + x), scale_mode="iterations"
    ),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, 0.5, total_steps=13),
    "OneCycleLR in three": lambda s, o: s.OneCycleLR(
        o, [0.5, 0.2], epochs=4, steps_per_epoch=4, three_phase=True, anneal_strategy="linear"
    ),
    "SequentialLR": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, total_iters=3), s.ExponentialLR(o, 0.9), s.StepLR(o, 2)], [3, 7]
    ),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler(
        [s.ConstantLR(o, 0.5, total_iters=3), s.ExponentialLR(o, 0.9)]
    ),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 4, eta_min=0.01),
}


def optimizer(lib: Any) -> Any:
    params = [lib.ones(1, requires_grad=True) for _ in range(2)]
    return lib.optim.SGD(
        [{"params": params[0], "lr": 0.3}, {"params": params[1]}], lr=0.1, momentum=0.5
    )


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
            rates[-1].append([(group["lr"], group["momentum"]) for group in o.param_groups])
            assert schedule.get_last_lr() == [rate for rate, _ in rates[-1][-1]]
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
    with pytest.warns(UserWarning, match=r"The epoch parameter in `scheduler.step\(\)` was not"):
        schedule.step(6)
    assert schedule.get_last_lr() == pytest.approx([0.003, 0.001])
    with pytest.raises(KeyError, match="param 'initial_lr' is not specified in param_groups"):
        optim.lr_scheduler.StepLR(optimizer(tg), 3, last_epoch=1)


CLOSED = [name for name in SCHEDULES if name not in ("SequentialLR", "ChainedScheduler")]


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("name", CLOSED)
def test_rates_at_an_epoch_are_torchs(name: str, torch: ModuleType) -> None:
    rates = []
    for lib in (tg, torch):
        o = optimizer(lib)
        schedule = SCHEDULES[name](lib.optim.lr_scheduler, o)
        o.step()
        rates.append([])
        for epoch in (7, 0, 3, 11):
            schedule.step(epoch)
            rates[-1].append(schedule.get_last_lr())
    assert rates[0] == rates[1]


PLATEAUS: list[dict[str, Any]] = [
    {"patience": 1},
    {"patience": 0, "cooldown": 2, "factor": 0.5},
    {"mode": "max", "patience": 1, "threshold": 0.3, "threshold_mode": "abs", "min_lr": 0.05},
    {"mode": "min", "patience": 0, "threshold": 0.2, "threshold_mode": "abs"},
    {"mode": "max", "patience": 0, "threshold": 0.1, "min_lr": [0.2, 0.01], "eps": 0.02},
]


@pytest.mark.peers
@pytest.mark.parametrize("options", PLATEAUS, ids=str)
def test_plateaus_are_torchs(options: dict[str, Any], torch: ModuleType) -> None:
    metrics = [5.0, 4.0, 4.0, 3.9, 3.95, 4.2, 3.0, 3.1, 3.05, 3.2, 2.9, 5.0, 5.1, 5.1, 5.4]
    rates, saved = [], []
    for lib in (tg, torch):
        o = optimizer(lib)
        schedule = lib.optim.lr_scheduler.ReduceLROnPlateau(o, **options)
        rates.append([])
        for metric in metrics:
            schedule.step(lib.tensor(metric, dtype=lib.float64))
            rates[-1].append(schedule.get_last_lr())
        saved.append((schedule.best, schedule.num_bad_epochs, schedule.in_cooldown))
    assert rates[0] == rates[1]
    assert saved[0] == saved[1]


@pytest.mark.peers
@pytest.mark.parametrize(
    "call",
    [
        lambda s, o: s.MultiplicativeLR(o, [3, 4]),
        lambda s, o: s.MultiplicativeLR(o, [lambda e: 1.0]),
        lambda s, o: s.ConstantLR(o, 1.5),
        lambda s, o: s.LinearLR(o, 0.0),
        lambda s, o: s.LinearLR(o, 1.0, 1.5),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 0),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 0.5),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 1, "a"),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 3).step(-1),
        lambda s, o: s.CyclicLR(o, 0.1, [0.2]),
        lambda s, o: s.CyclicLR(o, 0.1, 0.2, mode="round"),
        lambda s, o: s.CyclicLR(3, 0.1, 0.2),
        lambda s, o: s.OneCycleLR(o, 0.1),
        lambda s, o: s.OneCycleLR(o, 0.1, total_steps=0),
        lambda s, o: s.OneCycleLR(o, 0.1, epochs=0, steps_per_epoch=3),
        lambda s, o: s.OneCycleLR(o, 0.1, epochs=3, steps_per_epoch=1.5),
        lambda s, o: s.OneCycleLR(o, 0.1, total_steps=5, pct_start=2.0),
        lambda s, o: s.OneCycleLR(o, 0.1, total_steps=5, anneal_strategy="x"),
        lambda s, o: s.SequentialLR(o, [], []),
        lambda s, o: s.SequentialLR(o, [s.StepLR(o, 1)], [1]),
        lambda s, o: s.SequentialLR(o, [3], []),
        lambda s, o: s.SequentialLR(o, [s.ReduceLROnPlateau(o)], []),
        lambda s, o: s.ChainedScheduler([]),
        lambda s, o: s.ChainedScheduler([s.StepLR(o, 1), s.ReduceLROnPlateau(o)]),
        lambda s, o: s.ReduceLROnPlateau(o, factor=1.0),
        lambda s, o: s.ReduceLROnPlateau(o, mode="x"),
        lambda s, o: s.ReduceLROnPlateau(o, threshold_mode="x"),
        lambda s, o: s.ReduceLROnPlateau(o, min_lr=[0.1]),
        lambda s, o: s.ReduceLROnPlateau(3),
    ],
)
def test_errors_are_torchs(call: Any, torch: ModuleType) -> None:
    texts = []
    for lib in (tg, torch):
        with pytest.raises((ValueError, TypeError, KeyError)) as caught:
            call(lib.optim.lr_scheduler, optimizer(lib))
        texts.append((type(caught.value), str(caught.value)))
    assert texts[0] == texts[1]


def test_cycles_need_a_momentum() -> None:
    adam = optim.Adam([tg.ones(1, requires_grad=True)])
    optim.lr_scheduler.CyclicLR(adam, 0.1, 0.2, base_momentum=0.3, max_momentum=0.7)
    assert adam.param_groups[0]["betas"] == (0.7, 0.999)
    adagrad = optim.Adagrad([tg.ones(1, requires_grad=True)])
    with pytest.raises(ValueError, match="optimizer must support momentum or beta1"):
        optim.lr_scheduler.OneCycleLR(adagrad, 0.1, total_steps=4)


def test_rates_are_asked_of_get_last_lr() -> None:
    schedule = optim.lr_scheduler.ExponentialLR(optimizer(tg), 0.5)
    with pytest.warns(UserWarning, match=r"please use `get_last_lr\(\)`"):
        schedule.get_lr()


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
