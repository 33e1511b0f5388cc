"""The profiler sees real operations: names, order, forward and backward, shapes."""

from __future__ import annotations

import tracegrad as tg
from tracegrad.autograd import profiler


def names(events: object) -> list[str]:
    return [event.name for event in events]  # type: ignore[attr-defined]


def test_forward_and_backward_events() -> None:
    x = tg.ones(2, 3, requires_grad=True)
    with profiler.profile(record_shapes=True) as prof:
        y = (x.sin() * x).sum()
        y.backward()
    found = names(prof.function_events)
    for name in (
        "aten::sin",
        "aten::mul",
        "aten::sum",
        "SinBackward0",
        "MulBackward0",
        "SumBackward0",
    ):
        assert name in found
    for record in ("SumBackward0", "MulBackward0", "SinBackward0"):
        assert f"autograd::engine::evaluate_function: {record}" in found
    assert found.index("aten::sin") < found.index("aten::mul") < found.index("aten::sum")
    assert found.index("SumBackward0") < found.index("MulBackward0") < found.index("SinBackward0")
    sin = next(e for e in prof.function_events if e.name == "aten::sin")
    assert sin.input_shapes == [[2, 3]]


def test_counts_and_table() -> None:
    x = tg.randn(2, 3, requires_grad=True)
    y = tg.rand(2, 3, requires_grad=True)
    z = tg.ones(2, 3, requires_grad=True)
    with profiler.profile() as prof:
        for _ in range(1000):
            z = (z / x) * y
    counts = {event.key: event.count for event in prof.key_averages()}
    assert counts["aten::div"] == 1000
    assert counts["aten::mul"] == 1000
    table = prof.key_averages().table(sort_by="self_cpu_time_total")
    assert "aten::div" in table
    assert "Self CPU time total" in table


def test_results_are_the_same_while_profiled() -> None:
    x = tg.linspace(0, 1, 5, requires_grad=True)
    plain = tg.autograd.grad((x.exp() * x[1:].sum()).sum(), x)[0]
    with profiler.profile():
        profiled = tg.autograd.grad((x.exp() * x[1:].sum()).sum(), x)[0]
    assert tg.equal(plain, profiled)


def test_nothing_is_recorded_outside() -> None:
    with profiler.profile() as prof:
        tg.ones(2).exp()
    tg.ones(2).sin()
    assert "aten::sin" not in names(prof.function_events)


def test_in_place_operations_are_seen() -> None:
    x = tg.ones(3)
    y = tg.ones(3, requires_grad=True)
    with profiler.profile() as prof:
        x.add_(1)
        x.sin_()
        x.zero_()
        (y * 1).mul_(2).exp_()
    tops = [e.name for e in prof.function_events if e.cpu_parent is None]
    assert tops == [
        "aten::add_",
        "aten::sin_",
        "aten::zero_",
        "aten::mul",
        "aten::mul_",
        "aten::exp_",
    ]


def test_batches_of_derivatives_are_the_same_while_profiled() -> None:
    """Sweeps over many cotangents at once, and function transforms."""
    x = tg.linspace(0.1, 1, 4)

    def wave(x: tg.Tensor) -> tg.Tensor:
        return (x.sin() * x.exp()).cumsum(0)

    def run() -> list[tg.Tensor]:
        leaf = x.detach().requires_grad_()
        (rows,) = tg.autograd.grad(wave(leaf), leaf, tg.eye(4), is_grads_batched=True)
        functional = tg.autograd.functional
        return [
            rows,
            functional.jacobian(wave, x, vectorize=True),
            functional.jacobian(wave, x, vectorize=True, strategy="forward-mode"),
            functional.hessian(lambda x: wave(x).sum(), x, vectorize=True),
            tg.func.hessian(lambda x: wave(x).sum())(x),
            tg.func.jacrev(wave)(x),
            tg.func.vmap(tg.func.grad(lambda x: (x * x).sin()))(x),
        ]

    plain = run()
    with profiler.profile(record_shapes=True, profile_memory=True) as prof:
        profiled = run()
    assert all(tg.equal(a, b) for a, b in zip(plain, profiled, strict=True))
    assert {"aten::sin", "SinBackward0", "aten::cumsum"} <= set(names(prof.function_events))
