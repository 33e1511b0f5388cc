"""Tensor's methods and operators: the functions of :mod:`tracegrad.ops`, attached by name.

Importing this module completes the class. A method and the function of the same name are the same object,
unless the function takes ``out`` (see :mod:`tracegrad.ops.out_argument`). Modules in `_LATE` are imported when one of
their methods is first looked up: most programs never need them, and ``import tracegrad`` is to be quick.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tracegrad import lean, notebook, random
from tracegrad.autograd.backward import backward
from tracegrad.dispatch import apply
from tracegrad.ir.op import Op, registered
from tracegrad.layout import strided
from tracegrad.node import late_bound
from tracegrad.ops import (
    conversion,
    creation,
    in_place_views,
    indexing,
    linalg,
    rare_creation,
    reduction,
    shaping,
    striding,
)
from tracegrad.ops import (
    elementwise as ew,
)
from tracegrad.ops.arguments import as_tensor_operand, is_number
from tracegrad.ops.in_place_forms import in_place, in_place_binary
from tracegrad.saved_names import saved_names, saved_value
from tracegrad.tensor import Tensor
from tracegrad.views import storage_offset

_where = registered("where")


def _apply_to_tensors(op: Any, operands: Any, attrs: dict[str, Any]) -> Tensor:
    """Derivative rules apply ops to Tensors, Python numbers, and (saved) NumPy scalars."""
    if op is _where:
        condition, x, y = operands
        like = x if isinstance(x, Tensor) else y
        operands = condition, as_tensor_operand(x, like), as_tensor_operand(y, like)
    return apply(op, operands, attrs)


def _tensor_backward(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Accumulate the gradient of this tensor into the ``grad`` of the leaves, as ``torch.Tensor.backward``.

    Args:
        gradient: the cotangent; may be left out for a scalar.
        retain_graph: keep the graph for another backward.
        create_graph: make the gradients differentiable themselves.
        inputs: accumulate only into these.
    """
    backward(self, gradient, retain_graph, create_graph, inputs=inputs)


_tensor_backward.__qualname__ = "Tensor.backward"  # For Python's own errors about its arguments.


def _operator(function: Callable[..., Any], op: Op | None = None) -> Callable[..., Any]:
    """An operator that leaves unknown types to the other operand.

    Args:
        function: what it does.
        op: if given, all that it does for two floating tensors of one type.
    """

    def operator(self: Tensor, other: Any) -> Any:
        if not (isinstance(other, Tensor) or is_number(other)):
            return NotImplemented
        return function(self, other)

    operator.__name__ = function.__name__
    return operator if op is None else lean.binary(op, operator)


def _reflected(function: Callable[..., Any]) -> Callable[..., Any]:
    def operator(self: Tensor, other: Any) -> Any:
        if isinstance(other, Tensor) or is_number(other):
            return function(other, self)
        return NotImplemented

    operator.__name__ = function.__name__
    return operator


OPERATORS: dict[str, Callable[..., Any]] = {
    "add": ew.add,
    "sub": ew.sub,
    "mul": ew.mul,
    "truediv": ew.true_divide,
    "floordiv": ew.floor_divide,
    "mod": ew.remainder,
    "pow": ew.pow,
    "and": ew.bitwise_and,
    "or": ew.bitwise_or,
    "xor": ew.bitwise_xor,
    "lshift": ew.bitwise_left_shift,
    "rshift": ew.bitwise_right_shift,
    "matmul": linalg.matmul,
}
# What ``2 - x`` and the like become: torch's own choices, down to rounding.
REFLECTED: dict[str, Callable[..., Any]] = {
    "add": ew.add,
    "mul": ew.mul,
    "and": ew.bitwise_and,
    "or": ew.bitwise_or,
    "xor": ew.bitwise_xor,
    "sub": ew.rsub,
    "truediv": lambda x, other: ew.mul(ew.reciprocal(x), other),
}

_PLAIN = {
    name: registered(op)
    for name, op in (("add", "add"), ("sub", "sub"), ("mul", "mul"), ("truediv", "div"))
}
COMPARISONS = {"lt": ew.lt, "le": ew.le, "gt": ew.gt, "ge": ew.ge, "eq": ew.eq, "ne": ew.ne}

