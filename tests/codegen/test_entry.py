"""The native entry point: what it refuses, what it keeps alive, what a call costs.

Run as a script (``test_entry.py SEED ROUNDS``) it fuzzes an entry, so that a crash is seen as the
end of that process and not of the test run.
"""

from __future__ import annotations

import gc
import pickle
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import llvmlite.ir as ll
from tracegrad.codegen import entry as entry_module
from tracegrad.codegen.engine import NativeModule, compile_module, compile_object, load_object
from tracegrad.codegen.entry import (
    OK,
    REFUSED,
    ArraySpec,
    bind_entry,
    emit_entry,
    entry_supported,
)
from tracegrad.ir.types import DTYPES, float32, float64, int64

Array = np.ndarray[Any, Any]

I8, I32, I64, POINTER = ll.IntType(8), ll.IntType(32), ll.IntType(64), ll.PointerType()

pytestmark = pytest.mark.skipif(
    not entry_supported(), reason="needs the object layout of 64-bit CPython with a GIL"
)

SPECS = (ArraySpec(float32, (3, 4)), ArraySpec(float64, (2,), written=True), ArraySpec(int64, ()))


def fitting() -> list[Array]:
    return [np.zeros((3, 4), np.float32), np.zeros(2), np.zeros((), np.int64)]


def module_with_entry(
    arrays: Sequence[ArraySpec], status: int = OK, name: str = "entry", **options: Any
) -> ll.Module:
    """An entry whose body writes ``i + 1`` into the first byte of each written array ``i``."""
    module = ll.Module(name)
    type_ = ll.FunctionType(I32, [POINTER] * len(arrays))
    body = ll.Function(module, type_, f"{name}.body")
    builder = ll.IRBuilder(body.append_basic_block())
    for index, spec in enumerate(arrays):
        if spec.written and spec.nbytes:
            builder.store(I8(index + 1), body.args[index])
    builder.ret(I32(status))
    emit_entry(module, name, body, arrays, **options)
    return module


def make(arrays: Sequence[ArraySpec], status: int = OK, **options: Any) -> Callable[..., int]:
    return bind_entry(compile_module(module_with_entry(arrays, status, **options)), "entry")


@pytest.fixture(scope="module")
def entry() -> Callable[..., int]:
    return make(SPECS)


def first_byte(array: Array) -> int:
    return array.tobytes()[0]


def test_body_gets_the_data_pointers_in_order(entry: Callable[..., int]) -> None:
    arguments = fitting()
    assert entry(*arguments) == OK
    assert [first_byte(argument) for argument in arguments] == [0, 2, 0]


@pytest.mark.parametrize("release_gil", [False, True])
@pytest.mark.parametrize("status", [0, 1, 3, -1, 2**31 - 1])
def test_returns_what_the_body_returned(status: int, release_gil: bool) -> None:
    assert make(SPECS, status, release_gil=release_gil)(*fitting()) == status


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_only_the_declared_dtype_is_accepted(dtype: Any) -> None:
    entry = make([ArraySpec(dtype, (2,), written=True)])
    for other in DTYPES:
        assert entry(np.zeros(2, other.np)) == (OK if other is dtype else REFUSED), other


@pytest.mark.parametrize("shape", [(), (1,), (0,), (7,), (2, 0), (1, 1), (2, 3, 4), (1,) * 20])
def test_only_the_declared_shape_is_accepted(shape: tuple[int, ...]) -> None:
    entry = make([ArraySpec(float32, shape, written=True)])
    assert entry(np.zeros(shape, np.float32)) == OK
    assert entry(np.zeros((*shape, 1), np.float32)) == REFUSED
    for axis, extent in enumerate(shape):
        for other in {extent + 1, 2 * extent + 2, 0, 1} - {extent}:
            changed = (*shape[:axis], other, *shape[axis + 1 :])
            assert entry(np.zeros(changed, np.float32)) == REFUSED, changed
        assert entry(np.zeros(shape[:axis] + shape[axis + 1 :], np.float32)) == REFUSED


class Subclass(np.ndarray[Any, Any]):
    pass


def misaligned(shape: tuple[int, ...], dtype: str) -> Array:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.zeros(size + 1, np.uint8)[1:].view(dtype).reshape(shape)


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


