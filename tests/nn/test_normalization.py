"""Normalizations as modules: against torch, compiled against eager, and their errors."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from module_cases import Case, check_against_torch, check_compiled

import tracegrad as tg

SIGNAL, IMAGE, VOLUME = (3, 4, 3), (2, 4, 3, 2), (2, 4, 2, 1, 3)
CASES = [
    Case("nn.BatchNorm2d(4)", [IMAGE]),
    Case("nn.BatchNorm2d(4, momentum=None, affine=False)", [IMAGE]),
    Case("nn.BatchNorm2d(4, track_running_stats=False).eval()", [IMAGE]),
    Case("nn.BatchNorm3d(4, bias=False)", [VOLUME]),
    Case("nn.BatchNorm3d(4).eval()", [VOLUME]),
    Case("nn.GroupNorm(2, 4)", [IMAGE]),
    Case("nn.GroupNorm(4, 4, bias=False)", [SIGNAL]),
    Case("nn.GroupNorm(1, 4, eps=0.1, affine=False)", [(3, 4)]),
    Case("nn.InstanceNorm1d(4)", [SIGNAL]),
    Case("nn.InstanceNorm1d(4, affine=True)", [(4, 3)]),
    Case("nn.InstanceNorm2d(4, affine=True, track_running_stats=True)", [IMAGE]),
    Case("nn.InstanceNorm2d(4, track_running_stats=True, momentum=None)", [IMAGE]),
    Case("nn.InstanceNorm2d(4, affine=True, track_running_stats=True).eval()", [IMAGE]),
    Case("nn.InstanceNorm3d(4, affine=True, bias=False)", [VOLUME]),
    Case("nn.InstanceNorm3d(4)", [(4, 2, 1, 3)]),
    Case("nn.RMSNorm(3)", [SIGNAL]),
    Case("nn.RMSNorm((4, 3), eps=0.1, elementwise_affine=False)", [SIGNAL]),
    Case("nn.LocalResponseNorm(2)", [SIGNAL]),
    Case("nn.LocalResponseNorm(3, alpha=0.5, beta=0.5, k=2.0)", [VOLUME]),
]


@pytest.mark.peers
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.text)
def test_as_torch(case: Case, torch: ModuleType, same_module: Any) -> None:
    check_against_torch(case, torch, same_module)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.text)
def test_compiled(case: Case) -> None:
    check_compiled(case)


X3, X4 = np.ones((2, 4, 3), "f4"), np.ones((2, 4, 3, 2), "f4")
ONES = {n: np.ones(n, "f4") for n in (2, 3, 4)}
ERRORS = [
    (lambda lib, x: lib.nn.BatchNorm2d(4)(x), (X3,)),
    (lambda lib, x: lib.nn.BatchNorm3d(4)(x), (X4,)),
    (lambda lib, x: lib.nn.InstanceNorm1d(4)(x), (X4,)),
    (lambda lib, x: lib.nn.InstanceNorm3d(4)(x), (X3,)),
    (lambda lib, x: lib.nn.InstanceNorm1d(3, affine=True)(x), (X3,)),
    (lambda lib: lib.nn.GroupNorm(3, 4), ()),
    (lambda lib, x: lib.nn.functional.group_norm(x, 3), (X3,)),
    (lambda lib, x, w: lib.nn.functional.group_norm(x, 2, w), (X3, ONES[3])),
    (lambda lib, x: lib.nn.functional.group_norm(x[:1, :2, :1], 2), (X3,)),
    (lambda lib, x: lib.nn.functional.group_norm(x[0, 0], 1), (X3,)),
    (lambda lib, x: lib.nn.functional.rms_norm(x, ()), (X4,)),
    (lambda lib, x, w: lib.nn.functional.rms_norm(x, (3,), w), (X3, ONES[2])),
    (lambda lib, x: lib.nn.functional.rms_norm(x.long(), (3,)), (X3,)),
    (lambda lib, x: lib.nn.functional.instance_norm(x, use_input_stats=False), (X3,)),
    (lambda lib, x: lib.nn.functional.instance_norm(x[:, :, :1]), (X3,)),
    (lambda lib, x, w: lib.nn.functional.instance_norm(x, w), (X3, ONES[4])),
    (lambda lib, x, w: lib.nn.functional.instance_norm(x, weight=w), (X3, ONES[3])),
    (lambda lib, x: lib.nn.functional.local_response_norm(x[0], 2), (X3,)),
]


@pytest.mark.peers
@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_errors(number: int, both_raise: Any) -> None:
    call, arrays = ERRORS[number]
    both_raise(call, *arrays)


@pytest.mark.peers
def test_rms_norm_of_another_shape(both_raise: Any) -> None:
    """torch forgets a comma after the star."""
    start = len("Given normalized_shape=[4], expected input with shape [*")
    both_raise(lambda lib, x: lib.nn.functional.rms_norm(x, (4,)), X4, start=start)


def test_instances_of_another_size_warn() -> None:
    with pytest.warns(UserWarning, match="size at dim=1 does not match num_features"):
        tg.nn.InstanceNorm1d(3)(tg.rand(2, 4, 3))