ELEMENTWISE = (
    "neg negative abs absolute sign exp exp2 expm1 log log1p log2 log10 sqrt rsqrt sin cos tan asin arcsin "
    "acos arccos atan arctan sinh cosh tanh asinh arcsinh acosh arccosh atanh arctanh sigmoid erf erfc floor "
    "ceil trunc round frac mul multiply maximum minimum atan2 arctan2 floor_divide remainder fmod lt less le "
    "less_equal gt greater ge greater_equal bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift "
    "bitwise_right_shift true_divide add "
    "sub subtract div divide reciprocal square pow eq ne not_equal logical_not logical_and logical_or "
    "logical_xor isnan isinf isfinite clamp clip clamp_min clamp_max relu lerp addcmul addcdiv "
    "masked_fill isclose clone"
).split()
REDUCTIONS = (
    "sum mean nansum amax amin argmax argmin max min any all count_nonzero cumsum var std logsumexp softmax "
    "log_softmax allclose equal nanmean aminmax"
).split()
SHAPING = (
    "reshape flatten ravel unflatten permute transpose swapaxes swapdims t adjoint movedim moveaxis unsqueeze "
    "squeeze broadcast_to flip roll tile"
).split()
# Those that torch does not offer as functions.
SHAPING_METHODS = "view view_as reshape_as expand expand_as contiguous repeat".split()
STRIDING = (
    "narrow select unbind split_with_sizes tensor_split chunk hsplit vsplit dsplit diagonal as_strided "
    "narrow_copy select_scatter slice_scatter diagonal_scatter as_strided_scatter"
).split()
IN_PLACE_VIEWS = (
    "squeeze_ unsqueeze_ t_ transpose_ swapaxes_ swapdims_ as_strided_ resize_ resize_as_ set_ fill_diagonal_"
).split()
LINALG = "matmul mm bmm mv dot vdot addmm addbmm addmv addr baddbmm outer ger inner cross".split()
INDEXING = (
    "gather index_put index_fill index_copy masked_scatter "
    "index_select take_along_dim index_add nonzero masked_select tril triu diag "
    "trace"
).split()
CONVERSIONS = "to double long short type_as cpu cuda copy_ fill_ zero_ detach_".split()

# Functions whose in-place form computes the result and stores it.
IN_PLACE = (
    "neg negative abs absolute sign exp exp2 expm1 log log1p log2 log10 sqrt rsqrt sin cos tan asin arcsin acos "
    "arccos atan arctan sinh cosh tanh asinh arcsinh acosh arccosh atanh arctanh sigmoid erf erfc floor ceil "
    "trunc round frac pow square reciprocal clamp clip clamp_min clamp_max relu lerp addcmul addcdiv "
    "masked_fill floor_divide remainder fmod div divide true_divide atan2 arctan2 lt less le less_equal gt "
    "greater ge greater_equal eq ne not_equal logical_not logical_and logical_or logical_xor bitwise_and "
    "bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift tril triu cumsum scatter_add "
    "index_add index_put index_fill index_copy masked_scatter addmm lgamma digamma mvlgamma erfinv logit "
    "xlogy sinc i0 sgn fix nan_to_num hypot nextafter gcd lcm copysign ldexp heaviside deg2rad rad2deg "
    "cumprod renorm addbmm addmv addr baddbmm put scatter scatter_reduce index_reduce"
).split()

# Those that torch offers as functions as well.
IN_PLACE_FUNCTIONS = (
    "neg negative abs exp exp2 expm1 log log1p log2 log10 sqrt rsqrt sin cos tan asin arcsin acos arccos atan "
    "arctan sinh cosh tanh asinh arcsinh acosh arccosh atanh arctanh sigmoid erf erfc floor ceil trunc round frac "
    "square reciprocal clamp clip clamp_min clamp_max relu zero fill detach logit xlogy sinc i0 fix nan_to_num gcd "
    "lcm ldexp deg2rad rad2deg addmv"
).split()

# Methods by the module that is imported when the first of them is looked up; `method=function` where names differ.
_LATE = {
    "tracegrad.ops.arrangement": "diag_embed diagflat rot90 fliplr flipud repeat_interleave take put",
    "tracegrad.ops.contraction": "kron",
    "tracegrad.ops.counting": "unique unique_consecutive argwhere bincount histc histogram cov corrcoef",
    "tracegrad.ops.distances": "dist renorm",
    "tracegrad.ops.factorization": "cholesky qr svd",
    "tracegrad.ops.norms": "norm=norm_of",
    "tracegrad.ops.numeric": (
        "positive sgn signbit fix isposinf isneginf isreal nan_to_num hypot nextafter gcd lcm copysign ldexp "
        "float_power fmax fmin heaviside deg2rad rad2deg float_power_ __pos__=positive"
    ),
    "tracegrad.ops.ordering": (
        "sort argsort msort topk kthvalue median nanmedian quantile nanquantile mode cummax cummin"
    ),
    "tracegrad.sampling": "multinomial exponential_ geometric_ log_normal_ cauchy_ random_",
    "tracegrad.ops.scanning": "prod cumprod logcumsumexp diff",
    "tracegrad.ops.scattering": "scatter scatter_add scatter_reduce index_reduce",
    "tracegrad.ops.solution": (
        "cholesky_inverse cholesky_solve det inverse logdet matrix_exp matrix_power pinverse slogdet"
    ),
    "tracegrad.ops.special": (
        "lgamma digamma mvlgamma erfinv logit xlogy sinc i0 logaddexp logaddexp2 polygamma=polygamma_of "
        "polygamma_"
    ),
}
LATE_METHODS = {
    home: {
        name: function or name
        for name, _, function in (word.partition("=") for word in words.split())
    }
    for home, words in _LATE.items()
}
"""By module: the methods, and the functions of the module that they are."""
LATE_NAMES = {name: home for home, names in LATE_METHODS.items() for name in names}


