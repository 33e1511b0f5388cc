"""Element types and tensor types of the IR, with torch's promotion rules.

The data structures are :class:`DType` (a handful of interned instances, one per element type; they are also
what users see as ``tracegrad.float32``) and :class:`TensorType` (element type and static shape, printed as
``f32[3,4]``). Start reading at :data:`DTYPES`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]

_BOOL, _INTEGER, _FLOATING = 0, 1, 2


_LEGACY_NAMES = {
    "bool": "Bool", "uint8": "Byte", "int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long",
    "float32": "Float", "float64": "Double",
}  # fmt: skip


class DType:
    """An element type. Instances are interned: compare them with ``is``.

    Attributes:
        name: short name in the IR, such as ``f32``.
        np: the NumPy dtype.
        legacy_name: what torch calls it in messages and type names: ``Float``, ``Long``, ...
        category: 0 for bool, 1 for integers, 2 for floating point; promotion never goes down.
        itemsize: bytes per element.
    """

    __slots__ = ("__weakref__", "_torch_name", "category", "itemsize", "legacy_name", "name", "np")

    def __init__(self, name: str, torch_name: str, np_dtype: Any, category: int) -> None:
        self.name = name
        self._torch_name = torch_name
        self.legacy_name = _LEGACY_NAMES[torch_name]
        self.np = np.dtype(np_dtype)
        self.category = category
        self.itemsize = self.np.itemsize

    @property
    def is_floating_point(self) -> bool:
        return self.category == _FLOATING

    is_floating = is_floating_point

    @property
    def is_complex(self) -> bool:
        return False

    @property
    def is_signed(self) -> bool:
        return self.np.kind != "u" and self.category != _BOOL

    def __repr__(self) -> str:
        return f"torch.{self._torch_name}"

    def __str__(self) -> str:
        return f"torch.{self._torch_name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return dtype_named, (self.name,)

    def __copy__(self) -> DType:
        return self

    def __deepcopy__(self, memo: object) -> DType:
        return self


bool_ = DType("b1", "bool", np.bool_, _BOOL)
uint8 = DType("u8", "uint8", np.uint8, _INTEGER)
int8 = DType("i8", "int8", np.int8, _INTEGER)
int16 = DType("i16", "int16", np.int16, _INTEGER)
int32 = DType("i32", "int32", np.int32, _INTEGER)
int64 = DType("i64", "int64", np.int64, _INTEGER)
float32 = DType("f32", "float32", np.float32, _FLOATING)
float64 = DType("f64", "float64", np.float64, _FLOATING)

DTYPES: tuple[DType, ...] = (bool_, uint8, int8, int16, int32, int64, float32, float64)

_BY_NAME = {dtype.name: dtype for dtype in DTYPES}
_BY_NUMPY = {dtype.np: dtype for dtype in DTYPES}


def dtype_named(name: str) -> DType:
    """The dtype with this IR name (``f32``). Raises KeyError for an unknown one."""
    return _BY_NAME[name]


def dtype_of(value: Any) -> DType:
    """The DType of anything that has a NumPy or tracegrad ``dtype``.

    Raises:
        TypeError: the element type is none that tracegrad has.
    """
    dtype = value.dtype
    if dtype.__class__ is DType:
        return dtype
    return from_numpy_dtype(dtype)


def from_numpy_dtype(dtype: Any) -> DType:
    """The DType for a NumPy dtype. Raises TypeError for one that tracegrad does not have."""
    found = _BY_NUMPY.get(dtype)
    if found is None:
        found = _BY_NUMPY.get(np.dtype(dtype).newbyteorder("="))
    if found is None:
        raise TypeError(
            f"can't convert np.ndarray of type {np.dtype(dtype)}. The only supported types are: "
            f"{', '.join(repr(d)[6:] for d in reversed(DTYPES))}."
        )
    return found


def _promote_pair(a: DType, b: DType) -> DType:
    if a.category == b.category:
        return from_numpy_dtype(np.promote_types(a.np, b.np))
    return a if a.category > b.category else b


_PROMOTED = {(a, b): _promote_pair(a, b) for a in DTYPES for b in DTYPES}


def promote(a: DType, b: DType) -> DType:
    """The common element type of two tensors of equal rank class, by torch's table.

    Unlike NumPy an integer does not widen a float: ``i64`` with ``f32`` is ``f32``.
    """
    return _PROMOTED[a, b]


class TensorType(NamedTuple):
    """The static type of an IR value: element type and shape. Prints as ``f32[3,4]``."""

    dtype: DType
    shape: Shape

    @property
    def by_columns(self) -> bool:
        """Whether its matrices are known to lie in memory column after column; see `ByColumns`."""
        return False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"

    def __repr__(self) -> str:
        return str(self)


class ByColumns(TensorType):
    """The type of an array whose matrices lie in memory column after column, and equal to any type of that shape.

    Records of eager operations keep it for rules that can choose how to lay out a cotangent: the gradient of
    ``weight`` in ``x @ weight.t()`` then needs no copy to lie as `weight` does.
    """

    __slots__ = ()

    @property
    def by_columns(self) -> bool:
        return True


def type_of(value: Any) -> TensorType:
    """The TensorType of an array, a Tensor or a Node."""
    return TensorType(dtype_of(value), tuple(value.shape))


def broadcast_shapes(a: Shape, b: Shape) -> Shape:
    """The shape of ``a`` and ``b`` broadcast together.

    Raises:
        RuntimeError: torch's sentence for sizes that do not match.
    """
    if a == b:
        return a
    if len(a) < len(b):
        padded_a, padded_b = (1,) * (len(b) - len(a)) + a, b
    else:
        padded_a, padded_b = a, (1,) * (len(a) - len(b)) + b
    out = []
    for axis, (m, n) in enumerate(zip(padded_a, padded_b, strict=True)):
        if m == n or n == 1:
            out.append(m)
        elif m == 1:
            out.append(n)
        else:
            # torch reports the last dimension that does not fit.
            for last in range(len(padded_a) - 1, axis - 1, -1):
                p, q = padded_a[last], padded_b[last]
                if p != q and p != 1 and q != 1:
                    raise RuntimeError(
                        f"The size of tensor a ({p}) must match the size of tensor b ({q}) "
                        f"at non-singleton dimension {last}"
                    )
    return tuple(out)
