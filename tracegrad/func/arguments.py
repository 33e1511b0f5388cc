"""Arguments of function transforms: which of them, and what comes back."""

from __future__ import annotations

from typing import Any


def _checked(argnums: Any, count: int) -> tuple[int, ...]:
    """The positions as a tuple of non-negative ints."""
    if isinstance(argnums, bool) or not isinstance(argnums, (int, tuple)):
        raise RuntimeError(f"argnums must be int or Tuple[int, ...], got: {type(argnums)}")
    numbers = (argnums,) if isinstance(argnums, int) else argnums
    if not numbers:
        raise RuntimeError("argnums must be non-empty")
    for number in numbers:
        if not isinstance(number, int):
            raise RuntimeError(f"argnum must be int, got: {type(number)}")
        if not -count <= number < count:
            raise RuntimeError(f"Got argnum={number}, but only {count} positional inputs")
    found = tuple(number % count for number in numbers)
    if len(set(found)) != len(found):
        raise RuntimeError(f"argnums elements must be unique, got {argnums}")
    return found


def selected(args: tuple[Any, ...], argnums: int | tuple[int, ...]) -> Any:
    """The argument at `argnums`, or a tuple of those at several.

    Raises:
        RuntimeError: there is no such argument.
    """
    numbers = _checked(argnums, len(args))
    chosen = tuple(args[number] for number in numbers)
    return chosen[0] if isinstance(argnums, int) else chosen


def inserted(args: tuple[Any, ...], argnums: int | tuple[int, ...], value: Any) -> list[Any]:
    """The arguments with others in the places of `argnums`."""
    result = list(args)
    values = (value,) if isinstance(argnums, int) else value
    for number, x in zip(_checked(argnums, len(args)), values, strict=True):
        result[number] = x
    return result


def split_aux(what: str, output: Any, has_aux: bool) -> tuple[Any, Any]:
    """What a function returned, without and with the rest that is not differentiated."""
    if not has_aux:
        return output, None
    if not (isinstance(output, tuple) and len(output) == 2):
        raise RuntimeError(
            f"{what}: output of function f should be a tuple: (output, aux) if has_aux is True"
        )
    return output
