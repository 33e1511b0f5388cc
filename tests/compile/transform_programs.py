"""Programs with function transforms, inside of a compiled function and around one.

See :mod:`programs` for the form.
"""

from __future__ import annotations

from typing import Any

from compile_programs import Compile, World, data, leaf, program

import tracegrad as tg
from tracegrad import func
from tracegrad.autograd import forward_ad, functional


@program()
def per_example_gradients(compile: Compile) -> World:
    w = data(4, 3)

    def loss(w: tg.Tensor, x: tg.Tensor) -> tg.Tensor:
        return (x @ w).tanh().sum()

    f = compile(lambda x: func.vmap(func.grad(loss), in_dims=(None, 0))(w, x))
    return World(lambda turn: f(data(5, 4, seed=turn)), [w])


@program()
def hessian_inside(compile: Compile) -> World:
    f = compile(lambda x: func.hessian(lambda x: (x.sin() * x.sum()).sum())(x))
    return World(lambda turn: f(data(5, seed=turn)), [])


@program()
def jacobians_inside(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        def g(x: tg.Tensor) -> tg.Tensor:
            return x.exp() * x.sum()

        return func.jacrev(g)(x), func.jacfwd(g)(x), functional.jacobian(g, x)

    return World(lambda turn: f(data(4, seed=turn)), [])


@program()
def functional_hessian_inside(compile: Compile) -> World:
    f = compile(lambda x: functional.hessian(lambda x: (x.sin() * x.sum()).sum(), x))
    return World(lambda turn: f(data(5, seed=turn)), [])


@program()
def forward_mode_inside(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, t: tg.Tensor) -> Any:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, t)
            found = forward_ad.unpack_dual((dual * dual.sin()).sum())
        return found.primal, found.tangent, func.jvp(lambda x: x.tanh(), (x,), (t,))

    return World(lambda turn: f(data(4, seed=turn), data(4, seed=turn + 9)), [])


@program()
def vjp_inside(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, ct: tg.Tensor) -> Any:
        value, pull = func.vjp(lambda x: (x.sin(), x * 2), x)
        return value, pull((ct, ct)), func.linearize(lambda x: x.sin(), x)[1](ct)

    return World(lambda turn: f(data(4, seed=turn), data(4, seed=turn + 9)), [])


@program()
def gradient_through_a_transform(compile: Compile) -> World:
    w = leaf(4, 3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return func.vmap(func.grad(lambda x: (x @ w).tanh().sum()))(x).pow(2).sum()

    def call(turn: int) -> Any:
        x = leaf(5, 4, seed=turn)
        w.grad = None
        loss = f(x)
        loss.backward()
        return loss, x.grad

    return World(call, [w])


@program()
def training_step_with_a_transform(compile: Compile) -> World:
    w = leaf(4, 3)

    @compile
    def step(x: tg.Tensor) -> tg.Tensor:
        w.grad = None
        loss = func.vmap(lambda x: (x @ w).tanh().sum())(x).pow(2).mean()
        loss.backward()
        with tg.no_grad():
            w.sub_(0.1 * w.grad)
        return loss

    return World(lambda turn: step(data(5, 4, seed=turn)), [w])


@program(native=None)
def compiled_inside_transforms(compile: Compile) -> World:
    w = data(4)
    f = compile(lambda x: (x * w).sin().sum() if x.ndim == 1 else x.sum())

    def call(turn: int) -> Any:
        x = data(4, seed=turn)
        stack = data(3, 4, seed=turn)
        return (
            f(x),
            func.grad(f)(x),
            func.vmap(f)(stack),
            func.vmap(func.grad(f))(stack),
            func.jvp(f, (x,), (w,)),
            func.hessian(f)(x),
            functional.jacobian(f, x),
            functional.hessian(f, x),
            tg.autograd.grad(f(x.requires_grad_()), x),
        )

    return World(call, [w])


@program(native=None)
def forward_mode_around(compile: Compile) -> World:
    w = data(4)
    f = compile(lambda x: (x * w).sin())

    def call(turn: int) -> Any:
        x = data(4, seed=turn)
        with forward_ad.dual_level():
            inside = forward_ad.unpack_dual(f(forward_ad.make_dual(x, w)))
            captured = forward_ad.unpack_dual(f(x))
        return f(x), inside.primal, inside.tangent, captured.primal, captured.tangent is None

    return World(call, [w])


@program()
def random_under_vmap(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        same = func.vmap(lambda x: x + tg.rand(3), randomness="same")(x)
        different = func.vmap(lambda x: x + tg.randn(3), randomness="different")(x)
        return same, different

    return World(lambda turn: f(data(2, 3, seed=turn)), [])


@program(native=None)
def errors_inside(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, turn: int) -> Any:
        if turn % 3 == 0:
            return func.grad(lambda x: x)(x)
        if turn % 3 == 1:
            return func.vmap(lambda x: x.sum().item())(x)
        return func.vmap(lambda x: x * 2)(x)

    return World(lambda turn: f(data(2, 3, seed=turn), turn), [])


@program()
def branches_inside_grad(compile: Compile) -> World:
    f = compile(lambda x: func.grad(lambda x: x.sum() if x.sum() > 0 else -x.exp().sum())(x))
    return World(lambda turn: f(data(3, seed=turn)), [])


@program()
def functional_call_inside(compile: Compile) -> World:
    net = tg.nn.Linear(3, 2)
    with tg.no_grad():
        net.weight.copy_(data(2, 3))
        net.bias.copy_(data(2))

    @compile
    def f(weight: tg.Tensor, x: tg.Tensor) -> Any:
        return func.grad(lambda w: func.functional_call(net, {"weight": w}, x).sum())(weight)

    return World(
        lambda turn: f(data(2, 3, seed=turn), data(4, 3, seed=turn)), [net.weight, net.bias]
    )


@program()
def in_place_inside_transforms(compile: Compile) -> World:
    def accumulated(x: tg.Tensor) -> tg.Tensor:
        total = tg.zeros(())
        for v in x:
            total += v * v
        return total

    def g(x: tg.Tensor) -> tg.Tensor:
        y = x.clone()
        y[0] = x[1] * 2
        y[1:].mul_(x[:2])
        return (y * y).sum()

    h = compile(lambda x: (func.grad(g)(x), func.vmap(func.grad(g))(tg.stack([x, x * 2]))))
    k = compile(lambda x: (func.grad(accumulated)(x), func.hessian(accumulated)(x)))

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        return h(x), k(x), func.grad(g)(x)

    return World(call, [])


@program()
def stack_changed_in_place(compile: Compile) -> World:
    f = compile(lambda x: func.vmap(lambda x: x.mul_(2).sum())(x))
    x = data(2, 3)
    return World(lambda turn: f(x), [x])


@program(native=None)
def statistics_from_outside(compile: Compile) -> World:
    mean, variance = data(3), data(3).exp()

    @compile
    def f(x: tg.Tensor) -> Any:
        def g(x: tg.Tensor) -> tg.Tensor:
            return tg.nn.functional.batch_norm(x, mean, variance, training=True).sin().sum()

        return func.grad(g)(x)

    return World(lambda turn: f(data(4, 3, seed=turn)), [mean, variance])
