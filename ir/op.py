"""What an op is, and the four declarators with which ops are declared.

The data structure is :class:`Op`: everything about one operation in one object (type rule, NumPy evaluation,
derivative, lowering, samples). Ops are declared in :mod:`tracegrad.ir.ops` and found by name in the registry.

Derivative rules are written with the ops themselves and know nothing of what flows through them: plain arrays
(the eager backward sweep), Tensors (``create_graph=True``, or under a trace) or graph nodes (the autodiff
passes). Calling an Op asks its operands: whoever defines ``__apply_op__(op, operands, attrs)`` takes over,
otherwise the operands are arrays and NumPy evaluates.

A rule names what it reads. ``lambda y: y`` as the partial of ``mul`` with respect to ``x`` reads the operand
``y`` and nothing else; so that is all that an eager record keeps for the backward pass. The possible names
are the op's operand names, ``x_type`` (the type of operand ``x``, which costs nothing to keep), ``out`` (the
result), the op's attrs, and first of all ``ct`` (the incoming cotangent).

Start reading at :func:`pointwise`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FunctionType
from typing import Any, Literal

import numpy as np

from .errors import NoBatchingRuleError, NoDerivativeError
from .exactness import exactness
from .types import Shape, TensorType, broadcast_shapes, dtype_of, type_of

Kind = Literal["pointwise", "linear", "bilinear", "primitive", "nullary"]
OUT = -1
"""Index of the op's result among the values that a rule reads; operands are 0, 1, ..."""


def _parameters(function: Callable[..., Any]) -> Sequence[str]:
    """The names of a function's parameters. All rules are read at import, so not by `inspect` where avoidable."""
    if function.__class__ is FunctionType:
        code = function.__code__
        return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return list(inspect.signature(function).parameters)


class Rule:
    """A derivative rule for one operand: a function, and what it reads.

    Attributes:
        function: called with the cotangent if `takes_ct`, the values at `reads`, and the rest by name.
        reads: indices of the values it takes, ``OUT`` for the result.
        types: names and operand numbers of the types it takes.
        attrs: names of the attributes it takes.
        takes_ct: whether the cotangent comes first.
        pull: ``pull(ct, out, operands, types, attrs)``: the operand's cotangent, given that of the result; not
            yet un-broadcast.
    """

    __slots__ = ("attrs", "function", "pull", "reads", "takes_ct", "types")

    pull: Callable[..., Any]

    def __init__(
        self, function: Callable[..., Any], operands: Sequence[str], attr_names: Sequence[str]
    ) -> None:
        self.function = function
        self.takes_ct = False
        reads, types, attrs = [], [], []
        for position, name in enumerate(_parameters(function)):
            if name == "ct" and position == 0:
                self.takes_ct = True
            elif name == "out":
                reads.append(OUT)
            elif name in operands:
                reads.append(operands.index(name))
            elif name.endswith("_type") and name[:-5] in operands:
                types.append((name, operands.index(name[:-5])))
            elif name in attr_names:
                attrs.append(name)
            else:
                raise TypeError(
                    f"a derivative rule reads {name!r}, which is neither an operand "
                    f"{tuple(operands)}, nor an attr {tuple(attr_names)}, nor 'out' or 'ct'"
                )
        self.reads = tuple(reads)
        self.types = tuple(types)
        self.attrs = tuple(attrs)

    def __getattr__(self, name: str) -> Any:
        """`pull` is made when it is called first."""
        if name != "pull":
            raise AttributeError(name)
        self.pull = self._make_pull()
        return self.pull

    def _make_pull(self) -> Callable[..., Any]:
        """`pull` for this rule: a function that hands on what the rule reads and looks at nothing else."""
        arguments = ["ct"] if self.takes_ct else []
        arguments += ["out" if index == OUT else f"operands[{index}]" for index in self.reads]
        arguments += [f"{name}=types[{index}]" for name, index in self.types]
        arguments += [f"{name}=attrs[{name!r}]" for name in self.attrs]
        result = f"function({', '.join(arguments)})"
        # A number that the rule itself gives is a constant of the op; one that it read is the user's.
        scale = _times if self.reads else _scale
        return _maker(result if self.takes_ct else f"scale(ct, {result})")(self.function, scale)


