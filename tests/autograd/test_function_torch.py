"""Custom Functions against torch's: the same program with both libraries, values and errors compared.

The examples of "Extending PyTorch" and of "Extending torch.func with autograd.Function" are here, and what else the
documentation of ``torch.autograd.Function`` promises.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:.*torch.jit")]

Program = Callable[[Any], Any]
PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


def attempt(call: Callable[[], Any]) -> Any:
    """The result, or type and first line of what was raised; and the warnings on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call()
        except Exception as error:
            result = type(error).__name__, str(error).splitlines()[0]
    told = [
        (w.category.__name__, str(w.message).split(" (Triggered")[0])
        for w in caught
        if "torch.jit" not in str(w.message)
    ]
    return (result, told) if told else result


def plain(value: Any) -> Any:
    """Tensors as arrays, with what autograd knows of them; containers as lists."""
    if isinstance(value, (tg.Tensor, torch.Tensor)):
        node = value.grad_fn
        return [
            str(value.dtype).removeprefix("torch.").removeprefix("tracegrad."),
            value.requires_grad,
            value.is_leaf,
            node is None or node.name().replace("Generated", ""),
            np.asarray(value.detach().tolist(), dtype=np.float64),
        ]
    if isinstance(value, (tuple, list)):
        return [plain(x) for x in value]
    return value


