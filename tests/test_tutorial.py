"""The journey of PyTorch's autograd tutorial, with nothing changed but the import.

`CHAPTERS` are programs in torch's names, each in the order in which the tutorial ("The Fundamentals of Autograd")
goes. Each runs under tracegrad, and under torch where that is installed; what they print is compared character by
character. Random numbers and initial weights are the same fixed ones for both libraries; addresses of objects and
times are blanked out.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

try:
    import torch
except ImportError:
    torch = None

CHAPTERS: dict[str, str] = {}

CHAPTERS["a chain of operations"] = """
import torch
import math

a = torch.linspace(0., 2. * math.pi, steps=25, requires_grad=True)
print(a)
b = torch.sin(a)
print(b)
c = 2 * b
print(c)
d = c + 1
print(d)
out = d.sum()
print(out)

print(d.grad_fn)
print(d.grad_fn.next_functions)
print(d.grad_fn.next_functions[0][0].next_functions)
print(d.grad_fn.next_functions[0][0].next_functions[0][0].next_functions)
print(d.grad_fn.next_functions[0][0].next_functions[0][0].next_functions[0][0].next_functions)
print(c.grad_fn)
print(b.grad_fn)
print(a.grad_fn)

out.backward()
print(a.grad)
"""

CHAPTERS["training"] = """
import torch

BATCH_SIZE = 16
DIM_IN = 1000
HIDDEN_SIZE = 100
DIM_OUT = 10

class TinyModel(torch.nn.Module):

    def __init__(self):
        super(TinyModel, self).__init__()
        self.layer1 = torch.nn.Linear(DIM_IN, HIDDEN_SIZE)
        self.relu = torch.nn.ReLU()
        self.layer2 = torch.nn.Linear(HIDDEN_SIZE, DIM_OUT)

    def forward(self, x):
        x = self.layer1(x)
        x = self.relu(x)
        x = self.layer2(x)
        return x

some_input = torch.randn(BATCH_SIZE, DIM_IN, requires_grad=False)
ideal_output = torch.randn(BATCH_SIZE, DIM_OUT, requires_grad=False)
model = TinyModel()
print(model)
print(model.layer2.weight[0][0:10])
print(model.layer2.weight.grad)

optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
prediction = model(some_input)
loss = (ideal_output - prediction).pow(2).sum()
print(loss)

loss.backward()
print(model.layer2.weight[0][0:10])
print(model.layer2.weight.grad[0][0:10])

optimizer.step()
print(model.layer2.weight[0][0:10])
print(model.layer2.weight.grad[0][0:10])

for i in range(0, 5):
    prediction = model(some_input)
    loss = (ideal_output - prediction).pow(2).sum()
    loss.backward()
print(model.layer2.weight.grad[0][0:10])

optimizer.zero_grad(set_to_none=False)
print(model.layer2.weight.grad[0][0:10])
"""

CHAPTERS["off and on"] = """
import torch

a = torch.ones(2, 3, requires_grad=True)
print(a)
b1 = 2 * a
print(b1)
a.requires_grad = False
b2 = 2 * a
print(b2)

a = torch.ones(2, 3, requires_grad=True) * 2
b = torch.ones(2, 3, requires_grad=True) * 3
c1 = a + b
print(c1)
with torch.no_grad():
    c2 = a + b
print(c2)
c3 = a * b
print(c3)

def add_tensors1(x, y):
    return x + y

@torch.no_grad()
def add_tensors2(x, y):
    return x + y

a = torch.ones(2, 3, requires_grad=True) * 2
b = torch.ones(2, 3, requires_grad=True) * 3
print(add_tensors1(a, b))
print(add_tensors2(a, b))

x = torch.rand(5, requires_grad=True)
y = x.detach()
print(x)
print(y)
"""

CHAPTERS["in place"] = """
import torch
import math

a = torch.linspace(0., 2. * math.pi, steps=25, requires_grad=True)
try:
    torch.sin_(a)
except RuntimeError as error:
    print(str(error).splitlines()[0])
"""

CHAPTERS["profiler"] = """
import torch

device = torch.device('cpu')
run_on_gpu = False
if torch.cuda.is_available():
    device = torch.device('cuda')
    run_on_gpu = True

