"""The argument `out` of every public function that has it, against torch: all lines of the table of calls."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.methods import LATE_NAMES
from tracegrad.ops.out_argument import OUT

torch = pytest.importorskip("torch")
from torch_cases import CASES, Case, draw, flat_outputs, prepare  # noqa: E402
from torch_cases.calls import find  # noqa: E402

pytestmark = pytest.mark.peers

DTYPES = ("float32", "float64", "int64", "int32", "bool")


def exact(module: Any, x: Any) -> Any:
    return module.zeros(tuple(x.shape), dtype=x.dtype)


def empty(module: Any, x: Any) -> Any:
    return module.zeros(0, dtype=x.dtype)


def wrong(module: Any, x: Any) -> Any:
    return module.zeros(7, 2, dtype=x.dtype)


def wrong_view(module: Any, x: Any) -> Any:
    """With room enough in the storage behind it."""
    return module.zeros(400, dtype=x.dtype)[3:5]


def spread(module: Any, x: Any) -> Any:
    whole = module.zeros([2 * n for n in x.shape], dtype=x.dtype)
    return whole[tuple(slice(None, None, 2) for _ in x.shape)]


def transposed(module: Any, x: Any) -> Any:
    return module.zeros(tuple(x.shape)[::-1], dtype=x.dtype).permute(tuple(range(x.ndim))[::-1])


def repeated(module: Any, x: Any) -> Any:
    return module.zeros((), dtype=x.dtype).expand(tuple(x.shape))


def needing(module: Any, x: Any) -> Any:
    out = module.zeros(tuple(x.shape), dtype=x.dtype)
    return out.requires_grad_() if out.is_floating_point() else out


def sentence(error: Exception) -> str:
    """The first of a message, without the name of torch's inner function that refuses gradients."""
    return re.sub(r"^[\w:]+\(\): (?=functions with out)", "", str(error).split("\n")[0])


def run(
    module: Any,
    c: Case,
    make: Callable[[Any, Any], Any],
    *,
    requires_grad: bool = False,
    grad: bool = True,
) -> Any:
    """What happened: the error; or results, versions, layout and warnings."""
    arrays = draw(c, "float32")
    result = find(module, c.name)(*(call := prepare(module, c, arrays)).args, **call.kwargs)
    outs = [make(module, x) for x in flat_outputs(module, result)]
    call = prepare(module, c, arrays, requires_grad)
    with warnings.catch_warnings(record=True) as caught, module.set_grad_enabled(grad):
        warnings.simplefilter("always")
        try:
            got = find(module, c.name)(
                *call.args,
                **call.kwargs,
                out=outs[0] if isinstance(result, module.Tensor) else tuple(outs),
            )
        except (RuntimeError, TypeError, NotImplementedError) as error:
            return type(error).__name__, sentence(error)
    for a, b in zip(flat_outputs(module, got), outs, strict=True):
        assert a is b
    return [
        (
            str(out.dtype),
            tuple(out.shape),
            out.stride() if out.numel() else None,
            out.storage_offset(),
            out._version,
            out.is_leaf,
            out.requires_grad,
            out.detach().numpy(),
        )
        for out in outs
    ], [str(w.message).split(" (Trigg")[0] for w in caught if "resized" in str(w.message)]


def is_linear_algebra(c: Case) -> bool:
    """Functions whose `out` LAPACK writes to in torch, by columns; see test_linalg.py."""
    ours = c.name.startswith("linalg.") and c.name != "linalg.cross"
    home = LATE_NAMES.get(c.name, "")
    return ours or home.endswith((".factorization", ".solution")) or "nuc" in c.args


def overload_exists(c: Case) -> bool:
    """torch has `out` for some overloads only: for `sum` over a dimension, not for that of all elements."""
    return callable(find(torch, c.name)) and run(torch, c, exact)[0] != "TypeError"


# torch writes past the end of memory where `out` has gaps or shows one element several times.
UNSAFE = {"nn.functional.avg_pool3d"}
WITH_OUT = [
    c for c in CASES if overload_exists(c) and c.name not in UNSAFE and not is_linear_algebra(c)
]


