"""In-place operations: version counters, what they refuse, what they do to histories, shared storage of views."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tracegrad as tg


def leaf(*shape: int) -> tg.Tensor:
    values = np.arange(1.0, 1.0 + np.prod(shape, dtype=int)).reshape(shape)
    return tg.tensor(values, requires_grad=True)


def test_versions_are_counted_and_shared_with_views() -> None:
    x = tg.zeros(2, 3)
    view, alias, copy, hidden = x[0], x.detach(), x.clone(), x.data
    assert x._version == 0
    x.add_(1)
    view.mul_(2)
    alias[1] = 5.0
    assert [t._version for t in (x, view, alias, copy, hidden)] == [3, 3, 3, 0, 0]
    hidden.add_(1)
    assert (x._version, hidden._version) == (3, 1)
    np.testing.assert_array_equal(x.numpy(), [[3, 3, 3], [6, 6, 6]])


VIEWS: dict[str, Callable[[tg.Tensor], tg.Tensor]] = {
    "select": lambda x: x[1],
    "slice": lambda x: x[:, 1:],
    "step": lambda x: x[:, ::2],
    "transpose": lambda x: x.t(),
    "permute": lambda x: x.permute(1, 0),
    "view": lambda x: x.view(3, 2),
    "reshape": lambda x: x.reshape(6),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x.squeeze(),
    "none": lambda x: x[None],
    "ellipsis": lambda x: x[...],
    "flatten": lambda x: x.flatten(),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "unbind": lambda x: x.unbind()[0],
    "split": lambda x: x.split(2, 1)[1],
    "chunk": lambda x: x.chunk(2)[1],
    "diagonal": lambda x: x.diagonal(1),
    "diagonal of a transposed": lambda x: x.t().diagonal(-1),
    "windows": lambda x: x.unfold(1, 1, 2),
    "tensor_split": lambda x: x.tensor_split(2, 1)[1],
    "as_strided": lambda x: x.as_strided((2, 2), (3, 2), 0),
    "as_strided of a view": lambda x: x[1].as_strided((2,), (2,), 1),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "of a view": lambda x: x[1][1:].view(2, 1),
}


@pytest.mark.parametrize("make", VIEWS.values(), ids=VIEWS.keys())
def test_views_share_storage_both_ways(make: Callable[[tg.Tensor], tg.Tensor]) -> None:
    x = tg.arange(6.0).view(2, 3).clone()
    view = make(x)
    view.fill_(-1.0)
    assert (x == -1.0).sum().item() == view.numel()
    x.fill_(7.0)
    assert (view == 7.0).all()


# Cut off from the history, or one of several results, which may not be changed where gradients are recorded.
NOT_FOLLOWED = ("detach", "data", "unbind", "split", "chunk")


@pytest.mark.parametrize("make", [v for k, v in VIEWS.items() if k not in NOT_FOLLOWED])
def test_gradient_through_a_changed_view(make: Callable[[tg.Tensor], tg.Tensor]) -> None:
    """The part that was multiplied by 3 has gradient 3, the rest 1; the same read through base or view."""
    for read_view in (False, True):
        x = leaf(2, 3)
        y = x * 1
        view = make(y)
        view.mul_(3)
        expected = np.where(marked(make), 3.0, 0.0 if read_view else 1.0)
        (view if read_view else y).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), expected)


def marked(make: Callable[[tg.Tensor], tg.Tensor]) -> np.ndarray:
    x = tg.zeros(2, 3)
    make(x).fill_(1.0)
    return x.numpy().astype(bool)


def test_copies_share_nothing() -> None:
    x = tg.arange(6.0).view(2, 3).clone()
    index = tg.tensor([0, 1])
    for copy in (
        x.clone(),
        x[index],
        x[x > 1],
        x.flip(0),
        x.t().contiguous(),
        x.t().reshape(6),
        x.repeat(1, 1),
    ):
        copy.fill_(9.0)
    np.testing.assert_array_equal(x.numpy(), [[0, 1, 2], [3, 4, 5]])


def test_expanded_memory_cannot_be_written() -> None:
    x = tg.ones(3, 1).expand(3, 4)
    with pytest.raises(
        RuntimeError, match="more than one element of the written-to tensor refers to a single"
    ):
        x.add_(1)


# What is refused.


def test_leaves_that_require_grad() -> None:
    x = leaf(3)
    for change in (
        lambda: x.add_(1),
        lambda: x.sin_(),
        lambda: tg.sin_(x),
        lambda: x.zero_(),
        lambda: x.copy_(x),
    ):
        with pytest.raises(
            RuntimeError, match=r"^a leaf Variable that requires grad is being used in an in-place"
        ):
            change()
    for change in (lambda: x[0].add_(1), lambda: x.view(3).zero_(), lambda: x.__setitem__(0, 1.0)):
        with pytest.raises(
            RuntimeError, match=r"^a view of a leaf Variable that requires grad is being used"
        ):
            change()
    np.testing.assert_array_equal(x.detach().numpy(), [1, 2, 3])
    assert x._version == 0


def test_leaves_may_be_changed_without_grad_mode() -> None:
    x = leaf(3)
    with tg.no_grad():
        x.add_(1)
        x[0] = 10.0
        x.mul_(x.detach())
        x.copy_(x * 1)
    assert x.is_leaf
    assert x.requires_grad
    np.testing.assert_array_equal(x.detach().numpy(), [100, 9, 16])


def test_copying_a_parameter_without_grad_mode_gives_no_history() -> None:
    target, source = tg.zeros(3, dtype=tg.float64), leaf(3)
    with tg.no_grad():
        target.copy_(source)
    assert not target.requires_grad
    assert target.is_leaf


def test_views_made_without_grad_mode() -> None:
    x = leaf(3)
    with tg.no_grad():
        view = x[1:]
        view.add_(1)
    with pytest.raises(
        RuntimeError, match="A view was created in no_grad mode and is being modified inplace"
    ):
        view.add_(1)
    plain = tg.zeros(3, dtype=tg.float64)
    with tg.no_grad():
        view = plain[1:]
    view.add_(1)
    with pytest.raises(RuntimeError, match="A view was created in no_grad mode"):
        view.add_(x[0])


def test_saved_values_that_were_changed() -> None:
    """The error names what was changed, its versions, and both of the user's lines."""
    x = leaf(3)
    y = x * 2
    z = y.sin()  # saved here
    y.add_(1)  # changed here
    with pytest.raises(RuntimeError) as caught:
        z.sum().backward()
    first, *rest = str(caught.value).splitlines()
    assert first == (
        "one of the variables needed for gradient computation has been modified by an inplace operation: "
        "[torch.DoubleTensor [3]], which is output 0 of Add, is at version 1; expected version 0 "
        "instead. Hint: enable anomaly detection to find the operation that failed to compute its gradient, "
        "with torch.autograd.set_detect_anomaly(True, check_nan=False)."
    )
    assert "z = y.sin()  # saved here" in "\n".join(rest)
    assert "y.add_(1)  # changed here" in "\n".join(rest)


