"""Linear algebra beyond the table of calls: factors up to their signs, errors, named tuples, edge cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import tracegrad as tg  # noqa: E402
from tracegrad.autograd import gradcheck, gradgradcheck  # noqa: E402

pytestmark = pytest.mark.peers

RNG = np.random.default_rng(11)
SHAPES = [(3, 3), (4, 2), (2, 4), (2, 3, 3), (2, 4, 3), (2, 3, 5)]


def matrix(*shape: int, symmetric: bool = False) -> np.ndarray:
    x = RNG.normal(size=shape)
    return x + np.swapaxes(x, -1, -2) if symmetric else x


def positive(*shape: int) -> np.ndarray:
    x = matrix(*shape)
    return x @ np.swapaxes(x, -1, -2) + np.eye(shape[-1])


def both(function: Callable[[Any, Any], Any], *arrays: np.ndarray) -> tuple[Any, Any]:
    """What a function of a library and its tensors gives: ours and torch's."""
    return tuple(function(m, *[m.tensor(a) for a in arrays]) for m in (tg, torch))


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-9) -> None:
    assert tuple(ours.shape) == tuple(theirs.shape)
    assert str(ours.dtype).split(".")[-1] == str(theirs.dtype).split(".")[-1]
    np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=tolerance, atol=tolerance)


# Factors. Columns may have the other sign, so what is compared does not depend on signs.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("full", [False, True])
def test_svd(shape: tuple[int, ...], full: bool) -> None:
    x = tg.tensor(matrix(*shape))
    u, s, vh = tg.linalg.svd(x, full_matrices=full)
    theirs = torch.linalg.svd(torch.tensor(x.numpy()), full_matrices=full)
    assert [tuple(t.shape) for t in (u, s, vh)] == [tuple(t.shape) for t in theirs]
    assert_close(s, theirs.S)
    k = s.shape[-1]
    np.testing.assert_allclose(u[..., :k] @ (s[..., None] * vh[..., :k, :]), x, atol=1e-12)
    for square in (u.mT @ u, vh @ vh.mT):
        np.testing.assert_allclose(
            square, np.broadcast_to(np.eye(square.shape[-1]), square.shape), atol=1e-12
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["reduced", "complete", "r"])
def test_qr(shape: tuple[int, ...], mode: str) -> None:
    x = tg.tensor(matrix(*shape))
    q, r = tg.linalg.qr(x, mode)
    theirs = torch.linalg.qr(torch.tensor(x.numpy()), mode)
    assert [tuple(t.shape) for t in (q, r)] == [tuple(t.shape) for t in theirs]
    assert_close(r.abs(), theirs.R.abs())
    np.testing.assert_allclose(np.tril(r.numpy(), -1), 0)
    if mode != "r":
        np.testing.assert_allclose(q @ r, x, atol=1e-12)


@pytest.mark.parametrize("uplo", ["L", "U"])
def test_eigh(uplo: str) -> None:
    x = matrix(2, 4, 4)  # Not symmetric: one triangle is read.
    (values, vectors), theirs = both(lambda m, a: m.linalg.eigh(a, UPLO=uplo), x)
    assert_close(values, theirs.eigenvalues)
    assert_close(vectors.abs(), theirs.eigenvectors.abs())
    assert_close(*both(lambda m, a: m.linalg.eigvalsh(a, uplo), x))


@pytest.mark.filterwarnings("ignore:torch.cholesky is deprecated")
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 4), (0, 0), (0, 2, 2)])
def test_cholesky(shape: tuple[int, ...], upper: bool) -> None:
    x = positive(*shape)
    assert_close(*both(lambda m, a: m.linalg.cholesky(a, upper=upper), x))
    assert_close(*both(lambda m, a: m.cholesky(a, upper), x))
    assert_close(*both(lambda m, a: m.cholesky_inverse(m.cholesky(a, upper), upper), x))
    b = matrix(*shape[:-1], 2)
    assert_close(*both(lambda m, a, y: m.cholesky_solve(y, m.cholesky(a, upper), upper), x, b))


