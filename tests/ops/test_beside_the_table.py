"""Calls that the table cannot hold: errors, compiled functions, and what torch has no (right) gradient or event for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.peers

# `t` is the library.
VALUES: dict[str, Callable[[Any], Any]] = {
    **{
        f"{name}{args}{options}": lambda t, name=name, args=args, options=options: getattr(t, name)(
            *args, **{k: getattr(t, v) for k, v in options.items()}
        )
        for name in ("tril_indices", "triu_indices")
        for args in ((3, 4), (2, 3, 1), (3, 2, -1), (0, 2), (4, 0), (3, 3, 5))
        for options in ({}, {"dtype": "int32"})
    },
    "unravel": lambda t: t.unravel_index(t.tensor([0, 5, 3]), (2, 3)),
    "unravel 0-d": lambda t: t.unravel_index(t.tensor(5), 7),
    "unravel in space": lambda t: t.unravel_index(t.arange(24).reshape(4, 6), (2, 3, 4)),
    "vander": lambda t: t.vander(t.tensor([0.5, 2.0, -1.0])),
    "vander of 5": lambda t: t.vander(t.tensor([0.5, 2.0, -1.0]), 5),
    "vander increasing": lambda t: t.vander(t.tensor([0.5, 2.0, -1.0]), N=2, increasing=True),
    "vander of 1": lambda t: t.vander(t.tensor([0.5, 2.0]), 1),
    "vander of 0": lambda t: t.vander(t.tensor([0.5, 2.0]), 0),
    "repeats": lambda t: t.repeat_interleave(t.arange(6).reshape(2, 3), t.tensor([2, 0, 1]), 1),
    "one count": lambda t: t.repeat_interleave(t.arange(3), t.tensor([2])),
    "0-d count": lambda t: t.repeat_interleave(t.arange(3), t.tensor(2), output_size=6),
    "counts alone": lambda t: t.repeat_interleave(t.tensor([2, 0, 3])),
    "block_diag of nothing": lambda t: t.block_diag(),
    "combinations of 0": lambda t: t.combinations(t.tensor([1.0, 2.0]), 0),
}


def flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    ours, theirs = (flat(VALUES[name](t)) for t in (tg, torch))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert str(a.dtype) == str(b.dtype)
        np.testing.assert_array_equal(a.numpy(), b.numpy())


ERRORS: dict[str, Callable[[Any], Any]] = {
    "no axis": lambda t: t.diag_embed(t.ones(2), 0, 0, 0),
    "turn in one dimension": lambda t: t.rot90(t.ones(2)),
    "turn in no plane": lambda t: t.rot90(t.ones(2, 2), 1, (0, 0)),
    "three axes": lambda t: t.rot90(t.ones(2, 2), 1, (0, 1, 1)),
    "a vector has no columns": lambda t: t.fliplr(t.ones(2)),
    "a number has no rows": lambda t: t.flipud(t.tensor(1.0)),
    "negative repeats": lambda t: t.repeat_interleave(t.ones(2), -1),
    "negative counts": lambda t: t.repeat_interleave(t.ones(2), t.tensor([1, -1])),
    "counts of floats": lambda t: t.repeat_interleave(t.ones(2), t.tensor([1.0, 1.0])),
    "too many counts": lambda t: t.repeat_interleave(t.ones(2), t.tensor([1, 1, 1]), 0),
    "a matrix of counts": lambda t: t.repeat_interleave(t.ones(2), t.ones(1, 2).long()),
    "another size": lambda t: t.repeat_interleave(t.ones(2), 2, 0, output_size=5),
    "another sum": lambda t: t.repeat_interleave(t.ones(2), t.tensor([1, 1]), 0, output_size=5),
    "take at floats": lambda t: t.ones(2).take(t.tensor([1.0])),
    "put of another dtype": lambda t: t.ones(2).put(t.tensor([0]), t.ones(1).double()),
    "put too many": lambda t: t.ones(2).put(t.tensor([0]), t.ones(3)),
    "negative rows": lambda t: t.tril_indices(-1, 2),
    "indices of floats": lambda t: t.triu_indices(2, 2, dtype=t.float32),
    "blocks in space": lambda t: t.block_diag(t.ones(1, 1, 1)),
    "product of matrices": lambda t: t.cartesian_prod(t.ones(2, 2)),
    "choice from a matrix": lambda t: t.combinations(t.ones(2, 2)),
    "a negative choice": lambda t: t.combinations(t.ones(2), -1),
    "no columns": lambda t: t.column_stack([]),
    "positions of floats": lambda t: t.unravel_index(t.tensor([0.0]), (2, 3)),
    "negative extents": lambda t: t.unravel_index(t.tensor([0]), (2, -3)),
    "powers of a matrix": lambda t: t.vander(t.ones(2, 2)),
    "negative powers": lambda t: t.vander(t.ones(2), -1),
    "einsum without operands": lambda t: t.einsum("ij"),
    "einsum with fewer": lambda t: t.einsum("ij,jk", t.ones(2, 3)),
    "einsum with more": lambda t: t.einsum("ij", t.ones(2, 3), t.ones(2, 3)),
    "einsum of other extents": lambda t: t.einsum("ij,jk->ik", t.ones(2, 3), t.ones(2, 3)),
    "einsum of another rank": lambda t: t.einsum("ijk", t.ones(2, 3)),
    "einsum of a digit": lambda t: t.einsum("i1", t.ones(2, 3)),
    "einsum twice in the output": lambda t: t.einsum("ij->ii", t.ones(2, 3)),
    "einsum of an unknown": lambda t: t.einsum("ij->k", t.ones(2, 3)),
    "einsum of two dots": lambda t: t.einsum("ij..", t.ones(2, 3)),
    "einsum of two ellipses": lambda t: t.einsum("...i...", t.ones(2, 3)),
    "einsum of no diagonal": lambda t: t.einsum("ii", t.ones(2, 3)),
    "einsum of two arrows": lambda t: t.einsum("ij->i->j", t.ones(2, 3)),
    "einsum of two dtypes": lambda t: t.einsum("ij,jk", t.ones(2, 3), t.ones(3, 2).double()),
    "einsum of a far subscript": lambda t: t.einsum(t.ones(2, 3), [0, 60]),
    "tensordot of lists": lambda t: t.tensordot(t.ones(2, 3), t.ones(3, 2), ([1], [0, 1])),
    "tensordot of -1": lambda t: t.tensordot(t.ones(2, 3), t.ones(3, 2), -1),
    "tensordot of too many": lambda t: t.tensordot(t.ones(2, 3), t.ones(3, 2), 3),
    "tensordot of extents": lambda t: t.tensordot(t.ones(2, 3), t.ones(3, 2), ([0], [0])),
    "prod over two": lambda t: t.prod(t.ones(2, 3), (0, 1)),
    "diff of a number": lambda t: t.diff(t.tensor(1.0)),
    "diff of order -1": lambda t: t.diff(t.ones(3), -1),
    "trapezoid of bools": lambda t: t.trapezoid(t.ones(3).bool()),
    "trapezoid of points": lambda t: t.trapezoid(t.ones(3), t.ones(2)),
    "cdist of columns": lambda t: t.cdist(t.ones(2, 3), t.ones(2, 4)),
    "cdist of integers": lambda t: t.cdist(t.ones(2, 3).long(), t.ones(2, 3).long()),
    "renorm of a vector": lambda t: t.renorm(t.ones(3), 2, 0, 1),
    "sum_to_size": lambda t: t.ones(2, 3).sum_to_size(2),
    "polygamma of -1": lambda t: t.polygamma(-1, t.ones(2)),
    "mvlgamma of 0": lambda t: t.mvlgamma(t.ones(2), 0),
    "hypot of integers": lambda t: t.hypot(t.ones(2).long(), t.ones(2).long()),
    "gcd of floats": lambda t: t.gcd(t.ones(2), t.ones(2)),
    "heaviside of two dtypes": lambda t: t.heaviside(t.ones(2), t.ones(2).double()),
    "positive of bools": lambda t: t.positive(t.ones(2).bool()),
    "lgamma of a number": lambda t: t.lgamma(2.0),
    "fmax of a number": lambda t: t.fmax(t.ones(2), 2.0),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    said = []
    for t in (tg, torch):
        with pytest.raises(Exception) as caught:  # noqa: PT011 (it is compared)
            ERRORS[name](t)
        said.append((type(caught.value), str(caught.value).split("\n")[0]))
    assert said[0] == said[1]


def test_float16_is_refused() -> None:
    for name in ("half", "bfloat16"):
        with pytest.raises(NotImplementedError, match="is not supported"):
            getattr(tg.ones(2), name)()


def test_functions_that_torch_wants_replaced_warn() -> None:
    for call in (lambda t: t.chain_matmul(t.ones(2, 2)), lambda t: t.cross(t.ones(3), t.ones(3))):
        with pytest.warns(UserWarning, match="is deprecated"):
            call(tg)


def test_chain_of_matrices() -> None:
    shapes = ((2, 30), (30, 3), (3, 40), (40, 1), (1, 5))
    arrays = [np.random.default_rng(0).standard_normal(s) for s in shapes]
    expected = np.linalg.multi_dot(arrays)
    with pytest.warns(UserWarning, match="chain_matmul"):
        product = tg.chain_matmul(*map(tg.tensor, arrays))
    np.testing.assert_allclose(product.numpy(), expected, rtol=1e-12)


COMPILED: dict[str, Callable[..., Any]] = {
    "einsum": lambda x, y: tg.einsum("ij,kj->ik", x, y).sin(),
    "products": lambda x, y: tg.cumprod(x, 1) * tg.prod(y, 0) + tg.logcumsumexp(y, 0),
    "special": lambda x, y: tg.lgamma(x + 3) + tg.digamma(y + 3) + tg.polygamma(2, x + 3),
    "bessel": lambda x, y: (
        tg.i0(x) * tg.special.i1e(y) + tg.erfinv(x / 9) + tg.special.ndtri(x * x / 99)
    ),
    "pairs": lambda x, y: tg.hypot(x, y) + tg.logaddexp2(x, y) + tg.copysign(x, y) + tg.fmax(x, y),
    "layout": lambda x, y: tg.diag_embed(x) @ tg.rot90(y) + tg.block_diag(x, y)[:3, :3].sum(),
    "filled": lambda x, y: tg.fill(x, 2.0) * tg.isreal(y) + tg.addmm(y, x, y, beta=0),
    "chosen": lambda x, y: tg.combinations(x[0])[:, :1] + tg.repeat_interleave(y, 2, 1)[:, :3],
    "taken": lambda x, y: (
        tg.take(x, tg.tensor([[0, 4]])) + x.put(tg.tensor([1, 5]), y[0, :2])[:, :2]
    ),
    "distances": lambda x, y: tg.cdist(x, y) + tg.dist(x, y, 3) + tg.renorm(x, 2, 0, 0.5).sum(),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled(name: str) -> None:
    """The values and gradients of the plain function, also for other values."""
    function = COMPILED[name]
    compiled = tg.compile(lambda x, y: (function(x, y) ** 2).sum())
    for seed in (0, 0, 1, 2):
        rng = np.random.default_rng(seed)
        arrays = [rng.uniform(-2, 2, (3, 3)) for _ in range(2)]
        found = []
        for f in (compiled, lambda x, y: (function(x, y) ** 2).sum()):
            x, y = (tg.tensor(a, requires_grad=True) for a in arrays)
            out = f(x, y)
            gradients = tg.autograd.grad(out, (x, y), allow_unused=True, materialize_grads=True)
            found.append([out.item(), *(g.tolist() for g in gradients)])
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


SPECIAL_NUMBERS = np.array(
    [
        0.0,
        -0.0,
        1,
        -1,
        2,
        -2,
        0.5,
        -0.5,
        -2.5,
        30,
        1e-300,
        -1e-300,
        1e10,
        math.inf,
        -math.inf,
        math.nan,
    ]
)
# Where torch is not right: at the poles of digamma, for NaN, or where it is a few units off.
NOT_COMPARED: dict[str, set[str]] = {
    "digamma": {"-1.0", "-2.0"},
    "special.i1": {"nan"},
    "special.i1e": {"nan", "10000000000.0"},
    "special.erfcx": {"10000000000.0"},
}
UNARY = (
    "lgamma digamma erfinv logit i0 special.i0e special.i1 special.i1e special.entr special.erfcx special.ndtr "
    "special.ndtri special.log_ndtr nan_to_num signbit isposinf isneginf deg2rad fix"
).split()
BINARY = (
    "xlogy special.xlog1py hypot copysign fmax fmin nextafter ldexp logaddexp float_power".split()
)


def values_and_gradients(t: Any, name: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    function = t
    for part in name.split("."):
        function = getattr(function, part)
    xs = [t.tensor(a, requires_grad=True) for a in arrays]
    out = function(*xs)
    gradients = t.autograd.grad(out.sum(), xs) if out.requires_grad else []
    return [np.array((g + 0).detach().tolist()) for g in (out, *gradients)]


@pytest.mark.parametrize("name", [*UNARY, *BINARY, "heaviside"])
def test_special_numbers(name: str) -> None:
    if name in UNARY:
        skipped = NOT_COMPARED.get(name, set())
        arrays = [np.array([v for v in SPECIAL_NUMBERS if str(float(v)) not in skipped])]
    else:
        arrays = [a.ravel() for a in np.meshgrid(SPECIAL_NUMBERS, SPECIAL_NUMBERS)]
    if name == "heaviside":
        ours, theirs = (t.heaviside(*map(t.tensor, arrays)).numpy() for t in (tg, torch))
        np.testing.assert_array_equal(ours, theirs)
        return
    ours, theirs = (values_and_gradients(t, name, arrays) for t in (tg, torch))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=0)
