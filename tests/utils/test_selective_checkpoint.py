"""Selective checkpoints: which operations run again, against what torch does with the same policy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

import tracegrad as tg
from tracegrad.utils import checkpoint as tg_checkpoint
from tracegrad.utils.selective_checkpoint import Recalling

torch = pytest.importorskip("torch")
torch_checkpoint = pytest.importorskip("torch.utils.checkpoint")
pytestmark = pytest.mark.peers

Program = Callable[[Any, Any, list[Any]], Any]
PROGRAMS: dict[str, Program] = {}


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


def plain(value: Any) -> Any:
    if isinstance(value, (tg.Tensor, torch.Tensor)):
        return [round(x, 9) for x in value.reshape(-1).tolist()]
    return [plain(x) for x in value] if isinstance(value, (list, tuple)) else value


def outcome(m: Any, c: Any, run: Program) -> Any:
    log: list[Any] = []
    try:
        result = plain(run(m, c, log))
    except Exception as error:
        result = type(error).__name__, str(error).partition("\n")[0]
    return result, plain(log)


def leaf(m: Any) -> Any:
    return m.tensor([[1.0, 2.0], [0.5, 0.25]], dtype=m.float64, requires_grad=True)


def named(m: Any, name: str) -> Any:
    """How a list names an operation."""
    return name.replace("mm", "matmul") if m is tg else getattr(torch.ops.aten, name).default


def name_of(op: Any) -> str:
    """The name of an operation that a policy is asked about."""
    return op.replace("matmul", "mm") if isinstance(op, str) else op.name().split(":")[-1]


def selective(c: Any, function: Any, *args: Any, keep: Any, **options: Any) -> Any:
    contexts = functools.partial(c.create_selective_checkpoint_contexts, keep, **options)
    return c.checkpoint(function, *args, use_reentrant=False, context_fn=contexts)


def both(x: Any, w: Any) -> Any:
    return ((x @ w).sin() @ w).exp() @ x


for kept in ([], ["mm"], ["sin"], ["mm", "exp"], ["sin", "exp"]):

    def run(m: Any, c: Any, log: list[Any], kept: list[str] = kept) -> Any:
        x, w = leaf(m), leaf(m)
        out = selective(c, both, x, w, keep=[named(m, name) for name in kept])
        out.sum().backward()
        return out, x.grad, w.grad

    PROGRAMS[f"keep {kept}"] = run


@program
def policies(m: Any, c: Any, log: list[Any]) -> Any:
    replies = [*c.CheckpointPolicy, True, False]
    log.append([policy.name for policy in c.CheckpointPolicy])
    found = []
    for reply in replies[:4] + replies[-2:]:
        x, w = leaf(m), leaf(m)

        def policy(ctx: Any, op: Any, *args: Any, reply: Any = reply, **kwargs: Any) -> Any:
            if name_of(op) in ("mm", "sin", "exp"):
                log.append((name_of(op), ctx.is_recompute, ctx.op_output, args))
            return reply

        out = selective(c, both, x, w, keep=policy)
        log.append("backward")
        out.sum().backward()
        found.append([out, x.grad, w.grad])
    return found


@program
def twice(m: Any, c: Any, log: list[Any]) -> Any:
    x, w = leaf(m), leaf(m)
    out = selective(c, both, x, w, keep=[named(m, "sin")]).sum()
    out.backward(retain_graph=True)
    log.append(x.grad)
    out.backward()


@program
def twice_with_nothing_kept(m: Any, c: Any, log: list[Any]) -> Any:
    x, w = leaf(m), leaf(m)
    out = selective(c, both, x, w, keep=[]).sum()
    out.backward(retain_graph=True)
    out.backward()
    return x.grad


@program
def changed_in_place(m: Any, c: Any, log: list[Any]) -> Any:
    def change(x: Any) -> Any:
        y = x.sin()
        z = y.exp()
        y.detach().mul_(2)
        return z.sin()

    x = leaf(m)
    selective(c, change, x, keep=[named(m, "sin")]).sum().backward()


@program
def changed_in_place_and_allowed(m: Any, c: Any, log: list[Any]) -> Any:
    def change(x: Any) -> Any:
        y = x.sin()
        z = y.exp()
        y.detach().mul_(1)
        return z.sin()

    x = leaf(m)
    keep = [named(m, "sin")]
    selective(c, change, x, keep=keep, allow_cache_entry_mutation=True).sum().backward()
    return x.grad


@program
def what_is_no_policy(m: Any, c: Any, log: list[Any]) -> Any:
    c.create_selective_checkpoint_contexts(3)


@program
def without_grad(m: Any, c: Any, log: list[Any]) -> Any:
    with m.no_grad():
        return selective(c, both, leaf(m), leaf(m), keep=[named(m, "sin")])


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_torch(name: str) -> None:
    ours = outcome(tg, tg_checkpoint, PROGRAMS[name])
    assert ours == outcome(torch, torch_checkpoint, PROGRAMS[name])


@pytest.mark.parametrize("keep", [[], ["sin"], ["matmul", "exp"]])
def test_what_was_kept_is_not_computed_again(keep: list[str], monkeypatch: Any) -> None:
    given: list[str] = []
    recall = Recalling.recall

    def watched(self: Any, op: Any) -> Any:
        found = recall(self, op)
        if found is not None:
            given.append(op.name)
        return found

    monkeypatch.setattr(Recalling, "recall", watched)
    selective(tg_checkpoint, both, leaf(tg), leaf(tg), keep=keep).sum().backward()
    assert sorted(set(given)) == sorted(keep)
    assert len(given) == sum({"matmul": 3}.get(name, 1) for name in keep)


def test_other_operations_than_in_the_forward_pass() -> None:
    turns: list[int] = []

    def function(x: Any) -> Any:
        turns.append(1)
        return x.sin().exp() if len(turns) == 1 else x.sin().cos()

    out = selective(tg_checkpoint, function, leaf(tg), keep=["sin"])
    with pytest.raises(
        RuntimeError, match="cos encountered during backward but not found in storage"
    ):
        out.sum().backward()


def test_names_that_no_operation_has() -> None:
    with pytest.raises(ValueError, match="Expected op in `op_list` to be the name of an operation"):
        tg_checkpoint.create_selective_checkpoint_contexts(["softmax of all"])
