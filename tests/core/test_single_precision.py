"""What float32 may cost: data of many kinds, each within the limits or computed in float64.

The limits are 0.001 nats for the score of a row, 1e-5 nats for the mean log-likelihood, and 1e-4
for covariances after a step, in units of the oracle's.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm import GaussianMixture
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.kernels.tiles import BLOCK
from streamgmm.core.maximization import maximize
from streamgmm.core.parameters import Parameters
from streamgmm.options import Arithmetic, CovarianceType
from tests import naive
from tests.core.cases import TYPES, draw, random_parameters

N_ROWS = 1500
SIZES = ((1, 2), (2, 5), (4, 16), (16, 8))

Make = Callable[[np.random.Generator, CovarianceType, int, int], Parameters]


def standardised(rng: np.random.Generator, kind: CovarianceType, d: int, k: int) -> Parameters:
    """About the origin, with a standard deviation near 1 over all."""
    drawn = random_parameters(rng, kind, k, d, 1.0)
    return Parameters.create(kind, drawn.weights, drawn.means / 2.0, drawn.covariances / 4.0)


def offset(rng: np.random.Generator, kind: CovarianceType, d: int, k: int) -> Parameters:
    """The same, 10,000 standard deviations away."""
    near = standardised(rng, kind, d, k)
    return Parameters.create(kind, near.weights, near.means + 1e4, near.covariances)


def narrow(rng: np.random.Generator, kind: CovarianceType, d: int, k: int) -> Parameters:
    """Components 1,000 to 100,000 times narrower than the spread of their means."""
    wide = random_parameters(rng, kind, k, d, 1.0)
    scales = np.geomspace(1e-3, 1e-5, k) ** 2
    covariances = np.asarray(wide.covariances)
    if kind == "tied":
        return Parameters.create(kind, wide.weights, wide.means, 1e-8 * covariances)
    shaped = scales.reshape(-1, *[1] * (covariances.ndim - 1))
    return Parameters.create(kind, wide.weights, wide.means, shaped * covariances)


def correlated(rng: np.random.Generator, kind: CovarianceType, d: int, k: int) -> Parameters:
    """Every two features have a correlation of 1 - 1e-6 within each component."""
    ridge = 1e-6 * np.eye(d) + (1.0 - 1e-6) * np.ones((d, d))
    covariances = np.tile(ridge, (k, 1, 1)) if kind == "full" else ridge
    means = rng.normal(size=(k, 1)) + 1e-3 * rng.normal(size=(k, d))
    return Parameters.create(kind, rng.dirichlet(np.full(k, 5.0)), means, covariances)


def apart(rng: np.random.Generator, kind: CovarianceType, d: int, k: int) -> Parameters:
    """Far from one another, so that float32 is close to its limits, or beyond them."""
    return random_parameters(rng, kind, k, d, 50.0)


MAKERS: tuple[Make, ...] = (standardised, offset, narrow, correlated, apart)


class Cell(NamedTuple):
    """Parameters of a kind, and of a size."""

    make: Make
    kind: CovarianceType
    d: int
    k: int

    def __str__(self) -> str:
        return f"{self.make.__name__}-{self.kind}-{self.d}-{self.k}"

    @property
    def parameters(self) -> Parameters:
        return self.make(np.random.default_rng(0), self.kind, self.d, self.k)

    def rows(self, dtype: type) -> NDArray[np.generic]:
        return draw(np.random.default_rng(1), self.parameters, N_ROWS).astype(dtype)

    @property
    def is_single(self) -> bool:
        """Whether float32 is known to be good enough, by its bounds, for every density."""
        return self.make in (standardised, offset) and (self.kind != "full" or self.d < 16)

    @property
    def is_double(self) -> bool:
        """Whether it is known not to be."""
        return self.make is not apart and not self.is_single


CELLS = [
    Cell(make, kind, d, k)
    for make in MAKERS
    for kind in TYPES
    for d, k in SIZES
    # Other types have no correlation, nor has a single feature.
    if make is not correlated or (kind in ("full", "tied") and d > 1)
]


class Errors(NamedTuple):
    """Largest error of a score; that of the mean log-likelihood; largest |L⁻¹ δΣ L⁻ᵀ|."""

    score: float
    log_likelihood: float
    covariance: float


SINGLE = Errors(1e-3, 1e-5, 1e-4)
DOUBLE = Errors(1e-8, 1e-9, 1e-8)


def measured(
    parameters: Parameters, rows: NDArray[np.generic], arithmetic: Arithmetic
) -> tuple[float, Errors]:
    """The part of densities that are from float32, and errors against the oracle."""
    prepared = EStep.prepare(parameters, Frame.of(parameters, rows.dtype), arithmetic)
    statistics = prepared.statistics(rows)
    found, model = maximize(statistics, parameters).parameters, naive.of(parameters)
    expected = naive.em_step(rows, model)
    moved = naive.mixture(found.covariance_type, found.weights, found.means, found.covariances)
    whitened = [
        naive.solve_lower(factor, naive.solve_lower(factor, error).T)
        for factor, error in zip(expected.factors, moved.matrices - expected.matrices, strict=True)
    ]
    scores = prepared.posterior(rows).scores - naive.scores(rows, model)
    mean = naive.mean_log_likelihood(rows, model)
    errors = Errors(
        float(np.abs(scores).max()),
        float(abs(statistics.mean_log_likelihood - mean)),
        float(np.linalg.norm(np.asarray(whitened, dtype=float), 2, axis=(1, 2)).max()),
    )
    return statistics.n_single / (len(rows) * parameters.n_components), errors


def assert_within(errors: Errors, limits: Errors) -> None:
    for name, error, limit in zip(Errors._fields, errors, limits, strict=True):
        assert error < limit, name


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_float32_is_within_its_limits_or_not_used(cell: Cell, dtype: type) -> None:
    part, errors = measured(cell.parameters, cell.rows(dtype), "float32")
    assert_within(errors, DOUBLE if part == 0.0 else SINGLE)
    if cell.is_single:
        assert part == 1.0
        assert errors.score > DOUBLE.score
    if cell.is_double:
        assert part == 0.0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_float32_costs_nothing_unless_it_is_asked_for(cell: Cell, dtype: type) -> None:
    part, errors = measured(cell.parameters, cell.rows(dtype), "auto")
    assert part == 0.0
    assert_within(errors, DOUBLE)


@pytest.mark.parametrize("kind", TYPES)
def test_sums_are_float32_block_by_block(kind: CovarianceType) -> None:
    # The rows of the second block reach so far that float32 would not do for it.
    rng = np.random.default_rng(0)
    parameters = random_parameters(rng, kind, 3, 2, 0.5)
    rows = draw(rng, parameters, 3 * BLOCK + 100).astype(np.float32)
    rows[BLOCK + 5] = 3e4
    rows[7] = np.nan
    weights = rng.uniform(0.0, 2.0, len(rows))
    frame = Frame.of(parameters, np.float32)
    single = EStep.prepare(parameters, frame, "float32")
    assert single.sums_single
    found = single.statistics(rows, weights)
    assert found.n_single == 3 * (len(rows) - BLOCK)
    expected = EStep.prepare(parameters, frame, "float64").statistics(rows, weights)
    assert (found.n_rows, found.n_missing) == (expected.n_rows, expected.n_missing)
    assert found.weight == pytest.approx(expected.weight, rel=1e-12)
    assert found.mean_log_likelihood == pytest.approx(expected.mean_log_likelihood, abs=1e-5)
    scale = np.abs(expected.moments).max()
    np.testing.assert_allclose(found.moments, expected.moments, rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=1e-5, atol=1e-6 * scale)


# Some cells are so narrow that the ridge is most of their variances.
@pytest.mark.filterwarnings("ignore::streamgmm.errors.DegenerateComponentWarning")
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.d == 2], ids=str)
def test_the_history_says_which_it_was(cell: Cell) -> None:
    start = cell.parameters
    model = GaussianMixture(
        cell.k,
        covariance_type=cell.kind,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=start.precisions,
        arithmetic="float32",
        tol=1e9,
    ).fit(cell.rows(np.float64))
    iteration = next(read for read in model.history_ if read["purpose"] == "iteration")
    part, _ = measured(start, cell.rows(np.float64), "float32")
    assert iteration["arithmetic"] == ("float32" if part > 0.0 else "float64")
