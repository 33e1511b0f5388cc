"""What rules for matrices are made of: parts, triangles, products, in the last two dimensions. And samples of matrices.

Written with the ops, so that they work on arrays, Tensors and graph nodes. Used by :mod:`.solution`,
:mod:`.factorization` and :mod:`.matrix_exponential`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..op import registered
from ..types import TensorType
from .arithmetic import zeros
from .comparison import eq, ge
from .linalg import matmul
from .reduction import sum_
from .samples import FLOATS, Sample, draw
from .selection import where
from .shape import broadcast_in_dim, concat, reshape, slice_, swap_last


def rows_of(x: Any, begin: int, end: int) -> Any:
    """Some of the rows of matrices."""
    shape = tuple(x.shape)
    lead = (0,) * (len(shape) - 2)
    return slice_(
        x,
        start=(*lead, begin, 0),
        limit=(*shape[:-2], end, shape[-1]),
        stride=(1,) * len(shape),
    )


def columns_of(x: Any, begin: int, end: int) -> Any:
    return swap_last(rows_of(swap_last(x), begin, end))


def on_top(*parts: Any) -> Any:
    """Matrices on top of each other."""
    return concat(*parts, axis=len(parts[0].shape) - 2)


def numbered(x: Any, rows: int, columns: int) -> tuple[Any, Any]:
    """The numbers of the rows and of the columns of matrices, as floats like `x`."""
    count = max(rows, columns)
    numbers = registered("cumsum")(zeros(x, shape=(count,)) + 1.0, axis=0)

    def along(axis: int, extent: int) -> Any:
        part = slice_(numbers, start=(0,), limit=(extent,), stride=(1,))
        return broadcast_in_dim(part, shape=(rows, columns), dims=(axis,))

    return along(0, rows), along(1, columns)


def lower_triangle(x: Any) -> Any:
    """The lower triangle, zeros above."""
    row, column = numbered(x, *tuple(x.shape)[-2:])
    return where(ge(row, column), x, 0.0)


def strictly_lower_triangle(x: Any) -> Any:
    row, column = numbered(x, *tuple(x.shape)[-2:])
    return where(ge(column, row), 0.0, x)


def diagonal_of(x: Any) -> Any:
    """The diagonals of square matrices, as columns of one element."""
    row, column = numbered(x, *tuple(x.shape)[-2:])
    picked = where(eq(row, column), x, 0.0)
    return sum_(picked, axis=(len(tuple(x.shape)) - 1,), keepdims=True)


def on_diagonal(row: Any) -> Any:
    """Square matrices with the elements of rows of one row each on their diagonals."""
    n = tuple(row.shape)[-1]
    i, j = numbered(row, n, n)
    return where(eq(i, j), row, 0.0)


def symmetric_part(x: Any) -> Any:
    return (x + swap_last(x)) * 0.5


def half_lower(x: Any) -> Any:
    """The lower triangle with half of the diagonal."""
    return (lower_triangle(x) + strictly_lower_triangle(x)) * 0.5


def inverse_differences(values: Any) -> Any:
    """``1 / (v[j] - v[i])`` of the elements of a row of one row, zeros on the diagonal."""
    n = tuple(values.shape)[-1]
    row, column = numbered(values, n, n)
    same = eq(row, column)
    differences = values - swap_last(values)
    return where(same, 0.0, 1.0 / where(same, 1.0, differences))


def without_projection(q: Any, x: Any) -> Any:
    """``(I - Q Q^T) x``."""
    return x - matmul(q, matmul(swap_last(q), x))


def product_of(*factors: Any) -> Any:
    result = factors[0]
    for factor in factors[1:]:
        result = matmul(result, factor)
    return result


def regular_matrices(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Matrices of full rank, well away from singular ones."""
    x = draw(rng, shape, dtype)
    m, n = shape[-2:]
    return np.asarray(x + 3 * np.eye(m, n, dtype=x.dtype), x.dtype)


def square_samples(symmetric: bool = False) -> Callable[[np.random.Generator], Iterator[Sample]]:
    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for dtype in FLOATS:
            for shape in ((3, 3), (2, 4, 4), (1, 1), (0, 0), (0, 2, 2)):
                x = regular_matrices(rng, shape, dtype)
                if symmetric:
                    x = (x @ x.mT + np.eye(shape[-1], dtype=x.dtype)).astype(x.dtype)
                yield Sample((x,), {})

    return samples


def matrix_samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        for shape in ((3, 3), (4, 2), (2, 4), (2, 4, 3)):
            yield Sample((regular_matrices(rng, shape, dtype),), {})


def same_type(x: TensorType) -> TensorType:
    return x


def batch_message(name: str, index: int | None, text: str) -> str:
    batch = "" if index is None else f"(Batch element {index}): "
    return f"{name}: {batch}{text}"


def first_bad(x: np.ndarray, is_bad: Callable[[np.ndarray], int]) -> tuple[int | None, int]:
    """The first matrix of a batch with something bad in it (None: there is no batch), and where that is, from 1."""
    flat = x.reshape(-1, *x.shape[-2:])
    for index, matrix in enumerate(flat):
        place = is_bad(matrix)
        if place:
            return (None if x.ndim == 2 else index), place
    return (None if x.ndim == 2 else 0), x.shape[-1]


def as_matrix(x: Any) -> Any:
    """Numbers as matrices of one element."""
    return reshape(x, shape=(*tuple(x.shape), 1, 1))


def total(x: Any) -> Any:
    """The sums of the elements of matrices."""
    n = len(tuple(x.shape))
    return sum_(x, axis=(n - 2, n - 1), keepdims=False)
