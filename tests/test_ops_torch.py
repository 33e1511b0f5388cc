"""Every public function and method against torch: value, dtype, shape, first and second gradient, in-place form,
names of records, and error sentences.

The data is the table `CASES`: one line per call. A new public function has to get a line, or a test fails. Where
tracegrad differs on purpose, `RECORDS_THAT_DIFFER` says how.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import methods

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers


class X(NamedTuple):
    """A floating operand with values in [low, high], of which gradients are taken; or another dtype."""

    shape: tuple[int, ...]
    low: float = -2.0
    high: float = 2.0
    dtype: str = "float"

    def draw(self, rng: np.random.Generator, floating: str) -> np.ndarray:
        if self.dtype == "float":
            return np.asarray(rng.uniform(self.low, self.high, self.shape).astype(floating))
        if self.dtype == "bool":
            return np.asarray(rng.integers(0, 2, self.shape).astype(bool))
        return np.asarray(rng.integers(int(self.low), int(self.high) + 1, self.shape).astype(self.dtype))


class Case(NamedTuple):
    """One call: ``name(*args, **kwargs)``; each X among args (also inside lists) is a tensor."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __str__(self) -> str:
        def text(value: Any) -> str:
            if isinstance(value, X):
                letter = {"float": "f", "bool": "b"}.get(value.dtype, "i")
                return letter + "x".join(map(str, value.shape))
            if isinstance(value, list) and value and isinstance(value[0], X):
                return "[" + ",".join(map(text, value)) + "]"
            return repr(value).replace(" ", "")

        parts = [text(a) for a in self.args] + [f"{k}={text(v)}" for k, v in self.kwargs.items()]
        return f"{self.name}({','.join(parts)})"


def case(name: str, *args: Any, **kwargs: Any) -> Case:
    return Case(name, args, kwargs)


V = X((4,))
M = X((2, 3))
A = X((2, 3, 4))
S = X(())
P = X((2, 3), 0.3, 2.0)  # positive
U = X((2, 3), -0.9, 0.9)  # inside (-1, 1)
G = X((2, 3), 1.1, 3.0)  # above 1
INT = X((2, 3), -4, 4, "int64")
ROW = X((3,))
B = X((2, 3), dtype="bool")
IDX = X((2, 3), 0, 2, "int64")
IV = X((4,), 0, 2, "int64")


