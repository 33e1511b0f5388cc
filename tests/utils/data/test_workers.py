"""Workers of a DataLoader: processes, forked and spawned, and threads."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import sys
import time
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad.utils import data

# JAX, which may be in the same process, and Python from 3.12 on warn of every fork.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

KINDS = ["fork", "spawn", "thread"]


@pytest.fixture(params=[kind for kind in KINDS if kind != "fork" or sys.platform != "win32"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


class Squares(data.Dataset[Any]):
    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> Any:
        return tg.tensor(index), index * index


class Counting(data.IterableDataset[Any]):
    """Numbers below `count`, shared out among the workers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Any:
        info = data.get_worker_info()
        assert info is not None
        assert info.dataset.count == self.count
        return iter(range(info.id, self.count, info.num_workers))


class Failing(data.Dataset[Any]):
    """Does something bad for sample 5."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            if self.what == "raise":
                raise KeyError("number five")
            if self.what == "exit":
                os._exit(3)
            time.sleep(30)
        return index


class Drawing(data.Dataset[Any]):
    """What the random generators give in the worker."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        info = data.get_worker_info()
        return np.array([info.id, info.seed, int(tg.randint(10**9, ())), np.random.randint(10**9)])


def values(loader: data.DataLoader[Any]) -> list[Any]:
    return [[part.tolist() for part in batch] for batch in loader]


def test_batches_are_those_of_one_process(kind: str) -> None:
    expected = values(data.DataLoader(Squares(), 3))
    loader = data.DataLoader(Squares(), 3, num_workers=2, multiprocessing_context=kind)
    assert values(loader) == expected
    assert len(loader) == 4
    tg.manual_seed(1)
    expected = values(data.DataLoader(Squares(), 3, shuffle=True))
    tg.manual_seed(1)
    loader = data.DataLoader(
        Squares(), 3, shuffle=True, num_workers=2, multiprocessing_context=kind
    )
    assert values(loader) == expected


def test_iterable_dataset_is_shared_out(kind: str) -> None:
    loader = data.DataLoader(Counting(7), 2, num_workers=2, multiprocessing_context=kind)
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[0, 2], [1, 3], [4, 6], [5]]


@pytest.mark.parametrize("dataset", [Squares(), Counting(9)], ids=["indexed", "iterable"])
def test_persistent_workers(kind: str, dataset: Any) -> None:
    """Epochs after complete and after abandoned ones, in the same workers."""
    loader = data.DataLoader(
        dataset, 2, num_workers=2, persistent_workers=True, multiprocessing_context=kind
    )
    first = [str(batch) for batch in loader]
    workers = loader._kept._workers
    iterator = iter(loader)
    assert str(next(iterator)) == first[0]
    assert [str(batch) for batch in loader] == first
    assert loader._kept._workers is workers


def test_errors_are_raised_here(kind: str) -> None:
    loader = data.DataLoader(Failing("raise"), 2, num_workers=2, multiprocessing_context=kind)
    iterator = iter(loader)
    assert [next(iterator).tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(KeyError, match=r"Caught KeyError in DataLoader worker 0.*number five"):
        next(iterator)
    assert next(iterator).tolist() == [6, 7]


def fail_at_start(worker: int) -> None:
    raise OSError(f"worker {worker} has no disk")


def test_errors_of_the_initialisation(kind: str) -> None:
    loader = data.DataLoader(
        Squares(), num_workers=1, worker_init_fn=fail_at_start, multiprocessing_context=kind
    )
    with pytest.raises(OSError, match="worker 0 has no disk"):
        next(iter(loader))


def test_dead_workers_are_noticed() -> None:
    loader = data.DataLoader(Failing("exit"), 2, num_workers=2)
    with pytest.raises(
        RuntimeError, match=r"DataLoader worker \(pid\(s\) \d+\) exited unexpectedly"
    ):
        list(loader)


@pytest.mark.parametrize("kind", ["fork", "thread"])
def test_late_workers_are_noticed(kind: str) -> None:
    loader = data.DataLoader(
        Failing("sleep"), 2, num_workers=2, timeout=1.0, multiprocessing_context=kind
    )
    with pytest.raises(RuntimeError, match=r"DataLoader timed out after 1\.0 seconds"):
        list(loader)


@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_random_generators_of_processes(kind: str) -> None:
    """Each worker has its own stream, which the loader's generator decides."""
    epochs = []
    for _ in range(2):
        tg.manual_seed(5)
        loader = data.DataLoader(Drawing(), num_workers=2, multiprocessing_context=kind)
        epochs.append([batch[0].tolist() for batch in loader])
    assert epochs[0] == epochs[1]
    (_, seed, a, b), (_, other_seed, c, d) = epochs[0][:2]
    assert [row[0] for row in epochs[0]] == [0, 1, 0, 1]
    assert other_seed == seed + 1
    assert a != c
    assert b != d


def test_processes_end_with_the_iterator() -> None:
    before = set(multiprocessing.active_children())
    iterator = iter(data.DataLoader(Squares(), num_workers=2))
    next(iterator)
    assert len(set(multiprocessing.active_children()) - before) == 2
    del iterator
    assert set(multiprocessing.active_children()) == before


def test_big_requests_and_answers() -> None:
    """More than pipes hold, in both directions."""
    order = list(range(50_000)) * 2
    loader = data.DataLoader(range(50_000), 25_000, sampler=order, num_workers=1)
    assert [batch.sum().item() for batch in loader] == 2 * [
        sum(range(25_000)),
        sum(range(25_000, 50_000)),
    ]


def test_loaders_are_copied_and_pickled() -> None:
    loader = data.DataLoader(Squares(), 3, num_workers=1)
    expected = values(loader)
    for other in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert values(other) == expected
    with pytest.raises(NotImplementedError, match="cannot be pickled"):
        pickle.dumps(iter(loader))


def test_unknown_start_methods() -> None:
    with pytest.raises(ValueError, match=r"should specify a valid start method .* or 'thread'"):
        data.DataLoader(Squares(), num_workers=1, multiprocessing_context="knife")
