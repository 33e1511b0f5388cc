"""The engine: compiling, loading, errors, and that nothing is left behind."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("llvmlite")

from tracegrad.codegen import engine
from tracegrad.codegen.engine import (
    Host,
    NativeCodeError,
    NativeModule,
    ObjectCode,
    compile_module,
    compile_object,
    host,
    load_object,
)

_MAPS = Path("/proc/self/maps")
_STATM = Path("/proc/self/statm")
_ON_X86 = host().triple.startswith("x86_64")

needs_proc = pytest.mark.skipif(not _STATM.exists(), reason="needs Linux's /proc")
needs_x86 = pytest.mark.skipif(not _ON_X86, reason="looks at x86 assembly")


def add_constant(constant: int) -> str:
    return f"""
    define i64 @f(i64 %x) {{
      %y = add i64 %x, {constant}
      ret i64 %y
    }}"""


SQUARES = """
define void @squares(ptr noalias %x, ptr noalias %y, i64 %n) {
entry:
  br label %body
body:
  %i = phi i64 [0, %entry], [%next, %body]
  %from = getelementptr inbounds float, ptr %x, i64 %i
  %a = load float, ptr %from
  %b = fmul float %a, %a
  %to = getelementptr inbounds float, ptr %y, i64 %i
  store float %b, ptr %to
  %next = add nsw i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %body, label %done
done:
  ret void
}
"""


def integer_function(module: NativeModule) -> Callable[[int], int]:
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(module.address("f"))

    def call(x: int, module: NativeModule = module) -> int:  # keeps the code
        return int(function(x))

    return call


def resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def executable_mappings() -> int:
    return sum(" r-xp " in line for line in _MAPS.read_text().splitlines())


def test_host_is_described_once() -> None:
    this = host()
    assert this is host()
    assert this.vector_bytes in (16, 32, 64)
    assert this.vector_registers in (16, 32)
    features = this.features.split(",")
    assert (this.vector_bytes == 64) == ("+avx512f" in features and "+avx512vl" in features)


@pytest.mark.parametrize("optimize", range(4))
def test_compiled_function_runs(optimize: int) -> None:
    module = compile_module(add_constant(3), optimize=optimize)
    assert integer_function(module)(39) == 42


def test_stages_are_timed_and_shown() -> None:
    module = compile_module(SQUARES)
    assert min(module.parse_s, module.optimize_s, module.codegen_s, module.load_s) > 0
    assert "@squares(" in module.llvm_text
    assert "squares" in module.assembly()


def test_unknown_symbol_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="g"):
        compile_module(add_constant(1)).address("g")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("define i32 @f() { ret float 0.0 }", "doesn't match function result type"),
        (
            "define i64 @f(i64 %x) {\nentry:\n br label %a\na:\n"
            " %p = phi i64 [%x, %a]\n br label %a\n}",
            "PHINode should have one entry for each predecessor",
        ),
        (
            "declare void @no_such_function()\n"
            "define void @f() {\n call void @no_such_function()\n ret void\n}",
            "'no_such_function' is declared, but does not exist",
        ),
    ],
    ids=["parse", "verify", "resolve"],
)
def test_refused_modules_raise(text: str, message: str) -> None:
    with pytest.raises(NativeCodeError, match=message):
        compile_module(text)


def test_object_code_survives_as_bytes() -> None:
    data = compile_object(add_constant(5)).data
    module = load_object(ObjectCode(bytes(data)))
    assert integer_function(module)(1) == 6
    assert module.llvm_text == module.assembly() == ""


def test_external_functions_are_called() -> None:
    # memset comes from LLVM itself; both are further away than a near call reaches.
    text = """
    declare ptr @memcpy(ptr, ptr, i64)
    declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
    define i64 @f(i64 %x) {
      %a = alloca [4096 x i8]
      %b = alloca i64
      call void @llvm.memset.p0.i64(ptr %a, i8 1, i64 %x, i1 false)
      %r = call ptr @memcpy(ptr %b, ptr %a, i64 8)
      %v = load i64, ptr %b
      ret i64 %v
    }"""
    for optimize in (0, 2):
        assert integer_function(compile_module(text, optimize=optimize))(100) == 0x0101010101010101


@pytest.mark.parametrize("size", [0, 3000, 4000, 4096, 5000, 8100, 8192])
def test_objects_of_all_sizes_load(size: int) -> None:
    # Sizes around those of pages, where memory managers go wrong.
    for extra in range(0, 96, 7):
        stores = "store volatile i8 7, ptr %p\n" * ((size + extra) // 3)
        text = f"""
        @table = constant [{size + extra + 8} x i8] zeroinitializer, align 64
        define i64 @f(i64 %x) {{
          %p = alloca i8
          {stores}
          %at = getelementptr i8, ptr @table, i64 %x
          %v = load i8, ptr %at
          %w = zext i8 %v to i64
          %y = add i64 %w, %x
          ret i64 %y
        }}"""
        assert integer_function(compile_module(text, optimize=0))(5) == 5


@needs_x86
@pytest.mark.parametrize(("vector_bytes", "register"), [(16, "xmm"), (32, "ymm"), (64, "zmm")])
def test_vectors_have_the_full_width(vector_bytes: int, register: str) -> None:
    cpu, features = {
        16: ("x86-64", ""),
        32: ("haswell", "+avx2,+fma"),
        64: ("skylake-avx512", "+avx512f,+avx512vl"),
    }[vector_bytes]
    target = Host(host().triple, cpu, features, vector_bytes)
    assembly = compile_object(SQUARES, target=target).assembly()
    packed = [line for line in assembly.splitlines() if "mulps" in line]
    assert any(register in line for line in packed)


@needs_proc
def test_code_is_freed_with_its_module() -> None:
    gc.collect()
    before = executable_mappings()
    modules = [compile_module(add_constant(i), optimize=0) for i in range(20)]
    assert executable_mappings() >= before + 20
    del modules
    gc.collect()
    compile_module(add_constant(0), optimize=0)  # frees what a busy lock kept
    gc.collect()
    assert executable_mappings() <= before + 1


@needs_proc
def test_memory_stays_flat() -> None:
    def compile_some(first: int, count: int) -> None:
        for i in range(first, first + count):
            assert integer_function(compile_module(add_constant(i)))(1) == i + 1

    compile_some(0, 100)
    gc.collect()
    before = resident_bytes()
    compile_some(100, 200)
    gc.collect()
    # llvmlite itself loses some 2 KB with each pass builder; a pass manager would be 70 KB.
    assert resident_bytes() - before < 200 * 12_000


def test_module_may_outlive_the_lock_s_holder() -> None:
    # A module dropped while another thread compiles waits for its turn, and is freed all the same.
    module = compile_module(add_constant(1), optimize=0)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with engine._lock:
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    del module
    gc.collect()
    assert len(engine._unloaded) == 1
    release.set()
    thread.join()
    compile_module(add_constant(2), optimize=0)
    assert not engine._unloaded


def test_threads_compile_at_once() -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            for i in range(6):
                constant = 100 * number + i
                if integer_function(compile_module(add_constant(constant)))(1) != constant + 1:
                    wrong.append(constant)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_child_compiles_after_a_fork_in_mid_compilation() -> None:
    script = f"""
    import ctypes, os, threading
    from tracegrad.codegen.engine import compile_module

    text = '''{add_constant(7)}'''
    stop = False
    def work():
        while not stop:
            compile_module(text)
    thread = threading.Thread(target=work)
    kept = compile_module(text)
    thread.start()
    for _ in range(5):
        child = os.fork()
        if child == 0:
            module = compile_module(text)
            for one in (module, kept):
                function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(one.address("f"))
                if function(1) != 8:
                    os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    stop = True
    thread.join()
    """
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        check=True,
        timeout=120,
    )


TABLE = """
@table = internal constant [4 x i64] [i64 10, i64 20, i64 30, i64 40]

define i64 @pick(i64 %i) {
  %p = getelementptr inbounds [4 x i64], ptr @table, i64 0, i64 %i
  %x = load i64, ptr %p
  ret i64 %x
}
"""


def test_constants_can_be_indexed() -> None:
    """Absolute addresses of 32 bits do not reach where code is loaded."""
    native = compile_module(TABLE)
    pick = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(native.address("pick"))
    assert [pick(i) for i in range(4)] == [10, 20, 30, 40]