def _cases() -> Iterator[Case]:
    for name in (
        "neg negative abs absolute sign exp exp2 expm1 sin cos tan atan arctan sinh cosh tanh asinh arcsinh "
        "sigmoid erf erfc floor ceil trunc round frac square relu positive"
    ).split():
        for x in (M, S, X((0, 3))):
            yield case(name, x)
        if name not in ("frac", "relu", "positive"):
            yield case(name, INT)
    for name in "log log1p log2 log10 sqrt rsqrt reciprocal".split():
        yield from (case(name, P), case(name, X((), 0.5, 2.0)), case(name, X((2, 3), 1, 5, "int64")))
    for name in "asin arcsin acos arccos atanh arctanh".split():
        yield case(name, U)
    for name in "acosh arccosh".split():
        yield case(name, G)
    for name in "add sub subtract mul multiply maximum minimum atan2 arctan2".split():
        yield from (case(name, M, M), case(name, M, ROW), case(name, X((2, 1)), ROW), case(name, S, M))
        yield case(name, INT, INT)
    for name in "true_divide div divide".split():
        yield from (case(name, M, P), case(name, M, X((3,), 0.5, 2)), case(name, M, 2), case(name, INT, 3))
        yield case(name, INT, X((2, 3), 1, 4, "int64"))
    for name in "add sub subtract mul multiply".split():
        yield from (case(name, M, 2), case(name, M, 2.5), case(name, INT, 2), case(name, INT, 2.5))
    yield from (case("add", M, M, alpha=3), case("sub", M, ROW, alpha=-0.5), case("rsub", M, 1))
    yield from (case("rsub", M, M), case("add", INT, INT, alpha=2))
    yield from (case("div", G, 0.7, rounding_mode=m) for m in ("floor", "trunc", None))
    yield from (case("div", INT, 2, rounding_mode=m) for m in ("floor", "trunc", None))
    for name in "floor_divide remainder fmod".split():
        yield from (case(name, X((2, 3), -5, 5), X((3,), 0.7, 2)), case(name, INT, 3), case(name, M, 0.7))
        yield case(name, INT, X((2, 3), 1, 3, "int64"))
    for name in "lt less le less_equal gt greater ge greater_equal eq ne not_equal".split():
        yield from (case(name, M, M), case(name, M, 0.5), case(name, IDX, X((3,), 0, 2, "int64")), case(name, INT, 0.5))
    for name in "bitwise_and bitwise_or bitwise_xor".split():
        yield from (case(name, B, B), case(name, INT, INT), case(name, INT, 5))
    for name in ("bitwise_left_shift", "bitwise_right_shift"):
        yield from (case(name, INT, X((3,), 0, 4, "int64")), case(name, INT, 2))
    yield from (case("bitwise_not", B), case("bitwise_not", INT), case("logical_not", M), case("logical_not", B))
    for name in "logical_and logical_or logical_xor".split():
        yield from (case(name, B, B), case(name, IDX, INT), case(name, M, B))
    for name in "isnan isinf isfinite".split():
        yield from (case(name, M), case(name, INT))
    yield from (case("pow", P, e) for e in (0, 1, 2, 3, -1, 0.5, 2.5, -2))
    yield from (case("pow", M, 3), case("pow", M, 2), case("pow", P, P), case("pow", P, X((3,))), case("pow", INT, 2))
    yield from (case("pow", INT, 2.5), case("pow", 2.0, M), case("pow", X((2, 3), 0, 3, "int64"), X((3,), 0, 2, "int64")))
    for name in "clamp clip".split():
        yield from (case(name, M, -0.5, 0.5), case(name, M, min=0), case(name, M, max=0.3), case(name, INT, 0, 2))
    yield from (case("clamp", M, X((2, 3), -2, -1), X((3,), 0, 1)), case("clamp", INT, 0.5))
    yield from (case("clamp_min", M, 0.1), case("clamp_max", M, 0.1))
    yield from (case("lerp", M, M, 0.3), case("lerp", M, M, M))
    yield from (case("addcmul", M, M, ROW), case("addcmul", M, M, M, value=2.5))
    yield from (case("addcdiv", M, M, P), case("addcdiv", M, M, P, value=-2))
    yield from (case("logaddexp", M, M), case("logaddexp", M, ROW))
    yield from (case("masked_fill", M, B, 7.0), case("masked_fill", M, B, S), case("masked_fill", INT, B, 3))
    yield from (case("isclose", M, M), case("isclose", INT, INT), case("clone", M), case("clone", INT))
    yield from (case("where", B, M, M), case("where", B, M, 0.0), case("where", B, 1.0, ROW), case("where", B, 1, 0))
    yield case("round", M, decimals=1)

    for name in "sum mean amax amin nansum".split():
        yield from (case(name, A), case(name, A, 1), case(name, A, (0, 2)), case(name, A, -1, True), case(name, S))
    for name in "sum any all count_nonzero".split():
        yield from (case(name, INT), case(name, B), case(name, IDX, 0))
    yield from (case("sum", INT, dtype=("dtype", "float64")), case("mean", INT, dtype=("dtype", "float64")))
    yield from (case("sum", X((0, 3)), 0), case("sum", X((0, 3))), case("any", M), case("all", M, 1, True))
    for name in "max min".split():
        yield from (case(name, A), case(name, A, 1), case(name, A, -1, True), case(name, M, ROW), case(name, INT, 0))
    for name in "argmax argmin".split():
        yield from (case(name, A), case(name, A, 1), case(name, A, 2, True), case(name, INT))
    yield from (case("cumsum", A, 1), case("cumsum", INT, 0), case("cumsum", S, 0))
    for name in "var std".split():
        yield from (case(name, A), case(name, A, 1), case(name, A, (0, 2), keepdim=True), case(name, A, False))
        yield from (case(name, A, 1, correction=0), case(name, A, 1, False))
    yield from (case("logsumexp", A, 1), case("logsumexp", A, (0, 1), True))
    for name in "softmax log_softmax".split():
        yield from (case(name, A, 1), case(name, A, -1), case(name, S, 0), case(name, M, 0))
    yield from (case("norm", M), case("norm", A, dim=1), case("norm", A, 1), case("norm", A, 3, -1, True))
    yield from (case("norm", M, math.inf), case("norm", A, 2, (0, 1)), case("norm", M, "fro"))
    yield from (case("allclose", M, M), case("equal", INT, INT))

    for name in "reshape view".split():
        yield from (case(name, A, (6, 4)), case(name, A, (-1,)), case(name, A, (2, -1, 2)), case(name, S, (1, 1)))
    yield from (case("view_as", A, X((6, 4))), case("reshape_as", A, X((4, 6))), case("flatten", A), case("flatten", A, 1))
    yield from (case("ravel", A), case("unflatten", A, 2, (2, 2)), case("permute", A, (2, 0, 1)), case("flatten", S))
    for name in "transpose swapaxes swapdims".split():
        yield from (case(name, A, 0, 2), case(name, A, -1, 1))
    for name in "movedim moveaxis".split():
        yield from (case(name, A, 0, 2), case(name, A, (0, 1), (2, 0)))
    yield from (case("t", M), case("t", V), case("unsqueeze", M, 0), case("unsqueeze", M, -1))
    yield from (case("squeeze", X((1, 3, 1))), case("squeeze", X((1, 3, 1)), 0), case("squeeze", M, 0))
    yield from (case("broadcast_to", ROW, (2, 3)), case("expand", X((2, 1)), (4, 2, 3)), case("expand", M, (-1, 3)))
    yield from (case("expand_as", ROW, M), case("contiguous", M), case("narrow", A, 2, 1, 2), case("select", A, 1, -1))
    yield from (case("unbind", M), case("unbind", A, 1), case("split", A, 2, 2), case("split", A, (1, 2), 1))
    yield from (case("chunk", A, 2, 1), case("flip", A, (0, 2)), case("roll", A, 1, 2), case("roll", M, 2))
    yield from (case("repeat", M, (2, 1, 2)), case("tile", M, (2,)), case("roll", A, (1, 2), (0, 2)))
    for name in "cat concat concatenate".split():
        yield from (case(name, [M, M]), case(name, [M, X((2, 1))], 1))
    yield from (case("cat", [M, INT]), case("stack", [M, M]), case("stack", [M, M, M], -1), case("stack", [M], 1))
    yield from (case("hstack", [M, M]), case("vstack", [ROW, ROW]), case("hstack", [ROW, V]), case("vstack", [M, ROW]))

    yield from (case("matmul", M, X((3, 4))), case("matmul", A, X((4, 5))), case("matmul", A, X((2, 4, 2))))
    yield from (case("matmul", ROW, ROW), case("matmul", M, ROW), case("matmul", X((2,)), M), case("matmul", A, V))
    yield from (case("matmul", ROW, A), case("matmul", X((5, 1, 2, 3)), A), case("mm", M, X((3, 2))))
    yield from (case("bmm", A, X((2, 4, 3))), case("mv", M, ROW), case("dot", V, V), case("vdot", V, V))
    yield from (case("addmm", X((2, 2)), M, X((3, 2))), case("addmm", X((2,)), M, X((3, 2)), beta=0.5, alpha=2))
    yield from (case("outer", V, ROW), case("ger", V, ROW), case("inner", V, V), case("inner", M, A.__class__((5, 3))))

    yield from (case("gather", M, 1, IDX), case("gather", X((3, 3)), 0, IDX), case("take_along_dim", M, IDX, 1))
    yield from (case("scatter_add", M, 1, IDX, M), case("scatter_add", X((3, 3)), 0, IDX, M))
    yield from (case("index_select", M, 1, IV), case("index_select", X((3, 2)), 0, X((), 0, 2, "int64")))
    yield from (case("index_add", X((3, 2)), 0, IV, X((4, 2))), case("index_add", X((3, 2)), 0, IV, X((4, 2)), alpha=2))
    yield from (case("nonzero", B), case("nonzero", INT, as_tuple=True), case("masked_select", M, B))
    yield from (case(name, X((3, 4)), k) for name in ("tril", "triu") for k in (-1, 0, 2))
    yield from (case("diagonal", X((3, 4))), case("diagonal", A, 1, 1, 2), case("diag", X((3, 4)), 1), case("diag", V))
    yield from (case("diag", ROW, -1), case("trace", X((3, 4))))


