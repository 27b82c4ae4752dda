"""How much memory there is, and how many chunks fit in it."""

import re
from pathlib import Path

import psutil

from streamgmm.errors import MemoryLimitError, ParameterError
from streamgmm.protocols import Source

# Of what is free, the part that is used when no limit is given.
_DEFAULT_PART = 0.6
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_CGROUP = Path("/sys/fs/cgroup")


def parse_bytes(size: int | float | str, name: str = "memory_limit") -> int:
    """A size in bytes from a number or from text such as "1GiB", "500 MB" or "2e9".

    Raises
    ------
    ParameterError
        If it is not a positive size.
    """
    text = str(size).strip().lower()
    match = re.fullmatch(r"([0-9.]+(?:e\+?[0-9]+)?)\s*([kmgt]?)(i?)b?", text)
    if match is None or (match[3] and not match[2]):
        raise ParameterError(f"{name} is {size!r}; write a size such as '4GiB' or '500 MB'")
    units = _BINARY_UNITS if match[3] else _UNITS
    try:
        n_bytes = int(float(match[1]) * units[match[2]])
    except ValueError:
        n_bytes = 0
    if n_bytes <= 0:
        raise ParameterError(f"{name} is {size!r}; it must be positive")
    return n_bytes


def format_bytes(n_bytes: float) -> str:
    """A size for people: "1.25 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024:
            return f"{n_bytes:.4g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.4g} TiB"


def process_bytes() -> int:
    """Anonymous memory that the process holds now; mapped files are not counted."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def free_bytes() -> int:
    """What the machine, or the control group that the process is in, has free."""
    free = int(psutil.virtual_memory().available)
    for limit_name, usage_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit = (_CGROUP / limit_name).read_text().strip()
            usage = int((_CGROUP / usage_name).read_text())
        except (OSError, ValueError):
            continue
        if limit != "max":
            free = min(free, int(limit) - usage)
    return max(free, 0)


def resolve_limit(memory_limit: int | float | str | None) -> int:
    """Bytes that the process may hold: as given, or its present size and most of what is free."""
    if memory_limit is not None:
        return parse_bytes(memory_limit)
    return process_bytes() + int(_DEFAULT_PART * free_bytes())


def chunks_in_flight(
    source: Source, limit: int, n_threads: int, work_bytes: int, n_values: int, most: int
) -> int:
    """How many chunks may be in memory at once within a limit.

    Parameters
    ----------
    source : Source
    limit : int
        Bytes that the process may hold.
    n_threads : int
        Threads that compute, each with ``work_bytes`` of scratch space.
    work_bytes : int
        Scratch space of a thread, a value included.
    n_values : int
        Values that wait to be merged beside those.
    most : int
        More are of no use.

    Returns
    -------
    int
        1 to ``most``.

    Raises
    ------
    MemoryLimitError
        If not even one chunk fits.
    """
    held = process_bytes()
    fixed = held + (n_threads + n_values) * work_bytes
    if source.read_bytes == 0 and fixed <= limit:
        return most
    fitting = int((limit - fixed) // source.read_bytes) if source.read_bytes else 0
    if fitting < 1:
        needed = fixed + source.read_bytes
        raise MemoryLimitError(
            f"{source.name} cannot be read within memory_limit = {format_bytes(limit)}: it takes "
            f"{format_bytes(needed)}, of which {format_bytes(held)} are in use already, "
            f"{format_bytes(source.read_bytes)} are for one chunk and "
            f"{format_bytes(fixed - held)} for statistics on {n_threads} thread(s); raise the "
            "limit, store the array in smaller chunks, use fewer threads or components, or "
            "covariance_type='diag'"
        )
    return min(fitting, most)
