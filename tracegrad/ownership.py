"""Results that are views only by the way in which they were computed, and are none to users.

A composition may end in a reshape of an intermediate result. Nobody else holds that one, and torch has no such view.
:func:`own_results` is asked about what the functions return that are one operation to torch's users.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tracegrad.node import UNTRACKED
from tracegrad.tensor import Tensor, mark_made


def disowned(out: Tensor) -> Tensor:
    """A result that happens to be a view of an intermediate one, which nobody else has: no view to users.

    In-place changes are counted together all the same: a record may have saved the intermediate one.
    """
    out._base = out._view = None
    if out._counter is UNTRACKED:
        out._counter = None
    return mark_made(out)


def own_results(returned: Any, args: Iterable[Any], kwargs: dict[str, Any]) -> Any:
    """What a function returned for these arguments, where only views of arguments are views."""
    if isinstance(returned, Tensor):
        base = returned._base
        if base is not None and not any(
            x is base or x._base is base for x in _tensors((*args, *kwargs.values()))
        ):
            disowned(returned)
    elif isinstance(returned, (tuple, list)):
        for item in returned:
            if isinstance(item, Tensor) and item._base is not None:
                own_results(item, args, kwargs)
    return returned


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments, of which some may be sequences of tensors."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
