"""Recurrent layers: RNN, LSTM and GRU over sequences.

What they compute is in :mod:`tracegrad.nn.recurrent_functions`. Start reading at :class:`RNNBase`.
"""

from __future__ import annotations

import itertools
import numbers
import warnings
from typing import Any, ClassVar

from tracegrad.nn.module import Module
from tracegrad.nn.parameter import Parameter
from tracegrad.nn.recurrent_functions import MODES, Weights, draw_weights, gates_of, run_layers
from tracegrad.nn.utils.rnn import PackedSequence, read_integers
from tracegrad.ops.creation import empty, zeros
from tracegrad.ops.indexing import index_select
from tracegrad.ops.shaping import reshape, squeeze, transpose, unsqueeze
from tracegrad.tensor import Tensor


class RNNBase(Module):
    """What the layers over sequences have in common: weights, checks and the way through a call.

    The weights ``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0`` (and ``weight_hr_l0`` of a
    projection), then those with ``_reverse``, then those of the next layer, begin uniform in (-k, k), k being
    ``1 / sqrt(hidden_size)``.

    Args:
        mode: "RNN_TANH", "RNN_RELU", "LSTM" or "GRU".
        batch_first: sequences are [batch, time, features] rather than [time, batch, features]; states are not.
        dropout: the probability of a drop after each layer but the last.
        proj_size: the size to which an LSTM brings its outputs; 0 for none.

    Raises:
        ValueError: sizes, `dropout` or `mode` are impossible.
        TypeError: an argument has another type.
    """

    _refused_rank: ClassVar[str] = "instead"

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._check_options(dropout)
        self._all_weights: list[list[str]] = []
        for layer in range(num_layers):
            for suffix in ("", "_reverse")[: self._directions]:
                self._add_weights(layer, suffix, device, dtype)
        self.reset_parameters()

    def _check_options(self, dropout: Any) -> None:
        if (
            not isinstance(dropout, numbers.Number)
            or isinstance(dropout, bool)
            or not 0 <= self.dropout <= 1
        ):
            raise ValueError(
                "dropout should be a number in range [0, 1] representing the probability of an element being "
                "zeroed"
            )
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={self.num_layers}",
                stacklevel=4,
            )
        for name in ("bias", "batch_first"):
            self._check_type(name, bool)
        for name in ("input_size", "hidden_size"):
            self._check_type(name, int)
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than zero")
        if self.num_layers <= 0:
            raise ValueError("num_layers must be greater than zero")
        if self.proj_size < 0:
            raise ValueError(
                "proj_size should be a positive integer or zero to disable projections"
            )
        if self.proj_size >= self.hidden_size:
            raise ValueError("proj_size has to be smaller than hidden_size")
        if self.mode not in MODES:
            raise ValueError("Unrecognized RNN mode: " + self.mode)

    def _check_type(self, name: str, type_: type) -> None:
        value = getattr(self, name)
        if not isinstance(value, type_):
            raise TypeError(
                f"{name} should be of type {type_.__name__}, got: {type(value).__name__}"
            )

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _output_size(self) -> int:
        return self.proj_size or self.hidden_size

    def _add_weights(self, layer: int, suffix: str, device: Any, dtype: Any) -> None:
        gates = gates_of(self.mode) * self.hidden_size
        features = self._output_size * self._directions if layer else self.input_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (gates, features),
            "weight_hh": (gates, self._output_size),
        }
        if self.bias:
            shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        names = []
        for kind, shape in shapes.items():
            name = f"{kind}_l{layer}{suffix}"
            setattr(self, name, Parameter(empty(shape, device=device, dtype=dtype)))
            names.append(name)
        self._all_weights.append(names)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        draw_weights(self.parameters(), self.hidden_size)

    def flatten_parameters(self) -> None:
        """Nothing: torch lays out weights in one piece for GPUs."""

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The weights of each layer and direction."""
        return self._weights_by_layer()

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def _flat_weights(self) -> list[Parameter]:
        return [weight for weights in self._weights_by_layer() for weight in weights]

    def _weights_by_layer(self) -> list[list[Parameter]]:
        # No property: within one, AttributeError for a weight that was deleted would name the property.
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def _weights(self, packed: bool) -> list[Weights]:
        layers = self._weights_by_layer()
        for number, weight in enumerate(itertools.chain.from_iterable(layers)):
            if not isinstance(weight, Tensor):
                raise TypeError(
                    f"expected Tensor as element {number} in argument {3 if packed else 2}, but got "
                    f"{type(weight).__name__}"
                )
        found = []
        for weights in layers:
            bias_ih, bias_hh = weights[2:4] if self.bias else (None, None)
            projection = weights[-1] if self.proj_size else None
            found.append(Weights(weights[0], weights[1], bias_ih, bias_hh, projection))
        return found

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """Compare the dtype and shape of a batch with those of the weights.

        Raises:
            ValueError: another dtype.
            RuntimeError: another rank or number of features.
        """
        expected = self._weights_by_layer()[0][0].dtype
        if input.dtype != expected:
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({expected}). Convert input: "
                f"input.to({expected}), or convert model: model.to({input.dtype})"
            )
        rank = 3 if batch_sizes is None else 2
        if input.dim() != rank:
            raise RuntimeError(f"input must have {rank} dimensions, got {input.dim()}")
        if input.size(-1) != self.input_size:
            raise RuntimeError(
                "input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {input.size(-1)}"
            )

    def get_expected_hidden_size(
        self, input: Tensor, batch_sizes: Tensor | None
    ) -> tuple[int, int, int]:
        """The shape of the state for a batch."""
        return self._state_shape(self._output_size, input, batch_sizes)

    def _state_shape(
        self, size: int, input: Tensor, batch_sizes: Tensor | None
    ) -> tuple[int, int, int]:
        batch_dim = 0 if self.batch_first else 1
        batch = input.size(batch_dim) if batch_sizes is None else int(batch_sizes[0])
        return self.num_layers * self._directions, batch, size

    def check_hidden_size(
        self,
        hx: Tensor,
        expected_hidden_size: tuple[int, int, int],
        msg: str = "Expected hidden size {}, got {}",
    ) -> None:
        """Raise RuntimeError where a state has another shape."""
        if tuple(hx.shape) != expected_hidden_size:
            raise RuntimeError(msg.format(expected_hidden_size, list(hx.shape)))

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        """Raise what `check_input` and `check_hidden_size` do."""
        self.check_input(input, batch_sizes)
        self.check_hidden_size(hidden, self.get_expected_hidden_size(input, batch_sizes))

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        """A state whose batch is in another order."""
        if permutation is None:
            return hx
        return self._on_state(hx, lambda part: index_select(part, 1, permutation))

    # What an LSTM does otherwise, its state being two tensors.

    def _on_state(self, hx: Any, change: Any) -> Any:
        return change(hx)

    def _as_parts(self, hx: Any) -> tuple[Tensor, ...]:
        return (hx,)

    def _from_parts(self, parts: tuple[Tensor, ...]) -> Any:
        return parts[0]

    def _first_state(self, input: Tensor, batch_sizes: Tensor | None) -> Any:
        shape = self.get_expected_hidden_size(input, batch_sizes)
        return zeros(shape, dtype=input.dtype)

    def _check_rank_of_state(self, hx: Any, batched: bool) -> None:
        rank = 3 if batched else 2
        if hx.dim() != rank:
            kind = "batched 3-D" if batched else "unbatched 2-D"
            raise RuntimeError(
                f"For {kind} input, hx should also be {rank}-D but got {hx.dim()}-D tensor"
            )

    # The way through a call.

    def _call(self, input: Any, hx: Any) -> tuple[Any, Any]:
        if isinstance(input, PackedSequence):
            return self._run_packed(input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(
                f"{self.mode.partition('_')[0]}: Expected input to be 2D or 3D, got {input.dim()}D "
                f"{self._refused_rank}"
            )
        batched = input.dim() == 3
        batch_dim = 0 if self.batch_first else 1
        if hx is not None:
            self._check_rank_of_state(hx, batched)
        if not batched:
            input = unsqueeze(input, batch_dim)
            if hx is not None:
                hx = self._on_state(hx, lambda part: unsqueeze(part, 1))
        if hx is None:
            hx = self._first_state(input, None)
        self.check_forward_args(input, hx, None)
        steps = transpose(input, 0, 1) if self.batch_first else input
        length, batch, features = steps.shape
        if not length:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        rows = reshape(steps, length * batch, features)
        rows, final = self._run(rows, [batch] * length, hx, packed=False)
        output = reshape(rows, length, batch, rows.shape[1])
        if self.batch_first:
            output = transpose(output, 0, 1)
        if not batched:
            return squeeze(output, batch_dim), self._on_state(final, lambda part: squeeze(part, 1))
        return output, final

    def _run_packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        data, batch_sizes, order, restore = input
        hx = self._first_state(data, batch_sizes) if hx is None else self.permute_hidden(hx, order)
        self.check_forward_args(data, hx, batch_sizes)
        rows, final = self._run(data, read_integers(batch_sizes), hx, packed=True)
        output = PackedSequence(rows, batch_sizes, order, restore)
        return output, self.permute_hidden(final, restore)

    def _run(self, rows: Tensor, sizes: list[int], hx: Any, packed: bool) -> tuple[Tensor, Any]:
        output, final = run_layers(
            self.mode,
            rows,
            sizes,
            self._as_parts(hx),
            self._weights(packed),
            self.dropout if self.training else 0.0,
            self.bidirectional,
        )
        return output, self._from_parts(final)

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        usual = {
            "proj_size": 0,
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0,
            "bidirectional": False,
        }
        values = ((name, getattr(self, name), value) for name, value in usual.items())
        parts += [f"{name}={value}" for name, value, expected in values if value != expected]
        return ", ".join(parts)


class RNN(RNNBase):
    """Layers of ``h = tanh(x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh)`` over time.

    Called with [time, batch, input_size] (or [time, input_size], or a `PackedSequence`) and perhaps a first state,
    [num_layers * directions, batch, hidden_size]. Returns the last layer's outputs, [time, batch, directions *
    hidden_size], and the last state.

    Args:
        input_size: the number of features.
        nonlinearity: "tanh" or "relu".
        num_layers, bias, batch_first, dropout, bidirectional: see `RNNBase`.

    Raises:
        ValueError: impossible options.
    """

    _refused_rank = "tensor instead"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse_projection(kwargs)
        if len(args) > 3:
            self.nonlinearity = args[3]
            args = args[:3] + args[4:]
        else:
            self.nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{self.nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(f"RNN_{self.nonlinearity.upper()}", *args, **kwargs)

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        return self._call(input, hx)


class GRU(RNNBase):
    """Layers of gated recurrent units over time; called as `RNN`.

    With reset, update and new gates r, z, n of input and state, the state becomes ``(1 - z) * n + z * h``, where
    ``n = tanh(x @ weight_in.T + bias_in + r * (h @ weight_hn.T + bias_hn))``.

    Raises:
        ValueError: impossible options.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse_projection(kwargs)
        super().__init__("GRU", *args, **kwargs)

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        return self._call(input, hx)


