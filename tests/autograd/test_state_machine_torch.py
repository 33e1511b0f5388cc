"""Random programs of views, in-place writes, hooks, modes and backward calls, in lockstep with torch.

All that a user can see of the tensors is compared after each step, and the errors of steps; see
:mod:`lockstep`. What torch's users find is listed there too where it differs on purpose.
"""

from __future__ import annotations

import os

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
from lockstep import Call, compare, random_program, shrunk  # noqa: E402

pytestmark = pytest.mark.peers

GROUPS, SEEDS = 2, 15


@pytest.mark.parametrize("group", range(GROUPS))
@pytest.mark.parametrize("length", [5, 12, 25])
def test_in_lockstep(length: int, group: int) -> None:
    count = SEEDS * int(os.environ.get("TRACEGRAD_FUZZ_FACTOR", "1"))
    for seed in range(group * count, (group + 1) * count):
        program = random_program(seed, length)
        if compare(tg, torch, program):
            short = shrunk(tg, torch, program)
            pytest.fail(f"{compare(tg, torch, short)}\n{short}")


def test_a_difference_is_found() -> None:
    """The comparison can fail, and the program that is reported is short."""

    class Other:
        """torch, but with another `where`."""

        Tensor = torch.Tensor

        def __getattr__(self, name: str) -> object:
            return getattr(torch, name)

        def where(self, mask: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.where(mask, y, x)

    program = [Call("sin", 0, 0, 0), Call("where", 2, 3, 0), Call("clone", 1, 1, 0)]
    assert not compare(tg, torch, program)
    assert compare(tg, Other(), program).startswith("after step 1: values of 6")
    assert shrunk(tg, Other(), program) == [Call("where", 1, 0, 0)]
