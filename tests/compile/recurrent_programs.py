"""Programs with recurrent layers, packed sequences and parametrized modules.

See :mod:`programs` for the form. Each changes modes, options, lengths or parametrizations between calls.
"""

from __future__ import annotations

from typing import Any

from compile_programs import Compile, World, data, program

import tracegrad as tg
from tracegrad import nn
from tracegrad.nn.utils import parametrizations, parametrize, rnn


def filled(module: nn.Module) -> nn.Module:
    """With the same parameters in both worlds."""
    with tg.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(data(*parameter.shape, seed=seed) * 0.5)
    return module


@program(native=None)
def recurrent_layer_that_changes(compile: Compile) -> World:
    """A whole training step; the mode, an option and a weight are changed in between."""
    net = filled(nn.LSTM(3, 4, 2, dropout=1.0))

    @compile
    def step(x: tg.Tensor) -> Any:
        net.zero_grad()
        out, (hidden, _) = net(x)
        ((out * out).sum() + hidden.sum()).backward()
        with tg.no_grad():
            for p in net.parameters():
                p -= 0.1 * p.grad
        return out

    def call(turn: int) -> Any:
        net.train(turn not in (2, 3))
        if turn == 5:
            net.dropout = 0.0
        if turn == 7:
            net.weight_hh_l0 = nn.Parameter(data(16, 4))
        return step(data(3, 2, 3, seed=turn))

    return World(call, list(net.parameters()))


@program()
def state_kept_between_calls(compile: Compile) -> World:
    cell = filled(nn.GRUCell(3, 4))
    hidden = tg.zeros(2, 4)

    @compile
    def step(x: tg.Tensor) -> Any:
        following = cell(x, hidden.clone())
        hidden.copy_(following.detach())
        return following

    return World(lambda turn: step(data(2, 3, seed=turn)), [*cell.parameters(), hidden])


@program(native=None)
def lengths_as_a_tensor(compile: Compile) -> World:
    net = filled(nn.GRU(2, 3, bidirectional=True))

    @compile
    def run(x: tg.Tensor, lengths: tg.Tensor) -> Any:
        packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        out, hidden = net(packed)
        return rnn.pad_packed_sequence(out, batch_first=True)[0], hidden

    def call(turn: int) -> Any:
        lengths = tg.tensor([3, 1, 2] if turn % 3 else [2, 2, 3])
        return run(data(3, 3, 2, seed=turn), lengths)

    return World(call, list(net.parameters()))


@program(native=None)
def lengths_as_numbers(compile: Compile) -> World:
    net = filled(nn.RNN(2, 3))

    @compile
    def run(x: tg.Tensor, lengths: list[int]) -> Any:
        return net(rnn.pack_padded_sequence(x, lengths))

    return World(
        lambda turn: run(data(3, 2, 2, seed=turn), [3, 2 if turn < 6 else 1]),
        list(net.parameters()),
    )


@program(native=None)
def packed_sequence_as_argument(compile: Compile) -> World:
    net = filled(nn.RNN(2, 3))
    run = compile(lambda packed: net(packed))

    def call(turn: int) -> Any:
        lengths = [3, 2] if turn < 5 else [2, 1]
        return run(rnn.pack_padded_sequence(data(3, 2, 2, seed=turn), lengths))

    return World(call, list(net.parameters()))


@program(native=None)
def parametrization_that_comes_and_goes(compile: Compile) -> World:
    net = filled(nn.Linear(3, 4))
    run = compile(lambda x: net(x))

    def call(turn: int) -> Any:
        if turn == 2:
            parametrizations.weight_norm(net)
        if turn == 4:
            with tg.no_grad():
                net.parametrizations.weight.original0.mul_(2)
        if turn == 7:
            parametrize.remove_parametrizations(net, "weight")
        return run(data(2, 3, seed=turn))

    return World(call, [net.bias])


@program(native=None)
def parametrization_that_is_cached(compile: Compile) -> World:
    net = filled(parametrizations.weight_norm(nn.Linear(3, 4)))
    run = compile(lambda x: net(x))

    def call(turn: int) -> Any:
        if turn not in (3, 4):
            return run(data(2, 3, seed=turn))
        with parametrize.cached():
            before = run(data(2, 3, seed=turn))
            with tg.no_grad():
                net.parametrizations.weight.original0.mul_(2)
            return before, run(data(2, 3, seed=turn))

    return World(call, list(net.parameters()))


@program(native=None)
def spectral_norm_in_both_modes(compile: Compile) -> World:
    net = filled(parametrizations.spectral_norm(nn.Linear(3, 4)))
    with tg.no_grad():
        for seed, vector in enumerate(net.parametrizations.weight[0].buffers()):
            vector.copy_(nn.functional.normalize(data(*vector.shape, seed=seed), dim=0))
    run = compile(lambda x: net(x))

    def call(turn: int) -> Any:
        net.train(turn not in (4, 5))
        return run(data(2, 3, seed=turn))

    return World(call, [*net.parameters(), *net.buffers()])
