"""What functions that are being transformed may not do, and what they may do instead: as in torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from torch_programs import outcome

import tracegrad as tg

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]

Function = Callable[[Any, Any], Any]

TRANSFORMS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "grad": lambda t, f: t.func.grad(lambda x: f(x).sum())(t.ones(3)),
    "grad of grad": lambda t, f: t.func.grad(
        lambda x: t.func.grad(lambda y: (f(y) * y).sum())(x).sum()
    )(t.ones(3)),
    "vjp": lambda t, f: t.func.vjp(f, t.ones(3))[1](t.ones(3))[0],
    "jvp": lambda t, f: list(t.func.jvp(f, (t.ones(3),), (t.ones(3),))),
    "jacrev": lambda t, f: t.func.jacrev(f)(t.ones(3)),
    "jacfwd": lambda t, f: t.func.jacfwd(f)(t.ones(3)),
    "vmap": lambda t, f: t.func.vmap(f)(t.ones(2, 3)),
    "vmap of grad": lambda t, f: t.func.vmap(t.func.grad(lambda x: f(x).sum()))(t.ones(2, 3)),
    "grad of vmap": lambda t, f: t.func.grad(lambda x: t.func.vmap(f)(x).sum())(t.ones(2, 3)),
}

FLAGS = (
    "(x * 2).requires_grad_()",
    "(x * 2).requires_grad_(False)",
    "x.requires_grad_()",
    "t.ones(3).requires_grad_()",
    "(x * 2).retain_grad()",
    "(x * 2).sum().backward()",
)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("text", FLAGS)
def test_asking_for_gradients(transform: str, text: str) -> None:
    """Where torch refuses it, with its words."""

    def run(t: Any, log: list[Any]) -> Any:
        def f(x: Any) -> Any:
            eval(text, {"t": t, "x": x})
            return x * 2

        return TRANSFORMS[transform](t, f)

    theirs = outcome(torch, run)
    assert isinstance(theirs[0], tuple), "torch raises an error"
    assert outcome(tg, run) == theirs


@pytest.mark.parametrize("transform", [name for name in TRANSFORMS if "vmap" not in name])
def test_what_was_made_inside_and_is_returned(transform: str) -> None:
    """A tensor that is changed in place inside and returned is differentiated, whatever was left when."""

    def run(t: Any, log: list[Any]) -> Any:
        def f(x: Any) -> Any:
            total = t.zeros(3)
            total.add_(x * x)
            total[0] *= x[1]
            return total

        return TRANSFORMS[transform](t, f)

    assert outcome(tg, run) == outcome(torch, run)


@pytest.mark.parametrize("value", ["True", "False", "1", "'a'", "None"])
@pytest.mark.parametrize(
    "target", ["t.ones(3)", "t.ones(3, requires_grad=True) * 2", "t.arange(3)"]
)
def test_flags(target: str, value: str) -> None:
    def run(t: Any, log: list[Any]) -> Any:
        x = eval(target, {"t": t})
        for change in ("x.requires_grad_({})", "setattr(x, 'requires_grad', {})"):
            try:
                eval(change.format(value), {"x": x})
            except (RuntimeError, TypeError) as error:
                log.append((type(error).__name__, str(error)))
        return x

    assert outcome(tg, run) == outcome(torch, run)


DIFFERENTIATING = [name for name in TRANSFORMS if name not in ("vmap", "grad of vmap")]
CHANGES = """
c.add_(1)
c.add_(x, alpha=2)
c.sub_(x)
c.mul_(2)
c.div_(2)
c.pow_(2)
c.pow_(x)
c.fill_(1)
c.fill_(x[0])
c.zero_()
c.copy_(x)
c.exp_()
c.clamp_(0, 1)
c.masked_fill_(x > 0, 1.0)
c.index_add_(0, t.tensor([0]), x[:1])
c.index_copy_(0, t.tensor([0]), x[:1])
c.scatter_add_(0, t.tensor([0]), x[:1])
c.index_put_((t.tensor([0]),), x[0])
c.__setitem__(0, 1)
c.__setitem__(0, x[0])
c.__setitem__(x > 0, 1)
c.__setitem__(t.tensor([0]), x[0])
c.__iadd__(x)
c[0].add_(x[0])
c.view(-1).sin_()
c.detach().add_(1)
c.data.add_(1)
c.expand(3).add_(1)
c.uniform_()
c.normal_()
c.lerp_(x, 0.5)
c.addcmul_(x, x)
c.remainder_(2)
c.unsqueeze_(0)
c.t_()
c.resize_(2)
c.set_(t.ones(3))
c.detach_()
c.cumsum_(0)
t.relu_(c)
t.nn.functional.relu(c, inplace=True)
t.nn.init.ones_(c)
c.triu_()
t.nn.functional.batch_norm(t.ones(2, 3), c, c + 1, training=True)
""".strip().splitlines()


@pytest.mark.parametrize("name", DIFFERENTIATING)
@pytest.mark.parametrize("text", CHANGES)
def test_changing_a_captured_tensor(name: str, text: str) -> None:
    """Refused by all transforms that differentiate, wherever they stand; what was made inside may be changed."""

    def run(t: Any, log: list[Any]) -> Any:
        captured = t.full((3,), 0.5)

        def f(x: Any) -> Any:
            eval(text, {"t": t, "x": x, "c": captured})
            return x * 2

        TRANSFORMS[name](t, f)
        return "done"

    assert outcome(tg, run) == outcome(torch, run)


@pytest.mark.parametrize("name", ["grad of grad", "jvp", "vmap of grad"])
@pytest.mark.parametrize(
    "made",
    [
        "t.full((3,), 0.5)",
        "outside * 2",
        "outside.clone().detach()",
        "t.zeros_like(outside)",
        "t.stack([outside, outside])[0]",
        "t.rand(3) * 0 + 1",
        "t.tensor([1.0, 2.0, 3.0])",
        "outside.cumsum(0).data",
        "Double.apply(outside)",
        "copy.deepcopy(outside)",
        "outside.to(t.float64).to(t.float32)",
        "x.detach() * 1",
        "x * 1",
    ],
)
def test_changing_what_was_made_inside(name: str, made: str) -> None:
    def run(t: Any, log: list[Any]) -> Any:
        outside = t.full((3,), 0.25)

        class Double(t.autograd.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(x: Any) -> Any:
                return x * 2

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                pass

            @staticmethod
            def backward(ctx: Any, ct: Any) -> Any:
                return ct * 2

            @staticmethod
            def jvp(ctx: Any, tangent: Any) -> Any:
                return tangent * 2

        def f(x: Any) -> Any:
            space = {"t": t, "x": x, "outside": outside, "Double": Double, "copy": copy}
            c = eval(made, space)
            c.mul_(2)
            c[0].add_(1)
            c[1:] = c[0]
            c.detach().zero_()
            return x * 2

        TRANSFORMS[name](t, f)
        return "done"

    assert outcome(tg, run) == outcome(torch, run)


def test_made_inside_of_what_is_mapped_outside() -> None:
    """A result inside of `grad` may be changed there also where all that it came from belongs to a `vmap` around."""

    def run(t: Any, log: list[Any]) -> Any:
        def f(x: Any, y: Any) -> Any:
            def g(x: Any) -> Any:
                total = y * 2
                total[0].add_(x[1])
                total.mul_(x)
                return total.sum()

            return t.func.grad(g)(x)

        return t.func.vmap(f)(t.ones(2, 3), t.arange(6.0).reshape(2, 3))

    assert outcome(tg, run) == outcome(torch, run)
