"""Look at every stage of the compilation of one training step.

    python examples/dump_ir.py
    python examples/dump_ir.py --stage kernels

The step below is compiled as a whole: forward, backward and update become one program. What is printed here from
Python is also there from the shell:

    tracegrad dump examples/dump_ir.py:step --args 'f32[16,8], f32[16,1]' --stage joint
"""

from __future__ import annotations

import argparse

import tracegrad as tg

tg.manual_seed(0)
weight = tg.randn(8, 1, requires_grad=True)
bias = tg.zeros(1, requires_grad=True)
learning_rate = 0.1

ABOUT = {
    "trace": "What ran, op by op, each with the line that called it. weight and bias are inputs as well: they are "
    "read at each call.",
    "joint": "The same with the adjoint that backward() appended, and the update. Each adjoint node names the node "
    "that it differentiates.",
    "optimized": "After the passes: constants folded, common and dead nodes gone.",
    "kernels": "Fused loops. What stands in one kernel never goes through memory.",
    "llvm": "The LLVM IR of these loops.",
    "asm": "The machine code, vectorised for this CPU.",
}
SHOWN_LINES = 40


@tg.compile
def step(x: tg.Tensor, wanted: tg.Tensor) -> tg.Tensor:
    """One step of gradient descent on a linear model; returns the loss."""
    weight.grad = bias.grad = None
    loss = ((tg.tanh(x @ weight + bias) - wanted) ** 2).mean()
    loss.backward()
    with tg.no_grad():
        for parameter in (weight, bias):
            assert parameter.grad is not None
            parameter -= learning_rate * parameter.grad
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Look at every stage of the compilation of a training step."
    )
    parser.add_argument("--stage", choices=list(ABOUT), help="only this stage, but all of it")
    parser.add_argument(
        "--quick", action="store_true", help="as the other examples; this one is always quick"
    )
    options = parser.parse_args()

    x, wanted = tg.randn(16, 8), tg.rand(16, 1)
    first = step(x, wanted).item()
    for _ in range(200):
        last = step(x, wanted).item()

    for stage in [options.stage] if options.stage else ABOUT:
        lines = step.ir(stage=stage).splitlines()
        shown = lines if options.stage else lines[:SHOWN_LINES]
        print(f"=== {stage}: {ABOUT[stage]}\n")
        print("\n".join(shown))
        if len(lines) > len(shown):
            print(
                f"... and {len(lines) - len(shown)} more lines: --stage {stage} shows all of them"
            )
        print()

    print("=== f.explain(): what happened to the calls, and what is checked before each of them\n")
    print(step.explain())
    print(f"\nloss: {first:.4f} at first, {last:.4f} after 200 steps")


if __name__ == "__main__":
    main()
