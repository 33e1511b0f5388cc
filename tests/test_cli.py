"""The command line: every stage and format, and one line for everything that can be wrong."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tracegrad.ir import parse
from tracegrad.ir.types import DTYPES

import tracegrad as tg
from tracegrad.cli import CommandError, main, parse_arguments
from tracegrad.explanation import FORMATS, STAGES

GRAPH_STAGES = ("trace", "joint", "optimized")
NATIVE_STAGES = ("kernels", "llvm", "asm")

SOURCE = """\
import tracegrad as tg

print("noise while importing")
weight = tg.ones(4, dtype=tg.float64, requires_grad=True)
constant = 3


def energy(x):
    y = tg.sin(x) * 2.0
    return y.sum()


@tg.compile
def decorated(x):
    return x.exp()


def step(x, lr=0.5):
    weight.grad = None
    loss = ((weight - x) ** 2).sum()
    loss.backward()
    with tg.no_grad():
        weight.sub_(weight.grad * lr)
    return loss


def two_names(x, *, index):
    return x[0] if index is None else x[index]


def wrong_shapes(x):
    return x + tg.zeros(
        3
    )


def raises(x):
    raise ValueError("first line\\nsecond line")


def leaves(x):
    import sys
    sys.exit(3)


def escapes(x):
    return x.tolist()


class Scaled:
    factor = 3.0

    @staticmethod
    def cube(x):
        return x * x * x

    def scale(self, x):
        return x * self.factor


