"""The fast way into a compiled variant: one Python function, generated for it, that checks and calls.

A call of a compiled function on small tensors takes about as long as the Python around the native code. So for
each variant whose arguments are plain positional ones we generate the straight-line code for exactly its checks,
its inputs and its results; nothing is looped over, looked up or flattened. It does what
:meth:`tracegrad.variant.Variant.accepts` and ``run`` do, in a microsecond or two; shapes, dtypes, layout and
overlap are checked by the native entry itself. Whatever is not the plain case returns `MISS`, and the general way
is taken. Start reading at :func:`generate`; ``Variant.call.source`` holds the text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tracegrad import tracing
from tracegrad.derivative import Freed, new_record
from tracegrad.grad_mode import state
from tracegrad.guards import CHECK_NAMES, reading, same, tests_of
from tracegrad.node import UNTRACKED, hooks_added
from tracegrad.random import default_generator
from tracegrad.tensor import Tensor
from tracegrad.variant import tensor_of_number

if TYPE_CHECKING:
    from tracegrad.plan import Bump, Output, Owner, Source
    from tracegrad.variant import Variant

MISS: Any = type("Miss", (), {"__repr__": lambda self: "MISS", "__slots__": ()})()
"""The variant does not apply to this call, its guards on values failed, or its entry refused the arrays; nothing
was written."""

_MANY_ENTRIES = 100
"""More guards on Python state than this are compared by a function of their own."""

# Programs with these ops can fail half-way through the results, so results are not written over old grads.
_CHECKED_OPS = frozenset(
    "gather scatter scatter_add scatter_fold take index_add index_copy floor_div remainder fmod".split()
)

_SMALL_RESULT = 512


class _Code:
    """Lines of a function body and the objects that they refer to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {}
        self.variables = 0
        self.leaves: list[str] = []
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


def generate(variant: Variant, leaves: list[Any], spec: Any) -> Callable[..., Any] | None:
    """The fast call of a variant: ``call(args, kwargs)`` returns the result, or `MISS`.

    Args:
        variant: has been called with these arguments.
        leaves: tensors, plain Python values, and other objects.
        spec: the containers around them.

    Returns:
        None where the variant has no native entry.
    """
    executable: Any = variant.executable
    if getattr(executable, "entry", None) is None or not variant.contiguous:
        return None
    code = _Code()
    code.names.update(CHECK_NAMES)
    code.names.update(
        state=state, MISS=MISS, empty=np.empty, same=same, entry=executable.entry, refcount=sys.getrefcount,
        make=object.__new__, Tensor=Tensor, active=tracing.active, tensors=sys.modules[Tensor.__module__],
        hooks=hooks_added, known_hooks=variant.known_hooks, new_record=new_record,
    )  # fmt: skip
    arguments = _check_arguments(code, variant, leaves, spec)
    _check_captures(code, variant)
    _check_grads(code, variant, arguments)
    for looked in variant.plan.looked:
        code.line(f"if not {code.ref(looked.holds, 'holds')}(): return MISS")
    _check_state(code, variant)
    inputs = [
        _input_name(code, source, arguments)
        if source.place is None
        else _read_number(code, number, source)
        for number, source in enumerate(variant.plan.sources)
    ]
    copies = _copy_inputs(code, variant, inputs)
    results = _call_entry(code, variant, arguments, inputs)
    _connect(code, variant, arguments, inputs, results, copies)
    source = "def call(args, kwargs):\n" + "\n".join(code.lines) + "\n"
    exec(compile(source, f"<fast call of {variant.plan.program.graph.name}>", "exec"), code.names)
    call = code.names["call"]
    call.source = source
    return call


def _check_state(code: _Code, variant: Variant) -> None:
    """Compare the plain Python state."""
    entries = variant.guard.entries
    if len(entries) > _MANY_ENTRIES:
        code.line(f"if not {code.ref(variant.guard.check, 'check')}(): return MISS")
    elif entries:
        tests = tests_of(entries, code.names)
        code.line("try:")
        code.line(f"if not ({' and '.join(tests)}): return MISS", 2)
        code.line("except Exception: return MISS")


