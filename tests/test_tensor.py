"""Tensors as data: making them, their types, indexing, sharing memory with NumPy, ways out to Python."""

from __future__ import annotations

import copy
import itertools
import math
import operator
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracegrad as tg

try:
    import torch
except ImportError:
    torch = None

peers = [
    pytest.mark.peers,
    pytest.mark.skipif(torch is None, reason="torch is not installed"),
]


def with_torch(test: Any) -> Any:
    for mark in peers:
        test = mark(test)
    return test


DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64")


# Making tensors.


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (1, tg.int64, ()),
        (1.5, tg.float32, ()),
        (True, tg.bool, ()),
        ([1, 2], tg.int64, (2,)),
        ([1, 2.5], tg.float32, (2,)),
        ([[True], [False]], tg.bool, (2, 1)),
        ([], tg.float32, (0,)),
        ([[], []], tg.float32, (2, 0)),
        (np.float64(1), tg.float64, ()),
        (np.ones(2, np.float32), tg.float32, (2,)),
        (np.ones(2), tg.float64, (2,)),
        ([np.float64(1), np.float64(2)], tg.float64, (2,)),
        ((1.0, 2.0), tg.float32, (2,)),
        (range(3), tg.int64, (3,)),
    ],
)
def test_dtype_and_shape_of_data(data: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    x = tg.tensor(data)
    assert x.dtype is dtype
    assert x.shape == shape
    assert x.is_leaf
    assert not x.requires_grad


def test_tensor_copies_and_from_numpy_shares() -> None:
    array = np.zeros(3, np.float32)
    copied, shared = tg.tensor(array), tg.from_numpy(array)
    array[0] = 5
    assert copied[0].item() == 0
    assert shared[0].item() == 5
    shared[1] = 7
    assert array[1] == 7
    assert tg.as_tensor(array).data_ptr() == shared.data_ptr()
    assert tg.as_tensor(shared) is shared


def test_legacy_constructor() -> None:
    assert tg.Tensor(2, 3).shape == (2, 3)
    assert tg.Tensor([1, 2]).dtype is tg.float32
    assert tg.Tensor().shape == (0,)


@with_torch
def test_factories() -> None:
    def make(m: Any) -> list[Any]:
        like = m.ones(2, 2, dtype=m.int32)
        return [
            m.zeros(2, 3), m.zeros((2, 3)), m.ones(2, dtype=m.float64), m.full((2,), 3), m.full((2,), 3.5),
            m.full((), True), m.arange(5), m.arange(1, 2, 0.25), m.arange(5, 0, -2), m.arange(3.0),
            m.linspace(0, 1, 5), m.linspace(0.0, 2 * math.pi, 25), m.linspace(3, -3, 7), m.linspace(0, 1, 1),
            m.linspace(0, 10, 4, dtype=m.int64), m.eye(3), m.eye(2, 3, dtype=m.int64), m.zeros_like(like),
            m.ones_like(like, dtype=m.float32), m.full_like(like, 7), like.new_zeros(3), like.new_ones((1, 2)),
            like.new_full((2,), 4), like.new_tensor([1.7, 2]), m.tensor([1, 2], dtype=m.float64),
            *m.meshgrid(m.arange(2), m.arange(3), indexing="ij"),
            *m.meshgrid(m.arange(2), m.arange(3), indexing="xy"),
        ]  # fmt: skip

    for ours, theirs in zip(make(tg), make(torch), strict=True):
        assert str(ours.dtype) == str(theirs.dtype)
        assert tuple(ours.shape) == tuple(theirs.shape)
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_default_dtype() -> None:
    try:
        tg.set_default_dtype(tg.float64)
        assert tg.get_default_dtype() is tg.float64
        assert tg.tensor(1.5).dtype is tg.float64
        assert tg.zeros(2).dtype is tg.float64
        assert (tg.tensor([1]) * 0.5).dtype is tg.float64
        assert repr(tg.ones(1)) == "tensor([1.])"
    finally:
        tg.set_default_dtype(tg.float32)
    with pytest.raises(TypeError, match="only floating-point types are supported"):
        tg.set_default_dtype(tg.int64)


def test_devices() -> None:
    device = tg.device("cpu")
    assert str(device) == "cpu"
    assert repr(tg.device("cpu", 0)) == "device(type='cpu', index=0)"
    assert tg.zeros(2, device=device).device == device
    assert tg.ones(2).to("cpu").device == tg.device("cpu")
    assert not tg.cuda.is_available()
    with pytest.raises(RuntimeError, match="runs on the CPU only"):
        tg.zeros(2, device="cuda")


# Promotion.

BINARY = {
    "add": operator.add, "mul": operator.mul, "truediv": operator.truediv, "floordiv": operator.floordiv,
    "pow": operator.pow, "lt": operator.lt, "maximum": None, "where": None,
}  # fmt: skip
NUMBERS: tuple[Any, ...] = (True, 3, 2.5)


def operand(module: Any, kind: str, dtype: str) -> Any:
    """A scalar number, a 0-d tensor, or a tensor with dimensions; never zero, so that division works."""
    values = {"0-d": 1, "n-d": [1, 1, 1]}[kind]
    return module.tensor(values, dtype=getattr(module, dtype))


def attempt(module: Any, name: str, x: Any, y: Any) -> tuple[Any, ...]:
    try:
        if name == "where":
            result = module.where(module.tensor([True, False, True]), x, y)
        elif name == "maximum":
            result = module.maximum(x, y)
        else:
            result = BINARY[name](x, y)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return (type(error).__name__,)
    return str(result.dtype), tuple(result.shape), result.tolist()


@with_torch
@pytest.mark.parametrize("name", BINARY)
def test_promotion(name: str) -> None:
    """All pairs of dtypes, for tensors with and without dimensions, and all dtypes with Python numbers."""
    wrong = []
    for kinds in itertools.product(("0-d", "n-d"), repeat=2):
        for dtypes in itertools.product(DTYPES, repeat=2):
            results = [
                attempt(m, name, *(operand(m, k, d) for k, d in zip(kinds, dtypes, strict=True)))
                for m in (tg, torch)
            ]
            if results[0] != results[1]:
                wrong.append((kinds, dtypes, *results))
    if name != "maximum":
        for kind, dtype, number in itertools.product(("0-d", "n-d"), DTYPES, NUMBERS):
            for swap in (False, True):
                results = []
                for m in (tg, torch):
                    x, y = operand(m, kind, dtype), number
                    results.append(attempt(m, name, *((y, x) if swap else (x, y))))
                # torch has no power of bool tensors, except this one.
                if results[0] != results[1] and (name, dtype, number, swap) != (
                    "pow",
                    "bool",
                    True,
                    False,
                ):
                    wrong.append((kind, dtype, number, swap, *results))
    assert not wrong, wrong[:10]


@with_torch
def test_promotion_functions() -> None:
    for a, b in itertools.product(DTYPES, repeat=2):
        ours = tg.promote_types(getattr(tg, a), getattr(tg, b))
        assert str(ours) == str(torch.promote_types(getattr(torch, a), getattr(torch, b)))
        assert tg.can_cast(getattr(tg, a), getattr(tg, b)) == torch.can_cast(
            getattr(torch, a), getattr(torch, b)
        )
        for ka, kb in itertools.product(("0-d", "n-d"), repeat=2):
            ours = tg.result_type(operand(tg, ka, a), operand(tg, kb, b))
            assert str(ours) == str(torch.result_type(operand(torch, ka, a), operand(torch, kb, b)))


@with_torch
def test_conversions_between_all_dtypes() -> None:
    values = np.array([-2.7, -1.0, -0.0, 0.5, 1.0, 100.9])
    for a, b in itertools.product(DTYPES, repeat=2):
        source = np.abs(values) if a == "uint8" or b == "uint8" else values
        ours = tg.tensor(source).to(getattr(tg, a)).to(getattr(tg, b))
        theirs = torch.tensor(source).to(getattr(torch, a)).to(getattr(torch, b))
        assert str(ours.dtype) == str(theirs.dtype)
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_conversion_methods() -> None:
    x = tg.tensor([1.7])
    assert x.double().dtype is tg.float64
    assert x.long().item() == 1
    assert x.bool().item() is True
    assert x.int().dtype is tg.int32
    assert x.float() is x
    assert x.type_as(tg.tensor(1)).dtype is tg.int64
    assert x.to(x.double()).dtype is tg.float64
    assert x.to("cpu", tg.float64).dtype is tg.float64
    assert x.to(tg.float32, copy=True) is not x
    assert x.type() == "torch.FloatTensor"
    assert x.type(tg.float64).type() == "torch.DoubleTensor"


# Indexing.


@st.composite
def index_items(draw: st.DrawFn, extent: int) -> Any:
    """One item of an index into a dimension: what torch accepts as well."""
    kind = draw(st.sampled_from(["int", "slice", "full", "list", "mask", "none", "matrix"]))
    if kind == "none":
        return None
    if kind == "full":
        return slice(None)
    if kind == "int" and extent:
        return draw(st.integers(-extent, extent - 1))
    if kind == "slice" or not extent:
        bounds = st.none() | st.integers(-extent - 2, extent + 2)
        return slice(draw(bounds), draw(bounds), draw(st.none() | st.integers(1, 3)))
    if kind == "mask":
        return np.array(draw(st.lists(st.booleans(), min_size=extent, max_size=extent)))
    positions = st.integers(-extent, extent - 1)
    if kind == "list":
        return np.array(draw(st.lists(positions, min_size=1, max_size=3)))
    return np.array(draw(st.lists(positions, min_size=4, max_size=4))).reshape(2, 2)


@st.composite
def indices(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """A shape, and an index into it; the index arrays broadcast, mostly."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    items, axis = [], 0
    for _ in range(draw(st.integers(0, len(shape) + 1))):
        if axis == len(shape):
            break
        item = draw(index_items(shape[axis]))
        items.append(item)
        axis += item is not None
    if draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), Ellipsis)
        if items:
            # Behind the ellipsis items belong to other dimensions: keep what fits anywhere.
            place = [i is Ellipsis for i in items].index(True)
            items = items[: place + 1] + [
                i for i in items[place + 1 :] if i is None or isinstance(i, slice)
            ]
    return shape, tuple(items)


def as_index(module: Any, items: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(module.tensor(i) if isinstance(i, np.ndarray) else i for i in items)


def values_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(1.0, 1.0 + math.prod(shape)).reshape(shape)


@with_torch
@given(indices())
@settings(max_examples=800)
def test_reading_parts(case: tuple[tuple[int, ...], tuple[Any, ...]]) -> None:
    """The same elements, the same error, the same gradient; views share memory exactly where torch's do."""
    shape, items = case
    results = []
    for m in (tg, torch):
        x = m.tensor(values_of(shape), requires_grad=True)
        try:
            part = x[as_index(m, items)]
        except IndexError:
            results.append(IndexError)
            continue
        weights = m.tensor(values_of(tuple(part.shape)))
        gradient = m.autograd.grad((part * weights).sum(), x)[0]
        shares = part.numel() > 0 and np.shares_memory(part.detach().numpy(), x.detach().numpy())
        results.append((part.tolist(), tuple(part.shape), gradient.tolist(), shares))
    assert results[0] == results[1]


@with_torch
@given(indices(), st.sampled_from(["number", "tensor", "row"]), st.booleans())
@settings(max_examples=800)
def test_writing_parts(
    case: tuple[tuple[int, ...], tuple[Any, ...]], kind: str, recorded: bool
) -> None:
    """Assignment with and without gradients; where positions repeat any of the values may win."""
    shape, items = case
    repeated = any(isinstance(i, np.ndarray) and i.dtype != bool for i in items)
    results = []
    for m in (tg, torch):
        x = m.tensor(values_of(shape), requires_grad=recorded)
        y = x * 1
        index = as_index(m, items)
        try:
            part = tuple(y[index].shape)
            if kind == "number":
                value: Any = 7.5
            else:
                given_shape = part[-1:] if kind == "row" else part
                value = m.tensor(-values_of(given_shape), requires_grad=recorded)
                if repeated:
                    value = value * 0 + 3.0
            y[index] = value
        except (IndexError, RuntimeError):
            results.append("error")
            continue
        outcome = [y.tolist()]
        if recorded and not repeated:
            weights = m.tensor(values_of(shape))
            leaves = [x] if kind == "number" else [x, value]
            outcome += [
                g.tolist()
                for g in m.autograd.grad(
                    (y * weights).sum(), leaves, allow_unused=True, materialize_grads=True
                )
            ]
        results.append(outcome)
    assert results[0] == results[1]


def test_indexing_as_numpy_does() -> None:
    """Lists of lists, as NumPy has them; negative steps are refused, as torch does it."""
    array = np.arange(12.0).reshape(3, 4)
    x = tg.tensor(array)
    for key in (
        np.s_[[0, 2]],
        np.s_[[[0, 1], [1, 2]]],
    ):
        np.testing.assert_array_equal(x[key].numpy(), array[key])
    y = x.clone()
    for use in (lambda: y[::-1], lambda: y[:, ::-2], lambda: y.__setitem__(np.s_[::-1], x)):
        with pytest.raises(ValueError, match="step must be greater than zero"):
            use()


def test_constants() -> None:
    for name in ("pi", "e", "inf"):
        assert getattr(tg, name) == getattr(math, name)
    assert math.isnan(tg.nan)
    assert tg.zeros(3)[:, tg.newaxis].shape == (3, 1)


def test_repeated_positions_the_last_one_wins() -> None:
    for recorded in (False, True):
        x = tg.zeros(3, requires_grad=recorded) * 1
        x[tg.tensor([1, 1, 1])] = tg.tensor([1.0, 2.0, 3.0])
        assert x.tolist() == [0.0, 3.0, 0.0]


def test_augmented_assignment_to_repeated_positions_reads_once() -> None:
    x = tg.zeros(3)
    x[tg.tensor([1, 1])] += 1
    assert x.tolist() == [0.0, 1.0, 0.0]


def test_iteration_and_membership() -> None:
    x = tg.arange(6).view(3, 2)
    assert [row.tolist() for row in x] == [[0, 1], [2, 3], [4, 5]]
    assert len(x) == 3
    assert 4 in x
    assert 9 not in x
    *_, last = x
    assert last.tolist() == [4, 5]
    (v,) = tg.tensor([7])
    assert range(10)[v] == 7


# Ways out to Python.


def test_numbers() -> None:
    x = tg.tensor([[2.5]])
    assert (x.item(), float(x), int(x), complex(x)) == (2.5, 2.5, 2, 2.5 + 0j)
    assert math.sqrt(tg.tensor(4.0)) == 2.0
    assert f"{tg.tensor(3.14159):.2f}" == "3.14"
    assert [10, 20, 30][tg.tensor(1)] == 20
    assert bool(tg.tensor([1]))
    assert not bool(tg.tensor(0.0))
    assert type(tg.tensor(1).item()) is int
    assert type(tg.tensor(True).item()) is bool


def test_numpy_shares_memory() -> None:
    x = tg.zeros(2, 3)
    array = x.numpy()
    array[0, 0] = 5
    assert x[0, 0].item() == 5
    assert np.shares_memory(np.asarray(x), array)
    assert not np.shares_memory(np.array(x), array)
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    y = tg.ones(2, requires_grad=True)
    assert y.numpy(force=True).tolist() == [1.0, 1.0]


def test_numpy_on_the_left() -> None:
    """tracegrad wins: the result is a Tensor with a history."""
    x = tg.ones(2, dtype=tg.float64, requires_grad=True)
    y = np.float64(3) * x
    assert isinstance(y, tg.Tensor)
    assert y.requires_grad


def test_dlpack() -> None:
    x = tg.arange(3.0)
    array = np.from_dlpack(x)
    array_of = tg.from_dlpack(array)
    assert np.shares_memory(array, x.numpy())
    assert array_of.tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(BufferError):
        np.from_dlpack(tg.ones(2, requires_grad=True))


def test_properties() -> None:
    x = tg.zeros(2, 3, 4)
    assert x.shape == x.size() == tg.Size([2, 3, 4])
    assert repr(x.shape) == "torch.Size([2, 3, 4])"
    assert (x.size(1), x.size(-1), x.ndim, x.dim(), x.numel(), x.nelement()) == (3, 4, 3, 3, 24, 24)
    assert (x.stride(), x.stride(0), x.t().stride() if x.ndim == 2 else None) == (
        (12, 4, 1),
        12,
        None,
    )
    assert (x.element_size(), x.itemsize, x.nbytes) == (4, 4, 96)
    assert x.is_contiguous()
    assert not x.permute(2, 0, 1).is_contiguous()
    assert x.is_floating_point()
    assert not x.is_complex()
    assert x.shape[1:] == (3, 4)
    assert isinstance(x.shape[1:], tg.Size)
    assert x.shape.numel() == 24
    assert tg.is_tensor(x)
    assert tg.numel(x) == 24


def test_hash_is_identity() -> None:
    x = tg.zeros(2)
    y = tg.zeros(2)
    assert len({x, y, x}) == 2


def test_pickle_and_copy() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    (x * 2).sum().backward()
    for duplicate in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x)):
        assert duplicate.tolist() == x.tolist()
        assert duplicate.requires_grad
        assert duplicate.is_leaf
        duplicate.data[0] = 9.0
        assert x[0].item() == 1.0
    assert copy.deepcopy(x).grad.tolist() == [2.0, 2.0]
    result = pickle.loads(pickle.dumps(x * 2))
    assert result.is_leaf
    assert result.requires_grad
    shared = [x, x]
    first, second = copy.deepcopy(shared)
    assert first is second


def test_attributes_of_the_users_own() -> None:
    x = tg.zeros(2)
    x.name_of_mine = "a"
    assert x.name_of_mine == "a"
    assert not hasattr(x * 1, "name_of_mine")


def test_comparisons_with_other_things() -> None:
    x = tg.zeros(2)
    assert (x == None) is False  # noqa: E711
    assert (x != "a") is True
    with pytest.raises(TypeError):
        _ = x < "a"
