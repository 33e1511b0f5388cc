"""Sums of products over named dimensions: einsum, tensordot, and chains and Kronecker products of matrices.

The data structure is :class:`Labelled`, a tensor with a label for each dimension. Two of them are contracted by one
(batched) matrix product between permutations, which the compiler fuses; see :func:`_contract`.
"""

from __future__ import annotations

import itertools
import math
import operator
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from tracegrad.dispatch import shown_as
from tracegrad.ops import elementwise as ew
from tracegrad.ops import linalg, reduction
from tracegrad.ops.arguments import canonical_dim, require_tensors
from tracegrad.ops.out_argument import C_NAMES
from tracegrad.ops.shaping import permute, reshape
from tracegrad.ops.striding import diagonal
from tracegrad.reporting import reported
from tracegrad.tensor import Tensor

# Labels are letters, and numbers for the dimensions of an ellipsis, counted from the last.
Label = str | int
# As torch numbers them in subscript lists; the module string would cost more to import than this one.
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ELLIPSIS = "."


class Labelled(NamedTuple):
    """A tensor whose dimensions have labels, each another one."""

    tensor: Tensor
    labels: tuple[Label, ...]

    def extent(self, label: Label) -> int:
        return int(self.tensor._data.shape[self.labels.index(label)])


def _ordered(x: Labelled, labels: Sequence[Label]) -> Tensor:
    order = [x.labels.index(label) for label in labels]
    return x.tensor if order == list(range(len(order))) else permute(x.tensor, order)


def _summed(x: Labelled, kept: set[Label]) -> Labelled:
    """With the dimensions that nobody needs summed up."""
    axes = [d for d, label in enumerate(x.labels) if label not in kept]
    if not axes:
        return x
    total = reduction.sum(x.tensor, axes, dtype=x.tensor.dtype)
    return Labelled(total, tuple(label for label in x.labels if label in kept))


def _without_ones(x: Labelled, other: Labelled) -> Labelled:
    """Without dimensions of extent 1 that broadcast against those of `other`."""
    dropped = [v for v in x.labels if v in other.labels and x.extent(v) == 1 != other.extent(v)]
    if not dropped:
        return x
    labels = tuple(v for v in x.labels if v not in dropped)
    return Labelled(reshape(x.tensor, [x.extent(v) for v in labels]), labels)


def _contract(x: Labelled, y: Labelled, kept: set[Label]) -> Labelled:
    """The product, summed over the labels that are not kept.

    Labels are of four kinds: in both and kept (a batch), in both and summed, in one only.
    """
    x, y = _without_ones(x, y), _without_ones(y, x)
    x = _summed(x, kept | set(y.labels))
    y = _summed(y, kept | set(x.labels))
    shared = [label for label in x.labels if label in y.labels]
    batch = [label for label in shared if label in kept]
    inner = [label for label in shared if label not in kept]
    left = [label for label in x.labels if label not in shared]
    right = [label for label in y.labels if label not in shared]
    extents = {label: v.extent(label) for v in (y, x) for label in v.labels}

    def count(labels: list[Label]) -> int:
        return math.prod(extents[label] for label in labels)

    labels = tuple(batch + left + right)
    if not inner:
        a = reshape(
            _ordered(x, batch + left), [extents[v] for v in batch + left] + [1] * len(right)
        )
        shape = [extents[v] for v in batch] + [1] * len(left) + [extents[v] for v in right]
        return Labelled(ew.mul(a, reshape(_ordered(y, batch + right), shape)), labels)
    lead = [count(batch)] if batch else []
    a = reshape(_ordered(x, batch + left + inner), [*lead, count(left), count(inner)])
    b = reshape(_ordered(y, batch + inner + right), [*lead, count(inner), count(right)])
    product = linalg.matmul(a, b)
    return Labelled(reshape(product, [extents[label] for label in labels]), labels)


def _contract_all(operands: list[Labelled], output: set[Label]) -> Labelled:
    """Contract pair after pair, the one with the smallest result first."""
    while len(operands) > 1:
        best, cheapest = (0, 1), math.inf
        if len(operands) > 2:
            for i, x in enumerate(operands):
                for j in range(i + 1, len(operands)):
                    kept = _needed(operands, (i, j), output)
                    size = _size_of_product(x, operands[j], kept)
                    if size < cheapest:
                        best, cheapest = (i, j), size
        i, j = best
        product = _contract(operands[i], operands[j], _needed(operands, best, output))
        operands = [x for k, x in enumerate(operands) if k not in best]
        operands.insert(i, product)
    return operands[0]


def _needed(operands: list[Labelled], pair: tuple[int, int], output: set[Label]) -> set[Label]:
    return output.union(*(x.labels for k, x in enumerate(operands) if k not in pair))


