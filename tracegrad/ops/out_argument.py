"""The argument ``out``: which functions have it, and how a result gets into the tensor that it names.

The functions themselves know nothing of it. `OUT` says by name which of the package's functions take it and by
which `OutRule`; :func:`with_out` makes the function that users call. As in torch, methods do not take it. Start
with :func:`write_out`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from tracegrad.geometry import resize
from tracegrad.grad_mode import no_grad, state
from tracegrad.inplace import check_apart, check_in_place, store
from tracegrad.ir.types import DType, bool_, uint8
from tracegrad.lifted import Lifted
from tracegrad.tensor import Tensor


class Overlap(Enum):
    """How far `out` may show memory of an operand."""

    ALLOWED = 0
    WHOLE = 1
    NONE = 2


class OutRule(NamedTuple):
    """What a function demands of ``out``.

    Attributes:
        words: the message for a dtype that does not fit, with the names of the `function`, and of the dtypes of
            `result` and `out`: ``Long``, or ``long int`` as `c_result` and `c_out`.
        cast: whether any dtype fits that the result's can be cast to; else it must be the same.
        error: the type of that error.
        overlap: which operands `out` may overlap.
        element_by_element: whether an `out` that is resized is laid out in memory as the operands are.
        adopts: whether the function computes in the dtype of `out`, unless it is told another.
        warns: whether resizing a tensor that is not empty is worth a warning.
    """

    words: str
    cast: bool = False
    error: type[Exception] = RuntimeError
    overlap: Overlap = Overlap.ALLOWED
    element_by_element: bool = False
    adopts: bool = False
    warns: bool = True


_SAME = "Expected out tensor to have dtype {c_result}, but got {c_out} instead"
_NO_CAST = "result type {result} can't be cast to the desired output type {out}"

POINTWISE = OutRule(_NO_CAST, cast=True, overlap=Overlap.WHOLE, element_by_element=True)
KEEPING = POINTWISE._replace(words="Found dtype {out} but expected {result}", cast=False)
CHOOSING = KEEPING._replace(words="Expected out type to be {result} but got {out}")
DECIDING = KEEPING._replace(words="{function} does not support non-boolean outputs.")
FINITE = KEEPING._replace(words="{function}: dtype of out: {out} should be same as input: {result}")
POWER = KEEPING._replace(
    words="the output given to {function} has dtype {out} but the operation's result requires dtype {result}"
)
SAME = OutRule(_SAME)
CASTING = OutRule(_NO_CAST, cast=True)
EXTREMUM = OutRule(
    "Expected the dtype for input and out to match, but got {result} for input's dtype and {out} for out's dtype."
)
ADDING = SAME._replace(adopts=True)
AVERAGING = CASTING._replace(adopts=True)
TRUTH = OutRule("{function} only supports bool tensor for result, got: {out}")
JOINING = OutRule(
    "torch.cat(): input types can't be cast to the desired output type {out}",
    cast=True,
    error=TypeError,
    overlap=Overlap.NONE,
)
GATHERING = SAME._replace(overlap=Overlap.NONE)
SELECTING = OutRule(
    "{function}(): self and result must have the same scalar type", overlap=Overlap.NONE
)
INNER = OutRule("result dtype {out} does not match input dtype {result}")
NARROWED = OutRule(
    "Expected self.dtype() == output.dtype() to be true, but got false.", warns=False
)
CREATING = OutRule(
    "dtype {result} does not match dtype of out parameter ({out})", adopts=True, warns=False
)

_RULES = (
    (
        POINTWISE,
        "exp exp2 expm1 log log1p log2 log10 sqrt rsqrt sin cos tan asin arcsin acos arccos atan arctan sinh cosh "
        "tanh asinh arcsinh acosh arccosh atanh arctanh sigmoid erf erfc reciprocal square add sub subtract mul "
        "multiply div divide true_divide floor_divide remainder fmod pow maximum minimum atan2 arctan2 lt less le "
        "less_equal gt greater ge greater_equal eq ne not_equal bitwise_and bitwise_or bitwise_xor "
        "bitwise_left_shift bitwise_right_shift logical_not logical_and logical_or logical_xor addcmul addcdiv "
        "logaddexp outer ger "
        "logaddexp2 copysign deg2rad digamma erfinv entr erfcx expit fmax fmin gammaln gcd heaviside hypot i0 i0e "
        "i1 i1e lcm ldexp lgamma log_ndtr logit mvlgamma multigammaln ndtr ndtri nextafter polygamma psi rad2deg "
        "sinc xlog1py xlogy",
    ),
    (
        KEEPING,
        "neg negative abs absolute sign sgn fix floor ceil trunc round frac bitwise_not clamp clip clamp_min "
        "clamp_max lerp hardshrink softshrink",
    ),
    (DECIDING, "signbit isposinf isneginf"),
    (FINITE, "nan_to_num"),
    (POWER, "float_power"),
    (CHOOSING, "where"),
    (
        SAME,
        "max min argmax argmin softmax log_softmax norm matmul mm bmm mv addmm addbmm baddbmm addmv inner "
        "tril triu diag renorm tensordot cross slice_scatter avg_pool2d avg_pool3d sort argsort msort topk scatter "
        "scatter_reduce index_reduce isin",
    ),
    (CASTING, "var std logsumexp normal diff kron addr"),
    (
        CASTING,
        "cholesky cholesky_ex cholesky_inverse cholesky_solve cond det eigh eigvalsh inv inv_ex inverse logdet "
        "matrix_norm matrix_power matrix_rank multi_dot pinv pinverse qr slogdet solve solve_ex solve_triangular svd "
        "svdvals tensorinv tensorsolve vecdot vector_norm",
    ),
    (NARROWED, "narrow_copy"),
    (EXTREMUM, "amax amin aminmax"),
    (
        SAME._replace(
            words="take(): self and out expected to have the same dtype, but got self.dtype = {result} and "
            "out.dtype = {out}",
            overlap=Overlap.NONE,
        ),
        "take",
    ),
    (
        SAME._replace(words="expected scalar_type {result} but found {out}"),
        "logcumsumexp cummax cummin",
    ),
    (SAME._replace(words="output values must be of same type as input"), "kthvalue"),
    (
        SAME._replace(words="expected scalar type '{result}' but got '{out}' for values output"),
        "mode",
    ),
    (
        SAME._replace(
            words="Expected tensor for 'values' to have the same type as tensor for argument #2 'self'; but type "
            "torch.{out}Tensor does not equal torch.{result}Tensor (while checking arguments for median)"
        ),
        "median nanmedian",
    ),
    (
        SAME._replace(words="{function}() out tensor must be same dtype as the input tensor"),
        "quantile nanquantile",
    ),
    (
        SAME._replace(
            words="torch.searchsorted(): output tensor's dtype is wrong, it can only be Int(int32) or Long(int64) "
            "depending on whether out_int32 flag is True, but we got output tensor's dtype {out}"
        ),
        "searchsorted bucketize",
    ),
    (
        SAME._replace(
            words="torch.histogram: input tensor and hist tensor should have the same dtype, but got input {c_result} "
            "and hist {c_out}"
        ),
        "histc histogram",
    ),
    (SAME._replace(words="multinomial expects Long tensor out, got: {out}"), "multinomial"),
    (ADDING, "sum cumsum prod cumprod"),
    (AVERAGING, "mean nansum nanmean"),
    (TRUTH, "any all"),
    (JOINING, "cat concat concatenate stack hstack vstack row_stack column_stack dstack"),
    (GATHERING, "gather take_along_dim scatter_add index_add index_copy nonzero"),
    (SELECTING, "index_select masked_select"),
    (INNER, "dot vdot"),
    (CREATING, "zeros ones empty full arange linspace logspace eye rand randn randint randperm"),
)
OUT: dict[str, OutRule] = {name: rule for rule, names in _RULES for name in names.split()}
"""The functions of the package that take ``out``."""

C_NAMES = {
    "b1": "bool",
    "u8": "unsigned char",
    "i8": "signed char",
    "i16": "short",
    "i32": "int",
    "i64": "long int",
    "f32": "float",
    "f64": "double",
}


def with_out(function: Callable[..., Any], rule: OutRule) -> Callable[..., Any]:
    """A function that also takes ``out``: the tensor, or the tuple of tensors, to write the result into."""
    code = function.__code__
    if code.co_flags & 0x0C or code.co_kwonlyargcount or code.co_argcount != 1:

        @functools.wraps(function)
        def wrapped(*args: Any, out: Any = None, **kwargs: Any) -> Any:
            if out is None:
                return function(*args, **kwargs)
            return write_out(function, rule, out, args, kwargs)

    else:
        # The same for most functions of one tensor, which are called most: their arguments need no packing.
        @functools.wraps(function)
        def wrapped(input: Any, *, out: Any = None) -> Any:
            if out is None:
                return function(input)
            return write_out(function, rule, out, (input,), {})

    return wrapped


def give_out(namespace: dict[str, Any], names: Iterable[str]) -> None:
    """Have functions of a public module take ``out``, as far as `OUT` knows them."""
    for name in OUT.keys() & names:
        namespace[name] = with_out(namespace[name], OUT[name])


def write_out(
    function: Callable[..., Any],
    rule: OutRule,
    out: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Call a function and write what it returns into `out`, which is resized where it has another shape.

    Returns:
        `out`; a named tuple of its tensors where the function returns several.

    Raises:
        RuntimeError: an argument or `out` requires grad; `out` has a dtype that does not fit, overlaps an operand
            in part, or shows one element several times.
        TypeError: `out` is not made of tensors.
        NotImplementedError: an argument carries a tangent.
    """
    name = function.__name__
    if isinstance(out, Tensor) and rule.adopts:
        if kwargs.get("dtype") is not None:
            rule = rule._replace(words=_SAME, cast=False) if rule.cast else rule
        elif not rule.cast or out.dtype.is_floating:
            kwargs = {**kwargs, "dtype": out.dtype}
    result = function(*args, **kwargs)
    if isinstance(result, Tensor):
        if not isinstance(out, Tensor):
            raise TypeError(f"{name}(): argument 'out' must be Tensor, not {type(out).__name__}")
        targets, results = [out], [result]
    else:
        targets, results = _targets(out, len(result), name), list(result)
    operands = list(_tensors((*args, *kwargs.values())))
    _refuse_derivatives([*targets, *results], name)
    for target, value in zip(targets, results, strict=True):
        _check_dtype(value.dtype, target.dtype, rule, name)
    with no_grad():
        for target, value in zip(targets, results, strict=True):
            _write(target, value, rule, operands)
    return out if isinstance(result, Tensor) else type(result)(*targets)


