"""Thread-local modes: whether gradients are recorded, and who wants to know of every operation.

``state`` is consulted once per operation. All modes that few programs use (a trace, a profiler, ...) therefore
stand behind one flag, ``state.watched``: while it is False, an operation need ask for none of them. Nobody sets
the flag. A mode is declared in :class:`ModeState` as a :class:`Rare` attribute; to assign to it sets the flag
as well, and `apply_watched` in :mod:`tracegrad.dispatch` is where the mode is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, TypeVar

from tracegrad.ir import events
from tracegrad.ir.exactness import exactness

F = TypeVar("F", bound=Callable[..., Any])


class Rare:
    """A mode that few programs use, an attribute of `ModeState`: off while it is None, False or empty.

    Assign a new value, never change one in place: the assignment is what keeps `ModeState.watched` true to it.
    Reading costs a look into the thread's dictionary and no more, since there is no ``__get__``.
    """

    names: ClassVar[list[str]] = []

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self.names.append(name)

    def __set__(self, modes: ModeState, value: Any) -> None:
        own = modes.__dict__
        own[self._name] = value
        if value or any(own[name] for name in self.names):
            own["watched"] = True
        else:
            own.pop("watched", None)


class Inference(NamedTuple):
    """Inference mode is on.

    Attributes:
        grad: what `is_grad_enabled` says. It has no effect: nothing is recorded in inference mode.
    """

    grad: bool = False


class ModeState(threading.local):
    """The modes of this thread.

    Attributes:
        grad: whether operations on tensors that require grad are recorded.
        inference: an :class:`Inference` while new tensors are inference tensors; `grad` is False then. Or None.
        anomaly: whether records keep a traceback, and the backward pass reports it if it fails.
        check_nan: whether the backward pass then stops at NaN, too.
        finder: the :class:`tracegrad.autograd.nan_finder.find_nan` that looks at every operation, or None.
        evaluated: under anomaly detection and `find_nan`, the record whose derivative is being computed.
        multithreading: what `set_multithreading_enabled` was told. The backward pass runs in one thread anyway.
        watched: whether a rare mode is on in this thread, or somebody listens to the events of all threads.
        trace: the :class:`tracegrad.tracing.Trace` that records every operation, or None.
        levels: the :mod:`tracegrad.levels` that are going on, outermost first.
        exact: whether `exact_where` is on; rare, since compiled code depends on it.
        saved_hooks: the pair of hooks that pack and unpack saved tensors (see :mod:`tracegrad.saved`), or None.
        keeper: the :class:`tracegrad.autograd.mutation.SavedCopies` to be told before a storage is changed, or None.
        selective: the mode of a selective checkpoint (:mod:`tracegrad.utils.selective_checkpoint`), or None.
        saved_hooks_disabled: why there must be none: the message of the error; or None.
        task: the backward pass that is running, a :class:`tracegrad.autograd.engine.GraphTask`, or None.
    """

    grad: bool = True
    check_nan: bool = True
    evaluated: Any = None
    task: Any = None
    multithreading: bool = True
    # Of the class: the events' part, for all threads. A thread of which a rare mode is on has its own True.
    watched: bool = False
    trace: Any = Rare()
    levels: Any = Rare()
    inference: Any = Rare()
    anomaly: Any = Rare()
    finder: Any = Rare()
    exact: Any = Rare()
    saved_hooks: Any = Rare()
    keeper: Any = Rare()
    selective: Any = Rare()
    saved_hooks_disabled: str | None = None

    def __init__(self) -> None:
        self.__dict__.update(dict.fromkeys(Rare.names), levels=(), exact=False)

    def adopt(self, modes: dict[str, Any]) -> None:
        """Take over the modes of another thread: a copy of its ``__dict__``."""
        self.__dict__.update(modes)
        exactness.on = self.exact

    def rare(self) -> bool:
        """Whether a rare mode is on in this thread."""
        return "watched" in self.__dict__


def by_value() -> bool:
    """Whether it does not do to write into memory: a trace or a transform has to be told the new value of a tensor."""
    return state.trace is not None or bool(state.levels)


def _listen(active: bool) -> None:
    ModeState.watched = active


state = ModeState()
events.when_changed(_listen)


def set_recording(mode: bool) -> None:
    """Turn the recording of operations on or off. In inference mode it stays off, whatever `is_grad_enabled` says."""
    if state.inference is None:
        state.grad = mode
    else:
        state.inference = Inference(mode)


_Saved = tuple[bool, Inference | None]


def _saved() -> _Saved:
    return state.grad, state.inference


def _restore(saved: _Saved) -> None:
    state.grad, inference = saved
    if state.inference is not inference:
        state.inference = inference


class _GradMode:
    """A context manager and decorator that sets grad or inference mode. Reusable, re-entrant."""

    _mode: bool

    def __init__(self) -> None:
        self._previous: list[_Saved] = []

    def _turn(self) -> None:
        """Set the mode."""
        set_recording(self._mode)

    def __enter__(self) -> None:
        self._previous.append(_saved())
        self._turn()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _restore(self._previous.pop())

    def __call__(self, function: F) -> F:
        if inspect.isclass(function):
            warnings.warn(
                "Decorating classes is deprecated and will be disabled in future versions. You should only "
                "decorate functions or methods. To preserve the current behavior of class decoration, you can "
                "directly decorate the `__init__` method and nothing else.",
                FutureWarning,
                stacklevel=2,
            )
        if inspect.isgeneratorfunction(function):
            return self._wrap_generator(function)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            previous = _saved()
            self._turn()
            try:
                return function(*args, **kwargs)
            finally:
                _restore(previous)

        return wrapped  # type: ignore[return-value]

    def _wrap_generator(self, function: F) -> F:
        """The mode holds while the generator runs, not while it is suspended."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            generator = function(*args, **kwargs)
            send, value = generator.send, None
            while True:
                previous = _saved()
                self._turn()
                try:
                    item = send(value)
                except StopIteration as stop:
                    return stop.value
                finally:
                    _restore(previous)
                try:
                    value = yield item
                    send = generator.send
                except GeneratorExit:
                    previous = _saved()
                    self._turn()
                    try:
                        generator.close()
                    finally:
                        _restore(previous)
                    raise
                except BaseException as error:
                    send, value = generator.throw, error

        return wrapped  # type: ignore[return-value]


