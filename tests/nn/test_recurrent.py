"""Recurrent layers and cells: values, gradients and their gradients as torch's, compiled as eager, errors."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import nn

# Layers, written with `nn`, and whether a first state is given.
LAYERS: dict[str, tuple[str, bool]] = {
    "tanh": ("RNN(3, 4)", False),
    "relu": ("RNN(3, 4, 2, 'relu', bias=False)", True),
    "stacked": ("RNN(3, 4, num_layers=2, bidirectional=True, batch_first=True)", True),
    "lstm": ("LSTM(3, 4)", False),
    "lstm without bias": ("LSTM(3, 4, 2, False, batch_first=True)", True),
    "lstm both ways": ("LSTM(3, 4, 2, bidirectional=True)", True),
    "lstm projected": ("LSTM(3, 4, 2, proj_size=2, bidirectional=True)", True),
    "lstm projected without bias": ("LSTM(3, 4, bias=False, proj_size=1)", False),
    "gru": ("GRU(3, 4)", False),
    "gru without bias": ("GRU(3, 4, 2, bias=False)", True),
    "gru both ways": ("GRU(3, 4, 2, bidirectional=True, batch_first=True)", True),
}
CELLS = {
    "tanh cell": ("RNNCell(3, 4)", True),
    "relu cell": ("RNNCell(3, 4, False, 'relu')", False),
    "lstm cell": ("LSTMCell(3, 4)", True),
    "lstm cell without bias": ("LSTMCell(3, 4, bias=False)", False),
    "gru cell": ("GRUCell(3, 4)", True),
    "gru cell without state": ("GRUCell(3, 4, False)", False),
}
LENGTHS = {"sorted": [4, 4, 2, 1], "unsorted": [1, 4, 2, 4], "equal": [3, 3, 3, 3]}


def make(lib: Any, text: str) -> Any:
    return eval(f"nn.{text}", {"nn": lib.nn}).double()


def state_for(lib: Any, layer: Any, batch: tuple[int, ...]) -> Any:
    """A first state for a layer or a cell."""
    rng = np.random.default_rng(7)
    name, size = type(layer).__name__, layer.hidden_size
    lead: tuple[int, ...] = batch
    if not name.endswith("Cell"):
        lead = (layer.num_layers * (1 + layer.bidirectional), *batch)
        size = layer.proj_size or size
    hidden = lib.tensor(rng.normal(size=(*lead, size)), requires_grad=True)
    if "LSTM" not in name:
        return hidden
    return hidden, lib.tensor(rng.normal(size=(*lead, layer.hidden_size)), requires_grad=True)


def flatten(value: Any) -> list[Any]:
    """The tensors in a result, without indices."""
    if isinstance(value, tuple):
        return [leaf for part in value for leaf in flatten(part)]
    return [value] if value is not None and value.is_floating_point() else []


def derivatives(lib: Any, out: Any, leaves: list[Any]) -> list[Any]:
    """Results, gradients of a function of them, and gradients of a function of those."""
    results = flatten(out)
    scalar = sum((r * r * r).sum() for r in results)
    grads = lib.autograd.grad(scalar, leaves, create_graph=True)
    second = lib.autograd.grad(sum((g * g).sum() for g in grads), leaves)
    return [*results, *grads, *second]


def compare(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.detach().numpy(), b.detach().numpy()
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def inputs_for(lib: Any, layer: Any, shape: tuple[int, ...], with_state: bool) -> list[Any]:
    """Arguments of a call, [time, batch, features] brought to the layer's order."""
    x = np.random.default_rng(5).normal(size=shape)
    if getattr(layer, "batch_first", False) and x.ndim == 3:
        x = x.swapaxes(0, 1).copy()
    batch = shape[:-1] if type(layer).__name__.endswith("Cell") else shape[1:-1]
    arguments = [lib.tensor(x, requires_grad=True)]
    return [*arguments, state_for(lib, layer, batch)] if with_state else arguments


