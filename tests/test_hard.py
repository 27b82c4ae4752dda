"""Classification EM: hard assignment in the E-step, and the algorithm of the estimator."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

import streamgmm
from streamgmm import GaussianMixture
from streamgmm import open as open_data
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.maximization import maximize
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.errors import CheckpointError, DegenerateComponentWarning, ParameterError
from streamgmm.events import ReadDone
from streamgmm.options import CovarianceType
from streamgmm.sources.array import ArraySource
from tests import naive
from tests.core.cases import ALL_TYPES, draw, random_parameters, unit_covariances


def hard(parameters: Parameters, arithmetic: str = "auto") -> EStep:
    frame = Frame.of(parameters)
    return EStep.prepare(parameters, frame, arithmetic, is_hard=True)  # type: ignore[arg-type]


def largest(rows: Array, parameters: Parameters) -> Array:
    return naive.log_joint(rows, naive.of(parameters)).max(axis=1).astype(float)


def assert_agrees(rows: Array, parameters: Parameters, weights: Array | None = None) -> None:
    model = naive.of(parameters)
    found = hard(parameters).statistics(rows, weights)
    joint = naive.log_joint(rows, model)
    w = np.ones(len(rows)) if weights is None else weights
    assert found.log_likelihood == pytest.approx(float(w @ joint.max(axis=1)), rel=1e-10)
    counts = np.bincount(joint.argmax(axis=1), w, parameters.n_components)
    np.testing.assert_allclose(found.counts, counts, rtol=1e-12, atol=1e-12)
    said = hard(parameters).assignment(rows)
    np.testing.assert_array_equal(said.labels, joint.argmax(axis=1))
    np.testing.assert_allclose(said.scores, joint.max(axis=1).astype(float), rtol=1e-9, atol=1e-8)
    step = naive.em_step(rows, model, row_weights=weights, is_hard=True)
    assert naive.distance(maximize(found, parameters).parameters, step) < 1e-8


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize(("k", "d", "n"), [(1, 3, 300), (3, 2, 1500), (6, 4, 1200), (40, 17, 4000)])
def test_iteration_is_that_of_the_textbook(
    covariance_type: CovarianceType, k: int, d: int, n: int
) -> None:
    rng = np.random.default_rng(10 * k + d)
    parameters = random_parameters(rng, covariance_type, k, d)
    assert_agrees(draw(rng, parameters, n), parameters)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_weights(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(0)
    parameters = random_parameters(rng, covariance_type, 4, 3)
    assert_agrees(draw(rng, parameters, 800), parameters, rng.uniform(0.0, 3.0, 800))


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
@pytest.mark.parametrize(("offset", "spread"), [(1e6, 3.0), (0.0, 1e5)])
def test_far_and_narrow_components(
    covariance_type: CovarianceType, offset: float, spread: float
) -> None:
    """These use the centred form, always or in some blocks."""
    rng = np.random.default_rng(1)
    parameters = random_parameters(rng, covariance_type, 4, 3, spread)
    parameters = Parameters.create(
        covariance_type, parameters.weights, parameters.means + offset, parameters.covariances
    )
    assert_agrees(draw(rng, parameters, 1500), parameters)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_rows_with_gaps(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(2)
    parameters = random_parameters(rng, covariance_type, 3, 4)
    rows = draw(rng, parameters, 150)
    gaps = rng.random(rows.shape) < 0.3
    gaps[np.arange(150), rng.integers(0, 4, 150)] = False
    rows, weights = np.where(gaps, np.nan, rows), rng.uniform(0.5, 2.0, 150)
    frame = Frame.of(parameters)
    found = IncompleteExpectation.prepare(parameters, frame, is_hard=True).statistics(rows, weights)
    step, objective = naive.incomplete_em_step(rows, naive.of(parameters), weights, is_hard=True)
    assert found.log_likelihood == pytest.approx(float(objective), rel=1e-9)
    assert naive.distance(maximize(found, parameters).parameters, step) < 1e-9


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_of_equal_components_the_first_gets_the_rows(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(3)
    one = random_parameters(rng, covariance_type, 1, 3)
    k = 9
    shape = one.structure.shape(k, 3)
    covariances = one.covariances
    if shape[:1] == (k,):
        covariances = np.broadcast_to(one.covariances, shape)
    parameters = Parameters.create(
        covariance_type, np.full(k, 1 / k), np.repeat(one.means, k, axis=0), covariances
    )
    rows = draw(rng, parameters, 100)
    found = hard(parameters).statistics(rows)
    np.testing.assert_array_equal(found.counts, [100, *[0] * (k - 1)])
    rows[::2, 0] = np.nan
    incomplete = IncompleteExpectation.prepare(parameters, Frame.of(parameters), is_hard=True)
    np.testing.assert_array_equal(incomplete.statistics(rows).counts, [100, *[0] * (k - 1)])


def test_order_of_routes_does_not_decide_ties() -> None:
    """Component 0 is narrow and uses the centred form; component 1 has the same density."""
    parameters = Parameters.create(
        "spherical", [0.25, 0.25, 0.5], [[1e6, 0.0], [1e6, 0.0], [0.0, 0.0]], [1e-4, 1e-4, 1.0]
    )
    prepared = hard(parameters)
    rows = np.array([[1e6, 0.0], [1e6 + 0.01, 0.02], [0.0, 1.0]])
    np.testing.assert_array_equal(prepared.statistics(rows).counts, [2, 0, 1])
    np.testing.assert_array_equal(prepared.assignment(rows).labels, [0, 0, 2])


def test_float32_never_decides_a_label() -> None:
    """At 18 columns densities are screened in float32; near ties are the hardest case."""
    rng = np.random.default_rng(4)
    parameters = random_parameters(rng, "full", 24, 18, spread=0.05)
    rows = draw(rng, parameters, 3000)
    expected = hard(parameters, "float64").statistics(rows)
    for arithmetic in ("auto", "float32"):
        found = hard(parameters, arithmetic).statistics(rows)
        np.testing.assert_array_equal(found.counts, expected.counts)
        assert found.n_single == 0
    far = random_parameters(rng, "full", 24, 18, spread=20.0)
    rows = draw(rng, far, 3000)
    expected, found = hard(far, "float64").statistics(rows), hard(far).statistics(rows)
    assert found.n_screened > 0
    np.testing.assert_array_equal(found.moments, expected.moments)


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
def test_labels_from_float32_are_those_of_float64(
    covariance_type: CovarianceType, spread: float
) -> None:
    rng = np.random.default_rng(10)
    parameters = random_parameters(rng, covariance_type, 50, 3, spread)
    rows = draw(rng, parameters, 5000)
    found, expected = (hard(parameters, a).statistics(rows) for a in ("auto", "float64"))
    assert found.n_screened > 0 or spread == 0.01
    np.testing.assert_array_equal(found.moments, expected.moments)
    assert found.log_likelihood == expected.log_likelihood


def test_ties_on_a_grid_are_not_left_to_float32() -> None:
    """Half of the rows are as far from one mean as from another, to the last bit."""
    means = np.stack(np.meshgrid(*[np.arange(0.0, 8.0, 2.0)] * 2), axis=-1).reshape(-1, 2)
    k = len(means)
    parameters = Parameters.create("spherical", np.full(k, 1 / k), means, np.ones(k))
    rows = np.random.default_rng(11).integers(0, 7, (4000, 2)).astype(float)
    distances = np.square(rows[:, np.newaxis] - means).sum(axis=2)
    for arithmetic in ("auto", "float64"):
        said = hard(parameters, arithmetic).assignment(rows)
        np.testing.assert_array_equal(said.labels, distances.argmin(axis=1))


def test_rows_that_cannot_be_used_take_no_part() -> None:
    rng = np.random.default_rng(5)
    for covariance_type in ALL_TYPES:
        parameters = random_parameters(rng, covariance_type, 3, 2)
        rows = draw(rng, parameters, 50)
        bad = np.vstack([rows, [[np.nan, 0.0], [1e200, 0.0], [np.inf, 1.0]]])
        found, expected = (hard(parameters).statistics(x) for x in (bad, rows))
        assert (found.n_rows, found.n_overflowing, found.n_not_finite) == (50, 1, 2)
        np.testing.assert_allclose(found.moments, expected.moments, rtol=1e-12, atol=1e-9)
        assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-12)


def test_offsets_replace_the_log_weights() -> None:
    rng = np.random.default_rng(6)
    parameters = random_parameters(rng, "diag", 4, 3)
    rows, frame = draw(rng, parameters, 400), Frame.of(parameters)
    offsets = np.array([0.3, -np.inf, -2.0, 5.0])
    joint = naive.log_joint(rows, naive.of(parameters)).astype(float)
    joint += offsets - np.log(parameters.weights)
    found = EStep.prepare(parameters, frame, log_offsets=offsets).statistics(rows)
    assert found.log_likelihood == pytest.approx(
        np.logaddexp.reduce(joint, axis=1).sum(), rel=1e-12
    )
    said = EStep.prepare(parameters, frame, log_offsets=offsets, is_hard=True).assignment(rows)
    np.testing.assert_array_equal(said.labels, joint.argmax(axis=1))
    for wrong in (np.zeros(3), np.full(4, -np.inf), np.array([0.0, np.inf, 0.0, 0.0])):
        with pytest.raises(ParameterError, match="log_offsets"):
            EStep.prepare(parameters, frame, log_offsets=wrong)


def overlapping(n: int = 3000, d: int = 3) -> Array:
    rng = np.random.default_rng(7)
    return rng.normal(size=(n, d)) * [1.0, 2.0, 0.5] + rng.integers(0, 3, (n, 1)) * [3.0, 1.0, 2.0]


def start_of(
    rows: Array, covariance_type: CovarianceType, k: int
) -> dict[str, NDArray[np.float64]]:
    return {
        "weights_init": np.full(k, 1 / k),
        "means_init": np.outer(np.arange(k), [3.0, 1.0, 2.0]) * 0.6,
        "precisions_init": unit_covariances(covariance_type, k, 3),
    }


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_fit_follows_the_textbook_and_never_descends(covariance_type: CovarianceType) -> None:
    rows = overlapping()
    start = start_of(rows, covariance_type, 3)
    model = GaussianMixture(
        3, covariance_type=covariance_type, algorithm="hard", reg_covar=0.0, tol=0.0, max_iter=300
    ).set_params(**start)
    model.fit(rows)
    assert model.converged_
    assert np.all(np.diff(model.lower_bounds_) >= -1e-12)
    parameters = Parameters.from_precisions(covariance_type, *start.values())
    oracle = naive.of(parameters)
    for _ in range(4):
        oracle = naive.em_step(rows, oracle, is_hard=True)
    four = GaussianMixture(
        3, covariance_type=covariance_type, algorithm="hard", reg_covar=0.0, tol=0.0, max_iter=4
    ).set_params(**start)
    with pytest.warns(UserWarning, match="did not converge"):
        four.fit(rows)
    assert naive.distance(four.fitted_model_.parameters, oracle) < 1e-8
    # The objective is that of the assignment; the score that of the mixture.
    assert model.lower_bound_ == pytest.approx(
        largest(rows, model.fitted_model_.parameters).mean(), abs=1e-9
    )
    assert model.score(rows) > model.lower_bound_


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_search_finds_separated_components(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(8)
    centres = np.array([[0.0, 0], [20, 0], [0, 20], [20, 20], [10, 40]])
    rows = rng.permutation(np.vstack([c + rng.normal(size=(400, 2)) for c in centres]))
    model = GaussianMixture(
        5, covariance_type=covariance_type, algorithm="hard", random_state=0
    ).fit(rows)
    assert model.converged_
    order = np.lexsort(model.means_.round().T)
    np.testing.assert_allclose(model.means_[order], centres[np.lexsort(centres.T)], atol=0.2)
    np.testing.assert_allclose(model.weights_, 0.2, atol=1e-3)


def test_zarr_has_the_bits_of_memory(tmp_path: Path) -> None:
    rows = overlapping(20_000)
    stored = zarr.create_array(tmp_path / "x.zarr", shape=rows.shape, chunks=(8192, 3), dtype="f8")
    stored[:] = rows
    source = ArraySource(rows)
    source.boundaries = open_data(stored).boundaries
    settings = {"algorithm": "hard", "random_state": 0, "tol": 1e-4}
    start = start_of(rows, "full", 3)
    one = GaussianMixture(3, reg_covar=1e-6, **settings, **start, n_jobs=1).fit(source)
    two = GaussianMixture(3, reg_covar=1e-6, **settings, **start, n_jobs=2).fit(stored)
    np.testing.assert_array_equal(one.means_, two.means_)
    np.testing.assert_array_equal(one.covariances_, two.covariances_)
    assert one.lower_bounds_ == two.lower_bounds_


def test_missing_values_weights_and_fixed() -> None:
    rng = np.random.default_rng(9)
    rows = overlapping(1500)
    weights = rng.uniform(0.5, 2.0, len(rows))
    gaps = rng.random(rows.shape) < 0.1
    gaps[:, 1] = False
    source = open_data(np.where(gaps, np.nan, rows), missing="em", sample_weight=weights)
    start = start_of(rows, "full", 3)
    model = GaussianMixture(
        3, algorithm="hard", reg_covar=0.0, tol=1e-6, fixed=["weights"], **start
    ).fit(source)
    assert model.converged_
    assert np.all(np.diff(model.lower_bounds_) >= -1e-10)
    np.testing.assert_array_equal(model.weights_, start["weights_init"])


def test_lost_component_is_reported() -> None:
    rows = overlapping(600)
    start = start_of(rows, "spherical", 3)
    start["means_init"] = np.array([[0.0, 0, 0], [1.0, 1, 1], [1e4, 0, 0]])
    model = GaussianMixture(3, covariance_type="spherical", algorithm="hard", **start)
    with pytest.warns(DegenerateComponentWarning, match="component\\(s\\) 2"):
        model.fit(rows)
    assert model.weights_[2] == 0.0


def test_checkpoint_of_em_is_not_continued(tmp_path: Path) -> None:
    rows = overlapping(400)
    settings = {"checkpoint": tmp_path / "c", **start_of(rows, "full", 2)}
    GaussianMixture(2, algorithm="em", **settings).fit(rows)
    with pytest.raises(CheckpointError, match="algorithm was 'em' and is 'hard'"):
        GaussianMixture(2, algorithm="hard", **settings).fit(rows, resume=True)


def test_checkpoint_continues_with_the_same_bits(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    rows = overlapping(4000)
    settings = {"algorithm": "hard", "random_state": 0, "tol": 0.0, "max_iter": 200}
    whole = GaussianMixture(3, **settings).fit(rows)
    assert whole.n_iter_ > 1

    def interrupt(event: object) -> None:
        if isinstance(event, ReadDone) and event.iteration == 1:
            raise Stop

    model = GaussianMixture(3, **settings, checkpoint=tmp_path / "c", callbacks=[interrupt])
    with pytest.raises(Stop):
        model.fit(rows)
    model.set_params(callbacks=()).fit(rows, resume=True)
    np.testing.assert_array_equal(model.means_, whole.means_)
    assert model.lower_bounds_ == whole.lower_bounds_


def test_bound_of_a_hard_fit_is_not_compared_with_a_likelihood(tmp_path: Path) -> None:
    rows = overlapping(500) * [1.0, 1.0, 1.0]
    start = start_of(rows, "spherical", 2)
    model = GaussianMixture(2, covariance_type="spherical", algorithm="hard", tol=10.0, **start)
    model.fit(rows).save(tmp_path / "m.gmm")
    for one in (model, streamgmm.load(tmp_path / "m.gmm")):
        one.set_params(algorithm="em", warm_start=True).fit(rows)
        assert one.n_iter_ == 2


def test_warm_start_continues_to_the_same_end() -> None:
    rows = overlapping(2000)
    settings = {"algorithm": "hard", "reg_covar": 0.0, "tol": 0.0, **start_of(rows, "diag", 3)}
    whole = GaussianMixture(3, covariance_type="diag", max_iter=300, **settings).fit(rows)
    parts = GaussianMixture(3, covariance_type="diag", max_iter=5, warm_start=True, **settings)
    with pytest.warns(UserWarning, match="did not converge"):
        parts.fit(rows)
    parts.set_params(max_iter=300).fit(rows)
    np.testing.assert_allclose(parts.means_, whole.means_, rtol=1e-9)
