"""Programs with custom Functions, checkpoints and `exact_where`, inside of a compiled function and around one.

See :mod:`programs` for the form.
"""

from __future__ import annotations

from typing import Any

from compile_programs import Compile, World, data, leaf, program

import tracegrad as tg
from tracegrad import func
from tracegrad.autograd import exact_where
from tracegrad.utils.checkpoint import checkpoint


class Cube(tg.autograd.Function):
    """A derivative that is not the true one: so we see which of them is used."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: tg.Tensor) -> tg.Tensor:
        return x * x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: tg.Tensor) -> tg.Tensor:
        x, y = ctx.saved_tensors
        return g * (x * 7 + y)

    @staticmethod
    def jvp(ctx: Any, t: tg.Tensor) -> tg.Tensor:
        return t * ctx.saved_tensors[0] * 7


class Polar(tg.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r: tg.Tensor, a: tg.Tensor, scale: float) -> Any:
        ctx.save_for_backward(r, a)
        ctx.scale = scale
        return r * a.cos() * scale, r * a.sin() * scale

    @staticmethod
    def backward(ctx: Any, gx: tg.Tensor, gy: tg.Tensor) -> Any:
        r, a = ctx.saved_tensors
        towards = (gx * a.cos() + gy * a.sin()) * ctx.scale
        return towards, (gy * a.cos() - gx * a.sin()) * r * ctx.scale, None


@program()
def differentiated_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        w.grad = None
        y = Cube.apply(w * x)
        y.sum().backward()
        return y.detach()

    return World(lambda turn: f(data(3, seed=turn)), [w])


@program(native=None)
def differentiated_outside(compile: Compile) -> World:
    w = leaf(3)
    f = compile(lambda x: Cube.apply(w * x).sin())

    def call(turn: int) -> Any:
        w.grad = None
        y = f(data(3, seed=turn))
        y.sum().backward()
        return y.detach(), y.requires_grad

    return World(call, [w])


@program(native=None)
def several_outputs(compile: Compile) -> World:
    r, a = leaf(3), leaf(3, seed=7)

    @compile
    def f(x: tg.Tensor, scale: float) -> Any:
        u, v = Polar.apply(r * x, a, scale)
        first = tg.autograd.grad((u * v).sum(), (r, a), create_graph=True)
        return u, v, first, tg.autograd.grad(first[0].sum(), (r, a))

    def call(turn: int) -> Any:
        u, v, first, second = f(data(3, seed=turn), 1.0 + turn)
        (u.sum() + v.sum()).backward()
        return u.detach(), first[0].detach(), first[1].detach(), second

    return World(call, [r, a])


@program()
def within_transforms(compile: Compile) -> World:
    def loss(x: tg.Tensor) -> tg.Tensor:
        return Cube.apply(x).sum()

    @compile
    def f(x: tg.Tensor) -> Any:
        return (
            func.vmap(func.grad(loss))(x),
            func.grad(lambda x: func.vmap(loss)(x).sum())(x),
            func.jvp(loss, (x,), (x,)),
            func.hessian(loss)(x[0]),
        )

    return World(lambda turn: f(data(4, 3, seed=turn)), [])


@program(native=None)
def compiled_within_a_transform(compile: Compile) -> World:
    f = compile(lambda x: Cube.apply(x) * x)

    def call(turn: int) -> Any:
        x = data(4, 3, seed=turn)
        return func.vmap(func.grad(lambda x: f(x).sum()))(x), func.jvp(f, (x,), (x,))

    return World(call, [])


@program(native=None)
def changed_in_place(compile: Compile) -> World:
    class Double(tg.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor) -> tg.Tensor:
            ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx: Any, g: tg.Tensor) -> tg.Tensor:
            return g * 5

    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = w * x
        z = Double.apply(y)
        part = w * x
        Double.apply(part[:2])
        (z * y + part).sum().backward()
        return y.detach(), z.detach(), part.detach(), z is y

    return World(lambda turn: f(data(3, seed=turn)), [w])


@program(native=None)
def backward_is_missing(compile: Compile) -> World:
    class OneWay(tg.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor) -> tg.Tensor:
            return x * 2

    w = leaf(3)
    f = compile(lambda x: OneWay.apply(w * x).sum())

    def call(turn: int) -> Any:
        f(data(3, seed=turn)).backward()

    return World(call, [w])


@program()
def checkpointed_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        w.grad = None
        y = checkpoint(lambda x: (x * w).sin() * tg.rand(3), x * 2, use_reentrant=False)
        y.sum().backward()
        return y.detach()

    return World(lambda turn: f(data(3, seed=turn)), [w])


@program()
def checkpointed_and_differentiated_outside(compile: Compile) -> World:
    w = leaf(3)
    f = compile(lambda x: checkpoint(lambda x: (x * w).sin(), x, use_reentrant=False))

    def call(turn: int) -> Any:
        y = f(data(3, seed=turn) * w)
        y.sum().backward()
        return y.detach()

    return World(call, [w])


@program(native=None)
def checkpoint_of_a_compiled_function(compile: Compile) -> World:
    w = leaf(3)
    f = compile(lambda x: (x * w).sin() * w)

    def call(turn: int) -> Any:
        x = data(3, seed=turn) * w
        y = checkpoint(f, x, use_reentrant=False) + checkpoint(f, x, use_reentrant=True)
        y.sum().backward()
        return y.detach()

    return World(call, [w])


@program(native=None)
def checkpoint_that_draws_anew(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        w.grad = None
        y = checkpoint(
            lambda x: x * tg.rand(3) * w, x, use_reentrant=False, preserve_rng_state=False
        )
        y.sum().backward()
        return y.detach()

    return World(lambda turn: f(data(3, seed=turn)), [w])


@program(native=None)
def exact_zeros(compile: Compile) -> World:
    w = leaf(3)

    def safe(x: tg.Tensor) -> tg.Tensor:
        return tg.where(x > 0, x.sqrt() / x, 0.0).sum()

    @compile
    def f(x: tg.Tensor) -> Any:
        with exact_where():
            inside = func.grad(safe)(x)
        return inside, func.grad(safe)(x), safe(x * w)

    def call(turn: int) -> Any:
        x = tg.relu(data(3, seed=turn))
        with exact_where(turn % 2 == 0):
            inside, plain, loss = f(x)
        with exact_where(turn % 3 == 0):
            loss.backward()
        return inside, plain

    return World(call, [w])
