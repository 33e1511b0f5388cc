"""gradcheck and gradgradcheck: the same calls in both libraries end the same way, and all public functions pass."""

from __future__ import annotations

import contextlib
import inspect
import re
import warnings
from collections.abc import Sequence
from typing import Any

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
from torch_cases import CASES, Call, Case, draw, flat_outputs, forms, operands_of, prepare  # noqa: E402

pytestmark = pytest.mark.peers


class Library:
    """Functions and inputs to check, made with one of the libraries."""

    def __init__(self, t: Any) -> None:
        self.t = t
        self.A = t.autograd
        self.x = self.leaf([[0.3, 0.7], [1.2, 0.4]])
        self.y = self.leaf([0.5, 1.5])
        self.s = self.leaf(0.7)
        self.f = lambda x, y: (x * y).sin()
        self.two = lambda x, y: (x * y.exp(), y.cos())

        class Wrong(self.A.Function):  # type: ignore[name-defined]
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                ctx.save_for_backward(x)
                return x * x

            @staticmethod
            def backward(ctx: Any, ct: Any) -> Any:
                return 3 * ct * ctx.saved_tensors[0]

        class Adds(self.A.Function):  # type: ignore[name-defined]
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                return x * 2

            @staticmethod
            def backward(ctx: Any, ct: Any) -> Any:
                return ct * 2 + 1e-7

        class Drifts(self.A.Function):  # type: ignore[name-defined]
            calls = 0

            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                return x * 2

            @staticmethod
            def backward(ctx: Any, ct: Any) -> Any:
                Drifts.calls += 1
                return ct * (2 + 1e-7 * Drifts.calls)

        class NeedsBoth(self.A.Function):  # type: ignore[name-defined]
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                ctx.set_materialize_grads(False)
                return x * 2, x * 3

            @staticmethod
            def backward(ctx: Any, a: Any, b: Any) -> Any:
                if a is None or b is None:
                    raise RuntimeError("no gradient")
                return 2 * a + 3 * b

        self.wrong, self.adds, self.drifts, self.needs_both = (
            F.apply for F in (Wrong, Adds, Drifts, NeedsBoth)
        )

    def leaf(self, values: Any) -> Any:
        return self.t.tensor(values, dtype=self.t.float64, requires_grad=True)


OPTIONS = (
    "",
    "fast_mode=True",
    "check_forward_ad=True",
    "check_forward_ad=True, fast_mode=True",
    "check_forward_ad=True, check_backward_ad=False, check_undefined_grad=False",
    "check_batched_grad=True",
    "check_forward_ad=True, check_batched_forward_grad=True",
    "check_grad_dtypes=True",
    "masked=True",
    "raise_exception=False",
)
SECOND = (
    "",
    "fast_mode=True",
    "check_fwd_over_rev=True",
    "check_fwd_over_rev=True, fast_mode=True",
    "check_fwd_over_rev=True, check_rev_over_rev=False, check_undefined_grad=False",
    "check_batched_grad=True",
    "gen_non_contig_grad_outputs=True",
)
CALLS = [
    *(
        f"A.gradcheck({f}, {options})"
        for options in OPTIONS
        for f in ("f, (x, y)", "two, [x, y]", "lambda s: s * s, s")
    ),
    *(f"A.gradgradcheck({f}, {o})" for o in SECOND for f in ("f, (x, y)", "two, (x, y)")),
    "A.gradgradcheck(f, (x, y), x.detach().clone().requires_grad_())",
    *(
        f"A.gradcheck({f}, {options})"
        for options in ("", "fast_mode=True", "raise_exception=False")
        for f in (
            "wrong, y",
            "lambda y: (y.sin(), wrong(y)), y",
            "adds, y",
            "drifts, y",
            "needs_both, y",
            "lambda y: y.detach(), y",
            "lambda x, y: (x * y).detach() * 0, (x, y)",
        )
    ),
    "A.gradcheck(drifts, y, nondet_tol=1)",
    "A.gradcheck(needs_both, y, check_undefined_grad=False)",
    "A.gradcheck(wrong, y, rtol=1)",
    "A.gradcheck(lambda y: wrong(y) * 1, y, eps=1e-4, atol=10)",
    "A.gradcheck(f, (x.detach(), y.detach()))",
    "A.gradcheck(f, (x, y[:1].detach().expand(2).requires_grad_()))",
    "A.gradcheck(f, (x.detach().float().requires_grad_(), y), atol=1, rtol=1)",
    "A.gradcheck(lambda x, n: x * n, (x, 3))",
    "A.gradcheck(lambda x: None, x)",
    "A.gradcheck(f, (x, y), check_backward_ad=False)",
    "A.gradcheck(f, (x, y), check_backward_ad=False, check_forward_ad=True, check_batched_grad=True)",
    "A.gradcheck(f, (x, y), check_batched_forward_grad=True)",
    "A.gradgradcheck(f, (x, y), check_rev_over_rev=False)",
    "A.gradgradcheck(f, (x, y), check_rev_over_rev=False, check_fwd_over_rev=True)",
    "A.gradcheck(f, (x, y), nonsense=1)",
    "A.gradgradcheck(f, (x, y), nonsense=1)",
    "A.gradgradcheck(wrong, y)",
]