# What else could be given for float32[3,4] (at 0), a written float64[2] (at 1) and int64[] (at 2).
WRONG: dict[str, tuple[int, Any]] = {
    "int": (2, 5),
    "float": (2, 5.0),
    "None": (0, None),
    "type": (0, np.ndarray),
    "list": (1, [1.0, 2.0]),
    "bytes": (1, b"0123456789abcdef"),
    "scalar": (2, np.int64(5)),
    "memoryview": (1, np.zeros(2).data),
    "subclass": (0, np.zeros((3, 4), np.float32).view(Subclass)),
    "matrix": (0, np.zeros((3, 4), np.float32).view(np.recarray)),
    "masked": (1, np.ma.zeros(2)),
    "one axis more": (2, np.zeros(1, np.int64)),
    "one axis less": (0, np.zeros(12, np.float32)),
    "transposed": (0, np.zeros((4, 3), np.float32).T),
    "Fortran order": (0, np.zeros((3, 4), np.float32, order="F")),
    "every other row": (0, np.zeros((6, 4), np.float32)[::2]),
    "left part of rows": (0, np.zeros((3, 8), np.float32)[:, :4]),
    "backwards": (1, np.zeros(2)[::-1]),
    "broadcast": (0, np.broadcast_to(np.float32(1), (3, 4))),
    "misaligned": (0, misaligned((3, 4), "f4")),
    "misaligned, written": (1, misaligned((2,), "f8")),
    "byte order": (0, np.zeros((3, 4), np.dtype(np.float32).newbyteorder())),
    "same width": (2, np.zeros((), np.float64)),
    "unsigned": (2, np.zeros((), np.uint64)),
    "long long": (2, np.zeros((), np.longlong if np.dtype(np.int64).char == "l" else np.int_)),
    "equal dtype": (0, np.zeros((3, 4), np.dtype(np.float32, metadata={"a": 1}))),
    "unpickled dtype": (0, pickle.loads(pickle.dumps(np.zeros((3, 4), np.float32)))),
    "objects": (1, np.zeros(2, object)),
    "records": (1, np.zeros(2, [("a", "f8")])),
    "read-only": (1, read_only(np.zeros(2))),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_argument_is_refused(entry: Callable[..., int], case: str) -> None:
    arguments: list[Any] = fitting()
    position, wrong = WRONG[case]
    arguments[position] = wrong
    if case == "unpickled dtype" and wrong.dtype is np.dtype(np.float32):
        pytest.skip("this NumPy unpickles its own dtype object")
    assert entry(*arguments) == REFUSED
    assert position == 1 or not arguments[1].any(), "the body was called"


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 300])
def test_wrong_number_of_arguments_is_refused(entry: Callable[..., int], count: int) -> None:
    assert entry(*(fitting() * 100)[:count]) == REFUSED


def test_keywords_are_python_s_own_error(entry: Callable[..., int]) -> None:
    with pytest.raises(TypeError, match="keyword"):
        entry(*fitting(), out=1)


def test_no_arguments_at_all() -> None:
    entry = make([], status=1)
    assert entry() == 1
    assert entry(np.zeros(2)) == REFUSED


def test_read_only_argument_that_is_only_read(entry: Callable[..., int]) -> None:
    first, second, third = fitting()
    assert entry(read_only(first), second, read_only(third)) == OK


