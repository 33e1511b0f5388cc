"""Benchmarks without products: what dispatch, fusion and elementary functions are worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .measurement import Array, Arrays, Benchmark, Program, System


def sin_sum_inputs(n: int) -> Arrays:
    return {"a": np.linspace(0, 2 * np.pi, n, dtype=np.float32)}


def value_and_gradient(value: Any, gradient: Any) -> Arrays:
    return {"value": np.array(value), "gradient": np.array(gradient)}


def by_grad(library: Any, a: Any, compile_: Callable[[Any], Any]) -> Program:
    """Value and gradient as torch's users write it, for torch and for tracegrad."""

    @compile_
    def value_and_grad(a: Any) -> tuple[Any, Any]:
        out = (2 * library.sin(a) + 1).sum()
        return out, library.autograd.grad(out, a)[0]

    def results() -> Arrays:
        value, gradient = value_and_grad(a)
        return value_and_gradient(value.detach().numpy(), gradient.numpy())

    return Program(partial(value_and_grad, a), results)


def by_backward(library: Any, a: Any, compile_: Callable[[Any], Any]) -> Program:
    """The same, with the gradient left in ``a.grad``."""

    @compile_
    def step(a: Any) -> Any:
        a.grad = None
        out = (2 * library.sin(a) + 1).sum()
        out.backward()
        return out

    def results() -> Arrays:
        return value_and_gradient(step(a).detach().numpy(), a.grad.numpy())

    return Program(partial(step, a), results)


def sin_sum_tracegrad(tg: Any, inputs: Arrays) -> Program:
    return by_grad(tg, tg.tensor(inputs["a"], requires_grad=True), tg.compile)


def sin_sum_torch(torch: Any, inputs: Arrays) -> Program:
    return by_grad(torch, torch.tensor(inputs["a"], requires_grad=True), lambda step: step)


def sin_sum_backward_tracegrad(tg: Any, inputs: Arrays) -> Program:
    return by_backward(tg, tg.tensor(inputs["a"], requires_grad=True), tg.compile)


def sin_sum_backward_torch(torch: Any, inputs: Arrays) -> Program:
    return by_backward(torch, torch.tensor(inputs["a"], requires_grad=True), lambda step: step)


def sin_sum_jax(jax: Any, inputs: Arrays) -> Program:
    a = jax.numpy.asarray(inputs["a"])
    value_and_grad = jax.jit(jax.value_and_grad(lambda a: (2 * jax.numpy.sin(a) + 1).sum()))

    def run() -> Any:
        return jax.block_until_ready(value_and_grad(a))

    return Program(run, lambda: value_and_gradient(*run()))


def scalar_call_inputs() -> Arrays:
    return {"a": np.array(1.5, np.float32)}


def scalar_call_tracegrad(tg: Any, inputs: Arrays) -> Program:
    a = tg.tensor(inputs["a"])
    call = partial(tg.compile(lambda a: a * 2 + 1), a)
    return Program(call, lambda: {"value": call().numpy()})


def scalar_call_torch(torch: Any, inputs: Arrays) -> Program:
    a = torch.tensor(inputs["a"])

    def call() -> Any:
        return a * 2 + 1

    return Program(call, lambda: {"value": call().numpy()})


def scalar_call_jax(jax: Any, inputs: Arrays) -> Program:
    a = jax.numpy.asarray(inputs["a"])
    compiled = jax.jit(lambda a: a * 2 + 1)

    def call() -> Any:
        return compiled(a).block_until_ready()

    return Program(call, lambda: {"value": np.array(call())})


def layernorm_gelu_inputs(rows: int, columns: int) -> Arrays:
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((rows, columns)).astype(np.float32)}


def layernorm_gelu(library: Any, inputs: Arrays, compile_: Callable[[Any], Any]) -> Program:
    """Value and gradient as torch's users write it, for torch and for tracegrad."""
    functional = library.nn.functional
    x = library.tensor(inputs["x"], requires_grad=True)
    shape = inputs["x"].shape[1:]

    @compile_
    def value_and_grad(x: Any) -> tuple[Any, Any]:
        out = functional.gelu(functional.layer_norm(x, shape)).sum()
        return out, library.autograd.grad(out, x)[0]

    def results() -> Arrays:
        value, gradient = value_and_grad(x)
        return value_and_gradient(value.detach().numpy(), gradient.numpy())

    return Program(partial(value_and_grad, x), results)


def layernorm_gelu_tracegrad(tg: Any, inputs: Arrays) -> Program:
    return layernorm_gelu(tg, inputs, tg.compile)


def layernorm_gelu_torch(torch: Any, inputs: Arrays) -> Program:
    return layernorm_gelu(torch, inputs, lambda step: step)


def layernorm_gelu_jax(jax: Any, inputs: Arrays) -> Program:
    x = jax.numpy.asarray(inputs["x"])

    def loss(x: Array) -> Any:
        centered = x - x.mean(-1, keepdims=True)
        variance = (centered**2).mean(-1, keepdims=True)
        return jax.nn.gelu(centered / jax.numpy.sqrt(variance + 1e-5), approximate=False).sum()

    value_and_grad = jax.jit(jax.value_and_grad(loss))

    def run() -> Any:
        return jax.block_until_ready(value_and_grad(x))

    return Program(run, lambda: value_and_gradient(*run()))


SIN_SUM = Benchmark(
    name="sin_sum",
    title="(2 * sin(a) + 1).sum(), value and gradient",
    sizes={f"n = {n:,}": (n,) for n in (25, 10_000, 1_000_000)},
    tiny=(7,),
    inputs=sin_sum_inputs,
    systems=(
        System("tracegrad", "tracegrad", sin_sum_tracegrad),
        System("torch", "torch", sin_sum_torch),
        System("jax", "jax", sin_sum_jax),
    ),
)

SIN_SUM_BACKWARD = replace(
    SIN_SUM,
    name="sin_sum_backward",
    title="(2 * sin(a) + 1).sum() and backward()",
    systems=(
        System("tracegrad", "tracegrad", sin_sum_backward_tracegrad),
        System("torch", "torch", sin_sum_backward_torch),
        System("jax", "jax", sin_sum_jax),
    ),
)

SCALAR_CALL = Benchmark(
    name="scalar_call",
    title="a * 2 + 1",
    sizes={"scalar": ()},
    tiny=(),
    inputs=scalar_call_inputs,
    systems=(
        System("tracegrad", "tracegrad", scalar_call_tracegrad),
        System("torch", "torch", scalar_call_torch),
        System("jax", "jax", scalar_call_jax),
    ),
    rtol=0.0,
    atol=0.0,
)

LAYERNORM_GELU = Benchmark(
    name="layernorm_gelu",
    title="layer norm and GELU, value and gradient",
    sizes={"1024 x 1024": (1024, 1024)},
    tiny=(3, 8),
    inputs=layernorm_gelu_inputs,
    systems=(
        System("tracegrad", "tracegrad", layernorm_gelu_tracegrad),
        System("torch", "torch", layernorm_gelu_torch),
        System("jax", "jax", layernorm_gelu_jax),
    ),
    rtol=1e-5,
    atol=1e-5,
)
