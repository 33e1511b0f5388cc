"""``vmap``: a function of one example becomes a function of a stack of them, without a loop.

Inside, tensors are stacks seen as one example (:class:`tracegrad.levels.BatchLevel`); each operation is done for all
examples at once by its op's batching rule.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tracegrad import pytree
from tracegrad.levels import BatchLevel
from tracegrad.ops.shaping import cat, movedim
from tracegrad.random import get_rng_state, set_rng_state
from tracegrad.tensor import Tensor


def _moved(x: Tensor, source: int, destination: int) -> Tensor:
    """`movedim`; itself, without a record, where nothing moves."""
    n = x._data.ndim
    return x if source % n == destination % n else movedim(x, source, destination)


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Map `func` over a dimension of its arguments, as ``torch.func.vmap``.

    Args:
        func: takes and returns (containers of) Tensors. It may not look at elements (``item``, ``if``).
        in_dims: for each argument the dimension to map over, None for one that is the same for all: an int, or a
            tuple, nested like the arguments. Keyword arguments are the same for all examples, as in torch.
        out_dims: where the mapped dimension appears in each output.
        randomness: random numbers inside are an ``"error"``, the ``"same"`` or ``"different"`` for each example.
        chunk_size: how many examples at once; None for all.

    Returns:
        A function of the stacked arguments.

    Raises:
        ValueError: the arguments do not fit `in_dims`, their sizes differ, or an output is no Tensor.
        RuntimeError: random numbers with ``randomness="error"``, or an element was looked at.
    """
    if randomness not in ("error", "different", "same"):
        raise RuntimeError(
            f"Only allowed values for randomness are 'error', 'different', or 'same'. Got {randomness}"
        )
    if not (chunk_size is None or chunk_size > 0):
        raise ValueError(f"vmap: chunk_size should be None or greater than 0. (got {chunk_size})")

    @functools.wraps(func, updated=())
    def mapped(*args: Any, **kwargs: Any) -> Any:
        leaves, dims, spec = _arguments(func, in_dims, args)
        size = _batch_size(leaves, dims)
        fronts = [
            x if dim is None else _moved(x, dim, 0) for x, dim in zip(leaves, dims, strict=True)
        ]

        def run(stacks: Sequence[Any], count: int) -> tuple[list[Any], list[int | None], Any]:
            """`func` on some of the examples: outputs with the mapped dimension in front, where it goes, containers."""
            with BatchLevel(count, randomness) as level:
                inside = [
                    x if dim is None else level.wrap(x, batched=True)
                    for x, dim in zip(stacks, dims, strict=True)
                ]
                output = func(*pytree.unflatten(spec, iter(inside)), **kwargs)
                return _outputs(func, level, output, out_dims)

        if chunk_size is None or chunk_size >= size:
            outputs, places, output_spec = run(fronts, size)
        else:
            starts = range(0, size, chunk_size)
            state = get_rng_state() if randomness == "same" else None
            chunks = []
            for start in starts:
                if state is not None:
                    set_rng_state(state)
                count = min(chunk_size, size - start)
                part = [
                    x if dim is None else x.narrow(0, start, count)
                    for x, dim in zip(fronts, dims, strict=True)
                ]
                chunks.append(run(part, count))
            _, places, output_spec = chunks[0]
            outputs = [
                column[0] if place is None else cat(column, 0)
                for place, column in zip(
                    places, zip(*[found for found, _, _ in chunks], strict=True), strict=True
                )
            ]
        placed = [
            x if place is None else _moved(x, 0, place)
            for x, place in zip(outputs, places, strict=True)
        ]
        return pytree.unflatten(output_spec, iter(placed))

    return mapped


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", None) or repr(func)


