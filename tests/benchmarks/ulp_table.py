"""Errors of the elementary functions against mpmath: ``python -m tests.benchmarks.ulp_table``.

The unit is the unit in the last place (ULP) of the exact result, at least the smallest subnormal;
a correctly rounded result is wrong by at most 0.5. The test of the elementary functions measures
with what is here: :class:`Kernel` runs one function over arrays, :func:`arguments` draws where to
look, and :func:`errors` compares.
"""

from __future__ import annotations

import argparse
import ctypes
import math
from collections.abc import Callable, Sequence

import llvmlite.ir as ll
import mpmath
import numpy as np
from tracegrad.codegen import engine
from tracegrad.codegen.elementary import ELEMENTARY, MAX_ULP
from tracegrad.codegen.ll_loops import for_range
from tracegrad.codegen.ll_types import F32, F64, I64, POINTER

DTYPES = (np.float32, np.float64)
BINARY = {"pow", "atan2"}

# Arguments where formulas change, results overflow or vanish, or results come close to a zero.
_NEAR = {
    "exp": (88.72284, -87.33655, -103.97208, 709.782712893384, -708.39642, -745.1332191019411),
    "exp2": (128.0, -126.0, -149.0, -150.0, 1024.0, -1022.0, -1074.0, -1075.0),
    "expm1": (88.72284, 709.782712893384, -17.3, -37.4, 0.34657359, -0.34657359),
    "sigmoid": (-87.33655, -103.97208, -708.39642, -745.1332191019411, 16.6, 36.7, -16.6, -36.7),
    "tanh": (0.2027, 0.3466, 9.01, 19.06),
    "sinh": (1.0, 89.415985, 710.4758600739439),
    "cosh": (0.34657359, 89.415985, 710.4758600739439),
    "log": (1.0, 0.70710678, 1.41421356),
    "log2": (1.0, 0.70710678, 1.41421356, 8.0),
    "log10": (1.0, 0.70710678, 1.41421356, 1000.0),
    "log1p": (-1.0, -0.29289322, 0.41421356),
    "asinh": (0.41421356, 2.0**28),
    "acosh": (1.0, 2.0**28),
    "atanh": (1.0, -1.0, 0.17157288),
    "asin": (0.5, 1.0, -1.0),
    "acos": (0.5, -0.5, 1.0, -1.0),
    "atan": (1.0, -1.0),
    "erf": (1.0, 3.92, 5.93),
    "erfc": (0.5, 9.19455, 10.05, 26.543258, 27.226),
    "lgamma": (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 4.08e36, 2.556e305),
    "digamma": (1.0, 1.46163214, 1.5, 2.5, 3.5, 5.5),
}
_TRIGONOMETRIC = (
    *(quarter * math.pi / 4 for quarter in range(1, 9)),
    355.0, 103993.0, 1.0e5, 102943.7, 2.0**30, 1.0e22, 5.31937264832654e17, 6.381956970095103e299,
)  # fmt: skip
_NEAR |= dict.fromkeys(("sin", "cos", "tan"), _TRIGONOMETRIC)


