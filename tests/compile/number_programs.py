"""Programs that read a number which changes at every call, and use it in every way that we could think of.

See :mod:`programs` for the form. Each use runs with the number as an argument, in a closure, and as an attribute: the
compiler lifts it to an input at its second value, where the use allows it.
"""

from __future__ import annotations

import decimal
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from compile_programs import PROGRAMS, Compile, Program, World, data, leaf, program

import tracegrad as tg

Use = Callable[[tg.Tensor, float], Any]

# A sequence with repeats, a zero, negative numbers, and numbers that are integers.
NUMBERS = [0.5, 0.25, -1.5, 2.0, 0.0, 0.5, 3.25, 1.0, -0.75]
WHOLE_NUMBERS = [1, 2, -3, 4, 0, 1, 7, 5, -2]


def in_a_branch(x: tg.Tensor, r: float) -> Any:
    return x * r if r > 0.4 else x + r


def in_a_chain_of_branches(x: tg.Tensor, r: float) -> Any:
    if r == 0:
        return x
    return x / r if 0 < r <= 2 else x - r


def as_a_loop_bound(x: tg.Tensor, r: float) -> Any:
    while r < 3:
        x, r = x * 0.5 + r, r + 1
    return x


def in_sorting(x: tg.Tensor, r: float) -> Any:
    low, high = sorted([r, 0.3])
    return x.clamp(low, high)


def as_a_key(x: tg.Tensor, r: float) -> Any:
    return x * {0.5: 3.0, 2.0: 4.0}.get(r, r)


def in_a_set(x: tg.Tensor, r: float) -> Any:
    return x * len({r, 0.5, 2.0})


def in_a_list(x: tg.Tensor, r: float) -> Any:
    return x * [0.5, 2.0, -1.5].count(r) + sum([r, 1.0])


def as_its_own_type(x: tg.Tensor, r: float) -> Any:
    return x * r if type(r) is float else x


def with_a_class(x: tg.Tensor, r: float) -> Any:
    return x * (2 if r.__class__ is float else 3)


def matched(x: tg.Tensor, r: float) -> Any:
    match r:
        case 0.5:
            return x
        case float():
            return x * r
    return x - 1


def stored_in_an_object(x: tg.Tensor, r: float) -> Any:
    box = {"r": r, "list": [r]}
    return x * box["r"], box


class Keeper:
    last = 0.0


def kept_outside(x: tg.Tensor, r: float) -> Any:
    Keeper.last = r
    return x * Keeper.last


def raising(x: tg.Tensor, r: float) -> Any:
    if r > 3:
        raise ValueError(f"{r} is too large")
    return x * (1 / r)


def caught(x: tg.Tensor, r: float) -> Any:
    try:
        return x * (1.0 / r)
    except ZeroDivisionError:
        return x


def of_a_dropout(x: tg.Tensor, r: float) -> Any:
    return tg.nn.functional.dropout(x, min(abs(r) / 4, 1.0))


def differentiated_inside(x: tg.Tensor, r: float) -> Any:
    w = x.detach().clone().requires_grad_()
    (g,) = tg.autograd.grad((w * r).sin().sum() * (r + 1), w, create_graph=True)
    return tg.autograd.grad((g * r).sum(), w)[0]


