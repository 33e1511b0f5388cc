"""nn.utils.rnn: packing and padding, as torch's; compiled functions with other lengths."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.nn.utils import rnn

# Expressions whose values are torch's: `x` is [4, 3], `a`, `b`, `c` are sequences of 2, 3 and 1 pairs.
VALUES = (
    """
pack_padded_sequence(x, [4, 2, 1]); pack_padded_sequence(x, [5, 2, 1]); pack_padded_sequence(x, tensor([3, 3, 3]))
pack_padded_sequence(x, tensor([4., 2, 1])); pack_padded_sequence(x, [2, 1, 1, 1], batch_first=True)
pack_padded_sequence(x, [1, 2, 4], enforce_sorted=False); pack_padded_sequence(x, [2, 1, 3, 2], True, False)
pack_padded_sequence(x[..., None], [4, 2, 2]); pack_sequence([b, a, c]); pack_sequence([a, b, c], False)
pack_sequence([a, b, c], enforce_sorted=False).to(x.dtype); pack_sequence([b, a, c]).double(); pack_sequence([b]).long()
pad_packed_sequence(pack_padded_sequence(x, [1, 2, 4], enforce_sorted=False))
pad_packed_sequence(pack_padded_sequence(x, [1, 2, 3], enforce_sorted=False), True, 9., 6)
pad_packed_sequence(pack_sequence([b, a, c]), total_length=3); pad_packed_sequence(pack_sequence([b, b]), True)
pad_sequence([a, b, c]); pad_sequence([a, b, c], True, 7.); pad_sequence([a, c], padding_side='left', padding_value=-1.)
pad_sequence(x); pad_sequence(iter([a, c])); pad_sequence([a.long(), b]); pad_sequence([b, a.long()])
pad_sequence([a[:0], a]); unpad_sequence(x.clone(), tensor([4, 2, 0]))
unpad_sequence(x.clone(), tensor([3, 1, 9, -1]), batch_first=True)
unpack_sequence(pack_sequence([a, b, c], False)); unpack_sequence(pack_sequence([b, c, c]))
invert_permutation(tensor([2, 0, 1, 3])); invert_permutation(None); PackedSequence((x, tensor([4])))
PackedSequence(x, tensor([2, 2]), tensor([1, 0])); PackedSequence(x, tensor([2, 2]))._fields
pack_sequence([b]).is_cuda; pack_sequence([b]).is_pinned(); repr(pack_sequence([a, c]))
""".replace("\n", "; ")
    .strip("; ")
    .split("; ")
)
ERRORS = (
    """
pack_padded_sequence(x, [1, 2, 4]); pack_padded_sequence(x, [4, 2, 0]); pack_padded_sequence(x, [4, 2, -1])
pack_padded_sequence(x, [4, 2]); pack_padded_sequence(x, []); pack_padded_sequence(x, 3)
pack_padded_sequence(x, tensor([[4, 2, 1]])); pack_padded_sequence(x[0], [1]); pack_padded_sequence(x[:0], [1, 1, 1])
pack_sequence([a, b]); pack_sequence([]); pack_sequence([a, a[:0]]); pad_sequence([]); pad_sequence(3)
pad_sequence([1, 2]); pad_sequence([a], padding_side='foo'); pad_sequence([a, x]); pad_sequence([a], foo=1)
pad_packed_sequence(pack_sequence([b, a]), total_length=2); unpad_sequence(x.clone(), tensor([4, 2]))
unpad_sequence(x.clone(), tensor([1] * 5), True); PackedSequence(x); PackedSequence()
""".replace("\n", "; ")
    .strip("; ")
    .split("; ")
)


def names_of(lib: Any, x: Any) -> dict[str, Any]:
    module = lib.nn.utils.rnn
    return {
        **{name: getattr(module, name) for name in dir(module) if not name.startswith("_")},
        "x": x,
        "tensor": lib.tensor,
        "a": x[:2, :2],
        "b": x[1:, :2],
        "c": x[3:, 1:],
    }


def plain(value: Any) -> Any:
    """A value with arrays for tensors."""
    if isinstance(value, (tuple, list)):
        return type(value).__name__, [plain(part) for part in value]
    if not hasattr(value, "numpy"):
        return value
    return str(value.dtype).rpartition(".")[2], value.detach().numpy().tolist()


X = np.arange(12.0, dtype="f4").reshape(4, 3)


@pytest.mark.peers
@pytest.mark.parametrize("text", VALUES)
def test_values_are_torchs(text: str, torch: ModuleType) -> None:
    ours, theirs = (eval(text, names_of(lib, lib.tensor(X))) for lib in (tg, torch))
    assert plain(ours) == plain(theirs)


@pytest.mark.peers
@pytest.mark.parametrize("text", ERRORS)
def test_errors_are_torchs(text: str, both_raise: Any) -> None:
    both_raise(lambda lib, x: eval(text, names_of(lib, x)), X)


@pytest.mark.peers
@pytest.mark.parametrize("lengths", [[4, 2, 1], [1, 3, 3]])
def test_gradients_are_torchs(lengths: list[int], torch: ModuleType) -> None:
    found = []
    for lib in (tg, torch):
        x = lib.tensor(X, requires_grad=True)
        packed = lib.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        padded, _ = lib.nn.utils.rnn.pad_packed_sequence(packed, padding_value=2.0)
        parts = lib.nn.utils.rnn.unpack_sequence(packed)
        again = lib.nn.utils.rnn.pad_sequence(parts, True)
        (padded * padded + again.t() ** 3).sum().backward()
        found.append(x.grad.numpy())
    np.testing.assert_allclose(*found)


def test_nothing_is_changed() -> None:
    x = tg.tensor(X)
    assert rnn.unpad_sequence(x, tg.tensor([4, 2, 1]))[1].tolist() == [1, 4]
    assert tg.equal(x, tg.tensor(X))
    packed = rnn.pack_sequence([x])
    assert packed.to(tg.float32) is packed
    assert packed.cpu() is packed


@pytest.mark.parametrize("lengths", [[4, 2, 1], [4, 3, 1], [1, 1, 1]])
def test_compiled_as_eager(lengths: list[int]) -> None:
    """Lengths as a tensor: other ones are another path of the same compiled function."""

    def run(x: tg.Tensor, lengths: tg.Tensor) -> Any:
        packed = rnn.pack_padded_sequence(x, lengths)
        padded, counts = rnn.pad_packed_sequence(packed, total_length=5)
        return packed.data, padded, counts, *rnn.unpad_sequence(x * 2, lengths)

    compiled = tg.compile(run)
    x = tg.tensor(X)
    for given in ([4, 2, 1], lengths, [4, 2, 1], lengths):
        assert plain(compiled(x, tg.tensor(given))) == plain(run(x, tg.tensor(given)))
    assert compiled.stats.native >= 2, compiled.explain()