def assert_alike(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, np.ndarray):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    elif isinstance(theirs, list):
        assert isinstance(ours, list), (ours, theirs)
        assert len(ours) == len(theirs), (ours, theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_alike(a, b)
    else:
        assert ours == theirs


def leaf(m: Any, *values: float) -> Any:
    return m.tensor(list(values), dtype=m.float64, requires_grad=True)


def constant(m: Any, *values: Any) -> Any:
    return m.tensor(list(values), dtype=m.float64)


def define(m: Any, forward: Any, backward: Any = None, **more: Any) -> Any:
    """A Function with these static methods."""
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    if backward is None:
        del members["backward"]
    for name, value in more.items():
        members[name] = staticmethod(value) if callable(value) else value
    return type("Fn", (m.autograd.Function,), members)


def gradient_of(y: Any, x: Any, m: Any) -> Any:
    return m.autograd.grad(y.sum(), x, create_graph=True)[0]


# Extending PyTorch.


def linear_function(m: Any) -> Any:
    class LinearFunction(m.autograd.Function):
        @staticmethod
        def forward(input: Any, weight: Any, bias: Any) -> Any:
            output = input.mm(weight.t())
            if bias is not None:
                output += bias.unsqueeze(0).expand_as(output)
            return output

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            input, weight, bias = inputs
            ctx.save_for_backward(input, weight, bias)

        @staticmethod
        def backward(ctx: Any, grad_output: Any) -> Any:
            input, weight, bias = ctx.saved_tensors
            grad_input = grad_weight = grad_bias = None
            if ctx.needs_input_grad[0]:
                grad_input = grad_output.mm(weight)
            if ctx.needs_input_grad[1]:
                grad_weight = grad_output.t().mm(input)
            if bias is not None and ctx.needs_input_grad[2]:
                grad_bias = grad_output.sum(0)
            return grad_input, grad_weight, grad_bias

    return LinearFunction


@program
def extending_linear(m: Any) -> Any:
    linear = linear_function(m).apply
    x = leaf(m, *range(6)).reshape(2, 3)
    w = leaf(m, *range(12)).reshape(4, 3)
    b = leaf(m, 1, 2, 3, 4)
    y = linear(x, w, b)
    found = [y, *m.autograd.grad((y * y).sum(), (x, w, b), create_graph=True)]
    again = m.autograd.grad(found[1].sin().sum(), (x, w))
    z = linear(x, w, None)
    alone = m.autograd.grad(z.sum(), w)
    checked = m.autograd.gradcheck(linear, (x.detach().requires_grad_(), w.detach(), None))
    return found, again, z, alone, checked


@program
def extending_constant(m: Any) -> Any:
    class MulConstant(m.autograd.Function):
        @staticmethod
        def forward(tensor: Any, constant: Any) -> Any:
            return tensor * constant

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            _, constant = inputs
            ctx.set_materialize_grads(False)
            ctx.constant = constant

        @staticmethod
        def backward(ctx: Any, grad_output: Any) -> Any:
            if grad_output is None:
                return None, None
            return grad_output * ctx.constant, None

    x = leaf(m, 1, 2)
    y = MulConstant.apply(x, 5)
    return y, gradient_of(y, x, m), m.func.grad(lambda x: MulConstant.apply(x, 5).sum())(x)


@program
def extending_double_backward(m: Any) -> Any:
    class MyCube(m.autograd.Function):
        @staticmethod
        def forward(x: Any) -> Any:
            return x**3, 3 * x**2

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            (x,) = inputs
            _, dx = output
            ctx.save_for_backward(x, dx)

        @staticmethod
        def backward(ctx: Any, grad_output: Any, grad_dx: Any) -> Any:
            x, dx = ctx.saved_tensors
            return grad_output * dx + grad_dx * 6 * x

    def cube(x: Any) -> Any:
        return MyCube.apply(x)[0]

    x = leaf(m, 0.5, -2.0)
    first = gradient_of(cube(x), x, m)
    second = gradient_of(first, x, m)
    grad = m.func.grad
    return (
        first,
        second,
        grad(lambda x: grad(lambda x: cube(x).sum())(x).sum())(x.detach()),
        m.func.jacrev(cube)(x.detach()),
    )


@program
def saves_its_result(m: Any) -> Any:
    class MyExp(m.autograd.Function):
        @staticmethod
        def forward(x: Any) -> Any:
            return x.exp()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(output)
            ctx.save_for_forward(output)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (y,) = ctx.saved_tensors
            return g * y

        @staticmethod
        def jvp(ctx: Any, t: Any) -> Any:
            (y,) = ctx.saved_tensors
            return t * y

    x = leaf(m, 0.5, -2.0)
    f = m.func
    y = MyExp.apply(x)
    g1 = gradient_of(y, x, m)
    g2 = gradient_of(g1 * constant(m, 1, 2), x, m)
    g3 = gradient_of(g2 * constant(m, 3, 5), x, m)
    p, t = x.detach(), constant(m, 1.0, 3.0)

    def total(x: Any) -> Any:
        return (MyExp.apply(x) * constant(m, 1, 10)).sum()

    forwards = f.jvp(MyExp.apply, (p,), (t,))
    over = f.jvp(f.grad(total), (p,), (t,))
    under = f.grad(lambda x: (f.jvp(MyExp.apply, (x,), (t,))[1] * t).sum())(p)
    return (
        [y, g1, g2, g3],
        [forwards, over, under],
        [f.grad(lambda x: f.grad(lambda x: f.grad(total)(x).sum())(x).sum())(p)],
    )


# Extending torch.func with autograd.Function.


def numpy_of(x: Any) -> np.ndarray:
    return np.asarray(x.detach().cpu().numpy())


def sort_and_take(m: Any) -> tuple[Any, Any]:
    class NumpySort(m.autograd.Function):
        @staticmethod
        def forward(x: Any, dim: int) -> Any:
            array = numpy_of(x)
            order = np.argsort(array, axis=dim)
            back = np.argsort(order, axis=dim)
            result = np.take_along_axis(array, order, axis=dim)
            return m.tensor(result), m.tensor(order), m.tensor(back)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            _, dim = inputs
            _, order, back = output
            ctx.mark_non_differentiable(order, back)
            ctx.save_for_backward(order, back)
            ctx.save_for_forward(order, back)
            ctx.dim = dim

        @staticmethod
        def backward(ctx: Any, grad_output: Any, _0: Any, _1: Any) -> Any:
            order, back = ctx.saved_tensors
            return NumpyTake.apply(grad_output, back, order, ctx.dim), None

        @staticmethod
        def jvp(ctx: Any, tangent: Any, _: Any) -> Any:
            order, back = ctx.saved_tensors
            return NumpyTake.apply(tangent, order, back, ctx.dim), None, None

        @staticmethod
        def vmap(info: Any, in_dims: Any, x: Any, dim: int) -> Any:
            x_bdim, _ = in_dims
            x = x.movedim(x_bdim, 0)
            dim = dim if dim >= 0 else dim + x.dim() - 1
            return NumpySort.apply(x, dim + 1), (0, 0, 0)

    class NumpyTake(m.autograd.Function):
        @staticmethod
        def forward(x: Any, order: Any, back: Any, dim: int) -> Any:
            return m.tensor(np.take_along_axis(numpy_of(x), numpy_of(order), axis=dim))

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            _, order, back, dim = inputs
            ctx.save_for_backward(order, back)
            ctx.save_for_forward(order, back)
            ctx.dim = dim

        @staticmethod
        def backward(ctx: Any, grad_output: Any) -> Any:
            order, back = ctx.saved_tensors
            return NumpyTake.apply(grad_output, back, order, ctx.dim), None, None, None

        @staticmethod
        def jvp(ctx: Any, tangent: Any, *others: Any) -> Any:
            order, back = ctx.saved_tensors
            return NumpyTake.apply(tangent, order, back, ctx.dim)

        @staticmethod
        def vmap(info: Any, in_dims: Any, x: Any, order: Any, back: Any, dim: int) -> Any:
            x_bdim, order_bdim, back_bdim, _ = in_dims
            rank = x.dim() if x_bdim is None else x.dim() - 1
            dim = dim if dim >= 0 else dim + rank

            def expanded(x: Any, bdim: Any) -> Any:
                if bdim is None:
                    return x.expand(info.batch_size, *x.shape)
                return x.movedim(bdim, 0)

            args = expanded(x, x_bdim), expanded(order, order_bdim), expanded(back, back_bdim)
            return NumpyTake.apply(*args, dim + 1), 0

    return NumpySort, NumpyTake


@program
def func_numpy_sort(m: Any) -> Any:
    sort = sort_and_take(m)[0].apply
    f = m.func
    x = constant(m, 3, -1, 2, 0.5).reshape(2, 2)
    w = constant(m, 1, 10, 100, 1000).reshape(2, 2)

    def loss(x: Any) -> Any:
        values, _, _ = sort(x, -1)
        return (values.sin() * w).sum()

    def row_loss(x: Any) -> Any:
        return (sort(x, 0)[0] ** 2 * constant(m, 1, 10)).sum()

    t = constant(m, 1, 2, 3, 4).reshape(2, 2)
    return (
        f.grad(loss)(x),
        f.vmap(lambda x: sort(x, 0)[0])(x),
        f.vmap(lambda x: sort(x, 0)[0], in_dims=1, out_dims=1)(x),
        f.vmap(f.grad(row_loss))(x),
        f.grad(lambda x: f.vmap(row_loss)(x).sum())(x),
        f.jvp(lambda x: sort(x, -1)[0], (x,), (t,)),
        f.jacrev(lambda x: sort(x, -1)[0])(x),
        f.jacfwd(lambda x: sort(x, -1)[0])(x),
        f.hessian(loss)(x),
        f.vmap(f.hessian(row_loss))(x),
        f.vmap(f.vmap(lambda x: sort(x, 0)[0]))(x.reshape(1, 2, 2)),
    )


def generated(m: Any) -> Any:
    class Scaled(m.autograd.Function):
        """A derivative that differs from the true one: so we see which of them is used."""

        generate_vmap_rule = True

        @staticmethod
        def forward(x: Any, w: Any, power: int) -> Any:
            return x**power * w

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            x, w, power = inputs
            ctx.save_for_backward(x, w, output)
            ctx.save_for_forward(x, w, output)
            ctx.power = power
            ctx.shape = tuple(x.shape)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, w, y = ctx.saved_tensors
            assert tuple(g.shape) == tuple(y.shape)
            return 7 * g * ctx.power * x ** (ctx.power - 1) * w, 11 * g * x**ctx.power, None

        @staticmethod
        def jvp(ctx: Any, x_t: Any, w_t: Any, _: Any) -> Any:
            x, w, _ = ctx.saved_tensors
            return 7 * x_t * ctx.power * x ** (ctx.power - 1) * w + 11 * w_t * x**ctx.power

    return Scaled


@program
def func_generated_rule(m: Any) -> Any:
    scaled = generated(m).apply
    f = m.func
    x = constant(m, 1, 2, 3, 4, 5, 6).reshape(3, 2)
    w = constant(m, 0.5, -1)
    ws = constant(m, 1, 2, 3, 4, 5, 6).reshape(2, 3)

    def one(x: Any, w: Any) -> Any:
        return scaled(x, w, 3)

    def loss(x: Any, w: Any) -> Any:
        return (scaled(x, w, 3) * w.sin()).sum()

    return (
        f.vmap(one, in_dims=(0, None))(x, w),
        f.vmap(one, in_dims=(0, 1), out_dims=1)(x, ws),
        f.vmap(f.grad(loss, argnums=(0, 1)), in_dims=(0, None))(x, w),
        f.grad(lambda x, w: f.vmap(loss, in_dims=(0, None))(x, w).sum(), argnums=(0, 1))(x, w),
        f.grad(lambda x, w: f.vmap(one, in_dims=(0, 1))(x, w).pow(2).sum(), argnums=(0, 1))(x, ws),
        f.vmap(lambda x, t: f.jvp(lambda x: one(x, w), (x,), (t,)))(x, x + 1),
        f.jvp(f.vmap(lambda x: one(x, w)), (x,), (x + 1,)),
        f.vmap(f.jacrev(lambda x: one(x, w)))(x),
        f.vmap(f.vmap(lambda x, w: scaled(x, w, 2)), in_dims=(0, None))(x, w),
        f.grad(lambda x: f.vmap(f.vmap(lambda x: scaled(x, x, 2)))(x).sum())(x),
        f.vmap(lambda x: f.grad(lambda w: loss(x, w))(w))(x),
    )


@program
def func_generated_rule_outside_grad(m: Any) -> Any:
    """The user's backward is that of the plain tape outside as well, and again in the second derivative."""
    scaled = generated(m).apply
    x = leaf(m, 1, 2, 3)
    w = leaf(m, 0.5, -1, 4)
    y = m.func.vmap(lambda x, w: scaled(x, w, 3))(x, w)
    first = m.autograd.grad(y.sum(), (x, w), create_graph=True)
    second = m.autograd.grad(first[0].sum() + first[1].pow(2).sum(), (x, w))
    return [v.detach() for v in (y, *first, *second)]


@program
def func_needs_setup_context(m: Any) -> Any:
    old = define(m, lambda ctx, x: x * 2, lambda ctx, g: g * 2)
    new = define(m, lambda x: x * 2, lambda ctx, g: g * 2, setup_context=lambda ctx, i, o: None)
    both = define(
        m, lambda x: x * 2, setup_context=lambda ctx, i, o: None,
        vmap=lambda info, dims, x: (x, 0), generate_vmap_rule=True,
    )  # fmt: skip
    x = constant(m, 1, 2)
    f = m.func
    transforms: list[Any] = [
        lambda g: f.grad(lambda x: g(x).sum())(x),
        lambda g: f.vmap(g)(x),
        lambda g: f.jvp(g, (x,), (x,)),
        lambda g: f.jacrev(g)(x),
        lambda g: f.grad(lambda y: g(x).sum() * y.sum())(x),
    ]
    return [
        attempt(lambda t=t, g=g: plain(t(g.apply))) for t in transforms for g in (old, new, both)
    ]


@program
def func_vmap_returns(m: Any) -> Any:
    rules: list[Any] = [
        lambda info, dims, x: (x * 2, None),
        lambda info, dims, x: (x * 2, 0),
        lambda info, dims, x: (x.reshape(1, 2) * 2, 1),
        lambda info, dims, x: (x, 0, 1),
        lambda info, dims, x: (x * info.batch_size, 0 if info.randomness == "error" else None),
    ]
    x = constant(m, 1, 2)
    return [
        attempt(
            lambda rule=rule: plain(
                m.func.vmap(
                    define(m, lambda x: x, setup_context=lambda c, i, o: None, vmap=rule).apply
                )(x)
            )
        )
        for rule in rules
    ]


# Forward mode.


@program
def jvp_of_plain_style(m: Any) -> Any:
    fw = m.autograd.forward_ad
    x = constant(m, 1, 2)

    def along(function: Any, *more: Any) -> Any:
        with fw.dual_level():
            out = function.apply(fw.make_dual(x, constant(m, 1, 10)), *more)
            outs = out if isinstance(out, tuple) else (out,)
            return [plain(fw.unpack_dual(y).tangent) if hasattr(y, "shape") else y for y in outs]

    def g(ctx: Any, g: Any) -> Any:
        return g

    def saving(ctx: Any, x: Any, k: int, y: Any) -> Any:
        ctx.save_for_forward(x, y)
        return x * k * y

    def product(ctx: Any, x_t: Any, _: Any, y_t: Any) -> Any:
        x, y = ctx.saved_tensors
        return (x_t * y + x * y_t) * 3

    def marked(ctx: Any, x: Any) -> Any:
        y = x * 3
        ctx.mark_non_differentiable(y)
        return x * 2, y

    def dirty(ctx: Any, x: Any) -> Any:
        ctx.mark_dirty(x)
        return x.mul_(2)

    two = lambda ctx, x: (x * 2, 5)  # noqa: E731
    return [
        attempt(lambda: along(define(m, lambda ctx, x: x * 2, g))),
        attempt(lambda: along(define(m, lambda ctx, x: x * 2, g, jvp=lambda ctx, t: t * 2))),
        attempt(lambda: along(define(m, saving, g, jvp=product), 3, constant(m, 2, 5))),
        attempt(lambda: along(define(m, two, g, jvp=lambda ctx, t: (t, None)))),
        attempt(lambda: along(define(m, two, g, jvp=lambda ctx, t: t))),
        attempt(lambda: along(define(m, marked, g, jvp=lambda ctx, t: (t, t)))),
        attempt(lambda: along(define(m, lambda ctx, x: x * 2, g, jvp=lambda ctx, t: 3))),
        attempt(lambda: along(define(m, lambda ctx, x: x * 2, g, jvp=lambda ctx, t: [t]))),
        attempt(lambda: along(define(m, lambda ctx, x: x * 2, g, jvp=lambda ctx, t: m.ones(3)))),
        attempt(lambda: along(define(m, lambda ctx, x: x, g, jvp=lambda ctx, t: t))),
        attempt(lambda: along(define(m, lambda ctx, x: x, g, jvp=lambda ctx, t: t.view_as(t)))),
        attempt(
            lambda: along(
                define(m, lambda ctx, x: x.view(2, 1), g, jvp=lambda ctx, t: (t * 2).view(2, 1))
            )
        ),
        attempt(lambda: along(define(m, dirty, g, jvp=lambda ctx, t: t.mul_(2)))),
        attempt(lambda: along(define(m, dirty, g, jvp=lambda ctx, t: t * 2))),
    ]


# What ctx can do, and what it refuses.


@program
def changed_in_place(m: Any) -> Any:
    def dirty(ctx: Any, x: Any) -> Any:
        ctx.mark_dirty(x)
        return x.mul_(2)

    def two(ctx: Any, x: Any) -> Any:
        ctx.mark_dirty(x)
        return x.mul_(2), x * 3

    def forgotten(ctx: Any, x: Any) -> Any:
        ctx.mark_dirty(x)
        x.mul_(2)
        return x * 3

    def other(ctx: Any, x: Any) -> Any:
        y = x * 3
        ctx.mark_dirty(y)
        return y

    def outside(ctx: Any, x: Any) -> Any:
        ctx.mark_dirty(x)
        array = x.detach().numpy()
        array += 1
        return x

    def g(ctx: Any, g: Any) -> Any:
        return g * 2

    double, pair = define(m, dirty, g), define(m, two, lambda ctx, a, b: a * 2 + b * 6)

    def through(function: Any, part: Any) -> Any:
        x = leaf(m, 1, 2)
        y = x * 1
        z = function.apply(part(y))
        z = z[0] if isinstance(z, tuple) else z
        return [
            z.tolist(),
            y.tolist(),
            y.grad_fn.name().split("::")[-1],
            y._version,
            plain(gradient_of(y, x, m)),
        ]

    def read_before() -> Any:
        a = leaf(m, 1.0) * 1
        b = a * a
        define(m, outside, g).apply(a)
        b.sum().backward()

    x = leaf(m, 1, 2)
    return [
        attempt(lambda: through(double, lambda y: y)),
        attempt(lambda: through(pair, lambda y: y)),
        attempt(lambda: through(double, lambda y: y[:1])),
        attempt(lambda: through(pair, lambda y: y[:1]))[0],
        attempt(lambda: plain(double.apply(x))),
        attempt(lambda: plain(double.apply(x[:1]))),
        attempt(lambda: plain(double.apply(constant(m, 1, 2)))),
        attempt(lambda: plain(define(m, forgotten, g).apply(x * 1))),
        attempt(lambda: plain(define(m, other, g).apply(x * 1))),
        attempt(read_before)[1][:60],
    ]


@program
def views_and_inputs_returned(m: Any) -> Any:
    def g(ctx: Any, g: Any) -> Any:
        return g * 5

    x = leaf(m, 1, 2)

    def same() -> Any:
        y = define(m, lambda ctx, x: x, g).apply(x)
        return y is x, y.grad_fn.name(), plain(gradient_of(y, x, m))

    def twice() -> Any:
        fn = define(m, lambda ctx, x: (lambda y: (y, y))(x * 2), lambda ctx, a, b: a * 10 + b)
        a, b = fn.apply(x)
        return a is b, a.output_nr, b.output_nr, plain(gradient_of(a + 2 * b, x, m))

    def reshaped(x: Any) -> Any:
        return define(m, lambda ctx, x: x.view(2, 1), lambda ctx, g: g.view(2) * 3).apply(x)

    def parts(x: Any) -> Any:
        fn = define(m, lambda ctx, x: (x[:1], x[1:]), lambda ctx, a, b: m.cat([a, b]))
        return fn.apply(x)

    return [
        attempt(same),
        attempt(twice),
        attempt(lambda: plain(gradient_of(reshaped(x * 1), x, m))),
        attempt(lambda: reshaped(x * 1).add_(1)),
        attempt(lambda: parts(x * 1)[0].add_(1)),
        attempt(lambda: define(m, lambda ctx, x: x, g).apply(x * 1).add_(1)),
        attempt(lambda: [(a := constant(m, 1)) is define(m, lambda ctx, x: x, g).apply(a)]),
        attempt(lambda: define(m, lambda ctx, x: 3, g).apply(x)),
        attempt(lambda: define(m, lambda ctx, x: None, g).apply(x)),
        attempt(lambda: plain(define(m, lambda ctx, x: [x * 1], g).apply(x))),
        attempt(lambda: plain(define(m, lambda ctx: m.ones(1), g).apply())),
        attempt(lambda: plain(define(m, lambda ctx, x: (x * 2, 3, "a", None), g).apply(x))),
        attempt(lambda: plain(define(m, lambda ctx, x: (x * 2).long(), g).apply(x))),
    ]


@program
def gradients_given_and_returned(m: Any) -> Any:
    x = leaf(m, 1, 2)
    seen: list[Any] = []

    def several(ctx: Any, x: Any) -> Any:
        y = x * 3
        ctx.mark_non_differentiable(y)
        return x * 2, y, (x * 5).long(), x * 7, "text"

    def sparse(ctx: Any, x: Any) -> Any:
        ctx.set_materialize_grads(False)
        return several(ctx, x)

    def look(ctx: Any, *gradients: Any) -> Any:
        seen.append([plain(g) for g in gradients])
        return gradients[0]

    for forward in (several, sparse):
        fn = define(m, forward, look)
        gradient_of(fn.apply(x)[0], x, m)

    def returning(value: Any, *more: Any) -> Any:
        fn = define(m, lambda ctx, x, *more: x * 2, lambda ctx, g: value)
        return attempt(lambda: plain(gradient_of(fn.apply(x, *more), x, m)))

    one = constant(m, 1, 1)
    boxed = define(m, lambda ctx, x: x * 2, lambda ctx, g: g.pop() * 4, boxed_grads_call=True)
    return [
        seen,
        returning((one, one)),
        returning((one, None, None)),
        returning((one, None, one)),
        returning([one]),
        returning(3.0),
        returning(m.ones(3)),
        returning(m.ones(2, 2)),
        returning(m.ones(2)),
        returning((one, one), 3),
        returning((one, 4), 3),
        returning((one, m.ones(3)), one),
        returning((one, None), 3),
        plain(gradient_of(boxed.apply(x), x, m)),
    ]


@program
def methods(m: Any) -> Any:
    x = leaf(m, 1, 2)

    def g(ctx: Any, g: Any) -> Any:
        return g * 5

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.inputs = inputs

    class NotStatic(m.autograd.Function):
        def forward(self, x: Any) -> Any:
            return x * 2

        def backward(self, g: Any) -> Any:
            return g * 3

    class Instance(NotStatic):
        def __init__(self) -> None:
            pass

    def keep(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        ctx.outputs = ctx.function = ctx.edges = ctx.code = ctx.sequence = "the user's own"
        return x * 2

    def kept(ctx: Any, g: Any) -> Any:
        assert ctx.outputs == ctx.sequence == "the user's own"
        return ctx.saved_tensors[0] * g

    def twice(once: bool) -> Any:
        fn = define(m, keep, kept, clear_saved_tensors_on_access=once)
        y = fn.apply(x).sum()
        first = y.grad_fn.next_functions[0][0].saved_tensors
        y.backward()
        return first is not None, y.backward()

    base = m.autograd.Function
    default = define(m, lambda x, k=3: x * k, lambda ctx, g: (g, None), setup_context=setup)
    return [
        attempt(lambda: plain(NotStatic.apply(x))),
        attempt(lambda: plain(Instance().apply(x))),
        attempt(lambda: Instance()(x)),
        attempt(lambda: NotStatic() and None)[1][0][0],
        attempt(lambda: plain(type("N", (base,), {}).apply(x))),
        attempt(lambda: gradient_of(define(m, lambda ctx, x: x * 2).apply(x), x, m)),
        attempt(lambda: gradient_of(define(m, lambda ctx, x: x * 2, g, vjp=g).apply(x), x, m)),
        attempt(lambda: plain(gradient_of(define(m, lambda ctx, x: x, vjp=g).apply(x), x, m))),
        attempt(lambda: plain(define(m, lambda ctx, x, k=3: x * k, g).apply(x, k=2))),
        attempt(lambda: plain(default.apply(x))),
        attempt(lambda: plain(default.apply(x, k=4).grad_fn.inputs)),
        attempt(lambda: plain(default.apply(x, 3, 4))),
        attempt(lambda: define(m, keep, kept).apply(x).grad_fn.nothing),
        attempt(lambda: plain(define(m, keep, kept).apply(x).grad_fn.saved_tensors)),
        attempt(lambda: twice(False)),
        attempt(lambda: twice(True)),
        attempt(lambda: define(m, lambda ctx, x: ctx.save_for_backward(3) or x, g).apply(x)),
        attempt(lambda: define(m, lambda ctx, x: ctx.save_for_forward(3) or x, g).apply(x)),
        base.vjp is base.backward,
        base.generate_vmap_rule,
    ]


@program
def once_differentiable(m: Any) -> Any:
    once = m.autograd.function.once_differentiable

    def save(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * x

    fn = define(m, save, once(lambda ctx, g: g * 2 * ctx.saved_tensors[0]))
    x, w = leaf(m, 1, 2), leaf(m, 3, 4)

    def second(factor: Any) -> Any:
        (g,) = m.autograd.grad((fn.apply(x) * factor).sum(), x, create_graph=True)
        g.sum().backward()

    return [
        plain(m.autograd.grad(fn.apply(x).sum(), x)),
        attempt(lambda: second(w)),
        attempt(lambda: second(constant(m, 1, 1))),
    ]


@program
def nested_applications(m: Any) -> Any:
    class Inner(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * Outer.apply(x)

    class Outer(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            with m.enable_grad():
                inside = x.detach().requires_grad_()
                y = Inner.apply(inside)
            (dx,) = m.autograd.grad(y.sum(), inside) if not ctx.needs_input_grad[0] else (None,)
            ctx.save_for_backward(x)
            return x.cos() if dx is None else x.cos() + 0 * dx

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return -g * Inner.apply(x)

    x = leaf(m, 0.3, 1.1)
    found = [Inner.apply(x)]
    for _ in range(4):
        found.append(gradient_of(found[-1], x, m))
    return [f.detach() for f in found]


@program
def hooks_on_the_record(m: Any) -> Any:
    seen: list[Any] = []
    x = leaf(m, 1, 2)
    y = define(m, lambda ctx, x: x * 2, lambda ctx, g: g * 3).apply(x)
    y.grad_fn.register_hook(lambda inputs, outputs: seen.append((plain(inputs), plain(outputs))))
    y.grad_fn.register_prehook(lambda outputs: (outputs[0] * 10,))
    y.grad_fn.metadata["key"] = 3
    y.sum().backward()
    return seen, x.grad, y.grad_fn.metadata


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_torch(name: str) -> None:
    ours, theirs = (plain(PROGRAMS[name](m)) for m in (tg, torch))
    assert_alike(ours, theirs)
