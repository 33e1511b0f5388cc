"""The fast way into a compiled variant: one Python function, generated for it, that checks and calls.

A call of a compiled function on small tensors takes about as long as the Python around the native code. So for
each variant whose arguments are plain positional ones we generate the straight-line code for exactly its checks,
its inputs and its results; nothing is looped over, looked up or flattened. It does what
:meth:`tracegrad.variant.Variant.applies` and ``run`` do, in a microsecond or two; shapes, dtypes, layout and
overlap are checked by the native entry itself. Whatever is not the plain case returns `MISS`, and the general way
is taken. Start reading at :func:`generate`; ``Variant.call.source`` holds the text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.guards import same
from tracegrad.tensor import Tensor, new_tensor

if TYPE_CHECKING:
    from tracegrad.variant import Variant

MISS: Any = type("Miss", (), {"__repr__": lambda self: "MISS", "__slots__": ()})()
"""The variant does not apply to this call, or its entry refused the arrays."""
GUARD_FAILED: Any = type(
    "GuardFailed", (), {"__repr__": lambda self: "GUARD_FAILED", "__slots__": ()}
)()
"""The variant applies, but a guard on values failed; nothing was written."""

# Programs with these ops can fail half-way through the results, so results are not written over old grads.
_CHECKED_OPS = frozenset(
    {"gather", "scatter_add", "take", "index_add", "index_copy", "floor_div", "remainder", "fmod"}
)

_SMALL_RESULT = 512


class _Code:
    """Lines of a function body and the objects that they refer to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {}
        self._by_id: dict[int, str] = {}

    def line(self, text: str, indent: int = 1) -> None:
        self.lines.append("    " * indent + text)

    def ref(self, value: Any, prefix: str) -> str:
        """A name for an object; the same name for the same object."""
        name = self._by_id.get(id(value))
        if name is None:
            name = f"{prefix}{len(self.names)}"
            self.names[name] = value
            self._by_id[id(value)] = name
        return name


def generate(variant: Variant, leaves: list[Any]) -> Callable[[tuple[Any, ...]], Any] | None:
    """The fast call of a variant: ``call(args)`` returns the result, `MISS` or `GUARD_FAILED`.

    Args:
        variant: has been called with exactly these positional arguments.
        leaves: tensors and plain Python values.

    Returns:
        None where the variant has no native entry, or a record needs more care.
    """
    executable: Any = variant.executable
    if getattr(executable, "entry", None) is None:
        return None
    if variant.derivative is not None and variant.plan.bumps:
        return None  # The record needs copies of what the inputs held before the update.
    code = _Code()
    code.names.update(
        state=state, MISS=MISS, GUARD_FAILED=GUARD_FAILED, new=new_tensor, empty=np.empty, same=same,
        entry=executable.entry, refcount=sys.getrefcount, ndarray=np.ndarray,
    )  # fmt: skip
    arguments = _check_arguments(code, variant, leaves)
    _check_captures(code, variant)
    _check_grads(code, variant, arguments)
    if variant.guard.entries:
        code.line(f"if not {code.ref(variant.guard.check, 'check')}(): return MISS")
    results = _call_entry(code, variant, arguments)
    _connect(code, variant, arguments, results)
    source = "def call(args):\n" + "\n".join(code.lines) + "\n"
    exec(compile(source, f"<fast call of {variant.plan.program.graph.name}>", "exec"), code.names)
    call = code.names["call"]
    call.source = source
    return call


