"""Benchmark of a training step of a transformer encoder layer, on short sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .measurement import Arrays, Benchmark, Program, System
from .training import program_of, split_parameters


def encoder_inputs(batch: int, length: int, width: int, heads: int) -> Arrays:
    """Sequences, targets, and the initial parameters as torch names them; one of them says how many heads there are."""
    rng = np.random.default_rng(0)
    hidden = 2 * width
    shapes = {
        "self_attn.in_proj_weight": (3 * width, width),
        "self_attn.in_proj_bias": (3 * width,),
        "self_attn.out_proj.weight": (width, width),
        "self_attn.out_proj.bias": (width,),
        "linear1.weight": (hidden, width),
        "linear1.bias": (hidden,),
        "linear2.weight": (width, hidden),
        "linear2.bias": (width,),
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
    }
    return {
        "x": rng.standard_normal((batch, length, width)).astype(np.float32),
        "target": rng.standard_normal((batch, length, width)).astype(np.float32),
        "heads": np.array(heads),
        **{
            name: (rng.uniform(-1, 1, shape) / np.sqrt(width)).astype(np.float32)
            for name, shape in shapes.items()
        },
    }


def encoder_step(library: Any, inputs: Arrays, compile_: Callable[[Any], Any]) -> Program:
    """The step as torch's users write it, for torch and for tracegrad."""
    parameters, (x, target, heads) = split_parameters(inputs)
    hidden, width = parameters["linear1.weight"].shape
    model = library.nn.TransformerEncoderLayer(
        width, int(heads), hidden, dropout=0.0, activation="gelu", batch_first=True
    )
    with library.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(library.tensor(parameters[name]))
    optimizer = library.optim.SGD(model.parameters(), lr=1e-3)
    loss_of = library.nn.MSELoss()

    @compile_
    def step(x: Any, target: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return program_of(model, step, library.tensor(x), library.tensor(target))


def encoder_tracegrad(tg: Any, inputs: Arrays) -> Program:
    return encoder_step(tg, inputs, tg.compile)


def encoder_plain(library: Any, inputs: Arrays) -> Program:
    return encoder_step(library, inputs, lambda step: step)


ATTENTION_STEP = Benchmark(
    name="attention_step",
    title="transformer encoder layer, one SGD step",
    sizes={
        "batch 8, length 16, width 32, 4 heads": (8, 16, 32, 4),
        "batch 16, length 64, width 64, 4 heads": (16, 64, 64, 4),
    },
    tiny=(2, 3, 4, 2),
    inputs=encoder_inputs,
    systems=(
        System("tracegrad", "tracegrad", encoder_tracegrad),
        System("tracegrad, eager", "tracegrad", encoder_plain),
        System("torch", "torch", encoder_plain),
    ),
    rtol=1e-4,
    atol=1e-5,
)