INVARIANT: dict[str, tuple[Callable[[Any, Any], Any], bool]] = {
    "svd": (lambda m, x: (lambda f: f.U @ f.Vh * f.S.sum())(m.linalg.svd(x, False)), False),
    "projection": (
        lambda m, x: (lambda f: f.U**2 + f.S[..., None, :])(m.linalg.svd(x, False)),
        False,
    ),
    "qr": (lambda m, x: (lambda f: f.Q.abs().sum() + f.R**2)(m.linalg.qr(x)), False),
    "eigh": (
        lambda m, x: (lambda f: f[1] ** 2 * f[0][..., None, :])(m.linalg.eigh(x + x.mT)),
        True,
    ),
    "eigvalsh": (lambda m, x: m.linalg.eigvalsh(x + x.mT).exp(), True),
    "cholesky": (lambda m, x: m.linalg.cholesky(x @ x.mT + m.eye(3, dtype=x.dtype)), True),
    "cholesky_inverse": (
        lambda m, x: m.cholesky_inverse(m.linalg.cholesky(x @ x.mT + m.eye(3, dtype=x.dtype))),
        True,
    ),
    "lstsq": (lambda m, x: m.linalg.lstsq(x, x[..., :1] + 1).solution, False),
    "nuclear norm": (lambda m, x: m.linalg.matrix_norm(x, "nuc"), False),
    "matrix_exp": (lambda m, x: m.matrix_exp(x), True),
    "logdet": (lambda m, x: m.logdet(x @ x.mT), True),
    "condition": (lambda m, x: m.linalg.cond(x, 2), True),
}


@pytest.mark.parametrize("name", INVARIANT)
@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3), (4, 3), (2, 4)])
def test_gradients(name: str, shape: tuple[int, ...]) -> None:
    function, square = INVARIANT[name]
    if (square and shape[-1] != shape[-2]) or (name == "qr" and shape == (2, 4)):
        pytest.skip("not for such matrices")
    array = matrix(*shape) + 2 * np.eye(*shape[-2:])
    ours = tg.tensor(array, requires_grad=True)
    theirs = torch.tensor(array, requires_grad=True)
    results = [function(m, x) for m, x in ((tg, ours), (torch, theirs))]
    assert_close(*results)
    for result in results:
        (result * result).sum().backward()
    assert_close(ours.grad, theirs.grad, 1e-7)
    assert gradcheck(lambda x: function(tg, x), (ours,), check_forward_ad=True)
    assert gradgradcheck(lambda x: function(tg, x), (ours,))


def test_derivative_of_the_determinant_of_a_singular_matrix() -> None:
    x = tg.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=tg.float64, requires_grad=True)
    tg.det(x).backward()
    np.testing.assert_allclose(x.grad, [[4, -2], [-2, 1]], atol=1e-12)


# Errors.

