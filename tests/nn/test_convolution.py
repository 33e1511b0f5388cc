"""Convolutions: torch's errors, compiled as eager, and memory layout. Numbers are compared by the table of calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tracegrad as tg
import tracegrad.nn.functional as F  # noqa: N812

X, W = np.ones((2, 4, 5, 5), "f4"), np.ones((6, 4, 3, 3), "f4")
T = np.ones((4, 6, 3, 3), "f4")


def conv(lib: Any, *args: Any, **options: Any) -> Any:
    return lib.nn.functional.conv2d(*args, **options)


def transposed(lib: Any, *args: Any, **options: Any) -> Any:
    return lib.nn.functional.conv_transpose2d(*args, **options)


# Calls, and how much of torch's text is ours where not all is.
ERRORS: dict[str, tuple[Any, tuple[np.ndarray, ...], int | None]] = {
    "channels": (lambda lib, x, w: conv(lib, x, w[:, :2]), (X, W), None),
    "channels of groups": (lambda lib, x, w: conv(lib, x, w, groups=2), (X, W), None),
    "filters of groups": (lambda lib, x, w: conv(lib, x, w[:5, :2], groups=2), (X, W), None),
    "no filters": (lambda lib, x, w: conv(lib, x, w[:0]), (X, W), None),
    "groups": (lambda lib, x, w: conv(lib, x, w, groups=0), (X, W), None),
    "rank of weight": (lambda lib, x, w: conv(lib, x, w[0]), (X, W), None),
    "rank of input": (lambda lib, x, w: conv(lib, x[0, 0], w), (X, W), None),
    "large kernel": (lambda lib, x, w: conv(lib, x[:, :, :2], w), (X, W), None),
    "large dilation": (lambda lib, x, w: conv(lib, x, w, dilation=3), (X, W), None),
    "no extent": (lambda lib, x, w: conv(lib, x[:, :, :0], w, padding=2), (X, W), None),
    "bias": (lambda lib, x, w: conv(lib, x, w, x[0, 0, 0]), (X, W), None),
    "rank of bias": (lambda lib, x, w: conv(lib, x, w, w[:, :1, 0, 0]), (X, W), None),
    "stride": (lambda lib, x, w: conv(lib, x, w, stride=0), (X, W), None),
    "strides": (lambda lib, x, w: conv(lib, x, w, stride=(1, 2, 3)), (X, W), None),
    "dilation": (lambda lib, x, w: conv(lib, x, w, dilation=0), (X, W), None),
    "padding": (lambda lib, x, w: conv(lib, x, w, padding=-1), (X, W), None),
    "paddings": (lambda lib, x, w: conv(lib, x, w, padding=(1, 2, 3)), (X, W), None),
    "word": (lambda lib, x, w: conv(lib, x, w, padding="foo"), (X, W), None),
    "strided same": (lambda lib, x, w: conv(lib, x, w, padding="same", stride=2), (X, W), None),
    "dtype of weight": (lambda lib, x, w: conv(lib, x, w.double()), (X, W), 85),
    "dtype of bias": (lambda lib, x, w: conv(lib, x, w, w[:, 0, 0, 0].double()), (X, W), None),
    "no number": (lambda lib, x, w: conv(lib, x, w, padding=1.5), (X, W), 8),
    "transposed channels": (lambda lib, x, w: transposed(lib, x, w[:3]), (X, T), None),
    "transposed groups": (lambda lib, x, w: transposed(lib, x, w, groups=3), (X, T), None),
    "transposed bias": (lambda lib, x, w: transposed(lib, x, w, w[:, 0, 0, 0]), (X, T), None),
    "transposed rank": (lambda lib, x, w: transposed(lib, x[0, 0], w), (X, T), None),
    "transposed word": (lambda lib, x, w: transposed(lib, x, w, padding="same"), (X, T), None),
    "transposed no extent": (lambda lib, x, w: transposed(lib, x[:, :, :0], w), (X, T), None),
    "output padding": (lambda lib, x, w: transposed(lib, x, w, output_padding=1), (X, T), None),
    "negative output padding": (
        lambda lib, x, w: transposed(lib, x, w, output_padding=-1),
        (X, T),
        None,
    ),
}


@pytest.mark.peers
@pytest.mark.parametrize("what", ERRORS)
def test_errors_are_torchs(what: str, both_raise: Any) -> None:
    call, arguments, start = ERRORS[what]
    both_raise(call, *arguments, start=start)


def test_unknown_keywords() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        F.conv2d(tg.tensor(X), tg.tensor(W), foo=1)  # type: ignore[call-arg]


def test_even_kernels_and_same_padding() -> None:
    with pytest.warns(UserWarning, match="Using padding='same' with even kernel lengths"):
        F.conv2d(tg.tensor(X), tg.tensor(W[:, :, :2, :2]), padding="same")


@pytest.mark.parametrize("size", [1, 3, 5])
def test_results_are_contiguous(size: int) -> None:
    """Whichever way it is computed: `view` works on what follows."""
    x, w, b = tg.ones(2, 4, 5, 5), tg.ones(6, 4, size, size), tg.ones(6)
    for out in (F.conv2d(x, w), F.conv2d(x, w, b), F.conv_transpose2d(x, w.transpose(0, 1), b)):
        assert out.is_contiguous()
        out.view(2, -1)


# Options, and the shapes of input and weight, for conv2d or conv_transpose2d.
COMPILED: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ("conv2d", (3, 2, 8, 8), (4, 2, 3, 3), {"padding": 1}),
    "strided": ("conv2d", (3, 2, 9, 8), (4, 2, 3, 3), {"padding": 1, "stride": (2, 3)}),
    "dilated": ("conv2d", (3, 2, 9, 8), (4, 2, 2, 3), {"dilation": (2, 1)}),
    "depthwise": ("conv2d", (3, 4, 6, 6), (4, 1, 3, 3), {"padding": 1, "groups": 4}),
    "grouped": ("conv2d", (3, 4, 6, 6), (6, 2, 3, 3), {"groups": 2}),
    "one by one": ("conv2d", (3, 4, 6, 6), (6, 4, 1, 1), {}),
    "whole image": ("conv2d", (3, 4, 6, 6), (6, 4, 6, 6), {}),
    "transposed": ("conv_transpose2d", (3, 4, 5, 4), (4, 3, 3, 3), {}),
    "transposed strided": (
        "conv_transpose2d",
        (3, 4, 5, 4),
        (4, 3, 4, 3),
        {"stride": 2, "padding": 1, "output_padding": (0, 1)},
    ),
    "transposed grouped": ("conv_transpose2d", (3, 4, 5, 4), (4, 1, 3, 2), {"groups": 2}),
}


@pytest.mark.parametrize("what", COMPILED)
def test_compiled_as_eager(what: str, rng: np.random.Generator) -> None:
    """Value, gradients and, here and there, gradients of gradients, natively."""
    name, *shapes, options = COMPILED[what]
    twice = what in ("depthwise", "transposed strided")

    def value_and_gradients(x: tg.Tensor, w: tg.Tensor) -> Any:
        out = getattr(F, name)(x, w, **options)
        grads = tg.autograd.grad((out * out).sum(), (x, w), create_graph=twice)
        if not twice:
            return out, *grads
        return out, *grads, *tg.autograd.grad(sum((g * g).sum() for g in grads), (x, w))

    compiled = tg.compile(value_and_gradients)
    for _ in range(2):
        inputs = [tg.tensor(rng.normal(size=s), requires_grad=True) for s in shapes]
        expected = value_and_gradients(*inputs)
        for a, b in zip(compiled(*inputs), expected, strict=True):
            a, b = a.detach().numpy(), b.detach().numpy()
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * abs(b).max())
    assert (compiled.stats.native, compiled.stats.interpreted) == (1, 0), compiled.explain()
