"""Benchmarks of eager code: nothing is compiled, tensors are small, and all the time goes into dispatch."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from .measurement import Arrays, Benchmark, Program, System
from .training import (
    linear_layers,
    module_of,
    program_of,
    split_parameters,
    two_layer_inputs,
    two_layer_step,
)


def _as_written(function: Any) -> Any:
    """In the place of ``compile``."""
    return function


def loop_inputs(turns: int) -> Arrays:
    """Operands near one, so that no product of thousands of them leaves the range of floats."""
    rng = np.random.default_rng(0)
    near_one = {name: rng.uniform(0.999, 1.001, (2, 3)).astype(np.float32) for name in "xyz"}
    return {**near_one, "turns": np.array(turns)}


def loop_program(library: Any, inputs: Arrays, *, backward: bool) -> Program:
    """``z = (z / x) * y`` in a Python loop, in torch's words; with the gradients of x and y if `backward`."""
    x, y = (library.tensor(inputs[name], requires_grad=True) for name in "xy")
    start = library.tensor(inputs["z"])
    turns = int(inputs["turns"])

    def run() -> Any:
        z = start
        for _ in range(turns):
            z = (z / x) * y
        if backward:
            x.grad = y.grad = None
            z.sum().backward()
        return z

    def results() -> Arrays:
        z = run().detach().numpy()
        gradients = {"x": x.grad.numpy(), "y": y.grad.numpy()} if backward else {}
        return {"z": z, **gradients}

    return Program(run, results)


def two_layer_eager(library: Any, inputs: Arrays) -> Program:
    return two_layer_step(library, inputs, _as_written)


def three_layer_inputs(features: int, hidden: int, outputs: int, batch: int) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((batch, features)).astype(np.float32),
        "ideal": rng.standard_normal((batch, outputs)).astype(np.float32),
        **linear_layers([features, hidden, hidden, outputs], rng),
    }


def three_layer_eager(library: Any, inputs: Arrays) -> Program:
    """A step with Adam and the mean squared error, in torch's words."""
    parameters, data = split_parameters(inputs)
    model = module_of(library, "Tanh", parameters)
    optimizer = library.optim.Adam(model.parameters(), lr=1e-3)
    loss_of = library.nn.MSELoss()

    def step(x: Any, ideal: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(x), ideal)
        loss.backward()
        optimizer.step()
        return loss

    return program_of(model, step, *map(library.tensor, data))


def _systems(prepare: Any) -> tuple[System, ...]:
    return System("tracegrad", "tracegrad", prepare), System("torch", "torch", prepare)


EAGER_LOOP = Benchmark(
    name="eager_loop",
    title="eager: z = (z / x) * y on 2x3, forward",
    sizes={"1000 turns": (1000,)},
    tiny=(5,),
    inputs=loop_inputs,
    systems=_systems(partial(loop_program, backward=False)),
    rtol=1e-4,
)

EAGER_LOOP_BACKWARD = Benchmark(
    name="eager_loop_backward",
    title="eager: z = (z / x) * y on 2x3, forward and backward",
    sizes={"1000 turns": (1000,)},
    tiny=(5,),
    inputs=loop_inputs,
    systems=_systems(partial(loop_program, backward=True)),
    rtol=1e-4,
)

EAGER_TWO_LAYER = Benchmark(
    name="eager_two_layer",
    title="eager: two-layer network, one SGD step",
    sizes={"1000-100-10, batch 16": (1000, 100, 10, 16)},
    tiny=(6, 5, 4, 3),
    inputs=two_layer_inputs,
    systems=_systems(two_layer_eager),
    rtol=1e-4,
)

EAGER_THREE_LAYER = Benchmark(
    name="eager_three_layer",
    title="eager: three-layer network, one Adam step",
    sizes={"8-64-64-2, batch 16": (8, 64, 2, 16)},
    tiny=(4, 6, 2, 5),
    inputs=three_layer_inputs,
    systems=_systems(three_layer_eager),
    rtol=1e-4,
    atol=1e-5,
)