def _refuse_projection(options: dict[str, Any]) -> None:
    if "proj_size" in options:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


class LSTM(RNNBase):
    """Layers of long short-term memory over time; called as `RNN`, with a pair (h, c) as state.

    With input, forget, cell and output gates i, f, g, o of input and state, ``c = f * c + i * g`` and
    ``h = o * tanh(c)``, which `proj_size` brings to another size by ``weight_hr``.

    Raises:
        ValueError: impossible options.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    def forward(
        self, input: Any, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        return self._call(input, hx)

    def get_expected_cell_size(
        self, input: Tensor, batch_sizes: Tensor | None
    ) -> tuple[int, int, int]:
        """The shape of the cells for a batch."""
        return self._state_shape(self.hidden_size, input, batch_sizes)

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        """Raise what `check_input` and `check_hidden_size` do."""
        self.check_input(input, batch_sizes)
        shapes = (
            self.get_expected_hidden_size(input, batch_sizes),
            self.get_expected_cell_size(input, batch_sizes),
        )
        for number, shape in enumerate(shapes):
            message = f"Expected hidden[{number}] size {{}}, got {{}}"
            self.check_hidden_size(hidden[number], shape, message)

    def _on_state(self, hx: Any, change: Any) -> Any:
        return change(hx[0]), change(hx[1])

    def _as_parts(self, hx: Any) -> tuple[Tensor, ...]:
        return hx[0], hx[1]

    def _from_parts(self, parts: tuple[Tensor, ...]) -> Any:
        return parts

    def _first_state(self, input: Tensor, batch_sizes: Tensor | None) -> Any:
        hidden = zeros(self.get_expected_hidden_size(input, batch_sizes), dtype=input.dtype)
        return hidden, zeros(self.get_expected_cell_size(input, batch_sizes), dtype=input.dtype)

    def _check_rank_of_state(self, hx: Any, batched: bool) -> None:
        rank = 3 if batched else 2
        if hx[0].dim() != rank or hx[1].dim() != rank:
            kind = "batched 3-D" if batched else "unbatched 2-D"
            raise RuntimeError(
                f"For {kind} input, hx and cx should also be {rank}-D but got ({hx[0].dim()}-D, "
                f"{hx[1].dim()}-D) tensors"
            )
