"""The back end: from a program in the IR to native code. Start with :func:`compile_program`."""

from .executable import NativeExecutable, compile_program

__all__ = ["NativeExecutable", "compile_program"]
