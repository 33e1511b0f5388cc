"""`save` and `load`: tensors in nested containers, in the safetensors format.

The file is an ordinary safetensors file, which other programs can read; the containers around the tensors are
described in its metadata as JSON. Nothing is ever pickled or unpickled, so loading a file runs no code. A flat
dictionary keeps its keys as the tensors' names; in nested containers the names are paths: ``state.0.exp_avg``.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from tracegrad.device import Device
from tracegrad.ir.types import DType, from_numpy_dtype
from tracegrad.nn.parameter import Buffer, Parameter
from tracegrad.ops.creation import from_numpy
from tracegrad.size import Size
from tracegrad.tensor import Tensor

File = str | os.PathLike[str] | IO[bytes]

_STRUCTURE = "tracegrad.structure"
"""The key of the metadata that holds the containers."""

_PLAIN = (type(None), bool, int, float, str)
_CONTAINERS: dict[type, str] = {list: "list", tuple: "tuple", set: "set", Size: "size"}
_MAPPINGS: dict[type, str] = {dict: "dict", OrderedDict: "ordered"}
_MAKERS: dict[str, Callable[[Any], Any]] = {
    "list": list, "tuple": tuple, "set": set, "size": Size, "dict": dict, "ordered": OrderedDict,
}  # fmt: skip
_TENSORS: dict[type, str] = {Tensor: "tensor", Parameter: "parameter", Buffer: "buffer"}


def save(obj: Any, f: File) -> None:
    """Save tensors, numbers, strings and containers of them (dict, list, tuple, set), such as a ``state_dict()``.

    A tensor that occurs several times is saved once, and is one tensor again after `load`. Views of one storage are
    saved each for itself.

    Args:
        obj: what to save.
        f: a path, or a file that is open for writing bytes.

    Raises:
        TypeError: it holds something else; the message says where.
        ImportError: the package safetensors is not installed.
    """
    serialize = _safetensors().numpy.save
    packing = _Packing()
    structure = packing.pack(obj, ())
    text = json.dumps(structure, separators=(",", ":"))
    data = serialize(packing.arrays, metadata={_STRUCTURE: text})
    if hasattr(f, "write"):
        f.write(data)
    else:
        Path(f).write_bytes(data)


def load(f: File, map_location: Any = None, *, weights_only: bool | None = None) -> Any:
    """Load what `save` has saved, or a safetensors file of another program, as a dictionary of tensors.

    Args:
        f: a path, or a file that is open for reading bytes.
        map_location: accepted if it means the CPU.
        weights_only: accepted; nothing but tensors, numbers and strings is ever loaded.

    Raises:
        RuntimeError: it is no safetensors file; a file of ``torch.save`` holds a pickle, which is never loaded.
        ImportError: the package safetensors is not installed.
    """
    if map_location is not None and not callable(map_location):
        Device(map_location)
    deserialize = _safetensors()
    data = f.read() if hasattr(f, "read") else Path(f).read_bytes()
    where = f"{f}" if isinstance(f, (str, os.PathLike)) else "the file"
    _refuse_pickles(data, where)
    try:
        arrays = deserialize.numpy.load(data)
    except deserialize.SafetensorError as error:
        raise RuntimeError(f"{where} is no safetensors file: {error}") from None
    except KeyError as error:
        raise RuntimeError(f"{where} holds a dtype that tracegrad does not have: {error}") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    structure = header.get("__metadata__", {}).get(_STRUCTURE)
    if structure is None:
        order = [name for name in header if name != "__metadata__"]
        return {name: from_numpy(arrays[name]) for name in order}
    return _Unpacking(arrays).unpack(json.loads(structure))


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            "save() and load() need the package safetensors: pip install 'tracegrad[save]'"
        ) from None
    return safetensors


def _refuse_pickles(data: bytes, where: str) -> None:
    # torch.save writes a ZIP archive, older versions a bare pickle.
    if data[:4] == b"PK\x03\x04" or (data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05"):
        raise RuntimeError(
            f"{where} was written by torch.save: it holds a pickle, which can run any code when it is loaded, so "
            "tracegrad never does.\nConvert it where torch is installed:\n"
            "    safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors')"
        )


class _Packing:
    """Takes containers apart into a JSON value and named arrays."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}

    def pack(self, value: Any, path: tuple[str, ...]) -> Any:
        """A plain value as itself; anything else as an object with one key, its kind."""
        kind = type(value)
        if isinstance(value, _PLAIN) and kind in _PLAIN:
            return value
        if kind in _TENSORS:
            return {_TENSORS[kind]: [self._name(value, path), value.requires_grad]}
        if kind in _CONTAINERS:
            return {_CONTAINERS[kind]: [self.pack(v, (*path, str(i))) for i, v in enumerate(value)]}
        if kind in _MAPPINGS:
            pairs = [
                [self.pack(key, (*path, "key")), self.pack(item, (*path, str(key)))]
                for key, item in value.items()
            ]
            return {_MAPPINGS[kind]: pairs}
        if isinstance(value, DType):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, np.ndarray):
            return {"array": [self._store(np.asarray(value), path)]}
        if isinstance(value, np.generic):
            return self.pack(value.item(), path)
        place = "".join(f"[{part!r}]" for part in path)
        raise TypeError(
            f"cannot save an object of type {kind.__module__}.{kind.__qualname__}"
            + (f" (it is at {place})" if place else "")
            + ": a safetensors file holds tensors, numbers, strings and containers of them. "
            "Save a module's or an optimizer's state_dict()."
        )

    def _name(self, tensor: Tensor, path: tuple[str, ...]) -> str:
        known = self._names.get(id(tensor))
        if known is None:
            known = self._names[id(tensor)] = self._store(tensor.detach().numpy(), path)
        return known

    def _store(self, array: np.ndarray, path: tuple[str, ...]) -> str:
        name = ".".join(path) or "value"
        while name in self.arrays:  # {"a.b": x, "a": {"b": y}}
            name += "'"
        # In C order; np.ascontiguousarray would give a scalar a dimension.
        self.arrays[name] = np.array(array, order="C")
        return name


class _Unpacking:
    """Puts containers together again."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._tensors: dict[str, Tensor] = {}

    def unpack(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind in _MAPPINGS.values():
            return _MAKERS[kind]((self.unpack(key), self.unpack(item)) for key, item in content)
        if kind in _MAKERS:
            return _MAKERS[kind](map(self.unpack, content))
        if kind == "dtype":
            return from_numpy_dtype(np.dtype(content))
        if kind == "array":
            return self._arrays[content[0]]
        return self._tensor(kind, *content)

    def _tensor(self, kind: str, name: str, requires_grad: bool) -> Tensor:
        found = self._tensors.get(name)
        if found is None:
            found = from_numpy(self._arrays[name])
            if kind == "parameter":
                found = Parameter(found, requires_grad)
            elif kind == "buffer":
                found = Buffer(found)
            elif requires_grad:
                found.requires_grad_()
            self._tensors[name] = found
        return found
