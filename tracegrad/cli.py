"""The command line: ``tracegrad dump`` prints what compilation makes of a function.

    tracegrad dump train.py:loss --args 'f32[16,1000], i64[16]' --grad --stage joint

A request is read (:func:`parse_target`, :func:`parse_arguments`), the file imported, the function
called with made-up arguments, and its IR printed. Whatever is wrong ends in a
:class:`CommandError`: one line on stderr that says what would be right. Exit codes: 0; 1 when the
user's own code raised, or cannot be compiled; 2 for a wrong request. Start reading at :func:`dump`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

import tracegrad
from tracegrad.compiler import CompiledFunction
from tracegrad.explanation import FORMATS, STAGES
from tracegrad.ir import config
from tracegrad.ir.location import is_internal
from tracegrad.ir.types import DTYPES, TensorType, dtype_named

_ARGUMENT = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)\s*=\s*)?(?P<value>[^,\[\]]+?\s*(?:\[[^\[\]]*\])?)\s*(?:,|$)"
)
_TENSOR = re.compile(r"(?P<dtype>\w+)\s*\[\s*(?P<shape>(?:\d+\s*(?:,\s*\d+\s*)*)?)\]")
_SYNTAX = (
    "expected types such as 'f32[16,10]' or 'f64[]' and numbers such as '3', '0.1', 'True', "
    "separated by commas; "
    f"element types: {', '.join(dtype.name for dtype in DTYPES)}"
)
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_NATIVE_STAGES = ("kernels", "llvm", "asm")
_MAX_CALLS = 2
"""The first call may create state, such as an optimizer's; then the second one can be compiled."""


