"""tracegrad: PyTorch's autograd, traced into an SSA graph and compiled to native CPU code.

    import tracegrad as tg

Names and meanings are torch's. ``@tg.compile`` compiles a function, up to a whole training step. The pipeline is
described in ARCHITECTURE.md; start reading the code at ``dispatch.apply``.
"""

from __future__ import annotations

import importlib
from math import e, inf, nan, pi
from typing import TYPE_CHECKING, Any

import tracegrad.ir.ops

from tracegrad import methods as _methods  # isort: skip  (completes the Tensor class)
from tracegrad import autograd
from tracegrad.autograd.anomaly import is_anomaly_check_nan_enabled, is_anomaly_enabled
from tracegrad.device import Device as device
from tracegrad.formatting import set_printoptions
from tracegrad.grad_mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from tracegrad.ir.types import (
    DType as dtype,
)
from tracegrad.ir.types import (
    bool_ as bool,
)
from tracegrad.ir.types import (
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
)
from tracegrad.layout import layout, sparse_coo, sparse_csr, strided
from tracegrad.memory_format import (
    channels_last,
    channels_last_3d,
    contiguous_format,
    memory_format,
    preserve_format,
)
from tracegrad.ops.conversion import can_cast, get_default_dtype, promote_types, set_default_dtype
from tracegrad.ops.creation import (
    arange,
    as_tensor,
    asarray,
    empty,
    empty_like,
    eye,
    from_dlpack,
    from_numpy,
    full,
    full_like,
    is_inference,
    is_tensor,
    linspace,
    meshgrid,
    ones,
    ones_like,
    tensor,
    zeros,
    zeros_like,
)
from tracegrad.ops.elementwise import result_type, where
from tracegrad.ops.out_argument import give_out
from tracegrad.ops.rare_creation import complex_ as complex
from tracegrad.ops.rare_creation import (
    empty_permuted,
    empty_strided,
    logspace,
    polar,
    scalar_tensor,
    view_as_complex,
    view_as_real,
)
from tracegrad.ops.reduction import std_mean, var_mean
from tracegrad.ops.shaping import broadcast_tensors, cat, concat, concatenate, hstack, stack, vstack
from tracegrad.ops.striding import split
from tracegrad.random import (
    Generator,
    bernoulli,
    default_generator,
    get_rng_state,
    initial_seed,
    manual_seed,
    normal,
    rand,
    rand_like,
    randint,
    randint_like,
    randn,
    randn_like,
    randperm,
    seed,
    set_rng_state,
)
from tracegrad.size import Size
from tracegrad.tensor import Tensor

if TYPE_CHECKING:
    from tracegrad import (
        cuda,
        func,
        interop,
        linalg,
        nn,
        optim,
        profiler,
        return_types,
        special,
        utils,
    )
    from tracegrad.compiler import compile
    from tracegrad.func import vmap
    from tracegrad.ir.errors import MismatchError
    from tracegrad.nn.adaptive_pooling_functions import adaptive_avg_pool1d, adaptive_max_pool1d
    from tracegrad.nn.convolution_functions import (
        conv1d,
        conv2d,
        conv3d,
        conv_transpose1d,
        conv_transpose2d,
        conv_transpose3d,
    )
    from tracegrad.nn.pooling_functions import avg_pool1d, max_pool1d, max_pool2d, max_pool3d
    from tracegrad.nn.resampling_functions import channel_shuffle, pixel_shuffle, pixel_unshuffle
    from tracegrad.ops.arrangement import (
        atleast_1d,
        atleast_2d,
        atleast_3d,
        block_diag,
        cartesian_prod,
        column_stack,
        combinations,
        dstack,
        row_stack,
        tril_indices,
        triu_indices,
        unravel_index,
        vander,
    )
    from tracegrad.ops.contraction import chain_matmul, einsum, tensordot
    from tracegrad.ops.counting import isin
    from tracegrad.ops.distances import cdist, cosine_similarity, pairwise_distance, pdist
    from tracegrad.ops.numeric import fill
    from tracegrad.ops.ordering import bucketize, searchsorted
    from tracegrad.ops.scanning import cumulative_trapezoid, trapezoid, trapz
    from tracegrad.ops.special import polygamma
    from tracegrad.sampling import poisson
    from tracegrad.serialization import load, save

__version__ = "0.1.0"

float = float32
double = float64
int = int32
long = int64
short = int16
newaxis = None

# A function and the method of the same name are one object, unless the function takes `out`; the tables are in
# tracegrad.methods and tracegrad.ops.out_argument.
_functions = {
    name: getattr(Tensor, name)
    for names in (
        _methods.ELEMENTWISE,
        _methods.REDUCTIONS,
        _methods.SHAPING,
        _methods.STRIDING,
        _methods.LINALG,
        _methods.INDEXING,
        (
            "detach",
            "numel",
            "is_floating_point",
            "is_complex",
            "rsub",
            "resize_as_",
            "as_strided_",
        ),
        [name + "_" for name in _methods.IN_PLACE_FUNCTIONS if name not in _methods.LATE_NAMES],
    )
    for name in names
}
globals().update(_functions)
give_out(globals(), list(globals()))


_LATE_MODULES = (
    "cuda",
    "func",
    "interop",
    "linalg",
    "nn",
    "optim",
    "profiler",
    "return_types",
    "special",
    "utils",
)
_LATE_HOMES = {
    "tracegrad.compiler": "compile",
    "tracegrad.func": "vmap",
    "tracegrad.ir.errors": "MismatchError",
    "tracegrad.nn.adaptive_pooling_functions": "adaptive_avg_pool1d adaptive_max_pool1d",
    "tracegrad.nn.convolution_functions": "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    "tracegrad.nn.pooling_functions": "avg_pool1d max_pool1d max_pool2d max_pool3d",
    "tracegrad.nn.resampling_functions": "channel_shuffle pixel_shuffle pixel_unshuffle",
    "tracegrad.ops.arrangement": (
        "atleast_1d atleast_2d atleast_3d block_diag cartesian_prod column_stack combinations dstack row_stack "
        "tril_indices triu_indices unravel_index vander"
    ),
    "tracegrad.ops.contraction": "chain_matmul einsum tensordot",
    "tracegrad.ops.counting": "isin",
    "tracegrad.ops.distances": "cdist cosine_similarity pairwise_distance pdist",
    "tracegrad.ops.numeric": "fill",
    "tracegrad.ops.ordering": "bucketize searchsorted",
    "tracegrad.ops.scanning": "cumulative_trapezoid trapezoid trapz",
    "tracegrad.ops.special": "polygamma",
    "tracegrad.sampling": "poisson",
    "tracegrad.serialization": "save load",
}
_LATE_FUNCTIONS = {name: home for home, names in _LATE_HOMES.items() for name in names.split()}
_LATE_METHODS = {name for name in _methods.LATE_NAMES if not name.endswith("_")} | {
    name + "_" for name in _methods.IN_PLACE_FUNCTIONS if name in _methods.LATE_NAMES
}


def __getattr__(name: str) -> Any:
    """What most programs do not need at once is imported when it is first used."""
    if name in _LATE_MODULES:
        return importlib.import_module(f"tracegrad.{name}")
    if name in _LATE_FUNCTIONS:
        found = getattr(importlib.import_module(_LATE_FUNCTIONS[name]), name)
    elif name in _LATE_METHODS:
        found = getattr(Tensor, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    give_out(globals(), [name])
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE_MODULES, *_LATE_FUNCTIONS, *_LATE_METHODS})
