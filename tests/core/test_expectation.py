"""The E-step on each of its routes against the oracle, for every kind of row.

Each route test first proves that the route was taken, and, where the packed form could
also have served, that it would have given something else.
"""

import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm.core.e_step import EStep, Posterior
from streamgmm.core.frame import Frame
from streamgmm.core.maximization import maximize
from streamgmm.core.parameters import Parameters
from streamgmm.core.statistics import Statistics
from streamgmm.core.structures import Array
from streamgmm.options import CovarianceType
from tests import naive
from tests.core.cases import (
    SHARED_TYPES,
    TYPES,
    density_bounds,
    draw,
    em_step,
    prepare,
    random_parameters,
    rotation,
)

COUNTS = ("n_rows", "n_overflowing", "n_not_finite")


def assert_rows_are_right(
    expectation: EStep, rows: NDArray[np.generic], parameters: Parameters
) -> Posterior:
    """Scores to 1e-8 (and the spacing of large scores), responsibilities, labels, sums."""
    model = naive.of(parameters)
    exact = naive.scores(rows, model)
    posterior = expectation.posterior(rows, with_responsibilities=True)
    slack = 1e-8 + 4.0 * np.spacing(np.abs(exact.astype(np.float64)))
    assert np.all(np.abs(posterior.scores - exact) <= slack)
    shares = naive.responsibilities(rows, model)
    # Log-joint densities may err as scores do, and shares by that times themselves.
    assert np.all(np.abs(posterior.responsibilities - shares) <= 2.0 * slack[:, np.newaxis])
    best = np.take_along_axis(shares, posterior.labels[:, np.newaxis], 1)[:, 0]
    assert np.all(best >= shares.max(axis=1) - 2.0 * slack)
    statistics = expectation.statistics(rows)
    assert statistics.n_rows == statistics.weight == len(rows)
    np.testing.assert_allclose(
        statistics.counts, shares.sum(axis=0).astype(float), rtol=0.0, atol=2.0 * slack.sum()
    )
    assert abs(statistics.log_likelihood - exact.sum()) <= slack.sum()
    return posterior


def without_recomputing(expectation: EStep) -> EStep:
    return replace(expectation, coefficients=expectation.coefficients._replace(tolerance=np.inf))


def largest_bound(expectation: EStep, rows: Array) -> float:
    return max(float(bounds.max(initial=0.0)) for bounds in density_bounds(expectation, rows))


# The routes ------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("k", "d"), [(1, 1), (1, 3), (4, 1), (4, 3), (20, 5), (3, 40)])
def test_packed_route(covariance_type: CovarianceType, k: int, d: int) -> None:
    rng = np.random.default_rng([k, d])
    parameters = random_parameters(rng, covariance_type, k, d)
    rows = draw(rng, parameters, 400)
    expectation = prepare(parameters)
    assert expectation.frame.centred.size == 0
    assert largest_bound(expectation, rows) <= expectation.coefficients.tolerance
    # Whatever the tolerance, nothing is recomputed: it was the expanded form.
    posterior = assert_rows_are_right(expectation, rows, parameters)
    again = without_recomputing(expectation).posterior(rows)
    assert np.array_equal(posterior.scores, again.scores)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("k", "d"), [(4, 3), (6, 12)])
def test_centred_route_for_components_far_from_one_another(
    covariance_type: CovarianceType, k: int, d: int
) -> None:
    rng = np.random.default_rng([k, d])
    parameters = random_parameters(rng, covariance_type, k, d, spread=1e6)
    expectation = prepare(parameters)
    assert np.array_equal(expectation.frame.centred, np.arange(k))
    assert len(expectation.coefficients.theta) == 0
    rows = draw(rng, parameters, 400)
    assert_rows_are_right(expectation, rows, parameters)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_centred_route_of_overlapping_components_far_from_the_others(
    covariance_type: CovarianceType,
) -> None:
    # The two far components share their rows, so that their densities must agree in all digits.
    rng = np.random.default_rng(7)
    near = random_parameters(rng, covariance_type, 6, 3, spread=1.0)
    means = near.means.copy()
    means[[1, 4]] += 1e6
    parameters = replace(near, means=means)
    expectation = prepare(parameters)
    assert np.array_equal(expectation.frame.centred, [1, 4])
    assert np.array_equal(expectation.order, [0, 2, 3, 5, 1, 4])
    rows = draw(rng, parameters, 600)
    posterior = assert_rows_are_right(expectation, rows, parameters)
    shared = np.minimum(posterior.responsibilities[:, 1], posterior.responsibilities[:, 4])
    assert (shared > 0.01).sum() > 50


