"""Reverse mode as function transforms: ``grad``, ``grad_and_value``, ``vjp``, ``jacrev``.

The function runs at a level of its own (:class:`tracegrad.levels.GradLevel`): what its operations record there is
swept backwards, and the operations of the sweep go to the levels outside, where they may be recorded again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tracegrad import pytree
from tracegrad.autograd import engine
from tracegrad.autograd.batched import basis
from tracegrad.func.arguments import inserted, selected, split_aux
from tracegrad.func.vectorize import vmap
from tracegrad.grad_mode import enable_grad
from tracegrad.levels import GradLevel
from tracegrad.ops.creation import constant_like
from tracegrad.tensor import Tensor

Argnums = int | tuple[int, ...]


def _variables(level: GradLevel, value: Any) -> tuple[list[Tensor], Any]:
    """The tensors in `value` as variables of the level, and containers of them for the function."""
    leaves, spec = pytree.flatten(value)
    variables = []
    for x in leaves:
        if not isinstance(x, Tensor):
            raise ValueError(f"Thing passed to transform API must be Tensor, got {type(x)}")
        variables.append(level.wrap(x, batched=False)._ask_for_grad())
    return variables, pytree.unflatten(spec, iter(variables))


def _outside(level: GradLevel, value: Any) -> Any:
    """What the function returned, as it is outside of the level."""
    return pytree.map_leaves(lambda x: level.lower(x)[0] if isinstance(x, Tensor) else x, value)


def _swept(
    level: GradLevel,
    outputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    variables: Sequence[Tensor],
) -> list[Tensor]:
    """The cotangents of the variables: zeros where no output depends on one."""
    roots = [(out, ct) for out, ct in zip(outputs, cotangents, strict=True) if out.requires_grad]
    found: list[Any] = [None] * len(variables)
    if roots:
        # The sweep's own operations are recorded at the levels outside, where they may be differentiated again.
        level.quiet = True
        try:
            found = engine.run(
                [out for out, _ in roots],
                [ct for _, ct in roots],
                retain_graph=True,
                create_graph=True,
                inputs=variables,
                accumulate=False,
            )
        finally:
            level.quiet = False
    physical = [level.lower(x)[0] for x in variables]
    return [
        constant_like(x, 0) if ct is None else level.lower(ct)[0]
        for ct, x in zip(found, physical, strict=True)
    ]


def grad_and_value(
    func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The gradient of a scalar function, and its value, as ``torch.func.grad_and_value``.

    Args:
        func: returns one Tensor with one element; with `has_aux` a tuple of it and anything.
        argnums: the position of the argument, or several, to differentiate with respect to. It may be a container.

    Returns:
        A function that returns ``(gradient, value)``, or ``(gradient, (value, aux))``.

    Raises:
        RuntimeError: the output is no 0-d Tensor, or `argnums` does not fit.
    """

    @functools.wraps(func, updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with GradLevel() as level, enable_grad():
            variables, inside = _variables(level, selected(args, argnums))
            output = func(*inserted(args, argnums, inside), **kwargs)
            output, aux = split_aux("grad_and_value(f)(*args)", output, has_aux)
            if not isinstance(output, Tensor):
                raise RuntimeError(
                    f"grad_and_value(f)(*args): Expected f(*args) to return a Tensor, got {type(output)}"
                )
            if output.ndim != 0:
                raise RuntimeError(
                    "grad_and_value(f)(*args): Expected f(*args) to return a scalar Tensor, got tensor with "
                    f"{output.ndim} dims. Maybe you wanted to use the vjp or jacrev APIs instead?"
                )
            gradients = _swept(
                level, [output], [constant_like(level.lower(output)[0], 1)], variables
            )
            value, aux = _outside(level, output), _outside(level, aux)
        gradient = pytree.unflatten(pytree.flatten(inside)[1], iter(gradients))
        return gradient, ((value, aux) if has_aux else value)

    return wrapper


def grad(
    func: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The gradient of a scalar function, as ``torch.func.grad``.

    Returns:
        A function that returns the gradient, or ``(gradient, aux)``. See `grad_and_value`.
    """
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func, updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        gradient, value = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return wrapper


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value of a function, and the function from cotangents of the outputs to those of the inputs.

    As ``torch.func.vjp``.

    Args:
        func: takes and returns (containers of) Tensors; with `has_aux` a tuple of them and anything.
        primals: its arguments.

    Returns:
        ``(output, vjp_fn)``, or ``(output, vjp_fn, aux)``. ``vjp_fn(cotangents)`` takes what is nested like the
        output, and returns a tuple, one entry per argument. It may be called any number of times.

    Raises:
        RuntimeError: an output is no floating point Tensor; or, from ``vjp_fn``, cotangents that do not fit.
    """
    output, pull, aux = _vjp(func, primals, has_aux)
    return (output, pull, aux) if has_aux else (output, pull)


def _vjp(
    func: Callable[..., Any], primals: tuple[Any, ...], has_aux: bool
) -> tuple[Any, Callable[..., Any], Any]:
    level = GradLevel()
    with level, enable_grad():
        variables, inside = _variables(level, primals)
        returned, aux = split_aux("vjp(f, *primals)", func(*inside), has_aux)
        leaves, spec = pytree.flatten(returned)
        for out in leaves:
            if not isinstance(out, Tensor):
                raise RuntimeError(
                    f"vjp(f, *primals): expected f(*primals) to return only tensors, got unsupported type {type(out)}"
                )
            if not out.is_floating_point():
                raise RuntimeError(
                    "vjp(f, ...): All outputs of f must be floating-point or complex Tensors, got Tensor with "
                    f"dtype {out.dtype}"
                )
        outputs = [level.kept(out) for out in leaves]
        value, aux = _outside(level, returned), _outside(level, aux)
    primal_spec = pytree.flatten(primals)[1]

    def pull(cotangents: Any) -> Any:
        leaves, given = pytree.flatten(cotangents)
        if given != spec:
            raise RuntimeError(
                "Expected pytree structure of cotangents to be the same as pytree structure of outputs to the "
                f"function. cotangents: {pytree.describe(given)}, primal output: {pytree.describe(spec)}"
            )
        for out, ct in zip(outputs, leaves, strict=True):
            if ct.shape != out.shape:
                raise RuntimeError(
                    f"Mismatch in shape: grad_output[0] has a shape of {ct.shape} and output[0] has a shape of "
                    f"{out.shape}."
                )
        with level:
            found = _swept(level, outputs, leaves, variables)
        return pytree.unflatten(primal_spec, iter(found))

    return value, pull, aux


def jacrev(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The Jacobian of a function by reverse mode, as ``torch.func.jacrev``: one batched sweep for all its rows.

    Args:
        func: takes and returns (containers of) Tensors; with `has_aux` a tuple of them and anything.
        argnums: the position of the argument, or several, to differentiate with respect to.
        chunk_size: how many rows at once; None for all.

    Returns:
        A function. Its result is nested like the output and, within, like the arguments; the shapes are those of
        output and argument together.

    Raises:
        ValueError: `chunk_size` is not positive.
        RuntimeError: an output is no floating point Tensor, or `argnums` does not fit.
    """
    if chunk_size is not None and chunk_size <= 0:
        raise ValueError("jacrev: `chunk_size` should be greater than 0.")

    @functools.wraps(func, updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        def of_selected(*chosen: Any) -> Any:
            value = chosen[0] if isinstance(argnums, int) else chosen
            return func(*inserted(args, argnums, value), **kwargs)

        chosen = selected(args, argnums)
        primals = (chosen,) if isinstance(argnums, int) else chosen
        output, pull, aux = _vjp(of_selected, primals, has_aux)
        outputs, spec = pytree.flatten(output)
        if not outputs:
            raise RuntimeError(
                f"jacrev(f, *primals): Expected f to be a function that has non-empty output (got output = {output})"
            )
        rows = vmap(lambda *cts: pull(pytree.unflatten(spec, iter(cts))), chunk_size=chunk_size)(
            *basis(outputs)
        )
        inputs, input_spec = pytree.flatten(primals)
        columns = pytree.flatten(rows)[0]
        jacobian = _blocks(outputs, inputs, columns)
        nested = [pytree.unflatten(input_spec, iter(row)) for row in jacobian]
        if isinstance(argnums, int):
            nested = [row[0] for row in nested]
        result = pytree.unflatten(spec, iter(nested))
        return (result, aux) if has_aux else result

    return wrapper


def _blocks(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], columns: Sequence[Tensor]
) -> list[list[Tensor]]:
    """Cut the rows of the whole Jacobian into a block for each output and input."""
    blocks = []
    start = 0
    for out in outputs:
        count = out.numel()
        blocks.append(
            [
                column.narrow(0, start, count).reshape((*out.shape, *x.shape))
                for column, x in zip(columns, inputs, strict=True)
            ]
        )
        start += count
    return blocks
