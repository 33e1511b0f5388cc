"""What is fused, what is stored, and in which order kernels come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from random_programs import random_program
from tracegrad.codegen.engine import host
from tracegrad.codegen.kernel import (
    Buffer,
    DecisionKernel,
    Kernel,
    Load,
    LoopKernel,
    MatmulKernel,
    PythonStep,
)
from tracegrad.codegen.schedule import Schedule, make_schedule
from tracegrad.ir import GraphBuilder, Node, Program, TensorType, registered
from tracegrad.ir.autodiff import append_adjoint, differentiate
from tracegrad.ir.graph import current_builder
from tracegrad.ir.types import DType, bool_, float32, float64, int64

Body = Callable[..., Sequence[Node]]


def op(name: str, *operands: Node, **attrs: object) -> Node:
    return registered(name)(*operands, **attrs)


def scheduled(
    body: Body,
    *shapes: tuple[int, ...],
    dtype: DType = float64,
    updates: dict[int, int] | None = None,
) -> Schedule:
    builder = GraphBuilder("test")
    with builder:
        inputs = [builder.input(TensorType(dtype, shape)) for shape in shapes]
        builder.graph.outputs = list(body(*inputs))
    return make_schedule(Program(builder.graph, updates or {}), host())


def loops(schedule: Schedule) -> list[LoopKernel]:
    return [kernel for kernel in schedule.kernels if isinstance(kernel, LoopKernel)]


def total(x: Node) -> Node:
    return op("sum", x, axis=tuple(range(x.ndim)), keepdims=False)


def check_order(schedule: Schedule) -> None:
    """Everything is written before it is read, and nothing is written before decisions and readers."""
    written: set[Buffer] = set()
    inputs = set(schedule.inputs)
    for position, kernel in enumerate(schedule.kernels):
        inside = isinstance(kernel, MatmulKernel) and kernel.product
        for buffer in kernel.reads():
            known = buffer in written or buffer in inputs or buffer.role == "constant"
            accumulated = isinstance(kernel, LoopKernel) and buffer in set(kernel.writes())
            assert known or accumulated or buffer is inside, f"kernel {position} reads {buffer}"
        for buffer in kernel.writes():
            if buffer in inputs:
                later = schedule.kernels[position + 1 :]
                assert not any(isinstance(k, DecisionKernel) for k in later)
                if getattr(kernel, "region", None) is not None:
                    # The other regions of the update read only what they write themselves.
                    later = [k for k in later if buffer not in set(k.writes())]
                assert not any(_reads_old(k, buffer) for k in later)
        written.update(kernel.writes())
    assert written >= {buffer for buffer in schedule.results if buffer.type.size}


def _reads_old(kernel: Kernel, target: Buffer) -> bool:
    """Whether a kernel reads an input itself, not what was written to it."""
    if not isinstance(kernel, LoopKernel):
        return False
    return any(isinstance(i, Load) and i.buffer is target for i in kernel.instructions)


@pytest.mark.parametrize("seed", range(80))
@pytest.mark.parametrize("steps", [12, 60])
def test_kernels_come_after_what_they_read(seed: int, steps: int) -> None:
    check_order(make_schedule(random_program(seed, steps, int64)[0], host()))


def test_value_and_gradient_are_one_loop() -> None:
    builder = GraphBuilder("f")
    with builder:
        a = builder.input(TensorType(float32, (1000,)))
        builder.graph.outputs = [total(op("sin", a) * 2.0 + 1.0)]
    schedule = make_schedule(Program(differentiate(builder.graph)), host())
    (kernel,) = loops(schedule)
    assert len(schedule.kernels) == 1
    assert len(kernel.stores) == len(kernel.folds) == 1
    assert sum(isinstance(i, Load) for i in kernel.instructions) == 1


def test_movements_do_not_copy() -> None:
    def body(x: Node) -> Sequence[Node]:
        y = op("flip", op("permute", x, dims=(1, 0)), axes=(0,))
        z = op("slice", y, start=(1, 0), limit=(4, 3), stride=(2, 1))
        return [op("broadcast_in_dim", z, shape=(5, 2, 3), dims=(1, 2)) * 2.0]

    (kernel,) = loops(scheduled(body, (3, 4)))
    assert kernel.extents == (5, 2, 3)
    (load,) = [i for i in kernel.instructions if isinstance(i, Load)]
    assert (load.offset.coefficients, load.offset.constant) == ((0, -2, 4), 2)


def test_a_reshape_that_cannot_be_indexed_is_free_all_the_same() -> None:
    def body(x: Node, y: Node) -> Sequence[Node]:
        return [op("reshape", op("tanh", x + y), shape=(2, 6)) * 2.0]

    assert len(scheduled(body, (3, 4), (3, 4)).kernels) == 1


def test_what_is_dear_is_computed_once_and_what_is_cheap_again() -> None:
    def body(x: Node) -> Sequence[Node]:
        dear, cheap = op("exp", x), op("neg", x)
        scale = op("max", x, axis=(1,), keepdims=True)
        sums = op("sum", dear, axis=(1,), keepdims=True)
        return [dear / sums, cheap / scale]

    schedule = scheduled(body, (6, 7))
    count = {"exp": 0, "neg": 0}
    for kernel in loops(schedule):
        for instruction in kernel.instructions:
            name = getattr(getattr(instruction, "node", None), "op", None)
            if name is not None and name.name in count:
                count[name.name] += 1
    assert count["exp"] == 1
    assert schedule.kernels[-1] in loops(schedule)


def test_a_long_chain_is_cut() -> None:
    def body(x: Node, y: Node) -> Sequence[Node]:
        z = x
        for _ in range(1500):
            z = (z / x) * y
        return [z]

    kernels = loops(scheduled(body, (2, 3), (2, 3)))
    assert 5 <= len(kernels) <= 12
    assert all(len(kernel.instructions) < 1000 for kernel in kernels)


def test_shared_operands_do_not_blow_up() -> None:
    def body(x: Node) -> Sequence[Node]:
        for _ in range(200):
            x = op("tanh", x * x + x)
        return [x]

    kernels = loops(scheduled(body, (50,)))
    assert sum(len(kernel.instructions) for kernel in kernels) < 1500


def test_shifted_sums_do_not_blow_up() -> None:
    def body(x: Node) -> Sequence[Node]:
        for _ in range(12):
            n = x.shape[0]
            left = op("slice", x, start=(0,), limit=(n - 1,), stride=(1,))
            right = op("slice", x, start=(1,), limit=(n,), stride=(1,))
            x = left * right + left
        return [x]

    kernels = loops(scheduled(body, (60,)))
    assert sum(len(kernel.instructions) for kernel in kernels) < 600


def _training_step() -> Schedule:
    builder = GraphBuilder("step")
    with builder:
        x, y, w, b = (
            builder.input(TensorType(float32, shape))
            for shape in ((16, 50), (16, 20), (20, 50), (20,))
        )
        z = op("matmul", x, op("permute", w, dims=(1, 0))) + b
        error = op("where", op("gt", z, current_builder().const(0.0, float32)), z, z * 0.1) - y
        loss = total(error * error)
    builder.graph.outputs = [loss]
    graph, gradients = append_adjoint(builder.graph, [loss], [w, b])
    with GraphBuilder(graph):
        new = [p - g * 0.1 for p, g in zip((w, b), gradients, strict=True)]  # type: ignore[operator]
    graph.outputs = [loss, *gradients, *new]  # type: ignore[list-item]
    return make_schedule(Program(graph, {3: 2, 4: 3}), host())


def test_a_training_step_updates_in_place_and_copies_nothing() -> None:
    schedule = _training_step()
    check_order(schedule)
    products = [k for k in schedule.kernels if isinstance(k, MatmulKernel)]
    assert len(products) == 2
    # The product that gives the gradient updates the weight as well.
    assert products[1].epilogue is not None
    assert {b.real for b in products[1].epilogue.writes()} == {schedule.inputs[2]}
    # The transposed weight is read where it lies.
    assert products[0].b.buffer is schedule.inputs[2]
    assert products[0].b.strides == (1, 50)
    # The transposed product is computed the other way round.
    assert products[1].node.shape == (20, 50)
    written = [buffer for kernel in schedule.kernels for buffer in kernel.writes()]
    assert written.count(schedule.inputs[2]) == written.count(schedule.inputs[3]) == 1


def test_an_embedding_is_updated_in_place() -> None:
    builder = GraphBuilder("step")
    with builder:
        w = builder.input(TensorType(float64, (100, 8)))
        index = builder.input(TensorType(int64, (5,)))
        src = builder.input(TensorType(float64, (5, 8)))
        builder.graph.outputs = [op("index_add", w, index, src, axis=0)]
    schedule = make_schedule(Program(builder.graph, {0: 0}), host())
    written = {b for kernel in schedule.kernels for b in kernel.writes() if b.type.size > 1}
    assert written == {schedule.inputs[0]}
    assert all(kernel.extents != (100, 8) for kernel in loops(schedule))


def test_constant_positions_are_checked_at_compile_time() -> None:
    def body(x: Node) -> Sequence[Node]:
        index = current_builder().const_array(np.array([0, 3, 1]))
        return [op("take", x, index, axis=0)]

    assert not any(isinstance(k, DecisionKernel) for k in scheduled(body, (4,)).kernels)


def test_nodes_without_native_code_are_named() -> None:
    def body(x: Node) -> Sequence[Node]:
        return [op("integer_pow", x, x) + x]

    schedule = scheduled(body, (4,), dtype=int64)
    assert [node.op.name for node, _ in schedule.reasons] == ["integer_pow"]
    assert sum(isinstance(kernel, PythonStep) for kernel in schedule.kernels) == 1


def test_guards_come_before_updates() -> None:
    builder = GraphBuilder("step")
    with builder:
        x = builder.input(TensorType(float64, (4,)))
        flag = builder.input(TensorType(bool_, ()))
        builder.graph.outputs = [x + 1.0, flag, op("gt", total(x), builder.const(0.0, float64))]
    schedule = make_schedule(Program(builder.graph, {0: 0}, frozenset({1, 2})), host())
    check_order(schedule)
    assert sum(isinstance(kernel, DecisionKernel) for kernel in schedule.kernels) == 2


# Gradients of slices: zeros around what came back, added up.


def differences(x: Node) -> Node:
    """The sum of squared differences of neighbours along all axes."""
    result = current_builder().const(0.0, float64)
    for axis, n in enumerate(x.shape):
        parts = []
        for first in (0, 1):
            start = tuple(first if i == axis else 0 for i in range(x.ndim))
            limit = tuple(
                first + n - 1 if i == axis else extent for i, extent in enumerate(x.shape)
            )
            parts.append(op("slice", x, start=start, limit=limit, stride=(1,) * x.ndim))
        step = parts[1] - parts[0]
        result = result + total(step * step)
    return result


def gradient_of_differences(*shape: int) -> Schedule:
    builder = GraphBuilder("f")
    with builder:
        builder.graph.outputs = [differences(builder.input(TensorType(float64, shape)))]
    return make_schedule(Program(differentiate(builder.graph)), host())


def temporaries(schedule: Schedule, shape: tuple[int, ...]) -> set[str]:
    size = np.prod(shape) // 2
    return {
        buffer.name
        for kernel in schedule.kernels
        for buffer in kernel.writes()
        if buffer.role == "temporary" and buffer.type.size > size
    }


def test_the_gradient_of_slices_is_written_once() -> None:
    schedule = gradient_of_differences(100)
    check_order(schedule)
    assert not temporaries(schedule, (100,))
    stores = [kernel for kernel in loops(schedule) if kernel.region is not None]
    # The first element, the last, and the ones between.
    assert sorted(kernel.extents for kernel in stores) == [(), (), (98,)]
    assert len(schedule.kernels) == 5  # And two for the value.


def test_the_gradient_of_slices_along_two_axes_is_written_once() -> None:
    schedule = gradient_of_differences(30, 40)
    check_order(schedule)
    assert not temporaries(schedule, (30, 40))
    stores = [kernel for kernel in loops(schedule) if kernel.region is not None]
    assert sorted(kernel.extents for kernel in stores) == sorted(
        [(), (), (), (), (38,), (38,), (28,), (28,), (28, 38)]
    )


def test_too_many_regions_are_not_made() -> None:
    """Every row of a matrix is read by itself: its gradients are added up in a bounded number of kernels."""

    def body(x: Node, y: Node) -> Sequence[Node]:
        result = y
        for i in range(40):
            box = {"start": (i, 0), "sizes": (1, 8), "stride": (1, 1)}
            zeros = op(
                "broadcast_in_dim", current_builder().const(0.0, float64), shape=(40, 8), dims=()
            )
            result = result + op("slice_update", zeros, x * float(i + 1), **box)
        return [result]

    schedule = scheduled(body, (1, 8), (40, 8))
    check_order(schedule)
    assert len(schedule.kernels) <= 3 * 40


def placed(x: Node, start: int, v: Node) -> Node:
    zeros = op("broadcast_in_dim", current_builder().const(0.0, float64), shape=x.shape, dims=())
    return op("slice_update", zeros, v, start=(start,), sizes=v.shape, stride=(1,))


def test_a_step_along_the_gradient_of_slices_is_in_place() -> None:
    builder = GraphBuilder("step")
    with builder:
        x = builder.input(TensorType(float64, (10,)))
        v = builder.input(TensorType(float64, (9,)))
        builder.graph.outputs = [x - (placed(x, 0, v) + placed(x, 1, v)) * 0.1]
    schedule = make_schedule(Program(builder.graph, {0: 0}), host())
    check_order(schedule)
    assert {b.real for k in schedule.kernels for b in k.writes()} == {schedule.inputs[0]}
    assert len(schedule.kernels) == 3


def test_a_step_that_reads_its_target_elsewhere_is_not_in_place() -> None:
    builder = GraphBuilder("step")
    with builder:
        x = builder.input(TensorType(float64, (10,)))
        v = op("slice", x, start=(1,), limit=(10,), stride=(1,))
        builder.graph.outputs = [x - (placed(x, 0, v) + placed(x, 1, v)) * 0.1]
    schedule = make_schedule(Program(builder.graph, {0: 0}), host())
    check_order(schedule)
    assert any(buffer.role == "temporary" for k in schedule.kernels for buffer in k.writes())


def test_one_placement_is_not_worth_more_kernels() -> None:
    """Padding along two axes: nine regions would be compiled to save one pass over memory."""

    def body(x: Node) -> Sequence[Node]:
        return [op("tanh", op("pad", x, low=(1, 1), high=(1, 1), value=0))]

    assert all(kernel.region is None for kernel in loops(scheduled(body, (8, 9))))
