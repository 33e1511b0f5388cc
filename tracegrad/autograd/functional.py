"""Jacobians, Hessians, and their products with vectors, as ``torch.autograd.functional``.

Each function calls `func` once on copies of the inputs that require grad, then asks for gradients of what came
out. Nothing is stored in any ``grad``. Arguments, nesting of results and errors are torch's. Start reading at
:func:`jacobian`; what the functions share stands before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracegrad.autograd.backward import grad
from tracegrad.autograd.batched import basis, batched_gradients, only_ops
from tracegrad.func.forward import jacfwd
from tracegrad.grad_mode import enable_grad, is_grad_enabled, set_grad_enabled
from tracegrad.ops.creation import zeros_like
from tracegrad.ops.shaping import stack
from tracegrad.tensor import Tensor

Tensors = tuple[Tensor, ...]

_OUTPUTS = "outputs of the user-provided function"

# What strict mode says of a gradient that is missing, and of one that cannot be differentiated further.
_BACK = (
    "The output of the user-provided function is independent of input {}. This is not allowed in strict mode.",
    "The jacobian of the user-provided function is independent of input {}. This is not allowed in strict mode "
    "when create_graph=True.",
)
_BACK_TRICK = (
    "The gradient with respect to the input is independent of entry {} in the grad_outputs when using the double "
    "backward trick to compute forward mode gradients. This is not allowed in strict mode.",
    _BACK[1],
)
_DOUBLE_BACK = (
    "The jacobian of the user-provided function is independent of input {}. This is not allowed in strict mode.",
    "The hessian of the user-provided function is independent of input {}. This is not allowed in strict mode "
    "when create_graph=True.",
)
_DOUBLE_BACK_TRICK = (
    "The hessian of the user-provided function is independent of entry {} in the grad_jacobian. This is not "
    "allowed in strict mode as it prevents from using the double backward trick to replace forward mode AD.",
    _DOUBLE_BACK[1],
)
_CONSTANT_OUTPUT = (
    "Output {} of the user-provided function does not require gradients. The outputs must be computed in a "
    "differentiable manner from the input when running in strict mode."
)
_CONSTANT_GRADIENT = (
    "The gradient with respect to input {} is independent of the inputs of the user-provided function. This is "
    "not allowed in strict mode."
)
_CONSTANT_JACOBIAN = (
    "While computing the hessian, found that the jacobian of the user-provided function with respect to input {} "
    "is independent of the input. This is not allowed in strict mode. You should ensure that your function is "
    "twice differentiable and that the jacobian depends on the inputs (this would be violated by a linear "
    "function for example)."
)
_CONSTANT_HESSIAN = (
    "The hessian of the user-provided function with respect to input {} is independent of the input. This is not "
    "allowed in strict mode. You should ensure that your function is thrice differentiable and that the hessian "
    "depends on the inputs."
)


def _tuple_of(value: Any, what: str, function: str) -> tuple[bool, Tensors]:
    """A Tensor or a tuple of Tensors as (whether it was a tuple, tuple)."""
    is_tuple = isinstance(value, tuple)
    values = value if is_tuple else (value,)
    for position, item in enumerate(values):
        if not isinstance(item, Tensor):
            which = f"value at index {position}" if is_tuple else f"given {what}"
            raise TypeError(
                f"The {what} given to {function} must be either a Tensor or a tuple of Tensors but the {which} "
                f"has type {type(item)}."
            )
    return is_tuple, values


def _detached(tensors: Tensors, create_graph: bool, requires_grad: bool) -> Tensors:
    """New tensors of the same values, connected to the given ones only if results are to be differentiable.

    They are new in any case, so that a tensor which `func` also reaches by itself is told apart from its argument.
    """
    found = []
    for x in tensors:
        if create_graph and x.requires_grad:
            found.append(x.view_as(x))
        else:
            found.append(x.detach()._ask_for_grad(requires_grad))
            found[-1]._tangents = x._tangents  # Forward mode goes on through it.
    return tuple(found)


def _vector(
    v: Any, like: Tensors, like_is_tuple: bool, create_graph: bool, function: str
) -> Tensors:
    """The argument `v`, checked against what it is multiplied with."""
    _, values = _tuple_of(v, "v", function)
    values = _detached(values, create_graph, requires_grad=False)
    if len(values) != len(like):
        if like_is_tuple:
            raise RuntimeError(
                f"v is a tuple of invalid length: should be {len(like)} but got {len(values)}."
            )
        raise RuntimeError("The given v should contain a single Tensor.")
    for position, (x, y) in enumerate(zip(values, like, strict=True)):
        if x.shape != y.shape:
            entry = f"Entry {position} in " if like_is_tuple else ""
            raise RuntimeError(f"{entry}v has invalid size: should be {y.shape} but got {x.shape}.")
    return values


def _input_vector(
    v: Any, inputs: Tensors, is_tuple: bool, create_graph: bool, function: str
) -> Any:
    if v is not None:
        return _vector(v, inputs, is_tuple, create_graph, function)
    if len(inputs) != 1 or inputs[0].numel() != 1:
        raise RuntimeError(
            "The vector v can only be None if the input to the user-provided function is a single Tensor with a "
            "single element."
        )
    return None


def _require(tensors: Sequence[Tensor | None], strict: bool, sentence: str) -> None:
    """Strict mode: all of these depend on the inputs."""
    if strict:
        for position, x in enumerate(tensors):
            if x is None:
                raise RuntimeError(_BACK[0].format(position))
            if not x.requires_grad:
                raise RuntimeError(sentence.format(position))


def _gradients(
    outputs: Sequence[Tensor | None],
    inputs: Tensors,
    cotangents: Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> tuple[Any, ...]:
    """`grad` that skips outputs without history; None for inputs that nothing depends on."""
    cts = (None,) * len(outputs) if cotangents is None else cotangents
    pairs = [
        (out, ct)
        for out, ct in zip(outputs, cts, strict=True)
        if out is not None and out.requires_grad
    ]
    if not pairs:
        return (None,) * len(inputs)
    return grad(
        [out for out, _ in pairs],
        inputs,
        [ct for _, ct in pairs],
        allow_unused=True,
        create_graph=create_graph,
        retain_graph=retain_graph,
    )


def _filled(
    gradients: Sequence[Tensor | None],
    like: Tensors,
    strict: bool,
    create_graph: bool,
    sentences: tuple[str, str],
) -> Tensors:
    """Zeros for missing gradients; in strict mode an error."""
    result = []
    for position, (gradient, x) in enumerate(zip(gradients, like, strict=True)):
        if gradient is None:
            if strict:
                raise RuntimeError(sentences[0].format(position))
            gradient = zeros_like(x)
        elif strict and create_graph and not gradient.requires_grad:
            raise RuntimeError(sentences[1].format(position))
        result.append(gradient)
    return tuple(result)


def _result(value: Any, create_graph: bool, *is_tuple: bool) -> Any:
    """Nested tuples as the caller gets them: without history unless asked for, without needless nesting."""
    if isinstance(value, Tensor):
        return value if create_graph else value.detach()
    parts = tuple(_result(part, create_graph, *is_tuple[1:]) for part in value)
    return parts if is_tuple[0] else parts[0]


def _call_scalar(func: Callable[..., Any], inputs: Tensors, strict: bool, function: str) -> Tensor:
    """`func`, which has to return one Tensor with one element."""
    is_tuple, outputs = _tuple_of(func(*inputs), _OUTPUTS, function)
    _require(outputs, strict, _CONSTANT_OUTPUT)
    if is_tuple:
        raise RuntimeError(f"The function given to {function} should return a single Tensor")
    if outputs[0].numel() != 1:
        raise RuntimeError(
            f"The Tensor returned by the function given to {function} should contain a single element"
        )
    return outputs[0]


def vjp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """The product of a vector with the Jacobian of `func` at `inputs`.

    Args:
        func: takes Tensors and returns a Tensor or a tuple of Tensors.
        inputs: a Tensor or a tuple of Tensors.
        v: the vector, nested and shaped as the output of `func`; may be left out for a single element.
        create_graph: make both results differentiable.
        strict: raise an error where an output does not depend on an input, rather than return zeros.

    Returns:
        (output of `func`, product shaped and nested as `inputs`).

    Raises:
        TypeError: an argument or the output of `func` is no Tensor or tuple of Tensors.
        RuntimeError: `v` does not fit; or what strict mode forbids.
    """
    with enable_grad():
        is_inputs_tuple, given = _tuple_of(inputs, "inputs", "vjp")
        points = _detached(given, create_graph, requires_grad=True)
        is_outputs_tuple, outputs = _tuple_of(func(*points), _OUTPUTS, "vjp")
        _require(outputs, strict, _CONSTANT_OUTPUT)
        vector = None
        if v is not None:
            vector = _vector(v, outputs, is_outputs_tuple, create_graph, "vjp")
        elif len(outputs) != 1 or outputs[0].numel() != 1:
            raise RuntimeError(
                "The vector v can only be None if the user-provided function returns a single Tensor with a "
                "single element."
            )
    with set_grad_enabled(create_graph or is_grad_enabled()):
        found = _gradients(outputs, points, vector, create_graph=create_graph)
        product = _filled(found, points, strict, create_graph, _BACK)
    return _result(outputs, create_graph, is_outputs_tuple), _result(
        product, create_graph, is_inputs_tuple
    )


def jvp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """The product of the Jacobian of `func` at `inputs` with a vector: the derivative in a direction.

    The vjp is linear in its cotangent, and its transpose is the jvp: so the backward pass is differentiated with
    respect to the cotangent, whatever its value.

    Args:
        func: takes Tensors and returns a Tensor or a tuple of Tensors.
        inputs: a Tensor or a tuple of Tensors.
        v: the vector, nested and shaped as `inputs`; may be left out for a single element.
        create_graph: make both results differentiable.
        strict: raise an error where an output does not depend on an input, rather than return zeros.

    Returns:
        (output of `func`, product shaped and nested as the output).

    Raises:
        TypeError: an argument or the output of `func` is no Tensor or tuple of Tensors.
        RuntimeError: `v` does not fit; or what strict mode forbids.
    """
    with enable_grad():
        is_inputs_tuple, given = _tuple_of(inputs, "inputs", "jvp")
        points = _detached(given, create_graph, requires_grad=True)
        vector = _input_vector(v, points, is_inputs_tuple, create_graph, "jvp")
        is_outputs_tuple, outputs = _tuple_of(func(*points), _OUTPUTS, "jvp")
        _require(outputs, strict, _CONSTANT_OUTPUT)
        cotangents = tuple(zeros_like(out, requires_grad=True) for out in outputs)
        pulled = _gradients(outputs, points, cotangents, create_graph=True)
        _require(pulled, strict, _CONSTANT_GRADIENT)
    with set_grad_enabled(create_graph or is_grad_enabled()):
        found = _gradients(pulled, cotangents, vector, create_graph=create_graph)
        product = _filled(found, outputs, strict, create_graph, _BACK_TRICK)
    return _result(outputs, create_graph, is_outputs_tuple), _result(
        product, create_graph, is_outputs_tuple
    )


def jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """The Jacobian of `func` at `inputs`, by one backward sweep for all its rows.

    Row by row in strict mode, and where custom functions or hooks have a part in it (unless `vectorize`).

    Args:
        func: takes Tensors and returns a Tensor or a tuple of Tensors.
        inputs: a Tensor or a tuple of Tensors.
        create_graph: make the result differentiable.
        strict: raise an error where an output does not depend on an input, rather than return zeros.
        vectorize, strategy: torch's choices of how to compute; the result is the same.

    Returns:
        ``result[i][j]`` of shape ``outputs[i].shape + inputs[j].shape``; the first index is left out if `func`
        returns a Tensor, the second if `inputs` is a Tensor.

    Raises:
        TypeError: an argument or the output of `func` is no Tensor or tuple of Tensors.
        RuntimeError: what strict mode forbids.
        NotImplementedError: options that torch does not support together.
    """
    _check_strategy(create_graph, strict, vectorize, strategy)
    if strategy == "forward-mode":
        return _forward_jacobian(func, inputs)
    with enable_grad():
        is_inputs_tuple, given = _tuple_of(inputs, "inputs", "jacobian")
        points = _detached(given, create_graph, requires_grad=True)
        is_outputs_tuple, outputs = _tuple_of(func(*points), _OUTPUTS, "jacobian")
        _require(outputs, strict, _CONSTANT_OUTPUT)
        if vectorize and strict:
            raise RuntimeError(
                "torch.autograd.functional.jacobian: `strict=True` and `vectorized=True` are not supported "
                "together. Please either set `strict=False` or `vectorize=False`."
            )
        many_rows = sum(out.numel() for out in outputs) > 1
        plain = only_ops(outputs) if many_rows and not strict and not vectorize else None
        if vectorize or plain:
            whole = _all_rows(outputs, points, create_graph, together=vectorize, plain=plain)
            return _result(whole, create_graph, is_outputs_tuple, is_inputs_tuple)
        blocks = []
        for position, out in enumerate(outputs):
            flat = out.reshape(-1)
            rows = []
            for k in range(out.numel()):
                found = _gradients((flat[k],), points, create_graph=create_graph, retain_graph=True)
                rows.append(_jacobian_row(found, points, strict, create_graph, position))
            blocks.append(
                tuple(
                    stack([row[j] for row in rows]).view((*out.shape, *x.shape))
                    if rows
                    else x.new_zeros((*out.shape, *x.shape))
                    for j, x in enumerate(points)
                )
            )
    return _result(tuple(blocks), create_graph, is_outputs_tuple, is_inputs_tuple)


def _forward_jacobian(func: Callable[..., Any], inputs: Any) -> Any:
    """All columns of the Jacobian by one push of a basis of tangents."""
    is_inputs_tuple, given = _tuple_of(inputs, "inputs", "jacobian")
    shape: list[bool] = []

    def checked(*points: Tensor) -> Tensors:
        is_outputs_tuple, outputs = _tuple_of(func(*points), _OUTPUTS, "jacobian")
        shape.append(is_outputs_tuple)
        return outputs

    blocks = jacfwd(checked, argnums=tuple(range(len(given))))(*given)
    return _result(blocks, True, shape[0], is_inputs_tuple)


def _all_rows(
    outputs: Tensors,
    points: Tensors,
    create_graph: bool,
    *,
    together: bool,
    plain: bool | None,
) -> tuple[Tensors, ...]:
    """All rows of the Jacobian by one sweep: the cotangents are a basis.

    Where the result is to be differentiable and not `together` it is one sweep for each output, so that what does
    not depend on the inputs does not come to require grad.
    """
    chosen = [out for out in outputs if out.requires_grad and out.numel()]
    groups = [[out] for out in chosen]
    if chosen and (together or not create_graph):
        groups = [chosen]
    rows_of: dict[int, list[Tensor | None]] = {}
    for group in groups:
        gradients = batched_gradients(
            group,
            points,
            basis(group),
            retain_graph=True,
            create_graph=create_graph,
            plain=plain,
        )
        if len(group) == 1:
            rows_of[id(group[0])] = gradients
            continue
        start = 0
        for out in group:
            end = start + out.numel()
            rows_of[id(out)] = [None if g is None else g[start:end] for g in gradients]
            start = end
    return tuple(
        tuple(
            x.new_zeros((*out.shape, *x.shape)) if g is None else g.reshape((*out.shape, *x.shape))
            for g, x in zip(rows_of.get(id(out), [None] * len(points)), points, strict=True)
        )
        for out in outputs
    )


def _jacobian_row(
    found: Sequence[Tensor | None], points: Tensors, strict: bool, create_graph: bool, output: int
) -> Tensors:
    if strict:
        for number, gradient in enumerate(found):
            if gradient is None:
                raise RuntimeError(
                    f"Output {output} of the user-provided function is independent of input {number}. This is "
                    "not allowed in strict mode."
                )
            if create_graph and not gradient.requires_grad:
                raise RuntimeError(_BACK[1].format(output))
    return tuple(zeros_like(x) if g is None else g for g, x in zip(found, points, strict=True))


def _check_strategy(create_graph: bool, strict: bool, vectorize: bool, strategy: str) -> None:
    if strategy not in ("forward-mode", "reverse-mode"):
        raise AssertionError(
            'Expected strategy to be either "forward-mode" or "reverse-mode". Hint: If your function has more '
            'outputs than inputs, "forward-mode" tends to be more performant. Otherwise, prefer to use '
            '"reverse-mode".'
        )
    if strategy == "reverse-mode":
        return
    if create_graph:
        raise NotImplementedError(
            'torch.autograd.functional.jacobian: `create_graph=True` and `strategy="forward-mode"` are not '
            'supported together (yet). Please either set `create_graph=False` or `strategy="reverse-mode"`.'
        )
    if strict:
        raise RuntimeError(
            'torch.autograd.functional.jacobian: `strict=True` and `strategy="forward-mode"` are not supported '
            'together (yet). Please either set `strict=False` or `strategy="reverse-mode"`.'
        )
    if not vectorize:
        raise NotImplementedError(
            "Computing Jacobian using forward-AD or forward-over-reverse Hessian isonly implemented for "
            "`vectorize=True`."
        )


def hessian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """The matrix of second derivatives of a function with one element as result: the Jacobian of its gradient.

    Args:
        func: takes Tensors and returns a Tensor with one element.
        inputs: a Tensor or a tuple of Tensors.
        create_graph: make the result differentiable.
        strict: raise an error where the gradient does not depend on an input, rather than return zeros.
        vectorize, outer_jacobian_strategy: torch's choices of how to compute; the result is the same.

    Returns:
        ``result[i][j]`` of shape ``inputs[i].shape + inputs[j].shape``, or one Tensor if `inputs` is one.

    Raises:
        TypeError, RuntimeError, NotImplementedError: as `jacobian`; or `func` returns something else.
    """
    is_inputs_tuple, given = _tuple_of(inputs, "inputs", "hessian")
    if outer_jacobian_strategy not in ("forward-mode", "reverse-mode"):
        raise AssertionError('Expected strategy to be either "forward-mode" or "reverse-mode".')

    def gradient(*points: Tensor) -> Tensors:
        with enable_grad():
            if not all(x.requires_grad for x in points):  # As in forward mode.
                points = _detached(points, create_graph=True, requires_grad=True)
            output = _call_scalar(func, points, strict, "hessian")
            found = _gradients((output,), points, create_graph=True)
            row = _jacobian_row(found, points, strict=False, create_graph=True, output=0)
        _require(row, strict, _CONSTANT_JACOBIAN)
        # Two inputs may have one gradient; the results are told apart by what they came from.
        return row if len(set(map(id, row))) == len(row) else tuple([g.clone() for g in row])

    found = jacobian(
        gradient,
        given,
        create_graph=create_graph,
        strict=strict,
        vectorize=vectorize,
        strategy=outer_jacobian_strategy,
    )
    return _result(found, create_graph, is_inputs_tuple, is_inputs_tuple)


def vhp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """The product of a vector with the Hessian of `func` at `inputs`.

    Args:
        func: takes Tensors and returns a Tensor with one element.
        inputs: a Tensor or a tuple of Tensors.
        v: the vector, nested and shaped as `inputs`; may be left out for a single element.
        create_graph: make both results differentiable.
        strict: raise an error where the gradient does not depend on an input, rather than return zeros.

    Returns:
        (output of `func`, product shaped and nested as `inputs`).

    Raises:
        TypeError: an argument or the output of `func` is no Tensor or tuple of Tensors.
        RuntimeError: `v` or the output of `func` does not fit; or what strict mode forbids.
    """
    with enable_grad():
        is_inputs_tuple, given = _tuple_of(inputs, "inputs", "vhp")
        points = _detached(given, create_graph, requires_grad=True)
        vector = _input_vector(v, points, is_inputs_tuple, create_graph, "vhp")
        output = _call_scalar(func, points, strict, "vhp")
        first = _gradients((output,), points, create_graph=True)
        _require(first, strict, _CONSTANT_JACOBIAN)
    with set_grad_enabled(create_graph or is_grad_enabled()):
        found = _gradients(first, points, vector, create_graph=create_graph)
        product = _filled(found, points, strict, create_graph, _DOUBLE_BACK)
    return _result(output, create_graph), _result(product, create_graph, is_inputs_tuple)


def hvp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """The product of the Hessian of `func` at `inputs` with a vector.

    The same as `vhp` wherever second derivatives commute; `vhp` does less work. Arguments, result and errors are
    those of `vhp`.
    """
    with enable_grad():
        is_inputs_tuple, given = _tuple_of(inputs, "inputs", "hvp")
        points = _detached(given, create_graph, requires_grad=True)
        vector = _input_vector(v, points, is_inputs_tuple, create_graph, "hvp")
        output = _call_scalar(func, points, strict, "hvp")
        first = _gradients((output,), points, create_graph=True)
        _require(first, strict, _CONSTANT_JACOBIAN)
        cotangents = tuple(zeros_like(x, requires_grad=True) for x in points)
        pulled = _gradients(first, points, cotangents, create_graph=True)
        _require(first, strict, _CONSTANT_HESSIAN)
    with set_grad_enabled(create_graph or is_grad_enabled()):
        found = _gradients(pulled, cotangents, vector, create_graph=create_graph)
        product = _filled(found, points, strict, create_graph, _DOUBLE_BACK_TRICK)
    return _result(output, create_graph), _result(product, create_graph, is_inputs_tuple)
