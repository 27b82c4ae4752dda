"""Memory budgets of the workers of a cluster, and the memory that a pass takes there.

Dask can write waiting data to a disk, but not the data that a task works with. Each thread of a
worker therefore needs room for its work and a chunk. If there is room, a second chunk is read
ahead.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamgmm.executors.cluster.chunk_groups import group_size
from streamgmm.executors.cluster.tasks import MERGED_AT_ONCE
from streamgmm.executors.memory import Budget
from streamgmm.executors.merge_tree import tree_depth
from streamgmm.protocols import LazySource, Source, Work, all_chunks

# Usable part of a worker's memory limit. Above it Dask writes to disk, and soon pauses the worker.
_USABLE_PART = 0.7


@dataclass(frozen=True)
class WorkerMemory:
    """The budgets of all workers at one moment.

    Attributes
    ----------
    budgets : sequence of Budget
    """

    budgets: Sequence[Budget]

    @classmethod
    def of(cls, client: Any) -> "WorkerMemory":
        """Measure each worker's limit and memory, without data that Dask can write to disk."""
        workers = client.scheduler_info(n_workers=-1)["workers"]
        return cls(
            [
                Budget(
                    int(_USABLE_PART * worker["memory_limit"]) or sys.maxsize,
                    max(worker["metrics"]["memory"] - worker["metrics"]["managed_bytes"], 0),
                    worker["nthreads"],
                    f"{_USABLE_PART:.0%} of the memory limit of worker {address}",
                )
                for address, worker in workers.items()
            ]
        )

    def group_size(self, source: Source, n_chunks: int) -> int:
        """Return the chunks in a group: one for a lazy source, computed where the chunk is."""
        if isinstance(source, LazySource):
            return 1
        return group_size(n_chunks, sum(budget.n_threads for budget in self.budgets))

    def require(self, source: Source, work: Work, size: int | None = None) -> None:
        """Refuse a pass for which a worker has too little memory.

        Parameters
        ----------
        source : Source
        work : Work
        size : int, optional
            Chunks in a group; the default is that of a pass over all chunks.

        Raises
        ------
        MemoryLimitError
            If the memory is too small; the message gives the sizes.
        """
        size = size or self.group_size(source, len(all_chunks(source)))
        for budget in self.budgets:
            n_values = _values_at_once(budget, size)
            budget.require_chunks(source, work, n_values, budget.n_threads)

    def holds_two_chunks(self, source: Source, work: Work, size: int) -> bool:
        """Return whether each thread of all workers may read a chunk while it computes another."""
        return all(
            budget.chunks_in_flight(source, work, _values_at_once(budget, size), most) == most
            for budget in self.budgets
            for most in [2 * budget.n_threads]
        )


def _values_at_once(budget: Budget, size: int) -> int:
    """Return the number of values that may wait on a worker to be merged."""
    return budget.n_threads * max(tree_depth(size), MERGED_AT_ONCE)
