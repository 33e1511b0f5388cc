"""The event bus: what ran, and from when to when, for whoever listens; silent while nobody does.

All layers report here: eager ops, the backward sweep, passes, compilation, native calls, and
regions named by the user. The profiler listens from the top, and so may anything that wants
timings.

An event is a plain tuple, built once and interpreted later, so that recording costs less than a
microsecond:

    (kind, name, start_ns, end_ns, thread, shapes, location, sequence, info)

`kind` is one of the constants below. Times are those of `now`. `thread` is `threading.get_ident()`
where the event began; an event that ended in another thread carries `end_thread` in `info`.
`shapes` are the shapes of the op's tensor operands. `location` is None, the caller's own location,
or a tuple of `SourceLocation`, innermost first. `sequence` is the number that a forward op shares
with its backward. `info` is a dict of anything else. Events arrive when they end, so inner events
come before the events around them.

How the hot path reports. Import the module, never its flags, because these change:

    from ..ir import events

    if events.active:
        start = events.now()
        out = evaluate(...)
        shapes = [x.shape for x in operands] if events.wants_shapes else None
        events.record(events.OP, "aten::sin", start, events.now(), shapes, None, sequence)
    else:
        out = evaluate(...)

The backward sweep reports each node twice: the derivative rule alone as `BACKWARD`, named by the
node ("SinBackward0"), and around it the whole work on the node, with hooks, as `ENGINE`
("autograd::engine::evaluate_function: SinBackward0"); both with the same sequence number.

Memory is reported while `wants_memory` holds: whoever makes an array says so with `allocated`,
which also reports when the array is freed.

`active` must be read once per op, before it runs, and costs one attribute lookup. A region whose
end is in other code, or that is not hot, uses `token = begin(name, kind)` and `end(token)`, or
`with span(name, kind):`; all do nothing while nobody listens. Start reading at `record` and
`subscribe`.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from threading import get_ident
from time import perf_counter_ns
from typing import Any

import numpy as np

from .location import SourceLocation, is_internal

# Kinds of event.
OP = "op"  # an eager op, or a function composed of ops
ENGINE = "engine"  # the backward sweep's work on one node, with hooks and accumulation
BACKWARD = "backward"  # the derivative rule of one node
USER = "user"  # a region that the user named
PASS = "pass"  # a pass over a graph
COMPILE = "compile"  # code generation, and what belongs to it
NATIVE = "native"  # a call of compiled code
MODULE = "module"  # the forward call of a module
MEMORY = "memory"  # memory allocated or freed: an instant, with the number of bytes in `info`

Event = tuple[str, str, int, int, int, Any, Any, int | None, dict[str, Any]]
Token = tuple[str, str, dict[str, Any], int, int]

# What the hot path reads. They are written by `subscribe` and `unsubscribe` only.
active = False
wants_shapes = False
wants_stack = False
wants_memory = False
wants_modules = False

now = perf_counter_ns

_MAX_STACK = 32
_NOTHING: dict[str, Any] = {}

_lock = threading.Lock()
_subscriptions: list[tuple[Callable[[Event], object], tuple[bool, ...]]] = []
_allocated: dict[int, weakref.ref[np.ndarray]] = {}
_followers: list[Callable[[bool], object]] = []


def _discard(event: Event) -> None:
    """The listener while nobody listens: an op may have begun before the last listener left."""


emit: Callable[[Event], object] = _discard
"""Hand an event to whoever listens; read as an attribute of the module, since it changes."""


def subscribe(
    listener: Callable[[Event], object],
    *,
    shapes: bool = False,
    stack: bool = False,
    memory: bool = False,
    modules: bool = False,
) -> None:
    """Call `listener(event)` for each event of every thread from now on, in the thread where it
    ended.

    `shapes` asks the ops for the shapes of their operands, `stack` has the user's frames recorded
    as `location`, `memory` asks for what is allocated and freed, `modules` for the calls of
    modules. The listener must be quick and must not raise; `list.append` is ideal.
    """
    with _lock:
        _subscriptions.append((listener, (shapes, stack, memory, modules)))
        _publish()


def unsubscribe(listener: Callable[[Event], object]) -> None:
    """Stop calling `listener`. Raises ValueError if it is not subscribed."""
    with _lock:
        for index, (known, _) in enumerate(_subscriptions):
            if known == listener:
                del _subscriptions[index]
                break
        else:
            raise ValueError("this listener is not subscribed")
        _publish()


def when_changed(follower: Callable[[bool], object]) -> None:
    """Call ``follower(active)`` now, and whenever somebody begins or ceases to listen.

    For those who keep a flag of their own, which says `active` and something else at once.
    """
    with _lock:
        _followers.append(follower)
        follower(active)


def _publish() -> None:
    """Derive what the hot path reads from the subscriptions."""
    global active, wants_shapes, wants_stack, wants_memory, wants_modules, emit
    listeners = [listener for listener, _ in _subscriptions]
    wishes = [any(wish) for wish in zip(*(wishes for _, wishes in _subscriptions), strict=True)]
    wants_shapes, wants_stack, wants_memory, wants_modules = wishes or [False] * 4
    if not wants_memory:
        _allocated.clear()
    if not listeners:
        emit = _discard
    elif len(listeners) == 1:
        emit = listeners[0]
    else:
        emit = _emit_to(listeners)
    active = bool(listeners)
    for follower in _followers:
        follower(active)


def _emit_to(listeners: list[Callable[[Event], object]]) -> Callable[[Event], None]:
    def emit_to_all(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return emit_to_all


def record(
    kind: str,
    name: str,
    start_ns: int,
    end_ns: int,
    shapes: Sequence[Sequence[int]] | None = None,
    location: Any = None,
    sequence: int | None = None,
    info: dict[str, Any] = _NOTHING,
) -> None:
    """Report an event of the current thread that has ended; times are those of `now`."""
    if wants_stack and location is None:
        location = user_stack()
    emit((kind, name, start_ns, end_ns, get_ident(), shapes, location, sequence, info))


def begin(name: str, category: str = USER, info: dict[str, Any] | None = None) -> Token | None:
    """Open an event of kind `category`; None while nobody listens. `info` may be filled until
    `end`."""
    if not active:
        return None
    return (name, category, {} if info is None else info, get_ident(), perf_counter_ns())


def end(token: Token | None) -> None:
    """Close what `begin` opened, in any thread, and report it. Does nothing for None."""
    if token is None:
        return
    end_ns = perf_counter_ns()
    name, kind, info, thread, start_ns = token
    if thread != get_ident():
        info = {**info, "end_thread": get_ident()}
    location = user_stack() if wants_stack else None
    emit((kind, name, start_ns, end_ns, thread, None, location, None, info))


class span:  # noqa: N801  (used like a function)
    """`with span(name, kind, **info):` reports its body as one event."""

    __slots__ = ("_category", "_info", "_name", "_token")

    def __init__(self, name: str, category: str, **info: Any) -> None:
        self._name = name
        self._category = category
        self._info = info
        self._token: Token | None = None

    def __enter__(self) -> None:
        self._token = begin(self._name, self._category, self._info)

    def __exit__(self, *exc_info: object) -> None:
        end(self._token)


def allocated(array: np.ndarray, *others: Any) -> None:
    """Report the memory of a new array now, and once more when it is freed.

    Does nothing for memory that was reported before or that one of `others` has (the result is a
    view of an operand), or that NumPy does not own. To be called while `wants_memory` holds.
    """
    owner = _owner(array)
    key = id(owner)
    if key in _allocated or not owner.flags.owndata or not owner.nbytes:
        return
    if any(_owner(other) is owner for other in others if isinstance(other, np.ndarray)):
        return
    size = owner.nbytes

    def release(_: object) -> None:
        if _allocated.pop(key, None) is not None:
            _report_bytes(-size)

    _allocated[key] = weakref.ref(owner, release)
    _report_bytes(size)


def _owner(array: np.ndarray) -> np.ndarray:
    """The array that an array is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _report_bytes(count: int) -> None:
    time = perf_counter_ns()
    emit((MEMORY, "[memory]", time, time, get_ident(), None, None, None, {"Bytes": count}))


def user_stack() -> tuple[SourceLocation, ...]:
    """The user's frames, innermost first; those of tracegrad itself are left out."""
    stack: list[SourceLocation] = []
    frame = sys._getframe(2)
    while frame is not None and len(stack) < _MAX_STACK:
        code = frame.f_code
        if not is_internal(code.co_filename):
            stack.append(SourceLocation(code, frame.f_lasti))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(stack)
