"""Random programs on tensors that two libraries carry out in lockstep, with all that can be seen compared.

A program is a list of `Call`s: the name of a step in the table `STEPS`, two tensors, a number and a mode. Each
library has a `World`: the tensors so far and a log in which hooks write. `compare` carries out a program in both
worlds and describes the first difference; `shrunk` makes a program with a difference shorter. Used by
autograd/test_state_machine_torch.py.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

LARGEST = 40
"""Results with more elements are dropped: programs shall stay small."""
HUGE = 1e6
"""Where a number gets larger, a program ends: rounding would show."""


class Call(NamedTuple):
    """One step of a program: a name in `STEPS`, the places of two tensors, a number, and a mode."""

    step: str
    first: int
    second: int
    number: int
    mode: str = ""


class World:
    """What a program has made in one library.

    Attributes:
        m: the library.
        tensors: all so far; the first two are leaves that require grad.
        log: what hooks wrote.
        handles: of the hooks, for removal.
    """

    def __init__(self, m: Any) -> None:
        self.m = m
        self.log: list[Any] = []
        self.handles: list[Any] = []
        point = np.array([[0.5, -1.25, 0.75, 2.0], [1.5, 0.25, -0.5, 1.0]])
        leaf, row = (m.tensor(a, requires_grad=True) for a in (point, point[1] * 0.5))
        self.tensors = [leaf, row, leaf * 0.5, row * row, m.tensor(point + 0.125)]

    def hook(self, factor: float | None = None) -> Callable[[Any], Any]:
        """A hook on a gradient, which notes it, and may return another one."""
        label = f"hook {len(self.handles)}"

        def hook(grad: Any) -> Any:
            self.log.append((label, grad.detach().numpy().copy(), grad.requires_grad))
            return None if factor is None else grad * factor

        return hook

    def note_leaf(self, leaf: Any) -> None:
        self.log.append(("accumulated", leaf.grad.detach().numpy().copy()))

    def note(self, label: str) -> Callable[..., None]:
        """A hook on a record, which notes what it gets."""

        def hook(*groups: Any) -> None:
            # torch lists no gradients of arguments that are no tensors, such as indices.
            found = [[g.detach().numpy().copy() for g in gs if g is not None] for gs in groups]
            self.log.append((label, found))

        return hook

    def pack(self, t: Any) -> Any:
        self.log.append(("pack", t.detach().numpy().copy(), t.requires_grad, t.is_leaf))
        return t.detach().clone()

    def unpack(self, t: Any) -> Any:
        self.log.append(("unpack", t.numpy().copy()))
        return t

    @contextlib.contextmanager
    def mode(self, name: str) -> Iterator[None]:
        m = self.m
        with contextlib.ExitStack() as stack:
            if "no_grad" in name:
                stack.enter_context(m.no_grad())
            if "enable_grad" in name:
                stack.enter_context(m.enable_grad())
            if "packed" in name:
                stack.enter_context(m.autograd.graph.saved_tensors_hooks(self.pack, self.unpack))
            yield

    def place(self, t: Any) -> int | None:
        """Which tensor of the program this is."""
        return next((i for i, own in enumerate(self.tensors) if own is t), None)


Step = Callable[[World, Any, Any, int], Any]
"""Carries out a step on tensors x and y; new tensors that it returns become part of the world."""


def fit(x: Any, y: Any) -> Any:
    """The second operand: of the shape of the first, or one that broadcasts to it."""
    if tuple(y.shape) in (tuple(x.shape), tuple(x.shape[1:]), ()):
        return y
    return y.sum() * 0.25


def weights(w: World, x: Any) -> Any:
    """A gradient of x: another number for each element."""
    return w.m.arange(1, 1 + x.numel(), dtype=w.m.float64).reshape(x.shape)


def indices(w: World, x: Any, k: int) -> Any:
    """Rows of x, one of them twice."""
    n = x.shape[0]
    return w.m.tensor([k % n, 0, k % n])


def mask(x: Any) -> Any:
    return x.detach() > 0.4


def mask_key(x: Any) -> Any:
    """A mask to write at. torch makes a view of a 0-d tensor first, which its records show and ours do not."""
    return mask(x) if x.dim() else ...


VIEWS: dict[str, Step] = {
    "x[k]": lambda w, x, y, k: x[k],
    "x[-1]": lambda w, x, y, k: x[-1],
    "x[k:]": lambda w, x, y, k: x[k:],
    "x[..., ::2]": lambda w, x, y, k: x[..., ::2],
    "x[:, None]": lambda w, x, y, k: x[:, None],
    "x[...]": lambda w, x, y, k: x[...],
    "t": lambda w, x, y, k: x.t(),
    "transpose": lambda w, x, y, k: x.transpose(0, -1),
    "permute": lambda w, x, y, k: x.permute(*reversed(range(x.dim()))),
    "view": lambda w, x, y, k: x.view(-1),
    "view halves": lambda w, x, y, k: x.view(2, -1),
    "view_as": lambda w, x, y, k: x.view_as(x),
    "reshape": lambda w, x, y, k: x.reshape(-1),
    "select": lambda w, x, y, k: x.select(-1, k),
    "narrow": lambda w, x, y, k: x.narrow(-1, k, 1),
    "diagonal": lambda w, x, y, k: x.diagonal(k - 1),
    "unfold": lambda w, x, y, k: x.unfold(-1, 2, k + 2),
    "unsqueeze": lambda w, x, y, k: x.unsqueeze(k - 1),
    "squeeze": lambda w, x, y, k: x.squeeze(),
    "expand": lambda w, x, y, k: x.expand(2, *x.shape),
    "flatten": lambda w, x, y, k: x.flatten(),
    "movedim": lambda w, x, y, k: x.movedim(0, -1),
    "tensor_split": lambda w, x, y, k: list(x.tensor_split(2)),
    "unbind": lambda w, x, y, k: list(x.unbind())[:3],
    "split": lambda w, x, y, k: list(x.split(1 + k))[:3],
    "chunk": lambda w, x, y, k: list(x.chunk(2)),
    "detach": lambda w, x, y, k: x.detach(),
    "data": lambda w, x, y, k: x.data,
}
RESULTS: dict[str, Step] = {
    "x * 0.5": lambda w, x, y, k: x * 0.5,
    "x + y": lambda w, x, y, k: x + fit(x, y),
    "x - y": lambda w, x, y, k: x - fit(x, y),
    "x * y": lambda w, x, y, k: x * fit(x, y),
    "x / y": lambda w, x, y, k: x / (fit(x, y).sin() + 2.0),
    "x * x": lambda w, x, y, k: x * x,
    "sin": lambda w, x, y, k: x.sin(),
    "tanh": lambda w, x, y, k: x.tanh(),
    "sigmoid": lambda w, x, y, k: x.sigmoid(),
    "pow": lambda w, x, y, k: x**2,
    "relu": lambda w, x, y, k: x.relu(),
    "abs": lambda w, x, y, k: x.abs(),
    "clamp": lambda w, x, y, k: x.clamp(-0.5, 0.9),
    "where": lambda w, x, y, k: w.m.where(mask(x), x, fit(x, y)),
    "maximum": lambda w, x, y, k: w.m.maximum(x, y if y.shape == x.shape else x * 0.5),
    "sum": lambda w, x, y, k: x.sum(),
    "sum of rows": lambda w, x, y, k: x.sum(0),
    "mean": lambda w, x, y, k: x.mean(-1, keepdim=True),
    "cumsum": lambda w, x, y, k: x.contiguous().cumsum(0),
    "softmax": lambda w, x, y, k: x.softmax(-1),
    "amax": lambda w, x, y, k: x.amax(0),
    "stack": lambda w, x, y, k: w.m.stack([x, x * 2]),
    "cat": lambda w, x, y, k: w.m.cat([x, x]),
    "x @ x.t()": lambda w, x, y, k: x @ x.t(),
    "x[mask]": lambda w, x, y, k: x[mask(x)],
    "x[index]": lambda w, x, y, k: x[indices(w, x, k)],
    "clone": lambda w, x, y, k: x.clone(),
    "contiguous": lambda w, x, y, k: x.contiguous(),
    "double": lambda w, x, y, k: x.double(),
    "zeros_like": lambda w, x, y, k: w.m.zeros_like(x),
    "leaf": lambda w, x, y, k: x.detach().clone().requires_grad_(),
}


def assign(x: Any, key: Any, value: Any) -> None:
    x[key] = value


def add_at(x: Any, key: Any, value: Any) -> None:
    x[key] += value


CHANGES: dict[str, Step] = {
    "mul_ 0.5": lambda w, x, y, k: x.mul_(0.5),
    "+= 1": lambda w, x, y, k: x.__iadd__(1),
    "add_": lambda w, x, y, k: x.add_(fit(x, y)),
    "sub_": lambda w, x, y, k: x.sub_(fit(x, y), alpha=2),
    "mul_": lambda w, x, y, k: x.mul_(fit(x, y)),
    "div_": lambda w, x, y, k: x.div_(fit(x, y).detach().abs() + 1),
    "mul_ itself": lambda w, x, y, k: x.mul_(x),
    "sin_": lambda w, x, y, k: x.sin_(),
    "tanh_": lambda w, x, y, k: x.tanh_(),
    "clamp_": lambda w, x, y, k: x.clamp_(-0.5, 0.9),
    "copy_": lambda w, x, y, k: x.copy_(fit(x, y)),
    "zero_": lambda w, x, y, k: x.zero_(),
    "fill_": lambda w, x, y, k: x.fill_(2.0),
    "addcmul_": lambda w, x, y, k: x.addcmul_(fit(x, y), fit(x, y), value=0.5),
    "lerp_": lambda w, x, y, k: x.lerp_(fit(x, y).expand(x.shape), 0.25),
    "masked_fill_": lambda w, x, y, k: x.masked_fill_(mask(x), 0.125),
    "x[...] = y": lambda w, x, y, k: assign(x, ..., fit(x, y)),
    "x[k] = y": lambda w, x, y, k: assign(x, k, fit(x[k], y)),
    "x[k] += y": lambda w, x, y, k: add_at(x, k, fit(x[k], y)),
    "x[k:] = 1.5": lambda w, x, y, k: assign(x, slice(k, None) if x.dim() else ..., 1.5),
    "x[mask] = 0.5": lambda w, x, y, k: assign(x, mask_key(x), 0.5),
    "x[mask] = y": lambda w, x, y, k: assign(x, mask_key(x), y.sum() * 0.25),
    "x[mask] = x[mask]": lambda w, x, y, k: assign(x, mask_key(x), x[mask(x)] * 2),
    "x[index] = y": lambda w, x, y, k: assign(x, indices(w, x, k)[:2], y.sum() * 0.25),
    "x[index] += y": lambda w, x, y, k: add_at(x, indices(w, x, k), y.mean()),
    "index_put_": lambda w, x, y, k: x.index_put_(
        (indices(w, x, k),), y.sum() * 0.25, accumulate=True
    ),
    "index_add_": lambda w, x, y, k: x.index_add_(
        0, indices(w, x, k), x.detach()[indices(w, x, 1)] * y.mean(), alpha=0.5
    ),
    "index_fill_": lambda w, x, y, k: x.index_fill_(0, indices(w, x, k), 0.75),
    "index_copy_": lambda w, x, y, k: x.index_copy_(
        0, indices(w, x, k)[:1], x.detach()[:1] * y.mean()
    ),
    "data.mul_": lambda w, x, y, k: x.data.mul_(0.5),
    "data = ": lambda w, x, y, k: setattr(x, "data", x.detach() * 0.5),
    "detach().add_": lambda w, x, y, k: x.detach().add_(0.25),
}


def set_grad(w: World, x: Any, y: Any, k: int) -> None:
    x.grad = [None, w.m.ones(x.shape, dtype=x.dtype), y.detach()][k]


def zero_grad(w: World, x: Any, y: Any, k: int) -> None:
    if x.is_leaf and x.grad is not None:
        if k and x.grad.grad_fn is None:
            x.grad.zero_()
        else:
            x.grad.detach_().zero_()


def remove(w: World, x: Any, y: Any, k: int) -> None:
    if w.handles:
        w.handles[k % len(w.handles)].remove()


def hook(w: World, x: Any, factor: float | None) -> None:
    w.handles.append(x.register_hook(w.hook(factor)))


def node_hooks(w: World, x: Any, y: Any, k: int) -> None:
    if x.grad_fn is not None and "CopySlices" not in x.grad_fn.name():
        label = f"record {len(w.handles)}"
        w.handles.append(x.grad_fn.register_prehook(w.note(label + " before")))
        w.handles.append(x.grad_fn.register_hook(w.note(label + " after")))


FLAGS: dict[str, Step] = {
    "requires_grad_": lambda w, x, y, k: x.requires_grad_(k > 0),
    "detach_": lambda w, x, y, k: x.detach_(),
    "retain_grad": lambda w, x, y, k: x.retain_grad(),
    "set grad": set_grad,
    "zero grad": zero_grad,
    "hook": lambda w, x, y, k: hook(w, x, None),
    "hook that replaces": lambda w, x, y, k: hook(w, x, 3.0),
    "hook after accumulation": lambda w, x, y, k: w.handles.append(
        x.register_post_accumulate_grad_hook(w.note_leaf)
    ),
    "hooks on the record": node_hooks,
    "remove a hook": remove,
    "look": lambda w, x, y, k: None,
}


def inner(x: Any) -> Any:
    """No leaf: at a leaf where it starts, torch calls hooks also if no gradient of it was asked for."""
    return x * 1 if x.is_leaf else x


def grad(w: World, x: Any, inputs: list[Any], **options: Any) -> list[Any]:
    found = w.m.autograd.grad(inner(x), inputs, weights(w, x), **options)
    return [(g * 1.0).contiguous() for g in found if g is not None]


BACKWARD: dict[str, Step] = {
    "backward": lambda w, x, y, k: x.backward(weights(w, x)),
    "backward, retain": lambda w, x, y, k: x.backward(weights(w, x), retain_graph=True),
    "backward, create": lambda w, x, y, k: x.backward(weights(w, x), create_graph=True),
    "backward, inputs": lambda w, x, y, k: inner(x).backward(
        weights(w, x), inputs=[y], retain_graph=True
    ),
    "backward of both": lambda w, x, y, k: w.m.autograd.backward(
        [x, y], [weights(w, x), weights(w, y)], retain_graph=k > 0
    ),
    "grad": lambda w, x, y, k: grad(w, x, [y, w.tensors[0]], retain_graph=k > 0),
    "grad, unused": lambda w, x, y, k: grad(
        w, x, [y, w.tensors[0]], retain_graph=k > 0, allow_unused=True
    ),
    "grad, materialized": lambda w, x, y, k: grad(
        w, x, [y, w.tensors[1]], retain_graph=True, materialize_grads=True
    ),
    "grad, create": lambda w, x, y, k: grad(
        w, x, [y, w.tensors[k]], create_graph=True, allow_unused=True
    ),
}
STEPS = VIEWS | RESULTS | CHANGES | FLAGS | BACKWARD
KINDS = (VIEWS, VIEWS, VIEWS, RESULTS, RESULTS, CHANGES, CHANGES, CHANGES, FLAGS, FLAGS, BACKWARD)
MODES = ("", "", "", "", "", "", "no_grad", "no_grad, enable_grad")


def random_program(seed: int, length: int) -> list[Call]:
    """A program; the same seed gives the same one."""
    rng = random.Random(seed)
    program = []
    for count in range(length):
        recent = 5 + count
        first, second = (
            rng.randrange(recent) if rng.random() < 0.6 else recent - 1 - rng.randrange(3)
            for _ in range(2)
        )
        name = rng.choice(list(rng.choice(KINDS)))
        program.append(Call(name, first, second, rng.randrange(3), rng.choice(MODES)))
    return program


def sentence(error: Exception) -> tuple[str, str]:
    """The type of an error and what it says first."""
    return type(error).__name__, str(error).partition("\n")[0].partition(" Hint: ")[0]


def attempt(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except Exception as error:
        return sentence(error)


def forgiven(found: Any, expected: Any) -> bool:
    """Whether the libraries differ as they are meant to, in the errors of a step.

    tracegrad keeps some values that torch finds overwritten; and refuses writes where memory is shown repeatedly,
    also where only an index is written, at which torch warns, or a part that is shown once. Where there are two
    things to complain of, which comes first is not compared.
    """
    if found is None or expected is None:
        return (expected is not None and "modified by an inplace" in expected[1]) or (
            found is not None and "refers to a single memory location" in found[1]
        )
    both = found[1], expected[1]
    return all("modified by an inplace" in text for text in both) or any(
        "returns multiple views" in text for text in both
    )


def laid_out_otherwise(ours: World, theirs: World) -> bool:
    """Whether the last result has other strides than torch's: another test's subject, and views of it would differ."""
    a, b = ours.tensors[-1], theirs.tensors[-1]
    return a.shape == b.shape and not a._is_view() and not b._is_view() and layout(a) != layout(b)


def carry_out(w: World, call: Call) -> tuple[str, str] | None:
    """Do one step in a world. Returns the error if there was one."""
    x, y = (w.tensors[place % len(w.tensors)] for place in (call.first, call.second))
    mode = "" if call.step in VIEWS else call.mode
    try:
        with w.mode(mode):
            made = STEPS[call.step](w, x, y, call.number)
    except Exception as error:
        return sentence(error)
    for t in made if isinstance(made, list) else [made]:
        if isinstance(t, w.m.Tensor) and 0 < t.numel() <= LARGEST and w.place(t) is None:
            w.tensors.append(t)
    return None


def layout(t: Any) -> tuple[Any, ...]:
    """Shape, strides and offset; strides only where there is a step to make."""
    strides = [s for n, s in zip(t.shape, t.stride(), strict=True) if n > 1]
    return tuple(t.shape), strides, t.storage_offset()


def seen(w: World, t: Any) -> dict[str, Any]:
    """All that a user can see of a tensor, but for values."""
    record = attempt(lambda: t.grad_fn)
    named = hasattr(record, "name")
    base = t._base
    return {
        "layout": layout(t),
        "version": t._version,
        "view": t._is_view(),
        "base": w.place(base),
        "requires_grad": attempt(lambda: t.requires_grad),
        "leaf": attempt(lambda: t.is_leaf),
        "record": record.name().replace("torch::autograd::", "") if named else record,
        "output_nr": attempt(lambda: t.output_nr),
    }


def values_differ(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape != b.shape or not np.allclose(a, b, rtol=1e-9, atol=1e-11, equal_nan=True)


def same(a: Any, b: Any) -> bool:
    """Equality, with arrays compared within rounding."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return not values_differ(a, b)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def gradient(t: Any) -> Any:
    """What can be seen of ``grad``; the layout only of a leaf's, without ``create_graph``: else ours is otherwise."""
    g = t.grad
    if g is None:
        return None
    laid_out = layout(g) if attempt(lambda: t.is_leaf) is True and not g.requires_grad else None
    return g.detach().numpy(), laid_out, g.requires_grad


