"""Modules as functions of their parameters: ``functional_call``, ``stack_module_state``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tracegrad.nn.module import Module
from tracegrad.ops.shaping import stack
from tracegrad.tensor import Tensor

Places = dict[str, tuple[dict[str, Any], str]]
"""For each full name of a parameter or buffer the table that it stands in, and its name there."""


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: dict[str, Tensor] | Sequence[dict[str, Tensor]],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call a module with other parameters and buffers than its own, as ``torch.func.functional_call``.

    Args:
        module: what to call; it is unchanged afterwards.
        parameter_and_buffer_dicts: tensors by full name (``"0.weight"``), or several such tables without common names.
        args: a tuple of arguments, or one argument.
        kwargs: keyword arguments.
        tie_weights: a tensor that stands in several places of the module is replaced in all of them.
        strict: every parameter and buffer has to be given, and nothing else.

    Raises:
        ValueError: the tables are none, share names, or give several values to tied tensors.
        RuntimeError: names are missing or unexpected and `strict`.
    """
    given = _merged(parameter_and_buffer_dicts)
    places = _places(module)
    if strict:
        missing, unexpected = (
            sorted(places.keys() - given.keys()),
            sorted(given.keys() - places.keys()),
        )
        messages = []
        if unexpected:
            messages.append(f"Unexpected key(s): {', '.join(map(repr, unexpected))}.")
        if missing:
            messages.append(f"Missing key(s): {', '.join(map(repr, missing))}.")
        if messages:
            what = f"Error(s) in reparametrizing for {module._get_name()}:"
            raise RuntimeError("\n\t".join([what, *messages]))
    values = _tied(given, places) if tie_weights else given
    if args is None:
        args = ()
    elif not isinstance(args, tuple):
        args = (args,)
    with _replaced(module, values, places, given):
        return module(*args, **(kwargs or {}))


def _merged(tables: Any) -> dict[str, Tensor]:
    if isinstance(tables, dict):
        return tables
    if not isinstance(tables, Sequence):
        raise ValueError(
            "Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts, but got "
            f"{type(tables)}"
        )
    if not all(isinstance(table, dict) for table in tables):
        raise ValueError("Expected all elements of parameter_and_buffer_dicts to be dictionaries")
    names = [name for table in tables for name in table]
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise ValueError(
            f"{repeated} appeared in multiple dictionaries; behavior of functional call is ambiguous"
        )
    return {name: value for table in tables for name, value in table.items()}


def _places(module: Module) -> Places:
    found: Places = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for table in (part._parameters, part._buffers):
            for name in table:
                if table[name] is not None:
                    found[f"{prefix}.{name}" if prefix else name] = table, name
    return found


def _tied(given: dict[str, Tensor], places: Places) -> dict[str, Tensor]:
    """The given tensors, also under the other names of what they replace."""
    names_of: dict[int, list[str]] = {}
    for full_name, (table, name) in places.items():
        names_of.setdefault(id(table[name]), []).append(full_name)
    values = dict(given)
    for names in names_of.values():
        among = [name for name in names if name in given]
        if len({id(given[name]) for name in among}) > 1:
            raise ValueError(
                f"functional_call got multiple values for keys {sorted(among)}, which are tied. Consider using "
                "tie_weights=False"
            )
        if among:
            values.update((name, given[among[0]]) for name in names)
    return values


@contextmanager
def _replaced(
    module: Module, values: dict[str, Tensor], places: Places, given: dict[str, Tensor]
) -> Iterator[None]:
    """Put other tensors into the tables of a module; what it assigns to buffers meanwhile goes to `given`."""
    own = {}
    try:
        for full_name, value in values.items():
            if full_name not in places:
                continue
            table, name = places[full_name]
            own[full_name] = table[name]
            table[name] = value
        yield
    finally:
        for full_name, value in own.items():
            table, name = places[full_name]
            if full_name in given and table[name] is not given[full_name]:
                given[full_name] = table[name]
            table[name] = value


def stack_module_state(
    models: Sequence[Module],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters and the buffers of several modules, stacked by name: for ``vmap`` over an ensemble.

    As ``torch.func.stack_module_state``. Stacked parameters are new leaves.

    Raises:
        RuntimeError: there is no module; or they differ in class, mode, or which parameters require grad.
    """
    if not len(models):
        raise RuntimeError("stack_module_state: Expected at least one model, got 0.")
    if len({model.training for model in models}) > 1:
        raise RuntimeError(
            "stack_module_state: Expected all models to have the same training/eval mode."
        )
    if len({type(model) for model in models}) > 1:
        raise RuntimeError("stack_module_state: Expected all models to be of the same class.")
    parameters = [dict(model.named_parameters()) for model in models]
    buffers = [dict(model.named_buffers()) for model in models]
    return (
        {name: _stacked([p[name] for p in parameters], name) for name in parameters[0]},
        {name: _stacked([b[name] for b in buffers], name) for name in buffers[0]},
    )


def _stacked(tensors: list[Tensor], name: str) -> Tensor:
    flags = {x.requires_grad for x in tensors}
    if len(flags) > 1:
        raise RuntimeError(f"Expected {name} from each model to have the same .requires_grad")
    result = stack(tensors)
    return result.detach().requires_grad_() if flags == {True} else result
