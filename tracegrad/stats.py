"""``f.stats``: what has happened to a compiled function."""

from __future__ import annotations

from collections import Counter


class Stats:
    """What has happened to a compiled function.

    Attributes:
        calls: all of them: native, interpreted, and eager ones.
        native: answered by compiled code.
        interpreted: answered by a variant with interpreted ops, or without native back end.
        eager: the plain Python function ran (tracing included).
        traces, compilations: how often it was traced, and executables were made.
        variants: how many are kept.
        guard_failures: by reason, why a kept variant did not apply or was left.
        compile_seconds: spent in tracing, optimizing and code generation.
    """

    def __init__(self) -> None:
        self.native = 0
        self.interpreted = 0
        self.eager = 0
        self.traces = 0
        self.compilations = 0
        self.variants = 0
        self.guard_failures: Counter[str] = Counter()
        self.compile_seconds = 0.0

    @property
    def calls(self) -> int:
        return self.native + self.interpreted + self.eager

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"Stats(calls={self.calls}, {fields})"
