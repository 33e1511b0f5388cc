"""The op set: importing this package fills the registry of :mod:`tracegrad.ir.op`.

One family a module; an op is found by its name. About 150 primitives; everything else that users call is a
composition of these, in :mod:`tracegrad.ops` and :mod:`tracegrad.nn.functional`.
"""

from . import (
    arithmetic,
    comparison,
    convolution,
    factorization,
    indexing,
    linalg,
    matrix_exponential,
    ordering,
    reduction,
    scan,
    scattering,
    selection,
    shape,
    softmax,
    solution,
    source,
    special,
    strided,
    transcendental,
    windows,
)

__all__ = [
    "arithmetic",
    "comparison",
    "convolution",
    "factorization",
    "indexing",
    "linalg",
    "matrix_exponential",
    "ordering",
    "reduction",
    "scan",
    "scattering",
    "selection",
    "shape",
    "softmax",
    "solution",
    "source",
    "special",
    "strided",
    "transcendental",
    "windows",
]
