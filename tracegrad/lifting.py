"""Which Python numbers a compiled function takes as inputs instead of constants.

A number is a constant of the first trace that reads it. When it turns out to vary, it is *lifted*: later traces see a
:class:`~tracegrad.traced_number.TracedNumber` in its place, and what they compile reads the number at each call. So a
thousand learning rates cost two compilations. Floats and ints are lifted that are arguments, or stand in a dict
(attributes and globals do), a list or a closure cell. One on whose value Python decides more than the outcome of a
comparison is pinned, and not lifted again.

The data structure is :class:`Lifting`, one per compiled function. Start reading at :meth:`Lifting.put`.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import CellType, CodeType
from typing import Any

from tracegrad import pytree
from tracegrad.bytecode import facts_of
from tracegrad.guards import Entry, Place, Snapshot
from tracegrad.traced_number import LARGEST_INPUT, TracedNumber, is_traced
from tracegrad.tracing import Trace

_DICTS = (dict, collections.OrderedDict, collections.defaultdict)
_TYPE_IS_SEEN = frozenset(
    "type __class__ Decimal Fraction timedelta json dumps marshal struct ctypes".split()
)
"""Code that mentions one of these may see that a number in a float's place is none."""

under_way = [0]
"""How many functions run with traced numbers in the places of plain ones, in all threads. What others read from such a
place behaves as the number, but is none that a guard should compare with."""

_LIFTED = object()
"""With the type of a number in the key of a call: stands for any number of this type."""


class Lifting:
    """What a compiled function has learnt about the numbers that it reads.

    Attributes:
        leaves: per structure of the arguments the positions of the leaves that are lifted.
        places: the lifted places in Python's state.
    """

    def __init__(self) -> None:
        self.leaves: dict[Any, frozenset[int]] = {}
        self.places: dict[Place, Entry] = {}
        self._pinned_leaves: set[tuple[Any, int]] = set()
        self._pinned_places: dict[Place, Entry] = {}

    def keys(self, spec: Any, leaves: Sequence[Any], keys: list[Any]) -> tuple[Any, ...]:
        """The keys of the leaves of a call, with those of lifted numbers replaced."""
        for position in self.leaves.get(spec, ()):
            if _can_be_input(leaves[position]):
                keys[position] = type(leaves[position]), _LIFTED
        return tuple(keys)

    def lift_leaves(
        self, spec: Any, keys: tuple[Any, ...], known: Iterable[tuple[Any, ...]]
    ) -> bool:
        """Lift the arguments in which a call differs from an earlier one, if these are numbers.

        Args:
            spec, keys: of the call.
            known: the keys of earlier calls of this structure.

        Returns:
            Whether there are new ones.
        """
        possible = _exchangeable_leaves(spec)
        for other in known:
            differing = [i for i, (a, b) in enumerate(zip(keys, other, strict=True)) if a != b]
            if differing and all(
                i in possible
                and (spec, i) not in self._pinned_leaves
                and _number_type(keys[i]) is not None
                and _number_type(keys[i]) is _number_type(other[i])
                for i in differing
            ):
                self.leaves[spec] = self.leaves.get(spec, frozenset()).union(differing)
                return True
        return False

    def lift_places(self, changed: Sequence[Entry]) -> bool:
        """Lift the places that hold something else than in an earlier call, if all can be."""
        if not all(map(self._is_liftable, changed)):
            return False
        self.places.update((entry.place, entry) for entry in changed)
        return bool(changed)

    def _is_liftable(self, entry: Entry) -> bool:
        now = entry.read()
        return (
            type(now) is type(entry.value)
            and _can_be_input(now)
            and entry.place not in self._pinned_places
            and (
                type(entry.container) in (*_DICTS, list)
                if entry.kind == "item"
                else entry.kind == "cell"
            )
        )

    @contextlib.contextmanager
    def put(
        self,
        trace: Trace,
        spec: Any,
        leaves: Sequence[Any],
        call: tuple[tuple[Any, ...], dict[str, Any]],
        before: Snapshot | None,
    ) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Put traced numbers into the places of the lifted ones while a function runs.

        Args:
            spec, leaves: of the arguments.
            call: positional and keyword arguments.
            before: the state that the function can reach, and its code; None where that is not known.

        Yields:
            The arguments to call the function with.
        """
        positions = [p for p in self.leaves.get(spec, ()) if _can_be_input(leaves[p])]
        known = {} if before is None else before.entries
        entries = [known[place] for place in self.places if place in known]
        entries = [entry for entry in entries if _can_be_input(entry.value)]
        if before is None or _sees_types(before.users_codes):
            self._pinned_leaves.update((spec, position) for position in positions)
            self._pinned_places.update(self.places)
            self.leaves[spec] = frozenset()
            self.places.clear()
            yield call
            return
        args, kwargs = list(call[0]), dict(call[1])
        holders = _holders(args, kwargs)
        held: list[tuple[Any, Any, Any, TracedNumber]] = []

        def replace(container: Any, key: Any, value: Any, place: int | Entry) -> None:
            number = trace.number(value, place)
            held.append((container, key, value, number))
            _write(container, key, number)

        under_way[0] += 1
        try:
            for position in positions:
                replace(*holders[position], leaves[position], position)
            for entry in entries:
                replace(entry.container, entry.key, entry.value, entry)
            yield tuple(args), kwargs
        finally:
            for container, key, value, number in held:
                if _read(container, key) is number:
                    _write(container, key, value)
            under_way[0] -= 1

    def learn(self, trace: Trace, spec: Any) -> None:
        """Note which numbers a trace has pinned."""
        for index in trace.pins:
            place = trace.sources[index].place
            if isinstance(place, Entry):
                self._pinned_places[place.place] = place
                self.places.pop(place.place, None)
            else:
                assert place is not None
                self._pinned_leaves.add((spec, place))
                self.leaves[spec] = self.leaves[spec] - {place}


def _number_type(key: Any) -> type | None:
    """The type of the number that a leaf's key describes; None for other leaves."""
    return key[0] if type(key) is tuple and key[0] in (float, int) else None