class _LateMethod:
    """Stands in the class for a method whose module has not been imported."""

    __slots__ = ("home", "name")

    def __init__(self, name: str, home: str) -> None:
        self.name = name
        self.home = home

    def __get__(self, instance: Any, owner: type) -> Any:
        _complete(self.home)
        return Tensor.__dict__[self.name].__get__(instance, owner)


def _complete(home: str) -> None:
    """Replace what stands in the class for the methods of a module."""
    module = import_module(home)
    for name, function in LATE_METHODS[home].items():
        setattr(Tensor, name, getattr(module, function))
        if name in IN_PLACE:
            setattr(Tensor, name + "_", in_place(getattr(module, function)))


def attach() -> None:
    """Complete the Tensor class."""
    for names, module in (
        (ELEMENTWISE, ew),
        (REDUCTIONS, reduction),
        (SHAPING, shaping),
        (SHAPING_METHODS, shaping),
        (STRIDING, striding),
        (IN_PLACE_VIEWS, in_place_views),
        (LINALG, linalg),
        (INDEXING, indexing),
        (CONVERSIONS, conversion),
    ):
        for name in names:
            setattr(Tensor, name, getattr(module, name))
    for name in ("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor"):
        setattr(Tensor, name, getattr(creation, name))
    for name in ("uniform_", "normal_", "bernoulli_", "bernoulli"):
        setattr(Tensor, name, getattr(random, name))
    members: dict[str, Any] = {
        "float": conversion.float_,
        "int": conversion.int_,
        "bool": conversion.bool_method,
        "byte": conversion.byte,
        "char": conversion.char,
        "where": lambda self, condition, other: ew.where(condition, self, other),
        "rsub": ew.rsub,
        "new_empty_strided": rare_creation.new_empty_strided,
        "layout": property(lambda self: strided, doc="How the elements are held."),
        "T": property(shaping.T),
        "mT": property(shaping.mT),
        "H": property(shaping.H),
        "mH": property(shaping.mH),
        "split": lambda self, split_size, dim=0: striding.split(self, split_size, dim),
        "unfold": striding.unfold,
        "storage_offset": storage_offset,
        "untyped_storage": striding.untyped_storage,
        "stack": staticmethod(shaping.stack),
        "backward": _tensor_backward,
        "_repr_html_": notebook.repr_html,
        "__getitem__": indexing.getitem,
        "__setitem__": indexing.setitem,
        "__neg__": ew.neg,
        "__abs__": ew.abs,
        "__invert__": ew.bitwise_not,
        "half": conversion.half,
        "bfloat16": conversion.bfloat16,
        "sum_to_size": reduction.sum_to_size,
        "add_": in_place_binary(registered("add"), ew.add),
        "sub_": in_place_binary(registered("sub"), ew.sub),
        "subtract_": in_place_binary(registered("sub"), ew.sub),
        "mul_": in_place_binary(registered("mul"), ew.mul),
        "multiply_": in_place_binary(registered("mul"), ew.mul),
    }
    for name, member in members.items():
        setattr(Tensor, name, member)
    for name, module_name in LATE_NAMES.items():
        setattr(Tensor, name, _LateMethod(name, module_name))
    for name in IN_PLACE:
        home = LATE_NAMES.get(name)
        form = _LateMethod(name + "_", home) if home else in_place(getattr(Tensor, name))
        setattr(Tensor, name + "_", form)
    for name, function in OPERATORS.items():
        setattr(Tensor, f"__{name}__", _operator(function, _PLAIN.get(name)))
        reflected = REFLECTED.get(name)
        setattr(Tensor, f"__r{name}__", _operator(reflected) if reflected else _reflected(function))
    # Python 2's name, which torch has kept.
    setattr(Tensor, "__rdiv__", getattr(Tensor, "__rtruediv__"))  # noqa: B009, B010
    for name, function in COMPARISONS.items():
        setattr(Tensor, f"__{name}__", _operator(function, _PLAIN.get(name)))
    augmented = {
        "add": "add_", "sub": "sub_", "mul": "mul_", "truediv": "div_", "floordiv": "floor_divide_",
        "mod": "remainder_", "pow": "pow_", "and": "bitwise_and_", "or": "bitwise_or_", "xor": "bitwise_xor_",
        "lshift": "bitwise_left_shift_", "rshift": "bitwise_right_shift_",
    }  # fmt: skip
    for name, method in augmented.items():
        setattr(Tensor, f"__i{name}__", getattr(Tensor, method))


late_bound["apply_op"] = _apply_to_tensors
late_bound["saved_value"] = saved_value
late_bound["saved_names"] = saved_names
attach()
