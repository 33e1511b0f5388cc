"""Activations that are functions of nn.functional only."""

from __future__ import annotations

from collections.abc import Iterator

from .calls import Case, X, case
from .operands import INT, A, M, S

WIDE = X((3, 4), -5, 5)


def _activations() -> Iterator[Case]:
    def functional(name: str, *args: object, **kwargs: object) -> Case:
        return case(f"nn.functional.{name}", *args, **kwargs)

    yield from (functional("glu", WIDE), functional("glu", A, 0), functional("glu", X((0, 2)), 1))
    yield from (functional("hardswish", WIDE), functional("hardswish", S))
    yield from (functional("hardshrink", WIDE), functional("hardshrink", M, 0.0))
    yield from (
        functional("hardshrink", M, lambd=-1.0),
        functional("hardshrink", X((2,), 0.5, 0.5)),
    )
    yield from (functional("softshrink", WIDE), functional("softshrink", M, 0.0))
    yield from (
        functional("celu", WIDE),
        functional("celu", WIDE, 0.3),
        functional("celu", M, -1.0),
    )
    yield functional("threshold", WIDE, 0.5, -2.0)
    yield functional("threshold", INT, 1, 7)
    yield from (functional("prelu", WIDE, X((1,))), functional("prelu", WIDE, S))
    yield from (functional("prelu", A, X((3,))), functional("prelu", S, X((1,))))
    yield functional("prelu", X((3,)), X((1,)))


CASES = [*_activations()]
