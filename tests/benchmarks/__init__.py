"""Benchmarks against PyTorch and JAX: ``python -m tests.benchmarks --help``.

Each benchmark is a :class:`~tests.benchmarks.measurement.Benchmark`: one computation, written for
every system in that system's own way. Start reading at ``measurement.py``.
"""
