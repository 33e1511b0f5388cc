"""Printing of tensors: literal strings, and torch itself where it is installed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tracegrad import formatting
from tracegrad.formatting import format_parameter, format_scalar, format_tensor, set_printoptions

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
INF, NAN = math.inf, math.nan


@pytest.fixture(autouse=True)
def default_options() -> Iterator[None]:
    """Leave the process-wide options as they were."""
    with formatting.printoptions(profile="default"):
        yield


def f32(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float32)


LITERALS: list[tuple[np.ndarray, dict[str, Any], str]] = [
    # no dimension, one dimension, whole numbers
    (f32(1.5), {}, "tensor(1.5000)"),
    (f32(2.0), {}, "tensor(2.)"),
    (np.array(3), {}, "tensor(3)"),
    (np.array(True), {}, "tensor(True)"),
    (f32([1, 2, 3]), {}, "tensor([1., 2., 3.])"),
    (f32([1, -2.5]), {}, "tensor([ 1.0000, -2.5000])"),
    (np.array([-1, 10]), {}, "tensor([-1, 10])"),
    (np.array([True, False]), {}, "tensor([ True, False])"),
    (f32([0.0, -0.0]), {}, "tensor([0., -0.])"),
    (f32([[1, 2], [3, 4.25]]), {}, "tensor([[1.0000, 2.0000],\n        [3.0000, 4.2500]])"),
    (np.zeros((2, 1, 2), np.int64), {}, "tensor([[[0, 0]],\n\n        [[0, 0]]])"),
    # values that are not finite
    (f32([NAN, 1.0]), {}, "tensor([nan, 1.])"),
    (f32([INF, -INF, 0.5]), {}, "tensor([   inf,   -inf, 0.5000])"),
    (f32(NAN), {}, "tensor(nan)"),
    # scientific notation: ratio, largest, smallest
    (f32([1e-4, 1.0]), {}, "tensor([1.0000e-04, 1.0000e+00])"),
    (f32([1.0, 1000.0]), {}, "tensor([   1., 1000.])"),
    (f32([1.0, 1001.0]), {}, "tensor([1.0000e+00, 1.0010e+03])"),
    (f32([1e8]), {}, "tensor([100000000.])"),
    (f32([2e8]), {}, "tensor([2.0000e+08])"),
    (f32([-5e-5]), {}, "tensor([-5.0000e-05])"),
    (np.array([5e-324, 1e308]), {}, "tensor([4.9407e-324, 1.0000e+308], dtype=torch.float64)"),
    # dtypes
    (np.array([1.0]), {}, "tensor([1.], dtype=torch.float64)"),
    (np.array([1.0]), {"default_float": F64}, "tensor([1.])"),
    (f32([1.0]), {"default_float": F64}, "tensor([1.], dtype=torch.float32)"),
    (np.array([7], np.uint8), {}, "tensor([7], dtype=torch.uint8)"),
    (np.array([7], np.int32), {}, "tensor([7], dtype=torch.int32)"),
    # nothing to print
    (f32([]), {}, "tensor([])"),
    (np.zeros((0, 3), np.float32), {}, "tensor([], size=(0, 3))"),
    (np.zeros(0, np.int64), {}, "tensor([], dtype=torch.int64)"),
    (np.zeros((2, 0), bool), {}, "tensor([], size=(2, 0), dtype=torch.bool)"),
    # suffixes
    (f32([1.0]), {"requires_grad": True}, "tensor([1.], requires_grad=True)"),
    (
        f32([1.0]),
        {"requires_grad": True, "grad_fn_name": "SinBackward0"},
        "tensor([1.], grad_fn=<SinBackward0>)",
    ),
    (
        np.zeros((0, 2)),
        {"requires_grad": True},
        "tensor([], size=(0, 2), dtype=torch.float64, requires_grad=True)",
    ),
    (f32([1, 2]), {"prefix": "Wrapped("}, "Wrapped([1., 2.])"),
    (
        f32([[1], [2]]),
        {"prefix": "Wrapped("},
        "Wrapped([[1.],\n         [2.]])",
    ),
    # lines are broken at 80 columns
    (
        np.arange(30),
        {},
        "tensor([ 0,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13, 14, 15, 16, 17,\n"
        "        18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29])",
    ),
    (
        f32([0.5] * 7),
        {"grad_fn_name": "MulBackward0"},
        "tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000, 0.5000, 0.5000],\n"
        "       grad_fn=<MulBackward0>)",
    ),
    # summaries
    (np.arange(1001), {}, "tensor([   0,    1,    2,  ...,  998,  999, 1000])"),
    (
        np.zeros((8, 200), np.float32),
        {},
        "tensor([[0., 0., 0.,  ..., 0., 0., 0.],\n"
        "        [0., 0., 0.,  ..., 0., 0., 0.],\n"
        "        [0., 0., 0.,  ..., 0., 0., 0.],\n"
        "        ...,\n"
        "        [0., 0., 0.,  ..., 0., 0., 0.],\n"
        "        [0., 0., 0.,  ..., 0., 0., 0.],\n"
        "        [0., 0., 0.,  ..., 0., 0., 0.]])",
    ),
]


@pytest.mark.parametrize(("array", "options", "expected"), LITERALS)
def test_literal(array: np.ndarray, options: dict[str, Any], expected: str) -> None:
    assert format_tensor(array, **options) == expected


def test_memory_order_does_not_matter() -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    assert format_tensor(array.transpose(2, 0, 1)) == format_tensor(
        np.ascontiguousarray(array.transpose(2, 0, 1))
    )


def test_hidden_elements_do_not_decide_the_width() -> None:
    array = np.ones(2000, np.float32)
    array[1000] = 1e30
    assert format_tensor(array) == "tensor([1., 1., 1.,  ..., 1., 1., 1.])"


@pytest.mark.parametrize("dtype", [np.complex64, object, "U3"])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match="cannot print a tensor of dtype"):
        format_tensor(np.zeros(2).astype(dtype))


def test_parameter() -> None:
    text = "Parameter containing:\ntensor([1., 2.], requires_grad=True)"
    assert format_parameter(f32([1, 2])) == text
    frozen = "Parameter containing:\ntensor([1., 2.])"
    assert format_parameter(f32([1, 2]), requires_grad=False) == frozen


@pytest.mark.parametrize(
    ("array", "spec", "expected"),
    [
        (f32(0.1), "", "0.10000000149011612"),
        (f32(0.1), ".3f", "0.100"),
        (f32(0.1), ">8.2e", "1.00e-01"),
        (np.array(7), "05d", "00007"),
        (np.array(True), "", "True"),
    ],
)
def test_scalar(array: np.ndarray, spec: str, expected: str) -> None:
    assert format_scalar(array, spec) == expected


def test_scalar_with_unknown_spec() -> None:
    with pytest.raises(ValueError, match="Unknown format code 's'"):
        format_scalar(np.array(3), "s")


class TestOptions:
    def test_defaults(self) -> None:
        assert formatting.get_printoptions() == {
            "precision": 4,
            "threshold": 1000,
            "edgeitems": 3,
            "linewidth": 80,
            "sci_mode": None,
        }

    def test_precision_and_sci_mode(self) -> None:
        set_printoptions(precision=2, sci_mode=True)
        assert format_tensor(f32([1.5, 3])) == "tensor([1.50e+00, 3.00e+00])"
        set_printoptions(sci_mode=False)
        assert format_tensor(f32([1e-9, 3])) == "tensor([0.00, 3.00])"
        set_printoptions()
        assert formatting.get_printoptions()["sci_mode"] is None
        assert formatting.get_printoptions()["precision"] == 2

    def test_profiles(self) -> None:
        set_printoptions(profile="short")
        assert format_tensor(np.arange(1200)) == "tensor([   0,    1,  ..., 1198, 1199])"
        set_printoptions(profile="full")
        assert "..." not in format_tensor(np.arange(1200))
        set_printoptions(profile="full", threshold=3, edgeitems=1, linewidth=20)
        assert format_tensor(np.arange(5)) == "tensor([0,  ..., 4])"

    def test_unknown_profile(self) -> None:
        before = formatting.get_printoptions()
        with pytest.raises(ValueError, match="'default', 'short', 'full'"):
            set_printoptions(profile="tall")
        assert formatting.get_printoptions() == before

    def test_options_return_after_an_error(self) -> None:
        with pytest.raises(KeyError), formatting.printoptions(precision=1):  # noqa: PT012
            assert format_tensor(f32(0.25)) == "tensor(0.2)"
            raise KeyError
        assert format_tensor(f32(0.25)) == "tensor(0.2500)"

    def test_returned_options_are_a_copy(self) -> None:
        formatting.get_printoptions()["precision"] = 9
        assert formatting.get_printoptions()["precision"] == 4


# Against torch.


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed")


def assert_prints_like_torch(torch: Any, array: np.ndarray, **options: Any) -> None:
    torch.set_printoptions(profile="default")
    torch.set_printoptions(**options)
    try:
        with formatting.printoptions(**options):
            theirs = torch.from_numpy(array)
            assert format_tensor(array) == repr(theirs)
            assert format_tensor(array, default_float=F64) == _repr_in_float64(torch, theirs)
            if array.dtype.kind == "f":
                leaf = theirs.requires_grad_()
                assert format_tensor(array, requires_grad=True) == repr(leaf)
                name = "ViewBackward0"
                view = leaf.view(leaf.shape)
                assert format_tensor(array, requires_grad=True, grad_fn_name=name) == repr(view)
                parameter = torch.nn.Parameter(theirs.detach())
                assert format_parameter(array) == repr(parameter)
    finally:
        torch.set_printoptions(profile="default")


def _repr_in_float64(torch: Any, tensor: Any) -> str:
    torch.set_default_dtype(torch.float64)
    try:
        return repr(tensor)
    finally:
        torch.set_default_dtype(torch.float32)


# Values around the thresholds of scientific notation, whole numbers, and what is not finite.
CORNERS = [
    [0.0],
    [-0.0, NAN],
    [INF, 1.0],
    [NAN, 0.5],
    [1.0, 1000.0],
    [1.0, 1000.5],
    [1e-4],
    [9.9e-5],
    [1e8],
    [1.0000001e8],
    [1e-30, 1e30],
    [-1.0, 0.25, 12345.678],
    [0.99995, 0.00005],
    [65504.0, 6e-8],
]


@pytest.mark.peers
@pytest.mark.parametrize("dtype", DTYPES)
def test_sweep_against_torch(torch: Any, dtype: str) -> None:
    rng = np.random.default_rng(0)
    shapes = [(), (0,), (1,), (7,), (25,), (1001,), (0, 3), (2, 3), (40, 40), (1, 1, 1), (3, 2, 5)]
    shapes += [(12, 2, 60), (2, 3, 0), (2, 1, 3, 2), (7, 7, 7, 7)]
    kind = np.dtype(dtype).kind
    for shape, scale in itertools.product(shapes, (1, 90, 1e5) if kind == "f" else (1, 90)):
        values = rng.standard_normal(shape) * scale
        with np.errstate(all="ignore"):
            array = np.asarray(values if kind == "f" else np.rint(values)).astype(dtype)
        assert_prints_like_torch(torch, np.asarray(array))
    if kind == "f":
        for corner in CORNERS:
            with np.errstate(over="ignore"):
                values = np.array(corner).astype(dtype)
            assert_prints_like_torch(torch, values)
            assert_prints_like_torch(torch, np.rint(values))
            assert_prints_like_torch(torch, values[0:1].reshape(()))


@st.composite
def print_options(draw: st.DrawFn) -> dict[str, Any]:
    drawn = {
        "precision": draw(st.none() | st.integers(0, 9)),
        "threshold": draw(st.none() | st.integers(0, 40)),
        "edgeitems": draw(st.none() | st.integers(0, 4)),
        "linewidth": draw(st.none() | st.integers(1, 120)),
        "profile": draw(st.none() | st.sampled_from(["default", "short", "full"])),
        "sci_mode": draw(st.none() | st.booleans()),
    }
    return {name: value for name, value in drawn.items() if value is not None}


@pytest.mark.peers
@settings(deadline=None, max_examples=300)
@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
    ),
    options=print_options(),
)
def test_any_array_against_torch(torch: Any, array: np.ndarray, options: dict[str, Any]) -> None:
    assert_prints_like_torch(torch, array, **options)


@pytest.mark.peers
@given(
    value=st.integers(-(2**40), 2**40) | st.floats() | st.booleans(),
    spec=st.sampled_from(["", "d", "05d", ".2f", ">12", "e", ".3g", "s", "%", "+"]),
)
def test_any_scalar_against_torch(torch: Any, value: float, spec: str) -> None:
    theirs = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    assert _text_or_error(lambda: format_scalar(theirs.numpy(), spec)) == _text_or_error(
        lambda: format(theirs, spec)
    )


def _text_or_error(write: Callable[[], str]) -> str:
    try:
        return write()
    except ValueError as error:
        return f"ValueError: {error}"
