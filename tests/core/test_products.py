"""The two matrix products of the kernels, in every tile, against NumPy in extended precision.

They run in compiled loops, as in the kernels.
"""

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from streamgmm.core.kernels.compilation import FAST_SUMS
from streamgmm.core.kernels.products import (
    add_features_product,
    add_few_features_product,
    add_moments_product,
    add_quadratic_product,
    add_squares,
    lines,
    multiply_triangular,
    panel_of_rows,
    square_tile,
    whole_panels,
)
from streamgmm.core.kernels.tiles import (
    BLOCK,
    FORMS,
    MOMENT_TILES,
    SPARE_FEATURES,
    STRIDE,
    STRIP,
    TURNED,
    turn,
)

compiled = numba.njit(fastmath=FAST_SUMS, error_model="numpy")
# Products are right to the rounding of sums of this many terms of size 1.
TOLERANCES = {np.float64: 1e-12, np.float32: 1e-3}
DTYPES = [np.float64, np.float32]


@compiled
def features_product(theta, features, z, n, first, stop, reach, out):
    add_features_product(theta, features, z, n, first, stop, reach, out)


@compiled
def moments_product(weights, features, z, n, first, stop, out, line):
    add_moments_product(weights, features, z, n, first, stop, out, line)


@compiled
def turned(rows, origin, scale, out):
    for first in range(0, rows.shape[0], TURNED):
        for d in range(rows.shape[1]):
            turn(rows, first, d, origin[d], scale[d], out, d)


def random_lines(rng: np.random.Generator, n: int, dtype: type) -> NDArray[np.floating]:
    values = lines(n, dtype)
    values[:] = rng.normal(size=values.shape)
    return values


def triangle(n_coordinates: int) -> NDArray[np.int64]:
    return np.stack(np.triu_indices(n_coordinates), axis=1).astype(np.int64)


def phi(features: NDArray[np.int64], z: NDArray[np.floating]) -> NDArray[np.longdouble]:
    wide = z.astype(np.longdouble)
    return wide[features[:, 0]] * wide[features[:, 1]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_lines_begin_at_cache_lines(dtype: type) -> None:
    for n in (2, 3, 50):
        values = lines(n, dtype)
        assert values.shape == (n, STRIDE)
        assert values.ctypes.data % 64 == 0
        assert values.strides[0] % 64 == 0


def test_whole_panels() -> None:
    whole = compiled(lambda n: whole_panels(n))
    assert [whole(n) for n in (0, 1, 64, 65, BLOCK)] == [0, 64, 64, 128, BLOCK]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [*range(1, 2 * FORMS + 2), 32])
@pytest.mark.parametrize("n_coordinates", [1, 2, 7, 50])
def test_features_product(dtype: type, k: int, n_coordinates: int) -> None:
    rng = np.random.default_rng([k, n_coordinates])
    features, z = triangle(n_coordinates), random_lines(rng, n_coordinates, dtype)
    theta = rng.normal(size=(k, len(features))).astype(dtype)
    # A component less at either end, fewer rows than a block: what lies beside is not touched.
    first, stop, n = (1, k - 1, 192) if k > 2 else (0, k, 64)
    out = np.ones((k, STRIDE))
    features_product(theta, features, z, n, first, stop, len(features), out)
    expected = np.ones((k, STRIDE), np.longdouble)
    product = theta.astype(np.longdouble) @ phi(features, z)
    expected[first:stop, :n] += product[first:stop, :n]
    scale = np.abs(theta).astype(float) @ np.abs(phi(features, z)).astype(float) + 1.0
    np.testing.assert_array_less(np.abs(out - expected), TOLERANCES[dtype] * scale)
    assert np.array_equal(out == 1.0, expected == 1.0)


@compiled
def multiplied(factor, x, origin, first_row, n, panel, out):
    multiply_triangular(factor, x, origin, first_row, n, panel, out)


def triangular_product(factor, x, origin, first_row, n, out):
    multiplied(factor, x, origin, first_row, n, panel_of_rows(), out)


