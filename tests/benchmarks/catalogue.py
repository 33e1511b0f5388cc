"""All benchmarks, in the order in which they are run and printed."""

from __future__ import annotations

from .attention import ATTENTION_STEP
from .convolution import CONVOLUTION_STEP
from .derivatives import ROSENBROCK_HESSIAN
from .eager import EAGER_LOOP, EAGER_LOOP_BACKWARD, EAGER_THREE_LAYER, EAGER_TWO_LAYER
from .measurement import Benchmark
from .pointwise import LAYERNORM_GELU, SCALAR_CALL, SIN_SUM, SIN_SUM_BACKWARD
from .training import POLICY_STEP, TWO_LAYER_STEP

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        TWO_LAYER_STEP,
        SIN_SUM,
        SIN_SUM_BACKWARD,
        SCALAR_CALL,
        ROSENBROCK_HESSIAN,
        POLICY_STEP,
        CONVOLUTION_STEP,
        ATTENTION_STEP,
        LAYERNORM_GELU,
        EAGER_LOOP,
        EAGER_LOOP_BACKWARD,
        EAGER_TWO_LAYER,
        EAGER_THREE_LAYER,
    )
}