def _targets(out: Any, count: int, name: str) -> list[Tensor]:
    if not isinstance(out, (tuple, list)) or not all(isinstance(x, Tensor) for x in out):
        raise TypeError(
            f"{name}(): argument 'out' must be tuple of Tensors, not {type(out).__name__}"
        )
    if len(out) != count:
        raise TypeError(f"expected tuple of {count} elements but got {len(out)}")
    return list(out)


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _refuse_derivatives(tensors: Sequence[Tensor], name: str) -> None:
    for x in tensors:
        if state.grad and x.requires_grad:
            raise RuntimeError(
                f"{name}(): functions with out=... arguments don't support automatic differentiation, but one of "
                "the arguments requires grad."
            )
        if x._tangents and any(t.value is not None for t in x._tangents.values()):
            raise NotImplementedError(
                f"Trying to use forward AD with {name}_out that does not support it because it is an out= function"
            )
        data: Any = x._data
        while data.__class__ is Lifted:
            if data.batched:
                raise RuntimeError(
                    f"Batching rule not implemented for aten::{name}.out; the fallback path doesn't work on out= "
                    "or view ops."
                )
            data = data.physical._data


def _check_dtype(result: DType, out: DType, rule: OutRule, name: str) -> None:
    if result is out or (rule.cast and result.category <= out.category):
        return
    if rule is TRUTH and out is uint8 and result is bool_:
        return
    words = rule.words.format(
        function=name,
        result=result.legacy_name,
        out=out.legacy_name,
        c_result=C_NAMES[result.name],
        c_out=C_NAMES[out.name],
    )
    raise rule.error(words)


def _write(out: Tensor, value: Tensor, rule: OutRule, operands: Sequence[Tensor]) -> None:
    shape = value._data.shape
    if out._data.shape != shape:
        if rule.warns and out._data.size:
            warnings.warn(
                f"An output with one or more elements was resized since it had shape {list(out._data.shape)}, "
                f"which does not match the required output shape {list(shape)}. This behavior is deprecated, and "
                "in a future PyTorch release outputs will not be resized unless they have zero elements. You can "
                "explicitly reuse an out tensor t by resizing it, inplace, to zero elements with t.resize_(0).",
                UserWarning,
                stacklevel=4,
            )
        if state.trace is not None:
            state.trace.give_up("out= is resized")
        resize(out, shape, _strides_like(value._data) if rule.element_by_element else None)
    check_in_place(out, operands if rule.overlap is Overlap.WHOLE else ())
    if rule.overlap is Overlap.NONE:
        check_apart(out, operands)
    store(out, value)


def _strides_like(data: np.ndarray) -> tuple[int, ...]:
    """Strides, in elements, for an array without gaps whose axes are in the order of those of `data`."""
    return tuple(s // data.itemsize for s in np.empty_like(data).strides)
