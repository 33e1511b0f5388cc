"""Anomaly detection: where the forward part of a failing backward pass was, as torch reports it.

While it is on, each record keeps the stack of the user's program (:func:`tracegrad.node.keep_traceback`), in its
``metadata`` under torch's names. If its derivative then raises or gives NaN, the stack comes as a warning.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.node import Node


def is_anomaly_enabled() -> bool:
    """Whether anomaly detection is on in this thread."""
    return bool(state.anomaly)


def is_anomaly_check_nan_enabled() -> bool:
    """Whether anomaly detection, where it is on, takes NaN for an error."""
    return state.check_nan


def _switch(mode: bool, check_nan: bool) -> None:
    if state.trace is not None:
        state.trace.give_up("anomaly detection is switched on or off")
    state.anomaly = bool(mode) or None
    state.check_nan = bool(check_nan)


class set_detect_anomaly:  # noqa: N801 (torch's name)
    """Switch anomaly detection on or off at once; as a context manager it restores the former setting at the end.

    The line of an operation is in the messages in any case; this mode adds the whole stack.

    Args:
        mode: on or off.
        check_nan: whether NaN in a gradient is an error.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = is_anomaly_enabled(), state.check_nan
        _switch(mode, check_nan)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _switch(*self._before)


class detect_anomaly:  # noqa: N801
    """Anomaly detection inside a ``with`` block. It says with a warning that it costs time.

    Args:
        check_nan: whether NaN in a gradient is an error.
    """

    def __init__(self, check_nan: bool = True) -> None:
        self._before = is_anomaly_enabled(), state.check_nan
        self._check_nan = check_nan
        warnings.warn(
            "Anomaly Detection has been enabled. This mode will increase the runtime and should only be enabled for "
            "debugging.",
            stacklevel=2,
        )

    def __enter__(self) -> None:
        _switch(True, self._check_nan)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _switch(*self._before)


@contextlib.contextmanager
def evaluating(node: Node) -> Iterator[None]:
    """While the derivative of a record is computed: new records name it as the cause, an error comes with the stack."""
    outer, state.evaluated = state.evaluated, node
    try:
        yield
    except Exception:
        if state.anomaly:
            _warn_of(node)
        raise
    finally:
        state.evaluated = outer


def _warn_of(node: Node) -> None:
    """torch's warnings: the stack of the forward call, then those of the calls that it is a derivative of."""
    begin, caused = f"Error detected in {node.name()}. ", "caused the error"
    current: Node | None = node
    while current is not None:
        kept: dict[Any, Any] = current.metadata
        if "traceback_" in kept:
            text = f"Traceback of forward call that {caused}:\n" + "".join(kept["traceback_"])
        else:
            text = (
                "No forward pass information available. Enable detect anomaly during forward pass for more "
                "information."
            )
        warnings.warn(begin + text, stacklevel=2)
        current = kept.get("parent_")
        if current is not None:
            begin = f"\n\nPrevious calculation was induced by {current.name()}. "
            caused = "induced the previous calculation"


def check_pulled(node: Node, pulled: list[Any]) -> None:
    """Raise torch's error if NaN is an error and a record returned it, with the user's line that made the record."""
    for number, ct in enumerate(pulled if state.check_nan else ()):
        data = getattr(ct, "_data", ct)
        if data is not None and np.isnan(data).any():
            message = f"Function '{node.name()}' returned nan values in its {number}th output."
            if node.location is not None:
                message += f"\nIt was recorded here:\n  {node.location.describe()}"
            raise RuntimeError(message)
