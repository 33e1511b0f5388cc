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


# Modules that cannot be made, and calls that they refuse.
MODULES = """
nn.Conv2d(3, 4, 3, padding='same', stride=2)
nn.Conv2d(3, 4, 3, groups=2)
nn.Conv2d(4, 3, 3, groups=2)
nn.Conv2d(4, 4, 3, groups=0)
nn.Conv2d(4, 4, 3, padding='foo')
nn.ConvTranspose2d(4, 4, 3, padding_mode='reflect')
nn.Conv2d(3, 4, 3)(x)
nn.ConvTranspose2d(4, 4, 3)(x, output_size=(8, 8))
nn.ConvTranspose2d(4, 4, 3, stride=2)(x, output_size=(12,))
nn.ConvTranspose2d(4, 4, 3, stride=2)(x, output_size=(13, 12))
""".strip().splitlines()


@pytest.mark.peers
@pytest.mark.parametrize("text", MODULES)
def test_errors_of_modules_are_torchs(text: str, both_raise: Any) -> None:
    start = 30 if "'foo'" in text else None  # The words stand in a set, in any order.
    both_raise(lambda lib, x: eval(text, {"nn": lib.nn, "x": x}), X, start=start)


@pytest.mark.peers
def test_output_size(torch: Any, same_module: Any) -> None:
    ours, theirs = (lib.nn.ConvTranspose2d(4, 3, 3, stride=2) for lib in (tg, torch))
    same_module(ours, theirs)
    for size in ((11, 11), (12, 11), (2, 3, 12, 12)):
        a, b = ours(tg.tensor(X), output_size=size), theirs(torch.tensor(X), output_size=size)
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [tg.nn.Conv2d, tg.nn.ConvTranspose2d])
def test_beginning(make: Any) -> None:
    """Uniform in +-1/sqrt(fan in), weight and bias."""
    tg.manual_seed(3)
    layer = make(36, 40, 5, groups=4)
    fan_in = layer.weight[0].numel()
    for p in layer.parameters():
        values = p.detach().numpy() * np.sqrt(fan_in)
        assert abs(values).max() <= 1
        assert values.std() == pytest.approx(1 / np.sqrt(3), rel=0.3)
    assert abs(layer.weight.detach().numpy()).max() * np.sqrt(fan_in) > 0.99
    assert make(2, 2, 3, dtype=tg.float64).bias.dtype is tg.float64
