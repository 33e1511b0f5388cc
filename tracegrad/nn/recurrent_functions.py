"""What recurrent layers compute: the steps of the four kinds of cells, and layers of them over time.

The products of all inputs with the weights are one matrix product per layer and direction; what remains for a step is
the product with the state. :func:`run_layers` is where to start reading.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tracegrad.nn import init
from tracegrad.nn.layer_functions import dropout as drop
from tracegrad.nn.layer_functions import linear
from tracegrad.ops import elementwise as ew
from tracegrad.ops import linalg
from tracegrad.ops.shaping import cat, reshape, stack
from tracegrad.ops.striding import chunk, split, unbind
from tracegrad.tensor import Tensor

State = tuple[Tensor, ...]
"""What a step hands on, [batch, hidden_size] each: the output first, then the cell of an LSTM."""


class Weights(NamedTuple):
    """The weights of one cell, as torch has them: gates one below the other."""

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    projection: Tensor | None = None


Step = Callable[[Tensor, State, Weights], State]
"""A step of time: (gates from the input, state, weights) to the next state."""


def _tanh_step(gates: Tensor, state: State, weights: Weights) -> State:
    return (ew.tanh(linalg.addmm(gates, state[0], weights.hh.t())),)


def _relu_step(gates: Tensor, state: State, weights: Weights) -> State:
    return (ew.relu(linalg.addmm(gates, state[0], weights.hh.t())),)


def _lstm_step(gates: Tensor, state: State, weights: Weights) -> State:
    hidden, cell = state
    i, f, g, o = chunk(linalg.addmm(gates, hidden, weights.hh.t()), 4, 1)
    cell = ew.add(
        ew.mul(ew.sigmoid(f), cell),
        ew.mul(ew.sigmoid(i), ew.tanh(g)),
    )
    hidden = ew.mul(ew.sigmoid(o), ew.tanh(cell))
    if weights.projection is not None:
        hidden = linear(hidden, weights.projection)
    return hidden, cell


def _gru_step(gates: Tensor, state: State, weights: Weights) -> State:
    (hidden,) = state
    reset, update, new = chunk(gates, 3, 1)
    # The bias of the state is inside of the product with the reset gate, so it cannot be added to the input's.
    h_reset, h_update, h_new = chunk(linear(hidden, weights.hh, weights.bias_hh), 3, 1)
    reset = ew.sigmoid(ew.add(reset, h_reset))
    update = ew.sigmoid(ew.add(update, h_update))
    new = ew.tanh(ew.add(new, ew.mul(reset, h_new)))
    return (ew.add(ew.mul(ew.sub(hidden, new), update), new),)


MODES: dict[str, tuple[Step, int]] = {
    "RNN_TANH": (_tanh_step, 1),
    "RNN_RELU": (_relu_step, 1),
    "LSTM": (_lstm_step, 4),
    "GRU": (_gru_step, 3),
}
"""The kinds of cells by torch's names, with their numbers of gates."""


def gates_of(mode: str) -> int:
    """The number of gates."""
    return MODES[mode][1]


def draw_weights(weights: Iterable[Tensor], hidden_size: int) -> None:
    """Fill weights uniformly in (-k, k), k being ``1 / sqrt(hidden_size)``."""
    bound = 1.0 / math.sqrt(hidden_size) if hidden_size > 0 else 0
    for weight in weights:
        init.uniform_(weight, -bound, bound)


def _gates_of_input(mode: str, input: Tensor, weights: Weights) -> Tensor:
    """[steps * batch, gates] of [steps * batch, features]; with both biases where they are simply added up."""
    bias = weights.bias_ih
    if mode != "GRU" and weights.bias_hh is not None:
        bias = weights.bias_hh if bias is None else ew.add(bias, weights.bias_hh)
    return linear(input, weights.ih, bias)


def _check_dtypes(state: State, weights: Weights) -> None:
    for part in state:
        if part.dtype is not weights.hh.dtype:
            names = [t.type()[6:-6] for t in (part, weights.hh)]
            raise RuntimeError(
                f"mat1 and mat2 must have the same dtype, but got {names[0]} and {names[1]}"
            )


def run_cell(mode: str, input: Tensor, state: State, weights: Weights) -> State:
    """One step from [batch, features]."""
    _check_dtypes(state, weights)
    return MODES[mode][0](_gates_of_input(mode, input, weights), state, weights)


def run_layers(
    mode: str,
    data: Tensor,
    sizes: Sequence[int],
    state: State,
    weights: Sequence[Weights],
    dropout: float,
    bidirectional: bool,
) -> tuple[Tensor, State]:
    """Layers over time.

    Args:
        data: [sum of sizes, features], the rows of the first step first.
        sizes: how many rows each step has; they never increase.
        state: [layers * directions, batch, hidden_size] each.
        weights: of each layer, forward and then backward.
        dropout: the probability of a drop between layers.

    Returns:
        The last layer's outputs, laid out as `data`, and the final state, laid out as `state`.
    """
    _check_dtypes(state, weights[0])
    directions = 2 if bidirectional else 1
    begin = list(zip(*(unbind(part) for part in state), strict=True))
    final: list[State] = []
    for first in range(0, len(weights), directions):
        outputs = []
        for number in range(first, first + directions):
            gates = _split_steps(_gates_of_input(mode, data, weights[number]), sizes)
            run = _run_backward if number > first else _run_forward
            rows, last = run(MODES[mode][0], gates, begin[number], weights[number])
            outputs.append(_join_steps(rows))
            final.append(last)
        data = outputs[0] if len(outputs) == 1 else cat(outputs, 1)
        if dropout and first + directions < len(weights):
            data = drop(data, dropout)
    return data, tuple(stack(parts) for parts in zip(*final, strict=True))


def _split_steps(gates: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """The rows of each step."""
    if sizes[0] == sizes[-1]:
        return unbind(reshape(gates, len(sizes), sizes[0], gates.shape[1]))
    return split(gates, list(sizes))


def _join_steps(rows: Sequence[Tensor]) -> Tensor:
    return cat(rows) if len(rows) > 1 else rows[0]


def _run_forward(
    step: Step, gates: Sequence[Tensor], state: State, weights: Weights
) -> tuple[list[Tensor], State]:
    """Outputs of all steps, and the state of each sequence after its own last step."""
    ended: list[State] = []
    outputs = []
    for gate in gates:
        state = _leave(state, gate.shape[0], ended)
        state = step(gate, state, weights)
        outputs.append(state[0])
    ended.append(state)
    if len(ended) > 1:
        state = tuple(cat(parts[::-1]) for parts in zip(*ended, strict=True))
    return outputs, state


def _leave(state: State, rows: int, ended: list[State]) -> State:
    """The state of the first rows; that of the others has ended."""
    if state[0].shape[0] == rows:
        return state
    ended.append(tuple(part[rows:] for part in state))
    return tuple(part[:rows] for part in state)


def _run_backward(
    step: Step, gates: Sequence[Tensor], state: State, weights: Weights
) -> tuple[list[Tensor], State]:
    """As `_run_forward` from the last step to the first; a sequence joins at its own last step."""
    begin = state
    rows = gates[-1].shape[0]
    if begin[0].shape[0] != rows:
        state = tuple(part[:rows] for part in begin)
    outputs = []
    for gate in reversed(gates):
        if gate.shape[0] != rows:
            joining = [part[rows : gate.shape[0]] for part in begin]
            state = tuple(cat(parts) for parts in zip(state, joining, strict=True))
            rows = gate.shape[0]
        state = step(gate, state, weights)
        outputs.append(state[0])
    return outputs[::-1], state
