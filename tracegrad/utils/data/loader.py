"""The `DataLoader`: batches of a dataset, made in this process or by workers.

A loader is a description; each epoch is an iterator of its own, `_Here` or `_WithWorkers`. Both take what to fetch
from the sampler and answer it with a function that `_make_fetch` makes.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from tracegrad.autograd.profiler import record_function
from tracegrad.random import Generator
from tracegrad.utils.data.collation import default_collate, default_convert
from tracegrad.utils.data.datasets import IterableDataset
from tracegrad.utils.data.samplers import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    random_seed,
)
from tracegrad.utils.data.workers import (
    RESTART,
    Exhausted,
    Failure,
    ProcessWorker,
    Task,
    ThreadWorker,
    Worker,
    WorkerInfo,
)

T = TypeVar("T", covariant=True)

_FIXED = {
    "batch_size",
    "batch_sampler",
    "sampler",
    "drop_last",
    "dataset",
    "persistent_workers",
}


class DataLoader(Generic[T]):
    """Batches of a dataset; iterating over it is an epoch. As ``torch.utils.data.DataLoader``.

    Args:
        dataset: map-style (``__getitem__`` and ``__len__``) or an `IterableDataset`.
        batch_size: samples per batch; None gives single samples, not collated.
        shuffle: a new order each epoch.
        sampler: the order of indices, instead of `shuffle`.
        batch_sampler: lists of indices, instead of `batch_size`, `shuffle`, `sampler` and `drop_last`.
        num_workers: how many workers fetch batches; with 0 this process does.
        collate_fn: makes a batch of a list of samples; `default_collate` if left out.
        pin_memory: accepted; there is no accelerator to pin memory for, as a warning says.
        drop_last: leave out the last batch if it is short.
        timeout: seconds to wait for a worker's batch; 0 for ever.
        worker_init_fn: called in each worker with its number.
        multiprocessing_context: how workers start: "fork", "spawn", "forkserver", a context of `multiprocessing`; or
            "thread", which is tracegrad's own: nothing is copied or pickled, NumPy works in parallel, Python does not.
        generator: of the order, and of the workers' seed.
        prefetch_factor: batches that each worker works ahead; 2 if left out.
        persistent_workers: keep the workers for the next epoch.
        pin_memory_device: accepted, without effect.
        in_order: accepted; batches always come in the order of the sampler.

    Raises:
        ValueError: options that exclude each other, or out of their range.
        TypeError: `multiprocessing_context` is not a context.
        RuntimeError: in an epoch, if a worker dies or is too late. What is raised in a worker is raised here, with the
            worker's traceback in its text.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        _check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        self.dataset = dataset
        self.num_workers = num_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.pin_memory = pin_memory
        self.pin_memory_device = pin_memory_device
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.multiprocessing_context = _context(multiprocessing_context, num_workers)
        self.in_order = in_order
        self._iterable = isinstance(dataset, IterableDataset)
        if self._iterable:
            _check_iterable(shuffle, sampler, batch_sampler)
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError(
                "batch_size=None option disables auto-batching and is mutually exclusive with drop_last"
            )
        if sampler is None:
            if self._iterable:
                sampler = itertools.repeat(None)
            elif shuffle:
                sampler = RandomSampler(dataset, generator=generator)
            else:
                sampler = SequentialSampler(dataset)
        if batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.generator = generator
        if collate_fn is None:
            collate_fn = default_convert if batch_sampler is None else default_collate
        self.collate_fn = collate_fn
        self.persistent_workers = persistent_workers
        self._reported_length: int | None = None
        self._kept: _WithWorkers | None = None
        self._complete = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and getattr(self, "_complete", False):
            raise ValueError(
                f"{name} attribute should not be set after {type(self).__name__} is initialized"
            )
        super().__setattr__(name, value)

    def __iter__(self) -> Iterator[Any]:
        if self.pin_memory:
            warnings.warn(
                "'pin_memory' argument is set as true but no accelerator is found, "
                "then device pinned memory won't be used.",
                stacklevel=2,
            )
        if self.num_workers == 0:
            return _Here(self)
        if not self.persistent_workers:
            return _WithWorkers(self)
        if self._kept is None:
            self._kept = _WithWorkers(self)
        else:
            self._kept.restart()
        return self._kept

    def __len__(self) -> int:
        """The number of batches; of an `IterableDataset`, what its own length says.

        Raises:
            TypeError: the dataset or the sampler has no length.
        """
        if not self._iterable:
            return len(self._order)  # type: ignore[arg-type]
        length = self._reported_length = len(self.dataset)
        if self.batch_size is None:
            return length
        return length // self.batch_size if self.drop_last else -(-length // self.batch_size)

    @property
    def _order(self) -> Iterable[Any]:
        """What to fetch, request by request."""
        return self.sampler if self.batch_sampler is None else self.batch_sampler

    def _make_fetch(self) -> Callable[[Any], Callable[[Any], Any]]:
        make = _fetch_next if self._iterable else _fetch_indexed
        return functools.partial(
            make, self.collate_fn, self.batch_sampler is not None, self.drop_last
        )

    def _check_length(self, fetched: int) -> None:
        """Warn if an `IterableDataset` gave more than the length that it told us. As torch: in batches, both."""
        said = self._reported_length
        if said is None or fetched <= said:
            return
        hint = ""
        if self.num_workers:
            hint = (
                "For multiprocessing data-loading, this could be caused by not properly configuring the "
                "IterableDataset replica at each worker. Please see "
                "https://pytorch.org/docs/stable/data.html#torch.utils.data.IterableDataset for examples."
            )
        warnings.warn(
            f"Length of IterableDataset {self.dataset} was reported to be {said}"
            f"(when accessing len(dataloader)), but {fetched} samples have been fetched. {hint}",
            stacklevel=3,
        )