@functools.cache
def _maker(result: str) -> Callable[..., Any]:
    """Makes functions that return `result`. Rules that read the same share it."""
    return eval(f"lambda function, scale: lambda ct, out, operands, types, attrs: {result}")


class Op:
    """An operation of the IR. Make one with a declarator; compare ops with ``is``.

    Attributes:
        name: the name in the registry and in IR text.
        kind: which declarator made it; says how `rules` are to be read.
        operands: operand names, empty for a variadic op.
        variadic: whether it takes any number of operands.
        attrs: names of the static parameters.
        eval: NumPy evaluation ``eval(*arrays, **attrs)``: the meaning of the op.
        type_rule: ``type_rule(*types, **attrs) -> TensorType``; raises torch's errors.
        rules: per operand a Rule, None where the op is not differentiable in it. Empty: not at all.
        lower: how native code is made; see :mod:`tracegrad.ir.lowering`. None: always interpreted.
        batch_rule: what the op becomes for a stack of examples; see :mod:`tracegrad.ir.batching`. None: it has none.
        samples: makes sample inputs for the sweeps of the test suite.
        commutative: whether exchanging the two operands changes nothing, bit for bit.
    """

    __slots__ = (
        "attrs",
        "batch_rule",
        "commutative",
        "eval",
        "jvp_rule",
        "kind",
        "lower",
        "name",
        "operands",
        "rules",
        "samples",
        "type_rule",
        "variadic",
        "vjp_rule",
    )

    def __init__(
        self,
        name: str,
        kind: Kind,
        *,
        operands: tuple[str, ...],
        attrs: tuple[str, ...],
        eval: Callable[..., Any],
        type_rule: Callable[..., TensorType],
        rules: tuple[Rule | None, ...] = (),
        variadic: bool = False,
        vjp_rule: Callable[..., Any] | None = None,
        jvp_rule: Callable[..., Any] | None = None,
        lower: Any = None,
        samples: Callable[..., Any] | None = None,
        batch_rule: Callable[..., Any] | None = None,
        commutative: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.operands = operands
        self.attrs = attrs
        self.eval = eval
        self.type_rule = type_rule
        self.rules = rules
        self.variadic = variadic
        self.vjp_rule = vjp_rule
        self.jvp_rule = jvp_rule
        self.lower = lower
        self.samples = samples
        self.batch_rule = batch_rule
        self.commutative = commutative
        if name in _REGISTRY:
            raise ValueError(f"op {name!r} is declared twice")
        _REGISTRY[name] = self

    @property
    def differentiable(self) -> bool:
        """Whether there is a rule for at least one operand."""
        return self.vjp_rule is not None or any(rule is not None for rule in self.rules)

    def __call__(self, *operands: Any, **attrs: Any) -> Any:
        """Apply to arrays, Tensors or Nodes (and Python numbers beside them)."""
        for operand in operands:
            if operand.__class__ is not np.ndarray:
                apply = getattr(operand, "__apply_op__", None)
                if apply is not None:
                    return apply(self, operands, attrs)
        return self.eval(*operands, **attrs)

    def reads(self, needed: Sequence[bool]) -> tuple[bool, tuple[bool, ...]]:
        """Which values the adjoint reads: (the result?, for each operand whether it).

        Args:
            needed: for each operand whether its cotangent is wanted.
        """
        if self.vjp_rule is not None:  # It reads the operands' types only.
            return False, (False,) * len(needed)
        out, operands = False, [False] * len(needed)
        for rule, wanted in zip(self.rules, needed, strict=True):
            if wanted and rule is not None:
                for index in rule.reads:
                    if index == OUT:
                        out = True
                    else:
                        operands[index] = True
        return out, tuple(operands)

    def pull(
        self,
        index: int,
        ct: Any,
        out: Any,
        operands: Sequence[Any],
        types: Sequence[TensorType] | None,
        attrs: dict[str, Any],
    ) -> Any:
        """The cotangent of operand `index`, given that of the result: one step of reverse mode.

        Un-broadcasting happens here, for every op, so that no rule has to think of it.

        Args:
            ct: cotangent of the result.
            out: the result, if the rule reads it (see `reads`), else anything.
            operands: likewise the operands.
            types: types of all operands; may be None for a pointwise op that reads no types, if no
                operand was broadcast.
            attrs: the op's attributes.

        Returns:
            The cotangent, or None where the operand has no derivative (an index, a condition).

        Raises:
            NoDerivativeError: the op has no rule at all.
        """
        if self.vjp_rule is not None:
            return self.vjp_rule(ct, index, types, **attrs)
        if not self.rules:
            raise NoDerivativeError(f"derivative for aten::{self.name} is not implemented")
        rule = self.rules[index]
        if rule is None:
            return None
        result = rule.pull(ct, out, operands, types, attrs)
        if exactness.on and self.kind == "pointwise":
            result = _kept_zero(ct, result)
        if types is None:
            return result
        shape = types[index].shape
        return result if result.shape == shape else unbroadcast(result, shape)

    def pull_each(
        self,
        needed: Sequence[bool],
        ct: Any,
        out: Any,
        operands: Sequence[Any],
        types: Sequence[TensorType] | None,
        attrs: dict[str, Any],
    ) -> list[Any]:
        """`pull` for every operand at once; None for those that are not `needed`. Hot: eager backward is made of it."""
        rules = self.rules
        if self.vjp_rule is not None or not rules or (exactness.on and self.kind == "pointwise"):
            return [
                self.pull(index, ct, out, operands, types, attrs) if wanted else None
                for index, wanted in enumerate(needed)
            ]
        pulled: list[Any] = []
        for wanted, rule in zip(needed, rules, strict=True):
            if not wanted or rule is None:
                pulled.append(None)
                continue
            result = rule.pull(ct, out, operands, types, attrs)
            if types is not None:
                shape = types[len(pulled)].shape
                if result.shape != shape:
                    result = unbroadcast(result, shape)
            pulled.append(result)
        return pulled

    def push(
        self,
        tangents: Sequence[Any | None],
        out: Any,
        operands: Sequence[Any],
        attrs: dict[str, Any],
    ) -> Any:
        """The tangent of the result, given those of the operands: one step of forward mode.

        Args:
            tangents: per operand its tangent, None for a zero one. At least one is given.

        Returns:
            The tangent, or None where it is zero.
        """
        if self.jvp_rule is not None:
            return self.jvp_rule(tangents, out, operands, **attrs)
        if not self.rules or self.kind == "primitive":
            raise NoDerivativeError(f"forward derivative for aten::{self.name} is not implemented")
        if self.kind == "linear":
            return self(*tangents, **attrs)
        total = None
        for index, (tangent, rule) in enumerate(zip(tangents, self.rules, strict=True)):
            if tangent is None or rule is None:
                continue
            if self.kind == "bilinear":
                swapped = list(operands)
                swapped[index] = tangent
                term = self(*swapped, **attrs)
            else:
                types = [None if isinstance(x, (int, float)) else type_of(x) for x in operands]
                # A pointwise map is diagonal: its vjp and its jvp are the same.
                term = rule.pull(tangent, out, operands, types, attrs)
                if exactness.on:
                    term = _kept_zero(tangent, term)
            total = term if total is None else total + term
        if total is None:
            return None
        shape = tuple(out.shape)
        if tuple(total.shape) != shape:
            total = registered("broadcast_in_dim")(
                total, shape=shape, dims=tuple(range(len(shape) - total.ndim, len(shape)))
            )
        return total

    def batch(
        self,
        size: int,
        operands: Sequence[Any],
        batched: Sequence[bool],
        attrs: dict[str, Any],
        through: Callable[..., Any] | None = None,
    ) -> Any:
        """Apply to a stack of examples at once.

        Args:
            size: the number of examples.
            operands: those that are `batched` carry an axis of this extent in front; the others are the same for
                all examples (and may be numbers).
            batched: for each operand whether it is. At least one is.
            through: what applies the op to the stacks, if not the op itself.

        Returns:
            The results, along an axis in front.

        Raises:
            NoBatchingRuleError: the op has no rule.
        """
        if self.batch_rule is None:
            raise NoBatchingRuleError(f"aten::{self.name} has no batching rule")
        return self.batch_rule(through or self, size, operands, batched, attrs)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return registered, (self.name,)

    def __copy__(self) -> Op:
        return self

    def __deepcopy__(self, memo: object) -> Op:
        return self


_REGISTRY: dict[str, Op] = {}


late_families: list[str] = []
"""Modules that declare ops which few programs need: they are imported when a name is not found without them."""


def registered(name: str) -> Op:
    """The op of this name. Raises KeyError where there is none."""
    if name not in _REGISTRY:
        _import_late_families()
    return _REGISTRY[name]


def all_ops() -> list[Op]:
    """Every declared op, in the order of declaration."""
    _import_late_families()
    return list(_REGISTRY.values())


def _import_late_families() -> None:
    for module in late_families:
        import_module(module)
    late_families.clear()


def _times(ct: Any, partial: Any) -> Any:
    """``ct * partial``, where 1 and -1 need no multiplication, and 0 wins while zeros are to be exact."""
    if type(partial) is float or type(partial) is int:
        if partial == 1:
            return ct
        if partial == -1:
            return -ct
        if partial == 0 and exactness.on:
            return _scale(ct, partial)
    return ct * partial


def _scale(ct: Any, partial: Any) -> Any:
    """`_times`, where a partial of 0 is exactly zero, also where the cotangent is not finite."""
    if type(partial) in (float, int) and partial == 0:
        return registered("zeros")(ct, shape=tuple(ct.shape))
    return _times(ct, partial)


def _kept_zero(ct: Any, product: Any) -> Any:
    """The product of a cotangent (or tangent) and a partial, but zero where only an infinite partial makes it NaN."""
    if product is ct:
        return product
    where, eq, ne = registered("where"), registered("eq"), registered("ne")
    undefined = registered("bit_and")(eq(ct, 0.0), ne(product, product))
    return where(undefined, 0.0, product)


def unbroadcast(ct: Any, shape: Shape) -> Any:
    """Sum a cotangent over the axes along which an operand of this shape was broadcast."""
    given = tuple(ct.shape)
    if given == shape:
        return ct
    lead = len(given) - len(shape)
    axes = tuple(range(lead)) + tuple(
        axis + lead for axis, extent in enumerate(shape) if extent == 1 and given[axis + lead] != 1
    )
    if axes:
        ct = registered("sum")(ct, axis=axes, keepdims=False)
    return ct if tuple(ct.shape) == shape else registered("reshape")(ct, shape=shape)


# Type rules that many ops share.


def broadcasting(*types: TensorType, **attrs: Any) -> TensorType:
    """Operands of one dtype, broadcast together."""
    dtype, shape = types[0]
    for other in types[1:]:
        if other.dtype is not dtype:
            names = " and ".join(dict.fromkeys(str(t.dtype) for t in types))
            raise RuntimeError(f"expected operands of one dtype, but got {names}")
        shape = broadcast_shapes(shape, other.shape)
    return TensorType(dtype, shape)


def floating(*types: TensorType, **attrs: Any) -> TensorType:
    """Like `broadcasting`, for floating point operands only."""
    result = broadcasting(*types)
    if not result.dtype.is_floating:
        raise RuntimeError(f"expected floating point operands, but got {result.dtype}")
    return result


def align(
    op: Op, size: int, operands: Sequence[Any], batched: Sequence[bool], attrs: dict[str, Any]
) -> Any:
    """The batching rule of every pointwise op: operands get so many axes that broadcasting pairs the right ones."""
    ranks = [getattr(x, "ndim", there) - there for x, there in zip(operands, batched, strict=True)]
    rank = max(ranks)
    short = [i for i, there in enumerate(batched) if there and ranks[i] < rank]
    if short:
        operands = list(operands)
        for i in short:
            shape = tuple(operands[i].shape)
            shape = (size, *(1,) * (rank + 1 - len(shape)), *shape[1:])
            operands[i] = registered("reshape")(operands[i], shape=shape)
    return op(*operands, **attrs)


# The declarators.


def pointwise(
    name: str,
    *,
    eval: Callable[..., Any],
    partials: tuple[Callable[..., Any] | None, ...] = (),
    lower: Any = None,
    samples: Callable[..., Any] | None = None,
    operands: tuple[str, ...] | None = None,
    attrs: tuple[str, ...] = (),
    type_rule: Callable[..., TensorType] = broadcasting,
    commutative: bool = False,
) -> Op:
    """Declare an op that acts element by element on operands broadcast together.

    Args:
        name: the op's name.
        eval: NumPy evaluation.
        partials: for each operand the derivative of the result with respect to it, as a function of
            whatever it names: operands, ``out``, attrs. It may return a Python number. A partial that
            names ``ct`` first returns the cotangent itself. Each is called only if its operand needs a
            cotangent. An entry None says that the op has no derivative in that operand; an empty tuple
            that it has none at all.
        lower: ``lower(s, *scalars, **attrs)``, written with the words of ``ScalarBuilder``.
        samples: see :mod:`tracegrad.ir.ops.samples`.
        operands: operand names; by default ``x``, or ``x, y``, according to the number of partials.
        attrs: names of static parameters.
        type_rule: by default broadcasting within one dtype.
        commutative: whether the operands may be exchanged.
    """
    if operands is None:
        operands = ("x", "y") if len(partials) == 2 else ("x",)
    rules = tuple(None if p is None else Rule(p, operands, attrs) for p in partials)
    return Op(
        name, "pointwise", operands=operands, attrs=attrs, eval=eval, type_rule=type_rule,
        rules=rules, lower=lower, samples=samples, batch_rule=align, commutative=commutative,
    )  # fmt: skip


def linear(
    name: str,
    *,
    eval: Callable[..., Any],
    type_rule: Callable[..., TensorType],
    transpose: Callable[..., Any],
    batch: Callable[..., Any],
    attrs: tuple[str, ...] = (),
    lower: Any = None,
    samples: Callable[..., Any] | None = None,
) -> Op:
    """Declare an op that is linear in its one operand ``x``.

    Args:
        transpose: ``transpose(ct, <x_type and attrs, as needed>)``.
        batch: the batching rule.
    """
    return Op(
        name, "linear", operands=("x",), attrs=attrs, eval=eval, type_rule=type_rule,
        rules=(Rule(transpose, ("x",), attrs),), lower=lower, samples=samples, batch_rule=batch,
    )  # fmt: skip


def bilinear(
    name: str,
    *,
    eval: Callable[..., Any],
    type_rule: Callable[..., TensorType],
    lhs: Callable[..., Any],
    rhs: Callable[..., Any],
    batch: Callable[..., Any],
    attrs: tuple[str, ...] = (),
    lower: Any = None,
    samples: Callable[..., Any] | None = None,
) -> Op:
    """Declare an op that is linear in each of its operands ``x`` and ``y``.

    Args:
        lhs: cotangent of ``x``: ``lhs(ct, y)``.
        rhs: cotangent of ``y``: ``rhs(ct, x)``.
        batch: the batching rule.
    """
    operands = ("x", "y")
    return Op(
        name, "bilinear", operands=operands, attrs=attrs, eval=eval, type_rule=type_rule,
        rules=(Rule(lhs, operands, attrs), Rule(rhs, operands, attrs)), lower=lower, samples=samples,
        batch_rule=batch,
    )  # fmt: skip


def primitive(
    name: str,
    *,
    eval: Callable[..., Any],
    type_rule: Callable[..., TensorType],
    operands: tuple[str, ...] = ("x",),
    vjps: tuple[Callable[..., Any] | None, ...] = (),
    vjp: Callable[..., Any] | None = None,
    jvp: Callable[..., Any] | None = None,
    batch: Callable[..., Any] | None = None,
    variadic: bool = False,
    attrs: tuple[str, ...] = (),
    lower: Any = None,
    samples: Callable[..., Any] | None = None,
) -> Op:
    """Declare an op whose derivatives are given explicitly: the escape from the other three.

    Args:
        vjps: per operand ``vjp(ct, <what it reads>)``, None where there is no derivative.
        vjp: for a variadic linear op: ``vjp(ct, index, types, **attrs)`` gives operand `index`'s.
        jvp: ``jvp(tangents, out, operands, **attrs)``; tangents may hold None.
        batch: the batching rule; an op without operands needs none.
    """
    rules = tuple(None if rule is None else Rule(rule, operands, attrs) for rule in vjps)
    return Op(
        name, "primitive", operands=() if variadic else operands, attrs=attrs, eval=eval,
        type_rule=type_rule, rules=rules, vjp_rule=vjp, jvp_rule=jvp, variadic=variadic,
        lower=lower, samples=samples, batch_rule=batch,
    )  # fmt: skip


__all__ = [
    "OUT", "Op", "Rule", "all_ops", "bilinear", "broadcasting", "dtype_of", "floating", "linear", "pointwise",
    "primitive", "registered", "type_of", "unbroadcast",
]  # fmt: skip
