"""Devices. There is one, the CPU; the class exists so that torch programs read the same."""

from __future__ import annotations

from typing import Any


class Device:
    """A place where tensors live: always the CPU.

    Raises:
        RuntimeError: any other device is asked for.
    """

    __slots__ = ("index", "type")

    def __init__(self, type: Any = "cpu", index: int | None = None) -> None:
        name: str = type.type if isinstance(type, Device) else str(type)
        name, _, number = name.partition(":")
        if name != "cpu":
            raise RuntimeError(
                f"tracegrad runs on the CPU only, but device '{name}' was asked for.\n"
                "Remove the device argument, or guard it with `if tracegrad.cuda.is_available():`."
            )
        self.type: str = name
        self.index = int(number) if number else index

    def __repr__(self) -> str:
        suffix = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{suffix})"

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return str(self) == other
        return isinstance(other, Device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))


cpu = Device("cpu")
