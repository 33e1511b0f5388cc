"""Programs for the compile contract: each is built twice, run plainly in one world and compiled in the other.

A program is a factory ``make(compile)`` that builds its own state, wraps its function with `compile` (or with the
identity), and returns a :class:`World`: a ``call(turn)`` that is made several times, and the tensors to compare
after each turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import tracegrad as tg

Compile = Callable[[Callable[..., Any]], Any]
TURNS = 9


class World(NamedTuple):
    """One run of a program.

    Attributes:
        call: ``call(turn)`` makes call number `turn` and returns its result.
        tensors: what to compare after each call, with their grads.
    """

    call: Callable[[int], Any]
    tensors: list[tg.Tensor]


class Program(NamedTuple):
    """A factory, and whether most of its calls are expected to be native; None where either will do."""

    make: Callable[[Compile], World]
    native: bool | None


PROGRAMS: dict[str, Program] = {}


def program(native: bool | None = True) -> Callable[[Any], Any]:
    """Add a factory to the table."""

    def add(make: Callable[[Compile], World]) -> Callable[[Compile], World]:
        assert make.__name__ not in PROGRAMS
        PROGRAMS[make.__name__] = Program(make, native)
        return make

    return add


def data(*shape: int, seed: int = 0) -> tg.Tensor:
    """Normal numbers, the same in both worlds."""
    return tg.tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def leaf(*shape: int, seed: int = 0) -> tg.Tensor:
    """Like `data`, requiring grad."""
    return data(*shape, seed=seed).requires_grad_()


@program()
def pure(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        return (x * y).tanh() + x.exp().sum(0)

    return World(lambda turn: f(data(3, 4, seed=turn), data(4, seed=turn + 50)), [])


@program()
def containers(compile: Compile) -> World:
    @compile
    def f(batch: dict[str, Any], *, scale: float) -> dict[str, Any]:
        return {"sum": [v.sum() * scale for v in batch["parts"]], "same": batch["parts"][0], "n": 3}

    return World(lambda turn: f({"parts": [data(2, seed=turn), data(3, seed=turn)]}, scale=0.5), [])


@program()
def gradient_from_outside(compile: Compile) -> World:
    w = leaf(4, 3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return (x @ w).relu().pow(2).mean()

    def call(turn: int) -> tg.Tensor:
        x = leaf(5, 4, seed=turn)
        loss = f(x)
        loss.backward()
        return x.grad

    return World(call, [w])


@program()
def several_differentiable_results(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor, tg.Tensor]:
        return x * w, (x * w).detach() * w, (x + 1).sum()

    def call(turn: int) -> Any:
        a, b, c = f(data(3, seed=turn))
        (a.sum() * 2 + b.sum()).backward()
        return a, b, c

    return World(call, [w])


@program()
def second_derivative_from_outside(compile: Compile) -> World:
    x = leaf(5)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return (x.sin() * x**3).sum()

    def call(turn: int) -> Any:
        (g,) = tg.autograd.grad(f(x), x, create_graph=True)
        (h,) = tg.autograd.grad((g * g).sum(), x)
        return g, h

    return World(call, [x])


@program()
def no_grad_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        with tg.no_grad():
            scale = (x * w).exp()
        return (w * scale).sum()

    def call(turn: int) -> tg.Tensor:
        y = f(data(3, seed=turn))
        y.backward()
        return y

    return World(call, [w])


@program()
def training_step(compile: Compile) -> World:
    w, b = leaf(4, 3), leaf(3, seed=1)

    @compile
    def step(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        w.grad = b.grad = None
        loss = ((x @ w + b) - y).pow(2).mean()
        loss.backward()
        with tg.no_grad():
            w.sub_(w.grad * 0.1)
            b.sub_(b.grad * 0.1)
        return loss

    return World(lambda turn: step(data(8, 4, seed=turn), data(8, 3, seed=turn + 1)), [w, b])


@program()
def accumulation(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        loss = (w * x).pow(2).sum()
        loss.backward()
        return loss

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            w.grad = None
        if turn == 5:
            w.grad = tg.ones(3)
        return f(data(3, seed=turn))

    return World(call, [w])


@program()
def momentum_in_a_list(compile: Compile) -> World:
    w = leaf(3)
    velocity = [tg.zeros(3)]

    @compile
    def step(x: tg.Tensor) -> tg.Tensor:
        w.grad = None
        loss = (w * x).pow(2).sum()
        loss.backward()
        with tg.no_grad():
            velocity[0].mul_(0.9).add_(w.grad)
            w.add_(velocity[0], alpha=-0.1)
        return loss

    return World(lambda turn: step(data(3, seed=turn)), [w, *velocity])


@program()
def branch(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1

    return World(lambda turn: f(data(3, seed=turn)), [])


@program()
def early_return_after_write(compile: Compile) -> World:
    state = tg.zeros(3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        state.add_(x)
        if state.sum() > 1:
            state.zero_()
            return x
        return state + x

    return World(lambda turn: f(data(3, seed=turn)), [state])


@program()
def while_on_data(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        while x.norm() < 10:
            x = x * 2
        return x

    return World(lambda turn: f(data(3, seed=turn % 3) + 0.1), [])


@program()
def item_as_number(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, n: tg.Tensor) -> tg.Tensor:
        return x[: int(n)] * float(n)

    return World(lambda turn: f(data(5), tg.tensor(turn % 3)), [])


@program()
def negative_zero(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return tg.ones(2) / x.item()

    def call(turn: int) -> Any:
        try:
            return f(tg.tensor([0.0, -0.0, 2.0][turn % 3]))
        except ZeroDivisionError as error:
            return str(error)

    return World(call, [])


class Scale:
    """Plain Python state that a function reads."""

    def __init__(self) -> None:
        self.factor = 1.0
        self.table = {"a": [1.0, 2.0]}
        self.offset = tg.zeros(3)


@program()
def attributes(compile: Compile) -> World:
    scale = Scale()

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * scale.factor + scale.table["a"][1] + scale.offset

    def call(turn: int) -> tg.Tensor:
        if turn == 2:
            scale.factor = 3.0
        if turn == 4:
            scale.table["a"][1] = -1.0
        if turn == 5:
            scale.table["a"].append(0.0)
        if turn == 6:
            scale.offset = tg.ones(3)
        if turn == 7:
            scale.offset.add_(1)
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def closure_number(compile: Compile) -> World:
    rate = 0.1

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * rate

    def call(turn: int) -> tg.Tensor:
        nonlocal rate
        rate = 0.1 * (1 + turn // 3)
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def method(compile: Compile) -> World:
    class Model:
        def __init__(self) -> None:
            self.w = leaf(3)
            self.training = True

        @compile
        def forward(self, x: tg.Tensor) -> tg.Tensor:
            return (self.w * x).sum() if self.training else self.w + x

    model = Model()

    def call(turn: int) -> tg.Tensor:
        model.training = turn % 4 < 2
        return model.forward(data(3, seed=turn))

    return World(call, [model.w])


@program(native=False)
def counter(compile: Compile) -> World:
    class Counter:
        calls = 0

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        Counter.calls += 1
        return x * Counter.calls

    return World(lambda turn: f(data(3, seed=turn)), [])


@program(native=False)
def growing_list(compile: Compile) -> World:
    history: list[float] = []

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        history.append(1.0)
        return x + len(history)

    return World(lambda turn: f(data(3, seed=turn)), [])


@program()
def shapes_and_dtypes(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * 2 + x.sum()

    def call(turn: int) -> tg.Tensor:
        x = data(2 + turn % 3)
        return f(x.double() if turn % 2 else x)

    return World(call, [])


@program()
def same_tensor_twice(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        x.add_(1)
        return x * y

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        return f(x, x if turn % 2 else data(3, seed=turn)), x

    return World(call, [])


@program()
def argument_that_is_captured(compile: Compile) -> World:
    w = data(3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        w.mul_(2)
        return x + w

    return World(lambda turn: f(w if turn % 2 else data(3, seed=turn)), [w])


@program()
def overlapping_views(compile: Compile) -> World:
    base = data(6)

    @compile
    def f(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        x.add_(1)
        return x * y

    def call(turn: int) -> tg.Tensor:
        return f(base[:4], base[2:]) if turn % 2 else f(data(4), data(4, seed=1))

    return World(call, [base])


@program()
def non_contiguous(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        x.mul_(2)
        return x.sum(0)

    def call(turn: int) -> Any:
        x = data(3, 4, seed=turn)
        return f(x.t() if turn % 2 else x[:, ::2]), x

    return World(call, [])


@program(native=False)
def returns_argument_and_view(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> Any:
        return x, x[0], None

    def call(turn: int) -> Any:
        x = data(2, 2, seed=turn)
        same, row, _ = f(x)
        row.add_(5)
        return same is x, x, row

    return World(call, [])


@program()
def random_numbers(compile: Compile) -> World:
    generator = tg.Generator().manual_seed(3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x + tg.rand(3, generator=generator) * tg.randn(3, generator=generator)

    return World(lambda turn: f(data(3, seed=turn)), [generator._counter])


@program()
def gathered(compile: Compile) -> World:
    table = leaf(5, 2)

    @compile
    def f(index: tg.Tensor) -> tg.Tensor:
        return table[index].sum(1)

    def call(turn: int) -> Any:
        y = f(tg.tensor([turn % 5, 0, -1]))
        y.sum().backward()
        return y

    return World(call, [table])


@program()
def exceptions(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, i: tg.Tensor) -> tg.Tensor:
        if x.shape[0] == 3:
            raise KeyError("three")
        return x.gather(0, i)

    def call(turn: int) -> Any:
        try:
            return f(data(2 + turn % 2), tg.tensor([turn % 4]))
        except (KeyError, IndexError) as error:
            return type(error).__name__

    return World(call, [])


@program()
def hook_on_a_leaf(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> None:
        w.grad = None
        (w * x).sum().backward()

    def call(turn: int) -> None:
        if turn == 3:
            w.register_hook(lambda g: g * 2)
        f(data(3, seed=turn))

    return World(call, [w])


@program()
def frozen_parameter(compile: Compile) -> World:
    w, v = leaf(3), leaf(3, seed=1)

    @compile
    def f(x: tg.Tensor) -> None:
        w.grad = v.grad = None
        (w * x + v).sum().backward()

    def call(turn: int) -> None:
        w.requires_grad = turn % 4 < 2
        f(data(3, seed=turn))

    return World(call, [w, v])


@program()
def grad_mode_outside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return w * x

    def call(turn: int) -> Any:
        with tg.set_grad_enabled(turn % 2 == 0):
            y = f(data(3, seed=turn))
        return y, y.requires_grad

    return World(call, [w])


@program(native=False)
def printing(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> tuple[tg.Tensor, str]:
        return x + 1, f"{x.tolist()}"

    return World(lambda turn: f(data(2, seed=turn)), [])


@program(native=False)
def from_numpy_inside(compile: Compile) -> World:
    array = np.zeros(3, np.float32)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x + tg.from_numpy(array)

    def call(turn: int) -> tg.Tensor:
        array[:] = turn
        return f(data(3))

    return World(call, [])


@program()
def kept_grad(compile: Compile) -> World:
    w = leaf(400)
    kept: list[tg.Tensor] = []

    @compile
    def step(x: tg.Tensor) -> None:
        w.grad = None
        (w * x).sum().backward()

    def call(turn: int) -> Any:
        step(data(400, seed=turn))
        kept.append(w.grad)
        return list(kept)

    return World(call, [w])


@program()
def state_swapped(compile: Compile) -> World:
    layers = {"w": leaf(3)}

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return layers["w"] * x

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            layers["w"] = leaf(3, seed=9)
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def initialised_in_place(compile: Compile) -> World:
    w = leaf(4, 3)
    with tg.no_grad():
        w.mul_(2).add_(1)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return (x @ w.t().t()[:, :2]).sum()

    def call(turn: int) -> tg.Tensor:
        y = f(data(2, 4, seed=turn))
        y.backward()
        return y

    return World(call, [w])


@program()
def in_place_on_results(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        y = w * x
        y.mul_(y).add_(1)
        y[0] = x[1]
        return y

    def call(turn: int) -> tg.Tensor:
        y = f(data(3, seed=turn))
        y.sum().backward()
        return y

    return World(call, [w])


@program()
def in_place_through_a_view(compile: Compile) -> World:
    buffer = tg.zeros(4)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        buffer[1:3].add_(x)
        buffer[0] = buffer.sum()
        return buffer * 2

    return World(lambda turn: f(data(2, seed=turn)), [buffer])


def module_step(compile: Compile, make_optimizer: Callable[[Any], Any], *layers: Any) -> World:
    """A training step on a small classifier with modules and an optimizer."""
    tg.manual_seed(0)
    model = tg.nn.Sequential(tg.nn.Linear(6, 8), *layers, tg.nn.Linear(8, 3))
    optimizer = make_optimizer(model.parameters())

    @compile
    def step(x: tg.Tensor, y: tg.Tensor) -> tg.Tensor:
        optimizer.zero_grad()
        loss = tg.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    def call(turn: int) -> tg.Tensor:
        tg.manual_seed(turn)
        if turn == 6:
            optimizer.param_groups[0]["lr"] *= 0.5
        return step(data(5, 6, seed=turn), tg.tensor([0, 1, 2, turn % 3, 0]))

    return World(call, [*model.parameters(), *model.buffers()])


@program()
def sgd(compile: Compile) -> World:
    return module_step(compile, lambda p: tg.optim.SGD(p, lr=0.1), tg.nn.ReLU())


@program()
def sgd_with_momentum(compile: Compile) -> World:
    return module_step(
        compile, lambda p: tg.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), tg.nn.Tanh()
    )


@program()
def adam(compile: Compile) -> World:
    return module_step(compile, lambda p: tg.optim.Adam(p, lr=0.01), tg.nn.GELU())


@program()
def dropout_and_norm(compile: Compile) -> World:
    return module_step(
        compile,
        lambda p: tg.optim.SGD(p, lr=0.1),
        tg.nn.LayerNorm(8),
        tg.nn.Dropout(0.5),
        tg.nn.ReLU(),
    )


@program()
def batch_norm(compile: Compile) -> World:
    return module_step(
        compile, lambda p: tg.optim.SGD(p, lr=0.1), tg.nn.BatchNorm1d(8), tg.nn.ReLU()
    )


@program()
def train_and_eval(compile: Compile) -> World:
    tg.manual_seed(0)
    model = tg.nn.Sequential(tg.nn.Linear(3, 4), tg.nn.Dropout(0.5), tg.nn.Linear(4, 1))

    @compile
    def f(model: Any, x: tg.Tensor) -> tg.Tensor:
        return model(x)

    def call(turn: int) -> tg.Tensor:
        tg.manual_seed(turn)
        model.train(turn % 4 < 2)
        return f(model, data(2, 3, seed=turn))

    return World(call, list(model.parameters()))
