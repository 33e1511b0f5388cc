"""``nn.utils`` (torch's name): what is done with parameters, gradients and sequences around the layers.

The modules have torch's names: ``clip_grad`` and ``convert_parameters`` for gradients and parameters, ``rnn`` for
sequences of different lengths, ``parametrize`` and ``parametrizations`` for parameters that are computed from others.
"""

from tracegrad.nn.utils import parametrizations, parametrize, rnn
from tracegrad.nn.utils.clip_grad import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from tracegrad.nn.utils.convert_parameters import parameters_to_vector, vector_to_parameters
from tracegrad.nn.utils.init import skip_init
from tracegrad.nn.utils.weight_norm import remove_weight_norm, weight_norm

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "parameters_to_vector",
    "parametrizations",
    "parametrize",
    "remove_weight_norm",
    "rnn",
    "skip_init",
    "vector_to_parameters",
    "weight_norm",
]
