"""What a record shows of what it saved, ``_saved_...``, against torch: names and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
from torch_programs import plain  # noqa: E402

pytestmark = pytest.mark.peers

SAVED: dict[str, tuple[str, Callable[[Any, Any, Any], Any]]] = {
    "mul": ("self other", lambda m, x, y: x * y),
    "div": ("other", lambda m, x, y: x / y),
    "sin": ("self", lambda m, x, y: x.sin()),
    "sqrt": ("result", lambda m, x, y: x.sqrt()),
    "where": ("condition", lambda m, x, y: m.where(x > 2, x, y)),
    "mm": ("self mat2", lambda m, x, y: x @ y),
    "bmm": ("self mat2", lambda m, x, y: m.bmm(x.expand(3, 2, 2), y.expand(3, 2, 2))),
    "power of tensors": ("self exponent result", lambda m, x, y: x**y),
    "power of a number": ("self exponent", lambda m, x, y: x**3),
    "cumsum": ("dim", lambda m, x, y: x.cumsum(1)),
    "permute": ("dims", lambda m, x, y: x.permute(1, 0)),
    "sum": ("self_sym_sizes", lambda m, x, y: x.sum()),
    "view": ("self_sym_sizes", lambda m, x, y: x.view(4)),
    "expand": ("self_sym_sizes", lambda m, x, y: x.expand(3, 2, 2)),
}


@pytest.mark.parametrize("name", SAVED)
def test_saved_attributes(name: str) -> None:
    attributes, run = SAVED[name]
    found = []
    for m in (tg, torch):
        x = m.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        y = m.tensor([[2.0, 1.0], [2.0, 0.5]], requires_grad=True)
        record = run(m, x, y).grad_fn
        values = [plain(getattr(record, f"_saved_{a}")) for a in attributes.split()]
        found.append((record.name(), values))
    assert found[0] == found[1]


def test_what_a_record_does_not_have() -> None:
    x = tg.ones(2, requires_grad=True)
    with pytest.raises(AttributeError, match="_saved_nothing"):
        _ = (x * x).grad_fn._saved_nothing


# Programs, and after the bar what torch's record of the result shows besides. That is: what a composition of ops
# here does not save in the form of torch's, and arguments of views and pieces, whose records have to be made fast.
PROGRAMS = """
x + y
x + 2
x - y
x * y
x * 2
2 * x
x / y
x / 2
2 / x
-x
x ** 2
x ** y
2 ** x | self
x.exp()
x.log()
x.log2()
x.log1p()
x.sin()
x.cos()
x.tan()
x.tanh()
x.sigmoid()
x.sqrt()
x.rsqrt()
x.reciprocal() | result
x.abs()
x.relu()
x.erf()
x.sum()
x.sum(0)
x.sum(1, keepdim=True)
x.mean()
x.mean(0)
x.prod() | result self
x.prod(0) | dim keepdim result
x.max()
x.max(0)[0] | dim indices keepdim self_sym_sizes
x.min(1)[0] | dim indices keepdim self_sym_sizes
x.amax(0)
x.amin((0,1))
x.var() | correction dim keepdim self
x.std() | correction dim keepdim self
x.var(0) | correction dim keepdim self
x.logsumexp(0) | dim keepdim result self
x.norm() | dim keepdim ord result self
x.cumsum(0)
x.cumprod(0) | dim
x.softmax(0)
x.log_softmax(1)
x.view(4)
x.reshape(4)
x.t()
x.permute(1, 0)
x.transpose(0, 1)
x.expand(3, 2, 2)
x.unsqueeze(0)
x[None].squeeze(0)
x[None].squeeze()
x.clone()
x[0] | dim index self_sym_sizes
x[:, 1:] | dim end self_sym_sizes start step
x[t.tensor([0, 1])] | indices self_sym_sizes
x.select(0, 1) | dim index self_sym_sizes
x.narrow(0, 0, 1) | dim end self_sym_sizes start step
x.index_select(0, t.tensor([0])) | dim index self_sym_sizes
x.gather(0, t.tensor([[0, 1]])) | dim self sparse_grad
x.diagonal() | self_sym_sizes
x.flip(0)
x.roll(1, 0) | dims shifts
x.repeat(2, 1) | repeats self_sym_sizes
x.unfold(0, 2, 1) | self_sym_sizes
x.masked_fill(x > 2, 0) | mask
t.where(x > 2, x, y)
t.cat([x, y])
t.stack([x, y]) | dim
x @ y | mat2_sym_sizes mat2_sym_strides self_sym_sizes self_sym_strides
x @ y[0] | self vec
x.mv(y[0]) | self vec
t.bmm(x[None], y[None])
t.addmm(x, y, y) | alpha beta mat1_sym_sizes mat1_sym_strides mat2_sym_sizes mat2_sym_strides
t.dot(x[0], y[0]) | self tensor
t.outer(x[0], y[0])
x.clamp(0, 2) | max min self
x.clamp(min=0) | max min self
t.maximum(x, y)
t.minimum(x, y)
x.sort(0)[0] | dim indices self_sym_sizes
x.topk(1)[0] | dim indices self_sym_sizes
x.split(1)[0] | dim self_sym_sizes split_size
x.chunk(2)[1] | dim self_sym_sizes split_size
x.unbind(0)[1] | dim
x.to(t.float64)
x.detach().requires_grad_().mul(y)
t.add(x, y, alpha=2) | alpha
t.sub(x, y, alpha=3) | alpha
t.atan2(x, y)
t.lerp(x, y, 0.5) | weight
t.addcmul(x, x, y, value=2) | tensor1 tensor2 value
F.linear(x, y) | mat2_sym_sizes mat2_sym_strides self_sym_sizes self_sym_strides
F.linear(x, y, y[0]) | alpha beta mat1_sym_sizes mat1_sym_strides mat2_sym_sizes mat2_sym_strides
F.mse_loss(x, y) | reduction self target
F.nll_loss(x, t.tensor([0, 1])) | ignore_index reduction self total_weight weight
F.cross_entropy(x, t.tensor([0, 1])) | ignore_index reduction self total_weight weight
F.gelu(x) | approximate self
F.elu(x) | alpha input_scale scale self
F.leaky_relu(x) | negative_slope self
F.softplus(x) | beta self threshold
F.layer_norm(x, (2,)) | bias input normalized_shape result1 result2 weight
F.embedding(t.tensor([0]), x) | indices padding_idx scale_grad_by_freq sparse weight_sym_argsize_0
F.conv1d(x[None], y[None]) | bias_sym_sizes_opt dilation groups input output_padding padding stride transposed weight
x.tril() | diagonal
x.triu(1) | diagonal
x.std(0, keepdim=True) | correction dim keepdim self
x.var(dim=1, unbiased=False) | correction dim keepdim self
x.fmod(2)
x.remainder(2)
x.floor()
x.round()
x.sign()
x.pow(0.5)
x.square()
x.median() | result self
x.logcumsumexp(0)
x.nansum() | dim keepdim self
x.movedim(0, 1)
x.flatten()
x.as_strided((2,), (1,)) | size storage_offset stride
""".strip().splitlines()


def rounded(value: Any) -> Any:
    """Values in a form in which those of both libraries can be compared."""
    if isinstance(value, (tg.Tensor, torch.Tensor)):
        return str(value.dtype).rpartition(".")[2], rounded(value.tolist())
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


@pytest.mark.parametrize("line", PROGRAMS)
def test_all_that_is_shown(line: str) -> None:
    """What `dir` lists are torch's names but for those of the table, and the values are torch's."""
    text, _, missing = line.partition(" | ")
    shown = []
    for t in (tg, torch):
        space = {
            "t": t,
            "F": t.nn.functional,
            "x": t.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True),
            "y": t.tensor([[2.0, 1.0], [2.0, 0.5]], requires_grad=True),
        }
        record = eval(text, space).grad_fn
        names = [name for name in dir(record) if name.startswith("_saved_")]
        shown.append(
            {name.removeprefix("_saved_"): rounded(getattr(record, name)) for name in names}
        )
    ours, theirs = shown
    assert sorted(missing.split()) == sorted(set(theirs) - set(ours))
    assert ours == {name: value for name, value in theirs.items() if name not in missing.split()}


def test_names_are_given_without_keeping_values() -> None:
    """After the graph was freed arguments are still there, values are not."""
    x = tg.ones(2, 3, requires_grad=True)
    rows = x.sum(1)
    rows.exp().sum().backward()
    assert rows.grad_fn._saved_dim == (1,)
    y = x * x
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        _ = y.grad_fn._saved_self
