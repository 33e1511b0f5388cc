"""README.md: the example prints what is shown, the commands and links are what they should be."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def block(marker: str) -> str:
    """The code block below the comment ``<!-- marker -->``."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found is not None, marker
    return found[1]


def test_example_prints_what_is_shown(tmp_path: Path, update_golden: bool) -> None:
    (tmp_path / "decay.py").write_text(block("example: code"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "decay.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = block("example: output")
    if update_golden:
        text = README.read_text(encoding="utf-8")
        before, marker, after = text.partition("<!-- example: output -->\n```text\n")
        printed = done.stdout.rstrip() + "\n"
        README.write_text(before + marker + printed + after[len(shown) :], encoding="utf-8")
        return
    assert done.stdout.rstrip() == shown.rstrip()


def test_commands() -> None:
    main, test = shlex.split(block("command: main")), shlex.split(block("command: test"))
    for command in (main, test):
        assert command[:4] == ["python3", "-m", "venv", ".venv"]
        assert all(word.startswith(".venv/bin/") for word in command if "bin/" in word)
    assert (ROOT / main[-1]).is_file()
    assert test[test.index("-m", 4) + 1] == "pytest"


@pytest.mark.parametrize(
    "document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "examples/README.md"]
)
def test_links_and_files_exist(document: str) -> None:
    """What is linked, and what looks like the path of a source file."""
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target
    for target in re.findall(r"`((?:tracegrad|ir|codegen|tests|examples)/[\w/.]*)`", text):
        assert (ROOT / target).exists(), target


def test_dump_command(tmp_path: Path) -> None:
    (line,) = (
        line for line in README.read_text().splitlines() if line.startswith("tracegrad dump")
    )
    command = [sys.executable, "-m", "tracegrad", *shlex.split(line)[1:]]
    command[4] = os.path.join(ROOT, command[4])
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "adjoint of matmul" in done.stdout


def test_every_example_is_listed(update_golden: bool) -> None:
    """The table has the first line of each example's docstring."""
    path = ROOT / "examples" / "README.md"
    text = path.read_text(encoding="utf-8")
    rows = ""
    for example in sorted(path.parent.glob("*.py")):
        docstring = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
        rows += f"| [{example.name}]({example.name}) | {docstring.splitlines()[0].rstrip('.')} |\n"
    before, marker, shown = text.partition("|---|---|\n")
    assert marker
    if update_golden:
        path.write_text(before + marker + rows, encoding="utf-8")
    else:
        assert shown == rows
