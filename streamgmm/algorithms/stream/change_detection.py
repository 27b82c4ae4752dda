"""Scores of rows before they are learned: a record of them, and a test for change.

The score of a row under a mixture that has not learned the row measures the mixture without
held-out rows (Dawid 1984). Scores fall when the distribution of the rows changes.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

#: Largest number of entries of a record; then neighbours are joined.
MOST_ENTRIES = 1024
# Number of blocks before the test begins, and the largest number that the mean stands for.
_FEWEST_BLOCKS, _MOST_BLOCKS = 24, 1024
# In standard deviations of a block: the allowance, the most that one block counts, and the sum of
# the excesses that is an alarm. Normal scores raise less than one alarm in 1e9 blocks. Outliers
# raise one only if they are in three blocks close to each other.
_ALLOWANCE, _MOST_OF_BLOCK, _THRESHOLD = 1.0, 6.0, 12.0


class Score(NamedTuple):
    """The score of some consecutive rows."""

    weight: float
    """Σ w."""
    log_likelihood: float
    """Σ w ln p(x), nats."""

    @property
    def mean(self) -> float:
        """Nats per row."""
        return self.log_likelihood / self.weight

    def join(self, other: "Score") -> "Score":
        """Return the score of the rows of both operands."""
        return Score(self.weight + other.weight, self.log_likelihood + other.log_likelihood)


@dataclass(frozen=True)
class ScoreRecord:
    """Scores in the order of the rows, in no more than a thousand entries.

    If there are more, neighbours are joined, and later entries have twice as many rows.

    Attributes
    ----------
    entries : tuple of Score
    last : Score or None
        The entry to which scores are added while its weight is below the width.
    width : float
    """

    entries: tuple[Score, ...] = ()
    last: Score | None = None
    width: float = 0.0

    @property
    def all_entries(self) -> tuple[Score, ...]:
        """All entries, with the last one."""
        return self.entries if self.last is None else (*self.entries, self.last)

    def add(self, score: Score) -> "ScoreRecord":
        """Return the record with the score of the next rows."""
        if self.last is None:
            return ScoreRecord(self.entries, score, self.width)
        if self.last.weight < self.width:
            return ScoreRecord(self.entries, self.last.join(score), self.width)
        entries = (*self.entries, self.last)
        if len(entries) < MOST_ENTRIES:
            return ScoreRecord(entries, score, self.width)
        width = 2.0 * math.fsum(entry.weight for entry in entries) / MOST_ENTRIES
        joined = entries[:1]
        for entry in entries[1:]:
            if joined[-1].weight < width:
                joined = (*joined[:-1], joined[-1].join(entry))
            else:
                joined = (*joined, entry)
        return ScoreRecord(joined, score, width)


@dataclass(frozen=True)
class ChangeTest:
    """One-sided cumulative sum of how far the scores of blocks of rows fall below the mean.

    Mean and deviation are those of the blocks so far, so the test needs no assumption about the
    distribution of the rows. It compares blocks, not rows, because consecutive rows are often
    similar and deviate together.

    Attributes
    ----------
    n_blocks : int
        Number of blocks that gave mean and variance.
    mean : float
        Nats per row.
    variance : float
        Variance of a row: that of a block times its weight.
    excess : float
        The sum, in standard deviations.

    References
    ----------
    Page (1954), Continuous inspection schemes.
    Siegmund (1985), Sequential Analysis: how rare false alarms are.
    """

    n_blocks: int = 0
    mean: float = 0.0
    variance: float = 0.0
    excess: float = 0.0

    def add(self, score: Score) -> "ChangeTest":
        """Return the state after one more block."""
        value, excess = score.mean, 0.0
        if self.n_blocks >= _FEWEST_BLOCKS:
            deviation = math.sqrt(max(self.variance / score.weight, 1e-300))
            fall = min(max((self.mean - value) / deviation, -_MOST_OF_BLOCK), _MOST_OF_BLOCK)
            excess = max(self.excess + fall - _ALLOWANCE, 0.0)
            value = self.mean - fall * deviation
        n_blocks = min(self.n_blocks + 1, _MOST_BLOCKS)
        change = value - self.mean
        mean = self.mean + change / n_blocks
        square = score.weight * change * (value - mean)
        variance = self.variance + (square - self.variance) / max(n_blocks - 1, 1)
        return ChangeTest(n_blocks, mean, variance, excess)

    @property
    def is_change(self) -> bool:
        """Whether the scores have fallen by more than chance explains."""
        return self.excess > _THRESHOLD