def _check_arguments(code: _Code, variant: Variant, leaves: list[Any]) -> list[str]:
    """Unpack and compare the arguments; returns the names of the tensors among them."""
    names = [f"a{i}" for i in range(len(leaves))]
    code.line(f"if len(args) != {len(leaves)}: return MISS")
    if names:
        code.line(f"{', '.join(names)}, = args")
    code.line(
        f"if state.grad is not {variant.grad_enabled} or state.trace is not None: return MISS"
    )
    tensors: list[str] = []
    for name, leaf in zip(names, leaves, strict=True):
        if not isinstance(leaf, Tensor):
            value = code.ref(leaf, "v")
            code.line(f"if {name} is not {value} and not same({name}, {value}): return MISS")
            continue
        grad_fn = "is not None" if leaf._grad_fn is None else "is None"
        code.line(
            f"if {name}.__class__ is not {code.ref(type(leaf), 'cls')} "
            f"or {name}._requires_grad is not {leaf._requires_grad} or {name}._grad_fn {grad_fn} "
            f"or {name}._hooks is not None or {name}._post_hooks is not None: return MISS"
        )
        tensors.append(name)
    pattern = variant.pattern
    for i, first in enumerate(pattern):
        for j in range(i):
            if pattern[j] == j and first in (i, j):
                operator = "is not" if first == j else "is"
                code.line(f"if {tensors[i]} {operator} {tensors[j]}: return MISS")
    reachable = set(variant.guard.tensors)
    captured = {id(s.tensor) for s in variant.plan.sources if s.kind == "capture"}
    for i, name in enumerate(tensors):
        if i in variant.fixed:
            code.line(f"if {name} is not {code.ref(variant.fixed[i], 'f')}: return MISS")
        elif reachable or captured:
            code.line(f"if id({name}) in {code.ref(reachable | captured, 'ids')}: return MISS")
    return tensors


def _check_captures(code: _Code, variant: Variant) -> None:
    for source in variant.plan.sources:
        if source.kind == "capture":
            name = code.ref(source.tensor, "c")
            grad_fn = "is not None" if source.is_leaf else "is None"
            code.line(
                f"if {name}._requires_grad is not {source.requires_grad} or {name}._grad_fn {grad_fn} "
                f"or {name}._hooks is not None or {name}._post_hooks is not None: return MISS"
            )


def _check_grads(code: _Code, variant: Variant, arguments: list[str]) -> None:
    for owner, had in variant.plan.read_grads:
        name = arguments[owner.number] if owner.number >= 0 else code.ref(owner.tensor, "c")
        code.line(f"if {name}._grad is {'None' if had else 'not None'}: return MISS")


def _call_entry(code: _Code, variant: Variant, arguments: list[str]) -> list[str]:
    """Allocate the results and enter native code; returns the names of the result arrays."""
    plan = variant.plan
    executable: Any = variant.executable
    program = executable.program
    inputs = []
    for source in plan.sources:
        owner = arguments[source.number] if source.number >= 0 else code.ref(source.tensor, "c")
        inputs.append(f"{owner}._grad._data" if source.kind == "grad" else f"{owner}._data")
    reusable = _reusable_grads(variant)
    results = []
    for position, number in enumerate(program.result_numbers):
        type = program.graph.outputs[number].type
        array = f"o{position}"
        results.append(array)
        if type.nbytes <= _SMALL_RESULT:
            # Copying a small array is the fastest way to get memory for one.
            model = np.zeros(type.shape, type.dtype.np)
            allocation = f"{array} = {code.ref(model.copy, 'make')}()"
        else:
            allocation = f"{array} = empty({type.shape!r}, {code.ref(type.dtype.np, 'd')})"
        if number in reusable:
            owner_ = reusable[number]
            name = arguments[owner_.number] if owner_.number >= 0 else code.ref(owner_.tensor, "c")
            # An old grad that nobody else holds is overwritten: nobody can tell, and no page is touched anew.
            code.line(f"g{position} = {name}._grad")
            code.line(
                f"if g{position} is not None and refcount(g{position}) == 3 and g{position}._counter is None "
                f"and refcount(g{position}._data) == 2 and g{position}._data.base is None "
                f"and not g{position}._requires_grad: {array} = g{position}._data"
            )
            code.line("else:")
            code.line(f"g{position} = None", 2)
            code.line(allocation, 2)
        else:
            code.line(allocation)
    arena = []
    if executable.arena_bytes:
        arena = [code.ref(aligned_arena(executable.arena_bytes), "arena")]
    code.line(f"status = entry({', '.join([*arena, *inputs, *results])})")
    code.line("if status: return GUARD_FAILED if status == 1 else MISS")
    return results