ONES, WHOLE, VECTOR = np.ones((2, 3)), np.ones((2, 2), np.int64), np.ones(3)
ZERO = np.zeros((2, 2))
MIXED = np.stack([np.eye(2), ZERO])
NOT_A_NUMBER = np.diag([1.0, np.nan, 1.0])
INDEFINITE = np.array([[1.0, 2.0], [2.0, 1.0]])
ERRORS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    **{
        f"{name} of {label}": (
            lambda m, t, name=name, x=x: getattr(m.linalg, name)(t(x))
        )
        for name in (
            "inv", "det", "slogdet", "cholesky", "eigh", "eigvalsh", "matrix_exp", "inv_ex", "cholesky_ex"
        )
        for label, x in (("a wide matrix", ONES), ("integers", WHOLE), ("a vector", VECTOR))
        if not (name == "inv_ex" and label == "a vector")
    },
    **{
        f"{name} of {label}": (
            lambda m, t, name=name, x=x: getattr(m.linalg, name)(t(x))
        )
        for name in ("qr", "svd", "svdvals", "pinv")
        for label, x in (("integers", WHOLE), ("a vector", VECTOR))
    },
    "inverse of a singular matrix": lambda m, t: m.inverse(t(ZERO)),
    "inverse of a singular matrix in a batch": lambda m, t: m.linalg.inv(t(MIXED)),
    "solution with a singular matrix": lambda m, t: m.linalg.solve(t(ZERO), t(np.ones(2))),
    "solution in a batch": lambda m, t: m.linalg.solve(t(MIXED), t(np.ones((2, 2, 1)))),
    "solution of a wide system": lambda m, t: m.linalg.solve(t(ONES), t(VECTOR)),
    "solution of another size": lambda m, t: m.linalg.solve(t(np.eye(3)), t(np.ones((2, 2)))),
    "solution from the right": lambda m, t: m.linalg.solve(t(np.eye(3)), t(ONES.T), left=False),
    "dtypes": lambda m, t: m.linalg.solve(t(np.eye(2)), t(np.eye(2, dtype=np.float32))),
    "triangular vector": lambda m, t: m.linalg.solve_triangular(
        t(np.eye(3)), t(VECTOR), upper=True
    ),
    "indefinite": lambda m, t: m.linalg.cholesky(t(INDEFINITE)),
    "indefinite, old name": lambda m, t: m.cholesky(t(INDEFINITE)),
    "indefinite in a batch": lambda m, t: m.linalg.cholesky(t(MIXED)),
    "checked": lambda m, t: m.linalg.cholesky_ex(t(INDEFINITE), check_errors=True),
    "mode": lambda m, t: m.linalg.qr(t(ONES), "x"),
    "uplo": lambda m, t: m.linalg.eigh(t(ZERO), "X"),
    "power of a wide matrix": lambda m, t: m.linalg.matrix_power(t(ONES), 2),
    "negative power": lambda m, t: m.linalg.matrix_power(t(ZERO), -1),
    "order of a matrix norm": lambda m, t: m.linalg.matrix_norm(t(ONES), 3),
    "norm of integers": lambda m, t: m.linalg.vector_norm(t(WHOLE)),
    "matrix norm of a vector": lambda m, t: m.linalg.matrix_norm(t(VECTOR)),
    "equal dimensions": lambda m, t: m.linalg.matrix_norm(t(ONES), dim=(0, 0)),
    "norm of three dimensions": lambda m, t: m.linalg.norm(t(np.ones((2, 2, 2))), 2),
    "norm of nothing": lambda m, t: m.linalg.vector_norm(t(np.ones(0)), float("inf")),
    "dtype of a norm": lambda m, t: m.linalg.vector_norm(t(VECTOR), dtype=m.int64),
    "order of a norm": lambda m, t: m.norm(t(ONES), "x"),
    "condition": lambda m, t: m.linalg.cond(t(ZERO), 5),
    "condition of a vector": lambda m, t: m.linalg.cond(t(VECTOR)),
    "tensorinv": lambda m, t: m.linalg.tensorinv(t(ONES)),
    "tensorsolve": lambda m, t: m.linalg.tensorsolve(t(ONES), t(np.ones(2))),
    "least squares": lambda m, t: m.linalg.lstsq(t(ONES), t(np.ones((3, 1)))),
    **{
        f"{name} of {label}": (
            lambda m, t, name=name, x=x: getattr(m.linalg, name)(t(x))
        )
        for name in ("eigvalsh", "svd", "svdvals", "pinv", "matrix_rank", "cond", "cholesky")
        for label, x in (("NaN", NOT_A_NUMBER), ("NaN in a batch", np.stack([np.eye(3), NOT_A_NUMBER])))
    },
    "symmetric pseudoinverse of a wide matrix": lambda m, t: m.linalg.pinv(t(ONES), hermitian=True),
    "symmetric rank of a wide matrix": lambda m, t: m.linalg.matrix_rank(t(ONES), hermitian=True),
    "smallest norm of nothing": lambda m, t: m.linalg.matrix_norm(t(np.ones((0, 0))), -1),
    **{
        f"condition of a wide matrix ({p})": lambda m, t, p=p: m.linalg.cond(t(ONES), p)
        for p in (1, "fro", "nuc", float("inf"))
    },
    **{
        f"batches of {name}": lambda m, t, name=name, options=options: getattr(m.linalg, name)(
            t(np.stack([np.eye(2)] * 3)), t(np.ones((2, 2, 1))), **options
        )
        for name, options in (("solve", {}), ("solve_ex", {}), ("solve_triangular", {"upper": True}))
    },
    "batches of cholesky_solve": lambda m, t: m.cholesky_solve(
        t(np.ones((2, 2, 1))), t(np.stack([np.eye(2)] * 3))
    ),
    "one singular matrix for a batch": lambda m, t: m.linalg.solve(t(ZERO), t(np.ones((3, 2, 1)))),
    "wide system of other dtypes": lambda m, t: m.linalg.solve(t(ONES), t(VECTOR.astype("f"))),
    "wide triangle of other dtypes": lambda m, t: m.linalg.solve_triangular(
        t(ONES), t(ZERO.astype("f")), upper=True
    ),
    "integer triangle": lambda m, t: m.linalg.solve_triangular(t(WHOLE), t(WHOLE), upper=True),
    "checked inverse of a wide matrix": lambda m, t: m.linalg.inv_ex(t(ONES), check_errors=True),
    "checked inverse": lambda m, t: m.linalg.inv_ex(t(ZERO), check_errors=True),
    "checked solution": lambda m, t: m.linalg.solve_ex(t(ZERO), t(np.ones(2)), check_errors=True),
    "singular tensorinv": lambda m, t: m.linalg.tensorinv(t(ZERO), ind=1),
    "tensorinv of no dimension": lambda m, t: m.linalg.tensorinv(t(ZERO), ind=0),
    "vecdot of dtypes": lambda m, t: m.linalg.vecdot(t(ONES), t(ONES.astype("f"))),
    "vecdot of integers": lambda m, t: m.linalg.vecdot(t(WHOLE), t(WHOLE)),
    "cross of dtypes": lambda m, t: m.linalg.cross(t(VECTOR), t(VECTOR.astype("f"))),
    "multi_dot of dtypes": lambda m, t: m.linalg.multi_dot([t(ONES), t(ONES.T.astype("f"))]),
    "multi_dot of dtypes and shapes": lambda m, t: m.linalg.multi_dot([t(ONES), t(ONES.astype("f"))]),
    "vander of bools": lambda m, t: m.linalg.vander(t(np.array([True, False]))),
    "power that is a bool": lambda m, t: m.linalg.matrix_power(t(ZERO), True),
    "least squares of integers": lambda m, t: m.linalg.lstsq(t(WHOLE), t(WHOLE)),
    "least squares of a vector": lambda m, t: m.linalg.lstsq(t(VECTOR), t(np.ones((3, 1)))),
    "least squares of a number": lambda m, t: m.linalg.lstsq(t(ONES), t(np.array(1.0))),
    "least squares of other vectors": lambda m, t: m.linalg.lstsq(t(ONES), t(VECTOR)),
    "least squares of other ranks": lambda m, t: m.linalg.lstsq(t(ONES), t(np.ones((2, 2, 1)))),
    "least squares of dtypes": lambda m, t: m.linalg.lstsq(t(ONES), t(VECTOR.astype("f"))),
    "driver": lambda m, t: m.linalg.lstsq(t(ONES), t(np.ones(2)), driver="x"),
    "cholesky_inverse of integers": lambda m, t: m.cholesky_inverse(t(WHOLE)),
    "cholesky_solve of a wide matrix": lambda m, t: m.cholesky_solve(t(np.ones((2, 1))), t(ONES)),
    "cholesky_solve of another size": lambda m, t: m.cholesky_solve(t(ONES.T), t(np.eye(2))),
    "cholesky_solve of dtypes": lambda m, t: m.cholesky_solve(t(ONES), t(np.eye(2, dtype="f"))),
    "cholesky_solve of a vector": lambda m, t: m.cholesky_solve(t(VECTOR), t(np.eye(3))),
    "vander": lambda m, t: m.linalg.vander(t(VECTOR), N=1),
    "vecdot": lambda m, t: m.linalg.vecdot(t(VECTOR), t(np.ones(2))),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    def raised(m: Any) -> tuple[str, str]:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            ERRORS[name](m, m.tensor)
        kind = "LinAlgError" if isinstance(caught.value, m.linalg.LinAlgError) else caught.typename
        return kind, str(caught.value).split("\n")[0]

    assert raised(tg) == raised(torch)


