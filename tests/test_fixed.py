"""Parameters that are held for some of the components, against EM in NumPy."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone

from streamgmm import GaussianMixture
from streamgmm.core.e_step import EStep
from streamgmm.core.frame import Frame
from streamgmm.core.information import Information, Tangent
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import Array
from streamgmm.errors import ParameterError
from streamgmm.options import CovarianceType
from tests.core.cases import ALL_TYPES, draw, random_parameters

K, D, N = 4, 2, 2000
OWN = ("full", "diag", "spherical")
MASKS: dict[str, list[bool]] = {
    "weights": [True, False, False, False],
    "means": [False, True, True, False],
    "covariances": [False, False, True, True],
}


def problem(kind: CovarianceType) -> tuple[Array, dict[str, Any], Parameters]:
    """Rows, and the settings and parameters of a start beside the mixture they are drawn from."""
    rng = np.random.default_rng(0)
    truth = random_parameters(rng, kind, K, D)
    rows = draw(rng, truth, N)
    start = Parameters.create(
        kind,
        [0.1, 0.2, 0.3, 0.4],
        truth.means + 0.3 * rng.normal(size=(K, D)),
        1.3 * truth.covariances,
    )
    settings = {
        "n_components": K,
        "covariance_type": kind,
        "weights_init": start.weights,
        "means_init": start.means,
        "precisions_init": start.precisions,
        "reg_covar": 0.0,
    }
    return rows, settings, start


def masks_of(kind: CovarianceType) -> dict[str, list[bool]]:
    return {name: mask for name, mask in MASKS.items() if name != "covariances" or kind in OWN}


def dense(kind: CovarianceType, covariances: Array) -> Array:
    """Covariances as matrices (K, D, D)."""
    eye = np.eye(D)
    return {
        "full": lambda: covariances,
        "tied": lambda: np.tile(covariances, (K, 1, 1)),
        "diag": lambda: covariances[:, :, np.newaxis] * eye,
        "spherical": lambda: covariances[:, np.newaxis, np.newaxis] * eye,
        "tied_diag": lambda: np.tile(covariances * eye, (K, 1, 1)),
        "tied_spherical": lambda: np.tile(covariances * eye, (K, 1, 1)),
    }[kind]()


def step(
    rows: Array,
    weights: Array,
    means: Array,
    matrices: Array,
    kind: CovarianceType,
    fixed: dict[str, list[bool]],
    is_hard: bool,
) -> tuple[Array, Array, Array, float]:
    """One iteration of EM or classification EM, and the objective before it."""
    away = rows[:, np.newaxis] - means
    squares = np.einsum("nki,kij,nkj->nk", away, np.linalg.inv(matrices), away)
    joint = np.log(weights) - 0.5 * (
        squares + np.linalg.slogdet(matrices)[1] + D * np.log(2 * np.pi)
    )
    total = np.logaddexp.reduce(joint, axis=1)
    shares = np.exp(joint - total[:, np.newaxis])
    if is_hard:
        total, shares = joint.max(axis=1), np.eye(K)[joint.argmax(axis=1)]
    counts = shares.sum(axis=0)
    none = [False] * K
    held = {name: np.array(fixed.get(name, none)) for name in MASKS}
    free = ~held["weights"]
    new_weights = weights.copy()
    new_weights[free] = counts[free] / counts[free].sum() * (1.0 - weights[~free].sum())
    found = shares.T @ rows / counts[:, np.newaxis]
    new_means = np.where(held["means"][:, np.newaxis], means, found)
    away = rows[:, np.newaxis] - new_means
    scatter = np.einsum("nk,nki,nkj->kij", shares, away, away)
    if kind.startswith("tied"):
        new = np.tile(scatter.sum(axis=0) / N, (K, 1, 1))
    else:
        new = scatter / counts[:, np.newaxis, np.newaxis]
    if kind.endswith("diag"):
        new = new * np.eye(D)
    if kind.endswith("spherical"):
        new = np.trace(new, axis1=1, axis2=2)[:, np.newaxis, np.newaxis] / D * np.eye(D)
    new = np.where(held["covariances"][:, np.newaxis, np.newaxis], matrices, new)
    return new_weights, new_means, new, float(total.mean())


def iterated(
    rows: Array,
    start: Parameters,
    kind: CovarianceType,
    fixed: dict[str, list[bool]],
    n: int,
    is_hard: bool = False,
) -> tuple[Array, Array, Array, list[float]]:
    state = start.weights, start.means, dense(kind, start.covariances)
    values = []
    for _ in range(n):
        *found, value = step(rows, *state, kind, fixed, is_hard)
        state = found[0], found[1], found[2]
        values.append(value)
    return *state, values


@pytest.mark.filterwarnings("ignore:the best start did not converge")
@pytest.mark.parametrize("algorithm", ["em", "hard"])
@pytest.mark.parametrize("kind", ALL_TYPES)
def test_iterations_are_those_of_em(kind: CovarianceType, algorithm: Any) -> None:
    rows, settings, start = problem(kind)
    fixed = masks_of(kind)
    model = GaussianMixture(**settings, fixed=fixed, algorithm=algorithm, max_iter=5, tol=0.0).fit(
        rows
    )
    weights, means, matrices, values = iterated(
        rows, start, kind, fixed, 5, is_hard=algorithm == "hard"
    )
    np.testing.assert_allclose(model.weights_, weights, rtol=1e-9)
    np.testing.assert_allclose(model.means_, means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(dense(kind, model.covariances_), matrices, rtol=1e-8, atol=1e-9)
    # Classification EM ends as soon as no row is assigned otherwise.
    np.testing.assert_allclose(model.lower_bounds_, values[: model.n_iter_], rtol=1e-10)
    assert np.all(np.diff(values) > -1e-12)
    # What is held has not moved.
    assert model.weights_[0] == pytest.approx(0.1, rel=1e-12)
    np.testing.assert_array_equal(model.means_[1:3], start.means[1:3])


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_auto_ends_where_em_ends(kind: CovarianceType) -> None:
    rows, settings, start = problem(kind)
    fixed = masks_of(kind)
    model = GaussianMixture(**settings, fixed=fixed, tol=1e-10).fit(rows)
    weights, means, matrices, values = iterated(rows, start, kind, fixed, 250)
    assert model.converged_
    assert model.lower_bound_ == pytest.approx(values[-1], abs=2e-7)
    np.testing.assert_allclose(model.weights_, weights, atol=2e-3)
    np.testing.assert_allclose(model.means_, means, atol=2e-2)
    np.testing.assert_allclose(dense(kind, model.covariances_), matrices, atol=5e-2)
    # Acceleration is worth its name with masks, too.
    assert model.n_iter_ < 40


@pytest.mark.parametrize("name", list(MASKS))
def test_the_search_holds_them(name: str) -> None:
    rows, settings, _ = problem("full")
    given = {"weights": "weights_init", "means": "means_init", "covariances": "precisions_init"}
    own = {key: settings[key] for key in ("n_components", given[name])}
    model = GaussianMixture(**own, fixed={name: MASKS[name]}, random_state=0).fit(rows)
    found = getattr(model, "precisions_" if name == "covariances" else f"{name}_")
    held = np.array(MASKS[name])
    np.testing.assert_allclose(found[held], settings[given[name]][held], rtol=1e-9)
    assert np.abs(found[~held] - settings[given[name]][~held]).max() > 1e-3
    assert model.converged_


def test_a_prior_and_weights_of_rows() -> None:
    rows, settings, _ = problem("full")
    counts = np.random.default_rng(1).integers(1, 3, N)
    for prior in ("fraley-raftery", "chen-tan"):
        fits = [
            GaussianMixture(
                **settings, fixed=MASKS, prior=prior, algorithm=algorithm, tol=1e-10, max_iter=2000
            ).fit(rows, sample_weight=counts)
            for algorithm in ("em", "auto")
        ]
        assert fits[0].lower_bound_ == pytest.approx(fits[1].lower_bound_, abs=1e-6)
        for name in ("weights_", "means_", "covariances_"):
            np.testing.assert_allclose(getattr(fits[0], name), getattr(fits[1], name), atol=5e-3)
        np.testing.assert_array_equal(fits[1].means_[1:3], settings["means_init"][1:3])


def test_the_gradient_is_that_along_free_parameters() -> None:
    """Weights move within what the others leave; the gradient there is a difference quotient."""
    rows, _, start = problem("full")
    fixed = {"weights": np.array(MASKS["weights"])}
    frame = Frame.of(start)

    def value(weights: Array) -> float:
        moved = Parameters.create("full", weights, start.means, start.covariances)
        return EStep.prepare(moved, frame).statistics(rows).mean_log_likelihood

    tangent = Tangent(start, frame, fixed)
    own, _ = tangent.split(tangent.gradient(EStep.prepare(start, frame).statistics(rows)))
    roots = np.sqrt(start.weights)
    assert own[0, 0] == 0.0
    assert roots @ own[:, 0] == pytest.approx(0.0, abs=1e-14)
    for i, j in ((1, 2), (2, 3), (1, 3)):
        direction = np.zeros(K)
        direction[[i, j]] = 1.0, -1.0
        quotient = value(start.weights + 1e-5 * direction) - value(start.weights - 1e-5 * direction)
        assert own[:, 0] @ (direction / roots) == pytest.approx(quotient / 2e-5, rel=1e-5)
    # Products of information stay in the same space.
    shares = EStep.prepare(start, frame).posterior(rows, with_responsibilities=True)
    information = Information.estimate(tangent, rows, np.ones(N), shares.responsibilities)
    product, _ = tangent.split(information.product(np.ones(len(tangent.free))))
    assert product[0, 0] == 0.0
    assert roots @ product[:, 0] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("algorithm", ["em", "auto", "hard"])
def test_equal_weights(algorithm: Any) -> None:
    rows, _, _ = problem("full")
    for fixed in ({"weights"}, {"weights": [True] * K}, {"weights": np.ones(K, dtype=bool)}):
        model = GaussianMixture(K, fixed=fixed, algorithm=algorithm, random_state=0).fit(rows)
        np.testing.assert_array_equal(model.weights_, np.full(K, 1.0 / K))
    with pytest.raises(ParameterError, match="weights_init must be given"):
        GaussianMixture(K, fixed={"weights": [True, False, False, False]}).fit(rows)


def test_masks_that_hold_all_or_nothing_are_names() -> None:
    rows, settings, _ = problem("full")
    by_name = GaussianMixture(**settings, fixed=["means"]).fit(rows)
    by_mask = GaussianMixture(**settings, fixed={"means": [True] * K, "weights": [False] * K}).fit(
        rows
    )
    np.testing.assert_array_equal(by_name.covariances_, by_mask.covariances_)
    assert by_name.n_parameters_ == by_mask.n_parameters_
    # The last weight is what the others leave.
    most = GaussianMixture(**settings, fixed={"weights": [True, True, True, False]}).fit(rows)
    np.testing.assert_allclose(most.weights_, settings["weights_init"], rtol=1e-12)
    assert most.n_parameters_ == K * D + K * 3


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_parameters_are_counted(kind: CovarianceType) -> None:
    rows, settings, _ = problem(kind)
    fixed = masks_of(kind)
    model = GaussianMixture(**settings, fixed=fixed).fit(rows)
    covariances = {
        "full": 2 * 3,
        "diag": 2 * 2,
        "spherical": 2,
        "tied": 3,
        "tied_diag": 2,
        "tied_spherical": 1,
    }[kind]
    assert model.n_parameters_ == 2 + 2 * D + covariances
    assert model.criteria(rows).n_parameters == model.n_parameters_
    assert model.bic(rows) == pytest.approx(model.bic_, rel=1e-10)


def test_files_checkpoints_and_clones_keep_masks(tmp_path: Path) -> None:
    rows, settings, _ = problem("diag")
    masks: dict[str, Any] = {**MASKS, "means": np.array(MASKS["means"])}
    model = GaussianMixture(**settings, fixed=masks, checkpoint=tmp_path / "c").fit(rows)
    model.save(tmp_path / "m.gmm")
    loaded = GaussianMixture.load(tmp_path / "m.gmm")
    assert loaded.fixed == MASKS
    assert loaded.bic(rows) == model.bic(rows)
    assert clone(loaded).fixed == MASKS
    assert "fixed" in repr(loaded)
    np.testing.assert_allclose(clone(loaded).fit(rows).means_, model.means_, rtol=1e-9)
    other = copy.copy(model).set_params(fixed={"means": [True, True, True, False]})
    with pytest.raises(Exception, match="fixed"):
        other.fit(rows, resume=True)


def test_derived_models_hold_nothing() -> None:
    rows, settings, _ = problem("full")
    model = GaussianMixture(**settings, fixed=MASKS).fit(rows)
    assert model.marginal([1]).fixed == ()


def test_bad_input() -> None:
    rows, settings, _ = problem("full")
    wrong: list[tuple[Any, str]] = [
        ({"mean": [True] * K}, "fixed names mean"),
        ({"means": [True]}, r"fixed\['means'\] is \[True\]; give True or False for each of the 4"),
        ({"means": [0, 1]}, "fixed"),
        ({"means": [0, 1, 1, 0]}, "give True or False"),
        ({"means": True}, "give True or False"),
    ]
    for fixed, message in wrong:
        with pytest.raises(ParameterError, match=message):
            GaussianMixture(**settings, fixed=fixed).fit(rows)
    with pytest.raises(ParameterError, match="fixed holds 'means', so means_init must be given"):
        GaussianMixture(K, fixed={"means": MASKS["means"]}).fit(rows)
    for kind in ("tied", "tied_diag", "tied_spherical"):
        rows, settings, _ = problem(kind)  # type: ignore[arg-type]
        with pytest.raises(ParameterError, match=f"'{kind}' all components share one covariance"):
            GaussianMixture(**settings, fixed={"covariances": MASKS["covariances"]}).fit(rows)
        held: NDArray[np.bool_] = np.ones(K, dtype=bool)
        model = GaussianMixture(**settings, fixed={"covariances": held}).fit(rows)
        np.testing.assert_allclose(model.precisions_, settings["precisions_init"], rtol=1e-9)


@pytest.mark.parametrize("kind", ["full", "tied", "spherical"])
@pytest.mark.parametrize("algorithm", ["auto", "em"])
def test_a_warm_start_holds_what_was_fitted(kind: CovarianceType, algorithm: Any) -> None:
    rows, _, _ = problem(kind)
    model = GaussianMixture(K, covariance_type=kind, algorithm=algorithm, random_state=0).fit(rows)
    covariances, means = model.covariances_, model.means_
    model.set_params(warm_start=True, fixed={"covariances"}).fit(rows + 0.3)
    np.testing.assert_array_equal(model.covariances_, covariances)
    assert np.abs(model.means_ - means).max() > 0.1
    # Without a fit before, the values have to be given.
    with pytest.raises(ParameterError, match="precisions_init must be given"):
        clone(model).fit(rows)