def _can_be_input(value: Any) -> bool:
    return type(value) is float or (type(value) is int and -LARGEST_INPUT <= value <= LARGEST_INPUT)


def _exchangeable_leaves(spec: Any) -> set[int]:
    """The positions of the leaves that are arguments themselves, or stand in a dict or a list."""
    found: set[int] = set()
    count = 0

    def walk(spec: Any, exchangeable: bool) -> None:
        nonlocal count
        if spec is None:
            if exchangeable:
                found.add(count)
            count += 1
            return
        for child in spec[2]:
            walk(child, spec[0] in (dict, list))

    _, _, (positional, by_name) = spec
    for child in (*positional[2], *by_name[2]):
        walk(child, True)
    return found


def _holders(args: list[Any], kwargs: dict[str, Any]) -> list[tuple[Any, Any]]:
    """For each leaf the container that it stands in, and its key there."""
    found: list[tuple[Any, Any]] = []

    def walk(container: Any) -> None:
        items = container.items() if type(container) is dict else enumerate(container)
        for key, item in items:
            if pytree.flatten(item)[1] is None:
                found.append((container, key))
            else:
                walk(item)

    walk(args)
    walk(kwargs)
    return found


def _sees_types(codes: Iterable[CodeType]) -> bool:
    return any(
        not _TYPE_IS_SEEN.isdisjoint((*facts.globals, *facts.attributes, *facts.imports))
        or any(variable == "float" for variable, _ in facts.pairs)
        for facts in map(facts_of, codes)
    )


def _read(container: Any, key: Any) -> Any:
    try:
        return container.cell_contents if isinstance(container, CellType) else container[key]
    except (LookupError, ValueError):
        return None


def _write(container: Any, key: Any, value: Any) -> None:
    if isinstance(container, CellType):
        container.cell_contents = value
    else:
        container[key] = value


def plain_result(returned: Any) -> Any:
    """What a traced function returned, with plain numbers in the place of traced ones."""
    leaves, spec = pytree.flatten(returned)
    if not any(map(is_traced, leaves)):
        return returned
    return pytree.unflatten(spec, iter([x._data if is_traced(x) else x for x in leaves]))


def recover(numbers: list[TracedNumber]) -> None:
    """Replace the traced numbers that a function has stored somewhere by their values.

    Args:
        numbers: all of a trace that is over. The list is emptied.

    Those that only records of operations hold stay: they behave as their values.
    """
    while numbers:
        number = numbers.pop()
        if sys.getrefcount(number) <= 2:  # The variable here, and the argument.
            continue
        for holder in gc.get_referrers(number):
            if type(holder) is list:
                holder[:] = [number._data if item is number else item for item in holder]
                continue
            space = holder if isinstance(holder, dict) else getattr(holder, "__dict__", None)
            if isinstance(space, dict):
                for key in [key for key, item in space.items() if item is number]:
                    space[key] = number._data