# Where torch accepts what we refuse. Into memory that shows one element several times some of its functions write
# whatever comes last, and some lose gradients without a word; for dtypes it depends on the overload.
REFUSED = {
    "unsupported operation: more than one element of the written-to": {
        c.name.split(".")[-1] for c in CASES
    },
    "don't support automatic differentiation": {
        *("softmax", "log_softmax", "floor_divide", "inner", "diag", "ndtr", "tensordot"),
        *("slice_scatter", "quantile", "nanquantile", "histc"),
    },
    "Found dtype Double but expected Float": {"clamp", "clip", "lerp"},
    "Expected out tensor to have dtype float, but got double instead": {"max", "min"},
}
# Where the sentences about the dtype are others: each has one rule here, in torch one per overload.
OTHER_WORDS = {
    *("mean", "nansum", "logsumexp", "matmul", "mv", "inner", "nonzero", "diag", "max", "min"),
    *("clamp", "clip", "lerp", "narrow_copy", "mvlgamma", "multigammaln", "ndtr", "aminmax"),
    *("tensordot", "searchsorted", "bucketize", "kthvalue", "median", "nanmedian", "mode"),
    *("quantile", "nanquantile"),
}
_RUNNING_PRODUCTS = ("i2x3,0", "f2x3x4,1", "f2x3x4,-1", "f2x3,1", "f1x3,0", "b2x3,1")
# What torch does not do right, or as it does everywhere else.
QUIRKS = {
    "matmul(f2x3x4,f4x5)": "an error about sizes where out is not contiguous",
    "matmul(f2x3x4,f4)": "an error about sizes where out is not contiguous",
    "matmul(f2,f2x3)": "resizes what has the right shape, and counts two changes",
    "heaviside(i2x3,i3) into": "refused: of another dtype than the operands",
    "ldexp(": "an internal assertion fails where dtypes differ",
    "narrow_copy(f2x3x4,2,1,2) into spread": "writes past the strides",
    "narrow_copy(f2x3x4,2,1,2) into transposed": "writes past the strides",
    "narrow_copy(f2x3x4,2,1,2) into repeated": "writes past the strides",
    "nonzero(b2x3) into empty": "column by column in memory",
    "nonzero(b2x3) into wrong": "column by column in memory",
    "cumsum(f2x3x4,1) into bool": "not implemented for bool",
    "cumsum(i2x3,0) into bool": "sums of bools",
    **{f"cumprod({x}) into bool": "not implemented for bool" for x in _RUNNING_PRODUCTS},
    "argsort(f": "refuses operands that require grad, though positions have no gradient",
    **{
        f"{c} into {kind}": "resizes to another shape on the way, or writes what comes last"
        for c in CASES
        if c.name in ("kthvalue", "median", "nanmedian", "mode", "quantile", "nanquantile", "topk")
        for kind in ("wrong", "repeated")
    },
    "isin(2,": "warns of a resize from the right shape",
    "nanmean(": "counts two changes",
    "kron(": "counts two changes",
    "addbmm(": "counts a change for each matrix",
    "diff(f2x3,0)": "copies, without any of the checks",
    "aminmax(f2x3,keepdim=True) into repeated": "writes into memory that shows an element several times",
}


def assert_same_run(ours: Any, theirs: Any, c: Case, what: str) -> None:
    name = c.name.removeprefix("special.")
    if any(what.startswith(quirk) for quirk in QUIRKS):
        return
    if isinstance(ours[0], str) and ours != theirs:
        if isinstance(theirs[0], str):
            assert name in OTHER_WORDS, what
        else:
            assert any(words in ours[1] and name in names for words, names in REFUSED.items()), (
                f"{what}: {ours}"
            )
        return
    assert isinstance(ours[0], str) == isinstance(theirs[0], str), f"{what}: {theirs}"
    if isinstance(ours[0], str):
        return
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert a[:-1] == b[:-1], what
        np.testing.assert_allclose(a[-1], b[-1], rtol=2e-5, atol=2e-5, err_msg=what)
    assert ours[1] == theirs[1], what


def test_every_function_that_takes_out_is_known() -> None:
    missing = {c.name for c in WITH_OUT if c.name.split(".")[-1] not in OUT}
    assert missing == set(), "torch gives them out: add them to tracegrad.ops.out_argument"


@pytest.mark.parametrize("c", WITH_OUT, ids=str)
def test_shapes_and_layouts(c: Case) -> None:
    for make in (exact, empty, wrong, wrong_view, spread, transposed, repeated):
        what = f"{c} into {make.__name__}"
        ours = run(tg, c, make)
        # torch must not be let write into memory that belongs to others: later something else would crash.
        if not any(what.startswith(quirk) for quirk in QUIRKS):
            assert_same_run(ours, run(torch, c, make), c, what)