def elongated(covariance_type: CovarianceType, ratio: float) -> Parameters:
    """Two overlapping components, √2 by √2 · ratio wide, along the diagonal of two features."""
    factor = np.array([[1.0, 0.0], [1.0, 2.0 * ratio]])
    factors = factor if covariance_type == "tied" else np.stack([factor, 1.5 * factor])
    covariances = factors @ np.swapaxes(factors, -1, -2)
    means = [[0.0, 0.0], [0.5, 0.5 + ratio]]
    return Parameters.create(covariance_type, [0.3, 0.7], means, covariances, factors)


def test_block_takes_the_centred_route_far_along_a_narrow_ridge() -> None:
    # Statistics are safe in packed form, but rows far along the ridge cancel in it.
    rng = np.random.default_rng(11)
    parameters = elongated("full", 5e-3)
    rows = draw(rng, parameters, 600)
    rows[::7] += 1000.0
    expectation = prepare(parameters)
    assert expectation.frame.centred.size == 0
    assert largest_bound(expectation, rows) > expectation.coefficients.tolerance
    posterior = assert_rows_are_right(expectation, rows, parameters)
    packed = without_recomputing(expectation).posterior(rows).scores
    exact = naive.scores(rows, naive.of(parameters))
    assert np.abs(packed - exact).max() > 1e-8
    assert np.abs(posterior.scores - exact).max() < 1e-8


def test_block_takes_the_centred_route_for_tied_components_apart_across_a_ridge() -> None:
    rng = np.random.default_rng(12)
    base = elongated("tied", 1e-6)
    means = np.array([[0.0, 0.0], [0.0, 1e-3]])
    parameters = Parameters.create("tied", base.weights, means, base.covariances, base.factors)
    rows = draw(rng, parameters, 600)
    rows[::7] += 10.0
    expectation = prepare(parameters)
    assert expectation.frame.centred.size == 0
    assert largest_bound(expectation, rows) > expectation.coefficients.tolerance
    posterior = assert_rows_are_right(expectation, rows, parameters)
    packed = without_recomputing(expectation).posterior(rows).scores
    assert not np.array_equal(posterior.scores, packed)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("far", [1e10, 1e14])
def test_block_takes_the_centred_route_beside_rows_far_out(
    covariance_type: CovarianceType, far: float
) -> None:
    rng = np.random.default_rng(13)
    parameters = random_parameters(rng, covariance_type, 3, 3)
    rows = draw(rng, parameters, 1500)
    outlier = np.array([1.0, -2.0, 0.5]) * far
    rows[40] = outlier
    expectation = prepare(parameters)
    assert expectation.frame.centred.size == 0
    bounds = [float(b.max()) for b in density_bounds(expectation, rows)]
    tolerance = expectation.coefficients.tolerance
    # Blocks hold 1024 rows here: only the first has the outlier.
    assert bounds[0] > tolerance >= bounds[1]
    posterior = assert_rows_are_right(expectation, rows, parameters)
    packed = without_recomputing(expectation).posterior(rows).scores
    assert not np.array_equal(posterior.scores[:1024], packed[:1024])
    assert np.array_equal(posterior.scores[1024:], packed[1024:])


@pytest.mark.parametrize("d", [2, 3, 5])
def test_packed_route_is_exact_just_inside_its_bounds(d: int) -> None:
    # The worst that is still evaluated in packed form: narrow ridges, rows far along them.
    rng = np.random.default_rng(d)
    reached = 0
    for _ in range(150):
        deviations = np.append(1.0, 10.0 ** rng.uniform(-3.5, -1.0, d - 1))
        axes = rotation(d, rng)
        upper = np.linalg.qr((axes * deviations).T, mode="r")
        factor = upper.T * np.sign(np.diagonal(upper))
        covariance = factor @ factor.T
        along = axes[:, 0]
        mean = along * 10.0 ** rng.uniform(-1.0, 3.0)
        parameters = Parameters.create(
            "full",
            [0.6, 0.4],
            [np.zeros(d), mean],
            [np.eye(d), covariance],
            [np.eye(d), factor],
        )
        expectation = prepare(parameters)
        if expectation.frame.centred.size:
            continue
        noise = rng.normal(size=(100, d)) @ (axes * deviations).T
        reach, bound = 1e6, np.inf
        while reach > 1.0 and bound > expectation.coefficients.tolerance:
            reach *= 0.9
            rows = mean + noise + np.outer(rng.uniform(-1.0, 1.0, 100) * reach, along)
            bound = largest_bound(expectation, rows)
        if bound <= expectation.coefficients.tolerance:
            reached += 1
            assert_rows_are_right(expectation, rows, parameters)
    assert reached > 20


