"""Kernels in words, for people."""

from __future__ import annotations

from ..ir.graph import Node
from .index import Affine
from .kernel import (
    Apply,
    Buffer,
    Constant,
    DecisionKernel,
    Kernel,
    Load,
    LoopKernel,
    MatmulKernel,
    MultiplyAdd,
    OutOfBounds,
    Position,
    PythonStep,
    View,
)


def describe(kernel: Kernel, names: dict[Node, str]) -> str:
    """A kernel in words, for people."""
    match kernel:
        case LoopKernel():
            return _describe_loops(kernel, names)
        case MatmulKernel():
            lines = [
                f"matmul {names[kernel.node]}: {kernel.node.type} = "
                f"{_view_text(kernel.a)} @ {_view_text(kernel.b)}"
                + (f" -> {kernel.out.real.name}" if kernel.out is not None else "")
            ]
            if kernel.epilogue is not None:
                lines.append("  for each element of the product:")
                lines += ["  " + line for line in _body_lines(kernel.epilogue, names)]
            return "\n".join(lines)
        case DecisionKernel():
            what = "guard" if kernel.status == 1 else "check"
            return f"{what} {kernel.buffer.real.name}, else leave with status {kernel.status}"
        case PythonStep():
            reason = kernel.reason or "a large product, left to BLAS"
            node = kernel.node
            return f"python {names[node]}: {node.type} = {node.op.name}  # {reason}"


def _view_text(view: View) -> str:
    return f"{view.buffer.real.name}{list(view.shape)}:{list(view.strides)}"


def _describe_loops(kernel: LoopKernel, names: dict[Node, str]) -> str:
    head = f"loops over {list(kernel.extents)}" if kernel.extents else "straight code"
    if kernel.region is not None:
        head += f", from {list(kernel.region.start)} on"
    if kernel.reduced:
        head += f", reducing {sorted(kernel.reduced)}"
    roots = ", ".join(dict.fromkeys(names[node] for node in kernel.nodes))
    return "\n".join([f"{head}: {roots}", *_body_lines(kernel, names)])


def _body_lines(kernel: LoopKernel, names: dict[Node, str]) -> list[str]:
    lines = []

    def place(buffer: Buffer, offset: Affine, dynamic: tuple[tuple[int, int], ...]) -> str:
        parts = [str(offset), *(f"{stride}*v{value}" for value, stride in dynamic)]
        return f"{buffer.real.name}[{' + '.join(parts)}]"

    for number, instruction in enumerate(kernel.instructions):
        match instruction:
            case Load():
                text = f"load {place(instruction.buffer, instruction.offset, instruction.dynamic)}"
            case Constant():
                text = f"const {instruction.value}"
            case Position():
                text = f"position {instruction.offset}"
            case Apply():
                operands = ", ".join(f"v{x}" for x in instruction.operands)
                node = instruction.node
                text = f"{node.op.name} {operands}  # {names[node]}"
            case MultiplyAdd():
                x, y, z = (f"v{x}" for x in instruction.operands)
                product = "-" if instruction.negate_product else ""
                sign = "-" if instruction.negate_addend else "+"
                text = f"fma {product}{x} * {y} {sign} {z}  # {names[instruction.node]}"
            case OutOfBounds():
                limit = (
                    "zero" if instruction.extent is None else f"outside [0, {instruction.extent})"
                )
                text = f"is v{instruction.operands[0]} {limit}"
        lines.append(f"  v{number}: {instruction.dtype.name} = {text}")
    for store in kernel.stores:
        verb = "add" if store.accumulate else "store"
        lines.append(
            f"  {verb} {place(store.buffer, store.offset, store.dynamic)} <- v{store.value}"
        )
    for fold in kernel.folds:
        lines.append(f"  fold {place(fold.buffer, fold.offset, ())} <- v{fold.value}")
    if kernel.scan is not None:
        lines.append(
            f"  scan {place(kernel.scan.buffer, kernel.scan.offset, ())} <- v{kernel.scan.value}"
        )
    return lines
