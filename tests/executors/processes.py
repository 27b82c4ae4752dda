"""Threads and memory of the process that runs the tests."""

import threading

from streamgmm.executors.memory import process_bytes


def own_threads() -> list[str]:
    """Names of the threads that are ours and run."""
    return [t.name for t in threading.enumerate() if t.name.startswith("streamgmm")]


def roomy() -> int:
    """A limit that leaves 200 MB to the test."""
    return process_bytes() + 200_000_000
