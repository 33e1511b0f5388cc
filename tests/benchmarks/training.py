"""Benchmarks of whole training steps: forward, backward and update in one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from .measurement import Arrays, Benchmark, Program, System


def linear_layers(widths: Sequence[int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Initial weights (out, in) and biases of a stack of linear layers, as torch names them."""
    parameters = {}
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        bound = 1 / np.sqrt(fan_in)
        for name, shape in (("weight", (fan_out, fan_in)), ("bias", (fan_out,))):
            array = rng.uniform(-bound, bound, shape).astype(np.float32)
            # torch counts the activations of a Sequential, too
            parameters[f"{2 * index}.{name}"] = array
    return parameters


def module_of(library: Any, activation: str, initial: Arrays) -> Any:
    """The stack of linear layers in torch's or tracegrad's ``nn``, with these parameters."""
    nn = library.nn
    layers: list[Any] = []
    for name, array in initial.items():
        if name.endswith("weight"):
            fan_out, fan_in = array.shape
            layers += [nn.Linear(fan_in, fan_out), getattr(nn, activation)()]
    module = nn.Sequential(*layers[:-1])
    with library.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(library.tensor(initial[name]))
    return module


def program_of(module: Any, step: Callable[..., Any], *arguments: Any) -> Program:
    """The program that takes training steps. Reading the results takes one more."""
    run = partial(step, *arguments)

    def results() -> Arrays:
        loss = run().detach().numpy()
        parameters = {name: p.detach().numpy() for name, p in module.named_parameters()}
        return {"loss": loss, **parameters}

    return Program(run, results)


def program_of_jax(
    jax: Any, step: Callable[..., Any], state: Any, data: Sequence[np.ndarray]
) -> Program:
    """The same for a jitted ``step(state, *data) -> state, loss`` that is given its state."""
    jnp = jax.numpy
    state = jax.tree.map(jnp.asarray, state)
    arrays = [jnp.asarray(array) for array in data]

    def run() -> Any:
        nonlocal state
        state, loss = step(state, *arrays)
        return loss.block_until_ready()

    def results() -> Arrays:
        loss = np.array(run())
        return {"loss": loss, **{name: np.array(p) for name, p in state["parameters"].items()}}

    return Program(run, results)


def jax_network(parameters: Any, x: Any, activation: Callable[[Any], Any]) -> Any:
    weights = [name for name in parameters if name.endswith("weight")]
    for index, name in enumerate(weights):
        x = x @ parameters[name].T + parameters[name.replace("weight", "bias")]
        if index < len(weights) - 1:
            x = activation(x)
    return x


def split_parameters(inputs: Arrays) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """The parameters by name, and the data in order."""
    parameters = {name: array for name, array in inputs.items() if "." in name}
    return parameters, [array for name, array in inputs.items() if "." not in name]


def two_layer_inputs(features: int, hidden: int, outputs: int, batch: int) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((batch, features)).astype(np.float32),
        "ideal": rng.standard_normal((batch, outputs)).astype(np.float32),
        **linear_layers([features, hidden, outputs], rng),
    }


def two_layer_step(library: Any, inputs: Arrays, compile_: Callable[[Any], Any]) -> Program:
    """The step as torch's users write it, for torch and for tracegrad."""
    parameters, data = split_parameters(inputs)
    model = module_of(library, "ReLU", parameters)
    optimizer = library.optim.SGD(model.parameters(), lr=1e-4)

    @compile_
    def step(x: Any, ideal: Any) -> Any:
        optimizer.zero_grad()
        loss = (ideal - model(x)).pow(2).sum()
        loss.backward()
        optimizer.step()
        return loss

    return program_of(model, step, *map(library.tensor, data))


def two_layer_tracegrad(tg: Any, inputs: Arrays) -> Program:
    return two_layer_step(tg, inputs, tg.compile)


def two_layer_torch(torch: Any, inputs: Arrays) -> Program:
    return two_layer_step(torch, inputs, lambda step: step)