def _unpack(code: _Code, spec: Any, value: str, names: list[str]) -> None:
    """Take containers apart as they were; the names of the leaves are added to `names`."""
    if spec is None:
        names.append(value)
        return
    kind, keys, children = spec
    if kind is dict:
        if keys:
            code.line(
                f"if {value}.__class__ is not dict or [*{value}] != {code.ref([*keys], 'keys')}: return MISS"
            )
        else:
            code.line(f"if {value}.__class__ is not dict or {value}: return MISS")
        parts = [f"{value}[{code.ref(key, 'key')}]" for key in keys]
    else:
        cls = {list: "list", tuple: "tuple"}.get(kind) or code.ref(kind, "cls")
        code.line(
            f"if {value}.__class__ is not {cls} or len({value}) != {len(children)}: return MISS"
        )
        parts = [f"{value}[{i}]" for i in range(len(children))]
    for child, part in zip(children, parts, strict=True):
        code.variables += 1
        name = f"a{code.variables}"
        code.line(f"{name} = {part}")
        _unpack(code, child, name, names)


def _check_arguments(code: _Code, variant: Variant, leaves: list[Any], spec: Any) -> list[str]:
    """Unpack and compare the arguments; returns the names of the tensors among them."""
    _, _, ((_, _, positional), (_, keywords, by_name)) = spec
    code.line(f"if len(args) != {len(positional)}{'' if keywords else ' or kwargs'}: return MISS")
    variables = [f"a{i}" for i in range(len(positional))]
    code.variables = len(variables)
    if variables:
        code.line(f"{', '.join(variables)}, = args")
    if keywords:
        code.line(f"if [*kwargs] != {code.ref([*keywords], 'keys')}: return MISS")
    for key in keywords:
        code.variables += 1
        variables.append(f"a{code.variables}")
        code.line(f"{variables[-1]} = kwargs[{key!r}]")
    names: list[str] = []
    for child, variable in zip((*positional, *by_name), variables, strict=True):
        _unpack(code, child, variable, names)
    grad_enabled, default = variant.modes
    # A trace in any thread, or a hook registered since we were looked at, and the general way looks closer.
    code.line(
        f"if active[0] or hooks[0] != known_hooks[0] or state.grad is not {grad_enabled} "
        f"or tensors._default_float is not {code.ref(default, 'dtype')}: return MISS"
    )
    found: list[str] = []
    code.leaves = names
    lifted = {s.place for s in variant.plan.sources if isinstance(s.place, int)}
    for position, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        if position in lifted:
            continue
        if not isinstance(leaf, Tensor):
            value = code.ref(leaf, "v")
            code.line(f"if {name} is not {value} and not same({name}, {value}): return MISS")
            continue
        code.line(f"if {name}.__class__ is not {code.ref(type(leaf), 'cls')}: return MISS")
        _check_flags(code, name, leaf._requires_grad, leaf._grad_fn is None)
        if variant.derivative is not None or variant.plan.bumps:
            untracked = code.ref(UNTRACKED, "untracked")
            code.line(f"if {name}._counter is {untracked}: return MISS")
        if variant.attributes:
            unwanted = code.ref(frozenset(variant.attributes), "names")
            code.line(f"if not {unwanted}.isdisjoint({name}.__dict__): return MISS")
        found.append(name)
    _check_pattern(code, variant.pattern, found, "{0} {op} {1}")
    if variant.counted:
        counters = "({0}._counter or {0}) {op} ({1}._counter or {1})"
        _check_pattern(code, variant.counted, found, counters)
    _check_identities(code, variant, found)
    return found