CASES = [c for c in _cases() if c.name != "positive"]


def build(module: Any, value: Any, arrays: Iterator[np.ndarray], requires_grad: bool) -> Any:
    """An argument of the table as this library's."""
    if isinstance(value, X):
        array = next(arrays)
        tensor = module.tensor(array)
        return tensor.requires_grad_() if requires_grad and array.dtype.kind == "f" else tensor
    if isinstance(value, list):
        return [build(module, v, arrays, requires_grad) for v in value]
    if isinstance(value, tuple) and value and value[0] == "dtype":
        return getattr(module, value[1])
    return value


def operands_of(c: Case) -> list[X]:
    return [x for a in c.args for x in (a if isinstance(a, list) else [a]) if isinstance(x, X)]


def draw(c: Case, floating: str) -> list[np.ndarray]:
    rng = np.random.default_rng(zlib.crc32(str(c).encode()))
    return [x.draw(rng, floating) for x in operands_of(c)]


class Call(NamedTuple):
    """A case with one library's arguments."""

    leaves: list[Any]
    args: list[Any]
    kwargs: dict[str, Any]


def prepare(module: Any, c: Case, arrays: list[np.ndarray], requires_grad: bool = False) -> Call:
    source = iter(arrays)
    args = [build(module, a, source, requires_grad) for a in c.args]
    kwargs = {k: build(module, v, source, requires_grad) for k, v in c.kwargs.items()}
    flat = [t for a in args for t in (a if isinstance(a, list) else [a])]
    return Call([t for t in flat if isinstance(t, module.Tensor) and t.requires_grad], args, kwargs)


