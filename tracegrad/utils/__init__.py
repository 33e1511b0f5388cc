"""``tracegrad.utils``: torch's name for what stands beside the rest: :mod:`.checkpoint` and :mod:`.data`."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Imported when first used."""
    if name in ("checkpoint", "data"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
