"""Cells of recurrent layers: one step of time for a batch, or for one element.

What they compute is in :mod:`tracegrad.nn.recurrent_functions`. Start reading at :class:`RNNCellBase`.
"""

from __future__ import annotations

from typing import Any

from tracegrad.nn.module import Module
from tracegrad.nn.parameter import Parameter
from tracegrad.nn.recurrent_functions import Weights, draw_weights, gates_of, run_cell
from tracegrad.ops.creation import empty, zeros
from tracegrad.ops.shaping import squeeze, unsqueeze
from tracegrad.tensor import Tensor


class RNNCellBase(Module):
    """What the cells have in common.

    The weights ``weight_ih``, ``weight_hh``, ``bias_ih`` and ``bias_hh`` begin uniform in (-k, k), k being
    ``1 / sqrt(hidden_size)``.

    Args:
        num_chunks: the number of gates, whose weights stand one below the other.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        gates = num_chunks * hidden_size
        self.weight_ih = Parameter(empty((gates, input_size), device=device, dtype=dtype))
        self.weight_hh = Parameter(empty((gates, hidden_size), device=device, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            values = Parameter(empty(gates, device=device, dtype=dtype)) if bias else None
            self.register_parameter(name, values)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        draw_weights(self.parameters(), self.hidden_size)

    def _check_rank(self, what: str, value: Tensor) -> None:
        if value.dim() not in (1, 2):
            name = type(self).__name__
            raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {value.dim()}D instead")

    def _step(
        self, mode: str, input: Tensor, state: tuple[Tensor, ...] | None, parts: int = 1
    ) -> tuple[Tensor, ...]:
        """The next state; from zeros, if `state` is None."""
        batched = input.dim() == 2
        if not batched:
            input = unsqueeze(input, 0)
        if state is None:
            state = (zeros(input.shape[0], self.hidden_size, dtype=input.dtype),) * parts
        elif not batched:
            state = tuple(unsqueeze(part, 0) for part in state)
        weights = Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        _check_shapes(mode, input, state, weights)
        state = run_cell(mode, input, state, weights)
        return state if batched else tuple(squeeze(part, 0) for part in state)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            text += f", bias={self.bias}"
        nonlinearity = self.__dict__.get("nonlinearity", "tanh")
        return text if nonlinearity == "tanh" else f"{text}, nonlinearity={nonlinearity}"


def _check_shapes(mode: str, input: Tensor, state: tuple[Tensor, ...], weights: Weights) -> None:
    batch, features = input.shape
    expected = weights.ih.shape[1]
    if features != expected:
        raise RuntimeError(f"input has inconsistent input_size: got {features} expected {expected}")
    size = weights.hh.shape[1]
    for number, part in enumerate(state):
        if part.shape[0] != batch:
            raise RuntimeError(
                f"Input batch size {batch} doesn't match hidden{number} batch size {part.shape[0]}"
            )
        if part.size(1) != size:
            raise RuntimeError(
                f"hidden{number} has inconsistent hidden_size: got {part.size(1)}, expected {size}"
            )
    gates = gates_of(mode)
    if weights.ih.shape[0] != gates * size:
        raise RuntimeError(
            f"weight_ih first dim must be {gates} * hidden_size = {gates * size}, but got "
            f"{weights.ih.shape[0]}"
        )


class RNNCell(RNNCellBase):
    """``tanh(x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh)``.

    Called with [batch, input_size] (or [input_size]) and perhaps a state, [batch, hidden_size], which is zero by
    default. Returns the next state.

    Args:
        nonlinearity: "tanh" or "relu".

    Raises:
        RuntimeError: when called, shapes do not fit, or the nonlinearity is unknown.
        ValueError: when called, a rank that is not 1 or 2.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        self._check_rank("input", input)
        if hx is not None:
            self._check_rank("hidden", hx)
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        mode = f"RNN_{self.nonlinearity.upper()}"
        return self._step(mode, input, None if hx is None else (hx,))[0]


class LSTMCell(RNNCellBase):
    """A step of long short-term memory, as `LSTM` makes.

    Called with [batch, input_size] (or [input_size]) and perhaps a state, a pair (h, c) of [batch, hidden_size], which
    are zero by default. Returns the next pair.

    Raises:
        RuntimeError: when called, shapes do not fit.
        ValueError: when called, a rank that is not 1 or 2.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check_rank("input", input)
        if hx is not None:
            for number, part in enumerate(hx):
                self._check_rank(f"hx[{number}]", part)
            if isinstance(hx, Tensor):
                raise TypeError(
                    "lstm_cell(): argument 'hx' (position 2) must be tuple of Tensors, not Tensor"
                )
            if len(hx) != 2:
                raise RuntimeError("lstm_cell expects two hidden states")
        hidden, cell = self._step("LSTM", input, hx, 2)
        return hidden, cell


class GRUCell(RNNCellBase):
    """A step of a gated recurrent unit, as `GRU` makes; called as `RNNCell`.

    Raises:
        RuntimeError: when called, shapes do not fit.
        ValueError: when called, a rank that is not 1 or 2.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        self._check_rank("input", input)
        if hx is not None:
            self._check_rank("hidden", hx)
        return self._step("GRU", input, None if hx is None else (hx,))[0]