def flat_outputs(module: Any, result: Any) -> list[Any]:
    if isinstance(result, module.Tensor):
        return [result]
    if isinstance(result, tuple | list):
        return [t for r in result for t in flat_outputs(module, r)]
    return []


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


def forms(c: Case) -> list[tuple[str, Callable[[Any, Call], Any]]]:
    """The ways to make a call that both libraries have: function and method."""
    found: list[tuple[str, Callable[[Any, Call], Any]]] = []
    if hasattr(torch, c.name):
        found.append(("function", lambda module, call: getattr(module, c.name)(*call.args, **call.kwargs)))
    if isinstance(c.args[0], X) and hasattr(torch.Tensor, c.name) and c.name != "where":
        found.append(
            ("method", lambda module, call: getattr(call.args[0], c.name)(*call.args[1:], **call.kwargs))
        )
    assert found, f"torch has no {c.name}"
    return found


@pytest.mark.parametrize("c", CASES, ids=str)
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


def check_gradients(what: str, leaves: Any, outs: Any, ref_leaves: Any, refs: Any) -> None:
    """First and second gradients agree, where there are any."""
    pairs = [(o, r) for o, r in zip(outs, refs, strict=True) if r.requires_grad]
    if not pairs or "floor_divide" in what:
        return
    rng = np.random.default_rng(7)
    cts = [rng.uniform(0.5, 1.5, tuple(r.shape)) for _, r in pairs]
    first = []
    for module, xs, ys in ((tg, leaves, [o for o, _ in pairs]), (torch, ref_leaves, [r for _, r in pairs])):
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
        second.append(
            module.autograd.grad(total, xs, allow_unused=True, materialize_grads=True)
            if total is not None and total.requires_grad
            else [module.zeros_like(x) for x in xs]
        )
    for ours, theirs in zip(*second, strict=True):
        assert_same(ours, theirs, f"second gradient of {what}", 1e-8)


IN_PLACE = [
    c
    for c in CASES
    if isinstance(c.args[0], X) and hasattr(torch.Tensor, c.name + "_") and hasattr(tg.Tensor, c.name + "_")
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
    "Bad in-place call: input tensor size [2] and output tensor size [2, 2] should match": (
        "output with shape [2] doesn't match the broadcast shape [2, 2]"
    ),
}


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
        assert target.data_ptr() == address
        assert target._version == 1
        grads = []
        if out.requires_grad:
            grads = module.autograd.grad(out.sum(), call.leaves, allow_unused=True, materialize_grads=True)
        results.append((None, [out], list(grads)))
    (error, outs, grads), (ref_error, refs, ref_grads) = results
    assert error == ERRORS_THAT_DIFFER.get(ref_error, ref_error)
    for ours, theirs in zip(outs + grads, refs + ref_grads, strict=True):
        assert_same(ours, theirs, str(c))


