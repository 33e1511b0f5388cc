"""Function transforms, as ``torch.func``: they take a function and return another one, and compose in any order.

``vmap`` is in :mod:`.vectorize`, reverse mode (``grad``, ``vjp``, ``jacrev``) in :mod:`.reverse`, forward mode
(``jvp``, ``jacfwd``, ``hessian``, ``linearize``) in :mod:`.forward`, modules as functions in :mod:`.stateless`. What
they share is :mod:`tracegrad.levels`.
"""

from tracegrad.func.forward import hessian, jacfwd, jvp, linearize
from tracegrad.func.reverse import grad, grad_and_value, jacrev, vjp
from tracegrad.func.stateless import functional_call, stack_module_state
from tracegrad.func.vectorize import vmap

__all__ = [
    "functional_call", "grad", "grad_and_value", "hessian", "jacfwd", "jacrev", "jvp", "linearize",
    "stack_module_state", "vjp", "vmap",
]  # fmt: skip
