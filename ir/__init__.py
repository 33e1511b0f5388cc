"""tracegrad.ir: the SSA graph, the op table, text form, verifier, interpreter, autodiff and passes.

Needs NumPy only. Public names of the layer; nothing is defined here. In order of processing: a
:class:`~tracegrad.ir.builder.GraphBuilder` makes a :class:`~tracegrad.ir.graph.Graph`,
:mod:`.autodiff` appends to it, :mod:`.passes` make it smaller, :mod:`.interpreter` runs it.
"""

from . import config, events, ops
from .autodiff import append_adjoint, append_tangent, differentiate
from .builder import GraphBuilder
from .errors import IRError, NoDerivativeError, ParseError, VerificationError
from .graph import Graph, Node
from .interpreter import evaluate
from .location import SourceLocation
from .op import Op, all_ops, registered
from .parser import parse
from .passes import DEFAULT, GraphPass, PassPipeline, graph_pass, optimize, partition
from .printer import show, to_json
from .program import Program
from .structural import structural_key
from .types import DTYPES, DType, TensorType
from .verify import verify

__all__ = [
    "DEFAULT", "DTYPES", "DType", "Graph", "GraphBuilder", "GraphPass", "IRError",
    "NoDerivativeError", "Node", "Op", "ParseError", "PassPipeline", "Program", "SourceLocation",
    "TensorType", "VerificationError", "all_ops", "append_adjoint", "append_tangent", "config",
    "differentiate", "evaluate", "events", "graph_pass", "ops", "optimize", "parse", "partition",
    "registered", "show", "structural_key", "to_json", "verify",
]  # fmt: skip