class Kernel:
    """Elementary functions, compiled to one loop over arrays.

    Attributes:
        lanes: how many elements one turn of the loop computes.
        module: the native module; the loop is its function ``loop``.
    """

    def __init__(self, names: Sequence[str], dtype: type, lanes: int | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self.lanes = lanes or engine.host().vector_bytes // self.dtype.itemsize
        self._outputs = len(names)
        self._inputs = 2 if names[0] in BINARY else 1
        element = F32 if self.dtype == np.float32 else F64
        type_ = element if self.lanes == 1 else ll.VectorType(element, self.lanes)
        arrays = self._inputs + self._outputs
        self.source = ll.Module()
        signature = ll.FunctionType(ll.VoidType(), [POINTER] * arrays + [I64])
        function = ll.Function(self.source, signature, "loop")
        *pointers, count = function.args
        b = ll.IRBuilder(function.append_basic_block())

        def place(pointer: ll.Value, index: ll.Value) -> ll.Value:
            return b.gep(pointer, [index], source_etype=element)

        with for_range(b, 0, count, self.lanes, unroll=False) as loop:
            operands = [
                b.load(place(pointer, loop.index), typ=type_, align=self.dtype.itemsize)
                for pointer in pointers[: self._inputs]
            ]
            for name, pointer in zip(names, pointers[self._inputs :], strict=True):
                result = ELEMENTARY[name](b, *operands)
                b.store(result, place(pointer, loop.index), align=self.dtype.itemsize)
        b.ret_void()
        self.module = engine.compile_module(self.source)

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """The function of the arrays, all one-dimensional; of several, a row for each."""
        return self.run(self.module, *arrays)

    def run(self, module: engine.NativeModule, *arrays: np.ndarray) -> np.ndarray:
        """The same, as another compilation of ``source`` computes it."""
        count = len(arrays[0])
        padded = -(-count // self.lanes) * self.lanes
        operands = [np.resize(np.asarray(array, self.dtype), padded) for array in arrays]
        results = np.empty((self._outputs, padded), self.dtype)
        pointers = [array.ctypes.data for array in (*operands, *results)]
        prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(pointers), ctypes.c_int64)
        prototype(module.address("loop"))(*pointers, padded)
        return results[0, :count] if self._outputs == 1 else results[:, :count]


@np.errstate(all="ignore")
def arguments(
    name: str, dtype: type, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Finite arguments other than zero: `count` of each kind, and the neighbours of hard ones.

    Of lgamma and digamma only positive ones: there is no bound close to their negative zeros.
    """
    x = np.concatenate([_any_number(dtype, count, rng), _of_moderate_size(count, rng)])
    if name == "atan2":
        y = np.concatenate([_any_number(dtype, count, rng), _of_moderate_size(count, rng)])
        near = x * rng.uniform(0.9, 1.1, len(x))
        return _finite(dtype, np.concatenate([y, near]), np.concatenate([x, x]))
    if name == "pow":
        x = np.concatenate([np.abs(x), np.abs(x), x])
        # Exponents whose powers cover the range of results, moderate ones, and whole ones.
        limit = (1.1 * math.log(np.finfo(dtype).max)) / np.abs(np.log(x))
        third = len(x) // 3
        y = np.concatenate(
            [
                rng.uniform(-1, 1, third) * np.minimum(limit[:third], 1e30),
                _of_moderate_size(third, rng)[:third],
                rng.integers(-9, 9, third),
            ]
        )
        return _finite(dtype, x[: len(y)], y)
    hard = np.array((1.0, *_NEAR.get(name, ())), dtype)
    hard = np.concatenate([hard, -hard])
    integers = np.int32 if dtype == np.float32 else np.int64
    steps = np.concatenate([np.arange(-8, 9), rng.integers(-(1 << 16), 1 << 16, 40)])
    neighbours = (hard.view(integers)[:, None] + steps.astype(integers)).view(dtype).ravel()
    limits = np.finfo(dtype)
    ends = np.array([limits.max, limits.tiny, limits.smallest_subnormal], np.float64)
    x = np.concatenate([x, neighbours, ends, -ends, 3 * ends[2:]])
    return _finite(dtype, np.abs(x) if name in {"lgamma", "digamma"} else x)


def _any_number(dtype: type, count: int, rng: np.random.Generator) -> np.ndarray:
    integers = np.uint32 if dtype == np.float32 else np.uint64
    bits = rng.integers(0, np.iinfo(integers).max, count, dtype=integers, endpoint=True)
    return bits.view(dtype).astype(np.float64)


def _of_moderate_size(count: int, rng: np.random.Generator) -> np.ndarray:
    scales = (0.01, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
    around_zero = [rng.uniform(-scale, scale, count // len(scales)) for scale in scales]
    around_one = 1 + rng.uniform(-1, 1, count // 4) * 2.0 ** rng.uniform(-24, -1, count // 4)
    return np.concatenate([*around_zero, around_one])


def _finite(dtype: type, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    arrays = tuple(array.astype(dtype) for array in arrays)
    usable = np.logical_and.reduce([np.isfinite(array) & (array != 0) for array in arrays])
    return tuple(array[usable] for array in arrays)


def _power(x: mpmath.mpf, y: mpmath.mpf) -> mpmath.mpf:
    if x < 0 and y != mpmath.floor(y):
        return mpmath.nan
    size = y * mpmath.log(abs(x))
    if abs(size) < 2000:
        return mpmath.power(x, y)
    result = mpmath.inf if size > 0 else mpmath.ldexp(1, -5000)
    return -result if x < 0 and y % 2 == 1 else result


def _log_gamma(x: mpmath.mpf) -> mpmath.mpf:
    return mpmath.loggamma(x) if x > 0 else mpmath.log(abs(mpmath.gamma(x)))


def _within(limit: float, function: Callable) -> Callable:
    """`function`, which no longer changes as a floating-point number beyond the limit."""
    return lambda x: function(max(min(x, limit), -limit))


def _on(low: float, high: float, function: Callable) -> Callable:
    return lambda x: function(x) if low <= x <= high else mpmath.nan


EXACT: dict[str, Callable[..., mpmath.mpf]] = {
    "exp": _within(2000, mpmath.exp),
    "exp2": _within(3000, lambda x: mpmath.power(2, x)),
    "expm1": _within(2000, mpmath.expm1),
    "sigmoid": _within(2000, lambda x: 1 / (1 + mpmath.exp(-x))),
    "log": _on(0, mpmath.inf, mpmath.log),
    "log1p": _on(-1, mpmath.inf, mpmath.log1p),
    "log2": _on(0, mpmath.inf, lambda x: mpmath.log(x, 2)),
    "log10": _on(0, mpmath.inf, mpmath.log10),
    "pow": _power,
    "sinh": _within(2000, mpmath.sinh),
    "cosh": _within(2000, mpmath.cosh),
    "tanh": _within(200, mpmath.tanh),
    "asinh": mpmath.asinh,
    "acosh": _on(1, mpmath.inf, mpmath.acosh),
    "atanh": _on(-1, 1, mpmath.atanh),
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "asin": _on(-1, 1, mpmath.asin),
    "acos": _on(-1, 1, mpmath.acos),
    "atan": mpmath.atan,
    "atan2": mpmath.atan2,
    "erf": _within(60, mpmath.erf),
    "erfc": _within(60, mpmath.erfc),
    "lgamma": _log_gamma,
    "digamma": mpmath.digamma,
}


def errors(name: str, got: np.ndarray, *operands: np.ndarray) -> np.ndarray:
    """The error of each result in ULP; infinity where only one of the two is a number."""
    limits = np.finfo(got.dtype)
    largest = float(limits.max)
    # From here on the exact result rounds to infinity.
    overflow = mpmath.mpf(largest) + mpmath.ldexp(1, limits.maxexp - limits.nmant - 2)
    result = np.empty(len(got))
    with mpmath.workprec(128):
        for place, value in enumerate(got.tolist()):
            exact = EXACT[name](*(mpmath.mpf(float(array[place])) for array in operands))
            if mpmath.isnan(exact) or math.isnan(value):
                same = mpmath.isnan(exact) and math.isnan(value)
                result[place] = 0.0 if same else math.inf
            elif abs(exact) >= overflow or math.isinf(value):
                beyond = largest if math.isinf(value) else math.inf
                same = (exact > 0) == (value > 0) and abs(exact) >= beyond
                result[place] = 0.0 if same else math.inf
            elif exact == 0:
                result[place] = 0.0 if value == 0 else math.inf
            else:
                exponent = max(mpmath.frexp(exact)[1] - 1, limits.minexp)
                unit = mpmath.ldexp(1, int(exponent) - limits.nmant)
                result[place] = float(abs(value - exact) / unit)
    return result


def worst(
    name: str, dtype: type, count: int, rng: np.random.Generator
) -> tuple[float, tuple[float, ...]]:
    """The largest error found, and the arguments where."""
    operands = arguments(name, dtype, count, rng)
    found = errors(name, Kernel([name], dtype)(*operands), *operands)
    place = int(found.argmax())
    return float(found[place]), tuple(float(array[place]) for array in operands)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ulp_table")
    parser.add_argument("names", nargs="*", help="functions to measure; all by default")
    parser.add_argument("--count", type=int, default=4000, help="arguments of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{'':<10}{'dtype':<9}{'worst':>7}{'bound':>8}   at")
    for name in options.names or ELEMENTARY:
        for dtype, bound in zip(DTYPES, MAX_ULP[name], strict=True):
            rng = np.random.default_rng(options.seed)
            error, where = worst(name, dtype, options.count, rng)
            shown = ", ".join(f"{value:.9g}" for value in where)
            print(f"{name:<10}{np.dtype(dtype).name:<9}{error:>7.3f}{bound:>8.2f}   {shown}")


if __name__ == "__main__":
    main()
