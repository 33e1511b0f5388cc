"""``nn.utils`` (torch's name): what is done with parameters, gradients and sequences around the layers.

The modules have torch's names: ``clip_grad`` and ``convert_parameters`` for gradients and parameters, ``rnn`` for
sequences of different lengths.
"""

from tracegrad.nn.utils import rnn
from tracegrad.nn.utils.clip_grad import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from tracegrad.nn.utils.convert_parameters import parameters_to_vector, vector_to_parameters

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "parameters_to_vector",
    "rnn",
    "vector_to_parameters",
]