def _size_of_product(x: Labelled, y: Labelled, kept: set[Label]) -> int:
    extents: dict[Label, int] = {}
    for v in (x, y):
        for label in v.labels:
            if label in kept:
                extents[label] = max(extents.get(label, 1), v.extent(label))
    return math.prod(extents.values())


# The notation.


def _parse_term(term: str, where: str, start: int) -> list[str]:
    """The letters of one term, and `_ELLIPSIS` where one stands."""
    found: list[str] = []
    position = 0
    while position < len(term):
        letter = term[position]
        if letter == ".":
            if _ELLIPSIS in found:
                raise RuntimeError(
                    f"einsum(): found '.' for {where} for which an ellipsis was already found"
                )
            if not term.startswith("...", position):
                more = " (...)" if where == "output" else ""
                raise RuntimeError(
                    f"einsum(): found '.' for {where} that is not part of any ellipsis{more}"
                )
            found.append(_ELLIPSIS)
            position += 3
            continue
        if letter != " ":
            if letter not in _LETTERS:
                raise RuntimeError(
                    f"einsum(): invalid subscript given at index {start + position} in the equation string, "
                    "subscripts must be in [a-zA-Z]"
                )
            found.append(letter)
        position += 1
    return found


def _parse_equation(equation: str, count: int) -> tuple[list[list[str]], list[str] | None]:
    left, arrow, right = equation.partition("->")
    terms, start = [], 0
    for number, term in enumerate(left.split(",")):
        terms.append(_parse_term(term, f"operand {number}", start))
        start += len(term) + 1
    if len(terms) != count:
        more = "fewer" if count < len(terms) else "more"
        raise RuntimeError(
            f"einsum(): {more} operands were provided than specified in the equation"
        )
    output = _parse_term(right, "output", len(left) + 2) if arrow else None
    return terms, output


def _letters_of(subscripts: Sequence[Any]) -> list[str]:
    letters = []
    for subscript in subscripts:
        if subscript is Ellipsis:
            letters.append(_ELLIPSIS)
            continue
        number = operator.index(subscript)
        if not 0 <= number < len(_LETTERS):
            raise ValueError(
                f"einsum(): subscript in subscript list is not within the valid range [0, {len(_LETTERS)})"
            )
        letters.append(_LETTERS[number])
    return letters


def _parse_lists(args: Sequence[Any]) -> tuple[list[Any], list[list[str]], list[str] | None]:
    """Operands and subscripts in turn, and those of the output behind them, if they are given."""
    pairs = len(args) // 2
    operands = [args[2 * k] for k in range(pairs)]
    terms = [_letters_of(args[2 * k + 1]) for k in range(pairs)]
    return operands, terms, _letters_of(args[-1]) if len(args) % 2 else None


def _labelled(number: int, x: Tensor, term: list[str]) -> Labelled:
    """The operand with a label for each dimension; repeated ones are diagonals."""
    n, named = x._data.ndim, len(term) - (_ELLIPSIS in term)
    if _ELLIPSIS in term:
        if named > n:
            raise RuntimeError(
                f"einsum(): the number of subscripts in the equation ({named}) is more than the number of "
                f"dimensions ({n}) for operand {number}"
            )
        place = term.index(_ELLIPSIS)
        covered: list[Label] = list(range(n - named - 1, -1, -1))
        labels: list[Label] = [*term[:place], *covered, *term[place + 1 :]]
    else:
        if named != n:
            raise RuntimeError(
                f"einsum(): the number of subscripts in the equation ({named}) does not match the number of "
                f"dimensions ({n}) for operand {number} and no ellipsis was given"
            )
        labels = list(term)
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            m, k = x._data.shape[first], x._data.shape[second]
            if m != k:
                raise RuntimeError(
                    f"einsum(): subscript {label} is repeated for operand {number} but the sizes don't "
                    f"match, {k} != {m}"
                )
            x = diagonal(x, 0, first, second)
            labels = [v for d, v in enumerate(labels) if d not in (first, second)] + [label]
    return Labelled(x, tuple(labels))


def _check_extents(operands: list[Labelled]) -> None:
    seen: dict[Label, int] = {}
    for number, x in enumerate(operands):
        for label in x.labels:
            extent, known = x.extent(label), seen.get(label, 1)
            if extent not in (1, known) and known != 1:
                raise RuntimeError(
                    f"einsum(): subscript {label if isinstance(label, str) else '...'} has size {extent} "
                    f"for operand {number} which does not broadcast with previously seen size {known}"
                )
            seen[label] = known if extent == 1 else extent