@pytest.mark.parametrize("c", WITH_OUT, ids=str)
def test_dtypes(c: Case) -> None:
    for dtype in DTYPES:

        def make(module: Any, x: Any, dtype: str = dtype) -> Any:
            return module.zeros(tuple(x.shape), dtype=getattr(module, dtype))

        assert_same_run(run(tg, c, make), run(torch, c, make), c, f"{c} into {dtype}")


@pytest.mark.parametrize("c", WITH_OUT, ids=str)
def test_gradients_are_refused(c: Case) -> None:
    for make, requires_grad in ((exact, True), (needing, False)):
        for grad in (True, False):
            ours, theirs = (
                run(module, c, make, requires_grad=requires_grad, grad=grad)
                for module in (tg, torch)
            )
            assert_same_run(ours, theirs, c, f"{c} into {make.__name__}, grad mode {grad}")


def outcome(call: Callable[[], Any]) -> tuple[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "returned", str(call())
        except Exception as error:
            return type(error).__name__, sentence(error)


# Calls as text, so that both libraries run the same; `t` is the library, `x` a vector of four, `m` a matrix.
CALLS = (
    "t.sin(x, out=3)",
    "t.sin(x, out=None)",
    "t.max(m, 0, out=(m,))",
    "t.max(m, 0, out=[t.zeros(0), t.zeros(0, dtype=t.int64)]).indices",
    "t.max(m, 0, out=(t.zeros(0), t.zeros(0)))",
    "t.relu(x, out=x)",
    "t.sin(x, foo=3)",
    # Memory in common: the same elements, or others.
    "t.sin(x, out=x)",
    "t.add(x, x, out=x)",
    "t.sin(x[:3], out=x[1:])",
    "t.cumsum(x, 0, out=x)",
    "t.softmax(m, 0, out=m)",
    "t.tril(m, out=m)",
    "t.cat([x[:2], x[2:]], out=x)",
    "t.gather(x, 0, t.tensor([3, 2, 1, 0]), out=x)",
    "t.index_select(x, 0, t.tensor([3, 2, 1, 0]), out=x)",
    # What is resized, and how it is laid out.
    "t.neg(m.t(), out=t.zeros(0)).stride()",
    "t.cumsum(m.t(), 0, out=t.zeros(0)).stride()",
    "t.cat([m.t(), m.t()], out=t.zeros(0)).stride()",
    "t.add(m.t(), 1, out=t.zeros(7)).stride()",
    # Functions that make tensors.
    "t.zeros(2, 3, out=t.ones(5))",
    "t.ones(2, 3, out=t.zeros(2, 3, dtype=t.int64))",
    "t.full((2,), 2.0, out=t.zeros(0, dtype=t.int64))",
    "t.arange(3, out=t.zeros(0))",
    "t.linspace(0, 1, 3, out=t.zeros(0))",
    "t.eye(2, out=t.zeros(3, 3))",
    "t.rand(2, 3, out=t.zeros(0)).shape",
    "t.zeros(2, dtype=t.float64, out=t.zeros(2))",
    "t.zeros(2, out=3)",
    "t.zeros(2, out=t.zeros(2, requires_grad=True))",
    # Versions, leaves.
    "(lambda o: (t.sin(x, out=o)._version, t.sin(x[:2], out=o)._version))(t.zeros(4))",
    # Transforms.
    "t.func.vmap(lambda v: t.sin(v, out=t.zeros(2)))(m)",
    "t.func.vmap(lambda v: t.sin(t.ones(2), out=v))(m)",
    "t.func.grad(lambda v: t.sin(v, out=t.zeros(4)).sum())(x)",
    "t.func.grad(lambda v: (t.sin(v.detach(), out=t.zeros(4)) * v).sum())(x)",
    "t.func.grad(lambda v: (t.sin(x, out=t.zeros(4)) * v).sum())(x)",
    "t.func.jvp(lambda v: t.sin(v, out=t.zeros(4)), (x,), (x,))",
    "t.func.jvp(lambda v: t.sin(x, out=t.zeros(4)) * v, (x,), (x,))",
)


@pytest.mark.parametrize("text", CALLS)
def test_calls(text: str) -> None:
    ours, theirs = (
        outcome(
            lambda t=t: eval(text, {"t": t, "x": t.tensor([1.0, 2, 3, 4]), "m": t.ones(2, 2) / 2})
        )
        for t in (tg, torch)
    )
    assert ours == theirs


def test_methods_have_no_out() -> None:
    with pytest.raises(TypeError, match="out"):
        tg.ones(2).sin(out=tg.ones(2))
