"""Programs that do everything to tensors that we could think of: aliasing, effects, flags, results kept alive.

See :mod:`programs` for the form.
"""

from __future__ import annotations

import copy
import gc
import threading
import warnings
import weakref
from typing import Any

import numpy as np
from compile_programs import Compile, World, data, leaf, program

import tracegrad as tg

# What is returned, and what it shares memory with.


@program(native=None)
def returns_detached_capture(compile: Compile) -> World:
    w = data(3)
    f = compile(lambda: w.detach())

    def call(turn: int) -> Any:
        y = f()
        y.add_(1)
        return y

    return World(call, [w])


@program(native=None)
def returns_data_of_an_argument(compile: Compile) -> World:
    f = compile(lambda x: x.data)

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        f(x).mul_(2)
        return x

    return World(call, [])


@program(native=None)
def returns_view_of_a_new_grad(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        w.grad = None
        (w * x).sum().backward()
        return w.grad[1:]

    def call(turn: int) -> Any:
        part = f(data(3, seed=turn))
        part.mul_(5)
        return part, w.grad

    return World(call, [w])


@program(native=None)
def grad_is_a_result(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = x * 2
        w.grad = y
        return y

    def call(turn: int) -> Any:
        y = f(data(3, seed=turn))
        y.add_(1)
        return y is w.grad, w.grad

    return World(call, [w])


@program(native=None)
def two_leaves_share_a_grad(compile: Compile) -> World:
    w, v = leaf(3), leaf(3, seed=1)

    @compile
    def f(x: tg.Tensor) -> Any:
        w.grad = v.grad = x * 2

    def call(turn: int) -> Any:
        f(data(3, seed=turn))
        w.grad.add_(1)
        return w.grad is v.grad

    return World(call, [w, v])


@program(native=None)
def grad_shares_memory_with_a_result(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = x * 2
        w.grad = y.detach()
        return y

    def call(turn: int) -> Any:
        f(data(3, seed=turn)).add_(1)

    return World(call, [w])


@program(native=None)
def same_result_twice(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        y = x * 2
        return y, [y, y.detach()], {"v": y.view(3, 1)}

    def call(turn: int) -> Any:
        a, (b, c), d = f(data(3, seed=turn))
        a.add_(1)
        return a is b, a, b, c, d

    return World(call, [])


@program()
def same_result_twice_in_a_tuple(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        y = x * 2
        return y, y

    def call(turn: int) -> Any:
        a, b = f(data(3, seed=turn))
        a.add_(1)
        return a is b, b

    return World(call, [])


@program(native=None)
def returns_the_argument_container(compile: Compile) -> World:
    @compile
    def f(xs: list[tg.Tensor]) -> Any:
        return xs

    def call(turn: int) -> Any:
        xs = [data(3, seed=turn)]
        return f(xs) is xs

    return World(call, [])


@program(native=None)
def returns_a_captured_container(compile: Compile) -> World:
    kept = {"w": data(3), "parts": [1, 2]}
    f = compile(lambda x: (x * 2, kept, kept["parts"]))

    def call(turn: int) -> Any:
        _, same, parts = f(data(3, seed=turn))
        return same is kept, parts is kept["parts"]

    return World(call, [])


@program(native=None)
def returns_one_new_list_twice(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        parts = [x * 2]
        return parts, parts

    def call(turn: int) -> Any:
        a, b = f(data(3, seed=turn))
        return a is b

    return World(call, [])


@program()
def returns_arguments_and_parameters(compile: Compile) -> World:
    w = tg.nn.Parameter(data(3))
    f = compile(lambda x, y: {"x": x, "w": w, "y": [y], "sum": x + w})

    def call(turn: int) -> Any:
        x, y = data(3, seed=turn), leaf(2)
        out = f(x, y)
        return out["x"] is x, out["w"] is w, out["y"][0] is y, out["sum"]

    return World(call, [w])


@program()
def returns_python_values(compile: Compile) -> World:
    f = compile(
        lambda x: (x * 2, "text", 1.5, True, None, x.shape, x.dtype, 2 + 3j, b"raw", range(3), ...)
    )
    return World(lambda turn: f(data(3, seed=turn)), [])


@program(native=None)
def returns_item(compile: Compile) -> World:
    f = compile(lambda x: (x.sum().item(), int(x[0]), bool(x[1] > 0), x.tolist()))
    return World(lambda turn: f(data(3, seed=turn % 3)), [])


@program(native=None)
def returns_a_numpy_array(compile: Compile) -> World:
    f = compile(lambda x: (x * 2).numpy())
    return World(lambda turn: tg.tensor(f(data(3, seed=turn))), [])


@program(native=None)
def returns_a_grad_from_outside(compile: Compile) -> World:
    w = leaf(3)
    w.grad = data(3, seed=3)

    @compile
    def f(x: tg.Tensor) -> Any:
        return w.grad, w.grad.detach(), w.grad * x

    def call(turn: int) -> Any:
        a, b, c = f(data(3, seed=turn))
        b.add_(1)
        return a is w.grad, a, c

    return World(call, [w])


@program(native=None)
def returns_a_new_leaf(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        y = (x * 2).detach().requires_grad_()
        z = (y * y).sum()
        return y, z

    def call(turn: int) -> Any:
        y, z = f(data(3, seed=turn))
        z.backward()
        return y.is_leaf, y.grad

    return World(call, [])


@program(native=None)
def hidden_leaf_inside(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        y = tg.ones(3, requires_grad=True)
        z = (y * y * x).sum()
        z.backward()
        return z, y.grad * 2, (y * x).sum()

    def call(turn: int) -> Any:
        z, g, t = f(data(3, seed=turn))
        return z.requires_grad, g, t.requires_grad

    return World(call, [])


@program(native=None)
def returns_results_with_versions(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = x * 2
        y.add_(1).mul_(2)
        z = w * x
        z.add_(1)
        w.grad = (x * 3).add_(1)
        return y, z

    def call(turn: int) -> Any:
        y, z = f(data(3, seed=turn))
        return y._version, z._version, w.grad._version, y, z

    return World(call, [w])


# In-place effects.


@program()
def captured_tensor_is_changed_outside(compile: Compile) -> World:
    w, buffer = leaf(3), data(3, seed=1)
    f = compile(lambda x: (w * x + buffer).sum())

    def call(turn: int) -> Any:
        with tg.no_grad():
            w.mul_(1.5)
        buffer.add_(1)
        buffer[0] = turn
        if turn == 4:
            w.data = data(3, seed=9)
        if turn == 5:
            w.data[1] = 3.0
        if turn == 6:
            buffer.numpy()[2] = 4.0
        w.grad = None
        y = f(data(3, seed=turn))
        y.backward()
        return y

    return World(call, [w, buffer])


@program(native=None)
def captured_data_changes_shape_and_dtype(compile: Compile) -> World:
    w = data(3)
    f = compile(lambda x: w * x.sum())

    def call(turn: int) -> Any:
        if turn == 3:
            w.data = data(5)
        if turn == 5:
            w.data = data(5).double()
        if turn == 7:
            w.data = data(2, 3)
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def updated_parameter_differentiated_outside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        with tg.no_grad():
            w.mul_(0.9)
        return (w * w * x).sum()

    def call(turn: int) -> Any:
        w.grad = None
        y = f(data(3, seed=turn))
        y.backward()
        return y

    return World(call, [w])


@program(native=None)
def update_after_use_differentiated_outside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = (w * w * x).sum()
        with tg.no_grad():
            w.mul_(0.9)
        return y

    def call(turn: int) -> Any:
        w.grad = None
        y = f(data(3, seed=turn))
        y.backward()
        return y

    return World(call, [w])


@program(native=None)
def update_after_linear_use(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = (w * x).sum()
        with tg.no_grad():
            w.mul_(0.9)
        return y

    def call(turn: int) -> Any:
        w.grad = None
        y = f(data(3, seed=turn))
        y.backward()
        return y

    return World(call, [w])


@program(native=None)
def second_derivative_after_update(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        with tg.no_grad():
            w.mul_(0.9)
        return (w**3 * x).sum()

    def call(turn: int) -> Any:
        y = f(data(3, seed=turn))
        (g,) = tg.autograd.grad(y, w, create_graph=True)
        (h,) = tg.autograd.grad(g.sum(), w)
        return g, h

    return World(call, [w])


@program(native=None)
def saved_input_changed_before_backward(compile: Compile) -> World:
    w = leaf(3)
    f = compile(lambda x, y: (w * x + y * 2).exp().sum())

    def call(turn: int) -> Any:
        x, y = data(3, seed=turn), data(3, seed=turn + 1)
        loss = f(x, y)
        if turn % 3 == 1:
            x.add_(1)
        if turn % 3 == 2:
            y.add_(1)
        loss.backward()
        return loss

    return World(call, [w])


@program(native=None)
def unsaved_input_changed_before_backward(compile: Compile) -> World:
    w = leaf(3)
    f = compile(lambda x: (w * (x * 2).sin()).sum())

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        loss = f(x)
        x.add_(1)
        loss.backward()
        return loss

    return World(call, [w])


@program(native=None)
def unsaved_leaf_changed_before_backward(compile: Compile) -> World:
    w, v = leaf(3), leaf(3, seed=1)
    f = compile(lambda x: ((w + v).exp() * x).sum())

    def call(turn: int) -> Any:
        loss = f(data(3, seed=turn))
        with tg.no_grad():
            w.mul_(0.5)
            v.mul_(0.5)
        loss.backward()
        return loss

    return World(call, [w, v])


@program(native=None)
def changed_input_matters_for_one_result_only(compile: Compile) -> World:
    w, v = leaf(3), leaf(3, seed=1)
    f = compile(lambda x, y: ((w * x).sum(), (v * y).sum()))

    def call(turn: int) -> Any:
        x, y = data(3, seed=turn), data(3, seed=turn + 1)
        a, b = f(x, y)
        (x if turn % 2 else y).add_(1)
        (b if turn % 2 else a).backward()
        if turn % 3 == 2:
            a.backward()

    return World(call, [w, v])


@program(native=None)
def backward_of_results_one_by_one(compile: Compile) -> World:
    w, v = leaf(3), leaf(3, seed=1)

    @compile
    def f(x: tg.Tensor) -> Any:
        return (w * x).sum(), (v * x).sum(), (w + x).sum(), (w.exp() * v).sum()

    def call(turn: int) -> Any:
        a, b, c, d = f(data(3, seed=turn))
        a.backward()
        b.backward()
        c.backward()
        c.backward()
        d.backward()
        if turn % 2:
            d.backward()

    return World(call, [w, v])


@program()
def zero_cotangent_is_no_cotangent(compile: Compile) -> World:
    f = compile(lambda x: (x * 2, x.log(), x.sqrt()))

    def call(turn: int) -> Any:
        x = tg.zeros(3, requires_grad=True)
        a, b, c = f(x)
        [a, b, c][turn % 3].sum().backward()
        return x.grad

    return World(call, [])


@program(native=None)
def zero_cotangent_in_a_second_derivative(compile: Compile) -> World:
    f = compile(lambda x: (x**3, x.log()))

    def call(turn: int) -> Any:
        x = tg.zeros(3, requires_grad=True)
        a, _ = f(x)
        (g,) = tg.autograd.grad(a.sum(), x, create_graph=True)
        g.sum().backward()
        return g, x.grad

    return World(call, [])


@program(native=None)
def only_one_gradient_is_asked_for(compile: Compile) -> World:
    w, v = leaf(3), leaf(3, seed=1)
    f = compile(lambda x: (w * x * v).exp().sum())

    def call(turn: int) -> Any:
        y = f(data(3, seed=turn))
        (g,) = tg.autograd.grad(y, w, retain_graph=True)
        (h,) = tg.autograd.grad(y, v)
        try:
            tg.autograd.grad(y, v)
        except RuntimeError as error:
            return g, h, str(error)[:40]
        return g, h

    return World(call, [w, v])


@program(native=None)
def gradient_argument_of_backward(compile: Compile) -> World:
    w = leaf(3)
    f = compile(lambda x: w * x)

    def call(turn: int) -> Any:
        y = f(data(3, seed=turn))
        y.backward(data(3, seed=turn + 1), retain_graph=True)
        y.backward(data(3, seed=turn + 2))
        y.backward(data(3, seed=turn + 2))

    return World(call, [w])


@program(native=None)
def unused_input(compile: Compile) -> World:
    w, v = leaf(3), leaf(3, seed=1)
    f = compile(lambda x: (w * x).sum() if x.shape[0] == 3 else (v * 2).sum())

    def call(turn: int) -> Any:
        y = f(data(3, seed=turn))
        return tg.autograd.grad(y, (w, v), allow_unused=turn % 3 != 2)

    return World(call, [w, v])


@program(native=None)
def argument_is_a_non_leaf(compile: Compile) -> World:
    w = leaf(3)
    f = compile(lambda x: (x * w).sum())

    def call(turn: int) -> Any:
        a = leaf(3, seed=turn)
        x = a.exp()
        if turn % 2:
            x.retain_grad()
        y = f(x)
        y.backward()
        return a.grad, x.grad if turn % 2 else None

    return World(call, [w])


@program(native=None)
def argument_has_several_results(compile: Compile) -> World:
    f = compile(lambda x, y: (x * y, x + y))

    def call(turn: int) -> Any:
        a = leaf(3, seed=turn)
        p, q = f(a, data(3))
        r, s = f(p, q)
        (r * 2 + s).sum().backward()
        return a.grad

    return World(call, [])


# Views.


@program(native=None)
def view_whose_base_got_a_history(compile: Compile) -> World:
    w = leaf(4)
    f = compile(lambda v: v * 3)

    def call(turn: int) -> Any:
        w.grad = None
        base = tg.zeros(4)
        view = base[1:3]
        if turn % 3:
            base.add_(w)
        y = f(view)
        if y.requires_grad:
            y.sum().backward()
        return y

    return World(call, [w])


@program(native=None)
def view_arguments_of_one_base(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, y: tg.Tensor) -> Any:
        z = y * 2
        x.add_(z)
        return z + y

    def call(turn: int) -> Any:
        base = data(6, seed=turn)
        if turn % 2:
            return f(base[:3], base[3:]), base, base._version
        return f(data(3), data(3, seed=1)), base

    return World(call, [])


@program(native=None)
def version_shared_by_views(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor, y: tg.Tensor) -> Any:
        w.grad = None
        loss = (y * w).sum()
        x.add_(1)
        loss.backward()
        return loss

    def call(turn: int) -> Any:
        base = data(6, seed=turn)
        if turn % 4 == 3:
            return f(base[:3], base[3:])
        return f(data(3), data(3, seed=1))

    return World(call, [w])


@program(native=None)
def argument_is_a_view_of_a_capture(compile: Compile) -> World:
    w = data(6)

    @compile
    def f(x: tg.Tensor) -> Any:
        w.mul_(2)
        return x + w.sum()

    return World(lambda turn: f(w[:3] if turn % 3 == 2 else data(3, seed=turn)), [w])


@program(native=None)
def view_and_base_captured(compile: Compile) -> World:
    base = data(6)
    view, other = base[:3], base.view(2, 3)

    @compile
    def f(x: tg.Tensor) -> Any:
        base.add_(x)
        view.mul_(2)
        return view + other.sum()

    return World(lambda turn: f(data(6, seed=turn)), [base])


@program(native=None)
def detach_shares_but_stops(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = w * x
        d = y.detach()
        y.mul_(w)
        return (d * w).sum() + (y * x).sum()

    def call(turn: int) -> Any:
        w.grad = None
        y = f(data(3, seed=turn))
        y.backward()
        return y

    return World(call, [w])


@program(native=None)
def detach_in_place(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = w * x
        y.detach_()
        return (y * w).sum(), y

    def call(turn: int) -> Any:
        w.grad = None
        loss, y = f(data(3, seed=turn))
        loss.backward()
        return loss, y.requires_grad

    return World(call, [w])


@program(native=None)
def data_attribute_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = w * x
        y.data.add_(1)
        loss = (y * y).sum()
        w.data.mul_(0.9)
        return loss

    def call(turn: int) -> Any:
        w.grad = None
        loss = f(data(3, seed=turn))
        loss.backward()
        return loss, w._version

    return World(call, [w])


@program(native=None)
def data_assigned_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        w.data = w.data + x
        return (w * x).sum()

    return World(lambda turn: f(data(3, seed=turn)), [w])


@program(native=None)
def write_through_views_of_intermediates(compile: Compile) -> World:
    w = leaf(2, 3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = w * x
        y[0].mul_(2)
        y.t()[1] = 5.0
        y.view(-1)[2:4].add_(w.sum())
        z = y[:, 1]
        y.mul_(3)
        return y.sum(), z

    def call(turn: int) -> Any:
        w.grad = None
        loss, z = f(data(2, 3, seed=turn))
        (loss + z.sum()).backward()
        return loss, z

    return World(call, [w])


@program(native=None)
def leaf_in_place_error(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        x.add_(1)
        w.add_(x)

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        try:
            f(x)
        except RuntimeError as error:
            return str(error), x

    return World(call, [w])


@program(native=None)
def version_error_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = (w * x).exp()
        loss = y.sum()
        y.add_(1)
        loss.backward()

    return World(lambda turn: f(data(3, seed=turn)), [w])


# Exceptions.


@program(native=None)
def exception_after_effects(compile: Compile) -> World:
    total = tg.zeros(3)

    @compile
    def f(x: tg.Tensor, i: tg.Tensor) -> Any:
        total.add_(x)
        return x[i]

    return World(lambda turn: f(data(3, seed=turn), tg.tensor([turn % 5])), [total])


@program(native=None)
def exception_is_caught_inside(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, i: tg.Tensor) -> Any:
        try:
            return x.gather(0, i)
        except (IndexError, RuntimeError):
            return x * 0

    return World(lambda turn: f(data(3, seed=turn), tg.tensor([turn % 5])), [])


@program(native=None)
def first_call_raises_inside(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, i: tg.Tensor) -> Any:
        try:
            return x[i]
        except IndexError:
            return x * 0

    return World(lambda turn: f(data(3, seed=turn), tg.tensor([4 - turn % 5])), [])


@program(native=None)
def data_dependent_exception(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        w.grad = None
        (w * x).sum().backward()
        if x.sum() > 0:
            raise ValueError(f"sum is positive: {w.grad.shape}")
        return x * 2

    return World(lambda turn: f(data(3, seed=turn)), [w])


@program(native=None)
def shape_errors(compile: Compile) -> World:
    f = compile(lambda x, y: (x @ y) + y.view(3, -1)[4])
    return World(lambda turn: f(data(2, 3), data(3 + turn % 2, 2)), [])


@program(native=None)
def integer_arithmetic(compile: Compile) -> World:
    @compile
    def f(a: tg.Tensor, b: tg.Tensor) -> Any:
        return a + b, a * b * b, a - 2**31, -a, a.abs(), a.sum(), a.clamp(-5, 5), (a > b).sum()

    big = 2**63 - 1
    rows = [[1, 2, 3], [big, -big, 5], [-big - 1, 0, 1]]

    def call(turn: int) -> Any:
        a, b = tg.tensor(rows[turn % 3]), tg.tensor(rows[(turn + 1) % 3])
        if turn > 5:
            a, b = a.to(tg.int32), b.to(tg.int32)
        return f(a, b)

    return World(call, [])


@program(native=None)
def integer_division(compile: Compile) -> World:
    f = compile(lambda a, b: (a // b, a % b, tg.fmod(a, b)))
    rows = [[7, -7, 5], [2, 3, -3], [0, 1, 2], [-(2**63), 5, -1]]

    def call(turn: int) -> Any:
        return f(tg.tensor(rows[turn % 4]), tg.tensor(rows[(turn + 1) % 4]))

    return World(call, [])


@program(native=None)
def conversions_of_odd_numbers(compile: Compile) -> World:
    f = compile(
        lambda x: (x.to(tg.int64), x.to(tg.int32), x.to(tg.bool), x.to(tg.int8), x.to(tg.uint8))
    )
    inf = float("inf")
    rows = [[1.5, -1.5, 0.0], [inf, -inf, float("nan")], [3e9, -3e9, 300.0], [1e20, -1e20, -0.0]]
    return World(lambda turn: f(tg.tensor(rows[turn % 4])), [])


@program(native=None)
def guards_on_odd_numbers(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        k = x.item()
        return tg.ones(2) * k, repr(k), x > 0 if x else x - 1

    numbers = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45, 0.0, float("nan"), 1.0]
    return World(lambda turn: f(tg.tensor(numbers[turn])), [])


@program()
def guards_on_other_dtypes(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        return (x * 2, 1) if x.sum() > 2 else (x - 1, 2)

    def call(turn: int) -> Any:
        dtype = [tg.int64, tg.bool, tg.float64][turn % 3]
        return f(
            tg.tensor([1, 0, 1 + turn // 6]).to(dtype).to(tg.int64 if turn % 3 == 1 else dtype)
        )

    return World(call, [])


@program(native=None)
def item_of_other_dtypes(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        k = x.item()
        return tg.ones(2) * k, type(k).__name__

    values = [
        tg.tensor(True), tg.tensor(2**62 + 1), tg.tensor(0.1), tg.tensor(0.1, dtype=tg.float64),
        tg.tensor(3, dtype=tg.int8), tg.tensor(False), tg.tensor(2**62), tg.tensor(200, dtype=tg.uint8),
    ]  # fmt: skip
    return World(lambda turn: f(values[turn % 8]), [])


# Sizes and layouts.


@program(native=None)
def zero_size_and_scalars(compile: Compile) -> World:
    f = compile(
        lambda x: (
            x * 2,
            x.sum(),
            x.exp().mean() if x.numel() else x.clone(),
            x.t() if x.ndim < 3 else x,
        )
    )
    shapes = [(), (0,), (0, 3), (1,), (1, 1), (3, 0), (2, 3)]
    return World(lambda turn: f(data(*shapes[turn % 3], seed=turn)), [])


@program(native=None)
def layouts(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        x.mul_(2)
        return x + 1, x.contiguous(), x.is_contiguous(), x.stride()

    def call(turn: int) -> Any:
        base = data(4, 6, seed=turn)
        x = [base, base.t(), base[:, ::2], base[1:3], base[::-1] if turn < 0 else base[2]][turn % 5]
        return f(x), base

    return World(call, [])


@program(native=None)
def expanded_argument(compile: Compile) -> World:
    f = compile(lambda x: x.add_(1) if x.stride()[0] else x + 1)
    return World(lambda turn: f(data(1, 3).expand(4, 3) if turn % 2 else data(4, 3)), [])


@program(native=None)
def read_only_memory(compile: Compile) -> World:
    f = compile(lambda x: x.add_(1))

    def call(turn: int) -> Any:
        array = np.ones(3, np.float32)
        array.flags.writeable = turn % 3 != 2
        return f(tg.from_numpy(array))

    return World(call, [])


@program(native=None)
def unaligned_memory(compile: Compile) -> World:
    f = compile(lambda x: (x * 2).sum())

    def call(turn: int) -> Any:
        raw = np.zeros(4 * 5 + 1, np.uint8)
        array = raw[turn % 2 :][: 4 * 5].view(np.float32)
        array[:] = turn
        return f(tg.from_numpy(array))

    return World(call, [])


@program(native=None)
def many_shapes(compile: Compile) -> World:
    f = compile(lambda x: (x * 2).sum() + x.shape[0])

    def call(turn: int) -> Any:
        return [f(data(n)) for n in range(turn, turn + 3)]

    return World(call, [])


# Results and grads that outlive the call.


@program()
def results_are_kept(compile: Compile) -> World:
    kept: list[Any] = []
    f = compile(lambda x: (x * 2, (x.exp() @ x).sum()))

    def call(turn: int) -> Any:
        kept.append(f(data(300, 1, seed=turn).t() if turn < 0 else data(20, 20, seed=turn)))
        return list(kept)

    return World(call, [])


@program()
def grads_are_kept_in_all_ways(compile: Compile) -> World:
    w = leaf(300)
    kept: list[Any] = []

    @compile
    def step(x: tg.Tensor) -> None:
        w.grad = None
        (w * x).sum().backward()

    def call(turn: int) -> Any:
        step(data(300, seed=turn))
        match turn % 6:
            case 0:
                kept.append(w.grad.numpy())
            case 1:
                kept.append(w.grad[3:5])
            case 2:
                kept.append(w.grad.detach())
            case 3:
                kept.append(memoryview(w.grad.numpy()))
            case 4:
                kept.append(np.from_dlpack(w.grad))
            case 5:
                kept.append(w.grad.data)
        return [
            tg.tensor(np.asarray(k if not isinstance(k, tg.Tensor) else k.numpy())) for k in kept
        ]

    return World(call, [w])


@program()
def weak_reference_to_a_grad(compile: Compile) -> World:
    w = leaf(300)

    @compile
    def step(x: tg.Tensor) -> None:
        w.grad = None
        (w * x).sum().backward()

    references: list[Any] = []

    def call(turn: int) -> Any:
        step(data(300, seed=turn))
        alive = [r() is not None for r in references]
        references[:] = [weakref.ref(w.grad)]
        w.grad.note = turn
        return alive, sorted(w.grad.__dict__)

    return World(call, [w])


@program()
def grad_with_attributes(compile: Compile) -> World:
    w = leaf(300)

    @compile
    def step(x: tg.Tensor) -> None:
        w.grad = None
        (w * x).sum().backward()

    def call(turn: int) -> Any:
        step(data(300, seed=turn))
        had = hasattr(w.grad, "note")
        w.grad.note = turn
        return had

    return World(call, [w])


@program(native=None)
def graph_outlives_the_next_call(compile: Compile) -> World:
    w = leaf(30)
    f = compile(lambda x: (w * x).exp().sum())
    kept: list[Any] = []

    def call(turn: int) -> Any:
        kept.append(f(data(30, seed=turn)))
        if turn % 3 == 2:
            for y in kept:
                y.backward()
            kept.clear()

    return World(call, [w])


@program()
def grad_of_the_argument(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        (x * x).sum().backward()
        return x.grad * 1

    def call(turn: int) -> Any:
        x = leaf(3, seed=turn)
        if turn % 3 == 2:
            x.grad = tg.ones(3)
        g = f(x)
        return g, x.grad

    return World(call, [])


@program(native=None)
def grad_already_there_shares_memory(compile: Compile) -> World:
    w, v = leaf(3), leaf(3, seed=1)

    @compile
    def f(x: tg.Tensor) -> Any:
        ((w + 2 * v) * x).sum().backward()

    def call(turn: int) -> Any:
        if turn == 4:
            w.grad = v.grad = tg.zeros(3)
        if turn == 6:
            both = tg.zeros(6)
            w.grad, v.grad = both[:3], both[2:5]
        if turn == 8:
            w.grad = v.grad = None
        f(data(3, seed=turn))

    return World(call, [w, v])


@program(native=None)
def grad_is_the_captured_tensor(compile: Compile) -> World:
    w, total = leaf(3), tg.zeros(3)
    w.grad = total

    @compile
    def f(x: tg.Tensor) -> Any:
        (w * x).sum().backward()
        return total * 2

    return World(lambda turn: f(data(3, seed=turn)), [w, total])


@program(native=None)
def grad_that_requires_grad(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        w.grad = None
        (w**3 * x).sum().backward(create_graph=True)
        return (w.grad * w.grad).sum()

    def call(turn: int) -> Any:
        y = f(data(3, seed=turn))
        (h,) = tg.autograd.grad(y, w)
        return h, w.grad.requires_grad

    return World(call, [w])


@program()
def create_graph_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = (w**3 * x).sum()
        (g,) = tg.autograd.grad(y, w, create_graph=True)
        penalty = (g * g).sum()
        penalty.backward()
        return penalty

    def call(turn: int) -> Any:
        w.grad = None
        return f(data(3, seed=turn))

    return World(call, [w])


@program()
def create_graph_inside_differentiated_outside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        (g,) = tg.autograd.grad((w**3 * x).sum(), w, create_graph=True)
        return (g * g).sum()

    def call(turn: int) -> Any:
        w.grad = None
        f(data(3, seed=turn)).backward()

    return World(call, [w])


@program(native=None)
def retained_graph_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = (w**2 * x).sum()
        y.backward(retain_graph=True)
        y.backward(retain_graph=True)
        return y

    def call(turn: int) -> Any:
        w.grad = None
        y = f(data(3, seed=turn))
        y.backward()
        return y

    return World(call, [w])


@program(native=None)
def backward_inside_of_an_outer_graph(compile: Compile) -> World:
    w = leaf(3)
    f = compile(lambda loss: loss.backward())

    def call(turn: int) -> Any:
        f((w * data(3, seed=turn)).sum())

    return World(call, [w])


@program(native=None)
def partly_freed_result(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = w * x
        z = y.exp()
        z.sum().backward()
        return y, z, y + 1

    def call(turn: int) -> Any:
        w.grad = None
        y, z, u = f(data(3, seed=turn))
        (y, z, u)[turn % 3].sum().backward()

    return World(call, [w])


# Flags and hooks.


@program(native=None)
def requires_grad_flips(compile: Compile) -> World:
    w = leaf(3)
    f = compile(lambda x: (w * x).sum())

    def call(turn: int) -> Any:
        w.requires_grad_(turn % 4 < 2)
        y = f(data(3, seed=turn))
        return y, y.requires_grad, y.is_leaf

    return World(call, [w])


@program(native=None)
def requires_grad_is_changed_inside(compile: Compile) -> World:
    w = data(3)

    @compile
    def f(x: tg.Tensor, on: bool) -> Any:
        w.requires_grad_(on)
        return w * x

    return World(lambda turn: (f(data(3, seed=turn), turn % 2 == 0), w.requires_grad), [w])


@program(native=None)
def hook_on_an_intermediate(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = w * x
        y.register_hook(lambda g: g * 2)
        return y.exp().sum()

    def call(turn: int) -> Any:
        w.grad = None
        f(data(3, seed=turn)).backward()

    return World(call, [w])


@program()
def layout_of_an_argument(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        return x * (2 if x.is_contiguous() else 3) + x.stride(0)

    @compile
    def g(x: tg.Tensor) -> Any:
        return x.view(-1) * 1

    def call(turn: int) -> Any:
        x = data(3, 4, seed=turn)
        given = x.t() if turn % 3 == 2 else x
        try:
            return f(given), g(given)
        except RuntimeError as error:
            return f(given), str(error)

    return World(call, [])


@program(native=None)
def hook_on_an_argument(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        x.register_hook(lambda g: g * 2)
        return (x * x).sum()

    def call(turn: int) -> Any:
        x = leaf(3, seed=turn)
        f(x).backward()
        return x.grad

    return World(call, [])


@program(native=None)
def hooks_come_and_go(compile: Compile) -> World:
    w = leaf(3)
    f = compile(lambda x: (w * x).sum())
    g = compile(lambda x: (w * x).sum().backward())
    handles: list[Any] = []

    def call(turn: int) -> Any:
        if turn in (2, 6):
            handles.append(w.register_hook(lambda g: g * 3))
        if turn == 4:
            handles.pop().remove()
        y = f(data(3, seed=turn))
        if turn == 7:
            handles.append(w.register_post_accumulate_grad_hook(lambda t: t.grad.mul_(2)))
        y.backward()
        g(data(3, seed=turn))

    return World(call, [w])


@program(native=None)
def hook_on_a_result(compile: Compile) -> World:
    w = leaf(3)
    f = compile(lambda x: w * x)

    def call(turn: int) -> Any:
        w.grad = None
        y = f(data(3, seed=turn))
        y.register_hook(lambda g: g * 2)
        y.retain_grad()
        z = f(y)
        z.register_hook(lambda g: g + 1)
        z.sum().backward()
        return y.grad

    return World(call, [w])


@program(native=None)
def retain_grad_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        w.grad = None
        y = w * x
        y.retain_grad()
        y.exp().sum().backward()
        return y.grad, y

    def call(turn: int) -> Any:
        g, y = f(data(3, seed=turn))
        return g, y.grad

    return World(call, [w])


@program(native=None)
def state_dict_round_trip(compile: Compile) -> World:
    tg.manual_seed(0)
    model = tg.nn.Sequential(tg.nn.Linear(3, 3), tg.nn.BatchNorm1d(3)).double()
    optimizer = tg.optim.Adam(model.parameters(), lr=0.01)
    saved: list[Any] = []

    @compile
    def step(x: tg.Tensor) -> Any:
        optimizer.zero_grad()
        loss = model(x).pow(2).sum()
        loss.backward()
        optimizer.step()
        return loss

    def call(turn: int) -> Any:
        if turn == 3:
            saved.append(copy.deepcopy((model.state_dict(), optimizer.state_dict())))
        if turn == 6:
            model.load_state_dict(saved[0][0])
            optimizer.load_state_dict(saved[0][1])
        return step(data(4, 3, seed=turn).double())

    return World(call, [*model.parameters(), *model.buffers()])


@program(native=None)
def gradient_clipping(compile: Compile) -> World:
    w, v = leaf(3), leaf(2, seed=1)

    @compile
    def step(x: tg.Tensor) -> Any:
        w.grad = v.grad = None
        ((w * x).pow(2).sum() + v.sum()).backward()
        norm = tg.nn.utils.clip_grad_norm_([w, v], 0.5)
        with tg.no_grad():
            for p in (w, v):
                p -= 0.1 * p.grad
        return norm

    return World(lambda turn: step(data(3, seed=turn)), [w, v])


@program(native=None)
def accumulate_then_zero(compile: Compile) -> World:
    w = leaf(3)
    optimizer = tg.optim.SGD([w], lr=0.1)

    @compile
    def micro(x: tg.Tensor) -> Any:
        (w * x).pow(2).sum().backward()

    @compile
    def finish() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    def call(turn: int) -> Any:
        micro(data(3, seed=turn))
        if turn % 3 == 2:
            finish()

    return World(call, [w])


@program(native=None)
def threads_train_one_model(compile: Compile) -> World:
    ws = [leaf(40, seed=i) for i in range(4)]

    @compile
    def step(w: tg.Tensor, x: tg.Tensor) -> Any:
        w.grad = None
        loss = (w * x).exp().sum() + (w * w).cumsum(0).sum()
        loss.backward()
        with tg.no_grad():
            w.sub_(w.grad * 0.001)
        return loss

    def call(turn: int) -> Any:
        results: dict[int, Any] = {}

        def work(i: int) -> None:
            for k in range(5):
                results[i] = step(ws[i], data(40, seed=turn * 10 + k))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [results[i] for i in range(4)]

    return World(call, ws)


@program(native=None)
def threads_call_one_large_function(compile: Compile) -> World:
    f = compile(lambda x: ((x @ x).tanh() @ x).cumsum(0).sum(0))

    def call(turn: int) -> Any:
        results: dict[int, Any] = {}

        def work(i: int) -> None:
            for _ in range(3):
                results[i] = f(data(70, 70, seed=i).double() * 0.1)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [results[i] for i in range(3)]

    return World(call, [])


@program(native=None)
def custom_function(compile: Compile) -> World:
    w = leaf(3)
    settings = {"scale": 2.0}

    class Scaled(tg.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor) -> tg.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: tg.Tensor) -> tg.Tensor:
            (x,) = ctx.saved_tensors
            return g * x * settings["scale"]

    @compile
    def f(x: tg.Tensor) -> Any:
        w.grad = None
        Scaled.apply(w * x).sum().backward()
        return Scaled.apply(w)

    def call(turn: int) -> Any:
        settings["scale"] = 2.0 + turn // 3
        y = f(data(3, seed=turn))
        y.sum().backward()

    return World(call, [w])


@program(native=None)
def arguments_die(compile: Compile) -> World:
    f = compile(lambda x: (x * 2).sum())

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        r = weakref.ref(x)
        y = f(x)
        del x
        gc.collect()
        return (r() is None) if turn > 5 else True, y

    return World(call, [])


@program()
def random_draws_in_between(compile: Compile) -> World:
    f = compile(lambda x: x + tg.rand(3) * tg.randn(3) + tg.nn.functional.dropout(x, 0.5))

    def call(turn: int) -> Any:
        if turn == 0:
            tg.manual_seed(0)
        state = tg.get_rng_state()
        y = f(data(3, seed=turn))
        after = tg.get_rng_state()
        tg.set_rng_state(state)
        again = f(data(3, seed=turn))
        tg.manual_seed(turn + 1)
        return y, again, after

    return World(call, [])


@program(native=None)
def permutations_and_nonzero(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        return x[tg.randperm(3)], x.nonzero(), x[x > 0], tg.where(x > 0)

    def call(turn: int) -> Any:
        tg.manual_seed(turn)
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def sums_that_change_the_loop(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, n: tg.Tensor) -> Any:
        parts = []
        for i in range(int(n)):
            if i == 3:
                break
            if x[i % 3] < 0:
                continue
            parts.append(x[i % 3] * i)
        return tg.stack(parts) if parts else x

    return World(lambda turn: f(data(3, seed=turn), tg.tensor(turn % 5)), [])


@program(native=None)
def out_arguments(compile: Compile) -> World:
    buffer = tg.zeros(3)

    @compile
    def f(x: tg.Tensor, out: tg.Tensor) -> Any:
        tg.add(x, 1, out=buffer)
        return tg.mul(x, 2, out=out)

    def call(turn: int) -> Any:
        out = tg.empty(3 if turn % 3 else 0)
        same = f(data(3, seed=turn), out) is out
        return same, out

    return World(call, [buffer])


@program()
def several_outs_and_a_part_as_out(compile: Compile) -> World:
    values, indices, whole = tg.zeros(3), tg.zeros(3, dtype=tg.int64), tg.zeros(4, 3)

    @compile
    def f(x: tg.Tensor) -> Any:
        found = tg.max(x, 1, out=(values, indices))
        tg.exp(found.values, out=whole[1])
        tg.ones(3, out=whole[2])
        return tg.sum(x, 1, out=whole[3]) * 2

    return World(lambda turn: f(data(3, 4, seed=turn)), [values, indices, whole])


@program(native=None)
def an_out_that_is_resized(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, out: tg.Tensor) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return tg.cos(x, out=out) * 2

    def call(turn: int) -> Any:
        out = tg.zeros(4 if turn % 3 else 3)
        return f(data(3, seed=turn), out), out

    return World(call, [])


@program()
def parts_replaced_in_copies(compile: Compile) -> World:
    w = leaf(2, 3)

    @compile
    def f(x: tg.Tensor) -> Any:
        y = tg.select_scatter(w, x, 0, 1) + tg.slice_scatter(w, x[None, :1] * w[:, :1], 1, end=1)
        y = tg.diagonal_scatter(y, x[:2] * 2) * 3
        y.fill_diagonal_(0.5)
        tg.narrow_copy(y, 1, 1, 2).sum().backward()
        return y.detach().tile(2)

    return World(lambda turn: f(data(3, seed=turn)), [w])


@program(native=False)
def a_shape_changed_in_place(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        y = x * 2
        y.unsqueeze_(0).t_().add_(1)
        x.resize_(2, 2)
        return y, x

    return World(lambda turn: f(data(4, seed=turn)), [])


@program(native=None)
def large_constants(compile: Compile) -> World:
    numbers = [float(i) for i in range(400)]

    @compile
    def f(x: tg.Tensor) -> Any:
        t = tg.tensor(numbers)
        t.add_(x.sum())
        return t

    def call(turn: int) -> Any:
        if turn == 4:
            numbers[0] = -1.0
        y = f(data(3, seed=turn))
        y.mul_(0)
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def small_constants_changed_in_place(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        t = tg.zeros(3)
        t += x
        u = tg.tensor([1.0, 2.0, 3.0])
        u[0] = 9
        return t, u

    def call(turn: int) -> Any:
        t, u = f(data(3, seed=turn))
        t.add_(1)
        u.add_(1)
        return t, u

    return World(call, [])


@program(native=None)
def contiguous_and_to_return_self(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        return x.contiguous(), x.to(tg.float32), x.float() if x.dtype is tg.float32 else x

    def call(turn: int) -> Any:
        x = data(3, 4, seed=turn)
        x = x.t() if turn % 2 else x
        a, b, c = f(x)
        return a is x, b is x, c is x, a

    return World(call, [])


@program(native=None)
def cycles_of_tensors(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> Any:
        box: list[Any] = [x * w]
        box.append(box)
        return box[1][0] * 2

    return World(lambda turn: f(data(3, seed=turn)), [w])


@program(native=None)
def functional_derivatives_inside(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        return tg.autograd.functional.jacobian(lambda t: t**2, x), tg.autograd.functional.hessian(
            lambda t: (t**3).sum(), x
        )

    return World(lambda turn: f(data(3, seed=turn)), [])


@program(native=None)
def tensor_learning_rate(compile: Compile) -> World:
    w = leaf(3)
    rate = tg.tensor(0.1)
    optimizer = tg.optim.SGD([w], lr=rate)

    @compile
    def step(x: tg.Tensor) -> Any:
        optimizer.zero_grad()
        (w * x).pow(2).sum().backward()
        optimizer.step()

    def call(turn: int) -> Any:
        rate.mul_(0.9)
        step(data(3, seed=turn))

    return World(call, [w])


@program()
def learning_rate_argument(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def step(x: tg.Tensor, rate: float) -> Any:
        w.grad = None
        (w * x).pow(2).sum().backward()
        with tg.no_grad():
            w.sub_(w.grad, alpha=rate)

    return World(lambda turn: step(data(3, seed=turn), 0.1 / (1 + turn // 2)), [w])


@program(native=None)
def subclass_of_tensor(compile: Compile) -> World:
    class Mine(tg.Tensor):
        pass

    f = compile(lambda x: x * 2)

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        y = f(tg.nn.Parameter(x) if turn % 2 else x)
        return type(y).__name__, y

    return World(call, [])
