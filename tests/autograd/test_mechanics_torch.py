"""What "Autograd mechanics" promises of views, changes in place and hooks: the same programs in torch.

Programs return, log, warn and raise the same; see :mod:`torch_programs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
from torch_programs import Program, outcome  # noqa: E402

pytestmark = pytest.mark.peers

PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


def leaf(m: Any) -> Any:
    return m.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=m.float64, requires_grad=True)


def attempt(log: list[Any], *calls: Callable[[], Any]) -> None:
    """Log what each call returns, or type and first line of what it raises."""
    for call in calls:
        try:
            log.append(call())
        except Exception as error:
            log.append((type(error).__name__, str(error).partition("\n")[0]))


def noting(log: list[Any], label: str) -> Callable[..., None]:
    """A hook that notes gradients; in which order their elements stand is not compared."""

    def contiguous(grads: Any) -> Any:
        if isinstance(grads, tuple):
            return [contiguous(grad) for grad in grads]
        return grads if grads is None else grads.contiguous()

    return lambda *grads: log.append([label, contiguous(grads)])


# Views that are changed in place, while somebody waits for their gradient.

VIEWS: dict[str, Callable[[Any], Any]] = {
    "row": lambda y: y[0],
    "part of a row": lambda y: y[0][1:],
    "transposed column": lambda y: y.t()[1],
    "diagonal": lambda y: y.diagonal(),
    "all": lambda y: y.view(-1),
}
CHANGES: dict[str, Callable[[Any, Any], Any]] = {
    "multiplied": lambda v, x: v.mul_(3),
    "twice": lambda v, x: v.mul_(3).add_(x[1, 1]),
    "copied": lambda v, x: v.copy_(x[1, 1] * 2),
    "zeroed": lambda v, x: v.zero_(),
    "element": lambda v, x: v.__setitem__(0, x[0, 0]),
}


def waiting(view: Callable[[Any], Any], change: Callable[[Any, Any], Any], base: bool) -> Program:
    """Retained gradients and hooks, registered before a view or its base is changed and after."""

    def run(m: Any, log: list[Any]) -> Any:
        x = leaf(m)
        y = x * 2
        v = view(y)
        other = y[:, 0]
        v.retain_grad()
        other.retain_grad()
        y.register_hook(noting(log, "base before"))
        v.grad_fn.register_hook(noting(log, "record of the view"))
        change(y if base else v, x)
        y.register_hook(noting(log, "base after"))
        log.append([v.retains_grad, other.retains_grad, y.retains_grad])
        (v.sum() * 2 + (y * y).sum() + other.sum()).backward()
        return [x.grad, v.grad, other.grad]

    return run


for _name, _view in VIEWS.items():
    for _kind, _change in CHANGES.items():
        for _base in (False, True):
            _of = "base of " if _base else ""
            PROGRAMS[f"{_of}{_name}, {_kind}"] = waiting(_view, _change, _base)


@program
def hooks_of_a_view_see_nothing_of_later_changes(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    y = x * 2
    v = y[0]
    v.register_hook(noting(log, "before"))
    v.mul_(3)
    v.register_hook(noting(log, "after"))
    (v * v).sum().backward()
    return x.grad


@program
def a_hook_between_a_view_and_its_base(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    y = x * 2
    v = y[0]
    v.register_hook(noting(log, "between"))
    w = v[1:]
    w.mul_(3)
    y.sum().backward()
    return [x.grad, [f.name() for f, _ in y.grad_fn.next_functions if f is not None]]


@program
def hooks_of_what_was_computed_before_the_change(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    y = x * 2
    v = y[0]
    v.register_hook(noting(log, "hook"))
    z = (v + 1).sum()
    v.add_(x[1])
    z.backward(retain_graph=True)
    y.sum().backward()
    return x.grad


# Leaves that are views, and what becomes of them.


def leaf_view(m: Any) -> tuple[Any, Any]:
    """A plain tensor, and a view of it that requires grad."""
    base = m.arange(6, dtype=m.float64) + 1
    return base, base.reshape(2, 3).requires_grad_()


@program
def a_leaf_that_is_a_view(m: Any, log: list[Any]) -> Any:
    base, x = leaf_view(m)
    v = x[0]
    attempt(log, lambda: v.mul_(2), lambda: x.mul_(2), lambda: x[0].fill_(1))
    base.mul_(2)
    v.sum().backward()
    log.append([x.grad, x.is_leaf, v.grad_fn.name()])
    (x * x).sum().backward()
    return x.grad


@program
def a_leaf_that_is_a_view_changed_without_gradients(m: Any, log: list[Any]) -> Any:
    base, x = leaf_view(m)
    v = x[0]
    with m.no_grad():
        base.mul_(3)
    (v * v).sum().backward()
    return x.grad


@program
def a_leaf_moved_into_the_graph(m: Any, log: list[Any]) -> Any:
    base, x = leaf_view(m)
    y = x * 2
    w = leaf(m)
    base[:3].mul_(w[0])
    (x * 2).sum().backward()
    log.append([x.grad_fn.name(), w.grad])
    attempt(log, lambda: y.sum().backward())


# Detached in place.


@program
def detached_after_it_was_saved(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    y = x * 2
    z = x / y
    y.detach_()
    attempt(
        log,
        lambda: m.autograd.grad(z.sum(), x, create_graph=True, retain_graph=True),
        lambda: z.sum().backward(),
        lambda: (x * y).sum().backward(),
    )
    y.mul_(x)
    attempt(log, lambda: z.sum().backward())
    return x.grad


@program
def hooks_of_what_is_detached(m: Any, log: list[Any]) -> Any:
    y = leaf(m) * 2
    handle = y.register_hook(noting(log, "first"))
    y.register_hook(noting(log, "second"))
    y.detach_()
    attempt(log, lambda: y.register_hook(noting(log, "third")))
    y.requires_grad_()
    (y * 3).sum().backward()
    handle.remove()
    (y * 3).sum().backward()
    return y.grad


@program
def assignment_to_a_number(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    for key, value in ((..., x.sum()), ((), x.sum()), (..., 3), (..., x[0, :1])):
        y = x[0, 0] * 1
        y[key] = value
        log.append(type(y.grad_fn).__name__)
        y.backward()
    return x.grad


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str) -> None:
    assert outcome(tg, PROGRAMS[name]) == outcome(torch, PROGRAMS[name])
