"""Workers: processes or threads that fetch batches for a `DataLoader`.

A worker takes requests one after the other and answers them in that order: `send` a request, `receive` its answer.
`serve` is what runs in it. An answer is a batch, `Exhausted`, or a `Failure` that is raised in the user's thread.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import queue
import random
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from tracegrad.random import manual_seed


class WorkerInfo(NamedTuple):
    """What a worker knows of itself.

    Attributes:
        id: its number, from 0.
        num_workers: how many there are.
        seed: the loader's seed of this epoch plus `id`; in a process, Python's, NumPy's and tracegrad's generators
            start with it.
        dataset: the worker's dataset: in a process, a copy.
    """

    id: int
    num_workers: int
    seed: int
    dataset: Any


class Exhausted(NamedTuple):
    """The answer of a worker whose `IterableDataset` has ended."""


class Failure(NamedTuple):
    """The answer of a worker in which an exception was raised."""

    kind: type[BaseException]
    text: str

    def throw(self) -> None:
        """Raise an exception of the same type, or a RuntimeError if the type wants other arguments."""
        try:
            error = self.kind(self.text)
        except Exception:
            error = RuntimeError(self.text)
        raise error


# A request: a list of indices (or one index, or None for the next of an iterable dataset), or this.
RESTART = "restart"
_STOP = "stop"

_current = threading.local()


def get_worker_info() -> WorkerInfo | None:
    """About the worker in which this is called; None outside of workers."""
    return getattr(_current, "info", None)


class Task(NamedTuple):
    """What a worker is started with.

    Attributes:
        make_fetch: called with the dataset at the start of each epoch; returns what answers a request, and raises
            StopIteration when there is nothing more.
    """

    info: WorkerInfo
    make_fetch: Callable[[Any], Callable[[Any], Any]]
    init: Callable[[int], None] | None


def serve(task: Task, next_request: Callable[[], Any], answer: Callable[[Any], None]) -> None:
    """Answer requests until there are no more (`next_request` raises EOFError)."""
    _current.info = task.info
    fetch: Callable[[Any], Any] | None = None
    failure: Failure | None = None
    try:
        if task.init is not None:
            task.init(task.info.id)
        fetch = task.make_fetch(task.info.dataset)
    except Exception as error:
        failure = _failure(task, error)
    with contextlib.suppress(EOFError):
        while True:
            request = next_request()
            try:
                if request == RESTART:
                    fetch = task.make_fetch(task.info.dataset)
                elif fetch is None:
                    answer(failure)
                else:
                    answer(fetch(request))
            except StopIteration:
                answer(Exhausted())
            except Exception as error:
                answer(_failure(task, error))


def _failure(task: Task, error: Exception) -> Failure:
    where = f"Caught {type(error).__name__} in DataLoader worker {task.info.id}."
    return Failure(type(error), f"{where}\nOriginal {traceback.format_exc()}")


class Worker(Protocol):
    """A process or a thread."""

    def send(self, request: Any) -> None:
        """Queue a request; does not wait."""

    def receive(self, timeout: float | None) -> Any:
        """The answer to the first request that has none yet.

        Raises:
            TimeoutError: it has not come after so many seconds.
            RuntimeError: the worker has died.
        """

    def stop(self) -> None:
        """End the worker, whatever it is doing (a thread: after that)."""


class ProcessWorker:
    """A worker in a process of its own."""

    def __init__(self, context: Any, task: Task) -> None:
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_in_process, args=(task, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, request: Any) -> None:
        # If it has died, that is said where its answer is waited for.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._pipe.send(request)

    def receive(self, timeout: float | None) -> Any:
        try:
            if not self._pipe.poll(timeout):
                raise TimeoutError
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError(
                f"DataLoader worker (pid(s) {self._process.pid}) exited unexpectedly"
            ) from None

    def stop(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join()


def _in_process(task: Task, pipe: Any) -> None:
    seed = task.info.seed
    random.seed(seed)
    np.random.seed(seed % 2**32)
    manual_seed(seed)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # Requests are taken in while a batch is being sent, or both sides might wait for each other to read.
    threading.Thread(target=_take_in, args=(pipe, requests), daemon=True).start()

    def next_request() -> Any:
        request = requests.get()
        if request == _STOP:
            raise EOFError
        return request

    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        serve(task, next_request, pipe.send)


def _take_in(pipe: Any, requests: queue.SimpleQueue[Any]) -> None:
    """Hand on what comes through the pipe until it is closed or the parent has died."""
    parent = multiprocessing.parent_process()
    # A sibling that was forked later holds the parent's end too, so its closing alone tells nothing.
    watched = [pipe] if parent is None else [pipe, parent.sentinel]
    try:
        while pipe in multiprocessing.connection.wait(watched):
            requests.put(pipe.recv())
    except (EOFError, OSError):
        pass
    requests.put(_STOP)


class ThreadWorker:
    """A worker in a thread of this process: it shares the dataset and the random generators with the others."""

    def __init__(self, task: Task) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(
            target=serve, args=(task, self._next_request, self._answers.put), daemon=True
        ).start()

    def _next_request(self) -> Any:
        request = self._requests.get()
        if request == _STOP:
            raise EOFError
        return request

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def receive(self, timeout: float | None) -> Any:
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None

    def stop(self) -> None:
        self._requests.put(_STOP)
