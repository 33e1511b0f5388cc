"""``tracegrad.nn.modules``: torch's path to the base of all modules and to the hooks of all modules."""

from tracegrad.nn.modules import module
from tracegrad.nn.modules.module import Module

__all__ = ["Module", "module"]
