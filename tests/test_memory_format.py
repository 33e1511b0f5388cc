"""The argument ``memory_format``: what takes it, what it does, and what is refused, against torch."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import tracegrad as tg

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.peers

FORMATS = ("t.preserve_format", "t.contiguous_format", "t.channels_last", "t.channels_last_3d")
NO_FORMATS = ("'channels_last'", "3", "None")
SOURCES = (
    "t.zeros(2, 3, 4, 5)",
    "t.zeros(2, 3, 4, 5).permute(0, 3, 2, 1)",
    "t.zeros(2, 1, 1, 5)",
    "t.zeros(2, 3, 4)",
    "t.zeros(2, 3, 2, 1, 4)",
    "t.zeros(3, 2).t()",
    "t.zeros(2, 4, 5, 3).permute(0, 3, 1, 2)",
    "t.zeros(())",
)
RESIZES = (
    "x.clone().resize_(2, 5, 4, 3, memory_format={})",
    "x.clone().resize_(2, 2, 3, 4, memory_format={})",
    "x.clone().resize_(2, 3, memory_format={})",
    "x.clone().resize_(2, 2, 1, 3, 2, memory_format={})",
    "x.resize_(tuple(x.shape), memory_format={})",
    "t.zeros(2, 3, 4).resize_as_(x, memory_format={})",
    "t.resize_as_(x.clone(), x, memory_format={})",
    "x.clone().resize_as_(t.zeros(2, 3, 4, 5), memory_format={})",
)
OTHERS = (
    "x.clone(memory_format={})",
    "x.contiguous(memory_format={})",
    "x.cpu(memory_format={})",
    "x.to(memory_format={})",
    "x.to('cpu', memory_format={})",
    "x.to(t.float64, memory_format={})",
    "x.to(t.float32, copy=True, memory_format={})",
    "x.double(memory_format={})",
    "x.long(memory_format={})",
    "t.full_like(x, 3, memory_format={})",
    "t.randn_like(x, memory_format={})",
    "t.randint_like(x, 3, memory_format={})",
    "t.zeros_like(x, memory_format={})",
    "t.ones_like(x, memory_format={})",
    "t.empty_like(x, memory_format={})",
    "t.empty(2, 3, 4, 5, memory_format={})",
)


def outcome(t: Any, source: str, text: str) -> Any:
    try:
        x = eval(source, {"t": t})
        y = eval(text, {"t": t, "x": x})
    except Exception as error:
        return type(error).__name__, str(error).partition("\n")[0]
    return list(y.shape), y.stride(), y.is_contiguous()


@pytest.mark.parametrize("format", [*FORMATS, *NO_FORMATS])
@pytest.mark.parametrize("source", SOURCES)
def test_resize(source: str, format: str) -> None:
    for text in RESIZES:
        text = text.format(format)
        assert outcome(tg, source, text) == outcome(torch, source, text), text


@pytest.mark.parametrize("format", [*FORMATS, *NO_FORMATS])
@pytest.mark.parametrize("source", SOURCES)
def test_others_honour_a_format_or_refuse_it(source: str, format: str) -> None:
    for text in OTHERS:
        text = text.format(format)
        ours, theirs = outcome(tg, source, text), outcome(torch, source, text)
        if "channels_last" in format and "'" not in format:
            assert ours[0] == "NotImplementedError", text
        elif (".to(" in text or "rand" in text) and format in NO_FORMATS:
            assert ours[0] == theirs[0]  # torch lists its overloads.
        elif "_like" in text and isinstance(ours[0], list):
            assert ours[0] == theirs[0]  # New tensors are row-major here, whatever they are like.
        else:
            assert ours == theirs, text


def test_values_stay_where_they_stand_in_memory() -> None:
    for t in (tg, torch):
        x = t.arange(24.0).reshape(1, 2, 3, 4)
        x.resize_(1, 2, 3, 4, memory_format=t.channels_last)
        assert x.tolist() == t.arange(24.0).reshape(1, 3, 4, 2).permute(0, 3, 1, 2).tolist()
        # What a record saved has other values then; torch does not notice it.
        assert x._version == (t is tg)


@pytest.mark.parametrize("name", [text[2:] for text in FORMATS])
def test_formats_are_four_objects(name: str) -> None:
    format = getattr(tg, name)
    assert repr(format) == repr(getattr(torch, name))
    assert isinstance(format, tg.memory_format)
    assert pickle.loads(pickle.dumps(format)) is format
    assert copy.deepcopy(format) is format
    with pytest.raises(TypeError, match="cannot create"):
        tg.memory_format()
