# ruff: noqa: E501
"""Random programs for the compile contract: Python source made from a grammar, run plainly and compiled.

A program is two pieces of source: a function ``f(x, y, n, k)``, and a list of calls of it with everything that a
user may do in between. Both are grown statement by statement while they run in a scratch world, so that most
statements are valid; a few that raise are kept. Then :func:`compare` runs the program in two more worlds, which
differ in nothing but ``tg.compile``, and compares after each call all that can be seen.

    python tests/compile/random_functions.py --seeds 0:1000 --backend native

Start reading at :func:`make_program`.
"""

from __future__ import annotations

import argparse
import linecache
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import tracegrad as tg
from tracegrad import pytree

SETUP = """
import tracegrad as tg
class Thing: pass
def make_world(seed):
    tg.manual_seed(seed)
    draw = tg.Generator().manual_seed(seed + 1)
    world = Thing()
    world.draw = draw
    world.w = tg.randn(3, 4, generator=draw, dtype=tg.float64).requires_grad_()
    world.v = tg.randn(4, generator=draw, dtype=tg.float64).requires_grad_()
    world.s = tg.randn((), generator=draw, dtype=tg.float64).requires_grad_()
    world.b = tg.zeros(3, 4, dtype=tg.float64)
    world.c = tg.zeros(4)
    world.i = tg.tensor([2, 0, -1])
    world.scale = 1.5
    world.flag = True
    world.ks = [1.0, 2.0, 0.5]
    world.config = {"a": 0.5, "b": world.v}
    world.count = 0
    world.kept = []
    return world
def helper(t):
    return t * RATE + world.scale
RATE = 0.25
"""
TENSORS = ("w", "v", "s", "b", "c", "i")
_UNARY = "sin cos tanh sigmoid relu abs neg square erf atan".split()


class Program(NamedTuple):
    """A function and the calls of it, as source."""

    seed: int
    function: str
    calls: list[str]

    def __str__(self) -> str:
        return self.function + "".join(f"\n# call {n}\n{text}" for n, text in enumerate(self.calls))


class _World:
    """A namespace in which a program runs."""

    def __init__(self, name: str, seed: int) -> None:
        self.names: dict[str, Any] = {"__name__": name}
        exec(compile(SETUP, "<setup>", "exec"), self.names)
        self.names["world"] = self.names["make_world"](seed)

    def run(self, source: str, filename: str) -> None:
        exec(compile(source, filename, "exec"), self.names)


