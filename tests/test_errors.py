"""What users see when something is wrong: torch's sentences, torch's exceptions, and never a crash.

`SENTENCES` holds, verbatim, the sentences that people search for and that their tests match; they come first in
the message, before tracegrad's own hints. The fuzzers call everything with everything.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracegrad as tg
from tracegrad import methods

FREED = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they have already "
    "been freed). Saved intermediate values of the graph are freed when you call .backward() or autograd.grad(). "
    "Specify retain_graph=True if you need to backward through the graph a second time or if you need to access "
    "saved tensors after calling backward."
)


def leaf(*shape: int) -> tg.Tensor:
    return tg.ones(*shape, requires_grad=True)


def backward_twice() -> None:
    y = (leaf(2) ** 2).sum()
    y.backward()
    y.backward()


def saved_after_backward() -> None:
    y = leaf(2).exp()
    y.sum().backward()
    _ = y.grad_fn._saved_result


def changed_in_place() -> None:
    y = leaf(2, 3).exp()
    z = y.sin()
    y.add_(1)
    y.add_(1)
    z.sum().backward()


def unused_input() -> None:
    tg.autograd.grad(leaf(2).sum(), leaf(2))


SENTENCES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no grad": (
        lambda: tg.ones(2).sum().backward(),
        RuntimeError,
        "element 0 of tensors does not require grad and does not have a grad_fn",
    ),
    "second of several": (
        lambda: tg.autograd.backward([leaf(2).sum(), tg.ones(2).sum()]),
        RuntimeError,
        "element 1 of tensors does not require grad and does not have a grad_fn",
    ),
    "not scalar": (
        lambda: (leaf(2) * 2).backward(),
        RuntimeError,
        "grad can be implicitly created only for scalar outputs",
    ),
    "freed": (backward_twice, RuntimeError, FREED),
    "freed, looked at": (saved_after_backward, RuntimeError, FREED),
    "changed in place": (
        changed_in_place,
        RuntimeError,
        "one of the variables needed for gradient computation has been modified by an inplace operation: "
        "[torch.FloatTensor [2, 3]], which is output 0 of Add, is at version 2; expected version 0 "
        "instead. Hint: enable anomaly detection to find the operation that failed to compute its gradient, with "
        "torch.autograd.set_detect_anomaly(True, check_nan=False).",
    ),
    "leaf": (
        lambda: leaf(2).add_(1),
        RuntimeError,
        "a leaf Variable that requires grad is being used in an in-place operation.",
    ),
    "leaf function": (
        lambda: tg.sin_(leaf(2)),
        RuntimeError,
        "a leaf Variable that requires grad is being used in an in-place operation.",
    ),
    "view of a leaf": (
        lambda: leaf(2)[0].add_(1),
        RuntimeError,
        "a view of a leaf Variable that requires grad is being used in an in-place operation.",
    ),
    "numpy": (
        lambda: leaf(2).numpy(),
        RuntimeError,
        "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.",
    ),
    "array": (
        lambda: np.asarray(leaf(2) * 2),
        RuntimeError,
        "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.",
    ),
    "unused": (
        unused_input,
        RuntimeError,
        "The differentiated Tensor at index 0 appears to not have been used in the graph. Set allow_unused=True if "
        "this is the desired behavior.",
    ),
    "ambiguous": (
        lambda: bool(tg.ones(2)),
        RuntimeError,
        "Boolean value of Tensor with more than one value is ambiguous",
    ),
    "ambiguous, if": (
        lambda: 1 if tg.ones(2) > 0 else 2,
        RuntimeError,
        "Boolean value of Tensor with more than one value is ambiguous",
    ),
    "integers": (
        lambda: tg.tensor([1], requires_grad=True),
        RuntimeError,
        "Only Tensors of floating point and complex dtype can require gradients",
    ),
    "matrix product": (
        lambda: tg.ones(2, 3) @ tg.ones(4, 5),
        RuntimeError,
        "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    ),
    "sizes": (
        lambda: tg.ones(3) + tg.ones(4),
        RuntimeError,
        "The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0",
    ),
    "sizes, gradients on": (
        lambda: leaf(3) * leaf(4),
        RuntimeError,
        "The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0",
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences(name: str) -> None:
    call, kind, sentence = SENTENCES[name]
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert str(caught.value).splitlines()[0] == sentence


def test_sentences_can_be_matched_as_with_torch() -> None:
    """pytest's `match` and a search of the message find them, hints or not."""
    with pytest.raises(RuntimeError, match=re.escape(FREED)):
        backward_twice()
    with pytest.raises(
        RuntimeError, match=r"modified by an inplace operation: .*is at version 2; expected"
    ):
        changed_in_place()


