"""What the engine, hooks, modes and `autograd.graph` do: programs run with torch as well, which must agree.

See :mod:`torch_programs`.
"""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
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
    return m.tensor([1.0, 2.0], dtype=m.float64, requires_grad=True)


# The arguments of grad and backward.

CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "input without grad": lambda m, x, y: m.autograd.grad(y, m.ones(2), allow_unused=True),
    "no inputs": lambda m, x, y: m.autograd.grad(y, []),
    "input of other type": lambda m, x, y: m.autograd.grad(y, [3]),
    "output of other type": lambda m, x, y: m.autograd.grad([3], x),
    "no iterable": lambda m, x, y: m.autograd.grad(3, x),
    "too few gradients": lambda m, x, y: m.autograd.grad([y, y], x, [m.ones(())]),
    "too many gradients": lambda m, x, y: m.autograd.grad([y], x, [m.ones(()), None]),
    "gradient of other type": lambda m, x, y: m.autograd.grad(y, x, [3]),
    "integer gradient": lambda m, x, y: m.autograd.grad(x * 2, x, m.ones(2, dtype=m.int64)),
    "double gradient": lambda m, x, y: m.autograd.grad(x.float() * 2, x, m.ones(2).double()),
    "dict": lambda m, x, y: m.autograd.grad(y, {"a": x}),
    "other mapping": lambda m, x, y: m.autograd.grad(y, OrderedDict(a=x)),
    "other mapping, backward": lambda m, x, y: m.autograd.backward(y, inputs=OrderedDict(a=x)),
    "same input twice": lambda m, x, y: m.autograd.grad(y, [x, x]),
    "same output twice": lambda m, x, y: m.autograd.grad([y, y], x),
    "leaf by itself": lambda m, x, y: m.autograd.grad(x, x, m.ones(2).double()),
    "output by itself": lambda m, x, y: m.autograd.grad(y, [y, x]),
    "unused and materialized": lambda m, x, y: m.autograd.grad(
        y, [x, leaf(m)], materialize_grads=True
    ),
    "unused": lambda m, x, y: m.autograd.grad(y, leaf(m)),
    "second unused": lambda m, x, y: m.autograd.grad(y, [x, leaf(m), leaf(m)]),
    "unused in a dict": lambda m, x, y: m.autograd.grad(y, {"a": x, "b": leaf(m)}),
    "unused edge": lambda m, x, y: m.autograd.grad(y, m.autograd.graph.get_gradient_edge(leaf(m))),
    "unused, batched": lambda m, x, y: m.autograd.grad(
        x * x, [x, leaf(m)], m.eye(2), is_grads_batched=True
    ),
    "no outputs": lambda m, x, y: m.autograd.grad([], x),
    "output None": lambda m, x, y: m.autograd.grad(None, x),
    "input None": lambda m, x, y: m.autograd.grad(y, None),
    "backward of None": lambda m, x, y: m.autograd.backward(None),
    "batched edge": lambda m, x, y: m.autograd.grad(
        m.autograd.graph.get_gradient_edge(x * x), x, m.eye(2), is_grads_batched=True
    ),
    "batched to an edge": lambda m, x, y: m.autograd.grad(
        x * x, m.autograd.graph.get_gradient_edge(x), m.eye(2), is_grads_batched=True
    ),
    "batched, nothing given": lambda m, x, y: m.autograd.grad(y, x, is_grads_batched=True),
    "batched, one given": lambda m, x, y: m.autograd.grad(
        [y, x * x], x, [None, m.eye(2)], is_grads_batched=True
    ),
    "batched, a scalar": lambda m, x, y: m.autograd.grad(
        y, x, m.tensor(1.0), is_grads_batched=True
    ),
    "batched, other dtype": lambda m, x, y: m.autograd.grad(
        x * x, x, m.eye(2, dtype=m.int64), is_grads_batched=True
    ),
    "batched, sizes": lambda m, x, y: m.autograd.grad(
        [x * x, x + x], x, [m.ones(3, 2), m.ones(2, 2)], is_grads_batched=True
    ),
    "batched and materialized": lambda m, x, y: m.autograd.grad(
        x * x, [x, leaf(m)], m.eye(2), is_grads_batched=True, materialize_grads=True
    ),
    "batched twice": lambda m, x, y: [
        m.autograd.grad(y, x, m.ones(2), is_grads_batched=True) for _ in range(2)
    ],
    "batched twice, retained": lambda m, x, y: [
        m.autograd.grad(y, x, m.ones(2), retain_graph=True, is_grads_batched=True)
        for _ in range(2)
    ],
    "unknown keyword": lambda m, x, y: y.backward(foo=1),
    "backward of nothing": lambda m, x, y: m.autograd.backward([]),
    "input to backward": lambda m, x, y: y.backward(inputs=[3]),
    "batched": lambda m, x, y: m.autograd.grad(x * x, x, m.ones(3, 2), is_grads_batched=True),
    "edge of no grad": lambda m, x, y: m.autograd.graph.get_gradient_edge(m.ones(2)),
    "edge shape": lambda m, x, y: m.autograd.grad(
        m.autograd.graph.get_gradient_edge(y), x, m.ones(2)
    ),
    "edge not scalar": lambda m, x, y: m.autograd.grad(
        m.autograd.graph.get_gradient_edge(x * 2), x
    ),
    "edge scalar": lambda m, x, y: m.autograd.grad(m.autograd.graph.get_gradient_edge(y), x),
    "version of nothing": lambda m, x, y: m.autograd.graph.increment_version(3),
    "version of numbers": lambda m, x, y: m.autograd.graph.increment_version([3]),
    "mode of several": lambda m, x, y: m.autograd.graph.register_multi_grad_hook((x,), print, mode="x"),
    "several, no grad": lambda m, x, y: m.autograd.graph.register_multi_grad_hook((m.ones(1),), print),
    "mode of grad": lambda m, x, y: m.set_grad_enabled("a"),
    "threads": lambda m, x, y: m.autograd.set_multithreading_enabled("a"),
    "post-accumulate, no grad": lambda m, x, y: m.ones(1).register_post_accumulate_grad_hook(print),
    "post-accumulate, no leaf": lambda m, x, y: y.register_post_accumulate_grad_hook(print),
}  # fmt: skip