def _fetch_indexed(
    collate: Callable[[Any], Any], batched: bool, drop_last: bool, dataset: Any
) -> Callable[[Any], Any]:
    """What answers a request by indices."""
    fetch_many = getattr(dataset, "__getitems__", None)

    def fetch(request: Any) -> Any:
        if not batched:
            return collate(dataset[request])
        if callable(fetch_many):
            return collate(fetch_many(request))
        return collate([dataset[index] for index in request])

    return fetch


def _fetch_next(
    collate: Callable[[Any], Any], batched: bool, drop_last: bool, dataset: Any
) -> Callable[[Any], Any]:
    """What answers a request by the next samples of an iterable dataset; raises StopIteration at its end."""
    samples = iter(dataset)

    def fetch(request: Any) -> Any:
        if not batched:
            return collate(next(samples))
        batch = list(itertools.islice(samples, len(request)))
        if not batch or (drop_last and len(batch) < len(request)):
            raise StopIteration
        return collate(batch)

    return fetch


class _Here:
    """An epoch in which this process fetches the batches."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        self._requests = iter(loader._order)
        # As with workers, each epoch draws once from the generator, whatever the sampler draws.
        random_seed(loader.generator)
        self._fetch = loader._make_fetch()(loader.dataset)
        self._fetched = 0

    def __iter__(self) -> _Here:
        return self

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> Any:
        with record_function("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"):
            batch = self._fetch(next(self._requests))
        self._fetched += 1
        self._loader._check_length(self._fetched)
        return batch


class _WithWorkers:
    """An epoch in which workers fetch the batches, each `prefetch_factor` ahead.

    Requests go to the workers in turn, so that batch i always comes from the same worker; their answers are taken in
    the same order. `_pending` are the workers that owe an answer, in that order.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader
        _warn_of_too_many(loader)
        seed = random_seed(loader.generator)
        self._workers: list[Worker] = []
        self._closed = weakref.finalize(self, _stop, self._workers)
        context = loader.multiprocessing_context or multiprocessing.get_context()
        for number in range(loader.num_workers):
            info = WorkerInfo(number, loader.num_workers, seed + number, loader.dataset)
            task = Task(info, loader._make_fetch(), loader.worker_init_fn)
            self._workers.append(
                ThreadWorker(task) if context == "thread" else ProcessWorker(context, task)
            )
        self._begin()

    def _begin(self) -> None:
        self._requests = iter(self._loader._order)
        self._pending: deque[int] = deque()
        self._active = [True] * len(self._workers)
        self._turn = itertools.cycle(range(len(self._workers)))
        self._fetched = 0
        for _ in range((self._loader.prefetch_factor or 2) * len(self._workers)):
            self._request()

    def restart(self) -> None:
        """Begin another epoch with the same workers."""
        for number in self._pending:
            self._workers[number].receive(None)
        for worker in self._workers:
            worker.send(RESTART)
        self._begin()

    def _request(self) -> None:
        """Give the next active worker something to do, if there is anything left."""
        if not any(self._active):
            return
        number = next(n for n in self._turn if self._active[n])
        for request in itertools.islice(self._requests, 1):
            self._workers[number].send(request)
            self._pending.append(number)

    def __iter__(self) -> _WithWorkers:
        return self

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> Any:
        with record_function("enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"):
            batch = self._receive()
        self._fetched += 1
        self._loader._check_length(self._fetched)
        return batch

    def _receive(self) -> Any:
        timeout = self._loader.timeout
        while self._pending:
            number = self._pending.popleft()
            try:
                answer = self._workers[number].receive(timeout or None)
            except TimeoutError:
                self._closed()
                raise RuntimeError(f"DataLoader timed out after {timeout} seconds") from None
            except RuntimeError:
                self._closed()
                raise
            if isinstance(answer, Exhausted):
                self._active[number] = False
            self._request()
            if isinstance(answer, Failure):
                answer.throw()
            if not isinstance(answer, Exhausted):
                return answer
        if not self._loader.persistent_workers:
            self._closed()
        raise StopIteration

    def __reduce__(self) -> Any:
        raise NotImplementedError(f"{type(self).__name__} cannot be pickled")