# Places and shapes that are hard -----------------------------------------------------------


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("deviation", [1e-9, 1.0, 1e9])
def test_rows_a_million_standard_deviations_from_the_origin(
    covariance_type: CovarianceType, deviation: float
) -> None:
    rng = np.random.default_rng(17)
    near = random_parameters(rng, covariance_type, 4, 3)
    squares = deviation**2
    parameters = Parameters.create(
        covariance_type,
        near.weights,
        (near.means + 1e6) * deviation,
        near.covariances * squares,
    )
    rows = draw(rng, parameters, 500)
    expectation = prepare(parameters)
    assert expectation.frame.centred.size == 0
    assert_rows_are_right(expectation, rows, parameters)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_features_in_very_different_units(covariance_type: CovarianceType) -> None:
    if covariance_type == "spherical":
        units = np.full(3, 1e-3)
    else:
        units = np.array([1e-12, 1.0, 1e9])
    rng = np.random.default_rng(18)
    near = random_parameters(rng, covariance_type, 4, 3)
    if covariance_type in ("full", "tied"):
        covariances = near.covariances * np.outer(units, units)
    elif covariance_type == "diag":
        covariances = near.covariances * units**2
    else:
        covariances = near.covariances * units[0] ** 2
    parameters = Parameters.create(covariance_type, near.weights, near.means * units, covariances)
    expectation = prepare(parameters)
    assert expectation.frame.centred.size == 0
    assert_rows_are_right(expectation, draw(rng, parameters, 500), parameters)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
@pytest.mark.parametrize("d", [2, 3, 6])
def test_rotated_gaussians_with_standard_deviations_1_and_1e_6(
    covariance_type: CovarianceType, d: int
) -> None:
    rng = np.random.default_rng(d)
    deviations = np.where(np.arange(d) % 2 == 0, 1.0, 1e-6)
    count = 3 if covariance_type == "full" else 1
    # Factors lower triangular, from the R of a QR decomposition: Σ alone would round them away.
    roots = [
        np.linalg.qr((rotation(d, rng) * deviations * rng.uniform(1.0, 2.0)).T, mode="r").T
        for _ in range(count)
    ]
    factors = np.stack([root * np.sign(np.diagonal(root)) for root in roots])
    means = np.stack([f @ rng.normal(size=d) for f in np.broadcast_to(factors, (3, d, d))])
    if covariance_type == "tied":
        factors = factors[0]
    covariances = factors @ np.swapaxes(factors, -1, -2)
    parameters = Parameters.create(covariance_type, [0.2, 0.3, 0.5], means, covariances, factors)
    rows = draw(rng, parameters, 400)
    expectation = prepare(parameters)
    if covariance_type == "full":
        assert np.array_equal(expectation.frame.centred, [0, 1, 2])
    assert_rows_are_right(expectation, rows, parameters)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_far_out_but_not_overflowing_have_finite_scores(
    covariance_type: CovarianceType,
) -> None:
    rng = np.random.default_rng(19)
    parameters = random_parameters(rng, covariance_type, 3, 2)
    rows = draw(rng, parameters, 10)
    rows[3] = [1e100, -3e100]
    posterior = prepare(parameters).posterior(rows, with_responsibilities=True)
    exact = naive.scores(rows, naive.of(parameters))
    np.testing.assert_allclose(posterior.scores, exact.astype(float), rtol=1e-13)
    assert posterior.responsibilities.sum(axis=1) == pytest.approx(np.ones(10))


# Chunks, layouts and types -------------------------------------------------------------------


def assert_close(a: Statistics, b: Statistics, relative: float) -> None:
    for name in ("moments", "scatter"):
        x, y = getattr(a, name), getattr(b, name)
        unit = np.abs(y).max(initial=0.0)
        np.testing.assert_allclose(x, y, rtol=0.0, atol=relative * unit)
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=relative)
    assert a.weight == pytest.approx(b.weight, rel=relative)
    assert [getattr(a, c) for c in COUNTS] == [getattr(b, c) for c in COUNTS]


def assert_identical(a: Statistics, b: Statistics) -> None:
    assert np.array_equal(a.moments, b.moments)
    assert np.array_equal(a.scatter, b.scatter)
    assert (a.log_likelihood, a.weight) == (b.log_likelihood, b.weight)
    assert [getattr(a, c) for c in COUNTS] == [getattr(b, c) for c in COUNTS]


def with_a_far_component(covariance_type: CovarianceType, k: int, d: int) -> Parameters:
    """Components on both the packed and the centred form."""
    near = random_parameters(np.random.default_rng([k, d]), covariance_type, k, d)
    means = near.means.copy()
    means[0] += 1e5
    return replace(near, means=means)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("k", "d"), [(3, 2), (10, 8)])
