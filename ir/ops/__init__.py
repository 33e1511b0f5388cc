"""The op set: importing this package fills the registry of :mod:`tracegrad.ir.op`.

One family a module; an op is found by its name. About 150 primitives; everything else that users call is a
composition of these, in :mod:`tracegrad.ops` and :mod:`tracegrad.nn.functional`. Families that few programs need are
imported when the registry is asked for a name that it does not know: an op costs nothing where it is not used.
"""

from ..op import late_families
from . import (
    arithmetic,
    comparison,
    indexing,
    linalg,
    reduction,
    scan,
    selection,
    shape,
    softmax,
    source,
    strided,
    transcendental,
)

late_families += [
    f"{__name__}.{family}"
    for family in (
        "convolution factorization matrix_exponential ordering scattering solution special windows"
    ).split()
]

__all__ = [
    "arithmetic",
    "comparison",
    "indexing",
    "linalg",
    "reduction",
    "scan",
    "selection",
    "shape",
    "softmax",
    "source",
    "strided",
    "transcendental",
]
