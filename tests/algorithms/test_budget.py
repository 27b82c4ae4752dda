"""The work in memory is a few passes' worth, whatever the shape of the data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgmm.algorithms.batch.budget import LONGER, SHORT, Budget
from streamgmm.core.parameters import count_parameters
from streamgmm.core.structures import STRUCTURES
from streamgmm.core.structures.low_rank import structure_name
from streamgmm.options import CovarianceType

# A round of splits and merges at most: four trials of five steps, the fit without a swap, and seven
# evaluations of what they are worth.
LONGEST_ROUND = 5 * 5 + 7


def budget_for(covariance_type: CovarianceType, n_rows: int, d: int, k: int) -> Budget:
    structure = STRUCTURES[covariance_type]
    n_parameters = count_parameters(structure, k, d, ())
    return Budget(n_rows, k, n_parameters, structure.n_moments(d), d)


@pytest.mark.parametrize(
    ("covariance_type", "d", "k"),
    [
        ("diag", 16, 64),
        ("diag", 64, 256),
        ("full", 16, 128),
        ("diag", 64, 1000),
        ("full", 8, 48),
    ],
)
def test_a_million_rows_are_searched_with_four_evaluations_a_row(
    covariance_type: CovarianceType, d: int, k: int
) -> None:
    n_rows = 1_000_000
    budget = budget_for(covariance_type, n_rows, d, k)
    starts = budget.starts(False)
    begun = starts.n_rows * starts.n_starts * (starts.n_runs * SHORT + LONGER)
    splitting = budget.splitting_rows(starts.n_starts)
    done = splitting * budget.splitting_evaluations(splitting)
    end = budget.convergence(n_rows // 8)
    converged = n_rows // 8 * end.n_iterations
    assert begun + done + converged <= 12.0 * n_rows
    # Each start has a round; the last round of the best begins within its limit.
    longest = starts.n_starts * (LONGER + LONGEST_ROUND) + LONGEST_ROUND
    assert splitting * longest <= 8.0 * n_rows


def test_without_splits_and_information_convergence_has_their_work() -> None:
    n_rows, k, d = 1_000_000, 8, 64
    structure = STRUCTURES[structure_name("low_rank", 8, d)]
    n_parameters = count_parameters(structure, k, d, ())
    budget = Budget(n_rows, k, n_parameters, structure.n_moments(d), d, is_plain=True)
    starts = budget.starts(False)
    done = starts.n_rows * starts.n_starts * (starts.n_runs * SHORT + LONGER)
    n_sample = n_rows // 8
    size = budget.subsample_rows(n_sample)
    assert 4 * n_parameters <= size < n_sample
    for rows, work in (
        (size, budget.subsample_convergence(size)),
        (n_sample, budget.convergence(n_sample)),
    ):
        assert work.n_informing == 0
        done += rows * work.n_iterations
    assert 6.0 * n_rows <= done <= 12.0 * n_rows
    # Few rows for each parameter would lead elsewhere.
    assert budget.subsample_rows(8 * n_parameters) == 0


def test_small_data_may_take_as_long_as_large_data() -> None:
    small, large = (budget_for("diag", n, 2, 4).n_evaluations for n in (1_000, 10_000_000))
    assert small == 1 << 23
    assert large == 1.2e8
    # Many components with many features take no longer: a row costs more.
    many = budget_for("full", 1_000, 64, 512)
    assert many.n_evaluations * 512 * many.n_moments == pytest.approx(16e9)


@given(
    st.sampled_from(["full", "tied", "diag", "spherical"]),
    st.integers(1, 10**9),
    st.integers(1, 200),
    st.integers(1, 3000),
)
def test_sizes_are_of_use(covariance_type: CovarianceType, n_rows: int, d: int, k: int) -> None:
    budget = budget_for(covariance_type, n_rows, d, k)
    for is_single in (False, True):
        starts = budget.starts(is_single)
        assert starts.n_rows >= max(4096, 16 * k)
        assert starts.n_rows <= budget.most_starting_rows
        assert is_single <= (starts.n_starts == starts.n_runs == 1)
        splitting = budget.splitting_rows(starts.n_starts)
        assert 4096 <= splitting <= 6 * budget.most_starting_rows
        assert budget.splitting_evaluations(splitting) > LONGER
    end = budget.convergence(min(n_rows, 100_000))
    assert 4 <= end.n_iterations <= 100
    assert 0 <= end.n_informing <= min(n_rows, 100_000)


def test_many_components_have_one_start() -> None:
    several, one = (budget_for("diag", 10**8, 4, k).starts(False) for k in (63, 64))
    assert (several.n_starts, several.n_runs) == (8, 2)
    assert (one.n_starts, one.n_runs) == (1, 1)


def test_rows_beyond_those_that_starts_need_buy_more_starts() -> None:
    numbers = [budget_for("full", n, 4, 8).starts(False).n_starts for n in (10**5, 10**6, 10**8)]
    assert numbers == [3, 8, 8]
    # Starts of more parameters have no more rows than they need.
    assert budget_for("full", 10**6, 16, 48).starts(False).n_starts <= 3


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_starts_have_rows_for_the_covariances_of_their_components(
    covariance_type: CovarianceType,
) -> None:
    """However little work that leaves for each row: 16 rows for each moment of a column."""
    budget = budget_for(covariance_type, 32_000, 192, 8)
    rows_of_component = budget.starts(True).n_rows / 8
    assert rows_of_component >= 8 * 192 if covariance_type == "full" else rows_of_component >= 512
