"""The elementary functions: bounds on their errors, special values, and the code they become."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import llvmlite.ir as ll
import numpy as np
import pytest
from benchmarks.ulp_table import BINARY, DTYPES, EXACT, Kernel, arguments, errors
from tracegrad.codegen import engine
from tracegrad.codegen.elementary import ELEMENTARY, MAX_ULP
from tracegrad.codegen.ll_types import F32

GAMMA = {"lgamma", "digamma"}
UNARY = sorted(set(ELEMENTARY) - BINARY - GAMMA)
INF, NAN = math.inf, math.nan


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


# The same functions by NumPy and the standard library, for what must be exact and for `float`.
PEERS: dict[str, Callable] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "sigmoid": _sigmoid,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "log10": np.log10,
    "pow": np.power,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "erfc": np.vectorize(math.erfc, otypes=[np.float64]),
}


@pytest.fixture(scope="module")
def kernel() -> Callable[[str, type], Kernel]:
    """Compiles each function once for all tests."""
    made: dict[tuple[str, type], Kernel] = {}

    def get(name: str, dtype: type) -> Kernel:
        if (name, dtype) not in made:
            made[name, dtype] = Kernel([name], dtype)
        return made[name, dtype]

    return get


def bound(name: str, dtype: type) -> float:
    return MAX_ULP[name][DTYPES.index(dtype)]


def test_tables_have_every_function() -> None:
    assert set(ELEMENTARY) == set(MAX_ULP) == set(EXACT) == set(PEERS) | GAMMA


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTARY)
def test_error_is_within_the_bound(name: str, dtype: type, kernel: Callable) -> None:
    operands = arguments(name, dtype, 800, np.random.default_rng(5))
    found = errors(name, kernel(name, dtype)(*operands), *operands)
    place = int(found.argmax())
    assert found[place] <= bound(name, dtype), [array[place] for array in operands]


@pytest.mark.parametrize("name", UNARY)
def test_float32_all_over_its_range(name: str, kernel: Callable) -> None:
    # Every 40 thousandth number, the special ones among them.
    bits = np.arange(0, 1 << 32, 40009, dtype=np.uint64).astype(np.uint32)
    x = bits.view(np.float32)
    got = kernel(name, np.float32)(x)
    with np.errstate(all="ignore"):
        exact = PEERS[name](x.astype(np.float64))
        rounded = exact.astype(np.float32)
        unit = np.spacing(np.abs(rounded)).astype(np.float64)
        error = np.abs(got - exact) / unit
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    error = np.where(same, 0.0, np.nan_to_num(error, nan=INF))
    assert error.max() <= bound(name, np.float32), x[error.argmax()]


def special_numbers(dtype: type) -> np.ndarray:
    limits = np.finfo(dtype)
    positive = [0.0, INF, NAN, limits.smallest_subnormal, limits.tiny, limits.max, 1, 2, 3, 0.5]
    with np.errstate(over="ignore"):
        positive += [1.5, 4, 10, 1e9, 1e15, limits.max / 2, 2.0**24 + 2, 2.0**53 + 2]
        return np.array([sign * number for number in positive for sign in (1, -1)], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PEERS)
def test_special_values(name: str, dtype: type, kernel: Callable) -> None:
    x = special_numbers(dtype)
    operands = (x,) if name in UNARY else tuple(a.ravel() for a in np.meshgrid(x, x))
    got = kernel(name, dtype)(*operands)
    with np.errstate(all="ignore"):
        exact = PEERS[name](*(array.astype(np.float64) for array in operands))
        exact = exact.astype(dtype)
        near = np.abs(got - exact) <= 2 * np.spacing(np.abs(exact))
    wrong = ~(near | (got == exact) | (np.isnan(got) & np.isnan(exact)))
    wrong |= (np.signbit(got) != np.signbit(exact)) & ~np.isnan(exact)
    assert not wrong.any(), [(array[wrong], got[wrong], exact[wrong]) for array in operands]


@pytest.mark.parametrize("dtype", DTYPES)
def test_gamma_functions_left_of_zero(dtype: type, kernel: Callable) -> None:
    # Results are sums of larger terms; the error is small compared with those.
    rng = np.random.default_rng(11)
    x = np.concatenate([rng.uniform(-30, 0, 300), rng.uniform(-1e4, 0, 50)]).astype(dtype)
    for name in GAMMA:
        got = kernel(name, dtype)(x)
        exact = np.array([float(EXACT[name](float(number))) for number in x])
        # The slope of digamma is about the square of its value near the poles.
        scale = 1 + np.abs(exact) + (np.abs(x) * np.log(np.abs(x) + 2) if name == "lgamma" else 9)
        assert (np.abs(got - exact) <= 4 * np.finfo(dtype).eps * scale).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("exp", [0.0, -0.0], [1.0, 1.0]),
        ("exp2", [-3.0, 0.0, 10.0, 100.0], [0.125, 1.0, 1024.0, 2.0**100]),
        ("log", [1.0], [0.0]),
        ("log2", [0.125, 1.0, 1024.0, 2.0**100], [-3.0, 0.0, 10.0, 100.0]),
        ("log10", [1.0, 10.0, 1000.0, 1e10], [0.0, 1.0, 3.0, 10.0]),
        ("cos", [0.0], [1.0]),
        ("cosh", [0.0], [1.0]),
        ("acos", [1.0], [0.0]),
        ("sigmoid", [0.0, INF, -INF], [0.5, 1.0, 0.0]),
        ("erf", [0.0, 10.0, -INF], [0.0, 1.0, -1.0]),
        ("erfc", [0.0, 30.0, -30.0], [1.0, 0.0, 2.0]),
        ("lgamma", [1.0, 2.0, 0.0, -0.0, -1.0, -1e6, INF, -INF], [0.0, 0.0] + 6 * [INF]),
        ("lgamma", [NAN, 1e-30], [NAN, math.log(1e30)]),
        ("digamma", [0.0, -0.0, INF, -INF, -1.0, -1e6, NAN], [-INF, INF, INF] + 4 * [NAN]),
    ],
)
def test_exact_values(
    name: str, x: list[float], expected: list[float], dtype: type, kernel: Callable
) -> None:
    got = kernel(name, dtype)(np.array(x, dtype))
    np.testing.assert_array_equal(got, np.array(expected, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_one_huge_argument_among_small_ones(name: str, dtype: type) -> None:
    # Only lanes above the limit are computed out of line; the others must stay as they were.
    kernel = Kernel([name], dtype)
    small = np.linspace(-4, 4, kernel.lanes).astype(dtype)
    plain = kernel(small)
    for lane in range(kernel.lanes):
        x = small.copy()
        x[lane] = 1e30
        got = kernel(x)
        expected = plain.copy()
        expected[lane] = PEERS[name](np.float64(x[lane]))
        np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps, atol=0)
        np.testing.assert_array_equal(np.delete(got, lane), np.delete(plain, lane))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTARY)
def test_lanes_do_not_matter(name: str, dtype: type, kernel: Callable) -> None:
    operands = arguments(name, dtype, 64, np.random.default_rng(3))
    scalars = Kernel([name], dtype, lanes=1)(*operands)
    np.testing.assert_array_equal(kernel(name, dtype)(*operands), scalars)


@pytest.mark.parametrize("lanes", [2, 3, 16])
def test_vectors_of_other_widths(lanes: int) -> None:
    x = np.linspace(-3, 3, 48).astype(np.float32)
    for name in ("exp", "sin", "erf"):
        expected = Kernel([name], np.float32, lanes=1)(x)
        np.testing.assert_array_equal(Kernel([name], np.float32, lanes)(x), expected)


def loop_of(kernel: Kernel) -> str:
    """The assembly of the loop, without what is called from it."""
    assembly = kernel.module.assembly()
    return re.split(r"\n\S*\.?Lfunc_end|\n\t\.cfi_endproc", assembly[assembly.index("loop:") :])[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["exp", "log", "sin", "tanh", "erf", "lgamma"])
def test_code_is_packed_and_calls_no_library(name: str, dtype: type, kernel: Callable) -> None:
    code = loop_of(kernel(name, dtype))
    if engine.host().is_arm:
        packed = r"\tfmla\s.*\.(4s|2d)|\tfmla\.(4s|2d)"
    else:
        packed = rf"\tv?f?n?m\w*p{'s' if dtype == np.float32 else 'd'}\s"
    assert re.search(packed, code)
    called = re.findall(r"\t(?:callq?|bl)\s+(\S+)", code)
    assert all("tracegrad." in symbol for symbol in called)
    # Nothing but intrinsics is declared, and none that would become a call.
    declared = re.findall(r"^declare .*?@([\w.]+)\(", kernel(name, dtype).module.llvm_text, re.M)
    assert declared
    for symbol in declared:
        family, intrinsic = symbol.split(".")[:2]
        assert family == "llvm"
        assert intrinsic not in {*ELEMENTARY, "powi", "exp10"}


def count_of_fma(kernel: Kernel) -> int:
    text = kernel.module.llvm_text
    body = text[text.index("@loop(") :]
    return body[: body.index("\n}")].count("@llvm.fma.")


@pytest.mark.parametrize("dtype", DTYPES)
def test_sine_and_cosine_share_their_work(dtype: type, kernel: Callable) -> None:
    both = Kernel(["sin", "cos"], dtype)
    assert count_of_fma(both) == count_of_fma(kernel("sin", dtype))
    x = arguments("sin", dtype, 64, np.random.default_rng(7))[0]
    np.testing.assert_array_equal(both(x)[0], kernel("sin", dtype)(x))
    np.testing.assert_array_equal(both(x)[1], kernel("cos", dtype)(x))


def test_a_module_defines_a_function_once() -> None:
    module = ll.Module()
    type_ = ll.VectorType(F32, 4)
    function = ll.Function(module, ll.FunctionType(type_, [type_]), "f")
    b = ll.IRBuilder(function.append_basic_block())
    block = b.block
    x = ELEMENTARY["sin"](b, ELEMENTARY["exp"](b, ELEMENTARY["sin"](b, function.args[0])))
    assert b.block is block
    b.ret(x)
    defined = re.findall(r'define .*"(tracegrad\.[a-z]+\.f32x4)"', str(module))
    assert sorted(defined) == ["tracegrad.exp.f32x4", "tracegrad.sin.f32x4"]
    assert engine.compile_module(module).address("f")


@pytest.mark.parametrize("name", ["exp", "sin", "pow"])
def test_without_optimisation(name: str) -> None:
    operands = arguments(name, np.float32, 32, np.random.default_rng(9))
    optimised = Kernel([name], np.float32)
    module = engine.compile_module(optimised.source, optimize=0)
    got = optimised.run(module, *operands)
    np.testing.assert_array_equal(got, optimised(*operands))