scaled = Scaled()
"""


def line_of(text: str) -> str:
    """Where a line of the source begins: ``demo.py:38``."""
    return f"demo.py:{SOURCE[: SOURCE.index(text)].count(chr(10)) + 1}"


@pytest.fixture(autouse=True)
def restored_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What importing the file leaves behind does not reach the next test."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)
    state = tg.get_rng_state()
    yield
    tg.set_rng_state(state)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and "demo" in name:
            del sys.modules[name]


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    path = tmp_path / "demo.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(demo: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run(function, *options)`` -> exit code, stdout, stderr."""

    def dump(function: str, *options: str) -> tuple[int, str, str]:
        code = main(["dump", f"{demo}:{function}", *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return dump


def operations(text: str) -> list[str]:
    """The ops of a graph in text form, in order."""
    return [node.op.name for node in parse(text).nodes]


FORWARD = ["sin", "const", "mul", "sum"]


# What can be seen.


def test_default_stage_is_the_optimized_graph(run: Run) -> None:
    code, out, _ = run("energy", "--args", "f64[4]")
    assert code == 0
    assert out.startswith("graph @energy(%")
    assert operations(out) == FORWARD
    assert "sum[axis=(0,), keepdims=False] %2   # demo.py:10\n  return %3\n}\n" in out


@pytest.mark.parametrize("stage", GRAPH_STAGES)
def test_graph_stages_can_be_parsed(run: Run, stage: str) -> None:
    code, out, _ = run("energy", "--args", "f64[4]", "--stage", stage)
    assert code == 0
    assert operations(out) == FORWARD


@pytest.mark.parametrize("option", ["--grad", "--requires-grad"])
def test_a_scalar_function_is_shown_with_its_gradient(run: Run, option: str) -> None:
    code, out, _ = run("energy", "--args", "f64[4]", option, "--stage", "joint")
    assert code == 0
    graph = parse(out)
    assert graph.name == "energy"
    assert [str(node.type) for node in graph.outputs] == ["f64[]", "f64[4]"]
    assert [node.op.name for node in graph.nodes[4:]] == [
        "const", "broadcast_in_dim", "mul", "cos", "mul",
    ]  # fmt: skip
    assert "= cos %" in out
    assert "# adjoint of sin %0, demo.py:9" in out


def test_a_function_that_is_no_scalar_keeps_its_result(run: Run) -> None:
    code, out, _ = run("decorated", "--args", "f64[4]", "--grad")
    assert code == 0
    assert operations(out) == ["exp"]


def test_a_training_step_is_shown_with_its_own_backward(run: Run) -> None:
    _, out, _ = run("step", "--args", "f64[4], lr=0.25", "--stage", "joint")
    assert "adjoint of" in out
    assert "0.25" in out
    _, with_option, _ = run("step", "--args", "f64[4], lr=0.25", "--stage", "joint", "--grad")
    assert operations(with_option)[:3] == operations(out)[:3]


@pytest.mark.parametrize("stage", NATIVE_STAGES)
def test_native_stages(run: Run, stage: str) -> None:
    pytest.importorskip("llvmlite")
    code, out, _ = run("energy", "--args", "f64[4]", "--grad", "--stage", stage)
    assert code == 0
    expected = {"kernels": "kernel 0: loops over [4]", "llvm": "define ", "asm": "\tret"}
    assert expected[stage] in out


def test_all_stages_at_once(run: Run) -> None:
    code, out, _ = run("energy", "--args", "f64[4]", "--stage", "all")
    assert code == 0
    assert [line[4:-4] for line in out.splitlines() if line.startswith("=== ")] == list(STAGES)


@pytest.mark.parametrize("stage", GRAPH_STAGES)
def test_other_formats(run: Run, stage: str) -> None:
    # The file prints; nothing of that may spoil what is meant for another program.
    _, out, err = run("energy", "--args", "f64[4]", "--stage", stage, "--format", "json")
    assert [node["op"] for node in json.loads(out)["nodes"]] == FORWARD
    assert "noise while importing" in err
    _, out, err = run("decorated", "--args", "f64[4]", "--stage", stage, "--format", "dot")
    assert out.startswith('digraph "decorated')
    assert "noise while importing" in err


@pytest.mark.parametrize(
    ("function", "ops"),
    [
        ("decorated", ["exp"]),
        ("Scaled.cube", ["mul", "mul"]),
        ("scaled.scale", ["const", "mul"]),
    ],
)
def test_functions_of_many_kinds(run: Run, function: str, ops: list[str]) -> None:
    code, out, _ = run(function, "--args", "f32[2,3]")
    assert code == 0
    assert operations(out) == ops


def test_a_file_named_like_a_loaded_module(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "json.py"
    path.write_text("def demo(x):\n    return x + x\n", encoding="utf-8")
    assert main(["dump", f"{path}:demo", "--args", "f32[2]"]) == 0
    assert operations(capsys.readouterr().out) == ["add"]
    assert sys.modules["json"] is json
    del sys.modules["_dumped_json"]


# Arguments.


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)])
def test_tensor_arguments(dtype: Any, shape: tuple[int, ...]) -> None:
    text = f"{dtype.name}[{','.join(map(str, shape))}]"
    (tensor,), _ = parse_arguments(text, requires_grad=True)
    assert tensor.dtype is dtype
    assert tuple(tensor.shape) == shape
    assert tensor.requires_grad == dtype.is_floating
    array = tensor.detach().numpy()
    assert np.all((array >= 0) & (array <= 1))
    (again,), _ = parse_arguments(text)
    np.testing.assert_array_equal(array, again.numpy())