@pytest.mark.parametrize("count", range(2, 12))
def test_sharing_memory_is_refused_where_one_is_written(count: int) -> None:
    for written in {0, 1, count // 2, count}:
        specs = [ArraySpec(float32, (4,), written=i % count < written) for i in range(count)]
        random.Random(count).shuffle(specs)
        entry = make(specs)
        apart = [np.zeros(4, np.float32) for _ in specs]
        assert entry(*apart) == OK
        for i in range(count):
            for j in range(i):
                arguments = list(apart)
                arguments[i] = arguments[j]
                harmful = specs[i].written or specs[j].written
                assert entry(*arguments) == (REFUSED if harmful else OK), (i, j, specs)


@pytest.mark.parametrize("shift", range(-5, 6))
def test_overlap_begins_with_the_first_shared_element(shift: int) -> None:
    entry = make([ArraySpec(float32, (4,), written=True), ArraySpec(float32, (3,))])
    memory = np.zeros(16, np.float32)
    expected = OK if shift >= 4 or shift <= -3 else REFUSED
    assert entry(memory[6:10], memory[6 + shift : 9 + shift]) == expected


def test_empty_array_overlaps_nothing() -> None:
    entry = make([ArraySpec(float32, (4,), written=True), ArraySpec(float32, (0,), written=True)])
    memory = np.zeros(8, np.float32)
    for start in range(8):
        assert entry(memory[2:6], memory[start:start]) == OK


def expected_status(arguments: Sequence[Any]) -> int:
    """What the entry for ``SPECS`` has to answer, said with NumPy's means."""
    if len(arguments) != len(SPECS):
        return REFUSED
    for spec, array in zip(SPECS, arguments, strict=True):
        fits = (
            type(array) is np.ndarray
            and array.dtype is spec.dtype.np
            and array.shape == spec.shape
            and array.flags.c_contiguous
            and array.flags.aligned
            and (array.flags.writeable or not spec.written)
        )
        if not fits:
            return REFUSED
    shared = any(np.may_share_memory(arguments[1], arguments[i]) for i in (0, 2))
    return REFUSED if shared else OK


def random_argument(rng: random.Random, pool: Array, fits: Any) -> Any:
    kind = rng.randrange(12)
    if kind < 6:
        return fits
    if kind < 8:
        return rng.choice(list(WRONG.values()))[1]
    if kind == 8:
        dtype = rng.choice(["f4", "f8", "i8", ">f4", "?", "M8[s]", "U3", "O", "V5", "c8"])
        return np.zeros([rng.randrange(5) for _ in range(rng.randrange(4))], dtype)
    # A part of one common block of memory.
    shape, dtype = rng.choice([((3, 4), "f4"), ((2,), "f8"), ((), "i8")])
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    start = rng.randrange(0, pool.size - size, rng.choice([1, 4, 8]))
    return pool[start : start + size].view(dtype).reshape(shape)


def fuzz(entry: Callable[..., int], seed: int, rounds: int) -> set[int]:
    """Call the entry with random arguments; returns the answers that occurred."""
    rng = random.Random(seed)
    pool = np.zeros(256, np.uint8)
    answers = set()
    for _ in range(rounds):
        arguments = [random_argument(rng, pool, fits) for fits in fitting()]
        if rng.randrange(8) == 0:
            arguments = [rng.choice(arguments) for _ in range(rng.randrange(6))]
        answer = entry(*arguments)
        assert answer == expected_status(arguments), arguments
        answers.add(answer)
    return answers


def test_random_arguments(entry: Callable[..., int]) -> None:
    assert fuzz(entry, seed=1, rounds=5_000) == {OK, REFUSED}


def test_random_arguments_never_crash_the_process() -> None:
    run = subprocess.run(
        [sys.executable, __file__, "2", "30000"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("release_gil", [False, True])
def test_reference_counts_stay(release_gil: bool) -> None:
    entry = make(SPECS, release_gil=release_gil)
    arguments = fitting()
    wrong = [*arguments[:2], None]

    def counts() -> list[int]:
        held = [*arguments, None, OK, REFUSED, entry, *(array.dtype for array in arguments)]
        return [sys.getrefcount(item) for item in held]

    before = counts()
    for _ in range(100_000):
        entry(*arguments)
        entry(*wrong)
    # Small ints and None are used all over the process; a leak would be 100,000.
    assert all(abs(x - y) < 1_000 for x, y in zip(before, counts(), strict=True))
    assert before[:3] == counts()[:3]


def test_callable_keeps_the_code_and_releases_it() -> None:
    native = compile_module(module_with_entry(SPECS))
    alive = weakref.ref(native)
    entry = bind_entry(native, "entry")
    del native
    gc.collect()
    assert alive() is not None
    assert entry(*fitting()) == OK
    del entry
    assert alive() is None


class CallsWhenItDies:
    """Part of a reference cycle, with a last call in its finalizer."""

    def __init__(self, entry: Callable[..., int], answers: list[int]) -> None:
        self.entry = entry
        self.answers = answers
        self.myself = self

    def __del__(self) -> None:
        self.answers.append(self.entry(*fitting()))


def test_code_outlives_the_finalizers_of_a_dead_cycle() -> None:
    native = compile_module(module_with_entry(SPECS, status=1))
    alive = weakref.ref(native)
    answers: list[int] = []
    freed_at: list[int] = []
    weakref.finalize(native, lambda: freed_at.append(len(answers))).atexit = False
    CallsWhenItDies(bind_entry(native, "entry"), answers)
    del native
    gc.collect()
    assert answers == [1]
    assert freed_at == [1], "the code was freed before the last call"
    assert alive() is None


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_binding_leaks_nothing() -> None:
    native = compile_module(module_with_entry(SPECS))
    arguments = fitting()

    def bind_and_call(times: int) -> None:
        for _ in range(times):
            assert bind_entry(native, "entry")(*arguments) == OK

    bind_and_call(2_000)
    before = resident_bytes()
    bind_and_call(10_000)
    assert resident_bytes() - before < 1_000_000  # a leaked binding would be 4 MB


def test_object_code_holds_no_address() -> None:
    code = compile_object(module_with_entry(SPECS, status=3))
    entries = [bind_entry(load_object(code), "entry") for _ in range(2)]
    assert [entry(*fitting()) for entry in entries] == [3, 3]


def test_several_entries_in_one_module() -> None:
    module = module_with_entry(SPECS, status=1, name="first")
    body = ll.Function(module, ll.FunctionType(I32, []), "second.body")
    ll.IRBuilder(body.append_basic_block()).ret(I32(3))
    emit_entry(module, "second", body, [])
    native = compile_module(module)
    assert bind_entry(native, "first")(*fitting()) == 1
    assert bind_entry(native, "second")() == 3


def waiting_entry(release_gil: bool) -> Callable[..., int]:
    """An entry that waits until its argument is no longer 0, and gives up with 1."""
    module = ll.Module("waiting")
    body = ll.Function(module, ll.FunctionType(I32, [POINTER]), "body")
    start, turn, again, seen, given_up = (
        body.append_basic_block(name) for name in ("start", "turn", "again", "seen", "given_up")
    )
    builder = ll.IRBuilder(start)
    builder.branch(turn)
    builder.position_at_end(turn)
    count = builder.phi(I64)
    value = builder.load_atomic(body.args[0], "monotonic", 8, typ=I64)
    builder.cbranch(builder.icmp_signed("!=", value, I64(0)), seen, again)
    builder.position_at_end(again)
    next_count = builder.add(count, I64(1))
    limit = I64(20_000_000_000 if release_gil else 100_000_000)
    builder.cbranch(builder.icmp_signed("<", next_count, limit), turn, given_up)
    count.add_incoming(I64(0), start)
    count.add_incoming(next_count, again)
    ll.IRBuilder(seen).ret(I32(OK))
    ll.IRBuilder(given_up).ret(I32(1))
    emit_entry(module, "entry", body, [ArraySpec(int64, (1,))], release_gil=release_gil)
    return bind_entry(compile_module(module), "entry")


@pytest.mark.parametrize("release_gil", [False, True])
def test_other_threads_run_only_while_the_gil_is_released(release_gil: bool) -> None:
    entry = waiting_entry(release_gil)
    flag = np.zeros(1, np.int64)
    inside = threading.Event()

    def raise_flag() -> None:
        inside.wait()
        flag[0] = 1

    thread = threading.Thread(target=raise_flag)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)  # so that the other thread cannot run before the call
    try:
        inside.set()
        answer = entry(flag)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert answer == (OK if release_gil else 1)


def test_threads_share_an_entry() -> None:
    entry = make(SPECS, release_gil=True)
    answers: list[int] = []

    def call_often() -> None:
        arguments = fitting()
        answers.extend({entry(*arguments) for _ in range(2_000)})

    threads = [threading.Thread(target=call_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [OK] * 4


def test_body_must_take_a_pointer_per_array() -> None:
    module = ll.Module("wrong")
    body = ll.Function(module, ll.FunctionType(I32, [POINTER]), "body")
    with pytest.raises(ValueError, match="takes 1 pointers for 3 arrays"):
        emit_entry(module, "entry", body, SPECS)


def test_unknown_entry_is_a_key_error() -> None:
    native: NativeModule = compile_module(module_with_entry(SPECS))
    with pytest.raises(KeyError):
        bind_entry(native, "another")


OFFSETS = ("_OB_TYPE", "_DATA", "_NDIM", "_DIMENSIONS", "_STRIDES", "_DESCR", "_FLAGS")


@pytest.mark.parametrize("offset", OFFSETS)
def test_another_object_layout_is_noticed(monkeypatch: pytest.MonkeyPatch, offset: str) -> None:
    monkeypatch.setattr(entry_module, offset, getattr(entry_module, offset) - 8)
    assert not entry_module.entry_supported.__wrapped__()


def test_nothing_is_bound_where_the_layout_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    native = compile_module(module_with_entry(SPECS))
    monkeypatch.setattr(entry_module, "entry_supported", lambda: False)
    with pytest.raises(RuntimeError, match="64-bit CPython"):
        bind_entry(native, "entry")


@pytest.mark.parametrize(("count", "written"), [(2, 1), (10, 4), (40, 20)])
def test_a_call_is_fast(count: int, written: int) -> None:
    entry = make([ArraySpec(float32, (3, 4), written=i < written) for i in range(count)])
    arguments = [np.zeros((3, 4), np.float32) for _ in range(count)]
    assert entry(*arguments) == OK
    best = min(time_calls(entry, arguments, 20_000) for _ in range(5))
    print(
        f"\nentry with {count} arguments, {written} of them written: {best * 1e9:.0f} ns per call"
    )
    assert best < 2e-6 + 50e-9 * count


def time_calls(entry: Callable[..., int], arguments: Sequence[Array], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        entry(*arguments)
    return (time.perf_counter() - started) / times


if __name__ == "__main__":
    fuzz(make(SPECS), int(sys.argv[1]), int(sys.argv[2]))
