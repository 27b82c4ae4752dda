"""Measure the available memory, and compute how many chunks fit in it."""

import ctypes
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import psutil

from streamgmm.errors import MemoryLimitError, ParameterError
from streamgmm.protocols import Source, Work
from streamgmm.quantities import format_bytes

# Part of the free memory that is used if the user gives no limit.
_DEFAULT_PART = 0.6
# A sample may take one byte in this many, because drawing a sample makes copies.
_SAMPLE_PART = 12
_LARGEST_SAMPLE = 1 << 30
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_CGROUP = Path("/sys/fs/cgroup")
# Parameters of mallopt in the GNU C library. Arrays of the threshold or more are mapped one by one,
# so their memory returns to the system; so does free memory of this size at the end of the heap.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_ARRAY, _FREE_AT_END = 1 << 20, 1 << 23
# Limits in messages are multiples of this, and larger by it than the measured size, because the
# size of a process differs from run to run.
_GRAIN = 1 << 24
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ (\S{4}) \S+ \S+ \d+ +(/.*)$")


def parse_bytes(size: int | float | str, name: str = "memory_limit") -> int:
    """Return a size in bytes from a number or from text such as "1GiB", "500 MB" or "2e9".

    Raises
    ------
    ParameterError
        If the size is not positive, or is no size.
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


def process_bytes() -> int:
    """Return the resident memory of the process, its libraries included.

    Pages of mapped data files are not counted, because the system reclaims them when memory is
    short.
    """
    return _resident_bytes() - _mapped_data_bytes()


def _resident_bytes() -> int:
    return int(_process(os.getpid()).memory_info().rss)


@lru_cache(maxsize=1)
def _process(number: int) -> psutil.Process:
    """Return a process by its number; finding it takes longer than measuring it."""
    return psutil.Process(number)


def _mapped_data_bytes() -> int:
    """Return the resident bytes of mapped files without executable parts."""
    try:
        lines = Path("/proc/self/smaps").read_text(errors="replace").splitlines()
    except OSError:
        return 0
    sizes: dict[str, int] = {}
    executable: set[str] = set()
    path = ""
    for line in lines:
        mapping = _MAPPING.match(line)
        if mapping:
            path = mapping[2]
            if "x" in mapping[1]:
                executable.add(path)
        elif line.startswith("Rss:") and path:
            sizes[path] = sizes.get(path, 0) + 1024 * int(line.split()[1])
            path = ""
        elif line[:1] in "0123456789abcdef":
            # This mapping has no file.
            path = ""
    return sum(size for path, size in sizes.items() if path not in executable)


def return_freed_memory() -> None:
    """Make the C library return the memory of freed arrays to the system from now on.

    By default the GNU C library keeps much of this memory, which counts as resident. With another C
    library nothing changes.
    """
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_ARRAY)
    libc.mallopt(_M_TRIM_THRESHOLD, _FREE_AT_END)
    libc.malloc_trim(ctypes.c_size_t(0))


def sample_bytes(memory_limit: int | float | str | None) -> int:
    """Return the bytes that a sample of rows may take: a part of the limit, or of the machine.

    The result decides which rows are in the sample. It must not depend on the free memory.
    """
    if memory_limit is not None:
        return parse_bytes(memory_limit) // _SAMPLE_PART
    return min(machine_bytes() // _SAMPLE_PART, _LARGEST_SAMPLE)


def machine_bytes() -> int:
    """Return the memory of the machine, or of the control group of the process."""
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
    """Return the free memory of the machine, or of the control group of the process."""
    free = int(psutil.virtual_memory().available)
    for folder in _control_groups():
        try:
            limit = (folder / "memory.max").read_text().strip()
            used = int((folder / "memory.current").read_text())
            statistics = (folder / "memory.stat").read_text()
        except (OSError, ValueError):
            continue
        if limit != "max":
            # Cached files count as used, but the system reclaims them.
            cached = re.search(r"^inactive_file (\d+)$", statistics, re.MULTILINE)
            free = min(free, int(limit) - used + (int(cached[1]) if cached else 0))
    return max(free, 0)


def _control_groups() -> list[Path]:
    """Return the folders of the process's control group (version 2) and of the visible root."""
    try:
        own = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    except OSError:
        own = None
    return [_CGROUP / own[1], _CGROUP] if own else [_CGROUP]


def _default_room() -> int:
    """Return the bytes that the process may take if the user gives no limit."""
    return int(_DEFAULT_PART * free_bytes())


