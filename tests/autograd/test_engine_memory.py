"""What the engine leaves behind: deep graphs freed on small stacks, cycles collected, memory given back on the way."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref
from collections.abc import Callable

import pytest

import tracegrad as tg

DEEP = 100_000


def chain(x: tg.Tensor) -> tg.Tensor:
    y = x
    for turn in range(DEEP):
        y = y.exp().log() if turn % 10 == 0 else y + x
    return y


def freed_by_del(x: tg.Tensor) -> None:
    y = chain(x)
    del y


def freed_after_backward(x: tg.Tensor) -> None:
    chain(x).sum().backward()
    assert x.grad is not None


def freed_after_an_exception(x: tg.Tensor) -> None:
    y = chain(x)

    def fail(grad: tg.Tensor) -> None:
        raise ValueError("in a hook")

    y.register_hook(fail)
    with pytest.raises(ValueError, match="in a hook"):
        y.sum().backward()
    assert tg.is_grad_enabled()


def freed_by_the_collector(x: tg.Tensor) -> None:
    cycle: list[object] = [chain(x)]
    cycle.append(cycle)
    del cycle
    gc.collect()


@pytest.mark.parametrize("stack_size", [0, 64 * 1024])
@pytest.mark.parametrize(
    "work", [freed_by_del, freed_after_backward, freed_after_an_exception, freed_by_the_collector]
)
def test_deep_graphs_are_freed_without_a_deep_stack(
    work: Callable[[tg.Tensor], None], stack_size: int
) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work(tg.ones(2, requires_grad=True))
        except BaseException as error:
            failures.append(error)

    before = threading.stack_size(stack_size)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert not failures


def hook_of_a_result() -> tg.Tensor:
    y = tg.ones(2, requires_grad=True) * 2
    y.register_hook(lambda grad: None if y is None else grad)
    y.retain_grad()
    return y


def hook_of_a_leaf() -> tg.Tensor:
    x = tg.ones(2, requires_grad=True)
    x.register_hook(lambda grad: None if x is None else grad)
    return x


def packed_as_it_is() -> tg.Tensor:
    with tg.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return tg.ones(2, requires_grad=True).exp()


def gradient_with_a_graph() -> tg.Tensor:
    x = tg.ones(2, requires_grad=True)
    (x * x).sum().backward(create_graph=True)
    return x


@pytest.mark.parametrize(
    "make", [hook_of_a_result, hook_of_a_leaf, packed_as_it_is, gradient_with_a_graph]
)
def test_cycles_are_collected(make: Callable[[], tg.Tensor]) -> None:
    found = weakref.ref(make())
    gc.collect()
    assert found() is None


def test_saved_values_are_freed_while_the_sweep_passes() -> None:
    steps, size = 20, 100_000
    seen: list[int] = []
    tracemalloc.start()
    try:
        y = tg.ones(size, requires_grad=True)
        for _ in range(steps):
            y = y.exp().log()
            y.register_hook(lambda grad: seen.append(tracemalloc.get_traced_memory()[0]))
        loss = y.sum()
        del y
        loss.backward()
    finally:
        tracemalloc.stop()
    assert len(seen) == steps
    # Each step saved one float32 array, which is gone when the next hook runs.
    assert seen[2] - seen[-1] > 0.9 * (steps - 3) * size * 4


WEIGHT_USES: dict[str, Callable[[tg.Tensor, tg.Tensor], tg.Tensor]] = {
    "rows": lambda x, w: x @ w,
    "columns": lambda x, w: x @ w.t(),
    "layer": lambda x, w: tg.nn.functional.linear(x, w, tg.zeros(w.shape[0])),
    "pointwise": lambda x, w: w.exp(),
}


@pytest.mark.parametrize("use", WEIGHT_USES)
def test_a_gradient_that_nobody_else_holds_is_not_copied(use: str) -> None:
    w = tg.ones(500, 500, requires_grad=True)
    loss = WEIGHT_USES[use](tg.ones(2, 500), w).sum()
    tracemalloc.start()
    try:
        loss.backward()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert w.grad is not None
    assert w.grad.is_contiguous()
    assert peak < 1.5 * w.nbytes * (2 if use == "pointwise" else 1)


def kept_by_a_hook(x: tg.Tensor, y: tg.Tensor) -> list[tg.Tensor]:
    kept: list[tg.Tensor] = []
    x.register_hook(kept.append)
    (x * 2).sum().backward()
    return kept


def shared_by_two_leaves(x: tg.Tensor, y: tg.Tensor) -> list[tg.Tensor]:
    ((x + y) * tg.arange(4.0)).sum().backward()
    assert y.grad is not None
    return [y.grad]


def given_by_the_user(x: tg.Tensor, y: tg.Tensor) -> list[tg.Tensor]:
    seed = tg.ones(4)
    (x + 0).backward(seed)
    return [seed]


def given_by_the_user_in_another_shape(x: tg.Tensor, y: tg.Tensor) -> list[tg.Tensor]:
    seed = tg.ones(2, 2)
    x.reshape(2, 2).backward(seed)
    return [seed]


def of_a_result(x: tg.Tensor, y: tg.Tensor) -> list[tg.Tensor]:
    z = x + y
    z.retain_grad()
    (z * 2).sum().backward()
    assert z.grad is not None
    return [z.grad]


def saved_by_a_record(x: tg.Tensor, y: tg.Tensor) -> list[tg.Tensor]:
    factor = tg.arange(4.0)
    loss = (x * factor).sum()
    loss.backward(retain_graph=True)
    return [factor]


@pytest.mark.parametrize(
    "program",
    [
        kept_by_a_hook,
        shared_by_two_leaves,
        given_by_the_user,
        given_by_the_user_in_another_shape,
        of_a_result,
        saved_by_a_record,
    ],
)
def test_a_gradient_that_somebody_else_holds_is_copied(
    program: Callable[[tg.Tensor, tg.Tensor], list[tg.Tensor]],
) -> None:
    x, y = (tg.ones(4, requires_grad=True) for _ in range(2))
    others = program(x, y)
    assert x.grad is not None
    assert others
    before = [other.tolist() for other in others]
    x.grad.fill_(-7.0)
    assert [other.tolist() for other in others] == before
