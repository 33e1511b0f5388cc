"""Matrix products specialised on shape and strides: which loops to emit, at what cost.

The data structure is :class:`MatmulSpec`, one product ``C[m, n] = A[m, k] @ B[k, n]`` with static
extents and strides. Start reading at :func:`emit_matmul`. There are three ways to compute C, and
:func:`choose_plan` takes the cheapest by a count of the instructions that the CPU's ports must do:

- rows: vectors along n (B is read in vectors), elements of A broadcast;
- columns: vectors along m (A is read in vectors), elements of B broadcast, C transposed at the end;
- dot: vectors along k of both, summed across lanes at the end.

The first two need one operand contiguous along the vectors; if it is not, it is packed, panel by
panel, into a buffer on the stack. The loops themselves are emitted by :mod:`.matmul_tiles`.

Every element of C is summed over k in an order fixed by the spec and the CPU's vector width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import llvmlite.ir as ll

from ..ir.types import DType
from .engine import Host, host
from .ll_loops import element_pointer, store_vector
from .ll_types import I32, I64, lanes_for
from .matmul_tiles import Operand, OuterPlan, DotPlan, Pieces, Store, emit_dot, emit_outer