class _Grower:
    """Grows the body of a function, statement by statement, in a scratch world."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = _World("scratch", seed)
        self.names = self.world.names
        self.count = 0
        self.size = 0

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def pick(self, *options: str) -> str:
        return self.random.choice(options)

    # What there is.

    def tensors(self, want: Callable[[tg.Tensor], bool] = lambda t: True) -> list[str]:
        """Expressions of tensors that can be used."""
        local = [
            name
            for name, value in self.names.items()
            if isinstance(value, tg.Tensor) and not name.startswith("_")
        ]
        outside = [f"world.{name}" for name in TENSORS] + ['world.config["b"]']
        found = [e for e in local + local + outside if want(eval(e, self.names))]
        return found or local

    def any(self) -> str:
        return self.random.choice(self.tensors())

    def floating(self) -> str:
        return self.random.choice(self.tensors(lambda t: t.is_floating_point()))

    def own(self) -> str:
        """A tensor made inside."""
        return self.random.choice(
            [n for n in self.names if n[0] == "t" and n[1:].isdigit()] or ["x"]
        )

    def new(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def number(self) -> str:
        return self.pick(
            "0.5", "2", "-1.5", "k", "world.scale", "RATE", 'world.config["a"]', "world.ks[1]", "len(world.ks)",
            "sum(world.ks)", "float(n)", "(1 if world.flag else 3)", "world.s.item()",
        )  # fmt: skip

    # Expressions.

    def expression(self) -> str:
        a, b = self.floating(), self.floating()
        match self.random.randrange(26):
            case 0 | 1 | 2:
                return f"{a}.{self.random.choice(_UNARY)}()"
            case 3:
                return self.pick(
                    f"({a}.abs() + 0.5).log()", f"({a}.abs() + 0.1).sqrt()", f"({a} * 0.1).exp()"
                )
            case 4 | 5 | 6:
                return f"{a} {self.pick('+', '-', '*')} {b}"
            case 7:
                return f"{a} / ({b}.abs() + 1)"
            case 8 | 9:
                return f"{a} {self.pick('+', '-', '*', '/')} {self.number()}"
            case 10:
                return f"{self.number()} {self.pick('+', '-', '*')} {a}"
            case 11:
                return f"tg.{self.pick('maximum', 'minimum', 'atan2')}({a}, {b})"
            case 12:
                return f"tg.where({a} > {self.number()}, {a}, {a} * 2)"
            case 13:
                dim = self.pick("", "0", "-1", "0, keepdim=True")
                return f"{a}.{self.pick('sum', 'mean', 'sum', 'amax')}({dim})"
            case 14:
                return f"{a} @ {b}"
            case 15:
                return self.pick(
                    f"{a}.reshape(-1)", f"{a}.t()", f"{a}.unsqueeze(0)", f"{a}.squeeze()", f"{a}.flip(0)",
                    f"{a}.expand(2, *{a}.shape)", f"{a}.transpose(0, -1)", f"{a}.contiguous()", f"{a}.flatten()",
                )  # fmt: skip
            case 16:
                return f"tg.{self.pick('cat', 'stack')}([{a}, {self.pick(a, b)}])"
            case 17 | 18:
                return f"{a}[{self.index()}]"
            case 19:
                return self.pick(
                    f"{a}.detach()", f"{a}.clone()", f"{a}.detach().clone()", f"{a}.data"
                )
            case 20:
                return self.pick(
                    f"{a}.double()",
                    f"{a}.float()",
                    f"({a} > 0).to(tg.float64)",
                    f"{a}.to({b}.dtype)",
                )
            case 21:
                return f"helper({a})"
            case 22:
                return f"tg.{self.pick('rand', 'randn')}(({self.pick('4,', '3, 4', '')})) * {a}"
            case 23:
                return f"{a} ** {self.pick('2', '3', '2.0')}"
            case 24:
                return self.pick(
                    f"tg.zeros(4) + {a}", f"tg.ones_like({a}) * {b}", f"tg.tensor([1.0, 2.0, world.scale, k]) * {a}",
                    f"tg.full((4,), k) + {a}", f"tg.arange(4) * {a}",
                )  # fmt: skip
            case _:
                return f"{a}.{self.pick('softmax(-1)', 'cumsum(0)', 'norm()', 'clamp(-1, 1)', 'var()')}"

    def index(self) -> str:
        return self.pick(
            "0", "-1", "1:", "::2", "..., 0", "..., 1:", "None", "world.i", "0, 1", "world.i, 0", ":, world.i", "int(n)",
            "n", "world.i % 2", "tg.tensor([0, 1])", "2",
        )  # fmt: skip

    def condition(self) -> str:
        a = self.floating()
        return self.pick(
            f"{a}.sum() > {self.number()}", f"{a}.mean() < 0.1", "world.flag", "k > 1", "n > 1", f"bool((n + {a}.sum() > 0).any())",
            f"{a}.requires_grad", f"{a}.is_contiguous()", "world.w.grad is None", "len(world.ks) > 3", f"{a}.shape[-1:] == (4,)",
        )  # fmt: skip

    # Statements: lines of source.

    def statement(self, depth: int = 0) -> list[str]:
        choice = self.random.random()
        if choice < 0.5:
            return [f"{self.new()} = {self.expression()}"]
        if choice < 0.62:
            return [self.in_place()]
        if choice < 0.66:
            return [
                f"{self.any()}[{self.index()}] = {self.pick(self.number(), self.floating(), self.floating())}"
            ]
        if depth < 2:
            if choice < 0.71:
                return ["with tg.no_grad():", *self.block(depth)]
            if choice < 0.76:
                lines = [f"if {self.condition()}:", *self.block(depth, same=True)]
                return lines + (
                    ["else:", *self.block(depth, same=True)] if self.chance(0.5) else []
                )
            if choice < 0.78:
                return [
                    f"for j in range({self.pick('2', '3', 'int(n)', 'len(world.ks)')}):",
                    *self.block(depth, same=True),
                ]
            if choice < 0.80:
                return [
                    "try:",
                    *self.block(depth),
                    "except (IndexError, RuntimeError, TypeError):",
                    "    caught = 1",
                ]
        if choice < 0.90:
            return self.differentiation()
        if choice < 0.93:
            t = self.floating()
            return [
                f"h{self.new()} = {t}.{self.pick('sum().item()', 'shape[-1]', 'numel()')} if {t}.numel() else 0"
            ]
        if choice < 0.945:
            return [
                self.pick(
                    "world.count += 1",
                    "world.ks.append(1.0)",
                    f"world.last = {self.any()}",
                    "world.kept.append(x)",
                    "world.ks[0] = 3.0",
                )
            ]
        own = self.own()
        return [
            f"{own} = {self.pick(f'{own} * 2', f'{own}.tanh()', f'{own} + {self.floating()}', self.expression())}"
        ]

    def block(self, depth: int, same: bool = False) -> list[str]:
        """An indented block; with `same`, whether it runs or not must not decide which names there are."""
        lines: list[str] = []
        for _ in range(self.random.randint(1, 2)):
            if same:
                own = self.own()
                options = [
                    f"{own} = {own}.{self.random.choice(_UNARY)}()",
                    f"{own} = {own} * {self.number()}",
                    self.in_place(),
                ]
                lines.append(self.random.choice(options))
            else:
                lines += self.statement(depth + 1)
        return [f"    {line}" for line in lines]

    def in_place(self) -> str:
        target = self.pick(
            self.own(), self.own(), self.own(), "x", "world.b", "world.c", self.any()
        )
        other = self.floating()
        return self.pick(
            f"{target}.add_({other})", f"{target}.mul_({self.number()})", f"{target}.{self.pick('sin_', 'tanh_', 'zero_')}()",
            f"{target}.copy_({other})", f"{target} += {other}", f"{target}[0].mul_(2)", f"{target}.view(-1)[1:].add_(1)",
            f"{target}.detach().mul_(0.5)", f"{target}.clamp_(-2, 2)", f"{target}.fill_({self.number()})",
            f"{target}.sub_({other}, alpha=0.1)", f"{target}.t().mul_(0.5)", f"{target}.data.add_(0.5)",
        )  # fmt: skip

    def differentiation(self) -> list[str]:
        t = self.random.choice(self.tensors(lambda t: t.requires_grad))
        p = f"world.{self.pick('w', 'v', 's')}"
        loss = self.pick(f"({t} * {t}).sum()", f"{t}.tanh().sum()", f"{t}.mean()")
        match self.random.randrange(9):
            case 0 | 1:
                return [
                    f"l{self.count} = {loss}",
                    f"l{self.count}.backward({self.pick('', 'retain_graph=True')})",
                ]
            case 2:
                return ["world.w.grad = world.v.grad = world.s.grad = None"]
            case 3:
                graph = self.pick("", ", create_graph=True", ", retain_graph=True")
                name = self.new()
                return [
                    f"{name} = tg.autograd.grad({loss}, {p}, allow_unused=True{graph})[0]",
                    f"if {name} is None: {name} = tg.zeros(4)",
                ]
            case 4:
                return [
                    f"if {p}.grad is not None:",
                    "    with tg.no_grad():",
                    f"        {p}.sub_({p}.grad * 0.1)",
                ]
            case 5:
                return [
                    f"if {p}.grad is not None: {p}.grad.{self.pick('zero_()', 'mul_(0.5)', 'clamp_(-1, 1)')}"
                ]
            case 6:
                return [f"if {p}.grad is not None: {self.new()} = {p}.grad * 2"]
            case 7:
                return [f"{self.new()} = {p}.{self.pick('detach()', 'data', 'clone()')}"]
            case _:
                return [
                    f"{self.own()}.{self.pick('requires_grad_()', 'retain_grad()', 'detach_()')}"
                ]

    def result(self) -> str:
        def item() -> str:
            return self.pick(
                self.own(), self.own(), self.own(), self.any(), "x", "world.w", "world.w.grad", "k", "None", "'text'",
                f"{self.floating()}.sum()", "x.shape", f"{self.own()}.detach()", "world.count",
            )  # fmt: skip

        match self.random.randrange(5):
            case 0:
                return f"{self.own()}.sum()"
            case 1:
                return item()
            case 2:
                return f"({item()}, {item()})"
            case 3:
                return f"{{'a': {item()}, 'b': [{item()}, {item()}]}}"
            case _:
                return f"{item()}, {item()}, {item()}"


def _arguments(grower: _Grower) -> str:
    """Statements that make the arguments of a call."""
    shape = "3, 4" if grower.chance(0.85) else grower.pick("4,", "2, 4", "0, 4", "")
    x = f"tg.randn(({shape}), generator=world.draw, dtype=tg.{'float64' if grower.chance(0.9) else 'float32'})"
    if shape == "3, 4" and grower.chance(0.2):
        x = grower.pick(
            "tg.randn(4, 3, generator=world.draw, dtype=tg.float64).t()",
            "tg.randn(3, 8, generator=world.draw, dtype=tg.float64)[:, ::2]",
            "tg.randn(5, 4, generator=world.draw, dtype=tg.float64)[1:4]",
        )
    lines = [f"x = {x}"]
    if grower.chance(0.2):
        lines.append("x.requires_grad_()")
    elif grower.chance(0.1):
        lines.append("x = x * world.s")
    y = "tg.randn(4, generator=world.draw, dtype=tg.float64)"
    if grower.chance(0.3):
        y = grower.pick(
            "x",
            "world.v",
            "world.v",
            "world.b",
            "x[0] if x.ndim == 2 and len(x) else x",
            "world.w[0]",
        )
    lines.append(f"y = {y}")
    lines.append(f"n = tg.tensor({grower.pick('1', '1', '2', '0')})")
    lines.append(f"k = {grower.pick('0.5', '0.5', '2', '1.5', 'True')}")
    return "\n".join(lines)


_CHANGES = (
    "world.scale = 2.5", "world.scale = 1.5", "RATE = 0.75", "RATE = 0.25", "world.flag = not world.flag",
    "world.ks[1] += 1", "world.ks.append(3.0)", "world.config['a'] = 1.25", "world.config['b'] = world.w[0].detach().clone()",
    "world.w.grad = None", "world.w.grad = tg.ones(3, 4, dtype=tg.float64)", "world.v.grad = world.v.detach() * 2",
    "with tg.no_grad(): world.w.mul_(0.5)", "world.b.add_(1)", "world.b[0, 1] = 7", "world.v.data = world.v.data * 2",
    "world.w = (world.w.detach() * 0.5).requires_grad_()", "world.w.requires_grad_(not world.w.requires_grad)",
    "world.b = tg.ones(3, 4, dtype=tg.float64)", "world.i[0] = 1", "world.c = world.c.double() if world.c.dtype is tg.float32 else world.c.float()",
    "world.v.register_hook(lambda g: g * 2)", "helper = lambda t: t - world.scale", "world.v.requires_grad_(False)",
    "world.w.grad = world.w.detach()", "world.b = world.w.detach()", "world.s.data.mul_(0.5)",
    "world.kept.clear()", "world.w.grad = None; world.v.grad = None; world.s.grad = None",
)  # fmt: skip


_BACKWARDS = (
    "total(result).backward()", "total(result).backward()", "first(result).sum().backward()",
    "total(result).backward(retain_graph=True); total(result).backward()",
    "seen.append(tg.autograd.grad(total(result), world.w, allow_unused=True))",
    "first(result).sum().backward(); total(result).backward()",
    "f(x, y, n, k); total(result).backward()",
)  # fmt: skip
_TWICE = (
    "seen.append(tg.autograd.grad(tg.autograd.grad(total(result), world.w, create_graph=True)[0].sum(), world.w, "
    "allow_unused=True))",
    "total(result).backward(create_graph=True); seen.append(world.v.grad)",
)  # fmt: skip


def _call(grower: _Grower, position: int, arguments: list[str]) -> str:
    lines = []
    for _ in range(grower.random.choice([0, 0, 1, 1, 2]) if position else 0):
        lines.append(grower.random.choice(_CHANGES))
    same = position and grower.chance(0.7)
    lines.append(arguments[0] if same else grower.random.choice(arguments))
    lines.append("before = [x._version, y._version]")
    mode = grower.chance(0.1)
    if mode:
        lines.append("with tg.no_grad(): result = f(x, y, n, k)")
    else:
        lines.append("result = f(x, y, n, k)")
    lines.append("seen = [x, y, x.grad if x.is_leaf else None]")
    if grower.chance(0.6):
        changed = grower.chance(0.25)
        if changed:
            lines.append(
                grower.pick(
                    "x.detach().add_(1)",
                    "world.b.mul_(2)",
                    "x.data.mul_(2)",
                    "y.detach().mul_(0.5)",
                    "world.v.detach().mul_(0.9)",
                    "first(result).detach().mul_(2)",
                    "world.i[1] = 1",
                )
            )
        ways = [*_BACKWARDS]
        if not changed:
            # Differentiating twice after an in-place change of an input raises more often than in eager execution.
            ways += _TWICE
        lines.append(grower.random.choice(ways))
    if grower.chance(0.3):
        lines.append("for t in tensors_in(result): t.detach().add_(1)")
    return "\n".join(lines)


def tensors_in(value: Any) -> list[tg.Tensor]:
    """The tensors in a result."""
    return [leaf for leaf in pytree.flatten(value)[0] if isinstance(leaf, tg.Tensor)]


def total(value: Any) -> tg.Tensor:
    """The sum of everything in a result that can be differentiated."""
    parts = [t.double().sum() for t in tensors_in(value) if t.requires_grad]
    return sum(parts) if parts else tg.zeros((), requires_grad=True)


def first(value: Any) -> Any:
    """The first differentiable tensor of a result, or the first at all."""
    tensors = tensors_in(value)
    return next((t for t in tensors if t.requires_grad), tensors[0] if tensors else None)


HELPERS = {"tensors_in": tensors_in, "total": total, "first": first}


def make_program(seed: int) -> Program:
    """A random program; the same for the same seed."""
    grower = _Grower(seed)
    arguments = [_arguments(grower) for _ in range(3)]
    names = grower.names
    names.update(HELPERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(arguments[0], names)
        body: list[str] = ["t0 = x * 1.5"]
        exec("t0 = x * 1.5", names)
        for _ in range(grower.random.randint(3, 12)):
            for _ in range(12):
                lines = grower.statement()
                try:
                    exec("\n".join(lines), names)
                    values = [v for v in names.values() if isinstance(v, tg.Tensor)]
                    if any(v.numel() > 400 for v in values):
                        raise ValueError("too large")
                except Exception:
                    if not grower.chance(0.01):
                        continue
                body += lines
                break
    source = (
        "def f(x, y, n, k):\n"
        + "\n".join(f"    {line}" for line in body)
        + f"\n    return {grower.result()}\n"
    )
    calls = [_call(grower, position, arguments) for position in range(7)]
    return Program(seed, source, calls)


class Run(NamedTuple):
    """What was seen in one world: per call the outcome and the state after it."""

    seen: list[Any]
    functions: list[Any]


def run(program: Program, compile_function: Callable[[Any], Any] | None) -> Run:
    """Run a program in a world of its own.

    Args:
        compile_function: wraps the function; None runs it plainly.
    """
    name = f"<fuzz {program.seed}>"
    linecache.cache[name] = (len(program.function), None, program.function.splitlines(True), name)
    world = _World("fuzz", program.seed)
    names = world.names
    names.update(HELPERS)
    world.run(program.function, name)
    functions = []
    if compile_function is not None:
        names["f"] = compile_function(names["f"])
        functions.append(names["f"])
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for position, text in enumerate(program.calls):
            names["result"] = names["seen"] = None
            error = None
            try:
                exec(compile(text, f"<call {position}>", "exec"), names)
            except Exception as raised:
                error = type(raised).__name__, _message(raised)
            seen.append(copy_of((error, names["result"], names["seen"], *_state(names["world"]))))
    return Run(seen, functions)


def _message(error: Exception) -> str:
    return str(error)


def _state(world: Any) -> Iterator[Any]:
    for name in TENSORS:
        t = getattr(world, name)
        yield t, t._version, t.grad, None if t.grad is None else t.grad._version
    yield (
        world.scale,
        list(world.ks),
        world.count,
        len(world.kept),
        sorted(world.__dict__),
        getattr(world, "last", None),
    )


class Seen(NamedTuple):
    """What can be seen of a tensor."""

    array: np.ndarray
    dtype: Any
    requires_grad: bool
    is_leaf: bool
    version: int
    contiguous: bool


def copy_of(value: Any) -> Any:
    """A copy that later calls do not change."""

    def copied(leaf: Any) -> Any:
        if not isinstance(leaf, tg.Tensor):
            return (
                leaf
                if isinstance(leaf, (int, float, str, bool, type(None), tuple))
                else repr(type(leaf))
            )
        array = leaf.detach().numpy().copy()
        return Seen(
            array, leaf.dtype, leaf.requires_grad, leaf.is_leaf, leaf._version, leaf.is_contiguous()
        )

    return pytree.map_leaves(copied, value)


def difference(a: Any, b: Any) -> str | None:
    """The first difference between two copies, or None."""
    if isinstance(a, Seen) and isinstance(b, Seen):
        # A slice of a temporary array may become an array of its own.
        if a[1:-1] != b[1:-1] or (b.contiguous and not a.contiguous):
            return f"{a[1:]} instead of {b[1:]}"
        if a.array.shape != b.array.shape:
            return f"shape {a.array.shape} instead of {b.array.shape}"
        close = 1e-6 if a.array.dtype == np.float64 else 2e-3
        if not np.allclose(a.array, b.array, rtol=close, atol=close, equal_nan=True):
            return f"{a.array}\ninstead of\n{b.array}"
        return None
    if type(a) is not type(b):
        return f"{a!r} instead of {b!r}"
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return f"{a!r} instead of {b!r}"
        parts = zip(a, b, strict=True)
        return next(
            (f"[{n}] {d}" for n, (x, y) in enumerate(parts) if (d := difference(x, y))), None
        )
    if isinstance(a, dict):
        return difference(list(a.items()), list(b.items()))
    if isinstance(a, float):
        return (
            None
            if np.isclose(a, b, rtol=1e-6, atol=1e-9, equal_nan=True)
            else f"{a!r} instead of {b!r}"
        )
    return None if a == b else f"{a!r} instead of {b!r}"


def compare(program: Program, backend: str) -> tuple[str | None, Any]:
    """Run a program plainly and compiled.

    Returns:
        The first difference (None if there is none), and the compiled function.
    """
    plain = run(program, None)
    compiled = run(program, lambda f: tg.compile(f, backend=backend))
    function = compiled.functions[0]
    for position, (a, b) in enumerate(zip(compiled.seen, plain.seen, strict=True)):
        found = difference(a, b)
        if found:
            return f"call {position}: {found}", function
    internal = [reason for reason, _ in function.refusals if "internal error" in reason]
    return (internal[0] if internal else None), function


def shrink(program: Program, backend: str) -> Program:
    """A shorter program that still shows a difference: lines are left out one by one."""

    def differs(candidate: Program) -> bool:
        try:
            plain = run(candidate, None)
            return compare(candidate, backend)[0] is not None and bool(plain.seen)
        except Exception:
            return False

    def without_one(lines: list[str], keep: int) -> Iterator[list[str]]:
        for n in reversed(range(keep, len(lines))):
            yield lines[:n] + lines[n + 1 :]

    shorter = True
    while shorter:
        shorter = False
        candidates = [program._replace(calls=calls) for calls in without_one(program.calls, 0)]
        for lines in without_one(program.function.splitlines(), 1):
            candidates.append(program._replace(function="\n".join(lines) + "\n"))
        for n, text in enumerate(program.calls):
            for lines in without_one(text.splitlines(), 0):
                calls = [*program.calls[:n], "\n".join(lines), *program.calls[n + 1 :]]
                candidates.append(program._replace(calls=calls))
        for candidate in candidates:
            if differs(candidate):
                program, shorter = candidate, True
                break
    return program


def main() -> None:
    """Hunt for differences."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", default="0:200", help="first:last")
    parser.add_argument("--backend", default="native", choices=["native", "interpreter"])
    parser.add_argument("--shrink", action="store_true", help="print what is left of a program")
    options = parser.parse_args()
    low, high = map(int, options.seeds.split(":"))
    native = calls = broken = raised = 0
    refusals: dict[str, int] = {}
    begin = time.perf_counter()
    for seed in range(low, high):
        program = make_program(seed)
        found, function = compare(program, options.backend)
        native += function.stats.native + function.stats.interpreted
        raised += sum(1 for outcome in run(program, None).seen if outcome[0])
        calls += function.stats.calls
        for reason in {reason for reason, _ in function.refusals}:
            refusals[reason] = refusals.get(reason, 0) + 1
        if found:
            broken += 1
            print(f"=== seed {seed}: {found}")
            if options.shrink:
                short = shrink(program, options.backend)
                found, function = compare(short, options.backend)
                print(short, found, function.explain(), sep="\n\n")
            sys.stdout.flush()
    for reason, count in sorted(refusals.items(), key=lambda item: -item[1]):
        print(f"{count:5d}  {reason}")
    seconds = time.perf_counter() - begin
    print(
        f"{high - low} programs, {calls} calls, {native} not eager, {raised} raised, {broken} broken, {seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
