"""Exceptions of the IR layer. Each carries the node and with it the user's line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


class MismatchError(IRError):
    """Native code gives another value than the interpreter; see ``tg.compile(check=True)``.

    Attributes:
        node: the first node that differs; ``node.location`` is the user's line.
        line: the number of that line, None where it is not known.
        native, interpreted: both values as arrays; of guards, which end a run, a description each.
    """

    def __init__(self, message: str, node: Node, native: Any, interpreted: Any) -> None:
        super().__init__(message, node)
        self.node: Node = node
        self.line = None if node.location is None else node.location.line
        self.native = native
        self.interpreted = interpreted


class LinAlgError(RuntimeError):
    """A matrix is singular, or not positive-definite, where it must not be; ``torch.linalg.LinAlgError``."""
