"""Tensors as text: what `repr`, `str` and `format` print, character by character as in torch.

Everything here works on NumPy arrays and knows nothing of tensors. `format_tensor` is the place to
start reading; its one data structure is `_NumberStyle`, the width and notation that all elements of
one tensor share. As in torch, the style is decided on the elements that are shown, in float64, and
a tensor of more than `threshold` elements shows only `edgeitems` of them at both ends of each
dimension.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

_PROFILES: dict[str, dict[str, Any]] = {
    "default": {"precision": 4, "threshold": 1000, "edgeitems": 3, "linewidth": 80},
    "short": {"precision": 2, "threshold": 1000, "edgeitems": 2, "linewidth": 80},
    "full": {"precision": 4, "threshold": math.inf, "edgeitems": 3, "linewidth": 80},
}

_options: dict[str, Any] = {**_PROFILES["default"], "sci_mode": None}

_FLOAT32 = np.dtype(np.float32)

# Beside the default float, the dtypes that need no name after elements which look like them.
_SELF_EVIDENT = (np.dtype(np.int64), np.dtype(np.bool_))


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set how tensors are printed, for the whole process; None leaves an option as it is.

    `precision`: digits after the point (4). `threshold`: number of elements above which a tensor is
    summarised (1000). `edgeitems`: elements shown at each end of a summarised dimension (3).
    `linewidth`: where lines are broken (80). `profile`: "default", "short" or "full", applied
    before the others. `sci_mode`: True or False forces or forbids scientific notation, None chooses
    by the values; alone among the options it is set by each call, so leaving it out resets it to
    None, as in torch.

    Raises ValueError for an unknown profile (torch ignores it).
    """
    if profile is not None:
        if profile not in _PROFILES:
            known = ", ".join(repr(name) for name in _PROFILES)
            raise ValueError(f"unknown print profile {profile!r}; it must be one of {known}")
        _options.update(_PROFILES[profile])
    given = {
        "precision": precision,
        "threshold": threshold,
        "edgeitems": edgeitems,
        "linewidth": linewidth,
    }
    _options.update((name, value) for name, value in given.items() if value is not None)
    _options["sci_mode"] = sci_mode


def get_printoptions() -> dict[str, Any]:
    """The current print options, as keyword arguments for `set_printoptions`."""
    return dict(_options)


@contextlib.contextmanager
def printoptions(**options: Any) -> Iterator[None]:
    """Set print options inside a `with` block; takes the arguments of `set_printoptions`."""
    before = get_printoptions()
    try:
        set_printoptions(**options)
        yield
    finally:
        _options.update(before)


