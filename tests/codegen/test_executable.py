"""Native programs against interpreted ones, and everything that can be passed to a program."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from random_programs import random_program
from tracegrad.codegen import compile_program
from tracegrad.codegen.engine import host
from tracegrad.codegen.kernel import PythonStep
from tracegrad.ir import GraphBuilder, Node, Program, TensorType, all_ops, registered
from tracegrad.ir.graph import current_builder
from tracegrad.ir.interpreter import InterpretedExecutable
from tracegrad.ir.op import Op
from tracegrad.ir.parser import parse
from tracegrad.ir.types import DType, bool_, float32, float64, int64, type_of

Body = Callable[..., Sequence[Node]]


def program(
    *types: TensorType, updates: dict[int, int] | None = None, guards: Sequence[int] = ()
) -> Callable[[Body], Program]:
    """The program whose outputs a function makes of its inputs."""

    def build(body: Body) -> Program:
        builder = GraphBuilder(body.__name__)
        with builder:
            builder.graph.outputs = list(body(*[builder.input(type) for type in types]))
        return Program(builder.graph, updates or {}, frozenset(guards))

    return build


def op(name: str, *operands: Node, **attrs: object) -> Node:
    return registered(name)(*operands, **attrs)


def number(value: float, dtype: DType = float64) -> Node:
    return current_builder().const(value, dtype)


def vector(n: int, dtype: DType = float64) -> TensorType:
    return TensorType(dtype, (n,))


def assert_same(program: Program, inputs: Sequence[np.ndarray], tolerance: float) -> None:
    """Run a program both ways and compare results and updated inputs."""
    native, interpreted = ([np.array(x) for x in inputs] for _ in range(2))
    executable = compile_program(program)
    found = executable.run(native)
    wanted = InterpretedExecutable(program, "").run(interpreted)
    assert (found is None) == (wanted is None)
    for got, want in zip([*(found or ()), *native], [*(wanted or ()), *interpreted], strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def _tolerance(dtype: np.dtype) -> float:
    return {"f4": 1e-6, "f8": 1e-14}.get(dtype.str[1:], 0.0)


@pytest.mark.parametrize("op", [o for o in all_ops() if o.samples], ids=lambda o: o.name)
def test_every_op_means_what_the_interpreter_says(op: Op, rng: np.random.Generator) -> None:
    samples = list(op.samples(rng))
    builder = GraphBuilder(op.name)
    arrays: list[np.ndarray] = []
    for sample in samples:
        nodes = tuple(builder.input(type_of(x)) for x in sample.operands)
        builder.graph.outputs.append(builder.emit(op, nodes, sample.attrs))
        arrays += sample.operands
    executable = compile_program(Program(builder.graph))
    wanted = InterpretedExecutable(executable.program, "").run(arrays)
    found = executable.run(arrays)
    assert found is not None
    assert wanted is not None
    for sample, got, want in zip(samples, found, wanted, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        tolerance = _tolerance(got.dtype)
        np.testing.assert_allclose(got, want, tolerance, tolerance, err_msg=str(sample))


@pytest.mark.parametrize("seed", range(40))
def test_random_integer_programs_are_exact(seed: int) -> None:
    assert_same(*random_program(seed, 16, int64), 0.0)


@pytest.mark.parametrize("seed", range(40))
def test_random_float_programs_agree(seed: int) -> None:
    assert_same(*random_program(1000 + seed, 16, float64), 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_large_random_programs_agree(seed: int) -> None:
    assert_same(*random_program(2000 + seed, 150, int64), 0.0)


@pytest.mark.parametrize("vector_bytes", [16, 64])
def test_other_vector_widths(vector_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(host(), vector_bytes=vector_bytes, features="")
    monkeypatch.setattr("tracegrad.codegen.executable.host", lambda: other)
    for seed in range(12):
        assert_same(*random_program(3000 + seed, 20, int64), 0.0)
        assert_same(*random_program(3000 + seed, 20, float64), 1e-9)


@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize(
    "shape", [(1,), (31,), (1025,), (100_003,), (300, 777), (5000, 3)], ids=str
)
def test_sums_are_as_precise_as_pairwise_summation(
    dtype: DType, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    axes = [tuple(range(len(shape))), (0,), (len(shape) - 1,)]

    @program(TensorType(dtype, shape))
    def sums(x: Node) -> Sequence[Node]:
        return [op("sum", x, axis=axis, keepdims=False) for axis in axes]

    x = rng.uniform(0.5, 1.5, shape).astype(dtype.np)
    found = compile_program(sums).run([x])
    assert found is not None
    for axis, got in zip(axes, found, strict=True):
        want = np.sum(x.astype(np.longdouble), axis=axis)
        # A run has up to 64 additions per lane; each is off by half a unit in the last place.
        assert np.all(np.abs(got - want) <= 40 * np.finfo(dtype.np).eps * want)


def test_long_sums_do_not_drift(rng: np.random.Generator) -> None:
    @program(vector(3_000_001, float32))
    def total(x: Node) -> Sequence[Node]:
        return [op("sum", x, axis=(0,), keepdims=False)]

    x = np.full(3_000_001, 0.1, np.float32)
    found = compile_program(total).run([x])
    assert found is not None
    want = 3_000_001 * float(np.float32(0.1))
    assert abs(float(found[0]) - want) < 1e-6 * want


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("place", [0, 5, 18])
def test_a_nan_is_the_extremum(name: str, place: int) -> None:
    @program(vector(19))
    def extremum(x: Node) -> Sequence[Node]:
        whole = op(name, x, axis=(0,), keepdims=False)
        return [whole, op(f"arg{name}", x, axis=0, keepdims=False)]

    x = np.linspace(-1, 1, 19)
    x[place] = np.nan
    found = compile_program(extremum).run([x])
    assert found is not None
    assert np.isnan(found[0])
    assert found[1] == place


def test_an_infinite_element_makes_the_sum_infinite() -> None:
    @program(vector(100_000))
    def total(x: Node) -> Sequence[Node]:
        return [op("sum", x, axis=(0,), keepdims=False)]

    x = np.ones(100_000)
    x[77] = np.inf
    found = compile_program(total).run([x])
    assert found is not None
    assert found[0] == np.inf


def test_the_same_value_is_the_same_in_every_kernel(rng: np.random.Generator) -> None:
    """The maximum of an expression is found among its elements when they are computed anew."""

    @program(TensorType(float32, (50, 33)), TensorType(float32, (50, 33)))
    def hits(x: Node, y: Node) -> Sequence[Node]:
        z = x * y + x
        top = op("max", z, axis=(1,), keepdims=True)
        hit = op("cast", op("eq", z, top), dtype=int64)
        return [op("sum", hit, axis=(1,), keepdims=False), x * y]

    inputs = [rng.standard_normal((50, 33)).astype(np.float32) for _ in range(2)]
    found = compile_program(hits).run(inputs)
    assert found is not None
    assert np.all(found[0] >= 1)


# Guards, updates, errors.


def _step() -> Program:
    @program(vector(5), vector(5), updates={1: 0}, guards=[2])
    def step(w: Node, g: Node) -> Sequence[Node]:
        total = op("sum", g, axis=(0,), keepdims=False)
        return [w * 2.0, w - g * 0.5, op("gt", total, number(0.0))]

    return step


def test_a_failed_guard_writes_nothing() -> None:
    executable = compile_program(_step())
    w, g = np.arange(5.0), -np.ones(5)
    assert executable.run([w, g]) is None
    np.testing.assert_array_equal(w, np.arange(5.0))
    found = executable.run([w, -g])
    assert found is not None
    np.testing.assert_array_equal(found[0], 2 * np.arange(5.0))
    np.testing.assert_array_equal(w, np.arange(5.0) - 0.5)


def test_updates_that_exchange_inputs() -> None:
    @program(vector(9), vector(9), updates={0: 1, 1: 0})
    def exchange(x: Node, y: Node) -> Sequence[Node]:
        return [x, y]

    x, y = np.arange(9.0), -np.arange(9.0)
    assert compile_program(exchange).run([x, y]) == []
    np.testing.assert_array_equal(y, np.arange(9.0))
    np.testing.assert_array_equal(x, -np.arange(9.0))


def test_an_update_does_not_overtake_readers() -> None:
    @program(vector(9), updates={0: 0})
    def reverse(x: Node) -> Sequence[Node]:
        return [op("flip", x, axes=(0,)), op("cumsum", x, axis=0)]

    x = np.arange(9.0)
    found = compile_program(reverse).run([x])
    assert found is not None
    np.testing.assert_array_equal(x, np.arange(9.0)[::-1])
    np.testing.assert_array_equal(found[0], np.cumsum(np.arange(9.0)))


def test_of_several_updates_of_one_input_the_last_counts() -> None:
    @program(vector(5), updates={0: 0, 1: 0})
    def twice(x: Node) -> Sequence[Node]:
        return [x + 1.0, x + 2.0]

    assert_same(twice, [np.arange(5.0)], 0.0)


@pytest.mark.parametrize("value", [True, False])
def test_guards_on_constants_and_inputs(value: bool) -> None:
    @program(vector(5), TensorType(bool_, ()), guards=[1, 2])
    def guarded(x: Node, flag: Node) -> Sequence[Node]:
        return [x + 1.0, number(value, bool_), flag]

    executable = compile_program(guarded)
    assert (executable.run([np.ones(5), np.array(True)]) is not None) == value
    assert executable.run([np.ones(5), np.array(False)]) is None


def test_guards_on_constants_in_long_programs() -> None:
    """A program of many kernels is cut into functions, each of which knows the constants."""

    @program(TensorType(float64, (2, 2)), guards=[1, 2])
    def guarded(x: Node) -> Sequence[Node]:
        out = x
        for _ in range(200):
            out = op("matmul", out, x)
        return [out, number(True, bool_), number(True, bool_)]

    assert_same(guarded, [np.eye(2)], 0.0)


def test_results_are_fresh_and_distinct() -> None:
    @program(vector(4))
    def views(x: Node) -> Sequence[Node]:
        return [x, x, op("reshape", x, shape=(2, 2)), x * 1.0]

    x = np.arange(4.0)
    found = compile_program(views).run([x])
    assert found is not None
    for position, result in enumerate(found):
        np.testing.assert_array_equal(result.ravel(), x)
        assert not any(np.may_share_memory(result, y) for y in [x, *found[:position]])


@pytest.mark.parametrize("name", ["gather", "take", "index_add", "index_copy", "scatter_add"])
@pytest.mark.parametrize("wrong", [-1, 4, 2**62, -(2**63)])
def test_an_index_out_of_bounds_raises_and_writes_nothing(name: str, wrong: int) -> None:
    @program(vector(4), vector(3, int64), vector(3), updates={1: 0})
    def indexed(x: Node, index: Node, src: Node) -> Sequence[Node]:
        operands = (x, index) if name in ("gather", "take") else (x, index, src)
        return [op(name, *operands, axis=0), x + 1.0]

    executable = compile_program(indexed)
    x, src = np.arange(4.0), np.ones(3)
    with pytest.raises(IndexError, match=f"index {wrong} is out of bounds for dimension 0"):
        executable.run([x, np.array([0, wrong, 2]), src])
    np.testing.assert_array_equal(x, np.arange(4.0))
    assert executable.run([x, np.array([0, 3, 2]), src]) is not None
    np.testing.assert_array_equal(x, np.arange(4.0) + 1)


@pytest.mark.parametrize("name", ["floor_div", "remainder", "fmod"])
def test_integer_division_by_zero_raises(name: str) -> None:
    @program(vector(9, int64), vector(9, int64), updates={1: 0})
    def divide(x: Node, y: Node) -> Sequence[Node]:
        return [op(name, x, y), y]

    executable = compile_program(divide)
    x, y = np.arange(9), np.arange(9) - 4
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        executable.run([x, y])
    np.testing.assert_array_equal(x, np.arange(9))
    assert executable.run([x, y + 10]) is not None


def test_the_smallest_integer_divided_by_minus_one_wraps() -> None:
    smallest = np.iinfo(np.int64).min

    @program(vector(9, int64), vector(9, int64))
    def divide(x: Node, y: Node) -> Sequence[Node]:
        return [op(name, x, y) for name in ("floor_div", "remainder", "fmod")]

    found = compile_program(divide).run([np.full(9, smallest), np.full(9, -1)])
    assert found is not None
    assert [int(x[0]) for x in found] == [smallest, 0, 0]


def test_a_failed_guard_goes_before_a_bad_index() -> None:
    @program(vector(4), vector(1, int64), guards=[1])
    def indexed(x: Node, index: Node) -> Sequence[Node]:
        first = op("slice", x, start=(0,), limit=(1,), stride=(1,))
        good = op("gt", op("reshape", first, shape=()), number(0.0))
        return [op("take", x, index, axis=0), good]

    assert compile_program(indexed).run([np.zeros(4), np.array([9])]) is None


# What may be passed.


def test_inputs_of_any_layout() -> None:
    @program(TensorType(float64, (4, 3)), TensorType(float64, (4, 3)), updates={0: 0})
    def add(x: Node, y: Node) -> Sequence[Node]:
        return [x + y, x * y]

    executable = compile_program(add)
    plain = np.arange(12.0).reshape(4, 3)
    raw = np.zeros(12 * 8 + 1, np.uint8)
    unaligned = raw[1:].view(np.float64).reshape(4, 3)
    wide = np.zeros((4, 6))
    layouts = [
        np.asfortranarray(plain),
        wide[:, ::2],
        unaligned,
        plain.astype(">f8"),
        wide[:, ::-2],
    ]
    for x in layouts:
        x[...] = plain
        y = np.broadcast_to(np.array([1.0, 2.0, 3.0]), (4, 3))
        found = executable.run([x, y])
        assert found is not None
        np.testing.assert_array_equal(x, plain + y)
        np.testing.assert_array_equal(found[0], plain * y)


def test_inputs_that_overlap() -> None:
    @program(vector(8), vector(8), vector(8), updates={0: 0, 1: 1})
    def add(x: Node, y: Node, z: Node) -> Sequence[Node]:
        return [x + z, y + x]

    memory = np.arange(12.0)
    expected = np.arange(12.0)
    x, y, z = expected[:8].copy(), expected[2:10].copy(), expected[4:].copy()
    expected[:8] = x + z
    expected[2:10] = y + x
    compile_program(add).run([memory[:8], memory[2:10], memory[4:]])
    np.testing.assert_array_equal(memory, expected)


def test_wrong_inputs_are_refused() -> None:
    @program(vector(3), updates={0: 0})
    def double(x: Node) -> Sequence[Node]:
        return [x * 2.0]

    executable = compile_program(double)
    for wrong in (np.zeros(4), np.zeros((3, 1)), np.zeros(3, np.float32), [1.0, 2.0, 3.0]):
        with pytest.raises(TypeError):
            executable.run([wrong])
    with pytest.raises(TypeError, match="takes 1 inputs, but got 2"):
        executable.run([np.zeros(3), np.zeros(3)])
    frozen = np.ones(3)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        executable.run([frozen])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_small_and_empty_arrays(n: int) -> None:
    @program(vector(n), TensorType(bool_, (n,)))
    def mixed(x: Node, mask: Node) -> Sequence[Node]:
        chosen = op("where", mask, x, x * -1.0)
        return [op("sum", chosen, axis=(0,), keepdims=False), chosen, op("bit_not", mask)]

    assert_same(mixed, [np.arange(n) + 1.0, np.arange(n) % 2 == 0], 0.0)


def test_threads_share_an_executable(rng: np.random.Generator) -> None:
    @program(TensorType(float64, (40, 40)))
    def power(x: Node) -> Sequence[Node]:
        for _ in range(4):
            x = op("tanh", op("matmul", x, x))
        return [x]

    executable = compile_program(power)
    inputs = [rng.standard_normal((40, 40)) for _ in range(4)]
    wanted = [executable.run([x]) for x in inputs]
    wrong: list[int] = []

    def work(worker: int) -> None:
        for _ in range(50):
            found = executable.run([inputs[worker]])
            if not np.array_equal(found[0], wanted[worker][0]):  # type: ignore[index]
                wrong.append(worker)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Steps that Python does.


def test_what_has_no_native_code_is_interpreted_between_native_segments() -> None:
    @program(vector(5, int64), vector(5, int64), updates={1: 0}, guards=[2])
    def powers(x: Node, y: Node) -> Sequence[Node]:
        power = op("integer_pow", x + y, y)
        total = op("sum", power, axis=(0,), keepdims=False)
        return [power * y, power + x, op("gt", total, number(0, int64))]

    executable = compile_program(powers)
    assert [fallback.node.op.name for fallback in executable.fallbacks] == ["integer_pow"]
    assert executable.entry is None
    assert_same(powers, [np.arange(5), np.arange(5)], 0.0)
    assert_same(powers, [np.arange(5) - 9, np.arange(5) % 2 + 1], 0.0)


def test_large_products_are_left_to_blas(rng: np.random.Generator) -> None:
    @program(TensorType(float32, (300, 400)), TensorType(float32, (500, 400)), updates={1: 0})
    def layer(x: Node, w: Node) -> Sequence[Node]:
        product = op("matmul", x, op("permute", w, dims=(1, 0)))
        return [op("tanh", product), x * 2.0]

    executable = compile_program(layer)
    steps = [k for k in executable._schedule.kernels if isinstance(k, PythonStep)]
    assert len(steps) == 1
    assert not executable.fallbacks
    assert_same(
        layer, [rng.standard_normal(x.shape).astype(np.float32) for x in layer.graph.inputs], 1e-4
    )


# For people, and the native entry.


def test_the_entry_runs_the_program() -> None:
    executable = compile_program(_step())
    if executable.entry is None:
        pytest.skip("no native entry points on this Python")
    w, g, result = np.arange(5.0), np.ones(5), np.empty(5)
    assert [spec.shape for spec in executable.arguments] == [(5,), (5,), (5,)]
    assert executable.entry(w, -g, result) == 1
    assert executable.entry(w, g, result) == 0
    np.testing.assert_array_equal(result, 2 * np.arange(5.0))
    assert executable.entry(w, w, result) == 2


def test_what_people_can_look_at() -> None:
    executable = compile_program(_step())
    text = executable.kernels_text()
    for word in ("kernel 0", "loops over [5]", "load", "store", "fold", "guard"):
        assert word in text
    assert "define" in executable.llvm_text()
    assert executable.assembly()
    assert min(executable.schedule_ms, executable.emit_ms, executable.llvm_ms) > 0


SROA_MISCOMPILES = """
graph @f(%x: f64[2], %h: f64[2], %p: b1[]) -> (b1[4]) {
  %0: f64[] = sum[axis=(0,), keepdims=False] %x
  %1: f64[] = abs %0
  %2: f64[2] = where %p, %1, %x
  %3: f64[] = const[value=0.0]
  %4: f64[4] = concat[axis=0] %2, %h
  %5: f64[4] = sub %0, %4
  %6: b1[4] = gt %3, %5
  return %6
}
"""


def test_stack_arrays_filled_out_of_order() -> None:
    """LLVM 22 aborted here: see emit._touch."""
    operands = [np.array([1.0, -3.0]), np.array([5.0, -5.0]), np.array(False)]
    assert_same(Program(parse(SROA_MISCOMPILES)), operands, 0.0)