def _output_labels(
    operands: list[Labelled], terms: list[list[str]], output: list[str] | None
) -> tuple[Label, ...]:
    covered = max((v for x in operands for v in x.labels if isinstance(v, int)), default=-1)
    ellipsis: list[Label] = list(range(covered, -1, -1))
    letters = [letter for term in terms for letter in term if letter != _ELLIPSIS]
    if output is None:
        once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        return (*ellipsis, *once)
    for letter in output:
        if letter != _ELLIPSIS and output.count(letter) > 1:
            raise RuntimeError(
                f"einsum(): output subscript {letter} appears more than once in the output"
            )
        if letter != _ELLIPSIS and letter not in letters:
            raise RuntimeError(
                f"einsum(): output subscript {letter} does not appear in the equation for any input operand"
            )
    labels: list[Label] = []
    for letter in output:
        labels += ellipsis if letter == _ELLIPSIS else [letter]
    return tuple(labels)


@reported("aten::einsum")
def einsum(*args: Any) -> Tensor:
    """The sum of products of operands in Einstein's notation, as ``torch.einsum``.

    Given as ``einsum("ij,jk->ik", x, y)`` or with lists of numbers, ``einsum(x, [0, 1], y, [1, 2], [0, 2])``. Letters
    that the output does not have are summed over; without ``->`` it has those that stand once, in alphabetical
    order, behind the dimensions of the ellipsis ``...``. A letter repeated in one operand takes the diagonal.
    Dimensions of extent 1 broadcast.

    Raises:
        ValueError: there is no operand, or a number is no subscript.
        RuntimeError: the equation does not fit the operands, whose dtypes must be the same.
    """
    if len(args) < 2:
        raise ValueError(
            "einsum(): must specify the equation string and at least one operand, or at least one operand and "
            "its subscripts list"
        )
    if isinstance(args[0], str):
        operands = list(args[1:])
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = list(operands[0])
        terms, output = _parse_equation(args[0], len(operands))
    else:
        operands, terms, output = _parse_lists(args)
    for number, x in enumerate(operands):
        if not isinstance(x, Tensor):
            raise TypeError(
                f"expected Tensor as element {number} in argument 1, but got {type(x).__name__}"
            )
    for x in operands[1:]:
        if x.dtype is not operands[0].dtype:
            raise RuntimeError(
                f"expected scalar type {operands[0].dtype.legacy_name} but found {x.dtype.legacy_name}"
            )
    labelled = [_labelled(k, x, t) for k, (x, t) in enumerate(zip(operands, terms, strict=True))]
    labels = _output_labels(labelled, terms, output)
    _check_extents(labelled)
    kept = set(labels)
    if len(labelled) == 1:
        labelled = [_summed(labelled[0], kept)]
    result = _contract_all(labelled, kept)
    ordered = _ordered(result, labels)
    if any(ordered is x for x in operands):
        ordered = permute(ordered, range(ordered._data.ndim))
    return ordered


def _contracted_dims(a: Tensor, b: Tensor, dims: Any) -> tuple[list[int], list[int]]:
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, (list, tuple)):
        first, second = ([d] if isinstance(d, int) else list(d) for d in dims)
        return first, second
    count = operator.index(dims)
    if count < 0:
        raise RuntimeError(f"tensordot expects dims >= 0, but got dims={count}")
    if count > min(a._data.ndim, b._data.ndim):
        raise RuntimeError(f"tensordot expects dims < ndim_a or ndim_b, but got dims={count}")
    return list(range(-count, 0)), list(range(count))


@reported("aten::tensordot")
def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """The sum of products over dimensions of both.

    Args:
        dims: how many of the last dimensions of `a` and the first of `b`; or two lists of dimensions.

    Raises:
        RuntimeError: they do not match, or the dtypes differ.
    """
    require_tensors("tensordot", a=(1, a), b=(2, b))
    first, second = _contracted_dims(a, b, dims)
    if len(first) != len(second):
        raise RuntimeError("both dimension lists should have same length")
    if a.dtype is not b.dtype:
        raise RuntimeError("both inputs should have same dtype")
    names: list[list[Label]] = [
        [f"{side}{d}" for d in range(x._data.ndim)] for side, x in (("a", a), ("b", b))
    ]
    seen: tuple[set[int], set[int]] = set(), set()
    for number, (p, q) in enumerate(zip(first, second, strict=True)):
        d, e = canonical_dim(p, a._data.ndim), canonical_dim(q, b._data.ndim)
        for axis, known in zip((d, e), seen, strict=True):
            if axis in known:
                raise RuntimeError(f"dim {axis} appears multiple times in the list of dims")
            known.add(axis)
        m, n = a._data.shape[d], b._data.shape[e]
        if m != n and 1 not in (m, n):
            raise RuntimeError(
                f"contracted dimensions need to match, but first has size {m} in dim {p} and second has "
                f"size {n} in dim {q}"
            )
        names[0][d] = names[1][e] = number
    outer = [label for side in names for label in side if isinstance(label, str)]
    x, y = Labelled(a, tuple(names[0])), Labelled(b, tuple(names[1]))
    return _ordered(_contract(x, y, set(outer)), outer)