def _stop(workers: list[Worker]) -> None:
    for worker in workers:
        worker.stop()


def _warn_of_too_many(loader: DataLoader[Any]) -> None:
    if loader.multiprocessing_context == "thread":
        return
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if available is not None and loader.num_workers > available:
        warnings.warn(
            f"This DataLoader will create {loader.num_workers} worker processes in total. Our suggested max number of "
            f"worker in current system is {available}, which is smaller than what this DataLoader is going to create. "
            "Please be aware that excessive worker creation might get DataLoader running slow or even freeze, "
            "lower the worker number to avoid potential slowness/freeze if necessary.",
            stacklevel=4,
        )


def _check_workers(
    num_workers: int, timeout: float, prefetch_factor: int | None, persistent_workers: bool
) -> None:
    if num_workers < 0:
        raise ValueError(
            "num_workers option should be non-negative; use num_workers=0 to disable multiprocessing."
        )
    if timeout < 0:
        raise ValueError("timeout option should be non-negative")
    if num_workers == 0 and prefetch_factor is not None:
        raise ValueError(
            "prefetch_factor option could only be specified in multiprocessing."
            "let num_workers > 0 to enable multiprocessing, otherwise set prefetch_factor to None."
        )
    if prefetch_factor is not None and prefetch_factor < 0:
        raise ValueError("prefetch_factor option should be non-negative")
    if persistent_workers and num_workers == 0:
        raise ValueError("persistent_workers option needs num_workers > 0")


def _check_iterable(shuffle: Any, sampler: Any, batch_sampler: Any) -> None:
    if shuffle:
        raise ValueError(
            f"DataLoader with IterableDataset: expected unspecified shuffle option, but got shuffle={shuffle}"
        )
    if sampler is not None:
        raise ValueError(
            f"DataLoader with IterableDataset: expected unspecified sampler option, but got sampler={sampler}"
        )
    if batch_sampler is not None:
        raise ValueError(
            "DataLoader with IterableDataset: expected unspecified batch_sampler option, "
            f"but got batch_sampler={batch_sampler}"
        )


def _context(given: Any, num_workers: int) -> Any:
    """A context of `multiprocessing`, "thread", or None for Python's default."""
    if given is None:
        return None
    if num_workers == 0:
        raise ValueError(
            "multiprocessing_context can only be used with multi-process loading (num_workers > 0), "
            f"but got num_workers={num_workers}"
        )
    if isinstance(given, str):
        methods = multiprocessing.get_all_start_methods()
        if given != "thread" and given not in methods:
            raise ValueError(
                f"multiprocessing_context option should specify a valid start method in {methods!r}, but got "
                f"multiprocessing_context={given!r}; or 'thread'"
            )
        return given if given == "thread" else multiprocessing.get_context(given)
    if not isinstance(given, multiprocessing.context.BaseContext):
        raise TypeError(
            "multiprocessing_context option should be a valid context object or a string specifying the start "
            f"method, but got multiprocessing_context={given}"
        )
    return given
