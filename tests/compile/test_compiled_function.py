"""The object that ``tg.compile`` returns: options, statistics, introspection, copies, threads."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from typing import Any

import numpy as np
import pytest
from tracegrad.ir import config
from tracegrad.ir.parser import parse
from tracegrad.ir.verify import verify

import tracegrad as tg
from tracegrad import compiler

pytest.importorskip("llvmlite", reason="native stages need llvmlite")


def square_sum(x: tg.Tensor) -> tg.Tensor:
    return (x * x).sum()


@tg.compile
def decorated(x: tg.Tensor) -> tg.Tensor:
    return x * 2


def test_shapes_in_rotation_stay_compiled() -> None:
    f = tg.compile(backend="interpreter")(square_sum)
    for _ in range(4):
        for n in range(compiler.MAX_PATHS + 4):
            assert f(tg.ones(n)).item() == n
    assert f.stats.compilations == compiler.MAX_PATHS + 4


def test_bare_decorator_and_options() -> None:
    @tg.compile
    def f(x: tg.Tensor) -> tg.Tensor:
        """Doubles."""
        return x * 2

    @tg.compile(fullgraph=True, name="other")
    def g(x: tg.Tensor) -> tg.Tensor:
        return x * 3

    assert f.__name__ == "f"
    assert f.__doc__ == "Doubles."
    assert f(tg.ones(2)).tolist() == [2, 2]
    assert g(tg.ones(2)).tolist() == [3, 3]
    assert g.ir("trace").startswith("graph @other(")
    assert tg.compile(f) is f


@pytest.mark.parametrize(
    ("options", "error"),
    [({"backend": "cuda"}, ValueError), ({"model": 3}, TypeError), ({"mode": "max"}, TypeError)],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        tg.compile(**options)


def test_stats_count_what_happens() -> None:
    f = tg.compile(square_sum)
    for n in (3, 3, 3, 4, 4):
        f(tg.ones(n))
    stats = f.stats
    assert (stats.calls, stats.native, stats.eager, stats.traces, stats.variants) == (5, 3, 2, 2, 2)
    assert stats.interpreted == 0
    assert stats.compilations == 2
    f.reset()
    assert f.stats.calls == 0
    assert f(tg.ones(3)).item() == 3


@pytest.mark.parametrize("stage", ["trace", "joint", "optimized"])
def test_graph_stages_are_valid_ir(stage: str) -> None:
    f = tg.compile(square_sum)
    x = tg.ones(3, requires_grad=True)
    f(x).backward()
    graph = parse(f.ir(stage))
    verify(graph)
    assert "test_compiled_function.py" in f.ir(stage)
    document = json.loads(f.ir(stage, format="json"))
    assert len(document["nodes"]) == len(graph.nodes)
    assert f.ir(stage, format="dot").startswith("digraph")


def test_native_stages() -> None:
    f = tg.compile(square_sum)
    f(tg.ones(100))
    assert "reducing" in f.ir("kernels")
    assert "define" in f.ir("llvm")
    assert "ret" in f.ir("asm")
    everything = f.ir("all")
    for stage in ("trace", "joint", "optimized", "kernels", "llvm", "asm"):
        assert f"=== {stage} ===" in everything


def test_adjoint_nodes_name_the_users_line() -> None:
    @tg.compile
    def f(x: tg.Tensor) -> Any:
        y = x.sin()
        (g,) = tg.autograd.grad(y.sum(), x)
        return g

    f(tg.ones(3, requires_grad=True))
    line = f.__wrapped__.__code__.co_firstlineno + 2
    assert f"adjoint of sin %0, test_compiled_function.py:{line}" in f.ir("joint")


@pytest.mark.parametrize(
    ("stage", "format"), [("assembly", "text"), ("llvm", "dot"), ("trace", "svg")]
)
def test_unknown_stage_or_format(stage: str, format: str) -> None:
    f = tg.compile(square_sum)
    f(tg.ones(2))
    with pytest.raises(ValueError, match="choose"):
        f.ir(stage, format=format)


def test_ir_before_the_first_call() -> None:
    with pytest.raises(RuntimeError, match="call it first"):
        tg.compile(square_sum).ir()


def test_fullgraph_raises_instead_of_falling_back() -> None:
    @tg.compile(fullgraph=True)
    def f(x: tg.Tensor) -> Any:
        return x.tolist()

    with pytest.raises(RuntimeError, match=r"tolist\(\) gives a tensor's elements to Python"):
        f(tg.ones(2))


def test_giving_up_warns_once_and_names_the_line() -> None:
    @tg.compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x + tg.tensor(np.asarray(x.numpy()))

    def run() -> None:
        for _ in range(6):
            assert f(tg.ones(2)).tolist() == [2, 2]

    message = "f runs eagerly from now on.*test_compiled_function.py"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        run()
    assert len(caught) == 1
    assert f.eager_reason is not None
    assert f.stats.eager == 6
    assert "runs eagerly" in f.explain()


def test_state_that_never_repeats_ends_in_eager_execution() -> None:
    class Clock:
        now = 0.0

    @tg.compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * Clock.now

    def run() -> None:
        for turn in range(40):
            Clock.now = float(turn)
            assert f(tg.ones(1)).item() == turn

    with pytest.warns(RuntimeWarning, match="Clock.now"):
        run()
    assert f.stats.traces <= compiler.MAX_MISSES + 2
    assert f.stats.guard_failures


def test_variants_are_bounded() -> None:
    f = tg.compile(backend="interpreter")(square_sum)
    for n in range(compiler.MAX_VARIANTS + 30):
        assert f(tg.ones(n)).item() == n
    assert f.stats.variants <= compiler.MAX_VARIANTS + compiler.MAX_PATHS


def test_explain_names_interpreted_ops_and_guards() -> None:
    @tg.compile
    def f(x: tg.Tensor, k: tg.Tensor) -> tg.Tensor:
        return k**k if x.sum() > 0 else k

    f(tg.ones(2), tg.arange(3))
    f(tg.ones(2), tg.arange(3))
    report = f.explain()
    assert "interpreted: integer_pow x 1" in report
    assert "guard: bool() is True (test_compiled_function.py:" in report
    assert f.stats.interpreted == 1


def test_disable_jit_runs_eagerly() -> None:
    f = tg.compile(square_sum)
    with config.override(disable_jit=True):
        f(tg.ones(2))
        f(tg.ones(2))
    assert f.stats.eager == 2
    assert f.stats.traces == 0


def test_an_exception_inside_leaves_everything_usable() -> None:
    @tg.compile
    def f(x: tg.Tensor) -> tg.Tensor:
        y = x * 2
        if x.shape[0] == 3:
            raise ValueError("three")
        return y

    with pytest.raises(ValueError, match="three"):
        f(tg.ones(3))
    assert tg.is_grad_enabled()
    assert f(tg.ones(2)).tolist() == [2, 2]
    assert f(tg.ones(2)).tolist() == [2, 2]
    assert f.stats.native == 1


def test_compiled_calls_compiled() -> None:
    inner = tg.compile(square_sum)

    @tg.compile
    def outer(x: tg.Tensor) -> tg.Tensor:
        return inner(x) + inner(x * 2)

    for _ in range(3):
        assert outer(tg.ones(2)).item() == 10
    assert outer.stats.native == 2
    assert inner.stats.calls == 0 or inner.stats.native == 0


def test_pickle_and_deepcopy_recompile() -> None:
    f = tg.compile(square_sum)
    f(tg.ones(2))
    twin = copy.deepcopy(f)
    assert twin.stats.calls == 0
    assert twin(tg.ones(2)).item() == 2

    assert pickle.loads(pickle.dumps(decorated)) is decorated
    restored = pickle.loads(pickle.dumps(f))
    assert restored(tg.ones(4)).item() == 4


def test_threads_call_one_function() -> None:
    f = tg.compile(square_sum)
    wrong: list[Any] = []

    def work(n: int) -> None:
        x = tg.ones(n)
        for _ in range(200):
            if f(x).item() != n:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3, 50, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert f.stats.calls == 1000


def test_profiler_sees_native_calls() -> None:
    from tracegrad.autograd import profiler

    f = tg.compile(square_sum)
    f(tg.ones(2))
    with profiler.profile() as prof:
        f(tg.ones(2))
    assert any("compiled square_sum" in event.key for event in prof.key_averages())


def test_many_batch_sizes_and_python_numbers() -> None:
    @tg.compile
    def f(x: tg.Tensor, rate: float) -> tg.Tensor:
        return x * rate

    for n in range(1, 6):
        for rate in (0.1, 0.2):
            assert np.allclose(f(tg.ones(n), rate).numpy(), np.full(n, rate, np.float32))
            assert np.allclose(f(tg.ones(n), rate).numpy(), np.full(n, rate, np.float32))
    # The rate varies at the third call, and is no constant from then on.
    assert f.stats.compilations == 6
    assert f.stats.native == 14


def test_loss_returned_by_a_step_is_freed_as_in_eager() -> None:
    w = tg.ones(3, requires_grad=True)

    @tg.compile
    def step() -> tg.Tensor:
        w.grad = None
        loss = (w * w).sum()
        loss.backward()
        return loss

    for _ in range(3):
        loss = step()
        with pytest.raises(
            RuntimeError, match="Trying to backward through the graph a second time"
        ):
            loss.backward()
    assert step.stats.native == 2
