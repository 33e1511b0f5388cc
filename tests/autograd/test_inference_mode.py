"""Inference mode: programs run with torch as well, which must agree (see :mod:`torch_programs`).

What differs on purpose is listed in `LENIENT` and `STRICTER`.
"""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
from torch_programs import Program, outcome  # noqa: E402

pytestmark = pytest.mark.peers

Make = Callable[[], Any]


def inferred(m: Any, make: Make) -> Any:
    """What `make` returns in inference mode."""
    with m.inference_mode():
        return make()


class Cast:
    """The tensors of a small program: `x` requires grad, `n` does not, `i` and `ir` are inference tensors."""

    def __init__(self, m: Any) -> None:
        self.x = m.tensor([1.0, 2.0, 3.0], requires_grad=True)
        self.n = m.tensor([4.0, 5.0, 6.0])
        self.i = inferred(m, lambda: m.tensor([0.5, 1.5, 2.5]))
        self.ir = inferred(m, lambda: m.tensor([0.5, 1.5, 2.5], requires_grad=True))
        self.positions = inferred(m, lambda: m.tensor([2, 0]))
        self.mask = inferred(m, lambda: m.tensor([True, False, True]))


# What makes inference tensors, and what does not. Each is run inside of the mode and outside.
MAKERS: dict[str, Callable[[Any, Cast], Any]] = {
    "factory": lambda m, c: m.ones(2),
    "from numbers": lambda m, c: m.tensor([1, 2]),
    "from numpy": lambda m, c: m.from_numpy(np.ones(2)),
    "requiring grad": lambda m, c: m.ones(2, requires_grad=True),
    "asked for a gradient": lambda m, c: m.ones(2).requires_grad_(),
    "random": lambda m, c: m.randperm(3),
    "parameter": lambda m, c: m.nn.Parameter(m.ones(2)),
    "layer": lambda m, c: m.nn.Linear(2, 2).weight,
    "converted layer": lambda m, c: m.nn.Linear(2, 2).double().weight,
    "product of leaf": lambda m, c: c.x * c.x,
    "product": lambda m, c: c.n * 2,
    "function": lambda m, c: m.softmax(c.n, 0),
    "reduction": lambda m, c: c.n.sum(),
    "comparison": lambda m, c: c.n > 4,
    "matmul": lambda m, c: c.n @ c.n,
    "elements": lambda m, c: c.n[m.tensor([0, 1])],
    "masked": lambda m, c: c.n[c.n > 4],
    "clone": lambda m, c: c.n.clone(),
    "clone of inference": lambda m, c: c.i.clone(),
    "arithmetic of inference": lambda m, c: c.i * c.i,
    "view": lambda m, c: c.n.view(3, 1),
    "view of leaf": lambda m, c: c.x[1:],
    "view of inference": lambda m, c: c.i[1:],
    "expanded inference": lambda m, c: c.i.expand(2, 3),
    "unbound": lambda m, c: m.stack(list(c.n.unbind())),
    "first unbound": lambda m, c: c.n.unbind()[0],
    "first unbound of inference": lambda m, c: c.i.unbind()[0],
    "detached": lambda m, c: c.x.detach(),
    "detached inference": lambda m, c: c.i.detach(),
    "data": lambda m, c: c.x.data,
    "data of inference": lambda m, c: c.i.data,
    "same dtype": lambda m, c: c.i.to(m.float32),
    "other dtype": lambda m, c: c.i.double(),
    "deep copy": lambda m, c: copy.deepcopy(c.n),
    "deep copy of inference": lambda m, c: copy.deepcopy(c.i),
    "deep copy of inference leaf": lambda m, c: copy.deepcopy(c.ir),
    "copy": lambda m, c: copy.copy(c.i),
    "pickled": lambda m, c: pickle.loads(pickle.dumps(c.i)),
    "changed in place": lambda m, c: c.n.add_(1),
    "view changed in place": lambda m, c: c.n[1:].add_(1),
    "written to": lambda m, c: m.add(c.n, c.n, out=m.ones(3)),
    "copied into": lambda m, c: c.n.copy_(c.i),
    "custom function": lambda m, c: doubling(m).apply(c.x),
    "custom function of inference": lambda m, c: doubling(m).apply(c.i),
    "custom function, a view": lambda m, c: viewing(m).apply(c.n),
    "func.grad": lambda m, c: m.func.grad(lambda t: (t * t).sum())(c.n),
    "func.grad of inference": lambda m, c: m.func.grad(lambda t: (t * t).sum())(c.i),
    "jacobian": lambda m, c: m.autograd.functional.jacobian(lambda t: t * t, c.n),
    "nested: no_grad": lambda m, c: m.no_grad()(lambda: c.x * 2)(),
    "nested: enable_grad": lambda m, c: m.enable_grad()(lambda: c.x * 2)(),
    "nested: off": lambda m, c: m.inference_mode(False)(lambda: c.x * 2)(),
}  # fmt: skip


