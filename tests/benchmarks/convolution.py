"""Benchmark of a training step of a small convolutional network, on images of the size of the digits and of MNIST."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .measurement import Arrays, Benchmark, Program, System
from .training import program_of, split_parameters


def digits_inputs(extent: int, filters: int, batch: int) -> Arrays:
    """Images, classes, and the initial parameters as torch names them."""
    rng = np.random.default_rng(0)
    features = 2 * filters * (extent // 2) ** 2
    shapes = {
        "0.weight": (filters, 1, 3, 3),
        "0.bias": (filters,),
        "2.weight": (2 * filters, filters, 3, 3),
        "2.bias": (2 * filters,),
        "6.weight": (10, features),
        "6.bias": (10,),
    }
    fan_in = {"0": 9, "2": 9 * filters, "6": features}
    return {
        "x": rng.standard_normal((batch, 1, extent, extent)).astype(np.float32),
        "classes": rng.integers(0, 10, batch),
        **{
            name: (rng.uniform(-1, 1, shape) / np.sqrt(fan_in[name[0]])).astype(np.float32)
            for name, shape in shapes.items()
        },
    }


def digits_step(library: Any, inputs: Arrays, compile_: Callable[[Any], Any]) -> Program:
    """The step as torch's users write it, for torch and for tracegrad."""
    parameters, data = split_parameters(inputs)
    nn = library.nn
    outputs, features = parameters["6.weight"].shape
    filters = len(parameters["0.bias"])
    model = nn.Sequential(
        nn.Conv2d(1, filters, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(filters, 2 * filters, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(features, outputs),
    )
    with library.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(library.tensor(parameters[name]))
    optimizer = library.optim.SGD(model.parameters(), lr=1e-3)
    loss_of = nn.CrossEntropyLoss()

    @compile_
    def step(x: Any, classes: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(x), classes)
        loss.backward()
        optimizer.step()
        return loss

    return program_of(model, step, *map(library.tensor, data))


def digits_tracegrad(tg: Any, inputs: Arrays) -> Program:
    return digits_step(tg, inputs, tg.compile)


def digits_eager(tg: Any, inputs: Arrays) -> Program:
    return digits_step(tg, inputs, lambda step: step)


def digits_torch(torch: Any, inputs: Arrays) -> Program:
    return digits_step(torch, inputs, lambda step: step)


CONVOLUTION_STEP = Benchmark(
    name="convolution_step",
    title="small convolutional network, one SGD step",
    sizes={"8x8, 16 filters, batch 64": (8, 16, 64), "28x28, 8 filters, batch 32": (28, 8, 32)},
    tiny=(4, 2, 3),
    inputs=digits_inputs,
    systems=(
        System("tracegrad", "tracegrad", digits_tracegrad),
        System("tracegrad, eager", "tracegrad", digits_eager),
        System("torch", "torch", digits_torch),
    ),
    rtol=1e-4,
    atol=1e-5,
)