@pytest.mark.peers
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("what", [*LAYERS, *CELLS])
def test_as_torch(what: str, batched: bool, torch: ModuleType, same_module: Any) -> None:
    text, with_state = {**LAYERS, **CELLS}[what]
    shape = (2, 3) if what in CELLS else (5, 2, 3)
    if not batched:
        shape = (shape[0], 3) if what in LAYERS else (3,)
    theirs, ours = make(torch, text), make(tg, text)
    same_module(ours, theirs)
    assert repr(ours) == repr(theirs)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    found = []
    for lib, layer in ((tg, ours), (torch, theirs)):
        arguments = inputs_for(lib, layer, shape, with_state)
        leaves = [*flatten(tuple(arguments)), *layer.parameters()]
        found.append(derivatives(lib, layer(*arguments), leaves))
    compare(*found)


@pytest.mark.peers
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("what", LAYERS)
def test_packed_as_torch(what: str, lengths: str, torch: ModuleType, same_module: Any) -> None:
    text, with_state = LAYERS[what]
    theirs, ours = make(torch, text), make(tg, text)
    same_module(ours, theirs)
    found = []
    for lib, layer in ((tg, ours), (torch, theirs)):
        arguments = inputs_for(lib, layer, (4, 4, 3), with_state)
        packed = lib.nn.utils.rnn.pack_padded_sequence(
            arguments[0], LENGTHS[lengths], layer.batch_first, enforce_sorted=lengths != "unsorted"
        )
        leaves = [*flatten(tuple(arguments)), *layer.parameters()]
        out = layer(packed, *arguments[1:])
        assert out[0].batch_sizes is packed.batch_sizes
        assert out[0].unsorted_indices is packed.unsorted_indices
        found.append(derivatives(lib, out, leaves))
    compare(*found)


@pytest.mark.parametrize("what", ["stacked", "lstm projected", "gru both ways", "lstm cell"])
def test_compiled_as_eager(what: str) -> None:
    """Value, gradients and, of a short sequence, gradients of gradients, natively."""
    text, _ = {**LAYERS, **CELLS}[what]
    tg.manual_seed(2)
    layer = make(tg, text)
    x, state = inputs_for(tg, layer, (2, 3) if what in CELLS else (3, 2, 3), True)

    def step(x: tg.Tensor, state: Any) -> list[tg.Tensor]:
        leaves = [*flatten((x, state)), *layer.parameters()]
        return derivatives(tg, layer(x, state), leaves)

    compiled = tg.compile(step)
    compiled(x, state)
    with tg.no_grad():
        layer.weight_hh_l0.mul_(0.5) if what in LAYERS else layer.weight_hh.mul_(0.5)
    compare(compiled(x, state), step(x, state))
    assert (compiled.stats.native, compiled.stats.interpreted) == (1, 0), compiled.explain()


@pytest.mark.parametrize("what", ["tanh", "lstm", "gru both ways"])
def test_compiled_with_packed_sequences(what: str) -> None:
    """Packing inside, and other lengths at each call."""
    layer = make(tg, LAYERS[what][0])

    def run(x: tg.Tensor, lengths: tg.Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
        out, state = layer(packed)
        return *nn.utils.rnn.pad_packed_sequence(out), *flatten(state)

    compiled = tg.compile(run)
    x = tg.randn(4, 4, 3, dtype=tg.float64)
    for lengths in ([4, 4, 2, 1], [4, 4, 2, 1], [4, 3, 3, 3], [2, 2, 1, 1], [4, 4, 2, 1]):
        compare(compiled(x, tg.tensor(lengths)), run(x, tg.tensor(lengths)))
    assert compiled.stats.native, compiled.explain()


def test_compiled_after_changes() -> None:
    """Modes, options and weights that are replaced: a compiled function follows."""
    layer = nn.GRU(3, 4, 2, dropout=1.0)
    compiled = tg.compile(layer)
    x = tg.randn(5, 2, 3)

    def check() -> None:
        for _ in range(2):
            for a, b in zip(compiled(x), layer(x), strict=True):
                np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-5, atol=1e-6)

    check()
    trained = layer(x)[0]
    layer.eval()
    check()
    assert not tg.equal(layer(x)[0], trained)
    layer.train()
    layer.dropout = 0.0
    check()
    layer.weight_hh_l1 = nn.Parameter(tg.zeros(12, 4))
    check()
    layer.reset_parameters()
    layer.batch_first = True
    check()
    assert compiled.stats.native >= 4, compiled.explain()


