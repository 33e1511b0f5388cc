"""Every public function and method against torch: value, dtype, shape, first and second gradient, in-place form.

The table of calls is in torch_cases/. A new public function has to get a line there, or a test fails.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import methods

torch = pytest.importorskip("torch")
from torch_cases import CASES, CREATION, RANDOM, Case, X, draw, flat_outputs, forms, prepare  # noqa: E402

pytestmark = pytest.mark.peers


def assert_same(ours: Any, theirs: Any, what: str = "", tolerance: float = 1e-9) -> None:
    """Equal type and shape, and equal values up to a relative tolerance."""
    if not isinstance(theirs, torch.Tensor):
        assert ours == theirs, what
        return
    assert isinstance(ours, tg.Tensor), what
    assert str(ours.dtype) == str(theirs.dtype), what
    assert tuple(ours.shape) == tuple(theirs.shape), what
    a, b = ours.detach().numpy(), theirs.numpy(force=True)
    if a.dtype == np.float32:
        tolerance = max(tolerance, 2e-5)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=what)


@pytest.mark.parametrize("c", [*CASES, *CREATION], ids=str)
def test_value_and_gradients(c: Case) -> None:
    for floating in ("float32", "float64"):
        arrays = draw(c, floating)
        for form, run in forms(c):
            ours, theirs = prepare(tg, c, arrays, True), prepare(torch, c, arrays, True)
            a, b = run(tg, ours), run(torch, theirs)
            what = f"{c} as {form} in {floating}"
            outs, refs = flat_outputs(tg, a), flat_outputs(torch, b)
            assert len(outs) == len(refs), what
            if not refs:
                assert a == b, what
            for out, ref in zip(outs, refs, strict=True):
                assert_same(out, ref, what)
                assert out.requires_grad == ref.requires_grad, what
            if floating == "float64":
                check_gradients(what, ours.leaves, outs, theirs.leaves, refs)


@pytest.mark.parametrize("c", RANDOM, ids=str)
def test_kind_of_random_values(c: Case) -> None:
    """Drawn values are another library's: only their dtype and shape are compared."""
    arrays = draw(c, "float64")
    for form, run in forms(c):
        ours, theirs = (run(module, prepare(module, c, arrays)) for module in (tg, torch))
        assert str(ours.dtype) == str(theirs.dtype), form
        assert tuple(ours.shape) == tuple(theirs.shape), form


# gradgradcheck is their test, in autograd/test_gradcheck.py.
TORCH_HAS_NO_SECOND = (
    "cdist(",
    "pdist(",
    "nn.functional.multi_margin_loss(",
    "nn.functional.multilabel_margin_loss(",
)


def check_gradients(what: str, leaves: Any, outs: Any, ref_leaves: Any, refs: Any) -> None:
    """First and second gradients agree, where there are any."""
    pairs = [(o, r) for o, r in zip(outs, refs, strict=True) if r.requires_grad]
    if not pairs or "floor_divide" in what:
        return
    rng = np.random.default_rng(7)
    cts = [rng.uniform(0.5, 1.5, tuple(r.shape)) for _, r in pairs]
    first = []
    for module, xs, ys in (
        (tg, leaves, [o for o, _ in pairs]),
        (torch, ref_leaves, [r for _, r in pairs]),
    ):
        total = sum((y * module.tensor(ct)).sum() for y, ct in zip(ys, cts, strict=True))
        first.append(module.autograd.grad(total, xs, create_graph=True, allow_unused=True))
    for ours, theirs in zip(*first, strict=True):
        assert (ours is None) == (theirs is None), f"gradient of {what}"
        if theirs is not None:
            assert_same(ours, theirs, f"gradient of {what}")
    second = []
    for module, xs, gs in ((tg, leaves, first[0]), (torch, ref_leaves, first[1])):
        used = [(g * g).sum() for g in gs if g is not None and g.requires_grad]
        total = sum(used) if used else None
        try:
            second.append(
                module.autograd.grad(total, xs, allow_unused=True, materialize_grads=True)
                if total is not None and total.requires_grad
                else [module.zeros_like(x) for x in xs]
            )
        except RuntimeError as error:
            if (
                module is torch
                and "is not implemented" in str(error)
                and what.startswith(TORCH_HAS_NO_SECOND)
            ):
                return
            raise
    for ours, theirs in zip(*second, strict=True):
        assert_same(ours, theirs, f"second gradient of {what}", 1e-8)


IN_PLACE = [
    c
    for c in CASES
    if isinstance(c.args[0], X)
    and hasattr(torch.Tensor, c.name + "_")
    and hasattr(tg.Tensor, c.name + "_")
    # torch lets addbmm_ give its tensor another shape, and other memory.
    and not (c.name == "addbmm" and len(c.args[0].shape) < 2)
]

