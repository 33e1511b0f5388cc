"""Random programs of views, in-place writes, hooks, modes and backward calls, against a reference plainly right.

The reference, `Naive`, knows neither views nor records. A tensor is a list of positions in a memory, and every
element of the memory carries its derivatives with respect to all elements of the leaves (a dual number). Writing
through a view writes at its positions; detaching gives the same memory without derivatives.

Hypothesis runs the programs as a state machine, so that a failure is printed as a short program. Where tracegrad
refuses a step with one of torch's sentences there is nothing to compare.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from helpers import examples
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

import tracegrad as tg

POINT = np.array([[0.5, -1.25, 0.75, 2.0], [1.5, 0.25, -0.5, 1.0]])


class Naive:
    """What a tensor is: positions in a memory, whose elements carry their derivatives.

    Attributes:
        values: of all elements of the memory.
        slopes: for each its derivatives with respect to the leaf; shared by a tensor and its views.
        positions: of the elements of this tensor, in its shape.
    """

    def __init__(self, values: np.ndarray, slopes: np.ndarray, positions: np.ndarray) -> None:
        self.values = values
        self.slopes = slopes
        self.positions = positions

    @staticmethod
    def fresh(values: np.ndarray, slopes: np.ndarray) -> Naive:
        positions = np.arange(values.size).reshape(values.shape)
        return Naive(values.reshape(-1).copy(), slopes.reshape(-1, POINT.size).copy(), positions)

    def view(self, take: Callable[[np.ndarray], np.ndarray]) -> Naive:
        return Naive(self.values, self.slopes, take(self.positions))

    def detach(self) -> Naive:
        return Naive(self.values, np.zeros_like(self.slopes), self.positions)

    def read(self) -> Dual:
        return Dual(self.values[self.positions], self.slopes[self.positions])

    def write(self, new: Dual, recorded: bool) -> None:
        self.values[self.positions] = new.value
        if recorded:  # Else autograd goes on as if nothing had happened.
            self.slopes[self.positions] = new.slope


class Dual(NamedTuple):
    """Values of any shape with their derivatives, along one more axis."""

    value: np.ndarray
    slope: np.ndarray

    def __add__(self, other: Any) -> Dual:
        if not isinstance(other, Dual):
            return Dual(self.value + other, self.slope)
        return Dual(self.value + other.value, self.slope + other.slope)

    def __mul__(self, other: Any) -> Dual:
        if not isinstance(other, Dual):
            return Dual(self.value * other, self.slope * other)
        left, right = self.slope * other.value[..., None], self.value[..., None] * other.slope
        return Dual(self.value * other.value, left + right)

    def sin(self) -> Dual:
        return Dual(np.sin(self.value), self.slope * np.cos(self.value)[..., None])

    def sum(self) -> Dual:
        axes = tuple(range(self.value.ndim))
        return Dual(self.value.sum(), self.slope.sum(axes))

    def broadcast(self, shape: tuple[int, ...]) -> Dual:
        slope = np.broadcast_to(self.slope, (*shape, POINT.size))
        return Dual(np.broadcast_to(self.value, shape), slope)


class Pair(NamedTuple):
    """A tensor of tracegrad's, and what it is compared with: a `Naive`."""

    ours: Any
    other: Any

    def __repr__(self) -> str:
        return f"<{tuple(self.ours.shape)}>"


# Views: of a tensor, and of the positions.
VIEWS: dict[str, tuple[Callable[[Any, int], Any], Callable[[np.ndarray, int], np.ndarray]]] = {
    "x[k]": (lambda x, k: x[k % x.shape[0]], lambda p, k: p[k % p.shape[0]]),
    "x[k:]": (lambda x, k: x[k:], lambda p, k: p[k:]),
    "x[..., ::2]": (lambda x, k: x[..., ::2], lambda p, k: p[..., ::2]),
    "x[:, None]": (lambda x, k: x[:, None], lambda p, k: p[:, None]),
    "x.t()": (lambda x, k: x.t(), lambda p, k: p.T if p.ndim < 3 else np.empty((0, 0, 0))[9]),
    "x.view(-1)": (lambda x, k: x.view(-1), lambda p, k: p.reshape(-1)),
    "x.narrow(-1, k, 1)": (
        lambda x, k: x.narrow(-1, k, 1),
        lambda p, k: p[..., [k]],
    ),
    "x.diagonal()": (lambda x, k: x.diagonal(k - 1), lambda p, k: np.diagonal(p, k - 1)),
    "x.unfold(-1, 2, k + 1)": (
        lambda x, k: x.unfold(-1, 2, k + 1),
        lambda p, k: np.lib.stride_tricks.sliding_window_view(p, 2, -1)[..., :: k + 1, :],
    ),
    "x.unsqueeze(0).squeeze(0)": (lambda x, k: x.unsqueeze(0).squeeze(0), lambda p, k: p),
    "x.expand(2, ...)": (
        lambda x, k: x.expand(2, *x.shape),
        lambda p, k: np.broadcast_to(p, (2, *p.shape)),
    ),
    "x.tensor_split(2)[k]": (
        lambda x, k: x.tensor_split(2)[k % 2],
        lambda p, k: np.array_split(p, 2)[k % 2],
    ),
}
PIECES: dict[str, tuple[Callable[[Any], Any], Callable[[np.ndarray], list[np.ndarray]]]] = {
    "unbind": (lambda x: x.unbind(), list),
    "split": (lambda x: x.split(1), lambda p: np.split(p, p.shape[0])),
    "chunk": (lambda x: x.chunk(2), lambda p: np.array_split(p, min(2, len(p)))),
}

