"""Normalizations of layers, batches, groups, instances and responses."""

from __future__ import annotations

from collections.abc import Iterator

from .calls import Case, X, case

SIGNAL, IMAGE, VOLUME = X((2, 4, 3)), X((2, 4, 3, 2)), X((2, 4, 2, 1, 3))
CHANNELS = X((4,))


def _functional(name: str, *args: object, **kwargs: object) -> Case:
    return case(f"nn.functional.{name}", *args, **kwargs)


def _normalizations() -> Iterator[Case]:
    yield from (
        _functional("rms_norm", SIGNAL, (3,)),
        _functional("rms_norm", SIGNAL, (4, 3), X((4, 3))),
        _functional("rms_norm", SIGNAL, (3,), X((3,)), 0.1),
        _functional("group_norm", X((3, 4)), 2),
        _functional("group_norm", SIGNAL, 1, CHANNELS),
        _functional("group_norm", IMAGE, 2, CHANNELS, CHANNELS),
        _functional("group_norm", VOLUME, 4, CHANNELS, eps=0.1),
        _functional("instance_norm", SIGNAL),
        _functional("instance_norm", IMAGE, None, None, CHANNELS, CHANNELS),
        _functional("instance_norm", VOLUME, None, None, CHANNELS, eps=0.1),
        _functional("local_response_norm", SIGNAL, 2),
        _functional("local_response_norm", SIGNAL, 3, 0.1, 0.5, 2.0),
        _functional("local_response_norm", IMAGE, 3, alpha=0.5),
        _functional("local_response_norm", VOLUME, 4, beta=1.5),
    )


CASES = list(_normalizations())
