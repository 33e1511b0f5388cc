"""The memory plan: what is alive at the same time never shares memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from random_programs import random_program
from tracegrad.codegen.engine import host
from tracegrad.codegen.kernel import Buffer, Kernel, PythonStep
from tracegrad.codegen.memory import ALIGNMENT, MemoryPlan, plan_memory
from tracegrad.codegen.schedule import make_schedule
from tracegrad.ir import TensorType
from tracegrad.ir.graph import Node
from tracegrad.ir.op import registered
from tracegrad.ir.types import float32, int64, uint8


class _FakeKernel(PythonStep):
    """Reads and writes the buffers it is told to."""

    def __init__(self, reads: Sequence[Buffer], writes: Sequence[Buffer]) -> None:
        node = Node(registered("input"), (), {}, TensorType(float32, ()))
        super().__init__(node, (), writes[0], None)
        self._reads, self._writes = reads, writes

    def reads(self) -> Sequence[Buffer]:
        return self._reads

    def writes(self) -> Sequence[Buffer]:
        return self._writes


def lifetimes(kernels: Sequence[Kernel]) -> dict[Buffer, tuple[int, int]]:
    alive: dict[Buffer, tuple[int, int]] = {}
    for position, kernel in enumerate(kernels):
        for buffer in [*kernel.writes(), *kernel.reads()]:
            if buffer.role == "temporary":
                alive[buffer] = (alive.get(buffer, (position, 0))[0], position)
    return alive


def check(plan: MemoryPlan, kernels: Sequence[Kernel]) -> None:
    alive = lifetimes(kernels)
    assert set(alive) == set(plan.offsets) | set(plan.separate)
    assert not set(plan.offsets) & set(plan.separate)
    placed = list(plan.offsets.items())
    for number, (buffer, offset) in enumerate(placed):
        assert offset % ALIGNMENT == 0
        assert offset + buffer.type.nbytes <= plan.arena_bytes
        for other, other_offset in placed[:number]:
            apart = (
                offset + buffer.type.nbytes <= other_offset
                or other_offset + other.type.nbytes <= offset
            )
            (first, last), (other_first, other_last) = alive[buffer], alive[other]
            assert apart or last < other_first or other_last < first


def fake_kernels(seed: int, count: int) -> list[Kernel]:
    chooser = random.Random(seed)
    buffers: list[Buffer] = []
    kernels: list[Kernel] = []
    for number in range(count):
        size = chooser.choice([1, 60, 64, 65, 1000, 5000])
        buffer = Buffer(f"t{number}", TensorType(uint8, (size,)), "temporary")
        kernels.append(_FakeKernel(chooser.sample(buffers, min(len(buffers), 3)), [buffer]))
        buffers = [*buffers, buffer][-chooser.randint(1, 8) :]
    return kernels


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("shared", [False, True])
def test_nothing_alive_is_overwritten(seed: int, shared: bool) -> None:
    kernels = fake_kernels(seed, 60)
    check(plan_memory(kernels, shared=shared), kernels)


@pytest.mark.parametrize("seed", range(10))
def test_plans_of_programs(seed: int) -> None:
    kernels = make_schedule(random_program(seed, 40, int64)[0], host()).kernels
    check(plan_memory(kernels, shared=False), kernels)


def test_memory_is_used_again() -> None:
    buffers = [Buffer(f"t{n}", TensorType(float32, (4096,)), "temporary") for n in range(50)]
    kernels: list[Kernel] = [_FakeKernel([], [buffers[0]])]
    for before, after in pairwise(buffers):
        kernels.append(_FakeKernel([before], [after]))
    plan = plan_memory(kernels, shared=False)
    assert plan.arena_bytes == 2 * 4096 * 4
    assert plan.on_stack


def test_what_several_functions_share_is_not_on_a_stack() -> None:
    kernels = fake_kernels(3, 10)
    plan = plan_memory(kernels, shared=True)
    assert not plan.separate
    assert not plan.on_stack
