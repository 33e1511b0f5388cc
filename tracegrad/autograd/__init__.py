"""``tracegrad.autograd``: torch.autograd's public names.

Records are in :mod:`tracegrad.node`; ``engine`` sweeps over them, ``backward`` is the public way in,
``functional`` has Jacobians and the like, ``profiler`` listens to what runs. These two are imported when used.
"""

import importlib
from types import ModuleType

from tracegrad.autograd import graph
from tracegrad.autograd.backward import backward, grad
from tracegrad.grad_mode import enable_grad, no_grad, set_grad_enabled
from tracegrad.tensor import Tensor

Variable = Tensor

__all__ = ["Variable", "backward", "enable_grad", "grad", "graph", "no_grad", "set_grad_enabled"]


def __getattr__(name: str) -> ModuleType:
    if name in ("functional", "profiler"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
