"""Exceptions of the IR layer. Each carries the node and with it the user's line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .graph import Node


class IRError(RuntimeError):
    """Something is wrong with a graph: a compiler bug, or a rule that does not exist."""

    def __init__(self, message: str, node: Node | None = None) -> None:
        self.node = node
        location = getattr(node, "location", None)
        super().__init__(f"{message}\n  from {location.describe()}" if location else message)


class VerificationError(IRError):
    """A graph breaks an invariant of the IR."""


class ParseError(IRError):
    """IR text that is not well formed. The message names line and column."""


class NoDerivativeError(IRError):
    """An op has no derivative rule for the operand that needs one."""


class NoBatchingRuleError(IRError):
    """An op has no batching rule."""


class LinAlgError(RuntimeError):
    """A matrix is singular, or not positive-definite, where it must not be; ``torch.linalg.LinAlgError``."""