class no_grad(_GradMode):  # noqa: N801 (torch's name)
    """Results of operations inside do not require grad. Context manager and decorator, as in torch."""

    _mode = False

    def __new__(cls, function: Any = None) -> Any:
        return super().__new__(cls) if function is None else super().__new__(cls)(function)


class enable_grad(_GradMode):  # noqa: N801
    """Records operations inside, also within `no_grad`. Context manager and decorator, as in torch."""

    _mode = True

    def __new__(cls, function: Any = None) -> Any:
        return super().__new__(cls) if function is None else super().__new__(cls)(function)


class inference_mode(_GradMode):  # noqa: N801
    """New tensors inside are inference tensors: they can never take part in what autograd records. As torch's.

    Nothing is recorded inside, not even within `enable_grad`. Outside, an inference tensor can be read, but not
    changed in place, asked to require grad, or saved for a backward pass; ``clone()`` makes a normal tensor of it.
    Views of normal tensors stay normal tensors. Context manager and decorator, for this thread.

    Args:
        mode: with False the mode is turned off inside, and operations are recorded; or a function to decorate.
    """

    def __new__(cls, mode: Any = True) -> Any:
        return super().__new__(cls) if isinstance(mode, bool) else cls()(mode)

    def __init__(self, mode: bool = True) -> None:
        super().__init__()
        self._mode = mode

    def _turn(self) -> None:
        state.inference = Inference() if self._mode else None
        state.grad = not self._mode


class set_grad_enabled(_GradMode):  # noqa: N801
    """Sets the grad mode at once; as a context manager it restores the former one at the end."""

    def __init__(self, mode: bool) -> None:
        super().__init__()
        _check_mode("set_grad_enabled", mode)
        self._mode = mode
        self._before = _saved()
        self._turn()

    def __enter__(self) -> None:
        self._previous.append(self._before)
        self._turn()

    def __call__(self, function: F) -> F:
        _restore(self._before)
        return super().__call__(function)

    def __repr__(self) -> str:
        return f"tracegrad.autograd.grad_mode.set_grad_enabled(mode={self._mode})"


class set_multithreading_enabled:  # noqa: N801
    """Accepted for torch's sake: the backward pass runs in the thread that asks for it, whatever `mode` is."""

    def __init__(self, mode: bool) -> None:
        _check_mode("set_multithreading_enabled", mode)
        self._before = state.multithreading
        state.multithreading = mode

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        state.multithreading = self._before


def _check_mode(function: str, mode: Any) -> None:
    if not isinstance(mode, bool):
        raise TypeError(
            f"{function}(): argument 'enabled' (position 1) must be bool, not {type(mode).__name__}"
        )


class exact_where(contextlib.ContextDecorator):  # noqa: N801 (named like the other modes)
    """Gradients that are exactly zero through a branch that ``where`` did not take. Context manager and decorator.

    By default, as in torch, ``where(x > 0, x.sqrt(), 0.0)`` has a gradient of NaN at 0: the branch that was not
    taken gets a gradient of zero, which the infinite derivative of the square root turns into NaN. Inside this
    context, an element of a gradient (or of a tangent) that is exactly zero stays zero through every pointwise
    operation, as if the branch had not been there. Gradients that are not zero are the same as ever, and so
    are higher derivatives.

    What counts is where derivatives are computed, not where the function ran: put ``backward()``,
    ``autograd.grad``, ``func.grad``, ``jvp``, ... inside. It holds for this thread. Operations that mix elements
    (matrix products, ``prod``) still compute zero times infinity as NaN.
    """

    def __init__(self, mode: bool = True) -> None:
        self._mode = bool(mode)
        self._previous: list[bool] = []

    def __enter__(self) -> None:
        self._previous.append(exactness.on)
        exactness.on = state.exact = self._mode

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        exactness.on = state.exact = self._previous.pop()


def is_grad_enabled() -> bool:
    """Whether grad mode is on in this thread; in inference mode nothing is recorded all the same."""
    inference = state.inference
    return state.grad if inference is None else inference.grad


def is_inference_mode_enabled() -> bool:
    """Whether inference mode is on in this thread."""
    return state.inference is not None
