"""Sources that fail, as those of a cluster do, and keep account of how they are read.

What they need to know is in a folder that all processes see.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from streamgmm.protocols import Chunk
from streamgmm.testing.chunked import ChunkedSource

CHUNK_ROWS = 50


class LoggedSource(ChunkedSource):
    """Small chunks; each read leaves a line with its number and process in a folder."""

    def __init__(self, folder: Path, n_chunks: int, **settings: Any) -> None:
        rng = np.random.default_rng(0)
        n_rows = CHUNK_ROWS * n_chunks
        table = rng.normal(size=(n_rows, 2)) + 5.0 * rng.integers(3, size=(n_rows, 1))
        super().__init__(table, CHUNK_ROWS, **settings)
        self.folder = folder
        (folder / "reads").touch()

    def read(self, i: int) -> Chunk:
        with (self.folder / "reads").open("a") as log:
            log.write(f"{i} {os.getpid()}\n")
        return super().read(i)

    def reads(self) -> list[tuple[int, int]]:
        lines = (self.folder / "reads").read_text().splitlines()
        return [(int(i), int(process)) for i, process in map(str.split, lines)]

    def takes(self, name: str) -> bool:
        """Whether there was a file of this name; the one process that is told so has removed it."""
        try:
            (self.folder / name).unlink()
        except FileNotFoundError:
            return False
        return True


class DeadlySource(LoggedSource):
    """Kills the process that reads chunk 70 while there is a file ``kill``."""

    def read(self, i: int) -> Chunk:
        if i == 70 and self.takes("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(i)


class PatientSource(LoggedSource):
    """After 20 reads it waits until there is a file ``joined``."""

    def read(self, i: int) -> Chunk:
        while not (self.folder / "joined").exists() and len(self.reads()) >= 20:
            time.sleep(0.01)
        return super().read(i)


class UnsteadySource(LoggedSource):
    """Of some chunks the first read fails."""

    def read(self, i: int) -> Chunk:
        if i % 50 == 7 and self.takes(str(i)):
            raise ConnectionResetError("now and then")
        return super().read(i)


class FatalSource(LoggedSource):
    """Kills every process that reads chunk 70."""

    def read(self, i: int) -> Chunk:
        if i == 70:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(i)