x = torch.randn(2, 3, requires_grad=True)
y = torch.rand(2, 3, requires_grad=True)
z = torch.ones(2, 3, requires_grad=True)

with torch.autograd.profiler.profile(use_cuda=run_on_gpu) as prf:
    for _ in range(1000):
        z = (z / x) * y

print(prf.key_averages().table(sort_by='self_cpu_time_total'))
print(device)
print(z)
"""

CHAPTERS["products with Jacobians"] = """
import torch

x = torch.randn(3, requires_grad=True)
y = x * 2
while y.data.norm() < 1000:
    y = y * 2
print(y)

v = torch.tensor([0.1, 1.0, 0.0001], dtype=torch.float)
y.backward(v)
print(x.grad)

def exp_adder(x, y):
    return 2 * x.exp() + 3 * y

inputs = (torch.rand(1), torch.rand(1))
print(inputs)
print(torch.autograd.functional.jacobian(exp_adder, inputs))

inputs = (torch.rand(3), torch.rand(3))
print(inputs)
print(torch.autograd.functional.jacobian(exp_adder, inputs))

def do_some_doubling(x):
    y = x * 2
    while y.data.norm() < 1000:
        y = y * 2
    return y

inputs = torch.randn(3)
my_gradients = torch.tensor([0.1, 1.0, 0.0001])
print(torch.autograd.functional.vjp(do_some_doubling, inputs, v=my_gradients))

def pow_reducer(x):
    return x.pow(3).sum()

print(torch.autograd.functional.hvp(pow_reducer, inputs, v=my_gradients))
print(torch.autograd.functional.vhp(pow_reducer, inputs, v=my_gradients))
print(torch.autograd.functional.hessian(pow_reducer, inputs))
print(torch.autograd.functional.jvp(do_some_doubling, inputs, v=my_gradients))
"""


@contextlib.contextmanager
def fixed_numbers(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Random functions and initial weights that are the same for both libraries."""
    rng = np.random.RandomState(11)

    def source(draw: Any) -> Any:
        def function(*size: int, requires_grad: bool = False) -> Any:
            return module.tensor(draw(*size).astype(np.float32), requires_grad=requires_grad)

        return function

    def reset(self: Any) -> None:
        bound = 1 / self.in_features**0.5
        with module.no_grad():
            for parameter in (self.weight, self.bias):
                values = rng.uniform(-bound, bound, tuple(parameter.shape))
                parameter.copy_(module.tensor(values.astype(np.float32)))

    with monkeypatch.context() as patch:
        patch.setattr(module, "randn", source(rng.randn))
        patch.setattr(module, "rand", source(rng.rand))
        patch.setattr(module.nn.Linear, "reset_parameters", reset)
        yield