# Options that are no bools.
for value in (1, 0, "a", None, [], 1.0):
    for option in ("retain_graph", "create_graph", "allow_unused", "materialize_grads"):
        CALLS[f"{option}={value!r}"] = lambda m, x, y, option=option, value=value: m.autograd.grad(
            y, [x, leaf(m)], **{"allow_unused": True, option: value}
        )
    for option in ("retain_graph", "create_graph"):
        CALLS[f"backward({option}={value!r})"] = lambda m, x, y, option=option, value=value: (
            y.backward(**{option: value}) or x.grad
        )


def _calling(call: Callable[[Any, Any, Any], Any]) -> Program:
    def run(m: Any, log: list[Any]) -> Any:
        x = leaf(m)
        return call(m, x, (x * x).sum())

    return run


PROGRAMS.update({f"call: {name}": _calling(call) for name, call in CALLS.items()})


@program
def edges(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    y = x * x
    edge, start = m.autograd.graph.get_gradient_edge(y), m.autograd.graph.get_gradient_edge(x)
    first = m.autograd.grad(edge, start, m.ones(2), retain_graph=True)
    z = y.sum()
    second = m.autograd.grad(z, [edge, start, y], retain_graph=True)
    z.backward(inputs=[start])
    return first, second, x.grad, start.node.variable is x, type(start.node).__name__


@program
def inputs_that_are_no_leaves(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    y = x * 2
    (y * y).sum().backward(inputs=[y, x, y, x])
    return y.grad, x.grad, y.retains_grad


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda m: m.ones(3, 4).t().detach(),
    "expanded": lambda m: m.ones(3, 1).expand(3, 4),
    "sliced": lambda m: m.ones(3, 8)[:, ::2],
    "permuted": lambda m: m.ones(2, 3, 4).permute(2, 0, 1),
    "contiguous": lambda m: m.ones(3, 4),
    "column": lambda m: m.ones(3, 4)[:, 0],
}


def _laid_out(make: Callable[[Any], Any]) -> Program:
    def run(m: Any, log: list[Any]) -> Any:
        found = []
        for loss in (lambda p: p.sum(), lambda p: (p * p).sum(), lambda p: p.contiguous().sum()):
            p = make(m).detach().requires_grad_()
            for _ in range(2):
                loss(p).backward()
                found.append(p.grad.stride())
        return found

    return run


PROGRAMS.update({f"layout: {name}": _laid_out(make) for name, make in LAYOUTS.items()})


@program
def gradients_of_the_users_own(m: Any, log: list[Any]) -> Any:
    p, own = m.ones(3, requires_grad=True), m.full((3,), 2.0)
    p.grad = own
    (p * 1).sum().backward()
    return p.grad is own, own


@program
def an_expanded_gradient(m: Any, log: list[Any]) -> Any:
    p = m.ones(3, requires_grad=True)
    p.grad = m.ones(1).expand(3)
    (p * p).sum().backward()


# Hooks.


@program
def order_of_hooks(m: Any, log: list[Any]) -> None:
    x = leaf(m)
    y = x * 2
    accumulate = y.grad_fn.next_functions[0][0]
    y.register_hook(lambda grad: log.append("first"))
    y.retain_grad()
    y.register_hook(lambda grad: log.append(("second", y.grad is None)) or grad * 10)
    y.grad_fn.register_prehook(lambda grads: log.append(("pre", y.grad.tolist())))
    y.grad_fn.register_hook(lambda inputs, outputs: log.append(("post", inputs[0], outputs)))
    x.register_hook(lambda grad: log.append("leaf"))
    x.register_post_accumulate_grad_hook(lambda p: log.append(("accumulated", p.grad.tolist())))
    accumulate.register_prehook(lambda grads: log.append("accumulate, pre"))
    accumulate.register_hook(lambda inputs, outputs: log.append(("post", inputs, outputs)))
    y.sum().backward()


@program
def a_leaf_ends_when_its_gradient_is_complete(m: Any, log: list[Any]) -> None:
    x, w = leaf(m), leaf(m)
    y = x * w
    z = (y * x).sum()
    u = (w * 1).exp()
    for name, t in {"x": x, "w": w, "y": y, "u": u}.items():
        t.register_hook(lambda grad, name=name: log.append(name))
    for name, t in {"x": x, "w": w}.items():
        t.register_post_accumulate_grad_hook(lambda p, name=name: log.append("end of " + name))
    (z + u.sum()).backward(retain_graph=True)
    log.append("grad")
    m.autograd.grad(z, [y, x], retain_graph=True)
    log.append("inputs")
    z.backward(inputs=[w])


@program
def hooks_and_a_change_in_place(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    y = x * 2
    y.register_hook(lambda grad: log.append(("before", grad)))
    y.retain_grad()
    y.mul_(3)
    y.register_hook(lambda grad: log.append(("after", grad)))
    (y * y).sum().backward()
    return y.grad, x.grad


@program
def retained_gradients_are_not_added_to_in_place(m: Any, log: list[Any]) -> Any:
    y = leaf(m) * 2
    y.retain_grad()
    z = y.sum()
    z.backward(retain_graph=True)
    first = y.grad
    z.backward()
    return y.grad is first, first, y.grad


REPLIES: dict[str, Callable[[Any, Any], Any]] = {
    "number": lambda m, grad: 3,
    "tuple": lambda m, grad: (grad,),
    "shape": lambda m, grad: m.ones(3, dtype=m.float64),
    "dtype": lambda m, grad: grad.float(),
    "twice": lambda m, grad: grad * 2,
    "pair": lambda m, grad: (grad, grad),
    "tuple of shape": lambda m, grad: (m.ones(3, dtype=m.float64),),
    "tuple of nothing": lambda m, grad: (None,),
    "tuple of numbers": lambda m, grad: (3,),
    "list": lambda m, grad: [grad],
}
PLACES: dict[str, Callable[[Any, Any, Callable[[Any], Any]], Any]] = {
    "result": lambda x, y, hook: y.register_hook(hook),
    "leaf": lambda x, y, hook: x.register_hook(hook),
    "before": lambda x, y, hook: y.grad_fn.register_prehook(lambda grads: hook(grads[0])),
    "after": lambda x, y, hook: y.grad_fn.register_hook(lambda grads, outputs: hook(grads[0])),
}


def _replying(place: Callable[..., Any], reply: Callable[[Any, Any], Any]) -> Program:
    def run(m: Any, log: list[Any]) -> Any:
        x = leaf(m)
        y = x * 3
        place(x, y, lambda grad: reply(m, grad))
        y.sum().backward()
        return x.grad

    return run


PROGRAMS.update(
    {
        f"hook on {where} returns {what}": _replying(place, reply)
        for where, place in PLACES.items()
        for what, reply in REPLIES.items()
    }
)


@pytest.mark.parametrize("mode", ["all", "any"])
def test_hooks_on_several_tensors(mode: str) -> None:
    def run(m: Any, log: list[Any]) -> None:
        a, b = leaf(m), leaf(m)
        c, d = a * b, a * b

        def hook(found: Any) -> None:
            log.append([grad is not None for grad in found] if mode == "all" else found)

        handle = m.autograd.graph.register_multi_grad_hook((a, b, c, d), hook, mode=mode)
        c.sum().backward(retain_graph=True)
        log.append("inputs")
        c.sum().backward(inputs=(a,), retain_graph=True)
        (c + d).sum().backward(retain_graph=True)
        handle.remove()
        c.sum().backward()

    assert outcome(tg, run) == outcome(torch, run)


# Saved tensors.


def _packing(m: Any, log: list[Any]) -> Any:
    def pack(t: Any) -> Any:
        log.append(("pack", t.tolist(), t.is_leaf, t.requires_grad, m.is_grad_enabled()))
        return t.detach()

    def unpack(t: Any) -> Any:
        log.append(("unpack", t.tolist()))
        return t

    return m.autograd.graph.saved_tensors_hooks(pack, unpack)


@program
def saved_tensors_are_packed(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    with _packing(m, log):
        y = (x * 2).square().sqrt()
        m.where(x > 0, y, x)
    y.sum().backward()
    return x.grad


@program
def custom_functions_pack_what_they_save(m: Any, log: list[Any]) -> Any:
    class Doubled(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            out = x * 2
            ctx.save_for_backward(x, out, None)
            return out

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            x, out, nothing = ctx.saved_tensors
            log.append((x, out, out.grad_fn is not None, nothing))
            return grad * x

    x = leaf(m)
    with _packing(m, log):
        y = Doubled.apply(x)
    (first,) = m.autograd.grad(y.sum(), x, create_graph=True)
    return first, m.autograd.grad(first.sum(), x)


@program
def the_innermost_hooks_count(m: Any, log: list[Any]) -> None:
    x = leaf(m)
    hooks = m.autograd.graph.saved_tensors_hooks
    with _packing(m, log):
        with hooks(lambda t: log.append("inner") or t, lambda t: t):
            x.sqrt()
        x.sqrt()


@program
def packed_values_can_be_differentiated_twice(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    with m.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        y = (x * x * x).sqrt()
    (first,) = m.autograd.grad(y.sum(), x, create_graph=True)
    return m.autograd.grad(first.sum(), x)


@program
def changes_in_place_do_not_matter_to_packed_values(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    with m.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        y = x.sqrt()
    y.add_(1)
    y.sum().backward()
    return x.grad


@program
def hooks_on_one_saved_tensor(m: Any, log: list[Any]) -> Any:
    x = leaf(m)
    y = x * x
    y.grad_fn._raw_saved_self.register_hooks(lambda t: t * 2, lambda t: t)
    y.sum().backward()
    return x.grad


def _register_again(m: Any) -> None:
    y = leaf(m) * leaf(m)
    saved = y.grad_fn._raw_saved_self
    saved.register_hooks(lambda t: t, lambda t: t)
    saved.register_hooks(lambda t: t, lambda t: t)


def _register_on_freed(m: Any) -> None:
    y = leaf(m) * leaf(m)
    saved = y.grad_fn._raw_saved_self
    y.sum().backward()
    saved.register_hooks(lambda t: t, lambda t: t)


def _read_freed(m: Any) -> None:
    y = leaf(m) * leaf(m)
    y.sum().backward()
    _ = y.grad_fn._saved_self


def _use_hooks(m: Any, pack: Any, unpack: Any) -> None:
    with m.autograd.graph.saved_tensors_hooks(pack, unpack):
        y = leaf(m).sqrt()
    y.sum().backward()


def _use_disabled(m: Any) -> None:
    with m.autograd.graph.disable_saved_tensors_hooks("not now"):
        with m.autograd.graph.disable_saved_tensors_hooks("not here"):
            pass
        _use_hooks(m, print, print)


def _disable_used(m: Any) -> None:
    with (
        m.autograd.graph.saved_tensors_hooks(print, print),
        m.autograd.graph.disable_saved_tensors_hooks("not now"),
    ):
        leaf(m).sqrt()


REFUSED: dict[str, Callable[[Any], None]] = {
    "unpacked to a number": lambda m: _use_hooks(m, lambda t: 0, lambda t: 0),
    "packed in place": lambda m: _use_hooks(m, lambda t: t.add_(1), lambda t: t),
    "pack hook raises": lambda m: _use_hooks(m, lambda t: [][0], lambda t: t),
    "unpack hook raises": lambda m: _use_hooks(m, lambda t: t, lambda t: [][0]),
    "not callable": lambda m: _use_hooks(m, 3, 3),
    "disabled": _use_disabled,
    "disabled inside": _disable_used,
    "hooks twice": _register_again,
    "hooks after freeing": _register_on_freed,
    "values after freeing": _read_freed,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_saved_tensor_hooks_must_not_do(name: str) -> None:
    run = REFUSED[name]
    assert outcome(tg, lambda m, log: run(m)) == outcome(torch, lambda m, log: run(m))


# Grad modes.


@program
def a_decorated_class(m: Any, log: list[Any]) -> Any:
    @m.no_grad()
    class Made:
        def __init__(self) -> None:
            self.mode = m.is_grad_enabled()

        def look(self) -> bool:
            return m.is_grad_enabled()

    made = Made()
    return made.mode, made.look(), type(Made).__name__


@program
def setting_the_mode(m: Any, log: list[Any]) -> Any:
    with m.set_grad_enabled(False):
        log.append(m.is_grad_enabled())
        with m.enable_grad(), m.no_grad(), m.enable_grad():
            log.append(m.is_grad_enabled())
        log.append(m.is_grad_enabled())

    @m.set_grad_enabled(False)
    def look() -> bool:
        return m.is_grad_enabled()

    with m.autograd.set_multithreading_enabled(False):
        log.append(look())
    return m.is_grad_enabled()


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str) -> None:
    assert outcome(tg, PROGRAMS[name]) == outcome(torch, PROGRAMS[name])


def test_a_compiled_function_under_hooks_packs_what_it_saves() -> None:
    compiled = tg.compile(lambda x: (x * x).sqrt())
    x = leaf(tg)
    for _ in range(3):
        compiled(x)
    packed: list[Any] = []
    with tg.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        y = compiled(x)
    y.sum().backward()
    assert len(packed) == 3
    assert x.grad.tolist() == [1.0, 1.0]


def test_nested_backward_passes_do_not_exhaust_the_stack() -> None:
    class Nested(tg.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: tg.Tensor, depth: int) -> tg.Tensor:
            ctx.depth = depth
            return x * 1

        @staticmethod
        def backward(ctx: Any, grad: tg.Tensor) -> Any:
            if ctx.depth:
                with tg.enable_grad():
                    x = tg.ones(1, requires_grad=True)
                    Nested.apply(x, ctx.depth - 1).sum().backward()
            return grad, None

    x = tg.ones(1, requires_grad=True)
    Nested.apply(x, 400).sum().backward()
    assert x.grad.item() == 1.0
    assert tg.is_grad_enabled()


def test_the_reference_cycle_is_warned_of_once() -> None:
    """In a process of its own, since the warning is given once in each."""
    program = """
import importlib, sys, warnings
m = importlib.import_module(sys.argv[1])
warnings.simplefilter("always")
x = m.ones(2, requires_grad=True)
for create_graph in (False, True, True):
    with warnings.catch_warnings(record=True) as caught:
        m.autograd.grad((x * x).sum(), x, create_graph=create_graph)
        (x * x).sum().backward(create_graph=create_graph)
    print([(w.category.__name__, str(w.message).partition(" (Triggered")[0]) for w in caught])
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", program, name], capture_output=True, text=True, check=True
        ).stdout
        for name in ("tracegrad", "torch")
    ]
    assert said[0] == said[1]
    assert said[0].count("reference cycle") == 1
