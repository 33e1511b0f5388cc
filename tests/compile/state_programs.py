"""Programs that read or change Python state in every way that we could think of.

See :mod:`programs` for the form. Each changes what it depends on between calls, so that a stale constant shows.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import dataclasses
import enum
import functools
import itertools
import os
import random
import sys
import time
import types
from collections.abc import Callable, Iterator
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import numpy as np
from compile_programs import Compile, World, data, leaf, program

import tracegrad as tg

RATE = 1.0
TABLE = {"scale": 1.0}
THIS_MODULE = sys.modules[__name__]


def helper(x: tg.Tensor) -> tg.Tensor:
    return x * RATE


def doubled(x: tg.Tensor) -> tg.Tensor:
    return x * 2


def tripled(x: tg.Tensor) -> tg.Tensor:
    return x * 3


chosen = doubled


class Plain:
    """An object to hang attributes on."""

    scale = 1.0


# Globals.


@program()
def global_through_a_helper(compile: Compile) -> World:
    global RATE
    RATE = 1.0
    f = compile(lambda x: helper(x))

    def call(turn: int) -> tg.Tensor:
        global RATE
        if turn == 3:
            RATE = 5.0
        result = f(data(3, seed=turn))
        if turn == 8:
            RATE = 1.0
        return result

    return World(call, [])


@program()
def global_function_rebound(compile: Compile) -> World:
    f = compile(lambda x: chosen(x))

    def call(turn: int) -> tg.Tensor:
        global chosen
        chosen = tripled if turn in (3, 4, 5) else doubled
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def global_shadows_a_builtin(compile: Compile) -> World:
    f = compile(lambda x: x * max(1, 2))

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            THIS_MODULE.__dict__["max"] = builtins.min
        result = f(data(3, seed=turn))
        if turn == 8:
            del THIS_MODULE.__dict__["max"]
        return result

    return World(call, [])


@program(native=None)
def globals_by_name(compile: Compile) -> World:
    global RATE
    RATE = 1.0
    f = compile(lambda x: x * globals()["RA" + "TE"])

    def call(turn: int) -> tg.Tensor:
        global RATE
        RATE = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def module_attribute_by_sys_modules(compile: Compile) -> World:
    f = compile(lambda x: x * getattr(sys.modules[__name__], "RA" + "TE"))

    def call(turn: int) -> tg.Tensor:
        global RATE
        RATE = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def attribute_of_a_module(compile: Compile) -> World:
    module = types.ModuleType("settings")
    module.scale = 1.0
    f = compile(lambda x: x * module.scale)

    def call(turn: int) -> tg.Tensor:
        module.scale = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def import_inside(compile: Compile) -> World:
    module = types.ModuleType("tracegrad_test_settings")
    module.scale = 1.0
    sys.modules["tracegrad_test_settings"] = module

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        from tracegrad_test_settings import scale

        return x * scale

    def call(turn: int) -> tg.Tensor:
        sys.modules["tracegrad_test_settings"] = module
        module.scale = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def import_module_inside(compile: Compile) -> World:
    module = types.ModuleType("tracegrad_test_settings")

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        import tracegrad_test_settings as settings

        return x * settings.scale

    def call(turn: int) -> tg.Tensor:
        sys.modules["tracegrad_test_settings"] = module
        module.scale = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


# Closures, defaults, function attributes.


@program()
def closure_of_a_nested_function(compile: Compile) -> World:
    rate = 1.0

    def outer() -> Callable[[tg.Tensor], tg.Tensor]:
        def inner(x: tg.Tensor) -> tg.Tensor:
            return x * rate

        return inner

    inner = outer()

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return inner(x) + outer()(x)

    def call(turn: int) -> tg.Tensor:
        nonlocal rate
        rate = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def default_arguments_replaced(compile: Compile) -> World:
    def scaled(x: tg.Tensor, by: float = 2.0, *, plus: float = 0.0) -> tg.Tensor:
        return x * by + plus

    f = compile(lambda x: scaled(x))

    def call(turn: int) -> tg.Tensor:
        if turn == 2:
            scaled.__defaults__ = (5.0,)
        if turn == 4:
            scaled.__kwdefaults__["plus"] = 1.0
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def own_defaults_replaced(compile: Compile) -> World:
    def scaled(x: tg.Tensor, by: float = 2.0) -> tg.Tensor:
        return x * by

    f = compile(scaled)

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            scaled.__defaults__ = (5.0,)
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def mutable_default(compile: Compile) -> World:
    def scaled(x: tg.Tensor, options: Any = [2.0]) -> tg.Tensor:  # noqa: B006
        return x * options[0]

    f = compile(scaled)

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            scaled.__defaults__[0][0] = 4.0
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def code_replaced(compile: Compile) -> World:
    def scaled(x: tg.Tensor) -> tg.Tensor:
        return x * 2

    f = compile(lambda x: scaled(x))

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            scaled.__code__ = tripled.__code__
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def function_attribute(compile: Compile) -> World:
    def scaled(x: tg.Tensor) -> tg.Tensor:
        return x * scaled.factor

    scaled.factor = 2.0
    f = compile(lambda x: scaled(x))

    def call(turn: int) -> tg.Tensor:
        scaled.factor = 2.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def attribute_of_the_compiled_function(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * f.factor

    def call(turn: int) -> tg.Tensor:
        f.factor = 2.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def partial_object(compile: Compile) -> World:
    options = {"by": 2.0}

    def scaled(x: tg.Tensor, options: dict[str, float], by: float) -> tg.Tensor:
        return x * by * options["by"]

    f = compile(functools.partial(scaled, options=options, by=2.0))

    def call(turn: int) -> tg.Tensor:
        options["by"] = 2.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def partial_keywords_changed(compile: Compile) -> World:
    scaled = functools.partial(lambda x, by: x * by, by=2.0)
    f = compile(lambda x: scaled(x))

    def call(turn: int) -> tg.Tensor:
        scaled.keywords["by"] = 2.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def decorated_helper(compile: Compile) -> World:
    factor = 2.0

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(x: tg.Tensor) -> tg.Tensor:
            return function(x) * factor

        return wrapped

    @decorate
    def inner(x: tg.Tensor) -> tg.Tensor:
        return x + factor

    f = compile(lambda x: inner(x))

    def call(turn: int) -> tg.Tensor:
        nonlocal factor
        factor = 2.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


# Objects.


@program()
def instance_attribute_hides_the_class(compile: Compile) -> World:
    thing = Plain()
    f = compile(lambda x: x * thing.scale)

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            thing.scale = 4.0
        if turn == 6:
            del thing.scale
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def class_attribute_changes(compile: Compile) -> World:
    class Config:
        scale = 1.0

    class Derived(Config):
        pass

    thing = Derived()
    f = compile(lambda x: x * thing.scale * Derived.scale)

    def call(turn: int) -> tg.Tensor:
        if turn == 2:
            Config.scale = 3.0
        if turn == 5:
            Derived.scale = 4.0
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def method_replaced_on_the_class(compile: Compile) -> World:
    class Thing:
        def apply(self, x: tg.Tensor) -> tg.Tensor:
            return x * 2

    thing = Thing()
    f = compile(lambda x: thing.apply(x))

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            Thing.apply = lambda self, x: x * 5
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def method_replaced_on_the_instance(compile: Compile) -> World:
    class Thing:
        def apply(self, x: tg.Tensor) -> tg.Tensor:
            return x * 2

    thing = Thing()
    f = compile(lambda x: thing.apply(x))

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            thing.apply = lambda x: x * 5
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def class_of_an_object_changes(compile: Compile) -> World:
    class One:
        def factor(self) -> float:
            return 2.0

    class Other:
        def factor(self) -> float:
            return 5.0

    thing = One()
    f = compile(lambda x: x * thing.factor())

    def call(turn: int) -> tg.Tensor:
        thing.__class__ = Other if turn in (3, 4, 5) else One
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def bound_method_stored(compile: Compile) -> World:
    class Thing:
        factor = 1.0

        def apply(self, x: tg.Tensor) -> tg.Tensor:
            return x * self.factor

    thing = Thing()
    apply = thing.apply
    f = compile(lambda x: apply(x))

    def call(turn: int) -> tg.Tensor:
        thing.factor = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def special_methods_read_state(compile: Compile) -> World:
    settings = Plain()

    class Scaler:
        def __init__(self) -> None:
            self.initial = settings.scale

        def __getitem__(self, key: int) -> float:
            return settings.scale + key

        def __len__(self) -> int:
            return int(settings.scale)

        def __bool__(self) -> bool:
            return settings.scale > 2

        def __rmul__(self, other: Any) -> Any:
            return other * settings.scale

        def __enter__(self) -> float:
            return settings.scale

        def __exit__(self, *exc: object) -> None:
            pass

        def __iter__(self) -> Iterator[float]:
            yield settings.scale

    scaler = Scaler()

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        with scaler as k:
            x = x + k
        for value in scaler:
            x = x + value
        if scaler:
            x = x - 1
        return x * scaler[1] + len(scaler) + Scaler().initial

    def call(turn: int) -> tg.Tensor:
        settings.scale = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def property_reads_state(compile: Compile) -> World:
    class Thing:
        base = 1.0

        @property
        def factor(self) -> float:
            return self.base * TABLE["scale"]

        @functools.cached_property
        def cached(self) -> float:
            return self.base + 1

        @staticmethod
        def static() -> float:
            return TABLE["scale"]

        @classmethod
        def by_class(cls) -> float:
            return cls.base

    thing = Thing()

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * thing.factor + thing.cached + thing.static() + thing.by_class()

    def call(turn: int) -> tg.Tensor:
        TABLE["scale"] = 1.0 + turn // 3
        Thing.base = 1.0 + turn // 4
        if turn == 7:
            del thing.__dict__["cached"]
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def getattr_with_a_default(compile: Compile) -> World:
    thing = types.SimpleNamespace()
    f = compile(lambda x: x * getattr(thing, "scale", 1.0))

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            thing.scale = 4.0
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def getattr_with_a_computed_name(compile: Compile) -> World:
    thing = types.SimpleNamespace(w0=1.0, w1=2.0)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        for i in range(2):
            x = x * getattr(thing, f"w{i}")
        return x

    def call(turn: int) -> tg.Tensor:
        thing.w1 = 2.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def vars_of_an_object(compile: Compile) -> World:
    thing = types.SimpleNamespace(w0=1.0, w1=2.0)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        for value in vars(thing).values():
            x = x * value
        return x

    def call(turn: int) -> tg.Tensor:
        thing.w1 = 2.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def operator_getters(compile: Compile) -> World:
    thing = types.SimpleNamespace(inner=types.SimpleNamespace(w=1.0), items=[1.0])
    get, first = attrgetter("inner.w"), itemgetter(0)
    f = compile(lambda x: x * get(thing) * first(thing.items))

    def call(turn: int) -> tg.Tensor:
        thing.inner.w = 1.0 + turn // 3
        thing.items[0] = 1.0 + turn // 4
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def dynamic_attributes(compile: Compile) -> World:
    values = {"scale": 1.0}

    class Dynamic:
        def __getattr__(self, name: str) -> Any:
            try:
                return values[name]
            except KeyError:
                raise AttributeError(name) from None

    thing = Dynamic()
    f = compile(lambda x: x * thing.scale)

    def call(turn: int) -> tg.Tensor:
        values["scale"] = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def slots(compile: Compile) -> World:
    class Slotted:
        __slots__ = ("extra", "scale")

    thing = Slotted()
    thing.scale = 1.0
    f = compile(lambda x: x * thing.scale + getattr(thing, "extra", 0.0))

    def call(turn: int) -> tg.Tensor:
        thing.scale = 1.0 + turn // 3
        if turn == 4:
            thing.extra = 7.0
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def simple_namespace(compile: Compile) -> World:
    args = types.SimpleNamespace(scale=1.0, nested=types.SimpleNamespace(shift=0.0))
    f = compile(lambda x: x * args.scale + args.nested.shift)

    def call(turn: int) -> tg.Tensor:
        args.scale = 1.0 + turn // 3
        args.nested.shift = float(turn // 4)
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def argparse_namespace(compile: Compile) -> World:
    import argparse

    args = argparse.Namespace(scale=1.0)
    f = compile(lambda x: x * args.scale)

    def call(turn: int) -> tg.Tensor:
        args.scale = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@dataclasses.dataclass
class Options:
    scale: float = 1.0
    parts: list[float] = dataclasses.field(default_factory=lambda: [1.0, 2.0])


@program()
def dataclass_captured(compile: Compile) -> World:
    options = Options()
    f = compile(lambda x: x * options.scale + sum(options.parts))

    def call(turn: int) -> tg.Tensor:
        options.scale = 1.0 + turn // 3
        options.parts[1] = 1.0 + turn // 4
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def dataclass_argument(compile: Compile) -> World:
    options = Options()
    f = compile(lambda x, options: x * options.scale + sum(options.parts))

    def call(turn: int) -> tg.Tensor:
        options.scale = 1.0 + turn // 3
        options.parts[1] = 1.0 + turn // 4
        return f(data(3, seed=turn), options)

    return World(call, [])


@program(native=None)
def dataclass_new_at_each_call(compile: Compile) -> World:
    f = compile(lambda x, options: x * options.scale + sum(options.parts))
    return World(lambda turn: f(data(3, seed=turn), Options(1.0 + turn // 3)), [])


class Mode(enum.Enum):
    PLUS = 1
    MINUS = 2


@program()
def enum_member(compile: Compile) -> World:
    thing = Plain()
    thing.mode = Mode.PLUS
    f = compile(lambda x, mode: x + 1 if thing.mode is Mode.PLUS and mode == Mode.PLUS else x - 1)

    def call(turn: int) -> tg.Tensor:
        thing.mode = Mode.MINUS if turn in (3, 4, 5) else Mode.PLUS
        return f(data(3, seed=turn), Mode.PLUS if turn < 6 else Mode.MINUS)

    return World(call, [])


# Containers.


@program()
def set_contents(compile: Compile) -> World:
    names = {"a", "b"}
    f = compile(lambda x: x * (2 if "a" in names else 3))

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            names.discard("a")
            names.add("c")
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def dict_order(compile: Compile) -> World:
    table = {"a": 1.0, "b": 2.0}

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        for value in table.values():
            x = x * value + 1
        return x

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            table["a"] = table.pop("a")
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def dict_key_replaced(compile: Compile) -> World:
    table = {"a": 1.0}
    f = compile(lambda x: x * len(next(iter(table))))

    def call(turn: int) -> tg.Tensor:
        if turn == 3:
            table["long"] = table.pop("a")
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def deque_contents(compile: Compile) -> World:
    values = collections.deque([1.0, 2.0], maxlen=3)
    f = compile(lambda x: x * values[-1] + len(values))

    def call(turn: int) -> tg.Tensor:
        if turn % 3 == 2:
            values.append(float(turn))
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def counter_and_defaultdict(compile: Compile) -> World:
    counts = collections.Counter("aab")
    table = collections.defaultdict(lambda: 2.0)
    f = compile(lambda x: x * counts["a"] * counts["z"] + table["new"])

    def call(turn: int) -> tg.Tensor:
        if turn == 4:
            counts["z"] += 1
            table["new"] = 5.0
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def chain_map_and_mapping_proxy(compile: Compile) -> World:
    table = {"a": 1.0}
    chain = collections.ChainMap({}, table)
    proxy = types.MappingProxyType(table)
    f = compile(lambda x: x * chain["a"] + proxy["a"])

    def call(turn: int) -> tg.Tensor:
        table["a"] = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def array_and_bytearray(compile: Compile) -> World:
    import array

    numbers, raw = array.array("d", [1.0, 2.0]), bytearray(b"ab")
    f = compile(lambda x: x * numbers[1] + raw[0])

    def call(turn: int) -> tg.Tensor:
        numbers[1] = 2.0 + turn // 3
        raw[0] = 97 + turn // 4
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def nested_list_of_tensors(compile: Compile) -> World:
    layers = [{"w": leaf(3), "scale": [1.0]}, {"w": leaf(3, seed=1), "scale": [2.0]}]

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        for layer in layers:
            x = x * layer["w"] * layer["scale"][0]
        return x

    def call(turn: int) -> tg.Tensor:
        if turn == 2:
            layers[1]["w"] = leaf(3, seed=5)
        if turn == 4:
            layers.append({"w": leaf(3, seed=7), "scale": [3.0]})
        if turn == 6:
            layers[0]["scale"] = [9.0]
        if turn == 7:
            layers.reverse()
        y = f(data(3, seed=turn))
        y.sum().backward()
        return [layer["w"].grad for layer in layers], y

    return World(call, [])


@program(native=False)
def argument_list_is_appended_to(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, out: list[Any]) -> tg.Tensor:
        out.append(x * 2)
        return x

    def call(turn: int) -> Any:
        out: list[Any] = []
        return f(data(3, seed=turn), out), out

    return World(call, [])


@program(native=False)
def argument_dict_is_written_to(compile: Compile) -> World:
    @compile
    def f(batch: dict[str, Any]) -> tg.Tensor:
        batch["y"] = batch["x"] * 2
        batch["n"] = 1
        return batch["y"] + 1

    def call(turn: int) -> Any:
        batch = {"x": data(3, seed=turn), "y": data(3), "n": 0}
        return f(batch), batch

    return World(call, [])


@program(native=False)
def attribute_is_set_for_the_first_time(compile: Compile) -> World:
    thing = Plain()

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        thing.last = x * 2
        return x + 1

    def call(turn: int) -> Any:
        return f(data(3, seed=turn)), thing.last

    return World(call, [])


@program(native=False)
def tensor_appended_to_a_deque(compile: Compile) -> World:
    history: collections.deque[Any] = collections.deque(maxlen=2)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        history.append(x * 2)
        return x + 1

    def call(turn: int) -> Any:
        return f(data(3, seed=turn)), list(history)

    return World(call, [])


@program(native=False)
def tensor_kept_by_a_cache(compile: Compile) -> World:
    @functools.lru_cache
    def state() -> tg.Tensor:
        return tg.zeros(3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return state().add_(x).clone()

    return World(lambda turn: f(data(3, seed=turn)), [])


@program(native=None)
def tensor_from_a_cache(compile: Compile) -> World:
    @functools.lru_cache
    def mask(n: int) -> tg.Tensor:
        return tg.ones(n, n).tril()

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return mask(3) @ x

    return World(lambda turn: f(data(3, seed=turn)), [])


# Library state.


@program(native=False)
def stdlib_random(compile: Compile) -> World:
    generator = random.Random(3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * generator.random()

    return World(lambda turn: f(data(3, seed=turn)), [])


@program(native=False)
def stdlib_random_module(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * random.random() + random.randint(0, 5) + random.choice([1, 2, 3])

    def call(turn: int) -> tg.Tensor:
        random.seed(turn)
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=False)
def numpy_random(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * float(np.random.rand()) + np.random.default_rng().integers(1)

    def call(turn: int) -> tg.Tensor:
        np.random.seed(turn)
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=False)
def numpy_generator(compile: Compile) -> World:
    generator = np.random.default_rng(0)
    f = compile(lambda x: x * float(generator.normal()))
    return World(lambda turn: f(data(3, seed=turn)), [])


@program(native=False)
def clock(compile: Compile) -> World:
    now = [0.0]

    def fake_time() -> float:
        return now[0]

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * (time.perf_counter() * 0 + time.time() * 0 + 1)

    return World(lambda turn: f(data(3, seed=turn)), [])


@program(native=False)
def environment(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * float(os.environ["TRACEGRAD_TEST_SCALE"]) + len(
            os.getenv("TRACEGRAD_TEST_SCALE", "")
        )

    def call(turn: int) -> tg.Tensor:
        os.environ["TRACEGRAD_TEST_SCALE"] = str(1.0 + turn)
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=False)
def file_read(compile: Compile) -> World:
    import tempfile

    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        path = file.name

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        with open(path) as file:
            return x * float(file.read())

    def call(turn: int) -> tg.Tensor:
        with open(path, "w") as file:
            file.write(str(turn))
        result = f(data(3, seed=turn))
        if turn == 8:
            os.unlink(path)
        return result

    return World(call, [])


@program(native=False)
def captured_iterator(compile: Compile) -> World:
    numbers = itertools.count(1.0)
    f = compile(lambda x: x * next(numbers))
    return World(lambda turn: f(data(3, seed=turn)), [])


@program(native=False)
def captured_generator(compile: Compile) -> World:
    numbers = (float(i) for i in range(100))
    f = compile(lambda x: x * next(numbers))
    return World(lambda turn: f(data(3, seed=turn)), [])


@program(native=False)
def iterator_in_an_object(compile: Compile) -> World:
    class Source:
        def __init__(self) -> None:
            self.steps = itertools.cycle([1.0, 2.0, 3.0])

        def __next__(self) -> float:
            return next(self.steps)

    source = Source()
    f = compile(lambda x: x * next(source))
    return World(lambda turn: f(data(3, seed=turn)), [])


@program(native=False)
def printing_a_number(compile: Compile) -> World:
    written: list[str] = []

    class Sink:
        def write(self, text: str) -> None:
            written.append(text)

    sink = Sink()

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        print("called", file=sink)
        return x + 1

    return World(lambda turn: (f(data(3, seed=turn)), len(written)), [])


@program(native=False)
def context_variable(compile: Compile) -> World:
    import contextvars

    variable = contextvars.ContextVar("scale", default=1.0)
    f = compile(lambda x: x * variable.get())

    def call(turn: int) -> tg.Tensor:
        variable.set(1.0 + turn)
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=False)
def thread_local(compile: Compile) -> World:
    import threading

    local = threading.local()
    f = compile(lambda x: x * local.scale)

    def call(turn: int) -> tg.Tensor:
        local.scale = 1.0 + turn
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=False)
def ctypes_number(compile: Compile) -> World:
    import ctypes

    number = ctypes.c_double(1.0)
    f = compile(lambda x: x * number.value)

    def call(turn: int) -> tg.Tensor:
        number.value = 1.0 + turn
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=False)
def weak_reference(compile: Compile) -> World:
    import weakref

    things = [Plain(), Plain()]
    things[1].scale = 7.0
    reference = weakref.ref(things[1])
    f = compile(lambda x: x * (reference() or things[0]).scale)

    def call(turn: int) -> tg.Tensor:
        if turn == 4:
            del things[1]
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def numpy_scalars_and_arrays(compile: Compile) -> World:
    settings = {"scale": np.float32(1.0), "table": np.array([1.0, 2.0]), "wide": np.float64(1.0)}

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * float(settings["scale"]) * float(settings["table"][1]) * settings["wide"]

    def call(turn: int) -> tg.Tensor:
        if turn == 2:
            settings["scale"] = np.float32(3.0)
        if turn == 4:
            settings["table"][1] = 7.0
        if turn == 6:
            settings["wide"] = np.float64(2.0)
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def numpy_scalar_argument(compile: Compile) -> World:
    f = compile(lambda x, k: x * k)
    return World(lambda turn: f(data(3), [np.float64(2.0), 2.0, np.float64(3.0)][turn % 3]), [])


@program()
def context_manager_from_contextlib(compile: Compile) -> World:
    thing = Plain()

    @contextlib.contextmanager
    def scaled(k: float) -> Iterator[float]:
        yield k * thing.scale

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        with scaled(2.0) as k, contextlib.nullcontext():
            return x * k

    def call(turn: int) -> tg.Tensor:
        thing.scale = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def local_generators_and_comprehensions(compile: Compile) -> World:
    thing = Plain()

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        def numbers() -> Iterator[float]:
            for i in range(3):
                yield i * thing.scale

        total = sum(x * k for k in numbers())
        return total + sum([thing.scale * k for k in (1, 2)]) + max(numbers())

    def call(turn: int) -> tg.Tensor:
        thing.scale = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def recursion(compile: Compile) -> World:
    limit = 3

    @compile
    def f(x: tg.Tensor, depth: int = 0) -> tg.Tensor:
        return x if depth >= limit else f(x * 2, depth + 1)

    def call(turn: int) -> tg.Tensor:
        nonlocal limit
        limit = 3 + turn // 4
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def compiled_inside_compiled(compile: Compile) -> World:
    thing = Plain()
    inner = compile(lambda x: x * thing.scale)
    outer = compile(lambda x: inner(x) + inner(x + 1))

    def call(turn: int) -> tg.Tensor:
        thing.scale = 1.0 + turn // 3
        return outer(data(3, seed=turn)) + inner(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def compiled_twin_is_traced_inside(compile: Compile) -> World:
    thing = Plain()

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        inner = compile(lambda y: y * thing.scale)
        return inner(x)

    def call(turn: int) -> tg.Tensor:
        thing.scale = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def default_dtype(compile: Compile) -> World:
    f = compile(lambda x: x + tg.ones(3) + tg.tensor([1, 2, 3]) / 2)

    def call(turn: int) -> tg.Tensor:
        tg.set_default_dtype(tg.float64 if turn in (3, 4, 5) else tg.float32)
        try:
            return f(data(3, seed=turn))
        finally:
            tg.set_default_dtype(tg.float32)

    return World(call, [])


@program(native=False)
def grad_mode_is_changed_inside(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        tg.set_grad_enabled(False)
        return x * w

    def call(turn: int) -> Any:
        try:
            return f(data(3, seed=turn)), tg.is_grad_enabled()
        finally:
            tg.set_grad_enabled(True)

    return World(call, [w])


@program()
def grad_mode_is_read(compile: Compile) -> World:
    w = leaf(3)
    f = compile(lambda x: x * w if tg.is_grad_enabled() else x + w)

    def call(turn: int) -> Any:
        with tg.set_grad_enabled(turn % 4 < 2):
            return f(data(3, seed=turn))

    return World(call, [w])


@program()
def enable_grad_inside_no_grad(compile: Compile) -> World:
    w = leaf(3)

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        with tg.enable_grad():
            return x * w

    def call(turn: int) -> Any:
        with tg.no_grad():
            y = f(data(3, seed=turn))
        if y.requires_grad:
            y.sum().backward()
        return y

    return World(call, [w])


@program(native=False)
def seeding_inside(compile: Compile) -> World:
    generator = tg.Generator()

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        generator.manual_seed(3)
        return x + tg.rand(3, generator=generator)

    def call(turn: int) -> Any:
        generator.manual_seed(turn)
        return f(data(3, seed=turn)), generator.initial_seed(), tg.rand(2, generator=generator)

    return World(call, [])


@program()
def attribute_of_a_tensor(compile: Compile) -> World:
    w = leaf(3)
    w.scale = 1.0
    f = compile(lambda x: x * w * w.scale)

    def call(turn: int) -> Any:
        w.scale = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [w])


@program(native=None)
def attribute_of_a_tensor_argument(compile: Compile) -> World:
    f = compile(lambda x: x * getattr(x, "scale", 1.0))

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        if turn % 3 == 2:
            x.scale = float(turn)
        return f(x)

    return World(call, [])


@program(native=None)
def callable_argument(compile: Compile) -> World:
    f = compile(lambda function, x: function(x) + 1)
    return World(lambda turn: f(doubled if turn % 4 < 2 else (lambda x: x * 7), data(3)), [])


@program()
def module_global_imported_name(compile: Compile) -> World:
    space: dict[str, Any] = {"tg": tg, "k": 1.0}
    exec("def scaled(x):\n    return x * k\n", space)
    scaled = space["scaled"]
    f = compile(lambda x: scaled(x))

    def call(turn: int) -> tg.Tensor:
        space["k"] = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def exec_inside(compile: Compile) -> World:
    thing = Plain()

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x * eval("t.scale", {"t": thing})

    def call(turn: int) -> tg.Tensor:
        thing.scale = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=False)
def counting_in_a_global(compile: Compile) -> World:
    space: dict[str, Any] = {"n": 0}
    exec("def count(x):\n    global n\n    n += 1\n    return x + n\n", space)
    count = space["count"]
    f = compile(lambda x: count(x))
    return World(lambda turn: (f(data(3, seed=turn)), space["n"]), [])


@program(native=False)
def counting_in_a_cell(compile: Compile) -> World:
    calls = 0

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        nonlocal calls
        calls += 1
        return x + calls

    return World(lambda turn: (f(data(3, seed=turn)), calls), [])


@program(native=False)
def effect_without_reading(compile: Compile) -> World:
    log: dict[str, Any] = {}

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        log["seen"] = log.get("seen", 0) + 1
        return x + 1

    return World(lambda turn: (f(data(3, seed=turn)), dict(log)), [])


class Pair(NamedTuple):
    first: Any
    second: Any


@program()
def namedtuple_and_strings(compile: Compile) -> World:
    @compile
    def f(pair: Pair, mode: str, flag: bool | None = None) -> Pair:
        y = pair.first * 2 if mode == "double" else pair.first + pair.second
        return Pair(y, None if flag is None else mode)

    def call(turn: int) -> Any:
        pair = Pair(data(3, seed=turn), data(3, seed=turn + 1))
        return f(pair, "double" if turn % 4 < 2 else "sum", *([True] if turn > 5 else []))

    return World(call, [])


@program()
def keyword_arguments(compile: Compile) -> World:
    @compile
    def f(x: tg.Tensor, *rest: tg.Tensor, scale: float = 2.0, **more: Any) -> tg.Tensor:
        for y in rest:
            x = x + y
        return x * scale + sum(more.values())

    def call(turn: int) -> Any:
        x = data(3, seed=turn)
        match turn % 4:
            case 0:
                return f(x)
            case 1:
                return f(x, x, scale=3.0)
            case 2:
                return f(x, data(3), b=1.0, a=x)
            case _:
                return f(x=x, scale=1)

    return World(call, [])


@program()
def tensor_keys(compile: Compile) -> World:
    w, v = leaf(3), leaf(3, seed=1)
    rates = {w: 1.0, v: 2.0}

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return sum(x * t * rate for t, rate in rates.items())

    def call(turn: int) -> Any:
        rates[v] = 2.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [w, v])


@program()
def lambda_in_a_table(compile: Compile) -> World:
    table = {"act": lambda x: x * 2}
    f = compile(lambda x: table["act"](x))

    def call(turn: int) -> Any:
        if turn == 3:
            table["act"] = lambda x: x * 5
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def metaclass_attribute(compile: Compile) -> World:
    class Meta(type):
        @property
        def scale(cls) -> float:
            return TABLE["scale"]

    class Thing(metaclass=Meta):
        pass

    f = compile(lambda x: x * Thing.scale)

    def call(turn: int) -> Any:
        TABLE["scale"] = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def descriptor_attribute(compile: Compile) -> World:
    class Descriptor:
        def __get__(self, instance: Any, owner: Any = None) -> float:
            return TABLE["scale"]

    class Thing:
        scale = Descriptor()

    thing = Thing()
    f = compile(lambda x: x * thing.scale)

    def call(turn: int) -> Any:
        TABLE["scale"] = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def super_and_inheritance(compile: Compile) -> World:
    class Base:
        def factor(self) -> float:
            return TABLE["scale"]

    class Derived(Base):
        def factor(self) -> float:
            return super().factor() + 1

    thing = Derived()
    f = compile(lambda x: x * thing.factor())

    def call(turn: int) -> Any:
        TABLE["scale"] = 1.0 + turn // 3
        if turn == 6:
            Base.factor = lambda self: 11.0
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def single_dispatch(compile: Compile) -> World:
    @functools.singledispatch
    def scaled(x: Any) -> Any:
        return x * TABLE["scale"]

    f = compile(lambda x: scaled(x))

    def call(turn: int) -> Any:
        TABLE["scale"] = 1.0 + turn // 3
        if turn == 6:
            scaled.register(tg.Tensor, lambda x: x * 100)
        return f(data(3, seed=turn))

    return World(call, [])


@program()
def training_flag_of_a_module(compile: Compile) -> World:
    tg.manual_seed(0)
    model = tg.nn.Sequential(tg.nn.Linear(3, 3), tg.nn.BatchNorm1d(3), tg.nn.Dropout(0.5))
    f = compile(model)

    def call(turn: int) -> Any:
        tg.manual_seed(turn)
        model.train(turn % 4 < 2)
        if turn == 6:
            model[2].p = 0.1
        return f(data(4, 3, seed=turn))

    return World(call, [*model.parameters(), *model.buffers()])


@program()
def hook_on_a_module(compile: Compile) -> World:
    model = tg.nn.Sequential(tg.nn.Linear(3, 3))
    with tg.no_grad():
        for p in model.parameters():
            p.fill_(0.5)
    f = compile(lambda x: model(x))
    handles: list[Any] = []

    def call(turn: int) -> Any:
        if turn == 2:
            handles.append(model[0].register_forward_hook(lambda m, a, out: out * 2))
        if turn == 5:
            handles.pop().remove()
        if turn == 7:
            model[0].register_forward_pre_hook(lambda m, a: (a[0] + 1,))
        return f(data(4, 3, seed=turn))

    return World(call, list(model.parameters()))


@program()
def layer_replaced(compile: Compile) -> World:
    tg.manual_seed(0)
    model = tg.nn.Sequential(tg.nn.Linear(3, 3), tg.nn.ReLU())
    f = compile(lambda x: model(x))

    def call(turn: int) -> Any:
        tg.manual_seed(5)
        if turn == 2:
            model[1] = tg.nn.Tanh()
        if turn == 4:
            model[0] = tg.nn.Linear(3, 3)
        if turn == 6:
            model.append(tg.nn.Linear(3, 2))
        if turn == 7:
            model[0].weight = tg.nn.Parameter(tg.ones(3, 3))
        return f(data(4, 3, seed=turn))

    return World(call, [])


@program()
def forward_replaced(compile: Compile) -> World:
    class Net(tg.nn.Module):
        def forward(self, x: tg.Tensor) -> tg.Tensor:
            return x * 2

    net = Net()
    f = compile(lambda x: net(x))

    def call(turn: int) -> Any:
        if turn == 3:
            net.forward = lambda x: x * 5
        if turn == 6:
            del net.forward
            Net.forward = lambda self, x: x * 11
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def optimizer_options(compile: Compile) -> World:
    w, v = leaf(3), leaf(3, seed=1)
    optimizer = tg.optim.SGD([w], lr=0.1, momentum=0.5)

    @compile
    def step(x: tg.Tensor) -> tg.Tensor:
        optimizer.zero_grad()
        loss = ((w + v) * x).pow(2).sum()
        loss.backward()
        optimizer.step()
        return loss

    def call(turn: int) -> Any:
        if turn == 3:
            optimizer.param_groups[0]["lr"] = 0.01
        if turn == 5:
            optimizer.add_param_group({"params": [v], "lr": 0.2})
        if turn == 6:
            optimizer.param_groups[0]["momentum"] = 0.0
        if turn == 7:
            optimizer.load_state_dict(optimizer.state_dict())
        if turn == 8:
            optimizer.param_groups[1]["weight_decay"] = 0.5
        return step(data(3, seed=turn))

    return World(call, [w, v])


@program(native=None)
def optimizer_hook(compile: Compile) -> World:
    w = leaf(3)
    optimizer = tg.optim.SGD([w], lr=0.1)
    seen: list[int] = []

    @compile
    def step(x: tg.Tensor) -> tg.Tensor:
        optimizer.zero_grad()
        loss = (w * x).pow(2).sum()
        loss.backward()
        optimizer.step()
        return loss

    def call(turn: int) -> Any:
        if turn == 4:
            optimizer.register_step_post_hook(lambda *a: seen.append(1))
        return step(data(3, seed=turn)), len(seen)

    return World(call, [w])


@program(native=None)
def learning_rate_schedule_inside(compile: Compile) -> World:
    w = leaf(3)
    optimizer = tg.optim.SGD([w], lr=0.1)
    scheduler = tg.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)

    @compile
    def step(x: tg.Tensor) -> tg.Tensor:
        optimizer.zero_grad()
        loss = (w * x).pow(2).sum()
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss

    return World(lambda turn: (step(data(3, seed=turn)), optimizer.param_groups[0]["lr"]), [w])


@program()
def learning_rate_schedule_outside(compile: Compile) -> World:
    w = leaf(3)
    optimizer = tg.optim.Adam([w], lr=0.1)
    scheduler = tg.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)

    @compile
    def step(x: tg.Tensor) -> tg.Tensor:
        optimizer.zero_grad()
        loss = (w * x).pow(2).sum()
        loss.backward()
        optimizer.step()
        return loss

    def call(turn: int) -> Any:
        loss = step(data(3, seed=turn))
        scheduler.step()
        return loss

    return World(call, [w])


@program(native=None)
def sorting_with_a_key(compile: Compile) -> World:
    order = {"a": 1, "b": 2}

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        for name in sorted(["a", "b"], key=lambda n: order[n]):
            x = x * 2 if name == "a" else x + 1
        return x

    def call(turn: int) -> Any:
        if turn == 4:
            order["a"] = 5
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def object_stored_behind_a_string_key(compile: Compile) -> World:
    registry = {("a", 1): Plain()}
    f = compile(lambda x: x * registry["a", 1].scale)

    def call(turn: int) -> Any:
        registry["a", 1].scale = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def frozenset_and_tuple_inside(compile: Compile) -> World:
    inner = [1.0]
    holder = (inner, frozenset({1, 2}))
    f = compile(lambda x: x * holder[0][0] + len(holder[1]))

    def call(turn: int) -> Any:
        inner[0] = 1.0 + turn // 3
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def nan_and_signed_zero_as_state(compile: Compile) -> World:
    thing = Plain()

    @compile
    def f(x: tg.Tensor) -> tg.Tensor:
        return x / thing.scale

    def call(turn: int) -> Any:
        thing.scale = tg.tensor([0.0, -0.0, float("nan"), 1.0, True, 1][turn % 6]).item()
        if turn % 6 == 4:
            thing.scale = True
        if turn % 6 in (0, 1):
            return f(data(3, seed=turn)) if False else repr(thing.scale)
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def integer_against_float_state(compile: Compile) -> World:
    thing = Plain()
    f = compile(lambda x, n: (x * thing.scale, n * thing.scale))

    def call(turn: int) -> Any:
        thing.scale = [2, 2.0, True, 1][turn % 4]
        return f(data(3, seed=turn), tg.tensor([1, 2]))

    return World(call, [])


@program()
def monkeypatched_library_function(compile: Compile) -> World:
    space = types.SimpleNamespace(act=tg.relu)
    f = compile(lambda x: space.act(x))

    def call(turn: int) -> Any:
        space.act = tg.tanh if turn in (3, 4, 5) else tg.relu
        return f(data(3, seed=turn))

    return World(call, [])


@program(native=None)
def method_compiled_on_two_objects(compile: Compile) -> World:
    class Model:
        def __init__(self, k: float) -> None:
            self.w = leaf(3)
            self.k = k

        @compile
        def forward(self, x: tg.Tensor) -> tg.Tensor:
            return self.w * x * self.k

    models = [Model(1.0), Model(2.0)]

    def call(turn: int) -> Any:
        models[0].k = 1.0 + turn // 4
        return models[turn % 2].forward(data(3, seed=turn)), Model.forward(models[1], data(3))

    return World(call, [])


@program(native=None)
def static_and_class_methods(compile: Compile) -> World:
    class Model:
        k = 1.0

        @staticmethod
        @compile
        def static(x: tg.Tensor) -> tg.Tensor:
            return x * Model.k

        @classmethod
        def by_class(cls, x: tg.Tensor) -> tg.Tensor:
            return x * cls.k

    by_class = compile(Model.by_class)

    def call(turn: int) -> Any:
        Model.k = 1.0 + turn // 3
        return Model.static(data(3, seed=turn)), by_class(data(3, seed=turn))

    return World(call, [])
