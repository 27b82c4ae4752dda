"""The machine of a benchmark, and the number of its cores that are used."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil


def machine() -> str:
    """Return one line on the processor, the memory and the versions that matter."""
    cpuinfo = Path("/proc/cpuinfo")
    model = platform.processor()
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "scikit-learn"))
    memory = psutil.virtual_memory().total / 2**30
    cores = psutil.cpu_count(logical=True)
    python = platform.python_version()
    return f"{model}, {cores} cores, {memory:.0f} GiB; Python {python}, {packages}"


def keep_to_cores(n: int) -> None:
    """Restrict this process and its children to n cores, for all libraries.

    Raises
    ------
    ValueError
        If the machine has fewer cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if n > len(cores):
        raise ValueError(f"{n} threads are asked for, and there are {len(cores)} cores")
    os.sched_setaffinity(0, cores[:n])