# In-place forms whose gradient differs from torch's, and why ours is kept.
_PASSES = "torch lets the gradient pass as if nothing had happened; it is zero"
_MISSING = "torch has no derivative and raises an error"
GRADIENTS_THAT_DIFFER = {
    "logical_not": _PASSES,
    "logical_and": _PASSES,
    "logical_or": _PASSES,
    "logical_xor": _PASSES,
    "floor_divide": _MISSING,
    **dict.fromkeys(("asinh", "arcsinh", "acosh", "arccosh", "atanh", "arctanh"), _MISSING),
}
# torch's sentence: ours, where they differ.
ERRORS_THAT_DIFFER = {
    "result type Float can't be cast to the desired output type long int": (
        "result type Float can't be cast to the desired output type Long"
    ),
    "mvlgamma: result type Long can't be cast to the desired output type Float": (
        "result type Float can't be cast to the desired output type Long"
    ),
    "ldexp can't be cast to the desired output type Long": (
        "result type Float can't be cast to the desired output type Long"
    ),
    "\"cumprod_out_cpu\" not implemented for 'Bool'": (
        "result type Long can't be cast to the desired output type Bool"
    ),
    "Bad in-place call: input tensor dtype long int and output tensor dtype double should match": (
        "result type Double can't be cast to the desired output type Long"
    ),
}

# How torch begins, by function, where the result does not fit into the tensor.
TOO_SMALL = ("Bad in-place call: input tensor size", "2D tensor expected, got ")


@pytest.mark.parametrize("c", IN_PLACE, ids=str)
def test_in_place_form(c: Case) -> None:
    """The same value in the same memory and the same gradients; or the same error."""
    arrays = draw(c, "float64")
    results = []
    for module in (tg, torch):
        call = prepare(module, c, arrays, c.name not in GRADIENTS_THAT_DIFFER)
        target = call.args[0].clone()
        address = target.data_ptr()
        try:
            out = getattr(target, c.name + "_")(*call.args[1:], **call.kwargs)
        except RuntimeError as error:
            results.append((str(error).splitlines()[0], [], []))
            continue
        assert out is target
        assert target.data_ptr() == address or c.name + "_" in methods.IN_PLACE_VIEWS
        # torch adds one matrix after the other.
        assert target._version == 1 or (module is torch and c.name == "addbmm")
        grads = []
        if out.requires_grad:
            grads = module.autograd.grad(
                out.sum(), call.leaves, allow_unused=True, materialize_grads=True
            )
        results.append((None, [out], list(grads)))
    (error, outs, grads), (ref_error, refs, ref_grads) = results
    if ref_error is not None and ref_error.startswith(TOO_SMALL):
        assert error is not None
        assert error.startswith("output with shape [")
    else:
        assert error == ERRORS_THAT_DIFFER.get(ref_error, ref_error)
    for ours, theirs in zip(outs + grads, refs + ref_grads, strict=True):
        assert_same(ours, theirs, str(c))


TESTED_ELSEWHERE = {"sampling", "factorization", "solution"}
"""Modules of methods that have test modules of their own: test_sampling.py, ops/test_linalg.py."""


def test_every_public_function_is_in_the_table() -> None:
    tables = (
        methods.ELEMENTWISE,
        methods.REDUCTIONS,
        methods.SHAPING,
        methods.SHAPING_METHODS,
        methods.STRIDING,
        methods.LINALG,
        methods.INDEXING,
        [
            name
            for name, home in methods.LATE_NAMES.items()
            if home.rpartition(".")[2] not in TESTED_ELSEWHERE and not name.endswith("_")
        ],
    )
    public = {name for table in tables for name in table}
    # torch has no derivative of histograms: they are in ops/test_counting.py.
    assert public - {c.name for c in CASES} == {"histogram"}
    assert set(methods.IN_PLACE) - {c.name for c in IN_PLACE} == set()


@pytest.mark.parametrize("c", CASES, ids=str)
def test_results_share_memory_with_views_only(c: Case) -> None:
    """A result whose memory is an operand's is known to be its view, or is the operand itself."""
    call = prepare(tg, c, draw(c, "float64"))
    tensors = [
        t
        for a in call.args
        for t in (a if isinstance(a, list) else [a])
        if isinstance(t, tg.Tensor)
    ]
    for out in flat_outputs(tg, forms(c)[0][1](tg, call)):
        for x in tensors:
            if out is not x and np.shares_memory(out.numpy(), x.numpy()):
                assert out._base is x
