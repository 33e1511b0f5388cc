"""The back end that runs the programs of compiled functions. Start reading at :func:`make_executable`."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable

from tracegrad.ir.interpreter import InterpretedExecutable
from tracegrad.ir.program import Executable, Program


def make_executable(
    program: Program, backend: str = "native", check: bool | str = False
) -> Executable:
    """The executable of a program: native code, or the interpreter where that is asked for or all there is.

    Args:
        backend: ``"native"`` or ``"interpreter"``.
        check: whether native code is compared with the interpreter: at each run, or at the ``"first"``.
    """
    if backend == "interpreter":
        return InterpretedExecutable(program, "the interpreter was asked for")
    compile_program = native_back_end()
    if compile_program is None:
        return InterpretedExecutable(program, "llvmlite is not installed")
    executable = compile_program(program)
    if not check:
        return executable
    verification = importlib.import_module("tracegrad.verification")
    checked: Executable = verification.CheckedExecutable(
        executable, compile_program, once=check == "first"
    )
    return checked


@functools.cache
def native_back_end() -> Callable[[Program], Executable] | None:
    """The code generator, imported at the first compilation; None without llvmlite."""
    try:
        from tracegrad.codegen import compile_program
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "llvmlite":
            raise
        warnings.warn(
            "tracegrad.compile: llvmlite is not installed; compiled functions are interpreted",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return compile_program
