"""Benchmarks do the work that they say, and mark what did other work."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.mixture
from sklearn.exceptions import ConvergenceWarning

from benchmarks.cluster import Parts
from benchmarks.peers.libraries import LIBRARIES, Fitted
from benchmarks.peers.measure import MANY, Result, mean_log_likelihood
from benchmarks.planted import Problem
from benchmarks.rare import measured
from benchmarks.reads.__main__ import forget, measure
from benchmarks.reads.cells import Cell, Planted, Rows, Tiled, fewer_rows_suite, small_suite, suite
from benchmarks.reads.measure import Found, Timing, find, score, time_defaults, without_collapsed
from benchmarks.reads.records import Record, load, save
from benchmarks.reads.tables import highest_after, missing, plot, tables
from benchmarks.reads.ways import REG_COVAR, WAYS, Run, Way, evaluations, ours, scikit_learn
from benchmarks.scale import Point, ReplayedSource, exponent
from benchmarks.sizing import Size
from benchmarks.sources import STORAGES, STORED_ROWS, Comparison, Storage, compare, sample_rows
from streamgmm.core.parameters import Parameters
from streamgmm.events import ReadDone
from streamgmm.options import CovarianceType
from streamgmm.sources.layout import rows_per_chunk
from streamgmm.testing.sources import SourceCase, SourceConformance
from tests.core.cases import TYPES


def result(log_likelihood: float, iterations: int = MANY, dtype: str = "float64") -> Result:
    nothing = np.empty(0)
    fitted = Fitted(nothing, nothing, nothing, iterations, dtype)
    problem = Problem("full", 100, 2, 2, dtype)
    return Result(LIBRARIES[0], problem, fitted, log_likelihood)


def test_the_same_end_needs_no_remark() -> None:
    assert result(-2.0 + 1e-9).remark(result(-2.0)) == ""
    assert result(-2.0 + 1e-4, dtype="float32").remark(result(-2.0)) == ""


def test_another_end_is_marked() -> None:
    remark = result(-2.1).remark(result(-2.0))
    assert remark == "ended after 4 iterations, log-likelihood -2.1000 instead of -2.0000"
    assert result(-2.0 + 1e-4).remark(result(-2.0))


def test_a_stop_before_the_end_is_marked() -> None:
    assert result(-2.0, iterations=2).remark(result(-2.0)) == "ended after 2 iterations"


def test_a_failure_is_the_remark() -> None:
    failed = Result(LIBRARIES[0], Problem("full", 100, 2, 2), failure="failed: ValueError")
    assert failed.remark(result(-2.0)) == "failed: ValueError"


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_log_likelihood_is_that_of_the_model(covariance_type: CovarianceType) -> None:
    problem = Problem(covariance_type, 500, 3, 4)
    start = problem.start
    fitted = Fitted(start.weights, start.means, start.covariances, MANY, "float64")
    expected = problem.model(max_iter=0).fit(problem.rows).score(problem.rows)
    found = mean_log_likelihood(covariance_type, fitted, problem.rows)
    assert found == pytest.approx(expected, rel=1e-12)


class TestReplayed(SourceConformance):
    @pytest.fixture
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> SourceCase:
        problem = Problem("full", 100_000, 8, 2)
        source = ReplayedSource(problem)
        chunk = source.read(0).rows
        repeats = -(-problem.n_rows // len(chunk))
        return SourceCase(source, np.tile(chunk, (repeats, 1))[: problem.n_rows])


def test_exponents_are_those_of_powers() -> None:
    series = [
        Point("rows", Problem("full", n, 2, 2), 1, seconds=3e-9 * n, peak=10**8)
        for n in (10**3, 10**5, 10**6)
    ]
    assert exponent(series, lambda point: point.seconds) == pytest.approx(1.0)
    assert exponent(series, lambda point: point.peak) == pytest.approx(0.0, abs=1e-12)


def test_a_read_takes_what_its_parts_take() -> None:
    nothing = Parts(0.0, 0.0, 0.0, 0.0)
    read = Size(10**9, 32, 32, 64, row_seconds=2e-6, parts=nothing)
    group_rows = read.group_chunks * rows_per_chunk(32)
    assert read.compute_seconds == pytest.approx(2000 / 64)
    assert read.seconds == pytest.approx(read.compute_seconds + 2e-6 * group_rows)
    assert read.n_groups >= 8 * 64
    dear = replace(read, parts=Parts(3.0, 0.5, 0.0, 7.0))
    sent = 7.0 * 6 * read.work_bytes[1] / (64 << 20)
    assert dear.seconds - read.seconds == pytest.approx(3.0 + 0.5 * read.n_groups + sent)
    # Rows of one group take no more cores.
    few = replace(read, n_rows=1000)
    assert few.seconds <= 2 * 1000 * 2e-6


def test_rare_rows_are_counted() -> None:
    found = measured(1_000_000, n_features=2, n_components=4, weight=2e-4, size=2000)
    assert found.n_expected == 200.0
    # A uniform sample has none of them, or one.
    assert found.n_sampled > 10
    assert found.weight == pytest.approx(200.0, rel=0.5)


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.name)
def test_sources_and_libraries_give_the_same_rows(storage: Storage, tmp_path: Path) -> None:
    source, read = storage.stored(tmp_path, sample_rows(2 * STORED_ROWS))
    ends = source.boundaries
    for i in range(len(ends) - 1):
        rows = source.read(i).rows
        assert np.isnan(rows).any() == (storage.part_of_nulls > 0.0)
        np.testing.assert_array_equal(rows, np.column_stack(read(ends[i], ends[i + 1])))


def test_a_comparison_has_every_round_but_the_first() -> None:
    found = compare(STORAGES[0], sample_rows(STORED_ROWS), [1, 2], rounds=3)
    assert all(len(found.own[n]) == len(found.library[n]) == 3 for n in (1, 2))
    assert len(found.ratios(1)) == 3
    assert found.ratios(1) == sorted(found.ratios(1))


def test_a_ratio_above_1_is_a_source_that_is_quicker() -> None:
    found = Comparison(STORAGES[0], 600, own={1: [2.0, 3.0]}, library={1: [4.0, 3.0]})
    assert found.ratios(1) == [1.0, 2.0]
    assert found.rate(1) == 240.0


@pytest.mark.parametrize("separation", [1.0, 2.0, 3.0])
@pytest.mark.parametrize(("k", "d"), [(8, 2), (64, 2), (16, 8), (64, 32)])
@pytest.mark.parametrize("shape", ["gaussian", "cube"])
def test_planted_means_are_as_far_apart_as_is_said(separation, k, d, shape) -> None:
    mixture = Planted(separation, k, d, shape=shape).mixture
    variances = np.linalg.eigvalsh(mixture.covariances)
    distances = np.linalg.norm(mixture.means[:, np.newaxis] - mixture.means, axis=2)
    closest = distances[np.triu_indices(k, 1)].min() / np.sqrt(d * variances.max())
    assert separation <= closest < 1.1 * separation
    assert variances.min() >= 0.099
    assert variances.max() <= 1.001


def test_planted_weights_are_nearly_equal_or_far_from_it() -> None:
    balanced = Planted(2.0, 16, 8).mixture.weights
    unbalanced = Planted(2.0, 16, 8, concentration=0.3).mixture.weights
    assert balanced.max() < 5 * balanced.min()
    assert unbalanced.max() > 1000 * unbalanced.min()


def _standardised(population: Planted, rows: Rows) -> Rows:
    """Deviations from the nearest mean along the axes, in standard deviations."""
    mixture = population.mixture
    nearest = np.linalg.norm(rows[:, np.newaxis] - mixture.means, axis=2).argmin(axis=1)
    roots = np.linalg.inv(mixture.factors)[nearest]
    return np.einsum("nij,nj->ni", roots, rows - mixture.means[nearest])


def test_planted_rows_have_their_shapes() -> None:
    # So far apart that the nearest mean is the row's own.
    gaussian = Planted(30.0, 4, 3)
    deviations = {
        shape: _standardised(population, population.rows(20_000))
        for shape in ("gaussian", "student", "cube")
        for population in [replace(gaussian, shape=shape)]
    }
    for shape in ("gaussian", "cube"):
        np.testing.assert_allclose(np.cov(deviations[shape].T), np.eye(3), atol=0.04)
    assert np.abs(deviations["cube"]).max() == pytest.approx(math.sqrt(3.0), rel=1e-3)
    # P(|t| > 4) with 3 degrees of freedom is 0.028, of a Gaussian 0.00006.
    assert np.mean(np.abs(deviations["student"]) > 4.0) == pytest.approx(0.028, abs=0.004)
    assert np.mean(np.abs(deviations["gaussian"]) > 4.0) < 0.001


def test_sorted_rows_are_those_of_one_component_after_another() -> None:
    population = Planted(30.0, 4, 3, is_sorted=True)
    rows, mixture = population.rows(1000), population.mixture
    nearest = np.linalg.norm(rows[:, np.newaxis] - mixture.means, axis=2).argmin(axis=1)
    assert np.count_nonzero(np.diff(nearest)) == 3
    shuffled = replace(population, is_sorted=False).rows(1000)
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(shuffled, axis=0))


@pytest.mark.parametrize(
    "population", [Planted(2.0, 3, 2), Tiled("iris", 4), Tiled("digits", 16)], ids=str
)
def test_rows_are_always_the_same_and_others_are_held_out(population) -> None:
    rows = population.rows(500)
    np.testing.assert_array_equal(rows, population.rows(500))
    assert rows.shape == (500, population.n_features)
    both = np.vstack([rows, population.rows(500, held_out=True)])
    assert len(np.unique(both, axis=0)) == 1000


@pytest.mark.parametrize(("name", "n_rows"), [("iris", 150), ("wine", 178), ("diabetes", 442)])
def test_real_data_are_tiled_with_noise(name: str, n_rows: int) -> None:
    n_features = {"iris": 4, "wine": 13, "diabetes": 10}[name]
    population = Tiled(name, n_features)
    originals = population.originals
    assert len(originals) == n_rows
    for held_out in (False, True):
        rows = population.rows(2000, held_out)
        distances = np.linalg.norm(rows[:, np.newaxis] - originals, axis=2)
        assert 0.9 * n_rows < len(np.unique(distances.argmin(axis=1))) <= n_rows
        assert np.sqrt(np.mean(distances.min(axis=1) ** 2) / n_features) < 0.26


def test_cells_have_the_rows_that_the_targets_ask_for_where_there_is_room() -> None:
    cells = suite()
    assert len({cell.name for cell in cells}) == len(cells)
    assert all(cell.n_rows >= 1_000_000 for cell in cells)
    for cell in cells:
        n_bytes = 8 * cell.population.n_features * cell.n_rows
        assert n_bytes <= 1 << 29
        room = 2000 * cell.n_parameters * 8 * cell.population.n_features <= 1 << 29
        assert cell.is_counted == (room or cell.n_rows >= 2000 * cell.n_parameters)
    assert all(cell.is_counted for cell in small_suite())
    fewer = fewer_rows_suite()
    assert len({cell.name for cell in fewer}) == len(fewer) == 25
    for cell in fewer:
        assert cell.is_counted
        assert 100_000 <= cell.n_rows <= min(1_000_000, 2000 * cell.n_parameters)


def test_restarts_are_those_of_scikit_learn() -> None:
    rows = Planted(1.0, 4, 3).rows(3000)
    run = scikit_learn(rows, 4, seed=3, threads=1)
    expected = sklearn.mixture.GaussianMixture(4, random_state=3).fit(rows)
    np.testing.assert_allclose(run.log_likelihoods, expected.lower_bounds_, rtol=1e-9)
    np.testing.assert_allclose(run.parameters.means, expected.means_, rtol=1e-7)
    np.testing.assert_allclose(run.parameters.covariances, expected.covariances_, rtol=1e-7)
    assert run.n_reads == run.reads[-1]
    # A read for each centre, one or more of k-means, one for the first moments.
    assert run.reads[0] > 4 + 1 + 1
    assert run.row_visits == run.n_reads * len(rows)


def test_reads_are_counted_up_to_those_that_evaluate_all_data() -> None:
    reads = [
        ReadDone(1, "pilot", 10, 1.0, log_likelihood=-1.0, part=0.25),
        ReadDone(2, "survey", 100, 1.0),
        ReadDone(3, "iteration", 100, 1.0, log_likelihood=-5.0),
        ReadDone(4, "iteration", 100, 1.0, log_likelihood=-4.0, accepted=False),
        ReadDone(5, "iteration", 100, 1.0, log_likelihood=-4.5),
    ]
    assert evaluations([asdict(read) for read in reads]) == ([2.25, 4.25], [-5.0, -4.5])


def test_a_run_of_ours_counts_the_sample() -> None:
    rows = Planted(1.0, 4, 3).rows(3000)
    with pytest.warns(ConvergenceWarning):
        run = ours(rows, 4, seed=0, threads=1, algorithm="em", max_iter=3, tol=0.0)
    assert list(run.reads) == [2, 3, 4]
    assert (run.n_reads, run.row_visits) == (4, 4 * len(rows))


def _found(log_likelihoods: list[float], limit: float, held_out: float = 0.0) -> Found:
    reads = [float(n) for n in range(2, 2 + len(log_likelihoods))]
    return Found(reads, log_likelihoods, reads[-1], reads[-1], 0, 1, held_out, limit)


def test_reads_are_to_within_a_gap_of_the_best_of_all_ways() -> None:
    slow, quick = _found([-3.0, -2.5, -2.1, -2.01], -2.0), _found([-2.4, -2.3], -2.2)
    record = Record({"plain EM": slow, "auto": quick})
    assert record.best_known == -2.0
    assert record.reads_to("plain EM", 0.15) == 4.0
    assert record.reads_to("plain EM", 1e-3) == math.inf
    assert record.reads_to("auto", 0.45) == 2.0
    assert record.reads_to("auto", 0.15) == math.inf
    highest = highest_after(np.array([1.0, 2.0, 2.5, 5.0, 9.0]), slow)
    np.testing.assert_array_equal(highest, [-math.inf, -3.0, -3.0, -2.01, -2.01])


def test_collapsed_components_are_left_out() -> None:
    narrow = np.array([1.0, REG_COVAR])
    covariances = np.array([np.eye(2), np.diag(narrow), np.eye(2), 2.0 * np.eye(2)])
    weights = [0.5, 0.2, 0.002, 0.298]
    parameters = Parameters.create("full", weights, np.arange(8.0).reshape(4, 2), covariances)
    sound = without_collapsed(parameters, n_rows=1000)
    np.testing.assert_allclose(sound.weights, [0.5 / 0.798, 0.298 / 0.798])
    np.testing.assert_array_equal(sound.means, [[0.0, 1.0], [6.0, 7.0]])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_best_of_restarts_is_continued() -> None:
    rows, held_out = Planted(1.0, 4, 3).rows(4000), Planted(1.0, 4, 3).rows(1000, held_out=True)
    truth = Planted(1.0, 4, 3).mixture
    worse = Parameters.create("full", truth.weights, truth.means + 0.5, truth.covariances)

    def fit(rows: Rows, n_components: int, seed: int, threads: int) -> Run:
        return Run([2], [-9.0 - seed], 2.0, 2 * len(rows), truth if seed == 2 else worse)

    found = find(Way("planted", fit, is_restarted=True), rows, held_out, 4, restarts=3, threads=1)
    assert (found.log_likelihoods, found.n_collapsed) == ([-9.0], 0)
    assert found.n_starts == 3
    assert found.held_out == pytest.approx(score(truth, held_out, threads=1), abs=1e-12)
    once = find(Way("planted", fit), rows, held_out, 4, restarts=3, threads=1)
    assert once.held_out == pytest.approx(score(worse, held_out, threads=1), abs=1e-12)
    # What maximises the likelihood is above what the rows were drawn from.
    assert found.limit > score(truth, rows, threads=1)


def test_records_come_back_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "reads.json"
    assert load(path) == {}
    found = replace(_found([-3.0, -1 / 3], -0.1), n_starts=10)
    records = {"a": Record({"auto": found}, Timing(None, 0.5)), "b": Record()}
    save(records, path)
    assert load(path) == records
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_what_is_known_of_a_cell_is_not_found_again() -> None:
    cell = replace(small_suite()[0], n_rows=2000)
    known = _found([-3.0], -2.0)
    record = Record({way.name: known for way in WAYS}, Timing(2.0, 1.0))
    kept: list[set[str]] = []

    def keep() -> None:
        kept.append(set(record.found))

    measure(cell, record, "", restarts=1, threads=1, keep=keep)
    assert not kept
    forget(record, "^auto$")
    measure(cell, record, "^(plain|timing)", restarts=1, threads=1, keep=keep)
    assert not kept
    measure(cell, record, "", restarts=1, threads=1, keep=keep)
    assert kept == [{way.name for way in WAYS}]
    assert record.found.pop("auto") != known
    assert set(map(id, record.found.values())) == {id(known)}
    assert record.timing == Timing(2.0, 1.0)


def test_fits_that_take_too_long_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Planted(1.0, 4, 3).rows(20_000)
    monkeypatch.setattr("benchmarks.reads.measure.PATIENCE", math.inf)
    timing = time_defaults(rows, 4, threads=1)
    assert timing.scikit_learn is not None
    assert timing.ours > 0.0
    monkeypatch.setattr("benchmarks.reads.measure.PATIENCE", 1e-3)
    assert time_defaults(rows, 4, threads=1).scikit_learn is None


def test_the_report_is_of_what_there_is() -> None:
    cells = [replace(small_suite()[0], name=name) for name in ("a", "b", "c")]
    few_rows: Cell = replace(cells[0], name="d", n_rows=100)
    em, auto = _found([-3.0, -2.5, -2.0005], -2.0, held_out=-2.1), _found([-2.0], -2.0)
    peer = _found([-2.5], -2.4, held_out=0.0005)
    whole = Record({"plain EM": em, "scikit-learn": peer, "auto": auto}, Timing(3.0, 0.5))
    partial = Record({"plain EM": em})
    results = [(cells[0], whole), (cells[1], partial), (cells[2], Record()), (few_rows, whole)]
    ways, targets, details, lacking = tables(results)
    by_way = {row[0]: row for row in ways.rows}
    assert by_way.keys() == {"plain EM", "scikit-learn", "auto"}
    assert by_way["plain EM"][1:7] == ["2", "4", "4", "never", "never", "4"]
    assert by_way["auto"][1:7] == ["1", "2", "2", "2", "2", "2"]
    assert [row[1:] for row in targets.rows] == [
        ["1", "100%"],
        ["1", "0%"],
        ["1", "6.0"],
        ["1", "0"],
    ]
    assert [row[0] for row in details.rows] == ["a", "b", "d"]
    assert details.rows[0][-3:] == ["3", "0.5", "6.0"]
    assert [row[0] for row in lacking.rows] == ["b", "c"]
    assert [row[1] for row in lacking.rows] == ["scikit-learn, auto, timing", "all"]
    complete = Record(dict.fromkeys([way.name for way in WAYS], em), Timing(3.0, 0.5))
    assert missing([(cells[0], complete)]) == []
    (axes,) = plot(results).axes
    assert len(axes.lines) == 2 * 3