@compiled
def with_quadratic_product(theta, z, n, nought, first, stop, panel, out):
    add_quadratic_product(theta, z, n, nought, first, stop, panel, out)


def quadratic_product(theta, z, n, first, stop, out):
    with_quadratic_product(theta, z, n, np.zeros(len(z)), first, stop, panel_of_rows(), out)


@compiled
def with_squares(weights, z, n, scaled, tile, out):
    add_squares(weights, z, n, scaled, tile, out)


def squares(weights, z, n, out):
    with_squares(weights, z, n, *square_tile(), out)


@pytest.mark.parametrize("d", [1, 2, 5, 6, 7, 13, 40, 127, 260])
def test_triangular_product(d: int) -> None:
    rng = np.random.default_rng(d)
    factor, origin = np.tril(rng.normal(size=(d, d))), rng.normal(size=d)
    x = random_lines(rng, d, np.float64)
    # Some rows of a block; padding is 0 up to whole panels, and what lies beside is not touched.
    first, n = 128, 128 + 75
    out = np.ones((d, STRIDE))
    triangular_product(factor, x, origin, first, n, out)
    shifted = (x[:, first:n] - origin[:, np.newaxis]).astype(np.longdouble)
    expected = factor.astype(np.longdouble) @ shifted
    np.testing.assert_allclose(
        out[:, first:n].astype(float), expected.astype(float), rtol=0.0, atol=2e-13
    )
    assert np.all(out[:, n:256] == 0.0)
    assert np.all(out[:, :first] == 1.0)
    assert np.all(out[:, 256:] == 1.0)


def test_a_row_of_a_triangular_product_is_the_same_beside_any_others() -> None:
    rng = np.random.default_rng(1)
    d = 150
    factor, origin = np.tril(rng.normal(size=(d, d))), rng.normal(size=d)
    x, some = random_lines(rng, d, np.float64), random_lines(rng, d, np.float64)
    some[:, :7] = x[:, 500:507]
    together, alone = np.empty((d, STRIDE)), np.empty((d, STRIDE))
    triangular_product(factor, x, origin, 0, BLOCK, together)
    triangular_product(factor, some, origin, 0, 7, alone)
    assert np.array_equal(alone[:, :7], together[:, 500:507])


@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("n_coordinates", [1, 2, 5, 6, 7, 13, 126, 127, 300])
def test_quadratic_product(k: int, n_coordinates: int) -> None:
    rng = np.random.default_rng([k, n_coordinates])
    features, z = triangle(n_coordinates), random_lines(rng, n_coordinates, np.float64)
    theta = rng.normal(size=(k, len(features)))
    first, stop, n = (1, k - 1, 192) if k > 2 else (0, k, 64)
    out, alone = np.ones((k, STRIDE)), np.ones((1, STRIDE))
    quadratic_product(theta, z, n, first, stop, out)
    expected = np.ones((k, STRIDE), np.longdouble)
    wide, forms = z[:, :n].astype(np.longdouble), np.zeros((n_coordinates, n_coordinates))
    for c in range(first, stop):
        forms[features[:, 0], features[:, 1]] = theta[c]
        expected[c, :n] += np.sum(wide * (forms.astype(np.longdouble) @ wide), axis=0)
        alone[:] = 1.0
        quadratic_product(theta[c : c + 1], z, n, 0, 1, alone)
        assert np.array_equal(alone[0], out[c])
    scale = np.abs(z[:, :n]).sum(axis=0) ** 2 + 1.0
    assert np.all(np.abs(out - expected)[:, :n] <= 1e-14 * scale)
    assert np.array_equal(out == 1.0, expected == 1.0)