def _check_identities(code: _Code, variant: Variant, names: list[str]) -> None:
    """Tensors that the function can also reach by itself must not come as arguments, or must again."""
    inputs = [source.tensor for source in variant.plan.sources if source.kind == "capture"]
    reachable = {id(t): t for t in (*inputs, *variant.guard.tensors.values())}
    for t in (default_generator._key, default_generator._counter):
        if id(t) not in variant.captured:
            reachable.pop(id(t), None)
    for i, name in enumerate(names):
        if i in variant.fixed:
            code.line(f"if {name} is not {code.ref(variant.fixed[i], 'c')}: return MISS")
        elif len(reachable) > 4:
            code.line(f"if id({name}) in {code.ref(frozenset(reachable), 'ids')}: return MISS")
        elif reachable:
            tests = [f"{name} is {code.ref(t, 'c')}" for t in reachable.values()]
            code.line(f"if {' or '.join(tests)}: return MISS")


def _check_flags(code: _Code, name: str, requires_grad: bool, is_leaf: bool) -> None:
    """Compare what a tensor is in the eyes of autograd; the history of a view must be fresh."""
    grad_fn = "is not None" if is_leaf else "is None"
    code.line(
        f"if {name}._requires_grad is not {requires_grad} or {name}._grad_fn {grad_fn} "
        f"or ({name}._base is not None and {name}._counter.value != {name}._view_version): return MISS"
    )


def _check_pattern(code: _Code, pattern: tuple[int, ...], names: list[str], test: str) -> None:
    for i, first in enumerate(pattern):
        for j in range(i):
            if pattern[j] == j and first in (i, j):
                comparison = test.format(names[i], names[j], op="is not" if first == j else "is")
                code.line(f"if {comparison}: return MISS")


def _read_number(code: _Code, number: int, source: Source) -> str:
    """Make an input of a Python number, which may have another value at each call."""
    name, place = f"n{number}", source.place
    if isinstance(place, int):
        code.line(f"{name} = {code.leaves[place]}")
    else:
        assert place is not None
        reader = reading(place, code.ref(place.container, "c"), code.ref(place.key, "k"))
        code.line(f"try: {name} = {reader}")
        code.line("except Exception: return MISS")
    make, number_type = code.ref(tensor_of_number, "number"), code.ref(source.number_type, "type")
    code.line(f"{name} = {make}({name}, {number_type})")
    code.line(f"if {name} is None: return MISS")
    return name


def _check_captures(code: _Code, variant: Variant) -> None:
    for source in variant.plan.sources:
        if source.kind == "capture":
            _check_flags(code, code.ref(source.tensor, "c"), source.requires_grad, source.is_leaf)


def _owner_name(code: _Code, owner: Owner | Source, arguments: list[str]) -> str:
    return arguments[owner.number] if owner.number >= 0 else code.ref(owner.tensor, "c")


def _input_name(code: _Code, source: Source, arguments: list[str]) -> str:
    """The expression of the tensor that an input is read from."""
    name = _owner_name(code, source, arguments)
    return f"{name}._grad" if source.kind == "grad" else name


def _check_grads(code: _Code, variant: Variant, arguments: list[str]) -> None:
    sources = variant.plan.sources
    for owner, number, fixed, _ in variant.plan.read_grads:
        name = _owner_name(code, owner, arguments) + "._grad"
        if number < 0:
            code.line(f"if {name} is not None: return MISS")
            continue
        code.line(f"if {name} is None or {name}._requires_grad: return MISS")
        expected = _input_name(code, sources[number], arguments)
        if fixed is not None:
            expected = code.ref(fixed, "f")
        if expected != name:
            code.line(f"if {name} is not {expected}: return MISS")


def _copy_inputs(code: _Code, variant: Variant, inputs: list[str]) -> str:
    """Copy what the backward half must find as it is now; returns the dictionary of copies."""
    if variant.derivative is None:
        return "{}"
    copied = variant.derivative.copied
    for number in copied:
        code.line(f"k{number} = {inputs[number]}._data.copy()")
    return "{" + ", ".join(f"{number}: k{number}" for number in copied) + "}"