def test_any_chunking_equals_one_chunk(covariance_type: CovarianceType, k: int, d: int) -> None:
    rng = np.random.default_rng(23)
    parameters = with_a_far_component(covariance_type, k, d)
    rows, weights = draw(rng, parameters, 3000), rng.uniform(0.0, 2.0, 3000)
    rows[[5, 1999]] = np.nan
    rows[[1024, 2222]] = 1e200
    expectation = prepare(parameters)
    whole = expectation.statistics(rows, weights)
    posterior = expectation.posterior(rows, with_responsibilities=True)
    for cuts in ([1], [255, 256, 513], [1024, 2048], sorted(rng.integers(0, 3000, 20))):
        edges = [0, *cuts, 3000]
        merged = Statistics.zero(expectation.frame, k)
        parts = []
        for start, stop in pairwise(edges):
            merged = merged.merge(expectation.statistics(rows[start:stop], weights[start:stop]))
            parts.append(expectation.posterior(rows[start:stop], with_responsibilities=True))
        assert_close(merged, whole, 1e-10)
        good = np.isfinite(posterior.scores)
        scores = np.concatenate([part.scores for part in parts])
        assert np.array_equal(good, np.isfinite(scores))
        np.testing.assert_allclose(scores[good], posterior.scores[good], rtol=1e-10)
        shares = np.concatenate([part.responsibilities for part in parts])
        np.testing.assert_allclose(shares, posterior.responsibilities, rtol=0.0, atol=1e-8)
        assert sum(part.n_not_finite for part in parts) == posterior.n_not_finite == 2


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 1023, 1024, 1025])
@pytest.mark.parametrize(("k", "d"), [(2, 2), (9, 8)], ids=["blocks of 1024", "blocks of 256"])
def test_every_row_of_every_tail_counts(
    covariance_type: CovarianceType, n: int, k: int, d: int
) -> None:
    rng = np.random.default_rng(n)
    parameters = with_a_far_component(covariance_type, k, d)
    assert_rows_are_right(prepare(parameters), draw(rng, parameters, n), parameters)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_no_rows_say_nothing(covariance_type: CovarianceType, dtype: type) -> None:
    parameters = with_a_far_component(covariance_type, 3, 2)
    expectation = prepare(parameters)
    rows = np.empty((0, 2), dtype=dtype)
    for weights in (None, np.empty(0)):
        assert_identical(
            expectation.statistics(rows, weights), Statistics.zero(expectation.frame, 3)
        )
    posterior = expectation.posterior(rows, with_responsibilities=True)
    assert posterior.scores.shape == posterior.labels.shape == (0,)
    assert posterior.responsibilities.shape == (0, 3)
    assert posterior.n_not_finite == 0


@pytest.mark.parametrize("covariance_type", TYPES)
def test_responsibilities_are_given_only_when_asked_for(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(29)
    parameters = with_a_far_component(covariance_type, 3, 2)
    expectation, rows = prepare(parameters), draw(rng, parameters, 50)
    brief = expectation.posterior(rows)
    long = expectation.posterior(rows, with_responsibilities=True)
    assert brief.responsibilities.shape == (0, 3)
    assert np.array_equal(brief.scores, long.scores)
    assert np.array_equal(brief.labels, long.labels)
    assert brief.labels.dtype == np.int64
    np.testing.assert_allclose(long.responsibilities.sum(axis=1), 1.0, rtol=1e-14)


CAST_TYPES = [
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", "float16",
    "longdouble", ">f8", ">f4", ">i4",
]  # fmt: skip


def assert_same_rows(expectation: EStep, rows: NDArray[np.generic]) -> None:
    """The same bits as from a float64 C-ordered copy."""
    copy = np.array(rows, dtype=np.float64, order="C")
    weights = np.linspace(0.5, 1.5, len(rows))
    assert_identical(expectation.statistics(rows, weights), expectation.statistics(copy, weights))
    a = expectation.posterior(rows, with_responsibilities=True)
    b = expectation.posterior(copy, with_responsibilities=True)
    assert np.array_equal(a.scores, b.scores)
    assert np.array_equal(a.labels, b.labels)
    assert np.array_equal(a.responsibilities, b.responsibilities)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("dtype", CAST_TYPES)
def test_other_types_give_what_their_float64_copies_give(
    covariance_type: CovarianceType, dtype: str
) -> None:
    rng = np.random.default_rng(31)
    parameters = random_parameters(rng, covariance_type, 3, 2)
    values = draw(rng, parameters, 1100)
    if np.dtype(dtype).kind in "ub":
        values = np.abs(values)
    assert_same_rows(prepare(parameters), values.astype(dtype))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_integers_beyond_float64_are_rounded_not_wrapped(covariance_type: CovarianceType) -> None:
    near = random_parameters(np.random.default_rng(1), covariance_type, 2, 2)
    parameters = Parameters.create(
        covariance_type, near.weights, near.means * 1e18 + 9e18, near.covariances * 1e36
    )
    rows = np.array([[2**64 - 1, 2**63 + 1], [2**53 + 1, 0]], dtype=np.uint64)
    assert_same_rows(prepare(parameters), rows)


def test_cast_rows_in_many_pieces() -> None:
    # More rows than are cast at once, with weights and bad values in later pieces.
    rng = np.random.default_rng(37)
    parameters = random_parameters(rng, "full", 2, 2)
    rows = draw(rng, parameters, 150_000).astype(np.float16)
    rows[140_000] = np.nan
    weights = rng.uniform(0.0, 2.0, len(rows))
    expectation = prepare(parameters)
    copy = rows.astype(np.float64)
    assert_close(
        expectation.statistics(rows, weights), expectation.statistics(copy, weights), 1e-10
    )
    a, b = expectation.posterior(rows), expectation.posterior(copy)
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-12)
    assert a.n_not_finite == b.n_not_finite == 1


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("k", "d"), [(3, 2), (9, 8)])
def test_float32_rows_are_evaluated_as_their_float64_copies(
    covariance_type: CovarianceType, k: int, d: int
) -> None:
    rng = np.random.default_rng(41)
    parameters = with_a_far_component(covariance_type, k, d)
    rows = draw(rng, parameters, 1100).astype(np.float32)
    expectation = prepare(parameters, rows)
    copy = rows.astype(np.float64)
    assert_close(expectation.statistics(rows), expectation.statistics(copy), 1e-12)
    np.testing.assert_allclose(
        expectation.posterior(rows).scores, expectation.posterior(copy).scores, rtol=1e-12
    )
    assert_rows_are_right(expectation, rows, parameters)
    as_strided = np.asfortranarray(rows)[::-1]
    assert_identical(expectation.statistics(as_strided), expectation.statistics(rows[::-1].copy()))