def test_errors_leave_no_trace() -> None:
    """After an error modes and values are what they were."""
    x = leaf(2)
    y = x * 2
    with pytest.raises(RuntimeError):
        y.backward()
    with pytest.raises(RuntimeError):
        y.add_(tg.ones(3))
    assert tg.is_grad_enabled()
    assert y._version == 0
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]


def test_numpy_warnings_are_silent_as_in_torch() -> None:
    """Division by zero and overflow give inf and nan; the user's own NumPy settings stay as they are."""
    x = tg.tensor([1.0, 0.0, -1.0], requires_grad=True)
    with np.errstate(all="raise"):
        y = 1 / x.detach() + (x.detach() * 1e38 * 1e38).log() + x.detach().sqrt()
        (x / 0.0).sum().backward()
        with pytest.raises(FloatingPointError):
            np.float64(1) / np.zeros(1)
    assert not np.isfinite(y.numpy()).all()


# Everything with everything.

# Bad arguments end in one of these, never in anything else.
PYTHON_ERRORS = (
    RuntimeError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    MemoryError,
)

NAMES = sorted(
    {
        *methods.ELEMENTWISE, *methods.REDUCTIONS, *methods.SHAPING, *methods.LINALG, *methods.INDEXING,
        *methods.CONVERSIONS, "where", "cat", "stack", "new_zeros", "new_full", "backward", "retain_grad",
    }
    | {name + "_" for name in methods.IN_PLACE}
)  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn) -> tg.Tensor:
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    dtype = draw(st.sampled_from([tg.float32, tg.float64, tg.int64, tg.uint8, tg.bool]))
    x = tg.ones(shape, dtype=dtype)
    if dtype in (tg.float32, tg.float64) and draw(st.booleans()):
        x.requires_grad_()
        if draw(st.booleans()):
            x = x * 1
    return x


arguments = (
    tensors()
    | st.integers(-4, 4)
    | st.sampled_from([None, 2.5, float("nan"), "a", True, (), [], (0, 1), slice(1), object()])
    | st.sampled_from([[tg.ones(2)], tg.float32])
    # Sizes that no machine has, so that asking for them is refused at once.
    | st.sampled_from([2**45, -(2**45), 2**63, -(2**63), 2**70])
)


@given(st.sampled_from(NAMES), tensors(), st.lists(arguments, max_size=3))
@settings(max_examples=3000)
@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_raise_python_exceptions(name: str, x: tg.Tensor, rest: list[Any]) -> None:
    function = getattr(x, name) if hasattr(x, name) else functools.partial(getattr(tg, name), x)
    with contextlib.suppress(*PYTHON_ERRORS):
        function(*rest)
    assert tg.is_grad_enabled()


@given(tensors(), st.lists(arguments, min_size=1, max_size=3), arguments)
@settings(max_examples=800)
def test_bad_indices_raise_python_exceptions(x: tg.Tensor, items: list[Any], value: Any) -> None:
    key = items[0] if len(items) == 1 else tuple(items)
    for attempt in (lambda: x[key], lambda: x.__setitem__(key, value)):
        with contextlib.suppress(*PYTHON_ERRORS):
            attempt()


FACTORIES = (
    "tensor",
    "zeros",
    "ones",
    "full",
    "arange",
    "linspace",
    "eye",
    "rand",
    "randn",
    "randint",
    "as_tensor",
)


small = arguments.filter(lambda a: not isinstance(a, int) or abs(a) < 9)


@given(st.sampled_from(FACTORIES), st.lists(small, max_size=3))
@settings(max_examples=800)
def test_bad_sizes_raise_python_exceptions(name: str, args: list[Any]) -> None:
    with contextlib.suppress(*PYTHON_ERRORS):
        getattr(tg, name)(*args)


OPERATORS = (
    "__add__",
    "__rsub__",
    "__mul__",
    "__truediv__",
    "__matmul__",
    "__pow__",
    "__iadd__",
    "__lt__",
    "__and__",
)


@given(st.sampled_from(OPERATORS), tensors(), arguments)
@settings(max_examples=800)
def test_operators_with_anything(name: str, x: tg.Tensor, other: Any) -> None:
    with contextlib.suppress(*PYTHON_ERRORS):
        getattr(x, name)(other)