@reported("aten::kron")
def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product: blocks of `other`, one for each element of `input`, along every dimension."""
    require_tensors("kron", input=(1, input), other=(2, other))
    n = max(input._data.ndim, other._data.ndim)
    shapes = [(1,) * (n - x._data.ndim) + x._data.shape for x in (input, other)]
    wide = [v for m in shapes[0] for v in (m, 1)]
    fine = [v for m in shapes[1] for v in (1, m)]
    product = ew.mul(reshape(input, wide), reshape(other, fine))
    result = reshape(product, [p * q for p, q in zip(*shapes, strict=True)])
    return shown_as(result, "UnsafeViewBackward0", product)


def _cheapest_order(extents: list[int]) -> list[list[int]]:
    """Where to split each run of matrices so that their product takes the fewest multiplications."""
    n = len(extents) - 1
    cost = [[0] * n for _ in range(n)]
    split = [[0] * n for _ in range(n)]
    for span in range(1, n):
        for i in range(n - span):
            j = i + span
            cost[i][j], split[i][j] = min(
                (cost[i][k] + cost[k + 1][j] + extents[i] * extents[k + 1] * extents[j + 1], k)
                for k in range(i, j)
            )
    return split


def _chain(matrices: list[Tensor]) -> Tensor:
    split = _cheapest_order([matrices[0]._data.shape[0], *(m._data.shape[1] for m in matrices)])
    # Products of runs are made once all that they are made of are there: shorter runs first.
    runs, waiting = [], [(0, len(matrices) - 1)]
    while waiting:
        i, j = waiting.pop()
        runs.append((i, j))
        if i < j:
            waiting += [(i, split[i][j]), (split[i][j] + 1, j)]
    made: dict[tuple[int, int], Tensor] = {}
    for i, j in reversed(runs):
        k = split[i][j]
        made[i, j] = matrices[i] if i == j else linalg.mm(made[i, k], made[k + 1, j])
    return made[0, len(matrices) - 1]


@reported("aten::linalg_multi_dot")
def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of matrices in the order that costs least; the first and the last may be vectors.

    Raises:
        RuntimeError: there are fewer than two, or shapes do not fit.
    """
    parts = list(tensors)
    n = len(parts)
    if n < 2:
        raise RuntimeError(f"multi_dot(): expected at least 2 tensors but got {n}")
    row, column = parts[0]._data.ndim == 1, parts[-1]._data.ndim == 1
    if row:
        parts[0] = reshape(parts[0], 1, -1)
    if column:
        parts[-1] = reshape(parts[-1], -1, 1)
    for number, x in enumerate(parts):
        if x._data.ndim != 2:
            allowed = "1D or 2D" if number in (0, n - 1) else "2D"
            kind = "the first tensor" if number == 0 else "the last tensor"
            kind = kind if number in (0, n - 1) else f"tensor {number}"
            raise RuntimeError(f"multi_dot(): {kind} must be {allowed} but got {x._data.ndim}D")
        if x._data.dtype != parts[0]._data.dtype:
            first, other = (C_NAMES[t.dtype.name] for t in (parts[0], x))
            raise RuntimeError(
                f"multi_dot(): all tensors must have be the same dtype but tensor 0 is {first} and tensor {number} "
                f"{other}"
            )
    for number, (x, y) in enumerate(itertools.pairwise(parts)):
        if x._data.shape[1] != y._data.shape[0]:
            raise RuntimeError(
                f"multi_dot(): tensors {number} and {number + 1} with shapes {list(tensors[number].shape)} and "
                f"{list(tensors[number + 1].shape)} cannot be multiplied"
            )
    product = _chain(parts)
    shape = product._data.shape[int(row) : 1 if column else 2]
    return reshape(product, shape)


@reported("aten::chain_matmul")
def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of matrices in the order that costs least; see `multi_dot`.

    Raises:
        RuntimeError: there is none, or one is no matrix.
    """
    warnings.warn(
        "torch.chain_matmul is deprecated and will be removed in a future PyTorch release. Use "
        "torch.linalg.multi_dot instead, which accepts a list of two or more tensors rather than multiple "
        "parameters.",
        UserWarning,
        stacklevel=3,
    )
    if not matrices:
        raise RuntimeError("chain_matmul(): Expected one or more matrices")
    for x in matrices:
        if x._data.ndim != 2:
            raise RuntimeError(f"Tensor dimension is {x._data.ndim}, expected 2 instead.")
    return ew.clone(matrices[0]) if len(matrices) == 1 else multi_dot(matrices)
