"""What goes wrong, provoked: workers, schedulers and processes that die, reads that fail.

Tests provoke each failure once, ``python -m benchmarks.failures`` many times.
"""
