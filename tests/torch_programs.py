"""Programs that are run with torch as well: what they return, log, warn and raise must agree.

A program is given the module and a log, and returns anything made of tensors, numbers and strings. Start with
:func:`outcome`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import tracegrad as tg

try:
    import torch
except ImportError:  # The tests that compare are skipped then.
    torch = tg

Program = Callable[[Any, list[Any]], Any]


def plain(value: Any) -> Any:
    """A value in a form in which those of both libraries can be compared."""
    if isinstance(value, (tg.Tensor, torch.Tensor)):
        dtype = str(value.dtype).rpartition(".")[2]
        return [dtype, [*value.shape], [*value.stride()], value.requires_grad, value.tolist()]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def outcome(m: Any, run: Program) -> Any:
    """What a program comes to: its result (or the type and first line of what it raised), the log, the warnings."""
    log: list[Any] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = plain(run(m, log))
        except Exception as error:
            result = type(error).__name__, str(error).partition("\n")[0]
    words = [
        (w.category.__name__, str(w.message).partition(" See ")[0])
        for w in caught
        # torch's own use of what it deprecates; and what is said once in a process.
        if "torch.jit.script" not in str(w.message) and "reference cycle" not in str(w.message)
    ]
    return result, plain(log), words
