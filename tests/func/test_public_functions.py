"""Every public function inside transforms: what vmap gives is the stack of what each example gives, and so on.

The calls are those that are compared with torch, in torch_cases/.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import func
from tracegrad.autograd import forward_ad

pytest.importorskip("torch")
from torch_cases import CASES, Case, flat_outputs, forms, operands_of, prepare

pytestmark = pytest.mark.peers

SIZE = 3
# Their results have as many elements as the operands' elements say, or are Python values; or a value is looked at.
DATA_DEPENDENT = set(
    "nonzero argwhere masked_select masked_scatter allclose equal unique unique_consecutive bincount "
    "nn.functional.gaussian_nll_loss".split()
)
CALLS = [c for c in CASES if c.name not in DATA_DEPENDENT]


def drawn(c: Case, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [x.draw(rng, "float64") for x in operands_of(c)]


def as_function(c: Case) -> Any:
    """The call as a function of its tensors, which returns a tuple of tensors."""
    run = forms(c)[0][1]

    def function(*tensors: tg.Tensor) -> tuple[tg.Tensor, ...]:
        empty = [np.zeros(x.shape, "float64") for x in operands_of(c)]
        call = prepare(tg, c, empty)
        source = iter(tensors)

        def put(value: Any) -> Any:
            if isinstance(value, tg.Tensor):
                return next(source)
            return [put(v) for v in value] if isinstance(value, list) else value

        args = [put(a) for a in call.args]
        kwargs = {name: put(v) for name, v in call.kwargs.items()}
        return tuple(flat_outputs(tg, run(tg, call._replace(args=args, kwargs=kwargs))))

    return function


def assert_close(ours: tg.Tensor, expected: tg.Tensor, what: str) -> None:
    assert ours.dtype is expected.dtype, what
    assert ours.shape == expected.shape, what
    np.testing.assert_allclose(
        ours.detach().numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-9, err_msg=what
    )


@pytest.mark.parametrize("c", CALLS, ids=str)
def test_vmap(c: Case) -> None:
    function = as_function(c)
    examples = [[tg.tensor(a) for a in drawn(c, seed)] for seed in range(SIZE)]
    each = [function(*tensors) for tensors in examples]
    stacks = [tg.stack(column) for column in zip(*examples, strict=True)]
    together = func.vmap(function)(*stacks)
    for k, out in enumerate(together):
        assert_close(out, tg.stack([outs[k] for outs in each]), f"output {k} of {c}")
    # Only the first operand differs from example to example.
    first = func.vmap(function, in_dims=(0,) + (None,) * (len(stacks) - 1))
    together = first(stacks[0], *examples[0][1:])
    each = [function(tensors[0], *examples[0][1:]) for tensors in examples]
    for k, out in enumerate(together):
        assert_close(out, tg.stack([outs[k] for outs in each]), f"output {k} of {c}")


def floating(tensors: list[tg.Tensor]) -> list[int]:
    return [k for k, x in enumerate(tensors) if x.is_floating_point()]


def differentiable(c: Case) -> tuple[Any, list[tg.Tensor]] | None:
    """The call as a function of its floating operands with floating results, if it has both."""
    tensors = [tg.tensor(a) for a in drawn(c, 0)]
    places = floating(tensors)
    whole = as_function(c)

    def function(*values: tg.Tensor) -> tuple[tg.Tensor, ...]:
        given = list(tensors)
        for place, value in zip(places, values, strict=True):
            given[place] = value
        return tuple(out for out in whole(*given) if out.is_floating_point())

    chosen = [tensors[k] for k in places]
    return (function, chosen) if chosen and function(*chosen) else None


def sum_of_squares(function: Any) -> Any:
    """A scalar function with second derivatives, of one that returns several tensors."""

    def scalar(*xs: tg.Tensor) -> tg.Tensor:
        first, *others = function(*xs)
        return sum(((out * out).sum() for out in others), (first * first).sum())

    return scalar


DIFFERENTIABLE = [c for c in CALLS if differentiable(c) is not None]


@pytest.mark.parametrize("c", DIFFERENTIABLE, ids=str)
def test_forward_and_reverse_mode_agree(c: Case) -> None:
    """<ct, J t> is the same by jvp and by vjp; and jvp under vmap is the stack of single ones."""
    found = differentiable(c)
    assert found is not None
    function, values = found
    rng = np.random.default_rng(5)
    stacks = [tg.tensor(rng.uniform(0.5, 1.5, (SIZE, *x.shape))) for x in values]
    output, pull = func.vjp(function, *values)
    cts = tuple(tg.tensor(rng.uniform(0.5, 1.5, tuple(y.shape))) for y in output)
    pulled = pull(cts)
    each = []
    for k in range(SIZE):
        direction = tuple(t[k] for t in stacks)
        value, tangent = func.jvp(function, tuple(values), direction)
        each.append(tangent)
        for a, b in zip(value, output, strict=True):
            assert_close(a, b, str(c))
        left = sum((ct * t).sum() for ct, t in zip(cts, tangent, strict=True))
        right = sum((g * t).sum() for g, t in zip(pulled, direction, strict=True))
        np.testing.assert_allclose(left.item(), right.item(), rtol=1e-9, atol=1e-9)
    together = func.vmap(lambda *ts: func.jvp(function, tuple(values), ts)[1])(*stacks)
    for k, out in enumerate(together):
        assert_close(out, tg.stack([tangents[k] for tangents in each]), f"vmap of jvp of {c}")


@pytest.mark.parametrize("c", DIFFERENTIABLE, ids=str)
def test_gradient_under_vmap(c: Case) -> None:
    """The gradient of each example, by one call; and the Jacobians of both modes are the same."""
    found = differentiable(c)
    assert found is not None
    function, values = found
    scalar = sum_of_squares(function)

    numbers = tuple(range(len(values)))
    gradient = func.grad(scalar, numbers)
    examples = [[x * (1 + k / 10) for x in values] for k in range(SIZE)]
    stacks = [tg.stack(column) for column in zip(*examples, strict=True)]
    together = func.vmap(gradient)(*stacks)
    each = [gradient(*example) for example in examples]
    for k, out in enumerate(together):
        assert_close(out, tg.stack([g[k] for g in each]), f"gradient of {c}")
    by_rows = func.jacrev(function, numbers)(*values)
    by_columns = func.jacfwd(function, numbers)(*values)
    for rows, columns in zip(by_rows, by_columns, strict=True):
        for a, b in zip(rows, columns, strict=True):
            assert_close(a, b, f"Jacobian of {c}")


@pytest.mark.parametrize("c", DIFFERENTIABLE, ids=str)
def test_forward_over_reverse(c: Case) -> None:
    """`forward_ad` through a backward pass gives what the transforms give: rules that read their result included."""
    found = differentiable(c)
    assert found is not None
    function, values = found
    scalar = sum_of_squares(function)

    numbers = tuple(range(len(values)))
    rng = np.random.default_rng(6)
    directions = tuple(tg.tensor(rng.uniform(0.5, 1.5, x.shape)) for x in values)
    _, expected = func.jvp(func.grad(scalar, numbers), tuple(values), directions)
    with forward_ad.dual_level():
        duals = [
            forward_ad.make_dual(x, t).requires_grad_()
            for x, t in zip(values, directions, strict=True)
        ]
        total = scalar(*duals)
        if not total.requires_grad:
            return
        gradients = tg.autograd.grad(total, duals, create_graph=True, materialize_grads=True)
        for gradient, wanted in zip(gradients, expected, strict=True):
            tangent = forward_ad.unpack_dual(gradient).tangent
            got = tg.zeros_like(wanted) if tangent is None else tangent
            assert_close(got, wanted, f"tangent of a gradient of {c}")
