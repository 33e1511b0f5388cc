"""Elementary functions as LLVM code: ours, inlined, for scalars and vectors, with stated bounds.

:data:`ELEMENTARY` maps a name to a function that emits a call: ``ELEMENTARY["exp"](b, x)``, where
`x` is a `float`, a `double`, or a vector of them. What is called is an internal function of the module
at hand, such as ``tracegrad.exp.f32x8``, defined there on first use and always inlined: the LLVM text
stays short, and after inlining equal subexpressions of neighbours are computed once (sin and cos
share their argument reduction). No function calls into libm; :data:`MAX_ULP` states the errors.

The formulas are in :mod:`.elementary_exp`, :mod:`.elementary_trig` and :mod:`.elementary_special`,
written in the notation of :mod:`.lanes`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import llvmlite.ir as ll

from . import elementary_exp, elementary_gamma, elementary_special, elementary_trig
from .lanes import Floats

# Name: formula, and the largest error in ULP of the result for `float` and for `double`.
_FUNCTIONS: dict[str, tuple[Callable[..., Floats], float, float]] = {
    "exp": (elementary_exp.exp, 1.0, 1.0),
    "exp2": (elementary_exp.exp2, 1.0, 1.0),
    "expm1": (elementary_exp.expm1, 2.0, 2.0),
    "sigmoid": (elementary_exp.sigmoid, 2.0, 2.0),
    "log": (elementary_exp.log, 1.5, 1.0),
    "log1p": (elementary_exp.log1p, 2.0, 2.0),
    "log2": (elementary_exp.log2, 1.0, 1.0),
    "log10": (elementary_exp.log10, 1.0, 1.0),
    "pow": (elementary_exp.pow_, 1.0, 1.0),
    "sinh": (elementary_exp.sinh, 2.0, 2.0),
    "cosh": (elementary_exp.cosh, 2.0, 2.0),
    "tanh": (elementary_exp.tanh, 2.0, 2.0),
    "asinh": (elementary_exp.asinh, 1.0, 2.0),
    "acosh": (elementary_exp.acosh, 1.0, 2.0),
    "atanh": (elementary_exp.atanh, 1.0, 2.0),
    "sin": (elementary_trig.sin, 1.5, 1.0),
    "cos": (elementary_trig.cos, 1.5, 1.0),
    "tan": (elementary_trig.tan, 2.0, 2.0),
    "asin": (elementary_trig.asin, 2.0, 2.0),
    "acos": (elementary_trig.acos, 2.0, 2.0),
    "atan": (elementary_trig.atan, 2.0, 2.0),
    "atan2": (elementary_trig.atan2, 2.0, 2.0),
    "erf": (elementary_special.erf, 1.0, 1.0),
    "erfc": (elementary_special.erfc, 1.0, 2.0),
    "lgamma": (elementary_gamma.lgamma, 1.0, 2.0),
    "digamma": (elementary_gamma.digamma, 1.0, 2.0),
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

#: Largest error of each function in units in the last place, for `float` and for `double`.
MAX_ULP: dict[str, tuple[float, float]] = {
    name: (single, double) for name, (_, single, double) in _FUNCTIONS.items()
}
