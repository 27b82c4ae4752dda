"""What a fit needs in memory, and how much work a memory limit allows."""

from dataclasses import dataclass, replace

import numpy as np

from streamgmm.algorithms.auto import fit_memory, plain_memory, survey_memory
from streamgmm.algorithms.driver_memory import EFFORTS, Effort, affordable
from streamgmm.algorithms.reading import prepare, statistics_work
from streamgmm.algorithms.search import Settings
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.executors.memory import sample_bytes
from streamgmm.protocols import Source, Work


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
        read = self._read.thread + self._read.value + self.source.read_bytes
        return affordable(limit, lambda one: max(memory.passes(one) + read, memory.search(one)))

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
            replace(self._read, driver=memory.passes(effort)),
            Work(driver=memory.search(effort)),
            survey_memory(self.source, self.settings, sample_bytes(limit)),
        )

    @property
    def _read(self) -> Work:
        settings = self.settings
        return statistics_work(self.source, settings.covariance_type, settings.n_components)


def load_kernels(source: Source) -> None:
    """Load the compiled kernels, or compile them, before the size of the process is measured."""
    types = {np.dtype(np.float64)}
    if source.dtype == np.float32:
        types.add(source.dtype)
    parameters = Parameters.create("spherical", [1.0], np.zeros((1, 2)), [1.0])
    expectation = prepare(parameters, Frame.of(parameters), source.missing)
    for dtype in types:
        rows = np.zeros((2, 2), dtype=dtype)
        if source.missing == "em":
            rows[1, 1] = np.nan
        expectation.statistics(rows)
        expectation.posterior(rows)
