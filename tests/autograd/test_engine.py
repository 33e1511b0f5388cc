"""The reverse sweep as users see it: what `backward` and `grad` do, hooks, freeing, depth, memory."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import autograd

DEEP = 100_000


def leaf(*values: float) -> tg.Tensor:
    return tg.tensor(list(values), dtype=tg.float64, requires_grad=True)


def test_gradients_add_up_until_they_are_cleared() -> None:
    x = leaf(1.0, 2.0)
    for turn in (1, 2, 3):
        (x * x).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), turn * 2 * np.array([1.0, 2.0]))
    x.grad = None
    (x * 3).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [3.0, 3.0])


def test_accumulation_keeps_the_gradient_object() -> None:
    """An optimizer may hold on to `grad`: it is added to in place."""
    x = leaf(1.0)
    (x * 2).sum().backward()
    first = x.grad
    (x * 2).sum().backward()
    assert x.grad is first
    assert first.item() == 4.0


def test_first_gradient_owns_its_memory() -> None:
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (x + y).sum().backward()
    x.grad.zero_()
    np.testing.assert_array_equal(y.grad.numpy(), [1.0, 1.0])
    assert x.grad.is_contiguous()


def test_a_value_used_many_times() -> None:
    x = leaf(2.0)
    y = x * x
    z = y * y + y
    z.backward()
    assert x.grad.item() == 4 * 8 + 2 * 2


@pytest.mark.parametrize("retain", [False, True])
def test_second_backward_needs_retained_values(retain: bool) -> None:
    x = leaf(2.0)
    z = (x * x).sin()
    z.backward(retain_graph=retain)
    if retain:
        z.backward()
        np.testing.assert_allclose(x.grad.item(), 2 * np.cos(4.0) * 4)
    else:
        with pytest.raises(
            RuntimeError, match="Trying to backward through the graph a second time"
        ):
            z.backward()


def test_records_that_save_nothing_can_be_swept_again() -> None:
    x = leaf(2.0)
    z = (x + 1).sum()
    z.backward()
    z.backward()
    assert x.grad.item() == 2.0


def test_backward_with_cotangent_and_inputs() -> None:
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (x * y).backward(tg.tensor([1.0, 10.0], dtype=tg.float64), inputs=[y])
    assert x.grad is None
    np.testing.assert_array_equal(y.grad.numpy(), [1.0, 20.0])


def test_backward_into_a_result() -> None:
    x = leaf(3.0)
    y = x * x
    (y * y).backward(inputs=y)
    assert x.grad is None
    y.retain_grad()
    assert y.grad.item() == 18.0


def test_backward_of_several_tensors() -> None:
    x = leaf(1.0, 2.0)
    autograd.backward([x.sum(), (x * x).sum()])
    np.testing.assert_array_equal(x.grad.numpy(), [3.0, 5.0])


def test_grad_leaves_grad_alone() -> None:
    x, y = leaf(2.0), leaf(5.0)
    a, b = autograd.grad(x * y, (x, y))
    assert (a.item(), b.item()) == (5.0, 2.0)
    assert x.grad is None
    assert y.grad is None


def test_grad_of_unused_inputs() -> None:
    x, y = leaf(2.0), leaf(5.0)
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        autograd.grad(x * 2, (x, y))
    assert autograd.grad(x * 2, (x, y), allow_unused=True)[1] is None
    zero = autograd.grad(x * 2, (x, y), materialize_grads=True)[1]
    np.testing.assert_array_equal(zero.numpy(), [0.0])


def test_grad_with_respect_to_a_result() -> None:
    x = leaf(2.0)
    y = x * x
    z = y * y
    a, b = autograd.grad(z, (y, x))
    assert (a.item(), b.item()) == (8.0, 32.0)


def test_batched_cotangents() -> None:
    x = leaf(1.0, 2.0)
    (rows,) = autograd.grad(
        x * x, x, grad_outputs=tg.eye(2, dtype=tg.float64), is_grads_batched=True
    )
    np.testing.assert_array_equal(rows.numpy(), np.diag([2.0, 4.0]))


def test_derivatives_of_any_order() -> None:
    x = leaf(0.7)
    value = x.sin()
    for order in range(1, 9):
        (value,) = autograd.grad(value, x, create_graph=True)
        expected = [np.cos, lambda v: -np.sin(v), lambda v: -np.cos(v), np.sin][(order - 1) % 4](
            0.7
        )
        np.testing.assert_allclose(value.item(), expected, rtol=1e-12)


def test_create_graph_makes_gradients_differentiable() -> None:
    x = leaf(3.0)
    (x**3).backward(create_graph=True)
    first = x.grad
    assert first.requires_grad
    x.grad = None
    first.backward()
    assert x.grad.item() == 18.0


def test_gradients_of_a_penalty() -> None:
    """The gradient norm as part of a loss: the parameters get second derivatives."""
    w = leaf(1.0, -2.0)
    loss = (w**3).sum()
    (g,) = autograd.grad(loss, w, create_graph=True)
    (loss + (g * g).sum()).backward()
    w0 = np.array([1.0, -2.0])
    np.testing.assert_allclose(w.grad.numpy(), 3 * w0**2 + 36 * w0**3)


# Hooks.


def test_tensor_hooks_see_and_replace_gradients() -> None:
    x = leaf(1.0, 2.0)
    y = x * 3
    seen: list[Any] = []
    y.register_hook(lambda g: seen.append(g.clone()))
    handle = y.register_hook(lambda g: g * 10)
    y.sum().backward()
    np.testing.assert_array_equal(seen[0].numpy(), [1.0, 1.0])
    np.testing.assert_array_equal(x.grad.numpy(), [30.0, 30.0])
    handle.remove()
    x.grad = None
    (x * 3).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [3.0, 3.0])


def test_leaf_hooks_come_before_accumulation() -> None:
    x = leaf(1.0)
    order: list[str] = []
    x.register_hook(lambda g: order.append(f"hook {x.grad}"))
    x.register_post_accumulate_grad_hook(lambda t: order.append(f"after {t.grad.item()}"))
    with x.register_hook(lambda g: g * 2):
        (x * 5).sum().backward()
    assert order == ["hook None", "after 10.0"]
    (x * 5).sum().backward()
    assert x.grad.item() == 15.0


def test_hook_gets_the_complete_gradient_once() -> None:
    x = leaf(2.0)
    y = x * 1
    seen = []
    y.register_hook(lambda g: seen.append(g.item()))
    (y * 2 + y * 3).backward()
    assert seen == [5.0]


def test_retain_grad() -> None:
    x = leaf(2.0)
    y = x * x
    y.retain_grad()
    assert y.retains_grad
    assert not x.retains_grad
    (y * 3).backward()
    assert y.grad.item() == 3.0
    with pytest.warns(UserWarning, match="not a leaf Tensor is being accessed"):
        assert (x * 2).grad is None


def test_retain_grad_sees_what_hooks_left() -> None:
    x = leaf(2.0)
    y = x * x
    y.retain_grad()
    y.register_hook(lambda g: g * 7)
    y.backward()
    assert y.grad.item() == 7.0
    assert x.grad.item() == 28.0


def test_hooks_on_records() -> None:
    x, w = leaf(2.0), leaf(3.0)
    y = x * w
    seen: list[Any] = []
    y.grad_fn.register_prehook(lambda outs: (outs[0] * 2,))
    y.grad_fn.register_hook(
        lambda ins, outs: seen.append((ins[0].item(), ins[1].item(), outs[0].item()))
    )
    y.backward()
    assert seen == [(6.0, 4.0, 2.0)]
    assert (x.grad.item(), w.grad.item()) == (6.0, 4.0)


def test_errors_in_hooks_reach_the_caller() -> None:
    x = leaf(1.0)
    y = x * 2

    def hook(gradient: tg.Tensor) -> None:
        raise KeyError("mine")

    y.register_hook(hook)
    with pytest.raises(KeyError, match="mine"):
        y.backward()
    assert tg.is_grad_enabled()


# Depth, memory, threads.


def test_deep_graphs() -> None:
    """100,000 records: no recursion in the sweep, in `grad`, or in deletion."""
    x = leaf(1.0)
    y = x
    for _ in range(DEEP):
        y = y + 1.0
    y.backward(retain_graph=True)
    assert x.grad.item() == 1.0
    assert autograd.grad(y, x)[0].item() == 1.0
    last = weakref.ref(y.grad_fn)
    del y
    assert last() is None


def test_deep_chain_of_views_and_in_place_changes() -> None:
    x = leaf(1.0, 2.0)
    y = x * 1
    for _ in range(3000):
        y[0].mul_(1.0)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1.0, 1.0])
    z = x * 1
    for _ in range(20_000):
        z = z.view(2)
    z.sum().backward()
    del z


def test_graphs_die_without_the_garbage_collector() -> None:
    """Results, records and leaves make no reference cycles."""
    gc.collect()
    gc.disable()
    try:
        x = leaf(1.0, 2.0)
        y = (x * 2).sin().exp()
        z = (y.view(2, 1)[0] + y).sum()
        z.retain_grad()
        z.backward()
        watched = [weakref.ref(t) for t in (x, y, z)] + [weakref.ref(z.grad_fn)]
        del x, y, z
        assert [w() for w in watched] == [None] * 4
    finally:
        gc.enable()


def test_cycles_through_hooks_are_collected() -> None:
    x = leaf(1.0)
    y = x * 2
    y.register_hook(lambda g, y=y: g * y.item())
    watched = weakref.ref(y)
    del y
    gc.collect()
    assert watched() is None


def test_saved_values_are_released_after_backward() -> None:
    x = leaf(1.0, 2.0)
    y = x * 2
    z = y.sin().sum()
    watched = weakref.ref(y)
    z.backward()
    del y
    assert watched() is None


def test_backward_in_threads() -> None:
    """Graphs of their own in each thread; gradients of a shared leaf all arrive."""
    x = leaf(*range(8))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                y = leaf(3.0)
                (y * y).sum().backward()
                assert y.grad.item() == 6.0
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    (x * 2).sum().backward()
    assert x.grad.sum().item() == 16.0


def test_saved_values_can_be_looked_at() -> None:
    x, y = leaf(2.0), leaf(3.0)
    z = x * y
    assert z.grad_fn._saved_self is x
    assert z.grad_fn._saved_other is y
    e = x.exp()
    assert e.grad_fn._saved_result.item() == e.item()
    z.backward()
    with pytest.raises(RuntimeError, match="after they have already been freed"):
        _ = z.grad_fn._saved_self
    with pytest.raises(AttributeError):
        _ = (x * y).grad_fn._saved_nothing


def test_metadata_of_records_is_the_users() -> None:
    y = leaf(1.0) * 2
    y.grad_fn.metadata["mine"] = 1
    assert y.grad_fn.metadata == {"mine": 1}


def test_accumulator_of_a_leaf() -> None:
    x = leaf(1.0)
    (node, number), (nothing, _) = (x * 2).grad_fn.next_functions
    assert type(node).__name__ == "AccumulateGrad"
    assert node.variable is x
    assert (number, nothing) == (0, None)
    assert node.next_functions == ()
    assert (x * 3).grad_fn.next_functions[0][0] is node


def test_a_zero_that_the_user_multiplies_with_is_no_constant() -> None:
    """Zero times infinity is NaN, as in torch; only a partial that is zero by definition stays zero."""
    x = tg.tensor([0.0, 4.0], requires_grad=True)
    (x * 0).sqrt().sum().backward()
    assert x.grad is not None
    assert np.isnan(x.grad.numpy()).all()
    y = tg.tensor([0.0, 4.0], requires_grad=True)
    y.floor().sqrt().sum().backward()
    assert y.grad is not None
    assert y.grad.tolist() == [0.0, 0.0]
