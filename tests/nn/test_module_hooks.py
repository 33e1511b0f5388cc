"""Hooks of all modules, and those of one beside them: programs run with torch as well, which must agree."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

Program = Callable[[Any, list[Any]], Any]
PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


def leaf(m: Any) -> Any:
    return m.tensor([1.0, 2.0], dtype=m.float64, requires_grad=True)


def module(m: Any, function: Callable[..., Any]) -> Any:
    class Calling(m.nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

    return Calling()


def plain(value: Any) -> Any:
    if isinstance(value, (tg.Tensor, torch.Tensor)):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [plain(item) for item in value]
    return value


def everywhere(m: Any) -> Any:
    return m.nn.modules.module


@contextmanager
def undone(m: Any) -> Iterator[None]:
    """Forget, as no user can, whether hooks of all modules were full ones."""
    yield
    if m is torch:
        torch.nn.modules.module._global_is_full_backward_hook = None
    else:
        tg.nn.module_hooks._full[0] = None


def outcome(m: Any, run: Program) -> Any:
    log: list[Any] = []
    with warnings.catch_warnings(record=True) as caught, undone(m):
        warnings.simplefilter("always")
        try:
            result = plain(run(m, log))
        except Exception as error:
            result = type(error).__name__, str(error)
    return result, plain(log), [(w.category.__name__, str(w.message)) for w in caught]


def hooking(kind: str, reply: str, log: list[Any], name: str) -> Callable[..., Any]:
    def hook(mod: Any, *args: Any) -> Any:
        log.append((kind, name, type(mod).__name__, *args))
        if reply == "look":
            return None
        if reply == "replace":
            return _doubled(args[0] if "backward" in kind or kind == "forward_pre" else args[-1])
        raise ValueError(f"in {kind}")

    return hook


def _doubled(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_doubled(x) for x in value)
    return None if value is None else value * 2


GLOBAL = {
    "forward_pre": "register_module_forward_pre_hook",
    "forward": "register_module_forward_hook",
    "full_backward_pre": "register_module_full_backward_pre_hook",
    "full_backward": "register_module_full_backward_hook",
    "backward": "register_module_backward_hook",
}


def _beside_own(kind: str, replies: tuple[str, str]) -> Program:
    def run(m: Any, log: list[Any]) -> Any:
        mod = module(m, lambda a: a * a)
        getattr(mod, f"register_{kind}_hook")(hooking(kind, replies[1], log, "own"))
        handle = getattr(everywhere(m), GLOBAL[kind])(hooking(kind, replies[0], log, "all"))
        try:
            x = leaf(m)
            out = mod(x)
            out.sum().backward()
            log.append((out, x.grad))
        finally:
            handle.remove()
        x = leaf(m)
        mod(x).sum().backward()
        return x.grad

    return run


PROGRAMS.update(
    {
        f"{kind}: {', '.join(replies)}": _beside_own(kind, replies)
        for kind in GLOBAL
        for replies in itertools.product(("look", "replace", "raise"), repeat=2)
    }
)


@program
def order_of_all_kinds(m: Any, log: list[Any]) -> None:
    inner = module(m, lambda a: a * 3)
    outer = module(m, lambda a: inner(a) + a)
    handles = []
    for name in "ab":
        for kind in ("forward_pre", "forward", "full_backward_pre", "full_backward"):
            register = getattr(everywhere(m), GLOBAL[kind])
            handles.append(register(hooking(kind, "look", log, name)))
            own = getattr(outer, f"register_{kind}_hook")
            own(hooking(kind, "look", log, "own " + name), prepend=name == "b")
    outer(leaf(m)).sum().backward()
    for handle in handles:
        handle.remove()
    log.append("removed")
    outer(leaf(m)).sum().backward()


@program
def handles(m: Any, log: list[Any]) -> Any:
    mod = module(m, lambda a: a * 3)
    with everywhere(m).register_module_forward_hook(hooking("forward", "look", log, "a")):
        first = everywhere(m).register_module_forward_hook(hooking("forward", "replace", log, "b"))
        mod(leaf(m))
        first.remove()
        first.remove()
        mod(leaf(m))
    return mod(leaf(m))


@program
def keyword_arguments(m: Any, log: list[Any]) -> Any:
    mod = module(m, lambda a, *, scale: a * scale)
    register = everywhere(m).register_module_forward_hook
    with (
        register(hooking("forward", "look", log, "without")),
        register(hooking("forward", "replace", log, "with"), with_kwargs=True),
        everywhere(m).register_module_forward_pre_hook(hooking("pre", "look", log, "pre")),
    ):
        return mod(leaf(m), scale=3)


@program
def always_called(m: Any, log: list[Any]) -> Any:
    mod = module(m, lambda a: [][0])
    register = everywhere(m).register_module_forward_hook
    mod.register_forward_hook(hooking("forward", "look", log, "own"), always_call=True)
    with (
        register(hooking("forward", "look", log, "a"), always_call=True),
        register(hooking("forward", "raise", log, "b"), always_call=True),
        register(hooking("forward", "look", log, "never")),
    ):
        mod(leaf(m))


@program
def always_called_when_a_hook_fails(m: Any, log: list[Any]) -> Any:
    mod = module(m, lambda a: a * 2)
    mod.register_forward_hook(hooking("forward", "look", log, "before"), always_call=True)
    mod.register_forward_hook(hooking("forward", "raise", log, "failing"), always_call=True)
    mod.register_forward_hook(hooking("forward", "look", log, "after"), always_call=True)
    mod(leaf(m))


@program
def always_called_when_a_pre_hook_fails(m: Any, log: list[Any]) -> Any:
    mod = module(m, lambda a: a * 2)
    mod.register_forward_pre_hook(hooking("forward_pre", "replace", log, "doubling"))
    mod.register_forward_pre_hook(hooking("forward_pre", "raise", log, "failing"))
    mod.register_forward_hook(hooking("forward", "look", log, "always"), always_call=True)
    mod(leaf(m))


@program
def always_called_with_keyword_arguments(m: Any, log: list[Any]) -> Any:
    mod = module(m, lambda a, *, scale: [][scale])
    hook = hooking("forward", "look", log, "own")
    mod.register_forward_hook(hook, always_call=True, with_kwargs=True)
    mod(leaf(m), scale=3)


@program
def hooks_that_register_hooks(m: Any, log: list[Any]) -> Any:
    mod = module(m, lambda a: a * 2)

    def pre(mod: Any, args: Any) -> None:
        mod.register_full_backward_hook(hooking("full_backward", "look", log, "late"))
        mod.register_forward_hook(hooking("forward", "look", log, "late"))

    mod.register_forward_pre_hook(pre)
    mod(leaf(m)).sum().backward()


@program
def what_pre_hooks_return(m: Any, log: list[Any]) -> Any:
    for reply in ((leaf(m), leaf(m)), leaf(m), [leaf(m)], 3):
        mod = module(m, lambda *args: len(args))
        mod.register_forward_pre_hook(lambda mod, args, reply=reply: reply)
        log.append(mod(leaf(m)))
    mod = module(m, lambda *args: args)
    mod.register_forward_pre_hook(lambda mod, args, kwargs: 3, with_kwargs=True)
    mod(leaf(m))


@program
def both_kinds(m: Any, log: list[Any]) -> None:
    with everywhere(m).register_module_backward_hook(print):
        everywhere(m).register_module_full_backward_hook(print)


@program
def both_kinds_the_other_way_round(m: Any, log: list[Any]) -> None:
    everywhere(m).register_module_full_backward_hook(print).remove()
    everywhere(m).register_module_backward_hook(print)


@program
def legacy_beside_full(m: Any, log: list[Any]) -> Any:
    mod = module(m, lambda a, b: a * b)
    mod.register_full_backward_hook(hooking("full_backward", "look", log, "own"))
    with everywhere(m).register_module_backward_hook(hooking("backward", "look", log, "all")):
        x, y = leaf(m), leaf(m)
        mod(x, y).sum().backward()
    return x.grad, y.grad


@program
def registrations(m: Any, log: list[Any]) -> Any:
    def watching(kind: str) -> Callable[..., Any]:
        def hook(mod: Any, name: str, value: Any) -> None:
            shown = type(value).__name__ if value is not None else None
            log.append((kind, type(mod).__name__, name, shown, name in mod._buffers))

        return hook

    with (
        everywhere(m).register_module_buffer_registration_hook(watching("buffer")),
        everywhere(m).register_module_module_registration_hook(watching("module")),
        everywhere(m).register_module_parameter_registration_hook(watching("parameter")),
    ):
        mod = m.nn.Module()
        mod.a = m.nn.Parameter(m.ones(2))
        mod.a = None
        mod.register_parameter("b", None)
        mod.register_parameter("c", m.nn.Parameter(m.ones(2)))
        mod.register_buffer("d", m.ones(2))
        mod.register_buffer("n", None)
        mod.d = m.zeros(2)
        mod.d = None
        mod.e = m.nn.Linear(2, 2, bias=False)
        mod.e = None
        mod.add_module("f", m.nn.Sequential(m.nn.Linear(1, 1), m.nn.Tanh()))
        mod.register_module("g", None)
        m.nn.ModuleDict({"k": m.nn.Tanh()})
        m.nn.ModuleList([m.nn.Tanh()]).append(m.nn.Tanh())
        m.nn.ParameterList([m.nn.Parameter(m.ones(1))])
    mod.h = m.nn.Parameter(m.ones(2))


@program
def registrations_that_replace(m: Any, log: list[Any]) -> Any:
    other = m.nn.Tanh()
    mod = m.nn.Module()
    with (
        everywhere(m).register_module_buffer_registration_hook(lambda mod, name, x: x + 1),
        everywhere(m).register_module_module_registration_hook(lambda mod, name, x: other),
        everywhere(m).register_module_parameter_registration_hook(
            lambda mod, name, x: m.nn.Parameter(x.detach() * 3)
        ),
    ):
        mod.register_buffer("a", m.ones(2))
        mod.b = m.nn.Sigmoid()
        mod.add_module("c", m.nn.Sigmoid())
        mod.d = m.nn.Parameter(m.ones(2))
    return mod.a, mod.b is other, mod.c is other, mod.d, repr(mod)


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_torch(name: str) -> None:
    assert outcome(tg, PROGRAMS[name]) == outcome(torch, PROGRAMS[name])


def test_keyword_arguments_of_a_hook_that_is_always_called() -> None:
    """torch calls such a hook of all modules without its keyword arguments, and warns that it failed."""
    seen: list[Any] = []
    hook = tg.nn.modules.module.register_module_forward_hook(
        lambda *args: seen.append(args[2]), with_kwargs=True, always_call=True
    )
    with hook, pytest.raises(IndexError):
        module(tg, lambda a, *, scale: [][scale])(leaf(tg), scale=3)
    assert seen == [{"scale": 3}]


def test_a_compiled_function_under_hooks_of_all_modules() -> None:
    """They run however late they come and whatever was compiled before, and not any more when they are removed."""
    mod = module(tg, lambda a: a * a)
    compiled = tg.compile(lambda a: mod(a) + 1)
    seen: list[Any] = []
    register = tg.nn.modules.module.register_module_forward_hook

    def doubling(_: Any, args: Any, out: Any) -> Any:
        seen.append(out.tolist())
        return out * 2

    for turn in range(9):
        if turn in (3, 6):
            handle = register(doubling)
        assert compiled(leaf(tg)).tolist() == ([3.0, 9.0] if turn in (3, 4, 6) else [2.0, 5.0])
        if turn in (4, 6):
            handle.remove()
    assert seen == [[1.0, 4.0]] * 3
    assert compiled.stats.native >= 4


def test_a_compiled_function_that_registers_a_hook() -> None:
    mod = module(tg, lambda a: a * a)
    seen: list[int] = []

    @tg.compile
    def run(a: Any) -> Any:
        with tg.nn.modules.module.register_module_forward_pre_hook(lambda *_: seen.append(1)):
            return mod(a)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(5):
            assert run(leaf(tg)).tolist() == [1.0, 4.0]
    assert seen == [1] * 5
