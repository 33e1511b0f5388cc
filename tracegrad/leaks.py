"""Traced runs that cannot be compiled, since Python keeps or has changed what a native call would not.

Start reading at :func:`refuse_leaks`.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

from tracegrad import pytree
from tracegrad.guards import StateGuard
from tracegrad.node import Node
from tracegrad.plan import Plan, RefusedError
from tracegrad.tensor import Tensor
from tracegrad.tracing import Trace


def check_arguments(args: Any, kwargs: Any, spec: Any, leaves: list[Any]) -> None:
    """Refuse a run that changed a container among its arguments."""
    now, new_spec = pytree.flatten((args, kwargs))
    if new_spec != spec or any(a is not b for a, b in zip(now, leaves, strict=True)):
        raise RefusedError("it changes a container that is an argument")


def check_attributes(tensors: list[Tensor], guard: StateGuard) -> None:
    """Refuse a run that may have read attributes that the user gave to a tensor argument."""
    for tensor in tensors:
        if id(tensor) not in guard.tensors and not guard.names.isdisjoint(tensor._attributes()):
            raise RefusedError("it can read attributes of a tensor argument")


def refuse_leaks(trace: Trace, returned: Any, made: Plan) -> None:
    """Refuse a run after which Python still holds a new tensor that is not part of the result.

    Raises:
        RefusedError: it would be missing after a native call.
    """
    outside = {id(source.tensor) for source in trace.sources}
    outside.update(id(entry) for entry in trace.entry_grads.values())
    new = [weakref.ref(t) for t in trace.known_tensors() if id(t) not in outside]
    owners = [owner.tensor for owner, _ in made.grads]
    arguments = [source.tensor for source in trace.sources]
    trace.forget()
    if not any(r() is not None for r in new):
        return
    explained = _explained([*pytree.flatten(returned)[0], *owners, *arguments])
    if any((t := r()) is not None and id(t) not in explained for r in new):
        gc.collect()
        if any((t := r()) is not None and id(t) not in explained for r in new):
            raise RefusedError("a tensor made inside is kept somewhere")


def _explained(roots: list[Any]) -> set[int]:
    """The tensors and records that hang on some tensors."""
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        if isinstance(item, Tensor):
            seen.add(id(item))
            stack += [item._grad, item._base, item._grad_fn]
            if item._view is not None:
                stack.append(item._view[0])
        elif isinstance(item, Node):
            seen.add(id(item))
            stack += item.edges
            stack += getattr(item, "saved", None) or ()
    return seen
