"""Memory that fits, streams and merging need, and the work that a memory limit allows."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from streamgmm.algorithms.batch.auto import fit_memory, plain_memory, survey_memory
from streamgmm.algorithms.batch.sample_fit import Settings
from streamgmm.algorithms.reads.memory import (
    EFFORTS,
    Effort,
    FitMemory,
    MixtureBytes,
    affordable,
)
from streamgmm.algorithms.reads.reader import statistics_work
from streamgmm.algorithms.stream.stream_state import block_rows
from streamgmm.core.expectation import prepare
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.core.structures.low_rank import LOW_RANK_TYPE, public_type, structure_name
from streamgmm.estimators.row_estimator import DataEstimator, notified
from streamgmm.events import Listener
from streamgmm.executors.memory import Budget, sample_bytes
from streamgmm.executors.warmup import call_kernels_for_few_rows
from streamgmm.options import CovarianceType
from streamgmm.protocols import Source, Work, data_bytes
from streamgmm.sources.sample import SampleSource

_logger = logging.getLogger("streamgmm")

# Statistics that wait to be merged, as far as they decide what a fit does.
_VALUES = 4
_VALUE = 8


@dataclass(frozen=True, eq=False)
class FitNeeds:
    """The memory of a fit.

    Attributes
    ----------
    source : Source
    settings : Settings
    is_plain : bool
        Whether the fit is plain EM.
    """

    source: Source
    settings: Settings
    is_plain: bool

    def effort(self, limit: int | None) -> Effort:
        """Choose how much the work in memory may use; it depends on the limit and shapes alone."""
        if limit is None or self.is_plain:
            return EFFORTS[0]
        memory = fit_memory(self.source, self.settings, sample_bytes(limit))
        source, read = self.source, self._read
        # Data in memory are part of what the process holds.
        rows = source.read_bytes or data_bytes(source)
        computed = read.thread + _VALUES * read.value

        def needed(effort: Effort) -> int:
            alone = max(memory.between_passes(effort), memory.search(effort))
            return rows + max(memory.during_passes(effort) + computed, alone)

        return affordable(limit, needed, memory.efforts)

    def works(self, limit: int | None) -> tuple[Work, ...]:
        """Return what each part of a fit takes, that of its passes first.

        Without a limit it is what passes take, and nothing of the process that drives them.
        """
        if limit is None:
            return (self._read,)
        if self.is_plain:
            plain = plain_memory(self.source, self.settings)
            return replace(self._read, driver=plain.plain_passes), Work(driver=plain.plain_start)
        memory = fit_memory(self.source, self.settings, sample_bytes(limit))
        effort = self.effort(limit)
        return (
            replace(self._read, driver=memory.during_passes(effort)),
            Work(driver=memory.between_passes(effort)),
            Work(driver=memory.search(effort)),
            survey_memory(self.source, self.settings, sample_bytes(limit)),
        )

    @property
    def _read(self) -> Work:
        settings = self.settings
        return statistics_work(self.source, settings.covariance_type, settings.n_components)


@dataclass(frozen=True, eq=False)
class StreamNeeds:
    """The memory of a stream: of the searches among its first rows, and of learning from then on.

    Attributes
    ----------
    source : Source
        The first batch.
    settings : Settings
    init_size : int
        Rows of the largest search.
    """

    source: Source
    settings: Settings
    init_size: int

    def works(self, limit: int) -> tuple[Work, ...]:
        """Return what the largest search takes."""
        shape = self.init_size, self.source.n_features
        memory = _search_memory(self.settings, shape, limit)
        effort = _search_effort(memory, shape, limit)
        mixture = memory.mixture
        # The mixture that learns meanwhile: totals and averages in old and new frames.
        learning = 3 * mixture.parameters + 6 * mixture.statistics + 2 * mixture.expectation
        # Rows are held in pieces, and joined for a search.
        rows = 2 * _VALUE * (shape[0] + block_rows(shape[1])) * (shape[1] + 2)
        return (Work(driver=rows + learning + memory.search(effort)),)


def log_effort(effort: Effort) -> None:
    """Log what a memory limit takes from a search, if that may decide which optimum is found."""
    if effort.splits and effort.starting_part == 1:
        return
    what = "searches among fewer rows" if effort.splits else "does not split and merge components"
    _logger.warning(
        "memory_limit leaves little room, so the fit %s and may end in a poorer optimum; raise the "
        "limit for the whole search",
        what,
    )


def search_effort(settings: Settings, rows: Array, limit: int | None) -> tuple[Effort, int]:
    """Choose how much a search among rows (n, D) in memory may use; say how many bytes it takes."""
    if limit is None:
        return EFFORTS[0], 0
    shape = rows.shape[0], rows.shape[1]
    memory = _search_memory(settings, shape, limit)
    effort = _search_effort(memory, shape, limit)
    return effort, memory.search(effort)


def _search_memory(settings: Settings, shape: tuple[int, int], limit: int) -> FitMemory:
    # Rows of a stream may lack values in one batch and not in another.
    return settings.memory(*shape, shape[0], _VALUE, True, sample_bytes(limit))


def _search_effort(memory: FitMemory, shape: tuple[int, int], limit: int) -> Effort:
    rows = 2 * _VALUE * shape[0] * shape[1]
    return affordable(limit, lambda one: memory.search(one) + rows, memory.efforts)


def refuse_merging(parts: Sequence[FittedModel], memory_limit: int | float | str) -> None:
    """Refuse to merge mixtures if that takes more memory than there may be.

    Raises
    ------
    MemoryLimitError
        With the sizes.
    """
    first = parts[0].parameters
    pool = MixtureBytes(
        first.structure.pooled_type(first.covariance_type),
        sum(part.parameters.n_components for part in parts),
        first.n_features,
    )
    source = SampleSource(np.empty((0, first.n_features)), np.empty(0))
    source.name = f"{len(parts)} models"
    work = Work(driver=pool.merging)
    Budget.of(memory_limit, 1).require_driver(source, work, None, 0)


@contextmanager
def fitting(
    model: DataEstimator, source: Source, covariance_types: Collection[CovarianceType] = ()
) -> Iterator[Listener]:
    """Yield the listener of a fit; under a memory limit, load the kernels first.

    Parameters
    ----------
    model : GaussianMixture or another estimator
    source : Source
    covariance_types : collection of str, optional
        Those of the mixtures that are fitted; low rank has a kernel of its own.
    """
    with notified(model) as listener:
        if model.memory_limit is not None:
            _load_kernels(source, covariance_types)
        yield listener


def _load_kernels(source: Source, covariance_types: Collection[CovarianceType]) -> None:
    """Load the compiled kernels, or compile them, before the size of the process is measured."""
    types = {np.dtype(np.float64)}
    if source.dtype == np.float32:
        types.add(source.dtype)
    mixtures = [Parameters.create("spherical", [1.0], np.zeros((1, 2)), [1.0])]
    if LOW_RANK_TYPE in map(public_type, covariance_types):
        name = structure_name(LOW_RANK_TYPE, 0, 2)
        mixtures.append(Parameters.create(name, [1.0], np.zeros((1, 2)), np.ones((1, 2, 1))))
    for parameters in mixtures:
        expectation = prepare(parameters, Frame.of(parameters), source.missing)
        for dtype in types:
            rows = np.zeros((2, 2), dtype=dtype)
            if source.missing == "em":
                rows[1, 1] = np.nan
            expectation.statistics(rows)
            expectation.posterior(rows)
    # The search begins with few rows.
    call_kernels_for_few_rows()
