"""The cache on disk: what is found again, and that nothing in it can make a result wrong."""

from __future__ import annotations

import contextvars
import os
import stat
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tracegrad.codegen import compile_program, disk_cache, executable
from tracegrad.codegen.disk_cache import Stored
from tracegrad.ir import GraphBuilder, Program, TensorType, config, registered
from tracegrad.ir.types import float64

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid"), reason="owners and permissions are POSIX's"
)
X = np.linspace(0, 1, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "cache"
    with config.override(cache=True, cache_dir=str(place)):
        yield place


def shifted(number: float) -> Program:
    """x + number."""
    builder = GraphBuilder("shifted")
    with builder:
        x = builder.input(TensorType(float64, (5,)))
        builder.graph.outputs = [registered("add")(x, number)]
    return Program(builder.graph)


def result(number: float = 1.5) -> np.ndarray[Any, Any]:
    results = compile_program(shifted(number)).run([X])
    assert results is not None
    return results[0]


def objects(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.object"))


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows with each module that LLVM compiles for a program."""
    found: list[str] = []
    compile_object = executable.compile_object

    def counted(text: str, **options: Any) -> Any:
        found.append(text)
        return compile_object(text, **options)

    monkeypatch.setattr(executable, "compile_object", counted)
    return found


def test_a_program_is_found_again(folder: Path, compilations: list[str]) -> None:
    for _ in range(3):
        np.testing.assert_array_equal(result(), X + 1.5)
    assert len(compilations) == 1
    assert objects(folder)
    mode = stat.S_IMODE(folder.stat().st_mode)
    assert mode == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in objects(folder))


def test_other_constants_are_another_program(folder: Path, compilations: list[str]) -> None:
    for number in (1.5, 2.5, -0.0, 0.0):
        np.testing.assert_array_equal(result(number), X + number)
    assert len(compilations) == 4


def test_roles_of_outputs_count(folder: Path) -> None:
    program = shifted(1.0)
    assert compile_program(program).run([X]) is not None
    array = X.copy()
    assert compile_program(Program(program.graph, {0: 0})).run([array]) == []
    np.testing.assert_array_equal(array, X + 1)


def test_native_entry_and_dumps_of_cached_code(folder: Path) -> None:
    result()
    program = compile_program(shifted(1.5))
    assert program.entry is not None
    out = np.zeros(5)
    assert program.entry(X, out) == 0
    np.testing.assert_array_equal(out, X + 1.5)
    assert "fadd" in program.llvm_text()
    assert "add" in program.assembly()


def _flip(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "no header": lambda content: content[:30],
    "other magic": lambda content: b"x" + content[1:],
    "header changed": lambda content: _flip(content, 60),
    "object changed": lambda content: _flip(content, -100),
    "appended to": lambda content: content + b"x",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_replaced(damage: str, folder: Path, compilations: list[str]) -> None:
    result()
    intact = {file: file.read_bytes() for file in objects(folder)}
    for file, content in intact.items():
        file.write_bytes(DAMAGES[damage](content))
    np.testing.assert_array_equal(result(), X + 1.5)
    assert len(compilations) == 2
    assert {file: file.read_bytes() for file in objects(folder)} == intact


def test_a_file_under_another_key_is_not_taken(folder: Path, compilations: list[str]) -> None:
    result(1.5)
    (first,) = (f for f in objects(folder) if f.stat().st_size > 0 and _is_program(f))
    content = first.read_bytes()
    result(2.5)
    for file in objects(folder):
        if _is_program(file):
            file.write_bytes(content)
    np.testing.assert_array_equal(result(2.5), X + 2.5)
    assert len(compilations) == 3


def _is_program(file: Path) -> bool:
    """Not the function that checks the arguments of all entries."""
    found = disk_cache.load(file.stem)
    return found is not None and bool(found.names)


def test_files_that_others_could_have_written_are_not_taken(
    folder: Path, compilations: list[str]
) -> None:
    result()
    for file in objects(folder):
        file.chmod(0o666)
    np.testing.assert_array_equal(result(), X + 1.5)
    assert len(compilations) == 2


def test_links_are_not_followed(folder: Path, tmp_path: Path, compilations: list[str]) -> None:
    result()
    for file in objects(folder):
        file.rename(tmp_path / file.name)
        file.symlink_to(tmp_path / file.name)
    np.testing.assert_array_equal(result(), X + 1.5)
    assert len(compilations) == 2


def test_a_folder_that_is_open_to_others_is_not_used(
    tmp_path: Path, compilations: list[str]
) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    with config.override(cache=True, cache_dir=str(place)):
        with pytest.warns(RuntimeWarning, match="belongs to you alone"):
            result()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result()  # Once is enough.
    assert len(compilations) == 2
    assert not list(place.iterdir())


def test_a_link_to_a_folder_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with (
        config.override(cache=True, cache_dir=str(tmp_path / "link")),
        pytest.warns(RuntimeWarning, match="belongs to you alone"),
    ):
        result()
    assert not list((tmp_path / "real").iterdir())


@pytest.mark.parametrize("place", ["/proc/none/cache", "/dev/null/cache"])
def test_folders_that_cannot_be_made(place: str, compilations: list[str]) -> None:
    with config.override(cache=True, cache_dir=place):
        np.testing.assert_array_equal(result(), X + 1.5)
        np.testing.assert_array_equal(result(), X + 1.5)
    assert len(compilations) == 2


def test_a_full_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[str]
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_cache.os, "replace", fail)
    np.testing.assert_array_equal(result(), X + 1.5)
    np.testing.assert_array_equal(result(), X + 1.5)
    assert len(compilations) == 2
    assert not list(folder.iterdir())


def test_turned_off(tmp_path: Path, compilations: list[str]) -> None:
    with config.override(cache=False, cache_dir=str(tmp_path / "cache")):
        result()
        result()
    assert len(compilations) == 2
    assert not (tmp_path / "cache").exists()


def test_the_least_recently_used_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(400_000)
    with config.override(cache_limit=1):
        for number in range(4):
            disk_cache.store(f"{number:064}", Stored([], data))
            os.utime(folder / f"{number:064}.object", (number, number))
            if number == 1:
                assert disk_cache.load(f"{0:064}") is not None  # Used just now.
    left = [int(file.stem) for file in objects(folder)]
    assert left == [0, 3]
    assert disk_cache.usage().nbytes < 1_000_000


def test_clear(folder: Path) -> None:
    result()
    count = len(objects(folder))
    (folder / ".new-left").write_bytes(b"unfinished")
    (folder / "other").write_text("not ours")
    assert disk_cache.clear().files == count
    assert [file.name for file in folder.iterdir()] == ["other"]
    assert disk_cache.usage().files == 0


def test_threads_that_write_the_same(folder: Path) -> None:
    wrong: list[Any] = []

    def work() -> None:
        for number in range(5):
            if not np.array_equal(result(number), X + number):
                wrong.append(number)

    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(work,)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not [file for file in folder.iterdir() if file.suffix != ".object"]


SCRIPT = textwrap.dedent(
    """
    import sys
    import tracegrad as tg
    from tracegrad.codegen import engine, executable

    w = tg.tensor([1.0, -2.0, 0.5], requires_grad=True)

    @tg.compile
    def step(x):
        w.grad = None
        loss = ((w * x).sin() ** 2).sum()
        loss.backward()
        return loss

    compile_object, count = engine.compile_object, [0]

    def counted(*args, **kwargs):
        count[0] += 1
        return compile_object(*args, **kwargs)

    executable.compile_object = counted
    x = tg.tensor([0.5, 1.0, 2.0])
    losses = {step(x).item() for _ in range(4)}
    print(count[0], step.stats.native, len(losses), w.grad.tolist())
    """
)


def test_the_second_process_needs_no_llvm(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "TRACEGRAD_CACHE": "1",
        "TRACEGRAD_CACHE_DIR": str(tmp_path / "cache"),
    }

    def run() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            env=environment,
        )
        return done.stdout.split(maxsplit=1)

    (first, rest), (second, again) = run(), run()
    assert int(first) > 0
    assert second == "0"
    assert rest == again