def test_general_eigenvalues_are_not_supported() -> None:
    with pytest.raises(NotImplementedError, match="complex"):
        tg.linalg.eig(tg.eye(2))


# Results.


def test_named_tuples() -> None:
    x = np.eye(2) * 2
    for ours, theirs in (
        both(lambda m, a: m.linalg.slogdet(a), x),
        both(lambda m, a: m.linalg.eigh(a), x),
        both(lambda m, a: m.linalg.inv_ex(a), x),
        both(lambda m, a: m.linalg.cholesky_ex(a), x),
        both(lambda m, a: m.linalg.solve_ex(a, a), x),
        both(lambda m, a: m.linalg.lstsq(a, a), x),
        both(lambda m, a: m.slogdet(a), x),
        both(lambda m, a: m.svd(a), x),
    ):
        assert type(ours).__name__ == type(theirs).__name__
        names = [name for name in dir(theirs) if isinstance(getattr(theirs, name), torch.Tensor)]
        assert all(isinstance(getattr(ours, name), tg.Tensor) for name in names if name != "H")
        assert [tuple(t.shape) for t in ours] == [tuple(t.shape) for t in theirs]


@pytest.mark.parametrize("name", ["inv_ex", "cholesky_ex", "solve_ex"])
def test_failures_are_counted(name: str) -> None:
    x = np.stack([np.eye(2) * 2, ZERO, INDEFINITE - 1])

    def run(m: Any, a: Any) -> Any:
        return getattr(m.linalg, name)(*((a, a) if name == "solve_ex" else (a,)))

    ours, theirs = both(run, x)
    assert ours.info.tolist() == theirs.info.tolist()
    assert_close(ours[0][0], theirs[0][0])


