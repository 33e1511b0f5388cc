"""Every op is complete: samples, derivative, lowering, or a reason why not."""

from __future__ import annotations

import inspect

import pytest
from tracegrad.ir import Op, all_ops
from tracegrad.ir.lowering import (
    Expansion,
    Generated,
    Movement,
    Placement,
    Reduce,
    Scan,
    Special,
)
from tracegrad.ir.scalar import ScalarBuilder

OPS = all_ops()

WITHOUT_SAMPLES = {
    "input": "a value that is given, not computed",
    "const": "a value that is given, not computed",
}
FACTORIZATIONS = (
    "cholesky inverse solve solve_triangular cofactors det slogdet eigh eigvalsh svd svdvals qr pinv matrix_exp "
    "orthogonal_complement"
).split()
NOT_DIFFERENTIABLE = {
    "input": "has no operands",
    "const": "has no operands",
    "iota": "has no operands",
    "random_bits": "makes integers from integers",
    "lt": "makes bools",
    "le": "makes bools",
    "gt": "makes bools",
    "ge": "makes bools",
    "eq": "makes bools",
    "ne": "makes bools",
    "bit_and": "takes integers",
    "bit_or": "takes integers",
    "bit_xor": "takes integers",
    "bit_not": "takes integers",
    "shift_left": "takes integers",
    "shift_right": "takes integers",
    "integer_pow": "takes integers",
    "argmax": "makes integers",
    "argmin": "makes integers",
    "window_argmax": "makes integers",
    "zeros": "does not depend on its operand",
    "signbit": "makes bools",
    "gcd": "takes integers",
    "lcm": "takes integers",
    "argsort": "makes integers",
    "searchsorted": "makes integers",
    "orthogonal_complement": "is not unique",
    "running_max": "finds positions, at which elements are gathered",
    "running_min": "finds positions, at which elements are gathered",
}
INTERPRETED = {
    "input": "a value that is given, not computed",
    "const": "a value that is given, not computed",
    "zeros": "canonicalization replaces it",
    "integer_pow": "rare, and not worth a loop in native code",
    "recurrence": "each element needs the one before, of both operands",
    "gcd": "takes as many turns as the numbers need",
    "lcm": "takes as many turns as the numbers need",
    "nextafter": "rare, and made of bits rather than numbers",
    "as_strided": "depends on where its operand stands in memory",
    "restride": "only follows as_strided",
    "strided_update": "only follows as_strided",
    "argsort": "sorting is a program of its own",
    "searchsorted": "takes as many turns as the sequence needs",
    **dict.fromkeys(FACTORIZATIONS, "LAPACK does it"),
    "scatter_fold": "rare, and each element needs what the ones before have made",
}


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_complete(op: Op) -> None:
    assert (op.samples is None) == (op.name in WITHOUT_SAMPLES)
    assert (op.lower is None) == (op.name in INTERPRETED)
    assert op.differentiable != (op.name in NOT_DIFFERENTIABLE)


def test_lists_name_ops_that_exist() -> None:
    names = {op.name for op in OPS}
    assert names >= WITHOUT_SAMPLES.keys() | NOT_DIFFERENTIABLE.keys() | INTERPRETED.keys()


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_consistent(op: Op) -> None:
    assert op.name.isidentifier()
    assert op.name == op.name.lower()
    if op.variadic:
        assert op.operands == ()
        assert not op.differentiable or (op.vjp_rule is not None and op.jvp_rule is not None)
    if op.rules:
        assert len(op.rules) == len(op.operands)
    if op.kind == "primitive" and op.differentiable:
        assert op.jvp_rule is not None, "an explicit vjp needs an explicit jvp"
    if op.commutative:
        assert len(op.operands) == 2


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_lowerings_fit(op: Op) -> None:
    """Pointwise ops are lowered by a function of scalars, others by a description."""
    if op.lower is None:
        return
    if op.kind == "pointwise" or op.name in ("cast", "copy"):
        parameters = list(inspect.signature(op.lower).parameters)
        assert parameters == ["s", *op.operands, *op.attrs]
    else:
        kinds = Expansion | Movement | Placement | Reduce | Scan | Generated | Special
        assert isinstance(op.lower, kinds)
    if isinstance(op.lower, Generated):
        parameters = list(inspect.signature(op.lower.lower).parameters)
        assert parameters == ["s", "position", *op.operands, *op.attrs]


class Recorder:
    """A ScalarBuilder that only checks that words exist."""

    def __getattr__(self, name: str) -> object:
        word = getattr(ScalarBuilder, name)  # AttributeError where there is no such word.
        parameters = list(inspect.signature(word).parameters.values())[1:]
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)

        def called(*arguments: object) -> object:
            assert variadic or len(arguments) == len(parameters), name
            return object()

        return called


@pytest.mark.parametrize(
    "op", [op for op in OPS if op.kind == "pointwise" and op.lower], ids=lambda op: op.name
)
def test_lowerings_keep_to_the_protocol(op: Op) -> None:
    attrs = {"exponent": 3, "n": 2}
    attrs = {name: attrs[name] for name in op.attrs}
    assert op.lower(Recorder(), *(object() for _ in op.operands), **attrs) is not None
