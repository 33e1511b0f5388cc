"""What compilation did, as text: the stages of a variant, and the report of ``f.explain()``."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from tracegrad.ir.graph import Graph, Node
from tracegrad.ir.nx import to_dot
from tracegrad.ir.printer import show, to_json

if TYPE_CHECKING:
    from tracegrad.compiler import CompiledFunction
    from tracegrad.variant import Variant

STAGES = ("trace", "joint", "optimized", "kernels", "llvm", "asm")
FORMATS = ("text", "dot", "json")
_GRAPH_STAGES = ("trace", "joint", "optimized")


def show_stage(variant: Variant, stage: str, format: str = "text") -> str:
    """A variant's program at one stage; see ``CompiledFunction.ir``.

    Raises:
        ValueError: an unknown stage or format, or a format that the stage does not have.
        RuntimeError: the stage needs native code, and there is none.
    """
    if stage != "all" and stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}; choose one of {', '.join(STAGES)}, all")
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; choose one of {', '.join(FORMATS)}")
    if format != "text" and stage not in _GRAPH_STAGES:
        raise ValueError(
            f"format {format!r} needs a graph: choose stage {', '.join(_GRAPH_STAGES)}"
        )
    if stage == "all":
        return "\n\n".join(f"=== {name} ===\n{show_stage(variant, name)}" for name in STAGES)
    if stage in _GRAPH_STAGES:
        graph = stage_graph(variant, stage)
        if format == "dot":
            return to_dot(graph)
        return json.dumps(to_json(graph), indent=2) if format == "json" else show(graph)
    executable = variant.executable
    method = {"kernels": "kernels_text", "llvm": "llvm_text", "asm": "assembly"}[stage]
    if not hasattr(executable, method):
        reason = executable.fallbacks[0].reason if executable.fallbacks else "interpreted"
        return f"(no {stage}: {reason})"
    return getattr(executable, method)()


def stage_graph(variant: Variant, stage: str) -> Graph:
    """The graph of one of the stages ``trace``, ``joint``, ``optimized``."""
    if stage == "optimized":
        return variant.executable.program.graph
    if stage == "joint":
        return (
            variant.plan.program.graph
            if variant.derivative is None
            else variant.derivative.joint.graph
        )
    return primal_part(variant.plan.program.graph)


def primal_part(graph: Graph) -> Graph:
    """The nodes that are there without any differentiation, and the outputs among them."""
    late: set[Node] = set()
    for node in graph.nodes:
        if node.origin is not None or any(x in late for x in node.inputs):
            late.add(node)
    return graph.replace(
        nodes=[node for node in graph.nodes if node not in late],
        outputs=[node for node in graph.outputs if node not in late],
    )


def explain_function(function: CompiledFunction) -> str:
    """The report of ``f.explain()``."""
    stats = function.stats
    lines = [
        f"{function.name}: {stats.calls} calls: {stats.native} native, {stats.interpreted} interpreted, "
        f"{stats.eager} eager",
        f"{stats.traces} traces, {stats.compilations} compilations in {stats.compile_seconds * 1e3:.1f} ms, "
        f"{stats.variants} variants kept",
    ]
    if function.eager_reason is not None:
        reason, location = function.eager_reason
        lines.append(f"runs eagerly: {reason}" + (f"\n  {location.describe()}" if location else ""))
    for reason, location in function.refusals[-5:]:
        if function.eager_reason != (reason, location):
            lines.append(
                f"a run was not compiled: {reason}" + (f" ({location})" if location else "")
            )
    for reason, count in stats.guard_failures.items():
        lines.append(f"guard failed {count} times: {reason}")
    for number, variant in enumerate(function.variants):
        lines += ["", *_explain_variant(number, variant)]
    return "\n".join(lines)


def _explain_variant(number: int, variant: Variant) -> list[str]:
    plan = variant.plan
    program = plan.program
    inputs = ", ".join(f"{x.hint}: {x.type}" for x in program.graph.inputs)
    lines = [f"variant {number}:"]
    lines.append(f"  inputs: {inputs or 'none'}")
    kinds = Counter(source.kind for source in plan.sources)
    lines.append(
        "  read at each call: "
        + (", ".join(f"{n} {kind}s" for kind, n in kinds.items()) or "nothing")
    )
    numbers = [s.place for s in plan.sources if s.place is not None]
    if numbers:
        names = (f"argument {p}" if isinstance(p, int) else p.name for p in numbers)
        lines.append(f"  numbers read at each call: {', '.join(names)}")
    nodes = len(variant.executable.program.graph.nodes)
    lines.append(f"  {len(program.graph.nodes)} nodes traced, {nodes} after optimization")
    for output, index in program.updates.items():
        hint = program.graph.inputs[index].hint
        lines.append(f"  written in place: {hint} ({program.graph.outputs[output].type})")
    new_grads = sum(1 for _, output in plan.grads if output is not None)
    if plan.grads:
        lines.append(f"  grad of {len(plan.grads)} leaves is assigned ({new_grads} new tensors)")
    for guard in plan.guards:
        place = f" ({guard.location})" if guard.location else ""
        lines.append(f"  guard: {guard.what}{place}")
    lines.append(f"  guarded Python state: {len(variant.guard.entries)} places")
    fallbacks = variant.executable.fallbacks
    reasons = Counter((fallback.node.op.name, fallback.reason) for fallback in fallbacks)
    for (op, reason), count in reasons.items():
        lines.append(f"  interpreted: {op} x {count}: {reason}")
    if not fallbacks:
        lines.append("  everything is native")
    return lines
