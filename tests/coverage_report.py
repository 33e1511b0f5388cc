"""Which of torch's functions are done: ``python -m tests.coverage_report``.

For each name of the tiers (torch_cases/tiers.py): *done*, if there are lines for it in the tables of calls and every
test of those lines passes (value, dtype, shape, first and second gradient in float32 and float64 against torch;
in place; under every function transform; compiled; where a family has such a test); *differing*, with the tests, if one
fails; *missing*, if there is no such function or no line. The tests are those of the default suite, run here.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest

HERE = Path(__file__).parent
# The sweeps over tables of calls: each test has one parameter with the name of a function.
SWEEPS = ("test_ops_torch.py", "func/test_public_functions.py", "nn/test_functional.py")


class Result(NamedTuple):
    """What became of one test."""

    test: str
    passed: bool


class Collector:
    """A pytest plugin that files the outcome of each test under the function that it calls."""

    def __init__(self) -> None:
        self.results: dict[str, list[Result]] = defaultdict(list)
        self._names: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            name = called(item)
            if name is not None:
                self._names[item.nodeid] = name

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = self._names.get(report.nodeid)
        if name is not None and (report.when == "call" or report.failed):
            # An expected failure is a difference too.
            passed = report.passed and not hasattr(report, "wasxfail")
            self.results[name].append(Result(report.nodeid, passed))


def called(item: pytest.Item) -> str | None:
    """The function whose line of a table a test is about."""
    call = getattr(item, "callspec", None)
    for value in call.params.values() if call else ():
        name = getattr(value, "name", None)
        if isinstance(name, str) and "nn/" in item.nodeid:
            # These have names for people: "linear without bias", "gelu(approximate=tanh)".
            return "nn.functional." + re.split(r"[ (]", name)[0]
        if isinstance(name, str):
            return name
    return None


def run_sweeps() -> tuple[dict[str, list[Result]], int]:
    """The outcomes by function, and pytest's exit code."""
    collector = Collector()
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = pytest.main(
            ["-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no"]
            + [str(HERE / sweep) for sweep in SWEEPS],
            plugins=[collector],
        )
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.stdout.write(output.getvalue())
    return collector.results, int(code)


def exists(tg: Any, name: str) -> bool:
    found: Any = tg
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not None or hasattr(tg.Tensor, name)


def main(arguments: list[str] | None = None) -> int:
    """Print the report.

    Returns:
        0 if every name is done, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.coverage_report",
        description="Which of torch's functions are done, missing, or differ from torch's.",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print every name")
    options = parser.parse_args(arguments)
    sys.path[:0] = [str(HERE), str(HERE / "nn")]
    try:
        import torch  # noqa: F401
    except ImportError:
        parser.error("torch is not installed; see the extra `peers`")
    import tracegrad as tg

    from .torch_cases.tiers import TIERS

    results, code = run_sweeps()
    if code not in (0, 1):
        return code
    complete = True
    for tier, names in TIERS.items():
        rows: dict[str, list[str]] = {"done": [], "missing": [], "differing": []}
        for name in names:
            tests = results.get(name, [])
            failed = [test for test in tests if not test.passed]
            if not tests or not exists(tg, name):
                rows["missing"].append(name)
            elif failed:
                rows["differing"].append(name)
            else:
                rows["done"].append(f"{name} ({len(tests)})")
        counts = ", ".join(f"{len(found)} {status}" for status, found in rows.items())
        print(f"{tier}: {len(names)} names, {counts}")
        for status in ("missing", "differing") if not options.verbose else rows:
            for row in rows[status]:
                print(f"  {status:9} {row}")
                for test in results.get(row, []) if status == "differing" else []:
                    if not test.passed:
                        print(f"            {test.test}")
        complete = complete and not rows["missing"] and not rows["differing"]
    return 0 if complete else 1


if __name__ == "__main__":
    raise SystemExit(main())
