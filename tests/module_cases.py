"""A module and a way to call it, written once for tracegrad and torch, and compared in all that can be seen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import tracegrad as tg


class Case(NamedTuple):
    """A module, made by the expression `text`, and a call of it.

    Attributes:
        text: a Python expression; ``nn`` stands for the library's.
        shapes: of the tensors that the module is called with, which are differentiated by.
        call: ``call(lib, module, *tensors)``: a tensor, or a tuple of tensors; ``module(*tensors)`` if None.
        constants: values of further tensors of the call, which are not differentiated by.
    """

    text: str
    shapes: Sequence[tuple[int, ...]]
    call: Callable[..., Any] | None = None
    constants: Sequence[Any] = ()

    def make(self, lib: ModuleType) -> Any:
        return eval(self.text, {"nn": lib.nn})

    def run(self, lib: ModuleType, module: Any, inputs: Sequence[Any]) -> tuple[Any, ...]:
        result = module(*inputs) if self.call is None else self.call(lib, module, *inputs)
        results = result if isinstance(result, tuple) else (result,)
        return tuple(x for x in results if x is not None)

    def further(self, lib: ModuleType) -> list[Any]:
        """The constants, as tensors."""
        return [lib.tensor(np.asarray(values)) for values in self.constants]


def outcome(
    case: Case, lib: ModuleType, module: Any, arrays: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Results, and the gradients by inputs and parameters of a sum that weighs all elements differently."""
    inputs = [lib.tensor(a, requires_grad=True) for a in arrays]
    results = case.run(lib, module, [*inputs, *case.further(lib)])
    total = 0
    for r in results:
        if r.requires_grad:
            weights = np.cos(np.arange(r.numel())).reshape(tuple(r.shape)).astype(arrays[0].dtype)
            total = total + (r * r * lib.tensor(weights)).sum()
    wanted = [*inputs, *(p for p in module.parameters() if p.requires_grad)]
    grads = lib.autograd.grad(total, wanted, allow_unused=True)
    zeros = [np.zeros(tuple(x.shape)) for x in wanted]
    return [r.detach().numpy() for r in results], [
        z if g is None else g.detach().numpy() for g, z in zip(grads, zeros, strict=True)
    ]


def check_against_torch(case: Case, torch: ModuleType, same_module: Callable[..., None]) -> None:
    """Representation, state, and (with equal weights) results, gradients and buffers, in float64."""
    ours, theirs = case.make(tg), case.make(torch)
    assert repr(ours) == repr(theirs)
    assert [(k, tuple(v.shape), str(v.dtype)) for k, v in ours.state_dict().items()] == [
        (k, tuple(v.shape), str(v.dtype)) for k, v in theirs.state_dict().items()
    ]
    ours, theirs = ours.double(), theirs.double()
    same_module(ours, theirs)
    rng = np.random.default_rng(len(case.text))
    for _ in range(2):
        arrays = [rng.normal(size=shape) for shape in case.shapes]
        a, b = outcome(case, tg, ours, arrays), outcome(case, torch, theirs, arrays)
        for mine, other in zip(a[0] + a[1], b[0] + b[1], strict=True):
            assert mine.shape == other.shape
            np.testing.assert_allclose(mine, other, rtol=1e-8, atol=1e-10)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-8)


def check_compiled(case: Case) -> None:
    """Compiled, value and gradients are those of an eager call; all calls but the first are native."""
    module = case.make(tg).double()
    twin = copy.deepcopy(module)
    count = len(case.shapes)

    def value_and_grads(m: Any, *inputs: Any) -> Any:
        results = case.run(tg, m, inputs)
        total = sum((r * r).sum() for r in results if r.is_floating_point())
        wanted = [*inputs[:count], *(p for p in m.parameters() if p.requires_grad)]
        return results, tg.autograd.grad(total, wanted, allow_unused=True)

    compiled = tg.compile(value_and_grads)
    further = case.further(tg)
    rng = np.random.default_rng(3)
    for _ in range(3):
        inputs = [tg.tensor(rng.normal(size=s), requires_grad=True) for s in case.shapes]
        inputs += further
        results, grads = compiled(module, *inputs)
        expected, expected_grads = value_and_grads(twin, *inputs)
        for a, b in zip([*results, *grads], [*expected, *expected_grads], strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(
                    a.detach().numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-10
                )
    assert compiled.stats.eager == 1, compiled.explain()