def test_every_public_function_is_in_the_table() -> None:
    tables = (methods.ELEMENTWISE, methods.REDUCTIONS, methods.SHAPING, methods.LINALG, methods.INDEXING)
    public = {name for table in tables for name in table}
    assert public - {c.name for c in CASES} == set()
    assert set(methods.IN_PLACE) - {c.name for c in IN_PLACE} == set()


@pytest.mark.parametrize("c", CASES, ids=str)
def test_results_share_memory_with_views_only(c: Case) -> None:
    """A result whose memory is an operand's is known to be its view, or is the operand itself."""
    call = prepare(tg, c, draw(c, "float64"))
    tensors = [t for a in call.args for t in (a if isinstance(a, list) else [a]) if isinstance(t, tg.Tensor)]
    for out in flat_outputs(tg, forms(c)[0][1](tg, call)):
        for x in tensors:
            if out is not x and np.shares_memory(out.numpy(), x.numpy()):
                assert out._base is x


# What users see of the graph.

_ONE_EACH = "torch has one record with several outputs, tracegrad one record for each"
_BATCHED = "torch flattens the batches, multiplies and restores them; tracegrad has one batched product"
_NO_DERIVATIVE = "torch has none"
RECORDS_THAT_DIFFER = {
    "div(f2x3,0.7,rounding_mode='floor')": "torch shows a missing edge for the number",
    "div(f2x3,0.7,rounding_mode='trunc')": "torch shows a missing edge for the number",
    "div(f2x3,0.7,rounding_mode=None)": "torch calls it DivBackward2 if rounding_mode is given, even as None",
    "floor_divide(f2x3,f3)": _NO_DERIVATIVE,
    "floor_divide(f2x3,0.7)": _NO_DERIVATIVE,
    "unbind(f2x3)": _ONE_EACH,
    "unbind(f2x3x4,1)": _ONE_EACH,
    "split(f2x3x4,2,2)": _ONE_EACH,
    "split(f2x3x4,(1,2),1)": _ONE_EACH,
    "chunk(f2x3x4,2,1)": _ONE_EACH,
    "matmul(f2x3x4,f2x4x2)": _BATCHED,
    "matmul(f2x3x4,f4)": _BATCHED,
    "matmul(f3,f2x3x4)": _BATCHED,
    "matmul(f5x1x2x3,f2x3x4)": _BATCHED,
    "inner(f4,f4)": "torch permutes first",
    "inner(f2x3,f5x3)": "torch permutes first",
    "take_along_dim(f2x3,i2x3,1)": "torch expands first, also where nothing changes",
}


def shown(module: Any, value: Any, depth: int = 5) -> Any:
    """The names of the records behind a tensor, nested as its graph is."""

    def tree(record: Any, depth: int) -> Any:
        if record is None or not depth:
            return None
        name = record.name().replace("torch::autograd::", "")
        return (name, *((tree(r, depth - 1), n) for r, n in record.next_functions))

    return tree(value.grad_fn, depth), value.output_nr


@pytest.mark.parametrize("c", CASES, ids=str)
def test_records(c: Case) -> None:
    """``grad_fn``, ``next_functions`` and ``output_nr`` are torch's."""
    arrays = draw(c, "float64")
    run = forms(c)[0][1]
    results = []
    for module in (tg, torch):
        outs = flat_outputs(module, run(module, prepare(module, c, arrays, True)))
        results.append([shown(module, out) for out in outs if out.requires_grad])
    same = results[0] == results[1]
    assert same == (str(c) not in RECORDS_THAT_DIFFER), results


EXPRESSIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "2 * b + 1": lambda m, x, w: (2 * x.sin() + 1).sum(),
    "reflected": lambda m, x, w: (1 - x) + (2.0 / x) + (2**x) + (3 + x) + 3 * x,
    "operators": lambda m, x, w: -x * w / (x + 1) - x**2 + abs(x) % 2,
    "in place": lambda m, x, w: (x * 1).add_(w).mul_(2).sin_(),
    "overwritten": lambda m, x, w: (x * 1).copy_(w),
    "zeroed": lambda m, x, w: (x * 1).zero_(),
    "filled": lambda m, x, w: (x * 1).fill_(2.0),
    "select": lambda m, x, w: x[0],
    "last": lambda m, x, w: x[-1],
    "slice": lambda m, x, w: x[:1],
    "column": lambda m, x, w: x[:, 1],
    "columns": lambda m, x, w: x[:, 1:],
    "none": lambda m, x, w: x[None],
    "ellipsis": lambda m, x, w: x[...],
    "last column": lambda m, x, w: x[..., 0],
    "index": lambda m, x, w: x[m.tensor([0, 1])],
    "indices": lambda m, x, w: x[0, m.tensor([0, 1])],
    "mask": lambda m, x, w: x[m.tensor([True, False])],
    "transposed": lambda m, x, w: x.T @ w,
    "t": lambda m, x, w: x.t() @ w,
    "mT": lambda m, x, w: x.mT,
    "cast": lambda m, x, w: x.float() + x.to(m.float32),
    "view changed": lambda m, x, w: changed(x * 1, lambda y: y[0].mul_(w[0])),
    "row assigned": lambda m, x, w: changed(x * 1, lambda y: y.__setitem__(0, w[0])),
    "element assigned": lambda m, x, w: changed(x * 1, lambda y: y.__setitem__((0, 1), 5.0)),
    "index assigned": lambda m, x, w: changed(x * 1, lambda y: y.__setitem__(m.tensor([0]), w[0])),
    "mask assigned": lambda m, x, w: changed(x * 1, lambda y: y.__setitem__(y > 0, 0.0)),
    "base changed": lambda m, x, w: view_after_change(x * 1, w),
    "detached": lambda m, x, w: x.detach() * w,
    "sum over dim": lambda m, x, w: x.sum(0).mean() + x.mean(1).sum(),
    "loss": lambda m, x, w: ((x - w) ** 2).mean(),
    "softmax": lambda m, x, w: m.log_softmax(x, 1).exp() * m.softmax(w, 0),
    "norm": lambda m, x, w: x.norm() + x.var() + w.std(0).sum(),
    "extremes": lambda m, x, w: x.max(1).values + x.min() + w.amax(1),
}


def changed(y: Any, change: Callable[[Any], object]) -> Any:
    change(y)
    return y


def view_after_change(y: Any, w: Any) -> Any:
    view = y[1:]
    y.mul_(w)
    return view


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_records_of_expressions(name: str) -> None:
    values = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]])
    results = []
    for module in (tg, torch):
        x = module.tensor(values, requires_grad=True)
        w = module.tensor(values + 1, requires_grad=True)
        results.append(shown(module, EXPRESSIONS[name](module, x, w)))
    assert results[0] == results[1]


def test_class_names_and_repr_of_records() -> None:
    y = tg.ones(2, requires_grad=True).mean()
    assert type(y.grad_fn).__name__ == "MeanBackward0"
    assert repr(y.grad_fn).startswith("<MeanBackward0 object at 0x")


# Error sentences.