def _arguments(
    func: Callable[..., Any], in_dims: Any, args: tuple[Any, ...]
) -> tuple[list[Any], list[int | None], Any]:
    """The leaves of the positional arguments, the dimension of each, and the containers around them."""
    where = f"vmap({_name(func)}, in_dims={in_dims}, ...)(<inputs>): "
    if not isinstance(in_dims, (int, tuple)):
        raise ValueError(
            f"{where}expected `in_dims` to be int or a (potentially nested) tuple matching the structure of "
            f"inputs, got: {type(in_dims)}."
        )
    leaves, spec = pytree.flatten(args)
    if not leaves:
        raise ValueError(
            f"vmap({_name(func)})(<inputs>): got no inputs. Maybe you forgot to add inputs, or you are trying to "
            "vmap over a function with no inputs. The latter is unsupported."
        )
    dims = pytree.broadcast(in_dims, spec)
    if dims is None:
        raise ValueError(
            f"{where}in_dims is not compatible with the structure of `inputs`. in_dims has structure "
            f"{pytree.describe(pytree.flatten(in_dims)[1])} but inputs has structure {pytree.describe(spec)}."
        )
    canonical: list[int | None] = []
    for x, dim in zip(leaves, dims, strict=True):
        if dim is not None and not isinstance(dim, int):
            raise ValueError(
                f"{where}Got in_dim={dim} for an input but in_dim must be either an integer dimension or None."
            )
        if dim is not None and not isinstance(x, Tensor):
            raise ValueError(
                f"{where}Got in_dim={dim} for an input but the input is of type {type(x)}. We cannot vmap over "
                "non-Tensor arguments, please use None as the respective in_dim"
            )
        if dim is not None and not -x.ndim <= dim < x.ndim:
            raise ValueError(
                f"{where}Got in_dim={dim} for some input, but that input is a Tensor of dimensionality {x.ndim} so "
                f"expected in_dim to satisfy -{x.ndim} <= in_dim < {x.ndim}."
            )
        canonical.append(None if dim is None else dim % x.ndim)
    return leaves, canonical, spec


def _batch_size(leaves: Sequence[Any], dims: Sequence[int | None]) -> int:
    sizes = [x._data.shape[dim] for x, dim in zip(leaves, dims, strict=True) if dim is not None]
    if not sizes:
        raise ValueError("vmap: Expected at least one Tensor to vmap over")
    if any(size != sizes[0] for size in sizes):
        raise ValueError(
            "vmap: Expected all tensors to have the same size in the mapped dimension, got sizes "
            f"{sizes} for the mapped dimension"
        )
    return sizes[0]


def _outputs(
    func: Callable[..., Any], level: BatchLevel, output: Any, out_dims: Any
) -> tuple[list[Any], list[int | None], Any]:
    """The leaves of what `func` returned, as they are outside, with the mapped dimension in front."""
    leaves, spec = pytree.flatten(output)
    dims: list[Any] | None
    if spec is None and isinstance(out_dims, tuple) and len(out_dims) == 1:
        dims = list(out_dims)
    else:
        dims = pytree.broadcast(out_dims, spec)
    for dim in pytree.flatten(out_dims)[0]:
        if dim is not None and not isinstance(dim, int):
            raise ValueError(
                f"vmap({_name(func)}, ..., out_dims={out_dims}): `out_dims` must be an int, None or a python "
                "collection of ints representing where in the outputs the vmapped dimension should appear."
            )
    if dims is None:
        raise ValueError(
            f"vmap({_name(func)}, ..., out_dims={out_dims})(<inputs>): out_dims is not compatible with the structure "
            f"of `outputs`. out_dims has structure {pytree.describe(pytree.flatten(out_dims)[1])} but outputs has "
            f"structure {pytree.describe(spec)}."
        )
    found = []
    for x, dim in zip(leaves, dims, strict=True):
        if dim is None:
            if isinstance(x, Tensor):
                physical, batched = level.lower(x)
                if batched:
                    raise ValueError(
                        f"vmap({_name(func)}, ...): `{_name(func)}` can not return a BatchedTensor when out_dim "
                        "is None"
                    )
                x = physical
            found.append(x)
            continue
        if not isinstance(x, Tensor):
            raise ValueError(
                f"vmap({_name(func)}, ...): `{_name(func)}` must only return Tensors, got type {type(x)}. Did you "
                "mean to set out_dims= to None for output?"
            )
        found.append(level.stacked(x))
    return found, dims, spec
