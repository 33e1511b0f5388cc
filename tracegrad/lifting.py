"""Which Python numbers a compiled function takes as inputs instead of constants.

A number is a constant of the first trace that reads it. When it turns out to vary, it is *lifted*: later traces see a
:class:`~tracegrad.traced_number.TracedNumber` in its place, and what they compile reads the number at each call. So a
thousand learning rates cost two compilations. Floats are lifted that are arguments, or stand in a dict (attributes and
globals do), a list or a closure cell. One on whose value Python decides more than the outcome of a comparison is
pinned, and not lifted again.

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
from tracegrad.traced_number import TracedNumber
from tracegrad.tracing import Trace

_DICTS = (dict, collections.OrderedDict, collections.defaultdict)
_TYPE_IS_SEEN = frozenset(
    "type __class__ Decimal Fraction timedelta json dumps marshal struct ctypes".split()
)
"""Code that mentions one of these may see that a number in a float's place is none."""

LIFTED = object()
"""Stands for any float in the key of a call."""


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
            if type(leaves[position]) is float:
                keys[position] = LIFTED
        return tuple(keys)

    def lift_leaves(
        self, spec: Any, keys: tuple[Any, ...], known: Iterable[tuple[Any, ...]]
    ) -> bool:
        """Lift the arguments in which a call differs from an earlier one, if these are floats.

        Args:
            spec, keys: of the call.
            known: the keys of earlier calls of this structure.

        Returns:
            Whether there are new ones.
        """
        for other in known:
            differing = [i for i, (a, b) in enumerate(zip(keys, other, strict=True)) if a != b]
            if differing and all(
                _is_float_key(keys[i])
                and _is_float_key(other[i])
                and (spec, i) not in self._pinned_leaves
                and i in _direct_arguments(spec)
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
        return (
            type(entry.value) is float
            and type(entry.read()) is float
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
        positions = [p for p in self.leaves.get(spec, ()) if type(leaves[p]) is float]
        known = {} if before is None else before.entries
        entries = [known[place] for place in self.places if place in known]
        entries = [entry for entry in entries if type(entry.value) is float]
        if before is None or _sees_types(before.users_codes):
            self._pinned_leaves.update((spec, position) for position in positions)
            self._pinned_places.update(self.places)
            self.leaves[spec] = frozenset()
            self.places.clear()
            yield call
            return
        args, kwargs = list(call[0]), dict(call[1])
        direct = _direct_arguments(spec)
        for position in positions:
            where = direct[position]
            container: Any = args if isinstance(where, int) else kwargs
            container[where] = trace.number(leaves[position], position)
        held = []
        try:
            for entry in entries:
                number = trace.number(entry.value, entry)
                held.append((entry, number))
                _write(entry, number)
            yield tuple(args), kwargs
        finally:
            for entry, number in held:
                if entry.read() is number:
                    _write(entry, entry.value)

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


def _is_float_key(key: Any) -> bool:
    return key is LIFTED or (type(key) is tuple and key[0] is float)


def _direct_arguments(spec: Any) -> dict[int, int | str]:
    """Arguments that are no containers: position among the leaves -> position or name."""
    _, _, (positional, by_name) = spec
    names = [*range(len(positional[2])), *(by_name[1])]
    found: dict[int, int | str] = {}
    count = 0
    for name, child in zip(names, (*positional[2], *by_name[2]), strict=True):
        if child is None:
            found[count] = name
        count += pytree.count_leaves(child)
    return found


def _sees_types(codes: Iterable[CodeType]) -> bool:
    return any(
        not _TYPE_IS_SEEN.isdisjoint((*facts.globals, *facts.attributes, *facts.imports))
        or any(variable == "float" for variable, _ in facts.pairs)
        for facts in map(facts_of, codes)
    )


def _write(entry: Entry, value: Any) -> None:
    if isinstance(entry.container, CellType):
        entry.container.cell_contents = value
    else:
        entry.container[entry.key] = value


def plain_result(returned: Any) -> Any:
    """What a traced function returned, with plain numbers in the place of traced ones."""
    leaves, spec = pytree.flatten(returned)
    if not any(type(leaf) is TracedNumber for leaf in leaves):
        return returned
    return pytree.unflatten(
        spec, iter([x.pinned() if type(x) is TracedNumber else x for x in leaves])
    )


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