@dataclass(frozen=True)
class Budget:
    """The memory limit of a process, and the memory that it held before the work began.

    Attributes
    ----------
    limit : int
        Bytes that the process may hold.
    held : int
        Bytes that it held. They are measured once: memory that was freed since, but not returned
        to the system, will be used again.
    n_threads : int
        Threads that compute.
    name : str
        Name of the limit in messages.
    drives : bool
        Whether the process also drives the work, under a limit that the user has given.
    """

    limit: int
    held: int
    n_threads: int
    name: str = "memory_limit"
    drives: bool = False

    @classmethod
    def of(cls, memory_limit: int | float | str | None, n_threads: int) -> "Budget":
        """Return the budget of this process: with a limit, or with most of the free memory."""
        if memory_limit is None:
            held = _resident_bytes()
            return cls(held + _default_room(), held, n_threads)
        limit = parse_bytes(memory_limit)
        return_freed_memory()
        return cls(limit, process_bytes(), n_threads, drives=True)

    def with_threads_that_fit(self, source: Source, work: Work, n_values: int) -> "Budget":
        """Return the budget with as many threads as have their memory, but at least one."""
        budget = self
        while budget.n_threads > 1 and not budget.holds(source, work, n_values, 1):
            budget = replace(budget, n_threads=budget.n_threads - 1)
        return budget

    def chunks_in_flight(self, source: Source, work: Work, n_values: int, most: int) -> int:
        """Return how many chunks may be in memory at once.

        Parameters
        ----------
        source : Source
        work : Work
        n_values : int
            Values that wait to be merged.
        most : int
            Largest useful number.

        Returns
        -------
        int
            0 to ``most``.
        """
        free = self.limit - self.held - self._fixed(work, n_values)
        if source.read_bytes == 0:
            return most if free >= 0 else 0
        return min(max(free // source.read_bytes, 0), most)

    def holds(self, source: Source, work: Work, n_values: int, n_chunks: int) -> bool:
        """Return whether ``n_chunks`` chunks fit, with the work and the values that wait."""
        needed = self.held + self._fixed(work, n_values) + n_chunks * source.read_bytes
        return needed <= self.limit

    def require_chunks(
        self,
        source: Source,
        work: Work,
        n_values: int,
        n_chunks: int = 1,
        at_limit: Callable[[int], Sequence[Work]] | None = None,
    ) -> None:
        """Refuse work for which ``n_chunks`` chunks do not fit.

        Parameters
        ----------
        source, work, n_values
            As for :meth:`chunks_in_flight`.
        n_chunks : int
        at_limit : callable, optional
            Returns all works that have to fit under another limit; by default the same work.

        Raises
        ------
        MemoryLimitError
            If the memory is too small; the message gives the sizes.
        """
        if self.holds(source, work, n_values, n_chunks):
            return
        driver = work.driver if self.drives else 0
        computed = self._fixed(work, n_values) - driver
        chunks = n_chunks * source.read_bytes
        needed = self.held + computed + driver + chunks
        remedy = "raise the limit"
        if self.drives:
            works_at = at_limit or (lambda _: [work])
            smallest = self._smallest_limit(source, works_at, n_values, n_chunks)
            remedy += f" (the smallest limit that works is '{smallest >> 20}MiB')"
        raise MemoryLimitError(
            f"{source.name} cannot be read within {self.name} = {format_bytes(self.limit)}: it "
            f"takes {format_bytes(needed)}, of which {format_bytes(self.held)} are in use already, "
            f"{format_bytes(chunks)} are for {'one' if n_chunks == 1 else n_chunks} chunk"
            f"{'s' * (n_chunks > 1)}, {format_bytes(driver)} for parameters, the sample and the "
            f"work between passes and {format_bytes(computed)} for what is computed on "
            f"{self.n_threads} thread(s); {remedy}, store the array in smaller chunks, use fewer "
            "threads or components, or covariance_type='diag'"
        )

    def require_driver(
        self,
        source: Source,
        work: Work,
        at_limit: Callable[[int], Sequence[Work]] | None,
        n_values: int,
    ) -> None:
        """Refuse work whose driving process has too little memory, without counting chunks.

        Raises
        ------
        MemoryLimitError
            If the memory is too small; the message gives the sizes.
        """
        if not self.drives:
            return

        def own(work: Work) -> Work:
            return Work(value=work.value, driver=work.driver)

        def own_at(limit: int) -> Sequence[Work]:
            return [own(work)] if at_limit is None else list(map(own, at_limit(limit)))

        self.require_chunks(source, own(work), n_values, 0, own_at)

    def _smallest_limit(
        self,
        source: Source,
        at_limit: Callable[[int], Sequence[Work]],
        n_values: int,
        n_chunks: int,
    ) -> int:
        """Return the smallest limit, a multiple of the grain, under which one thread can work."""
        limit = self.held // _GRAIN * _GRAIN
        fits = False
        while not fits:
            limit += max(_GRAIN, limit // 64 // _GRAIN * _GRAIN)
            budget = replace(self, limit=limit - _GRAIN, n_threads=1)
            fits = all(budget.holds(source, one, n_values, n_chunks) for one in at_limit(limit))
        return limit

    def _fixed(self, work: Work, n_values: int) -> int:
        driver = work.driver if self.drives else 0
        return work.together + self.n_threads * work.thread + n_values * work.value + driver