def _reusable_grads(variant: Variant) -> dict[int, Any]:
    """Outputs that become a ``grad`` and may be written over the old one: output number -> owner."""
    plan = variant.plan
    graph = variant.executable.program.graph
    if plan.program.guards or any(node.op.name in _CHECKED_OPS for node in graph.nodes):
        return {}
    read = {id(owner.tensor) for owner, _ in plan.read_grads}
    returned = {leaf.number for leaf in plan.leaves if leaf.kind == "new"}
    numbers = [number for _, number in plan.grads if number is not None]
    return {
        number: owner
        for owner, number in plan.grads
        if number is not None
        and id(owner.tensor) not in read
        and number not in returned
        and numbers.count(number) == 1
    }


def aligned_arena(size: int) -> np.ndarray:
    """Scratch memory that starts on a cache line."""
    raw = np.empty(size + 64, np.uint8)
    start = -raw.__array_interface__["data"][0] % 64
    return raw[start : start + size]


def _connect(code: _Code, variant: Variant, arguments: list[str], results: list[str]) -> None:
    """Count versions, wrap the results, assign grads, and build the returned value."""
    plan = variant.plan

    def owner_name(owner: Any) -> str:
        return arguments[owner.number] if owner.number >= 0 else code.ref(owner.tensor, "c")

    for input_number, steps in plan.bumps.items():
        source = plan.sources[input_number]
        name = arguments[source.number] if source.number >= 0 else code.ref(source.tensor, "c")
        target = f"{name}._grad" if source.kind == "grad" else name
        code.line(f"{target}._version_counter().value += {steps}")
    tensors: dict[int, str] = {}
    reusable = _reusable_grads(variant)
    for owner, number in plan.grads:
        name = owner_name(owner)
        if number is None:
            code.line(f"{name}._grad = None")
            continue
        tensors[number] = f"t{number}"
        if number in reusable:
            code.line(f"t{number} = g{number}")
            code.line(f"if t{number} is None: {name}._grad = t{number} = new(o{number})")
        else:
            code.line(f"{name}._grad = t{number} = new(o{number})")
    for leaf in plan.leaves:
        if leaf.kind == "new" and leaf.number not in tensors:
            tensors[leaf.number] = f"t{leaf.number}"
            code.line(f"t{leaf.number} = new(o{leaf.number})")
        if leaf.kind == "new" and leaf.freed is not None:
            code.line(
                f"t{leaf.number}._grad_fn = {code.ref(variant.freed_record(leaf.freed), 'freed')}"
            )
            code.line(f"t{leaf.number}._requires_grad = True")
    if variant.derivative is not None:
        inputs = []
        for source in plan.sources:
            name = arguments[source.number] if source.number >= 0 else code.ref(source.tensor, "c")
            inputs.append(f"{name}._grad" if source.kind == "grad" else name)
        count = variant.derivative.computed_count
        computed = ", ".join(results[len(results) - count :]) if count else ""
        make = code.ref(variant.make_record, "make")
        code.line(f"record = {make}([{', '.join(inputs)}], [{computed}])")
        for leaf in plan.leaves:
            if leaf.kind == "new" and leaf.differentiable:
                code.line(f"t{leaf.number}._grad_fn = record; t{leaf.number}._requires_grad = True")
                output = variant.derivative.roots.index(leaf.number)
                if output:
                    code.line(f"t{leaf.number}._output_nr = {output}")
    expressions = []
    for leaf in plan.leaves:
        if leaf.kind == "new":
            expressions.append(tensors[leaf.number])
        elif leaf.kind == "owner":
            expressions.append(owner_name(leaf.value))
        elif leaf.kind == "grad":
            expressions.append(tensors[plan.grads[leaf.number][1] or 0])
        else:
            expressions.append(code.ref(leaf.value, "v"))
    code.line(f"return {_build(code, plan.spec, iter(expressions))}")


def _build(code: _Code, spec: Any, expressions: Any) -> str:
    """The expression that puts the returned containers together."""
    if spec is None:
        return next(expressions)
    kind, keys, children = spec
    items = [_build(code, child, expressions) for child in children]
    if kind is dict:
        return (
            "{"
            + ", ".join(f"{code.ref(k, 'k')}: {v}" for k, v in zip(keys, items, strict=True))
            + "}"
        )
    if kind is list:
        return f"[{', '.join(items)}]"
    if kind is tuple:
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    return f"{code.ref(kind, 'cls')}({', '.join(items)})"