CHANGES: dict[str, Callable[[tg.Tensor], object]] = {
    "itself": lambda y: y.mul_(2),
    "a view": lambda y: y[0].mul_(2),
    "setitem": lambda y: y.__setitem__(0, 5.0),
    "detached": lambda y: y.detach().mul_(2),
    "without grad mode": lambda y: tg.no_grad()(y.mul_)(2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("save", ["operand", "result"])
def test_every_way_to_change_a_saved_value_is_noticed(
    change: Callable[[tg.Tensor], object], save: str
) -> None:
    x = leaf(3)
    y = x.exp()  # the rule of exp reads its result
    z = y * y if save == "operand" else y.sum()
    change(y)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (z.sum() + y.sum()).backward()


def test_changing_what_nobody_saved_is_fine() -> None:
    x = leaf(3)
    y = x + 1
    z = y.sum() + (y * 2.0).sum()
    y.mul_(5)
    (z + y.sum()).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [8.0, 8.0, 8.0])


def test_changes_behind_autograds_back() -> None:
    """`.data` is not counted, as in torch: the gradient is computed with the new value."""
    x = leaf(2)
    y = x * x
    x.data.fill_(10.0)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [20.0, 20.0])


# What happens to histories.


def test_the_old_value_counts_for_what_was_computed_before() -> None:
    x = leaf(2)
    y = x * 1
    before = y + 0.0
    y.mul_(3)
    after = y + 0.0
    (before + 10 * after).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [31.0, 31.0])