def differences(ours: World, theirs: World, look: bool) -> str:
    """What differs between the worlds; `look` also at what reading can change: records."""
    if len(ours.tensors) != len(theirs.tensors):
        return f"{len(ours.tensors)} tensors instead of {len(theirs.tensors)}"
    for place, (a, b) in enumerate(zip(ours.tensors, theirs.tensors, strict=True)):
        with ours.m.no_grad(), theirs.m.no_grad():
            left, right = a.detach().numpy(), b.detach().numpy()
        if values_differ(left, right):
            return f"values of {place}: {left} instead of {right}"
        if look:
            found, expected = seen(ours, a), seen(theirs, b)
            parts = [
                f"{k}: {found[k]} instead of {expected[k]}"
                for k in found
                if found[k] != expected[k]
            ]
            if parts:
                return f"tensor {place}: " + ", ".join(parts)
        found, expected = gradient(a), gradient(b)
        if not same(found, expected):
            return f"gradient of {place}: {found} instead of {expected}"
    if not same(ours.log, theirs.log):
        return f"log {ours.log} instead of {theirs.log}"
    return ""


def compare(ours: Any, theirs: Any, program: list[Call]) -> str:
    """Carry out a program with two libraries. Returns the first difference, or nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        worlds = World(ours), World(theirs)
        for number, call in enumerate(program):
            for t in worlds[1].tensors:
                # torch takes a view for a leaf when its base came to require grad, until its record is read.
                attempt(lambda t=t: t.grad_fn)
            found, expected = (carry_out(w, call) for w in worlds)
            if forgiven(found, expected) or laid_out_otherwise(*worlds):
                break
            if found != expected:
                return f"step {number}: {found} instead of {expected}"
            last = number == len(program) - 1
            difference = differences(*worlds, look=last or call.step == "look")
            if difference:
                return f"after step {number}: {difference}"
            largest = max(float(t.detach().abs().max()) for t in worlds[1].tensors)
            if not largest < HUGE:
                break
    return ""


def shrunk(ours: Any, theirs: Any, program: list[Call]) -> list[Call]:
    """A shorter program with a difference. The places of tensors are not shifted: they are modulo their number."""
    changed = True
    while changed:
        changed = False
        for size in (4, 2, 1):
            start = 0
            while start < len(program):
                shorter = program[:start] + program[start + size :]
                if compare(ours, theirs, shorter):
                    program, changed = shorter, True
                else:
                    start += 1
        for number, call in enumerate(program):
            for simpler in (
                call._replace(mode=""),
                call._replace(number=0),
                *(call._replace(second=place) for place in range(min(3, call.second))),
                *(call._replace(first=place) for place in range(call.first)),
            ):
                if simpler != program[number]:
                    candidate = [*program[:number], simpler, *program[number + 1 :]]
                    if compare(ours, theirs, candidate):
                        program, changed = candidate, True
                        break
    return program