def test_dropout_is_between_layers() -> None:
    """With probability 1 the second layer sees zeros, in training only; the last layer's output is not dropped."""
    layer = nn.LSTM(3, 4, 2, dropout=1.0)
    x, y = tg.randn(5, 2, 3), tg.randn(5, 2, 3)
    assert tg.equal(layer(x)[0], layer(y)[0])
    assert layer(x)[0].abs().sum() > 0
    layer.eval()
    assert not tg.equal(layer(x)[0], layer(y)[0])


def test_dropout_draws() -> None:
    """The part that is dropped, and what remains, scaled."""
    tg.manual_seed(4)
    layer = nn.RNN(1, 40, 2, "relu", dropout=0.25)
    with tg.no_grad():
        for p in layer.parameters():
            p.zero_()
        layer.bias_ih_l0.fill_(3.0)
        layer.weight_ih_l1.copy_(tg.eye(40))
    out = layer(tg.zeros(50, 8, 1))[0].detach().numpy()
    assert np.unique(out).tolist() == [0.0, 4.0]
    assert (out == 0).mean() == pytest.approx(0.25, abs=0.02)


def test_beginning() -> None:
    """All weights uniform in +-1/sqrt(hidden size)."""
    for layer in (nn.LSTM(30, 25, 2, proj_size=9), nn.GRUCell(30, 25), nn.RNN(30, 25)):
        for weight in layer.parameters():
            values = weight.detach().numpy() * 5
            assert abs(values).max() <= 1
            assert values.std() == pytest.approx(1 / np.sqrt(3), rel=0.35)
    assert nn.LSTM(2, 2, dtype=tg.float64).bias_hh_l0.dtype is tg.float64


def test_weights_are_found() -> None:
    layer = nn.LSTM(3, 4, 2, proj_size=2, bidirectional=True)
    assert [len(weights) for weights in layer.all_weights] == [5] * 4
    assert layer.all_weights[3][4] is layer.weight_hr_l1_reverse
    layer.flatten_parameters()
    x = tg.randn(5, 2, 3)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert tg.equal(other(x)[0], layer(x)[0])


def test_batched_over_weights() -> None:
    """`vmap` over the parameters of several layers: an ensemble."""
    layers = [nn.GRU(3, 4) for _ in range(3)]
    params, buffers = tg.func.stack_module_state(layers)
    x = tg.randn(5, 2, 3)
    outs = tg.func.vmap(
        lambda p, b: tg.func.functional_call(layers[0], (p, b), (x,))[0], randomness="error"
    )(params, buffers)
    for layer, out in zip(layers, outs, strict=True):
        np.testing.assert_allclose(layer(x)[0].detach(), out.detach(), rtol=1e-5, atol=1e-6)