def _call_entry(
    code: _Code, variant: Variant, arguments: list[str], inputs: list[str]
) -> list[str]:
    """Allocate the results and enter native code; returns the names of the result arrays."""
    executable: Any = variant.executable
    program = executable.program
    reusable = _reusable_grads(variant)
    results = []
    for position, number in enumerate(program.result_numbers):
        type = program.graph.outputs[number].type
        array = f"o{position}"
        results.append(array)
        if type.nbytes <= _SMALL_RESULT:
            # Copying a small array is the fastest way to get memory for one.
            model = np.zeros(type.shape, type.dtype.np)
            allocation = f"{array} = {code.ref(model.copy, 'copy')}()"
        else:
            allocation = f"{array} = empty({type.shape!r}, {code.ref(type.dtype.np, 'd')})"
        if number in reusable:
            # Memory of an old grad that nobody else holds is used again: no page is touched anew.
            code.line(f"g = {_owner_name(code, reusable[number], arguments)}._grad")
            code.line(
                "if g is not None and refcount(g) == 3 and refcount(g._data) == 2 "
                f"and g._data.base is None: {array} = g._data"
            )
            code.line("else:")
            code.line(allocation, 2)
        else:
            code.line(allocation)
    if reusable:
        code.line("g = None")
    passed = [f"{name}._data" for name in inputs] + results
    if executable.arena_bytes:
        arenas = code.ref(_Arenas(executable.arena_bytes), "arenas")
        code.line(f"m = {arenas}.take()")
        code.line(f"status = entry({', '.join(['m', *passed])})")
        code.line(f"{arenas}.append(m)")
    else:
        code.line(f"status = entry({', '.join(passed)})")
    code.line("if status: return MISS")
    return results


