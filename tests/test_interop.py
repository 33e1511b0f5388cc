"""Arrays and DLPack share memory; SciPy minimises functions of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize

import tracegrad as tg
from tracegrad.interop import ScipyObjective

START = np.array([-1.2, 1.0, 0.5])


def rosenbrock(x: tg.Tensor, weight: float = 100.0) -> tg.Tensor:
    return (weight * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS", "CG", "trust-ncg"])
def test_minimize_a_function_of_a_vector(method: str, compiled: bool) -> None:
    objective = ScipyObjective(tg.compile(rosenbrock) if compiled else rosenbrock)
    second = {"hessp": objective.hessp} if method == "trust-ncg" else {}
    result = scipy.optimize.minimize(objective, START, jac=True, method=method, **second)
    np.testing.assert_allclose(result.x, 1, atol=1e-4)
    value, gradient = objective(START)
    assert value == scipy.optimize.rosen(START)
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(gradient, scipy.optimize.rosen_der(START), rtol=1e-13)
    p = np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(
        objective.hessp(START, p), scipy.optimize.rosen_hess_prod(START, p), rtol=1e-13
    )


def test_more_arguments() -> None:
    value, _ = ScipyObjective(rosenbrock, args=(1.0,))(START)
    assert value == rosenbrock(tg.tensor(START), 1.0).item()
    result = scipy.optimize.minimize(ScipyObjective(rosenbrock), START, args=(10.0,), jac=True)
    np.testing.assert_allclose(result.x, 1, atol=1e-4)


def test_nothing_is_copied() -> None:
    seen: list[tg.Tensor] = []

    def function(x: tg.Tensor) -> tg.Tensor:
        seen.append(x)
        return (x * x).sum()

    x = START.copy()
    _, gradient = ScipyObjective(function)(x)
    assert np.shares_memory(seen[0].detach().numpy(), x)
    np.testing.assert_array_equal(gradient, 2 * x)

    net = tg.nn.Linear(2, 1).double()
    objective = ScipyObjective(lambda: net(tg.ones(1, 2, dtype=tg.float64)).sum(), net.parameters())
    x = objective.x0
    objective(x)
    assert all(np.shares_memory(p.detach().numpy(), x) for p in net.parameters())
    objective.assign(x)
    assert not any(np.shares_memory(p.detach().numpy(), x) for p in net.parameters())


def test_fit_of_a_module() -> None:
    x = tg.linspace(-1, 1, 30, dtype=tg.float64)[:, None]
    y = 3 * x - 2
    net = tg.nn.Linear(1, 1).double()
    loss = tg.compile(lambda: tg.nn.functional.mse_loss(net(x), y))
    objective = ScipyObjective(loss, net.parameters())
    # By default BFGS stops at slopes of 1e-5, which is not near enough from everywhere.
    result = scipy.optimize.minimize(objective, objective.x0, jac=True, tol=1e-9)
    objective.assign(result.x)
    np.testing.assert_allclose([net.weight.item(), net.bias.item()], [3, -2], atol=1e-6)
    assert loss.stats.native > 0, loss.explain()


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"a parameter is torch\.float32; use \.double\(\)"):
        ScipyObjective(lambda: tg.ones(()), [tg.ones(2)])
    with pytest.raises(TypeError, match="expected a float64 array, but got float32"):
        ScipyObjective(rosenbrock)(START.astype("f4"))
    leaf = tg.ones(2, dtype=tg.float64, requires_grad=True)
    with pytest.raises(ValueError, match=r"expected an array of shape \(2,\), but got \(3,\)"):
        ScipyObjective(lambda: leaf.sum(), [leaf])(START)
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar"):
        ScipyObjective(lambda x: x * 2)(START)


def exporters() -> list[Any]:
    return [np.arange(6.0).reshape(2, 3), tg.arange(6).reshape(2, 3), np.arange(3, dtype=np.int16)]


@pytest.mark.parametrize("number", range(3))
def test_dlpack_shares_memory(number: int) -> None:
    source = exporters()[number]
    tensor = tg.from_dlpack(source)
    tensor.add_(1)
    np.testing.assert_array_equal(np.asarray(source), tensor.numpy())
    array = np.from_dlpack(tensor)
    array[...] = 5
    assert (tensor == 5).all()
    copy = tg.from_dlpack(source, copy=True, device="cpu")
    copy.zero_()
    assert (tensor == 5).all()


def test_dlpack_is_versioned() -> None:
    x = tg.arange(3.0)
    assert x.__dlpack_device__() == (1, 0)
    assert "dltensor_versioned" in repr(x.__dlpack__(max_version=(1, 0)))
    assert '"dltensor"' in repr(x.__dlpack__())
    copied = np.from_dlpack(x, copy=True)
    copied[...] = 0
    assert x.tolist() == [0, 1, 2]
    with pytest.raises(BufferError, match="tensors that require gradient"):
        x.requires_grad_().__dlpack__()
    frozen = np.arange(3.0)
    frozen.flags.writeable = False
    assert tg.from_dlpack(frozen).add_(1).tolist() == [1, 2, 3]
    assert frozen.tolist() == [0, 1, 2]
    with pytest.raises(BufferError, match="read-only"):
        tg.from_dlpack(frozen, copy=False)
    with pytest.raises(RuntimeError, match="tracegrad runs on the CPU only"):
        tg.from_dlpack(x.detach(), device="cuda")


@pytest.mark.peers
def test_dlpack_with_torch() -> None:
    torch = pytest.importorskip("torch")
    x = tg.arange(4.0)
    theirs = torch.from_dlpack(x)
    theirs += 1
    assert x.tolist() == [1, 2, 3, 4]
    ours = tg.from_dlpack(torch.arange(3))
    assert ours.tolist() == [0, 1, 2]
    assert ours.dtype is tg.int64
