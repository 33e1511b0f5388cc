"""Python numbers that vary: what a compiled function makes of them, and how often it compiles.

That results are right is the matter of :mod:`number_programs`; here the costs are counted.
"""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.traced_number import TracedNumber, is_traced

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "weight_decay": 1e-3},
    "Adam": {},
    "AdamW": {},
    "Adagrad": {},
    "Adadelta": {},
    "RMSprop": {"momentum": 0.5},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
}


def _training(name: str, turns: int, compile: Any) -> tuple[list[float], Any]:
    w = tg.tensor([1.0, -2.0, 0.5], requires_grad=True)
    optimizer = getattr(tg.optim, name)([w], lr=0.05, **OPTIMIZERS[name])
    schedule = tg.optim.lr_scheduler.CosineAnnealingLR(optimizer, turns)
    x = tg.tensor([0.5, 1.0, 2.0])

    @compile
    def step() -> tg.Tensor:
        optimizer.zero_grad()
        loss = ((w * x - 1) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    losses = []
    for _ in range(turns):
        losses.append(step().item())
        schedule.step()
    return losses, step


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_scheduled_optimizer_compiles_twice(name: str) -> None:
    plain, _ = _training(name, 300, lambda function: function)
    compiled, step = _training(name, 300, tg.compile)
    np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-6)
    assert step.stats.compilations <= 2, step.explain()
    assert step.stats.native >= 296, step.explain()
    assert "numbers read at each call: optimizer.param_groups[0]['lr']" in step.explain()


def test_a_thousand_rates_as_an_argument_compile_twice() -> None:
    f = tg.compile(lambda x, rate: (x * rate).sum() * (1 - rate / 2))
    x = tg.tensor([1.0, 2.0])
    for turn in range(1000):
        rate = 0.1 + turn * 1e-3
        assert f(x, rate).item() == pytest.approx(3 * rate * (1 - rate / 2), rel=1e-5)
    assert f.stats.compilations == 2
    assert f.stats.native == 998
    assert "numbers read at each call: argument 1" in f.explain()


def test_a_thousand_whole_numbers_compile_twice() -> None:
    f = tg.compile(lambda x, turn: x * 0.5**turn + turn // 2)
    for turn in range(1, 1001):
        expected = np.float32(0.5**turn) + turn // 2
        assert f(tg.ones(()), turn).item() == pytest.approx(expected)
    assert f.stats.compilations == 2


def test_both_outcomes_of_a_comparison_are_kept() -> None:
    f = tg.compile(lambda x, r: x * r if r > 0.5 else x - r)
    for turn in range(100):
        r = turn % 10 / 10
        expected = 2 * r if r > 0.5 else 2 - r
        assert f(tg.tensor(2.0), r).item() == pytest.approx(expected)
    assert f.stats.compilations <= 4
    assert f.stats.native >= 95


def test_a_number_that_is_looked_at_is_pinned_and_costs_a_compilation_each_time() -> None:
    f = tg.compile(lambda x, r: x * float(f"{r:.2f}"))
    for turn in range(10):
        assert f(tg.ones(()), turn / 10).item() == pytest.approx(turn / 10)
    assert f.stats.compilations == 10
    assert "guard: the value is 0.1" in f.explain()
    for turn in range(10):
        f(tg.ones(()), turn / 10)
    assert f.stats.compilations == 10


def test_large_integers_are_not_lifted() -> None:
    f = tg.compile(lambda x, n: x + n * n % 7)
    x = tg.zeros((), dtype=tg.int64)
    for n in (3, 4, 2**31, 2**31 + 1, 2**40 + 1, 5, 2**70):
        assert f(x, n).item() == n * n % 7


def test_products_of_integers_are_followed_while_they_are_exact() -> None:
    f = tg.compile(lambda x, n: x + (n * n * n * n) % 1000)
    for n in (3, 4, 99_991, 2_000_003, -77_777):
        assert f(tg.zeros((), dtype=tg.int64), n).item() == n**4 % 1000


def test_no_traced_number_is_left_behind() -> None:
    box: dict[str, Any] = {"rate": 0.1}
    seen: list[Any] = []

    class Model:
        last = None

    model = Model()

    @tg.compile
    def f(x: tg.Tensor) -> tg.Tensor:
        seen.append(box["rate"])
        model.last = box["rate"] * 2
        return x * box["rate"]

    def run() -> None:
        for turn in range(6):
            box["rate"] = 0.1 * turn
            f(tg.ones(2))

    with pytest.warns(RuntimeWarning, match="runs eagerly from now on: it changes Python state"):
        run()
    g = tg.compile(lambda x, r: (x * r, {"r": r, "twice": [r * 2]}))
    for turn in range(4):
        _, made = g(tg.ones(2), 0.5 * turn)
        assert made == {"r": 0.5 * turn, "twice": [turn]}
        assert type(made["r"]) is type(made["twice"][0]) is float
    assert {type(value) for value in (*seen, model.last, *box.values())} == {float}
    gc.collect()
    assert not any(issubclass(type(x), TracedNumber) for x in gc.get_objects())


def test_an_exception_leaves_no_traced_number_behind() -> None:
    seen: list[float] = []

    @tg.compile
    def f(x: tg.Tensor, r: float) -> tg.Tensor:
        if r > 1:
            seen.append(r)
            raise KeyError(r, r + 1)
        return x * r

    for r in (0.25, 0.5, 0.75):
        f(tg.ones(2), r)
    with pytest.raises(KeyError) as caught:
        f(tg.ones(2), 1.5)
    assert caught.value.args == (1.5, 2.5)
    assert {type(value) for value in (*caught.value.args, *seen)} == {float}


def test_another_thread_may_read_a_number_while_it_is_traced() -> None:
    box = {"rate": 0.5}
    found: list[Any] = []
    inside, done = threading.Event(), threading.Event()

    def read() -> None:
        inside.wait(10)
        rate = box["rate"]
        found.append((is_traced(rate), rate + 1, f"{rate}", f(tg.ones(2)).tolist()))
        done.set()

    def helper(x: tg.Tensor) -> tg.Tensor:
        if threading.current_thread() is not other and turn == 1:
            inside.set()
            done.wait(10)
        return x * box["rate"]

    f = tg.compile(helper)
    other = threading.Thread(target=read)
    turn = 0
    f(tg.ones(2))
    other.start()
    turn = 1
    box["rate"] = 0.25
    assert f(tg.ones(2)).tolist() == [0.25, 0.25]
    other.join()
    # Waiting for a thread cannot be replayed, so that nothing is compiled here; the values are right all the same.
    assert found[0][1:] == (1.25, "0.25", [0.25, 0.25])
    assert type(box["rate"]) is float
