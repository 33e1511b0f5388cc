"""A strict reading of trace files in Chrome's JSON format, as Perfetto reads them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

_NEEDED = {
    "X": {"ts", "dur", "cat", "args"},
    "M": {"args"},
    "i": {"ts", "s"},
    "s": {"ts", "id", "cat"},
    "f": {"ts", "id", "cat", "bp"},
    "b": {"ts", "id", "cat"},
    "e": {"ts", "id", "cat"},
}


def load_trace(path: Path | str) -> dict[str, Any]:
    """The content of a trace file. Raises ValueError where it is not JSON, by the letter."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        assert len(found) == len(pairs), f"a key is there twice: {sorted(k for k, _ in pairs)}"
        return found

    data = Path(path).read_bytes()
    text = (gzip.decompress(data) if str(path).endswith(".gz") else data).decode("utf-8")
    trace: dict[str, Any] = json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    return trace


def check_trace(path: Path | str) -> list[dict[str, Any]]:
    """Assert that a trace file is well-formed, and return its entries.

    Each entry has what its phase needs. Slices of one thread are apart or one inside the other, outer ones first.
    Asynchronous entries and arrows come in pairs that point forward in time, and an arrow's ends lie on slices.
    Threads and the process have a name.
    """
    entries: list[dict[str, Any]] = load_trace(path)["traceEvents"]
    slices = [e for e in entries if e["ph"] == "X"]
    for entry in entries:
        assert entry.keys() >= {"ph", "name", "pid", "tid"} | _NEEDED[entry["ph"]], entry
        assert isinstance(entry["name"], str)
        assert isinstance(entry["pid"], int)
        assert isinstance(entry["tid"], int)
        assert entry.get("ts", 0) >= 0
        assert entry.get("dur", 0) >= 0
    _check_nesting(slices)
    for kinds in ("sf", "be"):
        _check_pairs(entries, kinds)
    for entry in entries:
        if entry["ph"] in "sf":
            assert any(s["tid"] == entry["tid"] and _contains(s, entry["ts"]) for s in slices), (
                entry
            )
    named = {(e["name"], e["tid"]) for e in entries if e["ph"] == "M"}
    assert ("process_name", 0) in named
    assert {("thread_name", e["tid"]) for e in entries if e["ph"] != "M"} <= named
    return entries


def _check_nesting(slices: list[dict[str, Any]]) -> None:
    open_ends: dict[int, list[float]] = {}
    for entry in slices:
        ends = open_ends.setdefault(entry["tid"], [])
        while ends and ends[-1] <= entry["ts"] + 1e-6:
            ends.pop()
        end = entry["ts"] + entry["dur"]
        assert not ends or end <= ends[-1] + 1e-6, entry
        ends.append(end)


def _check_pairs(entries: list[dict[str, Any]], kinds: str) -> None:
    begins, ends = ({(e["cat"], e["id"]): e for e in entries if e["ph"] == kind} for kind in kinds)
    assert len(begins) == sum(e["ph"] == kinds[0] for e in entries)
    assert begins.keys() == ends.keys()
    for key, begin in begins.items():
        assert begin["ts"] <= ends[key]["ts"]
        assert begin["name"] == ends[key]["name"]


def _contains(entry: dict[str, Any], ts: float) -> bool:
    return bool(entry["ts"] - 1e-6 <= ts <= entry["ts"] + entry["dur"] + 1e-6)