@pytest.mark.parametrize("driver", ["gels", "gelsy", "gelsd", "gelss"])
@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (3, 3), (2, 5, 3)])
def test_least_squares(driver: str, shape: tuple[int, ...]) -> None:
    a, b = matrix(*shape), matrix(*shape[:-1], 2)
    ours, theirs = both(lambda m, x, y: m.linalg.lstsq(x, y, driver=driver), a, b)
    for mine, wanted in zip(ours, theirs, strict=True):
        assert_close(mine, wanted, 1e-8)


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3), (3, 0)])
def test_matrices_without_elements(shape: tuple[int, ...]) -> None:
    x = np.ones(shape)
    for order in ("fro", "nuc", 1, 2, float("inf")):
        if order in ("fro", "nuc", 2) or shape[-1 if order == 1 else -2] == 0:
            assert_close(*both(lambda m, a, p=order: m.linalg.matrix_norm(a, p), x))
            assert_close(*both(lambda m, a, p=order: m.linalg.matrix_norm(a, p, keepdim=True), x))
    for order in (None, 1, -1, 2, -2, float("inf")):
        assert_close(*both(lambda m, a, p=order: m.linalg.cond(a, p), x))
    for name in ("svdvals", "pinv", "matrix_rank"):
        assert_close(*both(lambda m, a, name=name: getattr(m.linalg, name)(a), x))


def test_of_symmetric_matrices_the_lower_triangle_is_read() -> None:
    for x in (
        np.array([[1.0, 5.0], [1.0, 1.0]]),
        matrix(2, 4, 4),
        np.array([[0.0, 7.0], [1.0, 0.0]]),
    ):
        assert_close(*both(lambda m, a: m.linalg.pinv(a, hermitian=True), x))
        assert_close(*both(lambda m, a: m.linalg.matrix_rank(a, hermitian=True), x))


