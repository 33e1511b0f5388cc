"""``torch.special``: special functions under its names. Those that are elsewhere as well are the same objects.

The Bessel functions of integer order, the functions of the normal distribution, and ``erfcx`` are only here. What
torch has beyond these (orthogonal polynomials, ``zeta``, ``gammainc``, ...) is not there.
"""

from __future__ import annotations

from tracegrad.ops.elementwise import erf, erfc, exp2, expm1, log1p, round
from tracegrad.ops.elementwise import sigmoid as expit
from tracegrad.ops.out_argument import give_out
from tracegrad.ops.reduction import log_softmax, logsumexp, softmax
from tracegrad.ops.special import (
    digamma,
    entr,
    erfcx,
    erfinv,
    i0,
    i0e,
    i1,
    i1e,
    log_ndtr,
    logit,
    ndtr,
    ndtri,
    polygamma,
    sinc,
    xlog1py,
    xlogy,
)
from tracegrad.ops.special import lgamma as gammaln
from tracegrad.ops.special import mvlgamma as multigammaln

psi = digamma
give_out(globals(), list(globals()))

__all__ = [
    "digamma", "entr", "erf", "erfc", "erfcx", "erfinv", "exp2", "expit", "expm1", "gammaln", "i0", "i0e", "i1",
    "i1e", "log1p", "log_ndtr", "log_softmax", "logit", "logsumexp", "multigammaln", "ndtr", "ndtri", "polygamma",
    "psi", "round", "sinc", "softmax", "xlog1py", "xlogy",
]  # fmt: skip
