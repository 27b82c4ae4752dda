"""Records of all cells, and the file that keeps them."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.reads.measure import PATIENCE, Found, Timing


@dataclass
class Record:
    """The record of a cell.

    Attributes
    ----------
    found : dict of str to Found
        By the name of the way.
    timing : Timing or None
    """

    found: dict[str, Found] = field(default_factory=dict)
    timing: Timing | None = None

    @property
    def best_known(self) -> float:
        """Highest log-likelihood that any way led to."""
        return max(found.limit for found in self.found.values())

    def reads_to(self, way: str, gap: float) -> float:
        """Return the passes until a way is within a gap of the best known; infinity if never."""
        return self.found[way].reads_to(self.best_known - gap)

    @property
    def held_out_gain(self) -> float:
        """Log-likelihood of auto's result on held-out rows, less that of scikit-learn's best."""
        if not {"auto", "scikit-learn"} <= self.found.keys():
            return math.nan
        return self.found["auto"].held_out - self.found["scikit-learn"].held_out

    @property
    def speedup(self) -> float:
        """Seconds of scikit-learn's default fit over those of ours; NaN if not known.

        A lower bound if scikit-learn was given up.
        """
        if self.timing is None:
            return math.nan
        other = self.timing.scikit_learn
        return PATIENCE if other is None else other / self.timing.ours


def load(path: Path) -> dict[str, Record]:
    """Records by the names of the cells; none if there is no file."""
    if not path.exists():
        return {}
    return {
        cell: Record(
            {way: Found(**found) for way, found in record["found"].items()},
            record["timing"] and Timing(**record["timing"]),
        )
        for cell, record in json.loads(path.read_text()).items()
    }


def save(records: Mapping[str, Record], path: Path) -> None:
    """Write records; the file is whole at any time."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps({cell: asdict(r) for cell, r in records.items()}))
    unfinished.replace(path)
