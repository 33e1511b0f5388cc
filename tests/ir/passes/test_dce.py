"""What no output needs goes; inputs stay."""

from __future__ import annotations

import numpy as np
from helpers import build, call, check_rewrite
from tracegrad.ir.passes import eliminate_dead_code


def test_dead_nodes(rng: np.random.Generator) -> None:
    graph = build(
        lambda x, y: (call("sin", x), call("cos", y), call("exp", x))[0], "f64[4]", "f64[4]"
    )
    assert len(graph.nodes) == 3
    check_rewrite(graph, "%0: f64[4] = sin %x\nreturn %0", eliminate_dead_code, rng=rng)
    assert len(eliminate_dead_code(graph).inputs) == 2


def test_dead_chains(rng: np.random.Generator) -> None:
    graph = build(lambda x: (x, call("sin", call("cos", x)))[0], "f64[4]")
    check_rewrite(graph, "return %x", eliminate_dead_code, rng=rng)


def test_nothing_to_do() -> None:
    graph = build(lambda x: call("sin", x), "f64[4]")
    assert eliminate_dead_code(graph) is graph
