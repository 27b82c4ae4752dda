"""Priors of the estimators, against the published formulas and data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture, Prior
from streamgmm.core.data_moments import DataMoments
from streamgmm.core.objective import PseudoRows
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.errors import DegenerateComponentWarning, OutputError, ParameterError
from streamgmm.options import CovarianceType
from tests import naive
from tests.core.cases import ALL_TYPES, draw, random_parameters

K, D = 3, 2
DIABETES = Path(__file__).parent / "data" / "diabetes.csv"


def problem(covariance_type: CovarianceType, n: int = 400) -> tuple[Array, Parameters]:
    rng = np.random.default_rng(4)
    truth = random_parameters(rng, covariance_type, K, D, spread=3.0)
    return draw(rng, truth, n) + 5.0, Parameters.create(
        covariance_type, truth.weights, truth.means + 5.3, truth.covariances
    )


def start_of(start: Parameters) -> dict[str, Any]:
    return {
        "n_components": start.n_components,
        "covariance_type": start.covariance_type,
        "weights_init": start.weights,
        "means_init": start.means,
        "precisions_init": start.precisions,
        "reg_covar": 0.0,
    }


def one_step(
    rows: Array, start: Parameters, prior: Any, weights: Array | None = None
) -> GaussianMixture:
    model = GaussianMixture(algorithm="em", max_iter=1, prior=prior, **start_of(start))
    with pytest.warns(ConvergenceWarning):
        return model.fit(rows, sample_weight=weights)


def conjugate_step(
    rows: Array, start: Parameters, weights: Array, kappa: float, nu: float, scale: Any, centre: Any
) -> tuple[Array, Array]:
    """Means and covariances of a step of EM by the table of Fraley & Raftery (2007)."""
    gamma = naive.responsibilities(rows, naive.of(start)).astype(float) * weights[:, np.newaxis]
    n_k, n = gamma.sum(axis=0), gamma.sum()
    centres = gamma.T @ rows / n_k[:, np.newaxis]
    means = (n_k[:, np.newaxis] * centres + kappa * centre) / (n_k + kappa)[:, np.newaxis]
    v = np.empty((K, D, D))
    for k in range(K):
        apart, d = rows - centres[k], centres[k] - centre
        v[k] = (gamma[:, k, np.newaxis] * apart).T @ apart
        v[k] += kappa * n_k[k] / (n_k[k] + kappa) * np.outer(d, d)
    diagonals = np.diagonal(v, axis1=1, axis2=2)
    traces = diagonals.sum(axis=1)
    denominators = n_k + nu
    found: dict[str, Any] = {
        "full": lambda: (scale + v) / (denominators + D + 2)[:, np.newaxis, np.newaxis],
        "tied": lambda: (scale + v.sum(axis=0)) / (n + K + nu + D + 1),
        "diag": lambda: (scale + diagonals) / (denominators + 3)[:, np.newaxis],
        "tied_diag": lambda: (scale + diagonals.sum(axis=0)) / (n + K + nu + 2),
        "spherical": lambda: (scale + traces) / (D * (n_k + 1) + nu + 2),
        "tied_spherical": lambda: (scale + traces.sum()) / (D * (n + K) + nu + 2),
    }
    return means, found[start.covariance_type]()


def chen_tan_step(rows: Array, start: Parameters, weights: Array) -> Array:
    """Covariances of a step of EM with the penalty of Chen & Tan (2009)."""
    gamma = naive.responsibilities(rows, naive.of(start)).astype(float) * weights[:, np.newaxis]
    n_k, n = gamma.sum(axis=0), gamma.sum()
    a = 1.0 / np.sqrt(n)
    cov = np.cov(rows.T, aweights=weights, bias=True)
    w = np.empty((K, D, D))
    for k in range(K):
        w[k] = n_k[k] * np.cov(rows.T, aweights=gamma[:, k], bias=True)
    full = w + 2 * a * cov
    tied = w.sum(axis=0) + 2 * a * cov
    found: dict[str, Any] = {
        "full": full / (n_k + 2 * a)[:, np.newaxis, np.newaxis],
        "tied": tied / (n + 2 * a),
        "diag": np.diagonal(full, axis1=1, axis2=2) / (n_k + 2 * a)[:, np.newaxis],
        "tied_diag": np.diagonal(tied) / (n + 2 * a),
        "spherical": np.trace(full, axis1=1, axis2=2) / (D * (n_k + 2 * a)),
        "tied_spherical": np.trace(tied) / (D * (n + 2 * a)),
    }
    return np.asarray(found[start.covariance_type])


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_a_step_is_that_of_the_formulas(covariance_type: CovarianceType) -> None:
    rows, start = problem(covariance_type)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(rows))
    cov = np.cov(rows.T, aweights=weights, bias=True)
    centre = np.average(rows, axis=0, weights=weights)
    is_matrix = covariance_type in ("full", "tied")
    scale = (cov if is_matrix else np.trace(cov) / D) / K ** (2 / D)
    for prior in ("fraley-raftery", Prior()):
        model = one_step(rows, start, prior, weights)
        means, covariances = conjugate_step(rows, start, weights, 0.01, D + 2.0, scale, centre)
        np.testing.assert_allclose(model.means_, means, rtol=1e-9)
        np.testing.assert_allclose(model.covariances_, covariances, rtol=1e-9)
    penalised = one_step(rows, start, "chen-tan", weights)
    expected = chen_tan_step(rows, start, weights)
    np.testing.assert_allclose(penalised.covariances_, expected, rtol=1e-9)
    free = one_step(rows, start, None, weights)
    np.testing.assert_allclose(penalised.means_, free.means_, rtol=1e-12)


OWN_SCALES = {
    "full": [[2.0, 0.3], [0.3, 1.0]],
    "tied": [[2.0, 0.3], [0.3, 1.0]],
    "diag": [2.0, 1.0],
    "tied_diag": [2.0, 1.0],
    "spherical": 1.5,
    "tied_spherical": 1.5,
}


def own_prior(covariance_type: CovarianceType) -> Prior:
    return Prior(
        mean_prior=[1.0, -1.0],
        mean_precision_prior=20.0,
        covariance_prior=OWN_SCALES[covariance_type],
        degrees_of_freedom_prior=7.5,
    )


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_every_value_of_a_prior_takes_part(covariance_type: CovarianceType) -> None:
    rows, start = problem(covariance_type)
    scale = np.array(OWN_SCALES[covariance_type])
    model = one_step(rows, start, own_prior(covariance_type))
    expected = conjugate_step(
        rows, start, np.ones(len(rows)), 20.0, 7.5, scale, np.array([1.0, -1.0])
    )
    np.testing.assert_allclose(model.means_, expected[0], rtol=1e-9)
    np.testing.assert_allclose(model.covariances_, expected[1], rtol=1e-9)


def log_posterior(rows: Array, model: GaussianMixture, degrees: float) -> float:
    """Return the log-likelihood and the log density of the prior, of full covariances."""
    cov = np.cov(rows.T, bias=True) / K ** (2 / D)
    return float(len(rows) * model.score(rows)) + sum(
        scipy.stats.invwishart.logpdf(covariance, degrees, cov)
        + scipy.stats.multivariate_normal.logpdf(mean, rows.mean(axis=0), covariance / 0.01)
        for mean, covariance in zip(model.means_, model.covariances_, strict=True)
    )


@pytest.mark.parametrize("algorithm", ["em", "auto"])
def test_the_log_posterior_never_falls(algorithm: str) -> None:
    rows, start = problem("full", 200)
    values = []
    for max_iter in range(1, 12):
        model = GaussianMixture(
            algorithm=algorithm, max_iter=max_iter, tol=0.0, prior="fraley-raftery",
            **start_of(start),
        )  # fmt: skip
        with pytest.warns(UserWarning, match="did not converge"):
            model.fit(rows)
        values.append(log_posterior(rows, model, D + 2.0))
    assert np.all(np.diff(values) >= -1e-9)
    assert values[-1] > values[0] + 0.1


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_few_passes_end_where_em_ends(covariance_type: CovarianceType) -> None:
    rows, _ = problem(covariance_type)
    found = GaussianMixture(
        K, covariance_type=covariance_type, prior="fraley-raftery", reg_covar=0.0, tol=1e-9,
        random_state=0,
    ).fit(rows)  # fmt: skip
    plain = one_step(rows, found._parameters(), "fraley-raftery")
    np.testing.assert_allclose(plain.means_, found.means_, atol=1e-3)
    np.testing.assert_allclose(plain.covariances_, found.covariances_, atol=1e-3)
    assert found.bic_ == pytest.approx(found.bic(rows), rel=1e-12)


@pytest.mark.parametrize("prior", ["fraley-raftery", "chen-tan", Prior(mean_precision_prior=0.1)])
@pytest.mark.parametrize("algorithm", ["em", "auto", "hard"])
def test_a_component_of_one_row_does_not_collapse(prior: Any, algorithm: str) -> None:
    rows, start = problem("full")
    rows = np.vstack([rows, [[60.0, -60.0]]])
    means = start.means.copy()
    means[2] = rows[-1]
    start = Parameters.create("full", start.weights, means, start.covariances)
    model = GaussianMixture(algorithm=algorithm, prior=prior, max_iter=500, **start_of(start))
    with pytest.warns(DegenerateComponentWarning, match="component"):
        model.fit(rows)
    assert np.linalg.eigvalsh(model.covariances_).min() > 1e-3


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_moments_of_the_data(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(6)
    parameters = random_parameters(rng, covariance_type, 4, 3)
    rows, weights = draw(rng, parameters, 9000) + 100.0, rng.uniform(0.1, 3.0, 9000)
    found = DataMoments.of(rows, weights, covariance_type)
    cov = np.cov(rows.T, aweights=weights, bias=True)
    is_matrix = covariance_type in ("full", "tied")
    np.testing.assert_allclose(found.covariance, cov if is_matrix else np.diag(cov), rtol=1e-10)
    np.testing.assert_allclose(found.mean, np.average(rows, axis=0, weights=weights))
    # Of rows with missing values each moment uses the rows that have its values.
    rows[::3, 1] = np.nan
    found = DataMoments.of(rows, weights, covariance_type)
    whole = ~np.isnan(rows[:, 1])
    assert found.mean[1] == pytest.approx(np.average(rows[whole, 1], weights=weights[whole]))
    variance = np.cov(rows[whole, 1], aweights=weights[whole], bias=True)
    assert found.covariance[(1, 1) if is_matrix else 1] == pytest.approx(float(variance))
    # Those of a mixture are those of its rows.
    model = GaussianMixture(4, covariance_type="full", reg_covar=0.0, random_state=0).fit(
        rows[whole]
    )
    mixed = DataMoments.of_mixtures([(model._parameters(), 10.0), (model._parameters(), 30.0)])
    np.testing.assert_allclose(mixed.covariance, np.cov(rows[whole].T, bias=True), rtol=0.05)
    assert mixed.n_rows == 40.0


def test_missing_values_and_hard_assignment_take_a_prior() -> None:
    rows, _ = problem("full")
    rows[::5, 0] = np.nan
    source = streamgmm.open(rows, missing="em")
    for algorithm in ("em", "auto", "hard"):
        model = GaussianMixture(2, algorithm=algorithm, prior="fraley-raftery", random_state=0)
        free = clone(model).set_params(prior=None)
        assert not np.array_equal(model.fit(source).covariances_, free.fit(source).covariances_)


def diabetes() -> Array:
    return np.loadtxt(DIABETES, delimiter=",", skiprows=3)


@pytest.mark.parametrize(
    ("prior", "published"), [("fraley-raftery", 4762.5), ("chen-tan", 4753.4), (None, 4751.32)]
)
def test_diabetes_has_three_components(prior: Any, published: float) -> None:
    """BIC of mclust at K = 3; without a prior a component may collapse at larger K."""
    rows = diabetes()
    ridge = 1e-6 if prior is None else 0.0
    found = [
        GaussianMixture(
            k, prior=prior, reg_covar=ridge, init_params="k-means++", n_init=3, random_state=0
        )
        .fit(rows)
        .bic_
        for k in (2, 3, 4)
    ]
    assert np.argmin(found) == 1
    assert found[1] == pytest.approx(published, abs=0.06)


@dataclass(frozen=True)
class Wishart:
    """A prior of another package."""

    n_rows: float = 20.0

    def pseudo_rows(self, parameters: Parameters) -> PseudoRows:
        return PseudoRows(covariances=self.n_rows, scatter=self.n_rows * np.eye(D))


@pytest.mark.parametrize("covariance_type", ["full", "tied_diag", "spherical"])
def test_files_hold_priors(covariance_type: CovarianceType, tmp_path: Path) -> None:
    rows, _ = problem(covariance_type)
    path = tmp_path / "m.gmm"
    priors: Sequence[Any] = ("chen-tan", own_prior(covariance_type))
    for prior in priors:
        model = GaussianMixture(1, covariance_type=covariance_type, prior=prior).fit(rows)
        model.save(path)
        loaded = streamgmm.load(path)
        assert loaded.prior == prior
        assert clone(loaded).prior == prior
        again = loaded.fit(rows)
        np.testing.assert_array_equal(again.covariances_, model.covariances_)
        path.unlink()
        online = OnlineGaussianMixture(1, covariance_type=covariance_type, prior=prior)
        online.save(path)
        online = streamgmm.load(path).partial_fit(rows[:300])
        online.save(path)
        continued = streamgmm.load(path).partial_fit(rows[300:])
        online.partial_fit(rows[300:])
        np.testing.assert_array_equal(continued.covariances_, online.covariances_)
        path.unlink()


def test_priors_of_other_classes_are_not_in_files(tmp_path: Path) -> None:
    rows, _ = problem("full")
    model = GaussianMixture(1, prior=Wishart()).fit(rows)
    free = GaussianMixture(1).fit(rows)
    assert not np.allclose(model.covariances_, free.covariances_, rtol=1e-3)
    model.save(tmp_path / "m.gmm")
    assert streamgmm.load(tmp_path / "m.gmm").prior is None
    online = OnlineGaussianMixture(1, prior=Wishart()).partial_fit(rows)
    with pytest.raises(OutputError, match="a Wishart, which a file cannot hold"):
        online.save(tmp_path / "o.gmm")
    online.set_params(prior=Prior())
    online.save(tmp_path / "o.gmm")


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_streams_have_the_prior(covariance_type: CovarianceType) -> None:
    rows, _ = problem(covariance_type)
    strong = Prior(
        covariance_prior=np.array(OWN_SCALES[covariance_type]) * 1e4, degrees_of_freedom_prior=5.0
    )
    batch = GaussianMixture(1, covariance_type=covariance_type, reg_covar=0.0, prior=strong)
    online = OnlineGaussianMixture(1, covariance_type=covariance_type, reg_covar=0.0, prior=strong)
    batch.fit(rows)
    np.testing.assert_allclose(online.partial_fit(rows).covariances_, batch.covariances_, rtol=1e-6)
    # A model that continues from a batch fit has its setting, and keeps the prior.
    after = OnlineGaussianMixture.from_batch(batch).partial_fit(rows)
    assert after.prior == strong
    free = OnlineGaussianMixture.from_batch(batch, prior=None).partial_fit(rows)
    assert not np.allclose(after.covariances_, free.covariances_, rtol=1e-3)
    merged = OnlineGaussianMixture.merged([batch, batch])
    assert merged.prior == strong


def test_wrong_priors_are_refused() -> None:
    rows, _ = problem("full")
    wrong = {
        "mean_prior of the prior has shape": Prior(mean_prior=[1.0]),
        "covariance_prior of the prior has shape": Prior(covariance_prior=[1.0, 2.0]),
        "covariance_prior of the prior is not positive": Prior(covariance_prior=-np.eye(2)),
        "covariance_prior of the prior holds no real": Prior(covariance_prior=[["a"]]),
        "mean_precision_prior of the prior is -1": Prior(mean_precision_prior=-1.0),
        "degrees_of_freedom_prior of the prior is 1.0": Prior(degrees_of_freedom_prior=1.0),
        "'prior' parameter": "normal",
        "implementing 'pseudo_rows' or None. Got 3.0": 3.0,
    }
    for message, prior in wrong.items():
        for model in (GaussianMixture(2, prior=prior), OnlineGaussianMixture(2, prior=prior)):
            fit = model.fit if isinstance(model, GaussianMixture) else model.partial_fit
            with pytest.raises(ParameterError, match=message):
                fit(rows)
