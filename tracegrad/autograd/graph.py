"""``tracegrad.autograd.graph``: the records as users may inspect them."""

from tracegrad.node import Node

__all__ = ["Node"]
