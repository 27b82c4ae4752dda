"""Covariance structures: complete or refused, the same under any name, and open to new ones."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture
from streamgmm.algorithms.batch.split_merge import dense_places
from streamgmm.algorithms.reads.memory import MixtureBytes
from streamgmm.algorithms.sampling.initialization import Start, initialize
from streamgmm.algorithms.stream.stepwise_em import Schedule, Stepwise
from streamgmm.core.condition import examine
from streamgmm.core.e_step import EStep, scratch_bytes, statistics_bytes
from streamgmm.core.fitted_model import FittedModel
from streamgmm.core.frame import Frame
from streamgmm.core.incomplete import IncompleteExpectation
from streamgmm.core.information import Information, Tangent
from streamgmm.core.maximization import maximize
from streamgmm.core.mixtures.alignment import aligned
from streamgmm.core.mixtures.conditioning import conditional, marginal
from streamgmm.core.mixtures.merging import merge_mixtures, merging_loss, pooled
from streamgmm.core.mixtures.reduction import merged_pairs, merging_bounds, reduce_components
from streamgmm.core.mixtures.sampling import draw
from streamgmm.core.objective import Objective
from streamgmm.core.parameters import Parameters
from streamgmm.core.ridge import ridge_of
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import STRUCTURES, CovarianceStructure, register
from streamgmm.core.structures.covariance_update import CovarianceUpdate
from streamgmm.core.structures.diag import Diag
from streamgmm.core.whitening import Whitening, carried
from streamgmm.errors import ParameterError
from streamgmm.events import ReadDone
from streamgmm.options import CovarianceType
from streamgmm.persistence import pack_statistics, unpack_statistics
from tests import naive
from tests.core.cases import ALL_TYPES, SHARED_TYPES, covariances_for, random_parameters

K, D, N = 3, 2, 500
RIDGE = np.array([1e-3, 2e-3])


@pytest.fixture
def other_name(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """A type, and a name under which its structure is registered once more."""
    name = f"another {request.param}"
    register(name, STRUCTURES[request.param])
    yield request.param, name
    del STRUCTURES[name]


def rows() -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    found, _ = draw(random_parameters(rng, "full", K, D), N, rng)
    return rng.permutation(found)


def gappy() -> NDArray[np.float64]:
    found = rows()
    found[np.random.default_rng(1).random(found.shape) < 0.2] = np.nan
    return found


def mixture(covariance_type: Any, seed: int = 0) -> Parameters:
    rng = np.random.default_rng(seed)
    base = covariance_type.removeprefix("another ")
    covariances = covariances_for(rng, base, K, D)
    weights = rng.dirichlet(np.full(K, 5.0))
    return Parameters.create(covariance_type, weights, rng.normal(size=(K, D)) * 3.0, covariances)


def statistics_of(parameters: Parameters) -> Statistics:
    return EStep.prepare(parameters, Frame.of(parameters)).statistics(rows())


def fitted(covariance_type: Any, seed: int = 0) -> FittedModel:
    parameters = mixture(covariance_type, seed)
    return FittedModel(parameters, statistics_of(parameters))


def tangent(covariance_type: Any) -> Tangent:
    parameters = mixture(covariance_type)
    return Tangent(parameters, Frame.of(parameters))


def information(covariance_type: Any) -> Information:
    at = tangent(covariance_type)
    expectation = EStep.prepare(at.parameters, at.frame)
    responsibilities = expectation.posterior(rows(), True).responsibilities
    return Information.estimate(at, rows(), np.ones(N), responsibilities)


def stepped(covariance_type: Any) -> Stepwise:
    one = fitted(covariance_type)
    model = Stepwise.after(
        one.statistics, one.parameters, Schedule(10.0, 0.7, None), Objective(RIDGE)
    )
    return model.joined(one.statistics).stepped()


def model(covariance_type: Any, **settings: Any) -> GaussianMixture:
    return GaussianMixture(
        K, covariance_type=covariance_type, random_state=0, max_iter=20, **settings
    )


def online(covariance_type: Any) -> OnlineGaussianMixture:
    found = OnlineGaussianMixture(K, covariance_type=covariance_type, random_state=0)
    return found.partial_fit(rows()[:300]).partial_fit(rows()[300:])


def saved(covariance_type: Any, path: Path) -> Any:
    model(covariance_type).fit(rows()).save(path / "model.gmm")
    return streamgmm.load(path / "model.gmm")


def updated(covariance_type: Any, path: Path) -> Any:
    file = path / "stream.gmm"
    for i in range(2):
        found = streamgmm.update(
            file,
            rows()[250 * i : 250 * (i + 1)],
            i,
            n_components=K,
            covariance_type=covariance_type,
            random_state=0,
        )
    return found, streamgmm.load(file)


def learned(covariance_type: Any) -> tuple[Any, ...]:
    batch = model(covariance_type).fit(rows())
    stream = online(covariance_type)
    merged = OnlineGaussianMixture.merged([stream, stream])
    again = OnlineGaussianMixture.from_batch(batch).partial_fit(rows())
    return batch, stream, merged, again, stream.to_batch()


#: What is asked of a type; a function may take a folder, too.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "create": mixture,
    "inverse": lambda t: (mixture(t).inverse_factors, mixture(t).precisions),
    "transposed factors": lambda t: mixture(t).precisions_cholesky,
    "from precisions": lambda t: Parameters.from_precisions(
        t, mixture(t).weights, mixture(t).means, mixture(t).precisions
    ),
    "n_parameters": lambda t: mixture(t).n_parameters(),
    "frame": lambda t: Frame.of(mixture(t)),
    "covariance error": lambda t: Frame.of(mixture(t)).covariance_error(mixture(t)),
    "frame of some": lambda t: Frame.of(mixture(t)).gathered(np.array([2, 0])),
    "no statistics": lambda t: Statistics.zero(Frame.of(mixture(t)), K),
    "statistics": lambda t: statistics_of(mixture(t)),
    "float32": lambda t: EStep.prepare(mixture(t), Frame.of(mixture(t)), "float32").statistics(
        rows().astype(np.float32)
    ),
    "posterior": lambda t: EStep.prepare(mixture(t), Frame.of(mixture(t))).posterior(rows(), True),
    "incomplete": lambda t: IncompleteExpectation.prepare(
        mixture(t), Frame.of(mixture(t))
    ).statistics(gappy()),
    "impute": lambda t: IncompleteExpectation.prepare(mixture(t), Frame.of(mixture(t))).impute(
        gappy()
    ),
    "M-step": lambda t: maximize(statistics_of(mixture(t)), mixture(t), reg_covar=RIDGE),
    "M-step, fixed means": lambda t: maximize(
        statistics_of(mixture(t)), mixture(t), fixed=("means",)
    ),
    "M-step, collapsed": lambda t: maximize(
        EStep.prepare(mixture(t), Frame.of(mixture(t))).statistics(np.ones((5, D))), mixture(t)
    ),
    "gradient": lambda t: tangent(t).gradient(statistics_of(mixture(t)), RIDGE),
    "moved": lambda t: tangent(t).moved(
        0.01 * tangent(t).gradient(statistics_of(mixture(t))), statistics_of(mixture(t))
    ),
    "size of a step": lambda t: tangent(t).size(tangent(t).gradient(statistics_of(mixture(t)))),
    "information": lambda t: information(t).product(tangent(t).gradient(statistics_of(mixture(t)))),
    "whitened": lambda t: Whitening.of(mixture(t), Frame.of(mixture(t))).of_statistics(
        statistics_of(mixture(t))
    ),
    "standard": lambda t: Whitening.of(mixture(t), Frame.of(mixture(t))).standard(np.ones(K)),
    "carried": lambda t: carried(
        statistics_of(mixture(t)), mixture(t), Frame.of(mixture(t, seed=1))
    ),
    "merging bounds": lambda t: merging_bounds(mixture(t)),
    "merged pairs": lambda t: merged_pairs(mixture(t), np.array([0, 1]), np.array([2, 2])),
    "reduced": lambda t: reduce_components(mixture(t), 2),
    "merged": lambda t: merge_mixtures([fitted(t), fitted(t, 1)], K, Objective(RIDGE)),
    "merging loss": lambda t: merging_loss([fitted(t), fitted(t, 1)], mixture(t)),
    "aligned": lambda t: aligned(mixture(t), mixture(t, 1)),
    "marginal": lambda t: marginal(mixture(t), np.array([1])),
    "conditional": lambda t: conditional(mixture(t), np.array([0]), np.array([0.5])),
    "draw": lambda t: draw(mixture(t), 50, np.random.default_rng(0)),
    "condition": lambda t: examine(mixture(t), np.full(K, 2.0), RIDGE),
    "ridge": lambda t: ridge_of(np.array([1.0, 1e-4]), t),
    "initialize": lambda t: initialize(
        rows(), np.ones(N), K, t, "kmeans", Objective(RIDGE), Start(), np.random.RandomState(0)
    ),
    "initialize, gaps": lambda t: initialize(
        gappy()[~np.isnan(gappy()).all(axis=1)],
        np.ones((~np.isnan(gappy()).all(axis=1)).sum()),
        K,
        t,
        "kmeans",
        Objective(RIDGE),
        Start(),
        np.random.RandomState(0),
    ),
    "stepwise EM": stepped,
    "reseeded": lambda t: stepped(t).reseeded({1: (np.zeros(D), 0.1)}),
    "dense rows": lambda t: dense_places(rows(), mixture(t)),
    "packed": lambda t: unpack_statistics(*pack_statistics(statistics_of(mixture(t)))),
    "memory": lambda t: (
        scratch_bytes(t, K, D),
        statistics_bytes(t, K, D),
        MixtureBytes(t, K, D, True).merging,
        MixtureBytes(t, K, D).em(0),
    ),
    "EM": lambda t: model(t, algorithm="em").fit(rows()),
    "auto": lambda t: model(t).fit(rows()),
    "missing": lambda t: model(t).fit(streamgmm.open(gappy(), missing="em")),
    "fixed": lambda t: model(t, fixed=("weights",), weights_init=np.full(K, 1 / K)).fit(rows()),
    "streams": learned,
    "saved": saved,
    "updated": updated,
}


def values(found: Any, name: str) -> list[Any]:
    """All numbers in what an operation gives, but for the name of the type."""
    if isinstance(found, GaussianMixture | OnlineGaussianMixture):
        parts = (found.weights_, found.means_, found.covariances_, found.precisions_)
        return [*parts, found.score_samples(rows()[:20]), found.get_params()["n_components"]]
    if isinstance(found, np.ndarray | np.generic | int | float | str | bool | None):
        return [] if isinstance(found, str) and found.removeprefix("another ") == name else [found]
    if isinstance(found, tuple | list | frozenset):
        return [value for part in found for value in values(part, name)]
    if isinstance(found, dict):
        return values(list(found.items()), name)
    return [value for part in vars(found).values() for value in values(part, name)]


@pytest.mark.parametrize("other_name", ALL_TYPES, indirect=True)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_structure_is_the_same_under_another_name(
    other_name: tuple[Any, Any], operation: str, tmp_path: Path
) -> None:
    function, found = OPERATIONS[operation], []
    for i, name in enumerate(other_name):
        folder = tmp_path / str(i)
        folder.mkdir()
        arguments = (name, folder) if function in (saved, updated) else (name,)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(values(function(*arguments), other_name[0]))
    assert len(found[0]) == len(found[1]) > 0
    for own, other in zip(*found, strict=True):
        np.testing.assert_array_equal(own, other)


def test_an_incomplete_structure_is_refused_with_what_is_missing() -> None:
    class Unfinished(CovarianceStructure):
        """Has next to nothing."""

        def n_parameters(self, n_components: int, n_features: int) -> int:
            return 1

    with pytest.raises(ParameterError, match=r"'unfinished' lacks .*cholesky.*updates") as refused:
        register("unfinished", Unfinished)
    assert "n_parameters" not in str(refused.value)
    assert "unfinished" not in STRUCTURES
    with pytest.raises(ParameterError, match="lacks"):
        register("nothing", object)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="already"):
        register("diag", Diag)


FLOOR = 0.5


class FlooredDiag(Diag):
    """Diagonal covariances that are no smaller than a number."""

    def updates(self, *arguments: Any) -> list[CovarianceUpdate]:
        def floored(route: Callable[..., Any]) -> Callable[..., Any]:
            def update(*own: Any) -> tuple[Any, Any]:
                covariances = np.maximum(route(*own)[0], FLOOR)
                return covariances, np.sqrt(covariances)

            return update

        return [
            replace(update, routes=[floored(route) for route in update.routes])
            for update in super().updates(*arguments)
        ]


@pytest.fixture
def floored() -> Iterator[Any]:
    register("floored", FlooredDiag)
    yield "floored"
    del STRUCTURES["floored"]


def test_a_structure_from_outside_does_all_that_the_package_does(
    floored: Any, tmp_path: Path
) -> None:
    X = np.concatenate([rows(), rows() * 0.01 + 20.0])
    X_gappy = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    own = {"covariance_type": floored, "random_state": 0}
    em = GaussianMixture(K + 1, algorithm="em", max_iter=500, tol=1e-9, **own).fit(X)
    auto = GaussianMixture(K + 1, tol=1e-9, **own).fit(X)
    assert auto.lower_bound_ >= em.lower_bound_ - 1e-3
    missing = GaussianMixture(K + 1, **own).fit(streamgmm.open(X_gappy, missing="em"))
    stream = OnlineGaussianMixture(K + 1, **own)
    for part in np.array_split(np.random.default_rng(0).permutation(X), 5):
        stream.partial_fit(part)
    auto.save(tmp_path / "model.gmm")
    loaded: Any = streamgmm.load(tmp_path / "model.gmm")
    merged = OnlineGaussianMixture.merged([stream, OnlineGaussianMixture.from_batch(auto)])
    for model in (em, auto, missing, stream, loaded, merged):
        assert (model.covariances_ >= FLOOR).all()
        assert (model.covariances_ < FLOOR * (1 + 1e-5)).any()
        assert set(model.predict(X[N:])) <= set(np.flatnonzero(model.means_[:, 0] > 15.0))


@pytest.mark.parametrize("covariance_type", SHARED_TYPES)
@pytest.mark.parametrize("reg_covar", [0.0, 0.01])
def test_an_em_step_of_shared_variances_is_that_of_the_oracle(
    covariance_type: CovarianceType, reg_covar: float
) -> None:
    parameters, X = mixture(covariance_type), rows() + 1e6
    parameters = replace(parameters, means=parameters.means + 1e6)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, N)
    found = EStep.prepare(parameters, Frame.of(parameters)).statistics(X, weights)
    step = naive.em_step(X, naive.of(parameters), reg_covar, weights)
    own = maximize(found, parameters, reg_covar=reg_covar).parameters
    assert naive.distance(own, step) < 1e-9
    expected = naive.mean_log_likelihood(X, naive.of(parameters), weights)
    assert abs(found.mean_log_likelihood - float(expected)) < 1e-9


@pytest.mark.parametrize("covariance_type", SHARED_TYPES)
def test_a_step_over_gaps_of_shared_variances_is_that_of_the_oracle(
    covariance_type: CovarianceType,
) -> None:
    parameters, X = mixture(covariance_type), gappy()[:80]
    X = X[~np.isnan(X).all(axis=1)]
    expectation = IncompleteExpectation.prepare(parameters, Frame.of(parameters))
    found = expectation.statistics(X)
    step, log_likelihood = naive.incomplete_em_step(X, naive.of(parameters))
    assert naive.distance(maximize(found, parameters).parameters, step) < 1e-10
    assert abs(found.log_likelihood - float(log_likelihood)) < 1e-9


@pytest.mark.parametrize("covariance_type", SHARED_TYPES)
def test_the_gradient_of_shared_variances_is_the_slope_of_the_log_likelihood(
    covariance_type: CovarianceType,
) -> None:
    parameters = mixture(covariance_type)
    frame = Frame.of(parameters)
    at = Tangent(parameters, frame)
    here = EStep.prepare(parameters, frame).statistics(rows())
    gradient = at.gradient(here)
    direction = np.random.default_rng(0).normal(size=gradient.shape) * at.free
    h = 1e-5

    def value(step: Any) -> float:
        moved = maximize(at.moved(step, here), parameters).parameters
        return EStep.prepare(moved, frame).statistics(rows()).mean_log_likelihood

    slope = (value(h * direction) - value(-h * direction)) / (2 * h)
    assert slope == pytest.approx(float(gradient @ direction), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    ("covariance_type", "shape", "sklearn_type"),
    [("tied_diag", (D,), "diag"), ("tied_spherical", (), "spherical")],
)
def test_shared_variances_in_an_estimator(
    covariance_type: Any, shape: tuple[int, ...], sklearn_type: str
) -> None:
    X = rows()
    found = model(covariance_type).fit(X)
    for values_ in (found.covariances_, found.precisions_, found.precisions_cholesky_):
        assert np.shape(values_) == shape
    assert found.n_reads_ > 0
    again = model(
        covariance_type,
        weights_init=found.weights_,
        means_init=found.means_,
        precisions_init=found.precisions_,
    ).fit(X)
    assert again.lower_bound_ >= found.lower_bound_ - 1e-9
    other = found.to_sklearn()
    assert other.covariance_type == sklearn_type
    np.testing.assert_allclose(other.score_samples(X), found.score_samples(X), rtol=1e-9)
    np.testing.assert_array_equal(other.predict(X), found.predict(X))
    k_parameters = {"tied_diag": D, "tied_spherical": 1}[covariance_type]
    n_parameters = K - 1 + K * D + k_parameters
    assert found.bic(X) == pytest.approx(
        -2 * found.score_samples(X).sum() + n_parameters * np.log(N)
    )


def test_one_component_has_the_moments_of_the_rows() -> None:
    X = rows()
    diag = GaussianMixture(1, covariance_type="tied_diag", reg_covar=0.0).fit(X)
    np.testing.assert_allclose(diag.covariances_, X.var(axis=0), rtol=1e-10)
    one = GaussianMixture(1, covariance_type="tied_spherical", reg_covar=0.0).fit(X)
    np.testing.assert_allclose(one.covariances_, X.var(axis=0).mean(), rtol=1e-10)


def test_pooled_components_keep_their_own_covariances() -> None:
    parts = [fitted("tied_spherical"), fitted("tied_spherical", 1)]
    pool = pooled(parts)
    assert pool.covariance_type == "spherical"
    own = np.repeat([part.parameters.covariances for part in parts], K)
    np.testing.assert_array_equal(pool.covariances, own)


@pytest.mark.parametrize("covariance_type", SHARED_TYPES)
def test_shared_variances_resume_from_a_checkpoint(covariance_type: Any, tmp_path: Path) -> None:
    def fit(path: Path | None, stop: bool = False, resume: bool = False) -> GaussianMixture:
        reads: list[Any] = []

        def interrupt(event: Any) -> None:
            if isinstance(event, ReadDone):
                reads.append(event)
            if stop and len(reads) == 3:
                raise KeyboardInterrupt

        settings = {"callbacks": [interrupt], "algorithm": "em", "tol": 0.0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = model(covariance_type, checkpoint=path, **settings)
            return found.fit(rows(), resume=resume)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "fit", stop=True)
    resumed, whole = fit(tmp_path / "fit", resume=True), fit(None)
    np.testing.assert_array_equal(resumed.covariances_, whole.covariances_)
    np.testing.assert_array_equal(resumed.means_, whole.means_)


@pytest.mark.parametrize("covariance_type", SHARED_TYPES)
def test_wrong_shapes_of_shared_variances_are_refused(covariance_type: Any) -> None:
    for wrong in (np.ones((K, D)), np.ones(K + 5)):
        with pytest.raises(ParameterError, match="precisions_init"):
            model(covariance_type, precisions_init=wrong).fit(rows())


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_the_mean_factor_is_that_of_the_mean_covariance(covariance_type: CovarianceType) -> None:
    parameters = mixture(covariance_type)
    structure = parameters.structure
    factor = structure.mean_factor(parameters.stacked(parameters.factors), parameters.weights)
    stacked = structure.stacked(parameters.covariances, K, D)
    covariances = np.broadcast_to(structure.dense(stacked, range(D)), (K, D, D))
    mean = np.average(covariances, axis=0, weights=parameters.weights)
    found = structure.covariances_of(factor)
    np.testing.assert_allclose(structure.dense(found, range(D))[0], mean, rtol=1e-12, atol=1e-12)
    deviations = structure.deviations(factor)[0]
    np.testing.assert_allclose(deviations, np.sqrt(np.diag(mean)), rtol=1e-12)
    whitened = structure.solved_rows(rows(), factor, 0)
    distances = np.einsum("ni,ij,nj->n", rows(), np.linalg.inv(mean), rows())
    np.testing.assert_allclose(np.square(whitened).sum(axis=1), distances, rtol=1e-9)


@pytest.mark.parametrize("covariance_type", ALL_TYPES)
def test_moments_of_few_rows_are_sums_of_their_features(covariance_type: CovarianceType) -> None:
    structure = STRUCTURES[covariance_type]
    if structure.pooling is None:
        pytest.skip("these rows always go through the kernels for many")
    rng = np.random.default_rng(0)
    z, shares = rng.normal(size=(9, 4)), rng.uniform(size=(3, 9))
    coordinates = np.column_stack([np.ones(9), z, np.square(z).sum(axis=1)])
    features = np.prod(coordinates[:, structure.features(4)], axis=2)
    np.testing.assert_allclose(structure.moments_of(z, shares), shares @ features, rtol=1e-13)