@pytest.mark.parametrize(
    ("text", "args", "kwargs"),
    [
        ("", [], {}),
        ("  ", [], {}),
        ("3", [3], {}),
        ("-2, 1e-3", [-2, 1e-3], {}),
        ("True,False, None", [True, False, None], {}),
        ("1, lr=0.1, n = 3", [1], {"lr": 0.1, "n": 3}),
        ("inf,", [float("inf")], {}),
    ],
)
def test_python_arguments(text: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    found = parse_arguments(text)
    assert found == (args, kwargs)
    assert [type(x) for x in found[0]] == [type(x) for x in args]


def test_several_tensors() -> None:
    args, kwargs = parse_arguments("f32[ 2 , 3 ], 0.5 ,i64[],y=f64[1]")
    assert [tuple(args[0].shape), args[1], tuple(args[2].shape)] == [(2, 3), 0.5, ()]
    assert kwargs["y"].dtype is tg.float64


@pytest.mark.parametrize(
    "text",
    [
        "f16[3]",
        "f32[3",
        "f32 3]",
        "f32",
        "f32[3,,4]",
        "f32[-1]",
        "[3]",
        ",",
        "1,,2",
        "'a'",
        "x=",
        "1;2",
    ],
)
def test_arguments_that_cannot_be_read(text: str) -> None:
    with pytest.raises(CommandError, match=r"^cannot read .*expected types such as 'f32\[16,10\]'"):
        parse_arguments(text)


def test_arguments_out_of_order() -> None:
    with pytest.raises(CommandError, match="positional argument follows a keyword argument"):
        parse_arguments("x=1, 2")


def test_arguments_too_large() -> None:
    with pytest.raises(CommandError, match="too large"):
        parse_arguments("f64[1000000000,1000000000,1000000000]")


# What can be wrong: the exit code, and one line that says what would be right.


WRONG_REQUESTS: list[tuple[list[str], int, str]] = [
    (
        ["missing"], 2,
        "demo.py has no 'missing'; its functions are energy, decorated, step, two_names, "
        "wrong_shapes, raises, leaves, escapes, Scaled.cube",
    ),
    (["Scaled.missing"], 2, "demo.py has no 'Scaled.missing'; its functions are energy"),
    (["constant"], 2, "'constant' in demo.py is of type int, no function; its functions are"),
    (["Scaled"], 2, "'Scaled' in demo.py is a class, no function; its functions are"),
    (["1x"], 2, "expected FILE.py:FUNCTION, such as model.py:loss, but got"),
    (["energy"], 2, "energy(x) does not take these 0 arguments: missing a required argument: 'x'"),
    (["energy", "--args", "f32[1], 3"], 2, "too many positional arguments"),
    (["two_names", "--args", "f32[2], size=3"], 2, "argument: 'index'; give their types"),
    (["energy", "--args", "f33[2]"], 2, "cannot read 'f33[2]' in --args: expected types such as"),
    (["energy", "--stage", "graph"], 2, "(choose from"),
    (["energy", "--format", "svg"], 2, "(choose from"),
    (["energy", "--frobnicate"], 2, "unrecognized arguments: --frobnicate"),
    (["wrong_shapes", "--args", "f32[4]"], 1,
     f"wrong_shapes failed: {line_of('return x + tg.zeros')}, in wrong_shapes: RuntimeError: "
     "The size of tensor a (4) must match the size of tensor b (3)"),
    (["raises", "--args", "1"], 1,
     f"raises failed: {line_of('raise Val')}, in raises: ValueError: first line second line"),
    (["leaves", "--args", "1"], 1,
     f"leaves failed: {line_of('sys.exit')}, in leaves: SystemExit: 3"),
    (["escapes", "--args", "f32[3]"], 1, "escapes cannot be compiled: "),
]  # fmt: skip


@pytest.mark.parametrize(("options", "code", "message"), WRONG_REQUESTS)
def test_wrong_requests(run: Run, options: list[str], code: int, message: str) -> None:
    status, out, err = run(*options)
    assert (status, out) == (code, "")
    last = err.splitlines()[-1]
    assert last.startswith("tracegrad: error: ")
    assert message in last
    assert set(err.splitlines()[:-1]) <= {"noise while importing"}


@pytest.mark.parametrize(
    ("stage", "format"), list(itertools.product([*NATIVE_STAGES, "all"], ["dot", "json"]))
)
def test_formats_that_need_a_graph(run: Run, stage: str, format: str) -> None:
    status, _, err = run("energy", "--args", "f32[3]", "--stage", stage, "--format", format)
    assert status == 2
    assert f"format '{format}' needs a graph: choose --stage trace, joint or optimized" in err


def test_messages_list_all_stages_and_formats(run: Run) -> None:
    assert all(name in run("energy", "--stage", "x")[2] for name in STAGES)
    assert all(name in run("energy", "--format", "x")[2] for name in FORMATS)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("demo.py", "expected FILE.py:FUNCTION"),
        (":f", "expected FILE.py:FUNCTION"),
        ("nowhere.py:f", "there is no file 'nowhere.py'"),
        ("notes.txt:f", "expected a Python file"),
        ("empty.py:f", "empty.py has no 'f'; it has no functions"),
        ("broken.py:f", "importing broken.py failed: broken.py:2: SyntaxError: "),
        ("failing.py:f", "importing failing.py failed: failing.py:3, in helper: ZeroDivisionError"),
        ("quitting.py:f", "importing quitting.py failed: quitting.py:2, in <module>: SystemExit"),
        (
            "importing.py:f",
            "importing.py:1, in <module>: ModuleNotFoundError: No module named 'no_",
        ),
    ],
)
def test_wrong_files(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    message: str,
) -> None:
    contents = {
        "notes.txt": "",
        "empty.py": "",
        "broken.py": "x = 1\ndef f(:\n",
        "failing.py": "import json\ndef helper():\n    json.dumps(1 / 0)\nhelper()\n",
        "quitting.py": "import sys\nsys.exit()\n",
        "importing.py": "import no_such_module_anywhere\n",
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    status = main(["dump", target])
    captured = capsys.readouterr()
    assert status == (1 if "importing" in message else 2)
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert message in captured.err


def test_without_native_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracegrad import back_end

    monkeypatch.setattr(back_end, "native_back_end", lambda: None)
    status, out, err = run("energy", "--args", "f32[3]", "--stage", "llvm")
    assert (status, out) == (1, "")
    assert err.endswith("tracegrad: error: no llvm: llvmlite is not installed\n")
    assert run("energy", "--args", "f32[3]")[0] == 0


@pytest.mark.parametrize("options", [[], ["dump"], ["drop"], ["--stage", "llvm"]])
def test_wrong_commands(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith("tracegrad: error: ")
    assert error.count("\n") == 1
    assert "--help" in error


# From the shell.


def shell(*command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder that is not the checkout, whose `tracegrad` is none without `ir`."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_as_a_module(demo: Path) -> None:
    done = shell(
        sys.executable, "-m", "tracegrad", "dump", "demo.py:energy", "--args", "f64[4]", "--grad",
        cwd=demo.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "%4: f64[4] = cos %" in done.stdout
    assert done.stderr == "noise while importing\n"


def test_as_a_script(demo: Path) -> None:
    script = Path(sys.executable).with_name("tracegrad")
    if not script.exists():
        pytest.skip("the package is not installed here")
    done = shell(str(script), "dump", "demo.py:raises", "--args", "1", cwd=demo.parent)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("tracegrad: error: raises failed: demo.py:")


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for options, expected in (
        (["--version"], f"tracegrad {tg.__version__}\n"),
        (["--help"], "dump"),
        (["dump", "--help"], "FILE.py:FUNCTION"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(options)
        assert stopped.value.code == 0
        assert expected in capsys.readouterr().out


def test_a_reader_that_has_seen_enough(demo: Path) -> None:
    command = f"{sys.executable} -m tracegrad dump demo.py:energy --args 'f64[4]' | true"
    done = subprocess.run(
        command,
        shell=True,
        cwd=demo.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_cache(tmp_path: Path) -> None:
    folder = tmp_path / "c"

    def run(*arguments: str) -> str:
        done = shell(
            sys.executable, *arguments, cwd=tmp_path, TRACEGRAD_CACHE="1", TRACEGRAD_CACHE_DIR=str(folder)
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def cache(action: str) -> str:
        return run("-m", "tracegrad", "cache", action)

    assert cache("info") == f"{folder}: 0 objects, 0.0 MB"
    run("-c", "import tracegrad as tg; f = tg.compile(lambda x: x * 2); f(tg.ones(3))")
    assert re.fullmatch(r".*c: 2 objects, 0\.\d MB", cache("info"))
    assert re.fullmatch(r"deleted from .*c: 2 objects, 0\.\d MB", cache("clear"))
    assert cache("info") == f"{folder}: 0 objects, 0.0 MB"
