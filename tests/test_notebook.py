"""What notebooks show: well-formed tables of the elements that `repr` writes, or its text."""

from __future__ import annotations

import html
import xml.etree.ElementTree as ElementTree

import pytest

import tracegrad as tg


def cells(text: str) -> tuple[str, list[list[str]]]:
    root = ElementTree.fromstring(text)
    rows = [[cell.text or "" for cell in row] for row in root.iter("tr")]
    return root.find("small").text or "", rows


@pytest.mark.parametrize(
    ("x", "words", "rows"),
    [
        (tg.tensor([[1.0, 2.5], [3, -4]]), "float32, [2, 2]", [["1.0000", "2.5000"], ["3.0000", "-4.0000"]]),
        (tg.tensor([1, 20, 3]), "int64, [3]", [["1", "20", "3"]]),
        (tg.tensor(True), "bool, []", [["True"]]),
        (tg.tensor([1e10, float("nan")]), "float32, [2]", [["1.0000e+10", "nan"]]),
        (tg.ones(1, requires_grad=True), "float32, [1], requires_grad=True", [["1."]]),
        (tg.ones(1, requires_grad=True) * 2, "float32, [1], grad_fn=<MulBackward0>", [["2."]]),
    ],
)  # fmt: skip
def test_tables(x: tg.Tensor, words: str, rows: list[list[str]]) -> None:
    assert cells(x._repr_html_()) == (f"Tensor, {words}", rows)


def test_large_ones_show_their_edges() -> None:
    _, rows = cells(tg.zeros(200, 100)._repr_html_())
    assert len(rows) == 7
    assert rows[0] == ["0."] * 3 + ["..."] + ["0."] * 3
    assert rows[3] == ["..."] * 7
    _, rows = cells(tg.arange(2000)._repr_html_())
    assert rows == [["0", "1", "2", "...", "1997", "1998", "1999"]]


@pytest.mark.parametrize(
    "x", [tg.zeros(2, 2, 2), tg.zeros(0, 3), tg.zeros(1, 1, 1).requires_grad_() * 2]
)
def test_others_are_text(x: tg.Tensor) -> None:
    text = x._repr_html_()
    assert text == f"<pre>{html.escape(repr(x))}</pre>"
    ElementTree.fromstring(text)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_function_that_shows_one_is_not_compiled() -> None:
    f = tg.compile(lambda x: (x * 2)._repr_html_())
    for turn in range(3):
        x = tg.full((2,), float(turn))
        assert f(x) == (x * 2)._repr_html_()
    assert f.stats.native == 0