def test_an_exponential_does_not_depend_on_its_neighbours() -> None:
    x = tg.tensor(
        np.stack([matrix(3, 3), matrix(3, 3) * 40, np.zeros((3, 3)), np.full((3, 3), np.nan)])
    )
    together = tg.matrix_exp(x)
    for alone, one in zip(x, together, strict=True):
        np.testing.assert_array_equal(tg.matrix_exp(alone), one)
    assert_close(together[:2], torch.matrix_exp(torch.tensor(x.numpy()))[:2], 1e-8)


def test_conditions_in_other_norms() -> None:
    x = np.stack([matrix(3, 3), np.ones((3, 3))])
    for p in ("fro", "nuc", 1, -1, float("inf"), -float("inf")):
        assert_close(*both(lambda m, a, p=p: m.linalg.cond(a, p), x[0]))
        assert tg.linalg.cond(tg.tensor(x), p)[1] == np.inf


def test_the_norm_of_order_zero_counts() -> None:
    x = np.array([[0.0, 1.5, -2.0], [0.0, 0.0, np.nan]])
    assert_close(*both(lambda m, a: m.linalg.vector_norm(a, 0), x))
    assert_close(*both(lambda m, a: m.linalg.vector_norm(a, ord=0, dim=1, keepdim=True), x))
    leaf = tg.tensor(x, requires_grad=True)
    tg.linalg.vector_norm(leaf, 0).backward()
    assert leaf.grad.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_single_precision_stays() -> None:
    x = tg.tensor(positive(3, 3).astype(np.float32))
    results: list[Any] = [
        tg.linalg.inv(x), tg.det(x), *tg.slogdet(x), tg.linalg.cholesky(x), *tg.linalg.eigh(x), *tg.svd(x),
        *tg.linalg.qr(x), tg.linalg.pinv(x), tg.matrix_exp(x), tg.linalg.solve(x, x), tg.linalg.norm(x),
        tg.linalg.solve_triangular(x, x, upper=True), tg.matrix_power(x, -2), tg.linalg.svdvals(x),
    ]  # fmt: skip
    assert all(result.dtype is tg.float32 for result in results)


def test_out() -> None:
    x = tg.tensor(positive(3, 3))
    for name in ("inv", "det", "cholesky", "pinv", "svdvals", "matrix_rank", "norm"):
        function = getattr(tg.linalg, name)
        result = function(x)
        out = tg.empty_like(result)
        assert function(x, out=out) is out
        np.testing.assert_array_equal(out, result)
    q, r = tg.empty(3, 3, dtype=tg.float64), tg.empty(3, 3, dtype=tg.float64)
    found = tg.linalg.qr(x, out=(q, r))
    assert found.Q is q
    assert found.R is r


def test_parts_of_a_result_are_independent() -> None:
    x = tg.tensor(positive(3, 3), requires_grad=True)
    values, vectors = tg.linalg.eigh(x)
    assert not values._is_view()
    with tg.no_grad():
        vectors.zero_()
    values.sum().backward()  # The eigenvalues' sum is the trace.
    np.testing.assert_allclose(x.grad, np.eye(3), atol=1e-12)


def test_compiled_is_interpreted_and_says_so() -> None:
    f = tg.compile(lambda x: tg.linalg.solve(x @ x.mT + tg.eye(3), x).sum().tanh())
    for seed in range(3):
        x = tg.tensor(np.random.default_rng(seed).normal(size=(3, 3)).astype(np.float32))
        plain = tg.linalg.solve(x @ x.mT + tg.eye(3), x).sum().tanh()
        np.testing.assert_allclose(f(x), plain, rtol=1e-5)
    assert "interpreted: solve x 1" in f.explain()


def test_a_singular_matrix_in_compiled_code() -> None:
    f = tg.compile(lambda x: tg.linalg.inv(x) * 2)
    for _ in range(2):
        f(tg.eye(2) * 4)
    with pytest.raises(tg.linalg.LinAlgError, match="The diagonal element 1 is zero"):
        f(tg.zeros(2, 2))
    np.testing.assert_array_equal(f(tg.eye(2) * 4), np.eye(2) * 0.5)