BAD: dict[str, Callable[[Any, Any], object]] = {
    "sizes": lambda m, x: x + m.ones(4),
    "sizes, middle": lambda m, x: m.ones(2, 3, 4) * m.ones(2, 5, 4),
    "mm": lambda m, x: m.mm(x, x),
    "matmul": lambda m, x: x @ x,
    "matmul batches": lambda m, x: m.ones(2, 3, 4) @ m.ones(2, 5, 4),
    "matmul vector": lambda m, x: x @ m.ones(4),
    "matmul vector first": lambda m, x: m.ones(4) @ x,
    "matmul scalar": lambda m, x: x @ m.tensor(1.0),
    "matmul dtypes": lambda m, x: x @ x.T.double(),
    "mm of vectors": lambda m, x: m.mm(m.ones(3), x),
    "bmm": lambda m, x: m.bmm(m.ones(2, 3, 4), m.ones(2, 5, 4)),
    "dot": lambda m, x: m.dot(m.ones(3), m.ones(4)),
    "dot of matrices": lambda m, x: m.dot(x, x),
    "view": lambda m, x: x.view(4),
    "view of transposed": lambda m, x: x.t().view(6),
    "reshape": lambda m, x: x.reshape(4, -1),
    "two unknown": lambda m, x: x.reshape(-1, -1),
    "negative extent": lambda m, x: x.reshape(-2, 3),
    "permute": lambda m, x: x.permute(0),
    "permute twice": lambda m, x: x.permute(0, 0),
    "dim": lambda m, x: x.sum(2),
    "dim of size": lambda m, x: x.size(5),
    "dim twice": lambda m, x: x.sum((0, 0)),
    "transpose": lambda m, x: x.transpose(0, 2),
    "unsqueeze": lambda m, x: x.unsqueeze(4),
    "t": lambda m, x: m.ones(1, 2, 3).t(),
    "expand": lambda m, x: x.expand(4, 3),
    "expand fewer": lambda m, x: m.ones(2, 3).expand(3),
    "expand new -1": lambda m, x: x.expand(-1, 2, 3),
    "cat": lambda m, x: m.cat([x, m.ones(3, 4)]),
    "cat ranks": lambda m, x: m.cat([x, m.ones(3)]),
    "cat nothing": lambda m, x: m.cat([]),
    "cat scalars": lambda m, x: m.cat([m.tensor(1.0)]),
    "stack": lambda m, x: m.stack([x, m.ones(3)]),
    "stack nothing": lambda m, x: m.stack([]),
    "narrow": lambda m, x: x.narrow(0, 1, 3),
    "select": lambda m, x: x.select(0, 2),
    "split": lambda m, x: x.split([1, 2]),
    "chunk": lambda m, x: x.chunk(0),
    "index": lambda m, x: x[2],
    "index below": lambda m, x: x[-3],
    "index deep": lambda m, x: x[0, 5],
    "too many indices": lambda m, x: x[0, 0, 0],
    "float index": lambda m, x: x[m.tensor([0.5])],
    "mask shape": lambda m, x: x[m.tensor([True, False, True])],
    "index of scalar": lambda m, x: m.tensor(1.0)[0],
    "item": lambda m, x: x.item(),
    "float()": lambda m, x: float(x),
    "bool()": lambda m, x: bool(x),
    "bool of nothing": lambda m, x: bool(m.ones(0)),
    "index()": lambda m, x: range(3)[m.tensor(1.5)],
    "len": lambda m, x: len(m.tensor(1.0)),
    "iter": lambda m, x: iter(m.tensor(1.0)),
    "numpy": lambda m, x: m.ones(2, requires_grad=True).numpy(),
    "array": lambda m, x: np.asarray(m.ones(2, requires_grad=True)),
    "int requires grad": lambda m, x: m.tensor([1], requires_grad=True),
    "int requires grad later": lambda m, x: m.tensor([1]).requires_grad_(),
    "mean of integers": lambda m, x: m.tensor([1, 2]).mean(),
    "bool minus bool": lambda m, x: m.tensor([True]) - m.tensor([True]),
    "max of nothing": lambda m, x: m.ones(0).max(),
    "max of nothing along": lambda m, x: m.ones(2, 0).max(1),
    "argmax of nothing": lambda m, x: m.ones(0).argmax(),
    "where": lambda m, x: m.where(x, x, x),
    "clamp": lambda m, x: x.clamp(),
    "div mode": lambda m, x: m.div(x, x, rounding_mode="up"),
    "integer powers": lambda m, x: m.tensor([2]) ** -1,
    "integer division by zero": lambda m, x: m.tensor([2]) // m.tensor([0]),
    "gather dtype": lambda m, x: m.gather(x, 1, m.tensor([[0.0]])),
    "gather rank": lambda m, x: m.gather(x, 1, m.tensor([0])),
    "gather range": lambda m, x: m.gather(x, 1, m.tensor([[7]])),
    "index_select range": lambda m, x: m.index_select(x, 0, m.tensor([7])),
    "arange": lambda m, x: m.arange(0, 1, 0),
    "arange direction": lambda m, x: m.arange(3, 0),
    "ragged": lambda m, x: m.tensor([[1, 2], [3]]),
    "strings": lambda m, x: m.tensor(["a"]),
    "negative size": lambda m, x: m.zeros(-1),
    "not a tensor": lambda m, x: m.sin(1.0),
    "tensor plus string": lambda m, x: x + "a",
    "in-place shape": lambda m, x: m.ones(3).add_(x),
    "in-place dtype": lambda m, x: m.tensor([1]).add_(0.5),
    "leaf in place": lambda m, x: m.ones(2, requires_grad=True).add_(1),
    "leaf view in place": lambda m, x: m.ones(2, requires_grad=True)[0].add_(1),
    "leaf setitem": lambda m, x: m.ones(2, requires_grad=True).__setitem__(0, 1.0),
    "leaf index put": lambda m, x: m.ones(2, requires_grad=True).__setitem__(m.tensor([0]), 1.0),
    "leaf sin_": lambda m, x: m.sin_(m.ones(2, requires_grad=True)),
    "setitem shape": lambda m, x: m.ones(2, 3).__setitem__(0, m.ones(2)),
    "expanded in place": lambda m, x: m.ones(1).expand(3).add_(1),
    "not scalar": lambda m, x: (m.ones(2, requires_grad=True) * 2).backward(),
    "no grad": lambda m, x: x.sum().backward(),
    "cotangent shape": lambda m, x: (m.ones(2, requires_grad=True) * 2).backward(m.ones(3)),
    "unused": lambda m, x: m.autograd.grad(m.ones(1, requires_grad=True).sum(), m.ones(1, requires_grad=True)),
    "input without grad": lambda m, x: m.autograd.grad(m.ones(1, requires_grad=True).sum(), x),
    "inputs empty": lambda m, x: m.autograd.backward(m.ones(1, requires_grad=True).sum(), inputs=[]),
    "retain_grad": lambda m, x: x.retain_grad(),
    "register_hook": lambda m, x: x.register_hook(print),
    "flags of results": lambda m, x: (m.ones(1, requires_grad=True) * 2).requires_grad_(False),
    "grad of other shape": lambda m, x: setattr(x, "grad", m.ones(1)),
    "grad of other dtype": lambda m, x: setattr(x, "grad", x.double()),
    "grad of other type": lambda m, x: setattr(x, "grad", 3),
    "deepcopy": lambda m, x: __import__("copy").deepcopy(m.ones(1, requires_grad=True) * 2),
    "detach_ view": lambda m, x: x[0].detach_(),
    "softmax dim": lambda m, x: m.softmax(x, 5),
    "cumsum dim": lambda m, x: x.cumsum(3),
    "trace": lambda m, x: m.trace(m.ones(3)),
    "linspace": lambda m, x: m.linspace(0, 1, -1),
    "from_numpy": lambda m, x: m.from_numpy([1]),
    "repeat": lambda m, x: x.repeat(2),
    "item of nothing": lambda m, x: m.ones(0).item(),
    "diag": lambda m, x: m.diag(m.ones(1, 1, 1)),
    "lt strings": lambda m, x: x < "a",
}


ERRORS_OF_OTHER_WORDS = {
    "gather range": "an IndexError, as for every other index out of range",
    "index_select range": "names index and dimension",
    "negative size": "the sentence that torch has for ones, full and rand",
    "unused": "the sentence of torch up to 2.12; which one it is stands in the next line",
    "grad of other dtype": "torch's speaks of grad_dtype, which tracegrad does not have",
}


def refusal(module: Any, call: Callable[[Any, Any], object]) -> tuple[type, str]:
    try:
        call(module, module.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    except Exception as error:
        return type(error), str(error)
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore")
def test_errors(name: str) -> None:
    """torch's type of exception, and torch's sentence first; hints may follow on further lines."""
    kind, sentence = refusal(tg, BAD[name])
    ref_kind, ref_sentence = refusal(torch, BAD[name])
    same = issubclass(kind, ref_kind) and sentence.splitlines()[0] == ref_sentence.splitlines()[0]
    assert same == (name not in ERRORS_OF_OTHER_WORDS), (kind, sentence, ref_kind, ref_sentence)
