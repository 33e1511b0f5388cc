"""The structural key: different for everything that changes the meaning, and nothing else."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from helpers import build, call
from tracegrad.ir import Graph, SourceLocation, structural_key
from tracegrad.ir.types import float32, float64


def base(x: Any, y: Any) -> Any:
    return call("sum", call("sin", x) * y + 2.0, axis=(0,), keepdims=False)


def key(function: Callable[..., Any], *types: str, **names: str) -> str:
    return structural_key(build(function, *types, **names))


BASE = ("f64[4]", "f64[4]")


def test_form() -> None:
    assert len(key(base, *BASE)) == 64
    assert int(key(base, *BASE), 16)


def test_names_and_lines_do_not_matter() -> None:
    graph = build(base, *BASE)
    for node in (*graph.inputs, *graph.nodes):
        node.location = SourceLocation("other.py", line=77)
        node.hint = f"value_of_{node.op.name}"
        node.scope = "layers.3"
    expected = key(base, *BASE)
    assert structural_key(graph.replace(name="another")) == expected
    assert key(base, *BASE, hints="ab") == expected


VARIANTS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "base": (base, BASE),
    "dtype of inputs": (base, ("f32[4]", "f32[4]")),
    "shape": (base, ("f64[3]", "f64[3]")),
    "broadcast shape": (base, ("f64[4]", "f64[1]")),
    "another input": (lambda x, y, z: base(x, y), (*BASE, "f64[4]")),
    "operands": (lambda x, y: base(y, x), BASE),
    "same operand": (lambda x, y: base(x, x), BASE),
    "op": (lambda x, y: call("sum", call("cos", x) * y + 2.0, axis=(0,), keepdims=False), BASE),
    "attr": (lambda x, y: call("sum", call("sin", x) * y + 2.0, axis=(0,), keepdims=True), BASE),
    "constant": (
        lambda x, y: call("sum", call("sin", x) * y + 3.0, axis=(0,), keepdims=False),
        BASE,
    ),
    "order of outputs": (lambda x, y: (base(x, y), x), BASE),
    "order of outputs 2": (lambda x, y: (x, base(x, y)), BASE),
    "output twice": (lambda x, y: (x, x), BASE),
    "one output": (lambda x, y: x, BASE),
    "other output": (lambda x, y: y, BASE),
    "zero": (lambda x, y: x * 0.0, BASE),
    "minus zero": (lambda x, y: x * -0.0, BASE),
    "nan": (lambda x, y: x * math.nan, BASE),
    "inf": (lambda x, y: x * math.inf, BASE),
    "minus inf": (lambda x, y: x * -math.inf, BASE),
    "one ulp": (lambda x, y: x * (1.0 + 2**-52), BASE),
    "one": (lambda x, y: x * 1.0, BASE),
    "exponent 2": (lambda x, y: call("power", x, exponent=2), BASE),
    "exponent 2.0": (lambda x, y: call("power", x, exponent=2.0), BASE),
    "cast to f32": (lambda x, y: call("cast", x, dtype=float32), BASE),
    "cast to f64": (lambda x, y: call("cast", x, dtype=float64), BASE),
}


def test_every_difference_in_meaning_matters() -> None:
    keys = {name: key(function, *types) for name, (function, types) in VARIANTS.items()}
    assert len(set(keys.values())) == len(keys)


def test_attribute_boundaries() -> None:
    """Numbers that stand together as text, in different attributes."""
    a = build(lambda x: call("pad", x, low=(1,), high=(11,), value=0.0), "f64[4]")
    b = build(lambda x: call("pad", x, low=(11,), high=(1,), value=0.0), "f64[4]")
    assert structural_key(a) != structural_key(b)


def test_dead_nodes_count() -> None:
    graph = build(base, *BASE)
    assert structural_key(graph.replace(outputs=[graph.nodes[0]])) != structural_key(
        Graph("f", graph.inputs, graph.nodes[:1], [graph.nodes[0]])
    )


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_the_key_is_the_same_in_every_process(hash_seed: str) -> None:
    script = (
        "from tracegrad.ir import parse, structural_key\n"
        "import sys\n"
        "print(structural_key(parse(sys.stdin.read())))\n"
    )
    graph = build(base, *BASE)
    result = subprocess.run(
        [sys.executable, "-c", script],
        input=str(graph), capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )  # fmt: skip
    assert result.stdout.strip() == structural_key(graph)