def outcome(library: Library, call: str) -> tuple[str, list[str]]:
    """The result or the error's first paragraph, and the warnings, without what is random in fast mode."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            text = str(eval(call, dict(vars(library))))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
    text = text.split("\n\n")[0]
    if "fast_mode" in call:
        text = re.sub(r"(numerical|analytical):.*", r"\1", text)
    shown = [str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning)]
    return text, shown


@pytest.mark.parametrize("call", CALLS)
def test_the_same_outcome_as_in_torch(call: str) -> None:
    assert outcome(Library(tg), call) == outcome(Library(torch), call)


@pytest.mark.parametrize("name", ["gradcheck", "gradgradcheck"])
def test_signatures_are_those_of_torch(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(t.autograd, name)) for t in (tg, torch))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]


def test_the_error_can_be_imported_and_is_a_runtime_error() -> None:
    from tracegrad.autograd.gradcheck import GradcheckError, gradcheck

    assert issubclass(GradcheckError, RuntimeError)
    assert tg.autograd.gradcheck is gradcheck


def test_an_output_without_gradient_does_not_shift_the_others_in_fast_mode() -> None:
    lib = Library(tg)
    assert tg.autograd.gradcheck(
        lambda y: (y.detach() * 0, y.sin(), y.cos()), lib.y, fast_mode=True, check_forward_ad=True
    )


@pytest.mark.parametrize("error", ["none", "in the function"])
def test_inputs_have_their_values_afterwards(error: str) -> None:
    lib = Library(tg)
    before = lib.x.tolist()
    calls = []

    def f(x: tg.Tensor) -> tg.Tensor:
        calls.append(1)
        if error != "none" and len(calls) == 3:
            raise KeyError("third call")
        return x * x

    with contextlib.suppress(KeyError):
        tg.autograd.gradcheck(f, lib.x)
    assert len(calls) >= 3
    assert lib.x.tolist() == before


def smooth(c: Case) -> bool:
    """Whether differences make sense: something floating goes in, and the function does not jump or draw."""
    return any(x.dtype == "float" for x in operands_of(c)) and c.name not in {
        "floor_divide",
        "empty_like",
    }


def with_leaves(call: Call, xs: Sequence[tg.Tensor]) -> Call:
    """The call with other tensors in place of its leaves."""
    other = dict(zip(map(id, call.leaves), xs, strict=True))

    def replaced(value: Any) -> Any:
        if isinstance(value, list):
            return [replaced(v) for v in value]
        return other.get(id(value), value)

    return Call(
        list(xs),
        [replaced(a) for a in call.args],
        {k: replaced(v) for k, v in call.kwargs.items()},
    )


_seen: dict[str, int] = {}


def _few_per_function() -> list[Case]:
    """Up to three calls of each public function."""
    found = []
    for c in CASES:
        if smooth(c) and _seen.setdefault(c.name, 0) < 3:
            _seen[c.name] += 1
            found.append(c)
    return found


@pytest.mark.parametrize("c", _few_per_function(), ids=str)
def test_public_functions_pass(c: Case) -> None:
    arrays = draw(c, "float64")
    _, run = forms(c)[0]
    call = prepare(tg, c, arrays, True)
    leaves = list(call.leaves)

    def f(*xs: tg.Tensor) -> Any:
        return [
            out
            for out in flat_outputs(tg, run(tg, with_leaves(call, xs)))
            if out.is_floating_point()
        ]

    if not leaves or not any(out.requires_grad for out in f(*leaves)):
        return
    options: dict[str, Any] = {"fast_mode": True, "check_undefined_grad": False}
    assert tg.autograd.gradcheck(
        f, leaves, check_forward_ad=True, check_batched_grad=True, **options
    )
    first = tg.autograd.grad(
        [out for out in f(*leaves) if out.requires_grad],
        leaves,
        [tg.ones_like(out) for out in f(*leaves) if out.requires_grad],
        create_graph=True,
        allow_unused=True,
    )
    if any(ct is not None and ct.requires_grad for ct in first):
        assert tg.autograd.gradgradcheck(f, leaves, **options)
