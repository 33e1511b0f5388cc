"""Bodies of kernels: what they load and compute, held against NumPy point by point."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from tracegrad.codegen.body_builder import BodyBuilder
from tracegrad.codegen.index import Affine, identity_index, squeezed
from tracegrad.codegen.kernel import (
    Apply,
    Buffer,
    Constant,
    Load,
    LoopKernel,
    MultiplyAdd,
    Position,
    Store,
)
from tracegrad.codegen.kernel_text import describe
from tracegrad.ir import GraphBuilder, Node, TensorType, all_ops, registered
from tracegrad.ir.lowering import Movement
from tracegrad.ir.op import Op
from tracegrad.ir.ops.samples import Sample
from tracegrad.ir.types import float32, float64, int64, type_of


def op(name: str, *operands: Node, **attrs: object) -> Node:
    return registered(name)(*operands, **attrs)


def built(
    node: Node, contracted: dict[Node, tuple[Node, int]] | None = None
) -> tuple[LoopKernel, int]:
    """The kernel that computes a node from graph inputs and constants, and the value's number."""
    buffers: dict[Node, Buffer] = {}

    def source(x: Node) -> Buffer | Constant | None:
        if x.op.name == "const":
            return Constant(x.dtype, x.attrs["value"])
        if x.op.name == "input":
            return buffers.setdefault(x, Buffer(x.hint or "x", x.type, "input"))
        return None

    kernel = LoopKernel(squeezed(node.shape))
    body = BodyBuilder(kernel, source, contracted or {})
    return kernel, body.value(node, identity_index(node.shape))


def _movements() -> list[tuple[Op, Sample]]:
    rng = np.random.default_rng(0)
    found = []
    for operation in all_ops():
        if isinstance(operation.lower, Movement) and operation.samples:
            samples = [s for s in operation.samples(rng) if s.operands[0].dtype == np.float64]
            found += [(operation, s) for s in samples]
    return found


@pytest.mark.parametrize(("operation", "sample"), _movements(), ids=str)
def test_movements_load_the_element_that_numpy_moves_there(operation: Op, sample: Sample) -> None:
    (x,) = sample.operands
    want = operation.eval(x, **sample.attrs)
    if not want.size:
        return
    builder = GraphBuilder("test")
    node = builder.emit(operation, (builder.input(type_of(x)),), sample.attrs)
    kernel, number = built(node)
    load = kernel.instructions[number]
    assert isinstance(load, Load)
    flat = np.ascontiguousarray(x).ravel()
    positions = itertools.product(*map(range, kernel.extents))
    found = [flat[load.offset.at(position)] for position in positions]
    np.testing.assert_array_equal(np.array(found), np.ascontiguousarray(want).ravel())


def _names(kernel: LoopKernel) -> Sequence[str]:
    return [
        i.node.op.name if isinstance(i, (Apply, MultiplyAdd)) else type(i).__name__
        for i in kernel.instructions
    ]


def test_equal_instructions_are_one() -> None:
    builder = GraphBuilder("test")
    with builder:
        x = builder.input(TensorType(float64, (3, 4)))
        turned = op("permute", op("permute", x, dims=(1, 0)), dims=(1, 0))
        node = op("mul", x + 1.0, turned + 1.0)
    kernel, _ = built(node)
    assert _names(kernel).count("Load") == 1
    assert _names(kernel).count("Constant") == 1


def test_zeros_of_either_sign_are_two_constants() -> None:
    builder = GraphBuilder("test")
    with builder:
        x = builder.input(TensorType(float64, ()))
        node = op("add", x * 0.0, x * -0.0)
    kernel, _ = built(node)
    assert sorted(str(i.value) for i in kernel.instructions if isinstance(i, Constant)) == [
        "-0.0", "0.0",
    ]  # fmt: skip


@pytest.mark.parametrize("sign", ["add", "sub"])
@pytest.mark.parametrize("place", [0, 1])
def test_fused_products_keep_their_sign(sign: str, place: int) -> None:
    builder = GraphBuilder("test")
    with builder:
        x, y, z = (builder.input(TensorType(float32, (5,))) for _ in range(3))
        product = x * y
        node = op(sign, product, z) if place == 0 else op(sign, z, product)
    kernel, number = built(node, {node: (product, place)})
    fused = kernel.instructions[number]
    assert isinstance(fused, MultiplyAdd)
    assert fused.negate_product == (sign == "sub" and place == 1)
    assert fused.negate_addend == (sign == "sub" and place == 0)
    assert "mul" not in _names(kernel)


def test_positions_of_generated_values_are_row_major() -> None:
    builder = GraphBuilder("test")
    key = builder.input(TensorType(int64, ()))
    node = builder.emit(registered("random_bits"), (key, key), {"shape": (3, 1, 4)})
    kernel, _ = built(node)
    (position,) = [i for i in kernel.instructions if isinstance(i, Position)]
    assert position.offset == Affine((4, 1))


def test_an_update_in_place_must_read_where_it_writes() -> None:
    kind = TensorType(float64, (4,))
    x, new = Buffer("x", kind, "input"), Buffer("new", kind, "temporary")
    for offset, good in ((Affine((1,)), True), (Affine((-1,), 3), False)):
        kernel = LoopKernel((4,))
        kernel.instructions.append(Load(float64, x, offset))
        kernel.stores.append(Store(0, new, Affine((1,))))
        assert kernel.writes_in_place(new, x) == good


def test_deep_chains_need_no_recursion() -> None:
    builder = GraphBuilder("test")
    with builder:
        node = builder.input(TensorType(float64, (2,)))
        for _ in range(5000):
            node = op("tanh", node)
    kernel, number = built(node)
    assert number == 5000
    assert len(kernel.instructions) == 5001


def test_text_names_nodes_and_places() -> None:
    builder = GraphBuilder("test")
    with builder:
        x = builder.input(TensorType(float64, (3, 4)), "x")
        node = op("tanh", op("permute", x, dims=(1, 0)))
    kernel, number = built(node)
    kernel.stores.append(Store(number, Buffer("out0", node.type, "result"), Affine((3, 1))))
    kernel.nodes.append(node)
    assert describe(kernel, {node: "%1"}) == (
        "loops over [4, 3]: %1\n"
        "  v0: f64 = load x[i0 + 4*i1]\n"
        "  v1: f64 = tanh v0  # %1\n"
        "  store out0[3*i0 + i1] <- v1"
    )
