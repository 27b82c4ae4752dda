"""How much memory there is, and how many chunks fit in it."""

import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from streamgmm.errors import MemoryLimitError, ParameterError
from streamgmm.protocols import Source, Work

# Of what is free, the part that is used when no limit is given.
_DEFAULT_PART = 0.6
# One byte in so many may be a sample's, of which there are copies while it is drawn.
_SAMPLE_PART = 8
_LARGEST_SAMPLE = 1 << 30
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
    except (ValueError, OverflowError):
        n_bytes = 0
    if n_bytes <= 0:
        raise ParameterError(f"{name} is {size!r}; it must be a positive, finite size")
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


def sample_bytes(memory_limit: int | float | str | None) -> int:
    """What a sample of rows may take: a part of the limit, or of what the machine has.

    It must not depend on what is free at the moment, for it decides which rows are in the sample.
    """
    if memory_limit is not None:
        return parse_bytes(memory_limit) // _SAMPLE_PART
    return min(machine_bytes() // _SAMPLE_PART, _LARGEST_SAMPLE)


def machine_bytes() -> int:
    """Memory of the machine, or of the control group that the process is in."""
    total = int(psutil.virtual_memory().total)
    for folder in _control_groups():
        try:
            limit = (folder / "memory.max").read_text().strip()
        except OSError:
            continue
        if limit != "max":
            total = min(total, int(limit))
    return total


def free_bytes() -> int:
    """What the machine, or the control group that the process is in, has free."""
    free = int(psutil.virtual_memory().available)
    for folder in _control_groups():
        try:
            limit = (folder / "memory.max").read_text().strip()
            used = int((folder / "memory.current").read_text())
            statistics = (folder / "memory.stat").read_text()
        except (OSError, ValueError):
            continue
        if limit != "max":
            # Cached files count as used, but give way.
            cached = re.search(r"^inactive_file (\d+)$", statistics, re.MULTILINE)
            free = min(free, int(limit) - used + (int(cached[1]) if cached else 0))
    return max(free, 0)


def _control_groups() -> list[Path]:
    """Folders of the process's own control group (version 2), and of the root of what it sees."""
    try:
        own = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    except OSError:
        own = None
    return [_CGROUP / own[1], _CGROUP] if own else [_CGROUP]


def resolve_limit(memory_limit: int | float | str | None) -> int:
    """Bytes that the process may hold: as given, or its present size and most of what is free."""
    if memory_limit is not None:
        return parse_bytes(memory_limit)
    return process_bytes() + int(_DEFAULT_PART * free_bytes())


@dataclass(frozen=True)
class Budget:
    """What a process may hold, and what it held before the work began.

    Attributes
    ----------
    limit : int
        Bytes that the process may hold.
    held : int
        Bytes that it held. Measured once: memory that was freed since, but not given back to
        the system, will be used again.
    n_threads : int
        Threads that compute.
    name : str
        What a message calls the limit.
    """

    limit: int
    held: int
    n_threads: int
    name: str = "memory_limit"

    def chunks_in_flight(self, source: Source, work: Work, n_values: int, most: int) -> int:
        """How many chunks may be in memory at once.

        Parameters
        ----------
        source : Source
        work : Work
        n_values : int
            Values that wait to be merged.
        most : int
            More are of no use.

        Returns
        -------
        int
            0 to ``most``.
        """
        free = self.limit - self.held - self._fixed(work, n_values)
        if source.read_bytes == 0:
            return most if free >= 0 else 0
        return min(max(free // source.read_bytes, 0), most)

    def require_chunks(self, source: Source, work: Work, n_values: int, n_chunks: int = 1) -> None:
        """Refuse work for which not so many chunks fit.

        Raises
        ------
        MemoryLimitError
            With the sizes.
        """
        if self.chunks_in_flight(source, work, n_values, n_chunks) == n_chunks:
            return
        fixed = self._fixed(work, n_values)
        chunks = n_chunks * source.read_bytes
        needed = self.held + fixed + chunks
        raise MemoryLimitError(
            f"{source.name} cannot be read within {self.name} = {format_bytes(self.limit)}: it "
            f"takes {format_bytes(needed)}, of which {format_bytes(self.held)} are in use already, "
            f"{format_bytes(chunks)} are for {'one' if n_chunks == 1 else n_chunks} chunk"
            f"{'s' * (n_chunks > 1)} and {format_bytes(fixed)} for what is computed on "
            f"{self.n_threads} thread(s); raise the limit, store the array in "
            "smaller chunks, use fewer threads or components, or covariance_type='diag'"
        )

    def _fixed(self, work: Work, n_values: int) -> int:
        return work.together + self.n_threads * work.thread + n_values * work.value
