"""Tables of results, and what they were measured on."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """One line on the processor, the memory and the versions that matter."""
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


def report(
    name: str, command: str, header: Sequence[str], rows: Sequence[Sequence[str]], save: bool
) -> None:
    """Print a Markdown table; keep it as ``results/NAME.md`` if asked to."""
    lines = [
        f"`{command}`",
        "",
        machine(),
        "",
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    text = "\n".join(lines)
    print(text)
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text + "\n")
