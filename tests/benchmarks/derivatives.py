"""Benchmarks of higher derivatives."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from .measurement import Arrays, Benchmark, Program, System


def rosenbrock(x: Any) -> Any:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def rosenbrock_inputs(n: int) -> Arrays:
    return {"x": np.random.default_rng(0).random(n).astype(np.float32)}


def rosenbrock_hessian_tracegrad(tg: Any, inputs: Arrays) -> Program:
    x = tg.tensor(inputs["x"])
    run = partial(tg.compile(lambda x: tg.autograd.functional.hessian(rosenbrock, x)), x)
    return Program(run, lambda: {"hessian": run().numpy()})


def rosenbrock_hessian_torch(torch: Any, inputs: Arrays) -> Program:
    run = partial(torch.autograd.functional.hessian, rosenbrock, torch.tensor(inputs["x"]))
    return Program(run, lambda: {"hessian": run().numpy()})


def rosenbrock_hessian_jax(jax: Any, inputs: Arrays) -> Program:
    x = jax.numpy.asarray(inputs["x"])
    hessian = jax.jit(jax.hessian(rosenbrock))

    def run() -> Any:
        return hessian(x).block_until_ready()

    return Program(run, lambda: {"hessian": np.array(run())})


ROSENBROCK_HESSIAN = Benchmark(
    name="rosenbrock_hessian",
    title="Hessian of the Rosenbrock function",
    sizes={"n = 100": (100,)},
    tiny=(5,),
    inputs=rosenbrock_inputs,
    systems=(
        System("tracegrad", "tracegrad", rosenbrock_hessian_tracegrad),
        System("torch", "torch", rosenbrock_hessian_torch),
        System("jax", "jax", rosenbrock_hessian_jax),
    ),
    rtol=1e-5,
    atol=1e-3,
)