class _Arenas(list[np.ndarray]):
    """Scratch memory, one piece for each call that is under way."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def take(self) -> np.ndarray:
        try:
            return self.pop()
        except IndexError:
            return aligned_arena(self.size)


def _reusable_grads(variant: Variant) -> dict[int, Owner]:
    """Outputs that become a ``grad`` and may be written over the old one: output number -> owner."""
    plan = variant.plan
    graph = variant.executable.program.graph
    if plan.program.guards or any(node.op.name in _CHECKED_OPS for node in graph.nodes):
        return {}
    read = {id(read.owner.tensor) for read in plan.read_grads}
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


def _make_tensor(code: _Code, name: str, array: str, output: Output, record: str | None) -> None:
    """Inlined ``new_tensor``."""
    if output.order is not None or output.expanded is not None:
        array = f"{code.ref(output.view, 'view')}({array})"
    grad_fn, requires_grad = (record, True) if record else ("None", False)
    code.line(
        f"{name} = make(Tensor); {name}._data = {array}; {name}._requires_grad = {requires_grad}; "
        f"{name}._grad_fn = {grad_fn}; {name}._output_nr = 0; "
        f"{name}._grad = {name}._base = {name}._view = {name}._counter = {name}._plain = None"
    )
    if output.bump.untracked:
        code.line(f"{name}._counter = {code.ref(UNTRACKED, 'untracked')}")
    elif output.bump.steps:
        _count(code, name, output.bump)


def _count(code: _Code, name: str, bump: Bump) -> None:
    """Count in-place changes."""
    code.line(
        f"c = {name}._counter or {name}._version_counter(); c.value += {bump.steps}; "
        f"c.location = {code.ref(bump.location, 'place')}"
    )


def _make_record(
    code: _Code, variant: Variant, inputs: list[str], results: list[str], copies: str
) -> None:
    """The record of the call: `Variant.make_record`, inlined."""
    plan, derivative = variant.plan, variant.derivative
    assert derivative is not None
    first = len(results) - derivative.computed_count
    residuals = []
    for is_input, number in derivative.order:
        if not is_input:
            residuals.append(results[first + number])
        elif number in derivative.copied:
            residuals.append(f"k{number}")
        else:
            residuals.append(f"{inputs[number]}._data")
    edges = []
    for number, reached in zip(derivative.joint.wrt, derivative.joint.reached, strict=True):
        name = inputs[number] if plan.sources[number].is_leaf else f"{inputs[number]}._grad_fn"
        edges.append(name if reached else "None")
    wanted = {number for number, _ in derivative.watched} | {*derivative.read}
    versions = []
    for number, name in enumerate(inputs):
        steps = plan.bumps[number].steps if number in plan.bumps else 0
        version = f"(0 if {name}._counter is None else {name}._counter.value)"
        versions.append((f"{version} - {steps}" if steps else version) if number in wanted else "0")
    code.line(
        f"record = new_record({code.ref(derivative, 'derivative')}, [{', '.join(inputs)}], "
        f"({''.join(f'{e}, ' for e in edges)}), [{', '.join(versions)}], {copies}, [{', '.join(residuals)}])"
    )


def _connect(
    code: _Code,
    variant: Variant,
    arguments: list[str],
    inputs: list[str],
    results: list[str],
    copies: str,
) -> None:
    """Count versions, wrap the results, assign grads, and build the returned value."""
    plan, derivative = variant.plan, variant.derivative
    for number, bump in plan.bumps.items():
        if bump.steps:
            _count(code, inputs[number], bump)
    if derivative is not None:
        _make_record(code, variant, inputs, results, copies)
    tensors: dict[int, str] = {}
    for leaf in plan.leaves:
        if leaf.kind == "new" and leaf.number not in tensors:
            name = tensors[leaf.number] = f"t{leaf.number}"
            record = None
            if leaf.freed is not None:
                sources = [plan.sources[n] for n in leaf.freed[1]]
                if any(s.kind == "argument" for s in sources) and all(
                    s.kind in ("argument", "capture") for s in sources
                ):
                    made_of = "".join(
                        f"{arguments[s.number] if s.number >= 0 else code.ref(s.tensor, 'c')}, "
                        for s in sources
                    )
                    record = f"{code.ref(Freed, 'Freed')}({leaf.freed[0]!r}, ({made_of}))"
                elif any(s.number >= 0 or s.kind == "grad" for s in sources):
                    make = code.ref(variant.freed_record, "freed")
                    record = f"{make}({leaf.freed!r}, ({''.join(f'{a}, ' for a in arguments)}))"
                else:
                    record = code.ref(variant.freed_record(leaf.freed, ()), "freed")
            elif leaf.root >= 0:
                record = "record"
            _make_tensor(code, name, results[leaf.number], plan.outputs[leaf.number], record)
            if leaf.root > 0:
                code.line(f"{name}._output_nr = {leaf.root}")
            if derivative is not None and leaf.root in derivative.watched_outputs:
                code.line(f"record.watch_result({leaf.root}, {name})")
    for owner, output in plan.grads:
        name = _owner_name(code, owner, arguments)
        if output is None:
            code.line(f"{name}._grad = None")
            continue
        if output not in tensors:
            tensors[output] = f"t{output}"
            _make_tensor(code, f"t{output}", results[output], plan.outputs[output], None)
        code.line(f"{name}._grad = t{output}")
    expressions = []
    for leaf in plan.leaves:
        if leaf.kind == "new":
            expressions.append(tensors[leaf.number])
        elif leaf.kind == "owner":
            expressions.append(_owner_name(code, leaf.value, arguments))
        elif leaf.kind == "grad":
            expressions.append(tensors[plan.grads[leaf.number][1] or 0])
        elif leaf.kind == "number":
            expressions.append(f"{code.ref(leaf.value, 'type')}({results[leaf.number]})")
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
