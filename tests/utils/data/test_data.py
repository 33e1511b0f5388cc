"""Datasets, samplers, collation and the loader in one process, against torch: the same program in both libraries."""

from __future__ import annotations

import collections
import math
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.utils import data

Point = collections.namedtuple("Point", "x y")


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    module = pytest.importorskip("torch")
    import torch.utils.data  # noqa: F401

    return module


def plain(value: Any) -> Any:
    """A value with tensors as (dtype, nested list), to compare two libraries'."""
    if hasattr(value, "tolist") and not isinstance(value, np.ndarray):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value).__name__, [plain(item) for item in value]
    return value


SAMPLES = [
    lambda lib: [lib.ones(2), lib.zeros(2)],
    lambda lib: [np.ones(2), np.zeros(2)],
    lambda lib: [np.ones((), np.float32), np.zeros((), np.float32)],
    lambda lib: [np.float32(1), np.float32(2)],
    lambda lib: [np.int16(1), np.int16(2)],
    lambda lib: [1.0, 2.0],
    lambda lib: [1, 2],
    lambda lib: [True, False],
    lambda lib: ["a", "b"],
    lambda lib: [(1, 2.0), (3, 4.0)],
    lambda lib: [[1, "x"], [2, "y"]],
    lambda lib: [{"a": 1, "b": [lib.ones(1)]}, {"a": 2, "b": [lib.ones(1)]}],
    lambda lib: [collections.OrderedDict(a=1), collections.OrderedDict(a=2)],
    lambda lib: [Point(1, lib.ones(1)), Point(2, lib.zeros(1))],
    lambda lib: [(1, 2), (3,)],
    lambda lib: [lib.ones(2), lib.ones(3)],
    lambda lib: [slice(1)],
    lambda lib: [None],
    lambda lib: [np.array(["a"])],
]


def outcome(call: Any) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = plain(call())
        except Exception as error:
            # Addresses of objects and the libraries' names differ.
            result = type(error).__name__, str(error).splitlines()[0].replace("torch", "tracegrad")
    return result, [str(w.message).split(" at 0x")[0] for w in caught]


def assert_as_torch(program: Any, torch: ModuleType) -> None:
    assert outcome(lambda: program(tg)) == outcome(lambda: program(torch))


@pytest.mark.peers
@pytest.mark.parametrize("number", range(len(SAMPLES)))
def test_collate_and_convert(number: int, torch: ModuleType) -> None:
    for name in ("default_collate", "default_convert"):
        assert_as_torch(
            lambda lib, name=name: getattr(lib.utils.data, name)(SAMPLES[number](lib)), torch
        )


class Squares:
    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < 7:
            raise IndexError(index)
        return index, float(index * index)


