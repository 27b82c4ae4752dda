"""Rows in memory with which the search runs EM and evaluates mixtures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.algorithms.batch.em import Fit, expectation_maximization
from streamgmm.algorithms.batch.few_rows import FewRows
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.core.e_step import EStep, Posterior
from streamgmm.core.expectation import Expectation, prepare
from streamgmm.core.few_rows_e_step import are_few_for
from streamgmm.core.frame import Frame
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.events import Event, Listener
from streamgmm.options import CovarianceType
from streamgmm.protocols import Chunk, Job, Work

# A short run of EM ends with a step that gains less, in nats per row.
_SETTLED = 1e-6
# Bytes of a block of responsibilities in a thread, with the arrays made from it; number of arrays
# of this size that are in memory at once.
_BLOCK_BYTES, _ARRAYS = 1 << 23, 6

#: Gives some of the rows, with weights, if they are few for a number of components.
Part = Callable[[NDArray[np.intp], Array, int], FewRows | None]


@dataclass(frozen=True)
class StepsDone(Event):
    """Several steps of EM with few rows are done.

    Attributes
    ----------
    n_rows : int
        Number of rows that they computed; a row counts each time.
    log_likelihoods : tuple of float
        Those of the steps, nats per row.
    """

    n_rows: int
    log_likelihoods: tuple[float, ...]


@dataclass(frozen=True)
class PartDone(Event):
    """Work with some of the rows is done."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows in memory, and a reader of them.

    Attributes
    ----------
    reader : Reader
    stored : ndarray of shape (m, D)
        Rows in the type of the sample. NaN where a value is missing.
    weights : ndarray of shape (m,)
    few : FewRows, optional
        The rows again, if they are few.
    origin : Rows, optional
        The same rows, whose copy in float64 is used.
    """

    reader: Reader
    stored: NDArray[Any]
    weights: Array
    few: FewRows | None = None
    origin: "Rows | None" = None

    @cached_property
    def rows(self) -> Array:
        """The rows in float64."""
        if self.origin is not None:
            return self.origin.rows
        return self.stored.astype(np.float64, copy=False)

    @property
    def may_lack_values(self) -> bool:
        """Whether a row may hold NaN."""
        return self.reader.source.missing == "em"

    def with_listener(self, listener: Listener) -> "Rows":
        """Return these rows with a reader of their own, for another thread."""
        reader = replace(self.reader, listener=listener, history=[], stages=[])
        return replace(self, reader=reader, origin=self.origin or self)

    def on_run(self, n_rows: int, log_likelihoods: Sequence[float]) -> None:
        """Report a run of EM with few rows."""
        self.reader.notify(StepsDone(n_rows, tuple(log_likelihoods)))

    def on_part(self) -> None:
        """Report that work with some of the rows is done."""
        self.reader.notify(PartDone())

    def prepared(self, parameters: Parameters) -> Expectation:
        """Return a mixture prepared for these rows."""
        frame = Frame.of(parameters, self.stored.dtype)
        missing, n_rows = self.reader.source.missing, len(self.stored)
        return prepare(parameters, frame, missing, n_rows=n_rows)

    def short_run(self, start: Parameters, n_steps: int, *, objective: Objective) -> Fit:
        """Run EM with these rows for ``n_steps`` steps, or until the gain is negligible."""
        few = self.few_for(start.n_components)
        if few is not None:
            found = few.short_run(start, n_steps, _SETTLED, self.on_run)
            if found is not None:
                return found
        fit = expectation_maximization(
            self.reader,
            start,
            tol=_SETTLED,
            max_iter=n_steps,
            objective=objective,
            keeps_evaluated=True,
        )
        return fit.without_statistics()

    def continued(self, fit: Fit, n_steps: int, *, objective: Objective) -> Fit:
        """Run EM for more steps, unless the last gain of the fit with these rows was negligible."""
        if fit.converged and not fit.degenerate:
            return fit
        return self.short_run(fit.parameters, n_steps, objective=objective)

    def few_for(self, n_components: int) -> FewRows | None:
        """Return the few rows, if a step with this number of components takes less time there."""
        return self.few if self.few is not None and self.few.is_for(n_components) else None

    def components_of(
        self, parameters: Parameters, frame: Frame
    ) -> Callable[[NDArray[np.intp]], Expectation]:
        """Return a function that prepares some components of a mixture for these rows."""
        missing, n_rows = self.reader.source.missing, len(self.stored)
        k, d = parameters.means.shape
        if missing != "em" and not are_few_for(parameters.structure, (n_rows, d), k):
            return EStep.prepare(parameters, frame).gathered

        def prepared(components: NDArray[np.intp]) -> Expectation:
            own = taken_components(parameters, components)
            return prepare(own, frame.gathered(components), missing, n_rows=n_rows)

        return prepared

    def parts(self, covariance_type: CovarianceType, objective: Objective) -> Part:
        """Return a function that gives some of the rows, where these are few.

        It takes their places (n,), their weights (n,) and a number of components, and returns None
        if the rows are many for these, or have no place in a kernel for few rows.
        """
        whole = self.few
        if whole is None:
            whole = FewRows.none_of(self.stored, covariance_type, objective)
        # Parts of few rows by their places, which are kept so that no other array is mistaken.
        kept: dict[int, tuple[NDArray[np.intp], FewRows]] = {}

        def part(places: NDArray[np.intp], weights: Array, n_components: int) -> FewRows | None:
            self.on_part()
            if whole is None or not whole.is_for(n_components, len(places)):
                return None
            if self.few is None:
                return whole.holding(self.stored[places], weights)
            if id(places) not in kept:
                kept[id(places)] = places, self.few.part(places, weights)
            return kept[id(places)][1].weighted(weights)

        return part

    def posterior_of(
        self, parameters: Parameters, part: Part
    ) -> Callable[[NDArray[np.intp], NDArray[np.intp]], Posterior]:
        """Return a function that gives the posterior of some rows under some components.

        Parameters
        ----------
        parameters : Parameters
        part : callable
            That of :meth:`parts`.
        """
        prepared = cache(
            lambda: self.components_of(parameters, Frame.of(parameters, self.stored.dtype))
        )

        def posterior(components: NDArray[np.intp], places: NDArray[np.intp]) -> Posterior:
            few = part(places, self.weights[places], len(components))
            if few is not None:
                return few.posterior(taken_components(parameters, components))
            return prepared()(components).posterior(self.stored[places], with_responsibilities=True)

        return posterior

    def some_posterior(self, parameters: Parameters) -> tuple[Array, Posterior]:
        """Return the weights of a block of rows from all over, and their responsibilities."""
        few = self.few_for(parameters.n_components)
        if few is not None:
            return self.weights, few.posterior(parameters)
        most = max(1, _BLOCK_BYTES // (8 * parameters.n_components))
        chosen = slice(None, None, -(-len(self.stored) // most))
        posterior = self.prepared(parameters).posterior
        return self.weights[chosen], posterior(self.stored[chosen], with_responsibilities=True)

    def of_blocks(self, parameters: Parameters, values: Callable[..., Any]) -> list[Any]:
        """Return what the weights and the posterior of each block of rows give, in their order.

        Parameters
        ----------
        parameters : Parameters
        values : callable
            Takes the weights of some rows, (n,), and their posterior with responsibilities.
        """
        few = self.few_for(parameters.n_components)
        if few is not None:
            return [values(self.weights, few.posterior(parameters))]
        prepared = self.prepared(parameters)
        size = max(1, _BLOCK_BYTES // (8 * _ARRAYS * parameters.n_components))

        def of_chunk(_: None, chunk: Chunk) -> _Blocks:
            blocks = (chunk.part(start, start + size) for start in range(0, len(chunk.rows), size))
            found = (
                values(block.weights, prepared.posterior(block.rows, with_responsibilities=True))
                for block in blocks
            )
            return _Blocks(tuple(found))

        reader = self.reader
        work = Work(thread=_BLOCK_BYTES * 3 // 2, driver=reader.driver_bytes)
        job = Job(of_chunk, None, work)
        found = reader.executor.map_reduce(reader.source, job, reader.notify)
        return list(found.values)


def taken_components(parameters: Parameters, components: NDArray[np.intp]) -> Parameters:
    """Return some components of a mixture, with the weights that they have in it."""
    structure = parameters.structure
    return Parameters(
        parameters.covariance_type,
        parameters.weights[components],
        parameters.means[components],
        structure.taken(parameters.covariances, components),
        structure.taken(parameters.factors, components),
    )


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Results of blocks of rows.

    Attributes
    ----------
    values : tuple
    """

    values: tuple[Any, ...]

    def merge(self, other: "_Blocks") -> "_Blocks":
        """Return the results of the blocks of both operands."""
        return _Blocks(self.values + other.values)
