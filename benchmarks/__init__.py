"""Measurements of what the package promises; each is one command, ``python -m benchmarks.NAME``.

Every command prints its table and, with ``--save``, writes it to ``benchmarks/results``.
Timings are noisy: what counts are ratios of things measured side by side in one run.
"""
