"""Elementary functions as LLVM code: ours, inlined, for scalars and vectors, with stated bounds.

:data:`ELEMENTARY` maps a name to a function that emits a call: ``ELEMENTARY["exp"](b, x)``, where
`x` is a `float`, a `double`, or a vector of them. What is called is an internal function of the module
at hand, such as ``tracegrad.exp.f32x8``, defined there on first use and always inlined: the LLVM text
stays short, and after inlining equal subexpressions of neighbours are computed once (sin and cos
share their argument reduction). No function calls into libm; :data:`MAX_ULP` states the errors.

The formulas are in :mod:`.elementary_exp`, :mod:`.elementary_trig`, :mod:`.elementary_special` and
:mod:`.elementary_gamma`, written in the notation of :mod:`.lanes`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import llvmlite.ir as ll

from . import elementary_exp, elementary_gamma, elementary_special, elementary_trig
from .lanes import Floats

# Name: formula, and bounds on the error in ULP of the exact result, for `float` and for `double`.
# They are a little above the largest errors found, among all arguments or a large part of them for
# `float`, among some hundred thousand for `double`; those of lgamma and digamma hold for positive
# arguments (close to their zeros on the negative side only the absolute error is small).
_FUNCTIONS: dict[str, tuple[Callable[..., Floats], float, float]] = {
    "exp": (elementary_exp.exp, 1.05, 1.0),
    "exp2": (elementary_exp.exp2, 1.1, 1.05),
    "expm1": (elementary_exp.expm1, 1.35, 1.1),
    "sigmoid": (elementary_exp.sigmoid, 1.75, 1.7),
    "log": (elementary_exp.log, 0.95, 0.9),
    "log1p": (elementary_exp.log1p, 1.55, 1.3),
    "log2": (elementary_exp.log2, 1.0, 0.8),
    "log10": (elementary_exp.log10, 0.55, 0.75),
    "pow": (elementary_exp.pow_, 0.55, 1.05),
    "sinh": (elementary_exp.sinh, 1.2, 1.0),
    "cosh": (elementary_exp.cosh, 1.0, 1.05),
    "tanh": (elementary_exp.tanh, 1.7, 1.65),
    "asinh": (elementary_exp.asinh, 0.55, 1.65),
    "acosh": (elementary_exp.acosh, 0.55, 1.55),
    "atanh": (elementary_exp.atanh, 0.55, 1.55),
    "sin": (elementary_trig.sin, 1.6, 0.85),
    "cos": (elementary_trig.cos, 1.6, 0.85),
    "tan": (elementary_trig.tan, 1.6, 1.0),
    "asin": (elementary_trig.asin, 1.25, 1.3),
    "acos": (elementary_trig.acos, 1.2, 1.25),
    "atan": (elementary_trig.atan, 1.5, 1.75),
    "atan2": (elementary_trig.atan2, 1.85, 1.85),
    "erf": (elementary_special.erf, 1.2, 1.1),
    "erfc": (elementary_special.erfc, 0.85, 1.4),
    "lgamma": (elementary_gamma.lgamma, 0.55, 1.9),
    "digamma": (elementary_gamma.digamma, 0.55, 2.0),
}


def emit(name: str, b: ll.IRBuilder, *operands: ll.Value) -> ll.Value:
    """Emit a call of an elementary function.

    Args:
        name: a key of :data:`ELEMENTARY`.
        b: where to emit; it stays in its block.
        operands: `float` or `double`, scalars or vectors, all of one type.

    Returns:
        A value of the operands' type.
    """
    formula = _FUNCTIONS[name][0]
    type_ = operands[0].type
    symbol = f"tracegrad.{name}.{Floats(b, operands[0]).type_name}"
    function = b.module.globals.get(symbol)
    if function is None:
        function = ll.Function(b.module, ll.FunctionType(type_, [type_] * len(operands)), symbol)
        function.linkage = "internal"
        function.attributes.add("alwaysinline")
        function.attributes.add("nounwind")
        inside = ll.IRBuilder(function.append_basic_block("entry"))
        inside.ret(formula(*(Floats(inside, argument) for argument in function.args)).value)
    return b.call(function, operands)


ELEMENTARY: dict[str, Callable[..., ll.Value]] = {name: partial(emit, name) for name in _FUNCTIONS}

#: The bounds above: units in the last place, for `float` and for `double`.
MAX_ULP: dict[str, tuple[float, float]] = {
    name: (single, double) for name, (_, single, double) in _FUNCTIONS.items()
}
