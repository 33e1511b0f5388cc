"""tracegrad.ir: the SSA graph, the op table, text form, verifier, interpreter, autodiff, passes.

Needs NumPy only. Public names of the layer; nothing is defined here. In order of processing: a
:class:`~tracegrad.ir.builder.GraphBuilder` makes a :class:`~tracegrad.ir.graph.Graph`,
:mod:`.autodiff` appends to it, :mod:`.passes` make it smaller, :mod:`.interpreter` runs it.

What eager execution does not need is imported when it is first used: ``import tracegrad`` stays
quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import events, ops
from .autodiff import append_adjoint, append_tangent, differentiate
from .builder import GraphBuilder
from .errors import IRError, NoDerivativeError, ParseError, VerificationError
from .graph import Graph, Node
from .interpreter import evaluate
from .location import SourceLocation
from .op import Op, all_ops, registered
from .printer import show, to_json
from .program import Program
from .types import DTYPES, DType, TensorType
from .verify import verify

if TYPE_CHECKING:
    from . import config
    from .parser import parse
    from .passes import DEFAULT, GraphPass, PassPipeline, graph_pass, optimize
    from .structural import structural_key

_LATE = {
    "DEFAULT": "passes",
    "GraphPass": "passes",
    "PassPipeline": "passes",
    "graph_pass": "passes",
    "optimize": "passes",
    "parse": "parser",
    "structural_key": "structural",
}


def __getattr__(name: str) -> Any:
    if name == "config":
        return import_module(f"{__name__}.config")
    if name in _LATE:
        value = getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DEFAULT", "DTYPES", "DType", "Graph", "GraphBuilder", "GraphPass", "IRError",
    "NoDerivativeError", "Node", "Op", "ParseError", "PassPipeline", "Program", "SourceLocation",
    "TensorType", "VerificationError", "all_ops", "append_adjoint", "append_tangent", "config",
    "differentiate", "evaluate", "events", "graph_pass", "ops", "optimize", "parse",
    "registered", "show", "structural_key", "to_json", "verify",
]  # fmt: skip
