"""``tracegrad.cuda``: says that there is no GPU, so that torch programs that ask keep working."""

from __future__ import annotations


def is_available() -> bool:
    """Whether a GPU can be used: never."""
    return False


def device_count() -> int:
    """How many GPUs can be used: none."""
    return 0


def synchronize(device: object = None) -> None:
    """There is no GPU to wait for. Raises RuntimeError, as a torch without CUDA does."""
    raise RuntimeError("tracegrad runs on the CPU only; there is no GPU to synchronize")


def manual_seed_all(seed: int) -> None:
    """Seeds no GPU."""