def printed(name: str, chapter: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a chapter prints under the library of this name."""
    module = importlib.import_module(name)
    program = CHAPTERS[chapter].replace("import torch\n", f"import {name} as torch\n", 1)
    text = io.StringIO()
    with fixed_numbers(module, monkeypatch), contextlib.redirect_stdout(text):
        exec(compile(program, chapter, "exec"), {"__name__": "tutorial"})
    return re.sub(r"0x[0-9a-f]+", "0x", text.getvalue())


def without_times(text: str) -> str:
    """A table of the profiler with its times and their columns' widths blanked out."""
    lines = [re.sub(r"\d+\.\d+(us|ms|s|%)", "t", line) for line in text.splitlines()]
    return "\n".join(" ".join(line.split()) for line in lines if set(line) - set("- "))


@pytest.mark.peers
@pytest.mark.skipif(torch is None, reason="torch is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_prints_what_torch_prints(chapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = printed("tracegrad", chapter, monkeypatch)
    theirs = printed("torch", chapter, monkeypatch)
    if chapter == "profiler":
        ours, theirs = without_times(ours), without_times(theirs)
        # The two operations take about the same time: either may come first.
        ours, theirs = ("\n".join(sorted(t.splitlines())) for t in (ours, theirs))
    assert ours == theirs


# The same without torch: what was printed, as it stands in the output of torch.

CHAIN = """\
tensor([0.0000, 0.2618, 0.5236, 0.7854, 1.0472, 1.3090, 1.5708, 1.8326, 2.0944,
        2.3562, 2.6180, 2.8798, 3.1416, 3.4034, 3.6652, 3.9270, 4.1888, 4.4506,
        4.7124, 4.9742, 5.2360, 5.4978, 5.7596, 6.0214, 6.2832],
       requires_grad=True)
"""
DETAILS = """\
tensor(25., grad_fn=<SumBackward0>)
<AddBackward0 object at 0x>
((<MulBackward0 object at 0x>, 0), (None, 0))
((<SinBackward0 object at 0x>, 0), (None, 0))
((<AccumulateGrad object at 0x>, 0),)
()
<MulBackward0 object at 0x>
<SinBackward0 object at 0x>
None
tensor([ 2.0000e+00,  1.9319e+00,  1.7321e+00,  1.4142e+00,  1.0000e+00,
"""
OFF_AND_ON = """\
tensor([[1., 1., 1.],
        [1., 1., 1.]], requires_grad=True)
tensor([[2., 2., 2.],
        [2., 2., 2.]], grad_fn=<MulBackward0>)
tensor([[2., 2., 2.],
        [2., 2., 2.]])
tensor([[5., 5., 5.],
        [5., 5., 5.]], grad_fn=<AddBackward0>)
tensor([[5., 5., 5.],
        [5., 5., 5.]])
tensor([[6., 6., 6.],
        [6., 6., 6.]], grad_fn=<MulBackward0>)
tensor([[5., 5., 5.],
        [5., 5., 5.]], grad_fn=<AddBackward0>)
tensor([[5., 5., 5.],
        [5., 5., 5.]])
"""
MODEL = """\
TinyModel(
  (layer1): Linear(in_features=1000, out_features=100, bias=True)
  (relu): ReLU()
  (layer2): Linear(in_features=100, out_features=10, bias=True)
)
"""
PRINTED = {
    "a chain of operations": (CHAIN, DETAILS),
    "off and on": (OFF_AND_ON,),
    "in place": ("a leaf Variable that requires grad is being used in an in-place operation.\n",),
    "training": (
        MODEL,
        ", grad_fn=<SliceBackward0>)\nNone\ntensor(",
        "grad_fn=<SumBackward0>)",
        "tensor([0., 0., 0., 0., 0., 0., 0., 0., 0., 0.])\n",
    ),
    "profiler": (
        "aten::div",
        "aten::mul",
        "1000",
        "Self CPU time total: ",
        "cpu\n",
        "grad_fn=<MulBackward0>",
    ),
    "products with Jacobians": ("grad_fn=<MulBackward0>", "(tensor([[", "[0.0000, "),
}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_prints_as_written_down(chapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed("tracegrad", chapter, monkeypatch)
    for part in PRINTED[chapter]:
        assert part in text


def test_gradients_accumulate_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five sweeps without zero_grad add up; the third and fourth printout of the weights differ by lr * grad."""
    text = printed("tracegrad", "training", monkeypatch)
    rows = [
        np.fromstring(r, sep=",")
        for r in re.findall(r"tensor\(\[([^\]]*)\]", text.replace("\n", ""))
    ]
    before, after_backward, gradient, after_step = rows[0], rows[1], rows[2], rows[3]
    np.testing.assert_array_equal(before, after_backward)
    np.testing.assert_allclose(after_step, before - 0.001 * gradient, atol=2e-4)
    assert np.abs(rows[5]).sum() > 2 * np.abs(gradient).sum()


@pytest.mark.filterwarnings("ignore")
def test_plots() -> None:
    """What the tutorial draws: tensors go to matplotlib as they are, except those that require grad."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    import tracegrad as tg

    a = tg.linspace(0.0, 6.0, steps=25, requires_grad=True)
    b = tg.sin(a)
    b.sum().backward()
    figure, axes = plt.subplots()
    (curve,) = axes.plot(a.detach(), b.detach())
    (slope,) = axes.plot(a.detach(), a.grad.detach())
    np.testing.assert_allclose(curve.get_ydata(), np.sin(np.linspace(0, 6, 25)), atol=1e-6)
    np.testing.assert_allclose(slope.get_ydata(), np.cos(np.linspace(0, 6, 25)), atol=1e-6)
    with pytest.raises(RuntimeError, match=r"Can't call numpy\(\) on Tensor that requires grad"):
        axes.plot(a, b)
    plt.close(figure)