# Calls that torch refuses; `x` is [3, 2, 4], `h` is [1, 2, 5].
ERRORS = (
    """
RNN(); RNN(4); RNN(4, 5, foo=1); RNN(4, 5, proj_size=1); GRU(4, 5, proj_size=1); LSTM(4, 5, proj_size=5)
LSTM(4, 5, proj_size=-1); RNN(4, 5, nonlinearity='foo'); RNN(4, 5, 1, True); LSTM(4, 5, num_layers=0)
LSTM(4, 5, 1.5); LSTM(0, 5); LSTM(4, 0); LSTM(4., 5); LSTM(4, 5.); LSTM(4, 5, bias=1); LSTM(4, 5, batch_first=1)
LSTM(4, 5, dropout=2); LSTM(4, 5, dropout=True); LSTM(4, 5, dropout='a'); RNNBase('foo', 4, 5)
RNN(4, 5)(x[0, 0]); GRU(4, 5)(x[0, 0]); LSTM(4, 5)(x[None]); RNN(4, 5)(x[:0]); LSTM(4, 5)(x[:0]); GRU(4, 5)(x[:0])
RNN(4, 5)(x.double()); LSTM(4, 5)(x.long()); GRU(3, 5)(x); RNN(4, 5)(x, h.double()); GRU(4, 5)(x, h.double())
RNN(4, 5)(x, h[:, :1]); LSTM(4, 5)(x, (h[:, :1], h)); LSTM(4, 5)(x, (h, h[:, :1])); GRU(4, 5, 2)(x, h)
RNN(4, 5)(x, h[0]); GRU(4, 5)(x, h[0]); LSTM(4, 5)(x, (h[0], h)); LSTM(4, 5)(x[0], (h, h)); RNN(4, 5)(x[0], h)
GRU(4, 5)(x, (h, h)); LSTM(4, 5)(x, h); LSTM(4, 5)(x, (h,)); GRU(4, 5)(x, foo=1); GRU(4, 5)()
GRU(4, 5)(pack(x[0], [2, 1, 1, 1], True)); GRU(4, 5)(pack(x[..., :3], [3, 2])); GRU(4, 5)(pack(x, [3, 2]), h[:, :1])
RNNCell(4, 5)(x); LSTMCell(4, 5)(x); GRUCell(4, 5)(x); RNNCell(4, 5)(x[0], h); LSTMCell(4, 5)(x[0], (h, h))
RNNCell(3, 5)(x[0]); GRUCell(4, 5)(x[0], h[0, :1]); LSTMCell(4, 5)(x[0], (h[0], h[0, :1])); RNNCell(4, 6)(x[0], h[0])
GRUCell(4, 6)(x[0, 0], h[0, 0]); LSTMCell(4, 5)(x[0], h[0]); LSTMCell(4, 5)(x[0], (h[0],)); RNNCell(4, 5)(x[0].double())
RNNCell(4, 5)(x[0], h[0].double()); RNNCell(4, 5, nonlinearity='foo')(x[0]); RNNCell(4, -5); GRUCell(4, 5, foo=1)
""".replace("\n", "; ")
    .strip("; ")
    .split("; ")
)


@pytest.mark.peers
@pytest.mark.parametrize("text", ERRORS)
def test_errors_are_torchs(text: str, both_raise: Any) -> None:
    def call(lib: Any, x: Any, h: Any) -> None:
        pack = lib.nn.utils.rnn.pack_padded_sequence
        eval(f"nn.{text}", {"nn": lib.nn, "x": x, "h": h, "pack": pack})

    both_raise(call, np.ones((3, 2, 4), "f4"), np.ones((1, 2, 5), "f4"))


@pytest.mark.peers
def test_weights_that_are_missing(both_raise: Any) -> None:
    def call(lib: Any, x: Any) -> None:
        layer = lib.nn.GRU(4, 5)
        layer.bias_ih_l0 = None
        layer(x)

    both_raise(call, np.ones((3, 2, 4), "f4"))
    layer = nn.GRU(4, 5)
    del layer.weight_hh_l0
    with pytest.raises(AttributeError, match="'GRU' object has no attribute 'weight_hh_l0'"):
        layer(tg.ones(3, 2, 4))


def test_dropout_of_one_layer() -> None:
    with pytest.warns(
        UserWarning, match="dropout option adds dropout after all but last recurrent"
    ):
        nn.GRU(2, 3, dropout=0.5)
