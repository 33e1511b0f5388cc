"""The package as it is installed: how quickly it is imported, what it imports, what the wheel holds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"tracegrad": "tracegrad", "ir": "tracegrad.ir", "codegen": "tracegrad.codegen"}

LATE = (
    "llvmlite",
    "networkx",
    "matplotlib",
    "scipy",
    "sklearn",
    "torch",
    "jax",
    "tqdm",
    "numpy.random",
)
"""What ``import tracegrad`` must not import."""

MAX_IMPORT_SECONDS = 0.060
"""CPU time of ``import tracegrad`` beyond that of ``import numpy``."""


def run_python(code: str, cache: Path) -> Any:
    """Run code in a new process and return what it prints as JSON. Bytecode is kept in `cache`."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(cache)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cache, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_is_quick(tmp_path: Path) -> None:
    code = (
        "import json, time\n"
        "import numpy\n"
        "begin = time.process_time()\n"
        "import tracegrad\n"
        "print(json.dumps(time.process_time() - begin))"
    )
    run_python(code, tmp_path)  # Writes the bytecode.
    # The minimum of several is what it takes when nothing else is running.
    best = min(run_python(code, tmp_path) for _ in range(7))
    assert best < MAX_IMPORT_SECONDS, f"{best * 1e3:.0f} ms"


def test_import_needs_little(tmp_path: Path) -> None:
    code = "import json, sys, tracegrad; print(json.dumps(sorted(sys.modules)))"
    modules = set(run_python(code, tmp_path))
    needed_by_numpy = set(
        run_python("import json, sys, numpy; print(json.dumps(list(sys.modules)))", tmp_path)
    )
    assert not (modules - needed_by_numpy) & set(LATE)


def test_rare_functions_cost_nothing_until_they_are_used(tmp_path: Path) -> None:
    code = """
import json, sys
import tracegrad as tg

def imported(word):
    return sorted(name for name in sys.modules if name.endswith(f".ops.{word}"))

found = [[imported(word) for word in ("factorization", "ordering", "special", "scattering")]]
found.append(["sort" in dir(tg), "sort" in dir(tg.Tensor), "cholesky" in dir(tg)])
found.append(tg.tensor([3.0, 1.0]).sort().values.tolist())
found.append([tg.positive is tg.Tensor.positive, tg.Tensor.logit_ is tg.logit_])
found.append([imported(word) for word in ("ordering", "special")])
found.append((+tg.tensor(2.0)).item())
print(json.dumps(found))
"""
    before, names, values, same, after, positive = run_python(code, tmp_path)
    assert before == [[]] * 4
    assert names == [True] * 3
    assert values == [1.0, 3.0]
    assert same == [True] * 2
    assert after == [
        [f"tracegrad{ir}.ops.{word}" for ir in (".ir", "")] for word in ("ordering", "special")
    ]
    assert positive == 2.0


def test_eager_code_needs_no_compiler(tmp_path: Path) -> None:
    code = (
        "import json, sys\n"
        "import tracegrad as tg\n"
        "x = tg.randn(3, requires_grad=True)\n"
        "(x.sin() @ x).backward()\n"
        "tg.compile(lambda x: x)\n"
        "print(json.dumps([m for m in sys.modules if 'llvmlite' in m or 'codegen' in m]))"
    )
    assert run_python(code, tmp_path) == []


def packages_on_disk() -> set[str]:
    """Every folder with Python files, by the name under which it is imported."""
    found = set()
    for folder, name in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.parent.relative_to(ROOT / folder).parts
            found.add(".".join((name, *parts)))
    return found


def declared() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return project


def test_every_package_is_declared() -> None:
    assert set(declared()["tool"]["setuptools"]["packages"]) == packages_on_disk()


def test_version_is_the_declared_one() -> None:
    import tracegrad

    assert tracegrad.__version__ == declared()["project"]["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources."""
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path_factory.mktemp("source") / "checkout"
    ignore = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "output")
    shutil.copytree(ROOT, source, ignore=ignore)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


def test_wheel_holds_all_modules_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {"tracegrad/py.typed"}
    for folder, name in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            wanted.add(
                "/".join((name.replace(".", "/"), path.relative_to(ROOT / folder).as_posix()))
            )
    assert names == wanted


def test_wheel_holds_license_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" in name]
        (license_file,) = [name for name in names if name.endswith("/LICENSE")]
        assert archive.read(license_file) == (ROOT / "LICENSE").read_bytes()
        (entry_points,) = [name for name in names if name.endswith("/entry_points.txt")]
        assert b"tracegrad = tracegrad.cli:main" in archive.read(entry_points)


def test_wheel_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """Unpacked and put first on the path, away from the checkout, beside an ``ir.py`` of the user."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "ir.py").write_text("raise AssertionError", encoding="utf-8")
    (tmp_path / "codegen").mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import json\n"
        "import tracegrad as tg\n"
        "from tracegrad.ir import types\n"
        "f = tg.compile(lambda x: (x * x).sum())\n"
        "x = tg.ones(3, requires_grad=True)\n"
        "for _ in range(2): y = f(x)\n"
        "y.backward()\n"
        "print(json.dumps([tg.__file__, types.__file__, y.item(), x.grad.tolist(), f.stats.native]))"
    )
    package_file, types_file, value, gradient, native = run_python(code, tmp_path)
    assert Path(package_file) == tmp_path / "tracegrad" / "__init__.py"
    assert Path(types_file) == tmp_path / "tracegrad" / "ir" / "types.py"
    assert (value, gradient) == (3.0, [2.0, 2.0, 2.0])
    try:
        import llvmlite  # noqa: F401
    except ImportError:
        assert native == 0
    else:
        assert native == 1
