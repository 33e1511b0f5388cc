"""Object code on disk, so that a second process need not wait for LLVM.

One file per compiled program, in a folder that belongs to the user alone. A file's name is its *key*: a hash of
everything that the code depends on (:func:`key_of`). A file starts with a checksum of the rest, a JSON header that
repeats the key, and the object. What is damaged, foreign, or not where it should be is ignored, and replaced; what
cannot be written is not: a process that may not use the folder compiles as if there were none. Files are written under
another name and moved into place, so that readers see whole ones only. The data structure is :class:`Stored`; start
reading at :func:`load` and :func:`store`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..ir import config

_MAGIC = b"tracegrad object 1\n"
_SUFFIX = ".object"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Stored(NamedTuple):
    """The object code of a program.

    Attributes:
        names: of the symbols that are looked up in it.
        data: the relocatable object.
    """

    names: list[str]
    data: bytes


class Usage(NamedTuple):
    """What is kept.

    Attributes:
        path: the folder.
        files: how many objects.
        nbytes: their size.
    """

    path: Path
    files: int
    nbytes: int


def key_of(parts: Sequence[str]) -> str:
    """The key of a program: SHA-256 (hex) of `parts` and of the code that generates code."""
    return hashlib.sha256("\0".join([_version(), *parts]).encode()).hexdigest()


@lru_cache(maxsize=1)
def _version() -> str:
    """What tells this code generator from others: its files' names, sizes and times, and LLVM's version."""
    import llvmlite.binding as llvm

    lines = [sys.version, str(llvm.llvm_version_info), repr(os.cpu_count())]
    package = Path(__file__).parent
    for source in sorted([*package.glob("*.py"), *_ir_sources()]):
        found = source.stat()
        lines.append(f"{source.name} {found.st_size} {found.st_mtime_ns}")
    return "\n".join(lines)


def _ir_sources() -> Iterator[Path]:
    return Path(config.__file__).parent.rglob("*.py")


def path() -> Path:
    """The folder of the cache."""
    given = config.cache_dir.get()
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "tracegrad"


def load(key: str) -> Stored | None:
    """The object with this key; None if there is none that can be trusted."""
    place = _checked_folder(create=False)
    if place is None:
        return None
    file = place / (key + _SUFFIX)
    try:
        content = _read(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        _report(f"{file} cannot be read: {error}")
        return None
    found = None if content is None else _unpack(content, key)
    if found is None:
        _report(f"{file} is damaged or not ours")
        with contextlib.suppress(OSError):
            file.unlink()
        return None
    with contextlib.suppress(OSError):
        os.utime(file)  # Used just now.
    return found


def store(key: str, stored: Stored) -> None:
    """Keep an object. Where that is impossible, nothing happens."""
    place = _checked_folder(create=True)
    if place is None:
        return
    try:
        handle, temporary = tempfile.mkstemp(dir=place, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_pack(key, stored))
            os.replace(temporary, place / (key + _SUFFIX))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _trim(place)
    except OSError as error:
        _report(f"{place} cannot be written to: {error}")


def usage() -> Usage:
    """How much is kept."""
    sizes = [size for _, size, _ in _files(path())]
    return Usage(path(), len(sizes), sum(sizes))


def clear() -> Usage:
    """Delete all objects; what there was."""
    before = usage()
    for _, _, file in _files(before.path, everything=True):
        with contextlib.suppress(OSError):
            os.unlink(file)
    return before


def _pack(key: str, stored: Stored) -> bytes:
    header = json.dumps({"key": key, "names": stored.names}).encode()
    rest = len(header).to_bytes(4, "little") + header + stored.data
    return _MAGIC + hashlib.sha256(rest).digest() + rest


def _unpack(content: bytes, key: str) -> Stored | None:
    """The object in a file; None if the file is not what was written under this key."""
    digest_end = len(_MAGIC) + 32
    rest = content[digest_end:]
    if (
        not content.startswith(_MAGIC)
        or hashlib.sha256(rest).digest() != content[len(_MAGIC) : digest_end]
    ):
        return None
    size = int.from_bytes(rest[:4], "little")
    header = json.loads(rest[4 : 4 + size])
    return Stored(header["names"], rest[4 + size :]) if header["key"] == key else None


def _read(file: Path) -> bytes | None:
    """The content of a regular file of ours that nobody else may write to; None for another."""
    descriptor = os.open(
        file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    )
    with os.fdopen(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        return opened.read() if stat.S_ISREG(found.st_mode) and _is_private(found) else None


def _is_private(found: os.stat_result) -> bool:
    """Whether it belongs to this user, and others have no rights to it."""
    user: Callable[[], int] | None = getattr(os, "geteuid", None)
    return user is None or (found.st_uid == user() and not found.st_mode & _OTHERS)


def _checked_folder(*, create: bool) -> Path | None:
    """The folder, if it may be used. It is private to the user, or it is not used."""
    if not config.cache.get():
        return None
    try:
        place = path()
        if create:
            place.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                place.mkdir(mode=0o700)
        found = place.lstat()
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home.
        _report(f"there is no folder for it: {error}")
        return None
    if not stat.S_ISDIR(found.st_mode) or not _is_private(found):
        _warn_once(os.fspath(place))
        return None
    return place


@lru_cache
def _warn_once(place: str) -> None:
    warnings.warn(
        f"tracegrad keeps no object code on disk: {place} is not a folder that belongs to you alone (mode 0700)",
        RuntimeWarning,
        stacklevel=2,
    )


def _files(place: Path, *, everything: bool = False) -> list[tuple[float, int, str]]:
    """When the objects in a folder were last used, their sizes and paths; unfinished ones too if asked for."""
    found = []
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX) or (everything and entry.name.startswith(".new-")):
                    with contextlib.suppress(OSError):
                        about = entry.stat(follow_symlinks=False)
                        found.append((about.st_mtime, about.st_size, entry.path))
    except OSError:
        return []
    return found


def _trim(place: Path) -> None:
    """Delete what was not used for longest, down to nine tenths of the limit, if that is exceeded."""
    allowed = config.cache_limit.get() * 1_000_000
    files = _files(place)
    total = sum(size for _, size, _ in files)
    if total <= allowed:
        return
    for _, size, file in sorted(files):
        if total <= 0.9 * allowed:
            break
        with contextlib.suppress(OSError):
            os.unlink(file)
            total -= size


def _report(message: str) -> None:
    if "cache" in config.log.get():
        print(f"tracegrad cache: {message}", file=sys.stderr)
