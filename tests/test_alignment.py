"""A model in the order of the components of another one."""

from typing import Any

import numpy as np
import pandas
import pytest

from streamgmm import GaussianMixture, KMeans, OnlineGaussianMixture
from streamgmm.core.frame import Frame
from streamgmm.core.parameters import Parameters
from streamgmm.core.structures import STRUCTURES
from streamgmm.errors import NotFittedError, ParameterError
from streamgmm.options import CovarianceType
from tests.core.cases import ALL_TYPES

RNG = np.random.default_rng(0)
CENTRES = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [30.0, 20.0]])
ROWS = RNG.normal(size=(4000, 2)) + CENTRES[np.arange(4000) % 4]


def fitted(seed: int, rows: Any = ROWS, **settings: Any) -> GaussianMixture:
    return GaussianMixture(4, random_state=seed, **settings).fit(rows)


def shuffled(model: GaussianMixture, order: list[int]) -> GaussianMixture:
    """The same mixture in another order, fitted from there."""
    shared = model.covariance_type.startswith("tied")
    again = GaussianMixture(
        4,
        covariance_type=model.covariance_type,
        weights_init=model.weights_[order],
        means_init=model.means_[order],
        precisions_init=model.precisions_ if shared else model.precisions_[order],
    )
    return again.fit(ROWS)


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_labels_mean_what_they_mean_in_the_reference(kind: CovarianceType) -> None:
    reference = fitted(0, covariance_type=kind)
    model = shuffled(reference, [2, 3, 1, 0])
    found = model.aligned(reference)
    np.testing.assert_allclose(found.means_, reference.means_, rtol=1e-6, atol=1e-3)
    np.testing.assert_array_equal(found.predict(ROWS), reference.predict(ROWS))
    # It is the same mixture: each component is there, and so is what it was fitted to.
    order: Any = [
        int(np.flatnonzero((model.means_ == mean).all(axis=1))[0]) for mean in found.means_
    ]
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_array_equal(found.weights_, model.weights_[order])
    np.testing.assert_allclose(found.score_samples(ROWS), model.score_samples(ROWS), rtol=1e-9)
    assert found.history_ == model.history_
    counts = model.fitted_model_.statistics.moments[:, 0]
    np.testing.assert_array_equal(found.fitted_model_.statistics.moments[:, 0], counts[order])
    online = OnlineGaussianMixture.from_batch(found).partial_fit(ROWS[:100])
    expected = OnlineGaussianMixture.from_batch(model).partial_fit(ROWS[:100])
    np.testing.assert_allclose(online.means_, expected.means_[order], rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(
        online.covariances_.ravel().sum(), expected.covariances_.ravel().sum(), rtol=1e-6
    )


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_the_frame_follows_its_components(kind: CovarianceType) -> None:
    """The frame of the same mixture in another order, of whose components some are far away."""
    shape = {"full": (4, 2, 2), "tied": (2, 2), "diag": (4, 2), "spherical": (4,)}.get(kind)
    shape = (2,) if kind == "tied_diag" else () if shape is None else shape
    precisions = np.full(shape, 1e6)
    if kind in ("full", "tied"):
        precisions = np.broadcast_to(np.diag([1e6, 1e6]), shape).copy()
    means = np.array([[1e7, 0.0], [0.0, 0.0], [-1e7, 3.0], [0.0, 1.0]])
    mixture = Parameters.from_precisions(kind, np.full(4, 0.25), means, precisions)
    order = np.array([2, 3, 0, 1])
    own = STRUCTURES[kind]
    other = Parameters.from_precisions(
        kind, mixture.weights[order], means[order], own.taken(precisions, order)
    )
    frame, expected = Frame.of(mixture).reordered(order), Frame.of(other)
    assert len(expected.centred) > 0
    for name in ("origin", "scale", "centred", "means", "factors"):
        np.testing.assert_array_equal(getattr(frame, name), getattr(expected, name))


def test_streams_are_aligned_as_they_are_now() -> None:
    online = OnlineGaussianMixture(4, init_size=1000, random_state=3).partial_fit(ROWS)
    reference = fitted(0)
    found = online.aligned(reference)
    assert isinstance(found, GaussianMixture)
    np.testing.assert_allclose(found.means_, reference.means_, atol=0.5)
    assert isinstance(reference.aligned(online), GaussianMixture)


def test_models_that_do_not_go_together_are_refused() -> None:
    model = fitted(0)
    names = pandas.DataFrame(ROWS, columns=["a", "b"])
    for reference, message in (
        (fitted(0, covariance_type="diag"), "covariance type"),
        (GaussianMixture(2, random_state=0).fit(ROWS), "components .*4 and 2"),
        (fitted(0, ROWS[:, :1].repeat(3, axis=1) + RNG.normal(size=(4000, 3))), "number of col"),
        (KMeans(4, random_state=0).fit(ROWS), "reference is a KMeans"),
    ):
        with pytest.raises(ParameterError, match=message):
            model.aligned(reference)
    with pytest.raises(ParameterError, match="the columns of the model"):
        fitted(0, names).aligned(fitted(0, names.rename(columns={"a": "c"})))
    assert fitted(0, names).aligned(model).feature_names_in_.tolist() == ["a", "b"]
    for pair in ((GaussianMixture(4), model), (model, GaussianMixture(4))):
        with pytest.raises(NotFittedError):
            pair[0].aligned(pair[1])