# Results from values x and y of one shape. The words are the same for tensors and duals.
RESULTS: dict[str, Callable[[Any, Any], Any]] = {
    "x * 0.5": lambda x, y: x * 0.5,
    "x + y": lambda x, y: x + y,
    "x * y": lambda x, y: x * y,
    "sin(x)": lambda x, y: x.sin(),
    "x * x": lambda x, y: x * x,
}
# In-place operations, and what the tensor holds afterwards.
CHANGES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "x.mul_(0.5)": (lambda x, y: x.mul_(0.5), lambda x, y: x * 0.5),
    "x += 1": (lambda x, y: x.__iadd__(1), lambda x, y: x + 1.0),
    "x.add_(y)": (lambda x, y: x.add_(y), lambda x, y: x + y),
    "x.mul_(y)": (lambda x, y: x.mul_(y), lambda x, y: x * y),
    "x.sin_()": (lambda x, y: x.sin_(), lambda x, y: x.sin()),
    "x.copy_(y)": (lambda x, y: x.copy_(y), lambda x, y: y + x * 0.0),
    "x.zero_()": (lambda x, y: x.zero_(), lambda x, y: x * 0.0),
    "x.fill_(2)": (lambda x, y: x.fill_(2.0), lambda x, y: x * 0.0 + 2.0),
    "x[...] = y": (lambda x, y: x.__setitem__(..., y), lambda x, y: y + x * 0.0),
}

REFUSALS = (
    "modified by an inplace operation",
    "made in no_grad mode",
    "no_grad mode",
    "returns multiple views",
    "leaf Variable that requires grad",
    "refer to a single memory location",
    "refers to a single memory location",
    "does not require grad",
    "spans across two contiguous subspaces",
)
small = st.integers(0, 2)


class RefusedError(Exception):
    """A step that the library refuses, with its sentence."""


def attempt(step: Callable[[], Any]) -> Any:
    """Carry out a step.

    Raises:
        RefusedError: with one of the sentences that are known.
    """
    try:
        return step()
    except RuntimeError as error:
        sentence = str(error).splitlines()[0]
        assert any(refusal in sentence for refusal in REFUSALS), sentence
        raise RefusedError(sentence) from None


class Machine(RuleBasedStateMachine):
    """The programs. Subclasses say what tracegrad is compared with, by four methods."""

    tensors = Bundle("tensors")

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[Pair] = []
        self.leaf = self.new_leaf()

    # What a subclass defines: each carries out a step in both worlds, or in none.

    def new_leaf(self) -> Pair:
        raise NotImplementedError

    def take(self, x: Pair, ours: Callable[[Any], Any], take: Callable[..., Any]) -> list[Pair]:
        raise NotImplementedError

    def compute(self, x: Pair, y: Pair, name: str, factor: float) -> Pair:
        raise NotImplementedError

    def change(self, x: Pair, y: Pair, name: str, recorded: bool) -> None:
        raise NotImplementedError

    def backward(self, x: Pair) -> None:
        raise NotImplementedError

    # The steps.

    def _keep(self, pairs: list[Pair]) -> Any:
        self.pairs += pairs
        return multiple(*pairs)

    @initialize(target=tensors)
    def start(self) -> Any:
        plain = Pair(self.leaf.ours, self.leaf.other)
        return self._keep([plain, *[self.compute(plain, plain, "x * 0.5", 1.0) for _ in range(2)]])

    @rule(
        target=tensors, x=tensors, name=st.sampled_from(list(VIEWS)), k=small, no_grad=st.booleans()
    )
    def view(self, x: Pair, name: str, k: int, no_grad: bool) -> Any:
        ours, positions = VIEWS[name]
        shape = np.empty(tuple(x.ours.shape))
        try:
            if positions(shape, k).size == 0:
                return multiple()
        except (IndexError, ValueError):
            return multiple()
        with contextlib.suppress(RefusedError):
            return self._keep(
                self.take(x, lambda t: [ours(t, k)], lambda p: [positions(p, k)], no_grad)
            )
        return multiple()

    @rule(target=tensors, x=tensors, name=st.sampled_from(list(PIECES)))
    def pieces(self, x: Pair, name: str) -> Any:
        if not x.ours.ndim or not x.ours.numel():
            return multiple()
        ours, positions = PIECES[name]
        with contextlib.suppress(RefusedError):
            return self._keep(self.take(x, ours, positions, False)[:2])
        return multiple()

    @rule(target=tensors, x=tensors)
    def detach(self, x: Pair) -> Any:
        return self._keep(self.take(x, lambda t: [t.detach()], None, False))

    @rule(
        target=tensors,
        x=tensors,
        y=tensors,
        name=st.sampled_from(list(RESULTS)),
        factor=st.sampled_from([1.0, 1.0, 3.0]),
    )
    def result(self, x: Pair, y: Pair, name: str, factor: float) -> Any:
        """A result; a hook multiplies its gradient by `factor`."""
        with contextlib.suppress(RefusedError):
            return self._keep([self.compute(x, y, name, factor)])
        return multiple()

    @rule(x=tensors, y=tensors, name=st.sampled_from(list(CHANGES)), no_grad=st.booleans())
    def change_in_place(self, x: Pair, y: Pair, name: str, no_grad: bool) -> None:
        with contextlib.suppress(RefusedError):
            self.change(x, y, name, not no_grad)

    @rule(x=tensors)
    def differentiate(self, x: Pair) -> None:
        with contextlib.suppress(RefusedError):
            self.backward(x)

    @invariant()
    def same_values(self) -> None:
        for pair in self.pairs:
            np.testing.assert_allclose(
                pair.ours.detach().numpy(), self.values_of(pair.other), rtol=1e-9, atol=1e-12
            )

    def values_of(self, other: Any) -> np.ndarray:
        raise NotImplementedError


