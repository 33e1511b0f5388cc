"""Parametrizations: programs with torch's values and errors, compiled as eager, what is compiled after changes."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tracegrad as tg
from tracegrad import nn
from tracegrad.nn.utils import parametrizations, parametrize


def modules_of(lib: Any) -> dict[str, Any]:
    """Parametrizations, made with one of the two libraries."""

    class Symmetric(lib.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.triu() + x.triu(1).t()

        def right_inverse(self, a: Any) -> Any:
            return a.triu()

    class Double(lib.nn.Module):
        def forward(self, x: Any) -> Any:
            return 2 * x

    class Rank1(lib.nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            return x.unsqueeze(-1) @ y.unsqueeze(-2)

        def right_inverse(self, z: Any) -> Any:
            return z[:, 0], z[0]

    class Wide(lib.nn.Module):
        def forward(self, x: Any) -> Any:
            return lib.cat([x, x])

    class Fine(lib.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.double()

    class Text(lib.nn.Module):
        def forward(self, x: Any) -> Any:
            return "text"

    class Back(lib.nn.Module):
        def __init__(self, value: Any) -> None:
            super().__init__()
            self.value = value

        def forward(self, *x: Any) -> Any:
            return x[0]

        def right_inverse(self, x: Any) -> Any:
            return self.value(x)

    class Never(lib.nn.Module):
        def forward(self, x: Any) -> Any:
            return -x

        def right_inverse(self, x: Any) -> Any:
            raise NotImplementedError

    return {cls.__name__: cls for cls in (Symmetric, Double, Rank1, Wide, Fine, Text, Back, Never)}


# Each program changes `net`, a Linear(3, 3) with given weights, and leaves a value in `out`.
PROGRAMS: dict[str, str] = {
    "symmetric": "reg(net, 'weight', Symmetric()); out = net(x), net.weight, repr(net), list(net.state_dict())",
    "twice": "reg(net, 'weight', Symmetric()); reg(net, 'weight', Double()); reg(net, 'bias', Double())\nout = net(x), "
    "repr(net), list(net.state_dict()), len(net.parametrizations.weight)",
    "assigned": "reg(net, 'weight', Symmetric()); net.weight = y + y.t(); out = net.weight, net.parametrizations.weight"
    ".original, p.is_parametrized(net), p.is_parametrized(net, 'bias'), net.weight.requires_grad",
    "removed": "reg(net, 'weight', Symmetric()); p.remove_parametrizations(net, 'weight')\n"
    "out = net.weight, type(net).__name__, list(net.state_dict()), p.is_parametrized(net), net.weight.requires_grad",
    "removed with original": "reg(net, 'weight', Double()); p.remove_parametrizations(net, 'weight', False)\n"
    "out = net.weight, repr(net), hasattr(net, 'parametrizations')",
    "several": "reg(net, 'weight', Rank1(), unsafe=True); out = net.weight, list(net.state_dict()), net(x)\n"
    "net.weight = y; p.remove_parametrizations(net, 'weight'); out += net.weight, net.weight.is_leaf",
    "class": "reg(net, 'weight', Double()); out = type(net).__name__, p.type_before_parametrizations(net).__name__",
    "buffer": "net.register_buffer('extra', y); reg(net, 'extra', Double()); out = net.extra, list(net.state_dict())\n"
    "p.remove_parametrizations(net, 'extra'); out += (list(dict(net.named_buffers())),)",
    "unsafe": "reg(net, 'weight', Wide(), unsafe=True); out = net.weight.shape",
    "no inverse": "reg(net, 'weight', Never()); out = net.weight, net.parametrizations.weight.original",
    "training": "m = Double(); net.eval(); reg(net, 'weight', m); out = m.training",
    "cached": "reg(net, 'weight', Double())\nwith p.cached():\n    a = net.weight is net.weight\n"
    "out = a, net.weight is net.weight",
    "cached and changed": "reg(net, 'weight', Double())\nwith p.cached():\n    a = net.weight\n    with no_grad():\n"
    "        net.parametrizations.weight.original.fill_(7.)\n    a = net(x)\nout = a, net(x)",
    "gradients": "reg(net, 'weight', Symmetric()); (net(x) ** 2).sum().backward()\n"
    "out = net.parametrizations.weight.original.grad, net.bias.grad",
    "weight norm": "ready.weight_norm(net); net.weight = y; (net(x) ** 2).sum().backward()\nout = net(x), "
    "list(net.state_dict()), [q.grad for q in net.parametrizations.weight.parameters()], repr(net)",
    "weight norm of columns": "ready.weight_norm(net, dim=1); w = net.parametrizations.weight\n"
    "out = net(x), w.original0, w.original1",
    "weight norm of all": "ready.weight_norm(net, dim=None); w = net.parametrizations.weight\n"
    "out = net(x), w.original0, w.original1",
    "weight norm of a bias": "ready.weight_norm(net, 'bias'); out = net(x), net.parametrizations.bias.original0",
    "weight norm loads": "ready.weight_norm(net); out = (str(net.load_state_dict({'bias': y[0], 'weight_g': y[:, :1], "
    "'weight_v': y})), net.weight)",
    "older weight norm": "u.weight_norm(net); out = net(x), list(net.state_dict())\nwith no_grad():\n"
    "    net.weight_g.mul_(2)\nnet(x).sum().backward(); out += net.weight, net.weight_g.grad, net.weight_v.grad\n"
    "u.remove_weight_norm(net); out += net(x), list(net.state_dict()), net.weight.is_leaf",
    "spectral norm": "ready.spectral_norm(net); start(net, y); (net(x) ** 2).sum().backward(); s = net.parametrizations"
    ".weight\nout = (list(net.state_dict()), s.original.grad, s[0]._u, s[0]._v, net(x), net.eval()(x),"
    " net(x), repr(net))",
    "spectral norm of columns": "ready.spectral_norm(net, n_power_iterations=3, dim=-1); start(net, y); out = net(x)",
    "spectral norm of a bias": "ready.spectral_norm(net, 'bias'); out = net.bias",
    "spectral norm, transposed": "t = nn.ConvTranspose2d(2, 3, 2); ready.spectral_norm(t)\n"
    "out = t.parametrizations.weight[0]._u.shape, t.parametrizations.weight[0].dim",
    "skipped beginning": "m = u.skip_init(nn.Linear, 3, 4, bias=False); out = repr(m), m.weight.shape",
}
ERRORS: dict[str, str] = {
    "no tensor": "reg(net, 'foo', Double())",
    "wide": "reg(net, 'weight', Wide())",
    "fine": "reg(net, 'weight', Fine())",
    "text": "reg(net, 'weight', Text())",
    "then wide": "reg(net, 'weight', Double()); reg(net, 'weight', Wide())",
    "then fine": "reg(net, 'weight', Double()); reg(net, 'weight', Fine())",
    "then text": "reg(net, 'weight', Double()); reg(net, 'weight', Text())",
    "then back": "reg(net, 'weight', Double()); reg(net, 'weight', Back(lambda x: 3))",
    "then back finer": "reg(net, 'weight', Double()); reg(net, 'weight', Back(lambda x: x.double()))",
    "then back larger": "reg(net, 'weight', Double()); reg(net, 'weight', Back(lambda x: x[:1]))",
    "back": "reg(net, 'weight', Back(lambda x: 3))",
    "back finer": "reg(net, 'weight', Back(lambda x: x.double()))",
    "back parts": "reg(net, 'weight', Back(lambda x: (x, 3)))",
    "no inverse": "reg(net, 'weight', Double()); net.weight = y",
    "other parts": "reg(net, 'weight', Rank1(), unsafe=True)\nnet.parametrizations.weight[0].right_inverse = lambda z: "
    "z\nnet.weight = y",
    "fewer parts": "reg(net, 'weight', Rank1(), unsafe=True)\nnet.parametrizations.weight[0].right_inverse = lambda z: "
    "(z,)\nnet.weight = y",
    "finer assignment": "reg(net, 'weight', Symmetric()); net.weight = y.double()",
    "not parametrized": "p.remove_parametrizations(net, 'weight')",
    "no single original": "reg(net, 'weight', Rank1(), unsafe=True); p.remove_parametrizations(net, 'weight', False)",
    "no modules": "p.ParametrizationList([], y)",
    "pickled": "reg(net, 'weight', Double()); pickle.dumps(net)",
    "spectral norm": "ready.spectral_norm(net, 'foo')",
    "spectral norm dim": "ready.spectral_norm(net, dim=2)",
    "spectral norm iterations": "ready.spectral_norm(net, n_power_iterations=0)",
    "weight norm": "ready.weight_norm(net, 'foo')",
    "weight norm twice": "u.weight_norm(net); u.weight_norm(net)",
    "no weight norm": "u.remove_weight_norm(net)",
    "orthogonal": "ready.orthogonal(net, 'foo')",
    "orthogonal vector": "ready.orthogonal(net, 'bias')",
    "orthogonal map": "ready.orthogonal(net, orthogonal_map='foo')",
    "skip no module": "u.skip_init(int)",
    "skip no device": "u.skip_init(nn.ReLU)",
}


def run(lib: Any, text: str) -> Any:
    """What a program leaves in `out`, with arrays for tensors."""
    rng = np.random.default_rng(3)
    net = lib.nn.Linear(3, 3)
    values = {
        key: lib.tensor(rng.normal(size=tuple(v.shape)).astype("f4"))
        for key, v in net.state_dict().items()
    }
    net.load_state_dict(values)
    x, y = (lib.tensor(rng.normal(size=(3, 3)).astype("f4")) for _ in range(2))

    def start(net: Any, y: Any) -> None:
        """Let the power method begin with given vectors."""
        with lib.no_grad():
            net.parametrizations.weight[0]._u.copy_(y[0])
            net.parametrizations.weight[0]._v.copy_(y[1])

    names = {
        **modules_of(lib), "net": net, "x": x, "y": y, "start": start, "no_grad": lib.no_grad, "nn": lib.nn,
        "p": lib.nn.utils.parametrize, "reg": lib.nn.utils.parametrize.register_parametrization,
        "ready": lib.nn.utils.parametrizations, "u": lib.nn.utils, "pickle": pickle,
    }  # fmt: skip
    exec(text, names)
    return plain(names.get("out"))


def plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [plain(part) for part in value]
    return value.detach().numpy() if hasattr(value, "detach") else value


def compare(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            compare(a, b)
    elif isinstance(theirs, np.ndarray):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)
    else:
        assert ours == theirs


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("what", PROGRAMS)
def test_as_torch(what: str, torch: ModuleType) -> None:
    compare(run(tg, PROGRAMS[what]), run(torch, PROGRAMS[what]))


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("what", ERRORS)
def test_errors_are_torchs(what: str, both_raise: Any) -> None:
    both_raise(lambda lib: run(lib, ERRORS[what]))


def test_orthogonal_is_not_supported() -> None:
    with pytest.raises(NotImplementedError, match=r"parametrizations\.orthogonal is not supported"):
        parametrizations.orthogonal(nn.Linear(3, 3))


def test_copies_are_independent() -> None:
    net = parametrizations.weight_norm(nn.Linear(3, 3))
    other = copy.deepcopy(net)
    with tg.no_grad():
        other.parametrizations.weight.original0.mul_(2)
    np.testing.assert_allclose(other.weight.detach(), 2 * net.weight.detach(), rtol=1e-6)
    with parametrize.cached():
        assert other.weight is other.weight
        assert other.weight is not net.weight


def test_skipping_draws_nothing() -> None:
    tg.manual_seed(0)
    expected = tg.rand(3)
    tg.manual_seed(0)
    nn.utils.skip_init(nn.Linear, 4, 4)
    assert tg.equal(tg.rand(3), expected)


@pytest.mark.parametrize("make", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_compiled_as_eager(make: Any) -> None:
    """A training step, natively; buffers of the power method go on in either."""
    tg.manual_seed(1)
    nets = [make(nn.Linear(3, 4))]
    nets.append(copy.deepcopy(nets[0]))

    def step(net: nn.Module, x: tg.Tensor) -> tg.Tensor:
        net.zero_grad()
        loss = (net(x) ** 2).sum()
        loss.backward()
        with tg.no_grad():
            for p in net.parameters():
                p.sub_(p.grad * 0.1)
        return loss.detach()

    compiled = tg.compile(step)
    for number in range(6):
        for net in nets:
            net.train(number < 3)
        x = tg.randn(5, 3)
        assert compiled(nets[0], x).item() == pytest.approx(step(nets[1], x).item(), rel=1e-4)
        for a, b in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
            np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-4, atol=1e-5)
    assert compiled.stats.native >= 3, compiled.explain()


def test_compiled_after_changes() -> None:
    """Parametrized, cached, and no longer parametrized: a compiled function follows."""
    net = nn.Linear(3, 3)
    x = tg.randn(2, 3)
    compiled = tg.compile(lambda x: net(x))

    def check() -> None:
        for _ in range(2):
            np.testing.assert_allclose(compiled(x).detach(), net(x).detach(), rtol=1e-5, atol=1e-6)

    check()
    parametrize.register_parametrization(net, "weight", modules_of(tg)["Double"]())
    check()
    with tg.no_grad():
        net.parametrizations.weight.original.mul_(3)
    check()
    parametrize.register_parametrization(net, "weight", modules_of(tg)["Symmetric"]())
    check()
    with parametrize.cached():
        former = net(x)
        with tg.no_grad():
            net.parametrizations.weight.original.zero_()
        assert tg.equal(compiled(x), former)
    check()
    parametrize.remove_parametrizations(net, "weight")
    check()
    assert compiled.stats.native >= 3, compiled.explain()
