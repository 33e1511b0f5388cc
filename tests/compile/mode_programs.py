"""Programs in inference mode: around a compiled function, inside of one, and with inference tensors given to one.

See :mod:`programs` for the form.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from compile_programs import TURNS, Compile, World, data, leaf, program

import tracegrad as tg


def kind(x: tg.Tensor) -> Any:
    return x, tg.is_inference(x), None if tg.is_inference(x) else x._version


def inferred(make: Callable[[], Any]) -> Any:
    with tg.inference_mode():
        return make()


@program()
def inference_around(compile: Compile) -> World:
    w = leaf(4, 3)
    f = compile(lambda x: (x @ w).relu().softmax(0))

    def call(turn: int) -> Any:
        x = data(5, 4, seed=turn)
        with tg.inference_mode(turn % 3 != 0):
            y = f(x)
        return kind(y)

    return World(call, [w])


@program()
def inference_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        with tg.inference_mode():
            y = (x * w).exp() + 1
        return y, x * 2

    return World(lambda turn: [kind(y) for y in f(data(3, seed=turn))], [w])


@program()
def inference_decorator(compile: Compile) -> World:
    w = leaf(3)
    f = compile(tg.inference_mode()(lambda x: (x * w).sum()))
    return World(lambda turn: kind(f(data(3, seed=turn))), [w])


@program()
def inference_turned_off_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        with tg.inference_mode(False):
            y = x * w
        return y, y * 2

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        with tg.inference_mode():
            y, z = f(x)
        y.sum().backward()
        return kind(y), kind(z)

    return World(call, [w])


@program(native=None)
def inference_tensors_as_arguments(compile: Compile) -> World:
    """Normal ones first, so that there is code for them."""
    w = leaf(3)
    f = compile(lambda x, y: x * y + w)

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        if turn >= TURNS // 2:
            x = inferred(x.clone)
        y = leaf(3) if turn % 2 else data(3)
        return f(x, y)

    return World(call, [w])


@program(native=None)
def inference_tensors_changed_in_place(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        x.add_(1)
        return x * 2

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        if turn >= TURNS // 2:
            x = inferred(x.clone)
        with tg.inference_mode(turn % 2 == 0):
            try:
                found = kind(f(x))
            except RuntimeError as error:
                found = str(error)
        return kind(x), found

    return World(call, [])


@program(native=None)
def inference_tensor_from_outside(compile: Compile) -> World:
    i, w = inferred(lambda: data(3)), leaf(3)

    @compile
    def f(x: tg.Tensor, product: bool) -> tg.Tensor:
        return w * x * i if product else w * x + i

    def call(turn: int) -> Any:
        y = f(data(3, seed=turn), turn % 3 == 0)
        y.sum().backward()
        return y

    return World(call, [w])


@program(native=None)
def inference_view_of_an_argument(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        with tg.inference_mode():
            view = x[1:]
            view.mul_(2)
            other = view * 3
            other += 1
        return view, other

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        view, other = f(x)
        return kind(x), kind(view), view._is_view(), kind(other)

    return World(call, [])


@program(native=None)
def asks_for_the_mode(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        modes = tg.is_inference_mode_enabled(), tg.is_grad_enabled()
        return x * 2 if modes[0] else x * 3, modes, x.is_inference()

    def call(turn: int) -> Any:
        enabled = tg.enable_grad() if turn % 3 == 0 else contextlib.nullcontext()
        with tg.inference_mode(turn % 2 == 0), enabled:
            return f(data(3, seed=turn))

    return World(call, [])


@program()
def depends_on_the_mode(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        if tg.is_inference_mode_enabled():
            return x * 2
        return x * 3 if tg.is_grad_enabled() else x * 5

    def call(turn: int) -> Any:
        with tg.inference_mode(turn % 2 == 0):
            return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def inference_gradient(compile: Compile) -> World:
    """A training step in inference mode has nothing to differentiate."""
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        loss = (w * x).sum()
        loss.backward()
        return loss

    def call(turn: int) -> Any:
        with tg.inference_mode(turn % 2 == 0):
            return f(data(3, seed=turn))

    return World(call, [w])
