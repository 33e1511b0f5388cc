"""A call of a public function: its arguments in either library, and the ways to make it.

`Case` is one line of a table. `prepare` makes one library's arguments of it, `forms` the ways to call it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch


class X(NamedTuple):
    """A floating operand with values in [low, high], of which gradients are taken; or another dtype."""

    shape: tuple[int, ...]
    low: float = -2.0
    high: float = 2.0
    dtype: str = "float"

    def draw(self, rng: np.random.Generator, floating: str) -> np.ndarray:
        if self.dtype == "float":
            if not self.low < self.high:  # One value, which may be infinite, or NaN.
                return np.full(self.shape, self.low, floating)
            return np.asarray(rng.uniform(self.low, self.high, self.shape).astype(floating))
        if self.dtype == "bool":
            return np.asarray(rng.integers(0, 2, self.shape).astype(bool))
        return np.asarray(
            rng.integers(int(self.low), int(self.high) + 1, self.shape).astype(self.dtype)
        )


class Case(NamedTuple):
    """One call: ``name(*args, **kwargs)``; each X among args (also inside lists) is a tensor.

    The name may be dotted: "linalg.norm", "nn.functional.pad".
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __str__(self) -> str:
        def text(value: Any) -> str:
            if isinstance(value, X):
                letter = {"float": "f", "bool": "b"}.get(value.dtype, "i")
                return letter + "x".join(map(str, value.shape))
            if isinstance(value, list) and value and isinstance(value[0], X):
                return "[" + ",".join(map(text, value)) + "]"
            return repr(value).replace(" ", "")

        parts = [text(a) for a in self.args] + [f"{k}={text(v)}" for k, v in self.kwargs.items()]
        return f"{self.name}({','.join(parts)})"


def case(name: str, *args: Any, **kwargs: Any) -> Case:
    return Case(name, args, kwargs)


def build(module: Any, value: Any, arrays: Iterator[np.ndarray], requires_grad: bool) -> Any:
    """An argument of the table as this library's."""
    if isinstance(value, X):
        array = next(arrays)
        tensor = module.tensor(array)
        return tensor.requires_grad_() if requires_grad and array.dtype.kind == "f" else tensor
    if isinstance(value, list):
        return [build(module, v, arrays, requires_grad) for v in value]
    if isinstance(value, tuple) and value and value[0] == "dtype":
        return getattr(module, value[1])
    return value


def operands_of(c: Case) -> list[X]:
    return [x for a in c.args for x in (a if isinstance(a, list) else [a]) if isinstance(x, X)]


def draw(c: Case, floating: str) -> list[np.ndarray]:
    rng = np.random.default_rng(zlib.crc32(str(c).encode()))
    return [x.draw(rng, floating) for x in operands_of(c)]


class Call(NamedTuple):
    """A case with one library's arguments."""

    leaves: list[Any]
    args: list[Any]
    kwargs: dict[str, Any]


def prepare(module: Any, c: Case, arrays: list[np.ndarray], requires_grad: bool = False) -> Call:
    source = iter(arrays)
    args = [build(module, a, source, requires_grad) for a in c.args]
    kwargs = {k: build(module, v, source, requires_grad) for k, v in c.kwargs.items()}
    flat = [t for a in args for t in (a if isinstance(a, list) else [a])]
    return Call([t for t in flat if isinstance(t, module.Tensor) and t.requires_grad], args, kwargs)


def flat_outputs(module: Any, result: Any) -> list[Any]:
    if isinstance(result, module.Tensor):
        return [result]
    if isinstance(result, tuple | list):
        return [t for r in result for t in flat_outputs(module, r)]
    return []


def find(module: Any, name: str) -> Any:
    """What a dotted name stands for in a library, or None."""
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


def forms(c: Case) -> list[tuple[str, Callable[[Any, Call], Any]]]:
    """The ways to make a call that both libraries have: function and method."""
    found: list[tuple[str, Callable[[Any, Call], Any]]] = []
    if not c.name.startswith("__") and callable(find(torch, c.name)):
        found.append(
            ("function", lambda module, call: find(module, c.name)(*call.args, **call.kwargs))
        )
    if isinstance(c.args[0], X) and hasattr(torch.Tensor, c.name) and c.name != "where":
        if callable(getattr(torch.Tensor, c.name)):
            found.append(
                (
                    "method",
                    lambda module, call: getattr(call.args[0], c.name)(
                        *call.args[1:], **call.kwargs
                    ),
                )
            )
        else:
            found.append(("attribute", lambda module, call: getattr(call.args[0], c.name)))
    assert found, f"torch has no {c.name}"
    return found