def test_the_origin_is_exact_in_float32() -> None:
    parameters = random_parameters(np.random.default_rng(2), "full", 5, 3)
    origin = Frame.of(parameters, np.float32).origin
    assert np.array_equal(origin, origin.astype(np.float32))
    assert not np.array_equal(origin, Frame.of(parameters).origin)


def layouts(rows: Array) -> dict[str, Array]:
    n, d = rows.shape
    wide = np.zeros((2 * n, 3 * d))
    wide[::2, 1::3] = rows
    unaligned = np.frombuffer(b"x" + rows.tobytes(), dtype=np.uint8)[1:].view(np.float64)
    read_only = rows.copy()
    read_only.flags.writeable = False
    return {
        "fortran": np.asfortranarray(rows),
        "negative rows": rows[::-1].copy()[::-1],
        "negative features": rows[:, ::-1].copy()[:, ::-1],
        "strided": wide[::2, 1::3],
        "read-only": read_only,
        "repeated": np.broadcast_to(rows[7], rows.shape),
        "unaligned": unaligned.reshape(n, d),
    }


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(
    "layout",
    [
        "fortran", "negative rows", "negative features", "strided", "read-only", "repeated",
        "unaligned",
    ],
)  # fmt: skip
def test_any_memory_layout_gives_the_same_bits(
    covariance_type: CovarianceType, layout: str
) -> None:
    rng = np.random.default_rng(43)
    parameters = with_a_far_component(covariance_type, 3, 2)
    assert_same_rows(prepare(parameters), layouts(draw(rng, parameters, 1100))[layout])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_an_expectation_survives_a_pickle_into_read_only_arrays(
    covariance_type: CovarianceType,
) -> None:
    rng = np.random.default_rng(47)
    parameters = with_a_far_component(covariance_type, 3, 2)
    expectation, rows = prepare(parameters), draw(rng, parameters, 300)
    # Frameworks that ship objects put arrays into buffers of their own, often read-only.
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(expectation, protocol=5, buffer_callback=buffers.append)
    copy = pickle.loads(stream, buffers=[bytes(buffer) for buffer in buffers])
    assert not copy.coefficients.means.flags.writeable
    assert_identical(copy.statistics(rows), expectation.statistics(rows))
    posterior = copy.posterior(rows, with_responsibilities=True)
    assert np.array_equal(posterior.scores, expectation.posterior(rows).scores)


def test_the_same_rows_give_the_same_bits_every_time() -> None:
    rng = np.random.default_rng(53)
    parameters = with_a_far_component("full", 10, 8)
    rows = draw(rng, parameters, 1000)
    first = prepare(parameters).statistics(rows)
    for _ in range(3):
        assert_identical(prepare(parameters).statistics(rows.copy()), first)


