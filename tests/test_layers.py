"""Imports go one way: tracegrad -> codegen -> ir -> NumPy. Read from the source, nothing is run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("ir", "codegen", "tracegrad")

# Third-party modules that a layer may import, and what single modules may beside them.
THIRD_PARTY = {"ir": {"numpy"}, "codegen": {"numpy", "llvmlite"}, "tracegrad": {"numpy"}}
EXCEPTIONS = {"ir/nx.py": {"networkx"}, "tracegrad/serialization.py": {"safetensors"}}

# Heavy modules that are imported when they are first used; and nothing else is hidden in a function.
LATE = {"llvmlite", "networkx", "safetensors", "tracegrad.codegen", "matplotlib", "torch"}


class Import(NamedTuple):
    """One imported module, by its absolute name."""

    file: str
    line: int
    module: str
    in_function: bool
    for_types: bool


def source_files(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


def dotted_name(path: Path) -> str:
    """``ir/ops/shape.py`` is ``tracegrad.ir.ops.shape``; a package is named as such."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "tracegrad" else ("tracegrad", *parts)
    return ".".join(parts)


def imports_of(path: Path) -> Iterator[Import]:
    file = path.relative_to(ROOT).as_posix()
    stack: list[tuple[ast.AST, bool, bool]] = [(ast.parse(path.read_text("utf-8")), False, False)]
    while stack:
        node, in_function, for_types = stack.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            for module in modules_of(node, path):
                yield Import(file, node.lineno, module, in_function, for_types)
            continue
        in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            stack += [(child, in_function, True) for child in node.body]
            stack += [(child, in_function, for_types) for child in node.orelse]
        else:
            stack += [(child, in_function, for_types) for child in ast.iter_child_nodes(node)]


def modules_of(node: ast.Import | ast.ImportFrom, path: Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.level == 0:
        base = node.module or ""
    else:
        package = dotted_name(path).split(".")
        package = package[: len(package) - node.level]
        base = ".".join([*package, *(node.module or "").split(".")]).rstrip(".")
    # The names may be modules themselves: `from . import config`.
    return [f"{base}.{alias.name}" for alias in node.names]


ALL = {layer: [i for path in source_files(layer) for i in imports_of(path)] for layer in LAYERS}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer_of(module: str) -> str | None:
    """The layer that one of our own modules belongs to."""
    if not within(module, "tracegrad"):
        return None
    second = module.split(".")[1] if "." in module else ""
    return second if second in ("ir", "codegen") else "tracegrad"


@pytest.mark.parametrize("layer", LAYERS)
def test_no_import_goes_up(layer: str) -> None:
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    wrong = [i for i in ALL[layer] if layer_of(i.module) not in (None, *allowed)]
    assert not wrong, wrong


@pytest.mark.parametrize("layer", LAYERS)
def test_third_party_modules(layer: str) -> None:
    standard = sys.stdlib_module_names
    for i in ALL[layer]:
        root = i.module.split(".")[0]
        allowed = THIRD_PARTY[layer] | EXCEPTIONS.get(i.file, set())
        assert root in standard or root == "tracegrad" or root in allowed, i


def test_networkx_and_llvmlite_have_their_places() -> None:
    for layer in LAYERS:
        for i in ALL[layer]:
            if within(i.module, "networkx"):
                assert i.file == "ir/nx.py", i
            if within(i.module, "llvmlite"):
                assert layer == "codegen", i


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_inside_functions(layer: str) -> None:
    """Only what is heavy and rarely needed; never to break a circle."""
    wrong = [
        i
        for i in ALL[layer]
        if i.in_function
        and within(i.module, "tracegrad")
        and not any(within(i.module, late) for late in LATE)
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("layer", ["ir", "codegen"])
def test_lower_layers_import_relatively(layer: str) -> None:
    """Their folders are installed under another name than they have in the checkout."""
    for path in source_files(layer):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert not within(node.module or "", "tracegrad"), f"{path}:{node.lineno}"


def test_modules_have_docstrings() -> None:
    for layer in LAYERS:
        for path in source_files(layer):
            text = path.read_text("utf-8")
            assert not text.strip() or ast.get_docstring(ast.parse(text)), path


@pytest.mark.parametrize("module", ["tracegrad.ir", "tracegrad"])
def test_importing_stays_light(module: str) -> None:
    """Neither LLVM nor what draws graphs is loaded before it is used."""
    script = (
        f"import sys, {module}\n"
        "heavy = {'llvmlite', 'networkx', 'tracegrad.codegen', 'tracegrad.ir.parser'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
