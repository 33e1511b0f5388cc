"""Views and in-place operations against torch: the same programs, and all that can be seen of their tensors.

A program is a function of the library that returns tensors, or raises. `seen` is what is compared: layout, storage,
flags, versions, records, values, gradients; or the type of the exception and its first sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

Program = Callable[[Any, Any, Any], Any]
"""Takes the library, a leaf of shape (2, 3) that requires grad, and a result made of it."""


def seen(module: Any, value: Any) -> Any:
    """All that a user can see of a value, but for its address."""
    if isinstance(value, (tuple, list)):
        return [seen(module, v) for v in value]
    if not isinstance(value, module.Tensor):
        return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)
    grad_fn = value.grad_fn
    return {
        "values": value.tolist(),
        "shape": tuple(value.shape),
        "dtype": str(value.dtype),
        "stride": value.stride() if value.numel() else None,
        "offset": value.storage_offset() if value.numel() else None,
        "view": value._is_view(),
        "base": None if value._base is None else value._base.tolist(),
        "leaf": value.is_leaf,
        "requires_grad": value.requires_grad,
        "version": value._version,
        "output_nr": value.output_nr,
        "record": grad_fn and grad_fn.name().replace("torch::autograd::", ""),
        "grad": value.grad.tolist() if value.is_leaf and value.grad is not None else None,
    }


def outcome(module: Any, program: Program) -> Any:
    leaf = module.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    try:
        return seen(module, program(module, leaf, leaf * 1))
    except Exception as error:
        return type(error).__name__, str(error).splitlines()[0]


def gradient(out: Any, leaf: Any) -> Any:
    """The leaf after backward."""
    (out * out).sum().backward()
    return leaf


VIEWS: dict[str, Program] = {
    "view": lambda m, x, y: y.view(3, 2),
    "view -1": lambda m, x, y: y.view(-1),
    "view same": lambda m, x, y: y.view(2, 3),
    "view dtype": lambda m, x, y: y.view(m.int32),
    "view smaller dtype": lambda m, x, y: y.view(m.int16),
    "view same dtype": lambda m, x, y: y.view(m.float32),
    "view_as": lambda m, x, y: y.view_as(m.ones(6)),
    "reshape": lambda m, x, y: y.reshape(6),
    "reshape same": lambda m, x, y: y.reshape(2, 3),
    "reshape copy": lambda m, x, y: y.t().reshape(6),
    "int": lambda m, x, y: y[1],
    "negative int": lambda m, x, y: y[-1],
    "two ints": lambda m, x, y: y[1, 2],
    "slice": lambda m, x, y: y[:, 1:],
    "steps": lambda m, x, y: y[:, ::2],
    "beyond": lambda m, x, y: y[5:],
    "ellipsis": lambda m, x, y: y[..., 0],
    "only ellipsis": lambda m, x, y: y[...],
    "empty tuple": lambda m, x, y: y[()],
    "none": lambda m, x, y: y[:, None],
    "all": lambda m, x, y: y[:],
    "mixed": lambda m, x, y: y[1, None, ..., 1:],
    "0-d index": lambda m, x, y: y[m.tensor(1)],
    "select": lambda m, x, y: y.select(1, -1),
    "narrow": lambda m, x, y: y.narrow(1, 1, 2),
    "narrow by tensor": lambda m, x, y: m.narrow(y, 1, m.tensor(1), 2),
    "narrow all": lambda m, x, y: y.narrow(1, 0, 3),
    "transpose": lambda m, x, y: y.transpose(0, 1),
    "swapaxes": lambda m, x, y: y.swapaxes(axis0=0, axis1=1),
    "swapdims": lambda m, x, y: y.swapdims(dim0=0, dim1=-1),
    "t": lambda m, x, y: y.t(),
    "t of vector": lambda m, x, y: y[0].t(),
    "T": lambda m, x, y: y.T,
    "mT": lambda m, x, y: y.mT,
    "H": lambda m, x, y: y.H,
    "mH": lambda m, x, y: y.mH,
    "adjoint": lambda m, x, y: y.adjoint(),
    "permute": lambda m, x, y: y.permute(1, 0),
    "movedim": lambda m, x, y: y.movedim(0, 1),
    "moveaxis": lambda m, x, y: y.moveaxis((0, 1), (1, 0)),
    "expand": lambda m, x, y: y[:1].expand(4, 3),
    "expand -1": lambda m, x, y: y.expand(2, -1, 3),
    "expand_as": lambda m, x, y: y[0].expand_as(y),
    "broadcast_to": lambda m, x, y: m.broadcast_to(y[0], (2, 3)),
    "broadcast_tensors": lambda m, x, y: m.broadcast_tensors(y, y[0]),
    "unbind": lambda m, x, y: y.unbind(),
    "unbind columns": lambda m, x, y: y.unbind(1),
    "iteration": lambda m, x, y: list(y),
    "split": lambda m, x, y: y.split(2, 1),
    "split in sizes": lambda m, x, y: m.split(y, [1, 2], dim=1),
    "split_with_sizes": lambda m, x, y: y.split_with_sizes((1, 0, 2), 1),
    "tensor_split": lambda m, x, y: y.tensor_split(2, 1),
    "tensor_split at": lambda m, x, y: y.tensor_split((1, 2), 1),
    "chunk": lambda m, x, y: y.chunk(2),
    "chunk of nothing": lambda m, x, y: y[:0].chunk(2),
    "hsplit": lambda m, x, y: y.hsplit(3),
    "vsplit": lambda m, x, y: y.vsplit(2),
    "dsplit": lambda m, x, y: y[None].dsplit([1]),
    "diagonal": lambda m, x, y: y.diagonal(),
    "diagonal above": lambda m, x, y: y.diagonal(1),
    "diagonal below": lambda m, x, y: m.diagonal(y, offset=-1, dim1=1, dim2=0),
    "no diagonal": lambda m, x, y: y.diagonal(9).shape,
    "unfold": lambda m, x, y: y.unfold(1, 2, 1),
    "unfold element": lambda m, x, y: y[0, 0].unfold(0, 1, 1),
    "unfold element in two": lambda m, x, y: y[0, 0].unfold(0, 2, 1),
    "movedim of element": lambda m, x, y: y[0, 0].movedim(0, -1),
    "reshape of column": lambda m, x, y: y[:, 0].reshape(2, 1),
    "squeeze": lambda m, x, y: y[:1].squeeze(),
    "squeeze dim": lambda m, x, y: y[:1].squeeze(0),
    "squeeze dims": lambda m, x, y: y[:1].squeeze((0, 1)),
    "squeeze nothing": lambda m, x, y: y.squeeze(),
    "unsqueeze": lambda m, x, y: y.unsqueeze(-1),
    "flatten": lambda m, x, y: y.flatten(),
    "flatten vector": lambda m, x, y: y[0].flatten(),
    "flatten copy": lambda m, x, y: y.t().flatten(),
    "unflatten": lambda m, x, y: y.unflatten(1, (-1, 1)),
    "ravel": lambda m, x, y: y.ravel(),
    "contiguous": lambda m, x, y: (y.contiguous() is y, y.t().contiguous()),
    "as_strided": lambda m, x, y: y.as_strided((2, 2), (1, 2), 1),
    "as_strided of view": lambda m, x, y: y[1].as_strided((2,), (1,)),
    "detach": lambda m, x, y: y.detach(),
    "detach of view": lambda m, x, y: y[1].detach(),
    "data": lambda m, x, y: y.data,
    "data of view": lambda m, x, y: y[1].data,
    "of a leaf": lambda m, x, y: x[0],
    "without gradients": lambda m, x, y: x.detach()[0],
    "of a view": lambda m, x, y: y[1][1:].view(2, 1).t(),
    "copies": lambda m, x, y: [y.clone(), y + 0, y[m.tensor([0])], y.flip(0), y[y > 2]],
    "storage": lambda m, x, y: [
        y[1].untyped_storage().nbytes(),
        y[1].untyped_storage().data_ptr() == y.data_ptr(),
        y.t().untyped_storage().data_ptr() == y.untyped_storage().data_ptr(),
        y.clone().untyped_storage().data_ptr() == y.data_ptr(),
    ],
}


def with_mode(mode: str, program: Callable[[Any, Any], Any]) -> Program:
    """A program whose first step runs in a mode."""

    def run(m: Any, x: Any, y: Any) -> Any:
        with getattr(m, mode)():
            return program(m, y)

    return run


def no_grad_view(m: Any, x: Any) -> Any:
    with m.no_grad():
        return x[0]


def inference_view(m: Any, x: Any) -> Any:
    with m.inference_mode():
        return x[0]


def changed_in_no_grad(m: Any, x: Any, change: Callable[[Any], Any]) -> None:
    with m.no_grad():
        change(x)


def then(*steps: Any) -> Any:
    """The value of the last expression."""
    return steps[-1]


def twice(m: Any) -> Any:
    """A custom Function that returns a view of its argument."""

    class View(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.view(-1)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g.view(2, 3)

    return View.apply


CHANGES: dict[str, Program] = {
    "result": lambda m, x, y: then(y.mul_(2), [y, gradient(y, x)]),
    "view": lambda m, x, y: then(v := y[0], v.mul_(2), [v, y, gradient(y, x)]),
    "read view": lambda m, x, y: then(v := y[0], v.mul_(2), [gradient(v, x), v]),
    "base": lambda m, x, y: then(v := y[0], y.mul_(2), [v, gradient(v, x)]),
    "other view": lambda m, x, y: then(v := y[0], w := y[:, 1:], w.mul_(2), [v, gradient(v, x)]),
    "view of view": lambda m, x, y: then(v := y[0][1:], v.mul_(2), [v, y, gradient(y, x)]),
    "transposed view": lambda m, x, y: then(y.t()[1:].mul_(2), gradient(y, x)),
    "diagonal": lambda m, x, y: then(y.diagonal().mul_(2), [y, gradient(y, x)]),
    "transposed diagonal": lambda m, x, y: then(y.t().diagonal(1).mul_(2), gradient(y, x)),
    "windows": lambda m, x, y: then(y.unfold(1, 1, 2).mul_(2), gradient(y, x)),
    "strided": lambda m, x, y: then(y.as_strided((2, 2), (2, 3), 0).mul_(2), gradient(y, x)),
    "strided view": lambda m, x, y: then(y[1].as_strided((2,), (2,), 1).mul_(2), gradient(y, x)),
    "tensor_split": lambda m, x, y: then(y.tensor_split(2)[1].mul_(2), gradient(y, x)),
    "expanded to itself": lambda m, x, y: then(y.expand(2, 3).mul_(2), gradient(y, x)),
    "filled": lambda m, x, y: then(y[0].fill_(2), [y, gradient(y, x)]),
    "filled by tensor": lambda m, x, y: then(y[0].fill_(y[1, 1]), gradient(y, x)),
    "zeroed": lambda m, x, y: then(y[:, 1].zero_(), gradient(y, x)),
    "expanded filled": lambda m, x, y: then(y[:1].expand(4, 3).fill_(2), gradient(y, x)),
    "expanded zeroed": lambda m, x, y: then(e := m.ones(1).expand(3), e.zero_(), e),
    "copied": lambda m, x, y: then(y[0].copy_(y[1] * 3), gradient(y, x)),
    "copied broadcast": lambda m, x, y: then(y.copy_(y[1, 1] * 3), [y, gradient(y, x)]),
    "copied from double": lambda m, x, y: then(
        d := x.double() * 2, y.copy_(d), [y, gradient(y, x)]
    ),
    "copied to int": lambda m, x, y: then(i := m.zeros(2, 3, dtype=m.int64), i.copy_(y), i),
    "copied to leaf": lambda m, x, y: x.copy_(y),
    "plain base": lambda m, x, y: then(
        z := m.zeros(2, 3), v := z[0], v.add_(y[1]), [v, z, gradient(z, x)]
    ),
    "leaf": lambda m, x, y: x.mul_(2),
    "leaf view": lambda m, x, y: x[0].mul_(2),
    "leaf view of view": lambda m, x, y: x[0][1:].mul_(2),
    "leaf in no_grad": lambda m, x, y: then(changed_in_no_grad(m, x, lambda x: x.mul_(2)), x),
    "leaf view in no_grad": lambda m, x, y: then(
        changed_in_no_grad(m, x, lambda x: x[0].mul_(2)), x
    ),
    "leaf by index": lambda m, x, y: x.__setitem__(0, 1.0),
    "leaf by mask": lambda m, x, y: x.__setitem__(x > 2, 1.0),
    "detached leaf": lambda m, x, y: then(x.detach().mul_(2), x),
    "data of leaf": lambda m, x, y: then(x.data.mul_(2), x),
    "base became leaf": lambda m, x, y: then(
        z := m.zeros(2, 3), v := z[0], z.requires_grad_(), [v.requires_grad, v.is_leaf, v.add_(1)]
    ),
    "view became leaf": lambda m, x, y: then(
        z := m.zeros(2, 3), v := z[0], v.requires_grad_(), v.add_(1)
    ),
    "unbind": lambda m, x, y: y.unbind()[1].mul_(2),
    "unbind base": lambda m, x, y: then(v := y.unbind()[1], y.mul_(2), v * 2),
    "unbind view": lambda m, x, y: y.unbind()[1][1:].mul_(2),
    "split": lambda m, x, y: y.split(1)[1].mul_(2),
    "split in sizes": lambda m, x, y: y.split([1, 1])[1].mul_(2),
    "chunk": lambda m, x, y: y.chunk(2)[0].add_(1),
    "iteration": lambda m, x, y: [row.mul_(2) for row in y],
    "split of plain": lambda m, x, y: then(z := m.zeros(4), z.split(2)[0].add_(1), z),
    "split of plain, recorded": lambda m, x, y: m.zeros(6).split(3)[0].mul_(y[0]),
    "split of leaf": lambda m, x, y: x.split(1)[1].mul_(2),
    "unbind in no_grad": lambda m, x, y: then(
        v := y.unbind()[1], changed_in_no_grad(m, v, lambda v: v.mul_(2)), v * 2
    ),
    "no_grad view": lambda m, x, y: no_grad_view(m, y).mul_(2),
    "no_grad view of leaf": lambda m, x, y: no_grad_view(m, x).mul_(2),
    "no_grad view, seen": lambda m, x, y: no_grad_view(m, y),
    "no_grad view of leaf, seen": lambda m, x, y: no_grad_view(m, x),
    "no_grad view, base": lambda m, x, y: then(v := no_grad_view(m, y), y.mul_(2), v * 1),
    "no_grad view of plain": lambda m, x, y: no_grad_view(m, m.zeros(2, 3)).mul_(y[0]),
    "custom view": lambda m, x, y: then(v := twice(m)(y), [v._is_view(), v._base is y]),
    "detach_": lambda m, x, y: then(y.detach_(), y),
    "detach_ view": lambda m, x, y: y[0].detach_(),
    "detach_ plain view": lambda m, x, y: m.zeros(2, 2)[0].detach_(),
    "detach_ leaf": lambda m, x, y: then(x.detach_(), x),
    "detach and change": lambda m, x, y: then(d := y.detach(), d.add_(1), [y, d]),
    "detach saved": lambda m, x, y: then(z := y * y, y.detach().add_(1), z.sum().backward()),
    "data saved": lambda m, x, y: then(z := y * y, y.data.add_(1), z.sum().backward(), x),
    "saved": lambda m, x, y: then(z := y * y, y.add_(1), z.sum().backward()),
    "saved view": lambda m, x, y: then(v := y[0], z := v * v, y.add_(1), z.sum().backward()),
    "saved result": lambda m, x, y: then(z := y.exp(), z.add_(1), z.sum().backward()),
    "saved result of view": lambda m, x, y: then(
        z := y[0].exp(), z.view(3, 1).add_(1), z.sum().backward()
    ),
    "not saved": lambda m, x, y: then(z := y + y, y.add_(1), gradient(z, x)),
    "requires_grad_ of result": lambda m, x, y: y.requires_grad_(False),
    "requires_grad_ of view": lambda m, x, y: y[0].requires_grad_(False),
    "retained": lambda m, x, y: then(
        y.retain_grad(), y.mul_(2), gradient(y, x), [y.grad, y.retains_grad]
    ),
    "retained view": lambda m, x, y: then(
        v := y[0], v.retain_grad(), v.mul_(2), gradient(y, x), [v.grad, x]
    ),
    "retained base": lambda m, x, y: then(
        v := y[0], y.retain_grad(), v.mul_(2), gradient(y, x), [y.grad, x]
    ),
    "retained, base changed": lambda m, x, y: then(
        v := y[0], v.retain_grad(), y.mul_(2), gradient(v, x), [v.grad, x]
    ),
    "hooks": lambda m, x, y: then(
        seen := [],
        y.register_hook(lambda g: seen.append(g.sum().item())),
        y.mul_(2),
        y.register_hook(lambda g: seen.append(-g.sum().item())),
        gradient(y, x),
        seen,
    ),
    "overlap": lambda m, x, y: m.arange(6.0)[1:].add_(1).add_(m.ones(1)),
    "shifted": lambda m, x, y: then(z := m.arange(6.0), z[1:].add_(z[:-1])),
    "transposed": lambda m, x, y: then(z := m.ones(3, 3), z.add_(z.t())),
    "copied from itself": lambda m, x, y: then(z := m.arange(6.0), z[1:].copy_(z[:-1])),
    "assigned from itself": lambda m, x, y: then(
        z := m.arange(6.0), z.__setitem__(slice(1, None), z[:-1])
    ),
    "interleaved": lambda m, x, y: then(z := m.arange(6.0), z[::2].add_(z[1::2]), z),
    "detached": lambda m, x, y: then(v := y[0], y.detach_(), y.mul_(2), [v, gradient(v, x)]),
    "leaf detached later": lambda m, x, y: then(x.detach_(), gradient(y, x)),
    "leaf no longer": lambda m, x, y: then(x.requires_grad_(False), gradient(y, x)),
    "leaf detached": lambda m, x, y: then(
        v := x[0], x.detach_(), x.mul_(2), [v, gradient(v * 1, x), v.grad_fn.next_functions[0][0]]
    ),
    "retained piece": lambda m, x, y: then(v := y.unbind()[0], y.mul_(2), v.retain_grad()),
    "hook on piece": lambda m, x, y: then(v := y.unbind()[0], y.mul_(2), v.register_hook(print)),
    "quotient": lambda m, x, y: then(z := x / (x + 1), z.add_(1), gradient(z, x)),
    "filled with tensor": lambda m, x, y: then(y.fill_(x[0, 1]), gradient(y, x)),
    "expanded": lambda m, x, y: m.zeros(3, 1).expand(3, 4).add_(1),
    "expanded assigned": lambda m, x, y: m.zeros(3, 1).expand(3, 4).__setitem__(0, 1.0),
    "column of expanded": lambda m, x, y: then(
        z := m.zeros(3, 1).expand(3, 4), z.__setitem__((slice(None), slice(1)), 1.0), z
    ),
}

ASSIGNED: dict[str, Program] = {
    "int": lambda m, x, y: then(y.__setitem__(0, 7.0), [y, gradient(y, x)]),
    "tensor": lambda m, x, y: then(y.__setitem__(0, y[1] * 2), [y, gradient(y, x)]),
    "broadcast": lambda m, x, y: then(
        y.__setitem__((slice(None), slice(1, None)), y[:, :1] * 2), gradient(y, x)
    ),
    "mask": lambda m, x, y: then(y.__setitem__(y > 2, 0.5), [y, gradient(y, x)]),
    "mask of rows": lambda m, x, y: then(
        y.__setitem__(m.tensor([True, False]), y[1] * 2), gradient(y, x)
    ),
    "mask, values": lambda m, x, y: then(
        y.__setitem__(y > 4, m.tensor([7.0, 8.0])), [y, gradient(y, x)]
    ),
    "mask, wrong count": lambda m, x, y: y.__setitem__(y > 4, m.ones(3)),
    "mask, nothing": lambda m, x, y: then(y.__setitem__(y > 9, 0.5), [y, gradient(y, x)]),
    "index": lambda m, x, y: then(y.__setitem__(m.tensor([1]), y[:1] * 2), [y, gradient(y, x)]),
    "list": lambda m, x, y: then(y.__setitem__([1], 2.0), [y, gradient(y, x)]),
    "indices": lambda m, x, y: then(
        y.__setitem__((m.tensor([0, 1]), m.tensor([2, 0])), 9.0), gradient(y, x)
    ),
    "duplicates added": lambda m, x, y: then(i := m.tensor([0, 0]), y.__setitem__(i, y[i] + 1), y),
    "added": lambda m, x, y: then(y.__setitem__(0, y[0].add_(1)), [y, gradient(y, x)]),
    "view": lambda m, x, y: then(v := y[1], v.__setitem__(0, 7.0), [v, y, gradient(y, x)]),
    "bool": lambda m, x, y: then(y.__setitem__(True, 1.0), gradient(y, x)),
    "none": lambda m, x, y: then(y.__setitem__((None, 0), 1.0), gradient(y, x)),
    "ellipsis": lambda m, x, y: then(y.__setitem__(Ellipsis, 1.0), gradient(y, x)),
    "wrong shape": lambda m, x, y: y.__setitem__(0, m.ones(2)),
    "leading ones": lambda m, x, y: then(y.__setitem__(0, m.ones(1, 1, 3)), y),
    "all": lambda m, x, y: then(y.__setitem__(slice(None), x[0]), [y, gradient(y, x)]),
    "all, number": lambda m, x, y: then(y.__setitem__(..., 2.0), [y, gradient(y, x)]),
    "all, element": lambda m, x, y: then(y.__setitem__((), x[0, 0]), [y, gradient(y, x)]),
    "all, leading ones": lambda m, x, y: then(y.__setitem__(..., m.ones(1, 1, 2, 3)), y),
    "all of leaf": lambda m, x, y: x.__setitem__(slice(0, 9), 2.0),
    "row of leaf": lambda m, x, y: x.__setitem__(0, 2.0),
    "part of piece": lambda m, x, y: y.unbind()[0].__setitem__(0, 1.0),
    "all of piece": lambda m, x, y: y.unbind()[0].__setitem__(..., 1.0),
    "element by mask": lambda m, x, y: then(z := y[0, 0], [z[z > 0], z[z > 9]]),
    "wrong index": lambda m, x, y: y.__setitem__(5, 1.0),
    "index of element": lambda m, x, y: y[0, 0][0],
    "wrong index of element": lambda m, x, y: y[0, 0][1],
    "wrong tensor index": lambda m, x, y: y.__setitem__(m.tensor([5]), 1.0),
    "int to float": lambda m, x, y: then(y.__setitem__(0, 3), y),
    "float to int": lambda m, x, y: then(i := m.tensor([1, 2]), i.__setitem__(0, 2.7), i),
    "double to float": lambda m, x, y: then(y.__setitem__(0, m.ones(3, dtype=m.float64)), y),
    "index, other dtype": lambda m, x, y: y.__setitem__(m.tensor([0]), m.ones(3, dtype=m.float64)),
    "string": lambda m, x, y: y.__setitem__(0, "a"),
    "plain": lambda m, x, y: then(z := m.zeros(2, 3), z.__setitem__(0, y[1]), [z, gradient(z, x)]),
    "plain by index": lambda m, x, y: then(
        z := m.zeros(2, 3), z.__setitem__(m.tensor([0]), y[1]), [z, gradient(z, x)]
    ),
    "index_put_": lambda m, x, y: then(
        y.index_put_((m.tensor([0]),), m.ones(3)), [y, gradient(y, x)]
    ),
    "index_put_ added": lambda m, x, y: then(
        y.index_put_((m.tensor([0, 0]),), y[1].clone(), accumulate=True), [y, gradient(y, x)]
    ),
    "index_put": lambda m, x, y: then(
        z := y.index_put((m.tensor([0, 1]), m.tensor([1, 1])), m.tensor(7.0)), [z, gradient(z, x)]
    ),
    "index_put mask": lambda m, x, y: y.index_put_((y > 3,), m.tensor(7.0)),
    "index_put shape": lambda m, x, y: y.index_put_((m.tensor([0]),), m.ones(4)),
    "index_put dtype": lambda m, x, y: y.index_put_((m.tensor([0]),), m.ones(3, dtype=m.float64)),
    "masked_fill_": lambda m, x, y: then(y[0].masked_fill_(y[0] > 1, 0.5), [y, gradient(y, x)]),
    "index_fill_": lambda m, x, y: then(y.index_fill_(1, m.tensor([0]), 0.5), [y, gradient(y, x)]),
    "index_copy_": lambda m, x, y: then(
        y.index_copy_(0, m.tensor([1]), y[:1] * 2), [y, gradient(y, x)]
    ),
    "index_add_": lambda m, x, y: then(
        y.index_add_(0, m.tensor([1, 1]), y.detach() * 2), [y, gradient(y, x)]
    ),
    "masked_scatter_": lambda m, x, y: then(
        y.masked_scatter_(y > 3, x.detach() * 2), [y, gradient(y, x)]
    ),
}


def operand(m: Any, dtype: str) -> Any:
    return m.tensor([[1, 0], [1, 1]]).to(getattr(m, dtype))


OPERATORS = {
    "+=": "__iadd__", "-=": "__isub__", "*=": "__imul__", "/=": "__itruediv__", "//=": "__ifloordiv__",
    "**=": "__ipow__", "%=": "__imod__", "&=": "__iand__", "|=": "__ior__", "^=": "__ixor__",
    "<<=": "__ilshift__", ">>=": "__irshift__",
}  # fmt: skip
# torch's operators have kernels of their own, whose names stand in messages.
SHIFTS = {"lshift_cpu": "bitwise_left_shift_cpu", "rshift_cpu": "bitwise_right_shift_cpu"}
# torch has no powers of bools, but does not get that far for an exponent of 1.
POWERS_THAT_DIFFER = {("**=", "bool", "True")}
OTHERS: dict[str, Callable[[Any], Any]] = {
    "2": lambda m: 2,
    "0.5": lambda m: 0.5,
    "True": lambda m: True,
    "int64": lambda m: m.tensor([[1, 2], [1, 1]]),
    "float32": lambda m: m.tensor([[1.0, 2.0], [1.0, 1.0]]),
    "float64": lambda m: m.tensor([[1.0, 2.0], [1.0, 1.0]], dtype=m.float64),
    "bool": lambda m: m.tensor([[True, True], [True, True]]),
    "row": lambda m: m.tensor([1, 1]),
    "larger": lambda m: m.ones(3, 2, 2, dtype=m.int32),
}


def compare(program: Program) -> None:
    ours, theirs = outcome(tg, program), outcome(torch, program)
    assert ours == theirs


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_views(name: str) -> None:
    compare(VIEWS[name])


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_changes(name: str) -> None:
    compare(CHANGES[name])


@pytest.mark.parametrize("name", ASSIGNED)
def test_assignments(name: str) -> None:
    compare(ASSIGNED[name])


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str, dtype: str, other: str) -> None:
    """In-place operators on every pair of dtypes: the values, or the same error."""

    def program(m: Any, x: Any, y: Any) -> Any:
        left, right = operand(m, dtype), OTHERS[other](m)
        out = getattr(left, OPERATORS[name])(right)
        assert out is left or out is NotImplemented
        return out

    ours, theirs = outcome(tg, program), outcome(torch, program)
    if isinstance(theirs, tuple):
        for kernel, function in SHIFTS.items():
            theirs = theirs[0], theirs[1].replace(f'"{kernel}', f'"{function}')
    assert (ours == theirs) == ((name, dtype, other) not in POWERS_THAT_DIFFER)


STALE: dict[str, Callable[[Any, Any], Any]] = {
    "regular": lambda m, y: y.view(3, 2),
    "several at once": lambda m, y: y.unbind()[0],
    "of a custom function": lambda m, y: handed_on(m)(y),
    "without grad": lambda m, y: m.no_grad()(y.view)(3, 2),
}


def handed_on(m: Any) -> Any:
    class F(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, ct: Any) -> Any:
            return ct

    return F.apply


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("name", STALE)
def test_a_saved_view_whose_base_was_changed(name: str, recorded: bool) -> None:
    def run(m: Any, x: Any, y: Any) -> Any:
        y = y if recorded else m.ones(2, 3)
        z = (STALE[name](m, y) * x.sum()).sum()
        y.mul_(2)
        z.backward()

    compare(run)
