"""Tensors in notebooks: a table for up to two dimensions, else the text that `repr` gives. See :func:`repr_html`."""

from __future__ import annotations

from tracegrad.formatting import table_of
from tracegrad.tensor import Tensor, is_lifted


def repr_html(self: Tensor) -> str:
    """The tensor as HTML, for notebooks: its elements as `repr` writes them, under a line that says what it is."""
    import html  # Late: its tables cost more than the rest of this module, and few programs run in notebooks.

    self._escapes("print")
    if is_lifted(self) or self._data.ndim > 2 or not self._data.size:
        return f"<pre>{html.escape(repr(self))}</pre>"
    words = [type(self).__name__, str(self.dtype).removeprefix("torch."), str(list(self.shape))]
    if self.grad_fn is not None:
        words.append(f"grad_fn=<{self.grad_fn.name()}>")
    elif self.requires_grad:
        words.append("requires_grad=True")
    rows = "".join(
        "<tr>" + "".join(f'<td style="text-align: right">{cell}</td>' for cell in row) + "</tr>"
        for row in table_of(self._data)
    )
    return f"<div><small>{html.escape(', '.join(words))}</small><table>{rows}</table></div>"
