"""Every example runs by itself, at a small size, and leaves what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


class Run(NamedTuple):
    """One way to run a script.

    Attributes:
        arguments: that keep it small; ``{out}`` stands for an empty folder.
        needs: modules without which it is skipped.
        prints: what its output contains.
        files: what it leaves in the folder.
    """

    script: str
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    prints: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


PLOTTING = ("sklearn", "matplotlib", "tqdm")
RUNS = [
    Run(
        "polynomial_fit.py",
        ("--quick", "--out", "{out}"),
        ("scipy", "matplotlib"),
        ("least squares: loss 0.016693", "BFGS: loss 0.016693", "us compiled,", "descend: Stats("),
        ("polynomial_fit.png",),
    ),
    Run(
        "hmc_sampler.py",
        ("--quick", "--out", "{out}"),
        ("matplotlib",),
        ("(exact 1.000)", "(exact 0.866)", "us compiled,", "native=398, interpreted=0, eager=2"),
        ("hmc_sampler.png",),
    ),
    Run(
        "train_digits.py",
        ("--quick", "--out", "{out}"),
        PLOTTING,
        ("held out:", "us compiled,", "ran natively"),
        ("train_digits.png",),
    ),
    Run(
        "cnn_digits.py",
        ("--quick", "--out", "{out}"),
        PLOTTING,
        ("held out:", "native=42, interpreted=0, eager=2", "compilations=1", "the two ways are"),
        ("cnn_digits.png",),
    ),
    Run(
        "policy_gradient.py",
        ("--quick", "--out", "{out}"),
        ("matplotlib", "threadpoolctl"),
        ("native=13, interpreted=0, eager=2", "from 100 new starts:", "us compiled,"),
        ("policy_gradient.png",),
    ),
    Run(
        "vae_digits.py",
        ("--quick", "--out", "{out}"),
        PLOTTING,
        ("native=218, interpreted=0, eager=2", "lower bound", "us compiled,"),
        ("vae_digits.png",),
    ),
    Run(
        "heat_pinn.py",
        ("--quick", "--out", "{out}"),
        ("matplotlib", "threadpoolctl"),
        ("native=498, interpreted=0, eager=2", "relative error", "ms compiled,"),
        ("heat_pinn.png",),
    ),
    Run(
        "neural_ode.py",
        ("--quick", "--out", "{out}"),
        ("matplotlib", "threadpoolctl"),
        ("native=198, interpreted=0, eager=2", "relative error", "ms compiled,"),
        ("neural_ode.png",),
    ),
    Run(
        "char_rnn.py",
        ("--quick", "--out", "{out}"),
        ("matplotlib", "threadpoolctl"),
        ("after 100 steps:", "native=98, interpreted=0, eager=2", "bits a letter;", "us compiled,"),
        ("char_rnn.png",),
    ),
    Run("dump_ir.py", ("--quick",)),
    Run(
        "profile_training.py",
        ("--quick", "--out", "{out}"),
        (),
        ("Self CPU Mem", "[[16, 64], [64, 32]]: 3 times", "tg.compile: step"),
        ("training.json.gz",),
    ),
    Run(
        "autograd_tutorial.py",
        ("--quick", "--out", "{out}"),
        ("matplotlib",),
        ("tensor(1.7725) = sqrt(pi)", "determinant 2.0000", "gradients never cleared"),
        ("wave_and_slope.png", "cleared_or_not.png"),
    ),
]


def test_every_example_is_run() -> None:
    assert {run.script for run in RUNS} == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.script)
def test_example(run: Run, tmp_path: Path) -> None:
    for module in run.needs:
        pytest.importorskip(module)
    arguments = [argument.format(out=tmp_path) for argument in run.arguments]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / run.script), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "MPLCONFIGDIR": str(tmp_path / "matplotlib")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for text in run.prints:
        assert text in done.stdout
    for name in run.files:
        path = tmp_path / name
        assert path.stat().st_size > 1000
        assert path.read_bytes().startswith(b"\x89PNG") or path.suffix != ".png"
