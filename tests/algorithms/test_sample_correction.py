"""Steps with all rows from iterations with a sample, for mixtures of low rank."""

from collections.abc import Iterator

import numpy as np
import pytest

from streamgmm.algorithms.batch.accelerated_em import accelerated_em
from streamgmm.algorithms.batch.sample_correction import SampleCorrection
from streamgmm.algorithms.reads.reader import Reader
from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.core.structures.low_rank import structure_name
from streamgmm.core.structures.low_rank_factors import joined
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.sources.sample import SampleSource

K, D, RANK, N, N_SAMPLE = 3, 8, 2, 40_000, 4_000
OBJECTIVE = Objective()


@pytest.fixture
def executor() -> Iterator[ThreadExecutor]:
    with ThreadExecutor(1) as found:
        yield found


def planted() -> Parameters:
    """Return components that overlap, so that EM is slow."""
    rng = np.random.default_rng(3)
    covariances = joined(rng.normal(size=(K, D, RANK)), rng.uniform(0.3, 1.0, size=(K, D)))
    name = structure_name("low_rank", RANK, D)
    return Parameters.create(name, [0.2, 0.3, 0.5], rng.normal(size=(K, D)), covariances)


def rows() -> Array:
    found, _ = draw(planted(), N, np.random.default_rng(1))
    return np.random.default_rng(2).permutation(found)


def reader_of(values: Array, executor: ThreadExecutor) -> Reader:
    return Reader(SampleSource(values, np.ones(len(values))), executor, lambda event: None)


def end(reader: Reader, start: Parameters) -> Parameters:
    fit = accelerated_em(reader, start, tol=1e-10, max_iter=400, objective=OBJECTIVE)
    return fit.parameters


def value(reader: Reader, parameters: Parameters) -> float:
    return OBJECTIVE.value(reader.statistics("value", parameters), parameters)


def test_a_correction_gains_nearly_all_that_a_sample_lacks(executor: ThreadExecutor) -> None:
    values = rows()
    everything, sample = (reader_of(values[:n], executor) for n in (N, N_SAMPLE))
    start = end(sample, planted())
    best = value(everything, end(everything, planted()))
    statistics = everything.statistics("iteration", start)
    image = OBJECTIVE.maximize(statistics, start).parameters
    corrected = SampleCorrection(sample, OBJECTIVE, 8, 30)(start, image)
    assert corrected is not None
    losses = [best - value(everything, one) for one in (start, image, corrected)]
    assert losses[0] > 1e-4
    assert losses[2] < 0.1 * losses[0]
    assert losses[2] < 0.5 * losses[1]
    # The pass of the sample at the first point, and one for each iteration.
    assert sum(one.purpose == "correction" for one in sample.history) <= 31


def test_a_sample_of_all_rows_changes_nothing_at_the_optimum(executor: ThreadExecutor) -> None:
    everything = reader_of(rows()[:N_SAMPLE], executor)
    start = end(everything, planted())
    statistics = everything.statistics("iteration", start)
    image = OBJECTIVE.maximize(statistics, start).parameters
    corrected = SampleCorrection(everything, OBJECTIVE, 8, 10)(start, image)
    assert corrected is not None
    assert value(everything, corrected) == pytest.approx(value(everything, start), abs=1e-8)


def test_a_component_without_weight_has_no_correction(executor: ThreadExecutor) -> None:
    reader, whole = reader_of(rows()[:N_SAMPLE], executor), planted()
    start = Parameters.create(
        whole.covariance_type, [0.0, 0.4, 0.6], whole.means, whole.covariances
    )
    correction = SampleCorrection(reader, OBJECTIVE, 8, 10)
    assert correction(start, start) is None