def test_overwriting_ends_the_history() -> None:
    for overwrite in (tg.Tensor.zero_, lambda y: y.fill_(3.0), lambda y: y.copy_(tg.ones(3))):
        x = leaf(3)
        y = x * x
        overwrite(y)
        assert y.requires_grad
        y.sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), np.zeros(3))


def test_buffers_take_over_the_history_of_what_is_written() -> None:
    x = leaf(3)
    buffer = tg.zeros(2, 3, dtype=tg.float64)
    row = buffer[1]
    for k in range(2):
        buffer[k] = x * (k + 1)
    assert buffer.requires_grad
    assert row.requires_grad
    (buffer.sum() + row.sum()).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [5.0, 5.0, 5.0])


def test_copy_from_a_leaf_is_recorded() -> None:
    x = leaf(3)
    y = tg.zeros(3, dtype=tg.float64)
    y.copy_(x)
    assert y.grad_fn is not None
    (y * y).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, 4.0, 6.0])


def test_mixed_dtypes_and_broadcasting() -> None:
    x = tg.zeros(2, 3, dtype=tg.float64, requires_grad=True)
    w = tg.tensor([1, 2, 3])
    y = x * 1
    y.add_(w).mul_(tg.tensor(2.0))
    assert y.dtype is tg.float64
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 3), 2.0))
    with pytest.raises(
        RuntimeError, match="result type Float can't be cast to the desired output type Long"
    ):
        w.add_(0.5)
    with pytest.raises(
        RuntimeError, match=r"output with shape .* doesn't match the broadcast shape"
    ):
        tg.zeros(3).add_(tg.zeros(2, 3))


def test_augmented_assignment() -> None:
    x = tg.ones(3)
    same = x
    x += 1
    x *= 3
    x -= 1
    x /= 2
    x **= 2
    x //= 2
    x %= 2
    assert x is same
    np.testing.assert_array_equal(x.numpy(), [1.0, 1.0, 1.0])
    y = leaf(3) * 1
    y[1:] += 1
    y[0] *= 5
    y.sum().backward()
    np.testing.assert_array_equal(y.detach().numpy(), [5, 3, 4])


def test_detach_in_place() -> None:
    x = leaf(3)
    y = x * 2
    assert y.detach_() is y
    assert y.is_leaf
    assert not y.requires_grad
    with pytest.raises(RuntimeError, match="Can't detach views in-place"):
        (x * 2)[0].detach_()


def test_requires_grad_of_results_cannot_be_taken_away() -> None:
    x = leaf(3)
    with pytest.raises(
        RuntimeError, match="you can only change requires_grad flags of leaf variables"
    ):
        (x * 2).requires_grad_(False)
    x.requires_grad = False
    assert not (x * 2).requires_grad
    with pytest.raises(
        RuntimeError, match="only Tensors of floating point dtype can require gradients"
    ):
        tg.tensor([1]).requires_grad_()


def test_out_arguments() -> None:
    x = tg.tensor([0.0, 1.0])
    out = tg.empty(2)
    assert tg.sin(x, out=out) is out
    np.testing.assert_array_equal(out.numpy(), np.sin(np.float32([0, 1])))
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        tg.sin(x.requires_grad_(), out=out)


def test_parts_overwritten_with_what_came_from_several_leaves() -> None:
    a, b, c = leaf(3), leaf(3), leaf(3)
    y = a * 1
    y[:].lerp_(b, c)
    assert y.grad_fn.name() == "CopySlices"
    y.sum().backward()
    np.testing.assert_array_equal(a.grad.numpy(), 1 - np.arange(1.0, 4.0))


def test_one_piece() -> None:
    """Functions that return several views may return one."""
    x = leaf(1, 3)
    for pieces in (x.unbind(), x.split(1), x.chunk(2)):
        assert len(pieces) == 1
        (gradient,) = tg.autograd.grad((pieces[0] * tg.tensor([1.0, 2.0, 3.0])).sum(), x)
        np.testing.assert_array_equal(gradient.numpy(), [[1, 2, 3]])