# Row weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("k", "d"), [(3, 2), (9, 8)])
def test_integer_weights_are_repeated_rows(covariance_type: CovarianceType, k: int, d: int) -> None:
    rng = np.random.default_rng(59)
    parameters = with_a_far_component(covariance_type, k, d)
    rows, repeats = draw(rng, parameters, 800), rng.integers(0, 4, 800)
    expectation = prepare(parameters)
    weighted = expectation.statistics(rows, repeats)
    repeated = expectation.statistics(np.repeat(rows, repeats, axis=0))
    assert weighted.n_rows == 800
    assert repeated.n_rows == repeats.sum()
    assert_close(replace(weighted, n_rows=repeated.n_rows), repeated, 1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_of_weight_zero_have_no_effect(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(61)
    parameters = with_a_far_component(covariance_type, 3, 2)
    rows = draw(rng, parameters, 500)
    weights = rng.uniform(0.5, 2.0, 500)
    weights[::3] = 0.0
    # Even those that would swamp the rest.
    rows[0], rows[3] = 1e100, -1e90
    expectation = prepare(parameters)
    kept = weights > 0.0
    found = expectation.statistics(rows, weights)
    assert found.n_rows == 500
    assert_close(
        replace(found, n_rows=int(kept.sum())),
        expectation.statistics(rows[kept], weights[kept]),
        1e-12,
    )
    nothing = expectation.statistics(rows, np.zeros(500))
    zero = Statistics.zero(expectation.frame, 3)
    assert_identical(nothing, replace(zero, n_rows=500))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_weights_of_any_layout(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(67)
    parameters = with_a_far_component(covariance_type, 3, 2)
    rows, weights = draw(rng, parameters, 300), rng.uniform(0.5, 2.0, 300)
    weights.flags.writeable = False
    expectation = prepare(parameters)
    expected = expectation.statistics(rows, weights)
    spaced = np.zeros(600)
    spaced[::2] = weights
    assert_identical(expectation.statistics(rows, spaced[::2]), expected)
    assert_identical(expectation.statistics(rows, weights[::-1].copy()[::-1]), expected)


# Rows that are skipped -----------------------------------------------------------------------


def spoiled(
    rng: np.random.Generator, rows: Array, values: list[float], n: int
) -> tuple[Array, NDArray[np.bool_]]:
    """Rows with values put into one feature or all of n of them, the first and last included."""
    bad = np.zeros(len(rows), dtype=bool)
    bad[[0, len(rows) - 1]] = True
    bad[rng.choice(np.arange(1, len(rows) - 1), n - 2, replace=False)] = True
    rows = rows.copy()
    for i, r in enumerate(np.flatnonzero(bad)):
        value = values[i % len(values)]
        if i % 2:
            rows[r] = value
        else:
            rows[r, int(rng.integers(rows.shape[1]))] = value
    return rows, bad


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("k", "d"), [(3, 2), (9, 8)])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_that_overflow_are_left_out(
    covariance_type: CovarianceType, k: int, d: int, weighted: bool
) -> None:
    rng = np.random.default_rng(71)
    parameters = with_a_far_component(covariance_type, k, d)
    clean = draw(rng, parameters, 1300)
    rows, bad = spoiled(rng, clean, [1e200, -1e200, 1e308, -1e160], 40)
    weights = rng.uniform(0.5, 2.0, 1300) if weighted else None
    kept = None if weights is None else weights[~bad]
    expectation = prepare(parameters)
    found = expectation.statistics(rows, weights)
    expected = expectation.statistics(rows[~bad], kept)
    assert (found.n_rows, found.n_overflowing, found.n_not_finite) == (1260, 40, 0)
    assert_close(replace(found, n_overflowing=0), expected, 1e-12)
    posterior = expectation.posterior(rows, with_responsibilities=True)
    assert np.array_equal(posterior.scores == -np.inf, bad)
    assert np.array_equal(posterior.responsibilities[bad], np.tile(parameters.weights, (40, 1)))
    assert np.all(posterior.labels[bad] == np.argmax(parameters.weights))
    assert posterior.n_not_finite == 0
    others = expectation.posterior(clean, with_responsibilities=True)
    np.testing.assert_allclose(posterior.scores[~bad], others.scores[~bad], rtol=1e-12)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("k", "d"), [(3, 2), (9, 8)])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_that_are_not_finite_are_left_out(
    covariance_type: CovarianceType, k: int, d: int, weighted: bool
) -> None:
    rng = np.random.default_rng(73)
    parameters = with_a_far_component(covariance_type, k, d)
    clean = draw(rng, parameters, 1300)
    rows, bad = spoiled(rng, clean, [np.nan, np.inf, -np.inf, -np.nan], 40)
    # A row that holds both is not finite.
    rows[0] = [np.nan, *[1e200] * (d - 1)]
    weights = rng.uniform(0.5, 2.0, 1300) if weighted else None
    kept = None if weights is None else weights[~bad]
    expectation = prepare(parameters)
    found = expectation.statistics(rows, weights)
    expected = expectation.statistics(rows[~bad], kept)
    assert (found.n_rows, found.n_overflowing, found.n_not_finite) == (1260, 0, 40)
    assert_close(replace(found, n_not_finite=0), expected, 1e-12)
    posterior = expectation.posterior(rows)
    assert posterior.n_not_finite == 40
    others = expectation.posterior(clean)
    np.testing.assert_allclose(posterior.scores[~bad], others.scores[~bad], rtol=1e-12)
    assert np.array_equal(posterior.labels[~bad], others.labels[~bad])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_float32_rows_that_are_not_finite_are_left_out(covariance_type: CovarianceType) -> None:
    rng = np.random.default_rng(79)
    parameters = random_parameters(rng, covariance_type, 3, 2)
    rows = draw(rng, parameters, 300).astype(np.float32)
    rows[[3, 299], 1] = [np.nan, np.inf]
    found = prepare(parameters, rows).statistics(rows)
    assert (found.n_rows, found.n_overflowing, found.n_not_finite) == (298, 0, 2)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_chunk_of_nothing_but_bad_rows(covariance_type: CovarianceType) -> None:
    parameters = with_a_far_component(covariance_type, 3, 2)
    rows = np.full((5, 2), np.nan)
    rows[1], rows[2] = 1e200, [0.0, np.inf]
    expectation = prepare(parameters)
    zero = Statistics.zero(expectation.frame, 3)
    found = expectation.statistics(rows)
    assert_identical(found, replace(zero, n_overflowing=1, n_not_finite=4))


# Components that take no part ----------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("dead", [0, 2, 3])
def test_a_component_of_weight_zero_is_left_out(covariance_type: CovarianceType, dead: int) -> None:
    rng = np.random.default_rng(83)
    parameters = with_a_far_component(covariance_type, 4, 2)
    weights = parameters.weights.copy()
    weights[dead] = 0.0
    weights /= weights.sum()
    parameters = Parameters.create(
        covariance_type, weights, parameters.means, parameters.covariances
    )
    others = np.flatnonzero(weights)
    covariances = parameters.covariances
    remaining = Parameters.create(
        covariance_type,
        weights[others],
        parameters.means[others],
        covariances if covariance_type == "tied" else covariances[others],
    )
    rows = draw(rng, remaining, 400)
    rows[10] = 1e200
    expectation = prepare(parameters)
    found = expectation.statistics(rows)
    assert np.array_equal(found.moments[dead], np.zeros(found.moments.shape[1]))
    good = np.arange(400) != 10
    exact = naive.scores(rows[good], naive.of(remaining))
    assert found.log_likelihood == pytest.approx(float(exact.sum()), rel=1e-12)
    posterior = expectation.posterior(rows, with_responsibilities=True)
    assert np.abs(posterior.scores[good] - exact).max() < 1e-8
    assert posterior.responsibilities.shape == (400, 4)
    assert np.array_equal(posterior.responsibilities[:, dead], np.zeros(400))
    shares = naive.responsibilities(rows[good], naive.of(remaining))
    assert np.abs(posterior.responsibilities[good][:, others] - shares).max() < 1e-8
    assert np.array_equal(posterior.responsibilities[10], weights)
    assert not np.any(posterior.labels == dead)


# Moments on every route -----------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(("k", "d"), [(4, 3), (3, 40)])
@pytest.mark.parametrize("spread", [1.0, 1e6], ids=["packed", "centred"])
def test_moments_give_the_oracles_parameters(
    covariance_type: CovarianceType, k: int, d: int, spread: float
) -> None:
    rng = np.random.default_rng([k, d])
    parameters = random_parameters(rng, covariance_type, k, d, spread)
    rows, weights = draw(rng, parameters, 500), rng.uniform(0.5, 2.0, 500)
    assert Frame.of(parameters).centred.size == (0 if spread == 1.0 else k)
    found = em_step(rows, parameters, row_weights=weights).parameters
    expected = naive.em_step(rows, naive.of(parameters), row_weights=weights)
    # A mean has no more digits than its own place leaves it.
    assert naive.distance(found, expected) < 1e-11 + np.spacing(np.abs(parameters.means).max())


# Frames of other parameters ---------------------------------------------------------------------


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("spread", [1.0, 1e5], ids=["packed", "centred"])
def test_a_frame_of_other_parameters_is_served_or_refused(
    covariance_type: CovarianceType, spread: float
) -> None:
    # Statistics are stated in the frame's coordinates: others must never be passed off as these.
    rng = np.random.default_rng(89)
    parameters = random_parameters(rng, covariance_type, 3, 3, spread)
    rows = draw(rng, parameters, 400)
    earlier = Parameters.create(
        covariance_type,
        parameters.weights,
        parameters.means + 0.1,
        parameters.covariances * 1.5,
    )
    try:
        expectation = EStep.prepare(parameters, Frame.of(earlier))
    except ValueError:
        return
    found = maximize(expectation.statistics(rows), parameters).parameters
    expected = naive.em_step(rows, naive.of(parameters))
    assert naive.distance(found, expected) < 1e-9


@pytest.mark.parametrize("covariance_type", [*TYPES, *SHARED_TYPES])
@pytest.mark.parametrize("far", [0.0, 1e7])
def test_some_components_are_evaluated_as_in_the_whole_mixture(
    covariance_type: CovarianceType, far: float
) -> None:
    rng = np.random.default_rng(0)
    parameters = random_parameters(rng, covariance_type, 5, 3)
    # One component is so far away that it takes the centred form; another one has no weight.
    means = parameters.means.copy()
    means[1] += far
    weights = np.array([0.1, 0.2, 0.0, 0.3, 0.4])
    whole = replace(parameters, weights=weights, means=means)
    rows = np.concatenate([draw(rng, whole, 200), means])
    components = np.array([1, 2, 4])
    some = Parameters(
        covariance_type,
        weights[components],
        means[components],
        whole.structure.taken(whole.covariances, components),
        whole.structure.taken(whole.factors, components),
    )
    found = EStep.prepare(whole, Frame.of(whole)).gathered(components)
    expected = EStep.prepare(some, Frame.of(some))
    own, other = (one.posterior(rows, with_responsibilities=True) for one in (found, expected))
    np.testing.assert_allclose(own.scores, other.scores, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(own.responsibilities, other.responsibilities, atol=1e-7)
    # The mass and the means that statistics say do not depend on the frame.
    one, two = (step.statistics(rows) for step in (found, expected))
    np.testing.assert_allclose(one.counts, two.counts, rtol=1e-7, atol=1e-9)
    alive = one.counts > 1.0
    for mean, other_mean in zip(points(one)[alive], points(two)[alive], strict=True):
        np.testing.assert_allclose(mean, other_mean, rtol=1e-7, atol=1e-7)


def points(statistics: Statistics) -> Array:
    """The means of components."""
    d = statistics.frame.n_features
    counts = np.maximum(statistics.counts, 1e-300)[:, np.newaxis]
    return statistics.frame.points(statistics.moments[:, 1 : 1 + d] / counts)


# Wide full covariances -------------------------------------------------------------------


def wide_parameters(rng: np.random.Generator, k: int, d: int, condition: float) -> Parameters:
    """Overlapping components with full covariances of a given condition number."""
    covariances = []
    for _ in range(k):
        axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
        variances = np.geomspace(1.0 / np.sqrt(condition), np.sqrt(condition), d)
        whole = (axes * variances) @ axes.T
        covariances.append(0.5 * (whole + whole.T))
    means = rng.normal(scale=0.5 / np.sqrt(d), size=(k, d))
    return Parameters.create("full", rng.dirichlet(np.full(k, 5.0)), means, np.stack(covariances))


@pytest.mark.parametrize(
    ("k", "d", "condition", "is_centred"),
    [(3, 70, 4.0, False), (9, 70, 4.0, False), (2, 260, 4.0, False), (3, 260, 1e5, True)],
)
def test_wide_full_covariances(k: int, d: int, condition: float, is_centred: bool) -> None:
    rng = np.random.default_rng([k, d])
    parameters = wide_parameters(rng, k, d, condition)
    rows = draw(rng, parameters, 190)
    expectation = prepare(parameters)
    assert (expectation.frame.centred.size == k) == is_centred
    assert expectation.keeps_residuals == is_centred
    assert_rows_are_right(expectation, rows, parameters)
    # Second moments about the origins, in the bases of the frame, from the oracle's shares.
    shares = naive.responsibilities(rows, naive.of(parameters)).astype(float)
    moments = expectation.statistics(rows).moments
    upper = np.triu_indices(1 + d)
    for c in range(k):
        if is_centred:
            u = np.linalg.solve(parameters.factors[c], (rows - parameters.means[c]).T)
        else:
            frame = expectation.frame
            u = ((rows - frame.origin) / frame.scale).T
        coordinates = np.concatenate([np.ones((1, len(rows))), u])
        expected = ((coordinates * shares[:, c]) @ coordinates.T)[upper]
        scale = np.abs(coordinates * shares[:, c]) @ np.abs(coordinates.T)
        assert np.all(np.abs(moments[c] - expected) <= 1e-7 * scale[upper] + 1e-9)


def test_residuals_that_are_kept_and_computed_again_give_the_same_bits() -> None:
    rng = np.random.default_rng(5)
    parameters = wide_parameters(rng, 3, 40, 1e8)
    rows = draw(rng, parameters, 1500)
    expectation = prepare(parameters)
    assert expectation.keeps_residuals
    kept = expectation.statistics(rows)
    again = replace(expectation, keeps_residuals=False).statistics(rows)
    assert np.array_equal(kept.moments, again.moments)
