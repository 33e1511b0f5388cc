"""Flattening nested containers of arguments and results into leaves, and putting them together again.

Containers are tuples (named ones too), lists and dicts, exactly of these types; everything else is a leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Spec = Any
"""A hashable description of the containers: ``None`` for a leaf, else (kind, keys or type, children)."""


def flatten(value: Any) -> tuple[list[Any], Spec]:
    """The leaves in order, and the structure around them."""
    leaves: list[Any] = []
    return leaves, _flatten(value, leaves)


def _flatten(value: Any, leaves: list[Any]) -> Spec:
    cls = value.__class__
    if cls is tuple or cls is list:
        return cls, len(value), tuple([_flatten(item, leaves) for item in value])
    if cls is dict:
        return dict, tuple(value), tuple([_flatten(item, leaves) for item in value.values()])
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return cls, len(value), tuple([_flatten(item, leaves) for item in value])
    leaves.append(value)
    return None


def containers(value: Any) -> Iterator[Any]:
    """The lists and dicts that `flatten` looks into, once for each place where they stand."""
    stack = [value]
    while stack:
        item = stack.pop()
        cls = item.__class__
        if cls is list or cls is dict:
            yield item
        if cls is dict:
            stack.extend(item.values())
        elif cls is list or (issubclass(cls, tuple) and (cls is tuple or hasattr(cls, "_fields"))):
            stack.extend(item)


def unflatten(spec: Spec, leaves: Iterator[Any]) -> Any:
    """The value with this structure and these leaves."""
    if spec is None:
        return next(leaves)
    kind, keys, children = spec
    items = [unflatten(child, leaves) for child in children]
    if kind is dict:
        return dict(zip(keys, items, strict=True))
    if kind is tuple or kind is list:
        return kind(items)
    return kind(*items)


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """The same structure with `function` applied to each leaf."""
    leaves, spec = flatten(value)
    return unflatten(spec, iter([function(leaf) for leaf in leaves]))


def count_leaves(spec: Spec) -> int:
    """How many leaves a structure has."""
    return 1 if spec is None else sum(count_leaves(child) for child in spec[2])


def broadcast(prefix: Any, spec: Spec) -> list[Any] | None:
    """One value for each leaf of a structure, from a value that has its structure, or less of it.

    A leaf of `prefix` stands for all leaves below its place. None if `prefix` does not fit.
    """
    leaves, outer = flatten(prefix)
    found: list[Any] = []
    return found if _broadcast(outer, iter(leaves), spec, found) else None


def _broadcast(outer: Spec, leaves: Iterator[Any], spec: Spec, found: list[Any]) -> bool:
    if outer is None:
        found += [next(leaves)] * count_leaves(spec)
        return True
    if spec is None or outer[0] is not spec[0] or outer[1] != spec[1]:
        return False
    return all(_broadcast(a, leaves, b, found) for a, b in zip(outer[2], spec[2], strict=True))


def describe(spec: Spec) -> str:
    """A structure as text, with ``*`` for each leaf."""
    return repr(unflatten(spec, iter([_Leaf()] * count_leaves(spec))))


class _Leaf:
    def __repr__(self) -> str:
        return "*"
