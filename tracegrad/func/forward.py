"""Forward mode as function transforms: ``jvp``, ``jacfwd``, ``hessian``, ``linearize``.

The function runs at a :class:`tracegrad.levels.DualLevel`, where its tensors carry tangents.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tracegrad import pytree
from tracegrad.autograd.batched import basis
from tracegrad.func.arguments import inserted, selected, split_aux
from tracegrad.func.reverse import Argnums, jacrev, vjp
from tracegrad.func.vectorize import vmap
from tracegrad.levels import DualLevel
from tracegrad.ops.creation import constant_like
from tracegrad.ops.shaping import movedim
from tracegrad.tensor import Tensor


def _check_tensors(what: str, value: Any, name: str) -> None:
    leaves, _ = pytree.flatten(value)
    if not leaves:
        raise RuntimeError(f"{what}: Expected {name} to contain at least one Tensor.")
    for x in leaves:
        if not isinstance(x, Tensor):
            raise RuntimeError(f"{what}: Expected {name} to only contain Tensors, got {type(x)}")


def jvp(
    func: Callable[..., Any],
    primals: Any,
    tangents: Any,
    *,
    strict: bool = False,
    has_aux: bool = False,
) -> Any:
    """The value of a function and its derivative in a direction, as ``torch.func.jvp``.

    Args:
        func: takes and returns (containers of) Tensors; with `has_aux` a tuple of them and anything.
        primals: a tuple: its arguments.
        tangents: the direction, nested like `primals`.
        strict: an output that does not depend on the primals is an error, rather than has a tangent of zero.

    Returns:
        ``(output, tangent)``, or ``(output, tangent, aux)``.

    Raises:
        RuntimeError: the arguments are nested differently, or something is no Tensor.
    """
    what = "jvp(f, primals, tangents)"
    if not isinstance(primals, tuple):
        raise RuntimeError(
            f"{what}: Expected primals to be a tuple. E.g. it should be valid to call f(*primals)."
        )
    leaves, spec = pytree.flatten(primals)
    directions, given = pytree.flatten(tangents)
    if given != spec:
        raise RuntimeError(
            f"{what}: Expected primals and tangents to have the same python structure. For example, if primals is "
            "a tuple of 3 tensors, tangents also must be. Got primals with structure "
            f"{pytree.describe(spec)} and tangents with structure {pytree.describe(given)}"
        )
    _check_tensors(what, primals, "primals")
    _check_tensors(what, tangents, "tangents")
    with DualLevel() as level:
        duals = [level.attach(x, t) for x, t in zip(leaves, directions, strict=True)]
        returned, aux = split_aux(
            "jvp(f, primals, tangents)", func(*pytree.unflatten(spec, iter(duals))), has_aux
        )
        outputs, output_spec = pytree.flatten(returned)
        found = []
        for out in outputs:
            if not isinstance(out, Tensor):
                raise RuntimeError(
                    f"{what}: expected f(*args) to return only tensors, got unsupported type {type(out)}"
                )
            tangent = level.tangent_of(out)
            if tangent is None:
                if strict:
                    raise RuntimeError(
                        "jvp(f, primals, tangents, strict=True): The output of f is independent of the inputs. "
                        "This is not allowed with strict=True."
                    )
                tangent = constant_like(out, 0)
            found.append(tangent)

        def plain(x: Any) -> Any:
            return level.without_tangent(x) if isinstance(x, Tensor) else x

        value = pytree.map_leaves(plain, returned)
        aux = pytree.map_leaves(plain, aux)
    tangent = pytree.unflatten(output_spec, iter(found))
    return (value, tangent, aux) if has_aux else (value, tangent)


def jacfwd(
    func: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    *,
    chunk_size: int | None = None,
    randomness: str = "error",
) -> Callable[..., Any]:
    """The Jacobian of a function by forward mode, as ``torch.func.jacfwd``: one batched push for all its columns.

    Arguments, result and errors are those of `jacrev`. Better where there are more outputs than inputs.
    """

    @functools.wraps(func, updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        chosen = selected(args, argnums)
        primals = (chosen,) if isinstance(argnums, int) else chosen
        inputs, input_spec = pytree.flatten(primals)
        _check_tensors("jacfwd(f, *primals)", primals, "primals")

        def of_selected(*values: Any) -> Any:
            value = values[0] if isinstance(argnums, int) else values
            return func(*inserted(args, argnums, value), **kwargs)

        def push(*directions: Tensor) -> Any:
            tangents = pytree.unflatten(input_spec, iter(directions))
            found = jvp(of_selected, primals, tangents, has_aux=has_aux)
            return (found[1], found[2]) if has_aux else found[1]

        aux: Any = None
        if has_aux:
            columns, aux = vmap(
                push, out_dims=(0, None), chunk_size=chunk_size, randomness=randomness
            )(*basis(inputs))
        else:
            columns = vmap(push, chunk_size=chunk_size, randomness=randomness)(*basis(inputs))
        outputs, spec = pytree.flatten(columns)
        nested = []
        for out in outputs:
            row = []
            start = 0
            for x in inputs:
                count = x.numel()
                block = movedim(out.narrow(0, start, count), 0, -1)
                row.append(block.reshape((*out.shape[1:], *x.shape)))
                start += count
            block_of = pytree.unflatten(input_spec, iter(row))
            nested.append(block_of[0] if isinstance(argnums, int) else block_of)
        result = pytree.unflatten(spec, iter(nested))
        return (result, aux) if has_aux else result

    return wrapper


def hessian(func: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """The second derivatives of a function, as ``torch.func.hessian``: forward over reverse, ``jacfwd(jacrev(f))``."""
    return jacfwd(jacrev(func, argnums), argnums)


def linearize(func: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """The value of a function, and its derivative as a linear function that can be applied to many directions.

    As ``torch.func.linearize``. `func` runs once: the vjp is linear in the cotangent, and its transpose, which is
    recorded here, is the jvp.

    Returns:
        ``(output, jvp_fn)``, where ``jvp_fn(*tangents)`` returns the tangent of the output.

    Raises:
        RuntimeError: the arguments are no Tensors, or tangents do not fit.
    """
    _check_tensors("linearize", primals, "primals")
    output, pull = vjp(func, *primals)
    _, push = vjp(pull, pytree.map_leaves(lambda x: constant_like(x, 0), output))
    leaves, spec = pytree.flatten(primals)

    def jvp_fn(*tangents: Any) -> Any:
        directions, given = pytree.flatten(tangents)
        if given != spec:
            raise RuntimeError(
                f"Expected the tangents {pytree.describe(given)} to have the same argspec as the primals "
                f"{pytree.describe(spec)}"
            )
        for number, (x, t) in enumerate(zip(leaves, directions, strict=True)):
            for name in ("shape", "device", "dtype"):
                if getattr(x, name) != getattr(t, name):
                    raise RuntimeError(
                        f"tangent:{number} with {name} {getattr(t, name)} in flattened pytree doesn't match the "
                        f"{name} {getattr(x, name)} of the corresponding primal."
                    )
        return push(tangents)[0]

    return output, jvp_fn
