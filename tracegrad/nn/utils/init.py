"""Making a module whose parameters are to be filled later."""

from __future__ import annotations

import inspect
from typing import Any

from tracegrad.nn.module import Module
from tracegrad.random import get_rng_state, set_rng_state


def skip_init(module_cls: type, *args: Any, **kwargs: Any) -> Any:
    """A module whose parameters must not be relied on; nothing is drawn from the random generator.

    Raises:
        RuntimeError: no class of modules, or one without the argument `device`.
    """
    if not issubclass(module_cls, Module):
        raise RuntimeError(f"Expected a Module; got {module_cls}")
    if "device" not in inspect.signature(module_cls).parameters:
        raise RuntimeError("Module must support a 'device' arg to skip initialization")
    before = get_rng_state()
    try:
        return module_cls(*args, **kwargs)
    finally:
        set_rng_state(before)
