"""Order and scattering where the table of calls cannot hold it: errors, compiled functions, repeated positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.peers


def x(t: Any) -> Any:
    return t.tensor([[3.0, 1, 2], [1, 1, 0]])


def at(t: Any, offset: int = 0) -> Any:
    return t.tensor([[0, 1, 0], [1, 1, 0]]) + offset


NAN = float("nan")
VALUES: dict[str, Callable[[Any], Any]] = {
    "sort NaN": lambda t: t.sort(t.tensor([NAN, 1, float("inf"), NAN, -1])),
    "sort NaN down": lambda t: t.sort(t.tensor([NAN, 1, float("inf"), NAN, -1]), 0, True),
    "topk NaN": lambda t: t.topk(t.tensor([NAN, 1, float("inf"), 2]), 2),
    "kthvalue NaN": lambda t: t.kthvalue(t.tensor([NAN, 1, float("inf"), 2]), 4),
    "median NaN": lambda t: t.median(t.tensor([1, NAN, NAN]), 0),
    "nanmedian NaN": lambda t: t.nanmedian(t.tensor([1, NAN, 5, 3, 2]), 0).values,
    "median of all NaN": lambda t: t.median(t.tensor([1, NAN, 5])),
    "quantile NaN": lambda t: t.quantile(t.tensor([[1, NAN, 5], [1, 2, 4]]), 0.3, 1),
    "nanquantile NaN": lambda t: t.nanquantile(t.tensor([[1, NAN, 5], [1, 2, 4]]), 0.3, 1),
    "cummax NaN": lambda t: t.cummax(t.tensor([1, NAN, NAN, 2]), 0),
    "cummin NaN": lambda t: t.cummin(t.tensor([1, 3, NAN, 0]), 0),
    "search NaN": lambda t: t.searchsorted(t.tensor([1, 2, NAN, 1]), t.tensor([1, NAN, 4])),
    "sorter": lambda t: t.searchsorted(
        t.tensor([3.0, 1, 2]), t.tensor([1.5, 3]), sorter=t.tensor([1, 2, 0])
    ),
    "not contiguous": lambda t: t.sort(x(t).t()[::1, 1:], 0),
    "larger src": lambda t: x(t).scatter(0, at(t)[:1, :2], t.ones(2, 3) * 7),
    "last wins": lambda t: x(t).scatter(0, at(t), x(t) + 10),
    "last wins in place": lambda t: x(t).scatter_(1, at(t), x(t) + 10),
    "multiplied": lambda t: t.scatter(x(t), 0, at(t), 2.0, reduce="multiply"),
    "added in place": lambda t: x(t).scatter_(0, at(t), 2.0, reduce="add"),
    "sort out": lambda t: t.sort(x(t), out=(t.zeros(2, 3), t.zeros(2, 3).long())),
}


def flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    ours, theirs = (flat(VALUES[name](t)) for t in (tg, torch))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert str(a.dtype) == str(b.dtype)
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    "name", "sort topk kthvalue median nanmedian mode cummax cummin max min".split()
)
def test_named_tuples(name: str) -> None:
    k = (2,) if name in ("topk", "kthvalue") else ()
    ours, theirs = (getattr(t.tensor([[1.0, 2.0, 3.0]]), name)(*k, dim=1) for t in (tg, torch))
    assert repr(ours) == repr(theirs)


ERRORS: dict[str, Callable[[Any], Any]] = {
    "sort a list": lambda t: t.sort([1]),
    "sort dim": lambda t: t.sort(x(t), 5),
    "topk range": lambda t: t.topk(x(t), 4),
    "topk negative": lambda t: t.topk(x(t), -1),
    "topk float": lambda t: t.topk(x(t), 2.0),
    "topk bools": lambda t: t.topk(x(t) > 1, 1),
    "kthvalue range": lambda t: t.kthvalue(x(t), 4),
    "kthvalue zero": lambda t: t.kthvalue(x(t), 0),
    "kthvalue bools": lambda t: t.kthvalue(x(t) > 1, 1),
    "kthvalue of nothing": lambda t: t.kthvalue(t.zeros(0, 3), 1, 0),
    "median bools": lambda t: t.median(x(t) > 1),
    "median of nothing": lambda t: t.median(t.zeros(0, 3), 0),
    "mode of nothing": lambda t: t.mode(t.zeros(0)),
    "quantile q": lambda t: t.quantile(x(t), 1.5),
    "quantile qs": lambda t: t.quantile(x(t), t.tensor([1.5])),
    "quantile q rank": lambda t: t.quantile(x(t), t.tensor([[0.5]])),
    "quantile q dtype": lambda t: t.quantile(x(t), t.tensor([0.5]).double()),
    "quantile integers": lambda t: t.quantile(at(t), 0.5),
    "quantile of nothing": lambda t: t.quantile(t.zeros(0), 0.5),
    "quantile word": lambda t: t.quantile(x(t), 0.5, interpolation="foo"),
    "side": lambda t: t.searchsorted(t.ones(3), 2, side="foo"),
    "opposites": lambda t: t.searchsorted(t.ones(3), 2, side="left", right=True),
    "rows": lambda t: t.searchsorted(t.ones(1, 3), t.ones(2)),
    "sequence of no dimension": lambda t: t.searchsorted(t.tensor(1.0), t.ones(2)),
    "sorter size": lambda t: t.searchsorted(t.ones(3), t.ones(2), sorter=t.tensor([0, 1])),
    "sorter range": lambda t: t.searchsorted(t.ones(3), t.ones(2), sorter=t.tensor([0, 1, 7])),
    "sorter dtype": lambda t: t.searchsorted(t.ones(3), t.ones(2), sorter=t.ones(3)),
    "search bools": lambda t: t.searchsorted(t.ones(1) > 0, t.ones(1) > 0),
    "boundaries": lambda t: t.bucketize(t.ones(2), t.ones(1, 2)),
    "small src": lambda t: t.scatter(x(t), 0, at(t), x(t)[:1]),
    "dtype of src": lambda t: t.scatter(x(t), 0, at(t), x(t).double()),
    "dtype of index": lambda t: t.scatter(x(t), 0, at(t).float(), x(t)),
    "rank of index": lambda t: t.scatter(x(t), 0, at(t)[0], x(t)),
    "rank of src": lambda t: t.scatter(x(t), 0, at(t), t.tensor(1.0)),
    "wide index": lambda t: t.scatter(x(t), 0, t.zeros(2, 5).long(), 1.0),
    "no src": lambda t: t.scatter(x(t), 0, at(t)),
    "word": lambda t: t.scatter(x(t), 0, at(t), x(t), reduce="foo"),
    "word of scatter_reduce": lambda t: x(t).scatter_reduce(0, at(t), x(t), "add"),
    "mean of bools": lambda t: t.scatter_reduce(x(t) > 1, 0, at(t), x(t) > 1, "mean"),
    "small src to add": lambda t: x(t).scatter_add(0, at(t), x(t)[:1]),
    "word of index_reduce": lambda t: x(t).index_reduce(0, at(t)[0, :2], x(t), "sum"),
    "index of floats": lambda t: x(t).index_reduce(0, t.ones(2), x(t), "amax"),
    "index is a matrix": lambda t: x(t).index_reduce(0, at(t), x(t), "amax"),
    "count of indices": lambda t: x(t).index_reduce(0, at(t)[0], x(t), "amax"),
    "source of columns": lambda t: x(t).index_reduce(0, at(t)[0, :2], x(t)[:, :1], "amax"),
    "source dtype": lambda t: x(t).index_reduce(0, at(t)[0, :2], x(t).double(), "amax"),
    "out dtype": lambda t: t.sort(x(t), out=(t.zeros(0).double(), t.zeros(0).long())),
    "kthvalue out": lambda t: t.kthvalue(x(t), 1, out=(t.zeros(0).double(), t.zeros(0).long())),
    "median out": lambda t: t.median(x(t), 1, out=(t.zeros(0).double(), t.zeros(0).long())),
    "mode out": lambda t: t.mode(x(t), 1, out=(t.zeros(0).double(), t.zeros(0).long())),
    "cummax out": lambda t: t.cummax(x(t), 1, out=(t.zeros(0).double(), t.zeros(0).long())),
    "quantile out": lambda t: t.quantile(x(t), 0.5, out=t.zeros(0).double()),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    said = []
    for t in (tg, torch):
        with pytest.raises(Exception) as caught:  # noqa: PT011 (it is compared)
            ERRORS[name](t)
        said.append((type(caught.value), str(caught.value).split("\n")[0]))
    assert said[0] == said[1]


@pytest.mark.parametrize("offset", [2, -1])
def test_positions_out_of_bounds(offset: int) -> None:
    """An IndexError, as for every other index; torch raises a RuntimeError here."""
    for call in (
        lambda: x(tg).scatter(0, at(tg, offset), x(tg)),
        lambda: x(tg).scatter_reduce(0, at(tg, offset), x(tg), "amax"),
    ):
        with pytest.raises(IndexError, match="out of bounds for dimension 0 with size 2"):
            call()


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_hessian_of_products_with_zeros(zeros: int) -> None:
    """That of `prod`. torch refuses where two zeros meet."""
    base = tg.tensor([1.5, -2.0, 3.0], dtype=tg.float64)
    source = tg.tensor([0.0] * zeros + [2.0, -1.0, 0.5], dtype=tg.float64)
    index = tg.zeros(len(source), dtype=tg.int64) + 1

    def by_scatter(b: tg.Tensor, s: tg.Tensor) -> tg.Tensor:
        return b.scatter_reduce(0, index, s, "prod")[1] ** 2 + b[0]

    def by_prod(b: tg.Tensor, s: tg.Tensor) -> tg.Tensor:
        return (b[1] * s.prod()) ** 2 + b[0]

    ours, expected = (
        tg.autograd.functional.hessian(f, (base, source)) for f in (by_scatter, by_prod)
    )
    for row, wanted in zip(ours, expected, strict=True):
        for a, b in zip(row, wanted, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


def test_reduction_of_a_tensor_in_scatter_warns() -> None:
    with pytest.warns(UserWarning, match="Use torch.scatter_reduce instead"):
        tg.scatter(x(tg), 0, at(tg), x(tg), reduce="add")


COMPILED: dict[str, Callable[..., Any]] = {
    "sort": lambda x, y: tg.sort(x, 1).values * y,
    "topk": lambda x, y: x.topk(2, 0).values + y.kthvalue(2, 0).values,
    "median": lambda x, y: x.median() + y.median(1).values + tg.nanmedian(x * y),
    "quantile": lambda x, y: tg.quantile(x, 0.3, 0) * tg.nanquantile(y, 0.7),
    "mode": lambda x, y: x.round().mode(0).values + y,
    "running": lambda x, y: tg.cummax(x, 1).values * tg.cummin(y, 0).values,
    "searched": lambda x, y: tg.searchsorted(x.sort(1).values, y) * y,
    "scattered": lambda x, y: x.scatter(1, y.argsort(1)[:, :2], y) * 2,
    "one number": lambda x, y: x.scatter(0, y.argmax(0, True), 2.5) + y,
    "mean": lambda x, y: x.scatter_reduce(0, (y > 0).long(), y, "mean", include_self=False),
    "amax": lambda x, y: x.scatter_reduce(1, (y > 0).long(), y, "amax") + y,
    "product": lambda x, y: x.index_reduce(0, (y[0] > 0).long(), y, "prod"),
    "in place": lambda x, y: (x * 1).scatter_(1, y.argsort(1), y),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled(name: str) -> None:
    """The values and gradients of the plain function, also for other values."""
    plain = lambda x, y: (COMPILED[name](x, y) ** 2).sum()  # noqa: E731
    compiled = tg.compile(plain)
    for seed in (0, 0, 1, 2):
        rng = np.random.default_rng(seed)
        arrays = [rng.uniform(-2, 2, (3, 3)) for _ in range(2)]
        found = []
        for f in (compiled, plain):
            tensors = [tg.tensor(a, requires_grad=True) for a in arrays]
            out = f(*tensors)
            gradients = tg.autograd.grad(out, tensors, allow_unused=True, materialize_grads=True)
            found.append([out.item(), *(g.tolist() for g in gradients)])
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_compiled_scatter_out_of_bounds() -> None:
    compiled = tg.compile(lambda a, i: a.scatter(0, i, a) * 2)
    compiled(x(tg), at(tg))
    compiled(x(tg), at(tg))
    with pytest.raises(IndexError, match="out of bounds for dimension 0 with size 2"):
        compiled(x(tg), at(tg, 1))
