"""Programs with a profiler in, around or across the compiled function. See :mod:`programs` for the form."""

from __future__ import annotations

from typing import Any

from compile_programs import Compile, World, data, leaf, program

import tracegrad as tg
from tracegrad.autograd.profiler import profile, record_function


@program(native=False)
def a_profile_inside(compile: Compile) -> World:
    """What the profile tells is Python's: it must see the operations at each call."""
    seen: list[int] = []

    @compile
    def step(x: tg.Tensor) -> tg.Tensor:
        with profile() as prof:
            y = x.sin() * x
        seen.append(len(prof.function_events))
        return y

    return World(lambda turn: (step(data(3, seed=turn)), list(seen)), [])


@program(native=False)
def table_of_a_profile_inside(compile: Compile) -> World:
    @compile
    def step(x: tg.Tensor) -> Any:
        with profile() as prof:
            x.exp()
        return x * 2, [row.count for row in prof.key_averages()]

    return World(lambda turn: step(data(3, seed=turn)), [])


@program()
def regions_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def step(x: tg.Tensor) -> tg.Tensor:
        with record_function("forward"):
            loss = (w * x).sum()
        with record_function("backward"):
            loss.backward()
        return loss.detach()

    return World(lambda turn: step(data(3, seed=turn)), [w])


@program()
def profiled_now_and_then(compile: Compile) -> World:
    """Traced under a profile or not, called under a profile or not: nothing else changes."""
    w = leaf(3)

    @compile
    def step(x: tg.Tensor) -> tg.Tensor:
        loss = ((w * x).tanh() ** 2).sum()
        loss.backward()
        return loss.detach()

    def call(turn: int) -> Any:
        with profile(enabled=turn % 2 == 0, profile_memory=True, with_stack=turn % 4 == 0):
            return step(data(3, seed=turn))

    return World(call, [w])


@program()
def differentiated_under_a_profile(compile: Compile) -> World:
    w = leaf(3)
    energy = compile(lambda x: (w * x).exp().sum())

    def call(turn: int) -> Any:
        loss = energy(data(3, seed=turn))
        with profile(enabled=turn % 3 == 0, record_shapes=True):
            loss.backward()
        return loss

    return World(call, [w])


@program()
def profile_across_calls(compile: Compile) -> World:
    """Begun before one call, ended after the next."""
    w = leaf(3)
    step = compile(lambda x: (w * x).sum())
    running: list[profile] = []

    def call(turn: int) -> Any:
        if turn % 3 == 1:
            running.append(profile())
            running[-1].__enter__()
        out = step(data(3, seed=turn))
        if turn % 3 == 2:
            running.pop().__exit__(None, None, None)
        return out

    return World(call, [w])
