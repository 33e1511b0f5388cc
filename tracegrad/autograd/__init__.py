"""``tracegrad.autograd``: torch.autograd's public names.

Records are in :mod:`tracegrad.node`; ``engine`` sweeps over them, ``backward`` is the public way in,
``function`` is for operations with derivatives of the user's own. ``functional`` has Jacobians and the like,
``profiler`` listens to what runs, ``derivative_checks`` is what ``gradcheck`` does: these are imported when used.
"""

import importlib
from typing import Any

from tracegrad.autograd import graph
from tracegrad.autograd.anomaly import detect_anomaly, set_detect_anomaly
from tracegrad.autograd.backward import backward, grad
from tracegrad.autograd.gradcheck import gradcheck, gradgradcheck
from tracegrad.grad_mode import (
    enable_grad,
    exact_where,
    inference_mode,
    no_grad,
    set_grad_enabled,
    set_multithreading_enabled,
)
from tracegrad.tensor import Tensor

Variable = Tensor

__all__ = [
    "Variable",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "exact_where",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "graph",
    "inference_mode",
    "no_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
    "set_multithreading_enabled",
]

_LATE = {"Function": "function", "find_nan": "nan_finder"}


def __getattr__(name: str) -> Any:
    if name in ("forward_ad", "functional", "profiler"):
        return importlib.import_module(f"{__name__}.{name}")
    if name in _LATE:
        return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