@pytest.mark.parametrize("n_coordinates", [1, 2, 3, 4, 6, 7, 9, 95, 96, 97, 203])
@pytest.mark.parametrize("n", [16, 528, BLOCK])
def test_squares(n_coordinates: int, n: int) -> None:
    rng = np.random.default_rng([n_coordinates, n])
    z, weights = random_lines(rng, n_coordinates, np.float64), rng.random(STRIDE)
    rows, columns = np.triu_indices(n_coordinates)
    out = np.ones(rows.size + SPARE_FEATURES)
    squares(weights, z, n, out)
    wide = z[:, :n].astype(np.longdouble)
    expected = 1.0 + ((wide * weights[:n]) @ wide.T)[rows, columns]
    np.testing.assert_allclose(
        out[: rows.size].astype(float), expected.astype(float), rtol=0.0, atol=1e-15 * n * n
    )
    assert np.all(out[rows.size :] == 1.0)


def test_a_component_is_the_same_beside_any_others() -> None:
    rng = np.random.default_rng(0)
    features, z = triangle(50), random_lines(rng, 50, np.float64)
    theta = rng.normal(size=(13, len(features)))
    assert len(features) > 1024
    together, alone = np.zeros((13, STRIDE)), np.zeros((1, STRIDE))
    features_product(theta, features, z, BLOCK, 0, 13, len(features), together)
    for k in range(13):
        alone[:] = 0.0
        features_product(theta[k : k + 1], features, z, BLOCK, 0, 1, len(features), alone)
        assert np.array_equal(alone[0], together[k])


@compiled
def few_features_product(theta, features, z, n, component, out):
    add_few_features_product(theta, features, z, 0, n, component, out)


def test_few_rows_of_one_component_have_the_same_bits() -> None:
    rng = np.random.default_rng(2)
    features, z = triangle(50), random_lines(rng, 50, np.float64)
    theta = rng.normal(size=(3, len(features)))
    together, alone = np.zeros((3, STRIDE)), np.zeros((1, STRIDE))
    features_product(theta, features, z, BLOCK, 0, 3, len(features), together)
    few_features_product(theta, features, z, 2 * TURNED, 1, alone)
    assert np.array_equal(alone[0, : 2 * TURNED], together[1, : 2 * TURNED])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [*range(1, 2 * MOMENT_TILES[0][0] + 2), 32])
@pytest.mark.parametrize(("n_coordinates", "n"), [(1, 16), (2, 32), (7, 208), (20, BLOCK)])
def test_moments_product(dtype: type, k: int, n_coordinates: int, n: int) -> None:
    assert n % STRIP == 0
    rng = np.random.default_rng([k, n])
    features, z = triangle(n_coordinates), random_lines(rng, n_coordinates, dtype)
    weights = random_lines(rng, k, dtype)
    table = np.pad(features, [(0, SPARE_FEATURES), (0, 0)])
    # Component by component from the second on, into the lines after the fourth.
    first, line = (1, 4) if k > 1 else (0, 4)
    out = np.ones((k + 4, len(table)))
    moments_product(weights, table, z, n, first, k, out, line)
    wide = weights[first:k, :n].astype(np.longdouble)
    expected = np.ones((k + 4, len(features)), np.longdouble)
    expected[line : line + k - first] += wide @ phi(features, z)[:, :n].T
    found = out[:, : len(features)]
    np.testing.assert_allclose(
        found.astype(float), expected.astype(float), rtol=0.0, atol=TOLERANCES[dtype] * n
    )
    assert np.all(out[:line] == 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "F", "strided", "backwards"])
def test_turn(dtype: type, layout: str) -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(4 * TURNED, 5)).astype(dtype)
    view = {
        "C": rows,
        "F": np.asfortranarray(rows),
        "strided": np.repeat(np.repeat(rows, 2, axis=0), 3, axis=1)[::2, ::3],
        "backwards": rows[::-1, ::-1].copy()[::-1, ::-1],
    }[layout]
    origin, scale = rng.normal(size=5), np.exp2(rng.integers(-3, 3, 5))
    out = np.zeros((5, STRIDE))
    turned(view, origin, scale, out)
    expected = ((rows.astype(float) - origin) * scale).T
    assert np.array_equal(out[:, : len(rows)], expected)
    assert np.all(out[:, len(rows) :] == 0.0)