def doubling(m: Any) -> Any:
    class Doubled(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return grad * 2

    return Doubled


def viewing(m: Any) -> Any:
    class Viewed(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return grad

    return Viewed


def seen(t: Any, make_version: bool) -> Any:
    kind = t.is_inference(), t.requires_grad, t.is_leaf, t._is_view(), t.grad_fn is None
    return (*kind, t._version) if make_version and not t.is_inference() else kind


@pytest.mark.filterwarnings("ignore:.*jit.script:DeprecationWarning")
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", MAKERS)
def test_what_is_an_inference_tensor(name: str, inside: bool) -> None:
    found = []
    for m in (tg, torch):
        cast = Cast(m)
        with m.inference_mode(inside):
            made = MAKERS[name](m, cast)
            found.append((seen(made, "in place" in name), m.is_inference(made)))
        found[-1] += (seen(made, False),)
    assert found[0] == found[1]


# What may be done with inference tensors outside of the mode.
USES: dict[str, Callable[[Any, Cast], Any]] = {
    "version": lambda m, c: c.i._version,
    "version inside": lambda m, c: inferred(m, lambda: c.i._version),
    "of a number": lambda m, c: m.is_inference(3),
    "add_": lambda m, c: c.i.add_(1),
    "add_ without grad": lambda m, c: m.no_grad()(lambda: c.i.add_(1))(),
    "add_ inside": lambda m, c: inferred(m, lambda: c.i.add_(1)),
    "add_ to a leaf": lambda m, c: c.ir.add_(1),
    "add_ to a view": lambda m, c: c.i[1:].add_(1),
    "mul_ by a tensor": lambda m, c: c.i.mul_(c.n),
    "sin_": lambda m, c: c.i.sin_(),
    "zero_": lambda m, c: c.i.zero_(),
    "fill_": lambda m, c: c.i.fill_(3.0),
    "copy_": lambda m, c: c.i.copy_(c.n),
    "clamp_": lambda m, c: c.i.clamp_(0, 1),
    "normal_": lambda m, c: c.i.normal_(),
    "element": lambda m, c: c.i.__setitem__(0, 1.0),
    "elements": lambda m, c: c.i.__setitem__(m.tensor([0, 1]), 1.0),
    "mask": lambda m, c: c.i.__setitem__(c.i > 1, 1.0),
    "element inside": lambda m, c: inferred(m, lambda: c.i.__setitem__(0, 1.0)) or c.i,
    "index_add_": lambda m, c: c.i.index_add_(0, m.tensor([0]), m.ones(1)),
    "masked_fill_": lambda m, c: c.i.masked_fill_(c.n > 4, 0.0),
    "out=": lambda m, c: m.add(c.n, c.n, out=c.i),
    "init": lambda m, c: m.nn.init.ones_(c.i),
    "detach_": lambda m, c: c.i.detach_(),
    "requires_grad_": lambda m, c: c.i.requires_grad_(),
    "requires_grad": lambda m, c: setattr(c.i, "requires_grad", True),
    "requires_grad_ again": lambda m, c: c.ir.requires_grad_(),
    "requires_grad_(False)": lambda m, c: c.ir.requires_grad_(False),
    "parameter": lambda m, c: m.nn.Parameter(c.i),
    "parameter without grad": lambda m, c: m.nn.Parameter(c.i, requires_grad=False).is_inference(),
    "saved by mul": lambda m, c: c.x * c.i,
    "saved by mul first": lambda m, c: c.i * c.x,
    "saved by matmul": lambda m, c: c.x @ c.i,
    "saved by where": lambda m, c: m.where(c.mask, c.x, c.n),
    "saved by gather": lambda m, c: c.x.gather(0, c.positions),
    "saved by masked_fill": lambda m, c: c.x.masked_fill(c.mask, 0.0),
    "saved in place": lambda m, c: (c.x * 1).mul_(c.i),
    "saved by a layer": lambda m, c: m.nn.functional.linear(c.i, c.x.expand(2, 3)),
    "saved by a custom function": lambda m, c: doubling(m).apply(c.ir),
    "saved under hooks": lambda m, c: saved_under_hooks(m, c),
    "not saved by add": lambda m, c: m.autograd.grad((c.x + c.i).sum(), c.x),
    "not saved by mul": lambda m, c: c.ir * c.n,
    "not saved in place": lambda m, c: (c.x * 1).add_(c.i),
    "not saved, written": lambda m, c: (c.x * 1).__setitem__(0, c.i[0]),
    "not recorded": lambda m, c: c.x.detach() * c.i,
    "without grad": lambda m, c: m.no_grad()(lambda: c.x * c.i)(),
    "saved as a clone": lambda m, c: m.autograd.grad((c.x * c.i.clone()).sum(), c.x),
    "leaf alone": lambda m, c: [f(c.ir) for f in (m.sqrt, m.sum, m.neg)],
    "leaf alone, twice": lambda m, c: [c.ir + c.ir, c.ir * c.ir, c.ir**2, c.ir[0], c.ir @ c.i],
    "leaf and numbers": lambda m, c: [c.ir + 2, 2 - c.ir, c.ir * 3, c.ir / 2, 1 / c.ir],
    "leaf and a normal tensor": lambda m, c: [c.ir + c.n, m.cat([c.ir, c.n]), c.ir[m.tensor([0])]],
    "gradient of a leaf": lambda m, c: m.autograd.grad((c.ir * 2).sum(), c.ir),
    "clone of a leaf": lambda m, c: m.autograd.grad((c.ir.clone() * 2).sum(), c.ir),
    "backward": lambda m, c: c.i.sum().backward(),
    "retain_grad": lambda m, c: c.i.retain_grad(),
    "register_hook": lambda m, c: c.i.register_hook(print),
    "increment_version": lambda m, c: m.autograd.graph.increment_version(c.i),
    "numpy": lambda m, c: c.i.numpy().tolist(),
    "repr": lambda m, c: repr(c.i) + repr(c.ir),
    "class": lambda m, c: m.nn.functional.cross_entropy(c.x.expand(2, 3), c.positions),
    "seed": lambda m, c: (c.x * 2).backward(c.i) or (c.x.grad, c.x.grad.is_inference()),
    "seed, differentiable": lambda m, c: (c.x * c.x).backward(c.i, create_graph=True),
    "as gradient": lambda m, c: setattr(c.x, "grad", c.i) or c.x.sum().backward(),
    "state dict": lambda m, c: str(m.nn.Linear(3, 3).load_state_dict(
        inferred(m, lambda: m.nn.Linear(3, 3).state_dict()))),
}  # fmt: skip


def saved_under_hooks(m: Any, c: Cast) -> Any:
    with m.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return c.x * c.i


@pytest.mark.parametrize("name", USES)
def test_what_may_be_done_with_inference_tensors(name: str) -> None:
    def run(m: Any, log: list[Any]) -> Any:
        return USES[name](m, Cast(m))

    ours, theirs = outcome(tg, run), outcome(torch, run)
    assert ours[:2] == theirs[:2]


LENIENT: dict[str, Callable[[Any, Cast], Any]] = {
    "index": lambda m, c: c.x[c.positions],
    "target": lambda m, c: m.nn.functional.mse_loss(c.x, c.i),
}
"""torch saves these for the backward pass and refuses; our records save what was computed from them."""


@pytest.mark.parametrize("name", LENIENT)
def test_what_is_not_saved_is_not_refused(name: str) -> None:
    assert LENIENT[name](tg, Cast(tg)).requires_grad
    with pytest.raises(RuntimeError, match="cannot be saved for backward"):
        LENIENT[name](torch, Cast(torch))


STRICTER: dict[str, Callable[[Any, Cast], Any]] = {
    "detached": lambda m, c: c.i.detach().add_(1),
    "data": lambda m, c: c.i.data.add_(1),
    "version": lambda m, c: c.i.detach()._version,
}
"""torch gives ``detach()`` and ``data`` of an inference tensor a version counter again; it stays one all the same."""


@pytest.mark.parametrize("name", STRICTER)
def test_detached_inference_tensors_are_like_any_others(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"[Ii]nference tensor"):
        STRICTER[name](tg, Cast(tg))
    STRICTER[name](torch, Cast(torch))


def test_a_refused_change_in_place_changes_nothing() -> None:
    c = Cast(tg)
    for change in (lambda: c.i.add_(1), lambda: c.i.__setitem__(0, 9.0), lambda: c.i.copy_(c.n)):
        with pytest.raises(RuntimeError, match="Inplace update"):
            change()
    assert c.i.tolist() == [0.5, 1.5, 2.5]


PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


def modes(m: Any) -> Any:
    return m.is_inference_mode_enabled(), m.is_grad_enabled(), m.ones(1).is_inference()


@program
def nesting(m: Any, log: list[Any]) -> None:
    on, off = m.inference_mode, lambda: m.inference_mode(False)
    contexts = {"on": on, "off": off, "no": m.no_grad, "enable": m.enable_grad,
                "set": lambda: m.set_grad_enabled(True)}  # fmt: skip
    for outer in contexts.values():
        for middle in contexts.values():
            for inner in contexts.values():
                with outer(), middle():
                    log.append(modes(m))
                    with inner():
                        log.append(modes(m))
                    log.append(modes(m))
                log.append(modes(m))


@program
def setting_the_grad_mode_inside(m: Any, log: list[Any]) -> Any:
    with m.inference_mode():
        m.set_grad_enabled(True)
        log.append(modes(m))
    return modes(m)


@program
def exceptions(m: Any, log: list[Any]) -> Any:
    try:
        with m.inference_mode():
            raise KeyError
    except KeyError:
        return modes(m)


@program
def decorated(m: Any, log: list[Any]) -> Any:
    @m.inference_mode
    def bare() -> Any:
        """Its text."""
        return modes(m)

    @m.inference_mode()
    def called() -> Any:
        return modes(m)

    @m.inference_mode(mode=False)
    def off() -> Any:
        return modes(m)

    with m.inference_mode():
        log.append(off())
    return bare(), called(), off(), bare.__name__, bare.__doc__, modes(m)


@program
def decorated_generator(m: Any, log: list[Any]) -> Any:
    @m.inference_mode()
    def produce() -> Iterator[Any]:
        try:
            got = yield modes(m)
            log.append((got, modes(m)))
            yield 2
        except ValueError:
            log.append(("thrown", modes(m)))
            yield 3
        finally:
            log.append(("closed", modes(m)))

    generator = produce()
    first, between = next(generator), modes(m)
    generator.send("sent")
    generator.throw(ValueError)
    generator.close()
    return first, between, modes(m)


@program
def decorated_class(m: Any, log: list[Any]) -> Any:
    @m.inference_mode()
    class Made:
        def __init__(self) -> None:
            self.modes = modes(m)

    return Made().modes, type(Made()).__name__


@program
def threads(m: Any, log: list[Any]) -> None:
    with m.inference_mode():
        thread = threading.Thread(target=lambda: log.append(modes(m)))
        thread.start()
        thread.join()
        log.append(modes(m))


@program
def unknown_keyword(m: Any, log: list[Any]) -> Any:
    return m.inference_mode(mod=True)


@program
def a_view_from_inside_is_changed(m: Any, log: list[Any]) -> Any:
    y = m.ones(3, requires_grad=True) * 1
    view = inferred(m, lambda: y[1:])
    log.append((view.requires_grad, view.is_leaf, view._is_view(), view._version))
    view.add_(1)


@program
def a_view_from_inside_of_a_leaf_is_changed(m: Any, log: list[Any]) -> Any:
    x = m.ones(3, requires_grad=True)
    inferred(m, lambda: x[1:]).add_(1)


@program
def the_base_of_a_view_from_inside_is_changed(m: Any, log: list[Any]) -> Any:
    y = m.ones(3, requires_grad=True) * 1
    view = inferred(m, lambda: y[1:])
    y.add_(1)
    return view.grad_fn


@program
def a_view_from_inside_becomes_part_of_a_history(m: Any, log: list[Any]) -> Any:
    x, n = m.ones(2, requires_grad=True), m.ones(3)
    view = inferred(m, lambda: n[:2])
    log.append((view.add_(1).is_inference(), n._version))
    view.mul_(x)


@program
def changes_inside_are_counted(m: Any, log: list[Any]) -> Any:
    y = m.ones(3, requires_grad=True) * 2
    z = y * y
    with m.inference_mode():
        y.add_(1)
    log.append((y._version, y.requires_grad, y.grad_fn.name()))
    z.sum().backward()


@program
def a_leaf_is_changed_inside(m: Any, log: list[Any]) -> Any:
    x = m.ones(3, requires_grad=True)
    with m.inference_mode():
        x.mul_(3)
    (x * x).sum().backward()
    return x, x._version, x.grad


@program
def backward_inside(m: Any, log: list[Any]) -> Any:
    x = m.ones(3, requires_grad=True)
    first, second = (x * x).sum(), (x * x).sum()
    with m.inference_mode():
        first.backward()
        (found,) = m.autograd.grad(second, x, create_graph=True)
    log.append((x.grad.tolist(), x.grad.is_inference(), found, found.is_inference(), found.grad_fn))
    (x * x).sum().backward()


@program
def hooks_inside(m: Any, log: list[Any]) -> Any:
    x = m.ones(3, requires_grad=True)
    y = x * x
    y.register_hook(lambda g: log.append((g, g.is_inference())) or g * 2)
    with m.inference_mode():
        y.sum().backward()
    return x.grad


@program
def nothing_is_recorded_inside(m: Any, log: list[Any]) -> Any:
    x = m.ones(3, requires_grad=True)
    with m.inference_mode():
        (x * x).sum().backward()


@program
def transforms_turn_it_off(m: Any, log: list[Any]) -> Any:
    def f(t: Any) -> Any:
        log.append(modes(m))
        return (t * t * t).sum()

    with m.inference_mode():
        first = m.func.grad(f)(m.tensor([1.0, 2.0]))
        second = m.func.grad(lambda t: m.func.grad(f)(t).sum())(m.tensor([1.0, 2.0]))
        log.append(modes(m))
    return first, second, first.is_inference()


@program
def inside_of_transforms(m: Any, log: list[Any]) -> Any:
    def f(t: Any) -> Any:
        with m.inference_mode():
            u = t * t
        log.append((u.is_inference(), modes(m)))
        return (u + t).sum()

    return m.func.grad(f)(m.tensor([1.0, 2.0])), m.func.vmap(f)(m.ones(2, 2))


@program
def vmap_inside(m: Any, log: list[Any]) -> Any:
    made = inferred(m, lambda: m.func.vmap(lambda t: t * t)(m.ones(2)))
    return made, made.is_inference(), m.func.vmap(lambda t: t * t)(made).is_inference()


@program
def tangents_end_at_it(m: Any, log: list[Any]) -> Any:
    fa = m.autograd.forward_ad
    with fa.dual_level():
        x = fa.make_dual(m.ones(2), m.ones(2))
        with m.inference_mode():
            y = x * 2
        return fa.unpack_dual(y).tangent, fa.unpack_dual(x * 2).tangent


@program
def batch_norm(m: Any, log: list[Any]) -> Any:
    layer = m.nn.BatchNorm1d(3)
    with m.inference_mode():
        layer(m.ones(2, 3))
    layer(m.ones(2, 3)).sum().backward()
    return layer.running_mean, layer.num_batches_tracked, layer.num_batches_tracked.is_inference()


@program
def an_optimizer_steps_inside(m: Any, log: list[Any]) -> Any:
    p = m.nn.Parameter(m.ones(2))
    optimizer = m.optim.SGD([p], lr=0.5, momentum=0.9)
    (p * p).sum().backward()
    with m.inference_mode():
        optimizer.step()
    log.append((p, p._version, p.is_inference()))
    (p * p).sum().backward()
    optimizer.step()


@program
def layers_made_inside(m: Any, log: list[Any]) -> Any:
    layer = inferred(m, lambda: m.nn.Linear(2, 2))
    log.append(layer(m.ones(1, 2)).requires_grad)
    log.append(layer.weight.requires_grad)
    m.optim.SGD(layer.parameters(), lr=0.1).zero_grad()
    layer.weight.grad = m.ones(2, 2)
    m.optim.SGD(layer.parameters(), lr=0.1).step()


@pytest.mark.filterwarnings("ignore:.*jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str) -> None:
    ours, theirs = outcome(tg, PROGRAMS[name]), outcome(torch, PROGRAMS[name])
    assert ours == theirs


def test_nothing_is_watched_afterwards() -> None:
    with tg.inference_mode(), tg.enable_grad(), tg.inference_mode(False), tg.inference_mode():
        assert tg.grad_mode.state.watched
    assert not tg.grad_mode.state.watched
