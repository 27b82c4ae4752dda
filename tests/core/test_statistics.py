"""Statistics are a commutative monoid of which chunks may be merged in any order.

The laws hold up to the rounding of a sum, the neutral element exactly; statistics of
different frames are refused.
"""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgmm.core.frame import Frame
from streamgmm.core.statistics import Statistics
from streamgmm.options import CovarianceType
from tests.core.cases import TYPES, draw, prepare, random_parameters

COUNTS = ("n_rows", "n_overflowing", "n_not_finite")

seeds = st.integers(0, 2**32 - 1)
types = st.sampled_from(TYPES)


def several(covariance_type: CovarianceType, seed: int, count: int) -> list[Statistics]:
    """Statistics of several chunks of different sizes and row weights, with bad rows."""
    rng = np.random.default_rng(seed)
    parameters = random_parameters(rng, covariance_type, 3, 2)
    expectation = prepare(parameters)
    found = []
    for _ in range(count):
        rows = draw(rng, parameters, int(rng.integers(2, 40)))
        rows[0, 0] = np.nan
        rows[1, 1] = 1e200
        found.append(expectation.statistics(rows, rng.uniform(0.0, 3.0, len(rows))))
    return found


def assert_same(a: Statistics, b: Statistics, scale: Statistics, factor: float = 1.0) -> None:
    """Equal up to rounding, which is relative to the largest sum on the way."""
    tolerance = 1e-14 * factor
    for name in ("moments", "scatter"):
        unit = np.abs(getattr(scale, name)).max(initial=0.0)
        np.testing.assert_allclose(
            getattr(a, name), getattr(b, name), rtol=0.0, atol=tolerance * unit
        )
    assert a.log_likelihood == pytest.approx(
        b.log_likelihood, rel=0.0, abs=tolerance * abs(scale.log_likelihood)
    )
    assert a.weight == pytest.approx(b.weight, rel=0.0, abs=tolerance * scale.weight)
    assert [getattr(a, c) for c in COUNTS] == [getattr(b, c) for c in COUNTS]


def assert_identical(a: Statistics, b: Statistics) -> None:
    assert np.array_equal(a.moments, b.moments)
    assert np.array_equal(a.scatter, b.scatter)
    assert (a.log_likelihood, a.weight) == (b.log_likelihood, b.weight)
    assert [getattr(a, c) for c in COUNTS] == [getattr(b, c) for c in COUNTS]


@given(types, seeds)
@settings(max_examples=40)
def test_merge_is_commutative(covariance_type: CovarianceType, seed: int) -> None:
    a, b = several(covariance_type, seed, 2)
    assert_identical(a.merge(b), b.merge(a))


@given(types, seeds)
@settings(max_examples=40)
def test_merge_is_associative(covariance_type: CovarianceType, seed: int) -> None:
    a, b, c = several(covariance_type, seed, 3)
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    assert_same(left, right, scale=left)


@given(types, seeds)
@settings(max_examples=40)
def test_zero_is_neutral(covariance_type: CovarianceType, seed: int) -> None:
    (a,) = several(covariance_type, seed, 1)
    zero = Statistics.zero(a.frame, a.n_components)
    assert_identical(a.merge(zero), a)
    assert_identical(zero.merge(a), a)
    assert_identical(a.subtract(zero), a)


@given(types, seeds)
@settings(max_examples=40)
def test_subtract_undoes_merge(covariance_type: CovarianceType, seed: int) -> None:
    a, b = several(covariance_type, seed, 2)
    together = a.merge(b)
    assert_same(together.subtract(b), a, scale=together)
    assert_identical(a.subtract(a), Statistics.zero(a.frame, a.n_components))


@given(types, seeds, st.floats(1e-6, 1e6))
@settings(max_examples=40)
def test_scale_multiplies_all_weights(
    covariance_type: CovarianceType, seed: int, factor: float
) -> None:
    a, b = several(covariance_type, seed, 2)
    scaled = a.scale(factor)
    assert scaled.weight == pytest.approx(factor * a.weight, rel=1e-15)
    assert scaled.mean_log_likelihood == pytest.approx(a.mean_log_likelihood, rel=1e-14)
    assert [getattr(scaled, c) for c in COUNTS] == [getattr(a, c) for c in COUNTS]
    whole = a.merge(b).scale(factor)
    assert_same(whole, scaled.merge(b.scale(factor)), scale=whole)
    assert_same(scaled.scale(1.0 / factor), a, scale=a)
    assert_identical(a.scale(1.0), a)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_scale_is_what_row_weights_are(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(5)
    parameters = random_parameters(rng, covariance_type, 3, 2)
    rows = draw(rng, parameters, 100)
    expectation = prepare(parameters)
    heavier = expectation.statistics(rows, np.full(100, 2.5))
    assert_same(expectation.statistics(rows).scale(2.5), heavier, scale=heavier, factor=10.0)


def altered(frame: Frame) -> dict[str, Frame]:
    return {
        "origin": replace(frame, origin=frame.origin + 1.0),
        "scale": replace(frame, scale=frame.scale * 2.0),
        "centred": replace(
            frame,
            centred=np.array([0]),
            means=np.zeros((1, frame.n_features)),
            factors=np.ones((1, *frame.factors.shape[1:])),
        ),
    }


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("what", ["origin", "scale", "centred"])
def test_statistics_in_different_frames_are_refused(
    covariance_type: CovarianceType, what: str
) -> None:
    (a,) = several(covariance_type, 1, 1)
    other = replace(a, frame=altered(a.frame)[what])
    with pytest.raises(ValueError, match="different frames"):
        a.merge(other)
    with pytest.raises(ValueError, match="different frames"):
        a.subtract(other)


def test_centred_components_of_different_places_are_refused() -> None:
    (a,) = several("full", 1, 1)
    frame = altered(a.frame)["centred"]
    elsewhere = replace(a, frame=replace(frame, means=frame.means + 1.0))
    wider = replace(a, frame=replace(frame, factors=frame.factors * 2.0))
    a = replace(a, frame=frame)
    for other in (elsewhere, wider):
        with pytest.raises(ValueError, match="different frames"):
            a.merge(other)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics_survive_a_pickle_and_merge_after_it(covariance_type: CovarianceType) -> None:
    a, b = several(covariance_type, 2, 2)
    copy = pickle.loads(pickle.dumps(a))
    assert copy.frame is not a.frame
    assert_identical(copy, a)
    assert_identical(copy.merge(b), a.merge(b))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics_of_nothing_have_no_log_likelihood(covariance_type: CovarianceType) -> None:
    (a,) = several(covariance_type, 3, 1)
    zero = Statistics.zero(a.frame, a.n_components)
    assert zero.mean_log_likelihood == -np.inf
    assert np.array_equal(zero.counts, np.zeros(3))
    assert zero.moments.shape == a.moments.shape
    assert zero.scatter.shape == a.scatter.shape
