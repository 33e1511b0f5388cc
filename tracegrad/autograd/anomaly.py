"""Anomaly detection: stop the backward pass at the first record that returns NaN."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np

from tracegrad.grad_mode import state
from tracegrad.node import Node


class set_detect_anomaly:  # noqa: N801 (torch's name)
    """Switch anomaly detection on or off; as a context manager it restores the former setting at the end.

    Where an operation was recorded, and where a saved value was overwritten, is in the messages in any case.

    Args:
        mode: on or off.
        check_nan: whether NaN in a gradient is an error.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = state.check_nan
        state.check_nan = bool(mode) and check_nan

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        state.check_nan = self._before


class detect_anomaly(set_detect_anomaly):  # noqa: N801
    """Anomaly detection inside a ``with`` block."""

    def __init__(self, check_nan: bool = True) -> None:
        super().__init__(True, check_nan)


def check_pulled(node: Node, pulled: list[Any]) -> None:
    """Raise torch's error if a record returned NaN, with the user's line that made the record."""
    for number, ct in enumerate(pulled):
        data = getattr(ct, "_data", ct)
        if data is not None and np.isnan(data).any():
            message = f"Function '{node.name()}' returned nan values in its {number}th output."
            if node.location is not None:
                message += f"\nIt was recorded here:\n  {node.location.describe()}"
            raise RuntimeError(message)
