"""Operations with derivatives of the user's own."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.autograd import Function, gradcheck, gradgradcheck
from tracegrad.autograd.function import once_differentiable

try:
    import torch
except ImportError:
    torch = None


def leaf(*values: float) -> tg.Tensor:
    return tg.tensor(list(values), dtype=tg.float64, requires_grad=True)


class Cube(Function):
    @staticmethod
    def forward(ctx: Any, x: tg.Tensor) -> tg.Tensor:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, g: tg.Tensor) -> tg.Tensor:
        (x,) = ctx.saved_tensors
        return g * 3 * x * x


class Exp(Function):
    """Saves its own output; takes a number beside the tensor."""

    @staticmethod
    def forward(ctx: Any, x: tg.Tensor, rate: float) -> tg.Tensor:
        out = (x * rate).exp()
        ctx.save_for_backward(out)
        ctx.rate = rate
        return out

    @staticmethod
    def backward(ctx: Any, g: tg.Tensor) -> Any:
        (out,) = ctx.saved_tensors
        return g * out * ctx.rate, None


class Polar(Function):
    """Two outputs; context set up apart from the computation."""

    @staticmethod
    def forward(r: tg.Tensor, a: tg.Tensor) -> Any:
        return r * a.cos(), r * a.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gx: tg.Tensor, gy: tg.Tensor) -> Any:
        r, a = ctx.saved_tensors
        assert any(ctx.needs_input_grad)
        return gx * a.cos() + gy * a.sin(), (gy * a.cos() - gx * a.sin()) * r


def test_value_record_and_gradient() -> None:
    x = leaf(2.0, -1.0)
    y = Cube.apply(x)
    assert type(y.grad_fn).__name__ == "CubeBackward"
    assert y.grad_fn.next_functions[0][0].variable is x
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [12.0, 3.0])


def test_derivatives_of_any_order_agree_with_differences() -> None:
    x, a = leaf(0.7, 1.2), leaf(0.3, -0.4)
    assert gradcheck(Cube.apply, x)
    assert gradgradcheck(Cube.apply, x)
    assert gradcheck(lambda x: Exp.apply(x, 1.5), x)
    assert gradgradcheck(lambda x: Exp.apply(x, 1.5), x)
    assert gradcheck(Polar.apply, (x, a))
    assert gradgradcheck(Polar.apply, (x, a))


def test_one_of_two_outputs_used() -> None:
    r, a = leaf(2.0), leaf(0.5)
    x, y = Polar.apply(r, a)
    assert (x.output_nr, y.output_nr) == (0, 1)
    assert x.grad_fn is y.grad_fn
    y.backward()
    np.testing.assert_allclose(r.grad.item(), np.sin(0.5))


def test_without_gradients_nothing_is_recorded() -> None:
    assert not Cube.apply(tg.ones(2)).requires_grad
    with tg.no_grad():
        assert not Cube.apply(leaf(1.0)).requires_grad


def test_returned_inputs_are_told_apart() -> None:
    class Same(Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor) -> tg.Tensor:
            return x

        @staticmethod
        def backward(ctx: Any, g: tg.Tensor) -> tg.Tensor:
            return g * 5

    x = leaf(1.0)
    y = Same.apply(x)
    assert y is not x
    assert x.is_leaf
    y.backward()
    assert x.grad.item() == 5.0


def test_changed_inputs() -> None:
    class Double(Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor) -> tg.Tensor:
            ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx: Any, g: tg.Tensor) -> tg.Tensor:
            return g * 2

    x = leaf(3.0)
    y = x * 1
    z = Double.apply(y)
    assert z is y
    z.backward()
    assert x.grad.item() == 2.0


def test_outputs_without_derivative() -> None:
    class Sorted(Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor) -> Any:
            order = tg.tensor(np.argsort(x.detach().numpy()))
            mask = (x > 0).to(x.dtype)
            ctx.mark_non_differentiable(mask)
            ctx.save_for_backward(order)
            return x[order], order, mask

        @staticmethod
        def backward(ctx: Any, g: tg.Tensor, *others: Any) -> tg.Tensor:
            assert all(tg.equal(o, tg.zeros_like(o)) for o in others if o is not None)
            (order,) = ctx.saved_tensors
            out = tg.zeros_like(g)
            out[order] = g
            return out

    x = leaf(3.0, -1.0, 2.0)
    values, order, mask = Sorted.apply(x)
    assert values.requires_grad
    assert not order.requires_grad
    assert not mask.requires_grad
    (values * tg.tensor([1.0, 10.0, 100.0], dtype=tg.float64)).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [100.0, 1.0, 10.0])


def test_gradients_that_nobody_needs_may_be_none() -> None:
    class Pair(Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor) -> Any:
            ctx.set_materialize_grads(False)
            return x * 1, x * 2

        @staticmethod
        def backward(ctx: Any, a: Any, b: Any) -> Any:
            assert a is None
            return b * 2

    x = leaf(1.0)
    Pair.apply(x)[1].backward()
    assert x.grad.item() == 2.0


def test_saved_values_are_checked_and_freed() -> None:
    x = leaf(2.0) * 1
    y = Cube.apply(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
    z = Cube.apply(leaf(2.0))
    z.backward()
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        z.backward()


def test_saved_outputs_make_no_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        y = Exp.apply(leaf(1.0), 2.0)
        watched = weakref.ref(y.grad_fn)
        del y
        assert watched() is None
    finally:
        gc.enable()


def wrong(returned: Any) -> type[Function]:
    class Wrong(Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor) -> tg.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: tg.Tensor) -> Any:
            return returned

    return Wrong


def test_errors() -> None:
    with pytest.raises(
        RuntimeError, match=r"WrongBackward returned an incorrect number of gradients \(expected 1"
    ):
        wrong((tg.ones(2), tg.ones(2))).apply(leaf(1.0, 2.0)).sum().backward()
    with pytest.raises(
        RuntimeError,
        match=r"returned an invalid gradient at index 0 - got \[3\] but expected shape",
    ):
        wrong(tg.ones(3)).apply(leaf(1.0, 2.0)).sum().backward()
    with pytest.raises(RuntimeError, match="expected Variable or None"):
        wrong(3).apply(leaf(1.0)).sum().backward()
    with pytest.raises(NotImplementedError, match="You must implement the forward function"):
        Function.apply(leaf(1.0))

    class NoBackward(Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor) -> tg.Tensor:
            return x * 1

    with pytest.raises(
        NotImplementedError, match="You must implement either the backward or vjp method"
    ):
        NoBackward.apply(leaf(1.0)).backward()

    class SavesNumber(Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor) -> tg.Tensor:
            ctx.save_for_backward(3)
            return x * 1

    with pytest.raises(
        TypeError, match="save_for_backward can only save variables, but argument 0"
    ):
        SavesNumber.apply(leaf(1.0))


def test_once_differentiable() -> None:
    class Square(Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor) -> tg.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, g: tg.Tensor) -> tg.Tensor:
            (x,) = ctx.saved_tensors
            return tg.tensor(2 * x.detach().numpy() * g.detach().numpy())

    x = leaf(3.0)
    Square.apply(x).backward()
    assert x.grad.item() == 6.0
    (g,) = tg.autograd.grad(Square.apply(x), x, create_graph=True, grad_outputs=leaf(1.0))
    with pytest.raises(RuntimeError, match="trying to differentiate twice"):
        g.backward()


def test_gradcheck_finds_wrong_derivatives() -> None:
    class Off(Cube):
        @staticmethod
        def backward(ctx: Any, g: tg.Tensor) -> tg.Tensor:
            (x,) = ctx.saved_tensors
            return g * 2 * x * x

    x = leaf(0.5, 1.0)
    with pytest.raises(
        RuntimeError, match="Jacobian mismatch for output 0 with respect to input 0,"
    ):
        gradcheck(Off.apply, x)
    assert not gradcheck(Off.apply, x, raise_exception=False)
    with pytest.raises(ValueError, match="at least one input tensor to require gradient"):
        gradcheck(Off.apply, tg.ones(2))
    assert x.detach().tolist() == [0.5, 1.0]


@pytest.mark.peers
@pytest.mark.skipif(torch is None, reason="torch is not installed")
def test_as_torch() -> None:
    def run(m: Any) -> list[Any]:
        class Mix(m.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any, w: Any, power: int) -> Any:
                ctx.save_for_backward(x, w)
                ctx.power = power
                return x**power * w, x + w

            @staticmethod
            def backward(ctx: Any, a: Any, b: Any) -> Any:
                x, w = ctx.saved_tensors
                return a * ctx.power * x ** (ctx.power - 1) * w + b, a * x**ctx.power + b, None

        x = m.tensor([0.5, 2.0], dtype=m.float64, requires_grad=True)
        w = m.tensor([1.5, -1.0], dtype=m.float64, requires_grad=True)
        y, z = Mix.apply(x, w, 3)
        names = [
            y.grad_fn.name(),
            [n and n[0] and n[0].name()[-14:] for n in y.grad_fn.next_functions],
        ]
        first = m.autograd.grad((y * y + z).sum(), (x, w), create_graph=True)
        second = m.autograd.grad(first[0].sum() + (first[1] ** 2).sum(), (x, w))
        return [names, *(g.tolist() for g in (*first, *second))]

    ours, theirs = run(tg), run(torch)
    assert ours[0] == theirs[0]
    np.testing.assert_allclose(ours[1:], theirs[1:], rtol=1e-12)


def test_saved_outputs_know_of_every_level() -> None:
    """torch loses the outer tangent of a saved output here."""

    class SavedExp(Function):
        @staticmethod
        def forward(x: tg.Tensor) -> tg.Tensor:
            return x.exp()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(output)
            ctx.save_for_forward(output)

        @staticmethod
        def backward(ctx: Any, g: tg.Tensor) -> tg.Tensor:
            return g * ctx.saved_tensors[0]

        @staticmethod
        def jvp(ctx: Any, t: tg.Tensor) -> tg.Tensor:
            return t * ctx.saved_tensors[0]

    def derivatives(f: Any) -> list[tg.Tensor]:
        x, t = tg.tensor([0.5, -2.0], dtype=tg.float64), tg.tensor([1.0, 3.0], dtype=tg.float64)

        def push(f: Any) -> Any:
            return lambda x: tg.func.jvp(f, (x,), (t,))[1]

        def pull(f: Any) -> Any:
            return tg.func.grad(lambda x: (f(x) * t).sum())

        return [
            order(x)
            for order in (
                push(push(f)), push(pull(f)), pull(push(f)), pull(pull(f)),
                push(push(push(f))), pull(pull(pull(f))), push(pull(push(f))), pull(push(pull(f))),
            )
        ]  # fmt: skip

    for ours, wanted in zip(derivatives(SavedExp.apply), derivatives(tg.exp), strict=True):
        np.testing.assert_allclose(ours.numpy(), wanted.numpy(), rtol=1e-12)
