"""What users see of the graph: ``grad_fn``, ``next_functions`` and ``output_nr`` are torch's, or listed here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")
from torch_cases import CASES, Case, draw, flat_outputs, forms, prepare  # noqa: E402

pytestmark = pytest.mark.peers

_BATCHED = (
    "torch flattens the batches, multiplies and restores them; tracegrad has one batched product"
)
_NO_DERIVATIVE = "torch has none"
_PIECES = "torch writes the pieces into new memory; tracegrad joins them"
RECORDS_THAT_DIFFER = {
    "norm(f2x4,'nuc')": "torch's singular values are the second output of a record",
    "norm(f2x3x4,'nuc',(0,2),True)": "torch permutes the result",
    "div(f2x3,0.7,rounding_mode='floor')": "torch shows a missing edge for the number",
    "div(f2x3,0.7,rounding_mode='trunc')": "torch shows a missing edge for the number",
    "div(f2x3,0.7,rounding_mode=None)": "torch calls it DivBackward2 if rounding_mode is given, even as None",
    "floor_divide(f2x3,f3)": _NO_DERIVATIVE,
    "floor_divide(f2x3,0.7)": _NO_DERIVATIVE,
    "matmul(f2x3x4,f2x4x2)": _BATCHED,
    "matmul(f2x3x4,f4)": _BATCHED,
    "matmul(f3,f2x3x4)": _BATCHED,
    "matmul(f5x1x2x3,f2x3x4)": _BATCHED,
    **dict.fromkeys(
        ("special.ndtr(f2x3)", "special.ndtr(f)", "special.ndtr(f7)"),
        "torch adds 1 to erf, which loses the left tail",
    ),
    "slice_scatter(f2x3,i2x3)": "torch shows integers as missing edges",
    "diff(f2x3,0)": "torch copies into a new tensor",
    "special.round(f2x3)": "torch hands on that there are no decimals",
    "inner(f4,f4)": "torch permutes first",
    "inner(f2x3,f5x3)": "torch permutes first",
    "nn.functional.pad(f2x3x7,(2,7),'circular')": _PIECES,
    "nn.functional.pad(f2x3x5x6,(2,1,0,3),'circular')": _PIECES,
    "nn.functional.pad(f2x3x5x6,(-1,1,1,-2),'circular')": _PIECES,
    "nn.functional.pad(f2x2x4x3x5,(1,2,2,1,0,1),'circular')": _PIECES,
    "take_along_dim(f2x3,i2x3,1)": "torch expands first, also where nothing changes",
}

_TWO_RECORDS = "torch has one record of two results; here each has its own"
_INNER = "torch takes the neighbours and ends by other functions inside"
FUNCTIONS_THAT_DIFFER = {
    "slogdet": _TWO_RECORDS,
    "linalg.slogdet": _TWO_RECORDS,
    "logdet": "torch leads to the second output of a record",
    "linalg.svdvals": "torch's are the second output of a record",
    "linalg.matrix_norm": _INNER,
    "linalg.norm": _INNER,
    "linalg.cond": _INNER,
    "linalg.vecdot": _INNER,
    "linalg.tensorinv": _INNER,
    "matrix_power": _INNER,
    "linalg.matrix_power": _INNER,
    "var_mean": _TWO_RECORDS,
    "std_mean": _TWO_RECORDS,
    "aminmax": _TWO_RECORDS,
    "einsum": "torch permutes whatever it is given, and always multiplies batches of matrices",
    "tensordot": "torch reshapes whatever it is given",
    "kron": "torch reshapes whatever it is given",
    "cartesian_prod": "torch's grids are not copied",
    "combinations": "torch selects by masks",
    "repeat_interleave": "torch copies into a view",
    "block_diag": "torch shows integers as missing edges",
    "trapezoid": _INNER,
    "trapz": _INNER,
    "cumulative_trapezoid": _INNER,
    "quantile": "torch squeezes at the end, also where nothing changes",
    "nanquantile": "torch squeezes at the end, also where nothing changes",
    "cdist": "torch shows the matrix product, where there is one",
    "nn.functional.prelu": "torch always views the weight",
    "nn.functional.instance_norm": "torch shows missing edges for weights that are not given",
    "nn.functional.rms_norm": "torch's steps are other ones",
    "nn.functional.local_response_norm": "torch pools over another view",
    **dict.fromkeys(
        [
            "cosine_similarity",
            "pairwise_distance",
            *(
                f"nn.functional.{name}"
                for name in (
                    "cosine_embedding_loss",
                    "hinge_embedding_loss",
                    "margin_ranking_loss",
                    "pairwise_distance",
                    "poisson_nll_loss",
                    "triplet_margin_loss",
                    "triplet_margin_with_distance_loss",
                )
            ),
        ],
        "the same steps in another order, or without zeros as tensors",
    ),
}


def shown(module: Any, value: Any, depth: int = 5) -> Any:
    """The names of the records behind a tensor, nested as its graph is."""

    def tree(record: Any, depth: int) -> Any:
        if record is None or not depth:
            return None
        name = record.name().replace("torch::autograd::", "")
        return (name, *((tree(r, depth - 1), n) for r, n in record.next_functions))

    return tree(value.grad_fn, depth), value.output_nr


@pytest.mark.parametrize("c", CASES, ids=str)
def test_records(c: Case) -> None:
    """``grad_fn``, ``next_functions`` and ``output_nr`` are torch's."""
    arrays = draw(c, "float64")
    run = forms(c)[0][1]
    results = []
    for module in (tg, torch):
        outs = flat_outputs(module, run(module, prepare(module, c, arrays, True)))
        results.append([shown(module, out) for out in outs if out.requires_grad])
    same = results[0] == results[1]
    if c.name not in FUNCTIONS_THAT_DIFFER:
        assert same == (str(c) not in RECORDS_THAT_DIFFER), results


EXPRESSIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "2 * b + 1": lambda m, x, w: (2 * x.sin() + 1).sum(),
    "reflected": lambda m, x, w: (1 - x) + (2.0 / x) + (2**x) + (3 + x) + 3 * x,
    "operators": lambda m, x, w: -x * w / (x + 1) - x**2 + abs(x) % 2,
    "in place": lambda m, x, w: (x * 1).add_(w).mul_(2).sin_(),
    "overwritten": lambda m, x, w: (x * 1).copy_(w),
    "zeroed": lambda m, x, w: (x * 1).zero_(),
    "filled": lambda m, x, w: (x * 1).fill_(2.0),
    "select": lambda m, x, w: x[0],
    "last": lambda m, x, w: x[-1],
    "slice": lambda m, x, w: x[:1],
    "column": lambda m, x, w: x[:, 1],
    "columns": lambda m, x, w: x[:, 1:],
    "none": lambda m, x, w: x[None],
    "ellipsis": lambda m, x, w: x[...],
    "last column": lambda m, x, w: x[..., 0],
    "index": lambda m, x, w: x[m.tensor([0, 1])],
    "indices": lambda m, x, w: x[0, m.tensor([0, 1])],
    "mask": lambda m, x, w: x[m.tensor([True, False])],
    "transposed": lambda m, x, w: x.T @ w,
    "t": lambda m, x, w: x.t() @ w,
    "mT": lambda m, x, w: x.mT,
    "cast": lambda m, x, w: x.float() + x.to(m.float32),
    "view changed": lambda m, x, w: changed(x * 1, lambda y: y[0].mul_(w[0])),
    "row assigned": lambda m, x, w: changed(x * 1, lambda y: y.__setitem__(0, w[0])),
    "element assigned": lambda m, x, w: changed(x * 1, lambda y: y.__setitem__((0, 1), 5.0)),
    "index assigned": lambda m, x, w: changed(x * 1, lambda y: y.__setitem__(m.tensor([0]), w[0])),
    "mask assigned": lambda m, x, w: changed(x * 1, lambda y: y.__setitem__(y > 0, 0.0)),
    "base changed": lambda m, x, w: view_after_change(x * 1, w),
    "detached": lambda m, x, w: x.detach() * w,
    "sum over dim": lambda m, x, w: x.sum(0).mean() + x.mean(1).sum(),
    "loss": lambda m, x, w: ((x - w) ** 2).mean(),
    "softmax": lambda m, x, w: m.log_softmax(x, 1).exp() * m.softmax(w, 0),
    "norm": lambda m, x, w: x.norm() + x.var() + w.std(0).sum(),
    "extremes": lambda m, x, w: x.max(1).values + x.min() + w.amax(1),
}


def changed(y: Any, change: Callable[[Any], object]) -> Any:
    change(y)
    return y


def view_after_change(y: Any, w: Any) -> Any:
    view = y[1:]
    y.mul_(w)
    return view


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_records_of_expressions(name: str) -> None:
    values = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]])
    results = []
    for module in (tg, torch):
        x = module.tensor(values, requires_grad=True)
        w = module.tensor(values + 1, requires_grad=True)
        results.append(shown(module, EXPRESSIONS[name](module, x, w)))
    assert results[0] == results[1]


def test_class_names_and_repr_of_records() -> None:
    y = tg.ones(2, requires_grad=True).mean()
    assert type(y.grad_fn).__name__ == "MeanBackward0"
    assert repr(y.grad_fn).startswith("<MeanBackward0 object at 0x")