def fitting(x: Any, y: Any) -> Any:
    """The second operand: of the shape of the first, or one number."""
    return y if tuple(x.shape) == tuple(y.shape) else y.sum() * 0.25


def mode(module: Any, no_grad: bool) -> Any:
    return module.no_grad() if no_grad else contextlib.nullcontext()


def run_result(x: Any, y: Any, name: str, factor: float) -> Any:
    out = RESULTS[name](x, fitting(x, y))
    if factor != 1.0 and out.requires_grad:
        out.register_hook(lambda g: g * factor)
    return out


def run_backward(x: Any, leaf: Any) -> np.ndarray:
    """The gradient of the sum of all elements, each with another weight."""
    leaf.grad = None
    weights = np.arange(1.0, 1.0 + x.numel()).reshape(tuple(x.shape))
    x.backward(x.new_tensor(weights), retain_graph=True)
    return np.zeros_like(POINT) if leaf.grad is None else leaf.grad.numpy()


class AgainstReference(Machine):
    """Values and gradients are those of the reference, wherever no step is refused."""

    def new_leaf(self) -> Pair:
        naive = Naive.fresh(POINT, np.eye(POINT.size).reshape(*POINT.shape, POINT.size))
        return Pair(tg.tensor(POINT, requires_grad=True), naive)

    def take(self, x: Pair, ours: Any, take: Any, no_grad: bool) -> list[Pair]:
        with mode(tg, no_grad):
            made = attempt(lambda: ours(x.ours))
        source = x.other.detach() if take is None or no_grad else x.other
        taken = [source.positions] if take is None else take(source.positions)
        return [
            Pair(a, Naive(source.values, source.slopes, p))
            for a, p in zip(made, taken, strict=True)
        ]

    def operands(self, x: Pair, y: Pair) -> tuple[Dual, Dual]:
        left, right = x.other.read(), y.other.read()
        if left.value.shape != right.value.shape:
            right = (right.sum() * 0.25).broadcast(left.value.shape)
        return left, right

    def compute(self, x: Pair, y: Pair, name: str, factor: float) -> Pair:
        out = attempt(lambda: run_result(x.ours, y.ours, name, factor))
        dual = RESULTS[name](*self.operands(x, y))
        return Pair(out, Naive.fresh(np.asarray(dual.value), np.asarray(dual.slope) * factor))

    def change(self, x: Pair, y: Pair, name: str, recorded: bool) -> None:
        with mode(tg, not recorded):
            attempt(lambda: CHANGES[name][0](x.ours, fitting(x.ours, y.ours)))
        x.other.write(CHANGES[name][1](*self.operands(x, y)), recorded)

    def backward(self, x: Pair) -> None:
        found = attempt(lambda: run_backward(x.ours, self.leaf.ours))
        slopes = x.other.read().slope.reshape(-1, POINT.size)
        expected = np.arange(1.0, 1.0 + slopes.shape[0]) @ slopes
        np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-9, atol=1e-9)

    def values_of(self, other: Naive) -> np.ndarray:
        return other.read().value


def run(machine: type[Machine], count: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            examples(count),
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_against_the_reference() -> None:
    run(AgainstReference, 60)