class CommandError(Exception):
    """What goes to stderr as one line, and the exit code."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


class _Parser(argparse.ArgumentParser):
    """Reports a wrong option in one line."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        options = _make_parser().parse_args(arguments)
        print(options.run(options))
        sys.stdout.flush()
    except CommandError as error:
        print(f"tracegrad: error: {error}", file=sys.stderr)
        return error.code
    except BrokenPipeError:  # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tracegrad",
        description="PyTorch's autograd, traced into an SSA graph and compiled to native CPU code.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tracegrad {tracegrad.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    command = commands.add_parser(
        "dump",
        help="print what compilation makes of a function",
        description="Import FILE.py, call FUNCTION with arguments of the given types, and print\n"
        "what tracegrad.compile made of it. The file is imported, not run: its __name__ is\n"
        "not '__main__'.",
        epilog="stages:\n"
        "  trace      what ran\n"
        "  joint      the same with its adjoint\n"
        "  optimized  after the passes\n"
        "  kernels    fused loops\n"
        "  llvm, asm  LLVM IR, machine code\n"
        "  all        all of these\n\n"
        "examples:\n"
        "  tracegrad dump model.py:loss --args 'f32[16,1000], i64[16]'\n"
        "  tracegrad dump model.py:loss --args 'f32[16,1000], i64[16]' --grad --stage kernels\n"
        "  tracegrad dump train.py:step --args 'f32[16,1000], lr=0.1' --stage joint --format dot",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument(
        "target",
        metavar="FILE.py:FUNCTION",
        help="the function; also Class.method or object.method, and one that is already decorated",
    )
    command.add_argument(
        "--args",
        default="",
        metavar="TYPES",
        help="arguments: tensor types 'f32[16,10]', 'i64[16]', 'f64[]', numbers '3', '0.1', "
        "'True', 'None'; name=... for a keyword. Floats are random in [0, 1), integers 0 or 1, "
        "always the same",
    )
    command.add_argument(
        "--stage", choices=(*STAGES, "all"), default="optimized", help="default: optimized"
    )
    command.add_argument("--format", choices=FORMATS, default="text", help="default: text")
    command.add_argument(
        "--grad",
        "--requires-grad",
        action="store_true",
        dest="grad",
        help="float arguments require grad; a function that returns a scalar is shown together "
        "with its gradient",
    )
    command.set_defaults(run=dump)
    command = commands.add_parser(
        "cache",
        help="look at, or delete, the object code that is kept on disk",
        description="Compiled code is kept on disk for the next process. TRACEGRAD_CACHE=0 turns that off,\n"
        "TRACEGRAD_CACHE_DIR says where, TRACEGRAD_CACHE_LIMIT how many megabytes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("action", choices=("info", "clear"))
    command.set_defaults(run=manage_cache)
    return parser


def manage_cache(options: argparse.Namespace) -> str:
    """What ``tracegrad cache`` prints.

    Raises:
        CommandError: llvmlite is not installed.
    """
    try:
        from tracegrad.codegen import disk_cache
    except ImportError as error:
        raise CommandError(f"there is no code to keep: {error}", 1) from None
    found = disk_cache.clear() if options.action == "clear" else disk_cache.usage()
    size = f"{found.files} objects, {found.nbytes / 1e6:.1f} MB"
    if options.action == "clear":
        return f"deleted from {found.path}: {size}"
    state = "" if config.cache.get() else " (turned off)"
    return f"{found.path}{state}: {size}"


def dump(options: argparse.Namespace) -> str:
    """What ``tracegrad dump`` prints.

    Raises:
        CommandError: anything is wrong.
    """
    if options.stage in (*_NATIVE_STAGES, "all") and options.format != "text":
        raise CommandError(
            f"format {options.format!r} needs a graph: choose --stage trace, joint or optimized, "
            "or --format text"
        )
    path, dotted = parse_target(options.target)
    tracegrad.manual_seed(0)
    args, kwargs = parse_arguments(options.args, requires_grad=options.grad)
    # What the user's code prints is not part of the answer.
    with contextlib.redirect_stdout(sys.stderr):
        function = find_function(import_file(path), dotted)
        _check_signature(function, dotted, args, kwargs)
        compiled, result = _compile(tracegrad.compile(function), dotted, args, kwargs)
        if options.grad and _is_open_scalar(compiled, result):
            leaves = [x for x in (*args, *kwargs.values()) if _requires_grad(x)]
            compiled, _ = _compile(
                _with_gradient(function, compiled.name, leaves), dotted, args, kwargs
            )
    text = compiled.ir(stage=options.stage, format=options.format).rstrip("\n")
    if options.stage in _NATIVE_STAGES and text.startswith("(no "):
        raise CommandError(text.strip("()"), 1)
    return text


def parse_target(target: str) -> tuple[Path, str]:
    """``FILE.py:FUNCTION`` as a path and a dotted name.

    Raises:
        CommandError: it is not of this form, or there is no such file.
    """
    name, colon, dotted = target.rpartition(":")
    if not colon or not name or not all(part.isidentifier() for part in dotted.split(".")):
        raise CommandError(f"expected FILE.py:FUNCTION, such as model.py:loss, but got {target!r}")
    path = Path(name)
    if not path.is_file():
        raise CommandError(f"there is no file {name!r} (the folder is {os.getcwd()!r})")
    if path.suffix != ".py":
        raise CommandError(f"expected a Python file, FILE.py:FUNCTION, but got {name!r}")
    return path.resolve(), dotted


def parse_arguments(text: str, *, requires_grad: bool = False) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of the types that a text like ``f32[16,10], i64[16], lr=0.1`` names.

    Args:
        text: element types and shapes as the IR prints them, and Python numbers.
        requires_grad: of the floating-point tensors.

    Returns:
        Positional and keyword arguments. Floats are uniform in [0, 1), integers 0 or 1, always the
        same.

    Raises:
        CommandError: a part is neither a type nor a number.
    """
    rng = np.random.default_rng(0)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _ARGUMENT.match(text, position, end)
        if match is None:
            raise CommandError(f"cannot read --args at {text[position:].strip()!r}: {_SYNTAX}")
        value = _make_argument(match["value"].strip(), rng, requires_grad)
        if match["name"]:
            kwargs[match["name"]] = value
        elif kwargs:
            raise CommandError(
                f"in --args {text!r} a positional argument follows a keyword argument"
            )
        else:
            args.append(value)
        position = match.end()
        while position < end and text[position].isspace():
            position += 1
    return args, kwargs


def _make_argument(text: str, rng: np.random.Generator, requires_grad: bool) -> Any:
    constants = {"True": True, "False": False, "None": None}
    if text in constants:
        return constants[text]
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    match = _TENSOR.fullmatch(text)
    if match is None or match["dtype"] not in {dtype.name for dtype in DTYPES}:
        raise CommandError(f"cannot read {text!r} in --args: {_SYNTAX}")
    shape = tuple(int(extent) for extent in match["shape"].split(",")) if match["shape"] else ()
    type = TensorType(dtype_named(match["dtype"]), shape)
    try:
        if type.dtype.is_floating:
            array = np.asarray(rng.random(shape)).astype(type.dtype.np)
        else:
            array = np.asarray(rng.integers(0, 2, shape)).astype(type.dtype.np)
    except (MemoryError, ValueError):
        raise CommandError(f"{text!r} in --args is too large to be made") from None
    tensor = tracegrad.from_numpy(array)
    return tensor.requires_grad_() if requires_grad and type.dtype.is_floating else tensor


def import_file(path: Path) -> ModuleType:
    """Import a file as a module, under its own name, with its folder first on the path.

    Raises:
        CommandError: it raised.
    """
    sys.path.insert(0, str(path.parent))
    name = path.stem if path.stem not in sys.modules else f"_dumped_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CommandError(f"importing {path.name} failed: {_last_line(error)}", 1) from error
    return module


def find_function(module: ModuleType, dotted: str) -> Callable[..., Any]:
    """The function of this name in a module.

    Raises:
        CommandError: there is none; names those that there are.
    """
    found: Any = module
    for part in dotted.split("."):
        if not hasattr(found, part):
            raise CommandError(
                f"{_file_of(module)} has no {dotted!r}; {_describe_functions(module)}"
            )
        found = getattr(found, part)
    if not callable(found) or isinstance(found, type):
        kind = "a class" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise CommandError(
            f"{dotted!r} in {_file_of(module)} is {kind}, no function; "
            + _describe_functions(module)
        )
    return found


def _file_of(module: ModuleType) -> str:
    return os.path.basename(module.__file__ or module.__name__)


def _describe_functions(module: ModuleType) -> str:
    names = []
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__ or name.startswith("__"):
            continue
        if isinstance(value, type):
            methods = (
                key
                for key, member in vars(value).items()
                if isinstance(member, (staticmethod, classmethod))
            )
            names += [f"{name}.{key}" for key in methods]
        elif callable(value):
            names.append(name)
    return f"its functions are {', '.join(names)}" if names else "it has no functions"


def _check_signature(
    function: Callable[..., Any], name: str, args: list[Any], kwargs: dict[str, Any]
) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some callables do not tell.
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = len(args) + len(kwargs)
        raise CommandError(
            f"{name}{signature} does not take these {given} arguments: {error}; "
            "give their types with --args"
        ) from None


def _compile(
    compiled: CompiledFunction, name: str, args: list[Any], kwargs: dict[str, Any]
) -> tuple[CompiledFunction, Any]:
    """Call until there is a variant. Returns the function and what it returned."""
    result = None
    for _ in range(_MAX_CALLS):
        try:
            result = compiled(*args, **kwargs)
        except (Exception, SystemExit) as error:
            raise CommandError(f"{name} failed: {_last_line(error)}", 1) from error
        if compiled.variants:
            return compiled, result
    reason, location = (
        compiled.refusals[-1] if compiled.refusals else ("compilation is switched off", None)
    )
    place = f" ({location})" if location else ""
    raise CommandError(f"{name} cannot be compiled: {reason}{place}", 1)


def _requires_grad(value: Any) -> bool:
    return isinstance(value, tracegrad.Tensor) and value.requires_grad


def _is_open_scalar(compiled: CompiledFunction, result: Any) -> bool:
    """Whether a function returned one number that can still be differentiated."""
    return (
        isinstance(result, tracegrad.Tensor)
        and result.ndim == 0
        and result.grad_fn is not None
        and compiled.variants[0].derivative is not None
    )


def _with_gradient(
    function: Callable[..., Any], name: str, leaves: list[tracegrad.Tensor]
) -> CompiledFunction:
    """The function together with its gradient with respect to the given tensors."""

    def value_and_gradient(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        return value, *tracegrad.autograd.grad(value, leaves, allow_unused=True)

    return tracegrad.compile(value_and_gradient, name=name)


def _last_line(error: BaseException) -> str:
    """``model.py:7, in loss: ValueError: ...``: the user's last line, and the message."""
    kind = type(error).__name__
    text = f"{kind}: {error}" if str(error) else kind
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.basename(error.filename)}:{error.lineno}: {kind}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not _is_library(frame.filename)]
    if not users:
        return text
    frame = users[-1]
    return f"{os.path.basename(frame.filename)}:{frame.lineno}, in {frame.name}: {text}"


def _is_library(filename: str) -> bool:
    """Whether a file belongs to tracegrad, to Python, or to an installed package."""
    known = filename.startswith(("<", _STANDARD_LIBRARY)) or is_internal(filename)
    return known or "site-packages" in Path(filename).parts