USES: dict[str, Use] = {
    "multiplied": lambda x, r: x * r,
    "nested": lambda x, r: _nested({"a": [r, x], "b": (r, 1)}),
    "on_the_left": lambda x, r: r * x - (r - x) / (1.5 + r),
    "divided_by": lambda x, r: x / r,
    "computed_with": lambda x, r: x * (1 - r * 0.25) + (-r + 2) / 4 - abs(r),
    "added_to_integers": lambda x, r: (x > 0).long() + r,
    "multiplied_with_bools": lambda x, r: (x > 0) * r,
    "as_an_exponent": lambda x, r: x.abs() ** r,
    "as_a_base": lambda x, r: abs(r) ** x,
    "squared": lambda x, r: x * r**2,
    "floor_divided": lambda x, r: x * (r // 0.5) + r % 0.3,
    "compared_with_a_tensor": lambda x, r: (x > r) * 1.0 + (r <= x),
    "as_alpha": lambda x, r: tg.add(x, x, alpha=r),
    "clamped": lambda x, r: x.clamp(min=r),
    "chosen": lambda x, r: tg.where(x > 0, x, r),
    "as_a_maximum": lambda x, r: x * max(r, 0.1) + min(r, 2, 7.5),
    "filled": lambda x, r: x + tg.full((3,), r) + tg.full_like(x, r),
    "made_a_tensor": lambda x, r: x * tg.tensor(r) + tg.tensor([r, 1.0, 2.0]),
    "lerp": lambda x, r: tg.lerp(x, x * 2, r),
    "leaky": lambda x, r: tg.nn.functional.leaky_relu(x, r),
    "softplus": lambda x, r: tg.nn.functional.softplus(x, beta=r + 5),
    "in_place": lambda x, r: (x * 1).mul_(r).add_(x, alpha=r).add_(r),
    "assigned": lambda x, r: _assigned(x * 1, r),
    "of_math": lambda x, r: x * math.exp(r) + math.floor(r),
    "of_numpy": lambda x, r: x * float(np.sqrt(abs(r))) + np.float64(r).item(),
    "of_numpy_scalars": lambda x, r: x * (np.float64(2.0) * r) + r * np.float32(3.0),
    "as_an_array": lambda x, r: x * np.asarray(r).item() + np.add(r, 1).item(),
    "rounded": lambda x, r: x * round(r) + int(r),
    "as_a_complex_number": lambda x, r: x * (r * 1j).imag,
    "as_text": lambda x, r: x * len(f"{r:.3f}") + float(str(r)),
    "as_json": lambda x, r: x * float(json.dumps(r)),
    "as_a_decimal": lambda x, r: x * float(decimal.Decimal(r)),
    "of_a_float_method": lambda x, r: x * r.is_integer() + len(r.hex()),
    "as_an_unbound_method": lambda x, r: x * float.is_integer(r),
    "as_an_attribute_of_a_float": lambda x, r: x * r.real,
    "is_a_float": lambda x, r: x * r if isinstance(r, float) else x,
    "is_true": lambda x, r: x * r if r else x,
    "returned": lambda x, r: (x * r, r),
    "returned_when_computed": lambda x, r: (x, {"half": r * 0.5, "list": [r]}),
    "unused": lambda x, r: x + 1,
    "hashed": lambda x, r: x * (hash(r) % 7),
    "negated_not": lambda x, r: x * (not r),
    "in_whole_arithmetic": lambda x, r: x * ((r + 1) * (2 - r) // 3 + r % 4 - (-r)),
    "with_integers": lambda x, r: (x * 9).long() * r + (x * 5).int(),
    "of_bits": lambda x, r: x * ((int(r) & 3) | 8) + (int(r) << 1),
    "as_an_index": lambda x, r: x[abs(int(r)) % 3] + x[: int(abs(r))].sum(),
    "as_a_count": lambda x, r: sum(x * k for k in range(abs(int(r)))) + x,
    "every_third_time": lambda x, r: x * 2 if r % 3 == 0 else x,
    "as_a_shape": lambda x, r: tg.ones(abs(int(r)) + 1).sum() * x,
    "as_a_decay": lambda x, r: x * 0.9**r,
    "as_a_decimal_place": lambda x, r: x * round(1.23456, int(abs(r))),
    **{
        f.__name__: f
        for f in (
            in_a_branch, in_a_chain_of_branches, as_a_loop_bound, in_sorting, as_a_key, in_a_set, in_a_list,
            as_its_own_type, with_a_class, matched, stored_in_an_object, kept_outside, raising, caught,
            of_a_dropout, differentiated_inside,
        )
    },
}  # fmt: skip


def _nested(options: dict[str, Any]) -> Any:
    return options["a"][1] * options["a"][0] - options["b"][0]


def _assigned(x: tg.Tensor, r: float) -> tg.Tensor:
    x[1] = r
    return x


def as_argument(use: Use) -> Callable[[Compile], World]:
    """The number is an argument."""

    def make(compile: Compile) -> World:
        f = compile(lambda x, r: use(x, r))
        return World(lambda turn: f(data(3, seed=turn), NUMBERS[turn]), [])

    return make


def as_whole_argument(use: Use) -> Callable[[Compile], World]:
    """The number is an argument, and an int."""

    def make(compile: Compile) -> World:
        f = compile(lambda x, r: use(x, r))
        return World(lambda turn: f(data(3, seed=turn), WHOLE_NUMBERS[turn]), [])

    return make


def as_keyword(use: Use) -> Callable[[Compile], World]:
    """The number is an argument by name, and the result is differentiated from outside."""

    def make(compile: Compile) -> World:
        f = compile(lambda x, *, r: use(x, r))
        x = leaf(3)

        def call(turn: int) -> Any:
            result = f(x, r=NUMBERS[turn])
            first = result[0] if isinstance(result, tuple) else result
            if first.requires_grad:
                first.sum().backward()
            return result

        return World(call, [x])

    return make


def in_a_closure(use: Use) -> Callable[[Compile], World]:
    """The number is in a closure."""

    def make(compile: Compile) -> World:
        r = 0.0
        f = compile(lambda x: use(x, r))

        def call(turn: int) -> Any:
            nonlocal r
            r = NUMBERS[turn]
            return f(data(3, seed=turn))

        return World(call, [])

    return make


def as_an_attribute(use: Use) -> Callable[[Compile], World]:
    """The number is an attribute of an object, and stands in a dict and in a list as well."""

    def make(compile: Compile) -> World:
        box = Keeper()
        options = {"r": 0.0, "list": [0.0, 1.0]}

        @compile
        def f(x: tg.Tensor) -> Any:
            return use(x, box.last), x * options["r"], x * options["list"][0]

        def call(turn: int) -> Any:
            box.last = NUMBERS[turn]
            options["r"] = options["list"][0] = NUMBERS[turn]
            return f(data(3, seed=turn)), box.last, options

        return World(call, [])

    return make


for _use, _function in USES.items():
    for _carrier in (as_argument, as_whole_argument, as_keyword, in_a_closure, as_an_attribute):
        _name = f"number_{_use}_{_carrier.__name__}"
        assert _name not in PROGRAMS
        PROGRAMS[_name] = Program(_carrier(_function), None)


@program()
def numbers_in_containers(compile: Compile) -> World:
    f = compile(lambda x, options, pair: x * options["a"][0] + options["b"] * pair[1])

    def call(turn: int) -> Any:
        options = {"a": [NUMBERS[turn]], "b": WHOLE_NUMBERS[turn]}
        return f(data(3, seed=turn), options, (turn % 2, NUMBERS[0])), options

    return World(call, [])


@program()
def number_counted_up(compile: Compile) -> World:
    class Model:
        steps = 0

    model = Model()

    @compile
    def step(x: tg.Tensor) -> tg.Tensor:
        return x * 0.5**model.steps / (1 + model.steps)

    def call(turn: int) -> Any:
        model.steps += 1
        return step(data(3, seed=turn)), model.steps

    return World(call, [])


@program()
def number_of_an_optimizer(compile: Compile) -> World:
    w = leaf(3)
    optimizer = tg.optim.AdamW([w], lr=0.1)
    schedule = tg.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)

    @compile
    def step(x: tg.Tensor) -> tg.Tensor:
        optimizer.zero_grad()
        loss = ((w - x) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    def call(turn: int) -> Any:
        loss = step(data(3, seed=turn))
        schedule.step()
        return loss, optimizer.param_groups[0]["lr"]

    return World(call, [w])


@program()
def number_that_becomes_a_tensor(compile: Compile) -> World:
    f = compile(lambda x, r: x * r)
    values = [0.5, 0.75, 1.0, tg.tensor(2.0), 0.25, 3, True, 0.125, np.float32(0.5)]
    return World(lambda turn: f(data(3, seed=turn), values[turn]), [])


@program()
def two_numbers_that_change_in_turn(compile: Compile) -> World:
    f = compile(lambda x, a, b: x * a + b * (a - b))
    return World(lambda turn: f(data(3), 1.0 + (turn + 1) // 2, 2.0 - turn // 2), [])
