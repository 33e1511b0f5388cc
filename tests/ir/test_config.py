"""Options: environment variables, overrides, and messages."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from tracegrad.ir import config


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in config.OPTIONS.values():
        monkeypatch.delenv(option.variable, raising=False)


def test_defaults() -> None:
    for option in config.OPTIONS.values():
        assert option.get() == option.default
        assert option.checked(option.default) == option.default
        assert option.help.endswith(".")
        assert option.variable == f"TRACEGRAD_{option.name.upper()}"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("verify", "1", True),
        ("verify", "true", True),
        ("verify", "ON", True),
        ("verify", "0", False),
        ("verify", "", False),
        ("log", "passes, llvm", frozenset({"passes", "llvm"})),
        ("log", "", frozenset()),
        ("dump_to", "/tmp/somewhere", "/tmp/somewhere"),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: Any) -> None:
    option = config.OPTIONS[name]
    monkeypatch.setenv(option.variable, text)
    assert option.get() == value
    monkeypatch.delenv(option.variable)
    assert option.get() == option.default


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("verify", "maybe", r"TRACEGRAD_VERIFY='maybe': expected 0 or 1\nWhether every graph"),
        ("log", "pases", r"TRACEGRAD_LOG='pases': 'pases' is none of trace, passes,"),
    ],
)
def test_bad_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str
) -> None:
    option = config.OPTIONS[name]
    monkeypatch.setenv(option.variable, text)
    for _ in range(2):  # The second time as well.
        with pytest.raises(ValueError, match=message):
            option.get()


def test_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEGRAD_VERIFY", "1")
    with config.override(verify=False, log=["passes"], dump_to=Path("folder")):
        assert config.verify.get() is False
        assert config.log.get() == {"passes"}
        assert config.dump_to.get() == "folder"
        with config.override(verify=True):
            assert config.verify.get() is True
        assert config.verify.get() is False
    assert config.verify.get() is True
    assert config.dump_to.get() == ""


def test_override_ends_with_an_error() -> None:
    with pytest.raises(KeyError), config.override(verify=True):
        raise KeyError
    assert config.verify.get() is False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"verfy": True},
            "there is no option 'verfy'; there are cache, cache_dir, cache_limit, disable_jit, dump_to, log, verify",
        ),
        ({"verify": 2}, "verify=2: expected 0 or 1"),
        ({"verify": None}, "verify=None: expected 0 or 1"),
        ({"log": 3}, "log=3: expected names separated by commas"),
        ({"dump_to": 3}, "dump_to=3: expected a path"),
    ],
)
def test_bad_override(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), config.override(disable_jit=True, **values):
        pass
    assert config.disable_jit.get() is False


def test_an_override_belongs_to_its_thread() -> None:
    seen = []
    with config.override(verify=True):
        thread = threading.Thread(target=lambda: seen.append(config.verify.get()))
        thread.start()
        thread.join()
    assert seen == [False]


def test_description_names_everything() -> None:
    text = config.describe()
    for option in config.OPTIONS.values():
        assert option.variable in text
        assert option.help in text
