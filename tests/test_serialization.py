"""save and load: what goes through a file comes back, other programs read it, and nothing is ever unpickled."""

from __future__ import annotations

import io
import json
import math
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import tracegrad as tg

DTYPES = [tg.float32, tg.float64, tg.int8, tg.int16, tg.int32, tg.int64, tg.uint8, tg.bool]


def same(a: Any, b: Any) -> None:
    """Equal in type, structure, and every bit."""
    assert type(a) is type(b)
    if isinstance(a, tg.Tensor):
        assert a.dtype is b.dtype
        assert a.shape == b.shape
        assert a.requires_grad == b.requires_grad
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b or (math.isnan(a) and math.isnan(b))


def round_trip(value: Any) -> Any:
    file = io.BytesIO()
    tg.save(value, file)
    file.seek(0)
    return tg.load(file)


VALUES = [
    {"w": tg.arange(6.0).reshape(2, 3), "b": tg.tensor([True, False])},
    OrderedDict(z=tg.ones(1), a=tg.zeros(())),
    tg.ones(2, 3),
    tg.ones(3, requires_grad=True),
    [tg.ones(0, 3), (1, 2.5, "text", None, True, math.inf, math.nan), {"k": {3: tg.ones(1)}}],
    {0: {"step": tg.tensor(3.0)}, (1, 2): "tuple", None: -0.0},
    {"a.b": tg.ones(1), "a": {"b": tg.zeros(2)}},
    tg.nn.Parameter(tg.ones(2)),
    tg.nn.Parameter(tg.ones(2), requires_grad=False),
    {"size": tg.Size([2, 3]), "dtype": tg.float64, "array": np.arange(4), "set": {1, 2}},
    tg.arange(12.0).reshape(3, 4).t()[1:, ::2],
    [tg.tensor(1, dtype=dtype) for dtype in DTYPES],
    {},
    7,
]


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_round_trip(number: int) -> None:
    same(round_trip(VALUES[number]), VALUES[number])


def test_paths_and_shared_tensors(tmp_path: Path) -> None:
    tied = tg.ones(2)
    path = tmp_path / "state.safetensors"
    tg.save({"a": tied, "b": [tied], "c": tg.ones(2)}, path)
    loaded = tg.load(str(path), map_location="cpu", weights_only=True)
    assert loaded["a"] is loaded["b"][0]
    assert loaded["a"] is not loaded["c"]
    assert set(safetensors.numpy.load_file(path)) == {"a", "c"}
    loaded["a"].add_(1)
    assert loaded["b"][0].tolist() == [2, 2]


def test_training_goes_on() -> None:
    """A model and its optimizer, saved and loaded in the middle."""

    def make() -> tuple[Any, Any]:
        tg.manual_seed(0)
        net = tg.nn.Sequential(tg.nn.Linear(2, 3), tg.nn.BatchNorm1d(3), tg.nn.Linear(3, 1))
        return net, tg.optim.Adam(net.parameters(), lr=0.1)

    def train(net: Any, optimizer: Any, steps: int) -> None:
        x = tg.arange(8.0).reshape(4, 2)
        for _ in range(steps):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()

    net, optimizer = make()
    train(net, optimizer, 3)
    saved = round_trip({"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    train(net, optimizer, 3)
    other, its_optimizer = make()
    other.load_state_dict(saved["net"])
    its_optimizer.load_state_dict(saved["optimizer"])
    train(other, its_optimizer, 3)
    for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_files_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    arrays = {"w": np.ones((2, 2), np.float32), "i": np.arange(3)}
    safetensors.numpy.save_file(arrays, path, metadata={"format": "np"})
    loaded = tg.load(path)
    assert {name: value.tolist() for name, value in loaded.items()} == {
        "w": [[1, 1], [1, 1]],
        "i": [0, 1, 2],
    }
    loaded["w"].add_(1)  # It is writeable.
    tg.save(loaded, path)
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["w"], 2)


@pytest.mark.peers
@pytest.mark.parametrize("old", [False, True])
def test_files_of_torch_are_refused(old: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(RuntimeError, match=r"model\.pt was written by torch\.save: .* a pickle"):
        tg.load(path)


class Bomb:
    def __reduce__(self) -> Any:
        return print, ("a pickle was loaded",)


def test_nothing_is_unpickled(capsys: pytest.CaptureFixture[str]) -> None:
    for protocol in range(2, 6):
        with pytest.raises(RuntimeError, match=r"the file was written by torch\.save"):
            tg.load(io.BytesIO(pickle.dumps(Bomb(), protocol)))
    for data in (b"", b"garbage of some length", b"\xff" * 100):
        with pytest.raises(RuntimeError, match="the file is no safetensors file"):
            tg.load(io.BytesIO(data))
    assert capsys.readouterr().out == ""


def test_what_cannot_be_saved_is_named() -> None:
    with pytest.raises(TypeError, match=r"type .*Bomb \(it is at \['a'\]\['1'\]\): a safetensors"):
        tg.save({"a": [1, Bomb()]}, io.BytesIO())
    with pytest.raises(TypeError, match=r"Linear: a safetensors .*\bstate_dict\(\)"):
        tg.save(tg.nn.Linear(1, 1), io.BytesIO())
    with pytest.raises(RuntimeError, match="tracegrad runs on the CPU only"):
        tg.load(io.BytesIO(), map_location="cuda")


def test_structure_is_readable_json() -> None:
    file = io.BytesIO()
    tg.save({"w": tg.ones(1)}, file)
    data = file.getvalue()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    structure = json.loads(header["__metadata__"]["tracegrad.structure"])
    assert structure == {"dict": [["w", {"tensor": ["w", False]}]]}


def test_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['safetensors'] = None\n"
        "import tracegrad as tg\n"
        "try: tg.save({}, 'x')\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'tracegrad[save]'" in out.stdout