def format_tensor(
    array: np.ndarray,
    *,
    requires_grad: bool = False,
    grad_fn_name: str | None = None,
    prefix: str = "tensor(",
    default_float: np.dtype = _FLOAT32,
) -> str:
    """The `repr` of a tensor that holds `array`, of any shape and any bool, integer or float dtype.

    `grad_fn_name` is the class name of the tensor's grad_fn ("SinBackward0"); it wins over
    `requires_grad`, as in torch. `prefix` opens the text and sets the indentation of the lines
    below it. `default_float` is the default dtype at this moment, which is not printed.

    Raises TypeError for other dtypes. Time and memory are linear in the number of elements shown.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"cannot print a tensor of dtype {array.dtype}")
    edgeitems = _options["edgeitems"]
    suffixes = []
    if array.size == 0:
        body = "[]"
        if array.ndim != 1:
            suffixes.append(f"size={array.shape}")
        show_dtype = array.dtype != default_float  # there is no element to tell the dtype from
    else:
        body = _format_elements(array, indent=len(prefix))
        if not edgeitems:
            suffixes.append(f"size={array.shape}")
        show_dtype = array.dtype != default_float and array.dtype not in _SELF_EVIDENT
    if show_dtype:
        suffixes.append(f"dtype=torch.{array.dtype.name}")
    if grad_fn_name is not None:
        suffixes.append(f"grad_fn=<{grad_fn_name}>")
    elif requires_grad:
        suffixes.append("requires_grad=True")
    return _append_suffixes(prefix + body, suffixes, indent=len(prefix))


def format_parameter(
    array: np.ndarray,
    *,
    requires_grad: bool = True,
    grad_fn_name: str | None = None,
    default_float: np.dtype = _FLOAT32,
) -> str:
    """The `repr` of an `nn.Parameter`; arguments and errors are those of `format_tensor`."""
    text = format_tensor(
        array,
        requires_grad=requires_grad,
        grad_fn_name=grad_fn_name,
        default_float=default_float,
    )
    return "Parameter containing:\n" + text


def format_scalar(value: np.ndarray | np.generic, spec: str) -> str:
    """`format(tensor, spec)` of a tensor without dimensions: its element as a Python number.

    Only plain tensors with no dimension print like this; `__format__` of any other tensor,
    parameters among them, is `object.__format__(tensor, spec)`, which raises TypeError for a spec
    that is not empty. Raises ValueError where Python does not know the spec for such a number.
    """
    return format(value.item(), spec)


class _NumberStyle:
    """How the elements of one tensor are written, all with the same width.

    `shown` holds the elements that will be printed. Only finite values other than zero decide the
    notation of floats: whole numbers are written "1.", others with `precision` digits, and all of
    them scientifically if the largest is more than 1000 times the smallest, or above 1e8, or the
    smallest below 1e-4.
    """

    __slots__ = ("_floating", "_pattern", "_whole", "width")

    def __init__(self, shown: np.ndarray) -> None:
        self._floating = shown.dtype.kind == "f"
        self._whole = False
        self._pattern = ""
        self.width = 1
        if self._floating:
            self._fit_floats(shown)
        else:
            self.width = max((len(str(value)) for value in shown.ravel().tolist()), default=1)

    def _fit_floats(self, shown: np.ndarray) -> None:
        values = shown[np.isfinite(shown) & (shown != 0)].astype(np.float64)
        if values.size == 0:
            self._whole = True
            self._pattern = ".0f"
            return
        precision = _options["precision"]
        whole = bool((values == np.ceil(values)).all())
        scientific = _options["sci_mode"]
        if scientific is None:
            magnitudes = np.abs(values)
            # As Python floats: a quotient beyond float64's range is inf here, without a warning.
            largest, smallest = float(magnitudes.max()), float(magnitudes.min())
            scientific = largest / smallest > 1000.0 or largest > 1.0e8 or smallest < 1.0e-4
        if scientific:
            self._pattern = f".{precision}e"
        elif whole:
            self._whole = True
            self._pattern = ".0f"
        else:
            self._pattern = f".{precision}f"
        longest = max(len(format(value, self._pattern)) for value in values.tolist())
        self.width = longest + self._whole  # the point after a whole number

    def write(self, value: float) -> str:
        """One element, given as a Python number, padded on the left."""
        if not self._floating:
            text = str(value)
        else:
            text = format(value, self._pattern)
            if self._whole and math.isfinite(value):
                text += "."
        return text.rjust(self.width)


def _format_elements(array: np.ndarray, indent: int) -> str:
    """The nested brackets of a tensor that is not empty."""
    cut = [False] * array.ndim
    if array.size > _options["threshold"]:
        array, cut = _take_edges(array)
    return _format_nested(array, cut, _NumberStyle(array), indent)


def table_of(array: np.ndarray) -> list[list[str]]:
    """The rows of cells of an array with at most two dimensions, which is not empty; "..." for what is left out."""
    cut = [False] * array.ndim
    if array.size > _options["threshold"]:
        array, cut = _take_edges(array)
    style, edgeitems = _NumberStyle(array), _options["edgeitems"]
    rows = [[style.write(value).strip() for value in row] for row in np.atleast_2d(array).tolist()]
    if cut and cut[-1]:
        for row in rows:
            row.insert(edgeitems, "...")
    if len(cut) == 2 and cut[0]:
        rows.insert(edgeitems, ["..."] * max(map(len, rows), default=1))
    return rows


def _take_edges(array: np.ndarray) -> tuple[np.ndarray, list[bool]]:
    """The elements that a summary shows, and which dimensions had their middle left out."""
    edgeitems = _options["edgeitems"]
    cut = [size > 2 * edgeitems for size in array.shape]
    for axis, is_cut in enumerate(cut):
        if is_cut:
            size = array.shape[axis]
            kept = [*range(edgeitems), *range(size - edgeitems, size)]
            array = np.take(array, np.array(kept, dtype=np.intp), axis=axis)
    return array, cut


def _format_nested(array: np.ndarray, cut: list[bool], style: _NumberStyle, indent: int) -> str:
    """`array` in brackets; `cut` tells for each dimension whether "..." stands in its middle."""
    if array.ndim == 0:
        return style.write(array.item())
    edgeitems = _options["edgeitems"]
    if array.ndim == 1:
        items = [style.write(value) for value in array.tolist()]
        if cut[0]:
            items.insert(edgeitems, " ..." if edgeitems else "...")
        per_line = max(1, (_options["linewidth"] - indent) // (style.width + 2))
        lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
        return "[" + f",\n{' ' * (indent + 1)}".join(lines) + "]"
    rows = [_format_nested(row, cut[1:], style, indent + 1) for row in array]
    if cut[0]:
        rows.insert(edgeitems, "...")
    separator = "," + "\n" * (array.ndim - 1) + " " * (indent + 1)
    return "[" + separator.join(rows) + "]"


def _append_suffixes(text: str, suffixes: list[str], indent: int) -> str:
    """Append the suffixes, each on a new line if it would pass `linewidth`; close the bracket."""
    column = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if column + len(suffix) + 2 > _options["linewidth"]:
            text += f",\n{' ' * indent}{suffix}"
            column = indent + len(suffix)
        else:
            text += f", {suffix}"
            column += len(suffix) + 2
    return text + ")"