def two_layer_jax(jax: Any, inputs: Arrays) -> Program:
    parameters, data = split_parameters(inputs)

    def loss_of(parameters: Any, x: Any, ideal: Any) -> Any:
        return ((ideal - jax_network(parameters, x, jax.nn.relu)) ** 2).sum()

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, x: Any, ideal: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(state["parameters"], x, ideal)
        updated = jax.tree.map(lambda p, g: p - 1e-4 * g, state["parameters"], grads)
        return {"parameters": updated}, loss

    return program_of_jax(jax, step, {"parameters": parameters}, data)


def policy_inputs(observations: int, hidden: int, actions: int, batch: int) -> Arrays:
    rng = np.random.default_rng(0)
    taken = np.eye(actions, dtype=np.float32)[rng.integers(0, actions, batch)]
    return {
        "x": rng.standard_normal((batch, observations)).astype(np.float32),
        "taken": taken,
        "advantage": rng.standard_normal((batch, 1)).astype(np.float32),
        **linear_layers([observations, hidden, hidden, actions], rng),
    }


def policy_step(library: Any, inputs: Arrays, compile_: Callable[[Any], Any]) -> Program:
    """A policy-gradient step as torch's users write it, for torch and for tracegrad."""
    parameters, data = split_parameters(inputs)
    model = module_of(library, "Tanh", parameters)
    optimizer = library.optim.Adam(model.parameters(), lr=1e-3)
    batch = len(data[0])

    @compile_
    def step(x: Any, taken: Any, advantage: Any) -> Any:
        optimizer.zero_grad()
        log_probabilities = model(x).log_softmax(1)
        loss = -(log_probabilities * taken * advantage).sum() / batch
        loss.backward()
        optimizer.step()
        return loss

    return program_of(model, step, *map(library.tensor, data))


def policy_tracegrad(tg: Any, inputs: Arrays) -> Program:
    return policy_step(tg, inputs, tg.compile)


def policy_torch(torch: Any, inputs: Arrays) -> Program:
    return policy_step(torch, inputs, lambda step: step)


def policy_jax(jax: Any, inputs: Arrays) -> Program:
    jnp = jax.numpy
    parameters, data = split_parameters(inputs)
    batch = len(data[0])
    zeros = jax.tree.map(np.zeros_like, parameters)
    state = {"parameters": parameters, "mean": zeros, "square": zeros, "count": np.int32(0)}

    def loss_of(parameters: Any, x: Any, taken: Any, advantage: Any) -> Any:
        log_probabilities = jax.nn.log_softmax(jax_network(parameters, x, jnp.tanh))
        return -(log_probabilities * taken * advantage).sum() / batch

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, x: Any, taken: Any, advantage: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(state["parameters"], x, taken, advantage)
        count = state["count"] + 1
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["mean"], grads)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state["square"], grads)
        rate = 1e-3 / (1 - 0.9**count)
        root = jnp.sqrt(1 - 0.999**count)
        updated = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8),
            state["parameters"],
            mean,
            square,
        )
        return {"parameters": updated, "mean": mean, "square": square, "count": count}, loss

    return program_of_jax(jax, step, state, data)


TWO_LAYER_STEP = Benchmark(
    name="two_layer_step",
    title="two-layer network, one SGD step",
    sizes={"1000-100-10, batch 16": (1000, 100, 10, 16)},
    tiny=(6, 5, 4, 3),
    inputs=two_layer_inputs,
    systems=(
        System("tracegrad", "tracegrad", two_layer_tracegrad),
        System("torch", "torch", two_layer_torch),
        System("jax", "jax", two_layer_jax),
    ),
    rtol=1e-4,
    atol=1e-6,
)

POLICY_STEP = Benchmark(
    name="policy_step",
    title="policy network, one Adam step",
    sizes={"8-64-64-2, batch 32": (8, 64, 2, 32)},
    tiny=(4, 6, 2, 5),
    inputs=policy_inputs,
    systems=(
        System("tracegrad", "tracegrad", policy_tracegrad),
        System("torch", "torch", policy_torch),
        System("jax", "jax", policy_jax),
    ),
    rtol=1e-4,
    atol=1e-5,
)
