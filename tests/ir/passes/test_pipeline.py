"""Running passes: order, the one hook, notes on errors, what the options ask for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from helpers import build, call, optimize_verified
from tracegrad.ir import (
    DEFAULT,
    Graph,
    GraphPass,
    PassPipeline,
    config,
    events,
    graph_pass,
    optimize,
    parse,
    show,
)
from tracegrad.ir.passes import PASSES, eliminate_dead_code, observer
from tracegrad.ir.passes.observe import dump


def demo() -> Graph:
    return build(lambda x: call("neg", -call("sin", x)) * 1.0, "f64[4]", name="demo")


def test_the_hook_sees_every_step() -> None:
    steps: list[tuple[Graph, str, Graph]] = []
    pipeline = PassPipeline(
        DEFAULT, lambda before, pass_, after: steps.append((before, pass_.name, after))
    )
    graph = demo()
    result = pipeline(graph)
    assert [name for _, name, _ in steps] == [pass_.name for pass_ in DEFAULT]
    assert steps[0][0] is graph
    assert steps[-1][2] is result
    for (_, _, after), (before, _, _) in pairwise(steps):
        assert after is before
    assert [node.op.name for node in result.nodes] == ["sin"]


def test_nothing_to_do_gives_the_same_graph() -> None:
    graph = build(lambda x: call("sin", x), "f64[4]")
    assert optimize(graph) is graph
    for pass_ in PASSES.values():
        assert pass_(graph) is graph


def test_errors_say_in_which_pass_they_arose() -> None:
    def fail(graph: Graph) -> Graph:
        raise ValueError("broken")

    passes = (*DEFAULT[:2], GraphPass("fail", fail), *DEFAULT[2:])
    with pytest.raises(ValueError, match="broken") as caught:
        PassPipeline(passes)(demo())
    assert caught.value.__notes__ == ["in pass fail, after dce, canonicalize"]
    with pytest.raises(ValueError, match="broken") as caught:
        PassPipeline([GraphPass("fail", fail)])(demo())
    assert caught.value.__notes__ == ["in pass fail"]


def test_a_pass_that_breaks_a_graph_is_named() -> None:
    def drop_first(graph: Graph) -> Graph:
        return graph.replace(nodes=graph.nodes[1:])

    passes = (GraphPass("drop-first", drop_first),)
    with config.override(verify=True), pytest.raises(RuntimeError) as caught:
        PassPipeline(passes, observer())(demo())
    assert "not a valid graph after pass drop-first" in str(caught.value)
    assert caught.value.__notes__ == ["in pass drop-first"]


def test_passes_are_declared_once() -> None:
    assert set(PASSES) >= {"dce", "canonicalize", "constant-fold", "cse"}
    assert PASSES["dce"] is eliminate_dead_code
    assert repr(eliminate_dead_code) == "<pass dce>"
    with pytest.raises(ValueError, match="pass 'dce' is declared twice"):
        graph_pass("dce")(lambda graph: graph)


def test_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with config.override(verify=False, log=(), dump_to=""):
        assert observer() is None
    with config.override(log="passes", dump_to=tmp_path / "dumps"):
        result = optimize(demo())
    files = sorted((tmp_path / "dumps").iterdir())
    assert [file.stem.split("_", 1)[1] for file in files] == [f"demo_{p.name}" for p in DEFAULT]
    assert files[-1].read_text() == show(result)
    assert show(parse(files[0].read_text())) == show(demo(), locations=False)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(DEFAULT)
    assert lines[0].startswith("dce @demo: 5 -> 5 nodes, ")


def test_dumped_names_are_file_names(tmp_path: Path) -> None:
    graph = Graph("<lambda>/a b")
    path = dump(graph, "constant-fold", str(tmp_path))
    assert Path(path).name.endswith("__lambda__a_b_constant-fold.ir")
    assert Path(path).parent == tmp_path


def test_passes_are_events() -> None:
    seen: list[events.Event] = []
    events.subscribe(seen.append)
    try:
        optimize_verified(demo())
    finally:
        events.unsubscribe(seen.append)
    assert [(kind, name) for kind, name, *_ in seen] == [(events.PASS, p.name) for p in DEFAULT]
