"""The sentences of errors against torch's: the same type of exception, the same first line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

BAD: dict[str, Callable[[Any, Any], object]] = {
    "sizes": lambda m, x: x + m.ones(4),
    "sizes, middle": lambda m, x: m.ones(2, 3, 4) * m.ones(2, 5, 4),
    "mm": lambda m, x: m.mm(x, x),
    "matmul": lambda m, x: x @ x,
    "matmul batches": lambda m, x: m.ones(2, 3, 4) @ m.ones(2, 5, 4),
    "matmul vector": lambda m, x: x @ m.ones(4),
    "matmul vector first": lambda m, x: m.ones(4) @ x,
    "matmul scalar": lambda m, x: x @ m.tensor(1.0),
    "matmul dtypes": lambda m, x: x @ x.T.double(),
    "mm of vectors": lambda m, x: m.mm(m.ones(3), x),
    "bmm": lambda m, x: m.bmm(m.ones(2, 3, 4), m.ones(2, 5, 4)),
    "dot": lambda m, x: m.dot(m.ones(3), m.ones(4)),
    "dot of matrices": lambda m, x: m.dot(x, x),
    "view": lambda m, x: x.view(4),
    "view of transposed": lambda m, x: x.t().view(6),
    "reshape": lambda m, x: x.reshape(4, -1),
    "two unknown": lambda m, x: x.reshape(-1, -1),
    "negative extent": lambda m, x: x.reshape(-2, 3),
    "permute": lambda m, x: x.permute(0),
    "permute twice": lambda m, x: x.permute(0, 0),
    "dim": lambda m, x: x.sum(2),
    "dim of size": lambda m, x: x.size(5),
    "dim twice": lambda m, x: x.sum((0, 0)),
    "transpose": lambda m, x: x.transpose(0, 2),
    "unsqueeze": lambda m, x: x.unsqueeze(4),
    "t": lambda m, x: m.ones(1, 2, 3).t(),
    "expand": lambda m, x: x.expand(4, 3),
    "expand fewer": lambda m, x: m.ones(2, 3).expand(3),
    "expand new -1": lambda m, x: x.expand(-1, 2, 3),
    "cat": lambda m, x: m.cat([x, m.ones(3, 4)]),
    "cat ranks": lambda m, x: m.cat([x, m.ones(3)]),
    "cat nothing": lambda m, x: m.cat([]),
    "cat scalars": lambda m, x: m.cat([m.tensor(1.0)]),
    "stack": lambda m, x: m.stack([x, m.ones(3)]),
    "stack nothing": lambda m, x: m.stack([]),
    "narrow": lambda m, x: x.narrow(0, 1, 3),
    "select": lambda m, x: x.select(0, 2),
    "split": lambda m, x: x.split([1, 2]),
    "chunk": lambda m, x: x.chunk(0),
    "index": lambda m, x: x[2],
    "index below": lambda m, x: x[-3],
    "index deep": lambda m, x: x[0, 5],
    "too many indices": lambda m, x: x[0, 0, 0],
    "float index": lambda m, x: x[m.tensor([0.5])],
    "mask shape": lambda m, x: x[m.tensor([True, False, True])],
    "index of scalar": lambda m, x: m.tensor(1.0)[0],
    "item": lambda m, x: x.item(),
    "float()": lambda m, x: float(x),
    "bool()": lambda m, x: bool(x),
    "bool of nothing": lambda m, x: bool(m.ones(0)),
    "index()": lambda m, x: range(3)[m.tensor(1.5)],
    "len": lambda m, x: len(m.tensor(1.0)),
    "iter": lambda m, x: iter(m.tensor(1.0)),
    "numpy": lambda m, x: m.ones(2, requires_grad=True).numpy(),
    "array": lambda m, x: np.asarray(m.ones(2, requires_grad=True)),
    "int requires grad": lambda m, x: m.tensor([1], requires_grad=True),
    "int requires grad later": lambda m, x: m.tensor([1]).requires_grad_(),
    "mean of integers": lambda m, x: m.tensor([1, 2]).mean(),
    "bool minus bool": lambda m, x: m.tensor([True]) - m.tensor([True]),
    "max of nothing": lambda m, x: m.ones(0).max(),
    "max of nothing along": lambda m, x: m.ones(2, 0).max(1),
    "argmax of nothing": lambda m, x: m.ones(0).argmax(),
    "where": lambda m, x: m.where(x, x, x),
    "clamp": lambda m, x: x.clamp(),
    "div mode": lambda m, x: m.div(x, x, rounding_mode="up"),
    "integer powers": lambda m, x: m.tensor([2]) ** -1,
    "integer division by zero": lambda m, x: m.tensor([2]) // m.tensor([0]),
    "gather dtype": lambda m, x: m.gather(x, 1, m.tensor([[0.0]])),
    "gather rank": lambda m, x: m.gather(x, 1, m.tensor([0])),
    "gather range": lambda m, x: m.gather(x, 1, m.tensor([[7]])),
    "index_select range": lambda m, x: m.index_select(x, 0, m.tensor([7])),
    "arange": lambda m, x: m.arange(0, 1, 0),
    "arange direction": lambda m, x: m.arange(3, 0),
    "ragged": lambda m, x: m.tensor([[1, 2], [3]]),
    "strings": lambda m, x: m.tensor(["a"]),
    "negative size": lambda m, x: m.zeros(-1),
    "not a tensor": lambda m, x: m.sin(1.0),
    "tensor plus string": lambda m, x: x + "a",
    "in-place shape": lambda m, x: m.ones(3).add_(x),
    "in-place dtype": lambda m, x: m.tensor([1]).add_(0.5),
    "leaf in place": lambda m, x: m.ones(2, requires_grad=True).add_(1),
    "leaf view in place": lambda m, x: m.ones(2, requires_grad=True)[0].add_(1),
    "leaf setitem": lambda m, x: m.ones(2, requires_grad=True).__setitem__(0, 1.0),
    "leaf index put": lambda m, x: m.ones(2, requires_grad=True).__setitem__(m.tensor([0]), 1.0),
    "leaf sin_": lambda m, x: m.sin_(m.ones(2, requires_grad=True)),
    "setitem shape": lambda m, x: m.ones(2, 3).__setitem__(0, m.ones(2)),
    "expanded in place": lambda m, x: m.ones(1).expand(3).add_(1),
    "not scalar": lambda m, x: (m.ones(2, requires_grad=True) * 2).backward(),
    "no grad": lambda m, x: x.sum().backward(),
    "cotangent shape": lambda m, x: (m.ones(2, requires_grad=True) * 2).backward(m.ones(3)),
    "unused": lambda m, x: m.autograd.grad(
        m.ones(1, requires_grad=True).sum(), m.ones(1, requires_grad=True)
    ),
    "input without grad": lambda m, x: m.autograd.grad(m.ones(1, requires_grad=True).sum(), x),
    "inputs empty": lambda m, x: m.autograd.backward(
        m.ones(1, requires_grad=True).sum(), inputs=[]
    ),
    "retain_grad": lambda m, x: x.retain_grad(),
    "register_hook": lambda m, x: x.register_hook(print),
    "flags of results": lambda m, x: (m.ones(1, requires_grad=True) * 2).requires_grad_(False),
    "grad of other shape": lambda m, x: setattr(x, "grad", m.ones(1)),
    "grad of other dtype": lambda m, x: setattr(x, "grad", x.double()),
    "grad of other type": lambda m, x: setattr(x, "grad", 3),
    "deepcopy": lambda m, x: __import__("copy").deepcopy(m.ones(1, requires_grad=True) * 2),
    "detach_ view": lambda m, x: x[0].detach_(),
    "softmax dim": lambda m, x: m.softmax(x, 5),
    "cumsum dim": lambda m, x: x.cumsum(3),
    "trace": lambda m, x: m.trace(m.ones(3)),
    "linspace": lambda m, x: m.linspace(0, 1, -1),
    "from_numpy": lambda m, x: m.from_numpy([1]),
    "repeat": lambda m, x: x.repeat(2),
    "item of nothing": lambda m, x: m.ones(0).item(),
    "diag": lambda m, x: m.diag(m.ones(1, 1, 1)),
    "lt strings": lambda m, x: x < "a",
}


ERRORS_OF_OTHER_WORDS = {
    "gather range": "an IndexError, as for every other index out of range",
    "index_select range": "names index and dimension",
    "negative size": "the sentence that torch has for ones, full and rand",
    "grad of other dtype": "torch's speaks of grad_dtype, which tracegrad does not have",
}


def refusal(module: Any, call: Callable[[Any, Any], object]) -> tuple[type, str]:
    try:
        call(module, module.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    except Exception as error:
        return type(error), str(error)
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore")
def test_errors(name: str) -> None:
    """torch's type of exception, and torch's sentence first; hints may follow on further lines."""
    kind, sentence = refusal(tg, BAD[name])
    ref_kind, ref_sentence = refusal(torch, BAD[name])
    same = issubclass(kind, ref_kind) and sentence.splitlines()[0] == ref_sentence.splitlines()[0]
    assert same == (name not in ERRORS_OF_OTHER_WORDS), (kind, sentence, ref_kind, ref_sentence)