def counting(lib: ModuleType, count: int, said: int | None = None) -> Any:
    """An iterable dataset of that many numbers."""

    class Counting(lib.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(range(count))

        def __repr__(self) -> str:
            return "Counting"

    class Sized(Counting):
        def __len__(self) -> int:
            return said

    return Counting() if said is None else Sized()


def epochs(lib: ModuleType, dataset: Any, *args: Any, **kwargs: Any) -> Any:
    loader = lib.utils.data.DataLoader(dataset, *args, **kwargs)
    try:
        length = len(loader)
    except TypeError:
        length = -1
    return [length, list(loader), list(loader), length, loader.batch_size, loader.drop_last]


def pairs(lib: ModuleType) -> Any:
    return lib.utils.data.TensorDataset(
        lib.arange(10).reshape(5, 2), lib.arange(5, dtype=lib.float64)
    )


PROGRAMS = [
    lambda lib: epochs(lib, Squares()),
    lambda lib: epochs(lib, Squares(), 3),
    lambda lib: epochs(lib, Squares(), 3, drop_last=True),
    lambda lib: epochs(lib, Squares(), 7, drop_last=True),
    lambda lib: epochs(lib, Squares(), batch_size=None),
    lambda lib: epochs(lib, Squares(), 2, sampler=[6, 0, 3]),
    lambda lib: epochs(lib, Squares(), batch_sampler=[[1, 2], [3]]),
    lambda lib: epochs(lib, Squares(), 2, collate_fn=lambda batch: len(batch)),
    lambda lib: epochs(lib, [1, 2, 3], 2),
    lambda lib: epochs(lib, []),
    lambda lib: epochs(lib, pairs(lib), 2),
    lambda lib: epochs(lib, counting(lib, 5), 2),
    lambda lib: epochs(lib, counting(lib, 5), 2, drop_last=True),
    lambda lib: epochs(lib, counting(lib, 5), None),
    lambda lib: epochs(lib, counting(lib, 5, 5), 2),
    lambda lib: epochs(lib, counting(lib, 5, 2), 1),
    lambda lib: epochs(lib, counting(lib, 5), shuffle=True),
    lambda lib: epochs(lib, counting(lib, 5), sampler=[0]),
    lambda lib: epochs(lib, counting(lib, 5), batch_sampler=[[0]]),
    lambda lib: epochs(lib, Squares(), shuffle=True, sampler=[0]),
    lambda lib: epochs(lib, Squares(), 2, batch_sampler=[[0]]),
    lambda lib: epochs(lib, Squares(), None, drop_last=True),
    lambda lib: epochs(lib, Squares(), 0),
    lambda lib: epochs(lib, Squares(), 2.5),
    lambda lib: epochs(lib, Squares(), num_workers=-1),
    lambda lib: epochs(lib, Squares(), timeout=-1),
    lambda lib: epochs(lib, Squares(), prefetch_factor=2),
    lambda lib: epochs(lib, Squares(), persistent_workers=True),
    lambda lib: epochs(lib, Squares(), multiprocessing_context="fork"),
    lambda lib: epochs(lib, Squares(), num_workers=1, multiprocessing_context=3),
    lambda lib: epochs(lib, [], shuffle=True),
    lambda lib: epochs(lib, [1], pin_memory=True),
    lambda lib: setattr(lib.utils.data.DataLoader([1]), "batch_size", 3),
    lambda lib: lib.utils.data.Dataset()[0],
    lambda lib: [*pairs(lib)][1],
    lambda lib: lib.utils.data.TensorDataset(lib.ones(2), lib.ones(3)),
    lambda lib: lib.utils.data.StackDataset([1, 2], [3, 4])[1],
    lambda lib: lib.utils.data.StackDataset(a=[1, 2], b=[3, 4])[0],
    lambda lib: lib.utils.data.StackDataset([1], b=[1]),
    lambda lib: lib.utils.data.StackDataset(),
    lambda lib: lib.utils.data.StackDataset([1], [1, 2]),
    lambda lib: [*map((pairs(lib) + pairs(lib)).__getitem__, (0, 4, 5, 9, -1, -10))],
    lambda lib: (pairs(lib) + pairs(lib))[-11],
    lambda lib: (pairs(lib) + pairs(lib))[10],
    lambda lib: lib.utils.data.ConcatDataset([]),
    lambda lib: lib.utils.data.ConcatDataset([counting(lib, 1)]),
    lambda lib: list(counting(lib, 2) + counting(lib, 3)),
    lambda lib: list(lib.utils.data.ChainDataset([[1]])),
    lambda lib: lib.utils.data.IterableDataset(),
    lambda lib: epochs(lib, lib.utils.data.Subset(Squares(), [3, 1, 5]), 2),
    lambda lib: [len(s) for s in lib.utils.data.random_split(Squares(), [0.5, 0.3, 0.2])],
    lambda lib: [len(s) for s in lib.utils.data.random_split(Squares(), [3, 4])],
    lambda lib: [len(s) for s in lib.utils.data.random_split(Squares(), [0.99, 0.01, 0.0])],
    lambda lib: lib.utils.data.random_split(Squares(), [3, 5]),
    lambda lib: lib.utils.data.random_split(Squares(), [1.5, -0.5]),
    lambda lib: list(lib.utils.data.SequentialSampler([4, 5])),
    lambda lib: list(lib.utils.data.BatchSampler(range(5), 2, False)),
    lambda lib: len(lib.utils.data.BatchSampler(range(5), 2, True)),
    lambda lib: lib.utils.data.BatchSampler(range(5), True, True),
    lambda lib: lib.utils.data.BatchSampler(range(5), 2, 1),
    lambda lib: lib.utils.data.RandomSampler([1], replacement=1),
    lambda lib: lib.utils.data.RandomSampler([1], num_samples=0),
    lambda lib: lib.utils.data.RandomSampler([]),
    lambda lib: lib.utils.data.WeightedRandomSampler([[1.0]], 1),
    lambda lib: lib.utils.data.WeightedRandomSampler([1.0], 0),
    lambda lib: lib.utils.data.WeightedRandomSampler([1.0], 1, replacement=2),
    lambda lib: list(lib.utils.data.WeightedRandomSampler([0.0, 2.0], 3)),
    lambda lib: list(lib.utils.data.WeightedRandomSampler([0.0, 2.0], 3, replacement=False)),
    lambda lib: list(lib.utils.data.WeightedRandomSampler([-1.0, 2.0], 1)),
    lambda lib: list(lib.utils.data.WeightedRandomSampler([0.0, 0.0], 1)),
    lambda lib: lib.utils.data.get_worker_info(),
]


@pytest.mark.peers
@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_as_torch(number: int, torch: ModuleType) -> None:
    assert_as_torch(PROGRAMS[number], torch)


def test_random_orders() -> None:
    """Permutations, new ones each epoch, and the same ones for the same seed."""
    loader = data.DataLoader(range(20), 4, shuffle=True)
    orders = []
    for _ in range(2):
        tg.manual_seed(3)
        orders.append([[i for batch in loader for i in batch.tolist()] for _ in range(2)])
    (first, second), again = orders
    assert [first, second] == again
    assert first != second
    assert sorted(first) == sorted(second) == list(range(20))

    generator = tg.Generator().manual_seed(1)
    orders = [list(data.RandomSampler(range(20), generator=generator)) for _ in range(2)]
    assert orders[0] != orders[1]
    generator.manual_seed(1)
    assert list(data.RandomSampler(range(20), generator=generator)) == orders[0]
    assert sorted(data.RandomSampler(range(5), num_samples=12))[:4] == [0, 0, 1, 1]
    assert set(data.RandomSampler(range(3), True, 200)) == {0, 1, 2}
    assert sorted(data.SubsetRandomSampler([5, 7, 9])) == [5, 7, 9]
    split = data.random_split(range(9), [4, 5], generator=tg.Generator().manual_seed(0))
    assert sorted([*split[0], *split[1]]) == list(range(9))
    assert split[0].indices != [0, 1, 2, 3]


@pytest.mark.parametrize("replacement", [True, False])
def test_weighted_sampler_follows_the_weights(replacement: bool) -> None:
    tg.manual_seed(0)
    weights = [1.0, 0.0, 3.0]
    drawn = [
        next(iter(data.WeightedRandomSampler(weights, 1, replacement=replacement)))
        for _ in range(1000)
    ]
    assert drawn.count(1) == 0
    # Five standard deviations of a binomial distribution.
    assert math.isclose(drawn.count(2), 750, abs_tol=5 * math.sqrt(1000 * 0.75 * 0.25))
    if not replacement:
        assert sorted(data.WeightedRandomSampler([1, 2, 3], 3, replacement=False)) == [0, 1, 2]


def test_training_on_batches() -> None:
    """What a loader is for: a fit, batch by batch, compiled."""
    tg.manual_seed(0)
    x = tg.linspace(-1, 1, 64)[:, None]
    dataset = data.TensorDataset(x, 3 * x + 1)
    model = tg.nn.Linear(1, 1)
    optimizer = tg.optim.SGD(model.parameters(), lr=0.2)

    @tg.compile
    def step(inputs: tg.Tensor, targets: tg.Tensor) -> tg.Tensor:
        optimizer.zero_grad()
        loss = tg.nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss

    loader = data.DataLoader(dataset, batch_size=16, shuffle=True)
    for _ in range(30):
        for inputs, targets in loader:
            loss = step(inputs, targets)
    assert loss.item() < 1e-3
    assert step.stats.native > 100
