"""Keywords of the functions that make tensors: accepted, refused or unknown as in torch; layouts, strides, errors."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.peers

MAKERS = (
    "zeros(2, 3{})",
    "ones((2, 3){})",
    "empty(2, 3{})",
    "full((2, 3), 1.0{})",
    "zeros_like(t.ones(2, 3){})",
    "ones_like(t.ones(2, 3){})",
    "empty_like(t.ones(2, 3){})",
    "full_like(t.ones(2, 3), 2.0{})",
    "ones(2, 3).new_zeros(2{})",
    "ones(2, 3).new_ones(2{})",
    "ones(2, 3).new_empty(2{})",
    "ones(2, 3).new_full((2,), 5.0{})",
    "ones(2, 3).new_empty_strided((2, 2), (1, 2){})",
    "empty_strided((2, 3), (1, 2){})",
    "empty_permuted((2, 3), (1, 0){})",
    "arange(3.0{})",
    "linspace(0, 1, 3{})",
    "logspace(0, 1, 3{})",
    "eye(3{})",
    "scalar_tensor(3{})",
    "rand(2, 3{})",
    "randn(2, 3{})",
    "randint(3, (2,){})",
    "randperm(3{})",
    "normal(0.0, 1.0, (2,){})",
    "rand_like(t.ones(2, 3){})",
    "randn_like(t.ones(2, 3){})",
    "randint_like(t.ones(2, 3), 3{})",
)
KEYWORDS = (
    "",
    ", device='cpu'",
    ", dtype=t.float64, device=t.device('cpu')",
    ", layout=t.strided, pin_memory=False",
    ", pin_memory=True",
    ", requires_grad=True",
    ", dtype=t.int64",
)
CALLS = (
    "zeros(size=(2, 3))",
    "ones(size=[2])",
    "rand(size=(2, 3))",
    "full(size=(2,), fill_value=3)",
    "ones(1).new_zeros(size=(2, 3))",
    "randint(high=3, size=(2,))",
    "randint(low=1, high=3, size=(2,))",
    "arange(end=3)",
    "arange(1, end=3, step=2)",
    "tensor([1.0], pin_memory=True)",
    "tensor([1.0], pin_memory=False)",
    "ones(1).new_tensor([1], device='cpu')",
    "tril_indices(2, 3, layout=t.strided, pin_memory=False, device='cpu')",
    "triu_indices(2, 3, pin_memory=True)",
    "zeros(2, foo=1)",
    "zeros_like(t.ones(2), foo=1)",
    "zeros(2, layout=3)",
    "full((2,), True, layout=t.strided)",
    "eye(-1)",
    "eye(2, -1)",
    "logspace(0, 1, -1)",
    "logspace(t.tensor(0.0), 1, 3)",
    "linspace(t.tensor([0.0]), 1, 3)",
    "logspace(0, t.tensor([0.0]), 3)",
    "logspace(0, 2, 0)",
    "logspace(0, 2, 1)",
    "empty_strided((2, 3), (0, 1))",
    "empty_strided((), ())",
    "empty_strided((2, 3), (1,))",
    "empty_strided((2, 3), (-1, 2))",
    "empty_permuted((2, 3, 4), (2, 0, 1))",
    "empty_permuted((2, 3, 4), (2, 0))",
    "empty_permuted((2, 3, 4), (2, 0, 0))",
    "empty_permuted((2, 3), (5, 0))",
    "ones(2).layout",
)


def outcome(t: Any, text: str) -> Any:
    try:
        x = eval(f"t.{text}", {"t": t})
    except Exception as error:
        return type(error).__name__, str(error).partition("\n")[0]
    if not isinstance(x, t.Tensor):
        return str(x)
    return str(x.dtype), tuple(x.shape), x.stride(), x.requires_grad, x.is_leaf


@pytest.mark.parametrize("keywords", KEYWORDS)
def test_keywords(keywords: str) -> None:
    for maker in MAKERS:
        text = maker.format(keywords)
        assert outcome(tg, text) == outcome(torch, text), text


@pytest.mark.parametrize("text", CALLS)
def test_calls(text: str) -> None:
    assert outcome(tg, text) == outcome(torch, text)


@pytest.mark.parametrize(
    "text",
    [
        "zeros(2, layout=t.sparse_coo)",
        "rand(2, layout=t.sparse_csr)",
        "tensor(1j)",
        "tensor([1.0, 2j])",
        "full((2,), 1j)",
        "full_like(t.ones(2), 1j)",
        "ones(2).new_full((2,), 1j)",
        "scalar_tensor(1j)",
        "complex(t.ones(2), t.ones(2))",
        "polar(t.ones(2), t.ones(2))",
        "view_as_complex(t.ones(2, 2))",
        "view_as_real(t.ones(2))",
    ],
)
def test_what_there_is_not(text: str) -> None:
    kind, message = outcome(tg, text)
    assert kind == "NotImplementedError"
    assert "not supported" in message


@pytest.mark.parametrize("name", ["strided", "sparse_coo", "sparse_csr"])
def test_layouts(name: str) -> None:
    layout = getattr(tg, name)
    assert repr(layout) == repr(getattr(torch, name))
    assert isinstance(layout, tg.layout)
    assert pickle.loads(pickle.dumps(layout)) is layout
    assert copy.deepcopy(layout) is layout
    with pytest.raises(TypeError, match="cannot create"):
        tg.layout()


def test_strided_memory_is_shared_and_writable() -> None:
    x = tg.empty_strided((2, 3), (1, 2))
    x[0, 1] = 5
    assert x.tolist() == [[0, 5, 0], [0, 0, 0]]
    assert x.t().is_contiguous()
    assert (x + 1).sum() == 11


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_compiled() -> None:
    @tg.compile
    def f(x: tg.Tensor) -> Any:
        y = tg.empty_strided((2, 3), (1, 2))
        y.copy_(x)
        return y, tg.logspace(0, 1, 3) * x

    for turn in range(3):
        x = tg.full((2, 3), float(turn))
        y, z = f(x)
        assert y.stride() == (1, 2)
        assert y.tolist() == x.tolist()
        assert z.tolist() == (tg.logspace(0, 1, 3) * x).tolist()
